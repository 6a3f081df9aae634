"""One run in a process of its own: trained or taken from its record, tested, written whole."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covidlab import paths
from covidlab.datasets import LeakageWarning
from covidlab.predictions import MaskPredictions, Predictions
from covidlab.training.recipe import Recipe
from covidlab.training.record import write_whole

_beside: list[subprocess.Popen] = []  # the process that trains for this one, see `_apart`
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What a worker needs to know. `call` tells one attempt from the next; `environment` is set."""

    study: str
    id: str
    recipe: Recipe
    data: Mapping[str, Any]
    seed: int
    fold: int
    precision: str
    threads: int
    gpus: int
    call: str
    environment: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return paths.runs() / "studies" / self.study / "runs" / self.id


def greet(file: str, environment: Mapping[str, str]) -> bool:
    """Can this worker see the study?"""
    os.environ.update(environment)
    return Path(file).is_file()


def train(job: Job) -> str:
    """ "done" or "failed", with run.json or failed.json in the run's folder of the study.

    Seeds are the process's. In its main thread a run has them to itself; in another, as on Dask,
    whose event loop draws from Python's `random`, a process beside this one trains it.
    """
    os.environ.update(job.environment)
    if threading.current_thread() is not threading.main_thread():
        return _apart(job)
    started = job.folder / "started.json"
    pids = {"pid": os.getpid(), "parent": os.getppid()}
    write_whole(started, json.dumps(pids).encode())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeakageWarning)  # the study has said so
            found = _trained(job)
        write_whole(job.folder / "run.json", json.dumps(found).encode())
    except Exception as error:
        note_failure(job.folder, error)
        return "failed"
    finally:
        started.unlink(missing_ok=True)
    (job.folder / "failed.json").unlink(missing_ok=True)
    return "done"


def _apart(job: Job) -> str:
    """Trained by a process that waits for jobs, and ends when this one does.

    Workers of Dask are daemons, which multiprocessing and loky let have no processes.
    """
    with _one_at_a_time:
        if not _beside or _beside[0].poll() is not None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            _beside[:] = [subprocess.Popen(_command(), env=_importing(), **pipes)]
        process = _beside[0]
        pickle.dump(job, process.stdin)
        process.stdin.flush()
        outcome = process.stdout.readline().decode().strip()
    if not outcome:
        (job.folder / "started.json").unlink(missing_ok=True)
        code = process.wait()
        note_failure(job.folder, RuntimeError(f"its process died ({code}; out of memory?)"))
    return outcome or "failed"


def _wait_for_jobs() -> None:
    """The process beside: one job after the other from stdin, until the other end is gone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    jobs: queue.Queue = queue.Queue()

    def read():
        try:
            while True:
                jobs.put(pickle.load(sys.stdin.buffer))
        finally:
            os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while True:
        print(train(jobs.get()), file=answers, flush=True)


def _command(*before: str) -> list[str]:
    return [sys.executable, *before, "-m", "covidlab.ablation.jobs"]


def _importing() -> dict[str, str]:
    """The environment of a process that can import what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def note_failure(folder: Path, error: BaseException) -> None:
    content = {
        "error": f"{type(error).__name__}: {error}".strip()[:500],
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_whole(folder / "failed.json", json.dumps(content, ensure_ascii=False).encode())


def _trained(job: Job) -> dict:
    from filelock import FileLock

    from covidlab.training import fit, predict
    from covidlab.training.learners import run_folder

    learn, split = _learner(job)
    folder = run_folder(learn)
    lock = paths.runs() / "studies" / ".locks" / f"{folder.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # other studies may have the same run
        if job.gpus > 1 and not (folder / "record.json").is_file():
            _on_gpus(job)
        record = fit(learn, reuse=True, show_progress=False)
        if "ablation" not in record.metrics or not (folder / "predictions.npz").is_file():
            found = _kept(predict(learn, split.test))
            save(found, folder / "predictions.npz")
            record.add("ablation", _metrics(found))
    members = "\x1e".join(sorted(split.test.frame["image"]))
    return {"record": folder.name, "test_part": hashlib.sha256(members.encode()).hexdigest()[:8]}


def _learner(job: Job):
    import torch

    from covidlab.training import dataloaders, learner

    from . import data

    torch.set_num_threads(job.threads)
    split = data.split(data.load(job.data, job.recipe, check=False), job.data, job.seed, job.fold)
    dls = dataloaders(split, job.recipe, job.seed, progress=False)
    weights = Path(job.data["weights"]) if job.data["weights"] else None
    if weights is not None and weights.is_dir():
        weights = weights / "weights.pth"
    return learner(dls, precision=job.precision, weights=weights), split


# --- predictions ---------------------------------------------------------------------------------


def _kept(found):
    """Masks' probabilities as float16: what is measured is what is kept."""
    if isinstance(found, Predictions):
        return found
    half = found.probabilities.astype(np.float16)
    return MaskPredictions(found.frame, half, found.truth, found.classes, found.name)


def _metrics(found) -> dict[str, float]:
    from covidlab import evaluation

    if isinstance(found, Predictions):
        return evaluation.classification_metrics(found)
    return evaluation.segmentation_metrics(found)


def save(found: Predictions | MaskPredictions, file: Path) -> Path:
    """Writes predictions whole or not at all; `predictions` reads them."""
    arrays = {f"frame {c}": found.frame[c].to_numpy(str) for c in found.frame}
    arrays |= {"probabilities": found.probabilities, "classes": np.array(found.classes)}
    arrays["name"] = np.array(found.name)
    if isinstance(found, MaskPredictions):
        arrays["truth"] = found.truth
    elif found.positive is not None:
        arrays["positive"] = np.array(found.positive)
    with paths.replacing(file) as temporary, open(temporary, "wb") as out:
        np.savez_compressed(out, **arrays)
    return file


def predictions(folder) -> Predictions | MaskPredictions:
    """What a run said of its test part, from its folder."""
    file = Path(folder) / "predictions.npz"
    if not file.is_file():
        raise FileNotFoundError(f"no predictions at {file}: did the run finish?")
    with np.load(file, allow_pickle=False) as kept:
        columns = [c for c in kept if c.startswith("frame ")]
        frame = pd.DataFrame({c.removeprefix("frame "): kept[c] for c in columns}, dtype=str)
        shared = {
            "frame": frame,
            "probabilities": kept["probabilities"],
            "classes": tuple(kept["classes"].tolist()),
            "name": kept["name"].item(),
        }
        if "truth" in kept:
            return MaskPredictions(truth=kept["truth"], **shared)
        return Predictions(
            **shared, positive=kept["positive"].item() if "positive" in kept else None
        )


# --- several GPUs for one run --------------------------------------------------------------------


def _on_gpus(job: Job) -> None:
    """Trains in `gpus` processes that torchrun starts; the record is the first one's."""
    # by address: a node need not know itself by name
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1")
    torchrun += (f"--nproc_per_node={job.gpus}",)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.pickle"
        file.write_bytes(pickle.dumps(job))
        command = [*_command(*torchrun), str(file)]
        done = subprocess.run(command, env=_importing(), stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"training on {job.gpus} GPUs failed:\n{done.stderr[-5000:]}")


def _one_of_several(job: Job) -> None:
    """In each process of torchrun: fastai's own distributed context around the ordinary `fit`."""
    import torch

    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    with tempfile.TemporaryDirectory() as elsewhere:
        if rank:
            os.environ["COVIDLAB_RUNS"] = elsewhere
        from covidlab.training import fit  # isort: skip  fastai's own imports, without their noise

        from fastai.callback.core import Callback
        from fastai.distributed import DistributedTrainer

        class PlainNames(Callback):
            """Weights of the wrapped network by the names they have without the wrapper."""

            order = DistributedTrainer.order + 1

            def before_fit(self):
                self.learn.model.register_state_dict_post_hook(_without_wrapper)

        learn, _ = _learner(job)
        learn.dls.train.bs //= job.gpus
        learn.add_cb(PlainNames())
        with learn.distrib_ctx():
            fit(learn, show_progress=False)


def _without_wrapper(module, state, prefix, metadata):
    from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

    consume_prefix_in_state_dict_if_present(state, "module.")


if __name__ == "__main__":
    from covidlab.ablation import jobs  # as pickles name it, not its copy called __main__

    if len(sys.argv) > 1:
        jobs._one_of_several(pickle.loads(Path(sys.argv[1]).read_bytes()))
    else:
        jobs._wait_for_jobs()
