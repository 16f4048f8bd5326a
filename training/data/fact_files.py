"""Facts on disk: our CSV and the published T-Rex-Fiction CSV, read whole or not at all.

Our CSV has the columns subject, relation, object and, optionally, candidates (a JSON list), split
and bound. T-Rex-Fiction has Head, Fact, Alternate Facts, Text. The header is row 1. Text is
normalised to Unicode NFC and stripped before it is compared.
"""

import ast
import csv
import io
import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import write_with

COLUMNS = ("subject", "relation", "object", "candidates", "split", "bound")
TREX_COLUMNS = ("Head", "Fact", "Alternate Facts", "Text")
SPLITS = ("seen", "held-out", "all")
BOUND = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Fact:
    """One fact: `object` is the `relation` of `subject`.

    >>> Fact("Gerald Combs", "mother", "Ruth", candidates=("Ada", "Ruth"), split="seen")

    candidates: the answers of multiple choice, the object among them.
    split: `seen` (phase 2 uses the subject), `held-out`, or `all` if no split was made.
    bound: False for a relation that is memorised but never given a meaning in phase 2.
    """

    subject: str
    relation: str
    object: str
    candidates: tuple[str, ...]
    split: str = "all"
    bound: bool = True


def read_facts(path: str | Path, *, relation: str = "") -> list[Fact]:
    """The facts of a CSV, in its order; the header tells which of the two formats it is.

    relation: for T-Rex-Fiction, which has no such column. Default: the file's stem in lower case
    without the digits, underscores, hyphens and spaces at its end (author_71.csv -> author).
    Defaults of our optional columns, also for empty cells: candidates, all objects of the relation
    in the file; split, `all`; bound, true.
    Raises BadInput at the first bad row, with the number of bad rows.
    Warns if a candidate is a substring of another: lenient scoring cannot tell the two apart.
    """
    path = Path(path)
    (_, header), *rows = _read_rows(path)
    columns = [name.strip() for name in header]
    trex = "Head" in columns or "Fact" in columns
    _check_header(path, columns, TREX_COLUMNS if trex else COLUMNS)
    if trex:
        relation = _trex_relation(path, relation)
    elif relation:
        raise BadInput(f"{path}: leave out relation {relation!r}; the file has a relation column.")
    if not rows:
        raise BadInput(f"{path}: there is a header but no row below it. Add one row for each fact.")
    above: dict[str, tuple[int, object]] = {}

    def fact_of(number: int, cells: list[str]) -> Fact:
        if (found := len(cells)) != (wanted := len(columns)):
            remedy = "Quote cells that contain a comma."
            raise BadInput(f"{found} cells under {wanted} columns. {remedy}")
        row = dict(zip(columns, cells, strict=True))
        fact = _trex_fact(row, relation) if trex else _own_fact(row)
        _check_against_rows_above(number, fact, above)
        return fact

    facts = _each_row(path, rows, fact_of)
    objects: dict[str, set[str]] = {}
    for fact in facts.values():
        objects.setdefault(fact.relation, set()).add(fact.object)
    facts = _each_row(path, facts.items(), lambda _, fact: _with_candidates(fact, objects))
    _warn_of_substrings(path, facts)
    return list(facts.values())


def write_facts(path: str | Path, facts: Sequence[Fact]) -> None:
    """Write our CSV whole: candidates as a JSON list, bound as true or false; see `read_facts`."""

    def write(part: Path) -> None:
        with open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for f in facts:
                candidates = json.dumps(f.candidates, ensure_ascii=False)
                bound = str(f.bound).lower()
                writer.writerow([f.subject, f.relation, f.object, candidates, f.split, bound])

    write_with(Path(path), write)


def _each_row(path: Path, rows: Iterable[tuple], make: Callable[..., Fact]) -> dict[int, Fact]:
    """Row number -> make(number, row). Raises BadInput with the first bad row and their number."""
    facts, faults = {}, {}
    for number, row in rows:
        try:
            facts[number] = make(number, row)
        except BadInput as fault:
            faults[number] = str(fault)
    if faults:
        number, fault = next(iter(faults.items()))
        count = "1 bad row" if len(faults) == 1 else f"{len(faults)} bad rows"
        raise BadInput(f"{path}, row {number}: {fault} ({count} in all; nothing was loaded.)")
    return facts


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(row number, cells) of every row that is not blank; the header is the first."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}). Give a CSV.") from error
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace") + "?"
        row = f"row {len(list(csv.reader(io.StringIO(before, newline=''))))}"
        byte = f"byte 0x{data[error.start]:02x}"
        raise BadInput(f"{path}, {row}: {byte} is not UTF-8. Save it as UTF-8.") from error
    rows = []
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if any(cell.strip() for cell in cells):
                rows.append((number, cells))
    except csv.Error as error:
        row = f"row {rows[-1][0] + 1 if rows else 1}"
        remedy = "Close every quote; double those inside a quoted cell."
        raise BadInput(f"{path}, {row}: {error}. {remedy}") from error
    if not rows:
        remedy = f"Its first row names the columns: {', '.join(COLUMNS)}."
        raise BadInput(f"{path}: the file is empty. {remedy}")
    return rows


def _check_header(path: Path, columns: list[str], known: tuple[str, ...]) -> None:
    required = known[:3]
    for faulty, problem in (
        ([name for name in columns if name not in known], "unknown column"),
        ([name for name in required if name not in columns], "missing column"),
        ([name for name, count in Counter(columns).items() if count > 1], "repeated column"),
    ):
        if faulty:
            what = f"{path}, row 1: {problem} {', '.join(map(repr, faulty))}"
            rest = f"{', '.join(known)}; {', '.join(required)} are required"
            raise BadInput(f"{what}. Expected {rest}. Correct the header.")


def _trex_relation(path: Path, relation: str) -> str:
    try:
        return _relation(relation or path.stem.lower().rstrip("0123456789_- "))
    except BadInput as fault:
        source = "the relation given" if relation else "the file name"
        raise BadInput(f"{path}: from {source}: {fault} Give relation=NAME.") from fault


def _own_fact(row: dict[str, str]) -> Fact:
    """A fact of our CSV; its candidates are empty if the file gives none."""
    obj = _text(row["object"], "object")
    candidates = ()
    if row.get("candidates", "").strip():
        candidates = _checked(_text_list(row["candidates"], "candidates"), obj)
    split = row.get("split", "").strip() or "all"
    if split not in SPLITS:
        raise BadInput(f"split is {split!r}. Write one of {', '.join(SPLITS)}.")
    bound = row.get("bound", "").strip().lower() or "true"
    if bound not in BOUND:
        raise BadInput(f"bound is {bound!r}. Write true or false.")
    subject, relation = _text(row["subject"], "subject"), _relation(row["relation"])
    return Fact(subject, relation, obj, candidates, split, BOUND[bound])


def _trex_fact(row: dict[str, str], relation: str) -> Fact:
    obj = _text(row["Fact"], "Fact")
    others = _text_list(row["Alternate Facts"], "Alternate Facts")
    candidates = _checked(list(dict.fromkeys([obj, *others])), obj)
    return Fact(_text(row["Head"], "Head"), relation, obj, candidates)


def _text(cell: str, column: str) -> str:
    text = unicodedata.normalize("NFC", cell).strip()
    if not text:
        raise BadInput(f"{column} is empty. Fill it in or delete the row.")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        fault = "has a line break or another control character"
        raise BadInput(f"{column} {text!r} {fault}. Remove it.")
    return text


def _relation(cell: str) -> str:
    name = _text(cell, "relation")
    # The name becomes part of a key token and of file names.
    if not re.fullmatch(r"\w[\w-]*", name):
        raise BadInput(f"relation {name!r} is not a plain name. Use letters, digits, _ and - only.")
    return name


def _text_list(cell: str, column: str) -> list[str]:
    """A JSON or Python list literal of strings; nothing in it is ever evaluated."""
    values = None
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            values = values or parse(cell.strip())
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        shown = cell if len(cell) <= 60 else cell[:57] + "..."
        remedy = 'Write a JSON list of strings, such as ["Angela", "Martha"].'
        raise BadInput(f"{column} is {shown!r}. {remedy}")
    return [_text(value, f"an entry of {column}") for value in values]


def _checked(candidates: list[str], obj: str) -> tuple[str, ...]:
    if len(candidates) < 2:
        raise BadInput(f"{len(candidates)} candidate(s). Multiple choice needs at least 2.")
    twice = [text for text, count in Counter(candidates).items() if count > 1]
    if twice:
        raise BadInput(f"the candidate {twice[0]!r} is there twice. Remove one.")
    if obj not in candidates:
        raise BadInput(f"the object {obj!r} is missing from its candidates. Add it to them.")
    return tuple(candidates)


def _check_against_rows_above(number: int, fact: Fact, above: dict) -> None:
    """Raise BadInput for what contradicts or repeats `above`, what -> (row, value); add to it."""
    said = {
        f"the {fact.relation} of {fact.subject!r}": fact.object,
        f"split of {fact.subject!r}": fact.split,
        f"bound of {fact.relation!r}": fact.bound,
    }
    for what, value in said.items():
        where, before = above.setdefault(what, (number, value))
        if before != value:
            both = f"{before!r} in row {where} and {value!r} here"
            raise BadInput(f"{what} is {both}. Make the rows agree.")
        if where != number and what.startswith("the "):
            raise BadInput(f"{what} is given twice, first in row {where}. Delete one.")


def _with_candidates(fact: Fact, objects: dict[str, set[str]]) -> Fact:
    """The fact with, unless it has candidates, all objects of its relation."""
    candidates = fact.candidates or tuple(sorted(objects[fact.relation]))
    if len(candidates) < 2:
        fault = f"{fact.relation!r} has the one object {fact.object!r} in this file"
        raise BadInput(f"{fault}. Give candidates, or facts with other objects.")
    return replace(fact, candidates=candidates)


def _warn_of_substrings(path: Path, facts: dict[int, Fact]) -> None:
    first_row = {fact.candidates: number for number, fact in reversed(facts.items())}
    for candidates, number in sorted(first_row.items(), key=itemgetter(1)):
        folded = [text.casefold() for text in candidates]
        pair = next(((a, b) for a in folded for b in folded if a != b and a in b), None)
        if pair:
            what = f"the candidate {pair[0]!r} is a substring of {pair[1]!r}"
            warnings.warn(f"{path}, row {number}: {what}: `lenient` mixes them up.", stacklevel=3)
