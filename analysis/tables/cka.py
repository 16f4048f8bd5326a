"""tables/cka.csv and cka_grid.csv: CKA of rote and semantic states, and what it is worth.

Definitions: measures.md, sections 1 to 3 and 8.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from analysis.measures.checks import DegenerateStates, NotIdentifiable
from analysis.measures.contrast import crossed_contrast, interaction, label_kernel
from analysis.measures.hsic import leave_one_out_factor, linear_gram, nan_where_degenerate, u_centre
from analysis.measures.similarity import (
    leave_one_out_cka,
    linear_cka_grid,
    permutation_null_cka,
    without_components,
    zscored,
)
from analysis.measures.statistics import max_statistic_test, permutations
from analysis.tables import stack
from analysis.tables.driver import scored_tables
from analysis.tables.stack import Array, Stack, prompt_states, relations_with, summary_rows
from probing.states import Design, States
from training.base.words import p_words, span, two_places
from training.runs.table_files import pick

VERSION = 1
# The robust forms: what is done to the states (S, n, d) of each side before CKA.
TREATMENTS: dict[str, Callable[[Array], Array]] = {
    "zscored": zscored,
    "without_1_pc": lambda x: without_components(x, 1),
    "without_5_pcs": lambda x: without_components(x, 5),
}
CONTRAST_FAMILIES = ("train", "test")


def cka_table(design: Design, *, permutations: int = 199, robust: bool = True):
    """How alike are rote and semantic states? Writes tables/cka.csv and cka_grid.csv.

        table = cka_table(Design.of(Run.open("runs/demo")))
        table[(table.measure == "contrast") & (table.family == "test")]

    Returns cka.csv: checkpoint, phase, epoch, step; family, split, measure, relation, site, layer;
    value, low, high, null_p, null_high, null_p_max, n, d, n_prompts, estimator, reason; the robust
    forms of raw values, zscored, without_1_pc, without_5_pcs; object_relation; seed, commit.
    measure: cka, cka_zscored, ... (robust), object_kernel, contrast, contrast_partialled,
    interaction. relation: a relation, or the mean over the "bound" or "unbound" ones.
    cka_grid.csv has the CKA of every pair of sites, rote x test.
    """
    rows = {
        "cka": lambda there: _rows_of(there, permutations, robust),
        "cka_grid": lambda there: grid_rows(there, permutations),
    }
    table, _ = scored_tables(design, rows, [VERSION, permutations, robust])
    return table


def _rows_of(there: States, permutations: int, robust: bool) -> Iterator[dict]:
    design, least = there.design, stack.FEWEST_SUBJECTS
    for split in design.splits:
        fewest = stack.fewest_subjects(design, split)
        if fewest < least:
            reason = f"{fewest} {split} subjects of a relation; at least {least} are needed"
            about = {"split": split, "measure": "cka", "relation": "bound"}
            yield {**stack.empty_row(there, about, reason), "n": fewest}
            continue
        for family in design.families:
            yield from _cka_rows(there, family, split, permutations, robust)
        for family in ("rote", *design.families):
            yield from _kernel_rows(there, family, split, permutations)
        for family in (f for f in CONTRAST_FAMILIES if f in design.families):
            yield from _contrast_rows(there, family, split, permutations)


def _cka_rows(there: States, family: str, split: str, draws: int, robust: bool) -> Iterator[dict]:
    sides = {}
    for relation in relations_with(there.design, family):
        rote, semantic = (prompt_states(there, relation, f, split) for f in ("rote", family))
        sides[relation] = rote[:1], semantic
    common = {"family": family, "split": split}
    raw, *treated = forms_of_cka(there, sides, common, "cka", robust, draws)
    for name, rows in zip(TREATMENTS, treated, strict=False):
        # Beside each raw value too: raw CKA alone may be one massive feature.
        for row, robust_row in zip(raw, rows, strict=True):
            row[name] = robust_row["value"]
        yield from rows
    yield from raw


def forms_of_cka(there: States, sides: Mapping, common: dict, measure: str, robust, draws=0):
    """The rows of debiased CKA, then those of each robust form.

    sides: by relation the states of both sides, see `cka_stack`. draws: of the null of raw CKA.
    """
    forms = {"": lambda x: x} | (TREATMENTS if robust else {})
    for name, treat in forms.items():
        stacks, wanted = {}, 0 if name else draws
        for relation, (xs, ys) in sides.items():
            treated = list(map(treat, xs)), list(map(treat, ys))
            stacks[relation] = cka_stack(*treated, wanted, there.design.run.seed)
        named = {"measure": f"{measure}_{name}" if name else measure}
        yield list(summary_rows(there, stacks, common | named))


def cka_stack(xs: list[Array], ys: list[Array], draws: int = 0, seed: int = 0) -> Stack:
    """Debiased CKA of xs[p] (S, n, d) and ys[p] (S, n, d') site by site; xs may be one for all."""
    pairs = list(zip(xs * len(ys) if len(xs) == 1 else xs, ys, strict=True))
    found = [leave_one_out_cka(x, y, allow_degenerate=True) for x, y in pairs]
    values, left_out = (np.array(part) for part in zip(*found, strict=True))
    nulls = [np.zeros((0, values.shape[1]))]
    if draws:
        nulls = [permutation_null_cka(x, y, draws, seed, allow_degenerate=True) for x, y in pairs]
    return Stack(values, left_out, np.mean(nulls, axis=0))


def _kernel_rows(there: States, family: str, split: str, permutations: int) -> Iterator[dict]:
    """Object kernel: do a family's states carry the object of their relation, or of the others?"""
    design, reasons = there.design, {}
    found: dict[str, dict[str, list[Stack]]] = {"same": {}, "other": {}}
    for relation in relations_with(design, family):
        rows = design.rows(relation, split)
        prompts = prompt_states(there, relation, family, split)
        for asked in design.relations if design.shared_subjects else [relation]:
            which = "same" if asked == relation else "other"
            try:
                kernel = label_kernel(design.objects(asked)[rows], len(rows), f"objects of {asked}")
            except NotIdentifiable as error:
                if which == "same":
                    reasons[relation] = str(error)
                continue
            draws = permutations if which == "same" else 0
            carried = kernel_stack(prompts, kernel, draws, design.run.seed)
            found[which].setdefault(relation, []).append(carried)
    common = {"family": family, "split": split, "measure": "object_kernel"}
    for which, stacks in found.items():
        averaged = {relation: stack.mean_stack(some) for relation, some in stacks.items()}
        yield from summary_rows(there, averaged, {**common, "object_relation": which})
    for relation, reason in reasons.items():
        about = {**common, "object_relation": "same", "relation": relation}
        yield stack.empty_row(there, about, reason)


def kernel_stack(ys: Sequence[Array], kernel: Array, draws: int, seed: int) -> Stack:
    """Debiased CKA of each prompt's states (S, n, d) with a U-centred object kernel (n, n).

    Delete-one values in the closed form of `analysis.measures.hsic`; null: objects permuted.
    """
    n = len(kernel)
    orders = permutations(n, draws, seed)
    shuffled = np.array([kernel[np.ix_(p, p)].ravel() for p in orders]).reshape(draws, n * n)
    factor, kk = leave_one_out_factor(n), (kernel * kernel).sum(-1)
    values, left_out, nulls = [], [], []
    for y in ys:
        gram = u_centre(linear_gram(y))
        xy, xx = (gram * kernel).sum(-1), (gram * gram).sum(-1)
        total = nan_where_degenerate(y, xx.sum(-1))
        norm = np.sqrt(total * kk.sum())
        values.append(xy.sum(-1) / norm)
        nulls.append(shuffled @ gram.reshape(len(gram), -1).T / norm)
        squared = np.clip((total[:, None] - factor * xx) * (kk.sum() - factor * kk), 0, None)
        with np.errstate(invalid="ignore", divide="ignore"):
            left_out.append((xy.sum(-1, keepdims=True) - factor * xy) / np.sqrt(squared))
    return Stack(np.array(values), np.array(left_out), np.mean(nulls, axis=0))


def _contrast_rows(there: States, family: str, split: str, draws: int) -> Iterator[dict]:
    """The crossed contrast of bound relations; for the claim the answer-partialled form as well,
    and the interaction of each unbound relation with the bound ones. Those are expensive."""
    design = there.design
    common = {"family": family, "split": split, "estimator": stack.ESTIMATOR}
    relations = relations_with(design, family)
    bound = [r for r in design.bound if r in relations]
    if reason := why_no_contrast(design, bound):
        for measure in ("contrast", "contrast_partialled"):
            about = {**common, "measure": measure, "relation": "bound"}
            yield stack.empty_row(there, about, reason)
        return
    rows = design.rows(relations[0], split)
    rote = {r: there[r, "rote"][rows] for r in relations}
    semantic = {r: there[r, family][:, rows] for r in relations}
    wanted = [("contrast", "bound", crossed_contrast, [{"relations": bound}])]
    if family == "test" and split == design.splits[0]:
        given = {r: design.objects(r)[rows] for r in relations}
        partialled = {"relations": bound, "given": given}
        wanted.append(("contrast_partialled", "bound", crossed_contrast, [partialled]))
        for r in (r for r in design.unbound if r in relations):
            wanted.append(("interaction", r, interaction, [{"r": r, "q": q} for q in bound]))
    for measure, relation, contrast, calls in wanted:
        found = []
        for s in range(len(there.sites)):
            xs = {r: x[:, s] for r, x in rote.items()}
            ys = {r: y[:, :, s] for r, y in semantic.items()}
            found.append(_mean_contrast(contrast, xs, ys, calls, n=draws, rng=design.run.seed))
        values, null = (np.array([site[key] for site in found]) for key in ("value", "null"))
        p_max = stack.corrected_p(values, null.T, two_sided=True)
        about = {**common, "measure": measure, "relation": relation}
        for layer, site in enumerate(found):
            if "reason" in site:
                place = {"site": there.sites[layer], "layer": layer}
                yield stack.empty_row(there, about | place, site["reason"])
            else:
                site |= {"null_p_max": p_max[layer], "two_sided": True}
                yield stack.site_row(there, layer, about, **site)


def why_no_contrast(design: Design, bound: Sequence[str]) -> str:
    """Why a run does not allow a crossed contrast of its `bound` relations; "" if it does."""
    if len(bound) < 2:
        return f"not identifiable: {len(bound)} bound relation(s), the contrast crosses at least 2"
    apart = "the relations have different subjects, so name and meaning cannot be told apart"
    return "" if design.shared_subjects else f"not identifiable: {apart}"


def _mean_contrast(contrast: Callable, xs: dict, ys: dict, calls: list[dict], **options) -> dict:
    """The mean of several contrasts at one site; NaN with a reason if one cannot be computed."""
    try:
        found = [contrast(xs, ys, **call, **options) for call in calls]
    except (DegenerateStates, NotIdentifiable) as error:
        null = np.full(options["n"], np.nan)
        return {"value": np.nan, "null": null, "reason": str(error).split(".")[0]}
    names = ("value", "per_prompt", "leave_one_out", "null")
    parts = {name: [getattr(c, name) for c in found] for name in names}
    return {name: p[0] if len(p) == 1 else np.mean(p, axis=0) for name, p in parts.items()}


def grid_rows(there: States, permutations: int) -> Iterator[dict]:
    """CKA of every site of rote states with every site of the first test prompt's states.

    Mean over bound relations; `best` marks the largest, null_p_max corrects for all pairs.
    """
    design = there.design
    family = "test" if "test" in design.families else design.families[0]
    split, seed = design.splits[0], design.run.seed
    grids, nulls = [], []
    for relation in (r for r in design.bound if design.prompts_of(r, family)):
        x, y = (prompt_states(there, relation, f, split)[0] for f in ("rote", family))
        how = {"allow_degenerate": True}
        grids.append(linear_cka_grid(x, y, **how))
        nulls.append(permutation_null_cka(x, y, permutations, seed, grid=True, **how))
    grid, null = np.mean(grids, axis=0), np.mean(nulls, axis=0)
    test = max_statistic_test(grid, null) if permutations and np.isfinite(grid).any() else None
    common = {**there.checkpoint.stage, "relation": "bound", "family": family, "split": split}
    shape = {"n": x.shape[1], "d": x.shape[2], "estimator": stack.ESTIMATOR}
    for (i, j), value in np.ndenumerate(grid):
        place = {"site": there.sites[i], "site_y": there.sites[j], "layer": i, "layer_y": j}
        best, p = (test.best == (i, j), test.p[i, j]) if test else (False, np.nan)
        row = {**common, **place, "measure": "cka", "value": value, **shape}
        yield {**row, "best": best, "null_p_max": p}


def contrast_lines(table, design: Design) -> list[str]:
    """The crossed contrast at its best site beside its controls, by checkpoint, in words."""
    split = design.splits[0]
    some = pick(table, split=split, family="test")
    contrast = pick(some, measure="contrast")
    if not len(contrast):
        return []
    if contrast.value.isna().all():
        return [f"crossed contrast: {contrast.reason.iloc[0]}"]
    who = f"{split} subjects (n={int(contrast.n.max())})"
    lines = [
        "crossed contrast of CKA (same relation minus other relation), bound relations x test "
        f"prompts, {who}; p corrected for the best of {contrast.site.nunique()} sites"
    ]
    for checkpoint in design.checkpoints:
        here = pick(contrast, checkpoint=checkpoint.name)
        if here.value.isna().all():
            words = f"no value at any site: {here.reason.iloc[-1]}"
        else:
            best = here.loc[here.value.abs().idxmax()]
            words = f"{best.site:<15} {span(best, sign=True)} {p_words(best.null_p_max)}"
            at = pick(some, checkpoint=checkpoint.name, site=best.site, relation="bound")
            for row in pick(at, measure="contrast_partialled").dropna(subset="value").itertuples():
                words += f"   answer partialled out {span(row, sign=True)}"
            kernel = pick(at, measure="object_kernel").set_index("object_relation").value
            if "same" in kernel:
                same, other = (two_places(kernel.get(k, np.nan)) for k in ("same", "other"))
                words += f"   object kernel {same}, of other relations {other}"
        lines.append(f"  {checkpoint.name:<27} {words}")
    return lines


def cka_lines(table, design: Design) -> list[str]:
    """Raw CKA by family at the site where it is largest at the last checkpoint, in words."""
    some = pick(table, split=design.splits[0], measure="cka", relation="bound")
    last = pick(some, checkpoint=design.checkpoints[-1].name, family="test").dropna(subset="value")
    if not len(last):
        return []
    best = last.loc[last.value.idxmax()]
    what = f"it mostly says: same name; n={int(best.n)}, d={int(best.d)}"
    lines = [f"raw CKA rote ~ semantic at {best.site} ({what})"]
    for checkpoint in design.checkpoints:
        at = pick(some, checkpoint=checkpoint.name, site=best.site).set_index("family")
        shown = [f for f in ("test", "near-miss", "unrelated") if f in at.index]
        words = "   ".join(f"{family} {span(at.loc[family])}" for family in shown)
        if "zscored" in at:
            treated = [two_places(at.loc["test", name]) for name in TREATMENTS]
            words += "   (test z-scored {}, without 1 component {}, without 5 {})".format(*treated)
        lines.append(f"  {checkpoint.name:<27} {words}")
    return lines
