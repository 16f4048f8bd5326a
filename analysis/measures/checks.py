"""The gate through which states enter the arithmetic: float64, finite, paired, with variance.

Takes arrays of any float dtype and torch tensors on any device; torch is recognised by its methods
and never imported.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from training.base.errors import BadInput

Array = np.ndarray
Values = ArrayLike  # numpy arrays, torch tensors, nested sequences
Labels = Sequence | Array
Groups = Labels | None

LEAST_ROWS = 4
FEW_ROWS = 20
NO_VARIANCE = 1e-12
CONSTANT = "the same state in every row"


class TooFewRows(BadInput):
    """Fewer rows than the estimator is defined for."""


class DegenerateStates(BadInput):
    """A side is constant, mostly copied rows, or has no variance left (HSIC_1 not positive)."""


class NotIdentifiable(BadInput):
    """The data cannot answer the question; the message says why."""


class SmallSample(UserWarning):
    """Fewer than 20 rows: the estimate is unbiased but very noisy."""


def to_float64(x: Values, name: str) -> Array:
    """A numpy array or torch tensor of any float dtype and device as a float64 numpy array."""
    if hasattr(x, "detach"):
        return x.detach().cpu().double().numpy()
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} cannot be read as an array of numbers: {error}") from error


def to_states(x: Values, name: str = "x") -> Array:
    """(n, d) finite float64 states, n >= 4. Raises BadInput, TooFewRows."""
    x = to_float64(x, name)
    if x.ndim != 2 or x.shape[1] == 0:
        raise BadInput(f"{name} has shape {x.shape}; expected (n, d) of one site, one row per fact")
    if len(x) < LEAST_ROWS:
        raise TooFewRows(f"{name} has n={len(x)} rows; give at least {LEAST_ROWS} facts")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        where = f"in row {bad[0]} ({len(bad)} of {len(x)} rows)"
        raise BadInput(f"{name} has NaN or infinity {where}; float16 overflows, take bfloat16")
    return x


def to_prompts(x: Values, name: str, shape: str) -> Array:
    """Float64 states with prompts first, of shape "P n d" or so; one prompt may come without."""
    x, dimensions = to_float64(x, name), len(shape.split())
    x = x[None] if x.ndim == dimensions - 1 else x
    if x.ndim != dimensions or len(x) == 0:
        raise BadInput(f"{name} has shape {x.shape}; expected ({', '.join(shape.split())})")
    return x


def to_sites(xs: Values, name: str = "xs") -> Array:
    """(n_sites, n, d) finite float64 states. Raises as `to_states`, naming the site."""
    if isinstance(xs, list | tuple):
        sites = [to_float64(x, f"{name}[{s}]") for s, x in enumerate(xs)]
        shapes = sorted({x.shape for x in sites})
        if len(shapes) > 1:
            raise BadInput(f"{name} mixes sites of shapes {shapes}; a stack needs one shape")
        xs = np.array(sites)
    xs = to_float64(xs, name)
    if xs.ndim != 3 or len(xs) == 0:
        raise BadInput(f"{name} has shape {xs.shape}; expected (n_sites, n, d)")
    for s, x in enumerate(xs):
        to_states(x, f"{name}[{s}]")
    return xs


def to_labels(labels: Values, n: int, name: str = "labels") -> Array:
    """(n,) labels of any kind as integer codes 0..k-1. Raises BadInput."""
    labels = labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asarray(labels)
    if labels.shape != (n,):
        raise BadInput(f"{name} has shape {labels.shape}; expected ({n},), one per row, in order")
    return np.unique(labels, return_inverse=True)[1]


def to_entities(groups: Groups, n: int, name: str = "groups") -> Array:
    """(n,) the integer code of each row's entity; None: all different."""
    return np.arange(n) if groups is None else to_labels(groups, n, name)


def why_degenerate(x: Array) -> str | None:
    """Why finite states (n, d) have no usable variance, or None."""
    centred = x - x.mean(axis=0)
    if np.linalg.norm(centred) <= NO_VARIANCE * np.linalg.norm(x):
        return CONSTANT
    # Copied rows are not new facts: a row bootstrap of independent data looks strongly aligned.
    if _repeats(x[:, 0].tolist()) <= len(x) / 2:
        return None
    # Adding 0 turns -0.0 into 0.0, which has different bytes.
    repeated, n = _repeats([row.tobytes() for row in x + 0.0]), len(x)
    return f"{repeated} of {n} rows equal another row exactly" if 2 * repeated > n else None


def _repeats(keys: list) -> int:
    """How many entries equal another one."""
    return sum(count for count in Counter(keys).values() if count > 1)


def check_varied(x: Array, name: str) -> None:
    """Raises DegenerateStates for constant states (n, d), and for mostly copied rows."""
    reason = why_degenerate(x)
    remedy = "keep one row per entity (and do not bootstrap with replacement)"
    if reason == CONSTANT:
        reason += f" (n={len(x)}), so similarity is undefined"
        remedy = "leave this site or position out"
    if reason:
        raise DegenerateStates(f"{name}: {reason}; {remedy}")


def site_reasons(xs: Values) -> list[str | None]:
    """Per site of (n_sites, n, d): why it allows no similarity estimate, or None."""
    return [why_degenerate(x) for x in to_sites(xs)]


def first_reasons(*reasons: Sequence[str | None]) -> tuple[str | None, ...]:
    """(S,) the first reason at each site among several lists of them, or None."""
    return tuple(next((r for r in site if r), None) for site in zip(*reasons, strict=True))


def check_entities(groups: Groups, n: int) -> None:
    """Raises BadInput if two rows belong to one entity."""
    sizes = np.bincount(to_entities(groups, n))
    if len(sizes) < n:
        given = f"groups names {len(sizes)} entities in {n} rows; this estimator needs one row each"
        raise BadInput(f"{given}: compute it within one relation and prompt, then average")


def check_paired(n_x: int, n_y: int) -> None:
    """Raises BadInput where the sides have different numbers of rows."""
    if n_x != n_y:
        counts = f"x has {n_x} rows and y {n_y}; row i of both must be the same fact"
        raise BadInput(f"{counts}, so select the facts that both sides have, in one order")


def warn_if_small(n: int) -> None:
    """Warns SmallSample below 20 rows."""
    if n < FEW_ROWS:
        words = f"n={n} rows is few (below {FEW_ROWS}): the value is very noisy, show its interval"
        warnings.warn(words, SmallSample, stacklevel=4)


def to_pair(
    x: Values, y: Values, groups: Groups = None, *, varied: bool = True, same_width: bool = False
) -> tuple[Array, Array]:
    """Paired float64 states (n, d_x), (n, d_y), one row per entity.

    varied: refuse constant and mostly copied rows. same_width: require d_x == d_y.
    """
    x, y = to_states(x, "x"), to_states(y, "y")
    check_paired(len(x), len(y))
    if same_width and x.shape[1] != y.shape[1]:
        widths = f"x has d={x.shape[1]} and y d={y.shape[1]}"
        raise BadInput(f"{widths}; cosines need one space, CKA does not")
    check_entities(groups, len(x))
    if varied:
        check_varied(x, "x")
        check_varied(y, "y")
    warn_if_small(len(x))
    return x, y


def to_site_pair(
    xs: Values, ys: Values, groups: Groups = None, *, same_sites: bool
) -> tuple[Array, Array]:
    """Paired stacks (S, n, d_x), (T, n, d_y), degenerate sites included; same_sites: S == T."""
    xs, ys = to_sites(xs, "xs"), to_sites(ys, "ys")
    check_paired(xs.shape[1], ys.shape[1])
    check_entities(groups, xs.shape[1])
    if same_sites and len(xs) != len(ys):
        counts = f"xs has {len(xs)} sites and ys {len(ys)}"
        raise BadInput(f"{counts}; give the same, or grid=True for all pairs")
    warn_if_small(xs.shape[1])
    return xs, ys
