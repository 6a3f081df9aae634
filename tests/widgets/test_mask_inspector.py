"""The mask inspector without a browser: its numbers against `evaluation`, by hand, and its bytes."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from traitlets import TraitError

import covidlab.widgets
from covidlab.evaluation import detection, per_image, segmentation_metrics
from covidlab.imaging import TAHIR_REFINEMENT, refine
from covidlab.predictions import MaskPredictions
from covidlab.widgets import MaskInspector
from covidlab.widgets.masks import LEVELS, levels_of

HERE = Path(covidlab.widgets.__file__).parent
BLOCK = np.zeros((4, 4), bool)
BLOCK[1:3, 1:3] = True
MOVED, NOTHING = np.roll(BLOCK, 1, axis=1), np.zeros((4, 4), bool)


def blobs(n=6, size=(40, 48), seed=0, dtype=np.float32):
    """images, truth, probability, lung: smooth shapes that overlap in part; the last has no lesion."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(n, *size)), (0, 3, 3))
    other = field + gaussian_filter(rng.normal(size=(n, *size)), (0, 2, 2))
    lung = gaussian_filter(rng.normal(size=(n, *size)), (0, 5, 5)) > -0.02
    probability = (1 / (1 + np.exp(-25 * (other - 0.05)))).astype(dtype)
    truth = field > 0.08
    truth[-1] = False
    return rng.random((n, *size)).astype(np.float32), truth, probability, lung


def predictions(probability, truth):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(len(truth))]})
    return MaskPredictions(frame, np.stack([1 - probability, probability], 1), truth)


def same(a, b):
    return a == b or (np.isnan(a) and np.isnan(b))


# ---- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "predicted,truth,expected",
    [
        (MOVED, BLOCK, (4 / 8, 2 / 6, 2 / 4)),
        (BLOCK, BLOCK, (1, 1, 1)),
        (NOTHING, BLOCK, (0, 0, 0)),
        (BLOCK, NOTHING, (0, 0, None)),
        (NOTHING, NOTHING, (None, None, None)),
    ],
)
def test_masks_worked_by_hand(predicted, truth, expected):
    inspector = MaskInspector(np.zeros((4, 4)), truth, predicted)
    found = inspector.measure()
    shown = inspector.numbers["here"]
    for name, value in zip(("dice", "iou", "sensitivity"), expected, strict=True):
        assert same(found[name], np.nan if value is None else value), name
        assert shown[name] == value
    assert found["predicted_share"] == predicted.sum() / 16, "of the image: there is no lung mask"
    assert (found["detected"], found["infected"]) == (predicted.any(), truth.any())
    assert found["false_positives"] == (predicted & ~truth).sum()
    assert found["false_negatives"] == (truth & ~predicted).sum()


def test_share_of_the_lung_counts_what_lies_in_it():
    lung = np.zeros((4, 4), bool)
    lung[:, 2:] = True
    here = MaskInspector(np.zeros((4, 4)), BLOCK, MOVED, lung, spacing=(5, 2, 3)).measure()
    assert here["predicted_share"] == 4 / 8 and here["true_share"] == 2 / 8
    assert here["dice"] == 0.5, "of the whole image, as in evaluation"
    assert here["predicted_size"] == pytest.approx(4 * 2 * 3 / 100)  # cm²
    no_lung = MaskInspector(np.zeros((4, 4)), BLOCK, MOVED, NOTHING).measure()
    assert np.isnan(no_lung["predicted_share"]) and np.isnan(no_lung["true_share"])


def test_as_many_pixels_as_asked_for_are_enough():
    inspector = MaskInspector(np.zeros((4, 4)), NOTHING, BLOCK, min_pixels=4)
    assert inspector.numbers["here"]["detected"] is True
    assert inspector.numbers["here"]["infected"] is False
    inspector.min_pixels = 5
    assert inspector.numbers["here"]["detected"] is False
    assert inspector.numbers["whole"]["detected"] == 0


def test_volumes_have_sizes_in_ml_and_pictures_have_none():
    stack = dict(truth=np.stack([BLOCK, BLOCK]), probability=np.stack([BLOCK, MOVED]))
    volume = MaskInspector(np.zeros((2, 4, 4)), **stack, spacing=(5, 2, 3))
    assert volume.measure_all()["predicted_size"] == pytest.approx(8 * 5 * 2 * 3 / 1000)
    pictures = MaskInspector(list(np.zeros((2, 4, 4))), **stack, spacing=(5, 2, 3))
    assert "predicted_size" not in pictures.measure_all()


def test_what_is_not_given_is_not_counted():
    image = np.zeros((4, 4))
    no_truth = MaskInspector(image, probability=BLOCK).numbers["here"]
    assert no_truth["predicted_share"] == 4 / 16 and no_truth["detected"] is True
    assert {no_truth[k] for k in ("dice", "iou", "sensitivity", "true_share", "infected")} == {None}
    no_mask = MaskInspector(image, truth=BLOCK).numbers["here"]
    assert no_mask["true_share"] == 4 / 16 and no_mask["infected"] is True
    assert {no_mask[k] for k in ("dice", "false_negatives", "predicted_share", "detected")} == {
        None
    }
    nothing = MaskInspector(image).numbers
    assert nothing["here"]["true_pixels"] is None and nothing["curve"] == {
        "predicted": [],
        "true": [],
    }


# ---- against evaluation -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_levels_are_thresholds_without_rounding(dtype):
    """`levels >= k` is `p >= k / 200`, also one step of the floating point beside each threshold."""
    at = (np.arange(LEVELS + 1) / LEVELS).astype(dtype)
    beside = [np.nextafter(at, dtype(0)), at, np.nextafter(at, dtype(1))]
    p = np.concatenate([*beside, np.random.default_rng(0).random(5000).astype(dtype)])
    levels = levels_of(p)
    assert levels.dtype == np.uint8
    for k in range(1, LEVELS + 1):
        np.testing.assert_array_equal(levels >= k, p >= k / LEVELS)


def test_bool_masks_are_the_same_at_every_threshold():
    for k in (1, 100, LEVELS):
        np.testing.assert_array_equal(levels_of(BLOCK) >= k, BLOCK)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [0.035, 0.5, 0.73, 1.0])
def test_numbers_are_those_of_evaluation(threshold, dtype):
    images, truth, probability, lung = blobs(dtype=dtype)
    both = predictions(probability, truth)
    inspector = MaskInspector(images, truth, both.probabilities[:, 1], lung, threshold=threshold)
    each = per_image(both, threshold, lung=lung)
    for row, expected in each.iterrows():
        inspector.slice = row
        found = inspector.measure()
        for name, column in (
            ("dice", "dice / infection"),
            ("iou", "iou / infection"),
            ("sensitivity", "class_accuracy / infection"),
            ("predicted_share", "predicted lung share / infection"),
            ("true_share", "lung share / infection"),
            ("predicted_pixels", "predicted pixels / infection"),
            ("true_pixels", "pixels / infection"),
        ):
            assert same(found[name], expected[column]), (row, name)
    whole, expected = inspector.measure_all(), segmentation_metrics(both, threshold)
    for name, column in (("dice", "dice"), ("iou", "iou"), ("sensitivity", "class_accuracy")):
        assert same(whole[name], expected[f"{column} / infection"])
    mask = both.at(threshold) == 1
    assert whole["predicted_share"] == (mask & lung).sum() / lung.sum()
    for pixels in (1, 300):
        inspector.min_pixels = pixels
        found = detection(both, pixels, threshold=threshold)
        assert inspector.numbers["whole"]["detected"] == (found.predicted == 1).sum()
        assert inspector.numbers["whole"]["infected"] == found.is_positive.sum()
        inspector.slice = 2
        assert inspector.numbers["here"]["detected"] == bool(found.predicted[2])
    curve = inspector.curve()
    assert curve["predicted"] == (mask & lung).sum((1, 2)).tolist()
    assert curve["true"] == (truth & lung).sum((1, 2)).tolist()


def test_a_threshold_between_the_steps_of_the_slider_is_taken_as_it_is():
    images, truth, probability, lung = blobs()
    inspector = MaskInspector(images, truth, probability, lung)
    expected = segmentation_metrics(predictions(probability, truth), 0.5123)
    assert inspector.measure_all(0.5123)["dice"] == expected["dice / infection"]
    np.testing.assert_array_equal(inspector.mask(1, 0.5123), probability[1] >= 0.5123)


def test_numbers_follow_slice_threshold_and_steps():
    images, truth, probability, lung = blobs()
    inspector = MaskInspector(images, truth, probability, lung)
    seen = []
    for change in ({"slice": 3}, {"threshold": 0.2}, {"steps_on": ["fill holes"]}):
        inspector.set_trait(*next(iter(change.items())))
        numbers = inspector.numbers
        assert (numbers["slice"], numbers["threshold"]) == (inspector.slice, inspector.threshold)
        assert numbers["steps"] == inspector.steps_on
        assert numbers["here"] == inspector.measure()
        assert numbers["whole"] == inspector.measure_all()
        seen.append(json.dumps(numbers, allow_nan=False))
    assert len(set(seen)) == 3


# ---- post-processing ----------------------------------------------------------------------------


def test_steps_are_applied_in_order_and_counted():
    images, truth, probability, lung = blobs()
    inspector = MaskInspector(images, truth, probability, lung, threshold=0.4)
    inspector.steps_on = ["within the lung", "fill holes"]
    assert inspector.steps_on == ["fill holes", "within the lung"], "the order of the mapping"
    steps = {name: TAHIR_REFINEMENT[name] for name in inspector.steps_on}
    pairs = zip(probability >= np.float32(0.4), lung, strict=True)
    refined = np.stack([refine(mask, steps, own) for mask, own in pairs])
    assert (refined != (probability >= np.float32(0.4))).any()
    both = predictions(refined.astype(np.float32), truth)
    assert inspector.measure_all()["dice"] == segmentation_metrics(both)["dice / infection"]
    assert inspector.numbers["curve"]["predicted"] == (refined & lung).sum((1, 2)).tolist()
    for row in range(len(images)):
        inspector.slice = row
        assert same(inspector.measure()["iou"], per_image(both)["iou / infection"][row])
        sent = np.unpackbits(np.frombuffer(inspector.mask_bits, np.uint8))[: refined[row].size]
        np.testing.assert_array_equal(sent.reshape(refined[row].shape), refined[row])
    inspector.steps_on = []
    assert inspector.mask_bits == b""


def test_order_of_own_steps_matters():
    ring = np.zeros((8, 8), bool)
    ring[:6, :6], ring[1:5, 1:5], ring[7, 6:] = True, False, True

    from covidlab.imaging import fill_holes, remove_small

    fill, small = ("fill", fill_holes), ("small", partial(remove_small, share=0.08))
    areas = []
    for steps in (dict([fill, small]), dict([small, fill])):
        inspector = MaskInspector(np.zeros((8, 8)), probability=ring, steps=steps)
        inspector.steps_on = list(steps)
        areas.append(inspector.numbers["here"]["predicted_pixels"])
    assert areas == [36, 38]


def test_while_a_slider_moves_the_whole_volume_waits():
    images, truth, probability, lung = blobs()
    inspector = MaskInspector(images, truth, probability, lung, steps_on=["fill holes"])
    inspector.moving = True
    inspector.threshold = 0.3
    assert inspector.numbers["whole"] is None and inspector.numbers["here"] == inspector.measure()
    inspector.moving = False
    assert inspector.numbers["whole"] == inspector.measure_all(0.3, ["fill holes"])
    inspector.moving = True
    inspector.slice = 4
    assert inspector.numbers["whole"] is not None, "counted before, for these settings"
    inspector.steps_on = []
    inspector.threshold = 0.6
    assert inspector.numbers["whole"] == inspector.measure_all(0.6, [])


def test_steps_that_need_a_lung_are_offered_with_one():
    image = np.zeros((4, 4))
    assert MaskInspector(image, lung=~NOTHING).about["steps"] == list(TAHIR_REFINEMENT)
    assert "within the lung" not in MaskInspector(image).about["steps"]
    assert MaskInspector(image, steps=None).about["steps"] == []


# ---- what the browser gets ----------------------------------------------------------------------


def unpacked(inspector, place, blob):
    """As masks.js reads it."""
    size = place["height"] * place["width"]
    kind, n = ("<i2", 2 * size) if inspector.about["hounsfield"] else (np.uint8, size)
    bits = np.frombuffer(blob[n + size :], np.uint8).reshape(2, -1)
    masks = [np.unpackbits(b)[:size].astype(bool) for b in bits]
    arrays = (np.frombuffer(blob[:n], kind), np.frombuffer(blob[n : n + size], np.uint8), *masks)
    return [a.reshape(place["height"], place["width"]) for a in arrays]


def test_bytes_of_every_slice_are_its_own():
    images, truth, probability, lung = blobs(size=(13, 11))
    hu = np.float32(3000) * images - 1000.3
    inspector = MaskInspector(hu, truth, probability, lung, hounsfield=True)
    sent = []
    inspector.send = lambda content, buffers=None: sent.append((content, buffers[0]))
    for row in (4, 1):
        inspector._handle_custom_msg({"slice": row}, [])
        inspector.slice = row
        for place, blob in (sent[-1], (inspector.shown, inspector.picture)):
            assert place == {"slice": row, "height": 13, "width": 11}
            pixels, levels, true, own = unpacked(inspector, place, blob)
            assert np.abs(pixels - hu[row]).max() <= 0.5
            np.testing.assert_array_equal(levels >= 100, probability[row] >= 0.5)
            np.testing.assert_array_equal(true, truth[row])
            np.testing.assert_array_equal(own, lung[row])
    for wrong in ({"slice": 6}, {"slice": -1}, {"slice": "0"}, {}):
        inspector._handle_custom_msg(wrong, [])
    assert len(sent) == 2


def test_table_counts_pixels_by_truth_lung_and_threshold():
    images, truth, probability, lung = blobs()
    inspector = MaskInspector(images, truth, probability, lung)
    table = np.frombuffer(inspector.table, "<u4").reshape(len(images), 2, 2, LEVELS + 1)
    for k in (0, 1, 90, LEVELS):
        mask = probability >= k / LEVELS
        for t in (0, 1):
            for own in (0, 1):
                expected = (mask & (truth == t) & (lung == own)).sum((1, 2))
                np.testing.assert_array_equal(table[:, t, own, k], expected)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("lesions", [True, False], ids=["truth", "no truth"])
def test_the_script_counts_as_python_does(tmp_path, lesions):
    images, truth, probability, lung = blobs()
    truth = truth if lesions else None
    inspector = MaskInspector(images, truth, probability, lung, min_pixels=200)
    (tmp_path / "table").write_bytes(inspector.table)
    script = (HERE / "common.js").read_text() + (HERE / "masks.js").read_text()
    script += """
    import { readFileSync } from "node:fs";
    const [table, about, asked] = process.argv.slice(2);
    const counts = counter({ get: () => readFileSync(table) }, JSON.parse(about));
    console.log(JSON.stringify(JSON.parse(asked).map(([row, level]) =>
      ({ ...counts.numbers(row, level, 200), curve: counts.curve(level) }))));
    """
    (tmp_path / "counts.mjs").write_text(script)
    asked = [(row, level) for row in range(len(images)) for level in (1, 90, 163, 200)]
    told = (tmp_path / "counts.mjs", tmp_path / "table", json.dumps(inspector.about))
    command = ["node", *map(str, told), json.dumps(asked)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for (row, level), counted in zip(asked, json.loads(out), strict=True):
        inspector.slice, inspector.threshold = row, level / LEVELS
        assert counted == {k: inspector.numbers[k] for k in ("here", "whole", "curve")}


def test_names_are_never_markup():
    assert MaskInspector(np.zeros((4, 4)), names=["<script>"]).about["names"] == ["<script>"]
    script = (HERE / "masks.js").read_text()
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert dangerous not in script


# ---- what goes in -------------------------------------------------------------------------------


def test_pictures_of_different_size_and_volumes():
    sizes = [(10, 12), (8, 8), (20, 5)]
    rng = np.random.default_rng(0)
    truth = [rng.random(s) < 0.3 for s in sizes]
    p = [rng.random(s) for s in sizes]
    inspector = MaskInspector([np.zeros(s) for s in sizes], truth, p, names=list("abc"))
    assert not inspector.about["volume"] and inspector.about["names"] == ["a", "b", "c"]
    masks = [q >= 0.5 for q in p]
    hits = sum((m & t).sum() for m, t in zip(masks, truth, strict=True))
    area = sum(m.sum() + t.sum() for m, t in zip(masks, truth, strict=True))
    assert inspector.measure_all()["dice"] == 2 * hits / area
    inspector.slice = 2
    assert inspector.shown == {"slice": 2, "height": 20, "width": 5}
    assert MaskInspector(np.zeros((3, 8, 8))).about["volume"]
    assert not MaskInspector(np.zeros((3, 8, 8)), volume=False).about["volume"]
    assert MaskInspector(np.zeros((8, 8))).about["names"] == ["image 1"]


def test_from_predictions_takes_the_region():
    images, truth, probability, lung = blobs()
    both = predictions(probability, truth)
    inspector = MaskInspector.from_predictions(both, images, lung=lung, slice=1)
    assert inspector.about["names"][1] == "1.png" and not inspector.about["volume"]
    assert inspector.measure_all()["dice"] == segmentation_metrics(both, 0.5)["dice / infection"]

    three = np.stack([1 - probability, 0.75 * probability, 0.25 * probability], 1)
    labels = np.where(truth, 2, 0)
    of = MaskPredictions(both.frame, three, labels, ("background", "ground glass", "consolidation"))
    inspector = MaskInspector.from_predictions(of, images, "consolidation", threshold=0.2)
    np.testing.assert_array_equal(inspector.mask(0), three[0, 2] >= np.float32(0.2))
    assert inspector.measure()["true_pixels"] == truth[0].sum()
    with pytest.raises(ValueError, match="region=None; choose one of"):
        MaskInspector.from_predictions(of, images)


def test_from_learner_shows_what_the_network_sees(tmp_path, monkeypatch):
    from PIL import Image

    from covidlab import datasets, imaging, training

    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        row = {"image": f"{i}.png", "label": "COVID", "patient_id": f"p{i}"}
        row |= {c: f"{c}_{i}.png" for c in ("lung_mask", "infection_mask")}
        for column in ("image", "lung_mask", "infection_mask"):
            pixels = rng.random((40, 40)) if column == "image" else rng.random((40, 40)) < 0.5
            Image.fromarray(np.uint8(255 * pixels)).save(tmp_path / row[column])
        rows.append(row)
    data = datasets.Dataset(pd.DataFrame(rows), tmp_path, datasets.Card("noise"))
    recipe = training.Recipe(
        name="tiny",
        network="CoV-RASeg",
        options={"width": 4},
        masks=("infection_mask",),
        size=32,
        batch_size=2,
    )
    parts = datasets.Split(data.where([0, 1]), data.where([2]), data.where([3]), "by hand")
    learn = training.learner(training.dataloaders(parts, recipe, progress=False))
    inspector = MaskInspector.from_learner(learn, data, slice=1)

    said = training.predict(learn, data)
    assert inspector.measure_all()["iou"] == segmentation_metrics(said, 0.5)["iou / infection"]
    assert inspector.about["names"] == ["0.png", "1.png", "2.png", "3.png"]
    pixels, _, truth, lung = unpacked(inspector, inspector.shown, inspector.picture)
    assert np.abs(pixels / 255 - imaging.resize(data.image(1), 32)).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(truth, imaging.resize_mask(data.mask(1), 32))
    np.testing.assert_array_equal(lung, imaging.resize_mask(data.mask(1, "lung_mask"), 32))
    assert inspector.about["lung"]

    partly = datasets.Dataset(
        data.frame.assign(lung_mask=["", *data.frame["lung_mask"][1:]]), data.root, data.card
    )
    assert not MaskInspector.from_learner(learn, partly).about["lung"]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"images": np.zeros((2, 2, 2, 2))}, "images must be"),
        ({"images": []}, "images must be"),
        ({"images": np.full((4, 4), 255.0)}, "0 to 1: pass hounsfield=True"),
        ({"images": np.full((4, 4), np.nan)}, "NaN"),
        ({"truth": np.zeros((4, 5), bool)}, r"truth: 1 of \[\(4, 5\)\], but images"),
        ({"lung": np.zeros((2, 4, 4), bool)}, "lung: 2 of"),
        ({"truth": np.zeros((4, 4), np.uint8)}, "truth is uint8; bool is needed"),
        ({"probability": np.full((4, 4), 1.2)}, "from 1.2 to 1.2"),
        ({"probability": np.full((4, 4), np.nan)}, "nan"),
        ({"probability": np.zeros((4, 4), int)}, "probability is int64"),
        ({"names": ["a", "b"]}, "2 names for 1 images"),
        ({"spacing": (1.0,)}, "spacing"),
        ({"spacing": (1.0, 0.0)}, "above 0"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        MaskInspector(**{"images": np.zeros((4, 4)), **options})


def test_traits_refuse_what_is_not_there():
    inspector = MaskInspector(np.zeros((3, 4, 4)), probability=np.zeros((3, 4, 4)))
    inspector.threshold = 0.5037
    assert inspector.threshold == 0.505, "a multiple of 1/200"
    for trait, value, message in (
        ("slice", 3, "there are 0 to 2"),
        ("threshold", 1.5, r"must lie in 0\.\.1"),
        ("steps_on", ["polish"], "polish"),
        ("mode", "heatmap", "heatmap"),
        ("min_pixels", 0, "min"),
    ):
        before = getattr(inspector, trait)
        with pytest.raises(TraitError, match=message):
            setattr(inspector, trait, value)
        assert getattr(inspector, trait) == before


# ---- without a browser --------------------------------------------------------------------------


def test_static_shows_the_slice_and_says_its_numbers():
    images, truth, probability, lung = blobs()
    inspector = MaskInspector(images, truth, probability, lung, slice=2, names=list("abcdef"))
    figure = inspector.static()
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["c", "masks", "errors", "infected, pixels"]
    caption = figure.get_supxlabel()
    here, whole = inspector.measure(), inspector.measure_all()
    for found in (here, whole):
        assert f"Dice {found['dice']:.3f}" in caption
        assert f"lung infected: predicted {100 * found['predicted_share']:.1f} %" in caption
    line = {tuple(np.round(x.get_ydata(), 6)) for x in figure.axes[3].lines[:2]}
    assert line == {tuple(c) for c in inspector.curve().values()}

    errors = np.rint(255 * figure.axes[2].images[0].get_array()).astype(int)
    orange = (errors == [0xD5, 0x5E, 0x00]).all(-1)
    np.testing.assert_array_equal(orange, inspector.mask() & ~truth[2])


def test_static_of_less_has_fewer_panels_and_says_not_defined():
    alone = MaskInspector(np.zeros((4, 4)), probability=BLOCK).static()
    assert [ax.get_title() for ax in alone.axes] == ["image 1", "masks"]
    empty = MaskInspector(np.zeros((4, 4)), NOTHING, NOTHING).static()
    assert "Dice not defined" in empty.get_supxlabel()
    assert [ax.get_title() for ax in MaskInspector(np.zeros((4, 4))).static().axes]
