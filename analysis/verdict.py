"""Did what was learned by rote become meaning? One page of words and numbers, in the order of proof.

    python -m analysis.verdict RUN_DIR
    python -m analysis.verdict A_DIR B_DIR --facts FACTS.csv --rote "{subject} [X]" --out results/mine

Reads tables/probes.csv and tables/cka.csv of RUN_DIR (and tables/interchange.csv where it was made), writes
tables/verdict.csv, then draws figures/verdict.png. A_DIR and B_DIR are two checkpoints of your own, before and after
(from_pretrained folders or LoRA adapters): their states are read and scored first, everything goes into --out.

The page goes through transfer across subjects, factorial interchange, the crossed and answer-partialled contrast, and
bound against unbound relations. What is missing is said; nothing falls back to raw similarity.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.tables import cka, probes
from analysis.tables.verdict import Tables, page, rows_of, verdicts
from figures.style import NothingToDraw
from figures.verdict import draw
from probing.states import Design
from training.base.console import run_command
from training.base.errors import NotFound
from training.data.prompts import Preset
from training.runs.directory import Run, RunOptions
from training.runs.pairs import key_row_note
from training.runs.table_files import TableMissing, optional_table, read_table, write_table


@dataclass
class Options(RunOptions):
    """Options of the verdict."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory; or, with a second folder, your own checkpoint before the change."""
    after: tyro.conf.Positional[Path | None] = None
    """Your own checkpoint after the change: a from_pretrained folder or a LoRA adapter."""
    preset: Preset = "demo"
    """Of two checkpoints: demo: 3 test prompts; full: every test prompt."""
    permutations: int = 199
    """Of two checkpoints: draws of the nulls."""


def main(options: Options):
    """Judge every checkpoint, print the page, write the table, draw; return the table."""
    import pandas as pd

    tables, states = _of_pair(options) if options.after is not None else _of_run(options)
    found = verdicts(tables, states)
    table = pd.DataFrame([row for verdict in found for row in rows_of(verdict)])
    write_table(states.run, "verdict", table)
    for line in page(found, states):
        print(line)

    try:
        drawn = draw(states.run.path)
    except NothingToDraw as reason:
        drawn = []
        print(f"not drawn: {reason}")
    print(
        f"wrote {states.run.path / 'tables' / 'verdict.csv'} ({len(table)} rows){''.join(f', {p.name}' for p in drawn)}"
    )
    return table


def _of_run(options: Options) -> tuple[Tables, Design]:

    run = options.open()
    probes = read_table(run.path, "probes")
    # Where no relation could be scored there is no null either, and the page says why.
    if "null_p_objects" not in probes and probes["value"].notna().any():
        raise TableMissing(
            f"{run.path / 'tables' / 'probes.csv'} was written without the null over objects. Write it again: "
            f"python -m analysis.probes {run.path}"
        )
    return Tables(
        probes, read_table(run.path, "cka"), optional_table(run.path, "interchange")
    ), Design.of(run)


def _of_pair(options: Options) -> tuple[Tables, Design]:

    if not options.facts or not options.out:
        raise NotFound(
            f"{options.run_dir} and {options.after} are to be compared: say which facts to ask for and where results go, "
            "e.g. --facts FACTS.csv --rote '{subject} [X]' --out RESULTS_DIR (nothing is written into your folders)."
        )
    run = Run.pair(
        options.run_dir,
        options.after,
        facts=options.facts,
        prompts=options.prompts,
        rote=options.rote,
        out=options.out,
    )
    states = Design.of(run, preset=options.preset, families=("test",))
    note = key_row_note(run)
    if note:
        print(note)
    print(states.announce())
    scored = probes.table_for(states, permutations=options.permutations)
    return Tables(
        scored, cka.table_for(states, permutations=options.permutations, robust=False)
    ), states


if __name__ == "__main__":
    run_command(main, Options, __doc__)
