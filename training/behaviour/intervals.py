"""From one value per subject (or object, or mother) to rows of a table: interval, chance, p."""

from collections.abc import Mapping

import numpy as np

DEALS = 999


def subject_interval(values) -> dict:
    """Mean, standard error and 95% t interval of one value per subject; no interval for one."""
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return {"value": mean, "se": error, "low": mean - half, "high": mean + half, "n": n}


def dealt_p(observed: float, dealt: np.ndarray) -> float:
    """One-sided permutation p: how often chance does as well; dealt: (DEALS,) draws of the null."""
    return (1 + np.sum(dealt >= observed - 1e-12)) / (1 + len(dealt))


def measure_rows(values: Mapping[str, np.ndarray], *, chance: float, null_p: float) -> list[dict]:
    """A row per measure, with the mean and t interval of its values (n,).

    chance and null_p belong to the first measure; the others have none.
    """
    rows = [{"measure": measure, **subject_interval(some)} for measure, some in values.items()]
    for place, row in enumerate(rows):
        del row["se"]
        row |= {"chance": np.nan if place else chance, "null_p": np.nan if place else null_p}
    return rows
