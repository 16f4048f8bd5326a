"""What every command does: options from a dataclass, one-line errors, progress on stderr."""

import contextlib
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from training.base.errors import UserError


class Interrupted(Exception):
    """Ctrl-C was pressed and the work can be resumed; the message says how."""


def run_command(main: Callable[[Any], None], options: type, description: str | None = None) -> None:
    """Parse the command line into the dataclass `options` and call `main` with it.

    A UserError becomes one line on stderr and exit code 2 (with `--debug` its traceback); Ctrl-C
    exits with 130 and says how to go on.
    """
    import tyro

    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    text = (description or "").strip() + "\n\n--debug shows the traceback of an error."
    config = tyro.cli(options, args=arguments, description=text)
    _quiet()
    try:
        main(config)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output (head, less) is gone.
        _mute_stdout()
    except (Interrupted, KeyboardInterrupt) as stop:
        how = str(stop) or "the same command starts again from what is finished"
        print(f"\nstopped: {how}", file=sys.stderr)
        sys.exit(130)


def is_first_process() -> bool:
    """True in one of the processes that `accelerate launch` or `torchrun` starts together."""
    return os.environ.get("RANK", "0") == "0"


def _quiet() -> None:
    """Keep library noise off stderr, and all but the first of several processes off stdout."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not is_first_process():
        _mute_stdout()

    @functools.cache
    def note(text: str) -> None:
        """Print each warning once, though it may hold for every checkpoint and relation."""
        print(f"note: {text}", file=sys.stderr)

    warnings.showwarning = lambda message, *_, **__: note(str(message))


def _mute_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(items: Iterable | None = None, *, total: int | None = None, label: str = "") -> Any:
    """A tqdm bar with ETA on stderr, after two seconds; silent where stderr is not a terminal."""
    from tqdm import tqdm

    how = {"delay": 2, "dynamic_ncols": True, "leave": False, "disable": not sys.stderr.isatty()}
    return tqdm(items, total=total, desc=label, **how)


@contextlib.contextmanager
def catch_interrupt() -> Iterator[threading.Event]:
    """In the block the first Ctrl-C only sets the event, so that the step at hand is finished."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # A notebook or a sweep's worker: Ctrl-C belongs to another handler.
        yield pressed
        return

    def press(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def megabytes(size: float) -> str:
    """Bytes in words: `540 MB`, `1.6 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def minutes(seconds: float) -> str:
    """Seconds in words: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """The first of several processes runs the block before the others, which find its files."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    # Without cpu=True, accelerate would not join processes without GPUs into one group.
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield
