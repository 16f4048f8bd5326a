"""The CKA command on a run: what it pairs, what it averages, what it refuses to say."""

import dataclasses
import shutil

import numpy as np
import pytest

from analysis import cka, cka_rows
from analysis.run_states import RunStates
from analysis.similarity import crossed_contrast, linear_cka, linear_cka_grid, object_kernel
from analysis.statistics import max_statistic_test, permutation_p
from training.checkpoints import open_run
from training.tables import read_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PERMUTATIONS = 39


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("cka") / "run")
    return RunStates.of(open_run(run))


@pytest.fixture(scope="module")
def table(states):
    return cka.table_for(states, permutations=PERMUTATIONS)


@pytest.fixture(scope="module")
def there(states):
    return states.load(states.checkpoints[-1])


def pick(table, there, **wanted):
    rows = table[(table.checkpoint == there.checkpoint.name) & (table.split == "held-out")]
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_relations_value_is_the_mean_over_prompts_of_the_pure_function(states, there, table):
    relation, site = states.bound[0], there.sites[-1]
    rows = states.rows(relation, "held-out")
    x = there.rote(relation)[rows, -1]
    expected = np.mean([linear_cka(x, y[rows, -1]) for y in there.family(relation, "test")])
    assert pick(table, there, measure="cka", relation=relation, family="test", site=site).value == pytest.approx(
        expected
    )


def test_bound_is_the_mean_of_the_bound_relations(states, there, table):
    site = there.sites[-1]
    values = [pick(table, there, measure="cka", relation=r, family="test", site=site).value for r in states.bound]
    together = pick(table, there, measure="cka", relation="bound", family="test", site=site)
    assert together.value == pytest.approx(np.mean(values))
    assert together.low < together.value < together.high


def test_the_contrast_is_the_pure_functions_over_bound_relations_alone(states, there, table):
    rows = states.rows(states.bound[0], "held-out")
    xs = {r: there.rote(r)[rows, -1] for r in states.bound}
    ys = {r: there.family(r, "test")[:, rows, -1] for r in states.bound}
    expected = crossed_contrast(xs, ys, n=PERMUTATIONS, rng=states.run.seed)
    row = pick(table, there, measure="contrast", family="test", site=there.sites[-1])
    assert row.value == pytest.approx(expected.value)
    assert row.null_p == pytest.approx(expected.p)
    assert row.null_p_max >= row.null_p


def test_the_object_kernel_of_all_sites_is_the_pure_function_site_by_site(states, there, table):
    relation = states.bound[0]
    rows = states.rows(relation, "held-out")
    labels = states.objects(relation)[rows]
    expected = np.mean([object_kernel(y[rows, -1], labels).value for y in there.family(relation, "test")])
    row = pick(
        table,
        there,
        measure="object_kernel",
        family="test",
        relation=relation,
        object_relation="same",
        site=there.sites[-1],
    )
    assert row.value == pytest.approx(expected)


def test_the_embedding_of_the_key_token_is_the_same_for_everyone_and_said_to_be(table):
    rows = table[(table.site == "embed") & (table.measure == "cka")]
    assert rows.value.isna().all()
    assert rows.reason.str.contains("same state").all()


def test_the_best_pair_of_the_map_is_corrected_for_all_pairs(states, there):
    rows = list(cka_rows.grid_rows(there, PERMUTATIONS))
    values = np.array([r["value"] for r in rows])
    best = [r for r in rows if r["best"]]
    assert len(best) == 1
    assert best[0]["value"] == np.nanmax(values)
    relation = states.bound[0]
    keep = states.rows(relation, "held-out")
    x = there.rote(relation)[keep].transpose(1, 0, 2)
    y = there.of(states.prompts_of(relation, "test")[0])[keep].transpose(1, 0, 2)
    assert linear_cka_grid(x, y, allow_degenerate=True).shape == (len(there.sites), len(there.sites))


def test_nothing_is_claimed_of_one_relation_or_of_different_people(states):
    assert "crosses at least 2" in cka_rows.why_no_contrast(states, states.bound[:1])
    facts = [dataclasses.replace(f, subject=f"{f.subject} {f.relation}") for f in states.run.facts]
    apart = RunStates(dataclasses.replace(states.run, facts=facts), states.prompts)
    assert "different subjects" in cka_rows.why_no_contrast(apart, apart.bound)


def test_removing_a_component_leaves_no_variance_along_it(rng):
    x = rng.normal(size=(2, 30, 8)) + 50 * rng.normal(size=(2, 30, 1)) * np.eye(8)[0]
    assert cka_rows.without_components(x, 1)[..., 0].std() < 0.05 * x[..., 0].std()
    assert np.allclose(cka_rows.zscored(x).std(axis=1), 1)
    assert np.isfinite(cka_rows.zscored(np.concatenate([x, np.ones((2, 30, 1))], axis=2))).all()


def test_a_second_call_reads_the_first_and_tables_are_tidy(states, table):
    again = cka.table_for(states, permutations=PERMUTATIONS)
    assert np.array_equal(again.value, table.value, equal_nan=True)
    written = read_table(states.run.path, "cka")
    assert {
        "checkpoint",
        "phase",
        "relation",
        "family",
        "split",
        "site",
        "measure",
        "value",
        "low",
        "high",
        "null_p",
        "n",
        "d",
        "estimator",
        "reason",
        "seed",
        "commit",
    } <= set(written.columns)


def test_the_corrected_p_is_that_of_the_best_of_all_sites(rng):
    null = rng.normal(size=(199, 10))
    observed = rng.normal(size=10)
    test = max_statistic_test(observed, null)
    assert test.p_best == pytest.approx(permutation_p(observed.max(), null.max(axis=1)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
