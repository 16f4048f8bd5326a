"""Does an object probe fitted on some subjects read the answer off other subjects' states?

Fitted on rote states and scored on semantic ones, independent codes of one answer give chance and
shared codes do not. Fitted and scored subjects differ, so a probe cannot answer by the name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures import checks
from analysis.measures.checks import Array, Groups, Labels, NotIdentifiable, Values
from analysis.measures.statistics import Rng, permutations
from training.base.errors import BadInput

ALPHAS = np.logspace(-1, 5, 7)
FOLDS = 5
NO_PREDICTION = -1


@dataclass(frozen=True, eq=False)
class Transfer:
    """What probes answered about subjects that they were not fitted on.

    predictions: (P, n, S) class codes, NO_PREDICTION at sites left out; labels: (n,) the right
    codes; majority: (n,) the commonest class among the rows that the probe of the row's fold was
    fitted on; reasons: (S,) why a site was left out, or None.
    """

    predictions: Array
    labels: Array
    majority: Array
    reasons: tuple[str | None, ...]

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
        """The better of two blind guesses: the fitting rows' commonest class, or by frequency."""
        # The first is below 1/K where a class rarer in a fold is commoner among the fitting rows.
        shares = np.bincount(self.labels) / len(self.labels)
        return float(max(np.mean(self.majority == self.labels), (shares**2).sum()))

    def of(self, rows: Array) -> "Transfer":
        """The same for some of the scored rows. Raises NotIdentifiable as `check_objects`."""
        check_objects(self.labels[rows])
        predictions, majority = self.predictions[:, rows], self.majority[rows]
        return Transfer(predictions, self.labels[rows], majority, self.reasons)

    def pair_scores(self) -> Array:
        """(S, n, n) share of prompts whose answer about subject i is the object of subject j."""
        scores = np.mean([p.T[:, :, None] == self.labels for p in self.predictions], axis=0)
        scores[[reason is not None for reason in self.reasons]] = np.nan
        return scores

    def object_null(self, draws: int, rng: Rng = 0) -> Array:
        """(draws, S) accuracies with whole objects permuted, answers kept; NaN where left out.

        Two unrelated codes of few objects agree on some by luck, for all subjects of such an object
        at once: subjects are not independent evidence, and a null over them would reject.
        """
        size = int(max(self.labels.max(), self.predictions.max())) + 1
        tables = np.full((len(self.reasons), size, size), np.nan)
        for s, reason in enumerate(self.reasons):
            if reason is None:
                pairs = (self.labels * size + self.predictions[:, :, s]).ravel()
                counts = np.bincount(pairs, minlength=size * size)
                tables[s] = counts.reshape(size, size) / len(pairs)
        orders = permutations(size, draws, rng)
        null = [tables[:, np.arange(size), order].sum(axis=1) for order in orders]
        return np.array(null).reshape(draws, len(tables))


@dataclass(frozen=True, eq=False)
class FittedProbes:
    """Object probes of every site and fold; estimators: per site by fold, none where left out."""

    estimators: tuple[tuple, ...]
    fold: Array
    labels: Array
    majority: Array
    reasons: tuple[str | None, ...]

    def score(self, y: Values, *, allow_degenerate: bool = False) -> Transfer:
        """Predict each subject's object from its states y, (n, S, d) or (P, n, S, d).

        y is standardised prompt by prompt by the fitting subjects of the fold, without labels, so
        that a constant offset or scale between two prompts does not decide.
        """
        from sklearn.preprocessing import StandardScaler

        y = _prompts(y, "y", len(self.labels), len(self.reasons))
        own = [_site_reasons(prompt, "y", allow_degenerate) for prompt in y]
        reasons = checks.first_reasons(self.reasons, *own)
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
        return Transfer(predictions, self.labels, self.majority, reasons)


def transfer(
    x: Values,
    y: Values,
    labels: Labels,
    subjects: Groups = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Transfer:
    """Fit object probes on states x of some subjects, score them on states y of the others.

    >>> rng = np.random.default_rng(0)
    >>> objects, code = np.arange(60) % 5, 3 * rng.normal(size=(2, 5, 16))
    >>> x, same, other = (code[c, objects] + rng.normal(size=(60, 16)) for c in (0, 0, 1))
    >>> [round(float(transfer(x, y, objects).accuracy[0]), 2) for y in (same, other)]
    [1.0, 0.03]

    x: (n, d), or sites (n, S, d), of one prompt; y: the same, or prompts first, (P, n, d) or
    (P, n, S, d); labels: (n,) objects; subjects: (n,), default all different. Each side is
    standardised by the fitting subjects of the fold. Objects unseen in the fitting rows count as
    wrong. Raises NotIdentifiable (one object, or one that occurs once), and as `linear_cka`.
    """
    x, y = checks.to_float64(x, "x"), checks.to_float64(y, "y")
    if x.ndim == 2:
        x, y = x[:, None], y[..., None, :]
    return fit_probes(x, labels, subjects, folds=folds, seed=seed).score(y)


def fit_probes(
    x: Values,
    labels: Labels,
    subjects: Groups = None,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    allow_degenerate: bool = False,
    estimator: Callable[[], Any] | None = None,
) -> FittedProbes:
    """Fit a linear classifier of the object on x (n, S, d), at every site, for every fold left out.

    >>> rng = np.random.default_rng(0)
    >>> objects = np.arange(60) % 5
    >>> x = 3 * rng.normal(size=(5, 2, 16))[objects] + rng.normal(size=(60, 2, 16))  # 2 sites
    >>> fit_probes(x, objects).score(x).accuracy.tolist()
    [1.0, 1.0]

    Standardised within the fold. Default: ridge with objects weighted equally, its penalty among
    ALPHAS by the closed-form leave-one-out error (RidgeClassifierCV). estimator: () -> another
    scikit-learn classifier, e.g. analysis.measures.mass_mean.MassMean. allow_degenerate: leave out
    sites without variance, with the reason. Otherwise as `transfer`.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states = _prompts(x, "x", len(labels))[0]
    codes = checks.to_labels(labels, len(states))
    check_objects(codes)
    fold = subject_folds(codes, subjects, folds=folds, seed=seed)
    majority = np.empty_like(codes)
    for k in range(folds):
        counts = np.bincount(codes[fold != k])
        check_two_classes(counts, k)
        majority[fold == k] = counts.argmax()
    make = estimator or (lambda: RidgeClassifierCV(ALPHAS, class_weight="balanced"))

    def fitted(s: int, k: int) -> Any:
        fit = fold != k
        return make_pipeline(StandardScaler(), make()).fit(states[fit, s], codes[fit])[-1]

    reasons = _site_reasons(states, "x", allow_degenerate)
    estimators = tuple(
        tuple(fitted(s, k) for k in range(folds if reason is None else 0))
        for s, reason in enumerate(reasons)
    )
    return FittedProbes(estimators, fold, codes, majority, tuple(reasons))


def subject_folds(
    labels: Labels, subjects: Groups = None, *, folds: int = FOLDS, seed: int = 0
) -> Array:
    """(n,) fold of each row, 0..folds-1: whole subjects, each object spread as evenly as possible.

    The same arguments give the same folds. Raises TooFewRows with fewer subjects than folds.
    """
    codes = checks.to_labels(labels, len(labels))
    who = checks.to_entities(subjects, len(codes), "subjects")
    _, first = np.unique(who, return_index=True)
    if not 2 <= folds <= len(first):
        given = f"folds={folds} with {len(first)} subjects; expected 2 to one per subject"
        raise checks.TooFewRows(f"{given}: give more subjects or fewer folds")
    shuffled = np.random.default_rng(seed).permutation(len(first))
    order = np.lexsort((shuffled, codes[first]))
    of_subject = np.empty(len(first), dtype=int)
    of_subject[order] = np.arange(len(first)) % folds
    return of_subject[who]


def check_objects(labels: Values) -> None:
    """Raises NotIdentifiable unless there are two objects and each occurs at least twice."""
    objects, counts = np.unique(labels, return_counts=True)
    once, n = int((counts == 1).sum()), int(counts.sum())
    if len(objects) >= 2 and not once:
        return
    what = f"{once} objects occur once, so they cannot be known from other subjects"
    if len(objects) < 2:
        what = "all have one object"
    elif once == n:
        what = "all have different objects, so none can be known from other subjects"
    needs = "an object probe needs two objects or more, each of at least two subjects"
    raise NotIdentifiable(f"not identifiable: of {n} scored subjects {what}; {needs}")


def check_two_classes(counts: Array, fold: int) -> None:
    """Raises NotIdentifiable where the rows outside a fold have fewer than two classes."""
    if np.count_nonzero(counts) < 2:
        why = f"outside fold {fold} all rows are of one class, and a probe needs at least two"
        raise NotIdentifiable(f"not identifiable: {why}; give more entities of the rarer classes")


def _prompts(states: Values, name: str, n: int, sites: int | None = None) -> Array:
    """States (P, n, S, d) given as (n, S, d) or (P, n, S, d); checked for rows and sites."""
    found = checks.to_prompts(states, name, "P n S d")
    checks.check_paired(n, found.shape[1])
    if sites not in (None, found.shape[2]):
        raise BadInput(f"{name} has {found.shape[2]} sites; expected {sites}, as were fitted")
    return found


def _site_reasons(states: Array, name: str, allow_degenerate: bool) -> list[str | None]:
    """Per site of (n, S, d) why it allows no probe, or None."""
    reasons = checks.site_reasons(states.transpose(1, 0, 2))
    for s, reason in enumerate(reasons):
        if reason and not allow_degenerate:
            raise checks.DegenerateStates(f"{name} at site {s}: {reason}; leave this site out")
    return reasons
