import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.preprocessing import label_binarize

from covidlab.evaluation.metrics import (
    METRICS,
    classification_metrics,
    confusion,
    from_confusion,
    from_counts,
    metric_name,
    per_class,
)
from covidlab.predictions import Predictions

# Undefined values must be NaN without a warning, so every warning is an error here.
pytestmark = pytest.mark.filterwarnings("error")


def binary(truth, score, name=""):
    """Predictions of two classes from 0/1 truth and scores of the second."""
    score = np.asarray(score, np.float32)
    frame = pd.DataFrame({"label": np.where(np.asarray(truth, bool), "COVID", "normal")})
    probabilities = np.stack([1 - score, score], 1)
    return Predictions(frame, probabilities, ("normal", "COVID"), "COVID", name)


def random_predictions(seed, n, classes, positive=None, tied=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, len(classes)))
    truth = rng.integers(len(classes), size=n)
    logits[np.arange(n), truth] += 1
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if tied and len(classes) == 2:
        p = np.round(p, 1)
    frame = pd.DataFrame({"label": np.array(classes)[truth]})
    return Predictions(frame, p, classes, positive)


# --- against scikit-learn ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [None, 0.3, 0.5])
@pytest.mark.parametrize("tied", [False, True])
def test_binary_agrees_with_sklearn(seed, threshold, tied):
    p = random_predictions(seed, 83, ("normal", "COVID"), "COVID", tied)
    truth = (p.frame["label"] == "COVID").to_numpy()
    score = p.probabilities[:, 1]
    called = p.probabilities.argmax(1) == 1 if threshold is None else score >= threshold
    expected = {
        "accuracy": sk.accuracy_score(truth, called),
        "precision": sk.precision_score(truth, called),
        "recall": sk.recall_score(truth, called),
        "specificity": sk.recall_score(truth, called, pos_label=False),
        "f_score": sk.f1_score(truth, called),
        "mcc": sk.matthews_corrcoef(truth, called),
        "roc_auc": sk.roc_auc_score(truth, score),
        "pr_auc": sk.average_precision_score(truth, score),
    }
    got = classification_metrics(p, threshold)
    assert list(got) == list(METRICS)
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_many_classes_agree_with_sklearn(weighted):
    classes = ("COVID", "pneumonia", "normal")
    p = random_predictions(5, 150, classes)
    truth, called = p.truth, p.probabilities.argmax(1)
    how = "weighted" if weighted else "macro"
    each = sk.multilabel_confusion_matrix(truth, called)
    specificity = each[:, 0, 0] / each[:, 0].sum(1)
    one_hot = label_binarize(truth, classes=range(3))
    expected = {
        "accuracy": sk.accuracy_score(truth, called),
        "precision": sk.precision_score(truth, called, average=how),
        "recall": sk.recall_score(truth, called, average=how),
        "specificity": np.average(
            specificity, weights=np.bincount(truth) if weighted else np.ones(3)
        ),
        "f_score": sk.f1_score(truth, called, average=how),
        "mcc": sk.matthews_corrcoef(truth, called),
        "roc_auc": sk.roc_auc_score(one_hot, p.probabilities, average=how),
        "pr_auc": sk.average_precision_score(one_hot, p.probabilities, average=how),
    }
    assert classification_metrics(p, weighted=weighted) == pytest.approx(expected, abs=1e-12)


def test_weighted_recall_is_accuracy_and_macro_is_the_mean_of_per_class():
    p = random_predictions(6, 90, ("a", "b", "c", "d"))
    assert classification_metrics(p, weighted=True)["recall"] == pytest.approx(
        sk.accuracy_score(p.truth, p.predicted)
    )
    table, macro = per_class(p), classification_metrics(p)
    for name in ("precision", "recall", "specificity", "f_score", "roc_auc", "pr_auc"):
        assert table[name].mean() == pytest.approx(macro[name], abs=1e-12)


def test_per_class_takes_each_class_against_the_rest():
    p = random_predictions(7, 70, ("a", "b", "c"), positive="b")
    table = per_class(p)
    assert list(table.index) == ["a", "b", "c"] and table.index.name == "class"
    assert list(table.columns) == ["n", *METRICS]
    assert table["n"].to_dict() == p.frame["label"].value_counts().to_dict()
    for i, c in enumerate(p.classes):
        truth, called = p.frame["label"] == c, p.probabilities.argmax(1) == i
        assert table.loc[c, "precision"] == pytest.approx(sk.precision_score(truth, called))
        assert table.loc[c, "mcc"] == pytest.approx(sk.matthews_corrcoef(truth, called))
        assert table.loc[c, "roc_auc"] == pytest.approx(
            sk.roc_auc_score(truth, p.probabilities[:, i])
        )


def test_positive_of_many_classes_is_against_the_rest():
    p = random_predictions(8, 120, ("COVID", "pneumonia", "normal"), positive="pneumonia")
    truth, called = p.frame["label"] == "pneumonia", p.predicted == 1
    got = classification_metrics(p)
    # Normal called COVID is right here: neither is pneumonia.
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(truth, called))
    assert got["accuracy"] > sk.accuracy_score(p.truth, p.predicted)
    assert got["recall"] == pytest.approx(sk.recall_score(truth, called))


# --- by hand -------------------------------------------------------------------------------------


def test_counts_by_hand():
    got = from_counts(tp=6, fp=1, fn=2, tn=3)
    assert got == pytest.approx(
        {
            "accuracy": 9 / 12,
            "precision": 6 / 7,
            "recall": 6 / 8,
            "specificity": 3 / 4,
            "f_score": 12 / 15,
            "mcc": (6 * 3 - 1 * 2) / 1120**0.5,  # margins 7, 8, 4, 5
        }
    )
    assert all(type(v) is float for v in got.values())


def test_mcc_is_the_correlation_of_truth_and_prediction():
    truth = np.repeat([1, 0, 1, 0], [20, 5, 11, 31])
    called = np.repeat([1, 1, 0, 0], [20, 5, 11, 31])
    assert from_counts(20, 5, 11, 31)["mcc"] == pytest.approx(np.corrcoef(truth, called)[0, 1])


def test_mcc_of_three_classes_by_hand():
    # Gorodkin: (c·s − Σ p·t) / √((s² − Σ p²)(s² − Σ t²)) with s = 9, c = 6, t = 3 3 3, p = 5 3 1.
    matrix = [[3, 0, 0], [1, 2, 0], [1, 1, 1]]
    got = from_confusion(matrix)["mcc"]
    assert got == pytest.approx((6 * 9 - 27) / np.sqrt((81 - 35) * (81 - 27)))


def test_counts_take_arrays_and_matrices_in_batches():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, size=(4, 50))
    together = from_counts(*counts)
    batch = rng.integers(0, 6, size=(20, 3, 3))
    averaged = from_confusion(batch, weighted=True)
    for i in range(50):
        alone = from_counts(*counts[:, i])
        assert {k: v[i] for k, v in together.items()} == pytest.approx(alone, nan_ok=True)
    for i in range(20):
        alone = from_confusion(batch[i], weighted=True)
        assert {k: v[i] for k, v in averaged.items()} == pytest.approx(alone, nan_ok=True)


def test_pixel_counts_do_not_overflow():
    million = np.int64(10**6)
    assert from_counts(million, 0, 0, million)["mcc"] == 1
    assert from_confusion(np.diag([million] * 3))["mcc"] == 1


def test_pr_auc_is_average_precision_not_the_trapezoid():
    p = binary([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6])
    # Recall 1/2 at precision 1, then recall 1 at precision 2/3.
    assert classification_metrics(p)["pr_auc"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    precision, recall, _ = sk.precision_recall_curve(p.is_positive, p.score)
    assert sk.auc(recall, precision) != pytest.approx(5 / 6)


def test_roc_auc_counts_pairs_with_ties_as_half():
    p = binary([1, 1, 0, 0, 0], [0.9, 0.5, 0.5, 0.2, 0.95])
    # 0.9 beats two of three; 0.5 beats one and ties one.
    assert classification_metrics(p)["roc_auc"] == pytest.approx((2 + 1.5) / 6)


def test_constant_score_is_guessing():
    got = classification_metrics(binary([1, 0, 0, 0], [0.4] * 4))
    assert got["roc_auc"] == 0.5
    assert got["pr_auc"] == 0.25  # the prevalence


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_threshold_includes_its_own_score(kind):
    p = binary([1, 0, 1], [0.7, 0.6, 0.1])
    assert confusion(p, kind(0.7)).loc["COVID", "COVID"] == 1
    assert classification_metrics(p, kind(0.7))["recall"] == 0.5
    assert classification_metrics(p, 0.71)["recall"] == 0


def test_thresholds_span_all_and_nothing():
    p = random_predictions(9, 40, ("normal", "COVID"), "COVID")
    everything, nothing = classification_metrics(p, 0.0), classification_metrics(p, 1.1)
    assert (everything["recall"], everything["specificity"]) == (1, 0)
    assert (nothing["recall"], nothing["specificity"]) == (0, 1)
    assert everything["roc_auc"] == nothing["roc_auc"] == classification_metrics(p)["roc_auc"]


# --- without an answer ---------------------------------------------------------------------------


def undefined(values):
    return {name for name, v in values.items() if np.isnan(v)}


def test_only_negatives():
    got = classification_metrics(binary([0, 0, 0], [0.9, 0.2, 0.1]))
    assert undefined(got) == {"recall", "mcc", "roc_auc", "pr_auc"}
    assert got["precision"] == got["f_score"] == 0
    assert got["accuracy"] == got["specificity"] == pytest.approx(2 / 3)


def test_only_positives():
    got = classification_metrics(binary([1, 1, 1], [0.9, 0.2, 0.8]))
    assert undefined(got) == {"specificity", "mcc", "roc_auc", "pr_auc"}
    assert got["precision"] == 1 and got["recall"] == pytest.approx(2 / 3)


def test_nothing_predicted_positive():
    got = classification_metrics(binary([1, 0, 0], [0.4, 0.3, 0.2]))
    assert undefined(got) == {"precision", "mcc"}
    assert got["recall"] == got["f_score"] == 0
    assert got["specificity"] == got["roc_auc"] == got["pr_auc"] == 1


def test_nothing_positive_anywhere():
    got = classification_metrics(binary([0, 0], [0.1, 0.2]))
    assert undefined(got) == {"precision", "recall", "f_score", "mcc", "roc_auc", "pr_auc"}
    assert got["accuracy"] == 1


def test_one_row_and_no_row():
    one = classification_metrics(binary([1], [0.9]))
    assert undefined(one) == {"specificity", "mcc", "roc_auc", "pr_auc"}
    assert one["accuracy"] == one["precision"] == one["recall"] == one["f_score"] == 1
    empty = binary([1, 0], [0.5, 0.5])
    empty = dataclasses.replace(empty, frame=empty.frame[:0], probabilities=np.zeros((0, 2)))
    assert undefined(classification_metrics(empty)) == set(METRICS)
    assert undefined(classification_metrics(dataclasses.replace(empty, positive=None))) == set(
        METRICS
    )
    assert confusion(empty).to_numpy().sum() == 0


def test_macro_average_does_not_reward_a_class_never_predicted():
    frame = pd.DataFrame({"label": ["a", "b", "c", "c"]})
    p = Predictions(frame, [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], ("a", "b", "c"))
    got = classification_metrics(p)
    assert undefined(got) == {"precision"}
    assert got["recall"] == pytest.approx((1 + 1 + 0) / 3)
    assert undefined(classification_metrics(p, weighted=True)) == {"precision"}


def test_class_without_rows_has_no_weight_but_spoils_the_plain_average():
    frame = pd.DataFrame({"label": ["a", "b", "a"]})
    p = Predictions(
        frame, [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]], ("a", "b", "absent")
    )
    weighted = classification_metrics(p, weighted=True)
    assert not undefined(weighted)
    assert weighted["recall"] == pytest.approx(2 / 3)
    assert weighted["precision"] == pytest.approx(1)
    assert undefined(classification_metrics(p)) == {"recall", "roc_auc", "pr_auc"}


# --- confusion -----------------------------------------------------------------------------------


def test_confusion_agrees_with_sklearn_and_names_its_sides():
    p = random_predictions(10, 60, ("COVID", "pneumonia", "normal"), positive="COVID")
    table = confusion(p)
    labels = list(p.classes)
    assert list(table.index) == labels and list(table.columns) == labels
    assert (table.index.name, table.columns.name) == ("truth", "predicted")
    called = np.array(labels)[p.predicted]
    expected = sk.confusion_matrix(p.frame["label"], called, labels=labels)
    assert np.array_equal(table.to_numpy(), expected)


def test_confusion_at_a_threshold_keeps_the_order_of_the_classes():
    p = binary([1, 1, 0, 0, 0], [0.9, 0.2, 0.8, 0.25, 0.1])
    table = confusion(p, 0.22)
    assert table.to_dict("index") == {
        "normal": {"normal": 1, "COVID": 2},
        "COVID": {"normal": 1, "COVID": 1},
    }
    turned = dataclasses.replace(
        p, probabilities=p.probabilities[:, ::-1], classes=("COVID", "normal")
    )
    assert list(confusion(turned, 0.22).index) == ["COVID", "normal"]
    assert confusion(turned, 0.22).loc["normal", "COVID"] == 2


def test_confusion_at_a_threshold_merges_the_other_classes():
    p = random_predictions(11, 60, ("COVID", "pneumonia", "normal"), positive="pneumonia")
    table = confusion(p, 0.4)
    assert list(table.index) == ["not pneumonia", "pneumonia"]
    truth, called = p.frame["label"] == "pneumonia", p.probabilities[:, 1] >= np.float32(0.4)
    assert table.loc["pneumonia", "not pneumonia"] == (truth & ~called).sum()
    assert table.loc["not pneumonia", "pneumonia"] == (~truth & called).sum()
    assert table.to_numpy().sum() == 60


# --- errors --------------------------------------------------------------------------------------


def test_errors_say_what_to_do():
    p = random_predictions(12, 20, ("a", "b", "c"))
    with pytest.raises(ValueError, match="threshold=0.5 needs a positive class"):
        classification_metrics(p, threshold=0.5)
    with pytest.raises(ValueError, match="positive=None"):
        classification_metrics(dataclasses.replace(p, positive="a"), weighted=True)
    with pytest.raises(ValueError, match="fn holds a negative count"):
        from_counts(1, 2, -1, 3)
    with pytest.raises(ValueError, match="square"):
        from_confusion(np.ones((2, 3)))
    with pytest.raises(ValueError, match="'auroc' is not known.*roc_auc"):
        metric_name("auroc")
    assert metric_name("sensitivity") == "recall"
