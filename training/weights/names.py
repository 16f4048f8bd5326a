"""Where a base model lies on this machine: names to folders. Nothing is fetched or made here.

A model is named by an alias, a local directory, a model organism (`world:3`) or a hub id.
"""

from pathlib import Path

from training.base.errors import NotFound
from training.base.files import cache_folder
from training.organism.recipe import is_organism, organism_folder

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


class NotHere(NotFound):
    """A model that `training.models` can fetch or make, but has not yet."""


def find(name: str) -> Path:
    """The directory of a base model on this machine. Raises NotHere or else NotFound."""
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path.resolve()
    if folder := our_folder(name):
        config = folder / "config.json"
    elif on_hub := hub_id(name):
        from huggingface_hub import try_to_load_from_cache

        try:
            config = try_to_load_from_cache(on_hub, "config.json")
        except ValueError as error:
            raise NotFound(f"no model '{name}': not a hub id ({error}).") from error
    else:
        known = f"an alias ({', '.join(ALIASES)}), a directory (--model ./my-model) or a hub id"
        raise NotFound(f"no model '{name}': it is not {known}.")
    here = Path(config).parent if isinstance(config, str | Path) and Path(config).exists() else None
    # A hub cache may hold the configuration alone; what we make is whole or not there.
    if here and (our_folder(name) or any(here.glob("*.safetensors"))):
        return here
    how = f"python -m training.models {name}"
    raise NotHere(f"model '{name}' is not on this machine. Fetch or make it: {how}")


def hub_id(name: str) -> str:
    """The hub id that a name stands for; "" if it is not of the form owner/name, or a file."""
    found = HUB_ALIASES.get(name.lower(), name)
    named = found.count("/") == 1 and not found.startswith((".", "/", "~"))
    return found if named and not Path(found).exists() else ""


def our_folder(name: str) -> Path | None:
    """Where the cache keeps a model that this project converts or makes itself; else None."""
    if name.lower() == "smollm2":
        return cache_folder() / f"smollm2-135m-instruct-{WHEEL_SHA256[:12]}"
    if name.lower() == "tiny":
        return cache_folder() / "tiny"
    return organism_folder(name) if is_organism(name) else None
