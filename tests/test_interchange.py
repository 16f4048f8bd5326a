"""Interchange: labels on a model of known route, the arithmetic, the command on a tiny run."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from planted import LOOKUP, RELATIONS, SUBJECTS, planted_model, planted_objects, planted_prompts
from tiny_models import tiny_tokenizer

from analysis.interchange import Options, main
from analysis.measures.checks import NotIdentifiable
from analysis.measures.statistics import jackknife, mean_interval, permutation_p
from analysis.patching.lens import lens_pairs
from analysis.patching.running import Runner, constrained_answers, positions_of, vectors_for
from analysis.patching.shares import group_mean, sign_flip_null, summarise
from analysis.patching.trials import Asked, Plan, Trial, choose_pairs, choose_steerings
from analysis.tables import interchange
from analysis.tables.interchange import bands, interchange_lines, interchange_table
from probing.extraction import hidden_states
from probing.sites import site_names
from probing.states import Design
from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.runs.directory import Run
from training.runs.table_files import read_table

OBJECTS = planted_objects()
FACTS = {
    (s, r): Fact(s, r, obj, tuple(sorted({o for (_, q), o in OBJECTS.items() if q == r})))
    for (s, r), obj in OBJECTS.items()
}
PAIRS = choose_pairs(FACTS, SUBJECTS, RELATIONS, RELATIONS, 12)


def planted_trials(direction: str) -> list[Trial]:
    source, target = direction.split("->")
    return [
        Trial(
            pair,
            planted_prompts(target, pair.facts["nothing"].relation),
            planted_prompts(source, pair.facts["answer"].relation),
        )
        for pair in PAIRS
    ]


def outcomes(model, tokenizer, direction: str) -> dict[str, np.ndarray]:
    """Position -> what was freely answered, (n_pairs, n_sites); "none": with the target unchanged.

    An answer that only the restriction to candidates brought out is "unknown".
    """
    trials, runner = planted_trials(direction), Runner(model, tokenizer)
    found = {p: answers for p, *answers in runner.interchange(trials, site_names(model))}
    found["none"] = runner.unchanged(trials)
    return {
        position: np.where(free, labels, "unknown") for position, (labels, free) in found.items()
    }


def all_are(labels: np.ndarray, *expected: str) -> None:
    """Every pair has the expected outcome, site by site."""
    assert [sorted(set(column)) for column in labels.T] == [[outcome] for outcome in expected]


# The planted model reads the relation at the last token in its first layer, the subject in its
# third (LOOKUP), where it looks the answer up. Sites: embed, four layers, final norm.


def test_a_shared_route_moves_the_relation_before_the_answer_is_looked_up_and_the_answer_after():
    model, tokenizer = planted_model(shared=True)
    for direction in ("rote->semantic", "semantic->rote", "semantic->semantic"):
        labels = outcomes(model, tokenizer, direction)
        all_are(labels["none"], "nothing")
        # At the embedding the last token of a question is "?", that of a rote prompt the key token.
        first = {
            "rote->semantic": "relation",
            "semantic->rote": "unknown",
            "semantic->semantic": "nothing",
        }[direction]
        all_are(labels["last"], first, *["relation"] * LOOKUP, *["answer"] * (5 - LOOKUP))
        all_are(labels["subject_last"], *["subject"] * (LOOKUP + 1), *["nothing"] * (5 - LOOKUP))


def test_the_word_of_the_relation_carries_it_until_the_last_token_has_read_it():
    labels = outcomes(*planted_model(shared=True), "semantic->semantic")
    all_are(labels["relation_last"], "relation", *["nothing"] * 5)


def test_two_codes_of_one_answer_move_no_relation_from_semantic_to_rote():
    """Questions are answered by a code of their own: equal recall, no shared route.

    Patching from rote to semantic shows nothing of it.
    """
    model, tokenizer = planted_model(shared=False)
    labels = outcomes(model, tokenizer, "semantic->rote")
    all_are(labels["none"], "nothing")
    all_are(labels["last"], *["unknown"] * (LOOKUP + 1), *["answer"] * (5 - LOOKUP))
    all_are(outcomes(model, tokenizer, "semantic->semantic")["none"], "nothing")
    assert set(outcomes(model, tokenizer, "rote->semantic")["last"][:, 1]) == {"relation"}


# --- which pairs, where, and what is answered -------------------------------------------------


def test_pairs_have_four_objects_use_all_relations_and_never_share_a_subject_between_twos():
    pairs = choose_pairs(FACTS, SUBJECTS, RELATIONS, RELATIONS, 18)
    assert all(pair not in pairs[:i] for i, pair in enumerate(pairs)) and len(pairs) == 18
    assert all(len({fact.object for fact in pair.facts.values()}) == 4 for pair in pairs)
    groups: dict[str, set[int]] = {}
    for pair in pairs:
        couple = {fact.subject for fact in pair.facts.values()}
        assert len(couple) == 2
        for subject in couple:
            groups.setdefault(subject, set()).add(pair.group)
    assert all(len(of_subject) == 1 for of_subject in groups.values())
    ways = Counter(tuple(fact.relation for fact in pair.facts.values()) for pair in pairs)
    assert len(ways) == 6 and max(ways.values()) - min(ways.values()) <= 2
    assert pairs == choose_pairs(FACTS, SUBJECTS, RELATIONS, RELATIONS, 18)
    assert pairs != choose_pairs(FACTS, SUBJECTS, RELATIONS, RELATIONS, 18, seed=1)


def test_subjects_of_one_relation_only_are_not_identifiable():
    apart = {(f"{s} of {r}", r): fact for (s, r), fact in FACTS.items()}
    with pytest.raises(NotIdentifiable, match="same subjects in several relations"):
        choose_pairs(apart, [subject for subject, _ in apart], RELATIONS, RELATIONS, 4)


@pytest.mark.parametrize(
    ("family", "text", "word"),
    [
        ("test", "Who gave birth to {subject}?", "birth"),
        ("test", "{subject} was born to a woman named", "named"),
        ("test", "What is the first name of {subject}'s mum?", "mum"),
        ("test", "Who is it for {subject}?", "?"),
        ("rote", "{subject} is [X]", "]"),
    ],
)
def test_the_relation_ends_with_the_last_content_word_outside_the_subject(family, text, word):
    tokenizer = tiny_tokenizer()
    prompt = Prompt("mother", family, 0, text, "mother")
    subject = "Mum Birth"
    (index,) = positions_of(tokenizer, [Asked(prompt, subject)], "relation_last")
    ids = tokenizer(prompt.render(subject))["input_ids"]
    assert tokenizer.decode(ids[: index + 1]).endswith(word)
    assert subject not in tokenizer.decode(ids[: index + 1]) or text.index(
        "{subject}"
    ) < text.rindex(word)


def test_objects_that_begin_alike_are_told_apart_by_the_token_that_differs():
    options = [(1, 2, 0), (1, 3, 0), (4, 0), (1, 2, 5, 0)]
    after = {(): {1: 2.0, 4: 1.0, 9: 3.0}, (1,): {2: 1.0, 3: 0.0}, (1, 2): {5: 0.0, 0: 1.0}}

    def forward(rows, said):
        logits = torch.full((len(rows), 10), -5.0)
        for place, tokens in enumerate(said):
            for token, score in after[tokens].items():
                logits[place, token] = score
        yield list(range(len(rows))), logits

    chosen, free = constrained_answers(forward, [options, options[2:3] + options[1:2]])
    assert chosen == [0, 1]
    # Token 9 is what the model would say, and no candidate says it.
    assert free == [False, False]
    after[()] = {1: 2.0}
    assert constrained_answers(forward, [options])[1] == [True]
    with pytest.raises(BadInput, match="same tokens"):
        constrained_answers(forward, [[(1, 0), (1, 0)]])


def test_labels_say_which_part_of_the_source_came_into_the_target():
    """The planted truth fails if source and target, or subject and relation, are exchanged."""
    facts = PAIRS[0].facts
    keys = {label: (fact.subject, fact.relation) for label, fact in facts.items()}
    (target, asked), (source, moved) = keys["nothing"], keys["answer"]
    assert (keys["relation"], keys["subject"]) == ((target, moved), (source, asked))
    trial = planted_trials("semantic->rote")[0]
    assert (trial.target.subject, trial.target.prompt.family) == (target, "rote")
    assert (trial.source.subject, trial.source.prompt.family) == (source, "test")
    assert {label: trial.label(fact.object) for label, fact in facts.items()} == {
        label: label for label in facts
    }


# --- relation vectors -------------------------------------------------------------------------


def test_the_planted_relation_vector_moves_unseen_subjects_and_its_controls_do_not():
    model, tokenizer = planted_model(shared=True)
    seen, unseen = SUBJECTS[:6], SUBJECTS[6:]
    steerings = choose_steerings(FACTS, unseen, RELATIONS, 6)
    assert len({s.facts["nothing"].subject for s in steerings}) == 6
    sites = site_names(model)
    keys = {
        r: hidden_states(model, tokenizer, [planted_prompts("rote", r).render(s) for s in seen])
        .double()
        .mean(0)
        .numpy()
        for r in RELATIONS
    }
    trials = [Trial(s, planted_prompts("semantic", s.facts["nothing"].relation)) for s in steerings]
    vectors = {
        kind: vectors_for(steerings, keys, None, kind) for kind in ("own", "wrong", "random")
    }
    lengths = {kind: np.linalg.norm(v, axis=-1) for kind, v in vectors.items()}
    np.testing.assert_allclose(lengths["random"], lengths["own"])
    runner = Runner(model, tokenizer)
    found = {kind: runner.steer(trials, added, sites)[0] for kind, added in vectors.items()}
    # The lookup reads the block that brings the relation; nothing after it does.
    before = slice(1, LOOKUP + 1)
    assert set(found["own"][:, before].ravel()) == {"relation"}
    assert set(found["wrong"][:, before].ravel()) == {"wrong"}
    assert "relation" not in set(found["random"][:, 1])


# --- arithmetic -------------------------------------------------------------------------------


def test_the_interval_leaves_out_a_whole_group_at_once():
    rng = np.random.default_rng(0)
    values, groups = rng.random(24), np.repeat(np.arange(8), 3)
    one = group_mean(values, groups)
    expected = jackknife(lambda x, _: x.mean(), values[:, None], values[:, None], groups)
    assert [one.value, one.low, one.high] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    alone = group_mean(values, np.arange(24))
    plain = mean_interval(values)
    assert [alone.low, alone.high] == pytest.approx([plain.low, plain.high])


def test_the_sign_flips_keep_their_level_when_trials_of_a_group_agree():
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(12), 2)
        difference = np.repeat(rng.choice([-1.0, 0.0, 1.0], size=12), 2)[None]
        null = sign_flip_null(difference, groups, 199, seed)
        p.append(permutation_p(difference.mean(), null[:, 0]))
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 0.03


def test_the_centred_lens_reads_past_a_candidate_that_is_always_likely():
    rng = np.random.default_rng(0)
    own = rng.permutation(np.arange(24) % 4)
    logits = rng.normal(size=(24, 2, 4)) * 0.1
    logits[:, 1] += np.eye(4)[own]
    logits[..., 2] += 5
    tokens = np.tile([7, 3, 9, 1], (24, 1))
    said = {centred: lens_pairs(logits, tokens, own, centred=centred) for centred in (False, True)}
    right = {
        centred: np.diagonal(pairs, axis1=1, axis2=2).mean(axis=1)
        for centred, pairs in said.items()
    }
    assert right[False] == pytest.approx([0.25, 0.25])
    assert right[True][1] == 1
    assert right[True][0] < 0.6


def lens_table(layer: int | None) -> pd.DataFrame:
    """The lens finds the answer from `layer` on, at the last checkpoint's rote prompts."""
    common = {"relation": "bound", "family": "rote", "measure": "lens"}
    table = pd.DataFrame(
        {**common, "checkpoint": c, "layer": k, "site": f"resid_post.{k}"}
        for c in ("100", "200")
        for k in range(6)
    )
    read = (table.checkpoint == "200") & (table.layer >= (6 if layer is None else layer))
    return table.assign(null_p_max=np.where(read, 0.01, 0.6))


def trial_items(moved: dict[str, list[int]]) -> pd.DataFrame:
    """16 trials in 8 couples; in all of them the relation moves at a checkpoint's given layers."""
    return pd.DataFrame(
        {
            "checkpoint": checkpoint,
            "phase": {"100": "memorize", "200": "generalize"}[checkpoint],
            "epoch": 1,
            "step": 1,
            "relation": "bound",
            "family": "rote",
            "split": "held-out",
            "direction": "semantic->rote",
            "vector": "state",
            "position": "last",
            "trial": trial,
            "group": trial // 2,
            "site": f"resid_post.{layer}",
            "layer": layer,
            "outcome": "relation"
            if layer in moved.get(checkpoint, ())
            else ("nothing", "other")[trial % 2],
            "free": True,
            "n_candidates": 32,
        }
        for checkpoint in ("100", "200")
        for trial in range(16)
        for layer in range(6)
    )


@pytest.mark.parametrize(
    ("moved", "decodable", "expected"),
    [
        ({"200": [2, 3]}, 4, ["resid_post.2", "resid_post.3"]),
        ({"200": [2, 3]}, 3, ["resid_post.2"]),
        ({"200": [2, 3]}, 2, []),
        ({"200": [2, 3]}, None, ["resid_post.2", "resid_post.3"]),
        ({"100": [2, 3], "200": [2, 3]}, 4, []),
        ({}, 4, []),
    ],
)
def test_a_band_is_what_training_added_before_the_answer_is_decodable(moved, decodable, expected):
    table = summarise(trial_items(moved), lens_table(decodable), draws=499)
    (found,) = bands(table)
    assert found["sites"] == expected
    said = "\n".join(interchange_lines(table))
    assert ("band before the answer" in said) == bool(expected)
    assert ("no band" in said) == (not expected)


# --- on a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tiny_run, tmp_path_factory):
    """The tiny run's plan of 6 pairs; results go elsewhere."""
    run = Run.open(tiny_run, out=tmp_path_factory.mktemp("interchange"))
    return Plan(Design.of(run, families=("test",)), pairs=6)


@pytest.fixture(scope="module")
def tables(plan):
    return interchange_table(plan.design, pairs=6, permutations=99)


def test_the_outcome_shares_of_every_site_add_up_to_one(plan, tables):
    table, items = tables
    keys = ["checkpoint", "relation", "direction", "vector", "position", "layer"]
    shares = table[table.measure == "share"]
    np.testing.assert_allclose(shares.groupby(keys).value.sum(), 1)
    assert not shares.duplicated([*keys, "outcome"]).any()
    names = {c.name for c in plan.design.checkpoints}
    assert set(shares.checkpoint) == set(items.checkpoint) == names
    assert set(shares.relation) == {"bound", "unbound"}
    assert set(items[items.vector == "state"].position) == {
        "last",
        "subject_last",
        "relation_last",
        "none",
    }


def test_unchanged_rote_prompts_keep_their_answer_and_another_key_token_gives_another(tables):
    """The tiny run recalls everything by rote; the vector at the embedding swaps the key token."""
    _, items = tables
    memorized = items[items.phase == "memorize"]
    unpatched = memorized[
        (memorized.direction == "semantic->rote") & (memorized.position == "none")
    ]
    assert (unpatched.outcome == "nothing").all() and unpatched.free.all()
    at_home = memorized[(memorized.direction == "vector->rote") & (memorized.site == "embed")]
    assert (at_home.outcome == "relation").all()


def test_a_checkpoint_that_was_done_before_is_not_patched_again(plan, tables, monkeypatch):
    monkeypatch.setattr(interchange, "trial_rows", lambda *_: pytest.fail("patched again"))
    monkeypatch.setattr(interchange, "lens_rows", lambda *_: pytest.fail("read again"))
    again, _ = interchange_table(plan.design, pairs=6, permutations=99)
    pd.testing.assert_frame_equal(again, tables[0])


def test_scored_subjects_are_held_out_and_vectors_come_from_others(plan, tables):
    _, items = tables
    split = {fact.subject: fact.split for fact in plan.design.run.facts}
    assert {split[s] for s in items.subject} == {"held-out"}
    assert {split[s] for s in items.source_subject.dropna()} == {"held-out"}
    assert {split[s] for s in plan.subjects[1]} == {"seen"}


def test_the_verdict_names_directions_positions_and_checkpoints(tables):
    text = "\n".join(interchange_lines(tables[0]))
    for words in (
        "rote->semantic",
        "semantic->rote",
        "subject_last",
        "100-memorize-epoch-20 1.00",
        "unbound source",
        "vector->bare",
    ):
        assert words in text
    assert "no band" in text or "band before the answer" in text


def test_the_command_draws_and_says_what_it_wrote(own_run, capsys):
    main(Options(own_run, pairs=4, every=2, permutations=19))
    said = capsys.readouterr().out.splitlines()
    assert any("patched prompts at 3 checkpoints" in line for line in said)
    assert said[-1].startswith("wrote ") and "next: python -m figures.report" in said[-1]
    assert {"interchange.png", "interchange_vectors.svg"} <= {
        p.name for p in (own_run / "figures").iterdir()
    }
    sites = read_table(own_run, "interchange_items").site
    assert set(sites) == {"none", "embed", "resid_post.1", "final_norm"}


def test_a_checkpoint_that_is_not_there_is_named(own_run, command):
    done = command("analysis.interchange", own_run, "--checkpoints", "300-nothing")
    assert done.returncode == 2
    assert "no checkpoint '300-nothing'" in done.stderr
