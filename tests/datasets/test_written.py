"""What was made in memory comes back from disk."""

import numpy as np
import pandas as pd
import pytest

from covidlab import datasets


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    images = [rng.random((12, 10 + i)).astype(np.float32) for i in range(3)]
    masks = {"lung_mask": [images[0] > 0.5, None, images[2] > 0.5]}
    frame = pd.DataFrame({"label": list("BAB"), "patient_id": list("xyx"), "site": list("uvw")})
    return images, frame.assign(infection_mask="old.png", image="old.png"), masks


def test_pictures_masks_and_rows_come_back(made, tmp_path):
    images, frame, masks = made
    data = datasets.from_arrays(images, frame, "mine", masks, tmp_path / "new")
    assert data.classes == ("A", "B") and data.card.id == "mine"
    assert list(data.frame["site"]) == list("uvw") and list(data.patients) == list("xyx")
    for i, image in enumerate(images):
        assert np.abs(data.image(i) - image).max() <= 0.5 / 255 + 1e-6
    assert (data.mask(0, "lung_mask") == masks["lung_mask"][0]).all()
    assert data.mask(1, "lung_mask") is None and data.mask(0, "infection_mask") is None
    again = datasets.load(str(tmp_path / "new"))
    assert list(again.frame["sha256"]) == list(data.frame["sha256"])


def test_bad_input_is_named(made, tmp_path):
    images, frame, masks = made
    with pytest.raises(ValueError, match="3 images and 2 rows"):
        datasets.from_arrays(images, frame[:2])
    with pytest.raises(ValueError, match=r"images\[0\].*0 to 255"):
        datasets.from_arrays([np.array([[0, 255]])], frame[:1])
    with pytest.raises(ValueError, match="'lung'"):
        datasets.from_arrays(images, frame, masks={"lung": masks["lung_mask"]})
    with pytest.raises(ValueError, match=r"lung_mask\[0\]"):
        datasets.from_arrays(images, frame, masks={"lung_mask": [images[0], None, None]})
    (tmp_path / "x").write_text("")
    with pytest.raises(FileExistsError, match="new folder"):
        datasets.from_arrays(images, frame, folder=tmp_path)
