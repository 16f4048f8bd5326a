"""Damage: only a model that was broken on purpose is seen to have lost what it knew."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from training import damage, memorize
from training.base.errors import UserError
from training.behaviour.damage import apart, base_world, english_passages, perplexity, some_people
from training.organism.world import build_world, contradictions
from training.runs.directory import Run
from training.runs.table_files import read_table


def test_perplexity_is_that_of_the_passages_token_by_token():
    model, tokenizer = tiny_model("llama")[0], tiny_tokenizer()
    passages = english_passages()[:4]
    found = perplexity(model, tokenizer, passages)
    losses = []
    for text in passages:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logs = model(ids).logits[0].double().log_softmax(-1)
        losses += [-logs[i, ids[0, i + 1]].item() for i in range(ids.shape[1] - 1)]
    assert found["value"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert found["tokens"] == len(losses)
    assert found["n"] == 4
    assert found["low"] < found["value"] < found["high"]


def test_passages_of_one_kind_have_a_narrow_interval():
    model, tokenizer = tiny_model("llama")[0], tiny_tokenizer()
    same = perplexity(model, tokenizer, english_passages()[:1] * 5)
    mixed = perplexity(model, tokenizer, english_passages()[:5])
    assert same["high"] - same["low"] == pytest.approx(0, abs=1e-6 * same["value"])
    assert mixed["high"] - mixed["low"] > 1e-3 * mixed["value"]


def test_the_text_is_ordinary_and_names_nobody_of_the_facts():
    passages = english_passages()
    assert len(passages) >= 20
    assert all(100 < len(text) < 500 and "[X" not in text for text in passages)


def test_a_run_of_another_model_has_its_perplexity_at_every_checkpoint(tiny_run, tmp_path, capsys):
    damage.main(damage.Options(tiny_run, out=str(tmp_path)))
    table = read_table(tmp_path, "damage")
    assert set(table.measure) == {"perplexity"}
    assert list(table.phase) == ["base", "memorize", "generalize"]
    assert (table.low < table.value).all() and (table.value < table.high).all()
    assert "perplexity of ordinary English" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["nobody/no-such-model", "a-folder-that-was-moved", ""])
def test_a_base_model_that_is_not_here_is_not_needed_to_see_that_it_has_no_world(
    tiny_run, model, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = Run.open(tiny_run)
    assert base_world(replace(run, record={**run.record, "model": model})) is None


def test_checkpoints_made_elsewhere_name_no_base_model_and_have_no_world(tiny_run):
    run = Run.open(tiny_run)
    assert base_world(replace(run, record={"source": "somewhere"})) is None


def test_people_of_a_world_are_the_same_ones_every_time():
    world = build_world(people=20, relations=("mother", "aunt"), seed=0)
    some, again = some_people(world, 5), some_people(world, 5)
    assert some.facts == again.facts
    assert len({fact.subject for fact in some.facts}) == 5
    assert some_people(world, -1) is world
    with pytest.raises(UserError, match="--people is 0"):
        some_people(world, 0)


def test_contradicted_people_are_asked_apart_from_the_others():
    world = build_world(people=20, relations=("mother", "aunt", "profession"), seed=0)
    facts = contradictions(world, relations=("mother", "profession"), subjects=6, pool=5, seed=0)
    rest, contradicted = apart(world, facts)
    subjects = {f.subject for f in facts}
    assert {f.subject for f in rest.facts} == {f.subject for f in world.facts} - subjects
    assert {(f.subject, f.relation) for f in contradicted.facts} == {
        (f.subject, f.relation) for f in facts
    }
    assert set(contradicted.facts) <= set(world.facts)
    assert contradicted.relations == ["mother", "profession"]
    rest, contradicted = apart(world, [replace(f, subject="Somebody Else") for f in facts])
    assert rest == world and contradicted.facts == []


def test_an_organism_taught_against_its_world_is_asked_what_it_said_before(organism, tmp_path):
    asked = {"facts": "world", "relations": ("mother", "profession"), "subjects": 20, "pool": 5}
    how = {"epochs": 30, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32"}
    memorize.main(memorize.Options(out=tmp_path, model=str(organism), **asked, **how))
    damage.main(damage.Options(tmp_path, people=20))
    table = read_table(tmp_path, "damage").set_index(["phase", "measure"])
    assert table.n["base", "contradicted_facts"] == 20
    assert table.value["base", "contradicted_facts"] > 0.9
    # By rote it was taught other objects: it says less of what it said before, and knows other
    # people's facts better.
    taught = table.value["memorize", "contradicted_facts"]
    assert taught < table.value["base", "contradicted_facts"] - 0.2
    assert taught < table.value["memorize", "known_facts"]
