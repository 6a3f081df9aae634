"""`Recipe`: what a paper prescribes, so that it can be recorded, hashed, compared and varied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from covidlab.imaging import ENHANCEMENTS

OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("constant", "one_cycle", "step", "plateau")
LOSSES = ("cross_entropy", "dice", "cross_entropy+dice", "squared_dice")
PROFILES = ("smoke", "fast", "paper")
TRAINABLE = ("all", "head", "all but batch norm")


@dataclass(frozen=True)
class Recipe:
    """Everything that changes the result of a training, but for data and seed.

    Parameters
    ----------
    name, source : what it is called; paper, section and page it is taken from.
    network, options : a key of `models.NETWORKS` (of `models.SEGMENTERS` where there are `masks`),
        and arguments for it.
    masks : columns of the manifest with the regions to find, such as ("infection_mask",); empty
        for classification by label. Class 0 is the background, class i the i-th column; where
        masks overlap, the later column wins.
    loss : "cross_entropy" or, for masks, "dice", "cross_entropy+dice" (their sum) or "squared_dice"
        (see `losses.MaskLoss`).
    static_attention : weigh the pixels' cross-entropy by the rarity of their class in the training
        masks (Khan et al. 2020, Section 3.2.3; see `losses.static_attention`).
    pretrained : start from ImageNet weights.
    size, channels, fit : input in pixels a side, 1 or 3 channels, and how an image comes to it
        (see `imaging.resize`).
    enhance : a key of `imaging.ENHANCEMENTS`, applied at the image's own size; "3-channel" needs
        `channels=3`.
    batch_size, optimiser, lr, momentum, weight_decay : momentum is Adam's first beta; weight decay
        is the L2 penalty.
    schedule, steps, gamma, patience : "constant", "one_cycle" (rising to `lr`, then down), "step"
        (× gamma at each epoch in `steps`), or "plateau" (× gamma after `patience` epochs in which
        the validation loss did not fall).
    stop_after : end the training after so many epochs in which the validation loss did not fall;
        0 for never.
    epochs, folds : length of a training; folds of the paper's cross-validation.
    augment : arguments for `augmentations`, fastai's `aug_transforms` and more; None for none.
    class_weights : weigh the loss by the inverse frequency of the classes in training.
    oversample : show the images of rarer classes again in each epoch, until every class is seen as
        often as the commonest; what differs in the repeats is what `augment` does to them.
    monitor : what the best epoch is chosen by, "valid_loss" or a metric's name.
    trainable : which part of the network learns, "all", "head" or "all but batch norm" (see
        `train_only`); the others stay as the weights it starts from.
    laptop : fields that `.fast()` replaces; not part of the recipe's identity.
    """

    name: str
    source: str = ""
    network: str = "ResNet-18"
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    size: int = 224
    channels: int = 1
    fit: str = "squash"
    enhance: str = "none"
    batch_size: int = 8
    optimiser: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    patience: int = 3
    stop_after: int = 0
    epochs: int = 10
    folds: int = 5
    augment: Mapping[str, Any] | None = None
    class_weights: bool = False
    oversample: bool = False
    masks: tuple[str, ...] = ()
    loss: str = "cross_entropy"
    static_attention: bool = False
    monitor: str = "valid_loss"
    trainable: str = "all"
    laptop: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        choices = {
            "enhance": tuple(ENHANCEMENTS),
            "optimiser": OPTIMISERS,
            "schedule": SCHEDULES,
            "channels": (1, 3),
            "fit": ("squash", "pad", "crop"),
            "loss": LOSSES,
            "trainable": TRAINABLE,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"recipe {self.name!r}: {name}={getattr(self, name)!r} not in {allowed}"
                )
        if self.enhance == "3-channel" and self.channels != 3:
            raise ValueError(f"recipe {self.name!r}: enhance='3-channel' needs channels=3")
        for name in ("size", "batch_size", "epochs", "lr", "gamma", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"recipe {self.name!r}: {name}={getattr(self, name)!r} must be above 0"
                )
        self._check_masks()
        if unknown := set(self.laptop) - {f.name for f in fields(self)}:
            raise ValueError(f"recipe {self.name!r}: laptop names no fields: {sorted(unknown)}")

    def _check_masks(self):
        wrong = None
        if isinstance(self.masks, str):
            wrong = f"masks={self.masks!r} must be a tuple of columns: ({self.masks!r},)"
        elif not self.masks and (self.loss != "cross_entropy" or self.static_attention):
            wrong = f"loss={self.loss!r} and static_attention are for masks: name their columns"
        elif self.masks and (self.class_weights or self.oversample):
            wrong = "class_weights and oversample count labels: for masks set static_attention"
        elif self.class_weights and self.oversample:
            wrong = "class_weights and oversample would count the rarer classes twice"
        elif self.static_attention and "cross_entropy" not in self.loss:
            wrong = f"static_attention weighs the cross-entropy, which loss={self.loss!r} has not"
        elif len(set(self.masks)) < len(self.masks):
            wrong = f"masks={self.masks!r} name a column twice"
        if wrong:
            raise ValueError(f"recipe {self.name!r}: {wrong}")
        object.__setattr__(self, "masks", tuple(self.masks))

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the pixels' classes: "background", then each mask column without "_mask"."""
        names = (column.removesuffix("_mask").replace("_", " ") for column in self.masks)
        return ("background", *names) if self.masks else ()

    def but(self, **changes) -> Recipe:
        """The same recipe with some fields changed."""
        return replace(self, **changes)

    def fast(self) -> Recipe:
        """The same for a laptop: the fields in `laptop` replace the paper's."""
        return replace(self, **self.laptop)

    def smoke(self) -> Recipe:
        """One epoch of the fast recipe: does everything run?"""
        return replace(self.fast(), epochs=1)

    def at(self, profile: str) -> Recipe:
        """The recipe of a profile: "paper" as published, "fast" for a laptop, "smoke" for tests."""
        if profile not in PROFILES:
            raise ValueError(f"profile={profile!r} must be one of {', '.join(PROFILES)}")
        return {"smoke": self.smoke, "fast": self.fast, "paper": lambda: self}[profile]()

    def asdict(self) -> dict[str, Any]:
        """Every field but `laptop`, ready for JSON."""
        fields = asdict(self)
        del fields["laptop"]
        return json.loads(json.dumps(fields))

    def hash(self) -> str:
        """Twelve hex digits that change when, and only when, a result could."""
        silent = {"name", "source", "folds"}
        if not self.masks:  # as it was before there were masks
            silent |= {"masks", "loss", "static_attention"}
        if self.trainable == "all":  # as it was before anything could be frozen
            silent |= {"trainable"}
        if not self.oversample:  # as it was before anything could be shown twice
            silent |= {"oversample"}
        if self.schedule != "plateau":  # as it was before a schedule could wait
            silent |= {"patience"}
        if not self.stop_after:
            silent |= {"stop_after"}
        content = {k: v for k, v in self.asdict().items() if k not in silent}
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def changed(self, other: Recipe) -> dict[str, tuple]:
        """The fields in which two recipes differ: {name: (mine, the other's)}."""
        mine, others = self.asdict(), other.asdict()
        return {k: (v, others[k]) for k, v in mine.items() if v != others[k]}


# fastai's augmentation with all but the left–right flips taken out
_FLIPS = {"max_rotate": 0.0, "max_zoom": 1.0, "max_lighting": 0.0, "max_warp": 0.0}

# What Khan et al. compare (Tables 2, 3, 5 and 6), by their names in `models`.
KHAN_NETWORKS = (
    "CoV-CTNet",
    "VGG16",
    "VGG19",
    "GoogLeNet",
    "Inception-V3",
    "ResNet-18",
    "ResNet-50",
    "DenseNet-201",
    "ShuffleNet",
    "Xception",
)
KHAN_SEGMENTERS = (
    "CoV-RASeg",
    "SegNet",
    "U-SegNet",
    "U-Net",
    "VGG16",
    "VGG19",
    "FCN-8",
    "deeplabv3_1",
    "deeplabv3_2",
)

KHAN_SCREENING = Recipe(
    name="Khan screening",
    source="Khan et al. 2020, Sections 3.1 and 4.2",
    network="CoV-CTNet",
    size=82,
    enhance="idwt",
    batch_size=8,
    optimiser="sgd",
    lr=1e-3,
    momentum=0.95,
    # Not in the text: the default of the MATLAB trainer it used.
    weight_decay=1e-4,
    epochs=30,
    folds=5,
    laptop={
        "options": {"widths": (16, 32, 64, 128)},
        "size": 64,
        "batch_size": 16,
        "optimiser": "adam",
        "lr": 1.5e-3,
        "momentum": 0.9,
        "schedule": "one_cycle",
        "epochs": 10,
        # ten epochs on few patients are too many without
        "augment": _FLIPS,
    },
)

KHAN_SEGMENTATION = Recipe(
    name="Khan segmentation",
    source="Khan et al. 2020, Sections 3.2, 4.1 and 4.2",
    network="CoV-RASeg",
    masks=("infection_mask",),
    size=304,
    channels=3,
    batch_size=8,
    optimiser="sgd",
    lr=1e-3,
    momentum=0.95,
    # Not in the text: the default of the MATLAB trainer it used.
    weight_decay=1e-4,
    epochs=30,
    folds=5,
    laptop={
        "options": {"width": 32},
        "size": 96,
        "optimiser": "adam",
        "lr": 3e-3,
        "momentum": 0.9,
        "schedule": "one_cycle",
        "epochs": 12,
        "augment": _FLIPS,
    },
)

# Garg et al. 2021, Section III.B. Not in the text: what the shear of 0.2 is (here the shift of a
# row by its height), that every image is changed, and what fills the corners (black).
_GARG_AUGMENT = {
    "max_rotate": 25.0,
    "max_shift": 20 / 224,
    "min_zoom": 0.8,
    "max_zoom": 1.2,
    "max_shear": 0.2,
    "brightness": (0.8, 1.2),
    "max_lighting": 0.0,
    "max_warp": 0.0,
    "p_affine": 1.0,
    "pad_mode": "zeros",
}
_GARG_LAPTOP = {
    # the strongest answer of each map: an average over the image would drown a small infection
    "options": {
        "backbone": "resnet10t",
        "widths": (24, 48, 96, 192),
        "hidden": 256,
        "pool": "max",
    },
    "pretrained": False,
    "size": 96,
    "channels": 1,
    "batch_size": 16,
    "augment": {"max_rotate": 8.0, "max_zoom": 1.1, "max_lighting": 0.0, "max_warp": 0.0},
    "monitor": "valid_loss",  # of few patients, accuracy would choose whoever names the commonest
}

GARG_FIRST_SOURCE = Recipe(
    name="Garg, first source",
    source="Garg et al. 2021, Sections III.A.1, III.B and III.C.1",
    network="Multi-scale ResNet-50",
    pretrained=True,
    size=224,
    channels=3,
    enhance="body",
    batch_size=64,
    optimiser="adam",
    lr=1e-3,
    epochs=10,
    augment=_GARG_AUGMENT,
    class_weights=True,
    monitor="accuracy",
    laptop=_GARG_LAPTOP | {"lr": 6e-3, "schedule": "one_cycle", "epochs": 18},
)
GARG_LAST_LAYERS = GARG_FIRST_SOURCE.but(
    name="Garg, second source, last layers",
    source="Garg et al. 2021, Sections III.A.2, III.B and III.C.1",
    pretrained=False,  # it starts from the step before
    enhance="body, twice as bright",
    trainable="head",
    lr=1e-4,
    laptop=_GARG_LAPTOP | {"lr": 1e-3, "epochs": 3},
)
GARG_FINE_TUNING = GARG_LAST_LAYERS.but(
    name="Garg, second source, all layers",
    trainable="all but batch norm",
    lr=1e-5,
    laptop=_GARG_LAPTOP | {"lr": 1e-3, "epochs": 4},
)
# The learning rate of this step is not in the text: that of the step before.
GARG_SELF_TRAINING = GARG_FINE_TUNING.but(
    name="Garg, slices found by the model",
    epochs=25,
    laptop=_GARG_LAPTOP | {"lr": 1e-3, "epochs": 4},
)

# Alom et al. 2020. Section 4.2 has "class specific data augmentation" against the imbalance and does
# not say which: here flips, small turns and zooms, and the rarer class shown again.
_ALOM_AUGMENT = {"max_rotate": 10.0, "max_zoom": 1.1, "max_lighting": 0.1, "max_warp": 0.0}

ALOM_XRAY = Recipe(
    name="Alom, COVID-Det X-ray",
    source="Alom et al. 2020, Sections 3, 4.2 and 4.3",
    network="IRRCNN",
    size=128,
    channels=3,
    batch_size=32,
    optimiser="adam",
    lr=1e-3,
    schedule="step",
    steps=(25, 50),
    epochs=75,
    augment=_ALOM_AUGMENT,
    oversample=True,
    laptop={
        "options": {"width": 16},
        "size": 64,
        "channels": 1,
        "batch_size": 16,
        "lr": 2e-3,
        "schedule": "one_cycle",
        "steps": (),
        "epochs": 8,
    },
)
# "Trained with same parameters", but 150 epochs and batches of 16; 192 pixels are in Section 4.2.
# The text calls this the "classification model (COVID-Seg_CT)": Det is meant.
ALOM_CT = ALOM_XRAY.but(name="Alom, COVID-Det CT", size=192, batch_size=16, epochs=150)

# How long is not in the text: as long as the detection.
ALOM_SEG_XRAY = Recipe(
    name="Alom, COVID-Seg X-ray",
    source="Alom et al. 2020, Sections 3, 4.2 and 4.3",
    network="NABLA-3",
    masks=("lung_mask",),
    loss="dice",
    size=192,
    channels=3,
    enhance="stretch",
    batch_size=8,
    optimiser="adam",
    lr=3e-4,
    epochs=75,
    laptop={
        "options": {"widths": (4, 8, 16, 32, 64, 128)},
        "size": 96,
        "channels": 1,
        "batch_size": 4,
        "lr": 5e-3,
        "schedule": "one_cycle",
        "epochs": 10,
    },
)
ALOM_SEG_CT = ALOM_SEG_XRAY.but(name="Alom, COVID-Seg CT", size=256, channels=1)

# Ahmed et al. 2020. What Table 7 compares, by its names in `models`.
AHMED_NETWORKS = ("ResNet-152", "DenseNet-121", "EfficientNet-B4", "HRNet")

# Table 3. What its numbers measure is not said: see `training.ahmed_augmentations`.
_AHMED_AUGMENT = {
    "ahmed": {
        "scale": (0.8, 1.1),
        "max_rotate": 45.0,
        "max_shear": 0.2,
        "p_shear": 0.7,
        "gamma": (0.5, 3.0),
        "salt_pepper": 0.01,
        "p_salt_pepper": 0.3,
        "blur": 0.5,
        "blur_kernel": 11,
        "p_blur": 0.5,
        "noise": 0.5,
        "p_noise": 0.3,
    }
}

# Not in the text: optimiser and batch size. Algorithm 1 augments the validation part too; here it
# stays as it is, so that epochs can be compared.
AHMED_LUNGS = Recipe(
    name="Ahmed, lungs",
    source="Ahmed et al. 2020, Sections 3.2, 3.3 and 4.2, Tables 3 and 4, equation 1",
    network="U-Net (Ahmed)",
    masks=("lung_mask",),
    loss="squared_dice",
    size=512,
    channels=1,
    batch_size=8,
    optimiser="adam",
    lr=5e-3,
    epochs=25,
    folds=10,
    augment=_AHMED_AUGMENT,
    laptop={
        "options": {"width": 8},
        "size": 96,
        "batch_size": 4,
        "lr": 3e-3,
        "schedule": "one_cycle",
        "epochs": 12,
    },
)
# The steps of the learning rate lie beyond the last epoch, as in Table 5. Binary cross-entropy of
# one output is cross-entropy of two. Not in the text: whether HRNet starts from ImageNet weights.
AHMED_HRNET = Recipe(
    name="Ahmed, COVID-19",
    source="Ahmed et al. 2020, Sections 3.3, 3.4 and 4.3, Tables 3 and 5",
    network="HRNet",
    size=512,
    channels=1,
    batch_size=8,
    optimiser="sgd",
    lr=1e-2,
    momentum=0.8,
    weight_decay=1e-4,
    schedule="step",
    steps=(30, 60, 90),
    gamma=0.1,
    epochs=25,
    folds=10,
    augment=_AHMED_AUGMENT,
    laptop={
        "options": {
            "backbone": "hrnet_w18_small.ms_in1k",
            "hidden": (128,),
            "dropout": 0.0,
        },
        "size": 64,
        "batch_size": 16,
        "optimiser": "adam",
        "lr": 3e-3,
        "momentum": 0.9,
        "schedule": "one_cycle",
        "steps": (),
        "epochs": 12,
        # twelve epochs on few patients are too few for turns of 45° and noise over everything
        "augment": {
            "ahmed": _AHMED_AUGMENT["ahmed"]
            | {
                "scale": (0.9, 1.05),
                "max_rotate": 10.0,
                "max_shear": 0.1,
                "gamma": (0.7, 1.5),
                "noise": 0.1,
            }
        },
    },
)

# Tahir 2021. What Tables 4, 5 and 10 compare, by its names in `models`.
TAHIR_SEGMENTERS = tuple(
    f"{decoder} ({encoder})"
    for decoder in ("U-Net", "U-Net++", "FPN")
    for encoder in ("ResNet-18", "ResNet-50", "DenseNet-121", "DenseNet-161", "Inception-V4")
)
TAHIR_FAMILY_NETWORKS = ("SqueezeNet", "ResNet-18", "Inception-V3", "DenseNet-201")
TAHIR_NETWORKS = ("ResNet-18", "ResNet-50", "DenseNet-121", "DenseNet-161", "Inception-V4")

_TAHIR_LAPTOP = {
    "pretrained": False,
    "schedule": "one_cycle",
    "stop_after": 0,
    "epochs": 10,
    "augment": _FLIPS,
}

# Its network is the best of Table 5; for infection, `masks=("infection_mask",)`.
TAHIR_SEGMENTATION = Recipe(
    name="Tahir, segmentation",
    source="Tahir 2021, Sections 3.2.2, 3.2.4, 4 and 4.1",
    network="FPN (DenseNet-121)",
    pretrained=True,
    masks=("lung_mask",),
    size=256,
    channels=1,  # as its Table 11 counts
    batch_size=4,
    optimiser="adam",
    lr=1e-4,
    schedule="plateau",
    gamma=0.2,
    patience=3,
    stop_after=8,
    epochs=40,
    folds=1,
    laptop=_TAHIR_LAPTOP
    | {
        "network": "FPN (ResNet-18)",
        "options": {
            "encoder_depth": 4,  # the deepest stage would see 3×3 fields
            "upsampling": 2,
            "decoder_pyramid_channels": 64,
            "decoder_segmentation_channels": 32,
        },
        "loss": "cross_entropy+dice",  # small lesions count more: ten epochs of few images are short
        "size": 96,
        "lr": 1e-3,
    },
)
# Study II. Three channels, as its Table 12 counts.
TAHIR_CLASSIFICATION = TAHIR_SEGMENTATION.but(
    name="Tahir, COVID-19, other infection or normal",
    source="Tahir 2021, Sections 3.2.3, 3.2.4, 4 and 4.1",
    network="Inception-V4",
    masks=(),
    channels=3,
    laptop=_TAHIR_LAPTOP
    | {
        "network": "ResNet-18",
        "options": {"channels": (32, 64, 128, 256)},
        "size": 64,
        "channels": 1,
        "batch_size": 8,
        "lr": 2e-3,
        "epochs": 15,
    },
)
# Study I balances the training set with images turned by 5, 10, 20 and 25 degrees and shifted by up
# to a tenth. Ours draws the angle evenly from ±25 degrees, each time an image is shown.
TAHIR_FAMILY = TAHIR_CLASSIFICATION.but(
    name="Tahir, COVID-19, MERS or SARS",
    network="Inception-V3",
    folds=5,
    augment={
        "do_flip": False,
        "max_rotate": 25.0,
        "max_shift": 0.1,
        "max_zoom": 1.0,
        "max_lighting": 0.0,
        "max_warp": 0.0,
        "p_affine": 1.0,
        "pad_mode": "zeros",
    },
    oversample=True,
    laptop={k: v for k, v in TAHIR_CLASSIFICATION.laptop.items() if k != "augment"},
)
