"""Can an object probe fitted on rote states read semantic states of OTHER subjects, and the other way round?

    python -m analysis.probes RUN_DIR
    python -m analysis.probes RUN_DIR --families test unrelated --permutations 999 --no-controls
    python -m analysis.probes ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/probes.csv and tables/probe_controls.csv, then
draws figures/probes.png and figures/probe_controls.png. The subjects are cut into folds: probes are fitted on four
fifths of them and scored on the last fifth. A probe that is scored on its own subjects reads the name.
The functions are for notebooks too: `from analysis.probes import transfer, probe, selectivity, online_code, ridge_map`.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from analysis.measures.checks import NotIdentifiable, TooFewRows
from analysis.measures.scores import Scores, paired_scores, relation_rows
from analysis.measures.transfer import FOLDS, Transfer, fit_probes
from analysis.tables.driver import scored_tables
from probing.states import Design, States
from training.base.console import progress
from training.base.words import p_words, span, two_places
from training.runs.table_files import headline_split

Array = np.ndarray


ESTIMATOR = "ridge classifier, entity folds"


MEASURE = "transfer_accuracy"


SEMANTIC = ("rote->semantic", "semantic->rote", "semantic->semantic")


def table_for(states: Design, *, permutations: int = 199, folds: int = FOLDS):
    """tables/probes.csv of a run; checkpoints scored before with the same inputs are read, not scored."""
    (table,) = scored_tables(
        states,
        {"probes": lambda there: rows_of(there, permutations, folds)},
        # Rows that were kept before there was a null over objects, or a chance of guessing, are made again.
        [permutations, folds, "null over objects", "chance of guessing"],
    )
    return table


def rows_of(there: States, permutations: int, folds: int) -> Iterator[dict]:
    """All rows of probes.csv of one checkpoint: relation (also bound, unbound) x family x split x site x direction.

    rote->semantic is fitted on the rote states and scored on every prompt of the family; semantic->rote and
    semantic->semantic are fitted on the family's first prompt. Fitting uses the subjects of all splits
    outside the fold; `split` is that of the scored ones. Where a relation's objects cannot be probed the
    value is NaN, with a reason.
    """

    states, checkpoint = there.design, there.checkpoint
    answers: dict[tuple[str, str], dict[str, Transfer | str]] = {}
    with progress(
        total=len(states.relations) * (1 + len(states.families)),
        label=f"object probes {checkpoint.name}",
    ) as bar:
        for relation in states.relations:
            for key, answer in _answers(there, relation, folds):
                answers.setdefault(key, {})[relation] = answer
                bar.update(key[0] in ("rote->rote", "semantic->semantic"))
    for (direction, family), by_relation in answers.items():
        for split in states.splits:
            common = {
                **there.checkpoint.stage,
                "family": family,
                "direction": direction,
                "split": split,
                "measure": MEASURE,
                "estimator": ESTIMATOR,
            }
            yield from _split_rows(there, by_relation, common, permutations)


def _answers(
    there: States, relation: str, folds: int
) -> Iterator[tuple[tuple[str, str], Transfer | str]]:
    """((direction, family), what the probes answered about all subjects, or why they cannot)."""
    states = there.design
    families = [f for f in states.families if states.prompts_of(relation, f)]
    objects, seed = states.objects(relation), states.run.seed

    def fit(x: Array):
        return fit_probes(x, objects, folds=folds, seed=seed, allow_degenerate=True)

    rote = there[relation, "rote"]
    try:
        probes = fit(rote)
    except (NotIdentifiable, TooFewRows) as error:
        yield ("rote->rote", "rote"), str(error)
        for family in families:
            yield from (((direction, family), str(error)) for direction in SEMANTIC)
        return
    yield ("rote->rote", "rote"), probes.score(rote, allow_degenerate=True)
    for family in families:
        semantic = there[relation, family]
        yield ("rote->semantic", family), probes.score(semantic, allow_degenerate=True)
        back = fit(semantic[0])
        yield ("semantic->rote", family), back.score(rote, allow_degenerate=True)
        yield ("semantic->semantic", family), back.score(semantic, allow_degenerate=True)


def _split_rows(
    there: States, answers: dict[str, Transfer | str], common: dict, draws: int
) -> Iterator[dict]:
    """Rows of every relation, and of bound and unbound ones together, at every site, for one split."""
    states = there.design
    found: dict[str, Scores | str] = {}
    prompts = 0
    for place, (relation, answer) in enumerate(answers.items()):
        rows = states.rows(relation, common["split"])
        try:
            if isinstance(answer, str):
                raise NotIdentifiable(answer)
            some = answer.of(rows)
        except NotIdentifiable as error:
            found[relation] = str(error)
            continue
        scores = paired_scores(
            some.pair_scores(),
            np.array(states.subjects(relation))[rows],
            some.reasons,
            draws,
            states.run.seed,
            chance=some.chance,
        )
        # Of each relation its own draws: their objects are different things.
        found[relation] = replace(
            scores, object_null=some.object_null(draws, [states.run.seed, place])
        )
        prompts = max(prompts, len(some.predictions))
    shape = {"d": there.width, "n_prompts": prompts}
    for row in relation_rows(found, there.sites, bound=states.bound, unbound=states.unbound):
        yield {**common, **shape, **row}


def verdict_lines(table) -> list[str]:
    """The best site's transfer from rote to test prompts of other subjects, by checkpoint, in words."""
    split = headline_split(table)
    some = table[(table.direction == "rote->semantic") & (table.split == split)]
    family = "test" if "test" in set(some.family) else next(iter(some.family), "")
    some = some[(some.family == family) & some.relation.isin(["bound", "unbound"])]
    if not len(some):
        return []
    scored = some[some.value.notna()]
    lines = [
        f"object probe fitted on rote states, scored on {family} prompts of OTHER subjects ({split})"
    ]
    if len(scored):
        lines[0] += (
            f", n={int(scored.n.max())}; p corrected for the best of {scored.site.nunique()} sites"
        )
    for relation in ("bound", "unbound"):
        there = some[some.relation == relation]
        if not len(there):
            continue
        if there.value.isna().all():
            lines.append(f"  {relation} relations: {there.reason.dropna().iloc[0]}")
            continue
        lines.append(
            f"  {relation} relations (guessing without knowing: {two_places(there.chance.mean())})"
        )
        for checkpoint in dict.fromkeys(there.checkpoint):
            here = there[(there.checkpoint == checkpoint) & there.value.notna()]
            if not len(here):
                lines.append(f"    {checkpoint:<25} no site could be scored")
                continue
            best = here.loc[here.value.idxmax()]
            null = (
                "" if np.isnan(best.null_high) else f"shuffled up to {two_places(best.null_high)}  "
            )
            p = p_words(best.null_p_max)
            lines.append(f"    {checkpoint:<25} {span(best)}  {null}{p}  at {best.site}")
    return lines
