"""Files that are whole or not there, manifests that say what was written, locks, the cache.

write_with(path, lambda part: save_file(tensors, part))    # also write_text, write_json
seal(folder, ["facts.csv"])                                # sha256 into FOLDER/manifest.json
read_json(verify(path))                                    # raises Damaged if it has changed
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from training.base.console import is_first_process
from training.base.errors import Busy, Damaged, UserError

MANIFEST = "manifest.json"
# Path, modification time and size of the files that this process has verified.
_verified: set[tuple[str, int, int]] = set()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """`sha256_file`, computed once a process for each state of the file."""
    there = path.stat()
    return _sha256_of(str(path.resolve()), there.st_mtime_ns, there.st_size)


@cache
def _sha256_of(path: str, modified: int, size: int) -> str:
    return sha256_file(Path(path))


def sha256_text(text: str) -> str:
    """Hexadecimal sha256 of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then sync it and rename it onto `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file or nothing."""
    write_with(path, lambda part: part.write_bytes(text.encode()))


def write_json(path: Path, value: object) -> None:
    """Write a whole JSON file or nothing."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON file. Raises UserError if it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        remedy = "Restore it or make the run again."
        raise UserError(f"{path} cannot be read as JSON ({error}). {remedy}") from error


def publish_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary folder, then seal it and rename it to `folder`."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    seal(temporary, [p.name for p in temporary.iterdir() if p.is_file()])
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    _sync(folder.parent)


def seal(folder: Path, names: Iterable[str], **notes: str) -> None:
    """Add the sha256 of files of `folder`, and notes about them, to its manifest."""
    folder = Path(folder)
    hashes = {name: sha256_file(folder / name) for name in names if name != MANIFEST}
    write_json(folder / MANIFEST, dict(sorted((manifest(folder) | hashes | notes).items())))


def manifest(folder: Path) -> dict[str, str]:
    """File name -> sha256, and notes, of what was sealed in a folder; empty without a manifest."""
    path = Path(folder) / MANIFEST
    return read_json(path) if path.exists() else {}


def verify(path: Path) -> Path:
    """Return `path` if it is the file that was sealed in its folder, or was never sealed.

    Each state of a file is hashed once per process. Raises Damaged.
    """
    path = Path(path)
    expected = manifest(path.parent).get(path.name)
    if expected is None:
        return path
    where = path.parent / MANIFEST
    if not path.exists():
        raise Damaged(f"{path} is gone, though {where} names it. Restore it or make it again.")
    state = (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size)
    if state not in _verified:
        if sha256_file(path) != expected:
            remedy = "Restore it, or delete it and run the command that made it again."
            raise Damaged(f"{path} has changed since {where} was written. {remedy}")
        _verified.add(state)
    return path


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run for writing, until the process ends at the latest. Raises Busy.

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
            remedy = "Wait for it, or give --out NEW."
            raise Busy(f"{run_dir} is being written by another process. {remedy}") from error
        yield


def cache_folder() -> Path:
    """Where base models that this project converts or pretrains are kept."""
    if root := os.environ.get("LATENT_ALIGNMENT_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latent-alignment"


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
