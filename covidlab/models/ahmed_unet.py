"""The U-Net of Ahmed et al. (2020, Section 4.2, Table 4)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from .segnet import he

LEVELS = 5


class AhmedUNet(nn.Module):
    """A U-Net of five levels, half as wide as the first one published.

    Input (N, in_channels, H, W), both sides multiples of 16, the paper's 512×512×1; output
    (N, n_classes, H, W) logits. At each level two 3×3 convolutions with ReLU, 32 to 512 maps; 2×2
    max pooling on the way down; on the way up a transposed convolution to half the maps, beside
    which the encoder's of that size are laid. The table gives every layer but the kernels of the
    transposed convolutions (here 2×2) and of the last (1×1): 7,759,521 parameters with its one map.

    That one map goes through a ReLU in the table, which under the Dice loss of equation (1) pulls
    it towards 0 and 1, and no longer learns once it is negative everywhere. Here as everywhere in
    this package there is a map for the background too, and a softmax in the loss: 33 parameters
    more, and the model that one map with a sigmoid would be.

    Not in the text: padding (zeros) and initialisation. There is no batch normalisation, so that
    much depends on the latter: from He's it learns at the published learning rate and at a quarter
    of the width.

    Parameters
    ----------
    width : maps of the first level; the others double. 32 in the paper, fewer for a laptop.

    Raises ValueError for images that cannot be halved four times.
    """

    def __init__(self, in_channels: int = 1, n_classes: int = 2, width: int = 32):
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.encoder = nn.ModuleList(
            _double(a, b) for a, b in zip([in_channels, *widths], widths, strict=False)
        )
        pairs = list(zip(widths[1:], widths, strict=False))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.decoder = nn.ModuleList(_double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(width, n_classes, 1)
        he(self)
        for up in self.ups:  # a pixel meets one of the four taps
            nn.init.normal_(up.weight, std=(2 / up.in_channels) ** 0.5)
            nn.init.zeros_(up.bias)

    def forward(self, x):
        self._check_size(x)
        encoded = []
        for level in self.encoder:
            x = level(max_pool2d(x, 2) if encoded else x)
            encoded.append(x)
        for up, level, beside in zip(self.ups, self.decoder, encoded[-2::-1], strict=True):
            x = level(torch.cat([up(x), beside], 1))
        return self.head(x)

    def _check_size(self, x):
        height, width = x.shape[-2:]
        multiple = 2 ** (LEVELS - 1)
        if height % multiple or width % multiple:
            raise ValueError(
                f"images of {height}×{width} pixels: both sides must be multiples of {multiple}; "
                "resize them, or pad and crop"
            )


def _double(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1),
        nn.ReLU(inplace=True),
    )
