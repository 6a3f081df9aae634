"""What a model said about the rows of a manifest: the one type every number, map and figure takes."""

from __future__ import annotations

from dataclasses import dataclass, field

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
