"""Tables in, pictures and the report out.

>>> from figures import draw_all
>>> draw_all("runs/demo", "runs/demo/figures")   # every picture whose table is there

Names are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
