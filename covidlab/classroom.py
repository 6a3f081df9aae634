"""The widgets in front of a class: pages without code that a room of people opens in the browser.

`covidlab classroom` trains two small networks on the phantom, once, and serves
notebooks/classroom/ with Voilà. Every page that a visitor opens is a Python process of its own,
so that nobody's slider moves another's; it ends with the page, or unused after half an hour. What
the networks say is worked out before the first visitor comes, so the pages load arrays and no
PyTorch: a process takes 110 MB of memory, that of the feature space 150 MB (measured on Linux, what
is shared not counted), a class of 30 with a page each about 4 GB.

A page opened in JupyterLab instead prepares itself, for the dataset, profile and seed in its cell of
parameters; a page that is served shows what the command prepared, whatever stands in that cell.
"""

from __future__ import annotations

import errno
import functools
import html
import json
import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np

from covidlab import paths

PORT = 8866
PATIENTS = {"smoke": 12, "fast": 120}  # of phantoms
SIZE = 192  # of the pictures on the page of masks, in pixels
# Beside the laptop's recipes: narrower, so that all is ready in a minute or two. So small a
# screener learns little from wavelet-enhanced slices.
SCREENING = {"options": {"widths": (8, 16, 32, 64)}, "enhance": "none", "size": 48, "epochs": 20}
SEGMENTATION = {"options": {"width": 16}, "epochs": 8}
MAPS = ("gradcam", "hirescam", "eigencam", "scorecam")
FOLDER = "COVIDLAB_CLASSROOM"  # environment variable: where the pages find what was prepared
# Nothing is loaded from elsewhere: Voilà's template asks a CDN for icons, which a room without a
# network would wait for.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws: wss:; "
    "form-action 'self'; frame-ancestors 'self'"
)


def prepare(
    folder: Path, dataset: str = "phantom-ct", profile: str = "fast", seed: int = 0, show=print
) -> None:
    """Trains a screener and a segmenter, or reuses their records, and leaves in `folder` what they say.

    Parameters
    ----------
    dataset : an id of the catalogue, a folder or a CSV, with two classes or more and infection
        masks of the positive one.
    profile : "fast", a minute or two on two cores; "smoke", one epoch on few patients.
    show : takes each line of progress.

    Raises ValueError for a dataset of one class or without infection masks of the positive one.
    """
    from covidlab import datasets

    if profile not in PATIENTS:
        raise ValueError(f"profile={profile!r} must be one of {', '.join(PATIENTS)}")
    options = {"n_patients": PATIENTS[profile], "slices_per_patient": 4, "difficulty": 0.0}
    drawn = options if dataset in datasets.phantom.PRESETS else {}
    show("[1/3] images")
    data = datasets.load(dataset, profile=profile, seed=seed, **drawn)
    masked = (data.frame["infection_mask"] != "").to_numpy()
    infected = (data.frame["label"] == data.card.positive).to_numpy() & masked
    if not infected.any() or data.frame["label"].nunique() < 2:
        raise ValueError(
            f"dataset={dataset!r} has no infection masks for a positive class, or no other class: "
            "take phantom-ct, or add what is missing (a column infection_mask) to its manifest"
        )
    _prepare_screening(folder, data, profile, seed, show)
    _prepare_masks(folder, data.where(infected), profile, seed, show)


def serve(folder: Path, port: int, host: str, large: bool, browser: bool, idle: float) -> None:
    """Serves the pages until it is stopped; `folder` is where `prepare` has left its files."""
    import tornado.web
    from traitlets.config import Config
    from voila.app import Voila

    pages = _pages()

    class Index(tornado.web.RequestHandler):
        def get(self):
            self.set_header("Content-Security-Policy", POLICY)
            self.write(_index(pages, _is_large(self.request.query) or large))

    class Classroom(Voila):
        def init_handlers(self):
            """Voilà's own but for the listings of files, and what they would show: the sources."""
            hidden = ("/voila/tree", "/voila/api/contents", "/voila/files")
            rest = [h for h in super().init_handlers() if not h[0].startswith(hidden)]
            return [("/", Index), *rest]

    config = Config()
    config.Voila.update(
        port=port,
        ip=host,
        port_retries=0,
        open_browser=browser,
        log_level="ERROR",
        tornado_settings={
            "headers": {"Content-Security-Policy": POLICY},
            "ws_ping_timeout": 30_000,  # jupyter_server's own default is one that tornado rejects
        },
    )
    config.VoilaConfiguration.update(
        allow_template_override="NO",
        allow_theme_override="NO",
        prelaunch_hook=_lets_go,
    )
    # Closing a page ends its process; this is for those that are left open or lose the network.
    config.MappingKernelManager.update(
        cull_idle_timeout=max(1, round(60 * idle)),
        cull_interval=min(60, max(1, round(20 * idle))),
        cull_connected=True,
    )
    os.environ[FOLDER] = str(folder)
    os.environ["OMP_NUM_THREADS"] = "1"  # the visitors share the processor
    app = Classroom(config=config)
    app.initialize([str(pages)])
    app.start()


def add_classroom(subparsers) -> None:
    """Adds `covidlab classroom` to a command line."""
    parser = subparsers.add_parser("classroom", help="the widgets as pages, for a class")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="127.0.0.1 (default): this machine alone. 0.0.0.0: everyone who reaches it over the "
        "network, without a password",
    )
    parser.add_argument("--large", action="store_true", help="larger type, for a projector")
    parser.add_argument("--open", action="store_true", help="open the pages in a browser")
    parser.add_argument("--dataset", default="phantom-ct", help="an id, a folder or a CSV")
    parser.add_argument("--profile", choices=tuple(PATIENTS), default="fast")
    parser.add_argument("--seed", type=int, default=0, help="of phantoms, split and training")
    parser.add_argument(
        "--idle", type=float, default=30, help="minutes until an unused page is stopped"
    )
    parser.set_defaults(func=_command)


def feature_space(dataset: str = "phantom-ct", profile: str = "fast", seed: int = 0):
    """The page of a screener's feature space: every image a point."""
    from covidlab.predictions import Predictions
    from covidlab.widgets import FeatureExplorer

    found, frame, about = _load("screening", dataset, profile, seed)
    widget = FeatureExplorer(
        found["features"],
        frame,
        Predictions(frame, found["probabilities"], about["classes"], about["positive"]),
        found["images"],
        found.get("infection_mask"),
        parts=found["parts"],
        methods=("pca", "tsne"),  # UMAP would compile itself anew for every visitor
        large=presenting(),
    )
    return _page(widget, about["note"])


def masks(dataset: str = "phantom-ct", profile: str = "fast", seed: int = 0):
    """The page of a segmenter's masks: where to cut them, and what that costs."""
    from covidlab.widgets import MaskInspector

    found, frame, about = _load("masks", dataset, profile, seed)
    widget = MaskInspector(
        list(found["images"]),
        list(found["infection_mask"]),
        list(found["probability"]),
        list(found["lung_mask"]) if "lung_mask" in found else None,
        names=frame["image"],
        large=presenting(),
    )
    return _page(widget, about["note"])


def maps(dataset: str = "phantom-ct", profile: str = "fast", seed: int = 0):
    """The page of a screener's maps: where in an image it found what it says."""
    from covidlab.widgets import MapViewer

    found, _, about = _load("maps", dataset, profile, seed)
    masks = {name: found.get(f"{name}_mask") for name in ("lung", "infection")}
    widget = MapViewer.from_arrays(
        found["images"] / np.float32(255),
        dict(zip(about["methods"], found["maps"], strict=True)),
        {name: mask for name, mask in masks.items() if mask is not None},
        about["titles"],
        large=presenting(),
    )
    return _page(widget, about["note"])


def presenting() -> bool:
    """Whether the page was asked for in large type: `?large=1` in its address."""
    return _is_large(os.environ.get("QUERY_STRING", ""))


def _lets_go(handler, notebook, cwd):
    """Sets the cookie without which Voilà refuses a closing page's request to end its process."""
    handler.xsrf_token  # noqa: B018  reading it sets it


def _command(args) -> int:
    if args.idle < 1:
        raise ValueError(f"idle={args.idle:g} minutes would stop pages in use: take 1 or more")
    _check_port(args.host, args.port)
    _pages()
    dataset = args.dataset
    if Path(dataset).exists():
        dataset = str(Path(dataset).resolve())
    with tempfile.TemporaryDirectory(prefix="covidlab-classroom-") as folder:
        prepare(Path(folder), dataset, args.profile, args.seed)
        shown = "127.0.0.1" if args.host in ("0.0.0.0", "::", "") else args.host
        print(f"[3/3] the pages are at http://{shown}:{args.port}/ (Ctrl-C stops them)")
        if shown != args.host:
            print(
                f"      and at this machine's own address, port {args.port}, for everyone who "
                "reaches it. No one can run code there, but every page takes memory here."
            )
        print("Research and teaching only, not for clinical use.", flush=True)
        serve(Path(folder), args.port, args.host, args.large, args.open, args.idle)
    return 0


def _check_port(host: str, port: int):
    """Before any work: can it be listened at?"""
    if not 0 < port < 65536:
        raise ValueError(f"port={port} must lie in 1..65535: leave --port out for {PORT}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise ValueError(f"host={host!r} is no address: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} is in use, perhaps by another classroom: stop that, or choose "
                f"another with --port {port + 1}"
            ) from None
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror}") from None


def _prepare_screening(folder, data, profile, seed, show):
    """A screener's features and what it says of every image; of some, maps of where it looked."""
    from covidlab import datasets, explain, training

    split = datasets.split(data, seed=seed)
    recipe = _smaller(training.KHAN_SCREENING, SCREENING).at(profile)
    learn = _trained(split, recipe, seed, lambda text: show(f"[2/3] CoV-CTNet, {text}"))
    part_of = {image: name for name, part in split.parts.items() for image in part.frame["image"]}
    parts = data.frame["image"].map(part_of).to_numpy(str)
    said = training.predict(learn, data)
    _save(
        folder / "screening",
        data,
        {"classes": said.classes, "positive": said.positive},
        features=explain.features(learn, data),
        probabilities=said.probabilities,
        parts=parts,
    )
    show("[2/3] maps of CoV-CTNet")
    tested = np.flatnonzero(parts == "test")  # a slice of each patient
    rows = tested[np.unique(data.patients[tested], return_index=True)[1]]
    titles = [
        f"{Path(data.frame['image'][i]).name}: {data.frame['label'][i]}; the network says "
        f"{said.classes[said.predicted[i]]} ({said.probabilities[i].max():.0%})"
        for i in rows
    ]
    maps = [explain.saliency(learn, data, m, rows=rows, channels=32) for m in MAPS]
    about = {"titles": titles, "methods": [explain.METHODS[m] for m in MAPS]}
    _save(folder / "maps", data.where(rows), about, maps=np.stack(maps))


def _prepare_masks(folder, data, profile, seed, show):
    """How probable infection is in every pixel of the segmenter's test part."""
    from covidlab import datasets, training
    from covidlab.imaging import resize

    split = datasets.split(data, seed=seed)
    recipe = _smaller(training.KHAN_SEGMENTATION, SEGMENTATION).at(profile)
    learn = _trained(split, recipe, seed, lambda text: show(f"[2/3] CoV-RASeg, {text}"))
    said = training.predict(learn, split.test).probabilities[:, 1]
    probability = np.stack([resize(p, SIZE).clip(0, 1) for p in said])
    _save(folder / "masks", split.test, {}, probability=probability)


def _smaller(recipe, changes):
    return recipe.but(laptop=recipe.laptop | changes)


def _trained(split, recipe, seed, show):
    from covidlab import training
    from covidlab.training.learners import run_folder

    learn = training.learner(training.dataloaders(split, recipe, seed=seed, progress=False))
    if (run_folder(learn) / "record.json").is_file():
        show("trained before")
    else:
        seconds = recipe.epochs * training.estimate(learn)
        show(f"{recipe.epochs} epochs, about {seconds:.0f} s")
    training.fit(learn, reuse=True, show_progress=False)
    return learn


def _save(folder, data, about, **arrays):
    """Pictures and masks of a dataset, and what else a page needs."""
    from covidlab.imaging import resize, resize_mask

    shape = (SIZE, SIZE)
    pictures = [resize(data.image(i), shape).clip(0, 1) for i in range(len(data))]
    arrays["images"] = np.rint(255 * np.stack(pictures)).astype(np.uint8)
    for column in ("infection_mask", "lung_mask"):
        masks = [data.mask(i, column) for i in range(len(data))]
        if all(mask is not None for mask in masks):
            arrays[column] = np.stack([resize_mask(mask, shape) for mask in masks])
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    data.frame.to_csv(folder / "manifest.csv", index=False)
    kind = "Phantoms: drawn patients, whose truth is known" if data.card.synthetic else "Images"
    about["note"] = (
        f"{kind} ({data.card.title}, {len(data)} slices of {len(set(data.patients))} patients)."
    )
    (folder / "about.json").write_text(json.dumps(about), "utf-8")


def _load(name, dataset, profile, seed):
    """Arrays, manifest rows and a few words that `prepare` left; the arrays stay on disk."""
    from covidlab.datasets import read_manifest

    folder = Path(os.environ.get(FOLDER) or _by_itself(dataset, profile, seed).name) / name
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
    about = json.loads((folder / "about.json").read_text("utf-8"))
    return arrays, read_manifest(folder / "manifest.csv"), about


@functools.cache
def _by_itself(dataset, profile, seed):
    """What a page needs that nobody serves; the folder goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="covidlab-classroom-")
    prepare(Path(folder.name), dataset, profile, seed)
    return folder


def _page(widget, note: str):
    """A widget, in the page's type, and what its images are below."""
    import ipywidgets

    style, home = (_STYLE + _LARGE, "/?large=1") if presenting() else (_STYLE, "/")
    below = f'<p class="note">{html.escape(note)} <a href="{home}">All pages</a></p>'
    return ipywidgets.VBox(
        [ipywidgets.HTML(f"<style>{style}</style>"), widget, ipywidgets.HTML(below)]
    )


def _is_large(query: str) -> bool:
    return parse_qs(query).get("large", ["0"])[-1] not in ("0", "")


def _pages() -> Path:
    folder = (paths.project() or Path.cwd()) / "notebooks" / "classroom"
    if not any(folder.glob("*.ipynb")):
        raise FileNotFoundError(f"no pages in {folder}: run from a checkout of the workbook")
    return folder


def _index(pages: Path, large: bool) -> str:
    """The landing page: title and first sentences of every page."""
    import nbformat

    query = "?large=1" if large else ""
    cards = []
    for path in sorted(pages.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, text = notebook.cells[0].source.split("\n\n")[:2]
        cards.append(
            f'<a href="/voila/render/{path.name}{query}"><h2>{html.escape(title.lstrip("# "))}</h2>'
            f"<p>{html.escape(text)}</p></a>"
        )
    other = '<a href="/">normal type</a>' if large else '<a href="/?large=1">larger type</a>'
    page = _INDEX.replace("{cards}", "\n".join(cards)).replace("{size}", "24" if large else "17")
    return page.replace("{other}", other)


_STYLE = """
#rendered_cells > div { max-width: 1280px; margin: 0 auto; }
.jp-RenderedHTMLCommon { font-size: 16px; }
.jp-RenderedHTMLCommon, .note { font-family: system-ui, sans-serif; }
.note { font-size: 14px; color: #555; padding: 0 8px; white-space: normal; line-height: 1.4; }
.note a { color: #0072b2; text-decoration: underline; }
"""
_LARGE = """
#rendered_cells > div, .covidlab { max-width: 1800px; }
.jp-RenderedHTMLCommon { font-size: 24px; }
.note { font-size: 21px; }
"""
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>covidlab classroom</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
body{font:{size}px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222}
main a{display:block;border:1px solid #ccc;border-radius:.5rem;padding:.4rem 1.2rem;margin:1rem 0;
color:inherit;text-decoration:none}
main a:hover,main a:focus{border-color:#0072b2}h2{font-size:1.2em;margin:.5em 0 .2em;color:#0072b2}
p{margin:.3em 0 .6em}
</style></head><body>
<h1>covidlab</h1>
<p>What networks make of chest CT, to be questioned by hand. Every page is yours alone.</p>
<main>
{cards}
</main>
<p>{other}</p>
<p>Research and teaching only, not for clinical use.</p>
</body></html>
"""
