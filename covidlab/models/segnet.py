"""SegNet and its kin: a VGG encoder, and a decoder that mirrors it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d, max_unpool2d

VGG16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
_U_SEGNET = ((64, 64), (128, 128), (256, 256), (512, 512))


def check_size(x, least: int) -> None:
    """Raises ValueError where a side of the images is shorter than `least` pixels."""
    height, width = x.shape[-2:]
    if min(height, width) < least:
        raise ValueError(
            f"images of {height}×{width} pixels: this network halves them until nothing is left; "
            f"resize or pad them to at least {least} a side"
        )


def he(network: nn.Module) -> nn.Module:
    """He initialisation of all convolutions, biases zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def scaled(stages, width: int) -> list[list[int]]:
    """The widths of VGG's stages, scaled so that the first is `width`."""
    return [[w * width // 64 for w in stage] for stage in stages]


def convolutions(c_in: int, widths, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU for each width, as in torchvision's `vgg16_bn`."""
    layers = []
    for width in widths:
        layers += [
            nn.Conv2d(c_in, width, kernel, padding=kernel // 2),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        c_in = width
    return nn.Sequential(*layers)


def same_conv2x2(c_in: int, c_out: int) -> nn.Sequential:
    """A 2×2 convolution that keeps the size: zeros are added at the right and at the bottom."""
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(c_in, c_out, 2))


class EncoderDecoder(nn.Module):
    """Encoder stages that end in 2×2 max pooling; the same stages backwards after un-pooling.

    Input (N, in_channels, H, W) of any size from 32 pixels a side (2 ** number of stages), output
    (N, n_classes, H, W) logits. The last convolution of a decoder stage gives the width of the
    stage above; a 1×1 convolution gives the classes.

    With VGG-16's thirteen convolutions and un-pooling by the stored indices this is SegNet
    (Badrinarayanan et al. 2017), 29,480,194 parameters at 3 channels and 2 classes. With bilinear
    up-sampling it is the VGG encoder–decoder of Khan et al. (Section 3.2.2), which has "up-sampling
    layers" where VGG pools: 29,480,194 with VGG-16, 40,104,706 with VGG-19. Khan et al. do not say
    how they up-sample, nor whether they normalise: bilinear and batch normalisation are our choice,
    so that it differs from SegNet by the un-pooling alone.

    Parameters
    ----------
    stages : the widths of the convolutions of each encoder stage.
    width : channels of the first stage; the others are scaled with it.
    unpool : "indices" puts values back where the maximum was, "bilinear" up-samples.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 2,
        stages=VGG16,
        width: int = 64,
        unpool: str = "indices",
    ):
        super().__init__()
        if unpool not in ("indices", "bilinear"):
            raise ValueError(f'unpool={unpool!r} must be "indices" or "bilinear"')
        stages = scaled(stages, width)
        firsts = [in_channels, *(stage[-1] for stage in stages)]
        lasts = [stages[0][0], *(stage[-1] for stage in stages)]
        self.unpool = unpool
        self.encoder = nn.ModuleList(map(convolutions, firsts, stages))
        decoder = [
            convolutions(s[-1], [*s[1:], last]) for s, last in zip(stages, lasts, strict=False)
        ]
        self.decoder = nn.ModuleList(reversed(decoder))
        self.head = nn.Conv2d(stages[0][0], n_classes, 1)
        he(self)

    def forward(self, x):
        check_size(x, 2 ** len(self.encoder))
        maps, indices = [], []
        for stage in self.encoder:
            maps.append(stage(x))
            x, index = max_pool2d(maps[-1], 2, return_indices=True)
            indices.append(index)
        x = self.bottom(x)
        for stage in self.decoder:
            beside = maps.pop()
            x = self.up(x, indices.pop(), beside.shape[-2:])
            x = stage(x if maps else self.top(x, beside))
        return self.head(x)

    def up(self, x, index, size):
        if self.unpool == "indices":
            return max_unpool2d(x, index, 2, output_size=size)
        return interpolate(x, size=size, mode="bilinear", align_corners=False)

    def bottom(self, x):
        return x

    def top(self, x, beside):
        return x


class USegNet(EncoderDecoder):
    """U-SegNet (Kumar et al. 2018): SegNet one level shallower, with U-Net's skip at the top.

    Input (N, in_channels, H, W) of any size from 16 pixels a side, output (N, n_classes, H, W)
    logits; 14,105,730 parameters at 3 channels and 2 classes. VGG-13's convolutions, the last two
    of them below the fourth pooling; un-pooling by indices; the maps of the first stage are
    concatenated before the last, whose first convolution is 1×1; the classes come from a 2×2
    convolution. Khan et al. (Section 3.2.2) tell of "skip connections" and no more: one skip, and
    the sizes, follow a public implementation (VVRud/u-segnet).
    """

    def __init__(self, in_channels: int = 3, n_classes: int = 2, width: int = 64):
        super().__init__(in_channels, n_classes, _U_SEGNET, width)
        deepest = self.encoder[-1][-3].out_channels
        self.below = convolutions(deepest, [deepest, deepest])
        self.decoder[-1] = nn.Sequential(
            convolutions(2 * width, [width], kernel=1), convolutions(width, [width])
        )
        self.head = same_conv2x2(width, n_classes)
        he(self)

    def bottom(self, x):
        return self.below(x)

    def top(self, x, beside):
        return torch.cat([x, beside], 1)
