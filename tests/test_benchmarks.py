"""The benchmarks run and measure what they name; docs/measures.md is what they and MEASURES say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.measures.similarity import MEASURES, linear_cka
from benchmarks import calibration, page, planted, similarity

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmarks"


# --- the page


def test_the_page_is_what_the_declarations_and_the_tables_say():
    text = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")
    assert page.filled(text, RESULTS) == text, (
        "docs/measures.md is out of date: python -m benchmarks.page"
    )
    assert all(f"| `{m.name}` |" in text for m in MEASURES)


def test_a_changed_declaration_changes_the_page(monkeypatch):
    from dataclasses import replace

    from analysis.measures import similarity as library

    before = page.measures(RESULTS)
    monkeypatch.setattr(library, "MEASURES", (replace(MEASURES[0], minimum_n=77), *MEASURES[1:]))
    changed = [
        new
        for new, old in zip(page.measures(RESULTS).split("\n"), before.split("\n"), strict=True)
        if new != old
    ]
    assert len(changed) == 1
    assert "| 77 |" in changed[0]


def test_a_page_that_asks_for_no_known_table_is_refused(tmp_path):
    with pytest.raises(page.UnknownTable, match="'nonsense'"):
        page.filled("<!-- table nonsense -->\n<!-- end -->", RESULTS)
    with pytest.raises(page.BenchmarkMissing, match="python -m benchmarks.planted"):
        page.filled("<!-- table planted -->\n<!-- end -->", tmp_path)


# --- the committed tables


def test_the_committed_planted_truth_is_of_fifty_draws_with_its_error_rates():
    table = pd.read_csv(RESULTS / "planted.csv").set_index("kind")
    assert set(table.index) == set(planted.KINDS)
    assert (table.draws >= 50).all()
    assert (table.error_rate <= 0.06).all()


def test_the_committed_rates_are_where_they_should_be():
    table = pd.read_csv(RESULTS / "calibration.csv")
    kept = table[table.check == "rejection"]
    # Nominal .05 within .02, beside what so many draws leave open.
    assert (kept.low <= 0.07).all()
    assert (kept.high >= 0.03).all()
    coverage = table[table.check == "coverage"]
    assert sorted(set(coverage.n)) == [40, 80, 150, 400]
    assert coverage.groupby("setting").size().tolist() == [4, 4]
    assert coverage.value.min() > 0.8


# --- what they measure


def test_the_population_value_of_the_coverage_is_what_many_rows_give():
    rng = np.random.default_rng(0)
    for massive in (False, True):
        x, y, truth = calibration.related_states(rng, 20_000, massive=massive)
        assert linear_cka(x, y) == pytest.approx(truth, abs=0.02)


def test_a_small_calibration_writes_its_table(tmp_path, capsys):
    table = calibration.main(
        calibration.Options(
            repetitions=2, permutations=19, only=("coverage", "chance"), out=tmp_path
        )
    )
    written = pd.read_csv(tmp_path / "calibration.csv")
    assert list(written.setting) == list(table.setting)
    assert (written.repetitions == 2).all()
    rates = written[written.check == "coverage"]
    assert ((rates.low <= rates.value) & (rates.value <= rates.high)).all()
    assert "coverage" in capsys.readouterr().out


def test_a_small_speed_table_has_every_ratio_and_the_closed_form_beats_refitting(tmp_path):
    options = similarity.Options(
        sites=4, rows=120, width=40, pairs=4, timed_draws=60, repeats=3, out=tmp_path
    )
    table = similarity.main(options).set_index("quantity")
    assert (table.ratio.dropna() > 0).all()
    assert table.ratio["jackknife by refitting / closed form"] > 3
    assert set(table.wanted.dropna()) == {"at least 10", "at most 2", "at most 20"}


@pytest.mark.parametrize(("rows", "width"), [(60, 90), (90, 6)])
def test_the_products_that_the_grid_is_held_against_are_those_of_its_route(
    rows, width, monkeypatch
):
    from analysis.measures import hsic

    options = similarity.Options(sites=3, rows=rows, width=width)
    xs, ys = similarity.states(options)
    taken = []
    monkeypatch.setattr(
        hsic, "_grid_by_features", lambda *_: taken.append("features") or np.ones((3, 3))
    )
    hsic.grid_hsic1(xs, ys)
    assert similarity.uses_grams(xs, ys) == (not taken)


def test_the_memory_of_the_grid_grows_with_the_rows_and_not_with_their_square(monkeypatch):
    from analysis.measures import hsic

    monkeypatch.setattr(hsic, "BLOCK_ELEMENTS", 200_000)
    peaks = []
    for rows in (500, 1000):
        xs, ys = similarity.states(similarity.Options(sites=4, rows=rows, width=400))
        assert similarity.uses_grams(xs, ys)
        peaks.append(similarity.memory_rows(xs, ys)[0]["megabytes"])
    assert peaks[1] < 2.5 * peaks[0]
