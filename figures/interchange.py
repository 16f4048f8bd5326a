"""Interchange by layer: where a patch moves the relation, and where it moves a finished answer.

    python -m figures.interchange runs/demo

Reads tables/interchange.csv, writes figures/interchange and interchange_vectors, .png and .svg.
"""

from contextlib import suppress
from pathlib import Path

from figures import style
from figures.lines import Chart, Line, Panel
from training.runs.table_files import headline_split, pick, read_table

DIRECTIONS = {
    "rote->semantic": "rote state\nin a test prompt",
    "semantic->rote": "test-prompt state\nin a rote prompt",
    "semantic->semantic": "test-prompt state\nin a test prompt",
}
POSITIONS = {
    "last token": "last",
    "last token of the subject": "subject_last",
    "key token / last word of the relation": "relation_last",
}
UNBOUND = {"outcome": "relation", "relation": "unbound"}
MOVED = {
    "relation": Line({"outcome": "relation"}, "relation moved", width=1.8),
    "answer": Line({"outcome": "answer"}, "answer moved", ":", 1.1),
    "unbound": Line(UNBOUND, "relation of an unbound source", "--", 1.1, last=True),
}
LIMITS = (-0.02, 1.02)


def _mark_decodable(axes, data, direction: str, position: str) -> None:
    """A line from which on the answer can be read, for each checkpoint."""
    for stage in style.stages(data):
        here = pick(data, panel=direction, column=position, checkpoint=stage.checkpoint)
        for end in here.decodable.dropna()[:1]:
            axes.axvline(end, color=stage.colour, linewidth=0.8)


STATES = Chart(
    "interchange",
    "What a patch moves ({n})",
    {
        name: Panel(f"{words}\nshare of answers", MOVED, rows={"direction": name}, limits=LIMITS)
        for name, words in DIRECTIONS.items()
    },
    {
        title: {"position": position, "vector": "state", "relation": "bound"}
        for title, position in POSITIONS.items()
    },
    wanted="vector state",
    heading="{}",
    reference="chance",
    extra="answer decodable from here",
    noun="pairs of subjects",
    height=(1.8, 1.2),
    finish=_mark_decodable,
)
VECTORS = Chart(
    "interchange",
    "Relation vectors on subjects they were not made from ({n})",
    {
        "vectors": Panel(
            "share answered with the\nvector's relation",
            {
                "own": Line({"vector": "own"}, "relation vector", width=1.8),
                "wrong": Line({"vector": "wrong"}, "vector of a wrong relation", "--", 1.1),
                "random": Line({"vector": "random"}, "random, same length", ":", 1.1),
            },
            rows={"outcome": "relation", "relation": "bound"},
            limits=LIMITS,
        )
    },
    {
        f"added to a {target}": {"direction": f"vector->{target.split()[0]}"}
        for target in ("bare name", "test prompt", "rote prompt")
    },
    wanted="vector own, wrong or random",
    heading="{}",
    reference="chance",
    noun="subjects",
    height=(2.0, 1.2),
)
CAPTIONS = {
    "interchange": (
        "The state of a prompt replaces that of a prompt about another subject and relation. "
        "Solid: the answer is the target's subject with the source's relation, so the relation was "
        "moved. Dotted: the source's whole answer was moved. Dashed: the relation of a source that "
        "phase 2 never gave a meaning (last checkpoint). Right of the vertical line, the answer "
        "can be read off the states (logit lens).",
        "A finished answer can always be moved late. Replacing the last token of a test prompt by "
        "a key token at the first sites only writes the key token there: compare with the "
        "memorized model.",
    ),
    "interchange_vectors": (
        "Added to the last token: the key-token state of a relation, averaged over other subjects, "
        "minus that of the relation asked (of bare names). Solid: share answered with the vector's "
        "relation; dashed: a wrong relation's vector; dotted: a random direction, same length.",
        "At rote prompts the vector is at home: that is the ceiling, not a transfer.",
    ),
}


def shares(table):
    """The shares of a table; layer: place among the sites that were patched.

    decodable: the place from which on the answer can be read, NaN for none. Raises NothingToDraw.
    """
    rows = pick(table, measure="share", split=headline_split(table), relation=style.SIDES)
    rows = style.require_rows(rows[rows.layer >= 0], "interchange", "measure share")
    layers = sorted(set(rows.layer))
    ends = rows.decodable_layer
    before = ends.map(lambda end: sum(layer < end for layer in layers)).where(ends.notna())
    return rows.assign(layer=rows.layer.map(layers.index), decodable=before)


@style.drawing
def draw(run_dir: Path) -> dict:
    """interchange, and interchange_vectors if relation vectors were added."""
    table = shares(read_table(run_dir, "interchange"))
    figures = {"interchange": STATES.draw(STATES.gather(table))}
    # With fewer than three relations there is no wrong relation, so no vectors were added.
    with suppress(style.NothingToDraw):
        figures["interchange_vectors"] = VECTORS.draw(VECTORS.gather(table))
    return figures


DRAWINGS = {"interchange": draw}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
