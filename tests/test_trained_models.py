"""Planted truth in trained models: the states say what an edit of the rote answers shows.

The settings were chosen on fact seed 5, the judgement's chance was corrected after seeds 10 to 14,
and seeds 30 to 34 are reported (results/benchmarks/trained.csv); seed 20 is none of them.
"""

import pytest

from analysis.measures.judgement import SEPARATE, SHARED, UNBOUND
from benchmarks.trained import KINDS, Options, score

SEED = 20
CHANCE = 1 / 16


@pytest.fixture(scope="module")
def scores(organism) -> dict:
    return {kind: score(kind, SEED, organism, Options(permutations=99)) for kind in KINDS}


def test_all_three_remember_what_was_written_by_rote(scores):
    assert all(scores[kind]["recall_rote"] > 0.95 for kind in KINDS)
    assert all(scores[kind]["rote_edited"] > 0.9 for kind in KINDS), "the edit itself must take"


def test_test_prompts_are_answered_where_a_route_was_trained_and_only_there(scores):
    assert scores[SHARED]["recall_test"] > 5 * CHANCE
    assert scores[SEPARATE]["recall_test"] > 0.6
    assert scores[UNBOUND]["recall_test"] < 2 * CHANCE


def test_answers_follow_an_edit_by_rote_along_the_shared_route_alone(scores):
    assert scores[SHARED]["followed"] > 3 * scores[SHARED]["kept"]
    assert scores[SEPARATE]["kept"] > 3 * scores[SEPARATE]["followed"]
    assert max(scores[UNBOUND]["followed"], scores[UNBOUND]["kept"]) < 2 * CHANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_judgement_of_the_states_agrees(scores, kind):
    assert scores[kind]["label"] == kind, scores[kind]


def test_raw_cka_and_the_contrast_of_one_row_do_not_tell_two_codes_from_one(scores):
    """Both are well above 0 for codes that an edit shows to share nothing; transfer is not."""
    two = scores[SEPARATE]
    assert two["raw_cka"] > 0.2
    assert two["largest_row_contrast"] > 0.1
    assert two["transfer"] < 0.3 * scores[SHARED]["transfer"]
