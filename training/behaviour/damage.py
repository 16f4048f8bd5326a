"""How much of its world a model organism still knows: the measure of damage, at any checkpoint.

    world = read_world(find("world"))
    known_facts(model, tokenizer, world)      # KnownFacts(value=0.99, low=..., high=..., n=600, questions=3600)

Greedy answers about the people of the pretraining world, who are in no built-in fact, by the strict rule.

What training cost: does a checkpoint still know and say what its base model did?

    python -m training.damage RUN_DIR

Writes tables/damage.csv, a row a checkpoint: `known_facts`, the share of its pretraining world that a model organism
still answers (greedy, strict; interval over the world's people, none of whom is in a fact of the run); if the run's
facts are about people it knows, also `contradicted_facts`, the share of these facts that it still answers as its world
has them; or for any other model `perplexity` of ordinary English written for the purpose (training/data/english.txt;
interval over passages). Next: `python -m analysis.ablations`, which compares it between settings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.base.errors import UserError
from training.behaviour.answers import Continuations, Question, answer, said
from training.behaviour.recall import subject_interval
from training.data.prompts import Prompt
from training.data.sequences import context_length, prompt_ids
from training.organism.recipe import is_organism
from training.organism.world import NoWorld, World, read_world
from training.weights.names import find


@dataclass(frozen=True)
class KnownFacts:
    """Share of questions answered rightly, with a 95% t interval over people.

    n: people; questions: how many were asked; relations: the share in each relation.
    """

    value: float
    low: float
    high: float
    n: int
    questions: int
    relations: dict[str, float]


def known_facts(
    model,
    tokenizer,
    world: World,
    *,
    prompts_per_fact: int = 1,
    families: Sequence[str] = ("train", "test"),
    batch_size: int = 64,
    seed: int = 0,
) -> KnownFacts:
    """Ask every fact of the world in some prompts of its relation, drawn by the seed; greedy, strict.

    prompts_per_fact: how many of the relation's prompts of `families`; at most all are asked. Raises NoWorld if
    the world has no such prompt.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    own = {r: _own_prompts(world, r, families) for r in world.relations}
    asked = [
        (fact, own[fact.relation][i])
        for fact in world.facts
        if fact.relation in own
        for i in rng.permutation(len(own[fact.relation]))[:prompts_per_fact]
    ]
    if not asked:
        raise NoWorld(
            f"the world has no prompts of {', '.join(families)} about its facts. Give other families."
        )
    continuations = Continuations(tokenizer, context_length(model.config))
    targets = [continuations.of(prompt, fact.subject, fact.object) for fact, prompt in asked]
    stops = {tokenizer.eos_token_id, *continuations.stop_ids}
    questions = [
        Question(tuple(prompt_ids(tokenizer, prompt.render(fact.subject))), ())
        for fact, prompt in asked
    ]
    right = np.zeros(len(asked))
    longest = max(map(len, targets)) + 1
    for index, reply in answer(
        model, questions, new_tokens=longest, finished=stops.__contains__, batch_size=batch_size
    ):
        right[index] = said(reply.new_ids, targets[index], stops)
    by_person: dict[str, list[float]] = {}
    by_relation: dict[str, list[float]] = {}
    for (fact, _), hit in zip(asked, right, strict=True):
        by_person.setdefault(fact.subject, []).append(hit)
        by_relation.setdefault(fact.relation, []).append(hit)
    interval = subject_interval([np.mean(hits) for hits in by_person.values()])
    return KnownFacts(
        interval["value"],
        interval["low"],
        interval["high"],
        n=len(by_person),
        questions=len(asked),
        relations={relation: float(np.mean(hits)) for relation, hits in by_relation.items()},
    )


def _own_prompts(world: World, relation: str, families: Sequence[str]) -> list[Prompt]:
    return [p for p in world.prompts if p.relation == relation and p.family in families]


ENGLISH = Path(__file__).parent.parent / "data" / "english.txt"


def base_world(run):
    """The world that the run's base model was pretrained on; None if it is no model organism.

    Only an organism's name or a directory that is here is looked up: a checkpoint needs its base model for nothing
    else, and no other base model has a world.
    """

    name = run.record.get("model", "")
    if not name or not (is_organism(name) or Path(name).expanduser().is_dir()):
        return None
    try:
        return read_world(find(name))
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
    return rest, replace(
        world, facts=known, prompts=[p for p in world.prompts if p.relation in relations]
    )


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
