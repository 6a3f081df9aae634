"""Runs → paired differences with intervals, effect sizes and corrected p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

_BLOCK = 200  # resamples at a time


def compare(
    table: pd.DataFrame,
    factor: str | Sequence[str],
    metric: str | Sequence[str] = "roc_auc",
    baseline: str | None = None,
    level: float = 0.95,
    over: str = "runs",
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every level of a factor against its baseline, in pairs that differ in nothing else.

    A pair is two runs of one seed, fold and levels of all other factors. Pairs of one seed and fold
    share images and luck, so they are averaged first: `n` counts seeds × folds, not runs.

    Parameters
    ----------
    table : `Study.table()`; failed runs take no part, but are counted.
    factor, metric : one or several. All comparisons of one call are one family.
    baseline : a level; by default the factor's first.
    over : what the interval and p speak of. "runs": other trainings, and splits where these differ:
        Student's t with n − 1 degrees of freedom on the differences. "patients": other patients
        with these very trainings: patients that both runs of each pair were tested on are drawn
        with replacement, within classes, the same for all pairs (for classification).

    Returns
    -------
    A row a comparison: factor, level, baseline, metric, both means, `difference` with `low` and
    `high`; `d`, Cohen's d_z of the paired differences with Hedges' correction for few, and its
    bounds; `p`, two-sided, and `p holm`; `n`, `pairs`; runs `tried` and `failed` in the study.
    `.attrs` says the method and the size of the family.

    Raises ValueError for a factor, level or metric that is not in the table, or nothing to pair.

    Notes
    -----
    One pair of seed and fold has no interval, d or p: they are NaN; so are those of differences
    that are all alike, and d of fewer than three.

    Parts that are split at random, or folds, share most of their training images, so their
    differences vary less than those of new samples would: where the test part is not the same in
    all of them, the variance of the mean is s²(1/n + n_test/n_train) (Nadeau and Bengio, Machine
    Learning 2003). Where it is the same, it is s²/n, and the interval speaks of other trainings on
    these images only. d's bounds come from the noncentral t. p is that of the same t, or the share
    of resamples on the other side of 0, doubled. `p holm` is Holm's correction (statsmodels); the
    rows without p are not in its family.
    """
    if over not in ("runs", "patients"):
        raise ValueError(f"over={over!r} must be 'runs' or 'patients'")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must be between 0 and 1")
    factors = [factor] if isinstance(factor, str) else list(factor)
    metrics = [metric] if isinstance(metric, str) else list(metric)
    if baseline is not None and len(factors) > 1:
        raise ValueError("baseline is one factor's: compare them one by one")
    done = table[table["state"] == "done"]
    rows = []
    for name in factors:
        first, others = _levels(table, name, baseline)
        for wanted in metrics:
            if wanted not in done:
                known = [c for c in done.select_dtypes("number") if c not in ("seed", "fold")]
                raise ValueError(f"no metric {wanted!r} in the table: there are {', '.join(known)}")
            for other in others:
                pairs = _pairs(done, name, other, first, wanted)
                row = {"factor": name, "level": other, "baseline": first, "metric": wanted}
                row |= {"mean": pairs["a"].mean(), "baseline mean": pairs["b"].mean()}
                of = _over_runs(pairs, level)
                if over == "patients":
                    of |= _over_patients(pairs, wanted, level, n_boot, seed)
                rows.append(row | of | {"pairs": len(pairs)})
    out = pd.DataFrame(rows)
    if not len(out) or not out["pairs"].any():
        raise ValueError(f"no two finished runs differ in {', '.join(factors)} alone")
    out.insert(out.columns.get_loc("p") + 1, "p holm", _holm(out["p"]))
    tried, failed = counted(table)
    out["tried"], out["failed"] = tried, failed
    out.attrs = {
        "study": table.attrs.get("study", ""),
        "tried": tried,
        "failed": failed,
        "comparisons": int(out["p"].notna().sum()),
        "level": level,
        "over": over,
        "method": _METHODS[over],
    }
    return out


_METHODS = {
    "runs": "t over seeds and folds",
    "patients": "bootstrap of patients, trainings as they are",
}


def counted(table: pd.DataFrame) -> tuple[int, int]:
    """Runs that were tried and that failed, in the study a table is of."""
    states = table["state"] if "state" in table else pd.Series(dtype=str)
    tried = table.attrs.get("tried", int(states.isin(["done", "failed"]).sum()))
    return tried, table.attrs.get("failed", int((states == "failed").sum()))


def note(attrs: Mapping) -> str:
    """What stands below a table or figure of comparisons."""
    study = f"{attrs['study']}: " if attrs.get("study") else ""
    text = f"{study}{attrs['tried']} runs tried, {attrs['failed']} failed"
    if "method" in attrs:
        text += f"; {attrs['level']:.0%} intervals: {attrs['method']}"
        text += f"; p corrected for {attrs['comparisons']} comparisons (Holm)"
    return text


def told(p: float) -> str:
    """A p-value in three digits."""
    return "–" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def to_csv(comparison: pd.DataFrame, path) -> Path:
    """Writes a table of `compare` (or any other); runs tried and failed are columns of it."""
    comparison.to_csv(path, index=False)
    return Path(path)


def to_latex(comparison: pd.DataFrame, path=None, digits: int = 3) -> str:
    """A table of `compare` for a paper: `difference [low, high]` in one column, runs tried in the caption.

    Returns the LaTeX (it needs the package booktabs), and writes it when there is a `path`.
    """

    def between(row, value, low, high):
        if np.isnan(row[value]):
            return "–"
        if np.isnan(row[low]):
            return f"{row[value]:.{digits}f}"
        return f"{row[value]:.{digits}f} [{row[low]:.{digits}f}, {row[high]:.{digits}f}]"

    shown = comparison[["factor", "level", "baseline", "metric"]].copy()
    shown["difference"] = [
        between(r, "difference", "low", "high") for _, r in comparison.iterrows()
    ]
    shown["d"] = [between(r, "d", "d low", "d high") for _, r in comparison.iterrows()]
    for p in ("p", "p holm"):
        shown[p] = [told(v) for v in comparison[p]]
    shown["n"] = comparison["n"]
    escape = str.maketrans({c: f"\\{c}" for c in "%&_#$"})
    text = shown.to_latex(
        index=False, escape=True, caption=note(comparison.attrs).translate(escape)
    )
    if path is not None:
        Path(path).write_text(text, "utf-8")
    return text


# --- pairs ---------------------------------------------------------------------------------------


def factor_columns(table: pd.DataFrame) -> list[str]:
    """The factors of a table: its columns before the seed."""
    return list(table.columns[: table.columns.get_loc("seed")])


def _levels(table, factor: str, baseline: str | None) -> tuple[str, list[str]]:
    known = factor_columns(table)
    if factor not in known:
        raise ValueError(f"no factor {factor!r} in the table: there are {', '.join(known)}")
    there = list(dict.fromkeys(table[factor]))
    order = [v for v in table.attrs.get("factors", {}).get(factor, there) if v in there]
    first = order[0] if baseline is None else baseline
    if first not in order:
        raise ValueError(f"baseline={baseline!r} is no level of {factor!r}: {', '.join(order)}")
    return first, [v for v in order if v != first]


def _pairs(done: pd.DataFrame, factor: str, level: str, baseline: str, metric: str) -> pd.DataFrame:
    """Runs beside their partners: seed, fold, a and b (the metric), and where each of them is."""
    keys = [c for c in factor_columns(done) if c != factor] + ["seed", "fold"]
    columns = [*keys, metric, "folder", "test_part", "train images", "test images"]
    there = done[[c for c in columns if c in done]]
    a, b = (there[done[factor] == v].rename(columns={metric: "value"}) for v in (level, baseline))
    both = a.merge(b, on=keys, suffixes=(" a", " b"), validate="one_to_one")
    both = both.rename(columns={"value a": "a", "value b": "b"})
    return both.dropna(subset=["a", "b"])


def _over_runs(pairs: pd.DataFrame, level: float) -> dict[str, float]:
    difference = (pairs["a"] - pairs["b"]).groupby([pairs["seed"], pairs["fold"]]).mean()
    n, names = len(difference), ("low", "high", "d", "d low", "d high", "p")
    out = {"difference": difference.mean(), **dict.fromkeys(names, np.nan), "n": n}
    spread = difference.std(ddof=1) if n > 1 else 0.0
    if not spread > 1e-12:
        return out
    from scipy import special, stats

    scale = np.sqrt(1 / n + _overlap(pairs))
    t, error = out["difference"] / (spread * scale), spread * scale
    half = stats.t.ppf((1 + level) / 2, n - 1) * error
    out |= {"low": out["difference"] - half, "high": out["difference"] + half}
    out["p"] = 2 * stats.t.sf(abs(t), n - 1)
    if n > 2:
        few = _hedges(n - 1)
        # the noncentralities under which this t is in the upper and in the lower tail
        low, high = (special.nctdtrinc(n - 1, (1 + s * level) / 2, t) for s in (1, -1))
        out |= {"d": few * t * scale, "d low": few * low * scale, "d high": few * high * scale}
    return out


def _overlap(pairs: pd.DataFrame) -> float:
    """n_test / n_train where test parts differ, else 0."""
    if "test_part a" not in pairs or pairs["test_part a"].nunique() == 1:
        return 0.0
    return float((pairs["test images a"] / pairs["train images a"]).mean())


def _hedges(df: int) -> float:
    """Γ(df/2) / (√(df/2) Γ((df − 1)/2)): what makes d unbiased (Hedges 1981)."""
    from scipy.special import gammaln

    return float(np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2))


def _over_patients(pairs, metric: str, level: float, n_boot: int, seed: int) -> dict[str, float]:
    """Interval and p of the mean difference, patients drawn anew and the same for every pair."""
    from covidlab.evaluation.intervals import _clusters, _evaluator, _percentile
    from covidlab.evaluation.metrics import metric_name
    from covidlab.predictions import Predictions

    from .jobs import predictions

    metric, kept = metric_name(metric), cache(predictions)
    functions, label = [], {}
    for a, b in zip(pairs["folder a"], pairs["folder b"], strict=True):
        found = kept(a), kept(b)
        if not all(isinstance(p, Predictions) for p in found):
            raise ValueError(
                "over='patients' is for classification; see evaluation.mask_difference"
            )
        if list(found[0].frame["image"]) != list(found[1].frame["image"]):
            raise ValueError(
                "over='patients' needs the same test images in both runs of a pair: use over='runs'"
            )
        clusters = _clusters(found[0], "patient", stratified=False)
        ids = _patient_names(found[0])
        names = np.empty(len(clusters.sizes), object)
        names[clusters.unit] = ids
        label |= dict(zip(ids, found[0].truth, strict=True))
        functions.append((names, *(_evaluator(p, [metric], clusters, None, False) for p in found)))
    patients = sorted(label)
    at = {name: i for i, name in enumerate(patients)}
    strata = [[at[p] for p in patients if label[p] == c] for c in sorted(set(label.values()))]
    rows = [np.array([at[p] for p in names]) for names, *_ in functions]
    block = pairs.groupby(["seed", "fold"])["a"]
    share = 1 / (block.transform("size") * block.ngroups).to_numpy()
    rng, draws = np.random.default_rng(seed), []
    for start in range(0, n_boot, _BLOCK):
        weights = np.zeros((min(_BLOCK, n_boot - start), len(patients)))
        for members in strata:
            drawn = rng.multinomial(
                len(members), np.full(len(members), 1 / len(members)), len(weights)
            )
            weights[:, members] = drawn
        each = [
            of_a(weights[:, r])[metric] - of_b(weights[:, r])[metric]
            for r, (_, of_a, of_b) in zip(rows, functions, strict=True)
        ]
        draws.append(np.average(each, axis=0, weights=share))
    draws = np.concatenate(draws)
    value = np.average(pairs["a"] - pairs["b"], weights=share)
    interval = _percentile(value, draws, level, "", len(patients))
    sides = [((draws <= 0).sum() + 1), ((draws >= 0).sum() + 1)]
    p = np.nan if np.isnan(interval.low) else min(1.0, 2 * min(sides) / (len(draws) + 1))
    return {"low": interval.low, "high": interval.high, "p": p}


def _patient_names(found) -> np.ndarray:
    ids = found.frame["patient_id"]
    return ids.where(ids != "", "image:" + found.frame["image"]).to_numpy(str)


def _holm(p: pd.Series) -> np.ndarray:
    from statsmodels.stats.multitest import multipletests

    out, there = np.full(len(p), np.nan), p.notna().to_numpy()
    if there.any():
        out[there] = multipletests(p[there], method="holm")[1]
    return out
