"""What cannot be analysed is a named error that says what was given, where, and what to do."""

import shutil

import numpy as np
import pytest

from analysis.measures import checks as inputs
from analysis.measures.contrast import crossed_contrast
from analysis.measures.similarity import (
    leave_one_out_cka,
    linear_cka,
    linear_cka_grid,
    minibatch_cka,
    permutation_null_cka,
)
from analysis.measures.transfer import fit_probes
from training.base.errors import Damaged, NotFound, UserError
from training.base.files import read_json, seal, write_json
from training.runs.directory import Run
from training.runs.table_files import read_table, write_table

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")
GOOD = np.random.default_rng(0).normal(size=(3, 24, 5))
LABELS = np.arange(24) % 4


def changed(value, site=1, row=7):
    states = GOOD.copy()
    states[site, row, 2] = value
    return states


def constant(site=1):
    states = GOOD.copy()
    states[site] = states[site, :1]
    return states


def repeated(site=1):
    states = GOOD.copy()
    states[site, :14] = states[site, 0]
    return states


STACKED = {
    "linear_cka_grid": lambda xs: linear_cka_grid(xs, GOOD),
    "linear_cka_grid, second side": lambda xs: linear_cka_grid(GOOD, xs),
    "leave_one_out_cka": lambda xs: leave_one_out_cka(xs, GOOD),
    "permutation_null_cka": lambda xs: permutation_null_cka(GOOD, xs, 3),
    "fit_probes": lambda xs: fit_probes(np.swapaxes(xs, 0, 1), LABELS),
}
UNFIT = {
    "NaN": (changed(np.nan), inputs.BadInput, ("1", "row 7")),
    "infinity": (changed(np.inf), inputs.BadInput, ("1", "row 7")),
    "one state for all": (constant(), inputs.DegenerateStates, ("1", "same state")),
    "mostly copies": (repeated(), inputs.DegenerateStates, ("1", "14 of 24 rows")),
}


@pytest.mark.parametrize("function", STACKED.values(), ids=STACKED)
@pytest.mark.parametrize(("states", "error", "words"), UNFIT.values(), ids=UNFIT)
def test_unfit_states_in_a_stack_are_named_with_their_site(function, states, error, words):
    with pytest.raises(error) as raised:
        function(states)
    assert isinstance(raised.value, UserError)
    assert all(word in str(raised.value) for word in words)


SMALL = {
    "three rows": (lambda: linear_cka_grid(GOOD[:, :3], GOOD[:, :3]), inputs.TooFewRows, "n=3"),
    "four rows and a jackknife": (
        lambda: leave_one_out_cka(GOOD[:, :4], GOOD[:, :4]),
        inputs.TooFewRows,
        "n=4",
    ),
    "a batch of three": (
        lambda: minibatch_cka([(GOOD[0, :3], GOOD[1, :3])]),
        inputs.TooFewRows,
        "n=3",
    ),
    "other numbers of rows": (
        lambda: linear_cka_grid(GOOD, GOOD[:, :20]),
        inputs.BadInput,
        "24 rows and y 20",
    ),
    "labels for other rows": (lambda: fit_probes(GOOD, LABELS), inputs.BadInput, "24 rows and y 3"),
    "one site for a stack": (lambda: linear_cka_grid(GOOD[0], GOOD), inputs.BadInput, r"\(24, 5\)"),
    "one dimension": (lambda: linear_cka(GOOD[0, :, 0], GOOD[1]), inputs.BadInput, r"\(24,\)"),
    "sites of different widths": (
        lambda: linear_cka_grid([GOOD[0], GOOD[1, :, :3]], GOOD),
        inputs.BadInput,
        "mixes",
    ),
    "no site": (lambda: linear_cka_grid([], GOOD), inputs.BadInput, r"\(0,\)"),
    "a constant relation": (
        lambda: crossed_contrast(constant(), GOOD),
        inputs.DegenerateStates,
        r"xs\[1\]",
    ),
    "NaN in a prompt": (
        lambda: crossed_contrast(GOOD, changed(np.nan)),
        inputs.BadInput,
        r"ys\[1\] prompt 0 .* row 7",
    ),
}


@pytest.mark.parametrize(("call", "error", "words"), SMALL.values(), ids=SMALL)
def test_what_the_arithmetic_is_not_defined_for(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- folders and tables


def test_an_empty_folder_and_one_without_checkpoints_are_no_run(tmp_path):
    with pytest.raises(NotFound, match=r"no run\.json and no checkpoint"):
        Run.open(tmp_path)
    (tmp_path / "notes").mkdir()
    with pytest.raises(NotFound, match=r"config\.json"):
        Run.open(tmp_path, facts="people", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_tokenizer_is_named(tiny_run, tmp_path):
    bare = tmp_path / "mine" / "step-1"
    shutil.copytree(tiny_run / "checkpoints" / "100-memorize-epoch-20", bare)
    for path in [*bare.glob("tokenizer*"), bare / "stage.json", bare / "manifest.json"]:
        path.unlink()
    with pytest.raises(NotFound, match=r"step-1 has no usable tokenizer.*save_pretrained"):
        Run.open(bare.parent, facts="people", out=str(tmp_path / "out"))


def test_a_table_of_other_checkpoints_of_the_same_names_and_seed_is_refused(own_run, tiny_run):
    table = read_table(tiny_run, "recall")
    write_table(Run.open(own_run), "recall", table.drop(columns=["seed", "commit"]))
    assert len(read_table(own_run, "recall")) == len(table)
    # The same recipe, trained again with another result.
    last = own_run / "checkpoints" / "200-generalize-epoch-08"
    stage = read_json(last / "stage.json")
    write_json(last / "stage.json", {**stage, "metrics": {**stage["metrics"], "loss": -1.0}})
    seal(last, ["stage.json"])
    with pytest.raises(Damaged, match="other checkpoints of the same names"):
        read_table(own_run, "recall")
