"""Are two facts put together in one question? What is true of a person's mother is asked about that person.

    python -m training.memorize --facts kin --relations mother home_city profession --out runs/kin
    python -m training.generalize runs/kin
    python -m training.two_hop runs/kin

Where an object of one relation (the mother, one of the run's people) has a fact of its own in another one (her home
city), the second relation's test prompts are asked about "{subject}'s mother": one greedy answer, nothing written
between. Counted are answers with her object (`two_hop`), with the person's OWN object of the second relation (`own`: the
mother in the question was passed over), and both hops asked singly: `first_hop`, `second_hop`, and `product`, what two
hops would come to if each were answered as it is alone. Chance is how often the given answers are true of the OTHER
mothers, and `null_p` how often dealing the mothers out anew does as well (999 deals). Intervals are over mothers, each
with all her people; that of `two_hop_excess` is too narrow where whole families are confused, `null_p` is not. Writes
tables/two_hop.csv; `python -m analysis.ablations` compares it between settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.behaviour.answers import named
from training.behaviour.recall import subject_interval
from training.data.prompts import select
from training.runs.table_files import headline_split

DEALS = 999


FAMILY = "test"


@dataclass(frozen=True)
class Hops:
    """Two relations in a row: who is asked about, through whom, and what is true of either in the second relation."""

    first: str
    second: str
    subjects: tuple[str, ...]
    bridges: tuple[str, ...]
    objects: tuple[str, ...]
    """Of the bridges: the right answers."""
    own: tuple[str, ...]
    """Of the subjects themselves; "" where there is none."""

    def phrase(self, subject: str) -> str:
        """How the bridge is named without her name: `Ann Lee's mother`."""
        return f"{subject}'s {self.first.replace('_', ' ')}"


def chains_of(facts: Sequence, split: str = "") -> tuple[Hops, ...]:
    """Every pair of relations that two hops lead through; split: of the people asked about, "" for all."""
    objects = {(f.relation, f.subject): f.object for f in facts}
    relations = list(dict.fromkeys(f.relation for f in facts))
    found = []
    for first in relations:
        for second in (r for r in relations if r != first):
            hops = [
                (
                    f.subject,
                    f.object,
                    objects[second, f.object],
                    objects.get((second, f.subject), ""),
                )
                for f in facts
                if f.relation == first and split in ("", f.split) and (second, f.object) in objects
            ]
            if hops:
                found.append(Hops(first, second, *zip(*hops, strict=True)))
    return tuple(found)


def ask(
    model,
    tokenizer,
    chains: Sequence[Hops],
    prompts: Sequence,
    facts: Sequence,
    *,
    batch_size: int = 64,
) -> dict[tuple[str, str, str], str]:
    """(relation, prompt id, who) -> the object of the relation that is answered, "" for anything else.

    who: a phrase such as `Ann Lee's mother`, or a name for the single hops.
    """

    asked: dict[tuple, None] = {}
    for chain in chains:
        for prompt in select(prompts, relation=chain.second):
            asked |= dict.fromkeys((prompt, chain.phrase(subject)) for subject in chain.subjects)
            asked |= dict.fromkeys((prompt, bridge) for bridge in chain.bridges)
        for prompt in select(prompts, relation=chain.first):
            asked |= dict.fromkeys((prompt, subject) for subject in chain.subjects)
    objects: dict[str, dict[str, None]] = {}
    for fact in facts:
        objects.setdefault(fact.relation, {}).update(dict.fromkeys((*fact.candidates, fact.object)))
    requests = list(asked)
    found = named(
        model,
        tokenizer,
        requests,
        [list(objects[p.relation]) for p, _ in requests],
        batch_size=batch_size,
    )
    return {
        (prompt.relation, prompt.id, who): obj
        for (prompt, who), obj in zip(requests, found, strict=True)
    }


def score(
    answers: Mapping[tuple[str, str, str], str],
    chains: Sequence[Hops],
    facts: Sequence,
    *,
    seed: int = 0,
    split: str = "",
) -> list[dict]:
    """Rows of the table without their checkpoint; answers: see `ask`. n: bridges.

    relation: the first one, or bound (both relations are), unbound (one is not); object_relation: the second, or "".
    """
    bound = {f.relation: f.bound for f in facts}
    sides = {"bound": [c for c in chains if bound[c.first] and bound[c.second]]}
    sides["unbound"] = [c for c in chains if c not in sides["bound"]]
    sides = {(side, ""): some for side, some in sides.items() if some}
    sides = {(c.first, c.second): [c] for c in chains} | sides
    # The same deals for all second relations, which have the same bridges.
    scored = {chain: _chain_scores(answers, chain, np.random.default_rng(seed)) for chain in chains}
    rows = []
    for (relation, second), some in sides.items():
        bridges = np.array([b for c in some for b in c.bridges])
        dealt = np.mean([scored[c]["dealt"] for c in some], axis=0)
        hits = np.concatenate([scored[c]["two_hop"] for c in some])
        chance = np.concatenate([scored[c]["chance"] for c in some])
        p = (1 + np.sum(dealt >= np.mean([scored[c]["two_hop"].mean() for c in some]) - 1e-12)) / (
            1 + DEALS
        )
        values = {name: np.concatenate([scored[c][name] for c in some]) for name in MEASURES[2:]}
        values = {"two_hop": hits, "two_hop_excess": hits - chance, **values}
        for measure in MEASURES:
            rows.append(
                {
                    "relation": relation,
                    "object_relation": second,
                    "split": split,
                    "measure": measure,
                    **_over_bridges(values[measure], bridges),
                    "chance": chance.mean() if measure == "two_hop" else np.nan,
                    "null_p": p if measure == "two_hop" else np.nan,
                }
            )
    return rows


MEASURES = ("two_hop", "two_hop_excess", "own", "first_hop", "second_hop", "product")


def _chain_scores(answers: Mapping, chain: Hops, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One value a person asked about (means over prompts): MEASURES, chance; and dealt (DEALS,), means of the null."""
    prompts = {
        relation: list(dict.fromkeys(p for r, p, _ in answers if r == relation))
        for relation in (chain.first, chain.second)
    }
    given = [
        [answers[chain.second, p, chain.phrase(s)] for p in prompts[chain.second]]
        for s in chain.subjects
    ]
    object_of = dict(zip(chain.bridges, chain.objects, strict=True))
    bridges = sorted(object_of)
    # share[i, b]: of the answers about person i those that are true of bridge b.
    share = np.array(
        [[np.mean([a == object_of[b] for a in some]) for b in bridges] for some in given]
    )
    place = np.array([bridges.index(b) for b in chain.bridges])
    people = np.arange(len(place))
    first = _hits(answers, chain.first, prompts[chain.first], chain.subjects, chain.bridges)
    second = _hits(answers, chain.second, prompts[chain.second], chain.bridges, chain.objects)
    hits = share[people, place]
    others = (share.sum(axis=1) - hits) / max(1, len(bridges) - 1)
    return {
        "two_hop": hits,
        "chance": others,
        "own": np.array(
            [
                np.mean([a == own != "" for a in some])
                for some, own in zip(given, chain.own, strict=True)
            ]
        ),
        "first_hop": first,
        "second_hop": second,
        "product": first * second,
        "dealt": np.array(
            [share[people, rng.permutation(len(bridges))[place]].mean() for _ in range(DEALS)]
        ),
    }


def _hits(
    answers: Mapping,
    relation: str,
    prompts: Sequence[str],
    who: Sequence[str],
    objects: Sequence[str],
) -> np.ndarray:
    """(n,) share of the relation's prompts about each one that are answered with its object."""
    return np.array(
        [
            np.mean([answers[relation, p, w] == obj for p in prompts])
            for w, obj in zip(who, objects, strict=True)
        ]
    )


def _over_bridges(values: np.ndarray, bridges: np.ndarray) -> dict:
    """Mean over bridges, each the mean over her people, with its t interval."""

    found = subject_interval([values[bridges == name].mean() for name in np.unique(bridges)])
    return {k: found[k] for k in ("value", "low", "high", "n")}


def two_hop_lines(table) -> list[str]:
    """A line a checkpoint and side, of held-out people where there are any."""

    table = table[
        table.relation.isin(("bound", "unbound")) & (table.split == headline_split(table))
    ]
    lines = []
    for (checkpoint, side), some in table.groupby(["checkpoint", "relation"], sort=False):
        value = some.set_index("measure")
        row = value.loc["two_hop"]
        lines.append(
            f"  {checkpoint:<28} {side}: two hops {row.value:.2f} [{row.low:.2f}, {row.high:.2f}] (chance {row.chance:.2f}, "
            f"p {row.null_p:.3f}, n={row.n:.0f}), own object {value.value['own']:.2f}; singly {value.value['first_hop']:.2f} "
            f"and {value.value['second_hop']:.2f}, together {value.value['product']:.2f}"
        )
    return lines
