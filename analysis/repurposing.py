"""Do memorised facts take on another reading, and do the states show it before the answers do?

    python -m training.generalize RUN_DIR --objects sibling --dense 4 --out runs/other-reading
    python -m training.recall runs/other-reading --preset full --families test
    python -m analysis.repurposing runs/other-reading

For each bound relation with a sibling in the run (mother and aunt), the test prompts of the SIBLING are watched from the
checkpoint that phase 2 started from, about held-out people: are they answered with the relation's object
(tables/recall_items.csv), and do object probes fitted on the relation's rote states read its object there (other people,
one site)? Both are held against how often the same answers are true of the OTHER people, so that a model which merely
begins to name objects raises no alarm. An alarm is the first checkpoint at which this has risen, by a one-sided paired
t-test over people at ALPHA, shared among the checkpoints that are watched. Writes tables/repurposing.csv: the curves, the
alarms and the lead of the states over the answers; then draws figures/repurposing.png. How often there is a false alarm
is seen where nothing was given another reading: `python -m analysis.ablations results/detector`.
"""

from dataclasses import dataclass

import numpy as np

from analysis.tables.repurposing import Watch, _from_the_start, lines_of, rows_of
from figures.trajectory import draw_repurposing as draw
from training.base.console import run_command
from training.runs.directory import RunOptions
from training.runs.table_files import read_table, write_table


@dataclass
class Options(RunOptions):
    """Options of the watch for another reading."""


def main(options: Options):
    """Watch a run, write the table, say when it rose, draw; return the table."""
    import pandas as pd

    run = options.open()
    _from_the_start(run)
    watch = Watch.of(run, read_table(run.path, "recall_items"))
    states, site = watch.states_read()
    table = pd.DataFrame(rows_of(watch, {"answers": watch.answers(), "states": states}))
    table = table.assign(site=np.where(table.measure.str.startswith("sibling_states"), site, ""))
    path = write_table(run, "repurposing", table)
    print("\n".join(lines_of(table)))

    drawn = draw(run.path)
    print(f"wrote {path} ({len(table)} rows), {', '.join(p.name for p in drawn)}")
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
