"""Do memorised facts take on another reading, and do the states show it before the answers do?

    python -m training.generalize RUN_DIR --objects sibling --dense 4 --out runs/other-reading
    python -m training.recall runs/other-reading --preset full --families test
    python -m analysis.repurposing runs/other-reading

For each bound relation with a sibling in the run (mother and aunt), the test prompts of the SIBLING are watched from the
checkpoint that phase 2 started from, about held-out people: are they answered with the relation's object
(tables/recall_items.csv), and do object probes fitted on the relation's rote states read its object there (other people,
one site)? Both are held against how often the same answers are true of the OTHER people, so that a model which merely
begins to name objects raises no alarm. An alarm is the first checkpoint at which this has risen, by a one-sided paired
t-test over people at ALPHA, shared among the checkpoints that are watched. Writes tables/repurposing.csv: the curves, the
alarms and the lead of the states over the answers; then draws figures/repurposing.png. How often there is a false alarm
is seen where nothing was given another reading: `python -m analysis.ablations results/detector`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measures.checks import NotIdentifiable
from analysis.measures.statistics import mean_interval
from analysis.measures.transfer import check_objects, fit_probes
from probing.states import Design, States
from training.base.errors import BadInput
from training.base.files import read_json
from training.data.selection import siblings_of

Array = np.ndarray


ALPHA = 0.05


WATCHED = ("answers", "states")


FAMILY = "test"


@dataclass(frozen=True)
class Watch:
    """A run, the pairs (relation, sibling whose prompts are watched), and the checkpoints from the start on."""

    states: Design
    pairs: tuple[tuple[str, str], ...]
    checkpoints: tuple
    items: object
    """tables/recall_items.csv, the rows of FAMILY."""

    @classmethod
    def of(cls, run, items) -> "Watch":
        """The prompts watched are those that `items`, tables/recall_items.csv, has answers to. Raises BadInput."""

        items = items[items.family == FAMILY]
        asked = set(zip(items.relation, items.template, strict=True))
        states = Design.of(run, preset="full", families=(FAMILY,))
        kept = tuple(p for p in states.prompts if p.family == "rote" or (p.relation, p.id) in asked)
        states = Design(run, kept, states.position)
        pairs = [
            (relation, sibling)
            for relation, sibling in siblings_of(run.prompts).items()
            if relation in states.bound and sibling in states.relations
        ]
        # One value a person: relations about other people than the first one's are left out.
        people = states.subjects(pairs[0][0]) if pairs else []
        pairs = [(r, s) for r, s in pairs if states.subjects(r) == states.subjects(s) == people]
        if not pairs:
            raise BadInput(
                f"{run.path} has no bound relation with a sibling about the same people. Memorise a pair: "
                "--relations mother aunt home_city birth_city"
            )
        watched = _from_the_start(run)
        missing = [c.name for c in watched if c.name not in set(items.checkpoint)]
        if missing:
            raise BadInput(
                f"tables/recall_items.csv has no answers of {missing[0]} to {FAMILY} prompts. Ask all of them: "
                f"training.recall with --preset full --families {FAMILY} and the same run and --out"
            )
        return cls(states, tuple(pairs), watched, items)

    @property
    def split(self) -> str:
        """Whom it is about."""
        return self.states.splits[0]

    def rows(self, relation: str) -> Array:
        """Indices of the people watched."""
        return self.states.rows(relation, self.split)

    def answers(self) -> Array:
        """(n_checkpoints, n_people, n_people): entry i, j is the share of the sibling's prompts about person i that are
        answered with the relation's object of person j; means over pairs."""
        found = []
        for relation, sibling in self.pairs:
            objects = self.states.objects(relation)[self.rows(relation)]
            people = np.array(self.states.subjects(relation))[self.rows(relation)]
            items = self.items[self.items.relation == sibling]
            said = [_object_said(text, objects) for text in items.generated]
            # What an answer was about its own person, the table has token by token.
            hit = [relation in str(answered).split() for answered in items.answered]
            asked = items.assign(said=said, hit=hit).groupby(["checkpoint", "subject"])
            texts, hits = asked.said.agg(list), asked.hit.mean()
            for_pair = []
            for checkpoint in self.checkpoints:
                share = np.array(
                    [
                        [np.mean(np.array(texts[checkpoint.name, p]) == o) for o in objects]
                        for p in people
                    ]
                )
                share[np.diag_indices(len(people))] = [hits[checkpoint.name, p] for p in people]
                for_pair.append(share)
            found.append(for_pair)
        return np.mean(found, axis=0)

    def read(
        self, there: States, relation: str, prompts_of: str, sites: slice = slice(None)
    ) -> Array:
        """(n_sites, n_people, n_people): share of prompts about person i at which a probe of the relation's rote states
        reads the object of person j. The probes are fitted on other people than those scored; NaN at sites left out.

        prompts_of: whose test prompts are read. sites: which.
        """

        objects, seed = self.states.objects(relation), self.states.run.seed
        try:
            check_objects(objects[self.rows(relation)])
        except NotIdentifiable as error:
            raise BadInput(
                f"{relation}: {error} (--subjects or a smaller --pool when memorising)"
            ) from error
        probes = fit_probes(
            there[relation, "rote"][:, sites], objects, seed=seed, allow_degenerate=True
        )
        scored = probes.score(there[prompts_of, FAMILY][:, :, sites], allow_degenerate=True)
        return scored.of(self.rows(relation)).pair_scores()

    def site(self, start: States) -> int:
        """The site where the relations' OWN prompts are read best before phase 2: nothing of what is watched."""
        own = np.mean(
            [
                _own(self.read(start, relation, relation)).mean(axis=-1)
                for relation, _ in self.pairs
            ],
            axis=0,
        )
        if np.isnan(own).all():
            raise BadInput("no site of this model bears an object probe on rote states")
        return int(np.nanargmax(own))

    def states_read(self) -> tuple[Array, str]:
        """((n_checkpoints, n_people, n_people) as `answers`, read from the states; the site)."""
        found, site = [], None
        for checkpoint in self.checkpoints:
            there = self.states.load(checkpoint)
            site = self.site(there) if site is None else site
            at = slice(site, site + 1)
            found.append(np.mean([self.read(there, *pair, at)[0] for pair in self.pairs], axis=0))
        return np.array(found), there.sites[site]


def _from_the_start(run) -> tuple:
    """The checkpoint that phase 2 started from, and those of phase 2. Raises BadInput."""

    trained = [c for c in run.checkpoints if c.phase == "generalize"]
    before = [c for c in run.checkpoints if c.phase != "generalize"]
    if not trained or not before:
        raise BadInput(
            f"{run.path} has no checkpoint {'of phase 2' if before else 'before phase 2'}. Train it with checkpoints on "
            "the way: python -m training.generalize RUN_DIR --dense 4"
        )
    parent = read_json(trained[0].folder / "stage.json").get("parent")
    return (next((c for c in before if c.name == parent), before[-1]), *trained)


def _object_said(text: object, objects: Sequence[str]) -> str:
    """The object that an answer begins with, as a whole word; "" for any other answer."""
    text = str(text).strip()
    whole = [
        o for o in set(objects) if text.startswith(o) and not text[len(o) : len(o) + 1].isalnum()
    ]
    return max(whole, key=len, default="")


def _own(pairs: Array) -> Array:
    """(..., n) what is true of each person, of (..., n, n)."""
    return np.diagonal(pairs, axis1=-2, axis2=-1)


def above_others(pairs: Array) -> Array:
    """(..., n): what is true of each person minus the mean of what is true of the others, of (..., n, n)."""
    own = _own(pairs)
    return own - (pairs.sum(axis=-1) - own) / (pairs.shape[-1] - 1)


def alarm(values: Array, alpha: float = ALPHA) -> tuple[int | None, Array]:
    """(index of the first checkpoint at which people's values have risen above the first one, p of each).

    values: (n_checkpoints, n_people), the first row the start. p: one-sided paired t-test over people, NaN at the start
    and where a value is missing; an alarm needs p <= alpha / (n_checkpoints - 1), so that without any change all of them
    together raise one in at most alpha of the runs.
    """
    from scipy import stats

    p = np.full(len(values), np.nan)
    for i, now in enumerate(values[1:], start=1):
        change = now - values[0]
        if np.isnan(change).any():
            continue
        p[i] = (
            stats.ttest_1samp(change, 0, alternative="greater").pvalue
            if change.std() > 0
            else float(change[0] <= 0)
        )
    raised = np.flatnonzero(p <= alpha / (len(values) - 1))
    return (int(raised[0]) if len(raised) else None), p


def rows_of(watch: Watch, watched: dict[str, Array]) -> list[dict]:
    """Rows of repurposing.csv. watched: name -> (n_checkpoints, n_people, n_people), see `Watch.answers`.

    sibling_answers, sibling_states: level of each checkpoint, 95% t interval over people, and chance, the same of the
    other people; ..._change: what is above that, minus the start, paired, with p. At the last checkpoint: alarm_answers,
    alarm_states (0 or 1), alarm_step_... (steps of phase 2 at the alarm, NaN without one) and lead_steps (answers' minus
    states', NaN unless both).
    """

    rows, steps = [], {}
    prompts = len(watch.states.prompts_of(watch.pairs[0][1], FAMILY))
    stages = [
        {"checkpoint": c.name, "phase": c.phase, "epoch": c.epoch, "step": c.step}
        for c in watch.checkpoints
    ]
    common = {"relation": "bound", "family": FAMILY, "split": watch.split, "n_prompts": prompts}
    for name, pairs in watched.items():
        own, above = _own(pairs), above_others(pairs)
        first, p = alarm(above)
        for i, stage in enumerate(stages):
            level = {"measure": f"sibling_{name}", "chance": float((own[i] - above[i]).mean())}
            change = {"measure": f"sibling_{name}_change", "p": p[i]}
            for row, values in ((level, own[i]), (change, above[i] - above[0])):
                found = mean_interval(values)
                row |= {
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "n": len(values),
                }
                rows.append({**stage, **common, **row})
        steps[name] = np.nan if first is None else watch.checkpoints[first].step
        last = {**stages[-1], **common, "n": own.shape[1]}
        rows.append({**last, "measure": f"alarm_{name}", "value": float(first is not None)})
        rows.append({**last, "measure": f"alarm_step_{name}", "value": steps[name]})
    rows.append({**last, "measure": "lead_steps", "value": steps["answers"] - steps["states"]})
    return rows


def lines_of(table) -> list[str]:
    """What was watched and when it rose, in words."""
    some = table.set_index(["measure", "checkpoint"]).value
    names = list(dict.fromkeys(table.checkpoint))
    lines = [f"the sibling's test prompts, {table.split.iloc[0]} people (n={int(table.n.max())})"]
    words = {
        "answers": "answered with the relation's object",
        "states": "the relation's object is read from the states",
    }
    for name in WATCHED:
        level = [some[f"sibling_{name}", checkpoint] for checkpoint in (names[0], names[-1])]
        step = some[f"alarm_step_{name}", names[-1]]
        when = (
            "never rose above the start"
            if np.isnan(step)
            else f"rose above the start at step {step:.0f} of phase 2"
        )
        lines.append(f"  {words[name]:<46} {level[0]:.2f} -> {level[1]:.2f}   {when}")
    lead = some["lead_steps", names[-1]]
    if not np.isnan(lead):
        lines.append(
            f"  the states were {abs(lead):.0f} steps {'earlier' if lead > 0 else 'later' if lead else 'apart'}"
        )
    return lines
