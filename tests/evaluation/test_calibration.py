from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from covidlab import evaluation
from covidlab.evaluation.calibration import (
    brier,
    by_group,
    calibration_error,
    chance_calibration_error,
    decision_curve,
    plot_decision_curve,
    temperature,
    temperature_scaling,
    with_temperature,
)
from covidlab.predictions import Predictions

pytestmark = pytest.mark.filterwarnings("error")
CLASSES = ("normal", "COVID")


def binary(score, positive, patients=None, **columns):
    score = np.asarray(score, float)
    frame = pd.DataFrame({"label": np.where(positive, "COVID", "normal"), **columns})
    frame["patient_id"] = [f"P{i}" for i in range(len(frame))] if patients is None else patients
    return Predictions(frame, np.stack([1 - score, score], 1), CLASSES, "COVID", "net")


def random(n=200, classes=CLASSES, positive="COVID", seed=0, t=1.0, per_patient=1):
    """Labels drawn from the softmax of logits: calibrated, before its logits are multiplied by t."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, len(classes)))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = [rng.choice(len(classes), p=row) for row in p]
    q = np.exp(t * logits)
    frame = pd.DataFrame({"label": np.array(classes)[truth]})
    frame["patient_id"] = [f"P{i // per_patient}" for i in range(n)]
    return Predictions(frame, q / q.sum(1, keepdims=True), classes, positive, "net")


# --- calibration error ---------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # Bins of 0.2: {0.1, 0.1, 0.1} none right of 3, {0.5, 0.5} one of 2, {0.9} none of 1, and the
    # score 1.0 belongs to the last bin. |0 − 0.3| + |1 − 1.0| + |1 − 1.9| over 7 rows.
    p = binary([0.1, 0.1, 0.1, 0.5, 0.5, 0.9, 1.0], [0, 0, 0, 1, 0, 0, 1])
    assert calibration_error(p, n_bins=5, n_boot=20).value == pytest.approx(1.2 / 7)
    # One bin compares the means only: 3 − 2... scores sum to 3.2, two rows are positive.
    assert calibration_error(p, n_bins=1, n_boot=20).value == pytest.approx(1.2 / 7)
    assert calibration_error(p, n_bins=2, n_boot=20).value == pytest.approx((0.3 + 0.9) / 7)


def test_without_a_positive_class_it_is_that_of_the_top_label():
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]]
    frame = pd.DataFrame({"label": list("abca"), "patient_id": list("wxyz")})
    p = Predictions(frame, probabilities, ("a", "b", "c"))
    # Right, right, right, wrong at 0.7, 0.7, 0.4, 0.8, in bins of a third: {0.4}, {0.7, 0.7, 0.8}.
    assert calibration_error(p, n_bins=3, n_boot=20).value == pytest.approx((0.6 + 0.2) / 4)
    of_a = replace(p, positive="a")
    assert calibration_error(of_a, n_bins=1, n_boot=20).value == pytest.approx(0.8 / 4)


def test_calibration_error_against_a_loop_over_bins_and_ties_with_the_figure():
    p = random(150, seed=3, t=2)
    score, truth, total = p.score.astype(float), p.is_positive, 0.0
    for low in np.arange(10) / 10:
        inside = (score >= low) & ((score < low + 0.1) | (low == 0.9))
        if inside.any():
            total += inside.mean() * abs(truth[inside].mean() - score[inside].mean())
    found = calibration_error(p)
    assert found.value == pytest.approx(total, abs=1e-12)
    assert found.n == 150 and 0 <= found.low < found.high <= 1
    drawn = evaluation.plot_calibration(p).axes[0].lines[1].get_xydata()
    assert sorted(drawn[:, 1]) == pytest.approx(
        sorted(truth[(score * 10).astype(int) == b].mean() for b in set((score * 10).astype(int)))
    )


def test_the_interval_holds_the_true_error_of_an_overconfident_model():
    # The truth of this model: its bins' gaps among very many rows.
    true = calibration_error(random(60_000, t=2.5), n_boot=1).value
    held = percentile = 0
    for seed in range(60):
        i = calibration_error(random(100, seed=seed + 1, t=2.5), n_boot=200, seed=seed)
        held += i.low <= true <= i.high
        percentile += 2 * i.value - i.high <= true <= 2 * i.value - i.low
    assert held >= 50 > percentile


def test_images_of_a_patient_are_drawn_together():
    once = random(60, seed=1, t=4)
    frame = pd.concat([once.frame] * 4, ignore_index=True)
    often = replace(once, frame=frame, probabilities=np.tile(once.probabilities, (4, 1)))
    for measure in (calibration_error, brier):
        a, b = measure(once, n_boot=300), measure(often, n_boot=300)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
        assert a.n == b.n == 60
        by_image = measure(often, n_boot=300, by="image")
        assert by_image.high - by_image.low < 0.7 * (b.high - b.low)


def test_chance_alone_is_what_a_calibrated_model_shows():
    inside = [
        chance_calibration_error(p, n_draws=300).high >= calibration_error(p, n_boot=1).value
        for p in (random(80, seed=s) for s in range(40))
    ]
    assert np.mean(inside) >= 0.85
    poor = random(80, t=4)
    assert calibration_error(poor, n_boot=1).value > chance_calibration_error(poor).high
    # One bin, one score: the mean distance of a binomial share from a half, known in closed form.
    from scipy.stats import binom

    k = np.arange(11)
    expected = (binom.pmf(k, 10, 0.5) * np.abs(k / 10 - 0.5)).sum()
    p = binary([0.5] * 10, [True] * 10)
    assert chance_calibration_error(p, n_draws=20_000).value == pytest.approx(expected, abs=0.003)


# --- Brier score ---------------------------------------------------------------------------------


def test_brier_score_is_scikit_learns():
    p = random(120, seed=2)
    expected = brier_score_loss(p.is_positive, p.score.astype(float))
    assert brier(p, n_boot=50).value == pytest.approx(expected)
    three = random(90, ("a", "b", "c"), None, seed=4)
    one_hot = np.eye(3)[three.truth]
    expected = ((three.probabilities - one_hot) ** 2).sum() / 90
    assert brier(three, n_boot=50).value == pytest.approx(expected)
    assert brier(replace(p, positive=None), n_boot=5).value == pytest.approx(2 * brier(p).value)


def test_brier_interval_is_near_that_of_a_mean():
    p = random(400, seed=5)
    errors = (p.score.astype(float) - p.is_positive) ** 2
    half = 1.96 * errors.std() / 20
    found = brier(p)
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), abs=0.1 * half
    )


def test_nothing_gives_nan_and_bad_arguments_are_named():
    empty = binary(np.empty(0), np.empty(0, bool))
    for measure in (brier, calibration_error, chance_calibration_error):
        assert np.isnan(measure(empty)[:3]).all()
    # Each row alike: no spread among resamples says nothing of the next patient.
    assert np.isnan(brier(binary([0.5] * 4, [1, 0, 1, 0])).low)
    with pytest.raises(ValueError, match="n_bins=0"):
        calibration_error(random(10), n_bins=0)
    with pytest.raises(ValueError, match="level=95"):
        brier(random(10), level=95)


# --- temperature ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes,positive", [(CLASSES, "COVID"), (("a", "b", "c", "d"), None)])
@pytest.mark.parametrize("known", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(classes, positive, known):
    valid = random(4000, classes, positive, seed=1, t=known)
    test = random(3000, classes, positive, seed=2, t=known)
    calibrated = random(3000, classes, positive, seed=2)
    found, t = temperature_scaling(valid, test)
    assert t == pytest.approx(known, rel=0.1)
    exact = with_temperature(test, known)
    np.testing.assert_allclose(exact.probabilities, calibrated.probabilities, atol=2e-5)
    assert (found.predicted == test.predicted).all() and found.frame.equals(test.frame)
    if known != 1:
        assert calibration_error(found, n_boot=1).value < calibration_error(test, n_boot=1).value
        assert brier(found, n_boot=1).value < brier(test, n_boot=1).value
    if positive:
        ranks = [roc_auc_score(p.is_positive, p.score) for p in (found, test)]
        assert ranks[0] == pytest.approx(ranks[1], abs=1e-4)


def test_no_other_temperature_is_more_likely():
    valid = random(300, ("a", "b", "c"), None, seed=7, t=1.7)

    def loss(t):
        p = with_temperature(valid, t).probabilities[np.arange(300), valid.truth]
        return -np.log(p.astype(float)).mean()

    best = temperature(valid)
    assert all(loss(best) <= loss(best * f) for f in (0.9, 0.99, 1.01, 1.1))


def test_the_predicted_class_stays_where_rounding_would_tie():
    p = binary([0.5 + 6e-8, 0.5 - 6e-8, 1.0, 0.0], [1, 0, 1, 0])
    assert p.predicted.tolist() == [1, 0, 1, 0]
    assert with_temperature(p, 19.0).predicted.tolist() == [1, 0, 1, 0]
    assert with_temperature(p, 0.06).predicted.tolist() == [1, 0, 1, 0]


def test_what_cannot_be_scaled_is_refused():
    p = random(50)
    with pytest.raises(ValueError, match="take both from one model"):
        temperature_scaling(p, replace(p, classes=CLASSES[::-1]))
    with pytest.raises(ValueError, match="10 patients, too few"):
        temperature(random(50, per_patient=5))
    with pytest.raises(ValueError, match="free of errors"):
        temperature(binary(np.where(p.is_positive, 0.8, 0.2), p.is_positive))
    with pytest.raises(ValueError, match="guessing"):
        temperature(binary(np.where(p.is_positive, 0.2, 0.8), p.is_positive))
    for t in (0, -1, np.nan):
        with pytest.raises(ValueError, match="temperature="):
            with_temperature(p, t)


# --- decision curve ------------------------------------------------------------------------------


def test_net_benefit_by_hand():
    # At 0.2 the rows 0.2, 0.3, 0.6, 0.9 are treated: 3 right, 1 wrong, a wrong one worth 1/4.
    p = binary([0.1, 0.2, 0.3, 0.6, 0.9], [0, 1, 0, 1, 1])
    table = decision_curve(p, [0.2, 0.5, 0.95], n_boot=50)
    assert table["model"].tolist() == pytest.approx([(3 - 0.25) / 5, 2 / 5, 0])
    assert table["all"].tolist() == pytest.approx([(3 - 2 * 0.25) / 5, 1 / 5, (3 - 2 * 19) / 5])
    assert table["none"].tolist() == [0, 0, 0]
    assert table["gain"].tolist() == pytest.approx([0.25 / 5, 1 / 5, 0])
    assert table.index.name == "threshold"


def test_net_benefit_by_the_formula_of_vickers_and_elkin():
    p = random(150, seed=8)
    table = decision_curve(p, n_boot=20)
    for t, row in table.iterrows():
        tn, fp, fn, tp = confusion_matrix(p.is_positive, p.score >= t).ravel()
        assert row["model"] == pytest.approx(tp / 150 - fp / 150 * t / (1 - t), abs=1e-9)
        share = (tp + fn) / 150
        assert row["all"] == pytest.approx(share - (1 - share) * t / (1 - t), abs=1e-9)
        assert row["gain"] == pytest.approx(row["model"] - max(row["all"], 0), abs=1e-9)
    assert len(table) == 99
    shown = table.loc[0.2:0.8]
    assert ((shown["low"] < shown["model"]) & (shown["model"] < shown["high"])).all()


def test_the_prevalence_varies_in_the_resamples_and_the_gain_is_paired():
    p = binary(np.ones(100), np.arange(100) < 30)
    row = decision_curve(p, [0.1], n_boot=4000).loc[0.1]
    # Treating all is the model: the prevalence π is a binomial share, and π − (1 − π)/9 its benefit.
    half = 1.96 * np.sqrt(0.3 * 0.7 / 100) * (1 + 1 / 9)
    assert (row["low"], row["high"]) == pytest.approx(
        (row["model"] - half, row["model"] + half), abs=0.015
    )
    assert row["gain"] == 0 and np.isnan(row["gain low"])


@pytest.mark.parametrize("thresholds", [[], [0, 0.5], [1.0], [np.nan], [[0.1]]])
def test_thresholds_must_be_between_0_and_1(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        decision_curve(random(20), thresholds)


def test_a_decision_needs_a_positive_class():
    with pytest.raises(ValueError, match="no positive class"):
        decision_curve(random(20, positive=None))


def test_the_figure_shows_the_table():
    p = random(60)
    figure = plot_decision_curve([p, replace(p, name="twin")], [0.1, 0.3, 0.5], n_boot=30)
    ax = figure.axes[0]
    by_label = {line.get_label(): line.get_ydata() for line in ax.lines}
    table = decision_curve(p, [0.1, 0.3, 0.5], n_boot=30)
    assert list(by_label["net: model"]) == pytest.approx(table["model"].tolist())
    assert list(by_label["treat everyone"]) == pytest.approx(table["all"].tolist())
    # Both are about the same rows, so treating everyone stands there once.
    assert len(ax.lines) == 4 and "treat no one" in by_label
    assert len(plot_decision_curve(replace(p, positive=None), [0.2], n_boot=5).axes[0].lines) == 5


# --- groups --------------------------------------------------------------------------------------


def grouped():
    p = random(120, seed=9)
    sites = np.repeat(["north", "south", ""], [80, 34, 6])
    return replace(p, frame=p.frame.assign(site=sites, age=np.arange(120)))


def test_a_group_is_measured_as_if_it_were_alone():
    p = grouped()
    table = by_group(p, "site", ["recall", "roc_auc", "brier", "calibration_error"], n_boot=100)
    assert list(table.index) == ["north", "south", "not known", "all"]
    assert table["n"].tolist() == [80, 34, 6, 120] == table["patients"].tolist()
    south = replace(p, frame=p.frame[80:114], probabilities=p.probabilities[80:114])
    expected = evaluation.report(south)
    row = table.loc["south"]
    for m in ("recall", "roc_auc"):
        assert (row[m], row[f"{m} low"], row[f"{m} high"]) == tuple(
            expected.loc[m, ["value", "low", "high"]]
        )
    assert row["brier"] == brier_score_loss(south.is_positive, south.score.astype(float))
    assert row["calibration_error"] == calibration_error(south, n_boot=1).value
    assert table.loc["all", "brier"] == brier(p, n_boot=1).value


def test_small_groups_are_there_and_named():
    table = by_group(grouped(), "site", ["accuracy"], n_boot=20)
    assert table.loc["all", "note"] == ""
    positive = int(grouped().is_positive[114:].sum())
    assert table.loc["not known", "note"] == (
        f"small: {positive} patients COVID, {6 - positive} patients normal"
    )
    assert np.isfinite(table.loc["not known", "accuracy"])


def test_a_group_of_one_class_has_no_number_for_the_other():
    p = random(60)
    p = replace(p, frame=p.frame.assign(severity=np.where(p.is_positive, "severe", "none")))
    table = by_group(p, "severity", ["sensitivity", "specificity"], n_boot=20)
    assert np.isnan(table.loc["severe", "specificity"]) and np.isnan(
        table.loc["none", "sensitivity"]
    )
    assert "no patients normal" in table.loc["severe", "note"]
    assert table.loc["severe", "sensitivity"] == table.loc["all", "sensitivity"]


def test_groups_keep_the_order_of_their_kind():
    p = random(60)
    grades = pd.Categorical(["mild", "severe", "moderate"] * 20, ["mild", "moderate", "severe"])
    p = replace(p, frame=p.frame.assign(grade=grades, stage=[10, 9, 2] * 20))
    assert list(by_group(p, "grade", n_boot=5).index) == ["mild", "moderate", "severe", "all"]
    assert list(by_group(p, "stage", n_boot=5).index) == ["2", "9", "10", "all"]


def test_groups_of_unknown_patients_count_images():
    p = grouped()
    p = replace(p, frame=p.frame.drop(columns="patient_id"))
    table = by_group(p, "site", ["brier"], n_boot=20, by="image")
    assert table["patients"].isna().all() and "images COVID" in table.loc["not known", "note"]


@pytest.mark.parametrize(
    "column,metrics,said",
    [
        ("town", ["recall"], "town"),
        ("site", ["kappa"], "kappa"),
        ("age", ["recall"], "pandas.cut"),
        ("part", ["recall"], "rename it"),
    ],
)
def test_groups_that_cannot_be_are_refused(column, metrics, said):
    p = grouped()
    p = replace(p, frame=p.frame.assign(part="all"))
    with pytest.raises(ValueError, match=said):
        by_group(p, column, metrics)
