"""One driver for every table that has rows per checkpoint: score, keep, join, write."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from probing.states import Design, States
from training.runs.table_files import checkpoint_part, write_table


def scored_tables(
    states: Design,
    rows: Mapping[str, Callable[[States], Iterable[dict]]],
    options: Sequence[object],
) -> list:
    """tables/NAME.csv for each NAME of `rows`, over all checkpoints; written and returned as DataFrames, in order.

    rows: states of a checkpoint -> rows of the table. options: what the rows depend on besides states. A checkpoint
    that was scored before from the same content is read; its states are loaded only if a table lacks its rows.
    """
    import pandas as pd
    from threadpoolctl import threadpool_limits

    parts: dict[str, list] = {name: [] for name in rows}
    for checkpoint in states.checkpoints:
        loaded: list[States] = []
        for name, rows_of in rows.items():

            def compute(checkpoint=checkpoint, loaded=loaded, rows_of=rows_of):
                if not loaded:
                    loaded.append(states.load(checkpoint))
                # The matrices are small: more threads only wait for each other, many times as long on a busy machine.
                with threadpool_limits(1):
                    found = pd.DataFrame(list(rows_of(loaded[0])))
                # A file without a header could not be read back.
                return (
                    found if len(found.columns) else pd.DataFrame(columns=["checkpoint", "phase"])
                )

            parts[name].append(
                checkpoint_part(states.run, checkpoint, name, [*states.content, *options], compute)
            )
    tables = [pd.concat(tables, ignore_index=True) for tables in parts.values()]
    for name, table in zip(rows, tables, strict=True):
        write_table(states.run, name, table)
    return tables
