"""What is wrong with the public sets themselves: copies, and labels that the picture's making tells.

    python benchmarks/leakage.py copies [--sets …]   the same picture twice, within and across sets
    python benchmarks/leakage.py facts  [--sets …]   the label from size, file, border, marks, greys
    python benchmarks/leakage.py cost   [--sets …]   the same network, split by image and by patient

Sets that are not there are named and left out. Results go to `data/recorded/leakage_*.csv`
(`--out` for another folder), which notebook 11 shows.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from _common import scored, trained

from covidlab import appraisal, datasets, evaluation, paths, training
from covidlab.predictions import joined

XRAY = ("cxr-ieee8023-gb", "cxr-ozturk", "cxr-hannover", "cxr-lungmask-mc-shenzhen")
CT = (
    "ct-covidct-ucsd",
    "ct-medseg-infnet",
    "ct-covid19seg-ma",
    "ct-md-volumes",
    "ct-lungmask-imlab",
)
METRICS = ["accuracy", "roc_auc"]


def there(names, args):
    found = []
    for name in names:
        if args.sets and name not in args.sets:
            continue
        try:
            found.append(datasets.load(name))
        except FileNotFoundError as error:
            print(f"{name}: {error}", flush=True)
    return found


def copies(args):
    tables = []
    for names in (XRAY, CT):
        given = there(names, args)
        if given:
            tables.append(appraisal.copies(*given, most=args.most, same=args.same))
    pairs = pd.concat(tables, ignore_index=True)
    print(appraisal.conflicts(pairs[pairs["alike"] >= appraisal.SAME]))
    write("leakage_copies", pairs, args)


def facts(args):
    """For each set with labels, and for mixtures of sets by class, each kind of fact alone and all."""
    rows = []
    for data in questions(args):
        known = appraisal.picture_facts(data, progress=False)
        for kinds in ([], ["size", "file"], *([kind] for kind in appraisal.FACTS)):
            name = " and ".join(kinds) or "all"
            told = appraisal.label_from(known, data, kinds, seed=args.seed, name=name)
            told = replace(told, positive=None)
            about = {
                "dataset": data.card.id,
                "classes": " / ".join(data.classes),
                "facts": told.name,
            }
            about |= {"n": len(data), "patients": len(set(data.patients)), "seed": args.seed}
            rows.append(about | scored(told, METRICS))
            print(rows[-1], flush=True)
    write("leakage_facts", pd.DataFrame(rows), args)


def questions(args):
    """Each set's own question where it has one, and COVID-19 of one set against normal of another."""
    by = {data.card.id: data for data in there((*XRAY, *CT), args)}
    for name in ("cxr-ozturk", "ct-covidct-ucsd", "cxr-lungmask-mc-shenzhen"):
        if name in by:
            yield by[name]
    mixtures = [
        (("cxr-ieee8023-gb", "COVID-19"), ("cxr-ozturk", "No_findings")),
        (("cxr-hannover", "COVID-19"), ("cxr-lungmask-mc-shenzhen", "normal")),
    ]
    for sick, well in mixtures:
        if sick[0] in by and well[0] in by:
            yield datasets.combine(
                labelled(by[sick[0]], sick[1], "COVID-19"), labelled(by[well[0]], well[1], "normal")
            )


def labelled(data, label, name):
    card = replace(data.card, classes=("COVID-19", "normal"), positive="COVID-19")
    frame = data.frame[data.frame["label"].eq(label)].assign(label=name)
    return datasets.Dataset(frame, data.root, card)


def cost(args):
    """Every image tested once, five folds: what splitting by image adds, on the same images."""
    rows = []
    recipe = training.KHAN_SCREENING.at("fast")
    for data in there(("ct-covidct-ucsd",), args):
        found = {}
        for by in ("image", "patient"):
            parts = []
            for split in datasets.kfold(data, args.folds, by=by, seed=args.seed):
                learn = trained(split, recipe, args, args.seed)
                parts.append(training.predict(learn, split.test, name=by))
            found[by] = joined(parts, by="image")
        about = {"dataset": data.card.id, "network": recipe.network, "n": len(data)}
        about |= {"patients": len(set(data.patients)), "folds": args.folds, "seed": args.seed}
        for by, whole in found.items():
            row = evaluation.compare([whole], METRICS).iloc[0]
            rows.append(about | {"split by": by} | {k: row[k] for k in row.index})
        gaps = {m: evaluation.difference(found["image"], found["patient"], m) for m in METRICS}
        ends = {m + e: getattr(g, k) for m, g in gaps.items() for e, k in ENDS}
        rows.append(about | {"split by": "image − patient"} | ends)
    write("leakage_cost", pd.DataFrame(rows), args)


ENDS = (("", "value"), (" low", "low"), (" high", "high"))


def write(name, table, args):
    args.out.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(args.out / f"{name}.csv", index=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = {"copies": copies, "facts": facts, "cost": cost}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--sets", nargs="+", choices=(*XRAY, *CT))
    parser.add_argument("--most", type=int, default=8, help="candidates looked at for each image")
    parser.add_argument(
        "--same", type=float, default=0.6, help="likeness from which pairs are kept"
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--out", type=Path, default=paths.data() / "recorded")
    args = parser.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
