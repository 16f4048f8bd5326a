"""Each defect that this field is known for, put in on purpose: the law that forbids it must notice.

A mutant replaces one piece inside the library and calls the test that states the law. The same call
passes without it.
"""

import numpy as np
import pytest
import test_judgement
import test_probes
import test_similarity
import test_statistics

from analysis.measures import checks as inputs
from analysis.measures import contrast, hsic, judgement, similarity, statistics, transfer
from analysis.measures.contrast import crossed_contrast
from analysis.measures.similarity import linear_cka

pytestmark = pytest.mark.filterwarnings("ignore::analysis.measures.checks.SmallSample")
NOTICED = (AssertionError, pytest.fail.Exception)


# --- two laws that the mutants need and the other files lack


def rows_of_one_entity_are_refused():
    rng = np.random.default_rng(0)
    entities = np.repeat(np.arange(40), 5)
    x, y = (
        rng.normal(size=(40, 20))[entities] + 0.1 * rng.normal(size=(200, 20)) for _ in range(2)
    )
    with pytest.raises(inputs.BadInput, match="40 entities in 200 rows"):
        linear_cka(x, y, groups=entities)
    # Why: of entities that have nothing in common, five rows each are "similar".
    assert linear_cka(x, y) > 0.3
    assert abs(linear_cka(x[::5], y[::5], groups=entities[::5])) < 0.15


def relations_that_name_the_subject_more_clearly_make_no_contrast():
    """No answer anywhere; one relation's semantic prompts carry the name most clearly."""
    rng, values, p = np.random.default_rng(1), [], []
    for _ in range(20):
        subject = rng.normal(size=(40, 8))
        rote = subject + 0.5 * rng.normal(size=(3, 40, 8))
        semantic = np.array([3, 1, 0.5])[:, None, None] * subject + rng.normal(size=(3, 40, 8))
        found = crossed_contrast(rote, semantic, n=59, rng=rng)
        values.append(found.value)
        p.append(found.p)
    assert abs(np.mean(values)) < 0.03
    assert np.mean(np.array(p) <= 0.05) <= 0.2


@pytest.mark.parametrize(
    "law",
    [rows_of_one_entity_are_refused, relations_that_name_the_subject_more_clearly_make_no_contrast],
)
def test_the_law_holds(law):
    law()


# --- the mutants


def diagonal_removed_after_centring(patch):
    def gram(x):
        k = hsic.linear_gram(x)
        return k * (1 - np.eye(len(k)))

    def grid(xs, ys):
        a, b = gram(xs[0]), gram(ys[0])
        return np.full((1, 1), np.sum(a * b)), np.array([np.sum(a**2)]), np.array([np.sum(b**2)])

    patch.setattr(hsic, "grid_hsic1", grid)


def ratios_of_batches_averaged(patch):
    patch.setattr(similarity, "_hsic1_sums", lambda x, y: np.array([linear_cka(x, y), 1.0, 1.0]))


def several_rows_an_entity_let_in(patch):
    patch.setattr(inputs, "check_entities", lambda groups, n: None)


def row_bootstrap_in_place_of_the_jackknife(patch):
    def bootstrap(x, y):
        k, m, rng = x @ x.T, y @ y.T, np.random.default_rng(0)
        draws = []
        for rows in rng.integers(0, len(x), size=(25, len(x))):
            a, b = k[np.ix_(rows, rows)], m[np.ix_(rows, rows)]
            draws.append(
                hsic.normalised(hsic.hsic1_gram(a, b), hsic.hsic1_gram(a, a), hsic.hsic1_gram(b, b))
            )
        low, high = np.quantile(draws, [0.025, 0.975])
        return statistics.Interval(linear_cka(x, y), [low], [high], np.std(draws), len(x), np.inf)

    patch.setattr(test_statistics, "cka_interval", lambda xs, ys: bootstrap(xs[0], ys[0]))


def jackknife_over_rows_in_place_of_entities(patch):
    whole = statistics._paired_rows
    patch.setattr(statistics, "_paired_rows", lambda x, y, groups: whole(x, y, None))


def rows_split_in_place_of_entities(patch):
    whole = transfer.subject_folds
    patch.setattr(
        transfer, "subject_folds", lambda labels, subjects=None, **how: whole(labels, None, **how)
    )


def one_row_in_place_of_the_crossed_contrast(patch):
    def first_row(r):
        row = np.zeros((r, r))
        row[0] = -1 / (r - 1)
        row[0, 0] = 1
        return row

    patch.setattr(contrast, "_weights", first_row)


def negative_values_clipped(patch):
    whole = hsic.normalised
    patch.setattr(hsic, "normalised", lambda *sums: max(0.0, whole(*sums)))


def p_of_nought_printed(patch):
    patch.setattr(
        test_statistics,
        "permutation_p",
        lambda value, null, *_: np.mean(np.asarray(null) >= value, axis=0),
    )


def best_site_tested_as_if_it_were_the_only_one(patch):
    def uncorrected(observed, null, *, two_sided=False):
        p = statistics.permutation_p(np.asarray(observed), null)
        best = int(np.argmax(observed))
        return statistics.MaxStatistic(observed[best], best, p[best], p, len(observed))

    patch.setattr(test_statistics, "max_statistic_test", uncorrected)


def luck_of_objects_counted_by_subjects(patch):
    def by_subject(found, n, rng=0):
        rng = np.random.default_rng(rng)
        labels, answers = found[0].labels, found[0].predictions[0, :, 0]
        null = [np.mean(answers[rng.permutation(len(labels))] == labels) for _ in range(n)]
        value = float(np.mean(answers == labels))
        return value, float(statistics.permutation_p(value, np.array(null)))

    patch.setattr(judgement, "object_permutation_p", by_subject)
    patch.setattr(test_judgement, "object_permutation_p", by_subject)


def batches_law():
    test_similarity.test_minibatch_cka_is_one_ratio_of_summed_hsic.hypothesis.inner_test(0, 5, 9)


S, T = test_similarity, test_statistics
MUTANTS = {
    diagonal_removed_after_centring: S.test_cka_of_the_fixture_is_exact,
    ratios_of_batches_averaged: batches_law,
    several_rows_an_entity_let_in: rows_of_one_entity_are_refused,
    row_bootstrap_in_place_of_the_jackknife: (
        T.test_the_jackknife_interval_of_cka_covers_where_a_row_bootstrap_does_not_even_come_near
    ),
    jackknife_over_rows_in_place_of_entities: (T.test_an_entity_leaves_with_all_its_rows),
    rows_split_in_place_of_entities: (
        test_probes.test_splitting_rows_in_place_of_subjects_would_read_the_name
    ),
    one_row_in_place_of_the_crossed_contrast: (
        relations_that_name_the_subject_more_clearly_make_no_contrast
    ),
    negative_values_clipped: (
        S.test_debiased_cka_of_shuffled_pairs_is_zero_on_average_and_sometimes_negative
    ),
    p_of_nought_printed: (T.test_p_is_one_more_than_the_hits_over_one_more_than_the_draws),
    best_site_tested_as_if_it_were_the_only_one: (
        T.test_the_best_of_many_sites_needs_the_null_of_the_best
    ),
    luck_of_objects_counted_by_subjects: (
        test_judgement.test_luck_between_two_codes_of_few_objects_is_luck_of_objects_not_of_subjects
    ),
}


@pytest.mark.parametrize(
    ("mutant", "law"), MUTANTS.items(), ids=[mutant.__name__ for mutant in MUTANTS]
)
def test_the_law_notices(mutant, law, monkeypatch):
    law()
    mutant(monkeypatch)
    with pytest.raises(NOTICED):
        law()
