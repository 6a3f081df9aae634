"""How real the phantoms are: their pictures in numbers, whether they can be learned, what transfers.

    python benchmarks/realism.py [statistics|learn|difficulty|transfer …] [--modality CT CXR]
                                 [--seed N …] [--out DIR] [--precision fp32|bf16] [--scale F]

statistics: lung densities, lung areas and spectra beside real sets, and real sets beside each other.
learn:      Dice on other phantom patients of a small U-Net trained on the phantom.
difficulty: ROC-AUC on other phantom patients of ResNet-18, by difficulty.
transfer:   phantom → real and back, beside trained and tested on the same real set.

Without a step all of them run. With `--precision bf16`, for processors that have it, a training
for segmentation took 1 to 2 minutes on one core and one for classification 2 to 4; CT needs 9 and
7 for each seed, X-ray 7 and 5. Every training leaves a JSON file in DIR, named after what it is and
kept with what it was made from, so that a second call does what is missing. Real sets are looked
for in COVIDLAB_DATA; those that are not there are left out and named. `--scale 0.1` is for trying
it out: a tenth of the steps and patients. Segmentation needs segmentation-models-pytorch.

Networks see each picture squashed to a square, 128 px and standardised for segmentation; nothing
is chosen on the patients tested. Dice is of a patient's slices together, at 128 px, over the
patients who have something to find; intervals are 95 %, from resampled patients.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pandas as pd

from covidlab import appraisal, datasets, evaluation, imaging, paths, training
from covidlab.evaluation.intervals import Interval

STEPS = ("statistics", "learn", "difficulty", "transfer")
PHANTOMS = {"CT": "phantom-ct", "CXR": "phantom-covid-qu"}
OPTIONS = {"CT": {"slices_per_patient": 4}, "CXR": {}}
PATIENTS = {"CT": 1, "CXR": 4}  # so that there are as many X-rays as slices
DIFFICULTIES = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZE, BATCH, STEPS_OF_TRAINING, LR = 128, 8, 160, 2e-3


def medseg_upright(array, row):
    """Inf-Net's slices lie on their side, spine to the right."""
    return np.rot90(array, -1)


def ma_upright(array, row):
    """The Radiopaedia volumes are upside down."""
    return array[::-1] if row["patient_id"].startswith("radiopaedia") else array


@dataclass(frozen=True)
class Source:
    """A real set: its modality, what masks it has, how its greys are measured, in how many folds.

    `folds` = 2 tests every patient of a small set, 1 every second one of a large set; `keep` is a
    query that takes a part of it.
    """

    id: str
    modality: str
    masks: tuple[str, ...] = ()
    units: str = "none"
    lungs: str | None = None
    folds: int = 1
    upright: object = None
    keep: str = ""
    name: str = ""

    def load(self):
        data = datasets.load(self.id)
        return data.where(self.keep) if self.keep else data

    @property
    def label(self) -> str:
        return self.name or self.id


REAL = [
    Source("ct-md-volumes", "CT", units="HU", lungs="air"),
    Source("ct-lungmask-imlab", "CT", ("lung",), "HU", "mask", folds=2),
    Source(
        "ct-covid19seg-ma", "CT", ("lung", "infection"), lungs="mask", folds=2, upright=ma_upright
    ),
    Source("ct-medseg-infnet", "CT", ("infection",), upright=medseg_upright),
    Source("ct-covidct-ucsd", "CT"),
    Source("cxr-lungmask-mc-shenzhen", "CXR", ("lung",)),
    Source("cxr-ieee8023-gb", "CXR", ("lung", "infection"), "stretched", "mask", folds=2),
    Source("cxr-hannover", "CXR"),
    Source("cxr-ozturk", "CXR"),
]
# Two hospitals in one set: two sources for the yardstick.
SITES = [
    Source(
        "cxr-lungmask-mc-shenzhen",
        "CXR",
        units="stretched",
        lungs="mask",
        keep=f"patient_id.str.startswith('{prefix}')",
        name=name,
    )
    for prefix, name in (("MCU", "Montgomery"), ("CHN", "Shenzhen"))
]


# --- small pure functions ------------------------------------------------------------------------


def dice_by_patient(predicted, truth, patients) -> pd.DataFrame:
    """Per patient: `dice` of all its slices together, NaN where there is nothing to find, and
    `false`, the part of its pixels called without reason. `predicted`, `truth` are (N, H, W) bool."""
    frame = pd.DataFrame(
        {
            "patient": patients,
            "both": (predicted & truth).sum((1, 2)),
            "predicted": predicted.sum((1, 2)),
            "truth": truth.sum((1, 2)),
            "pixels": truth[0].size,
        }
    )
    sums = frame.groupby("patient").sum()
    dice = 2 * sums["both"] / (sums["predicted"] + sums["truth"]).where(sums["truth"] > 0)
    false = (sums["predicted"] - sums["both"]) / sums["pixels"]
    return pd.DataFrame({"dice": dice, "false": false})


def mean_interval(values, n_boot: int = 2000, seed: int = 0) -> Interval:
    """Mean of (P,) values of patients, percentile bootstrap; no interval for fewer than two."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    method, low, high = "bootstrap, patients", np.nan, np.nan
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, method, 0.95, 0)
    if len(values) > 1:
        rows = np.random.default_rng(seed).integers(len(values), size=(n_boot, len(values)))
        low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), method, 0.95, len(values))


def standardised(image) -> np.ndarray:
    """(H, W) float32 with mean 0 and standard deviation 1, zero for a constant image."""
    return ((image - image.mean()) / (image.std() + 1e-6)).astype(np.float32)


def halves(data, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`k` (1 or 2) pairs of rows to train and to test on, by patient; the published split if any."""
    from sklearn.model_selection import GroupKFold

    if datasets.has_official(data):
        test = (data.frame["split"].str.lower() == "test").to_numpy()
        return [(np.flatnonzero(~test), np.flatnonzero(test))]
    folds = GroupKFold(2, shuffle=True, random_state=seed)
    return list(folds.split(data.patients, groups=data.patients))[:k]


def covid_or_not(data):
    """Two classes in one order whatever the set: "other" and "COVID", its positive one."""
    positive = data.card.positive
    named = data.relabel({c: "COVID" if c == positive else "other" for c in data.classes})
    return replace(named, card=replace(named.card, classes=("other", "COVID"), positive="COVID"))


def markdown(rows: list[dict]) -> str:
    """Rows of equal keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in r.values()] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def saved(file: Path, key: dict, make):
    """What `make()` returned when `file` was written for the same `key`, else made and written now."""
    key = json.loads(json.dumps(key))
    if file.is_file():
        known = json.loads(file.read_text())
        if known["key"] == key:
            return known["result"]
    begun = time.perf_counter()
    result = make()
    content = {"key": key, "seconds": round(time.perf_counter() - begun, 1), "result": result}
    with paths.replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    return result


# --- data ----------------------------------------------------------------------------------------


def phantom(modality, seed, n_patients, **options):
    """A phantom, or None, and a line that says why, where it or one of its options is not there."""
    try:
        return datasets.load(
            PHANTOMS[modality],
            n_patients=n_patients * PATIENTS[modality],
            seed=seed,
            **OPTIONS[modality],
            **options,
        )
    except (KeyError, FileNotFoundError, TypeError) as error:
        print(f"{PHANTOMS[modality]} {options or ''} left out: {error}\n")
        return None


def real(sources):
    """(source, dataset) of those that are on this machine; a line for each that is not."""
    for source in sources:
        try:
            yield source, source.load()
        except FileNotFoundError:
            print(f"{source.id}: not on this machine, left out\n")


def short_side(data) -> int:
    from covidlab.datasets.readers import image_size

    some = range(0, len(data), max(1, len(data) // 20))
    return int(np.median([min(image_size(data.path(i))) for i in some]))


# --- statistics ----------------------------------------------------------------------------------


def statistics(modality, seed, args):
    drawn = phantom(modality, seed, args.patients(60))
    units = "HU" if modality == "CT" else "stretched"
    ways = ("air", "mask") if modality == "CT" else ("mask",)
    measured, sides = [], {}
    sources = [s for s in REAL if s.modality == modality and s.label != "cxr-lungmask-mc-shenzhen"]
    if modality == "CXR":
        sources = [*SITES, *sources]
    entries = (
        [] if drawn is None else [(drawn, units, way, PHANTOMS[modality], None) for way in ways]
    )
    for source, data in real(sources):
        for way in dict.fromkeys(["air", source.lungs] if source.units == "HU" else [source.lungs]):
            entries.append((data, source.units, way, source.label, source.upright))
    for data, of, way, name, upright in entries:
        shown = f"{name}, lungs by {way}" if way == "air" or of == "HU" else name
        p = appraisal.profile(data, of, way, SIZE, name=shown, upright=upright)
        measured.append(p)
        sides[shown] = (short_side(data), data, of, way, upright)
    ours = [p for p in measured if p.name.startswith("phantom")]
    print(f"## {modality}, the sets at {SIZE} px (phantom seed {seed})\n")
    print(markdown([described(p) for p in measured]))
    print("An image of unknown patient counts as a patient.\n")
    print("Distances [95 % interval, patients resampled]; first the phantom, then real sets\n")
    pairs = [(a, b) for a in ours for b in measured if b not in ours and comparable(a, b)]
    theirs = [p for p in measured if p not in ours]
    pairs += [(a, b) for i, a in enumerate(theirs) for b in theirs[i + 1 :] if comparable(a, b)]
    rows = [compared(a, b) for a, b in pairs]
    print(markdown(rows))

    fine = []
    for a, b in pairs if ours else []:
        size = min(sides[a.name][0], sides[b.name][0])
        if size > SIZE and a in ours:
            at = [
                appraisal.profile(data, of, way, size, name=p.name, upright=upright)
                for p in (a, b)
                for _, data, of, way, upright in [sides[p.name]]
            ]
            fine.append({"at": f"{size} px", **compared(*at)})
    if fine:
        columns = ["at", "a", "b", "spectrum, decades", "coarse", "middle", "fine", "slopes"]
        print("Spectra at the smaller of the two sets' own sides\n")
        print(markdown([{c: row[c] for c in columns} for row in fine]))
    # one curve for each set, the drawn ones first
    curves = {}
    for p in measured:
        curves.setdefault(p.name.split(",")[0], p)
    figure = appraisal.plot_profiles(curves.values())
    file = args.out / f"statistics-{modality}-seed{seed}.png"
    with paths.replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    with paths.replacing(file.with_suffix(".json")) as temporary:
        sets = [described(p) for p in measured]
        temporary.write_text(json.dumps({"sets": sets, "pairs": rows, "fine": fine}, indent=1))
    print(f"figure: {file}\n")


def comparable(a, b) -> bool:
    """The same way to find lungs, or one of the sets has no densities to compare anyway."""
    way = [p.name.endswith("by air") for p in (a, b)]
    return way[0] == way[1] or (not any(way) and a.units != b.units)


def described(p) -> dict:
    def median(shares):
        if shares is None:
            return "–"
        at = np.interp(
            [0.05, 0.5, 0.95], np.cumsum(shares.mean(0)), appraisal.realism.AREA_EDGES[1:]
        )
        return f"{at[1]:.3f} ({at[0]:.3f}–{at[2]:.3f})"

    density = "–"
    if p.density is not None:
        low, middle, high = p.density_percentiles()
        digits = 0 if p.units == "HU" else 2
        density = f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    return {
        "set": p.name,
        "images": p.images,
        "patients": p.patients,
        "lung density, median (5–95 %)": density + (" HU" if p.units == "HU" else ""),
        "lung of image": median(p.of_image),
        "lung of body": median(p.of_body),
        "slope": f"{appraisal.spectral_slope(p.spectrum.mean(0)):.2f}",
    }


def compared(a, b) -> dict:
    found = appraisal.distances(a, b)
    shape_only = not a.units == b.units == "HU"
    bands = appraisal.band_difference(a.spectrum.mean(0), b.spectrum.mean(0), shape_only)

    def text(key, digits=2):
        if key not in found:
            return "–"
        value, low, high = found[key]
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    slopes = [appraisal.spectral_slope(p.spectrum.mean(0)) for p in (a, b)]
    return {
        "a": a.name,
        "b": b.name,
        "density, Wasserstein": text("density wasserstein", 0 if a.units == "HU" else 3),
        "density, Jensen–Shannon": text("density jensen-shannon"),
        "lung of image": text("of image", 3),
        "lung of body": text("of body", 3),
        "spectrum, decades": text("spectrum") + (" (shape)" if shape_only else ""),
        **{name: f"{value:+.2f}" for name, value in bands.items()},
        "slopes": f"{slopes[0]:.2f}, {slopes[1]:.2f}",
    }


# --- segmentation --------------------------------------------------------------------------------


def arrays(data, structure, upright=None):
    """(N, S, S) float32 images in [0, 1], (N, S, S) bool masks, and the rows that have a mask."""
    column = f"{structure}_mask"
    data = data.where((data.frame[column] != "").to_numpy())
    images, masks = [], []
    for i in range(len(data)):
        pair = data.image(i), data.mask(i, column)
        if upright is not None:
            pair = tuple(upright(x, data.frame.iloc[i]) for x in pair)
        images.append(imaging.resize(pair[0], SIZE))
        masks.append(imaging.resize_mask(pair[1], SIZE))
    return np.stack(images), np.stack(masks), data


def train(images, masks, steps: int, seed: int, precision: str = "fp32"):
    """A U-Net on a ResNet-18 from random weights; flips and gamma, one-cycle Adam, BCE + Dice."""
    import segmentation_models_pytorch as smp
    import torch

    training.set_seed(seed)
    net = smp.Unet(
        "resnet18",
        encoder_weights=None,
        in_channels=1,
        classes=1,
        decoder_channels=(128, 64, 32, 16, 16),
    ).to(memory_format=torch.channels_last)
    dice, bce = smp.losses.DiceLoss("binary"), torch.nn.BCEWithLogitsLoss()
    optimiser = torch.optim.Adam(net.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    rng = np.random.default_rng(seed)
    net.train()
    for _ in range(steps):
        rows = rng.integers(len(images), size=BATCH)
        x = np.stack([standardised(images[i] ** rng.uniform(0.7, 1.4)) for i in rows])
        y = masks[rows]
        if rng.random() < 0.5:
            x, y = x[..., ::-1], y[..., ::-1]
        x, y = (torch.from_numpy(np.ascontiguousarray(v[:, None], np.float32)) for v in (x, y))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        loss = dice(logits.float(), y) + bce(logits.float(), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net


def segment(net, images, precision: str = "fp32") -> np.ndarray:
    """(N, S, S) bool: where the network gives at least one half."""
    import torch

    net.eval()
    out = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for at in range(0, len(images), 32):
            x = np.stack([standardised(image) for image in images[at : at + 32]])[:, None]
            out.append(net(torch.from_numpy(x))[:, 0].float().numpy() > 0)
    return np.concatenate(out)


def segmentation(modality, structure, seed, args) -> dict:
    """Trains on each set that has such masks and tests on all: {source: {target: scores}}.

    Scores are by patient, of the patients a set holds out (all of them in turn where it has two
    folds); a network of another set sees the same patients, and where that set has two folds the
    scores of its two networks are averaged.
    """
    drawn = phantom(modality, seed, args.patients(120))
    if drawn is None:
        return {}
    sets = {PHANTOMS[modality]: (drawn, 1, None)}
    for source, data in real(s for s in REAL if s.modality == modality and structure in s.masks):
        sets[source.label] = (data, source.folds, source.upright)
    prints = {name: data.fingerprint(masks=True)[:16] for name, (data, *_) in sets.items()}
    key = {
        "sets": prints,
        "seed": seed,
        "steps": args.steps_of_training,
        "precision": args.precision,
        "size": SIZE,
        "batch": BATCH,
        "lr": LR,
    }
    ready = {}

    def made(name):
        if name not in ready:
            data, folds, upright = sets[name]
            images, masks, data = arrays(data, structure, upright)
            ready[name] = images, masks, data.patients, halves(data, folds, seed)
        return ready[name]

    def one(name):
        images, masks, _, folds = made(name)
        scores = {target: [] for target in sets}
        for rows, held_out in folds:
            net = train(images[rows], masks[rows], args.steps_of_training, seed, args.precision)
            for target in sets:
                x, y, patients, parts = made(target)
                test = held_out if target == name else np.concatenate([t for _, t in parts])
                found = segment(net, x[test], args.precision)
                scores[target].append(dice_by_patient(found, y[test], patients[test]))
        return {
            target: [
                {"patient": p, "dice": None if np.isnan(d) else d, "false": f}
                for p, d, f in pd.concat(tables).groupby(level=0).mean().itertuples()
            ]
            for target, tables in scores.items()
        }

    return {
        name: saved(
            args.out / f"segmentation-{modality}-{structure}-{name}-seed{seed}.json",
            {"trained on": name, **key},
            lambda name=name: one(name),
        )
        for name in sets
        if name == PHANTOMS[modality] or not args.phantom_only
    }


def scores(result) -> tuple[Interval, Interval, int]:
    """Dice, false area of those with nothing to find, and how many those are."""
    table = pd.DataFrame(result).astype({"dice": float})
    empty = table["dice"].isna()
    return mean_interval(table["dice"]), mean_interval(table["false"][empty]), int(empty.sum())


def learn(modality, seed, args):
    rows = []
    for structure in ("lung", "infection"):
        results = segmentation(modality, structure, seed, args.but(phantom_only=True))
        for name, result in results.items():
            dice, false, empty = scores(result[name])
            rows.append(
                {
                    "phantom": name,
                    "seed": seed,
                    "structure": structure,
                    "Dice": f"{dice:.3f}",
                    "patients": dice.n,
                    "patients without": empty,
                    "their false area": f"{false:.4f}" if empty else "–",
                }
            )
    if rows:
        print(f"## {modality}, learned on the phantom, tested on other patients of it\n")
        print(markdown(rows))


def transfer(modality, seed, args):
    rows = []
    for structure in ("lung", "infection"):
        results = segmentation(modality, structure, seed, args.but(phantom_only=False))
        for source, result in results.items():
            for target in result:
                if source == target or PHANTOMS[modality] not in (source, target):
                    continue
                dice, ceiling = (scores(results[s][target])[0] for s in (source, target))
                rows.append(
                    {
                        "structure": structure,
                        "seed": seed,
                        "trained on": source,
                        "tested on": target,
                        "patients": dice.n,
                        "Dice": f"{dice:.3f}",
                        "trained and tested there": f"{ceiling:.3f}",
                    }
                )
    if rows:
        print(f"## {modality}, segmentation across sets\n")
        print(markdown(sorted(rows, key=lambda r: (r["structure"], r["tested on"]))))
    if modality == "CT":
        classification_transfer(seed, args)


# --- classification ------------------------------------------------------------------------------


def recipe(args):
    """Khan's `fast` recipe, but ResNet-18 at 82 px on original images, augmented, for 20 epochs."""
    return training.KHAN_SCREENING.fast().but(
        name="ResNet-18, 82 px, augmented",
        network="ResNet-18",
        options={},
        size=82,
        enhance="none",
        epochs=max(1, round(20 * args.scale)),
        augment={"max_rotate": 8.0, "max_zoom": 1.1, "max_lighting": 0.1, "max_warp": 0.0},
    )


def classify(split, seed, args):
    """A trained learner; the best epoch is chosen on the validation part."""
    dls = training.dataloaders(split, recipe(args), seed=seed, progress=False)
    learn = training.learner(dls, precision="auto" if args.precision == "fp32" else args.precision)
    training.fit(learn, show_progress=False)
    return learn


def auc(learn, data) -> dict:
    predictions = training.predict(learn, data)
    found = evaluation.interval(predictions, "roc_auc")
    patients = len(set(data.patients))
    return {"auc": list(found[:3]), "images": len(data), "patients": patients}


def shown(result) -> dict:
    value = Interval(*result["auc"], "", 0.95)
    return {"AUC": f"{value:.3f}", "images": result["images"], "patients": result["patients"]}


def phantom_split(modality, seed, args, **options):
    data = phantom(modality, seed, args.patients(240), **options)
    if data is None:
        return None
    return datasets.split(covid_or_not(data), test=0.4, valid=1 / 6, seed=seed)


def identity(*sets) -> list[str]:
    return [d.fingerprint()[:16] for d in sets]


def difficulty(modality, seed, args):
    rows = []
    for level in DIFFICULTIES:
        split = phantom_split(modality, seed, args, difficulty=level)
        if split is None:
            return
        result = saved(
            args.out / f"difficulty-{modality}-{level:g}-seed{seed}.json",
            {"sets": identity(*split), "recipe": recipe(args).hash(), "on": args.precision},
            lambda split=split: auc(classify(split, seed, args), split.test),
        )
        trained = f"{len(split.train)} of {len(set(split.train.patients))}"
        rows.append({"difficulty": level, "seed": seed, **shown(result), "trained on": trained})
    print(f"## {modality}, {PHANTOMS[modality]}: COVID against the rest, other patients\n")
    print(f"{recipe(args).name}, {recipe(args).epochs} epochs\n")
    print(markdown(rows))


def classification_transfer(seed, args):
    parts = {}
    split = phantom_split("CT", seed, args)
    if split is not None:
        parts["phantom-ct"] = split
    for source, data in real(s for s in REAL if s.id == "ct-covidct-ucsd"):
        parts[source.id] = datasets.official(covid_or_not(data))
    key = {"sets": {k: identity(*s) for k, s in parts.items()}, "recipe": recipe(args).hash()}

    def one(name):
        learn = classify(parts[name], seed, args)
        return {target: auc(learn, parts[target].test) for target in parts}

    rows = []
    for name in parts:
        file = args.out / f"classification-CT-{name}-seed{seed}.json"
        result = saved(
            file, {"trained on": name, "on": args.precision, **key}, lambda n=name: one(n)
        )
        for target, found in result.items():
            rows.append({"trained on": name, "tested on": target, "seed": seed, **shown(found)})
    if rows:
        print("## CT, classification across sets, ct-covidct-ucsd by its published split\n")
        print(markdown(rows))


# --- command line --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arguments:
    out: Path
    precision: str
    scale: float
    phantom_only: bool = False

    def but(self, **changes):
        return replace(self, **changes)

    def patients(self, n: int) -> int:
        return max(12, round(n * self.scale))

    @property
    def steps_of_training(self) -> int:
        return max(4, round(STEPS_OF_TRAINING * self.scale))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="step", help=", ".join(STEPS))
    parser.add_argument("--modality", nargs="+", choices=PHANTOMS, default=[*PHANTOMS])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=paths.runs() / "realism")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args(argv)
    if unknown := set(given.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}: choose from {', '.join(STEPS)}")
    os.environ.setdefault("COVIDLAB_RUNS", str(given.out / "runs"))
    args = Arguments(given.out, given.precision, given.scale)
    for step in given.steps or STEPS:
        for modality in given.modality:
            for seed in given.seed:
                globals()[step](modality, seed, args)


if __name__ == "__main__":
    main()
