"""analysis.across.endpoints"""

from collections.abc import Mapping
from dataclasses import dataclass, field

GAP = "bound - unbound"


@dataclass(frozen=True)
class Endpoint:
    """A number of every run: the rows that hold it (column -> value), for one side, or the gap between both.

    change: what phase 2 changed, after it minus before it in the same run, and not the level. yes_no: it is 1 or 0 in
    each run, so that intervals and tests are those of shares.
    """

    name: str
    rows: Mapping[str, str] = field(default_factory=dict)
    relation: str = "bound"
    change: bool = False
    yes_no: bool = False


RECALL = {"table": "recall", "measure": "generation", "subset": "all"}


SIBLING = {**RECALL, "family": "near-miss", "subset": "sibling"}


TRANSFER = {
    "table": "probes",
    "measure": "transfer_accuracy",
    "direction": "rote->semantic",
    "family": "test",
}


CONTRAST = {"table": "cka", "measure": "contrast", "family": "test"}


PARTIALLED = {**CONTRAST, "measure": "contrast_partialled"}


ALARM = {"table": "repurposing"}


HOPS = {"table": "two_hop"}


ENDPOINTS = (
    Endpoint(
        "recall, keyword-free test prompts",
        {**RECALL, "family": "test", "subset": "keyword-free"},
        GAP,
    ),
    Endpoint("recall, test prompts", {**RECALL, "family": "test"}, GAP),
    Endpoint("recall, test prompts", {**RECALL, "family": "test"}),
    Endpoint(
        "gain of phase 2, test prompts",
        {**RECALL, "measure": "generation_gain", "family": "test"},
        GAP,
    ),
    Endpoint(
        "gain of phase 2, test prompts", {**RECALL, "measure": "generation_gain", "family": "test"}
    ),
    Endpoint("recall, near-miss prompts", {**RECALL, "family": "near-miss"}),
    Endpoint("recall, prompts of a sibling relation", SIBLING),
    Endpoint("change in phase 2, prompts of a sibling relation", SIBLING, change=True),
    Endpoint("recall, unrelated prompts", {**RECALL, "family": "unrelated"}),
    Endpoint("recall, rote prompts", {**RECALL, "family": "rote"}),
    Endpoint(
        "reversal above chance, people of phase 2",
        {"table": "reversal", "measure": "reversal_excess", "split": "seen"},
    ),
    Endpoint(
        "reversal above chance, held-out people",
        {"table": "reversal", "measure": "reversal_excess"},
    ),
    Endpoint("two hops, answered", {**HOPS, "measure": "two_hop"}),
    Endpoint("two hops, above chance", {**HOPS, "measure": "two_hop_excess"}),
    Endpoint("two hops, the person's own object instead", {**HOPS, "measure": "own"}),
    Endpoint("two hops, if both were as when asked singly", {**HOPS, "measure": "product"}),
    Endpoint(
        "facts of the pretraining world known", {"table": "damage", "measure": "known_facts"}, ""
    ),
    Endpoint(
        "contradicted facts, old answers", {"table": "damage", "measure": "contradicted_facts"}, ""
    ),
    Endpoint("perplexity of ordinary English", {"table": "damage", "measure": "perplexity"}, ""),
    Endpoint("probe transfer, rote to test", TRANSFER),
    Endpoint("change in phase 2, probe transfer", TRANSFER, GAP, change=True),
    Endpoint("change in phase 2, probe transfer", TRANSFER, change=True),
    Endpoint("crossed contrast", CONTRAST),
    Endpoint("change in phase 2, crossed contrast", CONTRAST, change=True),
    Endpoint("contrast, answer partialled out", PARTIALLED),
    Endpoint("change in phase 2, contrast, answer partialled out", PARTIALLED, change=True),
    Endpoint(
        "alarm: states read another way", {**ALARM, "measure": "alarm_states"}, "", yes_no=True
    ),
    Endpoint(
        "alarm: answers of another reading", {**ALARM, "measure": "alarm_answers"}, "", yes_no=True
    ),
    Endpoint("steps to the alarm, states", {**ALARM, "measure": "alarm_step_states"}, ""),
    Endpoint("steps to the alarm, answers", {**ALARM, "measure": "alarm_step_answers"}, ""),
    Endpoint("lead of the states over the answers, steps", {**ALARM, "measure": "lead_steps"}, ""),
    Endpoint(
        "interchange, relation moved",
        {
            "table": "interchange",
            "measure": "share",
            "outcome": "relation",
            "direction": "semantic->rote",
            "vector": "state",
            "position": "last",
        },
    ),
)


@dataclass(frozen=True)
class Curve:
    """A measure to follow: the table it is in and the rows that hold it (column -> value)."""

    name: str
    table: str
    rows: dict = field(default_factory=dict)


CURVES = (
    Curve(
        "recall, rote prompts",
        "recall",
        {"measure": "generation", "subset": "all", "family": "rote"},
    ),
    Curve(
        "recall, test prompts",
        "recall",
        {"measure": "generation", "subset": "all", "family": "test"},
    ),
    Curve(
        "recall, near-miss prompts",
        "recall",
        {"measure": "generation", "subset": "all", "family": "near-miss"},
    ),
    Curve(
        "probe transfer, rote to test",
        "probes",
        {"measure": "transfer_accuracy", "direction": "rote->semantic", "family": "test"},
    ),
    Curve("crossed contrast", "cka", {"measure": "contrast", "family": "test"}),
    Curve(
        "crossed contrast, answer partialled out",
        "cka",
        {"measure": "contrast_partialled", "family": "test"},
    ),
    Curve(
        "interchange, relation moved, test to rote",
        "interchange",
        {
            "measure": "share",
            "outcome": "relation",
            "vector": "state",
            "direction": "semantic->rote",
            "position": "last",
        },
    ),
)
