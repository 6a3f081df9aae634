"""Pictures that were made in memory → a dataset on disk, since trainings read files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .manifest import Card, Dataset, file_hash


def from_arrays(
    images: Sequence[np.ndarray],
    frame: pd.DataFrame,
    card: Card | str = "made",
    masks: Mapping[str, Sequence[np.ndarray | None]] | None = None,
    folder=None,
) -> Dataset:
    """Pictures and what is known of each, written as 8-bit PNG with a manifest, as a Dataset.

    Parameters
    ----------
    images : each (H, W) in [0, 1].
    frame : one row per image with `label`, and whatever else is known; names of files and masks in
        it are replaced, as is `sha256`.
    card : of the new dataset, or its id; classes are then the labels in alphabetical order.
    masks : {"lung_mask": one (H, W) bool mask for each image, None where there is none}.
    folder : where to, new or empty; by default a temporary folder, which is nobody's to keep.

    Raises
    ------
    ValueError : another number of rows or masks than images, a picture that is not (H, W) in [0, 1],
        a mask of another size or kind. FileExistsError : something is in `folder`.
    """
    from PIL import Image

    masks = dict(masks or {})
    _check(images, frame, masks)
    folder = Path(tempfile.mkdtemp(prefix="covidlab-") if folder is None else folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something: give a new folder")
    rows = frame.loc[:, ~frame.columns.str.endswith("_mask")].reset_index(drop=True)
    names = [f"{i:05d}.png" for i in range(len(images))]
    rows = rows.assign(image=names, lung_mask="", infection_mask="")
    for kind, pictures in ({"": images} | masks).items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, picture in zip(names, pictures, strict=True):
            if picture is not None:
                grey = np.rint(255 * np.asarray(picture, np.float32)).astype(np.uint8)
                Image.fromarray(grey).save(folder / kind / name)
        if kind:
            there = [p is not None for p in pictures]
            rows[kind] = [f"{kind}/{n}" if t else "" for n, t in zip(names, there, strict=True)]
    rows["sha256"] = [file_hash(folder / name) for name in names]
    rows.to_csv(folder / "manifest.csv", index=False)
    if isinstance(card, str):
        card = Card(card, classes=tuple(sorted(rows["label"].unique())))
    return Dataset(rows, folder, card)


def _check(images, frame, masks):
    if len(images) != len(frame):
        raise ValueError(f"{len(images)} images and {len(frame)} rows: give one row for each image")
    for i, image in enumerate(images):
        image = np.asarray(image)
        if image.ndim != 2 or not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                f"images[{i}] is {image.shape} from {image.min():g} to {image.max():g}; "
                "(height, width) in [0, 1] is needed"
            )
    for kind, some in masks.items():
        if not kind.endswith("_mask"):
            raise ValueError(f"masks has {kind!r}: name it as in a manifest, like 'lung_mask'")
        if len(some) != len(images):
            raise ValueError(f"{len(some)} of {kind!r} for {len(images)} images")
        for i, mask in enumerate(some):
            if mask is not None and (
                np.shape(mask) != np.shape(images[i]) or np.asarray(mask).dtype != bool
            ):
                raise ValueError(f"{kind}[{i}] must be bool and of its image's size")
