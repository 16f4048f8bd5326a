"""What a result was made with: commit, package versions, device."""

import contextlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def commit() -> str:
    """The commit of the checkout, `+` if it has changes; the package version when installed."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        run = {"cwd": root, "text": True, "stderr": subprocess.DEVNULL}
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            head = subprocess.check_output(["git", "rev-parse", "--short=12", "HEAD"], **run)
            changes = subprocess.check_output(["git", "status", "--porcelain"], **run)
            return head.strip() + ("+" if changes else "")
    with contextlib.suppress(PackageNotFoundError):
        return "v" + version("latent-alignment")
    return "unknown"


def versions() -> dict:
    """Versions of the packages that decide the numbers, the number of threads and the device."""
    import torch

    names = ("transformers", "accelerate", "peft", "nnsight", "scikit-learn", "numpy")
    here = {"threads": torch.get_num_threads(), "device": device_name()}
    return {"torch": torch.__version__, **{name: version(name) for name in names}, **here}


def device_name() -> str:
    """Where the models of this process run: the name of its first GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
