"""Several seeds of one recipe: recall by prompt family, and the inner measures by layer, mean and interval over seeds.

    python -m figures.seeds results/headline

Reads tables/recall.csv and seeds.csv (and sites.csv where it was made) of a summary by `analysis.seeds`; writes
figures/recall.png and figures/layers.png, and .svg.
"""

from pathlib import Path

from figures.recall import LABELS
from figures.style import (
    SIDES,
    SITE_LABEL,
    STAGES,
    Stage,
    drawer,
    in_order,
    layer_line,
    legend_below,
    panels,
    reference_handle,
    reference_line,
    require_rows,
    run_figure,
    site_axis,
    site_names,
    styled,
)
from training.runs.table_files import optional_table, pick, read_table

WITHOUT = ("without phase 1", "#009E73")
# Of a model that has only to read: answers that were told in context.
TOLD = {"told by rote": "#CC79A7", "told in a train prompt": "#56B4E9"}
LAYERS = {
    "probe transfer, rote to test": {
        "measure": "transfer_accuracy",
        "direction": "rote->semantic",
        "family": "test",
    },
    "crossed contrast of CKA": {"measure": "contrast", "family": "test"},
    "the same, answer partialled out": {"measure": "contrast_partialled", "family": "test"},
    "object kernel, own object": {
        "measure": "object_kernel",
        "family": "test",
        "object_relation": "same",
    },
    "CKA, rote and test": {"measure": "cka", "family": "test"},
    "centred cosine, rote and test": {"measure": "cosine_centred", "family": "test"},
    "retrieval of the rote state": {"measure": "retrieval_top1", "family": "test"},
    "CKA, rote and unrelated": {"measure": "cka", "family": "unrelated"},
}
CAPTIONS = {
    "recall": (
        "Recall over seeds",
        "Points: mean over seeds with its 95% t interval; small dots: the seeds. Held-out people only.",
        "Three seeds give an interval and no claim of significance.",
    ),
    "layers": (
        "Inside the model, over seeds",
        "Mean over seeds with its 95% t interval, by layer, test prompts about held-out people.",
        "CKA, cosine and retrieval mostly say that two prompts name one person: see them at unrelated prompts.",
    ),
}


def conditions(table) -> list[Stage]:
    """Base, memorized, generalized, the control without phase 1 and answers told in context, as far as they are there."""
    phases = pick(table, condition="two phases").phase
    found = [Stage("two phases", phase, *STAGES[phase]) for phase in STAGES if phase in set(phases)]
    if WITHOUT[0] in set(table.condition):
        found.append(Stage(WITHOUT[0], "generalize", *WITHOUT))
    for name, colour in TOLD.items():
        phases = dict.fromkeys(pick(table, condition=name).phase)
        found += [Stage(name, phase, f"{STAGES[phase][0]}, {name}", colour) for phase in phases]
    return found


def panel_data(table, seeds):
    """(means, dots): strict generation about held-out people, all prompts of a family. Raises NothingToDraw."""
    wanted = {"measure": "generation", "subset": "all", "split": "held-out", "relation": SIDES}
    means = require_rows(pick(table, **wanted), "recall", "measure generation, held-out people")
    return means, pick(seeds, **wanted)


def picture(means, dots):
    """Recall: a panel a side, families side by side."""
    families = in_order(means.family)
    shown = conditions(means)
    n = int(means.n_seeds.max())
    figure, grid = panels(
        1,
        len(SIDES),
        height=4.0,
        sharey=True,
        title=f"Recall of held-out people's facts ({n} seeds, greedy, strict)",
    )
    for axes, side in zip(grid[0], SIDES, strict=True):
        for place, stage in enumerate(shown):
            offset = (place - (len(shown) - 1) / 2) * 0.7 / len(shown)
            rows = pick(means, relation=side, condition=stage.checkpoint, phase=stage.phase)
            for row in rows.itertuples():
                x = families.index(row.family) + offset
                axes.vlines(x, max(row.low, 0), min(row.high, 1), color=stage.colour, linewidth=1.3)
                axes.plot([x], [row.value], "o", color=stage.colour, markersize=6)
            each = pick(dots, relation=side, condition=stage.checkpoint, phase=stage.phase)
            x = [families.index(f) + offset + 0.06 for f in each.family]
            axes.plot(x, each.value, ".", color=stage.colour, markersize=4, alpha=0.6)
        asked = pick(means, relation=side, family="test")
        reference_line(axes, (asked if len(asked) else pick(means, relation=side)).majority.max())
        axes.set_xticks(range(len(families)), [LABELS.get(f, f) for f in families])
        axes.set_ylim(-0.035, 1.04)
        axes.grid(axis="x", visible=False)
        meaning = (
            "phase 2 gave them a meaning"
            if side == "bound"
            else "memorised only, never given a meaning"
        )
        axes.set_title(
            f"{side} relations: {meaning}"
            if "generalize" in set(means.phase)
            else f"{side} relations"
        )
    grid[0, 0].set_ylabel("accuracy")
    legend_below(figure, shown, [reference_handle("always the commonest object")])
    return figure


def layer_data(table):
    """Rows of sites.csv that are drawn, with the panel each belongs to. Raises NothingToDraw."""
    import pandas as pd

    rows = pick(table, condition="two phases", split="held-out", relation=SIDES)
    parts = [pick(rows, **wanted).assign(panel=panel) for panel, wanted in LAYERS.items()]
    return require_rows(pd.concat(parts, ignore_index=True), "sites", ", ".join(LAYERS))


def layers_picture(data):
    """A panel a measure; solid: bound relations, dotted: unbound ones."""
    from matplotlib.lines import Line2D

    names = [name for name in LAYERS if (data.panel == name).any()]
    sites = site_names(data)
    shown = conditions(data)
    columns = 2
    figure, grid = panels(
        -(-len(names) // columns),
        columns,
        height=2.1 * -(-len(names) // columns) + 1.0,
        sharex=True,
        title=f"Inside the model, {int(data.n_seeds.max())} seeds, held-out people",
    )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        rows = pick(data, panel=name)
        for stage in shown:
            for side, style in zip(SIDES, ("-", ":"), strict=True):
                line = pick(rows, phase=stage.phase, relation=side)
                if len(line):
                    layer_line(
                        axes,
                        line,
                        max(sites) + 1,
                        stage.colour,
                        style=style,
                        width=1.5,
                        band=side == "bound",
                    )
        if "chance" in rows and rows.chance.notna().any():
            reference_line(axes, rows.chance.mean())
        axes.set_title(name)
        site_axis(axes, sites)
    for axes in grid[-1]:
        axes.set_xlabel(SITE_LABEL)
    sides = [
        Line2D([], [], color="black", linestyle=style, label=f"{side} relations")
        for side, style in zip(SIDES, ("-", ":"), strict=True)
    ]
    legend_below(figure, shown, sides)
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    with styled():
        found = {
            "recall": picture(
                *panel_data(read_table(run_dir, "recall"), read_table(run_dir, "seeds"))
            )
        }
        sites = optional_table(run_dir, "sites")
        if sites is not None:
            found["layers"] = layers_picture(layer_data(sites))
        return found


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
