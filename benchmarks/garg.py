"""Garg et al.: the slice network on real slices, and how long the patient stage takes.

    python benchmarks/garg.py slices   [--dataset ct-covidct-ucsd] [--seeds 0] [--profile fast]
    python benchmarks/garg.py patients [--patients 100] [--slices 5] [--profile fast]

`slices` trains the first step's recipe on the dataset's own split where it has one, with three scales
and with the last alone, and writes what it measured to `data/recorded/garg_slices.csv`, which
notebook 04 shows; finished trainings are taken from their run records. `patients` prints the seconds
of four heads and ensemble, out-of-fold scores included, on drawn features of the length that the
profile's network gives.
"""

import os
import tempfile
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pandas as pd
import torch
from _common import bounds, parser, trained, write

from covidlab import datasets, evaluation, training

METRICS = ["accuracy", "recall", "specificity", "roc_auc"]
CLASSES = ("Normal", "CAP", "COVID-19")


def slices(args):
    data = datasets.load(args.dataset)
    recipe = training.GARG_FIRST_SOURCE.at(args.profile)
    scales = {"stages 3, 4, 5": (3, 4, 5), "stage 5 alone": (5,)}
    rows = []
    for seed in args.seeds:
        published = datasets.has_official(data)
        split = datasets.official(data) if published else datasets.split(data, seed=seed)
        said = []
        for name, stages in scales.items():
            one = recipe.but(options=recipe.options | {"stages": stages})
            learn = trained(split, one, args, seed)
            said.append(training.predict(learn, split.test, name=name))
            each = evaluation.compare(said[-1:], METRICS, seed=seed).iloc[0]
            rows.append(described(learn.record, said[-1], data) | bounds(each, METRICS))
        change = evaluation.difference(*said, "roc_auc", seed=seed)
        numbers = {"roc_auc": change.value, "roc_auc low": change.low, "roc_auc high": change.high}
        none = dict.fromkeys(bounds(each, METRICS))
        rows.append(rows[-1] | none | {"network": "difference"} | numbers)
    write("garg_slices", rows, args)


def described(record, found, data):
    about = {"dataset": data.card.id, "network": found.name, "seed": record.seed}
    about |= {"epochs": record.recipe["epochs"], "best epoch": record.best_epoch}
    return about | {"n": len(found), "patients": found.frame["patient_id"].nunique()}


def drawn(n, slices_each, length, seed, first=0):
    """Bags of `n` patients whose features mean nothing: only their sizes matter here."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(max(1, slices_each // 2), 3 * slices_each // 2 + 1, n)
    ids, labels = [f"{first + i}" for i in range(n)], np.resize(CLASSES, n)
    frame = pd.DataFrame({"patient_id": ids, "label": labels, "slices": counts})
    features = [rng.random((t, length), np.float32) for t in counts]
    chances = [rng.dirichlet(np.ones(3), t).astype(np.float32) for t in counts]
    return training.Bags(frame, features, chances, CLASSES)


def patients(args):
    if args.threads:
        torch.set_num_threads(args.threads)
    options = training.GARG_FIRST_SOURCE.at(args.profile).options
    length = options.get("hidden", 1024)
    train = drawn(args.patients, args.slices, length, 0)
    valid = drawn(max(6, args.patients // 3), args.slices, length, 1, first=args.patients)
    recipe = training.GARG_PATIENTS.at(args.profile)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["COVIDLAB_CACHE"] = cache
        begun = time.perf_counter()
        model = training.fit_patients(train, valid, recipe, reuse=False, progress=False)
        fitted = time.perf_counter()
        model.predict(valid)
        judged = time.perf_counter()
    print(
        f"{args.patients} patients of about {args.slices} slices, {length} features, profile "
        f"{args.profile}, {torch.get_num_threads()} thread(s): heads and ensemble "
        f"{fitted - begun:.1f} s, {len(valid)} patients judged in "
        f"{judged - fitted:.2f} s"
    )


def main():
    tasks = {"slices": slices, "patients": patients}
    options = parser(__doc__, tasks)
    options.add_argument("--dataset", default="ct-covidct-ucsd")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--patients", type=int, default=100)
    options.add_argument("--slices", type=int, default=5)
    options.add_argument("--threads", type=int, default=0, help="0: as torch does")
    args = options.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
