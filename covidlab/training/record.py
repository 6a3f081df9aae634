"""`RunRecord`: one training as a JSON file that says what was done, to what, with what, and what came out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from covidlab import paths


@dataclass
class RunRecord:
    """One training.

    `recipe` and `data` say what was trained on what; `seed` with what luck; `environment` on
    what; `history` has one row per epoch; `best_epoch` (counted from 1) is the one whose weights
    were kept; `metrics` whatever was measured since, by name of the part; `weights_from` the run
    whose weights it began with, if any. `folder` holds record.json and weights.pth.
    """

    folder: Path
    recipe: dict
    data: dict
    seed: int
    environment: dict
    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    started: str = ""
    seconds: float = 0.0
    metrics: dict[str, dict] = field(default_factory=dict)
    weights_from: str = ""

    def __repr__(self):
        epochs = f"{len(self.history)} epochs, best {self.best_epoch}"
        return (
            f"RunRecord({self.recipe['network']} on {self.data['dataset']}, seed {self.seed}: {epochs}, "
            f"{self.seconds:.0f} s; {self.folder.name})"
        )

    @property
    def weights(self) -> Path:
        return self.folder / "weights.pth"

    def add(self, part: str, metrics: dict) -> None:
        """Adds what was measured on a part of the data ("test", a site…) and saves."""
        self.metrics[part] = {k: _plain(v) for k, v in metrics.items()}
        self.save()

    def save(self) -> Path:
        """Writes record.json, whole or not at all."""
        content = asdict(self)
        content.pop("folder")
        text = json.dumps(content, indent=1, default=_plain, ensure_ascii=False)
        return write_whole(self.folder / "record.json", text.encode())

    @classmethod
    def load(cls, folder) -> RunRecord:
        """Reads a record; FileNotFoundError or ValueError name the file."""
        path = Path(folder) / "record.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run record at {path}: the training did not finish")
        try:
            return cls(folder=Path(folder), **json.loads(path.read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(
                f"{path} is not a run record ({error}): delete it and train again"
            ) from error


def run_key(trained: list[str], data: dict, seed: int) -> str:
    """Sixteen hex digits that name a training: what was trained, on which data and split, which seed."""
    text = json.dumps([trained, data["fingerprint"], data["split"], seed])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file so that it is never found half-written."""
    with paths.replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _plain(value):
    """NumPy and torch scalars, paths and tuples as what JSON knows; NaN as None."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if value == value else None
    return value if isinstance(value, int | str | bool | type(None) | list | dict) else str(value)
