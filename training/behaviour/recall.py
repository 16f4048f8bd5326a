"""What each checkpoint recalls: generation, multiple choice and object probability, for every prompt family.

    python -m training.recall RUN_DIR
    python -m training.recall RUN_DIR --preset full
    python -m training.recall RUN_DIR --phases base --context train --out results/in-context
    python -m training.recall ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Writes tables/recall.csv (one row a checkpoint x relation x family x split x measure, with standard errors over
subjects) and tables/recall_items.csv (one row a checkpoint x fact x prompt). Next: `python -m analysis.cka RUN_DIR`.

From scored items to the recall table: means over prompts, then intervals over subjects."""

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Literal

from training.base.console import progress
from training.base.files import read_json
from training.behaviour.answers import Continuations, Question, answer, said
from training.data.prompts import select
from training.data.sequences import context_length, prompt_ids, require_fit, statement
from training.weights.loading import on_gpu

Context = Literal["none", "rote", "train"]


def score_checkpoint(run, checkpoint, prompts: Sequence, options):
    """Ask one checkpoint every fact in every prompt; one row each.

    Columns: checkpoint, phase, relation, bound, split, subject, object, family, template, text, asked, answered,
    keyword_free, generated, generation (strict, 0/1), n_candidates; only if asked for lenient (0/1) and, with choices,
    choice (0/1), choice_normalised (0/1, mean log-probability a token), log_probability (of the object, nats),
    pool_probability (object's share among the candidates).
    """
    import pandas as pd

    model, tokenizer = checkpoint.load()
    model = on_gpu(model)
    limit = context_length(model.config)
    continuations = Continuations(tokenizer, limit)
    asked: dict[tuple[int, ...], dict] = {}
    told = _told(run.prompts, options.context)
    for fact in run.facts:
        before = f"{statement(fact, told[fact.relation])} " if told else ""
        for prompt in (p for p in prompts if p.relation == fact.relation):
            ids = tuple(prompt_ids(tokenizer, before + prompt.render(fact.subject)))
            entry = asked.setdefault(ids, {"requests": [], "objects": {}})
            for candidate in (fact.object, *fact.candidates):
                entry["objects"].setdefault(continuations.of(prompt, fact.subject, candidate))
            entry["requests"].append((fact, prompt))
    longest = max(len(o) for entry in asked.values() for o in entry["objects"]) + 1
    questions = [
        Question(ids, tuple(sorted(entry["objects"])) if options.choices else ())
        for ids, entry in asked.items()
    ]
    stops = {tokenizer.eos_token_id, *continuations.stop_ids}
    new_tokens = max(longest, options.lenient_tokens)
    for ids, entry in asked.items():
        require_fit(len(ids) + new_tokens, limit, *entry["requests"][0])
    ends = (
        (lambda token: token == tokenizer.eos_token_id)
        if options.lenient_tokens
        else (lambda t: t in stops)
    )
    objects_of = {(f.subject, f.relation): f.object for f in run.facts}
    rows = []
    bar = progress(total=len(questions), label=f"recall {checkpoint.name}")
    with bar:
        entries = list(asked.values())
        found = answer(
            model, questions, new_tokens=new_tokens, finished=ends, batch_size=options.batch_size
        )
        for index, reply in found:
            bar.update()
            score = dict(zip(questions[index].objects, reply.log_probabilities, strict=True))
            text = tokenizer.decode(reply.new_ids)
            for fact, prompt in entries[index]["requests"]:
                target = continuations.of(prompt, fact.subject, fact.object)
                recalled = said(reply.new_ids, target, stops)
                own = {
                    r: objects_of[fact.subject, r]
                    for r in run.relations
                    if (fact.subject, r) in objects_of
                }
                answered = [
                    relation
                    for relation, obj in own.items()
                    if said(reply.new_ids, continuations.of(prompt, fact.subject, obj), stops)
                ]
                row = {
                    "checkpoint": checkpoint.name,
                    "phase": checkpoint.phase,
                    "relation": fact.relation,
                    "bound": fact.bound,
                    "split": fact.split,
                    "subject": fact.subject,
                    "object": fact.object,
                    "family": prompt.family,
                    "template": prompt.id,
                    "text": prompt.text,
                    "asked": prompt.asks,
                    "answered": " ".join(answered),
                    "keyword_free": prompt.keyword_free,
                    "generated": _one_line(text),
                    "generation": int(recalled),
                    "n_candidates": len(fact.candidates),
                }
                if options.choices:
                    tokens = [continuations.of(prompt, fact.subject, c) for c in fact.candidates]
                    row |= _choice(score, tokens, fact.candidates.index(fact.object))
                if options.lenient_tokens:
                    row["lenient"] = int(fact.object.casefold() in text.casefold())
                rows.append(row)
    return pd.DataFrame(rows)


def _told(prompts: Sequence, context: Context) -> dict:
    """Relation -> the prompt in which its facts are told beforehand; none where nothing is."""

    return (
        {p.relation: p for p in reversed(select(prompts, family=context))}
        if context != "none"
        else {}
    )


def _choice(score: dict, candidates: Sequence[tuple[int, ...]], right: int) -> dict:
    """Columns of multiple choice. score: tokens of an object -> its log-probability; right: the true candidate."""
    import torch

    sums = torch.tensor([score[c] for c in candidates], dtype=torch.float64)
    means = sums / torch.tensor([len(c) for c in candidates])
    return {
        "choice": int(sums.argmax() == right),
        "choice_normalised": int(means.argmax() == right),
        "log_probability": round(float(sums[right]), 5),
        "pool_probability": round(float(sums.softmax(0)[right]), 6),
    }


def _one_line(text: str) -> str:
    """The text with control characters as escapes: a carriage return would end its row of the CSV."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
        epoch=[stages[name].epoch for name in table.checkpoint],
        step=[stages[name].step for name in table.checkpoint],
    )


def _majority(facts) -> float:
    """What always guessing each relation's most frequent object would score, averaged over facts."""
    commonest = facts.groupby("of_relation").object.agg(
        lambda objects: objects.value_counts().iloc[0]
    )
    return float(commonest.sum() / len(facts))


def gains(items, parents=MappingProxyType({})):
    """Paired gain in generation over the checkpoint that phase 2 started from, by subject, at test prompts.

    parents: checkpoint -> where its phase started from; where that is not said, the last checkpoint of phase 1 is
    taken. A phase 2 that started from the base model has no gain.
    """
    import pandas as pd

    memorized = [
        c for c, p in items[["checkpoint", "phase"]].drop_duplicates().to_numpy() if p == "memorize"
    ]
    later = [
        c
        for c, p in items[["checkpoint", "phase"]].drop_duplicates().to_numpy()
        if p == "generalize"
    ]
    rows = []
    for name in later if memorized else []:
        start = parents.get(name) or memorized[-1]
        for split in items.split.unique():
            for bound, label in ((True, "bound"), (False, "unbound")):
                some = items[
                    (items.bound == bound) & (items.split == split) & (items.family == "test")
                ]
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
                    cells.append(
                        f"{row.value[family]:.2f} [{row.low[family]:.2f},{row.high[family]:.2f}]"
                    )
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
