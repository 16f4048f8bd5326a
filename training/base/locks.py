"""One writer per run: a lock file that is released with its process, however that ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from training.base.console import is_first_process
from training.base.errors import Busy


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run for writing. Raises Busy.

    Under `accelerate launch` the first process holds the lock for all.
    """
    if not is_first_process():
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"{run_dir} is being written by another process. Wait for it, or give --out NEW."
            ) from error
        yield
