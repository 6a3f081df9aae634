"""How far a number can be trusted: intervals for proportions, AUCs and everything else.

`report` and `compare` choose the method; the functions above them are the methods themselves, also
for the numbers of a published table. An interval here speaks of new patients from the same source
and of nothing else: not of another hospital, another seed, or a test set that was looked at.

The published approximations (`normal`, `hanley_mcneil`) return what their formula returns, also
where it collapses to a point. The others return NaN bounds rather than an interval of no width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidlab.predictions import Predictions

from .metrics import (
    CURVES,
    METRICS,
    average,
    classification_metrics,
    curves,
    decisions,
    from_confusion,
    from_counts,
    metric_name,
)

# Resamples are taken in blocks of at most this many weights of rows, to hold memory near 100 MB.
_BLOCK = 2_000_000


class Interval(NamedTuple):
    """A value between two bounds, all NaN where there is none.

    `n` is what the value was taken over (rows, or patients where they were resampled);
    `n_undefined` counts the resamples in which the metric had no value: they are not in the bounds.
    """

    value: float
    low: float
    high: float
    method: str
    level: float
    n: int | None = None
    n_undefined: int = 0

    def __str__(self):
        return format(self, ".2f")

    def __format__(self, spec):
        spec = spec or ".2f"
        if np.isnan(self.value):
            return "undefined"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{self.value:{spec}} [no interval]"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class Comparison(NamedTuple):
    """A difference a − b with its interval, and the two-sided p-value of there being none."""

    difference: Interval
    p: float


# --- proportions ---------------------------------------------------------------------------------


def normal(k: float, n: int, level: float = 0.95) -> Interval:
    """Normal (Wald) interval of the proportion k/n: p ± z·√(p(1 − p)/n), cut at 0 and 1.

    It is the interval of the papers: Tahir (eq. 8) uses it for every metric, with the number of
    test images as n. A published value v goes in as k = v·n, so k need not be whole. Near 0 and 1
    it is too short, and at them it has no width: 20 right out of 20 is not certainty. Precision
    and recall are proportions of fewer images than n, F-score and MCC are none at all.

    Raises ValueError unless 0 ≤ k ≤ n. n = 0 gives NaN.
    """
    return _proportion(k, n, level, "normal", "normal")


def wilson(k: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of the proportion k/n (Wilson 1927; Brown, Cai and DasGupta 2001).

    Keeps close to its level down to small n and up to k = n. Assumes independent trials: for
    several images of one patient it is too short. Raises as `normal`; n = 0 gives NaN.
    """
    return _proportion(k, n, level, "wilson", "Wilson")


def _proportion(k, n, level, method, name) -> Interval:
    from statsmodels.stats.proportion import proportion_confint

    _check_level(level)
    if not 0 <= k <= n:
        raise ValueError(f"k={k} of n={n} is no proportion; 0 ≤ k ≤ n is needed")
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, name, level, 0)
    low, high = proportion_confint(k, n, alpha=1 - level, method=method)
    return Interval(k / n, float(low), float(high), name, level, int(n))


# --- area under the ROC curve --------------------------------------------------------------------


def hanley_mcneil(auc: float, n_pos: int, n_neg: int, level: float = 0.95) -> Interval:
    """Interval of an AUC of which only the value is known (Hanley and McNeil, Radiology 1982).

    The variance is that of exponentially distributed scores: Q1 = A/(2 − A), Q2 = 2A²/(1 + A).
    Has no width at A = 1. Raises ValueError for an AUC outside [0, 1] or negative counts; NaN
    without positives or without negatives.

    The intervals of Khan's Tables 2 and 3 are these, for 74 infected and 92 healthy test images and
    cut (not rounded) to two decimals, although the paper refers to Cortes and Mohri for them.
    """
    _check_auc(auc, n_pos, n_neg, level)
    if not (n_pos and n_neg):
        return Interval(auc, np.nan, np.nan, "Hanley–McNeil", level, n_pos + n_neg)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_pos - 1) * (q1 - auc**2) + (n_neg - 1) * (q2 - auc**2)
    half = _z(level) * np.sqrt(variance / (n_pos * n_neg))
    low, high = max(auc - half, 0.0), min(auc + half, 1.0)
    return Interval(auc, low, high, "Hanley–McNeil", level, n_pos + n_neg)


def cortes_mohri_moments(errors: int, n_pos: int, n_neg: int) -> tuple[float, float]:
    """Mean and standard deviation of the AUC over all classifications with `errors` errors.

    A classification is a ranking of the rows and a cut in it; all those that put `errors` rows on
    the wrong side are equally likely (Cortes and Mohri, NIPS 2004). Given that x of the errors are
    negatives above the cut, the rows on either side are in random order, so the AUC is a constant
    plus two independent Mann–Whitney statistics, whose moments are known. What remains is a sum
    over x, exact for any number of errors and done in logarithms; it is the paper's variance
    before its closed form.

    Raises ValueError unless 0 ≤ errors ≤ n_pos + n_neg and both classes are there.
    """
    from scipy.special import gammaln

    if n_pos < 1 or n_neg < 1 or not 0 <= errors <= n_pos + n_neg:
        raise ValueError(
            f"errors={errors}, n_pos={n_pos}, n_neg={n_neg}: at least one row of each class and "
            "0 ≤ errors ≤ n_pos + n_neg are needed"
        )

    def log_choose(a, b):
        return gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)

    neg_above = np.arange(max(0, errors - n_pos), min(n_neg, errors) + 1, dtype=np.float64)
    pos_below = errors - neg_above
    pos_above, neg_below = n_pos - pos_below, n_neg - neg_above
    log_ways = log_choose(pos_above + neg_above, neg_above)
    log_ways += log_choose(pos_below + neg_below, pos_below)
    weight = np.exp(log_ways - log_ways.max())
    weight /= weight.sum()

    pairs = float(n_pos) * n_neg
    mean = (pos_above * neg_below + (pos_above * neg_above + pos_below * neg_below) / 2) / pairs
    variance = pos_above * neg_above * (pos_above + neg_above + 1)
    variance += pos_below * neg_below * (pos_below + neg_below + 1)
    variance /= 12 * pairs**2
    expected = float(weight @ mean)
    return expected, float(np.sqrt(weight @ (variance + (mean - expected) ** 2)))


def cortes_mohri(
    auc: float,
    n_pos: int,
    n_neg: int,
    errors: int | None = None,
    level: float = 0.95,
    tail: str = "normal",
) -> Interval:
    """Interval of an AUC from the number of errors alone (Cortes and Mohri, NIPS 2004).

    Nothing is assumed about the scores, and none are needed: it can be had from a published error
    rate. As in the paper the true error rate is itself uncertain: the bounds are the lowest and
    highest of E[A] ∓ q·σ(A) over every number of errors in an interval around the observed one,
    with both levels set to √level so that together they hold at `level`.

    Parameters
    ----------
    auc : the observed AUC. It is not the centre of the interval, and lies outside when the ranking
        is much better or worse than is usual at that number of errors.
    errors : wrong rows; None when unknown: then the number of errors whose expected AUC is nearest
        to `auc`.
    tail : "normal" for q from the normal distribution, "chebyshev" for q = 1/√(1 − √level), which
        holds whatever the distribution of A, but is 2.8 times as large at 0.95.

    Raises
    ------
    ValueError : an AUC outside [0, 1], impossible counts, an unknown tail.

    Notes
    -----
    Our choices: the interval of the error rate is Wilson's, rounded outward to whole errors, so
    that no errors still leave a width; the tail is normal by default. "Equally likely" is hard on
    small classes: when there are about as many errors as rows of the smaller class, nearly every
    such classification gives the larger class to all, and the expected AUC drops to 0.5.
    """
    _check_auc(auc, n_pos, n_neg, level)
    n = n_pos + n_neg
    if not (n_pos and n_neg):
        return Interval(auc, np.nan, np.nan, "Cortes–Mohri", level, n)
    part = np.sqrt(level)
    if tail == "normal":
        q = _z(part)
    elif tail == "chebyshev":
        q = 1 / np.sqrt(1 - part)
    else:
        raise ValueError(f'tail={tail!r} is not known; choose "normal" or "chebyshev"')
    if errors is None:
        errors = _errors_of(auc, n_pos, n_neg)
    elif not 0 <= errors <= n:
        raise ValueError(f"errors={errors} of {n} rows; 0 ≤ errors ≤ {n} is needed")
    rate = wilson(errors, n, part)
    # Wilson's bound at no errors is 0 up to rounding, which may be on either side of it.
    few, many = max(0, int(rate.low * n + 1e-9)), min(n, int(np.ceil(rate.high * n - 1e-9)))
    moments = np.array([cortes_mohri_moments(k, n_pos, n_neg) for k in range(few, many + 1)])
    low = max(float((moments[:, 0] - q * moments[:, 1]).min()), 0.0)
    high = min(float((moments[:, 0] + q * moments[:, 1]).max()), 1.0)
    return Interval(auc, low, high, "Cortes–Mohri", level, n)


def _errors_of(auc: float, n_pos: int, n_neg: int) -> int:
    """Number of errors whose expected AUC, which falls from 1 to 0 as they grow, is nearest."""

    def expected(k):
        return cortes_mohri_moments(k, n_pos, n_neg)[0]

    low, high = 0, n_pos + n_neg
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if expected(middle) >= auc else (low, middle)
    return low if abs(expected(low) - auc) <= abs(expected(high) - auc) else high


def delong(truth, score, level: float = 0.95, logit: bool = True) -> Interval:
    """ROC-AUC of scores with the interval of DeLong et al. (Biometrics 1988), ties counting half.

    Parameters
    ----------
    truth : (N,) bool. score : (N,) numbers, higher for positive; any scale.
    logit : build the interval on log(A/(1 − A)) and turn it back: it stays within (0, 1) and keeps
        its level near 1, where the plain A ± z·σ (False; pROC's default) is too short: with 25 rows
        a class, normal scores and a true AUC of 0.98 it holds 80 times in 100, the logit 91.

    Raises
    ------
    ValueError : shapes that differ, scores that are not finite.

    Notes
    -----
    Computed through midranks (Sun and Xu, IEEE Signal Processing Letters 2014), O(N log N). Rows
    must be independent: one image per patient. NaN bounds where the variance estimate has no
    meaning: fewer than two rows of a class, a perfect ranking, or one score for all.
    """
    truth, score = _check_scores(truth, score)
    _check_level(level)
    name = "DeLong (logit)" if logit else "DeLong"
    auc, covariance = _delong_covariance(truth, score[None])
    value, sd = float(auc[0]), float(np.sqrt(covariance[0, 0]))
    if not (sd > 0 and 0 < value < 1):
        return Interval(value, np.nan, np.nan, name, level, len(truth))
    if logit:
        half = _z(level) * sd / (value * (1 - value))
        odds = value / (1 - value) * np.exp([-half, half])
        low, high = 1 / (1 + 1 / odds)
    else:
        low, high = np.clip(value + _z(level) * np.array([-sd, sd]), 0, 1)
    return Interval(value, float(low), float(high), name, level, len(truth))


def delong_test(truth, score_a, score_b, level: float = 0.95) -> Comparison:
    """Difference of two AUCs, a − b, on the same rows, with DeLong's interval and two-sided p.

    Arguments, errors and independence as in `delong`. Bounds and p are NaN where there is no
    variance estimate, but p = 1 for two scores that rank alike.
    """
    from scipy.stats import norm

    truth, score_a = _check_scores(truth, score_a)
    _, score_b = _check_scores(truth, score_b)
    _check_level(level)
    auc, covariance = _delong_covariance(truth, np.stack([score_a, score_b]))
    difference = float(auc[0] - auc[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    # What is left of equal variances after subtraction is rounding, not variance.
    if not variance > 1e-12 * (covariance[0, 0] + covariance[1, 1]):
        p = 1.0 if difference == 0 and np.isfinite(variance) else np.nan
        return Comparison(Interval(difference, np.nan, np.nan, "DeLong", level, len(truth)), p)
    sd = float(np.sqrt(variance))
    half = _z(level) * sd
    bounds = difference - half, difference + half
    return Comparison(
        Interval(difference, *bounds, "DeLong", level, len(truth)),
        float(2 * norm.sf(abs(difference) / sd)),
    )


def _delong_covariance(truth, scores) -> tuple[np.ndarray, np.ndarray]:
    """AUCs (S,) of scores (S, N) and their covariance (S, S); NaN with under two rows of a class."""
    from scipy.stats import rankdata

    n_pos, n_neg = int(truth.sum()), int((~truth).sum())
    nan = np.full((len(scores), len(scores)), np.nan)
    if not (n_pos and n_neg):
        return np.full(len(scores), np.nan), nan
    ranks = rankdata(scores, axis=1)
    # For each row, the share of the other class that it is ranked on the right side of.
    of_pos = (ranks[:, truth] - rankdata(scores[:, truth], axis=1)) / n_neg
    of_neg = 1 - (ranks[:, ~truth] - rankdata(scores[:, ~truth], axis=1)) / n_pos
    auc = of_pos.mean(1)
    if n_pos < 2 or n_neg < 2:
        return auc, nan
    return auc, np.atleast_2d(np.cov(of_pos)) / n_pos + np.atleast_2d(np.cov(of_neg)) / n_neg


# --- bootstrap -----------------------------------------------------------------------------------


def bootstrap(
    predictions: Predictions,
    metric: str,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    by: str = "patient",
    stratified: bool = True,
    kind: str = "percentile",
    threshold: float | None = None,
    weighted: bool = False,
) -> Interval:
    """Bootstrap interval of any metric: patients, with all their images, drawn with replacement.

    Parameters
    ----------
    metric : a name in `METRICS`, or "sensitivity".
    by : "patient" draws patients, because images of one patient are not independent; "image" draws
        rows. An image without a `patient_id` stands for itself.
    stratified : draw within classes, so that every resample has as many patients of each. A patient
        whose images have several labels belongs to the most frequent, on a tie to the one that
        comes first in `classes`.
    kind : "percentile", or "bca" (Efron 1987), which corrects for bias and skewness.
    threshold, weighted : as in `classification_metrics`.

    Raises
    ------
    ValueError : an unknown metric, `by` or `kind`, no `patient_id` column, n_boot < 1.

    Notes
    -----
    Resamples in which the metric is undefined cannot be ordered among the others; the bounds are
    those of the rest, and `n_undefined` says how many there were. When many are, say so. The bounds
    are NaN when every resample gives the same value: a perfect classifier stays perfect in every
    resample, which says nothing of its next patient. With fewer than about 20 patients a class the
    percentile interval is too short.
    """
    metric = metric_name(metric)
    return _bootstraps(
        predictions, [metric], n_boot, level, seed, by, stratified, kind, threshold, weighted
    )[metric]


def difference(
    predictions_a: Predictions,
    predictions_b: Predictions,
    metric: str,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    by: str = "patient",
    stratified: bool = True,
    threshold: float | None = None,
    weighted: bool = False,
) -> Interval:
    """Bootstrap interval of metric(a) − metric(b), both models seeing the same resamples.

    Much shorter than the overlap of two intervals suggests, because both models are tried on the
    same images. Arguments as in `bootstrap`; one model against itself is 0 with NaN bounds.

    Raises
    ------
    ValueError : as `bootstrap`, or the two are not about the same rows in the same order (their
        image, label and patient_id, as far as both have them) or the same classes.
    """
    metric = metric_name(metric)
    _check_paired(predictions_a, predictions_b)
    _check_level(level)
    clusters = _clusters(predictions_a, by, stratified)
    functions = [
        _evaluator(p, [metric], clusters, threshold, weighted)
        for p in (predictions_a, predictions_b)
    ]
    a, b = (
        classification_metrics(p, threshold, weighted)[metric]
        for p in (predictions_a, predictions_b)
    )
    draws = np.concatenate(
        [
            functions[0](weights)[metric] - functions[1](weights)[metric]
            for weights in _resamples(clusters, n_boot, seed)
        ]
    )
    method = f"paired bootstrap, {by}s"
    return _percentile(a - b, draws, level, method, len(clusters.sizes))


def resampled_rows(
    predictions: Predictions,
    n_boot: int = 2000,
    seed: int = 0,
    by: str = "patient",
    stratified: bool = True,
) -> Iterator[np.ndarray]:
    """The resamples of `bootstrap` one by one: (N,) how often each row was drawn, a weight."""
    clusters = _clusters(predictions, by, stratified)
    for weights in _resamples(clusters, n_boot, seed):
        yield from weights[:, clusters.unit]


class _Clusters(NamedTuple):
    unit: np.ndarray  # (N,) which unit (patient or image) each row belongs to
    sizes: np.ndarray  # (U,) rows of each unit
    strata: list[np.ndarray]  # units that are drawn from among each other


def _clusters(predictions: Predictions, by: str, stratified: bool) -> _Clusters:
    n = len(predictions)
    if by == "image":
        unit = np.arange(n)
    elif by == "patient":
        unit = _patients(predictions)
    else:
        raise ValueError(f'by={by!r} is not known; choose "patient" or "image"')
    sizes = np.bincount(unit)
    if not stratified:
        return _Clusters(unit, sizes, [np.arange(len(sizes))])
    n_classes = len(predictions.classes)
    labels = np.bincount(
        unit * n_classes + predictions.truth, minlength=len(sizes) * n_classes
    ).reshape(len(sizes), n_classes)
    stratum = labels.argmax(1)
    strata = [np.flatnonzero(stratum == c) for c in range(n_classes)]
    return _Clusters(unit, sizes, [s for s in strata if len(s)])


def _patients(predictions: Predictions) -> np.ndarray:
    """(N,) int: the patient of each row, 0 … P − 1; a row of unknown patient is one of its own."""
    if "patient_id" not in predictions.frame:
        raise ValueError(
            "the predictions' frame has no patient_id column; add one, or pass by='image', which "
            "takes every image for another patient"
        )
    ids = predictions.frame["patient_id"]
    codes, known = pd.factorize(ids.where(ids != ""))
    unknown = codes < 0
    codes[unknown] = len(known) + np.arange(unknown.sum())
    return codes


def _resamples(clusters: _Clusters, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (B, U) of how often each unit was drawn in each of `n_boot` resamples."""
    if n_boot < 1:
        raise ValueError(f"n_boot={n_boot}; at least one resample is needed")
    rng = np.random.default_rng(seed)
    n_units = len(clusters.sizes)
    block = _block(clusters)
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        weights = np.zeros((size, n_units))
        offset = np.arange(size)[:, None] * n_units
        for members in clusters.strata:
            drawn = members[rng.integers(len(members), size=(size, len(members)))]
            counts = np.bincount((drawn + offset).ravel(), minlength=weights.size)
            weights += counts.reshape(weights.shape)
        yield weights


def _block(clusters: _Clusters) -> int:
    return max(1, _BLOCK // max(len(clusters.unit), 1))


def _evaluator(
    predictions: Predictions,
    metrics: Sequence[str],
    clusters: _Clusters,
    threshold: float | None,
    weighted: bool,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Function from (B, U) unit weights to the (B,) values of each metric, all B at once."""
    n_units = len(clusters.sizes)
    truth, predicted, n_classes = decisions(predictions, threshold, weighted)
    cell = clusters.unit * n_classes**2 + truth * n_classes + predicted
    cells = np.bincount(cell, minlength=n_units * n_classes**2).reshape(n_units, -1).astype(float)
    ranked = []
    if set(metrics) & set(CURVES):
        for is_class, score in curves(predictions):
            order = np.argsort(score, kind="stable")
            tied = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
            ranked.append((clusters.unit[order], is_class[order], tied))

    def evaluate(weights):
        values = {}
        if set(metrics) - set(CURVES):
            matrix = (weights @ cells).reshape(-1, n_classes, n_classes)
            if predictions.positive is None:
                values = from_confusion(matrix, weighted)
            else:
                (tn, fp), (fn, tp) = np.moveaxis(matrix, 0, -1)
                values = from_counts(tp, fp, fn, tn)
        if ranked:
            roc, pr, support = (
                np.stack(v, -1)
                for v in zip(*(_areas(weights[:, u], c, t) for u, c, t in ranked), strict=True)
            )
            values["roc_auc"] = average(roc, support, weighted)
            values["pr_auc"] = average(pr, support, weighted)
        return {name: values[name] for name in metrics}

    return evaluate


def _areas(weights, is_class, tied) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ROC-AUC, average precision and weight of the class, for (B, N) weights of rows by score.

    `tied` holds the first row of each run of equal scores.
    """
    pos = np.add.reduceat(weights * is_class, tied, axis=1)
    neg = np.add.reduceat(weights * ~is_class, tied, axis=1)
    n_pos, n_neg = pos.sum(1), neg.sum(1)
    below = np.cumsum(neg, axis=1)
    wins = (pos * (below - neg / 2)).sum(1)
    tp = n_pos[:, None] - np.cumsum(pos, axis=1) + pos
    called = tp + n_neg[:, None] - below + neg
    gained = (pos * np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)).sum(1)
    defined = (n_pos > 0) & (n_neg > 0)
    nan = np.full(len(weights), np.nan)
    roc = np.divide(wins, n_pos * n_neg, out=nan.copy(), where=defined)
    return roc, np.divide(gained, n_pos, out=nan, where=defined), n_pos


def _bootstraps(
    predictions, metrics, n_boot, level, seed, by, stratified, kind, threshold, weighted
) -> dict[str, Interval]:
    """Intervals of several metrics from one set of resamples."""
    _check_level(level)
    if kind not in ("percentile", "bca"):
        raise ValueError(f'kind={kind!r} is not known; choose "percentile" or "bca"')
    clusters = _clusters(predictions, by, stratified)
    n_units = len(clusters.sizes)
    method = f"{'BCa ' if kind == 'bca' else ''}bootstrap, {by}s"
    values = classification_metrics(predictions, threshold, weighted)
    if n_units == 0:
        return {m: Interval(np.nan, np.nan, np.nan, method, level, 0) for m in metrics}
    evaluate = _evaluator(predictions, metrics, clusters, threshold, weighted)
    blocks = [evaluate(weights) for weights in _resamples(clusters, n_boot, seed)]
    draws = {m: np.concatenate([block[m] for block in blocks]) for m in metrics}
    if kind == "percentile":
        return {m: _percentile(values[m], draws[m], level, method, n_units) for m in metrics}
    block = _block(clusters)
    left_out = [
        evaluate(1.0 - np.eye(min(block, n_units - start), n_units, k=start))
        for start in range(0, n_units, block)
    ]
    intervals = {}
    for m in metrics:
        skewness = _acceleration(np.concatenate([v[m] for v in left_out]), clusters.strata)
        intervals[m] = _percentile(values[m], draws[m], level, method, n_units, skewness)
    return intervals


def _percentile(value, draws, level, method, n_units, acceleration=None) -> Interval:
    """Percentiles of the resamples, moved as BCa prescribes when an acceleration is given."""
    defined = draws[~np.isnan(draws)]
    n_undefined = len(draws) - len(defined)
    low = high = np.nan
    if np.isfinite(value) and len(defined) and np.ptp(defined) > 1e-12:
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        if acceleration is not None:
            tails = _bca_tails(tails, value, defined, acceleration)
        low, high = np.quantile(defined, tails)
    return Interval(float(value), float(low), float(high), method, level, n_units, n_undefined)


def _bca_tails(tails, value, draws, acceleration) -> np.ndarray:
    """Where BCa reads the percentiles (Efron and Tibshirani 1993, chapter 14)."""
    from scipy.stats import norm

    # A resample that equals the value differs from it by rounding, and counts half.
    below = ((draws < value - 1e-12).mean() + (draws <= value + 1e-12).mean()) / 2
    # All resamples on one side would put the bias at infinity; keep it within what they can show.
    bias = norm.ppf(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws)))
    shifted = bias + norm.ppf(tails)
    return norm.cdf(bias + shifted / (1 - acceleration * shifted))


def _acceleration(left_out: np.ndarray, strata: list[np.ndarray]) -> float:
    """Skewness of the metric as units are left out one by one, each within its stratum."""
    cubes = squares = 0.0
    for members in strata:
        values = left_out[members]
        values = values[~np.isnan(values)]
        if len(values) > 1:
            influence = (len(values) - 1) * (values.mean() - values)
            cubes += (influence**3).sum() / len(values) ** 3
            squares += (influence**2).sum() / len(values) ** 2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


# --- tables --------------------------------------------------------------------------------------


def interval(
    predictions: Predictions,
    metric: str,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
    threshold: float | None = None,
    weighted: bool = False,
) -> Interval:
    """The interval that `report` gives for one metric; `method` says how it was made."""
    metric = metric_name(metric)
    return _choose(predictions, [metric], level, by, n_boot, seed, threshold, weighted)[metric][0]


def report(
    predictions: Predictions,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
    threshold: float | None = None,
    weighted: bool = False,
) -> pd.DataFrame:
    """Every metric with the interval that fits it.

    Returns
    -------
    One row per metric; columns value, low, high, method, n (images the metric is taken over:
    positive ones for recall, those called positive for precision) and patients (among those n;
    missing where no patient is known).

    Notes
    -----
    Where every patient has one image, proportions are Wilson's and the ROC-AUC DeLong's (on the
    logit scale). Otherwise, and for F-score, MCC, PR-AUC and averages over classes, stratified
    bootstrap of patients. Where that leaves a proportion without interval (all right, or all
    wrong), it is Wilson's with each patient as one trial, the most cautious reading; for a
    ROC-AUC, Wilson's with the patients of the smaller class, since no AUC A has a variance above
    A(1 − A)/min(n_pos, n_neg) (Birnbaum and Klose 1957). Metrics that are no proportion then stay
    without.
    """
    chosen = _choose(predictions, METRICS, level, by, n_boot, seed, threshold, weighted)
    rows = {
        m: (i.value, i.low, i.high, i.method, n, patients) for m, (i, n, patients) in chosen.items()
    }
    columns = ["value", "low", "high", "method", "n", "patients"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")
    return table.astype({"n": "Int64", "patients": "Int64"})


def compare(
    predictions: Predictions | Iterable[Predictions],
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
    by: str = "patient",
    n_boot: int = 2000,
    seed: int = 0,
    weighted: bool = False,
) -> pd.DataFrame:
    """Models side by side: one row per `Predictions.name`, columns `m`, `m low`, `m high` for each.

    `.reset_index()` makes the name a column, as `published` wants it of ours. The intervals are
    `report`'s and speak of one model each; for two models on the same images ask `difference` or
    `delong_test`. Raises ValueError for names that are empty or used twice.
    """
    models = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    names = [p.name for p in models]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"names {names}: every Predictions needs a name of its own, its row label")
    wanted = {m: metric_name(m) for m in metrics}
    rows = {}
    for p in models:
        found = _choose(p, list(wanted.values()), level, by, n_boot, seed, None, weighted)
        rows[p.name] = {
            f"{shown}{suffix}": getattr(found[name][0], part)
            for shown, name in wanted.items()
            for suffix, part in (("", "value"), (" low", "low"), (" high", "high"))
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _choose(
    predictions, metrics, level, by, n_boot, seed, threshold, weighted
) -> dict[str, tuple[Interval, int, int | None]]:
    """For each metric its interval, the images it is taken over, and the patients among them."""
    _check_level(level)
    unit = _clusters(predictions, by, stratified=False).unit
    patients = _known_patients(predictions)
    by = "image" if patients is None else by
    independent = len(np.unique(unit)) == len(unit)
    truth, predicted, _ = decisions(predictions, threshold, weighted)
    everyone, right = np.ones(len(truth), bool), truth == predicted
    over = dict.fromkeys(metrics, everyone)
    proportions = {"accuracy"}
    if predictions.positive is not None:
        proportions |= {"precision", "recall", "specificity"}
        over |= {"precision": predicted == 1, "recall": truth == 1, "specificity": truth == 0}

    intervals = {}
    if independent:
        for m in proportions & set(metrics):
            intervals[m] = wilson(right[over[m]].sum(), over[m].sum(), level)
        if "roc_auc" in metrics and predictions.positive is not None:
            intervals["roc_auc"] = delong(truth == 1, predictions.score, level)
    rest = [m for m in metrics if m not in intervals]
    if rest:
        drawn = _bootstraps(
            predictions, rest, n_boot, level, seed, by, True, "percentile", threshold, weighted
        )
        for m, i in drawn.items():
            method = i.method
            if i.n_undefined:
                method += f" ({i.n_undefined} of {n_boot} undefined)"
            elif np.isfinite(i.value) and np.isnan(i.low):
                method += " (all alike)"
            intervals[m] = i._replace(method=method)

    for m in metrics:
        i = intervals[m]
        if np.isnan(i.value) or np.isfinite(i.low):
            continue
        if m in proportions:
            n, how = len(np.unique(unit[over[m]])), f"Wilson, {by}s as n"
        elif m == "roc_auc" and predictions.positive is not None:
            n = min(len(np.unique(unit[truth == c])) for c in (0, 1))
            how = f"Wilson, {by}s of the smaller class as n"
        else:
            continue
        intervals[m] = wilson(i.value * n, n, level)._replace(method=how)

    return {
        m: (
            intervals[m],
            int(over[m].sum()),
            None if patients is None else len(np.unique(patients[over[m]])),
        )
        for m in metrics
    }


def _known_patients(predictions: Predictions) -> np.ndarray | None:
    """The patient of each row, or None when the frame knows no patient at all."""
    ids = predictions.frame.get("patient_id")
    if ids is None or ids.where(ids != "").isna().all():
        return None
    return _patients(predictions)


# --- checks --------------------------------------------------------------------------------------


def _z(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + level) / 2))


def _check_level(level):
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not a confidence level; pass e.g. 0.95")


def _check_auc(auc, n_pos, n_neg, level):
    _check_level(level)
    if not 0 <= auc <= 1 or n_pos < 0 or n_neg < 0:
        raise ValueError(
            f"auc={auc}, n_pos={n_pos}, n_neg={n_neg}: an AUC is in [0, 1] and counts are ≥ 0"
        )


def _check_scores(truth, score) -> tuple[np.ndarray, np.ndarray]:
    truth, score = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape:
        raise ValueError(f"truth {truth.shape} and score {score.shape} must both be (N,)")
    if not np.isfinite(score).all():
        raise ValueError("score holds NaN or infinity; drop those rows from truth and score")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("truth must be bool, or 0 and 1, with 1 for positive")
    return truth.astype(bool), score


def _check_paired(a: Predictions, b: Predictions):
    if (a.classes, a.positive) != (b.classes, b.positive):
        raise ValueError(
            f"the classes differ: {a.classes} with positive={a.positive!r} against {b.classes} "
            f"with positive={b.positive!r}"
        )
    if len(a) == 0:
        raise ValueError("predictions_a has no rows; there is nothing to compare")
    if len(a) != len(b):
        raise ValueError(f"{len(a)} rows against {len(b)}: both models must see the same images")
    for column in ("image", "label", "patient_id"):
        if column not in a.frame or column not in b.frame:
            continue
        # As text, so that a missing id equals a missing id.
        left, right = (p.frame[column].astype(str).to_numpy(object) for p in (a, b))
        unlike = np.flatnonzero(left != right)
        if len(unlike):
            i = unlike[0]
            raise ValueError(
                f"column {column!r} differs in {len(unlike)} rows, first in row {i}: {left[i]!r} "
                f"against {right[i]!r}; bring both to the same images in the same order"
            )
