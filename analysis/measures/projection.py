"""States in two dimensions: PCA, UMAP, and aligned UMAPs of successive checkpoints."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.measures import checks
from analysis.measures.checks import CONSTANT, Array, Values, to_states, why_degenerate
from training.base.errors import BadInput

Method = Literal["pca", "umap"]


@dataclass(frozen=True, eq=False)
class Projection:
    """Points xy (n, 2); explained: each axis's share of the variance (PCA, else NaN).

    trustworthiness: 1 where neighbours in the plane are neighbours in the states (Venna & Kaski).
    """

    xy: Array
    explained: tuple[float, float]
    trustworthiness: float


def project(
    x: Values, method: Method = "pca", *, n_neighbors: int = 15, random_state: int = 0
) -> Projection:
    """x (n, d) in two dimensions by one fit.

    >>> x = np.random.default_rng(0).normal(size=(40, 8)) * [9, 3, 1, 1, 1, 1, 1, 1]
    >>> found = project(x)
    >>> found.xy.shape, round(sum(found.explained), 2)
    ((40, 2), 0.9)

    A PCA axis points where its largest loading is positive; trustworthiness is over n_neighbors.
    Raises BadInput unless 2 <= n_neighbors < n / 2, DegenerateStates for constant states.
    """
    from sklearn.decomposition import PCA

    x = _to_projected(x, n_neighbors)
    if method == "pca":
        pca = PCA(2, svd_solver="full").fit(x)
        sign = np.sign(pca.components_[[0, 1], np.abs(pca.components_).argmax(axis=1)])
        first, second = map(float, pca.explained_variance_ratio_)
        return _trusted(x, pca.transform(x) * sign, n_neighbors, first, second)
    from umap import UMAP

    # One job: UMAP is reproducible only on one thread, and warns if a seed has to force that.
    umap = UMAP(n_neighbors=n_neighbors, random_state=random_state, n_jobs=1)
    return _trusted(x, umap.fit_transform(x).astype(float), n_neighbors)


def project_aligned(
    xs: Sequence[Values], *, n_neighbors: int = 15, random_state: int = 0
) -> list[Projection]:
    """Several sets of states (n, d) in two dimensions, row i held near itself (AlignedUMAP).

    xs: the same rows at successive checkpoints, at least two. Distances within a set are comparable
    between sets, exact places are not. Raises as `project`.
    """
    from umap import AlignedUMAP

    states = [_to_projected(x, n_neighbors) for x in xs]
    sizes = sorted({len(x) for x in states})
    if len(states) < 2 or len(sizes) > 1:
        raise BadInput(
            f"--aligned with {len(states)} checkpoint(s) of {sizes} points; expected at least two "
            "of the same points: leave --aligned out"
        )
    same = [{i: i for i in range(sizes[0])} for _ in states[1:]]
    with warnings.catch_warnings():
        # AlignedUMAP takes no n_jobs, and warns that a seed sets it to one.
        warnings.filterwarnings("ignore", "n_jobs value")
        umap = AlignedUMAP(n_neighbors=n_neighbors, random_state=random_state)
        found = umap.fit(states, relations=same).embeddings_
    places = [np.asarray(xy, dtype=np.float64) for xy in found]
    return [_trusted(x, xy, n_neighbors) for x, xy in zip(states, places, strict=True)]


def _trusted(x: Array, xy: Array, n_neighbors: int, first=np.nan, second=np.nan) -> Projection:
    from sklearn.manifold import trustworthiness

    trust = float(trustworthiness(x, xy, n_neighbors=n_neighbors))
    return Projection(xy, (first, second), trust)


def _to_projected(x: Values, n_neighbors: int) -> Array:
    """(n, d) float64 states that can be projected."""
    x = to_states(x)
    if why_degenerate(x) == CONSTANT:
        raise checks.DegenerateStates(f"{CONSTANT}: nothing to project; choose another --site")
    if not 2 <= n_neighbors < len(x) / 2:
        given = f"n_neighbors={n_neighbors} with {len(x)} points"
        raise BadInput(f"{given}; expected at least 2 and fewer than half of them")
    return x
