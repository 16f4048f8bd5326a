"""One page about a run: what was done, what came out in words, curves to explore, pictures and their meaning.

    python -m figures.report runs/demo

Draws every figure whose table exists, then writes RUN_DIR/report.html: a single file that needs no network.
"""

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path

from figures import ablations, cka, curves, recall
from figures.redraw import MODULES, NoTables, draw_all
from figures.style import SIDES, NothingToDraw, Options, Stage, in_order, say_written, stages
from training.base.files import read_json, write_text
from training.runs.table_files import headline_split, optional_table, pick

CAPTIONS = {
    name: caption
    for module in (*MODULES, ablations, curves)
    for name, caption in module.CAPTIONS.items()
}
# What is claimed, in the order of proof, and where figures.cka.panel_data holds it: (panel, line).
CLAIMS = {
    "Probe transfer from rote to test prompts of other subjects": ("transfer", "main"),
    "Crossed contrast, own minus other relation": ("contrast", "main"),
    "Crossed contrast, shared answers partialled out": ("contrast", "partialled"),
    "Object kernel of test-prompt states, own object": ("object_kernel", "main"),
}
CONTROLS = {
    "near-miss": "near-miss prompts (another relation with the same kind of answer)",
    "unrelated": "unrelated prompts",
}
CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:#1c1c1c;max-width:1040px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}
h3{margin-bottom:.3rem}table{border-collapse:collapse;font-size:.9rem;margin:.8rem 0}
th,td{padding:.25rem .7rem;text-align:left;border-bottom:1px solid #e6e6e6;font-variant-numeric:tabular-nums}
img{width:100%;height:auto}figure{margin:1rem 0 2rem}figcaption,.small{font-size:.9rem;color:#444}
.wide{overflow-x:auto}summary{cursor:pointer}
"""


@dataclass(frozen=True)
class Finding:
    """One claim at one checkpoint's best site; level: chance; p: corrected for the best of so many sites."""

    claim: str
    side: str
    stage: Stage
    site: str
    value: float
    low: float
    high: float
    level: float
    p: float
    n: int
    sites: int

    @property
    def words(self) -> str:
        """Value and interval."""
        return with_interval(self.value, self.low, self.high)


# --- numbers in words ---------------------------------------------------------------------------------------


def with_interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """`0.72 [0.65, 0.79]`; without an interval just the value, without a value a dash."""
    shape = "+.2f" if sign else ".2f"
    if value != value:
        return "–"
    return f"{value:{shape}}" + (f" [{low:{shape}}, {high:{shape}}]" if low == low else "")


def headline(table) -> list[str]:
    """Sentences about behaviour: held-out subjects x test prompts and their controls, by the recall table."""
    split = headline_split(table)
    rows = pick(table, measure="generation", subset="all", split=split)
    who = "Held-out subjects" if split == "held-out" else "All subjects"
    sentences = []
    for side in SIDES:
        test = (
            pick(rows, relation=side, family="test")
            .drop_duplicates("checkpoint")
            .set_index("checkpoint")
        )
        parts = [
            f"{s.label} {_cell(test, s.checkpoint)}"
            for s in stages(table)
            if s.checkpoint in test.index
        ]
        if parts:
            kind = f"{side} relations" + (
                " (memorised, never given a meaning)" if side == "unbound" else ""
            )
            sentences.append(
                f"{who}, test prompts, {kind}: {'; '.join(parts)} (n = {int(test.n.max())} subjects, "
                f"{int(test.n_prompts.max())} prompts a relation; always answering the commonest object: "
                f"{test.majority.max():.2f})."
            )
    last = stages(table)[-1]
    at_last = (
        pick(rows, relation="bound", checkpoint=last.checkpoint)
        .drop_duplicates("family")
        .set_index("family")
    )
    controls = [
        f"{_cell(at_last, family)} at {words}"
        for family, words in CONTROLS.items()
        if family in at_last.index
    ]
    if controls:
        sentences.append(
            f"What should stay low: the {last.label} model gives the object of a bound relation at a rate of "
            f"{' and '.join(controls)}."
        )
    for row in pick(
        table, measure="generation_gain", split=split, checkpoint=last.checkpoint
    ).itertuples():
        sentences.append(
            f"Gain of phase 2 over the last memorized checkpoint, paired by subject, {row.relation} "
            f"relations: {with_interval(row.value, row.low, row.high, sign=True)}."
        )
    return sentences


def findings(data) -> list[Finding]:
    """The best site of each claim at each checkpoint, bound and unbound; data: figures.cka.panel_data."""
    found = []
    for claim, (panel, line) in CLAIMS.items():
        for side in SIDES:
            rows = pick(data, panel=panel, line=line, side=side).dropna(subset="value")
            for stage in stages(rows):
                here = pick(rows, checkpoint=stage.checkpoint)
                # A contrast is two-sided: the site that is farthest from 0.
                best = here.loc[(here.value.abs() if panel == "contrast" else here.value).idxmax()]
                level = best.chance if panel == "transfer" else 0.0
                n = int(best.n) if best.n == best.n else 0
                found.append(
                    Finding(
                        claim,
                        side,
                        stage,
                        str(best.site),
                        best.value,
                        best.low,
                        best.high,
                        level,
                        best.null_p_max,
                        n,
                        here.site.nunique(),
                    )
                )
    return found


def verdicts(found: list[Finding]) -> list[str]:
    """One sentence a claim: the last checkpoint's best site beside chance, the first's, the unbound."""
    sentences = []
    for claim in CLAIMS:
        bound = [f for f in found if f.claim == claim and f.side == "bound"]
        if not bound:
            continue
        first, last = bound[0], bound[-1]
        if last.p == last.p:
            side = "above" if last.value > last.level else "below"
            judged = f"{side} chance" if last.p < 0.05 else "not distinguishable from chance"
            judged += f" ({last.level:.2f}), p = {last.p:.3f} corrected for the choice among {last.sites} sites"
        else:
            judged = f"chance {last.level:.2f}, the best of {last.sites} sites with no p corrected for that choice"
        beside = (
            [f"the {first.stage.label} model {first.words} at its best site"]
            if first is not last
            else []
        )
        beside += [
            f"unbound relations of the {f.stage.label} model {f.words} at theirs"
            for f in found
            if (f.claim, f.side, f.stage) == (claim, "unbound", last.stage)
        ]
        tail = f" Beside it: {'; '.join(beside)}." if beside else ""
        sentences.append(
            f"{claim}: {last.stage.label} {last.words} at {last.site}, {judged}.{tail}"
        )
    return sentences


def not_identifiable(table, probes=None) -> list[str]:
    """Measures of the tables that have no value at all, with the reasons the tables give."""
    lines = []
    sources = (
        (probes, ("transfer_accuracy",)),
        (table, ("contrast", "contrast_partialled", "object_kernel")),
    )
    for source, measures in sources:
        for measure in measures if source is not None and "reason" in source else ():
            rows = pick(source, measure=measure)
            if len(rows) and rows.value.isna().all():
                reasons = "; ".join(dict.fromkeys(rows.reason.dropna()))
                lines.append(f"{measure}: no value here ({reasons or 'no reason given'}).")
    return lines


# --- the page -----------------------------------------------------------------------------------------------


def _table(header: list[str], rows: list[list[object]]) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(str(c))}</th>" for c in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(sentences: list[str]) -> str:
    """An HTML list; every entry is escaped."""
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>"


def _cell(rows, key: str) -> str:
    return with_interval(*rows.loc[key, ["value", "low", "high"]]) if key in rows.index else "–"


def run_section(run_dir: Path) -> str:
    """What was run, from run.json: model, facts, seed, phases with settings, commit, versions."""
    if not (run_dir / "run.json").exists():
        return "<p>These are tables about checkpoints made elsewhere: there is no run.json that says how.</p>"
    record = read_json(run_dir / "run.json")
    inputs = record.get("inputs", {})
    sizes = ", ".join(
        f"{name} {inputs[name]}" for name in ("subjects", "pool", "unbound") if name in inputs
    )
    facts = f"{inputs.get('facts', 'unknown')}" + (f" ({sizes})" if sizes else "")
    rows = [
        ["base model", record.get("model", "unknown")],
        ["facts", facts],
        ["seed", record.get("seed", "unknown")],
    ]
    for phase, entry in record.get("phases", {}).items():
        settings = ", ".join(
            f"{k} {v}" for k, v in entry.get("settings", {}).items() if k not in inputs
        )
        rows.append(
            [f"phase {phase}" + ("" if entry.get("complete") else " (not finished)"), settings]
        )
    rows.append(["commit", record.get("commit", "unknown")])
    details = [f"{k} {v}" for k, v in record.get("versions", {}).items()]
    details += [f"sha256 of {k}: {v}" for k, v in record.get("sha256", {}).items()]
    return (
        _table(["", ""], rows)
        + f"<details><summary>versions and hashes</summary>{_list(details)}</details>"
    )


def recall_section(table) -> str:
    """The headline in words, a table by prompt family, and test prompts relation by relation."""
    split = headline_split(table)
    rows = pick(table, measure="generation", subset="all", split=split)
    families = in_order(rows.family)
    named = [relation for relation in dict.fromkeys(rows.relation) if relation not in SIDES]
    by_family, by_relation = [], []
    for stage in stages(table):
        here = pick(rows, checkpoint=stage.checkpoint)
        for side in SIDES:
            cells = pick(here, relation=side).drop_duplicates("family").set_index("family")
            if len(cells):
                by_family.append(
                    [stage.label, side, *(_cell(cells, family) for family in families)]
                )
        cells = pick(here, family="test").drop_duplicates("relation").set_index("relation")
        by_relation.append([stage.label, *(_cell(cells, relation) for relation in named)])
    return (
        f"{_list(headline(table))}<p class='small'>Greedy answers, strict, {escape(split)} subjects: means "
        f"and 95% intervals over subjects.</p>{_table(['checkpoint', 'relations', *families], by_family)}"
        f"<p class='small'>The same at test prompts, relation by relation:</p>"
        f"{_table(['checkpoint', *named], by_relation)}"
    )


def damage_section(table) -> str:
    """What training cost, checkpoint by checkpoint: known facts of the pretraining world, or perplexity of English."""
    words = {
        "known_facts": "Facts of its pretraining world that the model still answers, with the interval over people.",
        "contradicted_facts": "Of the facts that it was taught otherwise, those still answered as its world has them.",
        "perplexity": "Perplexity of ordinary English written for the purpose (1 is certainty), with the interval over "
        "passages.",
    }
    measures = [m for m in words if m in set(table.measure)]
    by_stage = [
        (stage.label, pick(table, checkpoint=stage.checkpoint).set_index("measure"))
        for stage in stages(table)
    ]
    rows = [[label, *(_cell(cells, measure) for measure in measures)] for label, cells in by_stage]
    said = "".join(f"<p class='small'>{escape(words[m])}</p>" for m in measures)
    header = ["checkpoint", *(m.replace("_", " ") for m in measures)]
    return f"<h3>What training cost</h3>{said}{_table(header, rows)}"


def inside_section(table, probes) -> str:
    """Verdicts on transfer, contrast and object kernel in words, then the numbers behind them."""
    try:
        found = findings(cka.panel_data(table, probes))
    except NothingToDraw:
        found = []
    rows = [
        [
            f.claim,
            f.side,
            f.stage.label,
            f.site,
            f.words,
            f"{f.level:.2f}",
            f"{f.p:.3f}" if f.p == f.p else "–",
            f.n or "–",
        ]
        for f in found
    ]
    header = [
        "claim",
        "relations",
        "checkpoint",
        "best site",
        "value",
        "chance",
        "p, best of all sites",
        "n",
    ]
    note = (
        "In the order of proof: transfer across subjects first. Best sites were chosen after looking; only "
        "the corrected p accounts for that. This is one run, so one seed: intervals are over its subjects."
    )
    return (
        f"{_list(verdicts(found) + not_identifiable(table, probes))}<p class='small'>{note}</p>"
        f"<details><summary>all checkpoints</summary>{_table(header, rows)}</details>"
    )


def interactive_section(figures: list) -> str:
    """Plotly figures as page parts, with plotly.js once."""
    from plotly.io import to_html

    look = {"displaylogo": False, "responsive": True}
    parts = [
        to_html(f, full_html=False, include_plotlyjs=i == 0, config=look)
        for i, f in enumerate(figures)
    ]
    advice = "<p class='small'>Hover for numbers; click a checkpoint in the legend to hide it.</p>"
    return f"<h2>Curves to explore</h2>{advice}{''.join(parts)}" if parts else ""


def pictures_section(paths: list[Path]) -> str:
    """The PNG pictures, embedded, each with how to read it and what it does not show."""
    parts = []
    for path in (p for p in paths if p.suffix == ".png"):
        title, reading, limits = CAPTIONS[path.stem]
        data = b64encode(path.read_bytes()).decode()
        parts.append(
            f'<figure id="{path.stem}"><h3>{title}</h3><img alt="{title}" src="data:image/png;base64,{data}">'
            f"<figcaption><b>How to read it.</b> {reading} <b>What it does not show.</b> {limits}"
            f"</figcaption></figure>"
        )
    return f"<h2>Pictures</h2>{''.join(parts)}" if parts else ""


def page(run_dir: Path, paths: list[Path], skipped: list[str]) -> str:
    """The whole page as HTML. Everything that comes from the run is escaped."""
    names = sorted(path.stem for path in (run_dir / "tables").glob("*.csv"))
    tables = {name: optional_table(run_dir, name) for name in names}
    recalled, similar, probed = (tables.get(name) for name in ("recall", "cka", "probes"))
    command = "<p>Not measured yet: <code>python -m {} {}</code></p>"
    explore, behaviour, inside = [], command.format("training.recall", escape(str(run_dir))), ""
    if recalled is not None:
        behaviour = recall_section(recalled)
        explore.append((recall.interactive, (recalled,)))
    if tables.get("damage") is not None:
        behaviour += damage_section(tables["damage"])
    if similar is None and probed is None:
        inside = command.format("analysis.cka", escape(str(run_dir)))
    else:
        inside = inside_section(similar, probed)
        explore.append((cka.interactive, (similar, probed)))
    curves = []
    for make, given in explore:
        try:
            curves.append(make(*given))
        except NothingToDraw as reason:
            skipped = [*skipped, str(reason)]
    listed = _table(
        ["table", "rows"],
        [[f"tables/{name}.csv", f"{len(table):,}"] for name, table in tables.items()],
    )
    left_out = f"<details><summary>not drawn</summary>{_list(skipped)}</details>" if skipped else ""
    name = escape(run_dir.resolve().name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{name}: from rote to meaning</title>'
        f"<style>{CSS}</style></head><body><h1>{name}</h1>"
        f"<p>Did what this model learned by rote become meaning, and where inside?</p>"
        f"<h2>What was run</h2>{run_section(run_dir)}<h2>What it recalls</h2>{behaviour}"
        f"<h2>What happened inside</h2>{inside}{interactive_section(curves)}{pictures_section(paths)}"
        f"<h2>Tables</h2>{listed}{left_out}</body></html>\n"
    )


def main(options: Options) -> Path:
    """Draw all figures whose tables exist, write report.html, say so; returns its path. Raises NoTables."""
    run_dir = options.run_dir
    if not list((run_dir / "tables").glob("*.csv")):
        raise NoTables(
            f"{run_dir} holds no tables/*.csv to report on. Measure: python -m training.recall {run_dir}"
        )
    paths, skipped = draw_all(run_dir, run_dir / "figures")
    for line in skipped:
        print(f"skipped {line}")
    report = run_dir / "report.html"
    write_text(report, page(run_dir, paths, skipped))
    say_written([*(path for path in paths if path.suffix == ".png"), report])
    return report


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
