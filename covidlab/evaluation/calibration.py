"""Can a probability be taken at its word, and is anyone better off for acting on it?

A score of 0.8 should be right eight times in ten (calibration), and a decision taken at it should
do more good than treating everyone or no one (net benefit). Intervals are of patients drawn with
replacement, as in `intervals.bootstrap` but from all classes together: how common the disease is
belongs to what is measured here, so it may not be held fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidlab._figures import subplots
from covidlab.predictions import Predictions

from .figures import _curves, _legend
from .intervals import (
    Interval,
    _check_level,
    _clusters,
    _known_patients,
    _percentile,
    _resamples,
    compare,
)
from .metrics import metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THRESHOLDS = tuple(np.arange(1, 100) / 100)


# --- calibration ---------------------------------------------------------------------------------


def calibration_error(
    predictions: Predictions,
    n_bins: int = 10,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Expected calibration error, in [0, 1]: how far probabilities are from frequencies.

    The mean over rows of |share of positives − mean score| of the bin a row falls into (Naeini,
    Cooper and Hauskrecht, AAAI 2015; Guo et al., ICML 2017). Bins are `n_bins` of equal width over
    [0, 1], those of `plot_calibration`.

    With a positive class the score is its probability. Without, it is top-label: the probability
    of the predicted class, against whether that class is right; two classes then have no score
    below 0.5. The two are different numbers.

    Raises ValueError for n_bins < 1, and as `intervals.bootstrap`.

    Notes
    -----
    It depends on the bins, and is above 0 for a calibrated model too, the more so the fewer rows
    there are: read it beside `chance_calibration_error`. A resample has that noise twice, so the
    interval is the percentiles reflected at the value (2v − q, cut at 0), and may lie below the
    value. In simulations with 100 independent patients and a true error of 0.10 it held 90 times in
    100, the percentiles as they are 36 times; of a model calibrated in truth it holds the 0 only
    every other time.
    """
    score, right = _scores(predictions)
    gaps = np.zeros((len(score), n_bins))
    gaps[np.arange(len(score)), _bins(score, n_bins)] = right - score
    mean, draws, n_units = _means(predictions, gaps, by, n_boot, seed, level)
    method = f"reflected bootstrap, {by}s"
    i = _percentile(np.abs(mean).sum(), np.abs(draws).sum(1), level, method, n_units)
    low, high = np.clip([2 * i.value - i.high, 2 * i.value - i.low], 0, 1)
    return i._replace(low=float(low), high=float(high))


def chance_calibration_error(
    predictions: Predictions,
    n_bins: int = 10,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The `calibration_error` that a perfectly calibrated model with these scores would show.

    Labels are drawn from the scores themselves (consistency resampling; Bröcker and Smith, Weather
    and Forecasting 2007); the value is the mean over `n_draws`. An error within the interval says
    nothing against the model. Rows are taken as independent: with several images a patient, chance
    does more than this.
    """
    _check_level(level)
    score, _ = _scores(predictions)
    which, rng = _bins(score, n_bins), np.random.default_rng(seed)
    n = max(len(score), 1)
    draws = np.array(
        [
            np.abs(np.bincount(which, (rng.random(len(score)) < score) - score)).sum() / n
            for _ in range(n_draws)
        ]
    )
    value = draws.mean() if len(score) else np.nan
    return _percentile(value, draws, level, "labels drawn from the scores", len(score))


def brier(
    predictions: Predictions,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Brier score: mean squared error of the probabilities (Brier, Monthly Weather Review 1950).

    With a positive class, of its probability: in [0, 1], and always naming the prevalence π gets
    π(1 − π). Without, summed over all classes: in [0, 2], twice the other for two classes. It
    falls with calibration and with discrimination alike. Raises as `intervals.bootstrap`.
    """
    if predictions.positive is not None:
        each = (predictions.score.astype(float) - predictions.is_positive) ** 2
    else:
        truth = np.eye(len(predictions.classes))[predictions.truth]
        each = ((predictions.probabilities.astype(float) - truth) ** 2).sum(1)

    mean, draws, n_units = _means(predictions, each[:, None], by, n_boot, seed, level)
    return _percentile(mean[0], draws[:, 0], level, f"bootstrap, {by}s", n_units)


def temperature(valid: Predictions, at_least: int = 20) -> float:
    """The temperature T > 0 by which logits are divided to be most likely on a validation part.

    One number for all classes (Guo et al., ICML 2017, Section 4.2): above 1 the model was too sure
    of itself, below 1 not sure enough. Found by maximum likelihood between 0.05 and 20.

    Never fit it on the test part: what is measured there would then no longer be a test. The
    validation part that chose the best epoch has flattered the model once; T may be a little low.

    Raises
    ------
    ValueError : fewer than `at_least` patients (images, where no patient is known; our choice), or
        no T in reach: every row is right by itself, or the scores say nothing of the truth.
    """
    from scipy.optimize import minimize_scalar

    patients = _known_patients(valid)
    n = len(valid) if patients is None else len(np.unique(patients))
    if n < at_least:
        unit = "images" if patients is None else "patients"
        raise ValueError(
            f"valid has {n} {unit}, too few to fit a temperature on; {at_least} or more are needed"
        )
    logits, rows = _log(valid), np.arange(len(valid))

    def loss(log_t):
        return -_log_softmax(logits / np.exp(log_t))[rows, valid.truth].mean()

    ends = np.log([0.05, 20.0])
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x
    if np.abs(found - ends).min() < 1e-3:
        why = (
            "its rows are all but free of errors"
            if found < 0
            else "its scores are no better than guessing"
        )
        raise ValueError(
            f"no temperature from 0.05 to 20 fits valid: {why}; use a larger validation part"
        )
    return float(np.exp(found))


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with their logits divided by a temperature; the predicted class stays.

    Works from probabilities p, since log p is the logits up to a constant; those below float32's
    smallest number are taken as that. Raises ValueError for a temperature that is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature={temperature} must be a number above 0")
    p = np.exp(_log_softmax(_log(predictions) / temperature)).astype(np.float32)
    # Rounding may tie the two best classes, and a tie goes to the first.
    moved = np.flatnonzero(p.argmax(1) != predictions.predicted)
    p[moved, predictions.predicted[moved]] = np.nextafter(p[moved].max(1), np.float32(2))
    return replace(predictions, probabilities=p)


def temperature_scaling(
    valid: Predictions, test: Predictions, at_least: int = 20
) -> tuple[Predictions, float]:
    """The test predictions scaled by the `temperature` of the validation part, and that temperature.

    Raises ValueError when the two differ in their classes, and as `temperature`.
    """
    if valid.classes != test.classes:
        raise ValueError(
            f"valid has the classes {valid.classes}, test {test.classes}: take both from one model"
        )
    found = temperature(valid, at_least)
    return with_temperature(test, found), found


def _log(predictions: Predictions) -> np.ndarray:
    p = predictions.probabilities.astype(float)
    return np.log(np.maximum(p, np.finfo(np.float32).tiny))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import log_softmax

    return log_softmax(logits, axis=1)


def _scores(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float score and whether what it speaks of is true."""
    if predictions.positive is not None:
        return predictions.score.astype(float), predictions.is_positive
    top = predictions.probabilities.max(1, initial=0).astype(float)
    return top, predictions.predicted == predictions.truth


def _bins(score: np.ndarray, n_bins: int) -> np.ndarray:
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins}; at least one is needed")
    return np.clip((score * n_bins).astype(int), 0, n_bins - 1)


# --- decisions -----------------------------------------------------------------------------------


def decision_curve(
    predictions: Predictions,
    thresholds: Sequence[float] = THRESHOLDS,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Net benefit of treating those whose score reaches a threshold (Vickers and Elkin 2006).

    At threshold t it is TP/n − FP/n · t/(1 − t), in true positives per row: whoever treats from
    t on holds a missed patient to be (1 − t)/t times as bad as a needless treatment.

    Returns
    -------
    One row per threshold: `model`, `low`, `high` (its net benefit), `all`, `none` (of treating
    everyone and no one; the latter 0), and `gain`, `gain low`, `gain high`: model less the better
    of the two, in the same resamples. Only a gain above 0 speaks for the model.

    Raises
    ------
    ValueError : no positive class, thresholds outside (0, 1), and as `intervals.bootstrap`.

    Notes
    -----
    It holds for the prevalence of these rows, which a case–control collection has chosen by hand.
    A score that is not calibrated is compared at thresholds that do not mean what they say.
    """
    t = np.asarray(thresholds, float)
    if t.ndim != 1 or not len(t) or not ((t > 0) & (t < 1)).all():
        raise ValueError("thresholds must be a list of numbers between 0 and 1, both excluded")
    # Compared in the score's own float32, as `metrics.decisions` does.
    called = predictions.score[:, None] >= t.astype(np.float32)
    worth = np.where(predictions.is_positive[:, None], 1.0, -t / (1 - t))
    rows = np.hstack([worth * called, worth])
    mean, draws, n_units = _means(predictions, rows, by, n_boot, seed, level)
    (model, everyone), (models, everyones) = (np.split(v, 2, axis=-1) for v in (mean, draws))
    gain, gains = (m - np.maximum(e, 0) for m, e in ((model, everyone), (models, everyones)))
    table = {"threshold": t}
    for name, low, high, value, drawn in (
        ("model", "low", "high", model, models),
        ("gain", "gain low", "gain high", gain, gains),
    ):
        each = [_percentile(*v, level, "", n_units) for v in zip(value, drawn.T, strict=True)]
        table |= {name: value, low: [i.low for i in each], high: [i.high for i in each]}
    table = pd.DataFrame(table | {"all": everyone, "none": 0.0}).set_index("threshold")
    return table[["model", "low", "high", "all", "none", "gain", "gain low", "gain high"]]


def plot_decision_curve(
    predictions: Predictions | Iterable[Predictions],
    thresholds: Sequence[float] = THRESHOLDS,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 1000,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Decision curves: net benefit of one or several models against treating everyone and no one.

    The band is the bootstrap interval at each threshold; see `decision_curve`. Models must be about
    the same rows for the grey line to be that of all; without a positive class each class is tried
    against the rest, and has a grey line of its own.
    """
    figure, ax = subplots(ax=ax, figsize=(6.0, 4.2))
    top, drawn = 0.0, []
    for curve, style in _curves(predictions):
        table = decision_curve(curve, thresholds, level, by, n_boot, seed)
        ax.plot(table.index, table["model"], label=_legend(curve, "model"), linewidth=1.8, **style)
        ax.fill_between(
            table.index, table["low"], table["high"], color=style["color"], alpha=0.15, linewidth=0
        )
        if not any(table["all"].equals(other) for other in drawn):
            label = None if drawn else "treat everyone"
            ax.plot(table.index, table["all"], color="0.45", linewidth=1, label=label)
            drawn.append(table["all"])
        top = max(top, table[["model", "high", "all"]].max().max())
    ax.axhline(0, color="0.45", linewidth=1, linestyle=":", label="treat no one")
    ax.set(
        xlim=(0, 1),
        ylim=(-0.25 * max(top, 0.05), 1.1 * max(top, 0.05)),
        xlabel="threshold probability",
        ylabel="net benefit (true positives per image)",
    )
    ax.grid(alpha=0.3, linewidth=0.6)
    ax.legend(fontsize=9, title=f"{level:.0%} intervals", title_fontsize=9, framealpha=0.9)
    return figure


# --- groups --------------------------------------------------------------------------------------

_OTHERS = {"brier": brier, "calibration_error": calibration_error}


def by_group(
    predictions: Predictions,
    column: str,
    metrics: Sequence[str] = ("accuracy", "recall", "specificity", "roc_auc"),
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
    small: int = 20,
) -> pd.DataFrame:
    """Performance in each group of rows: by site, severity, sex, or any column of the frame.

    Parameters
    ----------
    column : of `predictions.frame`; cells without a value are the group "not known".
    metrics : names of `METRICS` ("sensitivity" too), "brier" or "calibration_error".
    small : a class with fewer patients than this is named in `note`; percentile intervals are then
        too short. No group is left out for being small.

    Returns
    -------
    One row per group in the column's order and "all" last: `n` (images), `patients` (missing where
    none is known), columns `m`, `m low`, `m high` of each metric as `compare` makes them, `note`.

    Raises
    ------
    ValueError : no such column, an unknown metric, more than 30 groups, a group called "all".

    Notes
    -----
    The intervals speak of one group each, and many groups will differ by chance.
    """
    frame = predictions.frame
    if column not in frame:
        raise ValueError(f"column={column!r} is not in the frame; it has {list(frame.columns)}")
    for m in metrics:
        if m not in _OTHERS:
            metric_name(m)
    values = frame[column].astype(object).where(frame[column].notna() & (frame[column] != ""))
    names = sorted(values.dropna().unique().tolist(), key=_order(frame[column]))
    if len(names) > 30:
        raise ValueError(
            f"column={column!r} makes {len(names)} groups: cut it into bands with pandas.cut"
        )
    parts = {str(v): (values == v).to_numpy() for v in names}
    if values.isna().any():
        parts["not known"] = values.isna().to_numpy()
    if "all" in parts:
        raise ValueError(
            f"column={column!r} has a group 'all', the name of the last row: rename it"
        )
    parts["all"] = np.ones(len(predictions), bool)
    ordinary = [m for m in metrics if m not in _OTHERS]
    rows = {}
    for name, rows_of in parts.items():
        part = replace(
            predictions,
            frame=frame[rows_of],
            probabilities=predictions.probabilities[rows_of],
            name=name,
        )
        known = _known_patients(part)
        row = {
            "n": len(part),
            "patients": pd.NA if known is None else len(np.unique(known)),
            **compare(part, ordinary, level, by, n_boot, seed).loc[name],
        }
        for m in metrics:
            if m in _OTHERS:
                unit = "image" if known is None else by
                i = _OTHERS[m](part, level=level, by=unit, n_boot=n_boot, seed=seed)
                row |= {m: i.value, f"{m} low": i.low, f"{m} high": i.high}
        rows[name] = row | {"note": _note(part, known, small)}
    columns = [f"{m}{end}" for m in metrics for end in ("", " low", " high")]
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(column)
    return table[["n", "patients", *columns, "note"]].astype({"n": int, "patients": "Int64"})


def _order(column: pd.Series):
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.categories).index
    return None if pd.api.types.is_numeric_dtype(column) else str


def _note(part: Predictions, patients: np.ndarray | None, small: int) -> str:
    """Which classes are too few, or missing, for the numbers to say much."""
    unit = np.arange(len(part)) if patients is None else patients
    what = "images" if patients is None else "patients"
    if part.positive is None:
        sides = {c: part.truth == i for i, c in enumerate(part.classes)}
    else:
        others = [c for c in part.classes if c != part.positive]
        rest = others[0] if len(others) == 1 else f"not {part.positive}"
        sides = {part.positive: part.is_positive, rest: ~part.is_positive}
    counts = {side: len(np.unique(unit[rows])) for side, rows in sides.items()}
    few = [f"{c if c else 'no'} {what} {side}" for side, c in counts.items() if c < small]
    return f"small: {', '.join(few)}" if few else ""


# --- resamples -----------------------------------------------------------------------------------


def _means(predictions, rows, by, n_boot, seed, level) -> tuple[np.ndarray, np.ndarray, int]:
    """Means (K,) of (N, K) rows, those of each resample (n_boot, K), and the number of units."""
    _check_level(level)
    clusters = _clusters(predictions, by, stratified=False)
    n_units, width = len(clusters.sizes), rows.shape[1]
    if not n_units:
        return np.full(width, np.nan), np.full((n_boot, width), np.nan), 0
    sums = np.zeros((n_units, width))
    np.add.at(sums, clusters.unit, rows)
    draws = [(w @ sums) / (w @ clusters.sizes)[:, None] for w in _resamples(clusters, n_boot, seed)]
    return rows.mean(0), np.concatenate(draws), n_units
