"""Redraw every picture from tables alone: of a run, and of the committed results.

    python -m figures.redraw runs/demo
    python -m figures.redraw

Writes RUN_DIR/figures/*.png and .svg, docs/images/NAME-*.png for every committed results/NAME with tables, and
results/NAME/figures for those that are not committed.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from figures import (
    ablations,
    alignment,
    cka,
    cka_checkpoints,
    cka_measures,
    curves,
    interchange,
    probe_controls,
    probes,
    projection,
    recall,
    repurposing,
    seeds,
    trajectory,
    verdict,
)
from figures.style import NothingToDraw, save
from training.base.errors import UserError
from training.base.files import read_json
from training.runs.table_files import TableMissing

MODULES = (
    verdict,
    recall,
    cka,
    cka_checkpoints,
    cka_measures,
    alignment,
    probes,
    probe_controls,
    interchange,
    projection,
    trajectory,
    repurposing,
)
# What lies in a folder that is no run, by the kind in its run.json: means over runs, or the conditions of a sweep.
KINDS = {"summary over seeds": (seeds,), "trajectory": (trajectory,), "sweep": (ablations,)}


class NoTables(UserError):
    """There is no table anywhere to draw from."""


@dataclass
class Options:
    """Options of redrawing."""

    run_dir: tyro.conf.Positional[Path | None] = None
    """A run directory with tables/; without one, only the committed results are drawn."""
    results: Path = Path("results")
    """Folder of committed results: NAME/run.json and NAME/tables/*.csv."""
    images: Path = Path("docs/images")
    """Where pictures of committed results go, as NAME-*.png."""


def draw_all(run_dir: Path, folder: Path, **how) -> tuple[list[Path], list[str]]:
    """Draw every figure whose tables exist; returns (paths, what was skipped and why). how: see save."""
    record = Path(run_dir) / "run.json"
    kind = read_json(record).get("kind") if record.exists() else None
    there = {p.stem for p in (Path(run_dir) / "tables").glob("*.csv")}
    # A sweep's table of someone's own has no record.
    own = (ablations,) if "ablations" in there else ()
    # Of a few sweeps.
    own_curves = (curves,) if "curves" in there else ()
    written, skipped = [], []
    for module in (*KINDS.get(kind, (*MODULES, *own)), *own_curves):
        try:
            written += save(module.pictures(run_dir), folder, **how)
        except (TableMissing, NothingToDraw) as reason:
            skipped.append(f"{module.__name__.split('.')[-1]}: {reason}")
    return written, skipped


def main(options: Options) -> list[Path]:
    """Redraw; print what was written and what was left out; return the paths. Raises NoTables."""
    committed = sorted(
        p.parent
        for p in options.results.glob("*/run.json")
        if list((p.parent / "tables").glob("*.csv"))
    )
    run_dir = options.run_dir
    has_tables = run_dir is not None and bool(list((run_dir / "tables").glob("*.csv")))
    if not has_tables and not committed:
        where = f"{run_dir} holds no tables/*.csv" if run_dir else "no RUN_DIR was given"
        raise NoTables(
            f"{where}, and {options.results} has no NAME/run.json with NAME/tables/*.csv. Make tables first "
            f"(python -m training.recall RUN_DIR), then: python -m figures.redraw RUN_DIR"
        )
    written = []
    if has_tables:
        written += _redraw(run_dir, run_dir / "figures")
    elif run_dir is not None:
        print(
            f"skipped {run_dir}: no tables/*.csv there. Write them: python -m training.recall {run_dir}"
        )
    for folder in committed:
        if _tracked(folder):
            written += _redraw(folder, options.images, prefix=f"{folder.name}-", formats=("png",))
        else:
            written += _redraw(folder, folder / "figures")
    print(f"wrote {len(written)} files")
    return written


def _tracked(folder: Path) -> bool:
    """Whether git keeps a folder's record; everything counts where there is no git or no checkout."""
    import subprocess

    try:
        asked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "run.json"]
        done = subprocess.run(asked, capture_output=True, text=True)
    except OSError:
        return True
    return done.returncode == 0 or "not a git repository" in done.stderr


def _redraw(run_dir: Path, folder: Path, **how) -> list[Path]:
    """Draw all figures of one directory and say so."""
    written, skipped = draw_all(run_dir, folder, **how)
    for line in skipped:
        print(f"skipped {line}")
    if written:
        print(f"drew {run_dir}: {', '.join(str(p) for p in written if p.suffix == '.png')}")
    return written


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
