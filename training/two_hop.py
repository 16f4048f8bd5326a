"""Are two facts put together in one question? What is true of a person's mother is asked about that person.

    python -m training.memorize --facts kin --relations mother home_city profession --out runs/kin
    python -m training.generalize runs/kin
    python -m training.two_hop runs/kin

Where an object of one relation (the mother, one of the run's people) has a fact of its own in another one (her home
city), the second relation's test prompts are asked about "{subject}'s mother": one greedy answer, nothing written
between. Counted are answers with her object (`two_hop`), with the person's OWN object of the second relation (`own`: the
mother in the question was passed over), and both hops asked singly: `first_hop`, `second_hop`, and `product`, what two
hops would come to if each were answered as it is alone. Chance is how often the given answers are true of the OTHER
mothers, and `null_p` how often dealing the mothers out anew does as well (999 deals). Intervals are over mothers, each
with all her people; that of `two_hop_excess` is too narrow where whole families are confused, `null_p` is not. Writes
tables/two_hop.csv; `python -m analysis.ablations` compares it between settings.
"""

from dataclasses import dataclass

from training.base.console import run_command
from training.base.errors import BadInput
from training.behaviour.two_hop import FAMILY, ask, chains_of, score, two_hop_lines
from training.data.prompts import Preset, preset_prompts
from training.runs.directory import RunOptions
from training.runs.table_files import checkpoint_part, write_table
from training.weights.loading import on_gpu


@dataclass
class Options(RunOptions):
    """Options of the questions of two hops."""

    preset: Preset = "demo"
    """demo: 3 test prompts of the second relation; full: all."""
    batch_size: int = 64
    """Prompts in one forward."""


def main(options: Options):
    """Ask every checkpoint, write the table and return it. Raises BadInput."""
    import pandas as pd

    run = options.open()
    prompts = preset_prompts(run.prompts, options.preset, families=(FAMILY,))
    chains = {
        split: chains_of(run.facts, split) for split in dict.fromkeys(f.split for f in run.facts)
    }
    chains = {split: some for split, some in chains.items() if some}
    if not chains:
        raise BadInput(
            f"no object of {run.path} is a person with a fact of its own. Memorise such facts: --facts kin --relations "
            "mother home_city profession"
        )

    def measured(checkpoint):
        model, tokenizer = checkpoint.load()
        everything = list(dict.fromkeys(c for some in chains.values() for c in some))
        answers = ask(
            on_gpu(model), tokenizer, everything, prompts, run.facts, batch_size=options.batch_size
        )
        rows = [
            score(answers, some, run.facts, seed=run.seed, split=split)
            for split, some in chains.items()
        ]
        return pd.DataFrame([row for some in rows for row in some])

    content = [*run.facts, *prompts]
    parts = [
        checkpoint_part(run, c, "two_hop", content, lambda c=c: measured(c))
        for c in run.checkpoints
    ]
    table = pd.concat(parts, ignore_index=True)
    stages = {c.name: c for c in run.checkpoints}
    table = table.assign(
        **{k: [getattr(stages[c], k) for c in table.checkpoint] for k in ("epoch", "step")}
    )
    first = [
        "checkpoint",
        "phase",
        "epoch",
        "step",
        "relation",
        "object_relation",
        "split",
        "measure",
    ]
    table = table[[*first, "value", "low", "high", "chance", "null_p", "n"]]
    path = write_table(run, "two_hop", table)
    print("\n".join(two_hop_lines(table)))
    print(f"wrote {path} ({len(table)} rows)")
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
