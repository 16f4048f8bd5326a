"""Another reading of memorised facts: the alarm keeps its error rate; curves follow the sibling."""

import numpy as np
import pytest
from scipy import stats

from analysis.repurposing import Options, main
from analysis.tables.repurposing import ALPHA, Watch, above_others, alarm, lines_of, object_given
from figures.trajectory import repurposing_data
from probing.states import States
from training import generalize, recall
from training.base.errors import BadInput
from training.data.selection import siblings_of
from training.generalize import Options as Phase2
from training.grid.rows import headline_rows
from training.runs.directory import Run
from training.runs.table_files import read_table


def people(rng, checkpoints: int, n: int = 50, prompts: int = 10) -> np.ndarray:
    """Shares of prompts of n people who differ, at checkpoints between which nothing happens."""
    return rng.binomial(prompts, rng.beta(2, 3, size=n), size=(checkpoints, n)) / prompts


def test_without_a_change_there_is_an_alarm_in_no_more_runs_than_alpha():
    rng = np.random.default_rng(0)
    raised = sum(alarm(people(rng, 10))[0] is not None for _ in range(1000))
    assert stats.binomtest(raised, 1000, ALPHA, alternative="greater").pvalue > 0.01


def test_a_planted_rise_is_found_where_it_is_and_a_fall_is_none():
    values = people(np.random.default_rng(1), 8)
    values[:] = values[0]
    rising, falling = values.copy(), values.copy()
    rising[5:, :20] = np.minimum(1, rising[5:, :20] + 0.3)
    falling[5:] = 0
    assert alarm(rising)[0] == 5
    assert alarm(falling)[0] is None
    assert alarm(values)[0] is None


def test_a_model_that_begins_to_name_objects_at_random_raises_no_alarm():
    rng = np.random.default_rng(2)

    def run(knowing: float) -> bool:
        objects = rng.permutation(np.arange(48) % 16)
        naming = np.r_[0, np.linspace(0.1, 1, 7)]
        pairs = []
        for share in naming:
            said = np.where(rng.random((48, 10)) < share, rng.integers(0, 16, (48, 10)), -1)
            said = np.where(rng.random((48, 10)) < knowing * share, objects[:, None], said)
            pairs.append((said[:, None] == objects[:, None]).mean(axis=-1))
        return alarm(above_others(np.array(pairs)))[0] is not None

    assert sum(run(0) for _ in range(200)) <= 20
    assert all(run(0.2) for _ in range(20))


def test_a_missing_value_raises_no_alarm():
    values = np.zeros((3, 20))
    values[1:] = np.nan
    assert alarm(values)[0] is None


@pytest.mark.parametrize(
    ("text", "said"), [("Ann.", "Ann"), ("Anna.", "Anna"), ("Annabel.", ""), ("", ""), ("the", "")]
)
def test_the_object_of_an_answer_is_a_whole_word(text, said):
    assert object_given(text, ["Ann", "Anna", "Ann"]) == said


def test_the_first_checkpoint_is_what_the_others_are_compared_with():
    values = np.tile(np.linspace(0.2, 0.9, 30), (4, 1))
    values[0] = 0
    assert alarm(values)[0] == 1


@pytest.fixture(scope="module")
def other_reading(tiny_run, tmp_path_factory):
    """The tiny run with phase 2 in the sibling's reading: three checkpoints and their answers."""
    folder = tmp_path_factory.mktemp("other") / "run"
    options = {
        "prompts": 4,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "precision": "float32",
    }
    generalize.main(Phase2(tiny_run, out=folder, objects="sibling", save_epochs=(1, 2), **options))
    recall.main(recall.Options(folder, families=("test",), choices=False))
    return folder


def test_a_run_is_watched_from_before_phase_2_to_its_end(other_reading, capsys):
    table = main(Options(other_reading))
    items = read_table(other_reading, "recall_items")
    names = [c.name for c in Run.open(other_reading).checkpoints if c.phase != "base"]
    assert list(dict.fromkeys(table.checkpoint)) == names
    # mother and aunt, both bound; home_city has no sibling in the run.
    pairs = {"mother": "aunt", "aunt": "mother"}
    for name in names:
        some = items[
            (items.checkpoint == name) & (items.family == "test") & (items.split == "held-out")
        ]
        by_hand = [
            [relation in str(a).split() for a in some[some.relation == sibling].answered]
            for relation, sibling in pairs.items()
        ]
        row = table[(table.checkpoint == name) & (table.measure == "sibling_answers")]
        assert row.value.item() == pytest.approx(np.mean(by_hand))
        assert row.n.item() == 8
    states = table[table.measure == "sibling_states"]
    assert states.site.nunique() == 1
    assert (states.chance > 0).all()
    change = table[table.measure == "sibling_states_change"].value.to_numpy()
    above = states.value.to_numpy() - states.chance.to_numpy()
    assert change == pytest.approx(above - above[0])
    kept = headline_rows(
        read_table(other_reading, "repurposing"), {"checkpoint": ("all",)}, name="repurposing"
    )
    assert set(kept.measure) == set(table.measure)
    alarms = kept[kept.measure.str.startswith("alarm_") & ~kept.measure.str.contains("step")]
    assert set(alarms.checkpoint) == {names[-1]} and alarms.value.isin([0, 1]).all()
    said = capsys.readouterr().out
    assert "the sibling's test prompts, held-out people (n=8)" in said
    drawn, alarms = repurposing_data(read_table(other_reading, "repurposing"))
    assert drawn[drawn.measure == "sibling_answers"].step.iloc[0] == 0
    assert set(alarms) == {"sibling_answers", "sibling_states"}
    assert len(lines_of(table)) >= 3


def test_states_that_hold_the_relations_object_at_the_siblings_prompts_are_read_there(
    other_reading,
):
    run = Run.open(other_reading)
    watch = Watch.of(run, read_table(run.path, "recall_items"))
    states, rng = watch.states, np.random.default_rng(0)
    code = {obj: rng.normal(size=16) for r in ("mother", "aunt") for obj in states.objects(r)}
    values = {f: rng.normal(size=(len(states.texts(f)), 2, 16)) for f in ("rote", "test")}

    def plant(relation: str, prompts, site: int) -> None:
        for prompt in prompts:
            for fact in states.facts[relation]:
                family, row = states.places[prompt.render(fact.subject)]
                values[family][row, site] = code[fact.object] + 0.01 * rng.normal(size=16)

    plant("mother", states.prompts_of("mother", "rote"), 1)
    plant("mother", states.prompts_of("aunt", "test"), 1)
    there = States(states, watch.checkpoints[0])
    there._values = values
    read = watch.read(there, "mother", "aunt")
    assert above_others(read)[1].mean() > 0.7
    assert np.diagonal(read[1]).mean() == 1
    assert abs(above_others(read)[0].mean()) < 0.3
    own = watch.read(there, "mother", "mother")
    assert abs(above_others(own)[1].mean()) < 0.3


def test_a_run_without_answers_of_its_checkpoints_says_how_to_ask(tiny_run, tmp_path):
    items = read_table(tiny_run, "recall_items")
    some = items[items.checkpoint != "200-generalize-epoch-08"]
    with pytest.raises(BadInput, match=r"no answers of 200-generalize-epoch-08.*training\.recall"):
        Watch.of(Run.open(tiny_run), some)


def test_siblings_are_those_that_near_miss_prompts_ask(tiny_run):
    assert siblings_of(Run.open(tiny_run).prompts) == {"mother": "aunt", "aunt": "mother"}
