"""Facts: what every built-in set promises for any seed, and how every bad file is refused."""

import json
import unicodedata
from collections import Counter, defaultdict
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.base.errors import BadInput
from training.data.fact_files import Fact, read_facts, write_facts
from training.data.facts import PEOPLE, _data, build_facts, draw_names, load_facts, split_facts

SIBLINGS = (("mother", "aunt"), ("home_city", "birth_city"))
HEADER = "subject,relation,object,candidates\n"

seeds = st.integers(0, 10**6)
halves = st.integers(4, 200)
pools = st.integers(2, 32)
few = settings(max_examples=25, deadline=None)


def objects_of(facts, relation):
    return {fact.subject: fact.object for fact in facts if fact.relation == relation}


def words(subjects):
    return {word for subject in subjects for word in subject.split()}


def shared_name_parts(facts):
    """Words in the subjects of both splits."""
    seen, held_out = (
        words(fact.subject for fact in facts if fact.split == split)
        for split in ("seen", "held-out")
    )
    return seen & held_out


# --- people --------------------------------------------------------------------------------------


@few
@given(seed=seeds, half=halves, pool=pools)
def test_each_object_is_equally_frequent_within_seen_and_within_held_out(seed, half, pool):
    counts = defaultdict(Counter)
    for fact in build_facts(subjects=2 * half, pool=pool, seed=seed):
        counts[fact.relation, fact.split][fact.object] += 1
        candidates = fact.candidates
        assert len(candidates) == pool and fact.object in candidates
    assert len(counts) == 2 * len(PEOPLE)
    for counter in counts.values():
        assert sum(counter.values()) == half
        assert max(counter.values()) - (min(counter.values()) if half >= pool else 0) <= 1
        assert len(counter) == min(half, pool)


@few
@given(seed=seeds, half=halves, pool=pools)
def test_siblings_share_their_pool_and_never_their_object(seed, half, pool):
    facts = build_facts(subjects=2 * half, pool=pool, seed=seed)
    candidates = {fact.relation: fact.candidates for fact in facts}
    for one, other in SIBLINGS:
        assert candidates[one] == candidates[other]
        ones, others = objects_of(facts, one), objects_of(facts, other)
        assert all(ones[subject] != others[subject] for subject in ones)


@few
@given(seed=seeds, half=halves)
def test_seen_and_held_out_people_share_no_name_part(seed, half):
    facts = build_facts(subjects=2 * half, seed=seed)
    assert {fact.split for fact in facts} == {"seen", "held-out"}
    assert shared_name_parts(facts) == set()


@few
@given(seed=seeds, half=halves)
def test_every_relation_has_the_same_subjects_in_the_same_order_and_none_twice(seed, half):
    facts = build_facts(subjects=2 * half, seed=seed)
    orders = {tuple(objects_of(facts, relation)) for relation in PEOPLE}
    assert len(orders) == 1
    assert len(orders.pop()) == 2 * half
    assert len(facts) == 2 * half * len(PEOPLE)


@few
@given(seed=seeds, half=halves, pool=pools)
def test_the_same_seed_gives_the_same_people_and_another_seed_others(seed, half, pool):
    assert build_facts(subjects=2 * half, pool=pool, seed=seed) == build_facts(
        subjects=2 * half, pool=pool, seed=seed
    )
    assert build_facts(subjects=2 * half, pool=pool, seed=seed) != build_facts(
        subjects=2 * half, pool=pool, seed=seed + 1
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_number_of_people_can_be_seen(data):
    subjects = data.draw(st.integers(4, 400))
    seen = data.draw(st.integers(1, subjects - 1))
    facts = build_facts(
        subjects=subjects, seen=seen, pool=data.draw(pools), relations=["mother", "aunt"]
    )
    assert Counter(fact.split for fact in facts) == {
        "seen": 2 * seen,
        "held-out": 2 * (subjects - seen),
    }
    assert shared_name_parts(facts) == set()


def test_up_to_two_hundred_subjects_no_name_part_occurs_twice():
    subjects = set(objects_of(build_facts(subjects=200), "mother"))
    assert len(words(subjects)) == 400


def test_a_relation_does_not_depend_on_which_others_are_asked_for():
    together = objects_of(build_facts(seed=5), "aunt")
    assert objects_of(build_facts(relations=["aunt"], seed=5), "aunt") == together


def test_this_draw_is_the_same_on_every_machine():
    fact = build_facts()[0]
    assert (fact.subject, fact.relation, fact.object) == ("Gerald Combs", "mother", "Ruth")


def test_other_people_share_no_word_with_the_people_of_the_facts():
    others = draw_names("reserved", 60, seed=1)
    assert len(set(others)) == 60
    stores = _data("names")["stores"]
    assert not words(others) & {
        word for store in "ab" for part in stores[store].values() for word in part
    }


def test_known_pairs_are_never_drawn():
    avoid = set(_data("names")["avoid"]["pairs"])
    drawn = {name for seed in range(40) for store in "ab" for name in draw_names(store, 200, seed)}
    assert drawn and not drawn & avoid


# --- the lists -----------------------------------------------------------------------------------


def test_no_word_stands_in_two_lists_of_names_or_objects():
    names = _data("names")
    lists = [part for store in names["stores"].values() for part in store.values()]
    lists += names["objects"].values()
    folded = [word.casefold() for part in lists for word in part]
    assert len(folded) == len(set(folded))
    assert all(len(objects) == 32 for objects in names["objects"].values())


def test_no_object_is_inside_another_of_its_list_or_inside_a_name():
    names = _data("names")
    people = [
        word.casefold()
        for store in names["stores"].values()
        for part in store.values()
        for word in part
    ]
    for objects in names["objects"].values():
        folded = [word.casefold() for word in objects]
        assert not [(a, b) for a, b in permutations(folded, 2) if a in b]
        assert not [(a, b) for a, b in product(folded, people) if a in b]


def test_no_surname_of_the_fictional_authors_and_mothers_begins_another():
    # So that no "First Last" can be inside another, whatever the pairs.
    folded = [word.casefold() for word in _data("names")["stores"]["a"]["last"]]
    assert not [(a, b) for a, b in permutations(folded, 2) if b.startswith(a)]


@pytest.mark.parametrize("kind", ["cities", "universities", "genres"])
def test_no_fictional_object_can_be_inside_another(kind):
    recipe = _data("fiction")[kind]
    folded = [recipe["join"].join(parts).casefold() for parts in product(*recipe["parts"])]
    assert len(set(folded)) == len(folded) > 100
    joined = "\n".join(folded)
    assert all(joined.count(text) == 1 for text in folded)


# --- fiction -------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_fiction_has_a_hundred_facts_a_relation_each_with_its_own_subject_and_object(seed):
    facts = build_facts("fiction", seed=seed)
    assert facts == build_facts("fiction", seed=seed)
    assert len({fact.subject for fact in facts}) == len(facts) == 500
    for relation in ("author", "capital", "educated_at", "genre", "mother"):
        objects = objects_of(facts, relation).values()
        (candidates,) = {fact.candidates for fact in facts if fact.relation == relation}
        assert sorted(objects) == list(candidates) and len(candidates) == 100
        joined = "\n".join(text.casefold() for text in candidates)
        assert all(joined.count(text.casefold()) == 1 for text in candidates)


def test_two_seeds_give_two_fictions():
    assert build_facts("fiction", seed=0) != build_facts("fiction", seed=1)


# --- the split -----------------------------------------------------------------------------------


@few
@given(seed=seeds, unbound=st.integers(0, 5))
def test_the_unbound_relations_rotate_with_the_seed(seed, unbound):
    facts = split_facts(build_facts(), unbound=unbound, seed=seed)
    relations = list(PEOPLE)
    expected = {relations[(seed + k) % 6] for k in range(unbound)}
    assert {fact.relation for fact in facts if not fact.bound} == expected


def test_splitting_people_keeps_their_split():
    facts = build_facts(seen=30)
    assert [fact.split for fact in split_facts(facts)] == [fact.split for fact in facts]


def test_unsplit_facts_are_split_by_subject_in_proportion_to_the_relations():
    facts = split_facts(build_facts("fiction"), seen=200, seed=3)
    assert facts != split_facts(build_facts("fiction"), seen=200, seed=4)
    counts = Counter(fact.relation for fact in facts if fact.split == "seen")
    assert sum(counts.values()) == 200 and set(counts.values()) == {40}


def test_a_subject_has_one_split_in_all_its_relations():
    facts = [
        Fact(f"Person {i}", relation, "yes", ("yes", "no")) for relation in "pq" for i in range(9)
    ]
    split = defaultdict(set)
    for fact in split_facts(facts):
        split[fact.subject].add(fact.split)
    assert all(len(splits) == 1 for splits in split.values())
    assert Counter(splits.pop() for splits in split.values()) == {"seen": 4, "held-out": 5}


def test_relations_that_are_unbound_already_stay_so():
    facts = [
        Fact(f"Person {i}", r, "yes", ("yes", "no"), bound=r != "q")
        for r in "pqr"
        for i in range(4)
    ]
    assert {fact.relation for fact in split_facts(facts, seed=0) if not fact.bound} == {"q"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"unbound": 6}, "unbound is 6. Give 0 to 5 relations"),
        ({"unbound": -1}, "unbound is -1"),
        ({"seen": 10}, "seen is 10, but the facts are split already, 40 of 80"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_a_split_that_cannot_be_is_refused(options, named):
    with pytest.raises(BadInput, match=named):
        split_facts(build_facts(), **options)


@pytest.mark.parametrize("seen", [0, 500, 501, True])
def test_some_subjects_are_seen_and_some_held_out(seen):
    with pytest.raises(BadInput, match="seen is"):
        split_facts(build_facts("fiction"), seen=seen)


def test_facts_that_are_split_in_part_are_refused():
    facts = [Fact("A B", "p", "x", ("x", "y"), "seen"), Fact("C D", "p", "y", ("x", "y"))]
    with pytest.raises(BadInput, match="1 of 2 subjects have no split"):
        split_facts(facts, unbound=0)
    with pytest.raises(BadInput, match="no facts"):
        split_facts([])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"subjects": 3}, "subjects is 3. Give 4 to 400"),
        ({"subjects": 401}, "subjects is 401"),
        ({"subjects": 80.0}, "subjects is 80.0. Give a whole number"),
        ({"pool": 1}, "pool is 1. Give 2 to 32"),
        ({"pool": 33}, "pool is 33"),
        ({"seen": 80}, "seen is 80. Give 1 to 79"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"relations": ["uncle"]}, "mother, aunt, home_city"),
        ({"relations": []}, "one or more"),
        ({"name": "animals"}, "people, kin, fiction"),
    ],
)
def test_a_request_out_of_range_names_what_would_do(options, named):
    with pytest.raises(BadInput, match=named):
        build_facts(**options)


# --- files ---------------------------------------------------------------------------------------


def write(tmp_path, text, name="facts.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


text = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Cn")), min_size=1, max_size=8
).map(lambda s: "x" + s + "x")


@pytest.mark.filterwarnings("ignore:.*substring")
@few
@given(
    st.dictionaries(
        text, st.tuples(text, st.sampled_from(["seen", "held-out", "all"])), min_size=1, max_size=5
    ),
    st.booleans(),
)
def test_facts_come_back_as_they_were_written(tmp_path_factory, rows, bound):
    path = tmp_path_factory.mktemp("facts") / "facts.csv"
    made = {}
    for subject, (obj, split) in rows.items():
        subject, obj = (unicodedata.normalize("NFC", word) for word in (subject, obj))
        made[subject] = Fact(subject, "mother", obj, (obj, 'the other, "quoted"'), split, bound)
    write_facts(path, list(made.values()))
    assert read_facts(path) == list(made.values())


@pytest.mark.parametrize("name", ["people", "fiction"])
def test_built_in_facts_come_back_as_they_were_written(tmp_path, name):
    facts = split_facts(build_facts(name))
    write_facts(tmp_path / "facts.csv", facts)
    assert load_facts(tmp_path / "facts.csv") == facts
    assert list(tmp_path.iterdir()) == [tmp_path / "facts.csv"]


def test_candidates_split_and_bound_may_be_left_out(tmp_path):
    path = write(
        tmp_path, "\ufeffobject,subject,relation\nAnn, Gene {F} ,mother\n\nMay,Lou Tate,mother\n"
    )
    assert read_facts(path) == [
        Fact("Gene {F}", "mother", "Ann", ("Ann", "May")),
        Fact("Lou Tate", "mother", "May", ("Ann", "May")),
    ]


def test_candidates_may_be_a_python_list(tmp_path):
    path = write(tmp_path, HEADER + "Gene,mother,Ann,\"['Ann', 'May']\"\n")
    assert read_facts(path)[0].candidates == ("Ann", "May")


ROW = 'Gene,mother,Ann,"[""Ann"",""May""]"\n'
BAD_ROWS = {
    " ,mother,Ann,\n": "subject is empty",
    "Lou,,Ann,\n": "relation is empty",
    "Lou,mother, ,\n": "object is empty",
    ROW: "the mother of 'Gene' is given twice, first in row 2",
    " Gene ,mother,May,\n": "the mother of 'Gene' is 'Ann' in row 2 and 'May' here",
    'Lou,mother,Sue,"[""Ann"",""May""]"\n': "'Sue' is missing from its candidates",
    "Lou,mother,Ann,Ann or May\n": "candidates is 'Ann or May'. Write a JSON list",
    "Lou,mother,Ann,\"{'a': 1}\"\n": "Write a JSON list",
    'Lou,mother,Ann,"[1, 2]"\n': "Write a JSON list",
    "Lou,mother,Ann,__import__('os').getcwd()\n": "Write a JSON list",
    "Lou,mother,Ann," + "[" * 5000 + "\n": "Write a JSON list",
    "Lou,mother,Ann,{[]: 1}\n": "Write a JSON list",
    'Lou,mother,Ann,"[""Ann""]"\n': "1 candidate",
    'Lou,mother,Ann,"[""Ann"", ""Ann ""]"\n': "'Ann' is there twice",
    '"Lou\nTate",mother,Ann,\n': "a line break or another control character",
    "Lou\x00,mother,Ann,\n": "control character",
    "Lou,../mother,Ann,\n": "'../mother' is not a plain name",
    "Lou,mother,Ann\n": "3 cells under 4 columns",
    "Lou,mother,Ann,,,\n": "6 cells under 4 columns",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_with_its_number_and_nothing_is_loaded(tmp_path, row):
    path = write(tmp_path, HEADER + ROW + "\n" + row + "Max,mother,May,\n")
    with pytest.raises(BadInput) as error:
        read_facts(path)
    message = str(error.value)
    assert f"{path}, row 4: " in message and "(1 bad row in all" in message
    assert BAD_ROWS[row] in message


def test_the_first_bad_row_is_shown_and_all_are_counted(tmp_path):
    path = write(tmp_path, HEADER + ROW + ",mother,Ann,\n" + ",aunt,Ann,\n" + "Lou,mother,,\n")
    with pytest.raises(BadInput, match="row 3: subject is empty.*3 bad rows in all"):
        read_facts(path)


def test_subjects_are_compared_after_unicode_normalisation(tmp_path):
    path = write(tmp_path, HEADER + "Zo\u00eb,mother,Ann,\nZoe\u0308,mother,May,\n")
    with pytest.raises(BadInput, match="row 3: the mother of .* is 'Ann' in row 2 and 'May' here"):
        read_facts(path)


def test_one_subject_may_occur_in_two_relations(tmp_path):
    path = write(tmp_path, HEADER + ROW + ROW.replace("mother", "aunt"))
    assert [fact.relation for fact in read_facts(path)] == ["mother", "aunt"]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("A,p,x,seen,\nB,p,y,used,\n", "row 3: split is 'used'"),
        ("A,p,x,seen,\nB,p,y,,maybe\n", "row 3: bound is 'maybe'"),
        ("A,p,x,seen,\nA,q,y,held-out,\n", "row 3: split of 'A' is 'seen' in row 2"),
        ("A,p,x,,true\nB,p,y,,false\n", "row 3: bound of 'p' is True in row 2"),
        ("A,p,x,,\nB,p,x,,\n", "row 2: 'p' has the one object 'x' .*2 bad rows"),
    ],
)
def test_split_and_bound_are_checked_and_so_are_lone_objects(tmp_path, rows, named):
    path = write(tmp_path, "subject,relation,object,split,bound\n" + rows)
    with pytest.raises(BadInput, match=named):
        read_facts(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "the file is empty"),
        (HEADER, "no row below"),
        ("subject,relation,object,colour\n", "row 1: unknown column 'colour'"),
        ("subject,relation\n", "row 1: missing column 'object'"),
        ("subject,relation,object,subject\n", "row 1: repeated column 'subject'"),
        ("Head,Fact,Text\n", "row 1: missing column 'Alternate Facts'"),
        (HEADER + ROW + '"Lou,mother,Ann,\n', "row 3: .*Close every quote"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused(tmp_path, content, named):
    with pytest.raises(BadInput, match=named):
        read_facts(write(tmp_path, content))


def test_another_encoding_is_named_with_the_row_it_shows_in(tmp_path):
    path = write(tmp_path, HEADER + ROW + "Zo\u00eb,mother,Ann,\n", encoding="latin-1")
    with pytest.raises(BadInput, match="row 3: byte 0xeb is not UTF-8. Save it as UTF-8"):
        read_facts(path)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="neither a built-in set .people, kin, fiction."):
        load_facts(tmp_path / "absent.csv")
    with pytest.raises(BadInput, match="cannot be read"):
        load_facts(tmp_path)


def test_candidates_inside_one_another_are_warned_of(tmp_path):
    path = write(tmp_path, HEADER + 'Gene,mother,Ann,"[""Ann"",""Annie""]"\n')
    with pytest.warns(UserWarning, match="'ann' is a substring of 'annie'"):
        assert len(read_facts(path)) == 1


# --- T-Rex-Fiction -------------------------------------------------------------------------------


def trex(tmp_path, alternates, name="author_71.csv"):
    cell = alternates.replace('"', '""')
    return write(
        tmp_path, f'Head,Fact,Alternate Facts,Text\nSalt Road,Ann Lee,"{cell}",Some text.\n', name
    )


ALTERNATES = ["May O'Dea", "Ann Lee", "Sue Orr", "Sue Orr"]


@pytest.mark.parametrize("literal", [json.dumps(ALTERNATES), repr(ALTERNATES)])
def test_a_trex_file_gives_its_relation_by_its_name_and_its_candidates_once_each(tmp_path, literal):
    expected = Fact("Salt Road", "author", "Ann Lee", ("Ann Lee", "May O'Dea", "Sue Orr"))
    assert load_facts(trex(tmp_path, literal)) == [expected]


def test_the_relation_of_a_trex_file_can_be_given(tmp_path):
    path = trex(tmp_path, '["May"]', "71.csv")
    assert load_facts(path, relation="writer")[0].relation == "writer"
    with pytest.raises(BadInput, match="from the file name: relation is empty.*Give relation=NAME"):
        load_facts(path)


@pytest.mark.parametrize(
    "literal", ["May; Sue", "", "('May', 'Sue')", "[May]", "[]", "['Ann Lee']"]
)
def test_alternate_facts_that_are_no_list_of_others_are_refused(tmp_path, literal):
    with pytest.raises(BadInput, match="row 2: .*(Write a JSON list|at least 2)"):
        load_facts(trex(tmp_path, literal))


def test_a_relation_is_only_taken_where_the_file_has_none(tmp_path):
    with pytest.raises(BadInput, match="has a relation column"):
        load_facts(write(tmp_path, HEADER + ROW), relation="mother")
    with pytest.raises(BadInput, match="relation 'mother' is for a T-Rex-Fiction file"):
        load_facts("people", relation="mother")
