"""Processor seconds of functions that take turns, so that other load falls on all alike."""

import os
import time
from collections.abc import Callable, Mapping


def seconds(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least processor seconds (all threads) of each function over `repeats` rounds.

    With several rounds, an unmeasured one comes first.
    """
    best = dict.fromkeys(functions, float("inf"))
    if repeats > 1:
        for function in functions.values():
            function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            best[name] = min(best[name], time.process_time() - start)
    return best


def machine() -> dict[str, object]:
    """What the seconds depend on: cores, threads of the matrix products, numpy's version."""
    import numpy
    from threadpoolctl import threadpool_info

    threads = max(
        (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1
    )
    return {"cores": os.cpu_count(), "threads": threads, "numpy": numpy.__version__}
