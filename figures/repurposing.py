"""Another reading of the memorised facts: what is answered, and what the states hold, at the sibling's prompts.

    python -m figures.repurposing runs/other-reading

Reads tables/repurposing.csv, writes figures/repurposing.png and .svg.
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
from training.runs.table_files import pick, read_table

NAMES = {
    "sibling_answers": "answered with the relation's object",
    "sibling_states": "its object read by rote probes",
}
CAPTIONS = {
    "repurposing": (
        "Do the facts take on the sibling's reading?",
        "Test prompts of the sibling relation about held-out people, from the last checkpoint before phase 2 (step 0) "
        "on; bands are 95% intervals over people; broken lines: the same answers held against the other people. "
        "Dotted upright lines: the first checkpoint at which a curve has risen, above that, over its start, corrected over "
        "checkpoints.",
        "Two curves of different height rise earlier or later by their noise alone: the lead is to be read over many "
        "runs, beside the false alarms of runs that were given no other reading.",
    )
}


def panel_data(table):
    """The points drawn: measure, step, value, low, high; and the alarms. Raises NothingToDraw."""
    alarms = (
        pick(table, measure=tuple(f"alarm_step_{m.split('_')[1]}" for m in NAMES))
        .set_index("measure")
        .value
    )
    rows = require_rows(pick(table, measure=tuple(NAMES)), "repurposing", "curves")
    # The start is the last checkpoint of another phase: step 0 of this one.
    rows = rows.assign(step=rows.step.where(rows.phase == "generalize", 0))
    return rows[["measure", "step", "value", "low", "high", "chance"]], alarms


def picture(data, alarms):
    """The figure of panel_data."""
    from matplotlib.lines import Line2D

    figure, grid = panels(1, 1, height=3.4, title="Do the facts take on the sibling's reading?")
    axes = grid[0, 0]
    for (measure, name), colour in zip(NAMES.items(), OBJECT_COLOURS, strict=False):
        line = data[data.measure == measure].sort_values("step")
        axes.plot(line.step, line.value, color=colour, marker="o", markersize=4, label=name)
        axes.fill_between(line.step, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
        step = alarms[f"alarm_step_{measure.split('_')[1]}"]
        if step == step:
            axes.axvline(step, color=colour, linestyle=":", linewidth=1.4)
        axes.plot(line.step, line.chance, color=colour, linestyle="--", linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("steps of phase 2")
    axes.set_ylabel("share of the sibling's prompts")
    grey = {"color": "#666666"}
    handles = [
        *axes.get_legend_handles_labels()[0],
        Line2D([], [], **grey, linestyle="--", linewidth=1, label="true of other people (chance)"),
        Line2D([], [], **grey, linestyle=":", linewidth=1.4, label="alarm"),
        interval_handle(),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data, alarms = panel_data(read_table(run_dir, "repurposing"))
    with styled():
        return {"repurposing": picture(data, alarms)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
