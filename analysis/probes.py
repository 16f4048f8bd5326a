"""Can an object probe fitted on rote states read semantic states of OTHER subjects, and the other way round?

    python -m analysis.probes RUN_DIR
    python -m analysis.probes RUN_DIR --families test unrelated --permutations 999 --no-controls
    python -m analysis.probes ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/probes.csv and tables/probe_controls.csv, then
draws figures/probes.png and figures/probe_controls.png. The subjects are cut into folds: probes are fitted on four
fifths of them and scored on the last fifth. A probe that is scored on its own subjects reads the name.
The functions are for notebooks too: `from analysis.probes import transfer, probe, selectivity, online_code, ridge_map`.
"""

from dataclasses import dataclass

from analysis.measures.transfer import FOLDS
from analysis.tables.probe_controls import control_lines, controls_for
from analysis.tables.probes import table_for, verdict_lines
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
    """Also the relation probe, mass-mean, ridge map, control task, code length and baselines (some minutes more)."""
    control_sites: int = 9
    """About how many sites the controls are made at, evenly spread; 0: at all."""


def main(options: Options):
    """Compute or read the table, print the verdict, draw; return the table."""
    run = options.open()
    states = Design.of(run, preset=options.preset, families=options.families)
    print(states.announce())
    table = table_for(states, permutations=options.permutations, folds=options.folds)
    for line in verdict_lines(table):
        print(line)

    wrote, drawn = (
        f"{run.path / 'tables' / 'probes.csv'} ({len(table):,} rows)",
        probes.draw(run.path),
    )
    if options.controls:
        found = controls_for(states, folds=options.folds, sites=options.control_sites)
        for line in control_lines(found):
            print(line)
        wrote += f", {run.path / 'tables' / 'probe_controls.csv'.name} ({len(found):,} rows)"
        drawn += probes.draw_controls(run.path)
    print(
        f"wrote {wrote}, {', '.join(p.name for p in drawn)}    next: python -m analysis.umap {run.argument}"
    )
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
