"""Squares, a tiny recipe, and folders of a test's own."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab.training import Recipe
from covidlab.training import arrays as prepared


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """40 images of 20 patients, a bright square left or right, and where it is as a mask."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "squares"
    rows = []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(40):
        at = (4, 24)[i // 2 % 2]
        image, mask = rng.integers(0, 160, (32, 40)), np.zeros((32, 40), np.uint8)
        image[8:24, at : at + 12] += 60
        mask[8:24, at : at + 12] = 255
        for folder, pixels in (("images", image), ("masks", mask)):
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{i:02d}.png")
        rows.append(
            {
                "image": f"images/{i:02d}.png",
                "label": ("left", "right")[i // 2 % 2],
                "patient_id": f"p{i // 2:02d}",
                "infection_mask": f"masks/{i:02d}.png",
            }
        )
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Run records and cache of this test alone."""
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVIDLAB_RUNS", str(tmp_path / "runs"))
    prepared._recent.clear()
    return tmp_path


@pytest.fixture(scope="session")
def tiny():
    return Recipe(
        name="tiny",
        network="CoV-CTNet",
        options={"widths": (4, 4, 8, 8)},
        size=24,
        lr=1e-2,
        epochs=2,
        batch_size=8,
    )
