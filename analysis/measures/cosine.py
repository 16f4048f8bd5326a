"""Measures on cosines of states: paired cosines, retrieval, shared neighbours, Delta-CosSim, RSA.

Cosines of centred states unless stated otherwise: raw ones are inflated by the direction that all
states share. `pair_measures` and `neighbour_scores` score stacks of sites (S, n, d) at once and
give every pairing or a null; the other functions take one site.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.measures import checks, statistics
from analysis.measures.checks import Array, Groups, Labels, NotIdentifiable, Values
from analysis.measures.hsic import centre
from analysis.measures.scores import Scores
from analysis.measures.statistics import Interval, Rng
from training.base.errors import BadInput


@dataclass(frozen=True)
class Retrieval:
    """value: top-1 rate; the chances are 1/n, 5/n and H_n/n."""

    value: float
    top5: float
    mrr: float
    chance: float
    chance_top5: float
    chance_mrr: float


def pair_measures(x: Array, y: Array) -> dict[str, Array]:
    """Every paired measure of every pairing, (S, n, n): entry s, i, j sets y[s, i] against x[s, j].

    x, y: (S, n, d), row i the same subject. The means of the diagonals are `cosine_alignment` and
    `retrieval`; a tie counts against the fact.
    """
    from scipy.stats import rankdata

    raw = _units(y) @ _units(x).transpose(0, 2, 1)
    centred = _units(centre(y)) @ _units(centre(x)).transpose(0, 2, 1)
    rank = rankdata(-centred, method="max", axis=-1)
    return {
        "cosine_raw": raw,
        "cosine_centred": centred,
        "retrieval_top1": (rank == 1).astype(float),
        "retrieval_top5": (rank <= 5).astype(float),
        "retrieval_mrr": 1 / rank,
    }


def chances(n: int) -> dict[str, float]:
    """Expectation of the retrieval measures among n subjects whose states match by luck."""
    return {
        "retrieval_top1": 1 / n,
        "retrieval_top5": min(1.0, 5 / n),
        "retrieval_mrr": float(np.sum(1 / np.arange(1, n + 1)) / n),
    }


def neighbour_scores(
    x: Array,
    ys: Sequence[Array],
    subjects: Sequence,
    reasons: Sequence[str | None],
    draws: int,
    rng: Rng,
    *,
    k: int,
) -> Scores:
    """Share of the k nearest in x (S, n, d) that are among the k nearest in ys[p], mean over p.

    reasons: (S,) why a site is left out (NaN), or None. Null: all rows of the ys permuted alike.
    Raises NotIdentifiable where everyone is a neighbour.
    """
    s, n, _ = x.shape
    if n <= k + 1:
        raise NotIdentifiable(f"{n} subjects; {k} nearest neighbours need at least {k + 2}")
    near_x, near_y = _nearest(_units(centre(x)), k), np.zeros((s, n, n))
    for y in ys:
        near = _nearest(_units(centre(y)), k)
        share = np.take_along_axis(near_y, near, axis=-1) + 1 / len(ys)
        np.put_along_axis(near_y, near, share, axis=-1)
    values = np.take_along_axis(near_y, near_x, axis=-1).mean(axis=-1)
    values[[reason is not None for reason in reasons]] = np.nan
    null = np.zeros((draws, s))
    for draw, p in zip(null, statistics.permutations(n, draws, rng), strict=True):
        for site in range(s):
            draw[site] = near_y[site][p[:, None], p[near_x[site]]].mean()
    return Scores(values, null, tuple(subjects), tuple(reasons), k / (n - 1))


def mutual_knn(x: Values, y: Values, k: int = 10, *, groups: Groups = None) -> float:
    """Mean share of the k nearest neighbours (centred cosine) on which both sides agree.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> mutual_knn(x, 2 * x + 1, 5), round(mutual_knn(x, x[::-1], 5), 2)  # chance 5/39
    (1.0, 0.15)

    Huh et al. 2024, arXiv:2405.07987; chance k/(n-1). x: (n, d_x), y: (n, d_y), 1 <= k < n - 1.
    Raises as `linear_cka`.
    """
    x, y = checks.to_pair(x, y, groups)
    n = len(x)
    if not 1 <= k < n - 1:
        raise BadInput(f"k={k} with n={n} rows; expected 1 <= k < n - 1, else all are neighbours")
    near_x, near_y = (_nearest(_units(centre(z), "states"), k) for z in (x, y))
    shared = (near_x[:, :, None] == near_y[:, None, :]).sum()
    return float(shared / (n * k))


def retrieval(x: Values, y: Values, *, groups: Groups = None) -> Retrieval:
    """Does each fact's semantic state in y find its rote state in x as nearest among all n?

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> found = retrieval(x, x + 5)
    >>> found.value, found.chance
    (1.0, 0.025)

    x, y: (n, d) of one site, centred cosine. Top-1, top-5 and mean reciprocal rank; a tie counts
    against the fact. Raises as `linear_cka`, and BadInput where the widths differ.
    """
    x, y = checks.to_pair(x, y, groups, same_width=True)
    cosine = _units(centre(y), "y") @ _units(centre(x), "x").T
    rank = np.sum(cosine >= np.diagonal(cosine)[:, None], axis=1)
    top1, top5, mrr = (float(np.mean(score)) for score in (rank == 1, rank <= 5, 1 / rank))
    return Retrieval(top1, top5, mrr, *chances(len(x)).values())


def cosine_alignment(
    x: Values, y: Values, *, centre: bool = True, groups: Groups = None
) -> Interval:
    """Mean cosine of paired states, with the mean over mismatched pairs as its baseline `null`.

    >>> x, y = np.random.default_rng(0).normal(size=(2, 40, 8)) + 9  # nothing shared but the mean
    >>> raw = cosine_alignment(x, y, centre=False)
    >>> round(raw.value, 2), round(raw.null, 2), round(cosine_alignment(x, y).value, 2)
    (0.99, 0.99, 0.0)

    x, y: (n, d) of one site. centre: remove each side's mean over rows; raw cosines are inflated by
    anisotropy, so read them only beside `null`. Raises as `linear_cka` (constant states: if
    centred).
    """
    x, y = checks.to_pair(x, y, groups, varied=centre, same_width=True)
    a, b = (_units(z - z.mean(axis=0) if centre else z, k) for k, z in (("x", x), ("y", y)))
    n, paired = len(a), np.sum(a * b, axis=1)
    mismatched = (a.sum(axis=0) @ b.sum(axis=0) - paired.sum()) / (n * (n - 1))
    return replace(statistics.mean_interval(paired), null=float(mismatched))


def delta_cosine(states: Values, labels: Labels, subjects: Groups = None) -> Interval:
    """Mean cosine within relations minus between relations; pairs sharing a subject are left out.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1, 2], 20)
    >>> states = rng.normal(size=(3, 8))[labels] + rng.normal(size=(60, 8))
    >>> round(delta_cosine(states, labels, np.tile(np.arange(20), 3)).value, 2)
    0.47

    states: (n, d) raw; labels: (n,) relations; subjects: (n,), default all different. Jackknife
    over subjects with all their rows, NaN where one leaves no pair of a kind.
    Raises NotIdentifiable where there is no pair within or between relations.
    """
    states = checks.to_states(states, "states")
    n = len(states)
    relation = checks.to_labels(labels, n)
    subject = checks.to_entities(subjects, n, "subjects")
    unit = _units(states, "states")
    cosine = unit @ unit.T
    other = subject[:, None] != subject
    same = relation[:, None] == relation
    means, left_out = [], []
    for kind, pairs in (("within a relation", other & same), ("between relations", other & ~same)):
        sums, counts = (cosine * pairs).sum(axis=1), pairs.sum(axis=1)
        if not counts.any():
            among = f"with different subjects among {n} rows of {relation.max() + 1} relations"
            remedy = "give two relations of two subjects each, or more"
            raise NotIdentifiable(f"no two rows {kind} {among}; {remedy}")
        means.append(sums.sum() / counts.sum())
        # Pairs are ordered, so a subject's rows hold half of its pairs.
        gone, fewer = (2 * np.bincount(subject, weights=z) for z in (sums, counts))
        with np.errstate(invalid="ignore", divide="ignore"):
            left_out.append((sums.sum() - gone) / (counts.sum() - fewer))
    return statistics.jackknife_interval(means[0] - means[1], left_out[0] - left_out[1])


def rsa(x: Values, y: Values, *, centre: bool = True, groups: Groups = None) -> float:
    """Spearman correlation of the two cosine-distance matrices (Kriegeskorte et al. 2008).

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(rsa(x, 2 * x[:, ::-1] + 1), 6)
    1.0

    x: (n, d_x), y: (n, d_y). centre: remove each side's mean over rows. Chance 0. Raises as
    `linear_cka`.
    """
    from scipy.stats import rankdata

    x, y = checks.to_pair(x, y, groups)
    upper = np.triu_indices(len(x), 1)
    ranks = []
    for name, z in (("x", x), ("y", y)):
        unit = _units(z - z.mean(axis=0) if centre else z, name)
        rank = rankdata(1 - (unit @ unit.T)[upper])
        ranks.append(rank - rank.mean())
        if not np.any(ranks[-1]):
            why = f"{name}: all pairs of rows are equally distant"
            raise checks.DegenerateStates(f"{why}; leave this site or position out")
    return float(ranks[0] @ ranks[1] / np.linalg.norm(ranks[0]) / np.linalg.norm(ranks[1]))


def _units(x: Array, name: str = "") -> Array:
    """x (..., n, d) with rows of length 1; a zero row becomes NaN, or DegenerateStates if named."""
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    if name and not lengths.all():
        why = f"{name}: row {int(np.argmin(lengths))} is zero and has no cosine"
        raise checks.DegenerateStates(f"{why}; leave the fact out")
    with np.errstate(invalid="ignore", divide="ignore"):
        return x / lengths


def _nearest(unit: Array, k: int) -> Array:
    """(..., n, k) indices of the k other rows of unit (..., n, d) with the largest cosine."""
    cosine = unit @ np.swapaxes(unit, -1, -2)
    rows = np.arange(unit.shape[-2])
    cosine[..., rows, rows] = -np.inf
    return np.argpartition(-cosine, k, axis=-1)[..., :k]
