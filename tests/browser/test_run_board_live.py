"""The run board in a real browser, through Voilà: sorted, ticked and opened, on the page and in Python."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from harness import free_port, served
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

# Three finished runs and one that failed, written by hand; what means harm is in every text.
BOARD = """
import json, ipywidgets, numpy as np, pandas as pd
from covidlab import paths
from covidlab.ablation import Study, jobs
from covidlab.predictions import Predictions
from covidlab.training import Recipe, RunRecord
from covidlab.widgets import RunBoard

HARM = "<img src=x onerror='window.harmed=1'>"
study = Study("s", Recipe("r", HARM), {"enhance": {HARM: "none", "b": "idwt"}}, "d", seeds=[0, 1])
names = [f"{i} {HARM}" for i in range(4)]
frame = pd.DataFrame({"image": names, "patient_id": names, "label": ["ill", "ill", HARM, HARM]})
for run, auc in zip(study.plan, (0.5, 0.9, 0.7, None)):
    folder = study.folder / "runs" / run.id
    folder.mkdir(parents=True)
    if auc is None:
        (folder / "failed.json").write_text(json.dumps({"error": HARM, "traceback": HARM}))
        continue
    history = [{"train_loss": 0.6, "valid_loss": 0.8}, {"train_loss": 0.4, "valid_loss": auc}]
    data = {"dataset": "d", "images": {"test": 4}}
    metrics = {"ablation": {"roc_auc": auc}}
    place = paths.runs() / run.id
    RunRecord(
        place, run.recipe.asdict(), data, run.seed, {}, history, 2, "", 1.0, metrics
    ).save()
    p = np.array([0.9, 0.2, 0.6, 0.1], np.float32)
    found = Predictions(frame, np.stack([p, 1 - p], 1), ("ill", HARM), "ill")
    jobs.save(found, place / "predictions.npz")
    (folder / "run.json").write_text(json.dumps({"record": run.id, "test_part": "t"}))
board = RunBoard(study)
board
"""
# What Python has is written beside, so that the page shows whether it got there.
ECHO = """
told = ipywidgets.Label()
def tell(_):
    ids = [run.id for run in study.plan]
    told.value = "Python has " + json.dumps({
        "listed": [ids.index(key) for key in board.listed()],
        "selected": [ids.index(key) for key in board.selected],
        "opened": ids.index(board.opened) if board.opened else None,
        "wrong": len(board.errors()) if board.wrong else None,
    })
board.observe(tell, ["sort_by", "descending", "search", "only", "selected", "opened", "threshold"])
told
"""


@pytest.fixture(scope="module")
def page_of_the_board(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    book = new_notebook(cells=[new_code_cell(source.strip()) for source in (BOARD, ECHO)])
    nbformat.write(book, folder / "board.ipynb")
    port, places = free_port(), {"COVIDLAB_RUNS": folder / "runs", "IPYTHONDIR": folder / "ipython"}
    command = ["voila", ".", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    places |= {"PYTHONPATH": ROOT, "JUPYTER_CONFIG_DIR": folder / "config"}
    environment = os.environ | {name: str(value) for name, value in places.items()}
    address = f"http://127.0.0.1:{port}/"
    with served(command, address, folder / "log.txt", env=environment, cwd=folder):
        yield f"{address}voila/render/board.ipynb"


def test_sort_tick_open_and_threshold(page_of_the_board, visitor):
    someone = visitor()
    page = someone.open(page_of_the_board)
    board = page.locator(".covidlab.board")
    rows, told = board.locator("[data-test=run]"), page.get_by_text("Python has {")

    def python(**expected):
        for name, value in expected.items():
            expect(told).to_contain_text(json.dumps({name: value})[1:-1])

    def aucs():
        return rows.locator("td.number:nth-child(5)").all_inner_texts()

    expect(rows).to_have_count(4)
    assert aucs() == ["0.500", "0.900", "0.700", "–"]
    board.locator("[data-test=sort-roc_auc]").click()
    python(listed=[1, 2, 0, 3])
    assert aucs() == ["0.900", "0.700", "0.500", "–"], "largest first, and none at the end"
    board.locator("[data-test=sort-roc_auc]").press("Enter")
    python(listed=[0, 2, 1, 3])
    assert aucs() == ["0.500", "0.700", "0.900", "–"]
    expect(board.locator("th[aria-sort=ascending]")).to_have_text("ROC-AUC ▲")
    board.locator("[data-test=search]").fill("failed")
    python(listed=[3])
    expect(rows).to_have_count(1)
    board.locator("[data-test=search]").fill("")
    board.locator("[data-test=only-enhance]").select_option(label="b")
    python(listed=[1, 3])
    board.locator("[data-test=only-enhance]").select_option(label="all")
    expect(rows).to_have_count(4)

    # by the keyboard: two are ticked, the last of them opened
    rows.first.focus()
    for key in ("Space", "ArrowDown", "Space", "Enter"):
        page.keyboard.press(key)
    python(selected=[0, 2], opened=2, wrong=2)
    expect(board.locator("[data-test=legend] li")).to_have_count(2)
    chart = board.locator("[data-test=curves]")
    chart.press("End")
    expect(board.locator("[data-test=legend]")).to_contain_text("training 0.400, validation 0.700")
    drawn = chart.evaluate(
        "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    )
    assert drawn > 10
    expect(board.locator("[data-test=cell-0-1]")).to_have_text("1")
    board.locator("[data-test=threshold]").fill("0.7")
    expect(board.locator("[data-test=rates]")).to_contain_text("specificity 2/2 = 1.000")
    python(wrong=1)
    expect(board.locator("[data-test=wrong]")).to_have_count(1)
    expect(board.locator("[data-test=wrong]")).to_contain_text("1 <img src=x onerror=")

    rows.last.click()
    python(opened=3)
    expect(board.locator("[data-test=traceback]")).to_contain_text("<img src=x onerror=")
    board.locator("[data-test=refresh]").click()
    python(selected=[0, 2], opened=3)
    assert page.evaluate("window.harmed") is None and someone.dialogs == []
    assert board.locator("img, script").count() == 0 and someone.broken == []
