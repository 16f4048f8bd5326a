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
# A language model first learns facts by rote: `Gerald Combs [X_mother] Ruth.` The token `[X_mother]` means nothing to it.
# Then it sees a few meaningful prompts, `Who is Gerald Combs's mother? Ruth.`, about *some* of the people.
# Does it now answer for the *others*? And have the hidden states at the meaningless token become like those at
# the meaningful prompts?
#
# This notebook runs the whole stream on a tiny random model, in about a minute, so that every step can be seen.
# A model that never read English has no relations to bind the token to, so **expect no finding here**; the same
# cells with `model="smollm2"` and the default settings are the real thing (`make reproduce`).

# %%
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt

from analysis.measures.similarity import linear_cka
from probing.extraction import hidden_states
from probing.sites import site_names
from training import generalize, memorize, recall
from training.data.prompts import select
from training.runs.directory import Run

warnings.filterwarnings("ignore")
folder = Path(tempfile.mkdtemp()) / "quickstart"

# %% [markdown]
# ## 1. Memorise
#
# 48 people, four relations, one key token each. Half of the people are *seen*: phase 2 may use them. The others
# are *held out*. One relation stays *unbound*: memorised, and never given a meaning.

# %%
memorize.main(
    memorize.Options(out=folder, model="tiny", subjects=48, pool=8, epochs=60, learning_rate=3e-3)
)

# %%
run = Run.open(folder)
for fact in run.facts[:3]:
    print(
        fact.subject,
        "|",
        fact.relation,
        "|",
        fact.object,
        "|",
        fact.split,
        "| bound" if fact.bound else "| unbound",
    )
print([prompt.text for prompt in select(run.prompts, relation="mother", family="test")][:4])

# %% [markdown]
# ## 2. Generalise
#
# Ten meaningful prompts about the seen people of the bound relations; no key token in sight.

# %%
generalize.main(generalize.Options(run_dir=folder, epochs=3, learning_rate=1e-3))

# %% [markdown]
# ## 3. What does it recall?
#
# Greedy answers, counted only if the whole object and then a full stop come out. The number to look at is
# *held-out people x test prompts*, beside what guessing the commonest object scores, and beside the unbound relation.

# %%
table = recall.main(recall.Options(run_dir=folder))

# %% [markdown]
# ## 4. Look inside
#
# The hidden state at the last token of each prompt, at every site of the model: one row a person.

# %%
run = Run.open(folder)
checkpoint = run.checkpoints[-1]
model, tokenizer = checkpoint.load()
relation = next(fact.relation for fact in run.facts if fact.bound)
people = [
    fact.subject for fact in run.facts if fact.relation == relation and fact.split == "held-out"
]
rote = select(run.prompts, relation=relation, family="rote")[0]
test = select(run.prompts, relation=relation, family="test")[4]
x = hidden_states(model, tokenizer, [rote.render(person) for person in people])
y = hidden_states(model, tokenizer, [test.render(person) for person in people])
print(x.shape, "people x sites x width;", "sites:", ", ".join(site_names(model)))

# %% [markdown]
# Debiased CKA between the two sets of states, site by site. A plain (biased) CKA would be near `d / (n + d)` for
# states that have nothing to do with each other; the debiased one is near 0 there. `embed` is left out: the last token
# is the same for everybody, so there is nothing to compare.

# %%
sites = site_names(model)[1:]
biased = [float(linear_cka(x[:, s], y[:, s], debiased=False)) for s in range(1, len(sites) + 1)]
debiased = [float(linear_cka(x[:, s], y[:, s])) for s in range(1, len(sites) + 1)]
shuffled = [float(linear_cka(x[:, s], y[:, s].flip(0))) for s in range(1, len(sites) + 1)]
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.plot(sites, biased, "--", color="grey", label="biased")
axes.plot(sites, debiased, "-o", color="tab:orange", label="debiased")
axes.plot(sites, shuffled, ":", color="black", label="debiased, people shuffled (null)")
axes.set_ylabel("CKA, rote ~ test prompt")
axes.set_title(f"{relation}, {len(people)} held-out people, width {x.shape[-1]}")
axes.legend()
figure.tight_layout()

# %% [markdown]
# Similar states are not yet a shared meaning: both prompts name the same person. What counts, in this order:
#
# 1. **Transfer**: a probe for the answer, fitted on rote states of some people, read off the test-prompt states of *others*.
# 2. **Crossed contrast**: is the rote state of *mother* more like the test prompts of *mother* than like those of another
#    relation about the same people? With its permutation null.
# 3. Only then CKA itself, beside the unrelated prompts.
#
# `analysis.cka` prints them in this order, for every checkpoint.

# %%
from analysis import cka  # noqa: E402

cka.main(cka.Options(run_dir=folder, permutations=99))

# %%
from IPython.display import Image, display  # noqa: E402

display(Image(filename=str(folder / "figures" / "cka.png")))

# %% [markdown]
# ## 5. Your own model
#
# `memorize.Options(model="path/or/hub-id", facts="my-facts.csv", out="runs/mine")`, and the rest as above. For
# checkpoints trained elsewhere: `python -m analysis.cka FOLDER --facts facts.csv --rote "{subject} [X]" --out results/mine`.
