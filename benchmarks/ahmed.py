"""Ahmed et al. on real X-rays: find the lungs, keep only them, and ask what is left of the accuracy.

    python benchmarks/ahmed.py lungs    [--folds 10]   U-Net on both collections of the paper
    python benchmarks/ahmed.py covid    [--folds 10] [--variants plain lungs …]   by patient
    python benchmarks/ahmed.py calibration [--folds 10]   are its probabilities true, whom does it miss
    python benchmarks/ahmed.py networks [--folds 10] [--networks …]   Table 7, on the lungs alone

COVID-19 is one collection, normal another, as in the paper. `covid` trains on the whole image, on
the lungs alone and on everything but them, folds by patient, and asks the folds' networks together
about images from elsewhere: the unseen sources of both classes, and what is neither (other findings
of the COVID-19 collection, pneumonia of the normal one). Masks are the first fold's of `lungs`; of
images that U-Net learnt from, those of the fold that did not.

`--profile fast` trains as notebook 05 does on a laptop, `--profile paper` as published. Finished
trainings are taken from their run records; every command writes what it measured to
`data/recorded/ahmed_*.csv`, which notebook 05 shows (`--out` for another folder).
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from _common import described, overlap, parser, scored, trained, write

from covidlab import cascade, datasets, evaluation, explain, imaging, severity, training
from covidlab.predictions import joined

LUNGS = "cxr-lungmask-mc-shenzhen"
SICK, WELL = "cxr-ieee8023-gb", "cxr-ozturk"
SICK_ELSEWHERE = "cxr-hannover"
CLASSES = ("COVID-19", "normal")
VARIANTS = {  # name → part of the image, cropped to the lungs or not
    "plain": ("all", False),
    "lungs": ("lungs", False),
    "lungs, cropped": ("lungs", True),
    "all but lungs": ("all but lungs", False),
    "all but box": ("all but box", False),
    "outline": ("outline", False),
}
FINEST = "backbone.incre_modules.0"  # of HRNet's four resolutions; the coarsest is 2×2 at 64 px
METRICS = ["accuracy", "recall", "specificity", "roc_auc"]


# ---- lungs -------------------------------------------------------------------------------------


def segmenters(args):
    """(learner, split) of each fold on the collections with lung masks."""
    recipe = training.AHMED_LUNGS.at(args.profile)
    for split in datasets.kfold(datasets.load(LUNGS), args.folds, valid=0.1, seed=0):
        yield trained(split, recipe, args), split


def lungs(args):
    rows, found, seconds = [], [], 0.0
    for fold, (learn, split) in enumerate(segmenters(args), 1):
        found.append(training.predict(learn, split.test))
        seconds += learn.record.seconds
        rows.append({"fold": fold} | described(learn, found[-1]) | overlap(found[-1]))
    whole = joined(found)
    rows.append({"fold": 0} | described(learn, whole, seconds) | overlap(whole))
    write("ahmed_lungs", rows, args)


# ---- images with and without lungs -------------------------------------------------------------


def sources(args):
    """{name: Dataset}: what is trained on, and what is asked about afterwards."""
    sick, well = datasets.load(SICK), datasets.load(WELL)
    known = pd.read_csv(sick.root / "metadata.csv", dtype=str, keep_default_na=False)
    frame = sick.frame.merge(known[["image", "view", "age"]], on="image", how="left")
    sick, table = datasets.select(
        replace(sick, frame=frame),
        {
            "frontal view": "view in ['PA', 'AP', 'AP Supine']",
            "not known to be under 18": lambda f: ~(pd.to_numeric(f["age"]) < 18),
        },
    )
    print(table, "\n", flush=True)
    covid = sick.frame["label"].str.startswith("COVID-19").to_numpy()
    others = ~covid & ~np.isin(sick.patients, sick.patients[covid])
    named = {
        "mixture": (labelled(sick, covid, "COVID-19"), labelled(well, "No_findings", "normal")),
        "unseen sources": (
            labelled(datasets.load(SICK_ELSEWHERE), "COVID-19", "COVID-19"),
            labelled(datasets.load(LUNGS), "normal", "normal"),
        ),
        "other findings, source of COVID-19": (labelled(sick, others, "normal"),),
        "pneumonia, source of normal": (labelled(well, "Pneumonia", "normal"),),
    }
    given = {k: datasets.combine(*d) if len(d) > 1 else d[0] for k, d in named.items()}
    return {k: few(d) for k, d in given.items()} if args.profile == "smoke" else given


def labelled(data, keep, label):
    """The rows of a label, or where `keep` holds, as one of the two classes."""
    keep = data.frame["label"].to_numpy() == keep if isinstance(keep, str) else keep
    card = replace(data.card, classes=CLASSES, positive=CLASSES[0])
    frame = data.frame[keep].assign(label=label, source=data.card.id)
    return datasets.Dataset(frame, data.root, card)


def few(data, n=16):
    """The first images of each class, to see that everything runs."""
    return data.where(data.frame.groupby("label").cumcount().to_numpy() < n)


def found_lungs(data, models):
    """A mask for each image: of the first segmenter, or of the one that has not learnt from it."""
    masks = cascade.segment(models[0][0], data)
    for learn, split in models:
        at = np.flatnonzero(np.isin(data.frame["sha256"], split.test.frame["sha256"]))
        if len(at):
            for i, mask in zip(at, cascade.segment(learn, data.where(at)), strict=True):
                masks[i] = mask
    return masks


def covid(args):
    models, given = list(segmenters(args)), sources(args)
    masks = {name: found_lungs(data, models) for name, data in given.items()}
    recipe, rows, elsewhere, pooled = training.AHMED_HRNET.at(args.profile), [], [], []
    for variant in args.variants:
        cuts = {name: cut(data, masks[name], variant)[0] for name, data in given.items()}
        found, heats, asked = [], [], {name: [] for name in cuts if name != "mixture"}
        for fold, learn, test in folds(cuts["mixture"], recipe, args):
            found.append(training.predict(learn, test, name=variant))
            inside = heat(learn, test)
            rows.append({"fold": fold} | row_of(learn, found[-1]) | interval(inside))
            heats.append(inside)
            for name, some in asked.items():
                some.append(training.predict(learn, cuts[name], name=variant))
        pooled.append(joined(found))
        rows.append({"fold": 0} | row_of(learn, pooled[-1]) | interval(pd.concat(heats)))
        elsewhere += [called(name, averaged(some)) for name, some in asked.items()]
    aside = [row for name, data in given.items() for row in counted(name, data, masks[name])]
    write("ahmed_covid", rows, args)
    write("ahmed_elsewhere", elsewhere, args)
    write("ahmed_aside", aside, args)
    write("ahmed_differences", list(differences(*pooled)), args)


def calibration(args):
    """Whether probabilities can be believed, at home and elsewhere, and who is missed."""
    models, given = list(segmenters(args)), sources(args)
    given = {name: given[name] for name in ("mixture", "unseen sources")}
    masks = {name: found_lungs(data, models) for name, data in given.items()}
    recipe, rows, bands = training.AHMED_HRNET.at(args.profile), [], []
    for variant in ("plain", "lungs"):
        cuts = {name: cut(data, masks[name], variant)[0] for name, data in given.items()}
        found, asked = [], []
        for _, learn, test in folds(cuts["mixture"], recipe, args):
            found.append(training.predict(learn, test, name=variant))
            asked.append(training.predict(learn, cuts["unseen sources"], name=variant))
        home, away = joined(found), averaged(asked)
        scale = evaluation.temperature(home)
        rows += [
            believed("mixture", home) | {"temperature": 1.0},
            believed("unseen sources", away) | {"temperature": 1.0},
            believed("unseen sources", evaluation.with_temperature(away, scale))
            | {"temperature": scale},
        ]
        bands += by_severity(home, given["mixture"])
    write("ahmed_calibration", rows, args)
    write("ahmed_severity", bands, args)


def believed(name, found):
    about = {"variant": found.name, "set": name, "dataset": sources_of(found.frame)}
    about |= {"n": len(found), "patients": found.frame["patient_id"].nunique()}
    measures = {
        "calibration error": evaluation.calibration_error(found),
        "by chance": evaluation.chance_calibration_error(found),
        "brier": evaluation.brier(found),
    }
    for measure, interval in measures.items():
        about |= {measure: interval.value}
        about |= {f"{measure} low": interval.low, f"{measure} high": interval.high}
    gain = evaluation.decision_curve(found, (0.5,)).iloc[0]
    return about | gain[["gain", "gain low", "gain high"]].to_dict()


def by_severity(found, data):
    """Sensitivity by how much of the lung is drawn as infected, in thirds of the X-rays that have it."""
    row = {image: i for i, image in enumerate(data.frame["image"])}
    drawn = found.frame["infection_mask"].fillna("").ne("") & found.frame["label"].eq(CLASSES[0])
    share = [
        severity.infected_share(data.mask(row[image]), data.mask(row[image], "lung_mask"))
        for image in found.frame["image"][drawn]
    ]
    thirds, edges = pd.qcut(share, 3, labels=("least", "middle", "most"), retbins=True)
    keep = drawn.to_numpy()
    some = replace(
        found,
        frame=found.frame[keep].assign(third=thirds.astype(str)),
        probabilities=found.probabilities[keep],
    )
    table = evaluation.by_group(some, "third", ["recall"])
    ends = dict(zip(("least", "middle", "most"), zip(edges, edges[1:], strict=False), strict=True))
    for third, group in table.iterrows():
        low, high = ends.get(third, (edges[0], edges[-1]))
        about = {"variant": found.name, "dataset": SICK, "third": third}
        yield about | {"share from": low, "share to": high} | group.to_dict()


def cut(data, masks, variant):
    part, crop = VARIANTS[variant]
    return datasets.keep_lungs(data, masks, part, imaging.AHMED_REFINEMENT, crop, progress=False)


def counted(name, data, masks):
    """How many images were set aside, by class and reason."""
    _, aside = cut(data, masks, "lungs")
    start = {"set": name, "dataset": sources_of(data.frame)}
    for label, n in data.frame["label"].value_counts().items():
        reasons = aside.loc[aside["label"] == label, "reason"].value_counts()
        for reason, images in (reasons if len(reasons) else {"": 0}).items():
            yield start | {"label": label, "n": n, "reason": reason, "images": images}


def folds(data, recipe, args):
    for fold, split in enumerate(datasets.kfold(data, args.folds, valid=0.1, seed=0), 1):
        yield fold, trained(split, recipe, args), split.test


def heat(learn, test):
    """Of each image the share of the heat in its lungs, that of its area, and its patient."""
    masks = [test.mask(i, "lung_mask") for i in range(len(test))]
    maps = explain.saliency(learn, test, layer=FINEST)
    columns = {"heat in lungs": explain.heat_share(maps, masks)}
    columns |= {"lungs of image": [m.mean() for m in masks], "patient": test.patients}
    return pd.DataFrame(columns).dropna()


def interval(table, n_boot=1000):
    """Mean share of the heat that lies inside, patients resampled."""
    if table.empty:
        return {}
    by = [group.to_numpy() for _, group in table.groupby("patient")["heat in lungs"]]
    rng, draws = np.random.default_rng(0), []
    for _ in range(n_boot):
        drawn = [by[i] for i in rng.integers(0, len(by), len(by))]
        draws.append(np.concatenate(drawn).mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    means = table[["heat in lungs", "lungs of image"]].mean().to_dict()
    return means | {"heat in lungs low": low, "heat in lungs high": high}


def averaged(found):
    """What the folds' networks say together."""
    return replace(found[0], probabilities=np.mean([f.probabilities for f in found], axis=0))


def row_of(learn, found, seconds=None):
    about = {"variant": found.name, "network": learn.recipe.network}
    about |= described(learn, found, seconds, sources_of(found.frame))
    return about | scored(found, METRICS)


def called(name, found):
    """Metrics where both classes are there, else the specificity: who is not called COVID-19."""
    metrics = METRICS if 0 < found.is_positive.sum() < len(found) else ["specificity"]
    about = {"variant": found.name, "set": name, "dataset": sources_of(found.frame)}
    about |= {"n": len(found), "patients": found.frame["patient_id"].nunique()}
    return about | scored(found, metrics)


def differences(first, *others):
    """ROC-AUC of each minus that of the first, on the images that both have."""
    for other in others:
        a, b = shared(other, first), shared(first, other)
        change = evaluation.difference(a, b, "roc_auc")
        yield {
            "variant": f"{other.name} − {first.name}",
            "dataset": sources_of(a.frame),
            "n": len(a),
            "roc_auc": change.value,
            "roc_auc low": change.low,
            "roc_auc high": change.high,
        }


def shared(found, other):
    """The predictions of images that another has too, by name."""
    keep = found.frame["image"].isin(other.frame["image"]).to_numpy()
    order = np.flatnonzero(keep)[found.frame["image"][keep].argsort()]
    return replace(found, frame=found.frame.iloc[order], probabilities=found.probabilities[order])


def networks(args):
    """Table 7 on the lungs alone; HRNet, which the others are compared with, is always there."""
    model, given = next(segmenters(args)), sources(args)["mixture"]
    data, _ = cut(given, found_lungs(given, [model]), "lungs")
    base, rows, pooled = training.AHMED_HRNET.at(args.profile), [], []
    for name in dict.fromkeys((base.network, *args.networks)):
        options = base.options if name == base.network else {}
        recipe, found = base.but(network=name, options=options), []
        for fold, learn, test in folds(data, recipe, args):
            found.append(training.predict(learn, test, name="lungs"))
            rows.append({"fold": fold} | row_of(learn, found[-1]))
        pooled.append(joined(found))
        rows.append({"fold": 0} | row_of(learn, pooled[-1]))
        pooled[-1] = replace(pooled[-1], name=name)
    write("ahmed_networks", rows, args)
    write("ahmed_networks_differences", list(differences(*pooled)), args)


# ---- all of them -------------------------------------------------------------------------------


def sources_of(frame):
    return " + ".join(sorted(set(frame["source"])))


def main():
    tasks = {"lungs": lungs, "covid": covid, "calibration": calibration, "networks": networks}
    options = parser(__doc__, tasks, folds=10)
    options.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=VARIANTS)
    options.add_argument("--networks", nargs="+", default=[*training.AHMED_NETWORKS])
    args = options.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
