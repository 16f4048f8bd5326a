"""What training cost: the share of its pretraining world a model still knows, or its perplexity.

world = read_world(find("world"))
known_facts(model, tokenizer, world)      # {"value": 0.99, "low": ..., "n": 600, ...}
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.base.errors import UserError
from training.base.files import sha256_file
from training.base.words import span
from training.behaviour.answers import Request, named
from training.behaviour.intervals import subject_interval
from training.data.fact_files import Fact
from training.organism.recipe import is_organism
from training.organism.world import NoWorld, World, read_world
from training.runs.table_files import checkpoint_table
from training.weights.names import find

ENGLISH = Path(__file__).parent.parent / "data" / "english.txt"
COLUMNS = ("measure", "value", "low", "high", "n")
KEPT = ("value", "low", "high", "n", "questions")
# Measure -> how it is called, and over what its interval is.
WORDS = {
    "known_facts": ("facts of its pretraining world known", "people"),
    "contradicted_facts": ("contradicted facts answered as its world has them", "people"),
    "perplexity": ("perplexity of ordinary English", "passages"),
}


def damage_table(run, people: int = 200, prompts_per_fact: int = 1, batch_size: int = 64):
    """The rows of tables/damage.csv; options as in `training.damage`. Raises UserError."""
    world = base_world(run)
    if world is None:
        return checkpoint_table(run, "damage", [sha256_file(ENGLISH)], english_rows, COLUMNS)
    spared, contradicted = apart(world, run.facts)
    known = some_people(spared, people)
    worlds = {"known_facts": known}
    if contradicted.facts:
        worlds["contradicted_facts"] = contradicted
    content = [*known.facts, *known.prompts, prompts_per_fact, *contradicted.facts]

    def rows_of(model, tokenizer) -> list[dict]:
        asked = {"prompts_per_fact": prompts_per_fact, "batch_size": batch_size}
        kept = {m: known_facts(model, tokenizer, w, **asked) for m, w in worlds.items()}
        return [{"measure": m, **{k: found[k] for k in KEPT}} for m, found in kept.items()]

    return checkpoint_table(run, "damage", content, rows_of, COLUMNS)


def known_facts(
    model, tokenizer, world, *, prompts_per_fact=1, families=("train", "test"), batch_size=64
) -> dict:
    """Ask every fact of the world in random prompts of its relation; the share answered right.

    prompts_per_fact: how many of the relation's prompts of `families`; at most all are asked.
    Keys: value, low, high (95% t interval over people), n (people), questions, relations (the share
    in each). Raises NoWorld if the world has no such prompt.
    """
    rng = np.random.default_rng(0)
    there = [p for p in world.prompts if p.family in families]
    own = {r: [p for p in there if p.relation == r] for r in world.relations}
    asked = [
        Request(own[fact.relation][i], fact.subject, names=(fact.object,))
        for fact in world.facts
        if fact.relation in own
        for i in rng.permutation(len(own[fact.relation]))[:prompts_per_fact]
    ]
    if not asked:
        raise NoWorld(f"the world has no prompts of {', '.join(families)}. Give other families.")
    by_person: dict[str, list[bool]] = {}
    by_relation: dict[str, list[bool]] = {}
    answers = named(model, tokenizer, asked, batch_size=batch_size)
    for (relation, _, person), found in answers.items():
        by_person.setdefault(person, []).append(bool(found))
        by_relation.setdefault(relation, []).append(bool(found))
    found = subject_interval([np.mean(hits) for hits in by_person.values()])
    found = {name: found[name] for name in ("value", "low", "high", "n")}
    relations = {relation: float(np.mean(hits)) for relation, hits in by_relation.items()}
    return {**found, "questions": len(answers), "relations": relations}


def base_world(run) -> World | None:
    """The world that the run's base model was pretrained on; None for other models.

    Only an organism's name or a local directory is looked up: the base model may not be here.
    """
    name = run.record.get("model", "")
    if not name or not (is_organism(name) or Path(name).expanduser().is_dir()):
        return None
    try:
        return read_world(find(name))
    except NoWorld:
        return None


def apart(world: World, facts: Sequence[Fact]) -> tuple[World, World]:
    """The world of the people who are in no fact, and what it says about the facts' subjects."""
    asked, subjects = {(f.subject, f.relation) for f in facts}, {f.subject for f in facts}
    known = [f for f in world.facts if (f.subject, f.relation) in asked]
    relations = {f.relation for f in known}
    prompts = [p for p in world.prompts if p.relation in relations]
    rest = [f for f in world.facts if f.subject not in subjects]
    return replace(world, facts=rest), replace(world, facts=known, prompts=prompts)


def some_people(world: World, people: int) -> World:
    """A world cut down to so many of its people, the same ones every time; -1: as it is."""
    if people < 0:
        return world
    if people == 0:
        raise UserError("--people is 0; give how many people of the world are asked about, or -1.")
    names = list(dict.fromkeys(fact.subject for fact in world.facts))
    chosen = {names[i] for i in np.random.default_rng(0).permutation(len(names))[:people]}
    return replace(world, facts=[fact for fact in world.facts if fact.subject in chosen])


def perplexity(model, tokenizer, passages: Sequence[str]) -> dict:
    """exp of the mean loss of a token (nats) but the first of each passage, read one by one.

    The 95% interval over passages is that of a ratio of sums (delete-one jackknife of its
    logarithm). Keys: value, low, high, n (passages), tokens.
    """
    import torch
    from scipy import stats

    losses, counts = [], []
    for text in passages:
        ids = torch.tensor([tokenizer(text)["input_ids"]], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")))
        counts.append(ids.shape[1] - 1)
    losses, counts = np.array(losses), np.array(counts)
    n, mean = len(losses), losses.sum() / counts.sum()
    left_out = (losses.sum() - losses) / (counts.sum() - counts)
    error = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, n - 1)) * error
    value, low, high = (math.exp(mean + side * half) for side in (0, -1, 1))
    return {"value": value, "low": low, "high": high, "n": n, "tokens": int(counts.sum())}


def english_rows(model, tokenizer) -> list[dict]:
    """The row of damage.csv for a model that has no world."""
    return [{"measure": "perplexity", **perplexity(model, tokenizer, english_passages())}]


def english_passages() -> list[str]:
    """The passages of training/data/english.txt."""
    return [p.strip() for p in ENGLISH.read_text(encoding="utf-8").split("\n\n") if p.strip()]


def damage_lines(table) -> Iterator[str]:
    """A line per checkpoint and measure."""
    for row in table.itertuples():
        measure, unit = WORDS[row.measure]
        yield f"  {row.checkpoint:<28} {measure}: {span(row)} (n={row.n:.0f} {unit})"
