"""The engine of every picture of curves over sites: declared once, drawn by matplotlib and plotly.

CHART = Chart("cka", "CKA", {"test": Panel("debiased CKA", {"main": Line({"family": "test"})})})
data = CHART.gather(table)
figure, page_part = CHART.draw(data), CHART.explore(data)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import product

from figures import style
from figures.style import Stage
from training.runs.table_files import headline_split, pick

# The columns that drawing needs; a table's others are kept.
COLUMNS = ("panel", "column", "line", "checkpoint", "phase", "epoch", "layer", "site", "value")
COLUMNS += ("low", "high", "chance", "null_low", "null_high", "null_p_max", "n", "split")
BY_SIDE = {side: {"relation": side} for side in style.SIDES}
# The columns of a chart whose panels stand alone, two beside each other.
ALONE = {"": {}}
SITE_LABEL = "residual stream after block (emb: embedding, fin: final norm)"
# Look of the lines that the main line of a panel is compared with.
SECOND = {"width": 1.425, "thin": 0.75}


@dataclass(frozen=True)
class Line:
    """One line at each checkpoint: the rows of a table that it shows, and its look.

    rows: column -> value, or a tuple of values; table: where, if not in the chart's own. label:
    words in the legend. width: in points, thin: the same in the column of unbound relations.
    last: drawn at the last checkpoint only.
    """

    rows: Mapping[str, object]
    label: str = ""
    style: object = "-"
    width: float = 1.9
    thin: float = 1.0
    table: str = ""
    last: bool = False


@dataclass(frozen=True)
class Panel:
    """The lines of one pair of axes. The first is the main one: its interval and null are drawn.

    rows: what all lines have in common, unless a line says otherwise. level: height of the dashed
    line; None: the mean of the column chance. null: the grey band, "above" the level or "around" 0.
    notes: column -> remark in its heading.
    """

    unit: str
    lines: Mapping[str, Line]
    title: str = ""
    rows: Mapping[str, object] = field(default_factory=dict)
    level: float | None = None
    null: str = ""
    limits: tuple[float | None, float | None] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The name of the first line."""
        return next(iter(self.lines))


@dataclass(frozen=True)
class Chart:
    """A grid of panels downwards and columns (relations, families, ...) to the right.

    table, wanted: what a message names when no row is found. title: {n} stands for the number of
    subjects, or of what noun says. columns: column -> its rows of the table; heading: its title.
    reference: the legend's words for the dashed line; without, the legend holds the lines alone;
    extra: those for a thin black line. height: inches of a row, and of what stands around them all.
    wrap: most panels in a row. finish(axes, data, panel, column) adds to each pair of axes.
    """

    table: str
    title: str
    panels: Mapping[str, Panel]
    columns: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: BY_SIDE)
    wanted: str = "bound or unbound relations"
    heading: str = "{} relations"
    reference: str = ""
    extra: str = ""
    noun: str = ""
    height: tuple[float, float] = (2.25, 1.1)
    wrap: int = 6
    finish: Callable | None = None

    def gather(self, table, columns: Mapping | None = None, **tables):
        """The rows drawn, one per point, with the columns panel, column and line.

        table may be None; tables: further ones by name. Of each, the headline split. A line
        without any value is left out. Raises NothingToDraw.
        """
        import pandas as pd

        parts = []
        lines = [(p, kind) for p, panel in self.panels.items() for kind in panel.lines]
        for (column, wanted), (name, kind) in product((columns or self.columns).items(), lines):
            panel, line = self.panels[name], self.panels[name].lines[kind]
            source = tables.get(line.table) if line.table else table
            if source is not None:
                which = {"split": headline_split(source), **wanted, **panel.rows, **line.rows}
                rows = pick(source, **which)
                if rows.value.notna().any():
                    rows = rows.dropna(subset="layer")
                    parts.append(rows.assign(panel=name, column=column, line=kind))
        rows = pd.concat(style.require_rows(parts, self.table, self.wanted), ignore_index=True)
        return rows.reindex(columns=[*COLUMNS, *(c for c in rows if c not in COLUMNS)])

    def places(self, data) -> list[list[tuple[str, str]]]:
        """(panel, column) of every pair of axes, row by row: those that data has."""
        columns = dict.fromkeys(data.column)
        rows = [[(p, c) for c in columns] for p in style.present(self.panels, data.panel)]
        if self.columns is ALONE:
            rows = [[place for row in rows for place in row]]
        wrap = 2 if self.columns is ALONE else self.wrap
        return [row[i : i + wrap] for row in rows for i in range(0, len(row), wrap)]

    def draw(self, data, shown: Sequence[Stage] | None = None, n: str = ""):
        """The figure of gathered rows; one colour for each stage in shown (default: all).

        n: what stands for {n} in the title, if not the number of subjects.
        """
        shown = shown or style.stages(data)
        places, sites = self.places(data), site_names(data)
        across, alone = max(map(len, places)), self.columns is ALONE
        main = data[data.line == data.groupby("panel").line.transform("first")]
        counted = pick(main, split=headline_split(main), relation=style.SIDES)
        title = self.title.format(n=n or style.count_words(counted, self.noun))
        height = self.height[0] * len(places) + self.height[1]
        shared = {"sharex": True, "sharey": False if alone else "row"}
        figure, grid = style.panels(len(places), across, height=height, title=title, **shared)
        for row, (axes_row, names) in enumerate(zip(grid, places, strict=True)):
            for axes in axes_row[len(names) :]:
                axes.set_visible(False)
            for axes, (name, column) in zip(axes_row, names, strict=False):
                rows, panel = pick(data, panel=name, column=column), self.panels[name]
                _panel(axes, rows, panel, shown, column)
                left = (name, column) == names[0]
                top = row == 0 or across < len(set(data.column))
                axes.set_title(self._heading(panel, column, left, top))
                if left or alone:
                    # Low rows have no room for large words.
                    axes.set_ylabel(panel.unit, fontsize=8.5 if self.height[0] < 2 else None)
                site_axis(axes, sites, most={1: 8, 2: 8, 3: 5}.get(across, 4))
                if self.finish:
                    self.finish(axes, data, name, column)
        for axes in grid[-1]:
            axes.set_xlabel(SITE_LABEL if across <= 2 else "after block")
        style.legend_below(figure, shown, self._legend(data))
        return figure

    def _heading(self, panel: Panel, column: str, left: bool, top: bool) -> str:
        """The panel's title above that of the column; without one, only the first row has any."""
        if self.columns is ALONE:
            return panel.title
        words = self.heading.format(column)
        if not panel.title:
            return words if top else ""
        note = f" ({panel.notes[column]})" if column in panel.notes else ""
        return f"{panel.title if left else ' '}\n{words}{note}"

    def _legend(self, data) -> list:
        """Handles of the labelled lines, then of interval, dashed line and null."""
        there = set(zip(data.panel, data.line, strict=True))
        every = [
            (p, k, line) for p, panel in self.panels.items() for k, line in panel.lines.items()
        ]
        lines = [line for panel, kind, line in every if (panel, kind) in there]
        looks = {line.label: {"linestyle": line.style, "linewidth": line.width} for line in lines}
        # Lines that differ between panels which stand alone are named in each of them.
        named = {} if self.finish and self.columns is ALONE else looks
        handles = [style.handle(label, **look) for label, look in named.items() if label]
        if self.reference:
            handles += [style.interval_handle(), style.reference_handle(self.reference)]
        if any(panel.null for panel in self.panels.values()):
            handles.append(style.interval_handle("95% of the null", style.NULL_GREY, 1))
        return handles + ([style.handle(self.extra, linewidth=0.8)] if self.extra else [])

    def explore(self, data, *, x: str = "site", marks: str = "lines+markers"):
        """A plotly figure of the main lines of gathered rows, with their intervals.

        x: the column on the axis, in the order of the column layer. Plotly reads labels as HTML,
        so they are escaped.
        """
        from plotly.subplots import make_subplots

        places = self.places(data)
        cells = {p: (i, j) for i, row in enumerate(places, 1) for j, p in enumerate(row, 1)}
        titles = [self._heading(self.panels[p], c, cells[p, c][1] == 1, True) for p, c in cells]
        titles = [title.strip().replace("\n", "<br>") for title in titles]
        shape = {"rows": len(places), "cols": max(map(len, places)), "vertical_spacing": 0.08}
        figure = make_subplots(**shape, shared_yaxes=True, subplot_titles=titles)
        named = set()
        for stage, (place, (i, j)) in product(style.stages(data), cells.items()):
            which = dict(zip(("panel", "column"), place, strict=True))
            which |= {"line": self.panels[place[0]].main, "checkpoint": stage.checkpoint}
            rows, label = pick(data, **which).sort_values("layer"), escape(stage.label)
            if rows.empty:
                continue
            above, below = list(rows.high - rows.value), list(rows.value - rows.low)
            ends = {"array": above, "arrayminus": below, "symmetric": False, "type": "data"}
            figure.add_scatter(
                x=[escape(str(name)) for name in rows[x]],
                y=list(rows.value),
                error_y={**ends, "thickness": 1, "width": 0},
                mode=marks,
                **dict.fromkeys(("name", "legendgroup", "offsetgroup"), label),
                showlegend=label not in named,
                line_color=stage.colour,
                marker={"color": stage.colour, "size": 7},
                row=i,
                col=j,
            )
            named.add(label)
        for i, row in enumerate(places, start=1):
            unit = self.panels[row[0][0]].unit.replace("\n", "<br>")
            figure.update_yaxes(title_text=unit, row=i, col=1)
        figure.update_annotations(font_size=12)
        look = {"template": "plotly_white", "margin": {"l": 70, "r": 10, "t": 40}}
        figure.update_layout(height=250 * len(places) + 80, **look)
        return figure


def _panel(axes, rows, panel: Panel, shown: Sequence[Stage], column: str) -> None:
    """One pair of axes: null, chance, then a line for each checkpoint and kind."""
    if rows.empty:
        where = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "not measured", color="#777777", **where)
        return
    _null(axes, pick(rows, line=panel.main), panel)
    for stage, (kind, line) in product(shown, panel.lines.items()):
        some = pick(rows, checkpoint=stage.checkpoint, line=kind)
        if len(some) and (stage == shown[-1] or not line.last):
            width = line.thin if column == "unbound" else line.width
            look = {"dash": line.style, "width": width, "interval": kind == panel.main}
            layer_line(axes, some, stage.colour, **look)
    if panel.limits:
        axes.set_ylim(*panel.limits)


def _null(axes, main, panel: Panel) -> None:
    """The dashed line at chance and the grey band where 95% of the null lies."""
    level = main.chance.mean() if panel.level is None else panel.level
    if level != level:
        return
    style.reference_line(axes, level)
    # One band stands for all checkpoints: the widest of their nulls.
    by_layer = main.groupby("layer")
    high, low = by_layer.null_high.max(), by_layer.null_low.min()
    if not panel.null or not high.notna().any():
        return
    if not low.notna().any():
        low = -high if panel.null == "around" else high * 0 + level
    look = {"color": style.NULL_GREY, "alpha": 0.7, "linewidth": 0, "zorder": 0.5}
    axes.fill_between(high.index, low.astype(float), high.astype(float), **look)


def site_names(table, site: str = "site", layer: str = "layer") -> dict[int, str]:
    """Index in site order -> site name, from a table's columns."""
    pairs = table[[layer, site]].dropna().drop_duplicates(layer).sort_values(layer)
    return {int(index): str(name) for index, name in pairs.to_numpy()}


def site_axis(axes, sites: Mapping[int, str], *, which: str = "x", most: int = 8) -> None:
    """Ticks of a site axis: `emb`, about `most` block numbers, `fin`. sites: index -> name."""
    blocks = {i: n.split(".")[1] for i, n in sites.items() if n.startswith("resid_post.")}
    short = {"embed": "emb", "final_norm": "fin"}
    ends = {i: short.get(name, name) for i, name in sites.items() if i not in blocks}
    step = next(s for s in (1, 2, 3, 4, 5, 8, 10, 15, 20, 40) if len(blocks) <= s * most or s == 40)
    # A block number beside an end would be printed over it.
    apart = max(1, round(max(sites) / 20))
    free = [i for i in blocks if all(abs(i - end) >= apart for end in ends)]
    chosen = dict(
        sorted(({i: blocks[i] for i in free if int(blocks[i]) % step == 0} | ends).items())
    )
    getattr(axes, f"{which}axis").set_ticks(list(chosen), list(chosen.values()))


def layer_line(axes, rows, colour: str, *, dash="-", width=1.8, interval=True) -> None:
    """One measure over sites, with its 95% interval.

    rows: layer, value, low, high. A row without a value is a gap: undefined there. A site without
    a row was not measured, and the line passes over it.
    """
    rows = rows.drop_duplicates("layer").sort_values("layer")
    look = {"linestyle": dash, "linewidth": width, "marker": ".", "markersize": 2.5 * width**0.5}
    axes.plot(rows.layer, rows.value, color=colour, **look)
    if interval and rows.low.notna().any():
        style.band(axes, rows.layer, rows.low, rows.high, colour)
