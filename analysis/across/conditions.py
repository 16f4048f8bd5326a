"""analysis.across.conditions"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from analysis.across.endpoints import ENDPOINTS, GAP, Endpoint
from analysis.measures.statistics import (
    holm,
    mean_interval,
    paired_difference,
    paired_shares,
    share_interval,
)
from training.base.errors import NotFound
from training.base.files import read_json
from training.grid.rows import read_sweep

PHASES = ("", "base", "memorize", "generalize")


# Below this, measures.md asks for no claim where more than MANY comparisons are corrected together.
CLAIM_SEEDS, MANY = 10, 3


class NoConditions(NotFound):
    """The table holds nothing to compare, or not what was asked for."""


def _endpoints(options) -> Sequence[Endpoint]:
    if not options.measure:
        return ENDPOINTS
    named = {
        "table": options.table,
        "measure": options.measure,
        "family": options.family,
        "subset": options.subset,
    }
    words = ", ".join(
        v for v in (options.measure, options.family, options.subset) if v and v != "all"
    )
    return (Endpoint(words, {k: v for k, v in named.items() if v}, options.relation),)


def labelled_table(results: Path, *, by: Sequence[str] = (), unit: Sequence[str] = ()) -> tuple:
    """(a sweep's table with the column label, the columns of a condition, those of a unit, [compare] of the grid file).

    by, unit: columns in place of those that the grid file or the defaults name. Raises NoConditions.
    """

    table = read_sweep(results)
    if not len(table):
        raise NoConditions(
            f"{results} has no tables/sweep.csv with rows. Make it: python -m training.sweep GRID.toml"
        )
    path = Path(results) / "run.json"
    # A table of one's own has no record.
    record = read_json(path) if path.exists() else {}
    said = record.get("compare", {})
    unit = tuple(unit or said.get("unit", ("seed",)))
    by = conditions_of(table, by or said.get("by", ()), unit, record)
    return table.assign(label=labels_of(table, by)), by, unit, said


def conditions_of(
    table, by: Sequence[str], unit: Sequence[str], record: Mapping = MappingProxyType({})
) -> list[str]:
    """The columns that make a condition: those asked for, or what the sweep varied besides repetitions.

    record: run.json of the sweep, if there is one. Raises NoConditions for a column that is not there.
    """
    for column in (*by, *unit):
        if column not in table:
            raise NoConditions(
                f"the table has no column {column}; it has {', '.join(table.columns)}."
            )
    if by:
        return list(by)
    candidates = ["condition", *(record.get("axes") or [c for c in table if "." in c])]
    repeated = {*unit, *record.get("repeats", ())}
    found = [
        c
        for c in dict.fromkeys(candidates)
        if c in table
        and c not in repeated
        and not (c.endswith(".seed") and "seed" in unit)
        and table[c].nunique(dropna=False) > 1
    ]
    if "condition" not in found:
        return found
    # A setting that a named condition fixes is said by its name.
    each = table.groupby("condition", dropna=False)
    return [c for c in found if c == "condition" or each[c].nunique(dropna=False).max() > 1]


def labels_of(table, by: Sequence[str]):
    """The condition of each row in words: `loss on all tokens, generalize.prompts 4`; "all runs" without columns."""
    import pandas as pd

    def word(column: str, value: object) -> str:
        if value is None or value != value:
            return ""
        number = isinstance(value, float) and value.is_integer()
        text = str(int(value)) if number else str(value)
        return text if column == "condition" else f"{column} {text}"

    columns = [[word(c, v) for v in table[c].tolist()] for c in by]
    joined = [
        ", ".join(filter(None, parts)) or "all others" for parts in zip(*columns, strict=True)
    ]
    return pd.Series(joined if by else ["all runs"] * len(table), index=table.index)


def values_of(table, endpoint: Endpoint, unit: Sequence[str], *, split: str = "", phase: str = ""):
    """(condition x unit) values of an endpoint, NaN where a run is missing; conditions in the order of the table.

    Raises NoConditions if no run has it.
    """
    import pandas as pd

    some = table
    for column, value in endpoint.rows.items():
        if column in some:
            some = some[some[column] == value]
    if "split" in some and "split" not in endpoint.rows:
        there = set(some["split"].dropna())
        wanted = split or ("held-out" if "held-out" in there else "all")
        some = some[some["split"].isna() | (some["split"] == wanted)]
    if endpoint.change:
        some = _changes(some, ["label", *unit])
    elif "phase" in some:
        rank = (
            some["phase"].fillna("").map({p: i for i, p in enumerate(PHASES)}).fillna(len(PHASES))
        )
        last = rank.groupby(some["run"]).transform("max")
        some = some[some["phase"] == phase] if phase else some[rank == last]
        some = _at_last_checkpoint(some)
    keys = ["label", *unit]
    if endpoint.relation == GAP:
        sides = [
            some[some["relation"] == side].groupby(keys, sort=False)["value"].mean()
            for side in ("bound", "unbound")
        ]
        values = (sides[0] - sides[1]).dropna()
    else:
        if "relation" in some and endpoint.relation:
            some = some[some["relation"].isna() | (some["relation"] == endpoint.relation)]
        values = some.groupby(keys, sort=False)["value"].mean().dropna()
    if not len(values):
        raise NoConditions(
            f"the table has no rows of {endpoint.name} ({endpoint.relation or 'any relation'})"
        )
    units = [" ".join(map(str, np.atleast_1d(key))) for key in values.index.droplevel(0)]
    flat = pd.DataFrame(
        {"label": values.index.get_level_values(0), "unit": units, "value": values.to_numpy()}
    )
    order = [label for label in dict.fromkeys(table["label"]) if label in set(flat["label"])]
    return flat.pivot(index="label", columns="unit", values="value").reindex(order)


def _at_last_checkpoint(rows):
    """Of each run and phase the rows of its last checkpoint, where a sweep kept several; and those of none."""
    if "checkpoint" not in rows or not len(rows):
        return rows
    last = rows.groupby(["run", "phase"], dropna=False)["checkpoint"].transform("max")
    return rows[rows["checkpoint"].isna() | (rows["checkpoint"] == last)]


def _changes(rows, labels: Sequence[str]):
    """A row a run and relation that has the value before and after phase 2: the difference, and the run's labels."""
    import pandas as pd

    rows, found = _at_last_checkpoint(rows), []
    for _, of_run in rows.groupby("run", sort=False) if {"phase", "relation"} <= set(rows) else ():
        means = (
            of_run.groupby(["relation", "phase"], sort=False, dropna=False)["value"]
            .mean()
            .unstack("phase")
        )
        if {"memorize", "generalize"} <= set(means):
            change = (
                (means["generalize"] - means["memorize"]).dropna().rename("value").reset_index()
            )
            found.append(change.assign(**{name: of_run[name].iloc[0] for name in labels}))
    return pd.concat(found, ignore_index=True) if found else rows.iloc[:0]


def compare(values, endpoint: Endpoint, *, against: str = "") -> list[dict]:
    """Rows of one endpoint: every condition's mean over units, then every difference to the reference.

    values: (condition x unit), see `values_of`. p is that of a paired t-test over the units that both conditions
    have; p_holm is corrected over the endpoint's comparisons. Where the reference lacks the endpoint there are none.
    """

    # A unit that averages several runs has shares of its own, and no longer yes or no.
    yes_no = endpoint.yes_no and bool(
        values.isin([0, 1]).where(values.notna(), True).to_numpy().all()
    )
    reference = against or values.index[0]
    common = {"endpoint": endpoint.name, "relation": endpoint.relation, **endpoint.rows}
    rows = []
    for label, row in values.iterrows():
        known = row.dropna().to_numpy(dtype=float)
        found = {"value": known.mean(), "low": np.nan, "high": np.nan, "n_seeds": len(known)}
        if len(known) > 1:
            interval = share_interval(known) if yes_no else mean_interval(known)
            found |= {"low": float(interval.low), "high": float(interval.high)}
        else:
            found["reason"] = "one seed: no interval"
        rows.append({**common, "kind": "condition", "label": label, **found})
    differences = []
    others = (
        [label for label in values.index if label != reference] if reference in values.index else []
    )
    for label in others:
        pairs = values.loc[[label, reference]].dropna(axis=1).to_numpy(dtype=float)
        row = {
            **common,
            "kind": "difference",
            "label": label,
            "reference": reference,
            "n_seeds": pairs.shape[1],
        }
        if pairs.shape[1] < 2:
            unknown = dict.fromkeys(("value", "low", "high", "p"), np.nan)
            differences.append(row | unknown | {"reason": "fewer than two seeds in common"})
            continue
        found = (paired_shares if yes_no else paired_difference)(pairs[0], pairs[1])
        differences.append(
            row
            | {
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "reason": "",
            }
        )
    corrected = holm([row["p"] for row in differences])
    many = int(np.isfinite(corrected).sum()) > MANY
    for row, p in zip(differences, corrected, strict=True):
        if row["n_seeds"] in (2, 3):
            row["reason"] = f"{row['n_seeds']} seeds: an interval, no claim of significance"
        elif many and row["n_seeds"] < CLAIM_SEEDS and not row["reason"]:
            row["reason"] = (
                f"{row['n_seeds']} seeds: too few for a claim over {len(differences)} comparisons"
            )
        rows.append(row | {"p_holm": p})
    return rows


def ablation_lines(table) -> list[str]:
    """Every endpoint in words: a line a condition, with its difference to the reference."""
    lines = []
    for (name, relation), some in table.groupby(["endpoint", "relation"], sort=False):
        conditions = some[some["kind"] == "condition"]
        differences = some[some["kind"] == "difference"].set_index("label")
        reference = differences["reference"].iloc[0] if len(differences) else ""
        seeds = conditions["n_seeds"]
        count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}-{seeds.max()}"
        lines.append(
            f"{name}, {relation or 'any relation'} (mean and 95% interval over {count} seeds)"
        )
        width = min(60, max(len(label) for label in conditions["label"]) + 2)
        for row in conditions.itertuples():
            line = f"  {row.label:<{width}}{_span(row)}"
            if row.label in differences.index:
                line += f"   {_difference(differences.loc[row.label])}"
            elif reference:
                line += "   (the others are compared with this)"
            lines.append(line)
    return lines


def _span(row, sign: str = "") -> str:
    if row.low != row.low:
        return f"{row.value:{sign}.2f}"
    return f"{row.value:{sign}.2f} [{row.low:{sign}.2f}, {row.high:{sign}.2f}]"


def _difference(row) -> str:
    if row.value != row.value:
        return str(row.reason)
    p = (
        ""
        if row.p_holm != row.p_holm
        else f"  p {max(row.p_holm, 0.001):.3f} (Holm)".replace("0.", ".", 1)
    )
    return f"{_span(row, '+')}{p}" + (
        f"  ({row.reason})" if isinstance(row.reason, str) and row.reason else ""
    )
