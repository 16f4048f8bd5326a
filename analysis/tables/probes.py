"""tables/probes.csv: do probes fitted on some subjects' states read other subjects' states?"""

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
VERSION = 2


def probe_table(design: Design, *, permutations: int = 199, folds: int = FOLDS):
    """Write tables/probes.csv of a run and return it as a DataFrame.

        table = probe_table(Design.of(Run.open("runs/demo")), permutations=999)
        table[(table.direction == "rote->semantic") & (table.null_p_max <= 0.05)]

    One row per checkpoint, family, direction, split, relation (also bound and unbound) and site.
    rote->semantic: fitted on rote states, scored on every prompt of the family; semantic->rote and
    semantic->semantic: fitted on the family's first prompt. `split` is that of the scored subjects;
    probes are fitted on all splits. Columns: value, low, high (jackknife over subjects), null_p,
    null_high (95% quantile), null_p_max (corrected for the best site), all with subjects permuted;
    null_p_objects, null_p_objects_max (whole objects permuted), chance, n, d, n_prompts, reason.
    """
    rows = {"probes": lambda states: probe_rows(states, permutations, folds)}
    (table,) = scored_tables(design, rows, [permutations, folds, VERSION])
    return table


def probe_rows(states: States, permutations: int, folds: int) -> Iterator[dict]:
    design, checkpoint = states.design, states.checkpoint
    answers: dict[tuple[str, str], dict[str, Transfer | str]] = {}
    for relation in progress(design.relations, label=f"object probes {checkpoint.name}"):
        for key, answer in _answers(states, relation, folds):
            answers.setdefault(key, {})[relation] = answer
    for (direction, family), by_relation in answers.items():
        for split in design.splits:
            about = {"family": family, "direction": direction, "split": split}
            about |= {"measure": MEASURE, "estimator": ESTIMATOR}
            yield from _split_rows(states, by_relation, checkpoint.stage | about, permutations)


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


def _split_rows(states: States, answers: dict, common: dict, draws: int) -> Iterator[dict]:
    """Rows of every relation, and of bound and unbound ones together, at every site of a split."""
    design, seed, prompts = states.design, states.design.run.seed, 0
    found: dict[str, Scores | str] = {}
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
        how = subjects, some.reasons, draws, seed
        scores = paired_scores(some.pair_scores(), *how, chance=some.chance)
        # Separate permutations per relation: their object sets differ.
        found[relation] = replace(scores, object_null=some.object_null(draws, [seed, place]))
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
    lines, scored = [f"{title} ({split})"], some[some.value.notna()]
    if len(scored):
        sites = scored.site.nunique()
        lines[0] += f", n={int(scored.n.max())}; p corrected for the best of {sites} sites"
    for relation, there in some.groupby("relation", sort=False):
        if there.value.isna().all():
            lines.append(f"  {relation} relations: {there.reason.dropna().iloc[0]}")
            continue
        chance = two_places(there.chance.mean())
        lines.append(f"  {relation} relations (guessing without knowing: {chance})")
        for checkpoint, here in there.groupby("checkpoint", sort=False):
            words = "no site could be scored"
            if here.value.notna().any():
                best = here.loc[here.value.idxmax()]
                words = f"{span(best)}  {p_words(best.null_p_max)}  at {best.site}"
                if not np.isnan(best.null_high):
                    words += f"  shuffled up to {two_places(best.null_high)}"
            lines.append(f"    {checkpoint:<25} {words}")
    return lines
