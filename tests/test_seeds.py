"""Several seeds become one table: a mean and an interval over seeds, never over rows."""

import numpy as np
import pandas as pd
import pytest

from analysis.seeds import Options as SeedOptions
from analysis.seeds import TooFewSeeds, headline, main, over_seeds
from analysis.statistics import mean_interval

KEY = ["condition", "phase", "relation", "family", "subset", "split", "measure"]


def table_of(values_by_seed):
    row = dict(zip(KEY, ("two phases", "generalize", "bound", "test", "all", "held-out", "generation"), strict=True))
    return pd.DataFrame(
        [row | {"seed": seed, "value": v, "majority": 0.1} for seed, values in values_by_seed.items() for v in values]
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
    assert "0.10" in lines[0]
    assert "+0.30" in lines[1]


def test_one_seed_has_no_interval_and_is_refused(tiny_run, tmp_path):
    with pytest.raises(TooFewSeeds, match="at least two seeds"):
        main(SeedOptions((tiny_run,), tmp_path))
