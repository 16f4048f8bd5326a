"""How alike are rote and semantic states? Debiased CKA with its null, and what it is worth.

    python -m analysis.cka RUN_DIR
    python -m analysis.cka RUN_DIR --families test unrelated --permutations 999
    python -m analysis.cka RUN_DIR --measure procrustes_distance mutual_knn
    python -m analysis.cka ./mine --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/cka.csv, cka_grid.csv (layer x
layer), cka_checkpoints.csv (the same prompts at two checkpoints) and, with --measure,
cka_measures.csv; then draws figures/cka.png and one picture per further table. A rote and a
semantic state about one subject have a high CKA because they share the subject; so the printed
verdict begins with probe transfer, then the crossed contrast over relations, then CKA beside its
controls.
"""

from dataclasses import dataclass

from analysis.tables.cka import cka_lines, cka_table, contrast_lines
from analysis.tables.cka_checkpoints import checkpoint_lines, checkpoints_table
from analysis.tables.cka_measures import choose, measure_lines, measures_table
from analysis.tables.probes import probe_lines, probe_table
from figures import cka
from probing.states import Design
from training.base.console import run_command
from training.data.prompts import Preset
from training.runs.directory import RunOptions


@dataclass
class Options(RunOptions):
    """Options of the CKA analysis."""

    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""
    robust: bool = True
    """Also with z-scored features and without the top 1 and 5 principal components of each side."""
    measure: tuple[str, ...] = ()
    """Other similarities of rote states and each family (headline split only), any of
    linear_cka_biased, rbf_cka, procrustes_distance, svcca, mutual_knn, retrieval, cosine_alignment,
    rsa."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the CKA table."""
    run = options.open()
    design = Design.of(run, preset=options.preset, families=options.families)
    choose(options.measure)
    print(design.announce())
    lines = probe_lines(probe_table(design))
    table = cka_table(design, permutations=options.permutations, robust=options.robust)
    lines += [*contrast_lines(table, design), *cka_lines(table, design)]
    trained = checkpoints_table(design, robust=options.robust)
    lines += checkpoint_lines(trained, design)
    if options.measure:
        others = measures_table(design, options.measure, permutations=options.permutations)
        lines += measure_lines(others, design)
    for line in lines:
        print(line)

    drawn = cka.draw(run.path)
    drawn += cka.draw_checkpoints(run.path) if len(trained) else []
    drawn += cka.draw_measures(run.path) if options.measure else []
    print(
        f"wrote {run.path / 'tables' / 'cka.csv'} ({len(table)} rows), "
        f"{', '.join(p.name for p in drawn)}    next: python -m analysis.alignment {run.argument}"
    )
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
