"""How alike are rote and semantic states? Debiased CKA with its null, and what it is worth.

    python -m analysis.cka RUN_DIR
    python -m analysis.cka RUN_DIR --families test unrelated --permutations 999
    python -m analysis.cka RUN_DIR --measure procrustes_distance mutual_knn
    python -m analysis.cka ./mine --facts facts.csv --rote "{subject} [X]" --out results/mine

Writes tables/cka.csv, cka_grid.csv (layer x layer), cka_checkpoints.csv (the same prompts at two
checkpoints) and, with --measure, cka_measures.csv; then draws a figure of each. CKA is high because
both states are about one subject, so probe transfer and the crossed contrast are printed first.
"""

from dataclasses import dataclass

from analysis.tables.cka import cka_lines, cka_table, contrast_lines
from analysis.tables.cka_checkpoints import checkpoint_lines, checkpoints_table
from analysis.tables.cka_measures import choose, measure_lines, measures_table
from analysis.tables.driver import DesignOptions, publish
from analysis.tables.probes import probe_lines, probe_table
from figures import cka
from training.base.console import run_command


@dataclass
class Options(DesignOptions):
    """Options of the CKA analysis."""

    robust: bool = True
    """Also with z-scored features and without the top 1 and 5 principal components of each side."""
    measure: tuple[str, ...] = ()
    """Other similarities of rote states and each family (headline split only), any of
    linear_cka_biased, rbf_cka, procrustes_distance, svcca, mutual_knn, retrieval, cosine_alignment,
    rsa."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the CKA table."""
    choose(options.measure)
    design = options.design()
    run = design.run
    lines = probe_lines(probe_table(design))
    table = cka_table(design, permutations=options.permutations, robust=options.robust)
    lines += [*contrast_lines(table, design), *cka_lines(table, design)]
    trained = checkpoints_table(design, robust=options.robust)
    lines += checkpoint_lines(trained, design)
    draws = [cka.draw, cka.draw_checkpoints] if len(trained) else [cka.draw]
    if options.measure:
        others = measures_table(design, options.measure, permutations=options.permutations)
        lines += measure_lines(others, design)
        draws.append(cka.draw_measures)
    publish(run.path, {"cka": table}, lines, *draws, then=f"analysis.alignment {run.argument}")
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
