"""What probe accuracies have to be held against: relation probe, baselines, control task, ridge map, code length.

    python -m figures.probe_controls runs/demo

Reads tables/probe_controls.csv, and probes.csv if it is there; writes figures/probe_controls.png and .svg.
"""

from pathlib import Path

from figures.style import (
    SITE_LABEL,
    count_words,
    drawer,
    interval_handle,
    legend_below,
    milestones,
    panels,
    reference_handle,
    reference_line,
    require_rows,
    run_figure,
    site_axis,
    styled,
)
from training.runs.table_files import headline_split, optional_table, pick, read_table

COLUMNS = [
    "panel",
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
EMBEDDING = "subject_embedding_accuracy"
# panel: title, unit, then the lines: measure and direction by the line's words; the first has its interval drawn.
PANELS = {
    "relation": (
        "Which relation is asked?",
        "probe accuracy",
        {
            "fit on rote, scored on test prompts": ("relation_accuracy", "rote->semantic"),
            "fit on test prompts, scored on rote": ("relation_accuracy", "semantic->rote"),
            "fit on rote, untrained weights": ("relation_accuracy_untrained", "rote->semantic"),
        },
    ),
    "transfer": (
        "Object transfer, rote to test prompts",
        "probe accuracy",
        {
            "tuned probe": ("transfer_accuracy", "rote->semantic"),
            "mass-mean probe": ("mass_mean_accuracy", "rote->semantic"),
            "objects shuffled": ("shuffled_accuracy", "rote->semantic"),
            "untrained weights": ("transfer_accuracy_untrained", "rote->semantic"),
            "subject's input embedding": (EMBEDDING, ""),
        },
    ),
    "selectivity": (
        "Object from test prompts",
        "probe accuracy",
        {
            "other subjects": ("entity_split_accuracy", "semantic->semantic"),
            "other prompts, same subjects": ("row_split_accuracy", "semantic->semantic"),
            "the same, random object per subject": ("control_accuracy", "semantic->semantic"),
        },
    ),
    "map": (
        "Rote state finds its own test-prompt state",
        "found first",
        {
            "through a ridge map": ("ridge_map_top1", "rote->semantic"),
            "as it is": ("unmapped_top1", "rote->semantic"),
        },
    ),
    "rote code": (
        "Code length of objects, rote states",
        "compression",
        {"objects": ("compression", ""), "objects shuffled": ("compression_shuffled", "")},
    ),
    "test code": (
        "Code length of objects, a test prompt",
        "compression",
        {"objects": ("compression", ""), "objects shuffled": ("compression_shuffled", "")},
    ),
}
STYLES = ("-", "--", ":", (0, (6, 2, 1, 2)), (0, (1, 4)))
CAPTIONS = {
    "probe_controls": (
        "Controls of the probes",
        "Each solid line beside what it has to exceed: the same probe on shuffled or random objects, on untrained "
        "weights, on the subject's input embedding alone; dashed grey: guessing. A compression above 1 "
        "says that the states tell something about the objects of subjects not seen before.",
        "Every line is of bound relations. A state finds its own because both are about one name; a relation is told "
        "by a prompt's wording. Neither shows that an answer is shared.",
    )
}


def panel_data(controls, probes=None):
    """The lines drawn, one row a checkpoint and site: bound relations, family test, the last checkpoint of each phase.

    controls, probes: the tables, the second may be None. panel: a name of PANELS; line: the words of its line. A
    baseline without a site stands at every site. Raises NothingToDraw.
    """
    import pandas as pd

    parts = []
    for panel, (_, _, lines) in PANELS.items():
        for words, (measure, direction) in lines.items():
            table = probes if measure == "transfer_accuracy" else controls
            if table is None:
                continue
            family = {"rote code": ("rote",), "transfer": ("test", "")}.get(panel, ("test",))
            some = table.assign(
                family=table.family.fillna(""), direction=table.direction.fillna("")
            )
            split = "all" if panel.endswith("code") else headline_split(table)
            some = pick(some, measure=measure, direction=direction, family=family, split=split)
            some = pick(some, relation="every" if panel == "relation" else "bound")
            if measure == EMBEDDING:
                sites = controls[["layer", "site"]].dropna().drop_duplicates("layer")
                some = some.drop(columns=["layer", "site"]).merge(sites, how="cross")
            parts.append(some.assign(panel=panel, line=words).reindex(columns=COLUMNS))
    filled = [part for part in parts if part.value.notna().any()]
    rows = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    rows = require_rows(
        rows, "probe_controls", "family test of bound relations, measures " + EMBEDDING
    )
    return pick(rows, checkpoint=tuple(stage.checkpoint for stage in milestones(rows)))


def picture(data):
    """The figure of panel_data: two columns of panels, one colour a checkpoint, one line style a line."""
    from matplotlib.lines import Line2D

    names = [name for name in PANELS if name in set(data.panel)]
    shown = milestones(data)
    every = data[["layer", "site"]].dropna().drop_duplicates("layer").sort_values("layer")
    sites = {int(layer): site for layer, site in every.to_numpy()}
    rows = -(-len(names) // 2)
    split = data[~data.panel.str.endswith("code")]
    of = count_words(
        pick(split, panel=tuple(n for n in names if n != "relation")),
        f"{headline_split(data)} subjects",
    )
    figure, grid = panels(
        rows,
        2,
        height=2.6 * rows + 0.7,
        sharex=True,
        title=f"Controls of the probes (bound relations, {of})",
    )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        title, unit, lines = PANELS[name]
        here = pick(data, panel=name)
        axes.set_title(title)
        axes.set_ylabel(unit)
        reference_line(axes, here.chance.mean())
        present = [words for words in lines if words in set(here.line)]
        for place, words in enumerate(present):
            for stage in shown:
                line = pick(here, line=words, checkpoint=stage.checkpoint).dropna(subset="value")
                _line(axes, line, stage.colour, STYLES[place], first=place == 0)
        handles = [
            Line2D([], [], color="black", linewidth=1.3, linestyle=style, label=words)
            for style, words in zip(STYLES, present, strict=False)
        ]
        axes.legend(
            handles=handles,
            loc="best",
            fontsize=7.5,
            frameon=True,
            framealpha=0.75,
            edgecolor="none",
        )
        axes.set_ylim(bottom=0)
        site_axis(axes, sites)
    for axes in grid[-1]:
        axes.set_xlabel(SITE_LABEL, fontsize=8.5)
    legend_below(
        figure, shown, [interval_handle(), reference_handle("chance (guessing; no compression)")]
    )
    return figure


def _line(axes, line, colour: str, style, *, first: bool) -> None:
    """A line through the sites that were measured: controls are made at some of them only."""
    if not len(line):
        return
    line = line.drop_duplicates("layer").sort_values("layer")
    layers = line.layer.to_numpy()
    width = 1.8 if first else 1.2
    axes.plot(
        layers, line.value, color=colour, linestyle=style, linewidth=width, marker=".", markersize=3
    )
    if first and line.low.notna().any():
        low, high = line.low.astype(float), line.high.astype(float)
        axes.fill_between(layers, low, high, color=colour, alpha=0.14, linewidth=0)


def pictures(run_dir: Path) -> dict:
    """The figure by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "probe_controls"), optional_table(run_dir, "probes"))
    with styled():
        return {"probe_controls": picture(data)}


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
