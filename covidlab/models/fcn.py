"""FCN-8s (Long et al. 2015) on VGG-16: scores at three strides, added on the way up."""

from __future__ import annotations

import torch
from torch import nn

from .segnet import VGG16, check_size, he, scaled


def up(n_classes: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution that starts as bilinear up-sampling of each class."""
    side = 2 * factor
    layer = nn.ConvTranspose2d(
        n_classes, n_classes, side, stride=factor, padding=factor // 2, bias=False
    )
    ramp = 1 - ((torch.arange(side) - (side - 1) / 2) / factor).abs()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(n_classes)[..., None, None] * torch.outer(ramp, ramp))
    return layer


class FCN8(nn.Module):
    """FCN-8s: VGG-16 as a fully convolutional network, with skips from the third and fourth pool.

    Input (N, in_channels, H, W) of any size from 32 pixels a side, output (N, n_classes, H, W)
    logits. VGG-16's dense layers become a 7×7 and a 1×1 convolution of `fc` channels: 134,271,430
    parameters at 3 channels and 2 classes, 27,826,630 with `fc=512`. Maps are padded to keep their
    size, where the original pads the image by 100 pixels and crops; all three up-samplings are
    learned; He initialisation, where the original starts from VGG and scores of zero.

    Parameters
    ----------
    width : channels of the first stage; the others are scaled with it.
    fc, dropout : channels of the two dense layers, and the dropout after each.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 2,
        width: int = 64,
        fc: int = 4096,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.stages, c_in = nn.ModuleList(), in_channels
        for stage in scaled(VGG16, width):
            layers = []
            for c_out in stage:
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = c_out
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.dense = nn.Sequential(
            nn.Conv2d(c_in, fc, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(fc, fc, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.scores = nn.ModuleList(nn.Conv2d(c, n_classes, 1) for c in (4 * width, 8 * width, fc))
        he(self)
        self.ups = nn.ModuleList(up(n_classes, factor) for factor in (8, 2, 2))

    def forward(self, x):
        check_size(x, 32)
        size, maps = x.shape[-2:], []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pool3, pool4 = self.scores[0](maps[2]), self.scores[1](maps[3])
        x = self.scores[2](self.dense(x))
        x = pool4 + self.ups[2](x, output_size=pool4.shape[-2:])
        x = pool3 + self.ups[1](x, output_size=pool3.shape[-2:])
        return self.ups[0](x, output_size=size)
