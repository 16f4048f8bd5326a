"""analysis.across.curves"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.across.endpoints import ENDPOINTS, GAP, Endpoint
from analysis.measures.statistics import mean_interval

LEAST_POINTS = 3


WATCHED = (
    Endpoint("sibling's prompts, answers", {"table": "repurposing", "measure": "sibling_answers"}),
    Endpoint("sibling's prompts, states", {"table": "repurposing", "measure": "sibling_states"}),
)


def tokens_at(table) -> dict[tuple[str, str], float]:
    """(run, checkpoint) -> training tokens of its weights since the base model, through the phases they rest on.

    Runs that learn by rote once more (training.extend) are left out: their checkpoints have the names of phase 1.
    """
    own: dict[tuple[str, str], tuple[float, str]] = {}
    some = table[table["measure"] == "tokens_so_far"]
    some = some[~some["run"].isin(some.loc[some["phase"] == "extend", "run"])]
    for row in some.fillna({"reference": ""}).itertuples():
        own[row.run, row.checkpoint] = (float(row.value), row.reference)

    def total(run: str, checkpoint: str) -> float:
        tokens, parent = own.get((run, checkpoint), (0.0, ""))
        return tokens + (total(run, parent) if parent else 0.0)

    return {(run, checkpoint): total(run, checkpoint) for run, checkpoint in own}


def _endpoints() -> Sequence[Endpoint]:
    """Levels of ablations' endpoints, bound and unbound by themselves, and what only curves show."""
    levels = [
        e for e in (*ENDPOINTS, *WATCHED) if not e.change and not e.yes_no and e.relation != GAP
    ]
    sides = [(e, replace(e, relation="unbound")) if e.relation == "bound" else (e,) for e in levels]
    return [endpoint for some in sides for endpoint in some]


def _curves(table, endpoint: Endpoint, unit: Sequence[str], tokens: dict) -> list[dict]:
    """The points of one endpoint, condition by condition: means over units with their t intervals."""

    some = table[table["checkpoint"].notna()]
    for column, value in endpoint.rows.items():
        some = some[some[column] == value] if column in some else some
    if "split" in some and set(some["split"].dropna()) - {"all"}:
        some = some[some["split"].isna() | (some["split"] == "held-out")]
    if endpoint.relation:
        some = some[some["relation"] == endpoint.relation]
    points, counted = [], {run for run, _ in tokens}
    for label, group in some.groupby("label", sort=False):
        units, trained = group.groupby(list(unit)).ngroups, []
        for (checkpoint, phase, step), rows in group.groupby(
            ["checkpoint", "phase", "step"], sort=True
        ):
            values = rows.groupby(list(unit))["value"].mean().dropna().to_numpy(dtype=float)
            runs = rows["run"].unique()
            at = [tokens.get((run, checkpoint), 0.0) for run in runs]
            known = all(
                (run, checkpoint) in tokens or (phase == "base" and run in counted) for run in runs
            )
            if len(values) < units or not known:
                continue
            found = {"value": values.mean(), "low": np.nan, "high": np.nan, "n_seeds": len(values)}
            if len(values) > 1:
                interval = mean_interval(values)
                found |= {"low": float(interval.low), "high": float(interval.high)}
            stage = {
                "checkpoint": checkpoint,
                "phase": phase,
                "step": step,
                "tokens": float(np.mean(at)),
            }
            named = {"endpoint": endpoint.name, "relation": endpoint.relation, "label": label}
            trained.append({**named, **stage, **found})
        # A phase that starts again from the base model does not go through the checkpoints of the one before.
        last = trained[-1] if trained else {}
        kept = [
            p for p in trained if p["tokens"] <= last["tokens"] and _rests_on(table, label, last, p)
        ]
        points += kept if len(kept) >= LEAST_POINTS else []
    return points


def _rests_on(table, label: str, last: dict, point: dict) -> bool:
    """Whether the last checkpoint of a condition was trained from another one, or is of the same phase."""
    if point["phase"] in (last["phase"], "base"):
        return True
    some = table[(table["label"] == label) & (table["measure"] == "tokens_so_far")]
    phases = dict(zip(some["checkpoint"], some["phase"], strict=True))
    parents = dict(zip(some["checkpoint"], some["reference"], strict=True))
    parent = parents.get(last["checkpoint"])
    while isinstance(parent, str) and parent:
        if phases.get(parent) == point["phase"]:
            return True
        parent = parents.get(parent)
    return False


def curve_lines(curves) -> list[str]:
    """Where each curve starts and ends, in words."""
    lines = []
    for (endpoint, relation), some in curves.groupby(["endpoint", "relation"], sort=False):
        lines.append(f"{endpoint}{', ' * bool(relation)}{relation}")
        for label, curve in some.groupby("label", sort=False):
            ends = curve.sort_values("tokens").iloc[[0, -1]]
            words = [f"{row.value:.2f} at {row.tokens:,.0f} tokens" for row in ends.itertuples()]
            lines.append(
                f"  {label}: {' -> '.join(words)} ({len(curve)} checkpoints, {curve.n_seeds.max()} seeds)"
            )
    return lines
