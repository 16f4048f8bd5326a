"""What a condition reaches with how many training tokens: the curves of a sweep that kept every checkpoint.

    python -m analysis.curves results/tokens

Reads tables/sweep.csv of a sweep whose grid file asks for every checkpoint of a table (`[rows.recall]` with
`checkpoint = ["all"]`), writes tables/curves.csv and draws figures/curves.png: a curve an endpoint of
`analysis.ablations` and condition, a point a checkpoint that all runs of the condition have, over the tokens that its
weights were trained on since the base model. Intervals are over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from analysis.ablations import ENDPOINTS, GAP, Endpoint, labelled_table
from training.errors import UserError

LEAST_POINTS = 3
WATCHED = (
    Endpoint("sibling's prompts, answers", {"table": "repurposing", "measure": "sibling_answers"}),
    Endpoint("sibling's prompts, states", {"table": "repurposing", "measure": "sibling_states"}),
)


class NoCurves(UserError):
    """The table has no endpoint at several checkpoints of a run."""


@dataclass
class Options:
    """Options of the curves over training tokens."""

    results: tyro.conf.Positional[Path]
    """A folder with tables/sweep.csv."""


def main(options: Options):
    """Write the table, print where each curve ends, draw; return the table. Raises NoConditions, NoCurves."""
    import pandas as pd

    from training.files import commit, seal, write_text

    table, _, unit, _ = labelled_table(options.results)
    along = {"checkpoint", "phase", "step", "reference"} <= set(table)
    tokens = tokens_at(table) if along else {}
    found = [curve for endpoint in (_endpoints() if along else ()) for curve in _curves(table, endpoint, unit, tokens)]
    if not found:
        raise NoCurves(
            f"no endpoint of {options.results} has {LEAST_POINTS} checkpoints. Save more of them (save_epochs, "
            'save_steps) and keep their rows: [rows.recall] with checkpoint = ["all"]'
        )
    curves = pd.DataFrame(found).assign(unit=" ".join(unit), commit=commit())
    path = Path(options.results) / "tables" / "curves.csv"
    write_text(path, curves.round(6).to_csv(index=False))
    seal(path.parent, [path.name])
    print("\n".join(curve_lines(curves)))
    from figures.curves import draw

    drawn = draw(options.results)
    print(f"wrote {path} ({len(curves)} rows), {', '.join(p.name for p in drawn)}")
    return curves


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
    levels = [e for e in (*ENDPOINTS, *WATCHED) if not e.change and not e.yes_no and e.relation != GAP]
    sides = [(e, replace(e, relation="unbound")) if e.relation == "bound" else (e,) for e in levels]
    return [endpoint for some in sides for endpoint in some]


def _curves(table, endpoint: Endpoint, unit: Sequence[str], tokens: dict) -> list[dict]:
    """The points of one endpoint, condition by condition: means over units with their t intervals."""
    from analysis.statistics import mean_interval

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
        for (checkpoint, phase, step), rows in group.groupby(["checkpoint", "phase", "step"], sort=True):
            values = rows.groupby(list(unit))["value"].mean().dropna().to_numpy(dtype=float)
            runs = rows["run"].unique()
            at = [tokens.get((run, checkpoint), 0.0) for run in runs]
            known = all((run, checkpoint) in tokens or (phase == "base" and run in counted) for run in runs)
            if len(values) < units or not known:
                continue
            found = {"value": values.mean(), "low": np.nan, "high": np.nan, "n_seeds": len(values)}
            if len(values) > 1:
                interval = mean_interval(values)
                found |= {"low": float(interval.low), "high": float(interval.high)}
            stage = {"checkpoint": checkpoint, "phase": phase, "step": step, "tokens": float(np.mean(at))}
            named = {"endpoint": endpoint.name, "relation": endpoint.relation, "label": label}
            trained.append({**named, **stage, **found})
        # A phase that starts again from the base model does not go through the checkpoints of the one before.
        last = trained[-1] if trained else {}
        kept = [p for p in trained if p["tokens"] <= last["tokens"] and _rests_on(table, label, last, p)]
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
            lines.append(f"  {label}: {' -> '.join(words)} ({len(curve)} checkpoints, {curve.n_seeds.max()} seeds)")
    return lines


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
