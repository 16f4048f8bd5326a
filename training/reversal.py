"""Does a fact read backwards? The inverse prompts are asked about the objects, and people of the run are counted.

    python -m training.reversal RUN_DIR

"Ruth is the mother of": right is any person of the run whose mother is Ruth (greedy; the whole name, then the stop).
Several people share an object, so that a model which only names people of the run is right now and then:
`chance` is how often the given answers would be right if they were dealt out to the relation's objects at random, and
`null_p` how often that is as good (999 deals). Writes tables/reversal.csv, a row a checkpoint, relation (and `bound`,
`unbound`: the means), split (all people count, or those alone that phase 2 may have shown, or those held out) and
measure: `reversal`, `reversal_excess` (above chance) and `named` (any such person at all), with intervals over objects.
`python -m analysis.ablations` compares it between settings.
"""

from dataclasses import dataclass

from training.base.console import run_command
from training.base.errors import BadInput
from training.behaviour.reversal import named_people, reversal_lines, score
from training.runs.directory import RunOptions
from training.runs.table_files import checkpoint_part, write_table
from training.weights.loading import on_gpu


@dataclass
class Options(RunOptions):
    """Options of the inverse questions."""

    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Ask every checkpoint, write the table and return it. Raises BadInput."""
    import pandas as pd

    run = options.open()
    prompts = [p for p in run.prompts if p.asks == "inverse" and p.relation in run.relations]
    if not prompts:
        raise BadInput(
            f"no relation of {', '.join(run.relations)} has an inverse prompt ([[near_miss]] of kind inverse in its "
            f"prompt file). Add one, or use the built-in prompts."
        )

    def measured(checkpoint):
        model, tokenizer = checkpoint.load()
        answers = named_people(
            on_gpu(model), tokenizer, run.facts, prompts, batch_size=options.batch_size
        )
        splits = ["all", *(s for s in ("seen", "held-out") if any(f.split == s for f in run.facts))]
        some = {s: [f for f in run.facts if s in ("all", f.split)] for s in splits}
        parts = [
            pd.DataFrame(score(answers, facts, seed=run.seed)).assign(split=s)
            for s, facts in some.items()
        ]
        return pd.concat(parts, ignore_index=True)

    # Rows that were kept before people were told apart by split are made again.
    content = [*run.facts, *prompts, "by split"]
    parts = [
        checkpoint_part(run, c, "reversal", content, lambda c=c: measured(c))
        for c in run.checkpoints
    ]
    table = pd.concat(parts, ignore_index=True)
    stages = {c.name: c for c in run.checkpoints}
    table = table.assign(
        **{k: [getattr(stages[c], k) for c in table.checkpoint] for k in ("epoch", "step")}
    )
    first = ["checkpoint", "phase", "epoch", "step", "relation", "split", "measure"]
    table = table[[*first, "value", "low", "high", "chance", "null_p", "n"]]
    path = write_table(run, "reversal", table)
    print("\n".join(reversal_lines(table)))
    print(f"wrote {path} ({len(table)} rows)")
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
