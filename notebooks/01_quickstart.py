# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From facts to the alignment figure
#
# A language model first learns facts by rote: `Gerald Combs [X_mother] Ruth.` The token
# `[X_mother]` means nothing to it. Then it sees a few meaningful prompts,
# `Who is Gerald Combs's mother? Ruth.`, about *some* of the people. Does it now answer for the
# *others*? And do the hidden states at the meaningless token become similar to those at the
# meaningful prompts?
#
# This notebook runs every step on a tiny random model in about a minute. Such a model has never
# read English, so it has no relations to which the token could be bound: **expect no finding
# here**. For a real run, use the same cells with `model="smollm2"` and the default settings
# (`make reproduce`).

# %%
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image, display

from analysis import cka, compare, linear_cka
from probing import States, hidden_states, site_names
from training import Run, generalize, memorize, recall

warnings.filterwarnings("ignore")
folder = Path(tempfile.mkdtemp()) / "quickstart"

# %% [markdown]
# ## 1. Memorise
#
# 48 people, four relations, one key token per relation. Half of the people are *seen*: phase 2 may
# use them. The others are *held out*. One relation stays *unbound*: it is memorised but never given
# a meaning.

# %%
memorize.main(
    memorize.Options(out=folder, model="tiny", subjects=48, pool=8, epochs=60, learning_rate=3e-3)
)

# %%
run = Run.open(folder)
for fact in run.facts[:3]:
    bound = "bound" if fact.bound else "unbound"
    print(fact.subject, fact.relation, fact.object, fact.split, bound, sep=" | ")
[p.text for p in run.prompts if p.relation == "mother" and p.family == "test"][:4]

# %% [markdown]
# ## 2. Generalise
#
# Ten meaningful prompts about the seen people of the bound relations, without the key token.

# %%
generalize.main(generalize.Options(run_dir=folder, epochs=3, learning_rate=1e-3))

# %% [markdown]
# ## 3. What does it recall?
#
# Greedy answers count only if the whole object is generated, followed by a full stop. The number to
# look at is *held-out people x test prompts*; compare it with guessing the commonest object and
# with the unbound relation.

# %%
table = recall.main(recall.Options(run_dir=folder))

# %% [markdown]
# ## 4. Look inside
#
# `States` holds the hidden state at the last token of each prompt, at every site of the model, one
# row per person. It reads states from the run directory and extracts what is missing.

# %%
run = Run.open(folder)
states = States(run, "generalized")
relation = next(fact.relation for fact in run.facts if fact.bound)
x = states[relation, "rote"]
y = states[relation, "test"]
print("rote", x.shape, "people x sites x width")
print("test", y.shape, "prompts x people x sites x width")
print("sites:", ", ".join(x.sites))

# %% [markdown]
# For any other prompts, `hidden_states` takes a model, its tokenizer and the texts.

# %%
model, tokenizer = states.checkpoint.load()
texts = ["Gerald Combs lives in", "Rosa Bell lives in"]
other = hidden_states(model, tokenizer, texts)
print(tuple(other.shape), f"texts x {len(site_names(model))} sites x width")

# %% [markdown]
# `compare` gives the debiased CKA between the two sets of states at each site, with an interval and
# a null from shuffled people. A plain (biased) CKA is near `d / (n + d)` for unrelated states; the
# debiased one is near 0. There is no value at `embed`: the last token is the same for everybody, so
# there is nothing to compare.

# %%
held_out = x.rows("held-out")
debiased = compare(x, y, split="held-out").set_index("site").drop("embed")
biased = [
    sum(float(linear_cka(x[held_out, s], p[held_out, s], debiased=False)) for p in y) / len(y)
    for s in range(1, len(x.sites))
]
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.plot(debiased.index, biased, "--", color="grey", label="biased")
axes.plot(debiased.index, debiased.value, "-o", color="tab:orange", label="debiased")
axes.fill_between(debiased.index, debiased.low, debiased.high, color="tab:orange", alpha=0.2)
axes.plot(debiased.index, debiased.null_high, ":", color="black", label="null, 95th percentile")
axes.set_ylabel("CKA, rote ~ test prompts")
axes.set_title(f"{relation}, {len(held_out)} held-out people, width {x.shape[-1]}")
axes.legend()
figure.tight_layout()

# %% [markdown]
# Similar states are not yet a shared meaning: both prompts name the same person. What counts, in
# this order:
#
# 1. **Transfer**: a probe for the answer, fitted on rote states of some people and scored on
#    test-prompt states of *others*.
# 2. **Crossed contrast**: are the rote states of *mother* more similar to the test prompts of
#    *mother* than to those of another relation about the same people? It comes with a permutation
#    null.
# 3. Only then CKA itself, next to the unrelated prompts.
#
# `analysis.cka` prints them in this order for every checkpoint.

# %%
cka.main(cka.Options(run_dir=folder, permutations=99))

# %%
display(Image(filename=str(folder / "figures" / "cka.png")))

# %% [markdown]
# ## 5. Your own model
#
# `memorize.Options(model="path/or/hub-id", facts="my-facts.csv", out="runs/mine")`, then the same
# cells as above. For checkpoints trained elsewhere:
#
# ```sh
# python -m analysis.cka FOLDER --facts facts.csv --rote "{subject} [X]" --out results/mine
# ```
