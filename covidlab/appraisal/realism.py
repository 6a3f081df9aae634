"""How real do drawn images look in numbers: lung densities, lung area, spectrum, against real sets.

A distance says little by itself: set it beside the same distance between two real sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from covidlab._figures import subplots
from covidlab.datasets.readers import LUNG_WINDOW
from covidlab.imaging import resize, resize_mask, stretch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from covidlab.datasets.manifest import Dataset

LOW_HU = LUNG_WINDOW[0] - LUNG_WINDOW[1] / 2
TISSUE_HU = -500.0  # between air and tissue; our choice
HU_EDGES = np.linspace(LOW_HU, LOW_HU + LUNG_WINDOW[1], 76)  # 20 HU each
GREY_EDGES = np.linspace(0.0, 1.0, 51)
AREA_EDGES = np.linspace(0.0, 1.0, 201)
BANDS = {"coarse": (1, 7), "middle": (8, 23), "fine": (24, None)}  # cycles per image side


# --- one image -----------------------------------------------------------------------------------


def to_hu(image: np.ndarray) -> np.ndarray:
    """(H, W) Hounsfield units, -1350 to 150, of an image in [0, 1] in the lung window."""
    return image * LUNG_WINDOW[1] + LOW_HU


def body_region(image: np.ndarray) -> np.ndarray:
    """(H, W) bool: the body in a chest CT slice, lungs and airways included.

    `image` is float in [0, 1] in the lung window. The largest piece denser than -500 HU after an
    opening that parts it from the table, its holes filled. Empty where nothing is that dense.
    """
    from scipy import ndimage
    from skimage.morphology import disk

    tissue = ndimage.binary_opening(to_hu(image) > TISSUE_HU, disk(2))
    pieces, n = ndimage.label(tissue)
    if n == 0:
        return tissue
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(largest)


def lung_air(image: np.ndarray, body: np.ndarray | None = None) -> np.ndarray:
    """(H, W) bool: what is lighter than -500 HU within the body; lungs and airways, no consolidation.

    For sets without lung masks, and so that sets with masks drawn by different rules can be
    compared. `image` as in `body_region`.
    """
    return (to_hu(image) < TISSUE_HU) & (body_region(image) if body is None else body)


def radial_spectrum(image: np.ndarray) -> np.ndarray:
    """(S // 2,) power at 1, 2, … S // 2 cycles per side of a square image (S, S), mean over rings.

    Mean removed and Hann-windowed, so that the edges of the picture do not count as structure;
    |FFT|² over the sum of the squared window, so that white noise of variance v has power v at
    every frequency. A ring holds the frequencies nearest to its whole number. Raises ValueError
    unless (S, S) with S ≥ 8.
    """
    image = np.asarray(image, np.float64)
    if image.ndim != 2 or image.shape[0] != image.shape[1] or len(image) < 8:
        raise ValueError(f"image has shape {image.shape}, expected (S, S) with S ≥ 8: resize it")
    size = len(image)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    window = np.outer(hann, hann)
    image = image - (image * window).sum() / window.sum()
    power = np.abs(np.fft.fft2(image * window)) ** 2 / np.square(window).sum()
    frequency = np.fft.fftfreq(size, 1 / size)
    ring = np.rint(np.hypot(frequency[:, None], frequency)).astype(int)
    total, count = np.bincount(ring.ravel(), power.ravel()), np.bincount(ring.ravel())
    return (total / count)[1 : size // 2 + 1]


# --- distances -----------------------------------------------------------------------------------


def wasserstein(p: np.ndarray, q: np.ndarray, edges: np.ndarray) -> float:
    """Earth mover's distance of two histograms (B,) over `edges` (B + 1,), in the edges' unit."""
    from scipy.stats import wasserstein_distance

    centres = (edges[1:] + edges[:-1]) / 2
    return float(wasserstein_distance(centres, centres, p, q))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen–Shannon distance of two histograms (B,): root of the divergence in bits, 0 to 1."""
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(p, q, base=2))


def spectral_distance(p: np.ndarray, q: np.ndarray, shape_only: bool = False) -> float:
    """Root mean square difference of two log10 spectra (F,), in decades, every ring alike.

    `shape_only` takes their mean difference out first, for greys of no common scale.
    """
    difference = np.asarray(p) - np.asarray(q)
    if shape_only:
        difference = difference - difference.mean()
    return float(np.sqrt(np.mean(difference**2)))


def band_difference(p: np.ndarray, q: np.ndarray, shape_only: bool = False) -> dict[str, float]:
    """Mean of p − q of two log10 spectra (F,), in decades, in each of `BANDS`.

    Where p is smoother than q the fine band is negative. Bands beyond F are left out.
    """
    difference = np.asarray(p) - np.asarray(q)
    if shape_only:
        difference = difference - difference.mean()
    return {
        name: float(difference[low - 1 : high].mean())
        for name, (low, high) in BANDS.items()
        if low <= len(difference)
    }


def spectral_slope(log_power: np.ndarray, low: int = 4, high: int | None = None) -> float:
    """Slope of log10 power over log10 frequency by least squares, from `low` to `high` cycles.

    `log_power` (F,) starts at 1 cycle per side. Natural pictures have about -2 to -3. Below 4
    cycles the window smears, and the last quarter is what resampling damps (our choices): `high`
    is three quarters of F unless given.
    """
    frequency = np.arange(1, len(log_power) + 1)
    used = (frequency >= low) & (frequency <= (high or 3 * len(log_power) // 4))
    return float(np.polyfit(np.log10(frequency[used]), np.asarray(log_power)[used], 1)[0])


class DistanceInterval(NamedTuple):
    """A distance between two groups of patients and the percentiles of its resamples."""

    value: float
    low: float
    high: float


def distance_interval(
    a: np.ndarray,
    b: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], float],
    level: float = 0.95,
    n_boot: int = 500,
    seed: int = 0,
) -> DistanceInterval:
    """`distance` between the means of `a` (P, B) and `b` (Q, B), whose rows are patients.

    Percentile bootstrap, patients resampled on both sides. A distance is never below zero and
    resampling adds to it, so the interval leans upwards, and the more the fewer the patients: below
    ten on a side it shows how little is known, no more. NaN bounds with one patient on a side.
    """
    value = distance(a.mean(0), b.mean(0))
    if min(len(a), len(b)) < 2:
        return DistanceInterval(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    draws = [
        distance(*(x[rng.integers(len(x), size=len(x))].mean(0) for x in (a, b)))
        for _ in range(n_boot)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return DistanceInterval(value, float(low), float(high))


# --- a dataset -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """What a set of images looks like; rows are patients, each counting once. None: not measurable.

    `density` (P, B): share of the lung's pixels in each bin of HU (`HU_EDGES`) or of stretched grey
    (`GREY_EDGES`); `of_image`, `of_body` (P, 200): share of the slices whose lung takes up that
    part of the image or body (`AREA_EDGES`); `spectrum` (P, S // 2): mean log10 power at 1, 2, …
    cycles per side, of HU, or of grey in [0, 1] when `units` is not "HU".
    """

    name: str
    units: str
    images: int
    size: int
    spectrum: np.ndarray = field(repr=False)
    density: np.ndarray | None = field(default=None, repr=False)
    of_image: np.ndarray | None = field(default=None, repr=False)
    of_body: np.ndarray | None = field(default=None, repr=False)

    @property
    def patients(self) -> int:
        return len(self.spectrum)

    @property
    def edges(self) -> np.ndarray:
        return HU_EDGES if self.units == "HU" else GREY_EDGES

    def density_percentiles(self, percentiles=(5, 50, 95)) -> list[float]:
        """Percentiles of the lung's density, patients alike, read from the histogram."""
        share = np.concatenate([[0], np.cumsum(self.density.mean(0))])
        return [float(np.interp(p / 100, share, self.edges)) for p in percentiles]


def profile(
    dataset: Dataset,
    units: str = "HU",
    lungs: str | None = "mask",
    size: int = 128,
    least_lung: float = 0.05,
    name: str = "",
    upright: Callable | None = None,
) -> Profile:
    """Measures a dataset at `size` pixels a side, so that sets of any resolution can be compared.

    Parameters
    ----------
    units : "HU" for CT in the lung window -1350..150 HU; "stretched" puts the 1st and 99th
        percentile of each image at 0 and 1 (X-ray); "none" leaves greys as they are and measures
        no densities (CT that was equalised).
    lungs : "mask" takes the manifest's lung masks and leaves out images without; "air" takes
        `lung_air` (HU only); None measures the spectrum alone.
    least_lung : slices with less lung than this part of the image are left out, so that necks and
        abdomens do not count; our choice.
    upright : called with an array and its row of the manifest, gives it back turned.

    Pictures that are not square are cut to the middle square for density and spectrum; area is of
    the whole picture. Raises ValueError for unknown `units` or `lungs`, or when no image is left.
    """
    if units not in ("HU", "stretched", "none"):
        raise ValueError(f"units={units!r} must be HU, stretched or none")
    if lungs not in ("mask", "air", None) or (lungs == "air" and units != "HU"):
        raise ValueError(f"lungs={lungs!r} must be mask or None, or air where units are HU")
    rows, patients = [], []
    for i, patient in enumerate(dataset.patients):
        measured = _measure(dataset, i, units, lungs, size, least_lung, upright)
        if measured is not None:
            rows.append(measured)
            patients.append(patient)
    name = name or dataset.card.id
    if not rows:
        raise ValueError(f"{name!r}: no image with lung of at least {least_lung:g} of it is left")
    means = {
        key: None if rows[0][key] is None else _by_patient([r[key] for r in rows], patients)
        for key in rows[0]
    }
    return Profile(name, units, len(rows), size, **means)


def _measure(dataset, i, units, lungs, size, least_lung, upright) -> dict | None:
    mask = None
    if lungs == "mask":
        mask = dataset.mask(i, "lung_mask")
        if mask is None or mask.mean() < least_lung:
            return None
    image = dataset.image(i)
    if upright is not None:
        row = dataset.frame.iloc[i]
        image, mask = upright(image, row), None if mask is None else upright(mask, row)
    body = body_region(image) if units == "HU" else None
    if lungs == "air":
        mask = lung_air(image, body)
        if mask.mean() < least_lung:
            return None
    small = resize(image, size, "crop")
    if units == "stretched":
        small = stretch(small, 1, 99)
    values = to_hu(small) if units == "HU" else small
    found = {
        "spectrum": np.log10(np.maximum(radial_spectrum(values), 1e-12)),
        "density": None,
        "of_image": None,
        "of_body": None,
    }
    if mask is not None:
        found["of_image"] = _shares([mask.mean()], AREA_EDGES)
        if body is not None:
            whole = max(body.sum(), 1)
            found["of_body"] = _shares([min((mask & body).sum() / whole, 1.0)], AREA_EDGES)
        if units != "none":
            edges = HU_EDGES if units == "HU" else GREY_EDGES
            found["density"] = _shares(values[resize_mask(mask, size, "crop")], edges)
    return found


def _shares(values, edges) -> np.ndarray:
    """(B,) share of the values in each bin; those beyond the edges count in the last bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / max(counts.sum(), 1)


def _by_patient(rows, patients) -> np.ndarray:
    """(P, B): the mean row of each patient, in the order of their ids."""
    _, which = np.unique(patients, return_inverse=True)
    sums = np.zeros((which.max() + 1, len(rows[0])))
    np.add.at(sums, which, np.asarray(rows))
    return sums / np.bincount(which)[:, None]


def distances(a: Profile, b: Profile, n_boot: int = 500, seed: int = 0) -> dict:
    """Every distance that two profiles allow, each with its interval by patient.

    Keys: "density wasserstein" (HU or grey) and "density jensen-shannon", where the units are the
    same; "of image", "of body" (Wasserstein, parts of 1); "spectrum" (decades; of its shape alone
    unless both are in HU). Raises ValueError for profiles of different `size`.
    """
    if a.size != b.size:
        raise ValueError(
            f"{a.name} was measured at {a.size} px, {b.name} at {b.size} px: use one size"
        )

    def areas(p, q):
        return wasserstein(p, q, AREA_EDGES)

    wanted = {"of image": ("of_image", areas), "of body": ("of_body", areas)}
    if a.units == b.units:
        wanted["density wasserstein"] = ("density", lambda p, q: wasserstein(p, q, a.edges))
        wanted["density jensen-shannon"] = ("density", jensen_shannon)
    shape_only = not a.units == b.units == "HU"
    wanted["spectrum"] = ("spectrum", lambda p, q: spectral_distance(p, q, shape_only))
    return {
        key: distance_interval(getattr(a, of), getattr(b, of), distance, n_boot=n_boot, seed=seed)
        for key, (of, distance) in wanted.items()
        if getattr(a, of) is not None and getattr(b, of) is not None
    }


def plot_profiles(profiles: Iterable[Profile]) -> Figure:
    """Lung densities, lung areas and spectra of several sets side by side: means over patients.

    Densities are drawn for the sets in the units of the first; spectra of others than HU are
    shifted to the mean of the first, as only their shape can be compared.
    """
    profiles = list(profiles)
    figure, (left, middle, right) = subplots(1, 3, figsize=(13, 3.8))
    first = profiles[0]
    for i, p in enumerate(profiles):
        style = {
            "label": f"{p.name} ({p.patients} patients)",
            "color": f"C{i}",
            "lw": 2.2 if i == 0 else 1.3,
        }
        if p.density is not None and p.units == first.units:
            left.plot(_centres(p.edges), p.density.mean(0), **style)
        if p.of_image is not None:
            middle.plot(AREA_EDGES[1:], np.cumsum(p.of_image.mean(0)), **style)
        log_power = p.spectrum.mean(0)
        if not p.units == first.units == "HU":
            log_power = log_power - log_power.mean() + first.spectrum.mean()
        right.loglog(np.arange(1, len(log_power) + 1), 10**log_power, **style)
    left.set(xlabel="HU" if first.units == "HU" else "stretched grey", ylabel="share of lung")
    middle.set(xlabel="lung, part of the image", ylabel="share of images below", xlim=(0, 0.7))
    right.set(
        xlabel="cycles per image side", ylabel="power, HU²" if first.units == "HU" else "power"
    )
    handles = {
        text: line
        for axis in (left, middle, right)
        for line, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def _centres(edges) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2
