import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab.datasets import Card, Dataset, DatasetError, Problem, read_manifest
from covidlab.datasets.manifest import COLUMNS


def table(*rows, columns=("image", "label", "patient_id")):
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def three():
    frame = table(("a.png", "x", "p1"), ("b.png", "y", "p2"), ("c.png", "x", "p1"))
    return Dataset(frame, ".", Card("three", classes=("y", "x")))


def test_every_column_is_there_as_text():
    frame = pd.DataFrame({"image": ["a", "b"], "label": ["x", None], "patient_id": [7, 8]})
    data = Dataset(frame, ".", Card("d", classes=("x",)))
    assert list(data.frame[list(COLUMNS)].iloc[0]) == ["a", "x", "7", "", "", "", "", "", ""]
    assert data.frame["label"].tolist() == ["x", ""]


def test_own_columns_stay(three):
    frame = three.frame.assign(age=[30, 40, 50])
    assert Dataset(frame, ".", three.card).where("age > 35").frame["age"].tolist() == [40, 50]


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_required_column_that_is_missing_is_named(three, column):
    with pytest.raises(DatasetError, match=f"no column '{column}'"):
        Dataset(three.frame.drop(columns=column), ".", three.card)


def test_paths_written_on_windows(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / "images" / "a.png")
    (tmp_path / "manifest.csv").write_text(
        "image,label,lung_mask\nimages\\a.png,x,images\\a.png\n", encoding="utf-8-sig"
    )
    data = Dataset(read_manifest(tmp_path / "manifest.csv"), tmp_path, Card("d"))
    assert np.array_equal(data.image(0), np.eye(4, dtype=np.float32))
    assert np.array_equal(data.mask(0, "lung_mask"), np.eye(4, dtype=bool))
    assert data.check() == []


def test_a_dataset_does_not_change_with_the_table_it_was_made_from(three):
    frame = three.frame.copy()
    data = Dataset(frame, ".", three.card)
    frame.loc[0, "label"] = "y"
    assert data.frame["label"].iloc[0] == "x"
    with pytest.raises(AttributeError):
        data.root = "elsewhere"


def test_classes_are_the_cards_or_else_the_labels(three):
    assert three.classes == ("y", "x")
    assert three.targets.tolist() == [1, 0, 1]
    assert Dataset(three.frame, ".", Card("d")).classes == ("x", "y")


def test_targets_of_an_unknown_label_are_refused_by_name(three):
    data = Dataset(three.frame, ".", Card("d", classes=("x", "z")))
    with pytest.raises(ValueError, match="'y'"):
        data.targets  # noqa: B018


def test_positive_must_be_a_class(three):
    with pytest.raises(ValueError, match="'z' is not in"):
        Card("d", classes=("x", "y"), positive="z")
    with pytest.raises(ValueError, match="'z' is not in"):
        Dataset(three.frame, ".", Card("d", positive="z"))


def test_an_image_of_unknown_patient_stands_for_itself():
    data = Dataset(table(("a", "x", "p"), ("b", "x", ""), ("c", "x", "")), ".", Card("d"))
    assert len(set(data.patients)) == 3
    assert data.patients[0] == "p"


def test_where(three):
    assert three.where([True, False, True]).frame["image"].tolist() == ["a.png", "c.png"]
    assert three.where(pd.Series([True, False, True], index=[9, 8, 7])).frame.index.tolist() == [
        0,
        1,
    ]
    assert three.where([2, 0]).frame["image"].tolist() == ["c.png", "a.png"]
    assert three.where("patient_id == 'p2'").frame["label"].tolist() == ["y"]
    assert three.where([0]).card == three.card
    for nothing in ([False] * 3, [], "label == 'z'"):
        with pytest.raises(ValueError, match="no image of 'three' is left"):
            three.where(nothing)


def test_relabel_merges_drops_and_asks_what_becomes_of_the_rest(three):
    merged = three.relabel({"x": "ill", "y": "ill"})
    assert merged.classes == ("ill",) and set(merged.frame["label"]) == {"ill"}
    kept = three.relabel({"x": "ill", "y": None}, positive="ill")
    assert kept.frame["image"].tolist() == ["a.png", "c.png"]
    assert kept.classes == ("ill",) and kept.card.positive == "ill"
    with pytest.raises(KeyError, match="'y'"):
        three.relabel({"x": "ill"})


def test_relabel_does_not_lose_rows_whose_label_no_class_has(three):
    data = Dataset(three.frame, ".", Card("d", classes=("x",)))
    with pytest.raises(KeyError, match="'y'"):
        data.relabel({"x": "ill"})


def test_counts(three):
    counts = three.counts()
    assert counts.loc["x"].tolist() == [2, 1]  # two images of one patient
    assert counts.loc["y"].tolist() == [1, 1]
    split = Dataset(three.frame.assign(split=["train", "train", "test"]), ".", three.card).counts()
    assert split.loc[("x", "train")].tolist() == split.loc[("x", "test")].tolist() == [1, 1]


def test_path_image_and_mask(make_dataset):
    data = make_dataset()
    assert data.path(0) == data.root / "images" / "NonCOVID_0_0.png"
    assert np.array_equal(data.mask(0), data.image(0) * 255 > 99.5)
    bare = make_dataset(data.root.parent / "bare", masks=False)
    assert bare.path(0, "lung_mask") is None and bare.mask(0) is None


def test_fingerprint_is_of_contents_not_of_place(make_dataset, tmp_path):
    one, same = make_dataset(tmp_path / "1"), make_dataset(tmp_path / "2")
    assert one.fingerprint() == same.fingerprint()
    for column, value in [("label", "COVID"), ("patient_id", "someone"), ("sha256", "0" * 64)]:
        changed = one.frame.copy()
        changed.loc[0, column] = value
        assert Dataset(changed, one.root, one.card).fingerprint() != one.fingerprint()
    assert one.where(np.arange(len(one)) > 0).fingerprint() != one.fingerprint()


def test_fingerprint_without_checksums_reads_the_files(make_dataset):
    data = make_dataset()
    bare = Dataset(data.frame.assign(sha256=""), data.root, data.card)
    assert bare.fingerprint() == data.fingerprint()
    masked = data.fingerprint(masks=True)
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(data.path(0))
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(data.path(0, "lung_mask"))
    assert bare.fingerprint() != data.fingerprint()
    assert data.fingerprint(masks=True) != masked


# Manifests on disk


def test_cells_stay_as_they_are_written(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("\ufeffimage,label,patient_id\nä.png,NA,007\nb.png,None,\n", encoding="utf-8")
    frame = read_manifest(path)
    assert frame.to_numpy().tolist() == [["ä.png", "NA", "007"], ["b.png", "None", ""]]


def test_manifests_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="manifest.csv"):
        read_manifest(tmp_path / "manifest.csv")
    for content in (b"", b"image,label\nb\xff.png,x\n", b'image,label\na,b,c\n"'):
        (tmp_path / "manifest.csv").write_bytes(content)
        with pytest.raises(DatasetError, match="manifest.csv.*save it as UTF-8"):
            read_manifest(tmp_path / "manifest.csv")


def test_dataset_error_shows_ten_and_keeps_all():
    problems = [Problem("kind", f"file {i}", "is wrong", "mend it") for i in range(13)]
    error = DatasetError("my set", problems)
    assert error.problems == problems
    assert "my set: 13 problem(s)" in str(error)
    assert "[kind] file 9: is wrong → mend it" in str(error) and "file 10:" not in str(error)
    assert "3 more" in str(error)
