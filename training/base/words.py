"""training.base.words"""

import numpy as np


def two_places(value: float) -> str:
    """`.42`, `-.05`, `1.00`; empty for NaN."""
    return "" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)


def span(row, sign: bool = False) -> str:
    """`.42 [.31, .53]` of a table row; the value alone where it has no interval.

    sign: `+0.42 [+0.31, +0.53]`, for differences.
    """
    if sign:
        return f"{row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
    interval = "" if np.isnan(row.low) else f" [{two_places(row.low)}, {two_places(row.high)}]"
    return two_places(row.value) + interval


def p_words(value: float) -> str:
    """`p .005`; empty for NaN."""
    return "" if np.isnan(value) else f"p {value:.3f}".replace("0.", ".", 1)


def _span(row) -> str:
    return f"{row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"


def _p(value: float) -> str:
    return "" if not np.isfinite(value) else f"p {value:.3f}".replace("0.", ".")
