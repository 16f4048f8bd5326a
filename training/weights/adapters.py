"""A PEFT adapter merged onto its base model, as an ordinary model directory.

peft loads and merges the adapter, whatever its kind. Adapters are read from safetensors only;
nothing is written into the folder of the adapter or of its base.
"""

import warnings
from pathlib import Path

from training.base.errors import BadInput, NotFound
from training.base.files import publish_folder, read_json, sha256_file, sha256_text
from training.weights.loading import fingerprint, load_folder, load_tokenizer
from training.weights.names import find

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge_adapter(folder: Path, destination: Path) -> Path:
    """The folder, in `destination`, of the base model with the adapter merged; made once.

    The tokenizer is the adapter's own if it has one. Raises BadInput.
    """
    weights = folder / ADAPTER_WEIGHTS
    if not weights.exists():
        remedy = "Save it as safetensors: model.save_pretrained(folder)."
        raise BadInput(f"{folder} has {ADAPTER} but no {ADAPTER_WEIGHTS}. {remedy}")
    base = _base_of(folder)
    content = f"{fingerprint(base)} {sha256_file(weights)} {sha256_file(folder / ADAPTER)}"
    destination.mkdir(parents=True, exist_ok=True)
    result = destination / f"{folder.resolve().name}-{sha256_text(content)[:16]}"

    def fill(part: Path) -> None:
        model, tokenizer = load_folder(base)
        if (folder / "tokenizer_config.json").exists():
            tokenizer = load_tokenizer(folder)
        _resize(model, folder, len(tokenizer))
        _merged(model, folder).save_pretrained(part)
        tokenizer.save_pretrained(part)

    if not result.exists():
        publish_folder(result, fill)
    return result


def _base_of(folder: Path) -> Path:
    name = read_json(folder / ADAPTER).get("base_model_name_or_path") or ""
    try:
        return find(str(folder / name) if name and (folder / name).is_dir() else name)
    except NotFound as error:
        what = f"{folder} is an adapter of {name!r}, which was not found ({error})"
        remedy = f"Put its directory in base_model_name_or_path of {folder / ADAPTER}."
        raise BadInput(f"{what}. {remedy}") from error


def _resize(model, folder: Path, vocabulary: int) -> None:
    """Resize the embeddings to those of the adapter, or else so that they hold its vocabulary."""
    import torch
    from safetensors import safe_open

    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [f"base_model.model.{n}" for n, module in model.named_modules() if module in layers]
    ours = {f"{name}{part}.weight" for name in names for part in ("", ".base_layer")}
    rows = max(vocabulary, len(layers[0].weight))
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as tensors:
        for key in ours & set(tensors.keys()):
            rows = tensors.get_slice(key).get_shape()[0]
    if rows != len(layers[0].weight):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.resize_token_embeddings(rows, mean_resizing=False)


def _merged(model, folder: Path):
    """The base model with the adapter merged into it. Raises BadInput with peft's own words."""
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    tied = model.config.tie_word_embeddings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, folder)
            # from_pretrained passes over tensors that fit nowhere; loading again names them. (Of
            # resized embeddings in modules_to_save peft itself saves a second copy.)
            tensors = load_peft_weights(str(folder), device="cpu")
            unused = set_peft_model_state_dict(adapted, tensors).unexpected_keys
            _untie(adapted)
            merged = adapted.merge_and_unload()
            if unused := [name for name in unused if ".modules_to_save." not in name]:
                raise ValueError(f"the base model has no place for {', '.join(unused[:3])}")
    except Exception as error:
        what = f"the adapter in {folder} cannot be merged by peft ({type(error).__name__}: {error})"
        remedy = "Name the base model that it was trained on, or save the merged model yourself."
        raise BadInput(f"{what}. {remedy}") from error
    head = merged.get_output_embeddings()
    same = head is not None and head.weight.equal(merged.get_input_embeddings().weight)
    merged.config.tie_word_embeddings = tied and same
    merged.tie_weights()
    return merged


def _untie(model) -> None:
    """Give every module its own weights: what is merged into one must not change another."""
    seen: set[int] = set()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in seen:
                setattr(module, name, type(weight)(weight.detach().clone()))
            seen.add(id(weight))
