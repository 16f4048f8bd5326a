"""Phase 1 once more: new people behind key tokens that keep what they became, in a run of its own."""

from collections import Counter

import pytest
import torch

from training import extend, recall
from training.checkpoints import list_checkpoints, load_checkpoint
from training.errors import UserError
from training.extend import Options, new_facts
from training.facts import read_facts
from training.files import read_json
from training.runs import OtherSettings, open_run
from training.tables import read_table

FEW = {"epochs": 1, "batch_size": 4, "facts_per_sequence": 2, "precision": "float32"}


@pytest.mark.parametrize("people", [-1, 3])
def test_new_people_share_no_name_with_the_old_and_have_their_relations_and_splits(tiny_run, people):
    old = read_facts(tiny_run / "facts.csv")
    new = new_facts(old, people=people, seed=1)
    subjects = {f.subject for f in new}
    parts = {part for f in old for part in f.subject.split()}
    assert not {part for subject in subjects for part in subject.split()} & parts
    assert len(subjects) == (people if people > 0 else len({f.subject for f in old}))
    assert {f.split for f in new} == {"seen", "held-out"}
    assert {(f.relation, f.bound) for f in new} == {(f.relation, f.bound) for f in old}
    if people < 0:
        assert Counter((f.relation, f.object) for f in new) == Counter((f.relation, f.object) for f in old)
    assert new == new_facts(old, people=people, seed=1) != new_facts(old, people=people, seed=2)


@pytest.mark.parametrize("people", [0, 1000])
def test_a_number_of_people_out_of_range_is_refused(tiny_run, people):
    with pytest.raises(UserError, match=f"--people is {people}"):
        new_facts(read_facts(tiny_run / "facts.csv"), people=people, seed=1)


def test_it_starts_from_the_last_checkpoint_with_its_key_tokens_and_can_be_measured(tiny_run, tmp_path, capsys):
    before = sorted(p.name for p in (tiny_run / "checkpoints").iterdir())
    extend.main(Options(tiny_run, out=tmp_path / "more", **FEW))
    run = open_run(tmp_path / "more")
    assert [c.phase for c in run.checkpoints] == ["base", "memorize"]
    base, tokenizer = load_checkpoint(run.checkpoints[0])
    parent, parents_tokenizer = load_checkpoint(list_checkpoints(tiny_run)[-1])
    assert tokenizer.get_vocab() == parents_tokenizer.get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), parent.parameters(), strict=True))
    assert run.checkpoints[0].key_tokens
    trained, _ = load_checkpoint(run.checkpoints[1])
    assert not all(torch.equal(a, b) for a, b in zip(trained.parameters(), base.parameters(), strict=True))
    recall.main(recall.Options(run.path, families=("rote", "test")))
    assert set(read_table(run.path, "recall").phase) == {"base", "memorize"}
    assert sorted(p.name for p in (tiny_run / "checkpoints").iterdir()) == before
    record = read_json(run.path / "run.json")
    assert record["parent"]["checkpoint"] == before[-1]
    assert record["model"] == read_json(tiny_run / "run.json")["model"]
    capsys.readouterr()
    extend.main(Options(tiny_run, out=tmp_path / "more", **FEW))
    assert "extend is finished" in capsys.readouterr().out
    with pytest.raises(OtherSettings):
        extend.main(Options(tiny_run, out=tmp_path / "more", start=before[1], **FEW))


def test_a_checkpoint_that_is_not_there_is_named(tiny_run, tmp_path):
    with pytest.raises(UserError, match="no checkpoint 'nothing'"):
        extend.main(Options(tiny_run, out=tmp_path / "more", start="nothing", **FEW))
    assert not (tmp_path / "more").exists()
