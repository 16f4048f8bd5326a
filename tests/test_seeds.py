"""Several seeds become one table: a mean and an interval over seeds, never over rows."""

import numpy as np
import pandas as pd
import pytest

from analysis.across.seeds import headline, over_seeds
from analysis.measures.statistics import mean_interval
from analysis.seeds import Options as SeedOptions
from analysis.seeds import main
from training.base.errors import BadInput, Damaged

KEY = ["condition", "phase", "relation", "family", "subset", "split", "measure"]


def table_of(values_by_seed):
    row = dict(
        zip(
            KEY,
            ("two phases", "generalize", "bound", "test", "all", "held-out", "generation"),
            strict=True,
        )
    )
    return pd.DataFrame(
        [
            row | {"seed": seed, "value": v, "majority": 0.1}
            for seed, values in values_by_seed.items()
            for v in values
        ]
    )


def test_the_interval_counts_seeds_and_not_rows():
    table = over_seeds(table_of({1: [0.2] * 50, 2: [0.4] * 50, 3: [0.9] * 50}), KEY)
    expected = mean_interval(np.array([0.2, 0.4, 0.9]))
    assert len(table) == 1
    assert table.n_seeds[0] == 3
    assert table.value[0] == pytest.approx(0.5)
    assert (table.low[0], table.high[0]) == pytest.approx((expected.low, expected.high))
    assert (table.smallest[0], table.largest[0]) == pytest.approx((0.2, 0.9))


def test_the_headline_names_the_majority_guess_beside_the_value():
    lines = headline(over_seeds(table_of({1: [0.2], 2: [0.4]}), KEY))
    assert "commonest object: .10" in lines[0]
    assert " .30 [" in lines[1]


def test_one_seed_has_no_interval_and_is_refused(tiny_run, tmp_path):
    with pytest.raises(BadInput, match="at least two seeds"):
        main(SeedOptions((tiny_run,), tmp_path))


def test_folders_with_tables_alone_are_summarised_and_what_was_told_is_a_condition_of_its_own(
    tiny_run, tmp_path
):
    """The results of commands that were given --out hold tables and no run.json."""
    import shutil

    from figures.across import conditions
    from training import recall, reversal
    from training.base.files import read_json, seal
    from training.runs.table_files import read_table

    folders = []
    for context in ("none", "train"):
        first, second = tmp_path / f"{context}-1", tmp_path / f"{context}-2"
        asked = {"families": ("test",), "phases": ("base",), "choices": False}
        recall.main(recall.Options(tiny_run, context=context, out=str(first), **asked))
        reversal.main(reversal.Options(tiny_run, out=str(first)))
        shutil.copytree(first, second)
        for name in ("recall", "reversal"):
            path = second / "tables" / f"{name}.csv"
            pd.read_csv(path, keep_default_na=False, na_values=[""]).assign(seed=99).to_csv(
                path, index=False
            )
            seal(path.parent, [path.name])
        folders += [first, second]
    main(SeedOptions(tuple(folders), tmp_path / "out"))
    table = read_table(tmp_path / "out", "recall")
    assert set(table.condition) == {"two phases", "told in a train prompt"}
    assert set(table.n_seeds) == {2}
    seed = read_json(tiny_run / "run.json")["seed"]
    assert read_json(tmp_path / "out" / "run.json")["seeds"] == sorted({seed, 99})
    assert [s.label for s in conditions(table)] == ["base", "base, told in a train prompt"]
    assert set(read_table(tmp_path / "out", "reversal").measure) == {
        "reversal",
        "reversal_excess",
        "named",
    }
    with pytest.raises(BadInput, match="both hold seed"):
        main(SeedOptions((*folders, tiny_run), tmp_path / "out"))


def summary(folder):
    """A committed summary over two seeds, as `main` writes it."""
    from training.base.files import seal, write_json

    rows = []
    for phase, step in (("base", 0), ("memorize", 10), ("generalize", 5)):
        for side, gain in (("bound", 0.3), ("unbound", 0.1)):
            for family in ("rote", "test"):
                row = {
                    "condition": "two phases",
                    "phase": phase,
                    "relation": side,
                    "family": family,
                    "subset": "all",
                }
                row |= {"split": "held-out", "measure": "generation", "majority": 0.1}
                rows += [
                    row | {"seed": seed, "value": step * gain / 10 + seed / 100} for seed in (1, 2)
                ]
    seeds = pd.DataFrame(rows)
    tables = {"seeds": seeds, "recall": over_seeds(seeds, KEY)}
    (folder / "tables").mkdir(parents=True)
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    seal(folder / "tables", [f"{name}.csv" for name in tables])
    write_json(folder / "run.json", {"kind": "summary over seeds", "seeds": [1, 2]})
    return seeds


def test_the_picture_of_a_summary_shows_the_mean_and_every_seed(tmp_path):
    from figures.across import recall_data
    from training.runs.table_files import read_table

    seeds = summary(tmp_path / "headline")
    means, dots = recall_data(
        *(read_table(tmp_path / "headline", name) for name in ("recall", "seeds"))
    )
    at = {"phase": "generalize", "relation": "bound", "family": "test"}
    each = seeds[(seeds[list(at)] == list(at.values())).all(axis=1)].value
    assert means[(means[list(at)] == list(at.values())).all(axis=1)].value.item() == pytest.approx(
        each.mean()
    )
    assert sorted(dots[(dots[list(at)] == list(at.values())).all(axis=1)].value) == sorted(each)


def test_committed_summaries_are_redrawn_beside_committed_runs(tmp_path):
    from figures.redraw import Options as RedrawOptions
    from figures.redraw import main as redraw

    summary(tmp_path / "headline")
    drawn = redraw(RedrawOptions(results=tmp_path, images=tmp_path / "images"))
    assert [path.name for path in drawn] == ["headline-recall.png"]


def test_a_table_of_other_seeds_is_refused_in_a_summary(tmp_path):
    from training.base.files import seal
    from training.runs.table_files import read_table

    seeds = summary(tmp_path / "headline")
    folder = tmp_path / "headline" / "tables"
    seeds.assign(seed=seeds.seed + 1).to_csv(folder / "seeds.csv", index=False)
    seal(folder, ["seeds.csv"])
    with pytest.raises(Damaged, match="2, 3"):
        read_table(tmp_path / "headline", "seeds")


def test_what_training_cost_is_summed_up_where_every_run_measured_it(tiny_run, tmp_path):
    from training import damage
    from training.base.files import read_json, seal, write_json

    runs = []
    for seed in (1, 2):
        run = tmp_path / f"run-{seed}"
        damage.main(damage.Options(tiny_run, out=str(run)))
        write_json(run / "run.json", {**read_json(tiny_run / "run.json"), "seed": seed})
        for name in ("damage", "recall"):
            source = (run if name == "damage" else tiny_run) / "tables" / f"{name}.csv"
            table = pd.read_csv(source, keep_default_na=False, na_values=[""]).assign(seed=seed)
            table.assign(value=table.value + seed).to_csv(
                run / "tables" / f"{name}.csv", index=False
            )
        seal(run / "tables", ["damage.csv", "recall.csv"])
        runs.append(run)
    main(SeedOptions(tuple(runs), tmp_path / "out"))
    found = pd.read_csv(tmp_path / "out" / "tables" / "damage.csv")
    assert list(found.measure) == ["perplexity"] * 3
    assert set(found.n_seeds) == {2}
    assert (found.largest - found.smallest).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
