"""By layer: probe transfer first, then crossed contrast, CKA and object kernel; and layer x layer maps.

    python -m figures.cka runs/demo

Reads tables/cka.csv, and probes.csv and cka_grid.csv if they are there; writes figures/cka.png and .svg and
figures/cka_maps.png and .svg.
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
    milestones,
    null_band,
    null_handle,
    panels,
    plotly_trace,
    reference_handle,
    reference_line,
    require_rows,
    run_figure,
    site_axis,
    site_names,
    stages,
    styled,
)
from training.runs.table_files import headline_split, optional_table, pick, read_table

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
    "null_low",
    "null_high",
    "null_p_max",
    "n",
    "split",
]
# In the order of what they prove: similarity of states is not yet a shared meaning.
ROWS = {
    "transfer": (
        "1. Object probe fit on rote states, scored on test-prompt states of other subjects",
        "probe accuracy",
    ),
    "contrast": ("2. Crossed contrast: own minus other relation", "difference of CKA"),
    "cka": ("3. CKA of rote and test states", "debiased CKA"),
    "object_kernel": ("4. Do test states carry the object?", "debiased CKA with\none-hot objects"),
}
NOTES = {
    ("contrast", "bound"): "dashed: shared answers partialled out",
    ("contrast", "unbound"): "2 x 2 interaction with the bound ones",
    ("cka", "bound"): "dotted: rote and unrelated prompts",
    ("object_kernel", "bound"): "solid: own object; dashed: another relation's",
}
LINE_STYLES = {"partialled": "--", "unrelated": ":", "other": (0, (4, 2))}


CAPTIONS = {
    "cka": (
        "Transfer, contrast, CKA and object kernel by layer",
        "Read from the top. Row 1: a probe that names the object, fit on rote states of some subjects, "
        "scored on test-prompt states of others; above chance only if both kinds of state share one code of "
        "the answer. Row 2: similarity of rote states to prompts of their own relation minus that to other "
        "relations' prompts. Row 3: the raw similarity, dotted at unrelated prompts. Row 4: how much of the "
        "states' geometry is the object's.",
        "Row 3 alone proves nothing: both states are about the same subject, so they are alike in the base "
        "model too. CKA ignores rotation, so two unrelated codes of one answer also give a contrast; the "
        "dashed line takes shared answers out. None of this is causal.",
    ),
    "cka_maps": (
        "Similarity of every pair of layers",
        "Up: layer of the rote states; to the right: layer of the test-prompt states; one colour scale for "
        "all checkpoints. The ring marks the best pair.",
        "The best of hundreds of pairs is high by selection; only a p corrected for that choice counts. It "
        "is raw CKA, so the shared subject is in it.",
    ),
}


def panel_data(cka, probes=None):
    """The lines drawn, one row a checkpoint and site; family test, held-out subjects or all.

    cka, probes: the tables, either may be None. panel: transfer (direction rote->semantic) | contrast | cka |
    object_kernel; side: bound | unbound; line: main, partialled, unrelated (CKA with unrelated prompts),
    other (another relation's object). The unbound side of `contrast` is the mean interaction of the unbound
    relations. Raises NothingToDraw.
    """
    import pandas as pd

    parts = []

    def take(table, panel: str, side: str, line: str = "main", **wanted) -> None:
        rows = pick(
            table, **{"split": headline_split(table), "family": "test", "relation": side, **wanted}
        )
        parts.append(rows.assign(panel=panel, side=side, line=line).reindex(columns=COLUMNS))

    for side in SIDES:
        if probes is not None:
            take(probes, "transfer", side, measure="transfer_accuracy", direction="rote->semantic")
        if cka is None:
            continue
        if side == "bound":
            take(cka, "contrast", side, measure="contrast")
            take(cka, "contrast", side, "partialled", measure="contrast_partialled")
        else:
            parts.append(_mean_interaction(cka))
        take(cka, "cka", side, measure="cka")
        take(cka, "cka", side, "unrelated", measure="cka", family="unrelated")
        take(cka, "object_kernel", side, measure="object_kernel", object_relation="same")
        take(cka, "object_kernel", side, "other", measure="object_kernel", object_relation="other")
    # A measure without any value (one relation only, unique objects) is left out, not drawn empty.
    filled = [part.dropna(subset="layer") for part in parts if part.value.notna().any()]
    rows = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    return require_rows(rows, "cka", "family test of bound or unbound relations")


def _mean_interaction(cka):
    """Interactions of the unbound relations, averaged; interval and null only if there is just one."""
    rows = pick(cka, split=headline_split(cka), family="test", measure="interaction")
    if rows.relation.nunique() > 1:
        keys = ["checkpoint", "layer"]
        mean = rows.groupby(keys, as_index=False, sort=False).value.mean()
        rows = rows.drop_duplicates(keys)[[*keys, "phase", "epoch", "site", "split", "n"]].merge(
            mean, on=keys
        )
    return rows.assign(panel="contrast", side="unbound", line="main").reindex(columns=COLUMNS)


def picture(data):
    """The figure of panel_data: a row a measure, bound relations left, unbound right in thin lines."""
    rows = [name for name in ROWS if name in set(data.panel)]
    sides = [side for side in SIDES if side in set(data.side)]
    sites = site_names(data)
    shown = stages(data)
    split = headline_split(data)
    of = count_words(data, f"{split} subjects" if split != "all" else "subjects")
    figure, grid = panels(
        len(rows),
        len(sides),
        height=2.25 * len(rows) + 1.1,
        sharex=True,
        sharey="row",
        title=f"From rote to meaning, layer by layer ({of})",
    )
    for line_of_axes, name in zip(grid, rows, strict=True):
        title, unit = ROWS[name]
        line_of_axes[0].set_ylabel(unit)
        for axes, side in zip(line_of_axes, sides, strict=True):
            _panel(
                axes,
                pick(data, panel=name, side=side),
                name,
                shown,
                sites,
                width=1.9 if side == "bound" else 1.0,
            )
            note = NOTES.get((name, side), "")
            heading = title if side == sides[0] else " "
            axes.set_title(f"{heading}\n{side} relations" + (f" ({note})" if note else ""))
            site_axis(axes, sites)
    for axes in grid[-1]:
        axes.set_xlabel(SITE_LABEL)
    legend_below(
        figure, shown, [interval_handle(), reference_handle("chance, or 0"), null_handle()]
    )
    return figure


def _panel(axes, rows, name: str, shown, sites: dict[int, str], width: float) -> None:
    """One panel: null, chance, then a line for each checkpoint and kind."""
    if rows.empty:
        axes.text(
            0.5,
            0.5,
            "not measured",
            transform=axes.transAxes,
            ha="center",
            va="center",
            color="#777777",
        )
        return
    main = rows[rows.line == "main"]
    level = main.chance.mean() if name == "transfer" else 0.0
    if level == level:
        reference_line(axes, level)
    # One band stands for all checkpoints: the widest of their nulls.
    by_layer = main.groupby("layer")
    high = by_layer.null_high.max()
    if high.notna().any():
        low = by_layer.null_low.min()
        if not low.notna().any():
            low = -high if name == "contrast" else high * 0 + level
        null_band(axes, low.reindex(range(max(sites) + 1)), high.reindex(range(max(sites) + 1)))
    for stage in shown:
        for kind, line in rows[rows.checkpoint == stage.checkpoint].groupby("line", sort=False):
            thin = width if kind == "main" else width * 0.75
            layer_line(
                axes,
                line,
                max(sites) + 1,
                stage.colour,
                style=LINE_STYLES.get(kind, "-"),
                width=thin,
                band=kind == "main",
            )
    if name == "transfer":
        axes.set_ylim(bottom=0)


def map_data(grid):
    """Layer x layer maps as {checkpoint: DataFrame (rote layer x test layer)}: CKA of bound relations, family
    test, held-out subjects; the last checkpoint of each phase. Raises NothingToDraw."""
    rows = _map_rows(grid)
    return {
        stage.checkpoint: pick(rows, checkpoint=stage.checkpoint).pivot(
            index="layer", columns="layer_y", values="value"
        )
        for stage in milestones(rows)
    }


def _map_rows(grid):
    rows = pick(grid, measure="cka", relation="bound", family="test", split=headline_split(grid))
    return require_rows(rows, "cka_grid", "measure cka, relation bound, family test")


def maps(grid):
    """The figure of map_data: rote layers up, test layers to the right, one colour scale, the best ringed."""
    matrices, rows = map_data(grid), _map_rows(grid)
    shown = milestones(rows)
    columns = min(len(shown), 3)
    lines = -(-len(shown) // columns)
    split = headline_split(grid)
    of = count_words(rows, f"{split} subjects" if split != "all" else "subjects")
    title = f"CKA of rote and test-prompt states, every pair of layers (bound relations, {of})"
    figure, axes_grid = panels(
        lines, columns, height=0.6 + 3.2 * lines, sharex=True, sharey=True, title=title
    )
    for axes in axes_grid.flat[len(shown) :]:
        axes.set_visible(False)
    scale = (
        {"vmin": min(0.0, rows.value.min()), "vmax": rows.value.max()}
        if rows.value.notna().any()
        else {}
    )
    for axes, stage in zip(axes_grid.flat, shown, strict=False):
        here = pick(rows, checkpoint=stage.checkpoint)
        axes.set_facecolor("#e3e3e3")
        axes.grid(visible=False)
        image = axes.imshow(
            matrices[stage.checkpoint],
            origin="lower",
            cmap="viridis",
            interpolation="nearest",
            **scale,
        )
        site_axis(axes, site_names(rows, "site_y", "layer_y"), most=6)
        site_axis(axes, site_names(rows), which="y", most=6)
        axes.set_xlabel("test side: after block")
        axes.set_title(stage.label, color=stage.colour, fontweight="bold")
        if here.value.notna().any():
            _ring_best(axes, here.loc[here.value.idxmax()])
    for axes in axes_grid[:, 0]:
        axes.set_ylabel("rote side: after block")
    figure.colorbar(
        image, ax=axes_grid, label="debiased CKA (grey: not defined)", shrink=0.85, pad=0.015
    )
    return figure


def _ring_best(axes, best) -> None:
    """Mark a row's pair of layers; print its value and its p corrected for the choice among all pairs."""
    for colour, width in (("white", 2.4), ("black", 1.0)):
        axes.plot(
            best.layer_y,
            best.layer,
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=colour,
            markeredgewidth=width,
            clip_on=False,
        )
    p = best.get("null_p_max", float("nan"))
    axes.set_title(
        f"best {best.value:.2f}" + (f" (p {p:.3f})" if p == p else ""), loc="right", fontsize=9
    )


def interactive(cka, probes=None):
    """A plotly figure of the main lines of panel_data: a row a measure, bound left, unbound right."""
    from plotly.subplots import make_subplots

    data = panel_data(cka, probes)
    data = data[data.line == "main"]
    rows = [name for name in ROWS if name in set(data.panel)]
    sides = [side for side in SIDES if side in set(data.side)]
    titles = [
        f"{ROWS[name][0]} ({side})" if side == sides[0] else side for name in rows for side in sides
    ]
    figure = make_subplots(
        len(rows), len(sides), shared_yaxes=True, subplot_titles=titles, vertical_spacing=0.08
    )
    for stage in stages(data):
        for place, name in enumerate(rows, start=1):
            for column, side in enumerate(sides, start=1):
                line = pick(data, panel=name, side=side, checkpoint=stage.checkpoint).sort_values(
                    "layer"
                )
                if len(line):
                    plotly_trace(
                        figure, line, list(line.site), stage, place, column, marks="lines+markers"
                    )
    for place, name in enumerate(rows, start=1):
        figure.update_yaxes(title_text=ROWS[name][1].replace("\n", "<br>"), row=place, col=1)
    figure.update_annotations(font_size=12)
    figure.update_layout(
        height=250 * len(rows) + 80, template="plotly_white", margin={"l": 70, "r": 10, "t": 40}
    )
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name; maps only if cka_grid.csv is there. Raises TableMissing, NothingToDraw."""
    data = panel_data(read_table(run_dir, "cka"), optional_table(run_dir, "probes"))
    grid = optional_table(run_dir, "cka_grid")
    with styled():
        return {
            "cka": picture(data),
            **({"cka_maps": maps(grid)} if grid is not None and len(grid) else {}),
        }


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
