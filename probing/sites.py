"""The named activation sites of a decoder: where in a language model a hidden state is read.

`embed` is what enters the first layer, `resid_post.i` what leaves layer i (the residual stream),
and `final_norm` what leaves the norm after the last layer: L + 2 names in execution order.
Hugging Face's `hidden_states[-1]` is `final_norm`, not `resid_post.{L-1}`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.base.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


EMBED = "embed"
FINAL_NORM = "final_norm"
_LAYER = "resid_post."
LOADER = "AutoModelForCausalLM.from_pretrained"


class UnsupportedModel(BadInput):
    """The sites cannot be found: not a Hugging Face causal decoder of the usual shape."""


@dataclass(frozen=True)
class Decoder:
    """Module paths of a decoder from the model's root; modules would keep the model alive."""

    layers: tuple[str, ...]
    final_norm: str

    @property
    def paths(self) -> dict[str, str]:
        """Site -> path of the module that it leaves (`embed`: enters), in execution order."""
        paths = [self.layers[0], *self.layers, self.final_norm]
        return dict(zip(names_of(len(self.layers)), paths, strict=True))


_decoders: weakref.WeakKeyDictionary[Any, Decoder] = weakref.WeakKeyDictionary()
_locks: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


def names_of(n_layers: int) -> list[str]:
    """The n_layers + 2 site names of a decoder with that many layers, in execution order."""
    return [EMBED, *(f"{_LAYER}{i}" for i in range(n_layers)), FINAL_NORM]


def site_names(model: nn.Module) -> list[str]:
    """The L + 2 site names of a Hugging Face causal language model, in execution order.

    >>> site_names(model)                # ['embed', 'resid_post.0', ..., 'final_norm']

    Raises UnsupportedModel, naming the class, where layers or final norm cannot be found.
    """
    return names_of(len(find_decoder(model).layers))


def choose_sites(names: Sequence[str], sites: Sequence[str] | None) -> list[str]:
    """`sites` as a list, or all of `names` for None. Raises BadInput for a site not in `names`."""
    if sites is None:
        return list(names)
    if isinstance(sites, str):
        raise BadInput(f"sites must be a list of names, got the string {sites!r}; give [{sites!r}]")
    chosen = list(sites)
    if not chosen:
        raise BadInput("sites is empty; give at least one name, or None for all")
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise BadInput(
            f"no site is named {', '.join(map(repr, unknown))}; this model has {EMBED!r}, "
            f"'{_LAYER}0' to '{_LAYER}{len(names) - 3}' and {FINAL_NORM!r}"
        )
    return chosen


def find_decoder(model: nn.Module) -> Decoder:
    """Layers and final norm of `model`, found once per model object.

    The layers are the one child of the decoder that is a ModuleList of `num_hidden_layers` modules.
    The final norm is the child that runs after them in a one-token forward pass: no registration
    order and no table of names holds for every architecture. Raises UnsupportedModel.
    """
    if model not in _decoders:
        _decoders[model] = _find_decoder(model)
    return _decoders[model]


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, one thread at a time; submodules' modes are restored."""
    with _locks_guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def first(output: Any) -> Any:
    """The hidden states (batch, tokens, d) of a module's output, which may be a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _find_decoder(model: nn.Module) -> Decoder:
    from torch.nn import ModuleList
    from transformers import PreTrainedModel

    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(f"{kind} is not a Hugging Face model; load it with {LOADER}")
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UnsupportedModel(f"{kind} is not a causal language model; load it with {LOADER}")
    decoder = model.get_decoder()
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = {n: child for n, child in decoder.named_children() if isinstance(child, ModuleList)}
    stacks = [name for name, child in lists.items() if len(child) == n_layers]
    if len(stacks) != 1:
        raise UnsupportedModel(
            f"{kind}: expected one ModuleList of {n_layers} layers in {type(decoder).__name__}, "
            f"found {len(stacks)} ({', '.join(stacks) or 'none'}); architecture not supported"
        )
    root = next(name for name, module in model.named_modules() if module is decoder)
    prefix = f"{root}." if root else ""
    norm = _child_after_layers(model, decoder, stacks[0])
    return Decoder(tuple(f"{prefix}{stacks[0]}.{i}" for i in range(n_layers)), f"{prefix}{norm}")


def _child_after_layers(model: nn.Module, decoder: nn.Module, stack: str) -> str:
    import torch

    ran: list[tuple[str, int | None]] = []

    def note(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = first(output)
            ran.append((name, hidden.shape[-1] if isinstance(hidden, torch.Tensor) else None))

        return hook

    watched = [(stack, layer) for layer in getattr(decoder, stack)]
    watched += [(name, child) for name, child in decoder.named_children() if name != stack]
    token = torch.zeros((1, 1), dtype=torch.long, device=model.get_input_embeddings().weight.device)
    with in_eval_mode(model), torch.no_grad():
        hooks = [module.register_forward_hook(note(name)) for name, module in watched]
        try:
            decoder(input_ids=token, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    last_layer = max((i for i, (name, _) in enumerate(ran) if name == stack), default=len(ran) - 1)
    after = ran[last_layer + 1 :]
    if len(after) != 1 or after[0][1] != ran[last_layer][1]:
        raise UnsupportedModel(
            f"{type(model).__name__}: expected one module, a norm of the same width, to run after "
            f"the layers of its {type(decoder).__name__}, "
            f"found {', '.join(n for n, _ in after) or 'none'}; architecture not supported"
        )
    return after[0][0]
