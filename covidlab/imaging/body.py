"""From a CT series to what Garg et al. train on: grey values, the body alone, a common slice count.

Garg et al. 2021, Section III.A. The order there: `to_uint8`, `keep_body`, brightness, then
`resample_slices` for training slices, and 224×224 pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def to_uint8(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """uint8 of the same shape: `low` becomes 0, `high` 255, what lies outside is clipped.

    Garg et al. 2021, Section III.A.2: "we normalise the images to an intensity range of 0-255.
    Then, we convert the data from float to unsigned integer". They do not say over what: without
    `low` and `high` it is the array's own range, so hand over one slice or a whole volume, or say
    the range, such as -1350 and 150 HU for the lung window. We round, where a cast would cut off.

    Raises ValueError for values that are not finite, and for `high` that is not above `low`; an
    array of one value becomes all 0.
    """
    values = np.asarray(values, np.float32)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("values must be finite and at least one: read the series again")
    bottom = float(values.min()) if low is None else low
    top = float(values.max()) if high is None else high
    if low is None and high is None and top == bottom:
        return np.zeros(values.shape, np.uint8)
    if not top > bottom:
        raise ValueError(f"high={top:g} must be above low={bottom:g}")
    share = (np.clip(values, bottom, top) - bottom) / (top - bottom)
    return np.rint(255 * share).astype(np.uint8)


def body_mask(image: np.ndarray, sigma: float = 1.1, threshold: float | None = None) -> np.ndarray:
    """(H, W) bool: the body in a CT slice, with lungs and airways.

    Garg et al. 2021, Section III.A.1: Gaussian smoothing, a threshold, and of the contours the one
    with the largest area, with all that is inside. They give no numbers. Ours are from the code of
    their reference [9], COVIDNet-CT: a kernel of 5×5 pixels (`sigma` 1.1), and Otsu's threshold over
    the pixels above 0; the erosion that follows there, for a bounding box, is left out.

    Empty where nothing lies above the threshold. Where the picture cuts through the chest wall, as
    pictures cropped for articles do, lung that is open to its edge counts as outside: look first.

    Parameters
    ----------
    image : (H, W) grey, float in [0, 1] or uint8; for Hounsfield units use `to_uint8` first.
    sigma : of the smoothing, in pixels; 0 for none.
    threshold : in the image's units; None is Otsu's.

    Raises ValueError for what is no grey image.
    """
    from skimage.filters import gaussian, threshold_otsu

    from .refine import fill_holes, largest

    smooth = gaussian(_grey(image).astype(np.float32), sigma, preserve_range=True)
    lit = smooth[smooth > 0]
    if not lit.size:
        return np.zeros(smooth.shape, bool)
    if threshold is None:
        threshold = threshold_otsu(lit) if lit.min() < lit.max() else 0.0
    # the outermost contour of a region encloses the region and its holes
    return largest(fill_holes(smooth > threshold), 1)


def keep_body(
    image: np.ndarray,
    brightness: float = 1.0,
    sigma: float = 1.1,
    threshold: float | None = None,
) -> np.ndarray:
    """The image with 0 outside the body, then `brightness` times as bright, clipped at white.

    Garg et al. 2021, Section III.A: the mask of `body_mask` "multiplied with the original image";
    brightness 2 for the second source, COVID-CT-MD, "to match the brightness" of the first. Shape
    and type stay as they are. Raises ValueError as `body_mask` does, and for a brightness that is
    not above 0.
    """
    if not 0 < brightness < np.inf:
        raise ValueError(f"brightness={brightness} must be above 0; 1 leaves it as it is")
    image = _grey(image)
    white = 255 if image.dtype == np.uint8 else 1.0
    kept = np.where(body_mask(image, sigma, threshold), image.astype(np.float32), 0)
    return np.minimum(kept * np.float32(brightness), white).astype(image.dtype)


class Resampled(NamedTuple):
    """Slices at new places in a series: `volume` (N, H, W), `labels` (N,), `places` (N,).

    `places` are in the units of the `z` that was given, else positions in the old series, where
    3.5 lies midway between slices 3 and 4. `labels` is None where none were given.
    """

    volume: np.ndarray
    labels: np.ndarray | None
    places: np.ndarray


def resample_slices(
    volume: np.ndarray, count: int, labels=None, z=None, order: int = 3
) -> Resampled:
    """A series brought to `count` slices by splines through its slices, pixel by pixel.

    Garg et al. 2021, Section III.A.2: splines bring series with different numbers of slices to one
    count, and infected slices are not interpolated with others, so that labels of slices hold. So
    each run of neighbours with one label has a spline of its own, from its first slice to its last,
    which are kept; between two runs nothing is put in. The new slices go to the runs in proportion
    to the distances within them; a run of a single slice stays one slice, and one that is left with
    a single slice keeps its middle. How runs share the slices is our choice, as is the order of the
    spline: cubic, lower in runs of fewer than `order` + 1 slices.

    Values stay within the range of the run they come from (splines overshoot), integers are
    rounded. For training the slice classifier only: what is put in is no new observation.

    Parameters
    ----------
    volume : (D, H, W) in the order of the body, as from `datasets.read_volume`; any numeric type,
        which is kept.
    count : how many slices; at least one for each run.
    labels : (D,) of each slice, such as infected or not; None takes all slices as alike.
    z : (D,) position of each slice in mm, rising or falling; None takes them as evenly spaced.
    order : of the spline, 1 (straight lines) to 5.

    Raises ValueError for a series of no slices, slices that are out of order or at one place,
    labels or places for another number of slices, and a count that cannot be reached.
    """
    volume, labels, places = _series(volume, labels, z)
    if not 1 <= order <= 5:
        raise ValueError(f"order={order} must lie in 1..5; 3 is cubic")
    runs = _runs(labels, len(volume))
    out, at = [], []
    for run, n in zip(runs, _shares(places, runs, count), strict=True):
        x = np.linspace(*places[[run.start, run.stop - 1]], n) if n > 1 else _middle(places[run])
        out.append(_interpolate(volume[run], places[run], x, order))
        at.append(x)
    counts = [len(x) for x in at]
    kept = None if labels is None else np.repeat(labels[[run.start for run in runs]], counts)
    return Resampled(np.concatenate(out), kept, np.concatenate(at))


def _grey(image) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}, expected (H, W)")
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f" or not (0.0 <= image.min() and image.max() <= 1.0):
        raise ValueError(
            f"image is {image.dtype} from {image.min():g} to {image.max():g}; float in [0, 1] or "
            "uint8 is needed: `to_uint8` makes one of Hounsfield units"
        )
    return image


def _series(volume, labels, z):
    volume = np.asarray(volume)
    if volume.ndim != 3 or 0 in volume.shape:
        raise ValueError(
            f"volume has shape {volume.shape}, expected (D, H, W) with at least one slice"
        )
    if volume.dtype.kind not in "uif" or not np.isfinite(volume).all():
        raise ValueError(f"volume is {volume.dtype}; finite numbers are needed")
    places = np.arange(len(volume), dtype=float) if z is None else np.asarray(z, float)
    labels = None if labels is None else np.asarray(labels)
    for name, values in (("labels", labels), ("z", places)):
        if values is not None and values.shape != (len(volume),):
            raise ValueError(
                f"{name} has shape {values.shape}, volume {len(volume)} slices: one each is needed"
            )
    steps = np.diff(places)
    if len(steps) and not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            "z must rise or fall from slice to slice: sort the slices by position, as "
            "`datasets.read_volume` does, and leave out doubles"
        )
    return volume, labels, places


def _runs(labels, depth: int) -> list[slice]:
    """Neighbours of one label."""
    ends = [] if labels is None else (np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *ends], [*ends, depth], strict=True)]


def _shares(places, runs, count: int) -> list[int]:
    """Slices of each run: one, and of the others as its length is to that of all (largest remainder)."""
    lengths = np.array([abs(places[run.stop - 1] - places[run.start]) for run in runs])
    spare = count - len(runs)
    if spare < 0:
        raise ValueError(f"count={count} is too few for {len(runs)} runs of slices of one label")
    if spare and not lengths.any():
        raise ValueError(
            f"count={count} cannot be reached: no two neighbouring slices share a label, so there "
            "is nothing to interpolate between"
        )
    if not spare:
        return [1] * len(runs)
    ideal = spare * lengths / lengths.sum()
    shares = np.floor(ideal).astype(int)
    shares[np.argsort(shares - ideal, kind="stable")[: spare - shares.sum()]] += 1
    return (shares + 1).tolist()


def _middle(places) -> np.ndarray:
    return places[[len(places) // 2]]


def _interpolate(slices, places, x, order) -> np.ndarray:
    """The slices of one run at the places `x`; splines are linear in what they go through."""
    from scipy.interpolate import make_interp_spline

    if len(slices) == 1:
        return slices
    sign = -1.0 if places[-1] < places[0] else 1.0
    degree = min(order, len(slices) - 1)
    weights = make_interp_spline(sign * places, np.eye(len(slices)), degree)(sign * x)
    kind = np.float64 if slices.dtype == np.float64 else np.float32
    flat = slices.reshape(len(slices), -1).astype(kind)
    new = np.clip(weights.astype(kind) @ flat, flat.min(), flat.max())
    if slices.dtype.kind in "ui":
        new = np.rint(new)
    return new.astype(slices.dtype).reshape(len(x), *slices.shape[1:])
