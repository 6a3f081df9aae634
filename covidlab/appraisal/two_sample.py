"""Do two sets of features lie apart? Two-sample tests by patient, where a picture only suggests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TwoSample(NamedTuple):
    """How far two samples lie apart, and how often chance alone would part them as far.

    `value` of the statistic, its interval from `low` to `high` where it has one (else NaN), `p` of
    the permutation test, `n` rows and `patients` of each sample. `scores` (N,) float64: of each
    row, the first sample's first, how much it looks like the second sample; None where there are none.
    """

    value: float
    low: float
    high: float
    p: float
    n: tuple[int, int]
    patients: tuple[int, int]
    statistic: str
    scores: np.ndarray | None = None

    def __str__(self):
        about = "" if np.isnan(self.low) else f" ({self.low:.3f} to {self.high:.3f})"
        counts = f"{self.patients[0]} and {self.patients[1]} patients"
        return f"{self.statistic} {self.value:.3f}{about}, p = {self.p:.3f}, {counts}"


def classifier_two_sample(
    first: np.ndarray,
    second: np.ndarray,
    patients: tuple | None = None,
    strata: tuple | None = None,
    *,
    folds: int = 5,
    repeats: int = 5,
    n_permutations: int = 999,
    n_boot: int = 999,
    level: float = 0.95,
    seed: int = 0,
) -> TwoSample:
    """Can a classifier tell the two samples apart? Cross-validated AUC, 0.5 where it cannot.

    The classifier two-sample test of Lopez-Paz and Oquab (ICLR 2017), with these choices of ours: a
    linear classifier (scikit-learn's Ridge on standardised features, penalty as large as their
    number), folds by patient, `repeats` times anew, and the AUC instead of the accuracy, over pairs
    judged by one classifier. The p-value is the share of relabellings of whole patients that part
    the samples as well, `value` included, so the least is 1 / (n_permutations + 1). The interval
    resamples patients within their sample with the classifiers as they are (percentile bootstrap);
    it does not hold the luck of their training and is too narrow for a few patients: the p-value
    decides, not whether 0.5 lies within.

    A linear classifier sees shifts of the features' means, not every difference; a p-value that is
    not small says that this test, with so many patients, found none. Well below 0.5 is chance too.

    Parameters
    ----------
    first, second : (N, D) and (M, D) features, one row per patient or per slice.
    patients : two sequences with the patient of each row; None takes each row as a patient.
    strata : two sequences with a class of each row, the same for all rows of a patient. Pairs are
        compared and patients relabelled within classes only, so that a different mix of classes
        does not count as a shift.
    folds, repeats : of the cross-validation, 2 or more, and how often it is done.
    n_permutations, n_boot : relabellings and resamples.

    Raises ValueError for features that are not finite or of different length, a patient in both
    samples or in two strata, too few patients, and strata without a patient of each sample.
    """
    data = _pooled(first, second, patients, strata)
    n_units = len(data.unit_second)
    if not 2 <= folds <= n_units:
        raise ValueError(f"folds={folds} must lie in 2..{n_units}, the number of patients")
    if repeats < 1 or n_boot < 1 or not 0 < level < 1:
        raise ValueError(
            f"repeats={repeats} and n_boot={n_boot} must be 1 or more, level={level} between 0 and 1"
        )
    rng = np.random.default_rng(seed)
    labels = _relabelled(data, n_permutations, rng)[data.unit]
    weights = _resampled(data, n_boot, rng)
    total, won, drawn = 0.0, np.zeros((2, labels.shape[1])), np.zeros((2, n_boot))
    for _ in range(repeats):
        fold = rng.permutation(np.arange(n_units) % folds)[data.unit]
        scores = _cross_validated(data.x, labels, fold)
        cells = np.unique(np.c_[fold, data.stratum], axis=0, return_inverse=True)[1].ravel()
        total = total + scores[:, 0] / repeats
        won += _pairs_won(scores, labels, cells)
        drawn += _resampled_pairs_won(scores[:, 0], labels[:, 0], cells, weights)
    if not won[1, 0]:
        raise ValueError(
            "no fold holds patients of both samples: add patients, or take fewer folds or strata"
        )
    with np.errstate(invalid="ignore"):  # resamples and relabellings without a pair
        aucs, draws = won[0] / won[1], drawn[0] / drawn[1]
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return TwoSample(
        *(float(aucs[0]), float(low), float(high), _p_value(aucs), data.n, data.patients),
        statistic="AUC",
        scores=total,
    )


def mmd(
    first: np.ndarray,
    second: np.ndarray,
    patients: tuple | None = None,
    strata: tuple | None = None,
    *,
    n_permutations: int = 999,
    seed: int = 0,
) -> TwoSample:
    """Squared maximum mean discrepancy of two samples, about 0 where they are drawn alike.

    The unbiased estimate of Gretton et al. (JMLR 2012, Lemma 6) with a Gaussian kernel as wide as
    the median distance between rows, on features standardised over both samples; sensitive to any
    difference, less so to a shift along one direction. The p-value is as in `classifier_two_sample`,
    relabelling whole patients, within `strata` where given; the value itself is over all rows. It
    has no unit and no interval: for how far apart, see the AUC.

    Parameters and errors as in `classifier_two_sample`.
    """
    from scipy.spatial.distance import pdist, squareform

    data = _pooled(first, second, patients, strata)
    spread = data.x.std(0)
    distances = pdist(
        (data.x / np.where(spread > 0, spread, 1.0)).astype(np.float64), "sqeuclidean"
    )
    width = np.median(distances)
    kernel = np.exp(-squareform(distances) / (width if width > 0 else 1.0))
    np.fill_diagonal(kernel, 0.0)
    rng = np.random.default_rng(seed)
    values = _mmd(kernel, _relabelled(data, n_permutations, rng)[data.unit].astype(float))
    return TwoSample(
        *(float(values[0]), np.nan, np.nan, _p_value(values), data.n, data.patients),
        statistic="MMD²",
    )


class _Pooled(NamedTuple):
    """Both samples: rows, the unit (patient) of each, and of units whether they are of the second."""

    x: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray
    unit_second: np.ndarray
    unit_stratum: np.ndarray
    n: tuple[int, int]
    patients: tuple[int, int]


def _pooled(first, second, patients, strata) -> _Pooled:
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"features have shapes {first.shape} and {second.shape}: (N, D) and (M, D) are needed"
        )
    n = (len(first), len(second))
    if min(n) < 2:
        raise ValueError(f"samples of {n[0]} and {n[1]} rows: at least 2 each are needed")
    x = np.concatenate([first, second])
    if not np.isfinite(x).all():
        raise ValueError("features hold NaN or infinity: did the training diverge?")
    second_row = np.arange(len(x)) >= n[0]
    if patients is None:
        names = np.arange(len(x))
    else:
        names = _column("patients", patients, n)
        shared = set(names[~second_row]) & set(names[second_row])
        if shared:
            raise ValueError(
                f"{len(shared)} patients are in both samples ({sorted(shared)[0]}, …): leave "
                "them out of one"
            )
    stratum = np.zeros(len(x), int)
    if strata is not None:
        stratum = np.unique(_column("strata", strata, n), return_inverse=True)[1]
    _, at, unit = np.unique(names, return_index=True, return_inverse=True)
    if (stratum[at][unit] != stratum).any():
        raise ValueError("a patient is in two strata: give every row its patient's class")
    of_second = second_row[at]
    counts = (int((~of_second).sum()), int(of_second.sum()))
    if min(counts) < 2:
        raise ValueError(f"samples of {counts[0]} and {counts[1]} patients: 2 each are needed")
    return _Pooled(x, unit, stratum, of_second, stratum[at], n, counts)


def _column(name, pair, n) -> np.ndarray:
    columns = [np.asarray(column).astype(str) for column in pair]
    if [c.shape for c in columns] != [(n[0],), (n[1],)]:
        raise ValueError(
            f"{name} must be two sequences of {n[0]} and {n[1]} entries, one for each row, got "
            f"{[c.shape for c in columns]}"
        )
    return np.concatenate(columns)


def _relabelled(data: _Pooled, n: int, rng) -> np.ndarray:
    """(units, 1 + n) bool: of the second sample, as it is and after shuffling within strata."""
    if n < 1:
        raise ValueError(f"n_permutations={n} must be 1 or more")
    labels = np.repeat(data.unit_second[:, None], 1 + n, 1)
    for stratum in np.unique(data.unit_stratum):
        at = np.flatnonzero(data.unit_stratum == stratum)
        labels[at, 1:] = rng.permuted(labels[at, 1:], axis=0)
    return labels


def _cross_validated(x, labels, fold) -> np.ndarray:
    """(N, P) scores of each row by a classifier of the other folds, for each column of labels."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(labels.shape)
    for k in np.unique(fold):
        model = make_pipeline(StandardScaler(), Ridge(alpha=x.shape[1]))
        model.fit(x[fold != k], labels[fold != k].astype(float))
        scores[fold == k] = model.predict(x[fold == k])
    return scores


def _pairs_won(scores, labels, cells) -> np.ndarray:
    """(2, P): pairs of a cell, one row of each sample, that score higher in the second; and all pairs.

    `scores` and `labels` are (N, P); equal scores count half. By rank sums (Mann and Whitney).
    """
    from scipy.stats import rankdata

    won = np.zeros((2, scores.shape[1]))
    for cell in np.unique(cells):
        here = cells == cell
        seconds = labels[here].sum(0)
        ranks = (rankdata(scores[here], axis=0) * labels[here]).sum(0)
        won += ranks - seconds * (seconds + 1) / 2, seconds * (here.sum() - seconds)
    return won


def _resampled_pairs_won(scores, labels, cells, weights) -> np.ndarray:
    """(2, B): as `_pairs_won` for one column, each row counted as often as `weights` (B, N) says."""
    won = np.zeros((2, len(weights)))
    for cell in np.unique(cells):
        firsts, seconds = (np.flatnonzero((cells == cell) & (labels == y)) for y in (False, True))
        ahead = scores[seconds][:, None] - scores[firsts]
        a, b = weights[:, seconds], weights[:, firsts]
        won += ((a @ ((np.sign(ahead) + 1) / 2)) * b).sum(1), a.sum(1) * b.sum(1)
    return won


def _resampled(data: _Pooled, n: int, rng) -> np.ndarray:
    """(n, N) how often each row counts when patients are drawn anew within their sample."""
    times = np.zeros((n, len(data.unit_second)))
    for sample in (False, True):
        at = np.flatnonzero(data.unit_second == sample)
        times[:, at] = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=n)
    return times[:, data.unit]


def _mmd(kernel, second) -> np.ndarray:
    """Unbiased MMD² for each column of memberships (N, P); the kernel's diagonal is 0."""
    first = 1.0 - second
    m, n = first.sum(0), second.sum(0)
    to_second = kernel @ second
    among_second = (second * to_second).sum(0)
    between = (first * to_second).sum(0)
    among_first = kernel.sum() - among_second - 2 * between
    return among_first / (m * (m - 1)) + among_second / (n * (n - 1)) - 2 * between / (m * n)


def _p_value(values) -> float:
    """Share of relabellings that come out as far as the first value or further, itself included."""
    others = values[1:][~np.isnan(values[1:])]
    return float((1 + (others >= values[0] - 1e-12).sum()) / (1 + len(others)))
