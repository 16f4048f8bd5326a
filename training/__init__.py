"""Facts and a base model in, checkpoints of both phases out.

>>> from training import Run
>>> run = Run.open("runs/demo")                  # or "./ckpts" with facts=, rote=, out=
>>> model, tokenizer = run.checkpoints[-1].load()
>>> run.table("recall")                          # tables/recall.csv as a DataFrame

"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
