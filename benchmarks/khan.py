"""Khan et al. on real slices: every network on the same split, seeds and budget, from scratch.

    python benchmarks/khan.py screening    [--dataset ct-covidct-ucsd]  [--seeds 0 1 2]
    python benchmarks/khan.py segmentation [--dataset ct-medseg-infnet] [--seeds 0 1 2]
    python benchmarks/khan.py segmentation --dataset ct-covid19seg-ma --folds 5 --seeds 0
    python benchmarks/khan.py rank

`--profile fast` trains as the notebooks do on a laptop, `--profile paper` as published. Finished
trainings are taken from their run records; `rank` writes what there is to `data/recorded/`, which
notebooks 01 and 02 show, and prints the order of the networks.
"""

import argparse
import json
import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from covidlab import datasets, evaluation, models, paths, training

# What a laptop cannot afford of the published widths, and rates at which layers without batch
# normalisation learn at all.
LAPTOP = {
    "screening": {
        "VGG16": {"options": {"mlp_ratio": 1 / 8}, "lr": 1e-4},
        "VGG19": {"options": {"mlp_ratio": 1 / 8}, "lr": 1e-4},
    },
    "segmentation": {
        "SegNet": {"options": {"width": 32}},
        "U-SegNet": {"options": {"width": 32}},
        "VGG16": {"options": {"width": 32}},
        "VGG19": {"options": {"width": 32}},
        "FCN-8": {"options": {"width": 32, "fc": 512}, "lr": 3e-4},
        "U-Net": {"options": {"decoder_channels": (64, 48, 32, 16, 16)}},
    },
}
KEPT = {
    "screening": [
        "accuracy",
        "f_score",
        "mcc",
        "roc_auc",
        "pr_auc",
        "precision",
        "specificity",
        "recall",
    ],
    "segmentation": ["image_dice", "dice", "iou", "class_accuracy", "bf_score"],
}
KEYS = ["dataset", "profile", "network", "variant"]


def recipes(kind, profile):
    """Every network in both variants: {(network, variant): recipe}."""
    base = {"screening": training.KHAN_SCREENING, "segmentation": training.KHAN_SEGMENTATION}[kind]
    base, out = base.at(profile), {}
    names = training.KHAN_NETWORKS if kind == "screening" else training.KHAN_SEGMENTERS
    for name in names:
        ours = name == base.network
        one = base.but(name=name, network=name, options=base.options if ours else {})
        if profile != "paper":
            one = one.but(channels=1, **LAPTOP[kind].get(name, {}))
        if kind == "screening":
            one = one.but(size=max(one.size, models.smallest(name)))
            out[name, "IDWT"], out[name, "Original"] = one, one.but(enhance="none")
        else:
            out[name, "plain"], out[name, "SA"] = one, one.but(static_attention=True)
    return out


def splits(dataset, folds, seed):
    if folds:
        return dict(enumerate(datasets.kfold(dataset, folds, seed=0), 1))
    published = datasets.has_official(dataset)
    return {0: datasets.official(dataset) if published else datasets.split(dataset, seed=seed)}


def train(args):
    data = datasets.load(args.dataset)
    if args.kind == "segmentation":
        data = data.where(data.frame["label"] == data.card.positive)
        data = data.relabel({data.card.positive: data.card.positive})
    for seed in args.seeds:
        for fold, split in splits(data, args.folds, seed).items():
            for (network, variant), recipe in recipes(args.kind, args.profile).items():
                if args.networks and network not in args.networks:
                    continue
                if args.variants and variant not in args.variants:
                    continue
                dls = training.dataloaders(split, recipe, seed=seed, progress=False)
                learn = training.learner(dls, precision=args.precision)
                record = training.fit(learn, reuse=True, show_progress=False)
                if "test" not in record.metrics:
                    found = training.predict(learn, split.test, name=network)
                    record.add("test", measured(args.kind, found))
                    keep(args.kind, found, split.test.patients, record.folder / "test.npz")
                run = {"kind": args.kind, "network": network, "variant": variant, "fold": fold}
                record.add("benchmark", run | {"profile": args.profile})
                print(network, variant, f"seed {seed}, fold {fold}:", record, flush=True)


def measured(kind, found):
    """The metrics of `KEPT` with their intervals, of one test part."""
    if kind == "screening":
        table = evaluation.compare([found]).iloc[0]
    else:
        table = evaluation.compare_masks([found]).xs("infection", level="region").iloc[0]
    return {m + end: table[m + end] for m in KEPT[kind] for end in ("", " low", " high")}


def keep(kind, found, patients, file):
    """What the ranking resamples: scores of images, or their Dice."""
    if kind == "screening":
        values = {"truth": found.is_positive, "score": found.score}
    else:
        values = {"score": evaluation.per_image(found)["dice / infection"].to_numpy()}
    np.savez(file, patient=patients.astype(str), image=found.frame["image"].to_numpy(str), **values)


def rank(args):
    """Writes data/recorded/khan_*.csv from the run records, and prints the order."""
    rows = []
    for file in sorted(paths.runs().glob("*/record.json")):
        record = json.loads(file.read_text())
        if run := record["metrics"].get("benchmark"):
            run = run | {"dataset": record["data"]["dataset"], "seed": record["seed"]}
            run |= {"size": record["recipe"]["size"], "epochs": record["recipe"]["epochs"]}
            run |= {"n": record["data"]["images"]["test"], "best_epoch": record["best_epoch"]}
            run |= {"precision": record["environment"]["precision"]}
            rows.append(
                run | record["metrics"]["test"] | {"seconds": record["seconds"], "file": file}
            )
    table = pd.DataFrame(rows)
    for kind in sorted(set(table["kind"])):
        of = table[table["kind"] == kind].dropna(axis=1, how="all").drop(columns="kind")
        of = of.sort_values([*KEYS, "seed", "fold"])
        means = pd.DataFrame([averaged(kind, key, g) for key, g in of.groupby(KEYS, sort=False)])
        order = means.sort_values(["dataset", "profile", "score"], ascending=False)
        print(order.round(3).to_string(index=False), "\n")
        out = paths.data() / "recorded"
        out.mkdir(exist_ok=True)
        of.drop(columns="file").round(4).to_csv(out / f"khan_{kind}.csv", index=False)
        order.round(4).to_csv(out / f"khan_{kind}_ranked.csv", index=False)


def averaged(kind, key, group, n_boot=1000):
    """Mean over seeds (of all folds together), its interval from resampled patients, its range."""
    draws, values = [], []
    for _, of in group.groupby("seed"):
        kept = [np.load(f.with_name("test.npz"), allow_pickle=False) for f in of["file"]]
        part = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]}
        at = np.argsort(part["image"])
        part = {name: column[at] for name, column in part.items()}
        values.append(metric(kind, part, np.arange(len(at))))
        draws.append([metric(kind, part, rows) for rows in resamples(part, n_boot)])
    low, high = np.nanquantile(np.mean(draws, 0), [0.025, 0.975])
    return dict(zip(KEYS, key, strict=True)) | {
        "metric": "roc_auc" if kind == "screening" else "image_dice",
        "score": np.mean(values),
        "score low": low,
        "score high": high,
        "lowest seed": min(values),
        "highest seed": max(values),
        "seeds": len(values),
        "folds": group["fold"].nunique(),
        "n": int(group.groupby("seed")["n"].sum().iloc[0]),
        "patients": len(set(part["patient"])),
    }


def metric(kind, part, rows):
    if kind == "screening":
        return roc_auc_score(part["truth"][rows], part["score"][rows])
    return np.nanmean(part["score"][rows])


def resamples(part, n_boot):
    """Rows of patients drawn with replacement, within classes where there are several."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(part["patient"] == p) for p in sorted(set(part["patient"]))]
    group = [part["truth"][r[0]] if "truth" in part else 0 for r in rows]
    groups = [np.flatnonzero(np.array(group) == g) for g in sorted(set(group))]
    for _ in range(n_boot):
        drawn = np.concatenate([rng.choice(g, len(g)) for g in groups])
        yield np.concatenate([rows[i] for i in drawn])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("screening", "segmentation", "rank"))
    parser.add_argument("--dataset")
    parser.add_argument("--profile", default="fast", choices=("smoke", "fast", "paper"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=0, help="cross-validate; 0: one split")
    parser.add_argument("--networks", nargs="+", default=[])
    parser.add_argument("--variants", nargs="+", default=[], help="IDWT, Original; plain, SA")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    args = parser.parse_args()
    usual = {"screening": "ct-covidct-ucsd", "segmentation": "ct-medseg-infnet"}
    args.dataset = args.dataset or usual.get(args.kind)
    if args.kind == "rank":
        rank(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
