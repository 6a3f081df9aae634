"""Differences in pairs: against hand-worked numbers, scipy, statsmodels and the room of evaluation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from covidlab import ablation, evaluation
from covidlab.ablation import compare
from covidlab.ablation.jobs import save
from covidlab.predictions import MaskPredictions, Predictions


def table(values, others=("-",), folds=(0,), parts="same", **more):
    """Runs of {level: {(seed, fold, other): metric}}, a partner for each."""
    rows = [
        {"enhance": level, "lr": other, "seed": seed, "fold": fold, "state": "done", "roc_auc": v}
        | {"train images": 80, "test images": 20, "folder": ""}
        | {"test_part": "one" if parts == "same" else f"{seed}-{fold}"}
        for level, of in values.items()
        for (seed, fold, other), v in of.items()
    ]
    return pd.DataFrame(rows).assign(**more)


def seeds(*values):
    return {(k, 0, "-"): v for k, v in enumerate(values)}


def test_three_pairs_by_hand():
    runs = table({"none": seeds(0.5, 0.6, 0.7), "idwt": seeds(0.6, 0.8, 1.0)})
    row = compare(runs, "enhance").iloc[0]
    # differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1, t = 0.2 / (0.1 / √3) = 2√3
    assert row["difference"] == pytest.approx(0.2)
    assert (row["mean"], row["baseline mean"]) == (pytest.approx(0.8), pytest.approx(0.6))
    # Student's t with 2 degrees of freedom: p = 1 − t/√(t² + 2); its 97.5 % quantile is 4.302653
    t = 2 * math.sqrt(3)
    assert row["p"] == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert row["high"] - 0.2 == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    # d_z = 2; Γ(1) / (√1 Γ(1/2)) = 1/√π
    assert row["d"] == pytest.approx(2 / math.sqrt(math.pi))
    assert (row["n"], row["pairs"]) == (3, 3)


def test_pairs_by_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 0.05, 8), rng.normal(0.75, 0.05, 8)
    runs = table({"none": seeds(*a), "idwt": seeds(*b)})
    row = compare(runs, "enhance", level=0.9).iloc[0]
    expected = stats.ttest_rel(b, a)
    low, high = expected.confidence_interval(0.9)
    assert (row["p"], row["low"], row["high"]) == pytest.approx((expected.pvalue, low, high))
    # a true effect at either bound would put t into the tail beyond it, 5 % of the time
    few = math.gamma(3.5) / (math.sqrt(3.5) * math.gamma(3))
    tails = [row[name] / few * math.sqrt(8) for name in ("d low", "d high")]
    t = expected.statistic
    assert stats.nct.sf(t, 7, tails[0]) == pytest.approx(0.05)
    assert stats.nct.cdf(t, 7, tails[1]) == pytest.approx(0.05)
    assert row["d"] == pytest.approx(few * (b - a).mean() / (b - a).std(ddof=1))


def test_the_order_of_rows_and_a_shared_seed_effect_do_not_matter():
    luck = np.array([0.0, 0.3, -0.2])  # what a seed does to both of a pair
    runs = table({"none": seeds(*(0.5 + luck)), "idwt": seeds(*(0.5 + luck + [0.1, 0.2, 0.3]))})
    shuffled = runs.sample(frac=1, random_state=1)
    first, second = compare(runs, "enhance"), compare(shuffled, "enhance", baseline="none")
    pd.testing.assert_frame_equal(first, second)
    assert first["difference"].iloc[0] == pytest.approx(0.2)
    back = compare(runs, "enhance", baseline="idwt").iloc[0]
    assert back["difference"] == pytest.approx(-0.2) and back["level"] == "none"


def test_cells_of_one_seed_are_averaged_and_do_not_count_twice():
    keys = list(itertools.product(range(3), (0,), ("slow", "fast")))
    lift = {(0, "slow"): 0.0, (0, "fast"): 0.2, (1, "slow"): 0.1, (1, "fast"): 0.3}
    lift |= {(2, "slow"): 0.2, (2, "fast"): 0.4}  # means by seed 0.1, 0.2, 0.3
    runs = table(
        {"none": dict.fromkeys(keys, 0.5), "idwt": {k: 0.5 + lift[k[0], k[2]] for k in keys}}
    )
    row = compare(runs, "enhance").iloc[0]
    alone = compare(table({"none": seeds(0, 0, 0), "idwt": seeds(0.1, 0.2, 0.3)}), "enhance").iloc[
        0
    ]
    assert (row["n"], row["pairs"]) == (3, 6)
    for name in ("difference", "low", "high", "p", "d"):
        assert row[name] == pytest.approx(alone[name])


def test_parts_that_share_training_images_get_wider_intervals():
    values = {"none": seeds(0.5, 0.6, 0.7, 0.6), "idwt": seeds(0.6, 0.8, 1.0, 0.7)}
    same = compare(table(values), "enhance").iloc[0]
    other = compare(table(values, parts="other"), "enhance").iloc[0]
    width = [row["high"] - row["low"] for row in (same, other)]
    # Nadeau and Bengio: 1/n + n_test/n_train = 1/4 + 20/80, instead of 1/4
    assert width[1] / width[0] == pytest.approx(math.sqrt(2))
    assert other["p"] > same["p"] and other["d"] == pytest.approx(same["d"])


def test_one_pair_and_equal_pairs_have_no_interval():
    one = compare(table({"none": seeds(0.5), "idwt": seeds(0.6)}), "enhance").iloc[0]
    equal = compare(table({"none": seeds(0.5, 0.6), "idwt": seeds(0.6, 0.7)}), "enhance").iloc[0]
    two = compare(table({"none": seeds(0.5, 0.6), "idwt": seeds(0.6, 0.8)}), "enhance").iloc[0]
    for row in (one, equal):
        assert row["difference"] == pytest.approx(0.1)
        assert row[["low", "high", "d", "d low", "d high", "p", "p holm"]].isna().all()
    assert one["n"] == 1 and equal["n"] == 2
    assert np.isfinite(two["low"]) and np.isnan(two["d"])


def test_a_run_without_its_partner_takes_no_part_and_failures_are_counted():
    runs = table({"none": seeds(0.5, 0.6, 0.7), "idwt": seeds(0.6, 0.8, 1.0)})
    runs.loc[5, ["state", "roc_auc"]] = ["failed", np.nan]
    runs.loc[1, "roc_auc"] = np.nan  # a metric without a value
    row = compare(runs, "enhance").iloc[0]
    assert (row["n"], row["difference"]) == (1, pytest.approx(0.1))
    assert (row["tried"], row["failed"]) == (6, 1)
    runs.attrs = {"study": "s", "tried": 40, "failed": 7}  # what the study knows goes before
    out = compare(runs, "enhance")
    assert (
        list(out[["tried", "failed"]].iloc[0])
        == [40, 7]
        == [out.attrs[k] for k in ("tried", "failed")]
    )


def many():
    rng = np.random.default_rng(1)
    levels = {f"level {k}": seeds(*rng.normal(0.7 + 0.02 * k, 0.03, 6)) for k in range(5)}
    runs = table(levels, accuracy=rng.random(30))
    runs.attrs = {"study": "five & more_%", "tried": 31, "failed": 1}
    return runs


def test_all_comparisons_of_a_call_are_one_family():
    out = compare(many(), "enhance", ["roc_auc", "accuracy"])
    assert len(out) == 8 and out.attrs["comparisons"] == 8
    expected = multipletests(out["p"], method="holm")[1]
    np.testing.assert_allclose(out["p holm"], expected)
    # Holm by hand: the k-th smallest times how many are left, never falling
    p = np.sort(out["p"])
    by_hand = np.minimum(1, np.maximum.accumulate(p * np.arange(8, 0, -1)))
    np.testing.assert_allclose(np.sort(out["p holm"]), by_hand)
    alone = compare(many()[lambda t: t["enhance"].isin(["level 0", "level 4"])], "enhance")
    assert alone["p holm"].iloc[0] == alone["p"].iloc[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"factor": "enhence"}, "no factor 'enhence' in the table: there are enhance, lr"),
        ({"factor": "enhance", "metric": "auc"}, "no metric 'auc' in the table: there are roc_auc"),
        ({"factor": "enhance", "baseline": "x"}, "baseline='x' is no level"),
        ({"factor": "lr"}, "no two finished runs differ in lr alone"),
        ({"factor": ["enhance", "lr"], "baseline": "none"}, "one by one"),
        ({"factor": "enhance", "over": "images"}, "over='images'"),
        ({"factor": "enhance", "level": 95}, "level=95"),
    ],
)
def test_what_cannot_be_compared_is_said(options, told):
    runs = table({"none": seeds(0.5, 0.6), "idwt": seeds(0.6, 0.8)})
    with pytest.raises(ValueError, match=told):
        compare(runs, **options)


# --- over patients -------------------------------------------------------------------------------


def predicted(folder, quality, seed=0, n=60, rows=None):
    """A run's folder with predictions of n patients of one to three images."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n), 1 + np.arange(n) % 3)
    truth = patient % 2
    score = 1 / (1 + np.exp(-(quality * (2 * truth - 1) + rng.normal(0, 1, len(truth)))))
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(len(truth))],
            "label": np.array(["a", "b"])[truth],
            "patient_id": [f"p{p}" for p in patient],
        }
    )
    found = Predictions(frame, np.stack([1 - score, score], 1), ("a", "b"), "b", "m")
    folder.mkdir(parents=True, exist_ok=True)
    save(found, folder / "predictions.npz")
    return found


def paired(tmp_path, n_seeds=1):
    found, values = {}, {}
    for level, quality in (("none", 0.5), ("idwt", 1.0)):
        for seed in range(n_seeds):
            p = predicted(tmp_path / level / str(seed), quality, 10 * seed + (level == "idwt"))
            found[level, seed] = p
            value = evaluation.classification_metrics(p)["roc_auc"]
            values.setdefault(level, {})[seed, 0, "-"] = value
    runs = table(values)
    runs["folder"] = [str(tmp_path / r.enhance / str(r.seed)) for r in runs.itertuples()]
    return runs, found


def test_one_pair_over_patients_is_evaluations_own_difference(tmp_path):
    runs, found = paired(tmp_path)
    row = compare(runs, "enhance", over="patients", n_boot=4000).iloc[0]
    expected = evaluation.difference(found["idwt", 0], found["none", 0], "roc_auc", n_boot=4000)
    assert row["difference"] == pytest.approx(expected.value)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=0.008)
    assert row["n"] == 1 and 0 < row["p"] < 0.05 and np.isnan(row["d"])


def test_patients_are_the_same_for_all_pairs(tmp_path):
    """Two copies of one pair say no more than one: drawn apart, they would seem to."""
    runs, _ = paired(tmp_path)
    twice = pd.concat([runs, runs.assign(seed=1)])
    one, two = (compare(t, "enhance", over="patients", n_boot=500).iloc[0] for t in (runs, twice))
    assert (two["low"], two["high"]) == pytest.approx((one["low"], one["high"]))
    more, _ = paired(tmp_path, n_seeds=4)  # other trainings: their own noise averages out
    row = compare(more, "enhance", over="patients", n_boot=500).iloc[0]
    assert row["high"] - row["low"] < one["high"] - one["low"]


def test_patients_need_the_same_test_images(tmp_path):
    runs, _ = paired(tmp_path)
    predicted(tmp_path / "idwt" / "0", 1.0, n=50)
    with pytest.raises(ValueError, match="the same test images"):
        compare(runs, "enhance", over="patients")


def test_a_model_against_itself_has_no_interval(tmp_path):
    runs, _ = paired(tmp_path)
    runs["folder"], runs["roc_auc"] = runs["folder"].iloc[0], 0.7
    row = compare(runs, "enhance", over="patients", n_boot=50).iloc[0]
    assert row["difference"] == 0 and np.isnan(row["low"]) and np.isnan(row["p"])


def test_predictions_come_back_as_they_were(tmp_path):
    found = predicted(tmp_path / "a", 1.0)
    again = ablation.predictions(tmp_path / "a")
    pd.testing.assert_frame_equal(again.frame, found.frame)
    assert np.array_equal(again.probabilities, found.probabilities)
    assert (again.classes, again.positive, again.name) == (found.classes, "b", "m")
    half = np.full((3, 2, 4, 4), 0.5, np.float16)
    masks = MaskPredictions(found.frame[:3], half, np.eye(4, dtype=bool)[None].repeat(3, 0))
    (tmp_path / "b").mkdir()
    save(masks, tmp_path / "b" / "predictions.npz")
    again = ablation.predictions(tmp_path / "b")
    assert np.array_equal(again.truth, masks.truth) and again.probabilities.dtype == np.float16
    runs = table({"none": seeds(0.5), "idwt": seeds(0.6)}, folder=str(tmp_path / "b"))
    with pytest.raises(ValueError, match="mask_difference"):
        compare(runs, "enhance", over="patients")
    with pytest.raises(FileNotFoundError, match="did the run finish"):
        ablation.predictions(tmp_path)


# --- shown ---------------------------------------------------------------------------------------


def test_the_forest_shows_each_difference_and_how_many_were_tried():
    runs = many()
    runs.loc[runs["enhance"] == "level 3", "roc_auc"] = runs["roc_auc"][:6].to_numpy() + 0.1
    out = compare(runs, "enhance")
    figure = ablation.plot_forest(out)
    (ax,) = figure.axes
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [float(p.get_xdata()[0]) for p in points] == pytest.approx(list(out["difference"]))
    hollow = [p.get_markerfacecolor() == "white" for p in points]
    assert hollow == [False, False, True, False]  # differences all alike
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    known = out.dropna(subset=["low"])
    assert [tuple(b.get_xdata()) for b in bars] == list(
        zip(known["low"], known["high"], strict=True)
    )
    text = figure.get_supxlabel()
    assert "31 runs tried, 1 failed" in text and "3 comparisons (Holm)" in text
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "enhance: level 1 − level 0"


def test_the_interaction_plot_joins_the_means():
    keys = list(itertools.product((0, 1), (0,), ("slow", "fast")))
    values = {
        level: {k: base + 0.1 * k[0] + (lift if k[2] == "fast" else 0) for k in keys}
        for level, base, lift in (("none", 0.5, 0.0), ("idwt", 0.6, 0.2))
    }
    figure = ablation.plot_interaction(table(values), "enhance", "lr")
    (ax,) = figure.axes
    means = {
        line.get_label(): list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "-"
    }
    assert means["slow (n=4)"] == pytest.approx([0.55, 0.65])
    assert means["fast (n=4)"] == pytest.approx([0.55, 0.85])
    assert "8 runs tried, 0 failed" in figure.get_supxlabel()
    with pytest.raises(ValueError, match="name two"):
        ablation.plot_interaction(table(values), "lr", "lr")


def test_csv_and_latex_keep_the_numbers_and_how_many_were_tried(tmp_path):
    out = compare(many(), "enhance")
    again = pd.read_csv(ablation.to_csv(out, tmp_path / "out.csv"))
    pd.testing.assert_frame_equal(again, out, check_dtype=False)
    assert set(again["tried"]) == {31} and set(again["failed"]) == {1}
    text = ablation.to_latex(out, tmp_path / "out.tex", digits=2)
    assert (tmp_path / "out.tex").read_text("utf-8") == text
    assert r"five \& more\_\%: 31 runs tried, 1 failed" in text and r"95\% intervals" in text
    first = out.iloc[0]
    assert f"{first['difference']:.2f} [{first['low']:.2f}, {first['high']:.2f}]" in text
    assert text.count(r"\\") >= 5 and r"roc\_auc" in text
