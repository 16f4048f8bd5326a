"""Where the answer can be read off a state: the logit lens at the last token, before any patch.

A patch from there on may move a finished answer, which proves nothing about a shared route.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from analysis.measures.checks import first_reasons, site_reasons, to_labels
from analysis.measures.judgement import LEVEL
from analysis.measures.scores import Scores, paired_scores, relation_rows
from analysis.patching.trials import Plan, union
from probing.patching import logit_lens
from probing.states import States
from training.behaviour.answers import Continuations
from training.data.prompts import Prompt
from training.runs.table_files import pick

Array = np.ndarray


def lens_rows(plan: Plan, model: Any, tokenizer: Any, states: States, draws: int) -> Iterator[dict]:
    """What the lens reads from rote and test prompts about the split's subjects, at every site.

    Measure `lens`: the candidate with the largest logit is the object; `lens_centred`: after each
    candidate's mean over subjects is taken off. Null: `draws` permutations of the subjects.
    """
    design, found = plan.design, {}
    for family in ("rote", "test"):
        common = {**states.checkpoint.stage, "family": family, "split": plan.design.splits[0]}
        for r in design.relations:
            read = [_read(plan, model, tokenizer, states, p) for p in design.prompts_of(r, family)]
            for centred in (False, True):
                found.setdefault(centred, {})[r] = _scores(plan, r, read, centred, draws)
        for measure, scores in zip(("lens", "lens_centred"), found.values(), strict=True):
            how = {"measure": measure, "estimator": "logit lens, first token of each candidate"}
            sides = {"bound": design.bound, "unbound": design.unbound}
            for row in relation_rows(scores, states.sites, **sides):
                yield {**common, "position": "last", **row, **how}


def decodable_layer(lens, checkpoint: str, relations: Sequence[str], families: Sequence[str]):
    """The first layer where one of these answers can be read, by either measure; NaN if none can.

    Read: p, corrected for the best of all sites, is at most LEVEL.
    """
    some = pick(lens, checkpoint=checkpoint, relation=tuple(relations), family=tuple(families))
    return float(some[some.null_p_max <= LEVEL].layer.min())


def lens_pairs(logits: Array, tokens: Array, own: Sequence[int], *, centred: bool) -> Array:
    """(S, n, n): whether the lens of subject i says the first token of subject j's object.

    logits: (n, S, K) of the K candidates' first tokens, tokens (n, K); own: (n,) index of each
    subject's object. centred: without each candidate's base rate, its mean over the subjects.
    """
    logits = logits - logits.mean(axis=0) if centred else logits
    best = logits.argmax(axis=-1)[..., None]
    said = np.take_along_axis(tokens[:, None, :], best, axis=-1)[..., 0]
    return (said.T[:, :, None] == tokens[:, own][None]).astype(float)


def _read(plan: Plan, model: Any, tokenizer: Any, states: States, prompt: Prompt) -> tuple:
    """(logits (n, S, K), tokens (n, K), reasons (S,)) of a prompt about the split's subjects."""
    import torch

    subjects, rows, pool = _scored(plan, prompt.relation)
    continuations = Continuations(tokenizer)
    tokens = np.array([[continuations.of(prompt, s, c)[0] for c in pool] for s in subjects])
    known, index = np.unique(tokens, return_inverse=True)
    some = states.of(prompt)[rows]
    lens = logit_lens(model, torch.as_tensor(some), states.sites, token_ids=known.tolist())
    index = index.reshape(tokens.shape)[:, None, :]
    logits = np.take_along_axis(lens.double().numpy(), index, axis=-1)
    return logits, tokens, site_reasons(np.swapaxes(some, 0, 1))


def _scores(plan: Plan, relation: str, read: list[tuple], centred: bool, draws: int) -> Scores:
    """Scores of one relation, averaged over its prompts."""
    subjects, rows, pool = _scored(plan, relation)
    objects = plan.design.objects(relation)[rows]
    own = [pool.index(obj) for obj in objects]
    pairs = np.mean([lens_pairs(x, t, own, centred=centred) for x, t, _ in read], axis=0)
    reasons = first_reasons(*(reasons for *_, reasons in read))
    pairs[[reason is not None for reason in reasons]] = np.nan
    majority = np.bincount(to_labels(objects, len(objects))).max() / len(objects)
    seed = plan.design.run.seed
    return paired_scores(pairs, subjects, reasons, draws, seed, chance=float(majority))


def _scored(plan: Plan, relation: str) -> tuple[Array, Array, tuple[str, ...]]:
    """(subjects, their rows, candidates of all their facts) of a relation in the split."""
    rows, facts = plan.design.rows(relation, plan.design.splits[0]), plan.design.facts[relation]
    subjects = np.array([fact.subject for fact in facts])[rows]
    return subjects, rows, union(*(facts[row].candidates for row in rows))
