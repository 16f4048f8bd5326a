"""What each checkpoint recalls: generation, multiple choice and object probability.

    python -m training.recall RUN_DIR
    python -m training.recall RUN_DIR --preset full
    python -m training.recall RUN_DIR --phases base --context train --out results/in-context
    python -m training.recall ./ckpts --facts facts.csv --rote "{subject} [X]" --out results/mine

Writes tables/recall.csv (one row per checkpoint, relation, family, split and measure, with standard
errors over subjects) and tables/recall_items.csv (one row per checkpoint, fact and prompt).
"""

from dataclasses import dataclass
from typing import Literal

from training.base.console import minutes, run_command
from training.base.errors import BadInput, NotFound
from training.behaviour.recall import Context, recall_lines, score_checkpoint, summarise
from training.data.prompts import Preset, preset_prompts
from training.runs.directory import Run, RunOptions
from training.runs.table_files import write_table


@dataclass
class Options(RunOptions):
    """Options of the behavioural measures."""

    preset: Preset = "demo"
    """demo: 3 fixed test prompts and 1 of each other family; full: every prompt, all languages."""
    families: tuple[str, ...] = ()
    """Only these prompt families; default: all of the preset."""
    checkpoints: tuple[str, ...] = ()
    """Only these checkpoints; default: all."""
    phases: tuple[Literal["base", "memorize", "generalize"], ...] = ()
    """Only checkpoints of these phases; default: all."""
    lenient_tokens: int = 0
    """New tokens over which to score the paper's lenient rule too (its 50 are slow); 0: none."""
    choices: bool = True
    """Score every candidate object too (multiple choice, probabilities); several times slower."""
    context: Context = "none"
    """Tell each fact right before it is asked, as its rote sentence or in its first train prompt:
    what a model answers that only has to read (into --out: it is not what the run recalls).
    Unrelated prompts show how much is copied whatever is asked."""
    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Score every checkpoint and write both tables; return the summary table."""
    import pandas as pd

    if options.context != "none" and not options.out:
        fault = f"--context {options.context} asks another question than what the run recalls"
        raise BadInput(f"{fault}. Say where its tables go: --out results/NAME")
    run = options.open()
    prompts = preset_prompts(run.prompts, options.preset, families=options.families)
    chosen = _chosen(run, options.checkpoints, options.phases)
    texts = {p.render(f.subject) for p in prompts for f in run.facts if p.relation == f.relation}
    seconds = len(texts) * len(chosen) / (35 if options.choices else 70)
    asked = f"{len(texts)} prompts at {len(chosen)} checkpoints, preset {options.preset}"
    print(f"recall: {asked}: about {minutes(seconds)} on 2 cores without a GPU")
    names = ("choices", "lenient_tokens", "context", "batch_size")
    how = {name: getattr(options, name) for name in names}
    parts = [score_checkpoint(run, checkpoint, prompts, **how) for checkpoint in chosen]
    items = pd.concat(parts, ignore_index=True)
    summary = summarise(items, run)
    if options.context != "none":
        summary, items = (table.assign(context=options.context) for table in (summary, items))
    there = write_table(run, "recall_items", items)
    path = write_table(run, "recall", summary)
    print("\n".join(recall_lines(summary, run)))
    wrote = f"wrote {path} ({len(summary)} rows), {there} ({len(items)} rows)"
    print(f"{wrote}    next: python -m analysis.cka {run.argument}")
    return summary


def _chosen(run: Run, names: tuple[str, ...], phases: tuple[str, ...]) -> list:
    """The run's checkpoints of these names and phases; all where none is given."""
    kept = {run.checkpoint(name).name for name in names} or {c.name for c in run.checkpoints}
    chosen = [c for c in run.checkpoints if c.name in kept and (not phases or c.phase in phases)]
    if not chosen:
        there = ", ".join(c.name for c in run.checkpoints)
        raise NotFound(f"no checkpoint is of {', '.join((*names, *phases))}; there are {there}.")
    return chosen


if __name__ == "__main__":
    run_command(main, Options, __doc__)
