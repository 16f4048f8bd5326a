"""What each checkpoint recalls: generation, multiple choice and object probability, for every prompt family.

    python -m training.recall RUN_DIR
    python -m training.recall RUN_DIR --preset full
    python -m training.recall RUN_DIR --phases base --context train --out results/in-context
    python -m training.recall ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Writes tables/recall.csv (one row a checkpoint x relation x family x split x measure, with standard errors over
subjects) and tables/recall_items.csv (one row a checkpoint x fact x prompt). Next: `python -m analysis.cka RUN_DIR`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.prompts import Preset
from training.run_options import RunOptions

Context = Literal["none", "rote", "train"]


@dataclass
class Options(RunOptions):
    """Options of the behavioural measures."""

    preset: Preset = "demo"
    """demo: 3 fixed test prompts and 1 of each other family; full: every prompt in every language."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    checkpoints: tuple[str, ...] = ()
    """Only these checkpoints; default: all."""
    phases: tuple[Literal["base", "memorize", "generalize"], ...] = ()
    """Only checkpoints of these phases; default: all."""
    lenient_tokens: int = 0
    """Also score the paper's lenient rule over so many new tokens (50 in the paper; slow); 0: leave it out."""
    choices: bool = True
    """Score every candidate object too (multiple choice, probabilities); without, greedy answers alone, several times
    faster."""
    context: Context = "none"
    """Tell each fact right before it is asked, as its rote sentence or in its first train prompt: what a model answers
    that only has to read (into --out: it is no recall of the run). Unrelated prompts show how much of it is copied
    whatever is asked."""
    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Score every checkpoint and write both tables; return the summary table."""
    import pandas as pd

    from training.console import minutes
    from training.errors import UserError
    from training.prompts import preset_prompts
    from training.recall_tables import describe, summarise
    from training.tables import checkpoint_part, write_table

    if options.context != "none" and not options.out:
        raise UserError(
            f"--context {options.context} asks another question than what {options.run_dir} recalls. Say where its "
            f"tables go: --out results/NAME"
        )
    run = options.open()
    prompts = preset_prompts(run.prompts, options.preset, families=options.families)
    chosen = [c for c in run.checkpoints if not options.checkpoints or c.name in options.checkpoints]
    chosen = [c for c in chosen if not options.phases or c.phase in options.phases]
    if not chosen:
        raise UserError(
            f"no checkpoint is named {', '.join((*options.checkpoints, *options.phases))}; there are "
            f"{', '.join(c.name for c in run.checkpoints)}."
        )
    texts = len({p.render(f.subject) for p in prompts for f in run.facts if p.relation == f.relation})
    print(
        f"recall: {texts} prompts at {len(chosen)} checkpoints, preset {options.preset}: about "
        f"{minutes(texts * len(chosen) / (35 if options.choices else 70))} on 2 cores without a GPU"
    )
    content = [*run.facts, *prompts, options.lenient_tokens, *(() if options.choices else ("no choices",))]
    if options.context != "none":
        content += [options.context, *_told(run.prompts, options.context).values()]
    parts = [
        checkpoint_part(run, c, "recall", content, lambda c=c: score_checkpoint(run, c, prompts, options))
        for c in chosen
    ]
    items = pd.concat(parts, ignore_index=True)
    summary = summarise(items, run)
    if options.context != "none":
        summary, items = (table.assign(context=options.context) for table in (summary, items))
    write_table(run, "recall_items", items)
    write_table(run, "recall", summary)
    print(describe(summary, run))
    print(
        f"wrote {run.tables('recall.csv')} ({len(summary)} rows), {run.tables('recall_items.csv')} ({len(items)} "
        f"rows)    next: python -m analysis.cka {run.argument}"
    )
    return summary


def score_checkpoint(run, checkpoint, prompts: Sequence, options: Options):
    """Ask one checkpoint every fact in every prompt; one row each.

    Columns: checkpoint, phase, relation, bound, split, subject, object, family, template, text, asked, answered,
    keyword_free, generated, generation (strict, 0/1), n_candidates; only if asked for lenient (0/1) and, with choices,
    choice (0/1), choice_normalised (0/1, mean log-probability a token), log_probability (of the object, nats),
    pool_probability (object's share among the candidates).
    """
    import pandas as pd

    from training.checkpoints import load_checkpoint
    from training.console import progress
    from training.examples import Continuations, context_length, prompt_ids, require_fit, statement
    from training.models import on_gpu
    from training.scoring import Question, answer, said

    model, tokenizer = load_checkpoint(checkpoint)
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
        Question(ids, tuple(sorted(entry["objects"])) if options.choices else ()) for ids, entry in asked.items()
    ]
    stops = {tokenizer.eos_token_id, *continuations.stop_ids}
    new_tokens = max(longest, options.lenient_tokens)
    for ids, entry in asked.items():
        require_fit(len(ids) + new_tokens, limit, *entry["requests"][0])
    ends = (lambda token: token == tokenizer.eos_token_id) if options.lenient_tokens else (lambda t: t in stops)
    objects_of = {(f.subject, f.relation): f.object for f in run.facts}
    rows = []
    bar = progress(total=len(questions), label=f"recall {checkpoint.name}")
    with bar:
        entries = list(asked.values())
        found = answer(model, questions, new_tokens=new_tokens, finished=ends, batch_size=options.batch_size)
        for index, reply in found:
            bar.update()
            score = dict(zip(questions[index].objects, reply.log_probabilities, strict=True))
            text = tokenizer.decode(reply.new_ids)
            for fact, prompt in entries[index]["requests"]:
                target = continuations.of(prompt, fact.subject, fact.object)
                recalled = said(reply.new_ids, target, stops)
                own = {r: objects_of[fact.subject, r] for r in run.relations if (fact.subject, r) in objects_of}
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
    from training.prompts import select

    return {p.relation: p for p in reversed(select(prompts, family=context))} if context != "none" else {}


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


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
