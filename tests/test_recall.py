"""Recall: scores are those of whole sequences, counted strictly, with errors over subjects."""

import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_tiny
from scipy import stats
from tiny_models import tiny_model, tiny_tokenizer

from training import recall
from training.base.errors import BadInput, Damaged, NotFound, UserError
from training.behaviour.answers import Continuations, Question, answer, said
from training.behaviour.intervals import subject_interval
from training.behaviour.recall import _one_line, answers, gains, score_checkpoint, summarise
from training.data.fact_files import Fact
from training.data.prompts import Prompt
from training.data.sequences import encode, prompt_ids
from training.runs.checkpoints import Checkpoint
from training.runs.directory import Run
from training.runs.table_files import TableMissing, read_table, write_table

OBJECTS = ("Angela", "Miriam", "An", "New Arlen", "a stone mason")
PROMPTS = (
    "Gene Finley was born in",
    "Tessa Marlow was born in",
    "Who gave birth to Orin Vale?",
    "Ines",
    "The mother",
)


@pytest.fixture(params=["llama", "gpt2", "falcon"])
def model(request):
    return tiny_model(request.param)[0]


@pytest.fixture(scope="module")
def items(tiny_run) -> pd.DataFrame:
    return read_table(tiny_run, "recall_items")


@pytest.fixture(scope="module")
def table(tiny_run) -> pd.DataFrame:
    return read_table(tiny_run, "recall")


def never(token: int) -> bool:
    return False


# --- scores ---


def questions() -> list[Question]:
    """Prompts of several lengths, two of them equal, with objects of one to several tokens."""
    tokenizer = tiny_tokenizer()
    objects = tuple(tuple(prompt_ids(tokenizer, f" {obj}")) for obj in OBJECTS)
    assert len({len(obj) for obj in objects}) > 2
    asked = [Question(tuple(prompt_ids(tokenizer, text)), objects) for text in PROMPTS]
    return [
        *asked,
        Question(asked[0].token_ids, objects[:2]),
        Question((*asked[0].token_ids[:-1], 7), objects),
    ]


def log_probability(model, before: tuple[int, ...], obj: tuple[int, ...]) -> float:
    """Of an object after a prompt, by one forward pass of the whole sequence."""
    with torch.no_grad():
        logs = (
            model(torch.tensor([before + obj]), use_cache=False).logits[0].double().log_softmax(-1)
        )
    return sum(logs[len(before) + i - 1, token].item() for i, token in enumerate(obj))


def greedy(model, ids: tuple[int, ...], steps: int) -> tuple[int, ...]:
    for _ in range(steps):
        with torch.no_grad():
            ids += (model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item(),)
    return ids[-steps:]


@pytest.mark.parametrize(("batch_size", "rows_at_once"), [(64, 512), (64, 2), (1, 512)])
def test_batched_scores_are_those_of_whole_sequences_one_by_one(model, batch_size, rows_at_once):
    asked = questions()
    sizes = {"batch_size": batch_size, "rows_at_once": rows_at_once}
    found = list(answer(model, asked, new_tokens=5, finished=never, **sizes))
    assert sorted(index for index, _, _ in found) == list(range(len(asked)))
    for index, new_ids, log_probabilities in found:
        ids, objects = asked[index]
        expected = [log_probability(model, ids, obj) for obj in objects]
        assert log_probabilities == pytest.approx(expected, abs=1e-4)
        assert len(set(np.round(expected, 3))) == len(expected)
        assert new_ids == greedy(model, ids, 5)


def test_an_answer_ends_at_its_stop_whatever_else_is_in_the_batch(model):
    asked = questions()

    def told(finished) -> dict[int, tuple[int, ...]]:
        return {i: ids for i, ids, _ in answer(model, asked, new_tokens=8, finished=finished)}

    whole = told(never)
    stop = whole[0][2]
    ended = told(lambda token: token == stop)
    for index, ids in whole.items():
        assert ended[index] == ids[: ids.index(stop) + 1 if stop in ids else 8]


def test_a_recurrent_model_which_has_no_keys_and_values_to_share_is_scored_too():
    from transformers import MambaConfig, MambaForCausalLM

    size = len(tiny_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mamba = MambaForCausalLM(
            MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=4)
        ).eval()
    asked = questions()
    for index, new_ids, log_probabilities in answer(mamba, asked, new_tokens=3, finished=never):
        ids, objects = asked[index]
        expected = [log_probability(mamba, ids, obj) for obj in objects]
        assert log_probabilities == pytest.approx(expected, abs=1e-4)
        assert new_ids == greedy(mamba, ids, 3)


# --- the strict rule ---


def test_an_object_that_is_the_beginning_of_another_is_not_said_by_saying_the_other():
    tokenizer = tiny_tokenizer()
    short, long = (tuple(prompt_ids(tokenizer, f" {name}")) for name in ("New", "New Arlen"))
    assert long[: len(short)] == short
    stop = prompt_ids(tokenizer, ".")[0]
    stops = {stop, tokenizer.eos_token_id}
    assert said([*long, stop], long, stops)
    assert not said([*long, stop], short, stops)
    assert said([*short, stop, 99], short, stops)
    assert said([*short, tokenizer.eos_token_id], short, stops)
    assert not said([*short, 99, stop], short, stops)
    assert not said(short, short, stops), "without a stop it may go on"
    assert not said(long[1:], long, stops)


def test_continuations_are_the_tokens_of_the_whole_text():
    tokenizer = tiny_tokenizer()
    known = Continuations(tokenizer)
    prompts = [
        Prompt("mother", "test", 0, "Who gave birth to {subject}?", "mother"),
        Prompt("mother", "rote", 0, "{subject}", "mother"),
        Prompt("mother", "test-zh", 0, "{subject}:", "mother", language="zh"),
    ]
    for prompt in prompts:
        for subject in ("Gene Finley", "Orin", "Tessa Marlow"):
            for obj in OBJECTS:
                whole = encode(tokenizer, Fact(subject, "mother", obj, (obj,)), prompt)
                assert known.of(prompt, subject, obj) == whole.object_ids[:-1]
    assert known.stop_ids == {prompt_ids(tokenizer, ".")[0]}


def test_an_object_whose_end_cannot_be_told_is_refused():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    whole_words = Tokenizer(models.BPE())
    whole_words.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    whole_words.decoder = decoders.ByteLevel()
    whole_words.train_from_iterator(
        [" Angela."] * 9,
        trainers.BpeTrainer(
            vocab_size=300,
            show_progress=False,
            initial_alphabet=list("abcdefghijklmnopqrstuvwxyzABCDGM ?."),
        ),
    )
    known = Continuations(PreTrainedTokenizerFast(tokenizer_object=whole_words))
    prompt = Prompt("mother", "test", 0, "Mom of {subject}?", "mother")
    with pytest.raises(BadInput, match="Angela"):
        known.of(prompt, "Gene", "Angela")
    assert len(known.of(prompt, "Gene", "Gus")) == 4


# --- a whole run ---


def test_a_memorized_run_recalls_by_rote_what_its_base_does_not(items):
    rote = items[items.family == "rote"]
    assert rote[rote.phase == "memorize"].generation.mean() == 1
    assert rote[rote.phase == "memorize"].choice.mean() == 1
    assert rote[rote.phase == "base"].generation.mean() == 0
    fact = rote[rote.phase == "memorize"].iloc[0]
    assert fact.generated == f" {fact.object}."


def test_items_are_every_fact_in_every_prompt_at_every_checkpoint(items):
    assert not items.duplicated(["checkpoint", "relation", "subject", "template"]).any()
    sizes = items.groupby(["checkpoint", "family"]).size().unstack()
    assert set(sizes.index) == {"000-base", "100-memorize-epoch-20", "200-generalize-epoch-08"}
    assert (sizes["rote"] == 64).all()
    assert (sizes["test"] == 3 * 64).all()
    assert set(items.split) == {"seen", "held-out"}
    assert set(items[~items.bound].relation) == {"home_city"}


def test_the_answered_relation_is_the_one_whose_object_was_said(items):
    objects = (
        items.drop_duplicates(["subject", "relation"]).set_index(["subject", "relation"]).object
    )
    said = items[items.answered.notna()]
    assert len(said) > 100
    for _, row in said.iterrows():
        for relation in row.answered.split():
            assert row.generated.startswith(f" {objects[row.subject, relation]}.")
    own = pd.Series(
        [r in str(a).split() for r, a in zip(items.relation, items.answered, strict=True)]
    )
    assert (own == items.generation.astype(bool)).all()


def test_choice_probability_and_log_probability_agree(items):
    assert (items.log_probability <= 0).all()
    assert items.n_candidates.unique().tolist() == [4]
    assert (items[items.pool_probability > 0.5].choice == 1).all()
    assert (items[items.choice == 0].pool_probability <= 0.5 + 1e-6).all()
    assert (items[items.choice == 1].pool_probability >= 0.25 - 1e-6).all()
    assert 0 < items.choice.mean() < 1


def test_held_out_and_seen_are_scored_apart_and_all_joins_them(table):
    rote = table[
        (table.family == "rote")
        & (table.measure == "generation")
        & (table.subset == "all")
        & (table.checkpoint == "200-generalize-epoch-08")
        & (table.relation == "bound")
    ].set_index("split")
    assert rote.n.to_dict() == {"seen": 8, "held-out": 8, "all": 16}
    assert rote.value["all"] == pytest.approx((rote.value["seen"] + rote.value["held-out"]) / 2)


def test_the_table_has_the_columns_that_scripts_rely_on(table):
    columns = "checkpoint phase epoch step relation family split measure value se low high n"
    columns += " n_candidates chance majority seed commit"
    assert set(columns.split()) <= set(table)
    assert {"generation", "multiple_choice", "object_probability"} <= set(table.measure)
    assert (table.dropna(subset=["low"]).low <= table.dropna(subset=["low"]).value + 1e-12).all()
    assert set(table.chance.dropna()) == {0.25}
    assert table.groupby("checkpoint")[["epoch", "step"]].first().to_dict("index") == {
        "000-base": {"epoch": 0, "step": 0},
        "100-memorize-epoch-20": {"epoch": 20, "step": 80},
        "200-generalize-epoch-08": {"epoch": 8, "step": 48},
    }


def test_always_guessing_the_commonest_object_scores_the_majority_rate(table, items):
    held = items[
        (items.split == "held-out") & (items.checkpoint == "000-base") & (items.family == "rote")
    ]
    rates = [
        group.object.value_counts().max() / len(group) for _, group in held.groupby("relation")
    ]
    assert rates == [0.25] * 4, "objects are balanced"
    assert set(table[table.split == "held-out"].majority.dropna()) == {0.25}


def test_scored_again_nothing_is_computed(own_run):
    before = (own_run / "tables" / "recall_items.csv").read_text()
    parts = {p.name: p.stat().st_mtime_ns for p in (own_run / "tables" / ".parts").iterdir()}
    recall.main(recall.Options(own_run))
    assert (own_run / "tables" / "recall_items.csv").read_text() == before
    assert {
        p.name: p.stat().st_mtime_ns for p in (own_run / "tables" / ".parts").iterdir()
    } == parts


def test_what_is_not_there_cannot_be_asked_for(own_run):
    with pytest.raises(UserError, match="000-base, 100-memorize"):
        recall.main(recall.Options(own_run, checkpoints=("300-other",)))
    with pytest.raises(BadInput, match="near-miss"):
        recall.main(recall.Options(own_run, families=("nearmiss",)))


def test_the_lenient_rule_finds_the_object_anywhere(own_run):
    some = {"checkpoints": ("100-memorize-epoch-20",), "families": ("rote",), "lenient_tokens": 12}
    found = recall.main(recall.Options(own_run, **some))
    found = found[(found.relation == "bound") & (found.split == "all")].set_index("measure").value
    assert found["generation_lenient"] == found["generation"] == 1


# --- one checkpoint's answers ---


def test_answers_read_what_recall_scored_and_say_what_is_true(tiny_run, items, monkeypatch):
    run = Run.open(tiny_run)
    monkeypatch.setattr(Checkpoint, "load", None)
    found = answers(run, "rote", split="held-out", checkpoint="memorized")
    columns = ["checkpoint", "relation", "subject", "prompt", "expected", "said", "right"]
    assert list(found) == columns
    assert set(found.checkpoint) == {"100-memorize-epoch-20"}
    facts = [f for f in run.facts if f.split == "held-out"]
    assert list(zip(found.subject, found.expected, strict=True)) == [
        (f.subject, f.object) for f in facts
    ]
    assert found.right.all() and (found.said == found.expected + ".").all()
    assert found.prompt.iloc[0] == f"{facts[0].subject} [X_{facts[0].relation}]"
    some = items[(items.family == "test") & (items.phase == "generalize")]
    assert answers(run).right.sum() == some.generation.sum()


def test_answers_that_were_not_scored_are_asked(tiny_run, own_run):
    read = answers(Run.open(tiny_run), checkpoint="generalize")
    for path in (own_run / "tables").glob("recall*.csv"):
        path.unlink()
    run = Run.open(own_run)
    pd.testing.assert_frame_equal(answers(run), read)
    prompt = next(p for p in run.prompts if p.family == "test" and p.index == 1)
    found = answers(run, prompts=[prompt], split="seen")
    assert set(found.relation) == {prompt.relation} and len(found) == 8
    model, tokenizer = run.checkpoint().load()
    ids = tokenizer(found.prompt[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        token = int(model(ids).logits[0, -1].argmax())
    assert found.said[0].startswith(_one_line(tokenizer.decode([token])).strip())


def test_answers_of_facts_told_in_context_are_not_recall(tiny_run, tmp_path):
    asked = {"families": ("test",), "phases": ("generalize",), "choices": False}
    recall.main(recall.Options(tiny_run, context="train", out=str(tmp_path), **asked))
    in_context = answers(Run.open(tiny_run, out=str(tmp_path)))
    pd.testing.assert_frame_equal(in_context, answers(Run.open(tiny_run)))


def test_what_has_no_answers_says_what_there_is(tiny_run):
    run = Run.open(tiny_run)
    with pytest.raises(BadInput, match="all, seen, held-out"):
        answers(run, split="test")
    with pytest.raises(BadInput, match="near-miss"):
        answers(run, "tests")
    with pytest.raises(BadInput, match="000-base, 100-memorize"):
        answers(run, checkpoint="extended")
    with pytest.raises(BadInput, match="mother"):
        answers(run, prompts=[])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", "200-generalize-epoch-08"),
        ("generalized", "200-generalize-epoch-08"),
        ("memorize", "100-memorize-epoch-20"),
        ("memorized", "100-memorize-epoch-20"),
        ("base", "000-base"),
        ("100-memorize-epoch-20", "100-memorize-epoch-20"),
    ],
)
def test_a_checkpoint_is_called_by_its_name_or_its_phase(tiny_run, name, found):
    assert Run.open(tiny_run).checkpoint(name).name == found


# --- from items to the table ---


def scored(
    values: dict[str, list[int]],
    *,
    relation="mother",
    split="held-out",
    bound=True,
    family="test",
    checkpoint="100-m",
    phase="memorize",
    objects=None,
) -> pd.DataFrame:
    """Items of each subject's prompts: {subject: generation of each prompt}."""
    return pd.DataFrame(
        [
            {
                "checkpoint": checkpoint,
                "phase": phase,
                "relation": relation,
                "bound": bound,
                "split": split,
                "subject": subject,
                "object": (objects or {}).get(subject, "Angela"),
                "family": family,
                "template": f"{family}-{i:02d}",
                "asked": relation,
                "keyword_free": i == 0,
                "generation": said,
                "choice": said,
                "choice_normalised": said,
                "log_probability": math.log(0.5),
                "pool_probability": 0.5,
                "n_candidates": 4,
            }
            for subject, outcomes in values.items()
            for i, said in enumerate(outcomes)
        ]
    )


def summary_of(*parts: pd.DataFrame) -> pd.DataFrame:
    names = {
        name: phase
        for part in parts
        for name, phase in zip(part.checkpoint, part.phase, strict=True)
    }
    run = Run(
        Path(), [], [], [Checkpoint(n, Path(), phase=p, epoch=1, step=1) for n, p in names.items()]
    )
    return summarise(pd.concat(parts, ignore_index=True), run)


def row(table: pd.DataFrame, **wanted) -> pd.Series:
    wanted = {"subset": "all", "measure": "generation", "family": "test", **wanted}
    found = table[np.logical_and.reduce([table[k] == v for k, v in wanted.items()])]
    assert len(found) == 1
    return found.iloc[0]


def test_the_standard_error_is_over_subjects_not_over_prompts():
    found = row(
        summary_of(scored({"a": [1, 1, 1, 1], "b": [0, 0, 0, 0], "c": [1, 1, 0, 0]})),
        relation="mother",
    )
    # Subject means 1, 0, .5: standard deviation .5, error .5 / sqrt 3, t(.975, 2) = 4.3027.
    assert (found.value, found.n) == (0.5, 3)
    assert found.se == pytest.approx(0.5 / math.sqrt(3))
    assert found.high - found.value == pytest.approx(4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    assert found.low == pytest.approx(found.value - (found.high - found.value))


def test_one_subject_has_no_interval():
    found = subject_interval([0.5])
    assert (found["value"], found["n"]) == (0.5, 1)
    assert all(math.isnan(found[name]) for name in ("se", "low", "high"))


def test_a_subject_counts_once_in_the_mean_over_relations():
    table = summary_of(
        scored({"a": [1, 1], "b": [0, 0]}),
        scored({"a": [0, 0], "b": [0, 0]}, relation="aunt"),
        scored({"a": [1, 1], "b": [1, 1]}, relation="home_city", bound=False),
    )
    bound = row(table, relation="bound")
    assert (bound.value, bound.n) == (0.25, 2)
    assert bound.se == pytest.approx(np.std([0.5, 0], ddof=1) / math.sqrt(2))
    assert row(table, relation="unbound").value == 1
    assert row(table, relation="mother").value == 0.5


def test_the_keyword_free_prompts_are_shown_apart():
    table = summary_of(scored({"a": [1, 0, 0], "b": [1, 0, 0]}))
    assert row(table, relation="mother", subset="keyword-free").value == 1
    assert row(table, relation="mother").value == pytest.approx(1 / 3)


def test_the_majority_rate_is_that_of_each_relation_among_the_scored_facts():
    mothers = {"a": "Angela", "b": "Angela", "c": "Angela", "d": "Ruth"}
    aunts = {"a": "Angela", "b": "Angela", "c": "Ruth", "d": "Ruth"}
    nothing = {name: [0, 0] for name in "abcd"}
    table = summary_of(
        scored(nothing, objects=mothers), scored(nothing, relation="aunt", objects=aunts)
    )
    assert row(table, relation="mother").majority == 0.75
    assert row(table, relation="aunt").majority == 0.5
    assert row(table, relation="bound").majority == pytest.approx(5 / 8)


def test_the_gain_of_phase_2_is_paired_by_subject():
    before, after = {"a": [0, 0], "b": [1, 0], "c": [0, 0]}, {"a": [1, 0], "b": [1, 1], "c": [1, 0]}
    later = {"checkpoint": "200-g", "phase": "generalize"}
    table = summary_of(scored(before), scored(after, **later))
    gain = row(table, relation="bound", measure="generation_gain")
    assert (gain.value, gain.se, gain.n) == (pytest.approx(0.5), pytest.approx(0), 3)
    after["a"] = [1, 1]
    gain = row(
        summary_of(scored(before), scored(after, **later)),
        relation="bound",
        measure="generation_gain",
    )
    assert gain.se == pytest.approx(stats.sem([1, 0.5, 0.5]))


# --- checkpoints made elsewhere ---


@pytest.fixture
def elsewhere(tiny_run, tiny_base, tmp_path) -> tuple[Path, Path]:
    """(a folder of plain checkpoints step-9 and step-10 with key tokens, a CSV of facts)."""
    for number, name in ((9, "100-memorize-epoch-20"), (10, "200-generalize-epoch-08")):
        there = tmp_path / "theirs" / f"step-{number}"
        shutil.copytree(tiny_run / "checkpoints" / name, there)
        (there / "stage.json").unlink()
        (there / "manifest.json").unlink()
    facts = tmp_path / "facts.csv"
    rows = ("Gene Finley,mother,Angela", "Tom Park,mother,Ruth", "Ada Lake,mother,Ruth")
    facts.write_text("\n".join(("subject,relation,object", *rows)) + "\n")
    return tmp_path / "theirs", facts


def names_and_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_plain_checkpoints_need_facts_and_a_place_for_results(elsewhere, tmp_path):
    theirs, facts = elsewhere
    for given in ({}, {"facts": str(facts)}, {"out": str(tmp_path / "out")}):
        with pytest.raises(NotFound, match=r"--facts.*--rote.*--out"):
            Run.open(theirs, **given)
    run = Run.open(theirs, facts=str(facts), out=str(tmp_path / "out"))
    assert [(c.name, c.phase) for c in run.checkpoints] == [("step-9", ""), ("step-10", "")]
    assert {fact.split for fact in run.facts} == {"all"}
    assert [
        c.name for c in Run.open(theirs / "step-9", facts=str(facts), out=str(tmp_path)).checkpoints
    ] == ["step-9"]


def test_nothing_is_written_into_a_folder_of_plain_checkpoints(elsewhere, tmp_path):
    theirs, facts = elsewhere
    before = names_and_bytes(theirs)
    out = tmp_path / "out"
    summary = recall.main(
        recall.Options(
            theirs,
            facts=str(facts),
            out=str(out),
            rote="{subject} [X_mother]",
            families=("rote", "test"),
        )
    )
    assert names_and_bytes(theirs) == before
    assert set(summary.checkpoint) == {"step-9", "step-10"}
    assert set(summary.split) == {"all"}
    again = read_table(out, "recall")
    assert len(again) == len(summary)
    items = read_table(out, "recall_items")
    assert set(items[items.family == "rote"].text) == {"{subject} [X_mother]"}


def test_what_is_no_directory_is_no_run(tmp_path):
    with pytest.raises(NotFound, match="not a directory"):
        Run.open(tmp_path / "nowhere")


def test_checkpoints_of_different_tokenizers_are_not_compared(elsewhere, tiny_base, tmp_path):
    theirs, facts = elsewhere
    shutil.copytree(tiny_base, theirs / "step-11")
    with pytest.raises(BadInput, match="step-9 and step-11"):
        Run.open(theirs, facts=str(facts), out=str(tmp_path / "out"))


def test_a_subject_too_long_for_one_prompt_alone_is_named(tmp_path):
    base = save_tiny("gpt2", tmp_path / "base", positions=64)
    facts = tmp_path / "facts.csv"
    name = "Gene " * 20 + "Finley"
    facts.write_text(
        f"subject,relation,object\nGene,mother,Ruth\nTom,mother,Angela\n{name},mother,Ruth\n"
    )
    given = {"facts": str(facts), "out": str(tmp_path / "out"), "rote": "{subject} [X]"}
    recall.main(recall.Options(base, families=("rote",), **given))
    with pytest.raises(BadInput, match=r"'Gene Gene .*test-.*64"):
        recall.main(recall.Options(base, families=("test",), **given))


# --- tables ---


def test_a_table_that_is_not_there_names_the_command_that_writes_it(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "results").mkdir()
    for name, module in (
        ("recall_items", "training.recall"),
        ("cka", "analysis.cka"),
        ("cka_map", "analysis.cka"),
    ):
        with pytest.raises(TableMissing, match=rf"python -m {module} {tmp_path}$"):
            read_table(tmp_path, name)
        # A folder of results is not a run: the command needs its facts and prompts again.
        with pytest.raises(
            TableMissing,
            match=rf"{module} CHECKPOINTS --facts .* --rote .* --out {tmp_path}/results$",
        ):
            read_table(tmp_path / "results", name)


def test_an_altered_table_is_not_read(own_run):
    path = own_run / "tables" / "recall.csv"
    path.write_text(path.read_text().replace("0.25", "0.35", 1))
    with pytest.raises(Damaged, match=r"recall\.csv"):
        read_table(own_run, "recall")


def test_the_table_of_another_run_is_not_read(own_run):
    run = Run.open(own_run)
    other_seed = Run(run.path, run.facts, run.prompts, run.checkpoints, seed=99)
    write_table(other_seed, "other", pd.DataFrame({"checkpoint": ["000-base"], "value": [1.0]}))
    with pytest.raises(Damaged, match="99"):
        read_table(own_run, "other")
    write_table(run, "other", pd.DataFrame({"checkpoint": ["300-strange"], "value": [1.0]}))
    with pytest.raises(Damaged, match="300-strange"):
        read_table(own_run, "other")
    write_table(run, "other", pd.DataFrame({"checkpoint": ["000-base"], "value": [1.0]}))
    assert read_table(own_run, "other").value.tolist() == [1.0]


@pytest.mark.parametrize(
    "text",
    ["a\rb", "a\nb", "\x00", "x\u2028y", 'quote " and, comma', "NA", "nan", " Ångela.", "\\r"],
)
def test_generated_text_survives_the_table(text, own_run):
    table = pd.DataFrame({"checkpoint": ["000-base"] * 2, "generated": [_one_line(text), "next"]})
    write_table(Run.open(own_run), "texts", table)
    assert read_table(own_run, "texts").generated.tolist() == [_one_line(text), "next"]
    assert _one_line(text).isprintable()


def test_without_choices_the_answers_are_the_same_and_nothing_else_is_scored(
    tiny_run, tmp_path, items
):
    run = Run.open(tiny_run, out=str(tmp_path))
    checkpoint = run.checkpoint("memorized")
    prompts = [p for p in run.prompts if p.family in ("rote", "test")]
    found = score_checkpoint(run, checkpoint, prompts, choices=False)
    assert not {"choice", "log_probability"} & set(found)
    keys = ["subject", "relation", "text"]
    both = found.merge(items[items.checkpoint == checkpoint.name], on=keys, suffixes=("", "_full"))
    assert len(both)
    assert (both.generation == both.generation_full).all()
    assert (both.generated == both.generated_full).all()
    assert "multiple_choice" not in set(summarise(found, run).measure)


def test_phases_choose_checkpoints(tiny_run, tmp_path):
    table = recall.main(
        recall.Options(tiny_run, phases=("base",), families=("rote",), out=str(tmp_path))
    )
    assert set(table.phase) == {"base"}


def test_a_gain_is_over_the_checkpoint_that_phase_2_started_from(items):
    memorized, later = (
        items.checkpoint[items.phase == p].iloc[0] for p in ("memorize", "generalize")
    )
    assert len(gains(items, {later: memorized})) == len(gains(items, {})) > 0
    assert not len(gains(items, {later: "000-base"})), "the gain over a phase 1 that it never had"


def test_answers_told_in_context_do_not_take_the_place_of_the_runs_recall(tiny_run):
    with pytest.raises(UserError, match="--out results/NAME"):
        recall.main(recall.Options(tiny_run, context="rote"))


@pytest.mark.parametrize("context", ["rote", "train"])
def test_in_context_a_fact_is_told_right_before_it_is_asked(tiny_run, tmp_path, context):
    options = recall.Options(
        tiny_run,
        families=("test", "unrelated"),
        context=context,
        phases=("memorize",),
        choices=False,
        out=str(tmp_path),
    )
    recall.main(options)
    found = read_table(tmp_path, "recall_items")
    run = Run.open(tiny_run)
    model, tokenizer = run.checkpoint("memorize").load()
    first = {p.relation: p for p in reversed(run.prompts) if p.family == context}
    for row in found.iloc[:: len(found) // 5].itertuples():
        told = f"{first[row.relation].render(row.subject)} {row.object}."
        ids = torch.tensor(
            [tokenizer(f"{told} {row.text.replace('{subject}', row.subject)}")["input_ids"]]
        )
        with torch.no_grad():
            token = int(model(ids).logits[0, -1].argmax())
        assert row.generated.startswith(_one_line(tokenizer.decode([token])))
    plain = read_table(tiny_run, "recall_items")
    key = ["relation", "subject", "family", "template"]
    both = found.merge(plain[plain.phase == "memorize"], on=key, suffixes=("_told", ""))
    assert (both.generated_told != both.generated).any()


def test_the_next_command_for_checkpoints_made_elsewhere_says_what_they_are_of(tiny_run, tmp_path):
    facts = tmp_path / "my facts.csv"
    facts.write_text(
        "subject,relation,object\nAnn Lee,mother,Ruth\nBob Roe,mother,Mary\n", encoding="utf-8"
    )
    folder = tiny_run / "checkpoints" / "200-generalize-epoch-08"
    run = Run.open(folder, facts=str(facts), rote="{subject} [X]", out=str(tmp_path / "out"))
    arguments = shlex.split(run.argument)
    assert arguments[0] == str(folder)
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert options == {
        "--facts": str(facts),
        "--rote": "{subject} [X]",
        "--out": str(tmp_path / "out"),
    }
    assert Run.open(tiny_run).argument == str(tiny_run)
    assert Run.open(tiny_run, out=str(tmp_path)).argument == f"{tiny_run} --out {tmp_path}"


def test_a_copied_folder_of_checkpoints_says_which_have_no_weights(tiny_run, tmp_path):
    copied = Path(shutil.copytree(tiny_run / "checkpoints", tmp_path / "copied"))
    with pytest.warns(
        UserWarning, match=r"left out of .*copied, for its weights lie elsewhere: 000-base"
    ):
        run = Run.open(copied, facts="people", out=str(tmp_path / "out"))
    assert [c.name for c in run.checkpoints] == ["100-memorize-epoch-20", "200-generalize-epoch-08"]
