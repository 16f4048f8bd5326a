"""Built-in sets of facts, and the split that says which facts phase 2 may use.

    facts = split_facts(load_facts("people", subjects=40), unbound=1)

The seed determines everything, identically on every machine.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

from training.base.errors import BadInput
from training.base.toml import read_toml
from training.data.fact_files import Fact, read_facts

DATA = Path(__file__).parent
# Relation -> kind of object, in this order. Relations of one kind are siblings and share a pool.
PEOPLE = {"mother": "women", "aunt": "women", "home_city": "cities", "birth_city": "cities"}
PEOPLE |= {"profession": "professions", "instrument": "instruments"}
FICTION = ("author", "capital", "educated_at", "genre", "mother")
FICTION_SIZE = 100
BUILT_IN = ("people", "kin", "fiction")


def load_facts(source: str | Path = "people", *, relation: str = "", **shape) -> list[Fact]:
    """The facts of a built-in set or of a CSV file.

    >>> load_facts("people", subjects=40, seed=1)
    >>> load_facts("my-facts.csv")
    >>> load_facts("author_71.csv", relation="author")

    source: `people`, `kin` or `fiction`, with the options of `build_facts` in `shape`, or the path
    of a file (see `read_facts`). relation: only for a T-Rex-Fiction file, which names none.
    Raises BadInput.
    """
    if source in BUILT_IN:
        if relation:
            remedy = f"Choose relations of {source!r} with `relations`."
            raise BadInput(f"relation {relation!r} is for a T-Rex-Fiction file. {remedy}")
        return build_facts(source, **shape)
    if not Path(source).exists():
        known = f"neither a built-in set ({', '.join(BUILT_IN)}) nor a CSV file"
        raise BadInput(f"no facts at {str(source)!r}: {known}. Give one of these.")
    return read_facts(source, relation=relation)


def build_facts(
    name: str = "people",
    *,
    subjects: int = 80,
    relations: Sequence[str] | None = None,
    pool: int = 16,
    seen: int | None = None,
    seed: int = 0,
) -> list[Fact]:
    """A built-in set, relation by relation, subjects in the same order in each.

    >>> build_facts("people", subjects=40, relations=["mother", "aunt"], pool=8, seed=1)

    `people`: `subjects` people (4 to 400), the `seen` ones first (default: half), the others held
    out; the two share no part of a name. Each of the `pool` objects per kind (2 to 32) occurs
    equally often, give or take one, among seen and among held-out people. A subject's objects in
    sibling relations differ. A relation's facts do not depend on which others are requested.
    `kin`, for two hops: the mothers and aunts are `pool` of the held-out people, nobody her own.
    `fiction`, as in the paper: 100 facts per relation, no subject or object twice, not split;
    `subjects`, `pool` and `seen` do not apply. Raises BadInput.
    """
    if name not in BUILT_IN:
        raise BadInput(f"no built-in set {name!r}. The built-in sets are {', '.join(BUILT_IN)}.")
    _check_whole("seed", seed)
    if name == "fiction":
        return _fiction(_chosen(relations, FICTION), seed)
    check_range("subjects", subjects, range(4, 401), "people")
    check_range("pool", pool, range(2, 33), "objects")
    seen = _seen_count(seen, subjects)
    if name == "kin":
        kin = range(3, subjects - seen + 1)
        check_range("pool", pool, kin, "of the held-out people, who are the mothers and aunts")
    return _people(_chosen(relations, PEOPLE), subjects, pool, seen, seed, kin=name == "kin")


def split_facts(
    facts: Sequence[Fact], *, seen: int | None = None, unbound: int = 1, seed: int = 0
) -> list[Fact]:
    """The same facts with each subject seen or held-out and each relation bound or unbound.

    An existing split, as in `people`, is kept. Otherwise the seed draws `seen` subjects (default:
    half), in proportion from each relation; name parts may then be shared across the split.
    Relations (seed + k) mod n_relations, k < unbound, in order of appearance, become unbound,
    unless some are unbound already. Raises BadInput.
    """
    if not facts:
        raise BadInput("no facts to split. Give at least two, of different subjects.")
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    _check_whole("seed", seed)
    check_range("unbound", unbound, range(len(relations)), "relations, so that one is bound")
    loose = {fact.relation for fact in facts if not fact.bound}
    loose = loose or {relations[(seed + k) % len(relations)] for k in range(unbound)}
    split = _existing_split(facts, seen) or _drawn_split(facts, seen, seed)
    return [replace(f, split=split[f.subject], bound=f.relation not in loose) for f in facts]


def draw_names(store: str, n: int, seed: int = 0) -> list[str]:
    """n different "First Last" from the store a, b or reserved, each part used evenly."""
    parts = _data("names")["stores"][store]
    check_range("n", n, range(1, 4 * len(parts["first"]) + 1), "names")
    return pair_names(parts["first"], parts["last"], n, random_stream(seed, f"names {store}"))


def object_list(kind: str) -> list[str]:
    """Every object of a kind: women, cities, professions, instruments."""
    return list(_data("names")["objects"][kind])


def _people(relations, subjects: int, pool: int, seen: int, seed: int, *, kin: bool) -> list[Fact]:
    names = draw_names("a", seen, seed) + draw_names("b", subjects - seen, seed)
    splits = ["seen"] * seen + ["held-out"] * (subjects - seen)
    facts: list[Fact] = []
    assigned: dict[str, list[str]] = {}
    for relation, kind in PEOPLE.items():
        among = names[seen:] if kin and kind == "women" else object_list(kind)
        objects = sorted(random_stream(seed, f"pool {kind}").sample(among, pool))
        rng = random_stream(seed, relation)
        sibling = assigned.get(kind, names)
        assigned[kind] = balanced_objects(objects, rng, sibling[:seen], names[:seen])
        assigned[kind] += balanced_objects(objects, rng, sibling[seen:], names[seen:])
        if relation in relations:
            for name, obj, split in zip(names, assigned[kind], splits, strict=True):
                facts.append(Fact(name, relation, obj, tuple(objects), split))
    return facts


def _fiction(relations: list[str], seed: int) -> list[Fact]:
    a, b = _data("names")["stores"]["a"], _data("names")["stores"]["b"]

    def made(kind: str) -> list[str]:
        recipe = _data("fiction")[kind]
        combinations = [recipe["join"].join(words) for words in product(*recipe["parts"])]
        return random_stream(seed, kind).sample(combinations, FICTION_SIZE)

    def named(first: list[str], last: list[str], what: str) -> list[str]:
        return pair_names(first, last, FICTION_SIZE, random_stream(seed, what))

    children = named(a["first"], b["last"], "children")
    sides = {
        "author": (made("books"), named(a["first"], a["last"], "authors")),
        "capital": (made("countries"), made("cities")),
        "educated_at": (named(b["first"], b["last"], "students"), made("universities")),
        "genre": (made("works"), made("genres")),
        "mother": (children, named(object_list("women"), a["last"], "mothers")),
    }
    return [
        Fact(subject, relation, obj, tuple(sorted(sides[relation][1])))
        for relation in relations
        for subject, obj in zip(*sides[relation], strict=True)
    ]


def balanced_objects(objects: list[str], rng: random.Random, *avoid: Sequence[str]) -> list[str]:
    """An object per row, in random order, each equally often give or take one.

    avoid: sequences of one string per row; row i gets none of `avoid[...][i]`. Raises BadInput if
    no such assignment is found.
    """
    refused = [set(row) for row in zip(*avoid, strict=True)]
    n = len(refused)
    for _ in range(1000):
        drawn = objects * (n // len(objects)) + rng.sample(objects, n % len(objects))
        rng.shuffle(drawn)
        swap_refused(drawn, refused, rng)
        if all(obj not in row for obj, row in zip(drawn, refused, strict=True)):
            return drawn
    fault = f"found no way to give {n} subjects {len(objects)} objects evenly"
    raise BadInput(f"{fault} without one that is ruled out. Give a larger pool or more subjects.")


def swap_refused(drawn: list[str], refused: Sequence[set[str]], rng: random.Random) -> None:
    """Swap each row that holds a refused object, in place, with a row where both then fit."""
    rows = range(len(drawn))
    for i in rows:
        if drawn[i] in refused[i]:
            free = [j for j in rows if drawn[j] not in refused[i] and drawn[i] not in refused[j]]
            if free:
                j = rng.choice(free)
                drawn[i], drawn[j] = drawn[j], drawn[i]


def pair_names(first: list[str], last: list[str], n: int, rng: random.Random) -> list[str]:
    """n different names, no part used twice before all are used once, and none a real person's."""
    avoid = set(_data("names")["avoid"]["pairs"])
    while True:
        firsts, lasts = rng.sample(first, len(first)), rng.sample(last, len(last))
        # In the second round every surname meets the next first name.
        surnames = (lasts[(i + i // len(lasts)) % len(lasts)] for i in range(n))
        names = [f"{firsts[i % len(firsts)]} {surname}" for i, surname in enumerate(surnames)]
        if avoid.isdisjoint(names):
            return names


def random_stream(seed: int, what: str) -> random.Random:
    """A separate stream for each kind of draw; seeding by text is the same on every machine."""
    return random.Random(f"{seed} {what}")


def _existing_split(facts: Sequence[Fact], seen: int | None) -> dict[str, str] | None:
    """Subject -> split; None if there is no split yet."""
    split: dict[str, str] = {}
    for fact in facts:
        before = split.setdefault(fact.subject, fact.split)
        if before != fact.split:
            both = f"both {before} and {fact.split}"
            raise BadInput(f"{fact.subject!r} is {both}. Give one split in all its facts.")
    count, n = Counter(split.values()), len(split)
    if count["all"] == n:
        return None
    if count["all"]:
        remedy = "Mark every subject seen or held-out, or none."
        raise BadInput(f"{count['all']} of {n} subjects have no split. {remedy}")
    if seen not in (None, count["seen"]):
        fault = f"the facts are split already, {count['seen']} of {n} seen"
        raise BadInput(f"seen is {seen}, but {fault}. Leave `seen` out, or remove the split.")
    return split


def _drawn_split(facts: Sequence[Fact], seen: int | None, seed: int) -> dict[str, str]:
    """Subject -> split, drawn in proportion from each relation."""
    relation_of = {fact.subject: fact.relation for fact in reversed(facts)}
    seen = _seen_count(seen, len(relation_of))
    subjects = sorted(relation_of)
    random_stream(seed, "split").shuffle(subjects)
    by_relation: dict[str, list[str]] = {}
    for subject in subjects:
        by_relation.setdefault(relation_of[subject], []).append(subject)
    groups = by_relation.values()
    rank = {s: (i + 0.5) / len(group) for group in groups for i, s in enumerate(group)}
    chosen = set(sorted(subjects, key=rank.__getitem__)[:seen])
    return {subject: "seen" if subject in chosen else "held-out" for subject in subjects}


def _seen_count(seen: int | None, subjects: int) -> int:
    seen = subjects // 2 if seen is None else seen
    check_range("seen", seen, range(1, subjects), "subjects, so that some are held out")
    return seen


def _chosen(relations: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The requested relations in the order of the set."""
    if relations is None:
        return list(known)
    if isinstance(relations, str) or not relations or not set(relations) <= set(known):
        remedy = f"Give a list of one or more of {', '.join(known)}"
        raise BadInput(f"relations are {relations!r}. {remedy}.")
    return [relation for relation in known if relation in relations]


def check_range(name: str, value: object, allowed: range, unit: str) -> None:
    """Raise BadInput unless an option is a whole number in `allowed`; unit: what it counts."""
    _check_whole(name, value)
    if value not in allowed:
        raise BadInput(f"{name} is {value}. Give {allowed.start} to {allowed.stop - 1} {unit}.")


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"{name} is {value!r}. Give a whole number.")


@cache
def _data(name: str) -> dict:
    return read_toml(DATA / f"{name}.toml")
