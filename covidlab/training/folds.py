"""Cross-validation: the same folds for every recipe, resumed where it was left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from covidlab.datasets.manifest import Dataset
from covidlab.datasets.splits import kfold

from .learners import estimate, fit, learner, predict, run_folder
from .loaders import dataloaders
from .recipe import Recipe
from .record import RunRecord


def cross_validate(
    dataset: Dataset,
    recipes: Recipe | Iterable[Recipe],
    folds: int | None = None,
    seed: int = 0,
    by: str = "patient",
    valid: float = 0.2,
    reuse: bool = True,
    progress: bool = True,
    weights=None,
    precision: str = "auto",
) -> Iterator[tuple[int, RunRecord, object]]:
    """Trains each recipe on each fold and yields (fold, record, predictions of its test part).

    Folds count from 1 and are `datasets.kfold`'s, the same for every recipe; all of one recipe come
    before the next. Predictions bear the recipe's name. With `reuse` a training that is finished is
    taken from its record, so that what was interrupted goes on at the fold where it was. With
    `progress` the time that is left is measured and printed before the first training.

    Parameters
    ----------
    recipes : one, or several to compare; `record.recipe["name"]` says which it was.
    folds : how many; by default as many as the (first) recipe says.
    by, valid : as in `datasets.kfold`.
    weights, precision : as in `learner`.

    Raises ValueError and DatasetError as `kfold` and `dataloaders` do, at the first item asked for.
    """
    recipes = [recipes] if isinstance(recipes, Recipe) else list(recipes)
    if not recipes:
        raise ValueError("recipes is empty: give at least one Recipe")
    if all(recipe.masks for recipe in recipes):
        dataset = _labels_that_occur(dataset)
    splits = kfold(dataset, folds or recipes[0].folds, valid, by, seed)
    options = {"weights": weights, "precision": precision}
    runs = [(recipe, fold) for recipe in recipes for fold in range(len(splits))]
    if progress:
        from tqdm.auto import tqdm

        print(_plan(recipes, splits, seed, reuse, options))
        runs = tqdm(runs, unit="training")
    for recipe, fold in runs:
        if progress:
            runs.set_description(f"{recipe.network}, fold {fold + 1} of {len(splits)}")
        dls = dataloaders(splits[fold], recipe, seed, progress)
        learn = learner(dls, **options)
        record = fit(learn, reuse, show_progress=False)
        yield fold + 1, record, predict(learn, splits[fold].test, name=recipe.name)


def _labels_that_occur(dataset: Dataset) -> Dataset:
    """Labels stratify folds of masks, and need not all be there once rows were left out."""
    there = set(dataset.frame["label"])
    positive = dataset.card.positive if dataset.card.positive in there else None
    return dataset.relabel({c: c if c in there else None for c in dataset.classes}, positive)


def _plan(recipes, splits, seed, reuse, options) -> str:
    """How many trainings are left, and how long they will take by their first batches."""
    left = seconds = 0
    for recipe in recipes:
        learn = learner(dataloaders(splits[0], recipe, seed), **options)
        done = [reuse and (run_folder(learn, s) / "record.json").is_file() for s in splits]
        if todo := done.count(False):
            left, seconds = left + todo, seconds + todo * recipe.epochs * estimate(learn)
    total = len(recipes) * len(splits)
    if not left:
        return f"All {total} trainings are finished and taken from their records."
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"About {time} on {learn.dls.device}: {left} of {total} trainings are to be done."
