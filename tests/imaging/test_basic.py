"""Resizing and stretching: areas, places and extremes that can be worked out by hand."""

import numpy as np
import pytest

from covidlab.imaging import resize, resize_mask, stretch


def test_halving_averages_and_keeps_the_mean():
    rng = np.random.default_rng(0)
    image = rng.random((64, 96)).astype(np.float32)
    small = resize(image, (32, 48))
    assert small.shape == (32, 48) and small.dtype == np.float32
    assert small.mean() == pytest.approx(image.mean(), abs=2e-3)
    assert small.std() < 0.6 * image.std(), "antialiased: noise must be averaged away"


def test_same_size_is_the_same_image():
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    np.testing.assert_array_equal(resize(image, 20), image)


@pytest.mark.parametrize("fit,inside", [("pad", (8, 16)), ("squash", (16, 16)), ("crop", (16, 16))])
def test_fit_decides_what_becomes_of_the_aspect_ratio(fit, inside):
    white = np.ones((20, 40), np.float32)
    out = resize(white, 16, fit)
    assert out.shape == (16, 16)
    lit = out > 0.5
    assert (lit.any(1).sum(), lit.any(0).sum()) == inside


def test_crop_keeps_the_middle_and_pad_keeps_all():
    image = np.zeros((10, 30), np.float32)
    image[:, :10] = 1  # the left third is white
    assert resize(image, 10, "crop").max() < 0.1
    assert resize(image, 30, "pad").sum() == pytest.approx(image.sum(), rel=0.01)


def test_mask_area_survives_shrinking():
    yy, xx = np.mgrid[:256, :256]
    disc = (yy - 128) ** 2 + (xx - 128) ** 2 < 80**2
    small = resize_mask(disc, 64)
    assert small.dtype == bool
    assert small.mean() == pytest.approx(disc.mean(), rel=0.02)


def test_stretch_reaches_black_and_white_and_survives_a_constant_image():
    out = stretch(np.linspace(5, 9, 100).reshape(10, 10))
    assert (out.min(), out.max()) == (0, 1)
    assert not np.isnan(stretch(np.full((4, 4), 7.0))).any()
    clipped = stretch(np.arange(100.0).reshape(10, 10), 10, 90)
    assert (clipped == 0).sum() == pytest.approx(10, abs=1)


def test_errors():
    with pytest.raises(ValueError, match="stretchy"):
        resize(np.zeros((4, 4)), 8, "stretchy")
    with pytest.raises(ValueError, match="size"):
        resize(np.zeros((4, 4)), 0)
    with pytest.raises(ValueError, match=r"\(4, 4, 3\)"):
        resize(np.zeros((4, 4, 3)), 8)
