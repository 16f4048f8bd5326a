"""Intervals and nulls: jackknife by entity, permutation, max-statistic, paired differences, Holm.

A measure is any callable (x, y) -> number, or -> object with a `value`. `rng` is a seed or a numpy
Generator; the same seed and n give the same permutations, so calling per site, prompt or relation
with one seed permutes all alike, as the max-statistic and averages need.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.measures import checks
from analysis.measures.checks import Array, Groups, Values
from training.base.errors import BadInput

Rng = int | np.random.Generator | Sequence[int]


@dataclass(frozen=True, eq=False)
class Interval:
    """A value with its interval or null; fields are floats, or arrays where a stack was given.

    n: entities, subjects or seeds; df: degrees of freedom of the t quantile; p: of a difference or
    against a null, NaN without one; null: draws (N,), or the mean over mismatched pairs.
    """

    value: Any
    low: Any = np.nan
    high: Any = np.nan
    se: Any = np.nan
    n: int = 0
    df: Any = np.nan
    p: float = np.nan
    null: Any = None


@dataclass(frozen=True, eq=False)
class MaxStatistic:
    """The best of all sites. p: family-wise p of every site (NaN if unscored), p_best of the best.

    best: index of the best site, a tuple for a grid; n_candidates: sites with a finite value.
    """

    value: float
    best: int | tuple[int, ...]
    p_best: float
    p: Array
    n_candidates: int


def mean_interval(values: Values) -> Interval:
    """The t interval of a mean over independent subjects or seeds, (n,) with n >= 2.

    >>> found = mean_interval([0.1, 0.2, 0.3])
    >>> round(found.low, 3), round(found.high, 3)
    (-0.048, 0.448)
    """
    values = _vector(values, "values")
    se = values.std(ddof=1) / np.sqrt(len(values))
    return _interval(values.mean(), se, len(values), len(values) - 1)


def share_interval(values: Values) -> Interval:
    """Exact (Clopper-Pearson) interval of a share of 0s and 1s (n,), n >= 2; never empty."""
    from scipy import stats

    values = _yes_no(values, "values")
    n, share = len(values), values.mean()
    found = stats.binomtest(int(values.sum()), n).proportion_ci(0.95, method="exact")
    return Interval(share, found.low, found.high, np.sqrt(share * (1 - share) / n), n, n - 1)


def jackknife(measure: Callable, x: Values, y: Values, groups: Groups = None) -> Interval:
    """Delete-one-entity jackknife of measure(x, y); all rows of an entity leave at once.

    >>> x = np.random.default_rng(0).normal(size=(10, 2))
    >>> found = jackknife(lambda x, y: float((x - y).mean()), x, x - 1)
    >>> round(found.value, 6), found.n
    (1.0, 10)

    x, y: (n, d); groups: (n,) entities, default one per row.
    """
    x, y, entities = _paired_rows(x, y, groups)
    value = _number(measure(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checks.SmallSample)
        kept = [entities != e for e in range(entities.max() + 1)]
        left_out = [_number(measure(x[rows], y[rows])) for rows in kept]
    return jackknife_interval(value, left_out)


def jackknife_interval(value: Values, leave_one_out: Values) -> Interval:
    """Delete-one interval from a value (...) and its values without each entity (..., n).

    se^2 = (n-1)/n sum (theta_-i - mean)^2 (Tukey 1958), t quantile with n - 1 degrees of freedom.
    For an average over prompts or relations give the average of their leave-one-out values.
    """
    values = checks.to_float64(leave_one_out, "leave_one_out")
    n = values.shape[-1] if values.ndim else 0
    if n < 2:
        raise checks.TooFewRows(
            f"leave_one_out has {n} entries; a jackknife needs at least 2 entities"
        )
    se = np.sqrt(_jackknife_variance(values))
    return _interval(np.asarray(value, dtype=np.float64), se, n, n - 1)


def two_way_jackknife(values: Values, leave_one_out: Values) -> Interval:
    """Interval of a mean over templates when subjects AND templates are samples.

    >>> cells = np.random.default_rng(0).normal(size=(4, 30))  # a score per template and subject
    >>> left_out = (cells.sum(axis=1, keepdims=True) - cells) / 29
    >>> round(two_way_jackknife(cells.mean(axis=1), left_out).se, 2)
    0.09

    values: (n_templates,); leave_one_out: (n_templates, n_subjects), the same without each subject.
    Variance = var_subject + var_template - var_both: both one-way variances contain the residual,
    so it is subtracted once (crossed design: Owen 2007, Ann. Appl. Stat. 1:386, eq. 2; residual
    from the two-way ANOVA of the pseudo-values). Never below the larger one-way variance; degrees
    of freedom by Satterthwaite.
    """
    values = _vector(values, "values")
    left_out = checks.to_float64(leave_one_out, "leave_one_out")
    if left_out.ndim != 2 or len(left_out) != len(values) or left_out.shape[1] < 2:
        wanted = f"({len(values)} templates, n_subjects) with at least 2 subjects"
        raise BadInput(f"leave_one_out has shape {left_out.shape}; expected {wanted}")
    templates, subjects = left_out.shape
    var_subject = _jackknife_variance(left_out.mean(axis=0))
    var_template = values.var(ddof=1) / templates
    influence = (subjects - 1) * (left_out.mean(axis=1, keepdims=True) - left_out)
    residual = influence - influence.mean(axis=0)
    var_both = np.sum(residual**2) / ((subjects - 1) * (templates - 1)) / (subjects * templates)
    variance = max(var_subject + var_template - var_both, var_subject, var_template)
    spread = var_subject**2 / (subjects - 1) + var_template**2 / (templates - 1)
    df = min(variance**2 / spread if spread > 0 else subjects - 1, subjects + templates - 2)
    return _interval(values.mean(), np.sqrt(variance), subjects, df)


def paired_difference(a: Values, b: Values) -> Interval:
    """Paired t-test of a - b over seeds (or subjects): entry i of both is the same seed.

    >>> found = paired_difference([0.5, 0.6, 0.7, 0.9], [0.4, 0.4, 0.4, 0.5])
    >>> round(found.value, 2), round(found.p, 3)
    (0.25, 0.03)

    Two or three pairs give an interval and no claim of significance: p is NaN.
    """
    from scipy.special import stdtr

    a, b = _vector(a, "a"), _vector(b, "b")
    checks.check_paired(len(a), len(b))
    found = mean_interval(a - b)
    if found.n < 4:
        return found
    if found.se == 0:
        return replace(found, p=float(found.value == 0))
    return replace(found, p=2 * float(stdtr(found.df, -abs(found.value) / found.se)))


def paired_shares(a: Values, b: Values) -> Interval:
    """Difference of two paired shares: entries 0 or 1, entry i of both the same seed.

    p: exact McNemar test, NaN below four pairs; interval: Wald's with half a pair added to each
    cell (Agresti & Min 2005).
    """
    from scipy import stats

    a, b = _yes_no(a, "a"), _yes_no(b, "b")
    checks.check_paired(len(a), len(b))
    up, down, n = int((a > b).sum()), int((a < b).sum()), len(a)
    p = float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0
    wide_up, wide_down, wide_n = up + 0.5, down + 0.5, n + 2
    centre = (wide_up - wide_down) / wide_n
    se = float(np.sqrt(wide_up + wide_down - (wide_up - wide_down) ** 2 / wide_n) / wide_n)
    half = float(stats.norm.ppf(0.975) * se)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Interval((up - down) / n, low, high, se, n, np.inf, p if n >= 4 else np.nan)


def permutations(n: int, count: int, rng: Rng) -> Array:
    """(count, n) uniform random permutations of n entities; the same seed gives the same ones."""
    rng = np.random.default_rng(rng)
    return rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)


def permutation_p(observed: Values, null: Values, alternative: str = "greater") -> Any:
    """p = (1 + hits)/(1 + N) of observed (...) among null draws (N, ...); NaN where either is NaN.

    alternative: "greater", "less" or "two-sided" (larger in absolute value).
    """
    score = {"greater": np.positive, "less": np.negative, "two-sided": np.abs}.get(alternative)
    if score is None:
        raise BadInput(f"alternative={alternative!r}; expected 'greater', 'less' or 'two-sided'")
    value, draws = (score(np.asarray(z, dtype=np.float64)) for z in (observed, null))
    # Draws equal to the observed value but for rounding (few rows, identity drawn) are hits.
    slack = 1e-12 * np.maximum(1, np.abs(value))
    p = (1 + np.sum(draws >= value - slack, axis=0)) / (1 + len(draws))
    return np.where(np.isnan(value) | np.isnan(draws).any(axis=0), np.nan, p)[()]


def permutation_test(
    measure: Callable,
    x: Values,
    y: Values,
    groups: Groups = None,
    n: int = 999,
    rng: Rng = 0,
    *,
    alternative: str = "greater",
) -> Interval:
    """Null and p of measure(x, y) by permuting the pairing: whole entities of y change places.

    >>> x = np.random.default_rng(0).normal(size=(20, 2))
    >>> permutation_test(lambda x, y: float((x * y).sum()), x, x, n=99).p
    0.01

    x, y: (n_rows, d); groups: (n_rows,) entities of equally many rows (else BadInput), default one
    per row; n: permutations. For a distance use alternative="less". No interval.
    """
    x, y, entities = _paired_rows(x, y, groups)
    sizes = np.bincount(entities)
    if len(set(sizes)) > 1:
        why = f"entities have {sizes.min()} to {sizes.max()} rows and need equally many"
        raise BadInput(f"{why}: give each the same prompts, or average its rows first")
    order = np.argsort(entities, kind="stable")
    blocks = order.reshape(len(sizes), sizes[0])
    value = _number(measure(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checks.SmallSample)
        draws = permutations(len(sizes), n, rng)
        null = np.array([_number(measure(x[order], y[blocks[p].ravel()])) for p in draws])
    p = float(permutation_p(value, null, alternative))
    return Interval(value, n=len(sizes), p=p, null=null)


def max_statistic_test(observed: Values, null: Values, *, two_sided: bool = False) -> MaxStatistic:
    """Family-wise test of the best site: each site against the null of the maximum over all sites.

    >>> null = np.random.default_rng(0).normal(size=(99, 12))
    >>> found = max_statistic_test([2.0] + 11 * [0.0], null)
    >>> float(permutation_p(2.0, null[:, 0])), found.p_best  # alone, and as the best of 12
    (0.01, 0.19)

    observed: (S,) or a grid (S, T); null: (N, ...) draws, the same permutation at all sites
    (Westfall & Young 1993, single step). NaN sites are left out. For every best-layer or best-pair
    claim.
    """
    observed, null = checks.to_float64(observed, "observed"), checks.to_float64(null, "null")
    if null.shape[1:] != observed.shape or len(null) == 0:
        raise BadInput(f"null has shape {null.shape}; expected (N, *{observed.shape})")
    scored = np.isfinite(observed)
    if not scored.any():
        raise checks.NotIdentifiable("no site has a finite value; look at the reasons per site")
    score, draws = (np.abs(observed), np.abs(null)) if two_sided else (observed, null)
    highest = draws[:, scored].max(axis=1, keepdims=True)
    p = np.full(observed.shape, np.nan)
    p[scored] = permutation_p(score[scored], np.repeat(highest, scored.sum(), axis=1))
    place = tuple(map(int, np.unravel_index(np.nanargmax(score), observed.shape)))
    best = place[0] if len(place) == 1 else place
    return MaxStatistic(float(observed[best]), best, float(p[best]), p, int(scored.sum()))


def holm(p: Values) -> Array:
    """Holm's (1979) family-wise corrected p values (m,), in order; NaN entries stay NaN, uncounted.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = checks.to_float64(p, "p")
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise BadInput(f"p={p.tolist()}; expected a list of numbers in [0, 1]")
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def _interval(value: Any, se: Any, n: int, df: Any) -> Interval:
    from scipy.special import stdtrit

    half = stdtrit(df, 0.975) * se
    parts = (value, value - half, value + half, se)
    value, low, high, se = (float(z) if np.ndim(z) == 0 else z for z in parts)
    return Interval(value, low, high, se, n, df)


def _jackknife_variance(left_out: Array) -> Any:
    return (left_out.shape[-1] - 1) * left_out.var(axis=-1)


def _vector(values: Values, name: str) -> Array:
    values = checks.to_float64(values, name)
    if values.ndim != 1:
        raise BadInput(f"{name} has shape {values.shape}; expected one number per subject or seed")
    if len(values) < 2:
        raise checks.TooFewRows(f"{name} has {len(values)} entries; an interval needs at least 2")
    return values


def _yes_no(values: Values, name: str) -> Array:
    values = _vector(values, name)
    if not np.isin(values, (0, 1)).all():
        raise BadInput(f"{name} holds numbers other than 0 and 1; for those take mean_interval")
    return values


def _paired_rows(x: Values, y: Values, groups: Groups) -> tuple[Array, Array, Array]:
    """x, y (n, d) and the entity of each row (n,), at least two."""
    x, y = checks.to_float64(x, "x"), checks.to_float64(y, "y")
    if x.ndim != 2 or y.ndim != 2:
        raise BadInput(f"x has shape {x.shape} and y {y.shape}; expected (n, d) both")
    checks.check_paired(len(x), len(y))
    entities = checks.to_entities(groups, len(x))
    if entities.max() == 0:
        raise BadInput("groups names one entity; leaving out or exchanging needs at least two")
    return x, y, entities


def _number(result: Any) -> float:
    return float(getattr(result, "value", result))
