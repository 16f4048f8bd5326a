"""Object probes by layer, fit on rote states and scored on semantic ones and back; their controls.

    python -m figures.probes runs/demo

Reads tables/probes.csv and probe_controls.csv, those that exist; writes figures/probes and
probe_controls, .png and .svg.
"""

from pathlib import Path

from figures import style
from figures.lines import ALONE, Chart, Line, Panel
from training.runs.table_files import optional_table, pick, read_table

OVER, BACK, HERE = "rote->semantic", "semantic->rote", "semantic->semantic"
# Each transfer with the same probe scored where it was fit: the ceiling of the transfer. A probe
# fit and scored on rote states has no semantic family, so it is the same in every column.
DIRECTIONS = {
    OVER: ("fit on rote,\nscored on prompts", {"direction": "rote->rote", "family": "rote"}),
    BACK: ("fit on prompts,\nscored on rote", {"direction": HERE}),
}
CHART = Chart(
    "probes",
    "Object probes across prompts and across subjects ({n})",
    {
        f"{direction}, {side}": Panel(
            f"{side} relations,\n{words}\nprobe accuracy",
            {
                "transfer": Line({"direction": direction}, width=1.8 if side == "bound" else 1.0),
                "home": Line(home, "same probe scored where it was fit", ":", 1.1),
            },
            rows={"measure": "transfer_accuracy", "relation": side},
            null="above",
            limits=(0, 1),
        )
        for direction, (words, home) in DIRECTIONS.items()
        for side in style.SIDES
    },
    wanted="transfer_accuracy",
    heading="{} prompts",
    reference="chance (guessing)",
    height=(1.75, 1.1),
    wrap=4,
)
STYLES = ("-", "--", ":", (0, (6, 2, 1, 2)), (0, (1, 4)))
EMBEDDING = "subject_embedding_accuracy"


def _panel(title: str, unit: str, rows: dict, *named: tuple[str, str, str]) -> Panel:
    """Lines from (words, measure, direction) of bound relations; the first is solid and thick."""
    lines = {}
    for dash, (words, measure, direction) in zip(STYLES, named, strict=False):
        wanted = {"measure": measure, "direction": direction}
        table = "probes" if measure == "transfer_accuracy" else ""
        lines[words] = Line(wanted, words, dash, 1.8 if dash == "-" else 1.2, table=table)
    return Panel(unit, lines, title, {"relation": "bound", "family": "test", **rows})


def _line_legend(axes, data, panel: str, column: str) -> None:
    """A legend in each panel of the controls, as their lines differ."""
    lines = CONTROLS.panels[panel].lines
    there = style.present(lines, pick(data, panel=panel).line)
    handles = [style.handle(words, linewidth=1.3, linestyle=lines[words].style) for words in there]
    look = {"frameon": True, "framealpha": 0.75, "edgecolor": "none"}
    axes.legend(handles=handles, loc="best", fontsize=7.5, **look)
    axes.set_ylim(bottom=0)


CODE = ("objects", "compression", ""), ("objects shuffled", "compression_shuffled", "")
ACCURACY, ALL = "probe accuracy", {"split": "all"}
CONTROLS = Chart(
    "probe_controls",
    "Controls of the probes (bound relations, {n})",
    {
        "relation": _panel(
            "Which relation is asked?",
            ACCURACY,
            {"relation": "every"},
            ("fit on rote, scored on test prompts", "relation_accuracy", OVER),
            ("fit on test prompts, scored on rote", "relation_accuracy", BACK),
            ("fit on rote, untrained weights", "relation_accuracy_untrained", OVER),
        ),
        "transfer": _panel(
            "Object transfer, rote to test prompts",
            ACCURACY,
            {"family": ("test", "")},
            ("tuned probe", "transfer_accuracy", OVER),
            ("mass-mean probe", "mass_mean_accuracy", OVER),
            ("objects shuffled", "shuffled_accuracy", OVER),
            ("untrained weights", "transfer_accuracy_untrained", OVER),
            ("subject's input embedding", EMBEDDING, ""),
        ),
        "selectivity": _panel(
            "Object from test prompts",
            ACCURACY,
            {},
            ("other subjects", "entity_split_accuracy", HERE),
            ("other prompts, same subjects", "row_split_accuracy", HERE),
            ("the same, random object per subject", "control_accuracy", HERE),
        ),
        "map": _panel(
            "Rote state finds its own test-prompt state",
            "found first",
            {},
            ("through a ridge map", "ridge_map_top1", OVER),
            ("as it is", "unmapped_top1", OVER),
        ),
        "rote code": _panel(
            "Code length of objects, rote states", "compression", {"family": "rote", **ALL}, *CODE
        ),
        "test code": _panel("Code length of objects, a test prompt", "compression", ALL, *CODE),
    },
    ALONE,
    wanted=f"family test of bound relations, measures {EMBEDDING} and others",
    reference="chance (guessing; no compression)",
    height=(2.6, 0.7),
    finish=_line_legend,
)
CAPTIONS = {
    "probes": (
        "Solid: fit on one kind of state, scored on the other, on subjects the probe was not fit "
        "on. Dotted: scored on the kind it was fit on, the ceiling of the transfer.",
        "A probe finds what can be read from a state, not what the model uses.",
    ),
    "probe_controls": (
        "Each solid line with what it has to exceed: the same probe on shuffled or random objects, "
        "on untrained weights, or on the subject's input embedding; dashed grey: guessing. A "
        "compression above 1: the states tell something about the objects of new subjects.",
        "All of bound relations. A state finds its own because both are about one name; a prompt's "
        "wording tells its relation. Neither shows that an answer is shared.",
    ),
}


def panel_data(table):
    """The rows of CHART in a column per semantic family. Raises NothingToDraw."""
    families = style.in_order(pick(table, direction=tuple(DIRECTIONS)).family)
    return CHART.gather(table, {family: {"family": family} for family in families})


def controls_data(controls, probes=None):
    """The rows of CONTROLS at the last checkpoint of each phase; probes: a table or None.

    A baseline without a site stands at every site. Raises NothingToDraw.
    """
    import pandas as pd

    def filled(table):
        return table[table.value.notna()].fillna({"family": "", "direction": ""})

    sites = controls[["layer", "site"]].dropna().drop_duplicates("layer")
    baseline = pick(controls, measure=EMBEDDING).drop(columns=["layer", "site"])
    everywhere = [controls[controls.measure != EMBEDDING], baseline.merge(sites, how="cross")]
    table = filled(pd.concat(everywhere, ignore_index=True))
    rows = CONTROLS.gather(table, probes=None if probes is None else filled(probes))
    return pick(rows, checkpoint=style.names_of(style.milestones(rows)))


@style.drawing
def draw(run_dir: Path) -> dict:
    return {"probes": CHART.draw(panel_data(read_table(run_dir, "probes")))}


@style.drawing
def draw_controls(run_dir: Path) -> dict:
    tables = read_table(run_dir, "probe_controls"), optional_table(run_dir, "probes")
    return {"probe_controls": CONTROLS.draw(controls_data(*tables))}


DRAWINGS = {"probes": draw, "probe_controls": draw_controls}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
