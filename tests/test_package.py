"""The wheel, installed away from the checkout: it has its data files and runs from any folder."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Nothing may lead back to the checkout.
AWAY = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
TINY = ["--model", "tiny", "--subjects", "8", "--pool", "4", "--epochs", "1", "--batch-size", "8"]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the wheel, and our dependencies by reference."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    site = folder / "env" / Path(*Path(sysconfig.get_path("purelib")).parts[-3:])
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    # A path in a .pth file adds the dependencies without the editable checkout beside them.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin" / "python"


def run(python: Path, folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [python, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=AWAY, capture_output=True, text=True)


def test_the_tiny_chain_runs_from_another_folder(python, tmp_path):
    for module, *arguments in (
        ("training.memorize", "--out", "run", *TINY),
        ("training.generalize", "run", "--prompts", "1"),
        ("training.recall", "run"),
        ("analysis.cka", "run", "--permutations", "5", "--families", "test"),
        ("figures.report", "run"),
    ):
        done = run(python, tmp_path, module, *arguments)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    code = "import latent_alignment as la; print(la.__file__, la.Run.open('run').relations)"
    away = {"cwd": tmp_path, "env": AWAY}
    done = subprocess.run([python, "-c", code], **away, capture_output=True, text=True)
    assert str(ROOT) not in done.stdout and "mother" in done.stdout


def test_a_folder_of_the_users_with_our_name_does_no_harm(python, tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "notes.txt").write_text("mine")
    assert run(python, tmp_path, "analysis.cka", "--help").returncode == 0


def test_a_package_of_the_users_with_our_name_is_said(python, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("")
    done = run(python, tmp_path, "analysis.cka", "--help")
    assert done.returncode != 0
    assert f"{tmp_path / 'training'} hides the package 'training'" in done.stderr
