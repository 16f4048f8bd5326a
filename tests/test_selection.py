"""Controls of phase 2: as much of everything as with the facts, but never the facts themselves."""

from collections import Counter
from dataclasses import replace

import pytest
from conftest import TINY_GENERALIZE
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from training import generalize
from training.base.errors import BadInput
from training.data.fact_files import Fact, read_facts
from training.data.facts import build_facts, random_stream, split_facts
from training.data.prompts import load_prompts, select
from training.data.selection import MOST_OTHERS, chosen_facts, other_people, permuted, shuffled
from training.data.sequences import encode_all
from training.grid.file import read_grid
from training.runs.checkpoints import list_checkpoints

PEOPLE = ("mother", "aunt", "home_city", "profession")
GRID = """
stages = ["memorize", "generalize"]
settings.memorize.model = "tiny"
[grid]
"""


def facts_of(relations=PEOPLE, *, seed=0, unbound=0, **options):
    """Facts of `people`, split, and their prompts."""
    facts = build_facts("people", subjects=24, pool=6, relations=relations, seed=seed, **options)
    return split_facts(facts, seed=seed, unbound=unbound), load_prompts(list(relations))


def shown(facts, prompts, **options):
    return chosen_facts(facts, prompts, **{"people": -1, "prompts": 3, **options})


def tokens(facts, prompts) -> int:
    return sum(
        len(example.token_ids)
        for example in encode_all(tiny_tokenizer(), facts, prompts, limit=None)
    )


# --- objects shuffled ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("people", [-1, 4])
def test_shuffled_objects_are_the_same_ones_and_nobody_keeps_their_own(seed, people):
    everything = facts_of(seed=seed)
    own, prompts = shown(*everything, people=people)
    other, same_prompts = shown(*everything, people=people, objects="shuffled", seed=seed)
    assert same_prompts == prompts
    assert [(f.subject, f.relation, f.candidates) for f in other] == [
        (f.subject, f.relation, f.candidates) for f in own
    ]
    assert Counter((f.relation, f.object) for f in other) == Counter(
        (f.relation, f.object) for f in own
    )
    assert all(a.object != b.object for a, b in zip(own, other, strict=True))
    assert tokens(other, prompts) == tokens(own, prompts)


def test_the_shuffle_depends_on_the_seed_and_goes_apart_in_each_relation():
    everything = facts_of()
    drawn = [shown(*everything, objects="shuffled", seed=seed)[0] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    # It renames no object throughout, which would leave people with the same object alike.
    own = shown(*everything)[0]
    assert len({(a.object, b.object) for a, b in zip(own, drawn[0], strict=True)}) > len(
        {f.object for f in own}
    )


@settings(max_examples=200, deadline=None)
@given(objects=st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_as_few_objects_as_possible_stay(objects, seed):
    drawn = permuted(objects, avoid=objects, rng=random_stream(seed, "test"))
    assert Counter(drawn) == Counter(objects)
    stays = sum(a == b for a, b in zip(objects, drawn, strict=True))
    assert stays == max(0, 2 * max(Counter(objects).values()) - len(objects))


def test_a_shuffle_that_changes_nothing_is_refused():
    with pytest.raises(BadInput, match=r"'mother'.*--people"):
        shown(*facts_of(), people=1, objects="shuffled")
    with pytest.raises(BadInput, match="'Ruth'"):
        shuffled(
            [Fact(name, "mother", "Ruth", ("Ruth", "Ada")) for name in ("Gene", "Tom")], seed=0
        )


# --- objects sibling -----------------------------------------------------------------------------


def test_sibling_prompts_ask_the_sibling_and_keep_the_objects():
    everything = facts_of()
    own, plain = shown(*everything)
    facts, prompts = shown(*everything, objects="sibling")
    assert facts == own
    asked = {(p.relation, p.asks) for p in prompts}
    assert asked == {
        ("mother", "aunt"),
        ("aunt", "mother"),
        ("home_city", "home_city"),
        ("profession", "profession"),
    }
    for relation, sibling in asked:
        there = [p.text for p in select(prompts, relation=relation)]
        assert there == [p.text for p in select(plain, relation=sibling)]
        assert len(there) == 3
    assert len(encode_all(tiny_tokenizer(), facts, prompts, limit=None)) == 3 * len(facts)


def test_an_unbound_sibling_lends_its_prompts_too():
    facts, prompts = facts_of(("mother", "aunt"), unbound=1)
    shown_facts, shown_prompts = shown(facts, prompts, objects="sibling")
    assert {f.relation for f in shown_facts} == {"aunt"}
    assert {p.asks for p in select(shown_prompts, relation="aunt")} == {"mother"}


def test_without_a_sibling_in_the_run_there_is_no_other_reading():
    with pytest.raises(BadInput, match=r"mother, profession.*mother and aunt"):
        shown(*facts_of(("mother", "profession")), objects="sibling")


# --- about others --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("people", [-1, 5])
def test_the_others_are_in_no_fact_of_the_run_and_share_no_part_of_a_name(seed, people):
    facts, prompts = facts_of(seed=seed)
    own, plain = shown(facts, prompts, people=people)
    others, same_prompts = shown(facts, prompts, people=people, about="others", seed=seed)
    assert same_prompts == plain
    assert [(f.relation, f.candidates, f.bound) for f in others] == [
        (f.relation, f.candidates, f.bound) for f in own
    ]
    assert Counter((f.relation, f.object) for f in others) == Counter(
        (f.relation, f.object) for f in own
    )
    assert len({f.subject for f in others}) == len({f.subject for f in own})
    parts = {part for f in facts for part in f.subject.split()}
    assert not [f.subject for f in others if parts & set(f.subject.split())]


def test_the_others_have_objects_of_their_own_and_sibling_objects_differ():
    facts, prompts = facts_of()
    own, _ = shown(facts, prompts)
    others, _ = shown(facts, prompts, about="others")
    assert sum(a.object == b.object for a, b in zip(own, others, strict=True)) < len(own) / 2
    of = {(f.subject, f.relation): f.object for f in others}
    assert all(
        obj != of[name, "aunt"] for (name, relation), obj in of.items() if relation == "mother"
    )
    assert others == shown(facts, prompts, about="others")[0]
    assert others != shown(facts, prompts, about="others", seed=1)[0]


def test_the_others_can_be_shuffled_and_asked_for_the_sibling():
    facts, prompts = facts_of()
    plain, _ = shown(facts, prompts, about="others")
    mixed, _ = shown(facts, prompts, about="others", objects="shuffled")
    assert all(
        a.subject == b.subject and a.object != b.object for a, b in zip(plain, mixed, strict=True)
    )
    assert shown(facts, prompts, about="others", objects="sibling")[0] == plain


def test_facts_whose_subjects_are_of_unknown_kind_have_no_others():
    facts = split_facts(build_facts("fiction", relations=("capital",)), unbound=0)
    with pytest.raises(BadInput, match="'capital'.*facts people"):
        shown(facts, load_prompts(["capital"]), about="others")


def test_facts_that_use_the_reserved_names_have_no_others():
    facts, prompts = facts_of(("mother",))
    name = shown(facts, prompts, about="others")[0][0].subject
    facts[-1] = replace(facts[-1], subject=f"Zed {name.split()[1]}")
    with pytest.raises(BadInput, match=name):
        shown(facts, prompts, about="others")


def test_more_people_than_there_are_names_for_is_refused():
    facts = [
        Fact(f"A{i} B{i}", "mother", ("Ruth", "Ada")[i % 2], ("Ruth", "Ada"))
        for i in range(MOST_OTHERS + 1)
    ]
    assert len({f.subject for f in other_people(facts[1:], avoid=(), seed=0)}) == MOST_OTHERS
    with pytest.raises(BadInput, match=f"--people {MOST_OTHERS}"):
        other_people(facts, avoid=(), seed=0)


# --- in a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"objects": "shuffled"}, {"objects": "sibling"}, {"about": "others"}]
)
def test_a_control_trains_another_model_and_leaves_the_facts_of_the_run_alone(
    change, tiny_run, tmp_path, capsys
):
    out = generalize.main(
        generalize.Options(
            tiny_run, out=tmp_path / "arm", **{**TINY_GENERALIZE, "epochs": 1}, **change
        )
    )
    assert read_facts(out / "facts.csv") == read_facts(tiny_run / "facts.csv")
    assert " ".join(f"{k} {v}" for k, v in change.items()) in capsys.readouterr().out
    plain = generalize.main(
        generalize.Options(tiny_run, out=tmp_path / "own", **{**TINY_GENERALIZE, "epochs": 1})
    )
    there, here = (list_checkpoints(run)[-1].folder / "model.safetensors" for run in (plain, out))
    assert there.read_bytes() != here.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        'generalize.objects = ["own", "shuffled", "sibling"]',
        'generalize.about = ["seen", "others"]',
        "generalize.replay = [0, 0.25, 1]",
        'memorize.train = ["all", "embeddings", "attention", "lora"]',
        'generalize.train = ["all", "embeddings", "attention", "lora"]',
    ],
)
def test_a_grid_may_vary_it(line, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID + line)
    assert len(read_grid(tmp_path / "grid.toml").runs) == line.count(",") + 1
