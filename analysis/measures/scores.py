"""What each subject scored at every site, as values with intervals over subjects and nulls.

Accuracies of probes, cosines and shares of interchanged answers all end as `Scores`; `summaries`
turns them into the columns of a table and `relation_rows` into its rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measures import statistics
from analysis.measures.checks import Array, Labels, first_reasons, to_labels
from analysis.measures.statistics import Rng


@dataclass(frozen=True, eq=False)
class Scores:
    """A measure of every fact at every site, and the null of its mean.

    values: (S, n), NaN at sites left out; null: (N, S), N = 0 for none; subjects: (n,) whom the
    facts are about; reasons: (S,) why a site was left out; object_null: as Transfer.object_null.
    """

    values: Array
    null: Array
    subjects: tuple
    reasons: tuple[str | None, ...]
    chance: float = np.nan
    object_null: Array | None = None


def paired_scores(
    pairs: Array,
    subjects: Labels,
    reasons: Sequence[str | None],
    draws: int,
    rng: Rng = 0,
    *,
    chance: float = np.nan,
) -> Scores:
    """Scores of the true pairs among (S, n, n): entry s, i, j sets subject i against subject j.

    Null: the mean under `draws` permutations of the pairing, the same at all sites, at all prompts
    (average the pairs over them first) and, with the same seed, for every relation of n subjects.
    """
    n = pairs.shape[1]
    rows, orders = np.arange(n), statistics.permutations(n, draws, rng)
    null = np.array([pairs[:, rows, p].mean(axis=1) for p in orders]).reshape(draws, len(pairs))
    own = np.diagonal(pairs, axis1=1, axis2=2)
    return Scores(own, null, tuple(subjects), tuple(reasons), chance)


def pooled(scores: Sequence[Scores]) -> Scores:
    """The facts of several relations together; a subject of several keeps all its facts."""
    sizes = np.array([s.values.shape[1] for s in scores])
    share = sizes / sizes.sum()
    object_nulls = [s.object_null for s in scores if s.object_null is not None]
    return Scores(
        np.concatenate([s.values for s in scores], axis=1),
        np.tensordot(share, [s.null for s in scores], axes=1),
        tuple(subject for s in scores for subject in s.subjects),
        first_reasons(*(s.reasons for s in scores)),
        float(share @ [s.chance for s in scores]),
        np.tensordot(share, object_nulls, axes=1) if len(object_nulls) == len(scores) else None,
    )


def summaries(scores: Scores) -> list[dict]:
    """Per site: value, low, high, null_p, null_high, null_p_max, chance, n and reason.

    low, high: 95% jackknife interval leaving out one subject with all its facts; null_high: 95%
    quantile; null_p_max: corrected for the best site. With an object_null null_p_objects(_max) too.
    """
    who = to_labels(scores.subjects, len(scores.subjects), "subjects")
    counts = np.bincount(who)
    value = scores.values.mean(axis=1)
    finite = np.isfinite(value)
    low = high = p = corrected = null_high = np.full(len(value), np.nan)
    if len(counts) > 1:
        known = np.where(finite[:, None], scores.values, 0)
        sums = np.array([np.bincount(who, weights=row) for row in known])
        left_out = (sums.sum(axis=1, keepdims=True) - sums) / (counts.sum() - counts)
        interval = statistics.jackknife_interval(value, left_out)
        low, high = interval.low, interval.high
    if len(scores.null) and finite.any():
        p = statistics.permutation_p(value, scores.null)
        null_high = np.quantile(scores.null, 0.95, axis=0)
        corrected = statistics.max_statistic_test(value, scores.null).p
    columns = {"value": value, "low": low, "high": high}
    columns |= {"null_p": p, "null_high": null_high, "null_p_max": corrected}
    columns["chance"] = np.where(finite, scores.chance, np.nan)
    if scores.object_null is not None and len(scores.object_null) and finite.any():
        columns["null_p_objects"] = statistics.permutation_p(value, scores.object_null)
        corrected = statistics.max_statistic_test(value, scores.object_null).p
        columns["null_p_objects_max"] = corrected
    return [
        {name: column[s] for name, column in columns.items()}
        | {"n": len(counts), "reason": scores.reasons[s] or ""}
        for s in range(len(value))
    ]


def relation_rows(
    found: Mapping[str, Scores | str], sites: Sequence[str], **groups: Sequence[str]
) -> Iterator[dict]:
    """Table rows at every site of every relation, and of groups of relations by their name.

    found: a relation's scores, or why there are none. groups: e.g. bound=["mother", "aunt"]; a
    relation without scores is named in the reason of its group, one that `found` lacks is ignored.
    """
    wanted = {relation: [relation] for relation in found}
    wanted |= {group: [r for r in members if r in found] for group, members in groups.items()}
    for label, members in wanted.items():
        some = [(r, found[r]) for r in members]
        scored = [s for _, s in some if isinstance(s, Scores)]
        missing = "; ".join(f"without {r}: {s}" for r, s in some if isinstance(s, str))
        nothing = [{"value": np.nan, "reason": ""}] * (len(sites) if members else 0)
        values = summaries(pooled(scored)) if scored else nothing
        for layer, value in enumerate(values):
            place = {"relation": label, "site": sites[layer], "layer": layer}
            yield {**place, **value, "reason": value["reason"] or missing}
