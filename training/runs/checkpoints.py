"""The checkpoints of a run: how one is written, read and loaded. The only module that does this.

A checkpoint is a Hugging Face folder with a stage.json, or a reference: a stage.json that says where the
weights are. `000-base` refers to the base model's files and holds the extended tokenizer and the key tokens'
first embedding rows; a run that starts from another run's checkpoint refers to that.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from training.base.errors import BadInput, Damaged, NotFound
from training.base.files import (
    publish_folder,
    read_json,
    sha256_file,
    sha256_text,
    verify,
    write_json,
)
from training.weights.key_tokens import set_key_rows
from training.weights.loading import fingerprint, load_folder, load_tokenizer, weights_files
from training.weights.names import find

PHASES = {"base": 0, "memorize": 1, "generalize": 2}


class WeightsDropped(NotFound):
    """A checkpoint whose weights were deleted to save disk; what was computed from them is still there."""


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

    @property
    def stage(self) -> dict:
        """The columns that say which checkpoint a row of a table is about."""
        return {
            "checkpoint": self.name,
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
        }

    def load(self, *, dtype: str = "float32"):
        """(model, tokenizer) in eval mode, with the key-token rows of a reference put in.

        Raises WeightsDropped, Damaged, NotFound.
        """
        if not list(self.weights.glob("*.safetensors")) and _manifest_weights(self):
            raise WeightsDropped(
                f"the weights of {self.weights} were deleted after use to save disk. Train them again: delete "
                f"{self.weights.parent.parent} and start the command or grid that made it, with keep = 'checkpoints'."
            )
        for path in weights_files(self.weights):
            verify(path)
        model, tokenizer = load_folder(self.weights, dtype=dtype)
        if self.key_rows is not None:
            from safetensors.torch import load_file

            tokenizer = load_tokenizer(self.key_rows.parent)
            _require_same_base(self)
            ids = tokenizer.convert_tokens_to_ids(list(self.key_tokens))
            set_key_rows(model, ids, load_file(verify(self.key_rows)))
        return model.eval(), tokenizer

    def tokenizer(self):
        """The tokenizer that this checkpoint's prompts are read with."""
        own = (self.folder / "tokenizer_config.json").exists()
        return load_tokenizer(self.folder if own else self.weights)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights as loaded: the model's files and the key-token rows put into them."""
        manifest = self.weights / "manifest.json"
        if (
            dropped := _manifest_weights(self)
            if not list(self.weights.glob("*.safetensors"))
            else {}
        ):
            files = [self.weights / name for name in dropped]
        else:
            files = weights_files(self.weights)
            for path in files:
                verify(path)
        if manifest.exists():
            known = read_json(manifest)
            parts = [f"{p.name} {known.get(p.name) or sha256_file(p)}" for p in files]
            parts.append(
                f"config.json {known.get('config.json') or sha256_file(self.weights / 'config.json')}"
            )
        else:
            parts = [fingerprint(self.weights)]
        if self.key_rows is not None:
            parts.append(
                f"key rows {sha256_file(verify(self.key_rows))} {' '.join(self.key_tokens)}"
            )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_base(
    run_dir: Path,
    *,
    model_name: str,
    folder: Path,
    tokenizer,
    key_tokens: Sequence[str],
    rows: dict,
) -> None:
    """Write checkpoints/000-base: a reference to the base model, the extended tokenizer, the key tokens' rows."""
    from safetensors.torch import save_file

    def fill(part: Path) -> None:
        tokenizer.save_pretrained(part)
        save_file(
            {side: value.contiguous() for side, value in rows.items()},
            part / "key_tokens.safetensors",
        )
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


def write_reference(
    run_dir: Path, checkpoint: Checkpoint, *, base_tokens: Sequence[str] | None = None
) -> None:
    """Write a checkpoint that refers to one of another run, under its own name.

    base_tokens: the key tokens it has, if it is to be the 000-base of this run.
    """
    stage = read_json(checkpoint.folder / "stage.json")
    if base_tokens is not None:
        stage |= {"phase": "base", "epoch": 0, "step": 0, "parent": None, "metrics": {}}
        stage["key_tokens"] = list(base_tokens)
    source = {
        "checkpoint": os.path.relpath(
            checkpoint.folder.resolve(), (run_dir / "checkpoints").resolve()
        ),
        "fingerprint": checkpoint.fingerprint,
    }
    publish_folder(
        run_dir / "checkpoints" / (checkpoint.name if base_tokens is None else "000-base"),
        lambda part: write_json(part / "stage.json", {**stage, "weights": source}),
    )


def checkpoint_name(phase: str, epoch: int, step: int, *, partial_epoch: bool = False) -> str:
    """`100-memorize-epoch-02`; between epochs `200-generalize-epoch-00-step-0004`: names sort in training order."""
    name = f"{100 * PHASES[phase]:03d}-{phase}-epoch-{epoch:02d}"
    return f"{name}-step-{step:05d}" if partial_epoch else name


def save_checkpoint(
    run_dir: Path, stage: dict, model, tokenizer, *, partial_epoch: bool = False
) -> Path:
    """Save a model in Hugging Face format with its stage.json; whole or not at all."""
    name = checkpoint_name(
        stage["phase"], stage["epoch"], stage["step"], partial_epoch=partial_epoch
    )

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
        if (
            checkpoint.weights == checkpoint.folder
            and (checkpoint.folder / "manifest.json").exists()
        ):
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
            raise NotFound(
                f"{folder} refers to the checkpoint {target}, which is gone. Restore it or make the run anew."
            )
        there = read_checkpoint(target)
        if there.fingerprint != source["fingerprint"]:
            raise NotFound(
                f"{folder} refers to {target}, which has other weights now. Make the run anew."
            )
        tokens = tuple(stage.get("key_tokens", there.key_tokens))
        return Checkpoint(
            folder.name,
            folder,
            **common,
            weights=there.weights,
            key_rows=there.key_rows,
            key_tokens=tokens,
        )
    base = Path(source["folder"])
    if not base.is_dir():
        base = find(source["model"])
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
    folders = sorted(
        p for p in (run_dir / "checkpoints").glob("*") if p.is_dir() and not p.name.startswith(".")
    )
    return [read_checkpoint(folder) for folder in folders]


def find_checkpoint(run_dir: Path, name: str = "") -> Checkpoint:
    """The checkpoint of that name, or the last. Raises NotFound where there is none."""
    checkpoints = {c.name: c for c in list_checkpoints(run_dir)}
    if not checkpoints:
        raise NotFound(
            f"{run_dir} has no checkpoint yet. Finish it: python -m training.memorize --out {run_dir}"
        )
    if name and name not in checkpoints:
        raise NotFound(f"{run_dir} has no checkpoint {name!r}; it has {', '.join(checkpoints)}.")
    return checkpoints[name or max(checkpoints)]


def _manifest_weights(checkpoint: Checkpoint) -> dict[str, str]:
    """The weights that a checkpoint of ours was written with, name -> sha256, there or not."""
    manifest = checkpoint.weights / "manifest.json"
    if not (checkpoint.weights / "stage.json").exists() or not manifest.exists():
        return {}
    return {
        name: known for name, known in read_json(manifest).items() if name.endswith(".safetensors")
    }


def _require_same_base(checkpoint: Checkpoint) -> None:
    """A base model's folder is not ours to seal: compare it with what the run began from."""
    source = read_json(checkpoint.key_rows.parent / "stage.json")["weights"]
    if fingerprint(checkpoint.weights) != source["fingerprint"]:
        raise Damaged(
            f"{checkpoint.weights} is not the base model that {checkpoint.folder} was made from (its "
            f"sha256 differs). Restore it, or make the run anew with --out NEW."
        )


def require_one_tokenizer(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise BadInput unless all checkpoints read text alike."""
    seen: dict[str, str] = {}
    for checkpoint in checkpoints:
        tokenizer = checkpoint.tokenizer()
        seen.setdefault(sha256_text(repr(sorted(tokenizer.get_vocab().items()))), checkpoint.name)
    if len(seen) > 1:
        raise BadInput(
            f"checkpoints {' and '.join(list(seen.values())[:2])} have different tokenizers; states "
            f"of different tokens cannot be compared row by row. Compare checkpoints of one model."
        )
