"""tables/alignment.csv: cosine, retrieval and shared neighbours of paired states.

Read beside mismatched pairs, unrelated prompts and chance. Definitions: measures.md, section 1.
"""

from collections.abc import Iterator

import numpy as np

from analysis.measures.checks import LEAST_ROWS, NotIdentifiable, first_reasons, site_reasons
from analysis.measures.cosine import chances, delta_cosine, neighbour_scores, pair_measures
from analysis.measures.scores import Scores, paired_scores, relation_rows
from analysis.tables.driver import scored_tables
from analysis.tables.stack import Array, prompt_states, relations_with
from probing.states import Design, States
from training.base.console import progress
from training.base.errors import UserError
from training.base.words import span, two_places
from training.runs.table_files import headline_split, pick

VERSION = 1
NEIGHBOURS = 5
ESTIMATORS = {
    "cosine_raw": "cosine of paired states",
    "cosine_centred": "cosine of paired states, each prompt's mean removed",
    "retrieval_top1": "nearest by centred cosine",
    "retrieval_top5": "nearest by centred cosine",
    "retrieval_mrr": "nearest by centred cosine",
    "mutual_knn": f"{NEIGHBOURS} nearest by centred cosine",
}
MISMATCHED = {f"{measure}_mismatched": measure for measure in ("cosine_raw", "cosine_centred")}


def alignment_table(design: Design, *, permutations: int = 199):
    """Do semantic states find their own rote states? Writes tables/alignment.csv.

        table = alignment_table(Design.of(Run.open("runs/demo")))
        table[(table.measure == "retrieval_top1") & (table.relation == "bound")]

    Columns: checkpoint, phase, epoch, step; family, split, relation, measure, estimator, n, d,
    n_prompts, site, layer; value, reason, low, high, null_p, null_high, null_p_max, chance; seed,
    commit. measure: those of ESTIMATORS and MISMATCHED, and delta_cosine over all relations.
    """
    rows = {"alignment": lambda there: _rows_of(there, permutations)}
    (table,) = scored_tables(design, rows, [VERSION, permutations])
    return table


def _rows_of(there: States, permutations: int) -> Iterator[dict]:
    design, checkpoint = there.design, there.checkpoint
    for family in progress(["rote", *design.families], label=f"alignment {checkpoint.name}"):
        for split in design.splits:
            common = {**checkpoint.stage, "family": family, "split": split}
            yield from _delta_rows(there, common)
            if family != "rote":
                yield from _pair_rows(there, common, permutations)


def _delta_rows(there: States, common: dict) -> Iterator[dict]:
    """Delta-CosSim of a family's raw states at every site, all prompts of all relations."""
    design, family, split = there.design, common["family"], common["split"]
    blocks, relations, subjects = [], [], []
    for relation in design.relations:
        who = np.array(design.subjects(relation))[design.rows(relation, split)]
        for block in prompt_states(there, relation, family, split):
            blocks.append(block)
            relations += [relation] * len(who)
            subjects += list(who)
    about = common | {"relation": "all", "measure": "delta_cosine"}
    about |= {"estimator": "within - between relations", "n": len(set(subjects))}
    about |= _shape(there, family)
    for layer, site in enumerate(there.sites):
        row = {**about, "site": site, "layer": layer, "value": np.nan}
        states = [block[layer] for block in blocks]
        reason = next(filter(None, site_reasons(states)), "")
        try:
            found = None if reason else delta_cosine(np.concatenate(states), relations, subjects)
        except UserError as error:
            found, reason = None, str(error)
        if found:
            row |= {"value": found.value, "low": found.low, "high": found.high}
        yield {**row, "reason": reason}


def _shape(there: States, family: str) -> dict:
    prompts = [len(there.design.prompts_of(r, family)) for r in there.design.relations]
    return {"d": there.width, "n_prompts": max(prompts)}


def _pair_rows(there: States, common: dict, draws: int) -> Iterator[dict]:
    """Paired measures of each relation, and of bound and unbound ones together, at every site."""
    design, family, split = there.design, common["family"], common["split"]
    relations = relations_with(design, family)
    scores = {r: _relation_scores(there, r, family, split, draws) for r in relations}
    groups = {"bound": design.bound, "unbound": design.unbound}
    for measure in scores[relations[0]]:
        about = common | _shape(there, family) | {"measure": measure}
        about["estimator"] = ESTIMATORS[MISMATCHED.get(measure, measure)]
        # Every state is in many mismatched pairs: an interval over subjects would be too narrow.
        hidden = {"low": np.nan, "high": np.nan} if measure in MISMATCHED else {}
        by_relation = {relation: found[measure] for relation, found in scores.items()}
        for row in relation_rows(by_relation, there.sites, **groups):
            yield {**about, **row, **hidden}


def _relation_scores(there: States, relation: str, family: str, split: str, draws: int) -> dict:
    """Scores of each measure of one relation, or the reason why there are none."""
    design, seed = there.design, there.design.run.seed
    subjects = tuple(np.array(design.subjects(relation))[design.rows(relation, split)])
    n = len(subjects)
    if n < LEAST_ROWS:
        reason = f"{n} subjects; at least {LEAST_ROWS} are needed"
        return dict.fromkeys((*ESTIMATORS, *MISMATCHED), reason)
    x = prompt_states(there, relation, "rote", split)[0]
    ys = prompt_states(there, relation, family, split)
    reasons = first_reasons(*map(site_reasons, (x, *ys)))
    pairs: dict[str, Array] = {}
    for y in ys:
        for measure, values in pair_measures(x, y).items():
            pairs[measure] = pairs.get(measure, 0) + values / len(ys)
    found = {}
    for measure, values in pairs.items():
        values[[reason is not None for reason in reasons]] = np.nan
        luck = chances(n).get(measure, np.nan)
        found[measure] = paired_scores(values, subjects, reasons, draws, seed, chance=luck)
        if measure in MISMATCHED.values():
            others = (values.sum(axis=2) - found[measure].values) / (n - 1)
            none = np.zeros((0, len(x)))
            found[f"{measure}_mismatched"] = Scores(others, none, subjects, reasons)
    try:
        found["mutual_knn"] = neighbour_scores(x, ys, subjects, reasons, draws, seed, k=NEIGHBOURS)
    except NotIdentifiable as error:
        found["mutual_knn"] = str(error)
    return found


def alignment_lines(table) -> list[str]:
    """Retrieval and cosine of test prompts and their controls, where retrieval ends best."""
    split = headline_split(table)
    some = pick(table, split=split, relation="bound")
    top = pick(some, checkpoint=table.checkpoint.iloc[-1], measure="retrieval_top1")
    if not len(top):
        return []
    family = "test" if "test" in set(top.family) else top.family.iloc[0]
    top = pick(top, family=family)
    if top.value.isna().all():
        return [f"retrieval and cosine: no value at any site: {top.reason.dropna().iloc[0]}"]
    best = top.loc[top.value.idxmax()]
    what = f"retrieval (chance {two_places(best.chance)}) and cosine, rote ~ {family} prompts"
    who = f"bound relations, {split} subjects (n={int(best.n)})"
    lines = [f"{what} at {best.site}, {who}: mostly the same name"]
    for checkpoint, here in pick(some, site=best.site).groupby("checkpoint", sort=False):
        rows = {(row.measure, row.family): row for row in here.itertuples()}
        words = ""
        for measure in ("retrieval_top1", "cosine_centred", "cosine_raw"):
            words += f"   {measure.replace('_', ' ')} {span(rows[measure, family])}"
            mismatched, unrelated = (f"{measure}_mismatched", family), (measure, "unrelated")
            for name, key in (("mismatched", mismatched), ("unrelated", unrelated)):
                words += f" {name} {two_places(rows[key].value)}" if key in rows else ""
        lines.append(f"  {checkpoint:<27}{words[2:]}")
    return lines
