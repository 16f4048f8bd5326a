"""What did training cost: does a checkpoint still know and say what its base model did?

    python -m training.damage RUN_DIR

Writes tables/damage.csv, a row per checkpoint and measure. For a model organism: `known_facts`, the
share of its pretraining world that it still answers (greedy, strict; interval over the world's
people, none of whom is in a fact of the run), and if the run's facts are about people it knows,
`contradicted_facts`, the share of these that it still answers as its world has them. For any other
model: `perplexity` of ordinary English written for the purpose (training/data/english.txt; interval
over passages). `python -m analysis.ablations` compares it between settings.
"""

from dataclasses import dataclass

from training.base.console import run_command
from training.behaviour.damage import damage_lines, damage_table
from training.runs.directory import RunOptions
from training.runs.table_files import publish_table


@dataclass
class Options(RunOptions):
    """Options of the measure of damage."""

    people: int = 200
    """People of a model organism's world to ask about, drawn once for all; -1: all of them."""
    prompts_per_fact: int = 1
    """Prompts in which each of their facts is asked."""
    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Measure every checkpoint; write, print and return the table."""
    run = options.open()
    table = damage_table(run, options.people, options.prompts_per_fact, options.batch_size)
    return publish_table(run, "damage", table, damage_lines(table), then="figures.report")


if __name__ == "__main__":
    run_command(main, Options, __doc__)
