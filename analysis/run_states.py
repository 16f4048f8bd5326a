"""The hidden states of a run as the analyses need them: per checkpoint, relation and prompt, one row a subject.

    states = RunStates.of(open_run("runs/demo"), preset="demo")
    for checkpoint in states.checkpoints:
        there = states.load(checkpoint)            # from the store, extracted if missing
        rote = there.rote("mother")                # (n_subjects, n_sites, d)
        test = there.family("mother", "test")      # (n_prompts, n_subjects, n_sites, d)

Row i is the same subject in every array of a relation, and in every relation if they share subjects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from training.checkpoints import Checkpoint, checkpoint_fingerprint, load_checkpoint, load_checkpoint_tokenizer
from training.console import minutes
from training.errors import UserError
from training.prompts import Prompt, preset_prompts, select
from training.runs import Run

Array = np.ndarray
# Its prompts are those of the other relations' test family: the crossed table holds their states already.
NOT_EXTRACTED = "other-relation"


class NoRoteStates(UserError):
    """A run without rote prompts has nothing to compare with."""


@dataclass(frozen=True)
class CheckpointStates:
    """The states of one checkpoint; `sites` names the third axis of what it returns."""

    states: "RunStates"
    checkpoint: Checkpoint
    sites: tuple[str, ...]
    rows: dict[str, int]
    values: Array

    @property
    def stage(self) -> dict:
        """The columns that say which checkpoint a row is of."""
        c = self.checkpoint
        return {"checkpoint": c.name, "phase": c.phase, "epoch": c.epoch, "step": c.step}

    def of(self, prompt: Prompt) -> Array:
        """States of a prompt about every subject of its relation, (n_subjects, n_sites, d) float32."""
        return self.values[[self.rows[prompt.render(s)] for s in self.states.subjects(prompt.relation)]]

    def rote(self, relation: str) -> Array:
        """Rote states of a relation (n_subjects, n_sites, d)."""
        return self.of(select(self.states.prompts, relation=relation, family="rote")[0])

    def family(self, relation: str, family: str) -> Array:
        """States of all prompts of a family (n_prompts, n_subjects, n_sites, d)."""
        return np.stack([self.of(p) for p in select(self.states.prompts, relation=relation, family=family)])


@dataclass(frozen=True)
class RunStates:
    """Which states of a run are wanted, and how to get them."""

    run: Run
    prompts: tuple[Prompt, ...]
    position: str = "last"

    @classmethod
    def of(cls, run: Run, *, preset: str = "demo", families: Sequence[str] = (), position: str = "last") -> "RunStates":
        """The states of a preset's prompts, or of some families and rote. Raises NoRoteStates."""
        wanted = ("rote", *(f for f in families if f != "rote")) if families else ()
        prompts = [p for p in preset_prompts(run.prompts, preset, families=wanted) if p.family != NOT_EXTRACTED]
        if not any(p.family == "rote" for p in prompts):
            raise NoRoteStates(f"{run.path} has no rote prompts. Say what was memorised: --rote '{{subject}} [X]'.")
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
        return np.array([i for i, f in enumerate(self._facts[relation]) if split in ("all", f.split)], dtype=int)

    @cached_property
    def splits(self) -> list[str]:
        """The splits to report: held-out and seen, or all where subjects were not split."""
        there = {f.split for f in self.run.facts}
        return [s for s in ("held-out", "seen") if s in there] if "held-out" in there else ["all"]

    @cached_property
    def shared_subjects(self) -> bool:
        """Whether all relations have the same subjects in the same order, which crossed contrasts need."""
        return len(self.relations) > 1 and len({tuple(self.subjects(r)) for r in self.relations}) == 1

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

    def only(self, families: Sequence[str]) -> "RunStates":
        """The same with the rote prompts and those of some families."""
        return replace(self, prompts=tuple(p for p in self.prompts if p.family in ("rote", *families)))

    @property
    def content(self) -> list:
        """What the states and their rows depend on besides the weights."""
        return [*self.run.facts, *self.prompts, self.position, self.run.seed]

    def announce(self) -> str:
        """How many prompts may have to be read, in words."""
        count = sum(len(self.texts(f)) for f in ("rote", *self.families)) * len(self.checkpoints)
        return f"states of {count} prompts (about {minutes(count / 30)} on 2 cores if none is stored yet)"

    def load(self, checkpoint: Checkpoint) -> CheckpointStates:
        """All wanted states of a checkpoint, from states/ or extracted; the model is loaded only if needed."""
        return self._read(checkpoint, checkpoint_fingerprint(checkpoint), lambda: load_checkpoint(checkpoint)[0])

    def untrained(self, checkpoint: Checkpoint, seed: int = 0) -> CheckpointStates:
        """The same of a model with the checkpoint's architecture and tokenizer and freshly initialised weights."""
        from probing.baselines import untrained

        fingerprint = f"{checkpoint_fingerprint(checkpoint)} untrained, seed {seed}"
        return self._read(checkpoint, fingerprint, lambda: untrained(load_checkpoint(checkpoint)[0], seed))

    def _read(self, checkpoint: Checkpoint, fingerprint: str, make_model: Callable) -> CheckpointStates:
        from probing.sites import names_of
        from probing.store import StateStore, states_for
        from training.models import on_gpu

        store = StateStore(self.run.path / "states")
        tokenizer = load_checkpoint_tokenizer(checkpoint)
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
            about = {p.render(s): s for p in reversed(prompts) for s in reversed(self.subjects(p.relation))}
            texts = self.texts(family)
            note = {"checkpoint": checkpoint.name, "family": family}
            part = states_for(
                store,
                fingerprint,
                tokenizer,
                texts,
                model,
                self.position,
                subjects=[about[text] for text in texts] if self.position == "subject_last" else None,
                description=note,
            ).numpy()
            for text in texts:
                rows.setdefault(text, len(rows))
            # A text that an earlier family had already keeps its first row.
            fresh = [i for i, text in enumerate(texts) if rows[text] >= sum(len(p) for p in parts)]
            parts.append(part[fresh])
        values = np.concatenate(parts)
        return CheckpointStates(self, checkpoint, tuple(names_of(values.shape[1] - 2)), rows, values)


def scored_tables(
    states: RunStates, rows: Mapping[str, Callable[[CheckpointStates], Iterable[dict]]], options: Sequence[object]
) -> list:
    """tables/NAME.csv for each NAME of `rows`, over all checkpoints; written and returned as DataFrames, in order.

    rows: states of a checkpoint -> rows of the table. options: what the rows depend on besides states. A checkpoint
    that was scored before from the same content is read; its states are loaded only if a table lacks its rows.
    """
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from training.tables import checkpoint_part, write_table

    parts: dict[str, list] = {name: [] for name in rows}
    for checkpoint in states.checkpoints:
        loaded: list[CheckpointStates] = []
        for name, rows_of in rows.items():

            def compute(checkpoint=checkpoint, loaded=loaded, rows_of=rows_of):
                if not loaded:
                    loaded.append(states.load(checkpoint))
                # The matrices are small: more threads only wait for each other, many times as long on a busy machine.
                with threadpool_limits(1):
                    found = pd.DataFrame(list(rows_of(loaded[0])))
                # A file without a header could not be read back.
                return found if len(found.columns) else pd.DataFrame(columns=["checkpoint", "phase"])

            parts[name].append(checkpoint_part(states.run, checkpoint, name, [*states.content, *options], compute))
    tables = [pd.concat(tables, ignore_index=True) for tables in parts.values()]
    for name, table in zip(rows, tables, strict=True):
        write_table(states.run, name, table)
    return tables
