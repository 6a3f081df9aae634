"""Image → image, mask → mask: wavelets, size, scale, what befalls pictures, refinement of masks."""

from functools import partial

from .basic import resize, resize_mask, stretch
from .body import Resampled, body_mask, keep_body, resample_slices, to_uint8
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

ENHANCEMENTS = {
    "none": None,
    "idwt": idwt_enhance,
    "body": keep_body,
    "body, twice as bright": partial(keep_body, brightness=2.0),
}

__all__ = [
    "CORRUPTIONS",
    "ENHANCEMENTS",
    "Resampled",
    "TAHIR_INFECTION",
    "TAHIR_LUNG",
    "TAHIR_REFINEMENT",
    "body_mask",
    "close",
    "corrupt",
    "dilate",
    "fill_holes",
    "idwt_enhance",
    "keep_body",
    "largest",
    "open_",
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
