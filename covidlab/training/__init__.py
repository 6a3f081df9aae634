"""Dataset + recipe → trained fastai Learner, with a record of what was done."""

from importlib import import_module

from .recipe import (
    AHMED_HRNET,
    AHMED_LUNGS,
    AHMED_NETWORKS,
    ALOM_CT,
    ALOM_SEG_CT,
    ALOM_SEG_XRAY,
    ALOM_XRAY,
    GARG_FINE_TUNING,
    GARG_FIRST_SOURCE,
    GARG_LAST_LAYERS,
    GARG_SELF_TRAINING,
    KHAN_NETWORKS,
    KHAN_SCREENING,
    KHAN_SEGMENTATION,
    KHAN_SEGMENTERS,
    TAHIR_CLASSIFICATION,
    TAHIR_FAMILY,
    TAHIR_FAMILY_NETWORKS,
    TAHIR_NETWORKS,
    TAHIR_SEGMENTATION,
    TAHIR_SEGMENTERS,
    Recipe,
)
from .record import RunRecord
from .reproducible import set_seed

_HOME = {
    "ArrayDL": "loaders",
    "Bags": "patients",
    "GARG_PATIENTS": "patients",
    "MaskLoss": "losses",
    "PatientModel": "patients",
    "PatientRecipe": "patients",
    "RegionDice": "losses",
    "ahmed_augmentations": "augment_ahmed",
    "augmentations": "augment",
    "cross_validate": "folds",
    "dataloaders": "loaders",
    "estimate": "learners",
    "fit": "learners",
    "fit_patients": "patients",
    "infected_slices": "patients",
    "learner": "learners",
    "load_weights": "learners",
    "loader_for": "loaders",
    "predict": "learners",
    "prepare": "arrays",
    "slice_bags": "patients",
    "squared_dice": "losses",
    "static_attention": "losses",
    "train_only": "patients",
}
__all__ = [
    "AHMED_HRNET",
    "AHMED_LUNGS",
    "AHMED_NETWORKS",
    "ALOM_CT",
    "ALOM_SEG_CT",
    "ALOM_SEG_XRAY",
    "ALOM_XRAY",
    "GARG_FINE_TUNING",
    "GARG_FIRST_SOURCE",
    "GARG_LAST_LAYERS",
    "GARG_SELF_TRAINING",
    "KHAN_NETWORKS",
    "KHAN_SCREENING",
    "KHAN_SEGMENTATION",
    "KHAN_SEGMENTERS",
    "Recipe",
    "RunRecord",
    "TAHIR_CLASSIFICATION",
    "TAHIR_FAMILY",
    "TAHIR_FAMILY_NETWORKS",
    "TAHIR_NETWORKS",
    "TAHIR_SEGMENTATION",
    "TAHIR_SEGMENTERS",
    "set_seed",
    *_HOME,
]


def __getattr__(name):  # fastai is imported when the first training is asked for
    if name in _HOME:
        module = _quietly(_HOME[name])
        for attribute, home in _HOME.items():
            if home == _HOME[name]:
                globals()[attribute] = getattr(module, attribute)
        return globals()[name]
    raise AttributeError(f"module 'covidlab.training' has no attribute {name!r}")


def _quietly(module):
    """fastai warns, while it is imported, of three things that are its own to mend."""
    import warnings

    with warnings.catch_warnings():
        for message in ("numpy.core is deprecated", ".*chained_assignment", ".*torch.jit.script"):
            warnings.filterwarnings("ignore", message=message)
        return import_module(f"covidlab.training.{module}")
