"""Tahir's thesis on real X-rays: lungs, infection and how much, three classes, SARS; and timings.

    python benchmarks/tahir.py lungs     [--networks …]   Montgomery and Shenzhen
    python benchmarks/tahir.py zoo       [--networks …]   all fifteen on the first fold of these
    python benchmarks/tahir.py infection [--networks …]   94 X-rays with drawn infection, and healthy
    python benchmarks/tahir.py studyII   [--networks …]   COVID-19, pneumonia, none; plain and lungs
    python benchmarks/tahir.py family    [--networks …]   COVID-19 or SARS, four image schemes
    python benchmarks/tahir.py timings   [--size 256]     Tables 11 and 12, and the whole system

Folds are by patient. `infection` trains on the X-rays with drawn infection and as many without
findings, whose masks are empty; it measures overlap, detection by one pixel, both side by side and on
lungs alone, and the percentage against the drawn one; and it follows the patients with three or more
X-rays. Lungs of X-rays that have none drawn are those of the first network of `lungs`. There are no
MERS images. In `studyII` COVID-19 is one collection, the others another; in `infection` so are those
with and without.

`--profile fast` trains as notebook 07 does on a laptop (lungs longer), `--profile paper` as published;
`--size` and `--epochs` change what is not the lungs. Finished
trainings are taken from their run records; every command writes what it measured to
`data/recorded/tahir_*.csv` (`--out` for another folder).
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from _common import asked, bounds, described, overlap, parser, scored, trained, write

from covidlab import cascade, datasets, evaluation, imaging, models, paths, severity, training
from covidlab.predictions import joined

LUNGS, SICK, WELL = "cxr-lungmask-mc-shenzhen", "cxr-ieee8023-gb", "cxr-ozturk"
METRICS = ["accuracy", "precision", "recall", "f_score", "specificity", "roc_auc"]
FOLLOWED = 3  # X-rays of a patient
BATCHES = (1, 2, 4, 8, 16, 32, 64)
# `fast` finds real lungs at a size and length that a laptop's notebook has no time for. Twice as many
# epochs with rotation, zoom and light gained nothing (fold 1: Dice 0.961 either way).
LONGER = {"size": 192, "epochs": 15}


def shaped(recipe, network, args):
    """The profile's own network with its options, or another as it is."""
    recipe = asked(recipe, args)
    return recipe if network == recipe.network else recipe.but(network=network, options={})


def folds(data, args):
    yield from datasets.kfold(data, args.folds, valid=0.2, seed=args.seed)


def few(data, args, n=12):
    """In the smoke profile the first images of each class, to see that everything runs."""
    first = data.frame.groupby("label").cumcount().to_numpy() < n
    return data.where(first) if args.profile == "smoke" else data


# ---- lungs -------------------------------------------------------------------------------------


def lung_models(network, args):
    """(learner, split) of each fold on the two collections."""
    recipe = training.TAHIR_SEGMENTATION.at(args.profile).but(network=network, options={})
    recipe = recipe.but(**LONGER) if args.profile == "fast" else recipe
    for split in folds(few(datasets.load(LUNGS), args), args):
        yield trained(split, recipe, args, args.seed), split


def lungs(args):
    rows = []
    for network in args.networks or ["U-Net (ResNet-18)"]:
        found, refined, seconds = [], [], 0.0
        for learn, split in lung_models(network, args):
            found.append(training.predict(learn, split.test))
            own = [mask == 1 for mask in found[-1].predicted]
            refined.append(cascade.within_lungs(found[-1], own))
            seconds += learn.record.seconds
        for name, parts in (("network", found), ("post-processed", refined)):
            whole = joined(parts)
            about = {"network": network, "mask": name} | described(learn, whole, seconds)
            rows.append(about | overlap(whole, "lung"))
    write("tahir_lungs", rows, args)


def zoo(args):
    """Every segmenter on the same images, small and short; and by how much it beats the first."""
    split = next(folds(few(datasets.load(LUNGS), args), args))
    recipe, rows, first = asked(training.TAHIR_SEGMENTATION, args), [], None
    for network in args.networks or training.TAHIR_SEGMENTERS:
        learn = trained(split, recipe.but(network=network, options={}), args, args.seed)
        found = training.predict(learn, split.test)
        first = found if first is None else first
        about = {"network": network} | described(learn, found) | overlap(found)
        rows.append(about | gap("more", found, first, "lung"))
    write("tahir_zoo", rows, args)


def found_lungs(data, args):
    """A post-processed lung mask for each image, of the first fold's network."""
    learn, _ = next(lung_models("U-Net (ResNet-18)", args))
    return [imaging.refine(m, imaging.TAHIR_LUNG) for m in cascade.segment(learn, data)]


# ---- infection ---------------------------------------------------------------------------------


def drawn_and_healthy(args):
    """X-rays with drawn infection, and as many without findings, whose masks are empty files."""
    sick = datasets.load(SICK)
    sick = sick.where(sick.frame["infection_mask"].ne("") & sick.frame["lung_mask"].ne(""))
    well = datasets.load(WELL)
    well = well.where(well.frame["label"].eq("No_findings"))
    well = well.where(well.frame.groupby("patient_id").cumcount().to_numpy() == 0)
    well = well.where(np.arange(len(well)) < len(sick))
    sick, well = labelled(sick, "infected"), labelled(well, "healthy")
    return few(datasets.combine(sick, with_empty_masks(well)), args)


def labelled(data, label):
    card = replace(data.card, classes=("infected", "healthy"), positive="infected")
    return datasets.Dataset(data.frame.assign(label=label), data.root, card)


def with_empty_masks(data):
    from PIL import Image

    folder = paths.cache() / "empty-masks" / data.card.id
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i, image in enumerate(data.frame["image"]):
        file = folder / f"{Path(image).stem}.png"
        if not file.is_file():
            height, width = data.image(i).shape
            Image.new("L", (width, height)).save(file)
        names.append(os.path.relpath(file, data.root))
    return datasets.Dataset(data.frame.assign(infection_mask=names), data.root, data.card)


def infection(args):
    data = drawn_and_healthy(args)
    masks = found_lungs(data, args)
    of = dict(zip(data.frame["image"], masks, strict=True))
    cut, aside = datasets.keep_lungs(data, masks, progress=False)
    print(f"{len(aside)} images without a lung", flush=True)
    rows, shares = [], []
    for network in args.networks or ["U-Net (ResNet-18)"]:
        recipe = shaped(training.TAHIR_SEGMENTATION, network, args)
        recipe = recipe.but(masks=("infection_mask",))
        parts, learners = {"parallel": [], "cascaded": []}, []
        last, seconds = {}, dict.fromkeys(parts, 0.0)
        for split in folds(data, args):
            alone = datasets.Split(
                *(cut.where(np.isin(cut.patients, p.patients)) for p in split), split.how
            )
            test = split.test.where(np.isin(split.test.patients, alone.test.patients))
            lung = [of[image] for image in test.frame["image"]]
            for name, given, unseen in (("parallel", split, test), ("cascaded", alone, alone.test)):
                learn = last[name] = trained(given, recipe, args, args.seed)
                seconds[name] += learn.record.seconds
                found = training.predict(learn, unseen, name=name)
                parts[name].append(cascade.within_lungs(replace(found, frame=test.frame), lung))
                if name == "parallel":
                    learners.append((learn, split))
        for name, some in parts.items():
            whole = joined(some)
            about = {"network": network, "input": name}
            about |= described(last[name], whole, seconds[name])
            said = scored(evaluation.detection(whole), ["accuracy", "recall", "specificity"])
            one_pixel = {f"detection {k}": v for k, v in said.items()}
            rows.append(about | overlap(whole, "infection") | one_pixel)
        both = [joined(parts[n]) for n in ("parallel", "cascaded")]
        about = {"network": network, "input": "parallel − cascaded", "n": len(both[0])}
        rows.append(about | gap("image_dice", *both, "infection"))
        shares += agreements(network, joined(parts["parallel"]), data, of)
    write("tahir_infection", rows, args)
    write("tahir_share", shares, args)
    write("tahir_course", courses(learners, args), args)


def gap(name, a, b, region):
    """Mean Dice of a minus that of b on the same images, and the ends of its interval."""
    found = evaluation.mask_difference(a, b, f"image_dice / {region}")
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def agreements(network, found, data, of):
    """The found percentage against the drawn, in the drawn lungs and in those that were found."""
    rows = {image: i for i, image in enumerate(data.frame["image"])}
    drawn, said = [], []
    sick = found.frame["label"].eq("infected").to_numpy()
    for image, mask in zip(found.frame["image"][sick], found.predicted[sick] == 1, strict=True):
        i = rows[image]
        drawn.append(severity.infected_share(data.mask(i), data.mask(i, "lung_mask")))
        lung = of[image]
        said.append(severity.infected_share(imaging.resize_mask(mask, lung.shape), lung))
    drawn, said = np.array(drawn), np.array(said)
    known = np.isfinite(drawn) & np.isfinite(said)
    table = severity.agreement(drawn[known], said[known], found.patients[sick][known])
    about = {"network": network, "dataset": SICK}
    return [about | {"measure": m, **row} for m, row in table.iterrows()]


def courses(learners, args):
    """Patients with several X-rays at known days, each seen by a network that never saw the patient."""
    data = datasets.load(SICK)
    known = pd.read_csv(data.root / "metadata.csv", dtype=str, keep_default_na=False)
    frame = data.frame.merge(known[["image", "offset", "view"]], on="image")
    frame = frame[frame["label"].str.startswith("COVID-19") & frame["offset"].ne("")]
    frame = frame[frame["view"].isin(["PA", "AP", "AP Supine"])]
    frame = frame.drop_duplicates(["patient_id", "offset"])
    often = frame.groupby("patient_id")["image"].transform("size") >= FOLLOWED
    data = datasets.Dataset(frame[often].reset_index(drop=True), data.root, data.card)
    if args.profile == "smoke":
        data = data.where(np.arange(len(data)) < 2 * FOLLOWED)
    lung, _ = next(lung_models("U-Net (ResNet-18)", args))
    rows = []
    for i in range(len(data)):
        who = data.patients[i]
        unseen = (m for m, s in learners if who in set(s.test.patients))
        learn = next(unseen, learners[0][0])  # of no fold's patients: any
        (found,) = cascade.LocaliseAndQuantify(lung, learn)([data.image(i)])
        about = {"patient": who, "day": float(data.frame["offset"].iloc[i])}
        about |= {"dataset": SICK, "n": 1}
        rows.append(about | {"image": data.frame["image"].iloc[i]} | found.share)
    return sorted(rows, key=lambda row: (row["patient"], row["day"]))


# ---- classes -----------------------------------------------------------------------------------


def study_two(args):
    data = few(datasets.load(WELL), args)
    cut, _ = datasets.keep_lungs(data, found_lungs(data, args), progress=False)
    rows = []
    for network in args.networks or ["ResNet-18"]:
        recipe = shaped(training.TAHIR_CLASSIFICATION, network, args)
        rows += compared(data, cut, recipe, {"Original": "none"}, args)
    write("tahir_studyII", rows, args)


def family(args):
    """16 SARS images: what can be said of them stands in the intervals."""
    data = datasets.load(SICK)
    data = data.relabel({c: c if c in ("COVID-19", "SARS") else None for c in data.classes}, "SARS")
    data = few(data, args)
    cut, _ = datasets.keep_lungs(data, found_lungs(data, args), progress=False)
    rows = []
    for network in args.networks or ["ResNet-18"]:
        recipe = shaped(training.TAHIR_FAMILY, network, args)
        rows += compared(data, cut, recipe, imaging.SCHEMES, args)
    write("tahir_family", rows, args)


def compared(data, cut, recipe, schemes, args):
    """Whole X-rays and lungs alone, in each image scheme: over all folds, and each class."""
    rows = []
    for name, given in (("plain", data), ("lungs alone", cut)):
        for scheme, enhance in schemes.items():
            channels = 3 if enhance == "3-channel" else recipe.channels
            chosen, parts, seconds = recipe.but(enhance=enhance, channels=channels), [], 0.0
            for split in folds(given, args):
                learn = trained(split, chosen, args, args.seed)
                parts.append(training.predict(learn, split.test, name=name))
                seconds += learn.record.seconds
            whole = joined(parts)
            about = {"network": recipe.network, "input": name, "scheme": scheme}
            about |= described(learn, whole, seconds)
            table = evaluation.compare([replace(whole, positive=None)], METRICS, weighted=True)
            rows.append(about | {"class": "Overall"} | bounds(table.iloc[0], METRICS))
            each = evaluation.per_class(whole)[METRICS]
            rows += [about | {"class": c} | row.to_dict() for c, row in each.iterrows()]
    return rows


# ---- how long ----------------------------------------------------------------------------------


def timings(args):
    """Milliseconds an image takes, alone and in the batch that suits the machine, after warming up."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    what = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    size, rows, printed = args.size or 256, [], published_ms()
    segmenters = args.networks or training.TAHIR_SEGMENTERS
    classifiers = args.networks or training.TAHIR_NETWORKS
    kinds = [(n, models.create_segmenter, 1, 2) for n in segmenters if n in models.SEGMENTERS]
    kinds += [(n, models.create, 3, 3) for n in classifiers if n in models.NETWORKS]
    for name, create, channels, classes in kinds:
        net = create(name, channels, classes).eval().to(device, memory_format=torch.channels_last)
        took = {}
        for batch in BATCHES:
            x = torch.rand(batch, channels, size, size, device=device)
            x = x.to(memory_format=torch.channels_last)
            rounds = max(3, args.rounds // batch)
            took[batch] = clocked(lambda net=net, x=x: net(x), device, rounds) / batch
            if took[batch] > 1.03 * min(took.values()):
                break  # larger ones are slower still
        about = {"network": name, "device": what, "size": size}
        about |= {"million": models.count_parameters(net) / 1e6, "ms": took[1]}
        fastest = min(took, key=took.get)
        about |= {"best batch": fastest, "ms in best batch": took[fastest]}
        rows.append(about | {"ms printed": printed.get(name, np.nan)})
        print(rows[-1], flush=True)
    write("tahir_timings", rows + whole_system(what, args), args)


def published_ms():
    """Milliseconds of Tables 11 and 12 (GeForce GTX 1080), by our names."""
    both = pd.concat([evaluation.published("tahir", table) for table in (11, 12)])
    of = both["Encoder"].fillna(both["Model"]).str.replace(r"(Net|Inception)", r"\1-", regex=True)
    decoder = both["Model"].str.replace(" ", "")
    names = np.where(both["Encoder"].isna(), of, decoder + " (" + of + ")")
    return dict(zip(names, both["Inference Time (ms)"], strict=True))


def whole_system(what, args):
    """Three untrained networks together, and one after the other by hand, in turns."""
    data = datasets.load("phantom-covid-qu", n_patients=16, seed=0, size=160, truth=True)
    split = datasets.split(data, test=0.2, valid=0.3, seed=0)
    lung = shaped(training.TAHIR_SEGMENTATION, "U-Net (ResNet-18)", args)
    recipes = [lung, lung.but(masks=("infection_mask",))]
    recipes.append(shaped(training.TAHIR_CLASSIFICATION, "ResNet-18", args))
    recipes = [r.but(pretrained=False) for r in recipes]
    learners = [training.learner(training.dataloaders(split, r, progress=False)) for r in recipes]
    images = [data.image(i) for i in range(len(data))]
    system = cascade.LocaliseAndQuantify(*learners)

    def by_hand():
        for image in images:
            masks = [cascade.segment(learn, [image])[0] for learn in learners[:2]]
            lung = imaging.refine(masks[0], imaging.TAHIR_LUNG)
            sick = imaging.within(masks[1], lung)
            cascade._probabilities(learners[2], [np.where(lung, image, 0)])
            severity.share_by_lung(sick, *severity.split_lungs(lung))

    sides = {"whole system": lambda: system(images), "three networks by hand": by_hand}
    took = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            took[name].append(1000 * (time.perf_counter() - start) / len(images))
    about = {"device": what, "size": recipes[0].size}
    return [{"network": name} | about | {"ms": float(np.median(t[1:]))} for name, t in took.items()]


def clocked(run, device, rounds):
    import torch

    took = []
    with torch.inference_mode():
        for _ in range(rounds + 2):
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            took.append(1000 * (time.perf_counter() - start))
    return float(np.median(took[2:]))


# ---- all of them -------------------------------------------------------------------------------


def main():
    tasks = {"lungs": lungs, "zoo": zoo, "infection": infection, "studyII": study_two}
    tasks |= {"family": family, "timings": timings}
    options = parser(__doc__, tasks)
    options.add_argument("--networks", nargs="+", help="by their names in covidlab.models")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--size", type=int, help="of the images, but for the lungs")
    options.add_argument("--epochs", type=int)
    options.add_argument("--rounds", type=int, default=9, help="of timings")
    args = options.parse_args()
    tasks[args.task](args)


if __name__ == "__main__":
    main()
