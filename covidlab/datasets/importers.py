"""From each source's own folders to a dataset folder of ours: images, masks and a manifest.csv.

One function for each published layout. It looks at the source and plans a row for every image;
`import_dataset` then copies what was planned. Nothing is copied before the plan is whole, and the
dataset's folder appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from covidlab import paths

from .manifest import COLUMNS, DatasetError, Problem, read_manifest
from .readers import SUFFIXES, ImageError, is_dicom, read_mask

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class File:
    """One file of the dataset to be: its place in it, and what it is made of.

    `origin` is a file (on disk or in a zip) whose bytes are copied as they are, or a function that
    gives a bool mask, which is written as a 0/255 PNG.
    """

    place: str
    origin: Path | zipfile.Path | Callable[[], np.ndarray]

    def write(self, root: Path) -> str:
        """Makes the file under `root`; returns the sha256 of its contents."""
        path = root / self.place
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(self.origin):
            from PIL import Image

            Image.fromarray(self.origin().astype(np.uint8) * 255).save(path)
            content = path.read_bytes()
        else:
            content = self.origin.read_bytes()
            path.write_bytes(content)
        return hashlib.sha256(content).hexdigest()


def import_dataset(
    layout: str,
    source,
    name: str = "",
    folder=None,
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Turns a source, as its makers publish it, into the dataset folder `<folder>/<name>/`.

    Images and masks are copied unchanged, so that the folder stands alone; left and right lungs
    are united, and colour-coded classes taken apart, into 0/255 PNG masks. manifest.csv gets the
    columns of every manifest, the path in the source, and what else the source says of an image.

    Parameters
    ----------
    layout : a key of `LAYOUTS`.
    source : the folder as downloaded and unpacked.
    name : by default the id that the catalogue knows the source by.
    folder : by default `data/` of the checkout, or the user cache without one.
    force : replace a dataset of that name; the old one goes only when the new one is complete.

    Raises
    ------
    ValueError : no such layout, or a name that is no folder name. FileNotFoundError : no source.
    FileExistsError : the dataset is there already. PermissionError : the place cannot be written to.
    DatasetError : the source is not in this layout, or files that it lists are absent (all of them).
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if name and (Path(name).name != name or name.startswith(".")):
        raise ValueError(f"name {name!r} must be a plain folder name; the place goes into --to")
    source = Path(source).expanduser().resolve()
    if not source.is_dir():
        unpack = "unpack it first, then " if source.is_file() else ""
        raise FileNotFoundError(f"no folder at {source}: {unpack}give the folder itself")
    plan = LAYOUTS[layout](source)
    _no_two_in_one_place(plan, layout)
    target = _folder(folder) / (name or _known_as(layout, plan))
    if source.is_relative_to(target):
        raise ValueError(f"{source} would be imported into itself: give another place with --to")
    if (target / "manifest.csv").is_file() and not force:
        raise FileExistsError(
            f"{target} is a dataset already: give another name (--name), or replace it (--force on "
            "the command line, force=True in Python)"
        )
    if target.exists() and not (target / "manifest.csv").is_file():
        raise FileExistsError(
            f"{target} exists and is no dataset, so it is left alone: give another name (--name) "
            "or place (--to), or remove it yourself"
        )
    return _write(plan, target, source, progress)


def _write(plan: list[dict], target: Path, source: Path, progress: bool) -> Path:
    from tqdm.auto import tqdm

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise PermissionError(
            f"cannot write to {target.parent} ({error.strerror}): give another place with --to"
        ) from error
    try:
        rows = []
        shown = {"desc": f"importing {target.name}", "unit": "image"}
        for row in tqdm(plan, **shown, disable=None if progress else True):
            hashes = {k: v.write(unfinished) for k, v in row.items() if isinstance(v, File)}
            places = {k: row[k].place for k in hashes}
            rows.append({**row, **places, "sha256": hashes["image"]})
        columns = dict.fromkeys([*COLUMNS, *(k for row in rows for k in row)])
        frame = pd.DataFrame([{k: row.get(k, "") for k in columns} for row in rows])
        frame.to_csv(unfinished / "manifest.csv", index=False, lineterminator="\n")
        os.chmod(unfinished, 0o755)  # mkdtemp makes it private
        old = unfinished.with_name(f"{unfinished.name}-old")
        if target.exists():
            os.replace(target, old)
        os.replace(unfinished, target)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"importing {source} into {target} failed: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _folder(given) -> Path:
    if given:
        return Path(given).expanduser().resolve()
    return paths.data() if paths.project() else paths.cache() / "datasets"


def _known_as(layout: str, plan: list[dict]) -> str:
    infection = "infection_mask" in plan[0]
    return {
        "ucsd": "ct-covidct-ucsd",
        "ieee8023": "cxr-ieee8023",
        "ozturk": "cxr-ozturk-full",
        "montgomery-shenzhen": "cxr-montgomery-shenzhen",
        "infnet": "ct-medseg-infnet",
        "covid-ct-md": "ct-covid-ct-md",
        "covid-qu-ex": "cxr-covid-qu-ex-infection" if infection else "cxr-covid-qu-ex",
    }[layout]


# One function for each layout: source folder → rows, with `File`s in the image and mask columns.


def _ucsd(source: Path) -> list[dict]:
    """UCSD-AI4H/COVID-CT: Images-processed (folders or zips), Data-split lists, two MetaInfo tables."""
    layout, expected = "ucsd", "Images-processed/ and Data-split/, as in UCSD-AI4H/COVID-CT"
    images = _below(source, "Images-processed")
    lists = _below(source, "Data-split")
    if not (images and lists):
        raise _not_this(layout, source, expected)
    rows, problems = [], []
    for label in ("COVID", "NonCOVID"):
        patients = _ucsd_patients(images.parent, label)
        files = _folder_or_zip(images, f"CT_{label}")
        if not files:
            raise _not_this(layout, source, f"{expected}: no images in {images}/CT_{label}")
        part, there = {}, {_key(file.name) for file in files}
        for which in PARTS:
            path = lists / label / f"{which}CT_{label}.txt"
            if not path.is_file():
                problems.append(_absent(path, "the split list is not there"))
                continue
            for name in path.read_text("utf-8-sig").split("\n"):
                if not (key := _key(name)):
                    continue
                if key not in there:
                    problems.append(_absent(name.strip(), f"is in {path.name}, not in CT_{label}"))
                if part.setdefault(key, which) != which:
                    problems.append(_absent(name.strip(), f"is in the lists {part[key]}, {which}"))
        for file in files:
            key = _key(file.name)
            patient = patients.get(key, "")
            rows.append(
                {
                    "image": File(f"images/{label}/{file.name}", file),
                    "label": label,
                    "patient_id": f"{label.lower()}_{patient}" if patient else "",
                    "split": part.get(key, ""),
                    "modality": "CT",
                    "source": patient.split("_")[0] if label == "NonCOVID" else "papers",
                    "source_path": f"{images.name}/CT_{label}/{file.name}",
                }
            )
    return _whole(layout, source, rows, problems)


def _ucsd_patients(root: Path, label: str) -> dict[str, str]:
    """Patient by image key, from the MetaInfo table of a class; COVID's is published as .xlsx."""
    table, sheet = (root / f"{label}-CT-MetaInfo.{suffix}" for suffix in ("csv", "xlsx"))
    columns = ("file name" if label == "COVID" else "image name", "patient id")
    if table.is_file() or not sheet.is_file():
        frame = _table(table, *columns)
    else:
        try:
            frame = _with_columns(pd.read_excel(sheet, dtype=str).fillna(""), sheet, columns)
        except ImportError:
            what = "is an Excel sheet, and openpyxl, which reads those, is not installed"
            remedy = f"save it as {table.name} beside it, from any spreadsheet program"
            raise DatasetError("ucsd", [Problem("patients", str(sheet), what, remedy)]) from None
    pairs = zip(*(frame[c] for c in columns), strict=True)
    return {_key(name): who.strip().lower().replace(" ", "_") for name, who in pairs}


def _ieee8023(source: Path) -> list[dict]:
    """ieee8023/covid-chestxray-dataset: images/ and metadata.csv; every finding and view is kept."""
    layout = "ieee8023"
    metadata, images = _below(source, "metadata.csv"), _below(source, "images")
    if not (metadata and images):
        raise _not_this(layout, source, "images/ and metadata.csv")
    frame = _table(metadata, "patientid", "finding", "filename")
    rows, problems, volumes = [], [], 0
    about = ("view", "offset", "sex", "age", "date", "location", "license", "doi", "url")
    for row in frame.to_dict("records"):
        name = row["filename"].strip()
        if name.lower().endswith((".nii", ".nii.gz")):
            volumes += 1
        elif not (images / name).is_file() or not name:
            problems.append(_absent(images / name, "is in metadata.csv, but not there"))
        else:
            by_view = "CT" if re.match("ct|axial|coronal", row.get("view", ""), re.I) else "X-ray"
            rows.append(
                {
                    "image": File(f"images/{name}", images / name),
                    "label": row["finding"].strip(),
                    "patient_id": f"ieee8023_{who}" if (who := row["patientid"].strip()) else "",
                    "modality": row.get("modality", "").strip() or by_view,
                    "source": _site(row.get("url", "")),
                    "source_path": f"images/{name}",
                    **{k: row[k] for k in about if k in row},
                }
            )
    plan = _whole(layout, source, rows, problems)
    if volumes:
        what = f"{volumes} CT volumes (NIfTI) are left out: only pictures are imported"
        warnings.warn(what, stacklevel=3)
    return plan


def _ozturk(source: Path) -> list[dict]:
    """muhammedtalo/COVID-19: three class folders, NIH patients in the file names.

    The COVID-19 images are ieee8023's; their patients are known where its metadata.csv lies
    beside the class folders.
    """
    layout, labels = "ozturk", {"Covid-19": "COVID-19", "No_findings": "", "Pneumonia": ""}
    found = _below(source, "No_findings")
    top = found.parent if found else source
    images = {sub: _images(_child(top, sub) or top / sub) for sub in labels}
    if not all(images.values()):
        raise _not_this(layout, source, f"{', '.join(labels)} as folders of images")
    table = _below(source, "metadata.csv") or _below(source, "metadata_covid.csv")
    known = {}
    if table:
        frame = _table(table, "filename", "patientid")
        pairs = zip(frame["filename"], frame["patientid"], strict=True)
        known = {_key(name): who.strip() for name, who in pairs}
    rows = []
    for sub, label in labels.items():
        for file in images[sub]:
            nih = re.match(r"(\d{8})_\d{3}", file.name)
            theirs = known.get(_key(file.name), "")
            patient = f"nih_{nih[1]}" if nih else f"ieee8023_{theirs}" if theirs else ""
            rows.append(
                {
                    "image": File(f"images/{sub}/{file.name}", file),
                    "label": label or sub,
                    "patient_id": patient,
                    "modality": "X-ray",
                    "source": "NIH ChestX-ray8" if nih else "ieee8023",
                    "source_path": file.relative_to(source).as_posix(),
                }
            )
    if unknown := sum(not row["patient_id"] for row in rows):
        warnings.warn(
            f"{unknown} images have no patient id: put the metadata.csv of "
            f"ieee8023/covid-chestxray-dataset into {source} and import again",
            stacklevel=3,
        )
    return _whole(layout, source, rows, [])


def _montgomery_shenzhen(source: Path) -> list[dict]:
    """NLM's MontgomerySet (left and right masks) and ChinaSet_AllFiles (with Shenzhen masks), or one.

    Shenzhen's masks are published elsewhere: any folder of CHNCXR_*_mask.png below `source`. 96 of
    its 662 X-rays have none.
    """
    layout = "montgomery-shenzhen"
    files = [p for p in sorted(source.rglob("*")) if re.match("(MCU|CHN)CXR_", p.name, re.I)]
    if not any(p.parent.name.lower() == "cxr_png" for p in files):
        expected = "MontgomerySet/ or ChinaSet_AllFiles/ with CXR_png/ (MCUCXR_… or CHNCXR_….png)"
        raise _not_this(layout, source, expected)
    masks, readings = {}, {}
    for file in files:
        folder, key = file.parent.name.lower(), _key(file.name).removesuffix("_mask")
        if file.suffix.lower() == ".txt":
            readings[key] = " ".join(file.read_text("utf-8", errors="replace").split())
        elif "mask" in folder or _key(file.name).endswith("_mask"):
            masks.setdefault(key, {})[folder] = file
    rows, problems = [], []
    for file in files:
        if file.parent.name.lower() != "cxr_png" or file.suffix.lower() != ".png":
            continue
        key, own = _key(file.name), masks.get(_key(file.name), {})
        sides = [own.get("leftmask"), own.get("rightmask")]
        place = f"masks/lung/{file.stem}.png"
        row = {
            "image": File(f"images/{file.name}", file),
            "label": {"0": "normal", "1": "tuberculosis"}.get(key[-1], ""),
            "patient_id": file.stem[:-2],
            "modality": "X-ray",
            "source": "Montgomery" if key.startswith("mcu") else "Shenzhen",
            "source_path": file.relative_to(source).as_posix(),
            "reading": readings.get(key, ""),
        }
        if not row["label"]:
            problems.append(_absent(file, "its name does not end in _0 (normal) or _1"))
        if all(sides):
            row["lung_mask"] = File(place, partial(_united, *sides))
        elif any(sides):
            problems.append(_absent(file, "has the mask of one lung only"))
        elif own:
            row["lung_mask"] = File(place, next(iter(own.values())))
        rows.append(row)
    return _whole(layout, source, rows, problems)


def _infnet(source: Path) -> list[dict]:
    """Inf-Net's COVID-SemiSeg: images and masks of 50 training and 48 test slices.

    With the MultiClassInfection folders there too, ground glass (red) and consolidation (green)
    become masks of their own, in the columns `ggo_mask` and `consolidation_mask`.
    """
    layout, rows, problems = "infnet", [], []
    for split, top, sub in (
        ("train", "TrainingSet", "LungInfection-Train/Doctor-label"),
        ("test", "TestingSet", "LungInfection-Test"),
    ):
        root = _below(source, top)
        if not root or not (root / sub / "Imgs").is_dir():
            raise _not_this(layout, source, f"{top}/{sub}/Imgs and GT")
        masks = {p.stem: p for p in _images(root / sub / "GT")}
        problems += _unpaired(root / sub / "Imgs", root / sub / "GT")
        for file in _images(root / sub / "Imgs"):
            mask = masks.get(file.stem, file)
            row = {
                "image": File(f"images/{split}/{file.name}", file),
                "label": "COVID",
                "split": split,
                "modality": "CT",
                "infection_mask": File(f"masks/infection/{split}/{mask.name}", mask),
                "source_path": file.relative_to(source).as_posix(),
            }
            colours = root / f"MultiClassInfection-{split.title()}" / "GT" / f"{file.stem}.png"
            if colours.is_file():
                for channel, kind in enumerate(("ggo", "consolidation")):
                    place = f"masks/{kind}/{split}/{file.stem}.png"
                    row[f"{kind}_mask"] = File(place, partial(_coloured, colours, channel))
            rows.append(row)
    return _whole(layout, source, rows, problems)


def _covid_ct_md(source: Path) -> list[dict]:
    """COVID-CT-MD: COVID-19, CAP and Normal folders of patients, each a DICOM series.

    `slice_index` counts from the head down (descending slice location), because that is how the
    published slice labels count: in ascending order the upper-lobe labels fall on the lower lobes.
    `infected` is 1 or 0 where Index.csv and Slice-level-labels*.npy say so, else empty.
    """
    layout, rows, problems = "covid-ct-md", [], []
    begins = {"covid": "COVID-19", "cap": "CAP", "normal": "Normal"}
    patients = {
        patient: label
        for sub in sorted({p.parent.parent for p in source.rglob("*.dcm")})
        for begin, label in begins.items()
        if sub.name.lower().startswith(begin)
        for patient in sorted(p for p in sub.iterdir() if p.is_dir())
    }
    if not patients:
        expected = "COVID-19, Cap and Normal folders (… Cases or … subjects) of patients with .dcm"
        raise _not_this(layout, source, expected)
    labels, unlabelled = _slice_labels(source)
    problems += unlabelled
    from tqdm.auto import tqdm

    for patient, label in tqdm(patients.items(), "sorting slices", unit="patient", disable=None):
        slices, unsorted = _cranial_first(patient)
        problems += unsorted
        infected = labels.get(patient.name.lower())
        if infected is not None and len(infected) < len(slices):
            what = f"{len(slices)} slices, but labels for {len(infected)}"
            problems.append(Problem("slice labels", str(patient), what, "get both again"))
            infected = None
        for i, (file, location) in enumerate(slices):
            rows.append(
                {
                    "image": File(f"images/{label}/{patient.name}/{file.name}", file),
                    "label": label,
                    "patient_id": patient.name,
                    "modality": "CT",
                    "source_path": file.relative_to(source).as_posix(),
                    "slice_index": i,
                    "slice_location_mm": location,
                    "infected": "" if infected is None else int(infected[i]),
                }
            )
    return _whole(layout, source, rows, problems)


def _cranial_first(patient: Path) -> tuple[list[tuple[Path, float]], list[Problem]]:
    """The slices of a series from head to foot with their locations in mm, and what is wrong."""
    from pydicom import dcmread

    slices, problems = [], []
    for file in sorted(p for p in patient.iterdir() if p.is_file() and is_dicom(p)):
        try:
            tags = ["SliceLocation", "ImagePositionPatient"]
            header = dcmread(file, stop_before_pixels=True, specific_tags=tags)
            where = header.get("SliceLocation")
            slices.append((file, float(header.ImagePositionPatient[2] if where is None else where)))
        except Exception as error:  # pydicom raises many kinds for damaged files
            what = f"cannot be put in order: {error}"
            problems.append(Problem("slice order", str(file), what, "get the series again"))
    return sorted(slices, key=lambda s: -s[1]), problems


def _slice_labels(source: Path) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """Slice labels by patient, in lower case; the updated file where there are two."""
    index = _below(source, "Index.csv")
    arrays = sorted(source.rglob("Slice-level-labels*.npy"), key=lambda p: ("updated" in p.name, p))
    if not (index and arrays):
        return {}, []
    labels, found, problems = np.load(arrays[-1]), {}, []
    frame = _table(index, "label index", "folder/id")
    for at, who in zip(frame["label index"], frame["folder/id"], strict=True):
        if int(at) < len(labels):  # the index has gaps: its numbers count, not its rows
            found[who.strip().lower()] = labels[int(at)]
        else:
            what = f"{who} has label {at} of {len(labels)} in {arrays[-1].name}"
            problems.append(Problem("slice labels", str(index), what, "get both again"))
    return found, problems


def _covid_qu_ex(source: Path) -> list[dict]:
    """COVID-QU-Ex: "Lung Segmentation Data" or "Infection Segmentation Data", one at a time.

    They are two datasets: the second has some of the images of the first, infection masks, and a
    split of its own.
    """
    layout, classes = "covid-qu-ex", ("COVID-19", "Non-COVID", "Normal")
    roots = sorted(p.parent for p in source.rglob("Train") if (p / classes[0] / "images").is_dir())
    if not roots:
        expected = "Train/, Val/ and Test/ with COVID-19/images, Non-COVID/images, Normal/images"
        raise _not_this(layout, source, expected)
    if len(roots) > 1:
        what = f"holds {len(roots)} datasets"
        remedy = "import each by itself: " + ", ".join(f"'{r}'" for r in roots)
        raise DatasetError(layout, [Problem("which one", str(source), what, remedy)])
    root, rows, problems = roots[0], [], []
    with_infection = (root / "Train" / classes[0] / "infection masks").is_dir()
    kinds = ("lung", "infection") if with_infection else ("lung",)
    for part in PARTS:
        for label in classes:
            sub = root / part.title() / label
            for kind in kinds:
                problems += _unpaired(sub / "images", sub / f"{kind} masks")
            for file in _images(sub / "images"):
                row = {
                    "image": File(f"images/{part}/{label}/{file.name}", file),
                    "label": label,
                    "split": part,
                    "modality": "X-ray",
                    "source_path": file.relative_to(source).as_posix(),
                }
                for kind in kinds:
                    mask = sub / f"{kind} masks" / file.name
                    row[f"{kind}_mask"] = File(f"masks/{kind}/{part}/{label}/{file.name}", mask)
                rows.append(row)
    return _whole(layout, source, rows, problems)


LAYOUTS: dict[str, Callable[[Path], list[dict]]] = {
    "ucsd": _ucsd,
    "ieee8023": _ieee8023,
    "ozturk": _ozturk,
    "montgomery-shenzhen": _montgomery_shenzhen,
    "infnet": _infnet,
    "covid-ct-md": _covid_ct_md,
    "covid-qu-ex": _covid_qu_ex,
}


def _whole(layout: str, source: Path, rows: list[dict], problems: list[Problem]) -> list[dict]:
    """The rows, or everything that is wrong with the source."""
    if not rows and not problems:
        problems = [Problem("no images", str(source), "holds none", "unpack the download again")]
    if problems:
        raise DatasetError(f"{source} as {layout}", problems)
    return rows


def _no_two_in_one_place(plan: list[dict], layout: str):
    places = pd.Series([v.place for row in plan for v in row.values() if isinstance(v, File)])
    if twice := sorted(set(places[places.str.lower().duplicated()])):
        what, remedy = "more than one file of the source would go there", "rename or remove one"
        raise DatasetError(layout, [Problem("same name", place, what, remedy) for place in twice])


def _not_this(layout: str, source: Path, expected: str) -> DatasetError:
    """What was expected, what is there, and which layout would fit instead."""
    there = sorted(p.name + "/" * p.is_dir() for p in source.iterdir() if p.name[0] != ".")
    what = f"expected {expected}; there is {', '.join(there[:8]) or 'nothing'}"
    what += f" and {len(there) - 8} more" if len(there) > 8 else ""
    remedy = "give the folder as it was unpacked"
    if fitting := [name for name in LAYOUTS if name != layout and _looks_like(name, source)]:
        remedy = f"this looks like the layout {' or '.join(fitting)}"
    return DatasetError("wrong layout", [Problem(f"not {layout}", str(source), what, remedy)])


def _looks_like(layout: str, source: Path) -> bool:
    signs = {
        "ucsd": ["Images-processed", "Data-split"],
        "ieee8023": ["metadata.csv", "images"],
        "ozturk": ["No_findings"],
        "montgomery-shenzhen": ["CXR_png"],
        "infnet": ["TrainingSet", "TestingSet"],
        "covid-ct-md": ["Slice-level-labels.npy"],
        "covid-qu-ex": ["Train", "Val", "Test", "COVID-19"],
    }
    return all(_below(source, sign) for sign in signs[layout])


def _absent(where, what: str) -> Problem:
    remedy = "get the source again, or take it off the list on purpose"
    return Problem("incomplete source", str(where), what, remedy)


def _below(source: Path, name: str, depth: int = 4) -> Path | None:
    """The folder or file of that name in `source` (or `source` itself), nearest first, any case."""
    if source.name.lower() == name.lower():
        return source
    level = [source]
    for _ in range(depth):
        for folder in level:
            if found := _child(folder, name):
                return found
        level = [p for f in level for p in sorted(f.iterdir()) if p.is_dir()]
        level = [p for p in level if p.name != "__MACOSX"]
    return None


def _child(folder: Path, name: str) -> Path | None:
    return next((p for p in sorted(folder.iterdir()) if p.name.lower() == name.lower()), None)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    return sorted(p for p in files if p.is_file())


def _unpaired(images: Path, masks: Path) -> list[Problem]:
    """Images without a mask of that name, and masks without an image."""
    have, want = ({p.stem for p in _images(folder)} for folder in (masks, images))
    problems = [_absent(images / name, f"has no mask in {masks}") for name in sorted(want - have)]
    return problems + [_absent(masks / n, f"has no image in {images}") for n in sorted(have - want)]


def _folder_or_zip(parent: Path, name: str) -> list[Path | zipfile.Path]:
    """Images from the folder `name` (however deep) or else from `name`.zip."""
    if (parent / name).is_dir():
        found: Iterable = (p for p in (parent / name).rglob("*") if p.is_file())
    elif (parent / f"{name}.zip").is_file():
        try:
            archive = zipfile.ZipFile(parent / f"{name}.zip")
        except zipfile.BadZipFile as error:
            what, remedy = f"not a zip file ({error})", "download it again, not its web page"
            where = str(parent / f"{name}.zip")
            raise DatasetError("ucsd", [Problem("broken zip", where, what, remedy)]) from error
        found = (zipfile.Path(archive, m) for m in archive.namelist())
    else:
        found = ()
    kept = (p for p in found if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    return sorted(kept, key=lambda p: p.name)


def _table(path: Path, *needed: str) -> pd.DataFrame:
    """A table of the source as text, its column names in lower case."""
    if not path.is_file():
        raise DatasetError("table", [_absent(path, "is not there")])
    return _with_columns(read_manifest(path), path, needed)


def _with_columns(frame: pd.DataFrame, path: Path, needed) -> pd.DataFrame:
    frame = frame.rename(columns=lambda c: c.strip().lower())
    if missing := [c for c in needed if c not in frame]:
        what = f"has no column {' or '.join(missing)}, only {', '.join(frame)}"
        raise DatasetError("table", [_absent(path, what)])
    return frame


def _key(name: str) -> str:
    """A file name without its image suffix, in lower case: lists say .png where the file is .jpg."""
    name = name.strip().lower()
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix in SUFFIXES | {".txt"} else name


def _site(url: str) -> str:
    return re.sub(r"^(https?://)?(www\.)?", "", url.strip().lower()).split("/")[0]


def _united(left: Path, right: Path) -> np.ndarray:
    one, other = read_mask(left), read_mask(right)
    if one.shape != other.shape:
        raise ImageError(f"{left} is {one.shape}, {right} {other.shape}: get both again")
    return one | other


def _coloured(path: Path, channel: int) -> np.ndarray:
    """Where one of red (0) and green (1) outshines the other colours; anything dark is neither."""
    from PIL import Image

    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB"), np.int16)
    others = np.delete(rgb, channel, axis=-1).max(axis=-1)
    return (rgb[..., channel] > 64) & (rgb[..., channel] > others + 32)
