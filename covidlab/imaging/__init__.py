"""Image → image, mask → mask: wavelets, schemes, size, corruption, refinement, bright regions."""

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
from .schemes import ENHANCEMENTS, SCHEMES, clahe, complement, prepared, three_channels
from .wavelet import idwt_enhance, two_level

__all__ = [
    "AHMED_REFINEMENT",
    "ALOM_LUNG",
    "CORRUPTIONS",
    "ENHANCEMENTS",
    "REGION_PARAMETERS",
    "Regions",
    "Resampled",
    "SCHEMES",
    "TAHIR_INFECTION",
    "TAHIR_LUNG",
    "TAHIR_REFINEMENT",
    "body_mask",
    "clahe",
    "close",
    "complement",
    "corrupt",
    "dilate",
    "fill_holes",
    "find_regions",
    "idwt_enhance",
    "keep_body",
    "largest",
    "open_",
    "plot_regions",
    "prepared",
    "refine",
    "remove_small",
    "require_area",
    "resample_slices",
    "resize",
    "resize_mask",
    "stretch",
    "three_channels",
    "to_uint8",
    "two_level",
    "within",
]
