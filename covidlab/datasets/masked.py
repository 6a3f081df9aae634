"""A dataset of the lungs alone, or of all but them: what a mask leaves of each image, written anew."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from covidlab import paths
from covidlab.imaging.refine import needs_lung

from .manifest import Dataset, file_hash, read_manifest
from .readers import image_size
from .sources import writable


def _box(lung: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest upright rectangle around a mask."""
    ends = (np.flatnonzero(lung.any(axis))[[0, -1]] for axis in (1, 0))
    return tuple(slice(first, last + 1) for first, last in ends)


def _without_box(image: np.ndarray, lung: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[_box(lung)] = 0
    return image


PARTS: dict[str, Callable] = {
    "all": lambda image, lung: image,
    "lungs": lambda image, lung: np.where(lung, image, 0),
    "all but lungs": lambda image, lung: np.where(lung, 0, image),
    "all but box": _without_box,
    "outline": lambda image, lung: lung.astype(np.float32),
}


def keep_lungs(
    dataset: Dataset,
    masks: str | Sequence[np.ndarray | None] = "lung_mask",
    part: str = "lungs",
    steps: Mapping[str, Callable] | None = None,
    crop: bool = False,
    folder=None,
    progress: bool = True,
) -> tuple[Dataset, pd.DataFrame]:
    """What a lung mask leaves of each image, as a new Dataset, and a table of the images set aside.

    Ahmed et al. 2020, Section 3.2, with `steps=imaging.AHMED_REFINEMENT`; the segmented X-rays of
    Tahir 2021 with `imaging.TAHIR_LUNG`. Pictures are written whole or not at all, as 8-bit PNG,
    black where something was taken away; for the same data, masks and choices they are found again
    in the cache. The manifest keeps every row's columns, as text; `lung_mask` is the refined mask,
    other masks come along as they were drawn, `sha256` is that of the new file.

    Parameters
    ----------
    masks : a mask column of the manifest, or one (H, W) bool mask for each image at its own size
        (`cascade.segment` gives them), None where there is none.
    part : "lungs"; "all but lungs", where their outline still shows; "all but box", without the
        rectangle around them; "outline", the mask as the image: what shape and size give away alone;
        "all", the image as it was, to compare with, without those whose mask failed.
    steps : of `imaging.refine`, for the masks; None leaves them as they are.
    crop : to the rectangle around the refined mask.
    folder : where to, new or empty; by default in the user cache.

    Returns
    -------
    The new Dataset (its images have the old names, ending in .png), and one row per image set aside:
    image, label, patient_id, `reason` and `share`, the part of the image that the mask covered
    before. Reasons: "no mask", "nothing found" (by whoever made the mask), the name of the step that
    left nothing, and "one grey value" for what remained of the image.

    Raises
    ------
    ValueError : a part there is not; masks of another number, size or kind than the images; a step
        that needs a second mask; no image left; two images that would get one name.
    KeyError : no such column. FileExistsError : something is in `folder`.
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r} must be one of {', '.join(PARTS)}")
    if asking := [name for name, step in (steps or {}).items() if needs_lung(step)]:
        raise ValueError(f"the step {asking[0]!r} needs a second mask: leave it out")
    names = _new_names(dataset)
    refined = [_refined(mask, steps or {}) for mask in _checked(dataset, masks)]
    if folder is None:
        folder = writable(paths.cache() / "masked") / _key(dataset, refined, part, crop)
    elif (folder := Path(folder)).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: delete it first, or give another folder")
    if not (folder / "manifest.csv").is_file():
        with _becoming(folder) as unfinished:
            _write(unfinished, dataset, names, refined, part, crop, progress)
    frame, aside = read_manifest(folder / "manifest.csv"), read_manifest(folder / "aside.csv")
    aside["share"] = pd.to_numeric(aside["share"])
    title = f"{dataset.card.id}, {part}" + (", cropped" if crop else "")
    return Dataset(frame, folder, replace(dataset.card, id=title)), aside


def _new_names(dataset: Dataset) -> list[str]:
    """Where each picture goes: its old path, within the folder, as PNG."""
    names = []
    for image in dataset.frame["image"]:
        old = Path(image)
        inside = [p for p in old.parts if p not in ("..", old.anchor)]
        names.append(Path(*inside).with_suffix(".png").as_posix())
    counts = pd.Series(names).value_counts()
    if counts.max() > 1:
        raise ValueError(f"{counts.max()} images would become {counts.idxmax()}: rename them")
    return names


def _checked(dataset: Dataset, masks) -> list[np.ndarray | None]:
    if isinstance(masks, str):
        if masks not in dataset.frame:
            there = [c for c in dataset.frame if c.endswith("_mask")]
            raise KeyError(f"{dataset.card.id!r} has no column {masks!r}; its masks are {there}")
        masks = [dataset.mask(i, masks) for i in range(len(dataset))]
    if len(masks) != len(dataset):
        raise ValueError(f"{len(masks)} masks for {len(dataset)} images: one for each is needed")
    for i, mask in enumerate(masks):
        size = image_size(dataset.path(i))
        if mask is not None and (np.shape(mask) != size or np.asarray(mask).dtype != bool):
            raise ValueError(
                f"{dataset.frame['image'].iat[i]}: mask {np.shape(mask)} {np.asarray(mask).dtype}, "
                f"but the image is {size}; a bool mask of its size is needed"
            )
    return list(masks)


def _refined(mask, steps) -> tuple[np.ndarray | None, str, float]:
    """The mask after the steps, why it is set aside ("" if it is not), its share of the image."""
    if mask is None:
        return None, "no mask", np.nan
    if not mask.any():
        return None, "nothing found", 0.0
    for name, step in steps.items():
        share, mask = mask.mean(), step(mask)
        if not mask.any():
            return None, name, float(share)
    return mask, "", float(mask.mean())


def _key(dataset: Dataset, refined, part: str, crop: bool) -> str:
    """Of all that decides what is written, and of the code that writes it."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(repr([part, crop, [c for c in dataset.frame]]).encode())
    digest.update(dataset.frame.to_csv(index=False).encode())
    for i, (mask, reason, share) in enumerate(refined):
        digest.update(f"{file_hash(dataset.path(i))} {reason} {share!r}".encode())
        if mask is not None:
            digest.update(np.packbits(mask).tobytes())
    for column in _other_masks(dataset):
        for i in range(len(dataset)):
            if path := dataset.path(i, column):
                digest.update(file_hash(path).encode())
    return digest.hexdigest()[:16]


def _other_masks(dataset: Dataset) -> list[str]:
    return [c for c in dataset.frame if c.endswith("_mask") and c != "lung_mask"]


@contextmanager
def _becoming(folder: Path):
    """A folder beside `folder` that becomes it when the block ends without an error."""
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not (folder / "manifest.csv").is_file():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder, dataset, names, refined, part, crop, progress):
    """Pictures and masks, manifest.csv, and aside.csv with what was set aside."""

    def one(i):
        mask, reason, share = refined[i]
        row = dataset.frame.iloc[i].to_dict()
        if mask is not None:
            picture = np.rint(255 * PARTS[part](dataset.image(i), mask)).astype(np.uint8)
            where = _box(mask) if crop else (slice(None), slice(None))
            if np.ptp(picture[where]) > 0:
                return row | _saved(folder, dataset, i, names[i], picture, mask, where), None
            reason = "one grey value"
        aside = {k: row[k] for k in ("image", "label", "patient_id")}
        return None, aside | {"reason": reason, "share": share}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(one, range(len(dataset)))
        if progress:
            from tqdm.auto import tqdm

            results = tqdm(results, total=len(dataset), desc=f"{part} of {dataset.card.id}")
        kept, aside = zip(*results, strict=True)
    aside = pd.DataFrame(
        [a for a in aside if a], columns=["image", "label", "patient_id", "reason", "share"]
    )
    if len(aside) == len(dataset):
        raise ValueError(
            f"no image of {dataset.card.id!r} is left: {aside['reason'].value_counts().to_dict()}"
        )
    aside.to_csv(folder / "aside.csv", index=False)
    pd.DataFrame([k for k in kept if k]).to_csv(folder / "manifest.csv", index=False)


def _saved(folder, dataset, i, name, picture, mask, where) -> dict[str, str]:
    """What changes in the manifest's row."""
    row = {"image": _save(folder, name, picture[where])}
    row["sha256"] = file_hash(folder / name)
    row["lung_mask"] = _save(folder, f"masks/lung/{name}", 255 * mask[where])
    for column in _other_masks(dataset):
        drawn = dataset.mask(i, column)
        at = f"masks/{column.removesuffix('_mask')}/{name}"
        row[column] = "" if drawn is None else _save(folder, at, 255 * drawn[where])
    return row


def _save(folder: Path, name: str, values: np.ndarray) -> str:
    from PIL import Image

    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(folder / name)
    return name
