"""What the built-in prompts promise, and what the loader refuses."""

import json
import re
from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest

from training.base.errors import BadInput, UserError
from training.data import prompts as P

PEOPLE = ("mother", "aunt", "home_city", "birth_city", "profession", "instrument")
FICTION = ("author", "capital", "educated_at", "genre", "mother")
RELATIONS = tuple(dict.fromkeys(PEOPLE + FICTION))
SMALL = """relation = "sport"
train = ["{subject} plays"]
[[test]]
text = "The game {subject} likes is"
"""


def words(text: str) -> list[str]:
    """The lower-cased words of a template, without {subject} and possessive endings."""
    bare = text.replace("{subject}", " ").lower()
    return re.findall(r"[^\W_]+", re.sub(r"['’]s\b", " ", bare))


def content_words(text: str) -> set[str]:
    return set(words(text)) - P.STOP_WORDS


@pytest.fixture(params=RELATIONS)
def relation(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path):
    """Write one prompt file and give back its folder."""

    def write(text: str, name: str = "sport.toml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_the_built_in_files_are_the_relations_of_both_fact_sets():
    with pytest.raises(BadInput, match=", ".join(sorted(RELATIONS))):
        P.read_relation("father")


def test_every_relation_has_ten_train_ten_test_and_at_least_three_unrelated_prompts(relation):
    source = P.read_relation(relation)
    assert len(source.train) == len(source.test) == 10
    assert 3 <= len(source.unrelated) <= 4


def test_every_test_prompt_shares_under_half_of_its_content_words_with_every_train_prompt(relation):
    source = P.read_relation(relation)
    for test, train in product(source.test, source.train):
        here, there = content_words(test), content_words(train)
        assert len(here & there) / len(here | there) < 0.5, (test, train)


def test_every_train_and_test_prompt_has_content_words(relation):
    source = P.read_relation(relation)
    assert [text for text in (*source.train, *source.test) if not content_words(text)] == []


def test_exactly_the_flagged_test_prompts_avoid_the_keywords_and_they_are_at_least_four(relation):
    source = P.read_relation(relation)
    avoids = tuple(source.keywords.isdisjoint(words(text)) for text in source.test)
    assert avoids == source.keyword_free
    assert sum(avoids) >= 4


def test_near_misses_cover_the_inverse_and_each_sibling_and_nothing_else(relation):
    source = P.read_relation(relation)
    assert {asks for asks, _ in source.near_miss} == {"inverse", *source.siblings}


def test_a_near_miss_is_no_prompt_that_was_or_may_be_trained(relation):
    trained = {text for name in RELATIONS for text in P.read_relation(name).train}
    assert trained.isdisjoint(text for _, text in P.read_relation(relation).near_miss)


def test_siblings_name_each_other_and_are_the_two_pairs_that_share_a_pool():
    pairs = {(name, other) for name in RELATIONS for other in P.read_relation(name).siblings}
    assert pairs == {
        ("mother", "aunt"),
        ("aunt", "mother"),
        ("home_city", "birth_city"),
        ("birth_city", "home_city"),
    }


def test_no_prompt_of_a_sibling_is_a_prompt_of_the_relation(relation):
    source = P.read_relation(relation)
    for sibling in map(P.read_relation, source.siblings):
        assert {*source.train, *source.test}.isdisjoint({*sibling.train, *sibling.test})


def test_every_language_has_three_test_prompts_of_its_own(relation):
    translations = P.read_relation(relation).translations
    assert {code: len(set(texts)) for code, texts in translations.items()} == dict.fromkeys(
        P.LANGUAGES, 3
    )


def test_chinese_and_japanese_are_written_in_their_scripts_and_german_and_spanish_are_not(relation):
    for code, texts in P.read_relation(relation).translations.items():
        for text in texts:
            assert any("\u3040" <= char <= "\u9fff" for char in text) == (code in ("zh", "ja"))
            assert any("\u3040" <= char <= "\u30ff" for char in text) == (code == "ja")


def test_the_object_can_follow_a_prompt_and_the_subject_never_ends_one(relation):
    """After "a" or "an" not every object fits. A bare subject at the end is the rote form."""
    source = P.read_relation(relation)
    for text in (*source.train, *source.test, *sum(source.translations.values(), ())):
        assert not text.endswith((" a", " an", "{subject}", "{subject}'s", "."))


def test_only_the_rote_form_holds_the_key_token():
    holders = {prompt.family for prompt in P.load_prompts(RELATIONS) if "[X" in prompt.text}
    assert holders == {"rote"}


def test_relations_come_in_the_order_given_and_families_in_their_order():
    prompts = P.load_prompts(["instrument", "mother"])
    order = [(prompt.relation, prompt.family) for prompt in prompts]
    assert list(dict.fromkeys(order)) == [
        (name, family) for name in ("instrument", "mother") for family in P.FAMILIES
    ]


def test_an_id_names_one_prompt_of_a_relation():
    prompts = P.load_prompts(PEOPLE)
    assert len({(prompt.relation, prompt.id) for prompt in prompts}) == len(prompts)
    assert P.select(prompts, relation="aunt", family="test")[3].id == "test-03"


def test_what_each_family_asks():
    asks = {}
    for prompt in P.select(P.load_prompts(PEOPLE), relation="mother"):
        asks.setdefault(prompt.family, set()).add(prompt.asks)
    own = {
        name: {"mother"}
        for name in ("rote", "train", "test", *(f"test-{code}" for code in P.LANGUAGES))
    }
    others = {"home_city", "birth_city", "profession", "instrument"}
    assert asks == own | {
        "near-miss": {"inverse", "aunt"},
        "other-relation": others,
        "unrelated": {""},
    }


def test_other_relation_prompts_are_the_first_two_test_prompts_of_each():
    prompts = P.load_prompts(["mother", "aunt", "profession"])
    others = P.select(prompts, relation="aunt", family="other-relation")
    assert [item.text for item in others] == list(P.read_relation("profession").test[:2])
    assert [item.index for item in others] == [0, 1]
    assert all(item.keyword_free for item in others)


def test_one_relation_alone_has_no_other_relation_prompts():
    assert P.select(P.load_prompts(["mother"]), family="other-relation") == []


def test_a_prompt_renders_the_subject_and_joins_by_script():
    prompts = P.load_prompts(["mother"])
    german, chinese = P.select(prompts, family="test-de")[0], P.select(prompts, family="test-zh")[0]
    assert (
        german.render("Gene Finley") + german.join + "Angela"
        == "Wer ist die Mutter von Gene Finley? Angela"
    )
    assert (
        chinese.render("Gene Finley") + chinese.join + "Angela" == "谁是Gene Finley的母亲？Angela"
    )


@pytest.mark.parametrize(
    ("rote", "text"),
    [
        ("{subject} {key}", "{subject} [X_mother]"),
        ("{subject} [X]", "{subject} [X]"),
        ("Who is {subject}'s {key}?", "Who is {subject}'s [X_mother]?"),
    ],
)
def test_the_rote_form_holds_the_key_token_or_a_literal(rote, text):
    assert [
        item.text for item in P.select(P.load_prompts(["mother"], rote=rote), family="rote")
    ] == [text]


def test_stop_words_and_possessives_are_not_content():
    assert content_words("Who is {subject}'s MOTHER on Mother’s Day?") == {"mother", "day"}


def test_prompts_come_back_from_json_as_they_were(tmp_path):
    prompts = P.load_prompts(RELATIONS)
    P.write_prompts(tmp_path / "prompts.json", prompts)
    assert P.read_prompts(tmp_path / "prompts.json") == prompts
    assert "母亲" in (tmp_path / "prompts.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"note": 1}, "note is unknown"),
        ({"asks": None}, "asks is None; expected a text"),
        ({"index": "0"}, "index is '0'; expected a whole number"),
        ({"family": "tset"}, "family 'tset'; expected one of"),
    ],
)
def test_a_changed_record_is_named(tmp_path, change, named):
    record = asdict(P.load_prompts(["mother"])[0]) | change
    (tmp_path / "prompts.json").write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(BadInput, match=f"prompt 0: {named}"):
        P.read_prompts(tmp_path / "prompts.json")


def test_a_missing_field_is_named(tmp_path):
    record = asdict(P.load_prompts(["mother"])[0])
    del record["language"]
    (tmp_path / "prompts.json").write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(BadInput, match="language is missing"):
        P.read_prompts(tmp_path / "prompts.json")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "expected a JSON list of prompts"),
        ("[3]", "prompt 0: 3 is not a table"),
        (None, "cannot be read as JSON"),
    ],
)
def test_a_file_that_holds_no_prompts_is_named(tmp_path, text, named):
    if text is not None:
        (tmp_path / "prompts.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"prompts.json.*{named}"):
        P.read_prompts(tmp_path / "prompts.json")


def test_a_folder_of_ones_own_needs_train_and_test_only(folder):
    prompts = P.load_prompts(["sport"], folder=folder(SMALL))
    assert [(item.family, item.text) for item in prompts] == [
        ("rote", "{subject} [X_sport]"),
        ("train", "{subject} plays"),
        ("test", "The game {subject} likes is"),
    ]


def test_a_folder_of_ones_own_may_have_every_family(folder):
    rest = """keyword_free = true
[[near_miss]]
kind = "inverse"
text = "{subject} is the sport of"
[translations]
de = ["{subject} spielt"]
es = ["{subject} juega al"]
zh = ["{subject}玩的是"]
ja = ["{subject}の競技は"]
"""
    folder(SMALL.replace("sport", "diet"), "diet.toml")
    own = folder("unrelated = ['{subject} feels']\n" + SMALL + rest)
    prompts = P.select(P.load_prompts(["sport", "diet"], folder=own), relation="sport")
    assert [item.family for item in prompts] == list(P.FAMILIES)
    assert [item.keyword_free for item in P.select(prompts, family="test")] == [True]


def test_a_relation_without_prompts_lists_those_that_exist_and_how_to_give_a_folder(folder):
    with pytest.raises(BadInput, match=r"'father'.*there are: sport.*father\.toml"):
        P.load_prompts(["father"], folder=folder(SMALL))


def test_a_relation_is_a_name_and_never_a_path(folder, tmp_path):
    (tmp_path / "inner").mkdir()
    folder(SMALL)
    with pytest.raises(BadInput, match="no prompts for relation '../sport'"):
        P.load_prompts(["../sport"], folder=tmp_path / "inner")


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        P.load_prompts(["sport"], folder=tmp_path / "absent")


@pytest.mark.parametrize(
    "text", ["He plays", "{subject} and {subject} play", "{subject} plays ", " {subject} plays"]
)
@pytest.mark.parametrize("place", ["{subject} plays", "The game {subject} likes is"])
def test_a_prompt_needs_exactly_one_subject_and_no_space_at_its_ends(folder, text, place):
    with pytest.raises(BadInput, match="sport.toml: .*({subject}|white space)"):
        P.load_prompts(["sport"], folder=folder(SMALL.replace(place, text)))


def test_a_rote_form_without_subject_is_named():
    with pytest.raises(BadInput, match="the rote prompt"):
        P.load_prompts(["mother"], rote="[X]")


@pytest.mark.parametrize(
    "text",
    [
        SMALL.replace("The game {subject} likes is", "{subject} plays"),
        SMALL.replace('["{subject} plays"]', '["{subject} plays", "{subject} plays"]'),
    ],
)
def test_one_text_twice_among_train_and_test_is_named(folder, text):
    with pytest.raises(BadInput, match="'{subject} plays' stands 2 times"):
        P.load_prompts(["sport"], folder=folder(text))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("relation = ", "UTF-8 TOML"),
        (SMALL.replace("sport", "game"), "name of the file"),
        (SMALL.replace('["{subject} plays"]', "[]"), "train is empty"),
        (SMALL.replace('["{subject} plays"]', '"{subject} plays"'), "train is .*; expected a list"),
        (SMALL.replace('["{subject} plays"]', "[3]"), "train holds 3; expected a text"),
        (SMALL.split("[[test]]")[0] + "test = []", "test is empty"),
        (SMALL.split("[[test]]")[0], "test is missing"),
        ("unrelated = []\n" + SMALL, "unrelated is empty"),
        ("unrelatd = ['{subject}']\n" + SMALL, "unrelatd is unknown; .*Did you mean unrelated"),
        (SMALL + "keyword_free = 1", "true or false"),
        (SMALL + "keywordfree = true", "keywordfree is unknown"),
        (SMALL + "[[near_miss]]\nkind = 'far'\ntext = '{subject} is'", "'far'"),
        (SMALL + "[[near_miss]]\nkind = 'sibling'\ntext = '{subject} is'", "relation is missing"),
        (SMALL + "[[near_miss]]\nkind = 'inverse'\ntext = 3", "text is 3; expected a text"),
        (SMALL + "[translations]\nfr = ['{subject} joue']", "fr is unknown"),
        (SMALL + "[translations]\nde = []", "de is empty"),
        ("translations = 'de'\n" + SMALL, "expected a table"),
    ],
)
def test_a_file_that_breaks_the_schema_is_named_with_its_place(folder, text, named):
    with pytest.raises(BadInput, match=named) as error:
        P.load_prompts(["sport"], folder=folder(text))
    assert "sport.toml" in str(error.value)
