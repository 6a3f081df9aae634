"""Masks against the truth: by hand, against scikit-learn and brute force, and what must hold."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, jaccard_score, recall_score

from covidlab.evaluation import (
    REGION_METRICS,
    WHOLE_METRICS,
    bf_score,
    classification_metrics,
    compare_masks,
    detection,
    mask_confusion,
    mask_difference,
    per_image,
    pick_by_severity,
    plot_convergence,
    plot_mask_confusion,
    published,
    segmentation,
    segmentation_metrics,
    segmentation_report,
    show_segmentations,
)
from covidlab.predictions import MaskPredictions

pytestmark = pytest.mark.filterwarnings("error")

BLOCK = np.zeros((4, 4), int)
BLOCK[1:3, 1:3] = 1
MOVED = np.roll(BLOCK, 1, axis=1)
NOTHING = np.zeros((4, 4), int)


def make(predicted, truth, classes=("background", "infection"), patients=None, name="SegNet"):
    """Certain predictions of the given masks."""
    predicted = np.asarray(predicted)
    probabilities = np.stack([predicted == c for c in range(len(classes))], 1)
    patients = range(len(predicted)) if patients is None else patients
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(len(predicted))],
            "patient_id": [f"P{p}" for p in patients],
        }
    )
    return MaskPredictions(frame, probabilities, np.asarray(truth), classes, name)


def blobs(n, n_classes=2, size=24, seed=0, noise=1.0):
    """(predicted, truth) of smooth random shapes that overlap in part."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(n, size, size)), (0, 3, 3))
    other = field + noise * gaussian_filter(rng.normal(size=(n, size, size)), (0, 2, 2))
    cuts = np.quantile(field, np.linspace(0.6, 0.9, n_classes - 1))
    return np.searchsorted(cuts, other), np.searchsorted(cuts, field)


# --- by hand -------------------------------------------------------------------------------------


def test_a_block_moved_by_one_pixel():
    # 2 pixels found, 2 added, 2 missed, 10 right outside.
    values = segmentation_metrics(make([MOVED], [BLOCK]))
    assert values == pytest.approx(
        {
            "class_accuracy / background": 10 / 12,
            "iou / background": 10 / 14,
            "dice / background": 20 / 24,
            "image_dice / background": 20 / 24,
            # All but the pixels (1..2, 3) are outline in the prediction: they have none inside.
            "bf_score / background": 10 / 12,
            "class_accuracy / infection": 2 / 4,
            "iou / infection": 2 / 6,
            "dice / infection": 4 / 8,
            "image_dice / infection": 4 / 8,
            "bf_score / infection": 2 / 4,
            "global_accuracy": 12 / 16,
            "mean_accuracy": (10 / 12 + 2 / 4) / 2,
            "mean_iou": (10 / 14 + 2 / 6) / 2,
            "weighted_iou": (12 * 10 / 14 + 4 * 2 / 6) / 16,
            "mean_bf_score": (10 / 12 + 2 / 4) / 2,
        }
    )


def test_of_two_images_pixels_are_pooled_and_dice_and_outlines_averaged():
    small = np.zeros((4, 4), int)
    small[0, 0] = 1
    values = segmentation_metrics(make([BLOCK, np.roll(small, 2)], [BLOCK, small]))
    assert values["class_accuracy / infection"] == 4 / 5
    assert values["iou / infection"] == 4 / 6
    assert values["dice / infection"] == 8 / 10
    assert values["image_dice / infection"] == (1 + 0) / 2
    assert values["bf_score / infection"] == (1 + 0) / 2


def test_confusion_of_pixels():
    m = make([MOVED, BLOCK], [BLOCK, BLOCK])
    counts = mask_confusion(m, normalise=False)
    assert counts.to_numpy().tolist() == [[22, 2], [2, 6]]
    assert counts.index.name == "truth" and counts.columns.name == "predicted"
    assert mask_confusion(m).to_numpy().tolist() == [[22 / 24, 2 / 24], [2 / 8, 6 / 8]]
    assert mask_confusion(make([BLOCK], [NOTHING])).loc["infection"].isna().all()


def test_the_frame_is_an_outline_of_the_background():
    # Outside the image counts as outside: of a full 4 × 5 mask only the 2 × 3 inside is no outline.
    full, inner = np.ones((4, 5), bool), np.zeros((4, 5), bool)
    inner[1:3, 1:4] = True
    assert bf_score(full, full) == 1
    assert bf_score(full, ~inner) == 1
    assert bf_score(full, inner) == 0
    assert bf_score(full, inner, tolerance=0.25) == 1


# --- the boundary score --------------------------------------------------------------------------


def brute_outline(mask):
    inside = {(y, x) for y, x in np.ndindex(mask.shape) if mask[y, x]}
    return [
        (y, x) for y, x in inside if not {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} <= inside
    ]


def brute_bf(a, b, reach):
    a, b = brute_outline(a), brute_outline(b)

    def near(points, others):
        close = [min((y - v) ** 2 + (x - u) ** 2 for v, u in others) for y, x in points]
        return np.mean([c < reach**2 for c in close])

    precision, recall = near(a, b), near(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("reach", [0.5, 1.3, 2.0, 3.2])
def test_bf_is_that_of_all_distances(reach):
    for predicted, truth in zip(*blobs(12, size=18, seed=1), strict=True):
        tolerance = reach / np.hypot(18, 18)
        found = bf_score(predicted, truth, tolerance)
        assert found == pytest.approx(brute_bf(predicted == 1, truth == 1, reach))
        assert found == bf_score(truth, predicted, tolerance)
        assert found == bf_score(predicted.T[::-1], truth.T[::-1], tolerance)


def test_an_outline_matches_closer_than_the_tolerance_not_at_it():
    truth = np.zeros((30, 40), bool)  # its diagonal is 50
    truth[10:16, 10:16] = True
    for shift, matched in ((0, True), (2, True), (3, False)):
        point, there = (np.zeros((30, 40), bool) for _ in range(2))
        point[5, 5 + shift], there[5, 5] = True, True
        assert bf_score(point, there, tolerance=3 / 50) == matched
    assert bf_score(np.roll(truth, 2, axis=0), truth, tolerance=3 / 50) == 1
    assert bf_score(np.roll(truth, 3, axis=0), truth, tolerance=3 / 50) < 1
    scores = [bf_score(np.roll(truth, 4, axis=0), truth, t / 50) for t in (0.5, 1.5, 3, 5)]
    assert scores == sorted(scores) and scores[0] < scores[-1] == 1


def test_the_tolerance_is_a_share_of_the_diagonal():
    # 3.2 pixels of 304 × 304, so 3 are forgiven and 4 are not.
    truth = np.zeros((304, 304), bool)
    truth[100:160, 100:180] = True
    assert bf_score(np.roll(truth, 3, axis=1), truth) == 1
    assert bf_score(np.roll(truth, 4, axis=1), truth) < 1


# --- empty masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "predicted, truth, expected",
    [(NOTHING, NOTHING, None), (BLOCK, NOTHING, 0), (NOTHING, BLOCK, 0), (BLOCK, BLOCK, 1)],
    ids=["both empty", "not there", "missed", "found"],
)
@pytest.mark.parametrize("empty", [np.nan, 1.0, 0.0])
def test_of_empty_masks(predicted, truth, expected, empty):
    values = segmentation_metrics(make([predicted], [truth]), empty=empty)
    expected = empty if expected is None else expected
    for metric in ("iou", "dice", "image_dice", "bf_score"):
        np.testing.assert_equal(values[f"{metric} / infection"], expected)
    np.testing.assert_equal(bf_score(predicted, truth, empty=empty), float(expected))
    recall = expected if truth.any() else np.nan
    np.testing.assert_equal(values["class_accuracy / infection"], recall)
    # The mean over regions has no value where one of them has none.
    assert np.isnan(values["mean_accuracy"]) == (not truth.any())
    assert np.isnan(values["mean_iou"]) == np.isnan(expected)
    assert 0 <= values["weighted_iou"] <= 1 and 0 <= values["global_accuracy"] <= 1


def test_means_over_images_leave_out_what_has_no_value_or_count_it_as_right():
    m = make([BLOCK, NOTHING, NOTHING], [BLOCK, NOTHING, BLOCK])
    for metric in ("image_dice", "bf_score"):
        assert segmentation_metrics(m)[f"{metric} / infection"] == 1 / 2
        assert segmentation_metrics(m, empty=1)[f"{metric} / infection"] == 2 / 3
    # A region that is somewhere has pooled values, whatever `empty` is.
    pooled = [segmentation_metrics(m, empty=e)["iou / infection"] for e in (np.nan, 1)]
    assert pooled == [4 / 8, 4 / 8]
    report = segmentation_report(m, n_boot=20)
    assert report.loc["bf_score / infection", ["n", "patients"]].tolist() == [2, 2]
    assert report.loc["global_accuracy", ["n", "patients"]].tolist() == [3, 3]


# --- against scikit-learn ------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_pixel_metrics_are_those_of_scikit_learn(n_classes):
    predicted, truth = blobs(9, n_classes)
    classes = ("background", "ground glass", "consolidation")[:n_classes]
    m = make(predicted, truth, classes)
    t, p = truth.ravel(), predicted.ravel()
    values = segmentation_metrics(m)
    for metric, function in (
        ("class_accuracy", recall_score),
        ("iou", jaccard_score),
        ("dice", f1_score),
    ):
        ours = [values[f"{metric} / {c}"] for c in classes]
        np.testing.assert_allclose(ours, function(t, p, average=None))
    assert values["global_accuracy"] == pytest.approx((t == p).mean())
    assert values["mean_accuracy"] == pytest.approx(balanced_accuracy_score(t, p))
    assert values["mean_iou"] == pytest.approx(jaccard_score(t, p, average="macro"))
    assert values["weighted_iou"] == pytest.approx(jaccard_score(t, p, average="weighted"))

    rows = per_image(m)
    each = [f1_score(a == 1, b == 1, average=None)[1] for a, b in zip_flat(truth, predicted)]
    np.testing.assert_allclose(rows[f"dice / {classes[1]}"], each)
    assert values[f"image_dice / {classes[1]}"] == pytest.approx(np.mean(each))


def zip_flat(a, b):
    return zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True)


# --- what must hold ------------------------------------------------------------------------------


def test_ranges_and_relations():
    predicted, truth = blobs(10, 3, seed=3)
    m = make(predicted, truth, ("background", "a", "b"))
    values = segmentation_metrics(m)
    assert list(values) == [
        f"{metric} / {c}" for c in m.classes for metric in REGION_METRICS
    ] + list(WHOLE_METRICS)
    assert all(0 <= v <= 1 for v in values.values())
    for c in m.classes:
        iou, dice = values[f"iou / {c}"], values[f"dice / {c}"]
        assert dice == pytest.approx(2 * iou / (1 + iou)) and iou <= dice
        assert iou <= values[f"class_accuracy / {c}"]
    swapped = segmentation_metrics(make(truth, predicted, m.classes))
    for metric in ("iou", "dice", "image_dice", "bf_score"):
        assert swapped[f"{metric} / a"] == pytest.approx(values[f"{metric} / a"])
    assert all(v == 1 for v in segmentation_metrics(make(truth, truth, m.classes)).values())


def test_order_of_images_does_not_matter():
    predicted, truth = blobs(8)
    patients = np.array([0, 0, 1, 1, 2, 3, 3, 3])
    order = np.random.default_rng(0).permutation(8)
    a = make(predicted, truth, patients=patients)
    b = make(predicted[order], truth[order], patients=patients[order])
    assert segmentation_metrics(a) == pytest.approx(segmentation_metrics(b))
    rows = per_image(a).iloc[order].drop(columns="image").reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, per_image(b).drop(columns="image"))


def test_one_image_is_a_set_of_one():
    predicted, truth = blobs(4)
    m = make(predicted, truth, patients=[7, 7, 8, 9])
    rows = per_image(m)
    assert rows["patient_id"].tolist() == ["P7", "P7", "P8", "P9"]
    assert rows["pixels / infection"].tolist() == truth.sum((1, 2)).tolist()
    assert rows["predicted pixels / infection"].tolist() == predicted.sum((1, 2)).tolist()
    for i in range(4):
        alone = segmentation_metrics(make(predicted[[i]], truth[[i]]))
        for metric, value in alone.items():
            if not metric.startswith("image_dice"):
                assert rows.loc[i, metric] == pytest.approx(value), metric


def test_a_threshold_is_the_cut_mask():
    predicted, truth = blobs(3)
    soft = np.where(predicted == 1, 0.4, 0.1)
    m = make(predicted, truth)
    m = replace(m, probabilities=np.stack([1 - soft, soft], 1))
    cut = make(predicted, truth)
    assert segmentation_metrics(m)["class_accuracy / infection"] == 0
    assert segmentation_metrics(m, threshold=0.3) == segmentation_metrics(cut)
    pd.testing.assert_frame_equal(mask_confusion(m, threshold=0.3), mask_confusion(cut))
    pd.testing.assert_frame_equal(per_image(m, threshold=0.3), per_image(cut))
    assert detection(m).predicted.tolist() == [0, 0, 0]
    assert detection(m, threshold=0.3).predicted.tolist() == [1, 1, 1]


def test_share_of_the_lung_counts_the_lung_alone():
    lung = np.zeros((2, 4, 4), bool)
    lung[0, :, :2] = True
    rows = per_image(make([MOVED, MOVED], [BLOCK, BLOCK]), lung=lung)
    np.testing.assert_equal(rows["lung share / infection"].to_numpy(), [2 / 8, np.nan])
    np.testing.assert_equal(rows["predicted lung share / infection"].to_numpy(), [0, np.nan])
    with pytest.raises(ValueError, match="bool"):
        per_image(make([MOVED], [BLOCK]), lung=lung)


def test_detection_is_a_classifier_of_images():
    single = np.zeros((4, 4), int)
    single[0, 0] = 1
    m = make([BLOCK, single, NOTHING, NOTHING], [BLOCK, NOTHING, NOTHING, BLOCK])
    found = detection(m)
    assert found.classes == ("no infection", "infection") and found.positive == "infection"
    assert found.is_positive.tolist() == [True, False, False, True]
    assert found.predicted.tolist() == [1, 1, 0, 0]
    assert classification_metrics(found)["recall"] == 0.5
    assert detection(m, pixels=2).predicted.tolist() == [1, 0, 0, 0]
    assert detection(m, pixels=5).predicted.tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="pixels=0"):
        detection(m, pixels=0)
    with pytest.raises(ValueError, match="'fluid'"):
        detection(m, region="fluid")


# --- intervals -----------------------------------------------------------------------------------


def test_a_resample_is_the_images_drawn_that_often():
    predicted, truth = blobs(5, seed=2)
    truth[1] = predicted[1] = 0
    m = make(predicted, truth)
    weights = np.array([2, 3, 0, 1, 0])
    drawn = np.repeat(np.arange(5), weights)
    counts = segmentation._counts(m, None, segmentation.TOLERANCE, np.nan)
    once = segmentation._pooled(counts, weights[None].astype(float), m.classes, np.nan)
    expected = segmentation_metrics(make(predicted[drawn], truth[drawn]))
    assert {k: v.item() for k, v in once.items()} == pytest.approx(expected)


def test_report_holds_the_values_and_is_the_same_twice():
    predicted, truth = blobs(12)
    m = make(predicted, truth, patients=np.arange(12) // 2)
    report = segmentation_report(m, n_boot=300, seed=4)
    assert report["value"].to_dict() == pytest.approx(segmentation_metrics(m))
    assert (report["low"] < report["value"]).all() and (report["value"] < report["high"]).all()
    assert (report["n"] == 12).all() and (report["patients"] == 6).all()
    assert set(report["method"]) == {"bootstrap, patients"}
    pd.testing.assert_frame_equal(report, segmentation_report(m, n_boot=300, seed=4))
    narrow = segmentation_report(m, level=0.5, n_boot=300, seed=4)
    assert (narrow["high"] - narrow["low"] < report["high"] - report["low"]).all()


def test_copies_of_an_image_are_no_new_patients():
    predicted, truth = blobs(10)
    m = make(predicted, truth)
    again = make(
        *(np.repeat(x, 4, axis=0) for x in (predicted, truth)), patients=np.arange(40) // 4
    )
    once, copied = (segmentation_report(x, n_boot=200) for x in (m, again))
    bounds = ["value", "low", "high"]
    np.testing.assert_allclose(once[bounds], copied[bounds])
    by_image = segmentation_report(again, n_boot=200, by="image")
    width = by_image["high"] - by_image["low"]
    assert (width < 0.75 * (copied["high"] - copied["low"])).all()
    assert by_image["patients"].isna().all()


def test_intervals_cover():
    # A patient's share of found pixels is uniform in (0.4, 1): 0.7 in the long run.
    rng = np.random.default_rng(0)
    n, covered = 40, []
    for seed in range(60):
        truth = np.zeros((n, 6, 6), int)
        truth[:, :3] = 1
        share = rng.uniform(0.4, 1, size=(n, 1, 1))
        predicted = truth * (rng.random((n, 6, 6)) < share)
        report = segmentation_report(make(predicted, truth), n_boot=200, seed=seed)
        low, high = report.loc["class_accuracy / infection", ["low", "high"]]
        covered.append(low <= 0.7 <= high)
    assert 0.85 <= np.mean(covered) <= 1


def test_no_interval_of_no_width():
    report = segmentation_report(make([BLOCK] * 3, [BLOCK] * 3), n_boot=50)
    assert (report["value"] == 1).all() and report[["low", "high"]].isna().all(axis=None)
    assert set(report["method"]) == {"bootstrap, patients (all alike)"}


def test_undefined_resamples_are_counted():
    m = make([BLOCK, NOTHING, NOTHING], [MOVED, NOTHING, NOTHING])
    method = segmentation_report(m, n_boot=400).loc["iou / infection", "method"]
    said = int(method.split("(")[1].split()[0])
    assert abs(said / 400 - (2 / 3) ** 3) < 0.08


def test_difference_is_paired():
    predicted, truth = blobs(16, noise=0.6)
    patients = np.arange(16) // 2
    a = make(predicted, truth, patients=patients)
    worse = predicted.copy()
    worse[:, :, 12] = 0
    b = make(worse, truth, patients=patients)
    metric = "iou / infection"
    gap = mask_difference(a, b, metric, n_boot=300, seed=1)
    values = [segmentation_metrics(m)[metric] for m in (a, b)]
    assert gap.value == pytest.approx(values[0] - values[1]) and gap.low <= gap.value <= gap.high
    back = mask_difference(b, a, metric, n_boot=300, seed=1)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))
    alone = segmentation_report(a, n_boot=300, seed=1).loc[metric]
    assert gap.high - gap.low < alone["high"] - alone["low"]
    same = mask_difference(a, a, metric, n_boot=50)
    assert same.value == 0 and np.isnan(same.low)
    assert gap.n == 8


def test_difference_needs_the_same_images():
    predicted, truth = blobs(4)
    a = make(predicted, truth)
    with pytest.raises(ValueError, match="not known"):
        mask_difference(a, a, "iou")
    with pytest.raises(ValueError, match="true masks differ in 4 rows"):
        mask_difference(a, make(predicted, 1 - truth), "mean_iou")
    with pytest.raises(ValueError, match="'patient_id' differs in 1 rows, first in row 3"):
        mask_difference(a, make(predicted, truth, patients=[0, 1, 2, 9]), "mean_iou")
    with pytest.raises(ValueError, match=r"\(4, 24, 24\) against \(3, 24, 24\)"):
        mask_difference(a, make(predicted[:3], truth[:3]), "mean_iou")
    with pytest.raises(ValueError, match="classes differ"):
        mask_difference(a, make(predicted, truth, ("background", "fluid")), "mean_iou")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"empty": 2}, "empty=2"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"level": 95}, "level=95"),
        ({"by": "slice"}, "by='slice'"),
        ({"n_boot": 0}, "n_boot=0"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        segmentation_report(make([BLOCK], [BLOCK]), **options)


def test_bf_takes_two_masks_of_one_shape():
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(3, 4\)"):
        bf_score(BLOCK, BLOCK[:3])


# --- beside the paper ----------------------------------------------------------------------------


def beside(models, table, **options):
    ours = compare_masks(models, n_boot=50, **options)
    assert ours.index.names == ["model", "region"]
    # As the paper has them: the region first.
    expected = [(m.name, r) for m in models for r in ("infection", "background")]
    assert ours.index.tolist() == expected
    ours = ours.rename(index={"infection": "Infected", "background": "Background"}, level="region")
    return published("khan", table, ours.rename_axis(["Model", "Region"]).reset_index())


def test_tables_5_and_6_take_ours():
    predicted, truth = blobs(6)
    models = [make(predicted, truth, name=n) for n in ("SegNet", "Ours")]
    values = segmentation_metrics(models[0])
    for table, iou in ((5, 0.9770), (6, 0.9702)):
        t = beside(models, table)
        printed = published("khan", table)
        assert len(t) == len(printed) + 2
        assert set(t.columns.get_level_values("metric")) == {
            *REGION_METRICS,
            *WHOLE_METRICS,
        } - {"dice"}
        row = t.loc[("SegNet", "Infected")]
        assert row["iou", "paper"] == pytest.approx(iou)
        assert row["iou", "ours"] == pytest.approx(values["iou / infection"])
        assert row["image_dice", "ours"] == pytest.approx(values["image_dice / infection"])
        assert row["image_dice", "paper ±"] == pytest.approx(1 - row["image_dice", "paper"])
        assert row["mean_bf_score", "ours low"] < row["mean_bf_score", "ours high"]
        background = t.loc[("SegNet", "Background")]
        assert background["mean_iou", "ours"] == row["mean_iou", "ours"]
        assert background["iou", "ours"] == pytest.approx(values["iou / background"])
        assert t.loc[("Ours", "Infected"), ("iou", "ours")] == row["iou", "ours"]
    t = beside(models, 5, metrics=["dice"])
    assert t.loc[("SegNet", "Infected"), ("dice", "paper")] == 0.951


def test_table_4_takes_our_confusion():
    ours = 100 * mask_confusion(make([MOVED], [BLOCK], name="CoV-RASeg")).rename(
        columns={"infection": "% COVID-19 Infected", "background": "% Background"},
        index={
            "infection": "COVID-19 Infected (Ground truth)",
            "background": "Background (Ground truth)",
        },
    )
    ours = ours.rename_axis("Region").reset_index().assign(Models="CoV-RASeg")
    t = published("khan", 4, ours).loc[("CoV-RASeg", "COVID-19 Infected (Ground truth)")]
    assert t["% COVID-19 Infected"].to_dict() == {"ours": 50, "paper": 99.14}
    assert t["% Background"].to_dict() == {"ours": 50, "paper": 0.86}


def test_the_papers_ds_is_no_dice_of_its_iou():
    rows = pd.concat([published("khan", t) for t in (5, 6)])
    iou = rows["%IOU"] / 100
    assert (rows["DS"] < 2 * iou / (1 + iou) - 0.005).all()
    assert (rows["DS"] < iou).mean() > 0.5
    assert np.allclose(rows["DS ±"], 1 - rows["DS"])


def test_our_formulas_agree_with_the_paper_table_4_to_5():
    # Shares of table 4 and one unknown, the part of infected pixels, give the rest of table 5.
    table = published("khan", 5).query("Model == 'SA-CoV-RASeg'").set_index("Region")
    found, added = 0.9919, 0.0030
    parts = np.linspace(0.3, 0.45, 151)
    close = []
    for part in parts:
        matrix = [
            [(1 - part) * (1 - added), (1 - part) * added],
            [part * (1 - found), part * found],
        ]
        v = segmentation._from_matrix(matrix, np.zeros(2), ("background", "infection"), np.nan)
        pairs = [
            (v["global_accuracy"], table.loc["Infected", "% G_Acc"]),
            (v["iou / infection"], table.loc["Infected", "%IOU"]),
            (v["iou / background"], table.loc["Background", "%IOU"]),
            (v["weighted_iou"], table.loc["Infected", "%W_IOU"]),
        ]
        close.append(max(abs(100 * ours - theirs) for ours, theirs in pairs))
    assert min(close) < 0.03


def test_models_need_names():
    m = make([BLOCK], [BLOCK])
    with pytest.raises(ValueError, match="name of its own"):
        compare_masks([m, m])
    with pytest.raises(ValueError, match="'jaccard'"):
        compare_masks(m, metrics=["jaccard"])


# --- pictures ------------------------------------------------------------------------------------


def test_rows_by_severity_are_the_middles_of_the_thirds():
    truth = np.zeros((11, 10, 10), int)
    for i, area in enumerate([50, 0, 20, 80, 10, 0, 70, 30, 60, 40, 90]):
        truth[i].flat[:area] = 1
    picked = pick_by_severity(truth)
    assert {k: int(truth[v].sum()) for k, v in picked.items()} == {
        "mild": 20,
        "medium": 50,
        "severe": 80,
    }
    lung = np.zeros(truth.shape, bool)
    lung[:, :1] = True
    lung[4] = True
    assert pick_by_severity(truth, lung=lung)["mild"] != 4
    with pytest.raises(ValueError, match="2 images"):
        pick_by_severity(truth[:3])


def test_segmentations_side_by_side():
    predicted, truth = blobs(6)
    models = [make(predicted, truth, name="SegNet"), make(truth, truth, name="CoV-RASeg")]
    images = np.random.default_rng(0).random(truth.shape)
    figure = show_segmentations(models, images, rows={"mild": 4, "severe": 2})
    axes = np.array(figure.axes).reshape(2, 4)
    dice = per_image(models[0])["dice / infection"]
    for line, name, row in ((axes[0], "mild", 4), (axes[1], "severe", 2)):
        titles = [ax.get_title() for ax in line]
        share = f"truth, {truth[row].mean():.1%}"
        assert titles == [name, share, f"SegNet\nDice {dice[row]:.3f}", "CoV-RASeg\nDice 1.000"]
        np.testing.assert_array_equal(line[0].images[0].get_array(), images[row])
        np.testing.assert_array_equal(line[1].images[0].get_array(), truth[row] == 1)
        # 0 neither, 1 found, 2 added, 3 missed
        expected = np.array([[0, 2], [3, 1]])[truth[row], predicted[row]]
        np.testing.assert_array_equal(line[2].images[0].get_array(), expected)
    assert len(show_segmentations(models[0], images).axes) == 9
    empty = make([NOTHING], [NOTHING])
    assert show_segmentations(empty, np.zeros((1, 4, 4)), [0]).axes[2].get_title().endswith("–")


def test_segmentations_are_of_the_same_images():
    m = make([BLOCK], [BLOCK])
    images = np.zeros((1, 4, 4))
    with pytest.raises(ValueError, match=r"\(1, 4, 5\)"):
        show_segmentations(m, np.zeros((1, 4, 5)), [0])
    with pytest.raises(ValueError, match="same images"):
        show_segmentations([m, make([BLOCK], [MOVED], name="other")], images, [0])
    with pytest.raises(ValueError, match="empty"):
        show_segmentations([], images, [0])


def test_confusion_of_pixels_is_drawn_as_shares():
    ax = plot_mask_confusion(make([MOVED], [BLOCK])).axes[0]
    assert [t.get_text() for t in ax.texts] == ["83.3%\n10", "16.7%\n2", "50.0%\n2", "50.0%\n2"]
    assert ax.get_ylabel() == "true region" and ax.get_title() == "SegNet"


def test_convergence_shows_each_epoch_and_the_best():
    history = [{"train_loss": 3.0 - i, "valid_loss": [3.5, 2.0, 2.5][i]} for i in range(3)]
    record = SimpleNamespace(history=history, best_epoch=2)
    ax = plot_convergence({"CoV-RASeg": record, "SegNet": history}).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(lines["CoV-RASeg, training"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines["CoV-RASeg, training"].get_ydata(), [3, 2, 1])
    np.testing.assert_array_equal(lines["SegNet, validation"].get_ydata(), [3.5, 2, 2.5])
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(d.get_xdata()[0], d.get_ydata()[0]) for d in dots] == [(2, 2.0)]
    history[1]["valid_loss"] = None
    gap = plot_convergence(history).axes[0].lines[1].get_ydata()
    np.testing.assert_array_equal(gap, [3.5, np.nan, 2.5])
    with pytest.raises(ValueError, match="'error'.*train_loss"):
        plot_convergence(history, train="error")
