"""How alike are rote and semantic states? Debiased CKA with its null, per checkpoint and site, and what it is worth.

    python -m analysis.cka RUN_DIR
    python -m analysis.cka RUN_DIR --families test unrelated --permutations 999
    python -m analysis.cka RUN_DIR --measure procrustes_distance mutual_knn
    python -m analysis.cka ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/cka.csv, cka_grid.csv (layer x layer),
cka_checkpoints.csv (the same prompts at two checkpoints) and, with --measure, cka_measures.csv; then draws
figures/cka.png and one picture a further table. CKA of a rote and a semantic state about one subject is high because
they share the subject; so the printed verdict begins with probe transfer, then the crossed contrast over relations, then
CKA beside its controls.
"""

from dataclasses import dataclass

from analysis.tables.cka import cka_lines, contrast_lines, table_for
from analysis.tables.cka_checkpoints import checkpoint_lines, checkpoints_table_for
from analysis.tables.cka_measures import choose, measure_lines, measures_table_for
from analysis.tables.probes import probe_lines, probe_table
from figures import cka, cka_checkpoints, cka_measures
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
    """Other similarities of rote states and each family, any of analysis.measures.similarity.MEASURES: linear_cka_biased,
    rbf_cka, procrustes_distance, svcca, mutual_knn, retrieval, cosine_alignment, rsa (headline split only)."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the CKA table."""

    run = options.open()
    states = Design.of(run, preset=options.preset, families=options.families)
    print(states.announce())
    measures = choose(options.measure)
    transfer = probe_table(states)
    table = table_for(states, permutations=options.permutations, robust=options.robust)
    trained = checkpoints_table_for(states, robust=options.robust)
    lines = [*probe_lines(transfer), *contrast_lines(table, states), *cka_lines(table, states)]
    lines += checkpoint_lines(trained, states)
    if measures:
        lines += measure_lines(
            measures_table_for(states, measures, permutations=options.permutations), states
        )
    for line in lines:
        print(line)

    drawn = cka.draw(run.path)
    drawn += cka_checkpoints.draw(run.path) if len(trained) else []
    drawn += cka_measures.draw(run.path) if measures else []
    print(
        f"wrote {run.path / 'tables' / 'cka.csv'} ({len(table)} rows), {', '.join(p.name for p in drawn)}    "
        f"next: python -m analysis.alignment {run.argument}"
    )
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
