"""tables/probes.csv: do object probes fitted on some subjects' states read other subjects' states?

A probe scored on its own subjects reads the name, so subjects are cut into folds: probes are fitted
on all folds but one and scored on that one. Definitions: analysis.measures.transfer.
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
from training.runs.table_files import headline_split, pick

MEASURE, ESTIMATOR = "transfer_accuracy", "ridge classifier, entity folds"
SEMANTIC = ("rote->semantic", "semantic->rote", "semantic->semantic")
# Raise it when the rows change, so that rows kept from earlier code are computed again.
VERSION = 2


def probe_table(design: Design, *, permutations: int = 199, folds: int = FOLDS):
    """Write tables/probes.csv of a run and return it as a DataFrame.

        table = probe_table(Design.of(Run.open("runs/demo")), permutations=999)
        table[(table.direction == "rote->semantic") & (table.null_p_max <= 0.05)]

    One row per checkpoint, family, direction, split, relation (also bound and unbound) and site.
    rote->semantic: fitted on rote states, scored on every prompt of the family; semantic->rote and
    semantic->semantic: fitted on the family's first prompt. Fitting uses subjects of all splits
    outside the fold; `split` is that of the scored ones. Columns: value, low, high (jackknife over
    subjects), null_p, null_high (95% quantile), null_p_max (corrected for the best site), all with
    subjects permuted; null_p_objects, null_p_objects_max (whole objects permuted), chance, n, d,
    n_prompts, reason (why value is NaN). Checkpoints scored before from the same content are read.
    """
    rows = {"probes": lambda states: probe_rows(states, permutations, folds)}
    (table,) = scored_tables(design, rows, [permutations, folds, VERSION])
    return table


def probe_rows(states: States, permutations: int, folds: int) -> Iterator[dict]:
    """All rows of one checkpoint."""
    design, checkpoint = states.design, states.checkpoint
    answers: dict[tuple[str, str], dict[str, Transfer | str]] = {}
    for relation in progress(design.relations, label=f"object probes {checkpoint.name}"):
        for key, answer in _answers(states, relation, folds):
            answers.setdefault(key, {})[relation] = answer
    for (direction, family), by_relation in answers.items():
        for split in design.splits:
            common = {
                **checkpoint.stage,
                "family": family,
                "direction": direction,
                "split": split,
                "measure": MEASURE,
                "estimator": ESTIMATOR,
            }
            yield from _split_rows(states, by_relation, common, permutations)


def _answers(states: States, relation: str, folds: int) -> Iterator[tuple]:
    """((direction, family), what the probes answered about all subjects, or why they cannot)."""
    design = states.design
    families = [f for f in design.families if design.prompts_of(relation, f)]
    rote = states[relation, "rote"]

    def fit(x: np.ndarray):
        objects, seed = design.objects(relation), design.run.seed
        return fit_probes(x, objects, folds=folds, seed=seed, allow_degenerate=True)

    try:
        probes = fit(rote)
    except (NotIdentifiable, TooFewRows) as error:
        yield ("rote->rote", "rote"), str(error)
        yield from (((way, family), str(error)) for family in families for way in SEMANTIC)
        return
    yield ("rote->rote", "rote"), probes.score(rote, allow_degenerate=True)
    for family in families:
        semantic = states[relation, family]
        back = fit(semantic[0])
        yield ("rote->semantic", family), probes.score(semantic, allow_degenerate=True)
        yield ("semantic->rote", family), back.score(rote, allow_degenerate=True)
        yield ("semantic->semantic", family), back.score(semantic, allow_degenerate=True)


def _split_rows(
    states: States, answers: dict[str, Transfer | str], common: dict, draws: int
) -> Iterator[dict]:
    """Rows of every relation, and of bound and unbound ones together, at every site of a split."""
    design, seed = states.design, states.design.run.seed
    found: dict[str, Scores | str] = {}
    prompts = 0
    for place, (relation, answer) in enumerate(answers.items()):
        rows = design.rows(relation, common["split"])
        try:
            if isinstance(answer, str):
                raise NotIdentifiable(answer)
            some = answer.of(rows)
        except NotIdentifiable as error:
            found[relation] = str(error)
            continue
        subjects = np.array(design.subjects(relation))[rows]
        pairs = some.pair_scores()
        scores = paired_scores(pairs, subjects, some.reasons, draws, seed, chance=some.chance)
        # Separate permutations per relation: their object sets differ.
        null = some.object_null(draws, [seed, place])
        found[relation] = replace(scores, object_null=null)
        prompts = max(prompts, len(some.predictions))
    shape = {"d": states.width, "n_prompts": prompts}
    for row in relation_rows(found, states.sites, bound=design.bound, unbound=design.unbound):
        yield {**common, **shape, **row}


def probe_lines(table) -> list[str]:
    """Transfer from rote to test prompts of other subjects, at each checkpoint's best site."""
    split = headline_split(table)
    some = pick(table, direction="rote->semantic", split=split, relation=("bound", "unbound"))
    family = "test" if "test" in set(some.family) else next(iter(some.family), "")
    some = pick(some, family=family)
    if not len(some):
        return []
    title = f"object probe fitted on rote states, scored on {family} prompts of OTHER subjects"
    title = f"{title} ({split})"
    scored = some[some.value.notna()]
    if len(scored):
        sites = scored.site.nunique()
        title += f", n={int(scored.n.max())}; p corrected for the best of {sites} sites"
    lines = [title]
    for relation, there in some.groupby("relation", sort=False):
        if there.value.isna().all():
            lines.append(f"  {relation} relations: {there.reason.dropna().iloc[0]}")
            continue
        chance = two_places(there.chance.mean())
        lines.append(f"  {relation} relations (guessing without knowing: {chance})")
        for checkpoint, here in there.groupby("checkpoint", sort=False):
            lines.append(f"    {checkpoint:<25} {_best_words(here[here.value.notna()])}")
    return lines


def _best_words(rows) -> str:
    if not len(rows):
        return "no site could be scored"
    best = rows.loc[rows.value.idxmax()]
    null = "" if np.isnan(best.null_high) else f"shuffled up to {two_places(best.null_high)}  "
    return f"{span(best)}  {null}{p_words(best.null_p_max)}  at {best.site}"
