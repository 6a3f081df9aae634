"""`covidlab ablate`: plan, train, compare, and what it says when it cannot."""

import pandas as pd
import pytest

from covidlab import cli

pytestmark = pytest.mark.xdist_group("ablation")


@pytest.fixture
def file(own, squares):
    path = own / "study.toml"
    path.write_text(
        f"""
        name = "first"
        dataset = "{squares.as_posix()}"
        seeds = [0, 1]
        profile = "paper"
        [base]
        name = "tiny"
        network = "CoV-CTNet"
        options = {{ widths = [4, 4, 8, 8] }}
        size = 24
        epochs = 1
        batch_size = 8
        [factors]
        lr = [0.01, 0.001]
        """
    )
    return path


def test_the_plan_trains_nothing(file, own, capsys):
    assert cli.main(["ablate", str(file), "--plan"]) == 0
    out = capsys.readouterr().out
    assert "first: 4 runs, 0 done, 0 failed, 4 missing" in out
    assert len(out.splitlines()) == 6 and not (own / "runs").exists()


def test_trained_compared_and_written(file, own, capsys):
    command = ["ablate", str(file), "--workers", "0", "--csv", str(own / "runs.csv")]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    table = pd.read_csv(own / "runs.csv")
    assert list(table["state"]) == ["done"] * 4 and list(table["seed"]) == [0, 0, 1, 1]
    pairs = table.pivot(index="seed", columns="lr", values="roc_auc")
    difference = (pairs[0.001] - pairs[0.01]).mean()
    line = next(x for x in out.splitlines() if "0.001" in x and "roc_auc" in x)
    assert f"{difference:.3f}".rstrip("0").rstrip(".") in line
    assert "4 runs tried, 0 failed" in out
    assert cli.main(command) == 0 and "4 done, 0 failed, 0 missing" in capsys.readouterr().out


def test_failed_runs_are_shown_and_told_by_the_code(file, own, capsys):
    file.write_text(file.read_text().replace("widths = [4, 4, 8, 8]", "widths = [4]"))
    assert cli.main(["ablate", str(file), "--workers", "0"]) == 1
    out, err = capsys.readouterr()
    assert "4 runs tried, 4 failed" in out and "nothing to compare" in out
    assert out.count("ValueError") == 4 and "note: 4 of 4 runs failed" in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("lr = [", "rate = ["), "study.toml: no factor 'rate'"),
        (('dataset = "', 'dataset = "/nowhere'), "no such folder or CSV"),
        (("epochs = 1", "epochs = 0"), "epochs=0 must be above 0"),
    ],
)
def test_errors_are_one_message(file, own, capsys, change, told):
    file.write_text(file.read_text().replace(*change))
    assert cli.main(["ablate", str(file), "--workers", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("covidlab: ") and told in err and "Traceback" not in err
    assert not list((own / "runs").glob("studies/*/study.json"))


def test_a_cluster_that_cannot_be_reached(file, own, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cli, "CONNECT", "0.5s")
    assert cli.main(["ablate", str(file), "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "covidlab: no dask scheduler at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert not (own / "runs").exists()
