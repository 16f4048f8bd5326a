"""Changing hidden states inside a forward pass: interchange, steering, and the logit lens.

    logits = patch(model, tokenizer, "Gene Finley [X_mother]", "Where does Orin Vale live?",
                   site="resid_post.12")

The source prompt's state at a site and token replaces the target prompt's state at the same site
(Vig et al. 2020, arXiv:2004.12265; Geiger et al. 2021, arXiv:2106.02997). Many sites and pairs
share a forward pass: a row of the batch is one pair changed at one site.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from probing.extraction import batches, check_readable, encode, extract
from probing.sites import UnsupportedModel, choose_sites, find_decoder, in_eval_mode, site_names
from probing.tracing import run_changed, traced
from training.base.errors import BadInput
from training.weights.loading import last_logits_only

if TYPE_CHECKING:
    from torch import FloatTensor, Tensor, nn


def patch(
    model: nn.Module,
    tokenizer: Any,
    source: str | Sequence[str],
    target: str | Sequence[str],
    *,
    site: str | Sequence[str] | None,
    position: str | int | Sequence[int] = "last",
    source_position: str | int | Sequence[int] | None = None,
    subjects: Sequence[str] | None = None,
    source_subjects: Sequence[str] | None = None,
    key_tokens: str | Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> FloatTensor:
    """Logits after `target` when its state at a site and token is that of `source`.

    >>> logits = patch(model, tokenizer, "Ida Lund [X_aunt]", "Who is Tom Frost's aunt?", site=None)
    >>> logits.shape                                             # (1, n_sites, vocabulary)

    model: any Hugging Face causal language model. source, target: a prompt, or a list of n prompts
    each; source i goes into target i. site: a name from `site_names(model)`; or a list of names, or
    None for all, each patched on its own. position: the token of the target whose state is
    replaced, as in `hidden_states`. source_position: the token of the source whose state is taken;
    default: `position`, for which "subject_last" needs `source_subjects`. batch_size: rows
    (pairs x sites) per forward pass.

    Returns float32 on the CPU: (n, vocabulary) for one site name, else (n, n_sites, vocabulary).
    Raises BadInput, and what `hidden_states` raises.
    """
    one = isinstance(site, str)
    sites = choose_sites(site_names(model), [site] if one else site)
    sources, targets = ([text] if isinstance(text, str) else text for text in (source, target))
    where = {"positions": position, "subjects": subjects, "key_tokens": key_tokens}
    into = encode(tokenizer, targets, **where)
    where |= {"subjects": source_subjects}
    where |= {} if source_position is None else {"positions": source_position}
    taken = encode(tokenizer, sources, **where)
    n, given = len(into.token_ids), len(taken.token_ids)
    if given != n:
        raise BadInput(f"got {given} sources for {n} targets; give one source per target")
    how = {"batch_size": batch_size, "progress": progress}
    states = extract(model, tokenizer, taken, sites=sites, **how)
    pairs, names = zip(*product(range(n), sites), strict=True)
    ids, at = ([column[pair] for pair in pairs] for column in (into.token_ids, into.positions))
    vectors = states.flatten(0, 1)
    logits = _collected(changed_logits(model, tokenizer, ids, at, names, vectors, **how), len(ids))
    return logits if one else logits.view(n, len(sites), -1)


def steer(
    model: nn.Module,
    tokenizer: Any,
    prompts: str | Sequence[str],
    vectors: Tensor,
    *,
    site: str,
    position: str | int | Sequence[int] = "last",
    subjects: Sequence[str] | None = None,
    key_tokens: str | Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> FloatTensor:
    """Logits (n, vocabulary) after `prompts` when a vector is added to a state of each.

    >>> direction = x_mother.mean(0) - x_aunt.mean(0)            # (d,) at one site
    >>> steer(model, tokenizer, "Who is Ida Lund's aunt?", direction, site="resid_post.12")

    vectors: (d,) the same for all, or (n, d) one per prompt. The rest is as in `patch`.
    """
    import torch

    choose_sites(site_names(model), [site])
    texts = [prompts] if isinstance(prompts, str) else prompts
    into = encode(tokenizer, texts, positions=position, subjects=subjects, key_tokens=key_tokens)
    n = len(into.token_ids)
    vectors = torch.as_tensor(vectors)
    vectors = vectors.expand(n, -1) if vectors.dim() == 1 else vectors
    rows = into.token_ids, into.positions, [site] * n, vectors
    how = {"add": True, "batch_size": batch_size, "progress": progress}
    return _collected(changed_logits(model, tokenizer, *rows, **how), n)


def _collected(parts: Iterable[tuple[list[int], FloatTensor]], n: int) -> FloatTensor:
    """The (n, vocabulary) logits that `changed_logits` yields, on the CPU."""
    import torch

    logits = None
    for rows, part in parts:
        if logits is None:
            logits = torch.empty((n, part.shape[-1]))
        logits[rows] = part.cpu()
    return logits


def changed_logits(
    model: nn.Module,
    tokenizer: Any,
    token_ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    sites: Sequence[str],
    vectors: Tensor,
    *,
    add: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Iterator[tuple[list[int], FloatTensor]]:
    """Yield (row indices, float32 logits (rows, vocabulary) after the last token) in batches.

    Row i: the prompt `token_ids[i]`, whose state at `sites[i]` and token index `positions[i]`
    becomes `vectors[i]`, or has it added. The tokens before the changed one are read once for all
    rows that share them and kept as keys and values, where the model can. Raises BadInput.
    """
    import torch

    n = len(token_ids)
    width = model.get_input_embeddings().weight.shape[-1]
    if not (len(positions) == len(sites) == n) or vectors.shape[0] != n or vectors.dim() != 2:
        raise BadInput(
            f"got {n} prompts, {len(positions)} positions, {len(sites)} sites and vectors of shape "
            f"{tuple(vectors.shape)}; give one of each per row, vectors ({n}, {width})"
        )
    check_readable(model, token_ids)
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, (ids, position) in enumerate(zip(token_ids, positions, strict=True)):
        groups[len(ids), position].append(row)
    with traced(model, tokenizer) as traced_model:
        for (_, position), rows in batches(groups, batch_size, progress and "patches"):
            ids = torch.tensor([token_ids[row] for row in rows], device=model.device)
            cache = _keys_and_values(model, ids[:, :position])
            start = 0 if cache is None else position
            where = ids[:, start:], position - start, [sites[row] for row in rows]
            how = {"add": add, "cache": cache}
            yield rows, run_changed(traced_model, model, *where, vectors[rows], **how).float()


def logit_lens(
    model: nn.Module,
    states: Tensor,
    sites: Sequence[str],
    *,
    token_ids: Sequence[int] | None = None,
) -> FloatTensor:
    """The answer each state would give if it were the last: final norm, then unembedding.

    >>> logits = logit_lens(model, x, site_names(model))         # x (n, n_sites, d)
    >>> logits.argmax(-1)                                        # (n, n_sites) token ids

    states: (n, n_sites, d). sites: names of the second axis; at `final_norm` the norm is already
    applied. token_ids: only the logits of these tokens, in this order. Returns float32 on the CPU,
    (n, n_sites, vocabulary or n_tokens), without the scale or soft cap that some models apply last
    (it does not change the order). Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    Raises BadInput, UnsupportedModel.
    """
    import torch
    from torch.nn import Linear, functional

    names = site_names(model)
    choose_sites(names, sites)
    norm = model.get_submodule(find_decoder(model).final_norm)
    head = model.get_output_embeddings()
    width = states.shape[-1]
    if not isinstance(head, Linear) or head.in_features != width:
        raise UnsupportedModel(
            f"{type(model).__name__}: its unembedding is not a linear map of width {width}, "
            "so the logit lens does not apply; leave it out for this architecture"
        )
    chosen = slice(None) if token_ids is None else torch.tensor(token_ids)
    read = []
    with in_eval_mode(model), torch.inference_mode():
        weight, bias = head.weight[chosen], None if head.bias is None else head.bias[chosen]
        for place, site in enumerate(sites):
            state = states[:, place].to(model.device, model.dtype)
            state = state if site == names[-1] else norm(state)
            read.append(functional.linear(state.to(weight.device), weight, bias).float().cpu())
    return torch.stack(read, dim=1)


def _keys_and_values(model: nn.Module, ids: Tensor) -> Any:
    """Keys and values of the tokens `ids` (rows, k), each distinct row read once.

    None if there is nothing to read or the model keeps no such cache.
    """
    import torch

    if not ids.shape[1]:
        return None
    distinct, index = torch.unique(ids, dim=0, return_inverse=True)
    with torch.inference_mode():
        inputs = {"input_ids": distinct, "attention_mask": torch.ones_like(distinct)}
        out = model(**inputs, use_cache=True, **last_logits_only(model))
        cache = getattr(out, "past_key_values", None)
        if not hasattr(cache, "batch_select_indices"):
            return None
        cache.batch_select_indices(index)
    return cache
