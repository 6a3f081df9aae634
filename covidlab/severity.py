"""Lung mask + infection mask → how much of the lung; and how far a found share is from the truth.

The share of infected lung pixels is the percentage of Alom et al. 2020 (Section 5) and of Tahir 2021
(Section 3.2.2.3). On an X-ray it is of the lung's projected area, not of its volume. No paper
here says from which share on an infection is mild or severe, so neither do we.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


def infected_share(infection: np.ndarray, lung: np.ndarray):
    """Infected pixels in the lung by lung pixels, in [0, 1]; NaN where there is no lung.

    Parameters
    ----------
    infection, lung : bool, both (H, W), for a float; or both (N, H, W), for float64 (N,), one share
        an image. For the share of a volume use `volume_share`. What of `infection` lies outside
        the lung is not counted. For one lung alone hand over its mask.

    Raises ValueError for other shapes and for what is not bool.
    """
    infection, lung = _masks(infection, lung, (2, 3))
    sick, whole = ((infection & lung).sum((-2, -1)), lung.sum((-2, -1)))
    share = np.divide(sick, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return float(share) if share.ndim == 0 else share


def share_by_lung(
    infection: np.ndarray, right: np.ndarray, left: np.ndarray
) -> dict[str, float | np.ndarray]:
    """{"right", "left", "both"}: `infected_share` of each lung and of the two together.

    `right` and `left` are the patient's, so the right lung stands on the image's left in the usual
    view. Tahir 2021, Section 3.2.2.3, gives each lung's share too. Shapes and errors as in
    `infected_share`, and ValueError where the lungs overlap.
    """
    right, left = _masks(right, left, (2, 3), ("right", "left"))
    if (right & left).any():
        raise ValueError(
            f"right and left overlap in {(right & left).sum()} pixels; part them first"
        )
    lungs = {"right": right, "left": left, "both": right | left}
    return {name: infected_share(infection, lung) for name, lung in lungs.items()}


def split_lungs(lung: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(right, left) of a lung mask (H, W) bool: the patient's, so the right lung is the image's left.

    A region that hangs together goes to the side of the middle where most of it lies; one with a
    fifth or more on either side is cut there, as two lungs that run into each other. The middle is
    that of the mask, or of the image where there is one region only, as one lung may be missing.
    Tahir 2021, Section 3.2.2.3, does not say how the lungs were told apart.

    Raises ValueError for what is no bool (H, W).
    """
    from scipy.ndimage import label

    lung = np.asarray(lung)
    if lung.dtype != bool or lung.ndim != 2:
        raise ValueError(f"lung is {lung.dtype} {lung.shape}; a bool (H, W) mask is needed")
    regions, n = label(lung, np.ones((3, 3)))
    columns = np.flatnonzero(lung.any(0)) if n > 1 else np.arange(lung.shape[1])
    side = np.arange(lung.shape[1]) < (columns[0] + columns[-1] + 1) / 2
    right = np.zeros_like(lung)
    for region in (regions == i for i in range(1, n + 1)):
        part = region[:, side].sum() / region.sum()
        right |= region & (side if 0.2 <= part <= 0.8 else part > 0.5)
    return right, lung & ~right


def plot_progress(images, lungs, infections, days=None):
    """A patient followed over days: each X-ray with its infection, and the shares; the Figure.

    Tahir 2021, Figure 12b. `images` (H, W) in [0, 1], `lungs` and `infections` (H, W) bool, one for
    each of the `days` (numbers or names, by default 1, 2, …). Raises ValueError for other numbers.
    """
    from matplotlib.ticker import PercentFormatter

    from covidlab._figures import subplots
    from covidlab.datasets.figures import MASK_COLOURS

    days = list(range(1, len(images) + 1)) if days is None else list(days)
    if not len(images) == len(lungs) == len(infections) == len(days) > 0:
        given = f"{len(images)} images, {len(lungs)} lungs, {len(infections)} infections"
        raise ValueError(f"{given}, {len(days)} days: as many of each are needed, above 0")
    shares = pd.DataFrame(
        [share_by_lung(i, *split_lungs(m)) for i, m in zip(infections, lungs, strict=True)], days
    )
    n = len(days)
    layout = [[f"{i}" for i in range(n)], ["chart"] * n]
    figure, _ = subplots(figsize=(max(2.3 * n, 5), 5))
    figure.clear()
    axes = figure.subplot_mosaic(layout, height_ratios=(1.2, 1))
    for i, day in enumerate(days):
        ax = axes[f"{i}"]
        ax.imshow(images[i], cmap="gray", vmin=0, vmax=1)
        for mask, name in ((lungs[i], "lung_mask"), (infections[i], "infection_mask")):
            if mask.any():
                ax.contour(mask, [0.5], colors=MASK_COLOURS[name], linewidths=1)
        ax.set_title(f"day {day}: {shares['both'].iloc[i]:.0%}", fontsize=9)
        ax.set_axis_off()
    for name, style in (("both", "-"), ("right", "--"), ("left", ":")):
        axes["chart"].plot(range(n), shares[name], style, marker="o", color="#d55e00", label=name)
    axes["chart"].set_xticks(range(n), days)
    axes["chart"].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes["chart"].margins(y=0.08)
    axes["chart"].set(xlabel="day", ylabel="infected part of the lung", ylim=(0, None))
    axes["chart"].legend(fontsize=8)
    return figure


class VolumeShare(NamedTuple):
    """Infected part of the lung's volume in [0, 1], NaN without lung; and both volumes in ml."""

    share: float
    infected_ml: float
    lung_ml: float


def volume_share(
    infection: np.ndarray, lung: np.ndarray, spacing, z: np.ndarray | None = None
) -> VolumeShare:
    """How much of a patient's lungs is infected, from a stack of slices.

    It is not the mean of the slices' shares: a slice counts by the lung that it shows.

    Parameters
    ----------
    infection, lung : (D, H, W) bool.
    spacing : mm between slices, rows and columns. The first does not change the share, and is not
        used where `z` is given.
    z : (D,) heights of the slices in mm, for slices that are not evenly spaced: each then stands
        for half the way to either neighbour, the outer two for as far outwards as inwards.

    Raises ValueError for masks as in `infected_share`, spacings that are not above 0, heights that
    neither rise nor fall.
    """
    infection, lung = _masks(infection, lung, (3,))
    spacing = np.asarray(spacing, float)
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise ValueError(f"spacing={spacing!r} must be three lengths above 0, in mm")
    thickness = np.full(len(lung), spacing[0]) if z is None else _thickness(z, len(lung))
    voxel = thickness * spacing[1] * spacing[2] / 1000.0
    sick = float((infection & lung).sum((1, 2)) @ voxel)
    whole = float(lung.sum((1, 2)) @ voxel)
    return VolumeShare(sick / whole if whole else np.nan, sick, whole)


def agreement(
    truth,
    found,
    patients=None,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How well found shares (or any measure on the truth's scale) agree with the true ones.

    Parameters
    ----------
    truth, found : (N,) numbers, one an image or a patient.
    patients : (N,) ids; None takes every value for another patient.

    Returns
    -------
    Columns value, low, high, method, n (values) and patients; rows:

    - bias: mean of found − truth;
    - lower limit, upper limit: bias ± z·s with s the standard deviation of the differences, z = 1.96
      at 0.95: within them lie 95 % of differences, if these are normal and the same at every size
      (Bland and Altman, Lancet 1986);
    - mae: mean absolute difference;
    - ccc: Lin's concordance correlation (Biometrics 1989), 1 only where all values are equal;
      correlation falls short of it in that it forgives bias and scale. NaN where neither varies.

    Where every patient has one value, the intervals of bias and limits are Bland and Altman's (1999):
    t with n − 1 degrees of freedom on s/√n and, for a limit, on s·√(1/n + z²/(2(n − 1))). All
    others are percentiles of `n_boot` resamples of patients, who bring all their values. Bounds are
    NaN where there is one patient only.

    Raises ValueError for lengths that differ, no values, or values that are not finite.
    """
    truth, found, patients = _pairs(truth, found, patients)
    if not 0 < level < 1 or n_boot < 1:
        raise ValueError(f"level={level} must lie in 0..1 and n_boot={n_boot} be 1 or more")
    unit, n_patients = _units(patients, len(truth))
    centre = truth.mean()  # sums of squares around it keep their digits
    sums = _sums(truth - centre, found - centre, unit, n_patients)
    z = _normal(level)
    values = {k: float(v) for k, v in _measures(sums.sum(0), z).items()}
    bounds = dict.fromkeys(values, (np.nan, np.nan))
    method = dict.fromkeys(values, "bootstrap, patients")
    if n_patients > 1:
        drawn = _resampled(sums, n_boot, seed)
        tails = [(1 - level) / 2, (1 + level) / 2]
        bounds = {k: _quantiles(v, tails) for k, v in _measures(drawn, z).items()}
        if n_patients == len(truth):
            closed = _bland_altman(values, (found - truth).std(ddof=1), len(truth), level)
            bounds |= closed
            method |= dict.fromkeys(closed, "Bland–Altman, t")
    rows = {k: (v, *bounds[k], method[k], len(truth), n_patients) for k, v in values.items()}
    columns = ["value", "low", "high", "method", "n", "patients"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("measure")


def plot_agreement(
    truth,
    found,
    patients=None,
    against: str = "mean",
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    ax=None,
):
    """Bland–Altman plot of two shares: their difference over their size; returns the Figure.

    Lines are the bias and the limits of `agreement`, bands their intervals. `against`: "mean" of
    both, as Bland and Altman have it, or "truth", where that is known without error. Points that
    climb or fan out say that one bias and one pair of limits do not tell the whole.
    """
    from matplotlib.ticker import PercentFormatter

    from covidlab._figures import subplots

    if against not in ("mean", "truth"):
        raise ValueError(f'against={against!r} must be "mean" or "truth"')
    table = agreement(truth, found, patients, level, n_boot, seed)
    truth, found, _ = _pairs(truth, found, patients)
    figure, ax = subplots(ax=ax, figsize=(5.5, 4))
    at = truth if against == "truth" else (truth + found) / 2
    ax.scatter(at, found - truth, s=14, alpha=0.6, color="#0072b2", linewidths=0)
    ax.axhline(0, color="0.6", linewidth=0.8)
    for name, style in (("bias", "-"), ("lower limit", "--"), ("upper limit", "--")):
        value, low, high = table.loc[name, ["value", "low", "high"]]
        ax.axhline(value, color="#d55e00", linestyle=style)
        if np.isfinite(low):
            ax.axhspan(low, high, color="#d55e00", alpha=0.12, linewidth=0)
        label = f"{name} {value:+.1%}"
        ax.annotate(
            label, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8
        )
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("true share" if against == "truth" else "mean of found and true share")
    ax.set_ylabel("found − true share")
    n, people = table[["n", "patients"]].iloc[0]
    ax.set_title(f"{n} values of {people} patients" if people < n else f"{n} patients", size=10)
    return figure


# --- masks ---------------------------------------------------------------------------------------


def _masks(a, b, dimensions, names=("infection", "lung")):
    a, b = np.asarray(a), np.asarray(b)
    for name, mask in zip(names, (a, b), strict=True):
        if mask.dtype != bool:
            raise ValueError(f"{name} is {mask.dtype}, not bool: `> 0` makes a mask of 0 and 255")
    if a.shape != b.shape or a.ndim not in dimensions:
        wanted = " or ".join({2: "(H, W)", 3: "(N, H, W)"}[d] for d in dimensions)
        raise ValueError(f"{names[0]} {a.shape} and {names[1]} {b.shape} must be one {wanted}")
    return a, b


def _thickness(z, n: int) -> np.ndarray:
    z = np.asarray(z, float)
    if z.shape != (n,) or n < 2:
        raise ValueError(f"z has shape {z.shape} for {n} slices; two or more heights are needed")
    gaps = np.diff(z)
    if not ((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError("z must rise or fall from slice to slice: sort slices by height")
    gaps = np.abs(gaps)
    return (np.r_[gaps[0], gaps] + np.r_[gaps, gaps[-1]]) / 2


# --- agreement -----------------------------------------------------------------------------------


def _pairs(truth, found, patients):
    truth, found = np.asarray(truth, float), np.asarray(found, float)
    if truth.ndim != 1 or truth.shape != found.shape or not len(truth):
        raise ValueError(f"truth {truth.shape} and found {found.shape} must be one (N,), N above 0")
    if bad := int((~np.isfinite(truth) | ~np.isfinite(found)).sum()):
        raise ValueError(
            f"{bad} of {len(truth)} pairs are not finite: leave out images without lung"
        )
    if patients is not None and np.shape(patients) != truth.shape:
        raise ValueError(f"patients {np.shape(patients)} for {len(truth)} values: one id each")
    return truth, found, patients


def _units(patients, n: int) -> tuple[np.ndarray, int]:
    if patients is None:
        return np.arange(n), n
    unit, known = pd.factorize(np.asarray(patients))
    return unit, len(known)


def _sums(x, y, unit, n_units) -> np.ndarray:
    """(U, 7) for each unit: count, Σx, Σy, Σx², Σy², Σxy, Σ|y − x|."""
    parts = (np.ones_like(x), x, y, x * x, y * y, x * y, np.abs(y - x))
    return np.stack([np.bincount(unit, part, n_units) for part in parts], axis=1)


def _resampled(sums, n_boot: int, seed: int) -> np.ndarray:
    """(n_boot, 7): the sums of as many units, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(sums)
    return np.stack([sums[rng.integers(n, size=n)].sum(0) for _ in range(n_boot)])


def _measures(sums, z: float) -> dict[str, np.ndarray]:
    """Every measure from (…, 7) sums."""
    n, x, y, xx, yy, xy, off = np.moveaxis(sums, -1, 0)
    mx, my = x / n, y / n
    vx, vy, cov = xx / n - mx**2, yy / n - my**2, xy / n - mx * my
    bias = my - mx
    # Rounding may leave a little below 0 where there is no variance at all.
    spread = np.maximum(vx + vy - 2 * cov, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(spread * n / (n - 1))
        scale = vx + vy + bias**2
        ccc = np.where(scale > 1e-15, 2 * cov / scale, np.nan)
    return {
        "bias": bias,
        "lower limit": bias - z * sd,
        "upper limit": bias + z * sd,
        "mae": off / n,
        "ccc": ccc,
    }


def _bland_altman(values, sd: float, n: int, level: float) -> dict[str, tuple[float, float]]:
    from scipy.stats import t

    q, z = t.ppf((1 + level) / 2, n - 1), _normal(level)
    half = {"bias": q * sd / np.sqrt(n)}
    half["lower limit"] = half["upper limit"] = q * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))
    return {k: (values[k] - h, values[k] + h) for k, h in half.items()}


def _quantiles(draws, tails) -> tuple[float, float]:
    defined = draws[np.isfinite(draws)]
    return tuple(map(float, np.quantile(defined, tails))) if len(defined) else (np.nan, np.nan)


def _normal(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + level) / 2))
