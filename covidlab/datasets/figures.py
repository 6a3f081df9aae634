"""Pictures of a dataset."""

from __future__ import annotations

import numpy as np

from covidlab._figures import subplots

from .manifest import MASKS, Dataset

MASK_COLOURS = {"lung_mask": "#56b4e9", "infection_mask": "#d55e00"}
TRUTH_COLOURS = {  # of a phantom's volume, slice or radiograph
    "lung": "#56b4e9",
    "right": "#56b4e9",
    "left": "#009e73",
    "ground_glass": "#e69f00",
    "consolidation": "#d55e00",
    "infection": "#d55e00",
    "effusion": "#cc79a7",
}
LUNG_WINDOW = (-1350.0, 150.0)  # HU


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


def show_beside(*datasets: Dataset, n: int = 5, seed: int = 0):
    """A row of `n` images drawn at random from each dataset, named at its left; the Figure."""
    figure, axes = subplots(len(datasets), n, figsize=(1.9 * n, 2.0 * len(datasets)), squeeze=False)
    for line, dataset in zip(axes, datasets, strict=True):
        rows = np.random.default_rng(seed).choice(len(dataset), min(n, len(dataset)), replace=False)
        for ax in line:
            ax.set(xticks=[], yticks=[], frame_on=False)
        for ax, row in zip(line, rows, strict=False):
            ax.imshow(dataset.image(row), cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(dataset.card.id, fontsize=8)
    return figure


def show_planes(volume, at=None, masks: bool = True, window: tuple[float, float] = LUNG_WINDOW):
    """A CT volume cut three ways through one voxel: axial, coronal, sagittal; the Figure.

    `at` is (slice, row, column), by default where most is infected (or most lung is). `window` is
    the HU of black and white. Lungs are outlined in blue, ground glass in yellow, consolidation in
    orange, fluid in pink.
    """
    depth, height, width = volume.spacing
    if at is None:
        of = volume.infection if volume.infection.any() else volume.lung
        at = [int(of.sum(axis=other).argmax()) for other in ((1, 2), (0, 2), (0, 1))]
    cuts = {
        "axial": (np.s_[at[0]], height / width),
        "coronal": (np.s_[:, at[1]], depth / width),
        "sagittal": (np.s_[:, :, at[2]], depth / height),
    }
    figure, axes = subplots(1, 3, figsize=(10, 3.6))
    for ax, (name, (cut, aspect)) in zip(axes, cuts.items(), strict=True):
        _show(ax, volume.hu[cut], window, aspect)
        ax.set_title(name)
        for mask in ("lung", "ground_glass", "consolidation", "effusion") if masks else ():
            _outline(ax, getattr(volume, mask)[cut], mask)
    return figure


def show_slice(volume, i: int, masks: bool = True, window: tuple[float, float] = LUNG_WINDOW):
    """Slice `i` of a CT volume, with its height and how much of its lung is infected; the Figure."""
    figure, ax = subplots(figsize=(3.6, 3.8))
    _show(ax, volume.hu[i], window, volume.spacing[1] / volume.spacing[2])
    part = volume.infection[i].sum() / max(1, volume.lung[i].sum())
    ax.set_title(f"slice {i}, z = {volume.z[i]:.0f} mm, {part:.0%} infected", fontsize=9)
    for mask in ("lung", "ground_glass", "consolidation", "effusion") if masks else ():
        _outline(ax, getattr(volume, mask)[i], mask)
    return figure


def show_radiographs(films: dict, masks: bool = True):
    """Radiographs side by side, titled by their keys; the Figure.

    Right lung in blue, left in green, what infection or fluid adds in orange and pink.
    """
    figure, axes = subplots(1, len(films), figsize=(3.1 * len(films), 3.4), squeeze=False)
    for ax, (title, film) in zip(axes.flat, films.items(), strict=True):
        _show(ax, film.image, (0, 1), 1)
        ax.set_title(title, fontsize=9)
        for mask in ("right", "left", "infection", "effusion") if masks else ():
            _outline(ax, getattr(film, mask), mask)
    return figure


def _show(ax, image, window, aspect):
    ax.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
    ax.set_axis_off()


def _outline(ax, mask, name):
    if mask.any() and not mask.all():
        ax.contour(mask, levels=[0.5], colors=TRUTH_COLOURS[name], linewidths=0.9)
