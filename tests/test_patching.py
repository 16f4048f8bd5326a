"""What interchange, steering and the logit lens must do, on eight random architectures."""

import copy

import pytest
import torch
from tiny_models import ARCHITECTURES, LAYERS, WIDTH, tiny_model

from probing.extraction import hidden_states, tokens_at
from probing.patching import changed_logits, logit_lens, patch, steer
from probing.sites import find_decoder, first, names_of
from training.base.errors import BadInput

SITES = names_of(LAYERS)
SOURCES = ["The mother of Tessa Marlow is", "Gene Finley was born in", "Wo wohnt Jörg Müller?"]
TARGETS = ["Who gave birth to Orin Vale?", "The mother of Angela is", "The city of Halden"]


@pytest.fixture(params=ARCHITECTURES)
def any_model(request):
    return tiny_model(request.param)


@pytest.fixture
def llama():
    return tiny_model("llama")


def clean(model, tokenizer, prompts) -> torch.Tensor:
    """Logits after each prompt, one by one, by transformers alone."""
    with torch.inference_mode():
        return torch.stack(
            [
                model(**tokenizer(p, return_tensors="pt"), use_cache=False).logits[0, -1]
                for p in prompts
            ]
        )


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def hooked(model, tokenizer, prompt, site, position, vector) -> torch.Tensor:
    """The same change by a plain hook, without a cache: a second implementation."""
    decoder = find_decoder(model)

    def at_output(_module, _inputs, output):
        first(output)[0, position] = vector

    def at_input(_module, args, named):
        (args[0] if args else named["hidden_states"])[0, position] = vector

    if site == "embed":
        hook = model.get_submodule(decoder.layers[0]).register_forward_pre_hook(
            at_input, with_kwargs=True
        )
    else:
        paths = [*decoder.layers, decoder.final_norm]
        hook = model.get_submodule(paths[SITES.index(site) - 1]).register_forward_hook(at_output)
    try:
        return clean(model, tokenizer, [prompt])[0]
    finally:
        hook.remove()


@pytest.mark.parametrize("position", [0, 2, "last"])
def test_a_state_patched_with_itself_changes_nothing(any_model, position):
    model, tokenizer = any_model
    patched = patch(model, tokenizer, TARGETS, TARGETS, site=None, position=position)
    expected = clean(model, tokenizer, TARGETS)
    assert patched.shape == (3, LAYERS + 2, expected.shape[-1])
    for place in range(len(SITES)):
        assert distance(patched[:, place], expected) < 1e-5


@pytest.mark.parametrize("site", SITES[-2:])
def test_the_last_site_at_the_last_token_gives_the_logits_of_the_source(any_model, site):
    model, tokenizer = any_model
    patched = patch(model, tokenizer, SOURCES, TARGETS, site=site)
    assert distance(patched, clean(model, tokenizer, SOURCES)) < 1e-5


def test_a_patch_is_that_of_a_plain_hook_at_every_site_whatever_shares_its_batch(any_model):
    model, tokenizer = any_model
    positions, source_positions = [3, 2, 1], [2, -1, 0]
    patched = patch(
        model,
        tokenizer,
        SOURCES,
        TARGETS,
        site=None,
        position=positions,
        source_position=source_positions,
    )
    unchanged = clean(model, tokenizer, TARGETS)
    for pair, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        states = hidden_states(model, tokenizer, [source], positions=source_positions[pair])[0]
        for place, site in enumerate(SITES):
            expected = hooked(model, tokenizer, target, site, positions[pair], states[place])
            assert distance(patched[pair, place], expected) < 1e-5
            # What leaves the last layer is read by no later token.
            reached = site not in SITES[-2:]
            assert (distance(patched[pair, place], unchanged[pair]) > 1e-3) == reached


def test_the_embeddings_of_all_tokens_patched_one_after_the_other_are_the_source(llama):
    """A patch replaces all that a token brings: rotary models add no position there."""
    model, tokenizer = llama
    a, b = (tokenizer(text)["input_ids"] for text in ("Tessa is", "Tessa was"))
    assert len(a) == len(b)
    differ = [i for i in range(len(a)) if a[i] != b[i]]
    assert len(differ) == 1
    patched = patch(model, tokenizer, "Tessa is", "Tessa was", site="embed", position=differ[0])
    assert distance(patched, clean(model, tokenizer, ["Tessa is"])) < 1e-5


def test_the_size_of_the_batch_changes_nothing(llama):
    model, tokenizer = llama
    one, many = (
        patch(model, tokenizer, SOURCES, TARGETS, site=SITES, batch_size=size) for size in (1, 64)
    )
    assert distance(one, many) < 1e-5


def test_prompts_of_one_length_in_one_batch_keep_their_own_beginnings(any_model):
    model, tokenizer = any_model
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 200, (4, 6), generator=generator)[[2, 0, 3, 1, 0]].tolist()
    vectors = torch.randn(5, WIDTH, generator=generator)
    arguments = (
        [3] * 5,
        ["resid_post.0", "embed", "resid_post.1", "embed", "resid_post.0"],
        vectors,
    )

    def run(size):
        logits = torch.zeros(5, model.get_output_embeddings().weight.shape[0])
        for rows, part in changed_logits(model, tokenizer, ids, *arguments, batch_size=size):
            logits[rows] = part
        return logits

    together, alone = run(64), run(1)
    assert max(distance(a, b) for a, b in zip(together, alone, strict=True)) < 1e-5
    assert distance(together[1], together[3]) > 1e-3


def test_a_model_without_a_cache_of_keys_and_values_is_patched_alike(llama, monkeypatch):
    model, tokenizer = llama
    expected = patch(model, tokenizer, SOURCES, TARGETS, site=None, position=2)
    monkeypatch.setattr("probing.patching._keys_and_values", lambda *_: None)
    assert (
        distance(patch(model, tokenizer, SOURCES, TARGETS, site=None, position=2), expected) < 1e-5
    )


def test_the_subject_of_one_prompt_is_put_where_the_subject_of_the_other_ends(llama):
    model, tokenizer = llama
    source, target = SOURCES[0], TARGETS[0]
    patched = patch(
        model,
        tokenizer,
        source,
        target,
        site="resid_post.0",
        position="subject_last",
        subjects=["Orin Vale"],
        source_subjects=["Tessa Marlow"],
    )
    into = tokens_at(tokenizer, [target], [target.index("Vale") + 3])[0]
    taken = tokens_at(tokenizer, [source], [source.index("Marlow") + 5])[0]
    by_index = patch(
        model, tokenizer, source, target, site="resid_post.0", position=into, source_position=taken
    )
    assert distance(patched, by_index) < 1e-6
    assert distance(patched, clean(model, tokenizer, [target])) > 1e-3


def test_steering_by_a_difference_is_the_patch(any_model):
    model, tokenizer = any_model
    for site in SITES:
        here, there = (
            hidden_states(model, tokenizer, texts, sites=[site])[:, 0]
            for texts in (TARGETS, SOURCES)
        )
        steered = steer(model, tokenizer, TARGETS, there - here, site=site)
        assert distance(steered, patch(model, tokenizer, SOURCES, TARGETS, site=site)) < 1e-4
    nothing = steer(model, tokenizer, TARGETS, torch.zeros(WIDTH), site="embed")
    assert distance(nothing, clean(model, tokenizer, TARGETS)) < 1e-5


def test_the_lens_on_the_last_sites_is_the_models_own_answer(any_model):
    model, tokenizer = any_model
    states = hidden_states(model, tokenizer, TARGETS)
    lens = logit_lens(model, states, SITES)
    expected = clean(model, tokenizer, TARGETS)
    assert distance(lens[:, -1], expected) < 1e-5
    assert distance(lens[:, -2], expected) < 1e-5
    assert distance(lens[:, 1], expected) > 1e-2
    some = logit_lens(model, states, SITES, token_ids=[7, 3])
    assert torch.allclose(some, lens[:, :, [7, 3]], atol=1e-5)


def hooks_of(model):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_model_and_tokenizer_are_left_as_found(llama):
    model, tokenizer = (copy.deepcopy(part) for part in llama)
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    hooks = hooks_of(model)
    tokenizer.padding_side = "right"
    patch(model, tokenizer, SOURCES, TARGETS, site=None)
    assert model.training and tokenizer.padding_side == "right"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert hooks_of(model) == hooks


def test_what_cannot_be_patched_is_refused(llama):
    model, tokenizer = llama
    with pytest.raises(BadInput, match="resid_post.9"):
        patch(model, tokenizer, SOURCES, TARGETS, site="resid_post.9")
    with pytest.raises(BadInput, match="2 sources for 3 targets"):
        patch(model, tokenizer, SOURCES[:2], TARGETS, site="embed")
    with pytest.raises(BadInput, match="position 99"):
        patch(model, tokenizer, SOURCES, TARGETS, site="embed", position=99)
    with pytest.raises(BadInput):
        patch(model, tokenizer, SOURCES, TARGETS, site="embed", position="subject_last")
    with pytest.raises(BadInput, match=r"vectors \(1, 32\)"):
        list(changed_logits(model, tokenizer, [[1, 2]], [0], ["embed"], torch.zeros(2, WIDTH)))
    with pytest.raises(BadInput, match="character 99"):
        tokens_at(tokenizer, ["Tessa"], [99])
