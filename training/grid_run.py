"""One task of a sweep, in whatever process it is run: train the directory, measure it, hand back its rows.

What the commands print goes to the task's log. Nothing is raised but Ctrl-C: what went wrong is in the outcome, so
that one failing run leaves the others alone and can be sent from any process.
"""

import contextlib
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from training.console import Interrupted
from training.errors import UserError
from training.grid import Call
from training.plan import Job

KEPT_ON_RESET = ("states", "tables", ".lock")


@dataclass
class Outcome:
    """What came of a job. rows: key of the measurement ("" for the training) -> rows; seconds: stage -> seconds."""

    name: str
    seed: int | None = None
    rows: dict[str, list[dict]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Key of the measurement ("" for the training) -> what went wrong, in one line."""
    device: str = "cpu"
    """What it ran on."""
    lacks_weights: bool = False
    """Nothing failed, but weights that are needed were deleted: train the directory's chain anew."""


def run_job(job: Job) -> Outcome:
    """Train and measure one directory; what is there already is found and not done again."""
    from training.runs import device_name

    outcome = Outcome(job.name, device=device_name())
    if job.cwd.is_dir():
        os.chdir(job.cwd)
    with _logged(job.log):
        print(f"== {job.name}: process {os.getpid()} on {socket.gethostname()}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
        if job.reset:
            reset(job.folder)
        with _failure_into(outcome, "", job.call.stage.name):
            _train(job)
            outcome.rows[""] = _training_rows(job)
            from training.files import read_json

            outcome.seed = read_json(job.folder / "run.json")["seed"]
        for key, call in job.measurements if not outcome.failures and not outcome.lacks_weights else ():
            with _failure_into(outcome, key, call.stage.name):
                outcome.rows[key] = _measure(job, call)
    return outcome


def reset(folder: Path) -> None:
    """Make a directory untrained, keeping the states and tables that were computed in it."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in KEPT_ON_RESET:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _train(job: Job) -> None:
    ours = {"out": job.folder} if job.parent is None else {"run_dir": job.parent, "out": job.folder}
    import_module(job.call.stage.command).main(job.call.build(**ours))


def _training_rows(job: Job) -> list[dict]:
    from training.grid_rows import training_rows

    stage = job.call.stage
    rows = training_rows(job.folder, stage.phase)
    return [{"table": "training", **row, "phase": stage.name} for row in rows]


def _measure(job: Job, call: Call) -> list[dict]:
    """The rows that a measuring command's table gives the sweep."""
    from training.grid_rows import headline_rows
    from training.tables import TableMissing, read_table

    import_module(call.stage.command).main(call.build(run_dir=job.folder, out=str(job.folder)))
    names = [call.stage.name, *(n for n in job.rows if n.startswith(f"{call.stage.name}_"))]
    rows = []
    for name in names:
        try:
            table = read_table(job.folder, name)
        except TableMissing:
            continue
        found = headline_rows(table, job.rows.get(name), name=name)
        rows += [{"table": name, **row} for row in found.to_dict("records")]
    return rows


@contextlib.contextmanager
def _failure_into(outcome: Outcome, key: str, stage: str) -> Iterator[None]:
    """Turn what goes wrong in the block into a line of the outcome, and note the seconds of the stage."""
    from training.checkpoints import WeightsDropped

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
    except (Exception, SystemExit) as error:  # whatever a library raises, one run must not end the others
        traceback.print_exc()
        line = " ".join(str(error).split())[:300]
        outcome.failures[key] = f"{stage}: {type(error).__name__}: {line} (its traceback is in the log)"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send what Python code prints, and its warnings, to the end of a file."""
    import warnings

    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        warnings.catch_warnings(),
    ):
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=file)
        yield
