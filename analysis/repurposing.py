"""Do memorised facts take on another reading, and do the states show it before the answers do?

    python -m training.generalize RUN_DIR --objects sibling --dense 4 --out runs/other-reading
    python -m training.recall runs/other-reading --preset full --families test
    python -m analysis.repurposing runs/other-reading

For each bound relation with a sibling in the run (mother and aunt), the test prompts of the SIBLING are watched from the
start of phase 2 on, about held-out people: are they answered with the relation's object (tables/recall_items.csv), and
do object probes fitted on the relation's rote states read its object there (other people, one site)? An alarm is the
first checkpoint at which this has risen above the start, by a one-sided paired t-test over people at ALPHA, shared
among the checkpoints that are watched. Writes tables/repurposing.csv: both curves, the alarms and the lead of the
states over the answers; then draws figures/repurposing.png. How often there is a false alarm is seen where nothing was
given another reading: `python -m analysis.ablations results/detector`.
"""

from dataclasses import dataclass

import numpy as np

from analysis.run_states import CheckpointStates, RunStates
from training.errors import UserError
from training.run_options import RunOptions

Array = np.ndarray
ALPHA = 0.05
WATCHED = ("answers", "states")
FAMILY = "test"


class NothingToWatch(UserError):
    """No pair of sibling relations, no checkpoints of phase 2, or no answers of them."""


@dataclass
class Options(RunOptions):
    """Options of the watch for another reading."""


@dataclass(frozen=True)
class Watch:
    """A run, the pairs (relation, sibling whose prompts are watched), and the checkpoints from the start on."""

    states: RunStates
    pairs: tuple[tuple[str, str], ...]
    checkpoints: tuple
    items: object
    """tables/recall_items.csv, the rows of FAMILY."""

    @classmethod
    def of(cls, run, items) -> "Watch":
        """The prompts watched are those that `items`, tables/recall_items.csv, has answers to. Raises NothingToWatch."""
        from training.selection import siblings_of

        items = items[items.family == FAMILY]
        asked = set(zip(items.relation, items.template, strict=True))
        states = RunStates.of(run, preset="full", families=(FAMILY,))
        kept = tuple(p for p in states.prompts if p.family == "rote" or (p.relation, p.id) in asked)
        states = RunStates(run, kept, states.position)
        pairs = tuple(
            (relation, sibling)
            for relation, sibling in siblings_of(run.prompts).items()
            if relation in states.bound
            and sibling in states.relations
            and states.subjects(relation) == states.subjects(sibling)
        )
        if not pairs:
            raise NothingToWatch(
                f"{run.path} has no bound relation with a sibling about the same people. Memorise a pair: "
                "--relations mother aunt home_city birth_city"
            )
        trained = [c for c in run.checkpoints if c.phase == "generalize"]
        before = [c for c in run.checkpoints if c.phase != "generalize"]
        if not trained or not before:
            raise NothingToWatch(
                f"{run.path} has no checkpoint {'of phase 2' if before else 'before phase 2'}. Train it with "
                "checkpoints on the way: python -m training.generalize RUN_DIR --dense 4"
            )
        watched = (before[-1], *trained)
        missing = [c.name for c in watched if c.name not in set(items.checkpoint)]
        if missing:
            raise NothingToWatch(
                f"tables/recall_items.csv has no answers of {missing[0]} to {FAMILY} prompts. Ask it: python -m "
                f"training.recall {run.path} --preset full --families {FAMILY}"
            )
        return cls(states, pairs, watched, items)

    @property
    def split(self) -> str:
        """Whom it is about."""
        return self.states.splits[0]

    def rows(self, relation: str) -> Array:
        """Indices of the people watched."""
        return self.states.rows(relation, self.split)

    def answers(self) -> Array:
        """(n_checkpoints, n_people) share of the sibling's prompts answered with the relation's object."""
        found = []
        for relation, sibling in self.pairs:
            some = self.items[self.items.relation == sibling]
            hit = [relation in str(answered).split() for answered in some.answered]
            table = some.assign(hit=hit).pivot_table(
                index="checkpoint", columns="subject", values="hit", aggfunc="mean"
            )
            people = np.array(self.states.subjects(relation))[self.rows(relation)]
            found.append(table.loc[[c.name for c in self.checkpoints], people].to_numpy(dtype=float))
        return np.mean(found, axis=0)

    def hits(
        self, there: CheckpointStates, relation: str, prompts_of: str, sites: slice = slice(None)
    ) -> tuple[Array, float]:
        """((n_people, n_sites) share of prompts at which a probe of the relation's rote states reads its object, chance).

        The probes are fitted on other people than those scored. prompts_of: whose test prompts are read. sites: which.
        """
        from analysis.transfer import fit_probes

        objects, seed = self.states.objects(relation), self.states.run.seed
        probes = fit_probes(there.rote(relation)[:, sites], objects, seed=seed, allow_degenerate=True)
        read = probes.score(there.family(prompts_of, FAMILY)[:, :, sites], allow_degenerate=True).of(
            self.rows(relation)
        )
        return read.correct, read.chance

    def site(self, start: CheckpointStates) -> int:
        """The site where the relations' OWN prompts are read best before phase 2: nothing of what is watched."""
        own = np.mean([self.hits(start, relation, relation)[0].mean(axis=0) for relation, _ in self.pairs], axis=0)
        if np.isnan(own).all():
            raise NothingToWatch("no site of this model bears an object probe on rote states")
        return int(np.nanargmax(own))

    def states_read(self) -> tuple[Array, str, float]:
        """((n_checkpoints, n_people) hits at the sibling's prompts, the site, chance)."""
        found, site, chances = [], None, []
        for checkpoint in self.checkpoints:
            there = self.states.load(checkpoint)
            site = self.site(there) if site is None else site
            at = slice(site, site + 1)
            scored = [self.hits(there, relation, sibling, at) for relation, sibling in self.pairs]
            found.append(np.mean([hits[:, 0] for hits, _ in scored], axis=0))
            chances += [chance for _, chance in scored]
        return np.array(found), there.sites[site], float(np.mean(chances))


def main(options: Options):
    """Watch a run, write the table, say when it rose, draw; return the table."""
    import pandas as pd

    from training.tables import read_table, write_table

    run = options.open()
    watch = Watch.of(run, read_table(run.path, "recall_items"))
    states, site, chance = watch.states_read()
    table = pd.DataFrame(rows_of(watch, {"answers": watch.answers(), "states": states}))
    read = table.measure.isin(["sibling_states", "sibling_states_change"])
    table = table.assign(
        site=np.where(read, site, ""), chance=np.where(table.measure == "sibling_states", chance, np.nan)
    )
    path = write_table(run, "repurposing", table)
    print("\n".join(lines_of(table)))
    from figures.repurposing import draw

    drawn = draw(run.path)
    print(f"wrote {path} ({len(table)} rows), {', '.join(p.name for p in drawn)}")
    return table


def alarm(values: Array, alpha: float = ALPHA) -> tuple[int | None, Array]:
    """(index of the first checkpoint at which people's values have risen above the first one, p of each).

    values: (n_checkpoints, n_people), the first row the start. p: one-sided paired t-test over people, NaN at the
    start; an alarm needs p <= alpha / (n_checkpoints - 1), so that without any change all of them together raise one
    in at most alpha of the runs.
    """
    from scipy import stats

    p = np.full(len(values), np.nan)
    for i, now in enumerate(values[1:], start=1):
        change = now - values[0]
        p[i] = stats.ttest_1samp(change, 0, alternative="greater").pvalue if change.std() > 0 else float(change[0] <= 0)
    raised = np.flatnonzero(p <= alpha / (len(values) - 1))
    return (int(raised[0]) if len(raised) else None), p


def rows_of(watch: Watch, watched: dict[str, Array]) -> list[dict]:
    """Rows of repurposing.csv.

    sibling_answers, sibling_states: level of each checkpoint, 95% t interval over people; ..._change: minus the start,
    paired, with p. At the last checkpoint: alarm_answers, alarm_states (0 or 1), alarm_step_... (steps of phase 2 at
    the alarm, NaN without one) and lead_steps (answers' minus states', NaN unless both).
    """
    from analysis.statistics import mean_interval

    rows, steps = [], {}
    prompts = len(watch.states.prompts_of(watch.pairs[0][1], FAMILY))
    stages = [{"checkpoint": c.name, "phase": c.phase, "epoch": c.epoch, "step": c.step} for c in watch.checkpoints]
    common = {"relation": "bound", "family": FAMILY, "split": watch.split, "n_prompts": prompts}
    for name, values in watched.items():
        first, p = alarm(values)
        for i, stage in enumerate(stages):
            for measure, some in {"": values[i], "_change": values[i] - values[0]}.items():
                found = mean_interval(some)
                row = {**stage, **common, "measure": f"sibling_{name}{measure}", "n": len(some)}
                row |= {"value": found.value, "low": found.low, "high": found.high}
                rows.append(row | {"p": p[i] if measure else np.nan})
        steps[name] = np.nan if first is None else watch.checkpoints[first].step
        last = {**stages[-1], **common, "n": values.shape[1]}
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
        when = "never rose above the start" if np.isnan(step) else f"rose above the start at step {step:.0f} of phase 2"
        lines.append(f"  {words[name]:<46} {level[0]:.2f} -> {level[1]:.2f}   {when}")
    lead = some["lead_steps", names[-1]]
    if not np.isnan(lead):
        lines.append(
            f"  the states were {abs(lead):.0f} steps {'earlier' if lead > 0 else 'later' if lead else 'apart'}"
        )
    return lines


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
