"""Tensor → tensor: one file for each network a paper introduces; a zoo for those libraries have."""

from importlib import import_module

_HOME = {
    "CoVCTNet": "cov_ctnet",
    "CoVRASeg": "cov_raseg",
    "EncoderDecoder": "segnet",
    "USegNet": "segnet",
    "FCN8": "fcn",
    "IRRCNN": "irrcnn",
    "NablaN": "nabla_n",
    "MultiScaleResNet50": "multiscale_resnet",
    "AhmedUNet": "ahmed_unet",
    "HRNet": "hrnet",
    "MaxPoolHead": "patient_heads",
    "BiLSTMHead": "patient_heads",
    "NETWORKS": "zoo",
    "SEGMENTERS": "zoo",
    "create": "zoo",
    "create_segmenter": "zoo",
    "smallest": "zoo",
    "count_parameters": "zoo",
}
__all__ = [*_HOME]


def __getattr__(name):  # torch is imported when the first network is asked for
    if name in _HOME:
        return getattr(import_module(f"covidlab.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'covidlab.models' has no attribute {name!r}")
