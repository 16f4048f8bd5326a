"""Files that are whole or not there: temporary name, sync, rename; and a manifest of what was written.

Nothing in this project is read half-written. A file is written beside its place and renamed onto it; a
folder is filled under a temporary name and renamed. `seal` records the sha256 of what was written in
`manifest.json` beside it; `verify` reads it back, once a process for each file.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from training.base.console import is_first_process
from training.base.errors import Busy, Damaged, UserError

MANIFEST = "manifest.json"


_verified: set[tuple[str, int, int]] = set()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hexadecimal sha256 of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sync(path: Path) -> None:
    """Ask the system to bring a file or folder to the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it onto `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file or nothing."""
    write_with(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, value: object) -> None:
    """Write a whole JSON file or nothing."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON file; a broken one is a named error."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}). Restore it or make the run anew."
        ) from error


def publish_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary folder, seal it, and rename it to `folder` in one step."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    seal(temporary, [p.name for p in temporary.iterdir() if p.is_file()])
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    sync(folder.parent)


def seal(folder: Path, names: Iterable[str], **notes: str) -> None:
    """Record the sha256 of files of `folder`, and notes about them, in its manifest, keeping what it already names."""
    manifest = Path(folder) / MANIFEST
    entries = read_json(manifest) if manifest.exists() else {}
    entries |= {
        name: sha256_file(Path(folder) / name) for name in names if name != MANIFEST
    } | notes
    write_json(manifest, dict(sorted(entries.items())))


def verify(path: Path) -> Path:
    """Return `path` if its bytes are those its folder's manifest names (files without an entry pass).

    Raises Damaged if they differ. Each state of a file is hashed once a process.
    """
    path = Path(path)
    manifest = path.parent / MANIFEST
    expected = read_json(manifest).get(path.name) if manifest.exists() else None
    if expected is None:
        return path
    if not path.exists():
        raise Damaged(f"{path} is gone, though {manifest} names it. Restore it or make it anew.")
    state = (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size)
    if state not in _verified:
        if sha256_file(path) != expected:
            raise Damaged(
                f"{path} is not the file that was written here (its sha256 differs from {manifest}). "
                f"Restore it, or delete it and run the command that made it again."
            )
        _verified.add(state)
    return path


def commit() -> str:
    """The commit of the checkout this code runs from, `+` if it has changes; the version when installed."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        if not (root / ".git").exists():
            raise FileNotFoundError
        ask = ["git", "-C", str(root)]
        head = subprocess.run(
            [*ask, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            [*ask, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
        return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return "v" + version("latent-alignment")
        except PackageNotFoundError:
            return "unknown"


def cache_folder() -> Path:
    """Where converted base models are kept."""
    root = os.environ.get("LATENT_ALIGNMENT_CACHE")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latent-alignment"
    return Path(root).expanduser() if root else default


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run for writing; the lock goes with the process, however it ends. Raises Busy.

    Of the several processes of one `accelerate launch` the first holds it for all.
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


def versions() -> dict:
    """Versions of what decides the numbers."""
    from importlib.metadata import version

    import torch

    names = ("transformers", "accelerate", "peft", "nnsight", "scikit-learn", "numpy")
    here = {"threads": torch.get_num_threads(), "device": device_name()}
    return {"torch": torch.__version__, **{name: version(name) for name in names}, **here}


def device_name() -> str:
    """What the models of this process run on: the name of its first GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
