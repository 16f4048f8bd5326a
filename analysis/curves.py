"""What a condition reaches with how many training tokens: the curves of a sweep that kept every checkpoint.

    python -m analysis.curves results/tokens

Reads tables/sweep.csv of a sweep whose grid file asks for every checkpoint of a table (`[rows.recall]` with
`checkpoint = ["all"]`), writes tables/curves.csv and draws figures/curves.png: a curve an endpoint of
`analysis.ablations` and condition, a point a checkpoint that all runs of the condition have, over the tokens that its
weights were trained on since the base model. Intervals are over seeds.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.conditions import labelled_table
from analysis.across.curves import LEAST_POINTS, _curves, _endpoints, curve_lines, tokens_at
from figures.curves import draw
from training.base.console import run_command
from training.base.errors import NotFound
from training.base.files import seal, write_text
from training.base.provenance import commit


@dataclass
class Options:
    """Options of the curves over training tokens."""

    results: tyro.conf.Positional[Path]
    """A folder with tables/sweep.csv."""


def main(options: Options):
    """Write the table, print where each curve ends, draw; return the table. Raises NoConditions, NotFound."""
    import pandas as pd

    table, _, unit, _ = labelled_table(options.results)
    along = {"checkpoint", "phase", "step", "reference"} <= set(table)
    tokens = tokens_at(table) if along else {}
    found = [
        curve
        for endpoint in (_endpoints() if along else ())
        for curve in _curves(table, endpoint, unit, tokens)
    ]
    if not found:
        raise NotFound(
            f"no endpoint of {options.results} has {LEAST_POINTS} checkpoints. Save more of them (save_epochs, "
            'save_steps) and keep their rows: [rows.recall] with checkpoint = ["all"]'
        )
    curves = pd.DataFrame(found).assign(unit=" ".join(unit), commit=commit())
    path = Path(options.results) / "tables" / "curves.csv"
    write_text(path, curves.round(6).to_csv(index=False))
    seal(path.parent, [path.name])
    print("\n".join(curve_lines(curves)))

    drawn = draw(options.results)
    print(f"wrote {path} ({len(curves)} rows), {', '.join(p.name for p in drawn)}")
    return curves


if __name__ == "__main__":
    run_command(main, Options, __doc__)
