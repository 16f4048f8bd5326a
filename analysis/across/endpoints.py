"""Every headline number of a run, declared once: the table it is in and the rows that hold it.

    TRANSFER.in_run(read_table(run_dir, "probes"))

A number measured at many sites is read at ONE site per run and relation: where it is largest at the
last checkpoint (`at_largest_site`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from training.runs.table_files import at_largest_site, headline_split, pick

SIDES = ("bound", "unbound")
GAP = "bound - unbound"


@dataclass(frozen=True)
class Endpoint:
    """A number that every run has.

    name: in words, as tables and pictures show it. where: column -> value, beyond the measure.
    relation: bound, unbound, GAP (the first minus the second) or "" for any.
    change: what phase 2 changed within the run (after minus before), not the level at the end.
    yes_no: each run has 1 or 0, so intervals and tests are those of shares.
    """

    name: str
    table: str
    measure: str
    where: Mapping[str, str] = field(default_factory=dict)
    relation: str = "bound"
    change: bool = False
    yes_no: bool = False

    @property
    def rows(self) -> dict[str, str]:
        """Column -> value of the rows that hold it."""
        named = {"table": self.table, "measure": self.measure, **self.where}
        return {column: value for column, value in named.items() if value}

    def of(self, table, split: str = ""):
        """Its rows, of both sides for GAP; rows without a split or relation stay."""
        rows = pick(table, **self.rows)
        if "split" in rows and "split" not in self.where:
            split = split or headline_split(rows)
            rows = rows[rows["split"].isna() | (rows["split"] == split)]
        if "relation" in rows and self.relation:
            sides = SIDES if self.relation == GAP else (self.relation,)
            rows = rows[rows["relation"].isna() | rows["relation"].isin(sides)]
        return rows

    def in_run(self, table):
        """Its bound and unbound rows in the table of one run, each side at one site."""
        import pandas as pd

        rows = pick(replace(self, relation=GAP).of(table), relation=SIDES)
        if "site" not in rows or not len(rows):
            return rows
        sides = rows.groupby("relation", sort=False)
        return pd.concat([at_largest_site(side) for _, side in sides])

    def __str__(self) -> str:
        return f"{self.name}, {self.relation or 'any relation'}"


def _recall(words: str, family: str, subset: str = "all", **how) -> Endpoint:
    return Endpoint(words, "recall", "generation", {"subset": subset, "family": family}, **how)


def _watch(words: str, measure: str, relation: str = "", **how) -> Endpoint:
    return Endpoint(words, "repurposing", measure, relation=relation, **how)


def _change(words: str, of: Endpoint, relation: str = "bound") -> Endpoint:
    return replace(of, name=f"change in phase 2, {words}", change=True, relation=relation)


TEST = _recall("recall, test prompts", "test")
GAIN = replace(TEST, name="gain of phase 2, test prompts", measure="generation_gain")
NEAR_MISS = _recall("recall, near-miss prompts", "near-miss")
SIBLING = _recall("recall, prompts of a sibling relation", "near-miss", "sibling")
ROTE = _recall("recall, rote prompts", "rote")
ACROSS = {"direction": "rote->semantic", "family": "test"}
TRANSFER = Endpoint("probe transfer, rote to test", "probes", "transfer_accuracy", ACROSS)
CONTRAST = Endpoint("crossed contrast", "cka", "contrast", {"family": "test"})
WITHOUT_ANSWER = "contrast, answer partialled out"
PARTIALLED = replace(CONTRAST, name=WITHOUT_ANSWER, measure="contrast_partialled")
PATCH = {"direction": "semantic->rote", "vector": "state", "position": "last"}
OUTCOME = {"outcome": "relation", **PATCH}
MOVED = Endpoint("interchange, relation moved", "interchange", "share", OUTCOME)
REVERSAL = Endpoint("reversal above chance, held-out people", "reversal", "reversal_excess")

# What analysis.ablations compares, in the order of its table.
ENDPOINTS = (
    _recall("recall, keyword-free test prompts", "test", "keyword-free", relation=GAP),
    replace(TEST, relation=GAP),
    TEST,
    replace(GAIN, relation=GAP),
    GAIN,
    NEAR_MISS,
    SIBLING,
    _change("prompts of a sibling relation", SIBLING),
    _recall("recall, unrelated prompts", "unrelated"),
    ROTE,
    replace(REVERSAL, name="reversal above chance, people of phase 2", where={"split": "seen"}),
    REVERSAL,
    Endpoint("two hops, answered", "two_hop", "two_hop"),
    Endpoint("two hops, above chance", "two_hop", "two_hop_excess"),
    Endpoint("two hops, the person's own object instead", "two_hop", "own"),
    Endpoint("two hops, if both were as when asked singly", "two_hop", "product"),
    Endpoint("facts of the pretraining world known", "damage", "known_facts", relation=""),
    Endpoint("contradicted facts, old answers", "damage", "contradicted_facts", relation=""),
    Endpoint("perplexity of ordinary English", "damage", "perplexity", relation=""),
    TRANSFER,
    _change("probe transfer", TRANSFER, GAP),
    _change("probe transfer", TRANSFER),
    CONTRAST,
    _change("crossed contrast", CONTRAST),
    PARTIALLED,
    _change(WITHOUT_ANSWER, PARTIALLED),
    _watch("alarm: states read another way", "alarm_states", yes_no=True),
    _watch("alarm: answers of another reading", "alarm_answers", yes_no=True),
    _watch("steps to the alarm, states", "alarm_step_states"),
    _watch("steps to the alarm, answers", "alarm_step_answers"),
    _watch("lead of the states over the answers, steps", "lead_steps"),
    MOVED,
)

# What analysis.curves draws over training tokens: levels, bound and unbound relations apart.
LEVELS = tuple(
    replace(endpoint, relation=side)
    for endpoint in (
        *(e for e in ENDPOINTS if not (e.change or e.yes_no or e.relation == GAP)),
        _watch("sibling's prompts, answers", "sibling_answers", "bound"),
        _watch("sibling's prompts, states", "sibling_states", "bound"),
    )
    for side in (SIDES if endpoint.relation else ("",))
)

# What analysis.trajectory follows through a run, in the order of its table.
CURVES = (
    ROTE,
    TEST,
    NEAR_MISS,
    TRANSFER,
    CONTRAST,
    replace(PARTIALLED, name="crossed contrast, answer partialled out"),
    replace(MOVED, name="interchange, relation moved, test to rote"),
)
