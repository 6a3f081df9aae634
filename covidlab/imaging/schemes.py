"""The image schemes of Tahir 2021, Section 3.2.1, and how a recipe's `enhance` names a scheme."""

from __future__ import annotations

from functools import partial

import numpy as np

from .basic import resize, stretch
from .body import keep_body
from .wavelet import idwt_enhance


def clahe(
    image: np.ndarray, tiles: int = 8, clip: float = 0.01, distribution: str = "rayleigh"
) -> np.ndarray:
    """(H, W) float32 in [0, 1] with its contrast equalised tile by tile, and limited in each.

    scikit-image's `equalize_adapthist`, on `tiles` by `tiles` tiles and with the clip limit `clip`
    of a tile's pixels. That gives a flat histogram, "uniform"; the thesis has a bell, "Rayleigh
    distribution" (Figure 4), so the equalised values are then taken for shares of a Rayleigh
    distribution that ends at 1. Its scale of 0.4, the tiles and the clip limit are our choices: the
    thesis names none. A constant image comes back as it is.

    Raises ValueError for another distribution and for what is not (H, W) in [0, 1].
    """
    from scipy.stats import rayleigh
    from skimage.exposure import equalize_adapthist

    image = _unit(image)
    if distribution not in ("uniform", "rayleigh"):
        raise ValueError(f"distribution={distribution!r} must be uniform or rayleigh")
    if image.min() == image.max():
        return image.copy()
    size = [max(1, side // tiles) for side in image.shape]
    flat = equalize_adapthist(image, size, clip)
    if distribution == "rayleigh":
        flat = rayleigh.ppf(flat * rayleigh.cdf(1, scale=0.4), scale=0.4)
    return np.clip(flat, 0, 1).astype(np.float32)


def complement(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: black for white, 1 − x.

    Tahir 2021, Section 3.2.1.2. Equation 2 prints 225 − x for 8 bits; its sentence has 255, "the
    highest intensity value", which is meant: with 225 the whitest pixels would fall below black.
    """
    return 1 - _unit(image)


def three_channels(image: np.ndarray) -> np.ndarray:
    """(3, H, W) float32 in [0, 1]: the image, its CLAHE and its complement (Tahir 2021, Figure 6)."""
    return np.stack([_unit(image), clahe(image), complement(image)])


ENHANCEMENTS = {
    "none": None,
    "stretch": stretch,
    "idwt": idwt_enhance,
    "body": keep_body,
    "body, twice as bright": partial(keep_body, brightness=2.0),
    "CLAHE": clahe,
    "complement": complement,
    "3-channel": three_channels,
}
SCHEMES = {  # of the thesis, by its names
    "Original": "none",
    "CLAHE": "CLAHE",
    "Complement": "complement",
    "3-Channel": "3-channel",
}


def prepared(image: np.ndarray, enhance: str = "none", size=224, fit: str = "squash") -> np.ndarray:
    """What a network is given of an image (H, W) in [0, 1]: enhanced at its own size, then resized.

    float32 in [0, 1], (S, S), or (3, S, S) where the key `enhance` of `ENHANCEMENTS` gives three
    channels. `size` and `fit` as in `resize`.
    """
    step = ENHANCEMENTS[enhance]
    image = step(image) if step else image
    if image.ndim == 2:
        return np.clip(resize(image, size, fit), 0, 1)
    return np.stack([np.clip(resize(one, size, fit), 0, 1) for one in image])


def _unit(image) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim != 2 or not (0 <= image.min() and image.max() <= 1):
        raise ValueError(f"image must be (H, W) in [0, 1], got shape {image.shape}")
    return image
