"""How a number is written: two places without a zero before the point, nothing for NaN.

With `sign=True`, for differences: `+0.42`, a sign and the zero.
"""

import math
import re


def two_places(value: float, *, sign: bool = False) -> str:
    """`.42`, `-.05`, `1.00`; signed `+0.42`; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:+.2f}" if sign else _without_zero(f"{value:.2f}")


def span(row, *, sign: bool = False) -> str:
    """`.42 [.31, .53]` of a row with value, low and high; without an interval if that is NaN."""
    value, low, high = (two_places(v, sign=sign) for v in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]" if value and low else value


def p_words(value: float) -> str:
    """`p .005`; empty for NaN."""
    return _without_zero(f"p {value:.3f}") if math.isfinite(value) else ""


def _without_zero(text: str) -> str:
    """`0.42` without the zero before its point; `10.05` keeps its own."""
    return re.sub(r"(?<!\d)0\.", ".", text, count=1)
