"""What phase 2 is shown: the seen people's facts of the bound relations in train prompts, or a control in their place.

    facts, prompts = selection(run_dir, people=-1, prompts=10)                        # the facts as they are
    facts, prompts = selection(run_dir, people=-1, prompts=10, objects="shuffled")    # as many, and none of them true

Each control has the same number of facts, prompts and objects, so that what it does to the model and the facts
themselves do not is drift.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from training.base.errors import BadInput, UserError
from training.data.fact_files import Fact, read_facts
from training.data.facts import PEOPLE, draw_names, random_stream
from training.data.prompts import Prompt, read_prompts, select


def new_facts(facts, *, people: int, seed: int, skip: int = 0) -> list:
    """A run's facts with other people in place of its own (`people` of them, -1 for all), objects dealt anew.

    Every fact keeps its relation, whether its relation is bound, and its split, for a phase 2 on the new run: the one
    before has shown none of these people, seen ones neither. skip: names to pass over that are used up.
    Raises UserError for a number out of range, BadInput.
    """

    everyone = list(dict.fromkeys(f.subject for f in facts))
    if people == 0 or people > len(everyone):
        raise UserError(
            f"--people is {people}; the run has {len(everyone)} subjects: give 1 to {len(everyone)}, or -1."
        )
    # Every other one, so that both splits are there.
    step = len(everyone) / people if people > 0 else 1
    kept = {everyone[int(i * step)] for i in range(people)} if people > 0 else set(everyone)
    return other_people(
        [f for f in facts if f.subject in kept], avoid=everyone, seed=seed, skip=skip
    )


Objects = Literal["own", "shuffled", "sibling"]


About = Literal["seen", "others"]


# Names that the store `reserved` is good for, each part used four times.
MOST_OTHERS = 240


def selection(
    run_dir: Path,
    *,
    people: int,
    prompts: int,
    objects: Objects = "own",
    about: About = "seen",
    seed: int = 0,
) -> tuple[list[Fact], list[Prompt]]:
    """The facts (seen, bound) and train prompts that phase 2 of a run is shown; see `chosen_facts`."""

    facts, known = read_facts(run_dir / "facts.csv"), read_prompts(run_dir / "prompts.json")
    return chosen_facts(
        facts, known, people=people, prompts=prompts, objects=objects, about=about, seed=seed
    )


def rote_facts(run_dir: Path) -> tuple[list[Fact], list[Prompt]]:
    """All facts of a run and its rote prompts: what phase 1 is shown."""

    return read_facts(run_dir / "facts.csv"), select(
        read_prompts(run_dir / "prompts.json"), family="rote"
    )


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
    """(facts, train prompts) of phase 2, of the facts and prompts (every family) of a run.

    people: how many seen subjects, -1 for all; prompts: how many train prompts a relation.
    objects: "own"; "shuffled": see `shuffled`; "sibling": see `sibling_prompts`. about: "seen"; "others": see
    `other_people`. seed: draws both controls.
    Raises UserError for a number out of range, BadInput, BadInput, BadInput.
    """
    everyone = {f.subject for f in facts}
    facts = [f for f in facts if f.bound and f.split != "held-out"]
    subjects = list(dict.fromkeys(f.subject for f in facts))
    train = select(known, family="train")
    most = min(sum(p.relation == r for p in train) for r in {p.relation for p in train})
    if not 1 <= prompts <= most:
        raise UserError(
            f"--prompts is {prompts}; the relations have {most} train prompts: give 1 to {most}."
        )
    if people == 0 or people > len(subjects):
        raise UserError(
            f"--people is {people}; {len(subjects)} subjects are seen: give 1 to {len(subjects)}, or -1."
        )
    if people > 0:
        facts = [f for f in facts if f.subject in set(subjects[:people])]
    if about == "others":
        facts = other_people(facts, avoid=everyone, seed=seed)
    if objects == "shuffled":
        facts = shuffled(facts, seed=seed)
    if objects == "sibling":
        train = sibling_prompts(known, bound={f.relation for f in facts})
    return facts, [p for p in train if p.index < prompts]


def shuffled(facts: Sequence[Fact], *, seed: int) -> list[Fact]:
    """The same facts with the objects of each relation permuted among its subjects.

    Nobody keeps an object, except where more than half of a relation's facts have the same one.
    Raises BadInput.
    """
    drawn = {}
    for relation in dict.fromkeys(f.relation for f in facts):
        own = [f.object for f in facts if f.relation == relation]
        if len(set(own)) == 1:
            raise BadInput(
                f"--objects shuffled: all {len(own)} shown facts of {relation!r} have the object {own[0]!r}, so that "
                f"nothing can be permuted. Show more subjects (--people), or use --objects own."
            )
        drawn[relation] = iter(
            permuted(own, avoid=own, rng=random_stream(seed, f"shuffled {relation}"))
        )
    return [replace(f, object=next(drawn[f.relation])) for f in facts]


def other_people(
    facts: Sequence[Fact], *, avoid: Iterable[str], seed: int, skip: int = 0
) -> list[Fact]:
    """As many facts about people who are in none: each subject replaced by another, the objects dealt out anew.

    Names come from the store `reserved`, and share no part with those in `avoid`, the subjects of the run. Every
    relation keeps its objects; for one person those of sibling relations differ, as in the built-in set people.
    skip: the first so many names are passed over.
    Raises BadInput for facts that are not about the relations of people, or that use up the names.
    """
    if foreign := [r for r in dict.fromkeys(f.relation for f in facts) if r not in PEOPLE]:
        raise BadInput(
            f"what the subjects of {foreign[0]!r} are is not known, so no others of their kind can be named. Other "
            f"people can be had for the relations of the facts people: {', '.join(PEOPLE)}."
        )
    subjects = list(dict.fromkeys(f.subject for f in facts))
    if skip + len(subjects) > MOST_OTHERS:
        raise BadInput(
            f"{len(subjects)} other people are wanted, and names for {MOST_OTHERS - skip} are there. Take fewer: "
            f"--people {MOST_OTHERS - skip}."
        )
    names = dict(
        zip(subjects, draw_names("reserved", skip + len(subjects), seed)[skip:], strict=True)
    )
    taken = {part.casefold() for subject in avoid for part in subject.split()}
    if shared := [name for name in names.values() if taken & set(name.casefold().split())]:
        raise BadInput(
            f"{shared[0]!r} shares a part of the name with a subject of the run, so nobody is new. Other people can be had "
            f"for facts without the reserved names of training/data/names.toml (these are those of `training.extend`)."
        )
    dealt: dict[tuple[str, str], str] = {}
    sibling_of: dict[tuple[str, str], str] = {}
    for relation in dict.fromkeys(f.relation for f in facts):
        own = [f for f in facts if f.relation == relation]
        avoided = [sibling_of.get((f.subject, PEOPLE[relation]), "") for f in own]
        drawn = permuted(
            [f.object for f in own], avoid=avoided, rng=random_stream(seed, f"others {relation}")
        )
        for fact, obj in zip(own, drawn, strict=True):
            dealt[fact.subject, relation] = sibling_of[fact.subject, PEOPLE[relation]] = obj
    return [
        replace(f, subject=names[f.subject], object=dealt[f.subject, f.relation]) for f in facts
    ]


def permuted(objects: Sequence[str], *, avoid: Sequence[str], rng: random.Random) -> list[str]:
    """The objects in random order, row i not `avoid[i]`; where no exchange of two rows helps, it stays.

    With `avoid` the objects themselves as few as possible stay: none unless one makes up more than half.
    """
    drawn = rng.sample(list(objects), len(objects))
    for i, unwanted in enumerate(avoid):
        if drawn[i] == unwanted:
            free = [
                j for j, other in enumerate(avoid) if drawn[j] != unwanted and drawn[i] != other
            ]
            if free:
                j = rng.choice(free)
                drawn[i], drawn[j] = drawn[j], drawn[i]
    return drawn


def sibling_prompts(known: Sequence[Prompt], *, bound: set[str]) -> list[Prompt]:
    """The train prompts, those of each bound relation replaced by its sibling's: its facts get another reading.

    A relation without a sibling keeps its own prompts. Raises BadInput if no bound relation has one.
    """
    train = select(known, family="train")
    siblings = {r: s for r, s in siblings_of(known).items() if r in bound}
    if not siblings:
        raise BadInput(
            f"--objects sibling: no bound relation ({', '.join(sorted(bound))}) has a sibling in this run. Memorise a "
            f"pair such as mother and aunt (near-miss prompts of kind sibling say which), or use --objects own."
        )
    relations = dict.fromkeys(p.relation for p in train)
    return [
        replace(p, relation=r)
        for r in relations
        for p in select(train, relation=siblings.get(r, r))
    ]


def siblings_of(known: Sequence[Prompt]) -> dict[str, str]:
    """Relation -> its sibling: the first relation with prompts of its own that one of its near-miss prompts asks."""
    there = {p.relation for p in known}
    siblings: dict[str, str] = {}
    for prompt in select(known, family="near-miss"):
        if prompt.asks != prompt.relation and prompt.asks in there:
            siblings.setdefault(prompt.relation, prompt.asks)
    return siblings
