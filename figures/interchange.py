"""Interchange by layer: where a patch moves the relation, and where it moves a finished answer.

    python -m figures.interchange runs/demo

Reads tables/interchange.csv, writes figures/interchange.png and interchange_vectors.png, and .svg of both.
"""

from contextlib import suppress
from pathlib import Path

from figures.style import (
    SIDES,
    NothingToDraw,
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
    "direction",
    "position",
    "vector",
    "side",
    "outcome",
    "checkpoint",
    "phase",
    "epoch",
    "layer",
    "site",
    "value",
    "low",
    "high",
    "chance",
    "decodable",
    "n",
    "n_trials",
    "split",
]
DIRECTIONS = {
    "rote->semantic": "rote state\nin a test prompt",
    "semantic->rote": "test-prompt state\nin a rote prompt",
    "semantic->semantic": "test-prompt state\nin a test prompt",
}
POSITIONS = {
    "last": "last token",
    "subject_last": "last token of the subject",
    "relation_last": "key token / last word of the relation",
}
TARGETS = {
    "bare": "added to a bare name",
    "test": "added to a test prompt",
    "rote": "added to a rote prompt",
}
STYLES = {"own": "-", "wrong": "--", "random": ":"}

CAPTIONS = {
    "interchange": (
        "Interchange of states between prompts",
        "The state of a prompt about one subject and relation replaces that of a prompt about another subject and "
        "relation. Solid: the answer is the target's subject with the source's relation, so the relation was moved; "
        "dotted: the source's whole answer was moved; dashed: the relation of a source that phase 2 never gave a "
        "meaning (last checkpoint). From the vertical line on, the answer can be read off the states (logit lens).",
        "A finished answer can always be moved late. Replacing the last token of a test prompt by a key token at the "
        "first sites only writes the key token there: compare with the memorized model.",
    ),
    "interchange_vectors": (
        "Relation vectors",
        "The key-token state of a relation, averaged over other subjects, minus that of the relation asked (of bare "
        "names), is added to the last token. Solid: share answered with the vector's relation; dashed: the vector of "
        "a wrong relation; dotted: a random direction of the same length.",
        "At rote prompts the vector is at home: the ceiling, not a transfer.",
    ),
}


def panel_data(table):
    """The lines drawn, one row a checkpoint and site, held-out subjects (all where they were not split).

    layer: place among the sites that were patched; decodable: the place from which on the answer can be read, NaN
    for none. vector: "state" for interchange, else own | wrong | random. Raises NothingToDraw.
    """
    shares = pick(
        table,
        measure="share",
        split=headline_split(table),
        relation=SIDES,
        outcome=("relation", "answer"),
    )
    rows = require_rows(shares[shares.layer >= 0], "interchange", "measure share")
    layers = sorted(set(rows.layer))
    place = {layer: index for index, layer in enumerate(layers)}
    decodable = rows.decodable_layer.map(
        lambda end: end if end != end else sum(layer < end for layer in layers)
    )
    return rows.assign(
        side=rows.relation, layer=rows.layer.map(place), decodable=decodable
    ).reindex(columns=COLUMNS)


def picture(data):
    """The figure of panel_data: a row a direction, a column a position."""
    from matplotlib.lines import Line2D

    rows = require_rows(pick(data, vector="state"), "interchange", "vector state")
    shown, sites = stages(rows), site_names(rows)
    figure, grid = panels(
        len(DIRECTIONS),
        len(POSITIONS),
        height=6.6,
        sharex=True,
        sharey=True,
        title=f"What a patch moves ({count_words(pick(rows, side='bound'), 'pairs of subjects')})",
    )
    for axes_row, (direction, words) in zip(grid, DIRECTIONS.items(), strict=True):
        axes_row[0].set_ylabel(f"{words}\nshare of answers", fontsize=8.5)
        for axes, (position, title) in zip(axes_row, POSITIONS.items(), strict=True):
            _panel(axes, pick(rows, direction=direction, position=position), shown, sites)
            if direction == next(iter(DIRECTIONS)):
                axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("after block")
    unbound = [
        Line2D(
            [],
            [],
            color="black",
            linewidth=1.1,
            linestyle="--",
            label="relation of an unbound source",
        )
    ]
    legend_below(
        figure,
        shown,
        [
            Line2D([], [], color="black", linewidth=1.8, label="relation moved"),
            Line2D([], [], color="black", linewidth=1.1, linestyle=":", label="answer moved"),
            *(unbound if len(pick(rows, side="unbound")) else []),
            interval_handle(),
            reference_handle("chance"),
            Line2D([], [], color="black", linewidth=0.8, label="answer decodable from here"),
        ],
    )
    return figure


def _panel(axes, rows, shown, sites: dict[int, str]) -> None:
    count = max(sites) + 1
    moved = pick(rows, outcome="relation")
    if moved.chance.notna().any():
        reference_line(axes, moved.chance.mean())
    for stage in shown:
        here = pick(rows, checkpoint=stage.checkpoint, side="bound")
        layer_line(axes, pick(here, outcome="relation"), count, stage.colour)
        layer_line(
            axes,
            pick(here, outcome="answer"),
            count,
            stage.colour,
            style=":",
            width=1.1,
            band=False,
        )
        end = here.decodable.dropna()
        if len(end):
            axes.axvline(end.iloc[0], color=stage.colour, linewidth=0.8)
    last = pick(moved, checkpoint=shown[-1].checkpoint, side="unbound")
    if len(last):
        layer_line(axes, last, count, shown[-1].colour, style="--", width=1.1, band=False)
    axes.set_ylim(-0.02, 1.02)
    site_axis(axes, sites, most=5)


def vector_picture(data):
    """The figure of relation vectors: a column a kind of target prompt. Raises NothingToDraw."""
    from matplotlib.lines import Line2D

    rows = require_rows(
        pick(data, vector=tuple(STYLES), outcome="relation"),
        "interchange",
        "vector own, wrong or random",
    )
    shown, sites = stages(rows), site_names(rows)
    figure, grid = panels(
        1,
        len(TARGETS),
        height=3.2,
        sharex=True,
        sharey=True,
        title=f"Relation vectors on subjects they were not made from ({count_words(rows, 'subjects')})",
    )
    grid[0][0].set_ylabel("share answered with the\nvector's relation")
    for axes, (target, title) in zip(grid[0], TARGETS.items(), strict=True):
        axes.set_title(title)
        here = pick(rows, direction=f"vector->{target}")
        if here.chance.notna().any():
            reference_line(axes, here.chance.mean())
        for stage in shown:
            for vector, style in STYLES.items():
                line = pick(here, checkpoint=stage.checkpoint, vector=vector)
                main = vector == "own"
                if len(line):
                    width = 1.8 if main else 1.1
                    layer_line(
                        axes,
                        line,
                        max(sites) + 1,
                        stage.colour,
                        style=style,
                        width=width,
                        band=main,
                    )
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("after block")
        site_axis(axes, sites, most=5)
    kinds = {
        "own": "relation vector",
        "wrong": "vector of a wrong relation",
        "random": "random, same length",
    }
    handles = [
        Line2D([], [], color="black", linestyle=STYLES[k], linewidth=1.4, label=w)
        for k, w in kinds.items()
    ]
    legend_below(figure, shown, [*handles, interval_handle(), reference_handle("chance")])
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "interchange"))
    with styled():
        drawn = {"interchange": picture(data)}
        # With fewer than three relations there is no wrong relation, so no vectors were added.
        with suppress(NothingToDraw):
            drawn["interchange_vectors"] = vector_picture(data)
    return drawn


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
