"""Where a picture was made: what a hospital, a bedside or a journal leaves in it.

A `Site` is a profile of that: grey curve, sharpness, crop, letters, devices, frame. `Site.apply`
draws it into any picture; `site_of` and `assign` tie sites to labels as strongly as asked. This is
how a shortcut is planted on purpose: something that tells the classes apart in this set and has
nothing to do with the disease, as DeGrave, Janizek and Lee found in public COVID-19 X-ray sets
(Nat Mach Intell 2021, doi:10.1038/s42256-021-00338-7). Ahmed's Figure 3 shows such marks and
medical equipment.

Devices stand where they do on an upright frontal X-ray that shows little more than the chest; tubes
follow the upper mediastinum where it is off the middle. All sizes are parts of the side. How each
profile looks, and how often a device occurs in it, was chosen by us to look right; it describes no
real hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..imaging import corrupt, resize, resize_mask
from ..imaging.corruption import burn_arrow, burn_text, drawn, unit_image

CORNERS = ("top left", "top right", "bottom left", "bottom right")
_RANGES = {
    "noise": (0.0, 10.0),
    "sharpness": (-1.0, 1.0),
    "gamma": (0.2, 5.0),
    "contrast": (0.1, 3.0),
    "brightness": (-1.0, 1.0),
    "crop": (0.0, 0.5),
    "letter_size": (0.02, 0.3),
    "letters_share": (0.0, 1.0),
    "arrows": (0.0, 1.0),
    "tubes": (0.0, 1.0),
    "electrodes": (0.0, 1.0),
    "border": (0.0, 0.3),
    "border_grey": (0.0, 1.0),
    "compression": (0.0, 1.0),
    "ap": (0.0, 1.0),
}


@dataclass(frozen=True)
class Site:
    """What a place leaves in its pictures; `Site()` changes nothing.

    noise : 0..10, factor on the scanner's noise. Only for a phantom that draws noise; `apply`
        leaves it alone.
    sharpness : -1..1. Below 0 a Gaussian blur (at -1 with an SD of 1 % of the shorter side),
        above 0 unsharp masking, as by a soft or an edge kernel.
    gamma, contrast, brightness : grey curve, ``g = grey ** gamma``, then
        ``0.5 + contrast * (g - 0.5) + brightness``, clipped to 0..1.
    crop : 0..0.5, part of height and width cut off, more at one edge or the other by chance; what
        is left is brought back to size.
    letters : strings burned in. "L" stands in an upper corner at the image's right (the patient's
        left), "R" at its left, both a little tilted like lead markers; others one below the other
        in `corner`. {view}, {date}, {time} and {panel} (A to D) are filled in, by chance.
    letter_size : of the type, part of the shorter side. letters_share : probability of having any.
    arrows, tubes, electrodes : probability 0..1 of arrows pointing into the lungs, of lines and
        tubes, of ECG electrodes with their wires.
    border : 0..0.3, width of a frame of `border_grey`, into which the picture is shrunk.
    compression : 0..1, amount of `imaging.corruption.compressed` (JPEG).
    ap : probability that the view is AP rather than PA: for {view}, and for a phantom to draw.

    Raises ValueError for a field out of its range.
    """

    name: str = "reference"
    noise: float = 1.0
    sharpness: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    crop: float = 0.0
    letters: tuple[str, ...] = ()
    corner: str = "top left"
    letter_size: float = 0.06
    letters_share: float = 1.0
    arrows: float = 0.0
    tubes: float = 0.0
    electrodes: float = 0.0
    border: float = 0.0
    border_grey: float = 0.0
    compression: float = 0.0
    ap: float = 0.0

    def __post_init__(self):
        for field, (low, high) in _RANGES.items():
            if not low <= getattr(self, field) <= high:
                raise ValueError(
                    f"{field} must lie in {low:g}..{high:g}, got {getattr(self, field)}"
                )
        if not isinstance(self.letters, tuple) or not all(
            isinstance(t, str) and t.strip() for t in self.letters
        ):
            raise ValueError(f'letters={self.letters!r} must be a tuple of strings: ("L",)')
        if self.corner not in CORNERS:
            raise ValueError(f"corner={self.corner!r} must be one of {', '.join(CORNERS)}")

    def but(self, **changes) -> Site:
        """The same site with some fields changed."""
        return replace(self, **changes)

    def view(self, rng: np.random.Generator) -> str:
        """ "AP" with probability `ap`, else "PA"."""
        return "AP" if rng.random() < self.ap else "PA"

    def apply(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        masks: Sequence[np.ndarray] | None = None,
        *,
        modality: str = "X-ray",
        view: str | None = None,
    ):
        """The picture as this site would have made it; all but the noise.

        In this order: devices, sharpness, crop, grey curve, letters and arrows, border, JPEG. Each
        step has its own chance, so the same `rng` draws the same letters with tubes and without.

        Parameters
        ----------
        image : (H, W) in [0, 1], best 64 pixels a side or more.
        masks : each (H, W) bool; cropped and framed along with the image.
        modality : in "CT" a tube is a dense dot in the mediastinum (lost in a lung window, which
            shows all soft tissue near white), and electrodes are dots on the front of the skin
            (none where the picture begins inside the body).
        view : "PA" or "AP" for the letters {view}; drawn by chance if None.

        Returns
        -------
        (H, W) float32 in [0, 1], or with masks (image, list of masks).

        Raises
        ------
        ValueError : an image outside [0, 1], a mask of another shape, another modality.
        """
        image = unit_image(image)
        if modality not in ("X-ray", "CT"):
            raise ValueError(f"modality={modality!r} must be X-ray or CT")
        kept = [np.asarray(m, bool) for m in masks or ()]
        for mask in kept:
            if mask.shape != image.shape:
                raise ValueError(f"a mask has shape {mask.shape}, the image {image.shape}")
        chance = [np.random.default_rng(s) for s in rng.integers(2**63, size=5)]
        image = self._devices(image.copy(), chance[0], chance[1], modality)
        image = _sharpen(image, self.sharpness)
        image, kept = self._frame(image, kept, chance[2], chance[3], chance[4], view)
        image = corrupt(image, "compressed", self.compression)
        return image if masks is None else (image, kept)

    def _devices(self, image, tubes, electrodes, modality):
        if tubes.random() < self.tubes:
            image = _dense(image, _tubes(image, tubes, modality))
        if electrodes.random() < self.electrodes:
            image = _dense(image, _electrodes(image, electrodes, modality))
        return image

    def _frame(self, image, masks, cropping, lettering, pointing, view):
        """Crop and shrink in one resampling, mark what is left, put the border round it."""
        shape = image.shape
        wide = round(self.border * min(shape))
        inner = tuple(side - 2 * wide for side in shape)
        window = _window(shape, self.crop, cropping)
        image = self._curve(resize(image[window], inner))
        image = self._letters(image, lettering, view)
        if pointing.random() < self.arrows:
            image = _arrows(image, pointing)
        masks = [np.pad(resize_mask(mask[window], inner), wide) for mask in masks]
        return np.pad(image, wide, constant_values=self.border_grey), masks

    def _curve(self, image):
        grey = image if self.gamma == 1 else image**self.gamma
        grey = grey + (self.contrast - 1) * (grey - 0.5) + self.brightness
        return np.clip(grey, 0, 1).astype(np.float32)

    def _letters(self, image, rng, view):
        wanted = rng.random() < self.letters_share
        by_chance = self.view(rng)
        filled = {
            "{view}": view or by_chance,
            "{date}": f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.2020",
            "{time}": f"{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}",
            "{panel}": "ABCD"[rng.integers(4)],
        }
        shift = rng.uniform(0.0, 0.03, 2)
        tilt = rng.uniform(-12.0, 12.0)
        if not wanted:
            return image
        upper, left = "top" in self.corner, "left" in self.corner
        row = 0
        for text in self.letters:
            for token, value in filled.items():
                text = text.replace(token, value)
            if text in ("L", "R"):
                x = 0.07 + shift[0]
                x = 1 - x if text == "L" else x
                image = burn_text(image, text, x, 0.09 + shift[1], self.letter_size, tilt)
                continue
            x, y = 0.03 + shift[0], 0.04 + shift[1] + 1.25 * self.letter_size * (row + 0.3)
            image = burn_text(
                image,
                text,
                x if left else 1 - x,
                y if upper else 1 - y,
                self.letter_size,
                align="left" if left else "right",
            )
            row += 1
        return image


SITES = {
    site.name: site
    for site in (
        Site(),
        Site("university", sharpness=0.3, noise=0.8, contrast=1.1, letters=("L",), ap=0.2),
        Site(
            "bedside",
            noise=1.8,
            sharpness=-0.2,
            contrast=0.75,
            brightness=0.05,
            crop=0.03,
            letters=("R", "PORTABLE", "{view} SUPINE", "{time}"),
            corner="bottom left",
            letter_size=0.045,
            letters_share=0.9,
            tubes=0.7,
            electrodes=0.85,
            ap=1.0,
        ),
        Site(
            "outpatient",
            sharpness=0.5,
            noise=0.7,
            contrast=1.15,
            letters=("L", "{view}"),
            corner="bottom right",
            letter_size=0.05,
        ),
        Site(
            "web",
            sharpness=-0.25,
            contrast=1.2,
            crop=0.12,
            letters=("{panel}",),
            letter_size=0.11,
            letters_share=0.8,
            arrows=0.5,
            electrodes=0.2,
            border=0.03,
            border_grey=1.0,
            compression=0.3,
            ap=0.5,
        ),
        Site(
            "film",
            noise=1.4,
            sharpness=-0.4,
            gamma=0.75,
            contrast=0.65,
            brightness=0.08,
            letters=("L", "{date}"),
            corner="bottom right",
            letter_size=0.05,
            border=0.04,
        ),
    )
}


def named(name: str, known: Mapping[str, Site] = SITES) -> Site:
    """The site of that name among the `known`; ValueError lists them if there is none."""
    if name not in known:
        raise ValueError(f"unknown site {name!r}: known are {', '.join(known)}")
    return known[name]


def site_of(
    label: str,
    sites: Mapping[str, str] | Sequence[str],
    strength: float,
    rng: np.random.Generator,
    known: Mapping[str, Site] = SITES,
) -> str:
    """Name of the site at which one patient with `label` is imaged.

    With probability `strength` the label's own site, otherwise any of the n sites named, each as
    likely: the own site has probability s + (1 - s) / n. Where all labels are as frequent and each
    has a site of its own, Cramér's V between label and site is then expected to be s itself. With
    the same `rng` a larger strength moves a patient to the own site or nowhere.

    Parameters
    ----------
    sites : label → its own site; or a tuple of names, which ties nothing at any strength.
    strength : 0 (site and label independent) to 1 (the site gives the label away).
    rng : this patient's own generator, so that the site depends on no other patient. Two numbers
        are drawn from it, whatever comes out.
    known : the profiles that may be named.

    Raises
    ------
    ValueError : strength outside 0..1, an unknown site, no site for this label, no sites at all.
    """
    names = _names(sites, strength, known)
    if isinstance(sites, Mapping) and label not in sites:
        raise ValueError(f"label {label!r} has no site: sites= names only {', '.join(sites)}")
    tied, which = rng.random(2)
    if isinstance(sites, Mapping) and tied < strength:
        return sites[label]
    return names[int(which * len(names))]


def assign(
    labels: Sequence[str],
    sites: Mapping[str, str] | Sequence[str],
    strength: float,
    rng: np.random.Generator,
    known: Mapping[str, Site] = SITES,
) -> list[str]:
    """One site for each patient, given their labels in order; see `site_of`.

    From the same `rng` the first patients get the same sites however many follow.
    """
    _names(sites, strength, known)
    return [site_of(label, sites, strength, rng, known) for label in labels]


def association(labels: Sequence[str], sites: Sequence[str]) -> float:
    """Cramér's V between label and site: 0 independent, 1 fully tied; 0 if either is constant.

    Not corrected for chance: with few patients it lies above 0 where nothing is tied.
    Raises ValueError for sequences of different or no length.
    """
    from scipy.stats import contingency

    labels, sites = list(labels), list(sites)
    if len(labels) != len(sites) or not labels:
        raise ValueError(f"{len(labels)} labels and {len(sites)} sites: give one of each a patient")
    if len(set(labels)) == 1 or len(set(sites)) == 1:
        return 0.0
    table = contingency.crosstab(labels, sites).count
    return float(contingency.association(table, method="cramer"))


def _names(sites, strength, known) -> list[str]:
    """The sites named, each once; ValueError for one that is unknown or a strength out of range."""
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in 0..1, got {strength}")
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r} must be a mapping or a tuple: ({sites!r},)")
    names = list(dict.fromkeys(sites.values() if isinstance(sites, Mapping) else sites))
    if not names:
        raise ValueError("sites= names no site at all")
    for name in names:
        named(name, known)
    return names


def _window(shape, crop, rng):
    """Rows and columns that stay when `crop` of each is cut off."""
    kept = []
    for side, share in zip(shape, rng.uniform(0.25, 0.75, 2), strict=True):
        cut = round(crop * side)
        first = round(cut * share)
        kept.append(slice(first, first + side - cut))
    return tuple(kept)


def _sharpen(image, sharpness):
    from scipy.ndimage import gaussian_filter

    if sharpness == 0:
        return image
    side = min(image.shape)
    if sharpness < 0:
        return gaussian_filter(image, -0.01 * sharpness * side, mode="nearest")
    soft = gaussian_filter(image, 0.006 * side, mode="nearest")
    return np.clip(image + 1.5 * sharpness * (image - soft), 0, 1)


def _arrows(image, rng):
    """One to three arrows at the lungs, pointing in from anywhere."""
    for _ in range(rng.integers(1, 4)):
        x = 0.5 + rng.choice([-1, 1]) * rng.uniform(0.14, 0.3)
        image = burn_arrow(image, x, rng.uniform(0.3, 0.75), turn=rng.uniform(0, 360))
    return image


def _dense(image, device):
    """A device (H, W) of opacity 0..1 over the body: brighter, never past white."""
    return 1 - (1 - image) * (1 - device)


def _curve_through(points, n=60):
    """(n, 2) on the smooth curve through the points."""
    from scipy.interpolate import make_interp_spline

    points = np.asarray(points, float)
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    spline = make_interp_spline(at, points, k=min(3, len(points) - 1))
    return spline(np.linspace(0, at[-1], n))


class _Pen:
    """Draws in parts of the width and height; widths in parts of the shorter side; opacity 0..1."""

    def __init__(self, draw, shape, scale, shift=0.0):
        self.draw, self.shift = draw, (shift, 0.0)
        self.size = scale * np.array(shape[::-1])
        self.unit = scale * min(shape)

    def line(self, points, width, opacity, aside=0.0):
        """A stroke along the points, moved to its right by `aside`."""
        points = (points + np.asarray(self.shift)) * self.size
        if aside:
            along = np.gradient(points, axis=0)
            along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
            points = points + aside * self.unit * along[:, ::-1] * (-1, 1)
        self.draw.line(
            [tuple(p) for p in points],
            fill=round(255 * opacity),
            width=max(1, round(width * self.unit)),
        )

    def disc(self, point, radius, opacity):
        (x, y), r = (point + np.asarray(self.shift)) * self.size, radius * self.unit
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=round(255 * opacity))


def _tubes(image, rng, modality):
    """Opacity (H, W) of at least one of endotracheal tube, central line and feeding tube."""
    if modality == "CT":
        x, y = rng.uniform(0.47, 0.53), rng.uniform(0.5, 0.58)
        return drawn(
            image.shape, lambda draw, k: _Pen(draw, image.shape, k).disc((x, y), 0.009, 0.95)
        )
    shift = _midline(image) - 0.5
    kinds = (_endotracheal, _central_line, _feeding_tube)
    there = rng.random(3) < (0.7, 0.75, 0.6)
    there[rng.integers(3)] = True
    wobble = [rng.normal(0, 0.008, 6) for _ in kinds]

    def paint(draw, k):
        pen = _Pen(draw, image.shape, k, shift)
        for kind, wanted, jitter in zip(kinds, there, wobble, strict=True):
            if wanted:
                kind(pen, jitter)

    return drawn(image.shape, paint)


def _midline(image):
    """Where the upper mediastinum stands, part of the width: brightest between the lung tips."""
    from scipy.ndimage import gaussian_filter1d

    height, width = image.shape
    columns = image[round(0.15 * height) : round(0.4 * height)].mean(0)
    smooth = gaussian_filter1d(columns, 0.05 * width, mode="nearest")
    first, last = round(0.4 * width), round(0.6 * width)
    return (first + int(np.argmax(smooth[first:last])) + 0.5) / width


def _endotracheal(pen, jitter):
    """Down the trachea, its tip some centimetres above the carina; a stripe along one wall."""
    a, b, c, tip, *_ = jitter
    path = _curve_through(
        [(0.5 + 2 * a, -0.02), (0.5 + b, 0.1), (0.495 + c, 0.2), (0.495 + c, 0.3 + 3 * tip)]
    )
    pen.line(path, 0.022, 0.12)
    for side in (-1, 1):
        pen.line(path, 0.003, 0.25, side * 0.0105)
    pen.line(path, 0.005, 0.6, 0.007)


def _central_line(pen, jitter):
    """From the right internal jugular or subclavian vein (image left) into the upper vena cava."""
    a, b, c, d, tip, which = jitter
    if which > 0:
        start = [(0.36 + 3 * a, -0.02), (0.41 + b, 0.09), (0.435 + c, 0.17)]
    else:
        start = [(0.12 + 3 * a, 0.2 + b), (0.22 + a, 0.15 + b), (0.35 + c, 0.125), (0.425, 0.19)]
    path = _curve_through([*start, (0.445 + d / 2, 0.29), (0.447 + d, 0.4 + 2 * tip)])
    pen.line(path, 0.006, 0.42)


def _feeding_tube(pen, jitter):
    """Down the gullet, past the left of the heart, into the stomach (image right, low)."""
    a, b, c, d, e, tip = jitter
    path = _curve_through(
        [
            (0.515 + a, -0.02),
            (0.51 + b, 0.2),
            (0.515 + c, 0.45),
            (0.53 + c, 0.68),
            (0.575 + d, 0.84),
            (0.63 + e, 0.92 + tip),
            (0.66 + 2 * e, 1.02),
        ]
    )
    pen.line(path, 0.011, 0.22)
    pen.line(path, 0.004, 0.6, 0.003)


def _electrodes(image, rng, modality):
    """Opacity (H, W) of ECG electrodes; on an X-ray with wires that leave the picture together."""
    if modality == "CT":
        return _skin_dots(image, rng)
    places = np.array([(0.2, 0.17), (0.8, 0.16), (0.83, 0.7), (0.2, 0.74), (0.6, 0.52)])
    places = (places + rng.normal(0, 0.02, (5, 2)))[: rng.integers(3, 6)]
    side = rng.choice([0, 1])
    exit_ = np.array([(-0.02, 1.02)[side], rng.uniform(0.6, 0.95)])
    slack = rng.uniform(-0.12, 0.12, (5, 4))

    def paint(draw, k):
        pen = _Pen(draw, image.shape, k)
        for i, (place, bend) in enumerate(zip(places, slack, strict=False)):
            end = exit_ + (0, 0.012 * i)
            a = place + 0.3 * (end - place) + bend[:2] + (0, 0.06)
            b = place + 0.7 * (end - place) + bend[2:] * 0.7 + (0, 0.05)
            pen.line(_curve_through([place, a, b, end]), 0.0035, 0.45)
        for place in places:
            pen.disc(place, 0.021, 0.22)
            pen.disc(place, 0.009, 0.85)
            pen.disc(place, 0.0035, 0.45)

    return drawn(image.shape, paint)


def _skin_dots(image, rng):
    """Dense dots where the body begins, seen from the front (the upper edge)."""
    columns = (rng.uniform([0.25, 0.6], [0.4, 0.75]) * image.shape[1]).astype(int)
    first = [(x, int(np.argmax(image[:, x] > 0.5))) for x in columns]
    at = [((x + 0.5) / image.shape[1], y / image.shape[0]) for x, y in first if y > 0]

    def paint(draw, k):
        for place in at:
            _Pen(draw, image.shape, k).disc(place, 0.011, 0.95)

    return drawn(image.shape, paint)
