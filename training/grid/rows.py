"""The one tidy table of a sweep: which rows of a run's tables it keeps, and how it is written.

A run's rows are the headline ones of the tables its stages wrote: bound and unbound relations, the
last checkpoint of each phase and, over sites, the site that is largest at the last checkpoint
(chosen there: do not claim its height without `null_p_max`). `[rows.TABLE]` in the grid file asks
for others; `checkpoint = ["all"]` there keeps every checkpoint (`analysis.curves`).
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import read_json, seal, verify, write_with
from training.base.provenance import commit
from training.runs.checkpoints import list_checkpoints
from training.runs.table_files import at_largest_site, pick

SIDES, SPLITS = ("bound", "unbound"), ("seen", "held-out")
RECALL = ("generation", "generation_gain", "multiple_choice")
HEADLINE: dict[str, dict[str, tuple]] = {
    "recall": {"measure": RECALL, "split": (*SPLITS, "all")},
    "damage": {"measure": ("known_facts", "contradicted_facts", "perplexity")},
    "reversal": {"measure": ("reversal", "reversal_excess", "named"), "split": SPLITS},
    "two_hop": {},
    "probes": {"measure": ("transfer_accuracy",)},
    "cka": {"measure": ("cka", "contrast", "contrast_partialled", "object_kernel")},
    "alignment": {"measure": ("cosine_centred", "retrieval_top1")},
    "interchange": {"measure": ("share", "gain"), "outcome": ("relation",)},
    "repurposing": {},
}
# What distinguishes rows of one table, checkpoint and site apart.
KEYS = ("relation", "object_relation", "family", "family_y", "subset", "split", "direction")
KEYS += ("vector", "position", "outcome", "reference", "measure", "estimator")
NUMBERS = ("value", "low", "high", "null_p", "null_p_max")
NUMBERS += ("n", "n_prompts", "n_candidates", "chance", "majority")
KEPT = ("checkpoint", "phase", "epoch", "step", *KEYS, "site", *NUMBERS, "reason")


def headline_rows(table, wanted: Mapping[str, Sequence] | None = None, *, name: str = ""):
    """The rows of a run's table that its sweep keeps, with the columns KEPT that it has.

    wanted: column -> values; default: those of HEADLINE. Without a site there, the best site is
    chosen. Raises BadInput for a column or value that the table lacks.
    """
    wanted = dict(wanted or {})
    every = wanted.get("checkpoint") == ("all",)
    if every:
        del wanted["checkpoint"]
    for column, values in wanted.items():
        asks = f"[rows.{name}] asks for {column}"
        if column not in table:
            raise BadInput(f"{asks}; the table has {', '.join(table.columns)}.")
        if not set(values) & set(table[column]):
            there = ", ".join(map(str, table[column].dropna().unique()))
            raise BadInput(f"{asks} {', '.join(map(str, values))}; there are: {there}.")
    chosen = {**HEADLINE.get(name, {}), **wanted}
    table = pick(table, **chosen)
    if "relation" in table and "relation" not in chosen and set(SIDES) & set(table["relation"]):
        table = pick(table, relation=SIDES)
    if "split" in table and set(table["split"]) - {"all"}:
        splits = chosen.get("split", ("held-out",))
        table = pick(table, split=tuple(split for split in splits if split != "all"))
    if "checkpoint" in table and len(table) and not every:
        last = table.groupby(table["phase"].fillna(""))["checkpoint"].transform("max")
        table = table[table["checkpoint"] == last]
    if "site" in table and "site" not in chosen:
        table = _at_best_site(table)
    return table[[column for column in KEPT if column in table]]


def _at_best_site(table):
    """Each kind of row at its largest site; for a kind without a value, one row to show that."""
    import pandas as pd

    parts = []
    for _, kind in table.groupby([k for k in KEYS if k in table], sort=False, dropna=False):
        found = kind if kind["site"].isna().all() else at_largest_site(kind)
        parts.append(found if len(found) or kind["value"].notna().any() else kind.iloc[-1:])
    return pd.concat(parts) if parts else table


def training_rows(folder: Path) -> list[dict]:
    """Steps, tokens, seconds and last recall of the phase trained in a directory.

    For each checkpoint: tokens_so_far in this phase and, as `reference`, the one it came from.
    """
    ((phase, record),) = read_json(folder / "run.json")["phases"].items()
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [step for step in map(json.loads, lines) if step["phase"] == phase]
    # The clock of the log restarts when a run is resumed.
    ends = [a["seconds"] for a, b in pairwise(steps) if b["seconds"] < a["seconds"]]
    found = {
        "steps": len(steps),
        "tokens": sum(step["tokens"] for step in steps),
        "seconds": sum(ends) + steps[-1]["seconds"] if steps else 0,
        "train_recall": record.get("train_recall"),
    }
    rows = [{"measure": name, "value": v} for name, v in found.items() if v is not None]
    for saved in (c for c in list_checkpoints(folder) if c.phase == phase):
        tokens = sum(step["tokens"] for step in steps if step["step"] <= saved.step)
        row = {"reference": saved.parent, "measure": "tokens_so_far", "value": tokens}
        rows.append({**saved.stage, **row})
    return rows


def sweep_path(results: Path) -> Path:
    """Where a sweep's table is."""
    return Path(results) / "tables" / "sweep.csv"


def read_sweep(results: Path):
    """The table of a sweep, an empty one if there is none. Raises Damaged, BadInput."""
    import pandas as pd

    path = sweep_path(results)
    if not path.exists():
        return pd.DataFrame(columns=["run", "table", "phase", "measure", "value"])
    kinds = {"run": str, "condition": str}
    table = pd.read_csv(verify(path), keep_default_na=False, na_values=[""], dtype=kinds)
    if not {"run", "measure", "value"} <= set(table):
        raise BadInput(f"{path} lacks the column run, measure or value: it is not a sweep's table.")
    return table


def add_run(results: Path, table, run: str, rows: list, labels: Mapping, device: str = "cpu"):
    """Append a run's rows to the table, write it whole and return it; a run that is there stays."""
    import pandas as pd

    if run in set(table["run"]):
        return table
    first, made = {"run": run, **labels}, {"commit": commit(), "device": device}
    new = pd.DataFrame([{**first, **row, **made} for row in rows]).round(6)
    table = pd.concat([table, new], ignore_index=True) if len(table) else new
    order = [c for c in dict.fromkeys([*first, "table", *KEPT]) if c in table]
    table = table[order + [c for c in table if c not in order]]
    path = sweep_path(results)
    write_with(path, lambda part: table.to_csv(part, index=False))
    seal(path.parent, [path.name])
    return table


def mean_seconds(table) -> dict[str, float]:
    """Stage -> mean seconds that the finished runs of a sweep's table took."""
    rows = table[table["measure"] == "seconds"]
    stage = rows["phase"].where(rows["table"] == "training", rows["table"])
    return rows.groupby(stage)["value"].mean().to_dict()


def made_by_other_code(table) -> int:
    """How many runs of a sweep's table another commit made."""
    if "commit" not in table:
        return 0
    now = commit().removesuffix("+")
    other = table["commit"].astype(str).str.removesuffix("+") != now
    return int(table.loc[other, "run"].nunique())
