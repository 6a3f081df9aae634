"""A dataset is a table, a folder and a description: `Dataset`, `Card`, and what can be wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = (
    "image",
    "label",
    "patient_id",
    "split",
    "modality",
    "lung_mask",
    "infection_mask",
    "source",
    "sha256",
)
MASKS = ("lung_mask", "infection_mask")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind, the file or column it is in, what it is, and the remedy."""

    kind: str
    where: str
    what: str
    remedy: str

    def __str__(self):
        return f"[{self.kind}] {self.where}: {self.what} → {self.remedy}"


class DatasetError(ValueError):
    """Everything that is wrong with a dataset at once; `.problems` holds all, the message the first ten."""

    def __init__(self, title: str, problems):
        self.problems = list(problems)
        shown = [f"  {p}" for p in self.problems[:10]]
        rest = len(self.problems) - len(shown)
        if rest > 0:
            shown.append(f"  … and {rest} more: `covidlab data check` lists all of them")
        super().__init__("\n".join([f"{title}: {len(self.problems)} problem(s)", *shown]))


@dataclass(frozen=True)
class Card:
    """Who made a dataset, what may be done with it, what its classes are, and what to beware of.

    `classes` is ordered; `positive` is the class that binary metrics speak of.
    """

    id: str
    title: str = ""
    modality: str = ""
    task: str = "classification"
    classes: tuple[str, ...] = ()
    positive: str | None = None
    licence: str = "not stated"
    citation: str = ""
    problems: tuple[str, ...] = ()
    get: str = ""
    synthetic: bool = False

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "problems", tuple(self.problems))
        if self.positive is not None and self.classes and self.positive not in self.classes:
            raise ValueError(
                f"card {self.id!r}: positive class {self.positive!r} is not in {self.classes}"
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images on disk and what is known of each: immutable, filtering gives a new one.

    Parameters
    ----------
    frame : the manifest, one row per image, with the columns of `COLUMNS` ("" where unknown) and
        any others; `image` and the mask columns are paths relative to `root`.
    root : folder those paths start from.
    card : what is known of the whole.
    """

    frame: pd.DataFrame = field(repr=False)
    root: Path
    card: Card

    def __post_init__(self):
        frame = self.frame.reset_index(drop=True).copy()
        missing = [c for c in ("image", "label") if c not in frame]
        if missing:
            raise DatasetError(
                f"dataset {self.card.id!r}",
                [
                    Problem(
                        "missing column",
                        f"manifest of {self.root}",
                        f"has no column {c!r}, only {list(frame.columns)}",
                        "rename the column or add it; `image` and `label` are required",
                    )
                    for c in missing
                ],
            )
        for c in COLUMNS:
            frame[c] = frame[c].fillna("").astype(str) if c in frame else ""
        for c in ("image", *MASKS):  # manifests written on Windows
            frame[c] = frame[c].str.replace("\\", "/", regex=False)
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "root", Path(self.root))
        if not self.card.classes:
            labels = tuple(sorted(set(frame["label"]) - {""}))
            object.__setattr__(self, "card", replace(self.card, classes=labels))

    def __len__(self):
        return len(self.frame)

    def __repr__(self):
        counts = ", ".join(f"{k} {v}" for k, v in self.frame["label"].value_counts().items())
        return f"Dataset({self.card.id!r}, {len(self)} images: {counts or 'empty'})"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    @property
    def patients(self) -> np.ndarray:
        """(N,) str: the patient of each image; an image of unknown patient stands for itself."""
        ids = self.frame["patient_id"]
        return ids.where(ids != "", "image:" + self.frame["image"]).to_numpy(str)

    @property
    def targets(self) -> np.ndarray:
        """(N,) int: index into `classes`. Raises ValueError for labels that are none of them."""
        targets = self.frame["label"].map({c: i for i, c in enumerate(self.classes)})
        if targets.isna().any():
            unknown = sorted(set(self.frame["label"][targets.isna()]))
            raise ValueError(
                f"{self.card.id!r} has labels {unknown} that are not in {self.classes}"
            )
        return targets.to_numpy(int)

    def where(self, keep) -> Dataset:
        """The rows for which `keep` holds: a boolean array, positions, or a pandas query string.

        Raises ValueError when nothing is left.
        """
        if isinstance(keep, str):
            frame = self.frame.query(keep)
        else:
            keep = np.asarray(keep)
            frame = self.frame[keep] if keep.dtype == bool else self.frame.iloc[keep]
        if frame.empty:
            raise ValueError(f"no image of {self.card.id!r} is left after keeping {keep!r}")
        return Dataset(frame, self.root, self.card)

    def relabel(self, mapping: Mapping[str, str], positive: str | None = None) -> Dataset:
        """Labels renamed or merged; labels mapped to None are dropped, unnamed ones raise KeyError."""
        unnamed = [c for c in {*self.classes, *self.frame["label"]} if c not in mapping]
        if unnamed:
            raise KeyError(f"relabel of {self.card.id!r}: say what becomes of {sorted(unnamed)}")
        labels = self.frame["label"].map(mapping)
        classes = tuple(dict.fromkeys(mapping[c] for c in self.classes if mapping[c] is not None))
        frame = self.frame.assign(label=labels)[labels.notna()]
        return Dataset(frame, self.root, replace(self.card, classes=classes, positive=positive))

    def path(self, i: int, column: str = "image") -> Path | None:
        """Path of the image (or mask) of row `i`; None when the row has none."""
        name = self.frame[column].iat[i]
        return self.root / name if name else None

    def image(self, i: int) -> np.ndarray:
        """(H, W) float32 in [0, 1]: the image of row `i`."""
        from .readers import read_image

        return read_image(self.path(i))

    def mask(self, i: int, column: str = "infection_mask") -> np.ndarray | None:
        """(H, W) bool: a mask of row `i`; None when the row has none."""
        from .readers import read_mask

        path = self.path(i, column)
        return None if path is None else read_mask(path)

    def counts(self) -> pd.DataFrame:
        """Images and patients of each class (and split, where the manifest has one)."""
        frame = self.frame.assign(patient=self.patients)
        by = ["label", "split"] if (frame["split"] != "").any() else ["label"]
        table = frame.groupby(by, sort=False).agg(
            images=("image", "size"), patients=("patient", "nunique")
        )
        return table.sort_index()

    def fingerprint(self, masks: bool = False) -> str:
        """Hash of every row's path, label, patient and image content, with `masks` theirs too.

        The same data give the same hash on any machine. Contents are known by the manifest's
        sha256, which is verified whenever a file is decoded, else by reading the file.
        """
        digest = hashlib.sha256()
        columns = ["image", "label", "patient_id", "sha256", *(MASKS if masks else ())]
        for name, label, patient, known, *files in self.frame[columns].to_numpy(str):
            contents = [known or file_hash(self.root / name)]
            contents += [file_hash(self.root / f) if f else "" for f in files]
            digest.update("\x1f".join([name, label, patient, *contents]).encode() + b"\x1e")
        return digest.hexdigest()

    def check(self, deep: bool = True) -> list[Problem]:
        """Everything that is wrong, without stopping at the first; see `datasets.check`."""
        from .checks import check

        return check(self, deep=deep)


def file_hash(path: Path) -> str:
    """sha256 of a file in hex, remembered until the file's size or time of change differ."""
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _file_hash(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> pd.DataFrame:
    """A manifest CSV with every cell as text and "" where nothing is known.

    Raises FileNotFoundError or DatasetError, naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}: give the folder that holds manifest.csv")
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        problem = Problem("unreadable manifest", str(path), str(error), "save it as UTF-8 CSV")
        raise DatasetError("manifest", [problem]) from error
