import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc

from covidlab.evaluation import intervals
from covidlab.evaluation.figures import (
    plot_calibration,
    plot_confusion,
    plot_extremes,
    plot_pr,
    plot_roc,
)
from covidlab.evaluation.metrics import classification_metrics
from covidlab.predictions import Predictions

pytestmark = pytest.mark.filterwarnings("error")


def make(n=60, classes=("normal", "COVID"), positive="COVID", seed=0, shift=1.2, name="ResNet"):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % len(classes)
    logits = rng.normal(size=(n, len(classes)))
    logits[np.arange(n), truth] += shift
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # One digit gives ties in the scores.
    p = np.round(p[:, :-1], 1)
    p = np.clip(np.column_stack([p, 1 - p.sum(1)]), 0, 1)
    frame = pd.DataFrame({"label": np.array(classes)[truth]})
    frame["patient_id"] = [f"P{i}" for i in range(n)]
    return Predictions(frame, p / p.sum(1, keepdims=True), classes, positive, name)


def line(figure, start):
    (found,) = [i for i in figure.axes[0].lines if str(i.get_label()).startswith(start)]
    return found


def legend(figure):
    return [t.get_text() for t in figure.axes[0].get_legend().get_texts()]


# --- confusion -----------------------------------------------------------------------------------


def test_confusion_shows_counts_and_shares_of_the_true_class():
    frame = pd.DataFrame({"label": ["normal"] * 4 + ["COVID"] * 2})
    score = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7])
    p = Predictions(frame, np.stack([1 - score, score], 1), ("normal", "COVID"), "COVID", "VGG16")
    ax = plot_confusion(p).axes[0]
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in ax.texts}
    assert texts == {
        (0, 0): "3\n75.0%",
        (0, 1): "1\n25.0%",
        (1, 0): "0\n0.0%",
        (1, 1): "2\n100.0%",
    }
    assert ax.images[0].get_array().tolist() == [[3, 1], [0, 2]]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("true class", "predicted class")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["normal", "COVID"]
    assert ax.get_title() == "VGG16"

    shares = plot_confusion(p, normalise=True).axes[0]
    assert shares.images[0].get_array().tolist() == [[0.75, 0.25], [0, 1]]
    assert shares.images[0].get_clim() == (0, 1)
    assert shares.texts[0].get_text() == "75.0%\n3"
    assert sum(int(t.get_text()[0]) for t in plot_confusion(p, threshold=0.25).axes[0].texts) == 6


@pytest.mark.parametrize("normalise", [False, True])
def test_confusion_text_stands_out_from_its_cell(normalise):
    p = make(90, ("a", "b", "c", "d"), None)
    ax = plot_confusion(p, normalise).axes[0]
    image = ax.images[0]
    for text in ax.texts:
        column, row = text.get_position()
        rgb = np.array(image.cmap(image.norm(image.get_array()[row, column]))[:3])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        light = 1.0 if text.get_color() == "white" else 0.0
        high, low = max(light, luminance), min(light, luminance)
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_confusion_of_a_class_without_rows():
    p = make(20, ("a", "b", "c"), None)
    p = dataclasses.replace(
        p, frame=p.frame[p.frame["label"] != "b"], probabilities=p.probabilities[p.truth != 1]
    )
    texts = [t.get_text() for t in plot_confusion(p, normalise=True).axes[0].texts]
    assert texts[3:6] == ["–\n0"] * 3


# --- curves --------------------------------------------------------------------------------------


def test_roc_is_the_curve_of_all_thresholds():
    p = make()
    drawn = line(plot_roc(p), "ResNet").get_xydata()
    expected = {(0.0, 0.0)}
    for threshold in np.unique(p.score):
        called = p.score >= threshold
        expected.add((called[~p.is_positive].mean(), called[p.is_positive].mean()))
    assert np.array(sorted(map(tuple, drawn))) == pytest.approx(np.array(sorted(expected)))
    assert auc(*drawn.T) == pytest.approx(classification_metrics(p)["roc_auc"])


def test_pr_steps_enclose_average_precision():
    p = make()
    drawn = line(plot_pr(p), "ResNet")
    assert drawn.get_drawstyle() == "steps-post"
    # Steps after each point: its precision holds from its recall down to that of the next point.
    recall, precision = drawn.get_xydata().T
    area = (precision[:-1] * -np.diff(recall)).sum()
    assert area == pytest.approx(classification_metrics(p)["pr_auc"])


def test_legends_carry_the_intervals_of_report():
    models = [make(seed=0), make(seed=1, shift=0.5, name="VGG16")]
    roc, pr = plot_roc(models, n_boot=200), plot_pr(models, n_boot=200)
    for p in models:
        area = intervals.interval(p, "roc_auc", n_boot=200)
        assert f"{p.name}: AUC {area:.2f}" in legend(roc)
        precision = intervals.interval(p, "pr_auc", n_boot=200)
        assert f"{p.name}: AP {precision:.2f}" in legend(pr)
    assert roc.axes[0].get_legend().get_title().get_text() == "95% intervals"
    assert plot_roc(models, level=0.9).axes[0].get_legend().get_title().get_text().startswith("90%")


def test_guessing_is_the_diagonal_and_the_prevalence():
    p = make()
    rare = dataclasses.replace(
        p,
        frame=pd.concat([p.frame[~p.is_positive], p.frame[p.is_positive][:10]]),
        probabilities=np.concatenate(
            [p.probabilities[~p.is_positive], p.probabilities[p.is_positive][:10]]
        ),
        name="rare",
    )
    assert line(plot_roc(p), "guessing").get_xydata().tolist() == [[0, 0], [1, 1]]
    figure = plot_pr([p, rare], n_boot=50)
    flat = [i.get_ydata()[0] for i in figure.axes[0].lines if i.get_linestyle() == ":"]
    assert flat == pytest.approx([0.25, 0.5])
    assert "guessing (prevalence 0.25, 0.50)" in legend(figure)


def test_curves_differ_in_colour_and_dash():
    models = [make(40, seed=i, name=f"net {i}") for i in range(10)]
    lines = [i for i in plot_roc(models).axes[0].lines if str(i.get_label()).startswith("net")]
    assert len({i.get_color() for i in lines}) == 10
    assert len({str(i.get_linestyle()) + str(i._dash_pattern) for i in lines}) == 5


def test_many_classes_have_a_curve_each():
    p = make(90, ("COVID", "pneumonia", "normal"), None)
    figure = plot_roc(p, n_boot=50)
    for i, c in enumerate(p.classes):
        one = dataclasses.replace(p, positive=c)
        x, y = line(figure, f"ResNet, {c}:").get_xydata().T
        assert auc(x, y) == pytest.approx(classification_metrics(one)["roc_auc"]), i


def test_bands_hold_the_bootstrap_percentiles():
    p = make(80)
    figure = plot_roc(p, band=True, n_boot=150, seed=4)
    (band,) = figure.axes[0].collections
    path = band.get_paths()[0].vertices
    positive, negative = p.score[p.is_positive], p.score[~p.is_positive]
    heights = []
    for weight in intervals.resampled_rows(p, 150, 4):
        w_pos, w_neg = weight[p.is_positive], weight[~p.is_positive]
        # Recall where the line between the two neighbouring thresholds crosses 0.3.
        rates = [(0.0, 0.0)]
        for threshold in np.unique(p.score)[::-1]:
            rates.append(
                (
                    w_neg[negative >= threshold].sum() / w_neg.sum(),
                    w_pos[positive >= threshold].sum() / w_pos.sum(),
                )
            )
        heights.append(np.interp(0.3, *np.array(rates).T))
    at = path[np.isclose(path[:, 0], 0.3), 1]
    assert [at.min(), at.max()] == pytest.approx(np.quantile(heights, [0.025, 0.975]), abs=1e-9)
    assert len(plot_roc(p).axes[0].collections) == 0


def test_pr_band_takes_the_step_that_reaches_a_recall_first():
    p = make(80)
    figure = plot_pr(p, band=True, n_boot=150, seed=4)
    (band,) = figure.axes[0].collections
    path = band.get_paths()[0].vertices
    heights = []
    for weight in intervals.resampled_rows(p, 150, 4):
        for threshold in np.unique(p.score)[::-1]:
            called = weight * (p.score >= threshold)
            if called[p.is_positive].sum() / weight[p.is_positive].sum() >= 0.605:
                heights.append(called[p.is_positive].sum() / called.sum())
                break
    at = path[np.isclose(path[:, 0], 0.605), 1]
    assert [at.min(), at.max()] == pytest.approx(np.quantile(heights, [0.025, 0.975]), abs=1e-9)


# --- calibration ---------------------------------------------------------------------------------


def test_calibration_points_are_shares_with_wilsons_interval():
    score = np.repeat([0.05, 0.15, 1.0], [10, 20, 5])
    truth = np.repeat([1, 0, 1, 0, 1], [1, 9, 5, 15, 5])
    frame = pd.DataFrame({"label": np.where(truth, "COVID", "normal")})
    p = Predictions(frame, np.stack([1 - score, score], 1), ("normal", "COVID"), "COVID", "net")
    figure = plot_calibration(p)
    (container,) = figure.axes[0].containers
    points, _, (bars,) = container.lines
    assert points.get_xydata() == pytest.approx(
        np.array([[0.05, 0.1], [0.15, 0.25], [1, 1]]), abs=1e-6
    )
    for segment, (k, n) in zip(bars.get_segments(), [(1, 10), (5, 20), (5, 5)], strict=True):
        expected = intervals.wilson(k, n)
        assert segment[:, 1] == pytest.approx([expected.low, expected.high])
    brier = (9 * 0.05**2 + 0.95**2 + 5 * 0.85**2 + 15 * 0.15**2) / 35
    assert f"net: Brier {brier:.3f}" in legend(figure)
    with pytest.raises(ValueError, match="bins=0"):
        plot_calibration(p, bins=0)


# --- all -----------------------------------------------------------------------------------------

FIGURES = [plot_confusion, plot_roc, plot_pr, plot_calibration]


@pytest.mark.parametrize("plot", FIGURES)
def test_figure_is_narrow_labelled_and_not_left_open(plot):
    before = plt.get_fignums()
    figure = plot(make())
    assert plt.get_fignums() == before
    assert figure.get_size_inches()[0] <= 6.5
    assert figure.axes[0].get_xlabel() and figure.axes[0].get_ylabel()
    figure.draw_without_rendering()


@pytest.mark.parametrize("plot", FIGURES)
def test_figure_draws_into_axes_given(plot):
    figure, (left, right) = plt.subplots(1, 2)
    assert plot(make(), ax=right) is figure
    assert not left.has_data() and right.has_data()
    plt.close(figure)


@pytest.mark.parametrize("plot", FIGURES)
@pytest.mark.parametrize("truth", [[1], [0, 0, 0], []])
def test_figure_of_what_has_no_answer(plot, truth):
    score = np.linspace(0.2, 0.9, len(truth))
    frame = pd.DataFrame({"label": np.where(np.array(truth, bool), "COVID", "normal")})
    frame["patient_id"] = "P0"
    p = Predictions(frame, np.stack([1 - score, score], 1), ("normal", "COVID"), "COVID", "net")
    figure = plot(p)
    figure.draw_without_rendering()
    if plot in (plot_roc, plot_pr):
        assert any(t.endswith("undefined") for t in legend(figure))


@pytest.mark.parametrize("plot", FIGURES[1:])
def test_no_model_is_an_error(plot):
    with pytest.raises(ValueError, match="predictions is empty"):
        plot([])


# --- extremes ------------------------------------------------------------------------------------


def test_bars_are_the_least_the_mean_and_the_greatest_of_each_group():
    table = pd.DataFrame(
        {
            "input": ["a", "a", "a", "b"],
            "mcc": [0.1, 0.2, 0.6, 0.5],
            "accuracy": [0.7, 0.8, 0.9, 0.4],
        }
    )
    ax = plot_extremes(table, "input", ["mcc", "accuracy"]).axes[0]
    heights = [[bar.get_height() for bar in container] for container in ax.containers]
    assert np.allclose(heights[0], [0.1, 0.3, 0.6, 0.7, 0.8, 0.9])
    assert np.allclose(heights[1], [0.5, 0.5, 0.5, 0.4, 0.4, 0.4])
    assert ax.get_legend_handles_labels()[1] == ["a (n = 3)", "b (n = 1)"]
    assert ax.get_ylim()[0] == 0


def test_extremes_refuse_what_cannot_be_drawn():
    table = pd.DataFrame({"input": ["a", "b"], "mcc": [0.1, np.nan]})
    with pytest.raises(ValueError, match="input='b' has no value"):
        plot_extremes(table, "input", "mcc")
    with pytest.raises(ValueError, match="no \\['auc'\\]"):
        plot_extremes(table, "input", "auc")
