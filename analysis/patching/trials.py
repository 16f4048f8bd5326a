"""What is patched into what, and what the answer then says was moved.

    plan = Plan(Design.of(Run.open("runs/demo"), families=("test",)), pairs=20)
    trial = plan.trials["rote->semantic"][0]
    trial.source.text, trial.target.text, trial.outcomes["relation"]

Interchange: the state of a source prompt about (s', r') replaces that of a target prompt about (s,
r); s' != s, r' != r, and the four objects differ. The object that is then answered says what was
moved: o(s, r) nothing, o(s, r') the relation, o(s', r) the subject, o(s', r') the finished answer.

Steering: the vector of relation r is added to a prompt about (s, q). It is the key-token state of
r, averaged over subjects that are not scored, minus that of q, or minus that of a bare name (Todd
et al. 2024, arXiv:2310.15213; difference of means as in Rimsky et al. 2024, arXiv:2312.06681).
Controls: the vector of a third relation w, and a random direction of the same length.
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

Key = tuple[str, str]  # (subject, relation)
Facts = Mapping[Key, Fact]
Names = Sequence[str]


@dataclass(frozen=True)
class Choice:
    """Facts that a trial tells apart: what was moved -> the fact whose object says so; all differ.

    "nothing" is the fact that the target prompt asks for; "answer", in interchange, the source's.
    group: trials of different groups have no subject in common.
    """

    group: int
    facts: Mapping[str, Key]

    def relation(self, label: str) -> str:
        """The relation of one of the facts."""
        return self.facts[label][1]


class Asked(NamedTuple):
    """A prompt about a subject."""

    prompt: Prompt
    subject: str

    @property
    def text(self) -> str:
        """The rendered prompt."""
        return self.prompt.render(self.subject)


@dataclass(frozen=True)
class Trial:
    """One target prompt to be changed.

    side: "bound" or "unbound", of the relation that is moved. outcomes: what was moved -> the
    object that says so. source: whose state is taken; None where a vector is added.
    """

    side: str
    group: int
    target: Asked
    outcomes: Mapping[str, str]
    candidates: tuple[str, ...]
    source: Asked | None = None

    @classmethod
    def of(
        cls,
        choice: Choice,
        facts: Facts,
        target: Prompt,
        source: Prompt | None = None,
        side="bound",
    ) -> "Trial":
        """The trial of a choice at a target prompt, with the state of a source prompt or a vector.

        Candidates: those of the two facts asked for, or of every relation that has a vector.
        """
        known = {label: facts[key] for label, key in choice.facts.items()}
        pooled = known.values() if source is None else (known["nothing"], known["answer"])
        return cls(
            side,
            choice.group,
            Asked(target, known["nothing"].subject),
            {label: fact.object for label, fact in known.items()},
            union(*(fact.candidates for fact in pooled)),
            source and Asked(source, known["answer"].subject),
        )

    def label(self, answer: str) -> str:
        """What an answered candidate says was moved; "other" where it is no outcome's object."""
        return next((label for label, obj in self.outcomes.items() if obj == answer), "other")


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
    def split(self) -> str:
        """held-out, or all where subjects were not split."""
        return self.design.splits[0]

    @cached_property
    def subjects(self) -> tuple[list[str], list[str]]:
        """(scored, others): subjects of the split, and those whose states make the vectors."""
        facts = self.design.run.facts
        every = list(dict.fromkeys(f.subject for f in facts))
        if self.split == "all":
            return every[::2], every[1::2]
        scored = {f.subject for f in facts if f.split == self.split}
        return [s for s in every if s in scored], [s for s in every if s not in scored]

    @cached_property
    def facts(self) -> dict[Key, Fact]:
        """Every fact of the run by subject and relation."""
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
                    into = self._prompt(pair.relation("nothing"), target, i)
                    taken = self._prompt(pair.relation("answer"), source, i)
                    of_direction.append(Trial.of(pair, self.facts, into, taken, side))
        return trials

    @cached_property
    def steerings(self) -> list[Choice]:
        """Who is steered from which relation to which."""
        relations, seed = self.design.bound, self.design.run.seed
        return choose_steerings(self.facts, self.subjects[0], relations, self.pairs, seed)

    def steered(self, family: str) -> list[Trial]:
        """The trial of each steering at a bare name, a test or a rote prompt."""
        return [
            Trial.of(s, self.facts, self._prompt(s.relation("nothing"), family, i))
            for i, s in enumerate(self.steerings)
        ]

    @property
    def patches_per_site(self) -> int:
        """How many patched prompts one site of one checkpoint takes, at most."""
        interchanged = 3 * sum(map(len, self.trials.values()))
        return interchanged + len(self.steerings) * (2 * len(VECTORS) + 1)

    def _prompt(self, relation: str, kind: str, turn: int) -> Prompt:
        if kind == BARE:
            return Prompt(relation, BARE, 0, "{subject}", "")
        prompts = self.design.prompts_of(relation, "rote" if kind == "rote" else "test")
        return prompts[turn % len(prompts)]


def choose_pairs(
    facts: Facts, subjects: Names, sources: Names, targets: Names, count: int, seed: int = 0
) -> list[Choice]:
    """Up to `count` pairs of facts, spread evenly over couples of subjects and over relations.

    sources, targets: relations. Subjects are cut into couples, which are independent of each other;
    the two of a couple alternate as source and target. Raises NotIdentifiable if there is no pair.
    """
    rng = np.random.default_rng(seed)
    shuffled = _shuffled(subjects, rng)
    couples = list(zip(shuffled[::2], shuffled[1::2], strict=False))
    ways = _shuffled([(a, b) for a in sources for b in targets if a != b], rng)
    turns = (
        [Choice(group, _crossed(couple[turn % 2], a, couple[1 - turn % 2], b)) for a, b in ways]
        for turn in range(2 * len(ways))
        for group, couple in enumerate(couples)
    )
    pairs = _spread(turns, facts, count)
    if not pairs:
        relations = ", ".join(dict.fromkeys((*sources, *targets))) or "none"
        raise NotIdentifiable(
            f"not identifiable: among {len(subjects)} subjects and the relations {relations} no "
            "two subjects have two relations each with four distinct objects; interchange needs "
            "the same subjects in several relations"
        )
    return pairs


def choose_steerings(
    facts: Facts, subjects: Names, relations: Names, count: int, seed: int = 0
) -> list[Choice]:
    """Up to `count` subjects with three relations each; [] if no subject has them.

    A subject recurs only where `count` exceeds the number of subjects.
    """
    rng = np.random.default_rng([seed, 1])
    shuffled = _shuffled(subjects, rng)
    ways = [(q, r, w) for q in relations for r in relations for w in relations]
    ways = _shuffled([way for way in ways if len(set(way)) == 3], rng)
    labels = ("nothing", "relation", "wrong")
    turns = (
        [Choice(group, {k: (s, r) for k, r in zip(labels, way, strict=True)}) for way in ways]
        for _ in range(-(-count // max(1, len(shuffled))))
        for group, s in enumerate(shuffled)
    )
    return _spread(turns, facts, count)


def _crossed(source: str, asked: str, target: str, wanted: str) -> dict[str, Key]:
    """The facts of a source (subject, relation) and a target (subject, relation)."""
    return {
        "nothing": (target, wanted),
        "relation": (target, asked),
        "subject": (source, wanted),
        "answer": (source, asked),
    }


def _shuffled(items: Sequence, rng) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _spread(turns: Iterable[Sequence[Choice]], facts: Facts, count: int) -> list[Choice]:
    """Up to `count` choices with distinct objects, one per turn, the relations used evenly."""
    used: Counter = Counter()
    chosen: list[Choice] = []
    for choices in turns:
        if len(chosen) == count:
            break
        ways = {}
        for choice in choices:
            objects = {facts[key].object for key in choice.facts.values() if key in facts}
            if len(objects) == len(choice.facts) and choice not in chosen:
                ways.setdefault(tuple(map(choice.relation, choice.facts)), choice)
        if ways:
            way = min(ways, key=used.__getitem__)
            used[way] += 1
            chosen.append(ways[way])
    return chosen


def union(*pools: Sequence[str]) -> tuple[str, ...]:
    """The candidates of several pools, each once, in order."""
    return tuple(dict.fromkeys(candidate for pool in pools for candidate in pool))
