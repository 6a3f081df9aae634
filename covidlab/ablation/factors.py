"""What a study may vary, and what a level of it sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from covidlab.training.recipe import Recipe

FIELDS = tuple(
    f.name for f in fields(Recipe) if f.name not in ("name", "source", "folds", "laptop")
)
DATA = ("dataset", "where", "split_by", "train_size", "weights")
DOTTED = ("options", "augment", "data")
RESERVED = ("run", "seed", "fold", "state", "best_epoch", "seconds", "test_part", "error", "folder")

_DEFAULTS = Recipe("defaults")


def levels(factor: str, given) -> dict[str, dict]:
    """What each level of a factor sets: {level: {setting: value}}.

    `given` is a list of values, or {level: value}; for a factor that is no setting itself, a
    bundle, {level: {setting: value}}. Raises ValueError for anything else, naming the remedy.
    """
    if factor in RESERVED:
        raise ValueError(f"factor {factor!r} would be a column twice: choose another name")
    bundle = not _is_setting(factor)
    if not isinstance(given, Mapping):
        if bundle:
            raise ValueError(_unknown(factor))
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            raise ValueError(f"factor {factor!r}: {given!r} must be a list of its levels")
        given = _named(factor, list(given))
    if len(given) < 2:
        raise ValueError(f"factor {factor!r} has {len(given)} level(s): give two or more")
    if bundle and not all(isinstance(v, Mapping) for v in given.values()):
        raise ValueError(_unknown(factor))
    found = {}
    for name, value in given.items():
        settings = dict(value) if bundle else {factor: value}
        found[str(name)] = {k: _checked(f"{factor}: {name}", k, v) for k, v in settings.items()}
    for name, settings in found.items():
        same = [other for other, its in found.items() if its == settings and other != name]
        if same:
            raise ValueError(f"factor {factor!r}: {name!r} and {same[0]!r} are the same level")
    return found


def short(value) -> str:
    """How a level without a name is called."""
    if value is None or value == "" or (isinstance(value, Mapping | tuple) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {short(v)}" for k, v in value.items())
    if isinstance(value, tuple | list):
        return "-".join(map(short, value))
    return Path(value).name if os.sep in str(value) else str(value)


def frozen(value):
    """Lists as tuples, also inside mappings: what a recipe holds, and what JSON and TOML give back."""
    if isinstance(value, Mapping):
        return {k: frozen(v) for k, v in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def applied(base: Recipe, settings: Mapping) -> Recipe:
    """The recipe with the settings of a cell.

    `options` belong to a network: a level that changes `network` begins with none.
    Raises ValueError for what the recipe refuses.
    """
    changes = {k: v for k, v in settings.items() if k in FIELDS}
    if changes.get("network", base.network) != base.network:
        changes.setdefault("options", {})
    for field in ("options", "augment"):
        if extra := dotted(field, settings):
            changes[field] = {**(changes.get(field, getattr(base, field)) or {}), **extra}
    return base.but(**changes)


def dotted(field: str, settings: Mapping) -> dict:
    """{"width": 32} of {"options.width": 32}."""
    return {k.partition(".")[2]: v for k, v in settings.items() if k.startswith(f"{field}.")}


def _is_setting(name: str) -> bool:
    head, _, option = name.partition(".")
    return name in FIELDS or name in DATA or bool(option and head in DOTTED)


def _unknown(name: str) -> str:
    near = get_close_matches(name, [*FIELDS, *DATA], n=1)
    return (
        f"no factor {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}: name a field of "
        f"Recipe ({', '.join(FIELDS)}), of the data ({', '.join(DATA)}), an option such as "
        "'options.width', 'augment.max_rotate' or 'data.n_patients', or bundle settings as "
        "{level: {setting: value}}"
    )


def _named(factor: str, values: list) -> dict:
    names = [short(frozen(v)) for v in values]
    if twice := {n for n in names if names.count(n) > 1}:
        raise ValueError(
            f"factor {factor!r} has two levels called {sorted(twice)}: leave one out, or name them "
            "as {level: value}"
        )
    return dict(zip(names, values, strict=True))


def _checked(where: str, name: str, value):
    """The value in its setting's type; ValueError for a setting or a type there is not."""
    if not _is_setting(name):
        raise ValueError(f"{where}: {_unknown(name)}")
    value = frozen(value)
    if name == "augment" and value is False:  # TOML has no None
        value = None
    if name in FIELDS:
        default = getattr(_DEFAULTS, name)
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        kind = Mapping if isinstance(default, Mapping) or name == "augment" else type(default)
        fits = isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool)
        if not (fits or (name == "augment" and value is None)):
            raise ValueError(f"{where}: {name}={value!r} must be {_KINDS[kind]}")
    elif name == "train_size":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ValueError(
                f"{where}: train_size={value!r} must be a share of the training patients in (0, 1]"
            )
        value = float(value)
    elif name == "split_by" and value not in ("patient", "image"):
        raise ValueError(f"{where}: split_by={value!r} must be 'patient' or 'image'")
    elif name in DATA and not isinstance(value, str):
        raise ValueError(f"{where}: {name}={value!r} must be text")
    return value


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    Mapping: "a table {option: value}",
}
