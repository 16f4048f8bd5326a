"""One page about a run: what was done and found in words, curves to explore, explained pictures.

    python -m figures.report runs/demo

Draws every figure whose table exists, then writes RUN_DIR/report.html, which needs no network.
"""

from base64 import b64encode
from contextlib import suppress
from html import escape
from itertools import product
from pathlib import Path

from figures import across, cka, recall, redraw
from figures.recall import STRICT
from figures.style import SIDES, NothingToDraw, Options, in_order, present, record_of, stages
from training.base.console import run_command
from training.base.errors import UserError
from training.base.files import write_text
from training.base.words import p_words, span, two_places
from training.runs.table_files import headline_split, optional_table, pick

CAPTIONS = {name: text for m in (*redraw.MODULES, across) for name, text in m.CAPTIONS.items()}
# What is claimed, in the order of proof, and where cka.panel_data holds it: (panel, line).
CLAIMS = {
    "Probe transfer from rote to test prompts of other subjects": ("transfer", "main"),
    "Crossed contrast, own minus other relation": ("contrast", "main"),
    "Crossed contrast, shared answers partialled out": ("contrast", "partialled"),
    "Object kernel of test-prompt states, own object": ("object_kernel", "main"),
}
MEASURES = ("transfer_accuracy", "contrast", "contrast_partialled", "object_kernel")
COST = {
    "known_facts": "Known facts: those of its pretraining world that the model still answers.",
    "contradicted_facts": "Contradicted facts: of those it was taught otherwise, the share it "
    "still answers as its world has them.",
    "perplexity": "Perplexity of ordinary English (1 is certainty), the interval over passages.",
}
BEST = (
    "In the order of proof. Best sites were chosen after looking; only the corrected p accounts "
    "for that. This is one run, so one seed: intervals are over its subjects."
)
CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:#1c1c1c;max-width:1040px;margin:2rem auto}
body{padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}
h3{margin-bottom:.3rem}table{border-collapse:collapse;font-size:.9rem;margin:.8rem 0}
td,th{padding:.25rem .7rem;text-align:left;border-bottom:1px solid #e6e6e6}
td,th{font-variant-numeric:tabular-nums}.wide{overflow-x:auto}summary{cursor:pointer}
img{width:100%;height:auto}figure{margin:1rem 0 2rem}figcaption,.small{font-size:.9rem;color:#444}
"""


def _cells(rows, key: str) -> dict[str, str]:
    """Value and interval in words, by the column `key`; a name without a value is left out."""
    words = {getattr(r, key): span(r) for r in rows.drop_duplicates(key).itertuples()}
    return {name: text for name, text in words.items() if text}


def headline(table) -> list[str]:
    """What the numbers of recall_section are, and what phase 2 gained."""
    split = headline_split(table)
    test = pick(table, **STRICT, split=split, family="test", relation=SIDES)
    chance = f"always answering the commonest object: {two_places(test.majority.max())}"
    count = f"n = {test.n.max():.0f} subjects, {test.n_prompts.max():.0f} prompts a relation"
    last = stages(table)[-1].checkpoint
    said = [
        f"Greedy answers, strict, {split} subjects: means and 95% intervals over subjects (test "
        f"prompts: {count}; {chance}). Near-miss and unrelated prompts should stay low."
    ]
    for row in pick(table, measure="generation_gain", split=split, checkpoint=last).itertuples():
        gain = f"{row.relation} relations: {span(row, sign=True)}"
        said.append(f"Gain of phase 2 over the last memorized checkpoint, by subject, {gain}.")
    return said


def findings(data):
    """The best site of each claim, side and checkpoint: rows of cka.panel_data with claim, label
    (of the checkpoint), level (chance) and sites, the number of them."""
    import pandas as pd

    found, labels = [], {stage.checkpoint: stage.label for stage in stages(data)}
    for claim, (panel, line) in CLAIMS.items():
        rows = pick(data, panel=panel, line=line).dropna(subset="value")
        by_curve = rows.groupby(["column", "checkpoint"], sort=False)
        level = rows.chance if panel == "transfer" else 0.0
        rows = rows.assign(claim=claim, level=level, sites=by_curve.site.transform("nunique"))
        # A contrast is two-sided: the site that is farthest from 0.
        height = rows.value.abs() if panel == "contrast" else rows.value
        best = height.groupby([rows.column, rows.checkpoint], sort=False).idxmax()
        found.append(rows.loc[best].assign(label=rows.checkpoint.map(labels)))
    return pd.concat(found)


def verdicts(found) -> list[str]:
    """One sentence per claim: the last checkpoint's best site and what to compare it with."""
    sentences = []
    for claim, rows in found.groupby("claim", sort=False):
        bound = list(pick(rows, column="bound").itertuples())
        if not bound:
            continue
        last, chance = bound[-1], f"chance ({two_places(bound[-1].level)})"
        compared = [f"the {f.label} model {span(f)} at its best site" for f in bound[:-1][:1]]
        for other in pick(rows, column="unbound", checkpoint=last.checkpoint).itertuples():
            compared.append(f"unbound relations of the same model {span(other)} at theirs")
        if p := p_words(last.null_p_max):
            side = "above" if last.value > last.level else "below"
            side = side if last.null_p_max < 0.05 else "not distinguishable from"
            judged = f"{side} {chance}, {p} corrected for the choice among {last.sites} sites"
        else:
            judged = f"{chance}, the best of {last.sites} sites with no p corrected for that choice"
        tail = f" For comparison: {'; '.join(compared)}." if compared else ""
        sentences.append(f"{claim}: {last.label} {span(last)} at {last.site}, {judged}.{tail}")
    return sentences


def not_identifiable(*tables) -> list[str]:
    """Measures of the tables that have no value at all, with the reasons the tables give."""
    lines = []
    for table, measure in product(tables, MEASURES):
        rows = pick(table, measure=measure)
        if len(rows) and rows.value.isna().all():
            reasons = "; ".join(dict.fromkeys(rows.reason.dropna()))
            lines.append(f"{measure}: no value here ({reasons or 'no reason given'}).")
    return lines


def _table(header: list[str], rows: list[list[object]]) -> str:
    """An HTML table; every cell is escaped."""
    lines = []
    for i, cells in enumerate([header, *rows]):
        tag = "td" if i else "th"
        lines.append("".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells))
    return f'<div class="wide"><table><tr>{"</tr><tr>".join(lines)}</tr></table></div>'


def _list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>"


def _small(text: str) -> str:
    return f"<p class='small'>{escape(text)}</p>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def run_section(run_dir: Path) -> str:
    """What was run, from run.json: model, facts, seed, phases with settings, commit, versions."""
    record = record_of(run_dir)
    if not record:
        return "<p>These tables are about checkpoints made elsewhere: no run.json says how.</p>"
    inputs = record.get("inputs", {})
    facts = [f"{k} {v}" for k, v in inputs.items() if k in ("facts", "subjects", "pool", "unbound")]
    rows = [["base model", record.get("model", "")], ["inputs", ", ".join(facts)]]
    rows.append(["seed", record.get("seed", "")])
    for phase, entry in record.get("phases", {}).items():
        settings = [f"{k} {v}" for k, v in entry.get("settings", {}).items() if k not in inputs]
        state = "" if entry.get("complete") else " (not finished)"
        rows.append([f"phase {phase}{state}", ", ".join(settings)])
    rows.append(["commit", record.get("commit", "")])
    details = [f"{k} {v}" for k, v in record.get("versions", {}).items()]
    details += [f"sha256 of {k}: {v}" for k, v in record.get("sha256", {}).items()]
    return _table(["", ""], rows) + _details("versions and hashes", _list(details))


def _by_checkpoint(rows, key: str, names: list[str]) -> list[list[str]]:
    """A row for each checkpoint: its label, then the value of each name in the column `key`."""
    table = []
    for stage in stages(rows):
        cells = _cells(pick(rows, checkpoint=stage.checkpoint), key)
        table.append([stage.label, *(cells.get(name, "–") for name in names)])
    return table


def recall_section(table) -> str:
    """A table by prompt family for bound and unbound ones, and one relation by relation."""
    split = headline_split(table)
    rows = pick(table, **STRICT, split=split)
    families, named = in_order(rows.family), [r for r in rows.relation.unique() if r not in SIDES]
    parts = [_list(headline(table))]
    for side in present(SIDES, rows.relation):
        cells = _by_checkpoint(pick(rows, relation=side), "family", families)
        parts.append(_table([f"{side} relations", *families], cells))
    parts.append(_small("The same at test prompts, relation by relation:"))
    cells = _by_checkpoint(pick(rows, family="test"), "relation", named)
    return "".join(parts) + _table(["checkpoint", *named], cells)


def damage_section(table) -> str:
    """What training cost at each checkpoint: known facts of its world, or perplexity of English."""
    measures = present(COST, table.measure)
    header = ["checkpoint", *(m.replace("_", " ") for m in measures)]
    said = "".join(_small(COST[m]) for m in measures)
    numbers = _table(header, _by_checkpoint(table, "measure", measures))
    return f"<h3>What training cost</h3>{said}{numbers}"


def inside_section(table, probes) -> str:
    """Verdicts on transfer, contrast and object kernel in words, then the numbers behind them."""
    said, rows = not_identifiable(*(t for t in (probes, table) if t is not None)), []
    with suppress(NothingToDraw):
        found = findings(cka.panel_data(table, probes))
        said = verdicts(found) + said
        for f in found.itertuples():
            numbers = span(f), two_places(f.level), p_words(f.null_p_max) or "–", f"{f.n:.0f}"
            rows.append([f.claim, f.column, f.label, f.site, *numbers])
    header = ["claim", "relations", "checkpoint", "best site", "value", "chance"]
    numbers = _table([*header, "best of all sites", "n"], rows)
    return _list(said) + _small(BEST) + _details("all checkpoints", numbers)


def interactive_section(figures: list) -> str:
    """Plotly figures as page parts, with plotly.js once."""
    from plotly.io import to_html

    look = {"config": {"displaylogo": False, "responsive": True}, "full_html": False}
    parts = [to_html(f, include_plotlyjs=i == 0, **look) for i, f in enumerate(figures)]
    advice = _small("Hover for numbers; click a checkpoint in the legend to hide it.")
    return f"<h2>Curves to explore</h2>{advice}{''.join(parts)}" if parts else ""


def pictures_section(paths: list[Path]) -> str:
    """The PNG pictures, embedded, each with how to read it and what it does not show."""
    parts = []
    for path in (p for p in paths if p.suffix == ".png"):
        reading, limits = CAPTIONS[path.stem]
        data = b64encode(path.read_bytes()).decode()
        parts.append(
            f'<figure id="{path.stem}"><img alt="{path.stem}" src="data:image/png;base64,{data}">'
            f"<figcaption><b>How to read it.</b> {reading} <b>What it does not show.</b> {limits}"
            f"</figcaption></figure>"
        )
    return f"<h2>Pictures</h2>{''.join(parts)}" if parts else ""


def page(run_dir: Path, paths: list[Path], skipped: list[str]) -> str:
    """The whole page as HTML. Everything that comes from the run is escaped."""
    tables = {name: optional_table(run_dir, name) for name in redraw.table_names(run_dir)}
    recalled, similar, probed = (tables.get(name) for name in ("recall", "cka", "probes"))
    command = f"<p>Not measured yet: <code>python -m {{}} {escape(str(run_dir))}</code></p>"
    behaviour, inside = command.format("training.recall"), command.format("analysis.cka")
    curves = []
    if recalled is not None:
        behaviour = recall_section(recalled)
        with suppress(NothingToDraw):
            curves.append(recall.explore(recalled))
    if "damage" in tables:
        behaviour += damage_section(tables["damage"])
    if similar is not None or probed is not None:
        inside = inside_section(similar, probed)
        with suppress(NothingToDraw):
            curves.append(cka.CHART.explore(cka.panel_data(similar, probed)))
    listed = [[f"tables/{name}.csv", f"{len(table):,}"] for name, table in tables.items()]
    left_out = _details("not drawn", _list(skipped)) if skipped else ""
    name = escape(run_dir.resolve().name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{name}: from rote to meaning'
        f"</title><style>{CSS}</style></head><body><h1>{name}</h1>"
        f"<p>Did what this model learned by rote become meaning, and where inside?</p>"
        f"<h2>What was run</h2>{run_section(run_dir)}<h2>What it recalls</h2>{behaviour}"
        f"<h2>What happened inside</h2>{inside}{interactive_section(curves)}"
        f"{pictures_section(paths)}<h2>Tables</h2>{_table(['table', 'rows'], listed)}{left_out}"
        f"</body></html>\n"
    )


def main(options: Options) -> Path:
    """Draw all figures whose tables exist, write report.html; returns its path."""
    run_dir = options.run_dir
    if not redraw.table_names(run_dir):
        measure = f"python -m training.recall {run_dir}"
        raise UserError(f"{run_dir} holds no tables/*.csv to report on. Measure: {measure}")
    paths, skipped = redraw.draw_all(run_dir, run_dir / "figures")
    for line in skipped:
        print(f"skipped {line}")
    report = run_dir / "report.html"
    write_text(report, page(run_dir, paths, skipped))
    drawn = [path for path in paths if path.suffix == ".png"]
    print(f"wrote {', '.join(map(str, [*drawn, report]))}")
    return report


if __name__ == "__main__":
    run_command(main, Options, __doc__)
