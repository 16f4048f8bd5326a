"""Interchange: outcome labels on a model whose route is known, the arithmetic, and the command on a tiny run."""

import numpy as np
import pytest
from planted import LOOKUP, RELATIONS, SUBJECTS, planted_model, planted_objects, planted_prompts

from analysis.interchange_trials import (
    Trial,
    choose_pairs,
    crossed_objects,
    interchange,
    unchanged,
    union,
)
from probing.sites import site_names

OBJECTS = planted_objects()
POOLS = {r: tuple(sorted({o for (_, q), o in OBJECTS.items() if q == r})) for r in RELATIONS}
PAIRS = choose_pairs(OBJECTS, SUBJECTS, RELATIONS, RELATIONS, 12)


def planted_trials(direction: str) -> list[Trial]:
    source, target = direction.split("->")
    return [
        Trial(
            "bound",
            pair.group,
            planted_prompts(target, pair.target_relation),
            pair.target_subject,
            crossed_objects(pair, OBJECTS),
            union(POOLS[pair.target_relation], POOLS[pair.source_relation]),
            (planted_prompts(source, pair.source_relation), pair.source_subject),
        )
        for pair in PAIRS
    ]


def outcomes(model, tokenizer, direction: str) -> dict[str, np.ndarray]:
    """Position -> what was freely answered, (n_pairs, n_sites); "none": with the target unchanged.

    An answer that only the restriction to candidates brought out is "unknown".
    """
    trials = planted_trials(direction)
    found = {p: (labels, free) for p, labels, free in interchange(model, tokenizer, trials, site_names(model))}
    found["none"] = unchanged(model, tokenizer, trials)
    return {position: np.where(free, labels, "unknown") for position, (labels, free) in found.items()}


def all_are(labels: np.ndarray, *expected: str) -> None:
    """Every pair has the expected outcome, site by site."""
    assert [sorted(set(column)) for column in labels.T] == [[outcome] for outcome in expected]


# The planted model reads the relation at the last token in its first layer, the subject in its third (LOOKUP),
# where it looks the answer up. Sites: embed, four layers, final norm.


def test_a_shared_route_moves_the_relation_before_the_answer_is_looked_up_and_the_answer_after():
    model, tokenizer = planted_model(shared=True)
    for direction in ("rote->semantic", "semantic->rote", "semantic->semantic"):
        labels = outcomes(model, tokenizer, direction)
        all_are(labels["none"], "nothing")
        # At the embedding the last token of a question is a question mark, that of a rote prompt the key token.
        first = {"rote->semantic": "relation", "semantic->rote": "unknown", "semantic->semantic": "nothing"}[direction]
        all_are(labels["last"], first, *["relation"] * LOOKUP, *["answer"] * (5 - LOOKUP))
        all_are(labels["subject_last"], *["subject"] * (LOOKUP + 1), *["nothing"] * (5 - LOOKUP))


def test_the_word_of_the_relation_carries_it_until_the_last_token_has_read_it():
    labels = outcomes(*planted_model(shared=True), "semantic->semantic")
    all_are(labels["relation_last"], "relation", *["nothing"] * 5)


def test_two_codes_of_one_answer_move_no_relation_from_semantic_to_rote():
    """Questions are answered by a code of their own: equal recall, no shared route. The way back shows nothing of it."""
    model, tokenizer = planted_model(shared=False)
    labels = outcomes(model, tokenizer, "semantic->rote")
    all_are(labels["none"], "nothing")
    all_are(labels["last"], *["unknown"] * (LOOKUP + 1), *["answer"] * (5 - LOOKUP))
    all_are(outcomes(model, tokenizer, "semantic->semantic")["none"], "nothing")
    assert set(outcomes(model, tokenizer, "rote->semantic")["last"][:, 1]) == {"relation"}


# --- on a run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tiny_run, tmp_path_factory):
    """The tiny run's plan of 6 pairs; results go elsewhere."""
    from analysis.interchange import Plan
    from analysis.run_states import RunStates
    from training.checkpoints import open_run

    run = open_run(tiny_run, out=tmp_path_factory.mktemp("interchange"))
    return Plan(RunStates.of(run, families=("test",)), pairs=6)


@pytest.fixture(scope="module")
def tables(plan):
    from analysis.interchange import table_for

    return table_for(plan, permutations=99)


def test_x(tables):
    from analysis.interchange_words import verdict_lines

    table, items = tables
    print(table.describe(include="all").T.to_string())
    print("\n".join(verdict_lines(table)))
    print(table.groupby(["measure", "direction", "vector", "position"], dropna=False).size().to_string())
    table.to_csv("/tmp/ic/interchange.csv", index=False)
    items.to_csv("/tmp/ic/items.csv", index=False)
