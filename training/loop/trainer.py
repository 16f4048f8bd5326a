"""The training loop of both phases and of pretraining: batches in, checkpoints out.

AdamW without weight decay, linear warm-up then cosine to zero, float32 weights with bfloat16
autocast where the processor has it; on one CPU, one GPU or several processes (`accelerate launch
-m training.memorize ...`). What a step does depends on the settings and the step number alone, so a
run that is killed at any moment and started again ends with the same weights.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from training.base.console import Interrupted, catch_interrupt, megabytes, progress
from training.base.errors import BadInput, DiskFull, UserError
from training.base.files import write_text
from training.data import sequences
from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.data.sequences import Example, Passage, Replay, collate
from training.loop.resume import load_resume_state, save_resume_state
from training.loop.trainable import Mode, merged, restrict
from training.runs.checkpoints import checkpoint_name, save_checkpoint

# Tokens of a statement, for estimates of what training costs.
ROTE_TOKENS, SEMANTIC_TOKENS = 12, 18


class Work(NamedTuple):
    """What a phase leaves to later stages, its optimizer steps, and about how many tokens each."""

    facts: Sequence[Fact]
    prompts: Sequence[Prompt]
    steps: int
    tokens: float


@dataclass(frozen=True)
class TrainingSettings:
    """What a phase's weights depend on, apart from model, facts and prompts.

    batch_size: facts a step, over all processes. learning_rate: the peak, reached after
    warmup_steps. loss: on all tokens, or on the object and its stop. facts_per_sequence: joined
    into one training sequence, regrouped each epoch. clip: largest gradient norm. precision "auto":
    bfloat16 where the processor has it. seed: order of the batches.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    loss: Literal["all", "object"]
    facts_per_sequence: int = 1
    warmup_steps: int = 5
    clip: float = 1.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0
    train: Mode = "all"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "facts_per_sequence", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise BadInput(f"--{name.replace('_', '-')} is {value}; give a number above 0.")
        if self.sequences_per_step < 1:
            size = f"--facts-per-sequence is {self.facts_per_sequence}"
            raise BadInput(f"{size} and --batch-size {self.batch_size}; give a larger batch.")

    @property
    def sequences_per_step(self) -> int:
        """Rows of a batch, over all processes."""
        return self.batch_size // self.facts_per_sequence


def settings_of(options, *, seed: int) -> TrainingSettings:
    """The settings among a command's options. Raises UserError for one out of range."""
    names = {field.name for field in fields(TrainingSettings)}
    chosen = {name: value for name, value in vars(options).items() if name in names}
    return TrainingSettings(**chosen | {"seed": seed})


def resolved_precision(precision: str) -> str:
    """accelerate's name for the arithmetic: "bf16" or "no"."""
    import torch

    if precision != "auto":
        fast = precision == "bf16"
    elif torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "no"


def learning_rate_at(step: int, total: int, settings: TrainingSettings) -> float:
    """The rate of a step (from 0): linear warm-up, then cosine to zero at `total`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def steps_of(examples: int, settings: TrainingSettings, *, replayed: int = 0) -> int:
    """Optimizer steps of a phase; replayed: sequences in addition to the examples of an epoch."""
    rows = math.ceil(examples / settings.facts_per_sequence) + replayed
    return settings.epochs * math.ceil(rows / settings.sequences_per_step)


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
    """Train `model` in place on the examples and save checkpoints into `run_dir`; see `run_steps`.

    save_epochs: epochs (from 1) to save, the last one always. save_steps: steps likewise. replay:
    rote sequences mixed into every epoch. key_tokens: their embedding rows are always trained.
    """
    limit, replay = sequences.context_length(model.config), replay or Replay()
    steps = steps_of(len(examples), settings, replayed=replay.count(len(examples)))
    per_epoch = steps // settings.epochs
    saves = {min(epoch, settings.epochs) * per_epoch for epoch in (*save_epochs, settings.epochs)}
    saves |= {step for step in save_steps if 0 < step <= steps}
    shape = {"loss": settings.loss, "pad_id": tokenizer.pad_token_id or 0}

    def rows_of(epoch: int) -> list[Passage]:
        order = {"seed": settings.seed, "epoch": epoch, "limit": limit}
        size = settings.facts_per_sequence
        rows = sequences.epoch_passages(tokenizer, examples, size, **order)
        return [*rows, *replay.sequences(tokenizer, len(examples), **order)]

    def save(trained, step: int, metrics: dict) -> None:
        epoch, rest = divmod(step, per_epoch)
        stage = {"phase": phase, "epoch": epoch, "step": step, "parent": parent, "metrics": metrics}
        name = checkpoint_name(phase, epoch, step if rest else None)
        save_checkpoint(run_dir, name, stage, merged(trained), tokenizer)

    duration = {"phase": phase, "steps": steps, "per_epoch": per_epoch}
    rows = {"rows_of": rows_of, "length": lambda row: len(row.token_ids)}
    rows["batch_of"] = lambda rows: collate(rows, **shape)
    rows["embedding_rows"] = tokenizer.convert_tokens_to_ids(list(key_tokens))
    keep = {"saves": saves, "save": save, "resume_minutes": resume_minutes}
    run_steps(model, settings, run_dir, **duration, **rows, **keep)


def run_steps(
    model,
    settings: TrainingSettings,
    folder: Path,
    *,
    phase: str,
    steps: int,
    per_epoch: int,
    rows_of: Callable[[int], list],
    length: Callable[..., int],
    batch_of: Callable[[list], dict],
    saves: Collection[int] = (),
    save: Callable[..., None] | None = None,
    embedding_rows: Sequence[int] = (),
    betas: tuple[float, float] = (0.9, 0.999),
    resume_minutes: float = 4.0,
) -> None:
    """Train `model` in place; go on from the resume state in `folder` if there is one.

    rows_of: the rows of an epoch (from 0), a function of its number alone; batches are of rows of
    similar `length`, collated by `batch_of`. saves: steps (from 1) after which one process calls
    `save(model, step, metrics)`. embedding_rows: trained in every mode. betas: of AdamW.
    Writes folder/log.jsonl and, every `resume_minutes`, folder/resume/PHASE. Raises Interrupted on
    Ctrl-C with the state saved, UserError if the loss is no longer finite, DiskFull.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    # accelerate keeps a process's first precision; two phases in one process may differ.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=resolved_precision(settings.precision))
    set_seed(settings.seed)
    model = restrict(model, settings.train, rows=embedding_rows)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=betas, weight_decay=0.0, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    bare, first = accelerator.unwrap_model(model), accelerator.is_main_process
    resume = folder / "resume" / phase
    if first:
        # Pretraining saves its one model itself.
        check_disk(folder, bare, len(saves) or 1)
    done = load_resume_state(resume, bare, optimizer.optimizer)
    log = StepLog(folder / "log.jsonl", phase, done, write=first)

    model.train()
    saved_at = time.monotonic()
    bar = progress(total=steps, label=phase)
    bar.update(done)
    with catch_interrupt() as pressed, bar:
        for step in range(done + 1, steps + 1):
            epoch, within = divmod(step - 1, per_epoch)
            if within == 0 or step == done + 1:
                rows, order = rows_of(epoch), {"seed": settings.seed, "epoch": epoch}
                lengths = [length(row) for row in rows]
                batches = sequences.epoch_batches(lengths, settings.sequences_per_step, **order)
            batch = batch_of([rows[i] for i in batches[within]])
            rate = learning_rate_at(step - 1, steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            measured = training_step(accelerator, model, optimizer, batch, settings)
            if not math.isfinite(measured["loss"]):
                said = f"the loss became {measured['loss']} at step {step} of {phase}. Give a lower"
                raise UserError(f"{said} --learning-rate or --precision float32, with --out NEW.")
            metrics = log.add(step, epoch + 1, measured, rate)
            bar.set_postfix(
                {name: f"{value:.3f}" for name, value in metrics.items()}, refresh=False
            )
            bar.update()
            if step in saves and first:
                save(bare, step, metrics)
            stop = pressed.is_set()
            if step < steps and (stop or time.monotonic() - saved_at > 60 * resume_minutes):
                if first:
                    save_resume_state(resume, bare, optimizer.optimizer, step=step)
                saved_at = time.monotonic()
                if stop:
                    said = f"step {step} of {steps} of {phase} is saved in {folder}"
                    raise Interrupted(f"{said}; the same command goes on from there.")
    accelerator.wait_for_everyone()


def training_step(accelerator, model, optimizer, batch: dict, settings: TrainingSettings) -> dict:
    """One optimizer step on a global batch; each process takes its share of the rows.

    Returns loss (mean over scored tokens), recalled and count (facts whose object and stop were all
    predicted greedily, and all facts), tokens, gradient_norm.
    """
    import torch
    from torch.nn import functional

    world, rank = accelerator.num_processes, accelerator.process_index
    scored_total, tokens = int(batch["scored"].sum()), int(batch["attention_mask"].sum())
    # A process that a short last batch leaves without a row runs a dummy row with zero weight.
    counts = rank < len(batch["scored"])
    rows = {
        name: (value[rank::world] if counts else value[:1]).to(accelerator.device)
        for name, value in batch.items()
    }
    ids, mask = rows["input_ids"], rows["attention_mask"]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    targets, scored = ids[:, 1:], rows["scored"] & counts
    loss = functional.cross_entropy(logits[scored].float(), targets[scored], reduction="sum")
    # A sum over this process's tokens, times `world` because processes average their gradients.
    accelerator.backward(loss * world / scored_total)
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        which = functional.one_hot(rows["object"])[..., 1:].bool()
        facts = which.any(1) & counts
        missed = (which & (logits.argmax(-1) != targets)[..., None]).any(1)
        sums = [loss.detach().float(), (facts & ~missed).sum().float(), facts.sum().float()]
    total, recalled, count = accelerator.reduce(torch.stack(sums), "sum").tolist()
    found = {"loss": total / scored_total, "recalled": recalled, "count": count}
    return found | {"tokens": tokens, "gradient_norm": float(norm)}


class StepLog:
    """log.jsonl: a line per step; lines past the step that a run resumes from are dropped."""

    def __init__(self, path: Path, phase: str, done: int, *, write: bool) -> None:
        self.path, self.phase, self.write = path, phase, write
        self.started = time.monotonic()
        self.rows: list[dict] = []
        if write and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            # A killed process may leave half a line.
            rows = []
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):
                    rows += [json.loads(line)] if line.endswith("\n") else []
            rows = [row for row in rows if row["phase"] != phase or row["step"] <= done]
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            self.rows = [row for row in rows if row["phase"] == phase]

    def add(self, step: int, epoch: int, measured: dict, rate: float) -> dict:
        """Append a step and return loss and recall over this epoch so far."""
        row = {"phase": self.phase, "step": step, "epoch": epoch, "learning_rate": rate}
        self.rows = [r for r in self.rows if r["epoch"] == epoch] + [row | measured]
        recall = sum(r["recalled"] for r in self.rows) / sum(r["count"] for r in self.rows)
        if self.write:
            row |= {"recall": recall, "seconds": round(time.monotonic() - self.started, 2)}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row | measured) + "\n")
        loss = sum(r["loss"] for r in self.rows) / len(self.rows)
        return {"train_loss": loss, "train_recall": recall}


def check_disk(folder: Path, model, count: int) -> None:
    """Say how much disk the checkpoints take. Raises DiskFull if it is not there."""
    # In float32, with two generations of resume state: weights and two moments each.
    needed = 4.0 * sum(p.numel() for p in model.parameters()) * (count + 2 * 3)
    free = shutil.disk_usage(folder).free
    what = f"{count} checkpoint{'s' if count != 1 else ''} and the resume state"
    said = f"{what} need up to {megabytes(needed)} of disk ({megabytes(free)} free)"
    print(said)
    if needed > free:
        raise DiskFull(f"{said}. Save fewer --save-epochs or give --out on another disk.")
