import dataclasses
import itertools
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from covidlab.evaluation.intervals import (
    Interval,
    bootstrap,
    compare,
    cortes_mohri,
    cortes_mohri_moments,
    delong,
    delong_test,
    difference,
    hanley_mcneil,
    interval,
    normal,
    report,
    resampled_rows,
    wilson,
)
from covidlab.evaluation.metrics import METRICS, classification_metrics
from covidlab.predictions import Predictions

# Undefined values must be NaN without a warning, so every warning is an error here.
pytestmark = pytest.mark.filterwarnings("error")


def make(n_patients, images=1, classes=("normal", "COVID"), positive="COVID", seed=0, shift=1.5):
    """Patients of alternating class, `images` each (int, or one count a patient), who differ."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), images)
    truth = patient % len(classes)
    logits = rng.normal(size=(n_patients, len(classes)))[patient]
    logits = logits + rng.normal(size=logits.shape)
    logits[np.arange(len(patient)), truth] += shift
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # Two digits give ties in the scores.
    p = np.round(p[:, :-1], 2)
    p = np.column_stack([p, 1 - p.sum(1)])
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(len(patient))],
            "label": np.array(classes)[truth],
            "patient_id": [f"P{i}" for i in patient],
        }
    )
    return Predictions(frame, np.clip(p, 0, 1), classes, positive, f"model {seed}")


def take(p, rows):
    return dataclasses.replace(p, frame=p.frame.iloc[rows], probabilities=p.probabilities[rows])


def binary(truth, score, patient=None):
    frame = pd.DataFrame({"label": np.where(np.asarray(truth, bool), "COVID", "normal")})
    frame["patient_id"] = [f"P{i}" for i in (patient if patient is not None else frame.index)]
    score = np.asarray(score, float)
    return Predictions(frame, np.stack([1 - score, score], 1), ("normal", "COVID"), "COVID")


# --- Interval ------------------------------------------------------------------------------------


def test_interval_reads_well():
    shown = Interval(0.8312, 0.7749, 0.88, "Wilson", 0.95)
    assert str(shown) == "0.83 [0.77, 0.88]"
    assert f"{shown:.1%}" == "83.1% [77.5%, 88.0%]"
    assert str(shown._replace(low=np.nan)) == "0.83 [no interval]"
    assert str(shown._replace(value=np.nan)) == "undefined"


# --- proportions ---------------------------------------------------------------------------------


def test_normal_is_the_papers_formula():
    got = normal(140, 166)
    p = 140 / 166
    r = 1.959964 * np.sqrt(p * (1 - p) / 166)
    assert got[:3] == pytest.approx((p, p - r, p + r), abs=1e-6)
    # A published 97.13 % of 1,166 images goes in as it stands.
    assert normal(0.9713 * 1166, 1166).value == pytest.approx(0.9713)


def test_normal_is_cut_at_one_and_has_no_width_there():
    assert normal(49, 50).high == 1
    assert normal(50, 50)[:3] == (1, 1, 1)
    assert normal(0, 50)[:3] == (0, 0, 0)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (20, 20), (7, 10), (983, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_bounds_are_where_the_score_test_rejects(k, n, level):
    got = wilson(k, n, level)
    z = stats.norm.ppf((1 + level) / 2)
    centre, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    assert (got.low, got.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    for bound in (got.low, got.high):
        if 1e-9 < bound < 1 - 1e-9:
            assert abs(k / n - bound) == pytest.approx(z * np.sqrt(bound * (1 - bound) / n))


def test_wilson_keeps_its_level_near_one_and_the_normal_does_not():
    # Exact: the probability, under p = 0.98, of the counts whose interval holds p.
    n, p = 50, 0.98
    chance = stats.binom.pmf(np.arange(n + 1), n, p)

    def coverage(method):
        held = [method(k, n).low <= p <= method(k, n).high for k in range(n + 1)]
        return chance[held].sum()

    assert coverage(normal) < 0.65
    assert coverage(wilson) > 0.92


@pytest.mark.parametrize("method", [normal, wilson])
def test_proportion_of_nothing_and_impossible_counts(method):
    assert np.isnan(method(0, 0)[:3]).all()
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="0 ≤ k ≤ n"):
            method(k, n)
    with pytest.raises(ValueError, match="level=95"):
        method(1, 2, level=95)


# --- Hanley–McNeil -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auc", "low", "high"),
    [
        (0.99, 0.97, 1),
        (0.98, 0.95, 1),
        (0.97, 0.94, 0.99),
        (0.96, 0.92, 0.99),
        (0.95, 0.91, 0.98),
        (0.73, 0.65, 0.80),
        (0.67, 0.58, 0.75),
    ],
)
def test_hanley_mcneil_gives_the_intervals_khan_printed(auc, low, high):
    got = hanley_mcneil(auc, n_pos=74, n_neg=92)
    assert (np.floor(got.low * 100) / 100, np.floor(got.high * 100) / 100) == (low, high)


def test_hanley_mcneil_variance_is_that_of_exponential_scores():
    # Exponential scores with rate ratio r have A = r/(1 + r); simulate the spread of the AUC.
    rng = np.random.default_rng(0)
    auc, m, n = 0.9, 30, 50
    ratio = auc / (1 - auc)
    drawn = [(rng.exponential(ratio, (m, 1)) > rng.exponential(1, n)).mean() for _ in range(1500)]
    got = hanley_mcneil(auc, m, n)
    assert (got.high - got.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.06)


def test_hanley_mcneil_edges():
    assert hanley_mcneil(1.0, 5, 5)[:3] == (1, 1, 1)
    assert np.isnan(hanley_mcneil(0.9, 5, 0).low)
    with pytest.raises(ValueError, match="AUC is in"):
        hanley_mcneil(1.2, 5, 5)


# --- Cortes–Mohri --------------------------------------------------------------------------------


def enumerate_aucs(errors, n_pos, n_neg):
    """AUC of every ranking and cut with that many rows on the wrong side."""
    n, aucs = n_pos + n_neg, []
    for places in itertools.combinations(range(n), n_pos):
        positive = np.zeros(n, bool)
        positive[list(places)] = True
        auc = sum((~positive[:place]).sum() for place in places) / (n_pos * n_neg)
        for cut in range(n + 1):
            if positive[:cut].sum() + (~positive[cut:]).sum() == errors:
                aucs.append(auc)
    return aucs


@pytest.mark.parametrize(("n_pos", "n_neg"), [(1, 1), (3, 4), (5, 2), (4, 4)])
def test_cortes_mohri_moments_agree_with_enumeration(n_pos, n_neg):
    for errors in range(n_pos + n_neg + 1):
        aucs = enumerate_aucs(errors, n_pos, n_neg)
        got = cortes_mohri_moments(errors, n_pos, n_neg)
        assert got == pytest.approx((np.mean(aucs), np.std(aucs)), abs=1e-12)


@pytest.mark.parametrize(("k", "m", "n"), [(3, 74, 92), (14, 74, 92), (20, 30, 400), (9, 10, 9)])
def test_cortes_mohri_mean_is_the_papers_closed_form(k, m, n):
    total = m + n
    ratio = sum(comb(total, x) for x in range(k)) / sum(comb(total + 1, x) for x in range(k + 1))
    closed = 1 - k / total - (n - m) ** 2 * (total + 1) / (4 * m * n) * (k / total - ratio)
    assert cortes_mohri_moments(k, m, n)[0] == pytest.approx(closed, abs=1e-9)


def test_cortes_mohri_mean_is_accuracy_when_classes_are_equal():
    for errors in (0, 1, 700, 4000):
        mean, sd = cortes_mohri_moments(errors, 4000, 4000)
        assert mean == pytest.approx(1 - errors / 8000, abs=1e-9)
        assert (sd > 0) == (errors > 0)


def draw_aucs(errors, m, n, rng, size):
    """AUCs of classifications drawn at random: a split of the errors, then an order on each side."""
    x = np.arange(max(0, errors - m), min(n, errors) + 1)
    ways = np.array([comb(m - errors + 2 * i, i) * comb(n + errors - 2 * i, errors - i) for i in x])
    aucs = []
    for neg_above in rng.choice(x, size=size, p=ways / ways.sum()):
        pos_below = errors - neg_above
        above = rng.permutation(np.repeat([True, False], [m - pos_below, neg_above]))
        below = rng.permutation(np.repeat([True, False], [pos_below, n - neg_above]))
        ranking = np.concatenate([above, below])
        aucs.append(np.cumsum(ranking)[~ranking].sum() / (m * n))
    return aucs


def test_cortes_mohri_covers_under_its_own_model():
    rng = np.random.default_rng(1)
    m, n, errors = 12, 15, 4
    aucs = draw_aucs(errors, m, n, rng, 400)
    observed = rng.binomial(m + n, errors / (m + n), size=400)
    bounds = {k: cortes_mohri(0.5, m, n, errors=int(k))[1:3] for k in np.unique(observed)}
    held = [bounds[k][0] <= a <= bounds[k][1] for k, a in zip(observed, aucs, strict=True)]
    assert np.mean(held) >= 0.95


def test_cortes_mohri_finds_the_errors_behind_an_auc():
    for errors in (0, 3, 20):
        auc = cortes_mohri_moments(errors, 74, 92)[0]
        assert cortes_mohri(auc, 74, 92) == cortes_mohri(auc, 74, 92, errors=errors)


@pytest.mark.parametrize(
    ("tail", "q"), [("normal", 2.236477), ("chebyshev", (1 - 0.95**0.5) ** -0.5)]
)
def test_cortes_mohri_takes_the_widest_over_the_likely_errors(tail, q):
    # One error of nine; 0.9747 = √0.95 is the level of the error rate and of the AUC given it.
    rate = wilson(1, 9, np.sqrt(0.95))
    likely = range(int(np.floor(rate.low * 9)), int(np.ceil(rate.high * 9)) + 1)
    assert list(likely) == [0, 1, 2, 3, 4, 5]
    aucs = [enumerate_aucs(k, 4, 5) for k in likely]
    low = min(np.mean(a) - q * np.std(a) for a in aucs)
    high = max(np.mean(a) + q * np.std(a) for a in aucs)
    got = cortes_mohri(0.95, 4, 5, errors=1, tail=tail)
    assert got[:3] == pytest.approx((0.95, max(low, 0), min(high, 1)), abs=1e-6)
    # Larger, where neither bound is cut.
    rate = wilson(160, 800, np.sqrt(0.95))
    few, many = int(np.floor(rate.low * 800)), int(np.ceil(rate.high * 800))
    (top, top_sd), (bottom, bottom_sd) = (cortes_mohri_moments(k, 400, 400) for k in (few, many))
    got = cortes_mohri(0.8, 400, 400, errors=160, tail=tail)
    assert got[1:3] == pytest.approx((bottom - q * bottom_sd, top + q * top_sd), abs=1e-6)


def test_cortes_mohri_bounds():
    perfect = cortes_mohri(1.0, 74, 92, errors=0)
    assert perfect.low < 0.99 and perfect.high == 1
    narrow, wide = (cortes_mohri(0.95, 74, 92, 8, tail=t) for t in ("normal", "chebyshev"))
    assert wide.low < narrow.low < cortes_mohri_moments(8, 74, 92)[0] < narrow.high < wide.high
    assert cortes_mohri(0.95, 74, 92, 8, level=0.5).low > narrow.low
    more = cortes_mohri(0.95, 7400, 9200, 800)
    assert more.high - more.low < (narrow.high - narrow.low) / 5
    assert np.isnan(cortes_mohri(0.9, 0, 10).low)


def test_cortes_mohri_errors():
    with pytest.raises(ValueError, match="tail='t'"):
        cortes_mohri(0.9, 5, 5, tail="t")
    with pytest.raises(ValueError, match="0 ≤ errors ≤ 10"):
        cortes_mohri(0.9, 5, 5, errors=11)
    with pytest.raises(ValueError, match="one row of each class"):
        cortes_mohri_moments(1, 0, 5)


# --- DeLong --------------------------------------------------------------------------------------


def components(truth, score):
    """DeLong's structural components by their definition, pair by pair."""
    pos, neg = score[truth], score[~truth]
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in neg] for p in pos])
    return wins.mean(1), wins.mean(0)


def scores(seed, n_pos=23, n_neg=31, tied=False, shift=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat([True, False], [n_pos, n_neg]))
    common = rng.normal(size=len(truth)) + shift * truth
    a, b = (common + rng.normal(0, 0.6, len(truth)) for _ in range(2))
    return (truth, *(np.round(s) if tied else s for s in (a, b)))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_delong_agrees_with_the_double_loop(seed, tied):
    truth, score, other = scores(seed, tied=tied)
    (pos_a, neg_a), (pos_b, neg_b) = components(truth, score), components(truth, other)
    variance = pos_a.var(ddof=1) / 23 + neg_a.var(ddof=1) / 31
    plain = delong(truth, score, logit=False)
    assert plain.value == pytest.approx(roc_auc_score(truth, score))
    assert plain.high - plain.value == pytest.approx(1.959964 * np.sqrt(variance), abs=1e-6)
    assert plain.value - plain.low == pytest.approx(1.959964 * np.sqrt(variance), abs=1e-6)

    on_logit = delong(truth, score)
    middle = np.log(plain.value / (1 - plain.value))
    half = 1.959964 * np.sqrt(variance) / (plain.value * (1 - plain.value))
    expected = [1 / (1 + np.exp(-x)) for x in (middle - half, middle + half)]
    assert [on_logit.low, on_logit.high] == pytest.approx(expected, abs=1e-6)

    test = delong_test(truth, score, other)
    paired = (pos_a - pos_b).var(ddof=1) / 23 + (neg_a - neg_b).var(ddof=1) / 31
    gap = roc_auc_score(truth, score) - roc_auc_score(truth, other)
    assert test.difference.value == pytest.approx(gap)
    assert test.difference.high - gap == pytest.approx(1.959964 * np.sqrt(paired), abs=1e-6)
    assert test.p == pytest.approx(2 * stats.norm.sf(abs(gap) / np.sqrt(paired)))


def test_delong_depends_on_the_ranking_only():
    truth, score, _ = scores(4)
    before, after = delong(truth, score), delong(truth.astype(int), np.exp(score) * 1e6)
    assert after[:3] == pytest.approx(before[:3], abs=1e-12)
    turned = delong(~truth, -score)
    assert turned[:3] == pytest.approx(before[:3])
    mirrored = delong(truth, -score)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - before.high, 1 - before.low))


def test_delong_on_the_logit_keeps_its_level_near_one():
    rng = np.random.default_rng(2)
    auc = 0.98
    shift = stats.norm.ppf(auc) * np.sqrt(2)
    truth = np.repeat([True, False], 40)
    held = np.zeros(2)
    for _ in range(400):
        score = rng.normal(size=80) + shift * truth
        for i, logit in enumerate((False, True)):
            got = delong(truth, score, logit=logit)
            held[i] += got.low <= auc <= got.high
    plain, on_logit = held / 400
    assert plain < 0.88 < 0.91 < on_logit


def test_delong_test_on_like_scores():
    truth, score, other = scores(5)
    same = delong_test(truth, score, 3 * score + 1)
    assert (same.difference.value, same.p) == (0, 1)
    assert np.isnan(same.difference.low)
    one, two = delong_test(truth, score, other), delong_test(truth, other, score)
    assert one.p == pytest.approx(two.p)
    assert one.difference.low == pytest.approx(-two.difference.high)


@pytest.mark.parametrize(
    ("truth", "score", "value"),
    [
        ([1, 1, 0, 0], [4, 3, 2, 1], 1.0),  # perfect
        ([1, 1, 0, 0], [1, 2, 3, 4], 0.0),  # perfectly wrong
        ([1, 1, 0, 0], [5, 5, 5, 5], 0.5),  # one score for all
        ([1, 0, 0, 0], [3, 4, 1, 2], 2 / 3),  # one positive
        ([1], [0.3], np.nan),
        ([0, 0, 0], [1, 2, 3], np.nan),
    ],
)
def test_delong_has_no_interval_without_a_variance(truth, score, value):
    got = delong(truth, score)
    assert got.value == pytest.approx(value, nan_ok=True)
    assert np.isnan(got.low) and np.isnan(got.high)
    assert np.isnan(delong_test(truth, score, score).difference.low)


def test_delong_errors():
    with pytest.raises(ValueError, match="must both be"):
        delong([1, 0], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="NaN"):
        delong([1, 0], [0.1, np.nan])
    with pytest.raises(ValueError, match="with 1 for positive"):
        delong([1, 2], [0.1, 0.2])


# --- bootstrap -----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["patient", "image"])
@pytest.mark.parametrize(
    ("classes", "positive", "options"),
    [
        (("normal", "COVID"), "COVID", {}),
        (("normal", "COVID"), "COVID", {"threshold": 0.3}),
        (("a", "b", "c"), "b", {}),
        (("a", "b", "c"), None, {}),
        (("a", "b", "c"), None, {"weighted": True}),
    ],
)
def test_bootstrap_is_the_metric_of_the_resampled_rows(by, classes, positive, options):
    # Small, so that resamples without a value occur among them.
    p = make(9, [1, 3, 2, 1, 2, 4, 1, 1, 2], classes, positive, shift=1.0)
    rows = [np.repeat(np.arange(len(p)), w.astype(int)) for w in resampled_rows(p, 40, 3, by)]
    each = pd.DataFrame([classification_metrics(take(p, r), **options) for r in rows])
    for metric in METRICS:
        got = bootstrap(p, metric, n_boot=40, seed=3, by=by, **options)
        defined = each[metric].dropna()
        assert got.n_undefined == 40 - len(defined)
        assert got.value == pytest.approx(classification_metrics(p, **options)[metric])
        expected = defined.quantile([0.025, 0.975]).tolist()
        if np.ptp(defined) == 0:
            expected = [np.nan, np.nan]
        assert [got.low, got.high] == pytest.approx(expected, nan_ok=True)


def test_resamples_keep_patients_whole_and_classes_their_number():
    p = make(20, np.random.default_rng(0).integers(1, 5, 20))
    patient = pd.factorize(p.frame["patient_id"])[0]
    first = np.unique(patient, return_index=True)[1]
    positive = p.is_positive[first]
    drawn = np.array(list(resampled_rows(p, 300, 0)))
    assert (drawn == drawn[:, first][:, patient]).all()
    each = drawn[:, first]
    assert (each[:, positive].sum(1) == 10).all() and (each[:, ~positive].sum(1) == 10).all()
    assert each.mean(0) == pytest.approx(np.ones(20), abs=5 * np.sqrt(0.9 / 300))
    loose = np.array(list(resampled_rows(p, 300, 0, stratified=False)))[:, first]
    assert (loose.sum(1) == 20).all() and loose[:, positive].sum(1).std() > 1.5


def test_patient_of_two_labels_belongs_to_the_more_frequent_or_the_first():
    # A is mostly COVID, B half and half (so normal, the first class), C and D are plain.
    truth = [1, 1, 0, 0, 1, 0, 1]
    p = binary(truth, [0.5] * 7, patient=list("AAABBCD"))
    drawn = np.array(list(resampled_rows(p, 200, 0)))
    a, b, c, d = drawn[:, 0], drawn[:, 3], drawn[:, 5], drawn[:, 6]
    assert (a + d == 2).all() and (b + c == 2).all()
    assert set(a) == set(b) == {0, 1, 2}


def test_images_of_unknown_patients_stand_for_themselves():
    p = make(10, 2)
    frame = p.frame.assign(patient_id=[*p.frame["patient_id"][:16], "", "", None, np.nan])
    p = dataclasses.replace(p, frame=frame)
    drawn = np.array(list(resampled_rows(p, 100, 0)))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    for i, j in itertools.combinations(range(16, 20), 2):
        assert (drawn[:, i] != drawn[:, j]).any()


def test_copies_of_an_image_add_nothing_by_patient_and_flatter_by_image():
    once, copies = make(60), 9
    p = take(once, np.repeat(np.arange(60), copies))
    for metric in ("accuracy", "mcc", "roc_auc"):
        alone = bootstrap(once, metric, 1000)
        clustered = bootstrap(p, metric, 1000)
        assert clustered[:3] == pytest.approx(alone[:3])
        naive = bootstrap(p, metric, 1000, by="image")
        shrunk = (alone.high - alone.low) / (naive.high - naive.low)
        assert shrunk == pytest.approx(np.sqrt(copies), rel=0.15)


def test_bootstrap_width_is_the_binomial_one():
    p = make(400)
    right = p.truth == p.predicted
    variance = sum(right[p.truth == c].var() * 200 for c in (0, 1)) / 400**2
    got = bootstrap(p, "accuracy", 4000)
    assert (got.high - got.low) / 2 / 1.96 == pytest.approx(np.sqrt(variance), rel=0.05)


def test_bootstrap_of_auc_is_as_wide_as_delong():
    p = make(300)
    expected = delong(p.is_positive, p.score, logit=False)
    got = bootstrap(p, "roc_auc")
    assert got.high - got.low == pytest.approx(expected.high - expected.low, rel=0.08)


def test_bca_agrees_with_scipy():
    p = make(40, seed=7, shift=3.0)
    right = (p.truth == p.predicted).astype(float)
    assert 0.85 < right.mean() < 1
    theirs = stats.bootstrap(
        (right,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap(p, "accuracy", 9999, stratified=False, kind="bca")
    # The mean of 40 moves in steps of 0.025.
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.0251)
    plain = bootstrap(p, "accuracy", 9999, stratified=False)
    assert ours.low < plain.low and ours.method == "BCa bootstrap, patients"


def test_bca_of_two_strata_agrees_with_scipy():
    p = make(120, seed=3)

    def auc(neg, pos):
        return (np.sign(pos[:, None] - neg[None]).mean() + 1) / 2

    samples = p.score[~p.is_positive].astype(float), p.score[p.is_positive].astype(float)
    theirs = stats.bootstrap(
        samples,
        auc,
        n_resamples=2000,
        method="BCa",
        vectorized=False,
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = bootstrap(p, "roc_auc", 4000, kind="bca")
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.006)


def test_undefined_resamples_are_counted():
    # One positive in twenty: without strata a resample misses it with probability 0.95^20.
    p = binary([1] + [0] * 19, [0.9, 0.8, 0.7] + [0.2] * 17)
    loose = bootstrap(p, "roc_auc", 2000, stratified=False)
    missing = 0.95**20
    assert loose.n_undefined / 2000 == pytest.approx(
        missing, abs=4 * np.sqrt(missing * (1 - missing) / 2000)
    )
    assert bootstrap(p, "precision", 2000).n_undefined == 0
    assert "undefined" not in report(p).loc["precision", "method"]


def test_perfect_classifier_has_no_bootstrap_interval():
    p = binary([1, 1, 1, 0, 0, 0], [0.9, 0.8, 0.9, 0.1, 0.2, 0.1])
    for metric in METRICS:
        got = bootstrap(p, metric, 200)
        assert got.value == 1 and np.isnan(got.low) and np.isnan(got.high)
        assert np.isnan(bootstrap(p, metric, 200, kind="bca").low)


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_one_row_and_one_class(kind):
    for p in (binary([1], [0.9]), binary([0, 0, 0], [0.1, 0.9, 0.2]), binary([], [])):
        values = classification_metrics(p)
        for metric in METRICS:
            got = bootstrap(p, metric, 50, kind=kind)
            assert got.value == pytest.approx(values[metric], nan_ok=True)
            assert len(p) == 3 or np.isnan(got.low)
    assert bootstrap(binary([0, 0, 0], [0.1, 0.9, 0.2]), "recall", 50).n_undefined == 50


def test_bootstrap_repeats_with_its_seed_and_widens_with_its_level():
    p = make(50, 2)
    assert bootstrap(p, "mcc", 300, seed=1) == bootstrap(p, "mcc", 300, seed=1)
    assert bootstrap(p, "mcc", 300, seed=1) != bootstrap(p, "mcc", 300, seed=2)
    assert bootstrap(p, "sensitivity", 300) == bootstrap(p, "recall", 300)
    wide, narrow = bootstrap(p, "mcc", 300, 0.99), bootstrap(p, "mcc", 300, 0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_in_blocks(monkeypatch):
    from covidlab.evaluation import intervals

    p = make(30, 2)
    whole = bootstrap(p, "roc_auc", 2000, kind="bca")
    monkeypatch.setattr(intervals, "_BLOCK", 60 * 7)
    parts = bootstrap(p, "roc_auc", 2000, kind="bca")
    assert sum(1 for _ in resampled_rows(p, 100)) == 100
    assert parts[:3] == pytest.approx(whole[:3], abs=0.01)


def test_bootstrap_errors():
    p = make(10)
    for options, words in (
        ({"metric": "auc"}, "'auc' is not known"),
        ({"by": "scan"}, "by='scan'"),
        ({"kind": "t"}, "kind='t'"),
        ({"n_boot": 0}, "n_boot=0"),
        ({"level": 1.0}, "level=1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            bootstrap(**{"predictions": p, "metric": "mcc", **options})
    bare = dataclasses.replace(p, frame=p.frame.drop(columns="patient_id"))
    with pytest.raises(ValueError, match="no patient_id column.*by='image'"):
        bootstrap(bare, "mcc")
    assert bootstrap(bare, "mcc", by="image").n == 10


# --- difference ----------------------------------------------------------------------------------


def test_difference_of_accuracies_is_mcnemars():
    a, b = make(300, seed=0), make(300, seed=1)
    only_a = ((a.predicted == a.truth) & (b.predicted != b.truth)).sum()
    only_b = ((a.predicted != a.truth) & (b.predicted == b.truth)).sum()
    gap = (only_a - only_b) / 300
    sd = np.sqrt(only_a + only_b - (only_a - only_b) ** 2 / 300) / 300
    got = difference(a, b, "accuracy", 4000, stratified=False)
    assert got.value == pytest.approx(gap)
    assert (got.low, got.high) == pytest.approx((gap - 1.96 * sd, gap + 1.96 * sd), abs=0.007)


def test_difference_agrees_with_delongs_test():
    a, b = make(200, seed=4, shift=2.0), make(200, seed=5)
    expected = delong_test(a.is_positive, a.score, b.score).difference
    got = difference(a, b, "roc_auc", 4000)
    assert got.value == pytest.approx(expected.value, abs=1e-12)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_difference_changes_sign_and_is_paired():
    a = make(60, 2, seed=6)
    worse = a.probabilities.copy()
    worse[:6] = worse[:6, ::-1]
    b = dataclasses.replace(a, probabilities=worse)
    one, two = difference(a, b, "mcc", 500), difference(b, a, "mcc", 500)
    assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))
    unpaired = np.hypot(*(i.high - i.low for i in (bootstrap(p, "mcc", 500) for p in (a, b))))
    assert one.high - one.low < 0.7 * unpaired
    same = difference(a, a, "mcc", 100)
    assert same.value == 0 and np.isnan(same.low)


def test_difference_wants_the_same_rows():
    a = make(12, 2)
    with pytest.raises(ValueError, match="no rows"):
        difference(take(a, []), take(a, []), "mcc")
    with pytest.raises(ValueError, match="24 rows against 20"):
        difference(a, take(a, np.arange(20)), "mcc")
    with pytest.raises(ValueError, match="'image' differs in 24 rows.*same order"):
        difference(a, take(a, np.arange(24)[::-1]), "mcc")
    relabelled = dataclasses.replace(a, frame=a.frame.assign(label="COVID"))
    with pytest.raises(ValueError, match="'label' differs in 12 rows"):
        difference(a, relabelled, "mcc")
    with pytest.raises(ValueError, match="classes differ"):
        difference(a, dataclasses.replace(a, positive="normal"), "mcc")


# --- report and compare --------------------------------------------------------------------------


def test_report_of_independent_images():
    p = make(50)
    table = report(p, n_boot=300)
    assert list(table.index) == list(METRICS)
    assert list(table.columns) == ["value", "low", "high", "method", "n", "patients"]
    assert table["value"].to_dict() == pytest.approx(classification_metrics(p))
    called, positive = p.predicted == 1, p.is_positive
    over = {
        "accuracy": np.ones(50, bool),
        "precision": called,
        "recall": positive,
        "specificity": ~positive,
    }
    for metric, rows in over.items():
        expected = wilson((called == positive)[rows].sum(), rows.sum())
        assert tuple(table.loc[metric, ["value", "low", "high"]]) == pytest.approx(expected[:3])
        assert table.loc[metric, "method"] == "Wilson"
        assert table.loc[metric, "n"] == table.loc[metric, "patients"] == rows.sum()
    assert table.loc["roc_auc", "low"] == delong(positive, p.score).low
    assert table.loc["roc_auc", "method"] == "DeLong (logit)"
    expected = bootstrap(p, "f_score", 300)
    assert table.loc["f_score", "low"] == pytest.approx(expected.low)
    assert set(table.loc[["f_score", "mcc", "pr_auc"], "method"]) == {"bootstrap, patients"}


def test_report_of_several_images_a_patient_draws_patients():
    p = make(40, 3)
    table = report(p, n_boot=300)
    assert set(table["method"]) == {"bootstrap, patients"}
    assert table.loc["accuracy", ["n", "patients"]].tolist() == [120, 40]
    assert table.loc["recall", ["n", "patients"]].tolist() == [60, 20]
    for metric in METRICS:
        assert table.loc[metric, "low"] == pytest.approx(bootstrap(p, metric, 300).low)
        assert interval(p, metric, n_boot=300)[1:4] == tuple(
            table.loc[metric, ["low", "high", "method"]]
        )
    naive = report(p, n_boot=300, by="image")
    assert naive.loc["accuracy", "method"] == "Wilson"
    assert naive.loc["accuracy", "low"] > table.loc["accuracy", "low"]


def test_report_of_a_perfect_result_counts_patients_not_images():
    truth = np.repeat([1, 0, 1, 0, 1], 20)
    p = binary(truth, np.where(truth, 0.9, 0.1), np.repeat(np.arange(5), 20))
    table = report(p, n_boot=100)
    assert table.loc["accuracy", "low"] == pytest.approx(wilson(5, 5).low)
    assert table.loc["recall", "low"] == pytest.approx(wilson(3, 3).low)
    assert table.loc["recall", "method"] == "Wilson, patients as n"
    assert table.loc["roc_auc", "low"] == pytest.approx(wilson(2, 2).low)
    assert table.loc["roc_auc", "method"] == "Wilson, patients of the smaller class as n"
    assert table.loc["mcc", ["low", "high"]].isna().all()
    assert table.loc["mcc", "method"] == "bootstrap, patients (all alike)"
    assert (table["high"].dropna() == 1).all()


def test_report_without_known_patients():
    p = make(30)
    table = report(dataclasses.replace(p, frame=p.frame.assign(patient_id="")), n_boot=100)
    assert table["patients"].isna().all()
    assert table.loc["mcc", "method"] == "bootstrap, images"
    assert table.loc["accuracy", "method"] == "Wilson"


def test_report_of_many_classes():
    p = make(45, 1, ("a", "b", "c"), None)
    table = report(p, n_boot=200)
    assert table.loc["accuracy", "method"] == "Wilson"
    assert set(table["method"].drop("accuracy")) == {"bootstrap, patients"}
    assert (table["n"] == 45).all()
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    weighted = report(p, n_boot=200, weighted=True)
    assert weighted.loc["recall", "value"] == pytest.approx(weighted.loc["accuracy", "value"])


def test_report_says_how_many_resamples_had_no_value():
    p = binary([1, 1, 0, 0, 0, 0], [0.9, 0.2, 0.6, 0.1, 0.2, 0.3], patient=[0, 1, 2, 2, 3, 4])
    missing = bootstrap(p, "precision", 500).n_undefined
    assert 0 < missing < 500
    method = report(p, n_boot=500).loc["precision", "method"]
    assert method == f"bootstrap, patients ({missing} of 500 undefined)"


@pytest.mark.parametrize("truth", [[1], [0], [1, 1, 1], []])
def test_report_of_what_has_no_answer(truth):
    p = binary(truth, np.linspace(0.9, 0.2, len(truth)))
    table = report(p, n_boot=50)
    values = classification_metrics(p)
    assert table["value"].to_dict() == pytest.approx(values, nan_ok=True)
    assert table["low"].isna()[table["value"].isna()].all()
    if truth:
        right = (p.truth == p.predicted).sum()
        assert table.loc["accuracy", "low"] == pytest.approx(wilson(right, len(truth)).low)


def test_single_positive_has_an_auc_interval_all_the_same():
    p = binary([1, 0, 0, 0], [0.5, 0.7, 0.1, 0.2])
    got = interval(p, "roc_auc")
    assert got[:3] == pytest.approx(wilson(2 / 3, 1)[:3])


def test_compare_is_report_turned():
    models = [make(30, 2, seed=s) for s in (0, 1)]
    table = compare(models, n_boot=200)
    assert table.index.tolist() == ["model 0", "model 1"] and table.index.name == "model"
    assert table.columns.tolist()[:4] == ["accuracy", "accuracy low", "accuracy high", "precision"]
    for p in models:
        expected = report(p, n_boot=200)
        for metric in METRICS:
            got = table.loc[p.name, [metric, f"{metric} low", f"{metric} high"]]
            assert got.tolist() == pytest.approx(
                expected.loc[metric, ["value", "low", "high"]].tolist()
            )


def test_compare_takes_one_model_and_the_names_asked_for():
    table = compare(make(30), metrics=["sensitivity", "mcc"], n_boot=50)
    assert [c for c in table if " " not in c] == ["sensitivity", "mcc"]
    with pytest.raises(ValueError, match="name of its own"):
        compare([make(10), make(10)])
    with pytest.raises(ValueError, match="name of its own"):
        compare(dataclasses.replace(make(10), name=""))
