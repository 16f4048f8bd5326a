"""TOML files that users write: read, and checked entry by entry, with the place and the remedy.

`where` begins every message: the file and the table within it, or "".
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from training.base.errors import BadInput

KINDS = {str: "a text", int: "a whole number", bool: "true or false"}
KINDS |= {list: "a list", dict: "a table"}


def read_toml(path: Path) -> dict:
    """A TOML file. Raises BadInput with the place of the fault."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}). Give a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid UTF-8 TOML: {error}. Fix it there.") from error


def check_table(data: object, where: str, required: Mapping, optional: Mapping) -> None:
    """Raise BadInput unless `data` is a table of these entries, name -> type."""
    at, kinds = f"{where}: " if where else "", {**required, **optional}
    if not isinstance(data, dict):
        raise BadInput(f"{at}{data!r} is not a table.")
    for name in data:
        if name not in kinds:
            raise BadInput(f"{at}{name} is unknown; {did_you_mean(name, kinds, 'the entries')}")
    for name, kind in kinds.items():
        if name in required and name not in data:
            raise BadInput(f"{at}{name} is missing. Add it.")
        if name in data and not isinstance(data[name], kind):
            raise BadInput(f"{at}{name} is {data[name]!r}; expected {KINDS[kind]}.")


def entries(data: dict, name: str, where: str, *, kind=str, may_be_empty=False) -> tuple:
    """The entries of the list data[name], all of type `kind`; () if there is no such list."""
    if name not in data:
        return ()
    at = f"{where}: {name}" if where else name
    if not isinstance(data[name], list):
        raise BadInput(f"{at} is {data[name]!r}; expected a list.")
    if not data[name] and not may_be_empty:
        raise BadInput(f"{at} is empty. Add at least one entry, or remove the list.")
    for item in data[name]:
        if not isinstance(item, kind):
            raise BadInput(f"{at} holds {item!r}; expected {KINDS[kind]}.")
    return tuple(data[name])


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """The known names, and the one closest to a name that is not among them."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"{what} are {', '.join(known)}." + (f" Did you mean {close[0]}?" if close else "")
