"""training.base.words"""

import numpy as np


def two_places(value: float, *, sign: bool = False) -> str:
    """`.42`, `-.05`, `1.00`; signed `+0.42`; empty for NaN."""
    if np.isnan(value):
        return ""
    if sign:
        return f"{value:+.2f}"
    text = f"{value:.2f}"
    return "-" + text[1:].removeprefix("0") if text[0] == "-" else text.removeprefix("0")


def span(row, *, sign: bool = False) -> str:
    """`.42 [.31, .53]` of a table row; the value alone where it has no interval."""
    value, low, high = (two_places(end, sign=sign) for end in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]" if low else value


def p_words(value: float) -> str:
    """`p .005`; empty for NaN."""
    return "" if np.isnan(value) else f"p {value:.3f}".replace("0.", ".", 1)


def _span(row) -> str:
    return f"{row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"


def _p(value: float) -> str:
    return "" if not np.isfinite(value) else f"p {value:.3f}".replace("0.", ".")
