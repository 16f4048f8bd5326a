"""Rote and test states of each relation in two dimensions, on the same axes for every checkpoint.

    python -m figures.projection runs/demo

Reads tables/umap.csv, writes figures/projection.png and .svg (PCA) and, if it was fit, projection_umap.png.
"""

from pathlib import Path

from figures.style import (
    NULL_GREY,
    OBJECT_COLOURS,
    Options,
    headline_split,
    milestones,
    panels,
    pick,
    require_rows,
    save,
    say_written,
    styled,
)
from training.tables import read_table

COLUMNS = [
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
}


def panel_data(table, method: str = "pca"):
    """The points drawn: one site, held-out subjects (all if they were not split), rote and one test template.

    Returns the points with columns shown_object (the object if it is one of its relation's six commonest,
    else "") and joined (True for one subject of each shown object, whose rote and test points a line joins).
    Raises NothingToDraw.
    """
    rows = require_rows(
        pick(table, method=method, split=headline_split(table), family=("rote", "test")),
        "umap",
        f"method {method}",
    )
    rows = pick(rows, site=rows.site.iloc[0], checkpoint=tuple(s.checkpoint for s in milestones(rows)))
    if "template" in rows:
        # One test prompt: with several, a subject would have several points and no one line.
        rows = rows[rows.template == rows.groupby(["relation", "family"]).template.transform("first")]
    rows = rows.dropna(subset=["x", "y"]).reindex(columns=COLUMNS)
    facts = rows.drop_duplicates(["relation", "subject"])
    shown = {
        (relation, name)
        for relation, group in facts.groupby("relation", sort=False)
        for name in group.object.value_counts(sort=False).nlargest(len(OBJECT_COLOURS)).index
    }
    first = {
        (f.relation, f.subject)
        for f in facts.drop_duplicates(["relation", "object"]).itertuples()
        if (f.relation, f.object) in shown
    }
    return rows.assign(
        shown_object=[o if (r, o) in shown else "" for r, o in zip(rows.relation, rows.object, strict=True)],
        joined=[pair in first for pair in zip(rows.relation, rows.subject, strict=True)],
    )


def picture(data, method: str = "pca"):
    """The figure of panel_data: a row a relation (bound first), a column a checkpoint, shared axes."""
    from matplotlib.lines import Line2D

    relations = data.drop_duplicates("relation").sort_values("bound", ascending=False, kind="stable")
    shown = milestones(data)
    split = headline_split(data)
    n = data.groupby("relation").subject.nunique().max()
    of = f"n = {n} {split} subjects" if split != "all" else f"n = {n} subjects"
    trust = data.trustworthiness.dropna()
    words = f", trustworthiness {trust.min():.2f}" if len(trust) else ""
    figure, grid = panels(
        len(relations),
        len(shown),
        height=2.6 * len(relations) + 1.0,
        title=f"Joint {method.upper()} of rote and test states at {data.site.iloc[0]} ({of}{words})",
    )
    for place, relation in enumerate(relations.itertuples()):
        line_of_axes = grid[place]
        points = pick(data, relation=relation.relation)
        names = [name for name in dict.fromkeys(points.shown_object) if name]
        colours = dict(zip(names, OBJECT_COLOURS, strict=False))
        for axes, stage in zip(line_of_axes, shown, strict=True):
            _panel(axes, pick(points, checkpoint=stage.checkpoint), colours)
            if place == 0:
                axes.set_title(stage.label, color=stage.colour, fontweight="bold")
            axes.set_xlabel(_axis("1", relation.explained_x, method))
        _share_limits(line_of_axes, points)
        kind = "bound" if relation.bound else "unbound"
        line_of_axes[0].set_ylabel(f"{relation.relation} ({kind})\n{_axis('2', relation.explained_y, method)}")
        handles = [Line2D([], [], marker="o", linestyle="", color=c, label=_short(name)) for name, c in colours.items()]
        if (points.shown_object == "").any():
            handles.append(Line2D([], [], marker="o", linestyle="", color=OTHERS, label="others"))
        line_of_axes[-1].legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1, fontsize=8.5
        )
    kinds = [
        Line2D([], [], marker="o", linestyle="", color="black", label="rote prompt"),
        Line2D([], [], marker="x", linestyle="", color="black", markeredgewidth=1.6, label="test prompt"),
        Line2D([], [], color="#555555", linewidth=0.8, label="the same subject"),
        Line2D([], [], linestyle="", label="colour: the object of the fact"),
    ]
    figure.legend(handles=kinds, loc="outside lower center", ncols=4)
    return figure


def _panel(axes, points, colours: dict[str, str]) -> None:
    """One relation at one checkpoint: circles for rote, crosses for test, lines between a few pairs."""
    axes.grid(visible=False)
    for _, pair in points[points.joined].groupby("subject", sort=False):
        axes.plot(pair.x, pair.y, color="#555555", linewidth=0.7, alpha=0.8, zorder=2)
    for family, marker, size, width in (("rote", "o", 20, 0.4), ("test", "x", 24, 1.5)):
        some = points[points.family == family]
        for named in (False, True):
            part = some[(some.shown_object != "") == named]
            edge = {"edgecolors": "white"} if marker == "o" else {}
            axes.scatter(
                part.x,
                part.y,
                s=size,
                marker=marker,
                linewidths=width,
                c=[colours.get(o, OTHERS) for o in part.shown_object],
                zorder=3 + named,
                **edge,
            )
    axes.tick_params(labelsize=7.5, color=NULL_GREY)
    axes.locator_params(nbins=4)


def _share_limits(line_of_axes, points) -> None:
    """Give all panels of a row the limits of all its points, with 6% of air."""
    for name, values in (("xlim", points.x), ("ylim", points.y)):
        air = 0.06 * (values.max() - values.min() or 1.0)
        for axes in line_of_axes:
            axes.set(**{name: (values.min() - air, values.max() + air)})


def _axis(number: str, explained: float, method: str) -> str:
    if method != "pca":
        return f"{method.upper()} {number}"
    return f"PC {number} ({100 * explained:.0f}% of variance)" if explained == explained else f"PC {number}"


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def pictures(run_dir: Path) -> dict:
    """The figures by name, one a method of the table. Raises TableMissing, NothingToDraw."""
    table = read_table(run_dir, "umap")
    require_rows(table, "umap", "any point")
    with styled():
        return {
            "projection" if method == "pca" else f"projection_{method}": picture(panel_data(table, method), method)
            for method in dict.fromkeys(table.method)
        }


def draw(run_dir: Path) -> list[Path]:
    """Write RUN_DIR/figures/projection.png and .svg; returns their paths."""
    return save(pictures(run_dir), Path(run_dir) / "figures")


def main(options: Options) -> None:
    """Draw and say what was written."""
    say_written(draw(options.run_dir))


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
