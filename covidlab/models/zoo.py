"""Networks by name: the papers' own from this package, the known ones from timm."""

from __future__ import annotations

from torch import nn

from .cov_ctnet import CoVCTNet


def _timm(name):
    def build(in_channels, n_classes, pretrained, **options):
        import timm

        return timm.create_model(
            name, pretrained=pretrained, in_chans=in_channels, num_classes=n_classes, **options
        )

    return build


def _ours(network):
    def build(in_channels, n_classes, pretrained, **options):
        if pretrained:
            raise ValueError(f"{network.__name__} has no published weights: pretrained=False")
        return network(in_channels, n_classes, **options)

    return build


NETWORKS = {"CoV-CTNet": _ours(CoVCTNet), "ResNet-18": _timm("resnet18")}


def create(
    name: str, in_channels: int = 1, n_classes: int = 2, pretrained: bool = False, **options
) -> nn.Module:
    """A network by its name in the papers (a key of `NETWORKS`): (N, C, H, W) → (N, n_classes) logits.

    `pretrained=True` takes ImageNet weights through timm and never falls back to random ones.

    Raises
    ------
    KeyError : no such network; the message names those there are.
    RuntimeError : the pretrained weights cannot be had (no network, not in the local cache).
    """
    if name not in NETWORKS:
        raise KeyError(f"no network {name!r}: there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](in_channels, n_classes, pretrained, **options)
    except OSError as error:  # huggingface_hub's LocalEntryNotFoundError and urllib's URLError
        raise RuntimeError(
            f"the ImageNet weights of {name} cannot be loaded ({type(error).__name__}): go online "
            "once so that timm can cache them, or set pretrained=False and call it from scratch"
        ) from error


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
