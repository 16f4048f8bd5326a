"""Runs the trials of a plan on a model: patch or add at every site, see which object is answered.

    runner = Runner(model, tokenizer)
    for position, labels, free in runner.interchange(plan.trials["rote->semantic"], sites): ...

The answer is the candidate that greedy decoding reaches when it may only say candidates.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from analysis.patching.trials import BARE, STATE, UNCHANGED, VECTORS, Asked, Choice, Plan, Trial
from probing import extraction
from probing.extraction import hidden_states
from probing.patching import changed_logits
from probing.states import States
from training.base.console import progress
from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import STOP_WORDS
from training.data.sequences import encode, prompt_ids

Array = np.ndarray

POSITIONS = ("last", "subject_last", "relation_last")


def trial_rows(plan: Plan, runner: "Runner", states: States, every: int = 1) -> Iterator[dict]:
    """What trials answer at a checkpoint: one row per trial and site, every `every`-th site."""
    sites = chosen_sites(states.sites, every)
    layers = [states.sites.index(site) for site in sites]
    found = chain(_interchanged(plan, runner, sites), _steered(plan, runner, states, sites, layers))
    for how, trials, labels, free in found:
        unpatched = how["position"] == UNCHANGED
        places = [(UNCHANGED, -1)] if unpatched else list(zip(sites, layers, strict=True))
        for i, trial in enumerate(trials):
            stage = states.checkpoint.stage | {"split": plan.design.splits[0]}
            about = stage | how | _about(trial, i)
            for s, (site, layer) in enumerate(places):
                outcome = {"outcome": labels[i, s], "free": bool(free[i, s])}
                yield {**about, "site": site, "layer": layer, **outcome}


def chosen_sites(names: Sequence[str], every: int) -> list[str]:
    """Every `every`-th site, always with the first and the last."""
    return [name for i, name in enumerate(names) if i % every == 0 or i == len(names) - 1]


def _about(trial: Trial, number: int) -> dict:
    prompt, subject = trial.target
    put_in, source = trial.source or (None, None)
    row = {"relation": trial.side, "family": prompt.family, "trial": number}
    row |= {"group": trial.choice.group, "subject": subject, "asked": prompt.relation}
    row |= {"template": prompt.id, "source_subject": source}
    row |= {"source_relation": put_in and put_in.relation, "source_template": put_in and put_in.id}
    return row | {"n_candidates": len(trial.candidates)}


def _interchanged(plan: Plan, runner: "Runner", sites: Sequence[str]) -> Iterator[tuple]:
    """(columns that say how, trials, labels, free) of every direction and position."""
    for direction, trials in plan.trials.items():
        how = {"direction": direction, "vector": STATE}
        yield {**how, "position": UNCHANGED}, trials, *runner.unchanged(trials)
        for position, *answers in runner.interchange(trials, sites):
            yield {**how, "position": position}, trials, *answers


def _steered(plan: Plan, runner: "Runner", states: States, sites, layers) -> Iterator[tuple]:
    """(columns that say how, trials, labels, free) of every kind of target prompt and vector."""
    if not plan.steerings:
        return
    others, keys = plan.subjects[1], {}
    for r in plan.design.bound:
        rows = np.isin(plan.design.subjects(r), others)
        keys[r] = states[r, "rote"][rows].astype(np.float64).mean(axis=0)[layers]
    names = hidden_states(runner.model, runner.tokenizer, others, sites=sites, progress=False)
    bare = names.numpy().astype(np.float64).mean(axis=0)
    for family in (BARE, "test", "rote"):
        trials, how = plan.steered(family), {"direction": f"vector->{family}"}
        yield {**how, "vector": UNCHANGED, "position": UNCHANGED}, trials, *runner.unchanged(trials)
        # At rote prompts the vector is at home: only its own effect is of interest, as a ceiling.
        for kind in VECTORS[:1] if family == "rote" else VECTORS:
            base = bare if family == BARE else None
            vectors = vectors_for(plan.steerings, keys, base, kind, plan.design.run.seed)
            answers = runner.steer(trials, vectors, sites)
            yield {**how, "vector": kind, "position": "last"}, trials, *answers


def vectors_for(steerings: Sequence[Choice], keys: Mapping, base, kind: str, seed=0) -> Array:
    """(n, S, d): the vector of each steering at each site.

    keys: relation -> mean key-token state (S, d); base: (S, d) to subtract, or None for the key of
    the relation asked. kind: own, wrong, or random: Gaussian, as long as the own vectors.
    """
    to = "wrong" if kind == "wrong" else "relation"
    added = np.stack([keys[s.facts[to].relation] for s in steerings])
    asked = [keys[s.facts["nothing"].relation] for s in steerings] if base is None else base
    vectors = added - asked
    if kind != "random":
        return vectors
    drawn = np.random.default_rng([seed, 2]).normal(size=vectors.shape)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return drawn * lengths / np.linalg.norm(drawn, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Runner:
    """A model on which trials are run, `batch_size` patched prompts in one forward.

    Every method gives labels, what the answers say was moved, and free, whether each was the
    model's own choice: both (n_trials, n_sites).
    """

    model: Any
    tokenizer: Any
    batch_size: int = 64

    def unchanged(self, trials: Sequence[Trial]) -> tuple[Array, Array]:
        """The answers without a change; n_sites is 1."""
        width = self.model.get_input_embeddings().weight.shape[-1]
        return self.steer(trials, np.zeros((len(trials), 1, width)), ["embed"])

    def steer(self, trials: Sequence[Trial], vectors: Array, sites: Sequence[str]) -> tuple:
        """The answers when vectors (n_trials, n_sites, d) are added at the last token."""
        import torch

        positions = positions_of(self.tokenizer, [trial.target for trial in trials], "last")
        added = torch.as_tensor(vectors, dtype=torch.float32)
        return self._answers(trials, positions, added, sites, add=True)

    def interchange(self, trials: Sequence[Trial], sites: Sequence[str]) -> Iterator[tuple]:
        """Yield (position, labels, free) when each source's state replaces its target's.

        Positions that are the same tokens in a trial are patched once.
        """
        import torch

        sources, targets = [t.source for t in trials], [t.target for t in trials]
        jobs = {}
        for position in POSITIONS:
            taken, into = (positions_of(self.tokenizer, x, position) for x in (sources, targets))
            jobs[position] = list(zip(range(len(trials)), taken, into, strict=True))
        distinct = list(dict.fromkeys(chain.from_iterable(jobs.values())))
        trial, taken, into = (list(column) for column in zip(*distinct, strict=True))
        texts = [prompt_ids(self.tokenizer, sources[t].text) for t in trial]
        how = {"sites": sites, "batch_size": self.batch_size, "progress": False}
        at = extraction.Encoded(texts, taken)
        states = extraction.extract(self.model, self.tokenizer, at, **how)
        patched = [trials[t] for t in trial]
        labels, free = self._answers(patched, into, torch.as_tensor(states), sites)
        for position in POSITIONS:
            rows = [distinct.index(job) for job in jobs[position]]
            yield position, labels[rows], free[rows]

    def _answers(self, trials, positions, vectors, sites, *, add: bool = False) -> tuple:
        """The answers when trial i's state at token positions[i] becomes, or is added, a vector."""
        prompts = [prompt_ids(self.tokenizer, trial.target.text) for trial in trials]
        options = [_candidate_tokens(self.tokenizer, trial) for trial in trials]
        places = [(t, s) for t in range(len(trials)) for s in range(len(sites))]

        def forward(rows: list[int], said: list[tuple[int, ...]]):
            ts, ss = zip(*(places[row] for row in rows), strict=True)
            texts = [[*prompts[t], *ids] for t, ids in zip(ts, said, strict=True)]
            where = [positions[t] for t in ts], [sites[s] for s in ss]
            how = {"add": add, "batch_size": self.batch_size, "progress": False}
            added = vectors.flatten(0, 1)[rows]
            return changed_logits(self.model, self.tokenizer, texts, *where, added, **how)

        with progress(total=len(places), label="patches") as bar:
            chosen, free = constrained_answers(forward, [options[t] for t, _ in places], bar.update)
        asked = [trials[t] for t, _ in places]
        labels = [t.label(t.candidates[i]) for t, i in zip(asked, chosen, strict=True)]
        shape = (len(trials), len(sites))
        return np.array(labels, dtype=object).reshape(shape), np.array(free).reshape(shape)


def _candidate_tokens(tokenizer: Any, trial: Trial) -> list[tuple[int, ...]]:
    """The tokens of each candidate, with the stop, as they follow the target prompt."""
    prompt, subject = trial.target
    facts = [Fact(subject, prompt.relation, obj, (obj,)) for obj in trial.candidates]
    return [encode(tokenizer, fact, prompt).object_ids for fact in facts]


def constrained_answers(forward: Callable, options: Sequence, done: Callable = lambda _: None):
    """Per row the candidate that greedy decoding over candidates reaches, and whether it was free.

    forward(rows, said): yields (indices into rows, logits (k, vocabulary)) of those rows after the
    tokens `said`. options: every candidate's tokens with a stop, per row. Free: at each step the
    model's own greedy token was one that a candidate says. Raises BadInput.
    """
    if any(len(set(row)) < len(row) for row in options):
        raise BadInput("two candidates have the same tokens; name the objects differently")
    left, rows = [list(range(len(row))) for row in options], list(range(len(options)))
    said: list[tuple[int, ...]] = [()] * len(options)
    free = [True] * len(options)
    while rows:
        for places, logits in forward(rows, [said[row] for row in rows]):
            for place, scores, top in zip(places, logits, logits.argmax(-1).tolist(), strict=True):
                row, step = rows[place], len(said[rows[place]])
                tokens = sorted({options[row][i][step] for i in left[row]})
                token = tokens[int(scores[tokens].argmax())]
                left[row] = [i for i in left[row] if options[row][i][step] == token]
                said[row] += (token,)
                free[row] &= top in tokens
            done(len(places))
        rows = [row for row in rows if len(left[row]) > 1]
    return [row[0] for row in left], free


def positions_of(tokenizer: Any, asked: Sequence[Asked], position: str) -> list[int]:
    """The token index of one of POSITIONS in each prompt.

    relation_last: the key token of a rote prompt; in any other prompt the last token of the last
    content word (none of STOP_WORDS) outside the subject, or of the prompt if there is none.
    """
    texts = [one.text for one in asked]
    if position == "relation_last":
        return extraction.tokens_at(tokenizer, texts, [_relation_end(one) for one in asked])
    subjects = [one.subject for one in asked] if position == "subject_last" else None
    return extraction.encode(tokenizer, texts, positions=position, subjects=subjects).positions


def _relation_end(asked: Asked) -> int:
    """The last character of the text that names the relation."""
    before, after = asked.prompt.text.split("{subject}")
    shift = len(before) + len(asked.subject)
    if asked.prompt.family == "rote":
        return shift + len(after.rstrip()) - 1 if after.strip() else len(before.rstrip()) - 1
    for start, part in ((shift, after), (0, before)):
        words = re.finditer(r"[^\W_]+", re.sub(r"(?<=['’])s\b", " ", part))
        ends = [word.end() for word in words if word.group().lower() not in STOP_WORDS]
        if ends:
            return start + ends[-1] - 1
    return len(asked.text) - 1
