"""Memorise more: new people by rote behind the key tokens of a run that has its meaning already.

    python -m training.extend RUN_DIR --out runs/more
    python -m training.extend RUN_DIR --start 100-memorize-epoch-30 --out runs/more-without-meaning

After phase 2 the key tokens stand for their relations. Are facts that are then learned behind them
answered in meaningful prompts at once? Phase 1 is run once more, from the last checkpoint of
RUN_DIR (or --start: one before phase 2 is the control), on facts about people who are in none of
its facts. The new run has these facts, and the checkpoint it started from as its 000-base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from training.base.console import run_command
from training.base.errors import OtherSettings
from training.base.files import read_json
from training.data.fact_files import Fact, read_facts
from training.data.prompts import Prompt
from training.data.selection import new_facts
from training.loop.phase import derive_run, record_of, run_phase
from training.loop.rote import PHASE, RoteOptions, learn, rote_work
from training.loop.trainer import Work, settings_of
from training.runs.checkpoints import Checkpoint, find_checkpoint, list_checkpoints, write_reference


@dataclass
class Options(RoteOptions):
    """Options of a later phase 1."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory with the checkpoint to start from."""
    out: Path
    """The run directory to make or go on with."""
    start: str = ""
    """The checkpoint to start from; default: the last. One before phase 2: without meaning."""
    people: int = -1
    """How many new people (at most as many as the run has, and 240); -1: as many as the run has."""
    seed: int = -1
    """Draws the new people, their objects and the order of batches; -1: the run's seed."""


def main(options: Options) -> Path:
    """Run phase 1 again on new people and return the run directory it went into."""
    source, run_dir = options.run_dir.expanduser(), options.out.expanduser()
    record = record_of(source)
    seed = options.seed if options.seed >= 0 else record["seed"]
    settings = settings_of(options, seed=seed)
    start = find_checkpoint(source, options.start)

    def begin() -> dict:
        _make_run(run_dir, source, start, people=options.people, seed=seed)
        began = {"start": start.name, "start_fingerprint": start.fingerprint}
        return {"people": options.people, **began}

    teach = partial(learn, run_dir, settings, options)
    says = {"then": "training.recall", "name": "extend"}
    return run_phase(run_dir, PHASE, settings, options, begin=begin, teach=teach, **says)


def check(options: Options, facts: Sequence[Fact] = (), prompts: Sequence[Prompt] = ()) -> Work:
    """What the command leaves and costs on such a run. Raises UserError where it would."""
    new = new_facts(facts, people=options.people, seed=max(options.seed, 0))
    return rote_work(options, new, prompts)


def _make_run(run_dir: Path, source: Path, start: Checkpoint, *, people: int, seed: int) -> None:
    """Write facts, prompts, 000-base (a reference to `start`) and record of a new run."""
    parent = {"run": str(source.resolve()), "checkpoint": start.name, "extended": True}
    if (run_dir / "run.json").exists():
        if read_json(run_dir / "run.json").get("parent") != parent:
            wanted = f"new people after {start.name} of {source}"
            raise OtherSettings(f"{run_dir} holds another run than {wanted}. Give --out NEW.")
        return
    old = read_facts(source / "facts.csv")
    # Phase 2 may have been about other people (--about others): these are not new either.
    phase_2 = read_json(source / "run.json")["phases"].get("generalize", {})
    others = phase_2.get("settings", {}).get("about", "seen") == "others"
    skip = len({f.subject for f in old if f.split == "seen"}) if others else 0
    facts = new_facts(old, people=people, seed=seed, skip=skip)
    write_reference(run_dir, start, base_tokens=list_checkpoints(source)[0].key_tokens)
    derive_run(run_dir, source, facts=facts, seed=seed, parent=parent)


if __name__ == "__main__":
    run_command(main, Options, __doc__)
