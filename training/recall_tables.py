"""From scored items to the recall table: means over prompts, then intervals over subjects."""

from collections.abc import Iterator
from types import MappingProxyType

MEASURES = {
    "generation": "generation",
    "lenient": "generation_lenient",
    "choice": "multiple_choice",
    "choice_normalised": "multiple_choice_normalised",
    "probability": "object_probability",
    "pool_probability": "object_probability_in_pool",
}
GROUPS = ["checkpoint", "phase", "relation", "family", "subset", "split"]


def subject_interval(values) -> dict:
    """Mean, standard error and 95% t interval over subjects of one value a subject."""
    import numpy as np
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    mean = float(values.mean())
    if n < 2:
        return {"value": mean, "se": np.nan, "low": np.nan, "high": np.nan, "n": n}
    error = float(values.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return {"value": mean, "se": error, "low": mean - half, "high": mean + half, "n": n}


def _subsets(items) -> Iterator[tuple[str, object]]:
    """The items as a whole, and the subsets that are reported apart."""
    yield "all", items
    yield "keyword-free", items[items.family.isin(["test"]) & items.keyword_free]
    near = items[items.family == "near-miss"]
    yield "inverse", near[near.asked == "inverse"]
    yield "sibling", near[near.asked != "inverse"]


def summarise(items, run):
    """The tidy recall table of scored items.

    A subject's value is its mean over prompts (and relations); intervals are over subjects. The relations `bound`
    and `unbound` stand for the mean over those. Split `all` joins seen and held-out. `generation_gain` is the paired
    difference to the last checkpoint of phase 1. `majority` is the share of the most frequent object: what always
    guessing it would score. `chance` is 1 / n_candidates.
    """
    import numpy as np
    import pandas as pd

    items = items.assign(
        of_relation=items.relation,
        **({"probability": np.exp(items.log_probability)} if "log_probability" in items else {}),
        bound=items.bound.astype(bool),
        keyword_free=items.keyword_free.astype(bool),
    )
    measures = [m for m in MEASURES if m in items]
    kinds = [items, items.assign(relation=np.where(items.bound, "bound", "unbound"))]
    if items.split.nunique() > 1:
        kinds += [kind.assign(split="all") for kind in kinds]
    rows = []
    for kind in kinds:
        for subset, some in _subsets(kind):
            for key, group in some.assign(subset=subset).groupby(GROUPS, sort=False):
                named = dict(zip(GROUPS, key, strict=True))
                facts = group.drop_duplicates(["subject", "of_relation"])
                extra = {
                    "n_prompts": group.groupby("of_relation").template.nunique().max(),
                    "n_candidates": group.n_candidates.max(),
                    "chance": 1 / group.n_candidates.max(),
                    "majority": _majority(facts),
                }
                per_subject = group.groupby("subject")[measures].mean()
                for measure in measures:
                    interval = subject_interval(per_subject[measure])
                    rows.append({**named, "measure": MEASURES[measure], **interval, **extra})
    table = pd.concat([pd.DataFrame(rows), gains(items, parents_of(run))], ignore_index=True)
    stages = {c.name: c for c in run.checkpoints}
    return table.assign(
        epoch=[stages[name].epoch for name in table.checkpoint], step=[stages[name].step for name in table.checkpoint]
    )


def _majority(facts) -> float:
    """What always guessing each relation's most frequent object would score, averaged over facts."""
    commonest = facts.groupby("of_relation").object.agg(lambda objects: objects.value_counts().iloc[0])
    return float(commonest.sum() / len(facts))


def gains(items, parents=MappingProxyType({})):
    """Paired gain in generation over the checkpoint that phase 2 started from, by subject, at test prompts.

    parents: checkpoint -> where its phase started from; where that is not said, the last checkpoint of phase 1 is
    taken. A phase 2 that started from the base model has no gain.
    """
    import pandas as pd

    memorized = [c for c, p in items[["checkpoint", "phase"]].drop_duplicates().to_numpy() if p == "memorize"]
    later = [c for c, p in items[["checkpoint", "phase"]].drop_duplicates().to_numpy() if p == "generalize"]
    rows = []
    for name in later if memorized else []:
        start = parents.get(name) or memorized[-1]
        for split in items.split.unique():
            for bound, label in ((True, "bound"), (False, "unbound")):
                some = items[(items.bound == bound) & (items.split == split) & (items.family == "test")]
                value = some.pivot_table(index="subject", columns="checkpoint", values="generation")
                if len(value) and start in memorized and {name, start} <= set(value.columns):
                    rows.append(
                        {
                            "checkpoint": name,
                            "phase": "generalize",
                            "relation": label,
                            "family": "test",
                            "subset": "all",
                            "split": split,
                            "measure": "generation_gain",
                            **subject_interval(value[name] - value[start]),
                        }
                    )
    return pd.DataFrame(rows)


def parents_of(run) -> dict[str, str]:
    """Checkpoint -> the one that its phase started from, of those whose stage.json says so."""
    from training.files import read_json

    records = {c.name: c.folder / "stage.json" for c in run.checkpoints}
    found = {name: read_json(path).get("parent") for name, path in records.items() if path.exists()}
    return {name: parent for name, parent in found.items() if parent}


def describe(table, run) -> str:
    """The headline in words: held-out facts x test prompts, beside its controls."""
    splits = set(table.split)
    split = "held-out" if "held-out" in splits else "all"
    lines = []
    held = table[(table.split == split) & (table.measure == "generation") & (table.subset == "all")]
    n = int(held.n.max()) if len(held) else 0
    asked = held[held.family == "test"]
    majority = (asked if len(asked) else held).majority.max()
    lines.append(
        f"greedy answers, strict, {split} subjects (n={n}; always guessing the commonest object: {majority:.2f})"
    )
    english = ("rote", "train", "test", "near-miss", "other-relation", "unrelated")
    families = [f for f in english if f in set(held.family)]
    families += sorted(f for f in set(held.family) if f.startswith("test-"))
    widths = [19 if f == "test" else 15 for f in families]
    for relation in ("bound", "unbound"):
        some = held[held.relation == relation]
        if not len(some):
            continue
        heads = "".join(f.rjust(width) for f, width in zip(families, widths, strict=True))
        lines.append(f"  {relation} relations".ljust(34) + heads)
        for checkpoint in run.checkpoints:
            row = some[some.checkpoint == checkpoint.name].set_index("family")
            if not len(row):
                continue
            cells = []
            for family in families:
                if family not in row.index:
                    cells.append("-")
                elif family == "test":
                    cells.append(f"{row.value[family]:.2f} [{row.low[family]:.2f},{row.high[family]:.2f}]")
                else:
                    cells.append(f"{row.value[family]:.2f}")
            shown = "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(f"    {checkpoint.name}".ljust(34) + shown)
    gain = table[(table.measure == "generation_gain") & (table.split == split)]
    for _, row in gain.iterrows():
        lines.append(
            f"  gain of phase 2 at {row.checkpoint}, {row.relation} relations, test prompts: {row.value:+.2f} "
            f"[{row.low:+.2f}, {row.high:+.2f}]"
        )
    return "\n".join(lines)
