"""Do semantic states find their own rote states? Cosine, retrieval and neighbours, with controls.

    python -m analysis.alignment RUN_DIR
    python -m analysis.alignment RUN_DIR --families test unrelated --permutations 999
    python -m analysis.alignment ./mine --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/alignment.csv, then draws
figures/alignment.png. Two states about one subject are alike because they share the subject; so the
printed verdict begins with probe transfer, then the crossed contrast over relations, then these
numbers beside their controls.
"""

from dataclasses import dataclass

from analysis.tables.alignment import alignment_lines, alignment_table
from analysis.tables.cka import cka_table, contrast_lines
from analysis.tables.probes import probe_lines, probe_table
from figures.alignment import draw
from probing.states import Design
from training.base.console import run_command
from training.data.prompts import Preset
from training.runs.directory import RunOptions


@dataclass
class Options(RunOptions):
    """Options of the alignment measures."""

    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the alignment table."""
    run = options.open()
    design = Design.of(run, preset=options.preset, families=options.families)
    print(design.announce())
    lines = probe_lines(probe_table(design, permutations=options.permutations))
    lines += contrast_lines(cka_table(design, permutations=options.permutations), design)
    table = alignment_table(design, permutations=options.permutations)
    lines += alignment_lines(table)
    for line in lines:
        print(line)

    drawn = draw(run.path)
    print(
        f"wrote {run.path / 'tables' / 'alignment.csv'} ({len(table):,} rows), "
        f"{', '.join(p.name for p in drawn)}    next: python -m analysis.probes {run.argument}"
    )
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
