"""The log of decisions: worked by hand, killed in the middle of a line, shared by two processes."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small import SQUARE, WIDER

from covidlab.annotation import Decision, DecisionLog, standing, state

HERE = os.path.dirname(__file__)


def line(image, decision, who="Ada", id="", undoes=""):
    return Decision(image, decision, who, id, undoes=undoes)


# ---- the fold, by hand --------------------------------------------------------------------------


def test_the_state_of_a_log_worked_by_hand():
    lines = [
        line("a", "accept", id="1"),
        line("b", "reject", id="2"),
        line("a", "exclude", "Ben", id="3"),
        line("b", "accept", id="4"),
        line("b", "undo", id="5", undoes="4"),
        line("c", "unsure", id="6"),
        line("c", "undo", id="7", undoes="6"),
    ]
    assert [d.id for d in standing(lines)] == ["1", "2", "3"]
    assert {k: d.id for k, d in state(lines).items()} == {"a": "3", "b": "2"}
    assert {k: d.id for k, d in state(lines, "Ada").items()} == {"a": "1", "b": "2"}
    assert state(lines, "Cem") == {}
    assert state(lines[:4])["b"].id == "4", "before the undo it held"
    assert state(iter(lines)) == state(lines), "any iterable, and nothing is kept in between"


def test_every_line_says_who_when_what_and_of_which_model(log):
    log.decide("images/0.png", "accept", SQUARE, "U-Net", "II", "run7", proposed=SQUARE)
    log.decide("images/1.png", "reject", WIDER, "FPN", "II", "run8", proposed=SQUARE)
    log.decide("images/2.png", "exclude", stage="II")
    first, second, third = (json.loads(t) for t in log.path.read_text().splitlines())
    assert first["who"] == "Ada" and first["model"] == "run7" and first["stage"] == "II"
    stamp = pd.Timestamp(first["time"])
    assert stamp.utcoffset() == pd.Timedelta(0)
    assert abs(pd.Timestamp.now("UTC") - stamp) < pd.Timedelta("1h")
    assert "changed" not in first and second["changed"] == 4, "one column of four pixels"
    assert set(third) == {"image", "decision", "who", "id", "time", "stage"}
    table = log.table()
    assert table["decision"].to_dict() == {
        "images/0.png": "accept", "images/1.png": "reject", "images/2.png": "exclude",
    }  # fmt: skip
    kept = log.state()["images/1.png"]
    np.testing.assert_array_equal(log.mask(kept), WIDER)
    assert log.mask(log.state()["images/2.png"]) is None


def test_undo_adds_a_line_and_takes_back_ones_own_last(log, data):
    ben = DecisionLog(log.folder, data, "Ben")
    log.decide("images/0.png", "accept", SQUARE, stage="II")
    log.decide("images/0.png", "exclude", stage="II")
    ben.decide("images/0.png", "unsure", stage="II")
    text = log.path.read_text()
    assert log.undo().decision == "exclude"
    assert log.path.read_text().startswith(text), "nothing that was written is changed"
    assert log.state()["images/0.png"].who == "Ben" and log.state("Ada")["images/0.png"].mask
    assert log.undo().decision == "accept"
    with pytest.raises(ValueError, match="Ada has made no decision"):
        log.undo()
    assert len(log.lines()) == 5 and len(standing(log.lines())) == 1


def test_undo_of_one_stage_leaves_the_others(log):
    log.decide("images/0.png", "accept", SQUARE, stage="II")
    log.decide("images/1.png", "accept", SQUARE, stage="III")
    assert log.undo("II").image == "images/0.png"
    assert set(log.state()) == {"images/1.png"}
    with pytest.raises(ValueError):
        log.undo("II")


# ---- what survives ------------------------------------------------------------------------------


def test_another_session_finds_everything(log, data):
    log.decide("images/0.png", "accept", SQUARE)
    again = DecisionLog(log.folder, data, "Ada")
    assert again.lines() == log.lines()
    np.testing.assert_array_equal(again.mask(again.state()["images/0.png"]), SQUARE)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small import SQUARE, dataset
from covidlab.annotation import DecisionLog
root = Path(sys.argv[2])
log = DecisionLog(root / "log", dataset(root / "set"), "Ada")
log.decide("images/0.png", "accept", SQUARE)
real = os.write
def half(handle, content):
    real(handle, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
log.decide("images/1.png", "accept", SQUARE)
"""


def test_a_process_killed_in_the_middle_of_a_line_costs_that_line_alone(log, data, tmp_path):
    command = [sys.executable, "-c", KILLED, HERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not log.path.read_bytes().endswith(b"\n"), "half a line is there"
    assert set(log.state()) == {"images/0.png"} and log.torn == 1
    log.decide("images/2.png", "exclude")  # the lock of the dead is free
    log.decide("images/1.png", "unsure")
    assert {k: d.decision for k, d in log.state().items()} == {
        "images/0.png": "accept", "images/1.png": "unsure", "images/2.png": "exclude",
    }  # fmt: skip
    assert log.torn == 1


@pytest.mark.parametrize("cut", range(1, 12))
def test_whatever_is_left_of_the_last_line(log, cut):
    log.decide("images/0.png", "exclude")
    log.decide("images/1.png", "exclude")
    content = log.path.read_bytes()
    length = len(content.splitlines()[-1])
    log.path.write_bytes(content[: -1 - cut * length // 12])
    assert set(log.state()) == {"images/0.png"}
    log.decide("images/2.png", "exclude")
    assert set(log.state()) == {"images/0.png", "images/2.png"}


def test_what_others_write_is_seen_and_so_is_another_file(log, data):
    ben = DecisionLog(log.folder, data, "Ben")
    for k in range(4):
        (log, ben)[k % 2].decide(f"images/{k}.png", "exclude")
        assert log.lines() == ben.lines() == DecisionLog(log.folder, data, "Cem").lines()
    first = log.path.read_bytes().splitlines(True)[0]
    log.path.write_bytes(first)
    assert len(log.lines()) == len(ben.lines()) == 1
    lines = log.lines()
    lines.clear()
    assert len(log.lines()) == 1, "a list of one's own"


def test_a_last_line_without_its_end_counts_when_it_is_whole(log):
    log.decide("images/0.png", "exclude")
    log.path.write_bytes(log.path.read_bytes().rstrip(b"\n"))
    log.decide("images/1.png", "exclude")
    assert len(log.lines()) == 2 and log.torn == 0


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small import dataset
from covidlab.annotation import DecisionLog
root = Path(sys.argv[2])
log = DecisionLog(root / "log", dataset(root / "set"), sys.argv[3])
for k in range(50):
    log.decide(f"images/{k % 4}.png", "exclude", stage=str(k), candidate="x" * 2000)
"""


def test_two_processes_write_at_once_and_no_line_is_lost(log, tmp_path):
    def write(who):
        command = [sys.executable, "-c", WRITER, HERE, str(tmp_path), who]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(write, ("Ben", "Cem")):
            assert done.returncode == 0, done.stderr
    lines = log.lines()
    assert log.torn == 0 and len({d.id for d in lines}) == 100
    for who in ("Ben", "Cem"):
        assert [d.stage for d in lines if d.who == who] == [str(k) for k in range(50)]


# ---- masks --------------------------------------------------------------------------------------


def test_masks_are_never_written_over(log):
    log.decide("images/0.png", "accept", SQUARE)
    first = log.state()["images/0.png"]
    log.decide("images/0.png", "reject", WIDER, proposed=SQUARE)
    log.decide("images/0.png", "accept", SQUARE)
    second, third = log.lines()[1:]
    assert third.mask == first.mask != second.mask, "the same mask is the same file"
    assert len(list((log.folder / "masks").glob("*.png"))) == 2
    np.testing.assert_array_equal(log.mask(second), WIDER)
    np.testing.assert_array_equal(log.mask(first), SQUARE)


def test_a_mask_that_somebody_changed_is_refused(log):
    decision = log.decide("images/0.png", "accept", SQUARE)
    path = log.folder / decision.mask
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(path)
    with pytest.raises(ValueError, match="not the mask that Ada saved"):
        log.mask(decision)
    with pytest.raises(ValueError, match="was changed"):
        log.decide("images/0.png", "accept", SQUARE)
    path.unlink()
    with pytest.raises(ValueError, match="not the mask that Ada saved"):
        log.mask(decision)


def test_settled_masks_become_a_dataset(log):
    with pytest.raises(ValueError, match="settles no mask yet"):
        log.masked()
    log.decide("images/3.png", "accept", SQUARE)
    log.decide("images/1.png", "reject", WIDER)
    log.decide("images/0.png", "unsure", SQUARE)
    log.decide("images/2.png", "reject")
    masked = log.masked("lung_mask")
    assert list(masked.frame["image"]) == ["images/1.png", "images/3.png"]
    np.testing.assert_array_equal(masked.mask(0, "lung_mask"), WIDER)
    np.testing.assert_array_equal(masked.mask(1, "lung_mask"), SQUARE)
    assert masked.image(0).shape == (8, 10)
    log.decide("images/3.png", "exclude")
    assert list(log.masked().frame["image"]) == ["images/1.png"]


# ---- what goes in -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error,words,arguments",
    [
        (ValueError, "decision='maybe' must be one of", ("images/0.png", "maybe", SQUARE)),
        (KeyError, "no image 'images/9.png'", ("images/9.png", "accept", SQUARE)),
        (ValueError, r"mask is \(10, 8\) bool", ("images/0.png", "accept", SQUARE.T)),
        (ValueError, "uint8", ("images/0.png", "accept", SQUARE.astype(np.uint8))),
        (ValueError, "accept needs the mask", ("images/0.png", "accept")),
        (ValueError, "no mask is kept", ("images/0.png", "exclude", SQUARE)),
    ],
)
def test_clear_errors_and_nothing_written(log, error, words, arguments):
    with pytest.raises(error, match=words):
        log.decide(*arguments)
    assert log.lines() == [] and not list((log.folder / "masks").iterdir())


def test_nobody_decides(tmp_path, data):
    with pytest.raises(ValueError, match="who is empty"):
        DecisionLog(tmp_path / "log", data, "  ")


def test_names_with_strange_letters(log, data, tmp_path):
    strange = 'Åsa "the\nhand" <b>'
    other = DecisionLog(log.folder, data, strange)
    made = other.decide("images/0.png", "exclude")
    assert log.lines() == [made] and made.who == strange
    assert replace(made, who="Ada") != made
