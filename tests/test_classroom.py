import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab import classroom, datasets
from covidlab.cli import main

PAGES = sorted((Path(__file__).resolve().parents[1] / "notebooks" / "classroom").glob("*.ipynb"))

pytestmark = pytest.mark.xdist_group("classroom")  # one training for all of them


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """36 slices of 12 patients; every other patient has a bright infection."""
    folder, rng, rows = tmp_path_factory.mktemp("own"), np.random.default_rng(0), []
    y, x = np.mgrid[:64, :64]
    for i in range(36):
        ill = i // 3 % 2 == 0
        spot = ill & (np.hypot(y - rng.integers(20, 40), x - rng.integers(20, 40)) < 8)
        image = (0.3 + 0.4 * spot + 0.05 * rng.normal(size=spot.shape)).clip(0, 1)
        for kind, array in (("images", image), ("infection", spot)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray((255 * array).astype(np.uint8)).save(folder / kind / f"{i}.png")
        row = {"image": f"images/{i}.png", "infection_mask": f"infection/{i}.png"}
        rows.append(row | {"patient_id": f"p{i // 3}", "label": "COVID" if ill else "normal"})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def prepared(own, tmp_path_factory):
    """What the pages of that dataset load, and what was said while it was made, twice over."""
    folders, said = [tmp_path_factory.mktemp("room") for _ in range(2)], [[], []]
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as records_of_its_own:
        records_of_its_own.setenv("COVIDLAB_RUNS", str(runs))
        for folder, lines in zip(folders, said, strict=True):
            classroom.prepare(folder, str(own), "smoke", show=lines.append)
    return folders, said, runs


def test_the_second_start_takes_the_records_of_the_first(prepared):
    (first, second), (before, after), _ = prepared
    assert not any("trained before" in line for line in before)
    assert sum("trained before" in line for line in after) == 2
    files = sorted(file.relative_to(first) for file in first.rglob("*.npy"))
    assert {file.parts[0] for file in files} == {"screening", "maps", "masks"}
    for file in files:
        assert (np.load(first / file) == np.load(second / file)).all(), file


def test_every_row_has_its_own_picture_mask_and_part(prepared, own):
    data, at = datasets.load(str(own)), {"screening": 36, "masks": 0, "maps": 0}
    for name in at:
        folder = prepared[0][0] / name
        frame = datasets.read_manifest(folder / "manifest.csv")
        assert len(frame) >= max(at[name], 2)
        images, masks = (np.load(folder / f"{n}.npy") for n in ("images", "infection_mask"))
        for i, image in enumerate(frame["image"]):
            row = list(data.frame["image"]).index(image)
            true = data.mask(row)
            assert (masks[i].sum() > 0) == true.any()
            assert np.abs(masks[i].mean() - true.mean()) < 0.02
            small = images[i].reshape(64, 3, 64, 3).mean((1, 3)) / 255
            assert np.corrcoef(small.ravel(), data.image(row).ravel())[0, 1] > 0.95
    parts = np.load(prepared[0][0] / "screening" / "parts.npy")
    patients = datasets.read_manifest(prepared[0][0] / "screening" / "manifest.csv")["patient_id"]
    of = {p: set(patients[parts == p]) for p in ("train", "valid", "test")}
    assert sum(map(len, of.values())) == 12, "no patient is in two parts"
    seen = datasets.read_manifest(prepared[0][0] / "maps" / "manifest.csv")["patient_id"]
    assert sorted(seen) == sorted(of["test"]), "maps of a slice of each test patient"


def test_pages_hold_what_was_prepared_in_the_type_asked_for(prepared, monkeypatch):
    monkeypatch.setenv(classroom.FOLDER, str(prepared[0][0]))
    monkeypatch.setenv("QUERY_STRING", "large=1")
    widgets = {page.stem: getattr(classroom, page.stem)() for page in PAGES}
    assert set(widgets) == {"feature_space", "maps", "masks"}
    for name, box in widgets.items():
        style, widget, note = box.children
        assert widget.large and "24px" in style.value and "/?large=1" in note.value
        assert "36 slices of 12 patients" in note.value or name != "feature_space"
    monkeypatch.setenv("QUERY_STRING", "")
    style, widget, note = classroom.masks().children
    assert not widget.large and "24px" not in style.value and 'href="/"' in note.value
    probability = np.load(prepared[0][0] / "masks" / "probability.npy")
    assert (widget.mask(0, threshold=0.5) == (probability[0] >= 0.5)).all()


def test_a_page_that_nobody_serves_prepares_itself_once(prepared, own, monkeypatch):
    monkeypatch.setenv("COVIDLAB_RUNS", str(prepared[2]))
    monkeypatch.delenv(classroom.FOLDER, raising=False)
    asked = []
    work = classroom.prepare
    monkeypatch.setattr(classroom, "prepare", lambda *a: [asked.append(a[1:]), work(*a)])
    alone = [getattr(classroom, name)(str(own), "smoke", 0) for name in ("masks", "maps")]
    assert asked == [(str(own), "smoke", 0)], "the second page takes what the first prepared"
    monkeypatch.setenv(classroom.FOLDER, str(prepared[0][0]))
    served = classroom.masks("another dataset", "fast", 7)
    assert (alone[0].children[1].mask(0) == served.children[1].mask(0)).all()


@pytest.mark.parametrize(
    "query, large",
    [
        ("large=1", True),
        ("a=b&large=yes", True),
        ("large=0", False),
        ("", False),
        ("larger=1", False),
    ],
)
def test_large_type_is_asked_for_in_the_address(query, large, monkeypatch):
    monkeypatch.setenv("QUERY_STRING", query)
    assert classroom.presenting() is large


def test_an_unused_page_is_stopped(prepared):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "from covidlab import classroom;"
        f"classroom.serve({str(prepared[0][0])!r}, {port}, '127.0.0.1', False, False, idle=0.1)"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        kernel = _eventually(lambda: _kernel_of(port, "masks"))
        assert _status(port, kernel) == 200
        assert _eventually(lambda: _status(port, kernel) == 404)
    finally:
        server.terminate()
        server.wait(30)


def _kernel_of(port, page):
    """The kernel that was started for a page; the rest of the page is not waited for."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/render/{page}.ipynb") as answer:
            for line in answer:
                if found := re.search(rb'"kernelId": "([0-9a-f-]+)"', line):
                    return found[1].decode()
    except OSError:
        return None  # not up yet


def _status(port, kernel):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/kernels/{kernel}").status
    except urllib.error.HTTPError as error:
        return error.code


def _eventually(found, within=120):
    until = time.monotonic() + within
    while time.monotonic() < until:
        if result := found():
            return result
        time.sleep(0.2)
    raise AssertionError(f"not within {within} s")


def refused(capsys, *arguments):
    assert main(["classroom", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_work_is_said_before_any_work(own, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(classroom, "prepare", lambda *a: pytest.fail("worked before it looked"))
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            said = refused(capsys, "--port", str(port))
        assert f"port {port} is in use" in said and f"--port {port + 1}" in said
        assert "port=70000 must lie in 1..65535" in refused(capsys, "--port", "70000")
        assert "idle=0 minutes" in refused(capsys, "--idle", "0")
        assert "cannot listen at 192.0.2.1" in refused(capsys, "--host", "192.0.2.1")
        without.setattr(classroom.paths, "project", lambda: None)
        without.chdir(tmp_path)
        assert "run from a checkout" in refused(capsys)
    frame = pd.read_csv(own / "manifest.csv").drop(columns="infection_mask")
    frame.to_csv(own / "bare.csv", index=False)
    with pytest.raises(ValueError, match="no infection masks.*phantom-ct"):
        classroom.prepare(tmp_path, str(own / "bare.csv"), "smoke")
    with pytest.raises(ValueError, match="profile='paper' must be one of smoke, fast"):
        classroom.prepare(tmp_path, profile="paper")


def test_the_landing_page_lists_the_pages_and_trusts_none(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# <script>x</script>\n\nA & B.\n\nMore.")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    page, large = (classroom._index(tmp_path, large) for large in (False, True))
    assert (
        "<script>" not in page and "&lt;script&gt;x&lt;/script&gt;" in page and "A &amp; B." in page
    )
    assert 'href="/voila/render/one.ipynb"' in page
    assert 'href="/voila/render/one.ipynb?large=1"' in large
    size = [int(re.search(r"font:(\d+)px", p)[1]) for p in (page, large)]
    assert size[1] >= 1.4 * size[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_is_a_title_two_sentences_a_widget_and_three_tasks(path):
    notebook = nbformat.read(path, as_version=4)
    first, parameters, code, last = notebook.cells
    assert parameters.metadata.tags == ["parameters"]
    assert parameters.source == 'DATASET = "phantom-ct"\nPROFILE = "fast"\nSEED = 0'
    title, text = first.source.split("\n\n")
    assert title == f"# {notebook.metadata.title}"
    assert len(re.findall(r"[.?](?:\s|$)", text.replace("et al. ", ""))) == 2
    assert code.source.endswith(f"classroom.{path.stem}(DATASET, PROFILE, SEED)")
    assert not code.outputs and code.execution_count is None and "widgets" not in notebook.metadata
    assert re.findall(r"^(\d)\. ", last.source, re.M) == ["1", "2", "3"]
    assert last.source.endswith("**Research and teaching only, not for clinical use.**")
