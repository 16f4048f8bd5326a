"""What did training cost: does a checkpoint still know and say what its base model did?

    python -m training.damage RUN_DIR

Writes tables/damage.csv, a row per checkpoint and measure. For a model organism: `known_facts`, the
share of its pretraining world, people in no fact of the run, that it still answers (greedy, strict;
interval over people), and `contradicted_facts`, what it still answers about people of the run as
its world has it. Otherwise `perplexity` of the passages of training/data/english.txt.
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
