"""What is patched into what, and what the answer then says was moved.

Interchange: the state of a source prompt about (s', r') replaces that of a target prompt about (s,
r). The object answered says what was moved: o(s, r) nothing, o(s, r') the relation, o(s', r) the
subject, o(s', r') the finished answer. Steering: at a prompt about (s, q) the mean key-token state
of r minus that of q (or of a bare name) is added (Todd et al. 2024, arXiv:2310.15213; Rimsky et al.
2024, arXiv:2312.06681). Controls: a third relation w, a random direction of the same length.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from analysis.measures.checks import NotIdentifiable
from probing.states import Design
from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import Prompt

DIRECTIONS = ("rote->semantic", "semantic->rote", "semantic->semantic")
OUTCOMES = ("nothing", "relation", "subject", "answer", "other")
STEERED = ("nothing", "relation", "wrong", "other")
# What is put in: another prompt's whole state, or one of three vectors is added to the state there.
STATE = "state"
VECTORS = ("own", "wrong", "random")
# The position of rows about the unchanged target prompt.
UNCHANGED = "none"
# The family of the prompt that is the subject's name alone.
BARE = "bare"

Facts = Mapping[tuple[str, str], Fact]  # by (subject, relation)
Names = Sequence[str]


@dataclass(frozen=True)
class Choice:
    """facts, with distinct objects: what was moved -> the fact whose object says so.

    "nothing": what the target prompt asks for; "answer": in interchange, what the source asks for.
    group: trials of different groups have no subject in common.
    """

    group: int
    facts: Mapping[str, Fact]


class Asked(NamedTuple):
    """A prompt about a subject."""

    prompt: Prompt
    subject: str

    @property
    def text(self) -> str:
        return self.prompt.render(self.subject)


@dataclass(frozen=True)
class Trial:
    """A choice at a target prompt, `into`, which gets a vector or the state of a prompt, `taken`.

    side: "bound" or "unbound", of the relation that is moved.
    """

    choice: Choice
    into: Prompt
    taken: Prompt | None = None
    side: str = "bound"

    @property
    def target(self) -> Asked:
        return Asked(self.into, self.choice.facts["nothing"].subject)

    @property
    def source(self) -> Asked | None:
        return self.taken and Asked(self.taken, self.choice.facts["answer"].subject)

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        facts = self.choice.facts
        asked = [facts["nothing"], facts["answer"]] if self.taken else facts.values()
        return union(*(fact.candidates for fact in asked))

    def label(self, answer: str) -> str:
        """What an answered candidate says was moved; "other" if it is not one of their objects."""
        facts = self.choice.facts.items()
        return next((label for label, fact in facts if fact.object == answer), "other")


@dataclass(frozen=True)
class Plan:
    """Which subjects and prompts of a run are patched, the same at every checkpoint.

    pairs: of interchange among bound relations, and subjects to steer; half as many pairs have an
    unbound source relation. Raises BadInput.
    """

    design: Design
    pairs: int = 20

    def __post_init__(self) -> None:
        if self.pairs < 2:
            raise BadInput(f"pairs={self.pairs}; give at least 2 pairs, for an interval")

    @cached_property
    def subjects(self) -> tuple[list[str], list[str]]:
        """(scored, others): subjects of the split, and those whose states make the vectors."""
        every = list(dict.fromkeys(f.subject for f in self.design.run.facts))
        split = self.design.splits[0]
        if split == "all":
            return every[::2], every[1::2]
        scored = {f.subject for f in self.design.run.facts if f.split == split}
        return [s for s in every if s in scored], [s for s in every if s not in scored]

    @cached_property
    def facts(self) -> Facts:
        return {(f.subject, f.relation): f for f in self.design.run.facts}

    @cached_property
    def trials(self) -> dict[str, list[Trial]]:
        """Direction -> interchange trials, of the same pairs. Raises NotIdentifiable."""
        bound, unbound, seed = self.design.bound, self.design.unbound, self.design.run.seed
        who = self.facts, self.subjects[0]
        sides = {"bound": choose_pairs(*who, bound, bound, self.pairs, seed)}
        # Without unbound relations the table has no rows of this control.
        with suppress(NotIdentifiable):
            sides["unbound"] = choose_pairs(*who, unbound, bound, -(-self.pairs // 2), seed)
        trials: dict[str, list[Trial]] = {direction: [] for direction in DIRECTIONS}
        for direction, of_direction in trials.items():
            source, target = direction.split("->")
            for side, pairs in sides.items():
                for i, pair in enumerate(pairs):
                    into = self._prompt(pair.facts["nothing"].relation, target, i)
                    taken = self._prompt(pair.facts["answer"].relation, source, i)
                    of_direction.append(Trial(pair, into, taken, side))
        return trials

    @cached_property
    def steerings(self) -> list[Choice]:
        how = self.design.bound, self.pairs, self.design.run.seed
        return choose_steerings(self.facts, self.subjects[0], *how)

    def steered(self, family: str) -> list[Trial]:
        asked = [steering.facts["nothing"].relation for steering in self.steerings]
        prompts = [self._prompt(relation, family, i) for i, relation in enumerate(asked)]
        return list(map(Trial, self.steerings, prompts))

    def _prompt(self, relation: str, kind: str, turn: int) -> Prompt:
        if kind == BARE:
            return Prompt(relation, BARE, 0, "{subject}", "")
        prompts = self.design.prompts_of(relation, "rote" if kind == "rote" else "test")
        return prompts[turn % len(prompts)]


def choose_pairs(facts: Facts, subjects: Names, sources: Names, targets: Names, count, seed=0):
    """Up to `count` pairs of facts, spread evenly over couples of subjects and over relations.

    sources, targets: relations. Subjects are cut into couples, which are independent of each other;
    the two of a couple alternate as source and target. Raises NotIdentifiable if there is no pair.
    """
    rng = np.random.default_rng(seed)
    shuffled = _shuffled(subjects, rng)
    couples = list(zip(shuffled[::2], shuffled[1::2], strict=False))
    ways = _shuffled([(a, b) for a in sources for b in targets if a != b], rng)
    turns = (
        (group, [_crossed(couple[turn % 2], a, couple[1 - turn % 2], b) for a, b in ways])
        for turn in range(2 * len(ways))
        for group, couple in enumerate(couples)
    )
    if pairs := _spread(turns, facts, count):
        return pairs
    relations = ", ".join(dict.fromkeys((*sources, *targets))) or "none"
    raise NotIdentifiable(
        f"not identifiable: no two of {len(subjects)} subjects have two relations ({relations}) "
        "with four distinct objects; interchange needs the same subjects in several relations"
    )


def choose_steerings(facts: Facts, subjects: Names, relations: Names, count: int, seed=0):
    """Up to `count` subjects with three relations each; [] if no subject has them.

    A subject recurs only where `count` exceeds the number of subjects.
    """
    rng = np.random.default_rng([seed, 1])
    shuffled = _shuffled(subjects, rng)
    ways = [(q, r, w) for q in relations for r in relations for w in relations]
    ways = _shuffled([way for way in ways if len(set(way)) == 3], rng)
    turns = (
        (group, [{"nothing": (s, q), "relation": (s, r), "wrong": (s, w)} for q, r, w in ways])
        for _ in range(-(-count // max(1, len(shuffled))))
        for group, s in enumerate(shuffled)
    )
    return _spread(turns, facts, count)


def _crossed(source: str, asked: str, target: str, wanted: str) -> dict:
    about_target = {"nothing": (target, wanted), "relation": (target, asked)}
    return about_target | {"subject": (source, wanted), "answer": (source, asked)}


def _shuffled(items: Sequence, rng) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _spread(turns: Iterable[tuple[int, list[dict]]], facts: Facts, count: int) -> list[Choice]:
    """Up to `count` choices, one per turn (group, options), the relations used evenly."""
    used: Counter = Counter()
    chosen: list[Choice] = []
    for group, options in turns:
        if len(chosen) == count:
            break
        ways = {}
        for option in options:
            known = {label: facts[key] for label, key in option.items() if key in facts}
            choice = Choice(group, known)
            if len({f.object for f in known.values()}) == len(option) and choice not in chosen:
                ways[tuple(f.relation for f in known.values())] = choice
        if ways:
            way = min(ways, key=used.__getitem__)
            used[way] += 1
            chosen.append(ways[way])
    return chosen


def union(*pools: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(candidate for pool in pools for candidate in pool))
