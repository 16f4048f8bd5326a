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

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.inputs import DegenerateStates, UnfitOption, to_states, why_degenerate
from analysis.run_states import RunStates
from training.prompts import Preset
from training.run_options import RunOptions

Array = np.ndarray
Method = Literal["pca", "umap"]
Colour = Literal["object", "relation"]
EVERY = "every"
ALIGNED = "aligned_umap"
DEPTH = 0.75


@dataclass
class Options(RunOptions):
    """Options of the projection."""

    method: Method = "umap"
    """pca: principal components; umap: those and UMAP beside them."""
    aligned: bool = False
    """Also AlignedUMAP: one UMAP a checkpoint, each state held near itself at the checkpoints before and after."""
    colour: Colour = "object"
    """object: one projection a relation; relation: one of all relations together, coloured by relation."""
    families: tuple[str, ...] = ("rote", "test")
    """Prompt families to show, told apart by shape; the first prompt of each."""
    site: str = ""
    """Default: that of the largest crossed contrast at the last checkpoint, else three quarters deep."""
    raw: bool = False
    """Leave each checkpoint's and prompt's mean in; the offset between prompts then fills the first axis."""
    n_neighbors: int = 15
    """Neighbours that UMAP keeps together, and that trustworthiness is measured over."""
    random_state: int = 0
    """Seed of UMAP."""
    preset: Preset = "demo"
    """Whose stored states to use; only the first prompt of a family is shown."""


def main(options: Options):
    """Project, write the coordinates, say how far they can be trusted, draw; return the table."""
    from training.tables import write_table

    run = options.open()
    states = RunStates.of(run, preset=options.preset, families=options.families)
    print(states.announce())
    table, why = projection_table(states, options)
    write_table(run, "umap", table)
    print(
        f"first prompt of {', '.join(dict.fromkeys(table.family))} at {table.site.iloc[0]} ({why}); one projection "
        f"{'a relation' if options.colour == 'object' else 'of all relations'} over {table.checkpoint.nunique()} "
        "checkpoints"
    )
    for line in projection_lines(table):
        print(line)
    from figures.projection import draw

    drawn = draw(run.path)
    print(f"wrote {run.tables('umap.csv')} ({len(table):,} rows), {', '.join(p.name for p in drawn)}")
    return table


@dataclass(frozen=True, eq=False)
class Projection:
    """Points in two dimensions: xy (n, 2); explained: each axis's share of the variance (PCA, else NaN).

    trustworthiness: up to 1, where all neighbours in the plane are neighbours in the states too (Venna &
    Kaski 2001).
    """

    xy: Array
    explained: tuple[float, float]
    trustworthiness: float


def project(x: Array, method: Method = "pca", *, n_neighbors: int = 15, random_state: int = 0) -> Projection:
    """x (n, d) in two dimensions by one fit.

    A PCA axis points where its largest loading is positive. trustworthiness: over n_neighbors.
    Raises UnfitOption unless 2 <= n_neighbors < n / 2, DegenerateStates for constant states.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import trustworthiness

    x = _to_projected(x, n_neighbors)
    if method == "pca":
        pca = PCA(2, svd_solver="full").fit(x)
        sign = np.sign(pca.components_[[0, 1], np.abs(pca.components_).argmax(axis=1)])
        xy, explained = pca.transform(x) * sign, tuple(map(float, pca.explained_variance_ratio_))
    else:
        from umap import UMAP

        # One job: UMAP is reproducible only on one thread, and says so where it is not asked for.
        xy = UMAP(n_neighbors=n_neighbors, random_state=random_state, n_jobs=1).fit_transform(x).astype(float)
        explained = (np.nan, np.nan)
    return Projection(xy, explained, float(trustworthiness(x, xy, n_neighbors=n_neighbors)))


def project_aligned(xs: Sequence, *, n_neighbors: int = 15, random_state: int = 0) -> list[Projection]:
    """Each of several sets of states (n, d) in two dimensions, row i held near itself in the sets beside (AlignedUMAP).

    xs: the same rows at successive checkpoints. Distances within a set are comparable between sets, exact places are
    not: alignment pulls, it does not fix. trustworthiness: of each set by itself. Raises as `project`, UnfitOption for
    fewer than two sets or sets of different size.
    """
    from sklearn.manifold import trustworthiness
    from umap import AlignedUMAP

    xs = [_to_projected(x, n_neighbors) for x in xs]
    if len(xs) < 2 or len({len(x) for x in xs}) > 1:
        raise UnfitOption(
            f"--aligned with {len(xs)} checkpoint(s) of {sorted({len(x) for x in xs})} points; expected at least two of "
            "the same points: one checkpoint has nothing to be aligned with, leave --aligned out"
        )
    same = [{i: i for i in range(len(xs[0]))} for _ in xs[1:]]
    with warnings.catch_warnings():
        # It cannot be asked for one job, and says that a seed gives it one.
        warnings.filterwarnings("ignore", "n_jobs value")
        fitted = AlignedUMAP(n_neighbors=n_neighbors, random_state=random_state).fit(xs, relations=same)
    found = [np.asarray(xy, dtype=np.float64) for xy in fitted.embeddings_]
    none = (np.nan, np.nan)
    return [
        Projection(xy, none, float(trustworthiness(x, xy, n_neighbors=n_neighbors)))
        for x, xy in zip(xs, found, strict=True)
    ]


def _to_projected(x: Array, n_neighbors: int) -> Array:
    """(n, d) float64 states that can be projected. Raises UnfitOption, DegenerateStates."""
    x = to_states(x)
    reason = why_degenerate(x)
    if reason is not None and reason.startswith("the same"):
        raise DegenerateStates(f"{reason}: there is nothing to project; choose another --site")
    if not 2 <= n_neighbors < len(x) / 2:
        raise UnfitOption(
            f"n_neighbors={n_neighbors} with {len(x)} points; expected at least 2 and fewer than half of them"
        )
    return x


def centred_within(x: Array, groups: Sequence) -> Array:
    """x (n, d) minus the mean of each row's group."""
    x = np.array(x, dtype=np.float64)
    groups = np.asarray(groups)
    for group in np.unique(groups):
        x[groups == group] -= x[groups == group].mean(axis=0)
    return x


def projection_table(states: RunStates, options: Options):
    """(tables/umap.csv of a run, why its site was chosen): one row a point.

    A point is a subject's state at the first prompt of a family and relation, at one checkpoint. projection: what was
    projected together, a relation or "every". Unless `raw`, the states of each (checkpoint, family) that are projected
    together are centred first, so that the offset between the prompts, which all subjects share, does not fill the
    first axis. Raises UnfitOption for an unknown site.
    """
    import pandas as pd

    from training.console import progress

    missing = [f for f in options.families if not any(p.family == f for p in states.prompts)]
    if missing:
        raise UnfitOption(
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
            raise UnfitOption(f"--site {site}; there are {', '.join(there.sites)}")
        layer = there.sites.index(site)
        for relation in states.relations:
            name = relation if options.colour == "object" else EVERY
            for family in dict.fromkeys(options.families):
                for prompt in states.prompts_of(relation, family)[:1]:
                    block = there.of(prompt)[:, layer].astype(np.float64)
                    together.setdefault(name, []).append((_points(states, checkpoint, prompt, block), block))
    tables = []
    for name, parts in progress(together.items(), label="projections"):
        about = pd.concat([points for points, _ in parts], ignore_index=True).assign(projection=name, site=site)
        x = np.concatenate([block for _, block in parts])
        if not options.raw:
            x = centred_within(x, (about.checkpoint + " " + about.family).to_numpy())
        tables += _projected(about.assign(colour=options.colour), x, options)
    return pd.concat(tables, ignore_index=True), why


def _projected(about, x: Array, options: Options) -> list:
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
        placed = [_placed(about.loc[rows], ALIGNED, one) for rows, one in zip(slices, found, strict=True)]
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


def _points(states: RunStates, checkpoint, prompt, block: Array):
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


def default_site(states: RunStates, sites: Sequence[str]) -> tuple[str, str]:
    """(site, why): where the crossed contrast is largest at the last checkpoint, else three quarters deep."""
    from training.tables import optional_table, pick

    table = optional_table(states.run.path, "cka")
    if table is not None:
        wanted = {"checkpoint": states.checkpoints[-1].name, "split": states.splits[0], "measure": "contrast"}
        some = pick(table, **wanted, family="test").dropna(subset="value")
    if table is not None and len(some):
        return some.loc[some.value.idxmax()].site, "the largest crossed contrast at the last checkpoint"
    blocks = [site for site in sites if site.startswith("resid_post")]
    return blocks[round(DEPTH * (len(blocks) - 1))], "three quarters deep, for no crossed contrast is known"


def projection_lines(table) -> list[str]:
    """How much each projection shows, in words."""
    lines = []
    for (name, method), some in table.groupby(["projection", "method"], sort=False):
        row = some.iloc[0]
        shown = row.explained_x + row.explained_y
        share = "" if np.isnan(shown) else f"{shown:.0%} of the variance, "
        kind = f"{name} relation" if name == EVERY else f"{name} ({'bound' if row.bound else 'unbound'})"
        # Where each checkpoint has its own plane, the least of them.
        lines.append(
            f"  {kind:<28}{method:<13} {share}trustworthiness {some.trustworthiness.min():.2f} ({len(some)} points)"
        )
    return lines


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
