"""What training cost: does a checkpoint still know and say what its base model did?

    python -m training.damage RUN_DIR

Writes tables/damage.csv, a row a checkpoint: `known_facts`, the share of its pretraining world that a model organism
still answers (greedy, strict; interval over the world's people, none of whom is in a fact of the run); if the run's
facts are about people it knows, also `contradicted_facts`, the share of these facts that it still answers as its world
has them; or for any other model `perplexity` of ordinary English written for the purpose (training/data/english.txt;
interval over passages). Next: `python -m analysis.ablations`, which compares it between settings.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.errors import UserError
from training.run_options import RunOptions

ENGLISH = Path(__file__).parent / "data" / "english.txt"


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

    from training.checkpoints import load_checkpoint
    from training.files import sha256_file
    from training.known import known_facts
    from training.models import on_gpu
    from training.tables import checkpoint_part, write_table

    run = options.open()
    spared, contradicted = apart(base_world(run), run.facts)
    world = some_people(spared, options.people)
    content = [*world.facts, *world.prompts, options.prompts_per_fact] if world else [sha256_file(ENGLISH)]
    worlds = {"known_facts": world}
    if contradicted is not None:
        worlds["contradicted_facts"] = contradicted
        content += contradicted.facts

    def measured(checkpoint):
        model, tokenizer = load_checkpoint(checkpoint)
        model = on_gpu(model)
        if world is None:
            return pd.DataFrame([{"measure": "perplexity", **perplexity(model, tokenizer, english_passages())}])
        asked = {"prompts_per_fact": options.prompts_per_fact, "batch_size": options.batch_size}
        known = {name: asdict(known_facts(model, tokenizer, there, **asked)) for name, there in worlds.items()}
        return pd.DataFrame([{"measure": name, **row} for name, row in known.items()]).drop(columns="relations")

    parts = [checkpoint_part(run, c, "damage", content, lambda c=c: measured(c)) for c in run.checkpoints]
    table = pd.concat(parts, ignore_index=True)
    stages = {c.name: c for c in run.checkpoints}
    steps = {name: [getattr(stages[c], name) for c in table.checkpoint] for name in ("epoch", "step")}
    table = table.assign(**steps)
    first = ["checkpoint", "phase", "epoch", "step", "measure", "value", "low", "high", "n"]
    table = table[first + [c for c in table if c not in first]]
    path = write_table(run, "damage", table)
    print("\n".join(damage_lines(table)))
    print(f"wrote {path} ({len(table)} rows)    next: python -m figures.report {run.argument}")
    return table


def base_world(run):
    """The world that the run's base model was pretrained on; None if it is no model organism.

    Only an organism's name or a directory that is here is looked up: a checkpoint needs its base model for nothing
    else, and no other base model has a world.
    """
    from training.known import NoWorld, read_world
    from training.models import resolve
    from training.organism import is_organism

    name = run.record.get("model", "")
    if not name or not (is_organism(name) or Path(name).expanduser().is_dir()):
        return None
    try:
        return read_world(resolve(name))
    except NoWorld:
        return None


def apart(world, facts: Sequence):
    """(the world of the people who are in none of the facts, what is true of those facts' subjects and relations).

    The second is None where no fact is about the world's people; both are where there is no world.
    """
    if world is None:
        return None, None
    asked, subjects = {(f.subject, f.relation) for f in facts}, {f.subject for f in facts}
    known = [f for f in world.facts if (f.subject, f.relation) in asked]
    rest = replace(world, facts=[f for f in world.facts if f.subject not in subjects])
    if not known:
        return rest, None
    relations = {f.relation for f in known}
    return rest, replace(world, facts=known, prompts=[p for p in world.prompts if p.relation in relations])


def some_people(world, people: int):
    """A world cut down to `people` of its people, the same ones every time; -1: as it is."""
    import numpy as np

    if world is None or people < 0:
        return world
    if people == 0:
        raise UserError("--people is 0; give how many people of the world are asked about, or -1.")
    names = list(dict.fromkeys(fact.subject for fact in world.facts))
    chosen = {names[i] for i in np.random.default_rng(0).permutation(len(names))[:people]}
    return replace(world, facts=[fact for fact in world.facts if fact.subject in chosen])


def perplexity(model, tokenizer, passages: Sequence[str]) -> dict:
    """exp of the mean loss a token (nats) over passages read one by one, with a 95% interval over passages.

    The first token of a passage is given, not scored. The interval is that of a ratio of sums (delete-one jackknife
    of its logarithm over passages). Returns value, low, high, n (passages) and tokens.
    """
    import numpy as np
    import torch
    from scipy import stats

    losses, counts = [], []
    for text in passages:
        ids = torch.tensor([tokenizer(text)["input_ids"]], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")))
        counts.append(ids.shape[1] - 1)
    losses, counts = np.array(losses), np.array(counts)
    n, mean = len(losses), losses.sum() / counts.sum()
    left_out = (losses.sum() - losses) / (counts.sum() - counts)
    error = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return {
        "value": math.exp(mean),
        "low": math.exp(mean - half),
        "high": math.exp(mean + half),
        "n": n,
        "tokens": int(counts.sum()),
    }


def english_passages() -> list[str]:
    """The passages of training/data/english.txt."""
    return [p.strip() for p in ENGLISH.read_text(encoding="utf-8").split("\n\n") if p.strip()]


def damage_lines(table) -> list[str]:
    """A line a checkpoint."""
    words = {
        "known_facts": "facts of its pretraining world known",
        "contradicted_facts": "contradicted facts answered as its world has them",
        "perplexity": "perplexity of ordinary English",
    }
    unit = {"perplexity": "passages"}
    return [
        f"  {row.checkpoint:<28} {words[row.measure]}: {row.value:.2f} [{row.low:.2f}, {row.high:.2f}] "
        f"(n={row.n:.0f} {unit.get(row.measure, 'people')})"
        for row in table.itertuples()
    ]


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
