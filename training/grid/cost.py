"""Before a grid starts: whether every stage of every run can run, and what it all will cost.

Each training command checks its own options and says what it leaves and takes (its `check`).
Seconds are those of 2 CPU cores without a GPU, from rates measured there, or the mean that a stage
took in this sweep so far: for deciding whether to start, not for a paper.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from training.base.console import megabytes, minutes
from training.base.errors import BadInput, UserError
from training.base.files import read_json
from training.data.prompts import preset_prompts
from training.grid.file import Grid
from training.grid.plan import Plan
from training.grid.stages import Call, Stage
from training.loop.obtain import obtain
from training.loop.trainer import Work
from training.runs.checkpoints import checkpoint_name
from training.weights.loading import weights_files
from training.weights.names import NotHere, find

# Measured on SmolLM2-135M: .97 s per step of 160 tokens, 35 prompts per second answered, 30 read.
# Overhead bounds a small model instead.
FLOPS = 1.3e11
STEP_SECONDS = 0.02
PROMPT_SECONDS = 1 / 2000
MEASURE_SECONDS = 5.0
STATES_BYTES = 4


class BaseModel(NamedTuple):
    """Parameters and numbers in all hidden states of one prompt; absent: its name if not here."""

    parameters: int
    numbers: int
    absent: str = ""


class Cost(NamedTuple):
    """Of the unfinished part of a plan, except base models that are absent."""

    tasks: Mapping[str, float]
    """Task name -> seconds, including its measurements."""
    peak: float
    """Bytes on disk while it runs."""
    left: float
    """Bytes on disk when it is done."""
    absent: tuple[str, ...]


def check_grid(grid: Grid, *, fetch: bool = True) -> list[tuple[BaseModel, list[Work]]]:
    """Each run's base model and the work of each of its calls. fetch: get missing base models.

    Raises BadInput for a model, file, prompt or checkpoint that is missing, or a bad number.
    """
    work_of, model_of = cache(_work), cache(_base_model)
    found = []
    for run in grid.runs:
        facts, prompts, work = (), (), []
        for place, call in enumerate(run.calls):
            given = tuple(sorted(call.given.items()))
            try:
                work.append(work_of(call.stage, given, facts, prompts))
                if call.stage.name == "memorize":
                    model = model_of(call.build().model, fetch)
                if call.stage.name == "extend":
                    _check_start(call.values["start"], run.calls[:place])
            except UserError as error:
                where = f"run {run.label}: " if run.label else ""
                raise BadInput(f"{grid.path}: {where}{call.stage.name}: {error}") from error
            if call.stage.trains:
                facts, prompts = tuple(work[-1].facts), tuple(work[-1].prompts)
        found.append((model, work))
    return found


def _work(stage: Stage, given: tuple, facts: tuple, prompts: tuple) -> Work:
    """What a stage leaves and costs; of a measuring one, the facts and prompts it asks."""
    options = Call(stage, dict(given)).build(run_dir=Path(), out=Path())
    if stage.trains:
        return stage.module.check(options, facts, prompts)
    if hasattr(options, "preset"):
        families = getattr(options, "families", ())
        prompts = tuple(preset_prompts(prompts, options.preset, families=families))
    return Work(facts=facts, prompts=prompts, steps=0, tokens=0)


def _check_start(start: str, before: Sequence[Call]) -> None:
    """Raise UserError unless a call leaves the checkpoint `start` (or it lies between epochs)."""
    names = {"000-base"}
    for call in (c for c in before if c.stage.trains):
        phase = "generalize" if call.stage.name == "generalize" else "memorize"
        epochs = (*call.values["save_epochs"], call.values["epochs"])
        names |= {checkpoint_name(phase, epoch) for epoch in epochs}
    if start and start not in names and "-step-" not in start:
        raise UserError(f"--start is {start}; the stages before leave {', '.join(sorted(names))}.")


def _base_model(name: str, fetch: bool) -> BaseModel:
    """Its size, from the headers of its files."""
    try:
        folder = obtain(name) if fetch else find(name)
    except NotHere:
        return BaseModel(0, 0, absent=name)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    width = config.get("hidden_size") or config.get("n_embd") or 1024
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 24
    parameters = sum(_parameters(path) for path in weights_files(folder))
    return BaseModel(parameters, width * (layers + 2))


def _parameters(path: Path) -> int:
    if path.suffix == ".gguf":
        # A guess: about five bits per weight.
        return path.stat().st_size * 8 // 5
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = file.keys()
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def cost_of(plan: Plan, checked: Sequence[tuple], jobs: int, known: Mapping[str, float]) -> Cost:
    """What a plan will cost. checked: see `check_grid`; known: stage -> mean seconds so far."""
    seconds: dict[tuple[str, str], float] = {}
    weights: dict[str, float] = {}
    states: dict[str, float] = {}
    for run in (plan.runs[run_id] for run_id in plan.left):
        model, work = checked[run.index]
        calls, saved = list(zip(run.run.calls, work, strict=True)), 1
        for name, (call, load) in zip(run.chain, calls, strict=False):
            values = call.values
            own = len({*values["save_epochs"], values["epochs"]})
            own += len(values.get("save_steps", ())) + values.get("dense", 0)
            saved += own
            weights[name] = 4.0 * model.parameters * own
            per_step = max(STEP_SECONDS, 6.0 * model.parameters * load.tokens / FLOPS)
            seconds[name, ""] = known.get(call.stage.name, load.steps * per_step)
        for key, (call, load) in zip(run.measured, calls[len(run.chain) :], strict=True):
            per_prompt = max(PROMPT_SECONDS, model.parameters / 135e6 / 32)
            facts = Counter(fact.relation for fact in load.facts)
            read = saved * sum(facts[prompt.relation] for prompt in load.prompts)
            estimate = MEASURE_SECONDS + read * per_prompt
            seconds[name, key] = known.get(call.stage.name, estimate)
            if call.stage.command.startswith("analysis."):
                states[name] = max(states.get(name, 0.0), STATES_BYTES * model.numbers * read)
    models = [model for model, _ in checked]
    # Two generations of resume state for each job at a time.
    peak = jobs * 24.0 * max(model.parameters for model in models) if weights else 0.0
    left = sum(states.values())
    if plan.grid.keep == "checkpoints":
        left += sum(weights.values())
    else:
        chains = [sum(weights.get(name, 0) for name in run.chain) for run in plan.runs.values()]
        peak += sum(sorted(chains, reverse=True)[: 2 * jobs])
    tasks: Counter[str] = Counter()
    for (name, _), value in seconds.items():
        tasks[name] += value
    absent = dict.fromkeys(model.absent for model in models if model.absent)
    return Cost(tasks, left + peak, left, tuple(absent))


def dry_run_lines(plan: Plan, cost: Cost, jobs: int, free: float) -> list[str]:
    """The runs, their cost and disk in words."""
    done = len(plan.runs) - len(plan.left)
    lines = [f"{plan.grid.title}: {len(plan.runs)} runs, {done} of them finished"]
    told: set[str] = set()
    for run_id in plan.left:
        run = plan.runs[run_id]
        new = [name for name in run.chain if name not in told]
        shared = [name for name in run.chain if name in told]
        told |= set(new)
        seconds = minutes(sum(cost.tasks[name] for name in new))
        what = " -> ".join(new) or "measured"
        after = f", after {shared[-1]}" if shared else ""
        lines.append(f"  {run_id}  {seconds:>7}  {what}{after}  {run.run.label}")
    calls = [call for t in plan.tasks.values() for call in (t.call, *t.measurements.values())]
    times = Counter(call.stage.name for call in calls)
    lines.append(f"stages to run: {', '.join(f'{name} {n} times' for name, n in times.items())}")
    time = f"about {minutes(sum(cost.tasks.values()) / jobs)} with --jobs {jobs}, without a GPU"
    peak, left = megabytes(cost.peak), megabytes(cost.left)
    lines.append(f"{time}; disk up to {peak} of {megabytes(free)} free, {left} afterwards")
    if cost.absent:
        lines.append(f"to be fetched or made first, not counted: {', '.join(cost.absent)}")
    return lines
