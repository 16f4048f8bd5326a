"""When does each measure rise? Every checkpoint of a run on one axis of training steps.

    python -m training.generalize RUN_DIR --dense 6            # checkpoints early in phase 2
    python -m analysis.trajectory RUN_DIR
    python -m analysis.trajectory runs/seed-1 runs/seed-2 runs/seed-3 --out results/onset

Reads the tables of recall, probes, cka and interchange, writes tables/trajectory.csv (the curves)
and trajectory_half.csv (the step at which each has come half of the way to its maximum), draws
figures/trajectory.png. With several runs OUT gets the same as means with intervals over seeds.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.seeds import write_summary
from analysis.across.trajectory import curves_of, half_way_lines, half_ways, mean_curves, over_runs
from analysis.tables.driver import publish
from figures.trajectory import draw
from training.base.console import run_command
from training.base.errors import BadInput
from training.base.provenance import commit
from training.runs.directory import Run
from training.runs.table_files import write_table


@dataclass
class Options:
    """Options of the trajectory."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories: one, or several seeds of one recipe."""
    out: Path | None = None
    """Where the summary over several runs goes; needed for several."""


def main(options: Options):
    """Write the tables, print the half-way steps, draw; return the table of half-way steps."""
    import pandas as pd

    several = len(options.runs) > 1
    if several and options.out is None:
        raise BadInput("several runs: say where their summary goes, --out results/NAME")
    curves, halves = zip(*[_follow(Run.open(path)) for path in options.runs], strict=True)
    table = pd.concat(halves, ignore_index=True)
    if several:
        table = _summarise(options.out, mean_curves(curves), table)
    print("\n".join(half_way_lines(table)))
    return table


def _follow(run) -> tuple:
    """The curves and half-way steps of one run, written and drawn."""
    curves, missing = curves_of(run.path)
    tables = {"trajectory": curves, "trajectory_half": half_ways(curves)}
    for name, table in tables.items():
        write_table(run, name, table)
    publish(run.path, tables, [f"left out: {reason}" for reason in missing], draw)
    return curves, tables["trajectory_half"].assign(seed=run.seed)


def _summarise(out: Path, curves, halves):
    """Write and draw the means over seeds; return those of the half-way steps."""
    tables = {"trajectory_half": over_runs(halves), "trajectory_seeds": halves}
    if len(curves):
        tables["trajectory"] = curves
    write_summary(out, tables, "trajectory", halves.seed, commit=commit())
    publish(out, tables, [], *([draw] if len(curves) else []))
    return tables["trajectory_half"]


if __name__ == "__main__":
    run_command(main, Options, __doc__)
