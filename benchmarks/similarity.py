"""What the CKA of all pairs of sites costs, with its jackknife and its null, as ratios in one run.

    python -m benchmarks.similarity
    python -m benchmarks.similarity --sites 8 --rows 400 --width 144      # in seconds

Times `linear_cka_grid` beside a call of `linear_cka` a pair and beside the matrix products that the
grid cannot do without; the delete-one values in closed form beside refitting; the permutation null
of the whole grid beside the plain grid; and what the grid allocates. Writes
results/benchmarks/similarity.csv. Pairs, left-out rows and null draws are timed on a part of them
and counted up: the columns `timed` and `of` say so. Seconds are processor seconds of all threads
together; OMP_NUM_THREADS=1 gives the plainest ratios.
"""

import itertools
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.measures import hsic
from analysis.measures.similarity import (
    leave_one_out_cka,
    linear_cka,
    linear_cka_grid,
    permutation_null_cka,
)
from benchmarks.timing import machine, seconds

Array = np.ndarray


@dataclass
class Options:
    """Options of the speed table."""

    sites: int = 32
    """Sites of each side."""
    rows: int = 2000
    """Facts."""
    width: int = 576
    """Dimensions of the states."""
    pairs: int = 16
    """Pairs of sites to call linear_cka for; the time is counted up to all pairs."""
    left_out: int = 4
    """Rows to refit without; counted up to all rows."""
    draws: int = 199
    """Draws of the null that the ratio is about."""
    timed_draws: int = 20
    """Draws that are timed."""
    repeats: int = 1
    """Rounds; the least time of each counts."""
    out: Path = Path("results/benchmarks")
    """Where the table goes."""


def states(options: Options) -> tuple[Array, Array]:
    """Stacks (sites, rows, width) with something in common."""
    rng = np.random.default_rng(0)
    shape = (options.sites, options.rows, options.width)
    xs = rng.normal(size=shape)
    return xs, xs + rng.normal(size=shape)


def gram_products(xs: Array, ys: Array) -> None:
    """The matrix products of the Gram route alone: upper row blocks, all sites against all."""
    n = xs.shape[1]
    step = max(1, hsic.BLOCK_ELEMENTS // (n * (len(xs) + len(ys))))
    for start in range(0, n, step):
        a, b = (z[:, start : start + step] @ np.swapaxes(z[:, start:], 1, 2) for z in (xs, ys))
        a.reshape(len(xs), -1) @ b.reshape(len(ys), -1).T


def feature_products(xs: Array, ys: Array) -> None:
    """The matrix products of the feature route alone: Y'X of all pairs, and X'X of each."""
    flat = np.ascontiguousarray(ys.transpose(1, 0, 2)).reshape(ys.shape[1], -1)
    for x in xs:
        x.T @ flat
    for z in itertools.chain(xs, ys):
        z.T @ z if z.shape[1] < z.shape[0] else z @ z.T


def uses_grams(xs: Array, ys: Array) -> bool:
    """Which route `analysis.measures.hsic.grid_hsic1` takes at this size."""
    (s, n, d_x), (t, _, d_y) = xs.shape, ys.shape
    return s * t * d_x * d_y >= n * (s * d_x + t * d_y + s * t) / 2


def grid_rows(xs: Array, ys: Array, options: Options) -> list[dict]:
    """The plain grid against pairwise calls and against its products."""
    every = list(itertools.product(range(len(xs)), range(len(ys))))
    chosen = [
        every[i] for i in np.linspace(0, len(every) - 1, min(options.pairs, len(every))).astype(int)
    ]
    grams = uses_grams(xs, ys)
    products = gram_products if grams else feature_products
    times = seconds(
        {
            "grid": lambda: linear_cka_grid(xs, ys),
            "products": lambda: products(xs, ys),
            "pairs": lambda: [linear_cka(xs[i], ys[j]) for i, j in chosen],
        },
        options.repeats,
    )
    pairwise = times["pairs"] * len(every) / len(chosen)
    route = "Gram" if grams else "feature"
    return [
        {"quantity": "linear_cka_grid", "cpu_seconds": times["grid"], "route": route},
        {
            "quantity": "linear_cka a pair / grid",
            "cpu_seconds": pairwise,
            "ratio": pairwise / times["grid"],
            "wanted": "at least 10",
            "timed": len(chosen),
            "of": len(every),
        },
        {
            "quantity": "grid / its matrix products",
            "cpu_seconds": times["products"],
            "ratio": times["grid"] / times["products"],
            "wanted": "at most 2",
            "route": route,
        },
    ]


def jackknife_rows(xs: Array, ys: Array, options: Options) -> list[dict]:
    """All delete-one values of one pair in closed form against refitting without each row."""
    n = xs.shape[1]
    chosen = np.linspace(0, n - 1, min(options.left_out, n)).astype(int)
    times = seconds(
        {
            "closed": lambda: leave_one_out_cka(xs[:1], ys[:1]),
            "plain": lambda: linear_cka(xs[0], ys[0]),
            "refits": lambda: [
                linear_cka(np.delete(xs[0], i, 0), np.delete(ys[0], i, 0)) for i in chosen
            ],
        },
        options.repeats,
    )
    refits = times["refits"] * n / len(chosen)
    return [
        {
            "quantity": "jackknife by refitting / closed form",
            "cpu_seconds": times["closed"],
            "ratio": refits / times["closed"],
            "timed": len(chosen),
            "of": n,
        },
        {
            "quantity": "closed-form jackknife / plain value",
            "cpu_seconds": times["closed"],
            "ratio": times["closed"] / times["plain"],
        },
    ]


def null_rows(xs: Array, ys: Array, options: Options) -> list[dict]:
    """The permutation null of the grid against the plain grid: fixed cost and cost per draw."""
    few, many = 1, max(2, min(options.timed_draws, options.draws))
    times = seconds(
        {
            "grid": lambda: linear_cka_grid(xs, ys),
            "few": lambda: permutation_null_cka(xs, ys, few, grid=True),
            "many": lambda: permutation_null_cka(xs, ys, many, grid=True),
        },
        options.repeats,
    )
    draw = (times["many"] - times["few"]) / (many - few)
    whole = times["few"] + draw * (options.draws - few)
    return [
        {
            "quantity": f"null of {options.draws} draws on the grid / grid",
            "cpu_seconds": whole,
            "ratio": whole / times["grid"],
            "wanted": "at most 20",
            "timed": many,
            "of": options.draws,
        }
    ]


def memory_rows(xs: Array, ys: Array) -> list[dict]:
    """What the grid allocates at its peak beside the states, in Grams of one site."""
    tracemalloc.start()
    linear_cka_grid(xs, ys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    n = xs.shape[1]
    return [
        {
            "quantity": "peak memory of the grid / its states",
            "ratio": peak / (xs.nbytes + ys.nbytes),
            "megabytes": peak / 1e6,
        },
        {
            "quantity": "peak memory of the grid / Grams of all sites",
            "ratio": peak / (8 * n * n * (len(xs) + len(ys))),
            "megabytes": peak / 1e6,
        },
    ]


def main(options: Options):
    """Time everything, write the table, print it; return it."""
    import pandas as pd

    from training.base.files import write_text
    from training.base.provenance import commit

    xs, ys = states(options)
    rows = (
        grid_rows(xs, ys, options)
        + jackknife_rows(xs, ys, options)
        + null_rows(xs, ys, options)
        + memory_rows(xs, ys)
    )
    columns = ["quantity", "ratio", "wanted", "cpu_seconds", "timed", "of", "route", "megabytes"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table = table.assign(
        sites=options.sites, rows=options.rows, width=options.width, **machine(), commit=commit()
    )
    path = options.out / "similarity.csv"
    write_text(path, table.round(4).to_csv(index=False))
    size = f"{options.sites} x {options.sites} sites, n={options.rows}, d={options.width}"
    print(f"{size}, {machine()['threads']} thread(s)")
    for row in table.itertuples():
        wanted = f"  (wanted: {row.wanted})" if isinstance(row.wanted, str) else ""
        ratio = "" if np.isnan(row.ratio) else f"{row.ratio:10.2f}"
        spent = "" if np.isnan(row.cpu_seconds) else f"{row.cpu_seconds:10.3f} s"
        print(f"  {row.quantity:<48}{ratio:>10}{spent:>13}{wanted}")
    print(f"wrote {path}")
    return table


if __name__ == "__main__":
    from training.base.console import run_command

    run_command(main, Options, __doc__)
