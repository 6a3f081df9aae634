"""One network after the other: segments of any image, Khan's screening, Tahir's three networks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from covidlab import imaging, severity
from covidlab.predictions import MaskPredictions, Predictions


@dataclass(frozen=True)
class Finding:
    """What the two stages say of one image.

    `label`, the screener's; `probability` of its positive class; `mask` (H, W) bool at the image's
    own size, empty where the image was screened negative; `infected_fraction` of the lung where a
    lung mask was given, else of the image.
    """

    label: str
    probability: float
    mask: np.ndarray = field(repr=False)
    infected_fraction: float


class ScreenThenSegment:
    """A screener and a segmenter, both trained Learners; only what is screened positive is segmented.

    Khan et al. 2020, Figure 1. `threshold` is the probability of the screener's positive class from
    which an image goes on to the segmenter; `region` is the class of the segmenter that counts.

    Raises ValueError where the screener has no positive class, the segmenter no masks, or the
    threshold is none.
    """

    def __init__(self, screener, segmenter, threshold: float = 0.5, region: int = 1):
        self.positive = screener.dls.split.train.card.positive
        if self.positive is None or screener.recipe.masks:
            raise ValueError("screener: a classifier of a dataset with a positive class is needed")
        if not segmenter.recipe.masks:
            raise ValueError("segmenter: its recipe names no masks")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in 0..1, got {threshold}")
        self.screener, self.segmenter = screener, segmenter
        self.threshold, self.region = threshold, region

    def __call__(self, image: np.ndarray, lung: np.ndarray | None = None) -> Finding:
        """One image (H, W) in [0, 1], perhaps with its lung mask (H, W) bool."""
        classes = self.screener.dls.split.train.classes
        (chances,) = _probabilities(self.screener, [image])
        probability = float(chances[classes.index(self.positive)])
        mask = np.zeros(image.shape, bool)
        if probability >= self.threshold:
            (mask,) = segment(self.segmenter, [image], self.region)
            label = self.positive
        else:
            others = [i for i, c in enumerate(classes) if c != self.positive]
            label = classes[others[int(np.argmax(chances[others]))]]
        inside = mask if lung is None else mask & lung
        area = mask.size if lung is None else max(1, int(lung.sum()))
        return Finding(label, probability, mask, float(inside.sum() / area))

    def over(
        self, dataset, name: str = "screen, then segment"
    ) -> tuple[Predictions, MaskPredictions]:
        """Both stages on a whole dataset with masks: what the screener says, and the masks.

        The masks of images that were screened negative are all background: what the cascade loses.
        """
        from covidlab import training

        screened = training.predict(self.screener, dataset)
        called = screened.score >= self.threshold
        truth = training.loader_for(self.segmenter.dls, dataset).dataset.regions()
        shape = (len(dataset), len(self.segmenter.recipe.regions), *truth.shape[1:])
        probabilities = np.zeros(shape, np.float32)
        probabilities[:, 0] = 1.0
        if called.any():
            found = training.predict(self.segmenter, dataset.where(called))
            probabilities[called] = found.probabilities
        masks = MaskPredictions(
            dataset.frame, probabilities, truth, self.segmenter.recipe.regions, name
        )
        return screened, masks


@dataclass(frozen=True)
class Localised:
    """What Tahir's system says of one X-ray.

    `lung`, `infection`: (H, W) bool at the image's own size, post-processed, the infection within
    the lung. `share`: {"right", "left", "both"}, infected part of each lung and of the two, NaN
    without lung. `probabilities`: of each class, empty where there is no classifier.
    """

    lung: np.ndarray = field(repr=False)
    infection: np.ndarray = field(repr=False)
    share: dict[str, float]
    probabilities: dict[str, float]

    @property
    def positive(self) -> bool:
        """Tahir 2021, Section 3.2.2.3: one lung pixel predicted as infected is enough."""
        return bool(self.infection.any())


class LocaliseAndQuantify:
    """Lungs and infection side by side, and what the lungs alone are classified as.

    Tahir 2021, Figure 3, all trained Learners: `lung` and `infection` segment the plain X-ray; the
    optional `classifier` is given the X-ray with everything but the lungs black. A pixel counts
    above `threshold`; masks are refined by the steps of Section 3.2.2.2 (`imaging.TAHIR_LUNG`, then
    `within`). Called with images (H, W) in [0, 1] or a Dataset, it gives a `Localised` for each.

    Raises ValueError for a segmenter without masks, a classifier with them, a threshold outside
    0..1, and images as `segment` does.
    """

    def __init__(self, lung, infection, classifier=None, threshold: float = 0.5):
        if not (lung.recipe.masks and infection.recipe.masks):
            raise ValueError("lung, infection: both recipes must name masks")
        if classifier is not None and classifier.recipe.masks:
            raise ValueError("classifier: its recipe names masks; a network of labels is needed")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in 0..1, got {threshold}")
        self.lung, self.infection, self.classifier = lung, infection, classifier
        self.threshold = threshold

    def __call__(self, images, batch_size: int = 16) -> list[Localised]:
        if hasattr(images, "frame"):
            images = map(images.image, range(len(images)))
        return [found for some in _batches(images, batch_size) for found in self._of(some)]

    def _of(self, images) -> list[Localised]:
        lungs = [imaging.refine(m, imaging.TAHIR_LUNG) for m in self._masks(self.lung, images)]
        pairs = zip(self._masks(self.infection, images), lungs, strict=True)
        infections = [imaging.within(mask, lung) for mask, lung in pairs]
        chances = [{} for _ in images]
        if self.classifier is not None:
            alone = [np.where(m, i, 0) for m, i in zip(lungs, images, strict=True)]
            names = self.classifier.dls.vocab
            said = _probabilities(self.classifier, alone).tolist()
            chances = [dict(zip(names, each, strict=True)) for each in said]
        shares = [
            severity.share_by_lung(sick, *severity.split_lungs(lung))
            for sick, lung in zip(infections, lungs, strict=True)
        ]
        return [Localised(*each) for each in zip(lungs, infections, shares, chances, strict=True)]

    def _masks(self, learn, images):
        for image, chances in zip(images, _probabilities(learn, images), strict=True):
            yield imaging.resize_mask(chances[1] > self.threshold, np.shape(image))


def within_lungs(infection: MaskPredictions, lungs) -> MaskPredictions:
    """The same predictions with no region at all outside the lungs.

    `lungs`: one (H, W) bool mask for each image, at any size (`segment` gives them); they get the
    post-processing of Tahir 2021, Section 3.2.2.2, before. What comes back goes into
    `evaluation.detection`, `compare_masks` and the rest.

    Raises ValueError for another number of masks than of images.
    """
    if len(lungs) != len(infection):
        raise ValueError(f"lungs: {len(lungs)} masks for {len(infection)} images")
    chances = infection.probabilities.copy()
    for each, lung in zip(chances, lungs, strict=True):
        outside = ~imaging.resize_mask(
            imaging.refine(lung, imaging.TAHIR_LUNG), infection.truth.shape[1:]
        )
        each[:, outside] = 0
        each[0, outside] = 1
    return replace(infection, probabilities=chances)


def segment(learn, images, region: int = 1) -> list[np.ndarray]:
    """What a trained segmenter outlines in images that need no masks of their own.

    Parameters
    ----------
    learn : Learner whose recipe names masks; `region` is the class of it that is asked for.
    images : a `Dataset`, or images (H, W) in [0, 1], which may differ in size. Each is prepared as
        the recipe says.

    Returns one (H, W) bool mask an image, at its own size. Raises ValueError for a learner without
    masks or without that region, a recipe that does not squash, images that are not (H, W) in [0, 1].
    """
    recipe = learn.recipe
    if not 0 <= region < len(recipe.regions):
        raise ValueError(f"region={region}: the segmenter's regions are {recipe.regions}")
    if recipe.fit != "squash":
        raise ValueError(f"fit={recipe.fit!r}: only a squashed image can be laid back on its own")
    if hasattr(images, "frame"):
        images = map(images.image, range(len(images)))
    masks = []
    for some in _batches(images, 2 * recipe.batch_size):
        for image, chances in zip(some, _probabilities(learn, some), strict=True):
            masks.append(imaging.resize_mask(chances.argmax(0) == region, image.shape))
    return masks


def _batches(images, size):
    images = iter(images)
    while some := list(islice(images, size)):
        yield some


def _probabilities(learn, images) -> np.ndarray:
    """What a learner says of some images, prepared as its recipe says: (N, C) or (N, C, S, S)."""
    import torch

    from covidlab.training.loaders import GreyImage

    ready = np.stack([_prepared(np.asarray(image, np.float32), learn.recipe) for image in images])
    x = torch.from_numpy(ready)
    x = x if x.ndim == 4 else x[:, None].expand(-1, learn.recipe.channels, -1, -1)
    (x,) = learn.dls.valid.after_batch((GreyImage(x.to(learn.dls.device)),))
    learn.model.eval()
    with torch.no_grad():
        logits = learn.model(x.as_subclass(torch.Tensor))
    return logits.float().softmax(1).cpu().numpy()


def _prepared(image, recipe) -> np.ndarray:
    if image.ndim != 2 or not (0.0 <= image.min() and image.max() <= 1.0):
        raise ValueError(f"image must be (H, W) in [0, 1], got {image.shape}")
    return imaging.prepared(image, recipe.enhance, recipe.size, recipe.fit)
