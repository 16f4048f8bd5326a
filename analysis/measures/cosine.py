"""Measures that rest on cosines between states: neighbours, retrieval, paired alignment, Delta-CosSim, RSA.

Cosines of centred states unless said otherwise: raw ones are inflated by the direction all states share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import (
    DegenerateStates,
    NotIdentifiable,
    to_labels,
    to_pair,
    to_states,
)
from analysis.measures.hsic import centre
from analysis.measures.statistics import jackknife_interval, mean_interval
from training.base.errors import BadInput

Array = np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """value: top-1 rate; the chances are 1/n, 5/n and H_n/n."""

    value: float
    top5: float
    mrr: float
    chance: float
    chance_top5: float
    chance_mrr: float
    n: int
    d: int


@dataclass(frozen=True)
class CosineAlignment:
    """value: mean cosine of paired rows with its t interval over rows; null: mean cosine of mismatched
    pairs.
    """

    value: float
    low: float
    high: float
    null: float
    n: int
    d: int


@dataclass(frozen=True)
class DeltaCosine:
    """value: within - between, with its delete-one-subject interval; n rows."""

    value: float
    low: float
    high: float
    within: float
    between: float
    n: int
    d: int


def mutual_knn(x: Any, y: Any, k: int = 10, *, groups: Sequence | None = None) -> float:
    """Mean share of the k nearest neighbours (centred cosine) that both sides agree on; chance k/(n-1).

    Huh et al. 2024, arXiv:2405.07987. x: (n, d_x), y: (n, d_y), 1 <= k < n - 1 (else BadInput).
    """
    x, y = to_pair(x, y, groups)
    n = len(x)
    if not 1 <= k < n - 1:
        raise BadInput(
            f"k={k} with n={n} rows; expected 1 <= k < n - 1, every row is a neighbour otherwise"
        )
    near = []
    for z in (x, y):
        cosine = (unit := _unit_rows(centre(z), "states")) @ unit.T
        np.fill_diagonal(cosine, -np.inf)
        mask = np.zeros((n, n), dtype=bool)
        np.put_along_axis(mask, np.argpartition(-cosine, k, axis=1)[:, :k], True, axis=1)
        near.append(mask)
    return float((near[0] & near[1]).sum() / (n * k))


def retrieval(x: Any, y: Any, *, groups: Sequence | None = None) -> Retrieval:
    """Does each fact's state in y (semantic) find its own in x (rote) as nearest among all n? Centred cosine.

    x, y: (n, d) of one site. Top-1, top-5 and mean reciprocal rank, with chances 1/n, 5/n, H_n/n. A tie with
    another fact counts against the fact. Raises as `linear_cka`, BadInput where the widths differ.
    """
    x, y = to_pair(x, y, groups, same_width=True)
    n, d = x.shape
    cosine = _unit_rows(centre(y), "y") @ _unit_rows(centre(x), "x").T
    rank = np.sum(cosine >= np.diagonal(cosine)[:, None], axis=1)
    return Retrieval(
        float(np.mean(rank == 1)),
        float(np.mean(rank <= 5)),
        float(np.mean(1 / rank)),
        1 / n,
        min(1.0, 5 / n),
        float(np.sum(1 / np.arange(1, n + 1)) / n),
        n,
        d,
    )


def cosine_alignment(
    x: Any, y: Any, *, centre: bool = True, groups: Sequence | None = None
) -> CosineAlignment:
    """Mean cosine of paired states, with the mean over mismatched pairs as its baseline.

    x, y: (n, d) of one site. centre: remove each side's mean over rows first; raw cosines are inflated by
    anisotropy, so never read them without `null`. Raises as `linear_cka`; constant states are refused only if
    centred.
    """
    x, y = to_pair(x, y, groups, varied=centre, same_width=True)
    if centre:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    n, d = x.shape
    x, y = _unit_rows(x, "x"), _unit_rows(y, "y")
    paired = np.sum(x * y, axis=1)
    mismatched = (x.sum(axis=0) @ y.sum(axis=0) - paired.sum()) / (n * (n - 1))
    interval = mean_interval(paired)
    return CosineAlignment(
        float(interval.value), float(interval.low), float(interval.high), float(mismatched), n, d
    )


def delta_cosine(
    states: Any, labels: Sequence | Array, subjects: Sequence | None = None
) -> DeltaCosine:
    """Mean cosine within relations minus between relations, over all facts; pairs sharing a subject are left
    out.

    states: (n, d) raw; labels: the relation of each row; subjects: the subject of each row (default: all
    different). The interval leaves out one subject at a time with all its rows; NaN where that leaves no pair
    of a kind.
    Raises NotIdentifiable where there is no pair within or between relations.
    """
    states = to_states(states, "states")
    n, d = states.shape
    relation = to_labels(labels, n)
    subject = np.arange(n) if subjects is None else to_labels(subjects, n, "subjects")
    unit = _unit_rows(states, "states")
    cosine = unit @ unit.T
    other = subject[:, None] != subject
    same = relation[:, None] == relation
    totals, per_subject = [], []
    for pairs in (other & same, other & ~same):
        # Sums over ordered pairs and their number; a subject's own row sums hold half of the pairs it is in.
        rows = np.stack([(cosine * pairs).sum(axis=1), pairs.sum(axis=1)])
        totals.append(rows.sum(axis=1))
        per_subject.append(np.stack([np.bincount(subject, weights=row) for row in rows]))
    if totals[0][1] == 0 or totals[1][1] == 0:
        kind = "within a relation" if totals[0][1] == 0 else "between relations"
        raise NotIdentifiable(
            f"no two rows {kind} with different subjects among {n} rows of {relation.max() + 1} "
            "relations; give at least two relations with two subjects each"
        )
    within, between = (total[0] / total[1] for total in totals)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = [
            (t[0] - 2 * s[0]) / (t[1] - 2 * s[1]) for t, s in zip(totals, per_subject, strict=True)
        ]
    interval = jackknife_interval(within - between, left_out[0] - left_out[1])
    return DeltaCosine(
        float(within - between),
        float(interval.low),
        float(interval.high),
        float(within),
        float(between),
        n,
        d,
    )


def rsa(x: Any, y: Any, *, centre: bool = True, groups: Sequence | None = None) -> float:
    """Spearman correlation of the two cosine-distance matrices (Kriegeskorte et al. 2008), upper triangles.

    x: (n, d_x), y: (n, d_y). centre: remove each side's mean over rows first. Chance 0. Raises as
    `linear_cka`.
    """
    from scipy.stats import rankdata

    x, y = to_pair(x, y, groups)
    upper = np.triu_indices(len(x), 1)
    ranks = []
    for name, z in (("x", x), ("y", y)):
        unit = _unit_rows(z - z.mean(axis=0) if centre else z, name)
        rank = rankdata(1 - (unit @ unit.T)[upper])
        ranks.append(rank - rank.mean())
        if not np.any(ranks[-1]):
            raise DegenerateStates(
                f"{name}: all pairs of rows are equally distant; leave this site or position out"
            )
    return float(ranks[0] @ ranks[1] / np.linalg.norm(ranks[0]) / np.linalg.norm(ranks[1]))


def _unit_rows(x: Array, name: str) -> Array:
    """Rows scaled to length 1. Raises DegenerateStates for a row without length."""
    lengths = np.linalg.norm(x, axis=1)
    if not lengths.all():
        raise DegenerateStates(
            f"{name}: row {int(np.argmin(lengths))} is zero, its cosine is undefined; leave the fact out"
        )
    return x / lengths[:, None]
