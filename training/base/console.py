"""How every command speaks: options from a dataclass, one-line errors, progress on stderr."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from training.base.errors import UserError


class Interrupted(Exception):
    """The user pressed Ctrl-C and the work was left so that it can go on; the message says how."""


def run_command(main: Callable[[Any], None], options: type, description: str | None = None) -> None:
    """Parse the command line into the dataclass `options` and call `main` with it.

    A UserError becomes one line on stderr and exit code 2 (its traceback with `--debug`);
    Ctrl-C exits with 130 and says how to go on.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    import tyro

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
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Interrupted as stop:
        print(f"\nstopped: {stop}", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("\nstopped. The same command starts again from what is finished.", file=sys.stderr)
        sys.exit(130)


def is_first_process() -> bool:
    """False in all but one of the processes that `accelerate launch` or `torchrun` started together."""
    return os.environ.get("RANK", "0") == "0"


def _quiet() -> None:
    """Leave stderr to our own words (the libraries' loading bars and advice say nothing a user needs), and stdout
    to the first of several processes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not is_first_process():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    said: set[str] = set()

    def note(message, *_, **__) -> None:
        """Once each: what holds for every checkpoint and relation alike need not be read as often."""
        if str(message) not in said:
            said.add(str(message))
            print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = note


def progress(items: Iterable | None = None, *, total: int | None = None, label: str = "") -> Any:
    """A tqdm bar with ETA on stderr, shown after two seconds, silent when stderr is not a terminal."""
    from tqdm import tqdm

    return tqdm(
        items,
        total=total,
        desc=label,
        delay=2,
        dynamic_ncols=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


class CatchInterrupt:
    """Within the block Ctrl-C only sets `.pressed`, so that a step is finished before we stop."""

    def __enter__(self) -> "CatchInterrupt":
        self.pressed = False
        self._before = signal.getsignal(signal.SIGINT)
        try:
            signal.signal(signal.SIGINT, self._press)
        except ValueError:
            # Not the main thread (a notebook's worker, a sweep): Ctrl-C stays with whoever owns it.
            self._before = None
        return self

    def _press(self, *_: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


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
    """Of several processes the first runs the block alone, the others after it, finding its files."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    # accelerate joins processes without GPUs into a group only if it is told to; else each would train alone.
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield
