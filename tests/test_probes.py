"""Object probes across subjects: what a shared code gives, and what two separate ones do not."""

import numpy as np
import pytest

from analysis.measures.checks import DegenerateStates, NotIdentifiable, TooFewRows
from analysis.measures.scores import Scores, paired_scores, pooled, relation_rows, summaries
from analysis.measures.statistics import mean_interval, permutation_p
from analysis.measures.transfer import Transfer, fit_probes, subject_folds, transfer
from analysis.tables import probes
from probing.extraction import hidden_states
from probing.states import Design
from training.runs.directory import Run

SUBJECTS, OBJECTS, WIDTH = 64, 8, 24
CHANCE = 1 / OBJECTS


def two_sides(seed: int, *, shared: bool, identity: float = 1.0):
    """Rote and semantic states (64, 24) of people, with names and objects in one or two codes."""
    rng = np.random.default_rng(seed)
    objects = rng.permutation(np.arange(SUBJECTS) % OBJECTS)
    names = identity * rng.normal(size=(SUBJECTS, WIDTH))
    code = 2 * rng.normal(size=(OBJECTS, WIDTH))
    other_code = code if shared else 2 * rng.normal(size=(OBJECTS, WIDTH))
    noise = 0.3 * rng.normal(size=(2, SUBJECTS, WIDTH))
    return names + code[objects] + noise[0], names + other_code[objects] + noise[1], objects


def test_a_code_shared_by_both_prompts_transfers_to_other_subjects():
    assert transfer(*two_sides(0, shared=True)).accuracy[0] > 0.8


def test_two_separate_codes_of_the_same_answer_do_not_transfer():
    accuracy = [transfer(*two_sides(seed, shared=False)).accuracy[0] for seed in range(8)]
    assert abs(np.mean(accuracy) - CHANCE) < 0.08


def test_a_shared_name_without_a_shared_object_gives_chance():
    accuracy = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        names = 3 * rng.normal(size=(SUBJECTS, WIDTH))
        accuracy.append(
            transfer(names, names, rng.permutation(np.arange(SUBJECTS) % OBJECTS)).accuracy[0]
        )
    assert abs(np.mean(accuracy) - CHANCE) < 0.08


def test_chance_is_not_below_what_guessing_scores_where_classes_are_balanced():
    """A fold's held-out rows are of classes rarer among the others: the commonest scores near 0."""
    rng = np.random.default_rng(1)
    states, objects = rng.normal(size=(40, WIDTH)), rng.permutation(np.arange(40) % 16)
    found = transfer(states, states, objects)
    assert np.mean(found.majority == found.labels) < 0.03
    assert found.chance == pytest.approx(np.sum((np.bincount(objects) / 40) ** 2))
    assert found.chance > 1 / 16
    lopsided = np.r_[np.zeros(30, int), np.arange(10) % 2 + 1]
    assert transfer(states, states, lopsided).chance == pytest.approx(0.75)


def test_splitting_rows_in_place_of_subjects_would_read_the_name():
    """What the entity split prevents: labels random per person, four paraphrases of each."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 4)
    states = 2 * rng.normal(size=(40, 80))[people] + 0.3 * rng.normal(size=(160, 80))
    objects = rng.permutation(np.arange(40) % 2)[people]
    assert transfer(states, states, objects, people).accuracy[0] < 0.7
    assert transfer(states, states, objects).accuracy[0] > 0.9


def test_an_answer_about_a_subject_does_not_depend_on_its_own_rote_state_or_object():
    x, y, objects = two_sides(1, shared=True)
    fold = subject_folds(objects)
    test = fold == 2
    before = fit_probes(x[:, None], objects).score(y[:, None]).predictions[0, test, 0]
    changed = x.copy()
    changed[test] = 50 * np.random.default_rng(0).normal(size=(test.sum(), WIDTH))
    after = fit_probes(changed[:, None], objects).score(y[:, None]).predictions[0, test, 0]
    assert np.array_equal(before, after)


def test_a_constant_offset_or_scale_between_the_prompts_changes_nothing():
    x, y, objects = two_sides(2, shared=True)
    offset = 100 * np.random.default_rng(0).normal(size=WIDTH)
    moved = transfer(x, 7 * y + offset, objects)
    assert np.array_equal(transfer(x, y, objects).predictions, moved.predictions)


def test_prompts_and_sites_scored_together_are_scored_as_one_by_one():
    x, y, objects = two_sides(3, shared=True)
    _, z, _ = two_sides(4, shared=True)
    xs, ys = np.stack([x, z], axis=1), np.stack([np.stack([y, x], 1), np.stack([z, y], 1)])
    together = transfer(xs, ys, objects).predictions
    for p in range(2):
        for s in range(2):
            alone = transfer(xs[:, s], ys[p, :, s], objects).predictions[0, :, 0]
            assert np.array_equal(together[p, :, s], alone)


def test_folds_keep_subjects_whole_and_spread_every_object():
    people = np.repeat(np.arange(40), 2)
    objects = np.repeat(np.random.default_rng(0).permutation(np.arange(40) % 8), 2)
    fold = subject_folds(objects, people)
    assert all(len(set(fold[people == person])) == 1 for person in range(40))
    assert all(np.bincount(fold[objects == o], minlength=5).tolist() == [2] * 5 for o in range(8))
    assert np.array_equal(fold, subject_folds(objects, people))
    assert not np.array_equal(fold, subject_folds(objects, people, seed=1))


def test_the_permutation_p_keeps_its_level_and_so_does_its_correction_for_the_best_site():
    rejected = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(40) % 8)
        answers = rng.integers(0, 8, size=(3, 40, 6))
        pairs = np.mean([a.T[:, :, None] == labels for a in answers], axis=0)
        rows = summaries(paired_scores(pairs, range(40), [None] * 6, 99, seed))
        rejected.append([rows[0]["null_p"] <= 0.05, min(row["null_p_max"] for row in rows) <= 0.05])
    assert np.all(np.abs(np.mean(rejected, axis=0) - 0.05) < 0.035)


def test_a_shared_code_is_significant_at_the_site_that_has_it_and_not_at_the_other():
    x, y, objects = two_sides(5, shared=True)
    nothing = np.random.default_rng(0).normal(size=(2, SUBJECTS, WIDTH))
    found = transfer(np.stack([x, nothing[0]], 1), np.stack([y, nothing[1]], 1), objects)
    with_code, without = summaries(
        paired_scores(found.pair_scores(), range(SUBJECTS), found.reasons, 199)
    )
    assert with_code["null_p_max"] == pytest.approx(1 / 200)
    assert without["null_p_max"] > 0.05


def answers_of(labels, answers):
    """A Transfer of one prompt and one site."""
    labels = np.asarray(labels)
    return Transfer(np.asarray(answers)[None, :, None], labels, np.zeros_like(labels), (None,))


def test_two_codes_that_agree_on_an_object_by_luck_are_no_surprise_to_the_null_over_objects():
    labels = np.repeat(np.arange(4), 20)
    # All subjects of an object get one answer; one of four is right, as by random relabelling.
    answers = np.array([0, 2, 3, 1])[labels]
    found = answers_of(labels, answers)
    pairs = paired_scores(found.pair_scores(), range(80), (None,), 199)
    null = found.object_null(199)
    assert null.mean() == pytest.approx(0.25, abs=0.05)
    assert permutation_p(found.accuracy, null)[0] > 0.3
    assert set(np.round(null[:, 0], 6)) <= {0, 0.25, 0.5, 1}
    assert pairs.null.std() < null.std() / 3


def test_one_code_is_a_surprise_to_the_null_over_objects():
    labels = np.repeat(np.arange(16), 5)
    found = answers_of(labels, labels)
    assert permutation_p(found.accuracy, found.object_null(199))[0] == 1 / 200


def test_always_the_commonest_object_is_no_surprise_to_the_null_over_subjects():
    labels = np.r_[np.zeros(40, int), np.repeat(np.arange(1, 5), 5)]
    found = answers_of(labels, np.zeros(60, int))
    scores = paired_scores(found.pair_scores(), range(60), (None,), 199)
    assert permutation_p(found.accuracy, scores.null)[0] == 1


def test_the_interval_is_over_subjects_whatever_the_number_of_relations():
    values = np.random.default_rng(0).random((2, 30))
    people = tuple(f"person {i}" for i in range(30))
    one, two = (Scores(v[None], np.zeros((0, 1)), people, (None,)) for v in values)
    for scores, of_subject in ((one, values[0]), (pooled([one, two]), values.mean(axis=0))):
        row, expected = summaries(scores)[0], mean_interval(of_subject)
        assert row["n"] == 30
        assert [row["value"], row["low"], row["high"]] == pytest.approx(
            [expected.value, expected.low, expected.high]
        )


def test_a_relation_that_cannot_be_scored_is_left_out_of_its_group_with_the_reason():
    scores = Scores(np.array([[1.0, 0.0, 1.0]]), np.zeros((0, 1)), ("a", "b", "c"), (None,))
    rows = list(
        relation_rows(
            {"mother": scores, "author": "unique objects"},
            ["embed"],
            bound=["mother", "author"],
            unbound=["genre"],
        )
    )
    by_name = {row["relation"]: row for row in rows}
    assert set(by_name) == {"mother", "author", "bound"}
    assert by_name["bound"]["value"] == pytest.approx(2 / 3)
    assert by_name["bound"]["reason"] == "without author: unique objects"
    assert np.isnan(by_name["author"]["value"])


@pytest.mark.parametrize("objects", [np.arange(64), np.zeros(64), np.r_[9, np.arange(63) % 8]])
def test_objects_that_no_other_subject_has_are_not_identifiable(objects):
    x, y, _ = two_sides(0, shared=True)
    with pytest.raises(NotIdentifiable, match="not identifiable"):
        transfer(x, y, objects)


def test_a_site_without_variance_is_an_error_or_left_out_with_its_reason():
    x, y, objects = two_sides(0, shared=True)
    xs, ys = (np.stack([np.ones_like(z), z], axis=1) for z in (x, y))
    with pytest.raises(DegenerateStates):
        transfer(xs, ys, objects)
    found = fit_probes(xs, objects, allow_degenerate=True).score(ys, allow_degenerate=True)
    assert np.isnan(found.accuracy[0])
    assert found.accuracy[1] > 0.8
    assert "same state" in found.reasons[0]


def test_more_folds_than_subjects_are_refused():
    with pytest.raises(TooFewRows, match="folds=5 with 4 subjects"):
        subject_folds([0, 0, 1, 1])


# --- on a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    """States of the tiny run's rote and test prompts; results go elsewhere."""
    return Design.of(Run.open(tiny_run, out=tmp_path_factory.mktemp("probes")), families=("test",))


def test_the_table_of_a_run_has_every_direction_split_and_side_and_is_not_made_twice(
    states, monkeypatch
):
    table = probes.probe_table(states, permutations=19)
    assert set(table.direction) == {"rote->rote", *probes.SEMANTIC}
    assert set(table.split) == {"held-out", "seen"}
    assert {"bound", "unbound", *states.relations} == set(table.relation)
    assert set(table.checkpoint) == {c.name for c in states.checkpoints}
    assert not table.duplicated(
        ["checkpoint", "relation", "family", "split", "site", "direction"]
    ).any()
    scored = table[table.value.notna()]
    assert scored.value.between(0, 1).all()
    assert (scored.null_p_max >= scored.null_p).all()
    assert (table[table.value.isna()].site == "embed").all()
    assert table[table.value.isna()].reason.str.contains("same state").all()

    monkeypatch.setattr(probes, "probe_rows", lambda *_: pytest.fail("scored again"))
    again = probes.probe_table(states, permutations=19)
    assert again.equals(table)


def test_the_bound_rows_are_the_mean_of_the_bound_relations(states):
    table = probes.probe_table(states, permutations=19)
    keys = ["checkpoint", "family", "split", "site", "direction"]
    mean = table[table.relation.isin(states.bound)].groupby(keys).value.mean()
    bound = table[table.relation == "bound"].set_index(keys).value
    assert np.allclose(bound.sort_index(), mean.sort_index(), equal_nan=True)


def test_the_verdict_names_both_sides_every_checkpoint_and_its_controls(states):
    text = "\n".join(probes.probe_lines(probes.probe_table(states, permutations=19)))
    assert "OTHER subjects (held-out), n=8" in text
    assert "best of 4 sites" in text
    assert text.count("200-generalize") == 2
    assert "unbound relations (guessing without knowing" in text
    assert "p 1.000" in text or "p ." in text


def test_a_verdict_without_an_answer_says_why(states):
    table = probes.probe_table(states, permutations=19)
    table = table.assign(value=np.nan, reason="not identifiable: why")
    assert "  bound relations: not identifiable: why" in probes.probe_lines(table)


def test_states_at_the_subject_are_those_of_a_direct_call(tiny_run, tmp_path):
    run = Run.open(tiny_run, out=tmp_path)
    states = Design.of(run, families=("test",), position="subject_last")
    there = states.load(states.checkpoints[0])
    relation = states.relations[0]
    prompt = states.prompts_of(relation, "test")[1]
    subjects = states.subjects(relation)
    model, tokenizer = states.checkpoints[0].load()
    texts = [prompt.render(s) for s in subjects]
    expected = hidden_states(model, tokenizer, texts, positions="subject_last", subjects=subjects)
    assert np.allclose(there.of(prompt), expected.numpy(), rtol=1e-4, atol=1e-4)
    last = Design.of(run, families=("test",)).load(states.checkpoints[0]).of(prompt)
    assert not np.allclose(there.of(prompt), last, rtol=1e-2, atol=1e-2)
