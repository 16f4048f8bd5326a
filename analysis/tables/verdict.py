"""The evidence of every checkpoint of a run, taken from its tables, and the judgement that follows from it.

Nothing is chosen by the number that is to be judged: the site is the first one where both kinds of states hold the
answer, wherever the transfer between them is largest. Further up, a finished answer looks alike whichever way it came.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.judgement import HALF, LEVEL, Evidence, Judgement, decide
from analysis.patching.rows import STATE
from analysis.tables.probes import ESTIMATOR, MEASURE
from probing.states import Design
from training.base.words import p_words, span, two_places
from training.runs.table_files import pick


@dataclass(frozen=True, eq=False)
class Tables:
    """What a verdict reads: probes.csv, cka.csv, and interchange.csv or None; DataFrames."""

    probes: Any
    cka: Any
    interchange: Any = None


@dataclass(frozen=True)
class Verdict:
    """The judgement of one checkpoint with its evidence by section: transfer, interchange, contrast, bound."""

    checkpoint: str
    phase: str
    site: str
    why_here: str
    judgement: Judgement
    sections: dict[str, list[Evidence]]


# Characters of a reason that is not said twice.
LONG = 60


def page(found: list[Verdict], states: Design) -> list[str]:
    """The page in lines, in the order of proof, the judgement of the last checkpoint at the end."""
    last = found[-1]
    split = states.splits[0]
    unbound = ", ".join(states.unbound) or "none"
    lines = [
        f"verdict: {split} subjects, test prompts; bound relations {', '.join(states.bound)}; unbound {unbound}",
        f"of {last.checkpoint} judged at: {last.site or '-'} ({last.why_here})",
    ]
    titles = {
        "transfer": "1 transfer: object probes fitted on some subjects, scored on others",
        "interchange": "2 factorial interchange, semantic -> rote (beside what the checkpoint before showed)",
        "contrast": "3 contrast of CKA, same relation minus other relation (a two-code answer makes one too)",
        "bound against unbound": "4 bound against unbound relations: transfer rote->semantic",
    }
    for section, title in titles.items():
        lines.append(title)
        for verdict in found:
            lines += _section_lines(verdict, section)
    lines.append("judgement")
    lines += [f"  {verdict.checkpoint:<27} {verdict.judgement}" for verdict in found]
    lines += [f"  not identifiable here: {reason}" for reason in missing_controls(states)]
    return _reasons_once(lines)


def _reasons_once(lines: list[str]) -> list[str]:
    """The lines, a long reason that stood in one before shortened to "as above"."""
    said: set[str] = set()
    found = []
    for line in lines:
        start, mark, reason = (
            line.partition("no number: ")
            if "no number: " in line
            else line.partition("identifiable: ")
        )
        found.append(f"{start}{mark}as above" if len(reason) > LONG and reason in said else line)
        said.add(reason)
    return found


def _section_lines(verdict: Verdict, section: str) -> list[str]:
    evidence = verdict.sections[section]
    if section == "bound against unbound":
        names = ("bound", "unbound")
        cells = [f"{name} {_cell(part)}" for name, part in zip(names, evidence, strict=True)]
    else:
        cells = [f"{part.name} {_cell(part)}" for part in evidence]
    if not numbers(evidence):
        cells = list(dict.fromkeys(f"no number: {part.reason}" for part in evidence))
    site = next((part.site for part in evidence if part.site), "")
    return [f"  {verdict.checkpoint:<27} {site + '  ' if site else ''}{'   '.join(cells)}"]


def _cell(evidence: Evidence) -> str:
    """`.42 [.31, .53] chance .06 p .005`, or why there is none."""

    if evidence.missing:
        return f"- ({evidence.reason})"
    parts = [span(evidence)]
    if np.isfinite(evidence.chance) and evidence.chance:
        parts.append(f"chance {two_places(evidence.chance)}")
    if np.isfinite(evidence.p):
        parts.append(p_words(evidence.p))
    return " ".join(parts)


FAMILY = "test"


DIRECTIONS = ("rote->semantic", "rote->rote", "semantic->semantic")


CONTRASTS = {"crossed contrast": "contrast", "answer-partialled contrast": "contrast_partialled"}


# Outcomes of interchange.csv, as the page names them.
OUTCOMES = {
    "relation": "interchange",
    "answer": "answer moved",
    "subject": "subject moved",
    "nothing": "unchanged",
}


# A rote state put into a semantic prompt early only writes the key token there, which a model with two separate codes
# answers too; the other way round it takes a semantic state that does the key token's work.
DIRECTION = "semantic->rote"


NO_INTERCHANGE = "there is no tables/interchange.csv"


def verdicts(tables: Tables, states: Design) -> list[Verdict]:
    """One a checkpoint, in training order."""
    return [
        _verdict(tables, states, checkpoint.name, checkpoint.phase)
        for checkpoint in states.checkpoints
    ]


def missing_controls(states: Design) -> list[str]:
    """The controls without which nothing is claimed, in words."""
    if len(states.bound) < 2:
        return [
            f"{len(states.bound)} bound relation(s), so an answer cannot be told from what the name brings to mind"
        ]
    if not states.shared_subjects:
        return ["the relations have different subjects, so name and meaning cannot be told apart"]
    return []


def rows_of(verdict: Verdict) -> Iterator[dict]:
    """Rows of verdict.csv of one checkpoint: every number, then the share with the label and why."""
    common = {"checkpoint": verdict.checkpoint, "phase": verdict.phase, "family": FAMILY}
    for section, evidence in verdict.sections.items():
        for part in evidence:
            yield {
                **common,
                "section": section,
                "measure": part.name,
                "site": part.site,
                "value": part.value,
                "low": part.low,
                "high": part.high,
                "null_p": part.p,
                "chance": part.chance,
                "n": part.n,
                "reason": part.reason,
            }
    judged = verdict.judgement
    yield {
        **common,
        "section": "judgement",
        "measure": "share",
        "site": verdict.site,
        "value": judged.share,
        "low": judged.low,
        "high": judged.high,
        "label": judged.label,
        "sure": judged.sure,
        "reason": judged.why,
    }


def site_to_judge(rote, semantic) -> tuple[str, str]:
    """(site, why this one), or ("", why there is none).

    rote, semantic: rote->rote and semantic->semantic rows of all sites in order, by site. The first site where both are
    above chance (corrected for the number of sites) and at least half as far as at their best site.
    """
    holds = None
    for table in (rote, semantic):
        gain = table.value - table.chance
        here = (table.null_p_max <= LEVEL) & (gain >= HALF * gain.max())
        holds = here if holds is None else holds & here.reindex(holds.index, fill_value=False)
    sites = list(holds[holds].index)
    if not sites:
        return (
            "",
            "at no site do both kinds of states hold the answer, so each is shown at its own best site",
        )
    return sites[0], "the first site where both kinds of states hold the answer"


def _verdict(tables: Tables, states: Design, name: str, phase: str) -> Verdict:
    split = states.splits[0]
    bound = {d: _probe_rows(tables.probes, name, d, "bound", split) for d in DIRECTIONS}
    site, why_here = "", "nothing could be scored"
    if all(rows.value.notna().any() for rows in bound.values()):
        site, why_here = site_to_judge(bound["rote->rote"], bound["semantic->semantic"])
    transfer, rote, semantic = (_probe_evidence(d, rows, site) for d, rows in bound.items())
    loose = _probe_rows(tables.probes, name, "rote->semantic", "unbound", split)
    unbound = _probe_evidence("transfer of unbound relations", loose, site or transfer.site)
    if not states.unbound:
        unbound = Evidence(
            unbound.name,
            np.nan,
            reason="every relation was given a meaning, so drift is not excluded",
        )
    contrasts = [
        _contrast_evidence(tables.cka, words, name, measure, split, transfer.site)
        for words, measure in CONTRASTS.items()
    ]
    outcomes = _interchange(tables.interchange, name, split)
    doubts = []
    if split != "held-out":
        doubts.append(
            "no subjects were held out, so the answers to the prompts may have been trained beside the rote ones"
        )
    judged = decide(
        transfer,
        rote,
        semantic,
        contrast=contrasts[1],
        interchange=outcomes[0],
        unbound=unbound,
        missing=missing_controls(states),
        doubts=doubts,
    )
    sections = {
        "transfer": [transfer, rote, semantic],
        "interchange": outcomes,
        "contrast": contrasts,
        "bound against unbound": [transfer, unbound],
    }
    return Verdict(name, phase, site, why_here, judged, sections)


def _probe_rows(table, checkpoint: str, direction: str, relation: str, split: str):
    """Rows of probes.csv by site, in site order: one checkpoint, direction and side, test prompts."""

    family = "rote" if direction == "rote->rote" else FAMILY
    wanted = {
        "checkpoint": checkpoint,
        "direction": direction,
        "relation": relation,
        "split": split,
        "family": family,
        "measure": MEASURE,
        "estimator": ESTIMATOR,
    }
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.sort_values("layer").drop_duplicates("site").set_index("site")


def _probe_evidence(name: str, rows, site: str) -> Evidence:
    """The number at a site, with its own p; without a site the best one, with p corrected for choosing it."""
    if not rows.value.notna().any():
        reasons = [r for r in rows.get("reason", []) if isinstance(r, str) and r]
        return Evidence(
            name, np.nan, reason=reasons[0] if reasons else "probes.csv has no such rows"
        )
    at = site if site in rows.index and np.isfinite(rows.value[site]) else rows.value.idxmax()
    row = rows.loc[at]
    # A ceiling took part in choosing the site.
    chosen = at != site or name in ("rote->rote", "semantic->semantic")
    # The larger of the nulls over subjects and over objects: the second also holds against two codes of few objects.
    columns = ("null_p_max", "null_p_objects_max") if chosen else ("null_p", "null_p_objects")
    p = float(np.fmax(*(row[column] for column in columns)))
    return Evidence(name, row.value, row.low, row.high, p, row.chance, int(row.n), at)


def _contrast_evidence(
    table, words: str, checkpoint: str, measure: str, split: str, site: str
) -> Evidence:
    some = table[
        (table.checkpoint == checkpoint) & (table.measure == measure) & (table.split == split)
    ]
    some = some[(some.family == FAMILY) & (some.relation == "bound")]
    row = some[some.site == site] if "site" in some else some[:0]
    if not len(row) or not np.isfinite(row.value.iloc[0]):
        reasons = [r for r in some.get("reason", []) if isinstance(r, str) and r]
        return Evidence(
            words, np.nan, site=site, reason=reasons[0] if reasons else "cka.csv has no such rows"
        )
    row = row.iloc[0]
    return Evidence(words, row.value, row.low, row.high, row.null_p, 0.0, int(row.n), site)


def _interchange(table, checkpoint: str, split: str) -> list[Evidence]:
    """The outcome shares, semantic -> rote at the last token, at the site before the answer can be read where the
    relation moved most.

    chance of the first is what the checkpoint it is compared with showed there at most; p is that of the gain over it,
    corrected for the sites before the answer. Without such a checkpoint there is no evidence.
    """
    if table is None:
        return [Evidence("interchange", np.nan, reason=NO_INTERCHANGE)]
    some = pick(
        table, relation="bound", direction=DIRECTION, vector=STATE, split=split, position="last"
    )
    here = some[some.checkpoint == checkpoint]
    moved = here[(here.measure == "share") & (here.outcome == "relation") & here.value.notna()]
    if not len(moved):
        return [
            Evidence(
                "interchange",
                np.nan,
                reason=f"interchange.csv has no patches of {checkpoint}, {DIRECTION}",
            )
        ]
    if moved.decodable_layer.isna().all():
        return [
            Evidence(
                "interchange",
                np.nan,
                reason="the lens reads the answer nowhere, so no site is known to be early",
            )
        ]
    moved = moved[moved.layer < moved.decodable_layer]
    if not len(moved):
        return [
            Evidence(
                "interchange",
                np.nan,
                reason="the answer can be read at every site that was patched",
            )
        ]
    best = moved.loc[moved.value.idxmax()]
    at = pick(some, site=best.site)
    gain = pick(at, checkpoint=checkpoint, measure="gain", outcome="relation")
    if not len(gain) or not np.isfinite(gain.null_p_max.iloc[0]):
        return [
            Evidence(
                "interchange", np.nan, reason="no checkpoint before it was patched, to compare with"
            )
        ]
    gain = gain.iloc[0]
    earlier = pick(at, checkpoint=gain.reference, measure="share", outcome="relation")
    levels = [v for v in (*earlier.value, *earlier.high) if np.isfinite(v)]
    found = []
    for outcome, name in OUTCOMES.items():
        row = pick(at, checkpoint=checkpoint, measure="share", outcome=outcome).iloc[0]
        main = outcome == "relation"
        p, chance = (
            (float(gain.null_p_max), max(levels, default=np.nan)) if main else (np.nan, np.nan)
        )
        where = f"{best.site} {best.position}"
        found.append(Evidence(name, row.value, row.low, row.high, p, chance, int(row.n), where))
    return found


def numbers(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Those that have a number."""
    return [e for e in evidence if not e.missing]
