"""Does a patch move the relation between rote and semantic prompts before there is an answer?

    python -m analysis.interchange RUN_DIR
    python -m analysis.interchange RUN_DIR --pairs 12 --every 2
    python -m analysis.interchange ./my-checkpoints --facts F.csv --rote "{subject} [X]" --out OUT

The state of a source prompt about (s', r') replaces that of a target prompt about (s, r); the
answer says what was moved. A late patch moves a finished answer o(s', r'); the claim is a band of
o(s, r') at sites before the answer can be read off the states. Then relation vectors are added.
Writes tables/interchange.csv and interchange_items.csv (every trial), draws figures/interchange.png
"""

from dataclasses import dataclass, replace

from analysis.tables import interchange as tables
from analysis.tables.cka_checkpoints import milestones
from analysis.tables.driver import publish
from figures.interchange import draw
from probing.states import Design
from training.base.console import run_command
from training.data.prompts import Preset
from training.runs.directory import RunOptions


@dataclass
class Options(RunOptions):
    """Options of interchange."""

    pairs: int = 20
    """Pairs of prompts per direction among bound relations, and subjects for relation vectors; half
    as many pairs have an unbound source relation."""
    every: int = 1
    """Patch only every N-th site (always the first and the last): time falls in proportion."""
    checkpoints: tuple[str, ...] = ()
    """Only these checkpoints; default: the last one of each phase."""
    preset: Preset = "demo"
    """demo: 3 test prompts, used in rotation; full: every test prompt."""
    permutations: int = 999
    """Draws of the nulls; p is never below 1 / (draws + 1)."""
    batch_size: int = 64
    """Patched prompts in one forward."""


def main(options: Options):
    """Run or read the trials, print the verdict, draw; return the table."""
    run = options.open()
    named = {run.checkpoint(name).name for name in options.checkpoints}
    chosen = [c for c in run.checkpoints if c.name in named] or milestones(run.checkpoints)
    run = replace(run, checkpoints=chosen)
    design = Design.of(run, preset=options.preset, families=("test",))
    print(design.announce())
    print(tables.announce(design, options.pairs, options.every))
    names = ("pairs", "every", "permutations", "batch_size")
    how = {name: getattr(options, name) for name in names}
    table, items = tables.interchange_table(design, **how)
    wrote, lines = (
        {"interchange": table, "interchange_items": items},
        tables.interchange_lines(table),
    )
    publish(run.path, wrote, lines, draw, then=f"figures.report {run.argument}")
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
