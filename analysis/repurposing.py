"""Do memorised facts take on another reading, and do the states show it before the answers do?

    python -m training.generalize RUN_DIR --objects sibling --dense 4 --out runs/other-reading
    python -m training.recall runs/other-reading --preset full --families test
    python -m analysis.repurposing runs/other-reading

Watches the test prompts of each bound relation's sibling (mother and aunt) about held-out people:
are they answered with the relation's object, and do probes fitted on its rote states read its
object there? Both count only above the rate at which the same is true of OTHER people. An alarm is
the first checkpoint at which this has risen (one-sided paired t-test over people, level .05 divided
among the checkpoints). Writes tables/repurposing.csv, draws figures/repurposing.png.
"""

from dataclasses import dataclass

from analysis.tables.driver import publish
from analysis.tables.repurposing import lines_of, repurposing_table
from figures.trajectory import draw_repurposing as draw
from training.base.console import run_command
from training.runs.directory import RunOptions


@dataclass
class Options(RunOptions):
    """Options of the watch for another reading."""


def main(options: Options):
    """Watch a run, write the table, say when it rose, draw; return the table."""
    run = options.open()
    table = repurposing_table(run)
    publish(run.path, {"repurposing": table}, lines_of(table), draw)
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
