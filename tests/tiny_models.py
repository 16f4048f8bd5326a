"""Tiny random language models of eight architectures with a byte-level tokenizer, for tests."""

from __future__ import annotations

import functools
from typing import Any

ARCHITECTURES = ("gpt2", "gpt_neox", "qwen2", "llama", "phi3", "gemma", "opt", "falcon")
WIDTH = 32
LAYERS = 3
MAX_POSITIONS = 64
SPARE_ROWS = 16

_CORPUS = [
    "Gene Finley was born in Arlen and works as a baker.",
    "The mother of Tessa Marlow is Angela.",
    "Who gave birth to Orin Vale? It was Miriam, a painter from Dunmore.",
    "Wo wohnt Jörg Müller? In Köln.",
    "What is the profession of Ines Caldwell? She is a surgeon in the city of Halden.",
]


@functools.cache
def tiny_model(architecture: str) -> tuple[Any, Any]:
    """(model, tokenizer): 3 layers of width 32, random weights, eval mode; shared by all callers.

    The embedding has 16 rows to spare for key tokens. `copy.deepcopy` before changing either.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    sizes = dict(
        vocab_size=len(tokenizer) + SPARE_ROWS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        # Wide enough that attention and position visibly matter, unlike with the usual 0.02.
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    extra = {
        "gpt2": dict(n_inner=64),
        "gpt_neox": dict(intermediate_size=64),
        "qwen2": dict(intermediate_size=64, num_key_value_heads=2),
        "llama": dict(intermediate_size=64, num_key_value_heads=2),
        "phi3": dict(intermediate_size=64, num_key_value_heads=2),
        "gemma": dict(intermediate_size=64, num_key_value_heads=2, head_dim=8),
        "opt": dict(ffn_dim=64, word_embed_proj_dim=WIDTH, init_std=0.2),
        "falcon": dict(ffn_hidden_size=64),
    }[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **sizes, **extra)
        return AutoModelForCausalLM.from_config(config).eval(), tokenizer


@functools.cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of at most 400 tokens with pad and eos; copy before changing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")
