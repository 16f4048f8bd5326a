"""Pretrain a model organism from scratch on a synthetic world in English.

    python -m training.pretrain                                  # world, seed 0
    python -m training.pretrain world:3                          # another world, other weights
    python -m training.pretrain world-tiny --out models/tiny     # a small one, for trying things
    python -m training.pretrain world:0,people=1000,steps=3000   # any setting of Recipe

Leaves an ordinary Hugging Face directory in the cache (or in --out) that every command takes as
`--model world:3`, with what is true in its world (world-facts.csv, world-prompts.json) and how much
of it the model knows (pretrain.json). The settings are those of training.organism.recipe.Recipe.
Started again, the same command goes on where it was stopped, or finds everything done.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from training.base.console import run_command
from training.loop.pretraining import make_organism


@dataclass
class Options:
    """Options of pretraining."""

    name: tyro.conf.Positional[str] = "world"
    """world or world-tiny, then a seed and other settings if you like: world:3,people=1000."""
    out: Path | None = None
    """Where the model goes; default: the cache, where --model NAME finds it."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Arithmetic; auto: bfloat16 autocast where the processor has it. Weights are float32."""
    resume_minutes: float = 1.0
    """Minutes between two saves of the resume state."""


def main(options: Options) -> Path:
    """Pretrain, resume, or find it done; return the model's directory."""
    return make_organism(**vars(options))


if __name__ == "__main__":
    run_command(main, Options, __doc__)
