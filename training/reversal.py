"""Can a fact be read backwards? The inverse prompts ask about the objects; people are counted.

    python -m training.reversal RUN_DIR

"Ruth is the mother of": right is any person of the run whose mother is Ruth (greedy; the whole
name, then the stop). `chance` is how often the given answers would be right if they were dealt to
the relation's objects at random, `null_p` how often that is as good (999 deals).

Writes tables/reversal.csv: a row per checkpoint, relation (and the means `bound` and `unbound`),
split (which people count: all, seen or held-out) and measure: `reversal`, `reversal_excess` (above
chance) and `named` (any such person at all), with intervals over objects.
"""

from dataclasses import dataclass

from training.base.console import run_command
from training.behaviour.reversal import reversal_lines, reversal_table
from training.runs.directory import RunOptions
from training.runs.table_files import publish_table


@dataclass
class Options(RunOptions):
    """Options of the inverse questions."""

    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Ask every checkpoint; write, print and return the table. Raises BadInput."""
    run = options.open()
    table = reversal_table(run, batch_size=options.batch_size)
    return publish_table(run, "reversal", table, reversal_lines(table))


if __name__ == "__main__":
    run_command(main, Options, __doc__)
