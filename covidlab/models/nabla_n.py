"""NABLA-N, the segmentation network of Alom et al. (2020, Section 3)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from .irrcnn import RecurrentConv, set_momentum
from .segnet import he

WIDTHS = (16, 32, 64, 128, 256, 512)


class R2(nn.Module):
    """Recurrent residual unit: a 1×1 convolution, and two recurrent 3×3 layers added to it."""

    def __init__(self, c_in: int, c_out: int, t: int = 2):
        super().__init__()
        self.project = nn.Conv2d(c_in, c_out, 1)
        self.body = nn.Sequential(
            RecurrentConv(c_out, c_out, 3, t), RecurrentConv(c_out, c_out, 3, t)
        )

    def forward(self, x):
        x = self.project(x)
        return x + self.body(x)


class Decoder(nn.Module):
    """From one level up to the top: a transposed convolution, the encoder's maps, and R2, at each."""

    def __init__(self, widths, t: int):
        super().__init__()
        pairs = list(zip(widths[:-1], widths[1:], strict=True))[::-1]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 3, stride=2, padding=1, output_padding=1)
            for above, below in pairs
        )
        self.units = nn.ModuleList(R2(2 * above, above, t) for above, _ in pairs)

    def forward(self, x, encoded):
        for up, unit, beside in zip(self.ups, self.units, reversed(encoded), strict=True):
            x = unit(torch.cat([up(x), beside], 1))
        return x


class NablaN(nn.Module):
    """One encoder and `n` decoders, each from another of its deepest levels, seen together.

    Input (N, in_channels, H, W), both sides multiples of 32 (2 for each level below the first), the
    paper's 192×192×3 X-rays and 256×256×1 CT slices; output (N, n_classes, H, W) logits. NABLA-3 at
    3 channels and one output map has 19,191,409 parameters, the paper's 18.98 million and 1 %.

    The paper's single map with a sigmoid is `n_classes=1`. Elsewhere in this package a segmenter has
    one map for the background too, and a softmax in the loss: of two maps a and b it gives b the
    probability sigmoid(b − a), so two classes are the same model with 49 parameters more.

    The paper gives one chain of widths (16 to 512 and back, 3×3 kernels, the last 1×1), "three
    decoding units" fed by "3 different encoding layers including the bottleneck", ReLU, He
    initialisation and the total. With plain pairs of 3×3 convolutions, or one kernel for input and
    recurrence, such a network has 9 to 11 million; R2 units with a kernel for each meet it. The
    rest is our choice: t = 2, decoders from the three deepest levels, up-sampling by 3×3 transposed
    convolutions, encoder maps and the decoders' last maps concatenated. Others come as near.

    Parameters
    ----------
    n : decoders, 1 (a U-shaped network) up to the levels below the first.
    widths : maps at each level, the first at full size.
    t : recurrent steps after the first, feed-forward one.
    bn_momentum : as in `IRRCNN`.

    Raises ValueError for an `n` that is impossible, and for images that cannot be halved so often.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 2,
        n: int = 3,
        widths: tuple[int, ...] = WIDTHS,
        t: int = 2,
        bn_momentum: float | None = 0.1,
    ):
        super().__init__()
        if not 1 <= n < len(widths):
            raise ValueError(
                f"n={n} decoders: with {len(widths)} levels there can be 1 to {len(widths) - 1}"
            )
        self.multiple = 2 ** (len(widths) - 1)
        firsts = (in_channels, *widths[:-1])
        self.encoder = nn.ModuleList(R2(a, b, t) for a, b in zip(firsts, widths, strict=True))
        ends = range(len(widths), len(widths) - n, -1)
        self.decoders = nn.ModuleList(Decoder(widths[:end], t) for end in ends)
        self.head = nn.Conv2d(n * widths[0], n_classes, 1)
        set_momentum(he(self), bn_momentum)
        for decoder in self.decoders:
            for up in decoder.ups:
                _he_transposed(up)

    def forward(self, x):
        self._check_size(x)
        encoded = []
        for unit in self.encoder:
            x = unit(max_pool2d(x, 2) if encoded else x)
            encoded.append(x)
        tops = []
        for decoder in self.decoders:
            *above, deepest = encoded[: len(decoder.ups) + 1]
            tops.append(decoder(deepest, above))
        return self.head(torch.cat(tops, 1))

    def _check_size(self, x):
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"images of {height}×{width} pixels: both sides must be multiples of "
                f"{self.multiple}; resize them, or pad and crop"
            )


def _he_transposed(up: nn.ConvTranspose2d) -> None:
    """He initialisation by the inputs a pixel really has: a kernel of stride 2 meets every fourth."""
    kernel, stride = up.kernel_size[0], up.stride[0]
    inputs = up.in_channels * kernel**2 / stride**2
    nn.init.normal_(up.weight, std=(2 / inputs) ** 0.5)
    nn.init.zeros_(up.bias)
