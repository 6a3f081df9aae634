"""Which images are taken, and what that removes; datasets of several makers put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from .manifest import MASKS, Card, Dataset


def select(dataset: Dataset, filters: Mapping[str, str | Callable]) -> tuple[Dataset, pd.DataFrame]:
    """The images that pass all filters, and a table of what each of them removed.

    Ahmed et al. 2020, Section 3.1, takes lateral, marked and printed images from its COVID-19
    collection, and minors and medical equipment from its normal ones, and does not say how many.

    Parameters
    ----------
    filters : name → a pandas query on the manifest that holds for what stays, or a function of the
        frame that gives a bool for each row. Manifests hold text, and "" where nothing is known:
        ``lambda f: pd.to_numeric(f["age"]) >= 18`` removes those of unknown age too.

    Returns the Dataset, and by filter, in its order, the images `removed` and `left` and the
    `patients left`; the first row is before any. Raises ValueError for a filter that leaves nothing,
    or whose answer is not one bool for each row.
    """
    rows = {"before": (0, len(dataset), len(set(dataset.patients)))}
    for name, keep in filters.items():
        kept = np.asarray(
            dataset.frame.eval(keep) if isinstance(keep, str) else keep(dataset.frame)
        )
        if kept.dtype != bool or kept.shape != (len(dataset),):
            raise ValueError(
                f"filter {name!r} gave {kept.dtype} {kept.shape}: one bool for each of "
                f"{len(dataset)} images is needed"
            )
        if not kept.any():
            raise ValueError(f"filter {name!r} leaves no image of {dataset.card.id!r}")
        removed, dataset = int((~kept).sum()), dataset.where(kept)
        rows[name] = (removed, len(dataset), len(set(dataset.patients)))
    columns = ["removed", "left", "patients left"]
    return dataset, pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("filter")


def combine(*datasets: Dataset, positive: str | None = None, id: str = "") -> Dataset:
    """One Dataset of several, files where they are: paths start from the folder they share.

    `source` becomes the id of the dataset an image came from, as the papers mix their sources.
    Patients are told apart by their ids alone: one id in two sets is one patient. `positive` is by
    default the class that all cards agree on. The classes are those of all, in their order.

    Raises ValueError for fewer than two, or folders that share none (two drives).
    """
    if len(datasets) < 2:
        raise ValueError(f"{len(datasets)} dataset(s) to combine: at least 2 are needed")
    root = os.path.commonpath([d.root.resolve() for d in datasets])
    frames = []
    for data in datasets:
        frame, inside = data.frame.copy(), os.path.relpath(data.root.resolve(), root)
        for column in {"image", *MASKS, *(c for c in frame if c.endswith("_mask"))}:
            there = frame[column].fillna("") != ""
            moved = [os.path.normpath(os.path.join(inside, p)) for p in frame.loc[there, column]]
            frame.loc[there, column] = [p.replace(os.sep, "/") for p in moved]
        frames.append(frame.assign(source=data.card.id))
    cards = [d.card for d in datasets]
    told = {c.positive for c in cards if c.positive}
    card = Card(
        id=id or " + ".join(c.id for c in cards),
        title=" + ".join(c.title for c in cards if c.title),
        modality=" + ".join(dict.fromkeys(c.modality for c in cards if c.modality)),
        classes=tuple(dict.fromkeys(name for c in cards for name in c.classes)),
        positive=positive or (told.pop() if len(told) == 1 else None),
        licence="; ".join(dict.fromkeys(f"{c.id}: {c.licence}" for c in cards)),
        citation="\n".join(c.citation for c in cards if c.citation),
        problems=tuple(p for c in cards for p in c.problems),
        synthetic=any(c.synthetic for c in cards),
    )
    return Dataset(pd.concat(frames, ignore_index=True), root, card)
