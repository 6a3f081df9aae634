"""Do two people say the same, and draw the same?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidlab.evaluation.intervals import Interval

from .log import DECISIONS, DecisionLog


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two (H, W) bool masks; 1 where both are empty.

    Raises ValueError for masks of different shapes, or that are not bool.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != bool or b.dtype != bool:
        raise ValueError(f"two bool masks of one shape are needed, not {a.shape} and {b.shape}")
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def kappa(
    first, second, patients=None, level: float = 0.95, n_boot: int = 2000, seed: int = 0
) -> Interval:
    """Cohen's κ of two people's answers to the same questions: agreement beyond chance.

    (p − e) / (1 − e), with p the share of equal answers and e the share there would be if both
    answered as often as they do, but blindly (Cohen 1960). 1 is full agreement, 0 chance. The interval
    is that of `n_boot` resamples of patients; NaN where all resamples agree fully. κ is undefined
    where both people gave one and the same answer throughout.

    Raises ValueError for answers of different length, or none.
    """
    from sklearn.metrics import cohen_kappa_score

    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"as many answers of each are needed: {first.shape} and {second.shape}")
    labels = sorted({*first, *second})
    a, b = (np.searchsorted(labels, answers) for answers in (first, second))

    def measure(rows):
        table = np.zeros((len(labels), len(labels)))
        np.add.at(table, (a[rows], b[rows]), 1 / len(rows))
        chance = table.sum(0) @ table.sum(1)
        return (np.trace(table) - chance) / (1 - chance) if chance < 1 - 1e-12 else np.nan

    value = cohen_kappa_score(first, second, labels=labels) if len(labels) > 1 else np.nan
    return _resampled(measure, len(first), patients, level, n_boot, seed)._replace(value=value)


def agreement(
    log: DecisionLog,
    first: str,
    second: str,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How two people agree on the images that both decided about.

    Returns
    -------
    A table of the rows `kappa` (of the four decisions), `same decision` (share) and `dice` (mean
    over the images of which both left a mask), with value, low, high and n images; bounds are those
    of resampled patients. And one row for each image: both decisions, and the Dice of both masks.

    Raises ValueError where the two have no image in common.
    """
    by = [log.state(who) for who in (first, second)]
    images = [name for name in log.dataset.frame["image"] if all(name in each for each in by)]
    if not images:
        raise ValueError(f"{first} and {second} have not decided about the same image yet")
    rows = []
    for name in images:
        pair = [each[name] for each in by]
        masks = [log.mask(d) for d in pair]
        overlap = np.nan if any(m is None for m in masks) else dice(*masks)
        rows.append((name, *(d.decision for d in pair), overlap))
    each = pd.DataFrame(rows, columns=["image", first, second, "dice"]).set_index("image")
    people = dict(zip(log.dataset.frame["image"], log.dataset.patients, strict=True))
    patients = np.array([people[name] for name in images])
    options = {"level": level, "n_boot": n_boot, "seed": seed}
    same = (each[first] == each[second]).to_numpy(float)
    drawn = each["dice"].notna().to_numpy()
    overlaps = each["dice"].to_numpy()[drawn]
    found = {
        "kappa": kappa(each[first], each[second], patients, **options),
        "same decision": _resampled(
            lambda r: same[r].mean(), len(same), patients, level, n_boot, seed
        ),
    }
    if drawn.any():
        found["dice"] = _resampled(
            lambda r: overlaps[r].mean(), len(overlaps), patients[drawn], level, n_boot, seed
        )
    table = {
        k: (v.value, v.low, v.high, len(overlaps) if k == "dice" else len(each))
        for k, v in found.items()
    }
    return pd.DataFrame.from_dict(table, "index", columns=["value", "low", "high", "n"]), each


def crosstab(each: pd.DataFrame) -> pd.DataFrame:
    """How often each pair of decisions was made: the first person down, the second across."""
    first, second = each.columns[:2]
    table = pd.crosstab(each[first], each[second])
    seen = [d for d in DECISIONS if d in table.index or d in table.columns]
    return table.reindex(index=seen, columns=seen, fill_value=0)


def _resampled(measure, n, patients, level, n_boot, seed) -> Interval:
    """A measure of rows, and percentiles of it over patients drawn with replacement."""
    patients = np.arange(n) if patients is None else np.asarray(patients)
    groups = [np.flatnonzero(patients == p) for p in pd.unique(patients)]
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            measure(
                np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))])
            )
            for _ in range(n_boot)
        ]
    )
    value, defined = float(measure(np.arange(n))), draws[np.isfinite(draws)]
    low = high = np.nan
    if len(defined) and np.ptp(defined) > 1e-12:
        low, high = map(float, np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]))
    method, missing = "bootstrap, patients", len(draws) - len(defined)
    return Interval(value, low, high, method, level, len(groups), missing)
