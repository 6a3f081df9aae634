"""The chest X-ray of a phantom patient: Beer-Lambert projection of the same body.

Rays diverge from a focus to a flat detector; tissue is taken as water of the density that its
Hounsfield units say (linear attenuation mu = mu_water (1 + HU / 1000), bone weighted up, as the
phantom's bones are those of a smooth 120 kVp CT). Scatter, grain and the grey curve follow. Chosen
by us: mu_water for 60 keV, the amounts of scatter and the shape of the grey curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .body import BLOOD, CORTEX, MARROW
from .shapes import project_tubes

VIEWS = ("PA", "AP")
MU_WATER = 0.0206  # 1/mm at 60 keV (NIST XCOM)
_FOCUS = {"PA": 1800.0, "AP": 1100.0}  # mm from focus to detector
_SCATTER = {"PA": 0.25, "AP": 0.9}  # with a grid, and at the bedside without
_BONE = 1.4
_GRID = (2.5, 5.0, 2.5)  # mm: z, y, x
_BLOCK = 12  # heights that are drawn at once, to stay in the processor's cache
_VISIBLE = 6.0  # mm of water that an opacity must add to count in a mask
_MAIN_AIRWAYS = 7


@dataclass(frozen=True)
class Radiograph:
    """One frontal chest X-ray; arrays (H, W), the patient's right on the image's left.

    `image`: float32 0..1, bone white. `right`, `left`: bool, the lung fields as a reader would
    outline them (where a ray meets more lung than heart, mediastinum or abdomen); `lungs`: the
    whole shadow of the lungs, behind heart and diaphragm too. `infection`, `effusion`: bool, where
    they add at least 6 mm of water; `added`: float32, the mm of water that infection adds.
    `involvement`: infected part of the lung fields, 0..1; `severity`: of the lung volume. They are
    not the same, and only the second is the patient's.
    """

    image: np.ndarray
    right: np.ndarray
    left: np.ndarray
    lungs: np.ndarray
    infection: np.ndarray
    effusion: np.ndarray
    added: np.ndarray
    severity: float
    view: str
    spacing: float  # mm per pixel at the detector

    @property
    def lung(self) -> np.ndarray:
        return self.right | self.left

    @property
    def involvement(self) -> float:
        return float((self.infection & self.lung).sum() / max(1, self.lung.sum()))


def project(
    patient,
    size: int = 256,
    *,
    view: str = "PA",
    dose: float = 1.0,
    scatter: float = 1.0,
    gamma: float | None = None,
    contrast: float | None = None,
) -> Radiograph:
    """The X-ray of `patient`, `size` pixels square.

    Parameters
    ----------
    view : "PA" (standing, detector at the chest, focus 1.8 m away) or "AP" (lying, detector at the
        back, 1.1 m: the heart is larger, fluid runs to the back, the shoulder blades lie over the
        lungs, more scatter).
    dose, scatter : factors on the number of photons and on the scattered ones.
    gamma, contrast : of the grey curve, above 1 darker, and steeper round the middle; None draws
        one near 1 for the patient.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r} must be one of {', '.join(VIEWS)}")
    if not 32 <= size <= 1024:
        raise ValueError(f"size must lie in 32..1024 pixels, got {size}")
    for name, value in (("dose", dose), ("contrast", contrast), ("gamma", gamma)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if not scatter >= 0:
        raise ValueError(f"scatter must not be negative, got {scatter}")
    rng = patient.random(VIEWS.index(view))
    geometry = _Geometry(patient.body, size, view, rng)
    paths = _paths(patient, geometry, standing=view == "PA")
    image = _expose(paths["water"], geometry, rng, dose, scatter * _SCATTER[view])
    usual = np.exp(rng.uniform(-0.25, 0.25, 2))
    gamma = float(usual[0]) if gamma is None else gamma
    contrast = float(usual[1]) if contrast is None else contrast
    image = _develop(image, size, contrast, gamma)

    lungs = paths["lung"] > 4.0
    field = paths["lung"] > 1.15 * paths["solid"] + 12.0
    middle = paths["side"] < 0
    infection = (paths["added"] >= _VISIBLE) & lungs
    return Radiograph(
        image=image,
        right=field & middle,
        left=field & ~middle,
        lungs=lungs,
        infection=infection,
        effusion=paths["fluid"] >= _VISIBLE,
        added=paths["added"].astype(np.float32),
        severity=patient.severity,
        view=view,
        spacing=geometry.px,
    )


class _Geometry:
    """Where the rays go: grid of the body in mm, pixels of the detector, magnification."""

    def __init__(self, body, size, view, rng):
        self.size, self.view = size, view
        front = body.depth + 25.0 + 0.75 * body.fat
        self.y = np.arange(-front - 12.0, front + 24.0, _GRID[1])
        detector = -front - 30.0 if view == "PA" else front + 60.0
        away = np.abs(self.y - detector)
        self.zoom = _FOCUS[view] / (_FOCUS[view] - away)  # (H,)
        self.zoom_at = lambda y: _FOCUS[view] / (_FOCUS[view] - np.abs(y - detector))
        side = 2.0 * (body.width + 16.0) * float(rng.uniform(1.12, 1.42))
        low, high = min(body.domes) - 62.0 * body.tall, body.top
        middle = 0.5 * (low + high) + float(rng.uniform(0.0, 14.0))
        side = max(side, 1.06 * (high - low))
        self.px = side / size
        grid = (np.arange(size) + 0.5) * self.px - side / 2
        self.u = grid + float(rng.uniform(-0.02, 0.02)) * side
        self.v = middle * float(self.zoom.mean()) - grid  # rows, head first
        self.x = np.arange(self.u[0] - 4.0, self.u[-1] + 4.0, _GRID[2])
        self.z = np.arange(self.v[-1] - 4.0, self.v[0] + 4.0, _GRID[0])

    def spread(self, volume, pool):
        """Sum over y of a volume (D, H, W), each plane magnified on to the detector (size, size)."""
        total = 0.0
        for i in range(0, len(self.y), pool):
            slab = volume[:, i : i + pool].sum(1)
            zoom = self.zoom[i : i + pool].mean()
            rows = _linear(self.v / zoom, self.z)
            columns = _linear(self.u / zoom, self.x)
            total = total + _resample(_resample(slab, *rows).T, *columns).T
        return total * _GRID[1]

    def magnify(self, tubes):
        """Tubes as the detector sees them."""
        zoom = self.zoom_at(tubes[:, 1] + 0.5 * tubes[:, 4])[:, None]
        out = tubes * zoom
        out[:, [1, 4]] = tubes[:, [1, 4]]
        return out


def _linear(at, grid):
    """Lower neighbour and weight of the upper one, for each of `at` on an even grid."""
    t = np.clip((at - grid[0]) / (grid[1] - grid[0]), 0.0, len(grid) - 1.001)
    low = t.astype(int)
    return low, (t - low)[:, None].astype(np.float32)


def _resample(array, low, weight):
    lower = array[low]
    return lower + weight * (array[low + 1] - lower)


def _paths(patient, geometry, standing):
    """Lengths in mm along each ray, (size, size): `water` (all attenuation, as water), `lung`,
    `solid` (heart, vessels, abdomen), `added` (water added by infection), `fluid`; and `side`."""
    body, g = patient.body, geometry
    shape = (len(g.z), len(g.y), len(g.x))
    water, lung, solid, added, fluid = (np.empty(shape, np.float32) for _ in range(5))
    ill = bool(patient.illness.lesions or patient.illness.fluid)
    gx, gy = g.x.astype(np.float32), g.y.astype(np.float32)
    for i in range(0, len(g.z), _BLOCK):
        part = slice(i, i + _BLOCK)
        z = g.z[part].astype(np.float32)[:, None, None]
        x, y = body.from_scanner(gx[None, None, :], gy[None, :, None], z)
        hu, inside, (wall, organs, _, dome, level) = body.tissue(x, y, z, 2.5, view=g.view)
        added[part] = fluid[part] = 0.0
        if ill:
            rough = body.roughness(g.x, g.y, g.z[part]).astype(np.float32)
            healthy = hu.copy()
            masks = patient.illness.paint(
                hu, inside, x, y, z, wall, level, rough, 0.0, standing=standing
            )
            sick = masks["ground_glass"] | masks["consolidation"]
            added[part] = np.where(sick, (hu - healthy) / 1000.0, 0.0)
            fluid[part] = masks["effusion"]
            inside = inside * ~masks["effusion"]
        density = np.maximum(1.0 + hu / 1000.0, 0.0)
        water[part] = density + (_BONE - 1.0) * np.maximum(hu - 75.0, 0.0) / 1000.0
        lung[part] = inside
        inner = np.minimum(organs, dome) < 0
        solid[part] = inner & (wall < 0) & (inside < 0.5)
    paths = {"water": g.spread(water, 2), "lung": g.spread(lung, 4), "solid": g.spread(solid, 4)}
    nothing = np.zeros((g.size, g.size), np.float32)
    paths["added"] = g.spread(added, 4) if patient.severity else nothing
    paths["fluid"] = g.spread(fluid, 4) if patient.effusion else nothing
    vessels, airways = g.magnify(body.vessels), g.magnify(body.airways[-_MAIN_AIRWAYS:])
    weight = (BLOOD - body.lung_hu) / 1000.0
    paths["water"] += project_tubes(vessels, g.u, g.v, weight)
    paths["water"] -= 0.95 * project_tubes(airways, g.u, g.v)
    paths["water"] += _bones(g, *body.bones())
    middle = float(g.zoom.mean())
    paths["side"] = body.from_scanner(g.u[None, :] / middle, 0.0, g.v[:, None] / middle)[0]
    return paths


def _bones(geometry, tubes, flat):
    """Water that ribs and collar bones add: a shell of 2 mm round marrow."""
    tubes = geometry.magnify(tubes)
    core = tubes.copy()
    core[:, 6:] -= 2.0
    radius, inner = tubes[:, 6], core[:, 6]
    shell = _BONE * CORTEX / 1000.0
    thin = np.maximum(flat * radius - 2.0, 0.3) / inner  # how flat the core is
    outer = project_tubes(tubes, geometry.u, geometry.v, flat * shell)
    return outer - project_tubes(
        core, geometry.u, geometry.v, thin * (shell - _BONE * MARROW / 1e3)
    )


def _expose(water, geometry, rng, dose, scatter):
    """Log signal of the detector: primary and scattered photons, with their grain."""
    primary = np.exp(-MU_WATER * np.maximum(water, 0.0))
    body = water > 8.0
    wide = gaussian_filter(np.where(body, primary, 0.0), 38.0 / geometry.px, truncate=3.0)
    signal = primary + scatter * wide
    photons = 8.0e4 * dose * (geometry.px / 1.5) ** 2
    signal = signal + np.sqrt(signal / photons) * rng.standard_normal(signal.shape)
    signal = gaussian_filter(signal, 0.45, truncate=3.0)  # the detector's own blur
    return -np.log(np.maximum(signal, 1e-4))


def _develop(density, size, contrast, gamma):
    """Grey 0..1 as a workstation would show it: unsharp mask, range of the chest, grey curve."""
    sharp = density + 0.5 * (density - gaussian_filter(density, size / 24.0, truncate=3.0))
    chest = sharp[density > 0.3]
    low, high = np.percentile(chest, (3.0, 97.0)) if chest.size else (0.0, 1.0)
    t = 0.16 + 0.74 * (sharp - low) / max(high - low, 1e-3)
    t = 0.5 + contrast * (t - 0.5)
    # Straight in the middle, with the toe and the shoulder of a film.
    t = np.where(t > 0.8, 1.0 - 0.2 * np.exp(-(t - 0.8) / 0.2), t)
    t = np.where(t < 0.2, 0.2 * np.exp((t - 0.2) / 0.2), t)
    return (t**gamma).astype(np.float32)
