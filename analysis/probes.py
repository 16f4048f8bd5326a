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
from dataclasses import dataclass, replace

import numpy as np

from analysis.controls import control_labels, linear_probe, online_code, probe, relation_probe, ridge_map, selectivity
from analysis.inputs import NotIdentifiable, TooFewRows
from analysis.run_states import CheckpointStates, RunStates, scored_tables
from analysis.transfer import FOLDS, Scores, Transfer, fit_probes, paired_scores, relation_rows, transfer
from training.prompts import Preset
from training.run_options import RunOptions
from training.tables import headline_split

__all__ = [
    "Options",
    "control_labels",
    "linear_probe",
    "main",
    "online_code",
    "probe",
    "relation_probe",
    "ridge_map",
    "selectivity",
    "table_for",
    "transfer",
    "verdict_lines",
]

Array = np.ndarray
ESTIMATOR = "ridge classifier, entity folds"
MEASURE = "transfer_accuracy"
SEMANTIC = ("rote->semantic", "semantic->rote", "semantic->semantic")


@dataclass
class Options(RunOptions):
    """Options of the object probes."""

    preset: Preset = "demo"
    """demo: 3 test prompts and 1 of each other family; full: every prompt."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    permutations: int = 199
    """Draws of the permutation null; p is never below 1 / (draws + 1)."""
    folds: int = FOLDS
    """Parts the subjects are cut into; each is scored by probes fitted on the others."""
    controls: bool = True
    """Also the relation probe, mass-mean, ridge map, control task, code length and baselines (some minutes more)."""
    control_sites: int = 9
    """About how many sites the controls are made at, evenly spread; 0: at all."""


def main(options: Options):
    """Compute or read the table, print the verdict, draw; return the table."""
    run = options.open()
    states = RunStates.of(run, preset=options.preset, families=options.families)
    print(states.announce())
    table = table_for(states, permutations=options.permutations, folds=options.folds)
    for line in verdict_lines(table):
        print(line)
    from figures import probe_controls, probes

    wrote, drawn = f"{run.tables('probes.csv')} ({len(table):,} rows)", probes.draw(run.path)
    if options.controls:
        found = controls_for(states, folds=options.folds, sites=options.control_sites)
        for line in control_lines(found):
            print(line)
        wrote += f", {run.tables('probe_controls.csv').name} ({len(found):,} rows)"
        drawn += probe_controls.draw(run.path)
    print(f"wrote {wrote}, {', '.join(p.name for p in drawn)}    next: python -m analysis.umap {run.argument}")
    return table


def table_for(states: RunStates, *, permutations: int = 199, folds: int = FOLDS):
    """tables/probes.csv of a run; checkpoints scored before with the same inputs are read, not scored."""
    (table,) = scored_tables(
        states,
        {"probes": lambda there: rows_of(there, permutations, folds)},
        # Rows that were kept before there was a null over objects, or a chance of guessing, are made again.
        [permutations, folds, "null over objects", "chance of guessing"],
    )
    return table


def controls_for(states: RunStates, *, folds: int = FOLDS, sites: int = 9):
    """tables/probe_controls.csv of a run; checkpoints scored before with the same inputs are read, not scored."""
    from analysis.control_rows import rows_of as control_rows

    (table,) = scored_tables(
        states,
        {"probe_controls": lambda there: control_rows(there, folds, sites)},
        [folds, sites, "chance of guessing"],
    )
    return table


def rows_of(there: CheckpointStates, permutations: int, folds: int) -> Iterator[dict]:
    """All rows of probes.csv of one checkpoint: relation (also bound, unbound) x family x split x site x direction.

    rote->semantic is fitted on the rote states and scored on every prompt of the family; semantic->rote and
    semantic->semantic are fitted on the family's first prompt. Fitting uses the subjects of all splits
    outside the fold; `split` is that of the scored ones. Where a relation's objects cannot be probed the
    value is NaN, with a reason.
    """
    from training.console import progress

    states, checkpoint = there.states, there.checkpoint
    answers: dict[tuple[str, str], dict[str, Transfer | str]] = {}
    with progress(
        total=len(states.relations) * (1 + len(states.families)), label=f"object probes {checkpoint.name}"
    ) as bar:
        for relation in states.relations:
            for key, answer in _answers(there, relation, folds):
                answers.setdefault(key, {})[relation] = answer
                bar.update(key[0] in ("rote->rote", "semantic->semantic"))
    for (direction, family), by_relation in answers.items():
        for split in states.splits:
            common = {
                **there.stage,
                "family": family,
                "direction": direction,
                "split": split,
                "measure": MEASURE,
                "estimator": ESTIMATOR,
            }
            yield from _split_rows(there, by_relation, common, permutations)


def _answers(there: CheckpointStates, relation: str, folds: int) -> Iterator[tuple[tuple[str, str], Transfer | str]]:
    """((direction, family), what the probes answered about all subjects, or why they cannot)."""
    states = there.states
    families = [f for f in states.families if states.prompts_of(relation, f)]
    objects, seed = states.objects(relation), states.run.seed

    def fit(x: Array):
        return fit_probes(x, objects, folds=folds, seed=seed, allow_degenerate=True)

    rote = there.rote(relation)
    try:
        probes = fit(rote)
    except (NotIdentifiable, TooFewRows) as error:
        yield ("rote->rote", "rote"), str(error)
        for family in families:
            yield from (((direction, family), str(error)) for direction in SEMANTIC)
        return
    yield ("rote->rote", "rote"), probes.score(rote, allow_degenerate=True)
    for family in families:
        semantic = there.family(relation, family)
        yield ("rote->semantic", family), probes.score(semantic, allow_degenerate=True)
        back = fit(semantic[0])
        yield ("semantic->rote", family), back.score(rote, allow_degenerate=True)
        yield ("semantic->semantic", family), back.score(semantic, allow_degenerate=True)


def _split_rows(
    there: CheckpointStates, answers: dict[str, Transfer | str], common: dict, draws: int
) -> Iterator[dict]:
    """Rows of every relation, and of bound and unbound ones together, at every site, for one split."""
    states = there.states
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
        found[relation] = replace(scores, object_null=some.object_null(draws, [states.run.seed, place]))
        prompts = max(prompts, len(some.predictions))
    shape = {"d": there.values.shape[-1], "n_prompts": prompts}
    for row in relation_rows(found, there.sites, bound=states.bound, unbound=states.unbound):
        yield {**common, **shape, **row}


# --- words ------------------------------------------------------------------------------------------------


def verdict_lines(table) -> list[str]:
    """The best site's transfer from rote to test prompts of other subjects, by checkpoint, in words."""
    split = headline_split(table)
    some = table[(table.direction == "rote->semantic") & (table.split == split)]
    family = "test" if "test" in set(some.family) else next(iter(some.family), "")
    some = some[(some.family == family) & some.relation.isin(["bound", "unbound"])]
    if not len(some):
        return []
    scored = some[some.value.notna()]
    lines = [f"object probe fitted on rote states, scored on {family} prompts of OTHER subjects ({split})"]
    if len(scored):
        lines[0] += f", n={int(scored.n.max())}; p corrected for the best of {scored.site.nunique()} sites"
    for relation in ("bound", "unbound"):
        there = some[some.relation == relation]
        if not len(there):
            continue
        if there.value.isna().all():
            lines.append(f"  {relation} relations: {there.reason.dropna().iloc[0]}")
            continue
        lines.append(f"  {relation} relations (guessing without knowing: {two_places(there.chance.mean())})")
        for checkpoint in dict.fromkeys(there.checkpoint):
            here = there[(there.checkpoint == checkpoint) & there.value.notna()]
            if not len(here):
                lines.append(f"    {checkpoint:<25} no site could be scored")
                continue
            best = here.loc[here.value.idxmax()]
            null = "" if np.isnan(best.null_high) else f"shuffled up to {two_places(best.null_high)}  "
            p = p_words(best.null_p_max)
            lines.append(f"    {checkpoint:<25} {span(best)}  {null}{p}  at {best.site}")
    return lines


# measure, direction, what it says; the second of a pair is what the first has to be held against.
CONTROL_WORDS = (
    ("relation probe, rote to {family} prompts", "relation_accuracy", "rote->semantic", "every"),
    ("the same in an untrained model", "relation_accuracy_untrained", "rote->semantic", "every"),
    ("object transfer by the mass-mean probe", "mass_mean_accuracy", "rote->semantic", "bound"),
    ("object transfer of shuffled objects", "shuffled_accuracy", "rote->semantic", "bound"),
    ("object transfer in an untrained model", "transfer_accuracy_untrained", "rote->semantic", "bound"),
    ("object from the subject's input embedding", "subject_embedding_accuracy", "", "bound"),
    ("own state found through a ridge map", "ridge_map_top1", "rote->semantic", "bound"),
    ("own state found without one", "unmapped_top1", "rote->semantic", "bound"),
    ("object, other subjects", "entity_split_accuracy", "semantic->semantic", "bound"),
    ("object, other prompts about the same subjects", "row_split_accuracy", "semantic->semantic", "bound"),
    ("random object per subject, likewise", "control_accuracy", "semantic->semantic", "bound"),
    ("selectivity", "selectivity", "semantic->semantic", "bound"),
    ("compression of the objects", "compression", "", "bound"),
    ("compression of shuffled objects", "compression_shuffled", "", "bound"),
)


def control_lines(table) -> list[str]:
    """What the controls say at the last checkpoint, each at its best site, test prompts, in words."""
    split = headline_split(table)
    last = list(dict.fromkeys(table.checkpoint))[-1]
    family = "test" if "test" in set(table.family.dropna()) else "train"
    lines = [f"controls at {last}, each at its best site ({split} subjects, {family} prompts)"]
    asked = table[table.split.isin((split, "all")) & table.family.fillna("").isin((family, ""))]
    for words, measure, direction, relation in CONTROL_WORDS:
        some = asked[(asked.measure == measure) & (asked.relation == relation)]
        some = some[some.direction.fillna("") == direction]
        # Untrained weights are the same whatever was trained after: they were read once.
        some = some if measure.endswith("_untrained") else some[some.checkpoint == last]
        scored = some[some.value.notna()]
        if not len(scored):
            if len(some):
                lines.append(f"  {words.format(family=family):<50}{some.reason.dropna().iloc[0]}")
            continue
        best = scored.loc[scored.value.idxmax()]
        at = f"  at {best.site}" if isinstance(best.site, str) and best.site else ""
        lines.append(
            f"  {words.format(family=family):<50}{span(best)}  chance {two_places(best.chance)}  n={int(best.n)}{at}"
        )
    return lines


def two_places(value: float) -> str:
    """`.42`, `-.05`, `1.00`; empty for NaN."""
    return "" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)


def span(row) -> str:
    """`.42 [.31, .53]` of a table row; the value alone where it has no interval."""
    interval = "" if np.isnan(row.low) else f" [{two_places(row.low)}, {two_places(row.high)}]"
    return two_places(row.value) + interval


def p_words(value: float) -> str:
    """`p .005`; empty for NaN."""
    return "" if np.isnan(value) else f"p {value:.3f}".replace("0.", ".", 1)


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
