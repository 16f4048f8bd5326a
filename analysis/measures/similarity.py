"""Similarity of two sets of paired states: CKA, Procrustes distance, SVCCA, and MEASURES.

Row i of x (n, d_x) and of y (n, d_y) is the same fact, one row per entity: compute within one
relation and one prompt, then average the values. MEASURES declares the properties of every measure;
the property tests and the table in docs/measures.md come from it.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from analysis.measures import checks, hsic
from analysis.measures.checks import Array, Groups, Values
from analysis.measures.cosine import cosine_alignment, mutual_knn, retrieval, rsa
from analysis.measures.statistics import Rng, permutations
from training.base.errors import BadInput

# Gathered pairs of one draw that stay in the processor's cache; larger pieces are much slower.
GATHER_ELEMENTS = 65_536


class Saturated(UserWarning):
    """As many dimensions as rows: the measure is near its maximum whatever the states are."""


def linear_cka(x: Values, y: Values, *, debiased: bool = True, groups: Groups = None) -> float:
    """Linear centred kernel alignment of paired rows (Kornblith et al. 2019, arXiv:1905.00414).

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)  # rotation, scale and shift change nothing
    1.0

    x: (n, d_x), y: (n, d_y); groups: (n,) the entity of each row, to refuse repeats.
    Debiased: the ratio of unbiased HSIC_1 (Song et al. 2012, eq. 5), about 0 for independent rows
    and sometimes negative. Biased: about d/(n+d) for independent Gaussians, so report n and d.
    Raises TooFewRows (n < 4), DegenerateStates (constant or copied rows), BadInput.
    """
    x, y = checks.to_pair(x, y, groups)
    if debiased:
        xy, xx, yy = hsic.grid_hsic1(x[None], y[None])
        xx, yy = hsic.nan_where_degenerate(x[None], xx), hsic.nan_where_degenerate(y[None], yy)
        return float(hsic.normalised(xy[0, 0], xx[0], yy[0]))
    x, y = hsic.centre(x), hsic.centre(y)
    if max(x.shape[1], y.shape[1]) < len(x):
        return float(np.sum((y.T @ x) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))
    k_x, k_y = x @ x.T, y @ y.T
    return float(np.sum(k_x * k_y) / np.linalg.norm(k_x) / np.linalg.norm(k_y))


def linear_cka_grid(
    xs: Values, ys: Values, groups: Groups = None, *, allow_degenerate: bool = False
) -> Array:
    """Debiased linear CKA (S, T) of every site of xs (S, n, d_x) with every site of ys (T, n, d_y).

    >>> xs = np.random.default_rng(0).normal(size=(3, 40, 8))
    >>> linear_cka_grid(xs, xs[:2]).round(2).tolist()
    [[1.0, -0.06], [-0.06, 1.0], [0.01, 0.02]]

    Memory does not grow with n^2 S. allow_degenerate: NaN at sites without variance instead of
    DegenerateStates (`site_reasons` says why). Raises as `linear_cka`, naming the site.
    """
    xs, ys = checks.to_site_pair(xs, ys, groups, same_sites=False)
    xy, xx, yy = hsic.grid_hsic1(xs, ys)
    xx = hsic.nan_where_degenerate(xs, xx, "xs", allow_degenerate=allow_degenerate)
    yy = hsic.nan_where_degenerate(ys, yy, "ys", allow_degenerate=allow_degenerate)
    return _ratio(xy, xx[:, None], yy)


def leave_one_out_cka(
    xs: Values, ys: Values, *, allow_degenerate: bool = False
) -> tuple[Array, Array]:
    """Debiased CKA (S,) of paired sites and its delete-one values (S, n), for `jackknife_interval`.

    xs: (S, n, d_x), ys: (S, n, d_y), n >= 5. allow_degenerate: as `linear_cka_grid`. Leaving a row
    out has a closed form in the U-centred Grams (see hsic), so nothing is refitted.
    """
    xs, ys = checks.to_site_pair(xs, ys, same_sites=True)
    factor = hsic.leave_one_out_factor(xs.shape[1])
    by_block = [
        [np.einsum("sib,sib->si", left, right) for left, right in ((a, b), (a, a), (b, b))]
        for _, a, b in hsic.u_centred_blocks(xs, ys)
    ]
    xy, xx, yy = (np.concatenate(parts, axis=-1) for parts in zip(*by_block, strict=True))
    for stack, rows, name in ((xs, xx, "xs"), (ys, yy, "ys")):
        total = rows.sum(axis=-1)
        total = hsic.nan_where_degenerate(stack, total, name, allow_degenerate=allow_degenerate)
        rows[np.isnan(total)] = np.nan
    totals = [z.sum(axis=-1, keepdims=True) for z in (xy, xx, yy)]
    left_out = [t - factor * z for t, z in zip(totals, (xy, xx, yy), strict=True)]
    return _ratio(*totals)[:, 0], _ratio(*left_out)


def permutation_null_cka(
    xs: Values,
    ys: Values,
    n: int = 999,
    rng: Rng = 0,
    *,
    grid: bool = False,
    allow_degenerate: bool = False,
) -> Array:
    """Null draws of debiased linear CKA, the same n permutations of the rows of ys at all sites.

    xs: (S, n_rows, d_x), ys: (S, n_rows, d_y) -> (n, S); grid: ys (T, n_rows, d_y) -> (n, S, T).
    Permuting commutes with U-centring, so a draw is sum(A * B[p][:, p]) over constant norms. Holds
    the U-centred Grams of all sites, 8 (S + T) n_rows^2 bytes.
    """
    xs, ys = checks.to_site_pair(xs, ys, same_sites=not grid)
    rows, s, t = xs.shape[1], len(xs), len(ys)
    own, how = hsic.self_hsic1, {"allow_degenerate": allow_degenerate}
    xx, yy = (hsic.nan_where_degenerate(z, own(z), k, **how) for z, k in ((xs, "xs"), (ys, "ys")))
    draws = permutations(rows, n, rng)
    a, b = _grams_by_pair(xs, ys)
    upper = np.triu_indices(rows, 1)
    null = np.zeros((n, s, t) if grid else (n, s))
    step = max(1, GATHER_ELEMENTS // max(s, t))
    for start in range(0, len(upper[0]), step):
        i, j = (index[start : start + step] for index in upper)
        a_pairs = a.take(i * rows + j, axis=0)
        for draw, p in zip(null, draws, strict=True):
            b_pairs = b.take(p.take(i) * rows + p.take(j), axis=0)
            draw += 2 * (a_pairs.T @ b_pairs if grid else np.einsum("ms,ms->s", a_pairs, b_pairs))
    return _ratio(null, xx[:, None], yy) if grid else _ratio(null, xx, yy)


def _grams_by_pair(xs: Array, ys: Array) -> tuple[Array, Array]:
    """U-centred Grams as (n * n, S), (n * n, T): the sites of a pair of rows lie together."""
    n = xs.shape[1]
    grams = np.empty((n, n, len(xs))), np.empty((n, n, len(ys)))
    for rows, *blocks in hsic.u_centred_blocks(xs, ys):
        for gram, block in zip(grams, blocks, strict=True):
            gram[rows] = block.transpose(1, 2, 0)
    return grams[0].reshape(n * n, -1), grams[1].reshape(n * n, -1)


def _ratio(xy: Array, xx: Array, yy: Array) -> Array:
    """xy / sqrt(xx yy); NaN without variance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = xy / np.sqrt(xx) / np.sqrt(yy)
    return np.where((xx > 0) & (yy > 0), ratio, np.nan)


def minibatch_cka(batches: Iterable[tuple[Values, Values]]) -> float:
    """Debiased linear CKA from batches (x, y): HSIC_1 summed over batches, then one ratio.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(minibatch_cka((x[i : i + 10], x[i : i + 10]) for i in range(0, 40, 10)), 6)
    1.0

    Nguyen et al. 2021, arXiv:2010.15327. Every batch has at least 4 rows; a shorter last one is
    merged into the one before it. Holds two batches at a time. Raises as `linear_cka`.
    """
    sums, held = np.zeros(3), list[tuple[Array, Array]]()
    for x, y in batches:
        x, y = checks.to_float64(x, "x"), checks.to_float64(y, "y")
        checks.check_paired(len(x), len(y))
        if len(held) == 2:
            short = f"a batch has n={len(held[1][0])} rows and is not the last"
            raise checks.TooFewRows(f"{short}; give at least 4 to each")
        if held and len(x) >= checks.LEAST_ROWS:
            sums += _hsic1_sums(*held.pop())
        held.append((x, y))
    if not held:
        raise checks.TooFewRows("no batches; give (x, y) pairs (or is the iterator exhausted?)")
    x, y = (np.concatenate(side) for side in zip(*held, strict=True))
    return float(hsic.normalised(*(sums + _hsic1_sums(x, y))))


def _hsic1_sums(x: Array, y: Array) -> Array:
    """HSIC_1 of (x, y), (x, x) and (y, y) of one batch."""
    x, y = checks.to_states(x, "x"), checks.to_states(y, "y")
    checks.check_varied(x, "x")
    checks.check_varied(y, "y")
    xy, xx, yy = hsic.grid_hsic1(x[None], y[None])
    return np.array([xy[0, 0], xx[0], yy[0]]) / (len(x) * (len(x) - 3))


def rbf_cka(
    x: Values, y: Values, *, bandwidth: float = 1.0, debiased: bool = True, groups: Groups = None
) -> float:
    """CKA with Gaussian kernels exp(-|x_i - x_j|^2 / 2 s^2), s = bandwidth x the median distance.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(rbf_cka(x, x**3), 2), round(rbf_cka(x, 2 * x), 6)
    (0.47, 1.0)

    x: (n, d_x), y: (n, d_y). Tends to linear CKA as the bandwidth grows (Alvarez 2022,
    arXiv:2112.10144). Raises as `linear_cka`, and BadInput unless the bandwidth is positive.
    """
    if not bandwidth > 0:
        raise BadInput(f"bandwidth={bandwidth}; expected a positive multiple of the median")
    x, y = checks.to_pair(x, y, groups)
    k_x, k_y = _rbf_gram(x, bandwidth), _rbf_gram(y, bandwidth)
    of = hsic.hsic1_gram if debiased else hsic.hsic0
    return float(hsic.normalised(of(k_x, k_y), of(k_x, k_x), of(k_y, k_y)))


def _rbf_gram(x: Array, bandwidth: float) -> Array:
    """exp(-D^2 / 2 s^2) - 1 (n, n): HSIC ignores a constant, and wide kernels keep their digits."""
    x = hsic.centre(x)
    norms = np.sum(x * x, axis=1)
    squared = np.maximum(0, norms[:, None] + norms - 2 * x @ x.T)
    np.fill_diagonal(squared, 0)
    median = np.median(np.sqrt(squared[np.triu_indices(len(x), 1)]))
    return np.expm1(-squared / (2 * (bandwidth * median) ** 2))


def procrustes_distance(
    x: Values, y: Values, *, angular: bool = False, groups: Groups = None
) -> float:
    """Distance of centred, unit-Frobenius states after the best rotation: d^2 = 2 - 2 ||X'Y||_*.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(procrustes_distance(x, 3 * x[:, ::-1] + 1), 6), round(procrustes_distance(x, x**2), 2)
    (0.0, 1.01)

    Ding et al. 2021, arXiv:2108.01661; Williams et al. 2021, arXiv:2110.14739. x: (n, d_x),
    y: (n, d_y), the narrower padded with zeros. In [0, sqrt 2]; angular: arccos ||X'Y||_*, in
    [0, pi/2]. Biased towards 0 at small n: show its null beside it (`permutation_test(...,
    alternative="less")`). Raises as `linear_cka`.
    """
    x, y = (fewest_columns(hsic.centre(z)) for z in checks.to_pair(x, y, groups))
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z / np.linalg.norm(z), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    u, _, v = np.linalg.svd(x.T @ y)
    # The residual itself: 2 - 2 ||X'Y||_* loses half of the digits where the sides nearly agree.
    distance = float(np.linalg.norm(x @ (u @ v) - y))
    return 2 * float(np.arcsin(min(1.0, distance / 2))) if angular else distance


def fewest_columns(x: Array) -> Array:
    """x (n, d) rotated so that it needs at most n columns."""
    return x if x.shape[1] <= len(x) else np.asarray(np.linalg.qr(x.T, mode="r")).T


def svcca(
    x: Values, y: Values, *, variance: float = 0.99, weighted: bool = False, groups: Groups = None
) -> float:
    """Mean canonical correlation of leading components (Raghu et al. 2017, arXiv:1706.05806).

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(svcca(x, x @ np.diag(np.arange(1, 9)), variance=1.0), 6)
    1.0

    x: (n, d_x), y: (n, d_y). variance: share of each side's variance to keep; 1.0 keeps every
    direction (plain CCA). weighted: projection weights of x instead of the plain mean (PWCCA,
    Morcos et al. 2018, arXiv:1806.05759). Warns Saturated where a side keeps as many directions as
    there are rows to spare: independent data then give 1. Raises as `linear_cka`.
    """
    if not 0 < variance <= 1:
        raise BadInput(f"variance={variance}; expected a share, above 0 and at most 1")
    x, y = checks.to_pair(x, y, groups)
    (left, x_kept), (right, _) = (_leading_directions(hsic.centre(z), variance) for z in (x, y))
    kept = max(left.shape[1], right.shape[1])
    if len(x) - 1 <= kept:
        words = f"n={len(x)} rows and {kept} kept directions: canonical correlations saturate"
        warnings.warn(f"{words}; keep less variance or give more rows", Saturated, stacklevel=2)
    u, correlations, _ = np.linalg.svd(left.T @ right, full_matrices=False)
    correlations = np.clip(correlations, 0, 1)
    if not weighted:
        return float(correlations.mean())
    weights = np.abs((left @ u).T @ x_kept).sum(axis=1)
    return float(weights @ correlations / weights.sum())


def _leading_directions(x: Array, variance: float) -> tuple[Array, Array]:
    """Orthonormal scores (n, k) of the components that hold `variance`, and x rebuilt from them."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    rank = int(np.sum(s > s[0] * max(x.shape) * np.finfo(np.float64).eps))
    kept = rank if variance == 1 else min(rank, int(np.searchsorted(share, variance)) + 1)
    return u[:, :kept], (u[:, :kept] * s[:kept]) @ v[:kept]


def without_components(x: Array, k: int) -> Array:
    """x (S, n, d) centred, without its top k principal components at each site."""
    x = hsic.centre(x)
    _, _, right = np.linalg.svd(x, full_matrices=False)
    top = right[:, :k]
    return x - (x @ top.transpose(0, 2, 1)) @ top


def zscored(x: Array) -> Array:
    """x (S, n, d), every feature centred and of unit standard deviation; constant ones become 0."""
    x = hsic.centre(x)
    spread = x.std(axis=1, keepdims=True)
    varied = spread > 1e-6 * np.abs(x).max(initial=1e-12)
    return np.divide(x, spread, out=np.zeros_like(x), where=varied)


_ONE_SPACE = frozenset({"joint rotation", "shift", "scale", "row order"})
_ONE_SIDED = _ONE_SPACE | {"rotation", "symmetry"}


@dataclass(frozen=True)
class Measure:
    """The declared properties of a measure of two sets of paired states.

    >>> [m.name for m in MEASURES if not m.larger_is_more_similar]
    ['procrustes_distance']

    chance: the expectation on independent Gaussians, from (n, d), None if unknown; identity: the
    value of a set with itself. "rotation", "shift", "scale" and "invertible map" are of one side,
    "joint rotation" and "row order" of both alike; "pairing" permutes the rows of one side.
    """

    name: str
    function: Callable[[Array, Array], float]
    range: tuple[float, float]
    chance: Callable[[int, int], float] | None
    source: str
    invariances: frozenset[str] = _ONE_SIDED
    changes: frozenset[str] = frozenset({"invertible map", "pairing"})
    larger_is_more_similar: bool = True
    identity: float = 1.0
    minimum_n: int = 4


# fmt: off
MEASURES = (
    Measure("linear_cka", linear_cka, (-1, 1), lambda n, d: 0.0, "arXiv:1905.00414"),
    Measure("linear_cka_biased", lambda x, y: linear_cka(x, y, debiased=False), (0, 1),
            lambda n, d: d / (n + d), "arXiv:1905.00414"),
    Measure("rbf_cka", rbf_cka, (-1, 1), lambda n, d: 0.0, "arXiv:1905.00414"),
    Measure("procrustes_distance", procrustes_distance, (0, np.sqrt(2)), None, "arXiv:2108.01661",
            larger_is_more_similar=False, identity=0.0),
    Measure("svcca", svcca, (0, 1), None, "arXiv:1706.05806", changes=frozenset({"pairing"})),
    Measure("mutual_knn", lambda x, y: mutual_knn(x, y, min(10, len(x) // 2)), (0, 1),
            lambda n, d: min(10, n // 2) / (n - 1), "arXiv:2405.07987"),
    Measure("retrieval", lambda x, y: retrieval(x, y).value, (0, 1), lambda n, d: 1 / n,
            "measures.md section 1", invariances=_ONE_SPACE),
    Measure("cosine_alignment", lambda x, y: cosine_alignment(x, y).value, (-1, 1),
            lambda n, d: 0.0, "measures.md section 1", invariances=_ONE_SPACE | {"symmetry"}),
    Measure("rsa", rsa, (-1, 1), lambda n, d: 0.0, "doi:10.3389/neuro.06.004.2008"),
)
# fmt: on
