"""Losses and scores of segmentation: what a pixel and what a region count."""

from __future__ import annotations

import numpy as np
import torch
from fastai.metrics import DiceMulti
from torch import nn
from torch.nn import functional as F


class MaskLoss(nn.Module):
    """Cross-entropy of the pixels, Dice loss of the regions, or their sum.

    Takes logits (N, C, H, W) and the classes of the pixels (N, H, W). The Dice loss is smp's: 1
    minus the Dice of the probabilities over the whole batch, mean over the regions (the background
    left out), 0 for a region of which the batch has no pixel. "squared_dice" is the same with the
    probabilities squared in the denominator (see `squared_dice`). `weight` (C,) weighs the pixels'
    cross-entropy by their class. `reduction` "none" gives (N,), as fastai asks for.
    """

    def __init__(self, kind: str = "cross_entropy", n_classes: int = 2, weight=None):
        from segmentation_models_pytorch.losses import DiceLoss

        super().__init__()
        self.kind, self.reduction = kind, "mean"
        self.register_buffer("weight", weight)
        self.dice = DiceLoss("multiclass", classes=list(range(1, n_classes)))

    def forward(self, logits, target):
        logits, target = (x.as_subclass(torch.Tensor) for x in (logits, target))
        if self.reduction == "none":
            images = zip(logits.split(1), target.split(1), strict=True)
            return torch.stack([self._mean(*image) for image in images])
        return self._mean(logits, target)

    def _mean(self, logits, target):
        loss = logits.new_zeros(())
        if "cross_entropy" in self.kind:
            loss = loss + F.cross_entropy(logits, target, self.weight)
        if self.kind == "squared_dice":
            loss = loss + squared_dice(logits.softmax(1), target)
        elif "dice" in self.kind:
            loss = loss + self.dice(logits, target)
        return loss

    def activation(self, logits):
        return logits.softmax(1)

    def decodes(self, logits):
        return logits.argmax(1)


def squared_dice(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 − D with D = 2 Σ p·g / (Σ p² + Σ g²), the Dice loss of V-Net (Milletari et al. 2016).

    Equation (1) of Ahmed et al. 2020. Takes probabilities (N, C, H, W) and the classes of the pixels
    (N, H, W); the sums run over the whole batch, which the paper does not say, regions are averaged,
    and an absent one counts, as in `MaskLoss`.
    """
    p = probabilities[:, 1:]
    g = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1)[:, 1:].to(p.dtype)
    pixels = (0, 2, 3)
    dice = 2 * (p * g).sum(pixels) / (p.square() + g).sum(pixels).clamp_min(1e-7)
    return ((1 - dice) * (g.sum(pixels) > 0)).mean()


class RegionDice(DiceMulti):
    """Dice over all pixels of the validation part, mean over the regions, background left out."""

    name = "dice"

    @property
    def value(self):
        scores = [
            2 * self.inter[c] / self.union[c] if self.union[c] else np.nan
            for c in self.inter
            if c > 0
        ]
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def static_attention(masks: np.ndarray, regions) -> torch.Tensor:
    """(C,) float32: weights of the classes of pixels, by median frequency balancing.

    Khan et al. 2020, Section 3.2.3, weigh each pixel by its class's "representation in the
    dataset" and give no formula. We take that of MATLAB's Computer Vision Toolbox, with which they
    worked: w(c) = median(f) / f(c), f(c) the pixels of class c by all pixels of the images that
    have any.

    Parameters
    ----------
    masks : (N, H, W) integers, the classes of the training part's pixels.
    regions : names of the C classes.

    Raises ValueError for a class without a pixel.
    """
    counts = np.stack([np.bincount(m.ravel(), minlength=len(regions)) for m in masks])
    pixels = counts.sum(0)
    if absent := [name for name, n in zip(regions, pixels, strict=True) if n == 0]:
        raise ValueError(
            f"static attention cannot weigh {', '.join(absent)}: no pixel in the training masks"
        )
    frequency = pixels / ((counts > 0).sum(0) * masks[0].size)
    return torch.tensor(np.median(frequency) / frequency, dtype=torch.float32)
