"""Did what was learned by rote become meaning? One page of words and numbers, in order of proof.

    python -m analysis.verdict RUN_DIR
    python -m analysis.verdict A_DIR B_DIR --facts FACTS.csv --rote "{subject} [X]" --out OUT

Reads tables/probes.csv and tables/cka.csv (and interchange.csv if it was made), writes
tables/verdict.csv, then draws figures/verdict.png. A_DIR and B_DIR are two checkpoints of your own,
before and after (from_pretrained folders or LoRA adapters): they are read and scored first, and
everything goes into --out. The page says what is missing; nothing falls back to raw similarity.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.tables.cka import cka_table
from analysis.tables.driver import publish
from analysis.tables.probes import probe_table
from analysis.tables.verdict import page, verdict_table
from figures.verdict import draw
from probing.states import Design
from training.base.console import run_command
from training.base.errors import NotFound, NothingToDraw
from training.data.prompts import Preset
from training.runs.directory import Run, RunOptions, key_row_note
from training.runs.table_files import TableMissing, optional_table, read_table


@dataclass
class Options(RunOptions):
    """Options of the verdict."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory; or, with a second folder, your own checkpoint before the change."""
    after: tyro.conf.Positional[Path | None] = None
    """Your own checkpoint after the change: a from_pretrained folder or a LoRA adapter."""
    preset: Preset = "demo"
    """For two checkpoints: demo, 3 test prompts; full, every test prompt."""
    permutations: int = 199
    """For two checkpoints: draws of the nulls."""


def main(options: Options):
    """Judge every checkpoint, write the table, print the page, draw; return the table."""
    design, tables = _of_pair(options) if options.after is not None else _of_run(options)
    table, found = verdict_table(design, **tables)
    publish(design.run.path, {"verdict": table}, page(found, design))
    try:
        print(f"drew {', '.join(path.name for path in draw(design.run.path))}")
    except NothingToDraw as reason:
        print(f"not drawn: {reason}")
    return table


def _of_run(options: Options) -> tuple[Design, dict]:
    run = options.open()
    scored, cka = (read_table(run.path, name) for name in ("probes", "cka"))
    # Where no relation could be scored there is no null either, and the page says why.
    if "null_p_objects" not in scored and scored["value"].notna().any():
        raise TableMissing(
            f"{run.path / 'tables' / 'probes.csv'} was written without the null over objects. "
            f"Write it again: python -m analysis.probes {run.path}"
        )
    interchange = optional_table(run.path, "interchange")
    return Design.of(run), {"probes": scored, "cka": cka, "interchange": interchange}


def _of_pair(options: Options) -> tuple[Design, dict]:
    if not options.facts or not options.out:
        give = "--facts FACTS.csv --rote '{subject} [X]' --out RESULTS_DIR"
        raise NotFound(f"to compare two checkpoints say what to ask for and where to write: {give}")
    how = {name: getattr(options, name) for name in ("facts", "prompts", "rote", "out")}
    run = Run.pair(options.run_dir, options.after, **how)
    design = Design.of(run, preset=options.preset, families=("test",))
    if note := key_row_note(run):
        print(note)
    print(design.announce())
    draws = options.permutations
    scored = probe_table(design, permutations=draws)
    return design, {"probes": scored, "cka": cka_table(design, permutations=draws, robust=False)}


if __name__ == "__main__":
    run_command(main, Options, __doc__)
