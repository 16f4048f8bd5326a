"""One task of a sweep, in whatever process: train the directory, measure it, hand back its rows.

What the commands print goes to the task's log. Failures are in the outcome; only Ctrl-C is raised.
"""

import contextlib
import os
import shutil
import socket
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.base.console import Interrupted
from training.base.errors import UserError
from training.base.files import read_json
from training.base.provenance import device_name
from training.grid.plan import Task
from training.grid.rows import headline_rows, training_rows
from training.grid.stages import Call
from training.runs.checkpoints import WeightsDropped
from training.runs.table_files import optional_table

KEPT_ON_RESET = ("states", "tables", ".lock")


@dataclass
class Outcome:
    """What came of a task: rows and failures by measurement ("": training), seconds by stage."""

    name: str
    seed: int | None = None
    rows: dict[str, list[dict]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    lacks_weights: bool = False
    """Nothing failed, but weights it needs were deleted: its chain must be trained again."""
    lost: str = ""
    """How its worker died (killed, out of memory, machine gone)."""


def run_task(task: Task) -> Outcome:
    """Train and measure one directory; what is there already is found and not done again."""
    outcome = Outcome(task.name, device=device_name())
    if task.cwd.is_dir():
        os.chdir(task.cwd)
    with _logged(task.log):
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"== {task.name}: process {os.getpid()} on {socket.gethostname()}, {now}")
        if task.reset:
            for path in task.folder.glob("*"):
                if path.name not in KEPT_ON_RESET:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        stage = task.call.stage
        parent = task.parent.folder if task.parent else None
        with _failure_into(outcome, "", stage.name):
            stage.module.main(task.call.build(run_dir=parent, out=task.folder))
            rows = training_rows(task.folder)
            outcome.rows[""] = [{"table": "training", **row, "phase": stage.name} for row in rows]
            outcome.seed = read_json(task.folder / "run.json")["seed"]
        if not outcome.failures and not outcome.lacks_weights:
            for key, call in task.measurements.items():
                with _failure_into(outcome, key, call.stage.name):
                    outcome.rows[key] = _measure(task, call)
    return outcome


def _measure(task: Task, call: Call) -> list[dict]:
    """Run a measuring command; the rows that its tables give the sweep."""
    stage = call.stage
    stage.module.main(call.build(run_dir=task.folder, out=str(task.folder)))
    rows = []
    for name in [stage.name, *(n for n in task.rows if n.startswith(f"{stage.name}_"))]:
        table = optional_table(task.folder, name)
        if table is not None:
            found = headline_rows(table, task.rows.get(name), name=name)
            rows += [{"table": name, **row} for row in found.to_dict("records")]
    return rows


@contextlib.contextmanager
def _failure_into(outcome: Outcome, key: str, stage: str) -> Iterator[None]:
    """Note in the outcome the seconds that the block took, or why it failed."""
    began = time.monotonic()
    try:
        yield
        outcome.seconds[stage] = round(time.monotonic() - began, 2)
    except (Interrupted, KeyboardInterrupt):
        raise
    except WeightsDropped:
        outcome.lacks_weights = True
    except UserError as error:
        print(f"{stage} failed: {error}")
        outcome.failures[key] = f"{stage}: {error}"
    except (Exception, SystemExit) as error:
        # Whatever a library raises, one run must not end the others.
        traceback.print_exc()
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        outcome.failures[key] = f"{stage}: {line} (its traceback is in the log)"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send what Python code prints, and its warnings, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        warnings.catch_warnings(),
    ):
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=file)
        yield
