"""States in, tables out: measures of alignment with intervals, nulls and controls.

>>> from analysis import compare, linear_cka
>>> linear_cka(x[:, 20], y[0, :, 20])            # debiased; 0 on average for independent rows
>>> compare(states["aunt", "rote"], states["aunt", "test"], split="held-out")    # by site

The measures take arrays, (n, d) with one row per subject, and import neither torch nor pandas.
Names are imported when first used.
"""

from pathlib import Path

import lazy_loader

import training

if Path(training.__file__).parents[1] != Path(__file__).parents[1]:
    hiding = str(Path(training.__file__)).removesuffix("/__init__.py")
    raise ImportError(f"{hiding} hides the package 'training' of latent-alignment. Rename it.")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
