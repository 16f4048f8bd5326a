"""How much of its world a model organism still knows: the measure of damage, at any checkpoint.

    world = read_world(resolve("world"))
    known_facts(model, tokenizer, world)      # KnownFacts(value=0.99, low=..., high=..., n=600, questions=3600)

Greedy answers about the people of the pretraining world, who are in no built-in fact, by the strict rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import UserError
from training.fact_files import read_facts, write_facts
from training.files import verify
from training.prompts import Prompt, read_prompts, write_prompts
from training.world import World

FACTS, PROMPTS = "world-facts.csv", "world-prompts.json"


class NoWorld(UserError):
    """The directory is not that of a model organism."""


@dataclass(frozen=True)
class KnownFacts:
    """Share of questions answered rightly, with a 95% t interval over people.

    n: people; questions: how many were asked; relations: the share in each relation.
    """

    value: float
    low: float
    high: float
    n: int
    questions: int
    relations: dict[str, float]


def write_world(folder: Path, world: World) -> None:
    """Write what is true in a world, and its prompts, beside a model."""
    write_facts(folder / FACTS, world.facts)
    write_prompts(folder / PROMPTS, world.prompts)


def read_world(folder: Path) -> World:
    """The world of a pretrained organism's directory. Raises NoWorld."""
    if not (folder / FACTS).exists():
        raise NoWorld(
            f"{folder} has no {FACTS}: it is not the directory of a model organism. Make one: python -m "
            f"training.pretrain"
        )
    return World(read_facts(verify(folder / FACTS)), read_prompts(verify(folder / PROMPTS)))


def known_facts(
    model,
    tokenizer,
    world: World,
    *,
    prompts_per_fact: int = 1,
    families: Sequence[str] = ("train", "test"),
    batch_size: int = 64,
    seed: int = 0,
) -> KnownFacts:
    """Ask every fact of the world in some prompts of its relation, drawn by the seed; greedy, strict.

    prompts_per_fact: how many of the relation's prompts of `families`; at most all are asked. Raises NoWorld if
    the world has no such prompt.
    """
    import numpy as np

    from training.examples import Continuations, context_length, prompt_ids
    from training.recall_tables import subject_interval
    from training.scoring import Question, answer, said

    rng = np.random.default_rng(seed)
    own = {r: _own_prompts(world, r, families) for r in world.relations}
    asked = [
        (fact, own[fact.relation][i])
        for fact in world.facts
        if fact.relation in own
        for i in rng.permutation(len(own[fact.relation]))[:prompts_per_fact]
    ]
    if not asked:
        raise NoWorld(f"the world has no prompts of {', '.join(families)} about its facts. Give other families.")
    continuations = Continuations(tokenizer, context_length(model.config))
    targets = [continuations.of(prompt, fact.subject, fact.object) for fact, prompt in asked]
    stops = {tokenizer.eos_token_id, *continuations.stop_ids}
    questions = [Question(tuple(prompt_ids(tokenizer, prompt.render(fact.subject))), ()) for fact, prompt in asked]
    right = np.zeros(len(asked))
    longest = max(map(len, targets)) + 1
    for index, reply in answer(
        model, questions, new_tokens=longest, finished=stops.__contains__, batch_size=batch_size
    ):
        right[index] = said(reply.new_ids, targets[index], stops)
    by_person: dict[str, list[float]] = {}
    by_relation: dict[str, list[float]] = {}
    for (fact, _), hit in zip(asked, right, strict=True):
        by_person.setdefault(fact.subject, []).append(hit)
        by_relation.setdefault(fact.relation, []).append(hit)
    interval = subject_interval([np.mean(hits) for hits in by_person.values()])
    return KnownFacts(
        interval["value"],
        interval["low"],
        interval["high"],
        n=len(by_person),
        questions=len(asked),
        relations={relation: float(np.mean(hits)) for relation, hits in by_relation.items()},
    )


def _own_prompts(world: World, relation: str, families: Sequence[str]) -> list[Prompt]:
    return [p for p in world.prompts if p.relation == relation and p.family in families]
