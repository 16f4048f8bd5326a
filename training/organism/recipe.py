"""Small Llamas made here: the model organism, which knows a synthetic world alone, and `tiny`.

An organism's name says its preset, its seed and any other setting: `world:3`,
`world-tiny:1,people=200`, `world:0,layers=6,width=384`. Each lies in its own folder of the cache;
other built-in prompts or names make another world, and another folder.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import cache_folder, sha256_file, sha256_text
from training.data.facts import DATA, PEOPLE, build_facts
from training.data.prompts import load_prompts
from training.organism.world import World, build_world, check_world, read_world

END, CONTEXT, HEAD = "<|end|>", 256, 32


@dataclass(frozen=True)
class Recipe:
    """Everything an organism's weights depend on, apart from the built-in prompts and names.

    seed: draws the people, what is true of them, the first weights and the order of the sentences.
    batch: sentences a step; passage: sentences in a training sequence.
    """

    seed: int = 0
    people: int = 600
    relations: tuple[str, ...] = tuple(PEOPLE)
    layers: int = 4
    width: int = 256
    vocabulary: int = 1280
    steps: int = 2000
    batch: int = 128
    passage: int = 4
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_world(self.people, self.relations)
        lowest = {"seed": 0, "layers": 1, "vocabulary": 300, "steps": 1, "batch": 1}
        rules = {n: (getattr(self, n) >= low, f"{low} or more") for n, low in lowest.items()}
        rules["width"] = (self.width >= HEAD and self.width % HEAD == 0, f"a multiple of {HEAD}")
        rules["learning_rate"] = (0 < self.learning_rate < 1, "a number above 0 and below 1")
        rules["passage"] = (1 <= self.passage <= self.batch, f"1 to the batch, {self.batch}")
        for name, (right, what) in rules.items():
            if not right:
                raise BadInput(f"{name} is {getattr(self, name)}; give {what}.")


SMALLER = {"layers": 3, "width": 128, "steps": 900, "batch": 96, "learning_rate": 2e-3}
PRESETS = {
    "world": Recipe(),
    "world-tiny": Recipe(people=120, relations=("mother", "aunt", "profession"), **SMALLER),
}


def is_organism(name: str) -> bool:
    """Whether a model's name names an organism."""
    return name.split(":")[0].lower() in PRESETS


def parse(name: str) -> Recipe:
    """The recipe that `world`, `world:3` or `world-tiny:1,people=200` names. Raises BadInput.

    Settings are those of Recipe; relations are joined by "+", as in relations=mother+aunt.
    """
    preset, _, rest = name.partition(":")
    if not is_organism(name):
        raise BadInput(f"no organism {name!r}. There are {', '.join(PRESETS)}, as in world:3.")
    types = {field.name: field.type for field in fields(Recipe)}
    changes: dict[str, object] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.strip().partition("=")
        if not equals:
            key, value = "seed", key
        if key not in types:
            raise BadInput(f"{name!r}: no setting {key!r}. There are {', '.join(types)}.")
        try:
            changes[key] = tuple(value.split("+")) if key == "relations" else types[key](value)
        except ValueError as error:
            raise BadInput(f"{name!r}: {key} is {value!r}; give a number.") from error
    return replace(PRESETS[preset.lower()], **changes)


def world_of(name: str) -> World:
    """The world of an organism by its name, pretrained or not, or its directory. Raises NoWorld."""
    if is_organism(name):
        recipe = parse(name)
        return build_world(people=recipe.people, relations=recipe.relations, seed=recipe.seed)
    return read_world(Path(name).expanduser())


def recorded(recipe: Recipe) -> dict:
    """The recipe as JSON, with the sha256 of the names and prompts that the world is made of."""
    prompts = sorted(p for p in (DATA / "prompts").glob("*.toml") if p.stem in PEOPLE)
    sources = [DATA / "world.toml", DATA / "names.toml", *prompts]
    text = sha256_text("\n".join(f"{path.name} {sha256_file(path)}" for path in sources))
    return {**asdict(recipe), "relations": list(recipe.relations), "text": text}


def organism_folder(name: str) -> Path:
    """Where an organism lies in the cache: preset, seed, changes to the preset, a hash of all."""
    recipe, preset = parse(name), name.partition(":")[0].lower()
    parts = [preset, str(recipe.seed)]
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if field.name != "seed" and value != getattr(PRESETS[preset], field.name):
            shown = "-".join(value) if isinstance(value, tuple) else str(value)
            parts.append(f"{field.name}-{re.sub('[^a-z0-9.-]+', '-', shown)}")
    digest = sha256_text(repr(sorted(recorded(recipe).items())))
    return cache_folder() / "-".join([*parts, digest[:8]])


def new_model(recipe: Recipe, tokenizer):
    """A Llama of the recipe's size with random weights, a function of its seed."""
    sizes = {"layers": recipe.layers, "width": recipe.width, "inner": 2 * recipe.width}
    heads = recipe.width // HEAD
    return _llama(tokenizer, recipe.seed, **sizes, heads=heads, key_value_heads=heads)


def build_tiny(folder: Path) -> None:
    """Write the model `tiny` and its tokenizer in Hugging Face format; the same every time.

    Four layers of width 64 with random weights, for trying commands in seconds. It has never read
    English: how it generalises says nothing about language models.
    """
    facts = build_facts("people", subjects=400, pool=32)
    texts = [p.text for p in load_prompts(list(dict.fromkeys(f.relation for f in facts)))]
    tokenizer = new_tokenizer([*texts, *(f"{f.subject} {f.object}." for f in facts)], 1024)
    model = _llama(tokenizer, 0, layers=4, width=64, inner=256, heads=4, key_value_heads=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_tokenizer(texts: Iterable[str], vocabulary: int):
    """A byte-level BPE tokenizer of so many tokens; the same every time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    quiet = {"special_tokens": [END], "show_progress": False}
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=letters, **quiet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def _llama(
    tokenizer, seed: int, *, layers: int, width: int, inner: int, heads: int, key_value_heads: int
):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
