"""Object probes by layer: fit on rote states, scored on semantic ones of other subjects, and back.

    python -m figures.probes runs/demo

Reads tables/probes.csv, writes figures/probes.png and .svg.
"""

from pathlib import Path

from figures.style import (
    SIDES,
    count_words,
    drawer,
    in_order,
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

COLUMNS = [
    "direction",
    "side",
    "family",
    "line",
    "checkpoint",
    "phase",
    "epoch",
    "layer",
    "site",
    "value",
    "low",
    "high",
    "chance",
    "null_high",
    "n",
    "split",
]
# Each transfer beside the same probe scored where it was fit: the ceiling that the transfer can reach.
AT_HOME = {"rote->semantic": "rote->rote", "semantic->rote": "semantic->semantic"}
WORDS = {
    "rote->semantic": "fit on rote,\nscored on prompts",
    "semantic->rote": "fit on prompts,\nscored on rote",
}
COLUMNS_A_ROW = 4


CAPTIONS = {
    "probes": (
        "Probe transfer between kinds of prompt",
        "Solid: fit on one kind of state, scored on the other, always on subjects the probe was not fit on. "
        "Dotted: the same probe scored on the kind of state it was fit on, the ceiling of the transfer.",
        "A probe finds what can be read from a state, not what the model uses.",
    )
}


def panel_data(table):
    """The lines drawn, one row a checkpoint and site; held-out subjects (all where they were not split).

    direction: rote->semantic | semantic->rote; side: bound | unbound; family: the semantic prompts; line:
    transfer, or home (the same probe scored at other subjects' prompts of the kind it was fit on). Raises
    NothingToDraw.
    """
    import pandas as pd

    scored = pick(table, measure="transfer_accuracy", split=headline_split(table), relation=SIDES)
    parts = []
    for direction, home in AT_HOME.items():
        transfer = pick(scored, direction=direction)
        ceiling = pick(scored, direction=home)
        for family in in_order(transfer.family):
            parts.append(pick(transfer, family=family).assign(line="transfer", panel_family=family))
            own = pick(ceiling, family=family)
            # A probe fit and scored on rote states has no semantic family: it is the same in every panel.
            own = own if len(own) else pick(ceiling, family="rote")
            parts.append(own.assign(line="home", direction=direction, panel_family=family))
    parts = [part for part in parts if len(part)]
    rows = require_rows(
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(),
        "probes",
        "transfer_accuracy",
    )
    return rows.assign(side=rows.relation, family=rows.panel_family).reindex(columns=COLUMNS)


def picture(data):
    """The figure of panel_data: a row a direction and side, a column a family (four a row)."""
    from matplotlib.lines import Line2D

    sites = site_names(data)
    shown = stages(data)
    families = in_order(data.family)
    chunks = [families[i : i + COLUMNS_A_ROW] for i in range(0, len(families), COLUMNS_A_ROW)]
    lines = [
        (direction, side, chunk)
        for direction in AT_HOME
        for side in SIDES
        for chunk in chunks
        if len(pick(data, direction=direction, side=side, family=tuple(chunk)))
    ]
    split = headline_split(data)
    of = count_words(data, f"{split} subjects" if split != "all" else "subjects")
    figure, grid = panels(
        len(lines),
        max(map(len, chunks)),
        height=1.75 * len(lines) + 1.1,
        sharex=True,
        sharey=True,
        title=f"Object probes across prompts and across subjects ({of})",
    )
    for place, (direction, side, chunk) in enumerate(lines):
        line_of_axes = grid[place]
        line_of_axes[0].set_ylabel(
            f"{side} relations,\n{WORDS[direction]}\nprobe accuracy", fontsize=8.5
        )
        for axes in line_of_axes[len(chunk) :]:
            axes.set_visible(False)
        for axes, family in zip(line_of_axes, chunk, strict=False):
            rows = pick(data, direction=direction, side=side, family=family)
            _panel(axes, rows, shown, sites, 1.8 if side == "bound" else 1.0)
            site_axis(axes, sites, most=4)
            if place == 0 or len(chunks) > 1:
                axes.set_title(f"{family} prompts")
    for axes in grid[-1]:
        axes.set_xlabel("after block")
    home = Line2D(
        [],
        [],
        color="black",
        linewidth=1.2,
        linestyle=":",
        label="same probe scored where it was fit",
    )
    legend_below(
        figure,
        shown,
        [interval_handle(), home, reference_handle("chance (guessing)"), null_handle()],
    )
    return figure


def _panel(axes, rows, shown, sites: dict[int, str], width: float) -> None:
    """One panel: null, chance, the transfer of each checkpoint and its ceiling."""
    transfer = rows[rows.line == "transfer"]
    level = transfer.chance.mean()
    if level == level:
        reference_line(axes, level)
        high = transfer.groupby("layer").null_high.max()
        if high.notna().any():
            null_band(axes, high * 0 + level, high)
    for stage in shown:
        for kind, line in rows[rows.checkpoint == stage.checkpoint].groupby("line", sort=False):
            main = kind == "transfer"
            layer_line(
                axes,
                line,
                max(sites) + 1,
                stage.colour,
                style="-" if main else ":",
                width=width if main else 1.1,
                band=main,
            )
    axes.set_ylim(0, 1)


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "probes"))
    with styled():
        return {"probes": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
