"""Arithmetic on printed numbers, against brute force, exact decimals and tables known to be honest.

The first duty of a check is to accuse nobody falsely: honest tables, printed in every way, must
pass. The second is to find what was planted, and what is known of the five papers.
"""

import itertools
import math
import re
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from covidlab import appraisal, paths
from covidlab.appraisal import papers
from covidlab.evaluation import published, tables

ROOT = Path(__file__).resolve().parents[2]
WAYS = {"half up": ROUND_HALF_UP, "half even": ROUND_HALF_EVEN, "cut": ROUND_DOWN}


def shown(x, decimals: int, way: str, percent: bool = False) -> str:
    """x as a program would print it, in exact decimals."""
    with localcontext() as context:
        context.prec = 60
        if isinstance(x, Fraction):
            x = Decimal(x.numerator) / Decimal(x.denominator)
        value = Decimal(x) * (100 if percent else 1)
        return str(value.quantize(Decimal(1).scaleb(-decimals), WAYS[way]))


def exact(tp: int, fn: int, fp: int, tn: int) -> dict[str, Fraction | Decimal]:
    """The metrics of one matrix from their definitions, without floats; 0 where 0/0."""

    def ratio(a, b):
        return Fraction(a, b) if b else Fraction(0)

    with localcontext() as context:
        context.prec = 60
        margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        mcc = Decimal(tp * tn - fp * fn) / Decimal(margins).sqrt() if margins else Decimal(0)
    recall, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {
        "accuracy": ratio(tp + tn, tp + fn + fp + tn),
        "recall": recall,
        "specificity": specificity,
        "precision": ratio(tp, tp + fp),
        "f_score": ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": mcc,
        "npv": ratio(tn, tn + fn),
        "balanced_accuracy": (recall + specificity) / 2,
    }


def random_matrix(rng, most: int = 60) -> tuple[int, int, int, int]:
    n_pos, n_neg = rng.integers(1, most, 2)
    tp, tn = rng.integers(n_pos + 1), rng.integers(n_neg + 1)
    return int(tp), int(n_pos - tp), int(n_neg - tn), int(tn)


# --- a printed number ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_number_holds_what_is_printed_as_it_and_not_its_neighbours(way):
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, decimals, percent = (
            int(rng.integers(1, 900)),
            int(rng.integers(0, 4)),
            rng.random() < 0.5,
        )
        x = Fraction(int(rng.integers(-n, n + 1)), n)
        text = shown(x, decimals, way, percent)
        cell = appraisal.printed(text, percent=percent)
        assert cell.holds(float(x)) and cell.holds(float(x), "cut" if way == "cut" else "rounded")
        assert cell.low <= float(x) <= cell.high + 2e-9 or x == cell.value
        for off in (-2, 2):
            assert not cell.holds(float(x) + off * cell.unit)


def test_reading_a_number():
    cell = appraisal.printed("97.97")
    assert (cell.value, cell.percent, cell.decimals) == (pytest.approx(0.9797), True, 2)
    assert cell.low == pytest.approx(0.97965) and cell.high == pytest.approx(0.9798, abs=1e-7)
    assert not cell.holds(0.9798) and cell.holds(0.979799)
    assert appraisal.printed("0.98").percent is False and appraisal.printed("0.5 %").percent
    assert appraisal.printed(98.8).unit == pytest.approx(0.001)
    assert appraisal.printed(98.8, decimals=2).unit == pytest.approx(0.0001)
    assert appraisal.printed("−0.12", percent=False).holds(-0.1299, "cut")
    assert appraisal.printed("11,956", percent=False).value == 11956
    for bad in ("97,97%x", "", "nan", "about 90"):
        with pytest.raises(ValueError, match="no number"):
            appraisal.printed(bad)
    with pytest.raises(ValueError, match="how="):
        cell.holds(0.9, how="ceiling")


# --- granularity ---------------------------------------------------------------------------------


def test_the_worked_example_of_khan():
    none = appraisal.attainable("97.97", 166)
    assert not none and none.counts == ()
    assert str(none) == "97.97: no count of 166 (162/166 = 97.59, 163/166 = 98.19)"
    one = appraisal.attainable("98.80", 166)
    assert one and one.counts == (164,) and one.rounded == (164,) and one.cut == ()
    assert appraisal.attainable("98.79", 166).cut == (164,)
    assert appraisal.attainable("0.99", 74).counts == (73,)
    assert appraisal.attainable(0.9865, 74).counts == (73,)


@pytest.mark.parametrize("n", [1, 7, 91, 166])
def test_attainable_is_what_brute_force_prints(n):
    by_text = {}
    for k in range(n + 1):
        for way in WAYS:
            by_text.setdefault(shown(Fraction(k, n), 1, way, True), set()).add(k)
    for m in range(1001):
        text = f"{m / 10:.1f}"
        found = appraisal.attainable(text, n, percent=True)
        assert set(found.counts) == by_text.get(text, set())
    found = appraisal.attainable("50.0", n)
    assert found.chance == pytest.approx(len(by_text) / 1001)


@pytest.mark.parametrize("sizes, runs", [((3, 3, 2), 1), ((5, 4), 1), ((6,), 3), ((4, 4), 1)])
def test_means_over_folds_and_runs_are_what_brute_force_prints(sizes, runs):
    by_text = {}
    for hits in itertools.product(*(range(s + 1) for s in sizes * runs)):
        mean = sum(Fraction(k, s) for k, s in zip(hits, sizes * runs, strict=True))
        for way in WAYS:
            text = shown(mean / (len(sizes) * runs), 2, way, True)
            by_text.setdefault(text, set()).add(sum(hits))
    n = sizes[0] if len(sizes) == 1 else sizes
    for m in range(0, 10001, 7):
        text = f"{m / 100:.2f}"
        found = appraisal.attainable(text, n, percent=True, runs=runs)
        assert set(found.counts) == by_text.get(text, set())
    for text, hits in by_text.items():
        assert set(appraisal.attainable(text, n, percent=True, runs=runs).counts) == hits


def test_folds_are_dealt_evenly_and_bad_input_is_named():
    assert appraisal.fold_sizes(829, 5) == (166, 166, 166, 166, 165)
    assert sum(appraisal.fold_sizes(134, 5)) == 134
    for call in (
        lambda: appraisal.attainable("98.8", 0),
        lambda: appraisal.attainable("98.8", 10, runs=0),
        lambda: appraisal.fold_sizes(3, 4),
    ):
        with pytest.raises(ValueError, match="at least one|cannot be dealt"):
            call()
    with pytest.raises(ValueError, match="too many sums"):
        appraisal.attainable("98.8", [400, 401, 402, 403, 404])


# --- confusion matrices --------------------------------------------------------------------------


def test_confusions_are_those_that_brute_force_finds():
    rng = np.random.default_rng(1)
    n_pos, n_neg = 9, 12
    every = [(tp, n_pos - tp, n_neg - tn, tn) for tp in range(n_pos + 1) for tn in range(n_neg + 1)]
    for _ in range(25):
        true = every[rng.integers(len(every))]
        names = list(rng.choice(list(exact(1, 1, 1, 1)), size=rng.integers(1, 5), replace=False))
        way = str(rng.choice(list(WAYS)))
        texts = {m: shown(exact(*true)[m], 2, way) for m in names}
        expected = {
            matrix
            for matrix in every
            if all(
                any(Decimal(shown(exact(*matrix)[m], 2, w)) == Decimal(t) for w in WAYS)
                for m, t in texts.items()
            )
        }
        found = appraisal.confusions(n_pos, n_neg, **texts)
        assert set(zip(found.tp, found.fn, found.fp, found.tn, strict=True)) == expected
        assert true in expected


@pytest.mark.parametrize("way", WAYS)
def test_the_true_matrix_is_always_among_those_found(way):
    rng = np.random.default_rng(2)
    for _ in range(40):
        true = random_matrix(rng)
        tp, fn, fp, tn = true
        texts = {m: shown(v, int(rng.integers(1, 5)), way) for m, v in exact(*true).items()}
        found = appraisal.confusions(tp + fn, fp + tn, **texts)
        rows = found[["tp", "fn", "fp", "tn"]].to_numpy().tolist()
        assert list(true) in rows
        printed = found.set_index(["tp", "fn", "fp", "tn"]).loc[true, "printed"]
        allowed = {"cut", "rounded"} if way == "cut" else {"rounded"}
        assert printed in allowed
        strict = appraisal.confusions(
            tp + fn, fp + tn, "cut" if way == "cut" else "rounded", **texts
        )
        assert list(true) in strict[["tp", "fn", "fp", "tn"]].to_numpy().tolist()


def test_confusions_of_the_published_rows():
    """Khan's CoV-CTNet row has one matrix; Tahir's U-Net++ with ResNet18 too (574 and 583)."""
    row = {"accuracy": "98.80", "f_score": "0.99", "mcc": "0.98", "precision": "0.99"}
    found = appraisal.confusions(74, 92, **row, specificity="0.99", sensitivity="0.99")
    assert found[["tp", "fn", "fp", "tn"]].to_numpy().tolist() == [[73, 1, 1, 91]]
    row = {"accuracy": "99.23", "precision": "100", "recall": "98.46", "specificity": "100"}
    found = appraisal.confusions(583, 583, **row, f1="99.22")
    assert found[["tp", "fn", "fp", "tn"]].to_numpy().tolist() == [[574, 9, 0, 583]]
    assert appraisal.confusions(74, 92, accuracy="97.97").empty


def test_confusions_name_what_is_wrong():
    with pytest.raises(ValueError, match="'auc' is not known; choose of: accuracy"):
        appraisal.confusions(3, 3, auc="0.9")
    with pytest.raises(ValueError, match="at least one printed metric"):
        appraisal.confusions(3, 3)
    with pytest.raises(ValueError, match="n_pos=-1"):
        appraisal.confusions(-1, 3, accuracy="0.9")


def test_other_readings_of_ahmeds_folds_and_none_for_an_honest_row():
    fold = {"accuracy": "98.78", "sensitivity": "97.56", "specificity": "98.03"}
    found = appraisal.other_readings(41, 50, **fold)
    assert found[["tp", "fn", "fp", "tn"]].to_numpy().tolist() == [[40, 1, 0, 50]]
    assert (
        found.reading[0]
        == "accuracy is balanced accuracy and specificity is negative predictive value"
    )
    # by hand: (40/41 + 50/50)/2 = 81/82 and 50/51
    assert shown(Fraction(81, 82), 2, "half up", True) == "98.78"
    assert shown(Fraction(50, 51), 2, "cut", True) == "98.03"
    matrix = exact(35, 6, 9, 41)
    swapped = {
        m: shown(matrix[m], 2, "half up", True) for m in ("recall", "specificity", "accuracy")
    }
    found = appraisal.other_readings(50, 41, **swapped)
    assert "the classes are exchanged" in set(found.reading[found.changes == 1])


def random_confusion(rng, classes: int, most: int) -> np.ndarray:
    matrix = rng.integers(0, most, (classes, classes))
    matrix[np.diag_indices(classes)] += 1
    return matrix


def one_against_rest(matrix: np.ndarray, i: int) -> tuple[int, int, int, int]:
    tp = int(matrix[i, i])
    fn, fp = int(matrix[i].sum() - tp), int(matrix[:, i].sum() - tp)
    return tp, fn, fp, int(matrix.sum()) - tp - fn - fp


@pytest.mark.parametrize("classes, most", [(2, 9), (3, 30), (4, 6)])
def test_the_true_counts_of_many_classes_are_always_among_those_found(classes, most):
    rng = np.random.default_rng(classes)
    names = "abcd"[:classes]
    for _ in range(8):
        matrix = random_confusion(rng, classes, most)
        rest = {c: one_against_rest(matrix, i) for i, c in enumerate(names)}
        way = str(rng.choice(list(WAYS)))
        given = {
            m: {c: shown(exact(*r)[m], 3, way) for c, r in rest.items()}
            for m in ("recall", "precision", "f_score")
        }
        sizes = dict(zip(names, matrix.sum(1).tolist(), strict=True))
        total = shown(Fraction(int(np.trace(matrix)), int(matrix.sum())), 3, way)
        found = appraisal.class_confusions(sizes, given, accuracy=total)
        assert found.attrs["complete"]
        rows = found.to_numpy().tolist()
        truth = [v for c in names for v in rest[c][:3]]
        assert truth in rows
        here = found.iloc[rows.index(truth)]
        every = appraisal.matrices(sizes, here, limit=600)
        assert len(every) == 600 or any((m == matrix).all() for m in every)
        assert all((m.sum(1) == matrix.sum(1)).all() and (m >= 0).all() for m in every)
        assert all((m.sum(0) == matrix.sum(0)).all() for m in every)


def test_three_classes_are_searched_without_a_gap():
    """Every matrix of 3 + 2 + 2 images, grouped by its counts, and nothing else."""
    sizes = {"a": 3, "b": 2, "c": 2}
    rows = [
        [r for r in itertools.product(range(n + 1), repeat=3) if sum(r) == n]
        for n in sizes.values()
    ]
    groups = {}
    for matrix in itertools.product(*rows):
        matrix = np.array(matrix)
        key = tuple(v for i in range(3) for v in one_against_rest(matrix, i)[:3])
        groups.setdefault(key, []).append(matrix)
    loose = {"accuracy": dict.fromkeys(sizes, appraisal.printed("0.5", decimals=-1))}  # all fit
    found = appraisal.class_confusions(sizes, loose)
    assert {tuple(r) for r in found.to_numpy().tolist()} == set(groups)
    for _, row in found.iterrows():
        expected = {m.tobytes() for m in groups[tuple(row)]}
        assert {m.tobytes() for m in appraisal.matrices(sizes, row)} == expected
    cut_off = appraisal.class_confusions(sizes, loose, limit=3)
    assert len(cut_off) == 3 and not cut_off.attrs["complete"]


def test_class_confusions_name_what_is_wrong():
    with pytest.raises(ValueError, match="'d'"):
        appraisal.class_confusions({"a": 3, "b": 4}, {"recall": {"d": "0.5"}})
    with pytest.raises(ValueError, match="no metric of class 'b'"):
        appraisal.class_confusions({"a": 3, "b": 4}, {"recall": {"a": "0.67"}})
    for n, words in ((300, "too many to combine.*precision"), (90_000, "too many to try")):
        big = dict.fromkeys("abc", n)
        with pytest.raises(ValueError, match=words):
            appraisal.class_confusions(big, {"recall": dict.fromkeys(big, "0.90")})


def test_class_sizes_of_gargs_test_set_and_of_brute_force():
    found = appraisal.class_sizes(90, {"N": "88.57", "CAP": "90.00", "C": "88.57"}, "88.89")
    assert found.to_numpy().tolist() == [[35, 31, 20, 18, 35, 31]]
    n, shares, total = 12, {"a": "0.67", "b": "0.8"}, "0.75"
    expected = []
    for size in range(1, n):
        for a, b in itertools.product(range(size + 1), range(n - size + 1)):
            texts = [
                {Decimal(shown(Fraction(k, m), d, w)) for w in WAYS}
                for k, m, d in ((a, size, 2), (b, n - size, 1), (a + b, n, 2))
            ]
            if all(Decimal(t) in s for t, s in zip([*shares.values(), total], texts, strict=True)):
                expected.append([size, a, n - size, b])
    assert sorted(appraisal.class_sizes(n, shares, total).to_numpy().tolist()) == expected


def test_the_scan_finds_the_sizes_that_were_used():
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(12):
        tp, tn = rng.integers(24, 32), rng.integers(35, 48)
        values = exact(int(tp), int(31 - tp), int(47 - tn), int(tn))
        rows.append(
            {
                "recall": shown(values["recall"], 2, "half up"),
                "specificity": shown(values["specificity"], 2, "half up"),
                "accuracy": shown(values["balanced_accuracy"], 2, "half up", True),
            }
        )
    table = pd.DataFrame([*rows, rows[0]])
    found = appraisal.scan_sizes(table, range(20, 60), accuracy="balanced_accuracy")
    distinct = len(table.drop_duplicates())
    assert found.stack().idxmax() == (31, 47) and found.loc[31, 47] == distinct
    assert sorted(found.to_numpy().ravel())[-2] < distinct
    plain = appraisal.scan_sizes(table, [31, 47])
    by_hand = sum(
        any(
            appraisal.printed(r["accuracy"]).holds((k + m) / 78)
            for k in appraisal.attainable(r["recall"], 31).counts
            for m in appraisal.attainable(r["specificity"], 47).counts
        )
        for r in table.drop_duplicates().to_dict("records")
    )
    assert plain.loc[31, 47] == by_hand
    with pytest.raises(ValueError, match="accuracy='auc'"):
        appraisal.scan_sizes(table, accuracy="auc")


# --- identities and bounds -----------------------------------------------------------------------


def inside(value, bounds, slack=1e-9):
    return bounds.low - slack <= float(value) <= bounds.high + slack


def test_every_bound_holds_for_random_matrices():
    rng = np.random.default_rng(4)
    for _ in range(200):
        true = random_matrix(rng)
        sizes, values = (true[0] + true[1], true[2] + true[3]), exact(*true)
        text = {
            m: appraisal.printed(shown(v, 2, "half up"), percent=False) for m, v in values.items()
        }
        rates = text["recall"], text["specificity"]
        assert inside(values["accuracy"], appraisal.accuracy_bounds(*rates, *sizes))
        assert inside(values["accuracy"], appraisal.accuracy_bounds(*rates, 1, 0)) or inside(
            values["accuracy"],
            appraisal.Range(min(c.low for c in rates), max(c.high for c in rates)),
        )
        assert inside(values["precision"], appraisal.precision_bounds(*rates, *sizes))
        assert inside(values["mcc"], appraisal.mcc_bounds(*rates, *sizes))
        one = appraisal.f_score_bounds(text["precision"], text["recall"])
        assert inside(values["f_score"], one)
        iou = Fraction(true[0], sum(true[:3]) or 1)
        cell = appraisal.printed(shown(iou, 2, "cut"), percent=False)
        assert inside(values["f_score"], appraisal.dice_bounds(cell, mean=False))


def test_means_over_runs_stay_within_what_is_called_impossible():
    rng = np.random.default_rng(5)
    for _ in range(200):
        runs = [exact(*random_matrix(rng)) for _ in range(4)]
        mean = {
            m: sum(map(Fraction, (r[m] for r in runs))) / 4
            for m in ("precision", "recall", "f_score")
        }
        text = {m: appraisal.printed(shown(v, 2, "cut"), percent=False) for m, v in mean.items()}
        found = appraisal.f_score_bounds(text["precision"], text["recall"], mean=True)
        assert inside(mean["f_score"], found)
        iou = rng.random(6) ** rng.random()
        iou[rng.random(6) < 0.2] = rng.choice([0.0, 1.0])
        dice = 2 * iou / (1 + iou)
        cell = appraisal.printed(shown(iou.mean(), 3, "half up"), percent=False)
        assert inside(dice.mean(), appraisal.dice_bounds(cell))
    assert appraisal.dice_bounds("0.9865").high == pytest.approx(2 * 0.9866 / 1.9866, abs=1e-6)


def test_areas_of_random_rankings_are_within_their_bounds():
    rng = np.random.default_rng(6)
    for _ in range(40):
        n_pos, n_neg = rng.integers(2, 30, 2)
        truth = np.repeat([1, 0], [n_pos, n_neg])
        score = rng.permutation(n_pos + n_neg) + rng.integers(0, 30) * truth
        score = score + rng.random(len(score)) / 10
        called = score >= rng.choice(score)
        recall, specificity = called[:n_pos].mean(), 1 - called[n_pos:].mean()
        r, s = (
            appraisal.printed(shown(v, 3, "half up"), percent=False) for v in (recall, specificity)
        )
        assert inside(sk.roc_auc_score(truth, score), appraisal.auc_bounds(r, s))
        assert inside(sk.roc_auc_score(truth, score), appraisal.auc_bounds(r, s, mean=True))
        area = appraisal.average_precision_bounds(r, s, int(n_pos), int(n_neg))
        assert inside(sk.average_precision_score(truth, score), area)


def test_the_bounds_of_areas_are_reached():
    """8 of 10 positives and 3 of 20 negatives above the cut; worst and best order around it."""
    worst = [0] * 3 + [1] * 8 + [0] * 17 + [1] * 2
    best = [1] * 8 + [0] * 3 + [1] * 2 + [0] * 17
    r, s = "0.800000000", "0.850000000"
    roc, area = appraisal.auc_bounds(r, s), appraisal.average_precision_bounds(r, s, 10, 20)
    for order, i in ((worst, 0), (best, 1)):
        score = -np.arange(30)
        assert sk.roc_auc_score(order, score) == pytest.approx(roc[i], abs=1e-6)
    assert sk.average_precision_score(worst, -np.arange(30)) == pytest.approx(area.low, abs=1e-6)
    top = [1] * 8 + [1] * 2 + [0] * 20  # the cut between 8 and 9 positives is of no false alarm
    assert sk.average_precision_score(top, -np.arange(30)) >= area.high - 1e-6
    best_score = np.concatenate([-np.arange(11.0), [-11, -12], -13 - np.arange(17.0)])
    assert sk.average_precision_score(best, best_score) == pytest.approx(area.high, abs=1e-6)


def test_half_widths_are_those_of_statsmodels_and_give_n_back():
    rng = np.random.default_rng(7)
    for _ in range(50):
        n = int(rng.integers(30, 7000))
        k = int(rng.integers(n // 2, n - 10))
        low, high = proportion_confint(k, n, method="normal")
        value = shown(Fraction(k, n), 2, "half up", True)
        half = shown((high - low) / 2, 2, "half up", True)
        if k / n + (high - low) / 2 < 1:
            assert inside((high - low) / 2, appraisal.half_width(value, n), 1e-12)
            assert inside(n, appraisal.implied_n(value, half))
    assert appraisal.half_width("50.0", 100).high == pytest.approx(0.098, abs=1e-4)
    assert (
        appraisal.implied_n("88.27", "3.07").low < 423 < appraisal.implied_n("88.27", "3.07").high
    )
    assert appraisal.implied_n("100", "0").high == math.inf


# --- honest tables are never accused -------------------------------------------------------------


def binary_row(rng, n_pos, n_neg, way, decimals):
    truth = np.repeat([1, 0], [n_pos, n_neg])
    score = np.round(rng.normal(truth * 1.5, 1), 2)
    called = (score > 0.75).astype(int)
    tn, fp, fn, tp = sk.confusion_matrix(truth, called).ravel().tolist()
    values = exact(tp, fn, fp, tn)
    row = {
        m: shown(values[m], decimals, way) for m in ("recall", "specificity", "precision", "mcc")
    }
    row["accuracy (%)"] = shown(values["accuracy"], decimals, way, True)
    row["F1-score"] = shown(values["f_score"], decimals, way)
    row["ROC-AUC"] = shown(float(sk.roc_auc_score(truth, score)), decimals, way)
    return row


@pytest.mark.parametrize("way", WAYS)
def test_honest_binary_tables_pass(way):
    rng = np.random.default_rng(8)
    for _ in range(4):
        sizes = {"ill": int(rng.integers(5, 90)), "well": int(rng.integers(5, 90))}
        rows = [binary_row(rng, *sizes.values(), way, int(rng.integers(2, 4))) for _ in range(4)]
        table = pd.DataFrame(rows)
        table.insert(0, "Model", ["a", "b", "c", "d"])
        found = appraisal.check_table(table, classes=sizes)
        assert set(found.severity) == {"consistent"}, found[found.severity != "consistent"].to_dict(
            "records"
        )
        assert {"granularity", "matrix", "F1", "accuracy", "precision", "MCC", "AUC"} <= set(
            found.rule
        )


def test_honest_means_over_folds_are_never_impossible():
    rng = np.random.default_rng(9)
    names = ("accuracy", "recall", "specificity", "precision", "f_score", "mcc")
    for _ in range(6):
        n_pos, n_neg = (int(v) for v in rng.integers(20, 60, 2))
        folds = []
        for _ in range(5):
            tp, tn = (int(rng.integers(n // 2, n + 1)) for n in (n_pos, n_neg))
            folds.append(exact(tp, n_pos - tp, n_neg - tn, tn))
        mean = {m: sum(Fraction(f[m]) for f in folds) / 5 for m in names}
        rows = [{m: shown(f[m], 3, "half up") for m in names} for f in folds]
        table = pd.DataFrame([*rows, {m: shown(v, 3, "half up") for m, v in mean.items()}])
        table.insert(0, "Fold", ["1", "2", "3", "4", "5", "Average"])
        found = appraisal.check_table(table, classes={"a": n_pos, "b": n_neg})
        assert "impossible" not in set(found.severity)
        assert set(found[found.rule == "average"].severity) == {"consistent"}
        alone = appraisal.check_table(
            table.tail(1).replace("Average", "ours"), classes={"a": n_pos, "b": n_neg}, runs=5
        )
        assert "impossible" not in set(alone.severity)
        tried = alone[alone.rule == "granularity"].verdict.str.contains("single proportion")
        assert (
            alone[alone.rule == "granularity"]
            .verdict[tried]
            .str.contains("attainable as a mean over 5 runs")
            .all()
        )


def test_honest_class_rows_with_intervals_pass_and_give_their_matrix_back():
    rng = np.random.default_rng(10)
    matrix = rng.integers(5, 40, (3, 3)) + np.diag([300, 250, 200])
    sizes = dict(zip("xyz", matrix.sum(1).tolist(), strict=True))
    names = {
        "accuracy": "Accuracy",
        "precision": "Precision",
        "recall": "Sensitivity",
        "f_score": "F1-score",
    }
    truth = np.repeat([0, 1, 2], matrix.sum(1))
    called = np.concatenate([np.repeat([0, 1, 2], row) for row in matrix])
    rows, classes = [], {}
    for i, c in enumerate("xyz"):
        classes[c] = exact(*one_against_rest(matrix, i))
        n = sizes[c]
        rows.append({"Class": c})
        for m, head in names.items():
            v = float(classes[c][m])
            text = shown(classes[c][m], 2, "half up", True)
            half = 1.96 * math.sqrt(v * (1 - v) / n)
            rows[-1][head] = (
                f"{text} ± {shown(half, 2, 'half up', True)}" if m != "f_score" else text
            )
    weighted = sk.precision_recall_fscore_support(truth, called, average="weighted")
    overall = {"Precision": weighted[0], "Sensitivity": weighted[1], "F1-score": weighted[2]}
    overall["Accuracy"] = sum(sizes[c] * float(classes[c]["accuracy"]) for c in "xyz") / len(truth)
    rows.append(
        {"Class": "Overall"} | {h: shown(v, 2, "half up", True) for h, v in overall.items()}
    )
    found = appraisal.check_table(pd.DataFrame(rows), classes=sizes, class_column="Class")
    assert set(found.severity) == {"consistent"}, found[found.severity != "consistent"].to_dict(
        "records"
    )
    assert (found.rule == "average").sum() == 4
    whole = found[(found.rule == "matrix") & (found.arithmetic.str.contains("x "))]
    assert f"x {matrix[0, 0]}/{sizes['x']}" in whole.arithmetic.iloc[0]

    rows[3]["F1-score"] = shown(overall["F1-score"] - 0.004, 2, "half up", True)
    found = appraisal.check_table(pd.DataFrame(rows), classes=sizes, class_column="Class")
    assert (found[found.rule == "average"].severity == "unexplained").sum() == 1


def test_honest_masks_pass_averaged_or_pooled():
    rng = np.random.default_rng(11)
    for pooled in (True, False):
        rows, truth = [], rng.random((6, 400)) < 0.3
        for model in range(4):
            called = truth ^ (rng.random((6, 400)) < 0.03 * (model + 1))
            groups = (
                [(truth.ravel(), called.ravel())]
                if pooled
                else list(zip(truth, called, strict=True))
            )
            tp, fp, fn, tn = (
                np.array([f(t, c).sum() for t, c in groups])
                for f in (
                    lambda t, c: t & c, lambda t, c: ~t & c, lambda t, c: t & ~c, lambda t, c: ~t & ~c,
                )
            )  # fmt: skip
            infected, rest = tp / (tp + fp + fn), tn / (tn + fp + fn)
            whole = {
                "%G_Acc": (tp + tn) / (tp + tn + fp + fn),
                "%M_IOU": (infected + rest) / 2,
                "%W_IOU": ((tp + fn) * infected + (tn + fp) * rest) / (tp + tn + fp + fn),
                "%M_Acc": (tp / (tp + fn) + tn / (tn + fp)) / 2,
            }
            for region, iou, accuracy in (
                ("infected", infected, tp / (tp + fn)),
                ("rest", rest, tn / (tn + fp)),
            ):
                values = {"%IOU": iou, "Acc (%)": accuracy, **whole}
                row = {h: shown(float(v.mean()), 2, "half up", True) for h, v in values.items()}
                row["DSC"] = shown(float((2 * iou / (1 + iou)).mean()), 3, "half up")
                rows.append({"Model": f"m{model}", "Region": region, **row})
        found = appraisal.check_table(
            pd.DataFrame(rows), class_column="Region", names={"Acc (%)": "class_accuracy"}
        )
        assert {"Dice and IoU", "regions", "IoU and recall"} <= set(found.rule)
        if pooled:
            assert set(found.severity) == {"consistent"}, found[found.severity != "consistent"]
            share = found[found.rule == "pixel share"].set_index("row")
            assert share.loc["all"].verdict == "one test set has one share of pixels"
            low, high = map(float, re.findall(r"[\d.]+", share.loc["all"].arithmetic)[2:])
            assert low - 0.05 <= 100 * truth.mean() <= high + 0.05
        else:
            assert set(found[found.rule != "pixel share"].severity) == {"consistent"}
        bad = pd.DataFrame(rows)
        bad.loc[0, "DSC"] = shown(float(bad.loc[0, "%IOU"]) / 100 - 0.01, 3, "half up")
        found = appraisal.check_table(
            bad, class_column="Region", names={"Acc (%)": "class_accuracy"}
        )
        worst = found[(found.rule == "Dice and IoU") & (found.severity != "consistent")]
        assert worst.row.tolist() == ["m0, infected"] and "below the IoU" in worst.verdict.iloc[0]


# --- a reader's own table ------------------------------------------------------------------------

OWN = pd.DataFrame(
    {
        "Model": ["ours", "theirs"],
        "Acc. of images": ["93.3 %", "90.0 %"],
        "Sensitivity": [0.95, 0.9],
        "Specificity": [0.9, 0.9],
    }
)


def test_a_table_typed_in_or_from_a_file(tmp_path):
    options = {"classes": {"ill": 40, "well": 20}, "names": {"Acc. of images": "accuracy"}}
    found = appraisal.check_table(OWN, **options)
    assert set(found.severity) == {"consistent"}
    matrix = found[found.rule == "matrix"]
    assert matrix.arithmetic.tolist()[0] == "TP 38, FN 2, FP 2, TN 18"
    OWN.to_csv(tmp_path / "own.csv", index=False)
    again = appraisal.check_table(tmp_path / "own.csv", **options)
    pd.testing.assert_frame_equal(found, again)

    wrong = OWN.assign(Sensitivity=["0.96", "0.90"])
    found = appraisal.check_table(wrong, **options)
    bad = found[found.severity != "consistent"]
    assert set(bad.row) == {"ours"} and {"granularity", "matrix"} <= set(bad.rule)
    said = bad[bad.rule == "granularity"].iloc[0]
    assert said.arithmetic == "0.96: 38/40 = 0.95, 39/40 = 0.97"  # 0.975, and the tie goes to 0.97
    assert "could be a mean, which the source does not state" in said.verdict


@pytest.mark.parametrize(
    "change, rule, severity",
    [
        ({"Accuracy": "97.00"}, "accuracy", "impossible"),
        ({"F1": "0.97"}, "F1", "impossible"),
        ({"F1": "0.85"}, "F1", "unexplained"),
        ({"Precision": "94.40"}, "range", "impossible"),
        ({"MCC": "0.99"}, "MCC", "unexplained"),
        ({"AUC": "0.60"}, "AUC", "impossible"),
        ({"AUC": "1.00"}, "AUC", "unexplained"),
    ],
)
def test_what_is_planted_is_found(change, rule, severity):
    """102 of 120 ill and 108 of 120 well: recall 0.85, specificity 0.90."""
    row = {"Accuracy": "87.50", "Recall": "0.85", "Specificity": "0.90", "Precision": "0.89"}
    row |= {"F1": "0.87", "MCC": "0.75", "AUC": "0.94"}
    options = {"classes": {"ill": 120, "well": 120}, "names": {"AUC": "roc_auc"}}
    honest = appraisal.check_table(pd.DataFrame([row]), **options)
    assert set(honest.severity) == {"consistent"}
    bad = pd.DataFrame([row | change])
    bad.loc[1] = list(row.values())  # a second row, so that one cell does not decide the unit
    bad.loc[2] = list(row.values())
    found = appraisal.check_table(bad, **options)
    found = found[(found.row == "row 1") & (found.rule == rule)]
    assert found.severity.tolist() == [severity]


def test_accuracy_outside_its_parts_is_impossible_for_one_set_of_images_only():
    """Two folds, 1 + 9 and 9 + 1 images: recall 0.5, specificity 0.5, but accuracy 0.9 in the mean."""
    table = pd.DataFrame({"Accuracy": ["0.90"], "Recall": ["0.50"], "Specificity": ["0.50"]})
    folds = [exact(0, 1, 0, 9), exact(9, 0, 1, 0)]
    means = [sum(f[m] for f in folds) / 2 for m in ("accuracy", "recall", "specificity")]
    assert [shown(v, 2, "half up") for v in means] == table.iloc[0].tolist()
    for options, severity in (
        ({"classes": {"ill": 10, "well": 10}}, "impossible"),
        ({"classes": {"ill": 10, "well": 10}, "folds": 2}, "unexplained"),
        ({}, "unexplained"),
    ):
        found = appraisal.check_table(table, **options)
        assert found[found.rule == "accuracy"].severity.tolist() == [severity]


def test_sums_ratios_and_printed_intervals():
    data = pd.DataFrame(
        {
            "Class": ["a", "b", "Total"],
            "All": ["100", "50", "150"],
            "Train": ["60", "31", "90"],
            "Test": ["40", "19", "59"],
            "Share (%)": ["60.00", "62.0", "60.66"],
        }
    )
    found = appraisal.check_table(
        data,
        class_column="Class",
        sums=[("All", ["Train", "Test"])],
        ratios=[("Share (%)", "Train", "All")],
    )
    bad = found[found.severity != "consistent"]
    assert set(bad.arithmetic) == {
        "60 + 31 = 91, printed 90",
        "90 + 59 = 149, printed 150",
        "90/150 = 60.0000",
    }
    assert set(bad.severity) == {"impossible"} and len(found) == 9

    low, high = proportion_confint(88, 100, method="wilson")
    cell = f"0.88 [{low:.3f}, {high:.3f}]"
    right = appraisal.check_table(pd.DataFrame({"Accuracy": [cell]}), n=100)
    assert "Wilson's interval for n = 100" in set(right.verdict)
    wrong = appraisal.check_table(pd.DataFrame({"Accuracy": ["0.88 [0.86, 0.90]"]}), n=100)
    assert wrong[wrong.rule == "interval"].severity.tolist() == ["unexplained"]


def test_bad_input_is_named(tmp_path):
    check, table = appraisal.check_table, pd.DataFrame({"Model": ["a"], "Accuracy": ["0.9"]})
    with pytest.raises(FileNotFoundError, match="no such CSV"):
        check(tmp_path / "none.csv")
    for call, words in (
        (lambda: check([1, 2]), "a list; pass a DataFrame or a CSV"),
        (lambda: check(table.head(0)), "no rows"),
        (
            lambda: check(table.assign(Accuracy="good")),
            "column 'Accuracy', row 1: 'good' is no number",
        ),
        (lambda: check(table, n="images"), "n='images' is no column"),
        (lambda: check(table, n=[1, 2]), "one for each of the 1 rows"),
        (lambda: check(table, n=10, classes={"a": 4, "b": 5}), "add up to 9, but n is 10"),
        (lambda: check(table, classes={"a": 0, "b": 5}), "counts are above 0"),
        (lambda: check(table, classes={"a": 4}, positive="ill"), "'ill' is none of the classes"),
        (lambda: check(table, class_column="Class"), r"no column \['Class'\]"),
        (lambda: check(table, names={"Accuracy": "goodness"}), "is no metric; choose of"),
        (lambda: check(table, units="promille"), "units='promille'"),
        (lambda: check(table, sums=[("All", ["Train"])]), r"sums: no column \['Train'\]"),
        (lambda: check(table.assign(Acc="0.8")), "two columns are read as accuracy"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert appraisal.check_table(table, names={"Accuracy": None}).empty


def test_the_number_line_shows_every_value_and_every_count_near_it():
    figure = appraisal.plot_attainable(["98.80", "97.97"], 166)
    yes, no = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert yes.get_xdata().tolist() == pytest.approx([98.8])
    assert no.get_xdata().tolist() == pytest.approx([97.97])
    drawn = {round(s[0][0], 2) for s in figure.axes[0].collections[0].get_segments()}
    assert {97.59, 98.19, 98.8} <= drawn and all(96 < x <= 100 for x in drawn)


# --- the five papers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings():
    return appraisal.appraise()


def of(findings, paper, table, rule):
    found = findings[(findings.paper == paper) & (findings.table == table)]
    return found[found.rule == rule]


def test_khans_known_faults_are_found(findings):
    auc = of(findings, "khan", "3", "AUC")
    assert auc[auc.severity == "impossible"].row.tolist() == [
        "VGG16, Fine-tuned",
        "VGG19, Fine-tuned",
    ]
    assert of(findings, "khan", "3", "range").arithmetic.tolist() == ["95.95 in a fraction"]
    accuracy = of(findings, "khan", "3", "granularity")
    accuracy = accuracy[
        accuracy["columns"].eq("%Accuracy") & ~accuracy.row.str.startswith("tables")
    ]
    assert len(accuracy) == 27 and set(accuracy.severity) == {"unexplained"}
    dice = of(findings, "khan", "5", "Dice and IoU")
    below = published("khan", 5)
    below = below[below["DS"] < below["%IOU"] / 100 - 0.0011]
    assert len(below) == 18 == (dice.severity == "unexplained").sum()
    brackets = of(findings, "khan", "3", "interval")
    assert len(brackets) == 27 and set(brackets.severity) == {"consistent"}


def test_khans_accuracies_are_balanced_ones_of_exchanged_classes():
    rows = appraisal.screening_rows().drop_duplicates()
    fits = 0
    for row in rows.itertuples():
        fits += any(
            Decimal(shown((Fraction(k, 92) + Fraction(m, 74)) / 2, 2, way, True))
            == Decimal(row.accuracy)
            for k in appraisal.attainable(row.recall, 92).counts
            for m in appraisal.attainable(row.specificity, 74).counts
            for way in WAYS
        )
    assert (fits, len(rows)) == (10, 26)
    scan = appraisal.scan_sizes(rows, accuracy="balanced_accuracy")
    assert scan.loc[92, 74] == fits and (scan >= 6).to_numpy().sum() == 1
    assert scan.loc[74, 92] == 0


def test_pixel_shares_of_khans_table_5_by_hand(findings):
    """CoV-RASeg: w = 0.31·0.9865 / (0.9914 − 0.9865 + 0.31 %·…) and so on, at the printed values."""
    iou, found, kept = 0.9865, 0.9914, 0.9969
    odds = iou * (1 - kept) / (found - iou)
    assert 0.38 < odds / (1 + odds) < 0.39
    share = of(findings, "khan", "5", "pixel share").set_index("row")
    assert share.loc["CoV-RASeg"].verdict == "Infected is 38.0 to 39.6 % of all pixels"
    assert share.loc["all"].arithmetic.iloc[0] == "9 of 9 agree on 38.6 to 38.7 %"


def test_infection_in_the_slices_of_ma_et_al_as_quoted(findings):
    folder = next(
        (
            f / "ct-covid19seg-ma"
            for f in paths.dataset_folders()
            if (f / "ct-covid19seg-ma").is_dir()
        ),
        None,
    )
    if folder is None:
        pytest.skip("ct-covid19seg-ma is not here")
    from PIL import Image

    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    share = {
        kind: [(np.asarray(Image.open(folder / f)) > 0).mean() for f in manifest[f"{kind}_mask"]]
        for kind in ("infection", "lung")
    }
    said = of(findings, "khan", "5", "pixel share").verdict.iloc[-1]
    for kind in share.values():
        assert (
            f"{100 * np.mean(kind):.1f} %" in said and f"at most {100 * np.max(kind):.1f} %" in said
        )
    assert f"{len(manifest)} slices of {manifest.patient_id.nunique()} patients" in said


def test_what_is_sound_is_called_so(findings):
    for paper, table in (("garg", "1"), ("garg", "2"), ("khan", "4"), ("alom", "text03")):
        found = findings[(findings.paper == paper) & (findings.table == table)]
        assert len(found) and set(found.severity) == {"consistent"}
    assert "93/98 = 94.90" in " ".join(of(findings, "garg", "1", "weighted mean").arithmetic)
    assert of(findings, "garg", "2", "class sizes").arithmetic.tolist() == [
        "35 + 20 + 35; 31/35, 18/20, 31/35"
    ]
    for table, rows in (("8", 15), ("10", 20)):
        matrix = of(findings, "tahir", table, "matrix")
        assert len(matrix) == rows and set(matrix.severity) == {"consistent"}
    average = of(findings, "tahir", "10", "average")
    assert len(average) == 25 and set(average.severity) == {"consistent"}


def test_ahmed_and_tahir(findings):
    folds = of(findings, "ahmed", "6", "matrix")
    assert folds[folds.severity == "unexplained"].row.tolist() == ["1", "3", "4", "8", "10"]
    assert folds[folds.severity == "unexplained"].verdict.str.contains("negative predictive").all()
    average = of(findings, "ahmed", "6", "average")
    assert set(average.severity) == {"consistent"}
    matrix = of(findings, "tahir", "4", "matrix")
    whole = matrix[matrix.severity == "consistent"].row.str.replace(
        r", (COVID-19|MERS|SARS)$", "", regex=True
    )
    assert set(whole) == {"Segmented X-rays, ResNet18 (3-Channel)"}
    short = of(findings, "tahir", "8", "interval").verdict.str.contains("1.41 times").sum()
    assert short == 2
    sums = of(findings, "tahir", "1", "sum")
    assert "89 + 21 + 26 = 136, printed 134" in set(sums.arithmetic)


def test_every_table_is_covered_and_every_place_that_is_quoted_exists(findings):
    covered = appraisal.coverage(findings)
    assert len(covered) == len(tables())
    nothing = covered[covered[list(appraisal.SEVERITIES)].sum(axis=1) == 0]
    assert set(nothing.kind) <= {"recipe", "architecture", "definitions"}
    assert covered[list(appraisal.SEVERITIES)].to_numpy().sum() == len(findings)
    for paper, _, _, *places, severity in papers._TWICE:
        assert severity in appraisal.SEVERITIES
        for place in places:
            assert papers._cell(paper, place)[1]
    one = appraisal.appraise("garg")
    expected = findings[findings.paper == "garg"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, expected)
    with pytest.raises(ValueError, match="no paper 'kahn'"):
        appraisal.appraise("kahn")


def test_what_is_said_of_the_misprinted_equations():
    tp, fn, fp, tn = 73, 1, 1, 91
    as_printed = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (fp + fn) * (tn + fp) * (tn + fn))
    assert as_printed == pytest.approx(5.93, abs=0.005)
    assert float(exact(tp, fn, fp, tn)["mcc"]) == pytest.approx(0.98, abs=0.005)
    hit = np.linspace(0, 1, 101)
    assert (hit / (hit + 1)).max() == 0.5 and (2 * hit / (2 * hit + 1)).max() == pytest.approx(
        2 / 3
    )
    assert 225 - 255 == -30
    told = appraisal.equations()
    told = told[told.verdict.str.startswith("misprint")]
    khan = told[told.paper == "khan"].equation.tolist()
    assert khan == ["(11)", "(15)", "(16)", "(17)"]
    assert told[told.paper == "tahir"].equation.tolist() == ["(2)"]
    assert appraisal.equations("alom").empty and len(appraisal.equations("ahmed")) == 4


def test_the_document_is_what_the_code_gives(findings):
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == appraisal.claims_markdown(
        findings
    )
