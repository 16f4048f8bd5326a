"""What each checkpoint recalls: every fact in every prompt, one row each, and their summary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from training.base.console import progress
from training.base.errors import BadInput
from training.base.words import span, two_places
from training.behaviour.answers import Reply, Request, ask
from training.behaviour.intervals import subject_interval
from training.data.fact_files import Fact
from training.data.prompts import FAMILIES, Prompt, preset_prompts, select
from training.data.sequences import statement
from training.runs import table_files
from training.runs.table_files import headline_split, pick
from training.weights.loading import on_gpu

Context = Literal["none", "rote", "train"]

# Column of the items -> measure of the summary.
MEASURES = {
    "generation": "generation",
    "lenient": "generation_lenient",
    "choice": "multiple_choice",
    "choice_normalised": "multiple_choice_normalised",
    "probability": "object_probability",
    "pool_probability": "object_probability_in_pool",
}
COLUMNS = ["checkpoint", "relation", "subject", "prompt", "expected", "said", "right"]
GROUPS = ["checkpoint", "phase", "relation", "family", "subset", "split"]


def answers(
    run,
    family: str = "test",
    *,
    split: str = "all",
    checkpoint: str = "",
    prompts: Sequence[Prompt] | None = None,
):
    """What a checkpoint says to a family's prompts, beside what is true.

    >>> answers(Run.open("runs/demo"), "test", split="held-out", checkpoint="generalized")

        checkpoint               relation  subject      prompt           expected  said     right
        200-generalize-epoch-08  mother    Gene Finley  Who gave birth…  Angela    Angela.  True

    A DataFrame, one row per fact and prompt. split: "held-out", "seen" or "all". checkpoint: a name
    or a phase, default the last (`Run.checkpoint`). prompts: default those of the family in the
    demo preset. said: the greedy answer; right: whether it is the expected object and then stops.
    Read from tables/recall_items.csv; the model is asked if that lacks a row. Raises NotFound,
    BadInput, Damaged.
    """
    import pandas as pd

    there = run.checkpoint(checkpoint)
    if prompts is None:
        prompts = preset_prompts(run.prompts, "demo", families=(family,))
    splits = dict.fromkeys(("all", *(f.split for f in run.facts)))
    if split not in splits:
        raise BadInput(f"no facts are {split!r}; give one of {', '.join(splits)}.")
    facts = [f for f in run.facts if split in ("all", f.split)]
    keys = ["relation", "subject", "object", "text"]
    rows = [(f.relation, f.subject, f.object, p.text) for f, p in _pairs(facts, prompts)]
    if not rows:
        raise BadInput(f"no prompt asks a relation of the run ({', '.join(run.relations)}).")
    wanted = pd.DataFrame(rows, columns=keys)
    # Without a run.json a table does not say which weights it is of.
    ours, items = (run.path / "run.json").exists(), wanted[:0]
    stored = table_files.optional_table(run.path, "recall_items") if ours else None
    # Answers to facts that were told in context are not what the checkpoint recalls.
    if stored is not None and "context" not in stored:
        here = pick(stored, checkpoint=there.name).astype(dict.fromkeys(keys, str))
        items = wanted.merge(here.drop_duplicates(keys))
    if len(items) < len(wanted):
        scored = score_checkpoint(run, there, prompts, choices=False)
        scored = scored.astype(dict.fromkeys(keys, str))
        items = wanted.merge(scored.drop_duplicates(keys))
    asked = [t.replace("{subject}", s) for t, s in zip(items.text, items.subject, strict=True)]
    found = {"prompt": asked, "expected": items.object, "right": items.generation.astype(bool)}
    found |= {"said": items.generated.fillna("").str.strip()}
    return items[["relation", "subject"]].assign(**found, checkpoint=there.name)[COLUMNS]


def score_checkpoint(
    run, checkpoint, prompts, *, choices=True, lenient_tokens=0, context="none", batch_size=64
):
    """Ask one checkpoint every fact in every prompt, once: a DataFrame with one row each.

    Columns: checkpoint, phase, relation, bound, split, subject, object, family, template, text,
    asked, answered (relations whose object was said), keyword_free, generated, generation (0/1,
    strict), n_candidates. With choices also choice (0/1), choice_normalised (0/1, by the mean
    log-probability of a token), log_probability (of the object, nats) and pool_probability (the
    object's share among the candidates). With lenient_tokens also lenient (0/1, the object stands
    anywhere in so many tokens). context: the family of the prompt in which a fact is told first.
    Raises WeightsDropped, Damaged, BadInput.
    """
    import pandas as pd

    told = {p.relation: p for p in reversed(select(run.prompts, family=context))}
    content = [*run.facts, *prompts, lenient_tokens, *([] if choices else ["no choices"])]
    content += [context, *told.values()] if context != "none" else []

    def compute():
        model, tokenizer = checkpoint.load()
        asked, requests = _pairs(run.facts, prompts), []
        for fact, prompt in asked:
            before = statement(fact, told[fact.relation]) if told else ""
            requests.append(Request(prompt, fact.subject, (fact.object, *fact.candidates), before))
        own = {f.subject: {} for f in run.facts}
        for fact in sorted(run.facts, key=lambda f, order=run.relations: order.index(f.relation)):
            own[fact.subject][fact.relation] = fact.object
        how = {"score": choices, "read_on": lenient_tokens, "batch_size": batch_size}
        replies = ask(on_gpu(model), tokenizer, requests, **how)
        stage, rows = {"checkpoint": checkpoint.name, "phase": checkpoint.phase}, []
        for index, reply in progress(replies, total=len(asked), label=f"recall {checkpoint.name}"):
            fact, prompt = asked[index]
            rows.append({**stage, **_item(fact, prompt, reply, own[fact.subject])})
            if lenient_tokens:
                rows[-1]["lenient"] = int(fact.object.casefold() in reply.text.casefold())
        return pd.DataFrame(rows)

    return table_files.checkpoint_part(run, checkpoint, "recall", content, compute)


def _item(fact: Fact, prompt: Prompt, reply: Reply, own: Mapping[str, str]) -> dict:
    """A row of the items; own: the subject's objects by relation."""
    named = ("relation", "bound", "split", "subject", "object")
    row = {name: getattr(fact, name) for name in named}
    row |= {"family": prompt.family, "template": prompt.id, "text": prompt.text}
    row |= {"asked": prompt.asks, "answered": " ".join(r for r in own if reply.says(own[r]))}
    row |= {"keyword_free": prompt.keyword_free, "generated": _one_line(reply.text)}
    row |= {"generation": int(reply.says(fact.object)), "n_candidates": len(fact.candidates)}
    return row | _choice(reply, fact.candidates, fact.object) if reply.scores else row


def _pairs(facts: Sequence[Fact], prompts: Sequence[Prompt]) -> list[tuple[Fact, Prompt]]:
    return [(f, p) for f in facts for p in prompts if p.relation == f.relation]


def _choice(reply: Reply, candidates: Sequence[str], true: str) -> dict:
    """Columns of multiple choice; true: the right candidate."""
    import torch

    right = candidates.index(true)
    tokens = [reply.tokens(name) for name in candidates]
    sums = torch.tensor([reply.scores[ids] for ids in tokens], dtype=torch.float64)
    means = sums / torch.tensor([len(ids) for ids in tokens])
    return {
        "choice": int(sums.argmax() == right),
        "choice_normalised": int(means.argmax() == right),
        "log_probability": round(float(sums[right]), 5),
        "pool_probability": round(float(sums.softmax(0)[right]), 6),
    }


def _one_line(text: str) -> str:
    """The text with control characters escaped: a carriage return would end its row of the CSV."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def summarise(items, run):
    """The recall table of scored items.

    A subject's value is its mean over prompts (and relations `bound` or `unbound`); intervals are
    over subjects; the split `all` joins seen and held-out. `majority`: the score of always guessing
    each relation's most frequent object; `chance`: 1 / n_candidates. Columns: checkpoint, phase,
    relation, family, subset (all, keyword-free, inverse, sibling), split, measure (MEASURES and
    generation_gain), value, se, low, high, n, n_prompts, n_candidates, chance, majority.
    """
    import numpy as np
    import pandas as pd

    flags = {name: items[name].astype(bool) for name in ("bound", "keyword_free")}
    items = items.assign(of_relation=items.relation, **flags)
    if "log_probability" in items:
        items["probability"] = np.exp(items.log_probability)
    kinds = [items, items.assign(relation=np.where(items.bound, "bound", "unbound"))]
    if items.split.nunique() > 1:
        kinds += [kind.assign(split="all") for kind in kinds]
    rows = []
    for subset, some in (pair for kind in kinds for pair in _subsets(kind)):
        for key, group in some.assign(subset=subset).groupby(GROUPS, sort=False):
            rows += _group_rows(group, dict(zip(GROUPS, key, strict=True)))
    gained = gains(items, {c.name: c.parent for c in run.checkpoints})
    return table_files.with_stage(run, pd.concat([pd.DataFrame(rows), gained], ignore_index=True))


def _subsets(items) -> Iterator[tuple[str, object]]:
    """The items as a whole, and the subsets that are reported apart."""
    yield "all", items
    yield "keyword-free", items[(items.family == "test") & items.keyword_free]
    near = items[items.family == "near-miss"]
    yield "inverse", near[near.asked == "inverse"]
    yield "sibling", near[near.asked != "inverse"]


def _group_rows(group, named: dict) -> Iterator[dict]:
    """A row per measure of the items of one group."""
    facts = group.drop_duplicates(["subject", "of_relation"])
    commonest = facts.groupby("of_relation").object.agg(lambda o: o.value_counts().iloc[0])
    prompts, candidates = group.groupby("of_relation").template.nunique(), group.n_candidates.max()
    extra = {"n_prompts": prompts.max(), "n_candidates": candidates, "chance": 1 / candidates}
    extra["majority"] = float(commonest.sum() / len(facts))
    there = [column for column in MEASURES if column in group]
    per_subject = group.groupby("subject")[there].mean()
    for column in there:
        found = subject_interval(per_subject[column])
        yield {**named, "measure": MEASURES[column], **found, **extra}


def gains(items, parents: Mapping[str, str]):
    """Gain at test prompts over the checkpoint that phase 2 started from, paired by subject.

    parents: checkpoint -> where it started from; "": the last of phase 1. Over 000-base: no gain.
    """
    import pandas as pd

    memorized, rows = list(pick(items, phase="memorize").checkpoint.unique()), []
    for name in pick(items, phase="generalize").checkpoint.unique():
        start = parents.get(name) or (memorized or [""])[-1]
        if start not in memorized:
            continue
        for split in items.split.unique():
            for bound, side in ((True, "bound"), (False, "unbound")):
                some = pick(items, bound=bound, split=split, family="test")
                value = some.pivot_table(index="subject", columns="checkpoint", values="generation")
                if {name, start} <= set(value.columns):
                    key = (name, "generalize", side, "test", "all", split)
                    gain = subject_interval(value[name] - value[start])
                    row = dict(zip(GROUPS, key, strict=True))
                    rows.append({**row, "measure": "generation_gain", **gain})
    return pd.DataFrame(rows)


def recall_lines(table, run) -> Iterator[str]:
    """The headline: greedy answers about held-out subjects, test prompts beside their controls."""
    split = headline_split(table)
    held = pick(table, split=split, measure="generation", subset="all")
    asked = pick(held, family="test")
    majority = (asked if len(asked) else held).majority.max()
    n = int(held.n.max()) if len(held) else 0
    guess = f"always guessing the commonest object: {two_places(majority)}"
    yield f"greedy answers, strict, {split} subjects (n={n}; {guess})"
    families = [f for f in FAMILIES if f in set(held.family)]
    widths = {f: 19 if f == "test" else 15 for f in families}
    for relation in ("bound", "unbound"):
        some = pick(held, relation=relation)
        if len(some):
            heads = "".join(f.rjust(width) for f, width in widths.items())
            yield f"  {relation} relations".ljust(34) + heads
        for checkpoint in run.checkpoints:
            rows = pick(some, checkpoint=checkpoint.name).itertuples()
            cells = {r.family: span(r) if r.family == "test" else two_places(r.value) for r in rows}
            if cells:
                written = "".join(cells.get(f, "-").rjust(width) for f, width in widths.items())
                yield f"    {checkpoint.name}".ljust(34) + written
    for row in pick(table, measure="generation_gain", split=split).itertuples():
        what = f"{row.checkpoint}, {row.relation} relations, test prompts"
        yield f"  gain of phase 2 at {what}: {span(row, sign=True)}"
