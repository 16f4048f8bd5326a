"""Several seeds of one recipe: every number's mean and interval over runs that redraw the facts.

    python -m analysis.seeds runs/seed-11 runs/seed-12 runs/seed-13 --out results/headline

Writes to OUT/tables one row per number with its t interval over seeds: recall.csv and, where they
were measured, sites.csv, damage.csv and reversal.csv; and seeds.csv with every seed's value. Runs
whose phase 2 started from 000-base are the condition "without phase 1"; answers told in context
(`training.recall --context`) are conditions of their own.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.seeds import headline, origin_of, summary_tables, write_summary
from analysis.tables.driver import publish
from training.base.console import run_command


@dataclass
class Options:
    """Options of the summary over seeds."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories of one recipe with different seeds."""
    out: Path = Path("results/headline")
    """Where the tables go."""


def main(options: Options):
    """Write the tables and run.json, print the headline; return the recall table."""
    tables, origin = summary_tables(options.runs), origin_of(options.runs)
    write_summary(options.out, tables, "summary over seeds", tables["seeds"].seed, **origin)
    publish(options.out, tables, headline(tables["recall"]))
    return tables["recall"]


if __name__ == "__main__":
    run_command(main, Options, __doc__)
