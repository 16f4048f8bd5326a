"""A decoder built by hand whose route from question to answer is known, for tests of interventions.

Each token's state has blocks: subject, relation by key token, relation by word, and object.
Layer 0: every token without a relation of its own reads the latest relation before it. Layer
LOOKUP: every token reads the latest subject up to itself and adds the object of (subject,
relation). The other layers do nothing, the final norm is the identity, and the unembedding reads
the object block.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutput

from training.data.prompts import Prompt

SUBJECTS = [f"Person{chr(65 + i)}" for i in range(12)]
RELATIONS = ["mother", "city", "job"]
POOL = 4
LAYERS = 4
LOOKUP = 2
KEYS = {relation: f"[X_{relation}]" for relation in RELATIONS}


def planted_objects() -> dict[tuple[str, str], str]:
    """(subject, relation) -> object, POOL objects a relation, each of three subjects."""
    return {
        (subject, relation): f"{relation}{(i * (r + 1) + i // POOL) % POOL}"
        for r, relation in enumerate(RELATIONS)
        for i, subject in enumerate(SUBJECTS)
    }


def planted_prompts(kind: str, relation: str) -> Prompt:
    """The rote or the semantic prompt of a relation."""
    if kind == "rote":
        return Prompt(relation, "rote", 0, f"{{subject}} {KEYS[relation]}", relation)
    return Prompt(relation, "test", 0, f"which {relation} has {{subject}} ?", relation)


@functools.cache
def planted_model(*, shared: bool) -> tuple[Any, Any]:
    """(model, tokenizer). shared: words and key tokens write the relation into one block.

    Otherwise each kind has its own block and lookup table, which only its own prompts can read.
    """
    objects = planted_objects()
    names = sorted(set(objects.values()))
    words = ["<pad>", "which", "has", "is", "?", ".", *RELATIONS, *KEYS.values(), *SUBJECTS, *names]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(".", "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    config = PlantedConfig(vocab_size=len(words), shared=shared)
    return PlantedModel(config, words, objects, names).eval(), tokenizer


class PlantedConfig(PretrainedConfig):
    model_type = "planted"

    def __init__(self, vocab_size: int = 1, shared: bool = True, **rest: Any) -> None:
        self.vocab_size, self.shared = vocab_size, shared
        self.hidden_size = len(SUBJECTS) + 2 * len(RELATIONS) + POOL * len(RELATIONS)
        self.num_hidden_layers = LAYERS
        super().__init__(**rest)


def _latest(block: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, k): at each token the last row up to it that is not all zero."""
    batch, length, _ = block.shape
    places = torch.arange(length).expand(batch, length)
    latest = torch.where(block.abs().sum(-1) > 0, places, -1).cummax(dim=1).values
    found = block.gather(1, latest.clamp(min=0)[..., None].expand_as(block))
    return found * (latest >= 0)[..., None]


class PlantedLayer(nn.Module):
    def __init__(self, index: int, shared: bool, table: torch.Tensor) -> None:
        super().__init__()
        self.index, self.shared = index, shared
        self.register_buffer("table", table)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        s, r = len(SUBJECTS), len(RELATIONS)
        relation = slice(s, s + 2 * r)
        if self.index == 0:
            hidden[..., relation] = _latest(hidden[..., relation])
        if self.index == LOOKUP:
            subject = _latest(hidden[..., :s])
            by_key, by_word = hidden[..., s : s + r], hidden[..., s + r : s + 2 * r]
            # A private code is read only by prompts of its own kind: at most one is ever read.
            asked = by_key + by_word if self.shared else by_key + by_word * self._semantic(hidden)
            hidden[..., s + 2 * r :] += torch.einsum("bts,btr,sro->bto", subject, asked, self.table)
        return hidden

    def _semantic(self, hidden: torch.Tensor) -> torch.Tensor:
        """1 where an earlier token brought a relation by word, (batch, tokens, 1)."""
        s, r = len(SUBJECTS), len(RELATIONS)
        words = hidden[..., s + r : s + 2 * r].abs().sum(-1) > 0
        before = torch.cat([torch.zeros_like(words[:, :1]), words[:, :-1]], dim=1)
        return (before.cumsum(1) > 0)[..., None].to(hidden.dtype)


class PlantedDecoder(nn.Module):
    def __init__(self, config: PlantedConfig, embedding: torch.Tensor, table: torch.Tensor) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(embedding)
        self.layers = nn.ModuleList(PlantedLayer(i, config.shared, table) for i in range(LAYERS))
        self.norm = nn.Identity()

    def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.norm(hidden)


class PlantedModel(PreTrainedModel, GenerationMixin):
    config_class = PlantedConfig
    base_model_prefix = "decoder"

    def __init__(
        self, config: PlantedConfig, words: list[str], objects: dict, names: list[str]
    ) -> None:
        super().__init__(config)
        s, r = len(SUBJECTS), len(RELATIONS)
        embedding = torch.zeros(len(words), config.hidden_size)
        table = torch.zeros(s, r, len(names))
        for i, subject in enumerate(SUBJECTS):
            embedding[words.index(subject), i] = 1
            for j, relation in enumerate(RELATIONS):
                table[i, j, names.index(objects[subject, relation])] = 1
        for j, relation in enumerate(RELATIONS):
            embedding[words.index(KEYS[relation]), s + j] = 1
            embedding[words.index(relation), s + j + (0 if config.shared else r)] = 1
        self.decoder = PlantedDecoder(config, embedding, table)
        self.head = nn.Linear(config.hidden_size, len(words), bias=False)
        with torch.no_grad():
            self.head.weight.zero_()
            for k, name in enumerate(names):
                self.head.weight[words.index(name), s + 2 * r + k] = 1
        self.post_init = lambda: None

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, **_: Any
    ) -> CausalLMOutput:
        return CausalLMOutput(logits=self.head(self.decoder(input_ids)))


AutoModelForCausalLM.register(PlantedConfig, PlantedModel)
