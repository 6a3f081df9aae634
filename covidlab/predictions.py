"""What a model said about the rows of a manifest: what every number, map and figure takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Predictions:
    """Class probabilities beside the manifest rows they belong to.

    Parameters
    ----------
    frame : manifest rows, one per prediction and in the same order; needs `label`, and
        `patient_id` wherever patients are to be kept together.
    probabilities : (N, C) float32 in [0, 1], rows summing to 1.
    classes : the C class names, in the order of the columns.
    positive : the class that `score` speaks of; None for more than two classes without one.
    name : how tables and legends call it.

    Raises
    ------
    ValueError : shapes that do not agree, rows that are not probabilities, a label or a positive
        class that is not among `classes`.
    """

    frame: pd.DataFrame = field(repr=False)
    probabilities: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    positive: str | None = None
    name: str = ""

    def __post_init__(self):
        p = np.asarray(self.probabilities, dtype=np.float32)
        object.__setattr__(self, "probabilities", p)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "frame", self.frame.reset_index(drop=True))
        if p.shape != (len(self.frame), len(self.classes)):
            raise ValueError(
                f"probabilities have shape {p.shape}, but {len(self.frame)} rows and "
                f"{len(self.classes)} classes ask for {(len(self.frame), len(self.classes))}"
            )
        if not np.isfinite(p).all():
            raise ValueError("probabilities hold NaN or infinity: did the training diverge?")
        if p.size and (p.min() < -1e-4 or np.abs(p.sum(1) - 1).max() > 1e-3):
            raise ValueError(
                "probabilities must be ≥ 0 with rows summing to 1: apply softmax first"
            )
        unknown = sorted(set(self.frame["label"]) - set(self.classes))
        if unknown:
            raise ValueError(f"labels {unknown} are not among the classes {list(self.classes)}")
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"positive={self.positive!r} is not among {list(self.classes)}")

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def truth(self) -> np.ndarray:
        """(N,) int: index into `classes` of the true class."""
        return self.frame["label"].map({c: i for i, c in enumerate(self.classes)}).to_numpy(int)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) int: index into `classes` of the most probable class."""
        return self.probabilities.argmax(1)

    @property
    def score(self) -> np.ndarray:
        """(N,) float32: probability of the positive class."""
        return self.probabilities[:, self._positive_index()]

    @property
    def is_positive(self) -> np.ndarray:
        """(N,) bool: is the true class the positive one."""
        return self.truth == self._positive_index()

    def _positive_index(self) -> int:
        if self.positive is None:
            raise ValueError(f"no positive class is set; choose one of {list(self.classes)}")
        return self.classes.index(self.positive)


@dataclass(frozen=True)
class MaskPredictions:
    """Class probabilities of every pixel, beside the manifest rows and the true masks.

    Parameters
    ----------
    frame : manifest rows, one per image and in the same order; needs `patient_id` wherever
        patients are to be kept together.
    probabilities : (N, C, H, W) in [0, 1], summing to 1 over C. float16 stays so, to save memory;
        anything else becomes float32.
    truth : (N, H, W) index into `classes` of each pixel's true class, or bool for two classes;
        kept as uint8.
    classes : the C class names, the background first.
    name : how tables and legends call it.

    Raises
    ------
    ValueError : shapes that do not agree, pixels whose values are not probabilities, true labels
        that are no class.
    """

    frame: pd.DataFrame = field(repr=False)
    probabilities: np.ndarray = field(repr=False)
    truth: np.ndarray = field(repr=False)
    classes: tuple[str, ...] = ("background", "infection")
    name: str = ""

    def __post_init__(self):
        p, truth = np.asarray(self.probabilities), np.asarray(self.truth)
        if p.dtype != np.float16:
            p = p.astype(np.float32, copy=False)
        classes = tuple(self.classes)
        if len(set(classes)) < max(len(classes), 2):
            raise ValueError(f"classes {classes}: two or more different names are needed")
        if p.ndim != 4 or p.shape[:2] != (len(self.frame), len(classes)):
            raise ValueError(
                f"probabilities have shape {p.shape}, but {len(self.frame)} rows and "
                f"{len(classes)} classes ask for ({len(self.frame)}, {len(classes)}, H, W)"
            )
        if truth.shape != (p.shape[0], *p.shape[2:]):
            raise ValueError(
                f"truth has shape {truth.shape}, the probabilities ask for "
                f"{(p.shape[0], *p.shape[2:])}; bring both to one size"
            )
        if truth.dtype != bool and not np.issubdtype(truth.dtype, np.integer):
            raise ValueError(f"truth is {truth.dtype}; pass class indices as integers, or bool")
        if truth.size and not (0 <= truth.min() and truth.max() < len(classes)):
            raise ValueError(
                f"truth goes from {truth.min()} to {truth.max()}, but {len(classes)} classes are "
                f"0 to {len(classes) - 1}; masks of 0 and 255 need `> 0`"
            )
        _check_pixels(p)
        object.__setattr__(self, "probabilities", p)
        object.__setattr__(self, "truth", truth.astype(np.uint8, copy=False))
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "frame", self.frame.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N, H, W) uint8: the most probable class of each pixel, the first of equals."""
        if len(self.classes) == 2:
            return (self.probabilities[:, 1] > self.probabilities[:, 0]).astype(np.uint8)
        return self.probabilities.argmax(1).astype(np.uint8)

    @property
    def patients(self) -> np.ndarray:
        """(N,) str: the patient of each image; an image of unknown patient stands for itself."""
        if "patient_id" not in self.frame:
            raise ValueError("the predictions' frame has no patient_id column; add one")
        ids = self.frame["patient_id"]
        return ids.where(ids.notna() & (ids != ""), [f"image:{i}" for i in ids.index]).to_numpy(str)

    def at(self, threshold: float) -> np.ndarray:
        """(N, H, W) uint8: 1 where the second of two classes has at least this probability."""
        if len(self.classes) != 2:
            raise ValueError(f"a threshold needs two classes, not {list(self.classes)}")
        if not 0 <= threshold <= 1:
            raise ValueError(
                f"threshold={threshold} is no probability; 0 ≤ threshold ≤ 1 is needed"
            )
        # A Python float is compared in the probabilities' own precision.
        return (self.probabilities[:, 1] >= float(threshold)).astype(np.uint8)


def joined(
    parts: Iterable[Predictions | MaskPredictions], name: str | None = None, by: str | None = None
) -> Predictions | MaskPredictions:
    """The test parts of several folds as one, so that all images are measured together.

    Rows keep the order of the parts or, with `by="image"`, that of a column: two networks tested on
    the same folds in whatever order then stand row beside row, as `evaluation.difference` needs it.
    `name` is the first part's by default.

    Raises ValueError where there is nothing to join, where classes differ or two kinds of
    predictions meet, and where an image is in two parts: it would count twice.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("there are no predictions to join")
    first = parts[0]
    for part in parts[1:]:
        if type(part) is not type(first) or part.classes != first.classes:
            raise ValueError(
                f"{part.name or 'a part'} is {type(part).__name__} of {list(part.classes)}, "
                f"{first.name or 'the first'} {type(first).__name__} of {list(first.classes)}"
            )
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    known = [column for column in ("source", "image") if column in frame]
    twice = frame.duplicated(known) if "image" in known else pd.Series(False, frame.index)
    if twice.any():
        raise ValueError(
            f"{frame['image'][twice].iloc[0]} is in two parts: it would count twice. Parts must "
            "be test parts of one cross-validation"
        )
    order = slice(None) if by is None else frame[by].argsort(kind="stable").to_numpy()
    rows = {"probabilities": np.concatenate([part.probabilities for part in parts])[order]}
    if isinstance(first, MaskPredictions):
        rows["truth"] = np.concatenate([part.truth for part in parts])[order]
    return replace(first, frame=frame.iloc[order], name=name or first.name, **rows)


def _check_pixels(probabilities: np.ndarray):
    """Image by image, so that no second array of the whole size is made."""
    slack = 4e-3 if probabilities.dtype == np.float16 else 1e-3
    for i, image in enumerate(probabilities):
        if not np.isfinite(image).all():
            raise ValueError(
                f"probabilities of row {i} hold NaN or infinity: did the training diverge?"
            )
        total = image.sum(0, dtype=np.float32)
        if image.size and (image.min() < -1e-4 or np.abs(total - 1).max() > slack):
            raise ValueError(
                f"probabilities of row {i} must be ≥ 0 and sum to 1 over the classes: apply "
                "softmax over axis 1 first"
            )
