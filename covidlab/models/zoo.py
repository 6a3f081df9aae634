"""Networks by name: the papers' own from this package, the known ones from libraries."""

from __future__ import annotations

from torch import nn

from .ahmed_unet import AhmedUNet
from .cov_ctnet import CoVCTNet
from .cov_raseg import CoVRASeg
from .fcn import FCN8
from .hrnet import HRNet
from .irrcnn import IRRCNN
from .multiscale_resnet import MultiScaleResNet50
from .nabla_n import NablaN
from .pretrained import fetching, load_in_order, torchvision_state
from .segnet import VGG16, VGG19, EncoderDecoder, USegNet


def _ours(network):
    def build(in_channels, n_classes, pretrained, **options):
        if pretrained:
            raise ValueError(f"{network.__name__} has no published weights: pretrained=False")
        return network(in_channels, n_classes, **options)

    return build


def _timm(name):
    def build(in_channels, n_classes, pretrained, **options):
        import timm

        with fetching(f"timm {name}"):
            return timm.create_model(
                name, pretrained=pretrained, in_chans=in_channels, num_classes=n_classes, **options
            )

    return build


def _torchvision(name, weights, first, last="fc.", **fixed):
    """torchvision's `name` from its `first` convolution, it takes no in_channels, to its `last` layer."""

    def build(in_channels, n_classes, pretrained, **options):
        from torchvision import models

        network = models.get_model(name, weights=None, num_classes=n_classes, **fixed, **options)
        conv = network.get_submodule(first)
        network.set_submodule(first, _with_channels(conv, in_channels))
        if pretrained:
            state = torchvision_state(models.get_weight(weights), in_channels)
            features = {k: v for k, v in state.items() if not k.startswith((last, "aux"))}
            network.load_state_dict(_part(network.state_dict(), last) | features)
        return network

    return build


def _with_channels(conv, in_channels):
    given = conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    return nn.Conv2d(in_channels, *given, bias=conv.bias is not None)


def _smp(architecture, encoder):
    def build(in_channels, n_classes, pretrained, **options):
        import segmentation_models_pytorch as smp

        with fetching(f"smp-hub/{encoder}.imagenet"):
            return getattr(smp, architecture)(
                encoder,
                encoder_weights="imagenet" if pretrained else None,
                in_channels=in_channels,
                classes=n_classes,
                **options,
            )

    return build


def _encoder_decoder(weights, stages, unpool):
    def build(in_channels, n_classes, pretrained, width=64):
        network = EncoderDecoder(in_channels, n_classes, stages, width, unpool)
        if pretrained:
            state = _vgg_state(weights, in_channels, width)
            load_in_order(network.encoder, _part(state, "features."))
        return network

    return build


def _fcn8(in_channels, n_classes, pretrained, width=64, fc=4096, dropout=0.5):
    network = FCN8(in_channels, n_classes, width, fc, dropout)
    if pretrained:
        state = _vgg_state("VGG16_Weights.IMAGENET1K_V1", in_channels, width)
        load_in_order(network.stages, _part(state, "features."))
        if fc == 4096:
            load_in_order(network.dense, _part(state, ("classifier.0.", "classifier.3.")))
    return network


def _vgg_state(weights, in_channels, width):
    from torchvision.models import get_weight

    if width != 64:
        raise ValueError(f"width={width}: ImageNet weights fit width=64, or set pretrained=False")
    return torchvision_state(get_weight(weights), in_channels)


def _part(state, prefix):
    return {k: v for k, v in state.items() if k.startswith(prefix)}


NETWORKS = {
    "CoV-CTNet": _ours(CoVCTNet),
    "VGG16": _timm("vgg16.tv_in1k"),
    "VGG19": _timm("vgg19.tv_in1k"),
    "GoogLeNet": _torchvision(
        "googlenet",
        "GoogLeNet_Weights.IMAGENET1K_V1",
        "conv1.conv",
        aux_logits=False,
        transform_input=False,
        init_weights=False,
    ),
    "Inception-V3": _timm("inception_v3.tv_in1k"),
    "ResNet-18": _timm("resnet18.a1_in1k"),
    "ResNet-50": _timm("resnet50.a1_in1k"),
    "DenseNet-201": _timm("densenet201.tv_in1k"),
    "ShuffleNet": _torchvision(
        "shufflenet_v2_x1_0", "ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1", "conv1.0"
    ),
    "Xception": _timm("legacy_xception.tf_in1k"),
    "IRRCNN": _ours(IRRCNN),  # Alom et al.
    "Multi-scale ResNet-50": MultiScaleResNet50,  # Garg et al.
    "HRNet": HRNet,  # Ahmed et al., as the three below
    "ResNet-152": _timm("resnet152.a1_in1k"),
    "DenseNet-121": _timm("densenet121.tv_in1k"),
    "EfficientNet-B4": _timm("efficientnet_b4.ra2_in1k"),
    "SqueezeNet": _torchvision(  # Tahir, as the two below
        "squeezenet1_0", "SqueezeNet1_0_Weights.IMAGENET1K_V1", "features.0", "classifier.1."
    ),
    "DenseNet-161": _timm("densenet161.tv_in1k"),
    "Inception-V4": _timm("inception_v4.tf_in1k"),
}

_SMALLEST = {
    "VGG16": 32,
    "VGG19": 32,
    "GoogLeNet": 15,
    "Inception-V3": 75,
    "Inception-V4": 75,
    "DenseNet-121": 29,
    "DenseNet-161": 29,
    "DenseNet-201": 29,
    "SqueezeNet": 21,
    "Xception": 7,
}

_VGG16_BN, _VGG19_BN = "VGG16_BN_Weights.IMAGENET1K_V1", "VGG19_BN_Weights.IMAGENET1K_V1"
SEGMENTERS = {
    "CoV-RASeg": _ours(CoVRASeg),
    "SegNet": _encoder_decoder(_VGG16_BN, VGG16, "indices"),
    "U-SegNet": _ours(USegNet),
    "U-Net": _smp("Unet", "resnet18"),
    "VGG16": _encoder_decoder(_VGG16_BN, VGG16, "bilinear"),
    "VGG19": _encoder_decoder(_VGG19_BN, VGG19, "bilinear"),
    "FCN-8": _fcn8,
    "deeplabv3_1": _smp("DeepLabV3", "resnet18"),
    "deeplabv3_2": _smp("DeepLabV3", "resnet50"),
    "NABLA-3": _ours(NablaN),  # Alom et al.
    "U-Net (Ahmed)": _ours(AhmedUNet),
}
_DECODERS = {"U-Net": "Unet", "U-Net++": "UnetPlusPlus", "FPN": "FPN"}
_ENCODERS = {
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "DenseNet-121": "densenet121",
    "DenseNet-161": "densenet161",
    "Inception-V4": "inceptionv4",
}
# Tahir, Table 11
SEGMENTERS |= {
    f"{name} ({encoder})": _smp(architecture, theirs)
    for name, architecture in _DECODERS.items()
    for encoder, theirs in _ENCODERS.items()
}


def create(
    name: str, in_channels: int = 1, n_classes: int = 2, pretrained: bool = False, **options
) -> nn.Module:
    """A network by its name in the papers (a key of `NETWORKS`): (N, C, H, W) → (N, n_classes) logits.

    Those of Khan et al., Section 3.1.3, come from timm; GoogLeNet, ShuffleNet and SqueezeNet, which
    timm does not have, from torchvision, GoogLeNet without its auxiliary classifiers. ShuffleNet is
    version 2 at width 1: version 1, with the grouped 1×1 convolutions the paper tells of, is in
    neither library. `smallest` says which sizes a network takes.

    `pretrained=True` takes ImageNet weights, for one channel with the first kernels summed over
    RGB, and draws the classifier anew; it never falls back to random weights.

    Raises
    ------
    KeyError : no such network; the message names those there are.
    RuntimeError : the pretrained weights cannot be had (no network, not in the local cache).
    ValueError : pretrained, but none are published, or not for so many channels.
    """
    return _build(NETWORKS, "network", name)(in_channels, n_classes, pretrained, **options)


def smallest(name: str) -> int:
    """The shortest side in pixels that a network of `NETWORKS` takes; all but Inceptions take 64.

    This is where the maps run empty, not where the network does well. Near it, batch normalisation
    needs two images or more in training. KeyError for a name that is not in `NETWORKS`.
    """
    _build(NETWORKS, "network", name)
    return _SMALLEST.get(name, 1)


def create_segmenter(
    name: str, in_channels: int = 1, n_classes: int = 2, pretrained: bool = False, **options
) -> nn.Module:
    """A segmenter by its name in the papers, as Khan et al., Tables 5 and 6 (a key of `SEGMENTERS`).

    (N, C, H, W) → (N, n_classes, H, W) logits, at 304×304 as in the paper and at other sizes:

    =============  =====================================  =======================  ===============
    name           network                                options                  sides
    =============  =====================================  =======================  ===============
    CoV-RASeg      `CoVRASeg`, the paper's own            width, avg, merge        from 4
    SegNet         `EncoderDecoder`, VGG-16, indices      width                    from 32
    U-SegNet       `USegNet`                              width                    from 16
    U-Net          smp's, with a ResNet-18 as encoder     those of smp.Unet        any
    VGG16          `EncoderDecoder`, VGG-16, bilinear     width                    from 32
    VGG19          `EncoderDecoder`, VGG-19, bilinear     width                    from 32
    FCN-8          `FCN8`, VGG-16                         width, fc, dropout       from 32
    deeplabv3_1    smp's DeepLabV3 on ResNet-18           those of smp.DeepLabV3   multiples of 8
    deeplabv3_2    smp's DeepLabV3 on ResNet-50           those of smp.DeepLabV3   multiples of 8
    NABLA-3        `NablaN` (Alom et al. 2020)            n, widths, t             multiples of 32
    U-Net (Ahmed)  `AhmedUNet` (Ahmed et al. 2020)        width                    multiples of 16
    U-Net (…)      smp's Unet (Tahir 2021)                those of smp.Unet        any
    U-Net++ (…)    smp's UnetPlusPlus (Tahir 2021)        of smp.UnetPlusPlus      multiples of 32
    FPN (…)        smp's FPN (Tahir 2021)                 those of smp.FPN         multiples of 32
    =============  =====================================  =======================  ===============

    Behind the last three stands an encoder: ResNet-18, ResNet-50, DenseNet-121, DenseNet-161 or
    Inception-V4, as in "FPN (DenseNet-121)". As smp makes them they have the parameters of Tahir's
    Table 11 at one channel; its text differs twice: a last convolution of 1×1 (smp's U-Nets have
    3×3), and branches of the FPN concatenated (smp adds them).

    Table 5 writes VGG-16, VGG-19, Deeplabv3_1 and _2 for the same rows. The paper does not say what
    sets its two DeepLabV3 apart: two depths of the encoder are our choice. Nor does it describe its
    U-Net, which failed on its images (Figure 14). DeepLabV3 needs two images or more in training.

    `pretrained=True` takes ImageNet weights for the encoder (SegNet and VGG: torchvision's with
    batch normalisation; FCN-8: torchvision's VGG-16, its dense layers only where fc=4096; U-Net and
    DeepLabV3: smp's); the default is from scratch. U-SegNet and CoV-RASeg have none, as in Table 6.

    Raises
    ------
    KeyError : no such segmenter; the message names those there are.
    RuntimeError : the pretrained weights cannot be had (no network, not in the local cache).
    ValueError : an option is impossible, or no weights fit it; from the network, at its first
        image: a side is too short (RuntimeError from smp: no multiple of 8).
    """
    return _build(SEGMENTERS, "segmenter", name)(in_channels, n_classes, pretrained, **options)


def _build(table, kind, name):
    if name not in table:
        raise KeyError(f"no {kind} {name!r}: there are {', '.join(table)}")
    return table[name]


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
