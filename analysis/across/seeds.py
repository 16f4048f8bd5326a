"""analysis.across.seeds"""

from collections.abc import Sequence
from pathlib import Path

from analysis.measures.statistics import mean_interval
from training.base.files import read_json
from training.runs.table_files import optional_table, read_table

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


def over_seeds(table, key: Sequence[str]):
    """One row a key: mean over seeds, 95% t interval over seeds, n seeds, smallest and largest seed."""
    import numpy as np
    import pandas as pd

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

    path = run / "run.json"
    return read_json(path) if path.exists() else {}


def _with_condition(run: Path, table):
    parent = _record(run).get("parent", {})
    condition = "without phase 1" if parent.get("checkpoint") == "000-base" else "two phases"
    if "extended" in parent:
        condition = f"more facts after {parent['checkpoint']}"
    if "context" in table:
        condition = {"rote": "told by rote", "train": "told in a train prompt"}[
            table.context.iloc[0]
        ]
    last = table[table.phase != ""].groupby("phase", dropna=False).step.transform("max")
    return table[table.step == last].assign(condition=condition)


def _recall(run: Path):

    table = read_table(run, "recall")
    return table[table.relation.isin(("bound", "unbound")) & (table.split != "all")]


def _sites(run: Path) -> list:

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
            table[keep].replace(
                {"relation": dict.fromkeys(set(table.relation) - {"bound", "unbound"}, "unbound")}
            )
        )
    return found
