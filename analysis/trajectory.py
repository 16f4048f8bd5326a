"""When does each measure rise? Every checkpoint of a run on one axis of training steps.

    python -m training.generalize RUN_DIR --dense 6            # checkpoints in the first tenth of phase 2
    python -m analysis.trajectory RUN_DIR
    python -m analysis.trajectory runs/seed-1 runs/seed-2 runs/seed-3 --out results/onset

Reads the tables of recall, probes, cka and interchange (each left out, with a word, where it is not there), writes
tables/trajectory.csv (the curves) and tables/trajectory_half.csv (the step at which each curve has come half of the
way from the base to its own maximum), then draws figures/trajectory.png. With several runs the same goes to OUT as means
with intervals over seeds, and tables/trajectory_seeds.csv has the half-way steps of each.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.trajectory import curves_of, half_way_lines, half_ways, mean_curves, over_runs
from figures.trajectory import draw
from training.base.console import run_command
from training.base.errors import NotFound
from training.base.files import seal, write_json, write_text
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
        raise NotFound(
            f"{len(options.runs)} runs were given. Say where their summary goes: --out results/NAME"
        )
    halves, all_curves = [], []
    for path in options.runs:
        run = Run.open(path)
        curves, missing = curves_of(run.path)
        for reason in missing:
            print(f"left out: {reason}")
        half = half_ways(curves)
        write_table(run, "trajectory", curves)
        write_table(run, "trajectory_half", half)
        halves.append(half.assign(seed=run.seed))
        all_curves.append(curves)

        drawn = draw(run.path)
        print(
            f"wrote {run.path / 'tables' / 'trajectory.csv'} ({len(curves)} rows), trajectory_half.csv, "
            f"{', '.join(p.name for p in drawn)}"
        )
    table = pd.concat(halves, ignore_index=True)
    if len(options.runs) > 1:
        table = _write_summary(options.out, table, mean_curves(all_curves))
    print("\n".join(half_way_lines(table)))
    return table


def _write_summary(out: Path, table, curves):
    """OUT/tables: means over seeds of half-way steps and curves, every seed's half-way steps; run.json; the picture."""

    summary = over_runs(table)
    folder = out / "tables"
    tables = {"trajectory_half.csv": summary, "trajectory_seeds.csv": table}
    if len(curves):
        tables["trajectory.csv"] = curves
    for name, rows in tables.items():
        write_text(folder / name, rows.round(5).assign(commit=commit()).to_csv(index=False))
    seal(folder, list(tables))
    seeds = sorted({int(seed) for seed in table.seed})
    write_json(
        out / "run.json", {"format": 1, "kind": "trajectory", "seeds": seeds, "commit": commit()}
    )
    drawn = draw(out) if len(curves) else []
    print(
        f"wrote {', '.join([*(str(folder / name) for name in tables), *(p.name for p in drawn)])}"
    )
    return summary


if __name__ == "__main__":
    run_command(main, Options, __doc__)
