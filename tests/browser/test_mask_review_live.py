"""The review of masks in a real browser, through Voilà: keys, brush, undo, and what reached the log."""

import json
import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from harness import free_port, served
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

# Pictures with a disc, and masks that miss part of it; what means harm is in every name.
REVIEW = """
from pathlib import Path
import numpy as np, pandas as pd
from covidlab import annotation, datasets
from covidlab.widgets import MaskReview
HARM = "<img src=x onerror='window.harmed=1'>"
rows = [{{"image": f"{{i}}.png", "label": "x", "patient_id": f"p{{i}}"}} for i in range(6)]
data = datasets.Dataset(pd.DataFrame(rows), Path("set"), datasets.Card("discs"))
y, x = np.mgrid[:60, :80]
masks = [np.hypot(y - 30, x - 40) < r for r in (12, 16, 20)]
names = [f"{{k}} {{HARM}}" for k in range({n})]
proposals = annotation.Proposals(data, {{k: [m] * 6 for k, m in zip(names, masks)}}, np.zeros(6))
log = annotation.DecisionLog("{log}", data, HARM)
MaskReview(proposals, log, stage="{stage}", edit={edit})
"""


@pytest.fixture(scope="module")
def pages(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    (folder / "set").mkdir()
    for i in range(6):
        Image.fromarray(np.full((60, 80), 60 + 20 * i, np.uint8)).save(folder / f"set/{i}.png")
    for name, n, edit in (("one", 1, True), ("several", 3, False)):
        source = REVIEW.format(n=n, log=name, stage=name, edit=edit).strip()
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), folder / f"{name}.ipynb")
    port = free_port()
    command = ["voila", ".", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    places = {"PYTHONPATH": ROOT, "JUPYTER_CONFIG_DIR": folder / "config"}
    places["IPYTHONDIR"] = folder / "ipython"
    environment = os.environ | {name: str(value) for name, value in places.items()}
    address = f"http://127.0.0.1:{port}/"
    with served(command, address, folder / "log.txt", env=environment, cwd=folder):
        yield folder, f"{address}voila/render"


def logged(folder, name):
    lines = (folder / name / "decisions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_accept_correct_doubt_exclude_and_undo_by_the_keyboard(pages, visitor):
    folder, address = pages
    someone = visitor()
    page = someone.open(f"{address}/one.ipynb")
    review = page.locator(".covidlab.review")
    title, counted = review.locator("[data-test=title]"), review.locator("[data-test=counted]")

    expect(title).to_have_text("0.png")
    review.locator("[data-test=accept]").click()
    expect(title).to_have_text("1.png")
    page.keyboard.press("u")
    expect(title).to_have_text("2.png")
    page.keyboard.press("e")
    expect(counted).to_have_text("3 of 6 · 1 accepted, 1 unsure, 1 excluded")
    page.keyboard.press("z")
    expect(title).to_have_text("2.png")

    # the brush: a stroke to the right of the disc, one of it taken back, then saved
    page.keyboard.press("r")
    canvas = review.locator("[data-test=editor]")
    expect(canvas).to_be_focused()
    box = canvas.bounding_box()

    def drag(x, y, to_x, to_y):
        across, down = box["width"] / 80, box["height"] / 60
        page.mouse.move(box["x"] + x * across, box["y"] + y * down)
        page.mouse.down()
        page.mouse.move(box["x"] + to_x * across, box["y"] + to_y * down, steps=6)
        page.mouse.up()

    drag(50, 30, 60, 30)
    drag(5, 5, 20, 5)
    page.keyboard.press("z")
    page.keyboard.press("Enter")
    expect(title).to_have_text("3.png")

    # the keyboard alone: the middle of the disc is erased
    page.keyboard.press("r")
    expect(canvas).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("Space")
    review.locator("[data-test=save]").click()
    expect(counted).to_have_text("4 of 6 · 1 accepted, 2 rejected, 1 unsure")

    lines = logged(folder, "one")
    assert [d["decision"] for d in lines] == [
        "accept", "unsure", "exclude", "undo", "reject", "reject",
    ]  # fmt: skip
    y, x = np.mgrid[:60, :80]
    disc = np.hypot(y - 30, x - 40) < 12
    drawn, erased = (np.asarray(Image.open(folder / "one" / d["mask"])) > 0 for d in lines[-2:])
    assert drawn[30, 58] and not drawn[5, 10] and (drawn | ~disc).all(), "added to, and one undone"
    assert lines[-2]["changed"] == (drawn ^ disc).sum()
    assert not erased[30, 40] and erased[30, 30] and not (erased & ~disc).any()

    # the page again: what is decided is not asked again
    again = someone.open(f"{address}/one.ipynb")
    expect(again.locator("[data-test=title]")).to_have_text("4.png")
    assert page.evaluate("window.harmed") is None and someone.dialogs == []
    assert review.locator("img, script").count() == 0 and someone.broken == []


def test_picking_one_of_several(pages, visitor):
    folder, address = pages
    someone = visitor()
    page = someone.open(f"{address}/several.ipynb")
    review = page.locator(".covidlab.review")
    title = review.locator("[data-test=title]")
    expect(review.locator("figure[role=radio]")).to_have_count(3)

    def colours(k):
        return review.locator(f"[data-test=candidate-{k}] canvas").evaluate(
            "c => new Set(new Uint32Array("
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
        )

    plain = colours(2)
    review.locator("[data-test=candidate-2]").click()
    expect(review.locator("[data-test=candidate-2]")).to_have_attribute("aria-checked", "true")
    page.keyboard.press("c")
    for _ in range(100):
        if colours(2) > plain:
            break
        page.wait_for_timeout(100)
    assert colours(2) > plain, "where it leaves the majority"
    page.keyboard.press("a")
    expect(title).to_have_text("1.png")
    expect(review.locator("[data-test=candidate-0]")).to_have_attribute("aria-checked", "true")
    page.keyboard.press("2")
    page.keyboard.press("a")
    expect(title).to_have_text("2.png")
    page.keyboard.press("r")  # none is good: this stage draws nothing
    expect(title).to_have_text("3.png")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("4.png")

    lines = logged(folder, "several")
    assert [d.get("candidate", "")[:1] for d in lines] == ["2", "1", ""]
    assert [d["decision"] for d in lines] == ["accept", "accept", "reject"]
    assert someone.dialogs == [] and someone.broken == []
