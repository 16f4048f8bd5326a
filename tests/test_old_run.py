"""A run made by version 0.1.0, before the modules moved, still opens (its weights are left out)."""

import shutil
from pathlib import Path

import pytest

from figures.redraw import draw_all
from training import NotFound, Run, answers

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old_run(tmp_path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_facts_prompts_and_checkpoints_are_read(old_run):
    run = Run.open(old_run)
    assert run.relations == ["mother", "aunt"] and len(run.facts) == 20
    assert [c.name for c in run.checkpoints] == [
        "000-base",
        "100-memorize-epoch-02",
        "200-generalize-epoch-01",
    ]
    assert run.checkpoints[-1].fingerprint and run.checkpoints[-1].epoch == 1
    assert {p.family for p in run.prompts} >= {"rote", "train", "test", "near-miss", "test-de"}


def test_tables_are_read_and_answers_found_in_them(old_run):
    run = Run.open(old_run)
    assert set(run.table("recall").measure) >= {"generation", "generation_gain"}
    said = answers(run, "test", split="held-out", checkpoint="generalized")
    assert len(said) == 2 * 5 * 3 and set(said.columns) >= {"prompt", "expected", "said", "right"}


def test_pictures_are_drawn_again(old_run):
    drawn, skipped = draw_all(old_run, old_run / "figures")
    assert {"recall.png", "cka.png", "probes.png"} <= {path.name for path in drawn}, skipped


def test_weights_that_are_gone_are_named(old_run):
    with pytest.raises(NotFound, match="deleted"):
        Run.open(old_run).checkpoints[-1].load()
