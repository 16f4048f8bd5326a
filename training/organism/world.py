"""A synthetic world in English: people, what is true of them, and the sentences that say so.

It is what the model organism reads (`python -m training.pretrain`). Its people are nobody of the built-in facts
and share no part of a name with them; their mothers, cities, professions and instruments are those of the built-in
facts, and it speaks in the project's own prompts: train and test prompts, near misses (answered by what they ask),
and prompts that ask none of the relations. So the model comes to phase 1 as a language model does: it has met every
prompt, about other people. A world is a function of its people's number, its relations and its seed.
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


@dataclass(frozen=True)
class World:
    """What is true, and the prompts that are used to say it.

    facts: every relation of `people` for every person. prompts: those of the relations that are spoken of.
    """

    facts: list[Fact]
    prompts: list[Prompt]

    @property
    def relations(self) -> list[str]:
        """The relations that have train and test prompts."""
        return list(dict.fromkeys(prompt.relation for prompt in self.prompts))


FACTS, PROMPTS = "world-facts.csv", "world-prompts.json"


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
            f"{folder} has no {FACTS}: it is not the directory of a model organism. Make one: python -m "
            f"training.pretrain"
        )
    return World(read_facts(verify(folder / FACTS)), read_prompts(verify(folder / PROMPTS)))


PEOPLE_RANGE = range(8, 10_001)


PROMPT_WEIGHT = 3


FAMILIES = ("train", "test", "near-miss", "unrelated")


@dataclass(frozen=True)
class Sentence:
    """`begin + " " + end + "."`; `end` is the object, or whatever the prompt leads to."""

    begin: str
    end: str

    @property
    def text(self) -> str:
        return f"{self.begin} {self.end}{STOP}"


def build_world(*, people: int, relations: Sequence[str] = tuple(PEOPLE), seed: int = 0) -> World:
    """The world of that many people (8 to 10,000).

    Every object is true of equally many people, give or take one; for one person the objects of sibling relations
    differ. Raises BadInput.
    """
    if people not in PEOPLE_RANGE:
        raise BadInput(f"people is {people}. Give {PEOPLE_RANGE.start} to {PEOPLE_RANGE.stop - 1}.")
    if not relations or not set(relations) <= set(PEOPLE):
        raise BadInput(
            f"relations are {', '.join(relations) or 'none'}. Give one or more of {', '.join(PEOPLE)}."
        )
    parts = _file()["names"]
    names = pair_names(parts["first"], parts["last"], people, random_stream(seed, "world names"))
    facts: list[Fact] = []
    assigned: dict[str, list[str]] = {}
    for relation, kind in PEOPLE.items():
        objects = sorted(object_list(kind))
        sibling = assigned.get(kind, [""] * people)
        assigned[kind] = balanced_objects(
            objects, random_stream(seed, f"world {relation}"), sibling
        )
        facts += [
            Fact(name, relation, obj, tuple(objects))
            for name, obj in zip(names, assigned[kind], strict=True)
        ]
    prompts = [
        p for p in load_prompts([r for r in PEOPLE if r in relations]) if p.family in FAMILIES
    ]
    return World(facts, prompts)


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

    Shaped as `build_facts("people")`: the same people in every relation, `seen` of them (default half) first, pools of
    `pool` objects, balanced; siblings differ. The people are drawn by the seed; seen and held-out ones share no part of
    a name. Raises BadInput, BadInput.
    """
    everyone = list(dict.fromkeys(fact.subject for fact in world.facts))
    if not set(relations) <= set(world.relations):
        raise BadInput(
            f"relations are {', '.join(relations)}; this world has {', '.join(world.relations)}."
        )
    if not 4 <= subjects <= len(everyone):
        raise BadInput(
            f"subjects is {subjects}; this world has {len(everyone)} people: give 4 to {len(everyone)}."
        )
    seen = subjects // 2 if seen is None else seen
    if not 1 <= seen < subjects:
        raise BadInput(
            f"seen is {seen}; give 1 to {subjects - 1}, so that some people are held out."
        )
    drawn = random_stream(seed, "contradicted people").sample(everyone, len(everyone))
    names, parts = drawn[:seen], {part for name in drawn[:seen] for part in name.split()}
    names += [name for name in drawn[seen:] if parts.isdisjoint(name.split())][: subjects - seen]
    if len(names) < subjects:
        raise BadInput(
            f"subjects is {subjects}; of {len(everyone)} people only {len(names) - seen} share no part of a name with "
            f"{seen} seen ones. Give fewer."
        )
    true = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    # A true object, a sibling's object and one to be had: three at least.
    if not 3 <= pool <= min(len(object_list(PEOPLE[r])) for r in relations):
        raise BadInput(
            f"pool is {pool}; give 3 or more, and no more objects than there are of each kind."
        )
    facts: list[Fact] = []
    assigned: dict[str, list[str]] = {}
    for relation in (r for r in PEOPLE if r in relations):
        kind = PEOPLE[relation]
        objects = sorted(random_stream(seed, f"pool {kind}").sample(object_list(kind), pool))
        rng = random_stream(seed, f"contradicted {relation}")
        rows = list(
            zip(
                assigned.get(kind, [""] * subjects), (true[n, relation] for n in names), strict=True
            )
        )
        dealt = [
            balanced_objects(objects, rng, *zip(*some, strict=True))
            for some in (rows[:seen], rows[seen:])
        ]
        assigned[kind] = dealt[0] + dealt[1]
        facts += [
            Fact(name, relation, obj, tuple(objects), "seen" if i < seen else "held-out")
            for i, (name, obj) in enumerate(zip(names, assigned[kind], strict=True))
        ]
    return facts


def sentences(world: World, *, seed: int = 0) -> list[Sentence]:
    """Everything that this world's prompts say about its people, each sentence once.

    An inverse prompt is about an object and leads to the person ("Angela is the mother of Abel Adair."). What is
    said to prompts that ask no relation is drawn by the seed.
    """
    objects = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    answers = _file()["answers"]
    rng = random_stream(seed, "world answers")
    said: dict[Sentence, None] = {}
    spoken = [prompt for prompt in world.prompts if prompt.family != "unrelated"]
    by_relation = {relation: select(spoken, relation=relation) for relation in PEOPLE}
    for fact in world.facts:
        for prompt in by_relation[fact.relation]:
            if prompt.asks == "inverse":
                said[Sentence(prompt.render(fact.object), fact.subject)] = None
            else:
                said[Sentence(prompt.render(fact.subject), objects[fact.subject, prompt.asks])] = (
                    None
                )
    unrelated = dict.fromkeys(prompt.text for prompt in select(world.prompts, family="unrelated"))
    for subject in dict.fromkeys(fact.subject for fact in world.facts):
        for text in unrelated:
            said[Sentence(text.replace("{subject}", subject), rng.choice(answers[text]))] = None
    return list(said)


def vocabulary_text(world: World) -> list[str]:
    """The text a tokenizer is trained on: each name part and each object once, each prompt PROMPT_WEIGHT times.

    In running text the names of this world would be frequent enough to become tokens of their own, while those of
    the built-in facts, which it never meets, are spelled in pieces. Counted once, all names are spelled in pieces.
    """
    file = _file()
    texts = [
        prompt.text.replace("{subject}", "").strip() + STOP for prompt in world.prompts
    ] * PROMPT_WEIGHT
    texts += [f" {word}" for answers in file["answers"].values() for word in answers]
    texts += [f" {word}" for part in ("first", "last") for word in file["names"][part]]
    return texts + [
        f" {word}" for kind in dict.fromkeys(PEOPLE.values()) for word in object_list(kind)
    ]


def tokenise(tokenizer, rows: Sequence[Sequence[Sentence]]) -> list[Passage]:
    """The sentences of each row one after the other, a space between, as token ids with the objects' places."""
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
