"""Settings of a run → its dataset and its split, the same in every process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from covidlab import datasets
from covidlab.datasets.manifest import Dataset
from covidlab.datasets.splits import Split, _units
from covidlab.training.recipe import Recipe


def load(data: Mapping, recipe: Recipe, check: bool = True) -> Dataset:
    """The rows a run is about. Raises as `datasets.load`, and ValueError for a bad `where`."""
    name, where = data["dataset"], data["where"]
    if data["data"] and name not in datasets.phantom.PRESETS:
        raise ValueError(f"{name!r} is not generated, so it takes no options {data['data']}")
    dataset = datasets.load(name, profile=data["profile"], check=check, **data["data"])
    if where:
        try:
            dataset = dataset.where(where)
        except Exception as error:  # pandas' parser has many of its own
            raise ValueError(f"where={where!r} of {name!r}: {error}") from error
    if recipe.masks:  # labels stratify its splits, and need not all be left
        there = set(dataset.frame["label"])
        positive = dataset.card.positive if dataset.card.positive in there else None
        dataset = dataset.relabel({c: c if c in there else None for c in dataset.classes}, positive)
    return dataset


def called(data: Mapping, recipe: Recipe) -> str:
    """A name for what `load` gives."""
    options = [f"{k}={v}" for k, v in sorted(data["data"].items())]
    words = [data["dataset"], *options, data["where"], "with masks" if recipe.masks else ""]
    return " ".join(word for word in words if word)


def split(dataset: Dataset, data: Mapping, seed: int, fold: int) -> Split:
    """Train, valid and test part of a run. Raises ValueError where classes run out."""
    by, valid = data["split_by"], data["valid"]
    published = data["split"] == "published"
    if data["split"] == "auto":
        published = datasets.has_official(dataset)
    if fold:
        made = datasets.kfold(dataset, data["folds"], valid, by)[fold - 1]
    elif published:
        made = datasets.official(dataset, valid)
    else:
        made = datasets.split(dataset, data["test"], valid, by, seed)
    return made if data["train_size"] == 1 else _smaller(made, data["train_size"], by, seed)


def _smaller(made: Split, share: float, by: str, seed: int) -> Split:
    """Some of the training patients of each class: for one seed a smaller share is part of a larger."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", datasets.LeakageWarning)  # the whole split has said so
        unit, table = _units(made.train, by)
    kept = []
    for _, of in table.sort_index().groupby(table.sort_index()):
        drawn = np.random.default_rng(seed).permutation(of.index.to_numpy())
        kept += list(drawn[: max(1, round(share * len(drawn)))])
    how = f"{made.how}; {share:g} of the training {by}s, seed {seed}"
    return replace(made, train=made.train.where(np.isin(unit, kept)), how=how)
