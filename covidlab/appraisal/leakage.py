"""Which images are one and the same, in one dataset or across several; and what that spoils.

An image comes again as the same file, saved anew, rescaled, recoloured, cropped or mirrored. `copies`
finds such pairs in three steps: equal files; thumbnails, band-passed and compared with the
thumbnails of a hundred crops of every other image, for candidates; and for each candidate the crop
box refined until the fine structure agrees best. What two different patients have in common (ribs,
heart, diaphragm) is coarse, and the last step does not look at it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from covidlab.datasets.manifest import Dataset

THUMB, FINE = 16, 128  # pixels a side, of the search and of the refinement
SHARES = (1.0, 0.9, 0.8, 0.7)  # of a side, that a crop keeps
CANDIDATE = 0.8  # correlation of thumbnails from which a pair is looked at closely
COARSE = 0.6  # correlation of coarser structure below which the fine one is not looked at
SAME = 0.8  # correlation of fine structure from which a pair is one image

_KINDS = ("same file", "same picture", "cropped", "mirrored")


def copies(
    *datasets: Dataset,
    candidate: float = CANDIDATE,
    same: float = SAME,
    most: int = 20,
    progress: bool = True,
) -> pd.DataFrame:
    """Pairs of images that show the same picture, within and across datasets, most alike first.

    Parameters
    ----------
    candidate : correlation of the thumbnails, in -1..1, from which a pair is refined.
    same : correlation of the fine structure, after refinement, from which a pair is reported.
    most : candidates that are refined for each image, the best of them.

    Returns
    -------
    One row per pair: `image`, `dataset`, `row` and the same with `of `, the image that holds it
    (the larger part of the picture); `kind`, "same file", "same picture", "cropped" (it is less
    than 0.97 of the other's side) or "mirrored"; `alike`, the correlation of the fine structure;
    `part`, the share of the other's area that it shows; `labels differ`, `patients differ`,
    `splits differ`, the last two where both are known.

    Our own method: no paper here checks for copies. Among 1,664 real X-rays every pair above 0.8 is
    one picture as far as we can see, and none lies between 0.75 and 0.86; from 0.6 to 0.75 are
    X-rays of one patient on two days, but also slim people before one machine: a lower `same` finds
    what has to be looked at. On CT neighbouring slices of one volume reach 0.95: there only a pair
    of two patients speaks of a copy.

    ValueError without a dataset, for two of one id, or for thresholds that are not in -1..1.
    """
    _check(datasets, candidate, same, most)
    index = _index(datasets)
    rows = [(data, row) for data in datasets for row in range(len(data))]
    images = [_fine(data.image(row)) for data, row in _bar(rows, progress, "reading")]
    pairs = _equal_files(index)
    sought = _candidates(images, candidate, most, set(pairs))
    for (i, j), (box, mirrored) in _bar(sought.items(), progress, "comparing"):
        alike, box = _refined(images[i], images[j], box, mirrored)
        if alike >= same:
            pairs[i, j] = alike, box, mirrored
    return _table(index, _once(pairs))


def conflicts(pairs: pd.DataFrame) -> pd.DataFrame:
    """How many pairs of `copies` spoil what, by the two datasets they are in.

    `pairs`, all; `labels differ`: one picture, two answers; `splits differ`: it teaches and tests;
    `patients differ`: two names for one person, so that splitting by patient does not keep them
    apart.
    """
    columns = ["labels differ", "splits differ", "patients differ"]
    first = pairs[["dataset", "of dataset"]].min(axis=1).rename("dataset")
    second = pairs[["dataset", "of dataset"]].max(axis=1).rename("and dataset")
    counted = pairs[columns].astype(int).assign(pairs=1)
    return counted.groupby([first, second]).sum()[["pairs", *columns]]


def merged(dataset: Dataset, pairs: pd.DataFrame) -> Dataset:
    """The dataset with one patient id for all who share a picture, so that a split keeps them together.

    Of several ids the first in the alphabet stays. Images of no known patient get one where they
    have a copy. Rows of `pairs` across datasets join whom they both belong to.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    people = dataset.patients
    names, person = np.unique(people, return_inverse=True)
    inside = pairs[pairs["dataset"].eq(dataset.card.id) & pairs["of dataset"].eq(dataset.card.id)]
    a, b = (person[inside[column].to_numpy(int)] for column in ("row", "of row"))
    # through a picture elsewhere: both are copies of it
    outside = pairs[pairs["dataset"].eq(dataset.card.id) ^ pairs["of dataset"].eq(dataset.card.id)]
    here = np.where(outside["dataset"].eq(dataset.card.id), outside["row"], outside["of row"])
    there = np.where(
        outside["dataset"].eq(dataset.card.id),
        outside["of dataset"] + "/" + outside["of image"],
        outside["dataset"] + "/" + outside["image"],
    )
    elsewhere, place = np.unique(there.astype(str), return_inverse=True)
    n = len(names) + len(elsewhere)
    rows = np.concatenate([a, person[here.astype(int)]])
    columns = np.concatenate([b, len(names) + place])
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    group = connected_components(graph, directed=False)[1][: len(names)]
    first = {g: names[group == g][0] for g in np.unique(group)}
    joined = np.array([first[g] for g in group[person]])
    shared = np.bincount(group)[group[person]] > 1
    frame = dataset.frame.copy()
    frame["patient_id"] = np.where(shared, joined, frame["patient_id"])
    return Dataset(frame, dataset.root, dataset.card)


def show_pairs(pairs: pd.DataFrame, *datasets: Dataset, rows=None, columns: int = 4):
    """Pairs side by side, the image left and what holds it right, with the kind and the labels."""
    from covidlab._figures import subplots

    by = {d.card.id: d for d in datasets}
    shown = pairs.iloc[:columns] if rows is None else pairs.iloc[list(rows)]
    if missing := {*shown["dataset"], *shown["of dataset"]} - set(by):
        raise ValueError(f"pairs speak of {sorted(missing)}: hand over those datasets too")
    deep = -(-len(shown) // columns)
    figure, axes = subplots(deep, 2 * columns, figsize=(2.4 * columns, 1.7 * deep), squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for k, (_, pair) in enumerate(shown.iterrows()):
        for side, start in enumerate(("", "of ")):
            data, row = by[pair[f"{start}dataset"]], pair[f"{start}row"]
            ax = axes[k // columns, 2 * (k % columns) + side]
            ax.imshow(data.image(row), cmap="gray", vmin=0, vmax=1)
            about = f"{pair['kind']} {pair['alike']:.2f}" if side == 0 else ""
            ax.set_title(f"{about}\n{data.frame['label'].iat[row]}", fontsize=7)
    return figure


# ---- pictures ----------------------------------------------------------------------------------


def _fine(image: np.ndarray) -> np.ndarray:
    """What is compared of an image: without its plain border, at `FINE` pixels a side."""
    from skimage.transform import resize

    return resize(trimmed(image), (FINE, FINE), anti_aliasing=True).astype(np.float32)


def trimmed(image: np.ndarray, noise: float = 0.02) -> np.ndarray:
    """The image without rows and columns at its edge that are all of one grey (± `noise`)."""
    rows, columns = (np.ptp(image, axis=axis) > 2 * noise for axis in (1, 0))
    if not rows.any() or not columns.any():
        return image
    top, bottom = np.flatnonzero(rows)[[0, -1]]
    left, right = np.flatnonzero(columns)[[0, -1]]
    part = image[top : bottom + 1, left : right + 1]
    return part if min(part.shape) >= 8 else image


def _boxes() -> list[tuple[float, float, float, float]]:
    """(top, left, height, width) of the crops, as shares of the side; the whole first."""
    spans = [(s, at) for s in SHARES for at in np.linspace(0, 1 - s, 1 + round(10 * (1 - s)))]
    return [(y, x, h, w) for (h, y), (w, x) in product(spans, spans)]


def _unit(stack: np.ndarray, sigma: float) -> np.ndarray:
    """(N, S, S) → (N, S·S): without what is coarser than `sigma` pixels, mean 0, length 1."""
    from scipy.ndimage import gaussian_filter

    fine = stack - gaussian_filter(stack, (0, sigma, sigma), mode="nearest")
    flat = fine.reshape(len(fine), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _thumbs(image: np.ndarray, boxes) -> np.ndarray:
    """(len(boxes), THUMB²): the thumbnails of an image's crops."""
    return _unit(np.stack([_crop(image, box, THUMB) for box in boxes]), THUMB / 5)


def _crop(image: np.ndarray, box, side: int) -> np.ndarray:
    """(side, side): the part of a (S, S) image that a box (top, left, height, width) holds."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    size, (top, left, height, width) = len(image), box
    smooth = (
        gaussian_filter(image, 0.4 * max(height, width) * size / side) if side < size else image
    )
    steps = (np.arange(side) + 0.5) / side
    y, x = (top + height * steps) * size - 0.5, (left + width * steps) * size - 0.5
    return map_coordinates(smooth, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")


# ---- pairs -------------------------------------------------------------------------------------


def _equal_files(index) -> dict:
    """{(i, j): (1, whole, False)} of images with the same bytes."""
    pairs = {}
    for _, rows in index[index["sha256"] != ""].groupby("sha256"):
        first, *others = rows.index
        pairs |= {(other, first): (1.0, (0, 0, 1, 1), False) for other in others}
    return pairs


def _candidates(images, candidate: float, most: int, known: set) -> dict:
    """{(i, j): (box, mirrored)}: image i looks like the part of j in the box."""
    boxes = _boxes()
    whole = np.concatenate([_thumbs(each, boxes[:1]) for each in images])
    best: dict = {}
    for j, holder in enumerate(images):
        parts = _thumbs(holder, boxes)
        for mirrored in (False, True):
            seen = (
                parts
                if not mirrored
                else parts.reshape(-1, THUMB, THUMB)[..., ::-1].reshape(parts.shape)
            )
            score = np.abs(whole @ seen.T)  # of a negative, too
            at = score.argmax(1)
            top = score[np.arange(len(whole)), at]
            for i in np.flatnonzero(top >= candidate):
                if i == j or (i, j) in known or (j, i) in known:
                    continue
                if mirrored and best.get((i, j), (0,))[0] >= top[i]:
                    continue
                best[int(i), j] = (float(top[i]), boxes[at[i]], mirrored)
    by_image: dict = {}
    for (i, j), found in sorted(best.items(), key=lambda item: -item[1][0]):
        by_image.setdefault(i, []).append((j, found))
    kept = [((i, j), found[1:]) for i, some in by_image.items() for j, found in some[:most]]
    return dict(kept)


def _refined(image, holder, box, mirrored) -> tuple[float, tuple]:
    """How alike the fine structure is where the box fits best, and that box."""
    from scipy.optimize import minimize

    picture = image[:, ::-1] if mirrored else image

    def fits(side, sigma):
        target = _unit(_crop(picture, (0, 0, 1, 1), side)[None], sigma)[0]

        def loss(box):
            if min(box[2:]) < 0.3 or max(box[2:]) > 1.2:
                return 1.0
            part = _unit(_crop(holder, tuple(box), side)[None], sigma)[0]
            return 1 - abs(float(target @ part))

        return loss

    for side, sigma, step in ((32, 4, 0.05), (64, 3, 0.02), (FINE, 1.5, 0.005)):
        simplex = np.array([box] + [np.add(box, step * np.eye(4)[k]) for k in range(4)])
        found = minimize(
            fits(side, sigma),
            box,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "maxfev": 60, "xatol": 1e-3, "fatol": 1e-3},
        )
        box = tuple(found.x)
        if side < FINE and 1 - found.fun < COARSE:
            return 0.0, box
    return 1 - float(found.fun), box


def _once(pairs: dict) -> dict:
    """Each pair one way round: the image that shows less of the other one comes first."""
    kept: dict = {}
    for (i, j), found in sorted(pairs.items(), key=lambda item: -item[1][0]):
        other = kept.get((j, i))
        if other is None:
            kept[i, j] = found
        elif _area(found[1]) < 0.97 <= _area(other[1]):
            del kept[j, i]
            kept[i, j] = found
    return kept


def _area(box) -> float:
    return float(min(box[2], 1) * min(box[3], 1))


def _table(index, pairs) -> pd.DataFrame:
    rows = []
    for (i, j), (alike, box, mirrored) in pairs.items():
        a, b = index.loc[i], index.loc[j]
        file = a["sha256"] and a["sha256"] == b["sha256"]
        cropped = min(box[2], box[3]) < 0.97
        kind = _KINDS[0 if file else 3 if mirrored else 2 if cropped else 1]
        about = {k: a[k] for k in ("image", "dataset", "row")}
        about |= {f"of {k}": b[k] for k in ("image", "dataset", "row")}
        about |= {"kind": kind, "alike": alike, "part": _area(box)}
        about["label"], about["of label"] = a["label"], b["label"]
        about["labels differ"] = a["label"] != b["label"]
        for column, name in (("patient_id", "patients differ"), ("split", "splits differ")):
            here = a["dataset"] == b["dataset"]  # ids of two datasets are not one list
            about[name] = bool(here and a[column] and b[column] and a[column] != b[column])
        rows.append(about)
    columns = [
        "image",
        "dataset",
        "row",
        "of image",
        "of dataset",
        "of row",
        "kind",
        "alike",
        "part",
    ]
    columns += ["label", "of label", "labels differ", "patients differ", "splits differ"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("alike", ascending=False, ignore_index=True)


def _index(datasets) -> pd.DataFrame:
    columns = ["image", "label", "patient_id", "split", "sha256"]
    frames = [d.frame[columns].assign(dataset=d.card.id, row=range(len(d))) for d in datasets]
    return pd.concat(frames, ignore_index=True)


def _bar(things, progress, what):
    from tqdm.auto import tqdm

    return tqdm(things, desc=what, disable=not progress)


def _check(datasets, candidate, same, most):
    if not datasets:
        raise ValueError("copies needs a dataset, or several to compare")
    ids = [d.card.id for d in datasets]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two of the datasets {ids} have one id: give their cards different ones")
    for name, value in (("candidate", candidate), ("same", same)):
        if not -1 <= value <= 1:
            raise ValueError(f"{name}={value!r} must be a correlation in -1..1")
    if most < 1:
        raise ValueError(f"most={most!r} must be 1 or more")
