"""Reading and writing inside a forward pass. The only module that knows nnsight.

nnsight reads the source of a `with ....trace(...)` block and runs it inside the forward pass: the
body stands on its own lines, has no `return` or `break`, does not begin with `try`, and does not
rebind an outer name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from probing.sites import EMBED, find_decoder, first, in_eval_mode
from training.weights.loading import last_logits_only

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def traced(model: nn.Module, tokenizer: Any) -> Iterator[Any]:
    """`model` wrapped for tracing, in eval mode and its own dtype; both are restored afterwards.

    Wrappers are not cached: each keeps its model alive, and one costs only 10 to 25 ms.
    """
    import torch
    from nnsight.modeling.transformers import TransformersModel

    place = {} if hasattr(model, "hf_device_map") else {"device": model.device}
    autocast_off = torch.autocast(model.device.type, enabled=False)
    with autocast_off, in_eval_mode(model), tokenizer_left_as_found(tokenizer):
        yield TransformersModel(model, tokenizer=tokenizer, task="text-generation", **place)


@contextmanager
def tokenizer_left_as_found(tokenizer: Any) -> Iterator[None]:
    """Restore padding side, pad token, padding and truncation of the tokenizer."""
    side, pad_token = tokenizer.padding_side, tokenizer.pad_token
    backend = getattr(tokenizer, "backend_tokenizer", None)
    padding, truncation = getattr(backend, "padding", None), getattr(backend, "truncation", None)
    try:
        yield
    finally:
        tokenizer.padding_side = side
        if tokenizer.pad_token != pad_token:
            tokenizer.pad_token = pad_token
        if backend is not None:
            backend.enable_padding(**padding) if padding else backend.no_padding()
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()


def read_sites(
    traced_model: Any,
    model: nn.Module,
    input_ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    sites: Sequence[str],
) -> Tensor:
    """States of one batch, (batch, n_sites, d), in the order of `sites` and in the model's dtype.

    traced_model: from `traced(model, tokenizer)`. input_ids: rows of equal length (no padding).
    positions: one token index per row, from 0. The forward pass stops at the last site needed.
    """
    import nnsight
    import torch

    paths = find_decoder(model).paths
    order = [name for name in paths if name in set(sites)]
    first_layer = _module_at(traced_model, paths[EMBED])
    modules = [_module_at(traced_model, paths[name]) for name in order if name != EMBED]
    with_embed = EMBED in order
    tokens = torch.tensor(input_ids)
    rows, columns = torch.arange(len(tokens)), torch.tensor(positions)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}
    # Indexing by rows and columns copies, so no whole activation is kept alive by a view.
    with torch.inference_mode(), traced_model.trace(**inputs) as tracer:
        read = []
        if with_embed:
            read.append(first_layer.input[rows, columns])
        for module in modules:
            read.append(first(module.output)[rows, columns])
        states = nnsight.save(torch.stack([state.to(read[-1].device) for state in read], dim=1))
        tracer.stop()
    return states[:, [order.index(name) for name in sites]]


def run_changed(
    traced_model: Any,
    model: nn.Module,
    input_ids: Tensor,
    column: int,
    sites: Sequence[str],
    vectors: Tensor,
    *,
    add: bool = False,
    cache: Any = None,
) -> Tensor:
    """Logits (batch, vocabulary) at the last token of one batch whose row i is changed at site i.

    traced_model: from `traced(model, tokenizer)`. input_ids: (batch, tokens), no padding. column:
    index of the changed token, the same in every row. sites: one name per row. vectors: (batch, d),
    the new state, or what is added to it. cache: keys and values of the tokens before `input_ids`,
    or None; this pass appends to it.
    """
    import nnsight
    import torch

    # In execution order: nnsight reaches a module only after those before it have run.
    changes = [
        (name == EMBED, _module_at(traced_model, path), torch.tensor(rows))
        for name, path in find_decoder(model).paths.items()
        if (rows := [row for row, site in enumerate(sites) if site == name])
    ]
    vectors = vectors.to(model.dtype)
    inputs = {"input_ids": input_ids, "use_cache": cache is not None, **last_logits_only(model)}
    mask = {"attention_mask": torch.ones_like(input_ids)}
    inputs |= mask if cache is None else {"past_key_values": cache}
    with torch.inference_mode(), traced_model.trace(**inputs) as tracer:
        for at_input, module, rows in changes:
            state = module.input if at_input else first(module.output)
            new = vectors[rows].to(state.device)
            state[rows, column] = state[rows, column] + new if add else new
        logits = nnsight.save(tracer.result.logits[:, -1])
    return logits


def _module_at(traced_model: Any, path: str) -> Any:
    module = traced_model
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module
