"""Cosine, retrieval and shared neighbours: the library's values, their baselines and nulls."""

import numpy as np
import pytest

from analysis import alignment as command
from analysis.measures.checks import NotIdentifiable
from analysis.measures.cosine import (
    chances,
    cosine_alignment,
    delta_cosine,
    mutual_knn,
    neighbour_scores,
    pair_measures,
    retrieval,
)
from analysis.measures.scores import paired_scores, summaries
from analysis.tables import alignment
from analysis.tables.alignment import NEIGHBOURS

N, WIDTH = 30, 12
pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")


@pytest.fixture
def sides():
    """Rote and semantic states (2 sites, 30, 12) with a common offset, related at site 0 only."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, N, WIDTH)) + 3
    y = np.stack([x[0] + rng.normal(size=(N, WIDTH)), rng.normal(size=(N, WIDTH)) + 3])
    return x, y


def test_the_paired_values_are_those_of_the_library(sides):
    x, y = sides
    found = {name: np.trace(m, axis1=1, axis2=2) / N for name, m in pair_measures(x, y).items()}
    for s in range(2):
        nearest = retrieval(x[s], y[s])
        assert found["retrieval_top1"][s] == pytest.approx(nearest.value)
        assert found["retrieval_top5"][s] == pytest.approx(nearest.top5)
        assert found["retrieval_mrr"][s] == pytest.approx(nearest.mrr)
        assert found["cosine_centred"][s] == pytest.approx(cosine_alignment(x[s], y[s]).value)
        assert found["cosine_raw"][s] == pytest.approx(
            cosine_alignment(x[s], y[s], centre=False).value
        )


def test_the_shared_neighbours_are_those_of_the_library_averaged_over_prompts(sides):
    x, y = sides
    z = np.roll(y, 1, axis=2)
    scores = neighbour_scores(x, [y, z], range(N), [None, None], 0, 0, k=NEIGHBOURS)
    for s in range(2):
        expected = np.mean([mutual_knn(x[s], other[s], NEIGHBOURS) for other in (y, z)])
        assert scores.values[s].mean() == pytest.approx(expected)


def test_chances_are_those_of_the_library(sides):
    x, y = sides
    nearest, chance = retrieval(x[0], y[0]), chances(N)
    assert [
        chance["retrieval_top1"],
        chance["retrieval_top5"],
        chance["retrieval_mrr"],
    ] == pytest.approx([nearest.chance, nearest.chance_top5, nearest.chance_mrr])
    shared = neighbour_scores(x, [y], range(N), [None, None], 0, 0, k=NEIGHBOURS)
    assert shared.chance == pytest.approx(NEIGHBOURS / (N - 1))


@pytest.mark.parametrize(
    "measure", ["cosine_raw", "cosine_centred", "retrieval_top1", "retrieval_mrr"]
)
def test_related_states_stand_out_from_shuffled_pairs_and_unrelated_ones_do_not(sides, measure):
    related, unrelated = summaries(
        paired_scores(pair_measures(*sides)[measure], range(N), [None, None], 199)
    )
    assert related["null_p"] == related["null_p_max"] == pytest.approx(1 / 200)
    assert unrelated["null_p"] > 0.05


def test_neighbours_have_a_null_of_their_own(sides):
    x, y = sides
    related, unrelated = summaries(
        neighbour_scores(x, [y], range(N), [None, None], 99, 0, k=NEIGHBOURS)
    )
    assert related["null_p"] == pytest.approx(1 / 100)
    assert unrelated["null_p"] > 0.05


def test_the_neighbour_null_is_the_measure_of_permuted_rows(sides):
    from analysis.measures.statistics import permutations

    x, y = sides
    null = neighbour_scores(x, [y], range(N), [None, None], 3, 7, k=NEIGHBOURS).null
    k = NEIGHBOURS
    expected = [[mutual_knn(x[s], y[s][p], k) for s in range(2)] for p in permutations(N, 3, 7)]
    assert np.allclose(null, expected)


def test_too_few_subjects_for_neighbours_are_not_identifiable(sides):
    x, y = (z[:, :6] for z in sides)
    with pytest.raises(NotIdentifiable, match="at least 7"):
        neighbour_scores(x, [y], range(6), [None, None], 0, 0, k=NEIGHBOURS)


# --- on a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    """States of the tiny run's rote, test and unrelated prompts; results go elsewhere."""
    from probing.states import Design
    from training.runs.directory import Run

    run = Run.open(tiny_run, out=tmp_path_factory.mktemp("alignment"))
    return Design.of(run, families=("test", "unrelated"))


@pytest.fixture(scope="module")
def table(states):
    return alignment.alignment_table(states, permutations=19)


def rows(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def test_the_table_of_a_run_has_each_measure_of_each_relation_family_split_and_site(states, table):
    paired = {*alignment.ESTIMATORS, "cosine_raw_mismatched", "cosine_centred_mismatched"}
    assert set(table.measure) == {*paired, "delta_cosine"}
    relations, sites = len(states.relations) + 2, table.site.nunique()
    assert (
        len(rows(table, measure="retrieval_top1"))
        == len(states.checkpoints) * relations * 2 * 2 * sites
    )
    assert not table.duplicated(
        ["checkpoint", "relation", "family", "split", "site", "measure"]
    ).any()


def test_a_constant_site_has_no_value_and_says_why(table):
    missing = table[table.value.isna()]
    assert set(missing.site) == {"embed"}
    assert missing.reason.str.contains("same state|zero", regex=True).all()


def test_values_of_a_run_are_the_mean_over_its_prompts_on_the_scored_rows(states, table):
    there = states.load(states.checkpoints[-1])
    relation, layer = states.bound[0], 2
    held_out = states.rows(relation, "held-out")
    x = there[relation, "rote"][held_out, layer]
    ys = there[relation, "test"][:, held_out, layer]
    here = (
        rows(
            table,
            checkpoint=states.checkpoints[-1].name,
            relation=relation,
            family="test",
            split="held-out",
            layer=layer,
        )
        .set_index("measure")
        .value
    )
    assert here["retrieval_top1"] == pytest.approx(np.mean([retrieval(x, y).value for y in ys]))
    centred = [cosine_alignment(x, y) for y in ys]
    assert here["cosine_centred"] == pytest.approx(np.mean([c.value for c in centred]))
    assert here["cosine_centred_mismatched"] == pytest.approx(np.mean([c.null for c in centred]))


def test_delta_cosine_of_a_run_is_over_all_relations_and_leaves_out_pairs_of_one_subject(
    states, table
):
    there = states.load(states.checkpoints[0])
    held_out = states.rows(states.relations[0], "held-out")
    states_of = [there[r, "rote"][held_out, 3] for r in states.relations]
    expected = delta_cosine(
        np.concatenate(states_of),
        np.repeat(states.relations, len(held_out)),
        np.tile(states.subjects(states.relations[0])[-len(held_out) :], len(states_of)),
    )
    here = rows(
        table,
        checkpoint=states.checkpoints[0].name,
        family="rote",
        measure="delta_cosine",
        split="held-out",
        layer=3,
    ).iloc[0]
    assert here.relation == "all"
    assert [here.value, here.low, here.high] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )


def test_the_words_set_every_value_beside_its_controls(table):
    text = "\n".join(alignment.alignment_lines(table))
    assert "same name" in text
    assert text.count("mismatched") == 6
    assert text.count("unrelated") == 9
    assert text.count("\n") == 3


def test_checkpoints_made_elsewhere_with_one_relation_are_measured_and_said_to_be_not_identifiable(
    tiny_run, tmp_path, capsys
):
    import csv

    with open(tiny_run / "facts.csv", encoding="utf-8", newline="") as file:
        facts = [row for row in csv.DictReader(file) if row["relation"] == "mother"]
    with open(tmp_path / "facts.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, ["subject", "relation", "object", "candidates"], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(facts)
    folder = next(p for p in sorted((tiny_run / "checkpoints").iterdir()) if "memorize" in p.name)
    before = sorted(folder.iterdir())
    options = command.Options(
        folder,
        families=("test",),
        permutations=9,
        facts=str(tmp_path / "facts.csv"),
        rote="{subject} [X_mother]",
        out=str(tmp_path / "results"),
    )
    table = command.main(options)
    words = capsys.readouterr().out
    assert (
        words.index("object probe")
        < words.index("crossed contrast")
        < words.index("and cosine, rote ~ test")
    )
    assert "not identifiable" in words
    assert set(table.split) == {"all"}
    assert (tmp_path / "results" / "figures" / "alignment.png").exists()
    assert sorted(folder.iterdir()) == before
