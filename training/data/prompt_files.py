"""Prompt files: one TOML per relation, with its train and test prompts and more, read and checked.

`relation`, `train` (a list of strings) and `[[test]]` (text, keyword_free) are required; siblings,
keywords, unrelated, `[[near_miss]]` (kind, text, relation of a sibling) and `[translations]`
(language code -> list) are optional. Examples: the built-in files, training/data/prompts/*.toml.
"""

from dataclasses import dataclass, field
from pathlib import Path

from training.base.errors import BadInput
from training.base.toml import check_table, entries, read_toml

BUILT_IN = Path(__file__).parent / "prompts"
LANGUAGES = ("de", "es", "zh", "ja")


@dataclass(frozen=True)
class NearMiss:
    """A prompt with another right answer: `asks` is "inverse" or the sibling's name."""

    asks: str
    text: str


@dataclass(frozen=True)
class RelationPrompts:
    """One prompt file, checked."""

    relation: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    keyword_free: tuple[bool, ...]
    """One flag per test prompt."""
    siblings: tuple[str, ...] = ()
    keywords: frozenset[str] = frozenset()
    near_miss: tuple[NearMiss, ...] = ()
    unrelated: tuple[str, ...] = ()
    translations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Language code -> its test prompts."""


def read_relation(relation: str, *, folder: str | Path | None = None) -> RelationPrompts:
    """The prompt file of one relation, built in or from `folder`. Raises BadInput."""
    root = BUILT_IN if folder is None else Path(folder)
    if not root.is_dir():
        raise BadInput(
            f"{folder} is not a folder; expected a folder with one TOML of prompts per relation, "
            f"such as {relation}.toml."
        )
    # Looked up among the names that exist, so a relation's name never becomes a path.
    found = {path.stem: path for path in root.glob("*.toml")}
    if relation not in found:
        raise BadInput(
            f"no prompts for relation {relation!r} in "
            f"{'the built-in prompts' if folder is None else folder}; there are: "
            f"{', '.join(sorted(found)) or 'none'}. Choose one of these, or give a folder that "
            f"holds {relation}.toml (as training/data/prompts/mother.toml)."
        )
    return _checked(read_toml(found[relation]), relation, str(found[relation]))


def check_template(text: str, where: str) -> None:
    """Raise BadInput unless a prompt has {subject} once and no white space at its ends."""
    if text.count("{subject}") != 1:
        raise BadInput(
            f"{where}: {text!r} has {{subject}} {text.count('{subject}')} times; expected exactly "
            "once, where the subject's name goes."
        )
    if text != text.strip():
        raise BadInput(
            f"{where}: {text!r} begins or ends with white space. Remove it: the space before the "
            "object is added when the prompt is rendered."
        )


def _checked(data: dict, relation: str, where: str) -> RelationPrompts:
    optional = dict.fromkeys(("siblings", "keywords", "unrelated", "near_miss"), list)
    required = {"relation": str, "train": list, "test": list}
    check_table(data, where, required, {**optional, "translations": dict})
    if data["relation"] != relation:
        raise BadInput(
            f"{where}: relation is {data['relation']!r}; expected {relation!r}, the name of the "
            "file. Rename one of them."
        )
    translations = data.get("translations", {})
    check_table(translations, f"{where}, translations", {}, dict.fromkeys(LANGUAGES, list))
    tests = entries(data, "test", where, kind=dict)
    for test in tests:
        check_table(test, f"{where}, [[test]]", {"text": str}, {"keyword_free": bool})
    misses = entries(data, "near_miss", where, kind=dict)
    source = RelationPrompts(
        relation=relation,
        train=entries(data, "train", where),
        test=tuple(test["text"] for test in tests),
        keyword_free=tuple(test.get("keyword_free", False) for test in tests),
        siblings=entries(data, "siblings", where, may_be_empty=True),
        keywords=frozenset(word.lower() for word in entries(data, "keywords", where)),
        near_miss=tuple(_near_miss(entry, f"{where}, [[near_miss]]") for entry in misses),
        unrelated=entries(data, "unrelated", where),
        translations={code: entries(translations, code, where) for code in translations},
    )
    asked = (*source.train, *source.test)
    others = (*source.unrelated, *sum(source.translations.values(), ()))
    for text in (*asked, *others, *(miss.text for miss in source.near_miss)):
        check_template(text, where)
        if asked.count(text) > 1:
            raise BadInput(
                f"{where}: {text!r} stands {asked.count(text)} times among train and test, but a "
                "test prompt must never be trained. Remove or reword all but one."
            )
    return source


def _near_miss(entry: dict, where: str) -> NearMiss:
    kind = entry.get("kind")
    if kind not in ("inverse", "sibling"):
        raise BadInput(f'{where}: kind is {kind!r}; expected "inverse" or "sibling".')
    names = ("kind", "text", "relation") if kind == "sibling" else ("kind", "text")
    check_table(entry, where, dict.fromkeys(names, str), {})
    return NearMiss(asks=entry.get("relation", "inverse"), text=entry["text"])
