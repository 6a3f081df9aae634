"""From phantom patients to a dataset on disk: images, masks, manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..sites import named, site_of
from .patient import check_share, patient
from .presets import PRESETS, SOURCES, Preset

WINDOW = (-1350.0, 150.0)  # HU at grey 0 and 255, the lung window of COVID-CT-MD
_FEW = 6  # patients below which other processes take longer to start than to draw
TRUTH = {
    "CT": ("ground_glass", "consolidation", "effusion"),
    "X-ray": ("right_lung", "left_lung", "effusion"),
}


def generate(
    folder: Path,
    n_patients: int,
    seed: int,
    *,
    preset: str | Preset = "phantom-ct",
    size: int | None = None,
    slices_per_patient: int | None = None,
    prevalence: float | None = None,
    difficulty: float = 0.5,
    sites=None,
    strength: float | None = None,
    truth: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Write a dataset of phantom patients and return its manifest.

    `folder` receives `images/` (8-bit PNG; CT in the lung window -1350..150 HU), `masks/NAME/`
    (0 or 255) and `manifest.csv`. It appears in one step when all is written. A generation that
    was stopped leaves a hidden folder beside it, and the same call goes on from there. The same
    arguments give the same pixels on any machine and with any number of workers (the same bytes,
    where Pillow has the same zlib), and patient k is the same however many patients there are.

    Parameters
    ----------
    folder : must not exist yet, or be empty.
    n_patients : 2 or more. seed : 0 or more.
    preset : one of `PRESETS` or your own `Preset`; what follows replaces its values where given.
    size : side of the images in pixels, 64..512 and divisible by 16.
    slices_per_patient : CT only.
    prevalence : share of patients of the first class, for presets with two classes.
    difficulty : 0..1; up go noise and the number of look-alikes, down the contrast and volume of
        the infection.
    sites : {label: source}, which plants a shortcut as strong as `strength`, 0..1; see
        `covidlab.datasets.sites.site_of`. Sources are those of `SOURCES`.
    truth : also write the masks that the paper's data lack, and those of ground glass,
        consolidation and effusion (CT), of each lung and of effusion (X-ray).
    workers : processes; as many as there are processors if None.

    Returns
    -------
    One row per image. severity: infected part of the patient's whole lung volume, on a 6.5 x 6.5 x
    5.5 mm grid. infected_fraction: of the lung area in this image. disease, effusion (part of the
    pleural cavity), site and view. CT: z_mm, height above the tracheal bifurcation;
    `patient(k, seed, disease=..., difficulty=...).render(z_mm, size)` draws the slice again
    (where the preset has no sites and no severity of its own).

    Raises
    ------
    ValueError for an argument out of range; FileExistsError if something is in `folder` already;
    PermissionError if it cannot be written.
    """
    folder, preset = Path(folder), _settle(preset, size, slices_per_patient, sites, strength)
    _check(preset, n_patients, seed, prevalence, difficulty)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: delete it first, or give another folder")
    settings = {
        "preset": repr(preset), "n_patients": int(n_patients), "seed": int(seed), "prevalence": prevalence,
        "difficulty": difficulty, "truth": truth,
    }  # fmt: skip
    from filelock import FileLock

    unfinished = folder.parent / f".{folder.name}.part"
    lock = folder.parent / f".{folder.name}.lock"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            late = folder.exists() and any(folder.iterdir())
            if not late:
                rows = _rows(unfinished, settings, preset, workers, progress)
                frame = pd.DataFrame(rows)
                frame.to_csv(unfinished / "manifest.csv", index=False, lineterminator="\n")
                shutil.rmtree(unfinished / "rows")
                (unfinished / "settings.json").unlink()
                os.replace(unfinished, folder)
        with suppress(OSError):
            lock.unlink()  # the set is whole: whoever still waits finds it
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise PermissionError(f"cannot write to {folder.parent}: {error.strerror}") from error
    if late:
        raise FileExistsError(f"{folder} exists: another process has just made it")
    return frame


def _settle(preset, size, slices, sites, strength) -> Preset:
    """The preset with everything in it that was asked for."""
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is none of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if slices is not None and preset.modality != "CT":
        raise ValueError(f"slices_per_patient is for CT, and {preset.name} is {preset.modality}")
    given = {"size": size, "slices": slices, "sites": sites, "strength": strength}
    return replace(preset, **{k: v for k, v in given.items() if v is not None})


def _check(preset, n_patients, seed, prevalence, difficulty):
    if n_patients < 2:
        raise ValueError(f"n_patients must be 2 or more, for two classes, got {n_patients}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not 64 <= preset.size <= 512 or preset.size % 16:
        raise ValueError(f"size must lie in 64..512 and be divisible by 16, got {preset.size}")
    if preset.slices < 1:
        raise ValueError(f"slices_per_patient must be 1 or more, got {preset.slices}")
    check_share("difficulty", difficulty)
    check_share("strength", preset.strength)
    if preset.strength and not preset.sites:
        raise ValueError(f"strength ties sites, and {preset.name} has none: give sites={{...}} too")
    for label in preset.labels if preset.sites else ():
        site_of(label, preset.sites, preset.strength, np.random.default_rng(0), SOURCES)
    if prevalence is None:
        return
    check_share("prevalence", prevalence)
    if len(preset.classes) != 2 or preset.by_slice:
        raise ValueError(f"prevalence is for sets with two classes of patients, not {preset.name}")
    classes = {preset.label_of(k, prevalence) for k in range(n_patients)}
    if 0.0 < prevalence < 1.0 and len(classes) == 1:
        raise ValueError(
            f"{n_patients} patients at prevalence {prevalence} are all of one class: "
            "ask for more patients, or a prevalence nearer to 0.5"
        )


def _rows(folder, settings, preset, workers, progress):
    """Draw what is not drawn yet; the rows of all patients, in order."""
    from joblib import Parallel, cpu_count, delayed
    from tqdm.auto import tqdm

    told, text = folder / "settings.json", json.dumps(settings)
    if folder.exists() and not (told.is_file() and told.read_text() == text):
        shutil.rmtree(folder)
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    told.write_text(text)
    n, arguments = settings["n_patients"], (settings, preset)
    done = [k for k in range(n) if (folder / "rows" / f"{k}.json").is_file()]
    left = sorted(set(range(n)) - set(done))
    workers = 1 if len(left) < _FEW else min(workers or cpu_count(), len(left))
    tasks = (delayed(_draw)(folder, k, *arguments) for k in left)
    drawn = Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)
    bar = tqdm(
        drawn, total=n, initial=len(done), desc=f"drawing {preset.name}", disable=not progress
    )
    for _ in bar:
        pass
    return [
        row
        for k in range(n)
        for row in json.loads((folder / "rows" / f"{k}.json").read_text(encoding="utf-8"))
    ]


def _draw(folder, k, settings, preset):
    """Write all images of patient `k`, then, last, their rows."""
    label = preset.label_of(k, settings["prevalence"])
    stream = np.random.SeedSequence(settings["seed"], spawn_key=(k, 1 << 20))
    rng = np.random.default_rng(stream)
    disease, severity = preset.disease_of(label, rng), None
    if preset.mild:
        severity = float(np.clip(rng.lognormal(np.log(preset.mild), 0.8), 0.004, 0.6))
    who = patient(
        k, settings["seed"], disease=disease, severity=severity, difficulty=settings["difficulty"]
    )
    site = named("reference")
    if preset.sites:
        site = named(site_of(label, preset.sites, preset.strength, rng, SOURCES), SOURCES)
    share = preset.infections if who.severity or not preset.infections else 1.0
    masked = (rng.random(2) < (preset.lungs, share)) | settings["truth"]
    pictures = _xray if preset.modality == "X-ray" else _slices
    rows = []
    for i, (image, masks, facts) in enumerate(pictures(who, preset, site, rng)):
        marks = np.random.default_rng(stream.spawn(1)[0])
        names, arrays = zip(*masks.items(), strict=True)
        image, arrays = site.apply(
            image, marks, arrays, modality=preset.modality, view=facts.get("view")
        )
        masks = dict(zip(names, arrays, strict=True))
        kept = {"lung": masked[0], "infection": masked[1]}
        kept |= {name: settings["truth"] for name in TRUTH[preset.modality]}
        row = {
            "image": "", "label": label, "patient_id": who.patient_id, "split": "",
            "modality": preset.modality, "lung_mask": "", "infection_mask": "",
            "source": f"{preset.name}, seed {settings['seed']}, patient {k}", "sha256": "",
            "disease": who.disease, "site": site.name, "severity": round(who.severity, 6),
            "effusion": round(who.effusion, 6),
        }  # fmt: skip
        name = f"{who.patient_id}_{i}.png"
        row["image"] = _save(folder, f"images/{name}", np.rint(image * 255.0))
        row["sha256"] = hashlib.sha256((folder / row["image"]).read_bytes()).hexdigest()
        for mask in (m for m in kept if kept[m]):
            row[f"{mask}_mask"] = _save(folder, f"masks/{mask}/{name}", masks[mask] * 255)
        lung, sick = masks["lung"], masks["infection"] & masks["lung"]
        row |= {"infected_fraction": round(float(sick.sum() / max(1, lung.sum())), 6), **facts}
        if preset.by_slice:
            row["label"] = preset.labels[0 if sick.any() else 1]
        rows.append(row)
    path = folder / "rows" / f"{k}.json"
    path.with_suffix(".tmp").write_text(json.dumps(rows), encoding="utf-8")
    os.replace(path.with_suffix(".tmp"), path)


def _save(folder, name, pixels):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / name, compress_level=6)
    return name


def _slices(who, preset, site, rng):
    """(image, masks, facts) of each CT slice of a patient."""
    n = preset.slices
    if preset.volume:
        low, high = who.extent()
        heights = np.linspace(high, low, n + 2)[1:-1].round(2)
    elif preset.by_slice:
        infected = round(n * preset.by_slice)
        heights = np.r_[who.heights(infected), who.spared(n - infected)].round(2)
        heights = np.sort(heights)[::-1]
    else:
        heights = who.heights(n)
    for z in heights.tolist():
        if preset.volume or preset.by_slice:
            cut = who.render(z, preset.size, noise=site.noise)
        else:
            z, cut = who.cut(z, preset.size, noise=site.noise)
        low, high = WINDOW
        image = np.clip((cut.hu - low) / (high - low), 0.0, 1.0)
        masks = {"lung": cut.lung, "infection": cut.infection}
        masks |= {name: getattr(cut, name) for name in TRUTH["CT"]}
        facts = {"z_mm": z}
        if preset.volume:
            facts["infected"] = int(cut.infection.any()) if who.severity else 0
        yield image, masks, facts


def _xray(who, preset, site, rng):
    film = who.xray(preset.size, view=site.view(rng), dose=1.0 / site.noise**2)
    masks = {
        "lung": film.lung, "infection": film.infection, "right_lung": film.right,
        "left_lung": film.left, "effusion": film.effusion,
    }  # fmt: skip
    yield film.image, masks, {"view": film.view}
