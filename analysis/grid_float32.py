"""HSIC_1 of all pairs of sites in float32, on the device where the states are: the path of large grids on a GPU.

Used by `analysis.similarity.linear_cka_grid(xs, ys, precision="float32")`. States come as torch tensors (any device,
any float dtype) or arrays. They are centred and scaled to unit mean squared norm first, so that float32 has its digits
where they count; the Grams are float32, with TensorFloat-32 off whatever the caller's setting; what is summed over row
blocks is float64. Values agree with the float64 path to about 1e-5 (the tests ask for 1e-4): enough for a map of
layers, not for the laws, the jackknife or a difference in the fourth digit.
"""

from typing import Any

import numpy as np

from analysis.hsic import BLOCK_ELEMENTS
from analysis.inputs import LEAST_ROWS, NonFinite, TooFewRows, WrongShape, to_float64, why_degenerate

Array = np.ndarray
# Of the squared norms: what is below is rounding of float32.
ROUNDING = 1e-6


def grid_hsic1_float32(xs: Any, ys: Any) -> tuple[Array, Array, Array]:
    """n(n-3) HSIC_1 of every pair of sites of (S, n, d_x), (T, n, d_y), and of each site with itself; scale-free.

    (S, T), (S,), (T,), float64 on the CPU; NaN for a site with itself where it has no variance or mostly repeated rows.
    Scale-free: each site is divided by its root mean squared norm, which cancels in CKA. Raises WrongShape, TooFewRows,
    NonFinite.
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
            a, b = (_u_centred_rows(z, norm, rows).flatten(1) for z, norm in zip(scaled, norms, strict=True))
            xy += (a @ b.to(a.device).T).double().cpu()
            for total, gram in zip(alone, (a, b), strict=True):
                total += gram.square().sum(dim=1, dtype=torch.float64).cpu()
    finally:
        torch.set_float32_matmul_precision(setting)
    kept = [
        np.where(np.array(fit) & (total.numpy() > ROUNDING * n**2), total.numpy(), np.nan)
        for fit, total in zip(usable, alone, strict=True)
    ]
    return xy.numpy(), *kept


def _to_sites(xs: Any, name: str):
    """(n_sites, n, d) finite torch tensor on its own device. A numpy array goes to the CPU."""
    import torch

    if not hasattr(xs, "detach"):
        xs = torch.stack([torch.as_tensor(np.asarray(x) if not hasattr(x, "detach") else x) for x in xs])
    xs = xs.detach()
    if xs.ndim != 3 or 0 in xs.shape:
        raise WrongShape(f"{name} has shape {tuple(xs.shape)}; expected (n_sites, n, d)")
    if xs.shape[1] < LEAST_ROWS:
        raise TooFewRows(f"{name} has n={xs.shape[1]} rows; at least {LEAST_ROWS} are needed, give more facts")
    for s, x in enumerate(xs):
        finite = torch.isfinite(x).all(dim=1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise NonFinite(f"{name}[{s}] has NaN or infinity in row {row}; extract in bfloat16 or float32")
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


def _u_centred_rows(z, norms, rows: slice):
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
