"""Four small pictures, as a dataset, and two masks that fit them."""

import numpy as np
import pandas as pd
from PIL import Image

from covidlab import datasets

SQUARE = np.zeros((8, 10), bool)
SQUARE[2:6, 3:7] = True
WIDER = SQUARE.copy()
WIDER[2:6, 7] = True


def written(folder, n=4) -> datasets.Dataset:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (8, 10), np.uint8)).save(folder / f"images/{i}.png")
    return dataset(folder, n)


def dataset(folder, n=4) -> datasets.Dataset:
    rows = [{"image": f"images/{i}.png", "label": "x", "patient_id": f"p{i}"} for i in range(n)]
    return datasets.Dataset(pd.DataFrame(rows), folder, datasets.Card("small"))
