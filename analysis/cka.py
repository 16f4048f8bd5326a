"""How alike are rote and semantic states? Debiased CKA with its null, per checkpoint and site, and what it is worth.

    python -m analysis.cka RUN_DIR
    python -m analysis.cka RUN_DIR --families test unrelated --permutations 999
    python -m analysis.cka ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/cka.csv and tables/cka_grid.csv, then draws
figures/cka.png. CKA of a rote and a semantic state about one subject is high because they share the subject; so the
printed verdict begins with probe transfer, then the crossed contrast over relations, then CKA beside its controls.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from analysis.cka_rows import grid_rows, rows_of
from analysis.run_states import RunStates, scored_tables
from training.prompts import Preset


@dataclass
class Options:
    """Options of the CKA analysis."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory, a checkpoint, or a folder of checkpoints."""
    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""
    robust: bool = True
    """Also with z-scored features and without the top 1 and 5 principal components of each side."""
    facts: str = ""
    """Facts (CSV or built-in set) for checkpoints made elsewhere."""
    prompts: str = ""
    """Folder of prompt files for checkpoints made elsewhere; default: built in."""
    rote: str = ""
    """Rote prompt of checkpoints made elsewhere, e.g. "{subject} [X]"."""
    out: str = ""
    """Where results go; default: the run directory."""


def main(options: Options):
    """Compute or read the tables, print the verdict, draw; return the CKA table."""
    from analysis.probes import table_for as transfer_table_for
    from analysis.probes import verdict_lines
    from training.checkpoints import open_run

    run = open_run(options.run_dir, facts=options.facts, prompts=options.prompts, rote=options.rote, out=options.out)
    states = RunStates.of(run, preset=options.preset, families=options.families)
    print(states.announce())
    transfer = transfer_table_for(states)
    table = table_for(states, permutations=options.permutations, robust=options.robust)
    for line in (*verdict_lines(transfer), *contrast_lines(table, states), *cka_lines(table, states)):
        print(line)
    from figures.cka import draw

    drawn = draw(run.path)
    print(
        f"wrote {run.tables('cka.csv')} ({len(table)} rows), {', '.join(p.name for p in drawn)}    "
        f"next: python -m analysis.alignment {run.path}"
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
        [permutations, robust],
    )
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
            lines.append(f"  {checkpoint.name:<28}no value at any site: {reasons.iloc[-1]}")
            continue
        best = here.loc[here.value.abs().idxmax()]
        at = some[(some.checkpoint == checkpoint.name) & (some.site == best.site)]
        partial = at[at.measure == "contrast_partialled"]
        kernels = at[(at.measure == "object_kernel") & (at.relation == "bound")].set_index("object_relation").value
        line = f"  {checkpoint.name:<28}{best.site:<15} {_span(best)} {_p(best.null_p_max)}"
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
        lines.append(f"  {checkpoint.name:<28}" + "   ".join(cells))
    return lines


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
