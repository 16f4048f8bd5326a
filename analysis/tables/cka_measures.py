"""The rows of cka_measures.csv: rote states against each family by any other similarity of analysis.measures.similarity.

    python -m analysis.cka RUN_DIR --measure procrustes_distance rsa

What a measure needs is read from its declaration (analysis.measures.similarity.MEASURES): how many rows at least, whether larger
is more similar (else the null is one-sided the other way), its chance level, and which rotations leave it unchanged, so
that n columns can stand for d. Within one relation and one prompt, then averaged, as in cka.csv; brute-force jackknife.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from analysis.measures.checks import why_degenerate
from analysis.measures.similarity import MEASURES, Measure, fewest_columns
from analysis.measures.statistics import permutations
from analysis.tables.driver import scored_tables
from analysis.tables.stack import Stack, sites_first, summary_rows
from probing.states import Design, States
from training.base.console import progress
from training.base.errors import BadInput
from training.base.words import p_words


def measures_table_for(states: Design, measures: Sequence[Measure], *, permutations: int = 199):
    """tables/cka_measures.csv of a run: these measures of rote states and each family."""
    rows = {"cka_measures": lambda there: rows_of(there, measures, permutations)}
    (table,) = scored_tables(states, rows, [permutations, *(m.name for m in measures)])
    return table


def measure_lines(table, states: Design) -> list[str]:
    """The value of each further measure at its best site, test prompts, beside the unrelated ones and chance."""
    family = "test" if "test" in states.families else states.families[0]
    lines = []
    for measure, some in table[table.relation == "bound"].groupby("measure", sort=False):
        closest = {m.name: m.larger_is_more_similar for m in choose([measure])}[measure]
        for checkpoint in states.checkpoints:
            here = some[(some.checkpoint == checkpoint.name) & some.value.notna()]
            rows = here[here.family == family]
            if not len(rows):
                continue
            best = rows.loc[rows.value.idxmax() if closest else rows.value.idxmin()]
            beside = here[(here.family == "unrelated") & (here.site == best.site)].value
            control = f", unrelated {beside.iloc[0]:.2f}" if len(beside) else ""
            chance = "" if np.isnan(best.chance) else f", chance {best.chance:.2f}"
            lines.append(
                f"{measure} at {checkpoint.name}: {family} {best.value:.2f} [{best.low:.2f}, {best.high:.2f}]{control}"
                f"{chance}, {p_words(best.null_p_max)} at {best.site} (n={int(best.n)})"
            )
    return lines


Array = np.ndarray


IN_CKA_TABLE = "linear_cka"


def choose(names: Sequence[str]) -> list[Measure]:
    """The measures of these names. Raises BadInput with the names there are."""
    there = {m.name: m for m in MEASURES if m.name != IN_CKA_TABLE}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise BadInput(
            f"--measure {' '.join(unknown)}; expected some of {', '.join(there)} "
            f"({IN_CKA_TABLE}, debiased, is always in cka.csv)"
        )
    return [there[name] for name in names]


def rows_of(there: States, measures: Sequence[Measure], draws: int) -> Iterator[dict]:
    """All rows of cka_measures.csv of one checkpoint: the headline split, every family and site."""

    states, split = there.design, there.design.splits[0]
    total = len(measures) * len(states.families) * len(states.relations)
    with progress(total=total, label=f"measures {there.checkpoint.name}") as bar:
        for measure in measures:
            for family in states.families:
                stacks, common = {}, {"family": family, "split": split, "measure": measure.name}
                for relation in states.relations:
                    bar.update(1)
                    rows = states.rows(relation, split)
                    if not states.prompts_of(relation, family):
                        continue
                    if len(rows) <= measure.minimum_n:
                        reason = f"{len(rows)} {split} subjects; more than {measure.minimum_n} are needed"
                        yield {
                            **there.checkpoint.stage,
                            **common,
                            "relation": relation,
                            "value": np.nan,
                            "reason": reason,
                        }
                        continue
                    x = sites_first(there[relation, "rote"][rows])
                    ys = [sites_first(y[rows]) for y in there[relation, family]]
                    stacks[relation] = measure_stack(measure, x, ys, draws, states.run.seed)
                for row in summary_rows(there, stacks, common):
                    # A row of several relations counts all their subjects; chance is that of each relation.
                    own = stacks.get(row["relation"])
                    yield _declared(
                        measure, row, own.n if own else min(s.n for s in stacks.values())
                    )


def measure_stack(measure: Measure, x: Array, ys: Sequence[Array], draws: int, seed: int) -> Stack:
    """The measure of x (S, n, d) with each prompt's states ys[p], larger being more similar: a distance is negated."""
    sites, n, d = x.shape
    sign = 1 if measure.larger_is_more_similar else -1
    orders = permutations(n, draws, seed)
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
                kept = ~np.eye(n, dtype=bool)
                left_out[p, s] = [sign * measure.function(a[rows], b[rows]) for rows in kept]
                null[p, :, s] = [sign * measure.function(a, b[order]) for order in orders]
    return Stack(values, left_out, null.mean(axis=0), d)


def narrowed(measure: Measure, x: Array, y: Array) -> tuple[Array, Array]:
    """x (n, d_x), y (n, d_y) in fewer columns, turned as the measure's declared invariances allow: the same value."""
    if "rotation" in measure.invariances:
        return fewest_columns(x), fewest_columns(y)
    if "joint rotation" in measure.invariances and x.shape[1] == y.shape[1]:
        both = fewest_columns(np.concatenate([x, y]))
        return both[: len(x)], both[len(x) :]
    return x, y


def _declared(measure: Measure, row: dict, n: int) -> dict:
    """A row with the measure's own sign, its chance level with n rows and name of estimator."""
    d = int(row["d"])
    row = {
        **row,
        "estimator": measure.source,
        "chance": np.nan if measure.chance is None else measure.chance(n, d),
    }
    if measure.larger_is_more_similar:
        return row
    return {
        **row,
        "value": -row["value"],
        "low": -row["high"],
        "high": -row["low"],
        "null_low": -row.get("null_high", np.nan),
        "null_high": np.nan,
    }
