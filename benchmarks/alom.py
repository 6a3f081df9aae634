"""Alom et al. on real images: detection with and without transfer, lungs, and the infected share.

    python benchmarks/alom.py detection [--seeds 0 1 2]   X-rays, pneumonia first or not; CT slices
    python benchmarks/alom.py lungs     [--seeds 0 1 2]   NABLA-3 on X-rays; on CT over five folds
    python benchmarks/alom.py share                       the percentage against drawn infection

`--profile fast` trains as notebook 03 does on a laptop, `--profile paper` as published. Finished
trainings are taken from their run records; every command writes what it measured to
`data/recorded/alom_*.csv`, which notebook 03 shows (`--out` for another folder).
"""

import numpy as np
from _common import asked, described, overlap, parser, scored, trained, write

from covidlab import cascade, datasets, imaging, severity, training
from covidlab.predictions import joined

XRAYS, SLICES = "cxr-ozturk", "ct-covidct-ucsd"
LUNG_XRAYS, LUNG_SLICES = "cxr-lungmask-mc-shenzhen", "ct-covid19seg-ma"
OUTLINED = "cxr-ieee8023-gb"
METRICS = ["accuracy", "recall", "specificity", "roc_auc"]


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
        pneumonia = trained(first, recipe, args, seed)
        rows.append(tested("pneumonia", pneumonia, first.test))
        for name, weights in (("from scratch", None), ("from pneumonia", pneumonia.record)):
            covid = trained(second, recipe, args, seed, weights)
            rows.append(tested(f"COVID-19, {name}", covid, second.test))
        split = datasets.official(datasets.load(SLICES))
        slices = trained(split, training.ALOM_CT.at(args.profile), args, seed)
        rows.append(tested("COVID-19 on CT", slices, split.test))
    write("alom_detection", rows, args)


def tested(task, learn, test):
    found = training.predict(learn, test, name=task)
    np.savez(
        learn.record.folder / "test.npz",
        image=test.frame["image"].to_numpy(str),
        patient=test.patients.astype(str),
        truth=found.is_positive,
        score=found.score,
    )
    return {"task": task} | described(learn, found) | scored(found, METRICS)


def lungs(args):
    rows = []
    data = datasets.load(LUNG_XRAYS)
    for seed in args.seeds:
        split = datasets.split(data, seed=seed)
        learn = trained(split, asked(training.ALOM_SEG_XRAY, args), args, seed)
        found = training.predict(learn, split.test)
        about = {"task": "lungs on X-ray"} | described(learn, found)
        rows.append(about | overlap(found))
    slices, found = datasets.load(LUNG_SLICES), []
    for learn, split in folds(slices, args):
        found.append(training.predict(learn, split.test))
    whole = joined(found)
    about = {"task": f"lungs on CT, {args.folds} folds"} | described(learn, whole, np.nan)
    rows.append(about | overlap(whole))
    write("alom_lungs", rows, args)


def folds(data, args):
    for split in datasets.kfold(data, args.folds, seed=0):
        yield trained(split, training.ALOM_SEG_CT.at(args.profile), args), split


def share(args):
    """The percentage where the lungs are drawn, and where they were found, against drawn infection."""
    split = datasets.split(datasets.load(LUNG_XRAYS), seed=0)
    learn = trained(split, asked(training.ALOM_SEG_XRAY, args), args)
    films = datasets.load(OUTLINED)
    films = films.where(films.frame["lung_mask"].ne("") & films.frame["infection_mask"].ne(""))
    rows = agreements(films, cascade.segment(learn, films), "X-ray")
    slices = datasets.load(LUNG_SLICES)
    masks = {}
    for learn, fold in folds(slices, args):
        masks |= dict(zip(fold.test.frame["image"], cascade.segment(learn, fold.test), strict=True))
    rows += agreements(slices, [masks[image] for image in slices.frame["image"]], "CT")
    write("alom_share", rows, args)


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


def main():
    tasks = {"detection": detection, "lungs": lungs, "share": share}
    options = parser(__doc__, tasks)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--size", type=int, help="of X-rays, for lungs and share")
    options.add_argument("--epochs", type=int, help="of the lungs on X-rays")
    args = options.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
