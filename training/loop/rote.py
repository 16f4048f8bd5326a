"""Rote learning, in phase 1 and after it (training.extend)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.data.selection import rote_facts
from training.data.sequences import context_length, encode_all
from training.loop.phase import PhaseOptions
from training.loop.trainer import ROTE_TOKENS, TrainingSettings, Work, settings_of, steps_of, train
from training.runs.checkpoints import read_checkpoint

PHASE = "memorize"


@dataclass(kw_only=True)
class RoteOptions(PhaseOptions):
    """How facts are memorised by rote."""

    epochs: int = 30
    """Passes over the facts."""
    batch_size: int = 16
    """Facts a step, over all processes."""
    facts_per_sequence: int = 4
    """Facts joined into one training sequence, so that most names stand in mid-sentence, as they do
    in semantic prompts; 1: each alone, as in the paper."""
    learning_rate: float = 1.5e-4
    """Peak learning rate (warm-up, then cosine to zero)."""


def rote_work(options: RoteOptions, facts: Sequence[Fact], prompts: Sequence[Prompt]) -> Work:
    """What learning these facts by rote leaves and costs. Raises UserError for an option."""
    steps = steps_of(len(facts), settings_of(options, seed=0))
    return Work(facts, prompts, steps, options.batch_size * ROTE_TOKENS)


def learn(run_dir: Path, settings: TrainingSettings, options: RoteOptions) -> None:
    """Train on the run's facts by rote, from its 000-base."""
    base = read_checkpoint(run_dir / "checkpoints" / "000-base")
    model, tokenizer = base.load()
    facts, rote = rote_facts(run_dir)
    examples = encode_all(tokenizer, facts, rote, limit=context_length(model.config))
    how = f"batch {settings.batch_size} ({settings.facts_per_sequence} a sequence), learning rate"
    how += f" {settings.learning_rate:g}, train {settings.train}, {settings.epochs} epochs"
    print(f"memorize: {len(examples)} facts of {len(rote)} relations, {how}")
    stage = {"phase": PHASE, "parent": base.name, "key_tokens": base.key_tokens}
    saves = {"save_epochs": options.save_epochs, "resume_minutes": options.resume_minutes}
    train(model, tokenizer, examples, settings, run_dir, **stage, **saves)
