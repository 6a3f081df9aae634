"""Confusion matrix, ROC, precision–recall and reliability, extremes, masks, error curves, as figures.

Each takes predictions, draws into `ax` or a figure of its own, and returns the figure. Curves differ
in colour (seaborn's colour-blind palette) and in dash, so they can be told apart in print. Without
a positive class a curve is drawn for each class against the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from covidlab._figures import subplots
from covidlab.predictions import MaskPredictions, Predictions

from . import intervals
from .metrics import confusion
from .segmentation import mask_confusion, pick_by_severity, region_index

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_GREY = "0.45"
_RIGHT, _EXTRA, _MISSED = "#f0f0f0", "#d55e00", "#56b4e9"


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
    return _draw_counts(table, normalise, "images", "class", predictions.name, ax)


def plot_mask_confusion(
    predictions: MaskPredictions,
    normalise: bool = True,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Confusion matrix of the pixels of all images (Khan, Table 4): shares, and below them counts.

    Without `normalise` the shade is the count, which stands first, as in `plot_confusion`.
    """
    table = mask_confusion(predictions, normalise=False, threshold=threshold)
    return _draw_counts(table, normalise, "pixels", "region", predictions.name, ax)


def _draw_counts(table, normalise, unit, kind, title, ax) -> Figure:
    counts = table.to_numpy()
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    side = min(1.2 * len(table) + 2.0, 6.5)
    figure, ax = subplots(ax=ax, figsize=(side, 0.85 * side))

    shade = shares if normalise else counts
    image = ax.imshow(shade, cmap="Blues", vmin=0, vmax=1 if normalise else max(counts.max(), 1))
    label = f"share of the true {kind}" if normalise else unit
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
    ax.set(xlabel=f"predicted {kind}", ylabel=f"true {kind}", title=title)
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
    figure = _finish(figure, ax, "upper center", level)
    # below the axes: points and bars may lie in every corner
    ax.get_legend().set_bbox_to_anchor((0.5, -0.14))
    return figure


def show_segmentations(
    predictions: MaskPredictions | Iterable[MaskPredictions],
    images: np.ndarray,
    rows: Iterable[int] | Mapping[str, int] | None = None,
    region: str | None = None,
    threshold: float | None = None,
) -> Figure:
    """Image, truth and the masks of several models side by side, each titled by its Dice.

    As Khan's Figures 11, 13 and 14: the image with the true region outlined in red, the true mask,
    and each output; unlike there, an output shows in colour what it added and what it missed.

    Parameters
    ----------
    predictions : one or several, of the same images.
    images : (N, H, W), shown grey from their smallest to their largest value.
    rows : which images, or names for them too; by default `pick_by_severity`'s mild, medium and
        severe one.
    region : which class; not needed with two.
    threshold : as in `segmentation_metrics`.

    Raises ValueError for images of another shape than the masks, models with different truth, no
    models, and a region that is not there.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    models = [predictions] if isinstance(predictions, MaskPredictions) else list(predictions)
    if not models:
        raise ValueError("predictions is empty; pass one MaskPredictions or several")
    first, index = models[0], region_index(models[0], region)
    images = np.asarray(images)
    if images.shape != first.truth.shape:
        raise ValueError(f"images have shape {images.shape}, the masks {first.truth.shape}")
    for p in models[1:]:
        if p.classes != first.classes or not np.array_equal(p.truth, first.truth):
            raise ValueError(
                f"{p.name!r} has other classes or true masks than {first.name!r}; show models of "
                "the same images together"
            )
    rows = pick_by_severity(first.truth, index) if rows is None else rows
    rows = rows if isinstance(rows, Mapping) else {f"row {row}": row for row in rows}

    colours = ListedColormap(["black", _RIGHT, _EXTRA, _MISSED])
    size = (1.7 * (2 + len(models)), 1.9 * len(rows) + 0.4)
    figure, axes = subplots(len(rows), 2 + len(models), figsize=size, squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        truth = first.truth[row] == index
        line[0].imshow(images[row], cmap="gray")
        if truth.any() and not truth.all():
            line[0].contour(truth, levels=[0.5], colors="red", linewidths=0.9)
        line[1].imshow(truth, cmap=colours, vmin=0, vmax=3, interpolation="nearest")
        titles = [name, f"truth, {truth.mean():.1%}"]
        for ax, p in zip(line[2:], models, strict=True):
            # One image's masks, so that not all are cut for a few rows.
            one = replace(
                p,
                frame=p.frame.iloc[[row]],
                probabilities=p.probabilities[[row]],
                truth=p.truth[[row]],
            )
            mask = (one.predicted if threshold is None else one.at(threshold))[0] == index
            shown = np.select([mask & truth, mask, truth], [1, 2, 3], 0)
            ax.imshow(shown, cmap=colours, vmin=0, vmax=3, interpolation="nearest")
            area = mask.sum() + truth.sum()
            dice = f"{2 * (mask & truth).sum() / area:.3f}" if area else "–"
            titles.append(f"{p.name}\nDice {dice}".strip())
        for ax, title in zip(line, titles, strict=True):
            ax.set_title(title, fontsize=8)
            ax.set_axis_off()
    handles = [
        Patch(facecolor=_RIGHT, edgecolor=_GREY, label="found"),
        Patch(color=_EXTRA, label="not there (false positive)"),
        Patch(color=_MISSED, label="missed (false negative)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def plot_convergence(
    records,
    train: str = "train_loss",
    valid: str | None = "valid_loss",
    ax: Axes | None = None,
) -> Figure:
    """Error by epoch while training (Khan, Figure 10): dashed on training data, solid on validation.

    Parameters
    ----------
    records : one training or {name: training}. A training is a list of dicts, one per epoch, or
        whatever has one as `history`, as a run record does; a dot marks its `best_epoch` (from 1).
    train, valid : keys of those dicts. Epochs where one is missing or None are gaps; None for
        `valid` draws the training curve alone.

    Raises ValueError where no epoch has the key.
    """
    import seaborn
    from matplotlib.ticker import MaxNLocator

    records = records if isinstance(records, Mapping) else {"": records}
    figure, ax = subplots(ax=ax, figsize=(6.0, 3.8))
    colours = seaborn.color_palette("colorblind", len(records))
    parts = ((train, "training", "--"), (valid, "validation", "-"))
    for colour, (name, record) in zip(colours, records.items(), strict=True):
        history = list(getattr(record, "history", record))
        for key, part, dash in parts:
            if key is None:
                continue
            values = np.array([epoch.get(key) for epoch in history], dtype=float)
            if not np.isfinite(values).any():
                has = sorted({k for epoch in history for k in epoch})
                raise ValueError(f"no epoch of {name or 'the record'} has {key!r}; it has {has}")
            label = f"{name}, {part}" if name else part
            epochs = np.arange(1, len(values) + 1)
            ax.plot(epochs, values, dash, color=colour, linewidth=1.5, label=label)
            best = getattr(record, "best_epoch", 0)
            if part == "validation" and best:
                ax.plot(best, values[best - 1], "o", color=colour, markersize=5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel="loss" if train.endswith("loss") else train)
    ax.grid(alpha=0.3, linewidth=0.6)
    ax.legend(fontsize=9, framealpha=0.9)
    return figure


def plot_extremes(
    table: pd.DataFrame, by: str, metrics: Iterable[str], ax: Axes | None = None
) -> Figure:
    """Least, mean and greatest value of some metrics over the rows of each group, as bars.

    What Khan et al. draw in Figures 6 and 8: how good the worst, the usual and the best of several
    networks is. The axis begins at 0, as bars must.

    Parameters
    ----------
    table : one row per network (or training), metrics in columns; NaN is left out.
    by : column of the groups, drawn in the order in which they first come; n in the legend.
    metrics : columns to draw.

    Raises ValueError for a column that is missing, or a group that has no value in one.
    """
    from covidlab._figures import palette

    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    if missing := [c for c in (by, *metrics) if c not in table]:
        raise ValueError(f"the table has no {missing}: it has {', '.join(map(str, table))}")
    groups = list(dict.fromkeys(table[by]))
    figure, ax = subplots(ax=ax, figsize=(7.0, 3.2))
    width, statistics = 0.8 / len(groups), ("min", "mean", "max")
    for k, (group, colour) in enumerate(palette(map(str, groups)).items()):
        rows = table[table[by] == groups[k]]
        found = rows[metrics].agg(list(statistics)).T.to_numpy(float)
        if not np.isfinite(found).all():
            raise ValueError(f"{by}={group!r} has no value in one of {metrics}")
        at = np.arange(found.size) + (k - (len(groups) - 1) / 2) * width
        bars = ax.bar(at, found.ravel(), width, color=colour, label=f"{group} (n = {len(rows)})")
        ax.bar_label(bars, fmt="%.2f", fontsize=6.5, padding=1)
    names = [
        f"{s}\n{m.replace('_', ' ') if s == 'mean' else ''}" for m in metrics for s in statistics
    ]
    ax.set_xticks(np.arange(len(names)), names)
    ax.set(ylim=(0, 1.08), ylabel="score")
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(groups))
    return figure


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
