"""A checkpoint in, hidden states out; and states changed inside a forward pass.

>>> from training import Run
>>> from probing import States
>>> states = States(Run.open("runs/demo"), "generalized")
>>> x = states["mother", "rote"]                 # (n_subjects, n_sites, d)
>>> y = states["mother", "test"]                 # (n_prompts, n_subjects, n_sites, d)

For any model and prompts: `hidden_states(model, tokenizer, prompts)`.
"""

from pathlib import Path

import lazy_loader

import training

if Path(training.__file__).parents[1] != Path(__file__).parents[1]:
    hiding = str(Path(training.__file__)).removesuffix("/__init__.py")
    raise ImportError(f"{hiding} hides the package 'training' of latent-alignment. Rename it.")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
