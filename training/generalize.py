"""Phase 2: fine-tune on a few meaningful prompts about the seen subjects of the bound relations.

    python -m training.generalize RUN_DIR
    python -m training.generalize RUN_DIR --people 10 --prompts 1 --out runs/few
    python -m training.generalize RUN_DIR --start 000-base --out runs/no-phase-1
    python -m training.generalize RUN_DIR --start 000-base --replay 1 --out runs/one-stage

Trains on "{semantic prompt with the subject} {object}." without any key token and saves
200-generalize-epoch-NN. Held-out subjects and unbound relations are never shown, unless by rote
(--replay). With --out NEW the phase goes into a new run that refers to this run's checkpoints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from training.base.console import run_command
from training.base.errors import BadInput, OtherSettings, UserError
from training.base.files import read_json
from training.data.fact_files import Fact, read_facts
from training.data.prompts import Prompt
from training.data.selection import About, Objects, chosen_facts, rote_facts, selection
from training.data.sequences import Replay, context_length, encode_all
from training.loop import trainer
from training.loop.phase import PhaseOptions, derive_run, record_of, run_phase
from training.loop.trainer import TrainingSettings, Work, steps_of
from training.runs.checkpoints import Checkpoint, find_checkpoint, list_checkpoints, write_reference

PHASE = "generalize"
# Options that are recorded beside the settings.
CHOICES = ("people", "prompts", "save_steps", "dense")
# The same, with the defaults for older records that lack them.
BEFORE = {"objects": "own", "about": "seen", "replay": 0.0, "replay_facts": 4, "train": "all"}


@dataclass
class Options(PhaseOptions):
    """Options of phase 2."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory that phase 1 has finished."""
    out: Path | None = None
    """Write phase 2 into a new run directory that refers to this one."""
    start: str = ""
    """The checkpoint to start from; default: the last of phase 1. 000-base: without phase 1."""
    people: int = -1
    """Seen subjects to use; -1: all of them."""
    prompts: int = 10
    """Train prompts of each relation to use, the first ones."""
    objects: Objects = "own"
    """own: the facts as they are. Controls with the same prompts and objects: shuffled: the objects
    of each relation permuted among the same people, so that nothing true is shown; sibling: each
    relation's facts in the prompts of its sibling (mother and aunt), another reading of the key."""
    about: About = "seen"
    """seen: the run's seen people; others: as many people who are in no fact of the run, with
    objects from the same pools (a control: what semantic prompts do on their own)."""
    replay: float = 0.0
    """Rote sequences mixed into each epoch, per semantic one (1: as many), of all facts, each
    equally often. A step takes sequences of similar length, so most steps are of one kind."""
    replay_facts: int = 4
    """Facts in a replayed rote sequence, as --facts-per-sequence of phase 1."""
    epochs: int = 1
    """Passes over subjects x relations x prompts."""
    batch_size: int = 20
    """Sequences a step, over all processes: each a fact, or a replayed rote sequence."""
    learning_rate: float = 5e-5
    """Peak learning rate (warm-up, then cosine to zero)."""
    save_steps: tuple[int, ...] = ()
    """Steps to save as well."""
    dense: int = 0
    """Checkpoints to save as well in the first tenth of the phase (`analysis.trajectory`)."""
    seed: int = -1
    """Order of the batches; -1: the run's seed."""


def main(options: Options) -> Path:
    """Run phase 2 and return the run directory it went into."""
    source = options.run_dir.expanduser()
    record = record_of(source)
    run_dir = options.out.expanduser() if options.out else source
    settings = _settings(options, record["seed"])
    start = _starting_point(source, record, options.start)

    def begin() -> dict:
        if run_dir != source:
            _make_run(run_dir, source, start, seed=record["seed"])
        return {"start": start.name} | {k: getattr(options, k) for k in (*CHOICES, *BEFORE)}

    teach = partial(_teach, run_dir, start, settings, options, record["seed"])
    says = {"then": "training.recall", "before": BEFORE}
    return run_phase(run_dir, PHASE, settings, options, begin=begin, teach=teach, **says)


def check(options: Options, facts: Sequence[Fact] = (), prompts: Sequence[Prompt] = ()) -> Work:
    """What the command leaves and costs on such a run. Raises UserError where it would."""
    settings = _settings(options, 0)
    facts_shown, prompts_shown = chosen_facts(facts, prompts, **_shown(options, 0))
    examples = sum(p.relation == f.relation for f in facts_shown for p in prompts_shown)
    replayed = Replay((), options.replay).count(examples)
    steps = steps_of(examples, settings, replayed=replayed)
    dense_steps(options.dense, steps)
    by_rote = replayed * options.replay_facts * trainer.ROTE_TOKENS
    tokens = (examples * trainer.SEMANTIC_TOKENS + by_rote) / (examples + replayed)
    return Work(facts, prompts, steps, options.batch_size * tokens)


def _settings(options: Options, run_seed: int) -> TrainingSettings:
    for name, least in {"replay": 0, "replay_facts": 1}.items():
        value = getattr(options, name)
        if not least <= value < math.inf:
            raise BadInput(f"--{name.replace('_', '-')} is {value}; give {least} or more.")
    return trainer.settings_of(options, seed=options.seed if options.seed >= 0 else run_seed)


def _shown(options: Options, run_seed: int) -> dict:
    """The options of `chosen_facts`; controls are drawn by the run's seed."""
    names = ("people", "prompts", "objects", "about")
    return {name: getattr(options, name) for name in names} | {"seed": run_seed}


def dense_steps(count: int, total: int) -> list[int]:
    """`count` steps spread evenly over the first tenth of `total`, or all of them if fewer."""
    if count < 0:
        raise BadInput(f"--dense is {count}; give how many checkpoints to save, 0 for none.")
    tenth = max(1, total // 10)
    return sorted({max(1, round(tenth * (i + 1) / count)) for i in range(count)})


def _starting_point(source: Path, record: dict, name: str) -> Checkpoint:
    if name:
        return find_checkpoint(source, name)
    memorized = [c for c in list_checkpoints(source) if c.phase == "memorize"]
    own = record["phases"].get("memorize")
    finished = own["complete"] if own else "parent" in record
    if not finished or not memorized:
        first = f"python -m training.memorize --out {source}"
        raise UserError(f"phase 1 is not finished in {source}. Finish it first: {first}")
    return memorized[-1]


def _make_run(run_dir: Path, source: Path, start: Checkpoint, *, seed: int) -> None:
    """Make a run with the facts and prompts of `source`, and its checkpoints up to `start`."""
    if (run_dir / "run.json").exists():
        there = run_dir / "checkpoints" / start.name / "stage.json"
        reference = read_json(there).get("weights", {}) if there.exists() else {}
        if reference.get("fingerprint") != start.fingerprint:
            wanted = f"{start.name} of {source}"
            raise OtherSettings(f"{run_dir} does not start from {wanted}. Give --out NEW.")
        return
    for checkpoint in list_checkpoints(source):
        if checkpoint.name <= start.name:
            write_reference(run_dir, checkpoint)
    parent = {"run": str(source.resolve()), "checkpoint": start.name}
    derive_run(run_dir, source, facts=read_facts(source / "facts.csv"), seed=seed, parent=parent)


def _teach(
    run_dir: Path, start: Checkpoint, settings: TrainingSettings, options: Options, run_seed: int
) -> None:
    """Train from `start` on what the options choose."""
    model, tokenizer = start.load()
    limit = context_length(model.config)
    facts, prompts = selection(run_dir, **_shown(options, run_seed))
    examples = encode_all(tokenizer, facts, prompts, limit=limit)
    rote = encode_all(tokenizer, *rote_facts(run_dir), limit=limit) if options.replay else []
    replay = Replay(tuple(rote), options.replay, options.replay_facts)
    replayed = replay.count(len(examples))
    dense = dense_steps(options.dense, steps_of(len(examples), settings, replayed=replayed))
    if len(dense) < options.dense:
        print(f"--dense {options.dense}: the first tenth of this phase has {len(dense)} steps")
    changed = {name: getattr(options, name) for name in BEFORE}
    arm = "".join(f", {name} {value}" for name, value in changed.items() if value != BEFORE[name])
    people, bound = {f.subject for f in facts}, {f.relation for f in facts}
    who = f"{len(people)} subjects, {len(bound)} bound relations, {options.prompts} prompts{arm}"
    rows = f"{len(examples)} sequences" + (f" and {replayed} by rote" if replayed else "")
    how = f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}"
    print(f"generalize from {start.name}: {who}\n{rows}, {settings.epochs} epoch(s), {how}")
    stage = {"phase": PHASE, "parent": start.name, "replay": replay}
    stage["key_tokens"] = list_checkpoints(run_dir)[0].key_tokens if replayed else ()
    saves = {"save_epochs": options.save_epochs, "save_steps": (*options.save_steps, *dense)}
    saves["resume_minutes"] = options.resume_minutes
    trainer.train(model, tokenizer, examples, settings, run_dir, **stage, **saves)


if __name__ == "__main__":
    run_command(main, Options, __doc__)
