"""The public names of training, probing, analysis and figures under one name.

>>> import latent_alignment as la
>>> run = la.Run.open("runs/demo")
>>> states = la.States(run, "generalized")
>>> la.compare(states["aunt", "rote"], states["aunt", "test"], split="held-out")
"""

import analysis
import figures
import probing
import training

_PACKAGES = (training, probing, analysis, figures)
__all__ = sorted({name for package in _PACKAGES for name in package.__all__})


def __getattr__(name: str):
    for package in _PACKAGES:
        if name in package.__all__:
            return getattr(package, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
