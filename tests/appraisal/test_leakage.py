"""Copies that were made on purpose are found as what they are; other patients are not."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab import datasets
from covidlab.appraisal import conflicts, copies, merged, show_pairs


@pytest.fixture(scope="module")
def drawn():
    return datasets.load("phantom-covid-qu", n_patients=8, size=160, seed=5, progress=False)


@pytest.fixture(scope="module")
def spoiled(drawn, tmp_path_factory):
    """Eight X-rays, and of the first five another version each, under other names."""
    folder = tmp_path_factory.mktemp("spoiled")
    pictures = [drawn.image(i) for i in range(8)]
    versions = {
        "file": pictures[0],
        "jpeg": as_jpeg(pictures[1] ** 0.7),
        "crop": pictures[2][16:144, 24:152],
        "mirror": pictures[3][:, ::-1],
        "border": np.pad(pictures[4][::2, ::2], 12),
    }
    rows = []
    for name, picture in {**{f"x{i}": p for i, p in enumerate(pictures)}, **versions}.items():
        Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(folder / f"{name}.png")
        rows.append({"image": f"{name}.png", "label": "A", "patient_id": name, "split": "train"})
    frame = pd.DataFrame(rows)
    frame.loc[frame["image"].eq("crop.png"), ["label", "split"]] = ["B", "test"]
    frame.loc[frame["image"].eq("mirror.png"), "patient_id"] = "x3"
    frame.to_csv(folder / "manifest.csv", index=False)
    return datasets.load(str(folder))


def as_jpeg(picture):
    file = io.BytesIO()
    Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(file, "JPEG", quality=70)
    return np.asarray(Image.open(file), np.float32) / 255


@pytest.fixture(scope="module")
def pairs(spoiled):
    return copies(spoiled, progress=False)


def test_every_copy_is_found_and_nothing_else(pairs):
    found = {frozenset(p) for p in zip(pairs["image"], pairs["of image"], strict=True)}
    names = ("file", "x0"), ("jpeg", "x1"), ("crop", "x2"), ("mirror", "x3"), ("border", "x4")
    assert found == {frozenset(f"{n}.png" for n in pair) for pair in names}


def test_each_is_called_what_it_is(pairs):
    kind = {row["image"]: row["kind"] for _, row in pairs.iterrows()}
    kind |= {row["of image"]: row["kind"] for _, row in pairs.iterrows()}
    assert kind["crop.png"] == "cropped" and kind["mirror.png"] == "mirrored"
    assert kind["jpeg.png"] == kind["border.png"] == "same picture"


def test_the_part_of_a_crop_is_its_area(pairs):
    crop = pairs[pairs["kind"].eq("cropped")].iloc[0]
    assert (crop["image"], crop["of image"]) == ("crop.png", "x2.png")
    assert crop["part"] == pytest.approx((128 / 160) ** 2, abs=0.02)


def test_conflicts_are_counted(pairs, spoiled):
    table = conflicts(pairs)
    assert table.index.tolist() == [(spoiled.card.id, spoiled.card.id)]
    # the crop has another label and another part; all but the mirrored one another patient
    assert table.iloc[0].to_dict() == {
        "pairs": 5,
        "labels differ": 1,
        "splits differ": 1,
        "patients differ": 4,
    }


def test_merged_patients_cannot_be_split_apart(pairs, spoiled):
    patients = pd.Series(merged(spoiled, pairs).patients, spoiled.frame["image"])
    for copy, of in zip(pairs["image"], pairs["of image"], strict=True):
        assert patients[copy] == patients[of]
    assert patients.nunique() == 8
    untouched = ["x5.png", "x7.png"]
    assert patients[untouched].tolist() == ["x5", "x7"]


def test_across_datasets_two_patients_meet_in_a_third_picture(drawn, spoiled):
    """x0 and its copy are in one dataset, the picture of both in another."""
    one = spoiled.where([0, 8])
    rows = [
        {"image": one.frame["image"][k], "dataset": one.card.id, "row": k, "of image": "p",
         "of dataset": drawn.card.id, "of row": 0, "kind": "same picture", "alike": 1.0}
        for k in (0, 1)
    ]  # fmt: skip
    assert len(set(merged(one, pd.DataFrame(rows)).patients)) == 1


def test_pairs_are_shown(pairs, spoiled):
    figure = show_pairs(pairs, spoiled, rows=range(5))
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert len(titles) == 10 and any("cropped" in t for t in titles)
    with pytest.raises(ValueError, match="hand over"):
        show_pairs(pairs)


def test_what_cannot_be_compared_is_refused(drawn):
    with pytest.raises(ValueError, match="needs a dataset"):
        copies()
    with pytest.raises(ValueError, match="one id"):
        copies(drawn, drawn)
    with pytest.raises(ValueError, match="correlation"):
        copies(drawn, same=2)
