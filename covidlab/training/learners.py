"""DataLoaders → fastai `Learner` → trained by the recipe, recorded → Predictions."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import ParamScheduler
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam
from fastai.torch_core import to_float
from fastcore.foundation import L

from covidlab import models, paths
from covidlab.datasets.manifest import Dataset
from covidlab.predictions import Predictions

from .loaders import loader_for
from .record import RunRecord, run_key
from .reproducible import environment, set_seed


class KeepBest(TrackerCallback):
    """Keeps the weights of the best epoch and puts them back at the end.

    Like fastai's SaveModelCallback, but silent, and reading with `weights_only=True`.
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
            torch.save(self.model.state_dict(), self.file)

    def after_fit(self):
        if self.run and self.best_epoch:
            load_weights(self.learn, self.file)


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


def learner(dls, model=None, metrics=accuracy, precision: str = "auto", cbs=None):
    """A fastai `Learner` set up by the recipe of `dls`: network, loss, optimiser, precision.

    Seeds are set before the weights are drawn, so that recipe, data and seed give the same network.

    Parameters
    ----------
    model : replaces the recipe's network.
    precision : "auto" is mixed precision (bfloat16 where there is, else float16) and channels-last
        on a GPU, float32 on the processor; "bf16" is mixed on the processor too, twice as fast
        where it has matrix units for it and slower elsewhere; "fp32" is float32 anywhere.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision={precision!r} must be auto, bf16 or fp32")
    recipe, seed = dls.recipe, dls.seed
    set_seed(seed)
    if model is None:
        model = models.create(
            recipe.network, recipe.channels, len(dls.vocab), recipe.pretrained, **recipe.options
        )
    weight = _class_weights(dls) if recipe.class_weights else None
    learn = Learner(
        dls,
        model,
        loss_func=CrossEntropyLossFlat(weight=weight),
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
    if precision != "fp32":
        learn.add_cb(MixedPrecision(precision) if gpu else ProcessorAutocast())
    learn.recipe, learn.seed, learn.precision = recipe, seed, precision
    return learn


def fit(learn, reuse: bool = False, show_progress: bool = True) -> RunRecord:
    """Trains by the recipe, keeps the best epoch on the validation part, writes the run record.

    With `reuse`, a finished training of the same recipe, data, split, seed and initial weights is
    taken from its record instead of being repeated, so that an interrupted series goes on where it
    was.
    """
    recipe, data = learn.recipe, _described(learn.dls)
    trained = [recipe.hash(), _weights_hash(learn.model), learn.precision]
    key = run_key(trained, data, learn.seed)
    folder = paths.runs() / key
    if reuse and (folder / "record.json").is_file():
        record = RunRecord.load(folder)
        load_weights(learn, record.weights)
        learn.record = record
        return record
    record = RunRecord(
        folder=folder,
        recipe=recipe.asdict() | {"hash": recipe.hash(), "model": type(learn.model).__name__},
        data=data,
        seed=learn.seed,
        environment=environment() | {"precision": learn.precision},
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (folder / "record.json").unlink(missing_ok=True)
    set_seed(learn.seed)
    keep, begun = KeepBest(record.weights, recipe.monitor), time.perf_counter()
    if show_progress:
        _fit(learn, recipe, keep)
    else:
        with learn.no_bar(), learn.no_logging():
            _fit(learn, recipe, keep)
    record.seconds = round(time.perf_counter() - begun, 2)
    names = learn.recorder.metric_names[1:-1]
    record.history = [dict(zip(names, row, strict=True)) for row in learn.recorder.values]
    record.best_epoch = keep.best_epoch
    best = record.history[keep.best_epoch - 1] if keep.best_epoch else {}
    record.add("valid", best)
    learn.record = record
    return record


def predict(learn, dataset: Dataset, name: str = "") -> Predictions:
    """What the network says of a dataset, row by row in its order.

    `name` is how tables and legends call it, by default the recipe's network.
    """
    with learn.no_bar(), learn.no_logging():
        probabilities, _ = learn.get_preds(dl=loader_for(learn.dls, dataset))
    return Predictions(
        frame=dataset.frame,
        probabilities=probabilities.float().cpu().numpy(),
        classes=dataset.classes,
        positive=dataset.card.positive,
        name=name or learn.recipe.network,
    )


def load_weights(learn, file) -> None:
    """Puts saved weights into the learner's network; only tensors are read, no code is run."""
    state = torch.load(file, map_location=learn.dls.device, weights_only=True)
    learn.model.load_state_dict(state)


def _fit(learn, recipe, keep):
    if recipe.schedule == "one_cycle":
        learn.fit_one_cycle(recipe.epochs, recipe.lr, wd=recipe.weight_decay, cbs=keep)
        return
    cbs = [keep]
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


def _class_weights(dls) -> torch.Tensor:
    """Inverse frequency in the training part, with mean 1 over its images."""
    counts = np.bincount(dls.split.train.targets, minlength=len(dls.vocab))
    return torch.tensor(
        counts.sum() / (len(counts) * counts), dtype=torch.float32, device=dls.device
    )


def _weights_hash(model) -> str:
    """Hash of the network as it stands: names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _described(dls) -> dict:
    """What was trained on: dataset, content, split and sizes."""
    parts = dls.split.parts
    members = "\x1e".join(f"{p}:{n}" for p, d in parts.items() for n in sorted(d.frame["image"]))
    return {
        "dataset": dls.split.train.card.id,
        "synthetic": dls.split.train.card.synthetic,
        "fingerprint": dls.prepared.fingerprint,
        "split": hashlib.sha256(members.encode()).hexdigest()[:16],
        "how": dls.split.how,
        "images": {part: len(d) for part, d in parts.items()},
        "patients": {part: len(set(d.patients)) for part, d in parts.items()},
    }
