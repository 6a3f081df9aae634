"""The run board without a browser: rows, order, confusion and Dice by hand; a network opened again."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from traitlets import TraitError

from covidlab import ablation, datasets, evaluation, training
from covidlab.ablation import jobs
from covidlab.predictions import MaskPredictions, Predictions
from covidlab.training import Recipe, RunRecord
from covidlab.training import arrays as prepared
from covidlab.widgets import RunBoard

BASE = Recipe(name="tiny", network="CoV-CTNet", options={"widths": (4, 4, 8, 8)}, size=24, epochs=2)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Run records and cache of this test alone."""
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVIDLAB_RUNS", str(tmp_path / "runs"))
    prepared._recent.clear()
    return tmp_path / "runs"


def study(seeds=(0,), **options):
    factors = {"enhance": ["none", "idwt"], "train_size": [1.0, 0.25]}
    return ablation.Study("s", BASE, factors, "squares", seeds=list(seeds), **options)


def said(scores=(0.9, 0.2, 0.4, 0.6), labels=("ill", "ill", "well", "well")):
    """Two of four right at 0.5: the second is missed, the fourth called ill."""
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(len(labels))], "label": labels})
    frame["patient_id"] = [f"p{i}" for i in range(len(labels))]
    p = np.array(scores, np.float32)
    return Predictions(frame, np.stack([1 - p, p], 1), ("well", "ill"), "ill")


def record(folder, metrics=None, recipe=BASE, seed=0, losses=(0.7, 0.5, 0.6), **data):
    """A run record by hand; the losses are of the validation part."""
    history = [{"train_loss": v / 2, "valid_loss": v, "accuracy": 1 - v} for v in losses]
    about = {"dataset": "squares", "fingerprint": "f", "split": "s", "how": "by hand"}
    return RunRecord(
        folder=folder,
        recipe=recipe.asdict(),
        data=about | {"images": {"train": 20, "valid": 5, "test": 4}} | data,
        seed=seed,
        environment={"python": "3", "precision": "fp32"},
        history=history,
        best_epoch=2,
        seconds=12.5,
        metrics={"valid": history[1], **(metrics or {})},
    ).save()


def finish(planned, i, found=None, **metrics):
    """What the i-th run of a study leaves when it is done."""
    run = planned.plan[i]
    folder = planned.folder.parents[1] / f"record{i}"
    record(folder, {"ablation": metrics}, run.recipe, run.seed)
    jobs.save(found or said(), folder / "predictions.npz")
    mark(planned, i, "run.json", {"record": folder.name, "test_part": "t"})
    return run.id


def mark(planned, i, name, content):
    folder = planned.folder / "runs" / planned.plan[i].id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def mixed(own):
    """A study with all that can be: done twice, failed, unreadable, and four more never begun."""
    planned = study(seeds=(0, 1))
    planned.begin({"squares": "f"})
    finish(planned, 0, accuracy=0.5, roc_auc=0.75, mcc=None)
    finish(planned, 1, accuracy=0.9, roc_auc=0.25, mcc=0.1)
    mark(planned, 2, "failed.json", {"error": "ValueError: <b>no</b>", "traceback": "Traceback…"})
    finish(planned, 3, accuracy=0.7)
    (own / "record3" / "record.json").write_text('{"recipe": 3')
    return planned


# ---- rows ---------------------------------------------------------------------------------------


def test_rows_are_those_of_the_studys_own_table(mixed):
    (mixed.folder.parents[1] / "record3" / "record.json").unlink()  # which that table cannot read
    board = RunBoard(mixed)
    ours, theirs = board.table(), mixed.table()
    tried = ours[ours["state"] != "missing"].reset_index(drop=True)
    shared = [c for c in theirs if c not in ("test_part", "error", "folder")]
    pd.testing.assert_frame_equal(tried[shared], theirs[shared], check_dtype=False)
    assert list(board.table().index) == [run.id for run in mixed.plan]
    assert list(ours["state"]) == ["done", "done", "failed"] + ["missing"] * 5


def test_what_failed_or_cannot_be_read_is_a_row_that_says_so(mixed):
    board = RunBoard(mixed)
    failed, unreadable, missing = (mixed.plan[i].id for i in (2, 3, 4))
    table = board.table()
    assert table.loc[failed, "error"] == "ValueError: <b>no</b>"
    assert table.loc[unreadable, "state"] == "unreadable"
    assert "record3/record.json is not a run record" in table.loc[unreadable, "error"]
    assert board.summary["counts"] == {"done": 2, "failed": 1, "unreadable": 1, "missing": 4}
    assert "4 runs were tried" in board.summary["note"]
    board.opened = failed
    assert board.about["traceback"] == "Traceback…" and board.wrong == {}
    assert ["enhance", "idwt"] in board.about["parts"]["Recipe"], "what was planned"
    with pytest.raises(ValueError, match=f"run {missing} is missing"):
        board.learner(missing)
    with pytest.raises(ValueError, match=r"is failed: ValueError"):
        board.predictions()


def test_other_things_that_are_no_record(mixed):
    """Not JSON at all, JSON of something else, and a pointer to nowhere."""
    file = mixed.folder.parents[1] / "record3" / "record.json"
    for content in (b"\xff\xfe\x00", b"[1, 2]", b'{"recipe": {}, "data": {}, "seed": 0}'):
        file.write_bytes(content)
        row = RunBoard(mixed).table().iloc[3]
        assert row["state"] == "unreadable" and "record3/record.json" in row["error"]
    mark(mixed, 3, "run.json", "{")
    row = RunBoard(mixed).table().iloc[3]
    assert row["state"] == "unreadable" and "run.json" in row["error"]


def test_sorting_and_filtering_by_hand(mixed):
    board, ids = RunBoard(mixed), [run.id for run in mixed.plan]
    assert board.listed() == ids
    board.sort_by = "roc_auc"
    assert board.listed()[:2] == [ids[1], ids[0]], "without a value at the end"
    board.descending = True
    assert board.listed() == ids, "there too"
    board.sort_by, board.descending = "train_size", False
    assert [board.table().loc[k, "train_size"] for k in board.listed()] == ["0.25"] * 4 + ["1"] * 4
    board.sort_by = "state"
    assert board.listed() == ids, "done, failed, unreadable, missing"
    board.search = "IDWT  missing"
    assert board.listed() == ids[6:]
    board.search, board.only = "", {"enhance": "none", "seed": "1"}
    assert board.listed() == ids[4:6]
    board.only = {"state": "done", "enhance": "idwt"}
    assert board.listed() == [] and "no run is listed" in words_of(board.static())


def test_a_finished_study_is_told_from_its_folder(mixed, own):
    record(own / "alone", {"test": {"accuracy": 0.8}}, seed=7)
    (own / "begun").mkdir()
    (own / "begun" / "weights.pth").touch()
    shutil.copytree(own / "record3", own / "old" / "broken")
    table = RunBoard.from_folder().table()
    assert len(table) == 4 + 3, "no run is there twice"
    for i in range(4):
        row, run = table.loc[f"s/{mixed.plan[i].id}"], mixed.plan[i]
        assert (row["study"], row["enhance"], row["train_size"]) == ("s", *run.levels.values())
        assert (row["seed"], row["fold"]) == (run.seed, run.fold)
    alone = table.loc["alone"]
    assert (alone["network"], alone["seed"], alone["enhance"]) == ("CoV-CTNet", 7, "")
    assert table["test accuracy"].dropna().to_dict() == {
        f"s/{mixed.plan[0].id}": 0.5,
        f"s/{mixed.plan[1].id}": 0.9,
        "alone": 0.8,
    }
    assert alone["valid accuracy"] == 0.5 and alone["valid_loss"] == 0.5
    assert table.loc["begun", "state"] == "missing" and "stopped" in table.loc["begun", "error"]
    assert "old/broken/record.json" in table.loc["old/broken", "error"]


def test_one_factor_at_a_time_is_told_from_its_folder_too(own):
    factors = {"size": [24, 32], "both": {"usual": {}, "other": {"lr": 0.1, "network": "VGG16"}}}
    planned = ablation.Study(
        "o", BASE, factors, "squares", seeds=[3], design="one at a time", folds=2
    )
    planned.begin({"squares": "f"})
    for i in range(len(planned.plan)):
        finish(planned, i, accuracy=i / 10)
    table = RunBoard.from_folder(own).table()
    assert len(table) == 6
    for run in planned.plan:
        row = table.loc[f"o/{run.id}"]
        assert {f: row[f] for f in factors} == run.levels and row["fold"] == run.fold


def test_a_study_that_cannot_be_read_is_named(mixed):
    (mixed.folder / "study.json").write_text("{}")
    board = RunBoard.from_folder()
    assert "study.json cannot be read" in board.problems[0]
    assert sorted(board.table()["state"]) == ["done", "done", "failed", "unreadable"]


def test_folders_without_runs(own):
    with pytest.raises(FileNotFoundError, match="no folder at .*COVIDLAB_RUNS"):
        RunBoard.from_folder()
    own.mkdir()
    with pytest.raises(FileNotFoundError, match="no run records below"):
        RunBoard.from_folder()
    with pytest.raises(ValueError, match=r"from_table"):
        RunBoard(pd.DataFrame())


def test_a_table_that_was_written_and_read_again(mixed, tmp_path):
    (mixed.folder.parents[1] / "record3" / "record.json").unlink()
    table = mixed.table()
    table.to_csv(tmp_path / "t.csv", index=False)
    board = RunBoard.from_table(pd.read_csv(tmp_path / "t.csv"))
    assert list(board.table()["roc_auc"].dropna()) == [0.75, 0.25]
    board.opened = board.listed()[0]
    assert board.about["kind"] == "classes" and board.confusion().to_numpy().tolist()
    assert list(board.table()["error"])[2] == "ValueError: <b>no</b>"
    with pytest.raises(ValueError, match="no column folder"):
        RunBoard.from_table(table.drop(columns="folder"))


def test_new_runs_come_and_what_was_chosen_stays(mixed):
    board, ids = RunBoard(mixed), [run.id for run in mixed.plan]
    board.selected, board.opened, board.sort_by = [ids[0], ids[4]], ids[1], "roc_auc"
    assert board.curves[1]["lines"] == {}
    finish(mixed, 4, roc_auc=0.9, new=1.0)
    board.refresh()
    assert board.selected == [ids[0], ids[4]] and board.opened == ids[1]
    assert board.listed()[:3] == [ids[1], ids[0], ids[4]] and board.table().loc[ids[4], "new"] == 1
    assert board.curves[1]["lines"]["validation"] == [0.7, 0.5, 0.6]
    board._hear(None, {"kind": "refresh"}, None)
    shutil.rmtree(mixed.folder.parents[1])
    board._hear(None, {"kind": "refresh"}, None)
    assert board.problem == "" and set(board.table()["state"]) == {"missing"}
    assert board.selected == [ids[0], ids[4]] and board.about["state"] == "missing"


def test_a_run_that_is_gone_is_no_longer_chosen(mixed, own):
    board = RunBoard.from_folder()
    board.selected = [f"s/{run.id}" for run in mixed.plan[:2]]
    board.opened = board.selected[0]
    shutil.rmtree(mixed.folder / "runs" / mixed.plan[0].id)
    board.refresh()
    assert board.selected == [f"s/{mixed.plan[1].id}"] and board.opened == ""
    shutil.rmtree(own)
    board._hear(None, {"kind": "refresh"}, None)
    assert "no run records below" in board.problem and len(board) > 0, "said, and nothing is lost"


@pytest.mark.parametrize(
    "trait,value",
    [
        ("sort_by", "auc"),
        ("selected", ["x"]),
        ("opened", "x"),
        ("only", {"x": "y"}),
        ("visible", ["x"]),
        ("curve", "dice"),
        ("threshold", 1.5),
    ],
)
def test_names_there_are_not(mixed, trait, value):
    with pytest.raises(TraitError, match=trait):
        RunBoard(mixed, **{trait: value})


# ---- curves -------------------------------------------------------------------------------------


def test_curves_of_the_ticked_and_the_opened(mixed):
    board, ids = RunBoard(mixed), [run.id for run in mixed.plan]
    board.selected, board.opened = ids[:2], ids[1]
    first, second = board.curves
    assert first["lines"] == {"training": [0.35, 0.25, 0.3], "validation": [0.7, 0.5, 0.6]}
    assert first["best"] == 2 and first["name"] == "enhance none, train_size 1, seed 0"
    assert board.curve_names == ["loss", "accuracy"]
    board.curve = "accuracy"
    assert board.curves[0]["lines"]["validation"] == pytest.approx([0.3, 0.5, 0.4])
    assert board.history(ids[0]).loc[2, "valid_loss"] == 0.5
    board.selected = [ids[1], ids[2]]
    assert board.curves[0]["colour"] == second["colour"], "a colour stays with its run"
    assert board.curves[1]["colour"] == first["colour"], "and is free again"
    board.selected = []
    assert [c["key"] for c in board.curves] == [ids[1]]


def test_epochs_without_a_value_are_gaps(own):
    planned = study()
    planned.begin({"squares": "f"})
    finish(planned, 0, roc_auc=0.5)
    content = json.loads((own / "record0" / "record.json").read_text())
    content["history"][1]["valid_loss"] = None
    (own / "record0" / "record.json").write_text(json.dumps(content))
    board = RunBoard(planned, selected=[planned.plan[0].id])
    assert board.curves[0]["lines"]["validation"] == [0.7, None, 0.6]
    board.static()


# ---- what a run gets wrong ----------------------------------------------------------------------


def test_confusion_and_errors_by_hand(mixed):
    board = RunBoard(mixed, opened=mixed.plan[0].id)
    assert board.confusion().loc["ill"].to_dict() == {"well": 1, "ill": 1}
    errors = board.errors()
    assert list(errors["image"]) == ["1.png", "3.png"], "0.2 for its label is worse than 0.4"
    assert errors["probability"].tolist() == pytest.approx([0.2, 0.4])
    assert errors.loc[1, ["label", "predicted", "patient_id"]].tolist() == ["well", "ill", "p3"]
    board.threshold = 0.15
    assert list(board.errors()["image"]) == ["3.png", "2.png"]
    assert [row["image"] for row in board.wrong["rows"]] == ["3.png", "2.png"]
    board.threshold = 0.2
    assert list(board.errors()["image"]) == ["3.png", "2.png"], "at the threshold is above it"
    assert board.errors(threshold=0.95)["predicted"].tolist() == ["well", "well"]


def test_the_page_counts_as_evaluation_does_at_every_threshold(own):
    """Also for scores that are float32's neighbours of a threshold."""
    at = (np.arange(201) / 200).astype(np.float32)
    beside = [np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1)).clip(0, 1)]
    scores = np.concatenate(beside)
    labels = np.random.default_rng(0).choice(["well", "ill"], len(scores))
    planned = study()
    planned.begin({"squares": "f"})
    key = finish(planned, 0, said(scores, labels), roc_auc=0.5)
    board = RunBoard(planned, opened=key)
    for k in range(201):
        table = evaluation.confusion(board.predictions(), k / 200)
        expected = [table.loc["ill", "ill"], table.loc["ill", "well"]]
        expected += [table.loc["well", "ill"], table.loc["well", "well"]]
        assert board.about["cuts"][k] == expected, k / 200


def test_three_classes_have_no_threshold(own):
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
    frame = pd.DataFrame({"image": ["0", "1", "2"], "label": ["a", "b", "b"]})
    planned = study()
    planned.begin({"squares": "f"})
    board = RunBoard(planned, opened=finish(planned, 0, Predictions(frame, p, ("a", "b", "c"))))
    assert board.about["matrix"] == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    errors = board.errors()
    assert list(errors["image"]) == ["2", "1"] and list(errors["predicted"]) == ["c", "a"]
    assert errors["probability"].tolist() == pytest.approx([0.2, 0.3])


def test_dice_of_each_image_by_hand_and_as_evaluation_has_it(own):
    rng = np.random.default_rng(0)
    truth = (rng.random((5, 6, 6)) > 0.6).astype(np.uint8) * rng.integers(1, 3, (5, 6, 6))
    p = rng.dirichlet([1, 1, 1], (5, 6, 6)).transpose(0, 3, 1, 2).astype(np.float32)
    truth[4], p[4] = 0, np.array([1, 0, 0], np.float32)[:, None, None]
    truth[3], p[3] = 0, np.array([1, 0, 0], np.float32)[:, None, None]
    truth[3, 0, :2] = 1
    p[3, :, 0, 1:3] = np.array([0, 1, 0], np.float32)[:, None]
    frame = pd.DataFrame({"image": list("abcde"), "patient_id": "p", "label": "x"})
    found = MaskPredictions(frame, p, truth, ("background", "one", "two"))
    planned = study()
    planned.begin({"squares": "f"})
    board = RunBoard(planned, opened=finish(planned, 0, found))
    table = board.dice().set_index("image")
    assert table.index[-1] == "e" and table.loc["e", ["dice / one", "dice / two"]].isna().all()
    assert table.loc["d", "dice / one"] == 2 * 1 / (2 + 2) and np.isnan(
        table.loc["d", "dice / two"]
    )
    theirs = evaluation.per_image(found).set_index("image").loc[table.index]
    for name in ("dice / one", "dice / two", "pixels / one", "predicted pixels / two"):
        np.testing.assert_allclose(table[name], theirs[name])
    assert board.about["kind"] == "masks" and board.wrong["n"] == 5
    assert board.about["dices"][0] == sorted(table["dice / one"].dropna(), reverse=True)
    with pytest.raises(ValueError, match=r"dice\(\)"):
        board.errors()


def test_a_record_alone_says_how_to_get_its_predictions(own):
    record(own / "alone")
    board = RunBoard.from_folder(opened="alone")
    assert "board.predict()" in board.about["note"]
    assert board.about["calls"][0] == ["its test predictions", "board.predict()"]
    with pytest.raises(FileNotFoundError, match="no weights at"):
        board.learner()


def test_nothing_opened_and_no_such_run(mixed):
    board = RunBoard(mixed)
    with pytest.raises(ValueError, match="no run is opened"):
        board.errors()
    with pytest.raises(KeyError, match="no run 'x'"):
        board.learner("x")


# ---- without a page -----------------------------------------------------------------------------


def words_of(figure) -> list[str]:
    from matplotlib.text import Text

    cells = [cell.get_text() for t in figure.axes[0].tables for cell in t.get_celld().values()]
    return [text.get_text() for text in [*figure.findobj(Text), *cells]]


def test_static_has_the_best_first_and_the_curves_of_the_ticked(mixed):
    board = RunBoard(mixed, selected=[mixed.plan[0].id])
    figure = board.static(n=3)
    words = words_of(figure)
    assert "Study s: 2 done, 1 failed, 1 unreadable, 4 missing" in words
    assert "2 of 2 runs, sorted by roc_auc, largest first" in words
    assert words.index("0.750") < words.index("0.250") and "unreadable" not in words
    line = figure.axes[1].get_lines()[1]
    assert line.get_ydata().tolist() == [0.7, 0.5, 0.6]
    board.sort_by = "roc_auc"
    words = words_of(board.static(n=3))
    assert "3 of 8 runs, sorted by roc_auc, smallest first" in words
    assert words.index("0.250") < words.index("0.750")
    assert len(RunBoard(mixed).static().axes) == 1, "no curves where none is ticked"


# ---- a network, opened again --------------------------------------------------------------------


@pytest.fixture
def squares(tmp_path):
    """24 images of 12 patients, a bright square left or right, and where it is as a mask."""
    rng, root, rows = np.random.default_rng(0), tmp_path / "squares", []
    for i in range(24):
        at = (4, 24)[i // 2 % 2]
        image, mask = rng.integers(0, 160, (32, 40)), np.zeros((32, 40), np.uint8)
        image[8:24, at : at + 12] += 60
        mask[8:24, at : at + 12] = 255
        row = {"image": f"images/{i}.png", "infection_mask": f"masks/{i}.png"}
        for name, pixels in zip(row.values(), (image, mask), strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name)
        rows.append(row | {"label": ("left", "right")[i // 2 % 2], "patient_id": f"p{i // 2}"})
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.mark.xdist_group("ablation")
def test_from_a_run_of_a_study_to_its_network_and_its_pictures(own, squares):
    from covidlab.widgets import FeatureExplorer, MapViewer

    base = BASE.but(batch_size=4, lr=1e-2)
    planned = ablation.Study(
        "q", base, {"train_size": [1.0, 0.5]}, str(squares), seeds=[1], test=0.3, profile="paper"
    )
    planned.run(workers=0, progress=False)
    board = RunBoard.from_folder()
    board.opened = f"q/{planned.plan[1].id}"
    learn, kept = board.learner(), board.predictions()
    again = training.predict(learn, learn.dls.split.test)
    np.testing.assert_allclose(again.probabilities, kept.probabilities, atol=1e-6)
    assert learn.recipe.hash() == planned.plan[1].recipe.hash() and board.learner() is learn
    explorer, viewer = board.explorer(methods=("pca",)), board.maps(methods=("gradcam",))
    assert isinstance(explorer, FeatureExplorer) and isinstance(viewer, MapViewer)
    assert [item["name"] for item in viewer.items] == list(kept.frame["image"])
    viewer.stop()
    with pytest.raises(ValueError, match="masks"):
        board.inspector()

    board._learners = {}  # the pictures come from the dataset the study names
    board.threshold = 0.0  # all are called right
    board.pictures = True
    wait_for(lambda: board.shown or board.problem)
    assert board.problem == "" and set(board.shown["pictures"]) == set(board.errors()["image"])
    assert {len(p["grey"]) for p in board.shown["pictures"].values()} == {24 * 24}
    shutil.rmtree(squares)
    board.opened = f"q/{planned.plan[0].id}"
    wait_for(lambda: not board.running)
    assert "no pictures" in board.problem and board.shown == {}


@pytest.mark.xdist_group("ablation")
def test_a_record_that_no_study_planned(own, squares):
    from covidlab.widgets import MaskInspector

    data = datasets.load(str(squares))
    recipe = BASE.but(
        network="CoV-RASeg", options={"width": 4}, masks=("infection_mask",), batch_size=4, epochs=1
    )
    for split in (datasets.split(data, test=0.3, seed=4), datasets.kfold(data, 3)[1]):
        learn = training.learner(training.dataloaders(split, recipe, 4, progress=False))
        made = training.fit(learn, show_progress=False)
        board = RunBoard.from_folder(opened=made.folder.name)
        with pytest.raises(FileNotFoundError, match=r"dataset 'squares' is not found.*data="):
            board.learner()
        with pytest.raises(ValueError, match="the split of squares are not those"):
            board.learner(data=datasets.split(data, test=0.4, seed=4))
        found = board.predict(data=data)
        expected = training.predict(learn, split.test)
        assert list(found.frame["image"]) == list(expected.frame["image"])
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
        assert board.about["kind"] == "masks", "and they are shown"
    assert isinstance(board.inspector(), MaskInspector)
    board.pictures = True
    wait_for(lambda: board.shown or board.problem)
    first = board.dice()["image"].iloc[0]
    row = list(found.frame["image"]).index(first)
    truth, predicted = (m[row] > 0 for m in (found.truth, found.predicted))
    codes = np.frombuffer(board.shown["pictures"][first]["masks"], np.uint8).reshape(24, 24)
    np.testing.assert_array_equal(codes, truth + 2 * predicted)
    with pytest.raises(ValueError, match="the images of squares are not those"):
        board.learner(data=data.where(np.arange(20)))


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()
