"""What the commands of a training phase share: begin, train and finish a phase of a run."""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from training.base.console import first_process_first
from training.base.errors import NotFound
from training.base.files import locked, read_json
from training.data.fact_files import Fact
from training.data.prompts import read_prompts
from training.loop.trainable import Mode
from training.loop.trainer import TrainingSettings
from training.runs.checkpoints import list_checkpoints
from training.runs.directory import begin_phase, create_run, end_phase, refuse_foreign_folder


@dataclass(kw_only=True)
class PhaseOptions:
    """Options that every training phase has."""

    loss: Literal["all", "object"] = "object"
    """Next-token loss on all tokens or on the object and its stop."""
    train: Mode = "all"
    """Weights to train: all; embeddings: the input and output matrices; attention: the projections
    of attention; lora: rank 8 beside every linear layer of the blocks, merged into the checkpoints.
    Whatever is trained, so are the key tokens' embedding rows (in phase 2 only with --replay)."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Arithmetic; auto: bfloat16 autocast where the processor has it. Weights are float32."""
    save_epochs: tuple[int, ...] = ()
    """Epochs to save in addition to the last."""
    resume_minutes: float = 4.0
    """Minutes between two saves of the resume state."""


def run_phase(
    run_dir: Path,
    phase: str,
    settings: TrainingSettings,
    options: PhaseOptions,
    *,
    begin: Callable[[], dict],
    teach: Callable[[], None],
    then: str,
    name: str = "",
    before: Mapping[str, object] | None = None,
) -> Path:
    """Begin, train and finish a phase, or find it finished; return the run directory.

    begin: makes the run directory if it is new and returns what to record beside the settings.
    teach: trains. then: the command that comes next. name: of this command, if it is not the
    phase's. before: see `begin_phase`.
    """
    refuse_foreign_folder(run_dir)
    following, resume = f"next: python -m {then} {run_dir}", run_dir / "resume"
    with locked(run_dir):
        with first_process_first():
            chosen = {**asdict(settings), "save_epochs": options.save_epochs, **begin()}
            unfinished = begin_phase(run_dir, phase, chosen, before=before)
        if not unfinished:
            print(f"{name or phase} is finished in {run_dir}    {following}")
            return run_dir
        teach()
        last = list_checkpoints(run_dir)[-1]
        metrics = read_json(last.folder / "stage.json")["metrics"]
        end_phase(run_dir, phase, **metrics)
        shutil.rmtree(resume / phase, ignore_errors=True)
        with contextlib.suppress(OSError):
            resume.rmdir()
    print(f"recalled while training, last epoch: {metrics['train_recall']:.2f}")
    print(f"wrote {last.folder}    {following}")
    return run_dir


def record_of(run_dir: Path) -> dict:
    """run.json of a run to start from. Raises NotFound."""
    if not (run_dir / "run.json").exists():
        raise NotFound(f"{run_dir} is not a run. Make one: python -m training.memorize --out NEW")
    return read_json(run_dir / "run.json")


def derive_run(run_dir: Path, source: Path, *, facts: list[Fact], seed: int, parent: dict) -> None:
    """Make a run with these facts, and prompts and base model of the run `source`."""
    record = read_json(source / "run.json") | {"seed": seed, "parent": parent}
    kept = ("seed", "model", "model_fingerprint", "bos_forced", "inputs", "parent")
    prompts = read_prompts(source / "prompts.json")
    create_run(run_dir, facts=facts, prompts=prompts, record={name: record[name] for name in kept})
