"""The conditions of a sweep side by side: a point and its interval over seeds each, a panel an endpoint.

    python -m figures.ablations results/little-meaning

Reads tables/ablations.csv, writes figures/ablations.png and .svg. Where a setting with three or more numbers was
varied, it is the axis and the other settings are lines; else every condition has a row.
"""

import re
from pathlib import Path

from figures.style import (
    OBJECT_COLOURS,
    drawer,
    interval_handle,
    panels,
    reference_line,
    require_rows,
    run_figure,
    styled,
)
from training.base.files import read_json
from training.runs.table_files import pick, read_table

CAPTIONS = {
    "ablations": (
        "Conditions side by side",
        "Points are means over seeds, bars and bands 95% intervals over seeds. A seed redraws facts, names and the "
        "unbound relation.",
        "Overlapping intervals are no test: conditions are compared pairwise by seed in tables/ablations.csv. "
        "Measures over sites are those of each run's largest site, so that their height is above chance by selection.",
    )
}
COLUMNS = ["endpoint", "relation", "label", "value", "low", "high", "n_seeds"]
LEAST_NUMBERS = 3
MOST_LINES = len(OBJECT_COLOURS)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def panel_data(table):
    """(rows drawn, the column that is the axis or "").

    Rows: a condition and endpoint, with columns COLUMNS, x (its number on the axis) and line (its other settings in
    words). Raises NothingToDraw.
    """
    rows = require_rows(pick(table, kind="condition"), "ablations", "conditions")
    axis, others = _axis(rows)
    words = [_words(row, others) for row in rows.to_dict("records")]
    rows = rows.assign(x=rows[axis] if axis else float("nan"), line=words)
    return rows[[*COLUMNS, "x", "line"]], axis


def _axis(rows) -> tuple[str, list[str]]:
    """The setting with the most numbers, if it has enough and the others are few enough for lines; and the others."""
    settings = [c for c in rows if c == "condition" or "." in c]
    numeric = [
        c for c in settings if rows[c].dtype.kind in "if" and rows[c].nunique() >= LEAST_NUMBERS
    ]
    for axis in sorted(numeric, key=lambda c: -rows[c].nunique()):
        others = [c for c in settings if c != axis]
        lines = rows[others].drop_duplicates() if others else rows[:1]
        if len(lines) <= MOST_LINES and rows[axis].notna().all():
            return axis, others
    return "", settings


def _words(row: dict, settings: list[str]) -> str:
    def word(column: str) -> str:
        value = row[column]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return text if column == "condition" else f"{column} {text}"

    return ", ".join(word(c) for c in settings if row[c] == row[c] and row[c] != "")


def picture(data, axis: str, title: str = "Conditions side by side"):
    """The figure of panel_data; title: what the sweep asks."""
    ends = list(dict.fromkeys(zip(data.endpoint, data.relation.fillna(""), strict=True)))
    columns = min(2, len(ends))
    rows = -(-len(ends) // columns)
    labels = list(dict.fromkeys(data.label))
    height = (2.5 if axis else 0.5 + 0.27 * len(labels)) * rows + 1.0
    seeds = f"{int(data.n_seeds.min())}-{int(data.n_seeds.max())}".replace(
        f"{int(data.n_seeds.max())}-", ""
    )
    figure, grid = panels(rows, columns, height=height, title=f"{title} ({seeds} seeds)")
    for number, (axes, (endpoint, relation)) in enumerate(zip(grid.flat, ends, strict=False)):
        some = data[(data.endpoint == endpoint) & (data.relation.fillna("") == relation)]
        axes.set_title(f"{endpoint}, {relation}" if relation else endpoint, fontsize=8.5)
        if axis:
            _curves(axes, some, axis, _in_order(data.line))
        else:
            _points(axes, some, labels, named=number % columns == 0)
    for axes in grid.flat[len(ends) :]:
        axes.set_visible(False)
    if axis:
        _legend(figure, _in_order(data.line))
    return figure


def _in_order(lines) -> list[str]:
    """The different lines; by their numbers where they differ in nothing else, else as they come."""
    there = list(dict.fromkeys(lines))
    if len({NUMBER.sub("", line) for line in there}) > 1:
        return there
    return sorted(there, key=lambda line: [float(n) for n in NUMBER.findall(line)])


def _curves(axes, some, axis: str, lines: list[str]) -> None:
    """One line for each of the other settings, with its band."""
    for line, colour in zip(lines, OBJECT_COLOURS, strict=False):
        rows = some[some.line == line].sort_values("x")
        axes.plot(rows.x, rows.value, color=colour, marker="o", markersize=4, linewidth=1.5)
        if rows.low.notna().any():
            axes.fill_between(rows.x, rows.low, rows.high, color=colour, alpha=0.14, linewidth=0)
    numbers = sorted(some.x.unique())
    if numbers[0] > 0 and numbers[-1] / numbers[0] >= 8:
        axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{x:g}" for x in numbers])
    axes.minorticks_off()
    axes.set_xlabel(axis)
    reference_line(axes, 0)


def _points(axes, some, labels: list[str], *, named: bool) -> None:
    """One row a condition; named: with its label, as in the first column."""
    some = some.set_index("label").reindex(labels)
    places = range(len(labels) - 1, -1, -1)
    spread = [(some.value - some.low).fillna(0), (some.high - some.value).fillna(0)]
    axes.errorbar(
        some.value,
        places,
        xerr=spread,
        fmt="o",
        color=OBJECT_COLOURS[0],
        markersize=5,
        elinewidth=1.2,
    )
    axes.set_yticks(places, labels if named else [""] * len(labels))
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color="#444444", linewidth=0.9, linestyle=(0, (5, 3)), zorder=1.5)


def _legend(figure, lines: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4, label=line or "mean over seeds")
        for line, colour in zip(lines, OBJECT_COLOURS, strict=False)
    ]
    columns = 1 if max(len(line) for line in lines) > 50 else 3
    figure.legend(handles=[*handles, interval_handle()], loc="outside lower center", ncols=columns)


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data, axis = panel_data(read_table(run_dir, "ablations"))
    record = read_json(run_dir / "run.json") if (run_dir / "run.json").exists() else {}
    with styled():
        return {"ablations": picture(data, axis, record.get("title") or "Conditions side by side")}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
