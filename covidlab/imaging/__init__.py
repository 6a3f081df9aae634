"""Image → image, mask → mask: wavelets, size, scale, what befalls pictures, refinement of masks."""

from .basic import resize, resize_mask, stretch
from .corruption import CORRUPTIONS, corrupt
from .refine import (
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
from .wavelet import idwt_enhance, two_level

ENHANCEMENTS = {"none": None, "idwt": idwt_enhance}

__all__ = [
    "CORRUPTIONS",
    "ENHANCEMENTS",
    "TAHIR_INFECTION",
    "TAHIR_LUNG",
    "TAHIR_REFINEMENT",
    "close",
    "corrupt",
    "dilate",
    "fill_holes",
    "idwt_enhance",
    "largest",
    "open_",
    "refine",
    "remove_small",
    "require_area",
    "resize",
    "resize_mask",
    "stretch",
    "two_level",
    "within",
]
