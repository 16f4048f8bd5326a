"""The stages of a grid: a command by name, the options of a call, and what identifies it."""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import sha256_file, sha256_text

PACKAGES = ("training", "analysis")
# The sweep decides where runs lie. How often a run saves its resume state changes no result.
OURS = ("run_dir", "out")
NO_MATTER = (*OURS, "resume_minutes")
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
KINDS[Path] = "a path"


@dataclass(frozen=True)
class Stage:
    """A command of the grid; settings call it by `name`, its module without the package."""

    name: str
    command: str

    @property
    def module(self):
        """The command's module; the grid file names it, so it cannot be imported at the head."""
        return import_module(self.command)

    @property
    def trains(self) -> bool:
        """Whether it makes a run directory (and can be resumed there), not tables in one."""
        return "resume_minutes" in hints(self.command)

    @property
    def defaults(self) -> dict:
        """Option -> default, as in JSON, of the options that decide a result."""
        given = {item.name: item.default for item in fields(self.module.Options)}
        given = {name: None if value is MISSING else value for name, value in given.items()}
        return {name: plain(value) for name, value in given.items() if name not in NO_MATTER}


@dataclass(frozen=True)
class Call:
    """One stage with the options given to it (the others have their defaults)."""

    stage: Stage
    given: Mapping[str, object]

    @property
    def values(self) -> dict:
        """Option -> value, as in JSON, of all options that decide a result."""
        given = {k: plain(v) for k, v in self.given.items() if k not in NO_MATTER}
        return self.stage.defaults | given

    def build(self, **ours):
        """The options of the command; ours: run_dir and out, if the command has them."""
        known = hints(self.stage.command)
        ours = {name: value for name, value in ours.items() if name in known}
        return self.stage.module.Options(**ours, **self.given)


def find_stage(text: str, where: str = "stages") -> Stage:
    """A command such as `generalize` or `analysis.cka`. Raises BadInput if it needs no run."""
    package, _, name = text.rpartition(".")
    for candidate in [package] if package else PACKAGES:
        command = f"{candidate}.{name}"
        if candidate not in PACKAGES or not name.isidentifier() or find_spec(command) is None:
            continue
        has_options = hasattr(import_module(command), "Options")
        if has_options and (name == "memorize" or "run_dir" in hints(command)):
            return Stage(name, command)
    expected = "memorize, generalize, recall or a module of analysis, such as analysis.cka"
    raise BadInput(f"{where} names {text!r}, not a command on a run. Expected {expected}.")


@cache
def hints(command: str) -> dict[str, object]:
    """Option -> type, of a command."""
    return typing.get_type_hints(import_module(command).Options)


def coerced(value: object, kind: object):
    """A TOML value as an option of type `kind`. Raises ValueError: `VALUE; expected ...`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return coerced(value, next(a for a in arguments if a is not type(None)))
    expected = KINDS.get(kind, str(kind))
    if origin is typing.Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        expected = f"one of {', '.join(map(repr, arguments))}"
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(coerced(v, arguments[0]) for v in value)
        expected = "a list (to try several lists, a list of lists under [grid])"
    elif isinstance(value, bool) is (kind is bool):
        if (kind is float and isinstance(value, int)) or (kind is Path and isinstance(value, str)):
            return kind(value)
        if isinstance(value, kind):
            return value
    raise ValueError(f"{value!r}; expected {expected}")


def plain(value: object):
    """An option's value as in JSON."""
    if isinstance(value, Path):
        return str(value)
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def identity(call: Call, baseline: Mapping[str, Mapping]) -> dict:
    """What distinguishes this call from one with the options of `baseline`; files by content.

    baseline: stage -> option -> value, the defaults when the sweep began: an option added later
    changes no identity while it has its default; a default that changes does.
    """
    values, before = call.values, baseline.get(call.stage.name, {})
    found = {k: v for k, v in sorted(values.items()) if k not in before or v != before[k]}
    for name in ("facts", "prompts"):
        given = values.get(name)
        if isinstance(given, str) and given and (path := Path(given)).exists():
            files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
            content = "".join(f"{p.name} {sha256_file(p)}\n" for p in files)
            found[f"{name} content"] = sha256_text(content)[:10]
    return {"command": call.stage.command, **found}


def digest(*parts: object) -> str:
    """Ten hexadecimal digits that stand for parts, distinguished by their JSON."""
    return sha256_text(json.dumps(parts, sort_keys=True))[:10]
