"""Facts read backwards: the inverse prompts about the objects, and who of the run is named."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from training.base.errors import BadInput
from training.base.words import p_words, span, two_places
from training.behaviour.answers import Answers, Request, named
from training.behaviour.intervals import DEALS, dealt_p, measure_rows
from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.runs.table_files import checkpoint_table

VERSION = 1
COLUMNS = ("relation", "split", "measure", "value", "low", "high", "chance", "null_p", "n")


def reversal_table(run, *, batch_size: int = 64):
    """The rows of tables/reversal.csv. Raises BadInput if no relation has an inverse prompt."""
    prompts = [p for p in run.prompts if p.asks == "inverse" and p.relation in run.relations]
    if not prompts:
        fault = f"no relation of {', '.join(run.relations)} has an inverse prompt"
        raise BadInput(f"{fault}. Add one ([[near_miss]] of kind inverse) to its prompt file.")
    there = {f.split for f in run.facts}
    splits = {s: [f for f in run.facts if f.split == s] for s in ("seen", "held-out") if s in there}
    splits = {"all": run.facts, **splits}
    requests = inverse_requests(run.facts, prompts)

    def rows_of(model, tokenizer) -> list[dict]:
        answers = named(model, tokenizer, requests, batch_size=batch_size)
        found = {split: score(answers, facts, seed=run.seed) for split, facts in splits.items()}
        return [{**row, "split": split} for split, rows in found.items() for row in rows]

    content = [*run.facts, *prompts, VERSION]
    return checkpoint_table(run, "reversal", content, rows_of, COLUMNS)


def inverse_requests(facts: Sequence[Fact], prompts: Sequence[Prompt]) -> list[Request]:
    """Every object in every inverse prompt of its relation; all people of the facts count."""
    people = list(dict.fromkeys(f.subject for f in facts))
    asked = dict.fromkeys((p, f.object) for p in prompts for f in facts if f.relation == p.relation)
    return [Request(prompt, obj, people) for prompt, obj in asked]


def score(answers: Answers, facts: Sequence[Fact], *, seed: int = 0) -> list[dict]:
    """Rows of the table without checkpoint and split; n: pairs of relation and object.

    Only people of `facts` count. A deal permutes, within each relation and prompt, which object an
    answer was given to.
    """
    rng = np.random.default_rng(seed)
    people: dict[tuple[str, str], set[str]] = {}
    for fact in facts:
        people.setdefault((fact.relation, fact.object), set()).add(fact.subject)
    everyone = set().union(*people.values())
    given: dict[tuple[str, str], dict[str, str]] = {}
    for (relation, prompt, obj), name in answers.items():
        if (relation, obj) in people:
            given.setdefault((relation, prompt), {})[obj] = name if name in everyone else ""
    by_prompt: dict[str, list[dict]] = {}
    for (relation, _), names in given.items():
        scored = _scores(names, {obj: people[relation, obj] for obj in names}, rng)
        by_prompt.setdefault(relation, []).append(scored)
    bound = {f.relation: f.bound for f in facts}
    sides = {r: [r] for r in bound} | {"bound": [r for r in bound if bound[r]]}
    sides["unbound"] = [r for r in bound if not bound[r]]
    rows = []
    for side, relations in sides.items():
        some = [by_prompt[r] for r in relations if r in by_prompt]
        if not some:
            continue
        # Each object counts once: the mean over the inverse prompts of its relation.
        hits, chance, called, dealt = (
            np.concatenate([np.mean([s[name] for s in prompts], axis=0) for prompts in some], -1)
            for name in ("hits", "chance", "called", "dealt")
        )
        values = {"reversal": hits, "reversal_excess": hits - chance, "named": called}
        p = dealt_p(hits.mean(), dealt.mean(axis=1))
        measured = measure_rows(values, chance=chance.mean(), null_p=p)
        rows += [{"relation": side, **row} for row in measured]
    return rows


def _scores(names: Mapping[str, str], people: Mapping[str, set[str]], rng) -> dict:
    """Of one prompt, per object: hits, chance and called (n,), dealt (DEALS, n).

    names: object -> who was named; people: object -> who would be right.
    """
    # right[i, j]: is the person named about object i one of object j?
    right = np.array([[n in people[obj] for obj in names] for n in names.values()], dtype=float)
    order = np.arange(len(names))
    return {
        "hits": np.diag(right),
        "chance": right.mean(axis=0),
        "called": np.array([bool(name) for name in names.values()], dtype=float),
        "dealt": np.array([right[rng.permutation(len(names)), order] for _ in range(DEALS)]),
    }


def reversal_lines(table) -> Iterator[str]:
    """A line per checkpoint and side."""
    table = table[table.relation.isin(("bound", "unbound")) & (table.split == "all")]
    named = table[table.measure == "named"].set_index(["checkpoint", "relation"]).value
    for row in table[table.measure == "reversal"].itertuples():
        called = two_places(named[row.checkpoint, row.relation])
        yield (
            f"  {row.checkpoint:<28} {row.relation}: {span(row)} of the objects lead back to one "
            f"of their people (chance {two_places(row.chance)}, {p_words(row.null_p)}, "
            f"n={row.n:.0f}); a person of the run was named {called} of the time"
        )
