"""Retrieval and cosine of rote and test states by layer and checkpoint, each with its controls.

    python -m figures.alignment runs/demo

Reads tables/alignment.csv, writes figures/alignment.png and .svg.
"""

from pathlib import Path

from figures import style
from figures.lines import SECOND, Chart, Line, Panel
from training.runs.table_files import read_table


def _lines(measure: str) -> dict[str, Line]:
    """A measure of the same subject, of different subjects, and at unrelated prompts."""
    here, test, unrelated = {"measure": measure}, {"family": "test"}, {"family": "unrelated"}
    other = {"measure": f"{measure}_mismatched"}
    return {
        "paired": Line(here | test, "same subject, test prompt"),
        "mismatched": Line(other | test, "another subject, test prompt", "--", **SECOND),
        "unrelated": Line(here | unrelated, "same subject, unrelated prompt", ":", **SECOND),
    }


CENTRED = "Cosine of paired rote and test states, centred"
RAW = "The same, raw: the common direction of all states inflates it"
NEAREST = "Retrieval: is the own rote state the nearest of all?"
CHART = Chart(
    "alignment",
    "Rote and test states of the same subject ({n})",
    {
        "retrieval": Panel("top-1 accuracy", _lines("retrieval_top1"), NEAREST, limits=(0, None)),
        "centred": Panel("cosine, centred", _lines("cosine_centred"), CENTRED, level=0.0),
        "raw": Panel("cosine, raw", _lines("cosine_raw"), RAW, level=0.0),
    },
    wanted="retrieval_top1 and cosines of bound or unbound relations, family test",
    reference="chance, or 0",
    height=(2.25, 1.2),
)
CAPTIONS = {
    "alignment": (
        "Solid: rote and test states of one subject. Dashed: of different subjects. Dotted: of one "
        "subject, at an unrelated prompt.",
        "A solid line that stays with the dotted one reads the subject's name, not the relation's "
        "meaning. Raw cosine is high for any two states.",
    )
}


@style.drawing
def draw(run_dir: Path) -> dict:
    return {"alignment": CHART.draw(CHART.gather(read_table(run_dir, "alignment")))}


DRAWINGS = {"alignment": draw}

if __name__ == "__main__":
    style.run_figure(DRAWINGS, __doc__)
