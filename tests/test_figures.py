"""Figures: which rows each picture shows; pictures and report are written, and without torch."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from figures import (
    alignment,
    cka,
    interchange,
    lines,
    probes,
    projection,
    recall,
    redraw,
    report,
    style,
)
from training.base.errors import UserError
from training.base.words import two_places
from training.runs.table_files import TableMissing, pick

CHECKPOINTS = (
    ("000-base", "base", 0),
    ("100-memorize-epoch-16", "memorize", 16),
    ("200-generalize-epoch-01", "generalize", 1),
)
BOUND, UNBOUND = ("mother", "<b>x</b>"), ("home_$city$_",)
RELATIONS = (*BOUND, *UNBOUND, "bound", "unbound")
SITES = ("embed", "resid_post.0", "resid_post.1", "resid_post.2", "resid_post.3", "final_norm")
HELD_OUT_TEST = 0.7371
N = 32


def strength(phase: str, side: str, layer: int = 4) -> float:
    """How much meaning the made-up model has: none but late in the generalized one, bound ones."""
    last = 0.8 if side == "bound" else 0.15
    return {"base": 0.0, "memorize": 0.1, "generalize": last}[phase] * layer / 4


def side_of(relation: str) -> str:
    return "unbound" if relation in ("unbound", *UNBOUND) else "bound"


def recall_table() -> pd.DataFrame:
    rows = []
    weights = {"near-miss": 0.2, "unrelated": 0.1, "other-relation": 0}
    for (checkpoint, phase, epoch), relation, split, family in product(
        CHECKPOINTS, RELATIONS, ("held-out", "seen", "all"), style.FAMILIES
    ):
        value = strength(phase, side_of(relation)) * weights.get(family, 1)
        value = float(phase != "base") if family == "rote" else value
        if (phase, relation, split, family) == ("generalize", "bound", "held-out", "test"):
            value = HELD_OUT_TEST
        row = {"checkpoint": checkpoint, "phase": phase, "epoch": epoch, "relation": relation}
        row |= {"family": family, "split": split, "n_prompts": 3 if family == "test" else 1}
        row |= {"chance": 1 / 16, "majority": 0.07}
        for subset in ("all", "keyword-free") if family == "test" else ("all",):
            for measure in ("generation", "multiple_choice"):
                shown = value if (subset, measure) == ("all", "generation") else 0.99
                ends = {"value": shown, "low": shown - 0.06, "high": shown + 0.06}
                rows.append({**row, "subset": subset, "measure": measure, **ends})
    last = dict(zip(("checkpoint", "phase", "epoch"), CHECKPOINTS[-1], strict=True))
    last |= {"family": "test", "split": "held-out", "subset": "all", "measure": "generation_gain"}
    for side, value in (("bound", 0.61), ("unbound", 0.02)):
        rows.append({**last, "relation": side, "value": value, "low": 0.0, "high": 0.7})
    return pd.DataFrame(rows).assign(seed=0, n=N)


def layered(rng, scale: float = 1.0, base: float = 0.0, **columns) -> list[dict]:
    """Rows over checkpoints and sites; the embedding has no value, as with rote prompts."""
    rows = []
    common = {"seed": 0, "n": N, "null_p_max": 0.004, "null_high": base + 0.06}
    for (checkpoint, phase, epoch), (layer, site) in product(CHECKPOINTS, enumerate(SITES)):
        value = base + scale * strength(phase, side_of(columns["relation"]), layer)
        value = value + rng.normal(0, 0.01) if layer else np.nan
        row = {"checkpoint": checkpoint, "phase": phase, "epoch": epoch}
        row |= {"site": site, "layer": layer, "reason": np.nan if layer else "constant rows"}
        ends = {"value": value, "low": value - 0.05, "high": value + 0.05}
        rows.append({**row, **ends, **common, **columns})
    return rows


def cka_table(rng) -> pd.DataFrame:
    rows = []

    def add(scale: float, relation: str, measure: str, family: str = "test", **more) -> None:
        rows.extend(layered(rng, scale, relation=relation, measure=measure, family=family, **more))

    for split in ("held-out", "seen"):
        for relation in RELATIONS:
            for family in ("train", "test", "near-miss", "unrelated"):
                scale = 0.05 if family == "unrelated" else 0.2
                add(scale, relation, "cka", family, base=0.4, split=split)
            kernel = {"measure": "object_kernel", "split": split}
            add(0.3, relation, object_relation="same", **kernel)
            add(0.02, relation, object_relation="other", **kernel)
            add(0.5, relation, family="rote", object_relation="same", **kernel)
            add(0.9, relation, "cka_zscored", split=split)
        add(0.12, "bound", "contrast", split=split)
        add(0.07, "bound", "contrast_partialled", split=split)
        for relation in UNBOUND:
            add(0.1, relation, "interaction", split=split)
    table = pd.DataFrame(rows)
    contrast = table.measure.str.startswith("contrast")
    return table.assign(null_high=table.null_high.where(~contrast, 0.03))


def grid_table(rng) -> pd.DataFrame:
    rows = []
    common = {"relation": "bound", "family": "test", "split": "held-out", "measure": "cka"}
    for (checkpoint, phase, _), (i, site), (j, site_y) in product(
        CHECKPOINTS, enumerate(SITES), enumerate(SITES)
    ):
        value = 0.3 + 0.05 * min(i, j) * strength(phase, "bound") + rng.normal(0, 0.005)
        row = {"checkpoint": checkpoint, "phase": phase, "value": value if i and j else np.nan}
        rows.append({**row, "site": site, "site_y": site_y, "layer": i, "layer_y": j, **common})
    table = pd.DataFrame(rows).assign(seed=0, n=N)
    best = table.groupby("checkpoint").value.idxmax()
    table.loc[best, "null_p_max"] = 0.012
    return table


def probe_table(rng) -> pd.DataFrame:
    rows = []
    for relation, split in product(RELATIONS, ("held-out", "seen")):
        common = {"relation": relation, "split": split}
        common |= {"measure": "transfer_accuracy", "chance": 0.08}
        for family in ("train", "test", "near-miss", "unrelated"):
            weight = {"near-miss": 0.2, "unrelated": 0.05}.get(family, 0.8)
            for direction, base, scale in (
                ("rote->semantic", 0.08, weight),
                ("semantic->rote", 0.08, weight * 0.8),
                ("semantic->semantic", 0.1, 0.9),
            ):
                rows += layered(rng, scale, base, family=family, direction=direction, **common)
        rows += layered(rng, 0.95, 0.12, family="rote", direction="rote->rote", **common)
    return pd.DataFrame(rows)


def alignment_table(rng) -> pd.DataFrame:
    rows = []
    measures = {
        "cosine_raw": (0.8, 0.1),
        "cosine_raw_mismatched": (0.75, 0.05),
        "cosine_centred": (0.3, 0.3),
        "cosine_centred_mismatched": (0.0, 0.02),
        "retrieval_top1": (0.2, 0.7),
        "retrieval_mrr": (0.3, 0.6),
    }
    for relation, split, measure, family in product(
        style.SIDES, ("held-out", "seen"), measures, ("test", "unrelated")
    ):
        base, scale = measures[measure]
        scale *= 1 if family == "test" else 0.3
        common = {"relation": relation, "split": split, "measure": measure, "family": family}
        chance = 1 / N if measure.startswith("retrieval") else np.nan
        rows += layered(rng, scale, base, chance=chance, **common)
    return pd.DataFrame(rows)


def interchange_table(rng) -> pd.DataFrame:
    """The relation moves in the middle, the answer at the end; decodable from layer 3 of the
    generalized model."""
    rows = []
    common = {"measure": "share", "split": "held-out", "chance": 0.04}
    for relation, direction in product(style.SIDES, interchange.DIRECTIONS):
        kind = {"relation": relation, "direction": direction, "vector": "state", **common}
        for position in interchange.POSITIONS.values():
            for outcome in ("nothing", "relation", "subject", "answer", "other"):
                scale = 0.9 if outcome == "relation" else 0.1
                rows += layered(rng, scale, outcome=outcome, position=position, **kind)
        none = {"site": "none", "layer": -1, "position": "none", "outcome": "relation"}
        for row in layered(rng, **kind)[:: len(SITES)]:
            rows.append({**row, **none, "value": 0.9})
    for target in ("bare", "test", "rote"):
        kind = {"relation": "bound", "direction": f"vector->{target}", "position": "last"}
        for vector in ("own", "wrong", "random") if target != "rote" else ("own",):
            scale = 0.9 if vector == "own" else 0.1
            rows += layered(rng, scale, outcome="relation", vector=vector, **kind, **common)
    table = pd.DataFrame(rows)
    state = (table.vector == "state") & (table.phase == "generalize")
    return table.assign(decodable_layer=np.where(state, 3.0, np.nan))


def umap_table(rng) -> pd.DataFrame:
    rows = []
    objects = [f"object {i}" for i in range(8)]
    for relation in (*UNBOUND, *BOUND):
        centres = rng.normal(0, 3, (len(objects), 2))
        for (checkpoint, phase, _), i, template in product(
            CHECKPOINTS, range(2 * N), ("rote", "test-1", "test-2")
        ):
            pull, family = strength(phase, side_of(relation)), template.split("-")[0]
            x, y = pull * centres[i % len(objects)] + rng.normal(0, 0.6, 2)
            apart = 0 if family == "rote" else 4 * (1 - pull)
            row = {"checkpoint": checkpoint, "phase": phase, "relation": relation}
            row |= {"family": family, "template": template, "bound": relation in BOUND}
            row |= {"subject": f"Person {i}", "object": objects[i % len(objects)]}
            row |= {"split": "held-out" if i % 2 else "seen", "x": x + apart, "y": y + apart}
            rows.append(row)
    table = pd.DataFrame(rows).assign(seed=0, explained_x=0.31, explained_y=0.12)
    common = {"site": "resid_post.3", "method": "pca", "trustworthiness": np.nan}
    return table.assign(projection=table.relation, colour="object", **common)


def tables() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    return {
        "recall": recall_table(),
        "cka": cka_table(rng),
        "cka_grid": grid_table(rng),
        "probes": probe_table(rng),
        "alignment": alignment_table(rng),
        "umap": umap_table(rng),
        "interchange": interchange_table(rng),
    }


TABLES = tables()
RECORD = {
    "format": 1,
    "seed": 0,
    "model": "smollm2",
    "commit": "abcdef123456",
    "versions": {"torch": "2.13.0"},
    "inputs": {"facts": "people", "subjects": 64, "pool": 16, "unbound": 1},
    "phases": {"memorize": {"settings": {"epochs": 16, "facts": "people"}, "complete": True}},
}


def write_run(folder: Path, names=tuple(TABLES), *, checkpoints: bool = True) -> Path:
    """A run directory with these tables; without checkpoints, as committed results are."""
    (folder / "tables").mkdir(parents=True)
    for name in names:
        TABLES[name].to_csv(folder / "tables" / f"{name}.csv", index=False)
    for checkpoint, _, _ in CHECKPOINTS if checkpoints else ():
        (folder / "checkpoints" / checkpoint).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(RECORD))
    return folder


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run whose report was made, and the page's text."""
    run = write_run(tmp_path_factory.mktemp("runs") / "demo<i>")
    path = report.main(style.Options(run))
    return run, path.read_text(encoding="utf-8")


# --- which rows -----------------------------------------------------------------------------------


def test_recall_shows_strict_generation_of_all_items_and_nothing_else():
    data = recall.panel_data(TABLES["recall"])
    assert len(data) == len(CHECKPOINTS) * 2 * 6 * 2
    assert set(data.split) == {"held-out", "seen"}
    assert set(data.relation) == {"bound", "unbound"}
    last = pick(
        data, checkpoint=CHECKPOINTS[-1][0], relation="bound", split="held-out", family="test"
    )
    assert list(last.value) == [HELD_OUT_TEST]
    assert 0.99 not in set(data.value)


def test_unsplit_facts_are_shown_as_all():
    table = TABLES["recall"]
    assert set(recall.panel_data(table[table.split == "all"]).split) == {"all"}


def test_cka_panels_take_held_out_test_rows_of_the_means():
    data = cka.panel_data(TABLES["cka"], TABLES["probes"])
    assert set(data.panel) == set(cka.CHART.panels)
    assert set(data.split) == {"held-out"}
    per_line = data.groupby(["panel", "column", "line", "checkpoint"]).size()
    assert (per_line == len(SITES)).all()
    kinds = data.groupby(["panel", "column"]).line.unique().map(set).to_dict()
    assert kinds["contrast", "bound"] == {"main", "partialled"}
    assert kinds["contrast", "unbound"] == {"main"}
    assert kinds["cka", "bound"] == {"main", "unrelated"}
    assert kinds["object_kernel", "unbound"] == {"main", "other"}
    source = pick(
        TABLES["probes"],
        direction="rote->semantic",
        family="test",
        split="held-out",
        relation="bound",
    )
    drawn = pick(data, panel="transfer", column="bound")
    np.testing.assert_array_equal(drawn.value, source.value)


def test_without_probes_or_contrast_the_rest_is_drawn():
    table = TABLES["cka"]
    table = table[~table.measure.isin(["contrast", "contrast_partialled", "interaction"])]
    data = cka.panel_data(table)
    assert set(data.panel) == {"cka", "object_kernel"}
    assert len(cka.CHART.draw(data).axes) == 4


def test_a_measure_that_is_undefined_everywhere_gets_no_panel():
    table = TABLES["cka"].copy()
    table.loc[table.measure == "object_kernel", "value"] = np.nan
    assert "object_kernel" not in set(cka.panel_data(table).panel)


def test_several_unbound_relations_are_averaged_without_an_interval():
    table = TABLES["cka"]
    one = table[table.measure == "interaction"]
    data = cka.panel_data(pd.concat([table, one.assign(relation="another", value=one.value + 0.2)]))
    mean = pick(data, panel="contrast", column="unbound")
    expected = pick(one, split="held-out").value + 0.1
    np.testing.assert_allclose(mean.sort_values(["checkpoint", "layer"]).value, expected)
    assert mean.low.isna().all()


def test_maps_are_rote_layers_by_test_layers():
    table = TABLES["cka_grid"]
    drawn = [axes for axes in cka.maps(table).axes if axes.images]
    assert [a.get_title() for a in drawn] == ["base", "memorized", "generalized"]
    row = pick(table, checkpoint=CHECKPOINTS[2][0], layer=2, layer_y=4)
    assert drawn[2].images[0].get_array()[2, 4] == row.value.item()


def test_alignment_shows_each_measure_beside_its_controls():
    data = alignment.CHART.gather(TABLES["alignment"])
    kinds = data.groupby("panel").line.unique().map(set).to_dict()
    assert kinds == {
        "retrieval": {"paired", "unrelated"},
        "centred": {"paired", "mismatched", "unrelated"},
        "raw": {"paired", "mismatched", "unrelated"},
    }
    assert set(data.split) == {"held-out"}
    assert pick(data, panel="retrieval").chance.unique() == [1 / N]


def test_each_probe_transfer_has_its_ceiling_in_the_same_panel():
    data = probes.panel_data(TABLES["probes"])
    for _, panel in data.groupby(["panel", "column"]):
        assert set(panel.line) == {"transfer", "home"}
        assert len(panel) == 2 * len(CHECKPOINTS) * len(SITES)
    assert set(data.split) == {"held-out"}


def test_interchange_draws_relation_and_answer_by_place_among_the_patched_sites():
    table = TABLES["interchange"]
    data = interchange.STATES.gather(interchange.shares(table))
    assert set(data.line) == {"relation", "answer", "unbound"}
    assert set(data.outcome) == {"relation", "answer"}
    assert "none" not in set(data.site)
    moved = pick(data, panel="semantic->rote", column="last token", line="relation")
    which = {"direction": "semantic->rote", "position": "last", "outcome": "relation"}
    np.testing.assert_array_equal(moved.value, pick(table, relation="bound", **which).value)
    assert set(moved.decodable.dropna()) == {3.0}
    some = interchange.shares(table[table.layer.isin([-1, 0, 2, 4, 5])])
    assert sorted(set(some.layer)) == [0, 1, 2, 3]
    # Of the sites embed, 2, 4 and 5, two are before site 3.
    assert set(some.decodable.dropna()) == {2.0}


def test_interchange_without_vectors_is_one_picture(tmp_path):
    run = write_run(tmp_path / "run", names=())
    table = TABLES["interchange"]
    table[table.vector == "state"].to_csv(run / "tables" / "interchange.csv", index=False)
    drawn = interchange.draw(run)
    assert [path.name for path in drawn] == ["interchange.png", "interchange.svg"]
    with pytest.raises(style.NothingToDraw, match="measure share"):
        interchange.shares(table[table.measure == "lens"])


def test_projection_draws_one_template_of_held_out_subjects_and_joins_few():
    data = projection.panel_data(TABLES["umap"])
    assert set(data.split) == {"held-out"}
    assert (
        data.groupby(["relation", "checkpoint", "subject"]).family.agg(sorted).map(tuple)
        == ("rote", "test")
    ).all()
    joined = data[data.joined].groupby("relation").subject.nunique()
    assert joined.between(1, len(style.OBJECT_COLOURS)).all()


# --- colours, axes, gaps --------------------------------------------------------------------------


def test_the_last_checkpoint_of_a_phase_has_its_full_colour_and_earlier_ones_are_paler():
    table = pd.DataFrame(
        {
            "checkpoint": ["a", "b", "c"],
            "phase": ["memorize", "memorize", "base"],
            "epoch": [8, 16, 0],
        }
    )
    base, early, late = style.stages(table)
    assert base.label == "base"
    assert (early.label, late.label) == ("memorized, epoch 8", "memorized, epoch 16")
    assert late.colour.lower() == style.STAGES["memorize"][1].lower()
    assert early.colour > late.colour


def test_checkpoints_without_a_phase_are_called_by_name_and_thinned_evenly():
    table = pd.DataFrame({"checkpoint": [f"step-{i}" for i in range(10)], "phase": np.nan})
    assert [s.label for s in style.milestones(table)] == ["step-0", "step-3", "step-6", "step-9"]


def test_a_site_without_a_value_is_a_gap_and_one_not_measured_is_passed_over():
    _, (axes,) = style.tiles(1, height=2, extra=0, title="t")
    rows = pd.DataFrame({"layer": [3, 0, 2], "value": [np.nan, 1.0, 2.0], "low": np.nan})
    lines.layer_line(axes, rows, "#000000")
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 2, 3])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, 2, np.nan])


@pytest.mark.parametrize("blocks", [1, 3, 6, 12, 30, 48, 80, 126])
def test_site_ticks_name_the_ends_and_never_crowd(blocks):
    names = ["embed", *(f"resid_post.{i}" for i in range(blocks)), "final_norm"]
    _, (axes,) = style.tiles(1, height=2, extra=0, title="t")
    lines.site_axis(axes, dict(enumerate(names)))
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert labels[0] == "emb"
    assert labels[-1] == "fin"
    assert 2 <= len(labels) <= 11


def test_a_chart_draws_null_chance_and_a_line_for_each_checkpoint_and_kind():
    """What is declared is drawn: colours by checkpoint, an interval for the main line alone."""
    rng = np.random.default_rng(0)
    common = {"relation": "bound", "split": "all", "chance": 0.25}
    table = pd.DataFrame(
        [
            *layered(rng, family="test", measure="m", base=0.5, **common),
            *layered(rng, family="unrelated", measure="m", base=0.3, **common),
        ]
    )
    kinds = {
        "main": lines.Line({"family": "test"}, "test"),
        "other": lines.Line({"family": "unrelated"}, "unrelated", "--", last=True),
    }
    panel = lines.Panel("unit", kinds, rows={"measure": "m"}, null="above", limits=(0, 1))
    chart = lines.Chart("m", "title ({n})", {"m": panel}, reference="chance")
    figure = chart.draw(chart.gather(table))
    (axes,) = figure.axes
    chance, *drawn = axes.lines
    assert list(chance.get_ydata()) == [0.25, 0.25]
    assert [line.get_linestyle() for line in drawn] == ["-", "-", "-", "--"]
    assert [line.get_color().upper() for line in drawn[:3]] == [
        colour.upper() for _, colour in style.STAGES.values()
    ]
    last = pick(table, family="test", checkpoint=CHECKPOINTS[-1][0]).value
    np.testing.assert_array_equal(drawn[2].get_ydata(), last)
    assert len(axes.collections) == 4, "the null and an interval for each main line"
    assert axes.get_ylim() == (0, 1)
    assert figure.get_suptitle() == f"title (n = {N} subjects)"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    wanted = ["base", "memorized", "generalized", "test", "unrelated"]
    assert set(words) == {*wanted, "95% interval", "chance", "95% of the null"}
    explored = chart.explore(chart.gather(table))
    assert [trace.name for trace in explored.data] == wanted[:3]
    np.testing.assert_array_equal(explored.data[2].y, last)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (recall, ["recall"]),
        (cka, ["cka", "cka_maps"]),
        (alignment, ["alignment"]),
        (probes, ["probes"]),
        (interchange, ["interchange", "interchange_vectors"]),
        (projection, ["projection"]),
    ],
)
def test_a_missing_table_is_answered_with_the_command_that_writes_it(module, names, tmp_path):
    with pytest.raises(TableMissing, match=r"python -m (training|analysis)\.\w+ "):
        module.draw(write_run(tmp_path / "run", names=()))


def test_every_figure_is_written_whole_and_small(reported):
    run, _ = reported
    expected = {
        f"{name}.{kind}"
        for name in (
            "recall",
            "cka",
            "cka_maps",
            "alignment",
            "probes",
            "interchange",
            "interchange_vectors",
            "projection",
        )
        for kind in ("png", "svg")
    }
    written = {p.name: p.stat().st_size for p in (run / "figures").iterdir()}
    assert set(written) == expected
    assert all(5_000 < size < 500_000 for name, size in written.items() if name.endswith("png")), (
        written
    )


def test_drawing_again_gives_the_same_files_and_leaves_the_users_settings_alone(tmp_path, reported):
    import matplotlib

    run, _ = reported
    before = dict(matplotlib.rcParams)
    again = [p.read_bytes() for p in recall.draw(write_run(tmp_path / "run", names=("recall",)))]
    assert again == [(run / "figures" / f"recall.{kind}").read_bytes() for kind in ("png", "svg")]
    assert dict(matplotlib.rcParams) == before


def test_a_table_without_rows_to_draw_says_what_was_looked_for():
    table = TABLES["recall"]
    with pytest.raises(style.NothingToDraw, match="measure generation"):
        recall.panel_data(table[table.measure == "multiple_choice"])


# --- the page -------------------------------------------------------------------------------------


def test_the_report_says_the_headline_in_numbers(reported):
    _, page = reported
    assert f"<td>{two_places(HELD_OUT_TEST)} [" in page
    assert f"n = {N} subjects, 3 prompts a relation" in page
    assert "bound relations: +0.61 [+0.00, +0.70]" in page
    assert "always answering the commonest object: .07" in page
    assert "corrected for the choice among 5 sites" in page
    assert "phase memorize</td><td>epochs 16</td>" in page


def test_the_report_escapes_what_comes_from_the_run(reported):
    _, page = reported
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page
    assert "<h1>demo&lt;i&gt;</h1>" in page


def test_the_report_is_one_file_that_needs_no_network(reported):
    _, page = reported
    # plotly.js itself names hosts and tags in its code; what the page loads stands outside of it.
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert markup.count('src="') == markup.count('src="data:image/png;base64,') == 8
    assert markup.count("<title>") == 1
    assert "<link" not in markup
    assert not re.search(r"<script[^>]*\bsrc=", page)
    assert page.count("plotly.js v") == 1


def test_a_report_with_only_recall_says_what_is_missing(tmp_path):
    page = report.main(style.Options(write_run(tmp_path / "run", names=("recall",)))).read_text(
        encoding="utf-8"
    )
    assert "python -m analysis.cka" in page
    assert "not drawn" in page


def test_a_run_without_tables_is_told_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"python -m training\.recall"):
        report.main(style.Options(write_run(tmp_path / "run", names=())))


def test_an_uncorrected_best_site_is_called_so():
    data = cka.panel_data(TABLES["cka"].drop(columns="null_p_max"))
    assert "with no p corrected for that choice" in report.verdicts(report.findings(data))[0]


def test_a_verdict_names_the_best_site_of_the_last_checkpoint():
    data = cka.panel_data(TABLES["cka"], TABLES["probes"])
    transfer = pick(data, panel="transfer", column="bound", checkpoint=CHECKPOINTS[-1][0]).dropna(
        subset="value"
    )
    best = transfer.loc[transfer.value.idxmax()]
    first = report.verdicts(report.findings(data))[0]
    assert first.startswith(
        "Probe transfer from rote to test prompts of other subjects: "
        f"generalized {two_places(best.value)} ["
    )
    assert f"at {best.site}, above chance (.08), p .004" in first


def test_a_p_above_the_level_is_not_called_a_difference():
    data = cka.panel_data(TABLES["cka"].assign(null_p_max=0.3))
    assert all(
        "not distinguishable from chance" in line for line in report.verdicts(report.findings(data))
    )


def test_a_measure_without_any_value_is_named_with_its_reason():
    table = TABLES["cka"].copy()
    contrast = table.measure == "contrast"
    table.loc[contrast, "value"] = np.nan
    table.loc[contrast, "reason"] = "one relation only"
    assert report.not_identifiable(table) == ["contrast: no value here (one relation only)."]


def test_what_training_cost_is_told_where_it_was_measured(tmp_path):
    run = write_run(tmp_path / "run", names=("recall",))
    assert "What training cost" not in report.page(run, [], [])
    damage = pd.DataFrame(
        {
            "checkpoint": [name for name, *_ in CHECKPOINTS[:2]],
            "phase": ["base", "memorize"],
            "epoch": [0, 2],
            "step": [0, 10],
            "measure": "perplexity",
            "value": [12.5, 31.25],
            "low": [11.0, 28.0],
            "high": [14.0, 34.0],
            "n": 24,
        }
    )
    text = report.damage_section(damage)
    assert "12.50 [11.00, 14.00]" in text
    assert "31.25 [28.00, 34.00]" in text
    damage.assign(seed=RECORD["seed"]).to_csv(run / "tables" / "damage.csv", index=False)
    assert "What training cost" in report.page(run, [], [])


# --- redraw ---------------------------------------------------------------------------------------


def test_redraw_draws_committed_results_into_docs(tmp_path, capsys):
    write_run(tmp_path / "results" / "headline", names=("recall", "cka_grid"), checkpoints=False)
    written = redraw.main(redraw.Options(None, tmp_path / "results", tmp_path / "docs" / "images"))
    assert [p.name for p in written] == ["headline-recall.png"]
    assert (tmp_path / "docs" / "images" / "headline-recall.png").stat().st_size > 5_000
    assert "skipped cka:" in capsys.readouterr().out


def test_conditions_are_looked_for_in_a_sweep_and_not_in_a_run(tmp_path, capsys):
    run = write_run(tmp_path / "run", names=("recall",))
    redraw.main(redraw.Options(run, tmp_path / "results", tmp_path / "images"))
    said = capsys.readouterr().out
    assert "ablations" not in said
    assert f"python -m analysis.cka {run} --measure" in said, (
        "the plain command does not write this table"
    )
    sweep = tmp_path / "results" / "mine"
    (sweep / "tables").mkdir(parents=True)
    (sweep / "run.json").write_text('{"kind": "sweep"}')
    (sweep / "tables" / "sweep.csv").write_text("run,seed,measure,value\n")
    redraw.main(redraw.Options(None, tmp_path / "results", tmp_path / "images"))
    said = capsys.readouterr().out
    assert f"skipped ablations: {sweep}" in said.replace("tables/ablations.csv", "")
    assert "recall" not in said


def test_redraw_with_nothing_to_draw_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"python -m training\.recall RUN_DIR"):
        redraw.main(redraw.Options(None, tmp_path / "results", tmp_path / "images"))


def test_drawing_and_reporting_never_load_torch(tmp_path):
    run = write_run(tmp_path / "run", names=("recall",))
    code = (
        "import sys; from pathlib import Path; from figures import redraw, report, style\n"
        "print('matplotlib' in sys.modules or 'pandas' in sys.modules)\n"
        f"report.main(style.Options(Path({str(run)!r})))\n"
        "heavy = {'torch', 'transformers', 'nnsight', 'matplotlib.pyplot'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    lines = done.stdout.strip().splitlines()
    assert (lines[0], lines[-1]) == ("False", "[]")


def test_only_committed_results_are_drawn_into_the_docs(tmp_path):
    for name in ("kept", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    # Without git nothing is told apart.
    assert redraw._tracked(tmp_path / "mine")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "kept/run.json"], check=True)
    assert redraw._tracked(tmp_path / "kept")
    assert not redraw._tracked(tmp_path / "mine")
