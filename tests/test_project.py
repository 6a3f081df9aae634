"""Promises of the project's own files: one set of dependencies, quick imports, nothing heavy in git."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}  # conda-forge's name → PyPI's
MISSION = (
    "jupyterlab ipywidgets torch fastai matplotlib seaborn pywavelets grad-cam umap-learn".split()
)


def parsed(requirement: str) -> tuple[str, str]:
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+?)\s*([<>=!~].*)?", requirement).groups()
    return name.lower().replace("_", "-"), ",".join(sorted((bounds or "").split(",")))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_agree_on_every_dependency_and_bound():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in conda["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in conda["dependencies"] if isinstance(d, dict))
    ours = dict(map(parsed, plain))
    python, ours_pip = ours.pop("python"), ours.pop("pip")
    ours = {CONDA_NAMES.get(name, name): bounds for name, bounds in ours.items()}
    assert ours == dict(map(parsed, project()["dependencies"]))
    assert (python, ours_pip, pip) == (project()["requires-python"], "", ["-e ."])
    assert conda["name"] == "covidlab"


def test_the_packages_of_the_workbook_are_there_with_lower_bounds():
    bounds = dict(map(parsed, project()["dependencies"]))
    assert set(MISSION) <= set(bounds)
    assert all(">=" in b for b in bounds.values()), bounds


def test_every_import_of_the_package_is_declared():
    names = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
        "pytorch_grad_cam": "grad-cam",
        "pywt": "pywavelets",
        "umap": "umap-learn",
    }
    # installed by what is declared, and nothing without it
    carried = {
        "fastcore": "fastai",
        "huggingface_hub": "timm",
        "nbformat": "nbconvert",
        "nbclient": "nbconvert",
        "tornado": "jupyterlab",
        "traitlets": "anywidget",
    }
    declared = {name for name, _ in map(parsed, project()["dependencies"])}
    used = set()
    for file in (ROOT / "covidlab").rglob("*.py"):
        used |= set(re.findall(r"^\s*(?:from|import) ([A-Za-z_]\w*)", file.read_text(), re.M))
    used -= set(sys.stdlib_module_names) | {"covidlab"}
    missing = {u for u in used if names.get(u, carried.get(u, u)).replace("_", "-") not in declared}
    assert not missing


def test_importing_covidlab_loads_nothing_heavy():
    rooms = (
        "datasets imaging evaluation explain training widgets appraisal ablation annotation".split()
    )
    code = (
        f"import sys, covidlab, {', '.join('covidlab.' + room for room in rooms)};"
        "print([m for m in ('torch', 'fastai', 'matplotlib.pyplot', 'sklearn', 'umap') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_rooms_depend_from_left_to_right_only():
    """As docs/architecture.md draws it: what a room may import of the others."""
    allowed = {
        "imaging": set(),
        "models": set(),
        "datasets": {"imaging"},
        "training": {"datasets", "imaging", "models"},
        "evaluation": set(),
        "explain": {"datasets", "imaging", "models", "training"},
        "widgets": {
            "ablation",
            "annotation",
            "datasets",
            "evaluation",
            "explain",
            "imaging",
            "training",
        },
        "annotation": {"datasets", "evaluation", "imaging", "training"},
        "ablation": {"datasets", "evaluation", "imaging", "models", "training"},
        "appraisal": {"datasets", "evaluation", "imaging"},
    }
    for room, may in allowed.items():
        for file in (ROOT / "covidlab" / room).glob("*.py"):
            text = file.read_text()
            found = set(re.findall(r"covidlab\.(\w+)", text))
            found |= {
                n
                for line in re.findall(r"from covidlab import (.*)", text)
                for n in line.split(", ")
            }
            assert (found & set(allowed)) - {room} <= may, file


def tracked() -> list[Path]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    out = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if out.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in out.stdout.splitlines() if (ROOT / name).is_file()]


def test_nothing_large_and_no_data_in_git():
    allowed = {"catalogue.toml", "README.md"}
    for file in tracked():
        assert file.stat().st_size < 1_000_000, file
        parts = file.relative_to(ROOT).parts
        if parts[0] == "data":
            assert parts[1] in {"published", "recorded"} | allowed, file
        assert file.suffix not in {".pth", ".pt", ".safetensors", ".pkl", ".dcm"}, file


def test_both_commands_are_in_the_readme_and_the_makefile():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in ("run", "test", "lab", "clean"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
