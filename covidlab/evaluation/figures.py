"""Confusion matrix, ROC, precision–recall and reliability, as figures.

Each takes predictions, draws into `ax` or a figure of its own, and returns the figure. Curves differ
in colour (seaborn's colour-blind palette) and in dash, so they can be told apart in print. Without
a positive class a curve is drawn for each class against the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from covidlab._figures import subplots
from covidlab.predictions import Predictions

from . import intervals
from .metrics import confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_GREY = "0.45"


def plot_confusion(
    predictions: Predictions,
    normalise: bool = False,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Confusion matrix: counts, and below them the share of the true class.

    The shade is the count; with `normalise` it is the share, which then stands first: what to look
    at when classes differ in size. A class without rows has no shares, and its row stays white.
    """
    table = confusion(predictions, threshold)
    counts = table.to_numpy()
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    side = min(1.2 * len(table) + 2.0, 6.5)
    figure, ax = subplots(ax=ax, figsize=(side, 0.85 * side))

    shade = shares if normalise else counts
    image = ax.imshow(shade, cmap="Blues", vmin=0, vmax=1 if normalise else max(counts.max(), 1))
    label = "share of the true class" if normalise else "images"
    figure.colorbar(image, ax=ax, label=label, fraction=0.046, pad=0.04)
    size = 11 if len(table) <= 4 else 8
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        texts = [f"{count:,}", "–" if np.isnan(share) else f"{share:.1%}"]
        # Where white begins to stand out better than black in this palette.
        dark = image.norm(shade[row, column]) > 0.71
        ax.text(
            column,
            row,
            "\n".join(reversed(texts) if normalise else texts),
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "black",
        )
    ticks, names = range(len(table)), list(table.index)
    ax.set_xticks(ticks, names, rotation=30 if max(map(len, names)) > 10 else 0)
    ax.set_yticks(ticks, names)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted class", ylabel="true class", title=predictions.name)
    return figure


def plot_roc(
    predictions: Predictions | Iterable[Predictions],
    band: bool = False,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 1000,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """ROC curves, the diagonal of guessing, and each AUC with its interval.

    Parameters
    ----------
    predictions : one or several.
    band : shade, at each false positive rate, the bootstrap percentiles of the curve. It holds
        `level` at one point, not for the whole curve.
    level, by, n_boot, seed : as in `covidlab.evaluation.intervals.interval`.
    """
    figure, ax = subplots(ax=ax, figsize=(5.2, 5.0))
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="guessing (AUC 0.50)")
    for curve, style in _curves(predictions):
        area = intervals.interval(curve, "roc_auc", level, by, n_boot, seed)
        _draw(ax, curve, _roc, style, f"AUC {area}", band, level, by, n_boot, seed)
    ax.set(xlabel="false positive rate (1 − specificity)", ylabel="true positive rate (recall)")
    return _finish(figure, ax, "lower right", level)


def plot_pr(
    predictions: Predictions | Iterable[Predictions],
    band: bool = False,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 1000,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Precision–recall curves, the prevalence that guessing reaches, and each average precision.

    Drawn as steps, for the reason given in `classification_metrics`. A dotted line marks each
    prevalence that occurs among the curves: PR curves of different prevalence do not compare.
    Parameters as in `plot_roc`; the band holds at one recall.
    """
    figure, ax = subplots(ax=ax, figsize=(5.2, 5.0))
    prevalences = set()
    for curve, style in _curves(predictions):
        if len(curve):
            prevalences.add(round(float(curve.is_positive.mean()), 3))
        area = intervals.interval(curve, "pr_auc", level, by, n_boot, seed)
        _draw(ax, curve, _pr, style, f"AP {area}", band, level, by, n_boot, seed)
    named = ", ".join(f"{v:.2f}" for v in sorted(prevalences))
    for i, prevalence in enumerate(sorted(prevalences)):
        label = None if i else f"guessing (prevalence {named})"
        ax.axhline(prevalence, color=_GREY, linewidth=1, linestyle=":", label=label)
    ax.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    return _finish(figure, ax, "lower left", level)


def plot_calibration(
    predictions: Predictions | Iterable[Predictions],
    bins: int = 10,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Figure:
    """Reliability: how often rows with a given score are positive, against that score.

    Scores fall into `bins` of equal width; a point stands at the mean score of its bin, with
    Wilson's interval of the share of positives (rows taken as independent). The legend has the Brier
    score, mean squared error of the probability: 0 is perfect, prevalence·(1 − prevalence) is what
    always naming the prevalence gets. Raises ValueError for bins < 1.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}; at least one is needed")
    figure, ax = subplots(ax=ax, figsize=(5.2, 5.0))
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="calibrated")
    for curve, style in _curves(predictions):
        score, truth = curve.score.astype(float), curve.is_positive
        which = np.clip((score * bins).astype(int), 0, bins - 1)
        filled = np.unique(which)
        points = [
            intervals.wilson(truth[which == b].sum(), (which == b).sum(), level) for b in filled
        ]
        value = np.array([p.value for p in points])
        reach = [
            np.maximum(value - [p.low for p in points], 0),
            np.maximum([p.high for p in points] - value, 0),
        ]
        brier = f"{np.mean((score - truth) ** 2):.3f}" if len(score) else "undefined"
        ax.errorbar(
            [score[which == b].mean() for b in filled],
            value,
            yerr=np.array(reach),
            marker="o",
            markersize=4,
            capsize=2,
            elinewidth=1,
            label=_legend(curve, f"Brier {brier}"),
            **style,
        )
    ax.set(xlabel="mean predicted probability", ylabel="share of positives")
    return _finish(figure, ax, "upper left", level)


def _curves(predictions) -> list[tuple[Predictions, dict]]:
    """One binary `Predictions` for each curve, named for the legend, with its colour and dash."""
    import seaborn

    models = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    if not models:
        raise ValueError("predictions is empty; pass one Predictions or several")
    curves = []
    for p in models:
        if p.positive is not None:
            curves.append(p)
            continue
        for c in p.classes:
            name = f"{p.name}, {c}" if p.name else c
            curves.append(replace(p, positive=c, name=name))
    colours = seaborn.color_palette("colorblind", len(curves))
    return [
        (curve, {"color": colours[i], "linestyle": _DASHES[i % len(_DASHES)]})
        for i, curve in enumerate(curves)
    ]


def _draw(ax, curve, points, style, text, band, level, by, n_boot, seed):
    truth, score = curve.is_positive, curve.score
    label = _legend(curve, text)
    if not 0 < truth.sum() < len(truth):
        ax.plot([], [], label=label, **style)
        return
    step = "steps-post" if points is _pr else "default"
    ax.plot(
        *points(truth, score, np.ones(len(truth))),
        linewidth=1.8,
        drawstyle=step,
        label=label,
        **style,
    )
    if band:
        grid = np.linspace(0, 1, 201)
        low, high = _band(curve, points, grid, level, by, n_boot, seed)
        ax.fill_between(grid, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _roc(truth, score, weight):
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    return fpr, tpr


def _pr(truth, score, weight):
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, score, sample_weight=weight)
    return recall, precision


def _band(curve, points, grid, level, by, n_boot, seed):
    """Bootstrap percentiles of a curve's height at each place of `grid`."""
    truth, score = curve.is_positive, curve.score
    heights = []
    for weight in intervals.resampled_rows(curve, n_boot, seed, by):
        if not 0 < weight[truth].sum() < weight.sum():
            continue
        x, y = points(truth, score, weight)
        if points is _roc:
            heights.append(np.interp(grid, x, y))
        else:
            # The step that reaches a recall first, as average precision takes it.
            x, y = x[::-1], y[::-1]
            heights.append(y[np.searchsorted(x, np.minimum(grid, x[-1]))])
    return np.quantile(heights, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _legend(curve, text):
    return f"{curve.name}: {text}" if curve.name else text


def _finish(figure, ax, corner, level) -> Figure:
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.grid(alpha=0.3, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(
        loc=corner, fontsize=9, title=f"{level:.0%} intervals", title_fontsize=9, framealpha=0.9
    )
    return figure
