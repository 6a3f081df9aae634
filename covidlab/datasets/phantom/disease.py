"""What a phantom patient has: lesions whose place, look and amount follow the disease.

Each lesion is a level field over the lungs; the disease is where it exceeds a cut, chosen so that
the lesion fills exactly the part of the lungs that was asked for. So the severity is an input, and
the shape follows.

What the drawing rests on (shares of patients):

- COVID-19, CT: ground glass 83 %, both lungs 78 %, peripheral 77 %, crazy paving 15 %, effusion 6 %;
  right lower lobe 87 %, left lower 81 %, upper 65 to 69 % (13 studies, Bao et al. 2020,
  PMC7151282). Ground glass first, consolidation later: 17 % on days 0-2, 55 % on days 3-5
  (Bernheim et al., Radiology 2020, doi:10.1148/radiol.2020200463, as tabled in a review).
- SARS, X-ray, 108 abnormal of 138: one focus 55 %, peripheral 75 %, lower zone 65 %, no effusion
  (Wong et al., Radiology 2003, doi:10.1148/radiol.2282030593).
- MERS: both lungs, basal 80 %, effusion 33 % (review, PMC7386480; of 15 CTs by Das et al. 2015 also
  5, though their abstract contradicts itself).
- Community-acquired (bacterial) pneumonia: one-sided 58 % of 36 and 64 % of 39 on CT (Liao et al.
  2020; a pneumococcal series, Internal Medicine 51); consolidation 30 of 35 (Reittner et al. 2003);
  effusion 14.5 % of 4,771 (Chest 2016, PMID 26836918). Lobar with air bronchograms: textbook.
- Other viral, influenza, CT, n 92: central 75 %, both lungs 43.5 %, with consolidation 62 %,
  effusion 5 % (PMC7175830, table 2).
- Hounsfield units: COVID-19 lesions -462 (SD 99), most between -700 and -500 (n 52,
  doi:10.1007/s42058-020-00034-2); the border of ground glass to consolidation is best put at -300
  (n 47, doi:10.1186/s12879-021-06556-z); transudate 5 (SD 3), exudate 15 (SD 5).

Abstracts, tables and reviews were read, not all full papers. Sizes, shapes, textures, everyday
findings and how severe each disease usually is were chosen by us to look right; it is not
epidemiology.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .body import LOBES, Body

GROUND_GLASS_HU = (-700.0, -300.0)  # means of lesions, before difficulty, texture and noise
CONSOLIDATION_HU = (-150.0, 50.0)
EFFUSION_HU = (0.0, 20.0)
DENSEST = 50.0  # no opacity is denser than soft tissue


@dataclass(frozen=True)
class Disease:
    """How often and where a disease shows: shares 0..1, lengths in mm.

    `bilateral`: share of patients with both lungs affected. `rim`: how fast foci thin out with
    the depth under the chest wall (inf: no preference; below 0: central). `base`, `back`: exponents of the
    preference for lower zones and for the back (0: none). `lobar`: foci fill one lobe each, up to
    its fissures. `spread`: foci on top of the first two, per unit of severity. `radius`: of a
    focus. `consolidated`: share of patients with consolidation and the range of its part of the
    lesion. `septa`: share with crazy paving. `effusion`: share with fluid. `typical`: median
    severity, with the spread of its logarithm. `fluid_only`: an effusion without infection.
    """

    name: str
    bilateral: float = 1.0
    rim: float = np.inf
    base: float = 0.0
    back: float = 0.0
    lobar: bool = False
    spread: float = 14.0
    radius: tuple[float, float] = (22.0, 48.0)
    flat: float = np.inf  # mm under the chest wall over which the lesion thins out
    consolidated: tuple[float, float, float] = (0.0, 0.0, 0.0)
    septa: float = 0.0
    effusion: float = 0.0
    typical: tuple[float, float] = (0.09, 0.8)
    fluid_only: bool = False

    @property
    def infectious(self) -> bool:
        return self.name != "normal" and not self.fluid_only


DISEASES = {
    d.name: d
    for d in (
        Disease("normal"),
        Disease(
            "COVID-19", bilateral=0.80, rim=11.0, base=1.0, back=1.3, flat=40.0,
            consolidated=(0.55, 0.05, 0.40), septa=0.15, effusion=0.06,
        ),
        Disease(
            "CAP", bilateral=0.33, lobar=True, radius=(30.0, 60.0),
            consolidated=(0.86, 0.45, 0.85), effusion=0.15, typical=(0.10, 0.6),
        ),
        Disease(
            "SARS", bilateral=0.38, rim=14.0, base=1.2, back=0.6, spread=6.0, radius=(20.0, 44.0),
            flat=45.0, consolidated=(0.6, 0.10, 0.50), septa=0.15, effusion=0.0,
        ),
        Disease(
            "MERS", bilateral=0.78, rim=10.0, base=1.8, back=0.8, spread=10.0, flat=40.0,
            consolidated=(0.4, 0.10, 0.45), septa=0.27, effusion=0.33, typical=(0.12, 0.8),
        ),
        Disease(
            "viral", bilateral=0.43, rim=-22.0, base=0.6, spread=45.0, radius=(9.0, 24.0),
            consolidated=(0.6, 0.05, 0.25), septa=0.05, effusion=0.05, typical=(0.07, 0.7),
        ),
        Disease("effusion", effusion=1.0, fluid_only=True, typical=(0.10, 0.6)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Lesion:
    """Ellipsoids with a noisy edge; the disease is where their common level exceeds `cut`."""

    centres: np.ndarray  # (n, 3), anatomical
    radii: np.ndarray  # (n, 3)
    hu: float  # of the opacity
    core_hu: float = 0.0  # of its densest part
    depth: float = np.inf  # under the chest wall over which the level falls by 1
    rough: float = 0.15  # edge noise, in units of level
    soft: float = 0.3  # width of the edge, in units of level
    core: float = np.inf  # level at which the core begins
    cut: float = 0.0
    lines: float = 0.0  # HU that thickened septa add
    lobes: tuple[str, ...] = ()  # the lesion ends at their fissures
    infection: bool = False

    def level(self, body, x, y, z, under, rough):
        """How deep in the lesion each point lies; arrays broadcast."""
        best = np.inf
        for (cx, cy, cz), (rx, ry, rz) in zip(
            self.centres.tolist(), self.radii.tolist(), strict=True
        ):
            d = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2
            best = np.minimum(best, d)
        level = 1.0 - np.sqrt(best) - under / self.depth + self.rough * rough
        if self.lobes:
            outside = np.minimum.reduce([body.lobe(x, y, z, name) for name in self.lobes])
            level = level - np.maximum(outside + 1.0, 0.0)
        return level


@dataclass(frozen=True)
class Fluid:
    """Free pleural fluid, which runs to the lowest place: `part` of the pleural cavity is full.

    `cuts` are its levels lying (CT, AP X-ray) and standing (PA X-ray); `sides` how full the
    right and the left side are, relative to each other.
    """

    part: float
    sides: tuple[float, float]
    cuts: tuple[float, float] = (np.inf, np.inf)
    hu: float = 12.0

    def level(self, body, x, y, z, under, standing):
        """Height of the fluid at each point, in mm over the lowest place, negated; with a rim."""
        side = np.where(x < 0, *self.sides)
        high, deep = (55.0, 30.0) if standing else (22.0, 14.0)
        rim = high * np.clip(1.0 - under / deep, 0.0, 1.0) ** 2  # it creeps up the chest wall
        # Lying, gravity pulls along the scanner's y, however the patient is turned and tilted.
        back = x * np.sin(body.angle) + y * np.cos(body.angle) + body.lean[1] * z
        down = -z if standing else 1.3 * back
        return down + rim - 400.0 * (1.0 - side)


class Illness:
    """What was drawn for one patient: `lesions`, `fluid`, and the numbers that follow from them.

    `severity`: infected part of the lung volume; `ground_glass` and `consolidation` parts of it;
    `effusion`: part of the pleural cavity that is fluid. All 0..1, read on the body's grid.
    """

    def __init__(
        self, body: Body, rng: np.random.Generator, name: str, severity: float | None, difficulty
    ):
        self.body, self.disease, self.difficulty = body, DISEASES[name], difficulty
        self.lesions, self.findings, self.fluid = [], [], None
        self._prepare()
        # The infection is drawn for everyone and painted for the infected only: it also decides at
        # which heights a patient is cut, so the height of a slice says nothing about its label.
        infected = self.disease.infectious and severity != 0
        like = self.disease if infected else DISEASES["COVID-19"]
        of_fluid, of_everyday = rng.spawn(2)  # the same whatever the disease
        fluid = self._fluid(of_fluid, severity)  # drowns no part of what is asked for
        dry = ~fluid
        lesion, sick = self._infection(rng, like, severity if infected else None, dry)
        self.sick = np.zeros(body.where.shape)
        self.sick[body.where] = sick
        self.dither = rng.random()
        parts = np.zeros(sick.shape, bool), np.zeros(sick.shape, bool)
        if infected:
            self.lesions = [lesion]
            core = self._level(lesion) > lesion.core
            parts = sick & ~core, sick & core
        self._everyday(of_everyday)
        self.severity, self.ground_glass, self.consolidation = (
            float(p[dry].mean()) for p in (sick & infected, *parts)
        )
        self.effusion = float(fluid.mean())

    def _prepare(self):
        body = self.body
        x, y, z = body.spots.T
        self.low = np.clip((body.top - z) / (body.top - z.min()), 0.0, 1.0)  # 0 apex, 1 base
        self.back = np.clip(0.5 + 0.5 * y / body.depth, 0.0, 1.0)
        self.contrast = 1.5 - 0.95 * self.difficulty

    def _opaque(self, hu):
        """Plainer or fainter by the difficulty, but never denser than soft tissue."""
        hu = self.body.lung_hu + self.contrast * (float(hu) - self.body.lung_hu)
        return float(min(hu, DENSEST))

    def _level(self, lesion):
        body = self.body
        return lesion.level(body, *body.spots.T, body.under, body.coarse)

    def _pick(self, rng, n, weight):
        return self.body.spots[rng.choice(len(self.body.spots), n, p=weight / weight.sum())]

    def _fill(self, volume, core, dry=True, **given):
        """The lesion whose cut makes it fill `volume` of the `dry` lungs, and where it is."""
        lesion = Lesion(**given)
        level = np.where(dry, self._level(lesion), -np.inf)
        if volume is not None:
            # At least one point: of any volume there is something to see.
            n = max(1, round(volume * np.isfinite(level).sum()))
            least = np.partition(level, -n)[-n]
            lesion = replace(lesion, cut=float(np.nextafter(least, -np.inf)))
        sick = level > lesion.cut
        if core > 0 and sick.any():
            lesion = replace(lesion, core=float(np.quantile(level[sick], 1.0 - core)))
        return lesion, sick

    def _infection(self, rng, disease, severity, dry):
        body, x = self.body, self.body.spots[:, 0]
        median, sigma = disease.typical
        volume = rng.lognormal(np.log(median), sigma) * (1.4 - 0.8 * self.difficulty)
        volume = float(np.clip(volume, 0.025, 0.6)) if severity is None else severity
        n = 2 + rng.poisson(2.0 + disease.spread * volume) if disease.spread else 1
        weight = (0.15 + self.back**disease.back) * (0.12 + self.low**disease.base)
        weight = weight * np.exp(-body.under / disease.rim)
        centres = self._pick(rng, n, weight)
        both = rng.random() < (disease.bilateral if volume < 0.25 else 1.0)
        stage = rng.random()  # of the course: ground glass, crazy paving, consolidation
        lobes = ()
        if disease.lobar:
            lobes, centres = self._lobes(rng, volume, both)
        elif not both:
            centres = self._pick(rng, n, weight * (np.sign(x) == np.sign(centres[0, 0])))
        elif np.all(np.sign(centres[:, 0]) == np.sign(centres[0, 0])):
            centres[-1] = self._pick(rng, 1, weight * (np.sign(x) != np.sign(centres[0, 0])))[0]
        n = len(centres)
        radii = rng.uniform(*disease.radius, (n, 1)) * rng.uniform(0.8, 1.25, (n, 3))
        share, least, most = disease.consolidated
        core = rng.uniform(least, most) * (1.2 - 0.6 * self.difficulty)
        core = float(core) if stage > 1.0 - share else 0.0
        lines = rng.uniform(60.0, 160.0) if rng.random() < disease.septa else 0.0
        return self._fill(
            volume, min(core, 0.95), dry, centres=centres, radii=radii, lobes=lobes, infection=True,
            depth=float(disease.flat * rng.uniform(0.6, 1.5)), rough=float(rng.uniform(0.16, 0.3)),
            soft=float(rng.uniform(0.2, 0.6)), hu=self._opaque(rng.uniform(-660.0, -400.0)),
            core_hu=float(rng.uniform(-100.0, 20.0)), lines=float(self.contrast * lines),
        )  # fmt: skip

    def _lobes(self, rng, volume, both):
        """Whole lobes, one after the other, until they can hold the volume; and their middles."""
        body, order = self.body, [LOBES[i] for i in rng.permutation(len(LOBES))]
        side = order[0].split()[0]
        order.sort(key=lambda name: not name.startswith(side))  # one side while there is room
        if both:
            order.insert(1, order.pop())
        inside = {name: body.lobe(*body.spots.T, name) < -1.0 for name in order}
        taken, room, centres = [], 0.0, []
        for name in order:
            taken.append(name)
            room += inside[name].mean()
            centres.append(self._pick(rng, 1, inside[name] + 1e-9)[0])
            if room > volume and len(taken) > int(both):
                break
        return tuple(taken), np.array(centres)

    def _fluid(self, rng, severity):
        """Draw an effusion, perhaps; bool (n,) of the spots that are under it when lying."""
        body, disease = self.body, self.disease
        has = rng.random() < disease.effusion
        part = float(np.clip(rng.lognormal(np.log(0.06), 0.6), 0.015, 0.35))
        if disease.fluid_only:
            part = float(np.clip(rng.lognormal(np.log(0.12), 0.6), 0.03, 0.5))
            part = part if severity is None else severity
        lesser = 1.0 if rng.random() < 0.4 else float(rng.uniform(0.0, 0.97))
        sides = (1.0, lesser) if rng.random() < 0.55 else (lesser, 1.0)
        if not has or part == 0.0:
            return np.zeros(len(body.spots), bool)
        fluid = Fluid(part, sides)
        # Anywhere in their voxels: on an even grid whole layers would lie at one height.
        points = body.spots + rng.uniform(-0.5, 0.5, body.spots.shape) * (6.5, 6.5, 5.5)
        levels = [fluid.level(body, *points.T, body.under, standing) for standing in (False, True)]
        cuts = tuple(float(np.quantile(level, 1.0 - part)) for level in levels)
        self.fluid = replace(fluid, cuts=cuts, hu=float(rng.uniform(*EFFUSION_HU)))
        self.findings.append("pleural effusion")
        return levels[0] > cuts[0]

    def _find(self, finding, volume=None, core=0.0, **given):
        self.findings.append(finding)
        self.lesions.insert(0, self._fill(volume, core, **given)[0])

    def _everyday(self, rng):
        """Findings of every day, in all, and what looks like an infection, in the healthy only."""
        body = self.body
        likely = 0.05 + 0.5 * self.difficulty
        if rng.random() < likely:
            low_back = (0.97 * body.depth, body.domes[0])
            base = np.array([[s * 0.5 * body.width, *low_back] for s in (-1, 1)])
            self._find(
                "dependent atelectasis", centres=base,
                radii=np.array([[60.0, rng.uniform(12.0, 20.0), 90.0]] * 2),
                hu=self._opaque(rng.uniform(-640.0, -420.0)),
            )  # fmt: skip
        if rng.random() < 0.25:
            n = rng.integers(1, 4)
            self._find(
                "nodules", centres=self._pick(rng, n, np.ones(len(body.spots))), rough=0.05,
                radii=np.repeat(rng.uniform(3.0, 9.0, (n, 1)), 3, axis=1),
                hu=float(rng.uniform(-150.0, 40.0)),
            )  # fmt: skip
        if rng.random() < 0.2:
            n = rng.integers(4, 14)
            self._find(
                "emphysema", centres=self._pick(rng, n, (1.05 - self.low) ** 2), hu=-960.0,
                radii=rng.uniform(6.0, 16.0, (n, 3)), rough=0.35, soft=0.5,
            )  # fmt: skip
        other, side = rng.random(), rng.choice([-1, 1])
        if self.disease.name != "normal":
            return
        if other < 0.6 * likely:
            at = [side * 0.42 * body.width, rng.uniform(-0.3, 0.4) * body.depth, -35.0]
            self._find(
                "collapse or mass", volume=rng.uniform(0.015, 0.09), core=0.6,
                centres=np.array(at)[None] + rng.normal(0, 14.0, (3, 3)), soft=0.2,
                radii=rng.uniform(16.0, 40.0, (3, 3)), rough=float(rng.uniform(0.15, 0.3)),
                hu=float(rng.uniform(-500.0, -250.0)), core_hu=float(rng.uniform(-80.0, 40.0)),
            )  # fmt: skip
        elif other < 1.1 * likely:
            hila = np.array([[s * 0.40 * body.width, 8.0, -25.0] for s in (-1, 1)])
            self._find(
                "perihilar oedema", volume=rng.uniform(0.06, 0.25), centres=hila, depth=-120.0,
                radii=np.array([[34.0, 40.0, 56.0]] * 2), rough=0.22, soft=0.6,
                hu=float(rng.uniform(-720.0, -520.0)), lines=float(rng.uniform(0.0, 90.0)),
            )  # fmt: skip

    # ---- painting --------------------------------------------------------------------------

    def paint(self, hu, inside, x, y, z, wall, lung, rough, fine, standing=False):
        """Paint everything into `hu`; the masks as a dict of bool arrays like `hu`.

        x, y, z body coordinates and all other arrays of the shape of `hu`; `rough` and `fine` are
        noise for edges and texture (fine may be 0.0).
        """
        masks = {
            name: np.zeros(hu.shape, bool) for name in ("ground_glass", "consolidation", "effusion")
        }
        at = np.nonzero(inside > 0)
        if not at[0].size or not (self.lesions or self.fluid):
            return masks
        here = tuple(v[at] for v in np.broadcast_arrays(x, y, z))
        under, part, rough = -wall[at], inside[at], rough[at]
        fine = fine if np.isscalar(fine) else fine[at]
        air = lung[at] < 0
        values = hu[at]
        for lesion in self.lesions:
            level = lesion.level(self.body, *here, under, rough)
            fill = np.clip(0.4 + (level - lesion.cut) / lesion.soft, 0.0, 1.0)
            lines = 0.12 if np.isscalar(fine) else np.clip(1.0 - np.abs(fine) / 0.3, 0.0, 1.0)
            core = np.clip((level - lesion.core) / 0.15 + 0.5, 0.0, 1.0)
            value = lesion.hu + 45.0 * fine + 60.0 * rough + lesion.lines * lines
            value = value + core * (lesion.core_hu + 12.0 * fine - value)
            change = part * fill * (value - values)
            # Fluid adds to what is there already; only emphysema takes away.
            values += np.minimum(change, 0.0) if lesion.hu < -900.0 else np.maximum(change, 0.0)
            if lesion.infection:
                sick = (level > lesion.cut) & air
                masks["consolidation"][at] = sick & (level > lesion.core)
                masks["ground_glass"][at] = sick & (level <= lesion.core)
        if self.fluid is not None:
            level = self.fluid.level(self.body, *here, under, standing) - self.fluid.cuts[standing]
            squeezed = np.clip(1.0 + level / 9.0, 0.0, 1.0) * part  # the lung beside it collapses
            values += 0.6 * squeezed * np.maximum(-120.0 - values, 0.0)
            wet = np.clip(0.5 + level / 2.0, 0.0, 1.0) * part
            values += wet * (self.fluid.hu - values)
            masks["effusion"][at] = (level > 0) & air
            for name in ("ground_glass", "consolidation"):
                masks[name] &= ~masks["effusion"]
        hu[at] = values
        return masks
