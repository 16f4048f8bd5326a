"""The same prompts at two checkpoints, by layer: where did training change the model?

    python -m figures.cka_checkpoints runs/demo

Reads tables/cka_checkpoints.csv, writes figures/cka_checkpoints.png and .svg.
"""

from pathlib import Path

from figures.style import (
    count_words,
    drawer,
    in_order,
    layer_line,
    milestones,
    panels,
    reference_line,
    require_rows,
    run_figure,
    site_axis,
    site_names,
    stages,
    styled,
)
from training.runs.table_files import headline_split, pick, read_table

SHOWN = ("rote", "train", "test", "near-miss", "unrelated")
MEASURES = {
    "cka_checkpoints": "debiased CKA",
    "cka_checkpoints_without_5_pcs": "the same without\n5 components a side",
}
PAIR_COLOURS = ("#0072B2", "#E66100", "#009E73", "#CC79A7", "#6f6f6f", "#56B4E9")
COLUMNS = [
    "measure",
    "family",
    "pair",
    "checkpoint",
    "checkpoint_y",
    "layer",
    "site",
    "value",
    "low",
    "high",
    "n",
    "split",
]
CAPTIONS = {
    "cka_checkpoints": (
        "The same prompts at two checkpoints",
        "Similarity of a family's states before and after a phase, about the same subjects. Where a line falls, training "
        "changed how the subjects lie to each other; the unrelated prompts show what drifted for no reason of meaning.",
        "CKA does not see a rotation or a scaling of all states together, and one massive feature can hold it near 1: "
        "the lower row is without the five largest components.",
    )
}


def panel_data(table):
    """The lines drawn: pairs of milestones (the last checkpoint of each phase), bound relations, headline split.

    pair: earlier -> later in words. Raises NothingToDraw.
    """
    rows = pick(
        table, split=headline_split(table), relation="bound", family=SHOWN, measure=tuple(MEASURES)
    )
    rows = require_rows(
        rows.dropna(subset="value"), "cka_checkpoints", "bound relations at two milestones"
    )
    label = {stage.checkpoint: stage.label for stage in stages(_both_sides(table))}
    names = tuple(stage.checkpoint for stage in milestones(_both_sides(table)))
    rows = require_rows(
        pick(rows, checkpoint=names, checkpoint_y=names),
        "cka_checkpoints",
        "the last checkpoint of two phases",
    )
    pair = [
        f"{label[a]} → {label[b]}" for a, b in zip(rows.checkpoint_y, rows.checkpoint, strict=True)
    ]
    return rows.assign(pair=pair).reindex(columns=COLUMNS)


def _both_sides(table):
    """Every checkpoint of the table on either side of a pair, with its phase."""
    import pandas as pd

    earlier = table[["checkpoint_y", "phase_y"]].set_axis(["checkpoint", "phase"], axis=1)
    later = table[["checkpoint", "phase"]]
    return pd.concat([earlier, later]).drop_duplicates("checkpoint").sort_values("checkpoint")


def picture(data):
    """The figure of panel_data: a column a family, one line a pair of checkpoints."""
    from matplotlib.lines import Line2D

    families = in_order(data.family)
    measures = [m for m in MEASURES if m in set(data.measure)]
    colours = dict(zip(dict.fromkeys(data.pair), PAIR_COLOURS, strict=False))
    sites = site_names(data)
    split = headline_split(data)
    of = count_words(data, f"{split} subjects" if split != "all" else "subjects")
    figure, grid = panels(
        len(measures),
        len(families),
        height=2.3 * len(measures) + 1.2,
        sharex=True,
        sharey="row",
        title=f"The same prompts at two checkpoints (bound relations, {of})",
    )
    for line_of_axes, measure in zip(grid, measures, strict=True):
        line_of_axes[0].set_ylabel(MEASURES[measure])
        for axes, family in zip(line_of_axes, families, strict=True):
            reference_line(axes, 1)
            for pair, colour in colours.items():
                line = pick(data, measure=measure, family=family, pair=pair)
                if len(line):
                    layer_line(axes, line, max(sites) + 1, colour)
            # Intervals of few subjects are wider than what there is to see.
            axes.set_ylim(min(-0.1, pick(data, measure=measure).value.min() - 0.1), 1.03)
            site_axis(axes, sites, most=4)
            if measure == measures[0]:
                axes.set_title(f"{family} prompts")
    for axes in grid[-1]:
        axes.set_xlabel("after block")
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=pair) for pair, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def pictures(run_dir: Path) -> dict:
    """The figure by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "cka_checkpoints"))
    with styled():
        return {"cka_checkpoints": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
