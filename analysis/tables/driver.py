"""What the commands share: the options of a design, tables scored by checkpoint, what is said."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from probing.states import Design, States
from training.base.errors import NothingToDraw
from training.data.prompts import Preset
from training.runs.directory import RunOptions
from training.runs.table_files import checkpoint_part, write_table

RowsOf = Callable[[States], Iterable[dict]]


@dataclass
class DesignOptions(RunOptions):
    """Options of an analysis of a run's states."""

    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""

    def design(self) -> Design:
        """The prompts to compare; prints how many there are."""
        design = Design.of(self.open(), preset=self.preset, families=self.families)
        print(design.announce())
        return design


def publish(folder: Path, tables: Mapping, lines: Iterable[str], *draws: Callable, then: str = ""):
    """Print what the tables of a folder say, draw, print what was written and what to run next."""
    for line in lines:
        print(line)
    wrote = [f"{name}.csv ({len(table):,} rows)" for name, table in tables.items()]
    for draw in draws:
        try:
            wrote += [path.name for path in draw(folder)]
        except NothingToDraw as reason:
            print(f"not drawn: {reason}")
    following = f"    next: python -m {then}" if then else ""
    print(f"wrote {folder / 'tables'}/{', '.join(wrote)}{following}")


def scored_tables(states: Design, rows: Mapping[str, RowsOf], options: Sequence[object]) -> list:
    """Writes tables/NAME.csv for each NAME of `rows`, over all checkpoints; returns the DataFrames.

        (table,) = scored_tables(design, {"norms": norm_rows}, [VERSION, permutations])

    rows: the states of one checkpoint -> its rows. options: what the rows depend on apart from the
    states: the VERSION of the table's module (raise it when the same input gives other rows), then
    its arguments. A checkpoint scored before with the same input is read from tables/.parts.
    """
    import pandas as pd

    content = [*states.content, *options]
    parts: dict[str, list] = {name: [] for name in rows}
    for checkpoint in states.checkpoints:
        load = cache(partial(states.load, checkpoint))
        for name, rows_of in rows.items():
            compute = partial(_score, load, rows_of)
            parts[name].append(checkpoint_part(states.run, checkpoint, name, content, compute))
    tables = [pd.concat(found, ignore_index=True) for found in parts.values()]
    for name, table in zip(rows, tables, strict=True):
        write_table(states.run, name, table)
    return tables


def _score(load: Callable[[], States], rows_of: RowsOf):
    import pandas as pd
    from threadpoolctl import threadpool_limits

    states = load()
    # The matrices are small: on a busy machine more threads only wait for each other.
    with threadpool_limits(1):
        table = pd.DataFrame(list(rows_of(states)))
    # A file without a header could not be read back.
    return table if len(table.columns) else pd.DataFrame(columns=["checkpoint", "phase"])
