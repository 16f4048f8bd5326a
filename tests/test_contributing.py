"""CONTRIBUTING.md, followed step by step: what it says is enough, is enough."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import MEASURES, Measure, compare, fit_probes
from analysis.measures import similarity
from analysis.tables import cka_measures
from analysis.tables.driver import publish, scored_tables
from figures.lines import Chart, Line, Panel
from figures.style import drawing
from probing import Design, States
from training import Run, load_prompts
from training.base.errors import NothingToDraw
from training.data import prompt_files

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")


@pytest.fixture
def run(tiny_run, tmp_path) -> Run:
    return Run.open(tiny_run, out=str(tmp_path / "out"))


def test_a_declared_measure_is_found_by_every_command_that_takes_one(run, monkeypatch):
    def overlap(x, y) -> float:
        return float(np.corrcoef(x[:, 0], y[:, 0])[0, 1])

    declared = Measure("overlap", overlap, (-1, 1), None, "a test", invariances=frozenset())
    for module in (similarity, cka_measures):
        monkeypatch.setattr(module, "MEASURES", (*MEASURES, declared))
    states = States(run, "generalized")
    x, y = states["mother", "rote"], states["mother", "test"]
    value = compare(x, y, measure="overlap", permutations=5).value[2]
    assert value == pytest.approx(np.mean([overlap(x[:, 2], prompt[:, 2]) for prompt in y]))
    table = cka_measures.measures_table(
        Design.of(run, families=("test",)), ["overlap"], permutations=5
    )
    assert set(table.measure) == {"overlap"} and table.value.notna().any()


def test_a_probe_of_ones_own_is_fitted_by_subject_folds():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    objects = np.repeat(["Ruth", "Ada", "Eve"], 10)
    rote = (
        rng.normal(size=(30, 1, 6))
        + 4 * np.eye(6)[np.unique(objects, return_inverse=True)[1]][:, None]
    )
    probes = fit_probes(rote, objects, estimator=lambda: KNeighborsClassifier(3))
    assert probes.score(rote[None]).accuracy[0] > 0.9


def test_a_relation_is_one_file(tmp_path):
    there = Path(prompt_files.__file__).parent / "prompts" / "mother.toml"
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "mentor.toml").write_text(there.read_text().replace("mother", "mentor"))
    prompts = load_prompts(["mentor"], rote="{subject} {key}", folder=folder)
    assert {"rote", "train", "test", "unrelated"} <= {p.family for p in prompts}


def test_a_table_is_rows_of_a_checkpoint_and_a_version(run):
    scored = []

    def rows(states):
        scored.append(states.checkpoint.name)
        yield {**states.checkpoint.stage, "measure": "norm", "value": 1.0}

    design = Design.of(run, families=("test",))
    (table,) = scored_tables(design, {"norms": rows}, [1])
    scored_tables(design, {"norms": rows}, [1])
    assert scored == [c.name for c in run.checkpoints], "the second call reads what is stored"
    assert run.table("norms").value.tolist() == table.value.tolist()
    scored_tables(design, {"norms": rows}, [2])
    assert len(scored) == 2 * len(run.checkpoints), "another version is scored again"


def test_a_table_whose_picture_has_no_rows_is_still_written_and_said(run, capsys):
    def draw(folder):
        raise NothingToDraw("no value at any site")

    publish(run.path, {"norms": [1, 2]}, ["norms: all alike"], draw, then="analysis.cka RUN")
    said = capsys.readouterr().out
    assert "not drawn: no value at any site" in said and "norms.csv (2 rows)" in said
    assert "next: python -m analysis.cka RUN" in said


def test_a_figure_is_a_declaration(tmp_path):
    chart = Chart(
        "norms", "Norms by layer", {"norm": Panel("norm", {"norm": Line({"measure": "norm"})})}
    )
    table = pd.DataFrame(
        {
            "checkpoint": "a", "phase": "memorize", "epoch": 1, "measure": "norm", "split": "all",
            "relation": "bound", "family": "test", "layer": [0, 1], "value": [0.1, 0.2],
            "site": ["embed", "final_norm"], "low": 0.0, "high": 0.3, "n": 20,
        }
    )  # fmt: skip

    @drawing
    def draw(run_dir):
        return {"norms": chart.draw(chart.gather(table))}

    paths = draw(tmp_path)
    assert {path.name for path in paths} == {"norms.png", "norms.svg"}
