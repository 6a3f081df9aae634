"""Train, validation and test: by patient unless told otherwise, stratified, seeded, counted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .manifest import Dataset


class LeakageWarning(UserWarning):
    """The same patient is in more than one part: scores on it will flatter the model."""


@dataclass(frozen=True)
class Split:
    """Three datasets and how they were made; iterating gives train, valid, test."""

    train: Dataset
    valid: Dataset
    test: Dataset
    how: str

    def __iter__(self):
        return iter((self.train, self.valid, self.test))

    def __repr__(self):
        sizes = ", ".join(f"{k} {len(d)}" for k, d in self.parts.items())
        return f"Split({self.train.card.id!r}: {sizes}; {self.how})"

    @property
    def parts(self) -> dict[str, Dataset]:
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def counts(self) -> pd.DataFrame:
        """Images and patients by class and part, with totals."""
        rows = []
        for part, data in self.parts.items():
            for name in (*data.classes, "all"):
                of = data.frame["label"] == name if name != "all" else np.ones(len(data), bool)
                rows.append((name, part, int(of.sum()), len(set(data.patients[of]))))
        table = pd.DataFrame(rows, columns=["label", "part", "images", "patients"])
        wide = table.pivot(index="label", columns="part", values=["images", "patients"])
        order = [(what, part) for what in ("images", "patients") for part in self.parts]
        return wide.loc[[*self.train.classes, "all"], order]

    def shared_patients(self) -> list[str]:
        """Patients that are in more than one part (none, in a split by patient)."""
        seen = pd.Series([p for d in self for p in sorted(set(d.patients))], dtype=object)
        return sorted(set(seen[seen.duplicated()]))


def split(
    dataset: Dataset, test: float = 0.2, valid: float = 0.2, by: str = "patient", seed: int = 0
) -> Split:
    """A random split, stratified by label: `test` of the whole, then `valid` of the rest.

    `by="patient"` keeps a patient's images together (fractions are of patients; a patient with
    several labels is stratified by the commonest); images of unknown patient stand alone.
    `by="image"` ignores patients, as much of the literature does, and warns when they repeat.

    Raises ValueError for fractions outside (0, 1), or a class with too few patients to be in
    every part.
    """
    for name, fraction in (("test", test), ("valid", valid)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name}={fraction!r} must be a fraction between 0 and 1")
    unit, table = _units(dataset, by)
    rest, tested = _halve(table, test, seed, f"the {by}s of {dataset.card.id!r}", "test")
    trained, validated = _halve(rest, valid, seed, "what is left after the test part", "valid")
    how = f"random by {by}, stratified by label, test {test:g}, valid {valid:g} of the rest, seed {seed}"
    parts = [dataset.where(np.isin(unit, t.index)) for t in (trained, validated, tested)]
    return _made(Split(*parts, how))


def kfold(
    dataset: Dataset, k: int = 5, valid: float = 0.2, by: str = "patient", seed: int = 0
) -> list[Split]:
    """`k` splits whose test parts together are the whole dataset, each image in one of them.

    Test parts come from scikit-learn's StratifiedGroupKFold (StratifiedKFold with `by="image"`),
    the validation part is taken from the rest as in `split`.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if not isinstance(k, int | np.integer) or k < 2:
        raise ValueError(f"k={k!r} must be a whole number of at least 2")
    unit, table = _units(dataset, by)
    fewest = table.value_counts().reindex(dataset.classes, fill_value=0)
    if fewest.min() < k:
        raise ValueError(
            f"class {fewest.idxmin()!r} of {dataset.card.id!r} has {fewest.min()} {by}(s), too few "
            f"for {k} folds: lower k or merge classes with `relabel`"
        )
    folds = (StratifiedGroupKFold if by == "patient" else StratifiedKFold)(
        k, shuffle=True, random_state=seed
    )
    splits = []
    groups = unit if by == "patient" else None
    for fold, (_, test_rows) in enumerate(folds.split(unit, dataset.targets, groups)):
        tested = set(unit[test_rows])
        rest = table[~table.index.isin(tested)]
        trained, validated = _halve(rest, valid, seed, f"the rest of fold {fold}", "valid")
        parts = [np.isin(unit, t.index) for t in (trained, validated)]
        how = f"fold {fold + 1} of {k}, by {by}, stratified by label, valid {valid:g}, seed {seed}"
        datasets = [dataset.where(rows) for rows in (*parts, test_rows)]
        splits.append(_made(Split(*datasets, how), warn=fold == 0))
    return splits


def official(dataset: Dataset, valid: float = 0.2, seed: int = 0) -> Split:
    """The split its makers published (manifest column `split`: train, val or valid, test).

    Without a published validation part, `valid` of the training patients is set aside.
    """
    part = dataset.frame["split"].str.lower().replace({"val": "valid", "validation": "valid"})
    missing = [name for name in ("train", "test") if not (part == name).any()]
    if missing:
        raise ValueError(
            f"{dataset.card.id!r} has no published {' or '.join(missing)} part: use `split` or `kfold`"
        )
    how, train = "as published", dataset.where((part == "train").to_numpy())
    if (part == "valid").any():
        validated = dataset.where((part == "valid").to_numpy())
    else:
        unit, table = _units(train, "patient")
        table, aside = _halve(table, valid, seed, "the published training part", "valid")
        validated = train.where(np.isin(unit, aside.index))
        train = train.where(np.isin(unit, table.index))
        how += f"; valid {valid:g} of its training patients, seed {seed}"
    return _made(Split(train, validated, dataset.where((part == "test").to_numpy()), how))


def has_official(dataset: Dataset) -> bool:
    """Did the makers publish a train and a test part?"""
    return {"train", "test"} <= set(dataset.frame["split"].str.lower())


def _units(dataset: Dataset, by: str) -> tuple[np.ndarray, pd.Series]:
    """What is kept together (one id per image), and the label each id is stratified by."""
    if by not in ("patient", "image"):
        raise ValueError(f"by={by!r} must be 'patient' or 'image'")
    unknown = int((dataset.frame["patient_id"] == "").sum())
    if by == "patient" and unknown:
        warnings.warn(
            f"{unknown} of {len(dataset)} images of {dataset.card.id!r} have no patient id: each "
            "stands for itself, and one patient may end up in two parts",
            LeakageWarning,
            stacklevel=3,
        )
    unit = dataset.patients if by == "patient" else dataset.frame["image"].to_numpy(str)
    rank = pd.Series(dataset.targets).groupby(unit).agg(lambda t: np.bincount(t).argmax())
    return unit, rank.map(dict(enumerate(dataset.classes)))


def _halve(table: pd.Series, fraction: float, seed: int, of: str, part: str):
    from sklearn.model_selection import train_test_split

    try:
        kept, taken = train_test_split(table, test_size=fraction, stratify=table, random_state=seed)
        if absent := set(table) - (set(kept) & set(taken)):  # scikit-learn lets a class run out
            raise ValueError(f"none would be left of {', '.join(sorted(absent))} on one side")
    except ValueError as error:
        counts = ", ".join(f"{k}: {v}" for k, v in table.value_counts().items())
        raise ValueError(
            f"cannot take {fraction:g} of {of} for the {part} part with every class in it "
            f"({counts}): {error}. Add patients, merge classes with `relabel`, or change the fraction"
        ) from error
    return kept, taken


def _made(made: Split, warn: bool = True) -> Split:
    shared = made.shared_patients()
    if shared and warn:
        warnings.warn(
            f"{len(shared)} patients are in more than one part ({', '.join(shared[:3])}, …): this "
            "image-level split measures how well the model knows its patients, not new ones",
            LeakageWarning,
            stacklevel=3,
        )
    return made
