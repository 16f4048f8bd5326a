"""Debiased CKA of stacked sites without each row, and under permuted rows, without refitting.

Leaving a row out has a closed form in the U-centred Grams, and permuting rows commutes with
U-centring (see analysis.measures.hsic), so both cost about as much as the plain values.
"""

import numpy as np
from numpy.typing import ArrayLike

from analysis.measures import hsic
from analysis.measures.checks import Array, Groups, TooFewRows, to_site_pair
from analysis.measures.statistics import Rng, permutations

# Gathered pairs of one draw that stay in the processor's cache; larger pieces are much slower.
GATHER_ELEMENTS = 65_536


def leave_one_out_cka(
    xs: ArrayLike,
    ys: ArrayLike,
    groups: Groups = None,
    *,
    grid: bool = False,
    allow_degenerate: bool = False,
) -> tuple[Array, Array]:
    """Debiased CKA of stacked sites and all its delete-one values, for `jackknife_interval`.

    xs: (S, n, d_x), ys: (S, n, d_y) paired sites -> (S,), (S, n); grid: ys (T, n, d_y) -> (S, T),
    (S, T, n). n >= 5. allow_degenerate: NaN at sites without variance instead of DegenerateStates.
    """
    xs, ys = to_site_pair(xs, ys, groups, same_sites=not grid)
    n = xs.shape[1]
    if n < 5:
        raise TooFewRows(f"n={n}: leaving one row out of debiased CKA needs at least 5 rows")
    blocks = [
        (_row_products(a, b, grid), _row_products(a, a), _row_products(b, b))
        for _, a, b in hsic.u_centred_blocks(xs, ys)
    ]
    xy, xx, yy = (np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
    for stack, rows, name in ((xs, xx, "xs"), (ys, yy, "ys")):
        total = rows.sum(axis=-1)
        total = hsic.nan_where_degenerate(stack, total, name, allow_degenerate=allow_degenerate)
        rows[np.isnan(total)] = np.nan
    totals = [z.sum(axis=-1, keepdims=True) for z in (xy, xx, yy)]
    factor = hsic.leave_one_out_factor(n)
    left_out = [t - factor * z for t, z in zip(totals, (xy, xx, yy), strict=True)]
    return _ratio(*totals, grid=grid)[..., 0], _ratio(*left_out, grid=grid)


def permutation_null_cka(
    xs: ArrayLike,
    ys: ArrayLike,
    n: int = 999,
    rng: Rng = 0,
    groups: Groups = None,
    *,
    grid: bool = False,
    allow_degenerate: bool = False,
) -> Array:
    """Null draws of debiased linear CKA, the same n permutations of the rows of ys at all sites.

    xs: (S, n_rows, d_x), ys: (S, n_rows, d_y) -> (n, S); grid: ys (T, n_rows, d_y) -> (n, S, T).
    Permuting commutes with U-centring, so a draw is sum(A * B[p][:, p]) over constant norms. Holds
    the U-centred Grams of all sites, 8 (S + T) n_rows^2 bytes.
    """
    xs, ys = to_site_pair(xs, ys, groups, same_sites=not grid)
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
    return _ratio(null, xx, yy, grid=grid)


def _grams_by_pair(xs: Array, ys: Array) -> tuple[Array, Array]:
    """U-centred Grams as (n * n, S), (n * n, T): the sites of a pair of rows lie together."""
    n = xs.shape[1]
    grams = np.empty((n, n, len(xs))), np.empty((n, n, len(ys)))
    for rows, *blocks in hsic.u_centred_blocks(xs, ys):
        for gram, block in zip(grams, blocks, strict=True):
            gram[rows] = block.transpose(1, 2, 0)
    return grams[0].reshape(n * n, -1), grams[1].reshape(n * n, -1)


def _ratio(xy: Array, xx: Array, yy: Array, *, grid: bool) -> Array:
    """xy / sqrt(xx yy) of paired sites, or of all pairs of a grid; NaN without variance."""
    if grid:
        xx, yy = xx[:, None], yy[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = xy / np.sqrt(xx) / np.sqrt(yy)
    return np.where((xx > 0) & (yy > 0), ratio, np.nan)


def _row_products(a: Array, b: Array, grid: bool = False) -> Array:
    """(S, m) sum_j A_ij B_ij of rows (S, m, n), (S, m, n); grid: (S, T, m), b (T, m, n)."""
    if grid:
        return (a.transpose(1, 0, 2) @ b.transpose(1, 2, 0)).transpose(1, 2, 0)
    return np.einsum("sib,sib->si", a, b)
