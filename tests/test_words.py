"""Numbers are written one way: two places, no zero before the point, nothing for NaN."""

from types import SimpleNamespace

import pytest

from training.base.words import p_words, span, two_places

NAN = float("nan")


def row(value, low, high):
    return SimpleNamespace(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (two_places(0.42), ".42"),
        (two_places(-0.05), "-.05"),
        (two_places(1.0), "1.00"),
        (two_places(10.05), "10.05"),
        (two_places(NAN), ""),
        (two_places(0.42, sign=True), "+0.42"),
        (span(row(0.42, 0.31, 0.53)), ".42 [.31, .53]"),
        (span(row(0.42, NAN, NAN)), ".42"),
        (span(row(NAN, NAN, NAN)), ""),
        (span(row(0.42, -0.1, 0.53), sign=True), "+0.42 [-0.10, +0.53]"),
        (p_words(0.005), "p .005"),
        (p_words(1.0), "p 1.000"),
        (p_words(NAN), ""),
    ],
)
def test_how_a_number_is_written(written, text):
    assert written == text
