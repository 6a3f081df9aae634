"""From a file to an array: PNG and JPEG, TIFF, DICOM, 8 and 16 bit, without silent damage."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np

DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
TIFF_SUFFIXES = {".tif", ".tiff"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"} | TIFF_SUFFIXES | DICOM_SUFFIXES
LUNG_WINDOW = (-600.0, 1500.0)


class ImageError(ValueError):
    """A file that cannot be read as one greyscale picture; the message names it and the remedy."""


def read_image(path, window: tuple[float, float] | None = None) -> np.ndarray:
    """One greyscale image as (H, W) float32 in [0, 1].

    Integers are divided by the largest value of their type (255, 65535), so a 16-bit file keeps
    its contrast; floats outside [0, 1] are stretched from their least to their greatest value.
    Colour is turned to luminance (Rec. 601), transparency is dropped. DICOM goes through rescale
    slope and intercept and `window`, a (level, width) pair: the one given, else the first in the
    file, else the lung window for CT in Hounsfield units and the full range for others;
    MONOCHROME1 is inverted.

    Raises
    ------
    FileNotFoundError : no such file.
    ImageError : empty, truncated or not an image, more than one frame, or values that are not finite.
    """
    path = _existing(path)
    if is_dicom(path):
        return _dicom_window(path, window)
    if window is not None:
        raise ImageError(f"{path}: `window` needs Hounsfield units, which only DICOM files carry")
    return _unit_range(_to_grey(_pixels(path), path), path)


def read_hu(path) -> np.ndarray:
    """One CT slice from DICOM as (H, W) float32 in Hounsfield units (rescale slope and intercept)."""
    path = _existing(path)
    if not is_dicom(path):
        raise ImageError(f"{path}: Hounsfield units are only in DICOM files; use read_image")
    data = _dicom(path)
    if getattr(data, "Modality", "CT") != "CT":
        raise ImageError(f"{path}: modality {data.Modality} has no Hounsfield units")
    return _rescaled(data, path)


def read_mask(path) -> np.ndarray:
    """One mask as (H, W) bool.

    Values 0 and 1 are taken as they are; anything else counts above half of the type's range, so
    that the ringing of a JPEG or a resampling is not read as mask. Raises ImageError, rather than
    return an empty mask, for values that are neither (0/255 in 16 bit, class numbers 0, 1, 2).
    """
    path = _existing(path)
    values = _to_grey(_pixels(path), path)
    if values.dtype == bool:
        return values
    top = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1.0
    if values.dtype.kind in "ui" and values.max() <= 1:
        return values > 0
    mask = values > top / 2
    if values.max() > 1 and not mask.any() and path.suffix.lower() not in {".jpg", ".jpeg"}:
        raise ImageError(
            f"{path}: a mask with values up to {values.max():g} is neither 0/1 nor 0/{top:g}; "
            "save one mask per class, with 0 and 255 in 8 bit"
        )
    return mask


def image_size(path) -> tuple[int, int]:
    """(H, W) of an image or mask, read from its header only where the format allows."""
    path = _existing(path)
    if is_dicom(path):
        data = _dicom(path, header_only=True)
        with _named(path, "a DICOM file without a picture", "export it again"):
            return int(data.Rows), int(data.Columns)
    if path.suffix.lower() in TIFF_SUFFIXES:
        return _to_grey(_pixels(path), path).shape
    from PIL import ExifTags, Image

    with _named(path, "corrupt or not an image", "replace it with an intact copy"):
        with Image.open(path) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return picture.size if turned else (picture.height, picture.width)


def is_dicom(path: Path) -> bool:
    """By suffix, or by the letters DICM after the preamble for files without one."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    if path.suffix.lower() in SUFFIXES:
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _existing(path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image; check the path in the manifest")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); fetch it again")
    return path


@contextmanager
def _named(path: Path, what: str, remedy: str):
    """Whatever a decoder raises for a damaged file (they raise many kinds), as ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"{path}: {what} ({error}); {remedy}") from error


def _pixels(path: Path) -> np.ndarray:
    return _tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else _picture(path)


def _picture(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    with _named(path, "corrupt or not an image", "replace it with an intact copy"):
        with Image.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise ImageError(f"{path}: {picture.n_frames} frames; save one file per image")
            if picture.mode in ("P", "PA"):
                picture = picture.convert("RGBA")
            elif picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                picture = picture.convert("RGB")
            picture = ImageOps.exif_transpose(picture)
            return np.asarray(picture)


def _tiff(path: Path) -> np.ndarray:
    import tifffile

    with _named(path, "not a readable TIFF", "export it again"), tifffile.TiffFile(path) as file:
        photometric = file.pages[0].photometric
        try:
            values = file.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _picture(path)  # Pillow knows LZW and JPEG, tifffile only with imagecodecs
        if photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ImageError(f"{path}: a TIFF with a colour palette; save it as greyscale or RGB")
        if photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
            values = ~values  # 0 is white: the same as the largest value minus each
        return values


def _to_grey(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim == 3 and values.shape[-1] in (2, 4):
        values = values[..., :-1]
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.shape[-1] == 3:
        grey = values @ np.array([0.299, 0.587, 0.114])
        values = grey if values.dtype.kind == "f" else np.rint(grey).astype(values.dtype)
    if values.ndim != 2 or 0 in values.shape:
        raise ImageError(
            f"{path}: shape {values.shape} is not one greyscale picture; save one file per slice"
        )
    return values


def _unit_range(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError(f"{path}: holds NaN or infinity; export it again")
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            values = (values - low) / ((high - low) or 1)
        return values.astype(np.float32)
    if values.dtype == bool:
        return values.astype(np.float32)
    # PIL hands 16-bit greyscale PNG as int32 ("I") in some releases; the file's range is 16 bit.
    top = 65535 if values.dtype.itemsize > 2 else np.iinfo(values.dtype).max
    if values.min() < 0 or values.max() > top:
        raise ImageError(f"{path}: integer values outside 0–{top}; export as 8- or 16-bit unsigned")
    return (values / np.float32(top)).astype(np.float32)


def _dicom(path: Path, header_only: bool = False):
    from pydicom import dcmread

    with _named(path, "not a readable DICOM file", "export it again"):
        return dcmread(path, stop_before_pixels=header_only)


def _rescaled(data, path: Path) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    with _named(path, "no readable pixels", "export it uncompressed"):
        values = np.asarray(apply_modality_lut(data.pixel_array, data), np.float32)
    return _to_grey(values, path)


def _dicom_window(path: Path, window) -> np.ndarray:
    data = _dicom(path)
    values = _rescaled(data, path)
    inverted = getattr(data, "PhotometricInterpretation", "") == "MONOCHROME1"
    given = [data.get(k) for k in ("WindowCenter", "WindowWidth")]  # present but empty is common
    with _named(path, "an unreadable window", "give `window=`"):
        given = [None if v is None else float(np.atleast_1d(v)[0]) for v in given]
    if window is None and None not in given:
        window = tuple(given)
    elif window is None and "VOILUTSequence" in data:
        from pydicom.pixels import apply_voi_lut

        with _named(path, "an unreadable VOI lookup table", "give `window=`"):
            values = np.asarray(apply_voi_lut(np.rint(values).astype(np.int32), data), np.float32)
    elif window is None and getattr(data, "Modality", "") == "CT":
        window = LUNG_WINDOW
    if window is None:
        low, high = float(values.min()), float(values.max())
    else:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    if window is not None and not window[1] > 0:
        raise ImageError(f"{path}: window width {window[1]} must be above 0; give `window=`")
    grey = np.clip((values - low) / ((high - low) or 1), 0, 1).astype(np.float32)
    return 1 - grey if inverted else grey
