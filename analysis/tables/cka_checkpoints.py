"""tables/cka_checkpoints.csv: where did training change the model?

CKA of the same prompts' states at a checkpoint and at every earlier milestone (the last checkpoint
of a phase), site by site; 1 where training only rotated or scaled the states. There is no null.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from analysis.tables.cka import forms_of_cka
from analysis.tables.driver import scored_tables
from analysis.tables.stack import FEWEST_SUBJECTS, fewest_subjects, prompt_states, relations_with
from probing.states import Design, States
from training.base.words import two_places
from training.runs.checkpoints import Checkpoint
from training.runs.table_files import pick

VERSION = 1
MEASURE = "cka_checkpoints"


def checkpoints_table(design: Design, *, robust: bool = True):
    """Writes tables/cka_checkpoints.csv; it has no rows where the run has one checkpoint.

        table = checkpoints_table(Design.of(Run.open("runs/demo")))
        table[(table.measure == "cka_checkpoints") & (table.checkpoint_y == "000-base")]

    Columns as in cka.csv, and checkpoint_y, phase_y: the earlier checkpoint. measure:
    cka_checkpoints, cka_checkpoints_zscored, ... (robust). The null columns are empty.
    """
    earlier = {m.name: m for m in milestones(design.checkpoints)}
    load = cache(lambda name: design.load(earlier[name]))
    # The rows depend on the checkpoints compared with, too.
    compared = [f"{m.name} {m.fingerprint}" for m in earlier.values()]
    rows = {MEASURE: lambda there: _rows_of(there, load, robust)}
    (table,) = scored_tables(design, rows, [VERSION, robust, *compared])
    return table


def milestones(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The last checkpoint of each phase, in order; without phases the first and the last one."""
    if any(c.phase for c in checkpoints):
        return list({c.phase: c for c in checkpoints}.values())
    return [checkpoints[0], checkpoints[-1]] if len(checkpoints) > 1 else list(checkpoints)


def _rows_of(there: States, load: Callable[[str], States], robust: bool) -> Iterator[dict]:
    design, checkpoint = there.design, there.checkpoint.name
    names = [c.name for c in design.checkpoints]
    splits = [s for s in design.splits if fewest_subjects(design, s) >= FEWEST_SUBJECTS]
    milestone_names = [m.name for m in milestones(design.checkpoints)]
    for name in (m for m in milestone_names if m in names[: names.index(checkpoint)]):
        before = load(name)
        about = {"checkpoint_y": name, "phase_y": before.checkpoint.phase}
        for split, family in ((s, f) for s in splits for f in ("rote", *design.families)):
            sides = {
                r: tuple(prompt_states(side, r, family, split) for side in (before, there))
                for r in relations_with(design, family)
            }
            common = {**about, "family": family, "split": split}
            for rows in forms_of_cka(there, sides, common, MEASURE, robust):
                yield from rows


def checkpoint_lines(table, design: Design) -> list[str]:
    """Where two milestones are least alike, by family, in words."""
    if not len(table):
        return []
    names = tuple(m.name for m in milestones(design.checkpoints))
    kind = {"split": design.splits[0], "relation": "bound", "measure": MEASURE}
    some = pick(table, **kind, family=("rote", "test", "unrelated"), checkpoint=names)
    pairs = some.dropna(subset="value").groupby(["checkpoint_y", "checkpoint"], sort=False)
    lines = ["where training changed the model: site at which states are least alike (CKA)"]
    for (earlier, later), pair in pairs:
        least = [rows.loc[rows.value.idxmin()] for _, rows in pair.groupby("family", sort=False)]
        words = ", ".join(f"{row.family} {two_places(row.value)} at {row.site}" for row in least)
        lines.append(f"  {earlier} -> {later}: {words}")
    return lines if len(lines) > 1 else []
