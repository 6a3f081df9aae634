"""One phantom patient: a body, an illness, and the pictures that can be made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .body import AIR, BLOOD, Body
from .disease import DISEASES, Illness
from .shapes import cut_tubes, noise

MIN_INFECTED = 0.015  # least infected part of the lung area in a slice labelled as infected
_BAND = 32768  # pixels that are drawn at once, to stay in the processor's cache
_PLANE = 2.5  # mm between the planes that are averaged for a thick slice


@dataclass(frozen=True)
class Slice:
    """One axial cut: `hu` float32 (H, W) in Hounsfield units; the others bool (H, W).

    `lung` is air-holding or infected lung, without pleural fluid; `ground_glass` and
    `consolidation` do not overlap and lie within it; `effusion` is the fluid beside it.
    """

    hu: np.ndarray
    lung: np.ndarray
    ground_glass: np.ndarray
    consolidation: np.ndarray
    effusion: np.ndarray

    @property
    def infection(self) -> np.ndarray:
        return self.ground_glass | self.consolidation


@dataclass(frozen=True)
class Volume:
    """A stack of slices, head first: arrays (D, H, W) as in `Slice`, heights `z` in mm (D,).

    `spacing` in mm: between slices, rows, columns.
    """

    hu: np.ndarray
    lung: np.ndarray
    ground_glass: np.ndarray
    consolidation: np.ndarray
    effusion: np.ndarray
    z: np.ndarray
    spacing: tuple[float, float, float]

    @property
    def infection(self) -> np.ndarray:
        return self.ground_glass | self.consolidation

    def __len__(self) -> int:
        return len(self.z)


class Patient:
    """One drawn patient; made by `patient`.

    Attributes: `patient_id`; `disease`, one of `DISEASES`; `severity`, infected part of the lung
    volume 0..1, with its parts `ground_glass` and `consolidation`; `effusion`, part of the pleural
    cavity filled with fluid; `findings`, names of what else was drawn; `female`; `fov`, side of the
    square CT field of view in mm; `body` and `illness`, of which all is made.
    """

    def __init__(self, k, seed, disease, severity, difficulty):
        self.k, self.seed, self.disease, self.difficulty = k, seed, disease, difficulty
        self.patient_id = f"phantom_{k:04d}"
        streams = np.random.SeedSequence(seed, spawn_key=(k,)).spawn(5)
        body, ill, scan, self._grain, self._film = streams
        self.body = Body(np.random.default_rng(body))
        self.illness = Illness(self.body, np.random.default_rng(ill), disease, severity, difficulty)
        self.female, self.fov = self.body.female, self.body.fov
        self.severity, self.effusion = self.illness.severity, self.illness.effusion
        self.ground_glass = self.illness.ground_glass
        self.consolidation = self.illness.consolidation
        self.findings = self.illness.findings
        rng = np.random.default_rng(scan)
        self.blur = rng.uniform(0.35, 0.65)  # reconstruction kernel, pixels
        self.grain = rng.uniform(14.0, 50.0) * (0.55 + 0.8 * difficulty)  # HU
        self._choose_levels()

    def __repr__(self):
        return (
            f"{self.patient_id} (seed {self.seed}): {self.disease}, {self.severity:.1%} infected, "
            f"{self.effusion:.1%} effusion"
        )

    def random(self, what: int) -> np.random.Generator:
        """This patient's own random numbers for whatever is decided after the drawing."""
        key = (*self._film.spawn_key, what)
        return np.random.default_rng(np.random.SeedSequence(self._film.entropy, spawn_key=key))

    # ---- where to cut ----------------------------------------------------------------------

    def _choose_levels(self):
        """The levels that may be cut: enough lung, and enough of the infection that was drawn."""
        z, lung = self.body.levels, self.body.where.sum((1, 2))
        sick, broad = self.illness.sick.sum((1, 2)), lung > 0.3 * lung.max()
        enough = broad & (sick >= 2.0 * MIN_INFECTED * lung)
        self._best = float(z[np.argmax(np.where(broad, sick / np.maximum(lung, 1), 0.0))])
        self._levels = z[enough] if enough.any() else np.array([self._best])

    def heights(self, n: int) -> np.ndarray:
        """`n` heights in mm, head first, spread evenly over the levels that show the infection.

        For a patient without infection, over those that would show it in COVID-19.
        """
        at = (np.arange(n) + 0.25 + 0.5 * self.illness.dither) / n * self._levels.size
        level = at.astype(int)
        return (self._levels[level] + (at - level - 0.5) * 5.5)[::-1]

    def spared(self, n: int) -> np.ndarray:
        """Up to `n` heights in mm, head first, spread over the levels with lung but no infection."""
        lung, sick = self.body.where.sum((1, 2)), self.illness.sick.sum((1, 2))
        levels = self.body.levels[(lung > 0.15 * lung.max()) & (sick == 0)]
        n = min(n, levels.size)
        at = (np.arange(n) + 0.5) / max(n, 1) * levels.size
        return levels[at.astype(int)][::-1]

    def extent(self) -> tuple[float, float]:
        """Lowest and highest z in mm with lung in it."""
        some = self.body.levels[self.body.where.any((1, 2))]
        return float(some[0] - 2.75), float(some[-1] + 2.75)

    def cut(self, z_mm: float, size: int = 192, **scan) -> tuple[float, Slice]:
        """The slice at `z_mm`; of an infected patient, the nearest that shows `MIN_INFECTED` or more.

        Returns where it was cut, and the slice. `scan` as in `render`.
        """
        for nearer in (0.0, 0.25, 0.5, 0.75, 1.0):
            z = round(z_mm + nearer * (self._best - z_mm), 2)
            cut = self.render(z, size, **scan)
            if self.severity == 0 or cut.infection.sum() >= MIN_INFECTED * cut.lung.sum():
                break
        return z, cut

    # ---- CT --------------------------------------------------------------------------------

    def render(
        self,
        z_mm: float,
        size: int = 192,
        *,
        thickness: float = 1.0,
        noise: float = 1.0,
        blur: float = 1.0,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> Slice:
        """The axial CT slice at height `z_mm`, `size` pixels square over the field of view.

        `thickness` in mm (above 2.5, the mean of planes at most 2.5 mm apart, with the masks of the
        middle one); `noise` and `blur` scale this patient's quantum noise and reconstruction kernel
        (0: none); `shift` moves the patient, table and all, x and y in mm.
        """
        if not 0.0 < thickness <= 50.0:
            raise ValueError(f"thickness must be above 0 and at most 50 mm, got {thickness}")
        if not (noise >= 0.0 and blur >= 0.0):
            raise ValueError(f"noise and blur must not be negative, got {noise} and {blur}")
        n = 2 * int(np.ceil(0.5 * (thickness / _PLANE - 1.0))) + 1  # odd: one is the middle
        offsets = (np.arange(n) - (n - 1) / 2) * thickness / n
        planes = [self._plane(z_mm + dz, size, shift) for dz in offsets]
        hu, masks = sum(p[0] for p in planes) / n, planes[n // 2][1]

        # Quantum noise lacks the low frequencies (filtered back-projection), then the kernel
        # smooths image and noise alike.
        key = (*self._grain.spawn_key, int(round((z_mm + 1000.0) * 1000)), size)
        rng = np.random.default_rng(np.random.SeedSequence(self._grain.entropy, spawn_key=key))
        grain = rng.standard_normal((size, size))
        grain -= gaussian_filter(grain, 2.0, truncate=3.0)
        hu += noise * self.grain / np.sqrt(max(1.0, thickness / _PLANE)) * grain
        if blur > 0:
            hu = gaussian_filter(hu, blur * self.blur, truncate=3.0)
        return Slice(np.clip(hu, -1024.0, 3071.0).astype(np.float32), **masks)

    def volume(
        self, size: int = 192, spacing: float = 5.0, *, progress: bool = False, **scan
    ) -> Volume:
        """Slices `spacing` mm apart through both lungs, head first; `scan` as in `render`.

        At 192 pixels and 5 mm about 55 slices, 15 MB. Raises ValueError for a spacing below 0.5 mm.
        """
        from tqdm.auto import tqdm

        if not 0.5 <= spacing <= 50.0:
            raise ValueError(f"spacing must lie in 0.5..50 mm, got {spacing}")
        low, high = self.extent()
        z = np.round(np.arange(high, low - 1e-6, -spacing), 2)
        slices = [
            self.render(float(h), size, **{"thickness": spacing, **scan})
            for h in tqdm(z, desc=f"scanning {self.patient_id}", disable=not progress, leave=False)
        ]
        names = ("hu", "lung", "ground_glass", "consolidation", "effusion")
        arrays = {name: np.stack([getattr(s, name) for s in slices]) for name in names}
        return Volume(**arrays, z=z, spacing=(float(spacing), self.fov / size, self.fov / size))

    def _plane(self, z_mm, size, shift):
        """HU (H, W) without noise, and the masks, of one thin plane."""
        body, px = self.body, self.fov / size
        grid = (np.arange(size) + 0.5) * px - self.fov / 2
        gx, gy = grid + body.shift[0] - shift[0], grid + body.shift[1] - shift[1]
        rows = max(8, _BAND // size)
        bands = [self._band(gx, gy[i : i + rows], float(z_mm), px) for i in range(0, size, rows)]
        hu, inside = (np.concatenate([band[i] for band in bands]) for i in (0, 1))
        masks = {name: np.concatenate([band[2][name] for band in bands]) for name in bands[0][2]}
        dry = inside * ~masks["effusion"]
        hu += dry * cut_tubes(body.vessels, z_mm, gx, gy) * (BLOOD - hu)
        walls = body.airways + np.array([0, 0, 0, 0, 0, 0, 1.0, 1.0])
        hu += 0.8 * cut_tubes(walls, z_mm, gx, gy) * (0.0 - hu)
        hu += cut_tubes(body.airways, z_mm, gx, gy) * (AIR + 20.0 - hu)
        return hu, masks

    def _band(self, gx, gy, z_mm, px):
        """(HU, part in the pleural cavity, masks) of some rows, before vessels and airways."""
        body, gz = self.body, np.array([z_mm])
        z = gz[:, None, None]
        x, y = body.from_scanner(gx[None, None, :], gy[None, :, None], z)

        def field(mm, flip=1):
            return noise(body.lattice[::flip], gx, gy, gz, mm)

        hu, inside, (wall, *_, lung) = body.tissue(x, y, z, px, field)
        rough = body.roughness(gx, gy, gz)
        masks = self.illness.paint(hu, inside, x, y, z, wall, lung, rough, field(3.2))
        masks["lung"] = (lung < 0) & ~masks["effusion"]
        return hu[0], inside[0], {name: mask[0] for name, mask in masks.items()}

    # ---- X-ray -----------------------------------------------------------------------------

    def xray(self, size: int = 256, **exposure):
        """The chest X-ray of the same body; see `covidlab.datasets.phantom.xray.project`."""
        from .xray import project

        return project(self, size, **exposure)


def patient(
    k: int,
    seed: int,
    *,
    disease: str = "COVID-19",
    severity: float | None = None,
    difficulty: float = 0.5,
) -> Patient:
    """Patient number `k` of the phantom with this `seed`; depends on nothing else.

    Parameters
    ----------
    k, seed : 0 or more. The body is the same whatever the disease, severity and difficulty.
    disease : one of `DISEASES`.
    severity : part of the lung volume that is infected, 0..1 (of the pleural cavity that is fluid,
        for "effusion"); None draws what is usual for the disease.
    difficulty : 0..1; up go noise and the number of look-alikes, down the contrast and, where
        `severity` is not given, the volume of the infection.

    Raises ValueError for arguments out of range.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    check_disease(disease, severity)
    check_share("difficulty", difficulty)
    return Patient(k, seed, disease, severity, float(difficulty))


def check_share(name: str, value: float) -> None:
    """ValueError unless `value` lies in 0..1 (NaN does not)."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in 0..1, got {value}")


def check_disease(disease: str, severity: float | None = None) -> None:
    if disease not in DISEASES:
        raise ValueError(f"disease={disease!r} is none of {', '.join(DISEASES)}")
    if severity is not None:
        check_share("severity", severity)
        if disease == "normal" and severity > 0:
            raise ValueError("severity must be 0 or None for disease='normal': choose a disease")
