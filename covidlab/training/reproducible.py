"""Seeds, and what a result was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from covidlab import paths

PACKAGES = (
    "covidlab",
    "fastai",
    "numpy",
    "pandas",
    "pywavelets",
    "scikit-learn",
    "segmentation-models-pytorch",
    "timm",
    "torch",
    "torchvision",
)


def set_seed(seed: int) -> None:
    """Seeds Python, NumPy and torch, and asks cuDNN for the same result twice.

    The one place where seeds are set. They belong to the process: train in processes, not threads.
    """
    from fastai.torch_core import set_seed as everywhere

    everywhere(seed, reproducible=True)


def environment() -> dict:
    """Library versions, Python, device, threads and, in a checkout, the git revision."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "git": _revision(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit of the checkout, with "+" when files differ from it; None outside a checkout."""
    root = paths.project()
    if root is None:
        return None
    try:
        git = ["git", "-C", str(root)]
        head, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=10)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
