"""Which setting matters? The conditions of a sweep side by side, with intervals over seeds and paired tests by seed.

    python -m analysis.ablations results/little-meaning
    python -m analysis.ablations results/little-meaning --against "generalize.prompts 10" --relation bound
    python -m analysis.ablations results/mine --by generalize.people --unit seed memorize.model

Reads tables/sweep.csv of a sweep (or any table of yours with the columns run, seed, measure and value), writes
tables/ablations.csv (a row a condition, and a row a paired difference to the reference condition) and
figures/ablations.png. Intervals and tests are over seeds, never over people or rows. A measure over sites is taken at
each run's largest site at the end: differences between conditions can be read, its height above zero or chance cannot,
and its change in phase 2 is that of the same site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tyro

from training.errors import UserError

PHASES = ("", "base", "memorize", "generalize")
# Below this, measures.md asks for no claim where more than MANY comparisons are corrected together.
CLAIM_SEEDS, MANY = 10, 3
GAP = "bound - unbound"


@dataclass(frozen=True)
class Endpoint:
    """A number of every run: the rows that hold it (column -> value), for one side, or the gap between both.

    change: what phase 2 changed, after it minus before it in the same run, and not the level. yes_no: it is 1 or 0 in
    each run, so that intervals and tests are those of shares.
    """

    name: str
    rows: Mapping[str, str] = field(default_factory=dict)
    relation: str = "bound"
    change: bool = False
    yes_no: bool = False


RECALL = {"table": "recall", "measure": "generation", "subset": "all"}
SIBLING = {**RECALL, "family": "near-miss", "subset": "sibling"}
TRANSFER = {"table": "probes", "measure": "transfer_accuracy", "direction": "rote->semantic", "family": "test"}
CONTRAST = {"table": "cka", "measure": "contrast", "family": "test"}
PARTIALLED = {**CONTRAST, "measure": "contrast_partialled"}
ALARM = {"table": "repurposing"}
HOPS = {"table": "two_hop"}
ENDPOINTS = (
    Endpoint("recall, keyword-free test prompts", {**RECALL, "family": "test", "subset": "keyword-free"}, GAP),
    Endpoint("recall, test prompts", {**RECALL, "family": "test"}, GAP),
    Endpoint("recall, test prompts", {**RECALL, "family": "test"}),
    Endpoint("gain of phase 2, test prompts", {**RECALL, "measure": "generation_gain", "family": "test"}, GAP),
    Endpoint("gain of phase 2, test prompts", {**RECALL, "measure": "generation_gain", "family": "test"}),
    Endpoint("recall, near-miss prompts", {**RECALL, "family": "near-miss"}),
    Endpoint("recall, prompts of a sibling relation", SIBLING),
    Endpoint("change in phase 2, prompts of a sibling relation", SIBLING, change=True),
    Endpoint("recall, unrelated prompts", {**RECALL, "family": "unrelated"}),
    Endpoint("recall, rote prompts", {**RECALL, "family": "rote"}),
    Endpoint(
        "reversal above chance, people of phase 2",
        {"table": "reversal", "measure": "reversal_excess", "split": "seen"},
    ),
    Endpoint("reversal above chance, held-out people", {"table": "reversal", "measure": "reversal_excess"}),
    Endpoint("two hops, answered", {**HOPS, "measure": "two_hop"}),
    Endpoint("two hops, above chance", {**HOPS, "measure": "two_hop_excess"}),
    Endpoint("two hops, the person's own object instead", {**HOPS, "measure": "own"}),
    Endpoint("two hops, if both were as when asked singly", {**HOPS, "measure": "product"}),
    Endpoint("facts of the pretraining world known", {"table": "damage", "measure": "known_facts"}, ""),
    Endpoint("contradicted facts, old answers", {"table": "damage", "measure": "contradicted_facts"}, ""),
    Endpoint("perplexity of ordinary English", {"table": "damage", "measure": "perplexity"}, ""),
    Endpoint("probe transfer, rote to test", TRANSFER),
    Endpoint("change in phase 2, probe transfer", TRANSFER, GAP, change=True),
    Endpoint("change in phase 2, probe transfer", TRANSFER, change=True),
    Endpoint("crossed contrast", CONTRAST),
    Endpoint("change in phase 2, crossed contrast", CONTRAST, change=True),
    Endpoint("contrast, answer partialled out", PARTIALLED),
    Endpoint("change in phase 2, contrast, answer partialled out", PARTIALLED, change=True),
    Endpoint("alarm: states read another way", {**ALARM, "measure": "alarm_states"}, "", yes_no=True),
    Endpoint("alarm: answers of another reading", {**ALARM, "measure": "alarm_answers"}, "", yes_no=True),
    Endpoint("steps to the alarm, states", {**ALARM, "measure": "alarm_step_states"}, ""),
    Endpoint("steps to the alarm, answers", {**ALARM, "measure": "alarm_step_answers"}, ""),
    Endpoint("lead of the states over the answers, steps", {**ALARM, "measure": "lead_steps"}, ""),
    Endpoint(
        "interchange, relation moved",
        {
            "table": "interchange",
            "measure": "share",
            "outcome": "relation",
            "direction": "semantic->rote",
            "vector": "state",
            "position": "last",
        },
    ),
)


class NoConditions(UserError):
    """The table holds nothing to compare, or not what was asked for."""


@dataclass
class Options:
    """Options of the comparison of conditions."""

    results: tyro.conf.Positional[Path]
    """A folder with tables/sweep.csv."""
    by: tuple[str, ...] = ()
    """Columns that make a condition; default: all that the sweep varied, but for the unit."""
    unit: tuple[str, ...] = ()
    """Columns whose values are independent repetitions, paired across conditions, values within one averaged; default:
    seed, or what the grid file says."""
    against: str = ""
    """The condition that others are compared with, by its label; default: the first."""
    measure: str = ""
    """Only this measure (with the five below), in place of the usual endpoints."""
    table: str = "recall"
    """Of --measure: the table it comes from."""
    family: str = "test"
    """Of --measure: the prompt family; "" for any."""
    subset: str = "all"
    """Of --measure: the subset of prompts, such as keyword-free; "" for any."""
    split: str = ""
    """The split of subjects; default: held-out where there is one."""
    phase: str = ""
    """Only this phase; default: the last that each run has."""
    relation: str = "bound"
    """Of --measure: bound, unbound, "bound - unbound", or "" for any."""


def main(options: Options):
    """Write the table, print the comparison, draw; return the table. Raises NoConditions."""
    import pandas as pd

    from training.files import commit, seal, write_text

    labelled, by, unit, said = labelled_table(options.results, by=options.by, unit=options.unit)
    against = options.against or said.get("against", "")
    if against and against not in set(labelled["label"]):
        there = "; ".join(dict.fromkeys(labelled["label"]))
        raise NoConditions(f"there is no condition {against!r}; there are: {there}.")
    rows, missing = [], {}
    for endpoint in _endpoints(options):
        try:
            values = values_of(labelled, endpoint, unit, split=options.split, phase=options.phase)
            rows += compare(values, endpoint, against=against)
        except NoConditions as reason:
            missing[f"{endpoint.name}, {endpoint.relation or 'any relation'}"] = str(reason)
    if not rows:
        raise NoConditions("; ".join(missing.values()))
    settings = labelled.drop_duplicates("label").set_index("label")[by]
    found = pd.DataFrame(rows)
    found = found.join(settings, on="label").assign(unit=" ".join(unit), commit=commit())
    path = Path(options.results) / "tables" / "ablations.csv"
    write_text(path, found.round(6).to_csv(index=False))
    seal(path.parent, [path.name])
    print("\n".join(ablation_lines(found)))
    if missing:
        print(f"left out, for the table has no rows of them: {'; '.join(missing)}")
    from figures.ablations import draw

    drawn = draw(options.results)
    print(f"wrote {path} ({len(found)} rows), {', '.join(p.name for p in drawn)}")
    return found


def _endpoints(options: Options) -> Sequence[Endpoint]:
    if not options.measure:
        return ENDPOINTS
    named = {"table": options.table, "measure": options.measure, "family": options.family, "subset": options.subset}
    words = ", ".join(v for v in (options.measure, options.family, options.subset) if v and v != "all")
    return (Endpoint(words, {k: v for k, v in named.items() if v}, options.relation),)


def labelled_table(results: Path, *, by: Sequence[str] = (), unit: Sequence[str] = ()) -> tuple:
    """(a sweep's table with the column label, the columns of a condition, those of a unit, [compare] of the grid file).

    by, unit: columns in place of those that the grid file or the defaults name. Raises NoConditions.
    """
    from training.files import read_json
    from training.grid_rows import read_sweep

    table = read_sweep(results)
    if not len(table):
        raise NoConditions(f"{results} has no tables/sweep.csv with rows. Make it: python -m training.sweep GRID.toml")
    path = Path(results) / "run.json"
    # A table of one's own has no record.
    record = read_json(path) if path.exists() else {}
    said = record.get("compare", {})
    unit = tuple(unit or said.get("unit", ("seed",)))
    by = conditions_of(table, by or said.get("by", ()), unit, record)
    return table.assign(label=labels_of(table, by)), by, unit, said


def conditions_of(table, by: Sequence[str], unit: Sequence[str], record: Mapping = MappingProxyType({})) -> list[str]:
    """The columns that make a condition: those asked for, or what the sweep varied besides repetitions.

    record: run.json of the sweep, if there is one. Raises NoConditions for a column that is not there.
    """
    for column in (*by, *unit):
        if column not in table:
            raise NoConditions(f"the table has no column {column}; it has {', '.join(table.columns)}.")
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
    joined = [", ".join(filter(None, parts)) or "all others" for parts in zip(*columns, strict=True)]
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
        rank = some["phase"].fillna("").map({p: i for i, p in enumerate(PHASES)}).fillna(len(PHASES))
        last = rank.groupby(some["run"]).transform("max")
        some = some[some["phase"] == phase] if phase else some[rank == last]
        some = _at_last_checkpoint(some)
    keys = ["label", *unit]
    if endpoint.relation == GAP:
        sides = [
            some[some["relation"] == side].groupby(keys, sort=False)["value"].mean() for side in ("bound", "unbound")
        ]
        values = (sides[0] - sides[1]).dropna()
    else:
        if "relation" in some and endpoint.relation:
            some = some[some["relation"].isna() | (some["relation"] == endpoint.relation)]
        values = some.groupby(keys, sort=False)["value"].mean().dropna()
    if not len(values):
        raise NoConditions(f"the table has no rows of {endpoint.name} ({endpoint.relation or 'any relation'})")
    units = [" ".join(map(str, np.atleast_1d(key))) for key in values.index.droplevel(0)]
    flat = pd.DataFrame({"label": values.index.get_level_values(0), "unit": units, "value": values.to_numpy()})
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
        means = of_run.groupby(["relation", "phase"], sort=False, dropna=False)["value"].mean().unstack("phase")
        if {"memorize", "generalize"} <= set(means):
            change = (means["generalize"] - means["memorize"]).dropna().rename("value").reset_index()
            found.append(change.assign(**{name: of_run[name].iloc[0] for name in labels}))
    return pd.concat(found, ignore_index=True) if found else rows.iloc[:0]


def compare(values, endpoint: Endpoint, *, against: str = "") -> list[dict]:
    """Rows of one endpoint: every condition's mean over units, then every difference to the reference.

    values: (condition x unit), see `values_of`. p is that of a paired t-test over the units that both conditions
    have; p_holm is corrected over the endpoint's comparisons. Where the reference lacks the endpoint there are none.
    """
    from analysis.statistics import holm, mean_interval, paired_difference, paired_shares, share_interval

    # A unit that averages several runs has shares of its own, and no longer yes or no.
    yes_no = endpoint.yes_no and bool(values.isin([0, 1]).where(values.notna(), True).to_numpy().all())
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
    others = [label for label in values.index if label != reference] if reference in values.index else []
    for label in others:
        pairs = values.loc[[label, reference]].dropna(axis=1).to_numpy(dtype=float)
        row = {**common, "kind": "difference", "label": label, "reference": reference, "n_seeds": pairs.shape[1]}
        if pairs.shape[1] < 2:
            unknown = dict.fromkeys(("value", "low", "high", "p"), np.nan)
            differences.append(row | unknown | {"reason": "fewer than two seeds in common"})
            continue
        found = (paired_shares if yes_no else paired_difference)(pairs[0], pairs[1])
        differences.append(
            row | {"value": found.value, "low": found.low, "high": found.high, "p": found.p, "reason": ""}
        )
    corrected = holm([row["p"] for row in differences])
    many = int(np.isfinite(corrected).sum()) > MANY
    for row, p in zip(differences, corrected, strict=True):
        if row["n_seeds"] in (2, 3):
            row["reason"] = f"{row['n_seeds']} seeds: an interval, no claim of significance"
        elif many and row["n_seeds"] < CLAIM_SEEDS and not row["reason"]:
            row["reason"] = f"{row['n_seeds']} seeds: too few for a claim over {len(differences)} comparisons"
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
        lines.append(f"{name}, {relation or 'any relation'} (mean and 95% interval over {count} seeds)")
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
    p = "" if row.p_holm != row.p_holm else f"  p {max(row.p_holm, 0.001):.3f} (Holm)".replace("0.", ".", 1)
    return f"{_span(row, '+')}{p}" + (f"  ({row.reason})" if isinstance(row.reason, str) and row.reason else "")


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
