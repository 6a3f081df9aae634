"""One test for each way in which data can be bad, and one for all of them at once."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from covidlab.datasets import (
    Card,
    Dataset,
    DatasetError,
    check,
    checks,
    from_folder,
    require,
)


def kinds(problems):
    return sorted(p.kind for p in problems)


def only(problems):
    assert len(problems) == 1, [str(p) for p in problems]
    return problems[0]


def changed(data, row=0, **cells):
    frame = data.frame.copy()
    for column, value in cells.items():
        frame.loc[row, column] = value
    return Dataset(frame, data.root, data.card)


def test_a_sound_dataset_has_no_problems(make_dataset):
    data = make_dataset()
    assert check(data) == [] and check(data, deep=False) == []
    assert require(data, deep=True) is data


@pytest.mark.parametrize("column", ["image", "lung_mask", "infection_mask"])
@pytest.mark.parametrize("deep", [True, False])
def test_a_missing_file(make_dataset, column, deep):
    data = make_dataset()
    data.path(3, column).unlink()
    problem = only(check(data, deep))
    assert problem.kind == ("missing image" if column == "image" else "missing mask")
    assert problem.where == data.frame[column].iat[3]
    assert str(data.root) in problem.remedy


def test_a_row_without_an_image(make_dataset):
    problem = only(check(changed(make_dataset(), image="")))
    assert problem.kind == "missing image" and "row" in problem.what


def test_a_folder_where_an_image_should_be(make_dataset):
    assert kinds(check(changed(make_dataset(), image="images", sha256=""))) == ["missing image"]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "0 bytes"), (b"not a picture", "not an image"), (None, "truncated")],
    ids=["empty file", "garbage", "cut short"],
)
def test_a_corrupt_image(make_dataset, content, what):
    data = make_dataset()
    path = data.path(2)
    path.write_bytes(path.read_bytes()[:90] if content is None else content)
    data = changed(data, 2, sha256="")
    assert check(data, deep=False) == []
    problem = only(check(data))
    assert problem.kind == "unreadable image" and problem.where == str(path)
    assert what in problem.what and "drop its row" in problem.remedy


@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_empty_image(make_dataset, value):
    data = changed(make_dataset(), 1, sha256="", lung_mask="", infection_mask="")
    Image.fromarray(np.full((5, 5), value, np.uint8)).save(data.path(1))
    problem = only(check(data))
    assert problem.kind == "blank image" and problem.where == str(data.path(1))


@pytest.mark.parametrize("column", ["lung_mask", "infection_mask"])
def test_a_mask_of_another_size(make_dataset, column):
    data = make_dataset()
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(data.path(4, column))  # turned
    problem = only(check(data))
    assert problem.kind == "mask size" and problem.where == str(data.path(4, column))
    assert "10×12" in problem.what and "12×10" in problem.what


def test_a_rotated_jpeg_is_compared_as_it_is_read(make_dataset):
    data = changed(make_dataset(), image="images/turned.jpg", sha256="")
    picture = Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(data.path(0), exif=exif)
    assert check(data) == []  # 10 × 12 on disk, 12 × 10 as read, like its masks


@pytest.mark.parametrize("damage", ["garbage", "class numbers"])
def test_a_mask_that_cannot_be_read(make_dataset, damage):
    data = make_dataset()
    if damage == "garbage":
        data.path(5, "lung_mask").write_bytes(b"no mask")
    else:
        Image.fromarray(np.full((12, 10), 2, np.uint8)).save(data.path(5, "lung_mask"))
    problem = only(check(data))
    assert problem.kind == "unreadable mask" and problem.where == str(data.path(5, "lung_mask"))


def test_an_unknown_label_names_its_first_image_and_counts_the_rest(make_dataset):
    data = changed(changed(make_dataset(), 0, label="Covid"), 1, label="Covid")
    problem = only(check(data))
    assert problem.kind == "unknown label"
    assert problem.where == "images/NonCOVID_0_0.png (+1 more)" and "'Covid'" in problem.what


def test_an_empty_label(make_dataset):
    assert "label ''" in only(check(changed(make_dataset(), label=""))).what


def test_a_class_with_no_images(make_dataset):
    problem = only(check(make_dataset(classes=("NonCOVID", "COVID", "CAP"))))
    assert problem.kind == "empty class" and "'CAP'" in problem.where


def test_an_empty_subfolder_is_a_class_with_no_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / "a" / "1.png")
    with pytest.raises(DatasetError, match="class 'b': has no images"):
        from_folder(tmp_path)


def test_an_image_beside_the_subfolders_is_not_lost(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "loose.png"):
        Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / name)
    with pytest.raises(DatasetError, match="loose.png: label ''"):
        from_folder(tmp_path)


@pytest.mark.parametrize("again", ["images/NonCOVID_0_0.png", "images/../images/NonCOVID_0_0.png"])
def test_a_path_listed_twice(make_dataset, again):
    data = make_dataset()
    frame = pd.concat([data.frame, data.frame.iloc[[0]].assign(image=again)])
    problem = only(check(Dataset(frame, data.root, data.card)))
    assert problem.kind == "duplicate path" and "2 times" in problem.what
    assert problem.where.replace("\\", "/") == "images/NonCOVID_0_0.png"


def test_a_patient_in_two_splits(make_dataset):
    problem = only(check(changed(make_dataset(), split="test")))  # the other one is in train
    assert problem.kind == "patient in two splits" and "'NonCOVID0'" in problem.where
    assert "test, train" in problem.what


def test_unknown_patients_are_in_no_two_splits(make_dataset):
    data = make_dataset()
    assert check(Dataset(data.frame.assign(patient_id=""), data.root, data.card)) == []


def test_a_checksum_that_does_not_match(make_dataset):
    data = make_dataset()
    problem = only(check(changed(data, 7, sha256="ab" * 32)))
    assert problem.kind == "checksum" and problem.where == str(data.path(7))
    assert "abababababab" in problem.what
    assert check(changed(data, 7, sha256=data.frame["sha256"].iat[7].upper())) == []


def test_a_file_that_may_not_be_opened(make_dataset, monkeypatch):

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checks, "file_hash", refuse)
    problems = check(make_dataset())
    assert kinds(problems) == ["unreadable image"] * 12
    assert "Permission denied" in problems[0].what


def test_all_of_them_at_once(make_dataset):
    data = make_dataset(classes=("NonCOVID", "COVID", "CAP"))
    data.path(0).unlink()
    data.path(1).write_bytes(b"")
    data.path(2, "lung_mask").unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(data.path(3, "infection_mask"))
    tifffile.imwrite(data.root / "blank.tif", np.ones((4, 4), np.float32))
    frame = data.frame.copy()
    frame.loc[4, ["image", "sha256", "lung_mask", "infection_mask"]] = ["blank.tif", "", "", ""]
    frame.loc[5, "label"] = "Covid"
    frame.loc[6, "split"] = "val"
    frame.loc[8, "sha256"] = "0" * 64
    frame = pd.concat([frame, frame.iloc[[10]]])
    bad = Dataset(frame, data.root, data.card)
    assert kinds(check(bad)) == [
        "blank image",
        "checksum",  # of the empty file
        "checksum",
        "duplicate path",
        "empty class",
        "mask size",
        "missing image",
        "missing mask",
        "patient in two splits",
        "unknown label",
        "unreadable image",
    ]
    with pytest.raises(DatasetError) as error:
        require(bad, deep=True)
    assert len(error.value.problems) == 11
    for problem in error.value.problems:  # each names a place and a remedy
        assert problem.where and problem.what and problem.remedy


def test_one_damaged_file_does_not_hide_the_next(make_dataset, write_dicom):
    data = make_dataset(masks=False)
    write_dicom(data.root / "odd.dcm", np.zeros((4, 4), np.uint16), PixelData=b"\0")
    frame = data.frame.copy()
    frame.loc[0, ["image", "sha256"]] = ["odd.dcm", ""]
    (data.root / frame["image"].iat[11]).write_bytes(b"")
    frame.loc[11, "sha256"] = ""
    found = check(Dataset(frame, data.root, Card("d", classes=data.classes)))
    assert kinds(found) == ["unreadable image"] * 2
