"""The one tidy table of a sweep: which rows of a run's tables become its rows, and how they are kept.

A run's rows are the headline ones of the tables that its stages wrote: bound and unbound relations, the last checkpoint
of each phase, and, of a table over sites, the site that is largest at the last checkpoint (looked for there: its
height is not to be claimed without `null_p_max`). `[rows.TABLE]` in the grid file asks for others; there
`checkpoint = ["all"]` asks for every checkpoint, as curves over training need them (`analysis.curves`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import read_json, seal, verify, write_with
from training.base.provenance import commit
from training.runs.checkpoints import list_checkpoints
from training.runs.table_files import at_largest_site

TABLE = "sweep"


SIDES = ("bound", "unbound")


HEADLINE: dict[str, dict[str, tuple]] = {
    "recall": {
        "measure": ("generation", "generation_gain", "multiple_choice"),
        "split": ("held-out", "seen", "all"),
    },
    "damage": {"measure": ("known_facts", "contradicted_facts", "perplexity")},
    "reversal": {
        "measure": ("reversal", "reversal_excess", "named"),
        "split": ("seen", "held-out"),
    },
    "two_hop": {},
    "probes": {"measure": ("transfer_accuracy",)},
    "cka": {"measure": ("cka", "contrast", "contrast_partialled", "object_kernel")},
    "alignment": {"measure": ("cosine_centred", "retrieval_top1")},
    "interchange": {"measure": ("share", "gain"), "outcome": ("relation",)},
    "repurposing": {},
}


# What tells rows of one table apart, besides the checkpoint and the site.
KEYS = (
    "relation",
    "object_relation",
    "family",
    "family_y",
    "subset",
    "split",
    "direction",
    "vector",
    "position",
    "outcome",
    "reference",
    "measure",
    "estimator",
)


STAGE = ("checkpoint", "phase", "epoch", "step")


NUMBERS = (
    "value",
    "low",
    "high",
    "null_p",
    "null_p_max",
    "n",
    "n_prompts",
    "n_candidates",
    "chance",
    "majority",
)


KEPT = (*STAGE, *KEYS, "site", *NUMBERS, "reason")


ALL = ("all",)


def headline_rows(table, wanted: Mapping[str, Sequence] | None = None, *, name: str = ""):
    """The rows of a run's table that its sweep keeps, with the columns KEPT that it has.

    wanted: column -> values; default: those of HEADLINE. A site named there is not looked for.
    Raises BadInput for a column that the table lacks.
    """
    chosen = {**HEADLINE.get(name, {}), **(wanted or {})}
    every = chosen.get("checkpoint") == ALL
    if every:
        chosen, wanted = (
            {k: v for k, v in some.items() if k != "checkpoint"} for some in (chosen, wanted)
        )
    for column, values in (wanted or {}).items():
        if column not in table:
            raise BadInput(
                f"[rows.{name}] asks for {column}; the table has {', '.join(table.columns)}."
            )
        if not set(values) & set(table[column]):
            there = ", ".join(map(str, dict.fromkeys(table[column].dropna())))
            raise BadInput(
                f"[rows.{name}] asks for {column} {', '.join(map(str, values))}; there are: {there}."
            )
    for column, values in chosen.items():
        if column in table:
            table = table[table[column].isin(values)]
    if "relation" in table and "relation" not in chosen and set(SIDES) & set(table["relation"]):
        table = table[table["relation"].isin(SIDES)]
    if "split" in table and set(table["split"]) - {"all"}:
        table = table[
            table["split"].isin(chosen.get("split", ("held-out",))) & (table["split"] != "all")
        ]
    if "checkpoint" in table and len(table) and not every:
        last = table.groupby(table["phase"].fillna(""))["checkpoint"].transform("max")
        table = table[table["checkpoint"] == last]
    if "site" in table and "site" not in chosen:
        table = _at_best_site(table)
    return table[[column for column in KEPT if column in table]]


def _at_best_site(table):
    """Of each kind of row those at its largest site; where it has no value, one row that says so."""
    import pandas as pd

    keys = [k for k in KEYS if k in table]
    parts = []
    for _, kind in table.groupby(keys, sort=False, dropna=False) if keys else [(None, table)]:
        found = kind if kind["site"].isna().all() else at_largest_site(kind)
        parts.append(found if len(found) or kind["value"].notna().any() else kind.iloc[-1:])
    return pd.concat(parts) if parts else table


def training_rows(folder: Path, phase: str) -> list[dict]:
    """Steps, tokens, seconds and recall in the last epoch of a training phase, from its run.json and log.jsonl.

    Also, of each checkpoint that it left, tokens_so_far: those of this phase; `reference` names the checkpoint that the
    phase started from.
    """
    import json
    from itertools import pairwise

    log = Path(folder) / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    steps = [step for step in map(json.loads, lines) if step["phase"] == phase]
    # The clock of the log starts anew where a run was resumed.
    ends = [a["seconds"] for a, b in pairwise(steps) if b["seconds"] < a["seconds"]]
    found = {
        "steps": len(steps),
        "tokens": sum(step["tokens"] for step in steps),
        "seconds": sum(ends) + steps[-1]["seconds"] if steps else 0,
        "train_recall": read_json(Path(folder) / "run.json")["phases"]
        .get(phase, {})
        .get("train_recall"),
    }
    rows = [
        {"phase": phase, "measure": name, "value": v} for name, v in found.items() if v is not None
    ]
    for saved in (c for c in list_checkpoints(Path(folder)) if c.phase == phase):
        tokens = sum(step["tokens"] for step in steps if step["step"] <= saved.step)
        parent = read_json(saved.folder / "stage.json").get("parent") or ""
        stage = {"checkpoint": saved.name, "phase": phase, "epoch": saved.epoch, "step": saved.step}
        rows.append({**stage, "reference": parent, "measure": "tokens_so_far", "value": tokens})
    return rows


def sweep_path(results: Path) -> Path:
    """Where a sweep's table is."""
    return Path(results) / "tables" / f"{TABLE}.csv"


def read_sweep(results: Path):
    """The table of a sweep, an empty one if none is there. Raises Damaged, BadInput."""
    import pandas as pd

    path = sweep_path(results)
    if not path.exists():
        return pd.DataFrame({"run": pd.Series(dtype=str)})
    table = pd.read_csv(
        verify(path), keep_default_na=False, na_values=[""], dtype={"run": str, "condition": str}
    )
    if "run" not in table or "measure" not in table or "value" not in table:
        raise BadInput(f"{path} lacks the column run, measure or value: it is no table of a sweep.")
    return table


def add_run(
    results: Path,
    table,
    run: str,
    rows: Iterable[Mapping],
    labels: Mapping[str, object],
    device: str = "cpu",
):
    """Append a run's rows to the table and write it, whole; returns the table. A run that is there stays as it is.

    device: what the run ran on; tables from before there was a GPU lack the column.
    """
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
