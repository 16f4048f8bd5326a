"""From the runs of a grid to the least work: one task per run directory, shared by all runs on it.

A task is one training stage and the measurements that runs want in its directory, in order. Two
runs whose settings agree up to a training stage share its task, so ten variants of phase 2 train
their phase 1 once. A directory's name is a digest of the settings up to there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.grid.file import Grid, GridRun
from training.grid.stages import Call, digest, identity


@dataclass(eq=False)
class Task:
    """What a worker does in one go: train a directory (unless it is trained), then measure it."""

    name: str
    """Of the directory in `work`: `generalize-3fa9c02b1d`."""
    work: Path
    call: Call
    parent: "Task | None"
    rows: Mapping[str, Mapping[str, tuple]]
    cwd: Path = field(default_factory=Path.cwd)
    rests: list[str] = field(default_factory=list)
    """Unfinished runs that rest on it, including those that end here."""
    measurements: dict[str, Call] = field(default_factory=dict)
    """Key -> measuring call, of the unfinished runs that end here."""
    state: str = "waiting"
    """waiting, sent, done or failed."""
    lost: int = 0
    """How often its worker died."""
    reset: bool = False
    """Train from scratch: its weights were deleted and are needed again."""

    @property
    def folder(self) -> Path:
        """Its run directory."""
        return self.work / self.name

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.work / "logs" / f"{self.name}.log"

    @property
    def chain(self) -> "list[Task]":
        """The tasks up to this one, from the base model on."""
        return [*(self.parent.chain if self.parent else []), self]


@dataclass(frozen=True)
class PlannedRun:
    """Run `index` of the grid: the tasks it rests on, in order; the keys of its measurements."""

    run: GridRun
    index: int
    chain: tuple[str, ...]
    measured: tuple[str, ...]


@dataclass
class Plan:
    """The runs of a grid by id, and the tasks that are left, by name, parents before children."""

    grid: Grid
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """Ids of the unfinished runs."""


def make_plan(
    grid: Grid, work: Path, baseline: Mapping[str, Mapping], finished: Collection[str] = ()
) -> Plan:
    """The tasks that are left once the runs `finished` are done. baseline: see `identity`."""
    plan = Plan(grid)
    for index, run in enumerate(grid.runs):
        chain, key = {}, ""
        for call in (c for c in run.calls if c.stage.trains):
            key = digest(key, identity(call, baseline))
            chain[f"{call.stage.name}-{key}"] = call
        measuring = [c for c in run.calls if not c.stage.trains]
        measured = {digest(key, identity(call, baseline)): call for call in measuring}
        run_id = "r" + digest(key, list(measured))
        if run_id in plan.runs:
            continue
        plan.runs[run_id] = PlannedRun(run, index, tuple(chain), tuple(measured))
        if run_id in finished:
            continue
        plan.left.append(run_id)
        parent = None
        for name, call in chain.items():
            task = plan.tasks.setdefault(name, Task(name, work, call, parent, grid.rows))
            task.rests.append(run_id)
            parent = task
        task.measurements.update(measured)
    return plan
