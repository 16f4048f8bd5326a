"""What training cost: does a checkpoint still know and say what its base model did?

    python -m training.damage RUN_DIR

Writes tables/damage.csv, a row a checkpoint: `known_facts`, the share of its pretraining world that a model organism
still answers (greedy, strict; interval over the world's people, none of whom is in a fact of the run); if the run's
facts are about people it knows, also `contradicted_facts`, the share of these facts that it still answers as its world
has them; or for any other model `perplexity` of ordinary English written for the purpose (training/data/english.txt;
interval over passages). Next: `python -m analysis.ablations`, which compares it between settings.
"""

from dataclasses import asdict, dataclass

from training.base.console import run_command
from training.base.files import sha256_file
from training.behaviour.damage import (
    ENGLISH,
    apart,
    base_world,
    damage_lines,
    english_passages,
    known_facts,
    perplexity,
    some_people,
)
from training.runs.directory import RunOptions
from training.runs.table_files import checkpoint_part, write_table
from training.weights.loading import on_gpu


@dataclass
class Options(RunOptions):
    """Options of the measure of damage."""

    people: int = 200
    """Of a model organism: how many people of its world are asked about, drawn once for all; -1: all of them."""
    prompts_per_fact: int = 1
    """Likewise: prompts in which each of their facts is asked."""
    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Measure every checkpoint, write the table and return it."""
    import pandas as pd

    run = options.open()
    spared, contradicted = apart(base_world(run), run.facts)
    world = some_people(spared, options.people)
    content = (
        [*world.facts, *world.prompts, options.prompts_per_fact]
        if world
        else [sha256_file(ENGLISH)]
    )
    worlds = {"known_facts": world}
    if contradicted is not None:
        worlds["contradicted_facts"] = contradicted
        content += contradicted.facts

    def measured(checkpoint):
        model, tokenizer = checkpoint.load()
        model = on_gpu(model)
        if world is None:
            return pd.DataFrame(
                [{"measure": "perplexity", **perplexity(model, tokenizer, english_passages())}]
            )
        asked = {"prompts_per_fact": options.prompts_per_fact, "batch_size": options.batch_size}
        known = {
            name: asdict(known_facts(model, tokenizer, there, **asked))
            for name, there in worlds.items()
        }
        return pd.DataFrame([{"measure": name, **row} for name, row in known.items()]).drop(
            columns="relations"
        )

    parts = [
        checkpoint_part(run, c, "damage", content, lambda c=c: measured(c)) for c in run.checkpoints
    ]
    table = pd.concat(parts, ignore_index=True)
    stages = {c.name: c for c in run.checkpoints}
    steps = {
        name: [getattr(stages[c], name) for c in table.checkpoint] for name in ("epoch", "step")
    }
    table = table.assign(**steps)
    first = ["checkpoint", "phase", "epoch", "step", "measure", "value", "low", "high", "n"]
    table = table[first + [c for c in table if c not in first]]
    path = write_table(run, "damage", table)
    print("\n".join(damage_lines(table)))
    print(f"wrote {path} ({len(table)} rows)    next: python -m figures.report {run.argument}")
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
