"""The healthy body: one thorax in millimetres that can be asked for its tissue at any point.

Axes: x grows to the image's right (the patient's left), y to the back (image bottom), z to the
head; z = 0 is the tracheal bifurcation. Points come as arrays that broadcast to (D, H, W).
"""

from __future__ import annotations

import numpy as np

from .shapes import bump, capsule, grow_tree, noise, norm, oval, over, rod, smin

AIR, FAT, MUSCLE, BLOOD, CORTEX, MARROW = -1000.0, -100.0, 45.0, 42.0, 850.0, 160.0
_WIDTH, _DEPTH = 120.0, 82.0  # half width and half depth of the reference pleural cavity
_RIB_AT, _RIB = 7.0, (7.0, 4.2)  # depth of a rib in the chest wall; half its height and thickness
_FAR = 99.0

# Great vessels and other round columns of the mediastinum in the reference thorax:
# (z, x, y, radius) from low to high; a column ends where its radius is 0.
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
_COLUMNS = {name: np.array(column, float).T for name, column in _COLUMNS.items()}
_CAPSULES = (  # lying vessels: lowest and highest z, radius, ends x0, y0, x1, y1
    (12.0, 50.0, 13.0, (-8, -30, 25, 24)),  # aortic arch
    (-24.0, -2.0, 9.0, (22, -30, -36, 4)),  # right pulmonary artery
)
_AIRWAYS = (  # start, end, radii
    ((-1, 4, 150), (-1, 6, 4), 8.5, 8.0),
    ((-1, 6, 4), (-30, 10, -20), 7.0, 6.0),
    ((-1, 6, 4), (36, 12, -26), 6.5, 5.5),
    ((-30, 10, -20), (-44, 18, -48), 5.0, 3.2),
    ((-30, 10, -20), (-58, -12, -6), 4.0, 2.4),
    ((36, 12, -26), (50, 20, -54), 4.6, 3.0),
    ((36, 12, -26), (60, -10, -16), 3.8, 2.2),
)
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")


class Body:
    """Anatomy of one person, drawn from `rng`: sizes, posture, lungs, trees of vessels and airways.

    `fov` is the side of the square CT field of view; `spots` (n, 3) are points of the lungs on a
    6.5 x 6.5 x 5.5 mm grid with their depth `under` the chest wall and `within` the pleura, from
    which volumes are read; `levels` the heights of that grid and `where` (D, H, W) its lung.
    """

    def __init__(self, rng: np.random.Generator):
        self.female = bool(rng.random() < 0.5)
        size = rng.normal(0.95 if self.female else 1.03, 0.045)
        self.width = float(_WIDTH * size * rng.uniform(0.95, 1.07))
        self.depth = float(_DEPTH * size * rng.uniform(0.90, 1.10))
        self.tall = float(size * rng.uniform(0.94, 1.06))
        self.fat = float(np.clip(rng.gamma(4.0, 3.2 if not self.female else 4.2), 4.0, 36.0))
        self.breast = float(rng.uniform(0.5, 1.1)) if self.female else 0.0
        self.breath = float(rng.uniform(-12.0, 8.0))  # shift of the diaphragm
        self.angle = float(np.deg2rad(rng.uniform(-5.0, 5.0)))
        self.lean = tuple(map(float, rng.uniform(-0.06, 0.06, 2)))  # in x and y for each mm of z
        self.heart = float(rng.uniform(0.86, 1.08))
        right = -84.0 * self.tall + self.breath
        self.domes = (right, right + float(rng.uniform(-16.0, -4.0)))
        self.rib = tuple(map(float, rng.uniform((0.0, 23.0, 75.0), (1.0, 27.0, 105.0))))
        self.top = 92.0 * self.tall
        self.lung_hu = float(rng.uniform(-910.0, -860.0) - 2.0 * self.breath)
        self.gravity = float(rng.uniform(20.0, 55.0))
        self.texture = float(rng.uniform(9.0, 18.0))
        outer = 2.0 * (self.width + 25.0 + self.fat)
        self.fov = float(outer * rng.uniform(0.86, 1.08))
        self.shift = tuple(map(float, rng.uniform(-0.02, 0.02, 2) * self.fov))
        self.table = float(rng.uniform(4.0, 16.0)) if rng.random() < 0.8 else np.inf
        self.gas = float(rng.uniform(4.0, 40.0))  # level of the gas in the stomach
        self.lattice = rng.standard_normal((32, 32, 32))
        self._survey()
        self._grow(rng)

    # ---- where things are ------------------------------------------------------------------

    def from_scanner(self, x, y, z):
        """Scanner to body coordinates (x, y); z is the same in both."""
        c, s = float(np.cos(self.angle)), float(np.sin(self.angle))
        x, y = x - self.lean[0] * z, y - self.lean[1] * z
        return c * x + s * y, c * y - s * x

    def _to_scanner(self, tubes):
        c, s = np.cos(self.angle), np.sin(self.angle)
        out = tubes.copy()
        for i in (0, 3):
            x, y, z = tubes[:, i], tubes[:, i + 1], tubes[:, i + 2]
            out[:, i] = c * x - s * y + self.lean[0] * z
            out[:, i + 1] = s * x + c * y + self.lean[1] * z
        return out

    def _wall(self, x, y, z):
        """Signed distance to the inner chest wall, negative inside."""
        t = np.clip((self.top - z) / (0.72 * (self.top + 130.0 * self.tall)), 0.0, 1.0)
        grow = (1.0 - (1.0 - t) ** 2.6) ** 0.6 + 1e-3
        mid = 0.42 * self.width
        u, v = np.abs(x) - mid, (y - 14.0 * (1.0 - grow)) / (grow * self.depth)
        lateral = (self.width - mid) * (1.0 + 0.08 * np.clip(v, -1.0, 1.0))
        length = norm(u / (grow * np.where(u > 0, lateral, 1.75 * mid)), v, 0.5)
        return norm(u, v * grow * self.depth) * (1.0 - 1.0 / np.maximum(length, 1e-3))

    def _mediastinum(self, x, y, z):
        """Signed distances to (heart and vessels, all that parts the lungs)."""
        sx, sy, sz = self.width / _WIDTH, self.depth / _DEPTH, self.tall
        x, y, z = x / sx, y / sy, z / sz
        h, c, s = self.heart, 0.84, -0.54
        r = h * np.maximum(bump(z, -122.0, -6.0), 1e-3)
        hx, hy = x - 24.0 * h, y + 22.0
        organs = oval(c * hx + s * hy, c * hy - s * hx, 58.0 * r, 43.0 * r)
        for at, cx, cy, cr in _COLUMNS.values():
            some = np.flatnonzero(np.interp(z, at, cr) > 0)
            if some.size:
                cx_, cy_, radius = (np.interp(z[some], at, v).astype(x.dtype) for v in (cx, cy, cr))
                d = norm(x[some] - cx_, y[some] - cy_) - radius
                organs[some] = np.minimum(organs[some], d)
        for low, high, thick, ends in _CAPSULES:
            some = np.flatnonzero((z > low) & (z < high))
            if some.size:
                d = capsule(x[some], y[some], *ends) - thick * bump(z[some], low, high)
                organs[some] = np.minimum(organs[some], d)
        side = np.abs(x)
        high = np.clip((z - 20.0) / 50.0, 0.0, 1.0)
        belly = np.clip((max(self.domes) / sz - 12.0 - z) / 24.0, 0.0, 1.0)
        middle = side - np.where(y > -30.0, 13.0 + 12.0 * high, 5.0 + 16.0 * high)
        middle = np.minimum(middle, np.maximum(side - 56.0 * belly, y - 8.0))
        spine = 0.9 * (side - 19.0 - 0.36 * np.maximum(y - 30.0, 0.0))
        spine = np.maximum(spine, 0.9 * (20.0 - y))
        return organs, smin(smin(organs - 3.0, middle, 12.0), spine, 10.0)

    def _dome(self, x, y, z):
        """Signed distance to the diaphragm, negative below it."""
        top = np.where(x < 0, *self.domes)
        w = (top - z) / (64.0 * self.tall)
        q = norm(
            (np.abs(x) - 0.54 * self.width) / (0.56 * self.width),
            (y + 0.30 * self.depth) / (0.98 * self.depth),
        )
        return (q - np.sign(w) * np.sqrt(np.abs(w))) * 0.6 * self.width

    def regions(self, x, y, z):
        """(wall, organs, parts, dome, lung): signed distances at body coordinates (D, H, W).

        `parts` is all that lies between the lungs; `lung` is the pleural cavity, so it holds fluid
        as well as lung. z (D, 1, 1).
        """
        wall, dome = self._wall(x, y, z), self._dome(x, y, z)
        organs, parts = self._mediastinum(x, y, z)
        return wall, organs, parts, dome, -smin(smin(-wall - 1.5, parts, 8.0), dome, 8.0)

    def lobe(self, x, y, z, name):
        """Signed distance, roughly, to the fissures round one of `LOBES`; negative inside it."""
        side, part = name.split()
        away = -x if side == "right" else x
        if part == "lower":
            inside = [self.oblique(x, y, z)]
        elif side == "left":
            inside = [-self.oblique(x, y, z)]
        else:
            up = self.horizontal(x, y, z)
            inside = [-self.oblique(x, y, z), up if part == "upper" else -up]
        return -np.minimum.reduce(np.broadcast_arrays(away, *inside))

    def oblique(self, x, y, z):
        """Above 0 behind and below the oblique fissure: in the lower lobe."""
        return 0.74 * (y - 32.0 - 0.9 * z + 0.006 * (np.abs(x) - 0.45 * self.width) ** 2)

    def horizontal(self, x, y, z):
        """Above 0 over the horizontal fissure of the right lung."""
        return z + 28.0 + 0.12 * y

    def roughness(self, x, y, z):
        """Noise (D, H, W) that frays the edges of lesions, at scanner coordinates (W,), (H,), (D,)."""
        broad = noise(self.lattice, x, y, z, 17.0)
        return broad + 0.5 * noise(self.lattice[::-1], x, y, z, 7.0)

    def _survey(self):
        """Cut the whole chest coarsely once: volumes, areas and places are read from here."""
        w, d = self.width + 12.0, self.depth + 16.0
        x, y = np.arange(-w, w, 6.5), np.arange(-d, d, 6.5)
        z = np.arange(min(self.domes) - 95.0 * self.tall, self.top, 5.5)
        zz = z[:, None, None]
        ax, ay = self.from_scanner(x[None, None, :], y[None, :, None], zz)
        wall, _, _, _, lung = self.regions(ax, ay, zz)
        inside = lung < 0
        self.levels, self.where = z, inside
        self.spots = np.column_stack([v[inside] for v in np.broadcast_arrays(ax, ay, zz)])
        self.under, self.within = -wall[inside], -lung[inside]
        self.coarse = self.roughness(x, y, z)[inside]

    def _grow(self, rng):
        """Trees of vessels and airways, in scanner coordinates."""
        scale = np.array([self.width / _WIDTH, self.depth / _DEPTH, self.tall])
        trees, airways = [], []
        hila = {-1: [(-36, 8, -14), (-26, 12, -42)], 1: [(38, 8, -8), (28, 12, -40)]}
        for side, roots in hila.items():  # an arterial and a venous tree on each side
            pool = np.flatnonzero((self.within > 4.0) & (side * self.spots[:, 0] > 0))
            for i, root in enumerate(roots):
                pick = rng.choice(pool, min(pool.size, 1300), replace=False)
                points = self.spots[pick] + rng.uniform(-3.2, 3.2, (pick.size, 3))
                tree = grow_tree(np.multiply(root, scale), points)
                trees.append(tree)
                if i == 0:  # bronchi run beside the arteries
                    wide = tree[tree[:, 7] > 1.2].copy()
                    wide[:, :2] += np.array([-side, 1.0]) * (1.3 * wide[:, 7:8] + 1.0)
                    wide[:, 6:] *= 0.62
                    airways.append(wide)
        bore = 1.0 if not self.female else 0.88
        rows = []
        for start, end, r0, r1 in _AIRWAYS:
            a, b = np.multiply(start, scale), np.multiply(end, scale)
            rows.append([*a, *(b - a), bore * r0, bore * r1])
        self.vessels = self._to_scanner(np.vstack(trees))
        self.airways = self._to_scanner(np.vstack([*airways, rows]))

    # ---- what it is made of ----------------------------------------------------------------

    def tissue(self, x, y, z, px, field=None, *, view=None):
        """HU of everything but vessels, airways and disease, and the regions it was drawn by.

        x (D, H, W), y, z (D, 1, 1) in body coordinates; `px` the pixel in mm, over which edges are
        mixed. `field(mm, flip)` gives noise (D, H, W) for fine texture, None leaves it smooth.
        For an X-ray (`view`) the arms hang at the sides, there is no table, and ribs and collar bones
        are left out, since `bones` gives them exactly. Returns (hu, inside, regions): inside 0..1 is
        the part of each point in the pleural cavity.
        """
        field = field or (lambda mm, flip=1: 0.0)
        regions = wall, organs, parts, dome, lung = self.regions(x, y, z)
        hu = self._soft_tissue(x, y, z, px, wall, organs, parts, dome, field, view)
        self._bones(hu, x, y, z, px, wall, view)
        inside = np.clip(0.5 - lung / px, 0.0, 1.0)
        hu += inside * (self._parenchyma(x, y, z, px, field) - hu)
        return hu, inside, regions

    def _soft_tissue(self, x, y, z, px, wall, organs, parts, dome, field, view):
        """Air, table, skin, fat, muscle, mediastinum and upper abdomen."""
        shoulder = np.clip((z - 15.0) / 70.0, 0.0, 1.0)
        neck = np.clip((z - 78.0 * self.tall) / (75.0 * self.tall), 0.0, 1.0) ** 2
        mw = (self.width + 19.0 + 36.0 * shoulder) * (1.0 - neck) + 52.0 * neck
        md = (self.depth + 18.0 - 11.0 * shoulder) * (1.0 - neck) + 58.0 * neck
        fat = self.fat * (1.0 - 0.6 * neck)
        flesh = oval(x, y - 4.0 - 8.0 * shoulder, mw, md, 0.66)
        body = oval(x, y - 4.0, mw + fat, md + 0.75 * fat, 0.62)
        if self.breast:
            some = self._breast(z)
            r = self.breast * bump(z[some], -100.0 * self.tall, 45.0 * self.tall) ** 2
            if some.size:
                bx = np.sqrt(x[some] ** 2 + 500.0) - 0.50 * self.width
                by = y[some] + self.depth + 14.0 + 0.4 * self.fat
                mound = oval(bx, by, 62.0 * (0.3 + 0.7 * r), (12.0 + 0.8 * self.fat) * r + 2.0)
                body[some] = smin(body[some], mound, 45.0)
        if view:
            limb = self._limbs(x, y, z)[0]
            body, flesh = smin(body, limb - 0.4 * self.fat - 2.0, 18.0), smin(flesh, limb, 12.0)
        hu = np.full(body.shape, AIR, x.dtype)
        if not view and np.isfinite(self.table):
            curve = y + x * x / 1100.0 - (self.depth + 25.0 + 0.75 * self.fat + self.table)
            for at, thick, value in ((0.0, 1.2, -350.0), (17.0, 0.9, -100.0)):
                over(hu, np.abs(curve - at) - thick, value, px)
        over(hu, body, 10.0, px)
        over(hu, body + 2.2, FAT + 9.0 * field(9.0), px)
        planes = field(15.0, -1)
        if not np.isscalar(planes):  # fat between the outer muscles
            planes = np.clip(1.0 - np.abs(planes) / 0.16, 0.0, 1.0)
            planes *= np.clip((wall - 10.0) / 4.0, 0.0, 1.0)
        over(hu, flesh, MUSCLE - 90.0 * planes, px)
        over(hu, wall, np.where(y > 0.38 * self.depth, MUSCLE, FAT + 25.0), px)
        some = np.flatnonzero(z < max(self.domes))
        if some.size:
            part = hu[some]
            at = x[some], y[some], z[some]
            under = np.minimum(dome[some], np.maximum(parts[some], at[1] - 0.1 * self.depth))
            self._abdomen(part, *at, px, np.maximum(under, wall[some] + 3.0), dome[some])
            hu[some] = part
        over(hu, np.maximum(organs, wall), BLOOD + 8.0 * field(25.0), px)
        return hu

    def _breast(self, z):
        return np.flatnonzero(
            self.breast * bump(z, -100.0 * self.tall, 45.0 * self.tall) ** 2 > 0.05
        )

    def _abdomen(self, hu, x, y, z, px, low, dome):
        """Liver, spleen and stomach under the diaphragm."""
        over(hu, low, MUSCLE, px)
        left = np.maximum(np.maximum(low, dome) + 3.5, 0.9 * (24.0 - x - 0.45 * y))
        over(hu, left, FAT, px)
        spleen = oval(x - 0.72 * self.width, y - 0.30 * self.depth, 34.0, 36.0)
        over(hu, np.maximum(spleen, left + 2.0), 50.0, px)
        sy = y + 0.30 * self.depth
        stomach = np.maximum(oval(x - 0.48 * self.width, sy, 36.0, 30.0), left + 2.0)
        over(hu, stomach, 35.0, px)
        over(hu, np.maximum(stomach + 3.0, sy + self.gas), -900.0, px)

    def _limbs(self, x, y, z):
        """Signed distances to (the flesh of shoulder and upper arm, its bone)."""
        side = np.abs(x)
        head = (self.width + 34.0, 10.0, 74.0 * self.tall)
        elbow = (self.width + 74.0, 14.0, -190.0)
        flesh = rod(side, y, z, head, elbow, 44.0, 36.0)
        shaft = rod(side, y, z, head, elbow, 12.0, 10.0)
        return flesh, np.minimum(
            shaft, rod(side, y, z, head, (head[0], head[1], head[2] + 1), 22, 22)
        )

    def _bones(self, hu, x, y, z, px, wall, view):
        """Ribs (a helix round the chest wall), shoulder blades, collar bones, sternum and spine."""
        cos = (y - 6.0) / (norm(x, y - 6.0) + 1e-3)  # 1 at the spine, -1 at the sternum
        if not view:
            self._ribs(hu, np.abs(x), z, px, wall, cos)
            self._collar(hu, np.abs(x), y, z, px)
        some = np.flatnonzero((z > -60.0 * self.tall) & (z < 75.0 * self.tall))
        if some.size:
            part, turn = hu[some], cos[some] + (0.18 if view == "PA" else 0.0)  # rolled forward
            down = (75.0 - z[some] / self.tall) / 135.0
            blade = np.abs(wall[some] - 18.5 - 5.0 * np.clip(turn - 0.3, 0, 1)) - 2.2
            edge = np.maximum(0.12 + 0.2 * down - turn, turn - 0.74 + 0.34 * down)
            blade = np.maximum(blade, 40.0 * edge)
            over(part, blade, CORTEX, px)
            over(part, blade + 1.4, 120.0, px)
            hu[some] = part
        front = 0.895 * self.depth
        some = np.flatnonzero((z > -75.0 * self.tall) & (z < 62.0 * self.tall))
        if some.size:
            wide = 15.0 + 10.0 * np.clip((z[some] - 25.0) / 25.0, 0.0, 1.0)
            fall = 8.0 * np.clip((z[some] - 10.0) / 60.0, 0.0, 1.0)
            sternum = oval(x[some], y[some] + front + 8.0 - fall, wide, 6.0, 0.7)
            part = hu[some]
            over(part, sternum, CORTEX, px)
            over(part, sternum + 2.2, 80.0, px)
            hu[some] = part
        self._spine(hu, x, y, z, px)
        if view:
            bone = self._limbs(x, y, z)[1]
            over(hu, bone, CORTEX, px)
            over(hu, bone + 3.0, 180.0, px)

    def _ribs(self, hu, side, z, px, wall, cos):
        z0, spacing, drop = self.rib
        turn = (z + 0.5 * drop * (1.0 - cos)) / spacing + z0
        number = np.round(turn)
        ribs = oval((turn - number) * spacing, wall - _RIB_AT, *_RIB)
        ribs = np.maximum(ribs, 14.0 - side)
        ribs = np.where(np.abs(number - self._first_rib + 6.0) > 6.0, _FAR, ribs)
        over(hu, ribs, np.where(cos < -0.72, 105.0, CORTEX), px)
        over(hu, ribs + 2.0, MARROW, px)

    @property
    def _first_rib(self):
        return np.floor((self.top + 6.0) / self.rib[1] + self.rib[0])

    def bones(self):
        """Ribs and collar bones as (tubes in scanner coordinates, how flat each is, 0..1)."""
        z0, spacing, drop = self.rib
        number = (self._first_rib - np.arange(12.0))[:, None, None]
        cos = np.cos(np.deg2rad(np.arange(8.0, 137.0, 6.0)))[:, None]
        r = np.linspace(0.0, 1.6 * self.width, 48)
        z = (number - z0) * spacing - 0.5 * drop * (1.0 - cos)
        x, y, z = np.broadcast_arrays(r * np.sqrt(1.0 - cos**2), 6.0 + r * cos, z)
        wall = self._wall(x, y, z) - _RIB_AT
        out = np.argmax(wall > 0, axis=-1)  # the first step of each ray beyond the rib's place
        last = np.maximum(out - 1, 0)
        a, b = (np.take_along_axis(wall, i[..., None], -1)[..., 0] for i in (last, out))
        reach = r[last] + (r[out] - r[last]) * np.where(out > 0, -a / np.maximum(b - a, 1e-6), 0.0)
        x, y = reach * np.sqrt(1.0 - cos[:, 0] ** 2), 6.0 + reach * cos[:, 0]
        points = np.stack([x, y, z[..., 0]], axis=-1)
        good = (out[:, 1:] > 0) & (out[:, :-1] > 0) & (x[:, :-1] > 14.0)
        start, way = points[:, :-1][good], np.diff(points, axis=1)[good]
        along = np.abs(way[:, 1]) / np.linalg.norm(way, axis=1)  # the ray sees a rib from its end
        high = (_RIB[0] + (_RIB[1] - _RIB[0]) * 0.5 * along)[:, None]
        tubes = [np.hstack([start, way, high, high])]
        flat = [_RIB[1] / _RIB[0] * (1.0 - along) + along]
        for begin, end, r0, r1 in self._collar_bones():
            tubes.append(np.array([[*begin, *np.subtract(end, begin), r0, r1]]))
            flat.append(np.ones(1))
        tubes, flat = np.vstack(tubes), np.concatenate(flat)
        mirror = tubes * np.array([-1, 1, 1, -1, 1, 1, 1, 1])
        return self._to_scanner(np.vstack([tubes, mirror])), np.concatenate([flat, flat])

    def _collar_bones(self):
        """Of one side: from the top of the sternum outwards, backwards and a little up."""
        front = -0.90 * self.depth + 4.0
        inner = (18.0, front, 56.0 * self.tall)
        bend = (0.5 * self.width, front + 12.0, 68.0 * self.tall)
        outer = (self.width + 22.0, 2.0, 82.0 * self.tall)
        return (inner, bend, 7.5, 5.5), (bend, outer, 5.5, 6.5)

    def _collar(self, hu, side, y, z, px):
        some = np.flatnonzero((z > 44.0 * self.tall) & (z < 92.0 * self.tall))
        if not some.size:
            return
        part, at = hu[some], (side[some], y[some], z[some])
        bone = np.minimum(*(rod(*at, *piece) for piece in self._collar_bones()))
        over(part, bone, CORTEX, px)
        over(part, bone + 2.2, MARROW, px)
        hu[some] = part

    def _spine(self, hu, x, y, z, px):
        side, axis = np.abs(x), 0.45 * self.depth
        turn = (z / 23.0 + self.rib[0]) % 1.0
        arch = bump(turn, 0.1, 0.9)
        canal = norm(x, y - axis - 25.0)
        spine = np.minimum(canal - 12.5, oval(x, y - axis, 19.0 - 2.0 * arch, 15.5, 0.5))
        spinous = capsule(x, y, 0.0, axis + 36.0, 0.0, axis + 54.0) - 3.6
        across = capsule(side, y, 8.0, axis + 24.0, 34.0, axis + 33.0) - 5.5 * arch
        spine = np.minimum(np.minimum(spine, spinous), np.where(arch > 0.3, across, _FAR))
        over(hu, spine, 330.0, px)
        over(hu, spine + 2.4, np.where(turn < 0.06, 60.0, 150.0), px)
        over(hu, canal - 8.0, 25.0, px)

    def _parenchyma(self, x, y, z, px, field):
        """The lung itself: denser at the back, finely mottled, faint fissures."""
        hu = self.lung_hu + self.gravity * y / self.depth
        hu = hu + self.texture * (1.2 * field(3.2) + 0.7 * field(5.0) + 0.7 * field(11.0, -1))
        oblique = self.oblique(x, y, z)
        minor = 0.35 * np.abs(self.horizontal(x, y, z))
        fissure = np.minimum(np.abs(oblique), np.where((x < 0) & (oblique < 0), minor, _FAR))
        return hu + 55.0 * np.clip(1.0 - fissure / max(px, 1.2), 0.0, 1.0)
