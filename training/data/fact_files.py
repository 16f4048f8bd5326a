"""Facts on disk: our CSV and the published T-Rex-Fiction CSV, read whole or not at all.

Our CSV has the columns subject, relation, object and, optional, candidates (a JSON list), split and
bound. T-Rex-Fiction has Head, Fact, Alternate Facts, Text. Rows are numbered as in a spreadsheet: the
header is row 1. Text is brought to Unicode NFC and stripped before anything is compared.
"""

import ast
import csv
import io
import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.base.errors import BadInput

COLUMNS = ("subject", "relation", "object", "candidates", "split", "bound")


REQUIRED = COLUMNS[:3]


TREX_COLUMNS = ("Head", "Fact", "Alternate Facts", "Text")


SPLITS = ("seen", "held-out", "all")


BOUND = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Fact:
    """One fact: `object` is the `relation` of `subject`.

    candidates: the answers of multiple choice, the object among them.
    split: `seen` (phase 2 uses the subject), `held-out`, or `all` where no split has been made.
    bound: False for a relation that is memorised but never given a meaning in phase 2.
    """

    subject: str
    relation: str
    object: str
    candidates: tuple[str, ...]
    split: str = "all"
    bound: bool = True


class _BadRow(Exception):
    """One row is bad; the message holds the fault and the remedy. Never leaves this module."""


def read_facts(path: str | Path, *, relation: str | None = None) -> list[Fact]:
    """The facts of a CSV, in its order; the header tells which of the two formats it is.

    relation: for T-Rex-Fiction, which has no such column. Default: the file's stem in lower case without
    the digits, underscores, hyphens and spaces at its end (author_71.csv -> author).
    Our optional columns default to: candidates, all objects of the relation in the file; split, `all`;
    bound, true. An empty cell counts as absent.
    Raises BadInput at the first bad row, with the number of bad rows; nothing is returned then.
    Warns where one candidate of a list is a substring of another: strict scoring cannot tell them apart.
    """
    path = Path(path)
    rows = _read_rows(path)
    number, header = rows[0]
    columns = [name.strip() for name in header]
    trex = "Head" in columns or "Fact" in columns
    _check_header(path, columns, trex)
    if trex:
        relation = _trex_relation(path, relation)
    elif relation is not None:
        raise BadInput(
            f"{path}: relation {relation!r} was given, but this file has a relation column of its own. "
            "Leave the relation out."
        )

    facts: list[tuple[int, Fact]] = []
    faults: list[tuple[int, str]] = []
    first_row: dict[tuple[str, str], tuple[int, str]] = {}
    splits: dict[str, tuple[int, str]] = {}
    bounds: dict[str, tuple[int, bool]] = {}
    for number, cells in rows[1:]:
        try:
            row = _named(cells, columns)
            fact = _trex_fact(row, relation) if trex else _own_fact(row)
            _check_repeats(number, fact, first_row, splits, bounds)
            facts.append((number, fact))
        except _BadRow as fault:
            faults.append((number, str(fault)))
    if not faults:
        facts, faults = _with_default_candidates(facts)
    if faults:
        number, fault = faults[0]
        count = "1 bad row" if len(faults) == 1 else f"{len(faults)} bad rows"
        raise BadInput(f"{path}, row {number}: {fault} ({count} in all; nothing was loaded.)")
    if not facts:
        raise BadInput(f"{path}: there is a header but no row below it. Add one row for each fact.")
    _warn_of_substrings(path, facts)
    return [fact for _, fact in facts]


def write_facts(path: str | Path, facts: Sequence[Fact]) -> None:
    """Writes our CSV, whole: candidates as a JSON list, bound as true or false. `read_facts` reads it back."""
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for fact in facts:
            candidates = json.dumps(fact.candidates, ensure_ascii=False)
            writer.writerow(
                [
                    fact.subject,
                    fact.relation,
                    fact.object,
                    candidates,
                    fact.split,
                    str(fact.bound).lower(),
                ]
            )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(row number, cells) of every row that is not blank; the header is the first."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}). Give the path of a CSV of facts."
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace") + "?"
        row = len(list(csv.reader(io.StringIO(before, newline=""))))
        raise BadInput(
            f"{path}, row {row}: not UTF-8 (byte 0x{data[error.start]:02x}). Save the file as UTF-8."
        ) from error
    rows = []
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if any(cell.strip() for cell in cells):
                rows.append((number, cells))
    except csv.Error as error:
        number = rows[-1][0] + 1 if rows else 1
        raise BadInput(
            f"{path}, row {number}: not well-formed CSV ({error}). Close every quote and double the quotes "
            "inside a quoted cell."
        ) from error
    if not rows:
        raise BadInput(
            f"{path}: the file is empty. Its first row names the columns: {', '.join(COLUMNS)}."
        )
    return rows


def _check_header(path: Path, columns: list[str], trex: bool) -> None:
    known = TREX_COLUMNS if trex else COLUMNS
    required = TREX_COLUMNS[:3] if trex else REQUIRED
    for faulty, problem in (
        ([name for name in columns if name not in known], "unknown column"),
        ([name for name in required if name not in columns], "missing column"),
        ([name for name, count in Counter(columns).items() if count > 1], "repeated column"),
    ):
        if faulty:
            raise BadInput(
                f"{path}, row 1: {problem} {', '.join(map(repr, faulty))}. Expected {', '.join(known)}, of "
                f"which {', '.join(required)} must be there. Correct the header."
            )


def _trex_relation(path: Path, relation: str | None) -> str:
    name = path.stem.lower().rstrip("0123456789_- ") if relation is None else relation.strip()
    try:
        return _relation(name)
    except _BadRow as fault:
        source = "the file name" if relation is None else "the relation given"
        raise BadInput(f"{path}: from {source}: {fault} Give relation=NAME.") from fault


def _named(cells: list[str], columns: list[str]) -> dict[str, str]:
    if len(cells) != len(columns):
        raise _BadRow(
            f"{len(cells)} cells under {len(columns)} columns. Quote cells that contain a comma."
        )
    return dict(zip(columns, cells, strict=True))


def _own_fact(row: dict[str, str]) -> Fact:
    """A fact whose candidates are empty where the file gives none."""
    obj = _text(row["object"], "object")
    candidates = ()
    if row.get("candidates", "").strip():
        candidates = _checked(_text_list(row["candidates"], "candidates"), obj)
    split = row.get("split", "").strip() or "all"
    if split not in SPLITS:
        raise _BadRow(f"split is {split!r}. Write one of {', '.join(SPLITS)}.")
    bound = row.get("bound", "").strip().lower() or "true"
    if bound not in BOUND:
        raise _BadRow(f"bound is {bound!r}. Write true or false.")
    return Fact(
        _text(row["subject"], "subject"),
        _relation(row["relation"]),
        obj,
        candidates,
        split,
        BOUND[bound],
    )


def _trex_fact(row: dict[str, str], relation: str) -> Fact:
    obj = _text(row["Fact"], "Fact")
    others = _text_list(row["Alternate Facts"], "Alternate Facts")
    candidates = _checked(list(dict.fromkeys([obj, *others])), obj)
    return Fact(_text(row["Head"], "Head"), relation, obj, candidates)


def _text(cell: str, column: str) -> str:
    text = unicodedata.normalize("NFC", cell).strip()
    if not text:
        raise _BadRow(f"{column} is empty. Fill it in or delete the row.")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise _BadRow(
            f"{column} {text!r} has a line break or another control character. Remove it."
        )
    return text


def _relation(cell: str) -> str:
    name = _text(cell, "relation")
    # The name becomes part of a key token and of file names.
    if not re.fullmatch(r"\w[\w-]*", name):
        raise _BadRow(f"relation {name!r} is not a plain name. Use letters, digits, _ and - only.")
    return name


def _text_list(cell: str, column: str) -> list[str]:
    """A JSON or Python list literal of strings; nothing in it is ever evaluated."""
    values = None
    for parse in (json.loads, ast.literal_eval):
        try:
            values = parse(cell.strip())
            break
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        shown = cell if len(cell) <= 60 else cell[:57] + "..."
        raise _BadRow(
            f'{column} is {shown!r}. Write a JSON list of strings, such as ["Angela", "Martha"].'
        )
    return [_text(value, f"an entry of {column}") for value in values]


def _checked(candidates: list[str], obj: str) -> tuple[str, ...]:
    if len(candidates) < 2:
        raise _BadRow(f"{len(candidates)} candidate(s). Multiple choice needs at least 2.")
    twice = [text for text, count in Counter(candidates).items() if count > 1]
    if twice:
        raise _BadRow(f"the candidate {twice[0]!r} is there twice. Remove one.")
    if obj not in candidates:
        raise _BadRow(f"the object {obj!r} is missing from its candidates. Add it to them.")
    return tuple(candidates)


def _check_repeats(
    number: int,
    fact: Fact,
    first_row: dict[tuple[str, str], tuple[int, str]],
    splits: dict[str, tuple[int, str]],
    bounds: dict[str, tuple[int, bool]],
) -> None:
    """Compares a fact with the rows above it, and records it in the three tables."""
    where, obj = first_row.setdefault((fact.relation, fact.subject), (number, fact.object))
    if where != number and obj == fact.object:
        raise _BadRow(
            f"duplicate subject {fact.subject!r}: the same fact is in row {where}. Delete one."
        )
    if where != number:
        raise _BadRow(
            f"two objects for the {fact.relation} of {fact.subject!r}: {obj!r} in row {where}, "
            f"{fact.object!r} here. Keep one."
        )
    where, split = splits.setdefault(fact.subject, (number, fact.split))
    if split != fact.split:
        raise _BadRow(
            f"the split of {fact.subject!r} is {split!r} in row {where} and {fact.split!r} here. "
            "A subject has one split in all its rows."
        )
    where, bound = bounds.setdefault(fact.relation, (number, fact.bound))
    if bound != fact.bound:
        raise _BadRow(
            f"bound of {fact.relation!r} is {bound} in row {where} and {fact.bound} here. "
            "A relation is bound, or unbound, in all its rows."
        )


def _with_default_candidates(facts: list[tuple[int, Fact]]) -> tuple[list, list[tuple[int, str]]]:
    objects: dict[str, dict[str, None]] = {}
    for _, fact in facts:
        objects.setdefault(fact.relation, {})[fact.object] = None
    filled, faults = [], []
    for number, fact in facts:
        candidates = fact.candidates or tuple(sorted(objects[fact.relation]))
        if len(candidates) < 2:
            fault = (
                f"{fact.relation!r} has the one object {fact.object!r} in this file and so no multiple "
                "choice. Give candidates, or facts with other objects."
            )
            faults.append((number, fault))
        filled.append((number, replace(fact, candidates=candidates)))
    return filled, faults


def _warn_of_substrings(path: Path, facts: list[tuple[int, Fact]]) -> None:
    checked: set[tuple[str, ...]] = set()
    for number, fact in facts:
        if fact.candidates in checked:
            continue
        checked.add(fact.candidates)
        folded = [text.casefold() for text in fact.candidates]
        pair = next(((a, b) for a in folded for b in folded if a != b and a in b), None)
        if pair:
            warnings.warn(
                f"{path}, row {number}: the candidate {pair[0]!r} is a substring of {pair[1]!r}; an answer that "
                "contains the longer one also contains the shorter one.",
                stacklevel=3,
            )
