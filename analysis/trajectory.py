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

    if len(options.runs) > 1 and options.out is None:
        raise BadInput("several runs: say where their summary goes, --out results/NAME")
    every, halves = [], []
    for run in map(Run.open, options.runs):
        curves, missing = curves_of(run.path)
        tables = {"trajectory": curves, "trajectory_half": half_ways(curves)}
        for name, table in tables.items():
            write_table(run, name, table)
        lines = [f"left out: {reason}" for reason in missing]
        publish(run.path, tables, lines + half_way_lines(tables["trajectory_half"]), draw)
        every.append(curves)
        halves.append(tables["trajectory_half"].assign(seed=run.seed))
    if len(every) == 1:
        return halves[0]
    seeds, means = pd.concat(halves, ignore_index=True), mean_curves(every)
    tables = {"trajectory_half": over_runs(seeds), "trajectory_seeds": seeds}
    tables |= {"trajectory": means} if len(means) else {}
    write_summary(options.out, tables, "trajectory", seeds.seed, commit=commit())
    lines = half_way_lines(tables["trajectory_half"])
    publish(options.out, tables, lines, *([draw] if len(means) else []))
    return tables["trajectory_half"]


if __name__ == "__main__":
    run_command(main, Options, __doc__)
