"""One driver for every table with rows per checkpoint: score each one, cache, join, write."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

from probing.states import Design, States
from training.runs.table_files import checkpoint_part, write_table

RowsOf = Callable[[States], Iterable[dict]]


def scored_tables(states: Design, rows: Mapping[str, RowsOf], options: Sequence[object]) -> list:
    """Writes tables/NAME.csv for each NAME of `rows`, over all checkpoints; returns the DataFrames.

        (table,) = scored_tables(design, {"norms": norm_rows}, [VERSION, permutations])

    rows: the states of one checkpoint -> its rows. options: what the rows depend on besides the
    states: the VERSION of the table's module (raise it when the same input gives other rows), then
    its arguments. A checkpoint scored before with the same input is read from tables/.parts; its
    states are loaded only if some table lacks its rows.
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
