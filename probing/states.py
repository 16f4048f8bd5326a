"""The hidden states of a run: one row per subject, by relation and prompt family.

    run = Run.open("runs/demo")
    states = States(run, "generalized")            # reads the store, extracts what is missing
    rote = states["mother", "rote"]                # (n_subjects, n_sites, d)
    test = states["mother", "test"]                # (n_prompts, n_subjects, n_sites, d)

Row i is the same subject in every array of a relation, and in all relations that share subjects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probing.baselines import untrained
from probing.patching import patch
from probing.sites import choose_sites, names_of, site_names
from probing.store import StateStore, states_for
from training.base.console import minutes
from training.base.errors import BadInput
from training.base.files import write_with
from training.data.prompts import Prompt, preset_prompts, select
from training.runs.checkpoints import Checkpoint
from training.runs.directory import Run
from training.weights.loading import on_gpu

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
# Its prompts are those of the other relations' test family, whose states are there already.
NOT_EXTRACTED = "other-relation"


class StateArray(np.ndarray):
    """States of one relation and family: a float32 array that knows what its rows are.

    >>> x = states["aunt", "rote"]                       # (n_subjects, n_sites, d)
    >>> X, y = x.xy(site=-1, split="seen")               # (n, d) and (n,) for scikit-learn

    Families other than rote have a first axis of prompts: (n_prompts, n_subjects, n_sites, d).
    relation, family: what was asked for. subjects, objects, splits: one entry per row.
    sites: names of the site axis. Indexing gives a plain array.
    """

    relation: str
    family: str
    subjects: list[str]
    objects: Array
    splits: Array
    sites: tuple[str, ...]

    def __array_finalize__(self, source: Any) -> None:
        # Copies keep the labels; whatever has another shape has other rows.
        if getattr(source, "shape", None) == self.shape:
            self.__dict__.update(getattr(source, "__dict__", {}))

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __reduce__(self) -> Any:
        make, arguments, state = super().__reduce__()
        return make, arguments, (state, self.__dict__)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.__dict__.update(state[1])

    def rows(self, split: str = "all") -> Array:
        """Row indices of a split, "seen", "held-out" or "all". Raises BadInput if empty."""
        if not hasattr(self, "splits"):
            raise BadInput("these states have lost their labels; use states[relation, family]")
        found = np.flatnonzero((self.splits == split) | (split == "all"))
        if not len(found):
            there = ", ".join(sorted(set(self.splits)))
            raise BadInput(f"split={split!r} has no rows of {self.relation}; there are {there}")
        return found

    def xy(self, *, site: str | int = -1, split: str = "all") -> tuple[Array, Array]:
        """(n, d) states at one site and (n,) objects, ready for a classifier.

        site: a name or an index into `sites`. Where there are several prompts, n is prompts x
        subjects, prompt by prompt: split by subject before you score.
        """
        rows, place = self.rows(split), site_index(self.sites, site)
        values = np.asarray(self)[..., rows, place, :]
        repeats = 1 if self.ndim == 3 else len(values)
        return values.reshape(-1, values.shape[-1]), np.tile(self.objects[rows], repeats)


class States:
    """Hidden states of a run at one checkpoint, extracted family by family when first asked for.

    `.load()` extracts all families at once, with the model loaded once.

    >>> states = States(Run.open("runs/demo"), "generalized")
    >>> states["aunt", "test"].shape                     # (n_prompts, n_subjects, n_sites, d)
    (3, 80, 32, 576)
    >>> states.patch("Gerald Combs [X_aunt]", "Who is Rosa Bell's aunt?", site=20)   # DataFrame

    run: a Run, or a Design that says which prompts. checkpoint: a Checkpoint, its name, or a phase
    ("base", "memorized", "generalized": its last checkpoint); default: the last of the run.
    preset, families, position: see `Design.of`. seed: if given, a model of this architecture with
    fresh random weights, a control. sites: names of the site axis. Raises NotFound, BadInput.
    """

    def __init__(
        self,
        run: Run | Design,
        checkpoint: Checkpoint | str = "",
        *,
        preset: str = "demo",
        families: Sequence[str] = (),
        position: str = "last",
        seed: int | None = None,
    ) -> None:
        if isinstance(run, str | Path):
            run = Run.open(run)
        if not isinstance(run, Design):
            run = Design.of(run, preset=preset, families=families, position=position)
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = run.run.checkpoint(checkpoint)
        self.design, self.checkpoint, self.seed = run, checkpoint, seed
        self._values: dict[str, Array] = {}

    def __getitem__(self, key: tuple[str, str]) -> StateArray:
        """States of (relation, family). Raises BadInput where the design has no such prompts."""
        if not (isinstance(key, tuple) and len(key) == 2):
            raise BadInput(
                f"states[{key!r}]: give a relation and a family, states['mother', 'rote']"
            )
        relation, family = key
        prompts = self.design.prompts_of(relation, family)
        if not prompts:
            there = ", ".join(dict.fromkeys(p.family for p in self.design.prompts))
            raise BadInput(
                f"no prompts of family {family!r} about relation {relation!r}; there are relations "
                f"{', '.join(self.design.relations)} and families {there}"
            )
        values = [self.of(prompt) for prompt in prompts]
        array = (values[0] if family == "rote" else np.stack(values)).view(StateArray)
        array.relation, array.family, array.sites = relation, family, self.sites
        array.subjects = self.design.subjects(relation)
        array.objects = self.design.objects(relation)
        array.splits = np.array([f.split for f in self.design.facts[relation]])
        return array

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in execution order."""
        return tuple(names_of(self._any.shape[1] - 2))

    @property
    def width(self) -> int:
        """d, the width of the residual stream."""
        return self._any.shape[-1]

    @property
    def _any(self) -> Array:
        """States of a family that is there already, else of rote prompts."""
        return next(iter(self._values.values())) if self._values else self._family("rote")

    def of(self, prompt: Prompt) -> Array:
        """States of a prompt for each subject, (n_subjects, n_sites, d) float32."""
        texts = [prompt.render(s) for s in self.design.subjects(prompt.relation)]
        places = [self.design.places[text] for text in texts]
        return np.stack([self._family(family)[row] for family, row in places])

    def load(self) -> States:
        """Extract or read all families of the design now, with the model loaded at most once."""
        model = cache(self._model)
        for family in ("rote", *self.design.families):
            self._family(family, model)
        return self

    def patch(self, source: str, target: str, *, site: str | int, k: int = 5) -> pd.DataFrame:
        """The k likeliest next tokens after `target` with `source`'s last state put in at `site`.

        Columns token, probability, and unpatched: its probability without the patch.
        """
        import pandas as pd

        model, tokenizer = self._load()
        names = site_names(model)
        name = names[site_index(names, site)]
        both = [source, target], [target, target]
        logits = patch(model, tokenizer, *both, site=name, progress=False)
        patched, plain = logits.softmax(-1)
        likely = patched.topk(min(k, len(patched))).indices
        words = {"token": [tokenizer.decode([i]) for i in likely]}
        numbers = {"probability": patched[likely].numpy(), "unpatched": plain[likely].numpy()}
        return pd.DataFrame({**words, **numbers})

    def to_npz(self, path: str | Path) -> Path:
        """Write all states to one NumPy file: arrays "RELATION/FAMILY", and their labels as JSON.

        >>> states.to_npz("demo.npz")
        >>> file = np.load("demo.npz"); labels = json.loads(str(file["labels"]))
        """
        pairs = dict.fromkeys((p.relation, p.family) for p in self.design.prompts)
        arrays = {f"{relation}/{family}": self[relation, family] for relation, family in pairs}
        about = {a.relation: a for a in arrays.values()}
        names = ("subjects", "objects", "splits")
        rows = {r: {name: list(getattr(a, name)) for name in names} for r, a in about.items()}
        labels = {**self.checkpoint.stage, "sites": list(self.sites), "rows": rows}
        path = Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")

        def fill(part: Path) -> None:
            with open(part, "wb") as file:
                np.savez(file, labels=json.dumps(labels), **arrays)

        write_with(path, fill)
        return path

    def _load(self):
        model, tokenizer = self.checkpoint.load()
        return on_gpu(model if self.seed is None else untrained(model, self.seed)), tokenizer

    def _model(self):
        return self._load()[0]

    def _family(self, family: str, model: Callable | None = None) -> Array:
        """States of a family's distinct texts, (n_texts, n_sites, d)."""
        if family not in self._values:
            texts, position = self.design.texts(family), self.design.position
            control = "" if self.seed is None else f" untrained, seed {self.seed}"
            self._values[family] = states_for(
                StateStore(self.design.run.path / "states"),
                self.checkpoint.fingerprint + control,
                self.checkpoint.tokenizer(),
                list(texts),
                model or self._model,
                position,
                subjects=list(texts.values()) if position == "subject_last" else None,
                description={"checkpoint": self.checkpoint.name, "family": family},
            ).numpy()
        return self._values[family]


@dataclass(frozen=True)
class Design:
    """Which prompts of a run are compared: relations, families, splits, and the order of the rows.

    >>> design = Design.of(Run.open("runs/demo"), families=("test", "unrelated"))
    >>> design.bound, design.unbound, design.splits
    """

    run: Run
    prompts: tuple[Prompt, ...]
    position: str = "last"

    @classmethod
    def of(
        cls, run: Run, *, preset: str = "demo", families: Sequence[str] = (), position: str = "last"
    ) -> Design:
        """The prompts of a preset, or rote and some families. Raises BadInput without rote prompts.

        position: "last" or "subject_last", the token whose states are read.
        """
        wanted = ("rote", *(f for f in families if f != "rote")) if families else ()
        chosen = preset_prompts(run.prompts, preset, families=wanted)
        prompts = tuple(p for p in chosen if p.family != NOT_EXTRACTED)
        if not any(p.family == "rote" for p in prompts):
            what = "Say what was memorised: --rote '{subject} [X]'."
            raise BadInput(f"{run.path} has no rote prompts. {what}")
        return cls(run, prompts, position)

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
        return [r for r in self.relations if any(f.bound for f in self.facts[r])]

    @cached_property
    def unbound(self) -> list[str]:
        """Relations that phase 2 never touched."""
        return [r for r in self.relations if r not in self.bound]

    @cached_property
    def splits(self) -> list[str]:
        """The splits to report: held-out and seen, or all where subjects were not split."""
        there = {f.split for f in self.run.facts}
        return [s for s in ("held-out", "seen") if s in there] if "held-out" in there else ["all"]

    @cached_property
    def shared_subjects(self) -> bool:
        """Whether all relations have the same subjects, which crossed contrasts need."""
        orders = {tuple(self.subjects(r)) for r in self.relations}
        return len(self.relations) > 1 and len(orders) == 1

    @cached_property
    def facts(self) -> dict[str, list]:
        """The facts of each relation, one per row."""
        # One order of subjects for every relation, whatever their order in the file.
        order = {s: i for i, s in enumerate(dict.fromkeys(f.subject for f in self.run.facts))}
        facts = sorted(self.run.facts, key=lambda f: order[f.subject])
        return {r: [f for f in facts if f.relation == r] for r in self.relations}

    def prompts_of(self, relation: str, family: str) -> list[Prompt]:
        """The chosen prompts of a relation's family."""
        return select(self.prompts, relation=relation, family=family)

    def subjects(self, relation: str) -> list[str]:
        """Subjects of a relation: the row order of its states."""
        return [f.subject for f in self.facts[relation]]

    def objects(self, relation: str) -> Array:
        """The object of each row (n_subjects,) str."""
        return np.array([f.object for f in self.facts[relation]])

    def rows(self, relation: str, split: str) -> Array:
        """Row indices of a split: "seen", "held-out" or "all"."""
        facts = self.facts[relation]
        return np.array([i for i, f in enumerate(facts) if split in ("all", f.split)], dtype=int)

    def texts(self, family: str) -> dict[str, str]:
        """Distinct rendered prompts of a family, in order, each with its subject."""
        about: dict[str, str] = {}
        for prompt in select(self.prompts, family=family):
            for subject in self.subjects(prompt.relation):
                about.setdefault(prompt.render(subject), subject)
        return about

    @cached_property
    def places(self) -> dict[str, tuple[str, int]]:
        """Rendered prompt -> (family, row) of its states; the first family that holds it."""
        found: dict[str, tuple[str, int]] = {}
        for family in ("rote", *self.families):
            for row, text in enumerate(self.texts(family)):
                found.setdefault(text, (family, row))
        return found

    def only(self, families: Sequence[str]) -> Design:
        """The same with the rote prompts and those of some families."""
        kept = tuple(p for p in self.prompts if p.family in ("rote", *families))
        return replace(self, prompts=kept)

    @property
    def content(self) -> list:
        """What the states and their rows depend on, weights apart."""
        return [*self.run.facts, *self.prompts, self.position, self.run.seed]

    def announce(self) -> str:
        """How many prompts may have to be read, in words."""
        count = sum(len(self.texts(f)) for f in ("rote", *self.families)) * len(self.checkpoints)
        time = minutes(count / 30)
        return f"states of {count} prompts (about {time} on 2 cores if none is stored)"

    def load(self, checkpoint: Checkpoint) -> States:
        """All states of a checkpoint, from the store or extracted."""
        return States(self, checkpoint).load()

    def untrained(self, checkpoint: Checkpoint, seed: int = 0) -> States:
        """The same for the checkpoint's architecture and tokenizer with fresh random weights."""
        return States(self, checkpoint, seed=seed).load()


def site_index(sites: Sequence[str], site: str | int) -> int:
    """The index of a site given by name or index. Raises BadInput."""
    if isinstance(site, str):
        return list(sites).index(choose_sites(sites, [site])[0])
    if not isinstance(site, int) or not -len(sites) <= site < len(sites):
        raise BadInput(f"site={site}; give {-len(sites)} to {len(sites) - 1}, or a name")
    return site % len(sites)
