"""Planted truth: states whose making is known, judged; and the numbers that cannot tell them apart.

    python -m benchmarks.planted
    python -m benchmarks.planted --draws 50 --subjects 80 --objects 16

Three kinds of states are drawn, each with rote states that hold every answer:
  one shared route     semantic states hold the answer in the code of the rote states
  two separate codes   semantic states hold it as well, in a code of their own
  no binding           semantic states hold the subject alone
All carry a strong code of the subject, the same on both sides, a different strength of it in every
relation, and a different mean in every prompt. Writes results/benchmarks/planted.csv: per kind
how often each label was given, and what raw CKA, the one-row contrast, the crossed contrast and its
answer-partialled form said.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.measures.contrast import crossed_contrast
from analysis.measures.judgement import LABELS, SEPARATE, SHARED, UNBOUND, judge
from analysis.measures.similarity import linear_cka

Array = np.ndarray
KINDS = (SHARED, SEPARATE, UNBOUND)
# Standard deviations per dimension; NAMES: in the relation that names the subject least, and most.
CODE, NAMES, NOISE, MEANS = 1.2, (0.5, 2.0), 1.0, 5.0


@dataclass
class Options:
    """Options of the planted truth."""

    draws: int = 50
    """Draws of each kind."""
    subjects: int = 80
    """Subjects, the same in every relation."""
    objects: int = 16
    """Objects of each relation."""
    relations: int = 3
    """Relations."""
    width: int = 48
    """Dimensions of the states."""
    prompts: int = 2
    """Semantic prompts of a relation."""
    permutations: int = 199
    """Draws of the nulls."""
    seed: int = 1000
    """Seed of the first draw; the thresholds of the judgement were settled on draws 0 to 49."""
    out: Path = Path("results/benchmarks")
    """Where the table goes."""


@dataclass(frozen=True, eq=False)
class Planted:
    """States of one draw: rote (R, n, d), semantic (P, R, n, d), objects (R, n)."""

    rote: Array
    semantic: Array
    objects: Array

    def flat(self) -> tuple[Array, Array, Array, Array, Array]:
        """For `judge`: rote (m, d), semantic (P, m, d); objects, relations, subjects (m,)."""
        r, n, d = self.rote.shape
        relations, subjects = np.repeat(np.arange(r), n), np.tile(np.arange(n), r)
        semantic = self.semantic.reshape(len(self.semantic), r * n, d)
        return self.rote.reshape(r * n, d), semantic, self.objects.ravel(), relations, subjects


def planted(kind: str, seed: int, options: Options | None = None) -> Planted:
    """One draw of a kind of states."""
    o = options or Options()
    rng = np.random.default_rng(seed)
    objects = np.stack(
        [rng.permutation(np.arange(o.subjects) % o.objects) for _ in range(o.relations)]
    )
    names = rng.normal(size=(o.subjects, o.width))
    shape = (o.relations, o.objects, o.width)
    code, other = CODE * rng.normal(size=shape), CODE * rng.normal(size=shape)
    answers = {SHARED: code, SEPARATE: other, UNBOUND: np.zeros(shape)}[kind]
    # Relations name the subject with different strength, so one row of the table proves nothing.
    strength = np.linspace(*NAMES, o.relations)[:, None, None]
    pick = (np.arange(o.relations)[:, None], objects)
    rote = (
        strength * names + code[pick] + NOISE * rng.normal(size=(o.relations, o.subjects, o.width))
    )
    noise = NOISE * rng.normal(size=(o.prompts, o.relations, o.subjects, o.width))
    means = MEANS * rng.normal(size=(o.prompts, o.relations, 1, o.width))
    return Planted(rote, strength * names + answers[pick] + noise + means, objects)


def one_row_contrast(rote: Array, semantic: Array) -> Array:
    """(R,) CKA with its own prompts minus that with the others': a contrast not to be used."""
    table = np.mean(
        [[[linear_cka(x, y) for y in prompt] for x in rote] for prompt in semantic], axis=0
    )
    r = len(rote)
    return np.diagonal(table) - (table.sum(axis=1) - np.diagonal(table)) / (r - 1)


def score(kind: str, seed: int, options: Options) -> dict:
    """The judgement and the other measures of one draw."""
    states = planted(kind, seed, options)
    judged = judge(*states.flat(), n=options.permutations, rng=seed)
    plain = crossed_contrast(
        states.rote, states.semantic.transpose(1, 0, 2, 3), n=options.permutations, rng=seed
    )
    partialled = next(e for e in judged.evidence if e.name.startswith("answer-partialled"))
    return {
        "kind": kind,
        "seed": seed,
        "label": judged.label,
        "sure": judged.sure,
        "transfer": judged.evidence[0].value,
        "ceiling_rote": judged.evidence[1].value,
        "ceiling_semantic": judged.evidence[2].value,
        "raw_cka": float(np.diagonal(plain.table).mean()),
        "largest_row_contrast": float(one_row_contrast(states.rote, states.semantic).max()),
        "contrast": plain.value,
        "contrast_p": plain.p,
        "partialled": partialled.value,
        "partialled_p": partialled.p,
    }


def summary(scores) -> "object":
    """Per kind: shares of the labels, error rate, mean and range of every measure."""
    import pandas as pd

    rows = []
    for kind in KINDS:
        some = scores[scores.kind == kind]
        row = {"kind": kind, "draws": len(some), "error_rate": float((some.label != kind).mean())}
        row |= {f"said {label}": float((some.label == label).mean()) for label in LABELS}
        row["clear"] = float((some.sure == "clear").mean())
        for measure in ("transfer", "raw_cka", "largest_row_contrast", "contrast", "partialled"):
            row |= {measure: some[measure].mean(), f"{measure}_low": some[measure].min()}
            row[f"{measure}_high"] = some[measure].max()
        row["contrast_significant"] = float((some.contrast_p <= 0.05).mean())
        row["partialled_significant"] = float((some.partialled_p <= 0.05).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def main(options: Options):
    """Judge every draw, write the table, say the error rates; return the table."""
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from training.base.console import progress
    from training.base.files import write_text

    seeds = range(options.seed, options.seed + options.draws)
    with threadpool_limits(1):
        jobs = [(kind, seed) for kind in KINDS for seed in seeds]
        scores = pd.DataFrame(
            [score(kind, seed, options) for kind, seed in progress(jobs, label="planted states")]
        )
    table = summary(scores)
    settings = {
        k: getattr(options, k)
        for k in ("subjects", "objects", "relations", "width", "prompts", "permutations")
    }
    path = options.out / "planted.csv"
    write_text(path, table.assign(**settings).round(4).to_csv(index=False))
    print(
        f"{options.draws} draws of each kind, {options.subjects} subjects, "
        f"{options.objects} objects per relation"
    )
    for row in table.itertuples():
        print(
            f"  {row.kind:<20} wrong {row.error_rate:.0%}   transfer {row.transfer:.2f}   "
            f"raw CKA {row.raw_cka:.2f}   largest row contrast {row.largest_row_contrast:+.2f}   "
            f"contrast {row.contrast:+.2f}   answer partialled out {row.partialled:+.2f}"
        )
    print(f"wrote {path}")
    return table


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
