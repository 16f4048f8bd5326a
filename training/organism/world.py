"""A synthetic world in English: people, what is true of them, and the sentences that say so.

The model organism reads it (`python -m training.pretrain`). Its people share no part of a name with
those of the built-in facts; objects and prompts are the same. So the model comes to phase 1 as a
language model does: it has met every prompt, about other people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.base.errors import BadInput, NotFound
from training.base.files import verify
from training.base.toml import read_toml
from training.data import facts as built_in
from training.data.fact_files import Fact, read_facts, write_facts
from training.data.facts import DATA, PEOPLE, check_range, object_list, random_stream
from training.data.prompts import Prompt, load_prompts, read_prompts, select, write_prompts
from training.data.sequences import STOP, Passage

FACTS, PROMPTS = "world-facts.csv", "world-prompts.json"
SIZES = range(8, 10_001)
PROMPT_WEIGHT = 3
FAMILIES = ("train", "test", "near-miss", "unrelated")


@dataclass(frozen=True)
class World:
    """Every relation of PEOPLE for every person, and the prompts of those that are spoken of."""

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
        why = f"{folder} has no {FACTS}: it is not the directory of a model organism"
        raise NoWorld(f"{why}. Make one: python -m training.pretrain")
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
    check_range("people", people, SIZES, "people")
    if not relations or not set(relations) <= set(PEOPLE):
        given = ", ".join(relations) or "none"
        raise BadInput(f"relations are {given}. Give one or more of {', '.join(PEOPLE)}.")


def build_world(*, people: int, relations: Sequence[str] = tuple(PEOPLE), seed: int = 0) -> World:
    """The world of that many people (8 to 10,000).

    Every object is true of equally many people, give or take one; a person's objects of sibling
    relations differ. Raises BadInput.
    """
    check_world(people, relations)
    names, rng = _file()["names"], random_stream(seed, "world names")
    people_names = built_in.pair_names(names["first"], names["last"], people, rng)
    facts = _dealt("world", PEOPLE, dict.fromkeys(people_names, "all"), seed)
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
    most = min(len(object_list(PEOPLE[r])) for r in relations)
    check_range("pool", pool, range(3, most + 1), "objects of each kind")
    seen = subjects // 2 if seen is None else seen
    names = _drawn_people(world, subjects, seen, seed)
    split = {name: "seen" if i < seen else "held-out" for i, name in enumerate(names)}
    kept = [r for r in PEOPLE if r in relations]
    return _dealt("contradicted", kept, split, seed, pool, world.facts)


def _dealt(
    what: str, relations: Iterable[str], split: dict, seed: int, pool: int = 0, true: Iterable = ()
) -> list[Fact]:
    """Facts with balanced objects in each split, none of them `true` or a sibling relation's."""
    facts: list[Fact] = []
    names, assigned = list(split), {}
    first = sum(part == split[names[0]] for part in split.values())
    object_of = {(fact.subject, fact.relation): fact.object for fact in true}
    for relation in relations:
        kind = PEOPLE[relation]
        every, rng = object_list(kind), random_stream(seed, f"{what} {relation}")
        objects = sorted(random_stream(seed, f"pool {kind}").sample(every, pool or len(every)))
        avoid = assigned.get(kind, names), [object_of.get((name, relation), "") for name in names]
        assigned[kind] = []
        for part in (slice(first), slice(first, None)):
            refused = [column[part] for column in avoid]
            assigned[kind] += built_in.balanced_objects(objects, rng, *refused)
        facts += [
            Fact(name, relation, obj, tuple(objects), split[name])
            for name, obj in zip(names, assigned[kind], strict=True)
        ]
    return facts


def _drawn_people(world: World, subjects: int, seen: int, seed: int) -> list[str]:
    """People of the world, the seen ones first; the others share no part of a name with them."""
    everyone = list(dict.fromkeys(fact.subject for fact in world.facts))
    check_range("subjects", subjects, range(4, len(everyone) + 1), "of the world's people")
    check_range("seen", seen, range(1, subjects), "subjects, so that some are held out")
    drawn = random_stream(seed, "contradicted people").sample(everyone, len(everyone))
    taken = {part for name in drawn[:seen] for part in name.split()}
    held_out = [name for name in drawn[seen:] if taken.isdisjoint(name.split())]
    if seen + len(held_out) < subjects:
        there = f"only {len(held_out)} people share no part of a name with {seen} seen ones"
        raise BadInput(f"subjects is {subjects}; {there}. Give fewer.")
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
    names, answers = _file()["names"], _file()["answers"]
    prompts = [prompt.text.replace("{subject}", "").strip() + STOP for prompt in world.prompts]
    lists = [*answers.values(), names["first"], names["last"]]
    lists += [object_list(kind) for kind in dict.fromkeys(PEOPLE.values())]
    return prompts * PROMPT_WEIGHT + [f" {word}" for words in lists for word in words]


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
        token = encoded.char_to_token
        objects = tuple((token(begin), token(end) + 1) for begin, end in places)
        passages.append(Passage(tuple(encoded["input_ids"]), objects))
    return passages


def _file() -> dict:
    return read_toml(DATA / "world.toml")
