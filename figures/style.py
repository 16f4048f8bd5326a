"""What all pictures share: colours by checkpoint, axes by site, legends, and files whole or not there.

Pictures are drawn from tables only, on matplotlib's own canvases: no window, no global setting is changed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from training.base.errors import UserError
from training.base.files import write_with

DPI = 150
WIDTH = 10.0
LARGE_PNG = 200_000
# What the common width holds in a legend's letters, a handle counted as seven.
LEGEND_LETTERS = 128
GREY = "#6f6f6f"
NULL_GREY = "#d9d9d9"
# Grey, blue and orange stay apart under every common colour-blindness, and in print by their lightness.
STAGES = {
    "base": ("base", GREY),
    "memorize": ("memorized", "#0072B2"),
    "generalize": ("generalized", "#E66100"),
}
OBJECT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FAMILIES = ("rote", "train", "test", "near-miss", "other-relation", "unrelated")
SIDES = ("bound", "unbound")
RC = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "figure.titlesize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ebebeb",
    "grid.linewidth": 0.7,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    # Names of relations and objects are text, whatever dollar signs they hold.
    "text.parse_math": False,
    # The same table gives the same file.
    "svg.hashsalt": "latent-alignment",
}


class NothingToDraw(UserError):
    """A table is there but holds no row that the picture shows."""


@dataclass
class Options:
    """Options of a picture."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory with tables/."""


@dataclass(frozen=True)
class Stage:
    """A checkpoint as pictures show it: its label in words and its colour (#rrggbb)."""

    checkpoint: str
    phase: str
    label: str
    colour: str


def stages(table) -> list[Stage]:
    """Checkpoints of a table in training order, each with one label and one colour.

    The last checkpoint of a phase has the phase's full colour, earlier ones paler shades of it.
    """
    columns = [c for c in ("checkpoint", "phase", "epoch") if c in table]
    rows = (
        table[columns]
        .drop_duplicates("checkpoint")
        .reindex(columns=["checkpoint", "phase", "epoch"])
    )
    rows = rows.assign(phase=rows.phase.fillna(""))
    order = {phase: rank for rank, phase in enumerate(("", *STAGES))}
    rows = rows.sort_values(
        "phase", key=lambda phases: phases.map(lambda p: order.get(p, len(order))), kind="stable"
    )
    found = []
    for phase, group in rows.groupby("phase", sort=False):
        word, colour = STAGES.get(phase, ("", STAGES["memorize"][1]))
        distinct = group.epoch.notna().all() and group.epoch.is_unique
        for place, row in enumerate(group.itertuples(), start=1):
            if word and len(group) == 1:
                label = word
            elif word and distinct:
                label = f"{word}, epoch {row.epoch:g}"
            else:
                label = str(row.checkpoint)
            found.append(
                Stage(row.checkpoint, phase, label, _pale(colour, 0.3 + 0.7 * place / len(group)))
            )
    return found


def milestones(table, most: int = 4) -> list[Stage]:
    """The last checkpoint of each phase; where phases are unknown, `most` checkpoints spread evenly."""
    every = stages(table)
    if any(stage.phase for stage in every):
        return list({stage.phase: stage for stage in every}.values())
    if len(every) <= most:
        return every
    return [every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)]


def _pale(colour: str, share: float) -> str:
    """A colour mixed with white; share 1 is the colour itself."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


# --- picking rows -------------------------------------------------------------------------------------------


def in_order(families: Iterable[str]) -> list[str]:
    """Prompt families in the order people read them: rote, trained, test, controls, then other languages."""
    families = set(families)
    return [f for f in FAMILIES if f in families] + sorted(families - set(FAMILIES))


def require_rows(rows, table: str, wanted: str):
    """Return rows, or raise NothingToDraw saying which rows were looked for."""
    if not len(rows):
        raise NothingToDraw(
            f"tables/{table}.csv holds no rows to draw (looked for: {wanted}). Write the table again "
            f"with those included, or leave this picture out."
        )
    return rows


def count_words(rows, noun: str = "subjects", column: str = "n") -> str:
    """`n = 40 subjects`, or `n = 38-40 subjects` where rows differ; empty if no n is known."""
    counts = rows[column].dropna() if column in rows else []
    if not len(counts):
        return ""
    low, high = int(min(counts)), int(max(counts))
    return f"n = {low} {noun}" if low == high else f"n = {low}-{high} {noun}"


# --- drawing ------------------------------------------------------------------------------------------------


def styled():
    """Context in which this project's settings hold; the user's own come back after it."""
    import matplotlib

    return matplotlib.rc_context(RC)


def panels(rows: int, columns: int, *, height: float, title: str, **options):
    """(figure, axes of shape (rows, columns)) of the common width; height in inches; one title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def layer_line(
    axes, line, layers: int, colour: str, *, style="-", width: float = 1.8, band: bool = True
) -> None:
    """One measure over sites with its 95% band; a site without a value is a gap.

    line: rows with layer, value, low, high; layers: how many sites the axis has.
    """
    line = line.drop_duplicates("layer").set_index("layer").reindex(range(layers))
    axes.plot(
        line.index,
        line.value,
        color=colour,
        linestyle=style,
        linewidth=width,
        marker=".",
        markersize=2.5 * width**0.5,
    )
    if band and line.low.notna().any():
        axes.fill_between(
            line.index,
            line.low.astype(float),
            line.high.astype(float),
            color=colour,
            alpha=0.14,
            linewidth=0,
        )


def null_band(axes, low, high) -> None:
    """A grey band: where 95% of the null lies. low, high: Series indexed by layer."""
    axes.fill_between(
        high.index,
        low.astype(float),
        high.astype(float),
        color=NULL_GREY,
        alpha=0.7,
        linewidth=0,
        zorder=0.5,
    )


def reference_line(axes, level: float) -> None:
    """A thin dashed line: chance, majority, or zero."""
    axes.axhline(level, color="#444444", linewidth=0.9, linestyle=(0, (5, 3)), zorder=1.5)


def site_axis(axes, sites: Mapping[int, str], *, which: str = "x", most: int = 8) -> None:
    """Ticks of a site axis: `embed`, block numbers, `final`. sites: index in site order -> name."""
    last = max(sites)
    blocks = {
        index: name.removeprefix("resid_post.")
        for index, name in sites.items()
        if name.startswith("resid_post.")
    }
    step = next(s for s in (1, 2, 3, 4, 5, 8, 10, 15, 20, 40) if len(blocks) <= s * most or s == 40)
    ends = {
        index: {"embed": "emb", "final_norm": "fin"}.get(name, name)
        for index, name in sites.items()
        if index not in blocks
    }
    # A block number beside an end would be printed over it.
    apart = max(1, round(last / 20))
    ticks = {
        i: n
        for i, n in blocks.items()
        if n.isdigit() and int(n) % step == 0 and all(abs(i - e) >= apart for e in ends)
    }
    chosen = dict(sorted({**ticks, **ends}.items()))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(chosen), list(chosen.values()))


SITE_LABEL = "residual stream after block (emb: embedding, fin: final norm)"


def site_names(table, site: str = "site", layer: str = "layer") -> dict[int, str]:
    """Index in site order -> site name, from a table's columns."""
    pairs = table[[layer, site]].dropna().drop_duplicates(layer).sort_values(layer)
    return {int(index): str(name) for index, name in pairs.to_numpy()}


def legend_below(figure, shown: Iterable[Stage], extra: Iterable = ()) -> None:
    """One legend under all panels: a coloured line for each checkpoint, then `extra` handles, row by row."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=s.colour, linewidth=3, label=s.label) for s in shown] + list(
        extra
    )
    widths = [len(handle.get_label()) + 7 for handle in handles]
    fits = (
        c
        for c in range(len(handles), 1, -1)
        if sum(max(widths[i::c]) for i in range(c)) <= LEGEND_LETTERS
    )
    columns = next(fits, 1)
    # Legends are filled column by column, people read row by row.
    by_row = [handles[i : i + columns] for i in range(0, len(handles), columns)]
    ordered = [row[c] for c in range(columns) for row in by_row if c < len(row)]
    figure.legend(handles=ordered, loc="outside lower center", ncols=columns)


def interval_handle():
    """Legend entry of a 95% interval band."""
    from matplotlib.patches import Patch

    return Patch(color="#b9b9d0", alpha=0.5, linewidth=0, label="95% interval")


def null_handle(label: str = "95% of the null"):
    """Legend entry of the grey null band."""
    from matplotlib.patches import Patch

    return Patch(color=NULL_GREY, linewidth=0, label=label)


def reference_handle(label: str):
    """Legend entry of the thin dashed line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#444444", linewidth=0.9, linestyle=(0, (5, 3)), label=label)


# --- files --------------------------------------------------------------------------------------------------


def save(
    pictures: Mapping[str, object],
    folder: Path,
    *,
    prefix: str = "",
    formats: tuple[str, ...] = ("png", "svg"),
) -> list[Path]:
    """Write each figure as FOLDER/PREFIX+NAME.png (150 dpi) and .svg, whole or not at all; returns paths."""
    paths = []
    with styled():
        for name, figure in pictures.items():
            for kind in formats:
                path = Path(folder) / f"{prefix}{name}.{kind}"
                write_with(path, lambda part, figure=figure, kind=kind: _write(figure, part, kind))
                paths.append(path)
    return paths


def _write(figure, path: Path, kind: str) -> None:
    """Write one file. A large PNG keeps the 256 colours that fit it best: a third of the size."""
    if kind != "png":
        figure.savefig(path, format=kind, metadata={"Date": None})
        return
    from PIL import Image

    figure.savefig(path, format="png", dpi=DPI)
    # A small one is left as it is: a map of few pixels needs its colours exact.
    if path.stat().st_size > LARGE_PNG:
        with Image.open(path) as image:
            palette = image.convert("RGB").quantize(
                256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
            )
        palette.save(path, format="png", optimize=True, dpi=(DPI, DPI))


def say_written(paths: Iterable[Path]) -> None:
    """Print what was drawn."""
    print("wrote " + ", ".join(str(path) for path in paths))


def drawer(pictures: Callable[[Path], Mapping[str, object]]) -> Callable[[Path], list[Path]]:
    """The `draw` of a figure module: draw(run_dir) writes RUN_DIR/figures/NAME.png and .svg and returns their paths.

    pictures: run directory -> figures by name; raises TableMissing or NothingToDraw.
    """

    def draw(run_dir: Path) -> list[Path]:
        return save(pictures(run_dir), Path(run_dir) / "figures")

    return draw


def run_figure(draw: Callable[[Path], list[Path]], text: str) -> None:
    """`python -m figures.NAME RUN_DIR`: draw and say what was written."""
    from training.base.console import run_command

    run_command(lambda options: say_written(draw(options.run_dir)), Options, text)


# --- the interactive curves of the report page --------------------------------------------------------------


def plotly_trace(
    figure, rows, x: list[str], stage: Stage, row: int, column: int, *, marks: str
) -> None:
    """Add one checkpoint's values with their intervals to a plotly subplot; one legend entry a checkpoint.

    Plotly reads labels as HTML, so they are escaped.
    """
    from html import escape

    import plotly.graph_objects as go

    above, below = list(rows.high - rows.value), list(rows.value - rows.low)
    error = {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1,
        "width": 0,
    }
    label = escape(stage.label)
    first = not any(trace.name == label for trace in figure.data)
    figure.add_trace(
        go.Scatter(
            x=[escape(str(name)) for name in x],
            y=list(rows.value),
            error_y=error,
            mode=marks,
            name=label,
            legendgroup=label,
            offsetgroup=label,
            showlegend=first,
            line={"color": stage.colour},
            marker={"color": stage.colour, "size": 7},
        ),
        row=row,
        col=column,
    )
