"""Do intervals cover and tests keep their size? Rates over draws of states whose truth is known.

    python -m benchmarks.calibration
    python -m benchmarks.calibration --repetitions 100 --permutations 99       # about a minute

rejection   permutation and max-statistic tests of debiased CKA on independent states, nominal .05
coverage    delete-one jackknife of debiased CKA against its population value, nominal .95, with
            features of one size and with one of 20 times the size
contrast    the crossed contrast without any answer: unequal means, unequal strength of the subject
            on one side, and on both
transfer    object probes between two unrelated codes: nulls over subjects and over objects
chance      what probes score on states without an answer, minus guessing the commonest object

Writes results/benchmarks/calibration.csv, one rate per row with its 95% interval (Clopper-Pearson).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.measures.contrast import crossed_contrast
from analysis.measures.judgement import object_permutation_p
from analysis.measures.scores import paired_scores, summaries
from analysis.measures.similarity import leave_one_out_cka, linear_cka_grid, permutation_null_cka
from analysis.measures.statistics import jackknife_interval, max_statistic_test, permutation_p
from analysis.measures.transfer import fit_probes
from training.base.errors import BadInput

Array = np.ndarray
LEVEL = 0.05
SIZES = (40, 80, 150, 400)
MASSIVE = 20.0
OBJECTS = 8


@dataclass
class Options:
    """Options of the calibration."""

    repetitions: int = 1000
    """Draws of states behind every rate."""
    permutations: int = 199
    """Draws of every null."""
    only: tuple[str, ...] = ()
    """Only these checks: rejection, coverage, contrast, transfer, chance."""
    seed: int = 0
    """Seed of all draws."""
    out: Path = Path("results/benchmarks")
    """Where the table goes."""


def main(options: Options):
    """Run the checks, write the table, print it; return it."""
    import warnings

    import pandas as pd
    from threadpoolctl import threadpool_limits

    from analysis.measures.checks import SmallSample
    from training.base.files import write_text
    from training.base.provenance import commit

    unknown = set(options.only) - set(CHECKS)
    if unknown:
        raise BadInput(f"--only {', '.join(sorted(unknown))}: there are {', '.join(CHECKS)}")
    rows = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSample)
        for name in options.only or CHECKS:
            rows += [{"check": name, **row} for row in CHECKS[name](options)]
    table = pd.DataFrame(rows).assign(permutations=options.permutations, commit=commit())
    path = options.out / "calibration.csv"
    write_text(path, table.round(4).to_csv(index=False))
    for row in table.itertuples():
        rate = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
        print(f"  {row.check:<11}{row.setting:<66} n={row.n:<4} {rate}")
    print(f"wrote {path}")
    return table


# --- the checks


def rejection(options: Options) -> Iterator[dict]:
    """Rejection rates on independent states: one site, and the best of 12 x 12 pairs of sites."""
    for n in (40, 150):
        single, best = [], []
        for rng in _rngs(options, "rejection", n):
            xs, ys = rng.normal(size=(2, 12, n, 16))
            grid = linear_cka_grid(xs, ys)
            null = permutation_null_cka(xs, ys, options.permutations, rng, grid=True)
            single.append(permutation_p(grid[0, 0], null[:, 0, 0]) <= LEVEL)
            best.append(max_statistic_test(grid, null).p_best <= LEVEL)
        yield _rate("permutation test, one pair of sites", n, single, LEVEL)
        yield _rate("max-statistic test, best of 144 pairs of sites", n, best, LEVEL)


def coverage(options: Options) -> Iterator[dict]:
    """How often the jackknife interval holds the population value."""
    for massive in (False, True):
        for n in SIZES:
            inside = []
            for rng in _rngs(options, "coverage", n):
                x, y, truth = related_states(rng, n, massive=massive)
                found = jackknife_interval(*leave_one_out_cka(x[None], y[None]))
                inside.append(found.low[0] <= truth <= found.high[0])
            words = (
                f"jackknife of debiased CKA, one feature of {MASSIVE:g} times the size"
                if massive
                else PLAIN
            )
            yield _rate(words, n, inside, 1 - LEVEL)


def related_states(
    rng: np.random.Generator, n: int, *, massive: bool, d: int = 20, rho: float = 0.7
):
    """x, y (n, d) Gaussian with correlation rho feature by feature, and their population CKA.

    With cross-covariance rho D^2 and covariances D^2, E HSIC_1 is the squared Frobenius norm of
    each, so that the ratio is rho^2 whatever the sizes D of the features.
    """
    common, *own = rng.normal(size=(3, n, d))
    sizes = np.ones(d)
    sizes[0] = MASSIVE if massive else 1
    x, y = (sizes * (np.sqrt(rho) * common + np.sqrt(1 - rho) * z) for z in own)
    return x, y, rho**2


def contrast(options: Options) -> Iterator[dict]:
    """Rejections of the crossed contrast over three relations without an answer."""
    weak_to_strong = np.array([0.5, 1.0, 2.0])[:, None, None]
    one = np.ones((3, 1, 1))
    settings = {
        "crossed contrast, large unequal means": (one, one, np.array([0, 5, 20])[:, None, None]),
        "crossed contrast, unequal means and subject strength of rote states": (
            weak_to_strong,
            one,
            weak_to_strong,
        ),
        "crossed contrast, subject strength unequal on both sides, alike": (
            weak_to_strong,
            weak_to_strong,
            one,
        ),
    }
    for words, (rote, semantic, means) in settings.items():
        rejected = []
        for rng in _rngs(options, "contrast", 40):
            subject = rng.normal(size=(40, 8))
            xs = rote * subject + rng.normal(size=(3, 40, 8))
            ys = semantic * subject + rng.normal(size=(3, 40, 8)) + means * rng.normal(size=8) * 5
            rejected.append(crossed_contrast(xs, ys, n=options.permutations, rng=rng).p <= LEVEL)
        yield _rate(words, 40, rejected, LEVEL)


def transfer(options: Options) -> Iterator[dict]:
    """Rejections of transfer between two unrelated codes, by both nulls."""
    by_subject, by_object = [], []
    for rng in _rngs(options, "transfer", 80):
        found = _probed(rng, 80, codes=2)
        by_object.append(object_permutation_p([found], options.permutations, rng)[1] <= LEVEL)
        scores = paired_scores(
            found.pair_scores(), range(80), found.reasons, options.permutations, rng
        )
        by_subject.append(summaries(scores)[0]["null_p"] <= LEVEL)
    yield _rate(
        f"transfer between two codes of {OBJECTS} objects, null over objects", 80, by_object, LEVEL
    )
    yield _rate(
        f"transfer between two codes of {OBJECTS} objects, null over subjects",
        80,
        by_subject,
        LEVEL,
    )


def chance(options: Options) -> Iterator[dict]:
    """Accuracy of probes on states without an answer, minus that of guessing."""
    for n in (40, 80):
        over = []
        for rng in _rngs(options, "chance", n):
            found = _probed(rng, n, codes=0)
            over.append(float(found.accuracy[0] - 1 / OBJECTS))
        se = np.std(over, ddof=1) / np.sqrt(len(over))
        yield {
            "setting": f"probe accuracy without an answer, minus 1/{OBJECTS}",
            "n": n,
            "value": np.mean(over),
            "low": np.mean(over) - 1.96 * se,
            "high": np.mean(over) + 1.96 * se,
            "wanted": 0.0,
            "repetitions": len(over),
        }


CHECKS: dict[str, Callable[[Options], Iterator[dict]]] = {
    "rejection": rejection,
    "coverage": coverage,
    "contrast": contrast,
    "transfer": transfer,
    "chance": chance,
}
PLAIN = "jackknife of debiased CKA, features of one size"


def _probed(rng: np.random.Generator, n: int, *, codes: int):
    """Probes from rote to semantic states: two unrelated codes of the object, or none."""
    objects = rng.permutation(np.arange(n) % OBJECTS)
    names = rng.normal(size=(n, 16))
    code = 2 * rng.normal(size=(2, OBJECTS, 16)) if codes else np.zeros((2, OBJECTS, 16))
    x, y = (names + c[objects] + 0.5 * rng.normal(size=(n, 16)) for c in code)
    return fit_probes(x[:, None], objects).score(y[None, :, None])


def _rngs(options: Options, check: str, n: int) -> Iterator[np.random.Generator]:
    """One generator a repetition, each check and size with its own stream."""
    from training.base.console import progress

    stream = np.random.SeedSequence([options.seed, list(CHECKS).index(check), n])
    children = stream.spawn(options.repetitions)
    for child in progress(children, label=f"{check} n={n}"):
        yield np.random.default_rng(child)


def _rate(setting: str, n: int, hits: list, wanted: float) -> dict:
    """A rate with its Clopper-Pearson interval."""
    from scipy.stats import binomtest

    found = binomtest(int(np.sum(hits)), len(hits)).proportion_ci(0.95)
    return {
        "setting": setting,
        "n": n,
        "value": float(np.mean(hits)),
        "low": found.low,
        "high": found.high,
        "wanted": wanted,
        "repetitions": len(hits),
    }


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
