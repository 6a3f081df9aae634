"""Comparisons as a forest plot, two factors as an interaction plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidlab._figures import palette, subplots

from .comparison import counted, factor_columns, note, told

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOUR, _GREY = "#0072b2", "0.45"


def plot_forest(comparison: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """The differences of `compare` with their intervals, one row each; n and corrected p beside them.

    A hollow point has no interval. Below the plot: how many runs were tried, and how many failed.
    """
    several = comparison["metric"].nunique() > 1
    figure, ax = subplots(ax=ax, figsize=(8, 1.3 + 0.42 * len(comparison)))
    rows = np.arange(len(comparison))[::-1]
    for y, (_, row) in zip(rows, comparison.iterrows(), strict=True):
        known = np.isfinite(row["low"])
        if known:
            ax.plot([row["low"], row["high"]], [y, y], color=_COLOUR, lw=2, solid_capstyle="butt")
        fill = _COLOUR if known else "white"
        ax.plot(row["difference"], y, "o", color=_COLOUR, markerfacecolor=fill)
        text = f"n={row['n']}, p {told(row['p holm'])}"
        ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    labels = [
        f"{r['factor']}: {r['level']} − {r['baseline']}" + (f", {r['metric']}" if several else "")
        for _, r in comparison.iterrows()
    ]
    ax.axvline(0, color=_GREY, lw=1, ls="--")
    ax.set_yticks(rows, labels)
    ax.set_ylim(-0.7, len(comparison) - 0.3)
    what = "metric" if several else comparison["metric"].iloc[0]
    ax.set_xlabel(f"difference in {what}")
    ax.spines[["top", "right"]].set_visible(False)
    _below(figure, note(comparison.attrs))
    return figure


def plot_interaction(
    table: pd.DataFrame, factor: str, by: str, metric: str = "roc_auc", ax: Axes | None = None
) -> Figure:
    """Does a factor do the same at every level of another? Means joined by lines, each run a dot.

    Parallel lines: it does. A mean is of the runs there are, so with missing or failed ones lines
    may tilt for that reason alone; below the plot stands how many there were.
    """
    known = factor_columns(table)
    for name in (factor, by):
        if name not in known:
            raise ValueError(f"no factor {name!r} in the table: there are {', '.join(known)}")
    if factor == by:
        raise ValueError(f"factor and by are both {by!r}: name two")
    done = table[table["state"] == "done"]
    if metric not in done:
        raise ValueError(f"no metric {metric!r} in the table")
    orders = {f: [v for v in _order(table, f) if v in set(done[f])] for f in (factor, by)}
    figure, ax = subplots(ax=ax, figsize=(6.5, 4))
    colours = palette(orders[by])
    for k, level in enumerate(orders[by]):
        of = done[done[by] == level]
        shift = 0.06 * (k - (len(orders[by]) - 1) / 2)
        x = np.array([orders[factor].index(v) for v in of[factor]]) + shift
        ax.plot(x, of[metric], "o", ms=4, alpha=0.45, color=colours[level])
        means = of.groupby(factor)[metric].mean().reindex(orders[factor])
        at = np.arange(len(means)) + shift
        ax.plot(at, means, "-o", ms=7, color=colours[level], label=f"{level} (n={len(of)})")
    ax.set_xticks(range(len(orders[factor])), orders[factor])
    ax.set(xlabel=factor, ylabel=metric, xlim=(-0.4, len(orders[factor]) - 0.6))
    ax.legend(title=by, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    tried, failed = counted(table)
    _below(figure, note({"study": table.attrs.get("study"), "tried": tried, "failed": failed}))
    return figure


def _order(table: pd.DataFrame, factor: str) -> list[str]:
    return table.attrs.get("factors", {}).get(factor) or list(dict.fromkeys(table[factor]))


def _below(figure, text: str):
    figure.supxlabel(text, fontsize=8, color=_GREY)
