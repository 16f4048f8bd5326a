"""A measure of one relation at all sites, prompt by prompt, and the table rows that summarise it.

Leave-one-out values and null draws are averaged over prompts and relations as the values are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measures import statistics
from analysis.measures.statistics import jackknife_interval
from probing.states import Design, States

Array = np.ndarray

ESTIMATOR = "HSIC_1 ratio"
FEWEST_SUBJECTS = 5


@dataclass(frozen=True)
class Stack:
    """values (P, S) and leave_one_out (P, S, n) by prompt and site; null (N, S) of the mean."""

    values: Array
    leave_one_out: Array
    null: Array


def prompt_states(there: States, relation: str, family: str, split: str) -> list[Array]:
    """States (S, n, d) float64 of each prompt of a family about the subjects of a split."""
    rows = there.design.rows(relation, split)
    return [
        np.ascontiguousarray(there.of(prompt)[rows].transpose(1, 0, 2), dtype=np.float64)
        for prompt in there.design.prompts_of(relation, family)
    ]


def relations_with(design: Design, family: str) -> list[str]:
    return [r for r in design.relations if design.prompts_of(r, family)]


def fewest_subjects(design: Design, split: str) -> int:
    return min(len(design.rows(r, split)) for r in design.relations)


def mean_stack(stacks: Sequence[Stack]) -> Stack:
    """The mean over relations with the same subjects; over prompts first if their counts differ."""
    values, left_out = [s.values for s in stacks], [s.leave_one_out for s in stacks]
    if len({len(v) for v in values}) > 1:
        values = [v.mean(0, keepdims=True) for v in values]
        left_out = [v.mean(0, keepdims=True) for v in left_out]
    return Stack(*(np.mean(part, axis=0) for part in (values, left_out, [s.null for s in stacks])))


def summary_rows(there: States, stacks: dict[str, Stack], common: dict) -> Iterator[dict]:
    """Rows of each relation, and of `bound` and `unbound` together, at every site."""
    design, named = there.design, dict(stacks)
    for label, members in (("bound", design.bound), ("unbound", design.unbound)):
        found = {r: stacks[r] for r in members if r in stacks}
        if len({tuple(design.subjects(r)) for r in found}) == 1:
            named[label] = mean_stack(list(found.values()))
        elif found:
            yield from _independent_rows(there, list(found.values()), {**common, "relation": label})
    for relation, stack in named.items():
        about, values = {**common, "relation": relation}, stack.values.mean(axis=0)
        p_max = corrected_p(values, stack.null)
        for s, value in enumerate(values):
            by_prompt = stack.values[:, s], stack.leave_one_out[:, s]
            yield site_row(there, s, about, value, *by_prompt, stack.null[:, s], p_max[s])


def site_row(there: States, layer: int, common: dict, value: float, *scores, **options) -> dict:
    """The table row of a mean over prompts at one site; scores and options as in `estimate`."""
    place = {"site": there.sites[layer], "layer": layer}
    found = estimate(value, *scores, **options)
    reason = "" if np.isfinite(value) else "no variance left: all subjects have the same state here"
    shape = {"n": found.pop("n"), "d": there.width, "n_prompts": found.pop("n_prompts")}
    row = {**there.checkpoint.stage, **common, **place, **found, **shape}
    return {**row, "estimator": ESTIMATOR, "reason": reason}


def estimate(value, per_prompt, leave_one_out, null=(), null_p_max=np.nan, *, two_sided=False):
    """A mean over prompts with interval and null: per_prompt (P,), leave_one_out (P, n), null (N,).

    The interval is over subjects and templates; over subjects alone if there is one prompt.
    """
    low = high = null_p = null_high = np.nan
    if np.isfinite(leave_one_out).all():
        if len(per_prompt) == 1:
            found = jackknife_interval(per_prompt[0], leave_one_out[0])
        else:
            found = statistics.two_way_jackknife(per_prompt, leave_one_out)
        low, high = found.low, found.high
    if len(null):
        null_p = statistics.permutation_p(value, null, "two-sided" if two_sided else "greater")
        null_high = np.quantile(np.abs(null) if two_sided else null, 0.95)
    score = {"value": value, "low": low, "high": high}
    nulls = {"null_p": null_p, "null_high": null_high, "null_p_max": null_p_max}
    return {**score, **nulls, "n": leave_one_out.shape[-1], "n_prompts": len(per_prompt)}


def empty_row(there: States, common: dict, reason: str) -> dict:
    """The row of a value that does not exist, and why."""
    return {**there.checkpoint.stage, **common, "value": np.nan, "reason": reason}


def corrected_p(values: Array, null: Array, *, two_sided: bool = False) -> Array:
    """p (S,) of values (S,), null (N, S), corrected for the best site; NaN without a null."""
    if not len(null) or not np.isfinite(values).any():
        return np.full(len(values), np.nan)
    return statistics.max_statistic_test(values, np.nan_to_num(null), two_sided=two_sided).p


def _independent_rows(there: States, stacks: list[Stack], common: dict) -> Iterator[dict]:
    """Rows of a mean over relations with different subjects: their jackknife variances add."""
    from scipy import stats

    sizes = [s.leave_one_out.shape[-1] for s in stacks]
    values = np.mean([s.values.mean(axis=0) for s in stacks], axis=0)
    pairs = [(s.values.mean(axis=0), s.leave_one_out.mean(axis=0)) for s in stacks]
    errors = [jackknife_interval(*pair).se for pair in pairs]
    error = np.sqrt(np.sum(np.square(errors), axis=0)) / len(stacks)
    half = stats.t.ppf(0.975, min(sizes) - 1) * error
    left_out = np.full((1, sum(sizes)), np.nan)
    for layer, (value, reach) in enumerate(zip(values, half, strict=True)):
        row = site_row(there, layer, common, value, stacks[0].values[:, layer], left_out)
        yield {**row, "low": value - reach, "high": value + reach}
