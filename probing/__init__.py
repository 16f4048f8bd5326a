"""A checkpoint in, hidden states out; and states changed inside a forward pass.

>>> from training import Run
>>> from probing import States
>>> states = States(Run.open("runs/demo"), "generalized")
>>> x = states["mother", "rote"]                 # (n_subjects, n_sites, d)
>>> y = states["mother", "test"]                 # (n_prompts, n_subjects, n_sites, d)

Any model and prompts: `hidden_states(model, tokenizer, prompts)`. Names are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
