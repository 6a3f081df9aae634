"""Many recipes → one honest table: vary one thing, train again, compare in pairs."""

from importlib import import_module

_HOME = {
    "Study": "study",
    "compare": "comparison",
    "plot_forest": "figures",
    "plot_interaction": "figures",
    "predictions": "jobs",
    "read": "toml",
    "to_csv": "comparison",
    "to_latex": "comparison",
}
__all__ = [*_HOME]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"covidlab.ablation.{_HOME[name]}"), name)
    raise AttributeError(f"module 'covidlab.ablation' has no attribute {name!r}")
