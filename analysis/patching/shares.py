"""Shares of what was moved, with intervals over subjects, and what training or a vector adds."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analysis.measures import statistics
from analysis.measures.checks import to_labels
from analysis.measures.statistics import Interval
from analysis.patching.lens import decodable_layer
from analysis.patching.trials import OUTCOMES, STATE, STEERED, VECTORS
from training.runs.table_files import pick

Array = np.ndarray

STAGE = ["checkpoint", "phase", "epoch", "step"]
KIND = ["relation", "family", "split", "direction", "vector", "position"]
ESTIMATOR = "greedy over candidates"


def summarise(items, lens, *, draws: int, seed: int = 0):
    """The rows of interchange.csv: those of `lens`, then shares, gains and contrasts.

    items: of `trial_rows`; lens: of `lens_rows`; draws: of the sign-flip null.
    """
    import pandas as pd

    rows = lens.to_dict("records")
    for kind, of_kind in _groups(items, KIND):
        # The source's or the target's answer; a vector brings none. The target's relation is bound.
        patched, relations = kind["vector"] == STATE, (kind["relation"], "bound")
        asked = {"rote": "rote", "test": "semantic"} if patched else {}
        families = [family for family, word in asked.items() if word in kind["direction"]]
        earlier = None
        for stage, there in _groups(of_kind, STAGE):
            end = decodable_layer(lens, stage["checkpoint"], relations, families)
            common = {**stage, **kind, "decodable_layer": end, "estimator": ESTIMATOR}
            rows += share_rows(there, common)
            if earlier is not None:
                gain = {"measure": "gain", "reference": earlier.checkpoint.iloc[0]}
                rows += difference_rows(earlier, there, {**common, **gain}, draws, seed)
            earlier = there
            for other in VECTORS[1:] if kind["vector"] == VECTORS[0] else ():
                contrast = {**common, "measure": "contrast", "reference": other}
                control = pick(items, **{**kind, "vector": other}, checkpoint=stage["checkpoint"])
                if len(control):
                    rows += difference_rows(control, there, contrast, draws, seed)
    return pd.DataFrame(rows)


def share_rows(items, common: Mapping) -> Iterator[dict]:
    """Per site the share of trials with each outcome, and of free answers (measure `free`)."""
    candidates = items.n_candidates.mean()
    sizes = {"n": items.group.nunique(), "n_trials": items.trial.nunique()}
    common = {**common, **sizes, "n_candidates": candidates}
    answers, groups = _wide(items, "outcome"), _trial_groups(items)
    for outcome in OUTCOMES if common["vector"] == STATE else STEERED:
        chance = {} if outcome == "other" else {"chance": 1 / candidates}
        what = {"measure": "share", "outcome": outcome, **chance}
        interval = group_mean((answers == outcome).astype(float), groups)
        yield from _site_rows(items, {**common, **what}, interval)
    free = group_mean(_wide(items, "free").astype(float), groups)
    yield from _site_rows(items, {**common, "measure": "free", "outcome": None}, free)


def difference_rows(before, after, common: Mapping, draws: int, seed: int) -> Iterator[dict]:
    """Per site how much more often the relation moved in `after` than in `before`, same trials.

    null_p: one-sided, by sign flips of whole groups; null_p_max: corrected for the best of the
    sites before the answer is decodable (NaN from there on).
    """
    now, was = (_wide(items, "outcome") == "relation" for items in (after, before))
    groups = _trial_groups(after)
    difference = now.astype(float) - was
    interval = group_mean(difference, groups)
    null = sign_flip_null(difference, groups, draws, seed)
    early = ~(np.unique(after.layer) >= common["decodable_layer"])
    corrected = np.full(len(early), np.nan)
    if early.any():
        corrected[early] = statistics.max_statistic_test(interval.value[early], null[:, early]).p
    sizes = {"n": len(set(groups)), "n_trials": now.shape[1]}
    common = {**common, **sizes, "outcome": "relation"}
    p = statistics.permutation_p(interval.value, null)
    yield from _site_rows(after, common, interval, null_p=p, null_p_max=corrected)


def group_mean(values: Array, groups: Sequence) -> Interval:
    """Mean over the last axis of values (..., n), with the jackknife interval over groups."""
    codes = to_labels(groups, values.shape[-1], "groups")
    member = np.eye(codes.max() + 1)[codes]
    sums, counts = values @ member, member.sum(axis=0)
    mean = values.mean(axis=-1)
    if len(counts) < 2:
        nothing = np.full(np.shape(mean), np.nan)
        return Interval(mean, nothing, nothing, nothing, len(counts), 0)
    left_out = (sums.sum(axis=-1, keepdims=True) - sums) / (counts.sum() - counts)
    return statistics.jackknife_interval(mean, left_out)


def sign_flip_null(values: Array, groups: Sequence, draws: int, rng: statistics.Rng = 0) -> Array:
    """Null draws (draws, ...) of the mean of paired differences (..., n): flip groups' signs.

    All trials of a group flip together, at all sites alike (Fisher 1935).
    """
    codes = to_labels(groups, values.shape[-1], "groups")
    signs = np.random.default_rng(rng).choice([-1.0, 1.0], size=(draws, codes.max() + 1))
    return np.moveaxis(values @ signs[:, codes].T, -1, 0) / values.shape[-1]


def _groups(items, columns: list[str]) -> Iterator[tuple[dict, object]]:
    for values, rows in items.groupby(columns, sort=False, dropna=False):
        yield dict(zip(columns, values, strict=True)), rows


def _wide(items, column: str) -> Array:
    """A column as (n_sites, n_trials), both in order."""
    return items.pivot(index="layer", columns="trial", values=column).to_numpy(dtype=object)


def _trial_groups(items) -> list:
    """(n_trials,) the group of each trial, in order."""
    return items.drop_duplicates("trial").sort_values("trial").group.tolist()


def _site_rows(items, common: Mapping, interval: Interval, **more: Array) -> Iterator[dict]:
    """One row per site, with the interval and further columns (n_sites,)."""
    sites = items[["layer", "site"]].drop_duplicates("layer").sort_values("layer")
    columns = {"value": interval.value, "low": interval.low, "high": interval.high, **more}
    for s, site in enumerate(sites.to_dict("records")):
        yield {**common, **site, **{name: column[s] for name, column in columns.items()}}
