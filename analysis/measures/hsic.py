"""The Hilbert-Schmidt independence criterion and U-centred Grams, on which all CKA here rests.

HSIC_1 (Song et al. 2012, JMLR 13, eq. 5) is unbiased and has three equal forms: on Grams, on
centred features, and as the inner product of U-centred Grams over n(n-3) (Szekely & Rizzo 2014).
U-centring needs only the row norms of centred x, commutes with permuting rows, and gives zero row
sums A, B, so that eq. 5 without row i is `<A, B> - 2 (n-2)/(n-3) sum_j A_ij B_ij` over (n-1)(n-4);
U-centred Grams form a Hilbert space, so projecting kernels out is a Schur complement.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from analysis.measures import checks
from analysis.measures.checks import Array

BLOCK_ELEMENTS = 8_000_000
ROUNDING = 1e-13
NOTHING_LEFT = 1e-10


def centre(x: Array) -> Array:
    """States (..., n, d) with the mean over rows removed."""
    return x - x.mean(axis=-2, keepdims=True)


def linear_gram(x: Array) -> Array:
    """The Gram (..., n, n) of the centred states (..., n, d)."""
    x = centre(x)
    return x @ np.swapaxes(x, -1, -2)


def u_centre(k: Array) -> Array:
    """U-centred Gram (..., n, n): zero diagonal and row sums (Szekely & Rizzo 2014, eq. 2.1)."""
    n = k.shape[-1]
    k = _zero_diagonal(k)
    rows = k.sum(axis=-1)
    total = rows.sum(axis=-1)[..., None, None] / ((n - 1) * (n - 2))
    return _zero_diagonal(k - (rows[..., :, None] + rows[..., None, :]) / (n - 2) + total)


def _zero_diagonal(k: Array) -> Array:
    k = k.copy()
    diagonal = np.arange(k.shape[-1])
    k[..., diagonal, diagonal] = 0
    return k


def hsic0(k_x: Array, k_y: Array) -> float:
    """The biased estimator tr(KHLH)/(n-1)^2 of Grams (n, n) (Gretton et al. 2005)."""
    centred = k_x - k_x.mean(axis=0) - k_x.mean(axis=1)[:, None] + k_x.mean()
    return float(np.sum(centred * k_y)) / (len(k_x) - 1) ** 2


def hsic1_gram(k_x: Array, k_y: Array) -> float:
    """HSIC_1 of Grams (n, n), n >= 4: Song et al. 2012, eq. 5. Both diagonals are ignored."""
    n = len(k_x)
    k_x, k_y = _zero_diagonal(k_x), _zero_diagonal(k_y)
    rows_x, rows_y = k_x.sum(axis=1), k_y.sum(axis=1)
    total = np.sum(k_x * k_y) + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (rows_x @ rows_y)) / (n * (n - 3)))


def normalised(xy: float, xx: float, yy: float) -> float:
    """The ratio xy / sqrt(xx yy) of three HSIC values; negative values are kept.

    Raises DegenerateStates where a side has HSIC <= 0 with itself.
    """
    for name, value in (("x", xx), ("y", yy)):
        if not value > 0:
            why = f"HSIC({name}, {name}) = {value:.3g} is not positive: no variance left"
            raise checks.DegenerateStates(f"{why} between rows; leave this site or position out")
    return xy / np.sqrt(xx) / np.sqrt(yy)


def grid_hsic1(xs: Array, ys: Array) -> tuple[Array, Array, Array]:
    """n(n-3) HSIC_1 of all pairs of sites of (S, n, d_x), (T, n, d_y), and of each with itself.

    (S, T), (S,), (T,). By U-centred Grams in row blocks, cost `(S+T) n^2 d + S T n^2` halved for
    symmetry, or by features, `S T n d^2`, whichever is cheaper; memory does not grow with n^2 S.
    """
    (s, n, d_x), (t, _, d_y) = xs.shape, ys.shape
    if s * t * d_x * d_y < n * (s * d_x + t * d_y + s * t) / 2:
        return _grid_by_features(centre(xs), centre(ys)), self_hsic1(xs), self_hsic1(ys)
    xy, xx, yy = np.zeros((s, t)), np.zeros(s), np.zeros(t)
    for rows, a, b in u_centred_blocks(xs, ys, upper=True):
        # Entries right of the diagonal block count for their mirror images below it too.
        for gram in (a, b):
            gram[:, :, rows.stop - rows.start :] *= np.sqrt(2)
        a, b = a.reshape(s, -1), b.reshape(t, -1)
        xy += a @ b.T
        xx += np.einsum("sm,sm->s", a, a)
        yy += np.einsum("tm,tm->t", b, b)
    return xy, xx, yy


def _grid_by_features(xs: Array, ys: Array) -> Array:
    (_, n, d_x), (t, _, d_y) = xs.shape, ys.shape
    flat = np.ascontiguousarray(ys.transpose(1, 0, 2)).reshape(n, t * d_y)
    cross = np.array([((x.T @ flat) ** 2).reshape(d_x, t, d_y).sum(axis=(0, 2)) for x in xs])
    x_norms, y_norms = np.sum(xs * xs, axis=2), np.sum(ys * ys, axis=2)
    totals = np.outer(x_norms.sum(axis=1), y_norms.sum(axis=1)) / ((n - 1) * (n - 2))
    return cross - n / (n - 2) * (x_norms @ y_norms.T) + totals


def self_hsic1(xs: Array) -> Array:
    """n(n-3) HSIC_1 (S,) of every site of (S, n, d) with itself, by the smaller of X'X and XX'."""
    n, d = xs.shape[1:]
    values = np.zeros(len(xs))
    for s, x in enumerate(xs):
        x = centre(x)
        norms = np.sum(x * x, axis=1)
        square = np.linalg.norm(x.T @ x if d < n else x @ x.T) ** 2
        values[s] = square - n / (n - 2) * (norms @ norms) + norms.sum() ** 2 / ((n - 1) * (n - 2))
    return values


def nan_where_degenerate(
    xs: Array, values: Array, name: str = "xs", *, allow_degenerate: bool = True
) -> Array:
    """n(n-3) HSIC_1 (S,) of sites (S, n, d) with themselves, NaN where it is rounding or copies.

    Raises DegenerateStates naming those sites unless allow_degenerate.
    """
    scale = np.array([np.sum(centre(x) ** 2) ** 2 for x in xs])
    reasons = [checks.why_degenerate(x) for x in xs]
    usable = np.array([reason is None for reason in reasons]) & (values > ROUNDING * scale)
    bad = np.flatnonzero(~usable)
    if len(bad) and not allow_degenerate:
        reason = reasons[bad[0]] or "no variance left between rows"
        why = f"sites {bad.tolist()} allow no similarity estimate ({name}[{bad[0]}]: {reason})"
        remedy = "leave them out, or allow_degenerate=True for NaN there"
        raise checks.DegenerateStates(f"{name}: {why}; {remedy}")
    return np.where(usable, values, np.nan)


def u_centred_blocks(
    xs: Array, ys: Array, *, upper: bool = False
) -> Iterator[tuple[slice, Array, Array]]:
    """Row blocks (rows, (S, m, n), (T, m, n)) of the U-centred Grams of (S, n, d_x), (T, n, d_y).

    upper: only the columns from the block's first row on, (S, m, n - rows.start).
    """
    n = xs.shape[1]
    step = max(1, BLOCK_ELEMENTS // (n * (len(xs) + len(ys))))
    xs, ys = centre(xs), centre(ys)
    x_norms, y_norms = (np.sum(z * z, axis=2) for z in (xs, ys))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        first = start if upper else 0
        a, b = _u_centred_rows(xs, x_norms, rows, first), _u_centred_rows(ys, y_norms, rows, first)
        yield rows, a, b


def _u_centred_rows(z: Array, norms: Array, rows: slice, first: int) -> Array:
    """Rows of the U-centred Grams of centred (S, n, d), from column `first` on."""
    n = z.shape[1]
    block = z[:, rows] @ np.swapaxes(z[:, first:], 1, 2)
    block += norms[:, rows, None] / (n - 2)
    block += (norms[:, None, first:] - norms.sum(axis=1)[:, None, None] / (n - 1)) / (n - 2)
    inside = np.arange(rows.stop - rows.start)
    block[:, inside, inside + rows.start - first] = 0
    return block


def leave_one_out_factor(n: int) -> float:
    """c in `<A, B> - c sum_j A_ij B_ij`, the inner product without row i. Raises TooFewRows."""
    if n < 5:
        raise checks.TooFewRows(f"n={n}: leaving one row out of debiased CKA needs at least 5 rows")
    return 2 * (n - 2) / (n - 3)


def inner_products(grams: Array) -> tuple[Array, Array]:
    """Inner products (m, m) of U-centred Grams (m, n, n), and (n, m, m) without each row."""
    by_row = grams.transpose(1, 0, 2) @ grams.transpose(1, 2, 0)
    full = by_row.sum(axis=0)
    left_out = full - leave_one_out_factor(grams.shape[1]) * by_row
    # A kernel that hangs on one row (an object that occurs twice) is exactly zero without it.
    size = np.sqrt(np.diagonal(full))
    left_out[np.abs(left_out) <= ROUNDING * size[:, None] * size] = 0
    return full, left_out


def without_given(products: Array, count: int) -> Array:
    """Inner products (..., m, m) of all but the last `count` Grams, those projected out."""
    if count == 0:
        return products
    kept, across = products[..., :-count, :-count], products[..., :-count, -count:]
    given = products[..., -count:, -count:]
    inverse = np.linalg.pinv(given, rcond=NOTHING_LEFT, hermitian=True)
    return kept - across @ inverse @ np.swapaxes(across, -1, -2)


def check_something_left(products: Array, count: int, names: Sequence[str]) -> None:
    """Raises DegenerateStates where projecting the last `count` Grams out leaves nothing."""
    before, after = np.diagonal(products), np.diagonal(without_given(products, count))
    for name, whole, left in zip(names, before, after, strict=False):
        if not left > max(NOTHING_LEFT * whole, 0):
            why = f"nothing is left of its Gram{' after partialling' if count else ''}"
            raise checks.DegenerateStates(f"{name}: {why}; leave this site or position out")


def cka_tables(products: Array, count: int, r: int) -> Array:
    """CKA (..., P, R, R) from inner products of R rote, P R semantic and `count` given Grams."""
    products = without_given(products, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
        table = products[..., :r, r:] / norms[..., :r, None] / norms[..., None, r:]
    return np.moveaxis(table.reshape(*table.shape[:-1], -1, r), -2, -3)


def orthonormal(vectors: Array) -> Array:
    """Orthonormal rows spanning the rows of (k, m), to the tolerance of `without_given`."""
    values, directions = np.linalg.eigh(vectors @ vectors.T)
    kept = values > NOTHING_LEFT * values.max()
    return (directions[:, kept] / np.sqrt(values[kept])).T @ vectors
