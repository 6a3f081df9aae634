"""What a printed percentage, or a row of them, can have been: arithmetic on published numbers.

A printed number stands for a range. "97.97" was 97.965 to 97.975 if it was rounded and 97.97 to
97.98 if it was cut; without knowing which, everything here allows both, for each number by itself.
`tables` puts these to a whole table, `papers` to those of the five papers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from covidlab._figures import subplots
from covidlab.evaluation.metrics import from_counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TINY = 1e-9  # below any last place that is printed, above the error of a float
_MOST = 5_000_000  # steps after which a search gives up and says so


class TooMany(ValueError):
    """More would have to be tried than is reasonable; nothing was searched."""


# --- a printed number ----------------------------------------------------------------------------


class Range(NamedTuple):
    """From low to high, as fractions."""

    low: float
    high: float

    def meets(self, other) -> bool:
        """Whether this and another range (or `Printed`) have a number in common."""
        return self.low <= other.high + _TINY and other.low <= self.high + _TINY


class Printed(NamedTuple):
    """A number as it is printed. `value` and `unit` (one in its last place) are fractions.

    `low` and `high` bound what it may have been before it was rounded or cut.
    """

    text: str
    value: float
    unit: float
    percent: bool = False

    @property
    def low(self) -> float:
        return self.value - (self.unit if self.value <= 0 else self.unit / 2)

    @property
    def high(self) -> float:
        return self.value + (self.unit if self.value >= 0 else self.unit / 2) - 2 * _TINY

    @property
    def decimals(self) -> int:
        return round(-math.log10(self.unit)) - 2 * self.percent

    def holds(self, x, how: str = "either"):
        """Whether x (a fraction, or an array of them) is printed so when "rounded", "cut" or either.

        Cutting drops digits, towards zero. A tie may be rounded up or down.
        """
        if how not in ("either", "rounded", "cut"):
            raise ValueError(f'how={how!r} is not known; choose "either", "rounded" or "cut"')
        x = np.asarray(x, dtype=np.float64)
        rounded = np.abs(x - self.value) <= self.unit / 2 + _TINY
        far = x - self.value if self.value > 0 else self.value - x
        cut = (far > -_TINY) & (far < self.unit - _TINY)
        if self.value == 0:
            cut = np.abs(x) < self.unit - _TINY
        found = {"rounded": rounded, "cut": cut, "either": rounded | cut}[how]
        return bool(found) if found.ndim == 0 else found

    def show(self, x: float, more: int = 0) -> str:
        """A fraction in this number's unit, with as many decimals and `more`."""
        return f"{x * (100 if self.percent else 1):.{max(self.decimals + more, 0)}f}"


def printed(number, decimals: int | None = None, percent: bool | None = None) -> Printed:
    """What a printed number may stand for.

    Parameters
    ----------
    number : as text, so that "98.80" keeps its zero; a float loses it and is read as "98.8".
    decimals : how many are printed, where the text does not show it (zeros dropped).
    percent : True for percent, False for a fraction; None takes a % sign or a magnitude above 1
        for percent, so 1 is the fraction.

    Raises ValueError for what is no number.
    """
    if isinstance(number, Printed):
        return number
    text = str(number).strip()
    if isinstance(number, (float, np.floating)):
        text = f"{float(number):.10f}".rstrip("0").rstrip(".")
    bare = text.rstrip("%").strip().replace(",", "").replace("−", "-")
    try:
        value = float(bare)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{number!r} is no number; write it as it is printed, e.g. '97.97'")
    if decimals is None:
        decimals = len(bare.partition(".")[2])
    if percent is None:
        percent = "%" in text or abs(value) > 1
    scale = 100 if percent else 1
    return Printed(text, value / scale, 10.0**-decimals / scale, percent)


# --- granularity ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attainable:
    """Which counts k of n are printed as this number; true if there are any.

    `rounded` and `cut` are the k that give it in that way, over `runs` runs or all folds together.
    `near` are the two neighbours in words.
    """

    printed: Printed
    n: int | tuple[int, ...]
    runs: int
    rounded: tuple[int, ...]
    cut: tuple[int, ...]
    near: str

    @property
    def chance(self) -> float:
        """The share of all numbers from 0 to 1 with so many decimals that pass.

        A test that nearly everything passes says little.
        """
        places = round(1 / self.printed.unit)
        _, means = _means((self.n,) if isinstance(self.n, int) else self.n, self.runs)
        seen = np.zeros(places + 2, bool)
        for shift in (0, self.printed.unit / 2):
            seen[np.floor((means + shift) * places + 1e-6).astype(np.int64)] = True
        return float(seen[:-1].sum() / (places + 1))

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(sorted({*self.rounded, *self.cut}))

    def __bool__(self):
        return bool(self.rounded or self.cut)

    def __str__(self):
        of = f"{self.n}" if isinstance(self.n, int) else f"{' + '.join(map(str, self.n))}"
        of += f", mean of {self.runs} runs" if self.runs > 1 else ""
        if not self:
            return f"{self.printed.text}: no count of {of} ({self.near})"
        ways = {**dict.fromkeys(self.cut, "cut"), **dict.fromkeys(self.rounded, "rounded")}
        found = ", ".join(f"{k} ({ways[k]})" for k in self.counts[:4])
        return f"{self.printed.text}: {found}{' …' if len(self.counts) > 4 else ''} of {of}"


def attainable(
    value,
    n: int | Sequence[int],
    decimals: int | None = None,
    percent: bool | None = None,
    runs: int = 1,
) -> Attainable:
    """Can this be k of n? Every k that is printed so, rounded or cut.

    Parameters
    ----------
    value, decimals, percent : the printed number, as in `printed`; best as text.
    n : images (or patients) it is a share of; or the sizes of the folds over which it is a mean
        (`fold_sizes`), each fold counting alike.
    runs : it is the mean over so many runs on the same n.

    For folds, `counts` are hits over all folds together: with folds of unlike size, each count can
    be spread in several ways, and one that fits is enough.

    Raises ValueError for an n or runs below 1, or folds of more sizes than can be searched.

    Notes
    -----
    For means this is the GRIM test (Brown and Heathers, Social Psychological and Personality
    Science 2017), here for proportions.

    >>> print(attainable("97.97", 166))
    97.97: no count of 166 (162/166 = 97.59, 163/166 = 98.19)
    """
    cell = printed(value, decimals, percent)
    sizes = (n,) if isinstance(n, (int, np.integer)) else tuple(n)
    if not sizes or min(sizes) < 1 or runs < 1:
        raise ValueError(f"n={n}, runs={runs}: at least one image and one run are needed")
    counts, means = _means(sizes, runs)
    rounded = np.unique(counts[cell.holds(means, "rounded")])
    cut = np.unique(counts[cell.holds(means, "cut")])
    near = ""
    if len(set(sizes)) == 1:
        whole = sizes[0] * len(sizes) * runs
        below = min(max(math.floor(cell.value * whole + _TINY), 0), whole)
        shown = dict.fromkeys((below, min(below + 1, whole)))
        near = ", ".join(f"{k}/{whole} = {cell.show(k / whole)}" for k in shown)
    return Attainable(
        cell,
        int(sizes[0]) if len(sizes) == 1 else sizes,
        runs,
        tuple(rounded.tolist()),
        tuple(cut.tolist()),
        near,
    )


def fold_sizes(n: int, folds: int) -> tuple[int, ...]:
    """n images dealt as evenly as can be: (166, 166, 166, 166, 165) of 829 into 5."""
    if not 1 <= folds <= n:
        raise ValueError(f"{n} images cannot be dealt into {folds} folds")
    return tuple(n // folds + (i < n % folds) for i in range(folds))


def _means(sizes: Sequence[int], runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Every (hits in all, mean of the folds' shares); folds of one size are pooled."""
    counts, means = np.zeros(1, np.int64), np.zeros(1)
    for size in sorted(set(sizes)):
        times = list(sizes).count(size) * runs
        hits = np.arange(size * times + 1)
        if len(counts) * len(hits) > _MOST:
            raise TooMany(
                f"folds of {len(set(sizes))} sizes, {sum(sizes)} images: too many sums to try; "
                "pass folds of one or two sizes"
            )
        counts = (counts[:, None] + hits).ravel()
        means = (means[:, None] + hits / size / (len(sizes) * runs)).ravel()
    return counts, means


def class_sizes(n: int, shares: Mapping[str, object], accuracy=None) -> pd.DataFrame:
    """Which class sizes, adding up to n, give these per-class shares (sensitivities) and accuracy.

    `shares` maps a class to its printed sensitivity; `accuracy` is the share of all n found.
    Returns one row per solution, columns (class, "n") and (class, "right"); no row if none fits.
    Raises TooMany, a ValueError, where more could fit than can be tried.
    """
    cells = {c: printed(v) for c, v in shares.items()}
    total = None if accuracy is None else printed(accuracy)
    options = []
    for cell in cells.values():
        size, hit = np.meshgrid(np.arange(1, n + 1), np.arange(n + 1), indexing="ij")
        fits = (hit <= size) & cell.holds(hit / size)
        options.append(list(zip(size[fits].tolist(), hit[fits].tolist(), strict=True)))
    if math.prod(map(len, options[:-1])) > _MOST:
        raise TooMany(f"n={n} with {len(cells)} classes leaves too much to try")
    last = {}
    for size, hit in options[-1]:
        last.setdefault(size, []).append(hit)
    rows = []
    for chosen in itertools.product(*options[:-1]):
        size = n - sum(s for s, _ in chosen)
        for hit in last.get(size, ()):
            if total is None or total.holds((sum(k for _, k in chosen) + hit) / n):
                rows.append([v for pair in (*chosen, (size, hit)) for v in pair])
    columns = pd.MultiIndex.from_product([cells, ["n", "right"]])
    return pd.DataFrame(rows, columns=columns, dtype=np.int64)


# --- confusion matrices --------------------------------------------------------------------------

MEASURES = (
    "accuracy",
    "recall",
    "specificity",
    "precision",
    "f_score",
    "mcc",
    "npv",
    "balanced_accuracy",
)
ALIASES = {
    "sensitivity": "recall",
    "tpr": "recall",
    "tnr": "specificity",
    "ppv": "precision",
    "f1": "f_score",
    "f1_score": "f_score",
    "negative_predictive_value": "npv",
}
# What a heading is sometimes found to mean instead.
_OTHERWISE = {
    "accuracy": ("balanced_accuracy",),
    "specificity": ("npv",),
    "recall": ("precision",),
    "precision": ("recall",),
}
_CALLED = {"balanced_accuracy": "balanced accuracy", "npv": "negative predictive value"}


def _measure(name: str) -> str:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in MEASURES:
        raise ValueError(f"{name!r} is not known; choose of: {', '.join((*MEASURES, *ALIASES))}")
    return plain


def _measures(tp, fp, fn, tn) -> dict[str, np.ndarray]:
    values = from_counts(tp, fp, fn, tn)
    values["npv"] = from_counts(tn, fn, fp, tp)["precision"]
    values["balanced_accuracy"] = (values["recall"] + values["specificity"]) / 2
    # Where a value would be 0/0, programs print 0 if they print a number at all.
    return {name: np.nan_to_num(v, nan=0.0) for name, v in values.items()}


def confusions(n_pos: int, n_neg: int, how: str = "either", **metrics) -> pd.DataFrame:
    """All confusion matrices of n_pos positives and n_neg negatives that are printed like this.

    Parameters
    ----------
    n_pos, n_neg : images of each class, ≥ 0 and not both 0.
    how : "rounded", "cut", or "either" for each number by itself.
    metrics : the printed numbers, best as text (`printed`): accuracy, recall (or sensitivity),
        specificity, precision, f_score, mcc, npv, balanced_accuracy. 0/0 counts as 0.

    Returns
    -------
    One row per matrix: tp, fn, fp, tn, the value of each metric given, and `printed`: "rounded" or
    "cut" where that explains every number, else "mixed". No row: there is none. Every matrix is
    tried that recall and specificity allow, so the answer is exact.

    >>> confusions(74, 92, accuracy="98.80", sensitivity="0.99")[["tp", "fn", "fp", "tn"]].values
    array([[73,  1,  1, 91]])
    """
    if n_pos < 0 or n_neg < 0 or n_pos + n_neg == 0:
        raise ValueError(f"n_pos={n_pos}, n_neg={n_neg}: counts are ≥ 0, and one of them above 0")
    if not metrics:
        raise ValueError("give at least one printed metric, e.g. accuracy='97.97'")
    cells = {name: printed(v) for name, v in metrics.items()}
    known = {name: _measure(name) for name in cells}

    def candidates(size, measure):
        hits = np.arange(size + 1)
        for name, cell in cells.items():
            if known[name] == measure:
                hits = hits[cell.holds(hits / max(size, 1), how)]
        return hits

    tps, tns = candidates(n_pos, "recall"), candidates(n_neg, "specificity")
    if len(tps) * len(tns) > 4 * _MOST:
        raise TooMany(
            f"{len(tps)} × {len(tns)} counts are too many to try; give recall and specificity, with "
            "more decimals if you can"
        )
    found = []
    block = max(1, 1_000_000 // max(len(tns), 1))
    for start in range(0, len(tps), block):
        tp, tn = (m.ravel() for m in np.meshgrid(tps[start : start + block], tns, indexing="ij"))
        values = _measures(tp, n_neg - tn, n_pos - tp, tn)
        fits = np.all([cell.holds(values[known[m]], how) for m, cell in cells.items()], axis=0)
        own = {m: values[known[m]] for m in cells}
        columns = {"tp": tp, "fn": n_pos - tp, "fp": n_neg - tn, "tn": tn} | own
        found.append(np.stack([v[fits] for v in columns.values()]))
    found = np.concatenate(found, axis=1) if found else np.empty((4 + len(cells), 0))
    names = ["tp", "fn", "fp", "tn", *cells]
    table = pd.DataFrame(dict(zip(names, found, strict=True)))
    table = table.astype(dict.fromkeys(names[:4], np.int64))
    ways = [
        np.all([cell.holds(table[name], way) for name, cell in cells.items()], axis=0)
        for way in ("rounded", "cut")
    ]
    table["printed"] = np.select(ways, ["rounded", "cut"], "mixed")
    return table


def other_readings(n_pos: int, n_neg: int, **metrics) -> pd.DataFrame:
    """Matrices that fit if one or two headings mean something else; `reading` says what.

    The classes may be exchanged (recall is about the n_neg), accuracy may be the balanced accuracy,
    specificity the negative predictive value, recall and precision each other. Columns tp, fn, fp,
    tn, reading, changes; one change first. A fit is a suggestion: the fewer numbers are given, the
    likelier it is chance.
    """
    known = {_measure(name): value for name, value in metrics.items()}
    options = [(m, *_OTHERWISE.get(m, ())) for m in known]
    readings = []
    for swap, chosen in itertools.product((False, True), itertools.product(*options)):
        changed = [(a, b) for a, b in zip(known, chosen, strict=True) if a != b]
        words = ["the classes are exchanged"] * swap
        words += [f"{a} is {_CALLED.get(b, b)}" for a, b in changed]
        if 1 <= len(words) <= 2 and len(set(chosen)) == len(chosen):
            readings.append((len(words), swap, chosen, " and ".join(words)))
    found = []
    for changes, swap, chosen, words in sorted(readings, key=lambda r: r[0]):
        sizes = (n_neg, n_pos) if swap else (n_pos, n_neg)
        fits = confusions(*sizes, **dict(zip(chosen, known.values(), strict=True)))
        found.append(fits[["tp", "fn", "fp", "tn"]].assign(reading=words, changes=changes))
    return pd.concat(found, ignore_index=True)


def class_confusions(
    sizes: Mapping[str, int],
    metrics: Mapping[str, Mapping[str, object]],
    accuracy=None,
    limit: int = 10_000,
) -> pd.DataFrame:
    """What three or more classes' own metrics say of the confusion matrix.

    Metrics of each class against the rest depend on three counts alone: its hits, its misses, and
    the others called so. No such metric sees *which* class a miss went to. So the search is over
    those counts, class by class, and is exact; how many matrices share them is counted apart.

    Parameters
    ----------
    sizes : images of each class.
    metrics : {metric: {class: printed}}, metrics as in `confusions`; accuracy there is that of the
        class against the rest. A class may lack a metric.
    accuracy : the share of all images classified rightly, if printed.
    limit : no more solutions than this are returned; `attrs["complete"]` is False if there are more.

    Returns
    -------
    One row per solution; columns (class, "tp"), (class, "fn"), (class, "fp"). `matrices(sizes, row)`
    writes out the matrices of a row.

    Raises ValueError for a class without size or metrics, and its kind TooMany where so little is
    printed that the candidates are too many to combine.
    """
    sizes = {c: int(n) for c, n in sizes.items()}
    total = sum(sizes.values())
    unknown = {c for given in metrics.values() for c in given} - set(sizes)
    if unknown or len(sizes) < 2:
        raise ValueError(
            f"sizes has {list(sizes)}; two classes at least, and {sorted(unknown)} too"
        )
    options = {}
    for c, n in sizes.items():
        own = {m: given[c] for m, given in metrics.items() if c in given}
        if not own:
            raise ValueError(f"no metric of class {c!r} is given")
        found = confusions(n, total - n, **own)
        options[c] = found[["tp", "fn", "fp"]].to_numpy(np.int64)
    order = sorted(sizes, key=lambda c: len(options[c]))
    if math.prod(len(options[c]) for c in order[:-1]) > _MOST:
        raise TooMany(
            f"{', '.join(f'{c}: {len(o)}' for c, o in options.items())} candidates are too many to "
            "combine: give more metrics of each class, such as precision"
        )
    total_cell = None if accuracy is None else printed(accuracy)
    rows = []
    for chosen in _combined([options[c] for c in order]):
        wrong = sum(fn for _, fn, _ in chosen)
        # A class's own misses cannot be called it: Hall's condition for the matrix to exist.
        if any(fn + fp > wrong for _, fn, fp in chosen):
            continue
        if total_cell is None or total_cell.holds((total - wrong) / total):
            by_class = dict(zip(order, chosen, strict=True))
            rows.append([v for c in sizes for v in by_class[c]])
            if len(rows) > limit:
                break
    columns = pd.MultiIndex.from_product([sizes, ["tp", "fn", "fp"]])
    table = pd.DataFrame(rows[:limit], columns=columns, dtype=np.int64)
    table.attrs["complete"] = len(rows) <= limit
    return table


def _combined(options: list[np.ndarray]) -> Iterator[list[tuple[int, int, int]]]:
    """One candidate of each class, so that over all classes as many are missed as falsely called."""
    if not all(map(len, options)):
        return
    *first, last = options
    by_excess = {}
    for tp, fn, fp in last.tolist():
        by_excess.setdefault(fp - fn, []).append((tp, fn, fp))
    excess = [o[:, 2] - o[:, 1] for o in options]
    least = np.cumsum([e.min() for e in excess][::-1])[::-1]
    most = np.cumsum([e.max() for e in excess][::-1])[::-1]

    def extend(chosen, so_far):
        i = len(chosen)
        if not least[i] <= -so_far <= most[i]:
            return
        if i == len(first):
            for end in by_excess.get(-so_far, ()):
                yield [*chosen, end]
            return
        for one in first[i].tolist():
            yield from extend([*chosen, tuple(one)], so_far + one[2] - one[1])

    yield from extend([], 0)


def matrices(sizes: Mapping[str, int], solution, limit: int = 1000) -> list[np.ndarray]:
    """The (C, C) confusion matrices, true class down, of one row of `class_confusions`.

    At most `limit`; with three classes one number is free, so they differ by shifting errors round
    in a circle.
    """
    names = list(sizes)
    tp, fn, fp = (
        np.array([solution[c, part] for c in names], np.int64) for part in ("tp", "fn", "fp")
    )
    found = []

    def fill(rows, left):
        i = len(rows)
        if len(found) >= limit:
            return
        if i == len(names):
            found.append(np.array(rows) + np.diag(tp))
            return
        later = fn[i + 1 :].sum()
        # What the rows below cannot take must be placed here; below i, a row cannot fill its own.
        low = [max(0, r - later + (fn[j] if j > i else 0)) for j, r in enumerate(left)]
        low[i], high = 0, [0 if j == i else r for j, r in enumerate(left)]
        for row in _compositions(int(fn[i]), low, high):
            fill([*rows, row], [r - x for r, x in zip(left, row, strict=True)])

    fill([], fp.tolist())
    return found


def _compositions(total: int, low: list[int], high: list[int]) -> Iterator[list[int]]:
    """All ways to write `total` as a sum with each part between its bounds."""
    if not low:
        if total == 0:
            yield []
        return
    rest_low, rest_high = sum(low[1:]), sum(high[1:])
    for x in range(max(low[0], total - rest_high), min(high[0], total - rest_low) + 1):
        for rest in _compositions(total - x, low[1:], high[1:]):
            yield [x, *rest]


# --- identities and bounds -----------------------------------------------------------------------


def _span(function: Callable[..., float], *cells) -> Range:
    """Least and greatest value of a function that rises or falls in each of its arguments."""
    ends = [(min(max(c.low, 0.0), 1.0), min(max(c.high, 0.0), 1.0)) for c in map(printed, cells)]
    values = [function(*corner) for corner in itertools.product(*ends)]
    return Range(min(values), max(values))


def dice_bounds(iou, mean: bool = True) -> Range:
    """Where Dice must lie, given the IoU of the same masks: D = 2·IoU/(1 + IoU) for one pair.

    A mean Dice lies between the mean IoU (the chord) and 2·IoU/(1 + IoU) of the mean (Jensen: the
    curve is concave). `mean=False` is for one pair of masks, or pixels pooled over all images.
    """
    whole = _span(lambda j: 2 * j / (1 + j), iou)
    return Range(min(max(printed(iou).low, 0.0), 1.0), whole.high) if mean else whole


def f_score_bounds(precision, recall, mean: bool = False) -> Range:
    """Where F1 must lie, given precision and recall: their harmonic mean.

    For means over runs or classes (weighted alike) only this is left: at most the harmonic mean of
    the means, as it is concave, and at least precision + recall − 1, as F1 ≥ the smaller of both.
    """
    one = _span(lambda p, r: 2 * p * r / (p + r) if p + r else 0.0, precision, recall)
    if not mean:
        return one
    return Range(max(printed(precision).low + printed(recall).low - 1, 0.0), one.high)


def accuracy_bounds(recall, specificity, n_pos: int = 1, n_neg: int = 1) -> Range:
    """Accuracy, given recall, specificity and class sizes; also for means over runs (it is linear)."""
    return _span(lambda s, p: (n_pos * s + n_neg * p) / (n_pos + n_neg), recall, specificity)


def precision_bounds(recall, specificity, n_pos: int, n_neg: int) -> Range:
    """Precision, given recall, specificity and class sizes."""

    def precision(s, p):
        called = n_pos * s + n_neg * (1 - p)
        return n_pos * s / called if called else 0.0

    return _span(precision, recall, specificity)


def mcc_bounds(recall, specificity, n_pos: int, n_neg: int) -> Range:
    """MCC, given recall, specificity and class sizes; it rises in both."""

    def mcc(s, p):
        tp, tn = n_pos * s, n_neg * p
        return float(np.nan_to_num(from_counts(tp, n_neg - tn, n_pos - tp, tn)["mcc"]))

    return _span(mcc, recall, specificity)


def auc_bounds(recall, specificity, mean: bool = False) -> Range:
    """Area of any ROC curve through (1 − specificity, recall).

    It only rises, so the least is a step under the point, recall · specificity, and the most a step
    over it, 1 − (1 − recall)(1 − specificity). For means over runs, recall + specificity − 1 to 1.
    """
    if mean:
        return Range(max(_span(lambda s, p: s + p - 1, recall, specificity).low, 0.0), 1.0)
    return Range(
        _span(lambda s, p: s * p, recall, specificity).low,
        _span(lambda s, p: 1 - (1 - s) * (1 - p), recall, specificity).high,
    )


def average_precision_bounds(recall, specificity, n_pos: int, n_neg: int) -> Range:
    """Area under the precision–recall curve (average precision) of any ranking with this cut in it.

    Least: above the cut all negatives come first, below it too. Most: all positives come first.
    Counts that the printed numbers leave open are taken at their extreme.
    """
    s, p = printed(recall), printed(specificity)

    def area(tp, fp, positives_first):
        i, j = np.arange(1, tp + 1), np.arange(1, n_pos - tp + 1)
        above = i / (i if positives_first else fp + i)
        below = (tp + j) / (tp + j + (fp if positives_first else n_neg))
        return float(above.sum() + below.sum()) / n_pos

    def count(x, n, way):
        slack = 1e-6 if way is math.floor else -1e-6
        return int(min(max(way(x * n + slack), 0), n))

    low = area(count(s.low, n_pos, math.floor), n_neg - count(p.low, n_neg, math.floor), False)
    high = area(count(s.high, n_pos, math.ceil), n_neg - count(p.high, n_neg, math.ceil), True)
    return Range(low, high)


def half_width(value, n: float, level: float = 0.95) -> Range:
    """Half the width of the normal interval z·√(p(1 − p)/n) of a printed proportion."""
    cell, z = printed(value), NormalDist().inv_cdf((1 + level) / 2)
    ends = [min(max(p, 0.0), 1.0) for p in (cell.low, cell.high)]
    if ends[0] < 0.5 < ends[1]:
        ends.append(0.5)
    halves = [z * math.sqrt(p * (1 - p) / n) for p in ends]
    return Range(min(halves), max(halves))


def implied_n(value, half, level: float = 0.95) -> Range:
    """The n, least and greatest, for which value ± half is a normal interval; infinite for ± 0."""
    cell = printed(value)
    width, one = printed(half, percent=cell.percent), half_width(cell, 1, level)
    return Range(
        (one.low / width.high) ** 2, (one.high / width.low) ** 2 if width.low > 0 else math.inf
    )


# --- class sizes ---------------------------------------------------------------------------------


def scan_sizes(
    table: pd.DataFrame, sizes: Iterable[int] = range(50, 140), accuracy: str = "accuracy"
) -> pd.DataFrame:
    """For every pair of class sizes, how many rows have a matrix with what is printed.

    Parameters
    ----------
    table : columns recall, specificity and accuracy as printed. Equal rows count once.
    sizes : the sizes to try for either class, n_pos down and n_neg across in the result.
    accuracy : what the accuracy is taken for, "accuracy" or "balanced_accuracy" (the mean of
        recall and specificity).

    A pair that stands out from all others is a clue to what was counted, and how. How far the best
    of the wrong pairs gets shows what chance does.
    """
    if accuracy not in ("accuracy", "balanced_accuracy"):
        raise ValueError(f'accuracy={accuracy!r}: choose "accuracy" or "balanced_accuracy"')
    if missing := {"recall", "specificity", "accuracy"} - set(table):
        raise ValueError(f"table has no column {sorted(missing)}")
    sizes = list(sizes)
    rows = table[["recall", "specificity", "accuracy"]].drop_duplicates()
    found = np.zeros((len(sizes), len(sizes)), int)
    for cells in rows.itertuples(index=False):
        recall, specificity, total = map(printed, cells)
        (i, n_pos, tp), (j, n_neg, tn) = (_hits(cell, sizes) for cell in (recall, specificity))
        if accuracy == "accuracy":
            value = np.add.outer(tp, tn) / np.add.outer(n_pos, n_neg)
        else:
            value = np.add.outer(tp / n_pos, tn / n_neg) / 2
        a, b = np.nonzero(total.holds(value))
        fits = np.zeros_like(found)
        fits[i[a], j[b]] = 1
        found += fits
    return pd.DataFrame(
        found, index=pd.Index(sizes, name="n_pos"), columns=pd.Index(sizes, name="n_neg")
    )


def _hits(cell: Printed, sizes: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (position in sizes, n, k) with k/n as printed."""
    found = [
        (i, n, k)
        for i, n in enumerate(sizes)
        for k in np.flatnonzero(cell.holds(np.arange(n + 1) / n))
    ]
    return tuple(np.array(found, dtype=np.int64).reshape(-1, 3).T)


def plot_attainable(values: Iterable, n: int, percent: bool | None = None, ax=None) -> Figure:
    """Printed numbers on the line of all k/n: green where there is a k, orange where not."""
    cells = [printed(v, percent=percent) for v in values]
    found = [bool(attainable(cell, n)) for cell in cells]
    scale = 100 if any(c.percent for c in cells) else 1
    x = np.array([c.value * scale for c in cells])
    margin = 1.5 * scale / n
    ticks = np.arange(n + 1) / n * scale
    ticks = ticks[(ticks > x.min() - margin) & (ticks < x.max() + margin)]
    figure, ax = subplots(ax=ax, figsize=(8, 1.9))
    ax.vlines(ticks, -0.5, 0.5, color="0.6", linewidth=1)
    ax.plot([], [], "|", color="0.6", markersize=12, label=f"k/{n}")
    level = np.linspace(-0.35, 0.35, len(x)) if len(x) > 1 else np.zeros(1)
    for yes, colour, label in ((True, "#009e73", "a count"), (False, "#d55e00", "no count")):
        which = np.array(found) == yes
        if which.any():
            ax.plot(x[which], level[which], "o", color=colour, markersize=5, label=label)
    ax.set(yticks=[], ylim=(-0.6, 0.6), xlabel="%" if scale == 100 else "share")
    ax.legend(fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure
