"""How alike are rote and semantic states? Debiased CKA with its null, per checkpoint and site, and what it is worth.

    python -m analysis.cka RUN_DIR
    python -m analysis.cka RUN_DIR --families test unrelated --permutations 999
    python -m analysis.cka RUN_DIR --measure procrustes_distance mutual_knn
    python -m analysis.cka ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/cka.csv, cka_grid.csv (layer x layer),
cka_checkpoints.csv (the same prompts at two checkpoints) and, with --measure, cka_measures.csv; then draws
figures/cka.png and one picture a further table. CKA of a rote and a semantic state about one subject is high because
they share the subject; so the printed verdict begins with probe transfer, then the crossed contrast over relations, then
CKA beside its controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cka_checkpoints import milestones
from analysis.cka_checkpoints import rows_of as checkpoint_rows
from analysis.cka_rows import grid_rows, rows_of
from analysis.measure_rows import choose
from analysis.measure_rows import rows_of as measure_rows
from analysis.run_states import CheckpointStates, RunStates, scored_tables
from analysis.similarity import Measure
from training.prompts import Preset
from training.run_options import RunOptions


@dataclass
class Options(RunOptions):
    """Options of the CKA analysis."""

    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""
    robust: bool = True
    """Also with z-scored features and without the top 1 and 5 principal components of each side."""
    measure: tuple[str, ...] = ()
    """Other similarities of rote states and each family, any of analysis.similarity.MEASURES: linear_cka_biased,
    rbf_cka, procrustes_distance, svcca, mutual_knn, retrieval, cosine_alignment, rsa (headline split only)."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the CKA table."""
    from analysis.probes import table_for as transfer_table_for
    from analysis.probes import verdict_lines

    run = options.open()
    states = RunStates.of(run, preset=options.preset, families=options.families)
    print(states.announce())
    measures = choose(options.measure)
    transfer = transfer_table_for(states)
    table = table_for(states, permutations=options.permutations, robust=options.robust)
    trained = checkpoints_table_for(states, robust=options.robust)
    lines = [*verdict_lines(transfer), *contrast_lines(table, states), *cka_lines(table, states)]
    lines += checkpoint_lines(trained, states)
    if measures:
        lines += measure_lines(measures_table_for(states, measures, permutations=options.permutations), states)
    for line in lines:
        print(line)
    from figures import cka, cka_checkpoints, cka_measures

    drawn = cka.draw(run.path)
    drawn += cka_checkpoints.draw(run.path) if len(trained) else []
    drawn += cka_measures.draw(run.path) if measures else []
    print(
        f"wrote {run.tables('cka.csv')} ({len(table)} rows), {', '.join(p.name for p in drawn)}    "
        f"next: python -m analysis.alignment {run.argument}"
    )
    return table


def table_for(states: RunStates, *, permutations: int = 199, robust: bool = True):
    """tables/cka.csv and tables/cka_grid.csv of a run: checkpoints scored before with the same inputs are read."""
    table, _ = scored_tables(
        states,
        {
            "cka": lambda there: rows_of(there, permutations, robust),
            "cka_grid": lambda there: grid_rows(there, permutations),
        },
        # Rows that were kept before raw values had the robust ones beside them are made again.
        [permutations, robust, "robust values beside raw ones"],
    )
    return table


def checkpoints_table_for(states: RunStates, *, robust: bool = True):
    """tables/cka_checkpoints.csv of a run, empty where it has one checkpoint."""
    from training.checkpoints import checkpoint_fingerprint

    loaded: dict[str, CheckpointStates] = {}

    def load(milestone) -> CheckpointStates:
        if milestone.name not in loaded:
            loaded[milestone.name] = states.load(milestone)
        return loaded[milestone.name]

    # What a checkpoint is compared with is part of what its rows depend on.
    compared = [f"{m.name} {checkpoint_fingerprint(m)}" for m in milestones(states.checkpoints)]
    rows = {"cka_checkpoints": lambda there: checkpoint_rows(there, load, robust)}
    (table,) = scored_tables(states, rows, [robust, *compared])
    return table


def measures_table_for(states: RunStates, measures: Sequence[Measure], *, permutations: int = 199):
    """tables/cka_measures.csv of a run: these measures of rote states and each family."""
    rows = {"cka_measures": lambda there: measure_rows(there, measures, permutations)}
    (table,) = scored_tables(states, rows, [permutations, *(m.name for m in measures)])
    return table


def _span(row) -> str:
    return f"{row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"


def _p(value: float) -> str:
    return "" if not np.isfinite(value) else f"p {value:.3f}".replace("0.", ".")


def contrast_lines(table, states: RunStates) -> list[str]:
    """The crossed contrast, its answer-partialled form and the object kernel in words, test prompts."""
    split = states.splits[0]
    some = table[(table.split == split) & (table.family == "test")]
    contrast = some[some.measure == "contrast"]
    if not len(contrast):
        return []
    if contrast.value.isna().all():
        return [f"crossed contrast: {contrast.reason.iloc[0]}"]
    lines = [
        f"crossed contrast of CKA (same relation minus other relation), bound relations x test prompts, {split} "
        f"subjects (n={int(contrast.n.max())}); p corrected for the best of {contrast.site.nunique()} sites"
    ]
    for checkpoint in states.checkpoints:
        here = contrast[(contrast.checkpoint == checkpoint.name) & contrast.value.notna()]
        if not len(here):
            reasons = contrast[contrast.checkpoint == checkpoint.name].reason
            lines.append(f"  {checkpoint.name:<27} no value at any site: {reasons.iloc[-1]}")
            continue
        best = here.loc[here.value.abs().idxmax()]
        at = some[(some.checkpoint == checkpoint.name) & (some.site == best.site)]
        partial = at[at.measure == "contrast_partialled"]
        kernels = at[(at.measure == "object_kernel") & (at.relation == "bound")].set_index("object_relation").value
        line = f"  {checkpoint.name:<27} {best.site:<15} {_span(best)} {_p(best.null_p_max)}"
        if len(partial) and np.isfinite(partial.value.iloc[0]):
            line += f"   answer partialled out {_span(partial.iloc[0])}"
        if "same" in kernels:
            line += f"   object kernel {kernels['same']:+.2f}, of other relations {kernels.get('other', np.nan):+.2f}"
        lines.append(line)
    return lines


def cka_lines(table, states: RunStates) -> list[str]:
    """Raw CKA at the site where it is largest at the last checkpoint, beside the unrelated prompts."""
    split = states.splits[0]
    some = table[(table.split == split) & (table.measure == "cka") & (table.relation == "bound")]
    last = some[(some.checkpoint == states.checkpoints[-1].name) & (some.family == "test") & some.value.notna()]
    if not len(last):
        return []
    site = last.loc[last.value.idxmax()].site
    lines = [
        f"raw CKA rote ~ semantic at {site} (it mostly says: same name; n={int(last.n.max())}, d={int(last.d.max())})"
    ]
    families = [f for f in ("test", "near-miss", "unrelated") if f in set(some.family)]
    for checkpoint in states.checkpoints:
        at = some[(some.checkpoint == checkpoint.name) & (some.site == site)].set_index("family")
        cells = [
            f"{family} {at.value[family]:.2f} [{at.low[family]:.2f}, {at.high[family]:.2f}]"
            for family in families
            if family in at.index
        ]
        lines.append(f"  {checkpoint.name:<27} " + "   ".join(cells) + _robust_words(at))
    return lines


def _robust_words(at) -> str:
    """The robust values beside raw CKA of test prompts; at: one site's rows by family."""
    columns = {"zscored": "z-scored", "without_1_pc": "without 1 component", "without_5_pcs": "without 5"}
    if "test" not in at.index or "zscored" not in at:
        return ""
    return "   (test " + ", ".join(f"{words} {at[name]['test']:.2f}" for name, words in columns.items()) + ")"


def checkpoint_lines(table, states: RunStates) -> list[str]:
    """Where two milestones are least alike, by family, in words."""
    if not len(table):
        return []
    names = [m.name for m in milestones(states.checkpoints)]
    some = table[(table.split == states.splits[0]) & (table.relation == "bound") & table.value.notna()]
    some = some[(some.measure == "cka_checkpoints") & some.checkpoint.isin(names)]
    lines = ["where training changed the model: the site at which the same prompts' states are least alike (CKA)"]
    for (earlier, later), pair in some.groupby(["checkpoint_y", "checkpoint"], sort=False):
        least = [
            f"{family} {rows.value.min():.2f} at {rows.loc[rows.value.idxmin()].site}"
            for family, rows in pair.groupby("family", sort=False)
            if family in ("rote", "test", "unrelated")
        ]
        lines.append(f"  {earlier} -> {later}: {', '.join(least)}")
    return lines if len(lines) > 1 else []


def measure_lines(table, states: RunStates) -> list[str]:
    """The value of each further measure at its best site, test prompts, beside the unrelated ones and chance."""
    family = "test" if "test" in states.families else states.families[0]
    lines = []
    for measure, some in table[table.relation == "bound"].groupby("measure", sort=False):
        closest = {m.name: m.larger_is_more_similar for m in choose([measure])}[measure]
        for checkpoint in states.checkpoints:
            here = some[(some.checkpoint == checkpoint.name) & some.value.notna()]
            rows = here[here.family == family]
            if not len(rows):
                continue
            best = rows.loc[rows.value.idxmax() if closest else rows.value.idxmin()]
            beside = here[(here.family == "unrelated") & (here.site == best.site)].value
            control = f", unrelated {beside.iloc[0]:.2f}" if len(beside) else ""
            chance = "" if np.isnan(best.chance) else f", chance {best.chance:.2f}"
            lines.append(
                f"{measure} at {checkpoint.name}: {family} {best.value:.2f} [{best.low:.2f}, {best.high:.2f}]{control}"
                f"{chance}, {_p(best.null_p_max)} at {best.site} (n={int(best.n)})"
            )
    return lines


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
