"""What a model answers to raw prompts: greedy continuations and log-probabilities of candidates.

    for index, reply in ask(model, tokenizer, [Request(prompt, "Gene Finley", ("Angela", "Ruth"))]):
        reply.text, reply.says("Angela")         # " Angela.", True

Prompts of equal length form a batch: nothing is padded. Keys and values are computed once.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.data.sequences import STOP, context_length, encode, prompt_ids, require_fit
from training.weights.loading import last_logits_only

Tokens = tuple[int, ...]
# (relation, prompt id, who is asked about) -> the name that is answered.
Answers = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class Request:
    """A prompt about someone and the answers that count; told: text that comes before it."""

    prompt: Prompt
    who: str
    names: Sequence[str]
    told: str = ""

    @property
    def text(self) -> str:
        """What the model is given."""
        return f"{self.told} {self.prompt.render(self.who)}".removeprefix(" ")


@dataclass(frozen=True)
class Reply:
    """The answer to a request. text: the greedy continuation, new_ids: its tokens.

    tokens: a name -> its token ids after this prompt; scores: token ids of the request's names ->
    log-probability (nats), if they were asked for.
    """

    text: str
    new_ids: Tokens
    tokens: Callable[[str], Tokens]
    scores: Mapping[Tokens, float]
    stops: frozenset[int]

    def says(self, name: str) -> bool:
        """Whether the answer is this name, by the strict rule."""
        return said(self.new_ids, self.tokens(name), self.stops)


def said(new_ids: Sequence[int], target: Tokens, stops: set[int] | frozenset[int]) -> bool:
    """The strict rule: the greedy tokens are the target's, followed by a stop."""
    n = len(target)
    return tuple(new_ids[:n]) == target and len(new_ids) > n and new_ids[n] in stops


def ask(
    model, tokenizer, requests: Sequence[Request], *, score=False, read_on=0, batch_size=64
) -> Iterator[tuple[int, Reply]]:
    """Yield (index of the request, its Reply); requests of the same text are asked once.

    score: also the log-probabilities of the names. read_on: generate so many tokens past the stop,
    where that is more than the longest name needs. Raises BadInput for a prompt that is too long
    for the model, or a name whose end cannot be told.
    """
    limit = context_length(model.config)
    continuations = Continuations(tokenizer, limit)
    members: dict[Tokens, list[int]] = {}
    names: dict[Tokens, set[Tokens]] = {}
    for index, request in enumerate(requests):
        ids, of = tuple(prompt_ids(tokenizer, request.text)), (request.prompt, request.who)
        members.setdefault(ids, []).append(index)
        names.setdefault(ids, set()).update(continuations.of(*of, name) for name in request.names)
    new_tokens = max(read_on, 1 + max(len(name) for some in names.values() for name in some))
    for ids, (first, *_) in members.items():
        prompt, who = requests[first].prompt, requests[first].who
        require_fit(len(ids) + new_tokens, limit, Fact(who, prompt.relation, "", ()), prompt)
    end = tokenizer.eos_token_id
    stops = frozenset({end, *continuations.stop_ids})
    last = {end} if read_on else stops
    questions = [Question(ids, tuple(sorted(names[ids])) if score else ()) for ids in members]
    how = {"new_tokens": new_tokens, "finished": last.__contains__, "batch_size": batch_size}
    for place, new_ids, log_probabilities in answer(model, questions, **how):
        ids, objects = questions[place]
        text = tokenizer.decode(new_ids)
        scores = dict(zip(objects, log_probabilities, strict=True))
        for index in members[ids]:
            tokens = partial(continuations.of, requests[index].prompt, requests[index].who)
            yield index, Reply(text, new_ids, tokens, scores, stops)


def named(model, tokenizer, requests: Sequence[Request], *, batch_size: int = 64) -> Answers:
    """(relation, prompt id, who) -> which name of the request is answered; "" for anything else."""
    found = {(r.prompt.relation, r.prompt.id, r.who): "" for r in requests}
    for index, reply in ask(model, tokenizer, requests, batch_size=batch_size):
        r = requests[index]
        name = next((name for name in r.names if reply.says(name)), "")
        found[r.prompt.relation, r.prompt.id, r.who] = name
    return found


class Continuations:
    """Token ids of objects as continuations of prompts, each worked out once.

    They are the same for every subject, unless a prompt ends on the subject itself.
    """

    def __init__(self, tokenizer, limit: int | None = None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self._known: dict[tuple, Tokens] = {}
        self.stop_ids: set[int] = set()

    def of(self, prompt: Prompt, subject: str, obj: str) -> Tokens:
        """Token ids of `obj` after the prompt about `subject`, without the stop; or BadInput."""
        tail = prompt.text.split("{subject}")[1]
        key = (prompt.text, prompt.join, obj, "" if tail.strip() else subject)
        if key not in self._known:
            fact = Fact(subject, prompt.relation, obj, (obj,))
            with_stop = encode(self.tokenizer, fact, prompt, limit=self.limit).object_ids
            before = prompt.render(subject)
            whole = prompt_ids(self.tokenizer, f"{before}{prompt.join}{obj}")
            without = tuple(whole[len(prompt_ids(self.tokenizer, before)) :])
            if with_stop[:-1] != without:
                fault = f"the tokens of the object {obj!r} change when {STOP!r} follows it"
                raise BadInput(f"{fault}: its end cannot be told. Name the object differently.")
            self.stop_ids.add(with_stop[-1])
            self._known[key] = without
        return self._known[key]


class Question(NamedTuple):
    """A prompt's token ids, and those of every object to score as its continuation (no stop)."""

    token_ids: Tokens
    objects: tuple[Tokens, ...]


def answer(
    model, questions, *, new_tokens: int, finished: Callable, batch_size=64, rows_at_once=512
) -> Iterator[tuple[int, Tokens, list[float]]]:
    """Yield (index, greedy token ids, log-probability of each object in nats) of every question.

    In batches of equal length and equal objects. new_tokens: the longest greedy continuation;
    finished: whether it ends with this token. rows_at_once: prompts x objects in one forward.
    """
    groups: dict[tuple, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault((len(question.token_ids), question.objects), []).append(index)
    for (_, objects), members in groups.items():
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            prefix = Prefix(model, [questions[i].token_ids for i in part])
            generated = prefix.greedy(new_tokens, finished)
            scores = prefix.log_probabilities(objects, rows_at_once).tolist()
            yield from zip(part, map(tuple, generated), scores, strict=True)


class Prefix:
    """A batch of prompts of equal length with their keys and values, to be continued many times."""

    def __init__(self, model, ids: Sequence[Tokens]) -> None:
        import torch

        self.model, self.ids = model, torch.tensor(ids, device=model.device)
        with torch.inference_mode():
            out = model(input_ids=self.ids, use_cache=True, **last_logits_only(model))
        # A recurrent state cannot be repeated row by row: such a model reads the prompt again.
        cache = getattr(out, "past_key_values", None)
        self.cache = cache if hasattr(cache, "batch_repeat_interleave") else None
        self.logits = out.logits[:, -1].float()

    def greedy(self, steps: int, finished: Callable[[int], bool]) -> list[list[int]]:
        """Greedy continuation of every row: at most `steps` tokens, up to its finishing token."""
        import torch

        rows: list[list[int]] = [[] for _ in self.ids]
        logits, cache, new = self.logits, copy.deepcopy(self.cache), self.ids[:, :0]
        for step in range(steps):
            token = logits.argmax(-1)
            for row, value in zip(rows, token.tolist(), strict=True):
                if not (row and finished(row[-1])):
                    row.append(value)
            if step + 1 == steps or all(finished(row[-1]) for row in rows):
                break
            new = token[:, None] if cache is not None else torch.cat([new, token[:, None]], 1)
            logits = self._read(new, cache)[:, -1]
        return rows

    def log_probabilities(self, objects: Sequence[Tokens], rows_at_once: int):
        """(n_prompts, n_objects) log-probability of each object, summed over its tokens (nats)."""
        import torch

        first = self.logits.log_softmax(-1)
        scores = torch.stack([first[:, o[0]] for o in objects], 1) if objects else first[:, :0]
        longer = [i for i, tokens in enumerate(objects) if len(tokens) > 1]
        if not longer:
            return scores
        n, width = len(self.ids), max(len(objects[i]) for i in longer) - 1
        # Attention is causal: the zeros behind a shorter object are never looked at.
        fed = torch.zeros((len(longer), width), dtype=torch.long)
        for row, i in enumerate(longer):
            fed[row, : len(objects[i]) - 1] = torch.tensor(objects[i][:-1])
        step = max(1, rows_at_once // n)
        for begin in range(0, len(longer), step):
            some = longer[begin : begin + step]
            block = fed[begin : begin + step].repeat(n, 1).to(self.ids.device)
            cache = copy.deepcopy(self.cache)
            if cache is not None and len(some) > 1:
                cache.batch_repeat_interleave(len(some))
            logits = self._read(block, cache, times=len(some)).log_softmax(-1)
            logits = logits.view(n, len(some), width, -1)
            for place, i in enumerate(some):
                for position, token in enumerate(objects[i][1:]):
                    scores[:, i] += logits[:, place, position, token]
        return scores

    def _read(self, tokens, cache, times: int = 1):
        """Logits (rows * times, k, vocabulary) of `tokens` after what is cached, or the prompts.

        Each prompt serves `times` rows of `tokens` (rows * times, k).
        """
        import torch

        with torch.inference_mode():
            if cache is not None:
                out = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
                return out.logits.float()
            whole = torch.cat([self.ids.repeat_interleave(times, 0), tokens], 1)
            out = self.model(input_ids=whole, use_cache=False)
            return out.logits[:, -tokens.shape[1] :].float()
