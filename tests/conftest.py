"""Shared by all tests: one thread, no hub; a tiny base model on disk and a small run of it."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Before torch is imported: runs are bit for bit the same only with the same number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# 16 people in 4 relations (home_city is unbound at seed 2); every fact is recalled by rote.
TINY_SEED = 2
TINY_MEMORIZE = {
    "subjects": 16,
    "pool": 4,
    "epochs": 20,
    "batch_size": 16,
    "facts_per_sequence": 1,
    "learning_rate": 5e-3,
    "loss": "object",
    "precision": "float32",
    "seed": TINY_SEED,
}
TINY_GENERALIZE = {
    "prompts": 4,
    "epochs": 8,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "precision": "float32",
}


def save_tiny(architecture: str, folder: Path, *, positions: int) -> Path:
    """Save a tiny random model and its tokenizer; positions: the context length in its config."""
    from tiny_models import tiny_model

    model, tokenizer = tiny_model(architecture)
    model = copy.deepcopy(model)
    model.config.max_position_embeddings = positions
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """Directory of a tiny random llama that reads 256 tokens; not to be changed."""
    # Rotary positions have no table, so any context length will do.
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "llama", positions=256)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_base) -> Path:
    """A complete small run, not to be changed (`own_run` is a copy that may be).

    Checkpoints 000-base, 100-memorize-epoch-20, 200-generalize-epoch-08; 8 seen and 8 held-out
    people; mother, aunt, profession bound, home_city unbound; tables recall and recall_items. It
    recalls everything by rote; its answers to meaningful prompts are noise.
    """
    from training import generalize, memorize, recall

    run = tmp_path_factory.mktemp("runs") / "tiny"
    memorize.main(memorize.Options(out=run, model=str(tiny_base), **TINY_MEMORIZE))
    generalize.main(generalize.Options(run, **TINY_GENERALIZE))
    recall.main(recall.Options(run))
    return run


@pytest.fixture(scope="session")
def organism(tmp_path_factory) -> Path:
    """The model organism world-tiny, pretrained once a session; not to be changed."""
    from training import pretrain

    folder = tmp_path_factory.mktemp("organism") / "world-tiny"
    return pretrain.main(pretrain.Options("world-tiny", out=folder, precision="float32"))


@pytest.fixture
def own_run(tiny_run, tmp_path) -> Path:
    """A copy of `tiny_run` that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess]:
    """command("training.memorize", "--out", ..., env={...}): run a module as a user does."""

    def run(
        module: str, *arguments: object, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
        )

    return run
