"""Half-way steps are those of the curve, and say how far apart the checkpoints are."""

import numpy as np
import pandas as pd
import pytest

from analysis.across.trajectory import (
    curves_of,
    half_way,
    half_way_lines,
    half_ways,
    mean_curves,
    over_runs,
    with_shares,
)
from analysis.measures.statistics import mean_interval
from analysis.trajectory import Options, main
from figures.style import NothingToDraw
from figures.trajectory import panel_data
from training.base.errors import BadInput, NotFound, UserError
from training.generalize import dense_steps
from training.runs.table_files import read_table


def test_half_way_lies_between_the_checkpoints_around_it_and_on_the_line_that_joins_them():
    assert half_way([0, 100, 200], [0.0, 0.2, 0.8]) == pytest.approx(
        (100 + 100 * 0.2 / 0.6, 100, 200)
    )


def test_half_way_counts_from_the_first_value_and_not_from_zero():
    assert half_way([0, 10], [0.5, 0.7])[0] == pytest.approx(5)


def test_scale_and_offset_of_a_curve_leave_its_half_way_step_alone():
    rng = np.random.default_rng(0)
    steps, values = np.arange(9.0), rng.normal(size=9)
    values[0] = values.min() - 0.1
    assert half_way(steps, 3 * values + 2) == pytest.approx(half_way(steps, values))


def test_a_curve_that_only_falls_has_no_half_way_step():
    assert np.isnan(half_way([0, 1, 2], [0.5, 0.4, 0.1])).all()


def test_a_missing_value_is_passed_over():
    assert half_way([0, 1, 2], [0.0, np.nan, 1.0]) == pytest.approx((1, 0, 2))


def table_of(steps, values, site="resid_post.1", phase="generalize"):
    return pd.DataFrame(
        {
            "curve": "c",
            "relation": "bound",
            "total_step": steps,
            "value": values,
            "site": site,
            "phase": phase,
        }
    )


def test_the_interval_of_a_half_way_step_counts_seeds():
    each = [half_ways(table_of([0, 10], [0.0, 1.0])), half_ways(table_of([0, 30], [0.0, 1.0]))]
    summary = over_runs(pd.concat(each))
    expected = mean_interval(np.array([5.0, 15.0]))
    assert (summary.value[0], summary.n_seeds[0]) == (10, 2)
    assert (summary.low[0], summary.high[0]) == pytest.approx((expected.low, expected.high))
    assert "10" in half_way_lines(summary)[1]


def test_the_curve_of_several_runs_is_their_mean_where_all_have_a_checkpoint():
    stage = {
        "checkpoint": ["000-base", "200-generalize-epoch-01"],
        "phase": ["base", "generalize"],
        "epoch": [0, 1],
    }
    runs = [
        table_of([0, 10], values).assign(**stage, step=[0, 10], split="held-out")
        for values in ([0, 0.4], [0.2, 1.0])
    ]
    runs[0] = pd.concat(
        [runs[0], runs[0].tail(1).assign(total_step=20, checkpoint="later", value=0.3)]
    )
    found = mean_curves([with_shares(run) for run in runs])
    expected = mean_interval(np.array([0.4, 1.0]))
    assert list(found.value) == pytest.approx([0.1, 0.7])
    assert list(found.n_seeds) == [2, 2]
    assert (found.low[1], found.high[1]) == pytest.approx((expected.low, expected.high))
    # Seeds that differ in height alone agree in their shares, and so the band is empty.
    drawn = panel_data(found)
    assert (
        list(drawn.share)
        == list(drawn.share_low)
        == list(drawn.share_high)
        == pytest.approx([0, 1])
    )


def test_a_table_without_shares_says_how_to_get_them():
    with pytest.raises(NothingToDraw, match="analysis.trajectory"):
        panel_data(table_of([0, 10], [0.0, 1.0]).assign(split="held-out"))


def test_a_share_is_of_the_curves_own_way_and_a_fall_has_none():
    rising, falling = (
        with_shares(table_of([0, 10, 20], v)) for v in ([0.2, 1.0, 0.6], [0.5, 0.2, 0.1])
    )
    assert list(rising.share) == pytest.approx([0, 1, 0.5])
    assert set(rising.maximum) == {1.0}
    assert falling.share.isna().all()


def test_a_curve_over_sites_is_followed_at_one_site(tmp_path):
    (tmp_path / "tables").mkdir()
    rows = [
        {
            "checkpoint": name,
            "phase": phase,
            "epoch": 1,
            "step": step,
            "relation": "bound",
            "split": "held-out",
        }
        | {
            "family": "test",
            "measure": "contrast",
            "site": site,
            "value": value,
            "low": 0,
            "high": 1,
            "n": 40,
        }
        for name, phase, step, values in (
            ("000-base", "base", 0, (0.5, 0.0)),
            ("100-memorize-epoch-01", "memorize", 20, (0.1, 0.2)),
            ("200-generalize-epoch-01", "generalize", 6, (0.2, 0.4)),
        )
        for site, value in zip(("embed", "resid_post.0"), values, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "tables" / "cka.csv", index=False)
    from training.base.files import seal

    seal(tmp_path / "tables", ["cka.csv"])
    curves, missing = curves_of(tmp_path)
    assert set(curves.site) == {"resid_post.0"}
    assert list(curves.total_step) == [0, 20, 26]
    assert list(panel_data(curves).share) == pytest.approx([0, 0.5, 1])
    assert any("training.recall" in reason for reason in missing)


def test_a_run_without_tables_says_what_to_run(tmp_path):
    with pytest.raises(NotFound, match="training.recall"):
        curves_of(tmp_path)


def test_a_real_run_is_followed_from_its_tables(own_run):
    table = main(Options((own_run,)))
    curves = read_table(own_run, "trajectory")
    recalled = read_table(own_run, "recall")
    recalled = recalled[
        (recalled.measure == "generation")
        & (recalled.subset == "all")
        & (recalled.family == "rote")
    ]
    recalled = recalled[(recalled.split == "held-out") & (recalled.relation == "bound")]
    rote = curves[(curves.curve == "recall, rote prompts") & (curves.relation == "bound")]
    assert list(rote.value) == list(recalled.value)
    assert (np.diff(rote.total_step) > 0).all()
    assert set(table.curve) >= {"recall, rote prompts", "recall, test prompts"}
    assert (own_run / "figures" / "trajectory.png").exists()
    with pytest.raises(BadInput, match="--out"):
        main(Options((own_run, own_run)))


def test_dense_checkpoints_lie_in_the_first_tenth():
    assert dense_steps(3, 60) == [2, 4, 6]
    assert dense_steps(10, 60) == [1, 2, 3, 4, 5, 6]
    assert dense_steps(0, 60) == []
    with pytest.raises(UserError, match="--dense"):
        dense_steps(-1, 60)
