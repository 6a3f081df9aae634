"""IRRCNN, the detection network of Alom et al. (2020, Section 3), and its recurrent layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from .cov_ctnet import conv_bn
from .segnet import he


class RecurrentConv(nn.Module):
    """A recurrent convolutional layer: t steps in which the layer sees its input and itself.

    Input (N, c_in, H, W), output (N, c_out, H, W), at least 0. With W_f the feed-forward kernels,
    W_r the recurrent ones, the same at every step, and * the convolution,

        h(0) = ReLU(BN₀(W_f * x + b)),  h(s) = ReLU(BNₛ(W_f * x + b + W_r * h(s − 1))),  s = 1 … t.

    That is O = W_f·x_f(t) + W_r·x_r(t − 1) + b of the authors' R2U-Net (arXiv 1802.06955) with
    batch normalisation for each step of its own, as the steps differ in scale; which of the two the
    authors mean is not said. t = 0 is a plain layer. Raises ValueError for t below 0.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, t: int = 2):
        super().__init__()
        if t < 0:
            raise ValueError(f"t={t} must be 0 (no recurrence) or more")
        pad = kernel // 2
        self.feed_forward = nn.Conv2d(c_in, c_out, kernel, padding=pad)
        if t:
            self.recurrent = nn.Conv2d(c_out, c_out, kernel, padding=pad, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c_out) for _ in range(t + 1))

    def forward(self, x):
        seen = self.feed_forward(x)
        h = self.norms[0](seen).relu_()
        for norm in self.norms[1:]:
            h = norm(self.recurrent(h).add_(seen)).relu_()
        return h


class InceptionRecurrentResidual(nn.Module):
    """One IRRU: recurrent layers of 1×1 and 3×3 side by side, and the input added to them.

    Input and output (N, sum of `widths`, H, W). Concatenated are a 1×1 layer, a 3×3 layer, and a
    1×1 layer of the 3×3 averages, with as many maps as `widths` says.
    """

    def __init__(self, widths, t: int = 2):
        super().__init__()
        width = sum(widths)
        self.point = RecurrentConv(width, widths[0], 1, t)
        self.area = RecurrentConv(width, widths[1], 3, t)
        self.pooled = RecurrentConv(width, widths[2], 1, t)

    def forward(self, x):
        means = avg_pool2d(x, 3, stride=1, padding=1)
        branches = self.point(x), self.area(x), self.pooled(means)
        return torch.cat(branches, 1).add_(x).relu_()


class IRRCNN(nn.Module):
    """Inception recurrent residual network: five IRRUs, global average pooling, softmax.

    Input (N, in_channels, H, W) of any size, the paper's 128×128 X-rays and 192×192 CT slices;
    output (N, n_classes) logits (the softmax is in the loss). 33,740,562 parameters at 3 channels
    and 2 classes, the paper's "around 34M"; 712,818 at width 16, 2,780,802 at width 32.

    The paper gives the five units, the kernels (1×1 and 3×3), the pooling and the total. The rest
    follows the authors' earlier network (arXiv 1811.04241) as others restate it, its own text and
    code not being at hand: two first convolutions of 32 and 64 maps, the three branches of a unit,
    t = 2, and before each unit a 1×1 convolution that doubles the width and 3×3 max pooling of
    stride 2. The widths and the branches' shares are our choice, made to meet the total, which others
    would meet too. So is leaving out the earlier network's dropout of 0.5 after the pooling,
    of which this paper says nothing: batch normalisation behind it learns the variance of maps with
    holes and meets whole ones in validation (Li et al., CVPR 2019), and tried on 233 X-rays all
    validation images fell into one class while the training loss went down. He initialisation.

    Parameters
    ----------
    width : maps of the first unit, doubled by each of the next.
    t : recurrent steps after the first, feed-forward one.
    branch_shares : parts of a unit's maps that come from its 1×1, its 3×3 and its pooled branch.
    stem : maps of the first two convolutions.
    dropout : rate before each unit but the first.
    units : how many.
    bn_momentum : how fast the running statistics of batch normalisation follow the batches; above
        0.1 for trainings of few batches, None for the mean of all.

    Raises ValueError for an option that is impossible.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 2,
        width: int = 112,
        t: int = 2,
        branch_shares: tuple[float, float, float] = (0.25, 0.5, 0.25),
        stem: tuple[int, int] = (32, 64),
        dropout: float = 0.0,
        units: int = 5,
        bn_momentum: float | None = 0.1,
    ):
        super().__init__()
        if units < 1:
            raise ValueError(f"units={units} must be 1 or more")
        layers = [conv_bn(in_channels, stem[0]), conv_bn(stem[0], stem[1])]
        c_in = stem[1]
        for i in range(units):
            maps = width * 2**i
            layers += [conv_bn(c_in, maps, kernel=1), nn.MaxPool2d(3, stride=2, padding=1)]
            if i and dropout:
                layers.append(nn.Dropout(dropout))
            split = shared_out(maps, branch_shares)
            layers.append(InceptionRecurrentResidual(split, t))
            c_in = maps
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(c_in, n_classes)
        set_momentum(he(self), bn_momentum)

    def forward(self, x):
        return self.head(self.pool(self.features(x)))


def shared_out(width: int, shares) -> list[int]:
    """How many of `width` maps each of three branches makes; what rounding leaves, the second."""
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"branch_shares={shares!r} must be three parts above 0 with the sum 1")
    first, last = (int(width * share + 1e-6) for share in (shares[0], shares[2]))
    widths = [first, width - first - last, last]
    if min(widths) < 1:
        raise ValueError(f"width={width} leaves a branch of {shares!r} without a map: widen it")
    return widths


def set_momentum(network: nn.Module, momentum: float | None) -> None:
    """Sets how fast the running statistics of all batch normalisation follow the batches."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
