"""analysis.across.trajectory"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.across.endpoints import CURVES, Curve
from analysis.measures.statistics import mean_interval
from training.base.errors import NotFound
from training.runs.table_files import (
    TableMissing,
    at_largest_site,
    headline_split,
    pick,
    read_table,
)

Array = np.ndarray


PHASES = ("base", "memorize", "generalize")


STAGE = ["checkpoint", "phase", "epoch", "step"]


def curves_of(run_dir: Path):
    """(the curves of a run, why others are left out); one row a curve, relation side and checkpoint.

    Columns: checkpoint, phase, epoch, step (within the phase), total_step (0 at the base), curve, relation
    (bound|unbound), split, site, value, low, high, n. A curve over sites is followed at ONE site, the one where it is
    largest at the last checkpoint: looked for there, its height there is not to be claimed without `null_p_max`.
    share = (value - value at the first checkpoint) / (maximum - that), NaN for a curve that never rises above it.
    Raises NotFound.
    """
    import pandas as pd

    parts, missing, tables = [], [], {}
    for curve in CURVES:
        try:
            if curve.table not in tables:
                tables[curve.table] = read_table(run_dir, curve.table)
        except TableMissing as reason:
            if str(reason) not in missing:
                missing.append(str(reason))
            continue
        found = _followed(tables[curve.table], curve)
        if len(found):
            parts.append(found)
        else:
            missing.append(f"tables/{curve.table}.csv holds nothing of {curve.name}")
    if not parts:
        raise NotFound(f"no table of {run_dir} holds a curve: {'; '.join(missing)}")
    table = pd.concat(parts, ignore_index=True)
    return with_shares(table.assign(total_step=total_steps(table))), missing


def with_shares(table):
    """The curves with `maximum` and `share` of each, see `curves_of`."""
    table = table.sort_values("total_step", kind="stable")
    groups = table.groupby(["curve", "relation"], sort=False).value
    first, maximum = groups.transform("first"), groups.transform("max")
    return table.assign(
        maximum=maximum, share=((table.value - first) / (maximum - first)).where(maximum > first)
    )


def _followed(table, curve: Curve):
    """Rows of one curve, bound and unbound, one a checkpoint."""
    import pandas as pd

    table = pick(table, **curve.rows)
    table = pick(table, split=headline_split(table), relation=("bound", "unbound"))
    sides = [
        at_largest_site(side) if "site" in side else side
        for _, side in table.groupby("relation", sort=False)
    ]
    kept = [
        c for c in (*STAGE, "relation", "split", "site", "value", "low", "high", "n") if c in table
    ]
    return pd.concat([table.iloc[:0], *sides])[kept].assign(curve=curve.name)


def total_steps(table) -> Array:
    """Steps since the base model, from phase and step within it; phases follow each other at their last step."""
    ends = {phase: table[table.phase == phase].step.max() for phase in PHASES}
    before, total = {}, 0.0
    for phase in PHASES:
        before[phase] = total
        total += 0.0 if np.isnan(ends[phase]) else float(ends[phase])
    return table.phase.map(before).to_numpy(dtype=float) + table.step.to_numpy(dtype=float)


def half_way(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """(step at which a curve first comes half of the way from its first value to its maximum, the measured steps
    just before and at it).

    steps: (k,) rising; values: (k,). Between two measured steps the curve is taken as straight, so the first
    number is no finer than the other two are apart. NaN where the curve never rises above its first value.
    """
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    there = ~np.isnan(values)
    steps, values = steps[there], values[there]
    if len(values) < 2 or values.max() <= values[0]:
        return (np.nan,) * 3
    level = (values[0] + values.max()) / 2
    i = int(np.argmax(values >= level))
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return (
        float(steps[i - 1] + share * (steps[i] - steps[i - 1])),
        float(steps[i - 1]),
        float(steps[i]),
    )


def half_ways(curves):
    """One row a curve and relation side: half_step, between (step_before, step_after), maximum, reason."""
    import pandas as pd

    rows = []
    for (name, side), curve in curves.groupby(["curve", "relation"], sort=False):
        curve = curve.sort_values("total_step")
        step, before, after = half_way(curve.total_step, curve.value)
        reason = "" if step == step else "it never rises above its value at the first checkpoint"
        if (
            step == step
            and "low" in curve
            and curve.low.loc[curve.value.idxmax()] <= curve.value.iloc[0]
        ):
            step, before, after = (np.nan,) * 3
            reason = "the interval of its maximum holds its first value: no rise to be dated"
        rows.append(
            {
                "curve": name,
                "relation": side,
                "measure": "half_step",
                "value": step,
                "step_before": before,
                "step_after": after,
                "start": curve.value.iloc[0],
                "maximum": curve.value.max(),
                "site": curve.site.iloc[0] if "site" in curve else np.nan,
                "n_checkpoints": len(curve),
                "reason": reason,
            }
        )
    return pd.DataFrame(rows)


def mean_curves(runs: Sequence):
    """Curves of several runs as one: means and 95% t intervals over seeds at each step that all of them have.

    runs: a table of curves each, see `curves_of`. Columns value, low, high and n_seeds; share, share_low, share_high and
    n_rising, over the runs in which the curve rises, each a share of its own maximum there, so that seeds that differ
    in height and not in time agree; maximum, their mean. The site may be another one in each run and is left out.
    """
    import pandas as pd

    key = [*STAGE, "total_step", "curve", "relation", "split"]
    rows = []
    for values, group in pd.concat(runs, ignore_index=True).groupby(key, sort=False, dropna=False):
        known, shares = group.value.dropna(), group.share.dropna()
        if len(known) < len(runs):
            continue
        found = dict(zip(("value", "low", "high", "n_seeds"), _mean(known), strict=True))
        found |= dict(
            zip(("share", "share_low", "share_high", "n_rising"), _mean(shares), strict=True)
        )
        rows.append(dict(zip(key, values, strict=True)) | found | {"maximum": group.maximum.mean()})
    return pd.DataFrame(rows)


def _mean(values) -> tuple[float, float, float, int]:
    """(mean, the ends of its 95% t interval, n); NaN where there are too few."""

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return (float(values.mean()) if len(values) else np.nan), np.nan, np.nan, len(values)
    interval = mean_interval(values)
    return float(values.mean()), float(interval.low), float(interval.high), len(values)


def over_runs(table):
    """Mean half-way step of each curve with its 95% t interval over seeds; n_seeds those in which the curve rises."""
    import pandas as pd

    rows = []
    for (name, side), group in table.groupby(["curve", "relation"], sort=False):
        mean, low, high, n = _mean(group.value.dropna())
        reason = "" if n == len(group) else f"{len(group) - n} run(s) where it never rises"
        row = {"curve": name, "relation": side, "measure": "half_step", "n_seeds": n}
        rows.append(row | {"value": mean, "low": low, "high": high, "reason": reason})
    return pd.DataFrame(rows)


def half_way_lines(table) -> list[str]:
    """The order in which the curves rise, in words."""
    seeds = "n_seeds" in table
    lines = ["half of the way from the base to each one's own maximum, in steps since the base"]
    lines[0] += (
        " (mean and 95% interval over seeds)"
        if seeds
        else " (between the checkpoints before and after)"
    )
    for row in table.sort_values("value", kind="stable").itertuples():
        what = f"  {row.curve}, {row.relation}".ljust(58)
        if row.value != row.value:
            lines.append(f"{what}{row.reason}")
        elif seeds:
            low, high = getattr(row, "low", np.nan), getattr(row, "high", np.nan)
            interval = f"[{low:.0f}, {high:.0f}]" if low == low else "(one seed: no interval)"
            lines.append(f"{what}{row.value:6.0f} {interval}  n={row.n_seeds}")
        else:
            lines.append(f"{what}{row.value:6.0f} ({row.step_before:.0f} to {row.step_after:.0f})")
    return lines
