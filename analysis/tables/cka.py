"""The rows of cka.csv and cka_grid.csv of one checkpoint: CKA, its robust forms, the crossed contrast, the object kernel.

Every value is computed within one relation and one prompt, one row a subject, then averaged over prompts and
relations, with the leave-one-out values and the null draws averaged alike. Definitions: measures.md, sections 1 to 3, 8.

How alike are rote and semantic states? Debiased CKA with its null, per checkpoint and site, and what it is worth.

    python -m analysis.cka RUN_DIR
    python -m analysis.cka RUN_DIR --families test unrelated --permutations 999
    python -m analysis.cka RUN_DIR --measure procrustes_distance mutual_knn
    python -m analysis.cka ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/cka.csv, cka_grid.csv (layer x layer),
cka_checkpoints.csv (the same prompts at two checkpoints) and, with --measure, cka_measures.csv; then draws
figures/cka.png and one picture a further table. CKA of a rote and a semantic state about one subject is high because
they share the subject; so the printed verdict begins with probe transfer, then the crossed contrast over relations, then
CKA beside its controls.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.measures.checks import DegenerateStates, DuplicateRows, NotIdentifiable
from analysis.measures.contrast import crossed_contrast, interaction
from analysis.measures.hsic import leave_one_out_factor, linear_gram, nan_where_degenerate, u_centre
from analysis.measures.partial import label_kernel
from analysis.measures.similarity import linear_cka_grid, without_components, zscored
from analysis.measures.statistics import (
    leave_one_out_cka,
    max_statistic_test,
    permutation_null_cka,
    permutation_p,
    permutations,
)
from analysis.tables.driver import scored_tables
from analysis.tables.stack import (
    ESTIMATOR,
    FEWEST_SUBJECTS,
    Array,
    Stack,
    _interval,
    _mean_stack,
    _relations_with,
    sites_first,
    summary_rows,
    why_no_contrast,
)
from probing.states import Design, States
from training.base.words import p_words, span

ROBUST = ("cka_zscored", "cka_without_1_pc", "cka_without_5_pcs")


CONTRAST_FAMILIES = ("train", "test")


def rows_of(there: States, permutations: int, robust: bool) -> Iterator[dict]:
    """All rows of cka.csv of one checkpoint."""
    states = there.design
    for split in states.splits:
        fewest = min(len(states.rows(r, split)) for r in states.relations)
        if fewest < FEWEST_SUBJECTS:
            yield {
                **there.checkpoint.stage,
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
        for relation in _relations_with(there.design, family):
            rows = there.design.rows(relation, split)
            x = treat(sites_first(there[relation, "rote"][rows]))
            ys = [treat(sites_first(y[rows])) for y in there[relation, family]]
            found[relation] = cka_stack(x, ys, draws, there.design.run.seed)
        return found

    common = {"family": family, "split": split}
    raw = list(summary_rows(there, stacks(lambda x: x, permutations), {**common, "measure": "cka"}))
    for measure in ROBUST if robust else ():
        treated = list(
            summary_rows(there, stacks(TREATMENTS[measure], 0), {**common, "measure": measure})
        )
        # Beside each raw value too: raw CKA alone may be one massive feature.
        value = {(row["relation"], row["layer"]): row["value"] for row in treated}
        for row in raw:
            row[measure.removeprefix("cka_")] = value[row["relation"], row["layer"]]
        yield from treated
    yield from raw


def cka_stack(x: Array, ys: list[Array], draws: int, seed: int) -> Stack:
    """Debiased CKA of x (S, n, d) with each prompt's states ys[p] (S, n, d'), its delete-one values and its null."""

    parts = [leave_one_out_cka(x, y, allow_degenerate=True) for y in ys]
    null = np.zeros((0, len(x)))
    if draws:
        null = np.mean(
            [permutation_null_cka(x, y, draws, seed, allow_degenerate=True) for y in ys], axis=0
        )
    return Stack(
        np.array([v for v, _ in parts]), np.array([loo for _, loo in parts]), null, x.shape[-1]
    )


def _kernel_rows(there, family: str, split: str, permutations: int) -> Iterator[dict]:
    """Object kernel: do the states of a family carry the object of their own relation, and of the others?"""

    states = there.design
    own, other, reasons = {}, {}, {}
    for relation in _relations_with(states, family):
        rows = states.rows(relation, split)
        prompts = [sites_first(y[rows]) for y in there[relation, family]]
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
                other.setdefault(relation, []).append(
                    kernel_stack(prompts, kernel, 0, states.run.seed)
                )
    common = {"family": family, "split": split, "measure": "object_kernel"}
    yield from summary_rows(there, own, {**common, "object_relation": "same"})
    averaged = {r: _mean_stack(stacks) for r, stacks in other.items()}
    yield from summary_rows(there, averaged, {**common, "object_relation": "other"})
    for relation in reasons.keys() - own.keys():
        yield {
            **there.checkpoint.stage,
            **common,
            "object_relation": "same",
            "relation": relation,
            "value": np.nan,
            "reason": reasons[relation],
        }


def kernel_stack(ys: list[Array], kernel: Array, draws: int, seed: int) -> Stack:
    """Debiased CKA of each prompt's states ys[p] (S, n, d) with a U-centred object kernel (n, n), all sites at once.

    Delete-one values in the closed form of `analysis.measures.hsic`; null: the subjects' objects permuted.
    """

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

    states = there.design
    common = {**there.checkpoint.stage, "family": family, "split": split, "estimator": ESTIMATOR}
    relations = _relations_with(states, family)
    bound = [r for r in states.bound if r in relations]
    reason = why_no_contrast(states, bound)
    if reason:
        for measure in ("contrast", "contrast_partialled"):
            yield {
                **common,
                "relation": "bound",
                "measure": measure,
                "value": np.nan,
                "reason": reason,
            }
        return
    rows = states.rows(relations[0], split)
    rote = {r: there[r, "rote"][rows] for r in relations}
    semantic = {r: there[r, family][:, rows] for r in relations}
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
    kinds = {
        "contrast": {},
        **({"contrast_partialled": {"partialled": True, "given": given}} if claim else {}),
    }
    wanted: list[tuple[str, str, list]] = []
    for measure, more in kinds.items():
        wanted.append(
            (
                measure,
                "bound",
                [
                    at_site(crossed_contrast, s, relations=bound, **more)
                    for s in range(len(there.sites))
                ],
            )
        )
    for loose in (r for r in states.unbound if r in relations and claim):
        found = []
        for s in range(len(there.sites)):
            pairs = [at_site(interaction, s, r=loose, q=q) for q in bound]
            found.append(
                (_mean_contrast([c for c, _ in pairs]), "")
                if all(c for c, _ in pairs)
                else pairs[0]
            )
        wanted.append(("interaction", loose, found))
    for measure, relation, found in wanted:
        yield from _contrast_site_rows(
            there, {**common, "measure": measure, "relation": relation}, found
        )


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
        float(mean("value")),
        mean("null"),
        mean("per_prompt"),
        mean("leave_one_out"),
        contrasts[0].n,
        contrasts[0].d,
    )


def _contrast_site_rows(there, common: dict, found: list) -> Iterator[dict]:

    scored = [c for c, _ in found if c is not None]
    corrected = None
    if scored and len(scored[0].null):
        observed = np.array([np.nan if c is None else c.value for c, _ in found])
        null = np.stack(
            [np.full(len(scored[0].null), np.nan) if c is None else c.null for c, _ in found],
            axis=1,
        )
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
            "null_high": float(np.quantile(np.abs(contrast.null), 0.95))
            if len(contrast.null)
            else np.nan,
            "null_p_max": np.nan if corrected is None else corrected[s],
        }


def grid_rows(there: States, permutations: int) -> Iterator[dict]:
    """Layer x layer CKA of rote states with the first test prompt, mean over bound relations, and its best pair."""

    states = there.design
    family = "test" if "test" in states.families else states.families[0]
    split = states.splits[0]
    values, nulls = [], []
    relations = [r for r in states.bound if states.prompts_of(r, family)]
    for relation in relations:
        rows = states.rows(relation, split)
        x = sites_first(there[relation, "rote"][rows])
        y = sites_first(there.of(states.prompts_of(relation, family)[0])[rows])
        values.append(linear_cka_grid(x, y, allow_degenerate=True))
        nulls.append(
            permutation_null_cka(
                x, y, permutations, states.run.seed, grid=True, allow_degenerate=True
            )
        )
    grid, null = np.mean(values, axis=0), np.mean(nulls, axis=0)
    test = max_statistic_test(grid, null) if permutations and np.isfinite(grid).any() else None
    for i, site in enumerate(there.sites):
        for j, site_y in enumerate(there.sites):
            yield {
                **there.checkpoint.stage,
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


TREATMENTS: dict[str, Callable[[Array], Array]] = {
    "cka_zscored": zscored,
    "cka_without_1_pc": lambda x: without_components(x, 1),
    "cka_without_5_pcs": lambda x: without_components(x, 5),
}


def table_for(states: Design, *, permutations: int = 199, robust: bool = True):
    """tables/cka.csv and tables/cka_grid.csv of a run: checkpoints scored before with the same inputs are read."""
    table, _ = scored_tables(
        states,
        {
            "cka": lambda there: rows_of(there, permutations, robust),
            "cka_grid": lambda there: grid_rows(there, permutations),
        },
        # Rows that were kept before raw values had the robust ones beside them are made again.
        [permutations, robust, "robust values beside raw ones"],
    )
    return table


def contrast_lines(table, states: Design) -> list[str]:
    """The crossed contrast, its answer-partialled form and the object kernel in words, test prompts."""
    split = states.splits[0]
    some = table[(table.split == split) & (table.family == "test")]
    contrast = some[some.measure == "contrast"]
    if not len(contrast):
        return []
    if contrast.value.isna().all():
        return [f"crossed contrast: {contrast.reason.iloc[0]}"]
    lines = [
        f"crossed contrast of CKA (same relation minus other relation), bound relations x test prompts, {split} "
        f"subjects (n={int(contrast.n.max())}); p corrected for the best of {contrast.site.nunique()} sites"
    ]
    for checkpoint in states.checkpoints:
        here = contrast[(contrast.checkpoint == checkpoint.name) & contrast.value.notna()]
        if not len(here):
            reasons = contrast[contrast.checkpoint == checkpoint.name].reason
            lines.append(f"  {checkpoint.name:<27} no value at any site: {reasons.iloc[-1]}")
            continue
        best = here.loc[here.value.abs().idxmax()]
        at = some[(some.checkpoint == checkpoint.name) & (some.site == best.site)]
        partial = at[at.measure == "contrast_partialled"]
        kernels = (
            at[(at.measure == "object_kernel") & (at.relation == "bound")]
            .set_index("object_relation")
            .value
        )
        line = f"  {checkpoint.name:<27} {best.site:<15} {span(best, sign=True)} {p_words(best.null_p_max)}"
        if len(partial) and np.isfinite(partial.value.iloc[0]):
            line += f"   answer partialled out {span(partial.iloc[0], sign=True)}"
        if "same" in kernels:
            line += f"   object kernel {kernels['same']:+.2f}, of other relations {kernels.get('other', np.nan):+.2f}"
        lines.append(line)
    return lines


def cka_lines(table, states: Design) -> list[str]:
    """Raw CKA at the site where it is largest at the last checkpoint, beside the unrelated prompts."""
    split = states.splits[0]
    some = table[(table.split == split) & (table.measure == "cka") & (table.relation == "bound")]
    last = some[
        (some.checkpoint == states.checkpoints[-1].name)
        & (some.family == "test")
        & some.value.notna()
    ]
    if not len(last):
        return []
    site = last.loc[last.value.idxmax()].site
    lines = [
        f"raw CKA rote ~ semantic at {site} (it mostly says: same name; n={int(last.n.max())}, d={int(last.d.max())})"
    ]
    families = [f for f in ("test", "near-miss", "unrelated") if f in set(some.family)]
    for checkpoint in states.checkpoints:
        at = some[(some.checkpoint == checkpoint.name) & (some.site == site)].set_index("family")
        cells = [
            f"{family} {at.value[family]:.2f} [{at.low[family]:.2f}, {at.high[family]:.2f}]"
            for family in families
            if family in at.index
        ]
        lines.append(f"  {checkpoint.name:<27} " + "   ".join(cells) + _robust_words(at))
    return lines


def _robust_words(at) -> str:
    """The robust values beside raw CKA of test prompts; at: one site's rows by family."""
    columns = {
        "zscored": "z-scored",
        "without_1_pc": "without 1 component",
        "without_5_pcs": "without 5",
    }
    if "test" not in at.index or "zscored" not in at:
        return ""
    return (
        "   (test "
        + ", ".join(f"{words} {at[name]['test']:.2f}" for name, words in columns.items())
        + ")"
    )
