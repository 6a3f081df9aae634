"""Where things are kept: the project's own data, the user's data, the caches, the run records."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def project() -> Path | None:
    """The checkout this package runs from, or None when it was installed from a wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def data() -> Path:
    """Folder of the catalogue and the published tables; in a checkout also of the user's datasets."""
    root = project()
    return root / "data" if root else _PACKAGE / "data"


def cache() -> Path:
    """User cache (`COVIDLAB_CACHE`, else the platform's); everything in it can be deleted at any time."""
    if folder := os.environ.get("COVIDLAB_CACHE"):
        return Path(folder).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("covidlab")


def runs() -> Path:
    """Where trainings leave their records and weights (`COVIDLAB_RUNS`, else `runs/` in the checkout)."""
    if folder := os.environ.get("COVIDLAB_RUNS"):
        return Path(folder).expanduser()
    root = project()
    return root / "runs" if root else cache() / "runs"


def dataset_folders() -> list[Path]:
    """Where `datasets.load` looks, in this order: `COVIDLAB_DATA`, `data/`, the user cache."""
    given = os.environ.get("COVIDLAB_DATA")
    first = [Path(p).expanduser() for p in given.split(os.pathsep) if p] if given else []
    return [*first, data(), cache() / "datasets"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that becomes `path` when the block ends without an error.

    So nothing is ever found half-written, and what was there before stays until the new is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
