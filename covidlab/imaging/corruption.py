"""What befalls pictures on their way into a public set: exposure, noise, blur, JPEG, marks.

Tahir removes "extremely low-quality, and over-exposed images" (thesis, Section 3.1) and sees
segmentation fail on "low-quality images with poor SNR levels" (Section 2); Ahmed's Figure 3 shows
washed-out pictures and markers, and Table 3 augments with gamma, blur, random and salt-and-pepper
noise. None says how strong these are: what `amount` 0..1 stands for below is our choice.

Every function takes an image (H, W) in [0, 1] and gives float32 of the same shape in [0, 1].
`amount` 0 gives the image back unchanged, 1 is the worst, and more is never less. Lengths are
parts of the shorter side, so a picture looks the same at any size; noise and JPEG work on pixels.
ValueError for another shape, for values outside [0, 1] and for an amount outside 0..1.
"""

from __future__ import annotations

from functools import wraps

import numpy as np

# Each fourth stands at the right, upper, left or lower edge: L is where the patient's left is.
MARKS = ("L", "PORTABLE", "A", "->", "AP", "12:40", "->", "SUPINE", "B", "->", "R")
FINE = 4  # drawn this many times larger, then averaged
_DARK, _PALE = 0.05, 0.95  # grey of marks


def unit_image(image) -> np.ndarray:
    """`image` as (H, W) float32; ValueError if it is not one finite picture in [0, 1]."""
    image = np.asarray(image, np.float32)
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}, expected (H, W)")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"image holds values {low:g} to {high:g}, expected 0 to 1: use stretch(image), or a "
            "window for Hounsfield units"
        )
    return image


def _corruption(function):
    """Check what goes in, keep what comes out within [0, 1], change nothing at amount 0."""

    @wraps(function)
    def corrupted(image, amount=0.5, *args, **kwargs):
        image = unit_image(image)
        if not 0.0 <= amount <= 1.0:
            raise ValueError(f"amount must lie in 0..1, got {amount}")
        if amount == 0:
            return image.copy()
        return np.clip(function(image, amount, *args, **kwargs), 0, 1).astype(np.float32)

    return corrupted


@_corruption
def washed_out(image: np.ndarray, amount: float = 0.5) -> np.ndarray:
    """Little contrast, all light grey: at 1 a fifth of the contrast is left, around grey 0.65."""
    return image + 0.8 * amount * (0.65 - image)


@_corruption
def over_exposed(image: np.ndarray, amount: float = 0.5) -> np.ndarray:
    """Too much dose: darker everywhere, lungs lost in black (at 1, all below grey 0.5).

    In radiography exposure blackens. The bright picture that a photographer calls over-exposed is
    `under_exposed` here.
    """
    return image - 0.5 * amount


@_corruption
def under_exposed(image: np.ndarray, amount: float = 0.5) -> np.ndarray:
    """Too little dose: brighter everywhere, the mediastinum lost in white (at 1, all above 0.5)."""
    return image + 0.5 * amount


@_corruption
def noisy(image: np.ndarray, amount: float = 0.5, seed: int = 0) -> np.ndarray:
    """Quantum noise, independent from pixel to pixel: at 1 its SD is 0.25 in white, 0.11 in black.

    Dense parts let fewer photons through, so the variance grows with the grey. The same seed gives
    the same grains at any amount.
    """
    grains = np.random.default_rng(seed).standard_normal(image.shape)
    return image + 0.25 * amount * np.sqrt(0.2 + 0.8 * image) * grains


@_corruption
def salt_and_pepper(image: np.ndarray, amount: float = 0.5, seed: int = 0) -> np.ndarray:
    """Dead pixels, white or black: a part of `amount` / 10 of them (Ahmed's Table 3: 0.01)."""
    rng = np.random.default_rng(seed)
    dead = rng.random(image.shape) < 0.1 * amount
    return np.where(dead, rng.random(image.shape) < 0.5, image)


@_corruption
def blurred(image: np.ndarray, amount: float = 0.5) -> np.ndarray:
    """Gaussian blur: at 1 its SD is 2 % of the shorter side (5 pixels at 256)."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, 0.02 * amount * min(image.shape), mode="nearest")


@_corruption
def compressed(image: np.ndarray, amount: float = 0.5) -> np.ndarray:
    """Saved as an 8-bit JPEG and read again: quality 90 near 0, 16 at 0.5, 3 at 1."""
    from io import BytesIO

    from PIL import Image

    with BytesIO() as file:
        picture = Image.fromarray(np.rint(image * 255).astype(np.uint8))
        picture.save(file, "JPEG", quality=round(90 * (3 / 90) ** amount))
        with Image.open(file) as read:
            return np.asarray(read, np.float32) / 255


@_corruption
def text_marks(image: np.ndarray, amount: float = 0.5, seed: int = 0) -> np.ndarray:
    """Letters, words and arrows burned in: one at least, all of `MARKS` at 1.

    Words stand near the edges, arrows point into the picture. The same seed gives the same marks:
    those at a small amount are among those at a larger one.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(MARKS))
    drawn = rng.random((len(MARKS), 3))
    for i in order[: int(np.ceil(amount * len(MARKS)))]:
        along, depth, turn = (float(u) for u in drawn[i])
        if MARKS[i] == "->":
            x, y = 0.25 + 0.5 * along, 0.25 + 0.5 * depth
            image = burn_arrow(image, x, y, turn=360 * turn)
            continue
        edge = 0.14 * depth
        x, y = ((1 - edge, along), (along, edge), (edge, along), (along, 1 - edge))[i % 4]
        image = burn_text(image, MARKS[i], x, y, height=0.045 + 0.03 * turn)
    return image


CORRUPTIONS = {
    "none": None,
    "washed_out": washed_out,
    "over_exposed": over_exposed,
    "under_exposed": under_exposed,
    "noisy": noisy,
    "salt_and_pepper": salt_and_pepper,
    "blurred": blurred,
    "compressed": compressed,
    "text_marks": text_marks,
}
_SEEDED = (noisy, salt_and_pepper, text_marks)


def corrupt(image: np.ndarray, kind: str, amount: float = 0.5, seed: int = 0) -> np.ndarray:
    """(H, W) with one of the `CORRUPTIONS`; `seed` counts where chance does (noise, marks).

    Raises ValueError for an unknown kind, an image outside [0, 1] or an amount outside 0..1.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(CORRUPTIONS)}")
    function = CORRUPTIONS[kind] or _corruption(lambda image, amount: image)
    return function(image, amount, seed) if function in _SEEDED else function(image, amount)


def burn_text(
    image: np.ndarray,
    text: str,
    x: float,
    y: float,
    height: float = 0.06,
    turn: float = 0.0,
    grey: float | None = None,
    align: str = "centre",
) -> np.ndarray:
    """(H, W) with `text` at (x, y), parts of the width and height; pushed inside if cut.

    `align`: whether x is the text's "left" or "right" end or its "centre"; y is its middle.
    `height`: of the type, as a part of the shorter side; made smaller where the text would be
    wider than the picture. `turn`: degrees, anticlockwise. `grey`: by default near white, or near
    black where the picture is bright. The font is the one that Pillow carries.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FINE * max(4.0, height * min(image.shape)))
    left, top, right, bottom = font.getbbox(text)
    stamp = Image.new("L", (round(right - left) + 2 * FINE, round(bottom - top) + 2 * FINE))
    ImageDraw.Draw(stamp).text((FINE - left, FINE - top), text, fill=255, font=font)
    stamp.thumbnail((round(0.95 * FINE * image.shape[1]), stamp.height))
    x += {"left": 0.5, "centre": 0.0, "right": -0.5}[align] * stamp.width / (FINE * image.shape[1])
    return _stamped(image, stamp, x, y, turn, grey)


def burn_arrow(
    image: np.ndarray,
    x: float,
    y: float,
    length: float = 0.09,
    turn: float = 0.0,
    grey: float | None = None,
) -> np.ndarray:
    """(H, W) with an arrow centred at (x, y); pointing right, turned anticlockwise by `turn` degrees.

    `length` is a part of the shorter side; the rest as in `burn_text`.
    """
    from PIL import Image, ImageDraw

    n = max(4 * FINE, round(FINE * length * min(image.shape)))
    stamp = Image.new("L", (n, n // 2))
    middle = n / 4
    draw = ImageDraw.Draw(stamp)
    draw.rectangle((0, middle - n / 20, 0.6 * n, middle + n / 20), fill=255)
    draw.polygon([(0.5 * n, 0.02 * n), (n - 1, middle), (0.5 * n, 0.48 * n)], fill=255)
    return _stamped(image, stamp, x, y, turn, grey)


def drawn(shape: tuple[int, int], paint) -> np.ndarray:
    """(H, W) float32 in [0, 1] of what `paint(draw, scale)` draws on black, antialiased.

    `draw` is a Pillow ImageDraw on a canvas `scale` times as large; fill 255 becomes 1.
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (FINE * shape[1], FINE * shape[0]))
    paint(ImageDraw.Draw(canvas), FINE)
    return np.asarray(canvas.reduce(FINE), np.float32) / 255


def _stamped(image, stamp, x, y, turn, grey):
    """Image with the large `stamp` (Pillow, "L") turned, shrunk and laid on it, centred at (x, y)."""
    from PIL import Image

    if turn:
        stamp = stamp.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    cover = np.asarray(stamp.reduce(FINE), np.float32)[: image.shape[0], : image.shape[1]] / 255
    (h, w), (height, width) = cover.shape, image.shape
    top = int(np.clip(round(y * height - h / 2), 0, height - h))
    left = int(np.clip(round(x * width - w / 2), 0, width - w))
    under = np.s_[top : top + h, left : left + w]
    if grey is None:
        grey = _PALE if image[under].mean() < 0.65 else _DARK
    out = np.array(image, np.float32)
    out[under] += cover * (grey - out[under])
    return out
