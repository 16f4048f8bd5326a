"""Phase 1 once more: new people behind the trained key tokens, in a run of its own."""

from collections import Counter

import pytest
import torch

from training import extend, generalize, recall
from training.base.errors import OtherSettings, UserError
from training.base.files import read_json, write_json
from training.data.fact_files import read_facts
from training.data.prompts import read_prompts
from training.data.selection import chosen_facts, new_facts
from training.extend import Options
from training.runs.checkpoints import list_checkpoints
from training.runs.directory import Run
from training.runs.table_files import read_table

FEW = {"epochs": 1, "batch_size": 4, "facts_per_sequence": 2, "precision": "float32"}


@pytest.mark.parametrize("people", [-1, 3])
def test_new_people_share_no_name_with_the_old_and_have_their_relations_and_splits(
    tiny_run, people
):
    old = read_facts(tiny_run / "facts.csv")
    new = new_facts(old, people=people, seed=1)
    subjects = {f.subject for f in new}
    parts = {part for f in old for part in f.subject.split()}
    assert not {part for subject in subjects for part in subject.split()} & parts
    assert len(subjects) == (people if people > 0 else len({f.subject for f in old}))
    assert {f.split for f in new} == {"seen", "held-out"}
    assert {(f.relation, f.bound) for f in new} == {(f.relation, f.bound) for f in old}
    if people < 0:
        assert Counter((f.relation, f.object) for f in new) == Counter(
            (f.relation, f.object) for f in old
        )
    assert new == new_facts(old, people=people, seed=1) != new_facts(old, people=people, seed=2)


@pytest.mark.parametrize("people", [0, 1000])
def test_a_number_of_people_out_of_range_is_refused(tiny_run, people):
    with pytest.raises(UserError, match=f"--people is {people}"):
        new_facts(read_facts(tiny_run / "facts.csv"), people=people, seed=1)


def test_it_starts_from_the_last_checkpoint_with_its_key_tokens_and_can_be_measured(
    tiny_run, tmp_path, capsys
):
    before = sorted(p.name for p in (tiny_run / "checkpoints").iterdir())
    extend.main(Options(tiny_run, out=tmp_path / "more", **FEW))
    run = Run.open(tmp_path / "more")
    assert [c.phase for c in run.checkpoints] == ["base", "memorize"]
    base, tokenizer = run.checkpoints[0].load()
    parent, parents_tokenizer = list_checkpoints(tiny_run)[-1].load()
    assert tokenizer.get_vocab() == parents_tokenizer.get_vocab()
    assert all(
        torch.equal(a, b) for a, b in zip(base.parameters(), parent.parameters(), strict=True)
    )
    assert run.checkpoints[0].key_tokens
    trained, _ = run.checkpoints[1].load()
    assert not all(
        torch.equal(a, b) for a, b in zip(trained.parameters(), base.parameters(), strict=True)
    )
    recall.main(recall.Options(run.path, families=("rote", "test")))
    assert set(read_table(run.path, "recall").phase) == {"base", "memorize"}
    assert sorted(p.name for p in (tiny_run / "checkpoints").iterdir()) == before
    record = read_json(run.path / "run.json")
    assert record["parent"]["checkpoint"] == before[-1]
    assert record["model"] == read_json(tiny_run / "run.json")["model"]
    capsys.readouterr()
    extend.main(Options(tiny_run, out=tmp_path / "more", **FEW))
    assert "extend is finished" in capsys.readouterr().out
    with pytest.raises(OtherSettings, match="holds another run"):
        extend.main(Options(tiny_run, out=tmp_path / "more", start=before[1], **FEW))


def test_who_was_shown_in_phase_2_as_others_is_not_new(tiny_run, tmp_path):
    old, seed = read_facts(tiny_run / "facts.csv"), read_json(tiny_run / "run.json")["seed"]
    shown, _ = chosen_facts(
        old,
        read_prompts(tiny_run / "prompts.json"),
        people=-1,
        prompts=1,
        about="others",
        seed=seed,
    )
    generalize.main(
        generalize.Options(
            tiny_run, out=tmp_path / "others", about="others", prompts=1, precision="float32"
        )
    )
    extend.main(Options(tmp_path / "others", out=tmp_path / "more", **FEW))
    new = {f.subject for f in read_facts(tmp_path / "more" / "facts.csv")}
    assert not new & {f.subject for f in shown}
    assert len(new) == len({f.subject for f in old})


def test_a_check_says_who_is_new_and_what_it_costs(tiny_run, tmp_path):
    run = Run.open(tiny_run)
    options = Options(tiny_run, out=tmp_path / "more", people=3, seed=1, **FEW)
    work = extend.check(options, run.facts, run.prompts)
    extend.main(options)
    assert work.facts == read_facts(tmp_path / "more" / "facts.csv")
    assert work.prompts == run.prompts
    log = (tmp_path / "more" / "log.jsonl").read_text().splitlines()
    assert (work.steps, work.tokens) == (len(log), FEW["batch_size"] * 12)
    options.people = 1000
    with pytest.raises(UserError, match="--people is 1000"):
        extend.check(options, run.facts, run.prompts)


def test_the_folder_of_another_run_is_not_trained_on(tiny_run, tmp_path):
    memorized = list_checkpoints(tiny_run)[1].name
    generalize.main(
        generalize.Options(tiny_run, out=tmp_path / "few", prompts=1, precision="float32")
    )
    before = sorted(p.name for p in (tmp_path / "few" / "checkpoints").iterdir())
    for start in ("", memorized):
        with pytest.raises(OtherSettings, match="holds another run"):
            extend.main(Options(tiny_run, out=tmp_path / "few", start=start, **FEW))
    assert sorted(p.name for p in (tmp_path / "few" / "checkpoints").iterdir()) == before


def test_phase_2_does_not_start_from_an_unfinished_later_phase_1(tiny_run, tmp_path):
    extend.main(Options(tiny_run, out=tmp_path / "more", **FEW))
    record = read_json(tmp_path / "more" / "run.json")
    record["phases"]["memorize"]["complete"] = False
    write_json(tmp_path / "more" / "run.json", record)
    with pytest.raises(UserError, match="phase 1 is not finished"):
        generalize.main(generalize.Options(tmp_path / "more", prompts=1))


def test_people_of_a_later_phase_1_have_none_after_them(tiny_run, tmp_path):
    extend.main(Options(tiny_run, out=tmp_path / "more", **FEW))
    with pytest.raises(UserError, match="shares part of a name with a subject"):
        extend.main(Options(tmp_path / "more", out=tmp_path / "still-more", **FEW))


def test_a_checkpoint_that_is_not_there_is_named(tiny_run, tmp_path):
    with pytest.raises(UserError, match="no checkpoint 'nothing'"):
        extend.main(Options(tiny_run, out=tmp_path / "more", start="nothing", **FEW))
    assert not (tmp_path / "more").exists()
