"""What the papers print, cell by cell, and ours beside it in one unit; what was recorded before."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from covidlab import paths

# The papers' header, lower case and without "%", "(%)" or "Testing", -> our name. All ours are
# fractions. `auc` stays `auc`: Khan et al. do not say of which curve their tables print it.
# Khan's "Acc" of tables 5 and 6 is the share of a region's own pixels that were found (it is the
# diagonal of table 4), so it must not meet `accuracy`. Its "DS" lies below its IoU, so it is no Dice
# of the same pixels: it goes with the mean over images, where ours has that.
NAMES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f-score": "f_score",
    "f1-score": "f_score",
    "mcc": "mcc",
    "auc": "auc",
    "roc-auc": "roc_auc",
    "ds": "image_dice",
    "dsc": "dice",
    "dc": "dice",
    "iou": "iou",
    "bfs": "bf_score",
    "acc": "class_accuracy",
    "g_acc": "global_accuracy",
    "global accuracy": "global_accuracy",
    "m_acc": "mean_accuracy",
    "m_iou": "mean_iou",
    "w_iou": "weighted_iou",
    "m_bfs": "mean_bf_score",
}
_ELSE = {"recall": "sensitivity", "sensitivity": "recall", "image_dice": "dice"}
_PARTS = ("", " low", " high", " ±")
_MISSING = {"", "-", "—"}
_N = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_CELL = re.compile(
    rf"(?P<value>{_N})"
    rf"(?:\s*±\s*(?P<half>{_N})|\s*\[\s*(?P<low>{_N})\s*,\s*(?P<high>{_N})\s*\]|(?P<million>\s*M))?"
)


def tables(paper: str | None = None) -> pd.DataFrame:
    """The index of the published tables, one row each.

    Columns: paper, table (both str), file, kind (results, data, recipe, architecture, definitions,
    related), caption, n (images evaluated, <NA> where the paper states none for the whole table),
    units ("percent": every metric, said by the caption; "as headed": percent where the header has
    a %, else a fraction; "": no metrics), notes (oddities of the source, all kept in the cells).

    Raises ValueError for a paper that is not there.
    """
    index = _read("index.csv")
    index["n"] = pd.to_numeric(index["n"].replace("", None)).astype("Int64")
    if paper is None:
        return index
    if paper not in set(index["paper"]):
        raise ValueError(f"no paper {paper!r}; there are {', '.join(index['paper'].unique())}")
    return index[index["paper"] == paper].reset_index(drop=True)


def published(
    paper: str,
    table: int | str,
    ours: pd.DataFrame | None = None,
    on: str | Iterable[str] | None = None,
    numeric: bool = True,
) -> pd.DataFrame:
    """A paper's table, or our numbers beside it.

    Parameters
    ----------
    paper : "khan", "alom", "garg", "ahmed" or "tahir".
    table : its number, or "text01" and the like for numbers gathered from the paper's sentences.
    ours : our table, with the key columns `on` and metrics as fractions, named as `NAMES` has them
        (a class follows a slash: "sensitivity / COVID"). `X low`, `X high`, `X ±` go with X.
        recall and sensitivity are one quantity, and either finds the other; Khan's DS finds
        `image_dice`, else `dice`. A column named exactly
        as in the paper is taken to be in the paper's unit. Khan's `auc` meets only a column that
        you name `auc`.
    on : what tells rows apart; by default the paper's text columns that ours has too. Compared as
        text, so a fold may be 1 or "1". A table of one row without keys takes one row of ours.
    numeric : False leaves every cell the string that is printed.

    Returns
    -------
    Without `ours`, the paper's columns. With `numeric`, a column whose every cell is a number
    becomes float: "11,956" -> 11956, "14.32 M" -> 14.32e6, "0.98 [0.95,1]" -> X, X low, X high,
    "99.1 ± 0.4" -> X, X ± (X is the header without its "[L, H]" or "± Error"); "", "-" and "—" are
    NaN. Nothing is rescaled: 98.80 under "%Accuracy" stays 98.8, and where only the caption says
    percent, `attrs["units"]` does.

    With `ours`, rows are indexed by `on`: the paper's in its order, then those only we have; NaN
    where one side has no row. Columns have two levels, metric and who ("ours", "ours low", "paper",
    "paper ±" ...), for every metric that both report. Both sides are fractions: what the paper
    prints in percent is divided by 100, and nothing else is touched, so a misprint stays in sight.

    `attrs` holds paper, table, kind, caption, n, units, notes and citation.

    Raises
    ------
    ValueError : unknown paper or table; keys that are missing or do not tell rows apart; no metric
        in common; metrics of ours outside [-1, 1], which are not fractions.
    """
    entry = _entry(paper, table)
    raw = _read(entry["file"])
    label = f"{entry['paper']} {entry['table']}"
    if ours is None:
        out = _parse(raw) if numeric else raw
    elif numeric:
        out = _beside(_parse(raw), ours, on, entry["units"] == "percent", label)
    else:
        raise ValueError("numeric=False leaves strings, which have no place beside `ours`")
    sources = _read("sources.csv").set_index("paper")["citation"]
    out.attrs = {k: entry[k] for k in ("paper", "table", "kind", "caption", "units", "notes")} | {
        "n": None if pd.isna(entry["n"]) else int(entry["n"]),
        "citation": sources[entry["paper"]],
    }
    return out


def recorded(name: str, **where) -> pd.DataFrame:
    """What was measured before with this workbook, where training it again would take too long.

    Read from `data/recorded/<name>.csv`, whose README says which command made it; metrics are
    fractions, `X low` and `X high` the 95 % interval of X. `where` picks rows: `dataset="…"`.

    Raises ValueError for a name that is not there, naming those that are, an unknown column, or
    when no row is left.
    """
    folder = paths.data() / "recorded"
    file = folder / f"{name}.csv"
    if not file.is_file():
        there = ", ".join(sorted(f.stem for f in folder.glob("*.csv"))) or "none"
        raise ValueError(f"nothing is recorded as {name!r}; there are: {there}")
    table = pd.read_csv(file)
    for column, value in where.items():
        if column not in table:
            raise ValueError(f"{file.name} has no column {column!r}: {', '.join(table)}")
        found = table[table[column] == value]
        if found.empty:
            raise ValueError(
                f"{file.name} has no row with {column}={value!r} among "
                f"{', '.join(map(str, table[column].unique()))}"
            )
        table = found
    return table.reset_index(drop=True)


def stated(paper: str, table: int | str, where: str, column: str, n: int | None = None) -> dict:
    """One number of a published table, as a fraction, and Wilson's interval if it counts n cases.

    `where` is a query of `published(paper, table)` that leaves one row. Percent, where the header
    or the caption says so, is divided by 100. Keys: value, low, high (NaN without n), n.

    Raises ValueError when another number of rows than one is left, or no such column.
    """
    from .intervals import wilson

    cells = published(paper, table)
    row = cells.query(where)
    if len(row) != 1 or column not in cells:
        raise ValueError(
            f"{paper} {table}: {len(row)} rows where {where}, column {column!r} among "
            f"{', '.join(map(str, cells))}: one row and a column are needed"
        )
    percent = "%" in column or cells.attrs["units"] == "percent"
    value = float(row[column].iloc[0]) / (100 if percent else 1)
    ends = wilson(round(value * n), n) if n else None
    low, high = (ends.low, ends.high) if ends else (float("nan"),) * 2
    return {"value": value, "low": low, "high": high, "n": n}


def over_runs(name: str, metric: str, **where) -> dict:
    """A metric of `recorded(name, **where)` over its rows: their mean, and the outermost bounds.

    The rows are trainings that differ in the seed. The bounds are the lowest low and the highest
    high, wide on purpose: an interval of each holds the luck of its test part, not of its training.
    Keys: value, low, high, n (images of the first row), patients (None where not recorded),
    dataset, runs. Raises ValueError as `recorded`, and for an unknown metric.
    """
    rows = recorded(name, **where)
    if metric not in rows or f"{metric} low" not in rows:
        raise ValueError(f"{name} has no {metric!r} with an interval: {', '.join(rows)}")
    first = rows.iloc[0]
    return {
        "value": rows[metric].mean(),
        "low": rows[f"{metric} low"].min(),
        "high": rows[f"{metric} high"].max(),
        "n": int(first["n"]),
        "patients": int(first["patients"]) if "patients" in rows else None,
        "dataset": first["dataset"],
        "runs": len(rows),
    }


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(paths.data() / "published" / name, dtype=str, keep_default_na=False)


def _entry(paper: str, table: int | str) -> pd.Series:
    index = tables(paper)
    key = str(table).strip().lower()
    key = str(int(key)) if key.isdecimal() else key
    found = index[index["table"] == key]
    if found.empty:
        raise ValueError(f"{paper} has no table {table!r}; there are {', '.join(index['table'])}")
    return found.iloc[0]


def _floats(texts: pd.Series) -> pd.Series:
    return texts.map(lambda t: float(t.replace(",", "")), na_action="ignore").astype(float)


def _parse(raw: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for header, cells in raw.items():
        matches = [None if c in _MISSING else _CELL.fullmatch(c) for c in cells]
        parsed = [m for m in matches if m]
        if not parsed or any(
            m is None and c not in _MISSING for m, c in zip(matches, cells, strict=True)
        ):
            columns[header] = cells
            continue
        groups = pd.DataFrame([m.groupdict() if m else {} for m in matches], index=raw.index)
        value = _floats(groups["value"])
        value = value.where(groups["million"].isna(), value * 1e6)
        extra = {" low": "low", " high": "high", " ±": "half"}
        extra = {part: name for part, name in extra.items() if groups[name].notna().any()}
        name = re.sub(r"\s*(±.*|\[.*\])$", "", header) if extra else header
        columns[name] = value
        for part, group in extra.items():
            columns[name + part] = _floats(groups[group])
    return pd.DataFrame(columns)


def _our_name(header: str, have: Iterable[str]) -> str | None:
    """What `ours` calls the paper's metric, or None."""
    metric, slash, group = header.partition(" / ")
    plain = re.sub(r"\(%\)|%", "", metric).strip().lower().removeprefix("testing ")
    name = NAMES.get(plain)
    for candidate in (name, _ELSE.get(name)):
        if candidate and candidate + slash + group in have:
            return candidate + slash + group
    return None


def _beside(theirs, ours, on, all_percent, label) -> pd.DataFrame:
    numbers = theirs.select_dtypes("number").columns
    keys = [c for c in theirs.columns if c not in numbers]
    if on is None:
        on = [c for c in keys if c in ours.columns]
        if not on and keys:
            raise ValueError(f"ours has none of the key columns of {label}: {keys}; rename yours")
    on = [on] if isinstance(on, str) else list(on)
    if not on and max(len(theirs), len(ours)) > 1:
        raise ValueError(f"{label} is one row without keys; give one row, not {len(ours)}")
    for name, frame in ((label, theirs), ("ours", ours)):
        if missing := [c for c in on if c not in frame.columns]:
            raise ValueError(f"{name} has no column {missing}; it has {list(frame.columns)}")
        if on and (twice := frame[on].astype(str).duplicated()).any():
            rest = [c for c in keys if c not in on]
            raise ValueError(
                f"{on} does not tell the rows of {name} apart, as "
                f"{frame.loc[twice, on].iloc[0].tolist()} comes twice"
                + (f"; {label} is keyed by {rest} too" if rest else "")
            )
    if on:
        left = theirs.set_index([theirs[c].astype(str) for c in on])
        right = ours.set_index([ours[c].astype(str) for c in on])
    else:
        left, right = theirs, ours.reset_index(drop=True)
    rows = left.index.append(right.index[~right.index.isin(left.index)])
    left, right = left.reindex(rows), right.reindex(rows)

    columns = {}
    metrics = [c for c in numbers if not c.endswith(_PARTS[1:])]
    for header in metrics:
        verbatim = header in ours.columns
        name = header if verbatim else _our_name(header, ours.columns)
        if name is None:
            continue
        if not pd.api.types.is_numeric_dtype(ours[name]):
            raise ValueError(f"column {name!r} of ours is not numeric but {ours[name].dtype}")
        if not verbatim and (ours[name].abs() > 1).any():
            raise ValueError(
                f"column {name!r} of ours goes to {ours[name].max():g}: give fractions"
            )
        percent = not verbatim and (all_percent or "%" in header)
        for part in _PARTS:
            if name + part in right:
                columns[name, "ours" + part] = right[name + part]
        for part in _PARTS:
            if header + part in left:
                printed = left[header + part]
                columns[name, "paper" + part] = printed / 100 if percent else printed
    if not columns:
        raise ValueError(
            f"ours has no metric that {label} reports: it prints {metrics}, "
            f"ours has {[c for c in ours.columns if c not in on]}; NAMES says which is which"
        )
    out = pd.DataFrame(columns, index=rows)
    out.columns = pd.MultiIndex.from_tuples(columns, names=["metric", "who"])
    return out
