"""Rote and semantic states in two dimensions, the same axes for every checkpoint: PCA and UMAP.

    python -m analysis.umap RUN_DIR
    python -m analysis.umap RUN_DIR --colour relation --families rote test --site resid_post.24
    python -m analysis.umap RUN_DIR --aligned
    python -m analysis.umap RUN_DIR --method pca

Projects the states at one site jointly over all checkpoints (separate projections cannot be
compared), writes tables/umap.csv, draws figures/projection.png and projection_umap.png. --aligned
adds UMAPs by checkpoint that are held together (umap.AlignedUMAP).
"""

from dataclasses import dataclass

from analysis.measures.projection import Method
from analysis.tables.driver import publish
from analysis.tables.umap import Colour, projection_lines, projection_table
from figures.projection import draw
from probing.states import Design
from training.base.console import run_command
from training.data.prompts import Preset
from training.runs.directory import RunOptions


@dataclass
class Options(RunOptions):
    """Options of the projection."""

    method: Method = "umap"
    """pca: principal components; umap: those and UMAP beside them."""
    aligned: bool = False
    """Also AlignedUMAP: a UMAP per checkpoint, each state held near itself at the next ones."""
    colour: Colour = "object"
    """object: one projection per relation; relation: one of all relations, coloured by relation."""
    families: tuple[str, ...] = ("rote", "test")
    """Prompt families to show, told apart by shape; the first prompt of each."""
    site: str = ""
    """Default: where the crossed contrast of the last checkpoint is largest, else 3/4 deep."""
    raw: bool = False
    """Keep each checkpoint's and prompt's mean; the offset of prompts then fills the first axis."""
    n_neighbors: int = 15
    """Neighbours that UMAP keeps together, and that trustworthiness is measured over."""
    random_state: int = 0
    """Seed of UMAP."""
    preset: Preset = "demo"
    """Whose stored states to use; only the first prompt of a family is shown."""


def main(options: Options):
    """Project, write the coordinates, say how far they can be trusted, draw; return the table."""
    run = options.open()
    design = Design.of(run, preset=options.preset, families=options.families)
    print(design.announce())
    names = ("method", "aligned", "colour", "families", "site", "raw", "n_neighbors")
    chosen = {name: getattr(options, name) for name in (*names, "random_state")}
    table = projection_table(design, **chosen)
    publish(run.path, {"umap": table}, projection_lines(table), draw)
    return table


if __name__ == "__main__":
    run_command(main, Options, __doc__)
