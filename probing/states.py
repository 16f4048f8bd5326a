"""The hidden states of a run as the analyses need them: per checkpoint, relation and prompt, one row a subject.

    design = Design.of(Run.open("runs/demo"), preset="demo")
    for checkpoint in design.checkpoints:
        states = design.load(checkpoint)           # from the store, extracted if missing
        rote = states["mother", "rote"]            # (n_subjects, n_sites, d)
        test = states["mother", "test"]            # (n_prompts, n_subjects, n_sites, d)

Row i is the same subject in every array of a relation, and in every relation if they share subjects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from probing.baselines import untrained
from probing.sites import names_of
from probing.store import StateStore, states_for
from training.base.console import minutes
from training.base.errors import BadInput
from training.data.prompts import Prompt, preset_prompts, select
from training.runs.checkpoints import Checkpoint
from training.runs.directory import Run
from training.weights.loading import on_gpu

Array = np.ndarray


# Its prompts are those of the other relations' test family: the crossed table holds their states already.
NOT_EXTRACTED = "other-relation"


@dataclass(frozen=True)
class States:
    """The states of one checkpoint; `sites` names the third axis of what it returns."""

    design: "Design"
    checkpoint: Checkpoint
    sites: tuple[str, ...]
    rows: dict[str, int]
    values: Array

    def of(self, prompt: Prompt) -> Array:
        """States of a prompt about every subject of its relation, (n_subjects, n_sites, d) float32."""
        return self.values[
            [self.rows[prompt.render(s)] for s in self.design.subjects(prompt.relation)]
        ]

    def __getitem__(self, key: tuple[str, str]) -> Array:
        """States of (relation, family): (n_subjects, n_sites, d) for "rote", else (n_prompts, n_subjects, n_sites, d)."""
        relation, family = key
        prompts = self.design.prompts_of(relation, family)
        return self.of(prompts[0]) if family == "rote" else np.stack([self.of(p) for p in prompts])


@dataclass(frozen=True)
class Design:
    """Which states of a run are wanted, and how to get them."""

    run: Run
    prompts: tuple[Prompt, ...]
    position: str = "last"

    @classmethod
    def of(
        cls, run: Run, *, preset: str = "demo", families: Sequence[str] = (), position: str = "last"
    ) -> "Design":
        """The states of a preset's prompts, or of some families and rote. Raises BadInput."""
        wanted = ("rote", *(f for f in families if f != "rote")) if families else ()
        prompts = [
            p
            for p in preset_prompts(run.prompts, preset, families=wanted)
            if p.family != NOT_EXTRACTED
        ]
        if not any(p.family == "rote" for p in prompts):
            raise BadInput(
                f"{run.path} has no rote prompts. Say what was memorised: --rote '{{subject}} [X]'."
            )
        return cls(run, tuple(prompts), position)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Checkpoints of the run in training order."""
        return self.run.checkpoints

    @cached_property
    def families(self) -> list[str]:
        """Semantic families, in order of appearance (all but rote)."""
        return [f for f in dict.fromkeys(p.family for p in self.prompts) if f != "rote"]

    @cached_property
    def relations(self) -> list[str]:
        """Relations in order of the facts."""
        return self.run.relations

    @cached_property
    def bound(self) -> list[str]:
        """Relations that phase 2 gave a meaning."""
        bound = {f.relation for f in self.run.facts if f.bound}
        return [r for r in self.relations if r in bound]

    @cached_property
    def unbound(self) -> list[str]:
        """Relations that phase 2 never touched."""
        return [r for r in self.relations if r not in self.bound]

    def prompts_of(self, relation: str, family: str) -> list[Prompt]:
        """The chosen prompts of a relation's family."""
        return select(self.prompts, relation=relation, family=family)

    def subjects(self, relation: str) -> list[str]:
        """Subjects of a relation: the row order of its states."""
        return [f.subject for f in self._facts[relation]]

    def objects(self, relation: str) -> Array:
        """The object of each row (n_subjects,) str."""
        return np.array([f.object for f in self._facts[relation]])

    def rows(self, relation: str, split: str) -> Array:
        """Row indices of a split: "seen", "held-out" or "all"."""
        return np.array(
            [i for i, f in enumerate(self._facts[relation]) if split in ("all", f.split)], dtype=int
        )

    @cached_property
    def splits(self) -> list[str]:
        """The splits to report: held-out and seen, or all where subjects were not split."""
        there = {f.split for f in self.run.facts}
        return [s for s in ("held-out", "seen") if s in there] if "held-out" in there else ["all"]

    @cached_property
    def shared_subjects(self) -> bool:
        """Whether all relations have the same subjects in the same order, which crossed contrasts need."""
        return (
            len(self.relations) > 1 and len({tuple(self.subjects(r)) for r in self.relations}) == 1
        )

    @cached_property
    def _facts(self) -> dict:
        # Of every relation in one order of subjects, whatever the order in the file.
        order = {s: i for i, s in enumerate(dict.fromkeys(f.subject for f in self.run.facts))}
        facts = sorted(self.run.facts, key=lambda f: order[f.subject])
        return {r: [f for f in facts if f.relation == r] for r in self.relations}

    def texts(self, family: str) -> list[str]:
        """Distinct rendered prompts of a family, in order."""
        prompts = [p for p in self.prompts if p.family == family]
        return list(dict.fromkeys(p.render(s) for p in prompts for s in self.subjects(p.relation)))

    def only(self, families: Sequence[str]) -> "Design":
        """The same with the rote prompts and those of some families."""
        return replace(
            self, prompts=tuple(p for p in self.prompts if p.family in ("rote", *families))
        )

    @property
    def content(self) -> list:
        """What the states and their rows depend on besides the weights."""
        return [*self.run.facts, *self.prompts, self.position, self.run.seed]

    def announce(self) -> str:
        """How many prompts may have to be read, in words."""
        count = sum(len(self.texts(f)) for f in ("rote", *self.families)) * len(self.checkpoints)
        return f"states of {count} prompts (about {minutes(count / 30)} on 2 cores if none is stored yet)"

    def load(self, checkpoint: Checkpoint) -> States:
        """All wanted states of a checkpoint, from states/ or extracted; the model is loaded only if needed."""
        return self._read(checkpoint, checkpoint.fingerprint, lambda: checkpoint.load()[0])

    def untrained(self, checkpoint: Checkpoint, seed: int = 0) -> States:
        """The same of a model with the checkpoint's architecture and tokenizer and freshly initialised weights."""

        fingerprint = f"{checkpoint.fingerprint} untrained, seed {seed}"
        return self._read(checkpoint, fingerprint, lambda: untrained(checkpoint.load()[0], seed))

    def _read(self, checkpoint: Checkpoint, fingerprint: str, make_model: Callable) -> States:

        store = StateStore(self.run.path / "states")
        tokenizer = checkpoint.tokenizer()
        loaded: list = []

        def model():
            if not loaded:
                loaded.append(on_gpu(make_model()))
            return loaded[0]

        rows: dict[str, int] = {}
        parts = []
        for family in ("rote", *self.families):
            prompts = [p for p in self.prompts if p.family == family]
            # A text may come from two prompts; the first one says which subject it is about.
            about = {
                p.render(s): s
                for p in reversed(prompts)
                for s in reversed(self.subjects(p.relation))
            }
            texts = self.texts(family)
            note = {"checkpoint": checkpoint.name, "family": family}
            part = states_for(
                store,
                fingerprint,
                tokenizer,
                texts,
                model,
                self.position,
                subjects=[about[text] for text in texts]
                if self.position == "subject_last"
                else None,
                description=note,
            ).numpy()
            for text in texts:
                rows.setdefault(text, len(rows))
            # A text that an earlier family had already keeps its first row.
            fresh = [i for i, text in enumerate(texts) if rows[text] >= sum(len(p) for p in parts)]
            parts.append(part[fresh])
        values = np.concatenate(parts)
        return States(self, checkpoint, tuple(names_of(values.shape[1] - 2)), rows, values)
