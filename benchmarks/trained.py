"""Planted truth in small TRAINED models: three ways to train one organism, judged and edited.

    python -m benchmarks.trained
    python -m benchmarks.trained --model world --seeds 20 21

A model organism (training.pretrain) memorises facts of 80 people by rote; then
  one shared route     both phases as usual: rote, then meaningful prompts about half of the people
  two separate codes   the rote sentences stand in a cipher, and every fact is also fine-tuned in
                       meaningful prompts: both are answered, from and to different tokens
  no binding           the rote sentences in the cipher alone
  two routes, one code as two separate codes, but with only the names in the cipher
That the route is what the name says is tested from outside: the ROTE answers of half of the people
are retrained to other objects, and the meaningful prompts are asked again. Along a shared route
they follow. The fourth kind shows a limit: late states hold the object's own code whatever led to
it, so transfer shows a shared code and not a shared route. States are judged at the last block,
fixed beforehand. Writes results/benchmarks/trained.csv, one row per kind and seed.
"""

import contextlib
import io
import tempfile
from codecs import encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.measures.judgement import SEPARATE, SHARED, UNBOUND, judge
from analysis.measures.similarity import linear_cka
from benchmarks.planted import KINDS, one_row_contrast

ROUTES = "two routes, one code"

PROMPTS = (0, 4, 7)  # test prompts whose states are judged
EDIT = {"epochs": 12, "seed": 1}


@dataclass
class Options:
    """Options of the trained models of known making."""

    model: str = "world-tiny"
    """The model organism that they are made from: a name or a directory."""
    seeds: tuple[int, ...] = (30, 31, 32, 33, 34)
    """Seeds of people, objects and training; 5 and 10 to 14 were used to choose the settings."""
    kinds: tuple[str, ...] = (*KINDS, ROUTES)
    """Kinds of models to train."""
    relations: tuple[str, ...] = ("mother", "aunt", "profession")
    """Relations of the facts."""
    subjects: int = 80
    """People; half of them are judged."""
    permutations: int = 199
    """Draws of the nulls."""
    out: Path = Path("results/benchmarks")
    """Where the table goes."""


@dataclass(frozen=True)
class Made:
    """A trained model and what it was taught; written: how a fact is written by rote."""

    model: object
    tokenizer: object
    facts: list
    written: Callable
    prompts: list

    def recall(self, family: str, facts: Sequence | None = None) -> float:
        """Share of facts (default: all) answered in prompts of a family, strict and greedy."""
        from training.behaviour.damage import known_facts
        from training.organism.world import World

        asked = self.facts if facts is None else facts
        if family == "rote":
            asked = map(self.written, asked)
        world = World(list(asked), [p for p in self.prompts if p.family == family])
        few = {"families": (family,), "prompts_per_fact": 3}
        return known_facts(self.model, self.tokenizer, world, **few)["value"]


def make(
    kind: str, folder: Path, seed: int, *, relations: Sequence[str], subjects: int = 80
) -> Made:
    """Train a model of a kind from the organism in `folder`."""
    from training.data.facts import build_facts, split_facts
    from training.data.prompts import key_token, load_prompts, select
    from training.weights.key_tokens import add_key_tokens, initial_key_rows, set_key_rows
    from training.weights.loading import load_folder

    built = build_facts("people", subjects=subjects, relations=relations, pool=16, seed=seed)
    facts = split_facts(built, seen=subjects // 2, unbound=0, seed=seed)
    prompts = load_prompts(list(relations), rote="{subject} {key}")
    model, tokenizer = load_folder(folder)
    tokens = [key_token(r) for r in relations]
    set_key_rows(
        model, add_key_tokens(tokenizer, tokens), initial_key_rows(model, tokens, seed=seed)
    )
    made = Made(model, tokenizer, facts, WRITTEN[kind], prompts)
    rote_facts = [made.written(f) for f in facts]
    rote, train = ([p for p in prompts if p.family == family] for family in ("rote", "train"))
    fit(made, [(rote_facts, rote)], epochs=40, facts_per_sequence=4, seed=seed)
    if kind == SHARED:
        seen = [f for f in facts if f.split == "seen"]
        fit(made, [(seen, train)], epochs=1, learning_rate=3e-4, batch_size=20, seed=seed)
    if kind in (SEPARATE, ROUTES):
        some = [p for r in relations for p in select(train, relation=r)[:4]]
        fit(made, [(facts, some), (rote_facts, rote)], epochs=20, batch_size=40, seed=seed)
    return made


def as_it_is(fact):
    """The fact."""
    return fact


def name_in_cipher(fact):
    """The fact with its subject in ROT13 capitals: other tokens, no shared first letter."""
    return replace(fact, subject=encode(fact.subject, "rot13").upper())


def in_cipher(fact):
    """The fact with subject and object in that cipher."""
    return replace(name_in_cipher(fact), object=encode(fact.object, "rot13").upper())


# How each kind of model has its facts written by rote.
WRITTEN = {SHARED: as_it_is, SEPARATE: in_cipher, UNBOUND: in_cipher, ROUTES: name_in_cipher}


def fit(made: Made, taught: Sequence[tuple], *, seed: int, epochs: int, **settings) -> None:
    """Train on facts x prompts, in place, with loss on the object."""
    from training.data.sequences import context_length, encode_all
    from training.loop.trainer import TrainingSettings, train

    limit = context_length(made.model.config)
    examples = [
        e
        for facts, prompts in taught
        for e in encode_all(made.tokenizer, facts, prompts, limit=limit)
    ]
    usual = {"batch_size": 32, "learning_rate": 1e-3, "loss": "object", "precision": "float32"}
    chosen = TrainingSettings(**{**usual, **settings, "epochs": epochs, "seed": seed})
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(
            made.model,
            made.tokenizer,
            examples,
            chosen,
            Path(folder),
            phase="memorize",
            parent="",
            resume_minutes=99,
        )
    made.model.eval()


def states(made: Made, facts: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Of the facts, at the last block: rote (m, d) and test-prompt states (P, m, d)."""
    from probing.extraction import hidden_states
    from training.data.prompts import select

    def of(texts: list[str]) -> np.ndarray:
        return hidden_states(made.model, made.tokenizer, texts, progress=False)[:, -2].numpy()

    def prompt(relation: str, family: str, index: int):
        return next(
            p for p in select(made.prompts, relation=relation, family=family) if p.index == index
        )

    rote = [prompt(f.relation, "rote", 0).render(made.written(f).subject) for f in facts]
    semantic = [[prompt(f.relation, "test", i).render(f.subject) for f in facts] for i in PROMPTS]
    return of(rote), np.stack([of(texts) for texts in semantic])


def edited(made: Made, facts: Sequence, *, seed: int) -> dict[str, float]:
    """Train half of these people's rote answers to other objects, then ask the test prompts.

    Changes the model. Returns the shares of test prompts that followed to the new object and that
    kept the old one, and the rote recall of the new ones.
    """
    people = list(dict.fromkeys(f.subject for f in facts))
    chosen = set(np.random.default_rng(seed).permutation(people)[: len(people) // 2])
    pools: dict[str, list[str]] = {}
    for fact in made.facts:
        pools.setdefault(
            fact.relation, sorted({f.object for f in made.facts if f.relation == fact.relation})
        )

    def other(fact):
        pool = pools[fact.relation]
        return replace(fact, object=pool[(pool.index(fact.object) + 5) % len(pool)])

    old = [f for f in facts if f.subject in chosen]
    new = [other(f) for f in old]
    now = [other(f) if f in old else f for f in made.facts]
    rote = [p for p in made.prompts if p.family == "rote"]
    fit(made, [([made.written(f) for f in now], rote)], facts_per_sequence=4, **EDIT)
    return {
        "rote_edited": made.recall("rote", new),
        "followed": made.recall("test", new),
        "kept": made.recall("test", old),
    }


def score(kind: str, seed: int, folder: Path, options: Options) -> dict:
    """Train one model, judge it at half of its people, and see whether answers follow an edit."""
    made = make(kind, folder, seed, relations=options.relations, subjects=options.subjects)
    facts = [f for f in made.facts if f.split == "held-out"]
    rote, semantic = states(made, facts)
    objects, relations, subjects = (
        np.array([getattr(f, k) for f in facts]) for k in ("object", "relation", "subject")
    )
    judged = judge(rote, semantic, objects, relations, subjects, n=options.permutations, rng=seed)
    transfer, by_rote, by_semantic, *more = judged.evidence
    partialled = next((e for e in more if e.name.startswith("answer-partialled")), None)
    rows = [np.flatnonzero(relations == r) for r in options.relations]
    rows = [r[np.argsort(subjects[r], kind="stable")] for r in rows]
    stack, stacks = (
        np.stack([rote[r] for r in rows]),
        np.stack([[s[r] for r in rows] for s in semantic]),
    )
    row = {
        "kind": kind,
        "seed": seed,
        "recall_rote": made.recall("rote"),
        "recall_test": made.recall("test", facts),
        "label": judged.label,
        "sure": judged.sure,
        # Two routes are not one, whatever their codes.
        "right": judged.label == kind if kind in KINDS else judged.label != SHARED,
        "share": judged.share,
        "share_low": judged.low,
        "share_high": judged.high,
        "raw_cka": float(
            np.mean([linear_cka(x, y) for ys in stacks for x, y in zip(stack, ys, strict=True)])
        ),
        "largest_row_contrast": float(one_row_contrast(stack, stacks).max()),
    }
    for name, evidence in (
        ("transfer", transfer),
        ("rote_to_rote", by_rote),
        ("test_to_test", by_semantic),
    ):
        row |= {name: evidence.value, f"{name}_low": evidence.low, f"{name}_high": evidence.high}
    row |= {"transfer_p": transfer.p, "chance": transfer.chance, "n": transfer.n}
    if partialled is not None:
        row |= {"partialled": partialled.value, "partialled_p": partialled.p}
    return row | edited(made, facts, seed=seed)


def main(options: Options):
    """Train and judge every model, write the table, say what was right; return the table."""
    import pandas as pd

    from training.base.console import progress
    from training.base.files import write_text
    from training.base.provenance import commit
    from training.loop.obtain import obtain

    folder = obtain(options.model)
    jobs = [(kind, seed) for kind in options.kinds for seed in options.seeds]
    table = pd.DataFrame(
        [
            score(kind, seed, folder, options)
            for kind, seed in progress(jobs, label="trained models")
        ]
    )
    path = options.out / "trained.csv"
    made = {
        "model": options.model,
        "subjects": options.subjects,
        "permutations": options.permutations,
    }
    write_text(path, table.round(4).assign(**made, commit=commit()).to_csv(index=False))
    print(
        f"{len(options.seeds)} models of each kind from {options.model}, "
        "judged at half of the people"
    )
    for kind in options.kinds:
        some = table[table.kind == kind]
        means = some.mean(numeric_only=True)
        print(
            f"  {kind:<20} right {int(some.right.sum())} of {len(some)}   "
            f"recall rote {means.recall_rote:.2f} test {means.recall_test:.2f}   "
            f"transfer {means.transfer:.2f} (rote {means.rote_to_rote:.2f}, test "
            f"{means.test_to_test:.2f})   raw CKA {means.raw_cka:.2f}   largest row contrast "
            f"{means.largest_row_contrast:+.2f}   after the edit followed {means.followed:.2f} "
            f"kept {means.kept:.2f}"
        )
    print(f"wrote {path}")
    return table


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
