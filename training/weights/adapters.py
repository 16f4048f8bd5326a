"""Two checkpoints of someone's own, before and after, as a run; LoRA adapters are merged onto their base.

    run = Run.pair("base-model", "my-adapter", facts="facts.csv", rote="{subject} [X]", out="results/mine")

Nothing is written into the two folders: merged weights go to OUT/merged. Adapters are read from safetensors and added
here (W + scale B A, Hu et al. 2021, arXiv:2106.09685), so that no other package is needed.
"""

from pathlib import Path

from training.base.errors import BadInput
from training.base.files import publish_folder, read_json, sha256_file, sha256_text
from training.weights.loading import fingerprint, load_folder, load_tokenizer
from training.weights.names import ModelNotFound, find

ADAPTER = "adapter_config.json"


ADAPTER_WEIGHTS = "adapter_model.safetensors"


PREFIX = "base_model.model."


def merge_adapter(folder: Path, destination: Path) -> Path:
    """The folder of the base model with a LoRA adapter added, in `destination`; made once per content.

    The tokenizer is the adapter's own where it has one. Raises BadInput, ModelNotFound, BadInput.
    """
    from safetensors.torch import load_file

    config = read_json(folder / ADAPTER)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.exists():
        raise BadInput(
            f"{folder} has {ADAPTER} and no {ADAPTER_WEIGHTS}. Save it as safetensors: "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    _require_plain_lora(folder, config)
    base = _base_of(folder, config.get("base_model_name_or_path") or "")
    key = sha256_text(
        f"{fingerprint(base)} {sha256_file(weights)} {sha256_file(folder / ADAPTER)}"
    )[:16]
    merged = destination / f"{folder.resolve().name}-{key}"
    if merged.exists():
        return merged

    def fill(part: Path) -> None:
        model, tokenizer = load_folder(base)
        if (folder / "tokenizer_config.json").exists():
            tokenizer = load_tokenizer(folder)
        add_lora(model, load_file(weights), config, str(folder))
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)

    destination.mkdir(parents=True, exist_ok=True)
    publish_folder(merged, fill)
    return merged


def add_lora(model, tensors: dict, config: dict, name: str) -> None:
    """Add an adapter's tensors to a model's parameters in place.

    tensors: by PEFT's names, `base_model.model.MODULE.lora_A.weight` (r, in) and `lora_B` (out, r), for embeddings
    `lora_embedding_A` (r, rows) and `_B` (d, r); whole tensors (biases, modules_to_save, grown embeddings) replace the
    base's. Raises BadInput for anything else.
    """
    import torch

    parts: dict[str, dict] = {}
    for key, tensor in tensors.items():
        target = key.removeprefix(PREFIX).replace(".modules_to_save", "").replace(".base_layer", "")
        for side in ("lora_embedding_A", "lora_embedding_B", "lora_A.weight", "lora_B.weight"):
            if target.endswith(f".{side}"):
                parts.setdefault(target.removesuffix(f".{side}"), {})[side] = tensor.float()
                break
        else:
            parts.setdefault(target, {})["whole"] = tensor
    with torch.no_grad():
        # Whole tensors first: they may grow the embeddings that a low-rank part is then added to.
        for target, sides in sorted(parts.items(), key=lambda item: "whole" not in item[1]):
            if "whole" in sides:
                _replace(model, target, sides["whole"], name)
                continue
            weight = _parameter(model, f"{target}.weight", name)
            weight += _low_rank(sides, config, target, name).to(weight.dtype).reshape(weight.shape)


def _require_plain_lora(folder: Path, config: dict) -> None:
    unfit = [
        name
        for name in (
            "use_dora",
            "rank_pattern",
            "alpha_pattern",
            "layer_replication",
            "trainable_token_indices",
        )
        if config.get(name)
    ]
    if config.get("peft_type") != "LORA" or unfit:
        what = f"uses {', '.join(unfit)}" if unfit else f"is of type {config.get('peft_type')}"
        raise BadInput(
            f"the adapter in {folder} {what}; plain LoRA can be merged here. Merge it yourself: "
            "model.merge_and_unload().save_pretrained(FOLDER), and give FOLDER."
        )


def _base_of(folder: Path, name: str) -> Path:
    beside = folder / name
    try:
        return find(str(beside)) if name and beside.is_dir() else find(name)
    except ModelNotFound as error:
        raise BadInput(
            f"{folder} is an adapter of {name!r}, which was not found ({error}). Put the base model's directory in "
            f"base_model_name_or_path of {folder / ADAPTER}."
        ) from error


def _low_rank(sides: dict, config: dict, target: str, name: str):
    """The change of a weight, in the weight's own orientation."""
    embedding = "lora_embedding_A" in sides
    wanted = (
        ("lora_embedding_A", "lora_embedding_B")
        if embedding
        else ("lora_A.weight", "lora_B.weight")
    )
    if set(sides) != set(wanted):
        raise BadInput(
            f"{name}: {target} has {sorted(sides)}; expected {' and '.join(wanted)}. Save it again."
        )
    a, b = (sides[side] for side in wanted)
    rank = a.shape[0]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    change = scale * (b @ a)
    return change.T if embedding or config.get("fan_in_fan_out") else change


def _replace(model, target: str, tensor, name: str) -> None:
    """Put a whole tensor in place of a parameter, growing the embeddings where it has more rows."""
    here = _parameter(model, target, name)
    rows = model.get_input_embeddings().weight.shape[0]
    if tensor.shape[0] > here.shape[0] == rows and tensor.shape[1:] == here.shape[1:]:
        model.resize_token_embeddings(tensor.shape[0], mean_resizing=False)
        here = _parameter(model, target, name)
    if tensor.shape != here.shape:
        raise BadInput(
            f"{name}: {target} has shape {tuple(tensor.shape)} and the base model's {tuple(here.shape)}. "
            "Give the adapter with the base model that it was trained on."
        )
    here.copy_(tensor)


def _parameter(model, target: str, name: str):
    try:
        return model.get_parameter(target)
    except AttributeError as error:
        raise BadInput(
            f"{name} holds a tensor for {target}, which the base model has not. Give the adapter with the base model "
            "that it was trained on, or merge it yourself: model.merge_and_unload().save_pretrained(FOLDER)."
        ) from error
