"""The wavelet enhancement against hand-worked Haar sums and the transform's own algebra."""

import numpy as np
import pytest

from covidlab.imaging import idwt_enhance, two_level
from covidlab.imaging.wavelet import BANDS


def haar_by_hand(x):
    """One Haar step written as sums of 2 × 2 blocks (orthonormal)."""
    a, b, c, d = x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]
    return {
        "LL": (a + b + c + d) / 2,
        "LH": (a + b - c - d) / 2,
        "HL": (a - b + c - d) / 2,
        "HH": (a - b - c + d) / 2,
    }


@pytest.fixture
def image():
    return np.random.default_rng(3).random((16, 24)).astype(np.float32)


def test_bands_are_the_haar_sums_of_2_by_2_blocks(image):
    bands, by_hand = two_level(image), haar_by_hand(image)
    for name in BANDS:
        np.testing.assert_allclose(bands[name], by_hand[name], atol=1e-6)
    for first in ("LL", "HH"):
        for name, expected in haar_by_hand(by_hand[first]).items():
            np.testing.assert_allclose(bands[f"{first}.{name}"], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 24), (17, 23), (4, 4), (5, 82), (304, 304)])
def test_nothing_dropped_gives_the_image_back(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    np.testing.assert_allclose(idwt_enhance(image, keep=BANDS), image, atol=1e-5)


def test_fused_is_the_sum_of_what_ll_and_hh_rebuild(image):
    """Haar is orthonormal, so dropping bands is projecting: energies of the kept bands add up."""
    parts, bands = idwt_enhance(image, parts=True), two_level(image)
    np.testing.assert_allclose(parts["fused"], parts["from_LL"] + parts["from_HH"], atol=1e-6)
    kept = sum(np.square(bands[b]).sum() for b in ("LL.LL", "LL.HH", "HH.LL", "HH.HH"))
    np.testing.assert_allclose(np.square(parts["fused"]).sum(), kept, rtol=1e-5)


def test_enhancing_twice_changes_nothing_more(image):
    """A projection applied again is itself; and what it took away holds none of the kept bands."""
    once = idwt_enhance(image)
    np.testing.assert_allclose(idwt_enhance(once), once, atol=1e-5)
    np.testing.assert_allclose(idwt_enhance(image - once), 0, atol=1e-5)


def test_weight_scales_only_the_diagonal_detail(image):
    parts = idwt_enhance(image, parts=True)
    heavy = idwt_enhance(image, weight=3.0)
    np.testing.assert_allclose(heavy - parts["fused"], 2 * parts["from_HH"], atol=1e-5)


def test_a_constant_image_is_all_in_ll():
    flat = np.full((8, 8), 0.4, np.float32)
    parts = idwt_enhance(flat, parts=True)
    np.testing.assert_allclose(parts["from_LL"], 0.4, atol=1e-6)
    np.testing.assert_allclose(parts["from_HH"], 0, atol=1e-7)


def test_a_batch_is_its_images_one_by_one():
    batch = np.random.default_rng(1).random((3, 2, 10, 14)).astype(np.float32)
    whole = idwt_enhance(batch)
    assert whole.shape == batch.shape and whole.dtype == np.float32
    for i in range(3):
        for j in range(2):
            np.testing.assert_allclose(whole[i, j], idwt_enhance(batch[i, j]), atol=1e-6)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"\(3, 50\).*at least 4"):
        idwt_enhance(np.zeros((3, 50)))
    with pytest.raises(ValueError, match="HX"):
        idwt_enhance(np.zeros((8, 8)), keep=("LL", "HX"))
