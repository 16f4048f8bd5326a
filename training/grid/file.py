"""A grid file: which commands run in which order, and every combination of settings that they run with.

    title = "How little meaning is enough"
    stages = ["memorize", "generalize", "recall", "analysis.probes"]   # commands, in order
    keep = "tables"                     # weights are deleted once no run needs them; "checkpoints": nothing is

    [settings]                          # the same in every run: STAGE.option, as in the command's --help
    memorize.model = "world"

    [grid]                              # every combination of these lists
    memorize.seed = [1, 2, 3, 4, 5]
    generalize.prompts = [1, 2, 4, 10]

    [[condition]]                       # optional: named variants, each crossed with the grid
    name = "loss on all tokens"
    memorize.loss = "all"

    [[repetition]]                      # optional: settings that go together and make one independent repetition
    memorize = { seed = 11, model = "world:1" }

    [rows.probes]                       # optional: other rows of a table than the headline ones
    measure = ["transfer_accuracy"]

    [compare]                           # optional: how analysis.ablations compares, in place of its defaults
    by = ["generalize.prompts"]

What is wrong is a BadGrid that names the file, the key and the remedy; nothing has started by then.
"""

import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations, product
from pathlib import Path

from training.base.errors import BadInput
from training.base.files import sha256_file, sha256_text

PACKAGES = ("training", "analysis")


KEEP = ("tables", "checkpoints")


ENTRIES = (
    "title",
    "stages",
    "keep",
    "settings",
    "grid",
    "condition",
    "repetition",
    "rows",
    "compare",
)


COMPARE = ("by", "unit", "against")


# The engine says where runs lie; how often a run saves its resume state changes nothing in it.
OURS = ("run_dir", "out")


NO_MATTER = (*OURS, "resume_minutes")


class BadGrid(BadInput):
    """A grid file that cannot be run."""


@dataclass(frozen=True)
class Stage:
    """A command of the grid: `name` is its module without the package, by which settings call it."""

    name: str
    command: str

    @property
    def options(self) -> type:
        """The dataclass of its options. A command is named by the grid file, so it is looked up, not imported above."""
        return import_module(self.command).Options

    @property
    def trains(self) -> bool:
        """Whether it makes a run directory of its own (and can be resumed there), and not tables in one."""
        return "resume_minutes" in hints(self.command)

    @property
    def starts(self) -> bool:
        """Whether it begins from nothing but a base model, as phase 1 does."""
        return "run_dir" not in hints(self.command)

    @property
    def phase(self) -> str:
        """Of a training stage: the phase of the checkpoints that it leaves."""
        return import_module(self.command).PHASE

    @property
    def defaults(self) -> dict:
        """Option -> default, as JSON has it, of those that decide a result."""
        found = {}
        for item in fields(self.options):
            if item.name not in NO_MATTER:
                value = (
                    item.default_factory() if item.default_factory is not MISSING else item.default
                )
                found[item.name] = None if value is MISSING else plain(value)
        return found


@dataclass(frozen=True)
class Call:
    """One stage with the options given to it (the others have their defaults)."""

    stage: Stage
    given: Mapping[str, object]

    def build(self, **ours):
        """The options as the command takes them; ours: run_dir and out."""
        return self.stage.options(**ours, **self.given)


@dataclass(frozen=True)
class PlannedRun:
    """One combination: its calls in order, and what tells it from the other runs."""

    calls: tuple[Call, ...]
    condition: str
    varied: Mapping[str, object]
    """"STAGE.option" -> value, of every setting that is not the same in all runs."""

    label: str
    """In words: `loss on all tokens, memorize.seed 1`; what a named condition fixes is said by its name."""


@dataclass(frozen=True)
class Grid:
    """A checked grid file."""

    path: Path
    title: str
    keep: str
    runs: tuple[PlannedRun, ...]
    axes: tuple[str, ...]
    """"STAGE.option" of every setting that is not the same in all runs."""
    rows: Mapping[str, Mapping[str, tuple]] = field(default_factory=dict)
    compare: Mapping[str, object] = field(default_factory=dict)
    repeats: tuple[str, ...] = ()
    """"STAGE.option" of what makes a repetition; no condition is told from another by these."""

    @property
    def stages(self) -> list[Stage]:
        """Every stage that some run has."""
        return list(dict.fromkeys(call.stage for run in self.runs for call in run.calls))


def read_grid(path: str | Path, *, repetitions: int = 0) -> Grid:
    """Read and check a grid file; nothing is looked up beyond option names and types. Raises BadGrid.

    repetitions: keep only the first so many [[repetition]] of the file; 0: all.
    """
    path = Path(path).expanduser()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadGrid(
            f"{path} cannot be read ({error.strerror}). Give the path of a grid file (TOML)."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadGrid(f"{path} is no UTF-8 TOML: {error}. Mend the file at that place.") from error
    _known(data, ENTRIES, path, "")
    keep = data.get("keep", "tables")
    if keep not in KEEP:
        raise BadGrid(f"{path}: keep is {keep!r}; expected one of {', '.join(KEEP)}.")
    stages = _stages(data.get("stages"), path, "stages")
    settings = _settings(data.get("settings", {}), stages, path, "settings")
    axes = {
        key: [
            _value(stages[key[0]], key[1], value, path, "grid")
            for value in _list(values, path, f"grid.{_dot(key)}")
        ]
        for key, values in _flat(data.get("grid", {}), stages, path, "grid").items()
    }
    every = _repetitions(data.get("repetition", []), stages, path)
    if not 0 <= repetitions <= len(every):
        raise BadGrid(
            f"{path} has {len(every)} repetitions; {repetitions} were asked for. Give 1 to {len(every)}."
        )
    chosen_repetitions = every[: repetitions or None]
    runs = []
    for (where, again), (name, own, given) in product(
        chosen_repetitions, _conditions(data.get("condition", []), stages, path)
    ):
        _apart(path, {"[grid]": axes, where: again, f"condition {name!r}": given})
        for values in product(*axes.values()):
            chosen = {**settings, **again, **given, **dict(zip(axes, values, strict=True))}
            calls = [
                Call(stage, {k: v for (s, k), v in chosen.items() if s == n})
                for n, stage in own.items()
            ]
            runs.append((name, tuple(calls), chosen))
    compare = data.get("compare", {})
    _known(compare, COMPARE, path, "compare.")
    repeats = tuple(dict.fromkeys(_dot(key) for _, again in every for key in again))
    title = str(data.get("title", path.resolve().parent.name))
    return Grid(path, title, keep, *_told_apart(runs), _rows(data, path), compare, repeats)


def _apart(path: Path, parts: Mapping[str, Mapping]) -> None:
    """Raise BadGrid if two parts of a grid file set the same option."""
    for (one, a), (other, b) in combinations(parts.items(), 2):
        for key in a.keys() & b.keys():
            raise BadGrid(
                f"{path}: {other} sets {_dot(key)}, which {one} varies too. Remove it from either."
            )


def _told_apart(runs: Sequence[tuple]) -> tuple[tuple[PlannedRun, ...], tuple[str, ...]]:
    """The runs with what varies among them, and the names of that."""
    resolved = [
        {
            (c.stage.name, k): v
            for c in calls
            for k, v in {**c.stage.defaults, **_plain(c.given)}.items()
        }
        for _, calls, _ in runs
    ]
    groups: dict[str, list[dict]] = {}
    for (name, *_), there in zip(runs, resolved, strict=True):
        groups.setdefault(name, []).append(there)

    def differ(key: tuple[str, str], some: Sequence[dict]) -> bool:
        return len({json.dumps(there.get(key)) for there in some}) > 1

    varying = [
        k for k in dict.fromkeys(k for *_, chosen in runs for k in chosen) if differ(k, resolved)
    ]
    said = {k for k in varying if any(differ(k, group) for group in groups.values())}
    found = []
    for (name, calls, _), there in zip(runs, resolved, strict=True):
        varied = {_dot(k): there[k] for k in varying if k in there}
        words = [f"{_dot(k)} {_short(there[k])}" for k in varying if k in there and k in said]
        found.append(PlannedRun(calls, name, varied, ", ".join([name] * bool(name) + words)))
    return tuple(found), tuple(_dot(k) for k in varying)


def _stages(value: object, path: Path, where: str) -> dict[str, Stage]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise BadGrid(
            f'{path}: {where} is {value!r}; expected a list of commands, such as ["memorize", "generalize", "recall"].'
        )
    stages: dict[str, Stage] = {}
    for text in value:
        stage = _stage(text, path, where)
        if stage.name in stages:
            raise BadGrid(
                f"{path}: {where} names {text!r} twice. A run can have a command once; remove one."
            )
        stages[stage.name] = stage
    order = [stage.trains for stage in stages.values()]
    starts = [stage.starts for stage in stages.values()]
    if order != sorted(order, reverse=True) or not starts[0] or any(starts[1:]):
        raise BadGrid(
            f"{path}: {where} is {', '.join(stages)}; expected memorize first, then other training stages "
            "(generalize, extend), then those that measure (recall, analysis.*). Reorder them."
        )
    return stages


def _stage(text: str, path: Path, where: str) -> Stage:
    package, _, name = text.rpartition(".")
    for candidate in [package] if package else PACKAGES:
        command = f"{candidate}.{name}"
        if candidate not in PACKAGES or not name.isidentifier() or find_spec(command) is None:
            continue
        if hasattr(import_module(command), "Options") and {"run_dir", "resume_minutes"} & set(
            hints(command)
        ):
            return Stage(name, command)
    raise BadGrid(
        f"{path}: {where} names {text!r}, which is no command on a run. Expected memorize, generalize, recall or a "
        "module of analysis, such as analysis.cka."
    )


def _conditions(
    entries: object, stages: dict[str, Stage], path: Path
) -> Iterator[tuple[str, dict, dict]]:
    """(name, stages, settings) of each condition; one nameless one if there are none."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadGrid(
            f"{path}: condition is no list of tables. Write each as [[condition]] with a name."
        )
    names = [entry.get("name") for entry in entries]
    for name in names:
        if not isinstance(name, str) or not name or names.count(name) > 1:
            raise BadGrid(
                f"{path}: a [[condition]] has the name {name!r}; expected a text that no other one has."
            )
    for entry in entries or [{"name": ""}]:
        where = f"condition {entry['name']!r}"
        own = _stages(entry["stages"], path, f"{where}: stages") if "stages" in entry else stages
        given = {key: value for key, value in entry.items() if key not in ("name", "stages")}
        yield entry["name"], own, _settings(given, {**stages, **own}, path, where)


def _repetitions(entries: object, stages: dict[str, Stage], path: Path) -> list[tuple[str, dict]]:
    """(what it is called, settings) of each repetition; one empty one if there are none."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadGrid(f"{path}: repetition is no list of tables. Write each as [[repetition]].")
    named = [(f"repetition {i}", entry) for i, entry in enumerate(entries or [{}], start=1)]
    return [(name, _settings(entry, stages, path, name)) for name, entry in named]


def _settings(
    entries: object, stages: dict[str, Stage], path: Path, where: str
) -> dict[tuple[str, str], object]:
    return {
        key: _value(stages[key[0]], key[1], value, path, where)
        for key, value in _flat(entries, stages, path, where).items()
    }


def _flat(
    entries: object, stages: dict[str, Stage], path: Path, where: str
) -> dict[tuple[str, str], object]:
    """(stage, option) -> what the file says; every name known."""
    if not isinstance(entries, dict):
        raise BadGrid(f"{path}: {where} is {entries!r}; expected a table of STAGE.option = value.")
    found = {}
    for stage, options in entries.items():
        if stage not in stages:
            raise BadGrid(f"{path}: {where} sets {stage!r}; {_meant(stage, stages, 'the stages')}")
        if not isinstance(options, dict):
            raise BadGrid(
                f"{path}: {where}.{stage} is {options!r}; expected {stage}.OPTION = value."
            )
        for name, value in options.items():
            option, known = name.replace("-", "_"), hints(stages[stage].command)
            if option in OURS:
                raise BadGrid(
                    f"{path}: {where} sets {stage}.{name}; where runs lie is the sweep's own. Remove it."
                )
            if option not in known:
                named = [k for k in known if k not in OURS]
                raise BadGrid(
                    f"{path}: {where} sets {stage}.{name}; {_meant(option, named, f'the options of {stage}')}"
                )
            found[stage, option] = value
    return found


def _value(stage: Stage, option: str, value: object, path: Path, where: str):
    kind = hints(stage.command)[option]
    try:
        return coerced(value, kind)
    except ValueError as error:
        raise BadGrid(
            f"{path}: {where} sets {stage.name}.{option} to {value!r}; expected {error}."
        ) from error


def _list(values: object, path: Path, where: str) -> list:
    if not isinstance(values, list) or not values:
        raise BadGrid(
            f"{path}: {where} is {values!r}; expected a list of values to try. One value: under [settings]."
        )
    if any(values.count(value) > 1 for value in values):
        raise BadGrid(f"{path}: {where} is {values!r}; a value stands there twice. Remove one.")
    return values


def _rows(data: dict, path: Path) -> dict[str, dict[str, tuple]]:
    rows = data.get("rows", {})
    for table, wanted in rows.items() if isinstance(rows, dict) else [("", None)]:
        if not isinstance(wanted, dict) or not all(isinstance(v, list) for v in wanted.values()):
            raise BadGrid(
                f'{path}: rows.{table} is {wanted!r}; expected lists by column, such as measure = ["cka"].'
            )
    return {
        table: {column: tuple(v) for column, v in wanted.items()} for table, wanted in rows.items()
    }


def _known(data: Mapping, names: Sequence[str], path: Path, where: str) -> None:
    for name in data:
        if name not in names:
            raise BadGrid(f"{path}: {where}{name} is unknown; {_meant(name, names, 'the entries')}")


def _meant(name: str, known: typing.Iterable[str], what: str) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"{what} are {', '.join(known)}." + (
        f" Did you mean {close[0]}?" if close else " Use one of these."
    )


@cache
def hints(command: str) -> dict[str, object]:
    """Option -> its type, of a command."""
    return typing.get_type_hints(import_module(command).Options)


def coerced(value: object, kind: object):
    """A TOML value as an option of type `kind` takes it. Raises ValueError with what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return coerced(value, next(a for a in arguments if a is not type(None)))
    if origin is typing.Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        raise ValueError(f"one of {', '.join(map(repr, arguments))}")
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError("a list (to try several lists, a list of lists under [grid])")
        return tuple(coerced(v, arguments[0]) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and not (kind is int and isinstance(value, bool))
    ):
        return value
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        Path: "a path",
    }
    raise ValueError(words.get(kind, str(kind)))


def plain(value: object):
    """An option's value as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _plain(given: Mapping[str, object]) -> dict:
    return {name: plain(value) for name, value in given.items() if name not in NO_MATTER}


def identity(call: Call, baseline: Mapping[str, Mapping]) -> dict:
    """What tells this call from one with the options of `baseline` (stage -> option -> value).

    The baseline is the defaults of the day a sweep began: an option that is added later, with its default, changes no
    identity; a default that changes does. Files and folders stand for their content.
    """
    now = {**call.stage.defaults, **_plain(call.given)}
    before = baseline.get(call.stage.name, {})
    different = {k: v for k, v in sorted(now.items()) if k not in before or v != before[k]}
    content = {
        k: _content(Path(v))
        for k, v in now.items()
        if isinstance(v, str) and k in ("facts", "prompts")
    }
    return {
        "command": call.stage.command,
        **different,
        **{f"{k} content": v for k, v in content.items() if v},
    }


def digest(*parts: object) -> str:
    """Ten hexadecimal digits that stand for parts, told apart by their JSON."""
    return sha256_text(json.dumps(parts, sort_keys=True))[:10]


def _content(path: Path) -> str:
    if not path.parts or not path.exists():
        return ""
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    return hashlib.sha256(
        "".join(f"{p.name} {sha256_file(p)}\n" for p in files).encode()
    ).hexdigest()[:10]


def _dot(key: tuple[str, str]) -> str:
    return ".".join(key)


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
