"""CoV-CTNet, the screening network of Khan et al. (Section 3.1.2, Figure 3)."""

from __future__ import annotations

from torch import nn


def conv_bn(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, relu: bool = True):
    """Convolution, batch normalisation and, unless told otherwise, ReLU (equations 1–3)."""
    layers = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (equations 4, 5): a projection where the width changes."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.body = nn.Sequential(conv_bn(c_in, c_out), conv_bn(c_out, c_out, relu=False))
        self.shortcut = (
            nn.Identity() if c_in == c_out else conv_bn(c_in, c_out, kernel=1, relu=False)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x) + self.shortcut(x))


class CoVCTNet(nn.Module):
    """A 24-layer residual network for small CT slices.

    Input (N, in_channels, H, W), the paper's 82×82×1; output (N, n_classes) logits (the softmax is
    in the loss). One stem convolution, four residual stages (a block with a projection, one
    without, then a convolution of stride two), global max pooling, and three fully connected
    layers, the last of them the classifier: 1 + 4 × 5 + 3 = 24, shortcut projections not counted,
    as in ResNet-18's 18.

    The text gives neither widths, nor the sizes of the fully connected layers, nor the dropout
    rate: `widths`, `hidden` and `dropout` are our choice. At 32…256 the network has 3.66 million
    parameters (64…512: 14.45 million); its baseline ResNet-18 has 11.17 million.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        hidden: tuple[int, int] = (256, 64),
        dropout: float = 0.5,
    ):
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths={widths!r}: the paper has four stages")
        self.stem = conv_bn(in_channels, widths[0])
        stages, c_in = [], widths[0]
        for width in widths:
            blocks = ResidualBlock(c_in, width), ResidualBlock(width, width)
            stages.append(nn.Sequential(*blocks, conv_bn(width, width, stride=2)))
            c_in = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
        dense = []
        for size in hidden:
            dense += [nn.Linear(c_in, size), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            c_in = size
        self.head = nn.Sequential(*dense, nn.Linear(c_in, n_classes))

    def forward(self, x):
        return self.head(self.pool(self.stages(self.stem(x))))
