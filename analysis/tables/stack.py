"""analysis.tables.stack"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.measures.statistics import (
    jackknife_interval,
    max_statistic_test,
    permutation_p,
    two_way_jackknife,
)
from probing.states import Design, States

Array = np.ndarray


ESTIMATOR = "HSIC_1 ratio"


FEWEST_SUBJECTS = 5


@dataclass(frozen=True)
class Stack:
    """A measure of one relation at all sites: values (P, S) and leave_one_out (P, S, n) by prompt, null (N, S) of
    their mean over prompts."""

    values: Array
    leave_one_out: Array
    null: Array
    d: int

    @property
    def n(self) -> int:
        return self.leave_one_out.shape[-1]


def sites_first(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(1, 0, 2), dtype=np.float64)


def _relations_with(states: Design, family: str) -> list[str]:
    return [r for r in states.relations if states.prompts_of(r, family)]


def why_no_contrast(states: Design, bound: list[str]) -> str:
    """The reason why a crossed contrast cannot be had from a run, "" if it can."""
    if len(bound) < 2:
        return f"not identifiable: {len(bound)} bound relation(s), the contrast crosses at least 2"
    if not states.shared_subjects:
        return "not identifiable: the relations have different subjects, so name and meaning cannot be told apart"
    return ""


def _mean_stack(stacks: list[Stack]) -> Stack:
    """The mean over relations with the same subjects; prompts beyond the fewest are left out of none: averaged first
    where the numbers of prompts differ."""
    if len({len(s.values) for s in stacks}) > 1:
        stacks = [
            Stack(
                s.values.mean(0, keepdims=True), s.leave_one_out.mean(0, keepdims=True), s.null, s.d
            )
            for s in stacks
        ]
    return Stack(
        np.mean([s.values for s in stacks], axis=0),
        np.mean([s.leave_one_out for s in stacks], axis=0),
        np.mean([s.null for s in stacks], axis=0),
        stacks[0].d,
    )


def _interval(per_prompt: Array, leave_one_out: Array) -> tuple[float, float]:
    """95% interval of a mean over prompts (P,) with delete-one-subject values (P, n): subjects x templates from two
    prompts on, subjects alone with one."""

    if not np.isfinite(leave_one_out).all():
        return np.nan, np.nan
    if len(per_prompt) == 1:
        found = jackknife_interval(per_prompt[0], leave_one_out[0])
    else:
        found = two_way_jackknife(per_prompt, leave_one_out)
    return float(found.low), float(found.high)


def summary_rows(there: States, stacks: dict[str, Stack], common: dict) -> Iterator[dict]:
    """Rows of every relation, and of `bound` and `unbound`, at every site, with interval, null and corrected p."""
    states = there.design
    named = dict(stacks)
    for label, members in (("bound", states.bound), ("unbound", states.unbound)):
        some = [stacks[r] for r in members if r in stacks]
        same = {tuple(states.subjects(r)) for r in members if r in stacks}
        if some and len(same) == 1:
            named[label] = _mean_stack(some)
        elif some:
            yield from _independent_rows(there, some, {**common, "relation": label})
    for relation, stack in named.items():
        yield from _stack_rows(there, stack, {**common, "relation": relation})


def _stack_rows(there, stack: Stack, common: dict) -> Iterator[dict]:

    values = stack.values.mean(axis=0)
    p = corrected = np.full(len(values), np.nan)
    if len(stack.null):
        p = permutation_p(values, stack.null)
        if np.isfinite(values).any():
            corrected = max_statistic_test(values, np.nan_to_num(stack.null)).p
    for s, site in enumerate(there.sites):
        low, high = _interval(stack.values[:, s], stack.leave_one_out[:, s])
        finite = bool(np.isfinite(values[s]))
        yield {
            **there.checkpoint.stage,
            **common,
            "site": site,
            "layer": s,
            "value": values[s],
            "low": low,
            "high": high,
            "null_p": p[s],
            "null_high": float(np.quantile(stack.null[:, s], 0.95)) if len(stack.null) else np.nan,
            "null_p_max": corrected[s],
            "n": stack.n,
            "d": stack.d,
            "n_prompts": len(stack.values),
            "estimator": ESTIMATOR,
            "reason": "" if finite else "no variance left: all subjects have the same state here",
        }


def _independent_rows(there, stacks: list[Stack], common: dict) -> Iterator[dict]:
    """Rows of a mean over relations with different subjects: their jackknife variances add."""
    from scipy import stats

    values = np.array([s.values.mean(axis=0) for s in stacks])
    errors = np.array(
        [jackknife_interval(s.values.mean(0), s.leave_one_out.mean(0)).se for s in stacks]
    )
    mean, error = values.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(stacks)
    half = stats.t.ppf(0.975, min(s.n for s in stacks) - 1) * error
    for s, site in enumerate(there.sites):
        yield {
            **there.checkpoint.stage,
            **common,
            "site": site,
            "layer": s,
            "value": mean[s],
            "low": mean[s] - half[s],
            "high": mean[s] + half[s],
            "n": sum(k.n for k in stacks),
            "d": stacks[0].d,
            "n_prompts": len(stacks[0].values),
            "estimator": ESTIMATOR,
            "reason": ""
            if np.isfinite(mean[s])
            else "no variance left: all subjects have the same state here",
        }
