"""CT slices and volumes: planes that add up, noise that was asked for, masks that go on."""

import numpy as np
import pytest

from covidlab.datasets.phantom import patient

SIZE = 96


@pytest.fixture(scope="module")
def ill():
    return patient(3, 11, severity=0.15)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# ---- planes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("thickness, planes", [(1.0, 1), (2.5, 1), (5.0, 3), (10.0, 5)])
def test_a_thick_slice_is_the_mean_of_thin_ones(ill, thickness, planes):
    z, plain = ill.heights(1)[0], {"noise": 0.0, "blur": 0.0}
    offsets = (np.arange(planes) + 0.5) / planes * thickness - thickness / 2
    thin = [ill.render(z + dz, SIZE, thickness=0.5, **plain) for dz in offsets]
    thick = ill.render(z, SIZE, thickness=thickness, **plain)
    np.testing.assert_allclose(thick.hu, np.mean([c.hu for c in thin], axis=0), atol=0.01)
    for name in ("lung", "ground_glass", "consolidation"):  # of the middle
        np.testing.assert_array_equal(getattr(thick, name), getattr(thin[planes // 2], name))


def test_thick_slices_lose_vessels(ill):
    """Averaged over 10 mm, vessels that run along the slice fade: less of the lung is bright."""
    bright = []
    for thickness in (1.0, 10.0):
        cut = ill.render(0.0, 192, thickness=thickness, noise=0.0, blur=0.0)
        bright.append(np.percentile(cut.hu[cut.lung & ~cut.infection], 97))
    assert bright[1] < bright[0] - 50


def test_shift_moves_the_picture(ill):
    px, z = ill.fov / SIZE, ill.heights(1)[0]
    still = ill.render(z, SIZE, noise=0.0, blur=0.0)
    moved = ill.render(z, SIZE, noise=0.0, blur=0.0, shift=(7 * px, -4 * px))
    for name in ("lung", "infection", "hu"):
        rolled = np.roll(getattr(still, name), (-4, 7), (0, 1))[8:-8, 8:-8]
        gap = np.abs(rolled.astype(float) - getattr(moved, name)[8:-8, 8:-8])
        assert np.mean(gap > 1e-3) < 1e-3
    assert moved.lung.any() and dice(still.lung, moved.lung) < 0.95


# ---- noise -------------------------------------------------------------------------------------


def test_noise_has_the_strength_that_was_asked_for(ill):
    """Against the clean slice: white noise less its own blur of 2 pixels, whose variance is known."""
    from scipy.ndimage import gaussian_filter

    clean = ill.render(0.0, SIZE, noise=0.0, blur=0.0)
    some = clean.hu > -900  # nothing is clipped there
    impulse = np.zeros((33, 33))
    impulse[16, 16] = 1.0
    kernel = impulse - gaussian_filter(impulse, 2.0)
    for noise, thickness in ((1.0, 1.0), (2.0, 1.0), (1.0, 10.0)):
        given = {"thickness": thickness, "blur": 0.0}
        noisy = ill.render(0.0, SIZE, noise=noise, **given).hu
        grain = noisy - ill.render(0.0, SIZE, noise=0.0, **given).hu
        asked = noise * ill.grain / np.sqrt(max(1.0, thickness / 2.5))
        assert np.std(grain[some]) == pytest.approx(asked * np.sqrt((kernel**2).sum()), rel=0.04)
        assert abs(grain[some].mean()) < 0.1 * asked


def test_noise_lacks_low_frequencies_and_the_kernel_smooths_it(ill):
    def grain(z, blur):
        return ill.render(z, 192, blur=blur).hu - ill.render(z, 192, noise=0.0, blur=blur).hu

    def correlation(a, lag):
        return np.corrcoef(a[60:120, 40 : 150 - lag].ravel(), a[60:120, 40 + lag : 150].ravel())[
            0, 1
        ]

    sharp, smooth = grain(0.0, 0.0), grain(0.0, 2.0)
    assert correlation(sharp, 1) < -0.02 and correlation(smooth, 1) > 0.3
    assert correlation(smooth, 4) < -0.02
    assert np.std(smooth) < 0.7 * np.std(sharp)
    # Averaged over 12 x 12 pixels, far less is left than of white noise (1 / 12).
    blocks = sharp[:, :].reshape(16, 12, 16, 12).mean((1, 3))
    assert blocks[5:10, 4:12].std() < 0.5 * sharp.std() / 12
    # Each height has its own.
    assert abs(np.corrcoef(sharp.ravel(), grain(1.0, 0.0).ravel())[0, 1]) < 0.03


def test_difficulty_adds_noise():
    easy, hard = (patient(3, 11, difficulty=d) for d in (0.0, 1.0))
    assert hard.grain > 2 * easy.grain


def test_nothing_depends_on_the_order(ill):
    first = ill.render(-40.0, 64).hu
    ill.render(-10.0, 64)
    ill.xray(64)
    np.testing.assert_array_equal(ill.render(-40.0, 64).hu, first)
    np.testing.assert_array_equal(patient(3, 11, severity=0.15).render(-40.0, 64).hu, first)


@pytest.mark.parametrize(
    "wrong", [{"thickness": 0.0}, {"thickness": 51.0}, {"noise": -1.0}, {"blur": float("nan")}]
)
def test_wrong_scans_are_named(ill, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ill.render(0.0, 64, **wrong)


@pytest.mark.parametrize("spacing", [0.4, 51.0, float("nan")])
def test_wrong_spacing_is_named(ill, spacing):
    with pytest.raises(ValueError, match="spacing"):
        ill.volume(64, spacing)


# ---- volumes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(ill):
    return ill.volume(64, 8.0)


def test_a_volume_is_its_slices_head_first(ill, volume):
    np.testing.assert_allclose(np.diff(volume.z), -8.0)
    low, high = ill.extent()
    assert volume.z[0] == pytest.approx(high, abs=0.01) and low <= volume.z[-1] < low + 8.0
    assert volume.spacing == (8.0, ill.fov / 64, ill.fov / 64)
    assert len(volume) == len(volume.z) == len(volume.hu)
    for i in (0, 9, len(volume) - 1):
        cut = ill.render(float(volume.z[i]), 64, thickness=8.0)
        for name in ("hu", "lung", "ground_glass", "consolidation", "effusion", "infection"):
            np.testing.assert_array_equal(getattr(volume, name)[i], getattr(cut, name))


def test_the_whole_lungs_are_in_the_volume(volume, ill):
    low, high = ill.extent()
    assert not any(ill.render(z, 64).lung.sum() > 12 for z in (low - 9.0, high + 9.0))
    lung = volume.lung.sum((1, 2))
    assert lung.min() < 0.2 * lung.max() and np.argmax(lung) not in (0, len(lung) - 1)


def test_lesions_go_on_from_slice_to_slice(ill):
    """Two cuts 1 mm apart hold nearly the same lesion: it is a volume, not drawn per slice."""
    z = ill.heights(3)[1]
    a, b, far = (ill.render(z + d, SIZE).infection for d in (0.0, 1.0, 60.0))
    assert dice(a, b) > 0.85 > dice(a, far)


def test_heights_head_first_and_within_the_lungs(ill):
    low, high = ill.extent()
    for n in (1, 4, 20):
        heights = ill.heights(n)
        assert len(heights) == n and (np.diff(heights) < 0).all()
        assert low < heights.min() and heights.max() < high


def test_spared_heights_show_no_infection():
    for k in range(4):
        who = patient(k, 21, severity=0.02)
        heights = who.spared(6)
        assert 0 < len(heights) <= 6 and (np.diff(heights) < 0).all()
        shares = [who.render(z, 64).infection.sum() / who.render(z, 64).lung.sum() for z in heights]
        assert np.max(shares) < 0.02  # levels are 5.5 mm apart, and an edge may lie between
