"""Several seeds of one recipe: the mean of every number and its interval over runs that redraw facts and relations.

    python -m analysis.seeds runs/seed-11 runs/seed-12 runs/seed-13 --out results/headline

Reads the tables of each run (or of a folder that a command was given as --out) and writes OUT/tables/recall.csv (by
condition, family, split) and, where they were measured, sites.csv (by site: transfer, contrast, object kernel, CKA,
retrieval, cosine), damage.csv and reversal.csv, one row a number with its t interval over seeds, and
OUT/tables/seeds.csv with every seed's value. Runs whose phase 2 started from 000-base are the condition "without phase
1"; answers that were told in context (`training.recall --context`) one of their own.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.seeds import (
    RECALL_KEY,
    SITE_KEY,
    _recall,
    _record,
    _sites,
    _with_condition,
    headline,
    over_seeds,
)
from training.base.console import run_command
from training.base.errors import BadInput
from training.base.files import seal, write_json, write_text
from training.base.provenance import commit
from training.runs.table_files import optional_table


@dataclass
class Options:
    """Options of the summary over seeds."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories of one recipe with different seeds."""
    out: Path = Path("results/headline")
    """Where the tables go."""


def main(options: Options):
    """Write the three tables and print the headline; return the recall table."""
    import pandas as pd

    each = {run: _with_condition(run, _recall(run)) for run in options.runs}
    known: dict[tuple, Path] = {}
    for run, table in each.items():
        for which in (
            table[["condition", "seed"]].drop_duplicates().itertuples(index=False, name=None)
        ):
            if which in known:
                raise BadInput(
                    f"{known[which]} and {run} both hold seed {which[1]} of the condition {which[0]!r}. Give one of "
                    f"them; folders with tables alone (no run.json) say nothing of a control without phase 1."
                )
            known[which] = run
    recall = pd.concat(each.values(), ignore_index=True)
    sites = [_with_condition(run, table) for run in options.runs for table in _sites(run)]
    if recall.groupby("condition").seed.nunique().min() < 2:
        raise BadInput(
            f"{len(options.runs)} run(s) were given; give at least two seeds of each condition."
        )
    tables = {"recall": over_seeds(recall, RECALL_KEY)}
    seeds = [recall]
    if sites:
        joined = pd.concat(sites, ignore_index=True)
        tables["sites"] = over_seeds(joined, [k for k in SITE_KEY if k in joined])
        seeds.append(
            joined[joined.measure.isin(("transfer_accuracy", "contrast", "contrast_partialled"))]
        )
    for name, key in (("damage", ["measure"]), ("reversal", ["relation", "split", "measure"])):
        measured = {run: optional_table(run, name) for run in options.runs}
        found = [
            _with_condition(run, table) for run, table in measured.items() if table is not None
        ]
        if found:
            tables[name] = over_seeds(
                pd.concat(found, ignore_index=True), ["condition", "phase", *key]
            )
    tables["seeds"] = pd.concat(seeds, ignore_index=True)
    folder = options.out / "tables"
    for name, table in tables.items():
        write_text(
            folder / f"{name}.csv", table.round(5).assign(commit=commit()).to_csv(index=False)
        )
    seal(folder, [f"{name}.csv" for name in tables])
    about = {
        "format": 1,
        "kind": "summary over seeds",
        "seeds": sorted({int(seed) for seed in recall.seed}),
    }
    if records := [record for run in options.runs if (record := _record(run))]:
        about |= {name: records[0][name] for name in ("model", "inputs", "versions")}
        about["phases"] = {k: v for r in records for k, v in r["phases"].items()}
    write_json(options.out / "run.json", about)
    print("\n".join(headline(tables["recall"])))
    print(f"wrote {', '.join(str(folder / f'{name}.csv') for name in tables)}")
    return tables["recall"]


if __name__ == "__main__":
    run_command(main, Options, __doc__)
