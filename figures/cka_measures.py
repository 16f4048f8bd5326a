"""Other similarities of rote and semantic states than CKA, by layer: the test prompts beside the unrelated ones.

    python -m figures.cka_measures runs/demo

Reads tables/cka_measures.csv, writes figures/cka_measures.png and .svg.
"""

from pathlib import Path

from figures.style import (
    SIDES,
    SITE_LABEL,
    count_words,
    drawer,
    interval_handle,
    layer_line,
    legend_below,
    null_band,
    null_handle,
    panels,
    reference_handle,
    reference_line,
    require_rows,
    run_figure,
    site_axis,
    site_names,
    stages,
    styled,
)
from training.runs.table_files import headline_split, pick, read_table

CAPTIONS = {
    "cka_measures": (
        "Other similarities of rote and test states",
        "One row a measure; solid: test prompts, dotted: unrelated ones; dashed grey: the chance of independent states. "
        "Of a distance, less is more similar.",
        "Both states are about one subject, so they are alike in the base model too; what counts is the distance "
        "between the solid and the dotted line, and its change with training.",
    )
}


def panel_data(table):
    """The lines drawn: bound and unbound relations, test prompts (the first family if there are none) and unrelated
    ones. Raises NothingToDraw."""
    family = "test" if "test" in set(table.family) else table.family.iloc[0]
    rows = pick(table, split=headline_split(table), relation=SIDES, family=(family, "unrelated"))
    rows = require_rows(
        rows.dropna(subset="layer"), "cka_measures", f"bound relations, family {family}"
    )
    return rows.assign(line=["main" if f == family else "unrelated" for f in rows.family])


def picture(data):
    """The figure of panel_data: a row a measure, bound relations left, unbound right."""
    measures = list(dict.fromkeys(data.measure))
    sides = [side for side in SIDES if side in set(data.relation)]
    sites, shown, split = site_names(data), stages(data), headline_split(data)
    of = count_words(data, f"{split} subjects" if split != "all" else "subjects")
    title = f"Other similarities of rote and test states ({of})"
    height = 2.3 * len(measures) + 1.1
    figure, grid = panels(
        len(measures), len(sides), height=height, sharex=True, sharey="row", title=title
    )
    for line_of_axes, measure in zip(grid, measures, strict=True):
        line_of_axes[0].set_ylabel(measure.replace("_", " "))
        for axes, side in zip(line_of_axes, sides, strict=True):
            rows = pick(data, measure=measure, relation=side)
            _panel(axes, rows, shown, sites, width=1.9 if side == "bound" else 1.0)
            site_axis(axes, sites)
            if measure == measures[0]:
                axes.set_title(f"{side} relations")
    for axes in grid[-1]:
        axes.set_xlabel(SITE_LABEL)
    legend_below(figure, shown, [interval_handle(), reference_handle("chance"), null_handle()])
    return figure


def _panel(axes, rows, shown, sites: dict[int, str], width: float) -> None:
    """One panel: chance, the null's 95% on the side of similarity, then a line for each checkpoint and family."""
    main = rows[rows.line == "main"]
    level = main.chance.mean()
    if level == level:
        reference_line(axes, level)
    edge = main.groupby("layer").null_high.max()
    if edge.notna().any() and level == level:
        null_band(axes, edge * 0 + level, edge)
    for stage in shown:
        for kind, line in rows[rows.checkpoint == stage.checkpoint].groupby("line", sort=False):
            style, thick = ("-", width) if kind == "main" else (":", width * 0.75)
            layer_line(
                axes,
                line,
                max(sites) + 1,
                stage.colour,
                style=style,
                width=thick,
                band=kind == "main",
            )


def pictures(run_dir: Path) -> dict:
    """The figure by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "cka_measures"))
    with styled():
        return {"cka_measures": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
