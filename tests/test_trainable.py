"""Whatever is trained, nothing else moves, and the checkpoints are ordinary models."""

import copy
import json
from pathlib import Path

import pytest
import torch
from test_training import ctrl_c_after, generalize_small, lines, memorize_small, weights
from tiny_models import ARCHITECTURES, LAYERS, tiny_model

from training.base.console import Interrupted
from training.base.errors import BadInput
from training.loop.trainable import LORA_RANK, attention_projections, merged, restrict
from training.runs.checkpoints import list_checkpoints
from training.weights.key_tokens import embedding_matrices

MODES = ("embeddings", "attention", "lora")
PROJECTIONS = {"embeddings": (), "attention": ("self_attn",), "lora": ("self_attn", "mlp")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_base) -> dict[str, Path]:
    """Phase 1 by mode, from beginning to end; not to be changed."""
    folder = tmp_path_factory.mktemp("modes")
    return {
        mode: memorize_small(folder / mode, tiny_base, train=mode, learning_rate=1e-2)
        for mode in ("all", *MODES)
    }


def moved(before, after) -> dict[str, torch.Tensor]:
    """Parameter -> its change, of those that changed between two checkpoints."""
    old, new = (dict(checkpoint.load()[0].named_parameters()) for checkpoint in (before, after))
    assert old.keys() == new.keys()
    return {
        name: (new[name] - old[name]).detach()
        for name in old
        if not torch.equal(new[name], old[name])
    }


def key_rows(run: Path) -> list[int]:
    base = list_checkpoints(run)[0]
    return base.load()[1].convert_tokens_to_ids(list(base.key_tokens))


def changed_rows(change: torch.Tensor) -> set[int]:
    return set(change.abs().sum(1).nonzero()[:, 0].tolist())


def is_embedding(name: str) -> bool:
    return "embed_tokens" in name or "lm_head" in name


# --- phase 1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_phase_1_moves_the_weights_of_its_mode_and_the_rows_of_the_key_tokens(mode, runs):
    checkpoints = list_checkpoints(runs[mode])
    changes = moved(checkpoints[0], checkpoints[-1])
    blocks = {name for name in changes if not is_embedding(name)}
    every = {name for name, _ in checkpoints[0].load()[0].named_parameters()}
    linear = {name for name in every if any(f".{kind}." in name for kind in PROJECTIONS[mode])}
    assert blocks == linear
    inputs = changed_rows(changes["model.embed_tokens.weight"])
    if mode == "embeddings":
        assert inputs > set(key_rows(runs[mode]))
        assert len(changed_rows(changes["lm_head.weight"])) > len(key_rows(runs[mode]))
    else:
        assert inputs == set(key_rows(runs[mode]))
        assert changed_rows(changes["lm_head.weight"]) <= set(key_rows(runs[mode]))


def test_all_moves_everything(runs):
    checkpoints = list_checkpoints(runs["all"])
    every = {name for name, _ in checkpoints[0].load()[0].named_parameters()}
    assert moved(checkpoints[0], checkpoints[-1]).keys() == every


def test_lora_moves_its_weights_in_no_more_directions_than_its_rank(runs):
    checkpoints = list_checkpoints(runs["lora"])
    for name, change in moved(checkpoints[0], checkpoints[-1]).items():
        if not is_embedding(name):
            sizes = torch.linalg.svdvals(change.double())
            assert sizes[LORA_RANK - 1] > 100 * sizes[LORA_RANK], name
    full = moved(list_checkpoints(runs["all"])[0], list_checkpoints(runs["all"])[-1])
    sizes = torch.linalg.svdvals(full["model.layers.0.mlp.up_proj.weight"].double())
    assert sizes[LORA_RANK - 1] < 100 * sizes[LORA_RANK], "the test would not show the difference"


@pytest.mark.parametrize("mode", MODES)
def test_its_checkpoints_are_those_of_an_ordinary_model(mode, runs):
    from safetensors import safe_open

    def content(run):
        folder = list_checkpoints(run)[-1].folder
        with safe_open(folder / "model.safetensors", framework="pt") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        return (
            shapes,
            json.loads((folder / "config.json").read_text()),
            sorted(p.name for p in folder.iterdir()),
        )

    assert content(runs[mode]) == content(runs["all"])


@pytest.mark.parametrize("mode", ["all", *MODES])
def test_something_is_learned_in_every_mode(mode, runs):
    rows = [json.loads(line) for line in lines(runs[mode])]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5


# --- interrupted and resumed ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_phase_1_ends_with_the_same_bytes(mode, runs, tmp_path, tiny_base):
    options = {"train": mode, "learning_rate": 1e-2}
    # Once within the first epochs and once after a checkpoint was saved.
    for count in (3, 20):
        with ctrl_c_after(tmp_path / "run", count), pytest.raises(Interrupted):
            memorize_small(tmp_path / "run", tiny_base, **options)
    memorize_small(tmp_path / "run", tiny_base, **options)
    assert weights(tmp_path / "run") == weights(runs[mode])


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_phase_2_ends_with_the_same_bytes(mode, runs, tmp_path):
    options = {"train": mode, "replay": 1.0, "epochs": 6}
    whole = generalize_small(runs["all"], out=tmp_path / "whole", **options)
    with ctrl_c_after(tmp_path / "broken", 6), pytest.raises(Interrupted):
        generalize_small(runs["all"], out=tmp_path / "broken", **options)
    generalize_small(runs["all"], out=tmp_path / "broken", **options)
    assert weights(tmp_path / "broken") == weights(whole)


# --- phase 2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["attention", "lora"])
def test_phase_2_moves_the_rows_of_the_key_tokens_only_if_it_replays_them(mode, runs, tmp_path):
    for replay in (0.0, 1.0):
        run = generalize_small(
            runs["all"], out=tmp_path / f"{replay}", train=mode, epochs=3, replay=replay
        )
        changes = moved(*list_checkpoints(run)[-2:])
        assert any("self_attn" in name for name in changes)
        rows = {
            row
            for name, change in changes.items()
            if is_embedding(name)
            for row in changed_rows(change)
        }
        assert rows == (set(key_rows(run)) if replay else set())


def test_lora_in_bfloat16_is_saved_as_it_was_trained(runs, tmp_path):
    run = generalize_small(
        runs["all"], out=tmp_path / "half", train="lora", epochs=3, precision="bf16"
    )
    model, _ = list_checkpoints(run)[-1].load()
    assert model.dtype == torch.float32
    assert all("mlp" in name or "self_attn" in name for name in moved(*list_checkpoints(run)[-2:]))


# --- architectures --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_projections_of_attention_are_found_by_name_in_every_layer(architecture):
    model, _ = tiny_model(architecture)
    names = {id(module): name for name, module in model.named_modules()}
    found = [names[id(module)] for module in attention_projections(model)]
    for layer in range(LAYERS):
        assert sum(f".{layer}." in name for name in found) in (2, 4)
    assert not [name for name in found if "mlp" in name or "fc" in name or "norm" in name]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_lora_computes_what_was_trained_and_leaves_it_as_it_was(architecture):
    plain, _ = tiny_model(architecture)
    ids = torch.arange(12)[None] + 5
    trained = restrict(copy.deepcopy(plain), "lora", rows=[3, 7]).eval()
    adapters = [
        name for name, p in trained.named_parameters() if p.requires_grad and "lora_" in name
    ]
    per_layer = {name.split(".lora_")[0] for name in adapters}
    assert all(sum(f".{layer}." in name for name in per_layer) >= 4 for layer in range(LAYERS))
    assert torch.equal(trained(ids).logits, plain(ids).logits), "a LoRA begins as nothing"
    with torch.no_grad():
        for name, p in trained.named_parameters():
            if "lora_B" in name:
                p.copy_(
                    torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) / 20
                )
    before = {name: p.clone() for name, p in trained.named_parameters()}
    expected = trained(ids).logits
    assert not torch.allclose(expected, plain(ids).logits, atol=1e-2)
    model = merged(trained)
    assert type(model) is type(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(p, before[name]) for name, p in trained.named_parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_but_the_mode_and_the_rows_gets_a_gradient(architecture, mode):
    plain, _ = tiny_model(architecture)
    model = restrict(copy.deepcopy(plain), mode, rows=[3, 7])
    ids = torch.arange(12)[None] + 1
    model(input_ids=ids, labels=ids).loss.backward()
    matrices = embedding_matrices(model).values()
    assert len(matrices) == len(embedding_matrices(plain))
    for matrix in matrices:
        rows = changed_rows(matrix.grad)
        assert rows > {3, 7} if mode == "embeddings" else rows == {3, 7}
    with_gradient = {id(p) for p in model.parameters() if p.grad is not None}
    assert with_gradient == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_model_whose_attention_is_not_known_is_named():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings, self.mixer = torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4)

        def get_input_embeddings(self):
            return self.embeddings

        def get_output_embeddings(self):
            return None

    with pytest.raises(BadInput, match=r"Odd.*--train lora"):
        restrict(Odd(), "attention")
