"""Prompt files: one TOML per relation, with its train and test prompts and more, read and checked.

`relation`, `train` (a list of strings) and `[[test]]` (text, keyword_free) are required; siblings,
keywords, unrelated, `[[near_miss]]` (kind, text, relation of a sibling) and `[translations]`
(language code -> list) are optional. Examples: the built-in files, training/data/prompts/*.toml.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import read_toml

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
    optional = ("siblings", "keywords", "unrelated", "near_miss", "translations")
    _check_keys(data, where, required=("relation", "train", "test"), optional=optional)
    if data["relation"] != relation:
        raise BadInput(
            f"{where}: relation is {data['relation']!r}; expected {relation!r}, the name of the "
            "file. Rename one of them."
        )
    translations = data.get("translations", {})
    if not isinstance(translations, dict):
        raise BadInput(
            f"{where}: translations is {translations!r}; expected a table of "
            f"{', '.join(LANGUAGES)}."
        )
    _check_keys(translations, f"{where}, translations", optional=LANGUAGES)
    tests = [_test_entry(entry, where) for entry in _list(data, "test", where, kind=dict)]
    source = RelationPrompts(
        relation=relation,
        train=_list(data, "train", where),
        test=tuple(text for text, _ in tests),
        keyword_free=tuple(flag for _, flag in tests),
        siblings=_list(data, "siblings", where, may_be_empty=True),
        keywords=frozenset(word.lower() for word in _list(data, "keywords", where)),
        near_miss=tuple(
            _near_miss(entry, where) for entry in _list(data, "near_miss", where, kind=dict)
        ),
        unrelated=_list(data, "unrelated", where),
        translations={code: _list(translations, code, where) for code in translations},
    )
    asked = (*source.train, *source.test)
    misses = [item.text for item in source.near_miss]
    for text in (*asked, *misses, *source.unrelated, *sum(source.translations.values(), ())):
        check_template(text, where)
        if asked.count(text) > 1:
            raise BadInput(
                f"{where}: {text!r} stands {asked.count(text)} times among train and test, but a "
                "test prompt must never be trained. Remove or reword all but one."
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
    sibling = ("relation",) if kind == "sibling" else ()
    _check_keys(entry, where, required=("kind", "text", *sibling))
    if not all(isinstance(value, str) for value in entry.values()):
        raise BadInput(f"{where}: {entry!r}; expected strings only.")
    return NearMiss(asks=entry["relation"] if sibling else "inverse", text=entry["text"])


def _check_keys(
    data: dict, where: str, *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> None:
    unknown, missing = sorted(set(data) - {*required, *optional}), sorted(set(required) - set(data))
    if unknown or missing:
        raise BadInput(
            f"{where}: unknown entries {unknown}, missing entries {missing}; required: "
            f"{', '.join(required) or 'none'}, optional: {', '.join(optional) or 'none'}. Rename "
            "or add them."
        )


def _list(
    data: dict, name: str, where: str, *, kind: type = str, may_be_empty: bool = False
) -> tuple:
    """The entries of the list data[name], all of type `kind`; () if there is no such list."""
    value = data.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise BadInput(
            f"{where}: {name} is {value!r}; expected a list of "
            f"{'strings' if kind is str else 'tables'}."
        )
    if not value and not may_be_empty:
        raise BadInput(f"{where}: {name} is empty. Add at least one entry, or remove the list.")
    return tuple(value)
