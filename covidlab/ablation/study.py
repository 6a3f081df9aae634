"""`Study`: a base recipe and the factors to vary, planned, trained and read as one table."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covidlab import paths
from covidlab.training.recipe import Recipe
from covidlab.training.record import RunRecord, write_whole

from . import factors as levels_of

DESIGNS = ("grid", "one at a time", "sample")
SPLITS = ("auto", "published", "random")


@dataclass(frozen=True)
class Study:
    """What happens to a recipe when something in it, or in its data, is another?

    Parameters
    ----------
    name : also its folder's, below `paths.runs() / "studies"`.
    base : the recipe that is varied, at `profile` ("smoke", "fast" or "paper").
    factors : {factor: levels}, the first level being what the others are compared with. A factor is
        a field of `Recipe`, an option (`options.width`, `augment.max_rotate`), one of the data
        (`dataset`, `where`, `split_by`, `train_size`, `data.n_patients`), `weights` to start from
        (a file or a run's folder; "" for none), or a name of yours for a bundle of these. Levels
        are a list of values, {level: value}, or for a bundle {level: {setting: value}}.
    dataset, data, where : a catalogue id, folder or CSV; options of a generated set; a pandas query
        for the rows to keep.
    seeds : one training of each cell for each.
    folds : 0 for one split, else so many folds, the same for every seed.
    split : of one split, "published" by the makers, "random" (another for each seed), or "auto":
        published where there is one and splits are by patient.
    split_by, test, valid : as in `datasets.split`.
    design : "grid", every combination of levels; "one at a time", all first levels and then one
        factor moved; "sample", `n` cells of the grid drawn with `seed` (more when `n` grows).
    precision : as in `training.learner`.

    Raises ValueError, before anything is trained, for factors there are not, levels a recipe
    refuses, or two levels or factors that set the same.

    Notes
    -----
    `train_size` is the share of the training patients (of images, where the split is by image)
    that is kept, within each class; for one seed, smaller shares are parts of larger ones.
    """

    name: str
    base: Recipe
    factors: Mapping[str, Any]
    dataset: str
    seeds: Sequence[int] = (0, 1, 2)
    folds: int = 0
    split: str = "auto"
    split_by: str = "patient"
    test: float = 0.2
    valid: float = 0.2
    where: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "fast"
    design: str = "grid"
    n: int = 0
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self):
        self._check()
        object.__setattr__(self, "dataset", _located(self.dataset))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        for name in ("factors", "data"):
            object.__setattr__(self, name, levels_of.frozen(getattr(self, name)))
        _ = self.plan  # every level is tried on the recipe

    def _check(self):
        wrong = None
        if not re.fullmatch(r"\w[\w .+-]*", str(self.name)):
            wrong = f"name={self.name!r} must do as a folder's: letters, digits, spaces, . + - _"
        elif not isinstance(self.base, Recipe):
            wrong = f"base={type(self.base).__name__} must be a training.Recipe"
        elif not isinstance(self.factors, Mapping) or not self.factors:
            wrong = "factors is empty: name at least one, {'enhance': ['none', 'idwt']}"
        elif isinstance(self.seeds, str | int) or not self.seeds:
            wrong = f"seeds={self.seeds!r} must be a list of whole numbers"
        elif not all(isinstance(s, int) and s >= 0 for s in self.seeds):
            wrong = f"seeds={self.seeds!r} must be whole numbers of at least 0"
        elif len(set(self.seeds)) < len(self.seeds):
            wrong = f"seeds={self.seeds!r} name a seed twice"
        elif self.folds and (not isinstance(self.folds, int) or self.folds < 2):
            wrong = f"folds={self.folds!r} must be 0 (one split) or at least 2"
        elif self.split not in SPLITS:
            wrong = f"split={self.split!r} must be one of {', '.join(SPLITS)}"
        elif self.split_by not in ("patient", "image"):
            wrong = f"split_by={self.split_by!r} must be 'patient' or 'image'"
        elif not (0 < self.test < 1 and 0 < self.valid < 1):
            wrong = f"test={self.test!r} and valid={self.valid!r} must be between 0 and 1"
        elif self.design not in DESIGNS:
            wrong = f"design={self.design!r} must be one of {', '.join(DESIGNS)}"
        elif (self.design == "sample") != (self.n > 0):
            wrong = f"n={self.n} is for design='sample', which needs it above 0"
        elif self.precision not in ("auto", "bf16", "fp32"):
            wrong = f"precision={self.precision!r} must be auto, bf16 or fp32"
        if wrong:
            raise ValueError(f"study {self.name!r}: {wrong}")

    def but(self, **changes) -> Study:
        """The same study with some of it changed: more seeds, levels or factors."""
        return replace(self, **changes)

    # --- the plan --------------------------------------------------------------------------------

    @cached_property
    def levels(self) -> dict[str, dict[str, dict]]:
        """{factor: {level: {setting: value}}}; a factor's first level is its baseline."""
        found = {name: levels_of.levels(name, given) for name, given in self.factors.items()}
        sets = {name: {k for s in its.values() for k in s} for name, its in found.items()}
        for a, b in itertools.combinations(sets, 2):
            if both := sets[a] & sets[b]:
                raise ValueError(
                    f"study {self.name!r}: factors {a!r} and {b!r} both set {sorted(both)}: leave "
                    "it in one of them"
                )
        if "split_by" in set().union(*sets.values()) and self.split == "published":
            raise ValueError(
                f"study {self.name!r}: split_by does nothing to split='published': use 'random'"
            )
        return found

    def cells(self) -> list[dict[str, str]]:
        """The combinations of levels that are tried, {factor: level} each."""
        names = {factor: list(its) for factor, its in self.levels.items()}
        if self.design == "one at a time":
            first = {factor: its[0] for factor, its in names.items()}
            moved = [first | {f: level} for f, its in names.items() for level in its[1:]]
            return [first, *moved]
        grid = [dict(zip(names, cell, strict=True)) for cell in itertools.product(*names.values())]
        if self.design == "sample":
            if self.n > len(grid):
                raise ValueError(
                    f"study {self.name!r}: n={self.n} of a grid of {len(grid)} cells: lower n"
                )
            drawn = np.random.default_rng(self.seed).permutation(len(grid))[: self.n]
            grid = [grid[i] for i in drawn]
        return grid

    @cached_property
    def plan(self) -> list[Run]:
        """Every training, one seed after the other: a study that is stopped has whole seeds."""
        base, cells = self.base.at(self.profile).but(laptop={}), []
        for cell in self.cells():
            settings = {k: v for f, level in cell.items() for k, v in self.levels[f][level].items()}
            try:
                recipe = levels_of.applied(base, settings)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"study {self.name!r}: the recipe refuses {_told(cell)}: {error}. Change the "
                    "level, or bundle what belongs together"
                ) from error
            cells.append((cell, recipe, self._data(settings)))
        folds = range(1, self.folds + 1) if self.folds else (0,)
        runs = [
            Run(cell, recipe, data, seed, fold, self.precision)
            for seed, fold in itertools.product(self.seeds, folds)
            for cell, recipe, data in cells
        ]
        of = {}
        for run in runs:
            twin = of.setdefault(run.id, run)
            if twin is not run:
                raise ValueError(
                    f"study {self.name!r}: {_told(twin.levels)} and {_told(run.levels)} are the "
                    "same training: leave one out"
                )
        return runs

    def _data(self, settings: Mapping) -> dict:
        """Everything that decides what a run is trained and tested on."""
        by_image = "split_by" in settings or self.split_by == "image"
        whole = {
            "dataset": self.dataset,
            "where": self.where,
            "data": {**self.data, **levels_of.dotted("data", settings)},
            "profile": self.profile,
            "folds": self.folds,
            "split": "random" if self.split == "auto" and by_image else self.split,
            "split_by": self.split_by,
            "test": self.test,
            "valid": self.valid,
            "train_size": 1.0,
            "weights": "",
        }
        whole |= {k: v for k, v in settings.items() if k in levels_of.DATA}
        return whole | {"dataset": _located(whole["dataset"])}

    def runs(self) -> pd.DataFrame:
        """The planned trainings: a column a factor, seed, fold (0: one split), state, and run.

        `state` is "done", "failed" (tried again by `run`) or "missing"; `run` names its folder.
        """
        rows = [{**r.levels, "seed": r.seed, "fold": r.fold} for r in self.plan]
        table = pd.DataFrame(rows)
        table["state"] = [self.state(r) for r in self.plan]
        table["run"] = [r.id for r in self.plan]
        return table

    # --- on disk ---------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return paths.runs() / "studies" / self.name

    def state(self, run: Run) -> str:
        """ "done", "failed" or "missing"."""
        if self._record_folder(run) is not None:
            return "done"
        return "failed" if (self.folder / "runs" / run.id / "failed.json").is_file() else "missing"

    def _record_folder(self, run: Run) -> Path | None:
        file = self.folder / "runs" / run.id / "run.json"
        if not file.is_file():
            return None
        folder = paths.runs() / self._pointer(run)["record"]
        whole = all((folder / name).is_file() for name in ("record.json", "predictions.npz"))
        return folder if whole else None

    def _pointer(self, run: Run) -> dict:
        return json.loads((self.folder / "runs" / run.id / "run.json").read_text())

    def definition(self) -> dict:
        """What two calls of one study must agree on."""
        base = self.base.at(self.profile).asdict()
        for name in ("name", "source", "folds"):
            del base[name]
        shared = {k: v for k, v in self._data({}).items() if k not in ("train_size", "weights")}
        content = {"base": base, "data": shared, "precision": self.precision}
        return json.loads(json.dumps(content | {"levels": self.levels, "seeds": self.seeds}))

    def begin(self, fingerprints: Mapping[str, str], write: bool = True) -> None:
        """Writes the study's definition, if it agrees with what is in its folder already.

        Factors, levels and seeds may be added. Raises ValueError for anything else.
        """
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        file, new = self.folder / "study.json", self.definition()
        with FileLock(self.folder / ".study.lock"):
            if file.is_file():
                old = json.loads(file.read_text())
                self._agree(old, new, fingerprints)
                fingerprints = old["fingerprints"] | fingerprints
                new["seeds"] = sorted({*old["seeds"], *new["seeds"]})
            if not write:
                return
            last = {k: getattr(self, k) for k in ("profile", "design", "n", "seed")}
            content = new | {"fingerprints": dict(fingerprints), "last asked": last}
            write_whole(file, json.dumps(content, indent=1, ensure_ascii=False).encode())

    def _agree(self, old: dict, new: dict, fingerprints: Mapping[str, str]):
        remedy = f"choose another name, or delete {self.folder}"
        for part in ("base", "data"):
            if old[part] != new[part]:
                changed = [k for k in new[part] if old[part].get(k) != new[part][k]]
                was = ", ".join(f"{k}={old[part].get(k)!r}" for k in changed)
                raise ValueError(f"a study {self.name!r} is there with another {was}: {remedy}")
        if old["precision"] != new["precision"]:
            raise ValueError(
                f"a study {self.name!r} is there at precision={old['precision']!r}: {remedy}"
            )
        for factor, levels in old["levels"].items():
            now = new["levels"].get(factor, {})
            if lost := [name for name in levels if name not in now]:
                raise ValueError(
                    f"study {self.name!r} was begun with {factor}: {', '.join(lost)}. Keep what "
                    f"there is and add to it, or {remedy}"
                )
            if other := [name for name in levels if levels[name] != now[name]]:
                raise ValueError(
                    f"study {self.name!r} was begun with another meaning of {factor}: "
                    f"{', '.join(other)}: {remedy}"
                )
        for name, fingerprint in fingerprints.items():
            if old["fingerprints"].get(name, fingerprint) != fingerprint:
                raise ValueError(
                    f"the images of {name} are not those study {self.name!r} was begun with: {remedy}"
                )

    def write(self, path) -> Path:
        """Writes the study as a TOML file that `ablation.read` gives back."""
        from .toml import write

        return write(self, path)

    # --- trained ---------------------------------------------------------------------------------

    def run(
        self,
        executor=None,
        workers: int = 2,
        progress: bool = True,
        threads: int = 1,
        gpus: int = 1,
        patience: float = 300,
    ) -> pd.DataFrame:
        """Trains what is missing and returns `table()`.

        A run that fails is recorded with its error, the others go on, and the next call tries it
        again; so it does with runs that were lost with their worker. Stop and call again at will.

        Parameters
        ----------
        executor : any of `concurrent.futures`, of processes: torch's seed is the process's, so that
            threads are refused. On a cluster `client.get_executor(pure=False)` of a dask.distributed
            client. None starts `workers` processes here with loky, and when one of them dies
            starts others for the runs that were lost; a run that two workers died of has failed.
        workers : of those; 0 trains in this process, one run after the other.
        threads : torch's threads in each; results may differ in the last digits with their number.
        gpus : for each run, through fastai's `distrib_ctx` (needs the package accelerate): a batch
            is divided among them. Written by its documentation and not tried on several GPUs.
        patience : seconds until the first worker of `executor` must have answered.

        Raises, before anything is trained: ValueError for another study of this name, bad levels
        or splits; DatasetError for bad data; TimeoutError when no worker answers; OSError when
        there is no room to write. Warns of runs that failed or were lost.
        """
        from .engine import run

        return run(self, executor, workers, progress, threads, gpus, patience)

    def table(self) -> pd.DataFrame:
        """A row a run that finished or failed: levels, seed, fold, state, metrics, and where it is.

        `folder` holds record, weights and predictions of a finished run, and of a failed one
        failed.json with the traceback that `error` ends. `test_part` names the test images: runs
        that share it were tested on the same.
        `.attrs` has `study`, `factors` (with their levels in order), and how many runs were
        `planned`, and ever `tried` and `failed` in this study.
        """
        rows = []
        for run in self.plan:
            row = {**run.levels, "seed": run.seed, "fold": run.fold}
            folder = self._record_folder(run)
            failed = self.folder / "runs" / run.id / "failed.json"
            if folder is not None:
                measured = _measured(RunRecord.load(folder))
                rows.append(row | measured | {"test_part": self._pointer(run)["test_part"]})
            elif failed.is_file():
                error = json.loads(failed.read_text())["error"]
                rows.append(row | {"state": "failed", "error": error, "folder": str(failed.parent)})
        table = pd.DataFrame(
            rows, columns=None if rows else [*self.levels, "seed", "fold", "state"]
        )
        last = [c for c in ("test_part", "error", "folder") if c in table]
        table = table[[c for c in table if c not in last] + last]
        everything = list((self.folder / "runs").glob("*"))
        table.attrs = {
            "study": self.name,
            "factors": {factor: list(its) for factor, its in self.levels.items()},
            "planned": len(self.plan),
            "tried": sum(any(f.glob("[rf]*.json")) for f in everything),
            "failed": sum((f / "failed.json").is_file() for f in everything),
        }
        return table

    def predictions(self, run):
        """What a finished run said of its test part: `Predictions` or `MaskPredictions`.

        `run` is a row of `table()`, or its `folder`.
        """
        from .jobs import predictions

        return predictions(run["folder"] if isinstance(run, pd.Series | Mapping) else run)


@dataclass(frozen=True)
class Run:
    """One planned training: levels for the table, and all that decides its result."""

    levels: Mapping[str, str]
    recipe: Recipe
    data: Mapping[str, Any]
    seed: int
    fold: int
    precision: str

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits: the same training is the same run in any design."""
        content = [self.recipe.hash(), self.data, self.seed, self.fold, self.precision]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _located(dataset: str) -> str:
    """A path from anywhere; an id stays one."""
    path = Path(dataset).expanduser()
    return str(path.resolve()) if os.sep in str(dataset) and path.exists() else str(dataset)


def _told(cell: Mapping) -> str:
    return ", ".join(f"{factor}: {level}" for factor, level in cell.items())


def _measured(record: RunRecord) -> dict:
    """The columns of a finished run; metrics without a value are NaN."""
    metrics = {k: np.nan if v is None else v for k, v in record.metrics["ablation"].items()}
    images = {f"{part} images": n for part, n in record.data["images"].items()}
    return {
        "state": "done",
        **metrics,
        "best_epoch": record.best_epoch,
        "seconds": record.seconds,
        **images,
        "folder": str(record.folder),
    }
