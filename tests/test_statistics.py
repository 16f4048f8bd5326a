"""Intervals cover, nulls keep their size, closed forms equal refitting (measures.md, section 2)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.measures import checks as inputs
from analysis.measures import hsic
from analysis.measures.cosine import cosine_alignment
from analysis.measures.similarity import (
    leave_one_out_cka,
    linear_cka,
    linear_cka_grid,
    permutation_null_cka,
    procrustes_distance,
)
from analysis.measures.statistics import (
    holm,
    jackknife,
    jackknife_interval,
    max_statistic_test,
    mean_interval,
    paired_difference,
    paired_shares,
    permutation_p,
    permutation_test,
    permutations,
    share_interval,
    two_way_jackknife,
)
from training.base.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")
SEEDS = st.integers(0, 2**32 - 1)


def related(rng, n=15, d_x=4, d_y=6, sites=None):
    shape = () if sites is None else (sites,)
    x = rng.normal(2, 1, size=(*shape, n, d_x))
    return x, x @ rng.normal(size=(d_x, d_y)) + 2 * rng.normal(size=(*shape, n, d_y))


def cka_interval(xs, ys):
    """Debiased CKA of stacked sites with its closed-form jackknife interval."""
    return jackknife_interval(*leave_one_out_cka(xs, ys))


def mean_product(x, y):
    return float(np.mean((x - x.mean(0)) * (y - y.mean(0))))


# Intervals


def test_the_jackknife_of_a_mean_is_its_t_interval():
    values = np.random.default_rng(0).normal(size=30)
    left_out = [np.delete(values, i).mean() for i in range(30)]
    one, other = jackknife_interval(values.mean(), left_out), mean_interval(values)
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    for interval in (one, other):
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
        assert interval.n == 30


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(6, 14), st.integers(1, 20))
def test_leaving_one_row_out_in_closed_form_is_refitting_without_it(seed, n, d):
    rng = np.random.default_rng(seed)
    x, y = related(rng, n=n, d_x=d)
    closed, refitted = cka_interval(x[None], y[None]), jackknife(linear_cka, x, y)
    assert closed.value[0] == pytest.approx(linear_cka(x, y), abs=1e-10)
    left_out = leave_one_out_cka(x[None], y[None])[1][0]
    brute = [linear_cka(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(n)]
    np.testing.assert_allclose(left_out, brute, rtol=0, atol=1e-10)
    assert (closed.low[0], closed.high[0]) == pytest.approx((refitted.low, refitted.high), abs=1e-9)


def test_a_stack_of_sites_gives_each_pair_its_own_interval(monkeypatch):
    xs, ys = related(np.random.default_rng(1), sites=3)
    paired, one = cka_interval(xs, ys), jackknife(linear_cka, xs[1], ys[1])
    assert (paired.value[1], paired.low[1], paired.high[1]) == pytest.approx(
        (one.value, one.low, one.high)
    )
    np.testing.assert_allclose(paired.value, np.diagonal(linear_cka_grid(xs, ys)), atol=1e-12)
    monkeypatch.setattr(hsic, "BLOCK_ELEMENTS", 4 * 15 * 6)
    np.testing.assert_allclose(cka_interval(xs, ys).low, paired.low, atol=1e-12)


def test_a_degenerate_site_is_an_error_or_nan_on_request():
    xs, ys = related(np.random.default_rng(2), sites=3)
    ys[2] = 1.5
    with pytest.raises(inputs.DegenerateStates, match=r"ys: sites \[2\]"):
        leave_one_out_cka(xs, ys)
    with pytest.raises(inputs.DegenerateStates, match=r"ys: sites \[2\]"):
        permutation_null_cka(xs, ys, 3)
    values, left_out = leave_one_out_cka(xs, ys, allow_degenerate=True)
    null = permutation_null_cka(xs, ys, 3, allow_degenerate=True)
    for scores in (values, left_out[:, 0], null[0]):
        assert np.isnan(scores).tolist() == [False, False, True]


def test_an_entity_leaves_with_all_its_rows():
    rng = np.random.default_rng(3)
    x, y = related(rng, n=24, d_y=4)
    groups = np.array(list("abcdefgh") * 3)
    interval = jackknife(mean_product, x, y, groups)
    left_out = [mean_product(x[groups != g], y[groups != g]) for g in "abcdefgh"]
    assert interval.n == 8
    assert interval.se == pytest.approx(np.sqrt(7 * np.var(left_out)))


def test_a_measure_may_return_an_object_with_a_value():
    x, y = related(np.random.default_rng(4), d_y=4)
    whole = jackknife(cosine_alignment, x, y)
    assert whole.value == pytest.approx(cosine_alignment(x, y).value)


def test_the_jackknife_interval_of_cka_covers_where_a_row_bootstrap_does_not_even_come_near():
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(200):
        x, y = rng.normal(size=(2, 40, 20))
        interval = cka_interval(x[None], y[None])
        inside.append(interval.low[0] <= 0 <= interval.high[0])
    assert 0.9 <= np.mean(inside) <= 1
    rows = rng.integers(0, 40, size=(50, 40))
    k, m = x @ x.T, y @ y.T
    faked = [
        hsic.hsic1_gram(k[np.ix_(i, i)], m[np.ix_(i, i)])
        / np.sqrt(hsic.hsic1_gram(k[np.ix_(i, i)], k[np.ix_(i, i)]))
        / np.sqrt(hsic.hsic1_gram(m[np.ix_(i, i)], m[np.ix_(i, i)]))
        for i in rows
    ]
    assert np.mean(faked) > 0.2
    with pytest.raises(inputs.DegenerateStates, match="equal another row exactly"):
        linear_cka(x[rows[0]], y[rows[0]])


def test_the_two_way_jackknife_is_unbiased_for_the_variance_of_a_crossed_mean():
    rng = np.random.default_rng(6)
    subjects, templates, estimates, one_way = 30, 6, [], []
    for _ in range(400):
        cells = rng.normal(size=(1, subjects)) + 0.5 * rng.normal(size=(templates, 1))
        cells = cells + 2 * rng.normal(size=(templates, subjects))
        values = cells.mean(axis=1)
        left_out = (cells.sum(axis=1, keepdims=True) - cells) / (subjects - 1)
        estimates.append(two_way_jackknife(values, left_out).se ** 2)
        one_way.append(jackknife_interval(values.mean(), left_out.mean(axis=0)).se ** 2)
    truth = 1 / subjects + 0.25 / templates + 4 / (subjects * templates)
    assert np.mean(estimates) == pytest.approx(truth, rel=0.1)
    assert np.mean(one_way) < 0.7 * truth


def test_the_two_way_interval_is_never_narrower_than_templates_allow():
    left_out = np.full((3, 10), [[0.1], [0.5], [0.9]])
    interval = two_way_jackknife([0.1, 0.5, 0.9], left_out)
    assert interval.se == pytest.approx(0.4 / np.sqrt(3))
    assert interval.df == pytest.approx(2)


# Nulls


def test_p_values_on_independent_data_are_uniform():
    rng = np.random.default_rng(7)
    p = [
        permutation_test(mean_product, *rng.normal(size=(2, 12, 2)), n=39, rng=rng).p
        for _ in range(300)
    ]
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert min(p) >= 1 / 40


def test_a_real_pairing_gets_the_smallest_p_there_is():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(20, 3))
    y = x + 0.2 * rng.normal(size=(20, 3))
    assert permutation_test(linear_cka, x, y, n=99).p == 0.01
    distance = permutation_test(procrustes_distance, x, y, n=99, alternative="less")
    assert distance.p == 0.01
    assert distance.null.shape == (99,)


def test_entities_change_places_as_wholes():
    rng = np.random.default_rng(9)
    groups = rng.permutation(np.repeat(np.arange(6), 3))
    y = groups[:, None] + np.zeros((18, 2))
    seen = []

    def record(x, y):
        seen.append((x[:, 0], y[:, 0]))
        return 0.0

    permutation_test(record, y, y, groups, n=20)
    for x, permuted in seen:
        partners = {entity: set(permuted[x == entity]) for entity in range(6)}
        assert all(len(partner) == 1 for partner in partners.values())


def test_entities_of_unequal_size_cannot_be_exchanged():
    x, y = related(np.random.default_rng(10), n=5)
    with pytest.raises(BadInput, match="1 to 3 rows"):
        permutation_test(mean_product, x, y, [0, 0, 0, 1, 2])
    with pytest.raises(inputs.BadInput, match="one entity"):
        jackknife(mean_product, x, y, [0] * 5)


def test_the_fast_null_is_cka_of_permuted_rows_alike_at_all_sites(monkeypatch):
    xs, ys = related(np.random.default_rng(11), sites=3)
    grid = permutation_null_cka(xs, ys, 4, rng=5, grid=True)
    expected = [[[linear_cka(x, y[p]) for y in ys] for x in xs] for p in permutations(15, 4, 5)]
    np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-10)
    paired = permutation_null_cka(xs, ys, 4, rng=5)
    np.testing.assert_allclose(paired, np.diagonal(grid, axis1=1, axis2=2), atol=1e-12)
    monkeypatch.setattr("analysis.measures.similarity.GATHER_ELEMENTS", 50)
    np.testing.assert_allclose(permutation_null_cka(xs, ys, 4, rng=5), paired, atol=1e-12)


def test_p_is_one_more_than_the_hits_over_one_more_than_the_draws():
    null = np.array([-3.0, -1.0, 0.0, 1.0, 2.0])
    assert permutation_p(1.5, null) == 2 / 6
    assert permutation_p(1.5, null, "two-sided") == 3 / 6
    assert permutation_p(-2, null, "less") == 2 / 6
    assert permutation_p([9.0, np.nan], np.zeros((3, 2))).tolist()[0] == 1 / 4
    assert np.isnan(permutation_p([9.0, np.nan], np.zeros((3, 2)))[1])


def test_the_best_of_many_sites_needs_the_null_of_the_best():
    rng = np.random.default_rng(12)
    corrected, uncorrected = [], []
    for _ in range(200):
        draws = rng.normal(size=(100, 20))
        test = max_statistic_test(draws[0], draws[1:])
        corrected.append(test.p_best <= 0.05)
        uncorrected.append(permutation_p(draws[0], draws[1:]).min() <= 0.05)
    assert np.mean(corrected) == pytest.approx(0.05, abs=0.045)
    assert np.mean(uncorrected) > 0.4


def test_the_best_site_is_named_and_unscored_sites_are_left_out():
    null = np.random.default_rng(13).normal(size=(99, 2, 3))
    null[:, 0, 1] = np.nan
    observed = np.array([[0.0, np.nan, 0.5], [9.0, -20.0, 1.0]])
    test = max_statistic_test(observed, null)
    assert (test.best, test.value, test.p_best, test.n_candidates) == ((1, 0), 9.0, 0.01, 5)
    assert np.isnan(test.p).tolist() == [[False, True, False], [False, False, False]]
    assert max_statistic_test(observed, null, two_sided=True).best == (1, 1)
    assert max_statistic_test([1.0, 3.0], np.zeros((9, 2))).best == 1
    with pytest.raises(inputs.NotIdentifiable, match="no site has a finite value"):
        max_statistic_test([np.nan], np.zeros((9, 1)))
    with pytest.raises(inputs.BadInput, match=r"shape \(9, 3\); expected \(N, \*\(2,\)"):
        max_statistic_test([1.0, 2.0], np.zeros((9, 3)))


# Over seeds


def test_a_difference_over_seeds_is_the_paired_t_test():
    a, b = np.random.default_rng(14).normal([[0.5], [0]], 1, size=(2, 10))
    ours, scipys = paired_difference(a, b), stats.ttest_rel(a, b)
    assert ours.p == pytest.approx(scipys.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(scipys.confidence_interval()))


def test_three_seeds_give_an_interval_and_no_claim():
    difference = paired_difference([1.0, 2.0, 3.0], [0.0, 0.5, 1.0])
    assert difference.low < difference.value == 1.5
    assert np.isnan(difference.p)
    with pytest.raises(inputs.TooFewRows, match="a has 1 entries"):
        paired_difference([1.0], [0.0])
    with pytest.raises(inputs.BadInput, match="x has 2 rows and y 3"):
        paired_difference([1.0, 2.0], [0.0, 1.0, 2.0])


def test_equal_seeds_differ_by_nothing():
    assert paired_difference([1.0] * 5, [1.0] * 5).p == 1
    assert paired_difference([2.0] * 5, [1.0] * 5).p == 0


def test_holm_is_the_textbook_step_down():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.03, np.nan, 0.01]), [0.03, np.nan, 0.02])
    with pytest.raises(inputs.BadInput, match=r"p=\[1.5\]; expected"):
        holm([1.5])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_the_bonferroni_values(p):
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def test_shares_want_yes_or_no_and_are_exact():
    with pytest.raises(inputs.BadInput, match="other than 0 and 1"):
        share_interval([0.5, 1.0])
    with pytest.raises(inputs.BadInput, match="other than 0 and 1"):
        paired_shares([0, 1, 1, 0.5], [0, 0, 0, 0])
    found = paired_shares([1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0, 1])
    assert found.value == pytest.approx(0.5)
    assert found.p == pytest.approx(stats.binomtest(5, 6).pvalue)
    assert np.isnan(paired_shares([1, 1, 1], [0, 0, 0]).p)


def test_the_interval_of_a_paired_share_covers_the_difference():
    rng = np.random.default_rng(0)
    truth, kept = 0.5 - 0.2, 0
    for _ in range(600):
        found = paired_shares(
            (rng.random(15) < 0.5).astype(int), (rng.random(15) < 0.2).astype(int)
        )
        kept += found.low <= truth <= found.high
    assert kept / 600 > 0.93
