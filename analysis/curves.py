"""What a condition reaches with how many training tokens, in a sweep that kept every checkpoint.

    python -m analysis.curves results/tokens

Reads tables/sweep.csv of a sweep whose grid file asks for every checkpoint of a table
(`[rows.recall]` with `checkpoint = ["all"]`), writes tables/curves.csv, draws figures/curves.png.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.curves import curve_lines, curves_table
from analysis.across.seeds import write_tables
from analysis.tables.driver import publish
from figures.across import draw_curves as draw
from training.base.console import run_command


@dataclass
class Options:
    """Options of the curves over training tokens."""

    results: tyro.conf.Positional[Path]
    """A folder with tables/sweep.csv."""


def main(options: Options):
    """Write the table, print where each curve ends, draw; return the table."""
    curves = curves_table(options.results)
    write_tables(options.results, {"curves": curves}, places=6)
    publish(options.results, {"curves": curves}, curve_lines(curves), draw)
    return curves


if __name__ == "__main__":
    run_command(main, Options, __doc__)
