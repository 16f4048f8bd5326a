"""What every similarity must obey, whichever states it is given: measures.md, sections 1 and 8."""

import doctest
import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.measures import checks as inputs
from analysis.measures import hsic
from analysis.measures.checks import site_reasons
from analysis.measures.contrast import (
    _relation_orders,
    crossed_contrast,
    interaction,
    object_kernel,
    partial_cka,
)
from analysis.measures.cosine import (
    cosine_alignment,
    delta_cosine,
    mutual_knn,
    neighbour_scores,
    pair_measures,
    retrieval,
    rsa,
)
from analysis.measures.similarity import (
    MEASURES,
    linear_cka,
    linear_cka_grid,
    minibatch_cka,
    procrustes_distance,
    rbf_cka,
    svcca,
)
from analysis.measures.statistics import permutations
from training.base.errors import BadInput, UserError

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")
X = np.array([[1, 0], [0, 1], [2, 1], [1, 3], [4, 0]], dtype=float)
Y = np.array([[0, 1, 2], [1, 1, 0], [3, 0, 1], [2, 2, 2], [5, 1, 0]], dtype=float)
SEEDS = st.integers(0, 2**32 - 1)
laws = settings(max_examples=15, deadline=None)


def rotation(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def related(rng, n=24, d=6, noise=0.7):
    x = rng.normal(size=(n, d)) * np.linspace(1, 2, d)
    return x, x + noise * rng.normal(size=(n, d))


def measures_with(invariance):
    return [pytest.param(m, id=m.name) for m in MEASURES if invariance in m.invariances]


every_measure = pytest.mark.parametrize("measure", [pytest.param(m, id=m.name) for m in MEASURES])


# The exact fixture


def test_hsic_of_the_fixture_is_exact():
    k, m = X @ X.T, Y @ Y.T
    assert [hsic.hsic0(a, b) for a, b in ((k, m), (k, k), (m, m))] == pytest.approx(
        [1527 / 200, 1733 / 200, 1719 / 100], abs=1e-12
    )
    assert [hsic.hsic1_gram(a, b) for a, b in ((k, m), (k, k), (m, m))] == pytest.approx(
        [1, 18 / 5, 154 / 15], abs=1e-12
    )


def test_cka_of_the_fixture_is_exact():
    assert linear_cka(X, Y, debiased=False) == pytest.approx(0.625585709670, abs=1e-12)
    assert linear_cka(X, Y) == pytest.approx(0.164487923740, abs=1e-12)


def test_removing_the_diagonal_after_centring_would_be_another_number():
    def wrong(x, y):
        x, y = x - x.mean(0), y - y.mean(0)
        k, m = x @ x.T * (1 - np.eye(5)), y @ y.T * (1 - np.eye(5))
        return np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m)

    assert wrong(X, Y) == pytest.approx(0.394031902575, abs=1e-12)
    assert abs(linear_cka(X, Y) - wrong(X, Y)) > 0.2


@laws
@given(SEEDS, st.integers(4, 20), st.integers(1, 25), st.integers(1, 25))
def test_three_forms_of_hsic1_are_equal(seed, n, d_x, d_y):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(2, 3, size=(n, d_x)), rng.normal(-5, 1, size=(n, d_y))
    k, m = x @ x.T, y @ y.T
    scale = np.sqrt(hsic.hsic1_gram(k, k) * hsic.hsic1_gram(m, m))
    u_centred = np.sum(hsic.u_centre(k) * hsic.u_centre(m))
    features = hsic._grid_by_features(hsic.centre(x[None]), hsic.centre(y[None]))
    chosen, _, _ = hsic.grid_hsic1(x[None], y[None])
    forms = np.array([u_centred, features[0, 0], chosen[0, 0]]) / (n * (n - 3))
    assert np.abs(forms - hsic.hsic1_gram(k, m)).max() <= 1e-10 * scale


def test_linear_cka_is_what_two_nested_loops_over_rows_give():
    rng = np.random.default_rng(1)
    x, y = related(rng, n=9)
    x, y = x - x.mean(0), y - y.mean(0)
    sums = dict.fromkeys(("xy", "xx", "yy"), 0.0)
    for i in range(9):
        for j in range(9):
            k, m = float(x[i] @ x[j]), float(y[i] @ y[j])
            for pair, product in (("xy", k * m), ("xx", k * k), ("yy", m * m)):
                sums[pair] += product
    naive = sums["xy"] / np.sqrt(sums["xx"] * sums["yy"])
    assert linear_cka(x, y, debiased=False) == pytest.approx(naive, abs=1e-12)


# The laws, from the declaration


@every_measure
def test_a_set_is_identical_to_itself(measure):
    x, _ = related(np.random.default_rng(0))
    assert measure.function(x, x) == pytest.approx(measure.identity, abs=1e-10)


@every_measure
@laws
@given(SEEDS)
def test_values_stay_in_the_declared_range(measure, seed):
    x, y = related(np.random.default_rng(seed), n=12)
    low, high = measure.range
    assert low - 1e-10 <= measure.function(x, y) <= high + 1e-10


@every_measure
def test_more_noise_is_less_similar(measure):
    rng = np.random.default_rng(3)
    near, far = (
        np.mean([measure.function(*related(rng, noise=s)) for _ in range(5)]) for s in (0.1, 3)
    )
    assert (near > far) == measure.larger_is_more_similar


@pytest.mark.parametrize("measure", measures_with("rotation"))
@laws
@given(SEEDS)
def test_rotating_one_side_changes_nothing(measure, seed):
    rng = np.random.default_rng(seed)
    x, y = related(rng)
    assert measure.function(x @ rotation(rng, 6), y) == pytest.approx(
        measure.function(x, y), abs=1e-10
    )
    shuffled_columns = y[:, rng.permutation(6)]
    assert measure.function(x, shuffled_columns) == pytest.approx(measure.function(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", measures_with("joint rotation"))
@laws
@given(SEEDS)
def test_rotating_both_sides_alike_changes_nothing(measure, seed):
    rng = np.random.default_rng(seed)
    (x, y), q = related(rng), rotation(rng, 6)
    assert measure.function(x @ q, y @ q) == pytest.approx(measure.function(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", measures_with("shift"))
@laws
@given(SEEDS)
def test_adding_a_constant_to_one_side_changes_nothing(measure, seed):
    rng = np.random.default_rng(seed)
    x, y = related(rng)
    assert measure.function(x, y + 10 * rng.normal(size=6)) == pytest.approx(
        measure.function(x, y), abs=1e-10
    )


@pytest.mark.parametrize("measure", measures_with("scale"))
@laws
@given(SEEDS, st.floats(1e-3, 1e3))
def test_scaling_one_side_changes_nothing(measure, seed, factor):
    x, y = related(np.random.default_rng(seed))
    assert measure.function(x * factor, y) == pytest.approx(measure.function(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", measures_with("row order"))
@laws
@given(SEEDS)
def test_the_same_row_order_of_both_changes_nothing(measure, seed):
    rng = np.random.default_rng(seed)
    (x, y), p = related(rng), rng.permutation(24)
    assert measure.function(x[p], y[p]) == pytest.approx(measure.function(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", measures_with("symmetry"))
@laws
@given(SEEDS)
def test_swapping_the_sides_changes_nothing(measure, seed):
    x, y = related(np.random.default_rng(seed))
    assert measure.function(y, x) == pytest.approx(measure.function(x, y), abs=1e-10)


@pytest.mark.parametrize(
    "measure", [pytest.param(m, id=m.name) for m in MEASURES if "invertible map" in m.changes]
)
def test_an_invertible_map_that_is_no_rotation_does_change_it(measure):
    rng = np.random.default_rng(5)
    x, y = related(rng)
    assert abs(measure.function(x @ rng.normal(size=(6, 6)), y) - measure.function(x, y)) > 0.02


@pytest.mark.parametrize(
    "measure", [pytest.param(m, id=m.name) for m in MEASURES if "pairing" in m.changes]
)
def test_permuting_the_rows_of_one_side_does_change_it(measure):
    rng = np.random.default_rng(6)
    x, y = related(rng)
    assert abs(measure.function(x, y[rng.permutation(24)]) - measure.function(x, y)) > 0.02


@pytest.mark.parametrize("measure", [pytest.param(m, id=m.name) for m in MEASURES if m.chance])
def test_independent_states_give_the_declared_chance(measure):
    rng = np.random.default_rng(7)
    values = [measure.function(*rng.normal(size=(2, 40, 8))) for _ in range(80)]
    assert np.mean(values) == pytest.approx(measure.chance(40, 8), abs=0.02)


# Bias


@pytest.mark.parametrize("n", [64, 256, 1024])
def test_biased_cka_of_independent_gaussians_is_d_over_n_plus_d(n):
    x, y = np.random.default_rng(n).normal(size=(2, n, 768))
    assert linear_cka(x, y, debiased=False) == pytest.approx(768 / (n + 768), abs=0.01)
    assert abs(linear_cka(x, y)) < 0.05


def test_debiased_cka_of_shuffled_pairs_is_zero_on_average_and_sometimes_negative():
    rng = np.random.default_rng(8)
    x, y = related(rng, n=40, d=30)
    values = [linear_cka(x, y[rng.permutation(40)]) for _ in range(200)]
    assert abs(np.mean(values)) < 0.01
    assert min(values) < 0


# CKA from batches, with other kernels, and over all sites


@laws
@given(SEEDS, st.integers(4, 9), st.integers(4, 9))
def test_minibatch_cka_is_one_ratio_of_summed_hsic(seed, first, second):
    rng = np.random.default_rng(seed)
    batches = [related(rng, n=first), related(rng, n=second)]
    xy, xx, yy = (
        sum(hsic.hsic1_gram(batch[i] @ batch[i].T, batch[j] @ batch[j].T) for batch in batches)
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    assert minibatch_cka(batches) == pytest.approx(xy / np.sqrt(xx * yy), abs=1e-10)


def test_one_batch_is_plain_cka_and_a_short_last_batch_is_merged():
    x, y = related(np.random.default_rng(9), n=22)
    assert minibatch_cka([(x, y)]) == pytest.approx(linear_cka(x, y), abs=1e-12)
    cut = [(x[a:b], y[a:b]) for a, b in ((0, 10), (10, 20), (20, 22))]
    merged = [(x[:10], y[:10]), (x[10:], y[10:])]
    assert minibatch_cka(iter(cut)) == pytest.approx(minibatch_cka(merged), abs=1e-12)


def test_minibatch_cka_of_independent_states_is_unbiased():
    rng = np.random.default_rng(10)
    batches = [tuple(rng.normal(size=(2, 16, 32))) for _ in range(400)]
    assert abs(minibatch_cka(batches)) < 0.02


@pytest.mark.parametrize("debiased", [True, False])
def test_rbf_cka_tends_to_linear_cka_as_the_bandwidth_grows(debiased):
    x, y = related(np.random.default_rng(11))
    linear = linear_cka(x, y, debiased=debiased)
    gaps = [abs(rbf_cka(x, y, bandwidth=b, debiased=debiased) - linear) for b in (1, 10, 100, 1e4)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6 < gaps[0]


@pytest.mark.parametrize(("n", "d_x", "d_y"), [(30, 5, 3), (30, 70, 90), (12, 40, 3)])
def test_the_grid_is_the_pairwise_cka_of_all_sites(n, d_x, d_y, monkeypatch):
    rng = np.random.default_rng(12)
    xs = rng.normal(3, 1, size=(4, n, d_x))
    ys = rng.normal(size=(3, n, d_y)) + xs[:1, :, :1]
    pairs = [[linear_cka(x, y) for y in ys] for x in xs]
    np.testing.assert_allclose(linear_cka_grid(xs, ys), pairs, rtol=0, atol=1e-12)
    monkeypatch.setattr(hsic, "BLOCK_ELEMENTS", 7 * n * 5)
    np.testing.assert_allclose(linear_cka_grid(xs, ys), pairs, rtol=0, atol=1e-12)


def test_a_degenerate_site_is_named_or_nan_on_request():
    xs = np.random.default_rng(13).normal(size=(3, 30, 5))
    xs[1] = xs[1, :1]
    with pytest.raises(inputs.DegenerateStates, match=r"xs: sites \[1\].*same state"):
        linear_cka_grid(xs, xs[:1])
    grid = linear_cka_grid(xs, xs[[0, 2]], allow_degenerate=True)
    assert np.isnan(grid).tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert [reason is None for reason in site_reasons(xs)] == [True, False, True]


# Shape, subspace, neighbours, cosines


def test_procrustes_of_a_rotated_scaled_shifted_copy_is_zero():
    rng = np.random.default_rng(14)
    x = rng.normal(size=(20, 30))
    assert procrustes_distance(x, 7 * x @ rotation(rng, 30) + 3) < 1e-10


def test_procrustes_is_the_nuclear_norm_formula():
    x, y = np.random.default_rng(15).normal(size=(2, 20, 5))
    y = y[:, :3]
    unit = [(z - z.mean(0)) / np.linalg.norm(z - z.mean(0)) for z in (x, y)]
    nuclear = np.linalg.svd(unit[0].T @ unit[1], compute_uv=False).sum()
    assert procrustes_distance(x, y) == pytest.approx(np.sqrt(2 - 2 * nuclear), abs=1e-10)
    assert procrustes_distance(x, y, angular=True) == pytest.approx(np.arccos(nuclear), abs=1e-10)


@pytest.mark.parametrize(("n", "expected"), [(65, 1.00), (128, 0.64), (640, 0.27), (6400, 0.085)])
@pytest.mark.filterwarnings("ignore::analysis.measures.similarity.Saturated")
def test_cca_of_independent_states_saturates_at_few_rows(n, expected):
    x, y = np.random.default_rng(n).normal(size=(2, n, 64))
    assert svcca(x, y, variance=1.0) == pytest.approx(expected, abs=0.01)


def test_svcca_warns_where_it_is_saturated():
    from analysis.measures.similarity import Saturated

    x, y = np.random.default_rng(16).normal(size=(2, 30, 64))
    with pytest.warns(Saturated, match="n=30"):
        svcca(x, y, variance=1.0)


def test_cca_and_its_projection_weighted_form_ignore_invertible_maps():
    rng = np.random.default_rng(17)
    x, y = related(rng)
    m = rng.normal(size=(6, 6))
    assert svcca(x, y @ m, variance=1.0) == pytest.approx(svcca(x, y, variance=1.0), abs=1e-10)
    assert svcca(x, y @ m, variance=1.0, weighted=True) == pytest.approx(
        svcca(x, y, variance=1.0, weighted=True), abs=1e-10
    )


def test_mutual_knn_counts_shared_neighbours_by_hand():
    angle = np.array([0.0, 0.1, 2.0, 2.15, 4.0, 4.2])
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert mutual_knn(circle, circle, 1) == 1
    assert mutual_knn(circle, circle[[0, 2, 1, 3, 4, 5]], 1) == pytest.approx(2 / 6)


def test_retrieval_chances_and_a_perfect_match():
    x, _ = related(np.random.default_rng(18), n=20)
    found = retrieval(x, x + 5)
    assert (found.value, found.top5, found.mrr) == (1, 1, 1)
    assert found.chance == 1 / 20
    assert found.chance_top5 == 5 / 20
    assert found.chance_mrr == pytest.approx(sum(1 / k for k in range(1, 21)) / 20)


def test_retrieval_of_independent_states_is_at_all_three_chances():
    rng = np.random.default_rng(19)
    found = [retrieval(*rng.normal(size=(2, 20, 10))) for _ in range(200)]
    for value, chance in (("value", "chance"), ("top5", "chance_top5"), ("mrr", "chance_mrr")):
        assert np.mean([getattr(f, value) for f in found]) == pytest.approx(
            getattr(found[0], chance), abs=0.015
        )


def test_the_semantic_state_asks_among_the_rote_states():
    rng = np.random.default_rng(20)
    x = rng.normal(size=(8, 12))
    y = x.copy()
    y[1] = x[0] + 0.01 * rng.normal(size=12)
    assert retrieval(x, y).value == pytest.approx(7 / 8)


def test_stacked_pairings_are_the_measures_of_one_site_at_every_site():
    rng = np.random.default_rng(44)
    xs = rng.normal(3, 1, size=(3, 20, 6))
    ys = xs + rng.normal(size=xs.shape)
    pairs = {name: np.diagonal(m, axis1=1, axis2=2) for name, m in pair_measures(xs, ys).items()}
    near = neighbour_scores(xs, [ys], range(20), [None, None, "left out"], 2, 7, k=5)
    for s, (x, y) in enumerate(zip(xs, ys, strict=True)):
        found = retrieval(x, y)
        assert [pairs[f"retrieval_{k}"][s].mean() for k in ("top1", "top5", "mrr")] == [
            pytest.approx(value) for value in (found.value, found.top5, found.mrr)
        ]
        for name, centre in (("cosine_raw", False), ("cosine_centred", True)):
            expected = cosine_alignment(x, y, centre=centre).value
            assert pairs[name][s].mean() == pytest.approx(expected)
        shuffled = [mutual_knn(x, y[p], 5) for p in permutations(20, 2, 7)]
        np.testing.assert_allclose(near.null[:, s], shuffled)
        if s < 2:
            assert near.values[s].mean() == pytest.approx(mutual_knn(x, y, 5))
    assert np.isnan(near.values[2]).all()
    with pytest.raises(inputs.NotIdentifiable, match="at least 21"):
        neighbour_scores(xs, [ys], range(20), [None] * 3, 2, 7, k=19)


def test_raw_cosine_is_inflated_by_a_common_direction_and_its_baseline_shows_it():
    x, y = np.random.default_rng(21).normal(size=(2, 40, 8))
    raw, centred = cosine_alignment(x + 20, y + 20, centre=False), cosine_alignment(x + 20, y + 20)
    assert raw.value > 0.95
    assert raw.null > 0.95
    assert abs(centred.value) < 0.15
    assert centred.low < 0 < centred.high


def test_the_mismatched_baseline_is_the_mean_over_all_other_pairs():
    x, y = related(np.random.default_rng(22), n=7)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]
    cosine = unit[0] @ unit[1].T
    result = cosine_alignment(x, y, centre=False)
    assert result.value == pytest.approx(np.diagonal(cosine).mean())
    assert result.null == pytest.approx(cosine[~np.eye(7, dtype=bool)].mean())


@laws
@given(SEEDS)
def test_delta_cosine_leaves_out_pairs_that_share_a_subject(seed):
    rng = np.random.default_rng(seed)
    states = rng.normal(1, 1, size=(12, 5))
    labels, subjects = np.repeat(["a", "b", "c"], 4), np.tile([3, 1, 4, 2], 3)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    kinds = {True: [], False: []}
    for i in range(12):
        for j in range(i):
            if subjects[i] != subjects[j]:
                kinds[labels[i] == labels[j]].append(unit[i] @ unit[j])
    result = delta_cosine(states, labels, subjects)
    assert result.value == pytest.approx(np.mean(kinds[True]) - np.mean(kinds[False]), abs=1e-12)
    assert result.low < result.value < result.high


def test_delta_cosine_interval_is_the_jackknife_over_subjects():
    rng = np.random.default_rng(23)
    states, labels, subjects = (
        rng.normal(size=(18, 5)),
        np.repeat([0, 1, 2], 6),
        np.tile(np.arange(6), 3),
    )
    left_out = [
        delta_cosine(states[subjects != s], labels[subjects != s], subjects[subjects != s]).value
        for s in range(6)
    ]
    se = np.sqrt(5 * np.var(left_out))
    result = delta_cosine(states, labels, subjects)
    assert result.high - result.low == pytest.approx(2 * 2.570581836 * se, rel=1e-8)


def test_rsa_is_spearman_of_the_distance_matrices():
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    x, y = related(np.random.default_rng(24))
    expected = spearmanr(pdist(x, "cosine"), pdist(y, "cosine")).statistic
    assert rsa(x, y, centre=False) == pytest.approx(expected, abs=1e-10)


# Contrasts: identity is not meaning, a shared answer is not a shared meaning


def simulated_relations(rng, n=60, relations=3, d=48, pool=12, prompts=2, *, shared, means=5.0):
    """States with a subject code, an answer code per side and, if shared, one common code."""
    objects = np.stack([rng.permutation(np.arange(n) % pool) for _ in range(relations)])
    subject = rng.normal(size=(n, d))
    xs, ys = [], []
    for r in range(relations):
        answers = rng.normal(size=(2, pool, d))
        meaning = rng.normal(size=(n, d)) if shared else 0
        xs.append(subject + answers[0, objects[r]] + meaning + 0.5 * rng.normal(size=(n, d)))
        noise = 0.5 * rng.normal(size=(prompts, n, d)) + means * rng.normal(size=(prompts, 1, d))
        ys.append(subject + answers[1, objects[r]] + meaning + noise)
    return np.stack(xs), np.stack(ys), objects


def test_the_contrast_alone_cannot_tell_two_codes_of_one_answer_but_the_partialled_one_can():
    rng = np.random.default_rng(25)
    independent, shared = (simulated_relations(rng, shared=s) for s in (False, True))
    raw = [crossed_contrast(x, y) for x, y, _ in (independent, shared)]
    left = [crossed_contrast(x, y, given=objects) for x, y, objects in (independent, shared)]
    assert min(c.value for c in raw) > 0.3
    assert max(c.p for c in raw) == 1 / 200
    assert abs(left[0].value) < 0.06
    assert left[0].low < 0 < left[0].high
    assert left[1].value > 0.2
    assert left[1].p == 1 / 200
    assert left[1].low > 0.1


def test_a_shared_subject_code_alone_gives_high_cka_and_no_contrast():
    rng = np.random.default_rng(26)
    subject = rng.normal(size=(50, 20))
    xs, ys = (subject + 0.5 * rng.normal(size=(3, 50, 20)) for _ in range(2))
    contrast = crossed_contrast(xs, ys)
    assert contrast.table.min() > 0.5
    assert abs(contrast.value) < 0.05
    assert contrast.p > 0.05


def test_the_table_and_the_contrast_are_averages_of_plain_cka():
    xs, ys, _ = simulated_relations(np.random.default_rng(27), n=20, shared=True)
    contrast = crossed_contrast(xs, ys, n=0)
    table = np.mean([[[linear_cka(x, y[p]) for y in ys] for x in xs] for p in range(2)], axis=0)
    np.testing.assert_allclose(contrast.table, table, atol=1e-12)
    off = table[~np.eye(3, dtype=bool)].mean()
    assert contrast.value == pytest.approx(np.diagonal(table).mean() - off, abs=1e-12)
    pair = interaction(xs, ys, 0, 2, n=0)
    assert pair.value == pytest.approx(
        table[0, 0] + table[2, 2] - table[0, 2] - table[2, 0], abs=1e-12
    )


@pytest.mark.parametrize("partialled", [False, True])
def test_leaving_a_subject_out_in_closed_form_is_refitting_without_it(partialled):
    rng = np.random.default_rng(28)
    xs, ys, objects = simulated_relations(rng, n=14, pool=4, shared=True)
    closed = crossed_contrast(xs, ys, given=objects if partialled else None, n=0)
    for i in (0, 5, 13):
        refit = crossed_contrast(
            np.delete(xs, i, 1),
            np.delete(ys, i, 2),
            given=np.delete(objects, i, 1) if partialled else None,
            n=0,
        )
        np.testing.assert_allclose(closed.leave_one_out[:, i], refit.per_prompt, atol=1e-10)


@pytest.mark.parametrize("partialled", [False, True])
def test_a_null_draw_is_the_contrast_of_states_with_relabelled_subjects(partialled):
    rng = np.random.default_rng(29)
    xs, ys, objects = simulated_relations(rng, n=16, pool=4, shared=True)
    given = objects if partialled else None
    null = crossed_contrast(xs, ys, given=given, n=4, rng=3).null
    ys = ys - ys.mean(axis=2, keepdims=True)
    ys /= np.linalg.norm(ys, axis=(2, 3), keepdims=True)
    for draw, order in zip(null, _relation_orders(4, 16, 3, 3), strict=True):
        relabelled = np.stack([ys[order[q], :, np.arange(16)].transpose(1, 0, 2) for q in range(3)])
        direct = crossed_contrast(xs, relabelled, given=given, n=0).value
        assert draw == pytest.approx(direct, abs=1e-10)


def test_means_and_norms_of_a_prompt_change_neither_contrast_nor_null():
    rng = np.random.default_rng(30)
    xs, ys, _ = simulated_relations(rng, n=20, shared=False)
    moved = ys * rng.uniform(0.1, 10, size=(3, 2, 1, 1)) + 50 * rng.normal(size=(3, 2, 1, 48))
    one, other = crossed_contrast(xs, ys, n=20), crossed_contrast(xs, moved, n=20)
    assert other.value == pytest.approx(one.value, abs=1e-10)
    np.testing.assert_allclose(other.null, one.null, atol=1e-10)


def test_the_null_keeps_its_size_with_large_unequal_means():
    rng = np.random.default_rng(31)
    p = []
    for _ in range(60):
        subject = rng.normal(size=(40, 8))
        strength = np.array([0.5, 1, 2])[:, None, None]
        xs = strength * subject + rng.normal(size=(3, 40, 8))
        ys = subject + rng.normal(size=(3, 40, 8)) + np.array([0, 5, 20])[:, None, None]
        p.append(crossed_contrast(xs, ys, n=99, rng=rng).p)
    assert np.mean(np.array(p) <= 0.05) <= 8 / 60
    assert 0.35 < np.mean(p) < 0.65


def test_the_same_seed_permutes_the_same_way_at_every_site():
    xs, ys, _ = simulated_relations(np.random.default_rng(32), n=12, shared=True)
    q = rotation(np.random.default_rng(33), 48)
    np.testing.assert_allclose(
        crossed_contrast(xs, ys, n=9, rng=5).null,
        crossed_contrast(xs @ q, ys @ q, n=9, rng=5).null,
        atol=1e-10,
    )


def test_relations_choose_what_is_crossed():
    xs, ys, _ = simulated_relations(np.random.default_rng(34), n=12, shared=True)
    names = ["mother", "city", "job"]
    by_name = [dict(zip(names, side, strict=True)) for side in (xs, ys)]
    chosen = crossed_contrast(*by_name, relations=["city", "job"], n=9)
    assert chosen.relations == ("city", "job")
    assert chosen.value == pytest.approx(crossed_contrast(xs[1:], ys[1:], n=9).value)


def test_partial_cka_is_least_squares_on_u_centred_grams():
    rng = np.random.default_rng(35)
    z = rng.normal(size=(60, 3))
    x, y = (2 * z @ rotation(rng, 5)[:3] + rng.normal(size=(60, 5)) for _ in range(2))
    labels = np.arange(60) % 5
    kernels = [hsic.u_centre((labels[:, None] == labels) * 1.0), hsic.u_centre(z @ z.T)]
    basis = np.stack([k.ravel() for k in kernels], axis=1)
    left = []
    for states in (x, y):
        gram = hsic.u_centre(states @ states.T).ravel()
        left.append(gram - basis @ np.linalg.lstsq(basis, gram, rcond=None)[0])
    expected = left[0] @ left[1] / np.linalg.norm(left[0]) / np.linalg.norm(left[1])
    result = partial_cka(x, y, [labels, z])
    assert result.value == pytest.approx(expected, abs=1e-10)
    assert result.low < result.value < result.high
    assert linear_cka(x, y) > 0.6
    assert result.low < 0 < result.high


def test_the_object_kernel_is_cka_with_the_one_hot_object():
    rng = np.random.default_rng(36)
    labels = np.array(list("aabbbccddd" * 3))
    one_hot = (labels[:, None] == np.unique(labels)) * 1.0
    x = one_hot @ rng.normal(size=(4, 20)) + rng.normal(size=(30, 20))
    result = object_kernel(x, labels, n=99)
    k, m = x @ x.T, one_hot @ one_hot.T
    expected = hsic.hsic1_gram(k, m) / np.sqrt(hsic.hsic1_gram(k, k) * hsic.hsic1_gram(m, m))
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.low > 0
    assert result.p == 0.01
    p = permutations(30, 99, 0)[0]
    assert result.null[0] == pytest.approx(object_kernel(x, labels[p]).value, abs=1e-12)


def test_an_object_kernel_that_hangs_on_one_row_has_no_interval():
    labels = np.array([0, *range(23)])
    estimate = object_kernel(np.random.default_rng(43).normal(size=(24, 4)), labels)
    assert np.isfinite(estimate.value)
    assert np.isnan(estimate.low)


def test_the_object_kernel_of_names_alone_is_at_chance():
    rng = np.random.default_rng(37)
    labels = np.arange(40) % 8
    values = [object_kernel(rng.normal(size=(40, 20)), labels).value for _ in range(60)]
    assert abs(np.mean(values)) < 0.015


# What is refused


def wild(value, row=3):
    x = np.random.default_rng(38).normal(size=(24, 4))
    x[row, 1] = value
    return x


GOOD = np.random.default_rng(39).normal(size=(24, 4))
PAIRED = [
    linear_cka,
    rbf_cka,
    procrustes_distance,
    svcca,
    mutual_knn,
    retrieval,
    cosine_alignment,
    rsa,
]
UNFIT = [
    (inputs.TooFewRows, "n=3", lambda f: f(GOOD[:3], GOOD[:3])),
    (inputs.BadInput, "24 rows and y 23", lambda f: f(GOOD, GOOD[:23])),
    (inputs.BadInput, "row 3", lambda f: f(wild(np.nan), GOOD)),
    (inputs.BadInput, "y has NaN or infinity in row 3", lambda f: f(GOOD, wild(-np.inf))),
    (inputs.DegenerateStates, "same state in every row", lambda f: f(GOOD, np.full((24, 4), 0.1))),
    (
        inputs.DegenerateStates,
        "14 of 24 rows",
        lambda f: f(GOOD[[0] * 14 + list(range(1, 11))], GOOD),
    ),
    (inputs.BadInput, r"\(24,\)", lambda f: f(GOOD[:, 0], GOOD)),
    (inputs.BadInput, "cannot be read", lambda f: f([["a", "b"]] * 24, GOOD)),
    (inputs.BadInput, "12 entities in 24 rows", lambda f: f(GOOD, GOOD, groups=np.arange(24) // 2)),
]


@pytest.mark.parametrize("function", PAIRED)
@pytest.mark.parametrize(("error", "words", "call"), UNFIT)
def test_unfit_states_are_a_named_error(function, error, words, call):
    assert issubclass(error, UserError)
    with pytest.raises(error, match=words):
        call(function)


def test_raw_cosine_bears_constant_states():
    assert cosine_alignment(
        np.ones((24, 4)), np.ones((24, 4)), centre=False
    ).value == pytest.approx(1)


def test_few_rows_warn_and_enough_do_not():
    with pytest.warns(inputs.SmallSample, match="n=19"):
        linear_cka(GOOD[:19], GOOD[:19])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_cka(GOOD, GOOD)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rbf_cka(GOOD, GOOD, bandwidth=0), "bandwidth=0; expected a positive"),
        (lambda: svcca(GOOD, GOOD, variance=0), "variance=0; expected a share"),
        (lambda: mutual_knn(GOOD, GOOD, 23), "k=23 with n=24 rows"),
    ],
)
def test_options_out_of_range_are_a_named_error(call, words):
    with pytest.raises(inputs.BadInput, match=words):
        call()


def test_cosines_between_different_spaces_are_refused():
    with pytest.raises(inputs.BadInput, match="d=4 and y d=3"):
        retrieval(GOOD, GOOD[:, :3])


def test_a_batch_too_short_and_not_the_last_is_refused():
    with pytest.raises(inputs.TooFewRows, match="not the last"):
        minibatch_cka([(GOOD[a:b], GOOD[a:b]) for a, b in ((0, 8), (8, 10), (10, 24))])
    with pytest.raises(inputs.TooFewRows, match="no batches"):
        minibatch_cka([])


XS = np.random.default_rng(40).normal(size=(2, 24, 4))
IMPOSSIBLE = {
    "one relation": (lambda: crossed_contrast(XS[:1], XS[:1]), "at least two"),
    "other subjects": (
        lambda: crossed_contrast([XS[0], XS[1][:20]], [XS[0], XS[1][:20]]),
        "same subjects",
    ),
    "other order": (
        lambda: crossed_contrast(XS, XS, groups={0: list(range(24)), 1: list(range(23, -1, -1))}),
        "row orders",
    ),
    "missing relation": (
        lambda: crossed_contrast({"a": XS[0], "b": XS[1]}, {"a": XS[0]}),
        r"\['b'\]",
    ),
    "unique objects": (lambda: object_kernel(XS[0], np.arange(24)), "all 24 objects are different"),
    "one object": (lambda: object_kernel(XS[0], np.zeros(24)), "same object"),
    "one odd object": (lambda: object_kernel(XS[0], np.arange(24) == 0), "no variance"),
    "partial on unique": (lambda: partial_cka(XS[0], XS[1], np.arange(24)), "all 24"),
    "delta without pairs": (lambda: delta_cosine(XS[0], np.arange(24)), "within a relation"),
}


@pytest.mark.parametrize(("call", "why"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_the_data_cannot_answer_is_said_with_the_reason(call, why):
    with pytest.raises(inputs.NotIdentifiable, match=why):
        call()


def test_unequal_prompts_and_repeated_subjects_are_refused():

    with pytest.raises(BadInput, match=r"\(1, 4, 4\), \(2, 4, 4\)"):
        crossed_contrast(XS, [XS[:1], XS])
    with pytest.raises(inputs.BadInput, match="12 entities in 24 rows"):
        crossed_contrast(XS, XS, groups=np.arange(24) // 2)


def test_nothing_left_after_partialling_is_said():
    labels = np.arange(24) % 4
    with pytest.raises(inputs.DegenerateStates, match="after partialling"):
        partial_cka(XS[0], XS[1], [XS[0], labels])


# Inputs of any kind


def test_tensors_of_any_float_dtype_are_taken_as_float64():
    torch = pytest.importorskip("torch")
    x, y = (
        torch.tensor(z, dtype=torch.bfloat16, requires_grad=True)
        for z in related(np.random.default_rng(41))
    )
    as_numpy = [z.detach().double().numpy() for z in (x, y)]
    assert linear_cka(x, y) == linear_cka(*as_numpy)
    assert linear_cka_grid([x, y], torch.stack([x, y]))[0, 1] == pytest.approx(
        linear_cka(x, y), abs=1e-12
    )


def test_float16_arrays_are_computed_in_float64():
    x, y = (z.astype(np.float16) for z in related(np.random.default_rng(42)))
    assert linear_cka(x, y) == linear_cka(x.astype(float), y.astype(float))


# The front door


PUBLIC = {
    "contrast": ["crossed_contrast", "interaction", "object_kernel", "partial_cka"],
    "controls": ["online_code", "probe", "selectivity"],
    "cosine": ["cosine_alignment", "delta_cosine", "mutual_knn", "retrieval", "rsa"],
    "judgement": ["judge"],
    "mass_mean": ["MassMean"],
    "projection": ["project"],
    "similarity": [
        "Measure",
        "linear_cka",
        "linear_cka_grid",
        "minibatch_cka",
        "procrustes_distance",
        "rbf_cka",
        "svcca",
    ],
    "statistics": [
        "holm",
        "jackknife",
        "max_statistic_test",
        "mean_interval",
        "paired_difference",
        "permutation_test",
        "two_way_jackknife",
    ],
    "transfer": ["fit_probes", "transfer"],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_function_opens_with_an_example_that_runs(module):
    library = importlib.import_module(f"analysis.measures.{module}")
    for name in PUBLIC[module]:
        head, _, rest = getattr(library, name).__doc__.partition("\n\n")
        assert rest.lstrip().startswith(">>>"), (
            f"{name} has no example under its first line: {head}"
        )
    ran = doctest.testmod(library, raise_on_error=False)
    assert ran.attempted >= len(PUBLIC[module])
    assert ran.failed == 0


def test_the_library_does_not_import_heavy_packages():
    heavy = "[m for m in ('torch', 'scipy', 'sklearn') if m in sys.modules]"
    code = f"import sys, analysis.measures.similarity; print({heavy})"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )
