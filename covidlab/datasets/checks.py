"""What is wrong with a dataset, all of it at once and before any training."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .manifest import MASKS, Dataset, DatasetError, Problem, file_hash
from .readers import ImageError, image_size, read_image, read_mask


def check(dataset: Dataset, deep: bool = True, progress: bool = False) -> list[Problem]:
    """Every problem of a dataset; an empty list when there is none.

    Always: labels that are empty or unknown, classes without images, paths listed twice, patients
    in two splits, files that do not exist. With `deep` every file is decoded too: corrupt, empty
    (0 bytes) or blank (one single value) images, masks of another size than their image, masks
    that cannot be read, contents that do not match the manifest's sha256.
    """
    problems = _rows(dataset) + _files_exist(dataset)
    if deep:
        rows = range(len(dataset))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda i: check_row(dataset, i)[1], rows)
            if progress:
                from tqdm.auto import tqdm

                found = tqdm(found, total=len(rows), desc=f"checking {dataset.card.id}")
            problems += [p for some in found for p in some]
    return problems


def require(dataset: Dataset, deep: bool = False) -> Dataset:
    """The dataset itself when nothing is wrong, else DatasetError with every problem."""
    if problems := check(dataset, deep=deep):
        raise DatasetError(f"dataset {dataset.card.id!r} in {dataset.root}", problems)
    return dataset


def check_row(dataset: Dataset, i: int) -> tuple[np.ndarray | None, list[Problem]]:
    """The image of row `i` (None if unreadable) and what is wrong with its files.

    Files that do not exist are left to `check`, which names them without decoding.
    """
    path, problems = dataset.path(i), []
    if path is None or not path.is_file():
        return None, problems
    expected = dataset.frame["sha256"].iat[i].strip().lower()
    try:
        actual = file_hash(path) if expected else ""
    except OSError as error:
        what, remedy = f"cannot be opened ({error.strerror})", "correct its permissions"
        return None, [Problem("unreadable image", str(path), what, remedy)]
    if actual != expected:
        problems.append(
            Problem(
                "checksum",
                str(path),
                f"sha256 {actual[:12]}… is not the manifest's {expected[:12]}…",
                "fetch the file again, or write the manifest anew if you changed it on purpose",
            )
        )
    try:
        image = read_image(path)
    except (ImageError, MemoryError) as error:
        what = str(error).removeprefix(f"{path}: ")
        remedy = "replace the file, or drop its row from the manifest"
        return None, [*problems, Problem("unreadable image", str(path), what, remedy)]
    if image.min() == image.max():
        what = f"every pixel is {image.min():.3g}: the image is empty"
        problems.append(Problem("blank image", str(path), what, "drop its row from the manifest"))
    for column in MASKS:
        problems += _mask_problems(dataset.path(i, column), image.shape)
    return image, problems


def _mask_problems(path: Path | None, shape: tuple[int, int]) -> list[Problem]:
    if path is None or not path.is_file():
        return []
    try:
        size = image_size(path)
        if size == shape:
            read_mask(path)
    except (ImageError, MemoryError) as error:
        what = str(error).removeprefix(f"{path}: ")
        return [Problem("unreadable mask", str(path), what, "replace the file")]
    if size != shape:
        what = f"mask is {size[0]}×{size[1]}, its image {shape[0]}×{shape[1]} (height×width)"
        return [Problem("mask size", str(path), what, "export both at the same size")]
    return []


def _rows(dataset: Dataset) -> list[Problem]:
    frame, card, problems = dataset.frame, dataset.card, []
    known = set(card.classes)
    for label, rows in frame.groupby("label", sort=True):
        if label not in known:
            problems.append(
                Problem(
                    "unknown label",
                    rows["image"].iat[0] + (f" (+{len(rows) - 1} more)" if len(rows) > 1 else ""),
                    f"label {label!r} is not one of {list(card.classes)}",
                    "correct the label, or add the class to the card",
                )
            )
    for name in card.classes:
        if not (frame["label"] == name).any():
            what = "has no images"
            remedy = "add images, or drop the class (`relabel`, or `classes=` when loading)"
            problems.append(Problem("empty class", f"class {name!r}", what, remedy))
    names = frame["image"].map(os.path.normpath)
    for name, n in names[names.duplicated(keep=False)].value_counts(sort=False).items():
        what, remedy = f"listed {n} times", "keep one row per image"
        problems.append(Problem("duplicate path", name, what, remedy))
    split = frame[(frame["split"] != "") & (frame["patient_id"] != "")]
    parts = split.groupby("patient_id")["split"].agg(lambda s: sorted(set(s)))
    for patient, where in parts[parts.map(len) > 1].items():
        what = f"is in the splits {', '.join(where)}"
        remedy = "keep each patient in one split; load with check=False to audit it as it is"
        problems.append(Problem("patient in two splits", f"patient {patient!r}", what, remedy))
    return problems


def _files_exist(dataset: Dataset) -> list[Problem]:
    problems = []
    for column in ("image", *MASKS):
        for name in dataset.frame[column]:
            if name and not (dataset.root / name).is_file():
                remedy = f"put it under {dataset.root}, or correct the manifest"
                kind = "missing " + ("image" if column == "image" else "mask")
                problems.append(Problem(kind, name, "no such file", remedy))
            elif not name and column == "image":
                what, remedy = "a row has no image path", "fill it in or drop the row"
                problems.append(Problem("missing image", "manifest", what, remedy))
    return problems
