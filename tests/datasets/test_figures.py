"""Pictures of a dataset: which images are chosen, and that the masks are drawn where they are."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab.datasets import Card, Dataset, pick, show_images


@pytest.fixture
def data(tmp_path):
    """12 images of 2 classes and 4 patients; each mask is a square at its own place."""
    rows = []
    for i in range(12):
        mask = np.zeros((40, 40), np.uint8)
        mask[5 + i : 15 + i, 10:20] = 255
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40)).astype(np.uint8)).save(
            tmp_path / f"{i}.png"
        )
        Image.fromarray(mask).save(tmp_path / f"m{i}.png")
        rows.append(
            (f"{i}.png", ("ill", "well")[i // 6], f"a-long-name-of-patient-{i // 3}", f"m{i}.png")
        )
    frame = pd.DataFrame(rows, columns=["image", "label", "patient_id", "infection_mask"])
    return Dataset(frame, tmp_path, Card("squares", classes=("ill", "well")))


def test_pick_takes_each_class_and_other_patients_first(data):
    rows = pick(data, 2, seed=1)
    assert [data.frame["label"][r] for r in rows] == ["ill"] * 2 + ["well"] * 2
    assert len({data.frame["patient_id"][r] for r in rows}) == 4
    assert pick(data, 2, seed=1) == rows
    assert sorted(pick(data, 6, seed=0)) == list(range(12))


def test_each_image_is_shown_with_its_own_mask(data):
    figure = show_images(data, rows=[3, 8], masks=True, columns=2)
    for ax, row in zip(figure.axes, [3, 8], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), data.image(row))
        outline = np.concatenate([p.vertices for p in ax.collections[0].get_paths()])
        assert outline[:, 1].min() == pytest.approx(5 + row, abs=1)
        assert outline[:, 0].min() == pytest.approx(10, abs=1)
        assert data.frame["label"][row] in ax.get_title()
        assert ax.get_title().endswith(f"patient-{row // 3}")
