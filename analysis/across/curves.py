"""Levels of a sweep's conditions over training tokens, at every checkpoint that it kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.across.conditions import labelled_table
from analysis.across.endpoints import LEVELS, Endpoint
from analysis.across.seeds import mean_over_seeds
from training.base.errors import NotFound
from training.base.words import two_places

LEAST_POINTS = 3
TOKENS = "tokens_so_far"
BASE = "000-base"


def curves_table(results: Path):
    """One row per endpoint, condition and checkpoint: tokens, and the mean over units.

    Raises NoConditions, or NotFound if no endpoint has LEAST_POINTS checkpoints.
    """
    import pandas as pd

    table, _, unit, _ = labelled_table(results)
    tokens = tokens_at(table)
    points = [p for endpoint in LEVELS for p in _endpoint_points(table, endpoint, unit, tokens)]
    if not points:
        raise NotFound(
            f"no endpoint of {results} has {LEAST_POINTS} checkpoints. Save more of them "
            '(save_epochs, save_steps) and keep their rows: [rows.recall] with checkpoint = ["all"]'
        )
    return pd.DataFrame(points).assign(unit=" ".join(unit))


def tokens_at(table) -> dict[tuple[str, str], float]:
    """(run, checkpoint) -> tokens its weights were trained on since the base model, all phases.

    Runs that memorise more facts afterwards (training.extend) are left out: their checkpoints have
    the names of phase 1.
    """
    rows = table[table["measure"] == TOKENS]
    rows = rows[~rows["run"].isin(rows.loc[rows["phase"] == "extend", "run"])]
    in_phase = {
        (row.run, row.checkpoint): (float(row.value), row.reference)
        for row in rows.fillna({"reference": ""}).itertuples()
    }

    def total(run: str, checkpoint: str) -> float:
        tokens, parent = in_phase.get((run, checkpoint), (0.0, ""))
        return tokens + (total(run, parent) if parent else 0.0)

    return {key: total(*key) for key in in_phase}


def _endpoint_points(table, endpoint: Endpoint, unit: Sequence[str], tokens: Mapping) -> list[dict]:
    """The points of one endpoint, condition by condition, where it has enough of them."""
    rows, found = endpoint.of(table[table["checkpoint"].notna()]), []
    for label, some in rows.groupby("label", sort=False):
        named = {"endpoint": endpoint.name, "relation": endpoint.relation, "label": label}
        points = [named | point for point in _points(some, unit, tokens)]
        if not points:
            continue
        # Phase 2 from the base model does not continue the checkpoints of phase 1.
        last = points[-1]
        history = {"base", last["phase"], *_phases_before(table, label, last["checkpoint"])}
        points = [p for p in points if p["tokens"] <= last["tokens"] and p["phase"] in history]
        found += points if len(points) >= LEAST_POINTS else []
    return found


def _points(rows, unit: Sequence[str], tokens: Mapping) -> list[dict]:
    """One point per checkpoint that all units of a condition have and whose tokens are known."""
    units, points = rows.groupby(list(unit)).ngroups, []
    # The base model has no tokens of its own; a run that logged any starts there at 0.
    tokens = {**{(run, BASE): 0.0 for run, _ in tokens}, **tokens}
    for stage, some in rows.groupby(["checkpoint", "phase", "step"], sort=True):
        at = [tokens.get((run, stage[0]), np.nan) for run in some["run"].unique()]
        found = mean_over_seeds(some.groupby(list(unit))["value"].mean())
        if found["n_seeds"] == units and not np.isnan(at).any():
            point = dict(zip(("checkpoint", "phase", "step"), stage, strict=True))
            points.append({**point, "tokens": float(np.mean(at)), **found})
    return points


def _phases_before(table, label: str, checkpoint: str) -> set[str]:
    """The phases of the checkpoints that this one was trained from."""
    rows = table[(table["label"] == label) & (table["measure"] == TOKENS)].fillna({"reference": ""})
    parents = dict(zip(rows["checkpoint"], rows["reference"], strict=True))
    phases, found = dict(zip(rows["checkpoint"], rows["phase"], strict=True)), set()
    while checkpoint := parents.get(checkpoint, ""):
        found.add(phases.get(checkpoint))
    return found


def curve_lines(curves) -> list[str]:
    """Where each curve starts and ends, in words."""
    lines = []
    for (endpoint, relation), some in curves.groupby(["endpoint", "relation"], sort=False):
        lines.append(f"{endpoint}{', ' * bool(relation)}{relation}")
        for label, curve in some.groupby("label", sort=False):
            ends = curve.sort_values("tokens").iloc[[0, -1]].itertuples()
            words = [f"{two_places(end.value)} at {end.tokens:,.0f} tokens" for end in ends]
            count = f"{len(curve)} checkpoints, {curve.n_seeds.max()} seeds"
            lines.append(f"  {label}: {' -> '.join(words)} ({count})")
    return lines
