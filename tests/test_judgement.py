"""The judgement is right where the truth was planted, and says so where it cannot know."""

import numpy as np
import pandas as pd
import pytest

from analysis.measures.judgement import (
    OPEN,
    SEPARATE,
    SHARED,
    UNBOUND,
    Evidence,
    decide,
    judge,
    object_permutation_p,
)
from analysis.measures.transfer import Transfer
from benchmarks.planted import KINDS, Options, planted, score, summary

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")
SMALL = Options(draws=8, subjects=64, objects=8, width=32, prompts=1, permutations=199)


@pytest.fixture(scope="module")
def scores():
    return pd.DataFrame([score(kind, seed, SMALL) for kind in KINDS for seed in range(SMALL.draws)])


def test_every_kind_is_labelled_as_it_was_planted(scores):
    assert summary(scores).error_rate.max() <= 1 / 8
    assert (scores.label == scores.kind).mean() >= 23 / 24


def test_what_is_planted_differs_in_transfer_and_not_in_recall(scores):
    mean = scores.groupby("kind")[["transfer", "ceiling_rote", "ceiling_semantic"]].mean()
    assert mean.ceiling_rote.min() > 0.6
    assert abs(mean.ceiling_semantic[SEPARATE] - mean.ceiling_semantic[SHARED]) < 0.1
    assert mean.transfer[SHARED] > 0.6
    assert mean.transfer[SEPARATE] < 0.25


def test_raw_cka_and_the_row_contrast_do_not_tell_the_kinds_apart(scores):
    """Two codes look like a route, and without binding one relation still beats all others."""
    by_kind = scores.groupby("kind")
    assert by_kind.raw_cka.mean()[SEPARATE] > 0.3
    assert by_kind.contrast.mean()[SEPARATE] > 0.2
    assert (scores[scores.kind == SEPARATE].contrast_p <= 0.05).all()
    assert by_kind.largest_row_contrast.min()[UNBOUND] > 0.05
    assert by_kind.raw_cka.min()[UNBOUND] > 0.1


# --- what may be said without numbers, or with odd ones


def test_without_a_control_nothing_is_claimed_however_strong_the_transfer():
    rote, semantic, objects, relations, subjects = planted(SHARED, 0, SMALL).flat()
    one = relations == 0
    alone = judge(rote[one], semantic[:, one], objects[one], relations[one], subjects[one], n=19)
    assert alone.label == OPEN
    assert "one relation only" in alone.why
    assert alone.evidence[0].value > 0.6
    disjoint = judge(rote, semantic, objects, relations, subjects + 1000 * relations, n=19)
    assert disjoint.label == OPEN
    assert "different subjects" in disjoint.why
    unique = judge(rote, semantic, np.arange(len(rote)), relations, subjects, n=19)
    assert unique.label == OPEN
    assert "different objects" in unique.why


def test_the_order_of_the_facts_does_not_matter():
    flat = planted(SEPARATE, 1, SMALL).flat()
    order = np.random.default_rng(0).permutation(len(flat[0]))
    shuffled = judge(flat[0][order], flat[1][:, order], *(part[order] for part in flat[2:]), n=19)
    plain = judge(*flat, n=19)
    assert shuffled.label == plain.label
    assert shuffled.evidence[0].value == pytest.approx(plain.evidence[0].value)


def accuracy(name, value, half=0.1, p=0.005):
    return Evidence(name, value, value - half, value + half, p, 0.1, 40)


GOOD = {
    "transfer": accuracy("transfer", 0.7),
    "rote": accuracy("rote", 0.9),
    "semantic": accuracy("semantic", 0.8),
}
NOTHING = accuracy("transfer", 0.1, 0.06, 0.5)
CASES = {
    "shared": ({}, SHARED, "clear"),
    "no transfer": ({"transfer": NOTHING}, SEPARATE, "clear"),
    "no answer in the semantic states": (
        {"transfer": NOTHING, "semantic": accuracy("semantic", 0.12, 0.06, 0.4)},
        UNBOUND,
        "clear",
    ),
    "nothing learned": ({"rote": accuracy("rote", 0.1, 0.06, 0.5)}, OPEN, ""),
    "too few to tell": ({"transfer": accuracy("transfer", 0.3, 0.3, 0.2)}, OPEN, ""),
    "a part of it": ({"transfer": accuracy("transfer", 0.3, 0.06)}, OPEN, ""),
    "a trace of it": ({"transfer": accuracy("transfer", 0.18, 0.06)}, SEPARATE, "tentative"),
    "a trace of an answer": (
        {"transfer": NOTHING, "semantic": accuracy("semantic", 0.18, 0.06)},
        UNBOUND,
        "tentative",
    ),
    "wide ceiling": (
        {"transfer": NOTHING, "semantic": accuracy("semantic", 0.3, 0.4, 0.2)},
        OPEN,
        "",
    ),
    "unbound relations too": ({"unbound": accuracy("unbound", 0.6)}, OPEN, ""),
    "unbound at chance": ({"unbound": accuracy("unbound", 0.1, 0.06, 0.6)}, SHARED, "clear"),
    "no interchange band": (
        {"interchange": Evidence("interchange", 0.02, -0.05, 0.1, 0.4)},
        SHARED,
        "tentative",
    ),
    "not measured": ({"transfer": Evidence("transfer", np.nan, reason="no probe")}, OPEN, ""),
    "a missing control": ({"missing": ["one relation only"]}, OPEN, ""),
}


@pytest.mark.parametrize(("change", "label", "sure"), CASES.values(), ids=CASES)
def test_the_rule(change, label, sure):
    parts = {**GOOD, **change}
    judged = decide(parts.pop("transfer"), parts.pop("rote"), parts.pop("semantic"), **parts)
    assert (judged.label, judged.sure) == (label, sure)
    assert judged.why


def test_luck_between_two_codes_of_few_objects_is_luck_of_objects_not_of_subjects():
    """A probe that confuses two codes is right about all subjects of an object, or none."""
    rng, by_object, by_subject = np.random.default_rng(0), [], []
    for _ in range(200):
        labels = np.arange(80) % 8
        confused = rng.permutation(8)[labels]
        found = Transfer(confused[None, :, None], labels, np.zeros(80, dtype=int), (None,))
        value, p = object_permutation_p([found], 99, rng)
        hits = [np.mean(confused[rng.permutation(80)] == labels) for _ in range(99)]
        by_object.append(p <= 0.05)
        by_subject.append((1 + np.sum(np.array(hits) >= value)) / 100 <= 0.05)
    assert np.mean(by_object) <= 0.08
    assert np.mean(by_subject) > 0.2
