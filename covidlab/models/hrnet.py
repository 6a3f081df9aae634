"""HRNet with the classification head of Ahmed et al. (2020, Sections 3.4 and 4.3)."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import interpolate

from .irrcnn import set_momentum
from .pretrained import fetching

MULTIPLE = 32


class HRNet(nn.Module):
    """timm's high-resolution network (Wang et al. 2020), and fully connected layers behind it.

    Input (N, in_channels, H, W), the paper's 512×512; output (N, n_classes) logits (the softmax is
    in the loss). Four resolutions side by side meet on the grid of the coarsest, so images whose
    sides are no multiples of 32 are enlarged to the next (bilinear).

    The paper gives neither the width of its HRNet, nor a number of parameters that would tell it,
    nor, but in a drawing (Figure 11), its "several fully connected layers": HRNet-W18, and 2048 →
    512 → 128 → classes with ReLU and dropout, are our choice; 20,363,862 parameters at one channel
    and two classes, 9.7 million of them in timm's layers that join the resolutions for
    classification.

    Parameters
    ----------
    pretrained : ImageNet weights of timm for the backbone; the paper does not say. The head is
        always drawn anew.
    backbone : an HRNet of timm, such as "hrnet_w32.ms_in1k"; "hrnet_w18_small.ms_in1k" for a laptop.
    hidden : lengths of the fully connected layers before the last.
    dropout : after each of them.
    bn_momentum : as in `IRRCNN`.

    Raises RuntimeError where pretrained weights cannot be had.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        pretrained: bool = False,
        backbone: str = "hrnet_w18.ms_in1k",
        hidden: tuple[int, ...] = (512, 128),
        dropout: float = 0.5,
        bn_momentum: float | None = 0.1,
    ):
        import timm

        super().__init__()
        with fetching(f"timm {backbone}"):
            self.backbone = timm.create_model(
                backbone, pretrained=pretrained, in_chans=in_channels, num_classes=0
            )
        set_momentum(self.backbone, bn_momentum)
        layers, length = [], self.backbone.num_features
        for size in hidden:
            layers += [nn.Linear(length, size), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            length = size
        self.head = nn.Sequential(*layers, nn.Linear(length, n_classes))

    def forward(self, x):
        sides = [-(-side // MULTIPLE) * MULTIPLE for side in x.shape[-2:]]
        if sides != [*x.shape[-2:]]:
            x = interpolate(x, size=sides, mode="bilinear", align_corners=False)
        return self.head(self.backbone(x))
