"""The checkpoints of a run: how one is written, read, found and loaded.

A checkpoint is a Hugging Face folder with a stage.json. It may be a reference, whose stage.json
says where the weights are: `000-base` refers to the base model's files and holds the extended
tokenizer and the first embedding rows of the key tokens; a run that starts from another run's
checkpoint refers to that one.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from training.base.errors import BadInput, Damaged, NotFound
from training.base.files import (
    manifest,
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
SPOKEN = {"memorized": "memorize", "generalized": "generalize"}
WHEN = ("phase", "epoch", "step")
FIRST = {"phase": "base", "epoch": 0, "step": 0, "parent": None, "metrics": {}}


class WeightsDropped(NotFound):
    """The weights were deleted to save disk; what was computed from them is still there."""


@dataclass(frozen=True)
class Checkpoint:
    """One model of a run.

    >>> checkpoint = Run.open("runs/demo").checkpoint("generalized")
    >>> model, tokenizer = checkpoint.load()
    >>> checkpoint.stage    # {"checkpoint": "200-generalize-epoch-08", "phase": ..., "step": 48}

    folder: holds stage.json; weights: the folder of the model's files; key_rows: a safetensors file
    of the rows that `key_tokens` get in its embeddings, for a base model that lacks them. Phase is
    "base", "memorize", "generalize", or "" for one made elsewhere, which has no epoch and no step.
    """

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
        return {"checkpoint": self.name} | {k: getattr(self, k) for k in WHEN}

    @property
    def parent(self) -> str:
        """Name of the checkpoint that its phase started from; "" where that is not recorded."""
        path = self.folder / "stage.json"
        return (read_json(path).get("parent") or "") if path.exists() else ""

    def load(self, *, dtype: str = "float32"):
        """(model, tokenizer) on the CPU in eval mode, with the key-token rows put in.

        Raises WeightsDropped, Damaged, NotFound.
        """
        if self.dropped:
            raise WeightsDropped(
                f"the weights of {self.weights} were deleted after use to save disk. Train them "
                f"again: delete {self.weights.parent.parent} and start the command or grid that "
                f"made it, with keep = 'checkpoints'."
            )
        for path in weights_files(self.weights):
            verify(path)
        model, tokenizer = load_folder(self.weights, dtype=dtype)
        if self.key_rows is not None:
            from safetensors.torch import load_file

            self._require_same_base()
            tokenizer = load_tokenizer(self.key_rows.parent)
            ids = tokenizer.convert_tokens_to_ids(list(self.key_tokens))
            set_key_rows(model, ids, load_file(verify(self.key_rows)))
        return model.eval(), tokenizer

    def tokenizer(self):
        """The tokenizer of this checkpoint's prompts, without its model. Raises NotFound."""
        own = (self.folder / "tokenizer_config.json").exists()
        return load_tokenizer(self.folder if own else self.weights)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights as loaded, key-token rows included; known after they were dropped.

        Raises Damaged.
        """
        if self.dropped:
            names = self._written_weights()
        else:
            names = [verify(path).name for path in weights_files(self.weights)]
        if known := manifest(self.weights):
            files = (*names, "config.json")
            parts = [f"{n} {known.get(n) or sha256_file(self.weights / n)}" for n in files]
        else:
            parts = [fingerprint(self.weights)]
        if self.key_rows is not None:
            rows = sha256_file(verify(self.key_rows))
            parts.append(f"key rows {rows} {' '.join(self.key_tokens)}")
        return sha256_text("\n".join(parts))

    @property
    def dropped(self) -> bool:
        """Whether the weights were there once and were deleted (`drop_weights`)."""
        return bool(self._written_weights()) and not list(self.weights.glob("*.safetensors"))

    def _written_weights(self) -> list[str]:
        """Names of the weights that a run of ours wrote, whether or not they are still there."""
        if not (self.weights / "stage.json").exists():
            return []
        return [name for name in manifest(self.weights) if name.endswith(".safetensors")]

    def _require_same_base(self) -> None:
        """Compare a base model, which we do not seal, with the one that the run began from."""
        source = read_json(self.key_rows.parent / "stage.json")["weights"]
        if fingerprint(self.weights) != source["fingerprint"]:
            raise Damaged(
                f"{self.weights} is not the base model that {self.folder} was made from (its "
                f"sha256 differs). Restore it, or make the run again with --out NEW."
            )


# --- writing ---


def write_base(
    run_dir: Path,
    *,
    model_name: str,
    folder: Path,
    tokenizer,
    key_tokens: Sequence[str],
    rows: dict,
) -> None:
    """Write checkpoints/000-base: a reference to the base model, the tokenizer with the key tokens.

    rows: {"input": (n_key_tokens, d)}, the first rows of the key tokens; "output" if untied.
    """
    from safetensors.torch import save_file

    def fill(part: Path) -> None:
        tokenizer.save_pretrained(part)
        tensors = {side: value.contiguous() for side, value in rows.items()}
        save_file(tensors, part / "key_tokens.safetensors")
        source = {"model": model_name, "folder": str(folder), "fingerprint": fingerprint(folder)}
        stage = {**FIRST, "weights": source, "key_tokens": list(key_tokens)}
        write_json(part / "stage.json", stage)

    publish_folder(run_dir / "checkpoints" / "000-base", fill)


def write_reference(
    run_dir: Path, checkpoint: Checkpoint, *, base_tokens: Sequence[str] | None = None
) -> None:
    """Write a checkpoint that refers to one of another run and has its name.

    base_tokens: the key tokens that it has, to make it the 000-base of this run.
    """
    stage = read_json(checkpoint.folder / "stage.json")
    if base_tokens is not None:
        stage |= {**FIRST, "key_tokens": list(base_tokens)}
    folder = run_dir / "checkpoints"
    stage["weights"] = {
        "checkpoint": os.path.relpath(checkpoint.folder.resolve(), folder.resolve()),
        "fingerprint": checkpoint.fingerprint,
    }
    publish_folder(
        folder / (checkpoint.name if base_tokens is None else "000-base"),
        lambda part: write_json(part / "stage.json", stage),
    )


def checkpoint_name(phase: str, epoch: int, step: int, *, partial_epoch: bool = False) -> str:
    """`100-memorize-epoch-02`, or `200-generalize-epoch-00-step-00004` between epochs.

    Names sort in training order.
    """
    name = f"{100 * PHASES[phase]:03d}-{phase}-epoch-{epoch:02d}"
    return f"{name}-step-{step:05d}" if partial_epoch else name


def save_checkpoint(
    run_dir: Path, stage: dict, model, tokenizer, *, partial_epoch: bool = False
) -> Path:
    """Save a model in Hugging Face format with its stage.json; whole or not at all."""
    place = (stage["phase"], stage["epoch"], stage["step"])
    folder = run_dir / "checkpoints" / checkpoint_name(*place, partial_epoch=partial_epoch)

    def fill(part: Path) -> None:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / "stage.json", stage)

    publish_folder(folder, fill)
    return folder


def drop_weights(run_dir: Path) -> int:
    """Delete the weights of a run's own checkpoints; returns the bytes freed.

    stage.json, tokenizer and manifest stay: names, order and fingerprints can still be read, so
    that states and tables that were computed from the weights are found. Loading one raises
    WeightsDropped.
    """
    freed = 0
    for checkpoint in list_checkpoints(run_dir):
        if checkpoint.weights == checkpoint.folder and manifest(checkpoint.folder):
            for path in checkpoint.folder.glob("*.safetensors"):
                freed += path.stat().st_size
                path.unlink()
    return freed


def lacks_weights(run_dir: Path) -> bool:
    """Whether the weights of one of a run's own checkpoints were dropped."""
    return any(c.weights == c.folder and c.dropped for c in list_checkpoints(run_dir))


# --- reading ---


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder of ours, or any Hugging Face folder without a stage.json."""
    if not (folder / "stage.json").exists():
        return Checkpoint(folder.name, folder, weights=folder)
    stage = read_json(verify(folder / "stage.json"))
    source = stage.get("weights")
    if source is None:
        found = {"weights": folder}
    elif "checkpoint" in source:
        there = _referred(folder, source)
        tokens = tuple(stage.get("key_tokens", there.key_tokens))
        found = {"weights": there.weights, "key_rows": there.key_rows, "key_tokens": tokens}
    else:
        base = Path(source["folder"])
        found = {
            "weights": base if base.is_dir() else find(source["model"]),
            "key_rows": folder / "key_tokens.safetensors",
            "key_tokens": tuple(stage["key_tokens"]),
        }
    when = {name: stage[name] for name in WHEN}
    return Checkpoint(folder.name, folder, **when, **found)


def _referred(folder: Path, source: dict) -> Checkpoint:
    target = (folder.parent / source["checkpoint"]).resolve()
    if not (target / "stage.json").exists():
        raise NotFound(
            f"{folder} refers to the checkpoint {target}, which is gone. Restore it or make the "
            f"run again."
        )
    there = read_checkpoint(target)
    if there.fingerprint != source["fingerprint"]:
        raise NotFound(
            f"{folder} refers to {target}, which has other weights now. Make the run again."
        )
    return there


def list_checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Checkpoints of a run in training order."""
    folders = (p for p in (run_dir / "checkpoints").glob("*") if p.is_dir())
    return [read_checkpoint(p) for p in sorted(folders) if not p.name.startswith(".")]


def find_checkpoint(run_dir: Path, name: str = "") -> Checkpoint:
    """`choose_checkpoint` among those of a run directory. Raises NotFound."""
    return choose_checkpoint(list_checkpoints(run_dir), name, run_dir)


def choose_checkpoint(checkpoints: Sequence[Checkpoint], name: str, where: Path) -> Checkpoint:
    """The one of that name, or the last of a phase; "": the last. Raises NotFound.

    A phase is base, memorize (or memorized) or generalize (or generalized).
    """
    if not checkpoints:
        raise NotFound(
            f"{where} has no checkpoint yet. Finish it: python -m training.memorize --out {where}"
        )
    phase = SPOKEN.get(name, name)
    found = [c for c in checkpoints if name in ("", c.name) or phase == c.phase]
    if not found:
        names = ", ".join(c.name for c in checkpoints)
        raise NotFound(f"{where} has no checkpoint {name!r}; it has {names}.")
    return found[-1]


def require_one_tokenizer(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise BadInput unless all checkpoints have the same vocabulary."""
    seen: dict[str, str] = {}
    for checkpoint in checkpoints:
        vocabulary = sorted(checkpoint.tokenizer().get_vocab().items())
        seen.setdefault(sha256_text(repr(vocabulary)), checkpoint.name)
    if len(seen) > 1:
        raise BadInput(
            f"checkpoints {' and '.join(list(seen.values())[:2])} have different tokenizers; "
            f"states of different tokens cannot be compared row by row. Compare checkpoints of one "
            f"model."
        )
