"""Two sets of states of one checkpoint compared at every site, for notebooks."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from analysis.measures.checks import SmallSample, warn_if_small
from analysis.tables.cka import cka_stack
from analysis.tables.cka_measures import IN_CKA_TABLE, as_distance, choose, measure_stack
from analysis.tables.stack import corrected_p, estimate
from probing.states import StateArray
from training.base.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


def compare(
    x: StateArray,
    y: StateArray,
    *,
    measure: str = "linear_cka",
    split: str = "all",
    permutations: int = 199,
    seed: int = 0,
) -> "pd.DataFrame":
    """Similarity of rote states and the states of a family at each site, with interval and null.

    >>> states = States(Run.open("runs/demo"), "generalized")
    >>> compare(states["aunt", "rote"], states["aunt", "test"], split="held-out")

    x: (n_subjects, n_sites, d). y: the same, or (n_prompts, n_subjects, n_sites, d), averaged over
    prompts; same subjects in the same order. measure: a name of MEASURES; linear_cka is debiased.
    split: "seen", "held-out" or "all". permutations: of the pairing by subject. Returns a row per
    site: site, value, low, high (95%, jackknife over subjects and prompts), null_p, null_high,
    null_p_max (corrected for the best site), n, n_prompts, d. Raises BadInput.
    """
    import pandas as pd

    if not (hasattr(x, "splits") and hasattr(y, "splits")):
        raise BadInput("x and y must be states[relation, family], as they are, not parts of them")
    if x.ndim != 3 or x.subjects != y.subjects:
        given = f"x has shape {x.shape} and {len(x.subjects)} subjects, y {y.shape} and"
        want = "give x one prompt (rote) and both the same subjects in one order"
        raise BadInput(f"{given} {len(y.subjects)}; {want}")
    rows, prompts = x.rows(split), [x, y] if y.ndim == 3 else [x, *y]
    sites_first = [prompt[rows].transpose(1, 0, 2) for prompt in prompts]
    xs, *ys = (np.ascontiguousarray(states, dtype=np.float64) for states in sites_first)
    warn_if_small(len(rows))
    with warnings.catch_warnings():
        # Said once, not at every site.
        warnings.simplefilter("ignore", SmallSample)
        declared = None
        if measure == IN_CKA_TABLE:
            stack = cka_stack([xs], ys, permutations, seed)
        else:
            (declared,) = choose([measure])
            stack = measure_stack(declared, xs, ys, permutations, seed)
    values = stack.values.mean(axis=0)
    p_max = corrected_p(values, stack.null)
    found = []
    for s, site in enumerate(x.sites):
        per_prompt = stack.values[:, s], stack.leave_one_out[:, s]
        row = estimate(values[s], *per_prompt, stack.null[:, s], p_max[s])
        if declared and not declared.larger_is_more_similar:
            row = as_distance(row)
            del row["null_high"]
        found.append({"site": site, **row, "d": x.shape[-1]})
    return pd.DataFrame(found)
