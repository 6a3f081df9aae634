"""Which datasets there are, where one of them is on this machine, and how to get it if it is not."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import pandas as pd

from covidlab import paths

from . import phantom, sites
from .checks import require
from .manifest import Card, Dataset, DatasetError, Problem, read_manifest
from .readers import SUFFIXES, is_dicom

PROFILES = ("smoke", "fast", "paper")
_MASKS_CALLED = {"ggo": "ground_glass"}


def generated(name: str, profile: str) -> dict:
    """What a generated set is when not told: the options of `phantom.generate` in this profile.

    "smoke": few images, to see that all runs. "fast": many patients, few slices of each and, where
    no site gives the label away, plain findings, so that a short training learns something.
    "paper": a set of a paper's size.
    """
    preset = phantom.PRESETS[name]
    paper, fast = preset.patients
    if profile == "paper":
        return {"n_patients": paper}
    options = {"n_patients": 16 if profile == "smoke" else fast}
    if preset.modality == "CT":
        many = 12 if preset.volume else 6 if preset.by_slice else 2
        options["slices_per_patient"] = min(many, 4) if profile == "smoke" else many
    if preset.size > (enough := 192 if preset.modality == "CT" else 256):
        options["size"] = enough
    if profile == "fast":
        options["difficulty"] = 0.1
    return options


@dataclass(frozen=True)
class Entry:
    """One dataset of the catalogue (`data/catalogue.toml`): its card, and how it comes to a machine.

    `papers` used it; `layout` is the importer for the form its makers publish; `download` has
    `url` and `sha256` where a direct download exists; `size` is in words.
    """

    card: Card
    papers: tuple[str, ...] = ()
    size: str = ""
    layout: str = ""
    url: str = ""
    sha256: str = ""


@cache
def catalogue() -> dict[str, Entry]:
    """Every dataset the papers used and every one that can be read here, by id."""
    path = paths.data() / "catalogue.toml"
    with open(path, "rb") as file:
        table = tomllib.load(file)
    card_keys = {f.name for f in fields(Card)} - {"id"}
    entries = {}
    for name, given in table.items():
        given = dict(given)
        download = given.pop("download", {})
        card = Card(id=name, **{k: given.pop(k) for k in [*given] if k in card_keys})
        entries[name] = Entry(card, tuple(given.pop("papers", ())), **given, **download)
    return entries


def find(name: str) -> Path | None:
    """The folder of dataset `name` on this machine (it holds manifest.csv), or None."""
    for folder in paths.dataset_folders():
        if (folder / name / "manifest.csv").is_file():
            return folder / name
    return None


def load(name, *, profile: str = "paper", check: bool = True, **options) -> Dataset:
    """A dataset by catalogue id, or a folder or CSV of your own by its path.

    Looked for in the folders of `COVIDLAB_DATA`, `data/` and the user cache. Phantom sets are made
    once and cached; `options` go to `phantom.generate` (`n_patients`, `seed`, `strength`, …), and
    without `n_patients` the `profile` decides how many and how difficult (see `generated`). Real
    datasets are always whole and take no options but `seed`, which changes nothing in them.

    Raises
    ------
    FileNotFoundError : not on this machine; the message says how to get it.
    KeyError : no such id, naming those there are.
    DatasetError : something is wrong with it, all of it at once (`check=False` loads it anyway).
    """
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} must be one of {', '.join(PROFILES)}")
    if name in phantom.PRESETS:
        usual = {} if "n_patients" in options else generated(name, profile)
        return _generated(name, {"seed": 0, **usual, **options})
    options.pop("seed", None)
    if options:
        raise TypeError(f"{name!r} is not generated, so it takes no {', '.join(options)}")
    folder = find(str(name)) if not os.path.isabs(name) else None
    if folder is not None:
        frame = _with_more_masks(read_manifest(folder / "manifest.csv"), folder)
        dataset = Dataset(frame, folder, _card(str(name)))
    elif Path(name).is_file():
        dataset = from_csv(name, check=False)
    elif Path(name).is_dir():
        dataset = from_folder(name, check=False)
    elif name in catalogue():
        looked = "\n  ".join(str(f) for f in paths.dataset_folders())
        raise FileNotFoundError(
            f"dataset {name!r} is not on this machine. {catalogue()[name].card.get}\n"
            f"Put it (with its manifest.csv, see `covidlab data import`) as {name}/ under one of:\n"
            f"  {looked}\nor name another folder in the environment variable COVIDLAB_DATA."
        )
    elif os.sep in str(name) or Path(name).suffix:
        raise FileNotFoundError(f"{name}: no such folder or CSV; check the path")
    else:
        raise KeyError(
            f"no dataset {name!r}: neither a folder or CSV, nor one of {', '.join(catalogue())}"
        )
    return require(dataset) if check else dataset


def _with_more_masks(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """A column for each folder of masks that the manifest does not name: masks/ggo/ and the like.

    A mask belongs to the image of the same file name.
    """
    names = [Path(image).name for image in frame["image"]]
    for masks in sorted(p for p in (folder / "masks").glob("*") if p.is_dir()):
        column = f"{_MASKS_CALLED.get(masks.name, masks.name)}_mask"
        if column not in frame:
            there = {file.name for file in masks.iterdir()}
            frame[column] = [f"masks/{masks.name}/{n}" if n in there else "" for n in names]
    return frame


def from_folder(folder, check: bool = True, **card) -> Dataset:
    """A folder of your own: with a manifest.csv, or with one subfolder of images for each class.

    File names give no patients, so each image stands for itself: add a manifest with `patient_id`
    as soon as patients repeat. An image beside the subfolders has no label, which the check says;
    a subfolder without images is a class without images. Keywords fill in the `Card` (`classes`,
    `positive`, `licence`…); of two classes the one named after COVID is the positive one unless
    `positive` says otherwise, else the last.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}: check the path")
    if (root / "manifest.csv").is_file():
        return from_csv(root / "manifest.csv", check=check, **card)
    entries = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    subfolders = [p for p in entries if p.is_dir()]
    rows = [
        {"image": file.relative_to(root).as_posix(), "label": label}
        for files, label in [(entries, ""), *((sorted(s.rglob("*")), s.name) for s in subfolders)]
        for file in files
        if file.is_file() and (file.suffix.lower() in SUFFIXES or is_dicom(file))
    ]
    classes = tuple(card.pop("classes", ())) or tuple(p.name for p in subfolders)
    if not any(row["label"] for row in rows):
        what = "holds no class-named subfolders with images" if entries else "is empty"
        remedy = f"expected FOLDER/CLASS/IMAGE with {', '.join(sorted(SUFFIXES))}"
        raise DatasetError(str(root), [Problem("no images", str(root), what, remedy)])
    return _own(pd.DataFrame(rows), root, check, _own_card(root.name, classes=classes, **card))


def from_csv(csv, root=None, check: bool = True, **card) -> Dataset:
    """A CSV of your own with the columns `image` and `label` (others as in a manifest).

    Paths start from `root`, by default the CSV's folder. Keywords fill in the `Card`.
    """
    csv = Path(csv).expanduser().resolve()
    root = Path(root).expanduser().resolve() if root else csv.parent
    name = csv.parent.name if csv.name == "manifest.csv" else csv.stem
    return _own(read_manifest(csv), root, check, _own_card(name, **card))


def fetch(name: str, folder=None) -> Path:
    """Downloads and unpacks a dataset whose catalogue entry has a direct address (through pooch).

    Into `folder`, by default the user cache; the checksum is verified. Raises LookupError, with
    the way to get it by hand, when there is no such address.
    """
    entry = _entry(name)
    if not (entry.url and entry.sha256):  # what cannot be verified is not fetched
        raise LookupError(f"{name!r} has no direct download. {entry.card.get}")
    import pooch

    target = Path(folder) if folder else paths.cache() / "downloads" / name
    archive = pooch.retrieve(entry.url, known_hash=entry.sha256, path=target, progressbar=True)
    if archive.endswith((".zip", ".tar.gz", ".tgz", ".tar")):
        unpack = pooch.Unzip() if archive.endswith(".zip") else pooch.Untar()
        unpack(archive, "fetch", None)
        return Path(archive + (".unzip" if archive.endswith(".zip") else ".untar"))
    return Path(archive)


def _entry(name: str) -> Entry:
    try:
        return catalogue()[name]
    except KeyError:
        raise KeyError(f"no dataset {name!r} in the catalogue: {', '.join(catalogue())}") from None


def _card(name: str) -> Card:
    entry = catalogue().get(name)
    return entry.card if entry else _own_card(name)


def _own_card(name: str, **given) -> Card:
    return Card(id=name, **{"title": name, "licence": "your own data", **given})


def _own(frame: pd.DataFrame, root: Path, check: bool, card: Card) -> Dataset:
    dataset = Dataset(frame, root, card)
    if card.positive is None and len(dataset.classes) == 2:
        covid = re.compile(r"(?!non|no |not |without).*covid", re.IGNORECASE)
        named = [c for c in dataset.classes if covid.match(c)]
        positive = named[0] if len(named) == 1 else dataset.classes[-1]
        dataset = replace(dataset, card=replace(dataset.card, positive=positive))
    return require(dataset) if check else dataset


def _generated(name: str, options: dict) -> Dataset:
    """Generated data from the user cache, made now if this very set is not there yet."""
    folder = writable(paths.cache() / "datasets" / name) / _key(options)
    if not (folder / "manifest.csv").is_file():
        if folder.exists():
            shutil.rmtree(folder)
        try:
            phantom.generate(folder, preset=name, **options)
        except FileExistsError:  # another process was quicker, and what it made is the same
            pass
    return Dataset(read_manifest(folder / "manifest.csv"), folder, _card(name))


def _key(options: dict) -> str:
    """Name of a generated set: of the code that draws it and of all that was asked for."""
    code = hashlib.sha256(Path(sites.__file__).read_bytes())
    for file in sorted(Path(phantom.__file__).parent.glob("*.py")):
        code.update(file.read_bytes())
    asked = {k: v for k, v in options.items() if k not in ("workers", "progress")}
    long = [k for k, v in asked.items() if not isinstance(v, int | float | str | None)]
    rest = hashlib.sha256(repr([(k, asked.pop(k)) for k in sorted(long)]).encode()).hexdigest()[:8]
    parts = [code.hexdigest()[:8], *(f"{k}={asked[k]}" for k in sorted(asked))]
    return "-".join([*parts, rest] if long else parts)


def writable(folder: Path) -> Path:
    """The folder, made if need be; PermissionError naming it and the remedy when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise PermissionError(
            f"cannot write to {folder} ({error.strerror}): set COVIDLAB_CACHE to a folder that can be"
        ) from error
