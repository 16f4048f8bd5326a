"""tables/cka_measures.csv: rote states against each family by other measures than debiased CKA.

What a measure needs is declared in analysis.measures.similarity.MEASURES.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from analysis.measures.checks import why_degenerate
from analysis.measures.similarity import MEASURES, Measure, fewest_columns
from analysis.measures.statistics import permutations
from analysis.tables import stack
from analysis.tables.driver import scored_tables
from analysis.tables.stack import Array, Stack, prompt_states
from probing.states import Design, States
from training.base.console import progress
from training.base.errors import BadInput
from training.base.words import p_words, span, two_places
from training.runs.table_files import pick

VERSION = 1
IN_CKA_TABLE = "linear_cka"


def measures_table(design: Design, measures: Sequence[str], *, permutations: int = 199):
    """Writes tables/cka_measures.csv: the headline split, every family and site.

        measures_table(Design.of(Run.open("runs/demo")), ["rbf_cka", "procrustes_distance"])

    Columns as in cka.csv, and chance; a distance has null_low in place of null_high.
    measures: names of MEASURES, all but linear_cka. Raises BadInput for an unknown name.
    """
    chosen = choose(measures)
    rows = {"cka_measures": lambda there: _rows_of(there, chosen, permutations)}
    (table,) = scored_tables(design, rows, [VERSION, permutations, *measures])
    return table


def choose(names: Sequence[str]) -> list[Measure]:
    """The measures of these names. Raises BadInput that lists the names there are."""
    there = {m.name: m for m in MEASURES if m.name != IN_CKA_TABLE}
    unknown = [name for name in names if name not in there]
    if unknown:
        why = f"expected some of {', '.join(there)} ({IN_CKA_TABLE} is always in cka.csv)"
        raise BadInput(f"--measure {' '.join(unknown)}; {why}")
    return [there[name] for name in names]


def _rows_of(there: States, measures: Sequence[Measure], draws: int) -> Iterator[dict]:
    design, split = there.design, there.design.splits[0]
    kinds = [(measure, family) for measure in measures for family in design.families]
    for measure, family in progress(kinds, label=f"measures {there.checkpoint.name}"):
        stacks, common = {}, {"family": family, "split": split, "measure": measure.name}
        for relation in stack.relations_with(design, family):
            n = len(design.rows(relation, split))
            if n <= measure.minimum_n:
                reason = f"{n} {split} subjects; more than {measure.minimum_n} are needed"
                yield stack.empty_row(there, {**common, "relation": relation}, reason)
                continue
            x = prompt_states(there, relation, "rote", split)[0]
            ys = prompt_states(there, relation, family, split)
            stacks[relation] = measure_stack(measure, x, ys, draws, design.run.seed)
        for row in stack.summary_rows(there, stacks, common):
            # A mean over relations counts all their subjects; its chance is that of one relation.
            own = [stacks[row["relation"]]] if row["relation"] in stacks else stacks.values()
            yield _declared(measure, row, min(s.leave_one_out.shape[-1] for s in own))


def measure_stack(measure: Measure, x: Array, ys: Sequence[Array], draws: int, seed: int) -> Stack:
    """The measure of x (S, n, d) with each prompt's states ys[p]; a distance is negated."""
    sites, n, _ = x.shape
    sign = 1 if measure.larger_is_more_similar else -1
    orders, kept = permutations(n, draws, seed), ~np.eye(n, dtype=bool)
    values, left_out = np.full((len(ys), sites), np.nan), np.full((len(ys), sites, n), np.nan)
    null = np.full((len(ys), draws, sites), np.nan)
    for p, y in enumerate(ys):
        for s in range(sites):
            if why_degenerate(x[s]) or why_degenerate(y[s]):
                continue
            a, b = narrowed(measure, x[s], y[s])
            values[p, s] = sign * measure.function(a, b)
            with warnings.catch_warnings():
                # The first call has warned already.
                warnings.simplefilter("ignore", UserWarning)
                left_out[p, s] = [sign * measure.function(a[rows], b[rows]) for rows in kept]
                null[p, :, s] = [sign * measure.function(a, b[order]) for order in orders]
    return Stack(values, left_out, null.mean(axis=0))


def narrowed(measure: Measure, x: Array, y: Array) -> tuple[Array, Array]:
    """x (n, d_x), y (n, d_y) rotated into fewer columns, as the measure's invariances allow."""
    if "rotation" in measure.invariances:
        return fewest_columns(x), fewest_columns(y)
    if "joint rotation" in measure.invariances and x.shape[1] == y.shape[1]:
        both = fewest_columns(np.concatenate([x, y]))
        return both[: len(x)], both[len(x) :]
    return x, y


def _declared(measure: Measure, row: dict, n: int) -> dict:
    """The row with the measure's source, sign and chance level among n subjects."""
    chance = np.nan if measure.chance is None else measure.chance(n, row["d"])
    row |= {"estimator": measure.source, "chance": chance}
    return row if measure.larger_is_more_similar else as_distance(row) | {"null_high": np.nan}


def as_distance(row: dict) -> dict:
    """The row of a negated distance with its own sign; a null_low stands for null_high."""
    signed = {"value": -row["value"], "low": -row["high"], "high": -row["low"]}
    return row | signed | {"null_low": -row["null_high"]}


def measure_lines(table, design: Design) -> list[str]:
    """Each measure at its best site for test prompts, beside its controls, in words."""
    family = "test" if "test" in design.families else design.families[0]
    lines = []
    some = pick(table, relation="bound").dropna(subset="value")
    for name in some.measure.unique():
        (measure,) = choose([name])
        for checkpoint, here in pick(some, measure=name).groupby("checkpoint", sort=False):
            value = pick(here, family=family).value
            if not len(value):
                continue
            best = here.loc[value.idxmax() if measure.larger_is_more_similar else value.idxmin()]
            words = f"{name} at {checkpoint}: {family} {span(best)}"
            for row in pick(here, family="unrelated", site=best.site).itertuples():
                words += f", unrelated {two_places(row.value)}"
            if not np.isnan(best.chance):
                words += f", chance {two_places(best.chance)}"
            lines.append(f"{words}, {p_words(best.null_p_max)} at {best.site} (n={int(best.n)})")
    return lines
