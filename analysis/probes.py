"""Can an object probe fitted on rote states read semantic states of OTHER subjects, and back?

    python -m analysis.probes RUN_DIR
    python -m analysis.probes RUN_DIR --families test unrelated --permutations 999 --no-controls
    python -m analysis.probes ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out OUT

Reads the states of RUN_DIR (extracts what is missing), writes tables/probes.csv and
tables/probe_controls.csv, then draws figures/probes.png and figures/probe_controls.png. Each fifth
of the subjects is scored by probes fitted on the other four: a probe scored on its own subjects
reads the name.
"""

from dataclasses import dataclass

from analysis.measures.transfer import FOLDS
from analysis.tables.probe_controls import control_lines, control_table
from analysis.tables.probes import probe_lines, probe_table
from figures import probes
from probing.states import Design
from training.base.console import run_command
from training.data.prompts import Preset
from training.runs.directory import RunOptions


@dataclass
class Options(RunOptions):
    """Options of the object probes."""

    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""
    folds: int = FOLDS
    """Parts the subjects are cut into; each is scored by probes fitted on the others."""
    controls: bool = True
    """Also the relation probe, mass-mean, ridge map, control task, code length and baselines
    (some minutes more)."""
    control_sites: int = 9
    """About how many sites the controls are made at, evenly spread; 0: at all."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the table of probes."""
    run = options.open()
    design = Design.of(run, preset=options.preset, families=options.families)
    print(design.announce())
    table = probe_table(design, permutations=options.permutations, folds=options.folds)
    for line in probe_lines(table):
        print(line)

    wrote = f"{run.path / 'tables' / 'probes.csv'} ({len(table):,} rows)"
    drawn = probes.draw(run.path)
    if options.controls:
        found = control_table(design, folds=options.folds, sites=options.control_sites)
        for line in control_lines(found):
            print(line)
        wrote += f", probe_controls.csv ({len(found):,} rows)"
        drawn += probes.draw_controls(run.path)
    print(
        f"wrote {wrote}, {', '.join(p.name for p in drawn)}    "
        f"next: python -m analysis.umap {run.argument}"
    )
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
