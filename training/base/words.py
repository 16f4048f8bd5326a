"""How a number is written, in one place. Signed numbers, which are differences, keep their zero.

    two_places(0.42)               .42         two_places(-0.03, sign=True)               -0.03
    interval(0.42, 0.31, 0.53)     .42 [.31, .53]
    interval(0.42, 0.31, 0.53, sign=True)      +0.42 [+0.31, +0.53]
    p_words(0.005)                 p .005

What is not there (NaN) is not written: an empty text, or a value without its interval.
"""

import math
import re


def two_places(value: float, *, sign: bool = False) -> str:
    """`.42`, `-.05`, `1.00`; with `sign`: `+0.42`; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:+.2f}" if sign else _without_zero(f"{value:.2f}")


def interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """`.42 [.31, .53]`; the value alone where the interval is NaN; empty where the value is."""
    written = two_places(value, sign=sign)
    if not written or math.isnan(low):
        return written
    return f"{written} [{two_places(low, sign=sign)}, {two_places(high, sign=sign)}]"


def span(row, *, sign: bool = False) -> str:
    """`interval` of a table row with the fields value, low and high."""
    return interval(row.value, row.low, row.high, sign=sign)


def p_words(value: float) -> str:
    """`p .005`; empty for NaN."""
    return _without_zero(f"p {value:.3f}") if math.isfinite(value) else ""


def _without_zero(text: str) -> str:
    """`0.42` without the zero before its point; `10.05` keeps its own."""
    return re.sub(r"(?<!\d)0\.", ".", text, count=1)
