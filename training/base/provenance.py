"""What a result was made with: commit, package versions, device."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def commit() -> str:
    """The commit of the checkout, `+` if it has changes; the package version when installed."""
    root = Path(__file__).resolve().parent.parent.parent
    if (root / ".git").exists():
        try:
            head = _git(root, "rev-parse", "--short=12", "HEAD")
            return head + ("+" if _git(root, "status", "--porcelain") else "")
        except (OSError, subprocess.CalledProcessError):
            pass
    try:
        return "v" + version("latent-alignment")
    except PackageNotFoundError:
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


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
