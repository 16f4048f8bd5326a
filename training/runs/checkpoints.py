"""The checkpoints of a run: how one is written, read, found and loaded.

A checkpoint is a Hugging Face folder with a stage.json. It may be a reference: `000-base` refers to
the base model's files and holds the extended tokenizer and the first embedding rows of the key
tokens; a run that starts from another run's checkpoint refers to that one.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from training.base import files
from training.base.errors import BadInput, Damaged, NotFound
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

    folder: holds stage.json; weights: the folder of the model's files (a base model is looked for
    by its name if that is gone); key_rows: a safetensors file of the rows that `key_tokens` get in
    its embeddings, for a base model that lacks them. Phase is "base", "memorize", "generalize", or
    "" for one made elsewhere, which has no epoch and no step.
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
        return _stage_of(self.folder).get("parent") or ""

    def load(self, *, dtype: str = "float32"):
        """(model, tokenizer) on the CPU in eval mode, with the key-token rows put in.

        Raises WeightsDropped, Damaged, NotFound.
        """
        if self.dropped:
            raise WeightsDropped(
                f"the weights of {self.weights} were deleted after use. Train them again: delete "
                f"{self.weights.parent.parent} and start what made it, with keep = 'checkpoints'."
            )
        if self._base and fingerprint(self._place) != self._base["fingerprint"]:
            fault = f"{self._place} is not the base model that {self.folder} was made from"
            raise Damaged(f"{fault}. Restore it, or make the run again with --out NEW.")
        source = _stage_of(self.folder).get("weights", {})
        if "checkpoint" in source and self.fingerprint != source["fingerprint"]:
            fault = f"{self.folder} refers to {self.weights}, which has other weights now"
            raise NotFound(f"{fault}. Make the run again.")
        for path in weights_files(self._place):
            files.verify(path)
        model, tokenizer = load_folder(self._place, dtype=dtype)
        if self.key_rows is not None:
            from safetensors.torch import load_file

            tokenizer = load_tokenizer(self.key_rows.parent)
            ids = tokenizer.convert_tokens_to_ids(list(self.key_tokens))
            set_key_rows(model, ids, load_file(files.verify(self.key_rows)))
        return model.eval(), tokenizer

    def tokenizer(self):
        """The tokenizer of this checkpoint's prompts, without its model. Raises NotFound."""
        own = (self.folder / "tokenizer_config.json").exists()
        return load_tokenizer(self.folder if own else self._place)

    @property
    def fingerprint(self) -> str:
        """sha256 of the weights as loaded, key-token rows included; known after they were dropped.

        Raises Damaged, NotFound.
        """
        there = self._place
        if known := files.manifest(there):
            names = self._written
            if not self.dropped:
                names = [files.verify(path).name for path in weights_files(there)]
            names = [*names, "config.json"]
            parts = [f"{n} {known.get(n) or files.sha256_once(there / n)}" for n in names]
        else:
            parts = [fingerprint(there)]
        if self.key_rows is not None:
            rows = files.sha256_once(files.verify(self.key_rows))
            parts.append(f"key rows {rows} {' '.join(self.key_tokens)}")
        return files.sha256_text("\n".join(parts))

    @property
    def dropped(self) -> bool:
        """Whether the weights were there once and were deleted (`drop_weights`)."""
        return bool(self._written) and not list(self.weights.glob("*.safetensors"))

    @property
    def _written(self) -> list[str]:
        """Names of the weights that a run of ours wrote, whether or not they are still there."""
        ours = (self.weights / "stage.json").exists()
        known = files.manifest(self.weights) if ours else ()
        return [name for name in known if name.endswith(".safetensors")]

    @cached_property
    def _base(self) -> dict:
        """What is recorded of the base model, which we do not seal; {} for weights of our own."""
        return _stage_of(self.key_rows.parent)["weights"] if self.key_rows else {}

    @cached_property
    def _place(self) -> Path:
        """The folder of the model's files. Raises NotFound for a base model that is not here."""
        gone = self._base and not self.weights.is_dir()
        return find(self._base["model"]) if gone else self.weights


def write_base(
    run_dir: Path, *, model_name: str, folder: Path, tokenizer, key_tokens: list[str], rows: dict
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
        files.write_json(part / "stage.json", stage)

    files.publish_folder(run_dir / "checkpoints" / "000-base", fill)


def write_reference(run_dir: Path, checkpoint: Checkpoint, *, base_tokens=None) -> None:
    """Write a checkpoint that refers to one of another run; base_tokens: to make it 000-base."""
    stage, name = files.read_json(checkpoint.folder / "stage.json"), checkpoint.name
    if base_tokens is not None:
        name, stage = "000-base", {**stage, **FIRST, "key_tokens": list(base_tokens)}
    folder = run_dir / "checkpoints"
    target = os.path.relpath(checkpoint.folder.resolve(), folder.resolve())
    stage["weights"] = {"checkpoint": target, "fingerprint": checkpoint.fingerprint}
    files.publish_folder(folder / name, lambda part: files.write_json(part / "stage.json", stage))


def checkpoint_name(phase: str, epoch: int, step: int | None = None) -> str:
    """`100-memorize-epoch-02`, or `200-generalize-epoch-00-step-00004` at a step between epochs."""
    name = f"{100 * PHASES[phase]:03d}-{phase}-epoch-{epoch:02d}"
    return name if step is None else f"{name}-step-{step:05d}"


def save_checkpoint(run_dir: Path, name: str, stage: dict, model, tokenizer) -> None:
    """Save a model in Hugging Face format with its stage.json; whole or not at all."""

    def fill(part: Path) -> None:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        files.write_json(part / "stage.json", stage)

    files.publish_folder(run_dir / "checkpoints" / name, fill)


def drop_weights(run_dir: Path) -> int:
    """Delete the weights of a run's own checkpoints; returns the bytes freed.

    The rest stays: states and tables that were computed from the weights are found by fingerprint.
    """
    own = [c.folder for c in list_checkpoints(run_dir) if c.weights == c.folder]
    paths = [p for folder in own if files.manifest(folder) for p in folder.glob("*.safetensors")]
    freed = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    return freed


def lacks_weights(run_dir: Path) -> bool:
    """Whether the weights of one of a run's own checkpoints were dropped."""
    return any(c.weights == c.folder and c.dropped for c in list_checkpoints(run_dir))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder of ours, or any Hugging Face folder without a stage.json."""
    stage = _stage_of(folder)
    if not stage:
        return Checkpoint(folder.name, folder, weights=folder)
    weights, rows, source = folder, None, stage.get("weights", {})
    tokens = tuple(stage.get("key_tokens", ()))
    if "checkpoint" in source:
        target = (folder.parent / source["checkpoint"]).resolve()
        if not (target / "stage.json").exists():
            raise NotFound(f"{folder} refers to {target}, which is gone. Restore it.")
        there = read_checkpoint(target)
        weights, rows = there.weights, there.key_rows
        tokens = tokens if "key_tokens" in stage else there.key_tokens
    elif source:
        weights, rows = Path(source["folder"]), folder / "key_tokens.safetensors"
    when = (stage[name] for name in WHEN)
    return Checkpoint(folder.name, folder, *when, weights, rows, tokens)


def _stage_of(folder: Path) -> dict:
    """stage.json of a checkpoint; {} for one made elsewhere."""
    path = folder / "stage.json"
    return files.read_json(files.verify(path)) if path.exists() else {}


def list_checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Checkpoints of a run in training order."""
    folders = (p for p in (run_dir / "checkpoints").glob("*") if p.is_dir())
    return [read_checkpoint(p) for p in sorted(folders) if not p.name.startswith(".")]


def find_checkpoint(run_dir: Path, name: str = "") -> Checkpoint:
    """`choose_checkpoint` among those of a run directory. Raises NotFound."""
    return choose_checkpoint(list_checkpoints(run_dir), name, run_dir)


def choose_checkpoint(checkpoints: Sequence[Checkpoint], name: str, where: Path) -> Checkpoint:
    """The one of that name, or the last of a phase (memorized, generalized too) or of all."""
    if not checkpoints:
        remedy = f"Finish it: python -m training.memorize --out {where}"
        raise NotFound(f"{where} has no checkpoint yet. {remedy}")
    phase = SPOKEN.get(name, name)
    found = [c for c in checkpoints if name in ("", c.name) or phase == c.phase]
    if not found:
        names = ", ".join(c.name for c in checkpoints)
        raise BadInput(f"{where} has no checkpoint {name!r}; it has {names}.")
    return found[-1]


def require_one_tokenizer(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise BadInput unless all checkpoints have the same vocabulary."""
    seen: dict[str, str] = {}
    for checkpoint in checkpoints:
        vocabulary = sorted(checkpoint.tokenizer().get_vocab().items())
        seen.setdefault(files.sha256_text(repr(vocabulary)), checkpoint.name)
    if len(seen) > 1:
        two = " and ".join(list(seen.values())[:2])
        raise BadInput(f"{two} have different tokenizers. Compare checkpoints of one model.")
