"""The verdict of interchange in words: is there a band in which the relation moves before there is an answer?"""

import numpy as np

from analysis.measures.statistics import holm
from analysis.patching.plan import Plan
from analysis.patching.rows import LEVEL, STATE, UNCHANGED, VECTORS, summarise
from training.base.errors import BadInput
from training.base.words import p_words, span, two_places
from training.runs.table_files import checkpoint_part, write_table
from training.weights.loading import on_gpu

# An estimate: what stands before the patch is read once, so that 1.2 to 2.7 patched prompts (8 to 1 tokens from the
# patch on) take the time of one whole prompt of 12 tokens, measured on a random 16-layer Llama; times 30 prompts a second.
ROWS_A_SECOND = 60


def table_for(plan: "Plan", *, every: int = 1, permutations: int = 999, batch_size: int = 64):
    """(tables/interchange.csv, tables/interchange_items.csv) of a run; checkpoints done before are read."""
    import pandas as pd

    if every < 1:
        raise BadInput(f"every={every}; give a whole number of sites, at least 1")
    states = plan.states
    items, lenses = [], []
    for checkpoint in states.checkpoints:
        loaded: list = []

        def prepared(checkpoint=checkpoint, loaded=loaded):
            if not loaded:
                model, tokenizer = checkpoint.load()
                there = states.load(checkpoint)
                loaded.extend((on_gpu(model), tokenizer, there))
            return loaded

        def lens(at=prepared):
            return pd.DataFrame(list(plan.lens(*at(), permutations)))

        def trials(at=prepared):
            return pd.DataFrame(list(plan.items(*at(), every, batch_size)))

        run, common = states.run, [*states.content, plan.pairs]
        lenses.append(
            checkpoint_part(run, checkpoint, "interchange_lens", [*common, permutations], lens)
        )
        items.append(
            checkpoint_part(run, checkpoint, "interchange_items", [*common, every], trials)
        )
    every_item, every_lens = (pd.concat(parts, ignore_index=True) for parts in (items, lenses))
    write_table(states.run, "interchange_items", every_item)
    table = summarise(every_item, every_lens, draws=permutations, seed=states.run.seed)
    write_table(states.run, "interchange", table)
    return table, every_item


WORDS = {"base": "base", "memorize": "memorized", "generalize": "generalized"}


def verdict_lines(table) -> list[str]:
    """Bands by direction and position at the last checkpoint, then relation vectors beside their controls."""
    shares = table[(table.measure == "share") & (table.outcome == "relation")]
    patched = shares[(shares.vector == STATE) & (shares.position != UNCHANGED)]
    if not len(patched):
        return []
    bound = patched[patched.relation == "bound"]
    lines = [
        f"source (s', r') into target (s, r), bound relations, {bound.split.iloc[0]} subjects, n={int(bound.n.max())} "
        f"pairs of subjects ({int(bound.n_trials.max())} trials, {int(bound.n_candidates.median())} candidates): share "
        "answered o(s, r'), at its best site before the answer is decodable"
    ]
    for direction, rows in bound.groupby("direction", sort=False):
        lines.append(
            f"  {direction}{_decodable_words(table, direction)}; {_unchanged_words(table, direction)}"
        )
        for position, at in rows.groupby("position", sort=False):
            parts = [f"{_stage(row)} {span(row)} at {row.site}" for row in _best_rows(at)]
            other = _unbound_words(patched, direction, position)
            lines.append(f"    {position:<14}{'; '.join(parts)}{other}")
    return [*lines, *_band_lines(table), *_vector_lines(table)]


def bands(table) -> list[dict]:
    """Per direction and position of the last checkpoint's bound relations: is there a band?

    p: of the best site's gain over the checkpoint before, corrected over sites, and by Holm over directions and
    positions; sites: those whose gain is above 0 by the site-corrected p. Empty with one checkpoint only.
    """
    gains = table[(table.measure == "gain") & (table.vector == STATE) & (table.relation == "bound")]
    gains = gains[gains.position != UNCHANGED]
    if not len(gains):
        return []
    gains = gains[gains.checkpoint == gains.checkpoint.iloc[-1]]
    found = []
    for (direction, position), rows in gains.groupby(["direction", "position"], sort=False):
        early = rows[rows.null_p_max.notna()]
        if not len(early):
            continue
        best = early.loc[early.null_p_max.idxmin()]
        band = early[(early.null_p_max <= LEVEL) & (early.value > 0)]
        found.append(
            {"direction": direction, "position": position, "p_sites": best.null_p_max, "gain": best,
             "sites": list(band.site)}
        )  # fmt: skip
    for entry, p in zip(
        found, holm([entry["p_sites"] for entry in found]) if found else (), strict=True
    ):
        entry["p"] = float(p)
    return found


def _band_lines(table) -> list[str]:
    found = bands(table)
    if not found:
        return [
            "  one checkpoint, or no site before the answer: whether training made a band cannot be said"
        ]
    there = [entry for entry in found if entry["p"] <= LEVEL and entry["sites"]]
    reference = found[0]["gain"].reference
    if not there:
        best = min(found, key=lambda entry: entry["p"])
        return [
            f"  no band: at no site before the answer does o(s, r') come oftener than at {reference} (best: "
            f"{best['direction']} at {best['position']}, {p_words(best['p'])}, corrected for sites, directions, positions)"
        ]
    lines = []
    for entry in there:
        sites = entry["sites"]
        where = (
            sites[0] if len(sites) == 1 else f"{len(sites)} sites from {sites[0]} to {sites[-1]}"
        )
        lines.append(
            f"  band before the answer: {entry['direction']} at {entry['position']}, {where}, gain over {reference} "
            f"{span(entry['gain'])} at {entry['gain'].site}, {p_words(entry['p'])} (corrected for sites, directions, "
            "positions)"
        )
    if not any(entry["direction"] == "semantic->rote" for entry in there):
        lines.append(
            "  none from semantic to rote prompts: what a key token's state does elsewhere is no proof that a "
            "semantic prompt makes the same state"
        )
    return lines


def _vector_lines(table) -> list[str]:
    shares = table[
        (table.measure == "share") & (table.outcome == "relation") & table.vector.isin(VECTORS)
    ]
    lines = []
    for direction, rows in shares.groupby("direction", sort=False):
        last = rows[rows.checkpoint == rows.checkpoint.iloc[-1]]
        own = last[last.vector == "own"]
        if not own.value.notna().any():
            continue
        best = own.loc[own.value.idxmax()]
        beside = [
            f"{row.vector} {two_places(row.value)}"
            for row in last[last.site == best.site].itertuples()
            if row.vector != "own"
        ]
        contrast = table[(table.measure == "contrast") & (table.direction == direction)]
        contrast = contrast[(contrast.checkpoint == best.checkpoint) & (contrast.site == best.site)]
        tests = [f"over {row.reference} {p_words(row.null_p_max)}" for row in contrast.itertuples()]
        lines.append(
            f"  relation {direction} ({_stage(best)}): o(s, r) {span(best)} at {best.site}"
            + (f"; {', '.join(beside)}" if beside else "")
            + (f"; {', '.join(tests)} (best of sites, corrected)" if tests else "")
        )
    return lines


def _best_rows(at) -> list:
    """Of each checkpoint the site before the answer where the relation moved most."""
    rows = []
    for _, there in at.groupby("checkpoint", sort=False):
        early = there[~(there.layer >= there.decodable_layer)]
        if len(early):
            rows.append(early.loc[early.value.idxmax()])
    return rows


def _unbound_words(patched, direction: str, position: str) -> str:
    some = patched[
        (patched.relation == "unbound")
        & (patched.direction == direction)
        & (patched.position == position)
    ]
    best = _best_rows(some)
    return f" (unbound source: {span(best[-1])})" if best else ""


def _decodable_words(table, direction: str) -> str:
    shares = table[
        (table.measure == "share") & (table.relation == "bound") & (table.direction == direction)
    ]
    last = shares[(shares.checkpoint == shares.checkpoint.iloc[-1]) & (shares.vector == STATE)]
    layer = last.decodable_layer.iloc[0]
    if np.isnan(layer):
        return ": the answer is decodable at no site (logit lens)"
    site = table[(table.layer == layer) & table.measure.str.startswith("lens")].site.iloc[0]
    return f": the answer is decodable from {site} at the last checkpoint"


def _unchanged_words(table, direction: str) -> str:
    rows = table[
        (table.measure == "share") & (table.outcome == "nothing") & (table.position == UNCHANGED)
    ]
    rows = rows[(rows.direction == direction) & (rows.relation == "bound")]
    return "unchanged targets right: " + ", ".join(
        f"{_stage(row)} {two_places(row.value)}" for row in rows.itertuples()
    )


def _stage(row) -> str:
    return WORDS.get(row.phase, row.checkpoint)
