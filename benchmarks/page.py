"""The tables of docs/measures.md, from the declared MEASURES and the tables of results/benchmarks.

    python -m benchmarks.page

Rewrites the text between `<!-- table NAME -->` and `<!-- end -->` and leaves the rest of the page
as it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.base.errors import UserError

PLACE = re.compile(r"(<!-- table (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
# n and d at which chance is shown: fewer subjects than dimensions, as in runs on language models.
CHANCE_AT = (40, 576)


class UnknownTable(UserError):
    """The page names a table that this module does not generate."""


@dataclass
class Options:
    """Options of the page."""

    page: Path = Path("docs/measures.md")
    """Page whose tables are rewritten."""
    results: Path = Path("results/benchmarks")
    """Folder with the benchmark tables."""


def measures(results: Path) -> str:
    """One row per declared measure."""
    from analysis.measures.similarity import MEASURES

    n, d = CHANCE_AT
    rows = []
    for m in MEASURES:
        low, high = m.range
        chance = "unknown" if m.chance is None else f"{m.chance(n, d):.3g}"
        rows.append(
            [
                f"`{m.name}`",
                f"{low:g} to {high:.3g}",
                chance,
                "more similar" if m.larger_is_more_similar else "less similar",
                ", ".join(sorted(m.invariances)),
                ", ".join(sorted(m.changes)),
                f"{m.identity:g}",
                str(m.minimum_n),
                _source(m.source),
            ]
        )
    head = [
        "measure",
        "range",
        f"chance (n={n}, d={d})",
        "larger means",
        "invariant to",
        "changed by",
    ]
    return markdown([*head, "set with itself", "minimum n", "source"], rows)


def calibration(results: Path) -> str:
    """One row per rate."""
    rows = [
        [
            row.check,
            row.setting,
            row.n,
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]",
            f"{row.wanted:g}",
            row.repetitions,
        ]
        for row in _read(results, "calibration").itertuples()
    ]
    return markdown(["check", "setting", "n", "rate [95% interval]", "wanted", "draws"], rows)


def planted(results: Path) -> str:
    """One row per kind of planted states."""
    table = _read(results, "planted")
    rows = []
    for row in table.itertuples():
        spans = []
        for m in ("transfer", "raw_cka", "largest_row_contrast", "contrast", "partialled"):
            value, low, high = (getattr(row, m + end) for end in ("", "_low", "_high"))
            spans.append(f"{value:.2f} ({low:.2f} to {high:.2f})")
        rows.append([row.kind, row.draws, f"{row.error_rate:.2f}", *spans])
    head = [
        "planted",
        "draws",
        "wrong",
        "transfer",
        "raw CKA",
        "largest one-row contrast",
        "crossed contrast",
    ]
    return markdown([*head, "answer partialled out"], rows)


def trained(results: Path) -> str:
    """One row per kind of trained models: means over seeds, and their range."""
    table = _read(results, "trained")
    rows = []
    for kind, some in table.groupby("kind", sort=False):
        measures = (
            "recall_rote",
            "recall_test",
            "followed",
            "kept",
            "transfer",
            "raw_cka",
            "largest_row_contrast",
        )
        spans = [
            f"{some[m].mean():.2f} ({some[m].min():.2f} to {some[m].max():.2f})" for m in measures
        ]
        labels = ", ".join(f"{label} {count}" for label, count in some.label.value_counts().items())
        rows.append([kind, len(some), labels, *spans])
    head = [
        "trained",
        "models",
        "labels given",
        "recall, rote",
        "recall, test",
        "followed the edit",
        "kept the old answer",
    ]
    return markdown([*head, "transfer", "raw CKA", "largest one-row contrast"], rows)


def speed(results: Path) -> str:
    """One row per ratio."""
    table = _read(results, "similarity")
    first = table.iloc[0]
    rows = [
        [row.quantity, f"{row.ratio:.2f}", row.wanted if isinstance(row.wanted, str) else ""]
        for row in table.itertuples()
        if row.ratio == row.ratio
    ]
    words = (
        f"{first.sites} x {first.sites} sites, n={first.rows}, d={first.width}, {first.threads} "
        f"thread(s), numpy {first.numpy}; `linear_cka_grid` took {first.cpu_seconds:.2f} CPU "
        "seconds.\n\n"
    )
    return words + markdown(["quantity", "ratio", "wanted"], rows)


TABLES: dict[str, Callable[[Path], str]] = {
    "measures": measures,
    "calibration": calibration,
    "planted": planted,
    "trained": trained,
    "speed": speed,
}


def filled(page: str, results: Path) -> str:
    """`page` with every table filled in. Raises UnknownTable, BenchmarkMissing."""

    def table(place: re.Match) -> str:
        before, name, _, after = place.groups()
        if name not in TABLES:
            raise UnknownTable(
                f"the page asks for table {name!r}; expected one of {', '.join(TABLES)}"
            )
        return f"{before}{TABLES[name](results)}{after}"

    return PLACE.sub(table, page)


def markdown(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


class BenchmarkMissing(UserError):
    """A table of results/benchmarks does not exist yet."""


def _read(results: Path, name: str):
    import pandas as pd

    path = results / f"{name}.csv"
    if not path.exists():
        raise BenchmarkMissing(f"{path} does not exist. Generate it: python -m benchmarks.{name}")
    return pd.read_csv(path)


def _source(source: str) -> str:
    kind, _, number = source.partition(":")
    links = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"[{source}]({links[kind]}{number})" if kind in links else "this page"


def main(options: Options) -> None:
    """Rewrite the page."""
    from training.base.files import write_text

    page = options.page.read_text(encoding="utf-8")
    write_text(options.page, filled(page, options.results))
    print(f"wrote {options.page}")


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
