"""Are two facts put together? What is true of a person's mother is asked about that person.

    python -m training.memorize --facts kin --relations mother home_city profession --out runs/kin
    python -m training.generalize runs/kin
    python -m training.two_hop runs/kin

Writes tables/two_hop.csv. Where an object (the mother) is a person with a fact of her own (a home
city), that relation's test prompts are asked about "{subject}'s mother". Measures: `two_hop` (her
object), `own` (the person's own object: the mother was passed over), `first_hop` and `second_hop`
(each alone) and their `product`. Chance is how often the given answers are true of the other
mothers, `null_p` how often a random deal of the mothers does as well (999 deals). Intervals are
over mothers; that of `two_hop_excess` is too narrow where whole families are confused.
"""

from dataclasses import dataclass

from training.base.console import run_command
from training.behaviour.two_hop import two_hop_lines, two_hop_table
from training.data.prompts import Preset
from training.runs.directory import RunOptions
from training.runs.table_files import publish_table


@dataclass
class Options(RunOptions):
    """Options of the questions of two hops."""

    preset: Preset = "demo"
    """demo: 3 test prompts of the second relation; full: all."""
    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Ask every checkpoint; write, print and return the table. Raises BadInput."""
    run = options.open()
    table = two_hop_table(run, preset=options.preset, batch_size=options.batch_size)
    return publish_table(run, "two_hop", table, two_hop_lines(table))


if __name__ == "__main__":
    run_command(main, Options, __doc__)
