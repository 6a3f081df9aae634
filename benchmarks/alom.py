"""Alom et al. on real images: detection with and without transfer, lungs, and the infected share.

    python benchmarks/alom.py detection [--seeds 0 1 2]   X-rays, pneumonia first or not; CT slices
    python benchmarks/alom.py lungs     [--seeds 0 1 2]   NABLA-3 on X-rays; on CT over five folds
    python benchmarks/alom.py share                       the percentage against drawn infection

`--profile fast` trains as notebook 03 does on a laptop, `--profile paper` as published. Finished
trainings are taken from their run records; every command writes what it measured to
`data/recorded/alom_*.csv`, which notebook 03 shows.
"""

import argparse
import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pandas as pd

from covidlab import cascade, datasets, evaluation, imaging, paths, severity, training

XRAYS, SLICES = "cxr-ozturk", "ct-covidct-ucsd"
LUNG_XRAYS, LUNG_SLICES = "cxr-lungmask-mc-shenzhen", "ct-covid19seg-ma"
OUTLINED = "cxr-ieee8023-gb"
METRICS = ["accuracy", "recall", "specificity", "roc_auc"]
MASK_METRICS = ["image_dice", "dice", "iou"]


def trained(split, recipe, seed, args, weights=None):
    dls = training.dataloaders(split, recipe, seed=seed, progress=False)
    learn = training.learner(dls, precision=args.precision, weights=weights)
    print(training.fit(learn, reuse=True, show_progress=False), flush=True)
    return learn


def only(split, classes, positive):
    """Two of the classes of a split, everyone where they were."""
    mapping = {c: c if c in classes else None for c in split.train.classes}
    return datasets.Split(*(part.relabel(mapping, positive) for part in split), split.how)


def detection(args):
    rows = []
    data = datasets.load(XRAYS)
    recipe = training.ALOM_XRAY.at(args.profile)
    for seed in args.seeds:
        split = datasets.split(data, seed=seed)
        first = only(split, ("No_findings", "Pneumonia"), "Pneumonia")
        second = only(split, ("No_findings", "COVID-19"), "COVID-19")
        pneumonia = trained(first, recipe, seed, args)
        rows.append(scored("pneumonia", XRAYS, pneumonia, first.test))
        for name, weights in (("from scratch", None), ("from pneumonia", pneumonia.record)):
            covid = trained(second, recipe, seed, args, weights)
            rows.append(scored(f"COVID-19, {name}", XRAYS, covid, second.test))
        split = datasets.official(datasets.load(SLICES))
        slices = trained(split, training.ALOM_CT.at(args.profile), seed, args)
        rows.append(scored("COVID-19 on CT", SLICES, slices, split.test))
    write("alom_detection", rows, args.profile)


def scored(task, dataset, learn, test):
    found = training.predict(learn, test, name=task)
    np.savez(
        learn.record.folder / "test.npz",
        image=test.frame["image"].to_numpy(str),
        patient=test.patients.astype(str),
        truth=found.is_positive,
        score=found.score,
    )
    table = evaluation.compare([found]).iloc[0]
    numbers = {m + end: table[m + end] for m in METRICS for end in ("", " low", " high")}
    return described(task, dataset, learn, test) | numbers


def described(task, dataset, learn, test):
    record = learn.record
    return {
        "task": task,
        "dataset": dataset,
        "seed": record.seed,
        "epochs": record.recipe["epochs"],
        "size": record.recipe["size"],
        "n": len(test),
        "patients": len(set(test.patients)),
        "seconds": record.seconds,
    }


def lungs(args):
    rows = []
    data = datasets.load(LUNG_XRAYS)
    for seed in args.seeds:
        split = datasets.split(data, seed=seed)
        learn = trained(split, longer(training.ALOM_SEG_XRAY, args), seed, args)
        found = training.predict(learn, split.test)
        rows.append(described("lungs on X-ray", LUNG_XRAYS, learn, split.test) | overlap(found))
    slices, found = datasets.load(LUNG_SLICES), []
    for learn, split in folds(slices, args):
        found.append(training.predict(learn, split.test))
    whole = joined(found)
    row = described("lungs on CT, 5 folds", LUNG_SLICES, learn, slices)
    rows.append(row | overlap(whole) | {"seconds": np.nan})
    write("alom_lungs", rows, args.profile)


def folds(data, args):
    for split in datasets.kfold(data, 5, seed=0):
        yield trained(split, training.ALOM_SEG_CT.at(args.profile), 0, args), split


def longer(recipe, args):
    given = {"size": args.size, "epochs": args.epochs}
    return recipe.at(args.profile).but(**{k: v for k, v in given.items() if v})


def joined(parts):
    from covidlab.predictions import MaskPredictions

    return MaskPredictions(
        pd.concat([p.frame for p in parts], ignore_index=True),
        np.concatenate([p.probabilities for p in parts]),
        np.concatenate([p.truth for p in parts]),
        parts[0].classes,
        parts[0].name,
    )


def overlap(found):
    table = evaluation.compare_masks([found], MASK_METRICS).xs("lung", level="region").iloc[0]
    numbers = {m + end: table[m + end] for m in MASK_METRICS for end in ("", " low", " high")}
    return numbers | {"global_accuracy": float((found.predicted == found.truth).mean())}


def share(args):
    """The percentage where the lungs are drawn, and where they were found, against drawn infection."""
    split = datasets.split(datasets.load(LUNG_XRAYS), seed=0)
    learn = trained(split, longer(training.ALOM_SEG_XRAY, args), 0, args)
    films = datasets.load(OUTLINED)
    films = films.where(films.frame["lung_mask"].ne("") & films.frame["infection_mask"].ne(""))
    rows = agreements(films, cascade.segment(learn, films), "X-ray")
    slices = datasets.load(LUNG_SLICES)
    masks = {}
    for learn, fold in folds(slices, args):
        masks |= dict(zip(fold.test.frame["image"], cascade.segment(learn, fold.test), strict=True))
    rows += agreements(slices, [masks[image] for image in slices.frame["image"]], "CT")
    write("alom_share", rows, args.profile)


def agreements(data, found_lungs, modality):
    out, options = [], imaging.REGION_PARAMETERS[modality]
    drawn = [data.mask(i, "lung_mask") for i in range(len(data))]
    sick = [data.mask(i) for i in range(len(data))]
    truth = np.array([severity.infected_share(a, b) for a, b in zip(sick, drawn, strict=True)])
    for whose, masks in (("drawn", drawn), ("found", found_lungs)):
        regions = [imaging.find_regions(data.image(i), m, **options) for i, m in enumerate(masks)]
        found = np.array([each.share for each in regions])
        known = np.isfinite(truth) & np.isfinite(found)
        table = severity.agreement(truth[known], found[known], data.patients[known])
        overlaps = [dice(each.infected, mask) for each, mask in zip(regions, sick, strict=True)]
        for measure, row in table.iterrows():
            out.append({"dataset": data.card.id, "lungs": whose, "measure": measure, **row})
        extra = {"value": np.nanmean(overlaps), "n": len(data), "patients": out[-1]["patients"]}
        out.append({"dataset": data.card.id, "lungs": whose, "measure": "mean dice", **extra})
    return out


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else np.nan


def write(name, rows, profile):
    table = pd.DataFrame(rows).round(4)
    table.insert(1, "profile", profile)
    print(table.to_string(index=False))
    table.to_csv(paths.data() / "recorded" / f"{name}.csv", index=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = {"detection": detection, "lungs": lungs, "share": share}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--profile", default="fast", choices=("smoke", "fast", "paper"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--size", type=int, help="of X-rays, for lungs and share")
    parser.add_argument("--epochs", type=int, help="of the lungs on X-rays")
    args = parser.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
