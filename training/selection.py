"""What phase 2 is shown: the seen people's facts of the bound relations in train prompts, or a control in their place.

    facts, prompts = selection(run_dir, people=-1, prompts=10)                        # the facts as they are
    facts, prompts = selection(run_dir, people=-1, prompts=10, objects="shuffled")    # as many, and none of them true

Each control has the same number of facts, prompts and objects, so that what it does to the model and the facts
themselves do not is drift.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from training.errors import UserError
from training.facts import Fact, random_stream
from training.prompts import Prompt, select

Objects = Literal["own", "shuffled", "sibling"]


class NothingToShuffle(UserError):
    """All shown facts of a relation have the same object."""


class NoSibling(UserError):
    """No relation of the run has a sibling in it."""


def selection(
    run_dir: Path, *, people: int, prompts: int, objects: Objects = "own", seed: int = 0
) -> tuple[list[Fact], list[Prompt]]:
    """The facts (seen, bound) and train prompts that phase 2 of a run is shown; see `chosen_facts`."""
    from training.facts import read_facts
    from training.prompts import read_prompts

    facts, known = read_facts(run_dir / "facts.csv"), read_prompts(run_dir / "prompts.json")
    return chosen_facts(facts, known, people=people, prompts=prompts, objects=objects, seed=seed)


def chosen_facts(
    facts: Sequence[Fact],
    known: Sequence[Prompt],
    *,
    people: int,
    prompts: int,
    objects: Objects = "own",
    seed: int = 0,
) -> tuple[list[Fact], list[Prompt]]:
    """(facts, train prompts) of phase 2, of the facts and prompts (every family) of a run.

    people: how many seen subjects, -1 for all; prompts: how many train prompts a relation.
    objects: "own"; "shuffled": see `shuffled`; "sibling": see `sibling_prompts`. seed: draws the shuffle.
    Raises UserError for a number out of range, NothingToShuffle, NoSibling.
    """
    facts = [f for f in facts if f.bound and f.split != "held-out"]
    subjects = list(dict.fromkeys(f.subject for f in facts))
    train = select(known, family="train")
    most = min(sum(p.relation == r for p in train) for r in {p.relation for p in train})
    if not 1 <= prompts <= most:
        raise UserError(f"--prompts is {prompts}; the relations have {most} train prompts: give 1 to {most}.")
    if people == 0 or people > len(subjects):
        raise UserError(f"--people is {people}; {len(subjects)} subjects are seen: give 1 to {len(subjects)}, or -1.")
    if people > 0:
        facts = [f for f in facts if f.subject in set(subjects[:people])]
    if objects == "shuffled":
        facts = shuffled(facts, seed=seed)
    if objects == "sibling":
        train = sibling_prompts(known, bound={f.relation for f in facts})
    return facts, [p for p in train if p.index < prompts]


def shuffled(facts: Sequence[Fact], *, seed: int) -> list[Fact]:
    """The same facts with the objects of each relation permuted among its subjects.

    Nobody keeps an object, except where more than half of a relation's facts have the same one.
    Raises NothingToShuffle.
    """
    drawn = {}
    for relation in dict.fromkeys(f.relation for f in facts):
        own = [f.object for f in facts if f.relation == relation]
        if len(set(own)) == 1:
            raise NothingToShuffle(
                f"--objects shuffled: all {len(own)} shown facts of {relation!r} have the object {own[0]!r}, so that "
                f"nothing can be permuted. Show more subjects (--people), or use --objects own."
            )
        drawn[relation] = iter(permuted(own, avoid=own, rng=random_stream(seed, f"shuffled {relation}")))
    return [replace(f, object=next(drawn[f.relation])) for f in facts]


def permuted(objects: Sequence[str], *, avoid: Sequence[str], rng: random.Random) -> list[str]:
    """The objects in random order, row i not `avoid[i]`; where no exchange of two rows helps, it stays.

    With `avoid` the objects themselves as few as possible stay: none unless one makes up more than half.
    """
    drawn = rng.sample(list(objects), len(objects))
    for i, unwanted in enumerate(avoid):
        if drawn[i] == unwanted:
            free = [j for j, other in enumerate(avoid) if drawn[j] != unwanted and drawn[i] != other]
            if free:
                j = rng.choice(free)
                drawn[i], drawn[j] = drawn[j], drawn[i]
    return drawn


def sibling_prompts(known: Sequence[Prompt], *, bound: set[str]) -> list[Prompt]:
    """The train prompts, those of each bound relation replaced by its sibling's: its facts get another reading.

    The sibling is the first relation of the run that a near-miss prompt of the relation asks; a relation without
    one keeps its own prompts. Raises NoSibling if no bound relation has one.
    """
    train = select(known, family="train")
    siblings: dict[str, str] = {}
    for prompt in select(known, family="near-miss"):
        if prompt.relation in bound and prompt.asks != prompt.relation and select(train, relation=prompt.asks):
            siblings.setdefault(prompt.relation, prompt.asks)
    if not siblings:
        raise NoSibling(
            f"--objects sibling: no bound relation ({', '.join(sorted(bound))}) has a sibling in this run. Memorise a "
            f"pair such as mother and aunt (near-miss prompts of kind sibling say which), or use --objects own."
        )
    relations = dict.fromkeys(p.relation for p in train)
    return [replace(p, relation=r) for r in relations for p in select(train, relation=siblings.get(r, r))]
