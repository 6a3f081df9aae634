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
from covidlab.datasets.checks import check, check_row
from covidlab.datasets.manifest import Dataset, DatasetError

from .recipe import Recipe

MEMORY_LIMIT = 1 << 30
_recent: dict[str, Prepared] = {}


class Prepared:
    """Images of a dataset as the network will see them, found again by their path.

    `array` is (N, H, W) float32 in [0, 1], in memory or memory-mapped; `key` names the pair of
    data and image steps.
    """

    def __init__(self, array: np.ndarray, names: list[str], key: str, fingerprint: str):
        self.array, self.key, self.fingerprint = array, key, fingerprint
        self.row = {name: i for i, name in enumerate(names)}

    def holds(self, dataset: Dataset) -> bool:
        return all(name in self.row for name in _names(dataset))

    def rows(self, dataset: Dataset) -> np.ndarray:
        """(N,) int: where the dataset's images are in `array`."""
        return np.array([self.row[name] for name in _names(dataset)], dtype=int)


def prepare(
    *datasets: Dataset, recipe: Recipe, for_training: bool = True, progress: bool = True
) -> Prepared:
    """Every image of the datasets (of one root) decoded, checked, enhanced and resized, once.

    What was prepared before, here or in an earlier session, is taken from the cache: whatever way
    the same images are split, they are prepared a single time. Classes without images matter
    only `for_training`.

    Raises
    ------
    DatasetError : every problem that `datasets.check` knows, before any training.
    """
    whole = _union(datasets)
    problems = [p for p in check(whole, deep=False) if for_training or p.kind != "empty class"]
    if problems:
        raise DatasetError(f"dataset {whole.card.id!r} in {whole.root}", problems)
    fingerprint = whole.fingerprint()
    steps = {k: getattr(recipe, k) for k in ("size", "fit", "enhance")}
    content = json.dumps([fingerprint, str(whole.root), steps, _code_version()])
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    if key not in _recent:
        shape = (len(whole), recipe.size, recipe.size)
        file = paths.cache() / "prepared" / f"{key}.npy"
        if not file.is_file():
            _write(file, whole, recipe, shape, progress)
        large = 4 * np.prod(shape, dtype=np.int64) > MEMORY_LIMIT
        array = np.load(file, mmap_mode="r" if large else None)
        while len(_recent) >= 4:
            _recent.pop(next(iter(_recent)))
        _recent[key] = Prepared(array, _names(whole), key, fingerprint)
    return _recent[key]


def _union(datasets) -> Dataset:
    roots = {d.root for d in datasets}
    if len(roots) > 1:
        raise ValueError(f"datasets of different roots cannot be prepared together: {roots}")
    frame = pd.concat([d.frame for d in datasets]).sort_values("image", kind="stable")
    return Dataset(frame, datasets[0].root, datasets[0].card)


def _names(dataset: Dataset) -> list[str]:
    return [str(dataset.root / name) for name in dataset.frame["image"]]


def _code_version() -> str:
    """Changes with the code of the image steps, so that an old cache is never mistaken for new."""
    files = sorted(Path(imaging.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:8]


def _write(file: Path, dataset: Dataset, recipe: Recipe, shape, progress: bool):
    """Fills a temporary file and renames it at the end: what is in the cache is whole."""
    from covidlab.datasets.sources import writable

    writable(file.parent)
    with paths.replacing(file) as temporary:
        if problems := _fill(temporary, dataset, recipe, shape, progress):
            raise DatasetError(f"dataset {dataset.card.id!r} in {dataset.root}", problems)


def _fill(temporary: Path, dataset: Dataset, recipe: Recipe, shape, progress: bool) -> list:
    """Writes every image that is right into the array file; returns all that is wrong."""
    enhance = imaging.ENHANCEMENTS[recipe.enhance]
    array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)

    def one(i):
        image, problems = check_row(dataset, i)
        if not problems:
            image = enhance(image) if enhance else image
            array[i] = np.clip(imaging.resize(image, recipe.size, recipe.fit), 0, 1)
        return problems

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(one, range(len(dataset)))
        if progress:
            from tqdm.auto import tqdm

            results = tqdm(results, total=len(dataset), desc=f"reading {dataset.card.id}")
        problems = [p for some in results for p in some]
    array.flush()
    return problems
