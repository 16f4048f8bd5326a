"""Similarity of two sets of paired states: CKA, Procrustes, SVCCA, neighbours, retrieval, cosines, RSA.

    from analysis.measures.similarity import (linear_cka, crossed_contrast)

Row i of x (n, d_x) and of y (n, d_y) is the same fact, one row an entity: compute within one relation and one
prompt, then average the values. Arrays of any float dtype and torch tensors on any device go in; the
arithmetic is float64. Definitions and reference values: measures.md, sections 1 and 8. MEASURES declares the
properties of each measure once; the tests and the table in the documentation come from it.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.measures.checks import (
    TooFewRows,
    check_entities,
    check_paired,
    check_varied,
    to_float64,
    to_pair,
    to_site_pair,
    to_states,
)
from analysis.measures.cosine import cosine_alignment, mutual_knn, retrieval, rsa
from analysis.measures.hsic import (
    centre,
    grid_hsic1,
    grid_hsic1_float32,
    hsic0,
    hsic1_gram,
    hsic1_linear,
    nan_where_degenerate,
    normalised,
    raise_if_degenerate,
    self_hsic1,
)
from training.base.errors import BadInput

Array = np.ndarray


def without_components(x: Array, k: int) -> Array:
    """x (S, n, d) centred, without its top k principal components at each site."""
    x = x - x.mean(axis=1, keepdims=True)
    _, _, right = np.linalg.svd(x, full_matrices=False)
    top = right[:, :k]
    return x - (x @ top.transpose(0, 2, 1)) @ top


def zscored(x: Array) -> Array:
    """x (S, n, d) with every feature centred and scaled to unit standard deviation; constant features become 0."""
    x = x - x.mean(axis=1, keepdims=True)
    spread = x.std(axis=1, keepdims=True)
    return np.divide(
        x, spread, out=np.zeros_like(x), where=spread > 1e-6 * np.abs(x).max(initial=1e-12)
    )


Array = np.ndarray


Precision = Literal["float64", "float32"]


class Saturated(UserWarning):
    """As many dimensions as rows: the measure is near its maximum whatever the states are."""


def linear_cka(x: Any, y: Any, *, debiased: bool = True, groups: Sequence | None = None) -> float:
    """Linear centred kernel alignment between paired rows (Kornblith et al. 2019, arXiv:1905.00414).

    x: (n, d_x), y: (n, d_y). Debiased: the ratio of unbiased HSIC_1 (Song et al. 2012, eq. 5); may be
    negative; expectation about 0 for independent rows. Biased: about d/(n+d) for independent Gaussians, so
    report n and d.
    Raises TooFewRows (n < 4), BadInput, BadInput, DegenerateStates, DuplicateRows, RepeatedEntity
    (groups).
    """
    x, y = to_pair(x, y, groups)
    if debiased:
        n = len(x)
        alone = [nan_where_degenerate(z[None], self_hsic1(z[None]))[0] for z in (x, y)]
        return float(normalised(hsic1_linear(x, y) * n * (n - 3), *alone))
    x, y = centre(x), centre(y)
    if max(x.shape[1], y.shape[1]) < len(x):
        return float(np.sum((y.T @ x) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))
    k_x, k_y = x @ x.T, y @ y.T
    return float(np.sum(k_x * k_y) / np.linalg.norm(k_x) / np.linalg.norm(k_y))


def minibatch_cka(batches: Iterable[tuple[Any, Any]]) -> float:
    """Debiased linear CKA from batches (x, y) of paired rows: HSIC_1 summed over batches, then one ratio.

    Nguyen et al. 2021, arXiv:2010.15327. Every batch has at least 4 rows; a shorter last one is merged into
    the one before it. Holds two batches at a time. Raises as `linear_cka`.
    """
    sums, held, short = np.zeros(3), None, None
    for x, y in batches:
        batch = to_float64(x, "x"), to_float64(y, "y")
        check_paired(len(batch[0]), len(batch[1]))
        if short is not None:
            raise TooFewRows(
                f"a batch has n={len(short[0])} rows and is not the last; give batches of at least 4"
            )
        if held is not None and len(batch[0]) < 4:
            short = batch
            continue
        if held is not None:
            sums = sums + _hsic1_sums(*held)
        held = batch
    if held is None:
        raise TooFewRows(
            "no batches; give (x, y) pairs of at least 4 rows each (an exhausted iterator?)"
        )
    if short is not None:
        held = tuple(np.concatenate(parts) for parts in zip(held, short, strict=True))
    return float(normalised(*(sums + _hsic1_sums(*held))))


def rbf_cka(
    x: Any, y: Any, *, bandwidth: float = 1.0, debiased: bool = True, groups: Sequence | None = None
) -> float:
    """CKA with Gaussian kernels exp(-|x_i - x_j|^2 / 2 s^2), s = bandwidth x the median pairwise distance.

    x: (n, d_x), y: (n, d_y). Tends to linear CKA as the bandwidth grows (Alvarez 2022, arXiv:2112.10144).
    Raises as `linear_cka`, BadInput for a bandwidth that is not positive.
    """
    if not bandwidth > 0:
        raise BadInput(
            f"bandwidth={bandwidth}; expected a positive multiple of the median distance, such as 1.0"
        )
    x, y = to_pair(x, y, groups)
    k_x, k_y = _rbf_gram(x, bandwidth), _rbf_gram(y, bandwidth)
    hsic = hsic1_gram if debiased else hsic0
    return float(normalised(hsic(k_x, k_y), hsic(k_x, k_x), hsic(k_y, k_y)))


def procrustes_distance(
    x: Any, y: Any, *, angular: bool = False, groups: Sequence | None = None
) -> float:
    """Distance between centred, unit-Frobenius states after the best rotation: d^2 = 2 - 2 ||X'Y||_*.

    Ding et al. 2021, arXiv:2108.01661; Williams et al. 2021, arXiv:2110.14739. x: (n, d_x), y: (n, d_y); the
    narrower side is padded with zeros. In [0, sqrt 2]; angular: arccos ||X'Y||_*, in [0, pi/2]. Biased
    towards 0 at small n: show its permutation null (`permutation_test(..., alternative="less")`) beside it.
    Raises as `linear_cka`.
    """
    x, y = (fewest_columns(centre(z)) for z in to_pair(x, y, groups))
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z / np.linalg.norm(z), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    u, _, v = np.linalg.svd(x.T @ y)
    # The residual itself: 2 - 2 ||X'Y||_* loses half of the digits where the sides nearly agree.
    distance = float(np.linalg.norm(x @ (u @ v) - y))
    return 2 * float(np.arcsin(min(1.0, distance / 2))) if angular else distance


def svcca(
    x: Any,
    y: Any,
    *,
    variance: float = 0.99,
    weighted: bool = False,
    groups: Sequence | None = None,
) -> float:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017, arXiv:1706.05806).

    x: (n, d_x), y: (n, d_y). variance: share of each side's variance to keep; 1.0 keeps every direction
    (plain CCA).
    weighted: projection weights of x instead of the plain mean (PWCCA, Morcos et al. 2018, arXiv:1806.05759).
    Warns Saturated where a side keeps as many directions as there are rows to spare: independent data then
    give 1.
    """
    if not 0 < variance <= 1:
        raise BadInput(
            f"variance={variance}; expected the share of variance to keep, above 0 and at most 1"
        )
    x, y = to_pair(x, y, groups)
    (left, x_kept), (right, _) = (_leading_directions(centre(z), variance) for z in (x, y))
    kept = max(left.shape[1], right.shape[1])
    if len(x) - 1 <= kept:
        warnings.warn(
            f"n={len(x)} rows and {kept} kept directions: canonical correlations saturate; "
            "keep less variance, give more rows, or use linear_cka",
            Saturated,
            stacklevel=2,
        )
    u, correlations, _ = np.linalg.svd(left.T @ right, full_matrices=False)
    correlations = np.clip(correlations, 0, 1)
    if not weighted:
        return float(correlations.mean())
    weights = np.abs((left @ u).T @ x_kept).sum(axis=1)
    return float(weights @ correlations / weights.sum())


def linear_cka_grid(
    xs: Any,
    ys: Any,
    groups: Sequence | None = None,
    *,
    allow_degenerate: bool = False,
    precision: Precision = "float64",
) -> Array:
    """Debiased linear CKA (S, T) of every site of xs (S, n, d_x) with every site of ys (T, n, d_y).

    One product of stacked U-centred Grams, streamed over row blocks, or of stacked features, whichever costs
    less; memory does not grow with n x n x sites. allow_degenerate: NaN at sites without variance instead of
    DegenerateStates (`site_reasons` says why). precision: "float32" computes on the device of the torch tensors that
    are given, for large grids on a GPU, to about 1e-5 (analysis.measures.hsic). Raises as `linear_cka`, naming the site.
    """
    if precision == "float32":
        check_paired(np.shape(xs[0])[0], np.shape(ys[0])[0])
        check_entities(groups, np.shape(xs[0])[0])
        xy, xx, yy = grid_hsic1_float32(xs, ys)
    elif precision == "float64":
        xs, ys = to_site_pair(xs, ys, groups, same_sites=False)
        xy, xx, yy = grid_hsic1(xs, ys)
        xx, yy = nan_where_degenerate(xs, xx), nan_where_degenerate(ys, yy)
    else:
        raise BadInput(f"precision={precision!r}; expected 'float64' or 'float32'")
    if not allow_degenerate:
        for stack, alone, name in ((xs, xx, "xs"), (ys, yy, "ys")):
            if np.isnan(alone).any():
                raise_if_degenerate([to_float64(x, name) for x in stack], alone, name)
    return xy / np.sqrt(xx)[:, None] / np.sqrt(yy)


@dataclass(frozen=True)
class Measure:
    """The declared properties of a measure of two sets of paired states.

    function: (x, y) -> number. chance: its expectation on independent Gaussians, from (n, d); None if
    unknown.
    invariances, of the value: "rotation", "shift", "scale" (each of one side alone), "joint rotation" (of
    both sides alike), "row order" (of both sides alike), "symmetry". identity: the value of a set with
    itself.
    changes: what must change it, "invertible map" of one side, "pairing" (rows of one side permuted).
    """

    name: str
    function: Callable[[Any, Any], float]
    range: tuple[float, float]
    chance: Callable[[int, int], float] | None
    larger_is_more_similar: bool
    invariances: frozenset[str]
    identity: float
    minimum_n: int
    source: str
    changes: frozenset[str] = frozenset({"invertible map", "pairing"})


_ONE_SIDED = frozenset({"rotation", "joint rotation", "shift", "scale", "row order", "symmetry"})


_ONE_SPACE = frozenset({"joint rotation", "shift", "scale", "row order"})


MEASURES = (
    Measure(
        "linear_cka",
        linear_cka,
        (-1, 1),
        lambda n, d: 0.0,
        True,
        _ONE_SIDED,
        1.0,
        4,
        "arXiv:1905.00414",
    ),
    Measure(
        "linear_cka_biased",
        lambda x, y: linear_cka(x, y, debiased=False),
        (0, 1),
        lambda n, d: d / (n + d),
        True,
        _ONE_SIDED,
        1.0,
        4,
        "arXiv:1905.00414",
    ),
    Measure(
        "rbf_cka", rbf_cka, (-1, 1), lambda n, d: 0.0, True, _ONE_SIDED, 1.0, 4, "arXiv:1905.00414"
    ),
    Measure(
        "procrustes_distance",
        procrustes_distance,
        (0, np.sqrt(2)),
        None,
        False,
        _ONE_SIDED,
        0.0,
        4,
        "arXiv:2108.01661",
    ),
    Measure(
        "svcca",
        svcca,
        (0, 1),
        None,
        True,
        _ONE_SIDED,
        1.0,
        4,
        "arXiv:1706.05806",
        frozenset({"pairing"}),
    ),
    Measure(
        "mutual_knn",
        lambda x, y: mutual_knn(x, y, min(10, len(x) // 2)),
        (0, 1),
        lambda n, d: min(10, n // 2) / (n - 1),
        True,
        _ONE_SIDED,
        1.0,
        4,
        "arXiv:2405.07987",
    ),
    Measure(
        "retrieval",
        lambda x, y: retrieval(x, y).value,
        (0, 1),
        lambda n, d: 1 / n,
        True,
        _ONE_SPACE,
        1.0,
        4,
        "measures.md section 1",
    ),
    Measure(
        "cosine_alignment",
        lambda x, y: cosine_alignment(x, y).value,
        (-1, 1),
        lambda n, d: 0.0,
        True,
        _ONE_SPACE | {"symmetry"},
        1.0,
        4,
        "measures.md section 1",
    ),
    Measure(
        "rsa",
        rsa,
        (-1, 1),
        lambda n, d: 0.0,
        True,
        _ONE_SIDED,
        1.0,
        4,
        "doi:10.3389/neuro.06.004.2008",
    ),
)


def _hsic1_sums(x: Array, y: Array) -> Array:
    """HSIC_1 of (x, y), (x, x) and (y, y) of one batch."""
    x, y = to_states(x, "x"), to_states(y, "y")
    check_varied(x, "x")
    check_varied(y, "y")
    return np.array([hsic1_linear(x, y), hsic1_linear(x, x), hsic1_linear(y, y)])


def _rbf_gram(x: Array, bandwidth: float) -> Array:
    """exp(-D^2 / 2 s^2) - 1 (n, n): HSIC ignores a constant, and without it wide kernels keep their
    digits.
    """
    x = centre(x)
    norms = np.sum(x * x, axis=1)
    squared = np.maximum(0, norms[:, None] + norms - 2 * x @ x.T)
    np.fill_diagonal(squared, 0)
    median = np.median(np.sqrt(squared[np.triu_indices(len(x), 1)]))
    return np.expm1(-squared / (2 * (bandwidth * median) ** 2))


def fewest_columns(x: Array) -> Array:
    """x (n, d) rotated so that it needs at most n columns."""
    return x if x.shape[1] <= len(x) else np.linalg.qr(x.T, mode="r").T


def _leading_directions(x: Array, variance: float) -> tuple[Array, Array]:
    """Orthonormal scores (n, k) of the principal components that hold `variance`, and x rebuilt from them."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    rank = int(np.sum(s > s[0] * max(x.shape) * np.finfo(np.float64).eps))
    kept = rank if variance == 1 else min(rank, int(np.searchsorted(share, variance)) + 1)
    return u[:, :kept], (u[:, :kept] * s[:kept]) @ v[:kept]
