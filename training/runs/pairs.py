"""Two checkpoints made elsewhere, before and after; a LoRA adapter is merged onto its base."""

from dataclasses import replace
from pathlib import Path

from training.base.errors import NotFound
from training.data.prompts import select
from training.runs.checkpoints import Checkpoint, read_checkpoint
from training.weights.adapters import ADAPTER, ADAPTER_WEIGHTS, merge_adapter


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model: Hugging Face files or a GGUF file."""
    return (folder / "config.json").exists() or bool(list(folder.glob("*.gguf")))


def pair_checkpoints(before: str | Path, after: str | Path, *, merged: Path) -> list[Checkpoint]:
    """The two as `0-before-NAME` and `1-after-NAME`; merged: where merged adapters go.

    Raises NotFound, BadInput.
    """
    found = []
    for place, given in (("0-before", before), ("1-after", after)):
        folder = Path(given).expanduser()
        if (folder / ADAPTER).exists():
            weights = merge_adapter(folder, merged)
        elif is_model(folder):
            weights = folder
        else:
            raise NotFound(
                f"{folder} is no checkpoint: expected a from_pretrained folder (config.json, "
                f"tokenizer, *.safetensors) or a LoRA adapter ({ADAPTER}, {ADAPTER_WEIGHTS})."
            )
        # The phases of two runs need not belong together: what counts is before and after.
        unnamed = replace(read_checkpoint(weights), phase="", epoch=None, step=None)
        found.append(replace(unnamed, name=f"{place}-{folder.resolve().name}"))
    return found


def key_row_note(run) -> str:
    """A note if the last rote token has the same embedding row in both checkpoints, else ""."""
    rote = select(run.prompts, family="rote")
    if not rote:
        return ""
    tokenizer = run.checkpoints[0].tokenizer()
    text = rote[0].render(run.facts[0].subject)
    token = tokenizer(text, add_special_tokens=False)["input_ids"][-1]
    first, last = (c.load()[0].get_input_embeddings().weight[token] for c in run.checkpoints)
    if not (first == last).all():
        return ""
    return (
        f"note: the embedding row of {tokenizer.convert_ids_to_tokens(token)!r}, the last token of "
        f"{text!r}, is the same in both checkpoints: it was not trained between them, what was "
        f"learned lies in other weights"
    )
