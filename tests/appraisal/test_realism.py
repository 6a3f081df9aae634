import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from covidlab import datasets
from covidlab.appraisal import realism
from covidlab.appraisal.realism import (
    HU_EDGES,
    LOW_HU,
    Profile,
    band_difference,
    body_region,
    distance_interval,
    distances,
    jensen_shannon,
    lung_air,
    plot_profiles,
    profile,
    radial_spectrum,
    spectral_distance,
    spectral_slope,
    to_hu,
    wasserstein,
)

ROOT = Path(__file__).resolve().parents[2]


def grey(hu):
    return (hu - LOW_HU) / 1500


def thorax(size=96, lung_hu=-850.0, radius=12):
    """A round body of soft tissue on air, two round lungs, a thin table below; and the lungs."""
    y, x = np.mgrid[:size, :size] - size / 2
    hu = np.full((size, size), -1000.0)
    body = np.hypot(x, y) < 0.4 * size
    lung = (np.hypot(x - 0.18 * size, y) < radius) | (np.hypot(x + 0.18 * size, y) < radius)
    hu[body], hu[lung] = 40.0, lung_hu
    hu[-3] = 100.0
    return grey(hu).astype(np.float32), body, lung


# --- regions -------------------------------------------------------------------------------------


def test_window_of_the_images_is_that_of_the_manifests():
    assert (LOW_HU, LOW_HU + 1500) == (-1350.0, 150.0)
    assert to_hu(np.array([0.0, 1.0])).tolist() == [-1350.0, 150.0]


def test_body_has_the_lungs_and_not_the_table():
    image, body, lung = thorax()
    found = body_region(image)
    assert found[lung].all() and not found[-4:].any()
    # the opening rounds a circle of pixels by next to nothing
    assert (found != body).sum() < 0.01 * body.sum()


def test_lung_air_is_the_light_part_of_the_body():
    image, body, lung = thorax()
    np.testing.assert_array_equal(lung_air(image), lung)
    image[lung] = grey(30.0)  # consolidated
    assert not lung_air(image).any()


def test_no_tissue_no_body():
    assert not body_region(np.zeros((40, 40), np.float32)).any()


# --- spectra -------------------------------------------------------------------------------------


def test_spectrum_of_a_wave_is_one_peak():
    size, cycles, amplitude = 64, 9, 3.0
    x = np.arange(size)
    image = np.tile(amplitude * np.cos(2 * np.pi * cycles * x / size), (size, 1))
    power = radial_spectrum(image)
    assert len(power) == size // 2 and power.argmax() == cycles - 1
    # Hann spreads a line over its neighbours alone; off the axis they may round one ring further
    far = np.abs(np.arange(1, size // 2 + 1) - cycles) > 2
    assert power[far].max() < 1e-20 * power.max()


def test_spectrum_against_a_sum_written_out():
    rng = np.random.default_rng(0)
    size = 12
    image = rng.normal(5, 2, (size, size))
    w = np.array([np.sin(np.pi * i / size) ** 2 for i in range(size)])
    weight = w[:, None] * w
    centred = (image - (image * weight).sum() / weight.sum()) * weight
    rings = {k: [] for k in range(1, size // 2 + 1)}
    for u in range(-size // 2, size // 2):
        for v in range(-size // 2, size // 2):
            ring = round(float(np.hypot(u, v)))
            phase = np.exp(
                -2j * np.pi * (u * np.arange(size)[:, None] + v * np.arange(size)) / size
            )
            if ring in rings:
                rings[ring].append(abs((centred * phase).sum()) ** 2 / (weight**2).sum())
    np.testing.assert_allclose(radial_spectrum(image), [np.mean(r) for r in rings.values()])


def test_spectrum_of_white_noise_is_its_variance():
    rng = np.random.default_rng(1)
    power = np.mean([radial_spectrum(rng.normal(0, 7, (64, 64))) for _ in range(40)], axis=0)
    np.testing.assert_allclose(power[3:], 49, rtol=0.15)
    assert abs(spectral_slope(np.log10(power))) < 0.05


@pytest.mark.parametrize("slope", [-1.0, -2.0, -3.0])
def test_slope_of_fractal_noise(slope):
    rng = np.random.default_rng(2)
    size, found = 128, []
    f = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.fftfreq(size, 1 / size))
    amplitude = np.where(f > 0, np.maximum(f, 1) ** (slope / 2), 0)
    for _ in range(10):
        image = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * amplitude).real
        found.append(np.log10(radial_spectrum(image)))
    assert spectral_slope(np.mean(found, axis=0)) == pytest.approx(slope, abs=0.12)


def test_brightness_does_not_matter_and_contrast_is_a_shift():
    image = np.random.default_rng(3).normal(size=(32, 32))
    power = radial_spectrum(image)
    np.testing.assert_allclose(radial_spectrum(image + 500), power, rtol=1e-9)
    p, q = np.log10(power), np.log10(radial_spectrum(10 * image))
    assert spectral_distance(p, q) == pytest.approx(2.0)
    assert spectral_distance(p, q, shape_only=True) == pytest.approx(0, abs=1e-9)
    # 16 rings: the third band begins beyond them
    assert band_difference(p, q) == {name: pytest.approx(-2) for name in ("coarse", "middle")}


def test_bands_cover_every_ring_once_and_show_smoothing():
    p, n = np.zeros(64), 0
    for name, (low, high) in realism.BANDS.items():
        rings = p[low - 1 : high]
        n += len(rings)
        q = p.copy()
        q[low - 1 : high] = -1
        expected = {other: (-1.0 if other == name else 0.0) for other in realism.BANDS}
        assert band_difference(q, p) == expected
    assert n == len(p)


def test_spectra_need_a_square():
    with pytest.raises(ValueError, match=r"\(20, 30\)"):
        radial_spectrum(np.zeros((20, 30)))


# --- distances -----------------------------------------------------------------------------------


def test_wasserstein_by_hand():
    edges = np.array([0.0, 10.0, 20.0, 30.0])
    # all of it two bins up; then half of it one bin up
    assert wasserstein([1, 0, 0], [0, 0, 1], edges) == pytest.approx(20)
    assert wasserstein([1, 0, 0], [0.5, 0.5, 0], edges) == pytest.approx(5)


def test_wasserstein_of_shifted_densities_is_the_shift():
    centres = (HU_EDGES[1:] + HU_EDGES[:-1]) / 2
    p, q = (stats.norm.pdf(centres, m, 50) for m in (-860.0, -820.0))
    assert wasserstein(p / p.sum(), q / q.sum(), HU_EDGES) == pytest.approx(40, abs=0.1)


def test_jensen_shannon_by_hand():
    assert jensen_shannon([0.5, 0.5], [0.5, 0.5]) == 0
    assert jensen_shannon([1, 0], [0, 1]) == pytest.approx(1)
    # mixture (3/4, 1/4): H(m) - (H(p) + H(q)) / 2 with H(p) = 0 and H(q) = 1 bit
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert jensen_shannon([1, 0], [0.5, 0.5]) == pytest.approx(np.sqrt(entropy - 0.5))


def test_interval_of_a_distance_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 1, (200, 1)), rng.normal(0, 1, (50, 1))
    found = distance_interval(a, b, lambda p, q: float(abs(p - q)[0]), n_boot=4000)
    error = np.sqrt(a.var() / 200 + b.var() / 50)
    assert found.value == pytest.approx(abs(a.mean() - b.mean()))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert found == distance_interval(a, b, lambda p, q: float(abs(p - q)[0]), n_boot=4000)


def test_one_patient_gives_no_interval():
    found = distance_interval(
        np.zeros((1, 3)), np.ones((5, 3)), lambda p, q: float(abs(p - q).sum())
    )
    assert found.value == 3 and np.isnan(found.low) and np.isnan(found.high)


# --- datasets ------------------------------------------------------------------------------------


def make(folder, patients, lung_hu=-850.0, masks=True):
    """A dataset of `thorax` slices: {patient: [lung radius of each slice]}."""
    rows = []
    for patient, radii in patients.items():
        for i, radius in enumerate(radii):
            image, _, lung = thorax(lung_hu=lung_hu, radius=radius)
            row = {"image": f"{patient}_{i}.png", "label": "x", "patient_id": patient}
            if masks:
                row["lung_mask"] = f"{patient}_{i}_lung.png"
                Image.fromarray(lung).save(folder / row["lung_mask"])
            Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(folder / row["image"])
            rows.append(row)
    return datasets.Dataset(pd.DataFrame(rows), folder, datasets.Card("thorax", modality="CT"))


def test_profile_of_known_lungs(tmp_path):
    # the first patient has twice the slices and must not count twice; lungs of radius 2 are left out
    data = make(tmp_path, {"a": [10, 10, 10, 10], "b": [14, 14, 2]})
    for lungs in ("mask", "air"):
        p = profile(data, lungs=lungs, size=96)
        assert (p.images, p.patients, p.density.shape) == (6, 2, (2, 75))
        # -850 HU is grey 85; a bin is 20 HU wide
        assert p.density_percentiles((50,))[0] == pytest.approx(-850, abs=20)
        for rows in (p.density, p.of_image, p.of_body):
            np.testing.assert_allclose(rows.sum(1), 1)
        areas = [thorax(radius=r)[2].mean() for r in (10, 14)]
        body = thorax()[1].mean()
        found = realism.AREA_EDGES[:-1][p.of_image.argmax(1)]
        np.testing.assert_allclose(found, areas, atol=0.005)
        found = realism.AREA_EDGES[:-1][p.of_body.argmax(1)]
        np.testing.assert_allclose(found, np.array(areas) / body, atol=0.01)


def test_distance_of_two_sets_is_what_they_differ_by(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    a = profile(make(tmp_path / "a", {"a": [12], "b": [12]}, -870.0), size=96)
    b = profile(make(tmp_path / "b", {"a": [12], "b": [12]}, -810.0), size=96)
    found = distances(a, b, n_boot=20)
    assert found["density wasserstein"].value == pytest.approx(60, abs=1e-6)
    assert found["density jensen-shannon"].value == pytest.approx(1)
    assert found["of image"].value == found["of body"].value == 0
    assert distances(a, a, n_boot=20)["spectrum"] == (0, 0, 0)


def test_grey_sets_are_compared_by_the_shape_of_their_spectra(tmp_path):
    data = make(tmp_path, {"a": [12], "b": [14]})
    hu = profile(data, size=96)
    plain = profile(data, units="none", size=96)
    found = distances(hu, plain, n_boot=20)
    assert "density wasserstein" not in found and "of body" not in found
    assert found["spectrum"].value == pytest.approx(0, abs=1e-5)  # HU are 1500 times the grey
    both = spectral_distance(hu.spectrum.mean(0), plain.spectrum.mean(0))
    assert both == pytest.approx(2 * np.log10(1500), abs=1e-5)
    stretched = profile(data, units="stretched", size=96)
    assert stretched.edges[0] == 0 and stretched.density.shape == (2, 50)


def test_a_set_lying_on_its_side_is_turned(tmp_path):
    data = make(tmp_path, {"a": [12]})
    seen = []
    profile(data, size=96, upright=lambda x, row: seen.append((x.dtype, row["patient_id"])) or x)
    assert seen == [(np.float32, "a"), (bool, "a")]


def test_what_cannot_be_measured_is_said(tmp_path):
    data = make(tmp_path, {"a": [12], "b": [12]}, masks=False)
    with pytest.raises(ValueError, match="no image with lung"):
        profile(data, lungs="mask")
    with pytest.raises(ValueError, match="units='mm'"):
        profile(data, units="mm")
    with pytest.raises(ValueError, match="air where units are HU"):
        profile(data, units="stretched", lungs="air")
    alone = profile(data, lungs=None, size=64)
    assert alone.density is None and alone.of_image is None and alone.spectrum.shape == (2, 32)
    with pytest.raises(ValueError, match="64 px.*96 px"):
        distances(alone, profile(data, lungs=None, size=96))


def test_figure_has_what_each_set_has(tmp_path):
    data = make(tmp_path, {"a": [12], "b": [14]})
    whole, bare = profile(data, size=64), profile(data, units="none", lungs=None, size=64)
    figure = plot_profiles([whole, bare])
    left, middle, right = figure.axes
    assert [len(ax.lines) for ax in (left, middle, right)] == [1, 1, 2]
    np.testing.assert_allclose(left.lines[0].get_ydata(), whole.density.mean(0))
    # a spectrum of greys is shifted onto the first, and here it is the same picture
    np.testing.assert_allclose(*(line.get_ydata() for line in right.lines), rtol=1e-4)


def test_profile_is_plain_data():
    p = Profile("x", "HU", 3, 64, np.zeros((2, 32)))
    assert (p.patients, len(p.edges)) == (2, 76)


# --- the benchmark's own functions ---------------------------------------------------------------


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("realism_bench", ROOT / "benchmarks/realism.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_dice_by_patient_by_hand(bench):
    predicted, truth = np.zeros((2, 4, 2, 2), bool)
    truth[:2, 0] = True  # a: four pixels to find in two slices
    predicted[0, 0, 0] = predicted[1, 1, 0] = True  # one of them found, one other called
    predicted[2] = True  # b: nothing to find, four of eight pixels called
    table = bench.dice_by_patient(predicted, truth, np.array(["a", "a", "b", "b"]))
    assert table.dice["a"] == pytest.approx(1 / 3) and np.isnan(table.dice["b"])
    assert table.false.to_dict() == {"a": 1 / 8, "b": 1 / 2}


def test_mean_interval_against_scipy(bench):
    values = np.random.default_rng(0).beta(8, 2, 60)
    found = bench.mean_interval([*values, np.nan])
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=1, n_resamples=9999)
    assert found.value == pytest.approx(values.mean()) and found.n == 60
    np.testing.assert_allclose(found[1:3], theirs.confidence_interval, atol=0.005)
    assert np.isnan(bench.mean_interval([0.5]).low) and np.isnan(bench.mean_interval([]).value)


def test_two_folds_test_every_image_once_and_never_a_trained_patient(bench, tmp_path):
    data = make(tmp_path, {p: [12, 12] for p in "abcde"})
    folds = bench.halves(data, 2, seed=0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(10))
    for train, test in folds:
        assert not set(data.patients[train]) & set(data.patients[test])
    assert len(bench.halves(data, 1, seed=0)) == 1
    published = datasets.Dataset(
        data.frame.assign(split=["train"] * 6 + ["test"] * 4), data.root, data.card
    )
    ((train, test),) = bench.halves(published, 2, seed=0)
    assert train.tolist() == [0, 1, 2, 3, 4, 5] and test.tolist() == [6, 7, 8, 9]


def test_two_classes_in_one_order_whatever_the_set(bench, tmp_path):
    frame = make(tmp_path, {"a": [12, 12, 12]}).frame.assign(label=["COVID-19", "CAP", "Normal"])
    for classes in (("COVID-19", "CAP", "Normal"), ("Normal", "CAP", "COVID-19")):
        card = datasets.Card("x", classes=classes, positive="COVID-19")
        two = bench.covid_or_not(datasets.Dataset(frame, tmp_path, card))
        assert (two.classes, two.card.positive) == (("other", "COVID"), "COVID")
        assert two.targets.tolist() == [1, 0, 0]


def test_what_is_saved_is_not_made_again_until_its_making_changes(bench, tmp_path):
    made = []

    def make_it():
        made.append(1)
        return {"n": len(made)}

    file = tmp_path / "deep" / "x.json"
    assert bench.saved(file, {"seed": 0, "of": (1, 2)}, make_it) == {"n": 1}
    assert bench.saved(file, {"seed": 0, "of": (1, 2)}, make_it) == {"n": 1}
    assert bench.saved(file, {"seed": 1, "of": (1, 2)}, make_it) == {"n": 2}
    assert [f.name for f in file.parent.iterdir()] == ["x.json"]


def test_sets_turned_upright(bench):
    spine_right = np.zeros((2, 3))
    spine_right[:, -1] = 1
    assert bench.medseg_upright(spine_right, None)[-1].all()
    spine_up = np.eye(1, 4).T
    assert bench.ma_upright(spine_up, {"patient_id": "radiopaedia_4"})[-1] == 1
    assert bench.ma_upright(spine_up, {"patient_id": "coronacases_001"})[0] == 1


def test_names_of_the_real_sets_are_in_the_catalogue(bench):
    known = datasets.catalogue()
    for source in bench.REAL:
        assert source.id in known
        assert (known[source.id].card.modality == "CT") == (source.modality == "CT")


def test_markdown(bench):
    assert bench.markdown([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]) == (
        "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"
    )
