"""Rote and semantic states in two dimensions, on the same axes for every checkpoint.

    python -m figures.projection runs/demo

Reads tables/umap.csv, writes figures/projection.png and .svg (PCA) and, where they were fit, projection_umap and
projection_aligned_umap.
"""

from pathlib import Path

from figures.style import (
    NULL_GREY,
    OBJECT_COLOURS,
    drawer,
    in_order,
    milestones,
    panels,
    require_rows,
    run_figure,
    styled,
)
from training.runs.table_files import headline_split, pick, read_table

COLUMNS = [
    "projection",
    "colour",
    "relation",
    "bound",
    "checkpoint",
    "phase",
    "family",
    "subject",
    "object",
    "split",
    "site",
    "x",
    "y",
    "explained_x",
    "explained_y",
    "trustworthiness",
]
OTHERS = "#c4c4c4"
EVERY = "every"
# Rings for what was learned by rote, strokes for what was asked with meaning, solids for the controls.
SHAPES = {"rote": "o", "train": "+", "test": "x", "near-miss": "^", "unrelated": "D"}
WORDS = {"pca": "Joint PCA", "umap": "Joint UMAP", "aligned_umap": "Aligned UMAP"}


CAPTIONS = {
    "projection": (
        "Joint PCA of rote and test states",
        "The same axes along a row. Colours are objects: where circles and crosses of one colour come "
        "together, rote and semantic states agree about the object.",
        "Two dimensions show a small share of the variance; distances in a picture are no evidence.",
    ),
    "projection_umap": (
        "Joint UMAP of rote and test states",
        "As the PCA, with neighbourhoods instead of linear axes.",
        "Distances between clusters and their sizes mean nothing in UMAP.",
    ),
    "projection_aligned_umap": (
        "UMAP of each checkpoint, aligned",
        "One UMAP a checkpoint, each state held near its place at the checkpoints beside it. Colours and shapes as in the "
        "PCA.",
        "Places are pulled together by the alignment: that a point stays where it was is partly asked for.",
    ),
}


def panel_data(table, method: str = "pca"):
    """The points drawn: one site, held-out subjects (all if they were not split), one template of each family.

    Returns the points with columns shown (what the colour says: the object if it is one of its relation's six
    commonest, or the relation if it is one of the first six; else "") and joined (True for one subject of each colour,
    whose points a line joins). Raises NothingToDraw.
    """
    rows = require_rows(
        pick(table, method=method, split=headline_split(table)), "umap", f"method {method}"
    )
    rows = pick(
        rows, site=rows.site.iloc[0], checkpoint=tuple(s.checkpoint for s in milestones(rows))
    )
    if "template" in rows:
        # One prompt a family: with several, a subject would have several points and no one line.
        rows = rows[
            rows.template == rows.groupby(["relation", "family"]).template.transform("first")
        ]
    rows = rows.dropna(subset=["x", "y"])
    projection = rows.projection if "projection" in rows else rows.relation
    colour = rows.colour if "colour" in rows else "object"
    rows = rows.assign(projection=projection, colour=colour).reindex(columns=COLUMNS)
    rows = rows.assign(meaning=rows.relation.where(rows.colour == "relation", rows.object))
    facts = rows.drop_duplicates(["relation", "subject"])
    shown = {
        (name, meaning)
        for name, group in facts.groupby("projection", sort=False)
        for meaning in group.meaning.value_counts(sort=False).nlargest(len(OBJECT_COLOURS)).index
    }
    first = {
        (f.relation, f.subject)
        for f in facts.drop_duplicates(["projection", "meaning"]).itertuples()
        if (f.projection, f.meaning) in shown
    }
    return rows.assign(
        shown=[
            m if (p, m) in shown else "" for p, m in zip(rows.projection, rows.meaning, strict=True)
        ],
        joined=[pair in first for pair in zip(rows.relation, rows.subject, strict=True)],
    )


def picture(data, method: str = "pca"):
    """The figure of panel_data: a row a projection (bound relations first), a column a checkpoint, shared axes."""
    from matplotlib.lines import Line2D

    relations = data.drop_duplicates("projection").sort_values(
        "bound", ascending=False, kind="stable"
    )
    shown = milestones(data)
    split = headline_split(data)
    n = data.groupby("relation").subject.nunique().max()
    of = f"n = {n} {split} subjects" if split != "all" else f"n = {n} subjects"
    trust = data.trustworthiness.dropna()
    words = f", trustworthiness {trust.min():.2f}" if len(trust) else ""
    families = in_order(data.family)
    figure, grid = panels(
        len(relations),
        len(shown),
        height=2.6 * len(relations) + 1.0,
        title=f"{WORDS[method]} of {' and '.join(families)} states at {data.site.iloc[0]} ({of}{words})",
    )
    for place, relation in enumerate(relations.itertuples()):
        line_of_axes = grid[place]
        points = pick(data, projection=relation.projection)
        names = [name for name in dict.fromkeys(points.shown) if name]
        colours = dict(zip(names, OBJECT_COLOURS, strict=False))
        for axes, stage in zip(line_of_axes, shown, strict=True):
            _panel(axes, pick(points, checkpoint=stage.checkpoint), colours)
            if place == 0:
                axes.set_title(stage.label, color=stage.colour, fontweight="bold")
            axes.set_xlabel(_axis("1", relation.explained_x, method))
        _share_limits(line_of_axes, points)
        kind = f"{relation.relation} ({'bound' if relation.bound else 'unbound'})"
        kind = "every relation" if relation.projection == EVERY else kind
        line_of_axes[0].set_ylabel(f"{kind}\n{_axis('2', relation.explained_y, method)}")
        handles = [
            Line2D([], [], marker="o", linestyle="", color=c, label=_short(name))
            for name, c in colours.items()
        ]
        if (points.shown == "").any():
            handles.append(Line2D([], [], marker="o", linestyle="", color=OTHERS, label="others"))
        line_of_axes[-1].legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            handletextpad=0.1,
            fontsize=8.5,
        )
    kinds = [
        Line2D(
            [],
            [],
            marker=shape(f),
            linestyle="",
            color="black",
            markeredgewidth=1.2,
            label=f"{f} prompt",
        )
        for f in families
    ]
    kinds += [
        Line2D([], [], color="#555555", linewidth=0.8, label="the same subject"),
        Line2D([], [], linestyle="", label=f"colour: the {data.colour.iloc[0]} of the fact"),
    ]
    figure.legend(handles=kinds, loc="outside lower center", ncols=min(len(kinds), 5))
    return figure


def _panel(axes, points, colours: dict[str, str]) -> None:
    """One projection at one checkpoint: a shape a family, lines between a few pairs."""
    axes.grid(visible=False)
    for _, pair in points[points.joined].groupby(["relation", "subject"], sort=False):
        axes.plot(pair.x, pair.y, color="#555555", linewidth=0.7, alpha=0.8, zorder=2)
    for family in in_order(points.family):
        some, marker = points[points.family == family], shape(family)
        # Strokes have no face: they are drawn thicker, the others with a thin white edge.
        size, width = (24, 1.5) if marker in "x+" else (20, 0.4)
        for named in (False, True):
            part = some[(some.shown != "") == named]
            edge = {} if marker in "x+" else {"edgecolors": "white"}
            axes.scatter(
                part.x,
                part.y,
                s=size,
                marker=marker,
                linewidths=width,
                c=[colours.get(o, OTHERS) for o in part.shown],
                zorder=3 + named,
                **edge,
            )
    axes.tick_params(labelsize=7.5, color=NULL_GREY)
    axes.locator_params(nbins=4)


def shape(family: str) -> str:
    """The marker of a family; one for all translations."""
    return SHAPES.get(family, "v")


def _share_limits(line_of_axes, points) -> None:
    """Give all panels of a row the limits of all its points, with 6% of air."""
    for name, values in (("xlim", points.x), ("ylim", points.y)):
        air = 0.06 * (values.max() - values.min() or 1.0)
        for axes in line_of_axes:
            axes.set(**{name: (values.min() - air, values.max() + air)})


def _axis(number: str, explained: float, method: str) -> str:
    if method != "pca":
        return f"UMAP {number}"
    return (
        f"PC {number} ({100 * explained:.0f}% of variance)"
        if explained == explained
        else f"PC {number}"
    )


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def pictures(run_dir: Path) -> dict:
    """The figures by name, one a method of the table. Raises TableMissing, NothingToDraw."""
    table = read_table(run_dir, "umap")
    require_rows(table, "umap", "any point")
    with styled():
        return {
            "projection" if method == "pca" else f"projection_{method}": picture(
                panel_data(table, method), method
            )
            for method in dict.fromkeys(table.method)
        }


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
