"""Decode, enhance and resize once; keep the result in memory, or memory-mapped when it is large."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from covidlab import imaging, paths
from covidlab.datasets.checks import _mask_problems, check, check_row
from covidlab.datasets.manifest import MASKS, Dataset, DatasetError, Problem, file_hash
from covidlab.datasets.readers import image_size, read_mask

from .recipe import Recipe

MEMORY_LIMIT = 1 << 30
_recent: dict[str, np.ndarray] = {}


class Prepared:
    """Images of a dataset as the network will see them, found again by their path.

    `array` is (N, H, W) float32 in [0, 1], or (N, 3, H, W) where the recipe's `enhance` gives three
    channels, in memory or memory-mapped; `masks` (N, H, W) uint8, the class of each pixel, or None;
    `key` names the pair of data and image steps.
    """

    def __init__(self, array, names: list[str], key: str, fingerprint: str, masks=None):
        self.array, self.masks, self.key, self.fingerprint = array, masks, key, fingerprint
        self.row = {name: i for i, name in enumerate(names)}

    @property
    def grey(self) -> np.ndarray:
        """(N, H, W): the images to look at; of three channels the first."""
        return self.array if self.array.ndim == 3 else self.array[:, 0]

    def holds(self, dataset: Dataset) -> bool:
        return all(name in self.row for name in _names(dataset))

    def rows(self, dataset: Dataset) -> np.ndarray:
        """(N,) int: where the dataset's images are in `array`."""
        return np.array([self.row[name] for name in _names(dataset)], dtype=int)


def prepare(
    *datasets: Dataset, recipe: Recipe, for_training: bool = True, progress: bool = True
) -> Prepared:
    """Every image of the datasets (of one root) decoded, checked, enhanced and resized, once.

    Masks that the recipe names come with them, as the classes of `Recipe.masks`. What was prepared
    before, here or in an earlier session, is taken from the cache: whatever way the same images
    are split, they are prepared a single time. Classes without images matter only `for_training`
    by label.

    Raises
    ------
    DatasetError : every problem that `datasets.check` knows, before any training; rows without
        one of the masks, which may be healthy or never looked at: an empty region is an empty mask.
    """
    whole = _union(datasets)
    by_label = for_training and not recipe.masks
    problems = [p for p in check(whole, deep=False) if by_label or p.kind != "empty class"]
    _stop(whole, problems + _missing_masks(whole, recipe.masks))
    names, fingerprint = _names(whole), whole.fingerprint()
    key = _key(fingerprint, str(whole.root), _steps(recipe, "size", "fit", "enhance"))
    array = _cached(key, _image, whole, recipe, progress)
    if not recipe.masks:
        return Prepared(array, names, key, fingerprint)
    fingerprint = _with_masks(whole, recipe.masks)
    masks_key = _key(fingerprint, str(whole.root), _steps(recipe, "size", "fit", "masks"))
    masks = _cached(f"{masks_key}-masks", _regions, whole, recipe, progress)
    return Prepared(array, names, f"{key}-{masks_key}", fingerprint, masks)


def _union(datasets) -> Dataset:
    roots = {d.root for d in datasets}
    if len(roots) > 1:
        raise ValueError(f"datasets of different roots cannot be prepared together: {roots}")
    frame = pd.concat([d.frame for d in datasets]).sort_values("image", kind="stable")
    return Dataset(frame, datasets[0].root, datasets[0].card)


def _names(dataset: Dataset) -> list[str]:
    return [str(dataset.root / name) for name in dataset.frame["image"]]


def _stop(dataset: Dataset, problems: list):
    if problems:
        raise DatasetError(f"dataset {dataset.card.id!r} in {dataset.root}", problems)


def _missing_masks(dataset: Dataset, columns) -> list[Problem]:
    problems = []
    for column in columns:
        if column not in dataset.frame:
            there = [c for c in dataset.frame if c.endswith("_mask")]
            what = f"has no column {column!r}; its masks are {there}"
            remedy = "name one of these in the recipe's `masks`"
            problems.append(Problem("missing column", "manifest", what, remedy))
            continue
        without = [i for i in range(len(dataset)) if _mask_path(dataset, i, column) is None]
        if without:
            names = dataset.frame["image"].iloc[without[:3]]
            where = ", ".join(names) + (f" (+{len(without) - 3} more)" if len(without) > 3 else "")
            what = f"no file in the column {column!r}: healthy, or never looked at?"
            remedy = f"keep the others, data.where(\"{column} != ''\"), or save empty masks"
            problems.append(Problem("no mask", where, what, remedy))
        if column not in MASKS:  # those are looked for by `check`
            paths_ = (_mask_path(dataset, i, column) for i in range(len(dataset)))
            for path in (p for p in paths_ if p and not p.is_file()):
                remedy = f"put it under {dataset.root}, or correct the manifest"
                problems.append(Problem("missing mask", str(path), "no such file", remedy))
    return problems


def _mask_path(dataset: Dataset, i: int, column: str) -> Path | None:
    name = dataset.frame[column].iat[i]
    return dataset.root / name.replace("\\", "/") if isinstance(name, str) and name else None


def _with_masks(dataset: Dataset, columns) -> str:
    """The fingerprint with masks, and with those of columns that `fingerprint` does not know."""
    others = [c for c in columns if c not in MASKS]
    fingerprint = dataset.fingerprint(masks=True)
    if not others:
        return fingerprint
    files = [file_hash(_mask_path(dataset, i, c)) for c in others for i in range(len(dataset))]
    return hashlib.sha256(json.dumps([fingerprint, files]).encode()).hexdigest()


def _steps(recipe: Recipe, *fields: str) -> dict:
    return {name: getattr(recipe, name) for name in fields}


def _key(fingerprint: str, root: str, steps: dict) -> str:
    content = json.dumps([fingerprint, root, steps, _code_version()])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _code_version() -> str:
    """Changes with the code of the image steps, so that an old cache is never mistaken for new."""
    files = sorted(Path(imaging.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:8]


def _cached(key: str, one, dataset: Dataset, recipe: Recipe, progress: bool) -> np.ndarray:
    """The array of a key, from memory, from disk, or made with `one` for each row."""
    if key not in _recent:
        file = paths.cache() / "prepared" / f"{key}.npy"
        if not file.is_file():
            _write(file, dataset, recipe, one, progress)
        large = file.stat().st_size > MEMORY_LIMIT
        array = np.load(file, mmap_mode="r" if large else None)
        while len(_recent) >= 4:
            _recent.pop(next(iter(_recent)))
        _recent[key] = array
    return _recent[key]


def _write(file: Path, dataset: Dataset, recipe: Recipe, one, progress: bool):
    """Fills a temporary file and renames it at the end: what is in the cache is whole."""
    from covidlab.datasets.sources import writable

    writable(file.parent)
    with paths.replacing(file) as temporary:
        _stop(dataset, _fill(temporary, dataset, recipe, one, progress))


def _fill(temporary: Path, dataset: Dataset, recipe: Recipe, one, progress: bool) -> list:
    """Writes every picture that is right into the array file; returns all that is wrong."""
    kind = np.float32 if one is _image else np.uint8
    shape = (len(dataset), recipe.size, recipe.size)
    if one is _image and recipe.enhance == "3-channel":
        shape = (len(dataset), 3, *shape[1:])
    array = np.lib.format.open_memmap(temporary, "w+", kind, shape)

    def put(i):
        picture, problems = one(dataset, recipe, i)
        if not problems:
            array[i] = picture
        return problems

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(put, range(len(dataset)))
        if progress:
            from tqdm.auto import tqdm

            what = "" if one is _image else ", masks"
            results = tqdm(results, total=len(dataset), desc=f"reading {dataset.card.id}{what}")
        problems = [p for some in results for p in some]
    array.flush()
    return problems


def _image(dataset: Dataset, recipe: Recipe, i: int) -> tuple[np.ndarray | None, list]:
    """What `imaging.prepared` makes of an image, and what is wrong with its files."""
    image, problems = check_row(dataset, i)
    if problems:
        return None, problems
    return imaging.prepared(image, recipe.enhance, recipe.size, recipe.fit), problems


def _regions(dataset: Dataset, recipe: Recipe, i: int) -> tuple[np.ndarray, list]:
    """(S, S) uint8, the class of each pixel, and what is wrong with its masks."""
    shape, problems = image_size(dataset.path(i)), []
    regions = np.zeros((recipe.size, recipe.size), np.uint8)
    for number, column in enumerate(recipe.masks, 1):
        path = _mask_path(dataset, i, column)
        if wrong := _mask_problems(path, shape):
            problems += wrong
        else:
            regions[imaging.resize_mask(read_mask(path), recipe.size, recipe.fit)] = number
    return regions, problems
