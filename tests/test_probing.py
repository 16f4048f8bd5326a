"""Hidden states are what the model computed at the named site and token, batched or stored."""

from __future__ import annotations

import copy
import gc
import inspect
import threading
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import ARCHITECTURES, LAYERS, MAX_POSITIONS, WIDTH, tiny_model, tiny_tokenizer
from transformers import AddedToken

import probing
from probing import extraction as states_module
from probing.extraction import encode, hidden_states
from probing.sites import UnsupportedModel, names_of, site_names
from probing.store import DamagedStates, StateStore, states_for
from training.base.errors import BadInput, UserError

PROMPTS = [
    "Gene Finley was born in",
    "Who gave birth to Orin Vale?",
    "The mother of Angela",
    "Wo wohnt Jörg Müller? In der Stadt",
    "Gene Finley was born in",
    "Tessa",
    "What is the profession of Ines Caldwell? She is",
    "The city of Halden is",
]
NAMES = ["embed", "resid_post.0", "resid_post.1", "resid_post.2", "final_norm"]


@pytest.fixture(params=ARCHITECTURES)
def any_model(request):
    return tiny_model(request.param)


@pytest.fixture
def llama():
    return tiny_model("llama")


@pytest.fixture
def own_llama():
    """A copy that a test may change."""
    return copy.deepcopy(tiny_model("llama"))


@pytest.fixture
def key_tokenizer():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    keys = [
        AddedToken(f"[X_{r}]", lstrip=True, normalized=False, special=True)
        for r in ("mother", "city")
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": keys})
    return tokenizer


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest relative L2 distance over sites of (n, n_sites, d)."""
    return ((a - b).norm(dim=(0, 2)) / b.norm(dim=(0, 2))).max().item()


def reference(model, tokenizer, prompt: str) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(
            **tokenizer(prompt, return_tensors="pt"), output_hidden_states=True
        ).hidden_states


# Sites


def test_sites_are_embed_then_each_layer_then_final_norm(any_model):
    model, _ = any_model
    assert site_names(model) == NAMES == names_of(LAYERS)


def test_a_model_that_is_no_causal_decoder_is_named():
    from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

    sizes = dict(
        vocab_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        hidden_size=8,
        intermediate_size=8,
    )
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=32, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    )
    for model in (torch.nn.Linear(2, 2), BertModel(BertConfig(**sizes)), t5):
        with pytest.raises(UnsupportedModel, match=type(model).__name__):
            site_names(model)


def test_layers_that_cannot_be_told_are_an_error_that_names_the_class(own_llama):
    model, _ = own_llama
    model.config.num_hidden_layers = LAYERS + 1
    with pytest.raises(
        UnsupportedModel, match=f"LlamaForCausalLM.*ModuleList of {LAYERS + 1} layers"
    ):
        site_names(model)


def test_two_modules_after_the_layers_are_an_error(own_llama):
    model, _ = own_llama
    plain_forward = type(model.model).forward

    def forward(self, *args, **kwargs):
        output = plain_forward(self, *args, **kwargs)
        self.norm(output.last_hidden_state)
        return output

    model.model.forward = forward.__get__(model.model)
    with pytest.raises(UnsupportedModel, match="norm, norm"):
        site_names(model)


def test_reading_leaves_no_hook_and_does_not_keep_the_model_alive():
    model = copy.deepcopy(tiny_model("llama")[0])
    site_names(model)
    hidden_states(model, tiny_tokenizer(), PROMPTS[:1])
    assert not any(module._forward_hooks for module in model.modules())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


# Extraction


def test_batched_equals_one_by_one(any_model):
    counts = [len(any_model[1](prompt)["input_ids"]) for prompt in sorted(set(PROMPTS))]
    assert max(map(counts.count, counts)) >= 3, "no batch of several prompts to test"
    batched = hidden_states(*any_model, PROMPTS)
    alone = torch.cat([hidden_states(*any_model, [prompt]) for prompt in PROMPTS])
    assert batched.shape == (len(PROMPTS), LAYERS + 2, WIDTH)
    assert batched.dtype == torch.float32 and batched.device.type == "cpu"
    assert distance(batched, alone) < 1e-4


def test_states_are_those_of_transformers(any_model):
    model, tokenizer = any_model
    ours = hidden_states(model, tokenizer, PROMPTS)
    theirs = [reference(model, tokenizer, prompt) for prompt in PROMPTS]
    for site, depth in (
        ("embed", 0),
        *((f"resid_post.{i}", i + 1) for i in range(LAYERS - 1)),
        ("final_norm", -1),
    ):
        column = NAMES.index(site)
        expected = torch.stack([hidden[depth][0, -1] for hidden in theirs])
        assert distance(ours[:, column : column + 1], expected[:, None]) < 1e-4, site


def test_the_final_norm_of_the_last_layer_is_the_last_hidden_state(any_model):
    model, tokenizer = any_model
    from probing.sites import find_decoder

    norm = model.get_submodule(find_decoder(model).final_norm)
    states = hidden_states(model, tokenizer, PROMPTS)
    with torch.no_grad():
        normed = norm(states[:, NAMES.index(f"resid_post.{LAYERS - 1}")])
    expected = torch.stack([reference(model, tokenizer, prompt)[-1][0, -1] for prompt in PROMPTS])
    assert distance(normed[:, None], expected[:, None]) < 1e-4


def test_order_and_batch_size_change_nothing(llama):
    whole = hidden_states(*llama, PROMPTS)
    backwards = hidden_states(*llama, PROMPTS[::-1], batch_size=2)
    assert distance(backwards.flip(0), whole) < 1e-5


def test_different_prompts_do_differ(any_model):
    states = hidden_states(*any_model, PROMPTS)[:, -1]
    gaps = torch.cdist(states, states)
    same = torch.tensor([[a == b for a in PROMPTS] for b in PROMPTS])
    assert (gaps[~same] > 1e-2).all() and (gaps[same] == 0).all()


def test_the_same_tokens_at_the_same_position_are_computed_once(llama, monkeypatch):
    rows = []
    plain = states_module.read_sites

    def counted(traced_model, model, token_ids, positions, sites):
        rows.extend(zip(token_ids, positions, strict=True))
        return plain(traced_model, model, token_ids, positions, sites)

    monkeypatch.setattr(states_module, "read_sites", counted)
    hidden_states(*llama, PROMPTS * 3)
    assert len(rows) == len(set(PROMPTS))


def test_some_sites_in_any_order_are_those_columns_of_all(llama):
    whole = hidden_states(*llama, PROMPTS)
    for sites in (["final_norm", "embed"], ["resid_post.1"], ["embed"]):
        some = hidden_states(*llama, PROMPTS, sites=sites)
        assert distance(some, whole[:, [NAMES.index(site) for site in sites]]) < 1e-6


def test_the_forward_pass_ends_at_the_last_site_asked_for(own_llama):
    model, tokenizer = own_llama
    site_names(model)
    ran = []
    model.model.layers[2].register_forward_hook(lambda *_: ran.append(2))
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    hidden_states(model, tokenizer, PROMPTS[:1], sites=["resid_post.1"])
    assert ran == []
    hidden_states(model, tokenizer, PROMPTS[:1])
    assert ran == [2]


def test_states_can_be_trained_on(llama):
    states = hidden_states(*llama, PROMPTS[:2])
    assert not states.requires_grad and not states.is_inference()
    probe = torch.nn.Linear(WIDTH, 1)
    probe(states[:, 0]).sum().backward()
    assert probe.weight.grad is not None


def test_the_model_computes_in_its_own_dtype_whatever_autocast_surrounds_it(own_llama):
    model, tokenizer = own_llama
    full = hidden_states(model, tokenizer, PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hidden_states(model, tokenizer, PROMPTS), full)
    half = hidden_states(model.to(torch.bfloat16), tokenizer, PROMPTS)
    assert half.dtype == torch.float32
    assert 1e-4 < distance(half, full) < 0.1


def test_two_threads_may_share_a_model(llama):
    expected = hidden_states(*llama, PROMPTS)
    got = {}

    def read(name):
        got[name] = hidden_states(*llama, PROMPTS, progress=False)

    threads = [threading.Thread(target=read, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and all(distance(states, expected) < 1e-5 for states in got.values())


# Left as found


def test_modes_are_left_as_found_and_the_model_is_read_in_eval_mode(own_llama):
    model, tokenizer = own_llama
    expected = hidden_states(model, tokenizer, PROMPTS)
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    model.model.norm.eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(hidden_states(model, tokenizer, PROMPTS), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_does_not_matter_and_is_left_as_found(any_model, side):
    model, tokenizer = any_model
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    assert (
        distance(hidden_states(model, tokenizer, PROMPTS), hidden_states(*any_model, PROMPTS))
        < 1e-6
    )
    assert tokenizer.padding_side == side


def test_the_tokenizer_is_left_as_found(llama):
    model, tokenizer = llama
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    tokenizer.backend_tokenizer.enable_truncation(3, strategy="only_first", direction="left")
    tokenizer.backend_tokenizer.enable_padding(length=9, pad_id=1, pad_token="<eos>")
    truncation, padding = (
        tokenizer.backend_tokenizer.truncation,
        tokenizer.backend_tokenizer.padding,
    )
    assert distance(hidden_states(model, tokenizer, PROMPTS), hidden_states(*llama, PROMPTS)) < 1e-6
    assert tokenizer.pad_token is None
    assert tokenizer.backend_tokenizer.truncation == truncation
    assert tokenizer.backend_tokenizer.padding == padding


def test_all_is_left_as_found_when_the_forward_pass_fails(own_llama):
    model, tokenizer = own_llama
    tokenizer.pad_token, side = None, tokenizer.padding_side
    site_names(model)
    model.train()

    def fail(*_):
        raise RuntimeError("out of memory")

    model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        hidden_states(model, tokenizer, PROMPTS)
    assert all(module.training for module in model.modules())
    assert tokenizer.padding_side == side and tokenizer.pad_token is None


def test_tokenizers_without_pad_and_eos_tokens_work(llama):
    model, tokenizer = llama
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token = None
    assert distance(hidden_states(model, tokenizer, PROMPTS), hidden_states(*llama, PROMPTS)) < 1e-6


# Positions


def test_a_token_index_reads_that_token(llama):
    model, tokenizer = llama
    hidden = [torch.stack(reference(model, tokenizer, prompt)[:-1], dim=1)[0] for prompt in PROMPTS]
    for positions in (0, -2, np.array([1, -1] * 4), pd.Series([0, 1, 1, -1, 2, 0, -3, 2])):
        prompts = (
            PROMPTS if not isinstance(positions, int) else [p for p in PROMPTS if p != "Tessa"]
        )
        expected = [hidden[PROMPTS.index(prompt)] for prompt in prompts]
        indices = [positions] * len(prompts) if isinstance(positions, int) else list(positions)
        got = hidden_states(model, tokenizer, prompts, positions=positions)
        want = torch.stack([h[:, index] for h, index in zip(expected, indices, strict=True)])
        assert distance(got[:, :LAYERS], want) < 1e-4


def test_last_is_the_index_minus_one():
    tokenizer = tiny_tokenizer()
    assert encode(tokenizer, PROMPTS) == encode(tokenizer, PROMPTS, positions=-1)


def test_subject_last_is_the_last_token_of_a_subject_of_several_tokens():
    tokenizer = tiny_tokenizer()
    before, subject, after = "What is the profession of", "Inez Quuxley", "? She is a"
    prompt = f"{before} {subject}{after}"
    index = encode(tokenizer, [prompt], positions="subject_last", subjects=[subject]).positions[0]
    tokens = tokenizer(prompt)["input_ids"]
    subject_tokens = tokenizer(f" {subject}")["input_ids"]
    assert len(subject_tokens) > 2
    assert index == len(tokenizer(f"{before} {subject}")["input_ids"]) - 1
    assert tokens[index - len(subject_tokens) + 1 : index + 1] == subject_tokens
    assert tokenizer.decode(tokens[index + 1 :]) == after


@pytest.mark.parametrize(
    ("prompt", "subject", "ends"),
    [
        ("Gene Finley", "Gene Finley", "Gene Finley"),
        ("Ann met Anna.", "Ann", "Ann"),
        ("Ann met Ann's", "Ann", "Ann met Ann"),
        ("Wo wohnt José? In", "José", "Wo wohnt José"),
        ("吉恩的母亲是", "吉恩", "吉恩"),
    ],
)
def test_subject_last_finds_the_subject(prompt, subject, ends):
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer, [prompt], positions="subject_last", subjects=[subject])
    assert tokenizer.decode(encoded.token_ids[0][: encoded.positions[0] + 1]) == ends


def test_key_is_the_last_key_token(llama, key_tokenizer):
    prompts = ["Gene Finley [X_mother] Angela.", "A [X_mother] B [X_city] C", "Gene [X_city]"]
    encoded = encode(key_tokenizer, prompts, positions="key")
    read = [
        ids[position] for ids, position in zip(encoded.token_ids, encoded.positions, strict=True)
    ]
    assert key_tokenizer.convert_ids_to_tokens(read) == ["[X_mother]", "[X_city]", "[X_city]"]
    assert encoded.positions[2] == len(encoded.token_ids[2]) - 1

    named = encode(key_tokenizer, prompts[:2], positions="key", key_tokens="[X_mother]")
    assert named.positions[1] < encoded.positions[1] and named.positions[0] == encoded.positions[0]
    each = encode(
        key_tokenizer, prompts[1:], positions="key", key_tokens=["[X_mother]", "[X_city]"]
    )
    assert each.positions == [named.positions[1], encoded.positions[2]]

    states = hidden_states(llama[0], key_tokenizer, prompts, positions="key")
    assert (
        distance(
            states, hidden_states(llama[0], key_tokenizer, prompts, positions=encoded.positions)
        )
        < 1e-6
    )


# What was given wrong


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([], "empty; give at least one"),
        ("Gene", "got str"),
        (7, "got int"),
        ({"Gene": 1}, "got dict"),
        (["Gene", ""], "prompt 1 is empty"),
        (["  \n"], "prompt 0 is empty"),
        (["Gene", None], "prompt 1 is None"),
        (pd.Series(["Gene", float("nan")]), "prompt 1 is nan"),
        (np.array([["Gene"], ["Tessa"]]), "prompt 0 is array"),
    ],
)
def test_prompts_that_are_no_texts_are_refused(llama, prompts, says):
    with pytest.raises(BadInput, match=says):
        hidden_states(*llama, prompts)


def test_arrays_and_series_are_lists_of_prompts(llama):
    expected = hidden_states(*llama, PROMPTS)
    for prompts in (
        np.array(PROMPTS),
        pd.Series(PROMPTS, index=range(5, 13)),
        tuple(PROMPTS),
        iter(PROMPTS),
    ):
        assert torch.equal(hidden_states(*llama, prompts), expected)


def test_a_prompt_is_never_truncated(llama):
    model, tokenizer = llama
    for architecture in ("llama", "gpt2"):
        with pytest.raises(BadInput, match=f"prompt 1 has .* is {MAX_POSITIONS}"):
            hidden_states(tiny_model(architecture)[0], tokenizer, ["Gene", "Gene " * MAX_POSITIONS])
    shorter = copy.deepcopy(tokenizer)
    shorter.model_max_length = 4
    with pytest.raises(BadInput, match="model_max_length is 4"):
        hidden_states(model, shorter, PROMPTS)


def test_a_prompt_of_exactly_the_allowed_length_is_read(llama):
    model, tokenizer = llama
    assert len(tokenizer("." * MAX_POSITIONS)["input_ids"]) == MAX_POSITIONS
    assert hidden_states(model, tokenizer, ["." * MAX_POSITIONS]).shape[0] == 1


@pytest.mark.parametrize(
    "positions",
    ["first", 99, -99, True, 1.5, None, [0], [0, 99], ["last", "last"], np.array([0.0, 1.0])],
)
def test_positions_that_are_nowhere_are_refused(llama, positions):
    with pytest.raises(BadInput):
        hidden_states(*llama, PROMPTS[:2], positions=positions)


@pytest.mark.parametrize(
    "subjects", [None, "Gene Finley", ["Gene Finley"], ["Gene Finley", "Ann"], ["", None]]
)
def test_subjects_that_are_not_there_are_refused(llama, subjects):
    with pytest.raises(BadInput):
        hidden_states(*llama, PROMPTS[:2], positions="subject_last", subjects=subjects)


def test_subject_last_needs_offsets(llama):
    model, tokenizer = llama

    class Slow(type(tokenizer)):
        is_fast = False

    slow = copy.deepcopy(tokenizer)
    slow.__class__ = Slow
    with pytest.raises(BadInput, match="Slow gives no character offsets"):
        hidden_states(
            model, slow, ["Gene Finley"], positions="subject_last", subjects=["Gene Finley"]
        )


def test_key_tokens_that_are_not_there_are_refused(llama, key_tokenizer):
    model, plain = llama
    for tokenizer, prompts, key_tokens, says in (
        (plain, ["Gene"], None, "has no special token"),
        (key_tokenizer, ["Gene [X_city]", "Gene"], None, "prompt 1"),
        (key_tokenizer, ["Gene [X_city]"], "[X_mother]", r"no key token \(\[X_mother\]\)"),
        (key_tokenizer, ["Gene [X_city]"], "[X_aunt]", "not in the tokenizer"),
        (key_tokenizer, ["Gene [X_city]"], ["[X_city]"] * 2, "2 key tokens for 1 prompts"),
    ):
        with pytest.raises(BadInput, match=says):
            hidden_states(model, tokenizer, prompts, positions="key", key_tokens=key_tokens)


def test_tokens_without_an_embedding_are_refused(llama, key_tokenizer):
    key_tokenizer.add_tokens([f"<{i}>" for i in range(40)])
    with pytest.raises(BadInput, match="resize the embeddings"):
        hidden_states(llama[0], key_tokenizer, ["Gene <39>"])


@pytest.mark.parametrize("sites", [["resid_post.3"], ["embed", "resid_post.-1"], [], "embed"])
def test_sites_that_are_not_there_are_refused(llama, sites):
    with pytest.raises(BadInput):
        hidden_states(*llama, PROMPTS, sites=sites)
    with pytest.raises(BadInput, match=r"'resid_post\.0' to 'resid_post\.2'"):
        hidden_states(*llama, PROMPTS, sites=["resid_post.3"])


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_batch_size_that_is_none_is_refused(llama, batch_size):
    with pytest.raises(BadInput, match="batch_size"):
        hidden_states(*llama, PROMPTS, batch_size=batch_size)


def test_every_error_is_a_users_error():
    from probing import sites, states, store

    for module in (sites, states, store):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and not issubclass(kind, Warning):
                assert issubclass(kind, UserError), kind


# The store


@pytest.fixture
def store(tmp_path):
    return StateStore(tmp_path / "states")


def through_the_store(store, model, tokenizer, fingerprint="weights"):
    return states_for(store, fingerprint, tokenizer, PROMPTS, lambda: model)


@pytest.fixture
def stored(store, llama):
    """(key, states) as `states_for` stores them."""
    states = through_the_store(store, *llama)
    (path,) = store.folder.glob("*.safetensors")
    return path.stem, states


def never():
    raise AssertionError("the model was loaded")


def test_what_is_stored_comes_back_without_the_model(store, llama, stored):
    model, tokenizer = llama
    key, states = stored
    assert torch.equal(states, hidden_states(model, tokenizer, PROMPTS))
    assert torch.equal(store.get(key), states)
    again = states_for(store, "weights", tokenizer, PROMPTS, never)
    assert torch.equal(again, states)
    encoded = encode(tokenizer, PROMPTS)
    found = store.get(store.key("weights", encoded.token_ids, encoded.positions))
    assert torch.equal(found, states)


def test_a_second_store_on_the_same_folder_finds_it(store, stored):
    key, states = stored
    assert torch.equal(StateStore(store.folder).get(key), states)


def test_bfloat16_halves_the_disk_and_gives_the_same_twice(tmp_path, llama):
    exact = hidden_states(*llama, PROMPTS)
    store = StateStore(tmp_path, dtype="bfloat16")
    written = through_the_store(store, *llama)
    read = through_the_store(store, *llama)
    assert written.dtype == torch.float32 and torch.equal(written, read)
    assert 0 < distance(read, exact) < 0.01
    (path,) = tmp_path.glob("*.safetensors")
    assert path.stat().st_size < exact.numel() * 2 + 1000


def test_the_key_covers_weights_tokens_order_positions_and_dtype(store, tmp_path):
    one = dict(fingerprint="a", token_ids=[[1, 2], [3]], positions=[1, 0], dtype="float32")
    changes = [
        dict(fingerprint="b"),
        dict(token_ids=[[3], [1, 2]]),
        dict(token_ids=[[1], [2, 3]]),
        dict(positions=[0, 0]),
        dict(dtype="bfloat16"),
    ]
    keys = [store.key(**one), *(store.key(**{**one, **change}) for change in changes)]
    keys.append(StateStore(tmp_path, dtype="bfloat16").key(**one))
    assert len(set(keys)) == len(keys)
    assert store.key(**{**one, "positions": np.array([1, 0])}) == keys[0]


def test_other_weights_are_read_from_the_model(store, own_llama):
    model, tokenizer = own_llama
    before = through_the_store(store, model, tokenizer)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    after = through_the_store(store, model, tokenizer, fingerprint="other weights")
    assert distance(after, before) > 0
    assert torch.equal(after, hidden_states(model, tokenizer, PROMPTS))


@pytest.mark.parametrize(
    "damage", ["truncated", "altered", "description gone", "description broken", "other shape"]
)
def test_damaged_states_are_not_returned_but_read_anew(store, llama, stored, damage):
    key, states = stored
    path, description = (store.folder / f"{key}{suffix}" for suffix in (".safetensors", ".json"))
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-10])
    elif damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "description gone":
        description.unlink()
    elif damage == "description broken":
        description.write_text(description.read_text()[:40])
    else:
        description.write_text(description.read_text().replace(f"{WIDTH}\n", "7\n"))
    if damage == "description gone":
        assert store.get(key) is None
        again = through_the_store(store, *llama)
    else:
        with pytest.warns(DamagedStates, match="read from the model again"):
            assert store.get(key) is None
        with pytest.warns(DamagedStates):
            again = through_the_store(store, *llama)
    assert torch.equal(again, states) and torch.equal(store.get(key), states)


def test_what_a_killed_process_left_is_ignored(store, llama, stored, monkeypatch):
    key, states = stored
    (store.folder / f".{key}.safetensors.0123.tmp").write_bytes(b"half")
    assert torch.equal(store.get(key), states)

    def killed(*_):
        raise KeyboardInterrupt

    other = store.key("other", [[1]], [0])
    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        store.put(other, states, {})
    assert store.get(other) is None
    assert sorted(path.stem for path in store.folder.glob("*.safetensors")) == [key]


def test_the_description_says_what_is_stored(store, llama):
    import hashlib
    import json

    model, tokenizer = llama
    states_for(
        store, "f", tokenizer, PROMPTS, lambda: model, description={"checkpoint": "000-base"}
    )
    (path,) = store.folder.glob("*.json")
    described = json.loads(path.read_text())
    assert described["checkpoint"] == "000-base" and described["fingerprint"] == "f"
    assert described["sites"] == NAMES and described["shape"] == [len(PROMPTS), LAYERS + 2, WIDTH]
    assert (
        described["sha256"]
        == hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()
    )


def test_a_model_of_another_dtype_is_not_filed_under_this_one(store, llama):
    model, tokenizer = llama
    with pytest.raises(BadInput, match="computes in float32"):
        states_for(store, "f", tokenizer, PROMPTS, lambda: model, dtype="bfloat16")
    assert not store.folder.exists()


def test_what_cannot_be_stored_is_refused(store, tmp_path):
    with pytest.raises(BadInput, match="float16"):
        StateStore(tmp_path, dtype="float16")
    with pytest.raises(BadInput, match="is not a key"):
        store.get("../../etc/passwd")
    with pytest.raises(BadInput, match="floating-point"):
        store.put("0" * 64, torch.zeros(2, 2), {})


def test_only_tracing_imports_nnsight():
    from pathlib import Path

    root = Path(probing.__file__).parent.parent
    users = [
        path.relative_to(root).as_posix()
        for folder in ("training", "probing", "analysis", "figures")
        for path in sorted((root / folder).rglob("*.py"))
        if "import nnsight" in path.read_text("utf-8") or "from nnsight" in path.read_text("utf-8")
    ]
    assert users == ["probing/tracing.py"]
