"""Numbers over seeds: a mean with its interval over seeds, and the tables of a summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.across.endpoints import CONTRAST, GAIN, PARTIALLED, SIDES, TEST, TRANSFER
from analysis.measures.statistics import mean_interval, share_interval
from training.base.errors import BadInput
from training.base.files import read_json, seal, write_json, write_text
from training.base.provenance import commit
from training.base.words import span, two_places
from training.runs.table_files import optional_table, pick, read_table

RECALL_KEYS = ("condition", "phase", "relation", "family", "subset", "split", "measure")
PLACE = ("relation", "object_relation", "family", "direction", "split", "site", "layer")
KEYS = {
    "sites": ("condition", "phase", *PLACE, "measure"),
    "damage": ("condition", "phase", "measure"),
    "reversal": ("condition", "phase", "relation", "split", "measure"),
}
# Measures over sites: those with a claim, and what they are read beside.
SITE_TABLES = {
    "probes": (TRANSFER.measure,),
    "cka": ("cka", CONTRAST.measure, PARTIALLED.measure, "object_kernel", "interaction"),
    "alignment": ("cosine_raw", "cosine_centred", "cosine_centred_mismatched", "retrieval_top1"),
}
FAMILIES = ("test", "unrelated", "near-miss")
CLAIMED = (TRANSFER.measure, CONTRAST.measure, PARTIALLED.measure)


def mean_over_seeds(values: Sequence[float], *, yes_no: bool = False) -> dict:
    """value, low, high (95% interval) and n_seeds of one number per seed; NaN values are left out.

    A single seed has no interval (NaN). yes_no: values are 0 or 1, the interval that of a share.
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    value, low, high = float(known.mean()) if len(known) else np.nan, np.nan, np.nan
    if len(known) > 1:
        interval = (share_interval if yes_no else mean_interval)(known)
        low, high = float(interval.low), float(interval.high)
    return {"value": value, "low": low, "high": high, "n_seeds": len(known)}


def record_of(folder: Path) -> dict:
    """run.json of a folder; nothing for a folder that holds tables alone."""
    path = Path(folder) / "run.json"
    return read_json(path) if path.exists() else {}


def write_tables(results: Path, tables: Mapping[str, object], *, places: int = 5) -> None:
    """Write RESULTS/tables/NAME.csv, each with the commit, and seal them."""
    folder, made_by = results / "tables", commit()
    for name, table in tables.items():
        text = table.round(places).assign(commit=made_by).to_csv(index=False)
        write_text(folder / f"{name}.csv", text)
    seal(folder, [f"{name}.csv" for name in tables])


def write_summary(out: Path, tables: Mapping[str, object], kind: str, seeds, **about) -> None:
    """Write the tables of a summary over seeds and its run.json."""
    write_tables(out, tables)
    seeds = sorted(set(map(int, seeds)))
    write_json(out / "run.json", {"format": 1, "kind": kind, "seeds": seeds, **about})


def over_seeds(table, key: Sequence[str]):
    """One row per key: mean and interval over seeds, their number, smallest and largest seed."""
    import pandas as pd

    rows = []
    for values, group in table.groupby(list(key), sort=False, dropna=False):
        seeds = group.groupby("seed").value.mean().dropna()
        if not len(seeds):
            continue
        row = dict(zip(key, values, strict=True)) | {"n_seeds": len(seeds), "value": seeds.mean()}
        row |= {"smallest": seeds.min(), "largest": seeds.max()}
        if len(seeds) > 1:
            row |= mean_over_seeds(seeds)
        row |= {extra: group[extra].mean() for extra in ("majority", "chance") if extra in group}
        rows.append(row)
    return pd.DataFrame(rows)


def summary_tables(runs: Sequence[Path]) -> dict:
    """Name -> table over seeds: recall and, where they were measured, sites, damage and reversal.

    The table `seeds` holds each seed's values of recall and of the claimed measures over sites.
    Raises BadInput if a seed occurs twice in a condition or a condition has fewer than two.
    """
    import pandas as pd

    parts = []
    for run in runs:
        table = pick(read_table(run, "recall"), relation=SIDES, split=("held-out", "seen"))
        parts.append(_with_condition(run, table).assign(run=str(run)))
    recall = pd.concat(parts, ignore_index=True)
    for (condition, seed), held_by in recall.groupby(["condition", "seed"]).run:
        if held_by.nunique() > 1:
            both = f"{' and '.join(held_by.unique())} both hold seed {seed} of {condition!r}"
            raise BadInput(f"{both}. Give one (a folder without run.json has no condition).")
    recall = recall.drop(columns="run")
    if recall.groupby("condition").seed.nunique().min() < 2:
        raise BadInput(f"{len(runs)} run(s) were given; give at least two seeds of each condition.")
    tables, seeds = {"recall": over_seeds(recall, RECALL_KEYS)}, [recall]
    for name, keys in KEYS.items():
        parts = [part for run in runs for part in _measured(run, name)]
        if parts:
            joined = pd.concat(parts, ignore_index=True)
            tables[name] = over_seeds(joined, [k for k in keys if k in joined])
            seeds += [pick(joined, measure=CLAIMED)] if name == "sites" else []
    return tables | {"seeds": pd.concat(seeds, ignore_index=True)}


def origin_of(runs: Sequence[Path]) -> dict:
    """What run.json of a summary says about its runs: what they were made from, their phases."""
    records = [record for run in runs if (record := record_of(run))]
    phases = {k: v for record in records for k, v in record["phases"].items()}
    made_from = [{k: r[k] for k in ("model", "inputs", "versions")} for r in records[:1]]
    return made_from[0] | {"phases": phases} if records else {}


def headline(table) -> list[str]:
    """Recall of held-out subjects over seeds and its gain in phase 2, in words."""
    some = pick(table, split="held-out", measure=(TEST.measure, GAIN.measure), relation=SIDES)
    seeds, guess = int(some.n_seeds.max()), two_places(some.majority.max())
    how = f"held-out subjects, mean and 95% interval over {seeds} seeds"
    lines = [f"strict greedy accuracy, {how} (always guessing the commonest object: {guess})"]
    for row in some.itertuples():
        gain = row.measure == GAIN.measure
        what = f"{row.condition}, {row.phase}, {row.relation}, {row.family}"
        what += "" if row.subset == "all" else f" ({row.subset})"
        what += " gain over phase 1" if gain else ""
        lines.append(f"  {what:<70} {span(row, sign=gain)}")
    return lines


def _with_condition(run: Path, table):
    """The last checkpoint of each phase, labelled with the condition that the run is."""
    parent = record_of(run).get("parent", {})
    condition = "without phase 1" if parent.get("checkpoint") == "000-base" else "two phases"
    if "extended" in parent:
        condition = f"more facts after {parent['checkpoint']}"
    if "context" in table:
        told = {"rote": "told by rote", "train": "told in a train prompt"}
        condition = told[table.context.iloc[0]]
    last = table.groupby("phase", dropna=False).step.transform("max")
    return table[table.step == last].assign(condition=condition)


def _measured(run: Path, name: str) -> list:
    if name != "sites":
        table = optional_table(run, name)
        return [] if table is None else [_with_condition(run, table)]
    found = []
    for source, measures in SITE_TABLES.items():
        for table in _measured(run, source):
            table = pick(table, measure=measures, split="held-out", family=FAMILIES)
            side = table.relation.isin(SIDES)
            # The relation of an interaction is a pair of relations.
            table = table.assign(relation=table.relation.where(side, "unbound"))
            found.append(table[side | (table.measure == "interaction")])
    return found
