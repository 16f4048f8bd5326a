"""Tables in, pictures and the report out.

>>> from figures import draw_all
>>> draw_all(run.path, run.path / "figures")     # every picture whose table is there
"""

from pathlib import Path

import lazy_loader

import training

if Path(training.__file__).parents[1] != Path(__file__).parents[1]:
    hiding = str(Path(training.__file__)).removesuffix("/__init__.py")
    raise ImportError(f"{hiding} hides the package 'training' of latent-alignment. Rename it.")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
