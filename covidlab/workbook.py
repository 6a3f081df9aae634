"""Runs the notebooks in order and makes a gallery of them; behind `make run`, `make test`, `covidlab run`."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from covidlab import paths
from covidlab.training.recipe import PROFILES
from covidlab.training.record import write_whole


@dataclass
class Outcome:
    """How one notebook went: "done", "failed" or "unchanged" (done before, nothing to do)."""

    name: str
    state: str
    seconds: float = 0.0
    cell: int = 0
    error: str = ""
    fingerprint: str = ""


def run(
    profile: str = "fast",
    only: str = "",
    force: bool = False,
    out: Path | None = None,
    folder: Path | None = None,
    show=None,
    **parameters,
) -> list[Outcome]:
    """Executes every notebook of `folder` in order, and writes copies and a gallery under `out`.

    A notebook that fails does not stop the others. One that was done before, and whose source,
    parameters and package have not changed, is not run again unless `force`.

    Parameters
    ----------
    profile : smoke, fast or paper; what the notebooks get as PROFILE.
    only : beginnings of notebook names, separated by commas ("01" or "01,04"); empty for all.
    out, folder : by default build/<profile>/ and notebooks/ of the checkout.
    show : takes each line of progress; by default it is printed.
    parameters : others to hand over (DATASET, SEED), for notebooks that have them.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} must be one of {', '.join(PROFILES)}")
    show = show or _print
    folder = folder or (paths.project() or Path.cwd()) / "notebooks"
    out = out or folder.parent / "build" / profile
    names = _chosen(folder, only)
    given = {"PROFILE": profile} | {k: v for k, v in parameters.items() if v is not None}
    code = _code_hash()
    outcomes, begun = [], time.monotonic()
    for k, path in enumerate(names, 1):
        status, label = out / f"{path.stem}.json", f"[{k}/{len(names)}] {path.stem}"
        content = path.read_bytes() + json.dumps(given, sort_keys=True).encode() + code
        fingerprint = hashlib.sha256(content).hexdigest()
        before = _status(status)
        if before and before.fingerprint == fingerprint and before.state == "done" and not force:
            before.state = "unchanged"
            show(f"{label}  unchanged since it ran ({before.seconds:.0f} s); FORCE=1 runs it again")
            outcomes.append(before)
            continue
        outcome = execute(path, out, given, label, show)
        outcome.fingerprint = fingerprint
        write_whole(status, json.dumps(asdict(outcome)).encode())
        outcomes.append(outcome)
    write_glossary(folder.parent / "docs" / "glossary.md", out)
    index = write_gallery(out, [p.stem for p in sorted(folder.glob("[0-9]*.ipynb"))], given)
    failed = [o for o in outcomes if o.state == "failed"]
    for o in failed:
        show(f"\nFAILED {o.name}, code cell {o.cell}:\n{o.error}")
    spent = _clock(time.monotonic() - begun)
    show(
        f"\n{len(outcomes) - len(failed)} of {len(outcomes)} notebooks fine, {spent}. Gallery: {index}"
    )
    return outcomes


def execute(path: Path, out: Path, parameters: dict, label: str, show=None) -> Outcome:
    """Executes one notebook; writes the copy (also a partial one) and its HTML page to `out`.

    In the smoke profile the folded solutions of the exercises are executed too, at the end.
    """
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = load_notebook_node(str(path))
    known = _parameter_names(notebook)
    given = {k: v for k, v in parameters.items() if k in known}
    notebook = parameterize_notebook(notebook, given, kernel_name="python3", language="python")
    if parameters.get("PROFILE") == "smoke":
        notebook.cells += _solutions(notebook)
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    begun, at, line = time.monotonic(), [0], _Line(show or _print)

    def started(cell, cell_index):
        if cell.cell_type == "code":
            at[0] += 1
            line.update(f"{label}  cell {at[0]}/{total}  {_clock(time.monotonic() - begun)}")

    client = _client(
        notebook,
        limit=None if parameters.get("PROFILE") == "paper" else 1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=started,
    )
    outcome = Outcome(path.stem, "done")
    # figures must come back inline whatever backend this process was told to use
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # Ctrl-C reaches the kernel first
            raise KeyboardInterrupt from error
        outcome.state, outcome.cell, outcome.error = "failed", at[0], _told(error)
    except (CellTimeoutError, DeadKernelError) as error:
        outcome.state, outcome.cell, outcome.error = "failed", at[0], str(error)
    finally:
        outcome.seconds = round(time.monotonic() - begun, 1)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / path.name, nbformat.writes(notebook).encode())
        write_whole(out / f"{path.stem}.html", _page(notebook, path.stem).encode())
    line.end(f"{label}  {outcome.state} in {_clock(outcome.seconds)}")
    return outcome


def _client(notebook, limit: float | None, **options):
    """An nbclient that looks for messages every few seconds, and stops a cell after `limit` of them.

    Where a cell makes widgets, the event that tells of the kernel's reply is lost now and then (one
    cell in eighty, with pyzmq 27.3), and nbclient would sleep until its timeout with the reply there.
    """
    import asyncio
    from queue import Empty

    from nbclient import NotebookClient
    from nbclient.client import CellExecutionComplete

    class Client(NotebookClient):
        begun = time.monotonic()

        async def _async_poll_output_msg(self, parent_msg_id, cell, cell_index):
            while True:
                try:
                    message = await self.kc.iopub_channel.get_msg(timeout=1)
                except Empty:
                    continue
                if message["parent_header"].get("msg_id") == parent_msg_id:
                    try:
                        self.process_message(message, cell, cell_index)
                    except CellExecutionComplete:
                        return

        async def _async_poll_for_reply(self, *arguments):
            self.begun = time.monotonic()
            return await super()._async_poll_for_reply(*arguments)

        async def _async_handle_timeout(self, timeout, cell=None):
            if limit is None or time.monotonic() - self.begun < limit:
                await asyncio.sleep(0.1)
                return None
            return await super()._async_handle_timeout(limit, cell)

    return Client(notebook, timeout=2, **options)


def write_gallery(out: Path, order: list[str], parameters: dict) -> Path:
    """index.html of what is in `out`: title, first figure, state and time of every notebook."""
    import nbformat

    cards = []
    for name in order:
        outcome = _status(out / f"{name}.json")
        if outcome is None or not (out / f"{name}.ipynb").is_file():
            cards.append(f'<div class="card idle"><h2>{name}</h2><p>not run yet</p></div>')
            continue
        notebook = nbformat.read(out / f"{name}.ipynb", as_version=4)
        title, aim, figure = _summary(notebook, name)
        image = f'<img alt="" src="data:image/png;base64,{figure}">' if figure else ""
        state = "failed" if outcome.state == "failed" else "done"
        note = f"failed in cell {outcome.cell}" if state == "failed" else "ran"
        cards.append(
            f'<a class="card {state}" href="{name}.html">{image}<h2>{html.escape(title)}</h2>'
            f"<p>{html.escape(aim)}</p><p class=state>{note}, {_clock(outcome.seconds)}</p></a>"
        )
    shown = ", ".join(f"{k} = {v}" for k, v in parameters.items())
    page = _GALLERY.replace("{cards}", "\n".join(cards)).replace("{parameters}", html.escape(shown))
    link = ' <a href="glossary.html">Glossary</a>' if (out / "glossary.html").is_file() else ""
    return write_whole(out / "index.html", page.replace("{glossary}", link).encode())


def write_glossary(source: Path, out: Path) -> None:
    """glossary.html for the pages in `out` to link to, if there is a glossary.

    Its anchors are in small letters, as GitHub has them and as the notebooks link to.
    """
    from nbformat.v4 import new_markdown_cell, new_notebook

    if source.is_file():
        text = new_markdown_cell(source.read_text("utf-8"))
        page = _page(new_notebook(cells=[text]), "glossary")
        page = re.sub(r'(<h3 id|href)="#?[\w-]+"', lambda found: found[0].lower(), page)
        write_whole(out / "glossary.html", page.encode())


def add_run(subparsers) -> None:
    """Adds `covidlab run` to a command line."""
    parser = subparsers.add_parser("run", help="execute the notebooks and make a gallery")
    parser.add_argument("--profile", choices=PROFILES, default="fast")
    parser.add_argument("--only", default="", help='beginnings of names, as in "01" or "01,04"')
    parser.add_argument("--force", action="store_true", help="run what is unchanged too")
    parser.add_argument("--dataset", dest="DATASET", help="a catalogue id, a folder or a CSV")
    parser.add_argument("--seed", dest="SEED", type=int)
    parser.add_argument("--out", type=Path, help="where to write (default build/PROFILE)")
    parser.set_defaults(func=_command)


def _command(args) -> int:
    dataset = args.DATASET
    if dataset and Path(dataset).exists():  # notebooks run in their own folder
        dataset = str(Path(dataset).resolve())
    given = {"DATASET": dataset, "SEED": args.SEED}
    outcomes = run(args.profile, args.only, args.force, args.out, **given)
    return int(any(o.state == "failed" for o in outcomes))


def _chosen(folder: Path, only: str) -> list[Path]:
    every = sorted(folder.glob("[0-9]*.ipynb"))
    if not every:
        raise FileNotFoundError(f"no notebooks in {folder}: run from a checkout of the workbook")
    starts = tuple(s.strip() for s in only.split(",") if s.strip())
    chosen = [p for p in every if not starts or p.stem.startswith(starts)]
    if not chosen:
        raise ValueError(f"no notebook begins with {only!r}: {', '.join(p.stem for p in every)}")
    return chosen


def _code_hash() -> bytes:
    """Of all that a notebook's results come from, beside itself: the package, the tables."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    files += sorted(p for p in (paths.data() / "published").glob("*.csv"))
    digest = hashlib.sha256()
    for file in [*files, paths.data() / "catalogue.toml"]:
        digest.update(file.read_bytes())
    return digest.digest()


def _status(path: Path) -> Outcome | None:
    try:
        return Outcome(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _parameter_names(notebook) -> set[str]:
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{len(tagged)} cells are tagged `parameters`, expected one")
    return set(re.findall(r"^(\w+)\s*=", tagged[0].source, re.M))


def _solutions(notebook) -> list:
    """The Python of the folded solutions, as cells."""
    from nbformat.v4 import new_code_cell

    folded = [
        block
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for block in re.findall(r"<details>.*?</details>", cell.source, re.S)
    ]
    code = [c for block in folded for c in re.findall(r"```python\n(.*?)```", block, re.S)]
    return [new_code_cell(source) for source in code]


def _page(notebook, name: str = "notebook") -> str:
    """As HTML; the browser's tab is called by the first heading."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    title = _summary(notebook, name)[0]
    page = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0]
    return page.replace("../docs/glossary.md", "glossary.html")


def _summary(notebook, name: str) -> tuple[str, str, str | None]:
    """Title, first sentence and the first figure (of the cell tagged `cover`, where there is one)."""
    text = next((c.source for c in notebook.cells if c.cell_type == "markdown"), "")
    lines = [s.strip() for s in text.splitlines() if s.strip()]
    title = lines[0].lstrip("# ") if lines else name
    aim = re.sub(r"[*`]|\[|\]\([^)]*\)", "", lines[1]) if len(lines) > 1 else ""
    tagged = [c for c in notebook.cells if "cover" in c.metadata.get("tags", [])]
    for cell in [*tagged, *notebook.cells]:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                return title, aim, base64.b64encode(base64.b64decode(png)).decode()
    return title, aim, None


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _told(error) -> str:
    """What failed and where, short enough to read; the whole traceback is in the executed copy."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).splitlines()
    kept = lines if len(lines) <= 24 else [*lines[:12], "…", *lines[-10:]]
    last = f"{error.ename}: {error.evalue}"
    return "\n".join(kept if any(last in line for line in kept[-10:]) else [*kept, last])


def _print(text: str):
    print(text, flush=True)


class _Line:
    """One line that is rewritten on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, show):
        self.show, self.live, self.last = show, show is _print and sys.stdout.isatty(), 0.0

    def update(self, text: str):
        if self.live:
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            self.show(text)

    def end(self, text: str):
        if self.live:
            print("\r\x1b[K", end="")
        self.show(text)


_GALLERY = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>covidlab gallery</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:1.2rem}
.card{display:flex;flex-direction:column;border:1px solid #ccc;border-radius:.5rem;padding:1rem;
color:inherit;text-decoration:none}
a.card:hover{border-color:#0a6aa8}.card img{height:11rem;object-fit:contain;background:#fff}
.card h2{font-size:1.05rem;margin:.7rem 0 .2rem}.card p{margin:.2rem 0;color:#555}
.state{font-size:.85rem}.failed{border-color:#b3261e}.failed .state{color:#b3261e}.idle{opacity:.6}
</style></head><body>
<h1>covidlab</h1>
<p>Five papers on COVID-19 in chest CT and X-ray, run from top to bottom. {parameters}.<br>
Research and teaching only, not for clinical use.{glossary}</p>
<div class="grid">
{cards}
</div></body></html>
"""
