"""Facts: built-in sets, facts from files, and which of them phase 2 may use.

`people` has the same subjects in every relation, so that a state can be asked whether it knows the
answer or only the name; `kin` has mothers and aunts who are people of the run, for questions of two
hops; `fiction` has the shape of the paper, with subjects of its own kind in each relation. Everything
is a function of the seed, and identical on every machine.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

from training.base.errors import BadInput
from training.data.fact_files import Fact, read_facts

DATA = Path(__file__).parent


# In this order; the relations of one object list are siblings and share a pool.
PEOPLE = {
    "mother": "women",
    "aunt": "women",
    "home_city": "cities",
    "birth_city": "cities",
    "profession": "professions",
    "instrument": "instruments",
}


FICTION = ("author", "capital", "educated_at", "genre", "mother")


FICTION_SIZE = 100


SUBJECTS = range(4, 401)


POOL = range(2, 33)


MOST_DRAWS = 1000


FUNCTION_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "at",
        "by",
        "de",
        "for",
        "from",
        "in",
        "la",
        "le",
        "of",
        "on",
        "or",
        "the",
        "to",
        "with",
    )
)


def load_facts(
    source: str | Path = "people",
    *,
    relation: str | None = None,
    relations: Sequence[str] | None = None,
    subjects: int = 80,
    pool: int = 16,
    seen: int | None = None,
    seed: int = 0,
) -> list[Fact]:
    """The built-in set of that name, or the facts of the CSV at that path.

    relation: the relation of a T-Rex-Fiction file, see `read_facts`. The other options shape built-in
    sets only, see `build_facts`. Raises BadInput; BadInput if `source` is neither.
    """
    if source in BUILT_IN:
        if relation is not None:
            raise BadInput(
                f"relation {relation!r} was given with the built-in set {source!r}. It names the "
                "relation of a T-Rex-Fiction file; choose among built-in relations with `relations`."
            )
        return build_facts(
            source, subjects=subjects, relations=relations, pool=pool, seen=seen, seed=seed
        )
    if not Path(source).exists():
        raise BadInput(
            f"no facts at {str(source)!r}: neither a built-in set ({', '.join(BUILT_IN)}) nor a "
            "file. Give one of these names or the path of a CSV."
        )
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
    """A built-in set, one relation after the other, the subjects of each in the same order.

    `people`: `subjects` people (4 to 400) in every relation, seen before held-out. The split is made
    here (`seen` subjects, default half) because it shapes the facts: seen and held-out people take their
    names from different stores and share no part of a name, and every object of the pool (`pool` of
    them, 2 to 32, drawn for each kind of object) occurs equally often, give or take one, within seen and
    within held-out. For one subject the objects of sibling relations differ. A relation's facts do not
    depend on which other relations are asked for.
    `kin`: the same, but mothers and aunts are not first names: `pool` of the held-out people are mothers and aunts of
    all, nobody their own. So that what is asked of a mother was never shown outside phase 1.
    `fiction`: 100 facts a relation, each with its own subject and its own object; not split yet;
    `subjects`, `pool` and `seen` do not apply.

    Raises BadInput.
    """
    if name not in BUILT_IN:
        raise BadInput(f"no built-in set {name!r}. The built-in sets are {', '.join(BUILT_IN)}.")
    return BUILT_IN[name](subjects=subjects, relations=relations, pool=pool, seen=seen, seed=seed)


def split_facts(
    facts: Sequence[Fact], *, seen: int | None = None, unbound: int = 1, seed: int = 0
) -> list[Fact]:
    """The same facts, each subject seen or held-out and each relation bound or unbound.

    A split that is already there, as in `people`, is kept. Otherwise `seen` subjects (default half) are
    drawn by the seed, in proportion from each relation that brings subjects of its own; name parts may
    then be shared across the split, and `shared_name_parts` says which. Unbound are the relations
    (seed + k) mod n_relations, k < unbound, in order of appearance; relations that are already unbound
    are kept in place of these.

    Raises BadInput if `seen` is not from 1 to n_subjects - 1 or contradicts the split that is
    there, if only some facts are split, or if no relation would remain bound.
    """
    if not facts:
        raise BadInput("no facts to split. Give at least two, of different subjects.")
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    _check_whole("seed", seed)
    _check_whole("unbound", unbound)
    if not 0 <= unbound < len(relations):
        raise BadInput(
            f"unbound is {unbound}, with {len(relations)} relation(s). Give 0 to "
            f"{len(relations) - 1}, so that one relation at least is bound."
        )
    loose = {relations[(seed + k) % len(relations)] for k in range(unbound)}
    loose = {fact.relation for fact in facts if not fact.bound} or loose
    split = _existing_split(facts, seen) or _drawn_split(facts, seen, seed)
    return [
        replace(fact, split=split[fact.subject], bound=fact.relation not in loose) for fact in facts
    ]


def majority_rate(facts: Sequence[Fact]) -> float:
    """Accuracy, 0 to 1, of always answering the most frequent object of the fact's relation."""
    if not facts:
        raise BadInput("no facts, so no majority rate. Give at least one.")
    counts: dict[str, Counter[str]] = {}
    for fact in facts:
        counts.setdefault(fact.relation, Counter())[fact.object] += 1
    return sum(max(counter.values()) for counter in counts.values()) / len(facts)


def shared_name_parts(facts: Sequence[Fact]) -> set[str]:
    """Words, case-folded, that occur in the subjects of both splits; function words and letters apart."""
    seen, held_out = (
        {
            word
            for fact in facts
            if fact.split == split
            for word in re.findall(r"\w\w+", fact.subject.casefold())
        }
        for split in ("seen", "held-out")
    )
    return (seen & held_out) - FUNCTION_WORDS


def draw_names(store: str, n: int, seed: int = 0) -> list[str]:
    """n different "First Last" from the store a, b or reserved, each part used as rarely as possible."""
    stores = _data("names")["stores"]
    if store not in stores:
        raise BadInput(f"no name store {store!r}. The stores are {', '.join(stores)}.")
    first, last = stores[store]["first"], stores[store]["last"]
    _check_range("n", n, range(1, 4 * len(first) + 1), "names")
    return pair_names(first, last, n, random_stream(seed, f"names {store}"))


def object_list(kind: str) -> list[str]:
    """Every object of a kind: women, cities, professions, instruments."""
    return list(_data("names")["objects"][kind])


def _people(
    *,
    subjects: int,
    relations: Sequence[str] | None,
    pool: int,
    seen: int | None,
    seed: int,
    kin: bool = False,
) -> list[Fact]:
    _check_range("subjects", subjects, SUBJECTS, "people")
    _check_range("pool", pool, POOL, "objects")
    _check_whole("seed", seed)
    chosen = _chosen(relations, tuple(PEOPLE))
    seen = _seen_count(seen, subjects)
    names = draw_names("a", seen, seed) + draw_names("b", subjects - seen, seed)
    splits = ["seen"] * seen + ["held-out"] * (subjects - seen)
    if kin and not 3 <= pool <= subjects - seen:
        raise BadInput(
            f"pool is {pool}: of the {subjects - seen} held-out people 3 or more are mothers and aunts, so that nobody is "
            "her own and both can differ. Give a pool (--pool) of 3 to the number of held-out people."
        )
    facts: dict[str, list[Fact]] = {}
    assigned: dict[str, list[str]] = {}
    for relation, kind in PEOPLE.items():
        among = names[seen:] if kin and kind == "women" else _data("names")["objects"][kind]
        objects = sorted(random_stream(seed, f"pool {kind}").sample(among, pool))
        rng = random_stream(seed, relation)
        avoid = (assigned.get(kind, [""] * subjects), names)
        assigned[kind] = [
            obj
            for rows in (slice(seen), slice(seen, None))
            for obj in balanced_objects(objects, rng, *(some[rows] for some in avoid))
        ]
        facts[relation] = [
            Fact(name, relation, obj, tuple(objects), split)
            for name, obj, split in zip(names, assigned[kind], splits, strict=True)
        ]
    return [fact for relation in chosen for fact in facts[relation]]


def _kin(**options) -> list[Fact]:
    return _people(kin=True, **options)


def _fiction(*, relations: Sequence[str] | None, seed: int, **_unused: object) -> list[Fact]:
    _check_whole("seed", seed)
    stores, women = _data("names")["stores"], _data("names")["objects"]["women"]
    a, b = stores["a"], stores["b"]

    def made(kind: str) -> list[str]:
        recipe = _data("fiction")[kind]
        combinations = [recipe["join"].join(words) for words in product(*recipe["parts"])]
        return random_stream(seed, kind).sample(combinations, FICTION_SIZE)

    def named(first: list[str], last: list[str], what: str) -> list[str]:
        return pair_names(first, last, FICTION_SIZE, random_stream(seed, what))

    sources: dict[str, tuple[list[str], list[str]]] = {
        "author": (made("books"), named(a["first"], a["last"], "authors")),
        "capital": (made("countries"), made("cities")),
        "educated_at": (named(b["first"], b["last"], "students"), made("universities")),
        "genre": (made("works"), made("genres")),
        "mother": (named(a["first"], b["last"], "children"), named(women, a["last"], "mothers")),
    }
    return [
        Fact(subject, relation, obj, tuple(sorted(sources[relation][1])))
        for relation in _chosen(relations, FICTION)
        for subject, obj in zip(*sources[relation], strict=True)
    ]


BUILT_IN: dict[str, Callable[..., list[Fact]]] = {
    "people": _people,
    "kin": _kin,
    "fiction": _fiction,
}


def balanced_objects(objects: list[str], rng: random.Random, *avoid: Sequence[str]) -> list[str]:
    """An object for each row, in random order, equally often give or take one, in row i none of `avoid[...][i]`.

    Raises BadInput where none of many draws will do.
    """
    refused = [set(row) for row in zip(*avoid, strict=True)]
    n = len(refused)
    for _ in range(MOST_DRAWS):
        drawn = objects * (n // len(objects)) + rng.sample(objects, n % len(objects))
        rng.shuffle(drawn)
        for i in range(n):
            if drawn[i] in refused[i]:
                free = [
                    j for j in range(n) if drawn[j] not in refused[i] and drawn[i] not in refused[j]
                ]
                if free:
                    j = rng.choice(free)
                    drawn[i], drawn[j] = drawn[j], drawn[i]
        if all(a not in row for a, row in zip(drawn, refused, strict=True)):
            return drawn
    raise BadInput(
        f"no way was found to give {n} subjects {len(objects)} objects evenly, none of them refused. Give a larger pool "
        f"or more subjects."
    )


def pair_names(first: list[str], last: list[str], n: int, rng: random.Random) -> list[str]:
    """n different names, no part used twice before all are used once, and no pair that is somebody's."""
    avoid = set(_data("names")["avoid"]["pairs"])
    while True:
        firsts, lasts = rng.sample(first, len(first)), rng.sample(last, len(last))
        # The second time round, every surname meets the next first name.
        names = [
            f"{firsts[i % len(firsts)]} {lasts[(i + i // len(lasts)) % len(lasts)]}"
            for i in range(n)
        ]
        if avoid.isdisjoint(names):
            return names


def _existing_split(facts: Sequence[Fact], seen: int | None) -> dict[str, str] | None:
    """The split of each subject, None if there is none yet."""
    split: dict[str, str] = {}
    for fact in facts:
        if split.setdefault(fact.subject, fact.split) != fact.split:
            raise BadInput(
                f"{fact.subject!r} is both {split[fact.subject]} and {fact.split}. "
                "Give a subject one split in all its facts."
            )
    if set(split.values()) == {"all"}:
        return None
    count = Counter(split.values())
    if count["all"]:
        raise BadInput(
            f"{count['all']} of {len(split)} subjects have no split. Mark every subject seen or held-out, or none."
        )
    if seen not in (None, count["seen"]):
        raise BadInput(
            f"seen is {seen}, but the facts are split already, {count['seen']} of {len(split)} "
            "seen. Leave `seen` out, or remove the split."
        )
    return split


def _drawn_split(facts: Sequence[Fact], seen: int | None, seed: int) -> dict[str, str]:
    relation_of: dict[str, str] = {}
    for fact in facts:
        relation_of.setdefault(fact.subject, fact.relation)
    seen = _seen_count(seen, len(relation_of))
    subjects = sorted(relation_of)
    random_stream(seed, "split").shuffle(subjects)
    size, taken = Counter(relation_of.values()), Counter[str]()
    rank: dict[str, float] = {}
    for subject in subjects:
        relation = relation_of[subject]
        taken[relation] += 1
        rank[subject] = (taken[relation] - 0.5) / size[relation]
    chosen = set(sorted(subjects, key=rank.__getitem__)[:seen])
    return {subject: "seen" if subject in chosen else "held-out" for subject in relation_of}


def _seen_count(seen: int | None, subjects: int) -> int:
    if seen is None:
        seen = subjects // 2
    _check_range("seen", seen, range(1, subjects), "subjects, so that some are held out")
    return seen


def _chosen(relations: Sequence[str] | None, known: tuple[str, ...]) -> list[str]:
    """The relations asked for, in the order of the set."""
    if relations is None:
        return list(known)
    if isinstance(relations, str) or not relations or not set(relations) <= set(known):
        raise BadInput(
            f"relations are {relations!r}. Give a list of one or more of {', '.join(known)}."
        )
    return [relation for relation in known if relation in relations]


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"{name} is {value!r}. Give a whole number.")


def _check_range(name: str, value: object, allowed: range, unit: str) -> None:
    _check_whole(name, value)
    if value not in allowed:
        raise BadInput(f"{name} is {value}. Give {allowed.start} to {allowed.stop - 1} {unit}.")


def random_stream(seed: int, what: str) -> random.Random:
    """A stream of its own for each draw: a text seed is hashed the same on every machine."""
    return random.Random(f"{seed} {what}")


@cache
def _data(name: str) -> dict:
    return tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))
