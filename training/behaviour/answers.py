"""What a model answers to raw prompts: greedy continuations and log-probabilities of candidate objects.

Prompts of exactly equal length form a batch, so nothing is padded and every architecture sees the positions it
was trained with. A prompt's keys and values are computed once and reused for its continuations.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.data.sequences import STOP, context_length, encode, prompt_ids
from training.weights.loading import last_logits_only


@dataclass(frozen=True)
class Question:
    """A prompt's token ids and the token ids of every object to be scored as its continuation (no stop)."""

    token_ids: tuple[int, ...]
    objects: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Answer:
    """new_ids: greedy continuation. log_probabilities: summed over tokens, one an object of the question (nats)."""

    new_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]


class Prefix:
    """A batch of equally long prompts with their cached keys and values, ready to be continued many times."""

    def __init__(self, model, ids) -> None:
        import torch

        self.model, self.ids = model, ids
        with torch.inference_mode():
            out = model(input_ids=ids, use_cache=True, **last_logits_only(model))
        # Recurrent models keep a state that cannot be repeated row by row; they read the prompt again.
        cache = getattr(out, "past_key_values", None)
        self.cache = cache if hasattr(cache, "batch_repeat_interleave") else None
        self.logits = out.logits[:, -1].float()

    def extend(self, tokens, *, times: int = 1):
        """Logits (rows * times, k, vocabulary) after each of `tokens` (rows * times, k), appended to the prompts.

        Row i of the batch serves rows i * times ... (i + 1) * times - 1.
        """
        import torch

        with torch.inference_mode():
            if self.cache is None:
                whole = torch.cat([self.ids.repeat_interleave(times, 0), tokens], 1)
                return (
                    self.model(input_ids=whole, use_cache=False)
                    .logits[:, -tokens.shape[1] :]
                    .float()
                )
            cache = copy.deepcopy(self.cache)
            if times > 1:
                cache.batch_repeat_interleave(times)
            return self.model(
                input_ids=tokens, past_key_values=cache, use_cache=True
            ).logits.float()

    def greedy(self, steps: int, finished: Callable[[int], bool]) -> list[list[int]]:
        """Greedy continuation of every row: up to `steps` tokens, none after its first finishing token."""
        import torch

        rows: list[list[int]] = [[] for _ in range(len(self.ids))]
        logits, cache, ids = self.logits, copy.deepcopy(self.cache), self.ids
        for step in range(steps):
            token = logits.argmax(-1)
            for row, value in zip(rows, token.tolist(), strict=True):
                if not (row and finished(row[-1])):
                    row.append(value)
            if step + 1 == steps or all(finished(row[-1]) for row in rows):
                break
            with torch.inference_mode():
                if cache is None:
                    ids = torch.cat([ids, token[:, None]], 1)
                    logits = self.model(input_ids=ids, use_cache=False).logits[:, -1].float()
                else:
                    out = self.model(
                        input_ids=token[:, None], past_key_values=cache, use_cache=True
                    )
                    logits = out.logits[:, -1].float()
        return rows


def said(new_ids: Sequence[int], target: tuple[int, ...], stops: set[int]) -> bool:
    """Strict generation: the greedy tokens are the object's, followed by a stop."""
    n = len(target)
    return tuple(new_ids[:n]) == target and len(new_ids) > n and new_ids[n] in stops


def answer(
    model,
    questions: Sequence[Question],
    *,
    new_tokens: int,
    finished: Callable[[int], bool],
    batch_size: int = 64,
    rows_at_once: int = 512,
) -> Iterator[tuple[int, Answer]]:
    """Yield (index of the question, its Answer) in batches of equal length and equal objects.

    new_tokens: the longest greedy continuation. rows_at_once: bound on prompts x objects in one forward.
    """
    groups: dict[tuple, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault((len(question.token_ids), question.objects), []).append(index)
    for (_, objects), members in groups.items():
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            yield from zip(
                part,
                _answer_batch(
                    model,
                    [questions[i].token_ids for i in part],
                    objects,
                    new_tokens,
                    finished,
                    rows_at_once,
                ),
                strict=True,
            )


def named(
    model,
    tokenizer,
    requests: Sequence[tuple],
    names: Sequence[Sequence[str]],
    *,
    batch_size: int = 64,
) -> list[str]:
    """Which of its names each prompt is answered with (greedy; the whole name, then a stop); "" for anything else.

    requests: (prompt, whom it is asked about); names: of each request, those that count.
    """

    continuations = Continuations(tokenizer, context_length(model.config))
    targets = [
        {name: continuations.of(prompt, who, name) for name in some}
        for (prompt, who), some in zip(requests, names, strict=True)
    ]
    stops = {tokenizer.eos_token_id, *continuations.stop_ids}
    longest = max(len(ids) for some in targets for ids in some.values()) + 1
    questions = [
        Question(tuple(prompt_ids(tokenizer, prompt.render(who))), ()) for prompt, who in requests
    ]
    found = [""] * len(requests)
    for index, reply in answer(
        model, questions, new_tokens=longest, finished=stops.__contains__, batch_size=batch_size
    ):
        found[index] = next(
            (name for name, ids in targets[index].items() if said(reply.new_ids, ids, stops)), ""
        )
    return found


def _answer_batch(model, ids, objects, new_tokens, finished, rows_at_once) -> list[Answer]:
    import torch

    device = model.device
    prefix = Prefix(model, torch.tensor(ids, device=device))
    first = prefix.logits.log_softmax(-1)
    scores = (
        torch.stack([first[:, tokens[0]] for tokens in objects], 1) if objects else first[:, :0]
    )
    longer = [i for i, tokens in enumerate(objects) if len(tokens) > 1]
    if longer:
        width = max(len(objects[i]) for i in longer) - 1
        fed = torch.zeros((len(longer), width), dtype=torch.long)
        for row, i in enumerate(longer):
            fed[row, : len(objects[i]) - 1] = torch.tensor(objects[i][:-1])
        # Objects share the prefix; the padding behind a shorter one is never looked at (causal attention).
        step = max(1, rows_at_once // len(ids))
        for begin in range(0, len(longer), step):
            some = longer[begin : begin + step]
            block = fed[begin : begin + step].repeat(len(ids), 1).to(device)
            logits = prefix.extend(block, times=len(some)).log_softmax(-1)
            logits = logits.view(len(ids), len(some), width, -1)
            for place, i in enumerate(some):
                for position, token in enumerate(objects[i][1:]):
                    scores[:, i] += logits[:, place, position, token]
    generated = prefix.greedy(new_tokens, finished) if new_tokens else [[] for _ in ids]
    return [
        Answer(tuple(new), tuple(row)) for new, row in zip(generated, scores.tolist(), strict=True)
    ]


class Continuations:
    """Token ids of objects as continuations of prompts, each worked out once.

    What follows a prompt's last fixed words is the same for every subject; only a prompt that ends on the
    subject itself is tokenised for each.
    """

    def __init__(self, tokenizer, limit: int | None = None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self._known: dict[tuple, tuple[int, ...]] = {}
        self.stop_ids: set[int] = set()

    def of(self, prompt: Prompt, subject: str, obj: str) -> tuple[int, ...]:
        """Token ids of `obj` after the prompt about `subject`, without the stop. Raises as `encode` does."""
        tail = prompt.text.split("{subject}")[1]
        key = (prompt.text, prompt.join, obj, "" if tail.strip() else subject)
        if key not in self._known:
            fact = Fact(subject, prompt.relation, obj, (obj,))
            with_stop = encode(self.tokenizer, fact, prompt, limit=self.limit).object_ids
            text = f"{prompt.render(subject)}{prompt.join}{obj}"
            without = prompt_ids(self.tokenizer, text)[
                len(prompt_ids(self.tokenizer, prompt.render(subject))) :
            ]
            if with_stop[: len(without)] != tuple(without) or len(with_stop) != len(without) + 1:
                raise BadInput(
                    f"the tokens of the object {obj!r} change when {STOP!r} follows it, so that its end cannot be "
                    f"told. Name the object differently."
                )
            self.stop_ids.add(with_stop[-1])
            self._known[key] = tuple(without)
        return self._known[key]
