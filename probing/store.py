"""Hidden states on disk, keyed by content: equal weights, tokens and positions are read once.

    store = StateStore(run_directory / "states")
    states = states_for(store, fingerprint, tokenizer, prompts, load_model)

`KEY.safetensors` holds the states, `KEY.json` what they are and their sha256. Both are written
atomically, the JSON last: a tensor file without it does not count.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probing.extraction import encode, extract
from probing.sites import names_of
from training.base.errors import BadInput
from training.base.files import sha256_file, sha256_text, write_text, write_with

if TYPE_CHECKING:
    from torch import FloatTensor, Tensor, nn


STORED_DTYPES = ("float32", "bfloat16")
_KEY = re.compile(r"[0-9a-f]{64}")


class DamagedStates(UserWarning):
    """Stored states were damaged and will be read from the model again."""


class StateStore:
    """The states in one folder; dtype: stored as float32 or bfloat16 (half the disk, 3 digits)."""

    def __init__(self, folder: str | Path, *, dtype: str = "float32") -> None:
        if dtype not in STORED_DTYPES:
            raise BadInput(
                f"states cannot be stored as {dtype!r}; give one of {', '.join(STORED_DTYPES)} "
                "(float16 cannot hold the outliers of a residual stream)"
            )
        self.folder = Path(folder)
        self.dtype = dtype

    def key(
        self,
        fingerprint: str,
        token_ids: Sequence[Sequence[int]],
        positions: Sequence[int],
        dtype: str = "float32",
    ) -> str:
        """The sha256, in hex, of all that determines the stored states.

        fingerprint: of the weights. token_ids: of the prompts in order. positions: one token index
        per prompt, from 0. dtype: what the model computes in.
        """
        content = {
            "fingerprint": fingerprint,
            "token_ids": [list(map(int, ids)) for ids in token_ids],
            "positions": list(map(int, positions)),
            # Older keys could name some of the sites; None stands for all of them.
            "sites": None,
            "dtype": dtype,
            "stored": self.dtype,
        }
        return sha256_text(json.dumps(content, sort_keys=True))

    def get(self, key: str) -> FloatTensor | None:
        """The states under `key`, float32 (n, n_sites, d), or None if they are missing.

        A damaged file gives None and the warning DamagedStates.
        """
        path, description_path = self._paths(key)
        if not (path.exists() and description_path.exists()):
            return None
        try:
            description = json.loads(description_path.read_text("utf-8"))
            return _read(path, description["sha256"], description["shape"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            words = f"{path} is damaged ({problem}); its states will be read from the model again"
            warnings.warn(DamagedStates(words), stacklevel=2)
            return None

    def put(self, key: str, tensor: Tensor, description: Mapping[str, Any]) -> FloatTensor:
        """Store `tensor` (n, n_sites, d) under `key`; return it as `get` will.

        description: JSON values that say what this is. Raises BadInput for a bad key or tensor.
        """
        import torch
        from safetensors.torch import save_file

        path, description_path = self._paths(key)
        if tensor.dim() != 3 or not tensor.is_floating_point():
            given = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise BadInput(f"states must be floating-point (n, n_sites, d), got {given}")
        stored = tensor.detach().to("cpu", getattr(torch, self.dtype)).contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        described = {**description, "key": key, "shape": list(stored.shape), "stored": self.dtype}

        def write_states(temporary: Path) -> None:
            save_file({"states": stored}, temporary)
            described["sha256"] = sha256_file(temporary)

        write_with(path, write_states)
        write_text(description_path, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        return stored.float()

    def _paths(self, key: str) -> tuple[Path, Path]:
        if not _KEY.fullmatch(key):
            raise BadInput(f"{key!r} is not a key; take one from StateStore.key")
        return self.folder / f"{key}.safetensors", self.folder / f"{key}.json"


def states_for(
    store: StateStore,
    fingerprint: str,
    tokenizer: Any,
    prompts: Iterable[str],
    load_model: Callable[[], nn.Module],
    positions: str | int | Sequence[int] = "last",
    *,
    subjects: Sequence[str] | None = None,
    dtype: str = "float32",
    description: Mapping[str, Any] | None = None,
) -> FloatTensor:
    """`hidden_states` at all sites from the store, else from the model that `load_model()` gives.

    fingerprint: of the weights. dtype: what `load_model` loads them in, part of the key.
    description: JSON values to keep with the states (checkpoint, family).
    Returns float32 (n_prompts, n_sites, d). Raises what `hidden_states` raises, and BadInput.
    """
    encoded = encode(tokenizer, prompts, positions=positions, subjects=subjects)
    key = store.key(fingerprint, encoded.token_ids, encoded.positions, dtype)
    found = store.get(key)
    if found is not None:
        return found
    model = load_model()
    computed = str(model.dtype).removeprefix("torch.")
    if computed != dtype:
        raise BadInput(
            f"the model computes in {computed}, its states were to be filed under {dtype}; "
            f"load it with dtype={dtype!r} or give states_for dtype={computed!r}"
        )
    states = extract(model, tokenizer, encoded)
    described = {
        **(description or {}),
        "fingerprint": fingerprint,
        "token_ids_sha256": sha256_text(json.dumps(encoded.token_ids)),
        "positions": encoded.positions,
        "sites": names_of(states.shape[1] - 2),
        "dtype": dtype,
    }
    return store.put(key, states, described)


def _read(path: Path, sha256: str, shape: Sequence[int]) -> FloatTensor:
    from safetensors.torch import load

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("its sha256 is not the one it was written with")
    states = load(content)["states"]
    if list(states.shape) != list(shape):
        raise ValueError(f"its shape is {list(states.shape)}, not {list(shape)}")
    return states.float()
