"""The rows of cka_checkpoints.csv: the same prompts at two checkpoints. Where did training change the model?

Debiased CKA of a checkpoint's states with those of each earlier milestone (the last checkpoint of a phase), at the same
site, about the same subjects, by prompt family: within one relation and one prompt, then averaged, as in cka.csv, with
the same robust forms. 1 where training only rotated or scaled the states; CKA does not see that. No null: that two
checkpoints of one model are alike is no finding, where they are least alike is.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from analysis.measures.resampling import leave_one_out_cka
from analysis.tables.cka import ROBUST, TREATMENTS
from analysis.tables.driver import scored_tables
from analysis.tables.stack import FEWEST_SUBJECTS, Stack, sites_first, summary_rows
from probing.states import Design, States
from training.runs.checkpoints import Checkpoint


def checkpoints_table_for(states: Design, *, robust: bool = True):
    """tables/cka_checkpoints.csv of a run, empty where it has one checkpoint."""

    loaded: dict[str, States] = {}

    def load(milestone) -> States:
        if milestone.name not in loaded:
            loaded[milestone.name] = states.load(milestone)
        return loaded[milestone.name]

    # What a checkpoint is compared with is part of what its rows depend on.
    compared = [f"{m.name} {m.fingerprint}" for m in milestones(states.checkpoints)]
    rows = {"cka_checkpoints": lambda there: rows_of(there, load, robust)}
    (table,) = scored_tables(states, rows, [robust, *compared])
    return table


def checkpoint_lines(table, states: Design) -> list[str]:
    """Where two milestones are least alike, by family, in words."""
    if not len(table):
        return []
    names = [m.name for m in milestones(states.checkpoints)]
    some = table[
        (table.split == states.splits[0]) & (table.relation == "bound") & table.value.notna()
    ]
    some = some[(some.measure == "cka_checkpoints") & some.checkpoint.isin(names)]
    lines = [
        "where training changed the model: the site at which the same prompts' states are least alike (CKA)"
    ]
    for (earlier, later), pair in some.groupby(["checkpoint_y", "checkpoint"], sort=False):
        least = [
            f"{family} {rows.value.min():.2f} at {rows.loc[rows.value.idxmin()].site}"
            for family, rows in pair.groupby("family", sort=False)
            if family in ("rote", "test", "unrelated")
        ]
        lines.append(f"  {earlier} -> {later}: {', '.join(least)}")
    return lines if len(lines) > 1 else []


Array = np.ndarray


MEASURE = "cka_checkpoints"


def milestones(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The last checkpoint of each phase, in order; the first and the last one where phases are unknown."""
    if any(c.phase for c in checkpoints):
        return list({c.phase: c for c in checkpoints}.values())
    return [checkpoints[0], checkpoints[-1]] if len(checkpoints) > 1 else list(checkpoints)


def rows_of(
    there: States, load: Callable[[Checkpoint], States], robust: bool = True
) -> Iterator[dict]:
    """All rows of one checkpoint, against every earlier milestone; load: a milestone's states."""
    states = there.design
    names = [c.name for c in states.checkpoints]
    earlier = names[: names.index(there.checkpoint.name)]
    for milestone in (m for m in milestones(states.checkpoints) if m.name in earlier):
        before = load(milestone)
        for split in states.splits:
            if min(len(states.rows(r, split)) for r in states.relations) < FEWEST_SUBJECTS:
                continue
            for family in ("rote", *states.families):
                yield from _pair_rows(there, before, family, split, robust)


def _pair_rows(there: States, before: States, family: str, split: str, robust: bool):
    states = there.design
    relations = [r for r in states.relations if states.prompts_of(r, family)]
    treatments = {MEASURE: lambda x: x}
    treatments |= {m.replace("cka", MEASURE): TREATMENTS[m] for m in (ROBUST if robust else ())}
    common = {"checkpoint_y": before.checkpoint.name, "phase_y": before.checkpoint.phase}
    common |= {"family": family, "split": split}
    for measure, treat in treatments.items():
        stacks = {}
        for relation in relations:
            rows = states.rows(relation, split)
            pairs = zip(before[relation, family], there[relation, family], strict=True)
            stacks[relation] = paired_stack(
                [[treat(sites_first(z[rows])) for z in pair] for pair in pairs]
            )
        yield from summary_rows(there, stacks, {**common, "measure": measure})


def paired_stack(pairs: Sequence[Sequence[Array]]) -> Stack:
    """Debiased CKA of each pair of stacks (S, n, d), (S, n, d') site by site, with its delete-one values."""
    found = [leave_one_out_cka(x, y, allow_degenerate=True) for x, y in pairs]
    sites, width = pairs[0][0].shape[0], pairs[0][0].shape[2]
    return Stack(
        np.array([v for v, _ in found]),
        np.array([loo for _, loo in found]),
        np.zeros((0, sites)),
        width,
    )
