"""CoV-RASeg, the segmentation network of Khan et al. (Section 3.2.1, Figure 4)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d, max_unpool2d

from .cov_ctnet import conv_bn
from .segnet import check_size, he, same_conv2x2

MERGES = ("mean", "concat", "sequential")


def smooth(x):
    """3×3 average of each pixel; at the border, of the pixels there are."""
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Encoder(nn.Module):
    """Two convolutions, then max and average pooling of what they give (equations 8, 9)."""

    def __init__(self, c_in: int, width: int, avg: bool, merge: str):
        super().__init__()
        self.convolutions = nn.Sequential(conv_bn(c_in, width), conv_bn(width, width))
        self.merge = merge if avg else None
        if self.merge == "concat":
            self.reduce = conv_bn(2 * width, width, kernel=1)

    def forward(self, x):
        """The pooled maps, where the maxima were, and the size to come back to."""
        x = self.convolutions(x)
        size = x.shape[-2:]
        if self.merge == "sequential":
            x = smooth(x)
        pooled, indices = max_pool2d(x, 2, return_indices=True)
        if self.merge == "mean":
            pooled = (pooled + avg_pool2d(x, 2)) / 2
        elif self.merge == "concat":
            pooled = self.reduce(torch.cat([pooled, avg_pool2d(x, 2)], 1))
        return pooled, indices, size


class Decoder(nn.Module):
    """Values go back to where the maxima were, are averaged over 3×3, and convolved twice."""

    def __init__(self, width: int, avg: bool):
        super().__init__()
        self.avg = avg
        self.convolutions = nn.Sequential(conv_bn(width, width), conv_bn(width, width))

    def forward(self, x, indices, size):
        x = max_unpool2d(x, indices, 2, output_size=size)
        return self.convolutions(smooth(x) if self.avg else x)


class CoVRASeg(nn.Module):
    """A SegNet of two encoder and two decoder stages that pools by average as well as by maximum.

    Input (N, in_channels, H, W) of any size from 4 pixels a side, the paper's 304×304×3; output
    (N, n_classes, H, W) logits (the softmax is in the loss: Section 4.2; Section 3.2.1 says
    sigmoid). The last convolution is 2×2. 261,314 parameters at 3 channels, 2 classes, 64 wide.

    The text gives neither widths nor convolutions per stage, nor how the two poolings meet, nor
    what average pooling does in the decoder: all four, and He initialisation, are our choice. In
    the encoder both poolings see the output of the convolutions, as equations 8 and 9 say; in the
    decoder a 3×3 average fills the gaps that un-pooling leaves.

    Parameters
    ----------
    width : channels of every convolution.
    avg : False leaves out all average pooling: SegNet at depth two, with the same parameters.
    merge : "mean" of the two poolings; "concat", both side by side, and a 1×1 convolution back to
        `width`; "sequential", a 3×3 average and then the maximum.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 2,
        width: int = 64,
        avg: bool = True,
        merge: str = "mean",
    ):
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge={merge!r} must be one of {', '.join(MERGES)}")
        self.encoders = nn.ModuleList(Encoder(c, width, avg, merge) for c in (in_channels, width))
        self.decoders = nn.ModuleList(Decoder(width, avg) for _ in range(2))
        self.head = same_conv2x2(width, n_classes)
        he(self)

    def forward(self, x):
        check_size(x, 4)
        pooled = []
        for encoder in self.encoders:
            x, *where = encoder(x)
            pooled.append(where)
        for decoder in self.decoders:
            x = decoder(x, *pooled.pop())
        return self.head(x)
