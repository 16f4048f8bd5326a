"""One shared route, two separate codes, or no binding: the judgement itself, from states or from summaries of them.

    from analysis.measures.judgement import (judge)
    found = judge(rote, semantic, objects, relations, subjects)      # (m, d), (P, m, d), (m,), (m,), (m,)
    found.label, found.why, found.sure

Raw similarity cannot answer this (measures.md, section 8): rote and semantic states are alike because they name one
subject, and two unrelated codes of one answer are alike too. So the judgement rests on probe transfer between the two
kinds of states, across subjects, measured against what each kind of state holds itself:

    share = (rote->semantic - chance) / (min(rote->rote, semantic->semantic) - chance)

one shared route     both kinds hold the answer, the transfer is above chance, the share is at least a half and its
                     interval begins at a quarter or above
two separate codes   both kinds hold the answer, and the interval of the share ends below a half with a transfer that
                     is not above chance, or below a quarter
no binding           rote states hold the answer; what semantic ones hold is not above chance and its interval ends below
                     half of that, or it ends below a quarter
not identifiable     a control is missing, or the numbers leave the question open; `why` says which

The null of the transfer permutes objects, not subjects: two unrelated codes of few objects agree on some of them by
luck, for all subjects of such an object at once, so that subjects are no independent evidence for a shared code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import NotIdentifiable, check_paired, to_float64, to_labels
from analysis.measures.contrast import crossed_contrast
from analysis.measures.scores import paired_scores, pooled, summaries
from analysis.measures.statistics import Rng, permutation_p
from analysis.measures.transfer import FOLDS, Transfer, fit_probes
from training.base.errors import UserError

Array = np.ndarray


SHARED, SEPARATE, UNBOUND, OPEN = (
    "one shared route",
    "two separate codes",
    "no binding",
    "not identifiable",
)


LABELS = (SHARED, SEPARATE, UNBOUND, OPEN)


LEVEL = 0.05


HALF, QUARTER = 0.5, 0.25


CLEAR, TENTATIVE = "clear", "tentative"


@dataclass(frozen=True)
class Evidence:
    """One measured number with its 95% interval over subjects, its null p and what chance gives.

    reason: why there is no number (then value is NaN). site: where it was measured.
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


@dataclass(frozen=True)
class Judgement:
    """label: one of LABELS; why: in words; sure: "clear" or "tentative" ("" if not identifiable).

    share: of what both kinds of states hold, how much transfers, with its interval (NaN where undefined).
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
    """The judgement from summaries.

    transfer, rote, semantic: rote->semantic, rote->rote and semantic->semantic accuracy across subjects, at one site.
    contrast: the answer-partialled contrast; interchange: share of patches that moved the relation, above what it was
    before; unbound: rote->semantic transfer of relations that phase 2 never touched. They cannot make a label: they
    take away its sureness, and an unbound relation that transfers as well takes away the label.
    missing: controls without which nothing is claimed, each in words; doubts: what else makes a label tentative.
    """
    extra = [e for e in (contrast, interchange, unbound) if e is not None]
    evidence = (transfer, rote, semantic, *extra)

    def found(label: str, why: str, sure: str = "", share=(np.nan, np.nan, np.nan)) -> Judgement:
        return Judgement(label, why, sure, *map(float, share), evidence)

    if missing:
        return found(OPEN, "; ".join(missing))
    for part in (transfer, rote, semantic):
        if part.missing:
            return found(OPEN, f"no {part.name}: {part.reason or 'it was not measured'}")
    if not rote.above:
        return found(
            OPEN,
            f"rote states do not hold the answer across subjects ({_numbers(rote)}), so there is nothing to be shared",
        )
    little = semantic.high - semantic.chance < QUARTER * rote.gain
    if not semantic.above or little:
        if transfer.above and not little:
            return found(
                OPEN,
                f"{transfer.name} {_numbers(transfer)} though {semantic.name} is {_numbers(semantic)}",
            )
        if semantic.high - semantic.chance >= HALF * rote.gain:
            return found(
                OPEN,
                f"semantic states may hold the answer or not ({_numbers(semantic)}, n={semantic.n}): more subjects",
            )
        return found(
            UNBOUND,
            f"rote states hold the answer ({_numbers(rote)}), semantic ones do not ({_numbers(semantic)})",
            CLEAR if little and not semantic.above else TENTATIVE,
        )
    share = tuple((v - transfer.chance) / min(rote.gain, semantic.gain) for v in _span(transfer))
    words = f"{share[0]:.0%} [{share[1]:.0%}, {share[2]:.0%}] of what both hold transfers ({_numbers(transfer)})"
    if transfer.above and share[0] >= HALF:
        if unbound is not None and unbound.above and unbound.gain >= HALF * transfer.gain:
            return found(
                OPEN,
                f"{words}, but unbound relations, which were given no meaning, transfer too ({_numbers(unbound)})",
                share=share,
            )
        if share[1] < QUARTER:
            return found(OPEN, f"too few subjects or objects to tell: {words}", share=share)
        weak = [_lacking(e) for e in (contrast, interchange) if e is not None and not e.above]
        weak += [_lacking(unbound)] if unbound is not None and unbound.missing else []
        if unbound is not None and unbound.high - unbound.chance >= HALF * transfer.gain:
            weak.append(f"unbound relations may transfer as well ({_numbers(unbound)})")
        weak += doubts
        sure = CLEAR if share[1] >= HALF and not weak else TENTATIVE
        return found(SHARED, words + (f"; but {'; '.join(weak)}" if weak else ""), sure, share)
    if share[2] < QUARTER or (share[2] < HALF and not transfer.above):
        sure = CLEAR if share[2] < QUARTER and not transfer.above else TENTATIVE
        return found(
            SEPARATE, f"both kinds of states hold the answer, and only {words}", sure, share
        )
    if share[2] < HALF:
        return found(
            OPEN,
            f"neither one route nor two: {words}, above chance and less than half",
            share=share,
        )
    return found(OPEN, f"too few subjects or objects to tell: {words}", share=share)


def judge(
    rote: Any,
    semantic: Any,
    objects: Sequence,
    relations: Sequence,
    subjects: Sequence,
    *,
    folds: int = FOLDS,
    n: int = 499,
    rng: Rng = 0,
) -> Judgement:
    """The judgement from the states of one site, with everything it rests on.

    rote: (m, d), semantic: (m, d) or (P, m, d); objects, relations, subjects: (m,); row i of all is one fact. n: draws
    of the nulls.
    Says "not identifiable" with one relation, with relations about different subjects, or with objects that no two
    subjects share. Raises BadInput, BadInput, BadInput, DegenerateStates, TooFewRows.
    """

    rote, semantic = to_float64(rote, "rote"), to_float64(semantic, "semantic")
    semantic = semantic[None] if semantic.ndim == 2 else semantic
    check_paired(len(rote), semantic.shape[1])
    rows, missing = aligned_rows(relations, subjects, len(rote))
    names = list(rows)
    objects = np.asarray(objects)
    answers: dict[str, list[Transfer]] = {
        "rote->rote": [],
        "rote->semantic": [],
        "semantic->semantic": [],
    }
    try:
        for name in names:
            here = rows[name]
            x, ys = rote[here][:, None], semantic[:, here][:, :, None]
            from_rote = fit_probes(x, objects[here], folds=folds)
            answers["rote->rote"].append(from_rote.score(x))
            answers["rote->semantic"].append(from_rote.score(ys))
            answers["semantic->semantic"].append(
                fit_probes(ys[0], objects[here], folds=folds).score(ys)
            )
    except NotIdentifiable as error:
        lost = [Evidence(direction, np.nan, reason=str(error)) for direction in answers]
        return decide(lost[1], lost[0], lost[2], missing=missing)
    who = [np.asarray(subjects)[rows[name]] for name in names]
    evidence = {
        direction: _scored(direction, found, who, n, rng) for direction, found in answers.items()
    }
    value, p = object_permutation_p(answers["rote->semantic"], n, rng)
    transfer = evidence["rote->semantic"]
    evidence["rote->semantic"] = Evidence(**{**transfer.__dict__, "p": p, "value": value})
    contrast = None
    if not missing:
        try:
            found = crossed_contrast(
                {name: rote[rows[name]] for name in names},
                {name: semantic[:, rows[name]] for name in names},
                partialled=True,
                given={name: objects[rows[name]] for name in names},
                n=n,
                rng=rng,
            )
            contrast = Evidence(
                "answer-partialled contrast",
                found.value,
                found.low,
                found.high,
                found.p,
                0.0,
                found.n,
            )
        except (NotIdentifiable, UserError) as error:
            contrast = Evidence("answer-partialled contrast", np.nan, reason=str(error))
    judged = decide(
        evidence["rote->semantic"],
        evidence["rote->rote"],
        evidence["semantic->semantic"],
        missing=missing,
    )
    if contrast is None:
        return judged
    return Judgement(**{**judged.__dict__, "evidence": (*judged.evidence, contrast)})


def aligned_rows(relations: Sequence, subjects: Sequence, m: int) -> tuple[dict, list[str]]:
    """Rows of each relation, subjects in one order, and the controls that these facts lack, in words."""
    codes = to_labels(relations, m, "relations")
    who = to_labels(subjects, m, "subjects")
    labels = np.asarray(relations)
    rows = {}
    for code in range(codes.max() + 1):
        here = np.flatnonzero(codes == code)
        rows[str(labels[here[0]])] = here[np.argsort(who[here], kind="stable")]
    missing = []
    if len(rows) < 2:
        missing.append(
            "one relation only, so meaning cannot be told from what the name brings to mind anyway"
        )
    elif len({tuple(who[here]) for here in rows.values()}) > 1:
        missing.append(
            "the relations have different subjects, so name and meaning cannot be told apart"
        )
    return rows, missing


def object_permutation_p(found: Sequence[Transfer], n: int, rng: Rng = 0) -> tuple[float, float]:
    """Transfer accuracy pooled over relations at the first site, and its p with whole objects permuted.

    found: per relation what rote probes answered; each relation's objects change places among themselves, the
    answers stay. Under two unrelated codes every such relabelling is as likely as the true one.
    """
    rng = np.random.default_rng(rng)
    sizes = [len(transfer.labels) for transfer in found]
    value = np.average([transfer.accuracy[0] for transfer in found], weights=sizes)
    null = np.average(
        [transfer.object_null(n, rng)[:, 0] for transfer in found], axis=0, weights=sizes
    )
    return float(value), float(permutation_p(value, null))


def _scored(
    name: str, found: Sequence[Transfer], who: Sequence[Array], n: int, rng: Rng
) -> Evidence:
    """The accuracy of several relations together, with interval and null over subjects, at the first site."""
    scores = [
        paired_scores(t.pair_scores(), subjects, t.reasons, n, rng, chance=t.chance)
        for t, subjects in zip(found, who, strict=True)
    ]
    row = summaries(pooled(scores))[0]
    return Evidence(
        name, row["value"], row["low"], row["high"], float(row["null_p"]), row["chance"], row["n"]
    )


def _lacking(evidence: Evidence) -> str:
    """Why evidence does not confirm, in words."""
    if evidence.missing:
        return f"no {evidence.name}: {evidence.reason or 'it was not measured'}"
    return f"{evidence.name} is {_numbers(evidence)}"


def _span(evidence: Evidence) -> tuple[float, float, float]:
    return evidence.value, evidence.low, evidence.high


def _numbers(evidence: Evidence) -> str:
    """`.42 [.31, .53], chance .06`."""
    value, low, high, chance = (
        f"{v:.2f}".replace("0.", ".", 1) for v in (*_span(evidence), evidence.chance)
    )
    interval = f" [{low}, {high}]" if np.isfinite(evidence.low) else ""
    return f"{value}{interval}, chance {chance}"
