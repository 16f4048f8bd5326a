"""Two facts in one question: what is true of a person's mother, asked about that person."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.base.errors import BadInput
from training.base.words import p_words, span, two_places
from training.behaviour.answers import Answers, Request, named
from training.behaviour.intervals import DEALS, dealt_p, measure_rows
from training.data.fact_files import Fact
from training.data.prompts import Preset, Prompt, preset_prompts, select
from training.runs.table_files import checkpoint_table, headline_split

COLUMNS = ("relation", "object_relation", "split", "measure", "value", "low", "high", "chance")
COLUMNS += ("null_p", "n")
MEASURES = ("two_hop", "two_hop_excess", "own", "first_hop", "second_hop", "product")
PER_PERSON = ("two_hop", "chance", "own", "first_hop", "second_hop", "product")


@dataclass(frozen=True)
class Hops:
    """Two relations in a row, by person asked about: the bridge, and what the second one says.

    objects: of the bridges, the right answers. own: of the subjects themselves, "" for none.
    """

    first: str
    second: str
    subjects: tuple[str, ...]
    bridges: tuple[str, ...]
    objects: tuple[str, ...]
    own: tuple[str, ...]

    def phrase(self, subject: str) -> str:
        """How the bridge is called without her name: `Ann Lee's mother`."""
        return f"{subject}'s {self.first.replace('_', ' ')}"


def two_hop_table(run, *, preset: Preset = "demo", batch_size: int = 64):
    """The rows of tables/two_hop.csv. Raises BadInput if no object has a fact of its own."""
    prompts = preset_prompts(run.prompts, preset, families=("test",))
    splits = dict.fromkeys(f.split for f in run.facts)
    chains = {split: chains_of(run.facts, split) for split in splits}
    requests = hop_requests(sum(chains.values(), ()), prompts, run.facts)
    if not requests:
        remedy = "Memorise such facts: --facts kin --relations mother home_city profession"
        raise BadInput(f"no object of {run.path} is a person with a fact of its own. {remedy}")

    def rows_of(model, tokenizer) -> list[dict]:
        answers = named(model, tokenizer, requests, batch_size=batch_size)
        found = {s: score(answers, some, run.facts, seed=run.seed) for s, some in chains.items()}
        return [{**row, "split": split} for split, rows in found.items() for row in rows]

    return checkpoint_table(run, "two_hop", [*run.facts, *prompts], rows_of, COLUMNS)


def chains_of(facts: Sequence[Fact], split: str = "") -> tuple[Hops, ...]:
    """Pairs of relations that two hops lead through; split: of the people asked, "" for all."""
    objects = {(f.relation, f.subject): f.object for f in facts}
    relations = list(dict.fromkeys(f.relation for f in facts))
    found = []
    for first, second in ((a, b) for a in relations for b in relations if a != b):
        hops = [
            (f.subject, f.object, objects[second, f.object], objects.get((second, f.subject), ""))
            for f in facts
            if f.relation == first and split in ("", f.split) and (second, f.object) in objects
        ]
        if hops:
            found.append(Hops(first, second, *zip(*hops, strict=True)))
    return tuple(found)


def hop_requests(chains: Sequence[Hops], prompts, facts: Sequence[Fact]) -> list[Request]:
    """Both hops at once, about a phrase such as `Ann Lee's mother`, and each hop, about a name."""
    objects: dict[str, dict[str, None]] = {}
    for fact in facts:
        objects.setdefault(fact.relation, {}).update(dict.fromkeys((*fact.candidates, fact.object)))
    asked: dict[tuple[Prompt, str], None] = {}
    for chain in chains:
        phrases = [chain.phrase(subject) for subject in chain.subjects]
        for prompt in select(prompts, relation=chain.second):
            asked |= dict.fromkeys((prompt, who) for who in (*phrases, *chain.bridges))
        for prompt in select(prompts, relation=chain.first):
            asked |= dict.fromkeys((prompt, who) for who in chain.subjects)
    return [Request(prompt, who, list(objects[prompt.relation])) for prompt, who in asked]


def score(answers: Answers, chains: Sequence[Hops], facts, *, seed: int = 0) -> list[dict]:
    """Rows of the table without checkpoint and split; n: bridges.

    relation: the first one, or bound (both are) or unbound; object_relation: the second, or "".
    """
    bound = {f.relation: f.bound for f in facts}
    sides = {(c.first, c.second): [c] for c in chains}
    sides["bound", ""] = [c for c in chains if bound[c.first] and bound[c.second]]
    sides["unbound", ""] = [c for c in chains if not (bound[c.first] and bound[c.second])]
    given: dict[tuple[str, str], list[str]] = {}
    for (relation, _, who), answer in answers.items():
        given.setdefault((relation, who), []).append(answer)
    # All second relations have the same bridges, and get the same deals.
    scored = {chain: _chain_scores(given, chain, np.random.default_rng(seed)) for chain in chains}
    rows = []
    for (relation, second), some in sides.items():
        if not some:
            continue
        bridges = np.array([b for c in some for b in c.bridges])
        over = {name: np.concatenate([scored[c][name] for c in some]) for name in PER_PERSON}
        over["two_hop_excess"] = over["two_hop"] - over["chance"]
        observed = np.mean([scored[c]["two_hop"].mean() for c in some])
        p = dealt_p(observed, np.mean([scored[c]["dealt"] for c in some], axis=0))
        # One value per bridge: the mean over her people.
        of_bridge = [bridges == name for name in np.unique(bridges)]
        values = {m: np.array([over[m][own].mean() for own in of_bridge]) for m in MEASURES}
        measured = measure_rows(values, chance=over["chance"].mean(), null_p=p)
        rows += [{"relation": relation, "object_relation": second, **row} for row in measured]
    return rows


def _chain_scores(given: Mapping, chain: Hops, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Per person asked about, and dealt (DEALS,), the null; given: (relation, who) -> answers."""

    def shares(relation: str, who: Sequence[str], objects: Sequence[str]) -> np.ndarray:
        pairs = zip((given[relation, name] for name in who), objects, strict=True)
        return np.array([np.mean([answer == obj for answer in some]) for some, obj in pairs])

    object_of = dict(zip(chain.bridges, chain.objects, strict=True))
    bridges, n = sorted(object_of), len(chain.subjects)
    phrases = [chain.phrase(subject) for subject in chain.subjects]
    # true_of[i, b]: the share of the answers about person i that are true of bridge b.
    true_of = np.stack([shares(chain.second, phrases, [object_of[b]] * n) for b in bridges], axis=1)
    place = np.array([bridges.index(b) for b in chain.bridges])
    people = np.arange(len(place))
    hits = true_of[people, place]
    first = shares(chain.first, chain.subjects, chain.bridges)
    second = shares(chain.second, chain.bridges, chain.objects)
    dealt = [true_of[people, rng.permutation(len(bridges))[place]].mean() for _ in range(DEALS)]
    return {
        "two_hop": hits,
        "chance": (true_of.sum(axis=1) - hits) / max(1, len(bridges) - 1),
        "own": shares(chain.second, phrases, chain.own) * np.array([bool(o) for o in chain.own]),
        "first_hop": first,
        "second_hop": second,
        "product": first * second,
        "dealt": np.array(dealt),
    }


def two_hop_lines(table) -> Iterator[str]:
    """A line per checkpoint and side, of held-out people where there are any."""
    sides = table.relation.isin(("bound", "unbound"))
    table = table[sides & (table.split == headline_split(table))]
    for (checkpoint, side), some in table.groupby(["checkpoint", "relation"], sort=False):
        rows = {row.measure: row for row in some.itertuples()}
        row = rows["two_hop"]
        own, first, second, product = (two_places(rows[name].value) for name in MEASURES[2:])
        yield (
            f"  {checkpoint:<28} {side}: two hops {span(row)} (chance {two_places(row.chance)}, "
            f"{p_words(row.null_p)}, n={row.n:.0f}), own object {own}; singly {first} and "
            f"{second}, together {product}"
        )
