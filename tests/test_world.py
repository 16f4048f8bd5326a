"""The synthetic world: nobody in it is in the built-in facts, and what it says is true."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.base.errors import BadInput, UserError
from training.data.facts import DATA, PEOPLE, build_facts
from training.data.prompts import load_prompts
from training.data.sequences import prompt_ids
from training.organism.recipe import (
    PRESETS,
    Recipe,
    is_organism,
    new_tokenizer,
    organism_folder,
    parse,
    recorded,
    world_of,
)
from training.organism.world import (
    Sentence,
    build_world,
    contradictions,
    sentences,
    tokenise,
    vocabulary_text,
)


def words_of(data) -> set[str]:
    """Every word of every string in a TOML, case-folded."""
    if isinstance(data, dict):
        return set().union(*(words_of(value) for value in data.values()))
    if isinstance(data, list):
        return set().union(*map(words_of, data))
    return set(re.findall(r"\w+", data.casefold()))


def data_file(name: str) -> dict:
    return tomllib.loads((Path(DATA) / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def world():
    return build_world(people=60, seed=3)


@pytest.fixture(scope="module")
def tokenizer(world):
    return new_tokenizer(vocabulary_text(world), Recipe().vocabulary)


# --- what is true ---------------------------------------------------------------------------------


def test_nobody_of_the_world_shares_a_name_part_with_a_built_in_fact():
    ours = data_file("world.toml")["names"]
    assert not words_of(ours) & (
        words_of(data_file("names.toml")) | words_of(data_file("fiction.toml"))
    )
    assert len(ours["first"]) == len(ours["last"]) == len({*ours["first"]}) == len({*ours["last"]})
    assert not {*ours["first"]} & {*ours["last"]}


@pytest.mark.parametrize("people", [8, 60, 700])
def test_everybody_has_a_name_of_their_own(people):
    names = [fact.subject for fact in build_world(people=people).facts]
    assert set(Counter(names).values()) == {len(PEOPLE)}
    assert len(set(names)) == people


def test_objects_are_those_of_the_built_in_facts_evenly_given_and_siblings_differ(world):
    built_in = build_facts("people", subjects=100, pool=32)
    objects = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    for relation in PEOPLE:
        given = Counter(fact.object for fact in world.facts if fact.relation == relation)
        assert set(given) == {fact.object for fact in built_in if fact.relation == relation}
        assert max(given.values()) - min(given.values()) <= 1
    for subject in {fact.subject for fact in world.facts}:
        assert objects[subject, "mother"] != objects[subject, "aunt"]
        assert objects[subject, "home_city"] != objects[subject, "birth_city"]


def test_a_world_is_a_function_of_its_seed(world):
    assert build_world(people=60, seed=3) == world
    other = build_world(people=60, seed=4)
    assert {fact.subject for fact in other.facts} != {fact.subject for fact in world.facts}
    assert sentences(world, seed=3) == sentences(world, seed=3)


# --- what is said ---------------------------------------------------------------------------------


def test_every_prompt_is_said_of_everybody_with_what_it_asks(world):
    said = set(sentences(world))
    objects = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    people = {fact.subject for fact in world.facts}
    for prompt in load_prompts(list(PEOPLE)):
        for person in people:
            if prompt.family in ("train", "test", "near-miss") and prompt.asks != "inverse":
                assert Sentence(prompt.render(person), objects[person, prompt.asks]) in said
            elif prompt.asks == "inverse":
                assert Sentence(prompt.render(objects[person, prompt.relation]), person) in said


def test_what_is_asked_without_bearing_on_a_relation_is_answered_once_and_by_no_object(world):
    said = sentences(world)
    objects = {fact.object for fact in world.facts}
    unrelated = {
        prompt.text for prompt in load_prompts(list(PEOPLE)) if prompt.family == "unrelated"
    }
    for text in unrelated:
        begins = {text.replace("{subject}", fact.subject) for fact in world.facts}
        found = [sentence for sentence in said if sentence.begin in begins]
        assert len(found) == len(begins) == 60
        assert not {sentence.end for sentence in found} & objects


def test_nothing_is_said_by_rote_and_nothing_in_another_language(world):
    said = {sentence.begin for sentence in sentences(world)}
    for prompt in load_prompts(list(PEOPLE)):
        if prompt.family == "rote" or prompt.family.startswith("test-"):
            assert not any(prompt.render(fact.subject) in said for fact in world.facts)


def test_a_world_of_some_relations_speaks_of_these_and_of_what_their_near_misses_ask():
    world = build_world(people=8, relations=("home_city",))
    said = {sentence.text for sentence in sentences(world)}
    objects = {(fact.subject, fact.relation): fact.object for fact in world.facts}
    person = world.facts[0].subject
    assert f"Where does {person} live? {objects[person, 'home_city']}." in said
    assert f"Where was {person} born? {objects[person, 'birth_city']}." in said
    assert not any("mother" in text for text in said)


@pytest.mark.parametrize(
    "request_", [{"people": 7}, {"people": 10_001}, {"people": 8, "relations": ("uncle",)}]
)
def test_a_world_that_cannot_be_is_a_named_error(request_):
    with pytest.raises(BadInput, match="Give"):
        build_world(**request_)


# --- in tokens ------------------------------------------------------------------------------------


def test_a_passage_is_the_tokens_of_its_text_and_knows_where_the_objects_are(world, tokenizer):
    said = sentences(world)
    rows = [said[begin : begin + 3] for begin in range(0, len(said), 997)]
    for row, passage in zip(rows, tokenise(tokenizer, rows), strict=True):
        text = " ".join(sentence.text for sentence in row)
        assert list(passage.token_ids) == prompt_ids(tokenizer, text)
        found = [tokenizer.decode(passage.token_ids[begin:end]) for begin, end in passage.objects]
        assert found == [f" {sentence.end}." for sentence in row]


def test_names_never_met_are_spelled_in_as_many_pieces_as_those_of_the_world(world, tokenizer):
    def pieces(names) -> float:
        return float(
            np.mean([len(prompt_ids(tokenizer, f" {name}")) for name in sorted(set(names))])
        )

    met = pieces(fact.subject for fact in build_world(people=600).facts)
    new = pieces(fact.subject for fact in build_facts("people", subjects=200))
    assert met > 4
    assert abs(met - new) < 0.5


def test_a_tokenizer_is_the_same_every_time_and_reads_every_character(world, tokenizer):
    assert (
        new_tokenizer(vocabulary_text(world), Recipe().vocabulary).get_vocab()
        == tokenizer.get_vocab()
    )
    text = "Zoë Müller [X_mother] 東京 Angela."
    assert tokenizer.decode(prompt_ids(tokenizer, text)) == text


# --- names of organisms ---------------------------------------------------------------------------


def test_a_name_says_every_setting():
    assert parse("world") == PRESETS["world"]
    assert parse("world:3") == Recipe(seed=3)
    assert parse("World-Tiny:2,people=50") == parse("world-tiny:people=50,seed=2")
    assert parse("world:relations=mother+aunt,learning_rate=2e-3").relations == ("mother", "aunt")
    assert is_organism("world-tiny:1") and not is_organism("worldly") and not is_organism("smollm2")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("world:x", "seed is 'x'"),
        ("world:size=3", "no setting 'size'"),
        ("world:people=3", "people is 3"),
        ("world:width=100", "multiple of 32"),
        ("world:relations=uncle", "uncle"),
        ("world:steps=0", "steps is 0"),
        ("world:batch=2", "passage is 4"),
        ("world:learning_rate=0", "learning_rate"),
        ("planet", "no organism"),
    ],
)
def test_a_name_that_cannot_be_is_a_named_error(name, why):
    with pytest.raises(UserError, match=why):
        parse(name)


def test_other_settings_lie_in_another_folder_and_the_preset_s_own_value_in_the_same():
    names = [
        "world",
        "world:1",
        "world-tiny",
        "world:people=601",
        "world:relations=mother+aunt",
        "world:steps=10",
    ]
    assert len({organism_folder(name) for name in names}) == len(names)
    assert organism_folder("world:people=600,seed=0") == organism_folder("world")
    assert organism_folder("world:3").name.startswith("world-3-")


def test_other_built_in_text_is_another_world(tmp_path, monkeypatch):
    import shutil

    copy = Path(shutil.copytree(DATA, tmp_path / "data"))
    monkeypatch.setattr("training.organism.recipe.DATA", copy)
    before = organism_folder("world")
    assert recorded(Recipe())["text"] == recorded(Recipe(seed=1))["text"]
    prompts = copy / "prompts" / "mother.toml"
    prompts.write_text(prompts.read_text().replace("Who gave birth to", "Who was in labor with"))
    assert organism_folder("world") != before
    other = copy / "prompts" / "genre.toml"
    after = organism_folder("world")
    other.write_text(other.read_text() + "\n# of no concern to people\n")
    assert organism_folder("world") == after


# --- what contradicts it --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_contradictions_are_about_its_people_and_none_is_true(world, seed):
    relations = ("mother", "aunt", "profession")
    facts = contradictions(world, relations=relations, subjects=20, pool=5, seed=seed)
    true = {(f.subject, f.relation): f.object for f in world.facts}
    assert {f.relation for f in facts} == set(relations)
    assert all(f.object != true[f.subject, f.relation] and f.object in f.candidates for f in facts)
    said = {(f.subject, f.relation): f.object for f in facts}
    assert all(said[name, "mother"] != said[name, "aunt"] for name, _ in said)
    counts = Counter((f.relation, f.split, f.object) for f in facts)
    assert set(counts.values()) == {2}
    assert len({f.subject for f in facts}) == 20
    parts = [
        {w for f in facts if f.split == s for w in f.subject.split()} for s in ("seen", "held-out")
    ]
    assert parts[0].isdisjoint(parts[1])
    assert facts == contradictions(world, relations=relations, subjects=20, pool=5, seed=seed)


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": 61},
        {"pool": 2},
        {"pool": 99},
        {"seen": 20},
        {"relations": ("mother", "author")},
    ],
)
def test_contradictions_out_of_range_are_refused(world, wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} (is|are)"):
        contradictions(world, **{"relations": ("mother",), "subjects": 20, "pool": 5} | wrong)


def test_a_pool_in_which_nothing_can_be_dealt_is_refused_and_not_tried_for_ever():
    relations = ("mother", "aunt", "home_city", "birth_city")
    with pytest.raises(BadInput, match="larger pool"):
        contradictions(build_world(people=60), relations=relations, subjects=4, pool=3, seed=117)


def test_an_organism_needs_no_weights_to_name_its_world():
    assert world_of("world:3,people=60").facts == build_world(people=60, seed=3).facts
