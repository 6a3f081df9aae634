"""Image → image, mask → mask: wavelets, size, scale."""

from .basic import resize, resize_mask, stretch
from .wavelet import idwt_enhance, two_level

ENHANCEMENTS = {"none": None, "idwt": idwt_enhance}

__all__ = ["ENHANCEMENTS", "idwt_enhance", "resize", "resize_mask", "stretch", "two_level"]
