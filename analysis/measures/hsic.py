"""Estimators of the Hilbert-Schmidt independence criterion, on which every form of CKA here rests.

HSIC_0 is biased by about d/(n+d) in the ratio; HSIC_1 (Song et al. 2012, JMLR 13, eq. 5) is unbiased and has
three equal forms: on Grams, as a U-centred inner product (Szekely & Rizzo 2014), and on centred features.
Three facts make whole grids, jackknives and nulls cheap:
for centred x the row sums of the zero-diagonal Gram are -|x_i|^2, so U-centring needs the row norms only;
permuting rows commutes with U-centring; and since the rows of U-centred A, B sum to zero, leaving row i out
gives `(n-1)(n-4) HSIC_1 = <A, B> - 2 (n-2)/(n-3) sum_j A_ij B_ij` (put zero row sums into eq. 5 for n - 1
rows).

HSIC_1 of all pairs of sites in float32, on the device where the states are: the path of large grids on a GPU.

Used by `analysis.measures.similarity.linear_cka_grid(xs, ys, precision="float32")`. States come as torch tensors (any device,
any float dtype) or arrays. They are centred and scaled to unit mean squared norm first, so that float32 has its digits
where they count; the Grams are float32, with TensorFloat-32 off whatever the caller's setting; what is summed over row
blocks is float64. Values agree with the float64 path to about 1e-5 (the tests ask for 1e-4): enough for a map of
layers, not for the laws, the jackknife or a difference in the fourth digit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.measures.checks import (
    LEAST_ROWS,
    DegenerateStates,
    TooFewRows,
    to_float64,
    why_degenerate,
)
from training.base.errors import BadInput

Array = np.ndarray


BLOCK_ELEMENTS = 8_000_000


ROUNDING = 1e-13


def centre(x: Array) -> Array:
    """States (..., n, d) with the mean over rows removed."""
    return x - x.mean(axis=-2, keepdims=True)


def hsic0(k_x: Array, k_y: Array) -> float:
    """The biased estimator tr(KHLH)/(n-1)^2 of Grams (n, n) (Gretton et al. 2005)."""
    return float(np.sum(_double_centred(k_x) * k_y)) / (len(k_x) - 1) ** 2


def hsic1_gram(k_x: Array, k_y: Array) -> float:
    """HSIC_1 of Grams (n, n), n >= 4: Song et al. 2012, eq. 5. The diagonals of both are ignored."""
    n = len(k_x)
    k_x, k_y = _zero_diagonal(k_x), _zero_diagonal(k_y)
    rows_x, rows_y = k_x.sum(axis=1), k_y.sum(axis=1)
    total = (
        np.sum(k_x * k_y)
        + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (rows_x @ rows_y)
    )
    return float(total / (n * (n - 3)))


def hsic1_ucentred(a: Array, b: Array) -> float:
    """HSIC_1 of U-centred Grams (n, n): their inner product / n(n-3) (Szekely & Rizzo 2014, eq. 2.3)."""
    n = len(a)
    return float(np.sum(a * b) / (n * (n - 3)))


def hsic1_features(x: Array, y: Array) -> float:
    """HSIC_1 of the linear kernels of states (n, d_x), (n, d_y) in O(n d_x d_y), without an n x n matrix."""
    n = len(x)
    x, y = centre(x), centre(y)
    x_norms, y_norms = np.sum(x * x, axis=1), np.sum(y * y, axis=1)
    total = (
        np.sum((y.T @ x) ** 2)
        - n / (n - 2) * (x_norms @ y_norms)
        + x_norms.sum() * y_norms.sum() / ((n - 1) * (n - 2))
    )
    return float(total / (n * (n - 3)))


def hsic1_linear(x: Array, y: Array) -> float:
    """HSIC_1 of the linear kernels of states (n, d_x), (n, d_y), by Grams or features, whichever is
    smaller.
    """
    if max(x.shape[1], y.shape[1]) < len(x):
        return hsic1_features(x, y)
    return hsic1_gram(linear_gram(x), linear_gram(y))


def linear_gram(x: Array) -> Array:
    """The Gram (..., n, n) of the centred states (..., n, d)."""
    x = centre(x)
    return x @ np.swapaxes(x, -1, -2)


def u_centre(k: Array) -> Array:
    """U-centred Gram (..., n, n): zero diagonal, every row sums to zero (Szekely & Rizzo 2014, eq. 2.1)."""
    n = k.shape[-1]
    k = _zero_diagonal(k)
    rows = k.sum(axis=-1)
    centred = (
        k
        - (rows[..., :, None] + rows[..., None, :]) / (n - 2)
        + rows.sum(axis=-1)[..., None, None] / ((n - 1) * (n - 2))
    )
    return _zero_diagonal(centred)


def normalised(xy: float, xx: float, yy: float) -> float:
    """The ratio xy / sqrt(xx yy) of three HSIC values; negative values are kept.

    Raises DegenerateStates where a side has HSIC <= 0 with itself.
    """
    for name, value in (("x", xx), ("y", yy)):
        if not value > 0:
            raise DegenerateStates(
                f"HSIC({name}, {name}) = {value:.3g} is not positive: {name} has no variance "
                "left between rows; leave this site or position out"
            )
    return xy / np.sqrt(xx) / np.sqrt(yy)


def grid_hsic1(xs: Array, ys: Array) -> tuple[Array, Array, Array]:
    """n(n-3) HSIC_1 of every pair of sites of (S, n, d_x) and (T, n, d_y), and of each site with itself.

    (S, T), (S,), (T,). By U-centred Grams streamed over row blocks, cost `(S+T) n^2 d + S T n^2` halved for
    symmetry, or by features, `S T n d^2`, whichever is cheaper; memory does not grow with n x n x sites.
    """
    (s, n, d_x), (t, _, d_y) = xs.shape, ys.shape
    if s * t * d_x * d_y < n * (s * d_x + t * d_y + s * t) / 2:
        return _grid_by_features(centre(xs), centre(ys)), self_hsic1(xs), self_hsic1(ys)
    xy, xx, yy = np.zeros((s, t)), np.zeros(s), np.zeros(t)
    for rows, a, b in u_centred_blocks(xs, ys, upper=True):
        # Entries right of the diagonal block stand for their mirror images below it too.
        for gram in (a, b):
            gram[:, :, rows.stop - rows.start :] *= np.sqrt(2)
        a, b = a.reshape(s, -1), b.reshape(t, -1)
        xy += a @ b.T
        xx += np.einsum("sm,sm->s", a, a)
        yy += np.einsum("tm,tm->t", b, b)
    return xy, xx, yy


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


def nan_where_degenerate(xs: Array, values: Array) -> Array:
    """n(n-3) HSIC_1 (S,) of sites (S, n, d) with themselves, NaN where it is rounding or rows repeat."""
    scale = np.array([np.sum(centre(x) ** 2) ** 2 for x in xs])
    usable = np.array([why_degenerate(x) is None for x in xs])
    return np.where(usable & (values > ROUNDING * scale), values, np.nan)


def u_centred_blocks(
    xs: Array, ys: Array, *, upper: bool = False
) -> Iterator[tuple[slice, Array, Array]]:
    """Row blocks (rows, (S, m, n), (T, m, n)) of the U-centred Grams of (S, n, d_x), (T, n, d_y).

    upper: only the columns from the block's first row on, (S, m, n - rows.start), for symmetric sums.
    """
    n = xs.shape[1]
    step = max(1, BLOCK_ELEMENTS // (n * (len(xs) + len(ys))))
    xs, ys = centre(xs), centre(ys)
    norms = [np.sum(z * z, axis=2) for z in (xs, ys)]
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        first = start if upper else 0
        yield (
            rows,
            *(
                _u_centred_rows(z, norm, rows, first)
                for z, norm in zip((xs, ys), norms, strict=True)
            ),
        )


def leave_one_out_factor(n: int) -> float:
    """c in `<A, B> - c sum_j A_ij B_ij`, the U-centred inner product without row i (see the module's
    head).
    """
    return 2 * (n - 2) / (n - 3)


def raise_if_degenerate(xs: Array, values: Array, name: str) -> None:
    """Raises DegenerateStates naming the sites of (S, n, d) whose HSIC_1 with themselves is NaN."""
    bad = np.flatnonzero(np.isnan(values))
    if len(bad):
        reason = why_degenerate(xs[bad[0]]) or "no variance left between rows"
        raise DegenerateStates(
            f"{name}: sites {bad.tolist()} bear no similarity estimate ({name}[{bad[0]}]: {reason}); "
            "leave them out, or allow_degenerate=True for NaN there"
        )


def _u_centred_rows(z: Array, norms: Array, rows: slice, first: int) -> Array:
    """Rows of the U-centred Grams of centred (S, n, d), columns from `first` on: (S, m, n - first)."""
    n = z.shape[1]
    block = z[:, rows] @ np.swapaxes(z[:, first:], 1, 2)
    block += norms[:, rows, None] / (n - 2)
    block += (norms[:, None, first:] - norms.sum(axis=1)[:, None, None] / (n - 1)) / (n - 2)
    inside = np.arange(rows.stop - rows.start)
    block[:, inside, inside + rows.start - first] = 0
    return block


def _grid_by_features(xs: Array, ys: Array) -> Array:
    (_, n, d_x), (t, _, d_y) = xs.shape, ys.shape
    flat = np.ascontiguousarray(ys.transpose(1, 0, 2)).reshape(n, t * d_y)
    cross = np.array([((x.T @ flat) ** 2).reshape(d_x, t, d_y).sum(axis=(0, 2)) for x in xs])
    x_norms, y_norms = np.sum(xs * xs, axis=2), np.sum(ys * ys, axis=2)
    return (
        cross
        - n / (n - 2) * (x_norms @ y_norms.T)
        + np.outer(x_norms.sum(axis=1), y_norms.sum(axis=1)) / ((n - 1) * (n - 2))
    )


def _double_centred(k: Array) -> Array:
    return k - k.mean(axis=0) - k.mean(axis=1)[:, None] + k.mean()


def _zero_diagonal(k: Array) -> Array:
    k = k.copy()
    diagonal = np.arange(k.shape[-1])
    k[..., diagonal, diagonal] = 0
    return k


# Of the squared norms: what is below is rounding of float32.
FLOAT32_ROUNDING = 1e-6


def grid_hsic1_float32(xs: Any, ys: Any) -> tuple[Array, Array, Array]:
    """n(n-3) HSIC_1 of every pair of sites of (S, n, d_x), (T, n, d_y), and of each site with itself; scale-free.

    (S, T), (S,), (T,), float64 on the CPU; NaN for a site with itself where it has no variance or mostly repeated rows.
    Scale-free: each site is divided by its root mean squared norm, which cancels in CKA. Raises BadInput, TooFewRows,
    BadInput.
    """
    import torch

    stacks = [_to_sites(z, name) for z, name in ((xs, "xs"), (ys, "ys"))]
    usable = [[_usable(x) for x in stack] for stack in stacks]
    n, sizes = stacks[0].shape[1], [len(stack) for stack in stacks]
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        scaled = [_scaled(stack) for stack in stacks]
        norms = [z.square().sum(dim=2) for z in scaled]
        xy = torch.zeros(sizes, dtype=torch.float64)
        alone = [torch.zeros(size, dtype=torch.float64) for size in sizes]
        step = max(1, BLOCK_ELEMENTS // (n * sum(sizes)))
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            a, b = (
                _float32_rows(z, norm, rows).flatten(1)
                for z, norm in zip(scaled, norms, strict=True)
            )
            xy += (a @ b.to(a.device).T).double().cpu()
            for total, gram in zip(alone, (a, b), strict=True):
                total += gram.square().sum(dim=1, dtype=torch.float64).cpu()
    finally:
        torch.set_float32_matmul_precision(setting)
    kept = [
        np.where(np.array(fit) & (total.numpy() > FLOAT32_ROUNDING * n**2), total.numpy(), np.nan)
        for fit, total in zip(usable, alone, strict=True)
    ]
    return xy.numpy(), *kept


def _to_sites(xs: Any, name: str):
    """(n_sites, n, d) finite torch tensor on its own device. A numpy array goes to the CPU."""
    import torch

    if not hasattr(xs, "detach"):
        xs = torch.stack(
            [torch.as_tensor(np.asarray(x) if not hasattr(x, "detach") else x) for x in xs]
        )
    xs = xs.detach()
    if xs.ndim != 3 or 0 in xs.shape:
        raise BadInput(f"{name} has shape {tuple(xs.shape)}; expected (n_sites, n, d)")
    if xs.shape[1] < LEAST_ROWS:
        raise TooFewRows(
            f"{name} has n={xs.shape[1]} rows; at least {LEAST_ROWS} are needed, give more facts"
        )
    for s, x in enumerate(xs):
        finite = torch.isfinite(x).all(dim=1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise BadInput(
                f"{name}[{s}] has NaN or infinity in row {row}; extract in bfloat16 or float32"
            )
    return xs


def _usable(x) -> bool:
    """Whether states (n, d) have variance and rows of their own; the whole site is looked at only where it is doubtful."""
    first = x[:, 0].unique()
    return len(first) > len(x) / 2 or why_degenerate(to_float64(x, "x")) is None


def _scaled(stack):
    """Sites (S, n, d) in float32, centred, with a mean squared row norm of 1 (0 where there is no variance)."""
    centred = stack.float() - stack.float().mean(dim=1, keepdim=True)
    length = centred.square().sum(dim=2).mean(dim=1).sqrt()
    return centred / length.clamp_min(1e-30)[:, None, None]


def _float32_rows(z, norms, rows: slice):
    """Rows of the U-centred Grams of centred (S, n, d), columns from the first of them on: (S, m, n - rows.start).

    Entries right of the diagonal block stand for their mirror images below it too.
    """
    import torch

    n, first = z.shape[1], rows.start
    block = z[:, rows] @ z[:, first:].transpose(1, 2)
    block += norms[:, rows, None] / (n - 2)
    block += (norms[:, None, first:] - norms.sum(dim=1)[:, None, None] / (n - 1)) / (n - 2)
    inside = torch.arange(rows.stop - first, device=z.device)
    block[:, inside, inside] = 0
    block[:, :, rows.stop - first :] *= 2**0.5
    return block
