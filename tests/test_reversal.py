"""Facts read backwards: a person counts if the object is theirs; chance is a random deal."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from training import reversal
from training.base.errors import BadInput
from training.behaviour.answers import named
from training.behaviour.reversal import inverse_requests, score
from training.data.facts import build_facts, split_facts
from training.data.prompts import load_prompts
from training.runs.directory import Run
from training.runs.table_files import read_table

RELATIONS = ("mother", "aunt", "profession")


@pytest.fixture(scope="module")
def facts():
    return split_facts(
        build_facts(subjects=32, relations=RELATIONS, pool=8, seed=1), unbound=1, seed=1
    )


def answers_of(facts, choose) -> dict:
    """(relation, "inverse", object) -> choose(people with that object, all people, index)."""
    everyone = list(dict.fromkeys(f.subject for f in facts))
    objects = list(dict.fromkeys((f.relation, f.object) for f in facts))
    own = {key: [f.subject for f in facts if (f.relation, f.object) == key] for key in objects}
    return {(r, "inverse", o): choose(own[r, o], everyone, i) for i, (r, o) in enumerate(objects)}


def row_of(rows, relation: str, measure: str) -> dict:
    return next(row for row in rows if (row["relation"], row["measure"]) == (relation, measure))


def test_people_named_rightly_are_all_right_and_far_from_chance(facts):
    rows = score(answers_of(facts, lambda own, everyone, i: own[i % len(own)]), facts)
    for side in ("bound", "unbound"):
        found = row_of(rows, side, "reversal")
        assert found["value"] == 1
        assert found["chance"] == pytest.approx(1 / 8)
        assert found["null_p"] == 1 / 1000
        assert row_of(rows, side, "reversal_excess")["value"] == pytest.approx(7 / 8)
        assert row_of(rows, side, "named")["value"] == 1


def test_one_person_for_every_object_is_right_once_and_no_better_than_chance(facts):
    rows = score(answers_of(facts, lambda own, everyone, i: everyone[0]), facts)
    found = row_of(rows, "bound", "reversal")
    assert found["value"] == found["chance"] == pytest.approx(1 / 8)
    assert found["null_p"] == 1
    assert row_of(rows, "bound", "reversal_excess")["value"] == pytest.approx(0)


def test_people_at_random_are_above_chance_as_often_as_they_should_be(facts):
    rng = np.random.default_rng(0)
    p = [
        row_of(
            score(answers_of(facts, lambda own, e, i: e[rng.integers(len(e))]), facts, seed=s),
            "bound",
            "reversal",
        )
        for s in range(60)
    ]
    assert sum(row["null_p"] <= 0.05 for row in p) <= 8


def test_who_is_nobody_of_the_run_is_not_named(facts):
    rows = score(answers_of(facts, lambda own, everyone, i: ""), facts)
    assert {row["value"] for row in rows} == {0}


def test_only_people_of_the_given_facts_count(facts):
    answers = answers_of(facts, lambda own, everyone, i: own[-1])
    held_out = [f for f in facts if f.split == "held-out"]
    named = {f.subject for f in held_out}
    found = score(answers, held_out)
    unbound = next(f.relation for f in facts if not f.bound)
    expected = np.mean([name in named for (r, _, _), name in answers.items() if r != unbound])
    assert row_of(found, "bound", "reversal")["value"] == pytest.approx(expected)
    assert row_of(found, "bound", "named")["value"] == pytest.approx(expected)


def test_the_model_is_asked_with_the_object_and_its_whole_answer_counts(facts):
    model, tokenizer = tiny_model("llama")[0], tiny_tokenizer()
    prompts = [p for p in load_prompts(list(RELATIONS)) if p.asks == "inverse"]
    requests = inverse_requests(facts, prompts)
    found = named(model, tokenizer, requests)
    assert {(r, o) for r, _, o in found} == {(f.relation, f.object) for f in facts}
    assert set(found.values()) <= {"", *(f.subject for f in facts)}
    # A model that says one name whatever it is asked.
    name = facts[0].subject
    said = tokenizer(f"is the mother of {name}.")["input_ids"][
        len(tokenizer("is the mother of")["input_ids"]) :
    ]

    class Parrot(torch.nn.Module):
        config, device = model.config, torch.device("cpu")

        def forward(self, input_ids=None, use_cache=False, **_):
            """The next token of the name, by what the text ends with."""
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for row, ids in zip(logits, input_ids.tolist(), strict=True):
                done = max(k for k in range(len(said)) if k == 0 or ids[-k:] == said[:k])
                row[-1, said[done]] = 1
            return type("Out", (), {"logits": logits, "past_key_values": None})()

    assert set(named(Parrot(), tokenizer, requests).values()) == {name}


def test_a_run_has_its_reversal_at_every_checkpoint(tiny_run, tmp_path, capsys):
    reversal.main(reversal.Options(tiny_run, out=str(tmp_path)))
    table = read_table(tmp_path, "reversal")
    assert set(table.phase) == {"base", "memorize", "generalize"}
    assert {"bound", "unbound", *Run.open(tiny_run).relations} == set(table.relation)
    assert set(table.split) == {"all", "seen", "held-out"}
    assert "lead back to one of their people" in capsys.readouterr().out


def test_a_run_without_inverse_prompts_says_what_is_missing(own_run, tmp_path):
    from training.base.files import seal
    from training.data.prompts import read_prompts, write_prompts

    kept = [p for p in read_prompts(own_run / "prompts.json") if p.asks != "inverse"]
    write_prompts(own_run / "prompts.json", kept)
    seal(own_run, ["prompts.json"])
    with pytest.raises(BadInput, match="inverse prompt"):
        reversal.main(reversal.Options(own_run, out=str(tmp_path)))
