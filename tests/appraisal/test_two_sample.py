"""Two-sample tests: uniform p where nothing differs, small p where something does, pairs by hand."""

import numpy as np
import pytest

from covidlab.appraisal.two_sample import (
    _mmd,
    _pairs_won,
    _resampled_pairs_won,
    classifier_two_sample,
    mmd,
)

FEW = {"n_permutations": 99, "n_boot": 50}


def draw(rng, n=20, d=8, shift=0.0):
    return rng.normal(shift, 1.0, (n, d))


def slices(rng, patients, each=4, d=6, shift=0.0, own=2.0):
    """Rows of patients that are alike within a patient: (rows, ids)."""
    middle = rng.normal(shift, own, (len(patients), 1, d))
    rows = (middle + rng.normal(0, 0.5, (len(patients), each, d))).reshape(-1, d)
    return rows, np.repeat(patients, each)


# ---- the statistics ----------------------------------------------------------------------------


def test_pairs_are_counted_within_cells():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = rng.integers(4, 15)
        scores, labels = rng.integers(0, 5, n).astype(float), rng.random(n) < 0.5
        cells, weight = rng.integers(0, 3, n), rng.integers(0, 3, n).astype(float)
        plain, resampled = np.zeros(2), np.zeros(2)
        for i in np.flatnonzero(labels):
            for j in np.flatnonzero(~labels & (cells == cells[i])):
                pair = np.array([(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2, 1.0])
                plain += pair
                resampled += weight[i] * weight[j] * pair
        assert np.allclose(_pairs_won(scores[:, None], labels[:, None], cells)[:, 0], plain)
        found = _resampled_pairs_won(scores, labels, cells, weight[None])
        assert np.allclose(found[:, 0], resampled)


def test_mmd_by_gretton_equation_3():
    """Sums over all pairs i ≠ j, as in Lemma 6, for several memberships at once."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 3))
    kernel = np.exp(-np.square(x[:, None] - x).sum(2))
    members = np.stack([rng.permutation(np.arange(9) < 4) for _ in range(5)], 1)
    expected = []
    for second in members.T:
        a, b = np.flatnonzero(~second), np.flatnonzero(second)
        within = [np.mean([kernel[i, j] for i in s for j in s if i != j]) for s in (a, b)]
        expected.append(sum(within) - 2 * kernel[np.ix_(a, b)].mean())
    np.fill_diagonal(kernel, 0.0)
    assert np.allclose(_mmd(kernel, members.astype(float)), expected)


# ---- under the null ----------------------------------------------------------------------------


def close_to_uniform(p):
    """Of p-values under the null, the share below each quarter is about that; 4 standard errors."""
    p = np.array(p)
    return all(
        abs((p <= q).mean() - q) < 4 * np.sqrt(q * (1 - q) / len(p)) for q in (0.25, 0.5, 0.75)
    )


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(2)
    pairs = [(draw(rng, 16), draw(rng, 12)) for _ in range(60)]
    found = [
        classifier_two_sample(a, b, n_permutations=19, n_boot=1, repeats=2, seed=i)
        for i, (a, b) in enumerate(pairs)
    ]
    assert close_to_uniform([t.p for t in found])
    assert abs(np.mean([t.value for t in found]) - 0.5) < 0.05
    found = [mmd(a, b, n_permutations=19, seed=i) for i, (a, b) in enumerate(pairs)]
    assert close_to_uniform([t.p for t in found])
    assert abs(np.mean([t.value for t in found])) < 0.01


def test_slices_of_one_patient_are_no_independent_witnesses():
    """Patients differ, samples do not. By rows that looks like a shift, by patient it does not."""
    rng, by_patient, by_row = np.random.default_rng(3), [], []
    for i in range(30):
        a, who_a = slices(rng, np.arange(8))
        b, who_b = slices(rng, np.arange(8, 16))
        options = {"n_permutations": 19, "seed": i}
        by_patient.append(mmd(a, b, (who_a, who_b), **options).p)
        by_row.append(mmd(a, b, **options).p)
    assert np.mean(np.array(by_row) <= 0.05) > 0.8
    assert close_to_uniform(by_patient)


def test_another_mix_of_classes_is_no_shift_within_classes():
    rng = np.random.default_rng(4)
    classes = np.array(["sick"] * 24 + ["well"] * 6), np.array(["sick"] * 6 + ["well"] * 24)
    a, b = (draw(rng, 30) + 2.0 * (c == "sick")[:, None] for c in classes)
    for test in (classifier_two_sample, mmd):
        assert test(a, b, **({} if test is mmd else FEW)).p < 0.03
        assert test(a, b, strata=classes, **({} if test is mmd else FEW)).p > 0.1
    b[:, 0] += 3.0
    assert classifier_two_sample(a, b, strata=classes, **FEW).p < 0.03


# ---- under shift -------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [classifier_two_sample, mmd])
def test_a_shift_is_found_and_a_greater_one_lies_further_apart(test):
    rng = np.random.default_rng(5)
    a = draw(rng, 25)
    found = [test(a, draw(rng, 25, shift=s), n_permutations=99) for s in (0.6, 1.2)]
    assert [t.p for t in found] == [0.01, 0.01]  # the least of 99 relabellings
    assert found[0].value < found[1].value


def test_auc_is_what_the_normal_distribution_says():
    """Shift s along one direction: AUC Φ(s / √2) for the best classifier; the interval holds it."""
    from scipy.stats import norm

    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 1, (400, 1)), rng.normal(1.0, 1, (400, 1))
    found = classifier_two_sample(a, b, n_permutations=19, n_boot=200)
    expected = norm.cdf(1 / np.sqrt(2))
    assert found.low < expected < found.high and found.value == pytest.approx(expected, abs=0.04)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.0163, rel=0.3)  # Hanley-McNeil's


def test_mmd_sees_another_spread_where_a_linear_classifier_cannot():
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, 1, (60, 3)), rng.normal(0, 3, (60, 3))
    assert mmd(a, b, n_permutations=99).p == 0.01
    assert classifier_two_sample(a, b, **FEW).p > 0.05


def test_more_features_than_patients():
    rng = np.random.default_rng(8)
    a, b = draw(rng, 15, 300), draw(rng, 15, 300, shift=0.4)
    found = classifier_two_sample(a, b, **FEW)
    assert found.value > 0.9 and found.p == 0.01
    assert found.scores.shape == (30,) and found.scores[15:].mean() > found.scores[:15].mean()


def test_the_scale_of_a_feature_does_not_matter():
    rng = np.random.default_rng(9)
    a, b = draw(rng), draw(rng, shift=0.5)
    scale = 10.0 ** np.arange(8)
    for test in (classifier_two_sample, mmd):
        one, other = test(a, b, n_permutations=9), test(a * scale, b * scale, n_permutations=9)
        assert one.value == pytest.approx(other.value) and one.p == other.p


# ---- what is reported, and what is refused -----------------------------------------------------


def test_the_same_seed_gives_the_same_and_names_its_numbers():
    rng = np.random.default_rng(10)
    (a, who_a), (b, who_b) = slices(rng, np.arange(6)), slices(rng, np.arange(6, 11), each=3)
    first, again, other = (
        classifier_two_sample(a, b, (who_a, who_b), seed=s, **FEW) for s in (0, 0, 1)
    )
    assert first[:7] == again[:7] and np.array_equal(first.scores, again.scores)
    assert first[:4] != other[:4]
    assert (first.n, first.patients) == ((24, 15), (6, 5))
    assert str(first).startswith(f"AUC {first.value:.3f} (") and "6 and 5 patients" in str(first)
    assert "nan" not in str(mmd(a, b, n_permutations=9))


def test_no_patient_is_in_training_and_test_of_a_fold():
    """Each patient has a mark of its own; by rows the classifier would know it again."""
    rng = np.random.default_rng(11)
    ids = np.repeat(np.arange(20), 5)
    marks = np.eye(20)[ids] * 5 + rng.normal(0, 0.1, (100, 20))
    a, b = marks[:50], marks[50:]
    by_row = classifier_two_sample(a, b, **FEW)
    by_patient = classifier_two_sample(a, b, (ids[:50], ids[50:]), **FEW)
    assert by_row.value > 0.95 and by_row.p == 0.01
    assert by_patient.value < 0.7 and by_patient.p > 0.05


GOOD = np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        ((GOOD, GOOD[:, :2]), {}, "shapes"),
        ((GOOD[0], GOOD[0]), {}, "shapes"),
        ((GOOD, GOOD[:1]), {}, "6 and 1 rows"),
        ((GOOD, GOOD * np.nan), {}, "NaN"),
        ((GOOD, GOOD, (range(6), range(6))), {}, "6 patients are in both"),
        ((GOOD, GOOD, (range(6), [7] * 6)), {}, "6 and 1 patients"),
        ((GOOD, GOOD, (range(6), range(5))), {}, "patients must be two"),
        (
            (GOOD, GOOD, (range(6), [7, 7, 8, 8, 9, 9])),
            {"strata": ("aaabbb", "ababab")},
            "strata must be two",
        ),
        (
            (GOOD, GOOD, (range(6), [7, 7, 8, 8, 9, 9])),
            {"strata": (list("aaabbb"), list("ababab"))},
            "in two strata",
        ),
        ((GOOD, GOOD), {"n_permutations": 0}, "n_permutations"),
    ],
)
@pytest.mark.parametrize("test", [classifier_two_sample, mmd])
def test_bad_input_is_named(test, arguments, options, what):
    with pytest.raises(ValueError, match=what):
        test(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"folds": 1}, "folds=1"),
        ({"folds": 13}, "folds=13 must lie in 2..12"),
        ({"level": 1.0}, "level"),
        ({"repeats": 0}, "repeats=0"),
        ({"strata": (["a"] * 6, ["b"] * 6)}, "both samples"),
    ],
)
def test_what_the_classifier_refuses(options, what):
    with pytest.raises(ValueError, match=what):
        classifier_two_sample(GOOD, GOOD, n_permutations=9, **options)
