"""The states of a run: rows labelled, ready for a classifier, read only when asked for."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probing import States, hidden_states, site_names
from probing import states as module
from training import Run
from training.base.errors import BadInput


@pytest.fixture
def run(own_run):
    return Run.open(own_run)


@pytest.fixture
def read(monkeypatch):
    """The families that were asked of the store, in order."""
    asked, plain = [], module.states_for

    def noted(*arguments, description, **options):
        asked.append(description["family"])
        return plain(*arguments, description=description, **options)

    monkeypatch.setattr(module, "states_for", noted)
    return asked


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    run = Run.open(tiny_run, out=tmp_path_factory.mktemp("states"))
    return States(run, "generalized").load()


def test_a_phase_names_its_last_checkpoint_and_nothing_the_last_of_all(run):
    phases = {"base": 0, "memorized": 1, "generalized": 2, "": 2}
    for phase, place in phases.items():
        assert States(run, phase).checkpoint.name == run.checkpoints[place].name
    with pytest.raises(BadInput, match="000-base"):
        States(run, "finished")


@pytest.mark.parametrize("family", ["rote", "test", "unrelated"])
def test_only_the_family_asked_for_is_read_and_only_once(run, read, family):
    states = States(run, "base")
    assert read == []
    first = states["mother", family]
    assert states["aunt", family].shape == first.shape
    assert states.sites == first.sites and states.width == first.shape[-1]
    assert read == [family]


def test_loading_reads_every_family_with_one_model(run, read, monkeypatch):
    loaded = []
    plain = type(run.checkpoints[0]).load
    monkeypatch.setattr(
        type(run.checkpoints[0]), "load", lambda self: loaded.append(self.name) or plain(self)
    )
    states = States(run, "memorized").load()
    assert set(read) == {"rote", *states.design.families} and len(read) == len(set(read))
    assert loaded == [states.checkpoint.name]
    States(run, "memorized").load()
    assert len(loaded) == 1, "the second time, the store has them all"


def test_states_are_those_of_the_prompts_in_the_order_of_the_subjects(states):
    x, y = states["mother", "rote"], states["mother", "test"]
    model, tokenizer = states.checkpoint.load()
    for prompt, values in zip(states.design.prompts_of("mother", "test"), y, strict=True):
        texts = [prompt.render(subject) for subject in y.subjects]
        expected = hidden_states(model, tokenizer, texts, progress=False).numpy()
        assert np.allclose(values, expected, atol=1e-4)
    assert x.subjects == y.subjects == states.design.subjects("mother")
    assert x.sites == tuple(site_names(model)) and x.shape == (16, len(x.sites), states.width)
    own = {f.subject: f for f in states.design.run.facts if f.relation == "mother"}
    assert list(x.objects) == [own[s].object for s in x.subjects]
    assert list(x.splits) == [own[s].split for s in x.subjects]


@pytest.mark.parametrize("split", ["seen", "held-out", "all"])
@pytest.mark.parametrize("site", ["embed", "resid_post.1", 2, -1])
def test_xy_are_the_states_of_one_site_and_split(states, site, split):
    x = states["aunt", "rote"]
    values, objects = x.xy(site=site, split=split)
    rows = [i for i, s in enumerate(x.splits) if split in ("all", s)]
    place = site if isinstance(site, int) else x.sites.index(site)
    assert np.array_equal(values, np.asarray(x)[rows, place])
    assert list(objects) == [x.objects[i] for i in rows]
    assert type(values) is np.ndarray and type(x[0]) is np.ndarray


def test_xy_of_several_prompts_goes_prompt_by_prompt(states):
    y = states["mother", "test"]
    values, objects = y.xy(site="resid_post.0", split="held-out")
    rows = y.rows("held-out")
    assert len(y) > 1 and values.shape == (len(y) * len(rows), states.width)
    for i, part in enumerate(values.reshape(len(y), len(rows), -1)):
        assert np.array_equal(part, np.asarray(y)[i, rows, 1])
    assert list(objects) == list(y.objects[rows]) * len(y)


def test_xy_fits_a_classifier(states):
    values, objects = states["mother", "rote"].xy(site=-1)
    probe = LogisticRegression(C=1e4, max_iter=2000).fit(values, objects)
    assert probe.score(values, objects) == 1


@pytest.mark.parametrize("site", ["resid_post.9", 5, -6])
def test_a_site_that_is_not_there_is_refused(states, site):
    with pytest.raises(BadInput, match=r"resid_post\.9|give -5 to 4"):
        states["mother", "rote"].xy(site=site)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(states):
    with pytest.raises(BadInput, match="'dev' has no rows of mother; there are held-out, seen"):
        states["mother", "rote"].xy(split="dev")


@pytest.mark.parametrize("key", [("uncle", "rote"), ("mother", "riddle")])
def test_an_unknown_relation_or_family_is_named_with_those_there_are(states, key):
    with pytest.raises(BadInput) as refused:
        states[key]
    assert all(repr(name) in str(refused.value) for name in key)
    assert "mother, aunt" in str(refused.value) and "rote, " in str(refused.value)


def test_patching_the_last_state_gives_the_answer_of_the_source(states):
    source, target = "Gene Finley [X_mother]", "Who is the aunt of Ines Caldwell?"
    model, tokenizer = states.checkpoint.load()
    likely = states.patch(source, target, site="final_norm", k=3)
    with torch.inference_mode():
        expected, plain = (
            model(**tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)
            for text in (source, target)
        )
    top = expected.topk(3)
    assert list(likely.token) == [tokenizer.decode([i]) for i in top.indices]
    assert np.allclose(likely.probability, top.values, atol=1e-5)
    assert np.allclose(likely.unpatched, plain[top.indices], atol=1e-5)
    assert likely.probability.is_monotonic_decreasing
    same = states.patch(target, target, site=1)
    assert len(same) == 5 and np.allclose(same.probability, same.unpatched, atol=1e-5)


def test_one_file_holds_all_states_with_their_labels(states, tmp_path):
    path = states.to_npz(tmp_path / "demo")
    assert path == tmp_path / "demo.npz"
    with np.load(path) as file:
        labels = json.loads(str(file["labels"]))
        arrays = {name: file[name] for name in file.files if name != "labels"}
    pairs = {(p.relation, p.family) for p in states.design.prompts}
    assert set(arrays) == {f"{relation}/{family}" for relation, family in pairs}
    for relation, family in pairs:
        assert np.array_equal(arrays[f"{relation}/{family}"], states[relation, family])
    assert labels["checkpoint"] == states.checkpoint.name
    assert labels["sites"] == list(states.sites)
    rote = states["aunt", "rote"]
    about = {name: list(getattr(rote, name)) for name in ("subjects", "objects", "splits")}
    assert labels["rows"]["aunt"] == about


def test_an_untrained_control_has_other_states_and_the_same_rows(states):
    control = States(states.design, states.checkpoint, seed=0)
    ours, theirs = states["mother", "rote"], control["mother", "rote"]
    assert ours.subjects == theirs.subjects and ours.shape == theirs.shape
    assert not np.allclose(ours, theirs)
    again = States(states.design, states.checkpoint, seed=0)["mother", "rote"]
    assert np.array_equal(theirs, again)


def test_weights_that_change_while_a_run_is_open_are_not_filed_under_the_old_ones(
    own_run, tmp_path
):
    folder = own_run / "checkpoints" / "200-generalize-epoch-08"
    elsewhere = Path(shutil.copytree(folder, tmp_path / "theirs" / "model"))
    for name in ("stage.json", "manifest.json"):
        (elsewhere / name).unlink()
    given = {"facts": str(own_run / "facts.csv"), "out": str(tmp_path / "out")}
    run = Run.open(elsewhere, **given)
    before = States(run)["mother", "test"]
    changed = run.checkpoints[0].load()[0]
    with torch.no_grad():
        changed.get_input_embeddings().weight.mul_(1.5)
    changed.save_pretrained(elsewhere)
    after = States(run)["mother", "test"]
    assert np.abs(after - before).max() > 1e-3
    assert np.array_equal(after, States(Run.open(elsewhere, **given))["mother", "test"])


def test_a_patch_of_an_untrained_control_is_of_the_control(states):
    texts = ("Gene Finley [X_mother]", "Who is the aunt of Ines Caldwell?")
    real = states.patch(*texts, site=2, k=3)
    control = States(states.design, states.checkpoint, seed=0).patch(*texts, site=2, k=10**6)
    assert not np.allclose(real.probability, control.probability[:3], atol=1e-3)


@pytest.mark.parametrize("copied", [np.copy, copy.copy, copy.deepcopy, np.ndarray.copy])
def test_copies_keep_their_labels(states, copied):
    x = states["mother", "rote"]
    same = copied(x) if copied is not np.copy else np.copy(x, subok=True)
    assert same.subjects == x.subjects and np.array_equal(same.rows("seen"), x.rows("seen"))
    again = pickle.loads(pickle.dumps(x))
    assert again.subjects == x.subjects and np.array_equal(np.asarray(again), np.asarray(x))


def test_what_has_other_rows_has_no_labels(states):
    x = states["mother", "rote"]
    assert type(x[1:]) is np.ndarray and type(x - x.mean(axis=0)) is np.ndarray
    assert np.isscalar(x.mean()) or type(x.mean()) is np.float32
    with pytest.raises(BadInput, match="lost their labels"):
        x.reshape(-1, x.shape[-1]).rows()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s["mother"], "a relation and a family"),
        (lambda s: s["mother", "rote"].xy(site=None), "site=None"),
        (lambda s: States(s.design.run, preset="most"), "preset is 'most'"),
    ],
)
def test_bad_arguments_are_value_errors_with_a_remedy(states, call, says):
    with pytest.raises(ValueError, match=says):
        call(states)
