"""Size and scale of single greyscale images and masks."""

from __future__ import annotations

import numpy as np


def resize(image: np.ndarray, size: int | tuple[int, int], fit: str = "squash") -> np.ndarray:
    """(H, W) float32 at `size` (a side, or height and width), antialiased when shrinking.

    `fit`: "squash" changes the aspect ratio, as the papers do; "pad" keeps it and fills up with
    black; "crop" keeps it and cuts the longer side in the middle.
    """
    from PIL import Image

    height, width = _size(size)
    image = np.asarray(image, np.float32)
    if image.ndim != 2:
        raise ValueError(f"image has shape {image.shape}, expected (H, W)")
    h, w = image.shape
    if fit == "squash":
        inner = (height, width)
    elif fit in ("pad", "crop"):
        scale = (min if fit == "pad" else max)(height / h, width / w)
        inner = (max(1, round(h * scale)), max(1, round(w * scale)))
    else:
        raise ValueError(f"fit={fit!r} must be squash, pad or crop")
    if inner != (h, w):
        picture = Image.fromarray(image).resize(inner[::-1], Image.Resampling.BILINEAR)
        image = np.asarray(picture)
    return _centre(image, height, width)


def resize_mask(mask: np.ndarray, size: int | tuple[int, int], fit: str = "squash") -> np.ndarray:
    """(H, W) bool at `size`: true where the mask covers at least half of the new pixel."""
    return resize(np.asarray(mask, np.float32), size, fit) >= 0.5


def stretch(image: np.ndarray, low: float = 0.0, high: float = 100.0) -> np.ndarray:
    """(H, W) float32 in [0, 1]: the percentiles `low` and `high` become black and white.

    A constant image becomes all zero rather than NaN.
    """
    bottom, top = np.percentile(image, [low, high])
    if top <= bottom:
        return np.zeros_like(image, dtype=np.float32)
    return np.clip((image - bottom) / (top - bottom), 0, 1).astype(np.float32)


def _size(size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if height < 1 or width < 1:
        raise ValueError(f"size={size!r} must be at least one pixel a side")
    return int(height), int(width)


def _centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut or pad with zeros, in the middle, to (height, width)."""
    out = np.zeros((height, width), image.dtype)
    source, target = [], []
    for have, want in zip(image.shape, (height, width), strict=True):
        n = min(have, want)
        source.append(slice((have - n) // 2, (have - n) // 2 + n))
        target.append(slice((want - n) // 2, (want - n) // 2 + n))
    out[tuple(target)] = image[tuple(source)]
    return out
