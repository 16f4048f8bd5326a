"""The evidence of every checkpoint on one page: transfer with its ceilings, contrasts, controls.

    python -m figures.verdict runs/demo

Reads tables/verdict.csv, writes figures/verdict.png and .svg.
"""

from dataclasses import replace
from pathlib import Path

from figures import style
from training.runs.table_files import pick, read_table

TITLES = {
    "transfer": "transfer across subjects\n(accuracy)",
    "interchange": "interchange: what moved\n(share of patches)",
    "contrast": "contrast of CKA",
    "bound against unbound": "bound against unbound\n(transfer accuracy)",
}
NAMES = {
    "interchange": "relation",
    "answer moved": "answer",
    "subject moved": "subject",
    "unchanged": "nothing",
    "transfer of unbound relations": "unbound",
}
CAPTIONS = {
    "verdict": (
        "Points with 95% intervals over subjects, each checkpoint at the first site where its rote "
        "and semantic states both hold the answer; short dashes: chance. One shared route needs a "
        "transfer near its ceilings (rote->rote, semantic->semantic), and at chance if unbound.",
        "Contrasts cannot tell one route from two codes of one answer.",
    )
}


def panel_data(table):
    """The points drawn, their measures in short words. Raises NothingToDraw."""
    rows = table[table.section.isin(TITLES) & table.value.notna()]
    rows = rows.assign(measure=rows.measure.replace(NAMES))
    both = rows.section == "bound against unbound"
    rows.loc[both & (rows.measure == "rote->semantic"), "measure"] = "bound"
    return style.require_rows(rows, "verdict", ", ".join(TITLES))


def picture(data, labels: dict[str, str]):
    """A panel per section; labels: what each checkpoint was judged to be."""
    sections, shown = style.present(TITLES, data.section), style.stages(data)
    title = f"Did rote become meaning? ({style.count_words(data, 'subjects') or 'n unknown'})"
    figure, grid = style.panels(1, len(sections), height=3.6, title=title)
    for axes, section in zip(grid[0], sections, strict=True):
        some = pick(data, section=section)
        measures = list(dict.fromkeys(some.measure))
        for stage, offset in style.side_by_side(shown, 0.7):
            rows = pick(some, checkpoint=stage.checkpoint)
            x = rows.measure.map(measures.index) + offset
            axes.plot(x, rows.value, "o", color=stage.colour, markersize=5)
            axes.vlines(x, rows.low, rows.high, color=stage.colour, linewidth=1.4)
            axes.hlines(rows.chance, x - 0.1, x + 0.1, color="#444444", linewidth=1.2)
        words = [m.replace(" ", "\n", 1).replace("->", "->\n") for m in measures]
        axes.set_xticks(range(len(measures)), words)
        axes.tick_params(axis="x", rotation=25 if len(measures) > 3 else 0)
        axes.set_xlim(-0.6, len(measures) - 0.4)
        axes.set_title(TITLES[section])
        if section != "contrast":
            axes.set_ylim(0, 1.02)
    judged = [replace(s, label=f"{s.label}: {labels.get(s.checkpoint, '')}") for s in shown]
    style.legend_below(figure, judged, [style.reference_handle("chance, or the checkpoint before")])
    return figure


@style.drawing
def draw(run_dir: Path) -> dict:
    table = read_table(run_dir, "verdict")
    judged = pick(table, section="judgement").set_index("checkpoint").label
    return {"verdict": picture(panel_data(table), judged.to_dict())}


DRAWINGS = {"verdict": draw}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
