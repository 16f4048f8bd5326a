"""The mass-mean probe: a class lies in the direction from the mean of all others to its own mean.

Nothing to tune (Marks & Tegmark 2023, arXiv:2310.06824): where it reads what a tuned probe reads,
the class is a direction of the states and not an artefact of the optimiser. This module imports
scikit-learn, so import it inside the function that fits.
"""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from analysis.measures.checks import Array, DegenerateStates, NotIdentifiable


class MassMean(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier along mu+ - mu-, threshold halfway; more classes: one against rest.

    >>> x = np.array([[0.0, 5.0], [1.0, 5.0], [4.0, 5.0], [5.0, 5.0]])
    >>> MassMean().fit(x, ["low", "low", "high", "high"]).predict([[2.4, 0.0], [2.6, 0.0]]).tolist()
    ['low', 'high']

    Fitted: classes_ (k,); coef_ (k, d), or (1, d) for two classes, scaled so that the two means lie
    at +1/2 and -1/2 about the threshold (no class is louder than another); intercept_.
    """

    def fit(self, x: Array, y: Array) -> "MassMean":
        """x: (n, d), y: (n,). Raises NotIdentifiable (one class), DegenerateStates."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise NotIdentifiable("not identifiable: all rows are of one class; give at least two")
        members = np.eye(len(self.classes_))[codes]
        counts = members.sum(axis=0)[:, None]
        own = members.T @ x / counts
        rest = (x.sum(axis=0) - counts * own) / (len(x) - counts)
        squared = np.sum((own - rest) ** 2, axis=1, keepdims=True)
        if not squared.all():
            raise DegenerateStates("a class has the mean of all others; leave this site out")
        coef = (own - rest) / squared
        intercept = -np.sum(coef * (own + rest) / 2, axis=1)
        chosen = slice(1, 2) if len(coef) == 2 else slice(None)
        self.coef_, self.intercept_ = coef[chosen], intercept[chosen]
        return self

    def decision_function(self, x: Array) -> Array:
        """(n,) for two classes, positive for the second; else (n, k)."""
        scores = np.asarray(x) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, x: Array) -> Array:
        """(n,) the class on whose side of its threshold a row lies farthest."""
        scores = self.decision_function(x)
        chosen = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[chosen]
