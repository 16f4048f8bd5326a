"""Pretraining of a model organism: a synthetic world in, a small causal LM out."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.base.errors import OtherSettings, UserError
from training.base.files import locked, publish_folder, read_json, write_json
from training.base.provenance import commit, versions
from training.behaviour.damage import known_facts
from training.data.sequences import collate
from training.loop.trainer import TrainingSettings, resolved_precision, run_steps
from training.organism import recipe as recipes
from training.organism.recipe import Recipe
from training.organism.world import build_world, sentences, tokenise, vocabulary_text, write_world

# Steps of linear warm-up, or a tenth of a shorter run.
WARMUP = 50
# Usual in pretraining: gradients shrink fast in the first hundred steps, so forget their squares.
BETAS = (0.9, 0.95)


def make_organism(
    name: str, *, out: Path | None = None, precision: str = "auto", resume_minutes: float = 1.0
) -> Path:
    """Pretrain a model organism, resume it, or find it done; return its directory.

    out: where the model goes; default: the cache, where `--model NAME` finds it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        first = f"Make it first, without accelerate launch: python -m training.pretrain {name}"
        raise UserError(f"a model organism is pretrained by one process. {first}")
    recipe = recipes.parse(name)
    folder = out.expanduser() if out else recipes.organism_folder(name)
    work = folder.with_name(f".{folder.name}.pretraining")
    then = f"next: python -m training.memorize --model {folder if out else name} --out DIR"
    wanted = {**recipes.recorded(recipe), "precision": resolved_precision(precision)}
    if (folder / "pretrain.json").exists():
        there = read_json(folder / "pretrain.json")["recipe"]
        if precision == "auto":
            there["precision"] = wanted["precision"]
        _require_same(folder, there, wanted)
        shutil.rmtree(work, ignore_errors=True)
        print(f"{name} is finished in {folder}    {then}")
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds other things. Give --out a new or empty folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(work):
        if (work / "recipe.json").exists():
            _require_same(work, read_json(work / "recipe.json"), wanted)
        write_json(work / "recipe.json", wanted)
        world = build_world(people=recipe.people, relations=recipe.relations, seed=recipe.seed)
        tokenizer = recipes.new_tokenizer(vocabulary_text(world), recipe.vocabulary)
        model = recipes.new_model(recipe, tokenizer)
        said = sentences(world, seed=recipe.seed)
        size = f"{model.num_parameters() / 1e6:.1f}M parameters, {len(said)} sentences"
        print(f"pretrain {name}: {size}; {recipe.steps} steps of {recipe.batch} sentences")
        pretrain(model, tokenizer, said, recipe, work, precision, resume_minutes)
        known = known_facts(model.eval(), tokenizer, world)

        def fill(part: Path) -> None:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            write_world(part, world)
            made = {"versions": versions(), "commit": commit()}
            record = {"recipe": wanted, "known_facts": known, **made}
            write_json(part / "pretrain.json", record)
            shutil.copyfile(work / "log.jsonl", part / "log.jsonl")

        publish_folder(folder, fill)
    shutil.rmtree(work)
    print(
        f"known facts: {known['value']:.3f} [{known['low']:.3f}, {known['high']:.3f}] of "
        f"{known['questions']} questions about {known['n']} people\nwrote {folder}    {then}"
    )
    return folder


def pretrain(
    model, tokenizer, said: Sequence, recipe: Recipe, work: Path, precision: str, resume: float
) -> None:
    """Train `model` in place on passages of the sentences, with loss on every token."""
    size = recipe.passage
    kept = {"seed": recipe.seed, "learning_rate": recipe.learning_rate, "precision": precision}
    kept |= {"batch_size": recipe.batch, "facts_per_sequence": size}
    warmup = min(WARMUP, recipe.steps // 10)
    settings = TrainingSettings(epochs=1, loss="all", warmup_steps=warmup, **kept)

    def passages(epoch: int) -> list[list]:
        order = np.random.default_rng([recipe.seed, epoch, size]).permutation(len(said))
        return [[said[i] for i in order[at : at + size]] for at in range(0, len(order), size)]

    def length(row: Sequence) -> int:
        return sum(len(sentence.text) for sentence in row)

    def batch_of(rows: list) -> dict:
        passages = tokenise(tokenizer, rows)
        return collate(passages, loss="all", pad_id=tokenizer.pad_token_id)

    per_epoch = math.ceil(math.ceil(len(said) / size) / settings.sequences_per_step)
    duration = {"phase": "pretrain", "steps": recipe.steps, "per_epoch": per_epoch}
    rows = {"rows_of": passages, "length": length, "batch_of": batch_of}
    run_steps(model, settings, work, **duration, **rows, betas=BETAS, resume_minutes=resume)


def _require_same(folder: Path, old: dict, new: dict) -> None:
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        shown = ", ".join(f"{k} {old.get(k)} there, {new.get(k)} now" for k in differing[:4])
        raise OtherSettings(f"{folder} is of other settings ({shown}). Give --out NEW.")
