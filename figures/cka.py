"""Similarity by layer: transfer, contrast and CKA; layer x layer maps; checkpoints; other measures.

    python -m figures.cka runs/demo

Reads tables/cka.csv (with probes.csv and cka_grid.csv), cka_checkpoints.csv and cka_measures.csv,
those that exist; writes figures/cka, cka_maps, cka_checkpoints and cka_measures, .png and .svg.
"""

from pathlib import Path

from figures import style
from figures.lines import SECOND, Chart, Line, Panel, site_axis, site_names
from training.runs.table_files import headline_split, optional_table, pick, read_table

TEST = {"family": "test"}
TRANSFER = {"measure": "transfer_accuracy", "direction": "rote->semantic"}
UNRELATED = Line({"family": "unrelated"}, style=":", **SECOND)
PARTIALLED = Line({"measure": "contrast_partialled"}, style="--", **SECOND)
OTHER_OBJECT = Line({"object_relation": "other"}, style=(0, (4, 2)), **SECOND)
ABOVE = {"level": 0.0, "null": "above"}
# In the order of what they prove: similar states do not yet share a meaning.
CHART = Chart(
    "cka",
    "From rote to meaning, layer by layer ({n})",
    {
        "transfer": Panel(
            "probe accuracy",
            {"main": Line(TRANSFER, table="probes")},
            "1. Object probe fit on rote states, scored on test-prompt states of other subjects",
            rows=TEST,
            null="above",
            limits=(0, None),
        ),
        "contrast": Panel(
            "difference of CKA",
            {"main": Line({"measure": "contrast"}), "partialled": PARTIALLED},
            "2. Crossed contrast: own minus other relation",
            rows=TEST,
            level=0.0,
            null="around",
            notes={
                "bound": "dashed: shared answers partialled out",
                "unbound": "2 x 2 interaction with the bound ones",
            },
        ),
        "cka": Panel(
            "debiased CKA",
            {"main": Line(TEST), "unrelated": UNRELATED},
            "3. CKA of rote and test states",
            rows={"measure": "cka"},
            **ABOVE,
            notes={"bound": "dotted: rote and unrelated prompts"},
        ),
        "object_kernel": Panel(
            "debiased CKA with\none-hot objects",
            {"main": Line({"object_relation": "same"}), "other": OTHER_OBJECT},
            "4. Do test states carry the object?",
            rows={"measure": "object_kernel", **TEST},
            **ABOVE,
            notes={"bound": "solid: own object; dashed: another relation's"},
        ),
    },
    wanted="family test of bound or unbound relations",
    reference="chance, or 0",
)
PAIR_COLOURS = ("#0072B2", "#E66100", "#009E73", "#CC79A7", "#6f6f6f", "#56B4E9")
CHECKPOINTS = Chart(
    "cka_checkpoints",
    "The same prompts at two checkpoints (bound relations, {n})",
    {
        measure: Panel(unit, {"main": Line({}, width=1.8)}, rows={"measure": measure}, level=1.0)
        for measure, unit in (
            ("cka_checkpoints", "debiased CKA"),
            ("cka_checkpoints_without_5_pcs", "the same without\n5 components a side"),
        )
    },
    {
        family: {"family": family, "relation": "bound"}
        for family in ("rote", "train", "test", "near-miss", "unrelated")
    },
    wanted="bound relations at the ends of two phases",
    heading="{} prompts",
    height=(2.3, 1.2),
    # Intervals of few subjects are wider than what there is to see.
    finish=lambda axes, data, panel, column: axes.set_ylim(
        min(-0.1, pick(data, panel=panel).value.min() - 0.1), 1.03
    ),
)
CAPTIONS = {
    "cka": (
        "Row 1: a probe that names the object, fit on rote states of some subjects, scored on "
        "test-prompt states of others; above chance only if both share one code of the answer. Row "
        "2: similarity of rote states to prompts of their own relation minus that to other "
        "relations' prompts. Row 3: the raw similarity. Row 4: how much of the geometry of the "
        "states is due to the object.",
        "Row 3 alone proves nothing: both states are about one subject, so they are alike in the "
        "base model too. Two unrelated codes of one answer also give a contrast; the dashed line "
        "takes shared answers out. None of this is causal.",
    ),
    "cka_maps": (
        "Vertical: layer of the rote states; horizontal: layer of the test-prompt states. The ring "
        "marks the best pair.",
        "The best of hundreds of pairs is high by selection; only a p corrected for that choice "
        "counts. This is raw CKA, so the shared subject is in it.",
    ),
    "cka_checkpoints": (
        "Similarity of a family's states before and after a phase. Where a line falls, training "
        "moved the subjects relative to each other; unrelated prompts show drift without meaning.",
        "CKA does not see a rotation or scaling of all states together, and one massive feature "
        "can hold it near 1: the lower row leaves out the five largest components.",
    ),
    "cka_measures": (
        "Solid: test prompts; dotted: unrelated ones; dashed grey: the value expected of "
        "independent states. For a distance, lower is more similar.",
        "Both states are about one subject, so they are alike in the base model too; what counts "
        "is the gap between the solid and the dotted line, and how training changes it.",
    ),
}


def panel_data(cka, probes=None):
    """The rows of CHART; the unbound side of `contrast` is the mean interaction of the unbound
    relations. cka, probes: the tables, either may be None. Raises NothingToDraw."""
    return CHART.gather(None if cka is None else _with_interaction(cka), probes=probes)


def _with_interaction(cka):
    """The table with the mean interaction of unbound relations as their contrast.

    Of one such relation, the interval and the null are kept.
    """
    import pandas as pd

    split = headline_split(cka)
    rows = pick(cka, split=split, family="test", measure="interaction")
    if rows.relation.nunique() > 1:
        keys = ["checkpoint", "layer"]
        mean = rows.groupby(keys, as_index=False, sort=False).value.mean()
        kept = [*keys, "phase", "epoch", "site", "split", "family", "n"]
        rows = rows.drop_duplicates(keys).reindex(columns=kept).merge(mean, on=keys)
    rows = rows.assign(measure="contrast", relation="unbound")
    return pd.concat([cka, rows], ignore_index=True) if len(rows) else cka


def maps(table):
    """Rote layers up, test layers to the right, for the last checkpoint of each phase, of the table
    cka_grid. Raises NothingToDraw."""
    rows = pick(table, measure="cka", relation="bound", family="test", split=headline_split(table))
    rows = style.require_rows(rows, "cka_grid", "measure cka, relation bound, family test")
    shown = style.milestones(rows)
    title = "CKA of rote and test-prompt states, every pair of layers"
    title += f" (bound relations, {style.count_words(rows)})"
    shape = {"columns": 3, "height": 3.2, "extra": 0.6, "sharex": True, "sharey": True}
    figure, every = style.tiles(len(shown), title=title, **shape)
    # One colour scale for all checkpoints.
    look = {"vmin": min(0.0, rows.value.min()), "vmax": rows.value.max(), "cmap": "viridis"}
    for place, (axes, stage) in enumerate(zip(every, shown, strict=True)):
        here = pick(rows, checkpoint=stage.checkpoint)
        matrix = here.pivot(index="layer", columns="layer_y", values="value")
        axes.set_facecolor("#e3e3e3")
        axes.grid(visible=False)
        image = axes.imshow(matrix, origin="lower", interpolation="nearest", **look)
        site_axis(axes, site_names(rows, "site_y", "layer_y"), most=6)
        site_axis(axes, site_names(rows), which="y", most=6)
        axes.set_xlabel("test side: after block")
        if place % 3 == 0:
            axes.set_ylabel("rote side: after block")
        axes.set_title(stage.label, color=stage.colour, fontweight="bold")
        if here.value.notna().any():
            _ring(axes, here.loc[here.value.idxmax()])
    label = "debiased CKA (grey: not defined)"
    figure.colorbar(image, ax=figure.axes, label=label, shrink=0.85, pad=0.015)
    return figure


def _ring(axes, best) -> None:
    """Mark the best pair of layers; print its value and its p corrected for that choice."""
    for colour, width in (("white", 2.4), ("black", 1.0)):
        look = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": width}
        axes.plot(best.layer_y, best.layer, "o", markersize=9, clip_on=False, **look)
    p = f" (p {best.null_p_max:.3f})" if best.null_p_max == best.null_p_max else ""
    axes.set_title(f"best {best.value:.2f}{p}", loc="right", fontsize=9)


def checkpoints_data(table):
    """The rows of CHECKPOINTS; checkpoint: a pair of the last checkpoints of phases, in words."""
    import pandas as pd

    # A table whose rows are all reasons has no pairs.
    style.require_rows(
        table if "checkpoint_y" in table else [], "cka_checkpoints", CHECKPOINTS.wanted
    )
    earlier = table[["checkpoint_y", "phase_y"]].set_axis(["checkpoint", "phase"], axis=1)
    both = pd.concat([earlier, table[["checkpoint", "phase"]]]).sort_values("checkpoint")
    label = {stage.checkpoint: stage.label for stage in style.stages(both)}
    names = style.names_of(style.milestones(both))
    rows = pick(table.dropna(subset="value"), checkpoint=names, checkpoint_y=names)
    rows = style.require_rows(rows, "cka_checkpoints", CHECKPOINTS.wanted)
    pair = rows.checkpoint_y.map(label) + " → " + rows.checkpoint.map(label)
    return CHECKPOINTS.gather(rows.assign(checkpoint=pair))


@style.drawing
def draw(run_dir: Path) -> dict:
    """cka, and cka_maps if its table exists."""
    data = panel_data(read_table(run_dir, "cka"), optional_table(run_dir, "probes"))
    table = optional_table(run_dir, "cka_grid")
    return {"cka": CHART.draw(data)} | ({"cka_maps": maps(table)} if table is not None else {})


@style.drawing
def draw_checkpoints(run_dir: Path) -> dict:
    """A column per family, one line for each pair of checkpoints."""
    data = checkpoints_data(read_table(run_dir, "cka_checkpoints"))
    pairs = zip(dict.fromkeys(data.checkpoint), PAIR_COLOURS, strict=False)
    shown = [style.Stage(pair, "", pair, colour) for pair, colour in pairs]
    return {"cka_checkpoints": CHECKPOINTS.draw(data, shown)}


@style.drawing
def draw_measures(run_dir: Path) -> dict:
    """A panel per measure: test prompts (the first family if there are none) and unrelated ones."""
    table = read_table(run_dir, "cka_measures")
    family = "test" if "test" in set(table.family) else table.family.iloc[0]
    lines = {"main": Line({"family": family}), "unrelated": UNRELATED}
    panels = {
        name: Panel(name.replace("_", " "), lines, rows={"measure": name}, null="above")
        for name in dict.fromkeys(table.measure)
    }
    title = "Other similarities of rote and test states ({n})"
    chart = Chart("cka_measures", title, panels, reference="chance", height=(2.3, 1.1))
    return {"cka_measures": chart.draw(chart.gather(table))}


DRAWINGS = {"cka": draw, "cka_checkpoints": draw_checkpoints, "cka_measures": draw_measures}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
