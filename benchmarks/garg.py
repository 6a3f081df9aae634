"""Garg et al.: the slice network on real slices, and how long the patient stage takes.

    python benchmarks/garg.py slices   [--dataset ct-covidct-ucsd] [--seeds 0] [--profile fast]
    python benchmarks/garg.py patients [--patients 100] [--slices 5] [--profile fast]

`slices` trains the first step's recipe on the dataset's own split where it has one, and prints every
metric of the test part with its interval. `patients` prints the seconds of four heads and ensemble,
out-of-fold scores included, on drawn features of the length that the profile's network gives.
"""

import argparse
import os
import tempfile
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pandas as pd
import torch

from covidlab import datasets, evaluation, training

CLASSES = ("Normal", "CAP", "COVID-19")


def slices(args):
    data = datasets.load(args.dataset)
    recipe = training.GARG_FIRST_SOURCE.at(args.profile)
    variants = {
        f"stages {options['stages']}": recipe.but(options=recipe.options | options)
        for options in ({"stages": (3, 4, 5)}, {"stages": (5,)})
    }
    for seed in args.seeds:
        published = datasets.has_official(data)
        split = datasets.official(data) if published else datasets.split(data, seed=seed)
        said = []
        for name, one in variants.items():
            learn = training.learner(training.dataloaders(split, one, seed=seed, progress=False))
            record = training.fit(learn, reuse=True, show_progress=False)
            said.append(training.predict(learn, split.test, name=name))
            print(f"seed {seed}, {name}: {record.seconds:.0f} s, epoch {record.best_epoch} kept")
            print(evaluation.report(said[-1], seed=seed).round(3).to_string(), "\n")
        change = evaluation.difference(*said, "roc_auc", seed=seed)
        print(f"seed {seed}: ROC-AUC of three stages minus that of the last alone: {change}\n")


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
    begun = time.perf_counter()
    model = training.fit_patients(train, valid, recipe, reuse=False, progress=False)
    fitted = time.perf_counter()
    model.predict(valid)
    print(
        f"{args.patients} patients of about {args.slices} slices, {length} features, profile "
        f"{args.profile}, {torch.get_num_threads()} thread(s): heads and ensemble "
        f"{fitted - begun:.1f} s, {len(valid)} patients judged in "
        f"{time.perf_counter() - fitted:.2f} s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("slices", "patients"))
    parser.add_argument("--dataset", default="ct-covidct-ucsd")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--profile", default="fast", choices=("smoke", "fast", "paper"))
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--slices", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch does")
    args = parser.parse_args()
    if args.what == "slices":
        slices(args)
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ["COVIDLAB_CACHE"] = cache
        patients(args)


if __name__ == "__main__":
    main()
