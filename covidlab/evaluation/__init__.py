"""Predictions → numbers with intervals, curves, and the published tables beside ours."""

from .figures import plot_calibration, plot_confusion, plot_pr, plot_roc
from .intervals import (
    bootstrap,
    compare,
    cortes_mohri,
    delong,
    delong_test,
    difference,
    hanley_mcneil,
    interval,
    normal,
    report,
    wilson,
)
from .metrics import (
    METRICS,
    classification_metrics,
    confusion,
    from_confusion,
    from_counts,
    per_class,
)
from .papers import published, tables

__all__ = [
    "METRICS",
    "bootstrap",
    "classification_metrics",
    "compare",
    "confusion",
    "cortes_mohri",
    "delong",
    "delong_test",
    "difference",
    "from_confusion",
    "from_counts",
    "hanley_mcneil",
    "interval",
    "normal",
    "per_class",
    "plot_calibration",
    "plot_confusion",
    "plot_pr",
    "plot_roc",
    "published",
    "report",
    "tables",
    "wilson",
]
