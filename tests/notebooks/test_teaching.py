"""The teaching layer: glossary, instructor's guide, questions and exercises, against the notebooks."""

import re
from pathlib import Path

import nbformat
import pytest

from covidlab import workbook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {p.stem: nbformat.read(p, 4) for p in sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))}
PLANNED = {"11_shortcuts_and_leakage", "13_ablations", "14_side_by_side"}
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "teaching.md").read_text("utf-8")
LINK = r"\]\(\.\./docs/glossary\.md#([^)]+)\)"


def text(notebook) -> str:
    return "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def plain(markdown: str) -> str:
    """Without links, and with one kind of dash, so that words can be looked for."""
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown.lower())
    return re.sub(r"\s+", " ", markdown.replace("–", "-").replace("_", " "))


@pytest.fixture(params=NOTEBOOKS)
def notebook(request):
    return NOTEBOOKS[request.param]


def entries() -> dict[str, str]:
    parts = re.split(r"^### (.*)$", GLOSSARY, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_word_of_the_glossary_has_one_anchor_and_few_sentences():
    heads = re.findall(r"^### (.*)$", GLOSSARY, re.M)
    assert len({h.lower() for h in heads}) == len(heads) >= 60
    for head, body in entries().items():
        assert re.fullmatch(r"[A-Za-z0-9 -]+", head), "GitHub would drop other characters"
        said = body.split("\n##")[0].strip()
        assert re.search(r"\*(Throughout|Notebooks? \d\d(, \d\d)*)\.\*$", said), head
        assert len(said) < 600, head


def test_the_notebooks_that_an_entry_names_use_the_word():
    for head, body in entries().items():
        words = [plain(w) for w in (head, *re.findall(r"\*\*(.+?)\*\*", body))]
        pattern = rf"(?<!\w)({'|'.join(map(re.escape, words))})(s|es)?(?!\w)"
        named = re.search(r"\*Notebooks? (.*)\.\*", body)
        for number in named[1].split(", ") if named else ():
            there = [n for name, n in NOTEBOOKS.items() if name.startswith(number)]
            planned = any(name.startswith(number) for name in PLANNED)
            assert there or planned, f"{head}: no notebook {number}"
            assert not there or re.search(
                pattern, plain("\n".join(c.source for c in there[0].cells))
            ), (head, number)


def test_links_to_the_glossary_lead_somewhere_and_stand_once(notebook):
    anchors = {head.lower().replace(" ", "-") for head in entries()}
    links = re.findall(LINK, text(notebook))
    assert set(links) <= anchors
    assert len(set(links)) == len(links), "only the first use is linked"


def test_links_to_the_glossary_work_on_the_exported_pages(tmp_path):
    workbook.write_glossary(ROOT / "docs" / "glossary.md", tmp_path)
    page = (tmp_path / "glossary.html").read_text("utf-8")
    assert "<title>Glossary</title>" in page
    anchors = set(re.findall(r'<h3 id="([^"]+)"', page))
    wanted = {link for each in NOTEBOOKS.values() for link in re.findall(LINK, text(each))}
    assert wanted and wanted <= anchors
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("see [Dice](../docs/glossary.md#dice)")]
    )
    assert 'href="glossary.html#dice"' in workbook._page(book)


def test_without_a_glossary_none_is_written(tmp_path):
    workbook.write_glossary(tmp_path / "docs" / "glossary.md", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_guide_names_every_notebook_and_no_other():
    named = set(re.findall(r"\b\d\d_[a-z][a-z0-9_]+", GUIDE))
    assert set(NOTEBOOKS) <= named
    assert named <= set(NOTEBOOKS) | PLANNED


def test_the_guide_has_the_times_that_the_notebooks_state():
    rows = re.findall(r"^\| `(\d\d_\w+)` \|[^|]*\| (\d+) \| (\d+) \|", GUIDE, re.M)
    assert {name for name, *_ in rows} >= set(NOTEBOOKS) - PLANNED
    for name, run, read in rows:
        time = re.search(r"\*\*Time\*\*: (.*)", NOTEBOOKS[name].cells[0].source)[1]
        stated = re.search(r"about (\d+) minutes? in the `fast`", time)
        assert (stated[1] if stated else "1") == run, time
        assert re.search(rf"\b{read} minutes of reading", time), time


def test_sections_and_exercises_that_the_guide_sends_to_exist():
    """In the table of questions: the numbers in the last column are sections of the notebook."""
    rows = re.findall(r"^\| [^|]+\? \| (`\d\d_\w+`(?:, `\d\d_\w+`)*) \| ([^|]*) \|", GUIDE, re.M)
    assert len(rows) > 20
    for names, where in rows:
        names = re.findall(r"\d\d_\w+", names)
        parts = dict(re.findall(r"(\d\d): ([\d, ]+)", where)) or {names[0][:2]: where}
        for name in set(names) & set(NOTEBOOKS):
            sections = set(re.findall(r"^## (\d+) · ", text(NOTEBOOKS[name]), re.M))
            asked = parts[name[:2]].split(", exercise")[0]
            assert set(re.findall(r"\d+", asked)) <= sections, (name, where)


def test_two_questions_or_more_are_put_right_before_a_cell(notebook):
    pairs = zip(notebook.cells, notebook.cells[1:], strict=False)
    before = [a.source for a, b in pairs if (a.cell_type, b.cell_type) == ("markdown", "code")]
    last = [source.strip().split("\n\n")[-1] for source in before]
    assert sum("?" in said or "*Predict" in said for said in last) >= 2


def test_a_hint_is_folded_above_each_solution():
    for name in set(NOTEBOOKS) - PLANNED:
        folded = re.findall(r"<summary>(Hint|Solution)<", NOTEBOOKS[name].cells[-1].source)
        assert folded == ["Hint", "Solution"] * (len(folded) // 2), name


def test_the_runner_finds_the_solution_of_every_exercise_and_each_checks_itself(notebook):
    exercises = re.findall(r"^\*\*\d\.\*\*", notebook.cells[-1].source, re.M)
    solutions = workbook._solutions(notebook)
    assert len(solutions) == len(exercises)
    assert all("assert" in cell.source.lower() for cell in solutions)
