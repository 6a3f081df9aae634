"""Only the lungs, or all but them: pixels by hand, every image accounted for, whole files or none."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab import imaging
from covidlab.datasets import PARTS, Card, Dataset, check, keep_lungs, load, masked


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(make_dataset):
    return make_dataset()


keep = partial(keep_lungs, progress=False)


def disc(shape=(12, 10), at=(5, 4), radius=3):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2


def bytes_of(data, i, column="image"):
    return np.asarray(Image.open(data.path(i, column)))


# ---- what is left -------------------------------------------------------------------------------


def test_parts_by_hand(data):
    lung = disc()
    masks = [lung] * len(data)
    old = [bytes_of(data, i) for i in range(len(data))]
    box = np.zeros_like(lung)
    box[2:9, 1:8] = True
    expected = {
        "all": lambda x: x,
        "lungs": lambda x: np.where(lung, x, 0),
        "all but lungs": lambda x: np.where(lung, 0, x),
        "all but box": lambda x: np.where(box, 0, x),
        "outline": lambda x: 255 * lung,
    }
    assert set(expected) == set(PARTS)
    for part, made in expected.items():
        found, aside = keep(data, masks, part)
        assert len(found) == len(data) and aside.empty
        for i, image in enumerate(old):
            np.testing.assert_array_equal(bytes_of(found, i), made(image))
            np.testing.assert_array_equal(found.mask(i, "lung_mask"), lung)


def test_inside_and_outside_together_are_the_image(data):
    inside, outside = keep(data)[0], keep(data, part="all but lungs")[0]
    for i in range(len(data)):
        assert data.mask(i, "lung_mask").any()
        np.testing.assert_array_equal(bytes_of(inside, i) + bytes_of(outside, i), bytes_of(data, i))


def test_crop_cuts_image_and_masks_to_the_refined_mask(data):
    found, _ = keep(data, [disc(radius=2)] * len(data), crop=True, steps={"d": imaging.dilate})
    lung = imaging.dilate(disc(radius=2))
    for i in range(len(data)):
        assert found.image(i).shape == (7, 7)
        expected = np.where(lung, bytes_of(data, i), 0)[2:9, 1:8]
        np.testing.assert_array_equal(bytes_of(found, i), expected)
        np.testing.assert_array_equal(found.mask(i), data.mask(i)[2:9, 1:8])
        np.testing.assert_array_equal(found.mask(i, "lung_mask"), lung[2:9, 1:8])


def test_the_rest_of_the_manifest_stays(data):
    found, _ = keep(data)
    kept = [c for c in data.frame if c not in ("lung_mask", "infection_mask", "sha256")]
    pd.testing.assert_frame_equal(found.frame[kept], data.frame[kept])
    assert found.classes == data.classes and found.card.positive == "COVID"
    assert found.card.id == "sound, lungs"
    assert check(found) == []  # sha256, sizes and files are those of the new pictures
    again = load(found.root, check=False)
    pd.testing.assert_frame_equal(again.frame[found.frame.columns], found.frame)


# ---- what is set aside --------------------------------------------------------------------------


def test_every_failure_is_counted_with_its_reason(data):
    half = np.arange(10) < 5
    masks = [np.tile(half, (12, 1))] * len(data)
    masks[1], masks[4], masks[7] = None, np.zeros((12, 10), bool), disc(radius=1)
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(data.path(9))
    steps = {
        "grow": imaging.dilate,
        "enough lung": partial(imaging.require_area, pixels=40),
        "grow again": imaging.dilate,
    }
    found, aside = keep(data, masks, steps=steps, part="all but box")
    assert aside["reason"].tolist() == ["no mask", "nothing found", "enough lung", "one grey value"]
    assert aside["image"].tolist() == data.frame["image"].iloc[[1, 4, 7, 9]].tolist()
    assert aside["share"].tolist() == pytest.approx(
        [np.nan, 0, 13 / 120, 84 / 120], nan_ok=True
    )  # a disc of radius 1 grows to 13 pixels; half of the columns by two
    assert set(found.frame["image"]) | set(aside["image"]) == set(data.frame["image"])
    assert len(found) + len(aside) == len(data)
    pd.testing.assert_frame_equal(keep(data, masks, steps=steps, part="all but box")[1], aside)


def test_ahmeds_refinement_as_steps(data):
    big, small = disc(radius=3), disc(radius=1)
    found, aside = keep(data, [big, small] * 6, steps=imaging.AHMED_REFINEMENT)
    assert aside["reason"].unique().tolist() == ["enough lung"] and len(aside) == 6
    np.testing.assert_array_equal(
        found.mask(0, "lung_mask"), imaging.refine(big, imaging.AHMED_REFINEMENT)
    )


def test_nothing_left_is_an_error_and_leaves_nothing(data, tmp_path):
    with pytest.raises(ValueError, match="no image of 'sound' is left: {'no mask': 12}"):
        keep(data, [None] * 12, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


# ---- cache and folders --------------------------------------------------------------------------


def test_the_same_is_found_again_and_anything_else_is_not(data, monkeypatch):
    def writes(*args, **options):
        calls = []
        with monkeypatch.context() as patch:
            real = masked._write
            patch.setattr(masked, "_write", lambda *a: (calls.append(1), real(*a)))
            root = keep(*args, **options)[0].root
        return bool(calls), root

    first, root = writes(data)
    assert first and writes(data) == (False, root)
    others = [
        writes(data, part="all but lungs"),
        writes(data, crop=True),
        writes(data, steps={"d": imaging.dilate}),
        writes(data, [disc()] * len(data)),
        writes(data.where(np.arange(len(data)) > 0)),
        writes(Dataset(data.frame.assign(label="COVID"), data.root, data.card)),
    ]
    assert all(new for new, _ in others) and len({root, *(r for _, r in others)}) == 7
    pixels = bytes_of(data, 0).copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(data.path(0))
    assert writes(data)[0]


def test_a_folder_of_ones_own(data, tmp_path):
    found, _ = keep(data, folder=tmp_path / "mine")
    assert found.root == tmp_path / "mine" and (tmp_path / "mine" / "manifest.csv").is_file()
    with pytest.raises(FileExistsError, match="mine exists"):
        keep(data, folder=tmp_path / "mine")


def test_what_was_interrupted_leaves_nothing_behind(data, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    count = []

    def stops(*args):
        count.append(1)
        if len(count) > 9:
            raise Stopped
        return real(*args)

    real = masked._save
    monkeypatch.setattr(masked, "_save", stops)
    with pytest.raises(Stopped):
        keep(data, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    monkeypatch.setattr(masked, "_save", real)
    assert len(keep(data, folder=tmp_path / "out")[0]) == len(data)


def test_files_stay_inside_and_become_png(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for name in ("a.jpg", "b.tif"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / name)
    frame = pd.DataFrame({"image": ["../a.jpg", "../b.tif"], "label": ["x", "y"]})
    found, _ = keep(Dataset(frame, tmp_path / "set", Card("up")), [np.eye(8, dtype=bool)] * 2)
    assert found.frame["image"].tolist() == ["a.png", "b.png"]
    assert all(found.path(i).is_file() for i in range(2))
    frame["image"] = ["../a.jpg", "../a.tif"]
    with pytest.raises(ValueError, match="2 images would become a.png"):
        keep(Dataset(frame, tmp_path / "set", Card("up")), [None] * 2)


# ---- bad input ----------------------------------------------------------------------------------


def test_errors_come_before_work_and_name_what_is_wrong(data, tmp_path):
    good = [disc()] * len(data)
    with pytest.raises(ValueError, match="part='heart'"):
        keep(data, good, "heart")
    with pytest.raises(ValueError, match="11 masks for 12 images"):
        keep(data, good[1:])
    with pytest.raises(ValueError, match="NonCOVID_0_1.png.*a bool mask"):
        keep(data, [good[0], disc((10, 12)), *good[2:]])
    with pytest.raises(ValueError, match="uint8"):
        keep(data, [m.astype(np.uint8) for m in good])
    with pytest.raises(KeyError, match="no column 'heart_mask'"):
        keep(data, "heart_mask")
    with pytest.raises(ValueError, match="'within the lung' needs a second mask"):
        keep(data, good, steps=imaging.TAHIR_REFINEMENT)
    assert not (tmp_path / "cache").exists()
