"""Load a base model or checkpoint from a directory of safetensors, or of one GGUF file."""

import inspect
from pathlib import Path

from training.base.errors import BadInput, NotFound
from training.base.files import sha256_file, sha256_text


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory, or its one GGUF file. Raises BadInput."""
    tensors = sorted(p for p in folder.glob("*.safetensors") if p.name != "key_tokens.safetensors")
    gguf = sorted(folder.glob("*.gguf"))
    if not tensors and len(gguf) != 1:
        other = sorted(p.name for end in ("bin", "pt") for p in folder.glob(f"*.{end}"))[:3]
        risky = f" (it has {', '.join(other)}, which may run code when read)" if other else ""
        raise BadInput(
            f"{folder} has no *.safetensors and {len(gguf)} *.gguf files{risky}. Give safetensors "
            "or one GGUF file: save the model again with save_pretrained(folder)."
        )
    return tensors or gguf


def fingerprint(folder: Path) -> str:
    """sha256 over the names and bytes of a model directory's weight files and its config."""
    files = [*weights_files(folder), *folder.glob("config.json")]
    return sha256_text("".join(f"{path.name} {sha256_file(path)}\n" for path in files))


def load_folder(folder: Path, *, dtype: str = "float32"):
    """Load (model, tokenizer) from a model directory, in eval mode.

    dtype: a torch dtype's name. Raises BadInput, NotFound (no tokenizer or config there).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    files, dtype = weights_files(folder), getattr(torch, dtype)
    if files[0].suffix == ".gguf":
        model, tokenizer = read_gguf(files[0], dtype)
        return model.eval(), tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise NotFound(
            f"{folder} is not a causal language model that transformers can load ({error}). It "
            "needs config.json, tokenizer.json and *.safetensors."
        ) from error
    return model.eval(), tokenizer


def read_gguf(gguf: Path, dtype):
    """(model, tokenizer) of a GGUF file, dequantised to a torch dtype."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    # from_pretrained leaves a quantizer behind that makes the dequantised model unsavable.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(**where)


def load_tokenizer(folder: Path):
    """The tokenizer of a model directory alone. Raises NotFound."""
    from transformers import AutoTokenizer

    gguf = sorted(folder.glob("*.gguf"))
    if gguf and not (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder, gguf_file=gguf[0].name)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise NotFound(
            f"{folder} has no usable tokenizer ({' '.join(str(error).split())}). Save it there: "
            "tokenizer.save_pretrained(folder)."
        ) from error


def on_gpu(model):
    """The model on the first GPU if there is one; a model spread over devices stays as it is."""
    import torch

    spread = hasattr(model, "hf_device_map")
    return model.to("cuda") if torch.cuda.is_available() and not spread else model


def last_logits_only(model) -> dict:
    """The argument that asks for the logits of the last position alone, if the model has one."""
    takes = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
