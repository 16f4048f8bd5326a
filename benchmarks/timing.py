"""Wall-clock seconds of functions that take turns, so that a busy moment of the machine falls on all of them alike."""

import os
import time
from collections.abc import Callable, Mapping


def seconds(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least seconds of each function over `repeats` rounds in which each runs once (after one unmeasured round
    where there are several)."""
    best = dict.fromkeys(functions, float("inf"))
    if repeats > 1:
        for function in functions.values():
            function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def machine() -> dict[str, object]:
    """What the seconds depend on: cores, threads of the matrix products, numpy's version."""
    import numpy
    from threadpoolctl import threadpool_info

    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    return {"cores": os.cpu_count(), "threads": threads, "numpy": numpy.__version__}
