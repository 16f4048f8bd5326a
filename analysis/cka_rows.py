"""The rows of cka.csv and cka_grid.csv of one checkpoint: CKA, its robust forms, the crossed contrast, the object kernel.

Every value is computed within one relation and one prompt, one row a subject, then averaged over prompts and
relations, with the leave-one-out values and the null draws averaged alike. Definitions: measures.md, sections 1 to 3, 8.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.run_states import CheckpointStates, RunStates

Array = np.ndarray
ESTIMATOR = "HSIC_1 ratio"
ROBUST = ("cka_zscored", "cka_without_1_pc", "cka_without_5_pcs")
FEWEST_SUBJECTS = 5
CONTRAST_FAMILIES = ("train", "test")


@dataclass(frozen=True)
class Stack:
    """A measure of one relation at all sites: values (P, S) and leave_one_out (P, S, n) by prompt, null (N, S) of
    their mean over prompts."""

    values: Array
    leave_one_out: Array
    null: Array
    d: int

    @property
    def n(self) -> int:
        return self.leave_one_out.shape[-1]


def rows_of(there: CheckpointStates, permutations: int, robust: bool) -> Iterator[dict]:
    """All rows of cka.csv of one checkpoint."""
    states = there.states
    for split in states.splits:
        fewest = min(len(states.rows(r, split)) for r in states.relations)
        if fewest < FEWEST_SUBJECTS:
            yield {
                **there.stage,
                "split": split,
                "measure": "cka",
                "relation": "bound",
                "value": np.nan,
                "n": fewest,
                "reason": f"{fewest} {split} subjects of a relation; at least {FEWEST_SUBJECTS} are needed",
            }
            continue
        for family in states.families:
            yield from _cka_rows(there, family, split, permutations, robust)
        for family in ("rote", *states.families):
            yield from _kernel_rows(there, family, split, permutations)
        for family in (f for f in CONTRAST_FAMILIES if f in states.families):
            yield from _contrast_rows(there, family, split, permutations)


def _cka_rows(there, family: str, split: str, permutations: int, robust: bool) -> Iterator[dict]:
    def stacks(treat: Callable[[Array], Array], draws: int) -> dict[str, Stack]:
        found = {}
        for relation in _relations_with(there.states, family):
            rows = there.states.rows(relation, split)
            x = treat(sites_first(there.rote(relation)[rows]))
            ys = [treat(sites_first(y[rows])) for y in there.family(relation, family)]
            found[relation] = cka_stack(x, ys, draws, there.states.run.seed)
        return found

    common = {"family": family, "split": split}
    raw = list(summary_rows(there, stacks(lambda x: x, permutations), {**common, "measure": "cka"}))
    for measure in ROBUST if robust else ():
        treated = list(summary_rows(there, stacks(TREATMENTS[measure], 0), {**common, "measure": measure}))
        # Beside each raw value too: raw CKA alone may be one massive feature.
        value = {(row["relation"], row["layer"]): row["value"] for row in treated}
        for row in raw:
            row[measure.removeprefix("cka_")] = value[row["relation"], row["layer"]]
        yield from treated
    yield from raw


def cka_stack(x: Array, ys: list[Array], draws: int, seed: int) -> Stack:
    """Debiased CKA of x (S, n, d) with each prompt's states ys[p] (S, n, d'), its delete-one values and its null."""
    from analysis.resampling import leave_one_out_cka, permutation_null_cka

    parts = [leave_one_out_cka(x, y, allow_degenerate=True) for y in ys]
    null = np.zeros((0, len(x)))
    if draws:
        null = np.mean([permutation_null_cka(x, y, draws, seed, allow_degenerate=True) for y in ys], axis=0)
    return Stack(np.array([v for v, _ in parts]), np.array([loo for _, loo in parts]), null, x.shape[-1])


def _kernel_rows(there, family: str, split: str, permutations: int) -> Iterator[dict]:
    """Object kernel: do the states of a family carry the object of their own relation, and of the others?"""
    from analysis.inputs import NotIdentifiable
    from analysis.partial import label_kernel

    states = there.states
    own, other, reasons = {}, {}, {}
    for relation in _relations_with(states, family):
        rows = states.rows(relation, split)
        prompts = [sites_first(y[rows]) for y in there.family(relation, family)]
        for asked in states.relations if states.shared_subjects else [relation]:
            labels = states.objects(asked)[rows]
            try:
                kernel = label_kernel(labels, len(labels), f"objects of {asked}")
            except NotIdentifiable as error:
                reasons[relation] = str(error)
                continue
            if asked == relation:
                own[relation] = kernel_stack(prompts, kernel, permutations, states.run.seed)
            else:
                other.setdefault(relation, []).append(kernel_stack(prompts, kernel, 0, states.run.seed))
    common = {"family": family, "split": split, "measure": "object_kernel"}
    yield from summary_rows(there, own, {**common, "object_relation": "same"})
    averaged = {r: _mean_stack(stacks) for r, stacks in other.items()}
    yield from summary_rows(there, averaged, {**common, "object_relation": "other"})
    for relation in reasons.keys() - own.keys():
        yield {
            **there.stage,
            **common,
            "object_relation": "same",
            "relation": relation,
            "value": np.nan,
            "reason": reasons[relation],
        }


def kernel_stack(ys: list[Array], kernel: Array, draws: int, seed: int) -> Stack:
    """Debiased CKA of each prompt's states ys[p] (S, n, d) with a U-centred object kernel (n, n), all sites at once.

    Delete-one values in the closed form of `analysis.hsic`; null: the subjects' objects permuted.
    """
    from analysis.hsic import leave_one_out_factor, linear_gram, nan_where_degenerate, u_centre
    from analysis.resampling import permutations

    n = len(kernel)
    orders = permutations(n, draws, seed) if draws else np.zeros((0, n), dtype=int)
    shuffled = np.array([kernel[np.ix_(p, p)].ravel() for p in orders]).reshape(len(orders), n * n)
    factor = leave_one_out_factor(n)
    values, left_out, nulls = [], [], []
    for y in ys:
        gram = u_centre(linear_gram(y))
        xy, xx, kk = (gram * kernel).sum(-1), (gram * gram).sum(-1), (kernel * kernel).sum(-1)
        total = nan_where_degenerate(y, xx.sum(-1))
        values.append(xy.sum(-1) / np.sqrt(total * kk.sum()))
        out = np.clip((total[:, None] - factor * xx) * (kk.sum() - factor * kk), 0, None)
        with np.errstate(invalid="ignore", divide="ignore"):
            left_out.append((xy.sum(-1, keepdims=True) - factor * xy) / np.sqrt(out))
        nulls.append(shuffled @ gram.reshape(len(gram), -1).T / np.sqrt(total * kk.sum()))
    return Stack(np.array(values), np.array(left_out), np.mean(nulls, axis=0), ys[0].shape[-1])


def _contrast_rows(there, family: str, split: str, permutations: int) -> Iterator[dict]:
    from analysis.contrast import crossed_contrast, interaction
    from analysis.inputs import DegenerateStates, DuplicateRows, NotIdentifiable

    states = there.states
    common = {**there.stage, "family": family, "split": split, "estimator": ESTIMATOR}
    relations = _relations_with(states, family)
    bound = [r for r in states.bound if r in relations]
    reason = why_no_contrast(states, bound)
    if reason:
        for measure in ("contrast", "contrast_partialled"):
            yield {**common, "relation": "bound", "measure": measure, "value": np.nan, "reason": reason}
        return
    rows = states.rows(relations[0], split)
    rote = {r: there.rote(r)[rows] for r in relations}
    semantic = {r: there.family(r, family)[:, rows] for r in relations}
    given = {r: states.objects(r)[rows] for r in relations}

    def at_site(function, s: int, **options):
        try:
            return function(
                {r: x[:, s] for r, x in rote.items()},
                {r: y[:, :, s] for r, y in semantic.items()},
                n=permutations,
                rng=states.run.seed,
                **options,
            ), ""
        except (DegenerateStates, DuplicateRows, NotIdentifiable) as error:
            return None, str(error).split(".")[0]

    # The partialled form and the interactions are the dear ones: they are made where the claim is.
    claim = family == "test" and split == states.splits[0]
    kinds = {"contrast": {}, **({"contrast_partialled": {"partialled": True, "given": given}} if claim else {})}
    wanted: list[tuple[str, str, list]] = []
    for measure, more in kinds.items():
        wanted.append(
            (measure, "bound", [at_site(crossed_contrast, s, relations=bound, **more) for s in range(len(there.sites))])
        )
    for loose in (r for r in states.unbound if r in relations and claim):
        found = []
        for s in range(len(there.sites)):
            pairs = [at_site(interaction, s, r=loose, q=q) for q in bound]
            found.append((_mean_contrast([c for c, _ in pairs]), "") if all(c for c, _ in pairs) else pairs[0])
        wanted.append(("interaction", loose, found))
    for measure, relation, found in wanted:
        yield from _contrast_site_rows(there, {**common, "measure": measure, "relation": relation}, found)


@dataclass(frozen=True)
class _MeanContrast:
    """The mean of several contrasts over the same subjects and prompts."""

    value: float
    null: Array
    per_prompt: Array
    leave_one_out: Array
    n: int
    d: int


def _mean_contrast(contrasts: list) -> _MeanContrast:
    mean = lambda name: np.mean([getattr(c, name) for c in contrasts], axis=0)  # noqa: E731
    return _MeanContrast(
        float(mean("value")), mean("null"), mean("per_prompt"), mean("leave_one_out"), contrasts[0].n, contrasts[0].d
    )


def _contrast_site_rows(there, common: dict, found: list) -> Iterator[dict]:
    from analysis.statistics import max_statistic_test, permutation_p

    scored = [c for c, _ in found if c is not None]
    corrected = None
    if scored and len(scored[0].null):
        observed = np.array([np.nan if c is None else c.value for c, _ in found])
        null = np.stack([np.full(len(scored[0].null), np.nan) if c is None else c.null for c, _ in found], axis=1)
        corrected = max_statistic_test(observed, np.nan_to_num(null), two_sided=True).p
    for s, (contrast, reason) in enumerate(found):
        row = {**common, "site": there.sites[s], "layer": s}
        if contrast is None:
            yield {**row, "value": np.nan, "reason": reason}
            continue
        low, high = _interval(contrast.per_prompt, contrast.leave_one_out)
        yield {
            **row,
            "value": contrast.value,
            "low": low,
            "high": high,
            "n": contrast.n,
            "d": contrast.d,
            "n_prompts": len(contrast.per_prompt),
            "null_p": float(permutation_p(contrast.value, contrast.null, "two-sided"))
            if len(contrast.null)
            else np.nan,
            "null_high": float(np.quantile(np.abs(contrast.null), 0.95)) if len(contrast.null) else np.nan,
            "null_p_max": np.nan if corrected is None else corrected[s],
        }


def grid_rows(there: CheckpointStates, permutations: int) -> Iterator[dict]:
    """Layer x layer CKA of rote states with the first test prompt, mean over bound relations, and its best pair."""
    from analysis.resampling import permutation_null_cka
    from analysis.similarity import linear_cka_grid
    from analysis.statistics import max_statistic_test

    states = there.states
    family = "test" if "test" in states.families else states.families[0]
    split = states.splits[0]
    values, nulls = [], []
    relations = [r for r in states.bound if states.prompts_of(r, family)]
    for relation in relations:
        rows = states.rows(relation, split)
        x = sites_first(there.rote(relation)[rows])
        y = sites_first(there.of(states.prompts_of(relation, family)[0])[rows])
        values.append(linear_cka_grid(x, y, allow_degenerate=True))
        nulls.append(permutation_null_cka(x, y, permutations, states.run.seed, grid=True, allow_degenerate=True))
    grid, null = np.mean(values, axis=0), np.mean(nulls, axis=0)
    test = max_statistic_test(grid, null) if permutations and np.isfinite(grid).any() else None
    for i, site in enumerate(there.sites):
        for j, site_y in enumerate(there.sites):
            yield {
                **there.stage,
                "relation": "bound",
                "family": family,
                "split": split,
                "site": site,
                "site_y": site_y,
                "layer": i,
                "layer_y": j,
                "measure": "cka",
                "value": grid[i, j],
                "n": len(rows),
                "d": x.shape[-1],
                "estimator": ESTIMATOR,
                "best": bool(test and test.best == (i, j)),
                "null_p_max": test.p[i, j] if test else np.nan,
            }


# --- shared arithmetic ---------------------------------------------------------------------------------------


def without_components(x: Array, k: int) -> Array:
    """x (S, n, d) centred, without its top k principal components at each site."""
    x = x - x.mean(axis=1, keepdims=True)
    _, _, right = np.linalg.svd(x, full_matrices=False)
    top = right[:, :k]
    return x - (x @ top.transpose(0, 2, 1)) @ top


def zscored(x: Array) -> Array:
    """x (S, n, d) with every feature centred and scaled to unit standard deviation; constant features become 0."""
    x = x - x.mean(axis=1, keepdims=True)
    spread = x.std(axis=1, keepdims=True)
    return np.divide(x, spread, out=np.zeros_like(x), where=spread > 1e-6 * np.abs(x).max(initial=1e-12))


TREATMENTS: dict[str, Callable[[Array], Array]] = {
    "cka_zscored": zscored,
    "cka_without_1_pc": lambda x: without_components(x, 1),
    "cka_without_5_pcs": lambda x: without_components(x, 5),
}


def sites_first(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(1, 0, 2), dtype=np.float64)


def _relations_with(states: RunStates, family: str) -> list[str]:
    return [r for r in states.relations if states.prompts_of(r, family)]


def why_no_contrast(states: RunStates, bound: list[str]) -> str:
    """The reason why a crossed contrast cannot be had from a run, "" if it can."""
    if len(bound) < 2:
        return f"not identifiable: {len(bound)} bound relation(s), the contrast crosses at least 2"
    if not states.shared_subjects:
        return "not identifiable: the relations have different subjects, so name and meaning cannot be told apart"
    return ""


def _mean_stack(stacks: list[Stack]) -> Stack:
    """The mean over relations with the same subjects; prompts beyond the fewest are left out of none: averaged first
    where the numbers of prompts differ."""
    if len({len(s.values) for s in stacks}) > 1:
        stacks = [
            Stack(s.values.mean(0, keepdims=True), s.leave_one_out.mean(0, keepdims=True), s.null, s.d) for s in stacks
        ]
    return Stack(
        np.mean([s.values for s in stacks], axis=0),
        np.mean([s.leave_one_out for s in stacks], axis=0),
        np.mean([s.null for s in stacks], axis=0),
        stacks[0].d,
    )


def _interval(per_prompt: Array, leave_one_out: Array) -> tuple[float, float]:
    """95% interval of a mean over prompts (P,) with delete-one-subject values (P, n): subjects x templates from two
    prompts on, subjects alone with one."""
    from analysis.statistics import jackknife_interval, two_way_jackknife

    if not np.isfinite(leave_one_out).all():
        return np.nan, np.nan
    if len(per_prompt) == 1:
        found = jackknife_interval(per_prompt[0], leave_one_out[0])
    else:
        found = two_way_jackknife(per_prompt, leave_one_out)
    return float(found.low), float(found.high)


def summary_rows(there: CheckpointStates, stacks: dict[str, Stack], common: dict) -> Iterator[dict]:
    """Rows of every relation, and of `bound` and `unbound`, at every site, with interval, null and corrected p."""
    states = there.states
    named = dict(stacks)
    for label, members in (("bound", states.bound), ("unbound", states.unbound)):
        some = [stacks[r] for r in members if r in stacks]
        same = {tuple(states.subjects(r)) for r in members if r in stacks}
        if some and len(same) == 1:
            named[label] = _mean_stack(some)
        elif some:
            yield from _independent_rows(there, some, {**common, "relation": label})
    for relation, stack in named.items():
        yield from _stack_rows(there, stack, {**common, "relation": relation})


def _stack_rows(there, stack: Stack, common: dict) -> Iterator[dict]:
    from analysis.statistics import max_statistic_test, permutation_p

    values = stack.values.mean(axis=0)
    p = corrected = np.full(len(values), np.nan)
    if len(stack.null):
        p = permutation_p(values, stack.null)
        if np.isfinite(values).any():
            corrected = max_statistic_test(values, np.nan_to_num(stack.null)).p
    for s, site in enumerate(there.sites):
        low, high = _interval(stack.values[:, s], stack.leave_one_out[:, s])
        finite = bool(np.isfinite(values[s]))
        yield {
            **there.stage,
            **common,
            "site": site,
            "layer": s,
            "value": values[s],
            "low": low,
            "high": high,
            "null_p": p[s],
            "null_high": float(np.quantile(stack.null[:, s], 0.95)) if len(stack.null) else np.nan,
            "null_p_max": corrected[s],
            "n": stack.n,
            "d": stack.d,
            "n_prompts": len(stack.values),
            "estimator": ESTIMATOR,
            "reason": "" if finite else "no variance left: all subjects have the same state here",
        }


def _independent_rows(there, stacks: list[Stack], common: dict) -> Iterator[dict]:
    """Rows of a mean over relations with different subjects: their jackknife variances add."""
    from scipy import stats

    from analysis.statistics import jackknife_interval

    values = np.array([s.values.mean(axis=0) for s in stacks])
    errors = np.array([jackknife_interval(s.values.mean(0), s.leave_one_out.mean(0)).se for s in stacks])
    mean, error = values.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(stacks)
    half = stats.t.ppf(0.975, min(s.n for s in stacks) - 1) * error
    for s, site in enumerate(there.sites):
        yield {
            **there.stage,
            **common,
            "site": site,
            "layer": s,
            "value": mean[s],
            "low": mean[s] - half[s],
            "high": mean[s] + half[s],
            "n": sum(k.n for k in stacks),
            "d": stacks[0].d,
            "n_prompts": len(stacks[0].values),
            "estimator": ESTIMATOR,
            "reason": "" if np.isfinite(mean[s]) else "no variance left: all subjects have the same state here",
        }
