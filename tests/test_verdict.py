"""The verdict of a run follows its tables; that of two checkpoints of one's own, their states."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import verdict
from analysis.measures.judgement import OPEN, SEPARATE, SHARED, UNBOUND
from analysis.tables.probes import ESTIMATOR, MEASURE
from analysis.tables.verdict import NO_INTERCHANGE, page, site_to_judge, verdicts
from probing.states import Design
from training.base.errors import BadInput, NotFound
from training.runs.directory import Run, key_row_note
from training.runs.table_files import TableMissing, read_table, write_table

SITES = ("embed", "resid_post.0", "resid_post.1", "resid_post.2", "final_norm")
CHANCE = 0.1


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    return Design.of(Run.open(tiny_run, out=tmp_path_factory.mktemp("verdict")), families=("test",))


# Gains over chance of rote->rote, semantic->semantic, rote->semantic, and what they mean.
RISING, FLAT = (0.0, 0.1, 0.7, 0.8, 0.8), (0.0,) * 5
KINDS = {
    SHARED: (RISING, RISING, RISING),
    SEPARATE: (RISING, RISING, FLAT),
    UNBOUND: (RISING, FLAT, FLAT),
    OPEN: (FLAT, FLAT, FLAT),
}
# Two codes that end in one word: the finished answer looks alike, before it nothing does.
LATE = (RISING, RISING, (0.0, 0.0, 0.0, 0.0, 0.8))


def probes_table(states, gains_of, unbound=FLAT) -> pd.DataFrame:
    rows = []
    for checkpoint in states.checkpoints:
        for direction, gains in zip(
            ("rote->rote", "semantic->semantic", "rote->semantic"),
            gains_of(checkpoint),
            strict=True,
        ):
            for side in ("bound", "unbound"):
                for layer, site in enumerate(SITES):
                    gain = (
                        gains[layer]
                        if side == "bound" or direction != "rote->semantic"
                        else unbound[layer]
                    )
                    rows.append(
                        {
                            "checkpoint": checkpoint.name,
                            "direction": direction,
                            "family": "rote" if direction == "rote->rote" else "test",
                            "relation": side,
                            "split": "held-out",
                            "measure": MEASURE,
                            "estimator": ESTIMATOR,
                            "site": site,
                            "layer": layer,
                            "value": CHANCE + gain,
                            "low": CHANCE + gain - 0.04,
                            "high": CHANCE + gain + 0.04,
                            "null_p": 0.005 if gain > 0.05 else 0.5,
                            "null_p_objects": 0.005 if gain > 0.05 else 0.5,
                            "null_p_objects_max": 0.005 if gain > 0.05 else 0.9,
                            "null_p_max": 0.005 if gain > 0.05 else 0.9,
                            "chance": CHANCE,
                            "n": 40,
                            "reason": "",
                        }
                    )
    return pd.DataFrame(rows)


def cka_table(states, value=0.3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "checkpoint": c.name,
            "measure": measure,
            "relation": "bound",
            "family": "test",
            "split": "held-out",
            "site": site,
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "null_p": 0.005,
            "n": 40,
            "reason": "",
        }
        for c in states.checkpoints
        for measure in ("contrast", "contrast_partialled")
        for site in SITES
    )


def interchange_table(states, band=0.5, *, decodable=3, direction="semantic->rote") -> pd.DataFrame:
    """A share of moved relations at one site of the last checkpoint, as in interchange.csv."""
    rows = []
    for c in states.checkpoints:
        moved = band if c.phase == "generalize" else 0.02
        for layer, site in enumerate(SITES):
            here = moved if site == "resid_post.1" else 0.01
            common = {
                "checkpoint": c.name,
                "relation": "bound",
                "split": "held-out",
                "direction": direction,
            }
            common |= {"vector": "state", "position": "last", "site": site, "layer": layer, "n": 40}
            common |= {"decodable_layer": decodable}
            shares = {"relation": here, "answer": 0.1, "subject": 0.0, "nothing": 0.9 - here}
            for outcome, share in shares.items():
                row = {
                    "measure": "share",
                    "outcome": outcome,
                    "value": share,
                    "low": share - 0.02,
                    "high": share + 0.02,
                }
                rows.append(common | row)
            if c is not states.checkpoints[0]:
                gain = {
                    "measure": "gain",
                    "outcome": "relation",
                    "value": here - 0.02,
                    "null_p_max": 0.01,
                }
                rows.append(common | gain | {"reference": states.checkpoints[0].name})
    return pd.DataFrame(rows)


def last(states, gains, *, unbound=FLAT, interchange=None):
    probes = probes_table(states, lambda _: gains, unbound)
    return verdicts(states, probes=probes, cka=cka_table(states), interchange=interchange)[-1]


@pytest.mark.parametrize(("label", "gains"), KINDS.items(), ids=KINDS)
def test_the_tables_of_each_kind_get_its_label(states, label, gains):
    assert last(states, gains, interchange=interchange_table(states)).judgement.label == label


def test_each_checkpoint_is_judged_by_its_own_rows(states):
    by_phase = {"base": KINDS[OPEN], "memorize": KINDS[UNBOUND], "generalize": KINDS[SHARED]}
    probes = probes_table(states, lambda c: by_phase[c.phase])
    found = verdicts(
        states, probes=probes, cka=cka_table(states), interchange=interchange_table(states)
    )
    assert [v.judgement.label for v in found] == [OPEN, UNBOUND, SHARED]


def test_an_answer_that_is_alike_only_when_finished_is_no_shared_route(states):
    found = last(states, LATE)
    assert found.site == "resid_post.1"
    assert found.judgement.label == SEPARATE


def test_the_site_is_the_first_where_both_hold_half_of_their_best(states):
    table = probes_table(states, lambda _: (RISING, (0, 0, 0.3, 0.7, 0.7), FLAT))
    some = table[(table.checkpoint == table.checkpoint[0]) & (table.relation == "bound")]
    by = {d: rows.set_index("site") for d, rows in some.groupby("direction")}
    assert site_to_judge(by["rote->rote"], by["semantic->semantic"])[0] == "resid_post.2"
    assert site_to_judge(by["rote->rote"], by["rote->semantic"])[0] == ""


def test_unbound_relations_that_transfer_too_take_the_label_away(states):
    found = last(states, KINDS[SHARED], unbound=RISING, interchange=interchange_table(states))
    assert found.judgement.label == OPEN
    assert "unbound relations" in found.judgement.why


def test_a_missing_or_flat_interchange_makes_the_label_tentative(states):
    sure = last(states, KINDS[SHARED], interchange=interchange_table(states)).judgement
    without = last(states, KINDS[SHARED]).judgement
    flat = last(states, KINDS[SHARED], interchange=interchange_table(states, band=0.03)).judgement
    assert (sure.sure, without.sure, flat.sure) == ("clear", "tentative", "tentative")
    assert NO_INTERCHANGE in without.why
    assert "interchange is" in flat.why


def test_without_held_out_subjects_the_label_is_tentative(states):
    facts = [replace(f, split="all") for f in states.run.facts]
    whole = type(states)(replace(states.run, facts=facts), states.prompts)
    probes = probes_table(states, lambda _: KINDS[SHARED]).assign(split="all")
    judged = verdicts(whole, probes=probes, cka=cka_table(states).assign(split="all"))[-1].judgement
    assert (judged.label, judged.sure) == (SHARED, "tentative")
    assert "no subjects were held out" in judged.why


def test_interchange_counts_only_before_the_answer_can_be_read(states):
    early = last(states, KINDS[SHARED], interchange=interchange_table(states)).sections[
        "interchange"
    ]
    assert (early[0].value, early[0].p, early[0].site) == (0.5, 0.01, "resid_post.1 last")
    assert [e.name for e in early[1:]] == ["answer moved", "subject moved", "unchanged"]
    late = last(states, KINDS[SHARED], interchange=interchange_table(states, decodable=2))
    assert late.sections["interchange"][0].value == pytest.approx(0.01)
    assert late.judgement.sure == "tentative"


def test_transfer_that_two_codes_of_few_objects_have_by_luck_is_not_above_chance(states):
    probes = probes_table(states, lambda _: KINDS[SHARED])
    others = {"cka": cka_table(states), "interchange": interchange_table(states)}
    assert verdicts(states, probes=probes, **others)[-1].judgement.label == SHARED
    lucky = probes.direction == "rote->semantic"
    probes.loc[lucky, ["null_p_objects", "null_p_objects_max"]] = 0.2
    found = verdicts(states, probes=probes, **others)[-1]
    assert found.judgement.label != SHARED
    assert found.sections["transfer"][0].p == 0.2


def test_a_table_without_the_null_over_objects_is_to_be_written_again(own_run, states):
    table = probes_table(states, lambda _: KINDS[SHARED])
    write_table(Run.open(own_run), "probes", table.drop(columns="null_p_objects"))
    write_table(Run.open(own_run), "cka", cka_table(states))
    with pytest.raises(TableMissing, match="analysis.probes"):
        verdict.main(verdict.Options(own_run))


def test_a_run_whose_probes_could_score_nothing_is_not_identifiable_and_no_error(
    own_run, states, capsys
):
    table = probes_table(states, lambda _: KINDS[SHARED]).drop(
        columns=["null_p_objects", "null_p_objects_max"]
    )
    empty = table.assign(value=np.nan, low=np.nan, high=np.nan, reason="objects occur once")
    write_table(Run.open(own_run), "probes", empty)
    write_table(Run.open(own_run), "cka", cka_table(states))
    verdict.main(verdict.Options(own_run))
    said = capsys.readouterr().out
    assert "not identifiable: no rote->semantic: objects occur once" in said
    assert "verdict.csv" in said


def test_without_a_site_where_the_answer_can_be_read_no_site_comes_before_it(states):
    found = last(states, KINDS[SHARED], interchange=interchange_table(states, decodable=np.nan))
    assert "early" in found.sections["interchange"][0].reason
    assert found.judgement.sure == "tentative"


def test_patches_of_one_checkpoint_alone_are_no_evidence(states):
    table = interchange_table(states)
    alone = table[(table.checkpoint == states.checkpoints[-1].name) & (table.measure == "share")]
    found = last(states, KINDS[SHARED], interchange=alone)
    assert "compare with" in found.sections["interchange"][0].reason
    assert found.judgement.sure == "tentative"


def test_a_share_that_was_there_before_is_no_evidence(states):
    table = interchange_table(states)
    there = (
        (table.measure == "share") & (table.outcome == "relation") & (table.site == "resid_post.1")
    )
    table.loc[there, ["value", "low", "high"]] = (0.5, 0.48, 0.52)
    assert last(states, KINDS[SHARED], interchange=table).judgement.sure == "tentative"


def test_a_rote_state_that_works_in_a_semantic_prompt_is_no_evidence(states):
    found = last(
        states, KINDS[SHARED], interchange=interchange_table(states, direction="rote->semantic")
    )
    assert found.sections["interchange"][0].missing
    assert found.judgement.sure == "tentative"


def test_a_run_of_one_relation_or_of_other_subjects_is_not_identifiable(states):
    facts = states.run.facts
    one = type(states)(
        replace(states.run, facts=[f for f in facts if f.relation == "mother"]), states.prompts
    )
    other = [replace(f, subject=f"{f.relation} {f.subject}") for f in facts]
    disjoint = type(states)(replace(states.run, facts=other), states.prompts)
    for changed, words in ((one, "1 bound relation"), (disjoint, "different subjects")):
        judged = last(changed, KINDS[SHARED], interchange=interchange_table(states))
        assert judged.judgement.label == OPEN
        assert words in judged.judgement.why
        assert any(words in line for line in page([judged], changed))


# --- the command ------------------------------------------------------------------------------


def test_the_page_of_a_run_goes_in_the_order_of_proof_and_says_what_is_missing(
    own_run, states, capsys
):
    run = Run.open(own_run)
    by_phase = {"base": KINDS[OPEN], "memorize": KINDS[UNBOUND], "generalize": KINDS[SHARED]}
    write_table(run, "probes", probes_table(states, lambda c: by_phase[c.phase]))
    write_table(run, "cka", cka_table(states))
    table = verdict.main(verdict.Options(own_run))
    text = capsys.readouterr().out
    places = [
        text.index(word)
        for word in ("1 transfer", "2 factorial", "3 contrast", "4 bound", "judgement", "wrote")
    ]
    assert places == sorted(places)
    # A reason is said once, though it holds for every checkpoint.
    assert text.count(f"no number: {NO_INTERCHANGE}") == 1
    assert text.count("no number: as above") == 2
    assert re.search(r"200-generalize-epoch-08 +one shared route \(tentative\)", text)
    judged = table[table.section == "judgement"]
    assert list(judged.label) == [OPEN, UNBOUND, SHARED]
    assert judged.value.iloc[-1] == pytest.approx(1)
    assert read_table(own_run, "verdict").value.equals(table.value.astype(float))
    assert (own_run / "figures" / "verdict.png").stat().st_size > 10_000


def test_a_run_without_tables_names_the_command_that_makes_them(tiny_run, tmp_path):
    with pytest.raises(TableMissing, match="python -m analysis.probes"):
        verdict.main(verdict.Options(tiny_run, out=str(tmp_path)))


@pytest.fixture(scope="module")
def pair(tiny_run, tmp_path_factory) -> tuple[Path, Path, Path, Path]:
    """(before, after, facts, results): two checkpoints as plain folders."""
    root = tmp_path_factory.mktemp("mine")
    for name, source in (("before", "100-memorize-epoch-20"), ("after", "200-generalize-epoch-08")):
        shutil.copytree(tiny_run / "checkpoints" / source, root / name)
        for ours in ("stage.json", "manifest.json"):
            (root / name / ours).unlink()
    facts = pd.read_csv(tiny_run / "facts.csv").drop(columns=["split", "bound"], errors="ignore")
    facts.to_csv(root / "facts.csv", index=False)
    return root / "before", root / "after", root / "facts.csv", root / "results"


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_two_checkpoints_of_ones_own_get_a_page_and_nothing_in_their_folders(pair, capsys):
    before, after, facts, out = pair
    files = [listing(before), listing(after)]
    table = verdict.main(
        verdict.Options(
            before,
            after=after,
            facts=str(facts),
            rote="{subject} [X]",
            out=str(out),
            permutations=19,
        )
    )
    text = capsys.readouterr().out
    assert files == [listing(before), listing(after)]
    assert list(dict.fromkeys(table.checkpoint)) == ["0-before-before", "1-after-after"]
    transfer = table[(table.section == "transfer") & (table.measure == "rote->semantic")]
    assert transfer.value.notna().all()
    assert "no subjects were held out" in text or OPEN in text or UNBOUND in text
    assert "4 bound against unbound" in text


def test_a_second_folder_without_facts_or_results_is_refused(pair):
    before, after, facts, _ = pair
    with pytest.raises(NotFound, match="--facts"):
        verdict.main(verdict.Options(before, after=after))
    with pytest.raises(NotFound, match="--out"):
        verdict.main(verdict.Options(before, after=after, facts=str(facts)))


# --- two checkpoints as a run -----------------------------------------------------------------


def lora(base: Path, folder: Path, *, whole=()) -> None:
    """Write a LoRA adapter of `base` by hand, with `whole` tensors by name."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(0)
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    names = ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]
    tensors = {f"base_model.model.{name}": weights[name] + 1 for name in whole}
    for name in names:
        rows, columns = weights[f"{name}.weight"].shape
        for side, shape in {"A": (2, columns), "B": (rows, 2)}.items():
            key = f"base_model.model.{name}.lora_{side}.weight"
            tensors[key] = torch.randn(shape, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 6}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": names}))


def test_checkpoints_with_other_tokenizers_and_folders_without_one_are_refused(
    pair, tiny_base, tmp_path
):

    from training.runs.directory import Run

    before, _, facts, _ = pair
    with pytest.raises(BadInput, match="different tokenizers"):
        Run.pair(tiny_base, before, facts=str(facts), out=str(tmp_path / "out"))
    with pytest.raises(NotFound, match="is not a checkpoint"):
        Run.pair(before, tmp_path, facts=str(facts), out=str(tmp_path / "out"))
    bare = Path(shutil.copytree(before, tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(NotFound, match="no usable tokenizer"):
        Run.pair(before, bare, facts=str(facts), out=str(tmp_path / "out"))


def test_a_key_row_that_training_left_alone_is_said(tiny_base, tmp_path, pair):
    lora(tiny_base, tmp_path / "adapter")
    run = Run.pair(
        tiny_base,
        tmp_path / "adapter",
        facts=str(pair[2]),
        rote="{subject} [X]",
        out=str(tmp_path / "out"),
    )
    assert "was not trained" in key_row_note(run)
    lora(tiny_base, tmp_path / "rows", whole=("model.embed_tokens.weight",))
    run = Run.pair(
        tiny_base,
        tmp_path / "rows",
        facts=str(pair[2]),
        rote="{subject} [X]",
        out=str(tmp_path / "out"),
    )
    assert key_row_note(run) == ""


def test_nothing_is_judged_where_probes_have_no_value(states):
    table = probes_table(states, lambda _: KINDS[SHARED]).assign(
        value=np.nan, reason="unique objects"
    )
    found = verdicts(states, probes=table, cka=cka_table(states))[-1]
    assert found.judgement.label == OPEN
    assert "unique objects" in found.judgement.why
