"""Baselines that know nothing of what a model learned: its input embeddings, its architecture.

    names = subject_embeddings(model, tokenizer, ["Gene Finley", ...])      # (n, d)
    states = hidden_states(untrained(model), tokenizer, prompts)

What a probe reads from these comes from the spelling of the name or the tokens of the prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from probing.extraction import encode
from training.base.errors import BadInput

if TYPE_CHECKING:
    from torch import FloatTensor, nn


# Far from the small seeds that models are initialised from: a model must not be its own control.
FIRST_SEED = 915_301


def subject_embeddings(model: nn.Module, tokenizer: Any, subjects: Iterable[str]) -> FloatTensor:
    """Mean input embedding of each subject's tokens, (n_subjects, d) float32 on the CPU.

    Tokenised as at the start of a prompt, without the special tokens that the tokenizer adds.
    Raises BadInput as `encode` does, and for a subject that has only special tokens.
    """
    import torch

    subjects = list(subjects)
    weights = model.get_input_embeddings().weight.detach()
    rows = []
    for subject, ids in zip(subjects, encode(tokenizer, subjects).token_ids, strict=True):
        own = [i for i in ids if i not in tokenizer.all_special_ids]
        if not own:
            raise BadInput(f"subject {subject!r} has special tokens only; give it as text")
        rows.append(weights[own].float().mean(dim=0))
    return torch.stack(rows).cpu()


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model of the same class and configuration with fresh float32 weights, in eval mode.

    The same seed gives the same weights. `model` and the global random state do not change.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIRST_SEED + seed)
        fresh = type(model)._from_config(copy.deepcopy(model.config), dtype=torch.float32)
    return fresh.eval()
