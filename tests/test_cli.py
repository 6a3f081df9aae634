import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab import paths
from covidlab.cli import main
from covidlab.datasets import catalogue, read_manifest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def sets(tmp_path, monkeypatch):
    """An empty machine: no dataset but those a test puts into this folder."""
    monkeypatch.setenv("COVIDLAB_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    catalogue()  # read before its folder is moved away
    monkeypatch.setattr(paths, "data", lambda: tmp_path / "data")
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"


def make(root, broken=False):
    rows = []
    for label in ("NonCOVID", "COVID"):
        for k in range(3):
            name = f"images/{label}{k}.png"
            (root / "images").mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(k).integers(0, 256, (5, 5), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name)
            rows.append({"image": name, "label": label, "patient_id": f"{label}{k}"})
    if broken:
        (root / "images/COVID0.png").write_bytes(b"")
        (root / "images/COVID1.png").unlink()
        rows[5]["label"] = ""
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


def ozturk(root):
    for name in ("Covid-19/a.png", "No_findings/00000001_000.png", "Pneumonia/00000002_000.png"):
        (root / name).parent.mkdir(parents=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (5, 5), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def test_list_is_aligned_and_says_what_is_here(sets, capsys):
    make(sets / "ct-covidct-ucsd")
    make(sets / "mine")
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, rows = lines[0], lines[1 : lines.index("")]
    assert [r.split()[0] for r in rows] == [*catalogue(), "mine"]
    starts = [head.index(word) for word in ("modality", "task", "size", "licence", "here")]
    for row in rows:
        for start in starts:  # every column begins where its heading does
            assert row[start - 2 : start] == "  "
    by_id = {row.split()[0]: row for row in rows}
    assert by_id["ct-covidct-ucsd"].endswith(str(sets / "ct-covidct-ucsd"))
    assert by_id["mine"].endswith(str(sets / "mine"))
    assert by_id["phantom-ct"].endswith("made on first use")
    assert by_id["ct-covid-ct-md"].endswith("not here")
    assert "2 on this machine" in lines[-1]


def test_list_is_cut_to_the_terminal(capsys, monkeypatch):
    widths = {}
    for columns in ("90", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        main(["data", "list"])
        widths[columns] = max(map(len, capsys.readouterr().out.splitlines()[:-2]))
    assert widths["90"] < widths["200"] <= 200


def test_show_tells_all_of_the_card(sets, capsys):
    make(sets / "ct-covidct-ucsd")
    assert main(["data", "show", "ct-covidct-ucsd"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    card = catalogue()["ct-covidct-ucsd"].card
    for text in (card.title, card.licence, card.citation, card.get, *card.problems):
        assert " ".join(text.split()) in out
    assert "NonCOVID | COVID (positive: COVID)" in out
    assert "COVID 3 3" in out  # images and patients


def test_show_what_is_not_here_and_what_is_nobodys(sets, capsys):
    assert main(["data", "show", "ct-covid-ct-md"]) == 0
    out = capsys.readouterr().out
    assert "here      no" in out and "figshare" in out and "used by   garg" in out
    assert main(["data", "show", str(make(sets / "mine"))]) == 0
    assert "your own data" in capsys.readouterr().out


def test_check_says_so_when_all_is_well(sets, capsys):
    make(sets / "mine")
    assert main(["data", "check", "mine"]) == 0
    assert capsys.readouterr().out == "mine: 6 images of 6 patients, no problems\n"


def test_check_lists_every_problem_and_goes_on(sets, capsys):
    make(sets / "broken", broken=True)
    (sets / "worse").mkdir()
    (sets / "worse" / "manifest.csv").write_bytes(b"image,label\nb\xff.png,x\n")
    make(sets / "zound")
    assert main(["data", "check", "all"]) == 1
    out = capsys.readouterr().out
    assert "broken: 6 images of 6 patients, 3 problems" in out
    for kind in (
        "[missing image]",
        "[unreadable image]",
        "[unknown label]",
        "[unreadable manifest]",
    ):
        assert out.count(kind) == 1
    assert "worse: unreadable, 1 problem\n" in out
    assert "zound: 6 images of 6 patients, no problems" in out


def test_check_more_than_ten(sets, capsys):
    root = make(sets / "mine")
    frame = read_manifest(root / "manifest.csv")
    many = pd.concat([frame] * 4).assign(image=[f"gone{k}.png" for k in range(24)])
    many.to_csv(root / "manifest.csv", index=False)
    assert main(["data", "check", str(root)]) == 1
    assert capsys.readouterr().out.count("[missing image]") == 24


def test_check_of_nothing(capsys):
    assert main(["data", "check", "all"]) == 2
    assert "no dataset is on this machine" in capsys.readouterr().err


def test_unknown_patients_are_not_counted_as_patients(sets, capsys):
    root = make(sets / "mine")
    frame = read_manifest(root / "manifest.csv")
    frame.assign(patient_id="").to_csv(root / "manifest.csv", index=False)
    main(["data", "check", "mine"])
    assert "6 images of 0 patients, 6 of unknown patients" in capsys.readouterr().out


def test_import_then_check(sets, tmp_path, capsys):
    source = ozturk(tmp_path / "COVID-19")
    assert main(["data", "import", "ozturk", str(source), "--to", str(sets)]) == 0
    out, err = capsys.readouterr()
    assert f"{sets / 'cxr-ozturk-full'}: 3 images of 2 patients, 1 of unknown patients" in out
    assert "next: covidlab data check cxr-ozturk-full" in out
    assert "note: 1 images have no patient id" in err and "UserWarning" not in err
    assert main(["data", "check", "cxr-ozturk-full"]) == 0
    assert main(["data", "import", "ozturk", str(source), "--to", str(sets)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["data", "import", "ozturk", str(source), "--to", str(sets), "--force"]) == 0


def test_import_by_another_name_and_place(tmp_path, capsys):
    source, place = ozturk(tmp_path / "COVID-19"), tmp_path / "place"
    command = ["data", "import", "ozturk", str(source), "--to", str(place), "--name", "mine"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"covidlab data check {place / 'mine'}" in out and "COVIDLAB_DATA" in out
    assert "licence and known problems do not come along" in out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["show", "nonsense"], "no dataset 'nonsense'"),
        (["check", "ct-covid-ct-md"], "figshare"),
        (["fetch", "ct-covid-ct-md"], "no direct download"),
        (["fetch", "nonsense"], "no dataset 'nonsense' in the catalogue"),
        (["import", "kaggle", "."], "no layout 'kaggle'"),
        (["import", "ucsd", "/nowhere/at/all"], "no folder at"),
        (["import", "ucsd", "{empty}"], "expected Images-processed/"),
    ],
)
def test_errors_are_one_message_without_a_traceback(command, told, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    command = [part.format(empty=tmp_path / "empty") for part in command]
    assert main(["data", *command]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("covidlab: ") and told in err
    assert "Traceback" not in err and not err.startswith('covidlab: "')


def test_an_import_lists_every_missing_file(tmp_path, capsys):
    (tmp_path / "src" / "images").mkdir(parents=True)
    names = [f"{k}.png" for k in range(14)]
    frame = pd.DataFrame({"patientid": "1", "finding": "x", "view": "PA", "filename": names})
    frame.to_csv(tmp_path / "src" / "metadata.csv", index=False)
    assert main(["data", "import", "ieee8023", str(tmp_path / "src")]) == 2
    assert capsys.readouterr().err.count("[incomplete source]") == 14


def test_help_names_every_command(capsys):
    for command, words in (
        ([], ("data", "run", "ablate")),
        (["data"], ("list", "show", "fetch", "check", "import")),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--help"])
        assert stopped.value.code == 0
        out = capsys.readouterr().out
        assert all(f"\n    {word} " in out for word in words)
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2


def run(*arguments, **options):
    command = [sys.executable, "-m", "covidlab", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_as_a_module(sets):
    make(sets / "broken", broken=True)
    done = run("data", "check", "broken")
    assert done.returncode == 1 and "3 problems" in done.stdout
    done = run("data", "show", "nonsense")
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise on Windows")
def test_a_pipe_that_closes_early_is_no_error():
    command = f"{sys.executable} -m covidlab data list | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("id ") and done.stderr == ""


def test_the_command_starts_without_torch():
    code = (
        "import sys; from covidlab.cli import main; main(['data', 'list']);"
        "print([m for m in ('torch', 'fastai', 'sklearn', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-200:] + done.stderr
