"""Manifest → fastai `DataLoaders`, a batch at a time from arrays that are ready."""

from __future__ import annotations

import fastai.vision.learner  # noqa: F401  registers how images are shown, in batches and results
import numpy as np
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import Category, CategoryMap, Normalize, TensorCategory
from fastai.torch_core import TensorImage, TensorImageBW, TensorMask, show_image
from fastcore.basics import chunked

from covidlab.datasets.manifest import Dataset
from covidlab.datasets.splits import Split

from .arrays import Prepared, prepare
from .augment import augmentations
from .recipe import Recipe


class GreyImage(TensorImageBW):
    """fastai's greyscale image, shown as radiology does: air black, bone white."""

    _show_args = {"cmap": "gray"}


class RegionMask(TensorMask):
    """fastai's mask, shown with the background transparent and a colour for each region."""

    def show(self, ctx=None, **kwargs):
        regions = np.ma.masked_equal(self.as_subclass(torch.Tensor).cpu().numpy(), 0)
        style = {"alpha": 0.5, "cmap": "Set1", "vmin": 1, "vmax": 9, "interpolation": "nearest"}
        return show_image(regions, ctx=ctx, **{**style, **kwargs})


class ArrayItems:
    """Rows of prepared arrays with their classes, in the form fastai expects of a dataset.

    `items[i]` is one (image, class) or (image, mask) pair; `batch(rows)` a whole batch, cut from
    the arrays at once.
    """

    n_inp = 1

    def __init__(self, prepared: Prepared, rows, targets, vocab, channels: int, training: bool):
        self.prepared, self.rows, self.targets = prepared, np.asarray(rows), np.asarray(targets)
        self.vocab, self.channels = CategoryMap(vocab, sort=False), channels
        self.split_idx = 0 if training else 1  # fastai augments where split_idx is 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        x, y = self.batch([i])
        return x[0], y[0]

    def batch(self, positions):
        """(N, C, H, W) float32 in [0, 1], and classes (N,) or masks (N, H, W), int64."""
        images = torch.from_numpy(np.ascontiguousarray(self.prepared.array[self.rows[positions]]))
        if images.ndim == 3:
            images = images[:, None].expand(-1, self.channels, -1, -1)
        kind = GreyImage if self.channels == 1 else TensorImage
        if self.prepared.masks is None:
            return kind(images), TensorCategory(torch.from_numpy(self.targets[positions]))
        return kind(images), TensorMask(torch.from_numpy(self.regions(positions)).long())

    def regions(self, positions=slice(None)) -> np.ndarray:
        """(N, H, W) uint8: the class of each pixel."""
        return np.ascontiguousarray(self.prepared.masks[self.rows[positions]])

    def decode(self, pair, full: bool = True):
        image, target = pair
        if self.prepared.masks is None:
            return (image, Category(self.vocab[int(target)]))
        return (image, RegionMask(target))

    @property
    def items(self):  # fastai's Interpretation asks the loader for `items.iloc[rows]`
        return self

    @property
    def iloc(self):
        return _Subset(self)


class _Subset:
    def __init__(self, of: ArrayItems):
        self.of = of

    def __getitem__(self, positions):
        of, at = self.of, np.asarray(positions)
        return ArrayItems(of.prepared, of.rows[at], of.targets[at], of.vocab, of.channels, False)


class ArrayDL(TfmdDL):
    """fastai's loader over `ArrayItems`: no items, no workers, no collation."""

    def __init__(self, dataset, **options):
        super().__init__(dataset, **{**options, "num_workers": 0})

    def create_batches(self, samples):
        for positions in chunked(samples, self.bs, self.drop_last):
            yield self.dataset.batch(positions)

    def do_batch(self, b):  # fastai's first look at the data hands over a single item
        return self.dataset.batch([0])


def dataloaders(split: Split, recipe: Recipe, seed: int = 0, progress: bool = True) -> DataLoaders:
    """fastai `DataLoaders` of a split: train (shuffled, augmented as the recipe says) and valid.

    Batches are images (N, C, S, S), normalised by mean and standard deviation of the training
    part, and classes (N,) or, where the recipe names masks, the class of each pixel (N, S, S),
    which augmentation moves with the image. Every file was decoded and checked before this
    returns. The result carries `.recipe`, `.split`, `.seed` and `.prepared` for `learner`, `fit`
    and `predict`.

    Raises DatasetError with everything that is wrong with the data, ValueError for a training
    part smaller than one batch.
    """
    from .reproducible import set_seed

    prepared = prepare(*split, recipe=recipe, progress=progress)
    if len(split.train) < 2:
        raise ValueError(
            f"the training part has {len(split.train)} image(s): at least 2 are needed"
        )
    set_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mean, std = _statistics(prepared, split.train)
    stats = [np.broadcast_to(v, recipe.channels).tolist() for v in (mean, std)]
    transforms = [Normalize.from_stats(*stats, cuda=device.type == "cuda")]
    augmented = augmentations(**recipe.augment) if recipe.augment is not None else []
    loaders = []
    for data, training in ((split.train, True), (split.valid, False)):
        items = _items(prepared, data, recipe, training)
        size = min(recipe.batch_size, len(items)) if training else 2 * recipe.batch_size
        loaders.append(
            ArrayDL(
                items,
                bs=size,
                shuffle=training,
                # a last batch of one image has no variance for batch normalisation
                drop_last=training,
                after_batch=[*(augmented if training else []), *transforms],
                device=device,
            )
        )
    dls = DataLoaders(*loaders, device=device)
    dls.recipe, dls.split, dls.seed, dls.prepared = recipe, split, seed, prepared
    return dls


def loader_for(dls: DataLoaders, dataset: Dataset) -> ArrayDL:
    """A loader over any dataset, in its order, seen exactly as the validation part of `dls` is."""
    if not dls.recipe.masks and dls.split.train.classes != dataset.classes:
        raise ValueError(
            f"the network knows the classes {dls.split.train.classes}, {dataset.card.id!r} has "
            f"{dataset.classes}: bring them together with `relabel`"
        )
    prepared = dls.prepared
    if not prepared.holds(dataset):
        prepared = prepare(dataset, recipe=dls.recipe, for_training=False)
    return dls.valid.new(_items(prepared, dataset, dls.recipe, training=False))


def _items(prepared: Prepared, data: Dataset, recipe: Recipe, training: bool) -> ArrayItems:
    rows, labels = prepared.rows(data), (data.targets, data.classes)
    if recipe.masks:  # labels play no part
        labels = (np.zeros(len(data), int), recipe.regions)
    if training and recipe.oversample:
        shown = _equally_often(data.targets)
        rows, labels = rows[shown], (data.targets[shown], data.classes)
    return ArrayItems(prepared, rows, *labels, recipe.channels, training)


def _equally_often(targets: np.ndarray) -> np.ndarray:
    """Positions in which each class comes as often as the commonest, its items in turn."""
    counts = np.bincount(targets)
    shown = [np.resize(np.flatnonzero(targets == c), counts.max()) for c in np.flatnonzero(counts)]
    return np.concatenate(shown)


def _statistics(prepared: Prepared, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all training pixels, of each channel, without a second copy."""
    total = squares = 0.0
    channel = prepared.array.shape[1:-2]
    rows = np.sort(prepared.rows(data))
    for at in np.array_split(rows, max(1, len(rows) // 256)):
        block = prepared.array[at].astype(np.float64)
        block = block.reshape(len(at), *channel, -1)
        total, squares = total + block.sum((0, -1)), squares + np.square(block).sum((0, -1))
    n = len(rows) * np.prod(prepared.array.shape[-2:])
    mean = total / n
    return mean, np.maximum(squares / n - mean**2, 1e-12) ** 0.5
