"""Which setting matters? The conditions of a sweep side by side, paired by seed.

    python -m analysis.ablations results/little-meaning
    python -m analysis.ablations results/little-meaning --against "generalize.prompts 10"
    python -m analysis.ablations results/mine --by generalize.people --unit seed memorize.model

Reads tables/sweep.csv (or a table of yours with the columns run, seed, measure and value), writes
tables/ablations.csv and figures/ablations.png. Intervals and tests are over seeds. A measure over
sites is that of each run's largest site at the end: compare it between conditions, but do not read
its height against zero or chance.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.conditions import ablation_lines, ablation_table
from analysis.across.endpoints import ENDPOINTS, Endpoint
from analysis.across.seeds import write_tables
from analysis.tables.driver import publish
from figures.across import draw_ablations as draw
from training.base.console import run_command


@dataclass
class Options:
    """Options of the comparison of conditions."""

    results: tyro.conf.Positional[Path]
    """A folder with tables/sweep.csv."""
    by: tuple[str, ...] = ()
    """Columns that make a condition; default: all that the sweep varied, except the unit."""
    unit: tuple[str, ...] = ()
    """Columns whose values are independent repetitions, paired across conditions (values within one
    are averaged); default: seed, or what the grid file says."""
    against: str = ""
    """The condition that others are compared with, by its label; default: the first."""
    measure: str = ""
    """Only this measure (with the four options "of --measure"), instead of the usual endpoints."""
    table: str = "recall"
    """Of --measure: the table it comes from."""
    family: str = "test"
    """Of --measure: the prompt family; "" for any."""
    subset: str = "all"
    """Of --measure: the subset of prompts, such as keyword-free; "" for any."""
    split: str = ""
    """The split of subjects; default: held-out where there is one."""
    phase: str = ""
    """Only this phase; default: the last that each run has."""
    relation: str = "bound"
    """Of --measure: bound, unbound, "bound - unbound", or "" for any."""


def main(options: Options):
    """Write the table, print the comparison, draw; return the table. Raises NoConditions."""
    endpoints, measure = ENDPOINTS, options.measure
    if measure:
        where = {"family": options.family, "subset": options.subset}
        where = {column: value for column, value in where.items() if value}
        words = ", ".join([measure, *(value for value in where.values() if value != "all")])
        endpoints = (Endpoint(words, options.table, measure, where, options.relation),)
    how = {name: getattr(options, name) for name in ("by", "unit", "against", "split", "phase")}
    table, missing = ablation_table(options.results, endpoints, **how)
    write_tables(options.results, {"ablations": table}, places=6)
    lines = ablation_lines(table)
    if missing:
        lines.append(f"left out, no rows in the table: {'; '.join(missing)}")
    publish(options.results, {"ablations": table}, lines, draw)
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
