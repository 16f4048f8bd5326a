"""Rote and semantic states in two dimensions, the same axes for every checkpoint: PCA and UMAP.

    python -m analysis.umap RUN_DIR
    python -m analysis.umap RUN_DIR --colour relation --families rote test unrelated --site resid_post.24
    python -m analysis.umap RUN_DIR --aligned
    python -m analysis.umap RUN_DIR --method pca

Reads the states of RUN_DIR (extracts what is missing) at one site, writes the coordinates to tables/umap.csv, then draws
figures/projection.png and projection_umap.png from them. One joint projection over all checkpoints, of each relation
(coloured by object) or of all together (coloured by relation): projections that are fitted checkpoint by checkpoint
cannot be compared. --aligned adds UMAPs by checkpoint that are held together (umap.AlignedUMAP).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from analysis.measures.projection import Array, Projection, project, project_aligned
from probing.states import Design
from training.base.console import progress
from training.base.errors import BadInput
from training.runs.table_files import optional_table, pick

Colour = Literal["object", "relation"]


EVERY = "every"


ALIGNED = "aligned_umap"


DEPTH = 0.75


def centred_within(x: Array, groups: Sequence) -> Array:
    """x (n, d) minus the mean of each row's group."""
    x = np.array(x, dtype=np.float64)
    groups = np.asarray(groups)
    for group in np.unique(groups):
        x[groups == group] -= x[groups == group].mean(axis=0)
    return x


def projection_table(states: Design, options):
    """(tables/umap.csv of a run, why its site was chosen): one row a point.

    A point is a subject's state at the first prompt of a family and relation, at one checkpoint. projection: what was
    projected together, a relation or "every". Unless `raw`, the states of each (checkpoint, family) that are projected
    together are centred first, so that the offset between the prompts, which all subjects share, does not fill the
    first axis. Raises BadInput for an unknown site.
    """
    import pandas as pd

    missing = [f for f in options.families if not any(p.family == f for p in states.prompts)]
    if missing:
        raise BadInput(
            f"--families {' '.join(missing)}; the states hold {', '.join(('rote', *states.families))} "
            "(translations need --preset full)"
        )
    together: dict[str, list] = {}
    site, why = options.site, "asked for"
    for checkpoint in progress(states.checkpoints, label="states"):
        there = states.load(checkpoint)
        if not site:
            site, why = default_site(states, there.sites)
        if site not in there.sites:
            raise BadInput(f"--site {site}; there are {', '.join(there.sites)}")
        layer = there.sites.index(site)
        for relation in states.relations:
            name = relation if options.colour == "object" else EVERY
            for family in dict.fromkeys(options.families):
                for prompt in states.prompts_of(relation, family)[:1]:
                    block = there.of(prompt)[:, layer].astype(np.float64)
                    together.setdefault(name, []).append(
                        (_points(states, checkpoint, prompt, block), block)
                    )
    tables = []
    for name, parts in progress(together.items(), label="projections"):
        about = pd.concat([points for points, _ in parts], ignore_index=True).assign(
            projection=name, site=site
        )
        x = np.concatenate([block for _, block in parts])
        if not options.raw:
            x = centred_within(x, (about.checkpoint + " " + about.family).to_numpy())
        tables += _projected(about.assign(colour=options.colour), x, options)
    return pd.concat(tables, ignore_index=True), why


def _projected(about, x: Array, options) -> list:
    """The points `about` with the coordinates of their states x (n, d), once for every method."""
    import pandas as pd

    how = {"n_neighbors": options.n_neighbors, "random_state": options.random_state}
    tables = [
        _placed(about, method, project(x, method, **how))
        for method in ("pca", "umap")[: 2 if options.method == "umap" else 1]
    ]
    if options.aligned:
        slices = [about.index[about.checkpoint == name] for name in dict.fromkeys(about.checkpoint)]
        found = project_aligned([x[rows] for rows in slices], **how)
        placed = [
            _placed(about.loc[rows], ALIGNED, one) for rows, one in zip(slices, found, strict=True)
        ]
        tables.append(pd.concat(placed))
    return tables


def _placed(about, method: str, found: Projection):
    return about.assign(
        method=method,
        x=found.xy[:, 0],
        y=found.xy[:, 1],
        explained_x=found.explained[0],
        explained_y=found.explained[1],
        trustworthiness=found.trustworthiness,
    )


def _points(states: Design, checkpoint, prompt, block: Array):
    """What the points of one checkpoint and prompt are, one row a subject."""
    import pandas as pd

    facts = [f for f in states.run.facts if f.relation == prompt.relation]
    return pd.DataFrame(
        {
            "checkpoint": checkpoint.name,
            "phase": checkpoint.phase,
            "epoch": checkpoint.epoch,
            "step": checkpoint.step,
            "relation": prompt.relation,
            "family": prompt.family,
            "template": prompt.id,
            "subject": [f.subject for f in facts],
            "object": [f.object for f in facts],
            "split": [f.split or "all" for f in facts],
            "bound": [f.bound for f in facts],
            "n": len(block),
            "d": block.shape[1],
        }
    )


def default_site(states: Design, sites: Sequence[str]) -> tuple[str, str]:
    """(site, why): where the crossed contrast is largest at the last checkpoint, else three quarters deep."""

    table = optional_table(states.run.path, "cka")
    if table is not None:
        wanted = {
            "checkpoint": states.checkpoints[-1].name,
            "split": states.splits[0],
            "measure": "contrast",
        }
        some = pick(table, **wanted, family="test").dropna(subset="value")
    if table is not None and len(some):
        return some.loc[
            some.value.idxmax()
        ].site, "the largest crossed contrast at the last checkpoint"
    blocks = [site for site in sites if site.startswith("resid_post")]
    return blocks[
        round(DEPTH * (len(blocks) - 1))
    ], "three quarters deep, for no crossed contrast is known"


def projection_lines(table) -> list[str]:
    """How much each projection shows, in words."""
    lines = []
    for (name, method), some in table.groupby(["projection", "method"], sort=False):
        row = some.iloc[0]
        shown = row.explained_x + row.explained_y
        share = "" if np.isnan(shown) else f"{shown:.0%} of the variance, "
        kind = (
            f"{name} relation"
            if name == EVERY
            else f"{name} ({'bound' if row.bound else 'unbound'})"
        )
        # Where each checkpoint has its own plane, the least of them.
        lines.append(
            f"  {kind:<28}{method:<13} {share}trustworthiness {some.trustworthiness.min():.2f} ({len(some)} points)"
        )
    return lines
