"""The two-level Haar wavelet enhancement of Khan et al. (Section 3.1.1, Figure 2)."""

from __future__ import annotations

import numpy as np

BANDS = ("LL", "LH", "HL", "HH")


def two_level(images: np.ndarray, wavelet: str = "haar") -> dict[str, np.ndarray]:
    """Sub-bands of level one, and of level two for its LL and HH, as Khan's Figure 2 names them.

    Parameters
    ----------
    images : (..., H, W), any leading axes are a batch.

    Returns
    -------
    dict of (..., ⌈H/2⌉, ⌈W/2⌉) for "LL" "LH" "HL" "HH" and (..., ⌈H/4⌉, ⌈W/4⌉) for "LL.LL" …
    "HH.HH": the part before the dot was decomposed again. LH is the horizontal detail, HL the
    vertical one (PyWavelets' cH and cV).
    """
    images = _checked(images)
    level1 = _dwt(images, wavelet)
    again = {f"{b}.{k}": v for b in ("LL", "HH") for k, v in _dwt(level1[b], wavelet).items()}
    return {**level1, **again}


def idwt_enhance(
    images: np.ndarray,
    keep: tuple[str, ...] = ("LL", "HH"),
    weight: float = 1.0,
    wavelet: str = "haar",
    parts: bool = False,
):
    """Khan's IDWT image: what the second-level `keep` bands of LL and of HH rebuild, fused.

    The image is decomposed, its LL and HH are decomposed again, of each only the `keep` bands go
    on; each is rebuilt to an image of full size, and the two are fused as
    ``from_LL + weight * from_HH``, in the way a Laplacian of Gaussian sharpens. The other bands of
    level one (LH, HL) go on only when `keep` names them, and then whole: `keep=BANDS` with
    weight 1 gives the image back exactly.

    The paper says "fusing" and no more: the sum and its weight are our choice. Values may leave
    [0, 1] slightly; nothing is clipped here.

    Parameters
    ----------
    images : (..., H, W) float, any leading axes are a batch.
    parts : return {"from_LL", "from_HH", "fused"} rather than the fused image alone.

    Raises
    ------
    ValueError : fewer than 4 pixels a side, or an unknown band.
    """
    images = _checked(images)
    if unknown := [b for b in keep if b not in BANDS]:
        raise ValueError(f"keep={keep!r}: {unknown} are not among {BANDS}")
    level1 = _dwt(images, wavelet)
    rebuilt = {}
    for band in ("LL", "HH"):
        level2 = {k: v for k, v in _dwt(level1[band], wavelet).items() if k in keep}
        rebuilt[band] = _idwt(level2, level1[band].shape, wavelet)
    dropped = {k: level1[k] for k in ("LH", "HL") if k in keep}
    from_ll = _idwt({"LL": rebuilt["LL"], **dropped}, images.shape, wavelet)
    from_hh = _idwt({"HH": rebuilt["HH"]}, images.shape, wavelet)
    fused = (from_ll + weight * from_hh).astype(np.float32)
    return {"from_LL": from_ll, "from_HH": from_hh, "fused": fused} if parts else fused


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim < 2 or min(images.shape[-2:]) < 4:
        raise ValueError(
            f"images of shape {images.shape}: two Haar levels need (..., H, W) with at least 4 "
            "pixels a side"
        )
    return images.astype(np.float32, copy=False)


def _dwt(images: np.ndarray, wavelet: str) -> dict[str, np.ndarray]:
    import pywt

    ll, (lh, hl, hh) = pywt.dwt2(images, wavelet, mode="symmetric", axes=(-2, -1))
    return dict(zip(BANDS, (ll, lh, hl, hh), strict=True))


def _idwt(bands: dict[str, np.ndarray], shape: tuple[int, ...], wavelet: str) -> np.ndarray:
    """The image of `shape` from the bands there are; odd sizes lose the pixel that padding added."""
    import pywt

    if not bands:
        return np.zeros(shape, np.float32)
    given = [bands.get(name) for name in BANDS]
    zero = np.zeros_like(next(iter(bands.values())))
    ll, *details = [zero if b is None else b for b in given]
    image = pywt.idwt2((ll, tuple(details)), wavelet, mode="symmetric", axes=(-2, -1))
    return image[..., : shape[-2], : shape[-1]]
