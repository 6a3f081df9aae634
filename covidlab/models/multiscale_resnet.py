"""The multi-scale ResNet-50 of Garg et al. (Section III.C.1, Figure 3)."""

from __future__ import annotations

import torch
from torch import nn

from .pretrained import fetching

POOLS = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}


class MultiScaleResNet50(nn.Module):
    """A ResNet that decides by three of its stages together, for infections small and large.

    Input (N, in_channels, H, W), the paper's 224×224×3; output (N, n_classes) logits (the softmax
    is in the loss). The maps of stages 3, 4 and 5 (Keras counts the first convolution as stage 1;
    timm calls them layer2, layer3 and layer4), pooled over the image and concatenated, 512 + 1024 +
    2048 numbers; dropout; a fully connected layer of 1024 with ReLU; the classifier. 27,182,147
    parameters with three channels and three classes.

    The text gives neither the pooling nor the dropout rate: global average pooling and 0.5 are our
    choice. timm's ResNet-50 has its stride in the 3×3 convolution of a block, that of Keras in the
    1×1 before it; the parameters are the same.

    Parameters
    ----------
    pretrained : ImageNet weights of timm for the backbone, as in the paper; the head is drawn anew.
    backbone : any timm network with five stages; "resnet18" for a laptop.
    widths : channels of stages 2 to 5, for a narrower ResNet of timm; None for the usual ones, with
        which alone pretrained weights fit.
    stages : of 2 to 5, those that are used; (5,) is the plain network, for comparison.
    pool : "avg" or "max", over the image.
    hidden : length of the features that a patient's slices are known by.
    dropout : before the first fully connected layer.

    Raises ValueError for a pool or stages there are not, RuntimeError where pretrained weights
    cannot be had.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 3,
        pretrained: bool = False,
        backbone: str = "resnet50.a1_in1k",
        widths: tuple[int, int, int, int] | None = None,
        stages: tuple[int, ...] = (3, 4, 5),
        pool: str = "avg",
        hidden: int = 1024,
        dropout: float = 0.5,
    ):
        import timm

        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} must be one of {', '.join(POOLS)}")
        if not stages or not set(stages) <= {2, 3, 4, 5}:
            raise ValueError(f"stages={stages!r} must be some of 2, 3, 4, 5")
        if widths is not None and (len(widths) != 4 or pretrained):
            raise ValueError(
                f"widths={widths!r} must be four numbers, and pretrained weights fit the usual alone"
            )
        narrow = {}
        if widths is not None:
            narrow = {"channels": tuple(widths), "stem_width": widths[0] // 2}
        with fetching(f"timm {backbone}"):
            self.backbone = timm.create_model(
                backbone,
                pretrained=pretrained,
                in_chans=in_channels,
                features_only=True,
                out_indices=[stage - 1 for stage in sorted(stages)],
                **narrow,
            )
        self.pool = nn.Sequential(POOLS[pool](1), nn.Flatten())
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(sum(self.backbone.feature_info.channels()), hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, x):
        return self.head(torch.cat([self.pool(maps) for maps in self.backbone(x)], 1))


def parameter_groups(model: nn.Module, batch_norm: bool = True) -> list[list[nn.Parameter]]:
    """Backbone and head as fastai's `splitter` gives them, so that `freeze` leaves the head free.

    `batch_norm=False` leaves the backbone's batch normalisation out of the groups: what is in none
    is not trained. For a network with parts named `backbone` and `head`, else ValueError.
    """
    if not (hasattr(model, "backbone") and hasattr(model, "head")):
        raise ValueError(f"{type(model).__name__} has no backbone and head to tell apart")
    frozen = set() if batch_norm else set(batch_norm_parameters(model.backbone))
    backbone = [p for p in model.backbone.parameters() if p not in frozen]
    return [backbone, list(model.head.parameters())]


def batch_norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of all batch normalisation in a network."""
    layers = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [p for layer in layers for p in layer.parameters(recurse=False)]
