"""Tahir's image schemes: what each does to grey values, by hand and against another library's idea."""

import numpy as np
import pytest
from scipy.stats import kstest, rayleigh

from covidlab import imaging
from covidlab.imaging import clahe, complement, prepared, three_channels

RNG = np.random.default_rng(0)
DULL = (0.4 + 0.05 * RNG.random((128, 96))).astype(np.float32)  # grey values from 0.40 to 0.45


def test_complement_by_hand():
    image = np.array([[0, 0.25], [1, 0.5]], np.float32)
    np.testing.assert_array_equal(complement(image), [[1, 0.75], [0, 0.5]])
    # equation 2 as printed: white, 255, would become -30
    eight_bits = np.rint(255 * image)
    assert (225 - eight_bits).min() == -30
    np.testing.assert_allclose(255 * complement(image), 255 - eight_bits, atol=0.5)


def test_complement_flips_the_histogram():
    levels = np.arange(257) / 256 - 1 / 512  # no grey value on an edge
    image = (RNG.integers(0, 255, (64, 64)) / 256).astype(np.float32)
    before, _ = np.histogram(image, levels)
    after, _ = np.histogram(complement(image), 1 - levels[::-1])
    np.testing.assert_array_equal(after, before[::-1])


def test_clahe_without_a_limit_has_the_distribution_it_promises():
    """Noise, its grey values spread over one twentieth: every tile fills the range."""
    expected = {
        "uniform": "uniform",
        "rayleigh": lambda x: rayleigh.cdf(x, scale=0.4) / rayleigh.cdf(1, scale=0.4),
    }
    for name, cdf in expected.items():
        flat = clahe(DULL, tiles=2, clip=1.0, distribution=name)
        assert kstest(flat.ravel(), cdf).statistic < 0.05, name
        other = [cdf for n, cdf in expected.items() if n != name]
        assert kstest(flat.ravel(), other[0]).statistic > 0.1, name


def test_the_limit_limits():
    image = DULL.copy()
    image[0, 0], image[-1, -1] = 0, 1  # the range is full: the texture takes a twentieth of it
    spread = [clahe(image, 2, c, "uniform")[32:96].std() for c in (0.001, 0.01, 1.0)]
    assert image[32:96].std() < spread[0] < 0.5 * spread[1] < 0.5 * spread[2]


def test_clahe_is_local():
    """Two textures of equal contrast on different greys come out alike; globally they would not."""
    texture = DULL[:64, :64] - DULL[:64, :64].min()
    image = np.hstack([0.1 + texture, 0.8 + texture])
    left, right = np.hsplit(clahe(image, tiles=4, clip=1.0), 2)
    assert abs(left[:, :16].mean() - right[:, -16:].mean()) < 0.05
    assert left.max() - left.min() > 5 * texture.max()


def test_three_channels_are_the_three_schemes():
    stack = three_channels(DULL)
    assert stack.shape == (3, 128, 96) and stack.dtype == np.float32
    for one, expected in zip(stack, (DULL, clahe(DULL), complement(DULL)), strict=True):
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("name", imaging.SCHEMES.values())
def test_prepared_by_name(name):
    shape = (3, 32, 32) if name == "3-channel" else (32, 32)
    out = prepared(DULL, name, 32)
    assert out.shape == shape and out.dtype == np.float32
    assert 0 <= out.min() and out.max() <= 1
    black = np.zeros((40, 40), np.float32)
    assert np.isfinite(prepared(black, name, 32)).all()


def test_prepared_enhances_at_the_image_s_own_size():
    small = prepared(DULL, "CLAHE", 48)
    np.testing.assert_array_equal(small, imaging.resize(clahe(DULL), 48).clip(0, 1))
    assert not np.allclose(small, clahe(imaging.resize(DULL, 48)), atol=0.02)


def test_nothing_changes_in_place():
    before = DULL.copy()
    for scheme in (clahe, complement, three_channels):
        scheme(DULL)
    np.testing.assert_array_equal(DULL, before)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="distribution='normal'"):
        clahe(DULL, distribution="normal")
    for scheme in (clahe, complement, three_channels):
        with pytest.raises(ValueError, match=r"image.*\(H, W\) in \[0, 1\]"):
            scheme(255 * DULL)
