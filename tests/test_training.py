"""Training: a killed run ends as an unbroken one, and nothing is trained that must not be."""

import ast
import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_GENERALIZE, TINY_MEMORIZE, save_tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model, tiny_tokenizer

from training import generalize, memorize
from training.base.console import Interrupted
from training.base.errors import (
    BadInput,
    Busy,
    Damaged,
    DiskFull,
    NotFound,
    OtherSettings,
    UserError,
)
from training.base.files import locked, read_json, write_json
from training.data.fact_files import Fact, read_facts
from training.data.facts import build_facts
from training.data.prompts import Prompt, load_prompts, read_prompts, select
from training.data.selection import rote_facts, selection
from training.data.sequences import (
    Replay,
    collate,
    encode,
    encode_all,
    epoch_batches,
    epoch_passages,
    passage,
)
from training.loop.resume import load_resume_state
from training.loop.trainer import TrainingSettings, check_disk, learning_rate_at, training_step
from training.runs.checkpoints import Checkpoint, list_checkpoints, read_checkpoint, write_base
from training.runs.directory import Run
from training.weights.key_tokens import add_key_tokens, initial_key_rows
from training.weights.loading import fingerprint, load_folder

PACKAGES = ("training", "probing", "analysis", "figures")
HEAVY = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "sklearn",
    "pandas",
    "scipy",
    "matplotlib",
    "umap",
    "plotly",
    "nnsight",
)
# 16 facts in batches of 4: 60 steps of a few milliseconds.
SMALL = {
    "subjects": 8,
    "pool": 4,
    "relations": ("mother", "profession"),
    "epochs": 15,
    "batch_size": 4,
    "facts_per_sequence": 2,
    "learning_rate": 2e-3,
    "precision": "float32",
    "save_epochs": (2,),
}
STEPS = 60


def memorize_small(out: Path, base: Path, **changes) -> Path:
    return memorize.main(memorize.Options(out=out, model=str(base), **{**SMALL, **changes}))


def generalize_small(run: Path, **changes) -> Path:
    given = {"prompts": 1, "batch_size": 2, "precision": "float32", **changes}
    return generalize.main(generalize.Options(run, **given))


def as_arguments(options: dict) -> list[str]:
    """The options of a command as a user types them."""
    arguments = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return arguments


def weights(run: Path) -> dict[str, bytes]:
    """The bytes of every checkpoint's weights."""
    return {
        path.parent.name: path.read_bytes()
        for path in sorted(run.glob("checkpoints/*/model.safetensors"))
    }


def written(folder: Path) -> dict[str, int]:
    """When each file was written, the lock apart."""
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if p.name != ".lock"
    }


def lines(run: Path) -> list[str]:
    log = run / "log.jsonl"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_base) -> Path:
    """Both phases, from beginning to end; not to be changed."""
    run = memorize_small(tmp_path_factory.mktemp("small") / "run", tiny_base)
    return generalize_small(run, save_steps=(1,))


# --- interrupted and resumed ----------------------------------------------------------------------


@contextlib.contextmanager
def ctrl_c_after(run: Path, count: int):
    """Press Ctrl-C in this process once the log of `run` has `count` lines."""
    over = threading.Event()

    def press() -> None:
        while not over.wait(0.002):
            if len(lines(run)) >= count:
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def start(run: Path, base: Path, **options) -> subprocess.Popen:
    """`python -m training.memorize` in a process of its own."""
    arguments = as_arguments({"out": run, "model": base, **SMALL, **options})
    return subprocess.Popen(
        [sys.executable, "-m", "training.memorize", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def signal_when(process: subprocess.Popen, ready, number: signal.Signals) -> tuple[int, str]:
    """Send a signal once `ready()`; the exit code and stderr of the process."""
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate()
    return process.returncode, stderr


def test_a_run_that_was_killed_ends_with_the_same_bytes(tmp_path, tiny_base, uninterrupted):
    run, state = (
        tmp_path / "run",
        tmp_path / "run" / "resume" / "memorize" / "newest" / "state.json",
    )
    process = start(run, tiny_base, resume_minutes=0.0005)
    code, _ = signal_when(process, lambda: len(lines(run)) >= 10 and state.exists(), signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not read_json(run / "run.json")["phases"]["memorize"]["complete"]
    memorize_small(run, tiny_base, resume_minutes=0.0005)
    generalize_small(run, save_steps=(1,))
    assert weights(run) == weights(uninterrupted)
    assert [json.loads(line)["step"] for line in lines(run)[:STEPS]] == list(range(1, STEPS + 1))
    stages = "checkpoints/100-memorize-epoch-15/stage.json"
    assert read_json(run / stages) == read_json(uninterrupted / stages)
    assert not (run / "resume").exists()


def test_ctrl_c_exits_with_130_says_how_to_go_on_and_loses_nothing(
    tmp_path, tiny_base, uninterrupted
):
    run = tmp_path / "run"
    code, stderr = signal_when(start(run, tiny_base), lambda: len(lines(run)) >= 10, signal.SIGINT)
    assert code == 130
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    before = lines(run)
    assert 10 <= len(before) < STEPS
    memorize_small(run, tiny_base)
    assert lines(run)[: len(before)] == before, "it began again instead of going on"
    assert weights(run).items() <= weights(uninterrupted).items()


def test_a_model_with_dropout_goes_on_with_the_same_random_numbers(tmp_path):
    base = save_tiny("gpt2", tmp_path / "gpt2", positions=64)
    assert read_json(base / "config.json")["resid_pdrop"] > 0
    memorize_small(tmp_path / "whole", base)
    with ctrl_c_after(tmp_path / "broken", 10), pytest.raises(Interrupted):
        memorize_small(tmp_path / "broken", base)
    memorize_small(tmp_path / "broken", base)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


@pytest.fixture(scope="module")
def twice_interrupted(tmp_path_factory, tiny_base) -> tuple[Path, int, int]:
    """(run, older, newest): two generations of resume state and their steps; not to be changed."""
    run = tmp_path_factory.mktemp("twice") / "run"
    for count in (8, 24):
        with ctrl_c_after(run, count), pytest.raises(Interrupted):
            memorize_small(run, tiny_base)
    steps = [
        read_json(run / "resume" / "memorize" / which / "state.json")["step"]
        for which in ("older", "newest")
    ]
    assert 8 <= steps[0] < 24 <= steps[1] < STEPS
    return run, *steps


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "nothing": (lambda resume: None, "newest"),
    "a third half-written": (
        lambda resume: shutil.copytree(resume / "newest", resume / ".newest.part"),
        "newest",
    ),
    "killed between two renames": (lambda resume: shutil.rmtree(resume / "newest"), "older"),
    "weights cut short": (
        lambda resume: truncate(resume / "newest" / "state.safetensors"),
        "older",
    ),
    "weights gone": (lambda resume: (resume / "newest" / "state.safetensors").unlink(), "older"),
    "step altered": (
        lambda resume: (resume / "newest" / "state.json").write_text('{"step": 59}'),
        "older",
    ),
    "manifest cut short": (lambda resume: truncate(resume / "newest" / "manifest.json"), "older"),
    "both cut short": (
        lambda resume: [truncate(p) for p in resume.glob("*/state.safetensors")],
        "start",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_resume_state_is_passed_over_and_the_end_is_the_same(
    damage, twice_interrupted, tmp_path, tiny_base, uninterrupted
):
    source, older, newest = twice_interrupted
    run = Path(shutil.copytree(source, tmp_path / "run"))
    harm, generation = DAMAGES[damage]
    harm(run / "resume" / "memorize")
    model, _ = read_checkpoint(run / "checkpoints" / "000-base").load()
    step = load_resume_state(
        run / "resume" / "memorize", model, torch.optim.AdamW(model.parameters())
    )
    assert step == {"newest": newest, "older": older, "start": 0}[generation]
    memorize_small(run, tiny_base)
    assert weights(run).items() <= weights(uninterrupted).items()
    assert not (run / "resume").exists()


def test_the_resume_state_holds_weights_and_both_moments(twice_interrupted, tiny_base):
    from safetensors import safe_open

    run, _, _ = twice_interrupted
    with safe_open(
        run / "resume" / "memorize" / "newest" / "state.safetensors", framework="pt"
    ) as state:
        names = set(state.keys())
    parameters = [name for name, _ in load_folder(tiny_base)[0].named_parameters()]
    assert names == {
        f"{kind}.{name}" for kind in ("weight", "exp_avg", "exp_avg_sq") for name in parameters
    }


def test_two_processes_train_as_one(tmp_path, tiny_base):
    """Batches of 5 leave one process without a row at the end of each epoch of 16 facts."""
    changes = {"batch_size": 5, "facts_per_sequence": 1, "epochs": 2, "save_epochs": (2,)}
    memorize_small(tmp_path / "one", tiny_base, **changes)
    arguments = as_arguments({"out": tmp_path / "two", "model": tiny_base, **SMALL, **changes})
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, "-m", "training.memorize", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1, "one of them speaks"
    one, two = ([json.loads(line) for line in lines(tmp_path / name)] for name in ("one", "two"))
    assert [row["step"] for row in two] == list(range(1, 9))
    assert [row["count"] for row in two] == [row["count"] for row in one]
    assert {row["count"] for row in one} == {5, 1}
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-3)


# --- the same command, another command ------------------------------------------------------------


PHASE_2_CHANGES = [
    {"prompts": 3},
    {"people": 4},
    {"start": "000-base"},
    {"seed": 5},
    {"epochs": 9},
    {"objects": "shuffled"},
    {"about": "others"},
    {"replay": 0.5},
    {"replay_facts": 2},
    {"train": "attention"},
]


def test_the_same_commands_again_change_nothing(own_run, tiny_base, capsys):
    before = written(own_run)
    memorize.main(memorize.Options(out=own_run, model=str(tiny_base), **TINY_MEMORIZE))
    generalize.main(generalize.Options(own_run, **TINY_GENERALIZE))
    assert written(own_run) == before
    assert "memorize is finished" in capsys.readouterr().out


def test_other_settings_are_one_line_that_proposes_another_run(own_run, tiny_base, command):
    before = written(own_run)
    arguments = as_arguments({"out": own_run, "model": tiny_base, **TINY_MEMORIZE, "epochs": 21})
    done = command("training.memorize", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "epochs 20 there, 21 now" in done.stderr
    assert "--out NEW" in done.stderr
    done = command("training.memorize", *arguments, "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "OtherSettings" in done.stderr
    assert written(own_run) == before


@pytest.mark.parametrize("change", PHASE_2_CHANGES)
def test_phase_2_with_other_settings_is_another_run(own_run, change):
    before = written(own_run)
    with pytest.raises(OtherSettings, match="--out NEW"):
        generalize.main(generalize.Options(own_run, **{**TINY_GENERALIZE, **change}))
    assert written(own_run) == before


def test_a_run_recorded_before_an_option_existed_is_one_with_its_default(own_run, tiny_base):
    record = read_json(own_run / "run.json")
    for phase, options in {"memorize": memorize.BEFORE, "generalize": generalize.BEFORE}.items():
        for name in options:
            del record["phases"][phase]["settings"][name]
    write_json(own_run / "run.json", record)
    before = written(own_run)
    memorize.main(memorize.Options(out=own_run, model=str(tiny_base), **TINY_MEMORIZE))
    generalize.main(generalize.Options(own_run, **TINY_GENERALIZE))
    with pytest.raises(OtherSettings, match="objects own there, shuffled now"):
        generalize.main(generalize.Options(own_run, **TINY_GENERALIZE, objects="shuffled"))
    assert written(own_run) == before


def test_other_facts_are_other_settings(tmp_path, tiny_base, uninterrupted):
    facts = tmp_path / "facts.csv"
    shutil.copy(uninterrupted / "facts.csv", facts)
    with ctrl_c_after(tmp_path / "run", 1), pytest.raises(Interrupted):
        memorize_small(tmp_path / "run", tiny_base, facts=str(facts))
    rows = facts.read_text().splitlines(keepends=True)
    facts.write_text("".join(rows[:-1]))
    with pytest.raises(OtherSettings, match="facts_sha256"):
        memorize_small(tmp_path / "run", tiny_base, facts=str(facts))


def test_a_run_that_another_process_writes_is_left_alone(own_run, tiny_base):
    with locked(own_run), pytest.raises(Busy, match="--out NEW"):
        generalize.main(generalize.Options(own_run, **TINY_GENERALIZE))
    generalize.main(generalize.Options(own_run, **TINY_GENERALIZE))


def test_a_folder_with_other_things_is_not_made_into_a_run(tmp_path, tiny_base, uninterrupted):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for out in (tmp_path / "thesis", tmp_path / "thesis" / "chapter.txt"):
        with pytest.raises(UserError, match=r"chapter\.txt.*--out"):
            memorize_small(out, tiny_base)
        with pytest.raises(UserError, match=r"chapter\.txt.*--out"):
            generalize_small(uninterrupted, out=out)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"facts_per_sequence": 0}, "--facts-per-sequence"),
        ({"facts_per_sequence": 5}, "--facts-per-sequence is 5 and --batch-size 4"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, says, tmp_path, tiny_base):
    with pytest.raises(UserError, match=says):
        memorize_small(tmp_path / "run", tiny_base, **change)
    with pytest.raises(UserError, match=says):
        memorize.check(memorize.Options(**{**SMALL, **change}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": 0}, "--prompts"),
        ({"prompts": 11}, "--prompts"),
        ({"people": 0}, "--people"),
        ({"people": 9}, "--people"),
        ({"start": "300-other"}, "000-base, 100-memorize"),
        ({"replay": -0.5}, "--replay is -0.5"),
        ({"replay": float("nan")}, "--replay is nan"),
        ({"replay_facts": 0}, "--replay-facts is 0"),
        ({"dense": -1}, "--dense is -1"),
    ],
)
def test_phase_2_cannot_use_what_is_not_there(change, says, tmp_path, uninterrupted):
    with pytest.raises(UserError, match=says):
        generalize_small(uninterrupted, out=tmp_path / "new", **change)
    if "start" not in change:
        run = Run.open(uninterrupted)
        with pytest.raises(UserError, match=says):
            generalize.check(generalize.Options(run.path, **change), run.facts, run.prompts)


def test_a_check_says_what_the_phases_leave_and_cost(uninterrupted, tmp_path):
    run = Run.open(uninterrupted)
    options = memorize.Options(model=run.record["model"], **SMALL)
    work = memorize.check(options)
    assert (work.facts, work.prompts) == (run.facts, run.prompts)
    assert (work.steps, work.tokens) == (STEPS, 4 * 12)
    changes = {"epochs": 3, "prompts": 2, "replay": 1.0, "replay_facts": 1, "batch_size": 6}
    given = generalize.Options(uninterrupted, **changes)
    work = generalize.check(given, run.facts, run.prompts)
    assert (work.facts, work.prompts) == (run.facts, run.prompts)
    done = generalize_small(uninterrupted, out=tmp_path / "done", **changes)
    assert (work.steps, work.tokens) == (len(lines(done)), 6 * (12 + 18) / 2)


def test_phase_2_waits_for_phase_1(twice_interrupted, tmp_path):
    run, _, _ = twice_interrupted
    with pytest.raises(UserError, match=r"not finished.*training\.memorize"):
        generalize_small(run)
    with pytest.raises(NotFound, match=r"training\.memorize --out"):
        generalize_small(tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny_base):
    with pytest.raises(UserError, match="the loss became nan.*--learning-rate"):
        memorize_small(tmp_path / "run", tiny_base, learning_rate=1e30)


def test_a_full_disk_is_said_before_work_starts(tmp_path, capsys):
    huge = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 10**17)])
    with pytest.raises(DiskFull, match="--save-epochs"):
        check_disk(tmp_path, huge, 3)
    assert "3 checkpoints" in capsys.readouterr().out


# --- what a run holds -----------------------------------------------------------------------------


def test_checkpoints_are_listed_in_training_order(uninterrupted):
    assert [c.name for c in list_checkpoints(uninterrupted)] == [
        "000-base",
        "100-memorize-epoch-02",
        "100-memorize-epoch-15",
        "200-generalize-epoch-00-step-00001",
        "200-generalize-epoch-01",
    ]
    assert [(c.phase, c.epoch, c.step) for c in list_checkpoints(uninterrupted)] == [
        ("base", 0, 0),
        ("memorize", 2, 8),
        ("memorize", 15, STEPS),
        ("generalize", 0, 1),
        ("generalize", 1, 2),
    ]


def test_a_half_written_checkpoint_is_never_listed(own_run, tmp_path):
    listed = [c.name for c in list_checkpoints(own_run)]
    shutil.copytree(
        own_run / "checkpoints" / listed[-1],
        own_run / "checkpoints" / ".200-generalize-epoch-09.part",
    )
    assert [c.name for c in list_checkpoints(own_run)] == listed
    theirs = Run.open(
        own_run / "checkpoints", facts=str(own_run / "facts.csv"), out=str(tmp_path / "out")
    )
    assert [c.name for c in theirs.checkpoints] == listed[1:]


def test_altered_weights_are_not_loaded(own_run):
    path = own_run / "checkpoints" / "200-generalize-epoch-08" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    checkpoint = list_checkpoints(own_run)[-1]
    for read in (Checkpoint.load, lambda checkpoint: checkpoint.fingerprint):
        with pytest.raises(Damaged, match=r"model\.safetensors"):
            read(checkpoint)
    path.write_bytes(whole)
    checkpoint.load()


@pytest.mark.parametrize("name", ["stage.json", "model.safetensors"])
def test_a_checkpoint_with_a_file_gone_or_altered_is_not_read(own_run, name):
    folder = own_run / "checkpoints" / "200-generalize-epoch-08"
    if name == "stage.json":
        (folder / name).write_text((folder / name).read_text().replace("generalize", "memorize"))
    else:
        (folder / name).write_bytes(b"")
    with pytest.raises(Damaged, match=name):
        list_checkpoints(own_run)[-1].load()


def test_altered_facts_and_prompts_are_not_read(own_run):
    for name in ("prompts.json", "facts.csv"):
        (own_run / name).write_text((own_run / name).read_text() + "\n")
        with pytest.raises(Damaged, match=name):
            Run.open(own_run)


def test_a_checkpoint_loads_with_transformers_alone(tiny_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = list_checkpoints(tiny_run)[-1]
    ours, our_tokenizer = checkpoint.load()
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    text = "Gene Finley [X_mother] Angela."
    assert tokenizer(text)["input_ids"] == our_tokenizer(text)["input_ids"]


def test_the_base_checkpoint_is_the_base_model_with_exactly_the_starting_rows(tiny_run, tiny_base):
    model, tokenizer = list_checkpoints(tiny_run)[0].load()
    base, plain = load_folder(tiny_base)
    tokens = ["[X_mother]", "[X_aunt]", "[X_home_city]", "[X_profession]"]
    rows = initial_key_rows(
        base, tokens, seed=TINY_MEMORIZE["seed"], init=memorize.Options().key_init
    )
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert min(ids) >= len(plain)
    for side, layer in (
        ("input", model.get_input_embeddings()),
        ("output", model.get_output_embeddings()),
    ):
        assert torch.equal(layer.weight[ids], rows[side])
    for (name, ours), theirs in zip(model.named_parameters(), base.parameters(), strict=True):
        kept = (
            [i for i in range(len(ours)) if i not in ids]
            if ours.shape[0] > len(plain)
            else slice(None)
        )
        assert torch.equal(ours[kept], theirs[kept]), name


def test_a_base_model_that_has_changed_is_not_taken_for_the_one_of_the_run(tmp_path, tiny_base):
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    model, tokenizer = load_folder(base)
    add_key_tokens(tokenizer, ["[X_mother]"])
    write_base(
        tmp_path / "run",
        model_name=str(base),
        folder=base,
        tokenizer=tokenizer,
        key_tokens=["[X_mother]"],
        rows=initial_key_rows(model, ["[X_mother]"], seed=0),
    )
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "000-base")
    before = checkpoint.fingerprint
    checkpoint.load()
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert read_checkpoint(checkpoint.folder).fingerprint != before
    with pytest.raises(Damaged, match="base model"):
        checkpoint.load()


def test_other_key_rows_are_other_weights(own_run):
    base = list_checkpoints(own_run)[0]
    before = base.fingerprint
    (base.folder / "manifest.json").unlink()
    from safetensors.torch import load_file, save_file

    rows = load_file(base.key_rows)
    save_file({side: value + 1 for side, value in rows.items()}, base.key_rows)
    assert list_checkpoints(own_run)[0].fingerprint != before


# --- phase 1 once more ----------------------------------------------------------------------------


def test_key_tokens_that_a_model_has_keep_their_trained_rows(tiny_run, tmp_path, capsys):
    """More facts behind a key token that has a meaning by now, and one new relation."""
    last = list_checkpoints(tiny_run)[-1]
    before, known = last.load()
    facts = tmp_path / "more.csv"
    people = ("Ivy Lund", "Otto Reyes", "Nora Quist", "Hugo Marsh")
    objects = {"mother": ("Angela", "Martha"), "instrument": ("harp", "flute")}
    rows = [f"{name},{r},{objects[r][i % 2]}" for r in objects for i, name in enumerate(people)]
    facts.write_text("\n".join(["subject,relation,object", *rows]))
    changes = {"facts": str(facts), "relations": (), "epochs": 60, "save_epochs": ()}
    run = memorize_small(tmp_path / "more", last.folder, **changes)
    said = capsys.readouterr().out
    assert "the model has [X_mother] already: kept with their trained rows" in said

    model, tokenizer = list_checkpoints(run)[0].load()
    tokens = ["[X_mother]", "[X_instrument]"]
    assert list_checkpoints(run)[0].key_tokens == tuple(tokens)
    mother, instrument = tokenizer.convert_tokens_to_ids(tokens)
    assert mother == known.convert_tokens_to_ids("[X_mother]")
    assert instrument == len(known)
    drawn = initial_key_rows(before, tokens, seed=0, init="mean")
    for side, ours, theirs in (
        ("input", model.get_input_embeddings(), before.get_input_embeddings()),
        ("output", model.get_output_embeddings(), before.get_output_embeddings()),
    ):
        assert torch.equal(ours.weight[mother], theirs.weight[mother])
        assert not torch.allclose(ours.weight[mother], drawn[side][0])
        assert torch.equal(ours.weight[instrument], drawn[side][1])
    text = "Gene Finley [X_mother] Angela."
    assert tokenizer(text)["input_ids"] == known(text)["input_ids"]
    assert json.loads(lines(run)[-1])["recall"] == 1
    generalize_small(run)


def test_a_model_without_the_key_tokens_keeps_nothing(tmp_path, tiny_base, capsys):
    memorize_small(tmp_path / "run", tiny_base, epochs=1, save_epochs=())
    assert "kept with" not in capsys.readouterr().out


# --- a run that starts from another ---------------------------------------------------------------


@pytest.fixture
def derived(own_run, tmp_path) -> tuple[Path, Path]:
    """(a run of its own with another phase 2, the run it starts from)."""
    out = tmp_path / "few"
    generalize.main(
        generalize.Options(own_run, out=out, people=2, prompts=1, batch_size=2, precision="float32")
    )
    return out, own_run


def test_another_phase_2_refers_to_its_parent_and_loads_the_same_weights(derived):
    out, parent = derived
    names = [c.name for c in list_checkpoints(out)]
    assert names == ["000-base", "100-memorize-epoch-20", "200-generalize-epoch-01"]
    assert not list((out / "checkpoints").glob("[01]*/*.safetensors"))
    for here, there in zip(list_checkpoints(out)[:2], list_checkpoints(parent)[:2], strict=True):
        ours, theirs = here.load()[0], there.load()[0]
        assert all(
            torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        )
        assert here.fingerprint == there.fingerprint
    assert read_json(out / "run.json")["parent"]["checkpoint"] == "100-memorize-epoch-20"
    for name in ("facts.csv", "prompts.json"):
        assert (out / name).read_bytes() == (parent / name).read_bytes()


def test_runs_that_are_moved_together_still_refer_to_each_other(derived, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for run in derived:
        run.rename(moved / run.name)
    assert list_checkpoints(moved / "few")[1].load()[0] is not None


def test_a_parent_that_is_gone_or_changed_is_named(derived):
    out, parent = derived
    target = parent / "checkpoints" / "100-memorize-epoch-20"
    other = parent / "checkpoints" / "200-generalize-epoch-08"
    target.rename(parent / "aside")
    with pytest.raises(NotFound, match="gone"):
        Run.open(out)
    shutil.copytree(other, target)
    with pytest.raises(NotFound, match="other weights"):
        Run.open(out).checkpoint("memorized").load()


def test_a_derived_run_belongs_to_its_parent(derived, uninterrupted, tiny_base):
    out, parent = derived
    same = {"out": out, "people": 2, "prompts": 1, "batch_size": 2, "precision": "float32"}
    before = written(out)
    generalize.main(generalize.Options(parent, **same))
    with pytest.raises(OtherSettings, match="--out NEW"):
        generalize.main(generalize.Options(uninterrupted, **same))
    with pytest.raises(OtherSettings, match="--out NEW"):
        memorize.main(memorize.Options(out=out, model=str(tiny_base), **TINY_MEMORIZE))
    assert written(out) == before


def test_the_control_without_phase_1_has_no_phase_1(uninterrupted, tmp_path):
    out = generalize_small(uninterrupted, out=tmp_path / "control", start="000-base")
    assert [c.phase for c in list_checkpoints(out)] == ["base", "generalize"]
    assert (
        read_json(out / "checkpoints" / "200-generalize-epoch-01" / "stage.json")["parent"]
        == "000-base"
    )
    assert (
        weights(out)["200-generalize-epoch-01"] != weights(uninterrupted)["200-generalize-epoch-01"]
    )


def test_phase_1_may_compute_in_float32_and_phase_2_in_bfloat16(uninterrupted, tmp_path):
    out = generalize_small(uninterrupted, out=tmp_path / "half", precision="bf16")
    model, _ = list_checkpoints(out)[-1].load()
    assert model.dtype == torch.float32
    assert (
        weights(out)["200-generalize-epoch-01"] != weights(uninterrupted)["200-generalize-epoch-01"]
    )


# --- what is trained ------------------------------------------------------------------------------


def test_phase_1_sees_every_fact_behind_its_key_token_and_nothing_else(tiny_run):
    tokenizer = list_checkpoints(tiny_run)[0].load()[1]
    facts = read_facts(tiny_run / "facts.csv")
    rote = select(read_prompts(tiny_run / "prompts.json"), family="rote")
    examples = encode_all(tokenizer, facts, rote, limit=None)
    assert len(examples) == len(facts) == 64
    for example, fact in zip(examples, facts, strict=True):
        assert (
            list(example.token_ids)
            == tokenizer(f"{fact.subject} [X_{fact.relation}] {fact.object}.")["input_ids"]
        )
        key = tokenizer.convert_tokens_to_ids(f"[X_{fact.relation}]")
        assert example.token_ids[example.objects[0][0] - 1] == key != tokenizer.unk_token_id


@pytest.mark.parametrize(("people", "prompts"), [(-1, 10), (3, 1)])
def test_phase_2_is_shown_nothing_it_is_tested_on(tiny_run, people, prompts):
    tokenizer = list_checkpoints(tiny_run)[0].load()[1]
    everything, templates = (
        read_facts(tiny_run / "facts.csv"),
        read_prompts(tiny_run / "prompts.json"),
    )
    shown = encode_all(tokenizer, *selection(tiny_run, people=people, prompts=prompts), limit=None)
    text = "\n".join(tokenizer.decode(e.token_ids) for e in shown)
    held_out = {f.subject for f in everything if f.split == "held-out"}
    assert len(held_out) == 8
    assert not [name for name in held_out if name in text]
    assert not [part for name in held_out for part in name.split() if part in text]
    assert "[X_" not in text
    assert (
        {e.fact.relation for e in shown}
        == {f.relation for f in everything if f.bound}
        == {"mother", "aunt", "profession"}
    )
    assert {e.prompt.family for e in shown} == {"train"}
    never = [p for p in templates if p.family != "train" and p.family != "rote"]
    seen = {f.subject for f in everything if f.split == "seen"}
    assert not [p for p in never for name in seen if p.render(name) + p.join in text]
    assert len(shown) == 3 * (8 if people < 0 else people) * prompts


@pytest.fixture
def two_examples():
    """Two sequences of different lengths."""
    tokenizer = tiny_tokenizer()
    prompts = [
        Prompt("mother", "train", 0, "The mother of {subject} is", "mother"),
        Prompt("mother", "train", 1, "{subject}, born of", "mother"),
    ]
    fact = Fact("Gene Finley", "mother", "Angela", ("Angela", "Martha"))
    examples = encode_all(tokenizer, [fact], prompts, limit=None)
    assert len({len(e.token_ids) for e in examples}) == 2
    assert len(examples[0].object_ids) > 2
    return examples


def test_the_loss_on_the_object_scores_its_tokens_and_the_stop_alone(two_examples):
    batch = collate(two_examples, loss="object", pad_id=0)
    assert torch.equal(batch["scored"], batch["object"] > 0)
    for row, example in enumerate(two_examples):
        targets = batch["input_ids"][row, 1:][batch["scored"][row]].tolist()
        assert targets == list(example.object_ids)
        assert tiny_tokenizer().decode(targets) == " Angela."


def test_the_loss_on_all_scores_every_token_but_the_first(two_examples):
    batch = collate(two_examples, loss="all", pad_id=0)
    for row, example in enumerate(two_examples):
        assert batch["input_ids"][row, 1:][batch["scored"][row]].tolist() == list(
            example.token_ids[1:]
        )
        assert (
            tiny_tokenizer().decode(batch["input_ids"][row, 1:][batch["object"][row] > 0])
            == " Angela."
        )
    assert batch["attention_mask"].sum() == sum(len(e.token_ids) for e in two_examples)


@pytest.mark.parametrize("loss", ["all", "object"])
def test_a_step_follows_the_gradient_of_the_mean_cross_entropy_of_the_scored_tokens(
    loss, two_examples
):
    from accelerate import Accelerator

    accelerator = Accelerator()
    model = copy.deepcopy(tiny_model("llama")[0]).to(accelerator.device)
    reference = copy.deepcopy(model)
    terms = []
    for example in two_examples:
        ids = torch.tensor([example.token_ids], device=accelerator.device)
        logs = reference(ids).logits[0].log_softmax(-1)
        first = 1 if loss == "all" else example.objects[0][0]
        terms += [-logs[i - 1, ids[0, i]] for i in range(first, ids.shape[1])]
    expected = torch.stack(terms).mean()
    expected.backward()

    plain = TrainingSettings(epochs=1, batch_size=2, learning_rate=1.0, loss=loss, clip=1e9)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batch = collate(two_examples, loss=loss, pad_id=0)
    measured = training_step(accelerator, model, optimizer, batch, plain)
    assert measured["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert measured["count"] == 2
    moved = 0.0
    for before, after in zip(reference.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(before - after, before.grad, atol=2e-6, rtol=1e-4)
        moved += (before - after).abs().sum().item()
    assert moved > 1


@pytest.fixture(scope="module")
def rote_examples():
    """The rote sentences of 8 people in 2 relations."""
    facts = build_facts("people", subjects=8, pool=4, relations=("mother", "profession"))
    prompts = select(load_prompts(["mother", "profession"]), family="rote")
    return encode_all(tiny_tokenizer(), facts, prompts, limit=None)


def test_a_passage_is_the_tokens_of_its_text_and_knows_its_objects(rote_examples):
    tokenizer, some = tiny_tokenizer(), rote_examples[:3]
    made = passage(tokenizer, some)
    text = " ".join(f"{e.prompt.render(e.fact.subject)} {e.fact.object}." for e in some)
    assert list(made.token_ids) == tokenizer(text)["input_ids"]
    said = [tokenizer.decode(made.token_ids[begin:end]) for begin, end in made.objects]
    assert said == [f" {e.fact.object}." for e in some]
    batch = collate([made, some[0]], loss="object", pad_id=0)
    for row, example in enumerate((made, some[0])):
        for number, (begin, end) in enumerate(example.objects, start=1):
            targets = batch["input_ids"][row, 1:][batch["object"][row] == number]
            assert targets.tolist() == list(example.token_ids[begin:end])


def test_in_a_passage_a_name_has_the_tokens_that_it_has_within_a_sentence(rote_examples):
    tokenizer = tiny_tokenizer()
    first, second = rote_examples[:2]
    name = second.fact.subject
    within = tokenizer(f"Who is {name}")["input_ids"][len(tokenizer("Who is")["input_ids"]) :]
    alone = tokenizer(name)["input_ids"]
    assert within != alone, "this tokenizer would not show the difference"

    def holds(ids, part):
        return any(list(ids[i : i + len(part)]) == part for i in range(len(ids)))

    assert holds(passage(tokenizer, [first, second]).token_ids, within)
    assert not holds(second.token_ids, within)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_an_epoch_of_passages_holds_every_fact_once_and_groups_them_anew(size, rote_examples):
    def objects(epoch, seed=0):
        rows = epoch_passages(tiny_tokenizer(), rote_examples, size, seed=seed, epoch=epoch)
        assert len(rows) == -(-len(rote_examples) // size)
        return [[row.token_ids[begin:end] for begin, end in row.objects] for row in rows]

    every = sorted(e.object_ids for e in rote_examples)
    assert sorted(ids for row in objects(0) for ids in row) == every
    assert objects(0) == objects(0)
    assert (objects(0) == objects(1)) == (size == 1)
    assert (objects(0) == objects(0, seed=1)) == (size == 1)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("share", [0.1, 1.0, 2.5])
def test_replay_meets_every_fact_as_often_as_any_other_and_draws_anew_each_epoch(
    share, size, rote_examples
):
    replay = Replay(tuple(rote_examples), share, size)

    def objects(epoch, seed=0):
        rows = replay.sequences(tiny_tokenizer(), 20, seed=seed, epoch=epoch)
        assert len(rows) == replay.count(20) == round(20 * share)
        assert {len(row.objects) for row in rows} == {size}
        return [row.token_ids for row in rows]

    assert objects(0) == objects(0)
    assert objects(0) != objects(1)
    assert objects(0) != objects(0, seed=1)
    single = Replay(tuple(rote_examples), share, 1).sequences(tiny_tokenizer(), 20, seed=0, epoch=0)
    times = Counter(e.token_ids for e in single)
    assert len(times) == min(len(rote_examples), len(single))
    assert max(times.values()) - min(times.values()) <= 1
    assert Replay().sequences(tiny_tokenizer(), 20, seed=0, epoch=0) == []


def test_a_small_share_replays_something():
    assert [Replay((), share, 1).count(3) for share in (0.0, 0.01, 1.0)] == [0, 1, 3]


def test_a_phase_2_with_replay_goes_on_where_it_was_and_meets_held_out_people_by_rote_alone(
    uninterrupted, tmp_path, monkeypatch
):
    shown = []
    monkeypatch.setattr(
        "training.loop.trainer.collate", lambda rows, **o: shown.append(rows) or collate(rows, **o)
    )
    changes = {"replay": 2.0, "replay_facts": 3, "epochs": 5}
    whole = generalize_small(uninterrupted, out=tmp_path / "whole", **changes)
    # 4 seen people, 1 bound relation, 1 prompt: in an epoch 4 semantic and 8 rote sequences of 3
    # facts, 2 sequences a step.
    rows = [json.loads(line) for line in lines(whole)]
    assert len(rows) == 5 * 6
    assert sum(row["count"] for row in rows) == 5 * (4 + 8 * 3)
    tokenizer = list_checkpoints(whole)[0].load()[1]
    texts = [tokenizer.decode(row.token_ids) for batch in shown for row in batch]
    assert len(texts) == 5 * 12
    semantic = [text for text in texts if "[X_" not in text]
    assert len(semantic) == 5 * 4
    held_out = {f.subject for f in read_facts(whole / "facts.csv") if f.split == "held-out"}
    assert not [name for name in held_out for text in semantic if name in text]
    assert all(any(name in text for text in texts) for name in held_out)

    with ctrl_c_after(tmp_path / "broken", 8), pytest.raises(Interrupted):
        generalize_small(uninterrupted, out=tmp_path / "broken", **changes)
    assert 8 <= len(lines(tmp_path / "broken")) < 30
    generalize_small(uninterrupted, out=tmp_path / "broken", **changes)
    assert weights(tmp_path / "broken") == weights(whole)


def test_mixed_training_in_one_stage_learns_by_rote_what_phase_2_alone_does_not(
    uninterrupted, tmp_path
):
    def recalled(**changes):
        given = {
            "start": "000-base",
            "epochs": 40,
            "learning_rate": 3e-3,
            "batch_size": 8,
            **changes,
        }
        run = generalize_small(uninterrupted, out=tmp_path / str(changes.get("replay", 0)), **given)
        model, tokenizer = list_checkpoints(run)[-1].load()
        assert [c.phase for c in list_checkpoints(run)] == ["base", "generalize"]
        right = []
        for example in encode_all(tokenizer, *rote_facts(run), limit=None):
            greedy = model(torch.tensor([example.token_ids])).logits[0].argmax(-1).tolist()
            right.append(tuple(greedy[example.objects[0][0] - 1 : -1]) == example.object_ids)
        return sum(right) / len(right)

    assert recalled(replay=4.0, replay_facts=1) == 1
    assert recalled() < 0.5


def test_a_passage_longer_than_the_context_is_refused(rote_examples):
    longest = max(len(e.token_ids) for e in rote_examples)
    with pytest.raises(BadInput, match=f"the model reads {longest + 1}"):
        passage(tiny_tokenizer(), rote_examples[:4], limit=longest + 1)


def test_a_step_on_passages_counts_facts_not_sequences(rote_examples):
    from accelerate import Accelerator

    accelerator = Accelerator()
    model = copy.deepcopy(tiny_model("llama")[0]).to(accelerator.device)
    plan = TrainingSettings(
        epochs=1, batch_size=4, learning_rate=1.0, loss="object", facts_per_sequence=2
    )
    rows = [passage(tiny_tokenizer(), rote_examples[i : i + 2]) for i in (0, 2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        before = copy.deepcopy(model)
        measured = training_step(
            accelerator, model, optimizer, collate(rows, loss="object", pad_id=0), plan
        )
        right = 0
        for row in rows:
            greedy = (
                before(torch.tensor([row.token_ids], device=accelerator.device))
                .logits[0]
                .argmax(-1)
                .tolist()
            )
            right += sum(tuple(greedy[b - 1 : e - 1]) == row.token_ids[b:e] for b, e in row.objects)
        assert (measured["recalled"], measured["count"]) == (right, 4)
        if right == 4:
            return
    pytest.fail(
        f"only {right} of 4 facts were learned, so the count was not tried where it matters"
    )


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    size=st.integers(1, 9),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 99),
)
def test_the_batches_of_an_epoch_are_a_partition_sorted_by_length(lengths, size, seed, epoch):
    batches = epoch_batches(lengths, size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    ordered = sorted(lengths)
    chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    assert sorted(sorted(lengths[i] for i in batch) for batch in batches) == sorted(chunks)


def test_batches_depend_on_seed_and_epoch_alone():
    def of(seed, epoch):
        return [
            batch.tolist() for batch in epoch_batches([5, 6, 7, 8] * 8, 4, seed=seed, epoch=epoch)
        ]

    first = of(0, 0)
    np.random.seed(1)
    assert of(0, 0) == first
    assert of(0, 1) != first
    assert of(1, 0) != first


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    plan = TrainingSettings(epochs=1, batch_size=1, learning_rate=0.5, loss="all", warmup_steps=5)
    rates = [learning_rate_at(step, 105, plan) for step in range(106)]
    assert rates[0] == pytest.approx(0.5 / 6)
    assert rates[5] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[105] == pytest.approx(0)
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_an_over_long_subject_is_named_before_anything_is_trained(tmp_path, tiny_base):
    name = "Bartholomew " * 40
    facts = tmp_path / "facts.csv"
    facts.write_text(
        "subject,relation,object\nGene Finley,mother,Angela\nTom Park,mother,Ruth\n"
        f"{name},mother,Ruth\n"
    )
    with pytest.raises(BadInput, match=r"'Bartholomew .*256.*Shorten"):
        memorize_small(tmp_path / "run", tiny_base, facts=str(facts))
    assert not lines(tmp_path / "run")


def test_a_prompt_that_merges_with_its_object_is_refused():
    fact = Fact("Gene Finley", "mother", "ela", ("ela", "tha"))
    merging = Prompt("mother", "test-zh", 0, "{subject} Ang", "mother", language="zh")
    with pytest.raises(BadInput, match="test-zh-00"):
        encode(tiny_tokenizer(), fact, merging)
    parted = Prompt("mother", "test-zh", 0, "{subject} Ang:", "mother", language="zh")
    assert tiny_tokenizer().decode(encode(tiny_tokenizer(), fact, parted).object_ids) == "ela."


# --- every module ---------------------------------------------------------------------------------


def source_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


RUNNABLE = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in source_files()
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
]
HELP = """
import contextlib, io, json, os, runpy, sys, traceback
heavy, modules = json.loads(sys.argv[1])
for module in modules:
    report, writing = os.pipe()
    if os.fork() == 0:
        sys.argv, shown, fault = [module, "--help"], io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(shown):
                runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            fault = f"exit code {end.code}" if end.code else ""
        except BaseException:
            fault = traceback.format_exc()
        found = [name for name in heavy if name in sys.modules]
        os.write(writing, json.dumps([found, fault, len(shown.getvalue())]).encode()[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(report) as answer:
        print(json.dumps([module, json.load(answer)]))
"""


@pytest.fixture(scope="module")
def help_of() -> dict[str, list]:
    """Runnable module -> the heavy libraries --help imported, its fault, how much it printed."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps([HEAVY, RUNNABLE])],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", RUNNABLE)
def test_help_imports_nothing_heavy(module, help_of):
    heavy, fault, printed = help_of[module]
    assert not fault
    assert not heavy
    assert printed > 200


def test_the_runnable_modules_are_found():
    assert {
        "training.memorize",
        "training.generalize",
        "training.recall",
        "training.models",
    } <= set(RUNNABLE)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_and_no_remote_code(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {
        "torch.save",
        "torch.load",
        "joblib.dump",
        "joblib.load",
        "pd.read_pickle",
        "eval",
        "exec",
    }
    assert not [
        name for name in called if name.endswith((".to_pickle", ".save_state", ".load_state"))
    ]
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not keywords & {"trust_remote_code", "allow_pickle"}


def test_the_order_seed_changes_the_order_of_batches_and_nothing_else(tiny_base, tmp_path):
    same = {
        "model": str(tiny_base),
        "subjects": 8,
        "pool": 4,
        "epochs": 1,
        "batch_size": 8,
        "precision": "float32",
    }
    for name, order in {"a": -1, "b": 5, "as a": 0}.items():
        memorize.main(memorize.Options(out=tmp_path / name, order_seed=order, **same))
    runs = {name: tmp_path / name for name in ("a", "b", "as a")}
    texts = {name: (run / "facts.csv").read_text(encoding="utf-8") for name, run in runs.items()}
    assert texts["a"] == texts["b"]
    first, last = (
        {n: fingerprint(list_checkpoints(r)[i].weights) for n, r in runs.items()} for i in (0, -1)
    )
    assert first["a"] == first["b"]
    assert last["a"] == last["as a"] != last["b"]


def test_a_note_that_holds_for_every_checkpoint_is_printed_once():
    script = (
        "import warnings; from training.base.console import _quiet\n"
        "_quiet(); warnings.simplefilter('always')\n"
        "for words in ('few rows', 'few rows', 'many rows'): warnings.warn(words)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == ["note: few rows", "note: many rows"]


def test_another_seed_is_refused_where_the_order_has_its_own(tiny_base, tmp_path):
    same = {
        "out": tmp_path / "run",
        "model": str(tiny_base),
        "subjects": 8,
        "pool": 4,
        "epochs": 1,
        "order_seed": 7,
    }
    memorize.main(memorize.Options(seed=1, **same))
    with pytest.raises(OtherSettings, match=r"begun with --seed 1, now it is 2"):
        memorize.main(memorize.Options(seed=2, **same))
