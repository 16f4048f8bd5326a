"""Run a grid of settings: shared stages once, finished runs skipped, every headline number in one table.

    python -m training.sweep results/mine/grid.toml --dry-run
    python -m training.sweep results/mine/grid.toml --jobs 2
    python -m training.sweep results/mine/grid.toml --backend ray --address auto --work /shared/mine

Reads a grid file (its format: python -m pydoc training.grid.file; examples: results/*/grid.toml), makes run directories in
--work and appends each finished run's rows to tables/sweep.csv beside the grid file, or, of a file that is not named
grid.toml, in a folder of its name. Killed or stopped, the same command goes on; a run that fails is reported and
leaves the others alone. Next: `python -m analysis.ablations RESULTS_DIR`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from training.base.console import Interrupted, megabytes, run_command
from training.base.errors import DiskFull, UserError
from training.base.locks import locked
from training.grid.driver import (
    Driver,
    RunsFailed,
    _pool,
    _record,
    baseline_of,
    made_by_other_code,
    mean_seconds,
    results_of,
)
from training.grid.file import read_grid
from training.grid.plan import check_grid, cost_of, dry_run_lines, make_plan
from training.grid.rows import read_sweep, sweep_path


@dataclass
class Options:
    """Options of a sweep."""

    grid: tyro.conf.Positional[Path]
    """The grid file (TOML), results/NAME/grid.toml."""
    dry_run: bool = False
    """Print the runs, their cost and disk, and start nothing."""
    repetitions: int = 0
    """Only the first so many repetitions of the grid file, for a shorter answer with wider intervals; 0: all."""
    jobs: int = 1
    """Runs at a time: 1 in this process, more in processes of their own (with several GPUs one each, by turns)."""
    backend: Literal["joblib", "ray"] = "joblib"
    """Where runs go: processes of this machine, or a Ray cluster."""
    address: str = ""
    """Of a running Ray cluster ("auto" for the one this machine belongs to); default: one is started here."""
    gpus_a_run: float = 0.0
    """GPUs that Ray reserves for a run."""
    work: Path | None = None
    """Where run directories go (on a cluster: a folder that all machines share); default: runs/NAME."""
    out: Path | None = None
    """Where tables/sweep.csv goes; default: the folder of a grid.toml, else a folder named after the grid file."""


def main(options: Options):
    """Run what is not finished; return the table of the sweep. Raises BadGrid, RunsFailed."""

    if options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}; give how many runs go at a time, 1 or more.")
    grid = read_grid(options.grid, repetitions=options.repetitions)
    results = options.out or results_of(grid.path)
    work = (options.work or Path("runs") / results.resolve().name).expanduser().resolve()
    grounds = check_grid(grid, fetch=not options.dry_run)
    table = read_sweep(results)
    finished = list(dict.fromkeys(table["run"]))
    plan = make_plan(grid, work, baseline_of(results, grid), finished)
    cost = cost_of(plan, grounds, options.jobs, mean_seconds(table))
    free = shutil.disk_usage(next(p for p in (work, *work.parents) if p.exists())).free
    lines = dry_run_lines(plan, cost, finished, options.jobs, free)
    if options.dry_run:
        print("\n".join(lines))
        print(f"nothing was started    next: python -m training.sweep {options.grid}")
        return table
    print("\n".join(line for line in lines if not line.startswith("  ")))
    if others := made_by_other_code(table):
        print(
            f"{others} of the finished runs were made by another commit and are kept; for all anew give --out NEW "
            "and --work NEW"
        )
    if cost.peak > free:
        raise DiskFull(
            f"{megabytes(cost.peak)} are needed in {work}, {megabytes(free)} are free. Give --work on another disk, "
            f'or keep = "tables" in {grid.path}.'
        )
    if not plan.tasks and len(table):
        _record(results, grid, plan)
    if plan.tasks:
        with locked(work):
            _record(results, grid, plan)
            pool = _pool(options, work)
            driver = Driver(plan, pool, results, table, cost.tasks)
            try:
                driver.run()
            except (KeyboardInterrupt, Interrupted) as stop:
                raise Interrupted(
                    f"{driver.progress()}; the same command goes on from there."
                ) from stop
            finally:
                pool.close()
        table = driver.table
        if driver.failures:
            raise RunsFailed("\n".join(driver.failure_lines(grid.path)))
    print(
        f"wrote {sweep_path(results)} ({len(table)} rows)    next: python -m analysis.ablations {results}"
    )
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
