"""The conditions of a sweep side by side: means over seeds and paired differences by seed.

A condition is a combination of the settings varied; a unit is one independent repetition (a seed).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.across.endpoints import ENDPOINTS, GAP, SIDES, Endpoint
from analysis.across.seeds import mean_over_seeds, record_of
from analysis.measures.statistics import holm, paired_difference, paired_shares
from training.base.errors import NotFound
from training.base.words import p_words, span
from training.grid.rows import read_sweep
from training.runs.table_files import pick

PHASES = ("", "base", "memorize", "generalize")
# Columns that a table of one's own may lack.
OPTIONAL = ("relation", "split", "checkpoint", "phase", "step", "reference")
# With fewer seeds measures.md allows no claim where more than MANY comparisons are corrected.
CLAIM_SEEDS, MANY = 10, 3


class NoConditions(NotFound):
    """The table holds nothing to compare, or not what was asked for."""


def labelled_table(results: Path, by: Sequence[str] = (), unit: Sequence[str] = ()) -> tuple:
    """(table of a sweep with the column label, columns of a condition, of a unit, reference label).

    by, unit: in place of those of [compare] in the grid file. Raises NoConditions.
    """
    table, record = read_sweep(results), record_of(results)
    if not len(table):
        make = "Make it: python -m training.sweep GRID.toml"
        raise NoConditions(f"{results} has no tables/sweep.csv with rows. {make}")
    how = record.get("compare", {})
    unit = tuple(unit or how.get("unit", ("seed",)))
    by = conditions_of(table, by or how.get("by", ()), unit, record)
    table = table.assign(label=labels_of(table, by))
    table = table.reindex(columns=list(dict.fromkeys((*table, *OPTIONAL))))
    return table, by, unit, how.get("against", "")


def conditions_of(table, by: Sequence[str], unit: Sequence[str], record: Mapping) -> list[str]:
    """The columns that make a condition: `by`, or what the sweep varied apart from repetitions.

    record: run.json of the sweep, or {}. Raises NoConditions for an unknown column.
    """
    if unknown := [column for column in (*by, *unit) if column not in table]:
        there = ", ".join(table.columns)
        raise NoConditions(f"the table has no column {unknown[0]}; it has {there}.")
    varied = ["condition", *(record.get("axes") or [c for c in table if "." in c])]
    repeated = {*unit, *record.get("repeats", ())}
    if "seed" in unit:
        repeated |= {column for column in table if column.endswith(".seed")}
    found = [c for c in dict.fromkeys(varied) if c in table and c not in repeated]
    found = [c for c in found if table[c].nunique(dropna=False) > 1]
    if by or "condition" not in found:
        return list(by) or found
    # Leave out settings that the name of a condition implies.
    each = table.groupby("condition", dropna=False)
    return [c for c in found if c == "condition" or each[c].nunique(dropna=False).max() > 1]


def labels_of(table, by: Sequence[str]):
    """The condition of each row, such as `loss on all tokens, generalize.prompts 4`."""

    def word(column: str, value: object) -> str:
        if value is None or value != value:
            return ""
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
        return text if column == "condition" else f"{column} {text}"

    columns = [[word(c, v) for v in table[c].tolist()] for c in by]
    rows = [", ".join(filter(None, row)) or "all others" for row in zip(*columns, strict=True)]
    return rows or "all runs"


def values_of(table, endpoint: Endpoint, unit: Sequence[str], *, split: str = "", phase: str = ""):
    """(condition x unit) values of an endpoint, NaN where a run is missing; conditions in order.

    phase: default, the last of each run. Raises NoConditions if no run has the endpoint.
    """
    rows, keys = endpoint.of(table, split), ["label", *unit]
    if len(rows):
        # A sweep may have kept several checkpoints of a phase.
        last = rows.groupby(["run", "phase"], dropna=False)["checkpoint"].transform("max")
        rows = rows[rows["checkpoint"].isna() | (rows["checkpoint"] == last)]
    if endpoint.change:
        rows = _changes(rows, keys)
    elif phase:
        rows = rows[rows["phase"] == phase]
    else:
        order = {name: i for i, name in enumerate(PHASES)}
        rank = rows["phase"].fillna("").map(order).fillna(len(PHASES))
        rows = rows[rank == rank.groupby(rows["run"]).transform("max")]
    sides = [pick(rows, relation=side) for side in SIDES] if endpoint.relation == GAP else [rows]
    means = [side.groupby(keys, sort=False)["value"].mean() for side in sides]
    values = means[0] - means[1] if endpoint.relation == GAP else means[0]
    values = values.dropna().reset_index()
    if not len(values):
        raise NoConditions(f"the table has no rows of {endpoint}")
    values["unit"] = values[list(unit)].astype(str).agg(" ".join, axis=1)
    known = set(values["label"])
    order = [label for label in dict.fromkeys(table["label"]) if label in known]
    return values.pivot(index="label", columns="unit", values="value").reindex(order)


def _changes(rows, labels: Sequence[str]):
    """Value after phase 2 minus value before it, one row per run and relation that has both."""
    means = rows.groupby([*labels, "run", "relation", "phase"], sort=False)["value"].mean()
    phases = means.unstack("phase").reindex(columns=["memorize", "generalize"])
    change = phases["generalize"] - phases["memorize"]
    return change.dropna().rename("value").reset_index()


def compare(values, endpoint: Endpoint, *, against: str = "") -> list[dict]:
    """Rows of one endpoint: the mean of each condition, then its difference to the reference.

    values: (condition x unit), see `values_of`. p: paired t-test (exact for yes_no) over the units
    that both conditions have; p_holm: corrected over the differences of this endpoint.
    """
    # A unit that averages several runs is a share of them, no longer yes or no.
    yes_no = endpoint.yes_no and bool(values.isin([0, 1, np.nan]).all(axis=None))
    reference = against or values.index[0]
    common = {"endpoint": endpoint.name, "relation": endpoint.relation, **endpoint.rows}
    rows, differences = [], []
    for label, row in values.iterrows():
        found = mean_over_seeds(row, yes_no=yes_no)
        if found["n_seeds"] == 1:
            found["reason"] = "one seed: no interval"
        rows.append({**common, "kind": "condition", "label": label, **found})
    others = values.index.drop(reference) if reference in values.index else ()
    for label in others:
        row = {**common, "kind": "difference", "label": label, "reference": reference}
        pairs = values.loc[[label, reference]].dropna(axis=1).to_numpy(dtype=float)
        row |= {"n_seeds": pairs.shape[1], **dict.fromkeys(("value", "low", "high", "p"), np.nan)}
        if pairs.shape[1] > 1:
            found = (paired_shares if yes_no else paired_difference)(*pairs)
            row |= {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
        differences.append(row)
    corrected = holm([row["p"] for row in differences])
    many = np.isfinite(corrected).sum() > MANY
    for row, p_holm in zip(differences, corrected, strict=True):
        seeds, reason = row["n_seeds"], ""
        if seeds < 2:
            reason = "fewer than two seeds in common"
        elif seeds < 4:
            reason = f"{seeds} seeds: an interval, no claim of significance"
        elif many and seeds < CLAIM_SEEDS:
            reason = f"{seeds} seeds: too few for a claim over {len(differences)} comparisons"
        rows.append(row | {"reason": reason, "p_holm": p_holm})
    return rows


def ablation_table(results: Path, endpoints=ENDPOINTS, *, by=(), unit=(), against="", **which):
    """(`compare` of every endpoint, endpoints without rows); which: split and phase."""
    import pandas as pd

    table, by, unit, reference = labelled_table(results, by, unit)
    against, labels = against or reference, dict.fromkeys(table["label"])
    if against and against not in labels:
        raise NoConditions(f"there is no condition {against!r}; there are: {'; '.join(labels)}.")
    rows, missing = [], []
    for endpoint in endpoints:
        try:
            values = values_of(table, endpoint, unit, **which)
        except NoConditions:
            missing.append(str(endpoint))
            continue
        rows += compare(values, endpoint, against=against)
    if not rows:
        raise NoConditions(f"the table has no rows of {'; '.join(missing)}")
    settings = table.drop_duplicates("label").set_index("label")[by]
    return pd.DataFrame(rows).join(settings, on="label").assign(unit=" ".join(unit)), missing


def ablation_lines(table) -> list[str]:
    """Every endpoint in words: one line per condition with its difference to the reference."""
    lines = []
    for (name, relation), some in table.groupby(["endpoint", "relation"], sort=False):
        means = some[some["kind"] == "condition"]
        differences = some[some["kind"] == "difference"].set_index("label")
        seeds = "-".join(map(str, sorted({means["n_seeds"].min(), means["n_seeds"].max()})))
        side = relation or "any relation"
        lines.append(f"{name}, {side} (mean and 95% interval over {seeds} seeds)")
        width = min(60, max(map(len, means["label"])) + 2)
        for row in means.itertuples():
            beside = "(the reference)" if len(differences) else ""
            if row.label in differences.index:
                beside = _difference(differences.loc[row.label])
            lines.append(f"  {row.label:<{width}}{span(row)}   {beside}".rstrip())
    return lines


def _difference(row) -> str:
    if np.isnan(row.value):
        return row.reason
    p = "" if np.isnan(row.p_holm) else f"{p_words(max(row.p_holm, 0.001))} (Holm)"
    reason = f"({row.reason})" if row.reason else ""
    return "  ".join(filter(None, (span(row, sign=True), p, reason)))
