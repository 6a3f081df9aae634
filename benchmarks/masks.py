"""What the loop of notebook 08 saves over drawing every lung mask by hand, over many seeds.

    python benchmarks/masks.py [--datasets phantom-covid-qu cxr-lungmask-mc-shenzhen] [--seeds 10]

A seed is other phantoms, another order, other weights and another hand; of a real set, which images
are asked about and which are held back. Both arms see the same X-rays in the same order and train
the same network in as many steps. Results go to `data/recorded/tahir_masks.csv` (`--out`).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from covidlab import annotation, datasets, paths, training

RECIPE = training.TAHIR_SEGMENTATION.fast().but(
    network="U-Net (Ahmed)", options={"width": 8}, loss="cross_entropy", size=64, lr=3e-3
)
STEPS = 100
BATCHES = [8, 16, 32]
HELD = 30


def drawn(dataset, seed):
    options = {"sites": {}, "strength": 0.0, "truth": True, "size": 96, "n_patients": 90}
    if not dataset.startswith("phantom"):
        options = {}
    data = datasets.load(dataset, seed=seed, **options).where("lung_mask != ''")
    order = np.random.default_rng(seed).permutation(len(data))
    place = np.empty(len(data), int)
    place[order] = np.arange(len(data))
    truth = data.where((place >= HELD) & (place < HELD + sum(BATCHES)))
    assert not set(truth.patients) & set(data.where(place < HELD).patients)
    return truth, data.where(place < HELD)


def one(dataset, seed):
    truth, held = drawn(dataset, seed)
    bare = datasets.Dataset(truth.frame.drop(columns="lung_mask"), truth.root, truth.card)
    person = annotation.SimulatedAnnotator("Ada", truth, accept_from=0.93, hand=0.5, seed=seed)
    curves = {}
    for arm in ("loop", "by hand"):
        with tempfile.TemporaryDirectory() as folder:
            log = annotation.DecisionLog(folder, bare, "Ada")
            options = {"proposing": arm == "loop", "seed": seed, "steps": STEPS}
            curves[arm] = annotation.collaborate(log, person, RECIPE, BATCHES, held, **options)
    pixels = np.mean([truth.mask(i, "lung_mask").sum() for i in range(len(truth))])
    ends = {f"dice, {arm}": curve["dice"].iloc[-1] for arm, curve in curves.items()}
    about = {"dataset": dataset, "seed": seed}
    about |= {"profile": "fast", "X-rays": len(truth), "n": len(held)}
    return about | annotation.saved(curves["loop"], curves["by hand"], pixels) | ends


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = ["phantom-covid-qu", "cxr-lungmask-mc-shenzhen"]
    parser.add_argument("--datasets", nargs="+", default=sets)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=paths.data() / "recorded")
    args = parser.parse_args()
    rows = []
    for dataset in args.datasets:
        for seed in range(args.seeds):
            rows.append(one(dataset, seed))
            print(rows[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(4).to_csv(args.out / "tahir_masks.csv", index=False)


if __name__ == "__main__":
    main()
