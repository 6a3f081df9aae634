"""What happens to training batches at random: fastai's augmentations, and those of papers beside them."""

from __future__ import annotations

from functools import partial

import torch
from fastai.torch_core import TensorImage
from fastai.vision.augment import AffineCoordTfm, RandTransform, affine_mat, aug_transforms

from .augment_ahmed import ahmed_augmentations


def augmentations(
    max_shift: float = 0.0, max_shear: float = 0.0, brightness=None, ahmed=None, **options
) -> list:
    """Batch transforms: fastai's `aug_transforms(**options)`, shifts and shear joined to its own.

    `max_shift` is a share of the image's side, `max_shear` the shift of a row by its height (both
    drawn for each image, in both directions), `brightness` the least and greatest factor, as
    Garg et al. 2021 have it, Section III.B; fastai's `max_lighting` works on logits instead.

    `ahmed`, arguments for `ahmed_augmentations`, stands for itself: with it nothing else is done,
    and ValueError is raised where more is asked for.
    """
    if ahmed is not None:
        if options or max_shift or max_shear or brightness:
            raise ValueError("`ahmed` is a paper's whole augmentation: give nothing beside it")
        return ahmed_augmentations(**ahmed)
    own = []
    if max_shift or max_shear:
        own.append(AffineCoordTfm(aff_fs=partial(_shift_and_shear, max_shift, max_shear)))
    if brightness:
        own.append(Brighten(*brightness))
    return aug_transforms(**options, xtra_tfms=own)


def _shift_and_shear(shift: float, shear: float, x):
    """Affine matrices (N, 3, 3) in coordinates from -1 to 1."""
    plain = x.as_subclass(torch.Tensor)
    one, zero = plain.new_ones(len(x)), plain.new_zeros(len(x))
    lean, right, down = (
        plain.new_empty(len(x)).uniform_(-most, most) for most in (shear, 2 * shift, 2 * shift)
    )
    return affine_mat(one, lean, right, zero, one, down)


class Brighten(RandTransform):
    """Each training image times a factor of its own, clipped at white; images in [0, 1]."""

    order, split_idx = 41, 0

    def __init__(self, low: float, high: float):
        super().__init__(p=1.0)
        self.low, self.high = low, high

    def encodes(self, x: TensorImage):
        factor = x.new_empty(len(x), 1, 1, 1).uniform_(self.low, self.high)
        return (x * factor).clamp(0, 1)
