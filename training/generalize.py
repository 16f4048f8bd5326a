"""Phase 2: fine-tune on a few meaningful prompts about the seen subjects of the bound relations.

    python -m training.generalize RUN_DIR
    python -m training.generalize RUN_DIR --people 10 --prompts 1 --out runs/few
    python -m training.generalize RUN_DIR --start 000-base --out runs/no-phase-1
    python -m training.generalize RUN_DIR --start 000-base --replay 1 --out runs/one-stage

Trains on "{semantic prompt with the subject} {object}." without any key token and saves
200-generalize-epoch-NN. Held-out subjects and unbound relations are never shown, unless by rote (--replay). With
--out NEW the phase goes into a run of its own that refers to this run's checkpoints.
Next: `python -m training.recall RUN_DIR`.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from training.base.console import first_process_first, run_command
from training.base.errors import NotFound, OtherSettings, UserError
from training.base.files import read_json
from training.base.locks import locked
from training.data.fact_files import read_facts
from training.data.prompts import read_prompts
from training.data.selection import About, Objects, chosen_facts, rote_facts, selection
from training.data.sequences import Replay, context_length, encode_all
from training.loop.trainable import Mode
from training.loop.trainer import (
    ROTE_TOKENS,
    SEMANTIC_TOKENS,
    TrainingSettings,
    Work,
    finish,
    steps_of,
    train,
)
from training.runs.checkpoints import find_checkpoint, list_checkpoints, write_reference
from training.runs.directory import begin_phase, create_run, refuse_foreign_folder

PHASE = "generalize"


# What a run stands for that was recorded before the option existed.
BEFORE = {"objects": "own", "about": "seen", "replay": 0.0, "replay_facts": 4, "train": "all"}


@dataclass
class Options:
    """Options of phase 2."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory that phase 1 has finished."""
    out: Path | None = None
    """Write phase 2 into a new run directory that refers to this one."""
    start: str = ""
    """The checkpoint to start from; default: the last of phase 1. 000-base: the control without phase 1."""
    people: int = -1
    """Seen subjects to use; -1: all of them."""
    prompts: int = 10
    """Train prompts a relation to use, the first ones."""
    objects: Objects = "own"
    """own: the facts as they are. Controls with the same prompts and objects: shuffled: the objects of each relation
    permuted among the same people, so that nothing true is shown; sibling: each relation's facts in the prompts of its
    sibling relation (mother and aunt), another reading of the key token."""
    about: About = "seen"
    """seen: the run's seen people; others: as many people who are in no fact of the run, with objects from the same
    pools (a control: what semantic prompts do on their own)."""
    replay: float = 0.0
    """Rote sequences mixed into each epoch, for each semantic one (1: as many), of all facts, each as often as any
    other. A step takes sequences of like length, so most steps are of one kind."""
    replay_facts: int = 4
    """Facts a replayed rote sequence, as --facts-per-sequence of phase 1."""
    epochs: int = 1
    """Passes over subjects x relations x prompts."""
    batch_size: int = 20
    """Sequences a step, over all processes: each a fact, or a replayed rote sequence."""
    learning_rate: float = 5e-5
    """Peak learning rate (warm-up, then cosine to zero)."""
    loss: Literal["all", "object"] = "object"
    """Next-token loss on all tokens or on the object and its stop."""
    train: Mode = "all"
    """Weights to train: all; embeddings: the input and output matrices; attention: the projections of attention; lora:
    rank 8 beside every linear layer of the blocks, merged into the checkpoints. With --replay the key tokens' rows too."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Arithmetic of training; auto: bfloat16 autocast where the processor has it, float32 weights always."""
    save_epochs: tuple[int, ...] = ()
    """Epochs to save besides the last."""
    save_steps: tuple[int, ...] = ()
    """Steps to save besides."""
    dense: int = 0
    """Checkpoints to save besides in the first tenth of the phase, evenly spread: see `analysis.trajectory`."""
    seed: int = -1
    """Order of the batches; -1: the run's seed."""
    resume_minutes: float = 4.0
    """Minutes between two writings of the resume state."""


def main(options: Options) -> Path:
    """Run phase 2 and return the run directory it went into."""

    source = options.run_dir.expanduser()
    if not (source / "run.json").exists():
        raise NotFound(
            f"{source} is not a run directory. Make one: python -m training.memorize --out {source}"
        )
    run_dir = options.out.expanduser() if options.out else source
    record = read_json(source / "run.json")
    settings = settings_of(options, record["seed"])
    refuse_foreign_folder(run_dir)
    with locked(run_dir):
        start = _starting_point(source, record, options.start)
        with first_process_first():
            if run_dir != source:
                _derive(run_dir, source, record, start)
            chosen = {
                **asdict(settings),
                "start": start.name,
                "people": options.people,
                "prompts": options.prompts,
                "save_epochs": list(options.save_epochs),
                "save_steps": list(options.save_steps),
                "dense": options.dense,
                **{name: getattr(options, name) for name in BEFORE},
            }
            unfinished = begin_phase(run_dir, "generalize", chosen, before=BEFORE)
        if not unfinished:
            print(
                f"generalize is finished in {run_dir}    next: python -m training.recall {run_dir}"
            )
            return run_dir

        model, tokenizer = start.load()
        facts, prompts = selection(run_dir, **shown(options, record["seed"]))
        limit = context_length(model.config)
        examples = encode_all(tokenizer, facts, prompts, limit=limit)
        rote = encode_all(tokenizer, *rote_facts(run_dir), limit=limit) if options.replay else []
        replay = Replay(tuple(rote), options.replay, options.replay_facts)
        replayed = replay.count(len(examples))
        dense = dense_steps(options.dense, steps_of(len(examples), settings, replayed=replayed))
        if len(dense) < options.dense:
            room = f"the first tenth of this phase has {len(dense)} step(s) to save; --save-steps names others"
            print(f"--dense {options.dense}: {room}")
        arm = "".join(
            f", {k} {getattr(options, k)}" for k, v in BEFORE.items() if getattr(options, k) != v
        )
        print(
            f"generalize from {start.name}: {len({f.subject for f in facts})} subjects, "
            f"{len({f.relation for f in facts})} bound relations, {options.prompts} prompts{arm}: {len(examples)} "
            f"sequences{f' and {replayed} by rote' if replayed else ''}, {settings.epochs} epoch(s), "
            f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}"
        )
        train(
            model,
            tokenizer,
            examples,
            settings,
            run_dir,
            phase="generalize",
            parent=start.name,
            save_epochs=options.save_epochs,
            save_steps=(*options.save_steps, *dense),
            replay=replay,
            key_tokens=list_checkpoints(run_dir)[0].key_tokens if replayed else (),
            resume_minutes=options.resume_minutes,
        )
        last, metrics = finish(run_dir, PHASE)
    print(
        f"answered while training{' (by rote too)' if replayed else ''}, last epoch: {metrics['train_recall']:.2f}\n"
        f"wrote {last.folder}    next: python -m training.recall {run_dir}"
    )
    return run_dir


def check(options: Options, facts=(), prompts=()) -> Work:
    """What the phase would leave and cost. Raises UserError if the command would refuse."""
    settings = settings_of(options, 0)
    some, train = chosen_facts(facts, prompts, **shown(options, 0))
    examples = sum(p.relation == f.relation for f in some for p in train)
    replayed = Replay((), options.replay, options.replay_facts).count(examples)
    tokens = examples * SEMANTIC_TOKENS + replayed * options.replay_facts * ROTE_TOKENS
    per_step = options.batch_size * tokens / (examples + replayed)
    steps = steps_of(examples, settings, replayed=replayed)
    return Work(tuple(facts), tuple(prompts), steps, per_step)


def settings_of(options: Options, run_seed: int):
    """The training settings of phase 2 on a run of seed `run_seed`. Raises UserError for one out of range."""

    if not 0 <= options.replay < math.inf:
        raise UserError(
            f"--replay is {options.replay}; give how many rote sequences a semantic one, 0 for none."
        )
    if options.replay_facts < 1:
        raise UserError(
            f"--replay-facts is {options.replay_facts}; give the facts a replayed sequence, 1 or more."
        )
    return TrainingSettings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        loss=options.loss,
        learning_rate=options.learning_rate,
        precision=options.precision,
        seed=options.seed if options.seed >= 0 else run_seed,
        train=options.train,
    )


def shown(options: Options, run_seed: int) -> dict:
    """The options of `training.data.selection.chosen_facts`; controls are drawn by the run's seed."""
    return {
        **{name: getattr(options, name) for name in ("people", "prompts", "objects", "about")},
        "seed": run_seed,
    }


def dense_steps(count: int, total: int) -> list[int]:
    """`count` steps spread evenly over the first tenth of `total`, or every step of that tenth if it has fewer."""
    if count < 0:
        raise UserError(f"--dense is {count}; give how many checkpoints to save, 0 for none.")
    tenth = max(1, total // 10)
    return sorted({max(1, round(tenth * (i + 1) / count)) for i in range(count)})


def _starting_point(source: Path, record: dict, name: str):

    if name:
        return find_checkpoint(source, name)
    memorized = [c for c in list_checkpoints(source) if c.phase == "memorize"]
    own = record["phases"].get("memorize")
    finished = own["complete"] if own else "parent" in record
    if not finished or not memorized:
        raise UserError(
            f"phase 1 is not finished in {source}. Finish it first: python -m training.memorize --out {source}"
        )
    return memorized[-1]


def _derive(run_dir: Path, source: Path, record: dict, start) -> None:
    """Make `run_dir` a run with the facts and prompts of `source` that refers to its checkpoints up to `start`."""

    if (run_dir / "run.json").exists():
        there = run_dir / "checkpoints" / start.name / "stage.json"
        reference = read_json(there).get("weights", {}) if there.exists() else {}
        if reference.get("fingerprint") != start.fingerprint:
            raise OtherSettings(
                f"{run_dir} does not start from {start.name} of {source}. Give --out NEW for another run."
            )
        return
    for checkpoint in list_checkpoints(source):
        if checkpoint.name <= start.name:
            write_reference(run_dir, checkpoint)
    kept = {
        name: record[name]
        for name in ("seed", "model", "model_fingerprint", "bos_forced", "inputs")
    }
    create_run(
        run_dir,
        facts=read_facts(source / "facts.csv"),
        prompts=read_prompts(source / "prompts.json"),
        record={**kept, "parent": {"run": str(source.resolve()), "checkpoint": start.name}},
    )


if __name__ == "__main__":
    run_command(main, Options, __doc__)
