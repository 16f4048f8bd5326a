"""Is the shared structure about the relation, or only about the name? Contrasts and partial CKA.

Raw CKA between rote and semantic states is high because both name the subject. The crossed contrast
asks whether relation r's rote states resemble relation r's prompts more than relation q's, over all
r and q; the partialled one asks what is left once "these two subjects have the same object" is
projected out of both sides. All of it is inner products of U-centred Grams (see hsic).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.measures import checks, hsic, statistics
from analysis.measures.checks import Array, Groups, Labels, NotIdentifiable, Values
from analysis.measures.statistics import Interval, Rng
from training.base.errors import BadInput

ByRelation = Mapping | Sequence
Subjects = Groups | Mapping[Hashable, Sequence]
NULL_ELEMENTS = 400_000


def partial_cka(x: Values, y: Values, given: Values | Sequence, groups: Groups = None) -> Interval:
    """Debiased linear CKA with the kernels of `given` projected out of both U-centred Grams.

    >>> rng = np.random.default_rng(0)
    >>> objects, code = np.arange(60) % 5, 3 * rng.normal(size=(2, 5, 8))
    >>> x, y = code[:, objects] + rng.normal(size=(2, 60, 8))  # unrelated codes: plain CKA is 0.59
    >>> round(partial_cka(x, y, objects).value, 2)
    -0.1

    x: (n, d_x), y: (n, d_y), n >= 5; given: labels (n,), states (n, d), or a list of those,
    projected out jointly (partial distance correlation, Szekely & Rizzo 2014, eq. 3.5, with linear
    kernels).
    Raises NotIdentifiable for labels without a repeat, DegenerateStates where nothing is left.
    """
    x, y = checks.to_pair(x, y, groups)
    parts = given if isinstance(given, list | tuple) and np.ndim(given[0]) else [given]
    kernels = [_conditioning_kernel(part, len(x), f"given[{k}]") for k, part in enumerate(parts)]
    return _estimate(_u_gram(x), _u_gram(y), kernels)


def object_kernel(
    x: Values, labels: Labels, groups: Groups = None, *, n: int = 0, rng: Rng = 0
) -> Interval:
    """Debiased CKA of states with the one-hot object of each row: do the states carry the answer?

    >>> rng = np.random.default_rng(0)
    >>> objects = np.arange(60) % 5
    >>> x = rng.normal(size=(5, 8))[objects] + rng.normal(size=(60, 8))
    >>> found = object_kernel(x, objects, n=99)
    >>> round(found.value, 2), found.p
    (0.35, 0.01)

    x: (n, d), n >= 5; labels: (n,). Chance 0. n: permutations of the labels for null and one-sided
    p. The interval is NaN where leaving one row out leaves no object that repeats.
    Raises NotIdentifiable where no object occurs twice, or only one object occurs.
    """
    x, _ = checks.to_pair(x, x, groups)
    a, b = _u_gram(x), label_kernel(labels, len(x), "labels")
    estimate = _estimate(a, b, [])
    if n == 0:
        return estimate
    norm, orders = np.linalg.norm(a) * np.linalg.norm(b), statistics.permutations(len(x), n, rng)
    null = np.array([np.vdot(a, b[np.ix_(p, p)]) for p in orders]) / norm
    return replace(estimate, null=null, p=float(statistics.permutation_p(estimate.value, null)))


def label_kernel(labels: Values, n: int, name: str) -> Array:
    """U-centred one-hot Gram (n, n) of labels (n,). Raises NotIdentifiable without variance."""
    codes = checks.to_labels(labels, n, name)
    counts = np.bincount(codes)
    if len(counts) == n:
        raise NotIdentifiable(
            f"{name}: all {n} objects are different, so no two subjects share an answer and the "
            "object kernel is exactly 0; use relations whose objects repeat"
        )
    if len(counts) == 1:
        why = "so the object kernel is constant"
        raise NotIdentifiable(f"{name}: all {n} rows have the same object, {why}")
    kernel = hsic.u_centre((codes[:, None] == codes).astype(np.float64))
    # One odd row among equal ones: entries are sums of row terms, which U-centring removes.
    if np.linalg.norm(kernel) <= hsic.NOTHING_LEFT * n:
        raise NotIdentifiable(
            f"{name}: objects occur {sorted(counts.tolist())} times, which leaves the object "
            "kernel no variance; use relations whose objects are more balanced"
        )
    return kernel


def _u_gram(x: Array) -> Array:
    return hsic.u_centre(hsic.linear_gram(x))


def _conditioning_kernel(given: Values, n: int, name: str) -> Array:
    if np.ndim(given) == 1:
        return label_kernel(given, n, name)
    x = checks.to_states(given, name)
    checks.check_varied(x, name)
    checks.check_paired(n, len(x))
    return _u_gram(x)


def _estimate(a: Array, b: Array, kernels: Sequence[Array]) -> Interval:
    """CKA of U-centred Grams a, b (n, n) without those of the kernels (n, n), with its interval."""
    products, count = hsic.inner_products(np.array([a, b, *kernels])), len(kernels)
    hsic.check_something_left(products[0], count, ("x", "y"))
    value, values = (hsic.cka_tables(z, count, 1)[..., 0, 0, 0] for z in products)
    return statistics.jackknife_interval(value, values)


@dataclass(frozen=True, eq=False)
class Contrast:
    """A contrast of the relation x relation table of debiased CKA, averaged over prompts.

    null: (N,) draws, the same permutations for the same rng and n; p: two-sided, NaN without draws.
    table: (R, R), rote relation by semantic relation, in the order of `relations`.
    per_prompt: (P,) and leave_one_out: (P, n), for `two_way_jackknife` and for averages.
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


def crossed_contrast(
    xs: ByRelation,
    ys: ByRelation,
    *,
    relations: Sequence[Hashable] | None = None,
    given: ByRelation | None = None,
    groups: Subjects = None,
    n: int = 199,
    rng: Rng = 0,
) -> Contrast:
    """Mean of the diagonal minus mean of the off-diagonal of the table CKA(x_r, y_q).

    >>> rng = np.random.default_rng(0)
    >>> subject, answers = rng.normal(size=(40, 8)), rng.normal(size=(3, 40, 8))
    >>> xs, ys = (subject + answers + 0.5 * rng.normal(size=(3, 40, 8)) for _ in range(2))
    >>> found = crossed_contrast(xs, ys)
    >>> round(found.value, 2), found.p, found.table.shape
    (0.57, 0.005, (3, 3))

    xs: per relation the rote states (n, d); ys: per relation the semantic states (n, d) or
    (n_prompts, n, d); mappings by relation or sequences in one order, over the same n >= 5 subjects
    in the same row order. relations: those to cross, default all. groups: the subject of each row,
    or that per relation (then compared); repeats are refused. given: label arrays (per relation the
    object of each subject, or name parts) whose kernels are projected out first: the
    answer-partialled contrast. Null of n draws: semantic states of each (relation, prompt) centred
    and scaled to unit Frobenius norm, then per subject the relation labels of the semantic side
    permuted, all prompts alike. Interval: delete-one-subject jackknife. Raises NotIdentifiable (one
    relation, other subjects, unique objects), BadInput, DegenerateStates.
    """
    names, rote, semantic = _crossed_states(xs, ys, relations, groups)
    prompts, r, subjects, _ = semantic.shape
    named = {} if given is None else _by_relation(given)
    labels = [label_kernel(some, subjects, f"given[{name!r}]") for name, some in named.items()]
    kernels = np.array(labels).reshape(-1, subjects, subjects)
    weights, left, right = _weights(r), _u_gram(rote), _u_gram(semantic)
    grams = [left, right.reshape(prompts * r, subjects, subjects), kernels]
    full, left_out = hsic.inner_products(np.concatenate(grams))
    sides = [f"xs[{q!r}]" for q in names]
    sides += [f"ys[{q!r}] prompt {p}" for p in range(prompts) for q in names]
    hsic.check_something_left(full, len(kernels), sides)
    tables = hsic.cka_tables(full, len(kernels), r)
    per_prompt = np.einsum("prq,rq->p", tables, weights)
    left_out = np.einsum("iprq,rq->pi", hsic.cka_tables(left_out, len(kernels), r), weights)
    found = statistics.jackknife_interval(per_prompt.mean(), left_out.mean(axis=0))
    null = _null_contrasts(left, semantic, kernels, _relation_orders(n, subjects, r, rng), weights)
    p = float(statistics.permutation_p(found.value, null, "two-sided")) if n else np.nan
    scores = tables.mean(axis=0), per_prompt, left_out
    return Contrast(found.value, found.low, found.high, null, p, *scores, names, subjects)


def interaction(
    xs: ByRelation, ys: ByRelation, r: Hashable, q: Hashable, **options: Any
) -> Contrast:
    """The 2 x 2 interaction rr + qq - rq - qr of the table, for a claim about relation r against q.

    >>> xs = np.random.default_rng(0).normal(size=(3, 40, 8))
    >>> round(interaction(xs, xs, 0, 2, n=0).value, 1)
    2.0

    Twice `crossed_contrast` over these two relations, which takes the same options.
    """
    found = crossed_contrast(xs, ys, relations=(r, q), **options)
    doubled = ("value", "low", "high", "null", "per_prompt", "leave_one_out")
    return replace(found, **{name: 2 * getattr(found, name) for name in doubled})


def _weights(r: int) -> Array:
    """(R, R) weights of the table: mean of the diagonal minus mean of the off-diagonal."""
    return (np.eye(r) * r - 1) / (r * (r - 1))


def _crossed_states(
    xs: ByRelation, ys: ByRelation, relations: Sequence[Hashable] | None, groups: Subjects
) -> tuple[tuple, Array, Array]:
    """Relation names, rote (R, n, d_x), and centred, scaled semantic states (P, R, n, d_y)."""
    by_x, by_y = _by_relation(xs), _by_relation(ys)
    names = tuple(dict.fromkeys([*by_x, *by_y]) if relations is None else relations)
    for side, states in (("xs", by_x), ("ys", by_y)):
        missing = [name for name in names if name not in states]
        if missing:
            remedy = "give both sides of each, or name the others in `relations`"
            raise NotIdentifiable(f"{side} has no states of relations {missing}; {remedy}")
    if len(set(names)) < max(2, len(names)):
        why = "with one, a name and its meaning cannot be told apart"
        raise NotIdentifiable(f"relations {list(names)}: give at least two different ones; {why}")
    rote = [checks.to_states(by_x[name], f"xs[{name!r}]") for name in names]
    semantic = [_prompts(by_y[name], f"ys[{name!r}]") for name in names]
    _check_same_subjects(names, [len(x) for x in rote] + [y.shape[1] for y in semantic], groups)
    shapes = [(len(y), x.shape[1], y.shape[2]) for x, y in zip(rote, semantic, strict=True)]
    if len(set(shapes)) > 1:
        why = "the null exchanges prompt p of one relation with prompt p of another"
        raise BadInput(f"relations differ in (prompts, d_x, d_y), {shapes}; {why}")
    for name, x, y in zip(names, rote, semantic, strict=True):
        checks.check_varied(x, f"xs[{name!r}]")
        for p, prompt in enumerate(y):
            checks.check_varied(prompt, f"ys[{name!r}] prompt {p}")
    checks.warn_if_small(len(rote[0]))
    scaled = hsic.centre(np.stack(semantic, axis=1))
    scaled /= np.linalg.norm(scaled, axis=(2, 3), keepdims=True)
    return names, np.stack(rote), scaled


def _by_relation(states: ByRelation) -> dict:
    return dict(states) if isinstance(states, Mapping) else dict(enumerate(states))


def _prompts(y: Values, name: str) -> Array:
    """(P, n, d) of semantic states given as (n, d) or (P, n, d)."""
    prompts = enumerate(checks.to_prompts(y, name, "P n d"))
    return np.stack([checks.to_states(prompt, f"{name} prompt {p}") for p, prompt in prompts])


def _check_same_subjects(names: tuple, sizes: list[int], groups: Subjects) -> None:
    if len(set(sizes)) > 1:
        why = f"relations {list(names)} have {sorted(set(sizes))} rows"
        raise NotIdentifiable(f"{why}; keep the same subjects in the same order in all of them")
    if isinstance(groups, Mapping):
        if len({tuple(groups.get(name, ())) for name in names}) > 1:
            why = f"groups: relations {list(names)} have different subjects or row orders"
            raise NotIdentifiable(f"{why}; keep shared subjects, sorted alike")
        groups = groups[names[0]]
    checks.check_entities(groups, sizes[0])


def _relation_orders(count: int, n: int, r: int, rng: Rng) -> Array:
    """(count, R, n): whose relation's semantic state subject i shows under relation q."""
    orders = np.tile(np.arange(r), (count, n, 1))
    return np.random.default_rng(rng).permuted(orders, axis=2).transpose(0, 2, 1)


def _null_contrasts(
    left: Array, semantic: Array, kernels: Array, orders: Array, weights: Array
) -> Array:
    """(N,) null draws from U-centred rote Grams (R, n, n) and semantic states (P, R, n, d).

    left is U-centred, so <A, U(K)> = <A, K>: only norms of the permuted Grams need their row sums.
    """
    prompts, r, n, _ = semantic.shape
    flat = kernels.reshape(len(kernels), n * n)
    basis = hsic.orthonormal(flat) if len(flat) else flat
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
    """Flat Gram of states (R, n, d) over all (relation, subject) pairs, 0 within a subject."""
    r, n, d = z.shape
    flat = z.reshape(r * n, d)
    return ((flat @ flat.T).reshape(r, n, r, n) * (1 - np.eye(n))[:, None, :]).ravel()


def _u_centred_norms(k: Array) -> Array:
    """Squared norms (...) of the U-centred forms of zero-diagonal Grams (..., n, n)."""
    n = k.shape[-1]
    rows = k.sum(axis=-1)
    squares = np.einsum("...ij,...ij->...", k, k)
    totals = rows.sum(axis=-1) ** 2 / ((n - 1) * (n - 2))
    return squares + totals - 2 / (n - 2) * np.sum(rows**2, axis=-1)
