"""A grid file: which commands run in which order, and every combination of settings they run with.

    title = "How little meaning is enough"
    stages = ["memorize", "generalize", "recall", "analysis.probes"]   # commands, in order
    keep = "tables"               # delete weights no run needs any more; "checkpoints": keep all

    [settings]                    # the same in every run: STAGE.option, as in the command's --help
    memorize.model = "world"

    [grid]                        # every combination of these lists
    memorize.seed = [1, 2, 3, 4, 5]
    generalize.prompts = [1, 2, 4, 10]

    [[condition]]                 # optional: named variants, each crossed with the grid
    name = "loss on all tokens"
    memorize.loss = "all"

    [[repetition]]                # optional: settings that together make one repetition
    memorize = { seed = 11, model = "world:1" }

    [rows.probes]                 # optional: other rows of a table than the headline ones
    measure = ["transfer_accuracy"]

    [compare]                     # optional: how analysis.ablations compares
    by = ["generalize.prompts"]

Every mistake is a BadInput that names the file, the key and the remedy, before anything starts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from training.base.errors import BadInput
from training.base.toml import check_table, did_you_mean, entries, read_toml
from training.grid.stages import OURS, Call, Stage, coerced, find_stage, hints

ENTRIES = {"title": str, "keep": str, "settings": dict, "grid": dict, "condition": list}
ENTRIES |= {"repetition": list, "rows": dict, "compare": dict}
COMPARE = {"by": object, "unit": object, "against": object}


@dataclass(frozen=True)
class GridRun:
    """One combination: its calls in order, and what distinguishes it from the other runs."""

    calls: tuple[Call, ...]
    condition: str
    varied: Mapping[str, object]
    """"STAGE.option" -> value (a list as one text), of every setting that varies among the runs."""
    label: str
    """In words: `loss on all tokens, memorize.seed 1`; settings fixed by a condition go unnamed."""


@dataclass(frozen=True)
class Grid:
    """A checked grid file."""

    path: Path
    title: str
    keep: str
    runs: tuple[GridRun, ...]
    axes: tuple[str, ...]
    """"STAGE.option" of every setting that varies among the runs."""
    rows: Mapping[str, Mapping[str, tuple]]
    compare: Mapping[str, object]
    repeats: tuple[str, ...]
    """"STAGE.option" of the settings that make a repetition; they do not distinguish conditions."""

    @property
    def stages(self) -> list[Stage]:
        """Every stage of some run."""
        return list(dict.fromkeys(call.stage for run in self.runs for call in run.calls))


def read_grid(path: str | Path, *, repetitions: int = 0) -> Grid:
    """Read a grid file, with its first `repetitions` only unless 0. Raises BadInput."""
    path = Path(path).expanduser()
    data = read_toml(path)
    try:
        return _grid(path, data, repetitions)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _grid(path: Path, data: dict, repetitions: int) -> Grid:
    check_table(data, "", {"stages": list}, ENTRIES)
    compare = data.get("compare", {})
    check_table(compare, "compare", {}, COMPARE)
    keep = data.get("keep", "tables")
    if keep not in ("tables", "checkpoints"):
        raise BadInput(f"keep is {keep!r}; expected one of tables, checkpoints.")
    stages = _stages(data, "")
    settings = _settings(data.get("settings", {}), stages, "settings")
    axes = _settings(data.get("grid", {}), stages, "grid", lists=True)
    conditions = _conditions(data, stages)
    every = _repetitions(data, stages)
    if not 0 <= repetitions <= len(every):
        raise BadInput(f"there are {len(every)} repetitions; {repetitions} were asked for.")
    found = []
    for (where, repeated), (name, own, given) in product(every[: repetitions or None], conditions):
        parts = {"[grid]": axes, where: repeated, f"condition {name!r}": given}
        for (one, a), (other, b) in combinations(parts.items(), 2):
            for key in a.keys() & b.keys():
                raise BadInput(f"{other} sets {key}, which {one} varies too. Remove one of them.")
        for values in product(*axes.values()):
            options = settings | repeated | given | dict(zip(axes, values, strict=True))
            calls = tuple(_call(stage, options) for stage in own.values())
            found.append((name, calls, options))
    runs, varying = _distinguished(found)
    repeats = tuple(dict.fromkeys(key for _, repeated in every for key in repeated))
    title = str(data.get("title", path.resolve().parent.name))
    return Grid(path, title, keep, runs, varying, _rows(data), compare, repeats)


def _call(stage: Stage, options: Mapping[str, object]) -> Call:
    own = f"{stage.name}."
    return Call(stage, {k.removeprefix(own): v for k, v in options.items() if k.startswith(own)})


def _distinguished(found: Sequence[tuple]) -> tuple[tuple[GridRun, ...], tuple[str, ...]]:
    """The runs of (condition, calls, options), and the settings that vary among them."""
    resolved = [
        {f"{call.stage.name}.{k}": v for call in calls for k, v in call.values.items()}
        for _, calls, _ in found
    ]
    keys = dict.fromkeys(key for *_, options in found for key in options)

    def varying(some: Sequence[dict]) -> list[str]:
        return [k for k in keys if len({json.dumps(values.get(k)) for values in some}) > 1]

    by_condition: dict[str, list[dict]] = {}
    for (name, *_), values in zip(found, resolved, strict=True):
        by_condition.setdefault(name, []).append(values)
    told = {key for some in by_condition.values() for key in varying(some)}
    axes, runs = varying(resolved), []
    for (name, calls, _), values in zip(found, resolved, strict=True):
        varied = {key: _words(values[key]) for key in axes if key in values}
        words = [f"{key} {value}" for key, value in varied.items() if key in told]
        runs.append(GridRun(calls, name, varied, ", ".join([*filter(None, [name]), *words])))
    return tuple(runs), tuple(axes)


def _stages(data: dict, where: str) -> dict[str, Stage]:
    """Name -> stage, of the list data["stages"]."""
    names, where = entries(data, "stages", where), f"{where}: stages" if where else "stages"
    stages = {stage.name: stage for stage in (find_stage(name, where) for name in names)}
    if len(stages) < len(names):
        raise BadInput(f"{where} is {', '.join(names)}; a run can have a command once. Remove one.")
    trains = [stage.trains for stage in stages.values()]
    if trains != sorted(trains, reverse=True) or list(stages)[:1] != ["memorize"]:
        order = "memorize first, then generalize and extend, then recall and analysis.*"
        raise BadInput(f"{where} is {', '.join(stages)}; expected {order}. Reorder them.")
    return stages


def _conditions(data: dict, stages: dict[str, Stage]) -> list[tuple[str, dict, dict]]:
    """(name, stages, settings) of each condition; one without a name if there are none."""
    tables = entries(data, "condition", "", kind=dict, may_be_empty=True)
    names = [table.get("name") for table in tables]
    for name in names:
        if not isinstance(name, str) or not name or names.count(name) > 1:
            raise BadInput(f"a [[condition]] has the name {name!r}; expected a text of its own.")
    found = []
    for table in tables or [{"name": ""}]:
        where = f"condition {table['name']!r}"
        own = _stages(table, where) if "stages" in table else stages
        given = {key: value for key, value in table.items() if key not in ("name", "stages")}
        found.append((table["name"], own, _settings(given, stages | own, where)))
    return found


def _repetitions(data: dict, stages: dict[str, Stage]) -> list[tuple[str, dict]]:
    """(what messages call it, settings) of each repetition; an empty one if there are none."""
    tables = entries(data, "repetition", "", kind=dict, may_be_empty=True) or [{}]
    named = {f"repetition {number}": table for number, table in enumerate(tables, start=1)}
    return [(name, _settings(table, stages, name)) for name, table in named.items()]


def _settings(
    table: dict, stages: dict[str, Stage], where: str, *, lists: bool = False
) -> dict[str, object]:
    """STAGE.option -> value as the command takes it, or the list of values to try."""
    found: dict[str, object] = {}
    for name, options in table.items():
        if name not in stages:
            raise BadInput(f"{where} sets {name!r}; {did_you_mean(name, stages, 'the stages')}")
        if not isinstance(options, dict):
            raise BadInput(f"{where}.{name} is {options!r}; expected {name}.OPTION = value.")
        kinds = {k: kind for k, kind in hints(stages[name].command).items() if k not in OURS}
        for written, value in options.items():
            option, what = written.replace("-", "_"), f"{where} sets {name}.{written}"
            if option in OURS:
                raise BadInput(f"{what}; the sweep itself decides where runs lie. Remove it.")
            if option not in kinds:
                raise BadInput(f"{what}; {did_you_mean(option, kinds, f'the options of {name}')}")
            values = _list(value, f"{where}.{name}.{written}") if lists else [value]
            try:
                taken = [coerced(value, kinds[option]) for value in values]
            except ValueError as error:
                raise BadInput(f"{what} to {error}.") from error
            found[f"{name}.{option}"] = taken if lists else taken[0]
    return found


def _list(values: object, where: str) -> list:
    if not isinstance(values, list) or not values:
        raise BadInput(f"{where} is {values!r}; expected a list. One value goes under [settings].")
    if any(values.count(value) > 1 for value in values):
        raise BadInput(f"{where} is {values!r}; it lists a value twice. Remove one.")
    return values


def _rows(data: dict) -> dict[str, dict[str, tuple]]:
    rows = data.get("rows", {})
    for table, wanted in rows.items():
        if not isinstance(wanted, dict) or not all(isinstance(v, list) for v in wanted.values()):
            example = 'measure = ["cka"]'
            raise BadInput(f"rows.{table} is {wanted!r}; expected lists, such as {example}.")
    return {table: {k: tuple(v) for k, v in wanted.items()} for table, wanted in rows.items()}


def _words(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value
