"""The review of masks without a browser: what is written, what is shown next, what goes wrong."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import covidlab.widgets
from covidlab import datasets
from covidlab.annotation import DecisionLog, Proposals
from covidlab.widgets import MaskReview

HERE = Path(covidlab.widgets.__file__).parent
SQUARE = np.zeros((9, 10), bool)  # 90 pixels: not a whole number of bytes
SQUARE[2:6, 3:7] = True


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((9, 10), 40 * i + 10, np.uint8)).save(folder / f"{i}.png")
    rows = [{"image": f"{i}.png", "label": "x", "patient_id": f"p{i}"} for i in range(4)]
    return datasets.Dataset(pd.DataFrame(rows), folder, datasets.Card("small"))


@pytest.fixture
def log(tmp_path, data):
    return DecisionLog(tmp_path / "log", data, "Ada")


def proposals(data, *names):
    masks = {n: [np.roll(SQUARE, k, axis=1)] * len(data) for k, n in enumerate(names or ["net"])}
    return Proposals(data, masks, np.zeros(len(data)), {n: f"run-{n}" for n in masks})


def test_each_decision_is_written_and_the_next_image_shown(data, log):
    review = MaskReview(proposals(data), log)
    assert review.image == "0.png" and review.shown["image"] == "0.png"
    review.decide("accept")
    assert review.image == "1.png"
    drawn = np.roll(SQUARE, 2, axis=0)
    review.decide("reject", drawn)
    review.decide("unsure")
    review.decide("exclude")
    held = log.state()
    assert {k: d.decision for k, d in held.items()} == {
        "0.png": "accept", "1.png": "reject", "2.png": "unsure", "3.png": "exclude",
    }  # fmt: skip
    np.testing.assert_array_equal(log.mask(held["0.png"]), SQUARE)
    np.testing.assert_array_equal(log.mask(held["1.png"]), drawn)
    assert held["1.png"].changed == (drawn ^ SQUARE).sum() and held["0.png"].changed == 0
    assert held["0.png"].model == "run-net" and held["3.png"].model == "", "not about a network"
    assert {d.stage for d in held.values()} == {"II"}
    assert review.image is None and review.shown == {} and review.pending() == []
    assert review.progress == {
        "done": 4, "total": 4, "accept": 1, "reject": 1, "unsure": 1, "exclude": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no image is left"):
        review.decide("accept")


def test_undo_brings_the_image_back_with_the_candidate_chosen(data, log):
    review = MaskReview(proposals(data, "a", "b", "c"), log, stage="III")
    review.chosen = 2
    review.decide("accept")
    assert review.chosen == 0, "each image begins with the first"
    assert log.lines()[-1].candidate == "c" and log.lines()[-1].model == "run-c"
    review.undo()
    assert (review.image, review.chosen) == ("0.png", 2) and review.progress["done"] == 0
    assert len(log.lines()) == 2 and log.state() == {}
    with pytest.raises(ValueError, match="no decision that could be taken back"):
        review.undo()


def test_an_image_that_is_decided_again_counts_once(data, log):
    review = MaskReview(proposals(data), log)
    review.decide("accept")
    log.decide("0.png", "exclude", stage="II")  # from a second page
    review.decide("accept")
    assert review.progress == {
        "done": 2, "total": 4, "accept": 1, "reject": 0, "unsure": 0, "exclude": 1,
    }  # fmt: skip


def test_another_session_goes_on_where_it_was(data, log):
    first = MaskReview(proposals(data), log, images=["2.png", "0.png", "3.png"])
    first.decide("accept")
    again = MaskReview(
        proposals(data), DecisionLog(log.folder, data, "Ada"), images=["2.png", "0.png", "3.png"]
    )
    assert again.image == "0.png" and again.pending() == ["0.png", "3.png"]
    assert again.progress["done"] == 1 and again.recent[0]["image"] == "2.png"
    assert MaskReview(proposals(data), log, stage="IV").image == "0.png", (
        "another stage begins anew"
    )


def test_two_people_repeat_or_share_the_work(data, log):
    ben = DecisionLog(log.folder, data, "Ben")
    MaskReview(proposals(data), log).decide("accept")
    assert MaskReview(proposals(data), ben).image == "0.png"
    assert MaskReview(proposals(data), ben, shared=True).image == "1.png"


def test_later_and_back_pass_over_what_is_decided(data, log):
    review = MaskReview(proposals(data), log)
    review.go(+1)
    review.decide("accept")  # 1.png
    assert review.image == "2.png"
    review.go(-1)
    assert review.image == "0.png", "1.png is decided"
    review.go(-1)
    assert review.image == "3.png", "and around"
    review.decide("accept")
    assert review.image == "0.png"


def test_what_the_page_sends(data, log):
    review = MaskReview(proposals(data, "a", "b"), log)
    drawn = np.roll(SQUARE, 1, axis=0)
    bits = np.packbits(drawn).tobytes()
    review._hear(
        None, {"do": "decide", "image": "0.png", "decision": "reject", "candidate": 1}, [bits]
    )
    line = log.lines()[-1]
    np.testing.assert_array_equal(log.mask(line), drawn)
    assert line.candidate == "b"
    late = {"do": "decide", "image": "0.png", "decision": "accept", "candidate": 0}
    review._hear(None, late, [])
    assert len(log.lines()) == 1, "a second press is not about the image that came after"
    review._hear(None, {"do": "decide", "image": "1.png", "decision": "accept", "candidate": 7}, [])
    assert log.lines()[-1].candidate == "a"
    review._hear(None, {"do": "undo"}, [])
    assert review.image == "1.png" and review.message == ""
    (log.folder / line.mask).write_bytes(b"spoilt")
    review._hear(None, {"do": "go", "steps": 1}, [])
    review._hear(None, {"do": "decide", "image": "2.png", "decision": "never", "candidate": 0}, [])
    assert "decision='never'" in review.message and review.image == "2.png"


def test_the_page_gets_what_is_shown(data, log):
    review = MaskReview(proposals(data, "a", "b"), log)
    assert np.frombuffer(review.picture, np.uint8).tolist() == [10] * 90
    each = -(-90 // 8)
    for k in range(2):
        bits = np.frombuffer(review.candidates[k * each : (k + 1) * each], np.uint8)
        mask = np.unpackbits(bits, count=90).reshape(9, 10).astype(bool)
        np.testing.assert_array_equal(mask, np.roll(SQUARE, k, axis=1))


def test_stage_three_takes_no_drawing(data, log):
    review = MaskReview(proposals(data, "a", "b"), log, stage="III", edit=False)
    with pytest.raises(ValueError, match="picks masks and corrects none"):
        review.decide("reject", SQUARE)
    review.decide("reject")
    line = log.lines()[-1]
    assert line.decision == "reject" and line.mask == "" and line.candidate == ""


def test_clear_errors(data, log):
    with pytest.raises(KeyError, match="no proposal for '9.png'"):
        MaskReview(proposals(data), log, images=["9.png"])
    with pytest.raises(ValueError, match="nothing to review"):
        MaskReview(proposals(data), log, images=[])
    wrong = Proposals(data, {"net": [SQUARE.T] * 4}, np.zeros(4))
    with pytest.raises(ValueError, match=r"0.png: the candidate 'net' is \(10, 9\)"):
        MaskReview(wrong, log)
    review = MaskReview(proposals(data), log)
    with pytest.raises(ValueError, match="a drawn mask goes with reject"):
        review.decide("accept", SQUARE)


def test_static_shows_the_image_and_every_candidate(data, log):
    review = MaskReview(proposals(data, "a", "b", "c", "d", "e", "f"), log)
    figure = review.static()
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["0.png", "1 · a", "2 · b", "3 · c", "4 · d", "5 · e", "6 · f", ""]
    assert "0 of 4 decided" in figure.get_supxlabel()
    for _ in range(4):
        review.decide("unsure")
    assert "4 of 4 decided (4 unsure)" in review.static().get_supxlabel()


def test_names_are_never_markup():
    script = (HERE / "review.js").read_text()
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert dangerous not in script


NODE = """
const mask = new Uint8Array(9 * 10);
sweep(mask, 9, 10, { x: 2, y: 4.5 }, { x: 7, y: 4.5 }, 1.6, 1);
const ring = new Uint8Array(9 * 10);
for (let y = 0; y < 9; y += 1) for (let x = 0; x < 10; x += 1) {
  if (Math.max(Math.abs(y - 4), Math.abs(x - 4)) === 2) ring[y * 10 + x] = 1;
}
const back = unpacked(packed(mask), 90).every((v, i) => v === mask[i]);
console.log(JSON.stringify({ mask: [...mask], filled: [...filled(ring, 9, 10)], back }));
"""


def test_brush_and_fill_against_numpy(tmp_path):
    import json
    import shutil

    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    source = (HERE / "common.js").read_text() + (HERE / "review.js").read_text()
    source = source.split("export default")[0] + NODE
    (tmp_path / "brush.mjs").write_text(source)
    out = subprocess.run(
        ["node", tmp_path / "brush.mjs"], capture_output=True, text=True, check=True
    ).stdout
    found = json.loads(out)
    y, x = np.mgrid[:9, :10] + 0.5
    along = np.clip(x, 2, 7)
    expected = np.hypot(x - along, y - 4.5) <= 1.6
    np.testing.assert_array_equal(np.reshape(found["mask"], (9, 10)).astype(bool), expected)
    block = np.zeros((9, 10), bool)
    block[2:7, 2:7] = True
    np.testing.assert_array_equal(np.reshape(found["filled"], (9, 10)).astype(bool), block)
    assert found["back"], "packed and unpacked"
