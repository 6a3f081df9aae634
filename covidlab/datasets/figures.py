"""Pictures of a dataset."""

from __future__ import annotations

import numpy as np

from covidlab._figures import subplots

from .manifest import MASKS, Dataset

MASK_COLOURS = {"lung_mask": "#56b4e9", "infection_mask": "#d55e00"}


def pick(dataset: Dataset, per_class: int, seed: int = 0) -> list[int]:
    """Rows of some images of every class, drawn at random, each from another patient if it can be."""
    rng, rows = np.random.default_rng(seed), []
    for target in range(len(dataset.classes)):
        order = rng.permutation(np.flatnonzero(dataset.targets == target))
        _, first = np.unique(dataset.patients[order], return_index=True)
        again = np.setdiff1d(np.arange(len(order)), first)
        rows += order[np.concatenate([np.sort(first), again])][:per_class].tolist()
    return rows


def show_images(dataset: Dataset, rows=None, masks: bool = False, columns: int = 4, seed: int = 0):
    """Images in a grid, titled by label and patient; the Figure.

    `rows` defaults to one row of the grid for each class. With `masks`, the lung is outlined in
    blue and the infection in orange, where the dataset has masks.
    """
    rows = pick(dataset, columns, seed) if rows is None else list(rows)
    lines = -(-len(rows) // columns)
    size = (1.9 * columns, 2.15 * lines)
    figure, axes = subplots(lines, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, rows, strict=False):
        ax.imshow(dataset.image(row), cmap="gray", vmin=0, vmax=1)
        label, patient = dataset.frame.loc[row, ["label", "patient_id"]]
        patient = patient if len(patient) <= 20 else f"…{patient[-19:]}"  # ids differ at the end
        ax.set_title(f"{label}\n{patient}", fontsize=8)
        for column in MASKS if masks else ():
            mask = dataset.mask(row, column)
            if mask is not None and mask.any():
                ax.contour(mask, levels=[0.5], colors=MASK_COLOURS[column], linewidths=0.9)
    return figure
