"""One shared route, two separate codes or no binding? Judged from states or from summaries.

Raw similarity cannot tell: two unrelated codes of one answer are alike too. So the judgement rests
on probe transfer across subjects, relative to what each kind of states holds:
share = (rote->semantic - chance) / (min(rote->rote, semantic->semantic) - chance).
docs/measures.md tabulates the rule that `decide` follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.measures import checks
from analysis.measures.checks import Array, Labels, NotIdentifiable, Values
from analysis.measures.contrast import crossed_contrast
from analysis.measures.scores import paired_scores, pooled, summaries
from analysis.measures.statistics import Rng, permutation_p
from analysis.measures.transfer import FOLDS, Transfer, fit_probes
from training.base.errors import UserError
from training.base.words import span, two_places

SHARED, SEPARATE = "one shared route", "two separate codes"
UNBOUND, OPEN = "no binding", "not identifiable"
LABELS = (SHARED, SEPARATE, UNBOUND, OPEN)
CLEAR, TENTATIVE = "clear", "tentative"
LEVEL = 0.05
HALF, QUARTER = 0.5, 0.25


@dataclass(frozen=True)
class Evidence:
    """One measured number with its 95% interval over subjects, its null p and its chance.

    reason: why there is no number (value is NaN). site: where it was measured.
    """

    name: str
    value: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    chance: float = 0.0
    n: int = 0
    site: str = ""
    reason: str = ""

    @property
    def missing(self) -> bool:
        return not np.isfinite(self.value)

    @property
    def above(self) -> bool:
        """Above chance: p at most .05 and the interval clear of chance, each where there is one."""
        if np.isnan(self.p) and np.isnan(self.low):
            return False
        return self.value > self.chance and not self.p > LEVEL and not self.low <= self.chance

    @property
    def gain(self) -> float:
        return self.value - self.chance

    @property
    def ceiling(self) -> float:
        """The largest gain that the interval allows."""
        return self.high - self.chance

    @property
    def words(self) -> str:
        return f"{span(self)}, chance {two_places(self.chance)}"

    @property
    def absence(self) -> str:
        return f"no {self.name}: {self.reason or 'it was not measured'}"


@dataclass(frozen=True)
class Judgement:
    """label: one of LABELS; why: in words; sure: "clear" or "tentative" ("" if not identifiable).

    share: how much of what both kinds of states hold transfers, with its interval, or NaN.
    """

    label: str
    why: str
    sure: str
    share: float
    low: float
    high: float
    evidence: tuple[Evidence, ...]

    def __str__(self) -> str:
        return f"{self.label}{f' ({self.sure})' if self.sure else ''}: {self.why}"


def decide(
    transfer: Evidence,
    rote: Evidence,
    semantic: Evidence,
    *,
    contrast: Evidence | None = None,
    interchange: Evidence | None = None,
    unbound: Evidence | None = None,
    missing: Sequence[str] = (),
    doubts: Sequence[str] = (),
) -> Judgement:
    """The judgement from summaries measured at one site.

    transfer, rote, semantic: accuracy across subjects rote->semantic, rote->rote and
    semantic->semantic. contrast: the answer-partialled one; interchange: gain in patches that move
    the relation; unbound: transfer of relations that phase 2 never touched, which can remove a
    label where the other two only make it tentative. missing: controls without which nothing is
    claimed; doubts: what else makes a label tentative.
    """
    extra = [e for e in (contrast, interchange, unbound) if e is not None]
    evidence = (transfer, rote, semantic, *extra)

    def found(label: str, why: str, sure: str = "", shares=(np.nan,) * 3) -> Judgement:
        share, low, high = map(float, shares)
        return Judgement(label, why, sure, share, low, high, evidence)

    absent = [part.absence for part in evidence[:3] if part.missing]
    if missing or absent:
        return found(OPEN, "; ".join(missing) or absent[0])
    if not rote.above:
        why = f"rote states do not hold the answer across subjects ({rote.words}), so there is"
        return found(OPEN, f"{why} nothing to be shared")
    little = semantic.ceiling < QUARTER * rote.gain
    if little or not semantic.above:
        if transfer.above and not little:
            why = f"{transfer.name} {transfer.words} though {semantic.name} is {semantic.words}"
            return found(OPEN, why)
        if semantic.ceiling >= HALF * rote.gain:
            why = f"semantic states may or may not hold the answer ({semantic.words}, "
            return found(OPEN, f"{why}n={semantic.n}): more subjects are needed")
        why = f"rote states hold the answer ({rote.words}), semantic ones do not ({semantic.words})"
        return found(UNBOUND, why, CLEAR if little and not semantic.above else TENTATIVE)

    held = min(rote.gain, semantic.gain)
    ends = (transfer.value, transfer.low, transfer.high)
    share, low, high = shares = tuple((v - transfer.chance) / held for v in ends)
    words = f"{share:.0%} [{low:.0%}, {high:.0%}] of what both hold transfers ({transfer.words})"
    too_few = f"too few subjects or objects to tell: {words}"
    if transfer.above and share >= HALF:
        if unbound is not None and unbound.above and unbound.gain >= HALF * transfer.gain:
            why = f"{words}, but unbound relations, which were given no meaning, transfer too"
            return found(OPEN, f"{why} ({unbound.words})", shares=shares)
        if low < QUARTER:
            return found(OPEN, too_few, shares=shares)
        weak = [*_weaknesses(transfer, (contrast, interchange), unbound), *doubts]
        sure = CLEAR if low >= HALF and not weak else TENTATIVE
        return found(SHARED, words + (f"; but {'; '.join(weak)}" if weak else ""), sure, shares)
    if high < QUARTER or (high < HALF and not transfer.above):
        sure = CLEAR if high < QUARTER and not transfer.above else TENTATIVE
        why = f"both kinds of states hold the answer, and only {words}"
        return found(SEPARATE, why, sure, shares)
    partly = f"neither one route nor two: {words}, above chance and less than half"
    return found(OPEN, partly if high < HALF else too_few, shares=shares)


def _weaknesses(
    transfer: Evidence, support: Sequence[Evidence | None], unbound: Evidence | None
) -> list[str]:
    """In words, what does not confirm a shared route."""
    failed = [e for e in support if e is not None and not e.above]
    weak = [e.absence if e.missing else f"{e.name} is {e.words}" for e in failed]
    if unbound is not None and unbound.missing:
        weak.append(unbound.absence)
    if unbound is not None and unbound.ceiling >= HALF * transfer.gain:
        weak.append(f"unbound relations may transfer as well ({unbound.words})")
    return weak


def judge(
    rote: Values,
    semantic: Values,
    objects: Labels,
    relations: Labels,
    subjects: Labels,
    *,
    folds: int = FOLDS,
    n: int = 499,
    rng: Rng = 0,
) -> Judgement:
    """The judgement from the states of one site, with the evidence that it rests on.

    >>> rng = np.random.default_rng(0)
    >>> relations, subjects = np.repeat(["mother", "city"], 40), np.tile(np.arange(40), 2)
    >>> objects, code = subjects % 5, 3 * rng.normal(size=(5, 16))
    >>> rote, semantic = (code[objects] + rng.normal(size=(80, 16)) for _ in range(2))
    >>> judge(rote, semantic, objects, relations, subjects, n=99).label
    'one shared route'

    rote: (m, d), semantic: (m, d) or (P, m, d); objects, relations, subjects: (m,), row i one fact;
    n: draws of the nulls. "not identifiable" with one relation, relations about different subjects,
    or objects that no two subjects share. Raises as `linear_cka`.
    """
    x, ys = checks.to_float64(rote, "rote"), checks.to_prompts(semantic, "semantic", "P m d")
    checks.check_paired(len(x), ys.shape[1])
    rows, missing = _aligned_rows(relations, subjects, len(x))
    given = {relation: np.asarray(objects)[here] for relation, here in rows.items()}
    directions, answers = ("rote->semantic", "rote->rote", "semantic->semantic"), []
    try:
        for relation, here in rows.items():
            one, some = x[here, None], ys[:, here, None]
            probes, back = (fit_probes(z, given[relation], folds=folds) for z in (one, some[0]))
            answers.append((probes.score(some), probes.score(one), back.score(some)))
    except NotIdentifiable as error:
        lost = [Evidence(direction, np.nan, reason=str(error)) for direction in directions]
        return decide(*lost, missing=missing)
    who = [np.asarray(subjects)[here] for here in rows.values()]
    by_direction = list(zip(*answers, strict=True))
    evidence = [_scored(k, t, who, n, rng) for k, t in zip(directions, by_direction, strict=True)]
    value, p = object_permutation_p(by_direction[0], n, rng)
    evidence[0] = replace(evidence[0], value=value, p=p)
    judged = decide(*evidence, missing=missing)
    if missing:
        return judged
    name = "answer-partialled contrast"
    sides = {r: x[here] for r, here in rows.items()}, {r: ys[:, here] for r, here in rows.items()}
    try:
        found = crossed_contrast(*sides, given=given, n=n, rng=rng)
        contrast = Evidence(name, found.value, found.low, found.high, found.p, n=found.n)
    except UserError as error:
        contrast = Evidence(name, np.nan, reason=str(error))
    return replace(judged, evidence=(*judged.evidence, contrast))


def _aligned_rows(
    relations: Labels, subjects: Labels, m: int
) -> tuple[dict[str, Array], list[str]]:
    """Rows of each relation, subjects in one order, and the controls these facts lack, in words."""
    names, who = np.asarray(relations), checks.to_labels(subjects, m, "subjects")
    codes = checks.to_labels(names, m, "relations")
    rows = {}
    for code in range(codes.max() + 1):
        here = np.flatnonzero(codes == code)
        rows[str(names[here[0]])] = here[np.argsort(who[here], kind="stable")]
    missing = []
    if len(rows) < 2:
        missing = ["one relation only, so meaning cannot be told from what the name brings to mind"]
    elif len({tuple(who[here]) for here in rows.values()}) > 1:
        missing = [
            "the relations have different subjects, so name and meaning cannot be told apart"
        ]
    return rows, missing


def object_permutation_p(found: Sequence[Transfer], n: int, rng: Rng = 0) -> tuple[float, float]:
    """Transfer accuracy pooled over relations at the first site, and its p with objects permuted.

    found: per relation what rote probes answered. Null: `Transfer.object_null` of each relation.
    """
    rng = np.random.default_rng(rng)
    sizes = [len(transfer.labels) for transfer in found]
    value = np.average([transfer.accuracy[0] for transfer in found], weights=sizes)
    nulls = [transfer.object_null(n, rng)[:, 0] for transfer in found]
    null = np.average(nulls, axis=0, weights=sizes)
    return float(value), float(permutation_p(value, null))


def _scored(
    name: str, found: Sequence[Transfer], who: Sequence[Array], n: int, rng: Rng
) -> Evidence:
    """The accuracy of several relations together, with interval and null over subjects."""
    scores = [
        paired_scores(t.pair_scores(), subjects, t.reasons, n, rng, chance=t.chance)
        for t, subjects in zip(found, who, strict=True)
    ]
    row = summaries(pooled(scores))[0]
    return Evidence(name, *(row[k] for k in ("value", "low", "high", "null_p", "chance", "n")))
