"""Load a base model or checkpoint from a directory of safetensors, or of one GGUF file."""

import inspect
from pathlib import Path

from training.base.errors import BadInput, NotFound
from training.base.files import sha256_once, sha256_text


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory, or its one GGUF file. Raises BadInput."""
    tensors = sorted(p for p in folder.glob("*.safetensors") if p.name != "key_tokens.safetensors")
    gguf = sorted(folder.glob("*.gguf"))
    if not tensors and len(gguf) != 1:
        other = sorted(p.name for end in ("bin", "pt") for p in folder.glob(f"*.{end}"))[:3]
        risky = f" (it has {', '.join(other)}, which may run code when read)" if other else ""
        what = f"{folder} has no *.safetensors and {len(gguf)} *.gguf files{risky}"
        raise BadInput(f"{what}. Save the model as safetensors: save_pretrained(folder).")
    return tensors or gguf


def fingerprint(folder: Path) -> str:
    """sha256 over the names and bytes of a model directory's weight files and its config."""
    files = [*weights_files(folder), *folder.glob("config.json")]
    return sha256_text("".join(f"{path.name} {sha256_once(path)}\n" for path in files))


def load_folder(folder: Path, *, dtype: str = "float32"):
    """Load (model, tokenizer) from a model directory, in eval mode; GGUF weights dequantised.

    dtype: a torch dtype's name. Raises BadInput, NotFound (no tokenizer or config there).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    file = weights_files(folder)[0]
    gguf = file.suffix == ".gguf"
    how = {"gguf_file": file.name} if gguf else {"use_safetensors": True}
    tokenizer = load_tokenizer(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **how)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        what = f"{folder} is not a causal language model that transformers can load ({error})"
        needs = "config.json, tokenizer.json and *.safetensors"
        raise NotFound(f"{what}. It needs {needs}.") from error
    if gguf:
        # from_pretrained leaves a quantizer behind that makes the dequantised model unsavable.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
    return model.eval(), tokenizer


def load_tokenizer(folder: Path):
    """The tokenizer of a model directory alone. Raises NotFound."""
    from transformers import AutoTokenizer

    gguf = [] if (folder / "tokenizer.json").exists() else sorted(folder.glob("*.gguf"))
    try:
        return AutoTokenizer.from_pretrained(folder, gguf_file=gguf[0].name if gguf else None)
    except (OSError, ValueError, KeyError) as error:
        what = f"{folder} has no usable tokenizer ({' '.join(str(error).split())})"
        raise NotFound(f"{what}. Save it there: tokenizer.save_pretrained(folder).") from error


def on_gpu(model):
    """The model on the first GPU if there is one; a model spread over devices stays as it is."""
    import torch

    spread = hasattr(model, "hf_device_map")
    return model.to("cuda") if torch.cuda.is_available() and not spread else model


def last_logits_only(model) -> dict:
    """The argument that asks for the logits of the last position alone, if the model has one."""
    takes = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
