"""Prompt files: one TOML per relation, with its train and test prompts and more, read and checked.

`relation`, `train` (a list of strings) and `[[test]]` (text, keyword_free) are required; siblings,
keywords, unrelated, `[[near_miss]]` (kind, text, relation of a sibling) and `[translations]`
(language code -> list) are optional. Examples: the built-in files, training/data/prompts/*.toml.
"""

from pathlib import Path
from typing import NamedTuple

from training.base.errors import BadInput
from training.base.toml import check_table, entries, read_toml

BUILT_IN = Path(__file__).parent / "prompts"
LANGUAGES = ("de", "es", "zh", "ja")


class RelationPrompts(NamedTuple):
    """One prompt file, checked.

    keyword_free: a flag per test prompt. near_miss: (what is asked, text), "inverse" or a sibling.
    translations: language code -> test prompts.
    """

    relation: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    keyword_free: tuple[bool, ...]
    siblings: tuple[str, ...]
    keywords: frozenset[str]
    near_miss: tuple[tuple[str, str], ...]
    unrelated: tuple[str, ...]
    translations: dict[str, tuple[str, ...]]


def read_relation(relation: str, *, folder: str | Path | None = None) -> RelationPrompts:
    """The prompt file of one relation, built in or from `folder`. Raises BadInput."""
    root = BUILT_IN if folder is None else Path(folder)
    if not root.is_dir():
        raise BadInput(f"{folder} is not a folder; expected one that holds {relation}.toml.")
    # Looked up among the names that exist, so a relation's name never becomes a path.
    found = {path.stem: path for path in root.glob("*.toml")}
    if relation not in found:
        known = f"there are: {', '.join(sorted(found)) or 'none'}"
        remedy = f"Choose one of these, or give a folder that holds {relation}.toml."
        raise BadInput(f"no prompts for relation {relation!r} in {root}; {known}. {remedy}")
    return _checked(read_toml(found[relation]), relation, str(found[relation]))


def check_template(text: str, where: str) -> None:
    """Raise BadInput unless a prompt has {subject} once and no white space at its ends."""
    if text.count("{subject}") != 1:
        times = text.count("{subject}")
        raise BadInput(f"{where}: {text!r} has {{subject}} {times} times; expected exactly once.")
    if text != text.strip():
        raise BadInput(f"{where}: {text!r} begins or ends with white space. Remove it.")


def _checked(data: dict, relation: str, where: str) -> RelationPrompts:
    optional = dict.fromkeys(("siblings", "keywords", "unrelated", "near_miss"), list)
    required = {"relation": str, "train": list, "test": list}
    check_table(data, where, required, {**optional, "translations": dict})
    if (name := data["relation"]) != relation:
        raise BadInput(
            f"{where}: relation is {name!r}; expected {relation!r}, the name of the file."
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
    for text in (*asked, *others, *(text for _, text in source.near_miss)):
        check_template(text, where)
        if asked.count(text) > 1:
            fault = f"stands {asked.count(text)} times among train and test"
            raise BadInput(f"{where}: {text!r} {fault}. Remove or reword all but one.")
    return source


def _near_miss(entry: dict, where: str) -> tuple[str, str]:
    """(what it asks, its text)."""
    kind = entry.get("kind")
    if kind not in ("inverse", "sibling"):
        raise BadInput(f'{where}: kind is {kind!r}; expected "inverse" or "sibling".')
    names = ("kind", "text", "relation") if kind == "sibling" else ("kind", "text")
    check_table(entry, where, dict.fromkeys(names, str), {})
    return entry.get("relation", "inverse"), entry["text"]
