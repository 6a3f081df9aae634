"""What every figure function shares: a Figure that a notebook cell shows once, by returning it."""

from __future__ import annotations

from collections.abc import Iterable

# Okabe and Ito's colours, told apart by colour-blind eyes: what a class is called decides its own.
CLASS_COLOURS = {  # by name in lower case
    **dict.fromkeys(("covid", "covid-19", "infected", "infection"), "#d55e00"),
    **dict.fromkeys(("noncovid", "non-covid", "pneumonia", "cap"), "#0072b2"),
    **dict.fromkeys(("normal", "healthy", "no_findings", "no finding"), "#009e73"),
    "mers": "#cc79a7",
    "sars": "#56b4e9",
}
_OTHERS = ("#e69f00", "#56b4e9", "#cc79a7", "#0072b2", "#009e73", "#d55e00", "#f0e442", "#000000")


def palette(names: Iterable[str]) -> dict[str, str]:
    """A colour (#rrggbb) for each name: the workbook's own for a class, else one not yet taken.

    The same names always get the same colours; beyond eight they repeat.
    """
    names = list(dict.fromkeys(names))
    out, used = {}, set()
    for name in names:
        colour = CLASS_COLOURS.get(name.lower())
        if colour and colour not in used:
            out[name] = colour
            used.add(colour)
    for name in names:
        if name not in out:
            free = [c for c in _OTHERS if c not in used]
            out[name] = free[0] if free else _OTHERS[len(out) % len(_OTHERS)]
            used.add(out[name])
    return {name: out[name] for name in names}


def subplots(*shape, ax=None, **options):
    """(figure, axes) like pyplot's, or those of a given `ax`.

    The figure is closed in pyplot: left open there, one that a notebook cell returns would be
    shown twice.
    """
    if ax is not None:
        return ax.figure, ax
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(*shape, layout="constrained", **options)
    plt.close(figure)
    return figure, axes
