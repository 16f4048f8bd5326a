"""tables/verdict.csv: every checkpoint's evidence, the judgement that follows, and a page of both.

The site is not chosen by the number judged. Further up, every finished answer looks alike.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import NotIdentifiable
from analysis.measures.judgement import HALF, LEVEL, Evidence, Judgement, decide
from analysis.patching.trials import STATE
from analysis.tables.probes import ESTIMATOR, MEASURE
from probing.states import Design
from training.base.words import p_words, span, two_places
from training.runs.table_files import pick, write_table

COLUMNS = [
    *("checkpoint", "phase", "family", "section", "measure", "site", "value", "low", "high"),
    *("null_p", "chance", "n", "reason", "label", "sure"),
]
FAMILY = "test"


@dataclass(frozen=True, eq=False)
class Source:
    """Evidence: its name, and the rows of a table that hold it; ceiling: it chose the site."""

    name: str
    table: str
    rows: Mapping[str, str]
    ceiling: bool = False


PROBE = {"relation": "bound", "family": FAMILY, "measure": MEASURE, "estimator": ESTIMATOR}
CONTRAST = {"relation": "bound", "family": FAMILY}
CROSS = PROBE | {"direction": "rote->semantic"}
ROTE = PROBE | {"direction": "rote->rote", "family": "rote"}
SAME = PROBE | {"direction": "semantic->semantic"}
TRANSFERS = (
    Source("rote->semantic", "probes", CROSS),
    Source("rote->rote", "probes", ROTE, ceiling=True),
    Source("semantic->semantic", "probes", SAME, ceiling=True),
)
UNBOUND = Source("transfer of unbound relations", "probes", CROSS | {"relation": "unbound"})
CONTRASTS = (
    Source("crossed contrast", "cka", CONTRAST | {"measure": "contrast"}),
    Source("answer-partialled contrast", "cka", CONTRAST | {"measure": "contrast_partialled"}),
)
# A rote state put into a semantic prompt early only writes the key token there, which a model with
# two separate codes answers too; the other way round takes a semantic state that does its work.
PATCHED = {"relation": "bound", "direction": "semantic->rote", "vector": STATE, "position": "last"}
# Outcome -> what the page calls it; the first alone is tested.
OUTCOMES = {
    "relation": "interchange",
    "answer": "answer moved",
    "subject": "subject moved",
    "nothing": "unchanged",
}
NO_INTERCHANGE = "there is no tables/interchange.csv"
NOT_HELD_OUT = (
    "no subjects were held out, so the answers to the prompts may have been trained beside the "
    "rote ones"
)
# Section of the table -> title on the page, in the order of proof.
SECTIONS = {
    "transfer": "transfer: object probes fitted on some subjects, scored on others",
    "interchange": "factorial interchange, semantic -> rote (beside the checkpoint before)",
    "contrast": "contrast of CKA, same relation minus other relation (two codes make one too)",
    "bound against unbound": "bound against unbound relations: transfer rote->semantic",
}


@dataclass(frozen=True)
class Verdict:
    """The judgement of one checkpoint with its evidence by section."""

    checkpoint: str
    phase: str
    site: str
    why_here: str
    judgement: Judgement
    sections: dict[str, list[Evidence]]


def verdict_table(design: Design, **tables):
    """Write tables/verdict.csv of a run; return it with the verdicts that `page` prints.

        run = Run.open("runs/demo")
        tables = {name: run.table(name) for name in ("probes", "cka", "interchange")}
        table, found = verdict_table(Design.of(run), **tables)

    One row per checkpoint, section and evidence; then one of section "judgement" with label, sure
    and the measure share: of what both kinds of states hold, how much transfers. See COLUMNS.
    """
    import pandas as pd

    found = verdicts(design, **tables)
    table = pd.DataFrame([row for verdict in found for row in _rows(verdict)])[COLUMNS]
    write_table(design.run, "verdict", table)
    return table, found


def verdicts(design: Design, **tables) -> list[Verdict]:
    return [_verdict(design, tables, checkpoint) for checkpoint in design.checkpoints]


def missing_controls(design: Design) -> list[str]:
    """The controls without which nothing is claimed, in words."""
    if len(design.bound) < 2:
        bound = f"{len(design.bound)} bound relation(s)"
        return [f"{bound}, so an answer cannot be told from what the name brings to mind"]
    if not design.shared_subjects:
        return ["the relations have different subjects, so name and meaning cannot be told apart"]
    return []


def _verdict(design: Design, tables: Mapping[str, Any], checkpoint) -> Verdict:
    here = {"checkpoint": checkpoint.name, "split": design.splits[0]}
    by_site = {}
    for source in (*TRANSFERS, UNBOUND, *CONTRASTS):
        rows = pick(tables[source.table], **here, **source.rows)
        by_site[source] = rows.drop_duplicates("site").set_index("site")
    site, why_here = "", "nothing could be scored"
    if all(by_site[source].value.notna().any() for source in TRANSFERS):
        site, why_here = site_to_judge(*(by_site[source] for source in TRANSFERS[1:]))
    transfers = [_evidence(source, by_site[source], site) for source in TRANSFERS]
    at = transfers[0].site
    unbound = _evidence(UNBOUND, by_site[UNBOUND], site or at)
    if not design.unbound:
        reason = "every relation was given a meaning, so drift is not excluded"
        unbound = Evidence(UNBOUND.name, np.nan, reason=reason)
    contrasts = [_evidence(source, by_site[source], at) for source in CONTRASTS]
    outcomes = _interchange(tables.get("interchange"), here)
    doubts = [] if here["split"] == "held-out" else [NOT_HELD_OUT]
    controls = {"contrast": contrasts[1], "interchange": outcomes[0], "unbound": unbound}
    missing = missing_controls(design)
    judged = decide(*transfers, **controls, missing=missing, doubts=doubts)
    evidence = (transfers, outcomes, contrasts, [transfers[0], unbound])
    sections = dict(zip(SECTIONS, evidence, strict=True))
    return Verdict(checkpoint.name, checkpoint.phase, site, why_here, judged, sections)


def site_to_judge(rote, semantic) -> tuple[str, str]:
    """(site, why this one), or ("", why there is none).

    rote, semantic: rote->rote and semantic->semantic rows by site. The first site where both are
    above chance (corrected for the number of sites) and at least half as far as at their best.
    """
    held = []
    for table in (rote, semantic):
        gain = table.value - table.chance
        held.append((table.null_p_max <= LEVEL) & (gain >= HALF * gain.max()))
    holds = held[0] & held[1].reindex(held[0].index, fill_value=False)
    if holds.any():
        return holds.idxmax(), "the first site where both kinds of states hold the answer"
    return "", "at no site do both kinds of states hold the answer: each at its own best site"


def _evidence(source: Source, rows, site: str) -> Evidence:
    """The number of a source at a site, or at its best site, or why there is none; rows by site."""
    values, probed = rows.value.dropna(), source.table == "probes"
    if site not in values.index and not (probed and len(values)):
        reasons = [r for r in rows.get("reason", []) if isinstance(r, str) and r]
        reason = reasons[0] if reasons else f"{source.table}.csv has no such rows"
        return Evidence(source.name, np.nan, site="" if probed else site, reason=reason)
    at = site if site in values.index else values.idxmax()
    row = rows.loc[at]
    corrected = "_max" if at != site or source.ceiling else ""
    # The larger of two nulls: that over objects also holds against two codes of few objects.
    nulls = (row.get(f"{name}{corrected}", np.nan) for name in ("null_p", "null_p_objects"))
    p, chance = float(np.fmax(*nulls)), row.chance if probed else 0.0
    return Evidence(source.name, row.value, row.low, row.high, p, chance, int(row.n), at)


def _interchange(table, here: Mapping[str, str]) -> list[Evidence]:
    """The outcome shares at the site before the answer can be read where the relation moved most.

    chance of the first: what the checkpoint it is compared with showed there at most; p: of the
    gain over it, corrected for the early sites.
    """
    try:
        best = _best_patch(table, here)
        at = pick(table, split=here["split"], site=best.site, **PATCHED)
        now = pick(at, checkpoint=here["checkpoint"])
        gain = pick(now, measure="gain", outcome="relation").dropna(subset="null_p_max")
        if not len(gain):
            raise NotIdentifiable("no checkpoint before it was patched, to compare with")
    except NotIdentifiable as reason:
        return [Evidence("interchange", np.nan, reason=str(reason))]
    reference, p = gain.reference.iloc[0], float(gain.null_p_max.iloc[0])
    earlier = pick(at, checkpoint=reference, measure="share", outcome="relation")
    found, null = [], (p, earlier[["value", "high"]].max().max())
    for outcome, name in OUTCOMES.items():
        row = pick(now, measure="share", outcome=outcome).iloc[0]
        where = f"{best.site} {best.position}"
        found.append(Evidence(name, row.value, row.low, row.high, *null, int(row.n), where))
        null = np.nan, np.nan
    return found


def _best_patch(table, here: Mapping[str, str]):
    """The row of the early site where the relation moved most. Raises NotIdentifiable."""
    if table is None:
        raise NotIdentifiable(NO_INTERCHANGE)
    moved = pick(table, measure="share", outcome="relation", **here, **PATCHED)
    moved = moved.dropna(subset="value")
    if not len(moved):
        where = f"{here['checkpoint']}, {PATCHED['direction']}"
        raise NotIdentifiable(f"interchange.csv has no patches of {where}")
    if moved.decodable_layer.isna().all():
        raise NotIdentifiable("the lens reads the answer nowhere, so no site is known to be early")
    early = moved[moved.layer < moved.decodable_layer]
    if not len(early):
        raise NotIdentifiable("the answer can be read at every site that was patched")
    return early.loc[early.value.idxmax()]


def _rows(verdict: Verdict) -> Iterator[dict]:
    common = {"checkpoint": verdict.checkpoint, "phase": verdict.phase, "family": FAMILY}
    for section, evidence in verdict.sections.items():
        for part in evidence:
            named = {"section": section, "measure": part.name, "null_p": part.p}
            yield {**common, **asdict(part), **named}
    judged = verdict.judgement
    share = {"section": "judgement", "measure": "share", "value": judged.share}
    yield {**common, **vars(judged), **share, "reason": judged.why, "site": verdict.site}


def page(found: list[Verdict], design: Design) -> list[str]:
    """The evidence in the order of proof, then the judgements, in lines."""
    last, (bound, unbound) = found[-1], map(", ".join, (design.bound, design.unbound))
    about = f"bound relations {bound}; unbound {unbound or 'none'}"
    lines = [
        f"verdict: {design.splits[0]} subjects, test prompts; {about}",
        f"{last.checkpoint} judged at: {last.site or '-'} ({last.why_here})",
    ]
    said: set[str] = set()
    for number, (section, title) in enumerate(SECTIONS.items(), 1):
        lines.append(f"{number} {title}")
        lines += [_section_line(verdict, section, said) for verdict in found]
    lines.append("judgement")
    lines += [f"  {verdict.checkpoint:<27} {verdict.judgement}" for verdict in found]
    lines += [f"  not identifiable here: {reason}" for reason in missing_controls(design)]
    return lines


def _section_line(verdict: Verdict, section: str, said: set[str]) -> str:
    """The numbers of a checkpoint; a reason for all to be missing is added to `said`, once."""
    evidence = verdict.sections[section]
    names = ["bound", "unbound"] if "unbound" in section else [part.name for part in evidence]
    cells = [f"{name} {_cell(part)}" for name, part in zip(names, evidence, strict=True)]
    if all(part.missing for part in evidence):
        reason = "   ".join(dict.fromkeys(part.reason for part in evidence))
        cells = ["no number: " + ("as above" if reason in said else reason)]
        said.add(reason)
    site = next((f"{part.site}  " for part in evidence if part.site), "")
    return f"  {verdict.checkpoint:<27} {site}{'   '.join(cells)}"


def _cell(evidence: Evidence) -> str:
    """`.42 [.31, .53] chance .06 p .005`, or why there is none."""
    if evidence.missing:
        return f"- ({evidence.reason})"
    chance = two_places(evidence.chance) if evidence.chance else ""
    parts = (span(evidence), f"chance {chance}" if chance else "", p_words(evidence.p))
    return " ".join(filter(None, parts))
