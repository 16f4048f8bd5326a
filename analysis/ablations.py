"""Which setting matters? The conditions of a sweep side by side, with intervals over seeds and paired tests by seed.

    python -m analysis.ablations results/little-meaning
    python -m analysis.ablations results/little-meaning --against "generalize.prompts 10" --relation bound
    python -m analysis.ablations results/mine --by generalize.people --unit seed memorize.model

Reads tables/sweep.csv of a sweep (or any table of yours with the columns run, seed, measure and value), writes
tables/ablations.csv (a row a condition, and a row a paired difference to the reference condition) and
figures/ablations.png. Intervals and tests are over seeds, never over people or rows. A measure over sites is taken at
each run's largest site at the end: differences between conditions can be read, its height above zero or chance cannot,
and its change in phase 2 is that of the same site.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.across.conditions import (
    NoConditions,
    _endpoints,
    ablation_lines,
    compare,
    labelled_table,
    values_of,
)
from figures.ablations import draw
from training.base.console import run_command
from training.base.files import seal, write_text
from training.base.provenance import commit


@dataclass
class Options:
    """Options of the comparison of conditions."""

    results: tyro.conf.Positional[Path]
    """A folder with tables/sweep.csv."""
    by: tuple[str, ...] = ()
    """Columns that make a condition; default: all that the sweep varied, but for the unit."""
    unit: tuple[str, ...] = ()
    """Columns whose values are independent repetitions, paired across conditions, values within one averaged; default:
    seed, or what the grid file says."""
    against: str = ""
    """The condition that others are compared with, by its label; default: the first."""
    measure: str = ""
    """Only this measure (with the five below), in place of the usual endpoints."""
    table: str = "recall"
    """Of --measure: the table it comes from."""
    family: str = "test"
    """Of --measure: the prompt family; "" for any."""
    subset: str = "all"
    """Of --measure: the subset of prompts, such as keyword-free; "" for any."""
    split: str = ""
    """The split of subjects; default: held-out where there is one."""
    phase: str = ""
    """Only this phase; default: the last that each run has."""
    relation: str = "bound"
    """Of --measure: bound, unbound, "bound - unbound", or "" for any."""


def main(options: Options):
    """Write the table, print the comparison, draw; return the table. Raises NoConditions."""
    import pandas as pd

    labelled, by, unit, said = labelled_table(options.results, by=options.by, unit=options.unit)
    against = options.against or said.get("against", "")
    if against and against not in set(labelled["label"]):
        there = "; ".join(dict.fromkeys(labelled["label"]))
        raise NoConditions(f"there is no condition {against!r}; there are: {there}.")
    rows, missing = [], {}
    for endpoint in _endpoints(options):
        try:
            values = values_of(labelled, endpoint, unit, split=options.split, phase=options.phase)
            rows += compare(values, endpoint, against=against)
        except NoConditions as reason:
            missing[f"{endpoint.name}, {endpoint.relation or 'any relation'}"] = str(reason)
    if not rows:
        raise NoConditions("; ".join(missing.values()))
    settings = labelled.drop_duplicates("label").set_index("label")[by]
    found = pd.DataFrame(rows)
    found = found.join(settings, on="label").assign(unit=" ".join(unit), commit=commit())
    path = Path(options.results) / "tables" / "ablations.csv"
    write_text(path, found.round(6).to_csv(index=False))
    seal(path.parent, [path.name])
    print("\n".join(ablation_lines(found)))
    if missing:
        print(f"left out, for the table has no rows of them: {'; '.join(missing)}")

    drawn = draw(options.results)
    print(f"wrote {path} ({len(found)} rows), {', '.join(p.name for p in drawn)}")
    return found


if __name__ == "__main__":
    run_command(main, Options, __doc__)
