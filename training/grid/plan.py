"""From the runs of a grid to the least work: one task a run directory, shared by all runs that rest on it.

A task is one training stage and the measuring stages that some run wants in its directory, in order. Two runs that
agree in their settings up to a training stage share its task, so ten variants of phase 2 train their phase 1 once.

What a grid will cost, and whether all that it names exists, before anything starts.

Seconds are those of 2 CPU cores without a GPU, from rates measured there; stages that the sweep has run already are
taken at the mean time they took. They are for deciding whether to start, not for a paper.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from training import generalize
from training.base.console import megabytes, minutes
from training.base.errors import UserError
from training.data import selection
from training.data.prompts import load_prompts, preset_prompts
from training.data.selection import chosen_facts
from training.data.sequences import Replay
from training.grid.file import BadGrid, Call, Grid, PlannedRun, digest, identity
from training.loop import rote
from training.loop.obtain import obtain
from training.loop.trainer import steps_of
from training.memorize import facts_for
from training.runs.checkpoints import checkpoint_name
from training.weights.loading import weights_files
from training.weights.names import can_be_had, is_here


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


def make_plan(
    grid: Grid, work: Path, baseline: Mapping[str, Mapping], finished: Sequence[str] = ()
) -> Plan:
    """The tasks that are left of a grid when the runs `finished` are done. baseline: see `grid.identity`."""
    plan = Plan(grid, work, [], {}, {}, {})
    done = set(finished)
    for run in grid.runs:
        chain: list[tuple[str, Call]] = []
        key = ""
        for call in (c for c in run.calls if c.stage.trains):
            key = digest(key, identity(call, baseline))
            chain.append((f"{call.stage.name}-{key}", call))
        measured = [
            (digest(key, identity(c, baseline)), c) for c in run.calls if not c.stage.trains
        ]
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


# Measured on SmolLM2-135M: .97 s a step of 160 tokens, 35 prompts a second answered, 30 read. A small model is bound
# by overhead instead.
FLOPS = 1.3e11


STEP_SECONDS = 0.02


PROMPT_SECONDS = 1 / 2000


ROTE_TOKENS, SEMANTIC_TOKENS = 12, 18


MEASURE_SECONDS = 5.0


STATES_BYTES = 4


@dataclass(frozen=True)
class Ground:
    """What a run begins from: its facts, prompts and base model."""

    facts: tuple
    prompts: tuple
    parameters: int
    numbers_a_prompt: int
    """Of all its hidden states: sites x width."""
    absent: str = ""
    """The base model's name, if it has to be fetched or made first (its size is then unknown: 0)."""


def check_grid(grid: Grid, *, fetch: bool = True) -> dict[int, Ground]:
    """Run index -> ground. fetch: get base models that are not here yet, as the runs will need them.

    Raises BadGrid for a model, file, fact or prompt that is not there, or a number out of range.
    """
    grounds = {}
    for index, run in enumerate(grid.runs):
        for call in run.calls:
            try:
                if call.stage.starts:
                    grounds[index] = _ground(call.stage, tuple(sorted(call.given.items())), fetch)
                _check(call, grounds[index], run.calls[: run.calls.index(call)])
            except BadGrid:
                raise
            except UserError as error:
                where = f"run {run.label}: " if run.label else ""
                raise BadGrid(f"{grid.path}: {where}{call.stage.name}: {error}") from error
    return grounds


@cache
def _ground(stage, given: tuple, fetch: bool) -> Ground:

    options = stage.options(**dict(given))
    facts = facts_for(options)
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    prompts = load_prompts(relations, rote=options.rote, folder=options.prompts)
    if not fetch and not is_here(options.model) and can_be_had(options.model):
        return Ground(tuple(facts), tuple(prompts), 0, 0, options.model)
    return Ground(tuple(facts), tuple(prompts), *_model_size(obtain(options.model)))


@cache
def _model_size(folder: Path) -> tuple[int, int]:
    """(parameters, sites x width) of a model directory, from the headers of its files."""

    parameters = 0
    for path in weights_files(folder):
        if path.suffix == ".gguf":
            # A guess: about five bits a weight.
            parameters += path.stat().st_size * 8 // 5
            continue
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        parameters += sum(
            math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__"
        )
    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (folder / "config.json").exists()
        else {}
    )
    width = config.get("hidden_size") or config.get("n_embd") or 1024
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 24
    return parameters, width * (layers + 2)


def _check(call: Call, ground: Ground, before: Sequence[Call]) -> None:
    """What the command itself would refuse, without starting it. before: the calls of the run that come first."""

    if call.stage.command == "training.memorize":
        rote.settings_of(call.build(), seed=0)
    elif call.stage.command == "training.extend":
        options = call.build(run_dir=Path(), out=Path())
        rote.settings_of(options, seed=0)
        selection.new_facts(ground.facts, people=options.people, seed=0)
        _check_start(options.start, before)
    elif call.stage.command == "training.generalize":
        options = call.build(run_dir=Path())
        generalize.settings_of(options, 0)
        chosen_facts(ground.facts, ground.prompts, **generalize.shown(options, 0))
    elif not call.stage.trains:
        options = call.build(run_dir=Path())
        if hasattr(options, "preset") and hasattr(options, "families"):
            preset_prompts(ground.prompts, options.preset, families=options.families)


def _check_start(start: str, before: Sequence[Call]) -> None:
    """Raise UserError unless one of the calls leaves the checkpoint `start`; between epochs they may leave any."""

    names = ["000-base"]
    for call in (c for c in before if c.stage.trains):
        options = {**call.stage.defaults, **call.given}
        names += [
            checkpoint_name(call.stage.phase, e, 0)
            for e in {*options["save_epochs"], options["epochs"]}
        ]
    if start and start not in names and "-step-" not in start:
        raise UserError(f"--start is {start}; the stages before leave {', '.join(sorted(names))}.")


def seconds_of(call: Call, ground: Ground, checkpoints: int) -> float:
    """About how long a call takes. checkpoints: how many a measuring call has to read."""
    if call.stage.trains:
        steps, tokens = _steps(call, ground)
        return steps * max(STEP_SECONDS, 6.0 * ground.parameters * tokens / FLOPS)
    texts = _texts(call, ground)
    return MEASURE_SECONDS + texts * checkpoints * max(
        PROMPT_SECONDS, ground.parameters / 135e6 / 32
    )


def _steps(call: Call, ground: Ground) -> tuple[int, float]:
    """(optimizer steps, tokens a step) of a training call."""

    if call.stage.starts:
        options = call.build()
        return steps_of(
            len(ground.facts), rote.settings_of(options, seed=0)
        ), options.batch_size * ROTE_TOKENS
    if call.stage.command == "training.extend":
        options = call.build(run_dir=Path(), out=Path())
        facts = selection.new_facts(ground.facts, people=options.people, seed=0)
        return steps_of(
            len(facts), rote.settings_of(options, seed=0)
        ), options.batch_size * ROTE_TOKENS
    options = call.build(run_dir=Path())
    facts, prompts = chosen_facts(ground.facts, ground.prompts, **generalize.shown(options, 0))
    examples = sum(p.relation == f.relation for f in facts for p in prompts)
    replayed = Replay((), options.replay, options.replay_facts).count(examples)
    tokens = (examples * SEMANTIC_TOKENS + replayed * options.replay_facts * ROTE_TOKENS) / (
        examples + replayed
    )
    steps = steps_of(examples, generalize.settings_of(options, 0), replayed=replayed)
    return steps, options.batch_size * tokens


def _texts(call: Call, ground: Ground) -> int:
    """Prompts a checkpoint that a measuring call reads."""

    options = call.build(run_dir=Path())
    prompts = ground.prompts
    if hasattr(options, "preset"):
        prompts = preset_prompts(prompts, options.preset, families=getattr(options, "families", ()))
    relations = {p.relation: sum(f.relation == p.relation for f in ground.facts) for p in prompts}
    return sum(relations[p.relation] for p in prompts)


def _saved(call: Call) -> int:
    """Checkpoints that a training call saves."""
    given = call.given
    last = given.get("epochs", call.stage.defaults.get("epochs"))
    epochs = {*given.get("save_epochs", ()), last}
    return len(epochs) + len(given.get("save_steps", ())) + given.get("dense", 0)


@dataclass(frozen=True)
class Cost:
    """Of the unfinished part of a plan."""

    tasks: Mapping[str, float]
    """Task name -> seconds, its measurements included."""
    peak: float
    """Bytes on disk while it runs."""
    left: float
    """Bytes on disk when it is done."""
    absent: tuple[str, ...] = ()
    """Base models that have to be fetched or made first, which is not counted."""


def cost_of(
    plan: Plan, grounds: Mapping[int, Ground], jobs: int, known: Mapping[str, float]
) -> Cost:
    """known: stage -> mean seconds that it took in this sweep before."""
    tasks, weights, states = {}, {}, {}
    for run_id, chain in plan.chains.items():
        ground = grounds[plan.ids.index(run_id)]
        saved = 1
        for name in chain:
            task = plan.tasks.get(name)
            if task is None:
                break
            own = _saved(task.call)
            saved += own
            calls = [task.call, *(m.call for m in task.measurements.values())]
            tasks[name] = sum(known.get(c.stage.name, seconds_of(c, ground, saved)) for c in calls)
            weights[name] = 4.0 * ground.parameters * own
            reading = [
                m.call
                for m in task.measurements.values()
                if m.call.stage.command.startswith("analysis.")
            ]
            measured = [_texts(call, ground) for call in reading]
            states[name] = STATES_BYTES * ground.numbers_a_prompt * saved * max(measured, default=0)
    kept = sum(states.values())
    absent = tuple(dict.fromkeys(g.absent for g in grounds.values() if g.absent))
    if plan.grid.keep == "checkpoints":
        return Cost(
            tasks,
            kept + sum(weights.values()) + _resume(weights, grounds, jobs),
            kept + sum(weights.values()),
            absent,
        )
    chains = sorted(
        (sum(weights.get(n, 0) for n in chain) for chain in plan.chains.values()), reverse=True
    )
    return Cost(
        tasks, kept + sum(chains[: 2 * jobs]) + _resume(weights, grounds, jobs), kept, absent
    )


def _resume(weights: Mapping, grounds: Mapping[int, Ground], jobs: int) -> float:
    """Two generations of resume state for each job at a time."""
    return (
        jobs * 24.0 * max((g.parameters for g in grounds.values()), default=0) if weights else 0.0
    )


def dry_run_lines(
    plan: Plan, cost: Cost, finished: Sequence[str], jobs: int, free: float
) -> list[str]:
    """The runs, their cost and disk in words."""
    left = [r for r in dict.fromkeys(plan.ids) if r not in finished]
    done = len(set(plan.ids)) - len(left)
    lines = [f"{plan.grid.title}: {len(set(plan.ids))} runs, {done} of them finished"]
    told: set[str] = set()
    for run_id in left:
        new = [name for name in plan.chains[run_id] if name not in told]
        told |= set(new)
        seconds = sum(cost.tasks[name] for name in new)
        shared = [name for name in plan.chains[run_id] if name not in new]
        after = f", after {shared[-1]}" if shared else ""
        lines.append(
            f"  {run_id}  {minutes(seconds):>7}  {' -> '.join(new) or 'measured'}{after}  {plan.run(run_id).label}"
        )
    by_stage: dict[str, int] = {}
    for task in plan.tasks.values():
        by_stage[task.call.stage.name] = by_stage.get(task.call.stage.name, 0) + 1
        for m in task.measurements.values():
            by_stage[m.call.stage.name] = by_stage.get(m.call.stage.name, 0) + 1
    lines.append(
        "stages to run: " + ", ".join(f"{name} {count} times" for name, count in by_stage.items())
    )
    total = sum(cost.tasks.values())
    lines.append(
        f"about {minutes(total / jobs)} with {jobs} job{'s' if jobs != 1 else ''} (2 CPU cores each, no GPU); disk up to "
        f"{megabytes(cost.peak)} while it runs, {megabytes(cost.left)} afterwards, {megabytes(free)} free"
    )
    if cost.absent:
        lines.append(
            f"not on this machine yet, fetched or made first and not counted: {', '.join(cost.absent)}"
        )
    return lines
