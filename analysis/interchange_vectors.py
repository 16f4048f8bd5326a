"""Relation vectors: does the subject-averaged key-token state of a relation ask for it, on subjects it never saw?

Averaged over subjects that are not scored, the state at the key token of r minus that at the key token of q is
added to the last token of a prompt about (s, q), and minus that of bare names to a bare name, "Gene Finley"
(Todd et al. 2024, arXiv:2310.15213; difference of means as in Rimsky et al. 2024, arXiv:2312.06681). Beside it: the
same with a third relation w in place of r, and a random direction of the same length.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.inputs import NotIdentifiable
from analysis.interchange_rows import VECTORS
from analysis.interchange_trials import Trial, changed_answers, positions_of, union
from training.prompts import Prompt

Array = np.ndarray
BARE = "bare"


@dataclass(frozen=True)
class Steering:
    """A subject who is asked q, moved to r; w is the wrong relation. All three objects differ."""

    group: int
    subject: str
    asked: str
    relation: str
    wrong: str


def choose_steering(
    objects: Mapping[tuple[str, str], str], subjects: Sequence[str], relations: Sequence[str], count: int, seed: int = 0
) -> list[Steering]:
    """Up to `count` subjects, each with three relations of distinct objects; subjects come again only where
    `count` is more than there are. Empty where no subject has three such relations."""
    rng = np.random.default_rng([seed, 1])
    shuffled = [subjects[i] for i in rng.permutation(len(subjects))]
    ways = [(q, r, w) for q in relations for r in relations for w in relations if len({q, r, w}) == 3]
    ways = [ways[i] for i in rng.permutation(len(ways))]
    used = dict.fromkeys(ways, 0)
    chosen: list[Steering] = []
    for _ in range(-(-count // max(1, len(shuffled)))):
        for group, subject in enumerate(shuffled):
            there = [
                way
                for way in ways
                if Steering(group, subject, *way) not in chosen
                and len({objects.get((subject, relation)) for relation in way} - {None}) == 3
            ]
            if there and len(chosen) < count:
                way = min(there, key=used.__getitem__)
                used[way] += 1
                chosen.append(Steering(group, subject, *way))
    return chosen


def steering_trial(
    steering: Steering,
    prompt: Prompt,
    objects: Mapping[tuple[str, str], str],
    pools: Mapping[tuple[str, str], Sequence[str]],
) -> Trial:
    """The trial of a steering at a prompt. Its candidates are those of all three relations."""
    relations = {"nothing": steering.asked, "relation": steering.relation, "wrong": steering.wrong}
    return Trial(
        "bound",
        steering.group,
        prompt,
        steering.subject,
        {label: objects[steering.subject, relation] for label, relation in relations.items()},
        union(*(pools[steering.subject, relation] for relation in relations.values())),
    )


def bare_prompt(relation: str) -> Prompt:
    """The subject's name alone."""
    return Prompt(relation, BARE, 0, "{subject}", "")


def vectors_for(
    steerings: Sequence[Steering], keys: Mapping[str, Array], base: Array | None, kind: str, seed: int = 0
) -> Array:
    """(n, S, d): the vector of each steering at each site.

    keys: relation -> subject-averaged key-token state (S, d); base: what is taken off, (S, d), or None for the
    asked relation's key. kind: own, wrong, or random: a Gaussian direction, another one for each steering and
    site, as long as the own vector.
    """
    if kind not in VECTORS:
        raise NotIdentifiable(f"kind={kind!r} is no vector; give one of {', '.join(VECTORS)}")
    of = {"wrong": lambda s: s.wrong}.get(kind, lambda s: s.relation)
    vectors = np.stack([keys[of(s)] - (keys[s.asked] if base is None else base) for s in steerings])
    if kind != "random":
        return vectors
    drawn = np.random.default_rng([seed, 2]).normal(size=vectors.shape)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return drawn * lengths / np.linalg.norm(drawn, axis=-1, keepdims=True)


def steer(
    model: Any,
    tokenizer: Any,
    trials: Sequence[Trial],
    vectors: Mapping[str, Array],
    sites: Sequence[str],
    *,
    batch_size: int = 64,
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (kind of vector, labels, free), each (n_trials, n_sites): each kind added at the last token, one site
    at a time."""
    import torch

    positions = positions_of(tokenizer, [(t.prompt, t.subject) for t in trials], "last")
    for kind, values in vectors.items():
        added = torch.as_tensor(values, dtype=torch.float32)
        yield (
            kind,
            *changed_answers(model, tokenizer, trials, positions, added, sites, add=True, batch_size=batch_size),
        )
