"""covidlab: the parts behind the notebooks. Research and teaching only, not for clinical use.

The rooms (`datasets`, `imaging`, `models`, `training`, `evaluation`, `explain`, `appraisal`,
`ablation`) load when first touched, so that `import covidlab` costs next to nothing.
"""

import os as _os
from importlib import import_module as _import_module

# libgomp's spinning makes two threads many times slower once a third process wants a core.
_os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
__all__ = [
    "ablation",
    "appraisal",
    "datasets",
    "evaluation",
    "explain",
    "imaging",
    "models",
    "training",
]


def __getattr__(name):
    if name in __all__:
        return _import_module(f"covidlab.{name}")
    raise AttributeError(f"module 'covidlab' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
