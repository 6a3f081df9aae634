"""Image → image, mask → mask: wavelets, size, scale, corruption, refinement, bright regions."""

from functools import partial

from .basic import resize, resize_mask, stretch
from .body import Resampled, body_mask, keep_body, resample_slices, to_uint8
from .corruption import CORRUPTIONS, corrupt
from .refine import (
    AHMED_REFINEMENT,
    TAHIR_INFECTION,
    TAHIR_LUNG,
    TAHIR_REFINEMENT,
    close,
    dilate,
    fill_holes,
    largest,
    open_,
    refine,
    remove_small,
    require_area,
    within,
)
from .regions import ALOM_LUNG, REGION_PARAMETERS, Regions, find_regions, plot_regions
from .wavelet import idwt_enhance, two_level

ENHANCEMENTS = {
    "none": None,
    "stretch": stretch,
    "idwt": idwt_enhance,
    "body": keep_body,
    "body, twice as bright": partial(keep_body, brightness=2.0),
}

__all__ = [
    "AHMED_REFINEMENT",
    "ALOM_LUNG",
    "CORRUPTIONS",
    "ENHANCEMENTS",
    "REGION_PARAMETERS",
    "Regions",
    "Resampled",
    "TAHIR_INFECTION",
    "TAHIR_LUNG",
    "TAHIR_REFINEMENT",
    "body_mask",
    "close",
    "corrupt",
    "dilate",
    "fill_holes",
    "find_regions",
    "idwt_enhance",
    "keep_body",
    "largest",
    "open_",
    "plot_regions",
    "refine",
    "remove_small",
    "require_area",
    "resample_slices",
    "resize",
    "resize_mask",
    "stretch",
    "to_uint8",
    "two_level",
    "within",
]
