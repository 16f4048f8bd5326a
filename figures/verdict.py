"""The evidence of every checkpoint on one page: transfer beside its ceilings and chance, contrasts, unbound relations.

    python -m figures.verdict runs/demo

Reads tables/verdict.csv, writes figures/verdict.png and .svg.
"""

from pathlib import Path

from figures.style import (
    count_words,
    drawer,
    legend_below,
    panels,
    reference_handle,
    require_rows,
    run_figure,
    stages,
    styled,
)
from training.runs.table_files import read_table

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
        "The evidence, in the order of proof",
        "Points with 95% intervals over subjects, one colour a checkpoint, each at the first site where its rote and "
        "semantic states both hold the answer; short dashes: chance. One shared route needs a transfer near its two "
        "ceilings (rote->rote, semantic->semantic), and at chance for unbound relations.",
        "Contrasts cannot tell one route from two codes of one answer.",
    )
}


def panel_data(table):
    """The points drawn: checkpoint, phase, section, measure, site, value, low, high, chance, n. Raises NothingToDraw."""
    rows = table[table.section.isin(TITLES) & table.value.notna()]
    rows = rows.assign(measure=rows.measure.replace(NAMES))
    both = rows.section == "bound against unbound"
    rows.loc[both & (rows.measure == "rote->semantic"), "measure"] = "bound"
    columns = [
        "checkpoint",
        "phase",
        "section",
        "measure",
        "site",
        "value",
        "low",
        "high",
        "chance",
        "n",
    ]
    return require_rows(rows, "verdict", ", ".join(TITLES)).reindex(columns=columns)


def picture(data, labels: dict[str, str]):
    """The figure of panel_data: a panel a section; labels: what each checkpoint was judged to be."""
    sections = [s for s in TITLES if (data.section == s).any()]
    figure, grid = panels(
        1,
        len(sections),
        height=3.6,
        title=f"Did rote become meaning? ({count_words(data) or 'n unknown'})",
    )
    shown = stages(data)
    for axes, section in zip(grid[0], sections, strict=True):
        some = data[data.section == section]
        measures = list(dict.fromkeys(some.measure))
        for place, stage in enumerate(shown):
            offset = (place - (len(shown) - 1) / 2) * 0.7 / max(1, len(shown))
            for row in some[some.checkpoint == stage.checkpoint].itertuples():
                x = measures.index(row.measure) + offset
                axes.plot([x], [row.value], "o", color=stage.colour, markersize=5)
                axes.vlines(x, row.low, row.high, color=stage.colour, linewidth=1.4)
                if row.chance == row.chance:
                    axes.hlines(row.chance, x - 0.1, x + 0.1, color="#444444", linewidth=1.2)
        axes.set_xticks(
            range(len(measures)), [m.replace(" ", "\n", 1).replace("->", "->\n") for m in measures]
        )
        if len(measures) > 3:
            axes.tick_params(axis="x", rotation=25)
        axes.set_xlim(-0.6, len(measures) - 0.4)
        axes.set_title(TITLES[section])
        if section != "contrast":
            axes.set_ylim(0, 1.02)
    words = [
        type(s)(s.checkpoint, s.phase, f"{s.label}: {labels.get(s.checkpoint, '')}", s.colour)
        for s in shown
    ]
    legend_below(figure, words, [reference_handle("chance, or the checkpoint before")])
    return figure


def pictures(run_dir: Path) -> dict:
    """The figures by name. Raises TableMissing, NothingToDraw."""
    table = read_table(run_dir, "verdict")
    judged = table[table.section == "judgement"]
    with styled():
        return {
            "verdict": picture(
                panel_data(table), dict(zip(judged.checkpoint, judged.label, strict=True))
            )
        }


draw = drawer(pictures)


if __name__ == "__main__":
    run_figure(draw, __doc__)
