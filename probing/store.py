"""Hidden states on disk, keyed by content: the same weights, tokens, positions and sites are read once.

    store = StateStore(run_directory / "states")
    states = states_for(store, fingerprint, tokenizer, prompts, load_model)

`KEY.safetensors` holds the states, `KEY.json` beside it says what they are and their sha256. Both are written
to a temporary name, synced and renamed, the JSON last: without it, a tensor file does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probing.extraction import Encoded, encode, extract
from probing.sites import choose_sites, names_of
from training.base.errors import BadInput, Damaged, NotFound

if TYPE_CHECKING:
    from torch import FloatTensor, Tensor, nn


STORED_DTYPES = ("float32", "bfloat16")


_KEY = re.compile(r"[0-9a-f]{64}")


class DamagedStates(UserWarning):
    """Stored states were damaged and will be read from the model again."""


class StateStore:
    """The states in one folder. dtype: how they are stored, float32 or bfloat16 (half the disk, 3 digits)."""

    def __init__(self, folder: str | Path, *, dtype: str = "float32") -> None:
        if dtype not in STORED_DTYPES:
            raise Damaged(
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
        sites: Sequence[str] | None = None,
        dtype: str = "float32",
    ) -> str:
        """The sha256, in hex, of all that determines the stored states.

        fingerprint: of the weights. token_ids: of the prompts in order. positions: one token index a prompt,
        from 0. sites: names in order, None for all. dtype: what the model computes in.
        """
        content = {
            "fingerprint": fingerprint,
            "token_ids": [list(map(int, ids)) for ids in token_ids],
            "positions": list(map(int, positions)),
            "sites": None if sites is None else list(sites),
            "dtype": dtype,
            "stored": self.dtype,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> FloatTensor | None:
        """The states under `key`, float32 (n, n_sites, d), or None if there are none that are whole.

        A damaged file gives None and the warning DamagedStates.
        """
        path, description_path = self._paths(key)
        if not (path.exists() and description_path.exists()):
            return None
        try:
            description = json.loads(description_path.read_text("utf-8"))
            return _read(path, description["sha256"], description["shape"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            warnings.warn(
                DamagedStates(
                    f"{path} is damaged ({problem}); its states will be read from the model again"
                ),
                stacklevel=2,
            )
            return None

    def put(self, key: str, tensor: Tensor, description: Mapping[str, Any]) -> FloatTensor:
        """Stores `tensor` (n, n_sites, d) under `key`; returns it as `get` will (bfloat16 has rounded it).

        description: JSON values that tell a reader what this is. Raises Damaged for a bad key or tensor.
        """
        import torch
        from safetensors.torch import save_file

        path, description_path = self._paths(key)
        if tensor.dim() != 3 or not tensor.is_floating_point():
            raise Damaged(
                f"states must be floating-point (n, n_sites, d), got {tensor.dtype} {tuple(tensor.shape)}"
            )
        stored = tensor.detach().to("cpu", getattr(torch, self.dtype)).contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        described = {**description, "key": key, "shape": list(stored.shape), "stored": self.dtype}

        def write_states(temporary: Path) -> None:
            save_file({"states": stored}, temporary)
            described["sha256"] = _sha256(temporary)

        def write_description(temporary: Path) -> None:
            temporary.write_text(
                json.dumps(described, indent=1, ensure_ascii=False) + "\n", "utf-8"
            )

        _write_whole(path, write_states)
        _write_whole(description_path, write_description)
        return stored.float()

    def lookup(
        self,
        fingerprint: str,
        token_ids: Sequence[Sequence[int]],
        positions: Sequence[int],
        sites: Sequence[str] | None = None,
        dtype: str = "float32",
    ) -> FloatTensor | None:
        """`get` of the key of these; some of the sites are also found where all of them are stored.

        Raises BadInput for a name that the stored model does not have.
        """
        states = self.get(self.key(fingerprint, token_ids, positions, sites, dtype))
        if states is not None or sites is None:
            return states
        states = self.get(self.key(fingerprint, token_ids, positions, None, dtype))
        if states is None:
            return None
        names = names_of(states.shape[1] - 2)
        return states[:, [names.index(name) for name in choose_sites(names, sites)]]

    def _paths(self, key: str) -> tuple[Path, Path]:
        if not _KEY.fullmatch(key):
            raise Damaged(f"{key!r} is no key; take one from StateStore.key")
        return self.folder / f"{key}.safetensors", self.folder / f"{key}.json"


def states_for(
    store: StateStore,
    fingerprint: str,
    tokenizer: Any,
    prompts: Iterable[str],
    load_model: Callable[[], nn.Module],
    positions: str | int | Sequence[int] = "last",
    *,
    sites: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    key_tokens: str | Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    dtype: str = "float32",
    description: Mapping[str, Any] | None = None,
) -> FloatTensor:
    """`hidden_states` from the store; only if they are not there, from the model that `load_model()` gives.

    fingerprint: of the weights, from `weights_fingerprint` or `file_fingerprint`. dtype: what `load_model`
    loads the weights in, part of the key. description: JSON values to keep beside the states (checkpoint,
    family).
    Returns float32 (n_prompts, n_sites, d). Raises what `hidden_states` raises, and BadInput.
    """
    encoded = encode(
        tokenizer, prompts, positions=positions, subjects=subjects, key_tokens=key_tokens
    )
    sites = None if sites is None else list(sites)
    found = store.lookup(fingerprint, encoded.token_ids, encoded.positions, sites, dtype)
    if found is not None:
        return found
    model = load_model()
    if _dtype_of(model) != dtype:
        raise BadInput(
            f"the model computes in {_dtype_of(model)}, its states were to be filed under {dtype}; "
            f"load it with dtype={dtype!r} or give states_for dtype={_dtype_of(model)!r}"
        )
    states = extract(
        model, tokenizer, encoded, sites=sites, batch_size=batch_size, progress=progress
    )
    key = store.key(fingerprint, encoded.token_ids, encoded.positions, sites, dtype)
    return store.put(
        key, states, _describe(fingerprint, encoded, sites, dtype, states, description or {})
    )


def cached_hidden_states(
    model: nn.Module,
    tokenizer: Any,
    prompts: Iterable[str],
    *,
    store: StateStore,
    fingerprint: str | None = None,
    positions: str | int | Sequence[int] = "last",
    sites: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    key_tokens: str | Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> FloatTensor:
    """`hidden_states` through the store. fingerprint: of the model's weights, by default computed."""
    return states_for(
        store,
        fingerprint or weights_fingerprint(model),
        tokenizer,
        prompts,
        lambda: model,
        positions,
        sites=sites,
        subjects=subjects,
        key_tokens=key_tokens,
        batch_size=batch_size,
        progress=progress,
        dtype=_dtype_of(model),
    )


def weights_fingerprint(model: nn.Module) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor of the state dict, sorted by name.

    0.4 s for 135M parameters. The configuration is not covered. It is never remembered for a model object:
    a fused optimizer changes weights in place without a trace that could be checked.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def file_fingerprint(paths: Iterable[str | Path]) -> str:
    """sha256 over the names and the sha256 of files, in any order: of the safetensors files of a checkpoint,
    and of whatever else determines the model (its config.json). Raises NotFound."""
    try:
        files = sorted((Path(path).name, _sha256(Path(path))) for path in paths)
    except OSError as problem:
        raise NotFound(
            f"cannot read {problem.filename}: {problem.strerror}; give existing files"
        ) from None
    if not files:
        raise NotFound("no files were given; give the safetensors files of a checkpoint")
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _describe(
    fingerprint: str,
    encoded: Encoded,
    sites: Sequence[str] | None,
    dtype: str,
    states: Tensor,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **description,
        "fingerprint": fingerprint,
        "token_ids_sha256": hashlib.sha256(json.dumps(encoded.token_ids).encode()).hexdigest(),
        "positions": encoded.positions,
        "sites": names_of(states.shape[1] - 2) if sites is None else list(sites),
        "dtype": dtype,
    }


def _dtype_of(model: nn.Module) -> str:
    return str(model.dtype).removeprefix("torch.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, sha256: str, shape: Sequence[int]) -> FloatTensor:
    from safetensors.torch import load

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("its sha256 is not the one it was written with")
    states = load(content)["states"]
    if list(states.shape) != list(shape):
        raise ValueError(f"its shape is {list(states.shape)}, not {list(shape)}")
    return states.float()


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """The file under its own name only once it is complete and on the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
