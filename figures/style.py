"""What all pictures share: colours of checkpoints, picking of rows, panels, legends, files.

Pictures are drawn from tables only; no window opens, and no global setting changes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path

import tyro

from training.base.console import run_command
from training.base.errors import NothingToDraw
from training.base.files import read_json, write_with
from training.runs.table_files import TableMissing, headline_split

DPI = 150
WIDTH = 10.0
LARGE_PNG = 200_000
# How many letters a line of a legend holds; a handle counts as seven.
LEGEND_LETTERS = 128
GREY = "#6f6f6f"
NULL_GREY = "#d9d9d9"
REFERENCE = {"color": "#444444", "linewidth": 0.9, "linestyle": (0, (5, 3))}
# Grey, blue and orange stay apart for colour-blind readers, and in print by their lightness.
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
    # Names of relations and objects are plain text, whatever dollar signs they hold.
    "text.parse_math": False,
    # The same table gives the same file.
    "svg.hashsalt": "latent-alignment",
}


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
    """Checkpoints of a table in training order; the earlier ones of a phase have paler shades."""
    rows = table.drop_duplicates("checkpoint").reindex(columns=["checkpoint", "phase", "epoch"])
    groups = dict(iter(rows.groupby(rows.phase.fillna(""), sort=False)))
    order = ["", *STAGES, *groups]
    found = []
    for phase, group in sorted(groups.items(), key=lambda item: order.index(item[0])):
        word, colour = STAGES.get(phase, ("", STAGES["memorize"][1]))
        distinct = group.epoch.notna().all() and group.epoch.is_unique
        for place, row in enumerate(group.itertuples(), start=1):
            label = str(row.checkpoint)
            if word and (len(group) == 1 or distinct):
                label = word if len(group) == 1 else f"{word}, epoch {row.epoch:g}"
            shade = _pale(colour, 0.3 + 0.7 * place / len(group))
            found.append(Stage(row.checkpoint, phase, label, shade))
    return found


def milestones(table) -> list[Stage]:
    """The last checkpoint of each phase; without phases, four evenly spread checkpoints."""
    every = stages(table)
    if any(stage.phase for stage in every):
        return list({stage.phase: stage for stage in every}.values())
    return [every[round(i * (len(every) - 1) / 3)] for i in range(4)] if len(every) > 4 else every


def names_of(shown: Iterable[Stage]) -> tuple[str, ...]:
    """The checkpoints of these stages, for `pick`."""
    return tuple(stage.checkpoint for stage in shown)


def side_by_side(shown: Sequence[Stage], width: float) -> list[tuple[Stage, float]]:
    """Each stage with its offset from a tick, `width` being that of all together."""
    step = width / len(shown)
    return [(s, (place - (len(shown) - 1) / 2) * step) for place, s in enumerate(shown)]


def _pale(colour: str, share: float) -> str:
    """A colour mixed with white; share 1 is the colour itself."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


def in_order(families: Iterable[str]) -> list[str]:
    """Prompt families in reading order: rote, trained, test, controls, then other languages."""
    return present(FAMILIES, families) + sorted(set(families) - set(FAMILIES))


def present(names: Iterable[str], column) -> list[str]:
    """Those names that a column holds, in the order given."""
    return [name for name in names if name in set(column)]


def require_rows(rows, table: str, wanted: str):
    """Return rows; if there are none, raise NothingToDraw saying which rows were looked for."""
    if not len(rows):
        found = f"tables/{table}.csv holds no rows to draw (looked for: {wanted})"
        raise NothingToDraw(f"{found}. Write it again with those, or leave this picture out.")
    return rows


def count_words(rows, noun: str = "") -> str:
    """`n = 38-40 held-out subjects`, the subjects being those of the headline split; "": no n."""
    if rows.n.isna().all():
        return ""
    split = "" if noun or headline_split(rows) == "all" else "held-out "
    return f"n = {span_of(rows.n)} {split}{noun or 'subjects'}"


def span_of(counts) -> str:
    """`38-40`, the smallest and largest of some counts, or `40` if they are equal."""
    return "-".join(dict.fromkeys((f"{counts.min():.0f}", f"{counts.max():.0f}")))


def record_of(run_dir: Path) -> dict:
    """run.json; empty for tables about checkpoints made elsewhere."""
    record = run_dir / "run.json"
    return read_json(record) if record.exists() else {}


def panels(rows: int, columns: int, *, height: float, title: str, **options):
    """(figure, axes of shape (rows, columns)) of the common width; height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def tiles(count: int, *, columns: int = 2, height: float, extra: float, title: str, **options):
    """(figure, `count` axes, row by row); height: of a row, extra: of what stands around them."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = panels(rows, columns, height=height * rows + extra, title=title, **options)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:count])


def reference_line(axes, level: float, *, vertical: bool = False) -> None:
    """A thin dashed line, for chance, the commonest object, or zero."""
    (axes.axvline if vertical else axes.axhline)(level, zorder=1.5, **REFERENCE)


def band(axes, x, low, high, colour: str, alpha: float = 0.14) -> None:
    """A 95% interval along a line."""
    look = {"color": colour, "alpha": alpha, "linewidth": 0}
    axes.fill_between(x, low.astype(float), high.astype(float), **look)


def handle(label: str, color: str = "black", **look):
    """Legend entry of a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, label=label, **look)


def reference_handle(label: str):
    """Legend entry of the thin dashed line."""
    return handle(label, **REFERENCE)


def interval_handle(label: str = "95% interval", color: str = "#b9b9d0", alpha: float = 0.5):
    """Legend entry of a band."""
    from matplotlib.patches import Patch

    return Patch(color=color, alpha=alpha, linewidth=0, label=label)


def legend_below(figure, shown: Iterable[Stage], extra: Iterable = ()) -> None:
    """One legend under all panels: a line for each checkpoint, then `extra` handles."""
    handles = [*(handle(s.label, s.colour, linewidth=3) for s in shown), *extra]
    widths = [len(entry.get_label()) + 7 for entry in handles]
    columns = len(handles)
    while columns > 1 and sum(max(widths[i::columns]) for i in range(columns)) > LEGEND_LETTERS:
        columns -= 1
    # matplotlib fills legends column by column, people read them row by row.
    by_row = [handles[i : i + columns] for i in range(0, len(handles), columns)]
    ordered = [row[c] for c in range(columns) for row in by_row if c < len(row)]
    figure.legend(handles=ordered, loc="outside lower center", ncols=columns)


def drawing(make: Callable[[Path], Mapping[str, object]]) -> Callable[..., list[Path]]:
    """Turn a function (run directory -> figures by name) into one that writes them.

    draw(run_dir) writes FOLDER/PREFIX+NAME.png (150 dpi) and .svg and returns their paths; folder:
    RUN_DIR/figures by default. Raises TableMissing, NothingToDraw.
    """

    @wraps(make)
    def draw(run_dir: Path, folder: Path | None = None, *, prefix="", formats=("png", "svg")):
        import matplotlib

        run_dir, paths = Path(run_dir), []
        # The user's own settings come back after it.
        with matplotlib.rc_context(RC):
            for name, figure in make(run_dir).items():
                for kind in formats:
                    paths.append((folder or run_dir / "figures") / f"{prefix}{name}.{kind}")
                    write_with(paths[-1], partial(_write, figure, kind))
        return paths

    return draw


def _write(figure, kind: str, path: Path) -> None:
    """Write one file. A large PNG keeps only its 256 best colours: a third of the size."""
    if kind != "png":
        figure.savefig(path, format=kind, metadata={"Date": None})
        return
    from PIL import Image

    figure.savefig(path, format="png", dpi=DPI)
    # A small file stays as it is: a map of few pixels needs its exact colours.
    if path.stat().st_size > LARGE_PNG:
        how = {"method": Image.Quantize.MEDIANCUT, "dither": Image.Dither.NONE}
        with Image.open(path) as image:
            palette = image.convert("RGB").quantize(256, **how)
        palette.save(path, format="png", optimize=True, dpi=(DPI, DPI))


def draw_each(drawings: Mapping[str, Callable], run_dir: Path, folder: Path | None = None, **how):
    """Draw what the tables allow; returns (paths, what was skipped and why). how: see `drawing`."""
    written, skipped = [], []
    for name, draw in drawings.items():
        try:
            written += draw(run_dir, folder, **how)
        except (TableMissing, NothingToDraw) as reason:
            skipped.append(f"{name}: {reason}")
    return written, skipped


def run_figure(drawings: Mapping[str, Callable], text: str) -> None:
    """`python -m figures.NAME RUN_DIR`: draw what there are tables for and say what was written."""

    def main(options: Options) -> None:
        written, skipped = draw_each(drawings, options.run_dir)
        if not written:
            raise NothingToDraw("; ".join(skipped))
        for line in skipped:
            print(f"skipped {line}")
        print(f"wrote {', '.join(map(str, written))}")

    run_command(main, Options, text)
