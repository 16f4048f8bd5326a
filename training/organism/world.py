"""A synthetic world in English: people, what is true of them, and the sentences that say so.

The model organism reads it (`python -m training.pretrain`). Its people share no part of a name with
those of the built-in facts, but their mothers, cities, professions and instruments are the same,
and so are the prompts: train, test, near misses (answered by what they ask), unrelated ones. So the
model comes to phase 1 as a language model does: it has met every prompt, about other people.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.base.errors import BadInput, NotFound
from training.base.files import verify
from training.data.fact_files import Fact, read_facts, write_facts
from training.data.facts import (
    DATA,
    PEOPLE,
    balanced_objects,
    object_list,
    pair_names,
    random_stream,
)
from training.data.prompts import Prompt, load_prompts, read_prompts, select, write_prompts
from training.data.sequences import STOP, Passage

FACTS, PROMPTS = "world-facts.csv", "world-prompts.json"
FEWEST, MOST = 8, 10_000
PROMPT_WEIGHT = 3
FAMILIES = ("train", "test", "near-miss", "unrelated")


@dataclass(frozen=True)
class World:
    """Every relation of `people` for every person, and the prompts of those that are spoken of."""

    facts: list[Fact]
    prompts: list[Prompt]

    @property
    def relations(self) -> list[str]:
        """The relations that have train and test prompts."""
        return list(dict.fromkeys(prompt.relation for prompt in self.prompts))


class NoWorld(NotFound):
    """The directory is not that of a model organism."""


def write_world(folder: Path, world: World) -> None:
    """Write what is true in a world, and its prompts, beside a model."""
    write_facts(folder / FACTS, world.facts)
    write_prompts(folder / PROMPTS, world.prompts)


def read_world(folder: Path) -> World:
    """The world of a pretrained organism's directory. Raises NoWorld."""
    if not (folder / FACTS).exists():
        raise NoWorld(
            f"{folder} has no {FACTS}: it is not the directory of a model organism. Make one: "
            f"python -m training.pretrain"
        )
    return World(read_facts(verify(folder / FACTS)), read_prompts(verify(folder / PROMPTS)))


@dataclass(frozen=True)
class Sentence:
    """`begin + " " + end + "."`; `end` is the object, or whatever the prompt leads to."""

    begin: str
    end: str

    @property
    def text(self) -> str:
        return f"{self.begin} {self.end}{STOP}"


def check_world(people: int, relations: Sequence[str]) -> None:
    """Raise BadInput unless there can be a world of so many people and these relations."""
    if not FEWEST <= people <= MOST:
        raise BadInput(f"people is {people}. Give {FEWEST} to {MOST}.")
    if not relations or not set(relations) <= set(PEOPLE):
        given = ", ".join(relations) or "none"
        raise BadInput(f"relations are {given}. Give one or more of {', '.join(PEOPLE)}.")


def build_world(*, people: int, relations: Sequence[str] = tuple(PEOPLE), seed: int = 0) -> World:
    """The world of that many people (8 to 10,000).

    Every object is true of equally many people, give or take one; a person's objects of sibling
    relations differ. Raises BadInput.
    """
    check_world(people, relations)
    parts = _file()["names"]
    names = pair_names(parts["first"], parts["last"], people, random_stream(seed, "world names"))
    facts: list[Fact] = []
    assigned: dict[str, list[str]] = {}
    for relation, kind in PEOPLE.items():
        objects, rng = sorted(object_list(kind)), random_stream(seed, f"world {relation}")
        assigned[kind] = balanced_objects(objects, rng, assigned.get(kind, [""] * people))
        facts += [
            Fact(name, relation, obj, tuple(objects))
            for name, obj in zip(names, assigned[kind], strict=True)
        ]
    prompts = load_prompts([r for r in PEOPLE if r in relations])
    return World(facts, [prompt for prompt in prompts if prompt.family in FAMILIES])


def contradictions(
    world: World,
    *,
    relations: Sequence[str],
    subjects: int,
    pool: int,
    seen: int | None = None,
    seed: int = 0,
) -> list[Fact]:
    """Facts about people of the world, each with another object than the true one.

    As `build_facts("people")`: the same people in every relation, `seen` of them (default half)
    first, pools of `pool` objects, balanced; siblings differ. The people are drawn by the seed;
    seen and held-out ones share no part of a name. Raises BadInput.
    """
    if not set(relations) <= set(world.relations):
        there = ", ".join(world.relations)
        raise BadInput(f"relations are {', '.join(relations)}; this world has {there}.")
    # A true object, a sibling's object and one to choose: three at least.
    if not 3 <= pool <= min(len(object_list(PEOPLE[r])) for r in relations):
        raise BadInput(f"pool is {pool}; give 3 or more, at most the objects of each kind.")
    seen = subjects // 2 if seen is None else seen
    names = _drawn_people(world, subjects, seen, seed)
    true = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    facts: list[Fact] = []
    assigned: dict[str, list[str]] = {}
    for relation in (r for r in PEOPLE if r in relations):
        kind = PEOPLE[relation]
        objects = sorted(random_stream(seed, f"pool {kind}").sample(object_list(kind), pool))
        rng = random_stream(seed, f"contradicted {relation}")
        siblings = assigned.get(kind, [""] * subjects)
        truths = [true[name, relation] for name in names]
        assigned[kind] = [
            obj
            for part in (slice(seen), slice(seen, None))
            for obj in balanced_objects(objects, rng, siblings[part], truths[part])
        ]
        facts += [
            Fact(name, relation, obj, tuple(objects), "seen" if i < seen else "held-out")
            for i, (name, obj) in enumerate(zip(names, assigned[kind], strict=True))
        ]
    return facts


def _drawn_people(world: World, subjects: int, seen: int, seed: int) -> list[str]:
    """People of the world, the seen ones first; the others share no part of a name with them."""
    everyone = list(dict.fromkeys(fact.subject for fact in world.facts))
    if not 4 <= subjects <= len(everyone):
        raise BadInput(f"subjects is {subjects}; give 4 to {len(everyone)}, the world's people.")
    if not 1 <= seen < subjects:
        raise BadInput(f"seen is {seen}; give 1 to {subjects - 1}: some people are held out.")
    drawn = random_stream(seed, "contradicted people").sample(everyone, len(everyone))
    taken = {part for name in drawn[:seen] for part in name.split()}
    held_out = [name for name in drawn[seen:] if taken.isdisjoint(name.split())]
    if seen + len(held_out) < subjects:
        raise BadInput(
            f"subjects is {subjects}; only {len(held_out)} people share no part of a name with "
            f"{seen} seen ones. Give fewer."
        )
    return [*drawn[:seen], *held_out[: subjects - seen]]


def sentences(world: World, *, seed: int = 0) -> list[Sentence]:
    """Everything that this world's prompts say about its people, each sentence once.

    An inverse prompt is about an object and leads to the person ("Angela is the mother of Abel
    Adair."). The seed draws the answers to prompts that are unrelated to the relations.
    """
    objects = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    answers, rng = _file()["answers"], random_stream(seed, "world answers")
    said: list[Sentence] = []
    spoken = [prompt for prompt in world.prompts if prompt.family != "unrelated"]
    by_relation = {relation: select(spoken, relation=relation) for relation in PEOPLE}
    for fact in world.facts:
        for prompt in by_relation[fact.relation]:
            about, answer = fact.object, fact.subject
            if prompt.asks != "inverse":
                about, answer = fact.subject, objects[fact.subject, prompt.asks]
            said.append(Sentence(prompt.render(about), answer))
    unrelated = dict.fromkeys(prompt.text for prompt in select(world.prompts, family="unrelated"))
    for subject in dict.fromkeys(fact.subject for fact in world.facts):
        for text in unrelated:
            said.append(Sentence(text.replace("{subject}", subject), rng.choice(answers[text])))
    return list(dict.fromkeys(said))


def vocabulary_text(world: World) -> list[str]:
    """The text a tokenizer is trained on: name parts and objects once, prompts PROMPT_WEIGHT times.

    In running text this world's names would be frequent enough to become whole tokens, while those
    of the built-in facts, which it never meets, are spelled in pieces. Counted once, all are.
    """
    file = _file()
    prompts = [prompt.text.replace("{subject}", "").strip() + STOP for prompt in world.prompts]
    words = [word for answers in file["answers"].values() for word in answers]
    words += [word for part in ("first", "last") for word in file["names"][part]]
    words += [word for kind in dict.fromkeys(PEOPLE.values()) for word in object_list(kind)]
    return prompts * PROMPT_WEIGHT + [f" {word}" for word in words]


def tokenise(tokenizer, rows: Sequence[Sequence[Sentence]]) -> list[Passage]:
    """The sentences of each row joined by spaces, as token ids with the places of the objects."""
    passages = []
    for row in rows:
        text, places = "", []
        for sentence in row:
            before = f"{text} {sentence.begin}".strip()
            text = f"{before} {sentence.end}{STOP}"
            places.append((len(before) + 1, len(text) - 1))
        encoded = tokenizer(text)
        # The space before an object is part of its first token.
        objects = tuple(
            (encoded.char_to_token(begin), encoded.char_to_token(end) + 1) for begin, end in places
        )
        passages.append(Passage(tuple(encoded["input_ids"]), objects))
    return passages


def _file() -> dict:
    return tomllib.loads((Path(DATA) / "world.toml").read_text(encoding="utf-8"))
