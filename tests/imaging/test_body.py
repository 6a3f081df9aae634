"""The body alone, grey values, and slices put in: by hand, by polynomials, by what must not happen."""

import numpy as np
import pytest

from covidlab.datasets import dicom, read_volume
from covidlab.datasets.phantom.patient import Volume, patient
from covidlab.imaging.body import body_mask, keep_body, resample_slices, to_uint8


def disc(size, centre, radius):
    y, x = np.ogrid[:size, :size]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


# ---- grey values -------------------------------------------------------------------------------


def test_to_uint8_by_hand():
    hu = np.array([[-2000.0, -1350.0, -600.0], [-599.0, 150.0, 3000.0]])
    # 127.5 goes to the even 128; one HU more is 127.67
    assert to_uint8(hu, -1350, 150).tolist() == [[0, 0, 128], [128, 255, 255]]
    assert to_uint8(np.array([-10.0, 0.0, 30.0])).tolist() == [0, 64, 255]  # 63.75
    assert to_uint8(np.full((2, 2), 7)).tolist() == [[0, 0], [0, 0]]
    assert to_uint8(np.full((2, 2), 7), 0, 14).tolist() == [[128, 128], [128, 128]]


@pytest.mark.parametrize(
    ("values", "options", "what"),
    [
        ([[0.0, np.nan]], {}, "finite"),
        ([], {}, "at least one"),
        ([[0.0, 1.0]], {"low": 5, "high": 5}, "high=5 must be above low=5"),
        ([[0.0, 1.0]], {"low": 2}, "high=1 must be above low=2"),
    ],
)
def test_to_uint8_refuses(values, options, what):
    with pytest.raises(ValueError, match=what):
        to_uint8(np.array(values), **options)


# ---- the body ----------------------------------------------------------------------------------


def test_the_largest_contour_with_its_holes_and_without_the_table():
    size = 80
    outer, lung, vessel = (
        disc(size, (36, 40), 28),
        disc(size, (36, 30), 10),
        disc(size, (36, 30), 3),
    )
    image = np.zeros((size, size), np.float32)
    image[outer] = 0.8
    image[lung] = 0.2
    image[vessel] = 0.9
    image[74:76, 5:75] = 0.7  # the table, apart from the body
    assert np.array_equal(body_mask(image, sigma=0), outer)
    assert (body_mask(image) ^ outer).mean() < 0.01
    assert not body_mask(image)[74:76].any()
    assert np.array_equal(body_mask(to_uint8(image, 0, 1), sigma=0), outer)


def test_the_contour_with_the_largest_area_wins_however_thin_it_is():
    """A thin ring around much is larger than a small full disc of more pixels."""
    image = np.zeros((90, 90))
    ring = disc(90, (32, 32), 27) & ~disc(90, (32, 32), 26)
    full = disc(90, (74, 74), 12)
    image[ring | full] = 1.0
    assert full.sum() > ring.sum()
    mask = body_mask(image, sigma=0, threshold=0.5)
    assert mask[32, 32] and not mask[74, 74]


def test_smoothing_comes_before_the_threshold():
    """Salt that would join the body to the edge is gone after the Gaussian."""
    image = np.zeros((64, 64))
    image[disc(64, (32, 32), 15)] = 1.0
    image[32, 47:64:2] = 0.9
    assert body_mask(image, sigma=0, threshold=0.4)[:, 48].sum() == 0  # every other pixel: apart
    image[32, 47:64] = 0.9
    assert body_mask(image, sigma=0, threshold=0.4)[32, 60]
    assert not body_mask(image, sigma=1.1, threshold=0.4)[32, 60]


@pytest.mark.parametrize("at", [0.15, 0.5, 0.85])
def test_the_phantom_is_found_with_its_lungs(at):
    who = patient(3, 1, disease="CAP")
    low, high = who.extent()
    cut = who.render(float(low + at * (high - low)), 96)
    mask = body_mask(to_uint8(cut.hu, -1350, 150))
    assert mask[cut.lung].all()
    tissue = cut.hu > -300
    assert mask[tissue].mean() > 0.93  # the rest is the table
    assert not mask[[0, -1]].any()


def test_nothing_is_no_body():
    for image in (np.zeros((9, 9)), np.zeros((9, 9), np.uint8)):
        assert not body_mask(image).any() and not keep_body(image).any()
    assert body_mask(np.full((9, 9), 0.5)).all()


def test_keep_body_darkens_the_outside_and_brightens_the_rest():
    image = np.zeros((40, 40), np.float32)
    inside = disc(40, (18, 20), 12)
    image[inside] = 0.3
    image[disc(40, (18, 20), 4)] = 0.7
    image[37, :] = 0.25
    kept = keep_body(image, sigma=0, threshold=0.2)
    assert kept.dtype == np.float32
    assert np.array_equal(kept, np.where(inside, image, 0))
    bright = keep_body(image, 2.0, sigma=0, threshold=0.2)
    assert np.allclose(bright, np.minimum(np.where(inside, 2 * image, 0), 1.0))
    bytes_ = keep_body(np.array([[0, 100], [200, 200]], np.uint8), 2.0, 0, 50)
    assert bytes_.dtype == np.uint8 and bytes_.tolist() == [[0, 200], [255, 255]]


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.full((4, 4), -1000.0), "to_uint8"),
        (np.full((4, 4), 2.0), "to_uint8"),
        (np.full((4, 4), np.nan), "to_uint8"),
        (np.zeros((4, 4), np.int16), "int16"),
    ],
)
def test_what_is_no_grey_image_is_refused(image, what):
    with pytest.raises(ValueError, match=what):
        keep_body(image)
    with pytest.raises(ValueError, match="brightness=0"):
        keep_body(np.zeros((4, 4)), 0)


# ---- slices put in -----------------------------------------------------------------------------


def ramp(n, power=1):
    """Each pixel of slice i is c · i^power, c from 1 to 6."""
    return np.arange(n, dtype=float)[:, None, None] ** power * np.arange(1, 7).reshape(2, 3)


def test_cubics_are_met_exactly():
    new = resample_slices(ramp(7, 3), 19)
    assert np.allclose(new.places, np.linspace(0, 6, 19)) and new.labels is None
    assert np.allclose(new.volume, new.places[:, None, None] ** 3 * np.arange(1, 7).reshape(2, 3))


def test_lines_between_neighbours_by_hand():
    new = resample_slices(np.array([0.0, 10.0, 4.0]).reshape(3, 1, 1), 5, order=1)
    assert new.volume.ravel().tolist() == [0, 5, 10, 7, 4]


def test_as_many_slices_as_there_were_are_the_same():
    volume = np.random.default_rng(0).random((6, 4, 5))
    labels = np.array([0, 0, 1, 1, 1, 0])
    new = resample_slices(volume, 6, labels)
    assert np.allclose(new.volume, volume) and np.array_equal(new.labels, labels)


def test_nothing_is_put_in_between_infected_and_not():
    """Healthy slices are 0, infected ones 100: any mixture would have a value between."""
    labels = np.array(["no"] * 4 + ["yes"] * 3 + ["no"] * 5)
    volume = np.where(labels == "yes", 100.0, 0.0)[:, None, None] * np.ones((1, 2, 2))
    new = resample_slices(volume, 40, labels)
    assert len(new.volume) == len(new.labels) == len(new.places) == 40
    assert set(np.unique(new.volume)) == {0.0, 100.0}
    assert np.array_equal(new.volume[:, 0, 0] == 100.0, new.labels == "yes")
    assert not ((3 < new.places) & (new.places < 4)).any()
    assert not ((6 < new.places) & (new.places < 7)).any()
    assert {0.0, 3.0, 4.0, 6.0, 7.0, 11.0} <= set(new.places)  # ends of all runs are kept
    # 3 + 2 + 4 gaps before, 40 - 3 after: in proportion
    gaps = [(new.labels[:k] == label).sum() for k, label in ((20, "no"), (40, "yes"))]
    assert sum(new.places <= 3) - 1 == round(37 * 3 / 9) and gaps[1] - 1 == round(37 * 2 / 9)


def test_each_run_has_a_spline_of_its_own():
    """A jump in the neighbouring run must not ring into this one."""
    volume = np.r_[np.arange(5.0), [900.0, -900.0, 900.0]].reshape(8, 1, 1)
    new = resample_slices(volume, 24, [0] * 5 + [1] * 3)
    first = new.labels == 0
    assert np.allclose(new.volume[first].ravel(), new.places[first])


def test_a_single_slice_between_others_stays_one():
    labels = [0, 0, 0, 1, 0, 0]
    new = resample_slices(ramp(6), 12, labels)
    assert new.labels.tolist().count(1) == 1
    assert new.volume[new.labels == 1].ravel().tolist() == ramp(6)[3].ravel().tolist()


def test_positions_in_millimetres_falling_and_uneven():
    z = np.array([30.0, 28.0, 21.0, 20.0])
    new = resample_slices((z**2).reshape(4, 1, 1), 11, z=z)
    assert np.allclose(new.places, np.linspace(30, 20, 11))
    assert np.allclose(new.volume.ravel(), new.places**2)


def test_fewer_slices_too():
    new = resample_slices(ramp(9), 5)
    assert np.allclose(new.volume, ramp(9)[::2])
    assert resample_slices(ramp(5), 1).places.tolist() == [2]


def test_splines_that_overshoot_stay_in_range_and_type():
    volume = np.array([0, 0, 0, 255, 255, 255], np.uint8).reshape(6, 1, 1)
    new = resample_slices(volume, 31).volume
    assert new.dtype == np.uint8 and new.min() == 0 and new.max() == 255
    assert (np.diff(new.ravel().astype(int))[10:20] >= 0).all()
    assert resample_slices(volume.astype(np.int16) - 1000, 9).volume.dtype == np.int16


def test_the_volume_of_a_series_that_was_read(tmp_path):
    hu = np.arange(6 * 3 * 5).reshape(6, 3, 5) * 10.0 - 1000
    masks = {kind: hu > 1e4 for kind in ("lung", "ground_glass", "consolidation", "effusion")}
    volume = Volume(hu=hu, **masks, z=20 - 2.0 * np.arange(6), spacing=(2.0, 1.0, 1.0))
    dicom.write_dicom(volume, tmp_path / "a", "7")
    hu, z, _ = read_volume(tmp_path / "a")
    new = resample_slices(hu, 9, [0, 0, 1, 1, 1, 1], z)
    assert new.volume.shape == (9, 3, 5) and new.volume.dtype == np.float32
    assert np.allclose(new.volume[:, 0, 0], -1000 + (20 - new.places) * 75)  # 150 HU in 2 mm
    assert (new.places[0], new.places[-1]) == (20, 10)


def test_slices_left_out_are_found_again():
    """Of a phantom cut every 2 mm every other slice is left out and put in again."""
    who = patient(0, 0, disease="COVID-19")
    volume = np.stack([who.render(float(z), 64, noise=0.0).hu for z in range(-60, -42, 2)])
    new = resample_slices(volume[::2], len(volume)).volume
    assert np.allclose(new[::2], volume[::2], atol=0.01)
    wrong = abs(new - volume)[1::2].mean()
    assert wrong < 0.75 * abs(volume[:-1:2] - volume[1::2]).mean()  # than its neighbour instead


@pytest.mark.parametrize(
    ("volume", "options", "what"),
    [
        (np.zeros((0, 2, 2)), {}, "at least one slice"),
        (np.zeros((2, 2)), {}, "expected .D, H, W."),
        (np.full((3, 2, 2), np.nan), {}, "finite"),
        (ramp(3), {"labels": [0, 1]}, "labels has shape .2,., volume 3 slices"),
        (ramp(3), {"z": [3, 1, 2]}, "z must rise or fall"),
        (ramp(3), {"z": [3, 3, 2]}, "z must rise or fall"),
        (ramp(3), {"order": 0}, "order=0"),
        (ramp(3), {"labels": [0, 1, 0], "count": 2}, "count=2 is too few for 3 runs"),
        (ramp(3), {"labels": [0, 1, 0]}, "count=8 cannot be reached"),
        (ramp(1), {}, "count=8 cannot be reached"),
        (ramp(3), {"count": 0}, "count=0 is too few"),
    ],
)
def test_what_cannot_be_resampled_is_refused(volume, options, what):
    with pytest.raises(ValueError, match=what):
        resample_slices(volume, **{"count": 8, **options})


def test_one_slice_is_one_slice():
    assert np.array_equal(resample_slices(ramp(1), 1).volume, ramp(1))
