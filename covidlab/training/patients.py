"""From slices to patients, as Garg et al. 2021: what is trained at each step, bags, heads, ensemble."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import TrackerCallback
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from fastcore.basics import chunked
from torch import nn

from covidlab import paths
from covidlab.datasets.manifest import Dataset
from covidlab.models import patient_heads
from covidlab.models.multiscale_resnet import batch_norm_parameters, parameter_groups
from covidlab.models.patient_heads import BiLSTMHead, MaxPoolHead, ensemble, weighted
from covidlab.predictions import Predictions

from .learners import _weights_hash
from .loaders import loader_for
from .recipe import PROFILES, TRAINABLE
from .reproducible import set_seed

HEADS = ("Maxpool", "Maxpool-Weighted", "BiLSTM", "BiLSTM-Weighted")


# ---- the slice network's steps -----------------------------------------------------------------


def train_only(learn, part: str) -> Learner:
    """Says which part of a slice network the next `fit` trains, by fastai's own freezing.

    Garg et al. 2021, Section III.C.1: on the second source first "only the last two layers"
    ("head"), then everything "except for the Batch normalization layers which is kept frozen
    throughout" ("all but batch norm"). In both, running means and variances stay as they are too:
    fastai's BnFreeze keeps those layers in evaluation mode. "all" undoes it. The network needs a
    `backbone` and a `head`; returns the learner.
    """
    if part not in TRAINABLE:
        raise ValueError(f"part={part!r} must be one of {', '.join(TRAINABLE)}")
    learn.model.zero_grad(set_to_none=True)  # fastai steps whatever has a gradient, frozen or not
    learn.splitter = partial(parameter_groups, batch_norm=part != "all but batch norm")
    learn.train_bn = part == "all"
    learn.create_opt()
    for parameter in batch_norm_parameters(learn.model):
        parameter.requires_grad_(part == "all")
    learn.freeze() if part == "head" else learn.unfreeze()
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, BnFreeze)])
    if part != "all":
        learn.add_cb(BnFreeze())
    return learn


def infected_slices(
    dataset: Dataset, predictions: Predictions, healthy: str = "Normal", agree: bool = False
) -> Dataset:
    """Slices with labels found by the model itself, in patients of whom only the label is known.

    Garg et al. 2021, Section III.C.1: "the model performs reasonably well in classifying normal
    slices. Hence we use the model to get infected slices from the unlabeled dataset". So of
    patients who are not `healthy`, the slices stay that the model does not call healthy, with the
    patient's label; of healthy patients all slices stay. The new column `found` is "model" for the
    former. How sure the model must be is not said; the most probable class decides. `agree=True`
    (ours) asks for more: the model must call the slice by the patient's label.

    Parameters
    ----------
    dataset : slices labelled with their patient's class.
    predictions : of the same rows, from `training.predict`.
    healthy : the class of patients without the disease.

    Raises ValueError for predictions of other rows, a class there is not, and where no infected
    slice is found.
    """
    if healthy not in predictions.classes:
        raise ValueError(f"healthy={healthy!r} is none of {', '.join(predictions.classes)}")
    theirs = predictions.frame.get("image", pd.Series(dtype=object))
    if theirs.tolist() != dataset.frame["image"].tolist():
        raise ValueError("predictions are of other rows: predict this dataset, in its order")
    called = np.array(predictions.classes)[predictions.predicted]
    labels = dataset.frame["label"].to_numpy(str)
    sick = labels != healthy
    found = sick & (called == labels if agree else called != healthy)
    if sick.any() and not found.any():
        raise ValueError(
            f"the model calls every slice of {len(set(dataset.patients[sick]))} patients {healthy}: "
            "train it further on slices with labels of their own first"
        )
    frame = dataset.frame.assign(found=np.where(found, "model", ""))
    return Dataset(frame, dataset.root, dataset.card).where(found | ~sick)


# ---- patients as bags of slice features --------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bags:
    """Patients as bags of slice features; every list has one entry for each row of `frame`.

    `frame` has patient_id, label, slices (their number) and what else of the manifest is the same
    for all slices of a patient. `features`: (T, D) float32 of each patient, T their slices, head
    first; `probabilities`: (T, C), what the slice network says of each slice.

    Raises ValueError for a patient without slices, and features and probabilities of different
    patients, slices or classes.
    """

    frame: pd.DataFrame = field(repr=False)
    features: list[np.ndarray] = field(repr=False)
    probabilities: list[np.ndarray] = field(repr=False)
    classes: tuple[str, ...]
    positive: str | None = None

    def __post_init__(self):
        sizes = len(self.features), len(self.probabilities)
        if sizes != (len(self.frame),) * 2:
            raise ValueError(
                f"{len(self.frame)} patients, but features of {sizes[0]} and probabilities of {sizes[1]}"
            )
        ids = self.frame["patient_id"]
        for who, x, p in zip(ids, self.features, self.probabilities, strict=True):
            if not len(x):
                raise ValueError(
                    f"patient {who} has no slices and cannot be judged: leave them out"
                )
            if p.shape != (len(x), len(self.classes)):
                raise ValueError(
                    f"patient {who}: {len(x)} slices with features, probabilities {p.shape} for "
                    f"{len(self.classes)} classes: one row for each slice is needed"
                )

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def targets(self) -> np.ndarray:
        """(N,) int: index into `classes`."""
        return np.array([self.classes.index(label) for label in self.frame["label"]], int)

    def where(self, keep) -> Bags:
        """The patients at these positions, or where a boolean array is True; ValueError for none."""
        keep = np.asarray(keep)
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        if not len(rows):
            raise ValueError("no patient is left")
        features, probabilities = (
            [values[i] for i in rows] for values in (self.features, self.probabilities)
        )
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return replace(self, frame=frame, features=features, probabilities=probabilities)

    def fingerprint(self) -> str:
        """Hash of ids, labels and every number."""
        digest = hashlib.sha256(json.dumps([self.classes, _names(self.frame)]).encode())
        for values in (*self.features, *self.probabilities):
            digest.update(str(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def slice_bags(learn, dataset: Dataset, reuse: bool = True, progress: bool = True) -> Bags:
    """Features and class probabilities of every slice, patient by patient, computed once.

    Garg et al. 2021, Section III.C.2: the features are what goes into the last fully connected
    layer of the slice network, 1024 numbers; times the three probabilities, `weighted`, 3072.
    What was computed before for a patient with these weights and images is taken from the cache,
    so that what was interrupted goes on where it was. Slices are put in order by the column
    `z_mm`, head first, where the patient has it; else they stay in the order of the rows. Any
    number of slices will do, one included: how far apart they lie is not looked at, so that a
    missing one is not noticed (`datasets.read_volume` does). Images of other sizes are brought to
    the recipe's.

    `learn` is a Learner from `training.learner`. Raises ValueError for slices of unknown patient,
    patients with several labels, heights that some slices of a patient lack, and two slices of a
    patient at one height, as two series or two orientations under one id give.
    """
    groups = _by_patient(dataset)
    items = loader_for(learn.dls, dataset).dataset
    orders = [_head_first(dataset.frame.iloc[at]) for at in groups.values()]
    folder = paths.cache() / "slice features" / _network_key(learn)
    rows, bags = list(zip(groups.values(), orders, strict=True)), []
    if progress:
        from tqdm.auto import tqdm

        rows = tqdm(rows, desc="features of patients", unit="patient")
    for at, order in rows:
        file = folder / f"{dataset.where(at).fingerprint()[:16]}.npy"
        if reuse and file.is_file():
            values = np.load(file)
        else:
            values = _slice_values(learn, items.iloc[at])
            with paths.replacing(file) as temporary, open(temporary, "wb") as out:
                np.save(out, values)
        bags.append(values[order])
    n = len(dataset.classes)
    return Bags(
        frame=_patient_frame(dataset, groups),
        features=[values[:, n:] for values in bags],
        probabilities=[values[:, :n] for values in bags],
        classes=dataset.classes,
        positive=dataset.card.positive,
    )


def _by_patient(dataset: Dataset) -> dict[str, np.ndarray]:
    """Positions of each patient's slices, patients in the order in which they come."""
    ids = dataset.frame["patient_id"]
    if (ids == "").any():
        name = dataset.frame["image"][ids == ""].iloc[0]
        raise ValueError(
            f"{(ids == '').sum()} slices have no patient_id ({name}, …): fill in the column, "
            "for a patient is judged by all slices together"
        )
    labels = dataset.frame.groupby("patient_id")["label"].nunique()
    if (labels > 1).any():
        raise ValueError(
            f"{(labels > 1).sum()} patients have slices of several labels "
            f"({labels.index[labels > 1][0]}, …): give every slice its patient's label"
        )
    return dataset.frame.groupby("patient_id", sort=False).indices


def _patient_frame(dataset: Dataset, groups) -> pd.DataFrame:
    frame = dataset.frame
    same = frame.groupby("patient_id", sort=False).nunique(dropna=False).max() == 1
    first = frame.iloc[[at[0] for at in groups.values()]]
    kept = [c for c in frame if c == "patient_id" or same.get(c, False)]
    kept = [c for c in kept if not (first[c] == "").all() and c not in ("image", "sha256")]
    slices = [len(at) for at in groups.values()]
    return first[kept].assign(slices=slices).reset_index(drop=True)


def _head_first(frame: pd.DataFrame) -> np.ndarray:
    """Positions of one patient's slices by falling `z_mm`; as they are where none has a height."""
    if "z_mm" not in frame or (frame["z_mm"].fillna("").astype(str) == "").all():
        return np.arange(len(frame))
    heights, who = pd.to_numeric(frame["z_mm"], errors="coerce"), frame["patient_id"].iloc[0]
    if (lost := ~np.isfinite(heights)).any():
        raise ValueError(
            f"patient {who}: {lost.sum()} of {len(frame)} slices have no height in z_mm "
            f"({frame['image'][lost].iloc[0]}): fill it in, or leave the column out and order the rows"
        )
    if (twice := heights.duplicated()).any():
        raise ValueError(
            f"patient {who}: two slices at {heights[twice].iloc[0]:g} mm "
            f"({frame['image'][twice].iloc[0]} is one): keep one series of one orientation"
        )
    return np.argsort(-heights.to_numpy(), kind="stable")


def _network_key(learn) -> str:
    """Names weights and image steps: the same key gives the same features of the same images."""
    recipe = learn.dls.recipe
    steps = [recipe.size, recipe.fit, recipe.enhance, recipe.channels]
    scale = [
        value.flatten().tolist()
        for transform in learn.dls.valid.after_batch.fs
        for value in (getattr(transform, "mean", None), getattr(transform, "std", None))
        if value is not None
    ]
    return _key(_weights_hash(learn.model), steps, scale)


def _slice_values(learn, items) -> np.ndarray:
    """(T, C + D) float32: probabilities and features of each slice."""
    linear = [m for m in learn.model.modules() if isinstance(m, nn.Linear)]
    if not linear:
        name = type(learn.model).__name__
        raise ValueError(f"{name} has no fully connected layer to take features from")
    seen, values = [], []
    handle = linear[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    learn.model.eval()
    try:
        with torch.inference_mode():
            for x, _ in learn.dls.valid.new(items):
                logits = learn.model(x).as_subclass(torch.Tensor)
                features = seen.pop().as_subclass(torch.Tensor)
                values.append(torch.cat([logits.softmax(1), features], 1).float().cpu())
    finally:
        handle.remove()
    return torch.cat(values).numpy()


# ---- heads and ensemble ------------------------------------------------------------------------


@dataclass(frozen=True)
class PatientRecipe:
    """What Garg et al. 2021, Sections III.C.2 and 3, prescribe for heads and ensemble.

    Parameters
    ----------
    heads : which of `HEADS`.
    max_hidden, lstm, lstm_hidden, ensemble_hidden : widths of the dense layers and of the LSTM.
    batch_size, lr, epochs, ensemble_epochs : Adam, the same for all.
    l1, l2 : l1 · Σ|w| + l2 · Σw² over all weight matrices is added to the loss. The paper gives
        the coefficients, not the weights: none of the biases is our choice, as in Keras' usual
        kernel regularisers.
    class_weights : weigh the loss by the inverse frequency of the classes in training.
    monitor : what the best epoch is chosen by on the validation patients; the first of equals.
    folds : of the out-of-fold scores that the ensemble is trained on; not in the paper.
    laptop : fields that `.fast()` replaces.
    """

    name: str = "Garg patients"
    source: str = ""
    heads: tuple[str, ...] = HEADS
    max_hidden: int = 512
    lstm: int = 512
    lstm_hidden: int = 1024
    ensemble_hidden: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    epochs: int = 25
    ensemble_epochs: int = 200
    l1: float = 1e-5
    l2: float = 1e-4
    class_weights: bool = True
    monitor: str = "accuracy"
    folds: int = 5
    laptop: Mapping = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        if not self.heads or not set(self.heads) <= set(HEADS):
            raise ValueError(f"heads={self.heads!r} must be some of {', '.join(HEADS)}")
        for name in ("batch_size", "lr", "epochs", "ensemble_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0")
        if self.folds < 2:
            raise ValueError(f"folds={self.folds!r} must be 2 or more")

    def but(self, **changes) -> PatientRecipe:
        """The same with some fields changed."""
        return replace(self, **changes)

    def fast(self) -> PatientRecipe:
        """The same for a laptop: the fields in `laptop` replace the paper's."""
        return replace(self, **self.laptop)

    def smoke(self) -> PatientRecipe:
        """One epoch and two folds of the fast recipe: does everything run?"""
        return replace(self.fast(), epochs=1, ensemble_epochs=2, folds=2)

    def at(self, profile: str) -> PatientRecipe:
        """The recipe of a profile: "paper", "fast" or "smoke", as for a `Recipe`."""
        if profile not in PROFILES:
            raise ValueError(f"profile={profile!r} must be one of {', '.join(PROFILES)}")
        return {"smoke": self.smoke, "fast": self.fast, "paper": lambda: self}[profile]()

    def asdict(self) -> dict:
        """Every field but `laptop`, ready for JSON."""
        return {k: v for k, v in asdict(self).items() if k != "laptop"}


GARG_PATIENTS = PatientRecipe(
    source="Garg et al. 2021, Sections III.C.2 and III.C.3",
    # about as many steps with some 130 patients as the paper's 200 or so gave with batches of 64
    laptop={"lstm": 64, "lstm_hidden": 128, "batch_size": 32, "lr": 2e-3, "folds": 3},
)


class Penalty(Callback):
    """Adds the gradient of l1 · Σ|w| + l2 · Σw², over all weight matrices, before each step."""

    def __init__(self, l1: float, l2: float):
        self.l1, self.l2 = l1, l2

    def before_step(self):
        for w in self.model.parameters():
            if w.dim() > 1 and w.grad is not None:
                w.grad.add_(w.detach().sign(), alpha=self.l1).add_(w.detach(), alpha=2 * self.l2)


class BestWeights(TrackerCallback):
    """Keeps the weights of the best epoch in memory and puts them back at the end."""

    order = TrackerCallback.order + 1

    def after_epoch(self):
        super().after_epoch()
        if self.new_best:
            self.state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def after_fit(self):
        if self.run and hasattr(self, "state"):
            self.model.load_state_dict(self.state)


class BagItems:
    """Bags as fastai expects a dataset: `batch(rows)` is (bags padded with 0, lengths, classes)."""

    n_inp = 2

    def __init__(self, bags: Bags, weight: bool):
        self.bags, self.weight, self.targets = bags, weight, torch.from_numpy(bags.targets)

    def __len__(self):
        return len(self.bags)

    def __getitem__(self, i):
        features = torch.from_numpy(self.bags.features[i])
        return (
            weighted(features, torch.from_numpy(self.bags.probabilities[i]))
            if self.weight
            else features
        )

    def batch(self, rows):
        some = [self[i] for i in rows]
        lengths = torch.tensor([len(bag) for bag in some])
        return nn.utils.rnn.pad_sequence(some, batch_first=True), lengths, self.targets[rows]


class ScoreItems:
    """Scores of the heads side by side, as fastai expects a dataset."""

    n_inp = 1

    def __init__(self, scores: np.ndarray, targets: np.ndarray):
        self.scores, self.targets = torch.from_numpy(scores), torch.from_numpy(targets)

    def __len__(self):
        return len(self.scores)

    def __getitem__(self, i):
        return self.scores[i]

    def batch(self, rows):
        return self.scores[rows], self.targets[rows]


class PatientDL(DataLoader):
    """fastai's loader over `BagItems` or `ScoreItems`: whole batches, no workers."""

    def create_batches(self, samples):
        for rows in chunked(samples, self.bs, self.drop_last):
            yield self.dataset.batch(rows)


@dataclass(frozen=True, eq=False)
class PatientModel:
    """Trained heads and the ensemble of them.

    `heads`: name → Learner; `combine`: the ensemble's Learner; `naive`: whether it was trained on
    scores of patients that the heads were trained on; `out_of_fold`: name → Predictions of the
    training patients by heads that had not seen them (None where naive); `claimed`: what the
    ensemble says of the very scores that it was trained on.
    """

    recipe: PatientRecipe
    heads: Mapping[str, Learner] = field(repr=False)
    combine: Learner = field(repr=False)
    naive: bool
    out_of_fold: Mapping[str, Predictions] | None = field(repr=False)
    claimed: Predictions = field(repr=False)

    def predict(self, bags: Bags) -> dict[str, Predictions]:
        """Patient-level predictions of each head and, last, of the "Ensemble"."""
        found = {name: _predictions(learn, bags, name) for name, learn in self.heads.items()}
        return found | {"Ensemble": _combined(self.combine, bags, found.values())}

    def vectors(self, bags: Bags, head: str | None = None) -> np.ndarray:
        """(N, D) float32: each patient as the last layer of a head sees them (Garg's Figure 6).

        By default of the last head, "BiLSTM-Weighted" in the paper's recipe.
        """
        name = head or list(self.heads)[-1]
        if name not in self.heads:
            raise ValueError(f"head={name!r} is none of {', '.join(self.heads)}")
        learn, seen = self.heads[name], []
        layer = [m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1]
        handle = layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].cpu()))
        try:
            _probabilities(learn, BagItems(bags, _is_weighted(name)))
        finally:
            handle.remove()
        return torch.cat(seen).float().numpy()


def fit_patients(
    train: Bags,
    valid: Bags,
    recipe: PatientRecipe = GARG_PATIENTS,
    seed: int = 0,
    naive: bool = False,
    reuse: bool = True,
    progress: bool = True,
) -> PatientModel:
    """Trains the heads on the training patients, then the ensemble on their scores.

    Garg et al. 2021, Sections III.C.2 and 3; at each training the epoch with the best accuracy on
    the validation patients is kept, so that what is measured on those flatters. The paper does not
    say whose scores the ensemble is trained on. Here they are out-of-fold: each training patient
    is scored by heads trained on the other folds (stratified), and new patients by heads trained
    on all. (Where the slice network learnt from these patients too, its features of them are
    sharper than of new ones, which no fold here mends; patients it has not seen are better still.)
    `naive=True` takes the scores of the patients that the heads were trained on, to
    show what that would have claimed.

    With `reuse`, heads that were trained before on the same bags with the same settings and seed
    are taken from the cache, as is what was finished before an interruption.

    Raises ValueError for patients that are in both parts, a class with fewer training patients
    than folds, or one without any.
    """
    _check_parts(train, valid)
    folds = [] if naive else _folds(train, recipe.folds, seed)
    runs = [(name, fold) for name in recipe.heads for fold in (*folds, None)]
    if progress:
        from tqdm.auto import tqdm

        runs = tqdm(runs, desc="patient heads", unit="training")
    heads, shape = {}, (len(train), len(train.classes))
    held_out = {name: np.zeros(shape, np.float32) for name in recipe.heads}
    data = [train.fingerprint(), valid.fingerprint()]
    for name, fold in runs:
        some = train if fold is None else train.where(fold[0])
        learn = _head_learner(name, some, valid, recipe, seed)
        members = None if fold is None else fold[0].tolist()
        key = _key(data, _head_settings(name, recipe), seed, members)
        if fold is None:
            heads[name] = _trained(learn, recipe, key, reuse)
        else:
            aside = train.where(fold[1])
            held_out[name][fold[1]] = _held_out(learn, aside, recipe, key, reuse)
    checked = [_predictions(learn, valid, name) for name, learn in heads.items()]
    if naive:
        scored = [_predictions(learn, train, name) for name, learn in heads.items()]
    else:
        scored = [_as_predictions(train, held_out[name], name) for name in heads]
    set_seed(seed)
    combine = _learner(
        ensemble(len(train.classes), len(heads), recipe.ensemble_hidden),
        ScoreItems(_side_by_side(scored), train.targets),
        ScoreItems(_side_by_side(checked), valid.targets),
        recipe,
    )
    _fit(combine, recipe.ensemble_epochs, recipe)
    return PatientModel(
        recipe=recipe,
        heads=heads,
        combine=combine,
        naive=naive,
        out_of_fold=None if naive else {p.name: p for p in scored},
        claimed=_combined(combine, train, scored),
    )


def _check_parts(train: Bags, valid: Bags):
    if train.classes != valid.classes:
        raise ValueError(f"train has classes {train.classes}, valid {valid.classes}: relabel")
    shared = set(train.frame["patient_id"]) & set(valid.frame["patient_id"])
    if shared:
        raise ValueError(
            f"{len(shared)} patients are in train and in valid ({sorted(shared)[0]}, …): split by patient"
        )
    counts = np.bincount(train.targets, minlength=len(train.classes))
    if absent := [c for c, n in zip(train.classes, counts, strict=True) if not n]:
        raise ValueError(
            f"no training patient of {', '.join(absent)}: split anew, or leave the class out with "
            "`relabel`"
        )


def _folds(bags: Bags, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of the patients to train on and of those set aside, stratified by class."""
    from sklearn.model_selection import StratifiedKFold

    counts = bags.frame["label"].value_counts()
    if counts.min() < k:
        raise ValueError(
            f"{counts.min()} training patients of {counts.idxmin()} are too few for {k} folds: "
            f"set folds={max(2, counts.min())} in the recipe, or add patients"
        )
    folds = StratifiedKFold(k, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(len(bags)), bags.targets))


def _is_weighted(name: str) -> bool:
    return name.endswith("Weighted")


def _head_settings(name: str, recipe: PatientRecipe) -> dict:
    """What of the recipe decides about one head."""
    shared = ("batch_size", "lr", "epochs", "l1", "l2", "class_weights", "monitor")
    own = ("max_hidden",) if name.startswith("Maxpool") else ("lstm", "lstm_hidden")
    return {"head": name} | {field: getattr(recipe, field) for field in (*shared, *own)}


def _head_learner(name: str, train: Bags, valid: Bags, recipe: PatientRecipe, seed: int) -> Learner:
    set_seed(seed)
    n_classes = len(train.classes)
    n_features = train.features[0].shape[1] * (n_classes if _is_weighted(name) else 1)
    if name.startswith("Maxpool"):
        model = MaxPoolHead(n_features, n_classes, recipe.max_hidden)
    else:
        model = BiLSTMHead(n_features, n_classes, recipe.lstm, recipe.lstm_hidden)
    items = (BagItems(bags, _is_weighted(name)) for bags in (train, valid))
    return _learner(model, *items, recipe)


def _learner(model, train, valid, recipe: PatientRecipe) -> Learner:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaders = (
        PatientDL(items, bs=recipe.batch_size, shuffle=shuffle, device=device)
        for items, shuffle in ((train, True), (valid, False))
    )
    weight = None
    if recipe.class_weights:
        counts = torch.bincount(train.targets)
        weight = (counts.sum() / (len(counts) * counts)).float().to(device)
    return Learner(
        DataLoaders(*loaders, device=device),
        model.to(device),
        loss_func=CrossEntropyLossFlat(weight=weight),
        opt_func=partial(Adam, mom=0.9, sqr_mom=0.999, eps=1e-8, wd=0.0),
        lr=recipe.lr,
        metrics=accuracy,
        cbs=Penalty(recipe.l1, recipe.l2),
    )


def _fit(learn, epochs: int, recipe: PatientRecipe):
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=BestWeights(recipe.monitor))


def _trained(learn, recipe, key: str, reuse: bool) -> Learner:
    file = paths.cache() / "patient heads" / f"{key}.pth"
    if reuse and file.is_file():
        state = torch.load(file, map_location=learn.dls.device, weights_only=True)
        learn.model.load_state_dict(state)
        return learn
    _fit(learn, recipe.epochs, recipe)
    with paths.replacing(file) as temporary:
        torch.save(learn.model.state_dict(), temporary)
    return learn


def _held_out(learn, aside: Bags, recipe, key: str, reuse: bool) -> np.ndarray:
    """What a head says of patients that it was not trained on."""
    file = paths.cache() / "patient heads" / f"{key}.npy"
    if reuse and file.is_file():
        return np.load(file)
    _fit(learn, recipe.epochs, recipe)
    scores = _probabilities(learn, BagItems(aside, learn.dls.valid.dataset.weight))
    with paths.replacing(file) as temporary, open(temporary, "wb") as out:
        np.save(out, scores)
    return scores


def _probabilities(learn, items) -> np.ndarray:
    with learn.no_bar(), learn.no_logging():
        probabilities, _ = learn.get_preds(dl=learn.dls.valid.new(items))
    return probabilities.float().cpu().numpy()


def _predictions(learn, bags: Bags, name: str) -> Predictions:
    return _as_predictions(bags, _probabilities(learn, BagItems(bags, _is_weighted(name))), name)


def _combined(learn, bags: Bags, scores) -> Predictions:
    items = ScoreItems(_side_by_side(scores), bags.targets)
    return _as_predictions(bags, _probabilities(learn, items), "Ensemble")


def _as_predictions(bags: Bags, probabilities: np.ndarray, name: str) -> Predictions:
    return Predictions(bags.frame, probabilities, bags.classes, bags.positive, name)


def _side_by_side(scores) -> np.ndarray:
    return np.concatenate([p.probabilities for p in scores], 1)


def _names(frame: pd.DataFrame) -> list:
    return frame[["patient_id", "label"]].to_numpy(str).tolist()


def _key(*content) -> str:
    """Sixteen hex digits of what is given and of the code that computes with it."""
    code = [Path(file).read_text() for file in (__file__, patient_heads.__file__)]
    return hashlib.sha256(json.dumps([content, code]).encode()).hexdigest()[:16]
