"""When each measure rises: every checkpoint on one axis of steps, each curve as a share of its own maximum.

    python -m figures.trajectory runs/demo

Reads tables/trajectory.csv, writes figures/trajectory.png and .svg.
"""

from pathlib import Path

from figures.style import (
    OBJECT_COLOURS,
    SIDES,
    NothingToDraw,
    drawer,
    panels,
    reference_line,
    require_rows,
    run_figure,
    styled,
)
from training.runs.table_files import headline_split, pick, read_table

COLUMNS = [
    "curve",
    "relation",
    "split",
    "phase",
    "checkpoint",
    "total_step",
    "value",
    "share",
    "maximum",
]
# Of a mean over seeds: the ends of its interval, and of how many seeds.
SPAN = ["share_low", "share_high", "n_seeds"]
PARTS = {"phase 1": ("base", "memorize"), "phase 2": ("memorize", "generalize")}
CAPTIONS = {
    "trajectory": (
        "When each measure rises",
        "Each curve goes from its value at the first checkpoint (0) to its own maximum (1); what that maximum is "
        "stands in the legend for bound relations. Points are the saved checkpoints; between them nothing was measured. "
        "Where there are several seeds, each seed's curve is a share of its own maximum, points are means over those "
        "in which it rises, and bands 95% intervals.",
        "Order in time is no proof of cause, and a curve without an effect is stretched to 1 all the same: read "
        "its maximum, and the intervals in the other pictures.",
    )
}


def panel_data(table):
    """The points drawn, of bound and unbound relations; a curve that never rises has no share (NaN).

    Means over seeds have the ends of their intervals too. Raises NothingToDraw.
    """
    rows = pick(table, split=headline_split(table), relation=SIDES).sort_values(
        "total_step", kind="stable"
    )
    rows = require_rows(rows, "trajectory", "curves of bound or unbound relations")
    if "share" not in rows:
        raise NothingToDraw(
            "tables/trajectory.csv has no column share: write it again with analysis.trajectory"
        )
    return rows[[c for c in (*COLUMNS, *SPAN) if c in rows]]


def picture(data):
    """The figure of panel_data: a row a side, phase 1 left and phase 2 right."""
    from matplotlib.lines import Line2D

    sides = [s for s in SIDES if s in set(data.relation)]
    names = list(dict.fromkeys(data.curve))
    ends = [data[data.phase == "memorize"].total_step.max()] * ("memorize" in set(data.phase))
    parts = {k: v for k, v in PARTS.items() if set(v[1:]) & set(data.phase)} or {
        "": tuple(set(data.phase))
    }
    title = "When each measure rises"
    if "n_seeds" in data:
        title += f" (means over {int(data.n_seeds.min())} seeds)"
    figure, grid = panels(
        len(sides), len(parts), height=2.4 * len(sides) + 1.3, sharey=True, title=title
    )
    for axes_row, side in zip(grid, sides, strict=True):
        for axes, (part, phases) in zip(axes_row, parts.items(), strict=True):
            rows = pick(data, relation=side, phase=phases)
            if part == "phase 2" and ends:
                rows = rows[rows.total_step >= ends[0]]
            for name, colour, style in zip(
                names, _colours(len(names)), _styles(len(names)), strict=True
            ):
                line = pick(rows, curve=name)
                axes.plot(
                    line.total_step,
                    line.share,
                    color=colour,
                    linestyle=style,
                    marker="o",
                    markersize=3.5,
                    linewidth=1.5,
                )
                if "n_seeds" in line:
                    axes.fill_between(
                        line.total_step,
                        line.share_low,
                        line.share_high,
                        color=colour,
                        alpha=0.1,
                        linewidth=0,
                    )
            reference_line(axes, 0.5)
            axes.set_title(f"{side} relations{', ' * bool(part)}{part}")
            axes.set_ylim(-0.25, 1.08)
        axes_row[0].set_ylabel("share of its own maximum")
    for axes in grid[-1]:
        axes.set_xlabel("training steps since the base model")
    maxima = pick(data, relation=sides[0]).groupby("curve").maximum.first()
    handles = [
        Line2D(
            [],
            [],
            color=c,
            linestyle=s,
            marker="o",
            markersize=3.5,
            label=f"{n} (max {maxima.get(n, float('nan')):.2f})",
        )
        for n, c, s in zip(names, _colours(len(names)), _styles(len(names)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _colours(count: int) -> list[str]:
    return [OBJECT_COLOURS[i % len(OBJECT_COLOURS)] for i in range(count)]


def _styles(count: int) -> list[str]:
    return ["-" if i < len(OBJECT_COLOURS) else "--" for i in range(count)]


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "trajectory"))
    with styled():
        return {"trajectory": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
