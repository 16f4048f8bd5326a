"""tables/interchange.csv: what patching moves at each site. Is there a band before the answer?"""

from functools import cache, partial

from analysis.measures.judgement import LEVEL
from analysis.measures.statistics import holm
from analysis.patching.lens import lens_rows
from analysis.patching.running import Runner, chosen_sites, trial_rows
from analysis.patching.shares import summarise
from analysis.patching.trials import STATE, UNCHANGED, VECTORS, Plan
from probing.states import Design
from training.base.console import minutes
from training.base.errors import BadInput
from training.base.words import p_words, span, two_places
from training.runs.table_files import checkpoint_part, pick, write_table
from training.weights.loading import on_gpu

# An estimate for 2 cores: the tokens before the patch are read once.
VERSION = 1
ROWS_PER_SECOND = 60
CORRECTED = "corrected for sites, directions, positions"


def interchange_table(design: Design, *, pairs=20, every=1, permutations=999, batch_size=64):
    """Write tables/interchange.csv and interchange_items.csv of a run; return both DataFrames.

        design = Design.of(Run.open("runs/demo"), families=("test",))
        table, items = interchange_table(design, pairs=12)
        table[(table.measure == "gain") & (table.null_p_max <= 0.05)]

    One row per checkpoint, relation (bound, unbound), direction, vector, position, measure, outcome
    and site. measure: share of trials with an outcome, `free` (the answer was the model's own
    choice), gain over the checkpoint `reference`, contrast with the vector `reference`, lens and
    lens_centred (readability of the answer). Columns: value, low, high (jackknife over groups of
    subjects), null_p, null_p_max (corrected for the sites before decodable_layer), chance, n
    groups, n_trials, n_candidates. The items have one row per trial and site; every `every`-th site
    is patched. Raises BadInput, NotIdentifiable.
    """
    import pandas as pd

    if every < 1:
        raise BadInput(f"every={every}; give a whole number of sites, at least 1")
    plan, run, items, lenses = Plan(design, pairs), design.run, [], []
    content = [*design.content, VERSION, pairs]
    for checkpoint in design.checkpoints:
        loaded = cache(partial(_loaded, design, checkpoint))

        def lens(loaded=loaded):
            return pd.DataFrame(lens_rows(plan, *loaded(), permutations))

        def trials(loaded=loaded):
            *model, states = loaded()
            return pd.DataFrame(trial_rows(plan, Runner(*model, batch_size), states, every))

        at = (run, checkpoint)
        lenses.append(checkpoint_part(*at, "interchange_lens", [*content, permutations], lens))
        items.append(checkpoint_part(*at, "interchange_items", [*content, every], trials))
    items, lens = (pd.concat(parts, ignore_index=True) for parts in (items, lenses))
    write_table(run, "interchange_items", items)
    table = summarise(items, lens, draws=permutations, seed=run.seed)
    write_table(run, "interchange", table)
    return table, items


def _loaded(design: Design, checkpoint) -> tuple:
    model, tokenizer = checkpoint.load()
    return on_gpu(model), tokenizer, design.load(checkpoint)


def announce(design: Design, pairs: int, every: int) -> str:
    """How many prompts will be patched, and about how long that takes, in words."""
    checkpoints = design.checkpoints
    sites = chosen_sites(design.load(checkpoints[0]).sites, every)
    plan = Plan(design, pairs)
    # At most three positions per trial; own and control vectors at three kinds of prompt.
    per_site = 3 * sum(map(len, plan.trials.values())) + 7 * len(plan.steerings)
    rows = per_site * len(sites) * len(checkpoints)
    time = f"about {minutes(rows / ROWS_PER_SECOND)} on 2 cores (fewer: --pairs, --every)"
    return f"interchange: {rows:,} patched prompts at {len(checkpoints)} checkpoints: {time}"


def interchange_lines(table) -> list[str]:
    """Shares by direction and position, bands at the last checkpoint, vectors with controls."""
    shares = pick(table, measure="share", outcome="relation")
    patched = shares[(shares.vector == STATE) & (shares.position != UNCHANGED)]
    if not len(patched):
        return []
    bound = pick(patched, relation="bound")
    sizes = f"{int(bound.n_trials.max())} trials, {int(bound.n_candidates.median())} candidates"
    lines = [
        f"source (s', r') into target (s, r), bound relations, {bound.split.iloc[0]} subjects, "
        f"n={int(bound.n.max())} pairs of subjects ({sizes}): share answered o(s, r')",
        "  at its best site before the answer is decodable:",
    ]
    unchanged = pick(table, relation="bound", measure="share", outcome="nothing", vector=STATE)
    unchanged = pick(unchanged, position=UNCHANGED)
    for direction, rows in bound.groupby("direction", sort=False):
        same = pick(unchanged, direction=direction).itertuples()
        right = ", ".join(f"{row.checkpoint} {two_places(row.value)}" for row in same)
        # The site of the layer from which the lens reads the answer at the last checkpoint.
        end = pick(table, layer=rows.decodable_layer.iloc[-1], measure="lens").site
        lens = f"from {end.iloc[0]} at the last checkpoint" if len(end) else "at no site"
        right = f"unchanged targets right: {right}"
        lines.append(f"  {direction}: the answer is decodable {lens} (logit lens); {right}")
        for position, here in rows.groupby("position", sort=False):
            parts = [f"{row.checkpoint} {span(row)} at {row.site}" for row in _best_rows(here)]
            unbound = pick(patched, relation="unbound", direction=direction, position=position)
            loose = _best_rows(unbound)
            other = f" (unbound source: {span(loose[-1])})" if loose else ""
            lines.append(f"    {position:<14}{'; '.join(parts)}{other}")
    return [*lines, *_band_lines(bands(table)), *_vector_lines(table, shares)]


def _best_rows(rows) -> list:
    """At each checkpoint the site before the answer where the relation moved most."""
    early = rows[~(rows.layer >= rows.decodable_layer)]
    return [here.loc[here.value.idxmax()] for _, here in early.groupby("checkpoint", sort=False)]


def bands(table) -> list[dict]:
    """Per direction and position of the last checkpoint's bound relations: is there a band?

    p: of the best site's gain over the checkpoint before, corrected over sites (p_sites), and by
    Holm over directions and positions; sites: those whose gain is above 0 by the site-corrected p.
    """
    gains = pick(table, measure="gain", vector=STATE, relation="bound")
    gains = gains[gains.position != UNCHANGED]
    if not len(gains):
        return []
    early = gains[(gains.checkpoint == gains.checkpoint.iloc[-1]) & gains.null_p_max.notna()]
    found = []
    for (direction, position), rows in early.groupby(["direction", "position"], sort=False):
        best = rows.loc[rows.null_p_max.idxmin()]
        sites = list(rows[(rows.null_p_max <= LEVEL) & (rows.value > 0)].site)
        where = {"direction": direction, "position": position}
        found.append({**where, "p_sites": best.null_p_max, "gain": best, "sites": sites})
    corrected = holm([entry["p_sites"] for entry in found])
    return [{**entry, "p": float(p)} for entry, p in zip(found, corrected, strict=True)]


def _band_lines(found: list[dict]) -> list[str]:
    if not found:
        return ["  one checkpoint, or no site before the answer: unknown if training made a band"]
    reference = found[0]["gain"].reference
    there = [entry for entry in found if entry["p"] <= LEVEL and entry["sites"]]
    if not there:
        best = min(found, key=lambda entry: entry["p"])
        words = f"best: {best['direction']} at {best['position']}, {p_words(best['p'])}"
        what = "at no site before the answer is o(s, r') more frequent than at"
        return [f"  no band: {what} {reference} ({words}, {CORRECTED})"]
    lines = []
    for entry in there:
        sites, gain = entry["sites"], entry["gain"]
        where = sites[0] if len(sites) == 1 else f"{len(sites)} sites, {sites[0]} to {sites[-1]}"
        gained = f"gain over {reference} {span(gain)} at {gain.site}, {p_words(entry['p'])}"
        what = f"{entry['direction']} at {entry['position']}, {where}"
        lines.append(f"  band before the answer: {what}, {gained} ({CORRECTED})")
    if not any(entry["direction"] == "semantic->rote" for entry in there):
        why = "that a key token's state works elsewhere does not show a semantic prompt makes it"
        lines.append(f"  none from semantic to rote prompts: {why}")
    return lines


def _vector_lines(table, shares) -> list[str]:
    """The own vector at its best site of the last checkpoint, beside its controls there."""
    lines = []
    for direction, rows in pick(shares, vector=VECTORS).groupby("direction", sort=False):
        last = pick(rows, checkpoint=rows.checkpoint.iloc[-1])
        own = pick(last, vector="own")
        best = own.loc[own.value.idxmax()]
        controls = pick(last, site=best.site, vector=VECTORS[1:]).itertuples()
        here = {"direction": direction, "checkpoint": best.checkpoint, "site": best.site}
        contrasts = pick(table, measure="contrast", **here)
        tests = [f"over {r.reference} {p_words(r.null_p_max)}" for r in contrasts.itertuples()]
        beside = [f"{row.vector} {two_places(row.value)}" for row in controls]
        what = f"  relation {direction} ({best.checkpoint}): o(s, r) {span(best)} at {best.site}"
        parts = [what, ", ".join(beside), ", ".join(tests)]
        corrected = " (best of sites, corrected)" if len(contrasts) else ""
        lines.append("; ".join(part for part in parts if part) + corrected)
    return lines
