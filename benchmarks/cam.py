"""Score-CAM against the package grad-cam at its defaults, in one run: how fast, and how faithful.

Both sides explain the same images of the same trained ResNet-18, in turns, on one thread and in
processor time; printed are medians over rounds and the range of their ratios. *exact* is every
channel (those that are dead are asked about once, all together); *bfloat16* the same under
autocast, for processors that have it; the others ask only about the channels with the largest sum
of squares. Beside the time stand the rank correlation with the package's map, and what an
approximation loses: areas under insertion (more is better) and deletion (less is better), means
over the images. With `--weighting difference` that is equation (6) of Tahir's thesis, which the
package does not compute: its time is that of its own softmax.

    python benchmarks/cam.py [--size 224] [--images 4] [--rounds 3] [--weighting softmax]
"""

import argparse
import os
import time
from contextlib import nullcontext, redirect_stderr
from io import StringIO

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from pytorch_grad_cam import ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from covidlab import datasets, explain, training

FEWER = (128, 64, 32)


def trained(args):
    """A ResNet-18 that can tell X-rays of COVID-19 from others, and images it has not seen."""
    data = datasets.load("phantom-covid-qu", n_patients=60, size=160, seed=0, progress=False)
    split = datasets.split(data, seed=0)
    recipe = training.TAHIR_CLASSIFICATION.fast().but(
        size=args.size, epochs=args.epochs, options={}
    )
    learn = training.learner(training.dataloaders(split, recipe, seed=0, progress=False))
    print(training.fit(learn, reuse=True, show_progress=False))
    return learn, split.test.where(np.arange(len(split.test)) < args.images)


def package(learn, x, targets):
    """(N, S, S) by grad-cam with nothing set."""
    maps = []
    # the package shows a bar for every image
    with redirect_stderr(StringIO()), ScoreCAM(learn.model, [learn.model.layer4]) as cam:
        for one, target in zip(x, targets, strict=True):
            maps.append(cam(one[None], [ClassifierOutputTarget(target)])[0])
    return np.stack(maps)


def sides(learn, x, targets, args):
    def ours(channels=None, fast=False):
        autocast = torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()
        with autocast:
            return explain.saliency(
                learn.model,
                x,
                "scorecam",
                "layer4",
                targets,
                weighting=args.weighting,
                channels=channels,
                batch_size=args.batch,
            )

    yield "grad-cam, defaults", lambda: package(learn, x, targets)
    yield "exact", ours
    yield "exact, bfloat16", lambda: ours(fast=True)
    for n in FEWER:
        yield f"{n} channels", lambda n=n: ours(n)
        yield f"{n} channels, bfloat16", lambda n=n: ours(n, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of the training before")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--weighting", default="softmax", choices=("softmax", "difference"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    learn, images = trained(args)
    learn.model.eval()
    items = training.loader_for(learn.dls, images)
    x = next(iter(items))[0].as_subclass(torch.Tensor)
    with torch.inference_mode():
        targets = learn.model(x).argmax(1).tolist()
    runs, took, maps = dict(sides(learn, x, targets, args)), {}, {}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.process_time()
            maps[name] = run()
            took.setdefault(name, []).append(time.process_time() - start)
    theirs = np.array(took["grad-cam, defaults"])
    print(f"ResNet-18, layer4, {args.size} px, {len(x)} images, weighting {args.weighting}")
    print(f"{'':22}  s/image  times faster (range)     rank corr.  insertion  deletion")
    for name, seconds in took.items():
        ratio = theirs / seconds
        alike = explain.similarity(maps[name], maps["grad-cam, defaults"])["spearman"]
        faithful = explain.insertion_deletion(learn.model, x, maps[name], targets, steps=25)
        print(
            f"{name:22}  {np.median(seconds) / len(x):7.2f}  {np.median(ratio):6.1f} "
            f"({ratio.min():.1f}–{ratio.max():.1f})".ljust(52)
            + f"{alike:10.3f}  {faithful.insertion_area.mean():9.3f}  "
            f"{faithful.deletion_area.mean():8.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
