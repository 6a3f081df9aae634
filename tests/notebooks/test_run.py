"""Every notebook, top to bottom, by the runner that `make run` uses; and the runner itself."""

import json
import os
from pathlib import Path
from queue import Empty

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from covidlab import workbook

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_in_the_smoke_profile(path, tmp_path):
    outcome = workbook.execute(path, tmp_path, {"PROFILE": "smoke"}, path.stem)
    assert outcome.state == "done", outcome.error
    done = nbformat.read(tmp_path / path.name, as_version=4)
    outputs = [o for c in done.cells if c.cell_type == "code" for o in c.outputs]
    shown = [o for o in outputs if {"image/png", "text/html"} & set(o.get("data", {}))]
    cells = sum(c.cell_type == "code" for c in done.cells)
    assert len(shown) >= cells / 5, "a figure or table at least every five code cells"
    warned = [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]
    expected = [w for w in warned if "LeakageWarning" in w]  # an exercise provokes it on purpose
    assert warned == expected


@pytest.fixture
def book(tmp_path):
    """Three notebooks: one fine, one that fails in its second cell, one fine after it."""

    def write(name, *cells):
        notebook = new_notebook(
            cells=[new_markdown_cell(f"# {name}\n\nA sentence about it."), *cells]
        )
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")

    (tmp_path / "notebooks").mkdir()
    parameters = new_code_cell('PROFILE = "fast"\nSEED = 0', metadata={"tags": ["parameters"]})
    figure = new_code_cell(
        "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nprint(PROFILE, SEED)"
    )
    write("00_fine", parameters, figure)
    write("01_broken", parameters, new_code_cell("answer = 41\nassert answer == 42, 'off by one'"))
    write("02_fine_too", parameters, new_code_cell("1 + 1"))
    return tmp_path


def run(book, *args, **options):
    lines = []
    outcomes = workbook.run(
        *args, folder=book / "notebooks", out=book / "build", show=lines.append, **options
    )
    return {o.name: o.state for o in outcomes}, "\n".join(lines)


def test_a_failure_is_named_and_the_others_still_run(book):
    states, said = run(book, "smoke", SEED=7)
    assert states == {"00_fine": "done", "01_broken": "failed", "02_fine_too": "done"}
    assert "FAILED 01_broken, code cell 3" in said and "AssertionError: off by one" in said
    copy = nbformat.read(book / "build" / "00_fine.ipynb", as_version=4)
    printed = [
        o.text for c in copy.cells for o in c.get("outputs", []) if o.output_type == "stream"
    ]
    assert printed == ["smoke 7\n"]
    broken = nbformat.read(book / "build" / "01_broken.ipynb", as_version=4)
    assert any(o.output_type == "error" for c in broken.cells for o in c.get("outputs", []))
    page = (book / "build" / "index.html").read_text()
    assert "failed in cell 3" in page and "data:image/png;base64," in page
    assert 'href="02_fine_too.html"' in page and (book / "build" / "02_fine_too.html").is_file()

    # again: what is done and unchanged is skipped, the failed one is not
    states, said = run(book, "smoke", SEED=7)
    assert states == {"00_fine": "unchanged", "01_broken": "failed", "02_fine_too": "unchanged"}

    # changed parameters, a changed notebook, and force each run again what they must
    assert run(book, "smoke", only="02", SEED=8)[0] == {"02_fine_too": "done"}
    path = book / "notebooks" / "01_broken.ipynb"
    path.write_text(path.read_text().replace("41", "42"))
    assert run(book, "smoke", only="00,01", SEED=7)[0] == {
        "00_fine": "unchanged",
        "01_broken": "done",
    }
    assert run(book, "smoke", only="00", force=True, SEED=7)[0] == {"00_fine": "done"}


def test_an_interrupted_run_resumes(book, monkeypatch):
    execute = workbook.execute

    def stopped(path, *args):
        if path.stem == "02_fine_too":
            raise KeyboardInterrupt
        return execute(path, *args)

    monkeypatch.setattr(workbook, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(book, "smoke")
    monkeypatch.setattr(workbook, "execute", execute)
    assert run(book, "smoke")[0]["00_fine"] == "unchanged"
    assert json.loads((book / "build" / "02_fine_too.json").read_text())["state"] == "done"


def test_a_long_traceback_is_shortened_and_ctrl_c_stops_the_run(book):
    deep = (
        "def f(n):\n    if n == 0:\n        raise ValueError('at the bottom')\n    f(n - 1)\nf(60)"
    )
    path = book / "notebooks" / "01_broken.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = deep
    nbformat.write(notebook, path)
    _, said = run(book, "smoke", only="01")
    assert "FAILED 01_broken" in said and "ValueError: at the bottom" in said
    assert len(said.splitlines()) < 40

    notebook.cells[-1].source = "raise KeyboardInterrupt"
    nbformat.write(notebook, path)
    with pytest.raises(KeyboardInterrupt):
        run(book, "smoke", only="01,02")
    assert not (book / "build" / "02_fine_too.json").exists()


def test_figures_come_back_inline_whatever_the_backend(book, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    run(book, "smoke", only="00")
    copy = nbformat.read(book / "build" / "00_fine.ipynb", as_version=4)
    kinds = [k for c in copy.cells for o in c.get("outputs", []) for k in o.get("data", {})]
    assert "image/png" in kinds
    assert os.environ["MPLBACKEND"] == "agg"


def test_solutions_of_exercises_are_run_in_smoke(book):
    last = new_markdown_cell(
        "**1.** Why?\n\n<details><summary>Solution</summary>\n\n```python\nassert SEED == 1\n```\n</details>"
    )
    path = book / "notebooks" / "02_fine_too.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(last)
    nbformat.write(notebook, path)
    assert run(book, "smoke", only="02", SEED=1)[0] == {"02_fine_too": "done"}
    assert run(book, "smoke", only="02", SEED=2)[0] == {"02_fine_too": "failed"}
    assert run(book, "fast", only="02", SEED=2)[0] == {"02_fine_too": "done"}


def test_a_folder_of_your_own_is_found_from_where_you_are(book, monkeypatch):
    from covidlab.cli import main

    asked = []
    monkeypatch.setattr(workbook, "run", lambda *a, **given: asked.append(given["DATASET"]) or [])
    monkeypatch.chdir(book)
    main(["run", "--dataset", "notebooks"])
    main(["run", "--dataset", "phantom-ct"])
    assert asked == [str(book / "notebooks"), "phantom-ct"]


def test_clear_errors_before_work(book, tmp_path):
    with pytest.raises(ValueError, match="no notebook begins with '07'.*00_fine"):
        run(book, "smoke", only="07")
    with pytest.raises(ValueError, match="profile='quick'"):
        run(book, "quick")
    with pytest.raises(FileNotFoundError, match="checkout"):
        workbook.run("smoke", folder=tmp_path / "nowhere")


def one_cell(source):
    return new_notebook(cells=[new_code_cell(source)])


def test_a_cell_longer_than_the_look_for_messages_is_waited_for():
    book = one_cell("import time; time.sleep(4); print('slept')")
    workbook._client(book, 60, kernel_name="python3").execute()
    assert book.cells[0].outputs[0].text == "slept\n"


def test_a_cell_beyond_the_limit_is_stopped():
    from nbclient.exceptions import CellTimeoutError

    with pytest.raises(CellTimeoutError, match="after 3 seconds"):
        workbook._client(
            one_cell("import time; time.sleep(60)"), 3, kernel_name="python3"
        ).execute()


def test_a_reply_whose_event_was_lost_is_found(monkeypatch):
    """A channel that only ever answers when asked again: without the repeated look it would hang."""
    client = workbook._client(one_cell("print(6 * 7)"), 60, kernel_name="python3")
    start = client.async_start_new_kernel_client
    asked = []

    async def with_lost_events():
        kernel = await start()
        found = kernel.shell_channel.get_msg

        async def get_msg(timeout=None):
            asked.append(timeout)
            if len(asked) == 1:
                raise Empty
            return await found(timeout=timeout)

        monkeypatch.setattr(kernel.shell_channel, "get_msg", get_msg)
        return kernel

    client.async_start_new_kernel_client = with_lost_events
    client.execute()
    assert client.nb.cells[0].outputs[0].text == "42\n"
    assert len(asked) >= 2 and None not in asked
