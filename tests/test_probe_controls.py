"""Controls of probes find nothing where there is nothing; what a wrong split would pretend."""

import numpy as np
import pytest

from analysis.measures.checks import DegenerateStates, NotIdentifiable, TooFewRows
from analysis.measures.controls import (
    control_labels,
    linear_probe,
    online_code,
    probe,
    relation_probe,
    ridge_map,
    selectivity,
)
from analysis.measures.mass_mean import MassMean
from analysis.measures.transfer import subject_folds
from analysis.probes import Options, main
from analysis.tables.probe_controls import CONTROLS, MEASURES, control_table, spread
from figures import probes as pictures
from probing.states import Design
from training.base.errors import BadInput
from training.runs.directory import Run
from training.runs.table_files import pick

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")


def paraphrased(
    seed: int, *, people: int = 40, prompts: int = 8, width: int = 200, code: float = 0.0
):
    """States of named people in paraphrases, a random label each: (states, label, person, prompt).

    code: how far the states of the two labels lie apart.
    """
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(people) % 2)
    person, prompt = np.repeat(np.arange(people), prompts), np.tile(np.arange(prompts), people)
    names = rng.normal(size=(people, width)) + code * np.outer(
        2 * label - 1, rng.normal(size=width)
    )
    states = (
        names[person]
        + rng.normal(size=(prompts, width))[prompt]
        + 0.8 * rng.normal(size=(len(person), width))
    )
    return states, label[person], person, prompt


def test_labels_random_per_person_are_read_under_a_row_split_and_not_under_an_entity_split():
    rows, entities = [], []
    for seed in range(2):
        states, label, person, prompt = paraphrased(seed)
        rows.append(probe(states, label, person, split="row").value)
        entities.append(probe(states, label, person).value)
        assert probe(states, label, person, split="row", templates=prompt).value > 0.75
    assert np.mean(rows) > 0.95
    assert abs(np.mean(entities) - 0.5) < 0.1


def test_the_logistic_probe_is_scikit_learns_plain_estimator_fold_by_fold():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    label = rng.permutation(np.arange(60) % 3)
    states = 5 + 3 * rng.normal(size=(60, 90)) + rng.normal(size=(3, 90))[label]
    fold, expected = subject_folds(label), np.zeros(60)
    for k in range(5):
        mean, spread = states[fold != k].mean(axis=0), states[fold != k].std(axis=0)
        plain = LogisticRegression(C=0.01).fit(
            (states[fold != k] - mean) / spread, label[fold != k]
        )
        expected[fold == k] = plain.predict((states[fold == k] - mean) / spread) == label[fold == k]
    found = probe(states, label, kind="logistic", penalties=[0.01])
    assert np.array_equal(found.correct, expected)
    assert 0.4 < found.value < 1


def test_the_penalty_is_chosen_where_the_scored_rows_cannot_be_seen():
    """Of a penalty that shrinks all away and one that fits, inner folds choose the latter."""
    states, label, person, _ = paraphrased(0, code=0.5)
    inner = subject_folds(label, person, folds=3)
    search = linear_probe("logistic", inner, [1e-9, 1e-2]).fit(states, label)
    assert search.best_params_ == {"logisticregression__C": 1e-2}
    assert [len(set(person[inner == k]) & set(person[inner != k])) for k in range(3)] == [0, 0, 0]


def test_fewer_rows_than_features_fit_random_labels_perfectly_and_mean_nothing():
    """Cover 1965: beyond 2 (d + 1) rows random labels are not separable any more."""
    rng = np.random.default_rng(0)
    few, many = (
        probe(rng.normal(size=(n, 30)), np.arange(n) % 2, penalties=[1e-3]) for n in (30, 300)
    )
    assert few.fitted == 1
    assert few.n <= few.d
    assert many.fitted < 0.8
    assert abs(few.value - 0.5) < 0.25 and abs(many.value - 0.5) < 0.1


def test_mass_mean_needs_the_midpoint_where_states_are_shifted():
    rng = np.random.default_rng(0)
    direction = np.eye(20)[0]
    x, y = (
        rng.normal(size=(2, 2000, 20)) + 1.555 * (2 * np.arange(2)[:, None, None] - 1) * direction,
        np.arange(2),
    )
    x, y = np.concatenate(x) + 3 * direction, np.repeat(y, 2000)
    read = MassMean().fit(x[::2], y[::2])
    assert read.score(x[1::2], y[1::2]) == pytest.approx(0.94, abs=0.015)
    read.intercept_ = np.zeros(1)
    assert read.score(x[1::2], y[1::2]) == pytest.approx(0.53, abs=0.03)


def test_mass_mean_of_two_classes_is_their_difference_of_means_and_of_more_the_nearest_side():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 12)), np.array(list("abc"))[np.arange(90) % 3]
    two = MassMean().fit(x[y != "c"], y[y != "c"])
    difference = x[y == "b"].mean(axis=0) - x[y == "a"].mean(axis=0)
    assert np.allclose(
        two.coef_[0] / np.linalg.norm(two.coef_), difference / np.linalg.norm(difference)
    )
    middle = (x[y == "b"].mean(axis=0) + x[y == "a"].mean(axis=0)) / 2
    assert two.decision_function(middle[None]) == pytest.approx([0])
    three = MassMean().fit(x, y)
    scores = three.decision_function(np.array([x[y == c].mean(axis=0) for c in "abc"]))
    assert np.allclose(np.diagonal(scores), 0.5)
    with pytest.raises(DegenerateStates):
        MassMean().fit(np.ones((6, 3)), [0, 1] * 3)


def test_random_labels_do_not_compress_and_labels_in_the_states_do():
    found = []
    for seed in range(4):
        states, label, person, _ = paraphrased(seed, prompts=1)
        found.append(online_code(states, label, person).value)
    assert max(found) < 1.05
    assert online_code(*paraphrased(0, prompts=1, code=0.5)[:2]).value > 2


def test_sending_rows_in_place_of_entities_would_compress_random_labels():
    states, label, person, _ = paraphrased(0, prompts=4)
    assert online_code(states, label, person).value < 1.05
    assert online_code(states, label).value > 1.2


def test_a_code_of_one_block_costs_its_uniform_bits_and_each_label_its_own():
    """Unreadable labels: the first block costs log2 K per row, the rest about their entropy."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(8), 25)
    code = online_code(rng.normal(size=(200, 3)), label, penalties=[1e-9])
    assert code.uniform_bits == pytest.approx(600)
    assert 600 < code.bits < 630
    with pytest.raises(TooFewRows, match="blocks"):
        online_code(rng.normal(size=(4, 3)), label[::50])


def test_selectivity_is_nothing_for_labels_random_per_entity_and_much_for_those_in_the_states():
    found = []
    for seed in range(6):
        states, label, person, prompt = paraphrased(seed, prompts=4, width=60)
        found.append(selectivity(states, label, person, templates=prompt, penalties=[100.0]))
    assert abs(np.mean([nothing.value for nothing in found])) < 0.06
    assert np.mean([nothing.control.mean() for nothing in found]) > 0.7
    # Few features hold no 40 names, but one of them may hold the label.
    rng = np.random.default_rng(0)
    few = (
        3 * np.outer(2 * label - 1, np.eye(6)[0])
        + rng.normal(size=(40, 6))[person]
        + rng.normal(size=(160, 6))
    )
    known = selectivity(few, label, person, templates=prompt)
    assert known.value > 0.3
    assert known.value == pytest.approx(known.task.mean() - known.control.mean())


def test_the_control_task_gives_every_entity_one_label_and_keeps_how_common_they_are():
    person = np.repeat(np.arange(30), 4)
    label = np.repeat(np.arange(30) % 3, 4)
    control = control_labels(label, person)
    assert all(len(set(control[person == p])) == 1 for p in range(30))
    assert np.array_equal(np.bincount(control), np.bincount(label))
    assert not np.array_equal(control, label)
    with pytest.raises(TooFewRows, match="row split"):
        selectivity(np.random.default_rng(0).normal(size=(30, 4)), label[::4], person[::4])


def test_a_ridge_map_finds_what_a_rotation_hid_and_nothing_in_independent_states():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 12))
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    rotated = ridge_map(x, x @ rotation + 0.1 * rng.normal(size=x.shape) + 7)
    own, unmapped, chance = (part.mean() for part in rotated)
    assert own > 0.9 and unmapped < 0.3
    independent = np.mean([ridge_map(x, rng.normal(size=(80, 12)))[0] for _ in range(6)])
    assert independent == pytest.approx(1 / 16, abs=0.04)
    assert chance == pytest.approx(1 / 16)
    assert ridge_map(x, x + 7)[1].mean() == 1
    with pytest.raises(BadInput, match="40 entities in 80 rows"):
        ridge_map(x, x, np.arange(80) // 2)


def test_a_relation_named_alike_in_both_kinds_of_prompt_transfers_and_in_two_codes_does_not():
    rng = np.random.default_rng(0)
    people, relations, width = 30, ("mother", "aunt", "city"), 40
    names = rng.normal(size=(people, width))
    who = dict.fromkeys(relations, range(people))

    def code():
        return dict(zip(relations, 2 * rng.normal(size=(3, width)), strict=True))

    def states(code):
        return {r: (names + code[r] + rng.normal(size=(people, width)))[:, None] for r in relations}

    rote = code()
    assert relation_probe(states(rote), states(rote), who).accuracy[0] > 0.9
    apart = [relation_probe(states(rote), states(code()), who).accuracy[0] for _ in range(40)]
    assert np.mean(apart) == pytest.approx(1 / 3, abs=0.15)


def test_a_fold_left_with_one_class_is_said_to_be_so():
    with pytest.raises(NotIdentifiable, match="one class"):
        probe(np.random.default_rng(0).normal(size=(10, 3)), np.zeros(10))


# --- on a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    """States of the tiny run's rote and test prompts; results go elsewhere."""
    run = Run.open(tiny_run, out=tmp_path_factory.mktemp("controls"))
    return Design.of(run, families=("test",))


@pytest.fixture(scope="module")
def table(states):
    return control_table(states, folds=4, sites=3)


def test_every_control_of_a_run_is_in_the_table_once_with_its_n_d_and_chance(states, table):
    assert set(MEASURES) == set(table.measure)
    assert {name for control in CONTROLS for name in control.measures} == set(MEASURES)
    keys = ["checkpoint", "relation", "family", "split", "site", "measure", "direction"]
    assert not table.duplicated(keys).any()
    scored = table[table.value.notna()]
    assert (scored.n > 0).all() and (scored.d == 32).all() and scored.chance.notna().all()
    assert table[table.value.isna()].reason.str.len().gt(0).all()
    assert set(table[table.measure.str.endswith("_untrained")].checkpoint) == {"000-base"}
    difference = pick(table, measure="row_split_accuracy").value.to_numpy()
    difference = difference - pick(table, measure="control_accuracy").value.to_numpy()
    assert np.allclose(difference, pick(table, measure="selectivity").value, equal_nan=True)


def test_the_ridge_map_of_a_relation_is_the_functions_of_its_held_out_subjects(states, table):
    relation, checkpoint = states.bound[0], states.checkpoints[-1]
    there = states.load(checkpoint)
    rows = states.rows(relation, "held-out")
    prompts = there[relation, "test"][:, :, -1]
    own = np.mean(
        [
            ridge_map(there[relation, "rote"][:, -1], y, folds=4, seed=states.run.seed)[0]
            for y in prompts
        ],
        axis=0,
    )
    row = pick(
        table, checkpoint=checkpoint.name, relation=relation, split="held-out", site=there.sites[-1]
    )
    assert pick(row, measure="ridge_map_top1").value.item() == pytest.approx(own[rows].mean())


def test_untrained_weights_are_of_the_same_shape_and_know_none_of_the_trained_ones(tiny_run):
    import torch

    from probing.baselines import untrained

    model, _ = Run.open(tiny_run).checkpoints[-1].load()
    before = torch.get_rng_state()
    fresh, again, other = untrained(model), untrained(model), untrained(model, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for (name, a), (_, b) in zip(model.named_parameters(), fresh.named_parameters(), strict=True):
        assert a.shape == b.shape
        if a.ndim == 2:
            assert (
                abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.1
            ), name
    weights = [m.get_input_embeddings().weight for m in (fresh, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_embedding_of_a_subject_is_the_mean_over_its_own_tokens(tiny_run):
    import torch

    from probing.baselines import subject_embeddings

    model, tokenizer = Run.open(tiny_run).checkpoints[-1].load()
    ids = tokenizer("Gene Finley", add_special_tokens=False).input_ids
    expected = model.get_input_embeddings()(torch.tensor(ids)).mean(dim=0)
    found = subject_embeddings(model, tokenizer, ["Orin Vale", "Gene Finley"])
    assert np.allclose(found[1], expected.detach(), atol=1e-6)


def test_the_command_says_draws_and_writes_transfer_and_controls(states, table, tiny_run, capsys):
    out = states.run.path
    main(
        Options(
            tiny_run, families=("test",), permutations=19, folds=4, control_sites=3, out=str(out)
        )
    )
    said = capsys.readouterr().out
    assert "OTHER subjects (held-out)" in said and "selectivity" in said
    assert "object from the subject's input embedding" in said
    assert f"probe_controls.csv ({len(table):,} rows)" in said and "probe_controls.png" in said
    assert set(pictures.controls_data(table).panel) == set(pictures.CONTROLS.panels)
    assert all(
        (out / "figures" / f"{name}.png").stat().st_size > 10_000
        for name in ("probes", "probe_controls")
    )


@pytest.mark.parametrize(
    ("wanted", "indices"), [(0, list(range(7))), (3, [0, 3, 6]), (1, [0, 6]), (20, list(range(7)))]
)
def test_sites_of_the_controls_are_spread_from_end_to_end(wanted, indices):
    assert spread(7, wanted) == indices
