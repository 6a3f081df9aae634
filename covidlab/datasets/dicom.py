"""CT volumes as DICOM: a phantom written as one series, and any series read back as one volume."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .manifest import COLUMNS, DatasetError, Problem, file_hash
from .readers import LUNG_WINDOW, ImageError, _dicom, _existing, _named, is_dicom, read_hu

if TYPE_CHECKING:
    from .phantom import Volume

HU_RANGE = (-1024, 3071)  # of 12 bits
KINDS = ("lung", "infection", "ground_glass", "consolidation", "effusion")
_GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
_HEADER = (
    *_GEOMETRY,
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SpacingBetweenSlices",
    "SliceThickness",
)


# ---- writing -----------------------------------------------------------------------------------


def write_dicom(
    volume: Volume,
    folder,
    patient_id: str,
    *,
    label: str | None = None,
    thickness: float | None = None,
    masks: bool = True,
) -> pd.DataFrame:
    """Write a phantom volume as one DICOM series, a dataset of its slices, and return the manifest.

    `folder` receives `ct/` (CT Image Storage, one file per slice, head first, Hounsfield units
    rounded to whole ones and stored as unsigned 12 bit), `masks/` (8-bit PNG, 0 or 255) and
    `manifest.csv`, so that `from_folder(folder)` reads it. It appears in one step when all is
    written. No file holds a date, and all UIDs come from the pixels, the geometry and the patient
    id: the same volume gives the same bytes (with the same pydicom and Pillow).

    Parameters
    ----------
    volume : hu within -1024..3071, slices head first and `spacing[0]` mm apart.
    folder : must not exist yet, or be empty.
    patient_id : 1..55 letters, digits, blanks and ``_ . -``; also part of the patient's name.
    label : class of every slice; None gives "infected" to slices with any infection in their mask,
        "free of infection" to the others.
    thickness : of the slices in mm, where it is not their spacing.
    masks : False leaves the masks out.

    Returns
    -------
    One row per slice, with masks of lung, infection, ground_glass, consolidation and effusion
    (`Dataset.mask(i, "effusion_mask")`) and z_mm, its height.

    Raises
    ------
    ValueError for an argument out of range; FileExistsError if something is in `folder` already;
    PermissionError if it cannot be written.
    """
    folder, patient_id = Path(folder).expanduser(), str(patient_id)
    thickness = float(volume.spacing[0] if thickness is None else thickness)
    _check(volume, patient_id, label, thickness)
    stored = _stored(volume.hu)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: delete it first, or give another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise PermissionError(
            f"cannot write to {folder.parent} ({error.strerror}): give another folder"
        ) from error
    try:
        images = _write_series(unfinished, volume, stored, patient_id, thickness)
        frame = pd.DataFrame(
            {
                **dict.fromkeys(COLUMNS, ""),
                "image": images,
                "label": _labels(volume) if label is None else label,
                "patient_id": patient_id,
                "modality": "CT",
                **(_write_masks(unfinished, volume) if masks else {}),
                "source": "phantom",
                "sha256": [file_hash(unfinished / name) for name in images],
                "z_mm": volume.z,
            }
        )
        frame.to_csv(unfinished / "manifest.csv", index=False, lineterminator="\n")
        os.chmod(unfinished, 0o755)  # mkdtemp makes it private
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return frame


def _check(volume, patient_id, label, thickness):
    if not re.fullmatch(r"[\w. -]{1,55}", patient_id, re.ASCII) or patient_id != patient_id.strip():
        raise ValueError(
            f"patient_id={patient_id!r} must be 1 to 55 letters, digits, blanks (inside) or _ . -"
        )
    if label is not None and not label:
        raise ValueError("label must not be empty: name the class, or give None")
    if not 0 < thickness < np.inf:
        raise ValueError(f"thickness must be above 0 mm, got {thickness}")
    arrays = {"hu": volume.hu} | {name: getattr(volume, name) for name in KINDS}
    shape = (len(volume.z), *volume.hu.shape[1:])
    if len(shape) != 3 or 0 in shape or any(a.shape != shape for a in arrays.values()):
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise ValueError(
            f"volume needs arrays (D, H, W) and D heights z, got {shapes}, z {shape[0]}"
        )
    if len(volume.spacing) != 3 or not all(0 < s < np.inf for s in volume.spacing):
        raise ValueError(f"volume.spacing must be three lengths above 0 mm, got {volume.spacing}")
    gaps = -np.diff(volume.z)
    if not np.allclose(gaps, volume.spacing[0], rtol=0, atol=0.02):
        raise ValueError(
            f"volume.z must fall by spacing[0] = {volume.spacing[0]:g} mm from slice to slice, head "
            f"first; it falls by {gaps.min():g} to {gaps.max():g} mm"
        )


def _stored(hu):
    low, high = HU_RANGE
    if not (np.isfinite(hu).all() and low <= np.rint(hu.min()) and np.rint(hu.max()) <= high):
        raise ValueError(
            f"volume.hu must lie in {low}..{high} HU (12 bit), got {hu.min():g}..{hu.max():g}: clip it"
        )
    return (np.rint(hu) - low).astype("<u2")


def _labels(volume):
    return np.where(volume.infection.any((1, 2)), "infected", "free of infection")


def _write_series(folder, volume, stored, patient_id, thickness):
    """All slices into `folder`/ct; returns their paths relative to `folder`."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
    from pydicom.valuerep import format_number_as_ds

    ds = format_number_as_ds
    geometry = repr(
        (patient_id, stored.shape, *map(float, (*volume.spacing, *volume.z, thickness)))
    )
    content = hashlib.sha256(geometry.encode() + stored.tobytes()).hexdigest()
    _, dy, dx = map(float, volume.spacing)
    x, y = (-(n - 1) / 2 * step for n, step in zip(stored.shape[:0:-1], (dx, dy), strict=True))
    images = [f"ct/{i + 1:04d}.dcm" for i in range(len(stored))]
    (folder / "ct").mkdir()
    for i, (name, pixels, z) in enumerate(zip(images, stored, volume.z, strict=True)):
        data = _series_tags(patient_id)
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
            generate_uid(entropy_srcs=[content, what]) for what in ("study", "series", "frame")
        )
        data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = generate_uid(entropy_srcs=[content, f"slice {i}"])
        data.InstanceNumber = i + 1
        data.ImagePositionPatient = [ds(x), ds(y), ds(float(z))]  # centre of the first pixel
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]  # columns to the left, rows to the back
        data.SliceLocation = ds(float(z))
        data.SliceThickness = ds(thickness)
        data.SpacingBetweenSlices = ds(float(volume.spacing[0]))
        data.PixelSpacing = [ds(dy), ds(dx)]
        data.Rows, data.Columns = pixels.shape
        data.PixelData = pixels.tobytes()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(folder / name, enforce_file_format=True)
    return images


def _series_tags(patient_id):
    """What all slices have in common; tags that must be there but are not known are empty."""
    from pydicom.dataset import Dataset as Tags

    data = Tags()
    tags = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "Manufacturer": "covidlab phantom",
        "StudyDescription": "SYNTHETIC phantom thorax, not a patient",
        "SeriesDescription": "SYNTHETIC chest CT, not a patient",
        "ImageComments": "SYNTHETIC: drawn by the covidlab phantom; not a patient, not for clinical use",
        "QualityControlImage": "YES",  # "a quality control or phantom image"
        "PatientName": f"Phantom^{patient_id}",
        "PatientID": patient_id,
        "StudyID": "1",
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
        "PatientPosition": "HFS",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "RescaleIntercept": HU_RANGE[0],
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": LUNG_WINDOW[0],
        "WindowWidth": LUNG_WINDOW[1],
        "WindowCenterWidthExplanation": "lung",
    }
    empty = (
        "StudyDate StudyTime AccessionNumber ReferringPhysicianName PatientBirthDate PatientSex "
        "KVP PositionReferenceIndicator"
    )
    for name, value in {**tags, **dict.fromkeys(empty.split())}.items():
        setattr(data, name, value)
    return data


def _write_masks(folder, volume):
    """All masks into `folder`/masks; returns their columns of the manifest."""
    from PIL import Image

    columns = {}
    for kind in KINDS:
        (folder / "masks" / kind).mkdir(parents=True)
        names = [f"masks/{kind}/{i + 1:04d}.png" for i in range(len(volume))]
        for name, mask in zip(names, getattr(volume, kind), strict=True):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
        columns[f"{kind}_mask"] = names
    return columns


# ---- reading -----------------------------------------------------------------------------------


def read_volume(
    source, series: str | None = None, *, uneven: bool = False
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A CT series from DICOM files, in whatever order and under whatever names they lie.

    Slices are sorted by their position along the slice normal, head first, and turned so that the
    patient's left is at the image's right and the back at the bottom, also for a prone scan.

    Parameters
    ----------
    source : a folder (with its subfolders; files that are not DICOM are passed over), or files.
    series : the SeriesInstanceUID to read, where there are several.
    uneven : True takes slices at uneven distances, or shifted against each other in their plane
        (gantry tilt), as they are; the spacing is then the median distance.

    Returns
    -------
    hu : (D, H, W) float32 in Hounsfield units.
    z : (D,) float64, position of each slice along the normal in mm, falling; upwards is positive.
    spacing : in mm, between slices, rows, columns.

    Raises
    ------
    FileNotFoundError : no such folder or file.
    ImageError : a file that is damaged, lacks its geometry, or a series without axial slices.
    DatasetError : no DICOM files, several series, not CT, slices of other sizes or orientations,
        the same position twice, missing slices. The tolerances are ours: 5 % of the distance
        between slices and at least 0.1 mm, one pixel in their plane. A series that lacks every
        other slice, or those at its ends, looks whole and is read as it is.
    """
    title, paths = _files(source)
    headers = _one_series(title, {path: _header(path) for path in paths}, series)
    _raise(title, _not_ct(headers))
    cuts = {path: _geometry(path, header) for path, header in headers.items()}
    _raise(title, _not_axial(cuts) or _of_another_kind(cuts))

    orientation = next(iter(cuts.values()))["ImageOrientationPatient"]
    normal = np.cross(orientation[:3], orientation[3:])
    normal *= np.sign(normal[2]) / np.linalg.norm(normal)
    place = {path: cut["ImagePositionPatient"] for path, cut in cuts.items()}
    paths = sorted(cuts, key=lambda path: -(place[path] @ normal))
    corners = np.array([place[path] for path in paths])
    z = corners @ normal
    gaps = -np.diff(z)
    rows, columns, (dy, dx) = (cuts[paths[0]][name] for name in _GEOMETRY[:3])
    _raise(title, _duplicates(paths, gaps))
    if not uneven:
        _raise(
            title, _gaps(paths, gaps) + _shifts(paths, corners - z[:, None] * normal, min(dy, dx))
        )
    if len(gaps):
        between = np.median(gaps) if uneven else gaps.mean()
    else:
        between = _thickness(paths[0], headers[paths[0]])

    turn = np.s_[:: int(np.sign(orientation[4])), :: int(np.sign(orientation[0]))]
    hu = np.empty((len(paths), int(rows), int(columns)), np.float32)
    for i, path in enumerate(paths):
        hu[i] = read_hu(path)[turn]
    return hu, z, (float(between), float(dy), float(dx))


def _files(source) -> tuple[str, list[Path]]:
    """What to call the source in a message, and its DICOM files."""
    if not isinstance(source, str | os.PathLike):
        paths = [Path(path) for path in source]
        return f"CT series of {len(paths)} file(s)", paths
    source = Path(source).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such folder or file; check the path")
    if source.is_file():
        return f"CT series of {source}", [source]
    paths = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".")
        and path.name != "DICOMDIR"
        and is_dicom(path)
    ]
    return f"CT series in {source}", paths


def _header(path) -> dict:
    """What is needed of a file's header, None where the file lacks it."""
    data = _dicom(_existing(path), header_only=True)
    with _named(path, "an unreadable header", "export it again"):
        return {name: data.get(name) for name in _HEADER}


def _raise(title, problems):
    if problems:
        raise DatasetError(title, problems)


def _one_series(title, headers, wanted):
    """The headers of one series; DatasetError naming all there are when it is not clear which."""
    found = {}
    for path, header in headers.items():
        found.setdefault(str(header["SeriesInstanceUID"] or ""), {})[path] = header
    if not found:
        what, remedy = "there are no DICOM files", "give the folder that holds the slices"
        raise DatasetError(title, [Problem("no slices", title, what, remedy)])
    if wanted is None and len(found) == 1:
        return next(iter(found.values()))
    if wanted in found:
        return found[wanted]
    title += " has several" if wanted is None else f" has no series {wanted!r}"
    remedy = "read this one with series=, or move the others away"
    problems = []
    for uid, some in found.items():
        path, header = next(iter(some.items()))
        name = header["SeriesDescription"] or "no description"
        what = f"{header['Modality']} ({name}), {len(some)} file(s) such as {path}"
        problems.append(Problem("series", uid or "(no UID)", what, remedy))
    raise DatasetError(title, problems)


def _not_ct(headers):
    remedy = "give the CT series; only CT has Hounsfield units"
    return [
        Problem("wrong modality", str(path), f"modality {header['Modality']}", remedy)
        for path, header in headers.items()
        if header["Modality"] not in ("CT", None, "")
    ]


def _geometry(path, header) -> dict[str, np.ndarray]:
    if missing := [name for name in _GEOMETRY if header[name] in (None, "")]:
        raise ImageError(
            f"{path}: lacks {', '.join(missing)}; export the series again as single-frame CT images"
        )
    with _named(path, "unreadable geometry", "export it again"):
        cut = {name: np.array(header[name], float) for name in _GEOMETRY}
        shapes = [cut[name].shape for name in _GEOMETRY]
        if shapes != [(), (), (2,), (6,), (3,)] or not all(
            np.isfinite(v).all() for v in cut.values()
        ):
            raise ValueError("a wrong number of values, or values that are not finite")
    return cut


def _not_axial(cuts):
    """Slices in other planes among axial ones, such as a localizer; ImageError if none is axial."""
    at = {path: cut["ImageOrientationPatient"] for path, cut in cuts.items()}
    others = [path for path in at if min(abs(at[path][[0, 4]])) < np.sqrt(0.5)]
    if len(others) == len(cuts):
        path = others[0]
        raise ImageError(
            f"{path}: not an axial slice (orientation {at[path].tolist()}), nor is any other of "
            f"{len(cuts)}; give axial images"
        )
    what = f"{len(cuts) - len(others)} of {len(cuts)} slices are axial, this has orientation"
    remedy = "leave it out: a localizer or another view is no slice of the stack"
    return [
        Problem("not an axial slice", str(path), f"{what} {at[path].tolist()}", remedy)
        for path in others
    ]


def _of_another_kind(cuts):
    """Slices whose size, pixel spacing or orientation is not that of most."""
    kinds = {
        path: tuple(tuple(np.atleast_1d(cut[name]).round(3) + 0.0) for name in _GEOMETRY[:4])
        for path, cut in cuts.items()
    }
    usual = Counter(kinds.values()).most_common(1)[0][0]
    return [
        Problem(
            "other geometry",
            str(path),
            "; ".join(
                f"{name} {list(map(float, a))}, of most {list(map(float, b))}"
                for name, a, b in zip(_GEOMETRY[:4], kind, usual, strict=True)
                if a != b
            ),
            "leave it out: give the files of one stack",
        )
        for path, kind in kinds.items()
        if kind != usual
    ]


def _duplicates(paths, gaps):
    return [
        Problem("duplicate slice", str(b), f"lies at the same place as {a}", "keep one of them")
        for a, b, gap in zip(paths[:-1], paths[1:], gaps, strict=True)
        if gap < 0.01
    ]


def _gaps(paths, gaps):
    usual = np.quantile(gaps, 0.5, method="lower") if len(gaps) else 0.0
    return [
        Problem(
            "missing slices" if gap > usual else "uneven slices",
            f"{a} and {b}",
            f"{gap:.2f} mm apart, most are {usual:.2f} mm",
            "add what is missing or leave out what does not belong, or take all with uneven=True",
        )
        for a, b, gap in zip(paths[:-1], paths[1:], gaps, strict=True)
        if abs(gap - usual) > max(0.05 * usual, 0.1)
    ]


def _shifts(paths, inplane, pixel):
    far = np.linalg.norm(inplane - inplane[0], axis=1)
    worst = int(np.argmax(far))
    if far[worst] <= pixel:
        return []
    what = f"is shifted by {far[worst]:.1f} mm in its plane against {paths[0]} (gantry tilt?)"
    remedy = "resample the series, or take it as it is with uneven=True"
    return [Problem("shifted slices", str(paths[worst]), what, remedy)]


def _thickness(path, header) -> float:
    """Of a single slice, which has no distance to the next."""
    given = header["SpacingBetweenSlices"] or header["SliceThickness"]
    with _named(path, "an unreadable slice thickness", "export it again"):
        if given is None or not float(given) > 0:
            raise ImageError(f"{path}: one slice without SliceThickness; give the whole series")
        return float(given)
