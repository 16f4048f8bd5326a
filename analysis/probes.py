"""Can an object probe fitted on rote states read semantic states of OTHER subjects, and back?

    python -m analysis.probes RUN_DIR
    python -m analysis.probes RUN_DIR --families test unrelated --permutations 999 --no-controls
    python -m analysis.probes ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out OUT

Writes tables/probes.csv and tables/probe_controls.csv, then draws a figure of each. A probe scored
on its own subjects reads the name, so each fifth is scored by probes fitted on the other four.
"""

from dataclasses import dataclass

from analysis.measures.transfer import FOLDS
from analysis.tables.driver import DesignOptions, publish
from analysis.tables.probe_controls import control_lines, control_table
from analysis.tables.probes import probe_lines, probe_table
from figures import probes
from training.base.console import run_command


@dataclass
class Options(DesignOptions):
    """Options of the object probes."""

    folds: int = FOLDS
    """Parts the subjects are cut into; each is scored by probes fitted on the others."""
    controls: bool = True
    """Also the relation probe, mass-mean, ridge map, control task, code length and baselines
    (some minutes more)."""
    control_sites: int = 9
    """About how many sites the controls are made at, evenly spread; 0: at all."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the table of probes."""
    design = options.design()
    run = design.run
    table = probe_table(design, permutations=options.permutations, folds=options.folds)
    then = f"analysis.umap {run.argument}"
    now = "" if options.controls else then
    publish(run.path, {"probes": table}, probe_lines(table), probes.draw, then=now)
    if options.controls:
        found = control_table(design, folds=options.folds, sites=options.control_sites)
        lines = control_lines(found)
        publish(run.path, {"probe_controls": found}, lines, probes.draw_controls, then=then)
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
