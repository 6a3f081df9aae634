"""A drawn thorax: seeded chest CT slices whose lungs and infection are known exactly.

Every patient is an implicit body in millimetres that can be cut at any height and on any grid; no
image of a real person went into it. It exists to teach, to test and to show what a method does
when the truth is known. Nothing measured on it says anything about clinical accuracy.

Axes: x grows to the image's right (the patient's left), y to the back (image bottom), z to the
head; z = 0 is the tracheal bifurcation.

What the drawing rests on. Parenchyma near -860 HU with a few tens of HU more in the dependent
lung; fat -100, soft tissue 30 to 60, bone above 150 HU: textbook values. COVID-19 pneumonia:
bilateral, subpleural, posterior and lower-lobe ground glass, later mixed with consolidation and
crazy paving, as reported in 2020 by Bernheim et al. (Radiology, doi:10.1148/radiol.2020200463),
Shi et al. (Lancet Infect Dis, doi:10.1016/S1473-3099(20)30086-4) and many since; a fifth or so of
mild cases one-sided. Ground glass is taken as -700 to -400 HU, consolidation as -100 to 50 HU.
How often each look-alike occurs, and every shape, was chosen by us to look right; it is not
epidemiology.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

WINDOW = (-1350.0, 150.0)  # HU at grey 0 and 255, the lung window of COVID-CT-MD
MIN_INFECTED = 0.015  # least infected part of the lung area in any slice labelled COVID
CLASSES = ("COVID", "NonCOVID")

_AIR, _FAT, _MUSCLE, _BLOOD, _CORTEX = -1000.0, -100.0, 45.0, 42.0, 450.0
_WIDTH, _DEPTH = 120.0, 82.0  # half width and half depth of the reference pleural cavity, mm

# Great vessels and other round columns of the mediastinum in the reference thorax:
# (z, x, y, radius) in mm from low to high; a column ends where its radius is 0.
_COLUMNS = {
    "ascending aorta": [(-45, -2, -22, 0), (-35, -4, -26, 14), (25, -8, -36, 16), (48, -8, -25, 0)],
    "descending aorta": [(-220, 8, 24, 10), (-60, 20, 29, 11), (30, 27, 28, 12), (46, 24, 22, 0)],
    "superior cava": [
        (-50, -30, -14, 0),
        (-40, -30, -16, 13),
        (0, -28, -26, 10),
        (95, -30, -20, 8),
    ],
    "pulmonary trunk": [(-50, 14, -34, 0), (-38, 16, -36, 14), (-5, 24, -32, 14), (8, 28, -22, 0)],
    "left hilum": [(-52, 42, 14, 0), (-38, 42, 14, 8), (0, 40, 8, 10), (10, 36, 4, 0)],
    "right hilum": [(-52, -32, 12, 0), (-40, -34, 11, 7), (-10, -36, 6, 10), (2, -32, 2, 0)],
    "left atrium": [(-66, 2, 8, 0), (-54, 4, 6, 21), (-35, 2, 5, 19), (-24, 2, 4, 0)],
    "left carotid": [(40, 14, -12, 0), (50, 16, -12, 6), (120, 26, -6, 6)],
    "left subclavian": [(40, 26, 2, 0), (50, 27, 4, 6), (120, 40, 0, 6)],
    "inferior cava": [(-220, -20, 2, 12), (-88, -22, -4, 12), (-78, -20, -4, 0)],
    "oesophagus": [(-220, 12, 8, 7), (-60, 6, 13, 7), (120, 5, 19, 6)],
}


@dataclass(frozen=True)
class Slice:
    """One cut: `hu` float32 (H, W) in Hounsfield units; `lung` and `infection` bool (H, W)."""

    hu: np.ndarray
    lung: np.ndarray
    infection: np.ndarray


@dataclass(frozen=True)
class _Lesion:
    """Ellipsoids with a noisy edge; the disease is where their common level exceeds `cut`."""

    centres: np.ndarray  # (n, 3) mm, anatomical
    radii: np.ndarray  # (n, 3) mm
    depth: float  # mm under the chest wall over which the level falls by 1 (inf: no preference)
    rough: float  # edge noise, in units of level
    soft: float  # width of the edge, in units of level
    hu: float  # of the opacity
    core_hu: float  # of its densest part
    core: float = np.inf  # level at which the core begins
    cut: float = 0.0
    lines: float = 0.0  # HU that thickened septa add
    infection: bool = False

    def level(self, x, y, z, depth, noise):
        """How deep in the lesion each point lies; arrays broadcast."""
        best = np.inf
        for (cx, cy, cz), (rx, ry, rz) in zip(self.centres, self.radii, strict=True):
            d = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2
            best = np.minimum(best, d)
        return 1.0 - np.sqrt(best) - depth / self.depth + self.rough * noise


def _smin(a, b, k):
    """Minimum with its corner rounded over k."""
    h = np.maximum(k - np.abs(a - b), 0.0)
    return np.minimum(a, b) - h * h / (4.0 * k)


def _norm(u, v, s=0.0):
    """Norm whose unit ball is a circle at s = 0 and a square at s = 1."""
    u2, v2 = u * u, v * v
    w = u2 + v2
    if s == 0.0:
        return np.sqrt(w)
    return np.sqrt(0.5 * (w + np.sqrt(np.maximum(w * w - (4.0 * s * s) * u2 * v2, 0.0))))


def _oval(x, y, rx, ry, s=0.0):
    """Signed distance in mm to an oval round the origin, measured along the radius."""
    return _norm(x, y) * (1.0 - 1.0 / np.maximum(_norm(x / rx, y / ry, s), 1e-3))


def _capsule(x, y, x0, y0, x1, y1):
    """Distance in mm to the segment (x0, y0)-(x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return _norm(x - x0 - t * dx, y - y0 - t * dy)


def _bump(z, low, high):
    """Cross-section radius, 0..1, of a unit ellipsoid that reaches from low to high."""
    t = (2.0 * z - low - high) / (high - low)
    return np.sqrt(np.maximum(1.0 - t * t, 0.0))


def _noise(lattice, x, y, z, spacing):
    """Smooth unit-variance noise at the grid z (D,), y (H,), x (W,): cubic B-spline, periodic."""
    for axis, v in enumerate((z, y, x)):
        n = lattice.shape[axis]
        i = np.floor(v / spacing)
        t = v / spacing - i
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        shape = [1, 1, 1]
        shape[axis] = -1
        # Four taps written out: the same sum in the same order on every machine, as BLAS is not.
        lattice = sum(
            np.take(lattice, (i.astype(int) + j - 1) % n, axis) * (w / 6).reshape(shape)
            for j, w in enumerate(weights)
        )
    return lattice / 0.335


def _over(hu, distance, value, px):
    """Paint `value` where distance < 0, mixed over one pixel at the edge (partial volume)."""
    hu += np.clip(0.5 - distance / px, 0.0, 1.0) * (value - hu)


def _draw_tubes(tubes, z, x, y):
    """Coverage 0..1 (H, W) of tapering tubes (x, y, z, dx, dy, dz, r0, r1) cut at height z."""
    cover = np.zeros(y.size * x.size)
    px = x[1] - x[0]
    wide = np.maximum(tubes[:, 6], tubes[:, 7]) + 0.5 * px
    low = np.minimum(tubes[:, 2], tubes[:, 2] + tubes[:, 5]) - wide
    high = np.maximum(tubes[:, 2], tubes[:, 2] + tubes[:, 5]) + wide
    near = (low < z) & (z < high)
    tubes, wide = tubes[near], wide[near]
    # The part of each tube that can touch this plane, and the square of pixels that holds it.
    dz = np.where(np.abs(tubes[:, 5]) < 1e-6, 1e-6, tubes[:, 5])
    ends = np.clip((z - tubes[:, 2] + np.stack([-wide, wide])) / dz, 0.0, 1.0)
    ex = tubes[:, 0] + ends * tubes[:, 3]
    ey = tubes[:, 1] + ends * tubes[:, 4]
    col = np.floor((ex.min(0) - wide - x[0]) / px).astype(int)
    row = np.floor((ey.min(0) - wide - y[0]) / px).astype(int)
    extent = np.maximum(np.ptp(ex, axis=0), np.ptp(ey, axis=0)) + 2 * wide
    side = np.ceil(extent / px).astype(int) + 2
    for s, least in ((6, 0), (9, 6), (14, 9), (24, 14), (48, 24), (1 << 12, 48)):
        t = (side > least) & (side <= s)
        if not t.any():
            continue
        step = np.arange(min(s, side[t].max()))
        c = (col[t, None] + step)[:, None, :]
        r = (row[t, None] + step)[:, :, None]
        x0, y0, z0, dx, dy, dz, r0, r1 = (v[:, None, None] for v in tubes[t].T)
        qx, qy, qz = x[0] + px * c - x0, y[0] + px * r - y0, z - z0
        f = np.clip((qx * dx + qy * dy + qz * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
        d = np.sqrt((qx - f * dx) ** 2 + (qy - f * dy) ** 2 + (qz - f * dz) ** 2)
        radius = r0 + f * (r1 - r0)
        value = np.clip(0.5 - (d - radius) / px, 0.0, 1.0) * np.minimum(1.0, 2.0 * radius / px)
        value *= (c >= 0) & (c < x.size) & (r >= 0) & (r < y.size)
        hit = value > 0
        np.maximum.at(cover, (r * x.size + c)[hit], value[hit])
    return cover.reshape(y.size, x.size)


def _grow_tree(root, points):
    """Tubes (x, y, z, dx, dy, dz, r0, r1) of a vessel tree from `root` to all `points` (n, 3).

    Each point hangs on that neighbour nearer to the root which makes the way there shortest;
    radii follow Murray's law from the number of ends a branch feeds.
    """
    reach = np.linalg.norm(points - root, axis=1)
    order = np.argsort(reach, kind="stable")
    nodes, reach = np.vstack([root, points[order]]), np.r_[0.0, reach[order]]
    gap, near = cKDTree(nodes).query(nodes, k=min(20, len(nodes)))
    cost = gap + 2.0 * (reach[near] + gap - reach[:, None])
    cost[near >= np.arange(len(nodes))[:, None]] = np.inf
    best = np.argmin(cost, axis=1)
    rows = np.arange(len(nodes))
    parent = np.where(np.isfinite(cost[rows, best]), near[rows, best], 0)
    ends = [1] * len(nodes)
    for child in range(len(nodes) - 1, 0, -1):
        ends[parent[child]] += ends[child]
    radius = np.minimum(0.5 * np.array(ends) ** 0.36, 6.0)
    start, r0 = nodes[parent[1:]], np.minimum(radius[parent[1:]], 1.25 * radius[1:])
    return np.column_stack([start, nodes[1:] - start, r0, radius[1:]])


class Patient:
    """One drawn patient; made by `patient`.

    Attributes: `covid`; `severity`, infected part of the lung volume 0..1; `fov`, side of the
    square field of view in mm; `findings`, names of what else was drawn.
    """

    def __init__(self, k: int, seed: int, prevalence: float, difficulty: float):
        self.k = k
        self.patient_id = f"phantom_{k:04d}"
        self.covid = is_covid(k, prevalence)
        body, disease, self._grain = np.random.SeedSequence(seed, spawn_key=(k,)).spawn(3)
        self._build(np.random.default_rng(body), difficulty)
        self._infect(np.random.default_rng(disease), difficulty)

    # ---- anatomy ---------------------------------------------------------------------------

    def _build(self, rng, difficulty):
        self.female = rng.random() < 0.5
        size = rng.normal(0.95 if self.female else 1.03, 0.045)
        self.width = _WIDTH * size * rng.uniform(0.95, 1.07)
        self.depth = _DEPTH * size * rng.uniform(0.90, 1.10)
        self.tall = size * rng.uniform(0.94, 1.06)
        self.fat = np.clip(rng.gamma(4.0, 3.2 if not self.female else 4.2), 4.0, 36.0)
        self.breast = rng.uniform(0.5, 1.1) if self.female else 0.0
        self.breath = rng.uniform(-12.0, 8.0)  # shift of the diaphragm, mm
        self.angle = np.deg2rad(rng.uniform(-5.0, 5.0))
        self.lean = rng.uniform(-0.06, 0.06, 2)  # shift in x and y for each mm of z
        self.heart_size = rng.uniform(0.86, 1.08)
        self.domes = -84.0 * self.tall + self.breath + np.array([0.0, rng.uniform(-16.0, -4.0)])
        self.rib = (rng.uniform(0.0, 1.0), rng.uniform(23.0, 27.0), rng.uniform(75.0, 105.0))
        self.top = 92.0 * self.tall
        self.lung_hu = rng.uniform(-885.0, -835.0) - 2.0 * self.breath
        self.gravity = rng.uniform(20.0, 55.0)
        self.texture = rng.uniform(8.0, 18.0)
        self.blur = rng.uniform(0.35, 0.65)  # reconstruction kernel, pixels
        self.grain = rng.uniform(14.0, 50.0) * (0.55 + 0.9 * difficulty)  # HU
        outer = 2.0 * (self.width + 25.0 + self.fat)
        self.fov = outer * rng.uniform(0.86, 1.08)
        self.shift = rng.uniform(-0.02, 0.02, 2) * self.fov
        self.table = rng.uniform(4.0, 16.0) if rng.random() < 0.8 else np.inf
        self.gas = rng.uniform(4.0, 40.0)  # level of the gas in the stomach
        self._lattice = rng.standard_normal((32, 32, 32))
        self._survey(rng)
        self._vessels(rng)

    def _anatomical(self, x, y, z):
        """Scanner to body coordinates."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        x, y = x - self.lean[0] * z, y - self.lean[1] * z
        return c * x + s * y, c * y - s * x

    def _scanner(self, tubes):
        """The same tubes in scanner coordinates."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        out = tubes.copy()
        for i in (0, 3):
            x, y, z = tubes[:, i], tubes[:, i + 1], tubes[:, i + 2]
            out[:, i] = c * x - s * y + self.lean[0] * z
            out[:, i + 1] = s * x + c * y + self.lean[1] * z
        return out

    def _wall(self, x, y, z):
        """Signed distance in mm to the inner chest wall, negative inside."""
        t = np.clip((self.top - z) / (0.72 * (self.top + 130.0 * self.tall)), 0.0, 1.0)
        grow = (1.0 - (1.0 - t) ** 2.6) ** 0.6 + 1e-3
        mid = 0.42 * self.width
        u, v = np.abs(x) - mid, (y - 14.0 * (1.0 - grow)) / (grow * self.depth)
        lateral = (self.width - mid) * (1.0 + 0.08 * np.clip(v, -1.0, 1.0))
        norm = _norm(u / (grow * np.where(u > 0, lateral, 1.75 * mid)), v, 0.5)
        return _norm(u, v * grow * self.depth) * (1.0 - 1.0 / np.maximum(norm, 1e-3))

    def _mediastinum(self, x, y, z):
        """Signed distances in mm to (heart and vessels, all that parts the lungs)."""
        sx, sy, sz = self.width / _WIDTH, self.depth / _DEPTH, self.tall
        x, y, z = x / sx, y / sy, z / sz
        h = self.heart_size
        r = np.maximum(_bump(z, -122.0, -6.0), 1e-3)
        c, s = 0.84, -0.54
        hx, hy = x - 24.0 * h, y + 22.0
        organs = _oval(c * hx + s * hy, c * hy - s * hx, 58.0 * h * r, 43.0 * h * r)
        for column in _COLUMNS.values():
            at, cx, cy, cr = np.array(column, float).T
            radius = np.interp(z, at, cr)
            if np.any(radius > 0):
                d = _norm(x - np.interp(z, at, cx), y - np.interp(z, at, cy))
                organs = np.minimum(organs, np.where(radius > 0, d - radius, 99.0))
        for low, high, thick, ends in (
            (22.0, 50.0, 12.0, (-8, -30, 25, 24)),  # aortic arch
            (-24.0, -2.0, 9.0, (22, -30, -36, 4)),  # right pulmonary artery
        ):
            radius = thick * _bump(z, low, high)
            if np.any(radius > 0):
                d = _capsule(x, y, *ends) - radius
                organs = np.minimum(organs, np.where(radius > 0, d, 99.0))
        side = np.abs(x)
        high = np.clip((z - 20.0) / 50.0, 0.0, 1.0)
        belly = np.clip((self.domes.max() / sz - 12.0 - z) / 24.0, 0.0, 1.0)
        middle = side - np.where(y > -30.0, 13.0 + 12.0 * high, 5.0 + 16.0 * high)
        middle = np.minimum(middle, np.maximum(side - 56.0 * belly, y - 8.0))
        spine = 0.9 * (side - 19.0 - 0.36 * np.maximum(y - 30.0, 0.0))
        spine = np.maximum(spine, 0.9 * (20.0 - y))
        parts = _smin(_smin(organs - 3.0, middle, 12.0), spine, 10.0)
        return organs, parts

    def _dome(self, x, y, z):
        """Signed distance in mm to the diaphragm, negative below it."""
        right = x < 0
        top = np.where(right, self.domes[0], self.domes[1])
        w = (top - z) / (64.0 * self.tall)
        q = _norm(
            (np.abs(x) - 0.54 * self.width) / (0.56 * self.width),
            (y + 0.30 * self.depth) / (0.98 * self.depth),
        )
        return (q - np.sign(w) * np.sqrt(np.abs(w))) * 0.6 * self.width

    def _regions(self, x, y, z):
        """(wall, organs, parts, dome, lung): signed distances in mm at body coordinates."""
        wall, dome = self._wall(x, y, z), self._dome(x, y, z)
        organs, parts = self._mediastinum(x, y, z)
        lung = -_smin(_smin(-wall - 1.5, parts, 8.0), dome, 8.0)
        return wall, organs, parts, dome, lung

    def _survey(self, rng):
        """Cut the whole chest coarsely once: volumes, areas and places are read from here."""
        w, d = self.width + 12.0, self.depth + 16.0
        x, y = np.arange(-w, w, 6.5), np.arange(-d, d, 6.5)
        z = np.arange(self.domes.min() - 95.0 * self.tall, self.top, 5.5)
        self._heights = z
        zz = z[:, None, None]
        ax, ay = self._anatomical(x[None, None, :], y[None, :, None], zz)
        wall, _, _, _, lung = self._regions(ax, ay, zz)
        inside = lung < 0
        self._where = inside  # (D, H, W)
        self._spots = np.column_stack(
            [ax[inside], ay[inside], np.broadcast_to(zz, ax.shape)[inside]]
        )
        self._under = -wall[inside]  # depth under the chest wall
        self._within = -lung[inside]  # depth under any pleura
        self._coarse = self._roughness(x, y, z)[inside]

    def _roughness(self, x, y, z):
        """Noise that frays the edges of lesions, (D, H, W)."""
        broad = _noise(self._lattice, x, y, z, 17.0)
        return broad + 0.5 * _noise(self._lattice[::-1], x, y, z, 7.0)

    def _vessels(self, rng):
        """Vessel and airway trees, in scanner coordinates."""
        sx, sy, sz = self.width / _WIDTH, self.depth / _DEPTH, self.tall
        at, scale = self._spots, np.array([sx, sy, sz])
        trees, airways = [], []
        hila = {-1: [(-36, 8, -14), (-26, 12, -42)], 1: [(38, 8, -8), (28, 12, -40)]}
        for side, roots in hila.items():  # an arterial and a venous tree on each side
            pool = np.flatnonzero((self._within > 4.0) & (side * at[:, 0] > 0))
            for i, root in enumerate(roots):
                pick = rng.choice(pool, min(pool.size, 1300), replace=False)
                points = at[pick] + rng.uniform(-3.2, 3.2, (pick.size, 3))
                tree = _grow_tree(np.multiply(root, scale), points)
                trees.append(tree)
                if i == 0:  # bronchi run beside the arteries
                    wide = tree[tree[:, 7] > 1.7].copy()
                    wide[:, :2] += np.array([-side, 1.0]) * (1.3 * wide[:, 7:8] + 1.0)
                    wide[:, 6:] *= 0.62
                    airways.append(wide)
        bore = 1.0 if not self.female else 0.88
        main = [  # start, end, radii
            ((-1, 4, 130), (-1, 6, 4), 8.5, 8.0),
            ((-1, 6, 4), (-30, 10, -20), 7.0, 6.0),
            ((-1, 6, 4), (36, 12, -26), 6.5, 5.5),
            ((-30, 10, -20), (-44, 18, -48), 5.0, 3.2),
            ((-30, 10, -20), (-58, -12, -6), 4.0, 2.4),
            ((36, 12, -26), (50, 20, -54), 4.6, 3.0),
            ((36, 12, -26), (60, -10, -16), 3.8, 2.2),
        ]
        rows = []
        for start, end, r0, r1 in main:
            a, b = np.multiply(start, scale), np.multiply(end, scale)
            rows.append([*a, *(b - a), bore * r0, bore * r1])
        self._tree = self._scanner(np.vstack(trees))
        self._airways = self._scanner(np.vstack([*airways, rows]))

    # ---- disease ---------------------------------------------------------------------------

    def _lesion(self, volume=None, core=0.0, **given):
        """A lesion; with `volume` its cut is set so that it fills this part of the lungs."""
        lesion = _Lesion(**given)
        level = lesion.level(*self._spots.T, self._under, self._coarse)
        cut = lesion.cut if volume is None else np.quantile(level, 1.0 - volume)
        sick = level[level > cut]
        core = np.quantile(sick, 1.0 - core) if core > 0 and sick.size else np.inf
        return _Lesion(**{**given, "cut": cut, "core": core}), level > cut

    def _pick(self, rng, n, weight):
        return self._spots[rng.choice(len(self._spots), n, p=weight / weight.sum())]

    def _infect(self, rng, difficulty):
        """Draw what this patient has."""
        x, y, z = self._spots.T
        low = np.clip((self.top - z) / (self.top - z.min()), 0.0, 1.0)  # 0 apex, 1 base
        back = np.clip(0.5 + 0.5 * y / self.depth, 0.0, 1.0)
        contrast = 1.45 - 1.05 * difficulty

        def opaque(hu):  # never denser than soft tissue, however plain the finding
            return min(self.lung_hu + contrast * (hu - self.lung_hu), 50.0)

        # Drawn for everyone, painted for COVID patients only: it also decides at which heights a
        # patient is cut, so the height of a slice says nothing about its label.
        volume = rng.lognormal(np.log(0.09), 0.8) * (1.4 - 0.8 * difficulty)
        volume = np.clip(volume, 0.025, 0.6)
        n = 2 + rng.poisson(2.0 + 14.0 * volume)
        weight = np.exp(-self._under / 9.0) * (0.12 + low**1.5) * (0.15 + back**1.5)
        centres = self._pick(rng, n, weight)
        both = rng.random() < (0.7 if volume < 0.1 else 1.0)  # one lung alone: mild disease only
        if both and np.all(np.sign(centres[:, 0]) == np.sign(centres[0, 0])):
            centres[-1] = self._pick(rng, 1, weight * (np.sign(x) != np.sign(centres[0, 0])))[0]
        if not both:
            centres = self._pick(rng, n, weight * (np.sign(x) == np.sign(centres[0, 0])))
        radii = rng.uniform(22.0, 48.0, (n, 1)) * rng.uniform(0.8, 1.25, (n, 3))
        core = rng.uniform(0.05, 0.4) if rng.random() < 0.45 else 0.0
        covid, sick = self._lesion(
            volume, core, centres=centres, radii=radii, depth=rng.uniform(18.0, 45.0),
            rough=rng.uniform(0.16, 0.3), soft=rng.uniform(0.2, 0.6),
            hu=opaque(rng.uniform(-680.0, -430.0)), core_hu=opaque(rng.uniform(-100.0, 20.0)),
            lines=contrast * (rng.uniform(60.0, 160.0) if rng.random() < 0.4 else 0.0),
            infection=True,
        )  # fmt: skip
        infected = np.zeros(self._where.shape)
        infected[self._where] = sick
        self._choose_heights(rng, infected.sum((1, 2)), self._where.sum((1, 2)))
        self.severity = float(sick.mean()) if self.covid else 0.0
        self.lesions = [covid] if self.covid else []
        self.findings = []

        # Findings of every day, in both classes, and other disease, in NonCOVID only.
        likely = 0.1 + 0.5 * difficulty
        if rng.random() < likely:
            low_back = (0.97 * self.depth, self.domes[0])
            base = np.array([[s * 0.5 * self.width, *low_back] for s in (-1, 1)])
            self._find(
                "dependent atelectasis", centres=base, depth=np.inf, rough=0.15, soft=0.3,
                radii=np.array([[60.0, rng.uniform(12.0, 20.0), 90.0]] * 2),
                hu=opaque(rng.uniform(-640.0, -420.0)), core_hu=0.0,
            )  # fmt: skip
        if rng.random() < 0.25:
            n = rng.integers(1, 4)
            self._find(
                "nodules", centres=self._pick(rng, n, np.ones_like(x)), depth=np.inf, rough=0.05,
                radii=np.repeat(rng.uniform(3.0, 9.0, (n, 1)), 3, axis=1), soft=0.3,
                hu=rng.uniform(-150.0, 40.0), core_hu=0.0,
            )  # fmt: skip
        if rng.random() < 0.2:
            n = rng.integers(4, 14)
            self._find(
                "emphysema", centres=self._pick(rng, n, (1.05 - low) ** 2), depth=np.inf,
                radii=rng.uniform(6.0, 16.0, (n, 3)), rough=0.35, soft=0.5, hu=-960.0, core_hu=0.0,
            )  # fmt: skip
        other = rng.random()
        side = rng.choice([-1, 1])
        if not self.covid and other < 0.6 * likely:
            hilum = np.array([side * 0.42 * self.width, rng.uniform(-0.3, 0.4) * self.depth, -35.0])
            self._find(
                "lobar consolidation", volume=rng.uniform(0.015, 0.09), core=0.6,
                centres=hilum[None] + rng.normal(0, 14.0, (3, 3)), depth=np.inf, soft=0.2,
                radii=rng.uniform(16.0, 40.0, (3, 3)), rough=rng.uniform(0.15, 0.3),
                hu=rng.uniform(-500.0, -250.0), core_hu=rng.uniform(-80.0, 40.0),
            )  # fmt: skip
        elif not self.covid and other < 1.1 * likely:
            hila = np.array([[s * 0.40 * self.width, 8.0, -25.0] for s in (-1, 1)])
            self._find(
                "perihilar oedema", volume=rng.uniform(0.06, 0.25), centres=hila, depth=-120.0,
                radii=np.array([[34.0, 40.0, 56.0]] * 2), rough=0.22, soft=0.6,
                hu=rng.uniform(-720.0, -520.0), core_hu=0.0, lines=rng.uniform(0.0, 90.0),
            )  # fmt: skip

    def _find(self, name, **given):
        self.findings.append(name)
        self.lesions.insert(0, self._lesion(**given)[0])

    def _choose_heights(self, rng, infected, lung):
        """Remember the levels that may be cut: enough lung, and enough of the drawn infection."""
        z, broad = self._heights, lung > 0.3 * lung.max()
        enough = broad & (infected >= 2.0 * MIN_INFECTED * lung)
        self._best = float(z[np.argmax(np.where(broad, infected / np.maximum(lung, 1), 0.0))])
        self._levels = z[enough] if enough.any() else np.array([self._best])
        self._dither = rng.random()

    def heights(self, n: int) -> np.ndarray:
        """`n` heights in mm (z, head first), spread evenly over those levels that may be cut."""
        at = (np.arange(n) + 0.25 + 0.5 * self._dither) / n * self._levels.size
        level = at.astype(int)
        return (self._levels[level] + (at - level - 0.5) * 5.5)[::-1]

    def cut(self, z_mm: float, size: int) -> tuple[float, Slice]:
        """The slice at `z_mm`; of a COVID patient, the nearest that shows `MIN_INFECTED` or more."""
        for nearer in (0.0, 0.25, 0.5, 0.75, 1.0):
            z = round(z_mm + nearer * (self._best - z_mm), 2)
            cut = self.render(z, size)
            if not self.covid or cut.infection.sum() >= MIN_INFECTED * cut.lung.sum():
                break
        return z, cut

    # ---- picture ---------------------------------------------------------------------------

    def render(self, z_mm: float, size: int = 192) -> Slice:
        """The cut at height `z_mm` on a square grid of `size` pixels over the field of view."""
        px = self.fov / size
        grid = (np.arange(size) + 0.5) * px - self.fov / 2
        gx, gy = grid + self.shift[0], grid + self.shift[1]
        x, y = self._anatomical(gx[None, :], gy[:, None], z_mm)
        wall, organs, parts, dome, lung = self._regions(x, y, z_mm)
        field = lambda mm, flip=1: _noise(self._lattice[::flip], gx, gy, np.array([z_mm]), mm)[0]  # noqa: E731

        hu = self._soft_tissue(x, y, z_mm, px, wall, organs, parts, dome, field)
        self._bones(hu, x, y, z_mm, px, wall)
        inside = np.clip(0.5 - lung / px, 0.0, 1.0)
        hu += inside * (self._parenchyma(x, y, z_mm, px, field) - hu)
        truth = self._opacify(hu, x, y, z_mm, gx, gy, wall, lung, inside, field)
        hu += inside * _draw_tubes(self._tree, z_mm, gx, gy) * (_BLOOD - hu)
        walls = self._airways + np.array([0, 0, 0, 0, 0, 0, 1.0, 1.0])
        hu += 0.8 * _draw_tubes(walls, z_mm, gx, gy) * (0.0 - hu)
        lumen = _draw_tubes(self._airways, z_mm, gx, gy)
        hu += lumen * (_AIR + 20.0 - hu)

        # Quantum noise lacks the low frequencies (filtered back-projection), then the kernel
        # smooths image and noise alike.
        key = (*self._grain.spawn_key, int(round((z_mm + 1000.0) * 1000)), size)
        rng = np.random.default_rng(np.random.SeedSequence(self._grain.entropy, spawn_key=key))
        grain = rng.standard_normal((size, size))
        hu += self.grain * (grain - gaussian_filter(grain, 2.0, truncate=3.0))
        hu = gaussian_filter(hu, self.blur, truncate=3.0)
        return Slice(np.clip(hu, -1024.0, 3071.0).astype(np.float32), lung < 0, truth & (lung < 0))

    def _soft_tissue(self, x, y, z, px, wall, organs, parts, dome, field):
        """Air, table, skin, fat, muscle, mediastinum and upper abdomen, in HU."""
        shoulder = np.clip((z - 15.0) / 70.0, 0.0, 1.0)
        mw = self.width + 19.0 + 36.0 * shoulder
        md = self.depth + 18.0 - 11.0 * shoulder
        flesh = _oval(x, y - 4.0 - 8.0 * shoulder, mw, md, 0.66)
        body = _oval(x, y - 4.0, mw + self.fat, md + 0.75 * self.fat, 0.62)
        if self.breast:
            r = self.breast * _bump(z, -100.0 * self.tall, 45.0 * self.tall) ** 2
            if r > 0.05:
                bx = np.sqrt(x * x + 500.0) - 0.50 * self.width
                by = y + self.depth + 14.0 + 0.4 * self.fat
                mound = _oval(bx, by, 62.0 * (0.3 + 0.7 * r), (12.0 + 0.8 * self.fat) * r + 2.0)
                body = _smin(body, mound, 45.0)
        back = self.depth + 25.0 + 0.75 * self.fat + self.table
        hu = np.full(x.shape, _AIR)
        if np.isfinite(self.table):
            curve = y + x * x / 1100.0 - back
            for at, thick, value in ((0.0, 1.2, -350.0), (17.0, 0.9, -100.0)):
                _over(hu, np.abs(curve - at) - thick, value, px)
        _over(hu, body, 10.0, px)
        _over(hu, body + 2.2, _FAT + 9.0 * field(9.0), px)
        planes = np.clip(1.0 - np.abs(field(15.0, -1)) / 0.16, 0.0, 1.0)
        planes *= np.clip((wall - 10.0) / 4.0, 0.0, 1.0)  # fat between the outer muscles
        _over(hu, flesh, _MUSCLE - 90.0 * planes, px)
        _over(hu, wall, np.where(y > 0.38 * self.depth, _MUSCLE, _FAT + 25.0), px)
        if z < self.domes.max():
            under = np.minimum(dome, np.maximum(parts, y - 0.1 * self.depth))
            self._abdomen(hu, x, y, z, px, np.maximum(under, wall + 3.0), dome)
        _over(hu, np.maximum(organs, wall), _BLOOD + 8.0 * field(25.0), px)
        return hu

    def _abdomen(self, hu, x, y, z, px, low, dome):
        """Liver, spleen and stomach under the diaphragm."""
        _over(hu, low, _MUSCLE, px)
        left = np.maximum(np.maximum(low, dome) + 3.5, 0.9 * (24.0 - x - 0.45 * y))
        _over(hu, left, _FAT, px)
        spleen = _oval(x - 0.72 * self.width, y - 0.30 * self.depth, 34.0, 36.0)
        _over(hu, np.maximum(spleen, left + 2.0), 50.0, px)
        sy = y + 0.30 * self.depth
        stomach = np.maximum(_oval(x - 0.48 * self.width, sy, 36.0, 30.0), left + 2.0)
        _over(hu, stomach, 35.0, px)
        _over(hu, np.maximum(stomach + 3.0, sy + self.gas), -900.0, px)

    def _bones(self, hu, x, y, z, px, wall):
        """Ribs (a helix round the chest wall), shoulder blades, sternum and spine."""
        side = np.abs(x)
        z0, spacing, drop = self.rib
        cos = (y - 6.0) / (_norm(x, y - 6.0) + 1e-3)  # 1 at the spine, -1 at the sternum
        at = (z + 0.5 * drop * (1.0 - cos)) / spacing + z0
        at = (at - np.round(at)) * spacing
        ribs = 4.4 * (_norm(at / 7.2, (wall - 7.0) / 4.4) - 1.0)
        ribs = np.maximum(ribs, 14.0 - side)
        _over(hu, ribs, np.where(cos < -0.72, 105.0, _CORTEX), px)
        _over(hu, ribs + 2.0, 110.0, px)
        if -60.0 < z / self.tall < 75.0:
            blade = np.abs(wall - 18.5 - 5.0 * np.clip(cos - 0.3, 0, 1)) - 2.6
            blade = np.maximum(blade, 40.0 * np.maximum(0.12 - cos, cos - 0.74))
            blade = np.maximum(blade, 0.4 * (-60.0 - z / self.tall) + 2.0)
            _over(hu, blade, _CORTEX, px)
            _over(hu, blade + 1.9, 90.0, px)
        front = 0.895 * self.depth
        if z > -75.0 * self.tall:
            wide = 15.0 + 10.0 * np.clip((z - 25.0) / 25.0, 0.0, 1.0)
            fall = 8.0 * np.clip((z - 10.0) / 60.0, 0.0, 1.0)
            sternum = _oval(x, y + front + 8.0 - fall, wide, 6.0, 0.7)
            _over(hu, sternum, _CORTEX, px)
            _over(hu, sternum + 2.2, 80.0, px)
        axis = 0.45 * self.depth
        turn = (z / 23.0 + z0) % 1.0
        arch = _bump(turn, 0.1, 0.9)
        canal = _norm(x, y - axis - 25.0)
        spine = np.minimum(canal - 12.5, _oval(x, y - axis, 19.0 - 2.0 * arch, 15.5, 0.5))
        spinous = _capsule(x, y, 0.0, axis + 36.0, 0.0, axis + 54.0) - 3.6
        across = _capsule(side, y, 8.0, axis + 24.0, 34.0, axis + 33.0) - 5.5 * arch
        spine = np.minimum(np.minimum(spine, spinous), np.where(arch > 0.3, across, 99.0))
        _over(hu, spine, 330.0, px)
        _over(hu, spine + 2.4, 60.0 if turn < 0.06 else 150.0, px)
        _over(hu, canal - 8.0, 25.0, px)

    def _parenchyma(self, x, y, z, px, field):
        """HU of the lung itself: denser at the back, finely mottled, faint fissures."""
        hu = self.lung_hu + self.gravity * y / self.depth
        hu = hu + self.texture * (field(5.0) + 0.8 * field(11.0, -1))
        slope = y - 18.0 + 0.75 * z + 0.006 * (np.abs(x) - 0.45 * self.width) ** 2
        minor = np.where(x < 0, 0.35 * (z + 34.0 + 0.12 * y), 99.0)
        fissure = np.minimum(np.abs(slope) * 0.8, np.where(y < -z * 0.6, np.abs(minor), 99.0))
        return hu + 55.0 * np.clip(1.0 - fissure / max(px, 1.2), 0.0, 1.0)

    def _opacify(self, hu, x, y, z, gx, gy, wall, lung, inside, field):
        """Paint the lesions into hu; returns the infection, bool (H, W)."""
        truth = np.zeros(hu.shape, bool)
        at = np.nonzero(inside > 0)
        here, under, part = (x[at], y[at], z), -wall[at], inside[at]
        if not self.lesions or not at[0].size:
            return truth
        rough = self._roughness(gx, gy, np.array([z]))[0][at]
        fine = field(3.2)[at]
        for lesion in self.lesions:
            level = lesion.level(*here, under, rough) - lesion.cut
            fill = np.clip(0.4 + level / lesion.soft, 0.0, 1.0)
            septa = lesion.lines * np.clip(1.0 - np.abs(fine) / 0.3, 0.0, 1.0)
            core = np.clip((level + lesion.cut - lesion.core) / 0.15 + 0.5, 0.0, 1.0)
            value = lesion.hu + 45.0 * fine + 60.0 * rough + septa
            value = value + core * (lesion.core_hu - value)
            change = part * fill * (value - hu[at])
            # Fluid adds to what is there already; only emphysema takes away.
            hu[at] += np.minimum(change, 0.0) if lesion.hu < -900.0 else np.maximum(change, 0.0)
            if lesion.infection:
                truth[at] = level > 0
        return truth


def is_covid(k: int, prevalence: float) -> bool:
    """Whether patient `k` is a COVID patient.

    Steps of the golden ratio: every leading run of patients holds both classes in proportion, and
    the label of patient k does not depend on how many patients there are.
    """
    return (prevalence / 2 + k * 0.6180339887498949) % 1.0 < prevalence


def _check(seed, prevalence, difficulty):
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    for name, value in (("prevalence", prevalence), ("difficulty", difficulty)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in 0..1, got {value}")


def patient(k: int, seed: int, *, prevalence: float = 0.5, difficulty: float = 0.5) -> Patient:
    """Patient number `k` of the phantom with this `seed`; depends on nothing else.

    `render(z_mm, size)` gives a `Slice`; `heights(n)` gives where to cut. The anatomy is the same
    at every `prevalence` and `difficulty`. Raises ValueError for arguments out of range.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    _check(seed, prevalence, difficulty)
    return Patient(k, seed, prevalence, difficulty)


def generate(
    folder: Path,
    n_patients: int,
    seed: int,
    *,
    size: int = 192,
    slices_per_patient: int = 6,
    prevalence: float = 0.5,
    difficulty: float = 0.5,
    progress: bool = True,
) -> pd.DataFrame:
    """Write a dataset of phantom slices and return its manifest.

    `folder` receives `images/` (8-bit PNG of the lung window -1350..150 HU), `masks/lung/`,
    `masks/infection/` (0 or 255) and `manifest.csv`. It appears in one step when all is written:
    a generation that was killed leaves no folder of that name. The same arguments give the same
    pixels on any machine (the same bytes, where Pillow has the same zlib), and patient k is the
    same however many patients there are.

    Parameters
    ----------
    folder : must not exist yet, or be empty.
    n_patients : 2 or more. seed : 0 or more.
    size : side of the images in pixels, 64..512 and divisible by 16.
    slices_per_patient : cuts, spread over the heights at which this patient has, or would have,
        infection; so the height of a slice does not give its label away.
    prevalence : part of the patients who are COVID, 0..1.
    difficulty : 0..1; up goes noise and the number of look-alikes, down the contrast and volume
        of the infection.

    Returns
    -------
    One row per slice. label: COVID slices show infection in at least `MIN_INFECTED` of their
    lung area; NonCOVID slices show none, but may show atelectasis, nodules, emphysema,
    consolidation or oedema, which no mask counts. severity: infected part of the patient's whole
    lung volume (all of it, on a 6.5 x 6.5 x 5.5 mm grid, not only the slices written).
    infected_fraction: of the lung area of this slice. z_mm: height above the tracheal
    bifurcation; `patient(k, seed, ...).render(z_mm, size)` draws the slice again.

    Raises
    ------
    ValueError for an argument out of range; FileExistsError if something is in `folder` already;
    PermissionError if it cannot be written.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    if n_patients < 2:
        raise ValueError(f"n_patients must be 2 or more, for two classes, got {n_patients}")
    if not 64 <= size <= 512 or size % 16:
        raise ValueError(f"size must lie in 64..512 and be divisible by 16, got {size}")
    if slices_per_patient < 1:
        raise ValueError(f"slices_per_patient must be 1 or more, got {slices_per_patient}")
    _check(seed, prevalence, difficulty)
    sick = sum(is_covid(k, prevalence) for k in range(n_patients))
    if 0.0 < prevalence < 1.0 and sick in (0, n_patients):
        raise ValueError(
            f"{n_patients} patients at prevalence {prevalence} are all of one class: "
            "ask for more patients, or a prevalence nearer to 0.5"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: delete it first, or give another folder")
    unfinished = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        for name in ("images", "masks/lung", "masks/infection"):
            (unfinished / name).mkdir(parents=True)
    except OSError as error:
        raise PermissionError(f"cannot write to {folder.parent}: {error.strerror}") from error
    rows = []
    try:
        for k in tqdm(range(n_patients), desc="drawing phantom patients", disable=not progress):
            who = patient(k, seed, prevalence=prevalence, difficulty=difficulty)
            rows += [
                _write(unfinished, who, i, z, size, seed)
                for i, z in enumerate(who.heights(slices_per_patient))
            ]
        frame = pd.DataFrame(rows)
        frame.to_csv(unfinished / "manifest.csv", index=False, lineterminator="\n")
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return frame


def _write(folder, who, i, z_mm, size, seed):
    """Draw one slice into `folder`; returns its row of the manifest."""
    z, cut = who.cut(z_mm, size)
    low, high = WINDOW
    grey = np.clip(np.rint((cut.hu - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    name = f"{who.patient_id}_{i}.png"
    files = {
        "image": (f"images/{name}", grey),
        "lung_mask": (f"masks/lung/{name}", cut.lung.astype(np.uint8) * 255),
        "infection_mask": (f"masks/infection/{name}", cut.infection.astype(np.uint8) * 255),
    }
    for path, pixels in files.values():
        Image.fromarray(pixels).save(folder / path, compress_level=6)
    return {
        "image": files["image"][0],
        "label": CLASSES[0] if who.covid else CLASSES[1],
        "patient_id": who.patient_id,
        "split": "",
        "modality": "CT",
        "lung_mask": files["lung_mask"][0],
        "infection_mask": files["infection_mask"][0],
        "source": f"phantom, seed {seed}, patient {who.k}",
        "sha256": hashlib.sha256((folder / files["image"][0]).read_bytes()).hexdigest(),
        "severity": round(who.severity, 6),
        "infected_fraction": round(float(cut.infection.sum() / cut.lung.sum()), 6),
        "z_mm": z,
    }
