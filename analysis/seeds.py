"""Several seeds of one recipe: the mean of every number and its interval over runs that redraw facts and relations.

    python -m analysis.seeds runs/seed-11 runs/seed-12 runs/seed-13 --out results/headline

Reads the tables of each run (or of a folder that a command was given as --out) and writes OUT/tables/recall.csv (by
condition, family, split) and, where they were measured, sites.csv (by site: transfer, contrast, object kernel, CKA,
retrieval, cosine), damage.csv and reversal.csv, one row a number with its t interval over seeds, and
OUT/tables/seeds.csv with every seed's value. Runs whose phase 2 started from 000-base are the condition "without phase
1"; answers that were told in context (`training.recall --context`) one of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from training.errors import UserError

RECALL_KEY = ["condition", "phase", "relation", "family", "subset", "split", "measure"]
SITE_KEY = [
    "condition",
    "phase",
    "relation",
    "object_relation",
    "family",
    "direction",
    "split",
    "site",
    "layer",
    "measure",
]
SITE_TABLES = {
    "probes": ("transfer_accuracy",),
    "cka": ("cka", "contrast", "contrast_partialled", "object_kernel", "interaction"),
    "alignment": ("cosine_raw", "cosine_centred", "cosine_centred_mismatched", "retrieval_top1"),
}


class TooFewSeeds(UserError):
    """An interval over seeds needs at least two runs of one condition."""


class SameSeedTwice(UserError):
    """Two of the folders hold one condition with one seed."""


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

    from training.files import commit, seal, write_json, write_text
    from training.tables import optional_table

    each = {run: _with_condition(run, _recall(run)) for run in options.runs}
    known: dict[tuple, Path] = {}
    for run, table in each.items():
        for which in table[["condition", "seed"]].drop_duplicates().itertuples(index=False, name=None):
            if which in known:
                raise SameSeedTwice(
                    f"{known[which]} and {run} both hold seed {which[1]} of the condition {which[0]!r}. Give one of "
                    f"them; folders with tables alone (no run.json) say nothing of a control without phase 1."
                )
            known[which] = run
    recall = pd.concat(each.values(), ignore_index=True)
    sites = [_with_condition(run, table) for run in options.runs for table in _sites(run)]
    if recall.groupby("condition").seed.nunique().min() < 2:
        raise TooFewSeeds(f"{len(options.runs)} run(s) were given; give at least two seeds of each condition.")
    tables = {"recall": over_seeds(recall, RECALL_KEY)}
    seeds = [recall]
    if sites:
        joined = pd.concat(sites, ignore_index=True)
        tables["sites"] = over_seeds(joined, [k for k in SITE_KEY if k in joined])
        seeds.append(joined[joined.measure.isin(("transfer_accuracy", "contrast", "contrast_partialled"))])
    for name, key in (("damage", ["measure"]), ("reversal", ["relation", "split", "measure"])):
        measured = {run: optional_table(run, name) for run in options.runs}
        found = [_with_condition(run, table) for run, table in measured.items() if table is not None]
        if found:
            tables[name] = over_seeds(pd.concat(found, ignore_index=True), ["condition", "phase", *key])
    tables["seeds"] = pd.concat(seeds, ignore_index=True)
    folder = options.out / "tables"
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.round(5).assign(commit=commit()).to_csv(index=False))
    seal(folder, [f"{name}.csv" for name in tables])
    about = {"format": 1, "kind": "summary over seeds", "seeds": sorted({int(seed) for seed in recall.seed})}
    if records := [record for run in options.runs if (record := _record(run))]:
        about |= {name: records[0][name] for name in ("model", "inputs", "versions")}
        about["phases"] = {k: v for r in records for k, v in r["phases"].items()}
    write_json(options.out / "run.json", about)
    print("\n".join(headline(tables["recall"])))
    print(f"wrote {', '.join(str(folder / f'{name}.csv') for name in tables)}")
    return tables["recall"]


def over_seeds(table, key: Sequence[str]):
    """One row a key: mean over seeds, 95% t interval over seeds, n seeds, smallest and largest seed."""
    import numpy as np
    import pandas as pd

    from analysis.statistics import mean_interval

    rows = []
    for values, group in table.groupby(list(key), sort=False, dropna=False):
        per_seed = group.groupby("seed").value.mean().dropna()
        if not len(per_seed):
            continue
        row = dict(zip(key, values, strict=True)) | {
            "n_seeds": len(per_seed),
            "value": float(per_seed.mean()),
            "smallest": per_seed.min(),
            "largest": per_seed.max(),
        }
        if len(per_seed) > 1:
            interval = mean_interval(np.asarray(per_seed))
            row |= {"low": float(interval.low), "high": float(interval.high)}
        for extra in ("majority", "chance"):
            if extra in group:
                row[extra] = group[extra].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def headline(table) -> list[str]:
    """Held-out people x test prompts and its controls, in words."""
    some = table[
        (table.split == "held-out")
        & table.measure.isin(("generation", "generation_gain"))
        & table.relation.isin(("bound", "unbound"))
    ]
    lines = [
        f"strict greedy accuracy, held-out subjects, mean and 95% interval over {int(some.n_seeds.max())} seeds "
        f"(always guessing the commonest object: {some.majority.max():.2f})"
    ]
    for _, row in some.iterrows():
        what = f"{row.condition}, {row.phase}, {row.relation}, {row.family}"
        what += "" if row.subset == "all" else f" ({row.subset})"
        what += " gain over phase 1" if row.measure == "generation_gain" else ""
        lines.append(f"  {what:<70} {row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]")
    return lines


def _record(run: Path) -> dict:
    """What made a run; nothing for a folder that holds tables alone."""
    from training.files import read_json

    path = run / "run.json"
    return read_json(path) if path.exists() else {}


def _with_condition(run: Path, table):
    parent = _record(run).get("parent", {})
    condition = "without phase 1" if parent.get("checkpoint") == "000-base" else "two phases"
    if "extended" in parent:
        condition = f"more facts after {parent['checkpoint']}"
    if "context" in table:
        condition = {"rote": "told by rote", "train": "told in a train prompt"}[table.context.iloc[0]]
    last = table[table.phase != ""].groupby("phase", dropna=False).step.transform("max")
    return table[table.step == last].assign(condition=condition)


def _recall(run: Path):
    from training.tables import read_table

    table = read_table(run, "recall")
    return table[table.relation.isin(("bound", "unbound")) & (table.split != "all")]


def _sites(run: Path) -> list:
    from training.tables import optional_table

    found = []
    for name, measures in SITE_TABLES.items():
        if (table := optional_table(run, name)) is None:
            continue
        keep = (
            table.measure.isin(measures)
            & (table.split == "held-out")
            & table.family.isin(("test", "unrelated", "near-miss"))
        )
        keep &= table.relation.isin(("bound", "unbound")) | (table.measure == "interaction")
        found.append(
            table[keep].replace({"relation": dict.fromkeys(set(table.relation) - {"bound", "unbound"}, "unbound")})
        )
    return found


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
