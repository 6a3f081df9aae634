"""All of it by hand: feature spaces, masks and maps, in JupyterLab and in front of a class."""

from importlib import import_module

_HOME = {
    "FeatureExplorer": "features",
    "MapViewer": "maps",
    "MaskInspector": "masks",
    "MaskReview": "review",
    "RunBoard": "board",
}
__all__ = list(_HOME)


def __getattr__(name):  # anywidget is imported when the first widget is asked for
    if name in _HOME:
        return getattr(import_module(f"covidlab.widgets.{_HOME[name]}"), name)
    raise AttributeError(f"module 'covidlab.widgets' has no attribute {name!r}")
