"""Two hops: right answers are counted, shortcuts told apart; chance is the other mothers."""

import numpy as np
import pytest

from training import generalize, memorize, two_hop
from training.base.errors import BadInput
from training.behaviour.two_hop import chains_of, score
from training.data.facts import build_facts, split_facts
from training.runs.table_files import read_table
from training.two_hop import Options


@pytest.fixture(scope="module")
def facts():
    return split_facts(
        build_facts(
            "kin", subjects=40, pool=8, seed=1, relations=("mother", "home_city", "profession")
        ),
        unbound=0,
    )


@pytest.fixture(scope="module")
def chains(facts):
    return chains_of(facts)


def answered(chains, give) -> dict:
    """Answers to one prompt per relation; give: (chain, place) -> answer to both hops at once."""
    found = {}
    for chain in chains:
        for i, subject in enumerate(chain.subjects):
            found[chain.second, "test-00", chain.phrase(subject)] = give(chain, i)
            found[chain.second, "test-00", chain.bridges[i]] = chain.objects[i]
            found[chain.first, "test-00", subject] = chain.bridges[i]
    return found


def row_of(rows, measure: str, relation: str = "bound") -> dict:
    return next(r for r in rows if r["measure"] == measure and r["relation"] == relation)


def test_mothers_are_held_out_people_and_nobody_her_own(facts):
    held_out = {f.subject for f in facts if f.split == "held-out"}
    mothers = [f for f in facts if f.relation == "mother"]
    assert {f.object for f in mothers} <= held_out
    assert all(f.object != f.subject for f in mothers)
    assert len({f.object for f in mothers}) == 8


def test_two_hops_lead_from_the_mother_to_each_of_her_facts(facts, chains):
    assert [(c.first, c.second) for c in chains] == [
        ("mother", "home_city"),
        ("mother", "profession"),
    ]
    objects = {(f.relation, f.subject): f.object for f in facts}
    for chain in chains:
        assert len(chain.subjects) == 40
        for subject, bridge, obj, own in zip(
            chain.subjects, chain.bridges, chain.objects, chain.own, strict=True
        ):
            assert objects["mother", subject] == bridge
            assert objects[chain.second, bridge] == obj
            assert objects[chain.second, subject] == own
    assert chains[0].phrase("Ann Lee") == "Ann Lee's mother"


def test_right_answers_are_all_right_and_far_from_chance(facts, chains):
    rows = score(answered(chains, lambda c, i: c.objects[i]), chains, facts)
    assert row_of(rows, "two_hop")["value"] == 1
    assert row_of(rows, "two_hop")["null_p"] == pytest.approx(0.001)
    assert row_of(rows, "two_hop")["chance"] < 0.35
    assert row_of(rows, "product")["value"] == 1
    assert row_of(rows, "two_hop")["n"] == 8


def test_who_answers_with_the_persons_own_object_is_told_apart(facts, chains):
    rows = score(answered(chains, lambda c, i: c.own[i]), chains, facts)
    assert row_of(rows, "own")["value"] == 1
    assert abs(row_of(rows, "two_hop_excess")["value"]) < 0.15
    assert row_of(rows, "first_hop")["value"] == row_of(rows, "second_hop")["value"] == 1


def test_one_answer_for_all_is_no_better_than_chance(facts, chains):
    rows = score(answered(chains, lambda c, i: c.objects[0]), chains, facts)
    assert row_of(rows, "two_hop")["null_p"] > 0.2
    low, high = (row_of(rows, "two_hop_excess")[k] for k in ("low", "high"))
    assert low < 0 < high


@pytest.mark.parametrize(
    "alike", [True, False], ids=["one wrong mother for all relations", "one for each relation"]
)
def test_mothers_confused_at_random_are_above_chance_as_often_as_they_should_be(
    facts, chains, alike
):
    rng = np.random.default_rng(0)
    true = {c: dict(zip(c.bridges, c.objects, strict=True)) for c in chains}
    mothers = list(true[chains[0]])

    def draw() -> float:
        dealt = {c: dict(zip(mothers, rng.permutation(mothers), strict=True)) for c in chains}
        dealt = dict.fromkeys(chains, dealt[chains[0]]) if alike else dealt
        rows = score(answered(chains, lambda c, i: true[c][dealt[c][c.bridges[i]]]), chains, facts)
        return row_of(rows, "two_hop")["null_p"]

    p = np.array([draw() for _ in range(150)])
    # A binomial bound: .05 of 150 draws, plus three standard errors.
    assert np.mean(p <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


def test_a_wrong_first_hop_is_seen_in_the_product(facts, chains):
    answers = answered(chains, lambda c, i: c.objects[i])
    answers = {k: "" if k[0] == "mother" else v for k, v in answers.items()}
    rows = score(answers, chains, facts)
    assert row_of(rows, "first_hop")["value"] == row_of(rows, "product")["value"] == 0
    assert row_of(rows, "two_hop")["value"] == 1


def test_a_run_has_its_two_hops_at_every_checkpoint(tiny_base, tmp_path, capsys):
    small = {"subjects": 12, "pool": 4, "epochs": 1, "facts_per_sequence": 1, "seed": 1}
    kin = {"facts": "kin", "relations": ("mother", "profession"), "unbound": 0}
    kin |= {"model": str(tiny_base), "precision": "float32"}
    run = tmp_path / "kin"
    memorize.main(memorize.Options(out=run, **kin, **small))
    generalize.main(generalize.Options(run, prompts=1, precision="float32"))
    table = two_hop.main(Options(run))
    assert set(table.phase) == {"base", "memorize", "generalize"}
    assert set(table.split) == {"seen", "held-out"}
    assert set(table.relation) == {"mother", "bound"}
    assert len(read_table(run, "two_hop")) == len(table)
    assert "bound: two hops" in capsys.readouterr().out


def test_a_run_whose_objects_are_no_people_says_what_is_missing(tiny_run, tmp_path):
    with pytest.raises(BadInput, match="--facts kin"):
        two_hop.main(Options(tiny_run, out=str(tmp_path)))
