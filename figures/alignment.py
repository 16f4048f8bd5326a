"""Retrieval and cosine of rote and test states by layer and checkpoint, each beside its controls.

    python -m figures.alignment runs/demo

Reads tables/alignment.csv, writes figures/alignment.png and .svg.
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
    "panel",
    "side",
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
    "n",
    "split",
]
ROWS = {
    "retrieval": ("Retrieval: is the own rote state the nearest of all?", "top-1 accuracy"),
    "centred": ("Cosine of paired rote and test states, centred", "cosine, centred"),
    "raw": ("The same, raw: the common direction of all states inflates it", "cosine, raw"),
}
SOURCES = {
    "retrieval": {
        "paired": ("retrieval_top1", "test"),
        "unrelated": ("retrieval_top1", "unrelated"),
    },
    "centred": {
        "paired": ("cosine_centred", "test"),
        "mismatched": ("cosine_centred_mismatched", "test"),
        "unrelated": ("cosine_centred", "unrelated"),
    },
    "raw": {
        "paired": ("cosine_raw", "test"),
        "mismatched": ("cosine_raw_mismatched", "test"),
        "unrelated": ("cosine_raw", "unrelated"),
    },
}
LINE_STYLES = {"paired": "-", "mismatched": "--", "unrelated": ":"}


CAPTIONS = {
    "alignment": (
        "Retrieval and cosine by layer",
        "Solid: rote and test states of the same subject. Dashed: of different subjects. Dotted: of the "
        "same subject, at an unrelated prompt.",
        "A solid line that does not leave the dotted one reads the subject's name, not the relation's "
        "meaning. Raw cosine is high for any two states.",
    )
}


def panel_data(table):
    """The lines drawn, one row a checkpoint and site; held-out subjects (all where they were not split).

    panel: retrieval | centred | raw; side: bound | unbound; line: paired (rote and test prompts about the
    same subject), mismatched (about different subjects), unrelated (the same subject, an unrelated prompt).
    Raises NothingToDraw.
    """
    import pandas as pd

    parts = []
    for side in SIDES:
        for panel, lines in SOURCES.items():
            for line, (measure, family) in lines.items():
                rows = pick(
                    table,
                    measure=measure,
                    family=family,
                    relation=side,
                    split=headline_split(table),
                )
                if rows.value.notna().any():
                    parts.append(
                        rows.assign(panel=panel, side=side, line=line).reindex(columns=COLUMNS)
                    )
    return require_rows(
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(),
        "alignment",
        "retrieval_top1 and cosines of bound or unbound relations, family test",
    )


def picture(data):
    """The figure of panel_data: a row a measure, bound relations left, unbound right in thin lines."""
    from matplotlib.lines import Line2D

    rows = [name for name in ROWS if name in set(data.panel)]
    sides = [side for side in SIDES if side in set(data.side)]
    sites = site_names(data)
    shown = stages(data)
    split = headline_split(data)
    of = count_words(data, f"{split} subjects" if split != "all" else "subjects")
    figure, grid = panels(
        len(rows),
        len(sides),
        height=2.25 * len(rows) + 1.2,
        sharex=True,
        sharey="row",
        title=f"Rote and test states of the same subject ({of})",
    )
    for line_of_axes, name in zip(grid, rows, strict=True):
        title, unit = ROWS[name]
        line_of_axes[0].set_ylabel(unit)
        for axes, side in zip(line_of_axes, sides, strict=True):
            some = pick(data, panel=name, side=side)
            level = some.chance.mean() if name == "retrieval" else 0.0
            if level == level:
                reference_line(axes, level)
            width = 1.9 if side == "bound" else 1.0
            for stage in shown:
                for kind, line in some[some.checkpoint == stage.checkpoint].groupby(
                    "line", sort=False
                ):
                    main = kind == "paired"
                    layer_line(
                        axes,
                        line,
                        max(sites) + 1,
                        stage.colour,
                        style=LINE_STYLES[kind],
                        width=width if main else width * 0.75,
                        band=main,
                    )
            heading = title if side == sides[0] else " "
            axes.set_title(f"{heading}\n{side} relations")
            site_axis(axes, sites)
            if name == "retrieval":
                axes.set_ylim(bottom=0)
    for axes in grid[-1]:
        axes.set_xlabel(SITE_LABEL)
    styles = [
        Line2D([], [], color="black", linewidth=1.4, linestyle=LINE_STYLES[kind], label=label)
        for kind, label in (
            ("paired", "same subject, test prompt"),
            ("mismatched", "another subject, test prompt"),
            ("unrelated", "same subject, unrelated prompt"),
        )
    ]
    legend_below(figure, shown, [interval_handle(), reference_handle("chance, or 0"), *styles])
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "alignment"))
    with styled():
        return {"alignment": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
