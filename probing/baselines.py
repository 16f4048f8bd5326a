"""States that know nothing of what a model learned: its input embeddings alone, and its architecture alone.

    names = subject_embeddings(model, tokenizer, ["Gene Finley", ...])      # (n, d)
    states = hidden_states(untrained(model), tokenizer, prompts)

What a probe reads from these, it reads from the spelling of the name or from the tokens of the prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from probing.extraction import encode
from training.base.errors import BadInput

if TYPE_CHECKING:
    from torch import FloatTensor, nn


# A model that was itself initialised from a small seed would else be its own control.
FIRST_SEED = 915_301


def subject_embeddings(model: nn.Module, tokenizer: Any, subjects: Iterable[str]) -> FloatTensor:
    """Mean input embedding of each subject's tokens, (n_subjects, d) float32 on the CPU.

    Tokenised as at the head of a prompt; special tokens that the tokenizer adds by itself are left out. Raises what
    `probing.states.encode` raises, and BadInput for a subject without a token of its own.
    """
    import torch

    subjects = list(subjects)
    weights = model.get_input_embeddings().weight.detach()
    rows = []
    for subject, ids in zip(subjects, encode(tokenizer, subjects).token_ids, strict=True):
        own = [i for i in ids if i not in tokenizer.all_special_ids]
        if not own:
            raise BadInput(
                f"subject {subject!r} has special tokens only; give the name as running text"
            )
        rows.append(weights[own].float().mean(dim=0))
    return torch.stack(rows).cpu()


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model of the same class and configuration with freshly initialised float32 weights, in eval mode.

    `model` and the global random state are left as they are; the same seed gives the same weights.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIRST_SEED + seed)
        fresh = type(model)._from_config(copy.deepcopy(model.config), dtype=torch.float32)
    return fresh.eval()
