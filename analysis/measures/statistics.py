"""Intervals and nulls: jackknife by entity, permutation, max-statistic, paired differences, Holm.

Arrays in, numbers out. A measure is any callable (x, y) -> number, or -> object with a `value`.
`rng` is a seed or a numpy Generator; the same seed and n give the same permutations, so calling per site,
prompt or relation with one seed permutes all of them alike, as the max-statistic and averages need.
Where repeated calls of a measure would repeat its SmallSample warning, only the first is let through.

Debiased CKA of stacked sites without each row, and under permuted rows, without refitting.

Leaving a row out has a closed form in the U-centred Grams, and permuting rows commutes with U-centring
(see analysis.measures.hsic), so both cost about as much as the products of the plain values.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import (
    NotIdentifiable,
    SmallSample,
    TooFewRows,
    check_paired,
    to_float64,
    to_labels,
    to_site_pair,
)
from analysis.measures.hsic import (
    leave_one_out_factor,
    nan_where_degenerate,
    raise_if_degenerate,
    self_hsic1,
    u_centred_blocks,
)
from training.base.errors import BadInput

Rng = int | np.random.Generator


Array = np.ndarray


MeasureFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False)
class Interval:
    """A value with its t interval; fields are floats, or arrays where a stack was given.

    n: number of entities, subjects or seeds. df: degrees of freedom of the t quantile.
    """

    value: Any
    low: Any
    high: Any
    se: Any
    n: int
    df: Any


@dataclass(frozen=True, eq=False)
class Permutation:
    """An observed value, its null draws (N,), and p = (1 + hits)/(1 + N); n entities."""

    value: float
    null: Array
    p: float
    n: int


@dataclass(frozen=True, eq=False)
class MaxStatistic:
    """The best of all sites with its family-wise p. p: corrected p of every site (NaN where unscored).

    best: index of the best site (a tuple for a grid); threshold: what the best must exceed at level .05.
    """

    value: float
    best: Any
    p_best: float
    p: Array
    threshold: float
    n_candidates: int


@dataclass(frozen=True)
class Difference:
    """Mean paired difference a - b with its t interval; p is NaN below four pairs."""

    value: float
    low: float
    high: float
    se: float
    p: float
    n: int


def mean_interval(values: Sequence[float] | Array, *, level: float = 0.95) -> Interval:
    """t interval of a mean over independent subjects or seeds, (n,) with n >= 2."""
    values = _vector(values, "values", least=2)
    se = values.std(ddof=1) / np.sqrt(len(values))
    return _interval(values.mean(), se, len(values), len(values) - 1, level)


def share_interval(values: Sequence[float] | Array, *, level: float = 0.95) -> Interval:
    """Exact (Clopper-Pearson) interval of a share: values (n,) of 0 and 1, n >= 2. Never empty where all agree."""
    from scipy import stats

    values = _yes_no(values, "values")
    n = len(values)
    found = stats.binomtest(int(values.sum()), n).proportion_ci(level, method="exact")
    return Interval(
        values.mean(),
        found.low,
        found.high,
        np.sqrt(values.mean() * (1 - values.mean()) / n),
        n,
        n - 1,
    )


def _yes_no(values: Any, name: str) -> Array:
    values = _vector(values, name, least=2)
    if not np.isin(values, (0, 1)).all():
        raise BadInput(
            f"{name} holds numbers besides 0 and 1; give one yes or no a seed, or take mean_interval"
        )
    return values


def jackknife_interval(value: Any, leave_one_out: Any, *, level: float = 0.95) -> Interval:
    """Delete-one interval from a value (...) and its values without each entity (..., n).

    se^2 = (n-1)/n sum (theta_-i - mean)^2 (Tukey 1958), t quantile with n - 1 degrees of freedom.
    For an average over prompts or relations give the average of their leave-one-out values.
    """
    values = to_float64(leave_one_out, "leave_one_out")
    n = values.shape[-1] if values.ndim else 0
    if n < 2:
        raise TooFewRows(f"leave_one_out has {n} entries; a jackknife needs at least 2 entities")
    return _interval(
        np.asarray(value, dtype=np.float64)[()],
        np.sqrt(_jackknife_variance(values)),
        n,
        n - 1,
        level,
    )


def jackknife(
    measure: MeasureFunction, x: Any, y: Any, groups: Sequence | None = None, *, level: float = 0.95
) -> Interval:
    """Delete-one-entity jackknife of measure(x, y); x, y: (n, d). All rows of an entity leave at once.

    groups: the entity of each row; without it every row is its own entity. The measure is called without
    groups.
    """
    x, y = to_float64(x, "x"), to_float64(y, "y")
    entities = _entities(groups, x, y)
    value = _number(measure(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSample)
        left_out = [
            _number(measure(x[entities != e], y[entities != e])) for e in range(entities.max() + 1)
        ]
    return jackknife_interval(value, left_out, level=level)


def two_way_jackknife(values: Any, leave_one_out: Any, *, level: float = 0.95) -> Interval:
    """Interval of a mean over templates when subjects AND templates are samples.

    values: (n_templates,) the measure per template; leave_one_out: (n_templates, n_subjects) the same without
    each subject. Variance = var_subject + var_template - var_both: both one-way jackknife variances contain
    the subject x template residual sigma_E^2/(n_subjects n_templates) once, it is taken off once, leaving
    sigma_A^2/n_subjects + sigma_B^2/n_templates + sigma_E^2/(n_subjects n_templates), the variance of a
    crossed design (Owen 2007, Ann. Appl. Stat. 1:386, eq. 2; residual from the two-way ANOVA of the
    pseudo-values). Never below the larger one-way variance. Degrees of freedom by Satterthwaite (1946).
    """
    values = _vector(values, "values", least=2)
    left_out = to_float64(leave_one_out, "leave_one_out")
    if left_out.ndim != 2 or len(left_out) != len(values) or left_out.shape[1] < 2:
        raise BadInput(
            f"leave_one_out has shape {left_out.shape}; expected (n_templates, n_subjects) with "
            f"n_templates={len(values)} and at least 2 subjects"
        )
    templates, subjects = left_out.shape
    var_subject = _jackknife_variance(left_out.mean(axis=0))
    var_template = values.var(ddof=1) / templates
    influence = (subjects - 1) * (left_out.mean(axis=1, keepdims=True) - left_out)
    residual = influence - influence.mean(axis=0)
    var_both = np.sum(residual**2) / ((subjects - 1) * (templates - 1)) / (subjects * templates)
    variance = max(var_subject + var_template - var_both, var_subject, var_template)
    spread = var_subject**2 / (subjects - 1) + var_template**2 / (templates - 1)
    df = variance**2 / spread if spread > 0 else subjects - 1
    return _interval(
        values.mean(), np.sqrt(variance), subjects, min(df, subjects + templates - 2), level
    )


def linear_cka_jackknife(
    x: Any,
    y: Any,
    groups: Sequence | None = None,
    *,
    grid: bool = False,
    allow_degenerate: bool = False,
    level: float = 0.95,
) -> Interval:
    """Debiased linear CKA with its delete-one-row interval in closed form.

    x: (n, d_x), y: (n, d_y), or stacks of sites as in `leave_one_out_cka` (then the fields are arrays).
    """
    single = np.ndim(x) == 2
    if single:
        x, y = to_float64(x, "x")[None], to_float64(y, "y")[None]
    values, left_out = leave_one_out_cka(x, y, groups, grid=grid, allow_degenerate=allow_degenerate)
    return jackknife_interval(
        *((values[0], left_out[0]) if single else (values, left_out)), level=level
    )


def permutation_p(observed: Any, null: Any, alternative: str = "greater") -> Any:
    """p = (1 + hits)/(1 + N) of observed (...) among null draws (N, ...); NaN where either is NaN.

    alternative: "greater", "less" or "two-sided" (larger in absolute value).
    """
    observed, null = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if alternative == "two-sided":
        observed, null = np.abs(observed), np.abs(null)
    elif alternative == "less":
        observed, null = -observed, -null
    elif alternative != "greater":
        raise BadInput(f"alternative={alternative!r}; expected 'greater', 'less' or 'two-sided'")
    # Draws equal to the observed value but for rounding (few rows, identity drawn) are hits.
    slack = 1e-12 * np.maximum(1, np.abs(observed))
    p = (1 + np.sum(null >= observed - slack, axis=0)) / (1 + len(null))
    return np.where(np.isnan(observed) | np.isnan(null).any(axis=0), np.nan, p)[()]


def permutation_test(
    measure: MeasureFunction,
    x: Any,
    y: Any,
    groups: Sequence | None = None,
    n: int = 999,
    rng: Rng = 0,
    *,
    alternative: str = "greater",
) -> Permutation:
    """Null of measure(x, y) by permuting the pairing: whole entities of y change places, rows within keep
    order.

    x, y: (n_rows, d); groups: entity of each row, all with equally many rows (else BadInput).
    n: number of permutations. For a distance use alternative="less".
    """
    x, y = to_float64(x, "x"), to_float64(y, "y")
    entities = _entities(groups, x, y)
    sizes = np.bincount(entities)
    if len(set(sizes)) > 1:
        raise BadInput(
            f"entities have {sizes.min()} to {sizes.max()} rows; exchanging them needs equally many: "
            "give each entity the same prompts, or average its rows first"
        )
    order = np.argsort(entities, kind="stable")
    blocks = order.reshape(len(sizes), sizes[0])
    value = _number(measure(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSample)
        null = np.array(
            [
                _number(measure(x[order], y[blocks[p].ravel()]))
                for p in permutations(len(sizes), n, rng)
            ]
        )
    return Permutation(value, null, float(permutation_p(value, null, alternative)), len(sizes))


def max_statistic_test(observed: Any, null: Any, *, two_sided: bool = False) -> MaxStatistic:
    """Family-wise test of the best site: each site against the null of the maximum over all sites.

    observed: (S,) or a grid (S, T); null: (N, ...) draws with the same permutation at all sites (Westfall &
    Young 1993, single step). NaN sites are left out. Use it for every best-layer or best-pair claim.
    """
    observed, null = to_float64(observed, "observed"), to_float64(null, "null")
    if null.shape[1:] != observed.shape or len(null) == 0:
        raise BadInput(
            f"null has shape {null.shape}; expected (N, *{observed.shape}): one draw of all sites a row"
        )
    scored = np.isfinite(observed)
    if not scored.any():
        raise NotIdentifiable(
            "no site has a finite value, so there is no best one; look at the reasons per site"
        )
    score = np.abs(observed) if two_sided else observed
    draws = (np.abs(null) if two_sided else null)[:, scored].max(axis=1)
    p = np.full(observed.shape, np.nan)
    p[scored] = permutation_p(score[scored], np.repeat(draws[:, None], scored.sum(), axis=1))
    best = np.unravel_index(np.nanargmax(score), observed.shape)
    return MaxStatistic(
        float(observed[best]),
        int(best[0]) if len(best) == 1 else tuple(map(int, best)),
        float(p[best]),
        p,
        float(np.quantile(draws, 0.95, method="higher")),
        int(scored.sum()),
    )


def paired_difference(
    a: Sequence[float] | Array, b: Sequence[float] | Array, *, level: float = 0.95
) -> Difference:
    """Paired t-test of a - b over seeds (or subjects): entry i of both is the same seed.

    Two or three pairs give an interval and no claim of significance: p is NaN.
    """
    a, b = _vector(a, "a", least=2), _vector(b, "b", least=2)
    check_paired(len(a), len(b))
    interval = mean_interval(a - b, level=level)
    p = np.nan
    if interval.n >= 4:
        p = (
            1.0
            if interval.value == 0
            else 2 * _t_tail(abs(interval.value), interval.se, interval.df)
        )
    return Difference(
        float(interval.value),
        float(interval.low),
        float(interval.high),
        float(interval.se),
        float(p),
        interval.n,
    )


def paired_shares(
    a: Sequence[float] | Array, b: Sequence[float] | Array, *, level: float = 0.95
) -> Difference:
    """Difference of two paired shares: entries of a and b are 0 or 1, entry i of both is the same seed.

    p: exact McNemar test; interval: Wald's with half a pair added to each cell (Agresti & Min 2005), so that it is not
    empty where all pairs agree. Below four pairs p is NaN.
    """
    from scipy import stats

    a, b = _yes_no(a, "a"), _yes_no(b, "b")
    check_paired(len(a), len(b))
    up, down, n = int((a > b).sum()), int((a < b).sum()), len(a)
    p = stats.binomtest(up, up + down).pvalue if up + down else 1.0
    wide_up, wide_down, wide_n = up + 0.5, down + 0.5, n + 2
    centre = (wide_up - wide_down) / wide_n
    se = np.sqrt(wide_up + wide_down - (wide_up - wide_down) ** 2 / wide_n) / wide_n
    half = stats.norm.ppf(0.5 + level / 2) * se
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Difference(
        (up - down) / n, float(low), float(high), float(se), float(p) if n >= 4 else np.nan, n
    )


def holm(p: Sequence[float] | Array) -> Array:
    """Holm's (1979) family-wise corrected p values (m,), in the order given; NaN entries stay NaN,
    uncounted.
    """
    p = to_float64(p, "p")
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise BadInput(
            f"p has shape {p.shape} and range [{np.nanmin(p, initial=np.inf):.3g}, "
            f"{np.nanmax(p, initial=-np.inf):.3g}]; expected a list of numbers in [0, 1]"
        )
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def _interval(value: Any, se: Any, n: int, df: Any, level: float) -> Interval:
    from scipy.special import stdtrit

    half = stdtrit(df, (1 + level) / 2) * se
    return Interval(value, value - half, value + half, se, n, df)


def _t_tail(size: float, se: float, df: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, -size / se)) if se > 0 else 0.0


def _jackknife_variance(left_out: Array) -> Any:
    n = left_out.shape[-1]
    return (n - 1) * left_out.var(axis=-1)


def _vector(values: Any, name: str, least: int) -> Array:
    values = to_float64(values, name)
    if values.ndim != 1:
        raise BadInput(f"{name} has shape {values.shape}; expected one number a subject or seed")
    if len(values) < least:
        raise TooFewRows(f"{name} has {len(values)} entries; an interval needs at least {least}")
    return values


def _entities(groups: Sequence | None, x: Array, y: Array) -> Array:
    if x.ndim != 2 or y.ndim != 2:
        raise BadInput(f"x has shape {x.shape} and y {y.shape}; expected (n, d) both")
    check_paired(len(x), len(y))
    if groups is None:
        return np.arange(len(x))
    entities = to_labels(groups, len(x), "groups")
    if entities.max() == 0:
        raise BadInput(
            "groups names one entity only; at least two are needed to leave one out or exchange them"
        )
    return entities


def _number(result: Any) -> float:
    return float(getattr(result, "value", result))


# Gathered pairs of one draw that stay in the processor's cache: larger pieces cost several times as much.
GATHER_ELEMENTS = 65_536


def permutations(n: int, count: int, rng: Rng) -> Array:
    """(count, n) uniform random permutations of n entities; the same seed gives the same ones."""
    rng = np.random.default_rng(rng)
    return rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)


def leave_one_out_cka(
    xs: Any,
    ys: Any,
    groups: Sequence | None = None,
    *,
    grid: bool = False,
    allow_degenerate: bool = False,
) -> tuple[Array, Array]:
    """Debiased CKA of stacked sites and all its delete-one values, in closed form (no refits).

    xs: (S, n, d_x), ys: (S, n, d_y) paired sites -> (S,), (S, n); grid: ys (T, n, d_y) -> (S, T), (S, T, n).
    n >= 5. allow_degenerate: NaN at sites without variance instead of DegenerateStates.
    """
    xs, ys = to_site_pair(xs, ys, groups, same_sites=not grid)
    n = xs.shape[1]
    if n < 5:
        raise TooFewRows(f"n={n}: leaving one row out of debiased CKA needs at least 5 rows")
    across = _row_products_grid if grid else _row_products
    blocks = [
        (across(a, b), _row_products(a, a), _row_products(b, b))
        for _, a, b in u_centred_blocks(xs, ys)
    ]
    xy, xx, yy = (np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
    for stack, rows, name in ((xs, xx, "xs"), (ys, yy, "ys")):
        alone = nan_where_degenerate(stack, rows.sum(axis=-1))
        if not allow_degenerate:
            raise_if_degenerate(stack, alone, name)
        rows[np.isnan(alone)] = np.nan
    factor = leave_one_out_factor(n)
    totals = [z.sum(axis=-1) for z in (xy, xx, yy)]
    left_out = [
        total[..., None] - factor * z for total, z in zip(totals, (xy, xx, yy), strict=True)
    ]
    return _ratio(*totals, grid), _ratio(*left_out, grid)


def permutation_null_cka(
    xs: Any,
    ys: Any,
    n: int = 999,
    rng: Rng = 0,
    groups: Sequence | None = None,
    *,
    grid: bool = False,
    allow_degenerate: bool = False,
) -> Array:
    """Null draws of debiased linear CKA, the same n permutations of the rows of ys at all sites.

    xs: (S, n_rows, d_x), ys: (S, n_rows, d_y) -> (n, S); grid: ys (T, n_rows, d_y) -> (n, S, T).
    Permuting commutes with U-centring, so a draw is sum(A * B[p][:, p]) over constant norms. Holds the
    U-centred Grams of all sites, 8 (S + T) n_rows^2 bytes.
    """
    xs, ys = to_site_pair(xs, ys, groups, same_sites=not grid)
    rows, s, t = xs.shape[1], len(xs), len(ys)
    norms = []
    for stack, name in ((xs, "xs"), (ys, "ys")):
        norms.append(nan_where_degenerate(stack, self_hsic1(stack)))
        if not allow_degenerate:
            raise_if_degenerate(stack, norms[-1], name)
    draws = permutations(rows, n, rng)
    a, b = _grams_by_pair(xs, ys)
    upper = np.triu_indices(rows, 1)
    null = np.zeros((n, s, t) if grid else (n, s))
    step = max(1, GATHER_ELEMENTS // max(s, t))
    for start in range(0, len(upper[0]), step):
        i, j = (index[start : start + step] for index in upper)
        a_pairs = a.take(i * rows + j, axis=0)
        for draw, p in zip(null, draws, strict=True):
            b_pairs = b.take(p.take(i) * rows + p.take(j), axis=0)
            draw += 2 * (a_pairs.T @ b_pairs if grid else np.einsum("ms,ms->s", a_pairs, b_pairs))
    return _ratio(null, *norms, grid)


def _grams_by_pair(xs: Array, ys: Array) -> tuple[Array, Array]:
    """U-centred Grams of (S, n, d_x), (T, n, d_y) as (n * n, S), (n * n, T): the sites of a pair of rows together."""
    n = xs.shape[1]
    grams = np.empty((n, n, len(xs))), np.empty((n, n, len(ys)))
    for rows, *blocks in u_centred_blocks(xs, ys):
        for gram, block in zip(grams, blocks, strict=True):
            gram[rows] = block.transpose(1, 2, 0)
    return grams[0].reshape(n * n, -1), grams[1].reshape(n * n, -1)


def _ratio(xy: Array, xx: Array, yy: Array, grid: bool) -> Array:
    """xy / sqrt(xx yy) for paired sites, or for all pairs of a grid; NaN where a side has no variance."""
    if grid:
        xx, yy = xx[:, None], yy[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = xy / np.sqrt(xx) / np.sqrt(yy)
    return np.where((xx > 0) & (yy > 0), ratio, np.nan)


def _row_products(a: Array, b: Array) -> Array:
    """(S, m): sum_j A_ij B_ij of paired sites, from rows (S, m, n)."""
    return np.einsum("sib,sib->si", a, b)


def _row_products_grid(a: Array, b: Array) -> Array:
    """(S, T, m): sum_j A_ij B_ij of all pairs of sites, from rows (S, m, n) and (T, m, n)."""
    return (a.transpose(1, 0, 2) @ b.transpose(1, 2, 0)).transpose(1, 2, 0)
