"""What each checkpoint recalls: generation, multiple choice and object probability, for every prompt family.

    python -m training.recall RUN_DIR
    python -m training.recall RUN_DIR --preset full
    python -m training.recall RUN_DIR --phases base --context train --out results/in-context
    python -m training.recall ./my-checkpoints --facts facts.csv --rote "{subject} [X]" --out results/mine

Writes tables/recall.csv (one row a checkpoint x relation x family x split x measure, with standard errors over
subjects) and tables/recall_items.csv (one row a checkpoint x fact x prompt). Next: `python -m analysis.cka RUN_DIR`.
"""

from dataclasses import dataclass
from typing import Literal

from training.base.console import minutes, run_command
from training.base.errors import UserError
from training.behaviour.recall import Context, _told, describe, score_checkpoint, summarise
from training.data.prompts import Preset, preset_prompts
from training.runs.directory import RunOptions
from training.runs.table_files import checkpoint_part, write_table


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

    if options.context != "none" and not options.out:
        raise UserError(
            f"--context {options.context} asks another question than what {options.run_dir} recalls. Say where its "
            f"tables go: --out results/NAME"
        )
    run = options.open()
    prompts = preset_prompts(run.prompts, options.preset, families=options.families)
    chosen = [
        c for c in run.checkpoints if not options.checkpoints or c.name in options.checkpoints
    ]
    chosen = [c for c in chosen if not options.phases or c.phase in options.phases]
    if not chosen:
        raise UserError(
            f"no checkpoint is named {', '.join((*options.checkpoints, *options.phases))}; there are "
            f"{', '.join(c.name for c in run.checkpoints)}."
        )
    texts = len(
        {p.render(f.subject) for p in prompts for f in run.facts if p.relation == f.relation}
    )
    print(
        f"recall: {texts} prompts at {len(chosen)} checkpoints, preset {options.preset}: about "
        f"{minutes(texts * len(chosen) / (35 if options.choices else 70))} on 2 cores without a GPU"
    )
    content = [
        *run.facts,
        *prompts,
        options.lenient_tokens,
        *(() if options.choices else ("no choices",)),
    ]
    if options.context != "none":
        content += [options.context, *_told(run.prompts, options.context).values()]
    parts = [
        checkpoint_part(
            run, c, "recall", content, lambda c=c: score_checkpoint(run, c, prompts, options)
        )
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
        f"wrote {run.path / 'tables' / 'recall.csv'} ({len(summary)} rows), {run.path / 'tables' / 'recall_items.csv'} ({len(items)} "
        f"rows)    next: python -m analysis.cka {run.argument}"
    )
    return summary


if __name__ == "__main__":
    run_command(main, Options, __doc__)
