"""One page about a run: what was done and found in words, curves to explore, explained pictures.

    python -m figures.report runs/demo

Draws every figure whose table exists, then writes RUN_DIR/report.html, which needs no network.
"""

from base64 import b64encode
from contextlib import suppress
from html import escape
from pathlib import Path

from figures import across, cka, recall, redraw
from figures.style import SIDES, NothingToDraw, Options, in_order, present, say_written, stages
from training.base.console import run_command
from training.base.errors import UserError
from training.base.files import read_json, write_text
from training.runs.table_files import headline_split, optional_table, pick

CAPTIONS = {name: text for m in (*redraw.MODULES, across) for name, text in m.CAPTIONS.items()}
# What is claimed, in the order of proof, and where cka.panel_data holds it: (panel, line).
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
COST = {
    "known_facts": "Facts of its pretraining world that the model still answers, with the interval "
    "over people.",
    "contradicted_facts": "Of the facts it was taught otherwise, those it still answers as its "
    "world has them.",
    "perplexity": "Perplexity of ordinary English written for the purpose (1 is certainty), with "
    "the interval over passages.",
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


# --- numbers in words ---------------------------------------------------------------------------


def with_interval(row, *, sign: bool = False) -> str:
    """`0.72 [0.65, 0.79]` from value, low and high; no value: a dash; no interval: the value."""
    shape = "+.2f" if sign else ".2f"
    if row.value != row.value:
        return "–"
    interval = f" [{row.low:{shape}}, {row.high:{shape}}]" if row.low == row.low else ""
    return f"{row.value:{shape}}{interval}"


def _cells(rows, key: str) -> dict[str, str]:
    """Value and interval in words, by the column `key`."""
    return {getattr(r, key): with_interval(r) for r in rows.drop_duplicates(key).itertuples()}


def headline(table) -> list[str]:
    """Sentences about behaviour: held-out subjects x test prompts and their controls."""
    split = headline_split(table)
    rows = pick(table, measure="generation", subset="all", split=split)
    who = "Held-out subjects" if split == "held-out" else "All subjects"
    shown, sentences = stages(table), []
    for side, remark in zip(SIDES, ("", " (memorised, never given a meaning)"), strict=True):
        test = pick(rows, relation=side, family="test")
        cells = _cells(test, "checkpoint")
        parts = [f"{s.label} {cells[s.checkpoint]}" for s in shown if s.checkpoint in cells]
        if parts:
            sentences.append(
                f"{who}, test prompts, {side} relations{remark}: {'; '.join(parts)} "
                f"(n = {int(test.n.max())} subjects, {int(test.n_prompts.max())} prompts a "
                f"relation; always answering the commonest object: {test.majority.max():.2f})."
            )
    last = shown[-1]
    cells = _cells(pick(rows, relation="bound", checkpoint=last.checkpoint), "family")
    controls = [f"{cells[f]} at {words}" for f, words in CONTROLS.items() if f in cells]
    if controls:
        sentences.append(
            f"What should stay low: the {last.label} model gives the object of a bound relation "
            f"at a rate of {' and '.join(controls)}."
        )
    gains = pick(table, measure="generation_gain", split=split, checkpoint=last.checkpoint)
    return sentences + [
        f"Gain of phase 2 over the last memorized checkpoint, paired by subject, {row.relation} "
        f"relations: {with_interval(row, sign=True)}."
        for row in gains.itertuples()
    ]


def findings(data):
    """The best site of each claim at each checkpoint and side: rows of cka.panel_data with claim,
    label (of the checkpoint), words (value and interval), level (chance) and number of sites."""
    import pandas as pd

    found = []
    for claim, (panel, line) in CLAIMS.items():
        for side in SIDES:
            rows = pick(data, panel=panel, line=line, column=side).dropna(subset="value")
            for stage in stages(rows):
                here = pick(rows, checkpoint=stage.checkpoint)
                # A contrast is two-sided: the site that is farthest from 0.
                best = here.loc[(here.value.abs() if panel == "contrast" else here.value).idxmax()]
                level = best.chance if panel == "transfer" else 0.0
                more = {"claim": claim, "label": stage.label, "words": with_interval(best)}
                found.append({**best, **more, "level": level, "sites": here.site.nunique()})
    return pd.DataFrame(found, columns=None if found else ["claim", "column"])


def verdicts(found) -> list[str]:
    """One sentence per claim: the last checkpoint's best site and what to compare it with."""
    sentences = []
    for claim, rows in found.groupby("claim", sort=False):
        bound = list(pick(rows, column="bound").itertuples())
        if not bound:
            continue
        first, last = bound[0], bound[-1]
        if last.null_p_max == last.null_p_max:
            side = "above" if last.value > last.level else "below"
            sure = last.null_p_max < 0.05
            judged = (
                f"{side if sure else 'not distinguishable from'} chance ({last.level:.2f}), p = "
            )
            judged += f"{last.null_p_max:.3f} corrected for the choice among {last.sites} sites"
        else:
            judged = f"chance {last.level:.2f}, the best of {last.sites} sites with no p corrected"
            judged += " for that choice"
        compared = []
        if first is not last:
            compared.append(f"the {first.label} model {first.words} at its best site")
        for other in pick(rows, column="unbound", checkpoint=last.checkpoint).itertuples():
            model = f"unbound relations of the {other.label} model"
            compared.append(f"{model} {other.words} at theirs")
        tail = f" For comparison: {'; '.join(compared)}." if compared else ""
        sentences.append(f"{claim}: {last.label} {last.words} at {last.site}, {judged}.{tail}")
    return sentences


def not_identifiable(table, probes=None) -> list[str]:
    """Measures of the tables that have no value at all, with the reasons the tables give."""
    lines = []
    measures = ("contrast", "contrast_partialled", "object_kernel")
    for source, names in ((probes, ("transfer_accuracy",)), (table, measures)):
        for measure in names if source is not None and "reason" in source else ():
            rows = pick(source, measure=measure)
            if len(rows) and rows.value.isna().all():
                reasons = "; ".join(dict.fromkeys(rows.reason.dropna()))
                lines.append(f"{measure}: no value here ({reasons or 'no reason given'}).")
    return lines


# --- the page -----------------------------------------------------------------------------------


def _table(header: list[str], rows: list[list[object]]) -> str:
    """An HTML table; every cell is escaped."""

    def row(cells, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    head, body = row(header, "th"), "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>"


def _small(text: str) -> str:
    return f"<p class='small'>{escape(text)}</p>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def run_section(run_dir: Path) -> str:
    """What was run, from run.json: model, facts, seed, phases with settings, commit, versions."""
    if not (run_dir / "run.json").exists():
        return "<p>These tables are about checkpoints made elsewhere: no run.json says how.</p>"
    record = read_json(run_dir / "run.json")
    inputs = record.get("inputs", {})
    sizes = [f"{name} {inputs[name]}" for name in ("subjects", "pool", "unbound") if name in inputs]
    facts = f"{inputs.get('facts', 'unknown')}" + (f" ({', '.join(sizes)})" if sizes else "")
    rows = [["base model", record.get("model", "unknown")], ["facts", facts]]
    rows.append(["seed", record.get("seed", "unknown")])
    for phase, entry in record.get("phases", {}).items():
        settings = [f"{k} {v}" for k, v in entry.get("settings", {}).items() if k not in inputs]
        state = "" if entry.get("complete") else " (not finished)"
        rows.append([f"phase {phase}{state}", ", ".join(settings)])
    rows.append(["commit", record.get("commit", "unknown")])
    details = [f"{k} {v}" for k, v in record.get("versions", {}).items()]
    details += [f"sha256 of {k}: {v}" for k, v in record.get("sha256", {}).items()]
    return _table(["", ""], rows) + _details("versions and hashes", _list(details))


def recall_section(table) -> str:
    """The headline in words, a table by prompt family, and test prompts relation by relation."""
    split = headline_split(table)
    rows = pick(table, measure="generation", subset="all", split=split)
    families = in_order(rows.family)
    named = [relation for relation in dict.fromkeys(rows.relation) if relation not in SIDES]
    by_family, by_relation = [], []
    for stage in stages(table):
        here = pick(rows, checkpoint=stage.checkpoint)
        for side in present(SIDES, here.relation):
            cells = _cells(pick(here, relation=side), "family")
            by_family.append([stage.label, side, *(cells.get(f, "–") for f in families)])
        cells = _cells(pick(here, family="test"), "relation")
        by_relation.append([stage.label, *(cells.get(relation, "–") for relation in named)])
    strict = f"Greedy answers, strict, {split} subjects: means and 95% intervals over subjects."
    families = _table(["checkpoint", "relations", *families], by_family)
    relations = _small("The same at test prompts, relation by relation:")
    relations += _table(["checkpoint", *named], by_relation)
    return _list(headline(table)) + _small(strict) + families + relations


def damage_section(table) -> str:
    """What training cost at each checkpoint: known facts of its world, or perplexity of English."""
    measures, rows = present(COST, table.measure), []
    for stage in stages(table):
        cells = _cells(pick(table, checkpoint=stage.checkpoint), "measure")
        rows.append([stage.label, *(cells.get(m, "–") for m in measures)])
    header = ["checkpoint", *(m.replace("_", " ") for m in measures)]
    said = "".join(_small(COST[m]) for m in measures)
    return f"<h3>What training cost</h3>{said}{_table(header, rows)}"


def inside_section(table, probes) -> str:
    """Verdicts on transfer, contrast and object kernel in words, then the numbers behind them."""
    said, rows = [], []
    with suppress(NothingToDraw):
        found = findings(cka.panel_data(table, probes))
        said, rows = verdicts(found), list(found.itertuples())
    for i, f in enumerate(rows):
        p = f"{f.null_p_max:.3f}" if f.null_p_max == f.null_p_max else "–"
        n = int(f.n) if f.n == f.n else "–"
        rows[i] = [f.claim, f.column, f.label, f.site, f.words, f"{f.level:.2f}", p, n]
    header = ["claim", "relations", "checkpoint", "best site", "value", "chance"]
    numbers = _table([*header, "p, best of all sites", "n"], rows)
    said = _list(said + not_identifiable(table, probes))
    return said + _small(BEST) + _details("all checkpoints", numbers)


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
        title, reading, limits = CAPTIONS[path.stem]
        data = b64encode(path.read_bytes()).decode()
        parts.append(
            f'<figure id="{path.stem}"><h3>{title}</h3>'
            f'<img alt="{title}" src="data:image/png;base64,{data}">'
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
    explored, curves = [], []
    if recalled is not None:
        behaviour = recall_section(recalled)
        explored.append(lambda: recall.explore(recalled))
    if "damage" in tables:
        behaviour += damage_section(tables["damage"])
    if similar is not None or probed is not None:
        inside = inside_section(similar, probed)
        explored.append(lambda: cka.CHART.explore(cka.panel_data(similar, probed)))
    for explore in explored:
        try:
            curves.append(explore())
        except NothingToDraw as reason:
            skipped = [*skipped, str(reason)]
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
    say_written([*(path for path in paths if path.suffix == ".png"), report])
    return report


if __name__ == "__main__":
    run_command(main, Options, __doc__)
