"""Over several runs: recall and layers over seeds, the conditions of a sweep, curves over tokens.

    python -m figures.across results/headline

Reads, of those that exist: tables/recall.csv with seeds.csv, and sites.csv (a summary by
`analysis.seeds`); ablations.csv; curves.csv. Writes figures/recall, layers, ablations and curves,
.png and .svg.
"""

import re
from itertools import cycle
from pathlib import Path

from figures import style
from figures.lines import ALONE, Chart, Line, Panel
from figures.recall import MEANING, STRICT, family_axis
from figures.style import OBJECT_COLOURS, SIDES, STAGES, Stage
from training.runs.table_files import optional_table, pick, read_table

MAIN = "two phases"
WITHOUT = Stage("without phase 1", "generalize", "without phase 1", "#009E73")
# A model that only has to read: the answers were told in context.
TOLD = {"told by rote": "#CC79A7", "told in a train prompt": "#56B4E9"}
BOTH_SIDES = {
    side: Line({"relation": side}, f"{side} relations", dash, width=1.5)
    for side, dash in zip(style.SIDES, "-:", strict=True)
}
LAYERS = {
    "probe transfer, rote to test": {"measure": "transfer_accuracy", "direction": "rote->semantic"},
    "crossed contrast of CKA": {"measure": "contrast"},
    "the same, answer partialled out": {"measure": "contrast_partialled"},
    "object kernel, own object": {"measure": "object_kernel", "object_relation": "same"},
    "CKA, rote and test": {"measure": "cka"},
    "centred cosine, rote and test": {"measure": "cosine_centred"},
    "retrieval of the rote state": {"measure": "retrieval_top1"},
    "CKA, rote and unrelated": {"measure": "cka", "family": "unrelated"},
}
OVER_LAYERS = Chart(
    "sites",
    "Inside the model, {n}, held-out people",
    {
        title: Panel("", BOTH_SIDES, title, {"split": "held-out", "family": "test", **rows})
        for title, rows in LAYERS.items()
    },
    ALONE,
    height=(2.1, 1.0),
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
CAPTIONS = {
    "layers": (
        "Mean over seeds with its 95% t interval, by layer, test prompts about held-out people.",
        "CKA, cosine and retrieval mostly say that two prompts name one person.",
    ),
    "ablations": (
        "Means over seeds with 95% intervals. Each seed draws its own facts, names and unbound "
        "relation. tables/ablations.csv compares conditions pairwise by seed.",
        "Overlapping intervals are not a test. Measures over sites are taken at each run's largest "
        "site, so selection alone lifts them above chance.",
    ),
    "curves": (
        "Means over seeds with 95% intervals at saved checkpoints: open points of phase 1, filled "
        "ones of phase 2.",
        "Learning rates fall within each phase, so a shorter training would have ended elsewhere.",
    ),
}


def conditions(table) -> list[Stage]:
    """The phases, the control without phase 1, answers told in context; checkpoint: condition."""
    found = []
    for name in (MAIN, WITHOUT.label, *TOLD):
        for phase in style.present(STAGES, pick(table, condition=name).phase):
            word, colour = STAGES[phase]
            label = f"{word}, {name}" if name in TOLD else word
            stage = Stage(name, phase, label, TOLD.get(name, colour))
            found.append(WITHOUT if name == WITHOUT.label else stage)
    return list(dict.fromkeys(found))


def recall_data(table, seeds):
    """(means, one row per seed): strict generation about held-out people. Raises NothingToDraw."""
    wanted = {**STRICT, "split": "held-out", "relation": SIDES}
    found = "recall", "measure generation, held-out people"
    return style.require_rows(pick(table, **wanted), *found), pick(seeds, **wanted)


def recall_picture(means, dots):
    """Recall: means over seeds with 95% t intervals, small dots for the seeds; a panel per side."""
    families, shown = style.in_order(means.family), conditions(means)
    title = f"Recall of held-out people's facts ({int(means.n_seeds.max())} seeds, greedy, strict)"
    figure, grid = style.panels(1, len(SIDES), height=4.0, sharey=True, title=title)
    for axes, side in zip(grid[0], SIDES, strict=True):
        for stage, offset in style.side_by_side(shown, 0.7):
            which = {"relation": side, "condition": stage.checkpoint, "phase": stage.phase}
            rows, each = pick(means, **which), pick(dots, **which)
            x, colour = rows.family.map(families.index) + offset, stage.colour
            ends = rows.low.clip(lower=0), rows.high.clip(upper=1)
            axes.vlines(x, *ends, color=colour, linewidth=1.3)
            axes.plot(x, rows.value, "o", color=colour, markersize=6)
            x = each.family.map(families.index) + offset + 0.06
            axes.plot(x, each.value, ".", color=colour, markersize=4, alpha=0.6)
        family_axis(axes, families, pick(means, relation=side).majority.max())
        meaning = f": {MEANING[side]}" if "generalize" in set(means.phase) else ""
        axes.set_title(f"{side} relations{meaning}")
    grid[0, 0].set_ylabel("accuracy")
    style.legend_below(figure, shown, [style.reference_handle("always the commonest object")])
    return figure


def _title(run_dir: Path, default: str) -> str:
    """What a sweep asks, from its run.json."""
    return style.record_of(run_dir).get("title") or default


def _panels_of(data, title: str, height: float, extra: float):
    """(figure, [(axes, rows)]): a titled panel for each endpoint and kind of relation."""
    parts = list(data.groupby(["endpoint", data.relation.fillna("")], sort=False))
    title = f"{title} ({style.span_of(data.n_seeds)} seeds)"
    figure, every = style.tiles(len(parts), height=height, extra=extra, title=title)
    for axes, (names, _) in zip(every, parts, strict=True):
        axes.set_title(", ".join(filter(None, names)), fontsize=8.5)
    return figure, [(axes, rows) for axes, (_, rows) in zip(every, parts, strict=True)]


def ablations_data(table):
    """(rows drawn, the setting that is the axis or ""). Raises NothingToDraw.

    Adds x, the number on the axis, and line, the other settings in words.
    """
    rows = style.require_rows(pick(table, kind="condition"), "ablations", "conditions")
    axis, others = _axis(rows)
    words = [_words(row, others) for row in rows.to_dict("records")]
    return rows.assign(x=rows[axis] if axis else float("nan"), line=words), axis


def _axis(rows) -> tuple[str, list[str]]:
    """The setting with most numbers, three or more, if the others fit in lines; and the others."""
    settings = [c for c in rows if c == "condition" or "." in c]
    numeric = [c for c in settings if rows[c].dtype.kind in "if"]
    for axis in sorted(numeric, key=lambda c: -rows[c].nunique()):
        others = [c for c in settings if c != axis]
        lines = len(rows[others].drop_duplicates()) if others else 1
        enough = rows[axis].nunique() >= 3 and rows[axis].notna().all()
        if enough and lines <= len(OBJECT_COLOURS):
            return axis, others
    return "", settings


def _words(row: dict, settings: list[str]) -> str:
    given = {name: row[name] for name in settings if row[name] == row[name] and row[name] != ""}
    texts = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in given.items()}
    return ", ".join(text if k == "condition" else f"{k} {text}" for k, text in texts.items())


def ablations_picture(data, axis: str, title: str):
    """A panel per endpoint: curves over the axis if there is one, else a row per condition."""
    labels, lines = list(dict.fromkeys(data.label)), _in_order(data.line)
    height = 2.5 if axis else 0.5 + 0.27 * len(labels)
    figure, parts = _panels_of(data, title, height, extra=1.0)
    for number, (axes, rows) in enumerate(parts):
        if axis:
            _curves(axes, rows, axis, lines)
        else:
            _points(axes, rows, labels, named=number % 2 == 0)
    if axis:
        names = [line or "mean over seeds" for line in lines]
        _legend(figure, names, columns=1 if max(map(len, lines)) > 50 else 3)
    return figure


def _in_order(lines) -> list[str]:
    """The different lines; by their numbers if they differ in nothing else, otherwise as given."""
    there = list(dict.fromkeys(lines))
    if len({NUMBER.sub("", line) for line in there}) == 1:
        there.sort(key=lambda line: [float(n) for n in NUMBER.findall(line)])
    return there


def _curves(axes, rows, axis: str, lines: list[str]) -> None:
    """A line with its band for each of the other settings."""
    for line, colour in zip(lines, OBJECT_COLOURS, strict=False):
        some = pick(rows, line=line).sort_values("x")
        axes.plot(some.x, some.value, color=colour, marker="o", markersize=4, linewidth=1.5)
        if some.low.notna().any():
            style.band(axes, some.x, some.low, some.high, colour)
    numbers = sorted(rows.x.unique())
    if numbers[0] > 0 and numbers[-1] / numbers[0] >= 8:
        axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{x:g}" for x in numbers])
    axes.minorticks_off()
    axes.set_xlabel(axis)
    style.reference_line(axes, 0)


def _points(axes, rows, labels: list[str], *, named: bool) -> None:
    """A row per condition; named: with its label, as in the first column."""
    rows = rows.set_index("label").reindex(labels)
    places = range(len(labels) - 1, -1, -1)
    spread = [(rows.value - rows.low).fillna(0), (rows.high - rows.value).fillna(0)]
    look = {"fmt": "o", "color": OBJECT_COLOURS[0], "markersize": 5, "elinewidth": 1.2}
    axes.errorbar(rows.value, places, xerr=spread, **look)
    axes.set_yticks(places, labels if named else [""] * len(labels))
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.grid(axis="y", visible=False)
    style.reference_line(axes, 0, vertical=True)


def _legend(figure, names: list[str], columns: int) -> None:
    named = zip(names, cycle(OBJECT_COLOURS), strict=False)
    handles = [style.handle(name, colour, marker="o", markersize=4) for name, colour in named]
    handles.append(style.interval_handle())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def curves_picture(table, title: str):
    """A panel per endpoint, a line per condition, over training tokens. Raises NothingToDraw."""
    data = style.require_rows(table, "curves", "curves")
    colours = dict(zip(dict.fromkeys(data.label), cycle(OBJECT_COLOURS), strict=False))
    figure, parts = _panels_of(data, title, height=2.5, extra=0.9)
    for axes, rows in parts:
        for label, line in rows.groupby("label", sort=False):
            line, colour = line.sort_values("tokens"), colours[label]
            axes.plot(line.tokens, line.value, color=colour, linewidth=1.4)
            for filled, points in line.groupby(line.phase == "generalize"):
                look = {"markerfacecolor": colour if filled else "white", "markersize": 4}
                axes.plot(points.tokens, points.value, "o", color=colour, **look)
            style.band(axes, line.tokens, line.low, line.high, colour)
        axes.set_xlabel("training tokens")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
    _legend(figure, list(colours), columns=2)
    return figure


@style.drawing
def draw_seeds(run_dir: Path) -> dict:
    """recall over seeds, and layers if sites.csv was made."""
    tables = read_table(run_dir, "recall"), read_table(run_dir, "seeds")
    figures = {"recall": recall_picture(*recall_data(*tables))}
    sites = optional_table(run_dir, "sites")
    if sites is not None:
        rows = pick(sites, condition=MAIN)
        data = OVER_LAYERS.gather(rows.assign(checkpoint=rows.phase))
        shown = [Stage(phase, phase, *STAGES[phase]) for phase in style.present(STAGES, data.phase)]
        figures["layers"] = OVER_LAYERS.draw(data, shown, n=f"{data.n_seeds.max():.0f} seeds")
    return figures


@style.drawing
def draw_ablations(run_dir: Path) -> dict:
    data, axis = ablations_data(read_table(run_dir, "ablations"))
    title = _title(run_dir, "Conditions side by side")
    return {"ablations": ablations_picture(data, axis, title)}


@style.drawing
def draw_curves(run_dir: Path) -> dict:
    title = _title(run_dir, "Against training tokens")
    return {"curves": curves_picture(read_table(run_dir, "curves"), title)}


DRAWINGS = {"seeds": draw_seeds, "ablations": draw_ablations, "curves": draw_curves}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
