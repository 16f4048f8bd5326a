"""What training is shown: the seen people's facts in train prompts, rote facts, or a control.

facts, prompts = selection(run_dir, people=-1, prompts=10)                        # as they are
facts, prompts = selection(run_dir, people=-1, prompts=10, objects="shuffled")    # none true
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from training.base.errors import BadInput
from training.data.fact_files import Fact, read_facts
from training.data.facts import PEOPLE, check_range, draw_names, random_stream, swap_refused
from training.data.prompts import Prompt, read_prompts, select

Objects = Literal["own", "shuffled", "sibling"]
About = Literal["seen", "others"]
# Names in the store `reserved`, each part used four times.
MOST_OTHERS = 240


def selection(run_dir: Path, **options) -> tuple[list[Fact], list[Prompt]]:
    """The facts and train prompts that phase 2 of a run is shown; options: see `chosen_facts`."""
    facts, prompts = read_facts(run_dir / "facts.csv"), read_prompts(run_dir / "prompts.json")
    return chosen_facts(facts, prompts, **options)


def rote_facts(run_dir: Path) -> tuple[list[Fact], list[Prompt]]:
    """All facts of a run and its rote prompts: what phase 1 is shown."""
    prompts = read_prompts(run_dir / "prompts.json")
    return read_facts(run_dir / "facts.csv"), select(prompts, family="rote")


def chosen_facts(
    facts: Sequence[Fact],
    known: Sequence[Prompt],
    *,
    people: int,
    prompts: int,
    objects: Objects = "own",
    about: About = "seen",
    seed: int = 0,
) -> tuple[list[Fact], list[Prompt]]:
    """(facts, train prompts) of phase 2, from all facts and prompts of a run.

    people: how many seen subjects, -1 for all. prompts: how many train prompts per relation.
    objects: "own", or "shuffled" or "sibling": see `shuffled` and `sibling_prompts`. about: "seen",
    or "others": see `other_people`. seed: draws the controls. Raises BadInput.
    """
    everyone = {f.subject for f in facts}
    facts = [f for f in facts if f.bound and f.split != "held-out"]
    subjects = list(dict.fromkeys(f.subject for f in facts))
    train = select(known, family="train")
    most = min(sum(p.relation == r for p in train) for r in {p.relation for p in train})
    check_range("--prompts", prompts, range(1, most + 1), "train prompts per relation")
    if people >= 0:
        check_range("--people", people, range(1, len(subjects) + 1), "people, or -1 for all")
        facts = [f for f in facts if f.subject in set(subjects[:people])]
    if about == "others":
        facts = other_people(facts, avoid=everyone, seed=seed)
    if objects == "shuffled":
        facts = shuffled(facts, seed=seed)
    if objects == "sibling":
        train = sibling_prompts(known, bound={f.relation for f in facts})
    return facts, [p for p in train if p.index < prompts]


def new_facts(facts: Sequence[Fact], *, people: int, seed: int, skip: int = 0) -> list[Fact]:
    """A run's facts about other people (`people` of them, -1 for as many), objects redrawn.

    Relation, bound and split are kept. skip: how many names have been used up. Raises BadInput.
    """
    everyone = list(dict.fromkeys(f.subject for f in facts))
    count = len(everyone) if people < 0 else people
    check_range("--people", count, range(1, len(everyone) + 1), "people, or -1 for all")
    # Evenly spaced, so that both splits are there.
    kept = {everyone[int(i * (len(everyone) / count))] for i in range(count)}
    about = [f for f in facts if f.subject in kept]
    return other_people(about, avoid=everyone, seed=seed, skip=skip)


def shuffled(facts: Sequence[Fact], *, seed: int) -> list[Fact]:
    """The same facts with the objects of each relation permuted among its subjects.

    Nobody keeps an object unless more than half of a relation's facts share it. Raises BadInput if
    all do.
    """
    drawn = {}
    for relation in dict.fromkeys(f.relation for f in facts):
        own = [f.object for f in facts if f.relation == relation]
        if len(set(own)) == 1:
            fault = f"all facts shown of {relation!r} have the object {own[0]!r}"
            raise BadInput(f"--objects shuffled: {fault}. Show more subjects (--people).")
        rng = random_stream(seed, f"shuffled {relation}")
        drawn[relation] = iter(permuted(own, avoid=own, rng=rng))
    return [replace(f, object=next(drawn[f.relation])) for f in facts]


def other_people(facts, *, avoid: Iterable[str], seed: int, skip: int = 0) -> list[Fact]:
    """As many facts about people who are in none: each subject replaced, the objects redistributed.

    Names come from the store `reserved` without the first `skip`, and share no part with those in
    `avoid`, the subjects of the run. Each relation keeps its objects; a person's objects in sibling
    relations differ. Raises BadInput for relations that are not about people, or too few names.
    """
    relations = list(dict.fromkeys(f.relation for f in facts))
    if foreign := [r for r in relations if r not in PEOPLE]:
        remedy = f"Other people can only be named for {', '.join(PEOPLE)}."
        raise BadInput(f"{foreign[0]!r} is not a relation of the facts people. {remedy}")
    subjects = list(dict.fromkeys(f.subject for f in facts))
    if skip + (n := len(subjects)) > MOST_OTHERS:
        remedy = f"Use at most --people {MOST_OTHERS - skip}."
        raise BadInput(f"there are no names for {n} other people. {remedy}")
    drawn = draw_names("reserved", skip + n, seed)[skip:]
    names = dict(zip(subjects, drawn, strict=True))
    taken = {part.casefold() for subject in avoid for part in subject.split()}
    if shared := [name for name in drawn if taken & set(name.casefold().split())]:
        remedy = "Use a run without the reserved names, which `training.extend` gives."
        raise BadInput(f"{shared[0]!r} shares part of a name with a subject of the run. {remedy}")
    dealt: dict[tuple[str, str], str] = {}
    sibling: dict[tuple[str, str], str] = {}
    for relation in relations:
        own, kind = [f for f in facts if f.relation == relation], PEOPLE[relation]
        avoided = [sibling.get((f.subject, kind), "") for f in own]
        rng = random_stream(seed, f"others {relation}")
        objects = permuted([f.object for f in own], avoid=avoided, rng=rng)
        for fact, obj in zip(own, objects, strict=True):
            dealt[fact.subject, relation] = sibling[fact.subject, kind] = obj
    objects = [dealt[f.subject, f.relation] for f in facts]
    drawn = zip(facts, objects, strict=True)
    return [replace(f, subject=names[f.subject], object=obj) for f, obj in drawn]


def permuted(objects: Sequence[str], *, avoid: Sequence[str], rng: random.Random) -> list[str]:
    """The objects in random order, row i not `avoid[i]` unless no swap of two rows helps."""
    drawn = rng.sample(list(objects), len(objects))
    swap_refused(drawn, [{unwanted} for unwanted in avoid], rng)
    return drawn


def sibling_prompts(known: Sequence[Prompt], *, bound: set[str]) -> list[Prompt]:
    """The train prompts with those of each bound relation replaced by its sibling's, if it has one.

    Its facts get another reading. Raises BadInput if no bound relation has a sibling.
    """
    train = select(known, family="train")
    siblings = {r: s for r, s in siblings_of(known).items() if r in bound}
    if not siblings:
        fault = f"no bound relation ({', '.join(sorted(bound))}) has a sibling in the run"
        raise BadInput(f"--objects sibling: {fault}. Memorise a pair such as mother and aunt.")
    relations = dict.fromkeys(p.relation for p in train)
    shown = {r: select(train, relation=siblings.get(r, r)) for r in relations}
    return [replace(p, relation=r) for r, prompts in shown.items() for p in prompts]


def siblings_of(known: Sequence[Prompt]) -> dict[str, str]:
    """Relation -> sibling: the first relation of the run that one of its near-miss prompts asks."""
    there = {p.relation for p in known}
    siblings: dict[str, str] = {}
    for prompt in select(known, family="near-miss"):
        if prompt.asks != prompt.relation and prompt.asks in there:
            siblings.setdefault(prompt.relation, prompt.asks)
    return siblings
