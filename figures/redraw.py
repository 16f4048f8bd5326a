"""Redraw every picture from tables alone: of a run, and of the committed results.

    python -m figures.redraw runs/demo
    python -m figures.redraw

Writes RUN_DIR/figures/*.png and .svg, docs/images/NAME-*.png for every committed results/NAME with
tables, and results/NAME/figures for those that are not committed.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import tyro

from figures import alignment, cka, interchange, probes, projection, recall, trajectory, verdict
from figures.across import DRAWINGS as ACROSS
from figures.style import draw_each, present, record_of
from training.base.console import run_command
from training.base.errors import UserError

MODULES = (verdict, recall, cka, alignment, probes, interchange, projection, trajectory)
OF_A_RUN = {name: draw for module in MODULES for name, draw in module.DRAWINGS.items()}
# The picture of a folder that is not a run, by the kind in its run.json.
KINDS = {"summary over seeds": "seeds", "trajectory": "trajectory", "sweep": "ablations"}


@dataclass
class Options:
    """Options of redrawing."""

    run_dir: tyro.conf.Positional[Path | None] = None
    """A run directory with tables/; without one, only the committed results are drawn."""
    results: Path = Path("results")
    """Folder of committed results: NAME/run.json and NAME/tables/*.csv."""
    images: Path = Path("docs/images")
    """Where pictures of committed results go, as NAME-*.png."""


def table_names(run_dir: Path) -> list[str]:
    """Names of the tables of a directory."""
    return sorted(path.stem for path in (run_dir / "tables").glob("*.csv"))


def draw_all(run_dir: Path, folder: Path, **how) -> tuple[list[Path], list[str]]:
    """Draw every figure whose tables exist; returns (paths, what was skipped and why).

    >>> paths, skipped = draw_all(Path("runs/demo"), Path("pictures"), formats=("png",))
    """
    kind = record_of(run_dir).get("kind")
    # Only some sweeps have curves, and a sweep's table of someone's own has no record.
    names = [KINDS[kind]] if kind in KINDS else list(OF_A_RUN)
    names += present(("ablations", "curves"), table_names(run_dir))
    every = OF_A_RUN | ACROSS
    return draw_each({name: every[name] for name in names}, run_dir, folder, **how)


def main(options: Options) -> list[Path]:
    """Redraw, say what was written and left out, return the paths. UserError: no table at all."""
    run_dir = options.run_dir
    committed = [p.parent for p in options.results.glob("*/run.json") if table_names(p.parent)]
    measured = run_dir is not None and bool(table_names(run_dir))
    if not measured and not committed:
        where = f"{run_dir} holds no tables/*.csv" if run_dir else "no RUN_DIR was given"
        raise UserError(
            f"{where}, and {options.results} has no NAME/run.json with NAME/tables/*.csv. Measure "
            f"first: python -m training.recall RUN_DIR"
        )
    written = _redraw(run_dir, run_dir / "figures") if measured else []
    if run_dir is not None and not measured:
        print(f"skipped {run_dir}: no tables/*.csv. Measure: python -m training.recall {run_dir}")
    for folder in sorted(committed):
        how = {"prefix": f"{folder.name}-", "formats": ("png",)}
        where = (options.images, how) if _tracked(folder) else (folder / "figures", {})
        written += _redraw(folder, where[0], **where[1])
    print(f"wrote {len(written)} files")
    return written


def _tracked(folder: Path) -> bool:
    """Whether git tracks a folder's record; without git or a checkout, every folder counts."""
    try:
        asked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "run.json"]
        done = subprocess.run(asked, capture_output=True, text=True)
    except OSError:
        return True
    return done.returncode == 0 or "not a git repository" in done.stderr


def _redraw(run_dir: Path, folder: Path, **how) -> list[Path]:
    written, skipped = draw_all(run_dir, folder, **how)
    for line in skipped:
        print(f"skipped {line}")
    if written:
        print(f"drew {run_dir}: {', '.join(str(p) for p in written if p.suffix == '.png')}")
    return written


if __name__ == "__main__":
    run_command(main, Options, __doc__)
