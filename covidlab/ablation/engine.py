"""A study on an executor: checked and prepared here, trained there, counted here."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from pathlib import Path

import pandas as pd

from covidlab import paths
from covidlab.datasets.manifest import Dataset

from . import data, jobs
from .study import Run, Study

ROOM = 1_000_000_000  # bytes that must be free: weights, predictions and prepared images


def run(
    study: Study, executor, workers: int, progress: bool, threads: int, gpus: int, patience: float
) -> pd.DataFrame:
    """See `Study.run`."""
    _check(study, executor, workers, threads, gpus)
    missing = [r for r in study.plan if study.state(r) != "done"]
    found = _datasets(study.plan)
    study.begin(_fingerprints(study.plan, found), write=False)
    prepare(missing, found, progress)
    study.begin(_fingerprints(study.plan, found))
    if missing:
        environment = {} if executor is None and workers == 0 else _environment(threads)
        if executor is not None:
            _wait_for(executor, study, environment, patience)
        call = secrets.token_hex(4)
        todo = [
            jobs.Job(
                study.name,
                r.id,
                r.recipe,
                r.data,
                r.seed,
                r.fold,
                r.precision,
                threads,
                gpus,
                call,
                environment,
            )
            for r in missing
        ]
        with _bar(len(todo), study.name, progress) as bar:
            if executor is not None:
                lost = _round(executor, todo, bar)
            elif workers == 0:
                lost = _here(todo, bar)
            else:
                lost = _processes(todo, bar, workers, environment)
        _tell(study, lost, len(todo))
    return study.table()


# --- before anything is trained ------------------------------------------------------------------


def _check(study: Study, executor, workers: int, threads: int, gpus: int):
    if isinstance(executor, ThreadPoolExecutor):
        raise ValueError(
            "executor: threads share torch's seed; use processes: None, or a ProcessPoolExecutor"
        )
    if executor is not None and not hasattr(executor, "submit"):
        raise ValueError(
            f"executor={type(executor).__name__} has no submit: of a dask client take "
            "client.get_executor(pure=False)"
        )
    for name, value, least in (("workers", workers, 0), ("threads", threads, 1), ("gpus", gpus, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    if gpus > 1:
        if importlib.util.find_spec("accelerate") is None:
            raise ValueError(f"gpus={gpus} needs the package accelerate: pip install accelerate")
        if odd := {r.recipe.batch_size for r in study.plan if r.recipe.batch_size % gpus}:
            raise ValueError(f"gpus={gpus} does not divide the batch_size {sorted(odd)}")
    for weights in {r.data["weights"] for r in study.plan} - {""}:
        if not Path(weights).exists():
            raise FileNotFoundError(f"weights: no file or folder at {weights}")
    _check_networks(study.plan)
    _check_room()


def _check_networks(plan: Iterable[Run]):
    from covidlab import models

    for recipe in {r.recipe.hash(): r.recipe for r in plan}.values():
        table = models.SEGMENTERS if recipe.masks else models.NETWORKS
        if recipe.network not in table:
            raise ValueError(f"no network {recipe.network!r}: there are {', '.join(table)}")
        if not recipe.masks and recipe.size < (least := models.smallest(recipe.network)):
            raise ValueError(
                f"size={recipe.size} is too small for {recipe.network}, which takes {least} px or "
                "more: bundle network and size"
            )


def _check_room():
    folder = paths.runs()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with paths.replacing(folder / ".room") as file:
            file.write_bytes(b"covidlab")
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}): set COVIDLAB_RUNS to a folder that can be"
        ) from error
    (folder / ".room").unlink(missing_ok=True)
    if (free := shutil.disk_usage(folder).free) < ROOM:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB left, at least {ROOM / 1e9:.0f} are needed: make "
            "room, or set COVIDLAB_RUNS to another disk"
        )


def _datasets(plan: Iterable[Run]) -> dict[str, Dataset]:
    found = {}
    for run in plan:
        name = data.called(run.data, run.recipe)
        if name not in found:
            found[name] = data.load(run.data, run.recipe)
    return found


def _fingerprints(plan: Iterable[Run], found: Mapping[str, Dataset]) -> dict[str, str]:
    masks = {data.called(run.data, run.recipe): bool(run.recipe.masks) for run in plan}
    return {name: dataset.fingerprint(masks=masks[name]) for name, dataset in found.items()}


def prepare(runs: Iterable[Run], found: Mapping[str, Dataset], progress: bool) -> None:
    """Makes every split, and reads and enhances every image once, so that the workers need not.

    Raises ValueError or DatasetError with what is wrong with them.
    """
    from covidlab.training.arrays import prepare as read

    splits, done, told = {}, set(), set()
    for run in runs:
        dataset, recipe = found[data.called(run.data, run.recipe)], run.recipe
        key = json.dumps([run.data, run.seed, run.fold, bool(recipe.masks)], sort_keys=True)
        if key not in splits:
            splits[key] = _split(dataset, run, told)
        split, images = splits[key]
        steps = (images, recipe.size, recipe.fit, recipe.enhance, recipe.masks)
        if steps not in done:
            read(*split, recipe=recipe, progress=progress)
            done.add(steps)


def _split(dataset: Dataset, run: Run, told: set[str]):
    """The split of a run, and which images are in it; warns of the same thing once."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        split = data.split(dataset, run.data, run.seed, run.fold)
    for warning in heard:
        if (text := str(warning.message)) not in told:
            warnings.warn(warning.message, stacklevel=6)
            told.add(text)
    if len(split.train) < 2:
        raise ValueError(f"{split!r}: at least 2 training images are needed")
    return split, frozenset(str(d.root / name) for d in split for name in d.frame["image"])


def _environment(threads: int) -> dict[str, str]:
    """Where workers find everything, and how many threads they start."""
    found = {
        "COVIDLAB_CACHE": str(paths.cache().absolute()),
        "COVIDLAB_RUNS": str(paths.runs().absolute()),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "OMP_NUM_THREADS": str(threads),
    }
    if "COVIDLAB_DATA" in os.environ:
        found["COVIDLAB_DATA"] = os.environ["COVIDLAB_DATA"]
    return found


def _wait_for(executor: Executor, study: Study, environment: Mapping[str, str], patience: float):
    file = study.folder / "study.json"
    hello = executor.submit(jobs.greet, str(file.absolute()), environment)
    try:
        sees = hello.result(timeout=patience)
    except TimeoutError:
        hello.cancel()
        raise TimeoutError(
            f"no worker of {type(executor).__name__} answered in {patience:g} s: start workers, "
            "wait for them (client.wait_for_workers(1)), or give more patience"
        ) from None
    if not sees:
        raise OSError(
            f"the workers do not see {file}: set COVIDLAB_RUNS to a folder all machines share"
        )


# --- trained -------------------------------------------------------------------------------------


def _round(executor: Executor, todo: list[jobs.Job], bar) -> dict[str, BaseException]:
    """Every job once; returns those that were lost with their worker, by id."""
    lost, futures = {}, {}
    for job in todo:
        (job.folder / "started.json").unlink(missing_ok=True)
        try:
            futures[executor.submit(jobs.train, job)] = job
        except Exception as error:  # a pool that has broken meanwhile
            lost[job.id] = error
    try:
        for future in as_completed(futures):
            job = futures[future]
            try:
                _count(future.result(), bar)
            except Exception as error:
                lost[job.id] = error
    except BaseException:  # stopped: what is running ends by itself, or with its pool
        for future in futures:
            future.cancel()
        raise
    return lost


def _processes(todo, bar, workers: int, environment) -> dict[str, BaseException]:
    """loky's processes, started again for what was lost as long as some run is to blame."""
    from loky import get_reusable_executor

    # what must be set before torch is imported; each job brings the rest, so that pools are reused
    early = {k: environment[k] for k in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    suspects, why = [], {}
    while todo or suspects:
        # whoever was at work when a worker died may be to blame: each is tried by itself
        alone = not todo
        batch = [suspects.pop(0)] if alone else todo
        pool = get_reusable_executor(1 if alone else workers, timeout=30, env=early)
        try:
            lost = _round(pool, batch, bar)
        except BaseException:
            pool.shutdown(kill_workers=True)
            raise
        why |= lost
        again = [job for job in batch if job.id in lost]
        running = [job for job in again if (job.folder / "started.json").is_file()]
        if again and not running:
            return {job.id: why[job.id] for job in again + suspects}
        if not alone:
            suspects += running
            todo = [job for job in again if job not in running]
            continue
        for job in running:
            (job.folder / "started.json").unlink(missing_ok=True)
            jobs.note_failure(job.folder, _Died(lost[job.id]))
            _count("failed", bar)
    return {}


class _Died(RuntimeError):
    def __init__(self, error: BaseException):
        super().__init__(f"two workers died of this run (out of memory?): {error}")


def _here(todo, bar) -> dict[str, BaseException]:
    import torch

    threads = torch.get_num_threads()
    try:
        for job in todo:
            _count(jobs.train(job), bar)
    finally:
        torch.set_num_threads(threads)
    return {}


def _bar(total: int, name: str, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, unit="run", disable=not progress, smoothing=0.1)


def _count(outcome: str, bar):
    bar.update()
    if outcome == "failed":
        bar.failed = getattr(bar, "failed", 0) + 1
        bar.set_postfix_str(f"{bar.failed} failed")


def _tell(study: Study, lost: Mapping[str, BaseException], total: int):
    if lost:
        error = next(iter(lost.values()))
        warnings.warn(
            f"{len(lost)} of {total} runs were lost with their workers ({type(error).__name__}: "
            f"{str(error)[:200]}): run the study again, it trains what is missing",
            stacklevel=4,
        )
    failed = [run for run in study.plan if study.state(run) == "failed"]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(study.plan)} runs failed: see the column `error` of the table; "
            "running the study again tries them again",
            stacklevel=4,
        )
