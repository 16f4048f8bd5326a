"""Rote and semantic states in two dimensions, on the same axes for every checkpoint.

    python -m figures.projection runs/demo

Reads tables/umap.csv, writes figures/projection.png and .svg (PCA) and, where they were fit,
projection_umap and projection_aligned_umap.
"""

from pathlib import Path

from figures import style
from training.runs.table_files import headline_split, pick, read_table

OTHERS = "#c4c4c4"
EVERY = "every"
# Rings for what was learned by rote, strokes for what was asked with meaning, solids for controls.
SHAPES = {"rote": "o", "train": "+", "test": "x", "near-miss": "^", "unrelated": "D"}
TRANSLATED = "v"
WORDS = {"pca": "Joint PCA", "umap": "Joint UMAP", "aligned_umap": "Aligned UMAP"}
CAPTIONS = {
    "projection": (
        "The panels of a row share their axes. Colours are objects: where circles and crosses of "
        "one colour come together, rote and semantic states agree about the object.",
        "Two dimensions show a small share of the variance; distances here are no evidence.",
    ),
    "projection_umap": (
        "As the PCA, with neighbourhoods instead of linear axes.",
        "Distances between clusters, and their sizes, mean nothing in UMAP.",
    ),
    "projection_aligned_umap": (
        "One UMAP per checkpoint, each state held near its place at the neighbouring checkpoints.",
        "The alignment pulls places together, so a point that stays proves little.",
    ),
}


def panel_data(table, method: str = "pca"):
    """The points drawn: one site, the headline split, one template of each family.

    Adds projection (the row of panels), shown (the object or relation that the colour stands for,
    "" for all but six) and joined (by a line: one subject of each colour). Raises NothingToDraw.
    """
    rows = pick(table, method=method, split=headline_split(table))
    rows = style.require_rows(rows, "umap", f"method {method}")
    milestones = style.names_of(style.milestones(rows))
    rows = pick(rows, site=rows.site.iloc[0], checkpoint=milestones).dropna(subset=["x", "y"])
    # One prompt a family: with several, a subject would have several points and no one line.
    first = rows.groupby(["relation", "family"]).template.transform("first")
    rows = rows[rows.template == first]
    meaning = rows.relation.where(rows.colour == "relation", rows.object)
    facts = rows.assign(meaning=meaning).drop_duplicates(["relation", "subject"])
    common = facts.groupby("projection", sort=False).meaning.apply(
        lambda some: list(some.value_counts(sort=False).nlargest(len(style.OBJECT_COLOURS)).index)
    )
    pairs = zip(rows.projection, meaning, strict=True)
    shown = [name if name in common[projection] else "" for projection, name in pairs]
    first = facts.drop_duplicates(["projection", "meaning"])
    firsts = set(zip(first.relation, first.subject, strict=True))
    joined = [fact in firsts for fact in zip(rows.relation, rows.subject, strict=True)]
    rows = rows.assign(shown=shown, joined=joined)
    return rows.assign(joined=rows.joined & (rows.shown != ""))


def picture(data, method: str = "pca"):
    """A row per projection (bound relations first) on shared axes, a column per checkpoint."""
    relations = data.drop_duplicates("projection")
    relations = relations.sort_values("bound", ascending=False, kind="stable")
    shown, families = style.milestones(data), style.in_order(data.family)
    counted = data.assign(n=data.groupby("relation").subject.nunique().max())
    trust = data.trustworthiness.dropna()
    of = style.count_words(counted) + (f", trustworthiness {trust.min():.2f}" if len(trust) else "")
    figure, grid = style.panels(
        len(relations),
        len(shown),
        height=2.6 * len(relations) + 1.0,
        title=f"{WORDS[method]} of {' and '.join(families)} states at {data.site.iloc[0]} ({of})",
    )
    for axes, stage in zip(grid[0], shown, strict=True):
        axes.set_title(stage.label, color=stage.colour, fontweight="bold")
    for axes_row, relation in zip(grid, relations.itertuples(), strict=True):
        points = pick(data, projection=relation.projection)
        names = filter(None, dict.fromkeys(points.shown))
        colours = dict(zip(names, style.OBJECT_COLOURS, strict=False))
        for axes, stage in zip(axes_row, shown, strict=True):
            _scatter(axes, pick(points, checkpoint=stage.checkpoint), colours)
            axes.set_xlabel(_axis(1, relation.explained_x, method))
            for name, values in (("xlim", points.x), ("ylim", points.y)):
                air = 0.06 * (values.max() - values.min() or 1.0)
                axes.set(**{name: (values.min() - air, values.max() + air)})
        kind = f"{relation.relation} ({'bound' if relation.bound else 'unbound'})"
        kind = "every relation" if relation.projection == EVERY else kind
        axes_row[0].set_ylabel(f"{kind}\n{_axis(2, relation.explained_y, method)}")
        _colour_legend(axes_row[-1], colours, others=(points.shown == "").any())
    look = {"linestyle": "", "markeredgewidth": 1.2}
    markers = {f"{f} prompt": SHAPES.get(f, TRANSLATED) for f in families}
    kinds = [style.handle(words, marker=m, **look) for words, m in markers.items()]
    kinds.append(style.handle("the same subject", "#555555", linewidth=0.8))
    kinds.append(style.handle(f"colour: the {data.colour.iloc[0]} of the fact", linestyle=""))
    figure.legend(handles=kinds, loc="outside lower center", ncols=min(len(kinds), 5))
    return figure


def _colour_legend(axes, colours: dict[str, str], *, others: bool) -> None:
    """What the colours of a row of panels stand for, at its right."""
    named = {n if len(n) <= 16 else f"{n[:15]}…": colour for n, colour in colours.items()}
    named |= {"others": OTHERS} if others else {}
    dots = [style.handle(name, colour, marker="o", linestyle="") for name, colour in named.items()]
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    axes.legend(handles=dots, handletextpad=0.1, fontsize=8.5, **place)


def _scatter(axes, points, colours: dict[str, str]) -> None:
    """One projection at one checkpoint: a shape per family, lines between a few pairs."""
    axes.grid(visible=False)
    for _, pair in points[points.joined].groupby(["relation", "subject"], sort=False):
        axes.plot(pair.x, pair.y, color="#555555", linewidth=0.7, alpha=0.8, zorder=2)
    for family in style.in_order(points.family):
        some, marker = points[points.family == family], SHAPES.get(family, TRANSLATED)
        # Strokes have no face: they are drawn thicker, the others with a thin white edge.
        look = {"s": 24, "linewidths": 1.5}
        if marker not in "x+":
            look = {"s": 20, "linewidths": 0.4, "edgecolors": "white"}
        for named in (False, True):
            part = some[(some.shown != "") == named]
            colour = [colours.get(name, OTHERS) for name in part.shown]
            axes.scatter(part.x, part.y, marker=marker, c=colour, zorder=3 + named, **look)
    axes.tick_params(labelsize=7.5, color=style.NULL_GREY)
    axes.locator_params(nbins=4)


def _axis(number: int, explained: float, method: str) -> str:
    if method != "pca":
        return f"UMAP {number}"
    share = f" ({100 * explained:.0f}% of variance)" if explained == explained else ""
    return f"PC {number}{share}"


@style.drawing
def draw(run_dir: Path) -> dict:
    """One figure for each method of the table."""
    table = style.require_rows(read_table(run_dir, "umap"), "umap", "any point")
    names = {m: "projection" + ("" if m == "pca" else f"_{m}") for m in dict.fromkeys(table.method)}
    return {name: picture(panel_data(table, method), method) for method, name in names.items()}


DRAWINGS = {"projection": draw}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
