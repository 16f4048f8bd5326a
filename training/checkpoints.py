"""The run directory: what made a run, its checkpoints, and how one is loaded. The only module that does this.

    RUN_DIR/run.json  facts.csv  prompts.json  checkpoints/NAME/  states/  tables/  figures/  log.jsonl

A checkpoint is a Hugging Face folder with a stage.json, or a reference: a stage.json that says where the
weights are. `000-base` refers to the base model's files and holds the extended tokenizer and the key tokens'
first embedding rows; a run that starts from another run's checkpoint refers to that.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.console import is_first_process
from training.errors import UserError
from training.facts import Fact, load_facts, read_facts, write_facts
from training.files import (
    AlteredFile,
    commit,
    publish_folder,
    read_json,
    seal,
    sha256_file,
    sha256_text,
    verify,
    write_json,
)
from training.models import fingerprint, load_folder, load_tokenizer, resolve, set_key_rows, weights_files
from training.prompts import Prompt, load_prompts, read_prompts, write_prompts

PHASES = {"base": 0, "memorize": 1, "generalize": 2}
OURS = {
    "run.json",
    "facts.csv",
    "prompts.json",
    "manifest.json",
    "checkpoints",
    "resume",
    "states",
    "tables",
    "figures",
    "log.jsonl",
    "report.html",
    ".lock",
}


class NotARun(UserError):
    """The directory is neither a run nor checkpoints."""


class OtherSettings(UserError):
    """A run directory already holds the phase, made with other settings."""


class RunInUse(UserError):
    """Another process is writing this run."""


class WeightsDropped(UserError):
    """A checkpoint whose weights were deleted to save disk; what was computed from them is still there."""


class TokenizersDiffer(UserError):
    """Checkpoints to be compared do not share a tokenizer."""


@dataclass(frozen=True)
class Checkpoint:
    """One model of a run. `folder` holds stage.json; `weights` the model's files; `key_rows` rows to put in."""

    name: str
    folder: Path
    phase: str = ""
    epoch: float | None = None
    step: int | None = None
    weights: Path = Path()
    key_rows: Path | None = None
    key_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run directory, or someone's own checkpoints with facts and prompts, ready for any command.

    path: where tables, figures and states go.
    """

    path: Path
    facts: list[Fact]
    prompts: list[Prompt]
    checkpoints: list[Checkpoint]
    seed: int = 0
    record: dict = field(default_factory=dict)

    @property
    def relations(self) -> list[str]:
        """Relations of the facts, in order of appearance."""
        return list(dict.fromkeys(fact.relation for fact in self.facts))

    def tables(self, name: str) -> Path:
        """Path of a table."""
        return self.path / "tables" / name


# --- writing -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run for writing; the lock goes with the process, however it ends. Raises RunInUse.

    Of the several processes of one `accelerate launch` the first holds it for all.
    """
    if not is_first_process():
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunInUse(f"{run_dir} is being written by another process. Wait for it, or give --out NEW.") from error
        yield


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Of several processes the first runs the block alone, the others after it, finding its files."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    # accelerate joins processes without GPUs into a group only if it is told to; else each would train alone.
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield


def versions() -> dict:
    """Versions of what decides the numbers."""
    from importlib.metadata import version

    import torch

    names = ("transformers", "accelerate", "nnsight", "scikit-learn", "numpy")
    return {"torch": torch.__version__, **{name: version(name) for name in names}, "threads": torch.get_num_threads()}


def refuse_foreign_folder(run_dir: Path) -> None:
    """Raise UserError if a new run would be written into a folder that holds other things."""
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file. Give --out a new or empty folder.")
    if run_dir.is_dir() and not (run_dir / "run.json").exists():
        other = sorted(p.name for p in run_dir.iterdir() if p.name not in OURS and not p.name.endswith(".part"))
        if other:
            raise UserError(f"{run_dir} holds other files ({', '.join(other[:3])}). Give --out a new or empty folder.")


def create_run(run_dir: Path, *, facts: Sequence[Fact], prompts: Sequence[Prompt], record: dict) -> None:
    """Write facts.csv, prompts.json and, last, run.json of a new run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_facts(run_dir / "facts.csv", facts)
    write_prompts(run_dir / "prompts.json", prompts)
    seal(run_dir, ["facts.csv", "prompts.json"])
    hashes = {name: sha256_file(run_dir / name) for name in ("facts.csv", "prompts.json")}
    write_json(
        run_dir / "run.json",
        {"format": 1, **record, "sha256": hashes, "versions": versions(), "commit": commit(), "phases": {}},
    )


def write_base(
    run_dir: Path, *, model_name: str, folder: Path, tokenizer, key_tokens: Sequence[str], rows: dict
) -> None:
    """Write checkpoints/000-base: a reference to the base model, the extended tokenizer, the key tokens' rows."""
    from safetensors.torch import save_file

    def fill(part: Path) -> None:
        tokenizer.save_pretrained(part)
        save_file({side: value.contiguous() for side, value in rows.items()}, part / "key_tokens.safetensors")
        source = {"model": model_name, "folder": str(folder), "fingerprint": fingerprint(folder)}
        write_json(
            part / "stage.json",
            {
                "phase": "base",
                "epoch": 0,
                "step": 0,
                "parent": None,
                "metrics": {},
                "weights": source,
                "key_tokens": list(key_tokens),
            },
        )

    publish_folder(run_dir / "checkpoints" / "000-base", fill)


def write_reference(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint that refers to one of another run."""
    stage = read_json(checkpoint.folder / "stage.json")
    source = {
        "checkpoint": os.path.relpath(checkpoint.folder.resolve(), (run_dir / "checkpoints").resolve()),
        "fingerprint": checkpoint_fingerprint(checkpoint),
    }
    publish_folder(
        run_dir / "checkpoints" / checkpoint.name,
        lambda part: write_json(part / "stage.json", {**stage, "weights": source}),
    )


def checkpoint_name(phase: str, epoch: int, step: int, *, partial_epoch: bool = False) -> str:
    """`100-memorize-epoch-02`; between epochs `200-generalize-epoch-00-step-0004`: names sort in training order."""
    name = f"{100 * PHASES[phase]:03d}-{phase}-epoch-{epoch:02d}"
    return f"{name}-step-{step:05d}" if partial_epoch else name


def save_checkpoint(run_dir: Path, stage: dict, model, tokenizer, *, partial_epoch: bool = False) -> Path:
    """Save a model in Hugging Face format with its stage.json; whole or not at all."""
    name = checkpoint_name(stage["phase"], stage["epoch"], stage["step"], partial_epoch=partial_epoch)

    def fill(part: Path) -> None:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / "stage.json", stage)

    publish_folder(run_dir / "checkpoints" / name, fill)
    return run_dir / "checkpoints" / name


def drop_weights(run_dir: Path) -> int:
    """Delete the weights of a run's own checkpoints; returns the bytes freed.

    stage.json, tokenizer and manifest stay: names, order and fingerprints can still be read, and so states and tables
    that were computed from the weights are still found. Loading one raises WeightsDropped.
    """
    freed = 0
    for checkpoint in list_checkpoints(run_dir):
        if checkpoint.weights == checkpoint.folder and (checkpoint.folder / "manifest.json").exists():
            for path in checkpoint.folder.glob("*.safetensors"):
                freed += path.stat().st_size
                path.unlink()
    return freed


def lacks_weights(run_dir: Path) -> bool:
    """Whether the weights of a checkpoint of the run's own were dropped."""
    return any(
        c.weights == c.folder and _manifest_weights(c) and not list(c.folder.glob("*.safetensors"))
        for c in list_checkpoints(run_dir)
    )


def begin_phase(run_dir: Path, phase: str, settings: dict) -> bool:
    """Record a phase's settings; True if there is work to do, False if it was finished with these settings.

    Raises OtherSettings if the phase was begun with others.
    """
    record = read_json(run_dir / "run.json")
    # What was written went through JSON: compare like with like.
    settings = json.loads(json.dumps(settings))
    before = record["phases"].get(phase)
    if before is None:
        record["phases"][phase] = {"settings": settings, "complete": False}
        write_json(run_dir / "run.json", record)
        return True
    old = before["settings"]
    differing = sorted(k for k in settings.keys() | old.keys() if settings.get(k) != old.get(k))
    if differing:
        shown = ", ".join(f"{k} {old.get(k)} there, {settings.get(k)} now" for k in differing[:4])
        raise OtherSettings(
            f"{run_dir} already holds {phase} with other settings ({shown}). Give --out NEW for "
            f"another run, or the same settings to go on."
        )
    return not before["complete"]


def end_phase(run_dir: Path, phase: str, **results: object) -> None:
    """Mark a phase finished."""
    record = read_json(run_dir / "run.json")
    record["phases"][phase] |= {"complete": True, **results}
    write_json(run_dir / "run.json", record)


# --- reading -------------------------------------------------------------------------------------------------


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder (ours, or any Hugging Face folder without a stage.json)."""
    if not (folder / "stage.json").exists():
        return Checkpoint(folder.name, folder, weights=folder)
    stage = read_json(verify(folder / "stage.json"))
    common = {"phase": stage["phase"], "epoch": stage["epoch"], "step": stage["step"]}
    source = stage.get("weights")
    if source is None:
        return Checkpoint(folder.name, folder, **common, weights=folder)
    if "checkpoint" in source:
        target = (folder.parent / source["checkpoint"]).resolve()
        if not (target / "stage.json").exists():
            raise NotARun(
                f"{folder} refers to the checkpoint {target}, which is gone. Restore it or make the run anew."
            )
        there = read_checkpoint(target)
        if checkpoint_fingerprint(there) != source["fingerprint"]:
            raise NotARun(f"{folder} refers to {target}, which has other weights now. Make the run anew.")
        return Checkpoint(
            folder.name, folder, **common, weights=there.weights, key_rows=there.key_rows, key_tokens=there.key_tokens
        )
    base = Path(source["folder"])
    if not base.is_dir():
        base = resolve(source["model"])
    return Checkpoint(
        folder.name,
        folder,
        **common,
        weights=base,
        key_rows=folder / "key_tokens.safetensors",
        key_tokens=tuple(stage["key_tokens"]),
    )


def list_checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Checkpoints of a run in training order."""
    folders = sorted(p for p in (run_dir / "checkpoints").glob("*") if p.is_dir() and not p.name.startswith("."))
    return [read_checkpoint(folder) for folder in folders]


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 that stands for the weights as loaded: the model's files and the key-token rows put into them."""
    manifest = checkpoint.weights / "manifest.json"
    if dropped := _manifest_weights(checkpoint) if not list(checkpoint.weights.glob("*.safetensors")) else {}:
        files = [checkpoint.weights / name for name in dropped]
    else:
        files = weights_files(checkpoint.weights)
        for path in files:
            verify(path)
    if manifest.exists():
        known = read_json(manifest)
        parts = [f"{p.name} {known.get(p.name) or sha256_file(p)}" for p in files]
        parts.append(f"config.json {known.get('config.json') or sha256_file(checkpoint.weights / 'config.json')}")
    else:
        parts = [fingerprint(checkpoint.weights)]
    if checkpoint.key_rows is not None:
        parts.append(f"key rows {sha256_file(verify(checkpoint.key_rows))} {' '.join(checkpoint.key_tokens)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _manifest_weights(checkpoint: Checkpoint) -> dict[str, str]:
    """The weights that a checkpoint of ours was written with, name -> sha256, there or not."""
    manifest = checkpoint.weights / "manifest.json"
    if not (checkpoint.weights / "stage.json").exists() or not manifest.exists():
        return {}
    return {name: known for name, known in read_json(manifest).items() if name.endswith(".safetensors")}


def load_checkpoint_tokenizer(checkpoint: Checkpoint):
    """The tokenizer that a checkpoint's prompts are read with."""
    own = (checkpoint.folder / "tokenizer_config.json").exists()
    return load_tokenizer(checkpoint.folder if own else checkpoint.weights)


def load_checkpoint(checkpoint: Checkpoint, *, dtype: str = "float32"):
    """(model, tokenizer) of a checkpoint in eval mode, key-token rows put in where it is a reference."""
    if not list(checkpoint.weights.glob("*.safetensors")) and _manifest_weights(checkpoint):
        raise WeightsDropped(
            f"the weights of {checkpoint.weights} were deleted after use to save disk. Train them again: delete "
            f"{checkpoint.weights.parent.parent} and start the command or grid that made it, with keep = 'checkpoints'."
        )
    for path in weights_files(checkpoint.weights):
        verify(path)
    model, tokenizer = load_folder(checkpoint.weights, dtype=dtype)
    if checkpoint.key_rows is not None:
        from safetensors.torch import load_file

        tokenizer = load_tokenizer(checkpoint.key_rows.parent)
        _require_same_base(checkpoint)
        ids = tokenizer.convert_tokens_to_ids(list(checkpoint.key_tokens))
        set_key_rows(model, ids, load_file(verify(checkpoint.key_rows)))
    return model.eval(), tokenizer


def _require_same_base(checkpoint: Checkpoint) -> None:
    """A base model's folder is not ours to seal: compare it with what the run began from."""
    source = read_json(checkpoint.key_rows.parent / "stage.json")["weights"]
    if fingerprint(checkpoint.weights) != source["fingerprint"]:
        raise AlteredFile(
            f"{checkpoint.weights} is not the base model that {checkpoint.folder} was made from (its "
            f"sha256 differs). Restore it, or make the run anew with --out NEW."
        )


def natural_order(name: str) -> list:
    """Sort key under which step-9 comes before step-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def open_run(path: str | Path, *, facts: str = "", prompts: str = "", rote: str = "", out: str = "") -> Run:
    """Open a run directory, a single checkpoint, or a folder of checkpoints made elsewhere.

    facts, prompts, rote, out: needed for directories that are no run of ours (prompts default to the built-in
    ones, rote to "{subject} {key}"). Raises NotARun with what was found and what is missing.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise NotARun(
            f"{path} is not a directory. Give a run directory (made by `python -m training.memorize --out "
            f"RUN_DIR`), a checkpoint, or a folder of checkpoints."
        )
    if (path / "run.json").exists():
        return _open_own(path, out)
    if (path / "config.json").exists() or list(path.glob("*.gguf")):
        folders = [path]
    else:
        visible = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        folders = sorted(
            (p for p in visible if (p / "config.json").exists() or list(p.glob("*.gguf"))),
            key=lambda p: natural_order(p.name),
        )
    if not folders:
        raise NotARun(
            f"{path} holds no run.json and no checkpoint (a folder with config.json and *.safetensors). "
            f"Give a run directory, a checkpoint, or a folder of checkpoints."
        )
    if not facts or not out:
        raise NotARun(
            f"{path} holds {len(folders)} checkpoint(s) but no run.json: say which facts to ask for and "
            f"where results go, e.g. --facts FACTS.csv --rote '{{subject}} [X]' --out RESULTS_DIR "
            f"(nothing is written into {path})."
        )
    loaded = load_facts(facts)
    relations = list(dict.fromkeys(f.relation for f in loaded))
    checkpoints = [read_checkpoint(folder) for folder in folders]
    require_one_tokenizer(checkpoints)
    chosen = load_prompts(relations, rote=rote or "{subject} {key}", folder=prompts or None)
    destination = Path(out).expanduser()
    destination.mkdir(parents=True, exist_ok=True)
    return Run(destination, loaded, chosen, checkpoints, record={"source": str(path)})


def _open_own(path: Path, out: str) -> Run:
    record = read_json(path / "run.json")
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise NotARun(f"{path} has no checkpoint yet. Finish it: python -m training.memorize --out {path}")
    destination = Path(out).expanduser() if out else path
    destination.mkdir(parents=True, exist_ok=True)
    return Run(
        destination,
        read_facts(verify(path / "facts.csv")),
        read_prompts(verify(path / "prompts.json")),
        checkpoints,
        seed=record.get("seed", 0),
        record=record,
    )


def require_one_tokenizer(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise TokenizersDiffer unless all checkpoints read text alike."""
    seen: dict[str, str] = {}
    for checkpoint in checkpoints:
        tokenizer = load_checkpoint_tokenizer(checkpoint)
        seen.setdefault(sha256_text(repr(sorted(tokenizer.get_vocab().items()))), checkpoint.name)
    if len(seen) > 1:
        raise TokenizersDiffer(
            f"checkpoints {' and '.join(list(seen.values())[:2])} have different tokenizers; states "
            f"of different tokens cannot be compared row by row. Compare checkpoints of one model."
        )
