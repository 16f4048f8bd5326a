"""Is the shared structure about the relation asked, or only about the name? Contrasts and partial CKA.

Raw CKA between rote and semantic states is high because both name the subject. The crossed contrast asks
whether relation r's rote states resemble relation r's prompts more than relation q's, over all r and q; the
partialled one asks whether anything is left of it once "these two subjects have the same object" is projected
out of both sides. Everything here is inner products of U-centred Grams (Szekely & Rizzo 2014), so partialling
is a Schur complement, delete-one values have a closed form, and a label permutation is an index into one
Gram.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import (
    NotIdentifiable,
    TooFewRows,
    check_entities,
    check_varied,
    to_float64,
    to_states,
    warn_if_small,
)
from analysis.measures.hsic import centre, linear_gram, u_centre
from analysis.measures.partial import (
    check_something_left,
    cka_tables,
    inner_products,
    label_kernel,
    orthonormal,
)
from analysis.measures.statistics import Rng, jackknife_interval, permutation_p
from training.base.errors import BadInput

Array = np.ndarray


NULL_ELEMENTS = 400_000


@dataclass(frozen=True, eq=False)
class Contrast:
    """A contrast of the relation x relation table of debiased CKA, averaged over prompts.

    null: (N,) draws, the same permutations for the same rng and n; p two-sided, NaN without draws.
    table: (R, R), rote relation by semantic relation, in the order of `relations`.
    per_prompt: (P,) and leave_one_out: (P, n) contrast values, for `two_way_jackknife` and for averages.
    """

    value: float
    low: float
    high: float
    null: Array
    p: float
    table: Array
    per_prompt: Array
    leave_one_out: Array
    relations: tuple
    n: int
    d: int


def crossed_contrast(
    xs: Mapping | Sequence,
    ys: Mapping | Sequence,
    *,
    relations: Sequence[Hashable] | None = None,
    partialled: bool = False,
    given: Mapping | Sequence | None = None,
    groups: Any = None,
    n: int = 199,
    rng: Rng = 0,
    level: float = 0.95,
) -> Contrast:
    """Mean of the diagonal minus mean of the off-diagonal of the table CKA(x_r, y_q) (measures.md section 8).

    xs: per relation r the rote states (n, d); ys: per relation q the semantic states (n, d) or (n_prompts, n,
    d); both keyed by relation, or in one order. All relations have the same n subjects in the same row order.
    relations: the keys (or indices) to cross, e.g. the bound ones; default all.
    groups: the subject of each row, or that per relation (then checked to be the same); refuses repeats.
    partialled: project the kernels of every label array in `given` (per relation the object of each subject;
    name parts may be added) out of both sides first. All of `given` is used, whatever `relations` says.
    Null: the semantic states of each (relation, prompt) are centred and scaled to unit Frobenius norm, then
    per subject the relation labels of the semantic side are permuted, all prompts alike, the rote side fixed;
    n draws.
    Interval: delete-one-subject jackknife. n >= 5.
    Raises NotIdentifiable (one relation, different subjects, unique objects), BadInput,
    DegenerateStates.
    """
    states = _crossed_states(xs, ys, relations, groups)
    r = len(states.names)
    weights = (np.eye(r) * r - 1) / (r * (r - 1))
    return _contrast(
        states, weights, _given_kernels(given, states.n) if partialled else None, n, rng, level
    )


def interaction(
    xs: Mapping | Sequence,
    ys: Mapping | Sequence,
    r: Hashable,
    q: Hashable,
    *,
    partialled: bool = False,
    given: Mapping | Sequence | None = None,
    groups: Any = None,
    n: int = 199,
    rng: Rng = 0,
    level: float = 0.95,
) -> Contrast:
    """The 2 x 2 interaction rr + qq - rq - qr of the table, for a claim about one relation r against q.

    Arguments, null and interval as in `crossed_contrast`; twice its value over these two relations.
    """
    states = _crossed_states(xs, ys, (r, q), groups)
    weights = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return _contrast(
        states, weights, _given_kernels(given, states.n) if partialled else None, n, rng, level
    )


@dataclass(frozen=True, eq=False)
class _CrossedStates:
    """Rote (R, n, d_x) and centred, scaled semantic (P, R, n, d_y) states of the relations `names`."""

    names: tuple
    rote: Array
    semantic: Array

    @property
    def n(self) -> int:
        return self.rote.shape[1]


def _crossed_states(
    xs: Any, ys: Any, relations: Sequence[Hashable] | None, groups: Any
) -> _CrossedStates:
    xs, ys = _by_relation(xs), _by_relation(ys)
    names = tuple(xs) if relations is None else tuple(relations)
    for side, states in (("xs", xs), ("ys", ys)):
        missing = [name for name in names if name not in states]
        if missing:
            raise NotIdentifiable(
                f"{side} has no states of relations {missing} (it has {list(states)}); "
                "the contrast crosses every relation with every other"
            )
    if relations is None and any(q not in xs for q in ys):
        raise NotIdentifiable(
            f"ys has relations {[q for q in ys if q not in xs]} without rote states in xs; "
            "give them, or name the relations to cross in `relations`"
        )
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise NotIdentifiable(
            f"relations {list(names)}: a contrast needs at least two different relations over the "
            "same subjects; with one, the name and its meaning cannot be told apart"
        )
    rote = [to_states(xs[name], f"xs[{name!r}]") for name in names]
    semantic = [_prompts(ys[name], f"ys[{name!r}]") for name in names]
    _check_same_subjects(names, [len(x) for x in rote] + [y.shape[1] for y in semantic], groups)
    _check_alike(rote, semantic)
    for name, x, y in zip(names, rote, semantic, strict=True):
        check_varied(x, f"xs[{name!r}]")
        for p, prompt in enumerate(y):
            check_varied(prompt, f"ys[{name!r}] prompt {p}")
    if len(rote[0]) < 5:
        raise TooFewRows(
            f"n={len(rote[0])} subjects; the contrast and its jackknife need at least 5"
        )
    warn_if_small(len(rote[0]))
    semantic = centre(np.stack(semantic, axis=1))
    semantic /= np.linalg.norm(semantic, axis=(2, 3), keepdims=True)
    return _CrossedStates(names, np.stack(rote), semantic)


def _by_relation(states: Any) -> dict:
    return dict(states) if isinstance(states, Mapping) else dict(enumerate(states))


def _prompts(y: Any, name: str) -> Array:
    """(P, n, d) of semantic states given as (n, d) or (P, n, d)."""
    y = to_float64(y, name)
    y = y[None] if y.ndim == 2 else y
    if y.ndim != 3 or len(y) == 0:
        raise BadInput(f"{name} has shape {y.shape}; expected (n, d) or (n_prompts, n, d)")
    return np.stack([to_states(prompt, f"{name} prompt {p}") for p, prompt in enumerate(y)])


def _check_same_subjects(names: tuple, sizes: list[int], groups: Any) -> None:
    if len(set(sizes)) > 1:
        raise NotIdentifiable(
            f"relations {list(names)} have {sorted(set(sizes))} rows; a contrast needs the same "
            "subjects in the same order in every relation, keep the subjects that all have"
        )
    if isinstance(groups, Mapping):
        orders = {tuple(groups.get(name, ())) for name in names}
        if len(orders) > 1:
            raise NotIdentifiable(
                f"groups: relations {list(names)} have different subjects or row orders, so subject "
                "and relation cannot be told apart; keep shared subjects, sorted alike"
            )
        groups = groups[names[0]]
    check_entities(groups, sizes[0])


def _check_alike(rote: list[Array], semantic: list[Array]) -> None:
    counts = [len(y) for y in semantic]
    if len(set(counts)) > 1:
        raise BadInput(
            f"the relations have {counts} prompts; give each relation the same number, "
            "prompt p of one relation taking the place of prompt p of another in the null"
        )
    for side, widths in (
        ("xs", {x.shape[1] for x in rote}),
        ("ys", {y.shape[2] for y in semantic}),
    ):
        if len(widths) > 1:
            raise BadInput(
                f"{side} has states of d={sorted(widths)}; take all relations at one site"
            )


def _contrast(
    states: _CrossedStates,
    weights: Array,
    kernels: Array | None,
    n_draws: int,
    rng: Rng,
    level: float,
) -> Contrast:
    r, n, prompts = len(states.names), states.n, len(states.semantic)
    left = u_centre(linear_gram(states.rote))
    right = u_centre(linear_gram(states.semantic)).reshape(prompts * r, n, n)
    full, left_out = inner_products(
        np.concatenate([left, right] + ([] if kernels is None else [kernels]))
    )
    partial = 0 if kernels is None else len(kernels)
    names = [f"xs[{q!r}]" for q in states.names] + [
        f"ys[{q!r}] prompt {p}" for p in range(prompts) for q in states.names
    ]
    check_something_left(full, partial, names)
    tables = cka_tables(full, partial, r)
    contrast_out = np.einsum("iprq,rq->pi", cka_tables(left_out, partial, r), weights)
    per_prompt = np.einsum("prq,rq->p", tables, weights)
    value = float(per_prompt.mean())
    interval = jackknife_interval(value, contrast_out.mean(axis=0), level=level)
    orders = _relation_orders(n_draws, n, r, rng)
    null = _null_contrasts(left, states.semantic, kernels, orders, weights)
    p = float(permutation_p(value, null, "two-sided")) if n_draws else np.nan
    return Contrast(
        value,
        float(interval.low),
        float(interval.high),
        null,
        p,
        tables.mean(axis=0),
        per_prompt,
        contrast_out,
        states.names,
        n,
        states.rote.shape[2],
    )


def _relation_orders(count: int, n: int, r: int, rng: Rng) -> Array:
    """(count, R, n): which relation's semantic state subject i shows under relation q, permuted per
    subject.
    """
    orders = np.tile(np.arange(r), (count, n, 1))
    return np.random.default_rng(rng).permuted(orders, axis=2).transpose(0, 2, 1)


def _null_contrasts(
    left: Array, semantic: Array, kernels: Array | None, orders: Array, weights: Array
) -> Array:
    """Null draws (N,) of the contrast, from U-centred rote Grams (R, n, n) and semantic states (P, R, n, d).

    left is U-centred, so <A, U(K)> = <A, K>: only the norms of the permuted Grams need their row sums.
    """
    prompts, r, n, _ = semantic.shape
    basis = (
        np.zeros((0, n * n)) if kernels is None else orthonormal(kernels.reshape(len(kernels), -1))
    )
    left = left.reshape(r, -1)
    left = left - (left @ basis.T) @ basis
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    against = np.concatenate([left, basis]).T
    grams = [_gram_without_subjects(z) for z in semantic]
    null = np.zeros(len(orders))
    step = max(1, NULL_ELEMENTS // (r * n * n))
    for start in range(0, len(orders), step):
        rows = orders[start : start + step] * n + np.arange(n)
        index = rows[..., :, None] * (r * n) + rows[..., None, :]
        for gram in grams:
            permuted = gram.take(index)
            products = permuted.reshape(len(rows), r, n * n) @ against
            norms = _u_centred_norms(permuted) - np.sum(products[..., r:] ** 2, axis=-1)
            tables = products[..., :r] / np.sqrt(norms)[..., None]
            null[start : start + step] += np.einsum("cqr,rq->c", tables, weights) / prompts
    return null


def _gram_without_subjects(z: Array) -> Array:
    """Flat Gram of semantic states (R, n, d) over all (relation, subject) pairs, 0 within a subject."""
    r, n, d = z.shape
    flat = z.reshape(r * n, d)
    return ((flat @ flat.T).reshape(r, n, r, n) * (1 - np.eye(n))[:, None, :]).ravel()


def _u_centred_norms(k: Array) -> Array:
    """Squared norms (...) of the U-centred forms of zero-diagonal Grams (..., n, n)."""
    n = k.shape[-1]
    rows = k.sum(axis=-1)
    squares = np.einsum("...ij,...ij->...", k, k)
    return (
        squares
        + rows.sum(axis=-1) ** 2 / ((n - 1) * (n - 2))
        - 2 / (n - 2) * np.sum(rows**2, axis=-1)
    )


def _given_kernels(given: Any, n: int) -> Array:
    if given is None or len(given) == 0:
        raise NotIdentifiable(
            "partialled=True without given: the answer can be projected out only if the object of "
            "every subject in every relation is known; pass given={relation: objects}"
        )
    return np.array(
        [
            label_kernel(labels, n, f"given[{name!r}]")
            for name, labels in _by_relation(given).items()
        ]
    )
