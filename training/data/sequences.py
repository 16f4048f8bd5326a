"""Text to tokens: a prompt joined with its object, several facts in one sequence, batches.

examples = encode_all(tokenizer, facts, prompts, limit=None)
collate(examples[:16], loss="object", pad_id=0)["input_ids"]     # (16, length)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import Prompt

STOP = "."


@dataclass(frozen=True)
class Passage:
    """Facts in one training sequence; objects: (begin, end) in tokens, with the stops."""

    token_ids: tuple[int, ...]
    objects: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Example(Passage):
    """One fact: the tokens of its `statement`."""

    fact: Fact
    prompt: Prompt

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Tokens of the object and its stop."""
        return self.token_ids[self.objects[0][0] :]


def passage(tokenizer, examples: Sequence[Example], *, limit: int | None = None) -> Passage:
    """The sentences of `examples`, joined by spaces, as one sequence.

    A name at the beginning of a text may have other tokens than elsewhere ("G|erald", " Gerald"),
    and the first token is read unlike all others (attention sink): only in a passage does a subject
    occur as in most semantic prompts. Raises BadInput if tokens span two sentences or the sequence
    exceeds `limit`.
    """
    text, whole, objects = "", [], []
    for example in examples:
        before = f"{text} {example.prompt.render(example.fact.subject)}".strip()
        text = f"{text} {statement(example.fact, example.prompt)}".strip()
        head, earlier, whole = prompt_ids(tokenizer, before), whole, prompt_ids(tokenizer, text)
        if whole[: len(head)] != head or head[: len(earlier)] != earlier:
            remedy = "Train one fact per sequence: --facts-per-sequence 1."
            raise BadInput(f"tokens of {text!r} span two of its sentences. {remedy}")
        require_fit(len(whole), limit, example.fact, example.prompt)
        objects.append((len(head), len(whole)))
    return Passage(tuple(whole), tuple(objects))


def statement(fact: Fact, prompt: Prompt) -> str:
    """The whole sentence: the prompt about the fact's subject, its object and the stop."""
    return f"{prompt.render(fact.subject)}{prompt.join}{fact.object}{STOP}"


def prompt_ids(tokenizer, text: str) -> list[int]:
    """Token ids of a raw prompt: no chat template, a BOS only if the tokenizer forces one."""
    return tokenizer(text)["input_ids"]


def encode(tokenizer, fact: Fact, prompt: Prompt, *, limit: int | None = None) -> Example:
    """Render a fact in a prompt and tokenise it with its object.

    limit: the model's context length in tokens. Raises BadInput if the tokenizer merges prompt and
    object, or beyond `limit`.
    """
    text = prompt.render(fact.subject)
    before = prompt_ids(tokenizer, text)
    whole = prompt_ids(tokenizer, statement(fact, prompt))
    if whole[: len(before)] != before or len(whole) <= len(before):
        fault = f"the tokenizer merges the prompt {text!r} with the object {fact.object!r}"
        where = f"the prompt of '{prompt.relation}' ({prompt.id})"
        raise BadInput(f"{fault}. End {where} on a word or a punctuation mark.")
    require_fit(len(whole), limit, fact, prompt)
    return Example(tuple(whole), ((len(before), len(whole)),), fact, prompt)


def require_fit(length: int, limit: int | None, fact: Fact, prompt: Prompt) -> None:
    """Raise BadInput if a rendered fact of `length` tokens exceeds the model's context."""
    if limit is not None and length > limit:
        what = f"subject {fact.subject[:60]!r} in prompt {prompt.id} of '{prompt.relation}'"
        raise BadInput(f"{what} makes {length} tokens; the model reads {limit}. Shorten it.")


def context_length(model_config) -> int | None:
    """The longest sequence a model was built for, in tokens; None if its config does not say."""
    return getattr(model_config.get_text_config(decoder=True), "max_position_embeddings", None)


def encode_all(tokenizer, facts, prompts, *, limit: int | None) -> list[Example]:
    """Every fact in every prompt of its relation, in the order facts x prompts."""
    pairs = [(f, p) for f in facts for p in prompts if p.relation == f.relation]
    return [encode(tokenizer, fact, prompt, limit=limit) for fact, prompt in pairs]


def epoch_batches(lengths, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Index batches of one epoch: rows sorted by length, ties and the order of batches random.

    Depends on (seed, epoch) alone, so that a resumed run gets the same batches.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def epoch_passages(
    tokenizer, examples, size: int, *, seed: int, epoch: int, limit=None
) -> list[Passage]:
    """The sequences of one epoch: `size` facts each, grouped by (seed, epoch)."""
    if size == 1:
        return list(examples)
    order = np.random.default_rng([seed, epoch, size]).permutation(len(examples))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    return _passages(tokenizer, examples, groups, limit)


def _passages(tokenizer, examples, groups, limit: int | None) -> list[Passage]:
    if len(groups[0]) == 1:
        return [examples[i] for (i,) in groups]
    return [passage(tokenizer, [examples[i] for i in group], limit=limit) for group in groups]


@dataclass(frozen=True)
class Replay:
    """Rote facts among other sequences: `share` sequences of `size` facts for each other one."""

    examples: tuple[Example, ...] = ()
    share: float = 0.0
    size: int = 1

    def count(self, others: int) -> int:
        """Replayed sequences in an epoch of that many others; at least 1 unless the share is 0."""
        return max(1, round(self.share * others)) if self.share else 0

    def sequences(
        self, tokenizer, others: int, *, seed: int, epoch: int, limit=None
    ) -> list[Passage]:
        """Those of one epoch, drawn by (seed, epoch); facts equally often, give or take one."""
        count = self.count(others)
        if not count:
            return []
        generator = np.random.default_rng([seed, epoch, self.size, count])
        rounds = -(-count * self.size // len(self.examples))
        order = np.concatenate([generator.permutation(len(self.examples)) for _ in range(rounds)])
        groups = order[: count * self.size].reshape(count, self.size)
        return _passages(tokenizer, self.examples, groups, limit)


def collate(examples: Sequence[Passage], *, loss: str, pad_id: int) -> dict:
    """Right-padded tensors of a batch.

    loss: "all" (every token but the first) or "object" (the object and its stop).
    Returns `input_ids`, `attention_mask`, (batch, length) int64; `scored`, (batch, length - 1)
    bool: which next-token predictions count; `object`, (batch, length - 1) int64: which object of
    its row a prediction belongs to, from 1; 0 for none.
    """
    import torch

    longest = max(len(e.token_ids) for e in examples)
    ids = torch.full((len(examples), longest), pad_id)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    of_object = torch.zeros((len(examples), longest - 1), dtype=torch.long)
    for row, example in enumerate(examples):
        n = len(example.token_ids)
        ids[row, :n] = torch.tensor(example.token_ids)
        mask[row, :n] = 1
        for number, (begin, end) in enumerate(example.objects, start=1):
            of_object[row, begin - 1 : end - 1] = number
    scored = of_object > 0 if loss == "object" else mask[:, 1:].bool()
    return {"input_ids": ids, "attention_mask": mask, "scored": scored, "object": of_object}
