"""How well masks agree with the truth: the numbers of Khan's tables 4 to 6, with intervals.

The definitions are those of MATLAB's `evaluateSemanticSegmentation`, which prints the very columns
of the tables (the experiments were run on MATLAB 2019b), and not of the paper's equations 16 and
17, by which a perfect mask has an IoU of 1/2 and a Dice of 2/3. For one region (class):

- `class_accuracy` (Acc): share of its true pixels that were found, its recall;
- `iou`, and `dice` = 2·IoU/(1 + IoU);
- `image_dice` (DS): mean over images of each image's Dice. The paper does not say how DS is taken.
  In most rows it lies below the IoU (0.953 beside 98.73 %), which the Dice of the same pixels never
  does; a mean over images can. The "Error" beside it is 1 − DS in every row, no interval;
- `bf_score` (BFS): mean over images of the boundary F1 (`bf_score` below).

And of the whole: `global_accuracy` (share of all pixels), the means of the regions' accuracy, IoU
and BF score, and `weighted_iou`, where a region counts by its true pixels. Of a set of images,
accuracies, `iou` and `dice` are of all pixels together, so large regions count more.

What has no answer is NaN, as elsewhere, and a mean over images leaves such images out:

- accuracy of a region that is not in the truth;
- IoU, Dice and BF score of a region that is neither in the truth nor in the prediction. They take
  the value `empty` instead, if one is given: 1 says that finding nothing was right.

A region in one of the two masks alone has IoU, Dice and BF score 0. (MATLAB's BF score is NaN
there, and its mean leaves out what was missed altogether.) A mean over regions is NaN if one of
them is; MATLAB leaves that one out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidlab.predictions import MaskPredictions, Predictions

from .intervals import Interval, _check_level, _clusters, _percentile, _resamples
from .metrics import _ratio, average

REGION_METRICS = ("class_accuracy", "iou", "dice", "image_dice", "bf_score")
WHOLE_METRICS = (
    "global_accuracy",
    "mean_accuracy",
    "mean_iou",
    "weighted_iou",
    "mean_bf_score",
)
TOLERANCE = 0.0075  # of the image's diagonal


class _Counts(NamedTuple):
    """All that the metrics need of each image."""

    confusion: np.ndarray  # (N, C, C) pixels, true class down
    bf_score: np.ndarray  # (N, C)


def bf_score(predicted, truth, tolerance: float = TOLERANCE, empty: float = np.nan) -> float:
    """Boundary F1 of two masks: how much of each outline has the other nearby, in [0, 1].

    Parameters
    ----------
    predicted, truth : (H, W) bool. Swapping them changes nothing.
    tolerance : outline pixels match when they are less than this share of the image's diagonal
        apart; 0.0075 is 3.2 pixels of 304 × 304.
    empty : the value where both masks are empty. Where one is, it is 0.

    Raises
    ------
    ValueError : masks of different shape, a tolerance that is not above 0.

    Notes
    -----
    Csurka, Larlus and Perronnin (BMVC 2013), as in MATLAB's `bfscore`: the harmonic mean of the
    share of the predicted outline near the true one and the reverse. The outline is the mask's
    pixels that have one of their four neighbours outside; outside the image counts as outside. So
    the frame of the image is an outline of the background, found by every model: the background's
    score says less than the region's.
    """
    predicted, truth = np.asarray(predicted, bool), np.asarray(truth, bool)
    if predicted.ndim != 2 or predicted.shape != truth.shape:
        raise ValueError(
            f"predicted {predicted.shape} and truth {truth.shape} must both be one (H, W) mask"
        )
    counts = _boundary_matches(predicted, truth, _reach(truth.shape, tolerance))
    return _boundary_f1(np.array(counts), empty).item()


def segmentation_metrics(
    predictions: MaskPredictions,
    threshold: float | None = None,
    tolerance: float = TOLERANCE,
    empty: float = np.nan,
) -> dict[str, float]:
    """All metrics of a set of masks, each in [0, 1] or NaN; "iou / infection" is a region's own.

    Parameters
    ----------
    threshold : with two classes, the probability from which a pixel is of the second; None for the
        most probable class.
    tolerance : of the BF score, as in `bf_score`.
    empty : IoU, Dice and BF score of a region that neither mask has. NaN, or a number in [0, 1].
    """
    counts = _counts(predictions, threshold, tolerance, empty)
    everyone = np.ones((1, len(predictions)))
    return {
        k: float(v[0]) for k, v in _pooled(counts, everyone, predictions.classes, empty).items()
    }


def per_image(
    predictions: MaskPredictions,
    threshold: float | None = None,
    tolerance: float = TOLERANCE,
    empty: float = np.nan,
    lung: np.ndarray | None = None,
) -> pd.DataFrame:
    """The metrics of each image alone: one row per image, in the order of the predictions.

    Columns: image and patient_id (as far as the frame has them); "pixels / X" and "predicted
    pixels / X" of every class X; the metrics (no `image_dice`, which is `dice` here). With `lung`
    (N, H, W) bool, also "lung share / X" and "predicted lung share / X" of every class but the
    first: how much of the lung it takes, pixels outside the lung not counted, NaN without lung.
    """
    counts = _counts(predictions, threshold, tolerance, empty)
    known = [c for c in ("image", "patient_id") if c in predictions.frame]
    table = predictions.frame[known].copy()
    for i, c in enumerate(predictions.classes):
        table[f"pixels / {c}"] = counts.confusion[:, i].sum(1)
        table[f"predicted pixels / {c}"] = counts.confusion[:, :, i].sum(1)
    values = _from_matrix(counts.confusion, counts.bf_score, predictions.classes, empty)
    table = table.assign(**values)
    if lung is None:
        return table
    lung = np.asarray(lung)
    if lung.shape != predictions.truth.shape or lung.dtype != bool:
        raise ValueError(
            f"lung is {lung.dtype} {lung.shape}; bool {predictions.truth.shape} is needed"
        )
    area = lung.sum((1, 2))
    for i, c in enumerate(predictions.classes[1:], 1):
        masks = (predictions.truth, _labels(predictions, threshold))
        for prefix, mask in zip(("", "predicted "), masks, strict=True):
            table[f"{prefix}lung share / {c}"] = _ratio(((mask == i) & lung).sum((1, 2)), area)
    return table


def segmentation_report(
    predictions: MaskPredictions,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
    threshold: float | None = None,
    tolerance: float = TOLERANCE,
    empty: float = np.nan,
) -> pd.DataFrame:
    """Every metric with its bootstrap interval: patients, with all their images, are drawn.

    Returns
    -------
    One row per metric; columns value, low, high, method, n and patients: for a region's metric the
    images in which it has a value, and their patients (missing if not drawn); of the whole, all.

    Raises
    ------
    ValueError : an unknown `by`, no `patient_id` column, n_boot < 1, a level outside (0, 1).

    Notes
    -----
    Pixels of one image are far from independent, and so are slices of one patient: the interval
    that the pixels' number suggests is much too short. Percentile intervals; with fewer than about
    20 patients they are too short as well. Bounds are NaN when every resample gives one value.
    """
    _check_level(level)
    counts = _counts(predictions, threshold, tolerance, empty)
    values, draws, unit = _bootstrap(predictions, counts, by, n_boot, seed, empty)
    alone = _from_matrix(counts.confusion, counts.bf_score, predictions.classes, empty)
    rows = {}
    for m, value in values.items():
        i = _interval(value, draws[m], level, f"bootstrap, {by}s", unit)
        used = np.ones(len(unit), bool)
        if m not in WHOLE_METRICS:
            used = ~np.isnan(alone[m.replace("image_dice", "dice")])
        patients = len(np.unique(unit[used])) if by == "patient" else pd.NA
        rows[m] = (i.value, i.low, i.high, i.method, int(used.sum()), patients)
    columns = ["value", "low", "high", "method", "n", "patients"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")
    return table.astype({"n": "Int64", "patients": "Int64"})


def compare_masks(
    predictions: MaskPredictions | Iterable[MaskPredictions],
    metrics: Sequence[str] = REGION_METRICS + WHOLE_METRICS,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
    threshold: float | None = None,
    tolerance: float = TOLERANCE,
    empty: float = np.nan,
) -> pd.DataFrame:
    """Models side by side, as in Khan's tables 5 and 6: one row per model and region.

    Columns `m`, `m low`, `m high` of each metric; those of the whole image repeat in the rows of a
    model. The regions stand as in the paper, the background last. To put the paper's beside:

        ours = compare_masks(models).rename(
            index={"infection": "Infected", "background": "Background"}, level="region"
        ).rename_axis(["Model", "Region"]).reset_index()
        published("khan", 5, ours)

    where `DS` meets `image_dice`, or `dice` if that is the only one there.

    Raises ValueError for names that are empty or used twice, an unknown metric, and as
    `segmentation_report`.
    """
    models = [predictions] if isinstance(predictions, MaskPredictions) else list(predictions)
    names = [p.name for p in models]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"names {names}: every MaskPredictions needs a name of its own")
    for m in metrics:
        if m not in REGION_METRICS + WHOLE_METRICS:
            known = ", ".join(REGION_METRICS + WHOLE_METRICS)
            raise ValueError(f"metric={m!r} is not known; choose one of: {known}")
    rows = {}
    for p in models:
        found = segmentation_report(p, level, by, n_boot, seed, threshold, tolerance, empty)
        for region in (*p.classes[1:], p.classes[0]):
            rows[p.name, region] = {
                f"{m}{suffix}": found.loc[m if m in WHOLE_METRICS else f"{m} / {region}", part]
                for m in metrics
                for suffix, part in (("", "value"), (" low", "low"), (" high", "high"))
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["model", "region"])
    return table


def mask_difference(
    predictions_a: MaskPredictions,
    predictions_b: MaskPredictions,
    metric: str,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    by: str = "patient",
    threshold: float | None = None,
    tolerance: float = TOLERANCE,
    empty: float = np.nan,
) -> Interval:
    """Bootstrap interval of metric(a) − metric(b), both models seeing the same resamples.

    `metric` is named as in `segmentation_metrics`, "iou / infection". Arguments as in
    `segmentation_report`; one model against itself is 0 with NaN bounds.

    Raises
    ------
    ValueError : as `segmentation_report`, an unknown metric, or the two are not about the same
        masks of the same images in the same order.
    """
    _check_level(level)
    _check_same_images(predictions_a, predictions_b)
    found = []
    for p in (predictions_a, predictions_b):
        counts = _counts(p, threshold, tolerance, empty)
        # The patients of the first, who are those of the second.
        found.append(_bootstrap(predictions_a, counts, by, n_boot, seed, empty))
    (a, draws_a, unit), (b, draws_b, _) = found
    if metric not in a:
        raise ValueError(f"metric={metric!r} is not known; choose one of: {', '.join(a)}")
    drawn = draws_a[metric] - draws_b[metric]
    return _interval(a[metric] - b[metric], drawn, level, f"paired bootstrap, {by}s", unit)


def mask_confusion(
    predictions: MaskPredictions, normalise: bool = True, threshold: float | None = None
) -> pd.DataFrame:
    """Pixels of all images: true class down (index `truth`), predicted class across (`predicted`).

    With `normalise`, as shares of the true class (Khan, Table 4, which has them in percent), NaN
    for a class without pixels; else counts.
    """
    matrix = _confusions(predictions, _labels(predictions, threshold)).sum(0)
    if normalise:
        matrix = _ratio(matrix, matrix.sum(1, keepdims=True))
    names = predictions.classes
    return pd.DataFrame(
        matrix, index=pd.Index(names, name="truth"), columns=pd.Index(names, name="predicted")
    )


def detection(
    predictions: MaskPredictions,
    pixels: int = 1,
    region: str | None = None,
    threshold: float | None = None,
) -> Predictions:
    """Masks as a classifier of images: a region is detected where `pixels` or more were predicted.

    The truth of an image is whether its true mask has any pixel of the region. What comes back
    goes into `classification_metrics` and `report`. Its probabilities are 0 or 1, so an AUC is of
    this one cut.

    Raises ValueError for pixels < 1 and an unknown region, or none named among several.
    """
    if pixels < 1:
        raise ValueError(f"pixels={pixels}; at least one must be asked for")
    index = region_index(predictions, region)
    region = predictions.classes[index]
    classes = (f"no {region}", region)
    truth = (predictions.truth == index).any((1, 2))
    called = (_labels(predictions, threshold) == index).sum((1, 2)) >= pixels
    frame = predictions.frame.assign(label=np.where(truth, *classes[::-1]))
    return Predictions(frame, np.stack([~called, called], 1), classes, region, predictions.name)


def region_index(predictions: MaskPredictions, region: str | None = None) -> int:
    """Where `region` stands in the classes; None is the one besides the background."""
    if region is None and len(predictions.classes) == 2:
        return 1
    if region not in predictions.classes:
        raise ValueError(f"region={region!r}; choose one of {list(predictions.classes)}")
    return predictions.classes.index(region)


def pick_by_severity(truth: np.ndarray, region: int = 1, lung=None) -> dict[str, int]:
    """Rows of a mild, a medium and a severe image, by how much of the image is infected.

    Of the images with the region, sorted by its share, those in the middle of the lower, middle
    and upper third: typical ones, chosen without a look at any output.

    Parameters
    ----------
    truth : (N, H, W) class indices or bool; `region` is the index that counts.
    lung : (N, H, W) bool; with it, the share is of the lung instead of the image.

    Raises ValueError where fewer than three images have the region.
    """
    mask = np.asarray(truth) == region
    of = np.prod(mask.shape[1:])
    if lung is not None:
        lung = np.asarray(lung, bool)
        if lung.shape != mask.shape:
            raise ValueError(f"lung has shape {lung.shape}, truth {mask.shape}")
        mask, of = mask & lung, lung.sum((1, 2))
    share = np.nan_to_num(_ratio(mask.sum((1, 2)), of))
    rows = np.flatnonzero(share > 0)
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} images have the region; three are needed to choose from")
    rows = rows[np.argsort(share[rows], kind="stable")]
    return {
        level: int(rows[int((i + 0.5) * len(rows) / 3)])
        for i, level in enumerate(("mild", "medium", "severe"))
    }


# --- from pixels to counts -----------------------------------------------------------------------


def _counts(predictions, threshold, tolerance, empty) -> _Counts:
    if not (np.isnan(empty) or 0 <= empty <= 1):
        raise ValueError(f"empty={empty}; give NaN or a number in [0, 1]")
    labels = _labels(predictions, threshold)
    reach = _reach(labels.shape[1:], tolerance)
    matches = [
        [_boundary_matches(p == c, t == c, reach) for c in range(len(predictions.classes))]
        for p, t in zip(labels, predictions.truth, strict=True)
    ]
    matches = np.array(matches).reshape(len(predictions), len(predictions.classes), 4)
    return _Counts(_confusions(predictions, labels), _boundary_f1(matches, empty))


def _labels(predictions: MaskPredictions, threshold: float | None) -> np.ndarray:
    return predictions.predicted if threshold is None else predictions.at(threshold)


def _confusions(predictions: MaskPredictions, labels: np.ndarray) -> np.ndarray:
    n = len(predictions.classes)
    matrices = [
        np.bincount((t.astype(np.intp) * n + p).ravel(), minlength=n * n)
        for t, p in zip(predictions.truth, labels, strict=True)
    ]
    return np.array(matrices, dtype=np.int64).reshape(-1, n, n)


def _reach(shape, tolerance: float) -> float:
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be above 0; it is a share of the diagonal")
    return tolerance * float(np.hypot(*shape))


def _outline(mask: np.ndarray) -> np.ndarray:
    """(M, 2) the pixels of a mask that have one of their four neighbours outside."""
    from scipy.ndimage import binary_erosion

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return np.empty((0, 2), int)
    corner = rows[0], columns[0]
    mask = mask[corner[0] : rows[-1] + 1, corner[1] : columns[-1] + 1]
    return np.argwhere(mask & ~binary_erosion(mask)) + corner


def _boundary_matches(predicted, truth, reach: float) -> tuple[int, int, int, int]:
    """Predicted outline pixels near the true outline, their number, and the reverse."""
    from scipy.spatial import cKDTree

    a, b = _outline(predicted), _outline(truth)
    if len(a) == 0 or len(b) == 0:
        return 0, len(a), 0, len(b)
    near = [
        int((cKDTree(other).query(points)[0] < reach).sum()) for points, other in ((a, b), (b, a))
    ]
    return near[0], len(a), near[1], len(b)


def _boundary_f1(matches: np.ndarray, empty: float) -> np.ndarray:
    """(...,) scores of (..., 4) matches: the harmonic mean of precision and recall."""
    near_a, a, near_b, b = np.moveaxis(matches, -1, 0)
    precision, recall = _ratio(near_a, a), _ratio(near_b, b)
    both = precision + recall
    score = np.divide(2 * precision * recall, both, out=np.zeros(both.shape), where=both > 0)
    return np.where(a + b > 0, score, empty)


# --- from counts to metrics ----------------------------------------------------------------------


def _from_matrix(confusion, bf_scores, classes, empty) -> dict[str, np.ndarray]:
    """The metrics, each (...,), of (..., C, C) pixel counts and (..., C) BF scores."""
    confusion = np.asarray(confusion, dtype=np.float64)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = true.sum(-1)
    there = true + predicted > 0
    each = {
        "class_accuracy": _ratio(hits, true),
        "iou": np.where(there, _ratio(hits, true + predicted - hits), empty),
        "dice": np.where(there, _ratio(2 * hits, true + predicted), empty),
        "bf_score": bf_scores,
    }
    values = {f"{m} / {c}": v[..., i] for m, v in each.items() for i, c in enumerate(classes)}
    return values | {
        "global_accuracy": _ratio(hits.sum(-1), total),
        "mean_accuracy": each["class_accuracy"].mean(-1),
        "mean_iou": each["iou"].mean(-1),
        "weighted_iou": average(each["iou"], true, weighted=True),
        "mean_bf_score": bf_scores.mean(-1),
    }


def _pooled(counts: _Counts, weights: np.ndarray, classes, empty) -> dict[str, np.ndarray]:
    """The metrics, each (B,), of images that count `weights` (B, N) times."""
    n = len(classes)
    matrix = (weights @ counts.confusion.reshape(-1, n * n)).reshape(-1, n, n)
    alone = _from_matrix(counts.confusion, counts.bf_score, classes, empty)
    dice = np.stack([alone[f"dice / {c}"] for c in classes], -1)
    values = _from_matrix(matrix, _mean(counts.bf_score, weights), classes, empty)
    of_images = _mean(dice, weights)
    values |= {f"image_dice / {c}": of_images[:, i] for i, c in enumerate(classes)}
    ordered = [f"{m} / {c}" for c in classes for m in REGION_METRICS] + list(WHOLE_METRICS)
    return {m: values[m] for m in ordered}


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, C) means of (N, C) values with (B, N) weights, leaving out NaN."""
    return _ratio(weights @ np.nan_to_num(values), weights @ ~np.isnan(values))


def _bootstrap(predictions, counts, by, n_boot, seed, empty):
    """Values, (n_boot,) resampled values of every metric, and (N,) the unit of each image."""
    clusters = _clusters(predictions, by, stratified=False)
    everyone = np.ones((1, len(predictions)))
    values = _pooled(counts, everyone, predictions.classes, empty)
    values = {m: float(v[0]) for m, v in values.items()}
    if len(predictions) == 0:
        return values, {m: np.array([]) for m in values}, clusters.unit
    blocks = [
        _pooled(counts, weights[:, clusters.unit], predictions.classes, empty)
        for weights in _resamples(clusters, n_boot, seed)
    ]
    draws = {m: np.concatenate([block[m] for block in blocks]) for m in values}
    return values, draws, clusters.unit


def _interval(value, draws, level, method, unit) -> Interval:
    i = _percentile(value, draws, level, method, len(np.unique(unit)))
    if i.n_undefined:
        method += f" ({i.n_undefined} of {len(draws)} undefined)"
    elif np.isfinite(i.value) and np.isnan(i.low):
        method += " (all alike)"
    return i._replace(method=method)


def _check_same_images(a: MaskPredictions, b: MaskPredictions):
    if a.classes != b.classes:
        raise ValueError(f"the classes differ: {a.classes} against {b.classes}")
    if a.truth.shape != b.truth.shape:
        raise ValueError(
            f"masks of {a.truth.shape} against {b.truth.shape}: both models must see the same "
            "images at one size"
        )
    for column in ("image", "patient_id"):
        if column not in a.frame or column not in b.frame:
            continue
        unlike = np.flatnonzero(a.frame[column].astype(str) != b.frame[column].astype(str))
        if len(unlike):
            raise ValueError(
                f"column {column!r} differs in {len(unlike)} rows, first in row {unlike[0]}; bring "
                "both to the same images in the same order"
            )
    if (a.truth != b.truth).any():
        rows = np.flatnonzero((a.truth != b.truth).any((1, 2)))
        raise ValueError(
            f"the true masks differ in {len(rows)} rows, first in row {rows[0]}: the two were not "
            "tried on the same images"
        )
