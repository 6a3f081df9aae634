"""What the measurements on real images share: training from records, intervals as columns, the table."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from covidlab import evaluation, paths, training

MASK_METRICS = ["image_dice", "dice", "iou", "class_accuracy"]


def trained(split, recipe, args, seed=0, weights=None):
    """A fitted learner; what was trained before is taken from its run record."""
    dls = training.dataloaders(split, recipe, seed=seed, progress=False)
    learn = training.learner(dls, precision=args.precision, weights=weights)
    print(training.fit(learn, reuse=True, show_progress=False), flush=True)
    return learn


def asked(recipe, args):
    """The recipe of the profile, at the size and length that were asked for."""
    given = {"size": args.size, "epochs": args.epochs}
    return recipe.at(args.profile).but(**{k: v for k, v in given.items() if v})


def bounds(row, metrics):
    """Each metric and the ends of its interval."""
    return {m + end: row[m + end] for m in metrics for end in ("", " low", " high")}


def scored(found, metrics):
    return bounds(evaluation.compare([found], metrics).iloc[0], metrics)


def overlap(found, region="lung"):
    table = evaluation.compare_masks([found], MASK_METRICS).xs(region, level="region").iloc[0]
    each = evaluation.per_image(found)[f"iou / {region}"]
    correct = float((found.predicted == found.truth).mean())
    return bounds(table, MASK_METRICS) | {"image_iou": each.mean(), "global_accuracy": correct}


def described(learn, found, seconds=None, dataset=None):
    """Of a training, or of several alike: what it saw, and on how many it was measured."""
    record = learn.record
    return {
        "dataset": dataset or record.data["dataset"],
        "seed": record.seed,
        "epochs": record.recipe["epochs"],
        "size": record.recipe["size"],
        "n": len(found),
        "patients": found.frame["patient_id"].nunique(),
        "seconds": record.seconds if seconds is None else seconds,
    }


def write(name, rows, args):
    """Shown, and kept as `name`.csv in the folder that was asked for."""
    table = pd.DataFrame(rows).round(4)
    table.insert(1, "profile", args.profile)
    print(table.to_string(index=False), "\n")
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / f"{name}.csv", index=False)


def parser(doc, tasks, folds=5):
    """The options that all have; `task` is one of the functions."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("task", choices=tasks)
    made.add_argument("--profile", default="fast", choices=("smoke", "fast", "paper"))
    made.add_argument("--folds", type=int, default=folds)
    made.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    made.add_argument("--out", type=Path, default=paths.data() / "recorded")
    return made
