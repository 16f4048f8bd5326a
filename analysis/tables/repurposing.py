"""Do prompts of a sibling relation come to give a memorised relation's objects?

Watched are arrays (n_checkpoints, n_people, n_people): entry i, j is the share of the sibling's
prompts about person i that give the object of person j. The diagonal is true, the rest is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measures.checks import NotIdentifiable
from analysis.measures.statistics import mean_interval
from analysis.measures.transfer import check_objects, fit_probes
from probing.states import Design, States
from training.base.errors import BadInput
from training.base.words import two_places
from training.data.selection import siblings_of
from training.runs.table_files import read_table, write_table

Array = np.ndarray

ALPHA = 0.05
FAMILY = "test"
# What is watched, in words.
WATCHED = {
    "answers": "answered with the relation's object",
    "states": "the relation's object is read from the states",
}


@dataclass(frozen=True)
class Watch:
    """Pairs (relation, sibling whose prompts are watched) of a run and the checkpoints watched.

    items: tables/recall_items.csv, the rows of FAMILY.
    """

    states: Design
    pairs: tuple[tuple[str, str], ...]
    checkpoints: tuple
    items: object

    @classmethod
    def of(cls, run, items) -> "Watch":
        """Watches the prompts that tables/recall_items.csv has answers to. Raises BadInput."""
        items = items[items.family == FAMILY]
        asked = set(zip(items.relation, items.template, strict=True))
        states = Design.of(run, preset="full", families=(FAMILY,))
        kept = tuple(p for p in states.prompts if p.family == "rote" or (p.relation, p.id) in asked)
        states = Design(run, kept, states.position)
        known, siblings = (states.bound, states.relations), siblings_of(run.prompts).items()
        pairs = [(r, s) for r, s in siblings if r in known[0] and s in known[1]]
        # One value per person: relations about other people than the first pair's are left out.
        people = states.subjects(pairs[0][0]) if pairs else []
        pairs = [(r, s) for r, s in pairs if states.subjects(r) == states.subjects(s) == people]
        if not pairs:
            why = f"{run.path} has no bound relation with a sibling about the same people"
            raise BadInput(f"{why}. Memorise a pair: --relations mother aunt home_city birth_city")
        checkpoints = watched_checkpoints(run)
        missing = [c.name for c in checkpoints if c.name not in set(items.checkpoint)]
        if missing:
            ask = f"training.recall --preset full --families {FAMILY} with the same run and --out"
            raise BadInput(f"recall_items.csv has no answers of {missing[0]}. Ask all: {ask}")
        return cls(states, tuple(pairs), checkpoints, items)

    def rows(self, relation: str) -> Array:
        """Indices of the people watched."""
        return self.states.rows(relation, self.states.splits[0])

    def answers(self, relation: str, sibling: str) -> list[Array]:
        """What is watched of a pair, from the answers in `items`."""
        objects = self.states.objects(relation)[self.rows(relation)]
        people = np.array(self.states.subjects(relation))[self.rows(relation)]
        items = self.items[self.items.relation == sibling]
        given = [object_given(text, objects) for text in items.generated]
        # About the person asked, the table has what was answered token by token.
        hit = [relation in str(answered).split() for answered in items.answered]
        asked = items.assign(given=given, hit=hit).groupby(["checkpoint", "subject"])
        given, hit = asked.given.agg(list), asked.hit.mean()
        found = []
        for checkpoint in (c.name for c in self.checkpoints):
            said = [np.array(given[checkpoint, person]) for person in people]
            share = np.array([(answers[:, None] == objects).mean(axis=0) for answers in said])
            np.fill_diagonal(share, [hit[checkpoint, person] for person in people])
            found.append(share)
        return found

    def read(self, there: States, relation: str, prompts_of: str, sites=slice(None)) -> Array:
        """(n_sites, n_people, n_people) by object probes fitted on the relation's rote states.

        prompts_of: the relation whose test prompts are read, about people whom the probes were not
        fitted on. NaN at sites that bear no probe. Raises BadInput.
        """
        objects, people = self.states.objects(relation), self.rows(relation)
        try:
            check_objects(objects[people])
        except NotIdentifiable as error:
            raise BadInput(f"{relation}: {error} (more --subjects, a smaller --pool)") from error
        how = {"seed": self.states.run.seed, "allow_degenerate": True}
        probes = fit_probes(there[relation, "rote"][:, sites], objects, **how)
        scored = probes.score(there[prompts_of, FAMILY][:, :, sites], allow_degenerate=True)
        return scored.of(people).pair_scores()

    def site(self, start: States) -> int:
        """Where the relations' OWN prompts are read best at the start: not by what is watched."""
        own = np.mean([_own(self.read(start, r, r)).mean(axis=-1) for r, _ in self.pairs], axis=0)
        if np.isnan(own).all():
            raise BadInput("no site of this model bears an object probe on rote states")
        return int(np.nanargmax(own))


def watched_checkpoints(run) -> tuple:
    """The checkpoint that phase 2 started from, and those of phase 2. Raises BadInput."""
    trained = [c for c in run.checkpoints if c.phase == "generalize"]
    before = [c for c in run.checkpoints if c.phase != "generalize"]
    if not trained or not before:
        why = f"{run.path} has no checkpoint {'of' if before else 'before'} phase 2"
        raise BadInput(f"{why}. Train it: python -m training.generalize RUN_DIR --dense 4")
    start = next((c for c in before if c.name == trained[0].parent), before[-1])
    return (start, *trained)


def object_given(text: object, objects: Sequence[str]) -> str:
    """The object that an answer begins with, as a whole word; "" for any other answer."""
    text = str(text).strip()
    begun = (o for o in set(objects) if text.startswith(o) and not text[len(o) :][:1].isalnum())
    return max(begun, key=len, default="")


def _own(pairs: Array) -> Array:
    """(..., n) what is true of each person, of (..., n, n)."""
    return np.diagonal(pairs, axis1=-2, axis2=-1)


def above_others(pairs: Array) -> Array:
    """(..., n): what is true of each person minus the mean over the others, of (..., n, n)."""
    own = _own(pairs)
    return own - (pairs.sum(axis=-1) - own) / (pairs.shape[-1] - 1)


def alarm(values: Array, alpha: float = ALPHA) -> tuple[int | None, Array]:
    """(index of the first checkpoint where people's values have risen over the start, p of each).

    values: (n_checkpoints, n_people), first the start. p: one-sided paired t-test over people, NaN
    at the start and where a value is missing. An alarm needs p <= alpha / (n_checkpoints - 1).
    """
    from scipy import stats

    p = np.full(len(values), np.nan)
    for i, change in enumerate(values[1:] - values[0], start=1):
        if change.std() > 0:
            p[i] = stats.ttest_1samp(change, 0, alternative="greater").pvalue
        elif not np.isnan(change).any():
            p[i] = float(change[0] <= 0)
    raised = np.flatnonzero(p <= alpha / (len(values) - 1))
    return (int(raised[0]) if len(raised) else None), p


def repurposing_table(run):
    """Write tables/repurposing.csv of a run and return it. Raises BadInput, TableMissing.

    Per checkpoint sibling_NAME: the level with its 95% interval over people, and chance (what is
    true of the others); sibling_NAME_change: level above chance minus that at the start, with p.
    At the last checkpoint alarm_NAME (0 or 1), alarm_step_NAME (steps of phase 2, NaN without
    one), and lead_steps (answers' minus states', NaN unless both). NAME: those of WATCHED.
    """
    import pandas as pd

    watched_checkpoints(run)
    watch = Watch.of(run, read_table(run.path, "recall_items"))
    start = watch.states.load(watch.checkpoints[0])
    site, read = watch.site(start), []
    for checkpoint in watch.checkpoints:
        there, at = watch.states.load(checkpoint), slice(site, site + 1)
        read.append([watch.read(there, *pair, at)[0] for pair in watch.pairs])
    states = np.mean(read, axis=1)
    answers = np.mean([watch.answers(*pair) for pair in watch.pairs], axis=0)
    prompts, split = watch.states.prompts_of(watch.pairs[0][1], FAMILY), watch.states.splits[0]
    common = {"relation": "bound", "family": FAMILY, "split": split, "n_prompts": len(prompts)}
    stages = [c.stage | common for c in watch.checkpoints]
    rows, steps, last = [], {}, stages[-1] | {"n": answers.shape[1]}
    for name, pairs in zip(WATCHED, (answers, states), strict=True):
        own, above = _own(pairs), above_others(pairs)
        first, p = alarm(above)
        for i, stage in enumerate(stages):
            chance = float((own[i] - above[i]).mean())
            level = {**stage, "measure": f"sibling_{name}", "chance": chance}
            change = {**stage, "measure": f"sibling_{name}_change", "p": p[i]}
            rows += [level | _mean(own[i]), change | _mean(above[i] - above[0])]
        steps[name] = np.nan if first is None else watch.checkpoints[first].step
        rows.append({**last, "measure": f"alarm_{name}", "value": float(first is not None)})
        rows.append({**last, "measure": f"alarm_step_{name}", "value": steps[name]})
    rows.append({**last, "measure": "lead_steps", "value": steps["answers"] - steps["states"]})
    table = pd.DataFrame(rows)
    table["site"] = np.where(table.measure.str.startswith("sibling_states"), start.sites[site], "")
    write_table(run, "repurposing", table)
    return table


def _mean(values: Array) -> dict:
    found = mean_interval(values)
    return {"value": found.value, "low": found.low, "high": found.high, "n": len(values)}


def lines_of(table) -> list[str]:
    """What was watched and when it rose, in words."""
    some = table.set_index(["measure", "checkpoint"]).value
    start, end = table.checkpoint.iloc[0], table.checkpoint.iloc[-1]
    lines = [f"the sibling's test prompts, {table.split.iloc[0]} people (n={int(table.n.max())})"]
    for name, words in WATCHED.items():
        level = [two_places(some[f"sibling_{name}", checkpoint]) for checkpoint in (start, end)]
        step = some[f"alarm_step_{name}", end]
        when = "never rose" if np.isnan(step) else f"rose at step {step:.0f} of phase 2"
        lines.append(f"  {words:<46} {' -> '.join(level)}   {when}")
    lead = some["lead_steps", end]
    if not np.isnan(lead):
        side = "earlier than" if lead > 0 else "later than" if lead else "apart from"
        lines.append(f"  the states rose {abs(lead):.0f} steps {side} the answers")
    return lines
