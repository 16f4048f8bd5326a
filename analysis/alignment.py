"""Do semantic states find their own rote states? Cosine, retrieval and neighbours, with controls.

    python -m analysis.alignment RUN_DIR
    python -m analysis.alignment RUN_DIR --families test unrelated --permutations 999
    python -m analysis.alignment ./mine --facts facts.csv --rote "{subject} [X]" --out results/mine

Writes tables/alignment.csv, then draws figures/alignment.png. Two states about one subject are
alike because they share the subject, so probe transfer and the crossed contrast are printed first.
"""

from dataclasses import dataclass

from analysis.tables.alignment import alignment_lines, alignment_table
from analysis.tables.cka import cka_table, contrast_lines
from analysis.tables.driver import DesignOptions, publish
from analysis.tables.probes import probe_lines, probe_table
from figures.alignment import draw
from training.base.console import run_command


@dataclass
class Options(DesignOptions):
    """Options of the alignment measures."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the alignment table."""
    design = options.design()
    run = design.run
    lines = probe_lines(probe_table(design, permutations=options.permutations))
    lines += contrast_lines(cka_table(design, permutations=options.permutations), design)
    table = alignment_table(design, permutations=options.permutations)
    lines += alignment_lines(table)
    then = f"analysis.probes {run.argument}"
    publish(run.path, {"alignment": table}, lines, draw, then=then)
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
