"""Studies that are trained: here, in loky's processes, on a Dask cluster; killed, resumed, added to."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from covidlab import paths
from covidlab.ablation import Study, engine, jobs
from covidlab.ablation import data as ablation_data
from covidlab.datasets import LeakageWarning
from covidlab.training import KHAN_SEGMENTATION, RunRecord

pytestmark = pytest.mark.xdist_group("ablation")  # one pool and one cluster for all of them


def study(base, squares, factors=None, **options):
    factors = factors or {"enhance": ["none", "idwt"]}
    return Study(
        "s", base, factors, str(squares), **{"seeds": [0, 1], "profile": "paper", **options}
    )


def here(planned, **options):
    return planned.run(workers=0, progress=False, **options)


def measured(planned):
    """What must not depend on where it was computed: table without times and places, probabilities."""
    table = planned.table()
    same = table.drop(columns=["seconds", "folder"])
    return same, [planned.predictions(row).probabilities for _, row in table.iterrows()]


def records(planned):
    """When the weights of each finished run were written."""
    done = planned.table().query("state == 'done'")
    return {f: os.stat(f"{f}/weights.pth").st_mtime_ns for f in done["folder"]}


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def background(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def serial(tmp_path_factory, squares, tiny):
    """Four runs, one after the other in this process."""
    folder = tmp_path_factory.mktemp("serial")
    (folder / "cache").mkdir()  # stays empty where this process has prepared the images before
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVIDLAB_CACHE", str(folder / "cache"))
        patch.setenv("COVIDLAB_RUNS", str(folder / "runs"))
        planned = study(tiny, squares)
        here(planned)
        yield folder, planned, measured(planned)


@pytest.fixture
def copied(serial, own):
    """The four finished runs in a folder of the test's own."""
    shutil.copytree(serial[0] / "runs", own / "runs")
    shutil.copytree(serial[0] / "cache", own / "cache")
    return serial[1]


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


# --- where it is trained -------------------------------------------------------------------------


def test_a_run_is_what_training_by_hand_gives(serial, squares):
    from covidlab import datasets, evaluation, training

    folder, planned, (table, _) = serial
    run = planned.plan[3]  # idwt, seed 1
    split = datasets.split(datasets.load(str(squares)), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVIDLAB_RUNS", str(folder / "by hand"))
        learn = training.learner(training.dataloaders(split, run.recipe, seed=1, progress=False))
        training.fit(learn, show_progress=False)
        found = training.predict(learn, split.test)
    expected = evaluation.classification_metrics(found)
    row = table.iloc[3]
    assert (row["enhance"], row["seed"], row["state"]) == ("idwt", 1, "done")
    assert {m: row[m] for m in expected} == pytest.approx(expected, nan_ok=True)
    assert row["train images"] == len(split.train) and row["test images"] == len(split.test)


def test_a_cluster_that_loses_a_worker_ends_with_the_serial_table(
    serial, own, tiny, squares, cluster
):
    planned, pids = study(tiny, squares), cluster.run(os.getpid)
    done = planned.folder / "runs"
    killed, orphans, trained_apart = [], [], []

    def kill():
        if until(lambda: list(done.glob("*/run.json"))):
            busy = [json.loads(f.read_text()) for f in done.glob("*/started.json")]
            victim = busy[0]["parent"] if busy else next(iter(pids.values()))
            os.kill(victim, signal.SIGKILL)
            killed.append((victim, len(list(done.glob("*/run.json")))))
            trained_apart.extend(b["pid"] not in pids.values() for b in busy)
            if busy:  # what it was training ends with it
                orphans.append(until(lambda: not alive(busy[0]["pid"])))

    thread = background(kill)
    planned.run(cluster.get_executor(pure=False), progress=False)
    thread.join()
    ((victim, finished),) = killed
    assert victim in pids.values() and finished < 4 and all(orphans)
    assert all(trained_apart)  # Dask's event loop draws from Python's `random`
    assert until(lambda: set(cluster.run(os.getpid).values()) != set(pids.values()))
    (ours, p), (theirs, q) = measured(planned), serial[2]
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert all(np.array_equal(a, b) for a, b in zip(p, q, strict=True))


def test_loky_gives_the_serial_table_and_a_failing_level_stops_nobody(serial, own, tiny, squares):
    factors = {"enhance": ["none", "idwt"], "options.widths": [[4, 4, 8, 8], [4]]}
    planned = study(tiny, squares, factors, seeds=[0, 1])
    with pytest.warns(UserWarning, match="4 of 8 runs failed"):
        table = planned.run(workers=2, progress=False)
    failed, good = (table[table["state"] == s] for s in ("failed", "done"))
    assert set(failed["options.widths"]) == {"4"} and len(failed) == 4
    assert failed["error"].str.contains("ValueError").all() and failed["accuracy"].isna().all()
    told = json.loads(open(f"{failed['folder'].iloc[0]}/failed.json").read())
    assert "Traceback" in told["traceback"] and "cov_ctnet.py" in told["traceback"]
    assert (table.attrs["planned"], table.attrs["tried"], table.attrs["failed"]) == (8, 8, 4)
    theirs, probabilities = serial[2]
    ours = good.drop(columns=["seconds", "folder", "error", "options.widths"])
    pd.testing.assert_frame_equal(
        ours.reset_index(drop=True), theirs, check_exact=True, check_dtype=False
    )
    for (_, row), expected in zip(good.iterrows(), probabilities, strict=True):
        assert np.array_equal(planned.predictions(row).probabilities, expected)


def test_two_studies_with_the_same_run_at_once_train_it_once(own, tiny, squares):
    from loky import get_reusable_executor

    environment, asked = engine._environment(1), []
    for name in ("one", "two"):
        planned = Study(name, tiny.but(epochs=20), {"enhance": ["none", "idwt"]}, str(squares))
        run = planned.plan[0]
        asked.append(
            jobs.Job(name, run.id, run.recipe, run.data, 0, 0, "auto", 1, 1, "call", environment)
        )
    early = {k: environment[k] for k in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    pool = get_reusable_executor(2, timeout=30, env=early)  # the one studies use
    assert list(pool.map(jobs.train, asked)) == ["done", "done"]
    kept = [json.loads((job.folder / "run.json").read_text()) for job in asked]
    assert kept[0] == kept[1]
    folder = paths.runs() / kept[0]["record"]
    # the second neither trained nor predicted: nothing but the record is younger than the weights' end
    assert os.stat(folder / "weights.pth").st_mtime <= os.stat(folder / "predictions.npz").st_mtime
    assert sorted(f.name for f in folder.iterdir()) == [
        "predictions.npz",
        "record.json",
        "weights.pth",
    ]
    assert len(RunRecord.load(folder).history) == 20


def test_threads_are_refused_and_silent_or_blind_workers_are_told(own, tiny, squares):
    planned = study(tiny, squares)

    class Answers(Executor):
        def __init__(self, *answers):
            self.answers, self.asked = answers, []

        def submit(self, function, *arguments):
            self.asked.append(function)
            future = Future()
            if self.answers:
                future.set_result(self.answers[0])
            return future

    with ThreadPoolExecutor() as threads, pytest.raises(ValueError, match="share torch's seed"):
        planned.run(threads)
    silent, blind = Answers(), Answers(False)
    with pytest.raises(TimeoutError, match="no worker of Answers answered in 0.1 s"):
        planned.run(silent, progress=False, patience=0.1)
    with pytest.raises(OSError, match="COVIDLAB_RUNS to a folder all machines share"):
        planned.run(blind, progress=False)
    assert jobs.train not in silent.asked + blind.asked
    with pytest.raises(ValueError, match="get_executor"):
        planned.run(object())


def test_runs_lost_with_their_worker_are_told_and_trained_at_the_next_call(own, tiny, squares):
    planned = study(tiny, squares, seeds=[0])

    class Dies(Executor):
        """Runs the first job, and is killed in the second."""

        n = 0

        def submit(self, function, *arguments):
            future = Future()
            self.n += function is jobs.train
            if self.n > 1:
                future.set_exception(RuntimeError("worker killed"))
            else:
                future.set_result(function(*arguments))
            return future

    with pytest.warns(UserWarning, match="1 of 2 runs were lost.*worker killed"):
        table = planned.run(Dies(), progress=False)
    assert list(planned.runs()["state"]) == ["done", "missing"] and len(table) == 1
    before = records(planned)
    assert list(here(planned)["state"]) == ["done", "done"]
    assert before.items() < records(planned).items()


# --- resumed and added to ------------------------------------------------------------------------


def test_a_finished_study_trains_nothing_again(copied, monkeypatch, own):
    before, table = records(copied), copied.table()
    monkeypatch.setattr(jobs, "train", lambda job: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(here(copied), table)
    assert records(copied) == before


def test_a_stopped_study_goes_on_with_what_is_missing(own, tiny, squares, monkeypatch, serial):
    planned, trained, original = study(tiny, squares), [], jobs.train

    def stopped(job):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(job.id)
        return original(job)

    monkeypatch.setattr(jobs, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        here(planned)
    assert list(planned.runs()["state"]) == ["done", "done", "missing", "missing"]
    assert set(planned.table()["seed"]) == {0}  # whole seeds first
    before = records(planned)
    monkeypatch.setattr(jobs, "train", lambda job: trained.append(job.id) or original(job))
    here(planned)
    assert trained == [run.id for run in planned.plan]
    assert before.items() < records(planned).items()
    pd.testing.assert_frame_equal(measured(planned)[0], serial[2][0], check_exact=True)


def test_seeds_levels_and_factors_can_be_added(copied, monkeypatch, own):
    before, trained, original = records(copied), [], jobs.train
    monkeypatch.setattr(jobs, "train", lambda job: trained.append(job) or original(job))
    more = copied.but(seeds=[0, 1, 2])
    assert len(here(more)) == 6
    assert [job.seed for job in trained] == [2, 2]
    trained.clear()
    factors = {"enhance": ["none", "idwt", "stretch"], "train_size": [1, 0.5]}
    more = more.but(factors=factors, design="one at a time", seeds=[0])
    table = here(more)
    assert [list(row) for row in table[["enhance", "train_size"]].to_numpy()] == [
        ["none", "1"],
        ["idwt", "1"],
        ["stretch", "1"],
        ["none", "0.5"],
    ]
    assert len(trained) == 2 and before.items() <= records(copied).items()
    told = json.loads((more.folder / "study.json").read_text())
    assert told["seeds"] == [0, 1, 2] and told["last asked"]["design"] == "one at a time"
    assert table["train images"].iloc[3] == pytest.approx(table["train images"].iloc[0] / 2, abs=2)
    with pytest.raises(ValueError, match="was begun with enhance: stretch.*add to it"):
        here(copied)


def test_a_failed_run_is_tried_again_and_then_forgotten(own, tiny, squares, monkeypatch):
    planned = study(tiny, squares, seeds=[0])
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_metrics", lambda found: 1 / 0)
        with pytest.warns(UserWarning, match="2 of 2 runs failed"):
            table = here(planned)
    assert list(table["error"]) == ["ZeroDivisionError: division by zero"] * 2
    trained = {f: f.stat().st_mtime_ns for f in paths.runs().glob("*/weights.pth")}
    table = here(planned)
    assert list(table["state"]) == ["done", "done"] and table.attrs["failed"] == 0
    # what had been trained was not trained again
    assert len(trained) == 2 and all(f.stat().st_mtime_ns == t for f, t in trained.items())


def test_another_study_of_the_same_name_is_refused_before_training(
    copied, own, monkeypatch, squares
):
    monkeypatch.setattr(jobs, "train", lambda job: pytest.fail("trained"))
    there = copied.table()
    for change, told in (
        ({"base": copied.base.but(epochs=3)}, "another epochs=2"),
        ({"dataset": str(squares / "manifest.csv")}, "another dataset="),
        ({"folds": 2}, "another folds=0"),
        ({"precision": "bf16"}, "precision='auto'"),
        ({"factors": {"lr": [0.1, 0.2]}}, "begun with enhance"),
        (
            {"factors": {"enhance": {"none": "none", "idwt": "stretch"}}},
            "another meaning of enhance",
        ),
    ):
        with pytest.raises(ValueError, match=told + ".*delete|" + told + ".*name"):
            here(copied.but(**change))
    pd.testing.assert_frame_equal(copied.table(), there)


def test_changed_images_are_noticed(own, tiny, squares, tmp_path):
    moved = shutil.copytree(squares, tmp_path / "moved")
    planned = study(tiny, moved, seeds=[0])
    here(planned)
    shutil.copy(moved / "images/00.png", moved / "images/04.png")
    with pytest.raises(ValueError, match="are not those study 's' was begun with"):
        here(planned)


# What fastai does on GPUs only, done without; and what each process was given is written down.
NO_GPUS = """
import os
if "LOCAL_RANK" in os.environ:
    import torch
    torch.cuda.set_device = lambda device: None
    torch.Tensor.cuda = lambda self: self
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(lambda cls, module: module)
    Parallel = torch.nn.parallel.DistributedDataParallel
    forward = Parallel.forward
    def told(self, x):
        if self.training:
            with open(os.path.join({folder!r}, os.environ["LOCAL_RANK"]), "a") as file:
                print(*x.sum((1, 2, 3)).tolist(), file=file)
        return forward(self, x)
    Parallel.forward = told
"""


def test_several_gpus_divide_each_batch(own, tiny, squares, monkeypatch):
    pytest.importorskip("accelerate")
    from covidlab import training

    (own / "shim").mkdir()
    (own / "shim" / "sitecustomize.py").write_text(NO_GPUS.format(folder=str(own)))
    monkeypatch.syspath_prepend(own / "shim")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    planned = study(tiny.but(augment=None), squares, seeds=[0])
    table = here(planned, gpus=2)
    assert set(table["state"]) == {"done"}

    given = [[line.split() for line in (own / rank).read_text().splitlines()] for rank in "01"]
    steps = len(given[0]) // (len(table) * tiny.epochs)
    assert len(given[1]) == len(given[0]) and steps == table["train images"][0] // tiny.batch_size
    assert {len(images) for lines in given for images in lines} == {tiny.batch_size // 2}
    epochs = [
        sum(given[r][i : i + steps], []) for r in (0, 1) for i in range(0, len(given[0]), steps)
    ]
    assert all(len(set(images)) == len(images) for images in epochs)
    both = zip(epochs[: len(epochs) // 2], epochs[len(epochs) // 2 :], strict=True)
    assert not any(set(one) & set(other) for one, other in both)

    # one record, whose weights are those of the network without the wrapper
    assert len(list((own / "runs").glob("*/record.json"))) == len(table)
    for run, (_, row) in zip(planned.plan, table.iterrows(), strict=True):
        split = ablation_data.split(ablation_data.load(run.data, run.recipe), run.data, run.seed, 0)
        dls = training.dataloaders(split, run.recipe, seed=run.seed, progress=False)
        learn = training.learner(dls, weights=f"{row['folder']}/weights.pth")
        again = training.predict(learn, split.test).probabilities
        np.testing.assert_allclose(again, planned.predictions(row).probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("factors", "options", "told"),
    [
        ({"network": ["CoV-CTNet", "CovNet"]}, {}, "no network 'CovNet'"),
        ({"net": {"a": {}, "b": {"network": "VGG16"}}}, {}, "too small for VGG16"),
        ({"weights": ["", "/nowhere/weights.pth"]}, {}, "no file or folder at /nowhere"),
        ({"enhance": ["none", "idwt"]}, {"folds": 30}, "too few"),
        ({"where": ["", "label == 'nothing'"]}, {}, "no image"),
        ({"enhance": ["none", "idwt"]}, {"gpus": 3}, "accelerate|does not divide"),
        ({"enhance": ["none", "idwt"]}, {"threads": 0}, "threads=0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    own, tiny, squares, factors, options, told, monkeypatch
):
    monkeypatch.setattr(jobs, "train", lambda job: pytest.fail("trained"))
    of_run = {k: options.pop(k) for k in [*options] if k in ("gpus", "threads")}
    with pytest.raises((ValueError, OSError), match=told):
        here(study(tiny, squares, factors, **options), **of_run)
    assert not (paths.runs() / "studies" / "s" / "study.json").exists()


def test_a_full_disk_is_noticed_before_training(own, tiny, squares, monkeypatch):
    usage = shutil.disk_usage(own)._replace(free=10_000_000)
    monkeypatch.setattr(engine.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="0.0 GB left, at least 1 are needed"):
        here(study(tiny, squares))


def test_a_disk_that_runs_full_loses_nothing(copied, own, monkeypatch):
    before = copied.table()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "save", full)
        with pytest.warns(UserWarning, match="2 of 6 runs failed"):
            table = here(copied.but(seeds=[0, 1, 2]))
    assert table["error"].dropna().str.contains("No space left").tolist() == [True, True]
    assert list(copied.table()["state"]) == ["done"] * 4
    pd.testing.assert_frame_equal(copied.table(), before)


def test_images_are_read_before_the_workers_start(own, tiny, squares, monkeypatch):
    from covidlab.training import arrays

    seen = []
    original = arrays.check_row
    monkeypatch.setattr(arrays, "check_row", lambda d, i: seen.append(i) or original(d, i))
    monkeypatch.setattr(jobs, "train", lambda job: seen.append("training") or "done")
    here(study(tiny, squares, {"enhance": ["none", "idwt"], "lr": [0.1, 0.2]}, seeds=[0, 1, 2]))
    assert seen.index("training") == 80  # forty images, two enhancements, once each
    assert set(seen[80:]) == {"training"}


def test_unknown_patients_are_told_once(own, tiny, squares):
    table = pd.read_csv(squares / "manifest.csv").drop(columns=["patient_id", "infection_mask"])
    table["image"] = [str(squares / name) for name in table["image"]]
    table.to_csv(own / "nobody.csv", index=False)
    with pytest.warns(LeakageWarning) as heard:
        here(study(tiny, own / "nobody.csv", {"train_size": [1, 0.5]}))
    assert len([w for w in heard if w.category is LeakageWarning]) == 1


def test_masks_are_compared_by_dice(own, squares):
    base = KHAN_SEGMENTATION.fast().but(
        options={"width": 4}, size=32, channels=1, epochs=1, augment=None, laptop={}
    )
    planned = study(base, squares, {"static_attention": [False, True]}, seeds=[0])
    table = here(planned)
    assert list(table["state"]) == ["done", "done"]
    found = planned.predictions(table.iloc[1])
    true, said = found.truth == 1, found.predicted == 1
    dice = 2 * (true & said).sum() / (true.sum() + said.sum())
    assert table["dice / infection"].iloc[1] == pytest.approx(dice)


# --- last: it ends the pool that the others use ----------------------------------------------------


@contextmanager
def killing(run, ready):
    """Once `ready()`, every process that trains in the folder `run` is killed; yields their ids."""
    stop, killed = threading.Event(), []

    def kill():
        until(ready)
        while not stop.is_set():
            try:
                pid = json.loads((run / "started.json").read_text())["pid"]
            except (OSError, ValueError):
                pid = None
            if pid and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.005)

    thread = background(kill)
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def test_a_run_that_kills_its_workers_has_failed_and_the_others_are_done(own, tiny, squares):
    planned = study(tiny, squares, {"epochs": [1, 3000]}, seeds=[0])
    short, long = (planned.folder / "runs" / run.id for run in planned.plan)
    with (
        killing(long, (short / "run.json").is_file) as killed,
        pytest.warns(UserWarning, match="1 of 2 runs failed"),
    ):
        table = planned.run(workers=2, progress=False)
    assert len(killed) == 2  # it was tried once more, in a fresh pool
    assert list(table["state"]) == ["done", "failed"]
    assert "two workers died of this run" in table["error"].iloc[1]


def test_a_run_beside_the_one_that_kills_is_not_blamed(own, tiny, squares):
    planned = study(tiny, squares, {"epochs": [60, 3000]}, seeds=[0])
    short, long = (planned.folder / "runs" / run.id for run in planned.plan)
    at_work = [run / "started.json" for run in (short, long)]

    def both():
        return all(file.is_file() for file in at_work) or (short / "run.json").is_file()

    with killing(long, both) as killed, pytest.warns(UserWarning, match="1 of 2 runs failed"):
        table = planned.run(workers=2, progress=False)
    assert list(table["state"]) == ["done", "failed"] and len(killed) == 2
