"""Shares of what was moved, with intervals over subjects, and where the answer can be read off a state.

Pure arithmetic on the items of `analysis.interchange` (one row a trial and site, with the outcome), and the
logit lens on stored states. No model is run here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from analysis.measures.checks import first_reasons, site_reasons, to_labels
from analysis.measures.scores import Scores, paired_scores, relation_rows
from analysis.measures.statistics import (
    Interval,
    Rng,
    jackknife_interval,
    max_statistic_test,
    permutation_p,
)
from training.runs.table_files import pick

Array = np.ndarray


LEVEL = 0.05


STAGE = ["checkpoint", "phase", "epoch", "step"]


KIND = ["relation", "family", "split", "direction", "vector", "position"]


# What an answer says that was moved: o(s, r), o(s, r'), o(s', r), o(s', r'), or another object of the pools.
OUTCOMES = ("nothing", "relation", "subject", "answer", "other")


# With the vector of r added to a prompt about (s, q): o(s, q), o(s, r), o(s, w) of the wrong vector, or another.
STEERED = ("nothing", "relation", "wrong", "other")


# What is put in: the whole state of another prompt, or a vector is added.
STATE = "state"


VECTORS = ("own", "wrong", "random")


# The position of rows about the unchanged target prompt.
UNCHANGED = "none"


ESTIMATOR = "greedy over candidates"


LENS = "logit lens, first token of each candidate"


def group_mean(values: Array, groups: Sequence) -> Interval:
    """Mean over the last axis of values (..., n), with the jackknife interval that leaves out one group at a time."""
    codes = to_labels(groups, values.shape[-1], "groups")
    member = np.eye(codes.max() + 1)[codes]
    sums, counts = values @ member, member.sum(axis=0)
    mean = values.mean(axis=-1)
    if len(counts) < 2:
        nothing = np.full(np.shape(mean), np.nan)
        return Interval(mean, nothing, nothing, nothing, len(counts), 0)
    return jackknife_interval(
        mean, (sums.sum(axis=-1, keepdims=True) - sums) / (counts.sum() - counts)
    )


def sign_flip_null(values: Array, groups: Sequence, draws: int, rng: Rng = 0) -> Array:
    """Null draws (draws, ...) of the mean of paired differences values (..., n): each group's sign is a coin.

    All trials of a group flip together, at all sites alike: under the null the two conditions of a group could
    be exchanged (Fisher 1935).
    """
    codes = to_labels(groups, values.shape[-1], "groups")
    signs = np.random.default_rng(rng).choice([-1.0, 1.0], size=(draws, codes.max() + 1))
    return np.moveaxis(values @ signs[:, codes].T, -1, 0) / values.shape[-1]


def summarise(items, lens, *, draws: int, seed: int = 0):
    """The table of shares, gains and lens values.

    items: a row a trial and site, columns STAGE, KIND, trial, group, site, layer, outcome, free, n_candidates.
    lens: rows of `lens_rows` with STAGE. draws: of the sign-flip null of the gains.
    """
    import pandas as pd

    items = items[
        [*STAGE, *KIND, "trial", "group", "site", "layer", "outcome", "free", "n_candidates"]
    ]
    rows = [dict(row) for row in lens.to_dict("records")]
    for kind, of_kind in _groups(items, KIND):
        earlier = None
        for stage, there in _groups(of_kind, STAGE):
            families = _families(kind["direction"]) if kind["vector"] == STATE else ()
            # The target's relation is a bound one on both sides.
            end = decodable_layer(lens, stage["checkpoint"], {kind["relation"], "bound"}, families)
            common = {**stage, **kind, "decodable_layer": end, "estimator": ESTIMATOR}
            rows += share_rows(there, common)
            if earlier is not None:
                reference = earlier.checkpoint.iloc[0]
                rows += difference_rows(
                    earlier,
                    there,
                    {**common, "measure": "gain", "reference": reference},
                    draws,
                    seed,
                )
            earlier = there
            for other in VECTORS[1:] if kind["vector"] == VECTORS[0] else ():
                control = pick(
                    items, **{**kind, "vector": other, "checkpoint": stage["checkpoint"]}
                )
                row = {**common, "measure": "contrast", "reference": other}
                rows += difference_rows(control, there, row, draws, seed) if len(control) else ()
    return pd.DataFrame(rows)


def share_rows(items, common: Mapping) -> Iterator[dict]:
    """Per site the share of trials with each outcome, and of those answered freely (measure `free`)."""
    n_candidates = items.n_candidates.mean()
    sizes = {
        "n": items.group.nunique(),
        "n_trials": items.trial.nunique(),
        "n_candidates": n_candidates,
    }
    outcomes = OUTCOMES if common["vector"] == STATE else STEERED
    answers, layers, groups = matrix(items, "outcome")
    free, _, _ = matrix(items, "free")
    for outcome in (*outcomes, None):
        interval = group_mean((answers == outcome if outcome else free).astype(float), groups)
        chance = {"chance": 1 / n_candidates} if outcome not in (None, "other") else {}
        for place, layer in enumerate(layers):
            yield {
                **common,
                **sizes,
                **chance,
                **layer,
                "measure": "share" if outcome else "free",
                "outcome": outcome,
                "value": interval.value[place],
                "low": interval.low[place],
                "high": interval.high[place],
            }


def difference_rows(before, after, common: Mapping, draws: int, seed: int) -> Iterator[dict]:
    """Per site how much oftener the relation moved in `after` than in `before`, items of the same trials.

    null_p: one-sided, by sign flips of whole groups; null_p_max: corrected for the best of the sites before the
    answer is decodable (NaN from there on).
    """
    was, _, _ = matrix(before, "outcome")
    now, layers, groups = matrix(after, "outcome")
    difference = (now == "relation").astype(float) - (was == "relation")
    interval = group_mean(difference, groups)
    null = sign_flip_null(difference, groups, draws, seed)
    p = permutation_p(interval.value, null)
    early = np.array([not layer["layer"] >= common["decodable_layer"] for layer in layers])
    corrected = np.full(len(layers), np.nan)
    if early.any():
        corrected[early] = max_statistic_test(interval.value[early], null[:, early]).p
    for place, layer in enumerate(layers):
        yield {
            **common,
            **layer,
            "outcome": "relation",
            "value": interval.value[place],
            "low": interval.low[place],
            "high": interval.high[place],
            "null_p": p[place],
            "null_p_max": corrected[place],
            "n": len(set(groups)),
            "n_trials": now.shape[1],
        }


def matrix(items, column: str) -> tuple[Array, list[dict], list]:
    """A column as (n_sites, n_trials), with the sites in order and the group of each trial."""
    layers, first_row, row = np.unique(
        items.layer.to_numpy(), return_index=True, return_inverse=True
    )
    trials, first_trial, place = np.unique(
        items.trial.to_numpy(), return_index=True, return_inverse=True
    )
    wide = np.full((len(layers), len(trials)), None, dtype=object)
    wide[row, place] = items[column].to_numpy(dtype=object)
    sites = items.site.to_numpy()[first_row]
    named = [{"layer": int(layer), "site": site} for layer, site in zip(layers, sites, strict=True)]
    return wide, named, list(items.group.to_numpy()[first_trial])


def _groups(items, columns: list[str]) -> Iterator[tuple[dict, object]]:
    for values, rows in items.groupby(columns, sort=False, dropna=False):
        yield dict(zip(columns, values, strict=True)), rows


def _families(direction: str) -> tuple[str, ...]:
    """The prompt families whose answers must not be decodable yet: of the source and of the target."""
    return tuple(
        f for f in ("rote", "test") if {"rote": "rote", "test": "semantic"}[f] in direction
    ) or ("test",)


def decodable_layer(
    lens, checkpoint: str, relations: Iterable[str], families: Iterable[str]
) -> float:
    """The first layer at which any of these answers can be read, by either lens; NaN if there is none.

    Read: p, corrected for the best of all sites, is at most .05 against answers about other subjects.
    """
    some = lens[(lens.checkpoint == checkpoint) & lens.relation.isin(list(relations))]
    some = some[some.family.isin(list(families))]
    read = some[some.null_p_max <= LEVEL]
    return float(read.layer.min()) if len(read) else float("nan")


def lens_pairs(logits: Array, tokens: Array, own: Sequence[int], *, centred: bool) -> Array:
    """(S, n, n): whether the lens of subject i says the first token of subject j's object.

    logits: (n, S, K) of the K candidates' first tokens, tokens (n, K); own: (n,) index of each subject's object.
    centred: each candidate's mean over the subjects is taken off first, so that a candidate that ranks high
    whoever is asked about (its base rate) does not count as read.
    """
    logits = logits - logits.mean(axis=0) if centred else logits
    said = np.take_along_axis(tokens[:, None, :], logits.argmax(axis=-1)[..., None], axis=-1)[
        ..., 0
    ]
    return (said.T[:, :, None] == tokens[:, own][None]).astype(float)


def lens_scores(
    logits: Sequence[Array], states: Sequence[Array], tokens: Sequence[Array], objects: Sequence[str],
    candidates: Sequence[str], subjects: Sequence[str], *, centred: bool, draws: int, seed: int,
) -> Scores:  # fmt: skip
    """Scores of the lens of one relation, averaged over prompts: logits (n, S, K), states (n, S, d) and tokens
    (n, K) of each prompt. Null: objects of other subjects from the same pool."""
    own = [list(candidates).index(obj) for obj in objects]
    pairs = np.mean(
        [lens_pairs(x, t, own, centred=centred) for x, t in zip(logits, tokens, strict=True)],
        axis=0,
    )
    reasons = first_reasons(*(site_reasons(np.swapaxes(x, 0, 1)) for x in states))
    pairs[[reason is not None for reason in reasons]] = np.nan
    majority = np.bincount(to_labels(objects, len(objects))).max() / len(objects)
    return paired_scores(pairs, subjects, reasons, draws, seed, chance=float(majority))


def lens_rows(
    found: Mapping[str, Mapping[str, Scores]],
    sites: Sequence[str],
    common: Mapping,
    **sides: Sequence[str],
) -> Iterator[dict]:
    """Table rows of `found`, measure -> relation -> scores; sides: bound and unbound relations."""
    for measure, scores in found.items():
        for row in relation_rows(scores, sites, **sides):
            yield {**common, **row, "measure": measure, "estimator": LENS}
