"""training.loop.rote"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.selection import rote_facts
from training.data.sequences import context_length, encode_all
from training.loop.trainable import Mode
from training.loop.trainer import TrainingSettings, finish, train
from training.runs.checkpoints import read_checkpoint

PHASE = "memorize"


@dataclass(kw_only=True)
class RoteOptions:
    """How facts are memorised by rote, in phase 1 and after (`training.extend`)."""

    epochs: int = 30
    """Passes over the facts."""
    batch_size: int = 16
    """Facts a step, over all processes."""
    facts_per_sequence: int = 4
    """Facts written one after the other in a training sequence, so that most names stand in mid-sentence, as they do
    in semantic prompts; 1: each alone, as in the paper."""
    learning_rate: float = 1.5e-4
    """Peak learning rate (warm-up, then cosine to zero)."""
    loss: Literal["all", "object"] = "object"
    """Next-token loss on all tokens or on the object and its stop."""
    train: Mode = "all"
    """Weights to train: all; embeddings: the input and output matrices; attention: the projections of attention; lora:
    rank 8 beside every linear layer of the blocks, merged into the checkpoints.
    The key tokens' embedding rows are always trained."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Arithmetic of training; auto: bfloat16 autocast where the processor has it, float32 weights always."""
    save_epochs: tuple[int, ...] = ()
    """Epochs to save besides the last."""
    resume_minutes: float = 4.0
    """Minutes between two writings of the resume state."""


def learn(
    run_dir: Path, settings, options: RoteOptions, *, then: str = "training.generalize"
) -> None:
    """Train a begun phase on the run's rote facts from its 000-base to the end, and say what came of it.

    settings: `TrainingSettings`; then: the command that comes next.
    """

    base = read_checkpoint(run_dir / "checkpoints" / "000-base")
    model, tokenizer = base.load()
    facts, rote = rote_facts(run_dir)
    examples = encode_all(tokenizer, facts, rote, limit=context_length(model.config))
    print(
        f"memorize: {len(examples)} facts of {len(rote)} relations, {settings.epochs} epochs, "
        f"batch {settings.batch_size} ({settings.facts_per_sequence} a sequence), "
        f"learning rate {settings.learning_rate:g}{'' if settings.train == 'all' else f', train {settings.train}'}"
    )
    train(
        model,
        tokenizer,
        examples,
        settings,
        run_dir,
        phase=PHASE,
        parent=base.name,
        save_epochs=options.save_epochs,
        key_tokens=base.key_tokens,
        resume_minutes=options.resume_minutes,
    )
    last, metrics = finish(run_dir, PHASE)
    print(
        f"recalled while training, last epoch: {metrics['train_recall']:.2f} of {len(examples)} facts\n"
        f"wrote {last.folder}    next: python -m {then} {run_dir}"
    )


def settings_of(options: RoteOptions, *, seed: int):
    """The training settings of rote learning. Raises UserError for one out of range."""

    return TrainingSettings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        facts_per_sequence=options.facts_per_sequence,
        loss=options.loss,
        learning_rate=options.learning_rate,
        precision=options.precision,
        seed=seed,
        train=options.train,
    )
