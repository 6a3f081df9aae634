"""What every notebook promises its reader, checked without running it."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_committed_without_outputs(notebook):
    for cell in code(notebook):
        assert not cell.outputs and cell.execution_count is None
    assert "widgets" not in notebook.metadata and "papermill" not in notebook.metadata


def test_one_parameter_cell(notebook):
    tagged = [c for c in code(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = re.findall(r"^(\w+) = ", tagged[0].source, re.M)
    assert names == ["DATASET", "PROFILE", "SEED"]
    assert 'PROFILE = "fast"' in tagged[0].source


def test_short_cells(notebook):
    lines = [len(c.source.splitlines()) for c in code(notebook)]
    assert max(lines) <= 15
    assert statistics.median(lines) <= 5


def test_opens_with_aims_and_time_and_ends_with_solved_exercises(notebook):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "**You will**" in first.source and "**Time**" in first.source
    assert "## Exercises" in last.source
    exercises = re.findall(r"^\*\*\d\.\*\*", last.source, re.M)
    assert len(exercises) >= 3
    assert last.source.count("<details><summary>Solution</summary>") == len(exercises)


def test_sections_are_numbered_without_a_gap(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    numbers = [int(n) for n in re.findall(r"^## (\d+) · ", text, re.M)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers


def test_every_section_that_computes_asserts_something(notebook):
    section, asserts, has_code = None, False, False
    for cell in [*notebook.cells, nbformat.v4.new_markdown_cell("## end")]:
        for part in (
            re.split(r"^(?=## )", cell.source, flags=re.M) if cell.cell_type == "markdown" else []
        ):
            if part.startswith("## "):
                assert section is None or not has_code or asserts, f"no assert in {section!r}"
                section, asserts, has_code = part.splitlines()[0], False, False
        if cell.cell_type == "code" and section:
            has_code, asserts = True, asserts or "assert " in cell.source


def test_text_between_code_and_no_code_without_text_before_it(notebook):
    silent = 0
    for cell in notebook.cells:
        silent = silent + 1 if cell.cell_type == "code" else 0
        assert silent <= 3, cell.source


def test_no_paths_of_a_machine_and_no_training_loops(notebook):
    for cell in code(notebook):
        assert not re.search(r"""["'](/[A-Za-z]+/|[A-Z]:\\)""", cell.source), "an absolute path"
        assert "backward()" not in cell.source or "perf_counter" in cell.source
        assert not re.search(r"^\s*def .*(\n\s+.*){6,}", cell.source, re.M), "a long function"
