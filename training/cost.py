"""What a grid will cost, and whether all that it names exists, before anything starts.

Seconds are those of 2 CPU cores without a GPU, from rates measured there; stages that the sweep has run already are
taken at the mean time they took. They are for deciding whether to start, not for a paper.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.console import megabytes, minutes
from training.errors import UserError
from training.grid import BadGrid, Call, Grid
from training.plan import Plan

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
    from training.memorize import facts_for
    from training.models import can_be_had, is_here, resolve
    from training.prompts import load_prompts

    options = stage.options(**dict(given))
    facts = facts_for(options)
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    prompts = load_prompts(relations, rote=options.rote, folder=options.prompts)
    if not fetch and not is_here(options.model) and can_be_had(options.model):
        return Ground(tuple(facts), tuple(prompts), 0, 0, options.model)
    return Ground(tuple(facts), tuple(prompts), *_model_size(resolve(options.model)))


@cache
def _model_size(folder: Path) -> tuple[int, int]:
    """(parameters, sites x width) of a model directory, from the headers of its files."""
    from training.models import weights_files

    parameters = 0
    for path in weights_files(folder):
        if path.suffix == ".gguf":
            # A guess: about five bits a weight.
            parameters += path.stat().st_size * 8 // 5
            continue
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        parameters += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) if (folder / "config.json").exists() else {}
    )
    width = config.get("hidden_size") or config.get("n_embd") or 1024
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 24
    return parameters, width * (layers + 2)


def _check(call: Call, ground: Ground, before: Sequence[Call]) -> None:
    """What the command itself would refuse, without starting it. before: the calls of the run that come first."""
    from training import extend, generalize, memorize
    from training.prompts import preset_prompts
    from training.selection import chosen_facts

    if call.stage.command == "training.memorize":
        memorize.settings_of(call.build(), seed=0)
    elif call.stage.command == "training.extend":
        options = call.build(run_dir=Path(), out=Path())
        memorize.settings_of(options, seed=0)
        extend.new_facts(ground.facts, people=options.people, seed=0)
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
    from training.checkpoints import checkpoint_name

    names = ["000-base"]
    for call in (c for c in before if c.stage.trains):
        options = {**call.stage.defaults, **call.given}
        names += [checkpoint_name(call.stage.phase, e, 0) for e in {*options["save_epochs"], options["epochs"]}]
    if start and start not in names and "-step-" not in start:
        raise UserError(f"--start is {start}; the stages before leave {', '.join(sorted(names))}.")


# --- seconds and bytes --------------------------------------------------------------------------------------


def seconds_of(call: Call, ground: Ground, checkpoints: int) -> float:
    """About how long a call takes. checkpoints: how many a measuring call has to read."""
    if call.stage.trains:
        steps, tokens = _steps(call, ground)
        return steps * max(STEP_SECONDS, 6.0 * ground.parameters * tokens / FLOPS)
    texts = _texts(call, ground)
    return MEASURE_SECONDS + texts * checkpoints * max(PROMPT_SECONDS, ground.parameters / 135e6 / 32)


def _steps(call: Call, ground: Ground) -> tuple[int, float]:
    """(optimizer steps, tokens a step) of a training call."""
    from training import extend, generalize, memorize
    from training.examples import Replay
    from training.selection import chosen_facts
    from training.trainer import steps_of

    if call.stage.starts:
        options = call.build()
        return steps_of(len(ground.facts), memorize.settings_of(options, seed=0)), options.batch_size * ROTE_TOKENS
    if call.stage.command == "training.extend":
        options = call.build(run_dir=Path(), out=Path())
        facts = extend.new_facts(ground.facts, people=options.people, seed=0)
        return steps_of(len(facts), memorize.settings_of(options, seed=0)), options.batch_size * ROTE_TOKENS
    options = call.build(run_dir=Path())
    facts, prompts = chosen_facts(ground.facts, ground.prompts, **generalize.shown(options, 0))
    examples = sum(p.relation == f.relation for f in facts for p in prompts)
    replayed = Replay((), options.replay, options.replay_facts).count(examples)
    tokens = (examples * SEMANTIC_TOKENS + replayed * options.replay_facts * ROTE_TOKENS) / (examples + replayed)
    steps = steps_of(examples, generalize.settings_of(options, 0), replayed=replayed)
    return steps, options.batch_size * tokens


def _texts(call: Call, ground: Ground) -> int:
    """Prompts a checkpoint that a measuring call reads."""
    from training.prompts import preset_prompts

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


def cost_of(plan: Plan, grounds: Mapping[int, Ground], jobs: int, known: Mapping[str, float]) -> Cost:
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
            reading = [m.call for m in task.measurements.values() if m.call.stage.command.startswith("analysis.")]
            measured = [_texts(call, ground) for call in reading]
            states[name] = STATES_BYTES * ground.numbers_a_prompt * saved * max(measured, default=0)
    kept = sum(states.values())
    absent = tuple(dict.fromkeys(g.absent for g in grounds.values() if g.absent))
    if plan.grid.keep == "checkpoints":
        return Cost(
            tasks, kept + sum(weights.values()) + _resume(weights, grounds, jobs), kept + sum(weights.values()), absent
        )
    chains = sorted((sum(weights.get(n, 0) for n in chain) for chain in plan.chains.values()), reverse=True)
    return Cost(tasks, kept + sum(chains[: 2 * jobs]) + _resume(weights, grounds, jobs), kept, absent)


def _resume(weights: Mapping, grounds: Mapping[int, Ground], jobs: int) -> float:
    """Two generations of resume state for each job at a time."""
    return jobs * 24.0 * max((g.parameters for g in grounds.values()), default=0) if weights else 0.0


def dry_run_lines(plan: Plan, cost: Cost, finished: Sequence[str], jobs: int, free: float) -> list[str]:
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
    lines.append("stages to run: " + ", ".join(f"{name} {count} times" for name, count in by_stage.items()))
    total = sum(cost.tasks.values())
    lines.append(
        f"about {minutes(total / jobs)} with {jobs} job{'s' if jobs != 1 else ''} (2 CPU cores each, no GPU); disk up to "
        f"{megabytes(cost.peak)} while it runs, {megabytes(cost.left)} afterwards, {megabytes(free)} free"
    )
    if cost.absent:
        lines.append(f"not on this machine yet, fetched or made first and not counted: {', '.join(cost.absent)}")
    return lines
