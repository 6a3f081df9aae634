"""From a lung mask to candidate infection by brightness alone: what Alom et al. 2020 do without labels.

Section 3 and Figures 3, 4, 12, 13 and 15: the lung mask is refined by morphology, "only large
regions" of it are kept, the lung is cut out, "a classical image processing method and an adaptive
thresholding approach" mark the infected pixels, and these are counted. Neither the steps of the
morphology, nor the classical method, nor any number of the thresholding is given: they are our
choice, all of them arguments. What comes out is what is brighter than the rest of the lung, be it
infection, a vessel, the hilum, a rib or the edge of the mask; `covidlab.severity` says how far that
is from the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from .refine import fill_holes, open_, refine, remove_small

ALOM_LUNG = {
    "open": partial(open_, radius=1),
    "fill holes": fill_holes,
    "keep large regions": partial(remove_small, share=0.05),
}
METHODS = ("gaussian", "mean", "otsu")

# Chosen by the concordance of shares among about 150 settings: for CT, one that serves both phantoms
# and half of the patients of Ma et al.; for X-rays, half of those General Blockchain outlined.
REGION_PARAMETERS = {
    "CT": {"method": "gaussian", "smooth": 1.0, "window": 128, "offset": 0.05, "opening": 2},
    "X-ray": {"method": "otsu", "smooth": 0.0, "window": 128, "offset": 0.0, "opening": 3},
}


@dataclass(frozen=True)
class Regions:
    """What `find_regions` found on the way: arrays (H, W).

    `lung`: bool, the refined mask. `extracted`: float32, the image in it, 0 elsewhere. `threshold`:
    float32, NaN outside the lung. `infected`: bool, the candidates. `heat`: float32, how far the
    smoothed image lies above the threshold where there are candidates, 0 elsewhere.
    """

    lung: np.ndarray
    extracted: np.ndarray
    threshold: np.ndarray
    infected: np.ndarray
    heat: np.ndarray

    @property
    def lung_pixels(self) -> int:
        return int(self.lung.sum())

    @property
    def infected_pixels(self) -> int:
        return int(self.infected.sum())

    @property
    def share(self) -> float:
        """Infected part of the lung in [0, 1], the paper's percentage / 100; NaN without lung."""
        return self.infected_pixels / self.lung_pixels if self.lung_pixels else np.nan


def find_regions(
    image: np.ndarray,
    lung: np.ndarray,
    *,
    refinement: Mapping[str, Callable] = ALOM_LUNG,
    method: str = "gaussian",
    smooth: float = 1.0,
    window: float = 128,
    offset: float = 0.05,
    opening: int = 2,
) -> Regions:
    """Candidate infection in one image: the parts of the lung that are brighter than a threshold.

    Lengths are pixels of an image with 256 a side, and scale with the longer side. The defaults
    are `REGION_PARAMETERS["CT"]`, for slices in a lung window; `**REGION_PARAMETERS["X-ray"]` are
    for X-rays.

    Parameters
    ----------
    image : (H, W) float in [0, 1], bright where dense.
    lung : (H, W) bool, as a network found it or as it was drawn.
    refinement : steps of `refine` for the lung mask; {} leaves it as it is.
    method : how the threshold adapts. "gaussian" and "mean" are scikit-image's `threshold_local`:
        the weighted (σ = window / 6) or plain mean of the `window` around each pixel. "otsu" is one
        threshold for the image, Otsu's of the lung's pixels. The paper names none.
    smooth : σ of a Gaussian over the lung beforehand, against noise; 0 for none. This is our
        "classical image processing".
    window : side of the neighbourhood. A region that fills it is compared with itself, so that
        large opacities are lost in a small one.
    offset : grey values that are added to the threshold. At 0, a local threshold marks about half
        of any lung.
    opening : radius of the disc below which what is thin goes (vessels, the rim of the lung mask);
        0 for none.

    Raises
    ------
    ValueError : shapes that differ, an image outside [0, 1], a number or a method that is impossible.

    Notes
    -----
    Before smoothing and thresholding, what is not lung takes the lung's median. After extraction
    as in the paper it would be black, and the threshold at every edge of the lung too low.
    """
    image, lung = _checked(image, lung)
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
    if smooth < 0 or opening < 0 or window < 3:
        raise ValueError(
            f"smooth={smooth}, opening={opening}, window={window}: at least 0, 0 and 3 are needed"
        )
    lung = refine(lung, refinement)
    extracted = np.where(lung, image, np.float32(0))
    if not lung.any():
        nothing = np.zeros_like(lung)
        return Regions(lung, extracted, np.full_like(image, np.nan), nothing, extracted.copy())
    scale = max(image.shape) / 256
    even = _smoothed(np.where(lung, image, np.median(image[lung])), smooth * scale)
    threshold = _threshold(even, lung, method, window * scale) + np.float32(offset)
    infected = lung & (even > threshold)
    if opening:
        infected = open_(infected, max(1, round(opening * scale)))
        infected &= lung
    return Regions(
        lung=lung,
        extracted=extracted,
        threshold=np.where(lung, threshold, np.float32(np.nan)),
        infected=infected,
        heat=np.where(infected, even - threshold, np.float32(0)).clip(0),
    )


def plot_regions(image: np.ndarray, found: Regions, truth: np.ndarray | None = None):
    """The steps side by side, as in Figures 12 and 15; returns the Figure.

    Input with the outline of the refined lung, the lung alone, the candidates as a heat map
    (brightness above the threshold) and as a mask; with `truth`, (H, W) bool, its outline too.
    """
    from covidlab._figures import subplots

    figure, axes = subplots(1, 4, figsize=(11, 3))
    pictures = (image, found.extracted, image, image)
    share = f"{found.infected_pixels:,} of {found.lung_pixels:,} pixels: {found.share:.1%}"
    titles = ("input and refined lung", "lung alone", "above the threshold", share)
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize="medium")
        ax.set_axis_off()
    _outline(axes[0], found.lung, "#56b4e9", "lung")
    heat = np.ma.masked_where(~found.infected, found.heat)
    figure.colorbar(axes[2].imshow(heat, cmap="magma", vmin=0), ax=axes[2], shrink=0.8)
    marked = np.ma.masked_where(~found.infected, found.infected.astype(float))
    axes[3].imshow(marked, cmap=_one_colour("#e69f00"), alpha=0.55)
    if truth is not None:
        _outline(axes[3], truth, "#d55e00", "true infection")
    return figure


def _outline(ax, mask, colour, label):
    if mask.any() and not mask.all():
        ax.contour(mask, [0.5], colors=colour, linewidths=1.2)
    ax.plot([], [], color=colour, label=label)
    ax.legend(loc="lower left", fontsize="small")


def _one_colour(colour):
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])


def _checked(image, lung):
    image, lung = np.asarray(image, np.float32), np.asarray(lung)
    if image.ndim != 2 or image.shape != lung.shape:
        raise ValueError(f"image {image.shape} and lung {lung.shape} must be one (H, W)")
    if not image.size or not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            "image must lie in [0, 1]: `imaging.stretch` brings grey values to it, a lung window "
            "Hounsfield units"
        )
    return image, lung


def _smoothed(image, sigma):
    from skimage.filters import gaussian

    return gaussian(image, sigma, preserve_range=True) if sigma else image


def _threshold(image, lung, method, window):
    """(H, W) float32, from an image that is even outside the lung."""
    from skimage.filters import threshold_local, threshold_otsu

    if method == "otsu":
        return np.full_like(image, threshold_otsu(image[lung]))
    side = max(3, 2 * int(window / 2) + 1)
    return threshold_local(image, side, method=method).astype(np.float32)
