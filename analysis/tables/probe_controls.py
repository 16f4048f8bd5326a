"""tables/probe_controls.csv: what to hold a probe's accuracy against.

A control is a function: (setting, relation) -> what each of its measures scored about each subject.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from analysis.measures import controls
from analysis.measures.checks import NotIdentifiable, TooFewRows, why_degenerate
from analysis.measures.controls import OnlineCode
from analysis.measures.scores import Scores, relation_rows
from analysis.measures.transfer import FOLDS, Transfer, fit_probes
from analysis.tables.driver import scored_tables
from probing.baselines import subject_embeddings
from probing.states import Design, States
from training.base.console import progress
from training.base.words import span, two_places
from training.runs.table_files import headline_split, pick

Array = np.ndarray

# The families whose prompts ask their own relation in English.
FAMILIES = ("train", "test")
DIRECTIONS = ("rote->rote", "rote->semantic", "semantic->rote", "semantic->semantic")
# The relation of rows about all relations together.
EVERY = "every"
SHUFFLES = 3
# Fewer than ALPHAS: these are fitted for every site, fold, inner fold and control task.
PENALTIES = (1.0, 100.0, 10_000.0)
VERSION = 2

RIDGE, BY_PROMPT = "ridge classifier, entity folds", "ridge classifier, prompt folds"
CODE = "logistic regression, online code"
CROSS, SAME = "rote->semantic", "semantic->semantic"


class Measure(NamedTuple):
    """The words of its printed line, how it is made, and the rows that the line is about."""

    words: str
    estimator: str
    direction: str
    relation: str = "bound"


# fmt: off
MEASURES = {
    "subject_embedding_accuracy": Measure("object from the subject's input embedding", RIDGE, ""),
    "relation_accuracy": Measure("relation probe, rote to {family} prompts", RIDGE, CROSS, EVERY),
    "relation_accuracy_untrained": Measure("the same in an untrained model", RIDGE, CROSS, EVERY),
    "transfer_accuracy_untrained": Measure("object transfer in an untrained model", RIDGE, CROSS),
    "mass_mean_accuracy":
        Measure("object transfer by the mass-mean probe", "mass-mean, entity folds", CROSS),
    "shuffled_accuracy": Measure("object transfer of shuffled objects", RIDGE, CROSS),
    "ridge_map_top1":
        Measure("own state found through a ridge map", "ridge regression, entity folds", CROSS),
    "unmapped_top1": Measure("own state found without one", "none", CROSS),
    "entity_split_accuracy": Measure("object, other subjects", RIDGE, SAME),
    "row_split_accuracy": Measure("object, other prompts about the same subjects", BY_PROMPT, SAME),
    "control_accuracy": Measure("random object per subject, likewise", BY_PROMPT, SAME),
    "selectivity": Measure("selectivity", BY_PROMPT, SAME),
    "compression": Measure("compression of the objects", CODE, ""),
    "compression_shuffled": Measure("compression of shuffled objects", CODE, ""),
}
# fmt: on


def control_table(design: Design, *, folds: int = FOLDS, sites: int = 9):
    """Write tables/probe_controls.csv of a run and return it as a DataFrame.

        table = control_table(Design.of(Run.open("runs/demo"), families=("test",)))
        table[(table.measure == "selectivity") & (table.relation == "bound")]

    One row per checkpoint, measure (MEASURES), family, direction, split, relation (also bound,
    unbound, or every) and site, at about `sites` of them (0: all). Columns: estimator, value, low,
    high (jackknife over subjects), null_p, null_high, null_p_max (NaN: nothing is permuted), n, d,
    chance, bits (of a code), reason (why value is NaN). `split` is that of the scored subjects;
    probes are fitted on all splits. Untrained weights are read at the first checkpoint only.
    """
    rows = {"probe_controls": lambda states: control_rows(states, folds, sites)}
    (table,) = scored_tables(design, rows, [folds, sites, VERSION])
    return table


def control_rows(states: States, folds: int, sites: int) -> Iterator[dict]:
    design, at = states.design, spread(len(states.sites), sites)
    families = [f for f in design.families if f in FAMILIES]
    first = states.checkpoint.name == design.checkpoints[0].name
    fresh = design.only(families).untrained(states.checkpoint) if first and families else None
    how = {"folds": folds, "seed": design.run.seed}
    todo = [
        (control, Setting(family, fresh if control.untrained else states, at, how))
        for family in ("", "rote", *families)
        for control in CONTROLS
        if family in control.families and not (control.untrained and fresh is None)
    ]
    for control, setting in progress(todo, label=f"controls {states.checkpoint.name}"):
        rows = _code_rows if control.score is _codes else _accuracy_rows
        yield from rows(control, setting)


def spread(sites: int, wanted: int) -> list[int]:
    """Indices of about `wanted` of `sites` sites, evenly, with both ends; all for 0."""
    count = sites if wanted == 0 else min(sites, max(wanted, 2))
    return sorted({round(i * (sites - 1) / max(count - 1, 1)) for i in range(count)})


@dataclass(frozen=True)
class Setting:
    """Where a control is made: a family of prompts ("": none), states of a checkpoint, sites."""

    family: str
    states: States
    at: list[int]
    how: dict
    """How folds are drawn."""

    @property
    def design(self) -> Design:
        return self.states.design

    @property
    def relations(self) -> list[str]:
        every = self.design.relations
        return [r for r in every if not self.family or self.design.prompts_of(r, self.family)]

    @property
    def places(self) -> list[tuple[str, float]]:
        """(site, layer) of each site; without a family there is none."""
        return [(self.states.sites[s], s) for s in self.at] if self.family else [("", np.nan)]

    @cached_property
    def model(self) -> tuple:
        return self.states.checkpoint.load()

    def rote(self, relation: str) -> Array:
        return self.states[relation, "rote"][:, self.at].astype(np.float64)

    def semantic(self, relation: str) -> Array:
        """States of the family's prompts, (P, n, S, d)."""
        return self.states[relation, self.family][:, :, self.at].astype(np.float64)

    def scored(self, relation: str, split: str) -> tuple[Array, Array]:
        """(subjects, rows) of a split, in one relation or, for EVERY, in all one after another."""
        relations = self.relations if relation == EVERY else [relation]
        facts = [fact for r in relations for fact in self.design.facts[r]]
        rows = np.array([i for i, f in enumerate(facts) if split in ("all", f.split)], dtype=int)
        return np.array([fact.subject for fact in facts])[rows], rows


class PerSubject(NamedTuple):
    """Accuracy (S, n) about each subject, what guessing gets right (n,), reasons (S,) for NaN."""

    values: Array
    guess: Array
    reasons: tuple[str | None, ...]


def _answered(found: Transfer) -> list[PerSubject]:
    guess = np.full(len(found.labels), found.chance)
    return [PerSubject(found.correct.T, guess, found.reasons)]


def _probed(setting: Setting, x: Array, y: Array, labels, estimator=None) -> list[PerSubject]:
    """Labels by probes fitted on states x, scored on states y of other subjects."""
    probes = fit_probes(x, labels, **setting.how, estimator=estimator, allow_degenerate=True)
    return _answered(probes.score(y, allow_degenerate=True))


def _embedded(setting: Setting, relation: str) -> list[PerSubject]:
    """The object from the subject's input embedding."""
    subjects = setting.design.subjects(relation)
    x = subject_embeddings(*setting.model, subjects).numpy()[:, None]
    return _probed(setting, x, x, setting.design.objects(relation))


def _asked(direction: str, setting: Setting, _: str) -> list[PerSubject]:
    """Which relation is asked? All relations together; fitted on the first prompt of a family."""
    rote = {r: setting.rote(r) for r in setting.relations}
    semantic = {r: setting.semantic(r) for r in setting.relations}
    x, y = direction.split("->")
    fitted = rote if x == "rote" else {r: prompts[0] for r, prompts in semantic.items()}
    scored = rote if y == "rote" else semantic
    who = {r: setting.design.subjects(r) for r in setting.relations}
    how = {**setting.how, "allow_degenerate": True}
    return _answered(controls.relation_probe(fitted, scored, who, **how))


def _transferred(setting: Setting, relation: str, labels=None, estimator=None) -> list[PerSubject]:
    """The object, or other labels, by probes fitted on rote and scored on semantic states."""
    labels = setting.design.objects(relation) if labels is None else labels
    states = setting.rote(relation), setting.semantic(relation)
    return _probed(setting, *states, labels, estimator)


def _mass_mean(setting: Setting, relation: str) -> list[PerSubject]:
    from analysis.measures.mass_mean import MassMean

    return _transferred(setting, relation, estimator=MassMean)


def _shuffled(setting: Setting, relation: str) -> list[PerSubject]:
    """Objects change hands between subjects before the fit: the mean of SHUFFLES draws."""
    labels = [_shuffled_objects(setting, relation, draw) for draw in range(SHUFFLES)]
    draws = [_transferred(setting, relation, some)[0] for some in labels]
    values, guess, reasons = zip(*draws, strict=True)
    return [PerSubject(np.mean(values, axis=0), np.mean(guess, axis=0), reasons[0])]


def _shuffled_objects(setting: Setting, relation: str, draw: int = 0) -> Array:
    objects = setting.design.objects(relation)
    return controls.control_labels(objects, range(len(objects)), setting.design.run.seed + draw)


def _mapped(setting: Setting, relation: str) -> list[PerSubject]:
    """Does a left-out subject's rote state find its own semantic state, mapped and as it is?"""

    def score(rote: Array, *semantic: Array) -> tuple:
        maps = [controls.ridge_map(rote, prompt, **setting.how) for prompt in semantic]
        own, unmapped, chance = zip(*maps, strict=True)
        return [np.mean(own, axis=0), np.mean(unmapped, axis=0)], chance[0]

    return _by_site(score, [setting.rote(relation), *setting.semantic(relation)], 2)


def _paraphrased(setting: Setting, relation: str) -> list[PerSubject]:
    """The object from all prompts together: subjects left out; prompts left out, of the true and
    of a random object per subject (Hewitt & Liang 2019); and the difference of the last two."""
    objects, semantic = setting.design.objects(relation), setting.semantic(relation)
    prompts, n = semantic.shape[:2]
    if prompts < 2:
        why = "one prompt of this family: a split by prompts needs two (--preset full)"
        raise NotIdentifiable(why)
    who, template = np.tile(np.arange(n), prompts), np.repeat(np.arange(prompts), n)
    labels, how = np.tile(objects, prompts), {**setting.how, "penalties": PENALTIES}

    def score(*states: Array) -> tuple:
        x = np.concatenate(states)
        apart = controls.probe(x, labels, who, **how)
        row = controls.selectivity(x, labels, who, templates=template, **how)
        answers = (apart.correct, row.task, row.control, row.task - row.control, apart.guess)
        *values, guess = (v.reshape(prompts, n).mean(axis=0) for v in answers)
        return values, guess

    *found, difference = _by_site(score, semantic, 4)
    # A difference of accuracies has chance 0, not the commonest object's share.
    return [*found, difference._replace(guess=np.zeros(n))]


def _by_site(score: Callable, prompts: Sequence[Array], count: int) -> list[PerSubject]:
    """`count` measures at each site of states (n, S, d) per prompt; NaN at degenerate sites.

    score: states (n, d) of each prompt -> (`count` accuracies (n,), what guessing gets right (n,)).
    """
    n, sites = prompts[0].shape[:2]
    values, guess, reasons = np.full((count, sites, n), np.nan), np.zeros(n), []
    for s in range(sites):
        here = [prompt[:, s] for prompt in prompts]
        reasons.append(next(filter(None, map(why_degenerate, here)), None))
        if reasons[-1] is None:
            values[:, s], guess = score(*here)
    return [PerSubject(v, guess, tuple(reasons)) for v in values]


def _codes(setting: Setting, relation: str) -> list[list[OnlineCode | str]]:
    """Online codes of the objects and of shuffled ones by site, at the family's first prompt."""
    prompt = setting.design.prompts_of(relation, setting.family)[0]
    x = setting.states.of(prompt)[:, setting.at].astype(np.float64)
    seed = setting.design.run.seed

    def code(states: Array, labels: Array) -> OnlineCode | str:
        return why_degenerate(states) or _or_reason(
            lambda: controls.online_code(states, labels, seed=seed)
        )

    both = setting.design.objects(relation), _shuffled_objects(setting, relation)
    return [[code(x[:, s], labels) for s in range(len(setting.at))] for labels in both]


def _or_reason(make: Callable):
    try:
        return make()
    except (NotIdentifiable, TooFewRows) as error:
        return str(error)


@dataclass(frozen=True)
class Control:
    """A function and the measures it scores. direction: of the rows, if not the printed one.

    untrained: the states are those of randomly initialised weights.
    """

    score: Callable[[Setting, str], list]
    measures: tuple[str, ...]
    families: tuple[str, ...] = FAMILIES
    direction: str | None = None
    untrained: bool = False

    def common(self, measure: str, setting: Setting, split: str) -> dict:
        about = MEASURES[measure]
        direction = about.direction if self.direction is None else self.direction
        which = {"measure": measure, "family": setting.family, "direction": direction}
        stage = setting.states.checkpoint.stage
        return {**stage, **which, "estimator": about.estimator, "split": split}


CONTROLS = (
    Control(_embedded, ("subject_embedding_accuracy",), ("",)),
    *(Control(partial(_asked, d), ("relation_accuracy",), direction=d) for d in DIRECTIONS),
    Control(partial(_asked, CROSS), ("relation_accuracy_untrained",), untrained=True),
    Control(_transferred, ("transfer_accuracy_untrained",), untrained=True),
    Control(_mass_mean, ("mass_mean_accuracy",)),
    Control(_shuffled, ("shuffled_accuracy",)),
    Control(_mapped, ("ridge_map_top1", "unmapped_top1")),
    Control(
        _paraphrased,
        ("entity_split_accuracy", "row_split_accuracy", "control_accuracy", "selectivity"),
    ),
    Control(_codes, ("compression", "compression_shuffled"), ("rote", *FAMILIES)),
)


def _accuracy_rows(control: Control, setting: Setting) -> Iterator[dict]:
    """Rows of every relation, and of bound and unbound ones together, for every split."""
    design, places = setting.design, setting.places
    every = MEASURES[control.measures[0]].relation == EVERY
    relations = [EVERY] if every else setting.relations
    found = {r: _or_reason(partial(control.score, setting, r)) for r in relations}
    sides = {"bound": design.bound, "unbound": design.unbound}
    for i, measure in enumerate(control.measures):
        for split in design.splits:
            # A relation without scores has the reason in their place.
            scores = dict(found)
            for r in (r for r in found if not isinstance(found[r], str)):
                values, guess, reasons = found[r][i]
                subjects, rows = setting.scored(r, split)
                null, chance = np.zeros((0, len(values))), float(np.mean(guess[rows]))
                scores[r] = Scores(values[:, rows], null, tuple(subjects), reasons, chance)
            for row in relation_rows(scores, [site for site, _ in places], **sides):
                place = {"layer": places[row["layer"]][1], "d": setting.states.width}
                yield {**control.common(measure, setting, split), **row, **place}


def _code_rows(control: Control, setting: Setting) -> Iterator[dict]:
    """Compression of each relation's objects; bound and unbound relations sum their bits."""
    design = setting.design
    found = {relation: control.score(setting, relation) for relation in setting.relations}
    groups = {r: [r] for r in found} | {"bound": design.bound, "unbound": design.unbound}
    for i, measure in enumerate(control.measures):
        for relation, members in groups.items():
            for s, (site, layer) in enumerate(setting.places):
                codes = [found[r][i][s] for r in members if r in found]
                if not codes:
                    continue
                sent = [code for code in codes if isinstance(code, OnlineCode)]
                bits = sum(code.bits for code in sent) if sent else np.nan
                value = sum(code.uniform_bits for code in sent) / bits
                reasons = dict.fromkeys(code for code in codes if isinstance(code, str))
                row = {"relation": relation, "site": site, "layer": layer, "value": value}
                row |= {"bits": bits, "chance": 1.0, "n": max((c.n for c in sent), default=0)}
                row |= {"d": setting.states.width, "reason": "; ".join(reasons)}
                yield {**control.common(measure, setting, "all"), **row}


def control_lines(table) -> list[str]:
    """What the controls say at the last checkpoint, each at its best site, test prompts."""
    split = headline_split(table)
    last = list(dict.fromkeys(table.checkpoint))[-1]
    family = "test" if "test" in set(table.family.dropna()) else "train"
    lines = [f"controls at {last}, each at its best site ({split} subjects, {family} prompts)"]
    table = table.fillna({"family": "", "direction": ""})
    for name, measure in MEASURES.items():
        # Untrained weights are the same whatever was trained after: they were read once.
        at = {} if name.endswith("_untrained") else {"checkpoint": last}
        where = {"family": (family, ""), "split": (split, "all"), **at}
        which = {"direction": measure.direction, "relation": measure.relation}
        rows = pick(table, measure=name, **which, **where)
        if len(rows):
            words = rows.reason.dropna().iloc[0] if rows.value.isna().all() else ""
            if not words:
                best = rows.loc[rows.value.idxmax()]
                at = f"  at {best.site}" if isinstance(best.site, str) and best.site else ""
                words = f"{span(best)}  chance {two_places(best.chance)}  n={int(best.n)}{at}"
            lines.append(f"  {measure.words.format(family=family):<50}{words}")
    return lines
