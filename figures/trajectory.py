"""Measures over training steps: when each rises, and whether facts take on another reading.

    python -m figures.trajectory runs/demo

Reads tables/trajectory.csv and repurposing.csv, those that exist; writes figures/trajectory and
repurposing, .png and .svg.
"""

from pathlib import Path

from figures import style
from training.runs.table_files import headline_split, pick, read_table

PARTS = {"phase 1": ("base", "memorize"), "phase 2": ("memorize", "generalize")}
WATCHED = {
    "sibling_answers": "answered with the relation's object",
    "sibling_states": "its object read by rote probes",
}
CAPTIONS = {
    "trajectory": (
        "Each curve goes from its value at the first checkpoint (0) to its own maximum (1), which "
        "the legend gives for bound relations. Points are saved checkpoints. With several seeds, "
        "means over those in which a curve rises, bands 95% intervals.",
        "Order in time does not prove a cause, and a curve without an effect is stretched to 1 all "
        "the same: read its maximum, and the intervals in the other pictures.",
    ),
    "repurposing": (
        "Test prompts of the sibling relation about held-out people from the start of phase 2 on; "
        "bands are 95% intervals. Dashed: how often the same answers are true of other people. "
        "Dotted vertical lines: the first checkpoint at which a curve has risen further above "
        "that than at its start, corrected over checkpoints.",
        "Of two curves of different height, noise alone makes one rise earlier: judge the lead "
        "over many runs, against the false alarms of runs that were given no other reading.",
    ),
}


def panel_data(table):
    """The points drawn, by step; a curve that never rises has share NaN. Raises NothingToDraw."""
    rows = pick(table, split=headline_split(table), relation=style.SIDES)
    rows = style.require_rows(rows, "trajectory", "curves of bound or unbound relations")
    if "share" not in rows:
        again = "write it again with analysis.trajectory"
        raise style.NothingToDraw(f"tables/trajectory.csv has no column share: {again}")
    return rows.sort_values("total_step", kind="stable")


def picture(data):
    """A row per side, phase 1 left and phase 2 right."""
    sides = style.present(style.SIDES, data.relation)
    phases = tuple(set(data.phase))
    parts = {part: both for part, both in PARTS.items() if both[1] in phases} or {"": phases}
    start = data[data.phase == "memorize"].total_step.max()
    title = "When each measure rises"
    if "n_seeds" in data:
        title += f" (means over {int(data.n_seeds.min())} seeds)"
    height = 2.4 * len(sides) + 1.3
    figure, grid = style.panels(len(sides), len(parts), height=height, sharey=True, title=title)
    # After the last colour they begin again, dashed.
    kinds = [(colour, dash) for dash in ("-", "--") for colour in style.OBJECT_COLOURS]
    looks = {
        name: {"color": colour, "linestyle": dash, "marker": "o", "markersize": 3.5}
        for name, (colour, dash) in zip(dict.fromkeys(data.curve), kinds, strict=False)
    }
    for axes_row, side in zip(grid, sides, strict=True):
        for axes, (part, both) in zip(axes_row, parts.items(), strict=True):
            rows = pick(data, relation=side, phase=both)
            if part == "phase 2" and start == start:
                rows = rows[rows.total_step >= start]
            for name, look in looks.items():
                line = pick(rows, curve=name)
                axes.plot(line.total_step, line.share, linewidth=1.5, **look)
                if "n_seeds" in line:
                    ends = line.share_low, line.share_high
                    style.band(axes, line.total_step, *ends, look["color"], alpha=0.1)
            style.reference_line(axes, 0.5)
            axes.set_title(f"{side} relations{', ' * bool(part)}{part}")
            axes.set_ylim(-0.25, 1.08)
        axes_row[0].set_ylabel("share of its own maximum")
    for axes in grid[-1]:
        axes.set_xlabel("training steps since the base model")
    most = pick(data, relation=sides[0]).groupby("curve").maximum.first().reindex(list(looks))
    handles = [style.handle(f"{n} (max {most[n]:.2f})", **look) for n, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def repurposing_data(table):
    """(points, alarm steps by measure); step 0: where phase 2 started. Raises NothingToDraw."""
    rows = style.require_rows(pick(table, measure=tuple(WATCHED)), "repurposing", "curves")
    rows = rows.assign(step=rows.step.where(rows.phase == "generalize", 0)).sort_values("step")
    steps = table.drop_duplicates("measure").set_index("measure").value
    return rows, {name: steps[name.replace("sibling", "alarm_step")] for name in WATCHED}


def repurposing_picture(data, alarms: dict[str, float]):
    """One panel, a curve for the answers and one for the states."""
    title = "Do the facts take on the sibling's reading?"
    figure, (axes,) = style.tiles(1, height=3.4, extra=0, title=title)
    for (measure, name), colour in zip(WATCHED.items(), style.OBJECT_COLOURS, strict=False):
        line = pick(data, measure=measure)
        axes.plot(line.step, line.value, color=colour, marker="o", markersize=4, label=name)
        style.band(axes, line.step, line.low, line.high, colour)
        if alarms[measure] == alarms[measure]:
            axes.axvline(alarms[measure], color=colour, linestyle=":", linewidth=1.4)
        axes.plot(line.step, line.chance, color=colour, linestyle="--", linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("steps of phase 2")
    axes.set_ylabel("share of the sibling's prompts")
    handles = [
        *axes.get_legend_handles_labels()[0],
        style.handle("true of other people (chance)", "#666666", linestyle="--", linewidth=1),
        style.handle("alarm", "#666666", linestyle=":", linewidth=1.4),
        style.interval_handle(),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@style.drawing
def draw(run_dir: Path) -> dict:
    return {"trajectory": picture(panel_data(read_table(run_dir, "trajectory")))}


@style.drawing
def draw_repurposing(run_dir: Path) -> dict:
    points = repurposing_data(read_table(run_dir, "repurposing"))
    return {"repurposing": repurposing_picture(*points)}


DRAWINGS = {"trajectory": draw, "repurposing": draw_repurposing}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
