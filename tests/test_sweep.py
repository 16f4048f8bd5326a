"""A sweep does each thing once: shared stages, finished runs, rows; whatever fails or is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from training import sweep
from training.base.errors import BadInput, UserError
from training.base.files import read_json
from training.grid import driver
from training.grid.driver import RESUBMISSIONS, Driver
from training.grid.file import read_grid
from training.grid.plan import make_plan
from training.grid.rows import add_run, headline_rows, read_sweep, training_rows
from training.grid.stages import coerced, hints, identity
from training.grid.tasks import Outcome
from training.runs.checkpoints import WeightsDropped, drop_weights, lacks_weights, list_checkpoints
from training.runs.table_files import read_table
from training.sweep import Options

GRID = """
title = "two phases"
stages = ["memorize", "generalize", "recall"]

[settings.memorize]
model = "{model}"
subjects = 8
pool = 4
relations = ["mother", "profession"]
epochs = {epochs}
batch_size = 4
facts-per-sequence = 2
learning_rate = 2e-3
precision = "float32"

[settings]
generalize.precision = "float32"
recall.families = ["rote", "test"]

[grid]
memorize.seed = {seeds}
"""
CONDITIONS = """
[[condition]]
name = "one prompt"
generalize.prompts = 1

[[condition]]
name = "two prompts"
generalize.prompts = 2
"""
FAILING = """
[[condition]]
name = "no such start"
generalize.start = "100-memorize-epoch-99"
"""
STEPS = 4  # of 16 facts, four a step, an epoch


def write_grid(
    folder: Path, model: object = "tiny", *, epochs: int = 2, seeds=(1, 2), more: str = CONDITIONS
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "grid.toml"
    path.write_text(GRID.format(model=model, epochs=epochs, seeds=list(seeds)) + more)
    return path


def plan_of(path: Path, finished=()):
    grid = read_grid(path)
    return make_plan(grid, Path("work"), {s.name: s.defaults for s in grid.stages}, finished)


def measured(table) -> pd.DataFrame:
    """What was found, without how fast it was and what else varied in the grid."""
    some = table[table.measure != "seconds"]
    some = some[[c for c in some if "." not in c and c not in ("commit", "condition")]].sort_values(
        "run", kind="stable"
    )
    return some.reset_index(drop=True)


def require_same(table, other) -> None:
    pd.testing.assert_frame_equal(measured(table), measured(other), check_dtype=False)


# --- the grid file -------------------------------------------------------------------------------

MISTAKES = {
    "unknown entry": ("titel = 'x'", "Did you mean title"),
    "unknown stage": ("[settings.memorise]\nepochs = 1", "memorise.*Did you mean memorize"),
    "unknown option": (
        "[settings.generalize]\nprompt = 1",
        r"generalize\.prompt;.*Did you mean prompts",
    ),
    "wrong type": (
        "[settings.recall]\nbatch_size = 'many'",
        "recall.batch_size to 'many'; expected a whole number",
    ),
    "no such choice": ("[settings.generalize]\nloss = 'some'", "expected one of 'all', 'object'"),
    "a single value": (
        "[grid.generalize]\nepochs = 3",
        r"grid\.generalize\.epochs is 3; expected a list",
    ),
    "a value twice": ("[grid.generalize]\nepochs = [3, 3]", "lists a value twice"),
    "our own option": ("[settings.generalize]\nout = 'x'", "the sweep itself decides"),
    "set twice": (
        "[grid.generalize]\nepochs = [1, 2]\n[[condition]]\nname = 'a'\ngeneralize.epochs = 1",
        r"condition 'a' sets generalize\.epochs, which \[grid\] varies too",
    ),
    "set by a repetition": (
        "[grid.generalize]\nepochs = [1, 2]\n[[repetition]]\ngeneralize.epochs = 1",
        r"repetition 1 sets generalize\.epochs, which \[grid\] varies too",
    ),
    "comparison": ("[compare]\nwith = 'x'", "compare: with is unknown"),
    "a nameless condition": (
        "[[condition]]\ngeneralize.epochs = 1",
        r"\[\[condition\]\] has the name None",
    ),
    "rows": ("[rows.recall]\nmeasure = 'generation'", r"rows\.recall is"),
    "keep": ("keep = 'nothing'", "keep is 'nothing'; expected one of tables, checkpoints"),
    "no TOML": ("[", "not valid UTF-8 TOML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_key_and_remedy(mistake, tmp_path):
    text, said = MISTAKES[mistake]
    path = tmp_path / "grid.toml"
    stages = 'stages = ["memorize", "generalize", "recall"]\n'
    entry = "=" in text.splitlines()[0]
    path.write_text(f"{text}\n{stages}" if entry else f"{stages}{text}")
    with pytest.raises(BadInput, match=said) as error:
        read_grid(path)
    assert str(path) in str(error.value)


BAD_ORDERS = (
    '"recall"',
    '"generalize", "recall"',
    '"memorize", "recall", "generalize"',
    '"memorize", "memorize"',
    '"os.path"',
    '"memorize", "training.data.facts"',
    '"memorize", "analysis.measures.statistics"',
    '"memorize", "figures.cka"',
    "",
)


@pytest.mark.parametrize("stages", BAD_ORDERS)
def test_stages_are_commands_in_an_order_that_can_run(stages, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(f"stages = [{stages}]")
    with pytest.raises(BadInput, match="stages"):
        read_grid(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('memorize.model = "no-such-model"', "memorize: no model 'no-such-model'"),
        ('memorize.facts = "no-such-file.csv"', "no facts at 'no-such-file.csv'"),
        ('memorize.prompts = "no-such-folder"', "no-such-folder is not a folder"),
        ("memorize.batch_size = 0", "--batch-size is 0"),
        ("generalize.prompts = 99", "--prompts is 99"),
        ("generalize.people = 500", "--people is 500"),
        ('recall.families = ["nonsense"]', "no prompt family nonsense"),
    ],
)
def test_what_is_not_there_is_found_before_anything_starts(text, said, tmp_path, tiny_base):
    model = "" if "model" in text else f'memorize.model = "{tiny_base}"'
    path = tmp_path / "grid.toml"
    path.write_text(f'stages = ["memorize", "generalize", "recall"]\n[settings]\n{model}\n{text}')
    with pytest.raises(BadInput, match=said) as error:
        sweep.main(Options(path, work=tmp_path / "work"))
    assert str(path) in str(error.value)
    assert not (tmp_path / "work").exists()


def test_every_option_of_every_command_can_be_written_in_toml():
    for command in (
        "training.memorize",
        "training.generalize",
        "training.recall",
        "analysis.cka",
        "analysis.probes",
    ):
        for kind in hints(command).values():
            with pytest.raises(ValueError, match=r"\w"):
                coerced({"a": "table"}, kind)


# --- the plan ------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 10))
@settings(deadline=None, max_examples=15)
def test_variants_of_phase_2_share_their_phase_1(tmp_path_factory, seeds, prompts):
    more = f"generalize.prompts = {list(range(1, prompts + 1))}"
    plan = plan_of(write_grid(tmp_path_factory.mktemp("grid"), seeds=range(seeds), more=more))
    count = Counter(task.call.stage.name for task in plan.tasks.values())
    assert count == {"memorize": seeds, "generalize": seeds * prompts}
    assert len(plan.runs) == seeds * prompts
    names = list(plan.tasks)
    assert all(
        t.parent is None or names.index(t.parent.name) < names.index(t.name)
        for t in plan.tasks.values()
    )


def test_what_a_repetition_sets_goes_together(tmp_path):
    more = "".join(
        f'[[repetition]]\nmemorize = {{ unbound = {n % 2}, key_init = "{k}" }}\n'
        for n, k in ((0, "mean"), (1, "random"))
    )
    grid = read_grid(write_grid(tmp_path, more=more + CONDITIONS))
    assert len(grid.runs) == 2 * 2 * 2
    assert {(r.varied["memorize.unbound"], r.varied["memorize.key_init"]) for r in grid.runs} == {
        (0, "mean"),
        (1, "random"),
    }
    assert set(grid.repeats) == {"memorize.unbound", "memorize.key_init"}


def test_fewer_repetitions_are_the_first_ones_and_the_same_runs(tmp_path):
    more = "".join(f"[[repetition]]\nmemorize.key_init = {k!r}\n" for k in ("mean", "random"))
    path = write_grid(tmp_path, more=more)
    whole, short = read_grid(path), read_grid(path, repetitions=1)
    assert short.repeats == whole.repeats
    work = tmp_path / "work"
    ids = [
        list(make_plan(grid, work, {s.name: s.defaults for s in grid.stages}).runs)
        for grid in (whole, short)
    ]
    assert ids[1] == ids[0][: len(ids[1])]
    assert 0 < len(ids[1]) < len(ids[0])
    with pytest.raises(BadInput, match="there are 2 repetitions; 3 were asked for"):
        read_grid(path, repetitions=3)


def test_a_finished_sweep_says_what_its_grid_file_says_now_and_when_it_was_made(tmp_path):
    path = write_grid(tmp_path)
    (tmp_path / "run.json").write_text(
        json.dumps({"versions": {"torch": "1"}, "commit": "then", "compare": {}})
    )
    path.write_text(path.read_text() + '\n[compare]\nby = ["memorize.seed"]\n')
    grid = read_grid(path)
    baseline = {stage.name: stage.defaults for stage in grid.stages}
    ids = list(make_plan(grid, tmp_path / "work", baseline).runs)
    driver.record(tmp_path, make_plan(grid, tmp_path / "work", baseline, ids))
    record = read_json(tmp_path / "run.json")
    assert record["compare"] == {"by": ["memorize.seed"]}
    assert (record["versions"], record["commit"]) == ({"torch": "1"}, "then")
    driver.record(tmp_path, make_plan(grid, tmp_path / "work", baseline, ids[1:]))
    assert read_json(tmp_path / "run.json")["commit"] != "then"


def test_runs_of_other_code_in_a_table_are_counted():
    from training.base.provenance import commit

    table = pd.DataFrame(
        {"run": ["a", "a", "b", "c"], "commit": ["other", "other", commit(), "older+"]}
    )
    assert driver.made_by_other_code(table) == 2
    assert driver.made_by_other_code(table[["run"]]) == 0


def test_finished_runs_leave_only_what_the_others_need(tmp_path):
    path = write_grid(tmp_path)
    ids = list(plan_of(path).runs)
    left = plan_of(path, ids[:1])
    assert set(ids[:1]).isdisjoint(r for task in left.tasks.values() for r in task.rests)
    assert plan_of(path, ids).tasks == {}


def test_a_run_is_known_by_what_it_is_and_not_by_how_the_file_says_it(tmp_path):
    path = write_grid(tmp_path / "a")
    text = path.read_text()
    spelled = text.replace("epochs = 2", 'epochs = 2\nloss = "object"')
    spelled = spelled.replace("seed = [1, 2]", "seed = [3, 2, 1]").replace("one prompt", "just one")
    (tmp_path / "b.toml").write_text(spelled)
    assert set(plan_of(path).runs) < set(plan_of(tmp_path / "b.toml").runs)
    (tmp_path / "c.toml").write_text(text.replace("epochs = 2", "epochs = 3"))
    assert set(plan_of(path).runs).isdisjoint(plan_of(tmp_path / "c.toml").runs)


def test_a_new_option_changes_no_run_and_a_changed_default_changes_it(tmp_path):
    grid = read_grid(write_grid(tmp_path))
    call = grid.runs[0].calls[1]
    today = {s.name: s.defaults for s in grid.stages}
    before_the_option = {**today, "generalize": {**today["generalize"]}}
    new = before_the_option["generalize"].pop("dense")
    assert new == 0
    # What `baseline_of` does with the record of a sweep begun before the option was there.
    joined = {**today["generalize"], **before_the_option["generalize"]}
    assert identity(call, {"generalize": joined}) == identity(call, today)
    other_default = {"generalize": {**today["generalize"], "epochs": 7}}
    assert identity(call, other_default) != identity(call, today)


def test_facts_in_a_file_are_known_by_their_content(tmp_path):
    facts = tmp_path / "facts.csv"
    facts.write_text("subject,relation,object\nA B,mother,Ruth\nC D,mother,Ada\n")
    path = tmp_path / "grid.toml"
    path.write_text(f'stages = ["memorize"]\n[settings]\nmemorize.facts = "{facts}"')
    before = set(plan_of(path).runs)
    facts.write_text("subject,relation,object\nA B,mother,Ada\nC D,mother,Ruth\n")
    assert set(plan_of(path).runs) != before


# --- the driver, with workers that die as they like ----------------------------------------------


class Dying:
    """A pool whose workers die by the toss of a seeded coin, at most `most` times in a row."""

    def __init__(self, capacity: int, seed: int, most: int, failing: set[str]) -> None:
        self.capacity, self.most, self.failing = capacity, most, failing
        self.random = random.Random(seed)
        self.running: list = []
        self.sent: Counter[str] = Counter()
        self.finished: list[str] = []

    def submit(self, job) -> None:
        assert len(self.running) < self.capacity
        assert job.parent is None or job.parent.name in self.finished
        self.sent[job.name] += 1
        self.running.append(job)

    def close(self) -> None:
        assert not self.running

    def results(self) -> list:
        job = self.running.pop(self.random.randrange(len(self.running)))
        if self.sent[job.name] <= self.most and self.random.random() < 0.5:
            return [(job, Outcome(job.name, lost="killed"))]
        if job.name in self.failing:
            return [(job, Outcome(job.name, failures={"": "it cannot work"}))]
        self.finished.append(job.name)
        rows = {"": [{"table": "training", "measure": "steps", "value": 1}]}
        rows |= {key: [{"table": "recall", "measure": "x", "value": 2}] for key in job.measurements}
        return [(job, Outcome(job.name, 0, rows, {"recall": 1.0}))]


@given(st.integers(1, 3), st.integers(0, 10_000), st.integers(0, RESUBMISSIONS), st.booleans())
@settings(deadline=None, max_examples=15)
def test_every_run_gets_its_rows_once_however_often_workers_die(
    tmp_path_factory, capacity, seed, most, one_fails
):
    folder = tmp_path_factory.mktemp("sweep")
    plan = plan_of(write_grid(folder, more="generalize.prompts = [1, 2, 3]"))
    failing = {list(plan.tasks)[seed % len(plan.tasks)]} if one_fails else set()
    pool = Dying(capacity, seed, most, failing)
    driver = Driver(plan, pool, folder, read_sweep(folder), dict.fromkeys(plan.tasks, 1.0))
    with pytest.raises(UserError, match="runs failed") if one_fails else nullcontext():
        driver.run()
    lost = {r for name in failing for r in plan.tasks[name].rests}
    assert set(driver.failures) == lost
    table = read_sweep(folder)
    assert set(table.run) == set(plan.runs) - lost
    assert not table.duplicated(["run", "table", "measure", "memorize.seed"]).sum() - len(
        set(table.run)
    )
    assert Counter(pool.finished) == Counter(set(pool.finished))


def test_a_job_whose_worker_always_dies_is_given_up(tmp_path):
    plan = plan_of(write_grid(tmp_path, seeds=(1,)))
    pool = Dying(1, 0, 1000, set())
    pool.random.random = lambda: 0.0
    driver = Driver(plan, pool, tmp_path, read_sweep(tmp_path), dict.fromkeys(plan.tasks, 1.0))
    with pytest.raises(UserError, match="its worker died 4 times"):
        driver.run()
    assert set(driver.failures) == set(plan.runs)
    assert set(pool.sent.values()) == {RESUBMISSIONS + 1}


def test_a_run_that_is_in_the_table_is_not_added_again(tmp_path):
    table = add_run(
        tmp_path,
        read_sweep(tmp_path),
        "r1",
        [{"table": "recall", "measure": "x", "value": 1.0}],
        {},
    )
    again = add_run(tmp_path, table, "r1", [{"table": "recall", "measure": "x", "value": 2.0}], {})
    assert list(again.value) == [1.0]


# --- real runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_base) -> Path:
    """The results of a sweep of six runs, two of which fail; run directories in its `work`."""
    folder = tmp_path_factory.mktemp("sweep")
    path = write_grid(folder, tiny_base, more=CONDITIONS + FAILING)
    with pytest.raises(UserError, match="2 of 6 runs failed") as error:
        sweep.main(Options(path, work=folder / "work"))
    assert "100-memorize-epoch-99" in str(error.value)
    return folder


def logs(folder: Path, stage: str) -> dict[str, str]:
    return {p.stem: p.read_text() for p in (folder / "work" / "logs").glob(f"{stage}-*.log")}


def test_the_failing_runs_leave_the_others_unharmed(swept):
    table = read_sweep(swept)
    assert set(table.condition) == {"one prompt", "two prompts"}
    assert table.groupby(["condition", "seed"]).run.nunique().tolist() == [1] * 4
    assert any(
        "has no checkpoint '100-memorize-epoch-99'" in text
        for text in logs(swept, "generalize").values()
    )


def test_the_table_says_what_the_runs_own_tables_say(swept):
    table = read_sweep(swept)
    for directory, rows in table.groupby("directory"):
        own = read_table(swept / "work" / directory, "recall")
        key = ["checkpoint", "relation", "family", "subset", "split", "measure"]
        both = rows[rows.table == "recall"].merge(own, on=key, suffixes=("", "_own"))
        assert len(both) == ((rows.table == "recall") & (rows.measure != "seconds")).sum() > 10
        assert list(both.value) == pytest.approx(list(both.value_own), abs=1e-6)
        assert set(rows.seed) == {read_json(swept / "work" / directory / "run.json")["seed"]}
    steps = table[(table.measure == "steps")].groupby("phase").value.unique()
    assert set(steps["memorize"]) == {2 * STEPS}


def test_phase_1_is_trained_once_for_all_that_start_from_it(swept):
    assert len(logs(swept, "memorize")) == 2
    assert all(text.count("memorize: 16 facts") == 1 for text in logs(swept, "memorize").values())


def test_weights_go_when_no_run_needs_them_and_what_they_gave_stays(swept):
    kept = {
        p.parent.parent.parent.name.split("-")[0]
        for p in swept.glob("work/*/checkpoints/*/model.safetensors")
    }
    # The failed runs may be fixed, and then start from phase 1.
    assert kept == {"memorize"}
    directory = read_sweep(swept).directory.iloc[0]
    run = swept / "work" / directory
    assert (run / "tables" / "recall_items.csv").exists()
    last = list_checkpoints(run)[-1]
    assert last.phase == "generalize"
    with pytest.raises(WeightsDropped, match="deleted after use"):
        last.load()


def test_a_checkpoint_without_weights_is_still_known_as_what_it_was(own_run):
    before = [c.fingerprint for c in list_checkpoints(own_run)]
    assert drop_weights(own_run) > 0
    assert lacks_weights(own_run)
    assert [c.fingerprint for c in list_checkpoints(own_run)] == before


def test_the_same_command_again_repeats_only_what_failed(swept, capsys):
    before = read_sweep(swept)
    texts = {**logs(swept, "memorize"), **logs(swept, "generalize")}
    with pytest.raises(UserError, match="2 of 2 runs failed"):
        sweep.main(Options(swept / "grid.toml", work=swept / "work"))
    assert "6 runs, 4 of them finished" in capsys.readouterr().out
    pd.testing.assert_frame_equal(read_sweep(swept), before)
    done = set(before.directory)
    assert {name: text for name, text in logs(swept, "generalize").items() if name in done} == {
        name: text for name, text in texts.items() if name in done
    }
    assert all(text.count("memorize: 16 facts") == 1 for text in logs(swept, "memorize").values())


def test_a_lost_table_is_made_again_from_what_the_runs_kept(swept, tmp_path, tiny_base):
    path = write_grid(tmp_path, tiny_base)
    table = sweep.main(Options(path, work=swept / "work"))
    require_same(table, read_sweep(swept))
    assert all(text.count("sequences, 1 epoch") <= 1 for text in logs(swept, "generalize").values())


def test_a_dry_run_says_everything_and_starts_nothing(tmp_path, tiny_base, capsys):
    path = write_grid(tmp_path, tiny_base)
    sweep.main(Options(path, dry_run=True, work=tmp_path / "work"))
    said = capsys.readouterr().out
    assert "4 runs, 0 of them finished" in said
    assert "memorize 2 times, generalize 4 times, recall 4 times" in said
    assert "one prompt, memorize.seed 1" in said
    assert "about" in said and "free" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.toml"]


def test_needed_weights_that_were_dropped_are_trained_again(tmp_path, tiny_base):
    path = write_grid(tmp_path, tiny_base, seeds=(1,), more="generalize.prompts = [1]")
    first = sweep.main(Options(path, work=tmp_path / "work"))
    assert not list(tmp_path.glob("work/*/checkpoints/*/model.safetensors"))
    path = write_grid(tmp_path, tiny_base, seeds=(1,), more="generalize.prompts = [1, 2]")
    table = sweep.main(Options(path, work=tmp_path / "work"))
    assert table.run.nunique() == 2
    require_same(table[table.run == first.run[0]], first)


# --- killed --------------------------------------------------------------------------------------


def start(path: Path, *arguments: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "training.sweep",
        str(path),
        "--work",
        str(path.parent / "work"),
        *arguments,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(what, seconds: float = 300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise TimeoutError("it did not happen")


def test_killed_and_started_again_it_ends_with_the_same_table(swept, tmp_path, tiny_base):
    path = write_grid(tmp_path, tiny_base)
    process = start(path)
    try:
        wait_for(lambda: process.poll() is not None or (tmp_path / "tables" / "sweep.csv").exists())
    finally:
        process.kill()
        said = process.communicate()[0]
    before = read_sweep(tmp_path)
    assert 1 <= before.run.nunique() <= 3, said
    table = sweep.main(Options(path, work=tmp_path / "work"))
    require_same(table, read_sweep(swept))
    require_same(table.head(len(before)), before)


def worker_pids(folder: Path) -> dict[str, int]:
    """Directory -> process that works on it, of jobs whose training has begun and not ended."""
    found = {}
    for path in (folder / "work" / "logs").glob("memorize-*.log"):
        text = path.read_text()
        if "memorize: 16 facts" in text and "recalled while training" not in text:
            found[path.stem] = int(text.rsplit(": process ", 1)[1].split()[0])
    return found


def kill_one_worker(folder: Path, killed: list) -> threading.Thread:
    """Kill the first worker that trains phase 1 (not this process), once."""

    def kill() -> None:
        name, pid = wait_for(lambda: next(iter(worker_pids(folder).items()), None))
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
        killed.append(name)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_costs_its_own_run_one_more_try(swept, tmp_path, tiny_base, capsys):
    # Many epochs, so that there is time to kill it in.
    path = write_grid(tmp_path, tiny_base, epochs=60, more="generalize.prompts = [1]")
    killed: list[str] = []
    thread = kill_one_worker(tmp_path, killed)
    table = sweep.main(Options(path, jobs=2, work=tmp_path / "work"))
    thread.join(10)
    assert f"{killed[0]}: its worker died" in capsys.readouterr().out
    assert sorted(table.groupby("run").seed.first()) == [1, 2]
    assert not table.duplicated(
        ["run", "table", "checkpoint", "phase", "relation", "family", "subset", "split", "measure"]
    ).any()
    assert logs(tmp_path, "memorize")[killed[0]].count("memorize: 16 facts") == 2
    rows = training_rows(tmp_path / "work" / killed[0])
    assert [row["measure"] for row in rows] == [
        "steps",
        "tokens",
        "seconds",
        "train_recall",
        "tokens_so_far",
    ]
    assert rows[1]["value"] == rows[-1]["value"]


def test_on_ray_a_killed_worker_costs_its_own_run_one_more_try(tmp_path, tiny_base, capsys):
    pytest.importorskip(
        "ray", reason="Ray is not installed: pip install 'latent-alignment[cluster]'"
    )
    path = write_grid(tmp_path, tiny_base, epochs=60, more="generalize.prompts = [1]")
    killed: list[str] = []
    thread = kill_one_worker(tmp_path, killed)
    table = sweep.main(Options(path, backend="ray", jobs=2, work=tmp_path / "work"))
    thread.join(10)
    assert f"{killed[0]}: its worker died" in capsys.readouterr().out
    assert sorted(table.groupby("run").seed.first()) == [1, 2]
    assert not table.duplicated(
        ["run", "table", "checkpoint", "phase", "relation", "family", "subset", "split", "measure"]
    ).any()
    assert not list((tmp_path / "work").glob(".shared-*"))


def test_without_ray_the_remedy_is_named(tmp_path, tiny_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'latent-alignment\[cluster\]'"):
        sweep.main(Options(write_grid(tmp_path, tiny_base), backend="ray", work=tmp_path / "work"))


# --- rows ----------------------------------------------------------------------------------------


def test_of_a_table_over_sites_the_best_at_the_last_checkpoint_is_followed():
    rows = [
        {
            "checkpoint": c,
            "phase": p,
            "relation": r,
            "family": "test",
            "split": "held-out",
            "measure": "contrast",
        }
        | {"site": site, "value": value, "low": 0, "high": 1}
        for c, p, levels in (
            ("000-base", "base", (0.9, 0.1)),
            ("200-generalize", "generalize", (0.2, 0.6)),
        )
        for r in ("bound", "mother")
        for site, value in zip(("embed", "resid_post.0"), levels, strict=True)
    ]
    table = pd.DataFrame(rows)
    found = headline_rows(table, name="cka")
    assert set(found.relation) == {"bound"}
    assert list(found.value) == [0.1, 0.6]
    asked = headline_rows(table, {"site": ("embed",)}, name="cka")
    assert list(asked.value) == [0.9, 0.2]
    with pytest.raises(BadInput, match=r"rows\.cka.*there are: embed, resid_post\.0"):
        headline_rows(table, {"site": ("resid_post.9",)}, name="cka")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("results/*/grid.toml")), ids=lambda path: path.parent.name
)
def test_the_committed_grids_can_be_read(path):
    grid = read_grid(path)
    assert len(grid.runs) >= 3
    assert len({r.label for r in grid.runs}) == len(grid.runs)


def test_make_experiments_runs_every_grid_on_the_organism():
    lines = [
        text
        for text in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
        if "GRIDS ?=" in text
    ]
    short, every = (set(line.partition("?=")[2].split()) for line in lines)
    on_the_organism = {
        path.parent.name
        for path in (ROOT / "results").glob("*/grid.toml")
        if "world:" in path.read_text(encoding="utf-8")
    }
    assert every == on_the_organism
    assert short < every


def test_a_short_answer_is_one_repetition_of_fewer_grids():
    def told(*arguments: str) -> str:
        return subprocess.run(
            ["make", "-n", "experiments", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "--repetitions" not in told()
    assert "--repetitions 1" in told("PRESET=short")
    assert "for grid in near-miss;" in told("PRESET=short", "GRIDS=near-miss")


def test_a_later_phase_1_is_a_stage_like_any_other_and_its_start_a_setting(tmp_path):
    more = """
[settings.extend]
epochs = 1
batch_size = 8
facts_per_sequence = 2
precision = "float32"

[[condition]]
name = "after phase 2"

[[condition]]
name = "after phase 1 alone"
extend.start = "100-memorize-epoch-02"
"""
    path = write_grid(tmp_path, seeds=(1,), more=more)
    path.write_text(
        path.read_text().replace('"generalize", "recall"', '"generalize", "extend", "recall"')
    )
    table = sweep.main(Options(path, work=tmp_path / "work"))
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(path.read_text().replace("100-memorize-epoch-02", "100-memorize-epoch-03"))
    with pytest.raises(
        BadInput, match="--start is 100-memorize-epoch-03; the stages before leave 000-base, 100-"
    ):
        sweep.main(Options(wrong, dry_run=True))
    made = sorted(
        p.name.split("-")[0]
        for p in (tmp_path / "work").iterdir()
        if p.name != "logs" and p.is_dir()
    )
    assert made == ["extend", "extend", "generalize", "memorize"]
    steps = (
        table[(table.table == "training") & (table.measure == "steps")]
        .set_index(["condition", "phase"])
        .value
    )
    assert (steps.xs("extend", level="phase") == 2).all()
    assert table.condition.nunique() == 2
    recalled = table[(table.table == "recall") & (table.phase == "memorize")]
    assert set(recalled.condition) == {"after phase 2", "after phase 1 alone"}


def test_two_grid_files_in_one_folder_have_results_of_their_own():
    found = {
        name: driver.results_of(Path("here") / name)
        for name in ("grid.toml", "a.toml", "b.2.toml", "plain")
    }
    assert found == {
        "grid.toml": Path("here"),
        "a.toml": Path("here/a"),
        "b.2.toml": Path("here/b.2"),
        "plain": Path("here/plain-results"),
    }
