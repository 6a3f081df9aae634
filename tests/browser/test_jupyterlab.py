"""The widgets in JupyterLab, by mouse and keyboard, in a real browser."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from harness import free_port, lasso, served
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

# Two groups of 30 images far apart, named to do harm; masks of which all is known.
FEATURES = """
import ipywidgets, numpy as np, pandas as pd
from covidlab.widgets import FeatureExplorer, MapViewer, MaskInspector

rng = np.random.default_rng(0)
features = rng.normal(size=(60, 8)) + 40 * (np.arange(60) >= 30)[:, None]
names = [f"{i} <img src=x onerror='window.harmed=1'>" for i in range(60)]
labels = np.where(np.arange(60) < 30, "<script>window.harmed=1</script>", "<b>normal</b>")
frame = pd.DataFrame({"image": names, "label": labels, "patient_id": names})
explorer = FeatureExplorer(features, frame, images=rng.random((60, 32, 32)), methods=("pca",))
explorer
"""
MASKS = """
row, column = np.mgrid[:64, :64]
probability = [column / 64, 1 - row / 640]
truth = [column >= 32, row < 16]
inspector = MaskInspector([np.full((64, 64), 0.5)] * 2, truth, probability, names=names[:2])
inspector
"""
MAPS = """
left, top = column < 32, row < 16
viewer = MapViewer.from_arrays(
    [np.full((64, 64), 0.5)] * 2,
    {"left": [left, top], "top": [top, left]},
    {"lung": [left, left]},
    names[:2],
)
viewer
"""
# What Python has is written beside, so that the page shows whether it got there.
ECHO = """
selected, counted, drawn = (ipywidgets.Label() for _ in range(3))
def tell(change):
    selected.value = f"Python has {sorted(explorer.selection)}"
    counted.value = f"Python counts {inspector.measure()['predicted_pixels']}"
explorer.observe(tell, "selection")
inspector.observe(tell, ["threshold", "slice"])
viewer.observe(lambda c: setattr(drawn, "value", f"Python draws at {c.new}"), "opacity")
ipywidgets.VBox([selected, counted, drawn])
"""
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are there too
}


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """JupyterLab on a folder of its own, with settings of its own: the address of its notebook."""
    folder = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_code_cell(source.strip()) for source in (FEATURES, MASKS, MAPS, ECHO)]
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    (folder / "work").mkdir()
    nbformat.write(book, folder / "work" / "widgets.ipynb")
    own = {
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "IPYTHONDIR": folder / "ipython",
        "PYTHONPATH": ROOT,
    }
    port, token = free_port(), "for-the-test"
    command = ["jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder / 'work'}", "--LabApp.extension_manager=readonly"]
    command += ["--LabApp.expose_app_in_browser=True"]
    environment = os.environ | {name: str(value) for name, value in own.items()}
    address = f"http://127.0.0.1:{port}"
    with served(command, f"{address}/api", folder / "log.txt", env=environment):
        yield f"{address}/lab/tree/widgets.ipynb?token={token}&reset"


# The indicator beside a notebook says idle before there is a kernel, and a command that comes
# before it asks in a dialog which one to start.
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"


def run_all(page):
    """All cells by JupyterLab's own command: a click in its menu is lost at times, or lands beside."""
    page.wait_for_function(f"{KERNEL}?.status == 'idle'")
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    prompt = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").first
    expect(prompt).not_to_have_text("[ ]:")
    expect(page.locator("dialog")).to_have_count(0)


def test_lasso_sliders_and_hostile_names_in_jupyterlab(lab, visitor):
    someone = visitor()
    page = someone.open(lab)
    run_all(page)
    explorer, masks = page.locator(".covidlab.explorer"), page.locator(".covidlab.masks")

    # the left half of the map is one of the two groups, the sign of a component being arbitrary
    lasso(page, explorer.locator("[data-test=map]"), right=0.5)
    expect(explorer.locator("[data-test=count]")).to_have_text("30 selected")
    told = page.get_by_text("Python has [")
    expect(told).to_have_text(re.compile(r"\d"))
    rows = json.loads(told.inner_text().removeprefix("Python has "))
    assert rows in (list(range(30)), list(range(30, 60)))

    # data that looks like markup is text
    label = "<script>window.harmed=1</script>" if rows[0] == 0 else "<b>normal</b>"
    expect(explorer.locator("[data-test=legend]")).to_contain_text(f"{label} (30)")
    card = explorer.locator(f"[data-test=card][data-row='{rows[0]}']")
    expect(card).to_contain_text(f"{rows[0]} <img src=x onerror='window.harmed=1'>")
    expect(card).to_contain_text(label)
    card.click()
    expect(explorer.locator("[data-test=near-note]")).to_contain_text("8 of 8 have its label")

    # the threshold: what is drawn, what the page counts, what Python has
    masks.locator("[data-test=threshold]").fill("0.75")
    picture = masks.locator("[data-test=picture]")
    expect(picture).to_have_attribute("data-threshold", "0.75")
    expect(masks.locator("[data-test=dice-here]")).to_have_text(f"{2 * 16 / (16 + 32):.3f}")
    expect(page.get_by_text(f"Python counts {16 * 64}")).to_be_visible()
    missed, found = (pixel(picture, x) for x in (0.6, 0.9))
    assert len(set(missed)) == 1 and found[2] > found[0], "grey, and blue"

    # the other image, by the keyboard
    picture.focus()
    page.keyboard.press("ArrowRight")
    expect(masks.locator("[data-test=name]")).to_have_text(
        "1 <img src=x onerror='window.harmed=1'>"
    )
    expect(page.get_by_text(f"Python counts {64 * 64}")).to_be_visible()
    expect(picture).to_have_attribute("data-slice", "1")
    assert pixel(picture, 0.6)[2] > pixel(picture, 0.6)[0]

    # maps: half of the second one's heat lies in the lung, which is half of the area
    maps = page.locator(".covidlab.maps")
    for name, heat in (("left", 100), ("top", 50)):
        expect(maps.locator(f"[data-test=heat-{name}-lung]")).to_have_text(f"{heat} %")
        expect(maps.locator(f"[data-test=area-{name}-lung]")).to_have_text("50 %")
    drawn = maps.locator("[data-test=map][data-method=left]")
    assert len(set(pixel(drawn, 0.25))) > 1, "a map is in colour"
    maps.locator("[data-test=opacity]").fill("0")
    expect(page.get_by_text("Python draws at 0")).to_be_visible()
    assert len(set(pixel(drawn, 0.25))) == 1, "and the image is grey"
    maps.locator("[data-test=next]").click()
    expect(maps.locator("[data-test=name]")).to_have_text("1 <img src=x onerror='window.harmed=1'>")
    expect(maps.locator("[data-test=heat-left-lung]")).to_have_text("50 %")

    assert page.evaluate("window.harmed") is None and someone.dialogs == []
    assert page.locator(".covidlab img, .covidlab script, .covidlab b b").count() == 0
    assert someone.broken == []


def pixel(canvas, across):
    """Red, green, blue of the middle row of a canvas, so far from its left edge."""
    code = "(c, u) => [...c.getContext('2d').getImageData(u * c.width, c.height / 2, 1, 1).data]"
    return canvas.evaluate(code, across)[:3]
