"""From the runs of a grid to the least work: one task a run directory, shared by all runs that rest on it.

A task is one training stage and the measuring stages that some run wants in its directory, in order. Two runs that
agree in their settings up to a training stage share its task, so ten variants of phase 2 train their phase 1 once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.grid import Call, Grid, PlannedRun, digest, identity


@dataclass
class Measurement:
    """One measuring stage in a task's directory, and the runs that want its rows."""

    key: str
    call: Call
    runs: list[str] = field(default_factory=list)


@dataclass
class Task:
    """What one process does at a time: train a directory (if it is not trained yet), then measure it."""

    name: str
    """Of the directory: `generalize-3fa9c02b1d`."""
    call: Call
    parent: str | None
    runs: list[str] = field(default_factory=list)
    """Unfinished runs that end in this directory."""
    rests: list[str] = field(default_factory=list)
    """Unfinished runs that rest on it, those that end here among them."""
    measurements: dict[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A task as it is sent to a worker: names, paths and options, nothing that belongs to this process."""

    name: str
    folder: Path
    parent: Path | None
    call: Call
    measurements: tuple[tuple[str, Call], ...]
    rows: Mapping[str, Mapping[str, tuple]]
    log: Path
    cwd: Path
    reset: bool = False
    """Train it anew: its weights were deleted and are needed again."""


@dataclass
class Plan:
    """The tasks of a grid by name, parents before children, and the id of every run."""

    grid: Grid
    work: Path
    ids: list[str]
    tasks: dict[str, Task]
    chains: dict[str, list[str]]
    """Run id -> the tasks it rests on, in order."""
    wanted: dict[str, list[str]]
    """Run id -> keys of its measurements."""

    def run(self, run_id: str) -> PlannedRun:
        """The run of an id."""
        return self.grid.runs[self.ids.index(run_id)]

    def job(self, task: Task, *, reset: bool = False) -> Job:
        """What a worker needs for a task."""
        return Job(
            task.name,
            self.work / task.name,
            self.work / task.parent if task.parent else None,
            task.call,
            tuple((m.key, m.call) for m in task.measurements.values()),
            self.grid.rows,
            self.work / "logs" / f"{task.name}.log",
            Path.cwd(),
            reset,
        )

    def children(self, name: str) -> list[Task]:
        """Tasks that start from the directory of this one."""
        return [task for task in self.tasks.values() if task.parent == name]


def make_plan(grid: Grid, work: Path, baseline: Mapping[str, Mapping], finished: Sequence[str] = ()) -> Plan:
    """The tasks that are left of a grid when the runs `finished` are done. baseline: see `grid.identity`."""
    plan = Plan(grid, work, [], {}, {}, {})
    done = set(finished)
    for run in grid.runs:
        chain: list[tuple[str, Call]] = []
        key = ""
        for call in (c for c in run.calls if c.stage.trains):
            key = digest(key, identity(call, baseline))
            chain.append((f"{call.stage.name}-{key}", call))
        measured = [(digest(key, identity(c, baseline)), c) for c in run.calls if not c.stage.trains]
        run_id = "r" + digest(key, [k for k, _ in measured])
        plan.ids.append(run_id)
        plan.chains[run_id] = [name for name, _ in chain]
        plan.wanted[run_id] = [k for k, _ in measured]
        if run_id in done:
            continue
        parent = None
        for name, call in chain:
            task = plan.tasks.setdefault(name, Task(name, call, parent))
            if run_id not in task.rests:
                task.rests.append(run_id)
            parent = name
        if run_id not in task.runs:
            task.runs.append(run_id)
        for k, call in measured:
            task.measurements.setdefault(k, Measurement(k, call)).runs.append(run_id)
    return plan
