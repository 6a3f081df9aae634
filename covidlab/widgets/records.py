"""Run records and studies on disk → the rows of a run board; and a record → its network, opened again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidlab import paths
from covidlab.training.recipe import Recipe
from covidlab.training.record import RunRecord

if TYPE_CHECKING:
    from covidlab.ablation.study import Run
    from covidlab.datasets import Dataset, Split

STATES = ("done", "failed", "unreadable", "missing")
MOST_PLANNED = 5000  # runs of a grid that are looked through for those in a study's folder
BEGUN = "begun and not finished: still training, or stopped"

_HOW = {  # what `datasets.split`, `kfold` and `official` say of a split, and how to make it again
    "split": r"random by (\w+), stratified by label, test (\S+), valid (\S+) of the rest, seed (\d+)",
    "kfold": r"fold (\d+) of (\d+), by (\w+), stratified by label, valid (\S+), seed (\d+)",
    "official": r"as published(?:; valid (\S+) of its training patients, seed (\d+))?",
}


@dataclass(frozen=True)
class Entry:
    """A run as a row: what is known of it. `levels` has text, `numbers` metrics, epochs, seconds.

    `folder` holds its record, or the failed.json of a run that failed. `planned` is what a study
    says of it, where there is one.
    """

    key: str
    state: str
    levels: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    fold: int = 0
    study: str = ""
    folder: Path | None = None
    record: RunRecord | None = None
    planned: Run | None = None
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Found:
    """Rows, the levels of each factor in order, and what could not be read beside them."""

    entries: list[Entry]
    levels: Mapping[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Records:
    """Reads run records, each once as long as its file stays as it is."""

    def __init__(self):
        self._known: dict[Path, tuple] = {}

    def __call__(self, folder: Path) -> RunRecord:
        """Raises ValueError or OSError, naming the file and what is wrong with it."""
        file = folder / "record.json"
        if not file.is_file():
            raise FileNotFoundError(f"no run record at {file}")
        about = file.stat()
        version = (about.st_mtime_ns, about.st_size)
        if self._known.get(folder, (None,))[0] != version:
            self._known[folder] = version, _read(folder)
        return self._known[folder][1]


def _read(folder: Path) -> RunRecord:
    try:
        record = RunRecord.load(folder)
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / 'record.json'} is no text ({error}): train again") from error
    kinds = {"recipe": dict, "data": dict, "environment": dict, "metrics": dict, "history": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(record, name), kind)]
    wrong += [f"metrics of {part}" for part, m in record.metrics.items() if not isinstance(m, dict)]
    wrong += ["history"] * (not all(isinstance(epoch, dict) for epoch in record.history))
    wrong += ["network"] * ("network" not in record.recipe)
    wrong += ["dataset"] * ("dataset" not in record.data)
    if wrong:
        raise ValueError(
            f"{folder / 'record.json'} is not a run record ({', '.join(wrong)}): delete it and "
            "train again"
        )
    return record


# --- rows ----------------------------------------------------------------------------------------


def of_study(study, read: Records) -> Found:
    """Every planned run of an `ablation.Study`."""
    entries = [
        _planned(run.id, run, study.folder / "runs" / run.id, paths.runs(), study.name, read)
        for run in study.plan
    ]
    return Found(entries, {factor: list(its) for factor, its in study.levels.items()})


def of_table(table: pd.DataFrame, read: Records) -> Found:
    """The rows of a table of `Study.table()`, also of one that was read from a CSV.

    Raises ValueError where columns are missing.
    """
    if absent := [c for c in ("seed", "fold", "state", "folder") if c not in table]:
        raise ValueError(
            f"the table has no column {', '.join(absent)}: give one of Study.table(), or use "
            "RunBoard.from_folder()"
        )
    factors = list(table.columns[: table.columns.get_loc("seed")])
    after = [c for c in table.columns if c not in (*factors, "seed", "fold")]
    numbers = [c for c in after if pd.api.types.is_numeric_dtype(table[c])]
    known, entries = table.attrs.get("factors", {}), []
    for i, (_, row) in enumerate(table.iterrows()):
        folder = Path(str(row["folder"]))
        state, record, error = row["state"], None, row.get("error", "")
        if state == "done":
            try:
                record = read(folder)
            except (OSError, ValueError) as problem:
                state, error = "unreadable", str(problem)
        entries.append(
            Entry(
                key=folder.name if list(table["folder"]).count(row["folder"]) == 1 else f"row {i}",
                state=state,
                levels={f: str(row[f]) for f in factors},
                numbers={c: float(row[c]) for c in numbers},
                seed=int(row["seed"]),
                fold=int(row["fold"]),
                study=table.attrs.get("study", ""),
                folder=folder,
                record=record,
                error=error if isinstance(error, str) else "",
                traceback=_failure(folder)[1] if state == "failed" else "",
            )
        )
    return Found(entries, {f: known.get(f) or _distinct(entries, f) for f in factors})


def of_folder(root: Path, read: Records) -> Found:
    """Every record below a folder, and every run of the studies in it that was tried.

    Raises FileNotFoundError where there is none.
    """
    entries, levels, problems, taken = [], {}, [], set()
    for file in sorted((root / "studies").glob("*/study.json")):
        name = file.parent.name
        try:
            content = json.loads(file.read_text("utf-8"))
            planned = plan_of(name, content)
            for factor, its in content["levels"].items():
                levels.setdefault(factor, {}).update(its)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{file} cannot be read: {type(error).__name__}: {error}")
            planned = {}
        order = {run: i for i, run in enumerate(planned)}
        tried = sorted(f for f in file.parent.glob("runs/*") if f.is_dir())
        for folder in sorted(tried, key=lambda f: order.get(f.name, len(order))):
            run = planned.get(folder.name)
            entry = _planned(f"{name}/{folder.name}", run, folder, root, name, read, "test ")
            entries.append(replace(entry, levels={"study": name, **_about(entry), **entry.levels}))
            taken.add(entry.folder)
    studied = bool(entries)
    for file in sorted(root.rglob("record.json")):
        if file.parent not in taken:
            entries.append(_plain(file.parent, root, read))
    for file in sorted(root.rglob("weights.pth")):
        if not (file.parent / "record.json").is_file():
            key = str(file.parent.relative_to(root))
            entries.append(Entry(key, "missing", folder=file.parent, error=BEGUN))
    if not entries and not problems:
        raise FileNotFoundError(
            f"no run records below {root}: train something, or set COVIDLAB_RUNS to the folder "
            "of your runs"
        )
    names = ["study"] * studied + ["dataset", "recipe", "network"]
    own = {name: _distinct(entries, name) for name in names if name not in levels}
    return Found(entries, own | {f: list(its) for f, its in levels.items()}, problems)


def _planned(
    key: str, run: Run | None, folder: Path, root: Path, study: str, read: Records, part: str = ""
) -> Entry:
    """A run of a study, from its folder there; `part` stands before the metrics' names."""
    entry = Entry(key, "missing", study=study, planned=run)
    if run is not None:
        entry = replace(entry, levels=dict(run.levels), seed=run.seed, fold=run.fold)
    file = folder / "run.json"
    if file.is_file():
        try:
            place = root / json.loads(file.read_text("utf-8"))["record"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = f"{file} cannot be read ({error}): delete it and run the study again"
            return replace(entry, state="unreadable", folder=folder, error=said)
        return _tested(entry, place, read, part)
    if (folder / "failed.json").is_file():
        error, traceback = _failure(folder)
        return replace(entry, state="failed", folder=folder, error=error, traceback=traceback)
    return replace(entry, error=BEGUN if (folder / "started.json").is_file() else "")


def _tested(entry: Entry, folder: Path, read: Records, part: str) -> Entry:
    """A run of a study whose record is, or was, in this folder."""
    if not all((folder / name).is_file() for name in ("record.json", "predictions.npz")):
        return replace(entry, error="its record is gone: the study would train it again")
    try:
        record = read(folder)
        if "ablation" not in record.metrics:
            raise ValueError(f"{folder / 'record.json'} has no test metrics: delete it")
    except (OSError, ValueError) as error:
        return replace(entry, state="unreadable", folder=folder, error=str(error))
    numbers = _numbers(record.metrics["ablation"], part) | _lengths(record)
    seed = record.seed if entry.seed is None else entry.seed
    done = {"state": "done", "folder": folder, "record": record}
    return replace(entry, numbers=numbers, seed=seed, **done)


def _plain(folder: Path, root: Path, read: Records) -> Entry:
    """A record that no study points at."""
    key = str(folder.relative_to(root))
    try:
        record = read(folder)
    except (OSError, ValueError) as error:
        return Entry(key, "unreadable", folder=folder, error=str(error))
    numbers = {}
    for part, metrics in record.metrics.items():
        numbers |= _numbers(metrics, "test " if part == "ablation" else f"{part} ")
    entry = Entry(key, "done", {}, numbers | _lengths(record), record.seed, 0, "", folder, record)
    return replace(entry, levels=_about(entry))


def _about(entry: Entry) -> dict[str, str]:
    """What a record says where no study names its levels."""
    if entry.record is not None:
        recipe, dataset = entry.record.recipe, entry.record.data["dataset"]
        return {
            "dataset": str(dataset),
            "recipe": str(recipe.get("name", "")),
            "network": str(recipe["network"]),
        }
    if entry.planned is not None:
        dataset = Path(entry.planned.data["dataset"]).name
        return {"dataset": dataset, "network": entry.planned.recipe.network}
    return {}


def _numbers(metrics: Mapping, part: str) -> dict[str, float]:
    out = {}
    for name, value in metrics.items():
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            own = name.startswith(("train_", "valid_"))  # fastai's losses
            out[name if own else part + name] = np.nan if value is None else float(value)
    return out


def _lengths(record: RunRecord) -> dict[str, float]:
    found = {"best_epoch": record.best_epoch, "seconds": record.seconds}
    return found | {f"{part} images": n for part, n in record.data.get("images", {}).items()}


def _failure(folder: Path) -> tuple[str, str]:
    """The error of a run that failed, and the traceback that ends in it."""
    try:
        content = json.loads((folder / "failed.json").read_text("utf-8"))
        return str(content["error"]), str(content.get("traceback", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / 'failed.json'} cannot be read: {error}", ""


def _distinct(entries: Iterable[Entry], factor: str) -> list[str]:
    return list(dict.fromkeys(e.levels[factor] for e in entries if factor in e.levels))


def plan_of(name: str, content: Mapping) -> dict[str, Run]:
    """{run id: run} of a study that is only there as its study.json.

    The file does not say which cells were chosen, so that the ids of all that may have been are
    looked up: one factor moved at a time, and the grid, where that is of at most `MOST_PLANNED`.
    """
    from covidlab.ablation import Study
    from covidlab.ablation.factors import frozen

    data, factors = content["data"], {}
    for factor, levels in content["levels"].items():
        plain = all(set(settings) == {factor} for settings in levels.values())
        factors[factor] = {k: s[factor] if plain else s for k, s in levels.items()}
    places = ("dataset", "where", "data", "profile", "folds", "split", "split_by", "test", "valid")
    options = {k: data[k] for k in places}
    base = Recipe(name=name, **{k: frozen(v) for k, v in content["base"].items()})
    planned, cells = {}, int(np.prod([len(levels) for levels in factors.values()]))
    runs = cells * len(content["seeds"]) * max(1, data["folds"])
    designs = ["grid"] * (runs <= MOST_PLANNED) + ["one at a time"]
    for design in designs:
        try:
            study = Study(
                name,
                base,
                factors,
                seeds=content["seeds"],
                precision=content["precision"],
                design=design,
                **options,
            )
        except ValueError:  # the study that was begun had not all of these cells
            continue
        planned |= {run.id: run for run in study.plan}
    return planned


def planned_for(folder: Path) -> Run | None:
    """What a study says of the run whose record is in this folder; None where none does."""
    for file in sorted((folder.parent / "studies").glob("*/runs/*/run.json")):
        try:
            if json.loads(file.read_text("utf-8"))["record"] != folder.name:
                continue
            study = file.parents[2]
            content = json.loads((study / "study.json").read_text("utf-8"))
            if found := plan_of(study.name, content).get(file.parent.name):
                return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


# --- opened again --------------------------------------------------------------------------------


def recipe_of(entry: Entry) -> Recipe:
    """The recipe of a run. Raises ValueError for one that this version does not know."""
    from covidlab.ablation.factors import frozen

    known = {f.name for f in fields(Recipe)}
    try:
        return Recipe(**{k: frozen(v) for k, v in entry.record.recipe.items() if k in known})
    except (TypeError, ValueError) as error:
        raise ValueError(f"run {entry.key}: its recipe cannot be read: {error}") from error


def dataset_of(entry: Entry) -> Dataset:
    """The images of a run. Raises ValueError where the record does not say enough, or what `load` raises."""
    from covidlab import datasets
    from covidlab.ablation import data as of_runs

    planned = entry.planned or planned_for(entry.folder)
    if planned is not None:
        return of_runs.load(planned.data, planned.recipe, check=False)
    name = entry.record.data["dataset"]
    if name in datasets.phantom.PRESETS:
        raise ValueError(
            f"run {entry.key}: {name} was generated, and the record does not say with which "
            "options: hand over the dataset or split, data=…"
        )
    try:
        return datasets.load(name, check=False)
    except (KeyError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"run {entry.key}: its dataset {name!r} is not found ({error.args[0]}): hand over the "
            "dataset or split, data=…"
        ) from error


def split_of(entry: Entry, data: Dataset | Split | None = None) -> Split:
    """The split of a run, made again as its record says; of `data` where given."""
    from covidlab import datasets
    from covidlab.ablation import data as of_runs

    if isinstance(data, datasets.Split):
        return data
    planned = entry.planned or planned_for(entry.folder)
    if planned is not None:
        whole = dataset_of(entry) if data is None else data
        return of_runs.split(whole, planned.data, planned.seed, planned.fold)
    how = entry.record.data.get("how", "")
    made = {name: re.fullmatch(pattern, how) for name, pattern in _HOW.items()}
    if not any(made.values()):
        raise ValueError(
            f"run {entry.key}: its split ({how or 'not recorded'}) cannot be made again from its "
            "record: hand it over, data=split"
        )
    whole = dataset_of(entry) if data is None else data
    if found := made["split"]:
        by, test, valid, seed = found.groups()
        return datasets.split(whole, float(test), float(valid), by, int(seed))
    if found := made["kfold"]:
        fold, k, by, valid, seed = found.groups()
        return datasets.kfold(whole, int(k), float(valid), by, int(seed))[int(fold) - 1]
    valid, seed = made["official"].groups()
    return datasets.official(whole, *([float(valid), int(seed)] if valid else []))


def reopen(entry: Entry, data: Dataset | Split | None = None):
    """The trained Learner of a run: its dataloaders, made again, and the weights of its record.

    Raises ValueError where images or split are not those of the record, FileNotFoundError where
    dataset or weights are not there.
    """
    from covidlab import training

    record = entry.record
    if not record.weights.is_file():
        raise FileNotFoundError(f"run {entry.key}: no weights at {record.weights}: train it again")
    recipe, split = recipe_of(entry), split_of(entry, data)
    # what the weights began with is no longer needed
    dls = training.dataloaders(split, recipe.but(pretrained=False), record.seed, progress=False)
    from covidlab.training.learners import _described  # after fastai, which `training` keeps quiet

    now = _described(dls, split)
    for what, name in (("images", "fingerprint"), ("split", "split")):
        if now[name] != record.data.get(name):
            raise ValueError(
                f"run {entry.key}: the {what} of {now['dataset']} are not those it was trained on "
                f"({record.data['dataset']}, {record.data.get('how')}): hand over the dataset or "
                "split of then, data=…"
            )
    precision = record.environment.get("precision")
    learn = training.learner(dls, precision=precision if precision in ("bf16", "fp32") else "auto")
    training.load_weights(learn, record)
    dls.recipe = learn.recipe = recipe
    learn.record = record
    return learn
