"""The augmentation of Ahmed et al. (2020, Table 3), of training images and masks together."""

from __future__ import annotations

from functools import partial

import torch
from fastai.torch_core import TensorImage
from fastai.vision.augment import AffineCoordTfm, RandTransform


def ahmed_augmentations(
    scale=(0.8, 1.1),
    max_rotate: float = 45.0,
    max_shear: float = 0.2,
    p_shear: float = 0.7,
    gamma=(0.5, 3.0),
    salt_pepper: float = 0.01,
    p_salt_pepper: float = 0.3,
    blur: float = 0.5,
    blur_kernel: int = 11,
    p_blur: float = 0.5,
    noise: float = 0.5,
    p_noise: float = 0.3,
) -> list:
    """Batch transforms of Table 3 in its order; every image has draws of its own.

    Scale in x, rotation and shear move image and mask together, about the centre and on the same
    square; what comes in is black. So the table's padding to 512 and centre crop of 512 are done
    already. The rest changes the image alone, (N, C, H, W) in [0, 1].

    The table gives ranges and probabilities, and not what they measure. The names, and ranges such
    as (0.5, 3), are those of the SOLT library, so we read them as it does; that the paper worked
    with it is our guess.

    Parameters
    ----------
    scale : least and greatest factor of the width; the height stays.
    max_rotate : degrees, either way.
    max_shear : shift of a row by its height, either way, with probability `p_shear`.
    gamma : least and greatest γ; an image becomes image ** (1 / γ), so that above 1 is brighter.
    salt_pepper : greatest share of pixels that become white or black, half of them each.
    blur, blur_kernel : standard deviation and side of a Gaussian, in pixels at any size.
    noise : greatest g in (1 − g)·image + g·noise, the noise normal and stretched to [0, 1].

    Raises ValueError for ranges and probabilities that are impossible.
    """
    _check_range(scale=scale, gamma=gamma)
    _check_share(salt_pepper=salt_pepper, noise=noise)
    _check_share(p_shear=p_shear, p_salt_pepper=p_salt_pepper, p_blur=p_blur, p_noise=p_noise)
    if not blur > 0 or blur_kernel < 1 or blur_kernel % 2 == 0:
        raise ValueError(f"blur={blur}, blur_kernel={blur_kernel}: above 0, and an odd number")
    matrices = partial(_matrices, scale, max_rotate, max_shear, p_shear)
    steps = [
        (_gamma, 1.0, {"low": gamma[0], "high": gamma[1]}),
        (_salt_pepper, p_salt_pepper, {"most": salt_pepper}),
        (_blur, p_blur, {"sd": blur, "kernel": blur_kernel}),
        (_noise, p_noise, {"most": noise}),
    ]
    return [
        AffineCoordTfm(aff_fs=matrices, pad_mode="zeros", align_corners=False),
        ImageSteps([(partial(step, **options), p) for step, p, options in steps]),
    ]


class ImageSteps(RandTransform):
    """(image function, probability) pairs in turn, each for its own share of the training images."""

    order, split_idx = 41, 0

    def __init__(self, steps):
        super().__init__(p=1.0)
        self.steps = steps

    def encodes(self, x: TensorImage):
        out = x.as_subclass(torch.Tensor).clone()
        for step, p in self.steps:
            chosen = torch.rand(len(out), device=out.device) < p
            if chosen.any():
                out[chosen] = step(out[chosen])
        return out.clamp(0, 1).as_subclass(type(x))


def _matrices(scale, rotate, shear, p_shear, x):
    """(N, 3, 3), from a point of the new image to where it was, in coordinates from -1 to 1."""
    plain = x.as_subclass(torch.Tensor)

    def drawn(low, high):
        return plain.new_empty(len(plain)).uniform_(low, high)

    wide, angle = drawn(*scale), torch.deg2rad(drawn(-rotate, rotate))
    lean = drawn(-shear, shear) * (drawn(0, 1) < p_shear)
    one, zero = torch.ones_like(wide), torch.zeros_like(wide)
    cos, sin = angle.cos(), angle.sin()
    scaled = _matrix(wide, zero, zero, one)
    turned = _matrix(cos, -sin, sin, cos)
    sheared = _matrix(one, lean, zero, one)
    return torch.linalg.inv(sheared @ turned @ scaled)


def _matrix(a, b, c, d):
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    return torch.stack([a, b, zero, c, d, zero, zero, zero, one], 1).view(-1, 3, 3)


def _drawn(x, low, high):
    return x.new_empty(len(x), 1, 1, 1).uniform_(low, high)


def _gamma(x, low, high):
    return x ** (1 / _drawn(x, low, high))


def _salt_pepper(x, most):
    chance = torch.rand_like(x[:, :1])
    share = _drawn(x, 0, most)
    x = torch.where(chance < share / 2, torch.ones_like(x), x)
    return torch.where(chance > 1 - share / 2, torch.zeros_like(x), x)


def _blur(x, sd, kernel):
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(x, kernel, sd)


def _noise(x, most):
    noise = torch.randn_like(x[:, :1])
    low, high = noise.amin((2, 3), keepdim=True), noise.amax((2, 3), keepdim=True)
    return torch.lerp(x, (noise - low) / (high - low), _drawn(x, 0, most))


def _check_range(**ranges):
    for name, given in ranges.items():
        if len(given) != 2 or not 0 < given[0] <= given[1]:
            raise ValueError(f"{name}={given!r} must be two numbers above 0, the lesser first")


def _check_share(**shares):
    for name, given in shares.items():
        if not 0 <= given <= 1:
            raise ValueError(f"{name}={given!r} must lie in 0..1")
