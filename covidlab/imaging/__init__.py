"""Image → image, mask → mask: wavelets, size, scale, and what befalls pictures."""

from .basic import resize, resize_mask, stretch
from .corruption import CORRUPTIONS, corrupt
from .wavelet import idwt_enhance, two_level

ENHANCEMENTS = {"none": None, "idwt": idwt_enhance}

__all__ = [
    "CORRUPTIONS",
    "ENHANCEMENTS",
    "corrupt",
    "idwt_enhance",
    "resize",
    "resize_mask",
    "stretch",
    "two_level",
]
