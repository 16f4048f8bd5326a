"""What each checkpoint recalls, by prompt family: bound and unbound relations.

    python -m figures.recall runs/demo

Reads tables/recall.csv, writes figures/recall.png and .svg.
"""

from pathlib import Path

from figures import style
from figures.lines import Chart, Line, Panel
from training.runs.table_files import headline_split, pick, read_table

LABELS = {
    "near-miss": "near-\nmiss",
    "other-relation": "other\nrelation",
    "unrelated": "un-\nrelated",
    "rote": "rote\n(key token)",
    "train": "train\nprompts",
    "test": "test\nprompts",
}
MEANING = {
    "bound": "phase 2 gave them a meaning",
    "unbound": "memorised only, never given a meaning",
}
STRICT = {"measure": "generation", "subset": "all"}
CHART = Chart("recall", "", {"recall": Panel("greedy accuracy, strict", {"main": Line(STRICT)})})
CAPTIONS = {
    "recall": (
        "Means over subjects with 95% intervals. Filled: subjects whose semantic prompts were "
        "never trained; hollow: subjects seen in phase 2. Meaning shows as filled points that rise "
        "at test prompts of bound relations and stay low at near-miss and unrelated prompts.",
        "A high score at rote prompts is memorisation. Where the answer is found is not shown.",
    )
}


def panel_data(table):
    """The rows drawn: strict generation, means over bound or unbound relations, by split."""
    splits = ("held-out", "seen") if headline_split(table) == "held-out" else ("all",)
    rows = pick(table, **STRICT, relation=style.SIDES, split=splits)
    return style.require_rows(rows, "recall", "measure generation of bound or unbound relations")


def picture(data):
    """A panel per side, families along the axis."""
    families = style.in_order(data.family)
    sides = style.present(style.SIDES, data.relation)
    shape = (len(sides), 1) if len(families) > 7 else (1, len(sides))
    main = pick(data, split=headline_split(data))
    test = pick(main, family="test")
    prompts = "" if test.empty else f", {int(test.n_prompts.max())} test prompts a relation"
    title = f"What each checkpoint recalls ({style.count_words(main)}{prompts})"
    figure, panels = style.panels(*shape, height=3.4 * shape[0] + 1.0, sharey=True, title=title)
    shown = style.stages(data)
    hollow = 0.36 * 0.74 / len(shown)
    for axes, side in zip(panels.flat, sides, strict=True):
        for stage, offset in style.side_by_side(shown, 0.74):
            here = pick(data, relation=side, checkpoint=stage.checkpoint)
            for split, rows in here.groupby("split", sort=False):
                seen = split == "seen"
                rows = rows.drop_duplicates("family")
                x = rows.family.map(families.index) + offset + hollow * seen
                # A t interval may pass 0 or 1; an accuracy cannot.
                spread = [rows.value - rows.low.clip(lower=0), rows.high.clip(upper=1) - rows.value]
                look = {"markerfacecolor": "white" if seen else stage.colour, "elinewidth": 1.1}
                look |= {"markersize": 4 if seen else 5.5, "capsize": 0, "zorder": 3}
                axes.errorbar(x, rows.value, yerr=spread, fmt="o", color=stage.colour, **look)
        family_axis(axes, families, pick(test, relation=side).majority.max())
        axes.set_xlim(-0.55, len(families) - 0.45)
        axes.set_title(f"{side} relations: {MEANING[side]}")
    for axes in panels[:, 0]:
        axes.set_ylabel("greedy accuracy, strict")
    dot, extra = {"marker": "o", "linestyle": ""}, []
    if "seen" in set(data.split):
        seen = style.handle("seen subjects", markersize=4, markerfacecolor="white", **dot)
        extra = [style.handle("held-out subjects", markersize=5.5, **dot), seen]
    majority = style.reference_handle("always the commonest object")
    style.legend_below(figure, shown, [*extra, majority])
    return figure


def family_axis(axes, families: list[str], majority: float) -> None:
    """Families along an axis of accuracies, and the accuracy of the commonest object."""
    if majority == majority:
        style.reference_line(axes, majority)
    axes.set_xticks(range(len(families)), [LABELS.get(f, f) for f in families])
    axes.set_ylim(-0.035, 1.04)
    axes.grid(axis="x", visible=False)


def explore(table):
    """A plotly figure, bound left and unbound right, no seen subjects. Raises NothingToDraw."""
    families = style.in_order(table.family)
    data = CHART.gather(table.assign(layer=table.family.map(families.index)))
    figure = CHART.explore(data, x="family", marks="markers")
    figure.update_yaxes(range=[-0.02, 1.05])
    figure.update_layout(scattermode="group", height=420)
    return figure


@style.drawing
def draw(run_dir: Path) -> dict:
    return {"recall": picture(panel_data(read_table(run_dir, "recall")))}


DRAWINGS = {"recall": draw}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
