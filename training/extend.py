"""Memorise more: new people by rote behind the key tokens of a run that has its meaning already.

    python -m training.extend RUN_DIR --out runs/more
    python -m training.extend RUN_DIR --start 100-memorize-epoch-30 --out runs/more-without-meaning

The key tokens stand for their relations after phase 2; are facts that are learned behind them from then on answered in
meaningful prompts at once? Phase 1 is run once more, from the last checkpoint of RUN_DIR (or --start: one before phase
2 is the control), on as many facts about people who are in none of its facts. The run that is made has these facts, and
the checkpoint it started from as its 000-base. Next: `python -m training.recall runs/more`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from training.base.console import first_process_first, run_command
from training.base.errors import NotFound, OtherSettings
from training.base.files import read_json
from training.base.locks import locked
from training.data.fact_files import read_facts
from training.data.prompts import read_prompts
from training.data.selection import new_facts
from training.loop.rote import RoteOptions, learn, settings_of
from training.loop.trainer import ROTE_TOKENS, Work, steps_of
from training.runs.checkpoints import find_checkpoint, list_checkpoints, write_reference
from training.runs.directory import begin_phase, create_run, refuse_foreign_folder

# What a checkpoint is called that this command leaves: rote memory, as that of training.memorize.
PHASE = "memorize"


@dataclass
class Options(RoteOptions):
    """Options of a later phase 1."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory with the checkpoint to start from."""
    out: Path
    """The run directory to make or go on with."""
    start: str = ""
    """The checkpoint to start from; default: the last. One of phase 1, or 000-base: controls without meaning."""
    people: int = -1
    """How many new people (at most as many as the run has, and 240); -1: as many as the run has."""
    seed: int = -1
    """Draws the new people, their objects and the order of batches; -1: the run's seed."""


def main(options: Options) -> Path:
    """Run phase 1 again on new people and return the run directory it went into."""

    source, run_dir = options.run_dir.expanduser(), options.out.expanduser()
    if not (source / "run.json").exists():
        raise NotFound(
            f"{source} is not a run directory. Make one: python -m training.memorize --out {source}"
        )
    record = read_json(source / "run.json")
    seed = options.seed if options.seed >= 0 else record["seed"]
    settings = settings_of(options, seed=seed)
    refuse_foreign_folder(run_dir)
    start = find_checkpoint(source, options.start)
    parent = {"run": str(source.resolve()), "checkpoint": start.name, "extended": True}
    with locked(run_dir):
        with first_process_first():
            if not (run_dir / "run.json").exists():
                _begin(
                    run_dir,
                    source,
                    {**record, "seed": seed, "parent": parent},
                    start,
                    options.people,
                )
            elif read_json(run_dir / "run.json").get("parent") != parent:
                raise OtherSettings(
                    f"{run_dir} holds another run than new people after {start.name} of {source}. Give --out NEW."
                )
            chosen = {
                **asdict(settings),
                "save_epochs": list(options.save_epochs),
                "people": options.people,
                "start": start.name,
                "start_fingerprint": start.fingerprint,
            }
            unfinished = begin_phase(run_dir, PHASE, chosen)
        if not unfinished:
            print(f"extend is finished in {run_dir}    next: python -m training.recall {run_dir}")
            return run_dir
        print(f"from {start.name} of {source}, people who are in no fact of it")
        learn(run_dir, settings, options, then="training.recall")
    return run_dir


def check(options: Options, facts=(), prompts=()) -> Work:
    """What the phase would leave and cost. Raises UserError if the command would refuse."""
    settings = settings_of(options, seed=0)
    facts = new_facts(facts, people=options.people, seed=0)
    tokens = options.batch_size * ROTE_TOKENS
    return Work(tuple(facts), tuple(prompts), steps_of(len(facts), settings), tokens)


def _begin(run_dir: Path, source: Path, record: dict, start, people: int) -> None:
    """The run's facts, prompts, 000-base (a reference to `start`) and record (that of `source`, with seed and parent)."""

    old = read_facts(source / "facts.csv")
    # Phase 2 may have been about other people (--about others): these are not new either.
    about = record["phases"].get("generalize", {}).get("settings", {}).get("about", "seen")
    skip = len({f.subject for f in old if f.split == "seen"}) if about == "others" else 0
    facts = new_facts(old, people=people, seed=record["seed"], skip=skip)
    write_reference(run_dir, start, base_tokens=list_checkpoints(source)[0].key_tokens)
    kept = ("seed", "model", "model_fingerprint", "bos_forced", "inputs", "parent")
    prompts = read_prompts(source / "prompts.json")
    create_run(run_dir, facts=facts, prompts=prompts, record={name: record[name] for name in kept})


if __name__ == "__main__":
    run_command(main, Options, __doc__)
