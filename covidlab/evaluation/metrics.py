"""How often a classifier is right, in the field's eight numbers, and NaN wherever there is no answer.

Two cases. With `positive` set, everything is the positive class against the rest, also when there
are more than two classes. Without it, each class is taken against the rest and the results are
averaged (accuracy and MCC have a form of their own for many classes).

A value that would be 0/0 is NaN: not 0, which reads as a bad model, and no warning, which nobody
reads. So:

- accuracy: no rows;
- precision: nothing was predicted positive;
- recall: nothing is positive; specificity: nothing is negative;
- F-score: nothing is positive and nothing was predicted so (precision alone undefined gives 0);
- MCC: the truth, or the prediction, holds one class only;
- ROC-AUC and PR-AUC: the truth holds one class only. Without negatives the PR curve exists, but is
  1 for every model.

An average over classes is NaN if one of its classes is: leaving out the class that a model never
predicts would reward it for that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from covidlab.predictions import Predictions

METRICS = (
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "f_score",
    "mcc",
    "roc_auc",
    "pr_auc",
)
ALIASES = {"sensitivity": "recall"}
CURVES = ("roc_auc", "pr_auc")


def metric_name(metric: str) -> str:
    """The name in `METRICS` that `metric` stands for; ValueError if there is none."""
    name = ALIASES.get(metric, metric)
    if name not in METRICS:
        known = ", ".join([*METRICS, *ALIASES])
        raise ValueError(f"metric={metric!r} is not known; choose one of: {known}")
    return name


def classification_metrics(
    predictions: Predictions, threshold: float | None = None, weighted: bool = False
) -> dict[str, float]:
    """The eight `METRICS` of a set of predictions, each in [0, 1] (MCC in [-1, 1]) or NaN.

    Parameters
    ----------
    predictions : with `positive` set, positive against the rest; else averages over classes.
    threshold : a row is predicted positive when its score is at or above this; None for the most
        probable class. Needs a positive class. The AUCs do not depend on it.
    weighted : average over classes by their number of rows instead of equally. Weighted recall is
        the accuracy. Only without a positive class.

    Raises
    ------
    ValueError : a threshold without a positive class, or weights with one.

    Notes
    -----
    PR-AUC is average precision: precision at each threshold, weighted by the gain in recall. The
    trapezoid between points of a PR curve is not used, because no classifier lies on it: between
    two thresholds precision does not fall linearly with recall, and the straight line is too high
    (Davis and Goadrich, ICML 2006).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, predicted, n_classes = decisions(predictions, threshold, weighted)
    matrix = _count(truth, predicted, n_classes)
    if predictions.positive is not None:
        (tn, fp), (fn, tp) = matrix
        values = from_counts(tp, fp, fn, tn)
    else:
        values = from_confusion(matrix, weighted)
    ranked = curves(predictions)
    support = np.array([is_class.sum() for is_class, _ in ranked])
    for name, function in zip(CURVES, (roc_auc_score, average_precision_score), strict=True):
        each = [
            function(is_class, score) if 0 < is_class.sum() < len(is_class) else np.nan
            for is_class, score in ranked
        ]
        values[name] = float(average(np.array(each), support, weighted))
    return values


def per_class(predictions: Predictions) -> pd.DataFrame:
    """Each class against the rest: one row per class, columns `n` (rows of that class) and `METRICS`.

    The predicted class is the most probable one, whatever `positive` is.
    """
    rows = {
        c: {
            "n": int((predictions.truth == i).sum()),
            **classification_metrics(replace(predictions, positive=c)),
        }
        for i, c in enumerate(predictions.classes)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class")


def confusion(predictions: Predictions, threshold: float | None = None) -> pd.DataFrame:
    """Counts of rows: true class down (index `truth`), predicted class across (`predicted`).

    Without a threshold all classes are shown. With one, the table is the positive class against
    the other, or against "not <positive>" where there are more than two.
    """
    classes = predictions.classes
    if threshold is None:
        matrix = _count(predictions.truth, predictions.predicted, len(classes))
    else:
        matrix = _count(*decisions(predictions, threshold))
        others = [c for c in classes if c != predictions.positive]
        rest = others[0] if len(others) == 1 else f"not {predictions.positive}"
        order = (rest, predictions.positive)
        if classes[0] == predictions.positive:
            matrix, order = matrix[::-1, ::-1], order[::-1]
        classes = order
    return pd.DataFrame(
        matrix, index=pd.Index(classes, name="truth"), columns=pd.Index(classes, name="predicted")
    )


def from_counts(tp, fp, fn, tn) -> dict[str, float | np.ndarray]:
    """The six metrics that follow from true and false positives and negatives.

    Takes numbers or arrays of one shape (≥ 0, whole or weighted) and returns the same:
    accuracy, precision, recall, specificity, F-score (F1) and MCC, NaN where undefined.

    >>> round(from_counts(tp=6, fp=1, fn=2, tn=3)["mcc"], 3)
    0.478
    """
    counts = dict(zip(("tp", "fp", "fn", "tn"), (tp, fp, fn, tn), strict=True))
    for name, value in counts.items():
        # float64 before multiplying: MCC's product of four margins outgrows int64 near 60,000.
        counts[name] = value = np.asarray(value, dtype=np.float64)
        if (value < 0).any():
            raise ValueError(f"{name} holds a negative count; counts are ≥ 0")
    tp, fp, fn, tn = counts.values()
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    values = {
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "f_score": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, np.sqrt(margins)),
    }
    return _plain(values)


def from_confusion(matrix, weighted: bool = False) -> dict[str, float | np.ndarray]:
    """The same six from a (C, C) confusion matrix, true class down; also (..., C, C) at once.

    Accuracy is the share on the diagonal, MCC the many-class form (Gorodkin 2004); the others are
    averages of each class against the rest, equal or weighted by the number of rows of the class.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"a confusion matrix is square, not of shape {matrix.shape}")
    true, predicted = matrix.sum(-1), matrix.sum(-2)
    total, hits = true.sum(-1), np.diagonal(matrix, axis1=-2, axis2=-1)
    each = from_counts(
        tp=hits,
        fp=predicted - hits,
        fn=true - hits,
        tn=total[..., None] - true - predicted + hits,
    )
    values = {name: average(each[name], true, weighted) for name in each}
    values["accuracy"] = _ratio(hits.sum(-1), total)
    spread_true = total**2 - (true**2).sum(-1)
    spread_predicted = total**2 - (predicted**2).sum(-1)
    values["mcc"] = _ratio(
        hits.sum(-1) * total - (true * predicted).sum(-1), np.sqrt(spread_true * spread_predicted)
    )
    return _plain(values)


def decisions(predictions: Predictions, threshold: float | None = None, weighted: bool = False):
    """What the count metrics count: true and predicted class as (N,) int, and how many classes.

    With a positive class 1 is positive and 0 the rest; without, they index `classes`.
    """
    if predictions.positive is None:
        if threshold is not None:
            raise ValueError(
                f"threshold={threshold} needs a positive class; set Predictions.positive to one "
                f"of {list(predictions.classes)}"
            )
        return predictions.truth, predictions.predicted, len(predictions.classes)
    if weighted:
        raise ValueError(
            f"weighted averages go over all classes, but positive={predictions.positive!r}; "
            "pass predictions with positive=None"
        )
    if threshold is None:
        called = predictions.predicted == predictions.classes.index(predictions.positive)
    else:
        # A Python float is compared in the score's float32; a float64 would split 0.7 from 0.7.
        called = predictions.score >= float(threshold)
    return predictions.is_positive.astype(int), called.astype(int), 2


def curves(predictions: Predictions) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the AUCs rank: (is_class, score) of the positive class, or of every class in turn."""
    if predictions.positive is not None:
        return [(predictions.is_positive, predictions.score)]
    truth, scores = predictions.truth, predictions.probabilities
    return [(truth == i, scores[:, i]) for i in range(len(predictions.classes))]


def average(values: np.ndarray, support: np.ndarray, weighted: bool) -> np.ndarray:
    """Mean over the last axis, equal or by support; NaN if a class that counts is NaN."""
    if not weighted:
        return values.mean(-1)
    return _ratio(np.where(support > 0, values * support, 0).sum(-1), support.sum(-1))


def _count(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    cells = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def _ratio(a, b) -> np.ndarray:
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _plain(values: dict[str, np.ndarray]) -> dict[str, float | np.ndarray]:
    return {name: v.item() if np.ndim(v) == 0 else v for name, v in values.items()}
