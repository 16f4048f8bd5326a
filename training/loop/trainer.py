"""The training loop of both phases: examples in, checkpoints out; readable in one sitting.

Fine-tuning (of all weights, or of some: training.loop.trainable) with AdamW without weight decay, linear warm-up then
cosine to zero, float32 master weights with bfloat16 autocast where the processor has it. Runs through `accelerate`:
one CPU, one GPU, or several processes (`accelerate launch -m training.memorize ...`). What a step does depends on the
settings and the step number alone, so a run killed at any moment and started again ends with the same weights.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from training.base.console import CatchInterrupt, Interrupted, megabytes, progress
from training.base.errors import DiskFull, UserError
from training.base.files import read_json, write_text
from training.data.sequences import (
    Example,
    Replay,
    collate,
    context_length,
    epoch_batches,
    epoch_passages,
)
from training.loop.resume import load_resume_state, save_resume_state
from training.loop.trainable import Mode, merged, restrict
from training.runs.checkpoints import Checkpoint, list_checkpoints, save_checkpoint
from training.runs.directory import end_phase


class TrainingDiverged(UserError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a phase's weights depend on, besides model, facts and prompts."""

    epochs: int
    batch_size: int
    """Facts a step, over all processes."""
    learning_rate: float
    """Peak, reached after warmup_steps, then cosine to zero."""
    loss: Literal["all", "object"]
    """Next-token loss on all tokens or on the object and its stop alone."""
    facts_per_sequence: int = 1
    """Facts written one after the other in a training sequence, grouped anew each epoch."""
    warmup_steps: int = 5
    clip: float = 1.0
    """Largest gradient norm."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bfloat16 autocast where the processor has bfloat16 instructions."""
    seed: int = 0
    """Order of the batches."""
    train: Mode = "all"
    """Which weights are trained; the others stay as they are."""

    def __post_init__(self) -> None:
        whole = {"epochs": 1, "batch_size": 1, "facts_per_sequence": 1, "warmup_steps": 0}
        for name, low in {**whole, "learning_rate": 0.0}.items():
            value = getattr(self, name)
            if not (value >= low and math.isfinite(value)) or (
                name == "learning_rate" and value == 0
            ):
                wanted = "above 0" if name == "learning_rate" else f"of at least {low:g}"
                raise UserError(f"--{name.replace('_', '-')} is {value}; give a number {wanted}.")
        if self.facts_per_sequence > self.batch_size:
            raise UserError(
                f"--facts-per-sequence is {self.facts_per_sequence} and --batch-size {self.batch_size}; a step takes "
                f"whole sequences: give a batch of at least {self.facts_per_sequence} facts."
            )

    @property
    def sequences_per_step(self) -> int:
        """Rows of a batch, over all processes."""
        return self.batch_size // self.facts_per_sequence


# Tokens of a fact in a training sequence, for estimates.
ROTE_TOKENS, SEMANTIC_TOKENS = 12, 18


class Work(NamedTuple):
    """What a stage leaves, and what it costs."""

    facts: tuple
    prompts: tuple
    steps: int
    tokens: float
    """Per step, estimated."""


def resolved_precision(precision: str) -> str:
    """accelerate's name for the arithmetic: "bf16" or "no"."""
    import torch

    if precision != "auto":
        return {"bf16": "bf16", "float32": "no"}[precision]
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return (
        "bf16"
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        else "no"
    )


def learning_rate_at(step: int, total: int, settings: TrainingSettings) -> float:
    """Rate of step `step` (from 0): linear warm-up, then cosine to zero at `total`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def steps_of(examples: int, settings: TrainingSettings, *, replayed: int = 0) -> int:
    """Optimizer steps of a phase of so many examples, and so many replayed sequences an epoch besides."""
    sequences = math.ceil(examples / settings.facts_per_sequence) + replayed
    return settings.epochs * math.ceil(sequences / settings.sequences_per_step)


def checkpoint_disk(model, count: int) -> float:
    """Bytes that `count` checkpoints and the two generations of resume state will take, in float32."""
    parameters = sum(p.numel() for p in model.parameters())
    return 4.0 * parameters * (count + 2 * 3)


def train(
    model,
    tokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    run_dir: Path,
    *,
    phase: Literal["memorize", "generalize"],
    parent: str,
    save_epochs: Sequence[int] = (),
    save_steps: Sequence[int] = (),
    replay: Replay | None = None,
    key_tokens: Sequence[str] = (),
    resume_minutes: float = 4.0,
) -> None:
    """Train `model` in place and save checkpoints; go on from the resume state if there is one.

    save_epochs: epochs (from 1) after which to save, the last one always. save_steps: steps likewise. replay: rote
    sequences in every epoch besides. key_tokens: their embedding rows are trained whatever `settings.train` is.
    resume_minutes: how often the resume state is written.
    Raises Interrupted on Ctrl-C with the state saved.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    # accelerate keeps the first precision of a process, but two phases called from one may have their own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=resolved_precision(settings.precision))
    set_seed(settings.seed)
    model = restrict(model, settings.train, rows=tokenizer.convert_tokens_to_ids(list(key_tokens)))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    bare = accelerator.unwrap_model(model)

    limit = context_length(bare.config)
    replay = replay or Replay()
    total = steps_of(len(examples), settings, replayed=replay.count(len(examples)))
    per_epoch = total // settings.epochs
    wanted = {min(e, settings.epochs) * per_epoch for e in (*save_epochs, settings.epochs)}
    wanted |= {s for s in save_steps if 0 < s <= total}
    resume = run_dir / "resume" / phase
    if accelerator.is_main_process:
        check_disk(run_dir, checkpoint_disk(bare, len(wanted)), len(wanted))
    done = load_resume_state(resume, bare, optimizer.optimizer)
    log = StepLog(run_dir / "log.jsonl", phase, done, write=accelerator.is_main_process)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    model.train()
    saved_at = time.monotonic()
    bar = progress(total=total, label=phase)
    bar.update(done)
    with CatchInterrupt() as interrupt, bar:
        for step in range(done, total):
            epoch, within = divmod(step, per_epoch)
            if within == 0 or step == done:
                order = {"seed": settings.seed, "epoch": epoch}
                rows = epoch_passages(
                    tokenizer, examples, settings.facts_per_sequence, limit=limit, **order
                )
                rows = [*rows, *replay.sequences(tokenizer, len(examples), limit=limit, **order)]
                batches = epoch_batches(
                    [len(r.token_ids) for r in rows], settings.sequences_per_step, **order
                )
            batch = collate([rows[i] for i in batches[within]], loss=settings.loss, pad_id=pad_id)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, total, settings)
            measured = training_step(accelerator, model, optimizer, batch, settings)
            if not math.isfinite(measured["loss"]):
                raise TrainingDiverged(
                    f"the loss became {measured['loss']} at step {step + 1} of {phase}. Lower --learning-rate "
                    f"(now {settings.learning_rate:g}) or use --precision float32, with --out NEW."
                )
            recall = log.add(step + 1, epoch + 1, measured, optimizer.param_groups[0]["lr"])
            bar.set_postfix(loss=f"{measured['loss']:.3f}", recall=f"{recall:.2f}", refresh=False)
            bar.update()
            if step + 1 in wanted and accelerator.is_main_process:
                finished, rest = divmod(step + 1, per_epoch)
                stage = {
                    "phase": phase,
                    "epoch": finished,
                    "step": step + 1,
                    "parent": parent,
                    "metrics": {"train_loss": log.epoch_loss(), "train_recall": recall},
                }
                save_checkpoint(run_dir, stage, merged(bare), tokenizer, partial_epoch=bool(rest))
            stop = interrupt.pressed
            if step + 1 < total and (stop or time.monotonic() - saved_at > 60 * resume_minutes):
                if accelerator.is_main_process:
                    save_resume_state(resume, bare, optimizer.optimizer, step=step + 1)
                saved_at = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"step {step + 1} of {total} of {phase} is saved in {run_dir}; the same command goes on "
                        f"from there."
                    )
    accelerator.wait_for_everyone()


def training_step(accelerator, model, optimizer, batch: dict, settings: TrainingSettings) -> dict:
    """One optimizer step on a global batch; each process takes its share of the rows.

    Returns loss (mean over scored tokens), recalled and count (facts whose object and stop were all predicted
    greedily, and all facts), tokens, gradient_norm.
    """
    import torch

    world, rank = accelerator.num_processes, accelerator.process_index
    scored_total = int(batch["scored"].sum())
    tokens = int(batch["attention_mask"].sum())
    # A process that a short last batch leaves without a row goes through one that counts for nothing.
    counts = rank < len(batch["scored"])
    rows = {
        name: (value[rank::world] if counts else value[:1]).to(accelerator.device)
        for name, value in batch.items()
    }
    logits = model(
        input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False
    ).logits[:, :-1]
    targets = rows["input_ids"][:, 1:]
    scored = rows["scored"] & counts
    # The sum over this process's tokens times `world`, because processes average their gradients.
    loss = torch.nn.functional.cross_entropy(
        logits[scored].float(), targets[scored], reduction="sum"
    )
    accelerator.backward(loss * world / scored_total)
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        which = torch.nn.functional.one_hot(rows["object"])[..., 1:].bool()
        facts = which.any(1) & counts
        missed = (which & (logits.argmax(-1) != targets)[..., None]).any(1)
        sums = torch.stack(
            [loss.detach().float(), (facts & ~missed).sum().float(), facts.sum().float()]
        )
    total_loss, recalled, count = accelerator.reduce(sums, "sum").tolist()
    return {
        "loss": total_loss / scored_total,
        "recalled": recalled,
        "count": count,
        "tokens": tokens,
        "gradient_norm": float(norm),
    }


class StepLog:
    """log.jsonl: one line a step; lines past the step that a run resumes from are dropped."""

    def __init__(self, path: Path, phase: str, done: int, *, write: bool) -> None:
        self.path, self.phase, self.write = path, phase, write
        self.started = time.monotonic()
        self.epoch, self.rows = None, []
        if write and path.exists():
            kept = []
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if row["phase"] != phase or row["step"] <= done:
                    kept.append(line)
                    if row["phase"] == phase:
                        self.rows = [*self.rows, row] if row["epoch"] == self.epoch else [row]
                        self.epoch = row["epoch"]
            write_text(path, "".join(line + "\n" for line in kept))

    def add(self, step: int, epoch: int, measured: dict, rate: float) -> float:
        """Append a step and return the recall over this epoch so far."""
        if epoch != self.epoch:
            self.epoch, self.rows = epoch, []
        self.rows.append(measured)
        recall = sum(r["recalled"] for r in self.rows) / sum(r["count"] for r in self.rows)
        if self.write:
            row = {
                "phase": self.phase,
                "step": step,
                "epoch": epoch,
                "learning_rate": rate,
                "recall": recall,
                "seconds": round(time.monotonic() - self.started, 2),
                **measured,
            }
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return recall

    def epoch_loss(self) -> float:
        """Mean loss of this epoch's steps so far."""
        return sum(r["loss"] for r in self.rows) / len(self.rows)


def check_disk(folder: Path, needed: float, count: int) -> None:
    """Say how much disk the checkpoints take; refuse to start if it is not there."""
    free = shutil.disk_usage(folder).free
    print(
        f"{count} checkpoint{'s' if count != 1 else ''} and the resume state need up to {megabytes(needed)} of disk "
        f"({megabytes(free)} free)"
    )
    if needed > free:
        raise DiskFull(
            f"{megabytes(needed)} are needed in {folder}, {megabytes(free)} are free. Save fewer epochs "
            f"(--save-epochs) or give --out on another disk."
        )


def finish(run_dir: Path, phase: str) -> tuple[Checkpoint, dict]:
    """Mark a phase finished and drop its resume state; returns (its last checkpoint, the metrics of that)."""
    last = list_checkpoints(run_dir)[-1]
    metrics = read_json(last.folder / "stage.json")["metrics"]
    end_phase(run_dir, phase, **metrics)
    shutil.rmtree(run_dir / "resume" / phase, ignore_errors=True)
    if (run_dir / "resume").exists() and not os.listdir(run_dir / "resume"):
        (run_dir / "resume").rmdir()
    return last, metrics
