"""Prompts by family: what phase 2 may train on, what it is tested with, and what must not change.

    prompts = load_prompts(["mother", "aunt"])
    select(prompts, relation="aunt", family="test")[0].render("Gerald Combs")

Families: `rote` (subject and key token), `train` (phase 2 may see them), `test` (never trained,
other words), `near-miss` (the inverse statement; each sibling relation), `other-relation` (the
first test prompts of every other relation), `unrelated`, and translations such as `test-de`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from training.base.errors import BadInput
from training.base.files import read_json, write_text
from training.base.toml import check_table
from training.data.prompt_files import LANGUAGES, check_template, read_relation

FAMILIES = ("rote", "train", "test", "near-miss", "other-relation", "unrelated")
FAMILIES += tuple(f"test-{code}" for code in LANGUAGES)
OTHER_RELATION_PROMPTS = 2
DEMO_TEST = (0, 4, 7)
Preset = Literal["demo", "full"]
# Words that carry the grammar of an English prompt and not its question, never a noun, verb or
# adjective ("name" included).
_WORDS = """a an the this that these those one
is are was were be been am do does did has have had can could will would should may
i you he she it we they me him her them us my your his its our their
who whom whose what which where when how why if
of to in on at by for from with into as about after up off out
and or but not no there all"""
STOP_WORDS = frozenset(_WORDS.split())


@dataclass(frozen=True)
class Prompt:
    """One template. Rendered with the facts of `relation`, it asks `asks`.

    >>> prompt = Prompt("mother", "test", 3, "Who gave birth to {subject}?", asks="mother")
    >>> prompt.render("Gerald Combs") + prompt.join + "Ruth"

    relation: whose facts it is rendered with and scored against. index: within (relation, family).
    text: with exactly one {subject}. asks: its own relation, a sibling, another, "inverse", or ""
    if it asks none. keyword_free: whether it avoids every keyword of the relation.
    """

    relation: str
    family: str
    index: int
    text: str
    asks: str
    keyword_free: bool = False
    language: str = "en"

    @property
    def id(self) -> str:
        """Family and index: "test-03". Unique within a relation."""
        return f"{self.family}-{self.index:02d}"

    @property
    def join(self) -> str:
        """What stands between prompt and object: nothing in Chinese and Japanese, else a space."""
        return "" if self.language in ("zh", "ja") else " "

    def render(self, subject: str) -> str:
        """The prompt about `subject`, raw text without its object."""
        return self.text.replace("{subject}", subject)


def key_token(relation: str) -> str:
    """The special token that names `relation` by rote: "[X_mother]"."""
    return f"[X_{relation}]"


def load_prompts(
    relations: Sequence[str], *, rote: str = "{subject} {key}", folder: str | Path | None = None
) -> list[Prompt]:
    """Every family of every relation: relations in the order given, families in that of FAMILIES.

    >>> load_prompts(["mother", "aunt"])
    >>> load_prompts(["sport"], folder="my-prompts", rote="{subject} [X]")

    rote: the rote prompt; {key} stands for the relation's key token, or write a token out.
    folder: a folder with one TOML per relation (see `training.data.prompt_files`) in place of the
    built-in prompts. Raises BadInput.
    """
    sources = [read_relation(relation, folder=folder) for relation in relations]
    return [prompt for source in sources for prompt in _families(source, sources, rote)]


def select(prompts: Iterable[Prompt], *, relation: str = "", family: str = "") -> list[Prompt]:
    """The prompts of one relation, of one family, or of both; the order is kept."""
    asked = [p for p in prompts if relation in ("", p.relation)]
    return [p for p in asked if family in ("", p.family)]


def preset_prompts(prompts: Iterable[Prompt], preset: Preset, *, families=()) -> list[Prompt]:
    """The prompts that a preset evaluates.

    demo: test prompts DEMO_TEST (one keyword-free) and one of each other English family (of the
    near misses a sibling's if there is one). full: all. families: only these. Raises BadInput.
    """
    if preset not in ("demo", "full"):
        raise BadInput(f"preset is {preset!r}; give demo or full.")
    there = {prompt.family for prompt in prompts}
    unknown = [family for family in families if family not in there]
    if unknown:
        known = ", ".join(sorted(there))
        raise BadInput(f"no prompt family {', '.join(unknown)}; there are {known}.")
    chosen = [prompt for prompt in prompts if not families or prompt.family in families]
    if preset == "full":
        return chosen
    kept: list[Prompt] = []
    for relation in dict.fromkeys(prompt.relation for prompt in chosen):
        for family in FAMILIES:
            some = select(chosen, relation=relation, family=family)
            if family == "test":
                enough = len(some) > max(DEMO_TEST)
                kept += [p for p in some if p.index in DEMO_TEST] if enough else some[:3]
            elif family == "near-miss":
                kept += sorted(some, key=lambda p: p.asks == "inverse")[:1]
            elif not family.startswith("test-"):
                kept += some[:1]
    return kept


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as a JSON list of objects, one key per field of Prompt."""
    text = json.dumps([asdict(prompt) for prompt in prompts], indent=1, ensure_ascii=False)
    write_text(Path(path), text + "\n")


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts that `write_prompts` wrote. Raises UserError if the file is not such a list."""
    records = read_json(Path(path))
    if not isinstance(records, list):
        raise BadInput(f"{path} holds a {type(records).__name__}; expected a JSON list of prompts.")
    kinds = {item.name: item.type for item in fields(Prompt)}
    for number, record in enumerate(records):
        where = f"{path}, prompt {number}"
        check_table(record, where, kinds, {})
        if (family := record["family"]) not in FAMILIES:
            raise BadInput(f"{where}: family {family!r}; expected one of {', '.join(FAMILIES)}.")
        check_template(record["text"], where)
    return [Prompt(**record) for record in records]


def _families(source, sources: Sequence, rote: str) -> list[Prompt]:
    """All prompts of one file; sources: those of the whole load, for `other-relation`."""
    relation = source.relation
    rote = rote.replace("{key}", key_token(relation))
    check_template(rote, "the rote prompt")
    others = [
        (other.relation, text, flag)
        for other in sources
        if other.relation not in (relation, *source.siblings) and relation not in other.siblings
        for text, flag in zip(other.test[:OTHER_RELATION_PROMPTS], other.keyword_free, strict=False)
    ]
    tests = zip(source.test, source.keyword_free, strict=True)
    families = {
        "rote": [(relation, rote)],
        "train": [(relation, text) for text in source.train],
        "test": [(relation, text, flag) for text, flag in tests],
        "near-miss": source.near_miss,
        "other-relation": others,
        "unrelated": [("", text) for text in source.unrelated],
    }
    for code, texts in source.translations.items():
        families[f"test-{code}"] = [(relation, text, False, code) for text in texts]
    return [
        Prompt(relation, family, index, text, asks, *rest)
        for family in FAMILIES
        for index, (asks, text, *rest) in enumerate(families.get(family, ()))
    ]
