"""CKA with other kernels projected out, and CKA with the kernel of the objects.

U-centred Grams form a Hilbert space (Szekely & Rizzo 2014): the similarity that is left once "these two
subjects have the same object" is accounted for is a Schur complement of their inner products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import (
    DegenerateStates,
    NotIdentifiable,
    TooFewRows,
    check_entities,
    check_varied,
    to_labels,
    to_pair,
    to_states,
    warn_if_small,
)
from analysis.measures.hsic import leave_one_out_factor, linear_gram, u_centre
from analysis.measures.statistics import Rng, jackknife_interval, permutation_p, permutations
from training.base.errors import BadInput

Array = np.ndarray


NOTHING_LEFT = 1e-10


ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Estimate:
    """A debiased CKA with its delete-one-row interval; null draws (N,) and p where permutations were asked
    for.
    """

    value: float
    low: float
    high: float
    null: Array | None
    p: float | None
    n: int
    d: int


def partial_cka(
    x: Any, y: Any, given: Any, groups: Sequence | None = None, *, level: float = 0.95
) -> Estimate:
    """Debiased linear CKA of x and y with the kernels of `given` projected out of both U-centred Grams.

    x: (n, d_x), y: (n, d_y); given: labels (n,), states (n, d), or a list of those, orthogonalised jointly
    (partial distance correlation, Szekely & Rizzo 2014, eq. 3.5, with linear kernels). n >= 5.
    Raises NotIdentifiable for labels without a repeat, DegenerateStates where nothing is left of a side.
    """
    x, y = to_pair(x, y, groups)
    single = hasattr(given, "ndim") or np.ndim(given[0]) == 0
    kernels = [
        _conditioning_kernel(g, len(x), f"given[{k}]")
        for k, g in enumerate([given] if single else given)
    ]
    return _estimate(
        u_centre(linear_gram(x)), u_centre(linear_gram(y)), np.array(kernels), x.shape[1], level
    )


def object_kernel(
    x: Any,
    labels: Sequence | Array,
    groups: Sequence | None = None,
    *,
    n: int = 0,
    rng: Rng = 0,
    level: float = 0.95,
) -> Estimate:
    """Debiased CKA between states (n, d) and the one-hot object of each row: do the states carry the answer?

    Chance 0. n: number of permutations of the labels over rows for null and p (one-sided); 0 for none.
    The interval is NaN where leaving one row out leaves no object that repeats.
    Raises NotIdentifiable where no object occurs twice, or only one object occurs.
    """
    x = to_states(x)
    check_entities(groups, len(x))
    check_varied(x, "x")
    warn_if_small(len(x))
    a, b = u_centre(linear_gram(x)), label_kernel(labels, len(x), "labels")
    estimate = _estimate(a, b, None, x.shape[1], level)
    if n == 0:
        return estimate
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    null = np.array([np.vdot(a, b[np.ix_(p, p)]) for p in permutations(len(x), n, rng)]) / norm
    return Estimate(
        estimate.value,
        estimate.low,
        estimate.high,
        null,
        float(permutation_p(estimate.value, null)),
        len(x),
        x.shape[1],
    )


def inner_products(grams: Array) -> tuple[Array, Array]:
    """Inner products (m, m) of U-centred Grams (m, n, n), and (n, m, m) without each row (see
    analysis.measures.hsic).
    """
    by_row = grams.transpose(1, 0, 2) @ grams.transpose(1, 2, 0)
    full = by_row.sum(axis=0)
    left_out = full - leave_one_out_factor(grams.shape[1]) * by_row
    # A kernel that one row held up (an object that occurs twice) is exactly zero without it.
    size = np.sqrt(np.diagonal(full))
    left_out[np.abs(left_out) <= ROUNDING * size[:, None] * size] = 0
    return full, left_out


def without_given(products: Array, count: int) -> Array:
    """Inner products (..., m, m) once the last `count` Grams are projected out of the others (least
    squares).
    """
    if count == 0:
        return products
    kept, across = products[..., :-count, :-count], products[..., :-count, -count:]
    given = products[..., -count:, -count:]
    inverse = np.linalg.pinv(given, rcond=NOTHING_LEFT, hermitian=True)
    return kept - across @ inverse @ np.swapaxes(across, -1, -2)


def check_something_left(products: Array, count: int, names: Sequence[str]) -> None:
    before, after = np.diagonal(products), np.diagonal(without_given(products, count))
    for name, whole, left in zip(names, before, after, strict=False):
        if not left > max(NOTHING_LEFT * whole, 0):
            raise DegenerateStates(
                f"{name}: nothing is left of its Gram"
                + (" after partialling" if count else "")
                + "; leave this site or position out"
            )


def cka_tables(products: Array, count: int, r: int) -> Array:
    """CKA tables (..., P, R, R) from inner products (..., m, m) of R rote, P R semantic and `count` given
    Grams.
    """
    products = without_given(products, count)
    norms = np.diagonal(products, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        table = (
            products[..., :r, r:] / np.sqrt(norms[..., :r, None]) / np.sqrt(norms[..., None, r:])
        )
    return np.moveaxis(table.reshape(*table.shape[:-1], -1, r), -2, -3)


def orthonormal(vectors: Array) -> Array:
    """Orthonormal rows spanning the rows of (k, m), to the tolerance of `without_given`."""
    values, directions = np.linalg.eigh(vectors @ vectors.T)
    kept = values > NOTHING_LEFT * values.max()
    return (directions[:, kept] / np.sqrt(values[kept])).T @ vectors


def _conditioning_kernel(given: Any, n: int, name: str) -> Array:
    if np.ndim(given) == 1:
        return label_kernel(given, n, name)
    x = to_states(given, name)
    check_varied(x, name)
    if len(x) != n:
        raise BadInput(f"{name} has {len(x)} rows for n={n}; condition on the same facts")
    return u_centre(linear_gram(x))


def label_kernel(labels: Any, n: int, name: str) -> Array:
    """U-centred one-hot Gram (n, n) of labels (n,). Raises NotIdentifiable where it has no variance."""
    codes = to_labels(labels, n, name)
    counts = np.bincount(codes)
    if len(counts) == n:
        raise NotIdentifiable(
            f"{name}: all {n} objects are different, so no two subjects share an answer and the "
            "object kernel is exactly 0; use relations whose objects repeat"
        )
    if len(counts) == 1:
        raise NotIdentifiable(
            f"{name}: all {n} rows have the same object, so the object kernel is constant"
        )
    kernel = u_centre((codes[:, None] == codes).astype(np.float64))
    # One odd row among equal ones: every off-diagonal entry is a sum of row terms, which U-centring removes.
    if np.linalg.norm(kernel) <= NOTHING_LEFT * n:
        raise NotIdentifiable(
            f"{name}: objects occur {sorted(counts.tolist())} times, which leaves the object kernel "
            "no variance; use relations whose objects are more balanced"
        )
    return kernel


def _estimate(a: Array, b: Array, kernels: Array | None, d: int, level: float) -> Estimate:
    """CKA of U-centred Grams a, b (n, n) without those of kernels (k, n, n), with its delete-one interval."""
    n = len(a)
    if n < 5:
        raise TooFewRows(f"n={n}: leaving one row out of debiased CKA needs at least 5 rows")
    full, left_out = inner_products(
        np.concatenate([np.array([a, b])] + ([] if kernels is None else [kernels]))
    )
    count = 0 if kernels is None else len(kernels)
    check_something_left(full, count, ("x", "y"))
    value = float(cka_tables(full, count, 1)[0, 0, 0])
    interval = jackknife_interval(value, cka_tables(left_out, count, 1)[:, 0, 0, 0], level=level)
    return Estimate(value, float(interval.low), float(interval.high), None, None, n, d)
