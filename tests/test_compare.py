"""`compare`: two sets of states at every site, as a notebook asks for it."""

import numpy as np
import pytest

from analysis import compare, linear_cka, procrustes_distance
from probing import States
from training import BadInput, Run

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    return States(Run.open(tiny_run, out=str(tmp_path_factory.mktemp("compare"))), "generalized")


def test_a_value_is_the_mean_over_prompts_of_the_split_alone(states):
    x, y = states["mother", "rote"], states["mother", "test"]
    found = compare(x, y, split="held-out", permutations=19)
    rows = x.rows("held-out")
    for s, row in enumerate(found.itertuples()):
        if np.isfinite(row.value):
            expected = np.mean([linear_cka(x[rows, s], prompt[rows, s]) for prompt in y])
            assert row.value == pytest.approx(expected)
            assert row.low < row.value < row.high and 1 / 20 <= row.null_p <= row.null_p_max <= 1
    assert list(found.site) == list(states.sites)
    assert set(found.n) == {8} and set(found.n_prompts) == {3}


def test_states_of_the_same_rows_are_alike_and_no_null_draw_is(states):
    x = states["mother", "rote"]
    found = compare(x, x, permutations=39).dropna(subset="value")
    assert found.value.to_numpy() == pytest.approx(1)
    assert (found.null_p == 1 / 40).all()


def test_a_distance_is_positive_and_its_null_is_below(states):
    x, y = states["aunt", "rote"], states["aunt", "train"]
    found = compare(x, y, measure="procrustes_distance", permutations=9)
    expected = np.mean([procrustes_distance(x[:, 3], prompt[:, 3]) for prompt in y])
    assert found.value[3] == pytest.approx(expected)
    assert "null_low" in found and found.low[3] < found.value[3] < found.high[3]


def test_what_cannot_be_paired_is_refused(states):
    x, y = states["mother", "rote"], states["mother", "test"]
    with pytest.raises(BadInput, match="one prompt"):
        compare(y, y)
    for part in (y[0], y - y.mean(axis=1, keepdims=True), np.asarray(y)):
        with pytest.raises(BadInput, match=r"states\[relation, family\]"):
            compare(x, part)
    with pytest.raises(BadInput, match=r"no rows of mother; there are held-out, seen"):
        compare(x, y, split="train")
    with pytest.raises(BadInput, match="expected some of"):
        compare(x, y, measure="likeness")
