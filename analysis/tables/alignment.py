"""Do semantic states find their own rote states? Cosine, retrieval, neighbours, each beside its controls.

    python -m analysis.alignment RUN_DIR
    python -m analysis.alignment RUN_DIR --families test unrelated --permutations 999
    python -m analysis.alignment ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Reads the states of RUN_DIR (extracts what is missing), writes tables/alignment.csv, then draws
figures/alignment.png. Two states about one subject are alike because they share the subject; so the printed
verdict begins with probe transfer, then the crossed contrast over relations, then these numbers beside their
controls.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from analysis.measures.checks import LEAST_ROWS, NotIdentifiable, first_reasons, site_reasons
from analysis.measures.cosine import delta_cosine
from analysis.measures.scores import Scores, paired_scores, relation_rows
from analysis.measures.statistics import permutations
from analysis.tables.driver import scored_tables
from probing.states import Design, States
from training.base.console import progress
from training.base.errors import UserError
from training.base.words import span, two_places
from training.runs.table_files import headline_split

Array = np.ndarray


NEIGHBOURS = 5


ESTIMATORS = {
    "cosine_raw": "cosine of paired states",
    "cosine_centred": "cosine of paired states, each prompt's mean removed",
    "retrieval_top1": "nearest by centred cosine",
    "retrieval_top5": "nearest by centred cosine",
    "retrieval_mrr": "nearest by centred cosine",
    "mutual_knn": f"{NEIGHBOURS} nearest by centred cosine",
}


MISMATCHED = ("cosine_raw", "cosine_centred")


def table_for(states: Design, *, permutations: int = 199):
    """tables/alignment.csv of a run; checkpoints scored before with the same inputs are read, not scored."""
    (table,) = scored_tables(
        states,
        {"alignment": lambda there: rows_of(there, permutations)},
        [permutations, NEIGHBOURS],
    )
    return table


def pair_measures(x: Array, y: Array) -> dict[str, Array]:
    """Every measure of every pairing, (S, n, n): entry s, i, j sets subject i in y against subject j in x.

    x (rote), y (semantic): (S, n, d) of one prompt, row i the same subject. The means of the diagonals are
    cosine_alignment and retrieval of `analysis.measures.similarity`; a tie counts against the fact.
    """
    from scipy.stats import rankdata

    centred = _units(_centred(y)) @ _units(_centred(x)).transpose(0, 2, 1)
    rank = rankdata(-centred, method="max", axis=-1)
    return {
        "cosine_raw": _units(y) @ _units(x).transpose(0, 2, 1),
        "cosine_centred": centred,
        "retrieval_top1": (rank == 1).astype(float),
        "retrieval_top5": (rank <= 5).astype(float),
        "retrieval_mrr": 1 / rank,
    }


def chances(n: int) -> dict[str, float]:
    """What each measure is worth among n subjects when states find their partner by luck."""
    return {
        "retrieval_top1": 1 / n,
        "retrieval_top5": min(1.0, 5 / n),
        "retrieval_mrr": float(np.sum(1 / np.arange(1, n + 1)) / n),
        "mutual_knn": NEIGHBOURS / (n - 1),
    }


def neighbours(x: Array, k: int = NEIGHBOURS) -> Array:
    """(S, n, k) indices of the k nearest other rows of x (S, n, d) by centred cosine."""
    unit = _units(_centred(x))
    cosine = unit @ unit.transpose(0, 2, 1)
    cosine[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = -np.inf
    return np.argpartition(-cosine, k, axis=-1)[..., :k]


def neighbour_scores(
    x: Array, ys: Sequence[Array], subjects: Sequence, reasons: Sequence, draws: int, seed: int
) -> Scores:
    """Share of the nearest neighbours in x (S, n, d) that are neighbours in ys[p] too, mean over prompts.

    Null: all rows of the ys permuted alike. Raises NotIdentifiable where everyone is a neighbour.
    """

    s, n, _ = x.shape
    if n <= NEIGHBOURS + 1:
        raise NotIdentifiable(
            f"{n} subjects; {NEIGHBOURS} nearest neighbours need at least {NEIGHBOURS + 2}"
        )
    near_x = neighbours(x)
    near_y = np.zeros((s, n, n))
    for y in ys:
        near = neighbours(y)
        share = np.take_along_axis(near_y, near, axis=-1) + 1 / len(ys)
        np.put_along_axis(near_y, near, share, axis=-1)
    rows = np.arange(n)
    values = np.take_along_axis(near_y, near_x, axis=-1).mean(axis=-1)
    null = np.array(
        [
            [
                near[p[rows, None], p[nearest]].mean()
                for near, nearest in zip(near_y, near_x, strict=True)
            ]
            for p in permutations(n, draws, seed)
        ]
    ).reshape(draws, s)
    return Scores(
        _without(values, reasons), null, tuple(subjects), tuple(reasons), NEIGHBOURS / (n - 1)
    )


def _centred(x: Array) -> Array:
    return x - x.mean(axis=1, keepdims=True)


def _units(x: Array) -> Array:
    """x (S, n, d) with rows of length 1; a row without length becomes NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _without(values: Array, reasons: Sequence) -> Array:
    """values (S, ...) with NaN at the sites that have a reason."""
    left_out = np.array([reason is not None for reason in reasons])
    values[left_out] = np.nan
    return values


def rows_of(there: States, permutations: int) -> Iterator[dict]:
    """All rows of alignment.csv of one checkpoint."""

    states, checkpoint = there.design, there.checkpoint
    stage = {
        "checkpoint": checkpoint.name,
        "phase": checkpoint.phase,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
    }
    for family in progress(["rote", *states.families], label=f"alignment {checkpoint.name}"):
        for split in states.splits:
            common = {**stage, "family": family, "split": split}
            yield from _delta_rows(there, common)
            if family != "rote":
                yield from _pair_rows(there, common, permutations)


def _pair_rows(there: States, common: dict, draws: int) -> Iterator[dict]:
    """Paired measures of a family: every relation, and bound and unbound ones together, at every site."""
    states, family = there.design, common["family"]
    found: dict[str, dict[str, Scores | str]] = {}
    relations = [r for r in states.relations if states.prompts_of(r, family)]
    for relation in relations:
        for measure, scores in _relation_scores(there, relation, common, draws).items():
            found.setdefault(measure, {})[relation] = scores
    prompts = max(len(states.prompts_of(r, family)) for r in relations)
    shape = {"d": there.values.shape[-1], "n_prompts": prompts}
    for measure, by_relation in found.items():
        about = {
            **common,
            **shape,
            "measure": measure,
            "estimator": ESTIMATORS[measure.removesuffix("_mismatched")],
        }
        # Every state is in many mismatched pairs: an interval over subjects would be too narrow.
        without = {"low": np.nan, "high": np.nan} if measure.endswith("_mismatched") else {}
        for row in relation_rows(
            by_relation, there.sites, bound=states.bound, unbound=states.unbound
        ):
            yield {**about, **row, **without}


def _relation_scores(
    there: States, relation: str, common: dict, draws: int
) -> dict[str, Scores | str]:
    """Scores of each measure of one relation, family and split, or the reason why there are none."""
    states = there.design
    rows = states.rows(relation, common["split"])
    seed, subjects = states.run.seed, np.array(states.subjects(relation))[rows]
    if len(rows) < LEAST_ROWS:
        reason = f"{len(rows)} subjects; at least {LEAST_ROWS} are needed"
        return dict.fromkeys((*ESTIMATORS, *(f"{m}_mismatched" for m in MISMATCHED)), reason)
    x = _sites_first(there[relation, "rote"][rows])
    ys = [_sites_first(y[rows]) for y in there[relation, common["family"]]]
    reasons = first_reasons(*map(site_reasons, (x, *ys)))
    pairs: dict[str, Array] = {}
    for y in ys:
        for measure, values in pair_measures(x, y).items():
            pairs[measure] = pairs.get(measure, 0) + values / len(ys)
    chance = chances(len(rows))
    found: dict[str, Scores | str] = {}
    for measure, values in pairs.items():
        values = _without(values, reasons)
        found[measure] = paired_scores(
            values, subjects, reasons, draws, seed, chance=chance.get(measure, np.nan)
        )
        if measure in MISMATCHED:
            own = np.diagonal(values, axis1=1, axis2=2)
            others = (values.sum(axis=2) - own) / (len(rows) - 1)
            found[f"{measure}_mismatched"] = Scores(
                others, np.zeros((0, len(x))), tuple(subjects), reasons
            )
    try:
        found["mutual_knn"] = neighbour_scores(x, ys, subjects, reasons, draws, seed)
    except NotIdentifiable as error:
        found["mutual_knn"] = str(error)
    return found


def _delta_rows(there: States, common: dict) -> Iterator[dict]:
    """Delta-CosSim of a family's raw states at every site, all prompts of all relations."""

    states, family = there.design, common["family"]
    blocks, relations, subjects, prompts = [], [], [], 0
    for relation in states.relations:
        rows = states.rows(relation, common["split"])
        prompts = max(prompts, len(states.prompts_of(relation, family)))
        for prompt in states.prompts_of(relation, family):
            blocks.append(_sites_first(there.of(prompt)[rows]))
            relations += [relation] * len(rows)
            subjects += list(np.array(states.subjects(relation))[rows])
    common = {
        **common,
        "relation": "all",
        "measure": "delta_cosine",
        "estimator": "within - between relations",
        "n": len(set(subjects)),
        "d": there.values.shape[-1],
        "n_prompts": prompts,
    }
    for layer, site in enumerate(there.sites):
        row = {**common, "site": site, "layer": layer, "value": np.nan}
        try:
            reason = next((r for r in site_reasons([b[layer] for b in blocks]) if r), None)
            if reason is not None:
                yield {**row, "reason": reason}
                continue
            found = delta_cosine(np.concatenate([b[layer] for b in blocks]), relations, subjects)
            yield {**row, "value": found.value, "low": found.low, "high": found.high, "reason": ""}
        except UserError as error:
            yield {**row, "reason": str(error)}


def _sites_first(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(1, 0, 2), dtype=np.float64)


def alignment_lines(table) -> list[str]:
    """Retrieval and cosine of test prompts beside unrelated prompts and mismatched pairs, in words.

    At the site where test prompts are retrieved best at the last checkpoint.
    """

    split = headline_split(table)
    some = table[(table.split == split) & (table.relation == "bound")]
    top = some[(some.checkpoint == table.checkpoint.iloc[-1]) & (some.measure == "retrieval_top1")]
    top = top[top.family == ("test" if "test" in set(top.family) else next(iter(top.family), ""))]
    if not len(top):
        return []
    if top.value.isna().all():
        return [f"retrieval and cosine: no value at any site: {top.reason.dropna().iloc[0]}"]
    best = top.loc[top.value.idxmax()]
    columns = [(f"retrieval (chance {two_places(best.chance)})", 25), ("unrelated", 10)]
    for kind in ("centred", "raw"):
        columns += [(f"| cosine {kind}", 22), ("mismatched", 11), ("unrelated", 10)]
    lines = [
        f"retrieval and cosine, rote ~ {best.family} prompts at {best.site}, bound relations, {split} "
        f"subjects (n={int(best.n)}); they mostly say: same name",
        " " * 30 + "".join(f"{name:<{width}}" for name, width in columns).rstrip(),
    ]

    def cell(here, measure: str, family: str, interval: bool = False) -> str:
        row = here[(here.measure == measure) & (here.family == family)]
        if not len(row):
            return "-"
        return span(row.iloc[0]) if interval else two_places(row.value.iloc[0])

    for checkpoint in dict.fromkeys(some.checkpoint):
        here = some[(some.checkpoint == checkpoint) & (some.site == best.site)]
        cells = [
            cell(here, "retrieval_top1", best.family, True),
            cell(here, "retrieval_top1", "unrelated"),
        ]
        for kind in ("cosine_centred", "cosine_raw"):
            cells += [
                "| " + cell(here, kind, best.family, True),
                cell(here, f"{kind}_mismatched", best.family),
                cell(here, kind, "unrelated"),
            ]
        padded = (f"{text:<{width}}" for text, (_, width) in zip(cells, columns, strict=True))
        lines.append(f"  {checkpoint:<27} " + "".join(padded).rstrip())
    return lines
