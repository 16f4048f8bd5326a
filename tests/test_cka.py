"""The CKA command on a run: what it pairs, what it averages, what it refuses to say."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from analysis.measures import similarity
from analysis.measures.contrast import crossed_contrast, object_kernel
from analysis.measures.similarity import linear_cka, linear_cka_grid
from analysis.measures.statistics import jackknife_interval, max_statistic_test, permutation_p
from analysis.tables import cka, cka_checkpoints, cka_measures, stack
from probing.states import Design
from training.base.errors import BadInput
from training.runs.directory import Run
from training.runs.table_files import read_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PERMUTATIONS = 39


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("cka") / "run")
    return Design.of(Run.open(run))


@pytest.fixture(scope="module")
def table(states):
    return cka.cka_table(states, permutations=PERMUTATIONS)


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
    x = there[relation, "rote"][rows, -1]
    expected = np.mean([linear_cka(x, y[rows, -1]) for y in there[relation, "test"]])
    assert pick(
        table, there, measure="cka", relation=relation, family="test", site=site
    ).value == pytest.approx(expected)


def test_bound_is_the_mean_of_the_bound_relations(states, there, table):
    site = there.sites[-1]
    values = [
        pick(table, there, measure="cka", relation=r, family="test", site=site).value
        for r in states.bound
    ]
    together = pick(table, there, measure="cka", relation="bound", family="test", site=site)
    assert together.value == pytest.approx(np.mean(values))
    assert together.low < together.value < together.high


def test_the_contrast_is_the_pure_functions_over_bound_relations_alone(states, there, table):
    rows = states.rows(states.bound[0], "held-out")
    xs = {r: there[r, "rote"][rows, -1] for r in states.bound}
    ys = {r: there[r, "test"][:, rows, -1] for r in states.bound}
    expected = crossed_contrast(xs, ys, n=PERMUTATIONS, rng=states.run.seed)
    row = pick(table, there, measure="contrast", family="test", site=there.sites[-1])
    assert row.value == pytest.approx(expected.value)
    assert row.null_p == pytest.approx(expected.p)
    assert row.null_p_max >= row.null_p


def test_the_object_kernel_of_all_sites_is_the_pure_function_site_by_site(states, there, table):
    relation = states.bound[0]
    rows = states.rows(relation, "held-out")
    labels = states.objects(relation)[rows]
    expected = np.mean([object_kernel(y[rows, -1], labels).value for y in there[relation, "test"]])
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
    rows = list(cka.grid_rows(there, PERMUTATIONS))
    values = np.array([r["value"] for r in rows])
    best = [r for r in rows if r["best"]]
    assert len(best) == 1
    assert best[0]["value"] == np.nanmax(values)
    relation = states.bound[0]
    keep = states.rows(relation, "held-out")
    x = there[relation, "rote"][keep].transpose(1, 0, 2)
    y = there.of(states.prompts_of(relation, "test")[0])[keep].transpose(1, 0, 2)
    assert linear_cka_grid(x, y, allow_degenerate=True).shape == (
        len(there.sites),
        len(there.sites),
    )


def test_nothing_is_claimed_of_one_relation_or_of_different_people(states):
    assert "crosses at least 2" in cka.why_no_contrast(states, states.bound[:1])
    facts = [dataclasses.replace(f, subject=f"{f.subject} {f.relation}") for f in states.run.facts]
    apart = Design(dataclasses.replace(states.run, facts=facts), states.prompts)
    assert "different subjects" in cka.why_no_contrast(apart, apart.bound)


def test_removing_a_component_leaves_no_variance_along_it(rng):
    x = rng.normal(size=(2, 30, 8)) + 50 * rng.normal(size=(2, 30, 1)) * np.eye(8)[0]
    assert similarity.without_components(x, 1)[..., 0].std() < 0.05 * x[..., 0].std()
    assert np.allclose(similarity.zscored(x).std(axis=1), 1)
    assert np.isfinite(similarity.zscored(np.concatenate([x, np.ones((2, 30, 1))], axis=2))).all()


def test_a_second_call_reads_the_first_until_the_version_is_raised(states, table, monkeypatch):
    monkeypatch.setattr(Design, "load", lambda *_: pytest.fail("scored again"))
    again = cka.cka_table(states, permutations=PERMUTATIONS)
    assert np.array_equal(again.value, table.value, equal_nan=True)
    monkeypatch.setattr(cka, "VERSION", cka.VERSION + 1)
    with pytest.raises(pytest.fail.Exception, match="scored again"):
        cka.cka_table(states, permutations=PERMUTATIONS)


def test_the_table_that_is_written_is_tidy(states, table):
    written = read_table(states.run.path, "cka")
    where = "checkpoint phase relation family split site measure"
    what = "value low high null_p n d estimator reason seed commit"
    assert {*where.split(), *what.split()} <= set(written.columns)
    assert not written.duplicated([*where.split(), "object_relation"]).any()


def test_a_mean_over_relations_with_different_subjects_adds_their_variances(rng):
    stacks = {
        name: stack.Stack(rng.normal(size=(2, 3)), rng.normal(size=(2, 3, n)), np.zeros((0, 3)))
        for name, n in (("a", 8), ("b", 12))
    }
    checkpoint = SimpleNamespace(stage={})
    design = SimpleNamespace(bound=["a", "b"], unbound=[], subjects=lambda name: [name])
    there = SimpleNamespace(design=design, checkpoint=checkpoint, sites=("x", "y", "z"), width=5)
    rows = [r for r in stack.summary_rows(there, stacks, {}) if r["relation"] == "bound"]
    a, b = (jackknife_interval(s.values.mean(0), s.leave_one_out.mean(0)) for s in stacks.values())
    half = stats.t.ppf(0.975, 7) * np.sqrt(a.se**2 + b.se**2) / 2
    assert [r["value"] for r in rows] == pytest.approx((a.value + b.value) / 2)
    assert [r["high"] - r["value"] for r in rows] == pytest.approx(half)
    assert {(r["n"], r["n_prompts"], r["d"]) for r in rows} == {(20, 2, 5)}


def test_the_corrected_p_is_that_of_the_best_of_all_sites(rng):
    null = rng.normal(size=(199, 10))
    observed = rng.normal(size=10)
    test = max_statistic_test(observed, null)
    assert test.p_best == pytest.approx(permutation_p(observed.max(), null.max(axis=1)))


# --- beside the raw value -------------------------------------------------------------------------


def test_every_raw_value_has_its_robust_ones_beside_it(states, there, table):
    relation, site = states.bound[0], there.sites[1]
    rows = states.rows(relation, "held-out")
    row = pick(table, there, measure="cka", relation=relation, family="test", site=site)
    x, ys = there[relation, "rote"][rows, 1], [y[rows, 1] for y in there[relation, "test"]]
    for column, treat in (
        ("zscored", similarity.zscored),
        ("without_5_pcs", lambda z: similarity.without_components(z, 5)),
    ):
        expected = np.mean(
            [linear_cka(*(treat(z[None].astype(float))[0] for z in (x, y))) for y in ys]
        )
        assert row[column] == pytest.approx(expected)
        own = pick(
            table, there, measure=f"cka_{column}", relation=relation, family="test", site=site
        )
        assert own.value == row[column]
    raw = table[(table.measure == "cka") & table.value.notna()]
    assert raw[["zscored", "without_1_pc", "without_5_pcs"]].notna().all().all()


# --- the same prompts at two checkpoints ----------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(states):
    return cka_checkpoints.checkpoints_table(states)


def test_two_checkpoints_are_compared_about_the_same_prompts(states, pairs):
    base, memorized, last = (states.load(c) for c in states.checkpoints)
    assert {(r.checkpoint_y, r.checkpoint) for r in pairs.itertuples()} == {
        (a.checkpoint.name, b.checkpoint.name)
        for a, b in ((base, memorized), (base, last), (memorized, last))
    }
    relation, site = states.bound[0], last.sites[2]
    rows = states.rows(relation, "held-out")
    expected = np.mean(
        [
            linear_cka(a[rows, 2], b[rows, 2])
            for a, b in zip(memorized[relation, "test"], last[relation, "test"], strict=True)
        ]
    )
    some = pairs[
        (pairs.checkpoint_y == memorized.checkpoint.name) & (pairs.measure == "cka_checkpoints")
    ]
    row = pick(some, last, relation=relation, family="test", site=site)
    assert row.value == pytest.approx(expected)
    assert row.low <= row.value <= row.high


def test_a_checkpoint_is_the_same_as_a_rotated_and_scaled_copy_of_itself_only(rng):
    x = rng.normal(size=(2, 30, 6))
    turned = 3 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert cka.cka_stack([x], [turned]).values == pytest.approx(np.ones((1, 2)))
    assert (cka.cka_stack([x], [x + rng.normal(size=x.shape)]).values < 0.9).all()


# --- another measure ------------------------------------------------------------------------------


def test_every_declared_measure_gives_its_own_value_in_fewer_columns(rng):
    from analysis.measures.similarity import MEASURES

    x = rng.normal(size=(1, 14, 60)) + 2
    y = x + rng.normal(size=(1, 14, 60))
    names = [m.name for m in MEASURES if m.name != "linear_cka"]
    for measure in cka_measures.choose(names):
        sign = 1 if measure.larger_is_more_similar else -1
        stack = cka_measures.measure_stack(measure, x, [y], 19, 0)
        assert cka_measures.narrowed(measure, x[0], y[0])[0].shape[1] < 60
        assert sign * stack.values[0, 0] == pytest.approx(measure.function(x[0], y[0]), abs=1e-9)
        keep = np.arange(14) != 5
        assert sign * stack.leave_one_out[0, 0, 5] == pytest.approx(
            measure.function(x[0][keep], y[0][keep]), abs=1e-9
        )
        if measure.name != "svcca":  # saturated at so few rows
            assert permutation_p(stack.values[0, 0], stack.null[:, 0]) == pytest.approx(1 / 20), (
                measure.name
            )


def test_a_distance_keeps_its_sign_in_the_table_and_in_words(states, there):
    from analysis.measures.similarity import procrustes_distance

    few = dataclasses.replace(
        states, prompts=tuple(p for p in states.prompts if p.family in ("rote", "test"))
    )
    table = cka_measures.measures_table(few, ["procrustes_distance", "rsa"], permutations=9)
    relation = states.bound[0]
    rows = states.rows(relation, "held-out")
    expected = np.mean(
        [
            procrustes_distance(there[relation, "rote"][rows, 1], y[rows, 1])
            for y in there[relation, "test"]
        ]
    )
    wanted = dict(
        relation=relation, family="test", site=there.sites[1], measure="procrustes_distance"
    )
    row = pick(table, there, **wanted)
    assert row.value == pytest.approx(expected)
    assert row.low < row.value < row.high
    assert any(
        "procrustes_distance at 200-generalize" in line
        for line in cka_measures.measure_lines(table, few)
    )


def test_an_unknown_measure_is_refused_with_the_names_there_are():
    with pytest.raises(
        BadInput, match="expected some of linear_cka_biased, rbf_cka, procrustes_distance"
    ):
        cka_measures.choose(["cca"])


def test_the_words_and_pictures_hold_pairs_measures_and_robust_values(states, table, pairs):
    from figures import cka as pictures

    text = "\n".join(
        [*cka.cka_lines(table, states), *cka_checkpoints.checkpoint_lines(pairs, states)]
    )
    assert "without 5 " in text and "100-memorize-epoch-20 -> 200-generalize-epoch-08" in text
    data = pictures.checkpoints_data(pairs)
    assert set(data.checkpoint) == {
        "base → memorized",
        "base → generalized",
        "memorized → generalized",
    }
    for path in (
        *pictures.draw_checkpoints(states.run.path),
        *pictures.draw_measures(states.run.path),
    ):
        assert path.stat().st_size > 5_000


@pytest.fixture
def rng():
    return np.random.default_rng(0)
