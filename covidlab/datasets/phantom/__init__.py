"""A drawn thorax: seeded patients whose anatomy, disease and pictures are known exactly.

Every patient is an implicit body in millimetres that can be cut at any height, on any grid, as CT,
and projected as X-ray; no image of a real person went into it. It exists to teach, to test and to
show what a method does when the truth is known. Nothing measured on it says anything about clinical
accuracy.

`patient` draws one; `PRESETS` are sets that mirror the papers' data, which `covidlab.datasets.load`
makes by name.
"""

from .disease import DISEASES, Disease
from .patient import MIN_INFECTED, Patient, Slice, Volume, patient
from .presets import PRESETS, SOURCES, Preset
from .writer import WINDOW, generate
from .xray import Radiograph

__all__ = [
    "DISEASES",
    "MIN_INFECTED",
    "PRESETS",
    "SOURCES",
    "WINDOW",
    "Disease",
    "Patient",
    "Preset",
    "Radiograph",
    "Slice",
    "Volume",
    "generate",
    "patient",
]
