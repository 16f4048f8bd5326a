"""Changing hidden states inside a forward pass: interchange between prompts, steering, and the logit lens.

    logits = patch(model, tokenizer, "Gene Finley [X_mother]", "Where does Orin Vale live?", site="resid_post.12")

The state of the source prompt at a site and token takes the place of the target prompt's state at the same
site (Vig et al. 2020, arXiv:2004.12265; Geiger et al. 2021, arXiv:2106.02997). Many sites and pairs go into one
forward pass: a row of the batch is one pair changed at one site.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from probing.extraction import check_readable, encode, extract
from probing.sites import (
    FINAL_NORM,
    UnsupportedModel,
    choose_sites,
    find_decoder,
    in_eval_mode,
    site_names,
)
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

    model: any Hugging Face causal language model. source, target: a prompt, or a list of n prompts each; pair i
    is source i into target i. site: one name of `site_names(model)`; a list of names, or None for all: each is
    patched by itself, never two at once. position: the token of the target whose state is replaced, as in
    `hidden_states` ("last", "subject_last" with `subjects`, "key", a token index, or one index a prompt).
    source_position: the token of the source whose state is taken, in the same words; by default that of
    `position`, for which "subject_last" needs `source_subjects`. batch_size: rows (pairs x sites) in one forward.

    Returns float32 on the CPU: (n, vocabulary) for one site name, else (n, n_sites, vocabulary). Raises BadInput
    and what `hidden_states` raises.
    """
    import torch

    one = isinstance(site, str)
    sites = choose_sites(site_names(model), [site] if one else site)
    sources, targets = ([text] if isinstance(text, str) else text for text in (source, target))
    taken = encode(
        tokenizer,
        sources,
        positions=position if source_position is None else source_position,
        subjects=source_subjects,
        key_tokens=key_tokens,
    )
    into = encode(tokenizer, targets, positions=position, subjects=subjects, key_tokens=key_tokens)
    n = len(into.token_ids)
    if len(taken.token_ids) != n:
        raise BadInput(
            f"got {len(taken.token_ids)} sources for {n} targets; give one source a target"
        )
    states = extract(model, tokenizer, taken, sites=sites, batch_size=batch_size, progress=progress)
    rows = [(pair, place) for pair in range(n) for place in range(len(sites))]
    logits = None
    for done, part in changed_logits(
        model,
        tokenizer,
        [into.token_ids[pair] for pair, _ in rows],
        [into.positions[pair] for pair, _ in rows],
        [sites[place] for _, place in rows],
        states.flatten(0, 1),
        batch_size=batch_size,
        progress=progress,
    ):
        if logits is None:
            logits = torch.empty((len(rows), part.shape[-1]))
        logits[done] = part.cpu()
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
    """Logits (n, vocabulary) after `prompts`, float32 on the CPU, when a vector is added to a state of each.

    vectors: (d,) the same for all, or (n, d) one a prompt. The rest is as in `patch`.
    """
    import torch

    choose_sites(site_names(model), [site])
    texts = [prompts] if isinstance(prompts, str) else prompts
    into = encode(tokenizer, texts, positions=position, subjects=subjects, key_tokens=key_tokens)
    n = len(into.token_ids)
    vectors = torch.as_tensor(vectors)
    vectors = vectors.expand(n, -1) if vectors.dim() == 1 else vectors
    logits = None
    for done, part in changed_logits(
        model,
        tokenizer,
        into.token_ids,
        into.positions,
        [site] * n,
        vectors,
        add=True,
        batch_size=batch_size,
        progress=progress,
    ):
        if logits is None:
            logits = torch.empty((n, part.shape[-1]))
        logits[done] = part.cpu()
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
    """Yield (row indices, logits (rows, vocabulary) float32 after each row's last token) in batches.

    Row i: the prompt `token_ids[i]`, whose state at `sites[i]` and token `positions[i]` (an index from 0) becomes
    `vectors[i]`, or has it added. What stands before the changed token is read once for all rows that share it
    and kept as keys and values; recurrent models, which keep none, read it again. Raises BadInput.
    """
    import torch
    from tqdm import tqdm

    n = len(token_ids)
    width = model.get_input_embeddings().weight.shape[-1]
    if not (len(positions) == len(sites) == n) or vectors.shape[0] != n or vectors.dim() != 2:
        raise BadInput(
            f"got {n} prompts, {len(positions)} positions, {len(sites)} sites and vectors of shape "
            f"{tuple(vectors.shape)}; give one of each a row, vectors ({n}, {width})"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise BadInput(f"batch_size must be a whole number of rows, at least 1, got {batch_size!r}")
    check_readable(model, token_ids)
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, (ids, position) in enumerate(zip(token_ids, positions, strict=True)):
        groups[len(ids), position].append(row)
    batches = [
        (position, rows[start : start + batch_size])
        for (_, position), rows in sorted(groups.items())
        for start in range(0, len(rows), batch_size)
    ]
    bar = tqdm(
        total=n,
        desc="patches",
        unit="row",
        delay=2,
        leave=False,
        disable=None if progress else True,
    )
    autocast_off = torch.autocast(model.device.type, enabled=False)
    with bar, autocast_off, traced(model, tokenizer) as traced_model:
        for position, rows in batches:
            ids = torch.tensor([token_ids[row] for row in rows], device=model.device)
            cache = _keys_and_values(model, ids[:, :position])
            start = 0 if cache is None else position
            logits = run_changed(
                traced_model,
                model,
                ids[:, start:],
                position - start,
                [sites[row] for row in rows],
                vectors[rows],
                add=add,
                cache=cache,
            )
            bar.update(len(rows))
            yield rows, logits.float()


def logit_lens(
    model: nn.Module,
    states: Tensor,
    sites: Sequence[str],
    *,
    token_ids: Sequence[int] | None = None,
) -> FloatTensor:
    """What each state would answer if it were the last: final norm and unembedding of states (n, n_sites, d).

    nostalgebraist 2020, "interpreting GPT: the logit lens". sites: names of the second axis; at `final_norm` the
    norm has been applied already. token_ids: only the logits of these tokens, in this order.
    Returns float32 on the CPU, (n, n_sites, vocabulary or n_tokens). A scale or soft cap that some models put
    behind the unembedding is left out; it changes no order. Raises BadInput, UnsupportedModel.
    """
    import torch
    from torch.nn import Linear, functional

    choose_sites(site_names(model), sites)
    norm = model.get_submodule(find_decoder(model).final_norm)
    head = model.get_output_embeddings()
    width = states.shape[-1]
    if not isinstance(head, Linear) or head.in_features != width:
        raise UnsupportedModel(
            f"{type(model).__name__}: its unembedding is no linear map of states of width {width}, so that there "
            "is no logit lens; leave it out for this architecture"
        )
    chosen = (
        slice(None) if token_ids is None else torch.tensor(token_ids, device=head.weight.device)
    )
    read = []
    with in_eval_mode(model), torch.inference_mode():
        weight, bias = head.weight[chosen], None if head.bias is None else head.bias[chosen]
        for place, site in enumerate(sites):
            state = states[:, place].to(model.device, model.dtype)
            state = state if site == FINAL_NORM else norm(state)
            read.append(functional.linear(state.to(weight.device), weight, bias).float().cpu())
    return torch.stack(read, dim=1)


def _keys_and_values(model: nn.Module, ids: Tensor) -> Any:
    """Keys and values of the tokens `ids` (rows, k), one row a row, each distinct row read once; None if there
    is nothing to read or the model keeps no such cache."""
    import torch

    if not ids.shape[1]:
        return None
    distinct, index = torch.unique(ids, dim=0, return_inverse=True)
    with torch.inference_mode():
        out = model(
            input_ids=distinct,
            attention_mask=torch.ones_like(distinct),
            use_cache=True,
            **last_logits_only(model),
        )
        cache = getattr(out, "past_key_values", None)
        if not hasattr(cache, "batch_select_indices"):
            return None
        cache.batch_select_indices(index)
    return cache
