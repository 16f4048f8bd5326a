"""Which weights a phase trains: all, the embeddings, the attention projections, or a LoRA."""

import copy
import warnings
from collections.abc import Sequence
from typing import Literal

from training.base.errors import BadInput
from training.weights.key_tokens import embedding_matrices

Mode = Literal["all", "embeddings", "attention", "lora"]
LORA_RANK, LORA_ALPHA = 8, 16


def restrict(model, mode: Mode, *, rows: Sequence[int] = ()):
    """The model with only the weights of `mode` left to train; for lora wrapped in a PeftModel.

    embeddings: the input and the output matrix. attention: see `attention_projections`. lora:
    beside every linear layer of the blocks; its start is drawn by torch's global generator. rows:
    of both embedding matrices, trained in every mode. Raises BadInput.
    """
    import torch

    if mode == "all":
        return model
    matrices = embedding_matrices(model).values()
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        where = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, **where)
        with warnings.catch_warnings():
            # It says that it transposes the projections of gpt2.
            warnings.simplefilter("ignore")
            model = get_peft_model(model, config)
    else:
        model.requires_grad_(False)
    if mode == "attention":
        for module in attention_projections(model):
            module.requires_grad_(True)
    for matrix in matrices:
        if mode == "embeddings":
            matrix.requires_grad_(True)
        elif rows:
            # Other rows get no gradient, and AdamW without decay leaves them alone.
            matrix.requires_grad_(True)
            kept = torch.zeros(len(matrix), 1, dtype=torch.bool)
            kept[list(rows)] = True
            matrix.register_hook(lambda gradient, kept=kept: gradient * kept.to(gradient.device))
    return model


def merged(model):
    """An ordinary model with the weights as trained: the model, or a copy with its LoRA merged."""
    if not hasattr(model, "peft_config"):
        return model
    return copy.deepcopy(model.base_model).merge_and_unload()


def attention_projections(model) -> list:
    """The linear layers in modules whose name holds "attn" or "attention". Raises BadInput."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, (Linear, Conv1D))
        and any(word in name.rpartition(".")[0] for word in ("attn", "attention"))
    ]
    if not found:
        what = f"{type(model).__name__} has no linear layer in a module named attn or attention"
        raise BadInput(f"--train attention: {what}. Use --train lora, embeddings or all.")
    return found
