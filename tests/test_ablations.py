"""Conditions are compared over seeds, paired by seed; a planted difference is found."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.ablations import Options, main
from analysis.across.conditions import (
    NoConditions,
    ablation_lines,
    compare,
    conditions_of,
    labels_of,
    values_of,
)
from analysis.across.curves import training_history
from analysis.across.endpoints import ENDPOINTS, GAP, LEVELS, TEST
from analysis.curves import Options as CurveOptions
from analysis.curves import main as draw_curves
from analysis.measures.statistics import holm, mean_interval, paired_difference, share_interval
from figures.across import ablations_data
from training.base.errors import NotFound, UserError
from training.grid.rows import headline_rows
from training.runs.table_files import read_table


def sweep_table(values: dict, seeds=None) -> pd.DataFrame:
    """values: (people, relation) -> a value a seed."""
    return pd.DataFrame(
        [
            {
                "run": f"r{people}{seed}",
                "condition": "",
                "generalize.people": people,
                "memorize.seed": seed,
                "seed": seed,
                "table": "recall",
                "phase": "generalize",
                "checkpoint": None,
                "relation": relation,
                "family": "test",
                "subset": "all",
                "split": "held-out",
                "measure": "generation",
                "value": value,
            }
            for (people, relation), every in values.items()
            for seed, value in enumerate(every, start=1)
            if seeds is None or seed in seeds
        ]
    )


def compared(table, endpoint=TEST, **how) -> pd.DataFrame:
    labelled = table.assign(label=labels_of(table, ["generalize.people"]))
    return pd.DataFrame(compare(values_of(labelled, endpoint, ["seed"]), endpoint, **how))


values = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=4, max_size=8)


@settings(deadline=None, max_examples=25)
@given(values, st.floats(-0.5, 0.5, allow_subnormal=False))
def test_a_constant_added_to_every_seed_is_the_difference_whatever_the_seeds_are(some, shift):
    found = compared(sweep_table({(1, "bound"): some, (50, "bound"): [v + shift for v in some]}))
    difference = found[found.kind == "difference"].iloc[0]
    assert difference.value == pytest.approx(shift, abs=1e-12)
    assert difference.high - difference.low == pytest.approx(0, abs=1e-9)


def test_means_intervals_and_p_values_are_those_of_the_statistics_module():
    rng = np.random.default_rng(0)
    a, b, c = rng.uniform(size=(3, 6))
    found = compared(sweep_table({(1, "bound"): a, (2, "bound"): b, (50, "bound"): c}))
    first = found[found.kind == "condition"].iloc[0]
    interval = mean_interval(a)
    assert (first.value, first.low, first.high) == pytest.approx(
        (interval.value, interval.low, interval.high)
    )
    differences = found[found.kind == "difference"]
    p = [paired_difference(x, a).p for x in (b, c)]
    assert list(differences.p) == pytest.approx(p)
    assert list(differences.p_holm) == pytest.approx(list(holm(p)))


def test_rows_of_one_seed_are_not_more_seeds():
    table = sweep_table({(1, "bound"): [0.1, 0.4, 0.3, 0.2]})
    once, often = compared(table), compared(pd.concat([table] * 20, ignore_index=True))
    pd.testing.assert_frame_equal(once, often)


def test_only_seeds_that_both_conditions_have_are_paired():
    table = pd.concat(
        [
            sweep_table({(1, "bound"): [0.1, 0.2, 0.3, 0.4, 0.5]}),
            sweep_table({(2, "bound"): [0.3] * 5}, seeds=(1, 2, 5)),
        ]
    )
    difference = compared(table).iloc[-1]
    assert difference.n_seeds == 3
    assert difference.value == pytest.approx(np.mean([0.2, 0.1, -0.2]))


def test_the_gap_is_taken_seed_by_seed():
    bound, unbound = [0.9, 0.5, 0.7], [0.5, 0.1, 0.6]
    found = compared(
        sweep_table({(1, "bound"): bound, (1, "unbound"): unbound}), replace(TEST, relation=GAP)
    )
    expected = mean_interval(np.subtract(bound, unbound))
    assert (found.value[0], found.low[0]) == pytest.approx((expected.value, expected.low))


def test_the_last_phase_and_the_held_out_subjects_are_compared():
    table = sweep_table({(1, "bound"): [0.8, 0.9]})
    distraction = pd.concat(
        [table.assign(phase="memorize", value=0.0), table.assign(split="seen", value=1.0)]
    )
    pd.testing.assert_frame_equal(
        compared(table), compared(pd.concat([distraction, table], ignore_index=True))
    )


def test_a_change_is_after_phase_2_minus_before_it_in_the_same_run():
    after = sweep_table(
        {(1, "bound"): [0.5, 0.9], (1, "unbound"): [0.3, 0.3], (50, "bound"): [0.6, 0.7]}
    )
    before = sweep_table({(1, "bound"): [0.4, 0.6], (1, "unbound"): [0.4, 0.2]}).assign(
        phase="memorize"
    )
    table = pd.concat([after, before], ignore_index=True)
    endpoint = replace(TEST, change=True)
    found = compared(table, endpoint)
    # Nothing is known before phase 2 of the runs with fifty people.
    assert list(found.label) == ["generalize.people 1"]
    expected = mean_interval(np.array([0.1, 0.3]))
    assert (found.value[0], found.low[0]) == pytest.approx((0.2, expected.low))
    gap = compared(table, replace(endpoint, relation=GAP))
    assert gap.value[0] == pytest.approx(((0.1 - -0.1) + (0.3 - 0.1)) / 2)


def test_of_a_sweep_that_kept_every_checkpoint_the_last_is_compared():
    last = sweep_table({(1, "bound"): [0.8, 0.9]}).assign(checkpoint="200-generalize-epoch-02")
    way = last.assign(checkpoint="200-generalize-epoch-01", value=0.1)
    table = pd.concat([way, last], ignore_index=True)
    pd.testing.assert_frame_equal(compared(last), compared(table))
    before = last.assign(phase="memorize", checkpoint="100-memorize-epoch-09", value=0.5)
    found = compared(pd.concat([before, table], ignore_index=True), replace(TEST, change=True))
    assert found.value[0] == pytest.approx(0.35)


def test_yes_and_no_have_the_intervals_of_shares_and_an_exact_p():
    table = sweep_table({(1, "bound"): [1.0] * 10, (50, "bound"): [0.0] * 10})
    found = compared(table, replace(TEST, yes_no=True))
    # All of ten: from the exact interval, (alpha / 2) ** (1 / 10).
    assert (found.low[0], found.high[0]) == pytest.approx((0.025**0.1, 1))
    assert (found.value[1], found.high[1]) == pytest.approx((0, 1 - 0.025**0.1))
    difference = found[found.kind == "difference"].iloc[0]
    assert difference.p == pytest.approx(2 * 0.5**10)
    assert -1 <= difference.low < difference.value + 0.5
    assert difference.high < 0


def test_the_interval_of_a_share_covers_it():
    rng = np.random.default_rng(0)
    draws = [share_interval((rng.random(12) < 0.15).astype(float)) for _ in range(500)]
    assert np.mean([d.low <= 0.15 <= d.high for d in draws]) >= 0.95


def test_few_seeds_make_no_claim():
    rng = np.random.default_rng(1)
    many = {(k, "bound"): rng.uniform(size=5) for k in range(6)}
    found = compared(sweep_table(many))
    assert found[found.kind == "difference"].reason.str.contains("too few for a claim").all()
    three = compared(sweep_table({k: v[:3] for k, v in many.items()}))
    assert three[three.kind == "difference"].p.isna().all()
    enough = compared(sweep_table({(k, "bound"): rng.uniform(size=10) for k in range(6)}))
    assert (enough[enough.kind == "difference"].reason == "").all()


def test_another_reference_turns_the_sign_and_one_without_the_endpoint_is_compared_with_nothing():
    table = sweep_table({(1, "bound"): [0.1, 0.2, 0.4], (50, "bound"): [0.6, 0.5, 0.7]})
    forth = compared(table).iloc[-1]
    back = compared(table, against="generalize.people 50").iloc[-1]
    assert (back.value, back.low, back.high) == pytest.approx(
        (-forth.value, -forth.high, -forth.low)
    )
    assert set(compared(table, against="nothing like it").kind) == {"condition"}


def test_repetitions_are_no_conditions():
    table = sweep_table({(1, "bound"): [0.1, 0.2], (50, "bound"): [0.3, 0.4]})
    assert conditions_of(table, (), ("seed",), {}) == ["generalize.people"]
    assert conditions_of(table, (), ("generalize.people",), {}) == ["memorize.seed"]
    record = {"axes": ["generalize.people", "memorize.seed"], "repeats": ["generalize.people"]}
    assert conditions_of(table, (), ("seed",), record) == []
    named = table.assign(condition=table["generalize.people"].map({1: "few", 50: "many"}))
    assert conditions_of(named, (), ("seed",), {}) == ["condition"]
    with pytest.raises(NoConditions, match="no column nonsense"):
        conditions_of(table, ("nonsense",), ("seed",), {})


@pytest.fixture
def results(tmp_path):
    rng = np.random.default_rng(2)
    effect = {k: 0.2 + 0.1 * i for i, k in enumerate((1, 5, 50))}
    table = sweep_table(
        {
            (k, side): e * (side == "bound") + rng.normal(0, 0.01, 5)
            for k, e in effect.items()
            for side in ("bound", "unbound")
        }
    )
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables" / "sweep.csv", index=False)
    (tmp_path / "run.json").write_text(json.dumps({"axes": ["memorize.seed", "generalize.people"]}))
    return tmp_path


def test_an_unknown_reference_is_refused_and_the_conditions_named(results):
    with pytest.raises(
        NoConditions, match=r"no condition 'nothing like it'; there are: generalize\.people"
    ):
        main(Options(results, against="nothing like it"))


def test_a_table_of_ones_own_becomes_a_table_words_and_a_picture(results, capsys):
    table = main(Options(results))
    said = capsys.readouterr().out
    (left_out,) = [
        line for line in said.splitlines() if line.startswith("left out, no rows in the table: ")
    ]
    assert "probe transfer, rote to test, bound;" in left_out
    assert "recall, test prompts" not in left_out
    assert set(table.endpoint) == {"recall, test prompts"}
    assert set(table.relation) == {"bound", GAP}
    written = read_table(results, "ablations")
    assert list(written.value) == pytest.approx(list(table.value), abs=1e-6)
    assert (results / "figures" / "ablations.png").stat().st_size > 10_000
    data, axis = ablations_data(written)
    assert axis == "generalize.people"
    assert list(data[data.relation == "bound"].x) == [1, 5, 50]
    words = ablation_lines(table)
    assert any("generalize.people 50" in line and "+0.20" in line for line in words)


def test_a_table_without_splits_phases_and_relations_is_enough(tmp_path):
    rows = [
        {
            "run": f"{name}{seed}",
            "condition": name,
            "seed": seed,
            "measure": "score",
            "value": value,
        }
        for name, values in {"a": (9, 10, 11), "b": (20.05, 20.05, 20.05)}.items()
        for seed, value in enumerate(values)
    ]
    (tmp_path / "tables").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "tables" / "sweep.csv", index=False)
    table = main(Options(tmp_path, measure="score"))
    assert list(table.value) == pytest.approx([10, 20.05, 10.05])
    assert "+10.05 [" in "\n".join(ablation_lines(table))
    with pytest.raises(NoConditions, match="no rows of recall, keyword-free"):
        main(Options(tmp_path))


def test_one_seed_is_said_in_words_without_an_interval(results, capsys):
    """What `make experiments REPETITIONS=1` comes to."""
    path = results / "tables" / "sweep.csv"
    table = pd.read_csv(path)
    table[table.seed == table.seed.min()].to_csv(path, index=False)
    (path.parent / "manifest.json").unlink(missing_ok=True)
    found = main(Options(results))
    assert found.low.isna().all() and found.high.isna().all()
    assert found[found.kind == "condition"].value.notna().all()
    assert set(found[found.kind == "difference"].reason) == {"fewer than two seeds in common"}
    assert "fewer than two seeds in common" in capsys.readouterr().out


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, *LEVELS], ids=str)
def test_a_sweep_keeps_the_rows_of_every_endpoint(endpoint):
    row = {"phase": "generalize", "checkpoint": "200-generalize-epoch-01", "value": 0.5}
    row |= {"relation": endpoint.relation or "bound", "split": "held-out", **endpoint.rows}
    if endpoint.relation == GAP:
        row["relation"] = "bound"
    assert len(headline_rows(pd.DataFrame([row]), name=endpoint.table)) == 1


def test_without_a_sweep_the_command_to_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"python -m training\.sweep"):
        main(Options(tmp_path))


# --- curves ---------------------------------------------------------------------------------------


def trained(run: str, tokens: dict, phase: str, start: str) -> list[dict]:
    """tokens: checkpoint -> tokens of its phase so far."""
    row = {
        "run": run,
        "table": "training",
        "measure": "tokens_so_far",
        "phase": phase,
        "reference": start,
    }
    return [{**row, "checkpoint": name, "value": value} for name, value in tokens.items()]


def kept(label: str, run: str, seed: int, values: dict) -> list[dict]:
    """values: checkpoint -> recall at test prompts, bound."""
    names = {"1": "memorize", "2": "generalize", "0": "base"}
    common = {**TEST.rows, "relation": "bound", "split": "held-out", "run": run, "condition": label}
    return [
        {
            **common,
            "seed": seed,
            "checkpoint": c,
            "phase": names[c[0]],
            "step": float(i),
            "value": v,
        }
        for i, (c, v) in enumerate(values.items())
    ]


@pytest.fixture
def along_the_way(tmp_path):
    """Two conditions, two seeds: two stages, and a phase 2 that starts from the base model."""
    rows = []
    for seed in (1, 2):
        two, one = f"two{seed}", f"one{seed}"
        memorised = {"100-memorize-epoch-01": 100, "100-memorize-epoch-02": 200}
        rows += trained(two, memorised, "memorize", "000-base") + trained(
            one, memorised, "memorize", "000-base"
        )
        rows += trained(
            two, {"200-generalize-epoch-01": 50 + 10 * seed}, "generalize", "100-memorize-epoch-02"
        )
        rows += trained(
            one, {f"200-generalize-epoch-0{i}": 90 * i for i in (1, 2, 3)}, "generalize", "000-base"
        )
        up = {"000-base": 0.0, "100-memorize-epoch-01": 0.2, "100-memorize-epoch-02": 0.5}
        rows += kept("two stages", two, seed, {**up, "200-generalize-epoch-01": 0.7 + 0.1 * seed})
        rows += kept(
            "one stage",
            one,
            seed,
            {**up, **{f"200-generalize-epoch-0{i}": 0.3 * i for i in (1, 2, 3)}},
        )
    labels = {
        f"{name}{seed}": (label, seed)
        for name, label in (("two", "two stages"), ("one", "one stage"))
        for seed in (1, 2)
    }
    table = pd.DataFrame(rows)
    table["condition"] = [labels[run][0] for run in table.run]
    table["seed"] = [labels[run][1] for run in table.run]
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables" / "sweep.csv", index=False)
    return tmp_path


def test_tokens_are_counted_through_the_phases_that_the_weights_rest_on(along_the_way):
    history = training_history(pd.read_csv(along_the_way / "tables" / "sweep.csv"))
    phases = {"base", "memorize", "generalize"}
    assert history["two1", "200-generalize-epoch-01"] == (200 + 60, phases)
    assert history["two2", "200-generalize-epoch-01"] == (200 + 70, phases)
    assert history["one1", "200-generalize-epoch-03"] == (270, phases - {"memorize"})


def test_curves_go_through_the_checkpoints_that_the_last_one_rests_on(along_the_way, capsys):
    table = draw_curves(CurveOptions(along_the_way))
    two = table[table.label == "two stages"]
    assert list(two.tokens) == [0, 100, 200, 265]
    assert two.value.iloc[-1] == pytest.approx(0.85)
    expected = mean_interval(np.array([0.8, 0.9]))
    assert two.low.iloc[-1] == pytest.approx(expected.low)
    one = table[table.label == "one stage"]
    assert list(one.tokens) == [0, 90, 180, 270]
    assert list(one.phase) == ["base"] + ["generalize"] * 3
    assert "one stage: .00 at 0 tokens -> .90 at 270 tokens" in capsys.readouterr().out
    assert (along_the_way / "figures" / "curves.png").stat().st_size > 10_000


def test_a_sweep_without_checkpoints_on_the_way_says_how_to_keep_them(results):
    with pytest.raises(NotFound, match=r"checkpoint = \[\"all\"\]"):
        draw_curves(CurveOptions(results))
