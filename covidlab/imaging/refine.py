"""Mask → mask: the small steps between a network's mask and the one that is used.

Every step takes and gives bool (H, W), changes nothing in place, and gives an empty mask for an
empty one. A region is a set of pixels that hang together by edges or corners (8 neighbours); a hole
is background that does not reach the image's edge by edges alone (4 neighbours), as the two must
differ for an outline to have an inside. `open_`, `close` and `dilate` work with a disc: the pixels
whose centres are at most `radius` away, for radius 1 the cross of a pixel and its four neighbours.
Papers rarely name theirs; `element="square"` is the (2·radius + 1)² block that OpenCV users mostly
take. What lies outside the image is not known, and neither adds to a mask nor eats into it.

`refine` applies several steps in order. All raise ValueError for what is no bool (H, W) mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature

import numpy as np


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Holes become part of the mask."""
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(_checked(mask))


def remove_small(mask: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Regions with less than `share` (0..1) of the mask's pixels go; one with just as much stays.

    Tahir 2021, Section 3.2.2.2: "removal of small regions, <5% of the total positive predicted
    pixels".
    """
    mask = _checked(mask)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share={share} must lie in 0..1")
    regions, sizes = _regions(mask)
    # A quotient: share * total rounds up now and then, and would drop a region that has just enough.
    keep = sizes / max(1, sizes.sum()) >= share
    return _kept(regions, keep)


def largest(mask: np.ndarray, n: int = 2) -> np.ndarray:
    """The `n` regions with the most pixels, two for two lungs; of equals the one met first by row."""
    mask = _checked(mask)
    if n < 1:
        raise ValueError(f"n={n}; at least one region must be kept")
    regions, sizes = _regions(mask)
    keep = np.zeros(len(sizes), bool)
    keep[np.argsort(-sizes, kind="stable")[:n]] = True
    return _kept(regions, keep)


def require_area(mask: np.ndarray, pixels: float, size: int | None = None) -> np.ndarray:
    """The mask as it is, or an empty one where all its regions together have fewer than `pixels`.

    `size`: side of the square image that `pixels` was meant for; images of other sizes need as
    large a part. Ahmed et al. 2020, Section 3.2, drops lung masks under 50,000 pixels in total, by
    trial and error; that this is of its 512 × 512 images is our reading.
    """
    mask = _checked(mask)
    if size is not None:
        pixels = pixels * mask.size / size**2
    return mask.copy() if mask.sum() >= pixels else np.zeros_like(mask)


def dilate(
    mask: np.ndarray,
    radius: int = 1,
    iterations: int = 1,
    element: str = "disk",
    size: int | None = None,
) -> np.ndarray:
    """Every pixel within the element of a pixel of the mask, `iterations` times over.

    `size`: longer side of the image that `iterations` was meant for; on others it is scaled, to at
    least once. Ahmed et al. 2020, Section 3.2, dilates lung masks 8 times; the element is not given.
    """
    from scipy.ndimage import binary_dilation

    times = _times(iterations, size, _checked(mask))
    return binary_dilation(mask, _element(radius, element), times)


def close(
    mask: np.ndarray,
    radius: int = 1,
    iterations: int = 1,
    element: str = "disk",
    size: int | None = None,
) -> np.ndarray:
    """Dilates `iterations` times, then erodes as often: gaps too narrow for the element close.

    (Whole closings repeated would change nothing after the first; SciPy and OpenCV count so too.)
    `size` as in `dilate`.
    """
    times = _times(iterations, size, _checked(mask))
    return _erode(dilate(mask, radius, times, element), radius, times, element)


def open_(
    mask: np.ndarray, radius: int = 1, iterations: int = 1, element: str = "disk"
) -> np.ndarray:
    """Erodes `iterations` times, then dilates as often: what is too thin for the element goes."""
    return dilate(_erode(mask, radius, iterations, element), radius, iterations, element)


def within(mask: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """What of the mask lies in the lung, bool (H, W) too."""
    mask, lung = _checked(mask), _checked(lung, "lung")
    if mask.shape != lung.shape:
        raise ValueError(f"lung has shape {lung.shape}, mask {mask.shape}; bring both to one size")
    return mask & lung


# Tahir 2021, Section 3.2.2.2. There the lung mask gets the first two steps, and the infection mask
# is cut to the lung mask that comes out.
TAHIR_LUNG = {"fill holes": fill_holes, "remove small regions": remove_small}
TAHIR_INFECTION = {"within the lung": within}
TAHIR_REFINEMENT = TAHIR_LUNG | TAHIR_INFECTION

# Ahmed et al. 2020, Section 3.2, for masks of 512 × 512. The element is not given: OpenCV's default.
AHMED_REFINEMENT = {
    "dilate 8 times": partial(dilate, iterations=8, element="square", size=512),
    "close twice": partial(close, iterations=2, element="square", size=512),
    "enough lung": partial(require_area, pixels=50_000, size=512),
}


def refine(
    mask: np.ndarray,
    steps: Mapping[str, Callable] = TAHIR_REFINEMENT,
    lung: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W) bool after all `steps` (name → function of a mask), in their order.

    A step with a parameter `lung`, as `within` has, is given the lung mask too. Raises ValueError
    where one asks for it and `lung` is None.
    """
    mask = _checked(mask)
    for name, step in steps.items():
        if not needs_lung(step):
            mask = step(mask)
        elif lung is None:
            raise ValueError(f"the step {name!r} needs a lung mask: pass `lung`, or leave it out")
        else:
            mask = step(mask, lung=lung)
    return mask.copy() if not steps else mask


def needs_lung(step: Callable) -> bool:
    """Whether a step of `refine` asks for the lung mask."""
    return "lung" in signature(step).parameters


def _checked(mask, name: str = "mask") -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(
            f"{name} is {mask.dtype} {mask.shape}; a bool (H, W) mask is needed: `> 0` makes one of "
            "0 and 255"
        )
    return mask


def _regions(mask) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) number of each pixel's region, 0 outside; and the pixels of regions 1, 2, …"""
    from scipy.ndimage import label

    regions, n = label(mask, np.ones((3, 3)))
    return regions, np.bincount(regions.ravel(), minlength=n + 1)[1:]


def _kept(regions, keep) -> np.ndarray:
    return np.concatenate([[False], keep])[regions]


def _erode(mask, radius, iterations, element) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    shape = _element(radius, element)
    return binary_erosion(_checked(mask), shape, _times(iterations), border_value=1)


def _element(radius: int, element: str) -> np.ndarray:
    from skimage.morphology import disk

    if radius < 1:
        raise ValueError(f"radius={radius} must be 1 or more")
    if element == "disk":
        return disk(radius, dtype=bool)
    if element == "square":
        return np.ones((2 * radius + 1, 2 * radius + 1), bool)
    raise ValueError(f"element={element!r} must be disk or square")


def _times(iterations: int, size: int | None = None, mask=None) -> int:
    if iterations < 1:  # SciPy would repeat until nothing changes
        raise ValueError(f"iterations={iterations} must be 1 or more")
    if size is None:
        return iterations
    if size < 1:
        raise ValueError(f"size={size} must be 1 pixel or more")
    return max(1, round(iterations * max(mask.shape) / size))
