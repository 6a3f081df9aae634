"""How long things take, in one run each, as Markdown: docs/performance.md is made of these tables.

    python benchmarks/speed.py glue      training through the glue, over the network alone
    python benchmarks/speed.py gpu       bfloat16, channels-last and compiled, over fp32 as it is
    python benchmarks/speed.py augment   each paper's augmentation, where the network is and here
    python benchmarks/speed.py precision what bfloat16 does to the result, beside what a seed does
    python benchmarks/speed.py study     runs of a study on one and on two workers
    python benchmarks/speed.py start     `import covidlab`

`glue` takes turns: the ceiling (one batch, already in memory, again and again), our loaders and
fastai's Learner, stock fastai that reads PNG files, and a loop over MONAI's CacheDataset where MONAI
is installed (`pip install "covidlab[bench]"`). Without `--wall` it is processor time of one thread,
and every loader works in this process. `--only` picks networks, `--side` overrides their size.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pandas as pd
import torch
from PIL import Image

import covidlab
from covidlab import datasets, evaluation, imaging, training

NETWORKS = {  # at the papers' sizes
    "CoV-CTNet": training.KHAN_SCREENING,
    "ResNet-18": training.KHAN_SCREENING.but(network="ResNet-18"),
    "HRNet": training.AHMED_HRNET.but(augment=None),
    "FPN (DenseNet-121)": training.TAHIR_SEGMENTATION.but(
        pretrained=False, masks=("infection_mask",)
    ),
}
AUGMENTED = {  # what the papers do to their training images at random
    "Garg": training.GARG_FIRST_SOURCE.but(pretrained=False),
    "Alom": training.ALOM_XRAY,
    "Tahir, Study I": training.TAHIR_FAMILY.but(pretrained=False),
    "Ahmed": training.AHMED_HRNET,
    "Ahmed, lungs": training.AHMED_LUNGS,
}
GPU = torch.cuda.is_available()


@dataclass
class Side:
    """One of those that take turns: an epoch of it, and the images in that."""

    name: str
    epoch: callable
    images: int


def drawn(recipe, folder, batches):
    """A training part of whole batches as PNG files of the recipe's size, masks beside them."""
    wanted = batches * recipe.batch_size
    options = {"slices_per_patient": 6, "truth": True, "progress": False}
    data = datasets.load("phantom-ct", n_patients=wanted // 6 + 2, seed=0, **options)
    region, folder, rows = recipe.masks[0] if recipe.masks else None, Path(folder), []
    for i in range(wanted + 2):
        pictures = {"image": imaging.resize(data.image(i), recipe.size)}
        if region:
            pictures[region] = imaging.resize_mask(data.mask(i, region), recipe.size)
        # every image is its own patient: what matters is the time
        row = {"label": data.frame["label"].iat[i], "patient_id": f"p{i}"}
        for kind, picture in pictures.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            grey = np.round(255 * picture.astype(np.float32)).astype(np.uint8)
            Image.fromarray(grey).save(folder / kind / f"{i}.png")
            row[kind] = f"{kind}/{i}.png"
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    data = datasets.load(str(folder))
    row = np.arange(len(data))
    parts = (row < wanted, row == wanted, row > wanted)
    return datasets.Split(*(data.where(part) for part in parts), "whole batches, and one, and one")


def cases(args, recipes=NETWORKS):
    """(name, recipe, images drawn for it) of each that is asked for."""
    if unknown := set(args.only or []) - set(recipes):
        sys.exit(f"--only {sorted(unknown)}: {args.task} knows {', '.join(recipes)}")
    for name in args.only or recipes:
        recipe = recipes[name].but(epochs=1)
        recipe = recipe.but(size=args.side) if args.side else recipe
        with tempfile.TemporaryDirectory() as folder, quiet():
            os.environ |= {"COVIDLAB_RUNS": folder, "COVIDLAB_CACHE": folder}
            yield name, recipe, drawn(recipe, folder, args.batches)


def glue(args):
    clock = time.perf_counter if args.wall or GPU else time.process_time
    threads = torch.get_num_threads() if args.wall else 1
    torch.set_num_threads(threads)
    print("| network | px | batch | ms an image, ceiling | ours | stock fastai | MONAI |")
    print("|---|---|---|---|---|---|---|")
    for name, recipe, split in cases(args):
        times = turns(sides_of(recipe, split, args.precision), args.rounds, clock)
        ceiling = times[:, 0]
        cells = [f"{1000 * np.median(ceiling):.1f}"]
        for i in range(1, times.shape[1]):
            share = ceiling / times[:, i]
            cells.append(f"{np.median(share):.2f} ({share.min():.2f}–{share.max():.2f})")
        cells += ["–"] * (4 - len(cells))
        print(f"| {name} | {recipe.size} | {recipe.batch_size} | {' | '.join(cells)} |", flush=True)
    kind = "wall clock" if clock is time.perf_counter else "processor time"
    print(f"\n{kind}, {threads} thread(s), {args.precision}, {args.rounds} rounds; {machine()}")


def turns(sides, rounds, clock):
    """(rounds, sides) seconds an image; a first round warms up."""
    seconds = np.empty((rounds + 1, len(sides)))
    for row in seconds:
        for i, side in enumerate(sides):
            synchronise()
            begun = clock()
            side.epoch()
            synchronise()
            row[i] = (clock() - begun) / side.images
    return seconds[1:]


def sides_of(recipe, split, precision):
    learn = training.learner(
        training.dataloaders(split, recipe, progress=False), metrics=[], precision=precision
    )
    n = len(split.train)
    sides = [
        Side("ceiling", partial(again, fresh(recipe, split, precision), n), n),
        Side("ours", partial(fitted, without_validation(learn)), n),
        Side("stock fastai", partial(fitted, stock(recipe, split, precision)), n),
    ]
    try:
        sides.append(Side("MONAI", monai_epoch(recipe, split, precision), n))
    except ImportError:
        pass
    return sides


def fresh(recipe, split, precision):
    dls = training.dataloaders(split, recipe, progress=False)
    return training.learner(dls, metrics=[], precision=precision)


def without_validation(learn):
    """The epoch alone: what follows it is validation by one image."""
    learn.dls.loaders[1] = learn.dls.valid.new(learn.dls.train.dataset.iloc[[0]])
    return learn


def fitted(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)


def again(learn, images):
    """The same batch, until so many images went through network, loss and optimiser."""
    step = stepper(learn)
    if not hasattr(learn, "batch"):
        learn.batch = [b.as_subclass(torch.Tensor) for b in learn.dls.one_batch()]
    for _ in range(images // len(learn.batch[0])):
        step(*learn.batch)


def stepper(learn):
    if not hasattr(learn, "torch_optimiser"):
        kind = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.Adam}
        learn.torch_optimiser = kind[learn.recipe.optimiser](learn.model.parameters(), 1e-4)
    optimiser, device = learn.torch_optimiser, learn.dls.device.type
    learn.model.train()

    def step(x, y):
        mixed = (
            torch.autocast(device, torch.bfloat16) if learn.precision != "fp32" else nullcontext()
        )
        with mixed:
            loss = learn.loss_func(learn.model(x), y)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def stock(recipe, split, precision):
    """fastai as its documentation has it: files, items, collation, a worker a core where wall counts."""
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        MaskBlock,
        PILImageBW,
        Resize,
    )

    root = Path(split.train.root)
    table = pd.concat([split.train.frame, split.valid.frame], ignore_index=True)
    target = MaskBlock(["background", "region"]) if recipe.masks else CategoryBlock()
    column = recipe.masks[0] if recipe.masks else "label"
    block = DataBlock(
        blocks=(ImageBlock(PILImageBW), target),
        get_x=ColReader("image", pref=f"{root}/"),
        get_y=ColReader(column, pref=f"{root}/" if recipe.masks else ""),
        splitter=IndexSplitter([len(table) - 1]),
        item_tfms=Resize(recipe.size),
    )
    workers = os.cpu_count() if GPU else 0
    dls = block.dataloaders(table, bs=recipe.batch_size, num_workers=workers)
    learn = fresh(recipe, split, precision)
    learn.dls, dls.vocab = dls, learn.dls.vocab
    if recipe.masks:  # the files say 255 where the class is 1
        learn.add_cb(as_classes())
    return learn


def as_classes():
    from fastai.callback.core import Callback

    class AsClasses(Callback):
        def before_batch(self):
            self.learn.yb = (self.y.clamp(max=1),)

    return AsClasses()


def monai_epoch(recipe, split, precision):
    with warnings.catch_warnings():  # of MONAI's own imports
        warnings.simplefilter("ignore")
        from monai.data import CacheDataset, DataLoader
        from monai.transforms import (
            Compose,
            EnsureChannelFirstd,
            LoadImaged,
            Resized,
            ScaleIntensityd,
        )

    learn, train = fresh(recipe, split, precision), split.train
    region = recipe.masks[0] if recipe.masks else None
    keys = ["image", *([region] if region else [])]
    files = [
        {k: str(Path(train.root) / row[k]) for k in keys} | {"class": int(target)}
        for (_, row), target in zip(train.frame.iterrows(), train.targets, strict=True)
    ]
    steps = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Resized(keys, (recipe.size, recipe.size), mode=["area", "nearest"][: len(keys)]),
        ScaleIntensityd(keys),
    ]
    loader = DataLoader(
        CacheDataset(files, Compose(steps), progress=False),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=0,
    )

    def epoch():
        step, device = stepper(learn), learn.dls.device
        for batch in loader:
            y = batch[region][:, 0].long() if region else batch["class"]
            x = batch["image"].as_tensor().to(device).repeat(1, recipe.channels, 1, 1)
            step(x.to(memory_format=torch.channels_last), torch.as_tensor(y).to(device))

    return epoch


def gpu(args):
    """Each network three ways: the same batch, trained on."""
    if not GPU:
        print("speed.py gpu: no CUDA device here, nothing measured")
        return
    print("| network | px | batch | fp32, ms an image | bf16, channels-last | compiled too | GiB |")
    print("|---|---|---|---|---|---|---|")
    for name, recipe, split in cases(args):
        plain, mixed, compiled = (fresh(recipe, split, p) for p in ("fp32", "auto", "auto"))
        plain.model.to(memory_format=torch.contiguous_format)
        compiled.model = torch.compile(compiled.model)
        n = len(split.train)
        sides = [Side("", partial(again, each, n), n) for each in (plain, mixed, compiled)]
        times = turns(sides, args.rounds, time.perf_counter)
        memory = [peak(side) for side in sides]
        cells = [f"{1000 * np.median(times[:, 0]):.2f}"]
        cells += [f"{np.median(times[:, 0] / times[:, i]):.2f} ×" for i in (1, 2)]
        used = ", ".join(f"{m:.1f}" for m in memory)
        print(f"| {name} | {recipe.size} | {recipe.batch_size} | {' | '.join(cells)} | {used} |")
    print(f"\n{args.rounds} rounds; {machine()}")


def peak(side):
    torch.cuda.reset_peak_memory_stats()
    side.epoch()
    return torch.cuda.max_memory_allocated() / 2**30


def augment(args):
    """A batch in memory, augmented again and again, beside a step of the paper's network with it."""
    from fastai.basics import Pipeline

    places = ["cpu", *(["cuda"] if GPU else [])]
    where = " | ".join(f"augmenting on {place}, of a step" for place in places)
    print(f"| paper | network | px | batch | ms an image, a step | {where} |")
    print("|---|---|---|---|---|" + "---|" * len(places))
    # Garg's step of 64 images is nothing for a processor
    quick = {k: r for k, r in AUGMENTED.items() if GPU or r.batch_size <= 32}
    for name, recipe, split in cases(args, quick):
        learn = fresh(recipe, split, args.precision)
        n = recipe.batch_size
        sides, loader = [Side("step", partial(again, learn, n), n)], learn.dls.train
        for place in places:
            batch = [part.to(place) for part in loader.dataset.batch(range(n))]
            chain = Pipeline(training.augmentations(**recipe.augment), split_idx=0)
            sides.append(Side(place, partial(chain, tuple(batch)), n))
        times = turns(sides, args.rounds, time.perf_counter)
        shares = [times[:, i] / times[:, 0] for i in range(1, len(sides))]
        cells = [f"{np.median(s):.3f} ({s.min():.3f}–{s.max():.3f})" for s in shares]
        about = f"{recipe.network} | {recipe.size} | {n} | {1000 * np.median(times[:, 0]):.1f}"
        print(f"| {name} | {about} | {' | '.join(cells)} |", flush=True)
    print(f"\n{args.precision}, {args.rounds} rounds; {machine()}")


def precision(args):
    """The same trainings in fp32 and with bfloat16: test ROC-AUC of each seed, and the paired gap."""
    found = {"fp32": [], "bf16": []}
    with tempfile.TemporaryDirectory() as folder, quiet():
        os.environ |= {"COVIDLAB_RUNS": folder}
        data = datasets.load("phantom-ct", n_patients=120, seed=0, difficulty=0.0, progress=False)
        split = datasets.split(data, test=0.4, seed=0)
        for seed in range(args.rounds):
            for kind, values in found.items():
                recipe = training.KHAN_SCREENING.fast()
                dls = training.dataloaders(split, recipe, seed, progress=False)
                learn = training.learner(dls, precision=kind)
                training.fit(learn, show_progress=False)
                values.append(auc(training.predict(learn, split.test)))
    each = {kind: np.array(values) for kind, values in found.items()}
    print("| precision | test ROC-AUC, mean of seeds (least–greatest) |\n|---|---|")
    for kind, values in each.items():
        print(f"| {kind} | {values.mean():.3f} ({values.min():.3f}–{values.max():.3f}) |")
    gaps = each["bf16"] - each["fp32"]
    spread = f"{gaps.min():+.3f} to {gaps.max():+.3f}, standard deviation {gaps.std(ddof=1):.3f}"
    seeds = each["fp32"].std(ddof=1)
    print(f"\nbf16 − fp32 {gaps.mean():+.3f} ({spread}); between seeds of fp32 {seeds:.3f}")
    print(f"{len(split.test)} images to test, {args.rounds} seeds; {machine()}")


def auc(found):
    return evaluation.classification_metrics(found)["roc_auc"]


def study(args):
    """The same study twice, each time from nothing, on one process and on two."""
    from loky import get_reusable_executor

    from covidlab import ablation, datasets

    few = {"n_patients": 60}
    datasets.load("phantom-ct", profile="fast", **few)  # drawing is not what is measured
    found = []
    for round_ in range(args.rounds):
        for workers in (1, 2) if round_ % 2 == 0 else (2, 1):
            get_reusable_executor().shutdown()  # neither finds processes that the other started
            with tempfile.TemporaryDirectory() as folder, quiet():
                os.environ |= {"COVIDLAB_RUNS": folder}
                small = training.KHAN_SCREENING.fast().but(epochs=6)
                plan = ablation.Study(
                    "speed",
                    small,
                    {"enhance": ["none", "idwt"]},
                    dataset="phantom-ct",
                    data=few,
                    seeds=range(2),
                )
                begun = time.perf_counter()
                plan.run(workers=workers, progress=False)
                found.append((round_, workers, len(plan.plan), time.perf_counter() - begun))
    seconds = {w: [s for _, k, _, s in found if k == w] for w in (1, 2)}
    gains = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(
        f"{found[0][2]} runs: {statistics.median(seconds[1]):.0f} s on one worker, "
        f"{statistics.median(seconds[2]):.0f} s on two: {statistics.median(gains):.2f} × "
        f"({min(gains):.2f}–{max(gains):.2f}, {args.rounds} rounds); {machine()}"
    )


def start(args):
    """A fresh interpreter with and without the import, and whether torch came along."""
    code = "import sys, covidlab; sys.exit('torch' in sys.modules)"
    seconds = {}
    for what, line in (("python", "pass"), ("import", code)):
        runs = []
        for _ in range(args.rounds + 1):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", line], check=True)
            runs.append(time.perf_counter() - begun)
        seconds[what] = statistics.median(runs[1:])
    took = seconds["import"] - seconds["python"]
    print(f"import covidlab: {took:.3f} s more than Python alone, torch untouched; {machine()}")


def machine():
    name = torch.cuda.get_device_name() if GPU else processor()
    return f"{name}, {os.cpu_count()} cores, PyTorch {torch.__version__}, covidlab {covidlab.__version__}"


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def synchronise():
    if GPU:
        torch.cuda.synchronize()


@contextmanager
def quiet():
    """Warnings about few patients and the like are not what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = {f.__name__: f for f in (glue, gpu, augment, precision, study, start)}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--only", nargs="+", help="of the networks, or of the papers")
    parser.add_argument("--side", type=int, help="pixels, instead of each paper's size")
    parser.add_argument("--rounds", type=int, default=5, help="or seeds")
    # on a GPU six batches are over before an epoch's own bookkeeping is
    parser.add_argument("--batches", type=int, default=60 if GPU else 6, help="of an epoch")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--wall", action="store_true", help="wall clock, all threads")
    args = parser.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
