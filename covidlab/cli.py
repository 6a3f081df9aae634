"""The command `covidlab`: which datasets there are, how to get them, what is wrong with them."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import textwrap
import warnings

WIDEST = 40  # characters of a cell in a table
CONNECT = "10s"  # how long a scheduler may take to answer


def main(argv=None) -> int:
    """Runs one command; returns 0 when all is well, 1 when a check found something, 2 on an error."""
    from .classroom import add_classroom
    from .workbook import add_run

    parser = argparse.ArgumentParser(
        prog="covidlab",
        description="A workbook on COVID-19 in chest CT and X-ray. Research and teaching only.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    # each sets `func`, which takes the arguments, returns the code
    for add in (add_data, add_run, add_ablate, add_classroom):
        add(commands)
    args = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _note
            return args.func(args)
    except BrokenPipeError:  # `covidlab data list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (OSError, LookupError, ValueError) as error:
        print(f"covidlab: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("covidlab: stopped", file=sys.stderr)
        return 130


def add_data(subparsers) -> None:
    """Adds `covidlab data …` to a command line."""
    data = subparsers.add_parser("data", help="datasets: list, show, fetch, import, check")
    commands = data.add_subparsers(title="commands", metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="every dataset, and where it is on this machine")
    one.set_defaults(func=_list)

    one = commands.add_parser(
        "show", help="all that is known of one: licence, problems, how to get it"
    )
    one.add_argument("dataset", metavar="ID", help="a catalogue id, a folder or a CSV")
    one.set_defaults(func=_show)

    one = commands.add_parser("fetch", help="download one, where there is a direct address")
    one.add_argument("dataset", metavar="ID")
    one.add_argument("--to", metavar="FOLDER", help="where to (default: the user cache)")
    one.set_defaults(func=_fetch)

    one = commands.add_parser("check", help="read every file and list everything that is wrong")
    one.add_argument(
        "datasets", metavar="ID|PATH", nargs="+", help='ids, folders or CSVs, or "all" found here'
    )
    one.set_defaults(func=_check)

    one = commands.add_parser("import", help="turn a download, as published, into a dataset")
    one.add_argument("layout", metavar="LAYOUT", help="whose folders they are: see data/README.md")
    one.add_argument("source", metavar="SOURCE", help="the folder as unpacked")
    one.add_argument("--name", default="", help="default: the catalogue's id for it")
    one.add_argument("--to", metavar="FOLDER", help="where to (default: data/)")
    one.add_argument("--force", action="store_true", help="replace a dataset of that name")
    one.set_defaults(func=_import)


def add_ablate(subparsers) -> None:
    """Adds `covidlab ablate study.toml` to a command line."""
    one = subparsers.add_parser("ablate", help="train what a study plans, and compare in pairs")
    one.add_argument("study", metavar="STUDY.toml", help="see docs/ablation.md")
    one.add_argument("--plan", action="store_true", help="show the planned runs, train nothing")
    one.add_argument("--workers", type=int, default=2, help="processes here; 0: this one (2)")
    one.add_argument("--threads", type=int, default=1, help="torch's threads in each (1)")
    one.add_argument("--gpus", type=int, default=1, help="GPUs of one run (1)")
    one.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster: tcp://host:8786")
    one.add_argument("--metric", help="to compare by (default: roc_auc, or Dice)")
    one.add_argument("--csv", metavar="FILE", help="write the table of runs")
    one.set_defaults(func=_ablate)


def _ablate(args) -> int:
    from . import ablation

    study = ablation.read(args.study)
    plan = study.runs()
    states = plan["state"].value_counts()
    counts = ", ".join(f"{states.get(s, 0)} {s}" for s in ("done", "failed", "missing"))
    print(f"{study.name}: {len(plan)} runs, {counts}; {study.folder}", flush=True)
    if args.plan:
        print(plan.to_string(index=False))
        return 0
    options = {"workers": args.workers, "threads": args.threads, "gpus": args.gpus}
    client = _dask(args.scheduler) if args.scheduler else None
    try:
        executor = client.get_executor(pure=False) if client else None
        table = study.run(executor, progress=sys.stderr.isatty(), **options)
    finally:
        if client:
            client.close()
    if args.csv:
        table.to_csv(args.csv, index=False)
    dice = [c for c in table if c.startswith("dice / ")]
    metric = args.metric or ("roc_auc" if "roc_auc" in table or not dice else dice[-1])
    shown = [*study.levels, "seed", "fold", "state", metric, "seconds", "error"]
    print(table[[c for c in shown if c in table]].to_string(index=False, max_colwidth=60))
    print(f"{table.attrs['tried']} runs tried, {table.attrs['failed']} failed")
    try:
        compared = ablation.compare(table, list(study.levels), metric)
        print(f"\n{compared.drop(columns=['tried', 'failed']).round(3).to_string(index=False)}")
    except ValueError as error:
        print(f"nothing to compare: {error}")
    return int(len(table) < len(plan) or (table["state"] == "failed").any())


def _dask(address: str):
    from importlib import import_module, util

    if util.find_spec("distributed") is None:
        raise ValueError('--scheduler needs dask: pip install "covidlab[cluster]"')
    try:
        return import_module("distributed").Client(address, timeout=CONNECT)
    except OSError as error:
        raise OSError(f"no dask scheduler at {address}: {error}") from error


def _list(args) -> int:
    from .datasets import catalogue

    here, entries = _here(), catalogue()
    rows = [["id", "modality", "task", "size", "licence", "here"]]
    for name, entry in entries.items():
        card = entry.card
        where = here.get(name) or ("made on first use" if card.synthetic else "not here")
        size, licence = (re.split(r"[;:(]|, ", s)[0].strip() for s in (entry.size, card.licence))
        rows.append([name, card.modality, card.task, size, licence, str(where)])
    own = {k: v for k, v in here.items() if k not in entries}
    rows += [[name, "", "your own", "", "", str(path)] for name, path in own.items()]
    print(_table(rows))
    print(f"\n{len(here)} on this machine. `covidlab data show ID` tells more of one.")
    return 0


def _show(args) -> int:
    from .datasets import catalogue, find, load

    entry = catalogue().get(args.dataset)
    card = entry.card if entry else load(args.dataset, check=False).card
    here = find(args.dataset)
    positive = f" (positive: {card.positive})" if card.positive else ""
    lines = {
        "title": card.title,
        "modality": card.modality,
        "task": card.task,
        "classes": " | ".join(card.classes) + positive,
        "size": entry.size if entry else "",
        "licence": card.licence,
        "citation": card.citation,
        "used by": ", ".join(entry.papers) if entry else "",
        "get": card.get,
        "layout": f"covidlab data import {entry.layout} …" if entry and entry.layout else "",
        "here": str(here) if here else "" if entry is None else "no",
    }
    if card.synthetic:
        lines["here"] = "made on first use"
    print(card.id)
    for key, text in lines.items():
        if text:
            print(_wrapped(text, f"{key:10}", " " * 10))
    if card.problems:
        print("known problems")
        for problem in card.problems:
            print(_wrapped(problem, "  - ", "    "))
    if here or not entry:
        print(f"\n{load(args.dataset, check=False).counts().to_string()}")
    return 0


def _fetch(args) -> int:
    from .datasets import catalogue, fetch

    path = fetch(args.dataset, args.to)
    print(f"downloaded to {path}")
    if layout := catalogue()[args.dataset].layout:
        print(f'next: covidlab data import {layout} "{path}" --name {args.dataset}')
    else:
        print("next: write a manifest.csv beside the images (data/README.md says how)")
    return 0


def _check(args) -> int:
    from .datasets import DatasetError, check, load

    found, wrong = _here(), 0
    names = [n for given in args.datasets for n in (found if given == "all" else [given])]
    if not names:
        raise LookupError("no dataset is on this machine: see `covidlab data list`")
    for name in names:
        try:
            dataset = load(name, profile="smoke", check=False)  # profile: only for generated ones
            problems = check(dataset, progress=sys.stderr.isatty())
            size = _size(dataset)
        except DatasetError as error:  # not even a manifest to check
            problems, size = error.problems, "unreadable"
        wrong += len(problems)
        print(f"{name}: {size}, {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}")
        for problem in problems:
            print(f"  {problem}")
    return int(wrong > 0)


def _import(args) -> int:
    from .datasets import catalogue, find, import_dataset, load

    path = import_dataset(args.layout, args.source, args.name, args.to, args.force)
    dataset = load(str(path), check=False)
    print(f"{path}: {_size(dataset)}")
    print(dataset.counts().to_string())
    known = find(path.name) == path
    print(f"next: covidlab data check {path.name if known else path}")
    if not known:
        print(f"      to load it by name, put {path.parent} into COVIDLAB_DATA")
    if path.name not in catalogue():
        print("note: the catalogue has no such id, so licence and known problems do not come along")
    return 0


def _size(dataset) -> str:
    ids = dataset.frame["patient_id"]
    unknown = f", {(ids == '').sum()} of unknown patients" if (ids == "").any() else ""
    return f"{len(dataset)} images of {ids[ids != ''].nunique()} patients{unknown}"


def _here() -> dict:
    """Every dataset in the folders that are looked in, by name; the first of a name counts."""
    from . import paths

    found = {}
    for folder in paths.dataset_folders():
        for manifest in sorted(folder.glob("*/manifest.csv")):
            if not manifest.parent.name.startswith("."):
                found.setdefault(manifest.parent.name, manifest.parent)
    return found


def _table(rows: list[list[str]]) -> str:
    """Rows as aligned columns; all but the first and last are cut to what the terminal can show."""
    room, widest = shutil.get_terminal_size((10_000, 24)).columns, WIDEST
    while True:
        cells = [
            [r[0], *(textwrap.shorten(c, widest, placeholder="…") for c in r[1:-1]), r[-1]]
            for r in rows
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        if sum(widths) + 2 * len(widths) <= room or widest <= 12:
            break
        widest -= 2
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(text: str, first: str, rest: str) -> str:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _told(error: Exception) -> str:
    """What an error says, without the quotes of a KeyError and with every problem of a dataset."""
    from .datasets import DatasetError

    if isinstance(error, DatasetError):
        lines = str(error).splitlines()[:1] + [f"  {problem}" for problem in error.problems]
        return "\n".join(lines)
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(error)


def _note(message, category, filename, lineno, file=None, line=None):
    print(f"note: {message}", file=sys.stderr)
