"""Controls of linear probes: what a probe scores where there is nothing to find, or only a name.

Every probe is a scikit-learn pipeline that standardises within the fold and chooses its penalty in
folds of the fitting rows. Where n <= d any labels are fitted perfectly (Cover 1965), so a score
means nothing without n, d, the commonest class and a control. Definitions: measures.md, section 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from analysis.measures import checks, transfer
from analysis.measures.checks import Array, Groups, Labels, NotIdentifiable, TooFewRows, Values
from analysis.measures.statistics import mean_interval
from analysis.measures.transfer import ALPHAS, FOLDS, subject_folds
from training.base.errors import BadInput

Kind = Literal["ridge", "logistic", "mass-mean"]
Split = Literal["entity", "row"]

CS = tuple(np.logspace(-4, 0, 3))
INNER_FOLDS = 3
BLOCKS = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class ProbeScore:
    """value: accuracy on left-out rows, with its t interval over entities; correct: (n,) by row.

    fitted: accuracy on the fitting rows (1 for any labels where n <= d); chance: of always guessing
    their commonest class; guess: (n,) whether that is right.
    """

    value: float
    low: float
    high: float
    fitted: float
    chance: float
    correct: Array
    guess: Array
    n: int
    d: int


@dataclass(frozen=True, eq=False)
class Selectivity:
    """value: task - control accuracy under the row split, with its interval over entities.

    task, control: (n,) accuracy of each row, control averaged over its draws.
    """

    value: float
    low: float
    high: float
    task: Array
    control: Array


@dataclass(frozen=True)
class OnlineCode:
    """value: compression, uniform_bits / bits, of the labels of n rows."""

    value: float
    bits: float
    uniform_bits: float
    n: int


def probe(
    x: Values,
    labels: Labels,
    groups: Groups = None,
    *,
    split: Split = "entity",
    templates: Groups = None,
    kind: Kind = "ridge",
    penalties: Sequence[float] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> ProbeScore:
    """Cross-validated linear probe of `labels` (n,) from states x (n, d).

    >>> rng = np.random.default_rng(0)
    >>> people, x = np.repeat(np.arange(40), 4), np.repeat(rng.normal(size=(40, 90)), 4, axis=0)
    >>> x, labels = x + 0.5 * rng.normal(size=x.shape), (people * 7 % 40) % 2  # random per person
    >>> [round(probe(x, labels, people, split=split).value, 1) for split in ("row", "entity")]
    [0.9, 0.5]

    groups: entity of each row, default all different. split: "entity" keeps an entity in one fold,
    "row" spreads it, template by template if `templates` names each row's. kind: ridge classifier,
    L2 logistic regression or mass-mean. penalties: candidates, ridge alpha or logistic C (default
    ALPHAS, CS), chosen in INNER_FOLDS folds of the fitting rows, cut in the same way.
    Raises TooFewRows, NotIdentifiable (a fold is left with one class), BadInput.
    """
    x = checks.to_states(x)
    n, d = x.shape
    codes, who = checks.to_labels(labels, n), checks.to_entities(groups, n)
    together = who if split == "entity" else None
    if split == "row" and templates is not None:
        together = fold = checks.to_labels(templates, n, "templates") % folds
        if not fold.any():
            raise TooFewRows("all rows are of one template; a template split needs at least two")
    else:
        fold = subject_folds(codes, together, folds=folds, seed=seed)
    correct, guess, fitted = np.zeros(n), np.zeros(n), []
    for k in np.unique(fold):
        fit, test = fold != k, fold == k
        counts = np.bincount(codes[fit])
        transfer.check_two_classes(counts, k)
        inner = _inner_folds(codes[fit], None if together is None else together[fit], seed)
        model = linear_probe(kind, inner, penalties).fit(x[fit], codes[fit])
        correct[test] = model.predict(x[test]) == codes[test]
        guess[test] = codes[test] == counts.argmax()
        fitted.append(model.score(x[fit], codes[fit]))
    value, low, high = _over_entities(correct, who)
    rates = float(np.mean(fitted)), float(np.mean(guess))
    return ProbeScore(value, low, high, *rates, correct, guess, n, d)


def linear_probe(
    kind: Kind = "ridge", inner: Array | None = None, penalties: Sequence[float] | None = None
) -> Any:
    """An unfitted scikit-learn probe: standardise, classify, penalty chosen over folds `inner`.

    inner: (n,) the fold of each row that `fit` will get; None if there is nothing to choose. Ridge
    weights classes equally; the logistic pipeline works in the span of the fitting rows, n wide.
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
        steps = [RidgeClassifier(class_weight="balanced")]
    elif kind == "logistic":
        name, values = "logisticregression__C", CS if penalties is None else penalties
        steps = [PCA(svd_solver="full"), LogisticRegression(max_iter=2000)]
    else:
        raise BadInput(f"kind={kind!r}; expected 'ridge', 'logistic' or 'mass-mean'")
    model = make_pipeline(StandardScaler(), *steps)
    if len(values) == 1 or inner is None:
        return model.set_params(**{name: values[len(values) // 2]})
    return GridSearchCV(model, {name: list(values)}, cv=PredefinedSplit(inner))


def control_labels(labels: Labels, groups: Groups = None, seed: int = 0) -> Array:
    """(n,) the entities' labels permuted among them: the control task of Hewitt & Liang 2019."""
    codes, who = checks.to_labels(labels, len(labels)), checks.to_entities(groups, len(labels))
    _, first = np.unique(who, return_index=True)
    return np.random.default_rng([seed, 1]).permutation(codes[first])[who]


def selectivity(
    x: Values, labels: Labels, groups: Groups, *, draws: int = 3, seed: int = 0, **options: Any
) -> Selectivity:
    """How much better a probe does on the task than on random labels per entity (row split).

    >>> rng = np.random.default_rng(0)
    >>> people, x = np.repeat(np.arange(40), 4), np.repeat(rng.normal(size=(40, 90)), 4, axis=0)
    >>> x, labels = x + 0.5 * rng.normal(size=x.shape), people % 2  # random labels themselves
    >>> abs(selectivity(x, labels, people).value) < 0.1
    True

    Both can be read from who the row is about; only the task from what is known about them. draws:
    control tasks averaged. Otherwise as `probe`; TooFewRows if every entity has one row.
    """
    n, who = len(labels), checks.to_entities(groups, len(labels))
    if who.max() + 1 == n:
        raise TooFewRows(f"{n} rows of {n} entities; a row split needs several rows of each")
    how = dict(split="row", seed=seed, **options)
    task = probe(x, labels, who, **how).correct
    controls = [control_labels(labels, who, seed + draw) for draw in range(draws)]
    control = np.mean([probe(x, c, who, **how).correct for c in controls], axis=0)
    value, low, high = _over_entities(task - control, who)
    return Selectivity(value, low, high, task, control)


def online_code(
    x: Values,
    labels: Labels,
    groups: Groups = None,
    *,
    penalties: Sequence[float] = CS,
    seed: int = 0,
) -> OnlineCode:
    """Online code length of the labels given the states (Voita & Titov 2020, arXiv:2003.12298).

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(80) % 2
    >>> x = 2 * rng.normal(size=(2, 8))[labels] + rng.normal(size=(80, 8))
    >>> found = online_code(x, labels)
    >>> found.uniform_bits, found.value > 2  # compression; random labels give 1 or less
    (80.0, True)

    x: (n, d); labels, groups: (n,). Whole entities are sent in random order, in the shares BLOCKS
    (section 2.3). The first block costs log2 K bits per row, each later one -log2 p of a logistic
    probe fitted on all earlier rows, its C chosen in folds of them by code length. One pseudo-row
    of a uniform guess is mixed in, so that an unseen class does not cost infinitely many bits.
    Raises TooFewRows for fewer entities than blocks, NotIdentifiable for one class.
    """
    x = checks.to_states(x)
    codes, who = checks.to_labels(labels, len(x)), checks.to_entities(groups, len(x))
    entities, classes = who.max() + 1, int(codes.max()) + 1
    ends = np.round(np.array(BLOCKS) * entities).astype(int)
    if ends[0] < 1 or np.any(np.diff(ends) < 1):
        raise TooFewRows(
            f"{entities} entities; blocks of {BLOCKS} of them need at least one in each"
        )
    if classes < 2:
        raise NotIdentifiable("not identifiable: all rows are of one class, nothing to code")
    place = np.random.default_rng(seed).permutation(entities)[who]
    bits = np.sum(place < ends[0]) * np.log2(classes)
    for start, stop in pairwise(ends):
        earlier, block, chosen = place < start, (place >= start) & (place < stop), penalties
        if len(penalties) > 1:
            inner = np.full(len(x), -1)
            inner[earlier] = _inner_folds(codes[earlier], who[earlier], seed)
            costs = [
                _bits(x, codes, earlier & (inner != k), inner == k, penalties)
                for k in np.unique(inner[earlier])
            ]
            chosen = [penalties[int(np.sum(costs, axis=0).argmin())]]
        bits += _bits(x, codes, earlier, block, chosen)[0]
    uniform = len(x) * np.log2(classes)
    return OnlineCode(float(uniform / bits), float(bits), float(uniform), len(x))


def _bits(x: Array, codes: Array, fit: Array, test: Array, penalties: Sequence[float]) -> Array:
    """Bits (len(penalties),) of the codes of rows `test` under logistic probes of rows `fit`."""
    from sklearn.linear_model import LogisticRegression

    classes, seen, asked = int(codes.max()) + 1, np.unique(codes[fit]), codes[test]
    share = 1 / (fit.sum() + 1)
    known = np.zeros((len(penalties), len(asked), classes))
    if len(seen) == 1:
        known[:, :, seen] = 1
    else:
        # All but the last step of the pipeline is the same for every penalty.
        first = linear_probe("logistic", penalties=penalties[:1])[:-1]
        old, new = first.fit_transform(x[fit]), first.transform(x[test])
        for place, c in enumerate(penalties):
            model = LogisticRegression(C=c, max_iter=2000).fit(old, codes[fit])
            known[place][:, seen] = model.predict_proba(new)
    mixed = (1 - share) * known + share / classes
    return -np.log2(mixed[:, np.arange(len(asked)), asked]).sum(axis=1)


def ridge_map(
    x: Values, y: Values, groups: Groups = None, *, folds: int = FOLDS, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Does a linear map from x (n, d_x) to paired y (n, d_y) take left-out entities to their own?

    Returns (n,) whether a mapped state is nearest to its own, of the fold's, by cosine about the
    fitting rows' mean (a tie counts against it); the same with x itself (what the shared name alone
    finds; NaN where the widths differ); chance, 1 / candidates. The map is fitted on the other
    folds, its penalty chosen by their leave-one-out error. Raises as `linear_cka`.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = checks.to_pair(x, y, groups)
    n = len(x)
    fold = subject_folds(np.zeros(n), None, folds=folds, seed=seed)
    own, unmapped, chance = np.zeros(n), np.full(n, np.nan), np.zeros(n)
    for k in range(folds):
        fit, test = fold != k, fold == k
        middle = y[fit].mean(axis=0)
        model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(x[fit], y[fit] - middle)
        own[test] = _finds_own(model.predict(x[test]), y[test] - middle)
        if x.shape[1] == y.shape[1]:
            unmapped[test] = _finds_own(x[test] - x[fit].mean(axis=0), y[test] - middle)
        chance[test] = 1 / test.sum()
    return own, unmapped, chance


def _finds_own(queries: Array, candidates: Array) -> Array:
    """(m,) whether row i of candidates is nearer by cosine to row i of queries than all others."""
    lengths = np.linalg.norm(candidates, axis=1)
    cosine = queries @ (candidates / np.where(lengths > 0, lengths, 1)[:, None]).T
    return np.sum(cosine >= np.diagonal(cosine)[:, None], axis=1) == 1


def relation_probe(
    x: Mapping[str, Values],
    y: Mapping[str, Values],
    subjects: Mapping[str, Sequence],
    **options: Any,
) -> transfer.Transfer:
    """Which relation does a state ask? Fitted on x of some subjects, scored on y of the others.

    x: per relation the states (n_r, S, d) of one kind of prompt; y: of another kind (within one the
    wording tells), (n_r, S, d) or (P_r, n_r, S, d), cut to the smallest P_r; subjects: (n_r,) whom
    the rows are about. Answers come relation by relation in the order of x.
    """
    stacks = {r: checks.to_prompts(some, f"y of {r}", "P n S d") for r, some in y.items()}
    prompts = min(len(some) for some in stacks.values())
    states = [checks.to_float64(some, f"x of {r}") for r, some in x.items()]
    labels = np.repeat(list(x), [len(some) for some in states])
    who = [subject for relation in x for subject in subjects[relation]]
    answers = np.concatenate([stacks[r][:prompts] for r in x], axis=1)
    fitted = transfer.fit_probes(np.concatenate(states), labels, who, **options)
    return fitted.score(answers, allow_degenerate=options.get("allow_degenerate", False))


def _over_entities(values: Array, who: Array) -> tuple[float, float, float]:
    """The mean of (n,) values and its t interval over entities."""
    interval = mean_interval(np.bincount(who, weights=values) / np.bincount(who))
    return float(values.mean()), interval.low, interval.high


def _inner_folds(codes: Array, together: Array | None, seed: int) -> Array:
    """(n,) folds in which a penalty is chosen: INNER_FOLDS, or as many as `together` has values."""
    things = len(codes) if together is None else len(np.unique(together))
    if things < 2:
        return np.arange(len(codes)) % min(INNER_FOLDS, len(codes))
    return subject_folds(codes, together, folds=min(INNER_FOLDS, things), seed=seed)
