"""The rows of probe_controls.csv of one checkpoint: what to hold a probe's accuracy against.

measure:
- relation_accuracy: which relation is asked, in the directions of probes.csv; relation "every", chance 1 / relations;
- mass_mean_accuracy, shuffled_accuracy: rote->semantic object transfer by the untuned mass-mean probe, and by the
  tuned one fitted on objects that changed hands;
- transfer_accuracy_untrained, relation_accuracy_untrained: rote->semantic of randomly initialised weights of the same
  configuration, at the run's first checkpoint only: they are the same for all;
- subject_embedding_accuracy: the object from the mean input embedding of the subject's tokens, no site;
- ridge_map_top1, unmapped_top1: does a left-out subject's rote state find its own semantic state, mapped and as it is;
- entity_split_accuracy, row_split_accuracy, control_accuracy, selectivity: the object from all prompts of a family, by
  subjects left out and by prompts left out, and a random object per subject by prompts left out;
- compression, compression_shuffled: online code of the object, rote states and the family's first prompt.
Fitted on subjects of all splits outside the fold; `split` is that of the scored ones. Definitions: analysis.measures.controls.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measures.checks import NotIdentifiable, TooFewRows, why_degenerate
from analysis.measures.controls import (
    OnlineCode,
    control_labels,
    online_code,
    probe,
    relation_probe,
    ridge_map,
    selectivity,
)
from analysis.measures.scores import Scores, relation_rows
from analysis.measures.transfer import FOLDS, Transfer, fit_probes
from analysis.tables.driver import scored_tables
from probing.baselines import subject_embeddings
from probing.states import Design, States
from training.base.console import progress
from training.base.words import span, two_places
from training.runs.table_files import headline_split


def controls_for(states: Design, *, folds: int = FOLDS, sites: int = 9):
    """tables/probe_controls.csv of a run; checkpoints scored before with the same inputs are read, not scored."""

    (table,) = scored_tables(
        states,
        {"probe_controls": lambda there: rows_of(there, folds, sites)},
        [folds, sites, "chance of guessing"],
    )
    return table


# measure, direction, what it says; the second of a pair is what the first has to be held against.
CONTROL_WORDS = (
    ("relation probe, rote to {family} prompts", "relation_accuracy", "rote->semantic", "every"),
    ("the same in an untrained model", "relation_accuracy_untrained", "rote->semantic", "every"),
    ("object transfer by the mass-mean probe", "mass_mean_accuracy", "rote->semantic", "bound"),
    ("object transfer of shuffled objects", "shuffled_accuracy", "rote->semantic", "bound"),
    (
        "object transfer in an untrained model",
        "transfer_accuracy_untrained",
        "rote->semantic",
        "bound",
    ),
    ("object from the subject's input embedding", "subject_embedding_accuracy", "", "bound"),
    ("own state found through a ridge map", "ridge_map_top1", "rote->semantic", "bound"),
    ("own state found without one", "unmapped_top1", "rote->semantic", "bound"),
    ("object, other subjects", "entity_split_accuracy", "semantic->semantic", "bound"),
    (
        "object, other prompts about the same subjects",
        "row_split_accuracy",
        "semantic->semantic",
        "bound",
    ),
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


Array = np.ndarray


FAMILIES = ("train", "test")


SHUFFLES = 3


# Fewer than ALPHAS: these are fitted for every site, fold, inner fold and control task.
PENALTIES = (1.0, 100.0, 10_000.0)


RIDGE = "ridge classifier, entity folds"


UNFIT = (NotIdentifiable, TooFewRows)


@dataclass(frozen=True, eq=False)
class PerSubject:
    """Accuracy (S, n) about each subject of a relation, what guessing gets right (n,), and reasons (S,) for NaN."""

    values: Array
    guess: Array
    reasons: tuple[str | None, ...]

    @classmethod
    def of(cls, found: Transfer) -> "PerSubject":
        """What transferred probes answered."""
        return cls(found.correct.T, np.full(len(found.labels), found.chance), found.reasons)


def control_families(families: Sequence[str]) -> list[str]:
    """The families whose prompts ask their own relation in English; the controls are made on these."""
    return [f for f in families if f in FAMILIES]


def spread(sites: int, wanted: int) -> list[int]:
    """Indices of about `wanted` of so many sites, evenly, with both ends; all for 0."""
    count = sites if wanted == 0 else min(sites, max(wanted, 2))
    return sorted({round(i * (sites - 1) / max(count - 1, 1)) for i in range(count)})


def rows_of(there: States, folds: int, sites: int) -> Iterator[dict]:
    """All rows of probe_controls.csv of one checkpoint, at about `sites` sites."""

    states, at = there.design, spread(len(there.sites), sites)
    families = control_families(states.families)
    first = there.checkpoint.name == states.checkpoints[0].name
    fresh = states.only(families).untrained(there.checkpoint) if first and families else None
    with progress(
        total=len(families) * len(states.relations), label=f"controls {there.checkpoint.name}"
    ) as bar:
        yield from _embedding_rows(there, folds)
        yield from _code_rows(there, at, "rote")
        for family in families:
            yield from _relation_rows(there, at, family, folds)
            if fresh is not None:
                yield from _untrained_rows(there, fresh, at, family, folds)
            found: dict[str, dict[str, PerSubject | str]] = {}
            for relation in states.relations:
                for measure, answer in _object_controls(there, at, relation, family, folds).items():
                    found.setdefault(measure, {})[relation] = answer
                bar.update(1)
            for measure, by_relation in found.items():
                direction = "semantic->semantic" if measure in SAME_STATES else "rote->semantic"
                common = {
                    "measure": measure,
                    "family": family,
                    "direction": direction,
                    "estimator": ESTIMATORS[measure],
                }
                yield from _split_rows(there, at, by_relation, common)
            yield from _code_rows(there, at, family)


SAME_STATES = ("entity_split_accuracy", "row_split_accuracy", "control_accuracy", "selectivity")


ESTIMATORS = {
    "mass_mean_accuracy": "mass-mean, entity folds",
    "shuffled_accuracy": RIDGE,
    "ridge_map_top1": "ridge regression, entity folds",
    "unmapped_top1": "none",
    "entity_split_accuracy": RIDGE,
    "row_split_accuracy": "ridge classifier, prompt folds",
    "control_accuracy": "ridge classifier, prompt folds",
    "selectivity": "ridge classifier, prompt folds",
}


def _object_controls(
    there: States, at: list[int], relation: str, family: str, folds: int
) -> dict[str, PerSubject | str]:
    """Per measure what was scored about the subjects of a relation, or why nothing could be."""

    from analysis.measures.mass_mean import MassMean

    states = there.design
    if not states.prompts_of(relation, family):
        return {}
    rote, semantic = there[relation, "rote"][:, at], there[relation, family][:, :, at]
    objects, seed = states.objects(relation), states.run.seed

    def transferred(labels, estimator=None) -> PerSubject:
        probes = fit_probes(
            rote, labels, folds=folds, seed=seed, allow_degenerate=True, estimator=estimator
        )
        return PerSubject.of(probes.score(semantic, allow_degenerate=True))

    def shuffled() -> PerSubject:
        draws = [
            transferred(control_labels(objects, range(len(objects)), seed + i))
            for i in range(SHUFFLES)
        ]
        mean = np.mean([draw.values for draw in draws], axis=0)
        return PerSubject(mean, np.mean([draw.guess for draw in draws], axis=0), draws[0].reasons)

    found: dict[str, PerSubject | str] = {}
    makers: dict[str, Callable[[], PerSubject]] = {
        "mass_mean_accuracy": lambda: transferred(objects, MassMean),
        "shuffled_accuracy": shuffled,
    }
    for measure, make in makers.items():
        found[measure] = _or_reason(make)
    found |= _split(
        lambda: _mapped(rote, semantic, folds, seed), ("ridge_map_top1", "unmapped_top1")
    )
    found |= _split(lambda: _paraphrased(semantic, objects, folds, seed), SAME_STATES)
    return found


def _mapped(rote: Array, semantic: Array, folds: int, seed: int) -> list[PerSubject]:
    """Ridge map and none from rote (n, S, d) to every prompt of semantic (P, n, S, d), averaged over prompts."""
    n, sites = rote.shape[:2]
    values = np.full((2, sites, n), np.nan)
    chance, reasons = np.zeros(n), []
    for s in range(sites):
        reason = _why_left_out(rote[:, s], *semantic[:, :, s])
        reasons.append(reason)
        if reason is None:
            maps = [
                ridge_map(rote[:, s], prompt[:, s], folds=folds, seed=seed) for prompt in semantic
            ]
            values[:, s] = (
                np.mean([m.own for m in maps], axis=0),
                np.mean([m.unmapped for m in maps], axis=0),
            )
            chance = maps[0].chance
    return [PerSubject(v, chance, tuple(reasons)) for v in values]


def _paraphrased(semantic: Array, objects: Array, folds: int, seed: int) -> list[PerSubject]:
    """Entity split, row split, control task and their difference (SAME_STATES) of all prompts (P, n, S, d) together."""
    prompts, n, sites = semantic.shape[:3]
    if prompts < 2:
        raise NotIdentifiable(
            "one prompt of this family: a split by prompts needs two (--preset full)"
        )
    who, template = np.tile(np.arange(n), prompts), np.repeat(np.arange(prompts), n)
    labels = np.tile(objects, prompts)
    values, guess, reasons = np.full((4, sites, n), np.nan), np.zeros(n), []
    for s in range(sites):
        reasons.append(_why_left_out(*semantic[:, :, s]))
        if reasons[-1] is not None:
            continue
        x = semantic[:, :, s].reshape(prompts * n, -1)
        how = {"penalties": PENALTIES, "folds": folds, "seed": seed}
        apart = probe(x, labels, who, **how)
        row = selectivity(x, labels, who, templates=template, **how)
        by_row = (apart.correct, row.task, row.control, row.task - row.control)
        values[:, s] = [v.reshape(prompts, n).mean(axis=0) for v in by_row]
        guess = apart.guess.reshape(prompts, n).mean(axis=0)
    # A difference of accuracies has chance 0, not the commonest object's share.
    guesses = (guess, guess, guess, np.zeros(n))
    return [PerSubject(v, g, tuple(reasons)) for v, g in zip(values, guesses, strict=True)]


def _relation_rows(there: States, at: list[int], family: str, folds: int) -> Iterator[dict]:
    """Rows of the relation probe in every direction between rote states and one family."""
    rote, semantic, who = _by_relation(there, at, family)
    first = {r: prompts[0] for r, prompts in semantic.items()}
    directions = {
        "rote->rote": (rote, rote),
        "rote->semantic": (rote, semantic),
        "semantic->rote": (first, rote),
        "semantic->semantic": (first, semantic),
    }
    for direction, (x, y) in directions.items():
        yield from _asked_rows(there, at, x, y, who, folds, direction=direction, family=family)


def _untrained_rows(there, fresh: States, at: list[int], family: str, folds: int) -> Iterator[dict]:
    """Rote->semantic transfer of objects and of relations in a model that has learned nothing."""
    rote, semantic, who = _by_relation(fresh, at, family)
    states, name = there.design, "relation_accuracy_untrained"
    yield from _asked_rows(
        there,
        at,
        rote,
        semantic,
        who,
        folds,
        direction="rote->semantic",
        family=family,
        measure=name,
    )

    def transferred(relation: str) -> PerSubject:
        probes = fit_probes(
            rote[relation],
            states.objects(relation),
            folds=folds,
            seed=states.run.seed,
            allow_degenerate=True,
        )
        return PerSubject.of(probes.score(semantic[relation], allow_degenerate=True))

    found = {relation: _or_reason(lambda r=relation: transferred(r)) for relation in rote}
    common = {
        "measure": "transfer_accuracy_untrained",
        "family": family,
        "direction": "rote->semantic",
    }
    yield from _split_rows(there, at, found, {**common, "estimator": RIDGE})


def _asked_rows(
    there,
    at,
    x,
    y,
    who,
    folds: int,
    *,
    direction: str,
    family: str,
    measure: str = "relation_accuracy",
) -> Iterator[dict]:
    """Rows of one direction of a relation probe, all relations together."""
    common = {"measure": measure, "family": family, "direction": direction, "estimator": RIDGE}
    found = _or_reason(
        lambda: PerSubject.of(
            relation_probe(
                x, y, who, folds=folds, seed=there.design.run.seed, allow_degenerate=True
            )
        )
    )
    subjects = [subject for relation in x for subject in who[relation]]
    for split in there.design.splits:
        rows, start = [], 0
        for relation in x:
            rows.append(start + there.design.rows(relation, split))
            start += len(who[relation])
        scores = _scores(found, np.concatenate(rows), subjects)
        yield from _table_rows(there, at, {"every": scores}, {**common, "split": split})


def _by_relation(there: States, at: list[int], family: str) -> tuple[dict, dict, dict]:
    states = there.design
    some = [r for r in states.relations if states.prompts_of(r, family)]
    rote = {r: there[r, "rote"][:, at] for r in some}
    return (
        rote,
        {r: there[r, family][:, :, at] for r in some},
        {r: states.subjects(r) for r in some},
    )


def _embedding_rows(there: States, folds: int) -> Iterator[dict]:
    """The object from the mean input embedding of the subject's tokens, by subjects left out."""

    model, tokenizer = there.checkpoint.load()
    states = there.design

    def scored(relation: str) -> PerSubject:
        x = subject_embeddings(model, tokenizer, states.subjects(relation)).numpy()[:, None]
        probes = fit_probes(
            x, states.objects(relation), folds=folds, seed=states.run.seed, allow_degenerate=True
        )
        return PerSubject.of(probes.score(x, allow_degenerate=True))

    found = {relation: _or_reason(lambda r=relation: scored(r)) for relation in states.relations}
    common = {
        "measure": "subject_embedding_accuracy",
        "family": "",
        "direction": "",
        "estimator": RIDGE,
    }
    for row in _split_rows(there, [0], found, common):
        yield {**row, "site": "", "layer": np.nan}


def _code_rows(there: States, at: list[int], family: str) -> Iterator[dict]:
    """Compression of each relation's objects, and of objects that changed hands; all subjects; groups sum their bits."""
    states, seed = there.design, there.design.run.seed
    codes: dict[str, dict[str, list[OnlineCode | str]]] = {
        "compression": {},
        "compression_shuffled": {},
    }
    for relation in states.relations:
        prompts = states.prompts_of(relation, family)
        if not prompts:
            continue
        x, objects = there.of(prompts[0])[:, at], states.objects(relation)
        for measure, labels in zip(
            codes, (objects, control_labels(objects, range(len(objects)), seed)), strict=True
        ):
            codes[measure][relation] = [_code(x[:, s], labels, seed) for s in range(len(at))]
    for measure, by_relation in codes.items():
        groups = {r: [r] for r in by_relation} | {"bound": states.bound, "unbound": states.unbound}
        for relation, members in groups.items():
            for s, site in enumerate(at):
                some = [by_relation[r][s] for r in members if r in by_relation]
                sent = [code for code in some if isinstance(code, OnlineCode)]
                if not some:
                    continue
                bits, uniform = (
                    sum(code.bits for code in sent),
                    sum(code.uniform_bits for code in sent),
                )
                yield {
                    **there.checkpoint.stage,
                    "measure": measure,
                    "family": family,
                    "direction": "",
                    "estimator": "logistic regression, online code",
                    "split": "all",
                    "relation": relation,
                    "site": there.sites[site],
                    "layer": site,
                    "value": uniform / bits if sent else np.nan,
                    "bits": bits if sent else np.nan,
                    "chance": 1.0,
                    "n": max((code.n for code in sent), default=0),
                    "d": there.width,
                    "reason": "; ".join(
                        dict.fromkeys(code for code in some if isinstance(code, str))
                    ),
                }


def _code(x: Array, labels: Array, seed: int) -> OnlineCode | str:
    reason = _why_left_out(x)
    return reason or _or_reason(lambda: online_code(x, labels, seed=seed))


def _split_rows(there: States, at: list[int], found: dict, common: dict) -> Iterator[dict]:
    """Rows of every relation, and of bound and unbound ones together, for every split."""
    states = there.design
    for split in states.splits:
        scores = {
            relation: _scores(answer, states.rows(relation, split), states.subjects(relation))
            for relation, answer in found.items()
        }
        groups = {"bound": states.bound, "unbound": states.unbound}
        yield from _table_rows(there, at, scores, {**common, "split": split}, **groups)


def _scores(answer: PerSubject | str, rows: Array, subjects: Sequence[str]) -> Scores | str:
    """Some subjects of what was scored; an answer that is a reason stays one."""
    if isinstance(answer, str):
        return answer
    who = tuple(np.array(subjects)[rows])
    none = np.zeros((0, len(answer.values)))
    return Scores(
        answer.values[:, rows], none, who, answer.reasons, float(np.mean(answer.guess[rows]))
    )


def _table_rows(
    there: States, at: list[int], scores: dict, common: dict, **groups
) -> Iterator[dict]:
    for row in relation_rows(scores, [there.sites[s] for s in at], **groups):
        yield {
            **there.checkpoint.stage,
            **common,
            **row,
            "layer": at[row["layer"]],
            "d": there.width,
        }


def _split(
    make: Callable[[], list[PerSubject]], measures: Sequence[str]
) -> dict[str, PerSubject | str]:
    """What `make` gives, under one name each; its reason under all of them where it cannot."""
    found = _or_reason(make)
    return (
        dict.fromkeys(measures, found)
        if isinstance(found, str)
        else dict(zip(measures, found, strict=True))
    )


def _or_reason(make: Callable):
    """What `make` gives, or the words of its named error."""
    try:
        return make()
    except UNFIT as error:
        return str(error)


def _why_left_out(*stacks: Array) -> str | None:
    """Why states (n, d) of a site bear no probe: the first reason among several prompts."""
    return next(
        (reason for x in stacks if (reason := why_degenerate(np.asarray(x, dtype=np.float64)))),
        None,
    )
