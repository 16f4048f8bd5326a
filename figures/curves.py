"""What each condition of a sweep reaches with how many training tokens.

    python -m figures.curves results/tokens

Reads tables/curves.csv, writes figures/curves.png and .svg.
"""

from pathlib import Path

from figures.style import (
    OBJECT_COLOURS,
    drawer,
    interval_handle,
    panels,
    require_rows,
    run_figure,
    styled,
)
from training.base.files import read_json
from training.runs.table_files import read_table

COLUMNS = [
    "endpoint",
    "relation",
    "label",
    "phase",
    "checkpoint",
    "tokens",
    "value",
    "low",
    "high",
    "n_seeds",
]
CAPTIONS = {
    "curves": (
        "Against training tokens",
        "Points are saved checkpoints, means over seeds, over the tokens that their weights were trained on since the base "
        "model; bands are 95% intervals over seeds. Open points are those of phase 1, filled ones those of phase 2.",
        "Learning rates fall towards the end of each phase, so that a point on the way is not what a shorter training "
        "would have given.",
    )
}


def panel_data(table):
    """The points drawn. Raises NothingToDraw."""
    rows = require_rows(table, "curves", "curves")
    return rows.assign(relation=rows.relation.fillna(""))[COLUMNS]


def picture(data, title: str = "Against training tokens"):
    """The figure of panel_data: a panel an endpoint, a line a condition."""
    from matplotlib.lines import Line2D

    ends = list(dict.fromkeys(zip(data.endpoint, data.relation, strict=True)))
    labels = list(dict.fromkeys(data.label))
    columns = min(2, len(ends))
    rows = -(-len(ends) // columns)
    title += f" ({int(data.n_seeds.max())} seeds)"
    figure, grid = panels(rows, columns, height=2.5 * rows + 0.9, title=title)
    colours = {label: OBJECT_COLOURS[i % len(OBJECT_COLOURS)] for i, label in enumerate(labels)}
    for axes, (endpoint, relation) in zip(grid.flat, ends, strict=False):
        axes.set_title(f"{endpoint}, {relation}" if relation else endpoint, fontsize=8.5)
        some = data[(data.endpoint == endpoint) & (data.relation == relation)]
        for label, line in some.groupby("label", sort=False):
            line, colour = line.sort_values("tokens"), colours[label]
            axes.plot(line.tokens, line.value, color=colour, linewidth=1.4)
            for filled, points in line.groupby(line.phase == "generalize"):
                face = colour if filled else "white"
                axes.plot(
                    points.tokens,
                    points.value,
                    "o",
                    color=colour,
                    markerfacecolor=face,
                    markersize=4,
                )
            axes.fill_between(
                line.tokens, line.low, line.high, color=colour, alpha=0.14, linewidth=0
            )
        axes.set_xlabel("training tokens")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
    for axes in grid.flat[len(ends) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color=c, marker="o", markersize=4, label=label)
        for label, c in colours.items()
    ]
    figure.legend(handles=[*handles, interval_handle()], loc="outside lower center", ncols=2)
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "curves"))
    record = read_json(run_dir / "run.json") if (run_dir / "run.json").exists() else {}
    with styled():
        return {"curves": picture(data, record.get("title") or "Against training tokens")}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
