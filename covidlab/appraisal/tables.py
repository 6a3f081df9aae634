"""A whole table of results, put to every rule that applies to it: what can be, and what cannot.

A finding is one of three: *impossible* (no predictions give these cells under the definitions and
counts that the source states), *unexplained* (not as stated, but an ordinary reading that the
source does not state would do: a mean over runs, another denominator, another average) and
*consistent*. Whoever reads "impossible" should think of a misprint first.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidlab.evaluation.intervals import hanley_mcneil, normal, wilson
from covidlab.evaluation.papers import NAMES

from .claims import (
    ALIASES,
    MEASURES,
    Printed,
    Range,
    TooMany,
    accuracy_bounds,
    attainable,
    auc_bounds,
    average_precision_bounds,
    class_confusions,
    class_sizes,
    confusions,
    dice_bounds,
    f_score_bounds,
    fold_sizes,
    half_width,
    implied_n,
    matrices,
    mcc_bounds,
    other_readings,
    precision_bounds,
    printed,
)

SEVERITIES = ("impossible", "unexplained", "consistent")
COLUMNS = ["row", "columns", "rule", "arithmetic", "verdict", "severity"]

_TINY = 1e-9
_MISSING = {"", "-", "—", "nan", "none", "n/a"}
_N = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_CELL = re.compile(
    rf"(?P<value>{_N})\s*%?"
    rf"(?:\s*±\s*(?P<half>{_N})\s*%?|\s*[\[(]\s*(?P<low>{_N})\s*[,;–-]\s*(?P<high>{_N})\s*[\])])?"
)

_HEADINGS = {
    **{name: ALIASES.get(ours, ours) for name, ours in NAMES.items()},
    "acc": "accuracy",
    "sens": "recall",
    "spec": "specificity",
    "ppv": "precision",
    "npv": "npv",
    "f1": "f_score",
    "f1 score": "f_score",
    "f-measure": "f_score",
    "balanced accuracy": "balanced_accuracy",
    "dice": "dice",
    "dice score": "dice",
    "jaccard": "iou",
    "auroc": "roc_auc",
    "auprc": "pr_auc",
}
_MEAN_ROW = re.compile(r"(average|mean)( of .*|\s*\(.*\))?", re.I)
_TOTAL_ROW = re.compile(r"(grand )?(total|overall|all|sum)", re.I)
_OVERLAP = ("iou", "dice", "image_dice")  # where these are, accuracy is of pixels, not of images
_PROPORTIONS = ("accuracy", "recall", "specificity", "precision", "npv")
_SIGNED = ("mcc",)
# The mean over regions, and a weighted mean, of what is printed for each region.
_MEAN_OF = {"mean_accuracy": "class_accuracy", "mean_iou": "iou", "mean_bf_score": "bf_score"}
_BETWEEN = {"global_accuracy": "class_accuracy", "weighted_iou": "iou"}


class Finding(NamedTuple):
    row: str
    columns: str
    rule: str
    arithmetic: str
    verdict: str
    severity: str


@dataclass
class _Row:
    label: str
    group: tuple[str, ...]
    of: str  # the class or region the row is about, or ""
    kind: str  # "mean" or "total" for a row that sums up others, else ""
    heads: dict[str, str] = field(default_factory=dict)
    cells: dict[str, Printed] = field(default_factory=dict)
    halves: dict[str, Printed] = field(default_factory=dict)
    ends: dict[str, tuple[Printed, Printed]] = field(default_factory=dict)
    n: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    positive: str = ""

    @property
    def averaged(self) -> bool:
        """Whether its metrics are averages: over runs, or over the classes of one model."""
        return bool(self.kind) or (len(self.sizes) > 2 and not self.of)

    @property
    def counts(self) -> tuple[int, int] | None:
        """Positives and negatives, where the row is about one class against the rest."""
        if self.kind == "total" or not self.positive:
            return None
        n_pos = self.sizes[self.positive]
        return n_pos, sum(self.sizes.values()) - n_pos

    def has(self, *metrics):
        return all(m in self.cells for m in metrics)

    def get(self, *metrics):
        return [self.cells[m] for m in metrics]

    def named(self, *metrics):
        return ", ".join(self.heads[m] for m in metrics)

    def finding(self, metrics, rule, arithmetic, verdict, severity):
        return Finding(self.label, self.named(*metrics), rule, arithmetic, verdict, severity)


@dataclass
class _Table:
    frame: pd.DataFrame
    rows: list[_Row]
    runs: int | None
    folds: int | None
    sizes_stated: bool
    level: float

    def severity(self, severity: str) -> str:
        """What leans on class sizes that the source does not state cannot be called impossible."""
        return severity if self.sizes_stated or severity != "impossible" else "unexplained"

    def sized(self, n_pos: int, n_neg: int) -> str:
        return f"{n_pos} + {n_neg}" + ("" if self.sizes_stated else " (sizes inferred)")


def check_table(
    table: pd.DataFrame | str | Path,
    n: int | str | Sequence[int | None] | None = None,
    classes: Mapping[str, int] | Sequence[Mapping[str, int] | None] | None = None,
    *,
    positive: str | None = None,
    class_column: str | None = None,
    units: str = "auto",
    decimals: int = 0,
    names: Mapping[str, str | None] | None = None,
    runs: int | None = None,
    folds: int | None = None,
    sums: Iterable[tuple] = (),
    ratios: Iterable[tuple[str, str, str]] = (),
    sizes_stated: bool = True,
    level: float = 0.95,
) -> pd.DataFrame:
    """Everything that arithmetic can say of a table of results.

    Parameters
    ----------
    table : a CSV file, or a DataFrame with one row per model (or class, or region). Cells are best
        text, as printed: a float loses its final zeros. "97.1 ± 0.4" and "0.98 [0.95, 1]" are read.
    n : images evaluated: one number, one per row, or the column that holds it.
    classes : images of each class, {"COVID": 74, "healthy": 92}; or one such mapping per row, None
        where unknown. Sensitivities of classes side by side are headed "sensitivity / COVID".
    positive : which class recall, precision and so on are about; the first, if not said.
    class_column : the column that names the class (or, without `classes`, the segmented region) of
        each row; a row called Overall or Total is about all.
    units : "percent", "fraction", or "auto": percent where the heading has a %, or most of a
        column is above 1.
    decimals : of the metrics, where the source drops final zeros: with 2, 99.1 is read as 99.10. A
        number has at least the decimals that it shows.
    names : headings that are not understood, {"Rappel": "recall"}; None for a column to ignore.
    runs, folds : also try the mean over so many runs on the same n; or over so many folds of it.
    sums : (total, parts): parts are columns, checked in each row, or positions of rows, checked in
        each column of counts; total is one of these, or a number as text. With a `class_column`,
        rows called Total or All are checked anyway.
    ratios : (share, part, whole), three columns.
    sizes_stated : False if the class sizes are your inference; nothing that leans on them is then
        called impossible.
    level : of printed intervals.

    Returns
    -------
    One row per check that could be made: row, columns, rule, arithmetic, verdict, severity (of
    `SEVERITIES`). Empty where the table offers nothing to check.

    Raises
    ------
    FileNotFoundError : no such CSV file.
    ValueError : no rows; a cell in a column of metrics that is no number; unknown columns or
        classes; class sizes that do not add up to n.
    """
    frame = _frame(table)
    parsed = _parse_table(
        frame, n, classes, positive, class_column, units, decimals, dict(names or {}), level
    )
    parsed.runs, parsed.folds, parsed.sizes_stated = runs, folds, sizes_stated
    findings = []
    for row in parsed.rows:
        for rule in _ROW_RULES:
            findings.extend(rule(row, parsed))
    for rule in _TABLE_RULES:
        findings.extend(rule(parsed))
    findings.extend(_sums(frame, parsed.rows, sums, class_column))
    findings.extend(_within_cells(frame, parsed.rows))
    for share, part, whole in ratios:
        findings.extend(_ratios(frame, parsed.rows, share, part, whole))
    return pd.DataFrame(findings, columns=COLUMNS)


# --- reading a table -----------------------------------------------------------------------------


def _frame(table) -> pd.DataFrame:
    if isinstance(table, (str, Path)):
        if not Path(table).is_file():
            raise FileNotFoundError(f"{table}: no such CSV file")
        table = pd.read_csv(table, dtype=str, keep_default_na=False)
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"table is a {type(table).__name__}; pass a DataFrame or a CSV file")
    if table.empty:
        raise ValueError("the table has no rows")
    if not table.columns.is_unique:
        raise ValueError(f"two columns have the same heading: {list(table.columns)}")
    text = table.reset_index(drop=True).rename(columns=str)
    return text.map(lambda v: f"{v:.10f}".rstrip("0").rstrip(".") if _is_float(v) else str(v))


def _is_float(value) -> bool:
    return isinstance(value, (float, np.floating)) and math.isfinite(value)


def _metric_of(header: str, names: dict[str, str | None]) -> str | None:
    """Our name of a heading, "recall / COVID" for "Sensitivity(%) / COVID", or None."""
    if header in names:
        given = names[header]
        return None if given is None else ALIASES.get(given, given)
    metric, slash, group = header.partition(" / ")
    plain = re.sub(r"±.*|\[.*\]|\(.*?\)|%", "", metric).strip().lower().removeprefix("testing ")
    name = _HEADINGS.get(plain.strip()) or _HEADINGS.get(plain.strip().replace("_", " "))
    return name and name + slash + group


def _parse_table(
    frame, n, classes, positive, class_column, units, decimals, names, level
) -> _Table:
    if units not in ("auto", "percent", "fraction"):
        raise ValueError(f'units={units!r} is not known; choose "auto", "percent" or "fraction"')
    if unknown := (set(names) | ({class_column} - {None})) - set(frame.columns):
        raise ValueError(f"no column {sorted(unknown)}; the table has {list(frame.columns)}")
    known = {*_HEADINGS.values(), *NAMES.values(), *MEASURES}
    if wrong := {
        v for v in names.values() if v and v.partition(" / ")[0] not in known | set(ALIASES)
    }:
        raise ValueError(
            f"names: {sorted(wrong)} is no metric; choose of {', '.join(sorted(known))}"
        )
    metrics = {h: m for h in frame.columns if h != class_column and (m := _metric_of(h, names))}
    numeric = {
        h
        for h in frame.columns
        if all(c.strip().lower() in _MISSING or _number(c) for c in frame[h])
    }
    numeric -= {h for h in frame.columns if all(c.strip().lower() in _MISSING for c in frame[h])}
    keys = [h for h in frame.columns if h not in metrics and h not in numeric]
    if class_column and class_column not in keys:
        keys.append(class_column)
    others = [h for h in keys if h != class_column]
    rows = []
    for i, cells in frame.iterrows():
        label = ", ".join(cells[h] for h in keys if cells[h].strip()) or f"row {i + 1}"
        label = label if len(label) <= 80 else f"{label[:78]} …"
        of = cells[class_column] if class_column else ""
        said = [of] if class_column else [cells[h] for h in keys]
        kind = "mean" if any(_MEAN_ROW.fullmatch(c.strip()) for c in said) else ""
        kind = kind or ("total" if any(_TOTAL_ROW.fullmatch(c.strip()) for c in said) else "")
        rows.append(_Row(label, tuple(cells[h] for h in others), "" if kind else of, kind))
    for header, metric in metrics.items():
        if metric in {m for h, m in metrics.items() if h != header}:
            raise ValueError(
                f"two columns are read as {metric}: tell them apart with names={{...}}"
            )
        _parse_column(frame[header], header, metric, units, decimals, rows)
    _sizes(rows, frame, n, classes, positive, class_column)
    return _Table(frame, rows, None, None, True, level)


def _number(cell: str):
    return _CELL.fullmatch(cell.strip())


def _parse_column(texts, header: str, metric: str, units: str, decimals: int, rows: list[_Row]):
    found = {}
    for i, text in enumerate(texts):
        if text.strip().lower() in _MISSING:
            continue
        match = _number(text)
        if not match:
            raise ValueError(
                f"column {header!r}, row {i + 1}: {text!r} is no number; write it as printed, leave "
                f"the cell empty, or pass names={{{header!r}: None}} to ignore the column"
            )
        found[i] = match.groupdict()
    values = [abs(float(f["value"].replace(",", "").replace("−", "-"))) for f in found.values()]
    signs = any("%" in texts[i] for i in found)
    percent = "%" in header or signs or sum(v > 1 for v in values) > len(values) / 2
    percent = {"auto": percent, "percent": True, "fraction": False}[units]
    for i, f in found.items():
        cell = {}
        for part, number in f.items():
            if number:
                places = max(len(number.partition(".")[2]), decimals)
                cell[part] = printed(number, places, percent)
        row = rows[i]
        row.heads[metric], row.cells[metric] = header, cell["value"]
        if "half" in cell:
            row.halves[metric] = cell["half"]
        if "low" in cell:
            row.ends[metric] = cell["low"], cell["high"]


def _sizes(rows, frame, n, classes, positive, class_column):
    per_row = [n] * len(rows)
    if isinstance(n, str):
        if n not in frame:
            raise ValueError(f"n={n!r} is no column; the table has {list(frame.columns)}")
        per_row = [int(c.replace(",", "")) if _number(c) else None for c in frame[n]]
    elif isinstance(n, Sequence):
        per_row = list(n)
    by_row = [classes] * len(rows)
    if isinstance(classes, Sequence):
        by_row = list(classes)
    if len(per_row) != len(rows) or len(by_row) != len(rows):
        raise ValueError(f"n and classes: one for all, or one for each of the {len(rows)} rows")
    for row, total, sizes in zip(rows, per_row, by_row, strict=True):
        row.sizes = {c: int(k) for c, k in (sizes or {}).items()}
        if any(k < 1 for k in row.sizes.values()) or (total is not None and total < 1):
            raise ValueError(f"n={total}, classes={row.sizes}: counts are above 0")
        whole = sum(row.sizes.values()) or None
        if total and whole and total != whole:
            raise ValueError(f"classes add up to {whole}, but n is {total}; give one of them")
        row.n = total or whole
        if class_column is None:
            row.positive = positive or next(iter(row.sizes), "")
            sided = [m for m in row.cells if " / " in m]
            if len(row.sizes) > 2 or sided:
                row.positive = ""
        elif row.of and row.sizes:
            row.positive = row.of
        if row.positive and row.positive not in row.sizes:
            raise ValueError(f"{row.positive!r} is none of the classes {list(row.sizes)}")


# --- rules for one row ---------------------------------------------------------------------------


def _outside(row: _Row, table: _Table):
    """No metric is above 1, and only MCC below 0. What is, takes no part in the other rules."""
    for metric, cell in list(row.cells.items()):
        least = -1.0 if metric in _SIGNED else 0.0
        if cell.low > 1 + _TINY or cell.high < least - _TINY:
            unit = "percent" if cell.percent else "a fraction"
            hint = "" if cell.percent else f"; as a percentage it would be {cell.value / 100:g}"
            yield row.finding(
                [metric],
                "range",
                f"{cell.text} in {unit}",
                f"outside {least:g} to {100 if cell.percent else 1}{hint}",
                "impossible",
            )
            del row.cells[metric]


def _granularity(row: _Row, table: _Table):
    """A share of n images is k/n."""
    sizes = {} if row.kind or any(row.has(m) for m in _OVERLAP) else {"accuracy": row.n}
    if row.counts and not row.kind:
        sizes |= dict(zip(("recall", "specificity"), row.counts, strict=True))
    sizes |= {f"recall / {c}": k for c, k in row.sizes.items()}
    for metric, n in sizes.items():
        if not n or not row.has(metric):
            continue
        cell = row.cells[metric]
        one = attainable(cell, n)
        if one:
            k, often = one.counts[0], one.chance
            words = f"a count of n = {n}" + (f"; so are {often:.0%} of all numbers" * (often > 0.2))
            shown = f"{k}/{n} = {cell.show(k / n)}"
            yield row.finding([metric], "granularity", shown, words, "consistent")
            continue
        inferred = "" if metric == "accuracy" or table.sizes_stated else " (inferred)"
        words = f"not attainable as a single proportion of n = {n}{inferred}"
        tried, how = _over_runs(cell, n, table)
        if tried:
            words += (
                f"; attainable as a mean over {how} ({tried.counts[0]} right in all), "
                f"as are {tried.chance:.0%} of all numbers"
            )
        else:
            words += f", nor as a mean over {how}" * bool(how)
            words += f"; could be {'another' if how else 'a'} mean, which the source does not state"
        yield row.finding([metric], "granularity", f"{cell.text}: {one.near}", words, "unexplained")


def _over_runs(cell: Printed, n: int, table: _Table):
    if table.folds and n >= table.folds:
        return attainable(cell, fold_sizes(n, table.folds)), f"{table.folds} folds"
    if table.runs:
        return attainable(cell, n, runs=table.runs), f"{table.runs} runs"
    return None, ""


def _matrix(row: _Row, table: _Table):
    """Two classes: is there any confusion matrix?"""
    metrics = [m for m in MEASURES if row.has(m)]
    if not row.counts or row.kind or len(metrics) < 2:
        return
    cells = dict(zip(metrics, row.get(*metrics), strict=True))
    found, sized = _searched(confusions, row, cells), table.sized(*row.counts)
    if found is None:
        return
    without = {}
    if found.empty and len(metrics) > 2:
        for left_out in metrics:
            rest = {m: c for m, c in cells.items() if m != left_out}
            without[left_out] = _searched(confusions, row, rest)
        without = {m: f for m, f in without.items() if f is not None}
    from_printed = found.empty and _f_from_printed(row) and len(without.get("f_score", ()))
    if from_printed:
        found = without["f_score"]
    if len(found):
        first = found.iloc[0]
        many = "one matrix" if len(found) == 1 else f"{len(found)} matrices"
        words = f"{many} of {sized} give{'s' * (len(found) == 1)} this row"
        if from_printed:
            words += f"; {row.heads['f_score']} was computed from the printed precision and recall"
        yield row.finding(metrics, "matrix", _counts(first), words, "consistent")
        return
    fits = [f"{len(f)} without {row.heads[m]}" for m, f in without.items() if len(f)]
    shown = f"no matrix; {', '.join(fits)}" if fits else "no matrix, whichever one is left out"
    words = f"no confusion matrix of {sized} gives this row"
    others = _searched(other_readings, row, cells) if len(metrics) > 2 else None
    if others is not None and len(others):
        words += f"; one does if {others.iloc[0].reading}"
        shown = _counts(others.iloc[0])
    else:
        words += "; a mean over runs need not have one"
    yield row.finding(metrics, "matrix", shown, words, "unexplained")


def _searched(search: Callable, row: _Row, cells: dict[str, Printed]) -> pd.DataFrame | None:
    try:
        return search(*row.counts, **cells)
    except TooMany:
        return None


def _counts(matrix) -> str:
    return f"TP {matrix.tp}, FN {matrix.fn}, FP {matrix.fp}, TN {matrix.tn}"


def _f_from_printed(row: _Row) -> bool:
    """F1 is the harmonic mean of precision and recall as they are printed, not as they were."""
    if not row.has("precision", "recall", "f_score"):
        return False
    p, r = (c.value for c in row.get("precision", "recall"))
    return p + r > 0 and row.cells["f_score"].holds(2 * p * r / (p + r))


def _allowed(cell: Printed, found: Range) -> str:
    return f"{cell.text}; {cell.show(found.low, 1)} to {cell.show(found.high, 1)} allowed"


def _f_score(row: _Row, table: _Table):
    columns = ["precision", "recall", "f_score"]
    if not row.has(*columns):
        return
    precision, recall, score = row.get(*columns)
    mean = f_score_bounds(precision, recall, mean=True)
    one = mean if row.averaged else f_score_bounds(precision, recall)
    if one.meets(score):
        words = "can be a mean" if row.averaged else "follows from precision and recall"
        severity = "consistent"
    elif mean.meets(score):
        words = "not the harmonic mean of precision and recall; a mean over runs, folds or classes could be"
        severity = "unexplained"
    else:
        way = "above" if score.low > mean.high else "below"
        words = f"{way} what precision and recall allow, also for means over runs or classes"
        severity = "impossible"
    yield row.finding(columns, "F1", _allowed(score, one), words, severity)


def _accuracy(row: _Row, table: _Table):
    columns = ["accuracy", "recall", "specificity"]
    if row.kind == "total" or not row.has(*columns):
        return
    accuracy, recall, specificity = row.get(*columns)
    between = Range(min(recall.low, specificity.low), max(recall.high, specificity.high))
    if not between.meets(accuracy):
        words = "not between recall and specificity, where it lies for any class sizes"
        severity = "impossible"
        if table.folds or not row.n:
            words += "; a mean over folds of unlike class shares could leave it by a little"
            severity = "unexplained"
        yield row.finding(columns, "accuracy", _allowed(accuracy, between), words, severity)
    elif row.counts:
        found, sized = accuracy_bounds(recall, specificity, *row.counts), table.sized(*row.counts)
        words, severity = f"follows from recall and specificity of {sized}", "consistent"
        if not found.meets(accuracy):
            words = (
                f"not what recall and specificity of {sized} give, nor a mean over runs; a mean over "
                "folds of unlike class shares could be"
            )
            severity = "unexplained"
        yield row.finding(columns, "accuracy", _allowed(accuracy, found), words, severity)


def _one_matrix(row: _Row, table: _Table):
    """What one matrix's recall and specificity say of its precision and MCC."""
    for metric, bounds in (("precision", precision_bounds), ("mcc", mcc_bounds)):
        columns = [metric, "recall", "specificity"]
        if not row.counts or row.kind or not row.has(*columns):
            continue
        cell, *rates = row.get(*columns)
        found = bounds(*rates, *row.counts)
        fits = found.meets(cell)
        words = "follows from" if fits else "not what a single matrix has with this"
        words += f" recall and specificity of {table.sized(*row.counts)}"
        severity = "consistent" if fits else "unexplained"
        rule = {"mcc": "MCC"}.get(metric, metric)
        yield row.finding(columns, rule, _allowed(cell, found), words, severity)


def _auc(row: _Row, table: _Table):
    metric = next((m for m in ("roc_auc", "auc") if row.has(m)), None)
    if metric is None or row.kind == "total" or not row.has("recall", "specificity"):
        return
    auc, recall, specificity = row.get(metric, "recall", "specificity")
    one, mean = auc_bounds(recall, specificity), auc_bounds(recall, specificity, mean=True)
    shown = f"{auc.text}; ROC {one.low:.3f} to {one.high:.3f} allowed"
    columns = [metric, "recall", "specificity"]
    if one.meets(auc):
        words = "a ROC curve through recall and specificity can enclose it"
        yield row.finding(columns, "AUC", shown, words, "consistent")
        return
    if metric == "auc" and row.counts:
        area = average_precision_bounds(recall, specificity, *row.counts)
        shown += f"; precision–recall {area.low:.3f} to {area.high:.3f}"
        if area.meets(auc):
            words = "no ROC curve through recall and specificity; a precision–recall curve could be"
            yield row.finding(columns, "AUC", shown, words, "unexplained")
            return
    if mean.meets(auc):
        words = (
            "no single ROC curve through recall and specificity encloses it; a mean over runs might"
        )
        yield row.finding(columns, "AUC", shown, words, "unexplained")
    else:
        words = "no curve of a ranking that has this recall and specificity at some cut encloses it"
        yield row.finding(columns, "AUC", shown, words, "impossible")


def _overlap(row: _Row, table: _Table):
    """Dice, F1 and IoU of the same masks; IoU and the region's own accuracy."""
    for dice in ("dice", "image_dice", "f_score"):
        if not row.has(dice, "iou"):
            continue
        cell, iou = row.get(dice, "iou")
        found = dice_bounds(iou)
        shown = _allowed(cell, found)
        if found.meets(cell):
            words, severity = "a mean Dice of the same masks can be this", "consistent"
        else:
            way = "below the IoU" if cell.high < found.low else "above 2·IoU/(1 + IoU)"
            words = (
                f"{way}, so not the same masks averaged alike; one may be a mean over images and the "
                "other pooled over pixels, which the source does not state"
            )
            severity = "unexplained"
        yield row.finding([dice, "iou"], "Dice and IoU", shown, words, severity)
    if row.has("f_score", "dice"):
        score, dice = row.get("f_score", "dice")
        if not Range(score.low, score.high).meets(dice):
            words = (
                "F1 and Dice of the same pixels are one number; these are averaged differently, or "
                "of different regions"
            )
            shown = f"{score.text} and {dice.text}"
            yield row.finding(["f_score", "dice"], "F1 is Dice", shown, words, "unexplained")
    if row.has("iou", "class_accuracy"):
        iou, accuracy = row.get("iou", "class_accuracy")
        fits = iou.low <= accuracy.high + _TINY
        yield row.finding(
            ["iou", "class_accuracy"],
            "IoU and recall",
            f"{iou.text} ≤ {accuracy.text}" if fits else f"{iou.text} > {accuracy.text}",
            "TP/(TP + FP + FN) is at most TP/(TP + FN)",
            "consistent" if fits else "impossible",
        )


def _half_widths(row: _Row, table: _Table):
    """value ± half as the normal interval z·√(p(1 − p)/n)."""
    fits, misses, flat = {}, [], []
    for metric, half in row.halves.items():
        if not row.has(metric) or not row.n:
            continue
        cell = row.cells[metric]
        choices = dict.fromkeys([k for k in (row.sizes.get(row.of), row.n) if k])
        n = next((k for k in choices if half_width(cell, k, table.level).meets(half)), None)
        if half.value == 0:
            flat.append(metric)
        elif n is None:
            few, many = implied_n(cell, half, table.level)
            misses.append((metric, f"{cell.text} ± {half.text}: n = {few:,.0f} to {many:,.0f}"))
        else:
            fits.setdefault(n, []).append(metric)
    for n, metrics in fits.items():
        words = f"the normal interval of a proportion of n = {n:,}"
        yield row.finding(metrics, "interval", f"1.96·√(p(1 − p)/{n:,})", words, "consistent")
    for metric, shown in misses:
        choices = " or ".join(f"{k:,}" for k in choices)
        words = f"not the normal interval for n = {choices}"
        yield row.finding([metric], "interval", shown, words, "unexplained")
    if flat:
        low = wilson(row.n, row.n, table.level).low
        words = f"± 0 is no interval; Wilson's for all of {row.n:,} begins at {100 * low:.2f} %"
        yield row.finding(flat, "interval", "p = 1: 1.96·√(p(1 − p)/n) = 0", words, "unexplained")


def _brackets(row: _Row, table: _Table):
    """value [low, high]: Hanley and McNeil for an AUC, normal or Wilson for a proportion."""
    for metric, (low, high) in row.ends.items():
        if not row.has(metric):
            continue
        cell, methods = row.cells[metric], {}
        if metric in ("auc", "roc_auc") and row.counts:
            methods = {"Hanley–McNeil": lambda p: hanley_mcneil(p, *row.counts, table.level)}
            sized = table.sized(*row.counts)
        elif metric in _PROPORTIONS and row.n:
            size = dict(zip(("recall", "specificity"), row.counts or (), strict=False)).get(
                metric, row.n
            )
            methods = {
                "normal": lambda p, k=size: normal(p * k, k, table.level),
                "Wilson": lambda p, k=size: wilson(p * k, k, table.level),
            }
            sized = f"n = {size:,}"
        shown, fits = [], None
        for name, method in methods.items():
            values = [method(p) for p in np.linspace(max(cell.low, 0), min(cell.high, 1), 21)]
            lows, highs = [v.low for v in values], [v.high for v in values]
            shown.append(
                f"{name}: [{low.show(method(cell.value).low, 1)}, {high.show(method(cell.value).high, 1)}]"
            )
            if Range(min(lows), max(lows)).meets(low) and Range(min(highs), max(highs)).meets(high):
                fits = fits or name
        if methods:
            yield row.finding(
                [metric],
                "interval",
                "; ".join(shown),
                f"{fits}'s interval for {sized}" if fits else f"not the interval of {sized}",
                "consistent" if fits else "unexplained",
            )


def _classes_in_a_row(row: _Row, table: _Table):
    """Sensitivities side by side: with the class sizes they give the accuracy, or it gives them."""
    given = {m.partition(" / ")[2]: c for m, c in row.cells.items() if m.startswith("recall / ")}
    if len(given) < 2 or not row.has("accuracy") or not row.n:
        return
    columns = ["accuracy", *(f"recall / {c}" for c in given)]
    accuracy = row.cells["accuracy"]
    if set(given) == set(row.sizes):
        weights = [row.sizes[c] for c in given]
        found = _weighted(list(given.values()), weights)
        hits = [attainable(cell, n).counts for cell, n in zip(given.values(), weights, strict=True)]
        totals = [k for k in itertools.product(*hits) if accuracy.holds(sum(k) / row.n)]
        if totals:
            shown = (
                f"{' + '.join(map(str, totals[0]))} = {sum(totals[0])}; "
                f"{sum(totals[0])}/{row.n} = {accuracy.show(sum(totals[0]) / row.n)}"
            )
            words, severity = "accuracy follows from the classes", "consistent"
        elif found.meets(accuracy):
            shown = _allowed(accuracy, found)
            words, severity = "no whole counts give it; a mean over runs could be", "unexplained"
        else:
            shown = _allowed(accuracy, found)
            words = "not what the sensitivities give, also as means over runs"
            severity = table.severity("impossible")
        yield row.finding(columns, "weighted mean", shown, words, severity)
    elif not row.sizes:
        try:
            found = class_sizes(row.n, given, accuracy)
        except TooMany:
            return
        splits = {tuple(r[c, "n"] for c in given) for _, r in found.iterrows()}
        shown = ", ".join(" + ".join(map(str, s)) for s in sorted(splits)[:3])
        if not splits:
            yield row.finding(
                columns, "class sizes", "", f"no class sizes of n = {row.n} fit", "unexplained"
            )
            return
        words = (
            f"the one split of {row.n} that fits"
            if len(splits) == 1
            else f"{len(splits)} splits fit"
        )
        best = found.iloc[0]
        shown += "; " + ", ".join(f"{best[c, 'right']}/{best[c, 'n']}" for c in given)
        yield row.finding(columns, "class sizes", shown, words, "consistent")


_ROW_RULES = (
    _outside,
    _granularity,
    _matrix,
    _f_score,
    _accuracy,
    _one_matrix,
    _auc,
    _overlap,
    _half_widths,
    _brackets,
    _classes_in_a_row,
)


# --- rules for several rows ----------------------------------------------------------------------


def _groups(table: _Table) -> list[tuple[list[_Row], list[_Row]]]:
    """(class or region rows, rows that sum them up) of each model."""
    groups = {}
    for row in table.rows:
        groups.setdefault(row.group, ([], []))[bool(row.kind)].append(row)
    return [g for g in groups.values() if len(g[0]) > 1]


def _class_rows(table: _Table):
    """Three or more classes: is there a confusion matrix that gives all class rows at once?"""
    for rows, _ in _groups(table):
        sizes = rows[0].sizes
        if len(sizes) < 3 or {r.of for r in rows} != set(sizes):
            continue
        metrics = {
            m: {r.of: r.cells[m] for r in rows if r.has(m)}
            for m in MEASURES
            if any(r.has(m) for r in rows)
        }
        label = ", ".join(rows[0].group)
        columns = rows[0].named(*(m for m in metrics if rows[0].has(m)))
        try:
            for row in filter(_f_from_printed, rows):
                if _alone(row, metrics).empty:
                    del metrics["f_score"][row.of]
            found = class_confusions(sizes, metrics)
        except TooMany:
            continue
        if found.empty:
            alone = [r.of for r in rows if _alone(r, metrics).empty]
            shown = f"no counts for {', '.join(alone)}" if alone else "each class alone has some"
            words = "no confusion matrix gives these rows; a mean over folds need not have one"
            yield Finding(label, columns, "matrix", shown, words, "unexplained")
            continue
        first = found.iloc[0]
        shown = ", ".join(f"{c} {first[c, 'tp']}/{n}" for c, n in sizes.items())
        count = len(matrices(sizes, first))
        many = f"{len(found)} sets of counts" if len(found) > 1 else "one set of counts"
        words = f"{many} per class; {count}{' or more' if count >= 1000 else ''} matrices share the first"
        yield Finding(label, columns, "matrix", shown, words, "consistent")


def _alone(row: _Row, metrics: dict[str, dict[str, Printed]]) -> pd.DataFrame:
    """The matrices of one class against the rest."""
    return confusions(*row.counts, **{m: g[row.of] for m, g in metrics.items() if row.of in g})


def _averages(table: _Table):
    """A row that sums up others: their mean, or the mean weighted by class size."""
    meanings = {}
    for row in (r for r in table.rows if r.kind):
        rows = [r for r in table.rows if not r.kind and r.group == row.group]
        if not rows and row.kind == "mean":
            rows = [r for r in table.rows if not r.kind]
        for metric, cell in row.cells.items():
            parts = [r.cells[metric] for r in rows if r.has(metric)]
            if len(parts) < 2 or len(parts) < len(rows):
                continue
            weights = [r.sizes.get(r.of, 1) for r in rows]
            found = _weighted(parts, weights)
            kind = "weighted mean" if len(set(weights)) > 1 else "mean"
            shown = f"{cell.text}; {kind} {cell.show(found.low, 1)} to {cell.show(found.high, 1)}"
            if found.meets(cell):
                meanings.setdefault(metric, {}).setdefault(kind, []).append(row.label)
                words, severity = f"the {kind} of the rows above", "consistent"
            elif kind != "mean" and _weighted(parts, [1] * len(parts)).meets(cell):
                words, severity = "the plain mean of the rows, not the weighted one", "consistent"
                meanings.setdefault(metric, {}).setdefault("plain mean", []).append(row.label)
            elif other := _same_as(row, metric):
                words, severity = f"not the {kind}; {other}", "unexplained"
                meanings.setdefault(metric, {}).setdefault(other, []).append(row.label)
            else:
                words, severity = (
                    f"not the {kind} of the rows above, nor the plain one",
                    "unexplained",
                )
                if kind == "mean":
                    words = "not the mean of the rows above"
            yield row.finding([metric], "average", shown, words, severity)
    for metric, kinds in meanings.items():
        if len(kinds) > 1:
            head = next(r.heads[metric] for r in table.rows if r.kind and r.has(metric))
            shown = "; ".join(f"{k}: {len(v)} rows" for k, v in kinds.items())
            words = "one column, more than one definition"
            yield Finding("rows that sum up", head, "average", shown, words, "unexplained")


def _weighted(cells: list[Printed], weights: list[int]) -> Range:
    total = sum(weights)
    return Range(
        sum(w * c.low for w, c in zip(weights, cells, strict=True)) / total,
        sum(w * c.high for w, c in zip(weights, cells, strict=True)) / total,
    )


def _same_as(row: _Row, metric: str) -> str:
    cell = row.cells[metric]
    if metric == "accuracy" and row.has("recall") and row.cells["recall"].holds(cell.value):
        return "it is the share of all images classified rightly, as the sensitivity is"
    if metric == "f_score" and row.has("precision", "recall"):
        if f_score_bounds(*row.get("precision", "recall")).meets(cell):
            return "it is the harmonic mean of this row's precision and sensitivity"
    return ""


def _regions(table: _Table):
    """Means over two or more regions, and the share of pixels that the weighted ones imply."""
    shares = {}
    for rows, _ in _groups(table):
        if rows[0].sizes or not rows[0].of:
            continue
        label = ", ".join(rows[0].group)
        for whole, part in (_MEAN_OF | _BETWEEN).items():
            if not all(r.has(whole, part) for r in rows):
                continue
            cell, parts = rows[0].cells[whole], [r.cells[part] for r in rows]
            mean = whole in _MEAN_OF
            found = (
                _weighted(parts, [1] * len(parts))
                if mean
                else Range(min(p.low for p in parts), max(p.high for p in parts))
            )
            fits = found.meets(cell)
            shown = _allowed(cell, found)
            words = f"{'the' if fits else 'not the'} mean of the regions"
            if not mean:
                words = f"{'between' if fits else 'outside'} the regions, of which it is a weighted mean"
            if not fits:
                words += _exchanged(table, rows[0], whole, found) if mean else ""
            columns = rows[0].named(whole, part)
            severity = "consistent" if fits else "unexplained"
            yield Finding(label, columns, "regions", shown, words, severity)
        if len(rows) == 2:
            yield from _pixel_share(rows, label, shares)
    yield from _common_share(shares)


def _exchanged(table: _Table, row: _Row, metric: str, found: Range) -> str:
    """Where else in the row or the column the missing number stands."""
    for other in (*_BETWEEN, *_MEAN_OF):
        if other != metric and row.has(other) and found.meets(row.cells[other]):
            return f"; the number under {row.heads[other]} is"
    for other in table.rows:
        if other.group != row.group and other.has(metric) and found.meets(other.cells[metric]):
            return f"; the number of {', '.join(other.group)} is"
    return ""


def _pixel_share(rows: list[_Row], label: str, shares: dict):
    """The first region's share of all pixels, by each route that the row offers."""
    (a, b), routes = rows, {}
    for whole, part in _BETWEEN.items():
        if a.has(whole, part) and b.has(part):
            routes[whole] = _share_between(a.cells[whole], a.cells[part], b.cells[part])
    if a.has("iou", "class_accuracy") and b.has("iou", "class_accuracy"):
        routes["iou"] = _share_by_iou(
            a.cells["iou"], a.cells["class_accuracy"], b.cells["class_accuracy"]
        )
        other = _share_by_iou(b.cells["iou"], b.cells["class_accuracy"], a.cells["class_accuracy"])
        routes["iou of the other"] = other and Range(1 - other.high, 1 - other.low)
    routes = {k: v for k, v in routes.items() if v}
    if len(routes) < 2:
        return
    both = Range(max(r.low for r in routes.values()), min(r.high for r in routes.values()))
    heads = a.heads | {"iou of the other": f"{a.heads.get('iou')} of {b.of}"}
    shown = "; ".join(
        f"{heads[k]}: {100 * r.low:.1f} to {100 * r.high:.1f} %" for k, r in routes.items()
    )
    fits = both.low <= both.high + _TINY
    if fits:
        shares[label] = both
    yield Finding(
        label,
        ", ".join(heads[k] for k in routes),
        "pixel share",
        shown,
        f"{a.of} is {100 * both.low:.1f} to {100 * both.high:.1f} % of all pixels"
        if fits
        else f"the columns imply different shares of {a.of} pixels, if they are pooled over pixels",
        "consistent" if fits else "unexplained",
    )


def _share_between(whole: Printed, a: Printed, b: Printed) -> Range | None:
    """w in whole = w·a + (1 − w)·b."""
    if Range(a.low, a.high).meets(b):
        return None
    corners = itertools.product((whole.low, whole.high), (a.low, a.high), (b.low, b.high))
    values = [(w - y) / (x - y) for w, x, y in corners]
    if max(values) < 0 or min(values) > 1:
        return None
    return Range(max(min(values), 0.0), min(max(values), 1.0))


def _share_by_iou(iou: Printed, own: Printed, other: Printed) -> Range | None:
    """w in IoU = own·w / (w + (1 − other)·(1 − w))."""
    if iou.high >= own.low or other.high >= 1:
        return None
    values = []
    for j, s, p in itertools.product(
        (iou.low, iou.high), (own.low, own.high), (other.low, other.high)
    ):
        odds = j * (1 - p) / (s - j)
        values.append(odds / (1 + odds))
    return Range(min(values), max(values))


def _common_share(shares: dict[str, Range]):
    """All models see the same test images, so one share must do for all."""
    if len(shares) < 2:
        return
    ends = sorted({r.low for r in shares.values()})
    best = max(ends, key=lambda x: sum(r.low <= x <= r.high for r in shares.values()))
    agree = [r for r in shares.values() if r.low <= best <= r.high]
    low, high = max(r.low for r in agree), min(r.high for r in agree)
    away = [label for label, r in shares.items() if not r.low <= best <= r.high]
    shown = f"{len(agree)} of {len(shares)} agree on {100 * low:.1f} to {100 * high:.1f} %"
    words = "one test set has one share of pixels" + (
        f"; not so: {', '.join(away)}" if away else ""
    )
    yield Finding("all", "", "pixel share", shown, words, "unexplained" if away else "consistent")


def _error_is_rest(table: _Table):
    """value ± error with error = 1 − value, in every row: not an interval."""
    metrics = dict.fromkeys(m for r in table.rows for m in r.halves)
    for metric in metrics:
        pairs = [(r.cells[metric], r.halves[metric], r) for r in table.rows if metric in r.halves]
        if len(pairs) > 1 and all(abs(c.value + h.value - 1) < _TINY for c, h, _ in pairs):
            first, half, row = pairs[0]
            yield Finding(
                "all",
                row.heads[metric],
                "interval",
                f"{first.text} + {half.text} = 1, and so in all {len(pairs)} rows",
                "the ± is 1 − value, what is missing to perfection, and no interval",
                "unexplained",
            )


def _too_short(table: _Table):
    """Recall and specificity have fewer images than the table; an interval of all is too short."""
    for metric, side in (("recall", 0), ("specificity", 1)):
        short = []
        for row in table.rows:
            if metric not in row.halves or not row.has(metric) or not row.counts:
                continue
            cell, half, own = row.cells[metric], row.halves[metric], row.counts[side]
            fits = [
                k
                for k in dict.fromkeys([own, row.sizes[row.positive], row.n])
                if half_width(cell, k, table.level).meets(half)
            ]
            if fits and own not in fits and own < fits[0]:
                short.append((row, cell, half, own, fits[0]))
        if short:
            row, cell, half, own, n = short[0]
            shown = (
                f"{row.label}: ± {half.text} is of n = {n:,}; n = {own:,} gives "
                f"± {cell.show(half_width(cell, own, table.level).high)}"
            )
            factor = max(math.sqrt(n / own) for *_, own, n in short)
            words = (
                f"the intervals are of more images than the metric is taken over, in {len(short)} "
                f"rows, and so too short, by up to {factor:.2f} times"
            )
            yield Finding("all", row.heads[metric], "interval", shown, words, "unexplained")


def _no_proportion(table: _Table):
    """The normal interval of a proportion, used for what is none."""
    pixels = any(r.has(m) for r in table.rows for m in _OVERLAP)
    heads, shown = [], ""
    for metric in dict.fromkeys(m for r in table.rows for m in r.halves):
        rows = [r for r in table.rows if metric in r.halves and r.n and r.has(metric)]
        if not rows or (metric in _PROPORTIONS and not pixels):
            continue
        if all(
            any(
                half_width(r.cells[metric], k, table.level).meets(r.halves[metric])
                for k in {r.n, r.sizes.get(r.of, r.n)}
            )
            for r in rows
        ):
            heads.append(rows[0].heads[metric])
            shown = shown or f"{rows[0].cells[metric].text} ± {rows[0].halves[metric].text}"
    if heads:
        words = "the normal interval of a share of n images, but " + (
            "these are of pixels, not of images" if pixels else "this is no share of images"
        )
        yield Finding("all", ", ".join(heads), "interval", shown, words, "unexplained")


def _repeated(table: _Table):
    """The same five or more numbers in several rows."""
    seen = {}
    for row in table.rows:
        if not row.kind and len(row.cells) >= 5:
            seen.setdefault(tuple((m, c.text) for m, c in row.cells.items()), []).append(row)
    for cells, rows in seen.items():
        if len(rows) > 1:
            yield Finding(
                "; ".join(r.label for r in rows),
                rows[0].named(*(m for m, _ in cells)),
                "repeated",
                ", ".join(text for _, text in cells),
                f"{len(rows)} rows print the same {len(cells)} numbers; equal counts can happen by chance",
                "unexplained",
            )


_TABLE_RULES = (
    _class_rows,
    _averages,
    _regions,
    _error_is_rest,
    _too_short,
    _no_proportion,
    _repeated,
)


def _sums(frame: pd.DataFrame, rows: list[_Row], sums: Iterable[tuple], class_column: str | None):
    """Parts that add up: columns in each row, rows in each column of counts."""
    counts = [
        h
        for h in frame
        if any(_whole(c) for c in frame[h])
        and all(_whole(c) or c.strip().lower() in _MISSING for c in frame[h])
    ]
    sums = list(sums)
    if class_column:
        for i, row in enumerate(rows):
            parts = [j for j, r in enumerate(rows) if not r.kind and r.group == row.group]
            if row.kind == "total" and len(parts) > 1:
                sums.append((i, parts))
    for total, parts in sums:
        parts = list(parts)
        by_column = isinstance(parts[0], str)
        if missing := [p for p in parts if by_column and p not in frame]:
            raise ValueError(f"sums: no column {missing}; the table has {list(frame.columns)}")
        for at in range(len(rows)) if by_column else counts:
            if by_column:
                whole = frame.at[at, total] if total in frame else str(total)
                texts, label, head = (
                    [frame.at[at, p] for p in parts],
                    rows[at].label,
                    ", ".join(parts),
                )
            else:
                whole = frame.at[total, at] if isinstance(total, int) else str(total)
                texts = [frame.at[p, at] for p in parts]
                label, head = rows[total].label if isinstance(total, int) else "all", at
            if all(_number(t) for t in (whole, *texts)):
                yield _sum(label, head, whole, texts)


def _within_cells(frame: pd.DataFrame, rows: list[_Row]):
    """Cells such as "1427 (COVID-19: 224, Pneumonia: 700, Normal: 504)"."""
    for header, cells in frame.items():
        for row, cell in zip(rows, cells, strict=True):
            for whole, inside in re.findall(rf"({_N}) \(([^()]*:[^()]*)\)", cell):
                parts = re.findall(rf": ({_N})(?=,|$)", inside)
                if len(parts) > 1:
                    yield _sum(row.label, header, whole, parts)


def _sum(label: str, head: str, whole: str, texts: list[str]) -> Finding:
    total, parts = printed(whole, percent=False), [printed(t, percent=False) for t in texts]
    added = sum(p.value for p in parts)
    exact = all(p.unit == 1 for p in (total, *parts))
    found = Range(sum(p.low for p in parts), sum(p.high for p in parts))
    fits = added == total.value if exact else found.meets(total)
    shown = " + ".join(texts) + f" = {added:,.{0 if exact else parts[0].decimals}f}"
    return Finding(
        label,
        head,
        "sum",
        shown if fits else f"{shown}, printed {whole}",
        "the parts add up" if fits else "the parts do not add up to the whole",
        "consistent" if fits else "impossible",
    )


def _whole(cell: str) -> bool:
    return bool(re.fullmatch(r"\d{1,3}(,\d{3})+|\d+", cell.strip()))


def _ratios(frame, rows, share, part, whole):
    if missing := [h for h in (share, part, whole) if h not in frame]:
        raise ValueError(f"ratios: no column {missing}; the table has {list(frame.columns)}")
    for i, row in enumerate(rows):
        texts = [frame.at[i, h] for h in (share, part, whole)]
        if not all(_number(t) for t in texts):
            continue
        cell = printed(texts[0], percent="%" in share or None)
        k, n = (float(t.replace(",", "")) for t in texts[1:])
        fits = cell.holds(k / n)
        how = "rounded" if cell.holds(k / n, "rounded") else "cut, not rounded"
        yield Finding(
            row.label,
            ", ".join((share, part, whole)),
            "ratio",
            f"{texts[1]}/{texts[2]} = {cell.show(k / n, 2)}",
            f"as printed, {how}" if fits else f"printed {texts[0]}",
            "consistent" if fits else "impossible",
        )
