"""The two stages as one say what each says alone, and segment only what was screened positive."""

import numpy as np
import pandas as pd
import pytest

from covidlab import datasets, imaging, severity, training
from covidlab.cascade import (
    LocaliseAndQuantify,
    ScreenThenSegment,
    _probabilities,
    segment,
    within_lungs,
)
from covidlab.imaging import resize_mask
from covidlab.predictions import MaskPredictions


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """An untrained screener and segmenter on ten phantom slices: their answers are arbitrary."""
    folder = tmp_path_factory.mktemp("cascade") / "set"
    datasets.phantom.generate(
        folder, 10, 4, size=64, slices_per_patient=1, workers=1, progress=False
    )
    data = datasets.from_folder(folder, positive="COVID")
    split = datasets.split(data, test=0.2, valid=0.3, seed=0)
    screening = training.KHAN_SCREENING.smoke().but(
        size=32, batch_size=4, options={}, network="ResNet-18"
    )
    segmenting = training.KHAN_SEGMENTATION.smoke().but(size=32, batch_size=4, channels=1)
    screener, segmenter = (
        training.learner(training.dataloaders(split, recipe, progress=False))
        for recipe in (screening, segmenting)
    )
    return screener, segmenter, data


def test_one_image_gets_what_each_stage_says_of_it(stages):
    screener, segmenter, data = stages
    cascade = ScreenThenSegment(screener, segmenter, threshold=0.0)
    chance = training.predict(screener, data)
    masks = training.predict(segmenter, data)
    for i in range(4):
        lung = data.mask(i, "lung_mask")
        finding = cascade(data.image(i), lung)
        assert finding.probability == pytest.approx(chance.score[i], abs=1e-4)
        assert finding.label == "COVID"  # whatever the probability: the threshold is 0
        expected = resize_mask(masks.predicted[i] == 1, 64)
        assert np.mean(finding.mask == expected) > 0.999
        inside = (finding.mask & lung).sum() / lung.sum()
        assert finding.infected_fraction == pytest.approx(inside)


def test_what_is_screened_negative_is_not_segmented(stages):
    screener, segmenter, data = stages
    chance = training.predict(screener, data).score
    threshold = float(np.sort(chance)[len(data) // 2])
    cascade = ScreenThenSegment(screener, segmenter, threshold)
    screened, masks = cascade.over(data)
    alone = training.predict(segmenter, data)
    called = chance >= threshold
    assert 0 < called.sum() < len(data)
    np.testing.assert_allclose(screened.score, chance, atol=1e-5)
    assert not masks.predicted[~called].any()
    np.testing.assert_array_equal(masks.predicted[called], alone.predicted[called])
    np.testing.assert_array_equal(masks.truth, alone.truth)
    row = int(np.argmin(chance))
    finding = cascade(data.image(row))
    assert finding.label == "NonCOVID" and not finding.mask.any()
    assert finding.infected_fraction == 0


def test_segments_of_images_without_masks_are_those_of_predict(stages):
    _, segmenter, data = stages
    expected = training.predict(segmenter, data).predicted
    bare = data.where(np.arange(len(data)) < 9)  # more than a batch, and a rest
    bare = datasets.Dataset(bare.frame.drop(columns="infection_mask"), bare.root, bare.card)
    found = segment(segmenter, bare)
    for mask, small in zip(found, expected, strict=False):
        assert mask.shape == (64, 64) and mask.dtype == bool
        assert np.mean(mask == resize_mask(small == 1, 64)) > 0.999
    wide = np.pad(data.image(0), ((0, 0), (0, 32)))
    one, two = segment(segmenter, [data.image(0), wide])
    assert one.shape == (64, 64) and two.shape == (64, 96)
    np.testing.assert_array_equal(one, found[0])
    everywhere = segment(segmenter, [wide], region=0)[0] ^ two
    assert everywhere.mean() > 0.99  # background and infection leave nothing over but rounding


def test_clear_errors(stages):
    screener, segmenter, data = stages
    with pytest.raises(ValueError, match="region"):
        segment(segmenter, data, region=2)
    with pytest.raises(ValueError, match="region"):
        segment(screener, data)
    with pytest.raises(ValueError, match="threshold"):
        ScreenThenSegment(screener, segmenter, 1.5)
    with pytest.raises(ValueError, match="screener"):
        ScreenThenSegment(segmenter, segmenter)
    with pytest.raises(ValueError, match="segmenter"):
        ScreenThenSegment(screener, screener)
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        ScreenThenSegment(screener, segmenter)(data.image(0) * 255)


def test_the_system_says_what_its_networks_say(stages):
    """One network plays lung and infection: arbitrary masks, but every step can be followed."""
    classifier, segmenter, data = stages
    system = LocaliseAndQuantify(segmenter, segmenter, classifier)
    found = system(data, batch_size=4)
    assert len(found) == len(data)
    for i, each in enumerate(found):
        (raw,) = segment(segmenter, [data.image(i)])
        np.testing.assert_array_equal(each.lung, imaging.refine(raw, imaging.TAHIR_LUNG))
        np.testing.assert_array_equal(each.infection, raw & each.lung)
        assert each.positive == (raw & each.lung).any()
        both = severity.infected_share(each.infection, each.lung)
        assert each.share["both"] == pytest.approx(both, nan_ok=True)
        (alone,) = _probabilities(classifier, [np.where(each.lung, data.image(i), 0)])
        assert each.probabilities == pytest.approx(
            dict(zip(("COVID", "NonCOVID"), alone, strict=True)), abs=1e-4
        )
    (single,) = system([data.image(3)])
    np.testing.assert_array_equal(single.infection, found[3].infection)
    assert LocaliseAndQuantify(segmenter, segmenter)([data.image(0)])[0].probabilities == {}


def test_the_system_s_threshold_and_errors(stages):
    classifier, segmenter, data = stages
    none = LocaliseAndQuantify(segmenter, segmenter, threshold=1.0)([data.image(0)])[0]
    assert not none.positive and np.isnan(none.share["both"])
    with pytest.raises(ValueError, match="both recipes must name masks"):
        LocaliseAndQuantify(segmenter, classifier)
    with pytest.raises(ValueError, match="classifier: its recipe names masks"):
        LocaliseAndQuantify(segmenter, segmenter, segmenter)
    with pytest.raises(ValueError, match="threshold"):
        LocaliseAndQuantify(segmenter, segmenter, threshold=50)


def test_within_lungs_by_hand():
    infected = np.array([[0.9, 0.2, 0.6, 0.8]] * 4, np.float32)
    chances = np.stack([1 - infected, infected])[None]
    frame = pd.DataFrame({"image": ["a"], "patient_id": ["p"]})
    found = MaskPredictions(frame, chances, np.zeros((1, 4, 4), bool))
    lung = np.zeros((8, 8), bool)  # twice the size
    lung[:, 4:] = True
    inside = within_lungs(found, [lung])
    np.testing.assert_allclose(inside.probabilities[0, 1], [[0, 0, 0.6, 0.8]] * 4)
    np.testing.assert_allclose(inside.probabilities.sum(1), 1)
    assert found.probabilities[0, 1, 0, 0] == np.float32(0.9)  # not in place
    assert inside.predicted.sum() == 8
    with pytest.raises(ValueError, match="2 masks for 1 images"):
        within_lungs(found, [lung, lung])
