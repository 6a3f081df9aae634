"""What the glue costs: training through fastai and `ArrayDL` over a bare PyTorch loop.

Both sides have the same network, recipe, batches' size and images in memory, and take turns in one
run; printed is the median of the paired ratios. The promise is at most 1.10.

    python benchmarks/training_overhead.py [--network CoV-CTNet] [--size 82] [--rounds 7] [--wall]
"""

import argparse
import os
import tempfile
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torch.nn import functional as F

from covidlab import datasets, models, training


def bare_epoch(model, optimiser, images, classes, batch_size, seed):
    model.train()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    for at in order[: len(order) // batch_size * batch_size].split(batch_size):
        loss = F.cross_entropy(model(images[at]), classes[at])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="CoV-CTNet", choices=models.NETWORKS)
    parser.add_argument("--size", type=int, default=82)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wall", action="store_true", help="wall clock rather than processor time")
    args = parser.parse_args()
    clock = time.perf_counter if args.wall else time.process_time
    if not args.wall:
        torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as runs:
        os.environ["COVIDLAB_RUNS"] = runs
        data = datasets.load("phantom-ct", n_patients=24, seed=0)
        split = datasets.split(data, seed=0)
        recipe = training.KHAN_SCREENING.but(network=args.network, size=args.size, epochs=1)
        dls = training.dataloaders(split, recipe, progress=False)
        learn = training.learner(dls, metrics=[])
        items = dls.train.dataset
        images, classes = items.batch(range(len(items)))
        images, classes = ((x.as_subclass(torch.Tensor)) for x in (images, classes))
        images = (images - images.mean()) / images.std()
        model = models.create(args.network).to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(
            model.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        # fastai validates after each epoch, which the bare loop does not: take it out of the glue
        learn.dls.loaders[1] = learn.dls.valid.new(items.iloc[range(1)])
        ours, theirs = [], []
        with learn.no_bar(), learn.no_logging():
            for seed in range(args.rounds + 1):
                begun = clock()
                bare_epoch(model, optimiser, images, classes, recipe.batch_size, seed)
                middle = clock()
                learn.fit(1)
                theirs.append(middle - begun)
                ours.append(clock() - middle)
    ratios = np.array(ours[1:]) / np.array(theirs[1:])  # the first round warms up
    kind = "wall" if args.wall else "processor"
    print(
        f"{args.network}, {len(items)} images of {args.size} px, batch {recipe.batch_size}, {kind} time: "
        f"glue {np.median(ours[1:]):.2f} s, bare {np.median(theirs[1:]):.2f} s an epoch, "
        f"ratio {np.median(ratios):.3f} (from {ratios.min():.3f} to {ratios.max():.3f}, "
        f"{args.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
