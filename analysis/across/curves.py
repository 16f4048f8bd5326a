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
STAGE = ("checkpoint", "phase", "step")


def curves_table(results: Path):
    """One row per endpoint, condition and checkpoint: tokens, and the mean over units.

    Raises NoConditions, or NotFound if no endpoint has LEAST_POINTS checkpoints.
    """
    import pandas as pd

    table, _, unit, _ = labelled_table(results)
    history = training_history(table)
    points = [p for endpoint in LEVELS for p in _curves(table, endpoint, unit, history)]
    if not points:
        keep = '[rows.recall] with checkpoint = ["all"]'
        few = f"no endpoint of {results} has {LEAST_POINTS} checkpoints"
        raise NotFound(f"{few}. Save more (save_epochs, save_steps) and keep their rows: {keep}")
    return pd.DataFrame(points).assign(unit=" ".join(unit))


def training_history(table) -> dict[tuple[str, str], tuple[float, set[str]]]:
    """(run, checkpoint) -> (tokens its weights were trained on since the base model, in phases)."""
    rows = table[table["measure"] == "tokens_so_far"].fillna({"reference": ""})
    # What training.extend adds has the checkpoint names of phase 1.
    rows = rows[~rows["run"].isin(rows.loc[rows["phase"] == "extend", "run"])]
    logged = {
        (row.run, row.checkpoint): (float(row.value), row.phase, row.reference)
        for row in rows.itertuples()
    }

    def history(run: str, checkpoint: str) -> tuple[float, set[str]]:
        tokens, phase, start = logged.get((run, checkpoint), (0.0, "base", ""))
        before, phases = history(run, start) if start else (0.0, {"base"})
        return before + tokens, phases | {phase}

    bases = {(run, "000-base"): (0.0, {"base"}) for run, _ in logged}
    return bases | {key: history(*key) for key in logged}


def _curves(table, endpoint: Endpoint, unit: Sequence[str], history: Mapping) -> list[dict]:
    """The points of one endpoint: checkpoints that all units of a condition have, in order."""
    rows, unit, found = endpoint.of(table[table["checkpoint"].notna()]), list(unit), []
    for label, of_label in rows.groupby("label", sort=False):
        named = {"endpoint": endpoint.name, "relation": endpoint.relation, "label": label}
        units, points, past = of_label.groupby(unit).ngroups, [], set()
        for stage, some in of_label.groupby(list(STAGE), sort=True):
            trained = [history.get((run, stage[0])) for run in some["run"].unique()]
            mean = mean_over_seeds(some.groupby(unit)["value"].mean())
            if mean["n_seeds"] == units and None not in trained:
                tokens, phases = zip(*trained, strict=True)
                past = set.union(*phases)
                where = dict(zip(STAGE, stage, strict=True)) | {"tokens": float(np.mean(tokens))}
                points.append(named | where | mean)
        # Phase 2 from the base model does not continue the checkpoints of phase 1.
        end = points[-1]["tokens"] if points else 0
        points = [point for point in points if point["tokens"] <= end and point["phase"] in past]
        found += points if len(points) >= LEAST_POINTS else []
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
