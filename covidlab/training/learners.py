"""DataLoaders → fastai `Learner` → trained by the recipe, recorded → Predictions."""

from __future__ import annotations

import hashlib
import time
from contextlib import redirect_stdout
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelTrainException, CancelValidException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import ParamScheduler
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    TrackerCallback,
)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam
from fastai.torch_core import to_float
from fastcore.foundation import L

from covidlab import models, paths
from covidlab.datasets.manifest import Dataset
from covidlab.predictions import MaskPredictions, Predictions

from . import arrays
from .loaders import loader_for
from .losses import MaskLoss, RegionDice, static_attention
from .record import RunRecord, run_key
from .reproducible import environment, set_seed


class KeepBest(TrackerCallback):
    """Keeps the weights of the best epoch and puts them back at the end.

    Like fastai's SaveModelCallback, but silent, and reading with `weights_only=True`. The file is
    replaced whole: where two processes train the same run at once, neither reads half a file.
    """

    order = TrackerCallback.order + 1

    def __init__(self, file, monitor="valid_loss"):
        super().__init__(monitor=monitor)
        self.file, self.best_epoch = file, 0

    def before_fit(self):
        super().before_fit()
        if self.run:
            self.file.parent.mkdir(parents=True, exist_ok=True)

    def after_epoch(self):
        super().after_epoch()
        if self.new_best:
            self.best_epoch = self.epoch + 1
            with paths.replacing(self.file) as temporary:
                torch.save(self.model.state_dict(), temporary)

    def after_fit(self):
        if self.run and self.best_epoch:
            _read_weights(self.learn, self.file)


class DropGradients(Callback):
    """Frees gradients after each step, as PyTorch's own optimisers do, where fastai writes zeros."""

    def after_step(self):
        for parameter in self.model.parameters():
            parameter.grad = None


class ProcessorAutocast(Callback):
    """bfloat16 mixed precision on the processor, as fastai's MixedPrecision is on a GPU."""

    order = MixedPrecision.order

    def before_batch(self):
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        self.autocast.__enter__()

    def after_pred(self):
        self.learn.pred = to_float(self.pred)

    def after_loss(self):
        self.autocast.__exit__(None, None, None)


class Stopwatch(Callback):
    """Seconds a batch in training and in validation, from a few; the first is not counted."""

    order = 100

    def __init__(self, batches: int):
        self.batches, self.seconds = batches, {}

    def before_train(self):
        self.marks = [self._now()]

    before_validate = before_train

    def after_batch(self):
        self.marks.append(self._now())
        counted = self.marks[1:] if len(self.marks) > 2 else self.marks
        self.seconds[self.training] = (counted[-1] - counted[0]) / (len(counted) - 1)
        if len(counted) > self.batches:
            raise CancelTrainException if self.training else CancelValidException

    def _now(self):
        if self.dls.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def learner(dls, model=None, metrics=None, precision: str = "auto", cbs=None, weights=None):
    """A fastai `Learner` set up by the recipe of `dls`: network, loss, optimiser, precision.

    Seeds are set before the weights are drawn, so that recipe, data and seed give the same network.

    Parameters
    ----------
    model : replaces the recipe's network.
    metrics : by default accuracy, and for masks `RegionDice`.
    precision : "auto" is mixed precision (bfloat16 where there is, else float16) and channels-last
        on a GPU, float32 on the processor; "bf16" is mixed on the processor too, twice as fast
        where it has matrix units for it and slower elsewhere; "fp32" is float32 anywhere.
    weights : a `RunRecord` or a file to start from, every tensor of it; where the last layer
        differs, use `load_weights(learn, weights, strict=False)`.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision={precision!r} must be auto, bf16 or fp32")
    recipe, seed = dls.recipe, dls.seed
    set_seed(seed)
    if model is None:
        _check_size(recipe)
        create = models.create_segmenter if recipe.masks else models.create
        model = create(
            recipe.network, recipe.channels, len(dls.vocab), recipe.pretrained, **recipe.options
        )
    if metrics is None:
        metrics = RegionDice() if recipe.masks else accuracy
    learn = Learner(
        dls,
        model,
        loss_func=_loss(dls),
        opt_func=_optimiser(recipe),
        lr=recipe.lr,
        metrics=metrics,
        path=paths.runs(),
        cbs=[DropGradients(), *L(cbs)],
    )
    gpu = dls.device.type == "cuda"
    if gpu and precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    elif precision == "auto":
        precision = "fp32"
    learn.model.to(dls.device, memory_format=torch.channels_last)
    learn.add_cbs(_mixed(precision, gpu))
    learn.recipe, learn.seed, learn.precision, learn.weights_from = recipe, seed, precision, ""
    if weights is not None:
        load_weights(learn, weights)
    if recipe.trainable != "all":
        from .patients import train_only

        train_only(learn, recipe.trainable)
    return learn


def fit(learn, reuse: bool = False, show_progress: bool = True) -> RunRecord:
    """Trains by the recipe, keeps the best epoch on the validation part, writes the run record.

    With `reuse`, a finished training of the same recipe, data, split, seed and initial weights is
    taken from its record instead of being repeated, so that an interrupted series goes on where it
    was.
    """
    recipe, data = learn.recipe, _described(learn.dls, learn.dls.split)
    folder = run_folder(learn)
    if reuse and (folder / "record.json").is_file():
        record = RunRecord.load(folder)
        _read_weights(learn, record.weights)
        learn.record = record
        return record
    record = RunRecord(
        folder=folder,
        recipe=recipe.asdict() | {"hash": recipe.hash(), "model": type(learn.model).__name__},
        data=data,
        seed=learn.seed,
        environment=environment() | {"precision": learn.precision},
        weights_from=learn.weights_from,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (folder / "record.json").unlink(missing_ok=True)
    set_seed(learn.seed)
    keep, begun = KeepBest(record.weights, recipe.monitor), time.perf_counter()
    if show_progress:
        _fit(learn, recipe, keep)
    else:  # fastai's callbacks print what they do
        with learn.no_bar(), learn.no_logging(), redirect_stdout(StringIO()):
            _fit(learn, recipe, keep)
    record.seconds = round(time.perf_counter() - begun, 2)
    names = learn.recorder.metric_names[1:-1]
    record.history = [dict(zip(names, row, strict=True)) for row in learn.recorder.values]
    record.best_epoch = keep.best_epoch
    best = record.history[keep.best_epoch - 1] if keep.best_epoch else {}
    record.add("valid", best)
    learn.record = record
    return record


def run_folder(learn, split=None) -> Path:
    """Where the record of this training is or will be; of the same training on another `split`."""
    data = _described(learn.dls, split or learn.dls.split)
    trained = [learn.recipe.hash(), _weights_hash(learn.model), learn.precision]
    return paths.runs() / run_key(trained, data, learn.seed)


def estimate(learn, batches: int = 3) -> float:
    """Seconds an epoch takes, training and validation, measured on a few batches of each.

    A copy of the network is trained on them, so that the learner stays as it is.
    """
    dls, watch = learn.dls, Stopwatch(batches)
    fresh = DataLoaders(*(dl.new() for dl in dls.loaders), device=dls.device)
    probe = Learner(
        fresh,
        deepcopy(learn.model),
        loss_func=learn.loss_func,
        opt_func=_optimiser(learn.recipe),
        metrics=learn.metrics,
        path=learn.path,
        cbs=[DropGradients(), *_mixed(learn.precision, dls.device.type == "cuda"), watch],
    )
    with probe.no_bar(), probe.no_logging():
        probe.fit(1, learn.recipe.lr)
    return sum(
        watch.seconds[part] * len(dl) for part, dl in ((True, dls.train), (False, dls.valid))
    )


def predict(learn, dataset: Dataset, name: str = "") -> Predictions | MaskPredictions:
    """What the network says of a dataset, row by row in its order.

    `name` is how tables and legends call it, by default the recipe's network. A network trained on
    masks gives `MaskPredictions`; their probabilities are float16 where float32 would take more
    than 1 GB.
    """
    items, name = loader_for(learn.dls, dataset).dataset, name or learn.recipe.network
    if learn.recipe.masks:
        return MaskPredictions(
            frame=dataset.frame,
            probabilities=_pixel_probabilities(learn, items),
            truth=items.regions(),
            classes=learn.recipe.regions,
            name=name,
        )
    return Predictions(
        frame=dataset.frame,
        probabilities=_probabilities(learn, items),
        classes=dataset.classes,
        positive=dataset.card.positive,
        name=name,
    )


def load_weights(learn, weights, strict: bool = True) -> list[str]:
    """Puts the weights of a `RunRecord` or a file into the learner's network.

    Only tensors are read, no code is run. With `strict=False` tensors that the network lacks, or
    has in another shape (a last layer for other classes), are passed over; returned are the names
    of the network's own that stayed as they were. Load before `fit`: a training that starts from
    other weights has another record.

    Raises RuntimeError for tensors that do not fit, with `strict=False` when none does.
    """
    file = Path(getattr(weights, "weights", weights))
    kept = _read_weights(learn, file, strict)
    learn.weights_from = f"{file.parent.name}/{file.name}"
    return kept


def _read_weights(learn, file, strict: bool = True) -> list[str]:
    state = torch.load(file, map_location=learn.dls.device, weights_only=True)
    if not strict:
        own = learn.model.state_dict()
        state = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        if not state:
            raise RuntimeError(f"{file}: no tensor has a name and shape of this network's")
    return learn.model.load_state_dict(state, strict=strict).missing_keys


def _probabilities(learn, items) -> np.ndarray:
    with learn.no_bar(), learn.no_logging():
        probabilities, _ = learn.get_preds(dl=learn.dls.valid.new(items))
    return probabilities.float().cpu().numpy()


def _pixel_probabilities(learn, items, at_once: int = 64) -> np.ndarray:
    """(N, C, H, W) from a few images at a time: fastai keeps all logits until the end."""
    shape = (len(items), len(items.vocab), *items.prepared.array.shape[-2:])
    large = 4 * np.prod(shape, dtype=np.int64) > arrays.MEMORY_LIMIT
    out = np.empty(shape, np.float16 if large else np.float32)
    for start in range(0, len(items), at_once):
        at = np.arange(start, min(start + at_once, len(items)))
        out[at] = _probabilities(learn, items.iloc[at])
    return out


def _fit(learn, recipe, keep):
    cbs = [keep]
    if recipe.stop_after:
        cbs.append(EarlyStoppingCallback(patience=recipe.stop_after))
    if recipe.schedule == "one_cycle":
        learn.fit_one_cycle(recipe.epochs, recipe.lr, wd=recipe.weight_decay, cbs=cbs)
        return
    if recipe.schedule == "plateau":
        cbs.append(ReduceLROnPlateau(patience=recipe.patience, factor=1 / recipe.gamma))
    if recipe.schedule == "step":

        def lr(position):
            epoch = int(position * recipe.epochs + 1e-6)
            return recipe.lr * recipe.gamma ** sum(epoch >= s for s in recipe.steps)

        cbs.append(ParamScheduler({"lr": lr}))
    learn.fit(recipe.epochs, recipe.lr, wd=recipe.weight_decay, cbs=cbs)


def _optimiser(recipe):
    """fastai's optimisers with the L2 penalty of the papers rather than decoupled weight decay."""
    if recipe.optimiser == "sgd":
        return partial(SGD, mom=recipe.momentum, decouple_wd=False)
    return partial(Adam, mom=recipe.momentum, sqr_mom=0.999, eps=1e-8, decouple_wd=False)


def _mixed(precision: str, gpu: bool) -> list[Callback]:
    if precision == "fp32":
        return []
    return [MixedPrecision(precision) if gpu else ProcessorAutocast()]


def _loss(dls):
    recipe = dls.recipe
    if not recipe.masks:
        return CrossEntropyLossFlat(weight=_class_weights(dls) if recipe.class_weights else None)
    weight = None
    if recipe.static_attention:
        weight = static_attention(dls.train.dataset.regions(), recipe.regions).to(dls.device)
    return MaskLoss(recipe.loss, len(recipe.regions), weight)


def _class_weights(dls) -> torch.Tensor:
    """Inverse frequency in the training part, with mean 1 over its images."""
    counts = np.bincount(dls.split.train.targets, minlength=len(dls.vocab))
    if not counts.all():
        none = ", ".join(dls.vocab[i] for i in np.flatnonzero(counts == 0))
        raise ValueError(
            f"class_weights: no training image of {none}: add some, or `relabel` without it"
        )
    return torch.tensor(
        counts.sum() / (len(counts) * counts), dtype=torch.float32, device=dls.device
    )


def _check_size(recipe):
    if not recipe.masks and recipe.size < (least := models.smallest(recipe.network)):
        raise ValueError(
            f"recipe {recipe.name!r}: size={recipe.size} is too small for {recipe.network}, "
            f"which takes {least} px or more"
        )


def _weights_hash(model) -> str:
    """Hash of the network as it stands: names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _described(dls, split) -> dict:
    """What was trained on: dataset, content, split and sizes."""
    parts = split.parts
    members = "\x1e".join(f"{p}:{n}" for p, d in parts.items() for n in sorted(d.frame["image"]))
    return {
        "dataset": split.train.card.id,
        "synthetic": split.train.card.synthetic,
        "fingerprint": dls.prepared.fingerprint,
        "split": hashlib.sha256(members.encode()).hexdigest()[:16],
        "how": split.how,
        "images": {part: len(d) for part, d in parts.items()},
        "patients": {part: len(set(d.patients)) for part, d in parts.items()},
    } | ({"masks": list(dls.recipe.masks)} if dls.recipe.masks else {})
