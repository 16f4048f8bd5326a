"""What each checkpoint recalls, by prompt family: bound relations beside unbound ones.

    python -m figures.recall runs/demo

Reads tables/recall.csv, writes figures/recall.png and .svg.
"""

from pathlib import Path

from figures.style import (
    SIDES,
    count_words,
    drawer,
    in_order,
    legend_below,
    panels,
    plotly_trace,
    reference_handle,
    reference_line,
    require_rows,
    run_figure,
    stages,
    styled,
)
from training.runs.table_files import headline_split, pick, read_table

LABELS = {
    "near-miss": "near-\nmiss",
    "other-relation": "other\nrelation",
    "unrelated": "un-\nrelated",
    "rote": "rote\n(key token)",
    "train": "train\nprompts",
    "test": "test\nprompts",
}


CAPTIONS = {
    "recall": (
        "Recall by prompt family",
        "Points are means over subjects, bars 95% intervals over subjects. Filled: subjects whose semantic "
        "prompts were never trained; hollow: subjects seen in phase 2. Meaning shows as filled points of "
        "the generalized model that rise at test prompts of bound relations and stay low at near-miss and "
        "unrelated prompts.",
        "A high score at rote prompts is memorisation. Nothing here says where in the model the answer is found.",
    )
}


def panel_data(table):
    """The rows drawn: strict generation, all items of a family, means over bound or unbound relations.

    Returns columns checkpoint, phase, epoch, relation (bound|unbound), family, split, value, low, high, n,
    n_prompts, majority; splits held-out and seen, or all where subjects were not split. Raises NothingToDraw.
    """
    splits = ("held-out", "seen") if headline_split(table) == "held-out" else ("all",)
    rows = pick(table, measure="generation", subset="all", relation=SIDES, split=splits)
    columns = [
        "checkpoint",
        "phase",
        "epoch",
        "relation",
        "family",
        "split",
        "value",
        "low",
        "high",
        "n",
        "n_prompts",
        "majority",
    ]
    return require_rows(rows, "recall", "measure generation of bound or unbound relations").reindex(
        columns=columns
    )


def picture(data):
    """The figure of panel_data."""
    from matplotlib.lines import Line2D

    families = in_order(data.family)
    sides = [s for s in SIDES if s in set(data.relation)]
    stacked = len(families) > 7
    shape = (len(sides), 1) if stacked else (1, len(sides))
    main = headline_split(data)
    test = pick(data, family="test", split=main)
    of = count_words(pick(data, split=main), f"{main} subjects" if main != "all" else "subjects")
    prompts = "" if test.empty else f", {int(test.n_prompts.max())} test prompts a relation"
    figure, grid = panels(
        *shape,
        height=3.4 * shape[0] + 1.0,
        sharey=True,
        title=f"What each checkpoint recalls ({of}{prompts})",
    )
    shown = stages(data)
    step = 0.74 / len(shown)
    for axes, side in zip(grid.flat, sides, strict=True):
        for place, stage in enumerate(shown):
            for split in dict.fromkeys(data.split):
                rows = (
                    pick(data, relation=side, checkpoint=stage.checkpoint, split=split)
                    .drop_duplicates("family")
                    .set_index("family")
                )
                rows = rows.reindex(families)
                seen = split == "seen"
                x = [
                    i + (place - (len(shown) - 1) / 2) * step + (0.36 * step if seen else 0)
                    for i in range(len(families))
                ]
                # A t interval may pass 0 or 1; an accuracy cannot.
                spread = [rows.value - rows.low.clip(lower=0), rows.high.clip(upper=1) - rows.value]
                axes.errorbar(
                    x,
                    rows.value,
                    yerr=spread,
                    fmt="o",
                    color=stage.colour,
                    markersize=4 if seen else 5.5,
                    markerfacecolor="white" if seen else stage.colour,
                    elinewidth=1.1,
                    capsize=0,
                    zorder=3,
                )
        majority = pick(test, relation=side).majority.max()
        if majority == majority:
            reference_line(axes, majority)
        axes.set_xticks(range(len(families)), [LABELS.get(f, f) for f in families])
        axes.set_xlim(-0.55, len(families) - 0.45)
        axes.set_ylim(-0.035, 1.04)
        axes.grid(axis="x", visible=False)
        meaning = (
            "phase 2 gave them a meaning"
            if side == "bound"
            else "memorised only, never given a meaning"
        )
        axes.set_title(f"{side} relations: {meaning}")
    for axes in grid[:, 0]:
        axes.set_ylabel("greedy accuracy, strict")
    extra = []
    if "seen" in set(data.split):
        extra = [
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                color="black",
                markersize=5.5,
                label="held-out subjects",
            ),
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                color="black",
                markerfacecolor="white",
                markersize=4,
                label="seen subjects",
            ),
        ]
    legend_below(figure, shown, [*extra, reference_handle("always the commonest object")])
    return figure


def interactive(table):
    """A plotly figure of panel_data without the seen subjects: bound left, unbound right."""
    from plotly.subplots import make_subplots

    data = panel_data(table)
    data = pick(data, split=headline_split(data))
    sides = [side for side in SIDES if side in set(data.relation)]
    families = in_order(data.family)
    figure = make_subplots(
        1, len(sides), shared_yaxes=True, subplot_titles=[f"{side} relations" for side in sides]
    )
    for stage in stages(data):
        for column, side in enumerate(sides, start=1):
            rows = pick(data, relation=side, checkpoint=stage.checkpoint).drop_duplicates("family")
            rows = rows.set_index("family").reindex(families)
            plotly_trace(figure, rows, families, stage, 1, column, marks="markers")
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_yaxes(title_text="greedy accuracy, strict", col=1)
    figure.update_layout(
        scattermode="group", height=420, template="plotly_white", margin={"l": 60, "r": 10, "t": 40}
    )
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "recall"))
    with styled():
        return {"recall": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
