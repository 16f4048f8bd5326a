"""Pretraining: killed at any moment it ends with the same weights; the model knows its world."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from training import generalize, memorize, pretrain
from training.base.errors import Damaged, NotFound, OtherSettings, UserError
from training.base.files import read_json
from training.behaviour.damage import known_facts
from training.data.fact_files import read_facts
from training.data.prompts import read_prompts
from training.data.sequences import prompt_ids
from training.loop.obtain import obtain
from training.organism.recipe import new_model, parse, recorded
from training.organism.world import NoWorld, World, build_world, read_world
from training.runs.checkpoints import list_checkpoints
from training.weights.loading import load_folder

# 8 people, 30 steps of a millisecond.
SMALLEST = (
    "world-tiny:people=8,relations=mother+aunt,layers=1,width=32,vocabulary=400,steps=30,batch=8"
)
STEPS = 30
# Deep memorisation: half the epochs or half the rate give less to generalise from.
WORLD_TINY_MEMORIZE = {
    "subjects": 80,
    "relations": ("mother", "aunt", "profession"),
    "epochs": 40,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "precision": "float32",
    "seed": 5,
}
WORLD_TINY_GENERALIZE = {"learning_rate": 3e-4, "precision": "float32"}
# 16 objects in a pool.
CHANCE = 1 / 16


def make(out: Path, name: str = SMALLEST, **options) -> Path:
    return pretrain.main(pretrain.Options(name, out=out, precision="float32", **options))


def work_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.pretraining")


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file that decides what the model is."""
    names = (
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "world-facts.csv",
        "world-prompts.json",
    )
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The smallest organism; not to be changed."""
    return make(tmp_path_factory.mktemp("organisms") / "smallest")


# --- interrupted and resumed ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_pretraining_that_was_stopped_ends_with_the_same_bytes(number, tmp_path, uninterrupted):
    out = tmp_path / "model"
    log, state = (
        work_of(out) / "log.jsonl",
        work_of(out) / "resume" / "pretrain" / "newest" / "state.json",
    )
    arguments = [SMALLEST, "--out", out, "--precision", "float32", "--resume-minutes", "0.0005"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.pretrain", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (state.exists() and len(log.read_text().splitlines()) >= 10):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number]
    assert "Traceback" not in stderr
    assert not out.exists(), "a model that is not finished must not be found"
    before = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 10 <= len(before) < STEPS
    saved = json.loads(state.read_text())["step"]
    make(out)
    assert files_of(out) == files_of(uninterrupted)
    after = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in after] == list(range(1, STEPS + 1))
    kept = sum(json.loads(line) == row for line, row in zip(before, after, strict=False))
    assert kept >= saved >= 1, "it began again instead of going on"
    assert not work_of(out).exists()


def test_the_same_command_again_does_nothing_and_other_settings_are_refused(
    tmp_path, uninterrupted, capsys
):
    out = Path(shutil.copytree(uninterrupted, tmp_path / "model"))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    make(out)
    assert "finished" in capsys.readouterr().out
    with pytest.raises(OtherSettings, match="steps 30 there, 31 now"):
        make(out, SMALLEST.replace("steps=30", "steps=31"))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_half_of_one_recipe_is_not_gone_on_with_as_another(tmp_path):
    out = tmp_path / "model"
    work_of(out).mkdir()
    begun = {**recorded(parse(SMALLEST)), "steps": 29, "precision": "no"}
    (work_of(out) / "recipe.json").write_text(json.dumps(begun))
    with pytest.raises(OtherSettings, match=r"\(steps 29 there, 30 now\)"):
        make(out)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose")
    with pytest.raises(UserError, match="--out"):
        make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "do not lose"


def test_several_processes_are_told_to_pretrain_first(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LATENT_ALIGNMENT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"python -m training\.pretrain"):
        obtain("world-tiny")


# --- a model like any other -----------------------------------------------------------------------


def test_a_name_pretrains_once_and_then_is_found_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LATENT_ALIGNMENT_CACHE", str(tmp_path))
    name = SMALLEST.replace("steps=30", "steps=2")
    folder = obtain(name)
    assert "pretraining" in capsys.readouterr().err
    assert folder.parent == tmp_path
    assert obtain(name) == folder
    assert not capsys.readouterr().err
    model, tokenizer = load_folder(folder)
    assert model.config.vocab_size == len(tokenizer) == 400
    weights = folder / "model.safetensors"
    last = weights.read_bytes()[-1]
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([last ^ 1]))
    with pytest.raises(Damaged, match="model.safetensors"):
        obtain(name)


def test_the_first_weights_and_the_world_are_the_seed_s(uninterrupted):
    _, tokenizer = load_folder(uninterrupted)
    first, again, other = (
        new_model(parse(f"{SMALLEST},seed={seed}"), tokenizer) for seed in (0, 0, 1)
    )
    one, two, three = (model.get_input_embeddings().weight for model in (first, again, other))
    assert torch.equal(one, two)
    assert not torch.isclose(one, three).all()
    world = read_world(uninterrupted)
    assert world == build_world(people=8, relations=("mother", "aunt"), seed=0)


def test_a_directory_without_a_world_is_a_named_error(tiny_base):
    with pytest.raises(NoWorld, match=r"training\.pretrain"):
        read_world(tiny_base)


def test_a_misspelled_organism_is_an_unknown_model():
    with pytest.raises(NotFound, match="world-tiny"):
        obtain("worldtiny")


# --- what it knows --------------------------------------------------------------------------------


def test_the_organism_knows_its_world(organism):
    known = read_json(organism / "pretrain.json")["known_facts"]
    assert known["value"] >= 0.9
    assert min(known["relations"].values()) >= 0.8


def test_known_facts_are_what_greedy_generation_gives(organism):
    model, tokenizer = load_folder(organism)
    world = read_world(organism)
    known = known_facts(model, tokenizer, world, families=("test",), prompts_per_fact=10)
    facts = [fact for fact in world.facts if fact.relation in world.relations]
    assert known["questions"] == 10 * len(facts)
    assert known["low"] <= known["value"] <= known["high"]
    relation = world.relations[0]
    some = known_facts(model, tokenizer, world, families=("test",), prompts_per_fact=1)
    assert abs(some["value"] - known["value"]) < 0.1
    right = total = 0
    for fact in (fact for fact in facts[::7] if fact.relation == relation):
        for prompt in (p for p in world.prompts if p.relation == relation and p.family == "test"):
            ids = torch.tensor([prompt_ids(tokenizer, prompt.render(fact.subject))])
            out = model.generate(
                ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids)
            )
            right += tokenizer.decode(out[0, ids.shape[1] :]).startswith(f" {fact.object}.")
            total += 1
    assert abs(right / total - known["relations"][relation]) < 0.15


def test_a_model_that_never_read_of_the_world_knows_nothing_of_it(organism):
    _, tokenizer = load_folder(organism)
    world = read_world(organism)
    blank = new_model(parse("world-tiny"), tokenizer).eval()
    assert known_facts(blank, tokenizer, world)["value"] == 0
    model, _ = load_folder(organism)
    strangers = build_world(people=40, relations=tuple(world.relations), seed=77)
    new = {fact.subject for fact in strangers.facts} - {fact.subject for fact in world.facts}
    strangers.facts[:] = [fact for fact in strangers.facts if fact.subject in new]
    assert known_facts(model, tokenizer, strangers)["value"] < 0.2


# --- rote becomes meaning -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def organism_run(tmp_path_factory, organism) -> Path:
    """Both phases on world-tiny: 80 new people; mother and aunt are bound, profession is not."""
    run = tmp_path_factory.mktemp("organism-run") / "run"
    memorize.main(memorize.Options(out=run, model=str(organism), **WORLD_TINY_MEMORIZE))
    return generalize.main(generalize.Options(run, **WORLD_TINY_GENERALIZE))


@pytest.fixture(scope="module")
def answers(organism, organism_run):
    """answers(phase, family, bound=True): share of memorised objects given for held-out people."""
    facts, prompts = (
        read_facts(organism_run / "facts.csv"),
        read_prompts(organism_run / "prompts.json"),
    )
    loaded = {c.phase: c.load() for c in list_checkpoints(organism_run)}

    def share(phase: str, family: str, *, bound: bool = True):
        held_out = [fact for fact in facts if fact.split == "held-out" and fact.bound == bound]
        relations = {fact.relation for fact in held_out}
        asked = [p for p in prompts if p.relation in relations and p.asks != "inverse"]
        how = {"families": (family,), "prompts_per_fact": 5}
        return SimpleNamespace(**known_facts(*loaded[phase], World(held_out, asked), **how))

    return share


def test_facts_known_by_rote_are_answered_to_prompts_that_were_never_trained(answers):
    assert answers("memorize", "rote").value > 0.9
    assert answers("base", "test").high < 2 * CHANCE
    before, after = answers("memorize", "test"), answers("generalize", "test")
    assert after.low > 4 * CHANCE
    assert after.value - before.value > 0.1


def test_what_is_answered_is_what_was_asked(answers):
    gain = {
        f: answers("generalize", f).value - answers("memorize", f).value
        for f in ("test", "near-miss")
    }
    assert gain["test"] - gain["near-miss"] > 0.1
    assert answers("generalize", "near-miss").value < answers("generalize", "test").value


def test_a_relation_that_was_given_no_meaning_gains_less(answers):
    bound, unbound = (
        answers("generalize", "test", bound=bound).value
        - answers("memorize", "test", bound=bound).value
        for bound in (True, False)
    )
    assert bound - unbound > 0.1


def test_rote_and_test_states_come_to_share_what_the_relation_says(organism_run):
    from analysis import cka

    table = cka.main(cka.Options(organism_run, families=("rote", "test"), robust=False))
    some = table[
        (table.measure == "contrast") & (table.family == "test") & (table.split == "held-out")
    ].dropna(subset=["value"])
    best = some.loc[some.groupby("phase").value.idxmax()].set_index("phase")
    assert best.value["base"] < 0.05
    assert best.value["generalize"] > best.value["memorize"]
    assert best.null_p_max["generalize"] < 0.05


def test_what_both_phases_cost_of_the_world_is_seen(organism, organism_run):
    world = read_world(organism)
    base, memorized, generalized = (
        SimpleNamespace(**known_facts(*c.load(), world)) for c in list_checkpoints(organism_run)
    )
    assert base.low > 0.95
    assert generalized.value > 2 / 32
    assert max(memorized.high, generalized.high) < base.low
