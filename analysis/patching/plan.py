"""analysis.patching.plan"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.measures.checks import NotIdentifiable
from analysis.patching.rows import STATE, UNCHANGED, VECTORS, lens_rows, lens_scores
from analysis.patching.trials import (
    BARE,
    Steering,
    Trial,
    bare_prompt,
    choose_pairs,
    choose_steering,
    crossed_objects,
    interchange,
    steer,
    steering_trial,
    unchanged,
    union,
    vectors_for,
)
from probing.extraction import hidden_states
from probing.patching import logit_lens
from probing.sites import names_of
from probing.states import Design, States
from training.base.errors import BadInput, UserError
from training.behaviour.answers import Continuations
from training.data.prompts import Prompt

Array = np.ndarray


DIRECTIONS = ("rote->semantic", "semantic->rote", "semantic->semantic")


def chosen_checkpoints(checkpoints: Sequence, names: Sequence[str] = ()) -> list:
    """Those named; else the last of each phase, and without phases the first and the last. Raises UserError."""
    if names:
        unknown = [name for name in names if name not in [c.name for c in checkpoints]]
        if unknown:
            raise UserError(
                f"no checkpoint is named {', '.join(unknown)}; there are {', '.join(c.name for c in checkpoints)}."
            )
        return [c for c in checkpoints if c.name in names]
    if any(c.phase for c in checkpoints):
        return list({c.phase: c for c in checkpoints}.values())
    return list({c.name: c for c in (checkpoints[0], checkpoints[-1])}.values())


def chosen_sites(names: Sequence[str], every: int) -> list[str]:
    """Every so many-th site, always with the first and the last."""
    return [name for i, name in enumerate(names) if i % every == 0 or i == len(names) - 1]


def _site_count(checkpoint, every: int) -> int:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(checkpoint.weights).get_text_config(decoder=True)
    except (OSError, ValueError):
        # A single GGUF file has no config.json; 30 layers are the default model's.
        return len(chosen_sites(names_of(30), every))
    return len(chosen_sites(names_of(config.num_hidden_layers), every))


@dataclass(frozen=True)
class Plan:
    """Which subjects and prompts of a run are patched; the same at every checkpoint."""

    states: Design
    pairs: int = 20

    @cached_property
    def split(self) -> str:
        """held-out, or all where subjects were not split."""
        return self.states.splits[0]

    @cached_property
    def objects(self) -> dict[tuple[str, str], str]:
        """(subject, relation) -> object."""
        return {(f.subject, f.relation): f.object for f in self.states.run.facts}

    @cached_property
    def pools(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(subject, relation) -> candidates."""
        return {(f.subject, f.relation): f.candidates for f in self.states.run.facts}

    @cached_property
    def subjects(self) -> tuple[list[str], list[str]]:
        """(scored, others): the split's subjects, and those that relation vectors are averaged over."""
        every = list(dict.fromkeys(f.subject for f in self.states.run.facts))
        if self.split == "all":
            return every[::2], every[1::2]
        scored = {f.subject for f in self.states.run.facts if f.split == self.split}
        return [s for s in every if s in scored], [s for s in every if s not in scored]

    @cached_property
    def trials(self) -> dict[str, list[Trial]]:
        """Direction -> trials: the same pairs in each. Raises BadInput, NotIdentifiable."""
        if self.pairs < 2:
            raise BadInput(f"pairs={self.pairs}; give at least 2 pairs, for an interval")
        scored, _ = self.subjects
        bound, unbound, seed = self.states.bound, self.states.unbound, self.states.run.seed
        sides = [("bound", choose_pairs(self.objects, scored, bound, bound, self.pairs, seed))]
        # Without unbound relations there is no such control; the table then has no rows of it.
        with suppress(NotIdentifiable):
            sides.append(
                (
                    "unbound",
                    choose_pairs(self.objects, scored, unbound, bound, -(-self.pairs // 2), seed),
                )
            )
        return {
            direction: [
                self._trial(direction, side, i, pair)
                for side, pairs in sides
                for i, pair in enumerate(pairs)
            ]
            for direction in DIRECTIONS
        }

    def _trial(self, direction: str, side: str, turn: int, pair) -> Trial:
        source, target = direction.split("->")
        return Trial(
            side,
            pair.group,
            self._prompt(pair.target_relation, target, turn),
            pair.target_subject,
            crossed_objects(pair, self.objects),
            union(
                self.pools[pair.target_subject, pair.target_relation],
                self.pools[pair.source_subject, pair.source_relation],
            ),
            (self._prompt(pair.source_relation, source, turn), pair.source_subject),
        )

    def _prompt(self, relation: str, kind: str, turn: int) -> Prompt:
        if kind == BARE:
            return bare_prompt(relation)
        prompts = self.states.prompts_of(relation, "rote" if kind == "rote" else "test")
        return prompts[turn % len(prompts)]

    @cached_property
    def steerings(self) -> list[Steering]:
        """Who is steered from which relation to which."""
        return choose_steering(
            self.objects, self.subjects[0], self.states.bound, self.pairs, self.states.run.seed
        )

    @property
    def patches_a_site(self) -> int:
        """How many patched prompts one site of one checkpoint takes, at most."""
        return 3 * sum(map(len, self.trials.values())) + len(self.steerings) * (
            2 * len(VECTORS) + 1
        )

    def items(self, model, tokenizer, there: States, every: int, batch_size: int) -> Iterator[dict]:
        """Every trial at every site of one checkpoint: what was answered."""
        sites = chosen_sites(there.sites, every)
        stage = stage_of(there.checkpoint)
        for direction, trials in self.trials.items():
            common = {**stage, "split": self.split, "direction": direction, "vector": STATE}
            found = unchanged(model, tokenizer, trials, batch_size=batch_size)
            yield from _rows(trials, {**common, "position": UNCHANGED}, [UNCHANGED], [-1], *found)
            layers = [there.sites.index(site) for site in sites]
            for position, *found in interchange(
                model, tokenizer, trials, sites, batch_size=batch_size
            ):
                yield from _rows(trials, {**common, "position": position}, sites, layers, *found)
        yield from self._steering_items(model, tokenizer, there, sites, stage, batch_size)

    def _steering_items(
        self, model, tokenizer, there, sites, stage: dict, batch_size: int
    ) -> Iterator[dict]:
        if not self.steerings:
            return
        layers = [there.sites.index(site) for site in sites]
        keys = {r: self._key_mean(there, r)[layers] for r in self.states.bound}
        bare = self._bare_mean(model, tokenizer, sites)
        for family in (BARE, "test", "rote"):
            base = bare if family == BARE else None
            trials = [
                steering_trial(s, self._prompt(s.asked, family, i), self.objects, self.pools)
                for i, s in enumerate(self.steerings)
            ]
            # At rote prompts the vector is at home: only its own effect is of interest, as a ceiling.
            kinds = VECTORS[:1] if family == "rote" else VECTORS
            vectors = {
                k: vectors_for(self.steerings, keys, base, k, self.states.run.seed) for k in kinds
            }
            common = {**stage, "split": self.split, "direction": f"vector->{family}"}
            found = unchanged(model, tokenizer, trials, batch_size=batch_size)
            yield from _rows(
                trials,
                {**common, "vector": UNCHANGED, "position": UNCHANGED},
                [UNCHANGED],
                [-1],
                *found,
            )
            for kind, *found in steer(
                model, tokenizer, trials, vectors, sites, batch_size=batch_size
            ):
                yield from _rows(
                    trials, {**common, "vector": kind, "position": "last"}, sites, layers, *found
                )

    def _key_mean(self, there: States, relation: str) -> Array:
        """Mean rote state (S, d) of a relation over the subjects that are not scored."""
        others = set(self.subjects[1])
        rows = [i for i, subject in enumerate(self.states.subjects(relation)) if subject in others]
        return there[relation, "rote"][rows].astype(np.float64).mean(axis=0)

    def _bare_mean(self, model, tokenizer, sites: Sequence[str]) -> Array:

        states = hidden_states(model, tokenizer, self.subjects[1], sites=sites, progress=False)
        return states.numpy().astype(np.float64).mean(axis=0)

    def lens(self, model, tokenizer, there: States, draws: int) -> Iterator[dict]:
        """Rows of the logit lens at the last token of rote and test prompts about the split's subjects."""
        for family in ("rote", "test"):
            found: dict[str, dict] = {"lens": {}, "lens_centred": {}}
            for relation in self.states.relations:
                rows = self.states.rows(relation, self.split)
                read = [
                    self._read(model, tokenizer, there, p, rows)
                    for p in self.states.prompts_of(relation, family)
                ]
                logits, states, tokens = zip(*read, strict=True)
                subjects = np.array(self.states.subjects(relation))[rows]
                for measure, scores in found.items():
                    scores[relation] = lens_scores(
                        logits,
                        states,
                        tokens,
                        self.states.objects(relation)[rows],
                        self._pool(relation, subjects),
                        subjects,
                        centred=measure == "lens_centred",
                        draws=draws,
                        seed=self.states.run.seed,
                    )
            common = {
                **stage_of(there.checkpoint),
                "family": family,
                "split": self.split,
                "position": "last",
            }
            yield from lens_rows(
                found, there.sites, common, bound=self.states.bound, unbound=self.states.unbound
            )

    def _pool(self, relation: str, subjects: Sequence[str]) -> tuple[str, ...]:
        """All candidates of a relation: of facts from elsewhere each may have its own."""
        return union(*(self.pools[subject, relation] for subject in subjects))

    def _read(self, model, tokenizer, there: States, prompt: Prompt, rows: Array) -> tuple:
        """(logits (n, S, K), states (n, S, d), tokens (n, K)) of a prompt about the subjects of `rows`."""
        import torch

        states = there.of(prompt)[rows]
        subjects = [self.states.subjects(prompt.relation)[i] for i in rows]
        pool = self._pool(prompt.relation, subjects)
        continuations = Continuations(tokenizer)
        tokens = np.array([[continuations.of(prompt, s, c)[0] for c in pool] for s in subjects])
        known, index = np.unique(tokens, return_inverse=True)
        lens = (
            logit_lens(model, torch.as_tensor(states), there.sites, token_ids=known.tolist())
            .double()
            .numpy()
        )
        return (
            np.take_along_axis(lens, index.reshape(tokens.shape)[:, None, :], axis=-1),
            states,
            tokens,
        )


def stage_of(checkpoint) -> dict:
    """The table columns that name a checkpoint."""
    return {
        "checkpoint": checkpoint.name,
        "phase": checkpoint.phase,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
    }


def _rows(
    trials: Sequence[Trial], common: dict, sites: Sequence[str], layers: Sequence[int], labels, free
):
    """A row a trial and site."""
    for i, trial in enumerate(trials):
        source = trial.source or (None, None)
        about = {
            **common,
            "relation": trial.side,
            "family": trial.prompt.family,
            "trial": i,
            "group": trial.group,
            "subject": trial.subject,
            "asked": trial.prompt.relation,
            "template": trial.prompt.id,
            "source_subject": source[1],
            "source_relation": source[0] and source[0].relation,
            "source_template": source[0] and source[0].id,
            "n_candidates": len(trial.candidates),
        }
        for place, (site, layer) in enumerate(zip(sites, layers, strict=True)):
            yield {
                **about,
                "site": site,
                "layer": layer,
                "outcome": labels[i, place],
                "free": bool(free[i, place]),
            }
