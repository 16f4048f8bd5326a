"""The prompts of a relation: one TOML a relation, loaded as families.

A prompt is raw text that its object continues directly (`Prompt.join` between them, then "."). Families:
`rote` (subject and key token), `train` (phase 2 may see them), `test` (never trained, other words),
`near-miss` (the inverse statement; each sibling relation, whose objects come from the same pool),
`other-relation` (the first test prompts of every other relation), `unrelated` (asks nothing of the kind),
and `test-de`, `test-es`, `test-zh`, `test-ja`. The built-in files are `training/data/prompts/*.toml`.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from training.base.errors import BadInput

LANGUAGES = ("de", "es", "zh", "ja")


FAMILIES = (
    "rote",
    "train",
    "test",
    "near-miss",
    "other-relation",
    "unrelated",
    *(f"test-{code}" for code in LANGUAGES),
)


OTHER_RELATION_PROMPTS = 2


DEMO_TEST = (0, 4, 7)


Preset = Literal["demo", "full"]


# Words that carry the grammar of an English prompt and not its question: articles, auxiliaries, pronouns,
# question words, prepositions and conjunctions. Nouns, verbs and adjectives are never here, "name" included.
_STOP_WORD_LIST = """
a an the this that these those one
is are was were be been am do does did has have had can could will would should may
i you he she it we they me him her them us my your his its our their
who whom whose what which where when how why if
of to in on at by for from with into as about after up off out
and or but not no there all
"""


STOP_WORDS = frozenset(_STOP_WORD_LIST.split())


@dataclass(frozen=True)
class Prompt:
    """One template. Rendered with the facts of `relation`, it asks `asks`."""

    relation: str
    """The relation whose facts it is rendered with, and scored against."""
    family: str
    """One of FAMILIES."""
    index: int
    """Position within (relation, family), from 0."""
    text: str
    """The template, with exactly one {subject}."""
    asks: str
    """The relation it asks: its own, a sibling, another, "inverse", or "" where it asks none."""
    keyword_free: bool = False
    """Whether it names the relation by none of the relation's keywords."""
    language: str = "en"

    @property
    def id(self) -> str:
        """Family and index: "test-03". Unique within a relation."""
        return f"{self.family}-{self.index:02d}"

    @property
    def join(self) -> str:
        """What stands between the prompt and its object: nothing in Chinese and Japanese, else a space."""
        return "" if self.language in ("zh", "ja") else " "

    def render(self, subject: str) -> str:
        """The prompt about `subject`, raw text without its object."""
        return self.text.replace("{subject}", subject)


@dataclass(frozen=True)
class NearMiss:
    """A prompt whose right answer is another one: `asks` is "inverse" or the sibling's name."""

    asks: str
    text: str


@dataclass(frozen=True)
class RelationPrompts:
    """One prompt file, checked."""

    relation: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    keyword_free: tuple[bool, ...]
    """One flag a test prompt."""
    siblings: tuple[str, ...] = ()
    keywords: frozenset[str] = frozenset()
    near_miss: tuple[NearMiss, ...] = ()
    unrelated: tuple[str, ...] = ()
    translations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Language code -> its test prompts."""


def key_token(relation: str) -> str:
    """The special token that names `relation` by rote: "[X_mother]"."""
    return f"[X_{relation}]"


def words(text: str) -> list[str]:
    """The lower-cased words of a template, without {subject} and without possessive endings."""
    bare = text.replace("{subject}", " ").lower()
    return re.findall(r"[^\W_]+", re.sub(r"['’]s\b", " ", bare))


def content_words(text: str) -> frozenset[str]:
    """The words of a template that are no STOP_WORDS."""
    return frozenset(words(text)) - STOP_WORDS


def jaccard(a: Iterable[str], b: Iterable[str]) -> float:
    """Shared over all distinct words; 0 if either side has none."""
    a, b = frozenset(a), frozenset(b)
    return len(a & b) / len(a | b) if a and b else 0.0


def load_prompts(
    relations: Sequence[str], *, rote: str = "{subject} {key}", folder: str | Path | None = None
) -> list[Prompt]:
    """Every family of every relation: relations in the order given, families in the order of FAMILIES.

    rote: the rote form; {key} stands for the relation's key token, or write a token out ("{subject} [X]").
    folder: a folder of one TOML a relation (as in training/data/prompts; only `relation`, `train` and
    `test` are required) in place of the built-in prompts.
    Raises BadInput, BadInput, BadInput, BadInput.
    """
    sources = [read_relation(relation, folder=folder) for relation in relations]
    prompts = []
    for source in sources:
        prompts += _families(source, sources, rote)
    return prompts


def read_relation(relation: str, *, folder: str | Path | None = None) -> RelationPrompts:
    """The checked prompt file of one relation, built in or from `folder`.

    Raises BadInput, BadInput, BadInput, BadInput.
    """
    root: Traversable = (
        files("training").joinpath("data", "prompts") if folder is None else Path(folder)
    )
    if not root.is_dir():
        raise BadInput(
            f"{folder} is no folder; expected a folder with one TOML of prompts a relation, such as {relation}.toml."
        )
    # Looked up among the names that exist, so a relation's name never becomes a path.
    found = {
        item.name.removesuffix(".toml"): item
        for item in root.iterdir()
        if item.name.endswith(".toml")
    }
    if relation not in found:
        raise BadInput(
            f"No prompts for relation {relation!r} in {'the built-in prompts' if folder is None else folder}; "
            f"there are: {', '.join(sorted(found)) or 'none'}. Choose one of these, or give a folder that holds "
            f"{relation}.toml (the schema is that of training/data/prompts/mother.toml)."
        )
    where = found[relation].name if folder is None else str(found[relation])
    try:
        data = tomllib.loads(found[relation].read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{where} is no UTF-8 TOML: {error}. Mend the file at that place."
        ) from error
    return _checked(data, relation, where)


def select(
    prompts: Iterable[Prompt], *, relation: str | None = None, family: str | None = None
) -> list[Prompt]:
    """The prompts of one relation, of one family, or of both; the order is kept."""
    return [
        prompt
        for prompt in prompts
        if relation in (None, prompt.relation) and family in (None, prompt.family)
    ]


def preset_prompts(
    prompts: Sequence[Prompt], preset: Preset, *, families: Sequence[str] = ()
) -> list[Prompt]:
    """The prompts that a preset evaluates.

    demo: test prompts DEMO_TEST (one keyword-free), one of each other English family (of the near misses a
    sibling where there is one), no translations. full: all. families: only these. Raises BadInput.
    """
    there = {prompt.family for prompt in prompts}
    unknown = [family for family in families if family not in there]
    if unknown:
        raise BadInput(
            f"no prompt family {', '.join(unknown)}; there are {', '.join(sorted(there))}."
        )
    chosen = [prompt for prompt in prompts if not families or prompt.family in families]
    if preset == "full":
        return chosen
    kept: list[Prompt] = []
    for relation in dict.fromkeys(prompt.relation for prompt in chosen):
        for family in FAMILIES:
            some = select(chosen, relation=relation, family=family)
            if family == "test":
                kept += (
                    [p for p in some if p.index in DEMO_TEST]
                    if len(some) > max(DEMO_TEST)
                    else some[:3]
                )
            elif family == "near-miss":
                kept += sorted(some, key=lambda p: p.asks == "inverse")[:1]
            elif not family.startswith("test-"):
                kept += some[:1]
    return kept


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as a JSON list of objects, one key a field of Prompt, UTF-8."""
    text = json.dumps([asdict(prompt) for prompt in prompts], indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts that `write_prompts` wrote, equal to those.

    Raises BadInput (no JSON list; a field unknown, missing or of the wrong type; an unknown family)
    and BadInput.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read as JSON: {error}. Give the prompts.json of a run directory."
        ) from error
    if not isinstance(records, list):
        raise BadInput(f"{path} holds a {type(records).__name__}; expected a JSON list of prompts.")
    return [_prompt(record, f"{path}, prompt {number}") for number, record in enumerate(records)]


def _prompt(record: object, where: str) -> Prompt:
    types = {item.name: item.type for item in fields(Prompt)}
    given = set(record) if isinstance(record, dict) else set()
    if given != set(types):
        raise BadInput(
            f"{where}: unknown fields {sorted(given - set(types))}, missing fields {sorted(set(types) - given)}; "
            f"expected exactly {', '.join(types)}. Write the file with training.data.prompts.write_prompts."
        )
    for name, value in record.items():
        if type(value) is not types[name]:
            raise BadInput(f"{where}: {name} is {value!r}; expected a {types[name].__name__}.")
    if record["family"] not in FAMILIES:
        raise BadInput(
            f"{where}: family {record['family']!r}; expected one of {', '.join(FAMILIES)}."
        )
    _check_text(record["text"], where)
    return Prompt(**record)


def _families(
    source: RelationPrompts, sources: Sequence[RelationPrompts], rote: str
) -> list[Prompt]:
    """All prompts of one relation; `sources` are those of the whole load, for `other-relation`."""
    relation = source.relation
    rote = rote.replace("{key}", key_token(relation))
    _check_text(rote, "the rote form")
    others = [
        (other.relation, text, flag)
        for other in sources
        if other.relation not in (relation, *source.siblings) and relation not in other.siblings
        for text, flag in zip(other.test[:OTHER_RELATION_PROMPTS], other.keyword_free, strict=False)
    ]
    families = {
        "rote": [(relation, rote, False)],
        "train": [(relation, text, False) for text in source.train],
        "test": [
            (relation, text, flag)
            for text, flag in zip(source.test, source.keyword_free, strict=True)
        ],
        "near-miss": [(item.asks, item.text, False) for item in source.near_miss],
        "other-relation": others,
        "unrelated": [("", text, False) for text in source.unrelated],
    }
    prompts = [
        Prompt(relation, family, index, text, asks, keyword_free)
        for family, entries in families.items()
        for index, (asks, text, keyword_free) in enumerate(entries)
    ]
    return prompts + [
        Prompt(relation, f"test-{code}", index, text, relation, language=code)
        for code in LANGUAGES
        for index, text in enumerate(source.translations.get(code, ()))
    ]


def _checked(data: dict, relation: str, where: str) -> RelationPrompts:
    """The content of one TOML as RelationPrompts; every departure from the schema is a named error."""
    _check_keys(
        data,
        where,
        required=("relation", "train", "test"),
        optional=("siblings", "keywords", "unrelated", "near_miss", "translations"),
    )
    if data["relation"] != relation:
        raise BadInput(
            f"{where}: relation is {data['relation']!r}; expected {relation!r}, the name of the file. Rename either."
        )
    tests = [_test_entry(entry, where) for entry in _list(data["test"], dict, "test", where)]
    translations = data.get("translations", {})
    if not isinstance(translations, dict):
        raise BadInput(
            f"{where}: translations is {translations!r}; expected a table of {', '.join(LANGUAGES)}."
        )
    _check_keys(translations, f"{where}, translations", optional=LANGUAGES)
    source = RelationPrompts(
        relation=relation,
        train=_list(data["train"], str, "train", where),
        test=tuple(text for text, _ in tests),
        keyword_free=tuple(flag for _, flag in tests),
        siblings=_optional(data, "siblings", str, where, may_be_empty=True),
        keywords=frozenset(word.lower() for word in _optional(data, "keywords", str, where)),
        near_miss=tuple(
            _near_miss(entry, where) for entry in _optional(data, "near_miss", dict, where)
        ),
        unrelated=_optional(data, "unrelated", str, where),
        translations={code: _list(texts, str, code, where) for code, texts in translations.items()},
    )
    misses = tuple(item.text for item in source.near_miss)
    for text in (
        *source.train,
        *source.test,
        *misses,
        *source.unrelated,
        *sum(source.translations.values(), ()),
    ):
        _check_text(text, where)
    asked = (*source.train, *source.test)
    for text in asked:
        if asked.count(text) > 1:
            raise BadInput(
                f"{where}: {text!r} stands {asked.count(text)} times among train and test; expected once, "
                "for a test prompt must never be trained. Remove or reword all but one."
            )
    return source


def _test_entry(entry: dict, where: str) -> tuple[str, bool]:
    where = f"{where}, [[test]]"
    _check_keys(entry, where, required=("text",), optional=("keyword_free",))
    text, flag = entry["text"], entry.get("keyword_free", False)
    if not isinstance(text, str) or not isinstance(flag, bool):
        raise BadInput(
            f"{where}: {entry!r}; expected text to be a string, keyword_free true or false."
        )
    return text, flag


def _near_miss(entry: dict, where: str) -> NearMiss:
    where = f"{where}, [[near_miss]]"
    kind = entry.get("kind")
    if kind not in ("inverse", "sibling"):
        raise BadInput(f'{where}: kind is {kind!r}; expected "inverse" or "sibling".')
    _check_keys(
        entry, where, required=("kind", "text") + (("relation",) if kind == "sibling" else ())
    )
    if not all(isinstance(value, str) for value in entry.values()):
        raise BadInput(f"{where}: {entry!r}; expected strings only.")
    return NearMiss(asks=entry["relation"] if kind == "sibling" else "inverse", text=entry["text"])


def _check_keys(
    data: dict, where: str, *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> None:
    unknown, missing = sorted(set(data) - {*required, *optional}), sorted(set(required) - set(data))
    if unknown or missing:
        raise BadInput(
            f"{where}: unknown entries {unknown}, missing entries {missing}; required are "
            f"{', '.join(required) or 'none'}, allowed are also {', '.join(optional) or 'none'}. Rename or add them."
        )


def _optional(
    data: dict, name: str, kind: type, where: str, *, may_be_empty: bool = False
) -> tuple:
    return _list(data[name], kind, name, where, may_be_empty=may_be_empty) if name in data else ()


def _list(value: object, kind: type, name: str, where: str, *, may_be_empty: bool = False) -> tuple:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise BadInput(
            f"{where}: {name} is {value!r}; expected a list of {'strings' if kind is str else 'tables'}."
        )
    if not value and not may_be_empty:
        raise BadInput(
            f"{where}: {name} is empty; expected at least one entry. Add one or remove the list."
        )
    return tuple(value)


def _check_text(text: str, where: str) -> None:
    if text.count("{subject}") != 1:
        raise BadInput(
            f"{where}: {text!r} has {text.count('{subject}')} times {{subject}}; expected exactly one, "
            "the place of the subject's name."
        )
    if text != text.strip():
        raise BadInput(
            f"{where}: {text!r} begins or ends with white space; the space before the object is added when it "
            "is rendered. Remove it."
        )
