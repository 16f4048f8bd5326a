"""When each measure rises: the curves of a run over training steps and their half-way steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.across.endpoints import CURVES
from analysis.across.seeds import mean_over_seeds
from training.base.errors import NotFound
from training.runs.table_files import TableMissing, read_table

PHASES = ("base", "memorize", "generalize")
STAGE = ("checkpoint", "phase", "epoch", "step")
COLUMNS = (*STAGE, "relation", "split", "site", "value", "low", "high", "n")


def curves_of(run_dir: Path) -> tuple:
    """(curves of a run, why others are left out); one row per curve, relation and checkpoint.

    Columns: COLUMNS (relation: bound or unbound; step: within the phase), curve, total_step (0 at
    the base model), maximum and share, see `with_shares`. A curve over sites is followed at ONE
    site, where it is largest at the last checkpoint. Raises NotFound.
    """
    import pandas as pd

    missing, found = [], []
    for curve in CURVES:
        try:
            rows = curve.in_run(read_table(run_dir, curve.table))
        except TableMissing as reason:
            missing.append(str(reason))
            continue
        if len(rows):
            found.append(rows[[c for c in COLUMNS if c in rows]].assign(curve=curve.name))
        else:
            missing.append(f"tables/{curve.table}.csv has no rows of {curve.name}")
    missing = list(dict.fromkeys(missing))
    if not found:
        raise NotFound(f"no table of {run_dir} holds a curve: {'; '.join(missing)}")
    table = pd.concat(found, ignore_index=True)
    # Each phase starts where the one before it ended.
    lengths = table.groupby("phase").step.max().reindex(PHASES).fillna(0)
    start = table.phase.map(lengths.cumsum() - lengths)
    return with_shares(table.assign(total_step=(start + table.step).astype(float))), missing


def with_shares(table):
    """Adds each curve's maximum, and share of the way to it; NaN for a curve that never rises."""
    table = table.sort_values("total_step", kind="stable")
    curves = table.groupby(["curve", "relation"], sort=False).value
    first, maximum = curves.transform("first"), curves.transform("max")
    share = ((table.value - first) / (maximum - first)).where(maximum > first)
    return table.assign(maximum=maximum, share=share)


def half_way(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """(step at which a curve has risen half of the way to its maximum, measured steps around it).

    steps, values: (k,). Interpolated; NaN where the curve never rises above its first value.
    """
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    known = ~np.isnan(values)
    steps, values = steps[known], values[known]
    if len(values) < 2 or values.max() <= values[0]:
        return (np.nan,) * 3
    level = (values[0] + values.max()) / 2
    i = int(np.argmax(values >= level))
    before, after = float(steps[i - 1]), float(steps[i])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(before + share * (after - before)), before, after


def half_ways(curves):
    """One row per curve and relation: half-way step, steps around it, or why there is none."""
    import pandas as pd

    rows = []
    for (name, side), curve in curves.groupby(["curve", "relation"], sort=False):
        curve = curve.sort_values("total_step")
        start, top = curve.value.iloc[0], curve.value.max()
        found, reason = half_way(curve.total_step, curve.value), ""
        if np.isnan(found[0]):
            reason = "it never rises above its value at the first checkpoint"
        elif "low" in curve and curve.low.loc[curve.value.idxmax()] <= start:
            found = (np.nan,) * 3
            reason = "the interval of its maximum holds its first value: no rise to be dated"
        row = {"curve": name, "relation": side, "measure": "half_step"}
        row |= dict(zip(("value", "step_before", "step_after"), found, strict=True))
        row |= {"start": start, "maximum": top}
        row |= {"site": curve.site.iloc[0] if "site" in curve else np.nan}
        rows.append(row | {"n_checkpoints": len(curve), "reason": reason})
    return pd.DataFrame(rows)


def mean_curves(runs: Sequence):
    """Curves of several runs (see `curves_of`) as one: means over seeds at the steps that all have.

    Columns: value, low, high and n_seeds; share, share_low, share_high and n_rising over the runs
    in which the curve rises, each a share of the run's own maximum; maximum, their mean.
    """
    import pandas as pd

    key = [*STAGE, "total_step", "curve", "relation", "split"]
    renamed = {"value": "share", "low": "share_low", "high": "share_high", "n_seeds": "n_rising"}
    rows = []
    for values, group in pd.concat(runs, ignore_index=True).groupby(key, sort=False, dropna=False):
        found, rising = mean_over_seeds(group.value), mean_over_seeds(group.share)
        if found["n_seeds"] == len(runs):
            named = dict(zip(key, values, strict=True))
            shares = {renamed[name]: value for name, value in rising.items()}
            rows.append({**named, **found, **shares, "maximum": group.maximum.mean()})
    return pd.DataFrame(rows)


def over_runs(table):
    """Mean half-way step of each curve over the seeds in which it rises (n_seeds)."""
    import pandas as pd

    rows = []
    for (name, side), group in table.groupby(["curve", "relation"], sort=False):
        row = {"curve": name, "relation": side, "measure": "half_step", "n_seeds": 0}
        row |= mean_over_seeds(group.value)
        flat = len(group) - row["n_seeds"]
        rows.append(row | {"reason": f"{flat} run(s) where it never rises" if flat else ""})
    return pd.DataFrame(rows)


def half_way_lines(table) -> list[str]:
    """The order in which the curves rise, in words; table: of `half_ways` or `over_runs`."""
    seeds = "n_seeds" in table
    how = "mean and 95% interval over seeds" if seeds else "between the checkpoints around it"
    lines = [f"half of the way from the base to each maximum, in steps since the base ({how})"]
    for row in table.sort_values("value", kind="stable").itertuples():
        what = f"  {row.curve}, {row.relation}".ljust(58)
        if np.isnan(row.value):
            around = ""
        elif not seeds:
            around = f"({row.step_before:.0f} to {row.step_after:.0f})"
        elif np.isnan(row.low):
            around = "(one seed: no interval)  n=1"
        else:
            around = f"[{row.low:.0f}, {row.high:.0f}]  n={row.n_seeds}"
        lines.append(what + (f"{row.value:6.0f} {around}" if around else row.reason))
    return lines
