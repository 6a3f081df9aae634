"""A study as a TOML file, for the command line and for the methods section."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path

from covidlab.training import recipe as recipes
from covidlab.training.recipe import Recipe
from covidlab.training.record import write_whole

from .factors import frozen
from .study import Study


def read(path) -> Study:
    """The study of a TOML file (docs/ablation.md has the format).

    A dataset given as a relative path starts from the file's folder. Raises FileNotFoundError or
    ValueError, naming the file and what is wrong in it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no study at {path}: check the path")
    try:
        content = tomllib.loads(path.read_text("utf-8"))
        content["base"] = _base(content.get("base"))
        if unknown := set(content) - {f.name for f in fields(Study)}:
            raise ValueError(f"unknown keys {sorted(unknown)}: see docs/ablation.md")
        if missing := {"name", "dataset", "factors"} - set(content):
            raise ValueError(f"has no {', '.join(sorted(missing))}")
        beside = path.parent / str(content["dataset"])
        if beside.exists():
            content["dataset"] = str(beside.resolve())
        return Study(**content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def write(study: Study, path) -> Path:
    """Writes the study so that `read` gives it back; what is as by default is left out."""
    path = Path(path)
    content = {"name": study.name, **_changed(study), "base": _changed(study.base)}
    content["base"] = {"name": study.base.name, **content["base"]}
    content["factors"] = study.factors
    tables = {k: content.pop(k) for k in [*content] if isinstance(content[k], Mapping)}
    lines = [f"{_key(k)} = {_value(v)}" for k, v in content.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items())]
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path


def _base(given) -> Recipe:
    if isinstance(given, str):
        given = {"recipe": given}
    if not isinstance(given, Mapping):
        raise ValueError('has no base: name a recipe, base = "KHAN_SCREENING", or describe one')
    given = _fields(given)
    named = given.pop("recipe", None)
    if unknown := set(given) - {f.name for f in fields(Recipe)}:
        raise ValueError(f"base: no fields {sorted(unknown)} in a recipe")
    if named is None:
        return Recipe(**{"name": "base", **given})
    known = {k: v for k, v in vars(recipes).items() if isinstance(v, Recipe)}
    if named not in known:
        raise ValueError(f"no recipe {named!r}: there are {', '.join(known)}")
    # a profile would otherwise undo what is said here
    laptop = {k: v for k, v in known[named].laptop.items() if k not in given}
    return known[named].but(laptop=laptop, **given)


def _fields(table) -> dict:
    """Fields of a recipe as TOML has them: lists for tuples, false for None."""
    given = {k: frozen(v) for k, v in table.items()}
    if given.get("augment") is False:
        given["augment"] = None
    if isinstance(given.get("laptop"), Mapping):
        given["laptop"] = _fields(given["laptop"])
    return given


def _changed(what) -> dict:
    """The fields that are not as by default, but those a caller writes itself."""
    out = {}
    for f in fields(what):
        value = getattr(what, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if f.name not in ("name", "base", "factors") and value != default:
            out[f.name] = value
    return out


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value) -> str:
    if value is None:
        return "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
