"""Joint projections: one set of axes for all checkpoints, and how far a picture can be trusted."""

import numpy as np
import pytest

from analysis.measures.checks import DegenerateStates
from analysis.measures.projection import project, project_aligned
from analysis.tables.umap import (
    EVERY,
    centred_within,
    contrast_site,
    projection_lines,
    projection_table,
)
from analysis.umap import Options, main
from training.base.errors import BadInput


@pytest.fixture
def points():
    """Three clusters (60, 10)."""
    rng = np.random.default_rng(0)
    return 8 * rng.normal(size=(3, 10))[np.arange(60) % 3] + rng.normal(size=(60, 10))


def test_a_plane_is_shown_without_loss():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 9))
    found = project(flat, n_neighbors=5)
    assert found.trustworthiness == pytest.approx(1)
    assert sum(found.explained) == pytest.approx(1)
    distances = [np.linalg.norm(z[:, None] - z, axis=-1) for z in (flat, found.xy)]
    assert np.allclose(*distances)


def test_the_same_state_lies_at_the_same_place_at_every_checkpoint(points):
    """Two checkpoints share half of their states: only a joint fit puts these at one place."""
    rng = np.random.default_rng(1)
    later = np.concatenate([points[:30], 5 * rng.normal(size=(30, 10))])
    joint = project(np.concatenate([points, later])).xy
    assert np.allclose(joint[:30], joint[60:90])
    apart = project(points).xy, project(later).xy
    assert not np.allclose(apart[0][:30], apart[1][:30])


def test_axes_do_not_turn_with_the_order_of_the_points(points):
    order = np.random.default_rng(0).permutation(60)
    assert np.allclose(project(points).xy[order], project(points[order]).xy)


def test_centring_takes_the_offset_between_prompts_out_of_the_first_axis(points):
    group = np.arange(60) // 30
    shifted = points + 100 * group[:, None]
    raw = project(shifted)
    assert raw.explained[0] > 0.95
    assert np.allclose(
        project(centred_within(shifted, group)).xy, project(centred_within(points, group)).xy
    )


def test_what_cannot_be_projected_is_refused(points):
    with pytest.raises(BadInput, match="n_neighbors=30 with 60 points"):
        project(points, n_neighbors=30)
    with pytest.raises(DegenerateStates, match="--site"):
        project(np.ones((60, 10)))


def test_umap_is_reproducible_and_keeps_clusters_together(points):
    from sklearn.metrics import silhouette_score
    from umap import UMAP

    found = project(points, "umap", n_neighbors=10)
    assert silhouette_score(found.xy, np.arange(60) % 3) > 0.5
    assert found.trustworthiness > 0.8
    assert np.array_equal(
        found.xy, UMAP(n_neighbors=10, random_state=0, n_jobs=1).fit_transform(points)
    )


def test_clusters_that_are_planted_stay_apart_and_neighbourhoods_are_kept(points):
    """Against states without clusters: the same picture must not show any."""
    from sklearn.metrics import silhouette_score

    nothing = np.random.default_rng(3).normal(size=(60, 10))
    label = np.arange(60) % 3
    for method in ("pca", "umap"):
        planted, empty = (project(x, method, n_neighbors=10) for x in (points, nothing))
        assert silhouette_score(planted.xy, label) > 0.5
        assert abs(silhouette_score(empty.xy, label)) < 0.15
        assert planted.trustworthiness > 0.8


def test_aligned_umap_is_given_what_a_direct_call_is_and_holds_checkpoints_together(points):
    from sklearn.metrics import silhouette_score
    from umap import AlignedUMAP

    later = points + 0.3 * np.random.default_rng(1).normal(size=points.shape)
    found = project_aligned([points, later], n_neighbors=10)
    same = [{i: i for i in range(60)}]
    direct = (
        AlignedUMAP(n_neighbors=10, random_state=0).fit([points, later], relations=same).embeddings_
    )
    for one, other in zip(found, direct, strict=True):
        assert np.array_equal(one.xy, other)
        assert silhouette_score(one.xy, np.arange(60) % 3) > 0.5
        assert one.trustworthiness > 0.8
    moved = np.linalg.norm(found[0].xy - found[1].xy, axis=1).mean()
    apart = np.linalg.norm(found[0].xy - found[1].xy[np.roll(np.arange(60), 1)], axis=1).mean()
    assert moved < 0.5 * apart


def test_one_checkpoint_has_nothing_to_be_aligned_with(points):
    with pytest.raises(BadInput, match="leave --aligned out"):
        project_aligned([points])
    with pytest.raises(BadInput, match=r"\[50, 60\] points"):
        project_aligned([points, points[:50]])


# --- on a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tiny_run, tmp_path_factory):
    from probing.states import Design
    from training.runs.directory import Run

    return Design.of(Run.open(tiny_run, out=tmp_path_factory.mktemp("umap")), families=("test",))


def test_a_run_has_a_point_for_every_subject_checkpoint_and_family_by_relation(states):
    table = projection_table(states, method="pca", n_neighbors=5)
    assert len(table) == len(states.relations) * len(states.checkpoints) * 2 * 16
    assert contrast_site(states) == ""
    assert set(table.site) == {"resid_post.2"}
    assert (table.groupby("relation").trustworthiness.nunique() == 1).all()
    assert set(table.groupby("family").template.first()) == {"rote-00", "test-00"}
    assert set(table[~table.bound].relation) == set(states.unbound)


def test_the_trustworthiness_of_the_table_is_that_of_its_points(states):
    from sklearn.manifold import trustworthiness

    table = projection_table(states, method="pca", site="resid_post.1", n_neighbors=5)
    relation = states.relations[0]
    parts = []
    for checkpoint in states.checkpoints:
        there = states.load(checkpoint)
        for prompt in (
            states.prompts_of(relation, "rote")[0],
            states.prompts_of(relation, "test")[0],
        ):
            block = there.of(prompt)[:, there.sites.index("resid_post.1")].astype(float)
            parts.append(block - block.mean(axis=0))
    some = table[table.relation == relation]
    expected = trustworthiness(np.concatenate(parts), some[["x", "y"]].to_numpy(), n_neighbors=5)
    assert some.trustworthiness.iloc[0] == pytest.approx(expected)


def test_all_relations_together_are_coloured_by_relation_and_drawn_from_the_table_alone(states):
    from figures.projection import draw, panel_data
    from training.runs.table_files import read_table

    options = {"colour": "relation", "n_neighbors": 5, "site": "resid_post.1"}
    table = projection_table(states, aligned=True, **options)
    assert set(table.projection) == {EVERY}
    assert set(table.method) == {"pca", "umap", "aligned_umap"}
    per_method = len(states.relations) * len(states.checkpoints) * 2 * 16
    assert (table.method.value_counts() == per_method).all()
    joint = table[table.method == "umap"]
    assert joint.trustworthiness.nunique() == 1
    aligned = table[table.method == "aligned_umap"]
    assert (aligned.groupby("checkpoint").trustworthiness.nunique() == 1).all()
    assert sum("every relation" in line for line in projection_lines(table)) == 3

    data = panel_data(read_table(states.run.path, "umap"))
    assert set(data.shown) == set(states.relations)
    stems = {p.stem for p in draw(states.run.path)}
    assert stems == {"projection", "projection_umap", "projection_aligned_umap"}


def test_what_all_relations_share_is_taken_out_and_what_tells_them_apart_is_not(states):
    """Centring within a checkpoint and family leaves the relations' own means in."""
    options = {"colour": "relation", "n_neighbors": 5, "site": "resid_post.1"}
    table = projection_table(states, method="pca", **options)
    by_block = table.groupby(["checkpoint", "family"])[["x", "y"]].mean()
    by_relation = table.groupby(["checkpoint", "family", "relation"])[["x", "y"]].mean()
    assert np.allclose(by_block, 0, atol=1e-6 * table.x.abs().max())
    assert by_relation.abs().to_numpy().max() > 0.1 * table.x.abs().max()


def test_the_command_says_what_was_projected_and_how_far_to_trust_it(states, tiny_run, capsys):
    table = main(
        Options(
            tiny_run, method="pca", n_neighbors=5, site="resid_post.1", out=str(states.run.path)
        )
    )
    said = capsys.readouterr().out
    assert "first prompt of rote, test at resid_post.1, 3 checkpoints together" in said
    assert said.count("trustworthiness") == len(states.relations)
    assert f"umap.csv ({len(table):,} rows), projection.png" in said


def test_a_family_whose_states_are_not_there_is_refused(states):
    with pytest.raises(BadInput, match="--preset full"):
        projection_table(states, families=("rote", "test-de"))


def test_the_site_of_the_largest_contrast_is_shown_if_it_is_known(states):
    import pandas as pd

    from training.runs.table_files import write_table

    last = states.checkpoints[-1].name
    contrast = pd.DataFrame(
        [
            {
                "checkpoint": last,
                "family": "test",
                "split": "held-out",
                "measure": "contrast",
                "site": site,
                "value": value,
            }
            for site, value in (("resid_post.0", -0.3), ("resid_post.1", 0.2), ("embed", np.nan))
        ]
    )
    path = write_table(states.run, "cka", contrast)
    try:
        assert contrast_site(states) == "resid_post.1"
    finally:
        path.unlink()


def test_an_unknown_site_is_refused_with_the_names_there_are(states):
    with pytest.raises(BadInput, match=r"--site nowhere; there are embed, resid_post\.0"):
        projection_table(states, site="nowhere")
