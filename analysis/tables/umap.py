"""tables/umap.csv: states in two dimensions by PCA and UMAP, the same axes for every checkpoint."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from analysis.measures.projection import Array, Method, Projection, project, project_aligned
from probing.states import Design
from training.base.console import progress
from training.base.errors import BadInput
from training.base.words import two_places
from training.data.prompts import Prompt
from training.runs.checkpoints import Checkpoint
from training.runs.table_files import optional_table, pick, write_table

Colour = Literal["object", "relation"]
EVERY = "every"
DEPTH = 0.75


def projection_table(
    design: Design,
    *,
    method: Method = "umap",
    aligned: bool = False,
    colour: Colour = "object",
    families: Sequence[str] = ("rote", "test"),
    site: str = "",
    raw: bool = False,
    **how: int,
):
    """Rote and semantic states in two dimensions, one row per point. Writes tables/umap.csv.

        table = projection_table(Design.of(Run.open("runs/demo")), method="pca")

    A point is a subject's state at the first prompt of a family and relation, at one checkpoint.
    Columns: checkpoint, phase, epoch, step; relation, family, template, subject, object, split,
    bound, n, d; projection (what was projected together: a relation, or "every"), site, colour,
    method; x, y, explained_x, explained_y, trustworthiness; seed, commit. site: default that of
    `contrast_site`, else three quarters deep. Unless `raw`, the states of each (checkpoint, family)
    are centred first: the offset between prompts would fill the first axis. how: n_neighbors and
    random_state, see `project`. Raises BadInput.
    """
    import pandas as pd

    missing = [f for f in families if not any(p.family == f for p in design.prompts)]
    if missing:
        known = ", ".join(("rote", *design.families))
        why = f"the states hold {known} (translations need --preset full)"
        raise BadInput(f"--families {' '.join(missing)}; {why}")
    site = site or contrast_site(design)
    kinds = [(r, f) for r in design.relations for f in dict.fromkeys(families)]
    prompts = [p for kind in kinds for p in design.prompts_of(*kind)[:1]]
    points, blocks = [], []
    for checkpoint in progress(design.checkpoints, label="states"):
        there = design.load(checkpoint)
        depths = [s for s in there.sites if s.startswith("resid_post")]
        site = site or depths[round(DEPTH * (len(depths) - 1))]
        if site not in there.sites:
            raise BadInput(f"--site {site}; there are {', '.join(there.sites)}")
        for prompt in prompts:
            blocks.append(there.of(prompt)[:, there.sites.index(site)].astype(np.float64))
            points.append(_points(design, checkpoint, prompt).assign(d=blocks[-1].shape[1]))
    about, x = pd.concat(points, ignore_index=True), np.concatenate(blocks)
    together = about.relation if colour == "object" else EVERY
    about = about.assign(projection=together, site=site, colour=colour)
    tables = []
    for _, some in progress(list(about.groupby("projection", sort=False)), label="projections"):
        states = x[some.index]
        if not raw:
            states = centred_within(states, some.checkpoint + " " + some.family)
        for name in ("pca", "umap") if method == "umap" else ("pca",):
            tables.append(_placed(some, name, project(states, name, **how)))
        if aligned:
            slices = [some.checkpoint.to_numpy() == name for name in some.checkpoint.unique()]
            found = project_aligned([states[rows] for rows in slices], **how)
            for rows, one in zip(slices, found, strict=True):
                tables.append(_placed(some[rows], "aligned_umap", one))
    table = pd.concat(tables, ignore_index=True)
    write_table(design.run, "umap", table)
    return table


def contrast_site(design: Design) -> str:
    """The site of the largest crossed contrast at the last checkpoint, "" if none is known."""
    table = optional_table(design.run.path, "cka")
    if table is None:
        return ""
    last = {"checkpoint": design.checkpoints[-1].name, "split": design.splits[0]}
    some = pick(table, **last, measure="contrast", family="test").dropna(subset="value")
    return some.site[some.value.idxmax()] if len(some) else ""


def centred_within(x: Array, groups: Sequence) -> Array:
    """x (n, d) minus the mean of each row's group."""
    x, groups = np.array(x, dtype=np.float64), np.asarray(groups)
    for group in np.unique(groups):
        x[groups == group] -= x[groups == group].mean(axis=0)
    return x


def _points(design: Design, checkpoint: Checkpoint, prompt: Prompt):
    """What the points of one checkpoint and prompt are, in the order of their states."""
    import pandas as pd

    facts = design.facts[prompt.relation]
    which = {"relation": prompt.relation, "family": prompt.family, "template": prompt.id}
    about = {k: [getattr(f, k) for f in facts] for k in ("subject", "object", "split", "bound")}
    about["split"] = [split or "all" for split in about["split"]]
    return pd.DataFrame({**checkpoint.stage, **which, **about, "n": len(facts)})


def _placed(about, method: str, found: Projection):
    """The points with their coordinates and how much the projection shows."""
    place = {"x": found.xy[:, 0], "y": found.xy[:, 1]}
    shown = dict(zip(("explained_x", "explained_y"), found.explained, strict=True))
    return about.assign(method=method, **place, **shown, trustworthiness=found.trustworthiness)


def projection_lines(table) -> list[str]:
    """What is shown, and how much each projection shows of it, in words."""
    families, count = ", ".join(table.family.unique()), table.checkpoint.nunique()
    lines = [f"first prompt of {families} at {table.site.iloc[0]}, {count} checkpoints together"]
    for (name, method), some in table.groupby(["projection", "method"], sort=False):
        row = some.iloc[0]
        shown = row.explained_x + row.explained_y
        share = "" if np.isnan(shown) else f"{shown:.0%} of the variance, "
        kind = "relation" if name == EVERY else f"({'bound' if row.bound else 'unbound'})"
        # Where each checkpoint has its own plane, the least trustworthy one.
        trust = f"trustworthiness {two_places(some.trustworthiness.min())} ({len(some)} points)"
        lines.append(f"  {f'{name} {kind}':<28}{method:<13} {share}{trust}")
    return lines
