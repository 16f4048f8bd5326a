"""Hidden states of prompts: one vector per prompt and site, at a chosen token.

    states = hidden_states(model, tokenizer, ["Gene Finley [X_mother]", ...], positions="last")

Row i is prompt i. `encode` turns prompts into token ids and one token index each, without a model;
`extract` runs a model over them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probing.sites import choose_sites, site_names
from probing.tracing import read_sites, tokenizer_left_as_found, traced
from training.base import console
from training.base.errors import BadInput

if TYPE_CHECKING:
    from torch import FloatTensor, nn


NAMED_POSITIONS = ("last", "subject_last", "key")
KEY_TOKEN = re.compile(r"\[X[^\]]*\]")


@dataclass(frozen=True)
class Encoded:
    """Tokenised prompts: `token_ids[i]` of prompt i, and `positions[i]`, its token index."""

    token_ids: list[list[int]]
    positions: list[int]


def hidden_states(
    model: nn.Module,
    tokenizer: Any,
    prompts: Iterable[str],
    *,
    positions: str | int | Sequence[int] = "last",
    sites: Sequence[str] | None = None,
    batch_size: int = 32,
    subjects: Sequence[str] | None = None,
    key_tokens: str | Sequence[str] | None = None,
    progress: bool = True,
) -> FloatTensor:
    """Hidden states of prompts at named sites, (n_prompts, n_sites, d) float32 on the CPU.

    >>> x = hidden_states(model, tokenizer, ["Ida Lund [X_mother]", "Tom Frost [X_mother]"])
    >>> x[:, site_names(model).index("resid_post.20")]          # (2, d)

    model: any Hugging Face causal language model; everything is computed in its dtype.
    prompts: raw texts, tokenised as `tokenizer(text)` does: no chat template, and a BOS only where
    the tokenizer adds one. positions: the token that is read:
      "last"          the last token of the prompt;
      "subject_last"  the last token of the prompt's subject (`subjects`, one per prompt): its last
                      occurrence as a whole word, else its last occurrence;
      "key"           the last key token: `key_tokens` (one for all or one per prompt), by default
                      any special token like "[X...]";
      an int, or one per prompt: token index, special tokens counted, negative from the end.
    sites: names from `site_names(model)`; default: all. batch_size: prompts per forward pass; all
    have the same token count, so nothing is padded. progress: a bar on stderr in a terminal.

    Runs in eval mode without gradients and leaves model and tokenizer as they were. Equal prompts
    are computed once. Raises BadInput, and UnsupportedModel where the layers cannot be found.
    """
    where = {"positions": positions, "subjects": subjects, "key_tokens": key_tokens}
    how = {"sites": sites, "batch_size": batch_size, "progress": progress}
    return extract(model, tokenizer, encode(tokenizer, prompts, **where), **how)


def encode(
    tokenizer: Any,
    prompts: Iterable[str],
    *,
    positions: str | int | Sequence[int] = "last",
    subjects: Sequence[str] | None = None,
    key_tokens: str | Sequence[str] | None = None,
) -> Encoded:
    """Token ids and positions of `prompts`, without a model; arguments as in `hidden_states`."""
    texts = _checked(prompts)
    named = positions if isinstance(positions, str) else ""
    if named and named not in NAMED_POSITIONS:
        raise BadInput(f"position {named!r}; give {', '.join(NAMED_POSITIONS)} or token indices")
    by_subject = named == "subject_last"
    encoding = _tokenised(tokenizer, texts, "'subject_last'" if by_subject else "")
    token_ids = [list(ids) for ids in encoding["input_ids"]]
    if [] in token_ids:
        index = token_ids.index([])
        raise BadInput(f"prompt {index} ({texts[index]!r}) has no tokens; give it text")
    _check_lengths(token_ids, tokenizer.model_max_length, "its tokenizer's model_max_length")
    if by_subject:
        found = _subject_ends(texts, subjects, encoding["offset_mapping"])
    elif named == "key":
        found = _key_positions(texts, token_ids, key_tokens, tokenizer)
    else:
        found = _token_indices(-1 if named else positions, [len(ids) for ids in token_ids])
    return Encoded(token_ids, found)


def extract(
    model: nn.Module,
    tokenizer: Any,
    encoded: Encoded,
    *,
    sites: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> FloatTensor:
    """States (n_prompts, n_sites, d) of encoded prompts; arguments as in `hidden_states`."""
    import torch

    names = choose_sites(site_names(model), sites)
    check_readable(model, encoded.token_ids)
    rows: dict[tuple[tuple[int, ...], int], list[int]] = defaultdict(list)
    for row, (ids, position) in enumerate(zip(encoded.token_ids, encoded.positions, strict=True)):
        rows[tuple(ids), position].append(row)
    by_length: dict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for item in rows:
        by_length[len(item[0])].append(item)
    states = None
    with traced(model, tokenizer) as traced_model:
        for _, batch in batches(by_length, batch_size, progress and "states"):
            token_ids, positions = zip(*batch, strict=True)
            read = read_sites(traced_model, model, token_ids, positions, names)
            if states is None:
                states = torch.empty((len(encoded.token_ids), len(names), read.shape[-1]))
            sizes = torch.tensor([len(rows[item]) for item in batch])
            targets = torch.tensor([row for item in batch for row in rows[item]])
            states[targets] = read.float().cpu().repeat_interleave(sizes, dim=0)
    return states


def batches(groups: Mapping[Any, list], size: int, label: str | bool) -> Iterable:
    """(key, items) of every group, keys in order, at most `size` items each; a bar if labelled."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadInput(f"batch_size must be an integer of at least 1, got {size!r}")
    parts = [
        (key, items[start : start + size])
        for key, items in sorted(groups.items())
        for start in range(0, len(items), size)
    ]
    return console.progress(parts, label=label) if label else parts


def tokens_at(tokenizer: Any, texts: Sequence[str], characters: Sequence[int]) -> list[int]:
    """Index of the last token over character `characters[i]` of `texts[i]`.

    Raises BadInput where no token covers the character, or for a slow tokenizer.
    """
    encoding = _tokenised(tokenizer, texts, "a character's token")
    found = []
    for text, character, spans in zip(texts, characters, encoding["offset_mapping"], strict=True):
        inside = _tokens_over(spans, character)
        if not inside:
            raise BadInput(f"no token of {text!r} covers its character {character}")
        found.append(inside[-1])
    return found


def check_readable(model: nn.Module, token_ids: Sequence[Sequence[int]]) -> None:
    """Raise BadInput for prompts longer than the model reads, or tokens that it lacks."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    _check_lengths(token_ids, limit, f"max_position_embeddings of {type(model).__name__}")
    largest, n_rows = max(map(max, token_ids)), model.get_input_embeddings().num_embeddings
    if largest >= n_rows:
        raise BadInput(
            f"token id {largest} is outside the {n_rows} embeddings of {type(model).__name__}; "
            "give the tokenizer that belongs to it, or resize the embeddings for added tokens"
        )


def _checked(prompts: Iterable[str]) -> list[str]:
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        kind = type(prompts).__name__
        raise BadInput(f"prompts must be a list of strings, got {kind}; give [text, ...]")
    texts = list(prompts)
    if not texts:
        raise BadInput("prompts is empty; give at least one")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            given = f"empty ({text!r})" if isinstance(text, str) else repr(text)
            raise BadInput(f"prompt {index} is {given}; every prompt must be a string with text")
    return [str(text) for text in texts]


def _tokenised(tokenizer: Any, texts: Sequence[str], offsets_for: str = "") -> Any:
    """The tokenizer's encoding, never cut or padded; with offsets if something needs them."""
    if offsets_for and not tokenizer.is_fast:
        raise BadInput(
            f"{type(tokenizer).__name__} gives no character offsets, which {offsets_for} needs; "
            "load a fast tokenizer (use_fast=True) or give token indices as positions"
        )
    how = {"padding": False, "truncation": False, "verbose": False}
    with tokenizer_left_as_found(tokenizer):
        return tokenizer(list(texts), return_offsets_mapping=bool(offsets_for), **how)


def _check_lengths(token_ids: Sequence[Sequence[int]], limit: int | None, what: str) -> None:
    lengths = [len(ids) for ids in token_ids]
    if limit is not None and max(lengths) > limit:
        raise BadInput(
            f"prompt {lengths.index(max(lengths))} has {max(lengths)} tokens, {what} is {limit}; "
            "shorten it (prompts are never truncated)"
        )


def _one_each(values: Any, n: int, what: str) -> list[Any]:
    listed = list(values)
    if len(listed) != n:
        raise BadInput(f"got {len(listed)} {what} for {n} prompts; give one per prompt")
    return listed


def _token_indices(positions: Any, lengths: Sequence[int]) -> list[int]:
    given = positions.tolist() if hasattr(positions, "tolist") else positions
    listed = given if isinstance(given, Iterable) else [given] * len(lengths)
    indices = _one_each(listed, len(lengths), "positions")
    for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
        integer = hasattr(index, "__index__") and not isinstance(index, bool)
        if not integer or not -length <= index < length:
            raise BadInput(
                f"position {index!r} is not a token of prompt {row}, which has {length}; "
                f"give an integer from {-length} to {length - 1}"
            )
    return [int(index) % length for index, length in zip(indices, lengths, strict=True)]


def _subject_ends(
    texts: Sequence[str],
    subjects: Sequence[str] | None,
    offsets: Sequence[Sequence[tuple[int, int]]],
) -> list[int]:
    if subjects is None or isinstance(subjects, str):
        raise BadInput(f"'subject_last' needs subjects, one per prompt, got {subjects!r}")
    ends = []
    wanted = _one_each(subjects, len(texts), "subjects")
    for row, (text, subject, spans) in enumerate(zip(texts, wanted, offsets, strict=True)):
        if not isinstance(subject, str) or not subject.strip():
            raise BadInput(f"the subject of prompt {row} is {subject!r}; give a name")
        inside = _tokens_over(spans, _last_character(text, subject.strip()))
        if not inside:
            raise BadInput(f"subject {subject!r} does not occur in prompt {row} ({text!r})")
        ends.append(inside[-1])
    return ends


def _tokens_over(spans: Sequence[tuple[int, int]], character: int) -> list[int]:
    """Indices of the tokens that cover a character; special tokens have empty spans."""
    return [index for index, (start, end) in enumerate(spans) if start <= character < end]


def _last_character(text: str, subject: str) -> int:
    """Where the last `subject` ends in `text`, or -1; whole words first ("Ann", not "Anna")."""
    name = re.escape(subject)
    found = list(re.finditer(rf"(?<!\w){name}(?!\w)", text)) or list(re.finditer(name, text))
    return found[-1].end() - 1 if found else -1


def _key_positions(
    texts: Sequence[str], token_ids: Sequence[Sequence[int]], key_tokens: Any, tokenizer: Any
) -> list[int]:
    if key_tokens is None:
        added = tokenizer.added_tokens_decoder.items()
        keys = {i for i, token in added if token.special and KEY_TOKEN.fullmatch(token.content)}
        if not keys:
            raise BadInput("the tokenizer has no special token like '[X...]'; give key_tokens")
        wanted = [keys] * len(texts)
    else:
        named = [key_tokens] * len(texts) if isinstance(key_tokens, str) else key_tokens
        named = _one_each(named, len(texts), "key tokens")
        wanted = [{_token_id(token, tokenizer)} for token in named]
    found = []
    for row, (ids, keys) in enumerate(zip(token_ids, wanted, strict=True)):
        here = [index for index, token_id in enumerate(ids) if token_id in keys]
        if not here:
            names = ", ".join(tokenizer.convert_ids_to_tokens(sorted(keys)))
            raise BadInput(f"prompt {row} ({texts[row]!r}) has no key token ({names}); add it")
        found.append(here[-1])
    return found


def _token_id(token: Any, tokenizer: Any) -> int:
    index = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    if index is None or tokenizer.convert_ids_to_tokens(index) != token:
        raise BadInput(f"key token {token!r} is not in the tokenizer; add it as a special token")
    return index
