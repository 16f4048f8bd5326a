"""Run a grid of settings: shared stages once, finished runs skipped, headline numbers in one table.

    python -m training.sweep results/mine/grid.toml --dry-run
    python -m training.sweep results/mine/grid.toml --jobs 2
    python -m training.sweep results/mine/grid.toml --backend ray --address auto --work /shared/mine

Reads a grid file (format: python -m pydoc training.grid.file; examples: results/*/grid.toml), makes
run directories in --work and appends each finished run's rows to tables/sweep.csv beside the grid
file; for a file not named grid.toml, in a folder of its name. Killed or stopped, the same command
continues; a run that fails is reported and leaves the others alone. Next: `python -m
analysis.ablations RESULTS_DIR`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from training.base.console import run_command
from training.grid.driver import run_sweep


@dataclass
class Options:
    """Options of a sweep."""

    grid: tyro.conf.Positional[Path]
    """The grid file (TOML), results/NAME/grid.toml."""
    dry_run: bool = False
    """Print the runs, their cost and disk, and start nothing."""
    repetitions: int = 0
    """Only the first N repetitions of the grid file: quicker, with wider intervals; 0: all."""
    jobs: int = 1
    """Runs at a time: 1 in this process, more in separate ones (each with a GPU if several)."""
    backend: Literal["joblib", "ray"] = "joblib"
    """Where runs go: processes of this machine, or a Ray cluster."""
    address: str = ""
    """Of a running Ray cluster ("auto": that of this machine); default: start one here."""
    gpus_a_run: float = 0.0
    """GPUs that Ray reserves for a run."""
    work: Path | None = None
    """Where run directories go (on a cluster: a shared folder); default: runs/NAME."""
    out: Path | None = None
    """Where tables/sweep.csv goes; default: beside grid.toml, else a folder named like the file."""


def main(options: Options):
    """Run what is not finished; return the table of the sweep."""
    return run_sweep(**vars(options))


if __name__ == "__main__":
    run_command(main, Options, __doc__)
