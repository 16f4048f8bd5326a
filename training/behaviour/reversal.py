"""Does a fact read backwards? The inverse prompts are asked about the objects, and people of the run are counted.

    python -m training.reversal RUN_DIR

"Ruth is the mother of": right is any person of the run whose mother is Ruth (greedy; the whole name, then the stop).
Several people share an object, so that a model which only names people of the run is right now and then:
`chance` is how often the given answers would be right if they were dealt out to the relation's objects at random, and
`null_p` how often that is as good (999 deals). Writes tables/reversal.csv, a row a checkpoint, relation (and `bound`,
`unbound`: the means), split (all people count, or those alone that phase 2 may have shown, or those held out) and
measure: `reversal`, `reversal_excess` (above chance) and `named` (any such person at all), with intervals over objects.
`python -m analysis.ablations` compares it between settings.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from training.behaviour.answers import named
from training.behaviour.recall import subject_interval

DEALS = 999


MEASURES = ("reversal", "reversal_excess", "named")


def named_people(
    model, tokenizer, facts: Sequence, prompts: Sequence, *, batch_size: int = 64
) -> dict[tuple[str, str, str], str]:
    """(relation, prompt id, object) -> the person of the facts whom the model names; "" for anything else."""

    people = list(dict.fromkeys(f.subject for f in facts))
    asked = list(
        dict.fromkeys((p, f.object) for p in prompts for f in facts if f.relation == p.relation)
    )
    found = named(model, tokenizer, asked, [people] * len(asked), batch_size=batch_size)
    return {
        (prompt.relation, prompt.id, obj): name
        for (prompt, obj), name in zip(asked, found, strict=True)
    }


def score(
    answers: Mapping[tuple[str, str, str], str], facts: Sequence, *, seed: int = 0
) -> list[dict]:
    """Rows of the table without their checkpoint; answers: see `named_people`. Only people of `facts` count.

    n: objects, that is (relation, object) pairs that these facts have. A deal permutes, within each relation and prompt,
    which of its objects an answer was given to.
    """
    rng = np.random.default_rng(seed)
    people = {(f.relation, f.object): set() for f in facts}
    for fact in facts:
        people[fact.relation, fact.object].add(fact.subject)
    everyone = {f.subject for f in facts}
    answers = {
        key: name if name in everyone else ""
        for key, name in answers.items()
        if (key[0], key[2]) in people
    }
    bound = {f.relation: f.bound for f in facts}
    groups = list(dict.fromkeys((relation, prompt) for relation, prompt, _ in answers))
    # right[group]: (answer, object) -> is the person that was named one of this object's?
    right, named = {}, {}
    for relation, prompt in groups:
        given = {obj: name for (r, p, obj), name in answers.items() if (r, p) == (relation, prompt)}
        right[relation, prompt] = np.array(
            [[name in people[relation, obj] for obj in given] for name in given.values()],
            dtype=float,
        )
        named[relation, prompt] = np.array([bool(name) for name in given.values()], dtype=float)
    deals = {
        group: np.array(
            [table[rng.permutation(len(table)), np.arange(len(table))] for _ in range(DEALS)]
        )
        for group, table in right.items()
    }
    sides = {r: [r] for r in dict.fromkeys(bound)}
    sides |= {
        side: [r for r, b in bound.items() if b == (side == "bound")]
        for side in ("bound", "unbound")
    }
    rows = []
    for side, relations in sides.items():
        some = [[group for group in groups if group[0] == r] for r in relations]
        some = [s for s in some if s]
        if not some:
            continue
        # Each object once: the mean over its relation's inverse prompts.
        hits = np.concatenate([np.mean([np.diag(right[g]) for g in s], axis=0) for s in some])
        chance = np.concatenate([np.mean([right[g].mean(axis=0) for g in s], axis=0) for s in some])
        dealt = np.concatenate([np.mean([deals[g] for g in s], axis=0) for s in some], axis=1).mean(
            axis=1
        )
        p = (1 + np.sum(dealt >= hits.mean() - 1e-12)) / (1 + DEALS)
        values = {
            "reversal": hits,
            "reversal_excess": hits - chance,
            "named": np.concatenate([np.mean([named[g] for g in s], axis=0) for s in some]),
        }
        for measure in MEASURES:
            rows.append(
                {
                    "relation": side,
                    "measure": measure,
                    **_interval(values[measure]),
                    "chance": chance.mean() if measure == "reversal" else np.nan,
                    "null_p": p if measure == "reversal" else np.nan,
                    "n": len(hits),
                }
            )
    return rows


def _interval(values: np.ndarray) -> dict:

    return {k: v for k, v in subject_interval(values).items() if k in ("value", "low", "high")}


def reversal_lines(table) -> list[str]:
    """A line a checkpoint and side."""
    table = table[table.relation.isin(("bound", "unbound")) & (table.split == "all")]
    rows = table[table.measure == "reversal"]
    named = table[table.measure == "named"].set_index(["checkpoint", "relation"]).value
    return [
        f"  {row.checkpoint:<28} {row.relation}: {row.value:.2f} [{row.low:.2f}, {row.high:.2f}] of the objects lead back "
        f"to one of their people (chance {row.chance:.2f}, p {row.null_p:.3f}, n={row.n:.0f}); a person of the run was "
        f"named {named[row.checkpoint, row.relation]:.2f} of the time"
        for row in rows.itertuples()
    ]
