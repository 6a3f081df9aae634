"""Can the label be told without looking at the patient? From size, file, border, marks and greys.

What is measured here (DeGrave, Janizek and Lee, Nat Mach Intell 2021, and Maguolo and Nanni,
Inf Fusion 2021, showed it of public COVID-19 X-ray sets) is how much of a label the way a picture
was made gives away. A model that does as well as this has shown nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from covidlab.datasets.manifest import Dataset
from covidlab.predictions import Predictions

from .leakage import trimmed

FACTS = ("size", "file", "border", "marks", "greys")
BINS = 16
RING = 0.15  # of each side: where letters and borders are, and hardly any lung


def picture_facts(dataset: Dataset, progress: bool = True) -> pd.DataFrame:
    """Of each image what says nothing of the patient, one row each, columns (kind, fact).

    size : width, height and aspect ratio, as the source had them where the manifest knows
        (`original_width`, `original_height`), else of the file.
    file : which file type the source had (the ending of `source_path`, else of `image`), one column
        each, 0 or 1; and bytes per pixel of the file here.
    border : shares of height and width, at each edge, whose rows or columns are of one grey.
    marks : in the outer 15 % at each side, shares of pixels that are nearly white and nearly black.
    greys : histogram of the whole image in 16 bins, its mean and standard deviation.

    Our choice of facts. The histogram is not innocent of the patient (an opaque lung is white).
    """
    from tqdm.auto import tqdm

    frame, rows = dataset.frame, []
    for i in tqdm(range(len(dataset)), desc="reading", disable=not progress):
        image = dataset.image(i)
        height, width = image.shape
        bytes_per_pixel = (dataset.root / frame["image"].iat[i]).stat().st_size / image.size
        rows.append(
            _size(frame.iloc[i], width, height)
            | {("file", "bytes per pixel"): bytes_per_pixel}
            | _border(image)
            | _marks(image)
            | _greys(image)
        )
    facts = pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(rows[0]))
    origin = frame["source_path"] if "source_path" in frame else frame["image"]
    endings = origin.str.lower().str.extract(r"\.(\w+)$")[0].fillna("none")
    for ending in sorted(endings.unique()):
        facts["file", ending] = endings.eq(ending).to_numpy(float)
    return facts


def label_from(
    facts: pd.DataFrame,
    dataset: Dataset,
    kinds: Sequence[str] | None = None,
    folds: int = 5,
    seed: int = 0,
    name: str = "",
) -> Predictions:
    """Cross-validated predictions of the label from `picture_facts`, patients kept together.

    A random forest (scikit-learn's, 100 trees, leaves of three or more, classes weighted alike) on
    the facts of `kinds`, by default all; each image is predicted by the forest that has not seen
    its patient. The rows are those of the dataset, in its order, so that two kinds can be compared
    in pairs.

    Raises ValueError for a kind that is not in `facts`, another number of rows than images, or a
    class with fewer patients than folds.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    kinds = list(kinds or facts.columns.levels[0])
    if unknown := set(kinds) - set(facts.columns.get_level_values(0)):
        raise ValueError(f"facts hold no {sorted(unknown)}: take from {', '.join(FACTS)}")
    if len(facts) != len(dataset):
        raise ValueError(f"facts has {len(facts)} rows, the dataset {len(dataset)} images")
    x, y, patients = facts[kinds].to_numpy(float), dataset.targets, dataset.patients
    fewest = pd.Series(patients).groupby(y).nunique()
    if len(fewest) < 2 or fewest.min() < folds:
        raise ValueError(
            f"{folds} folds ask for two classes with {folds} patients each; fewest: {fewest.min()}"
        )
    chances = np.zeros((len(dataset), len(dataset.classes)), np.float32)
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in cut.split(x, y, patients):
        forest = RandomForestClassifier(
            100, min_samples_leaf=3, class_weight="balanced", random_state=seed
        ).fit(x[train], y[train])
        chances[np.ix_(test, forest.classes_)] = forest.predict_proba(x[test])
    positive = dataset.card.positive or None
    return Predictions(dataset.frame, chances, dataset.classes, positive, name or ", ".join(kinds))


def _size(row, width, height):
    try:
        width, height = int(row["original_width"]), int(row["original_height"])
    except (KeyError, ValueError):
        pass
    return {
        ("size", "width"): width,
        ("size", "height"): height,
        ("size", "aspect"): width / height,
    }


def _border(image):
    """How far from each edge the first row or column lies that is not of one grey."""
    inner = trimmed(image)
    rows, columns = (np.ptp(image, axis=axis) > 0.04 for axis in (1, 0))
    found = {}
    for side, plain in (
        ("top", rows),
        ("bottom", rows[::-1]),
        ("left", columns),
        ("right", columns[::-1]),
    ):
        found["border", side] = 0.0 if inner is image else float(plain.argmax() / len(plain))
    return found


def _marks(image):
    height, width = image.shape
    ring = np.ones(image.shape, bool)
    top, left = round(RING * height), round(RING * width)
    ring[top : height - top, left : width - left] = False
    outer = image[ring]
    return {
        ("marks", "nearly white"): float((outer > 0.95).mean()),
        ("marks", "nearly black"): float((outer < 0.05).mean()),
    }


def _greys(image):
    counts = np.histogram(image, BINS, (0, 1))[0] / image.size
    facts = {("greys", f"bin {k + 1}"): float(share) for k, share in enumerate(counts)}
    return facts | {("greys", "mean"): float(image.mean()), ("greys", "sd"): float(image.std())}
