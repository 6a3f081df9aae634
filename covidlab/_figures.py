"""What every figure function shares: a Figure that a notebook cell shows once, by returning it."""

from __future__ import annotations


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
