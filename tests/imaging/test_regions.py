"""Lung → candidates: a scene whose infection is known, each parameter's effect, nothing to find."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from covidlab.imaging.regions import (
    ALOM_LUNG,
    METHODS,
    REGION_PARAMETERS,
    find_regions,
    plot_regions,
)


def disc(size, y, x, radius):
    rows, columns = np.ogrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def scene(size=256, noise=0.02):
    """Two lungs at 0.3 in a body at 0.9; one opacity at 0.6, one vessel two pixels wide."""
    k = size / 256
    lung = disc(size, 128 * k, 75 * k, 50 * k) | disc(size, 128 * k, 180 * k, 50 * k)
    infection = disc(size, 150 * k, 70 * k, 15 * k)
    vessel = np.zeros_like(lung)
    vessel[:, round(180 * k) : round(182 * k)] = True
    vessel &= lung
    image = np.where(lung, 0.3, 0.9)
    image[infection | vessel] = 0.6
    image += np.random.default_rng(0).normal(0, noise, image.shape)
    return image.clip(0, 1).astype(np.float32), lung, infection, vessel


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("size", [96, 192, 256, 512])
@pytest.mark.parametrize("modality", REGION_PARAMETERS)
def test_finds_the_opacity_and_not_the_vessel_nor_the_wall(modality, size):
    image, lung, infection, vessel = scene(size)
    found = find_regions(image, lung, **REGION_PARAMETERS[modality])
    assert dice(found.infected, infection) > 0.9
    assert (found.infected & vessel & ~infection).mean() < 0.001
    assert found.share == pytest.approx(infection.sum() / lung.sum(), rel=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_what_comes_back_belongs_together(method):
    image, lung, *_ = scene()
    found = find_regions(image, lung, method=method, smooth=0, opening=0, offset=0.1)
    assert found.lung.dtype == found.infected.dtype == bool
    assert np.array_equal(np.isnan(found.threshold), ~found.lung)
    np.testing.assert_array_equal(found.extracted, np.where(found.lung, image, 0))
    above = np.zeros_like(lung)
    above[found.lung] = image[found.lung] > found.threshold[found.lung]
    assert np.array_equal(found.infected, above)
    np.testing.assert_allclose(found.heat[above], (image - found.threshold)[above], atol=1e-6)
    assert not found.heat[~above].any()
    assert found.lung_pixels == found.lung.sum() and found.infected_pixels == above.sum()
    assert found.share == above.sum() / found.lung.sum()


def test_otsu_is_that_of_the_lung_alone():
    image, lung, *_ = scene()
    found = find_regions(image, lung, refinement={}, method="otsu", smooth=0, offset=0.03)
    expected = threshold_otsu(image[lung]) + 0.03
    np.testing.assert_allclose(found.threshold[lung], expected, rtol=1e-5)


def test_mean_is_that_of_the_window_with_the_rest_at_the_lungs_median():
    image, lung, *_ = scene(64)
    found = find_regions(
        image, lung, refinement={}, method="mean", smooth=0, window=4 * 9, offset=0.0
    )
    y, x = np.argwhere(lung)[len(np.argwhere(lung)) // 2]
    filled = np.where(lung, image, np.median(image[lung]))
    window = filled[y - 4 : y + 5, x - 4 : x + 5]  # 36 of 256 pixels are 9 of 64
    assert found.threshold[y, x] == pytest.approx(window.mean(), rel=1e-4)


def test_without_an_offset_a_local_threshold_marks_half_of_a_healthy_lung():
    rng = np.random.default_rng(1)
    lung = disc(128, 64, 64, 50)
    image = rng.normal(0.3, 0.03, lung.shape).clip(0, 1)
    found = find_regions(image, lung, refinement={}, smooth=0, offset=0.0, opening=0)
    assert found.share == pytest.approx(0.5, abs=0.02)


def test_an_opacity_that_fills_the_window_is_compared_with_itself():
    image, lung, infection, _ = scene()
    image = np.where(disc(256, 128, 75, 40) & lung, np.float32(0.6), image)
    shares = [
        find_regions(image, lung, method="mean", window=w, opening=0).share for w in (16, 128)
    ]
    assert shares[0] < 0.5 * shares[1]


def test_more_offset_and_opening_find_less():
    image, lung, *_ = scene(noise=0.05)
    found = [find_regions(image, lung, offset=v).infected for v in (0.0, 0.05, 0.1, 0.2)]
    opened = [find_regions(image, lung, opening=v).infected for v in (0, 1, 2, 4)]
    pairs = [*zip(found, found[1:], strict=False), *((opened[0], o) for o in opened[1:])]
    for more, less in pairs:
        assert less.sum() < more.sum() and not (less & ~more).any()


def test_what_lies_outside_the_lung_does_not_matter():
    image, lung, *_ = scene()
    other = np.where(lung, image, np.float32(0.1))
    for modality in REGION_PARAMETERS:
        parameters = REGION_PARAMETERS[modality] | {"refinement": {}}
        a, b = (find_regions(i, lung, **parameters).infected for i in (image, other))
        assert np.array_equal(a, b)


def test_the_mask_is_refined_before():
    image, lung, *_ = scene()
    rough = lung.copy()
    rough[126:130, 70:75] = False  # a hole
    rough[5:15, 5:15] = True  # a far region of 100 pixels
    rough[60, :] = True  # a line
    found = find_regions(image, rough)
    assert dice(found.lung, lung) > 0.999
    assert not found.lung[5:15, 5:15].any() and found.lung[126:130, 70:75].all()
    assert np.array_equal(find_regions(image, rough, refinement={}).lung, rough)
    assert list(ALOM_LUNG) == ["open", "fill holes", "keep large regions"]


def test_nothing_is_found_in_nothing():
    image, lung, *_ = scene()
    found = find_regions(image, np.zeros_like(lung))
    assert not found.infected.any() and not found.extracted.any() and np.isnan(found.share)
    flat = find_regions(np.full_like(image, 0.3), lung, method="otsu", smooth=0)
    assert not flat.infected.any() and flat.share == 0.0


def test_nothing_handed_in_is_changed():
    image, lung, *_ = scene()
    before = image.copy(), lung.copy()
    find_regions(image, lung)
    assert np.array_equal(image, before[0]) and np.array_equal(lung, before[1])


@pytest.mark.parametrize(
    "change,message",
    [
        ({"image": np.full((256, 256), -700.0)}, r"\[0, 1\]"),
        ({"image": np.full((256, 256), np.nan)}, r"\[0, 1\]"),
        ({"image": np.zeros((64, 64))}, r"image \(64, 64\) and lung \(256, 256\)"),
        ({"lung": np.ones((256, 256))}, "bool"),
        ({"method": "sauvola"}, "method='sauvola'"),
        ({"opening": -1}, "opening=-1"),
        ({"window": 2}, "window=2"),
        ({"smooth": -1}, "smooth=-1"),
    ],
)
def test_bad_input_is_named(change, message):
    image, lung, *_ = scene()
    with pytest.raises(ValueError, match=message):
        find_regions(**{"image": image, "lung": lung} | change)


def test_the_figure_shows_each_step():
    image, lung, infection, _ = scene()
    found = find_regions(image, lung)
    figure = plot_regions(image, found, infection)
    pictures = [ax.images for ax in figure.axes[:4]]
    assert all(p[0].get_cmap().name == "gray" for p in pictures)
    np.testing.assert_array_equal(pictures[1][0].get_array(), found.extracted)
    heat = pictures[2][1].get_array()
    np.testing.assert_array_equal(heat.mask, ~found.infected)
    np.testing.assert_allclose(heat.data, found.heat)
    assert f"{found.share:.1%}" in figure.axes[3].get_title()
