"""Does an object probe fitted on some subjects read other subjects' states? And scores, nulls, intervals.

    from analysis.measures.transfer import (transfer)
    result = transfer(rote, semantic, objects)       # (n, S, d), (P, n, S, d), (n,)
    result.accuracy                                  # (S,)

Independent codes of one answer give chance, shared codes do not (measures.md, sections 4 and 8): the fitted
and the scored subjects are never the same, so a probe cannot answer by the name. The second half turns what
each subject scored into values with intervals over subjects and nulls over pairings; analysis.alignment uses
it too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import (
    NotIdentifiable,
    TooFewRows,
    check_paired,
    check_varied,
    first_reasons,
    site_reasons,
    to_float64,
    to_labels,
)
from analysis.measures.statistics import Rng
from training.base.errors import BadInput

Array = np.ndarray


ALPHAS = np.logspace(-1, 5, 7)


FOLDS = 5


NO_PREDICTION = -1


@dataclass(frozen=True, eq=False)
class Transfer:
    """What probes answered about subjects that they were not fitted on.

    predictions: (P, n, S) class codes, NO_PREDICTION where a site bears no probe; labels: (n,) the right
    codes. majority: (n,) the commonest class among the rows that the probe of the row's fold was fitted on.
    reasons: (S,) why a site was left out, or None; d: width of the states.
    """

    predictions: Array
    labels: Array
    majority: Array
    reasons: tuple[str | None, ...]
    d: int

    @property
    def correct(self) -> Array:
        """(n, S) share of prompts answered rightly about each subject; NaN at sites left out."""
        return np.diagonal(self.pair_scores(), axis1=1, axis2=2).T

    @property
    def accuracy(self) -> Array:
        """(S,) mean over subjects and prompts."""
        return self.correct.mean(axis=0)

    @property
    def chance(self) -> float:
        """What answers that know nothing score: always the fitting rows' commonest class, or guesses in proportion to
        the classes, whichever is more. With balanced classes the first is below 1/K: a class that is rarer among the
        scored rows of a fold is commoner among the fitting ones.
        """
        shares = np.bincount(self.labels) / len(self.labels)
        return float(max(np.mean(self.majority == self.labels), (shares**2).sum()))

    def of(self, rows: Array) -> "Transfer":
        """The same for some of the scored rows.

        Raises NotIdentifiable unless each object occurs at least twice in them.
        """
        check_objects(self.labels[rows])
        return Transfer(
            self.predictions[:, rows], self.labels[rows], self.majority[rows], self.reasons, self.d
        )

    def pair_scores(self) -> Array:
        """(S, n, n) share of prompts whose answer about subject i is the object of subject j."""
        scores = np.mean([p.T[:, :, None] == self.labels for p in self.predictions], axis=0)
        scores[[reason is not None for reason in self.reasons]] = np.nan
        return scores

    def object_null(self, draws: int, rng: Rng = 0) -> Array:
        """(draws, S) accuracies with whole objects permuted: the answers stay, the objects change their names.

        Two unrelated codes of few objects agree on some objects by luck, for all subjects of such an object at once;
        permuting subjects takes that for evidence, this does not. NaN at sites left out.
        """
        size = int(max(self.labels.max(), self.predictions.max())) + 1
        tables = np.zeros((len(self.reasons), size, size))
        for s, reason in enumerate(self.reasons):
            if reason is None:
                for answers in self.predictions[:, :, s]:
                    np.add.at(tables[s], (self.labels, answers), 1 / self.predictions[:, :, s].size)
            else:
                tables[s] = np.nan
        orders = np.random.default_rng(rng).permuted(np.tile(np.arange(size), (draws, 1)), axis=1)
        return np.array(
            [tables[:, np.arange(size), order].sum(axis=1) for order in orders]
        ).reshape(draws, len(tables))


@dataclass(frozen=True, eq=False)
class FittedProbes:
    """Object probes of every site and fold, fitted on one kind of states; `score` them on any other kind.

    estimators: per site the probes by fold, none at sites left out; fold, labels, majority: (n,).
    reasons: (S,) why a site was left out, or None.
    """

    estimators: tuple[tuple, ...]
    fold: Array
    labels: Array
    majority: Array
    reasons: tuple[str | None, ...]

    def score(self, y: Any, *, allow_degenerate: bool = False) -> Transfer:
        """Predict each subject's object from its states y (n, S, d) or (P, n, S, d), by its fold's probe.

        y is standardised by the fitting subjects of the fold on its own side, prompt by prompt and without
        labels: a constant offset or scale between two prompts does not decide.
        """
        from sklearn.preprocessing import StandardScaler

        y = _prompts(y, "y", len(self.labels), len(self.reasons))
        own = [_site_reasons(prompt, "y", allow_degenerate) for prompt in y]
        reasons = first_reasons(self.reasons, *own)
        predictions = np.full(y.shape[:3], NO_PREDICTION)
        for s, probes in enumerate(self.estimators):
            if reasons[s] is not None:
                continue
            # Prompts side by side as features: each has its own mean and spread.
            states = np.concatenate(y[:, :, s], axis=1)
            for k, probe in enumerate(probes):
                test = self.fold == k
                scaled = StandardScaler().fit(states[~test]).transform(states[test])
                answers = probe.predict(scaled.reshape(-1, y.shape[3]))
                predictions[:, test, s] = answers.reshape(-1, len(y)).T
        return Transfer(predictions, self.labels, self.majority, reasons, y.shape[3])


def transfer(
    x: Any,
    y: Any,
    labels: Any,
    subjects: Sequence | None = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Transfer:
    """Fit object probes on states x of some subjects, score them on states y of the others, fold by fold.

    x: (n, d), or sites (n, S, d), of one prompt; y: the same shape, or with prompts first, (P, n, d) or
    (P, n, S, d); row i of both is the same subject. labels: (n,) its object; subjects: (n,) who it is,
    default all different.
    Each side is standardised by the fitting subjects of the fold on its own side, without labels: a constant
    offset or scale between the two prompts changes nothing. Objects unseen among a fold's fitting rows count
    as wrong.
    Raises NotIdentifiable (an object that occurs once, or one object only), DegenerateStates, DuplicateRows,
    TooFewRows, BadInput, BadInput, BadInput.
    """
    x, y = to_float64(x, "x"), to_float64(y, "y")
    if x.ndim == 2:
        x, y = x[:, None], y[..., None, :]
    return fit_probes(x, labels, subjects, folds=folds, seed=seed).score(y)


def fit_probes(
    x: Any,
    labels: Any,
    subjects: Sequence | None = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    allow_degenerate: bool = False,
    estimator: Callable[[], Any] | None = None,
) -> FittedProbes:
    """Fit a linear classifier of the object on x (n, S, d), at every site, for every fold left out.

    Features are standardised within the fold. The default classifier is ridge: objects weigh equally; the penalty is
    chosen among ALPHAS by the closed-form leave-one-out error of the fitting rows (scikit-learn's RidgeClassifierCV).
    estimator: () -> another scikit-learn classifier, e.g. analysis.measures.mass_mean.MassMean.
    allow_degenerate: leave sites without variance out, with their reason, instead of DegenerateStates.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = _prompts(x, "x", len(labels))[0]
    codes = to_labels(labels, len(x))
    check_objects(codes)
    fold = subject_folds(codes, subjects, folds=folds, seed=seed)
    majority = np.empty_like(codes)
    for k in range(folds):
        counts = np.bincount(codes[fold != k])
        if np.count_nonzero(counts) < 2:
            raise NotIdentifiable(
                f"not identifiable: outside fold {k} all subjects have one object, and a probe tells at "
                "least two apart; give more subjects of the rarer objects"
            )
        majority[fold == k] = counts.argmax()
    reasons = _site_reasons(x, "x", allow_degenerate)
    estimators = []
    for s, reason in enumerate(reasons):
        probes = []
        for k in range(folds if reason is None else 0):
            fit = fold != k
            classifier = (
                estimator() if estimator else RidgeClassifierCV(ALPHAS, class_weight="balanced")
            )
            pipeline = make_pipeline(StandardScaler(), classifier)
            probes.append(pipeline.fit(x[fit, s], codes[fit])[-1])
        estimators.append(tuple(probes))
    return FittedProbes(tuple(estimators), fold, codes, majority, tuple(reasons))


def subject_folds(
    labels: Any, subjects: Sequence | None = None, *, folds: int = FOLDS, seed: int = 0
) -> Array:
    """(n,) fold of each row, 0..folds-1: whole subjects, each object spread as evenly as can be.

    The same labels, subjects and seed give the same folds. Raises TooFewRows with fewer subjects than folds.
    """
    codes = to_labels(labels, len(labels))
    who = np.arange(len(codes)) if subjects is None else to_labels(subjects, len(codes), "subjects")
    _, first = np.unique(who, return_index=True)
    if not 2 <= folds <= len(first):
        raise TooFewRows(
            f"folds={folds} with {len(first)} subjects; expected from 2 folds to one a subject: "
            "give more subjects or fewer folds"
        )
    shuffled = np.random.default_rng(seed).permutation(len(first))
    order = np.lexsort((shuffled, codes[first]))
    of_subject = np.empty(len(first), dtype=int)
    of_subject[order] = np.arange(len(first)) % folds
    return of_subject[who]


def check_objects(labels: Any) -> None:
    """Raises NotIdentifiable unless there are two objects and each occurs at least twice among the rows."""
    objects, counts = np.unique(labels, return_counts=True)
    once = int((counts == 1).sum())
    if len(objects) >= 2 and not once:
        return
    if len(objects) < 2:
        what = "all have one object"
    elif once == len(labels):
        what = "all have different objects, so none can be known from other subjects"
    else:
        what = f"{once} objects occur once, so they cannot be known from other subjects"
    raise NotIdentifiable(
        f"not identifiable: of {len(labels)} scored subjects {what}; an object probe needs two objects or "
        "more, each of at least two subjects"
    )


def _prompts(states: Any, name: str, n: int, sites: int | None = None) -> Array:
    """States (P, n, S, d) given as (n, S, d) or (P, n, S, d); checked for rows and sites."""
    states = to_float64(states, name)
    states = states[None] if states.ndim == 3 else states
    if states.ndim != 4 or len(states) == 0:
        raise BadInput(
            f"{name} has shape {states.shape}; expected (n, n_sites, d) or (n_prompts, n, n_sites, d)"
        )
    check_paired(n, states.shape[1])
    if sites not in (None, states.shape[2]):
        raise BadInput(
            f"{name} has {states.shape[2]} sites and the probes were fitted at {sites}; give the same sites"
        )
    return states


def _site_reasons(states: Array, name: str, allow_degenerate: bool) -> list[str | None]:
    """Per site of (n, S, d) why it bears no probe, or None."""
    sites = states.transpose(1, 0, 2)
    if not allow_degenerate:
        for s, site in enumerate(sites):
            check_varied(site, f"{name} at site {s}")
    return site_reasons(sites)
