"""Pretraining of a model organism: a synthetic world in, a small causal LM out."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.base.console import CatchInterrupt, Interrupted, minutes, progress
from training.base.errors import OtherSettings, UserError
from training.base.files import publish_folder, read_json, write_json
from training.base.locks import locked
from training.base.provenance import commit, versions
from training.behaviour.damage import known_facts
from training.data.sequences import collate, epoch_batches
from training.loop.resume import load_resume_state, save_resume_state
from training.loop.trainer import (
    StepLog,
    TrainingDiverged,
    TrainingSettings,
    check_disk,
    checkpoint_disk,
    learning_rate_at,
    resolved_precision,
    training_step,
)
from training.organism.recipe import (
    new_model,
    new_tokenizer,
    organism_folder,
    parse,
    recorded,
    seconds_on_two_cores,
)
from training.organism.world import build_world, sentences, tokenise, write_world

# Steps of linear warm-up, or a tenth of a shorter run.
WARMUP = 50


# A short memory of squared gradients, as is usual in pretraining: they shrink fast in the first hundred steps.
BETAS = (0.9, 0.95)


def make_organism(
    name: str, *, out: Path | None = None, precision: str = "auto", resume_minutes: float = 1.0
) -> Path:
    """Pretrain a model organism, resume it, or find it done; return its directory.

    out: where the model goes; default: the cache, where `--model NAME` finds it.
    """

    _refuse_several_processes()
    recipe = parse(name)
    folder = out.expanduser() if out else organism_folder(name)
    called = str(folder) if out else name
    work = folder.with_name(f".{folder.name}.pretraining")
    wanted = {**recorded(recipe), "precision": resolved_precision(precision)}
    if (folder / "pretrain.json").exists():
        there = read_json(folder / "pretrain.json")["recipe"]
        if precision == "auto":
            there["precision"] = wanted["precision"]
        _require_same(folder, there, wanted)
        shutil.rmtree(work, ignore_errors=True)
        print(
            f"{name} is finished in {folder}    next: python -m training.memorize --model {called} --out DIR"
        )
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} holds something else than an organism. Give --out a new or empty folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(work):
        if (work / "recipe.json").exists():
            _require_same(work, read_json(work / "recipe.json"), wanted)
        write_json(work / "recipe.json", wanted)
        world = build_world(people=recipe.people, relations=recipe.relations, seed=recipe.seed)
        said = sentences(world, seed=recipe.seed)
        tokenizer = new_tokenizer(recipe, world)
        model = new_model(recipe, tokenizer)
        print(
            f"pretrain {name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, "
            f"{recipe.people} people x {len(world.relations)} relations, {len(said)} sentences; {recipe.steps} steps "
            f"of {recipe.batch} sentences, learning rate {recipe.learning_rate:g}; about "
            f"{minutes(seconds_on_two_cores(recipe))} on 2 cores without a GPU"
        )
        pretrain(
            model, tokenizer, said, recipe, work, precision=precision, resume_minutes=resume_minutes
        )
        known = known_facts(model.eval(), tokenizer, world)
        record = {
            "recipe": wanted,
            "known_facts": asdict(known),
            "versions": versions(),
            "commit": commit(),
        }

        def fill(part: Path) -> None:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            write_world(part, world)
            write_json(part / "pretrain.json", record)
            shutil.copyfile(work / "log.jsonl", part / "log.jsonl")

        publish_folder(folder, fill)
    shutil.rmtree(work)
    print(
        f"known facts: {known.value:.3f} [{known.low:.3f}, {known.high:.3f}] of {known.questions} questions about "
        f"{known.n} people\nwrote {folder}    next: python -m training.memorize --model {called} --out DIR"
    )
    return folder


def pretrain(
    model,
    tokenizer,
    said: Sequence,
    recipe,
    work: Path,
    *,
    precision: str = "auto",
    resume_minutes: float = 1.0,
) -> None:
    """Train `model` in place on passages of the sentences; go on from the resume state in `work` if there is one.

    Next-token loss on every token. Which sentences a step reads depends on the recipe and the step alone.
    Raises Interrupted on Ctrl-C with the state saved, TrainingDiverged.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    settings = TrainingSettings(
        epochs=1,
        batch_size=recipe.batch,
        facts_per_sequence=recipe.passage,
        learning_rate=recipe.learning_rate,
        loss="all",
        warmup_steps=min(WARMUP, recipe.steps // 10),
        seed=recipe.seed,
    )
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=resolved_precision(precision))
    set_seed(recipe.seed)
    rate = {"lr": recipe.learning_rate, "betas": BETAS, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(model.parameters(), **rate, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    bare, resume = accelerator.unwrap_model(model), work / "resume"
    check_disk(work, checkpoint_disk(bare, 1), 1)
    done = load_resume_state(resume, bare, optimizer.optimizer)
    log = StepLog(work / "log.jsonl", "pretrain", done, write=True)
    passages = math.ceil(len(said) / recipe.passage)
    per_epoch = math.ceil(passages / settings.sequences_per_step)
    model.train()
    saved_at = time.monotonic()
    bar = progress(total=recipe.steps, label="pretrain")
    bar.update(done)
    with CatchInterrupt() as interrupt, bar:
        for step in range(done, recipe.steps):
            epoch, within = divmod(step, per_epoch)
            if within == 0 or step == done:
                rows = epoch_rows(said, recipe.passage, seed=recipe.seed, epoch=epoch)
                lengths = [sum(len(sentence.text) for sentence in row) for row in rows]
                batches = epoch_batches(
                    lengths, settings.sequences_per_step, seed=recipe.seed, epoch=epoch
                )
            texts = tokenise(tokenizer, [rows[i] for i in batches[within]])
            batch = collate(texts, loss="all", pad_id=tokenizer.pad_token_id)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, recipe.steps, settings)
            measured = training_step(accelerator, model, optimizer, batch, settings)
            if not math.isfinite(measured["loss"]):
                raise TrainingDiverged(
                    f"the loss became {measured['loss']} at step {step + 1} of pretraining. Lower the learning rate "
                    f"(now {recipe.learning_rate:g}): world:learning_rate={recipe.learning_rate / 2:g}."
                )
            recall = log.add(step + 1, epoch + 1, measured, optimizer.param_groups[0]["lr"])
            bar.set_postfix(loss=f"{measured['loss']:.3f}", recall=f"{recall:.2f}", refresh=False)
            bar.update()
            stop = interrupt.pressed
            if step + 1 < recipe.steps and (
                stop or time.monotonic() - saved_at > 60 * resume_minutes
            ):
                save_resume_state(resume, bare, optimizer.optimizer, step=step + 1)
                saved_at = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"step {step + 1} of {recipe.steps} of pretraining is saved; the same command goes on from there."
                    )


def epoch_rows(said: Sequence, size: int, *, seed: int, epoch: int) -> list[list]:
    """All sentences once, in an order drawn by (seed, epoch), `size` a row."""
    import numpy as np

    order = np.random.default_rng([seed, epoch, size]).permutation(len(said))
    return [[said[i] for i in order[begin : begin + size]] for begin in range(0, len(order), size)]


def _require_same(folder: Path, old: dict, new: dict) -> None:

    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        shown = ", ".join(
            f"{key} {old.get(key)} there, {new.get(key)} now" for key in differing[:4]
        )
        raise OtherSettings(
            f"{folder} holds an organism of other settings ({shown}). Give --out NEW, the same settings, or delete it."
        )


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "a model organism is pretrained by one process. Make it first: python -m training.pretrain NAME, "
            "without accelerate launch."
        )
