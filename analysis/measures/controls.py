"""Controls of linear probes: what the same probe scores where there is nothing to find, or only a name.

    from analysis.measures.controls import (probe, selectivity, online_code, ridge_map)
    probe(states, objects, people)                      # entity split: fitted and scored on different people
    probe(states, objects, people, split="row")         # row split: reads the name as well
    selectivity(states, objects, people, templates=prompts)

States (n, d) of any float dtype, labels and entities (`groups`, (n,)) in, one small result object out. Every probe is
a scikit-learn pipeline that standardises within the fold and chooses its penalty in folds inside the fitting rows.
Definitions and reference values: measures.md, section 4. Cover 1965: where n <= d any labels are fitted perfectly, so a
score says nothing without n, d, the commonest class and a control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from analysis.measures.checks import (
    NotIdentifiable,
    TooFewRows,
    check_entities,
    to_float64,
    to_labels,
    to_pair,
    to_states,
)
from analysis.measures.statistics import mean_interval
from analysis.measures.transfer import ALPHAS, FOLDS, Transfer, fit_probes, subject_folds
from training.base.errors import BadInput

Array = np.ndarray


Kind = Literal["ridge", "logistic", "mass-mean"]


Split = Literal["entity", "row"]


CS = np.logspace(-4, 0, 3)


INNER_FOLDS = 3


BLOCKS = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class ProbeScore:
    """value: accuracy on rows the probe was not fitted on, with its t interval over entities; correct: (n,) by row.

    fitted: accuracy on the fitting rows themselves, 1 for any labels where n <= d; chance: always guessing the fitting
    rows' commonest class; guess: (n,) whether that is right. n: rows; entities, classes: how many; d: width.
    """

    value: float
    low: float
    high: float
    fitted: float
    chance: float
    correct: Array
    guess: Array
    n: int
    entities: int
    classes: int
    d: int


@dataclass(frozen=True, eq=False)
class Selectivity:
    """value: task - control accuracy under the row split, with the interval of the difference over entities.

    task, control: (n,) accuracy of each row, control averaged over its draws.
    """

    value: float
    low: float
    high: float
    task: Array
    control: Array
    n: int
    entities: int
    d: int


@dataclass(frozen=True)
class OnlineCode:
    """value: compression, uniform_bits / bits; n rows of so many classes, d wide."""

    value: float
    bits: float
    uniform_bits: float
    n: int
    classes: int
    d: int


@dataclass(frozen=True, eq=False)
class RidgeMap:
    """value: share of entities whose mapped state finds its own among the left-out ones, interval over entities.

    own: (n,) whether each did; unmapped: (n,) the same without a map, NaN where the widths differ; chance: (n,) 1 /
    number of candidates.
    """

    value: float
    low: float
    high: float
    own: Array
    unmapped: Array
    chance: Array
    n: int
    d: int


def probe(
    x: Any,
    labels: Any,
    groups: Sequence | None = None,
    *,
    split: Split = "entity",
    templates: Sequence | None = None,
    kind: Kind = "ridge",
    penalties: Sequence[float] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> ProbeScore:
    """Cross-validated linear probe of `labels` (n,) from states x (n, d).

    groups: the entity of each row (default: all different). split: "entity" keeps an entity's rows in one fold, "row"
    spreads them, template by template where `templates` names each row's. kind: ridge classifier, logistic regression
    (L2) or mass-mean. penalties: candidates, ridge alpha or logistic C (default ALPHAS, CS), chosen in INNER_FOLDS
    folds of the fitting rows cut in the same manner.
    Raises TooFewRows, NotIdentifiable (a fold is left with one class), BadInput, BadInput, BadInput.
    """
    x = to_states(x)
    codes, who = to_labels(labels, len(x)), _entities(groups, len(x))
    together = who if split == "entity" else None
    if split == "row" and templates is not None:
        fold = _template_folds(to_labels(templates, len(x), "templates"), folds)
        together = fold
    else:
        fold = subject_folds(codes, together, folds=folds, seed=seed)
    correct, guess, fitted = np.zeros(len(x)), np.zeros(len(x)), []
    for k in np.unique(fold):
        fit, test = fold != k, fold == k
        counts = np.bincount(codes[fit])
        if np.count_nonzero(counts) < 2:
            raise NotIdentifiable(
                f"not identifiable: outside fold {k} all rows are of one class, and a probe tells at least two "
                "apart; give more entities of the rarer classes"
            )
        inner = _inner_folds(codes[fit], None if together is None else together[fit], seed)
        model = linear_probe(kind, inner, penalties).fit(x[fit], codes[fit])
        correct[test] = model.predict(x[test]) == codes[test]
        guess[test] = codes[test] == counts.argmax()
        fitted.append(model.score(x[fit], codes[fit]))
    interval = mean_interval(_entity_means(correct, who))
    return ProbeScore(
        float(correct.mean()),
        float(interval.low),
        float(interval.high),
        float(np.mean(fitted)),
        float(guess.mean()),
        correct,
        guess,
        len(x),
        int(who.max()) + 1,
        int(codes.max()) + 1,
        x.shape[1],
    )


def linear_probe(
    kind: Kind = "ridge", inner: Array | None = None, penalties: Sequence[float] | None = None
) -> Any:
    """An unfitted scikit-learn probe: standardise, then classify, the penalty chosen over the folds `inner`.

    inner: (n,) the fold of each row that `fit` will get; None where there is one penalty only or nothing to choose
    (mass-mean). Ridge weighs classes equally. The logistic pipeline turns the standardised states into the space of
    the fitting rows first: an L2 penalty gives the same probe there, n wide instead of d.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from analysis.measures.mass_mean import MassMean

    if kind == "mass-mean":
        return make_pipeline(StandardScaler(), MassMean())
    if kind == "ridge":
        # Of equally good penalties the search takes the first: the strongest.
        name, values = "ridgeclassifier__alpha", (ALPHAS if penalties is None else penalties)[::-1]
        model = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
    elif kind == "logistic":
        name, values = "logisticregression__C", CS if penalties is None else penalties
        model = make_pipeline(
            StandardScaler(), PCA(svd_solver="full"), LogisticRegression(max_iter=2000)
        )
    else:
        raise BadInput(f"kind={kind!r}; expected 'ridge', 'logistic' or 'mass-mean'")
    if len(values) == 1 or inner is None:
        return model.set_params(**{name: values[len(values) // 2]})
    return GridSearchCV(model, {name: list(values)}, cv=PredefinedSplit(inner))


def control_labels(labels: Any, groups: Sequence, seed: int = 0) -> Array:
    """The control task of Hewitt & Liang 2019 (arXiv:1909.03368): a fixed random label per entity, (n,) codes.

    The entities' own labels (that of an entity's first row) change hands, so that classes are as common as before.
    """
    codes, who = to_labels(labels, len(labels)), to_labels(groups, len(labels), "groups")
    _, first = np.unique(who, return_index=True)
    return np.random.default_rng([seed, 1]).permutation(codes[first])[who]


def selectivity(
    x: Any,
    labels: Any,
    groups: Sequence,
    *,
    templates: Sequence | None = None,
    kind: Kind = "ridge",
    penalties: Sequence[float] | None = None,
    draws: int = 3,
    folds: int = FOLDS,
    seed: int = 0,
) -> Selectivity:
    """How much better a probe does on the task than on random labels per entity, both under the row split.

    Under it both can be read from who the row is about; only the task can be read from what is known about them.
    draws: control tasks averaged; the interval is over entities, given those draws. Other arguments and errors as
    `probe`. Raises TooFewRows where every entity has one row (a row split is an entity split then).
    """
    who = _entities(groups, len(labels))
    if who.max() + 1 == len(who):
        raise TooFewRows(
            f"{len(who)} rows of {len(who)} entities; a row split needs several rows (prompts) an entity"
        )
    how = dict(
        split="row", templates=templates, kind=kind, penalties=penalties, folds=folds, seed=seed
    )
    task = probe(x, labels, who, **how)
    control = [
        probe(x, control_labels(labels, who, seed + draw), who, **how).correct
        for draw in range(draws)
    ]
    control = np.mean(control, axis=0)
    interval = mean_interval(_entity_means(task.correct - control, who))
    low, high = float(interval.low), float(interval.high)
    value = float(np.mean(task.correct - control))
    return Selectivity(value, low, high, task.correct, control, task.n, task.entities, task.d)


def online_code(
    x: Any,
    labels: Any,
    groups: Sequence | None = None,
    *,
    blocks: Sequence[float] = BLOCKS,
    penalties: Sequence[float] = tuple(CS),
    seed: int = 0,
) -> OnlineCode:
    """Online code length of the labels given the states (Voita & Titov 2020, arXiv:2003.12298, section 2.3).

    Whole entities are sent in a random order, cut at the shares `blocks` (rising, the last 1). The first block costs
    log2 K bits a row; each later one -log2 p of a logistic probe fitted on all earlier rows, its C chosen in folds of
    them by the same code length. One pseudo-row of a uniform guess is mixed in, so that a class which has not been
    seen yet costs many bits and not infinitely many. Compression above 1: the states say something about the labels of
    entities not seen before; random labels give about 1 or less.
    """
    x = to_states(x)
    codes, who = to_labels(labels, len(x)), _entities(groups, len(x))
    ends = np.round(np.array(blocks) * (who.max() + 1)).astype(int)
    if len(ends) < 2 or ends[0] < 1 or np.any(np.diff(ends) < 1) or blocks[-1] != 1:
        raise BadInput(
            f"blocks={tuple(blocks)} of {who.max() + 1} entities; expected at least two rising shares, the last 1, "
            "with an entity in each"
        )
    classes = int(codes.max()) + 1
    if classes < 2:
        raise NotIdentifiable(
            "not identifiable: all rows are of one class, so there is nothing to code"
        )
    place = np.random.default_rng(seed).permutation(who.max() + 1)[who]
    bits = np.sum(place < ends[0]) * np.log2(classes)
    for start, stop in pairwise(ends):
        earlier, block = place < start, (place >= start) & (place < stop)
        chosen = penalties
        if len(penalties) > 1:
            inner = _inner_folds(codes[earlier], who[earlier], seed)
            own, targets = x[earlier], codes[earlier]
            costs = [
                _bits(
                    own[inner != k],
                    targets[inner != k],
                    own[inner == k],
                    targets[inner == k],
                    classes,
                    penalties,
                )
                for k in np.unique(inner)
            ]
            chosen = [penalties[int(np.sum(costs, axis=0).argmin())]]
        bits += _bits(x[earlier], codes[earlier], x[block], codes[block], classes, chosen)[0]
    uniform = len(x) * np.log2(classes)
    return OnlineCode(
        float(uniform / bits), float(bits), float(uniform), len(x), classes, x.shape[1]
    )


def ridge_map(
    x: Any,
    y: Any,
    groups: Sequence | None = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    penalties: Any = ALPHAS,
) -> RidgeMap:
    """A linear map from states x (n, d_x) to paired states y (n, d_y), scored by retrieval on left-out entities.

    One row an entity (else RepeatedEntity). The map is fitted on the other folds, x standardised there, its penalty
    chosen by their leave-one-out error. A left-out entity counts where, of its fold's y states, its own is nearest to
    its mapped x state by cosine about the fitting rows' mean; a tie counts against it. `unmapped`: the same with x
    itself, centred likewise: what the shared name alone already finds. Raises as `linear_cka`.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = to_pair(x, y)
    check_entities(groups, len(x))
    n = len(x)
    fold = subject_folds(np.zeros(n), None, folds=folds, seed=seed)
    own, unmapped, chance = np.zeros(n), np.full(n, np.nan), np.zeros(n)
    for k in range(folds):
        fit, test = fold != k, fold == k
        middle = y[fit].mean(axis=0)
        model = make_pipeline(StandardScaler(), RidgeCV(penalties)).fit(x[fit], y[fit] - middle)
        own[test] = _finds_own(model.predict(x[test]), y[test] - middle)
        if x.shape[1] == y.shape[1]:
            unmapped[test] = _finds_own(x[test] - x[fit].mean(axis=0), y[test] - middle)
        chance[test] = 1 / test.sum()
    interval = mean_interval(own)
    return RidgeMap(
        float(own.mean()),
        float(interval.low),
        float(interval.high),
        own,
        unmapped,
        chance,
        n,
        x.shape[1],
    )


def relation_probe(
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    subjects: Mapping[str, Sequence],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    allow_degenerate: bool = False,
) -> Transfer:
    """Which relation does a state ask? Fitted on states x of some subjects, scored on states y of the others.

    x: each relation's states (n_r, S, d) of one kind of prompt; y: of another kind, (n_r, S, d) or (P_r, n_r, S, d),
    prompts beyond the fewest P_r are left out; subjects: (n_r,) whom the rows are about. A subject keeps to one fold
    in all relations. Rows of the answer: relation by relation, in the order of x. With one kind of prompt on both
    sides the probe knows a relation by its wording: fit and score across kinds. Raises as `analysis.measures.transfer`.
    """
    stacks = {r: to_float64(some, f"y of {r}") for r, some in y.items()}
    stacks = {r: some[None] if some.ndim == 3 else some for r, some in stacks.items()}
    prompts = min(len(some) for some in stacks.values())
    labels = np.repeat(list(x), [len(some) for some in x.values()])
    who = [subject for relation in x for subject in subjects[relation]]
    states = np.concatenate([to_float64(some, f"x of {r}") for r, some in x.items()])
    probes = fit_probes(
        states, labels, who, folds=folds, seed=seed, allow_degenerate=allow_degenerate
    )
    answers = np.concatenate([stacks[r][:prompts] for r in x], axis=1)
    return probes.score(answers, allow_degenerate=allow_degenerate)


def _finds_own(queries: Array, candidates: Array) -> Array:
    """(m,) whether row i of candidates (m, d) is nearer by cosine to row i of queries (m, d) than every other row."""
    lengths = np.linalg.norm(candidates, axis=1)
    cosine = queries @ (candidates / np.where(lengths > 0, lengths, 1)[:, None]).T
    return np.sum(cosine >= np.diagonal(cosine)[:, None], axis=1) == 1


def _bits(
    x: Array, y: Array, x_new: Array, y_new: Array, classes: int, penalties: Sequence[float]
) -> Array:
    """Bits (len(penalties),) of labels y_new under logistic probes fitted on x, y."""
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(y)
    share = 1 / (len(y) + 1)
    known = np.zeros((len(penalties), len(x_new), classes))
    if len(seen) == 1:
        known[:, :, seen] = 1
    else:
        # All but the last step of the pipeline is the same for every penalty.
        model = linear_probe("logistic", penalties=penalties[:1])
        fit = model[:-1].fit_transform(x)
        new = model[:-1].transform(x_new)
        for place, c in enumerate(penalties):
            probabilities = LogisticRegression(C=c, max_iter=2000).fit(fit, y).predict_proba(new)
            known[place][:, seen] = probabilities
    mixed = (1 - share) * known + share / classes
    return -np.log2(mixed[:, np.arange(len(y_new)), y_new]).sum(axis=1)


def _entities(groups: Sequence | None, n: int) -> Array:
    return np.arange(n) if groups is None else to_labels(groups, n, "groups")


def _entity_means(values: Array, who: Array) -> Array:
    return np.bincount(who, weights=values) / np.bincount(who)


def _template_folds(templates: Array, folds: int) -> Array:
    """(n,) whole templates, at most `folds` folds."""
    if templates.max() == 0:
        raise TooFewRows("all rows are of one template; a template split needs at least two")
    return templates % folds


def _inner_folds(codes: Array, together: Array | None, seed: int) -> Array:
    """(n,) folds in which a penalty is chosen: INNER_FOLDS, fewer where there are fewer things to keep together."""
    things = len(codes) if together is None else len(np.unique(together))
    if things < 2:
        return np.arange(len(codes)) % min(INNER_FOLDS, len(codes))
    return subject_folds(codes, together, folds=min(INNER_FOLDS, things), seed=seed)
