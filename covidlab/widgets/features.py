"""A feature space to walk in: every image a point; its picture, prediction and true neighbours."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import traitlets

from covidlab._figures import palette, subplots
from covidlab.datasets.figures import MASK_COLOURS
from covidlab.datasets.manifest import MASKS, Dataset
from covidlab.explain.feature_space import (
    METHODS,
    continuity,
    embed,
    neighbours,
    trustworthiness,
)
from covidlab.imaging import resize, resize_mask
from covidlab.predictions import Predictions

from .base import _HERE, Background, Widget, colour_table, grey_bytes, script

SIDE = 128  # of a thumbnail, in pixels
PAGE = 24  # thumbnails at a time
NEAR = 8  # neighbours shown of an image
JUDGED = 1000  # images, at most, that trustworthiness is estimated on
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
UNITS = {
    "severity": "share of the lungs infected",
    "infected_fraction": "share of the lung in the image infected",
    "effusion": "share of the pleural cavity",
    "z_mm": "mm above the tracheal bifurcation",
}
MARKERS = "o^sDP"  # of parts, as features.js draws them

_UNKNOWN = 255  # colour code of a value that is not there
_GREY = "#9a9a9a"
_CYCLE = list(palette(str(i) for i in range(8)).values())
_RIGHT = {"right": "#0072b2", "wrong": "#d55e00"}
_CLASSES = ("label", "prediction", "correctness", "part", "split", "patient", "site")
_ALWAYS = ("label", "prediction", "correctness")  # even where all images have the same
_PATHS = {"image", "sha256", "patient_id"}  # patient_id is shown as patient
_MOST_CLASSES = 20
_KEPT = 1000  # thumbnails in memory


class _Superseded(Exception):
    """A newer request, or the stop button, has made this run useless."""


@dataclass(frozen=True)
class _Map:
    points: np.ndarray
    axes: list[str]
    facts: dict


@dataclass(frozen=True)
class _Colours:
    """A colour code for each image, the colours of the codes, and what the legend says."""

    codes: np.ndarray
    colours: list[str]
    legend: dict


@dataclass(frozen=True)
class _Thumbnail:
    image: bytes
    masks: bytes
    shape: tuple[int, int]  # of the image it was made of
    problem: str = ""


class FeatureExplorer(Background, Widget):
    """Features of images laid out in a plane, to be walked in, marked and questioned.

    Drag pans, the wheel zooms, shift and drag draws a lasso, a click selects; with the keyboard
    arrows go from point to point and Enter selects. What is selected is shown as pictures, and
    `selection` (row numbers) and `selected` (their manifest rows) hand it on to the notebook. The
    first of the selection, or a picture that is clicked, is shown with its nearest neighbours
    among all features: a map in two dimensions cannot keep them all.

    Parameters
    ----------
    features : (N, D), as `explain.features` gives them; Euclidean distances between them, as they
        are, are what every map and every list of neighbours goes by.
    frame : N manifest rows with `image` and `label`; all columns that can be coloured by are
        offered: patient, site, split, severity and others. Numbers may be given as text.
    predictions : `Predictions` of the same rows.
    images : (N, H, W) in [0, 1], a function row → (H, W), or a Dataset; read when shown.
    masks : (N, H, W) bool, a function row → mask, {name: mask} or None, or a Dataset.
    maps : (N, H, W) saliency maps in [0, 1], or a function row → (H, W); made when asked for. Masks
        and maps of another size are stretched over the whole image.
    parts : (N,) names, such as validation and test, told apart by the shape of the point.
    methods : those offered, of "pca", "tsne", "umap"; the first is shown first, and principal
        components until it is there.
    seed : of t-SNE, UMAP and of the images that trustworthiness is estimated on.
    by : column to colour by.

    Raises ValueError for lengths that do not agree, features that cannot be laid out and unknown
    methods, KeyError for a column that is not offered.
    """

    _esm = script("features")
    _css = Widget._css + (_HERE / "features.css").read_text("utf-8")

    points = traitlets.Bytes(help="N x 2 float32").tag(sync=True)
    axes = traitlets.List().tag(sync=True)
    shown = traitlets.Dict(help="what the map is, and how far to trust it").tag(sync=True)
    colours = traitlets.Bytes(help="N codes; 255 is unknown").tag(sync=True)
    legend = traitlets.Dict().tag(sync=True)
    shapes = traitlets.Bytes(help="N indices into `part_names`").tag(sync=True)
    part_names = traitlets.List().tag(sync=True)
    names = traitlets.List(help="of the images").tag(sync=True)
    facts = traitlets.List(help="of each image: {name, values}").tag(sync=True)
    fact_codes = traitlets.Bytes(help="facts x N uint32 into values").tag(sync=True)
    heat = traitlets.Bytes(help="256 x 3, the colours of saliency maps").tag(sync=True)

    method = traitlets.Enum(METHODS, "pca").tag(sync=True)
    methods = traitlets.List(help="[key, name]").tag(sync=True)
    perplexity = traitlets.Float(30.0).tag(sync=True)
    n_neighbours = traitlets.Int(15).tag(sync=True)
    min_dist = traitlets.Float(0.1).tag(sync=True)
    running = traitlets.Unicode(help="what is being computed").tag(sync=True)
    problem = traitlets.Unicode(help="why there is no new map").tag(sync=True)

    by = traitlets.Unicode("label").tag(sync=True)
    choices = traitlets.List().tag(sync=True)
    muted = traitlets.List(traitlets.Int(), help="colour codes that are hidden").tag(sync=True)
    selection = traitlets.List(traitlets.Int(), help="row numbers").tag(sync=True)
    message = traitlets.Unicode(help="what a search found").tag(sync=True)
    patients = traitlets.List(help="ids to propose while typing").tag(sync=True)

    page = traitlets.Int(0).tag(sync=True)
    page_size = traitlets.Int(PAGE).tag(sync=True)
    gallery_shown = traitlets.Dict(help="pictures of the page").tag(sync=True)
    focus = traitlets.Int(-1, help="the row whose neighbours are shown").tag(sync=True)
    near = traitlets.Dict(help="pictures of its neighbours").tag(sync=True)
    has_maps = traitlets.Bool(False).tag(sync=True)
    show_maps = traitlets.Bool(False).tag(sync=True)
    has_masks = traitlets.Bool(False).tag(sync=True)
    mask_styles = traitlets.List(["none", "outline", "tint"]).tag(sync=True)
    mask_style = traitlets.Enum(("none", "outline", "tint"), "none").tag(sync=True)
    mask_legend = traitlets.List(help="[name, colour] of each bit").tag(sync=True)

    def __init__(
        self,
        features,
        frame: pd.DataFrame,
        predictions: Predictions | None = None,
        images=None,
        masks=None,
        maps=None,
        *,
        parts=None,
        methods=METHODS,
        seed: int = 0,
        by: str = "label",
        **options,
    ):
        features, frame = np.asarray(features), frame.reset_index(drop=True)
        _check(features, frame, predictions, methods)
        n = len(frame)
        parts = np.full(n, "") if parts is None else np.asarray(parts).astype(str)
        self._features, self._frame, self._predictions = features, frame, predictions
        self._table = _table(frame, predictions, parts)
        self._words = _said(self._table)
        self._seed = seed
        self._image = _reader(images, n, "images")
        self._mask = _mask_reader(masks, n)
        self._heat = _reader(maps, n, "maps")
        self._mask_names: list[str] = []
        self._thumbs, self._heats = {}, {}
        self._known: dict[tuple, _Map] = {}
        self._failed, self._room = None, threading.BoundedSemaphore(2)
        self._listen()
        super().__init__(**options)
        with self.hold_sync():
            self.methods = [[m, NAMES[m]] for m in methods]
            self.perplexity = float(max(1, min(30, (n - 1) // 3)))
            self.n_neighbours = max(2, min(15, n - 1))
            self.heat = colour_table("magma").tobytes()
            self.has_maps, self.has_masks = self._heat is not None, self._mask is not None
            self._describe(parts)
            self.choices = _choices(self._table)
            self.colour_by(by)
            self._show_first()
        self.on_msg(self._hear)
        self.observe(self._on_method, "method")
        if methods[0] != "pca":
            self.method = methods[0]

    @classmethod
    def from_learner(cls, learn, datasets, layer=None, maps="gradcam", **options):
        """An explorer of what a trained classifier makes of a Dataset, or of {part: Dataset}.

        Features come from `explain.features` (`layer` as there), predictions from
        `training.predict`. Pictures are as the network sees them, at its size, and masks and
        saliency maps lie on them. `maps` is a method of `explain.saliency`, for the class that was
        predicted, a function row → (H, W), or None; rows count on through the parts in order.
        """
        from covidlab import training
        from covidlab.explain.feature_space import features

        parts = {"": datasets} if isinstance(datasets, Dataset) else dict(datasets)
        found = np.concatenate([features(learn, data, layer) for data in parts.values()])
        frame = pd.concat([data.frame for data in parts.values()], ignore_index=True)
        said = [training.predict(learn, data) for data in parts.values()]
        predictions = None
        if all(isinstance(p, Predictions) for p in said):
            probabilities = np.concatenate([p.probabilities for p in said])
            first = said[0]
            predictions = Predictions(
                frame, probabilities, first.classes, first.positive, first.name
            )
        seen = _Seen(learn, list(parts.values()))
        return cls(
            found,
            frame,
            predictions,
            seen.image,
            seen.mask,
            seen.saliency(maps) if isinstance(maps, str) else maps,
            parts=np.repeat(list(parts), [len(data) for data in parts.values()]),
            **options,
        )

    # the map

    def colour_by(self, name: str):
        """Colours the points by a column; KeyError for one that is not offered."""
        name = "patient" if name == "patient_id" else name
        if name not in self.choices:
            raise KeyError(f"no column {name!r} to colour by: there are {', '.join(self.choices)}")
        self.by = name

    @traitlets.validate("by")
    def _offered(self, proposal):
        if self.choices and proposal.value not in self.choices:
            raise traitlets.TraitError(f"by={proposal.value!r} is none of {self.choices}")
        return proposal.value

    @traitlets.observe("by", "choices")
    def _recolour(self, _):
        if not self.choices:
            return
        found = self._colours()
        with self.hold_sync():
            self.muted = []
            self.colours, self.legend = found.codes.tobytes(), found.legend

    def _colours(self) -> _Colours:
        return _coloured(self._table[self.by], self.by)

    def recompute(self, wait: bool = False):
        """A new map by `method` and its settings, made in the background; known ones come at once.

        A run that was still going on is given up: its map is dropped. What goes wrong is shown in
        `problem`. With `wait` the map is there on return, and what goes wrong is raised.
        """
        with self._lock:
            self._ticket, self._failed = self._ticket + 1, None
            ticket, key = self._ticket, self._key()
            known = key in self._known
            with self.hold_sync():
                self.problem = ""
                self.running = "" if known else f"{NAMES[key[0]]}: waiting"
                if known:
                    self._show(key)
                    return
        run = threading.Thread(
            target=self._run, args=(ticket, key), name=f"map of {key[0]}", daemon=True
        )
        run.start()
        if wait:
            run.join()
            self._hear_events()
            if self._failed:
                raise self._failed

    def stop(self):
        """Gives up the run that is going on; method and settings go back to those of the map."""
        with self._lock, self.hold_sync():
            self._ticket += 1
            self.running, self.problem = "", ""
            for name, value in self.shown["settings"].items():
                setattr(self, name, value)

    def _on_method(self, _):
        self.recompute()

    def _key(self) -> tuple:
        settings = {
            "pca": (),
            "tsne": (("perplexity", self.perplexity),),
            "umap": (("n_neighbours", self.n_neighbours), ("min_dist", self.min_dist)),
        }
        return (self.method, *settings[self.method])

    def _show_first(self):
        """Principal components take no time to speak of: the page opens with a map."""
        key = ("pca",)
        self._known[key] = self._made(key, lambda text: None)
        self._show(key)

    def _run(self, ticket, key):
        def tell(text):
            if ticket != self._ticket:
                raise _Superseded
            self._report(ticket, "progress", text)

        try:
            with self._room:
                tell(NAMES[key[0]])
                made = self._made(key, tell)
        except _Superseded:
            pass
        except Exception as error:
            self._report(ticket, "error", error)
        else:
            self._known[key] = made  # even where no one waits for it any more
            self._report(ticket, "done", key)

    def _made(self, key, tell) -> _Map:
        method, settings = key[0], dict(key[1:])
        points = embed(self._features, method, self._seed, **settings, callback=tell)
        tell("how far the map can be trusted")
        n, k = len(points), min(10, (len(points) - 1) // 2)
        facts = {
            "title": ", ".join(
                [NAMES[method], *(f"{_SAID[s]} {v:g}" for s, v in settings.items())]
            ),
            "settings": {"method": method, **settings},
            "n": n,
            "d": self._features.shape[1],
            "judged": min(n, JUDGED),
            "seed": self._seed,
            "k": k,
            "trustworthiness": trustworthiness(self._features, points, k, JUDGED, self._seed),
            "continuity": continuity(self._features, points, k, JUDGED, self._seed),
        }
        return _Map(points, self._axes(points) if method == "pca" else ["", ""], facts)

    def _axes(self, components) -> list[str]:
        share = components.var(0) / self._features.var(0).sum()
        return [
            f"{which} component ({part:.0%} of variance)"
            for which, part in zip(("first", "second"), share, strict=True)
        ]

    def _heard(self, kind, value, current):
        if not current:
            return
        self.running = value if kind == "progress" else ""
        self._failed = value if kind == "error" else None
        if kind == "error":
            self.problem = str(value) or type(value).__name__
        elif kind == "done":
            self._show(value)

    def _show(self, key):
        made = self._known[key]
        self._map = made
        self.points, self.axes, self.shown = made.points.tobytes(), made.axes, made.facts
        self._show_near(None)

    # what is selected

    @property
    def selected(self) -> pd.DataFrame:
        """The manifest rows of the selection in its order, with what was predicted."""
        extra = [c for c in ("prediction", "probability") if c in self._table]
        columns = {c: self._table[c] for c in extra}
        return self._frame.assign(**columns).iloc[list(self.selection)]

    def select_rows(self, rows):
        """Selects images by row number, or by a boolean for each row."""
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape != (len(self._frame),):
            raise ValueError(f"rows: booleans of shape {rows.shape} for {len(self._frame)} images")
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        self.selection = [int(row) for row in rows]

    def search(self, text: str) -> list[int]:
        """Selects all images of the patient `text`, or, if none is called so, of all that contain it.

        `message` says what was found.
        """
        text = text.strip()
        if "patient" not in self._table:
            self.message = "the manifest has no patient_id to search in"
            return []
        ids = self._table["patient"]
        found = ids == text if (ids == text).any() else _contains(ids, text)
        rows = np.flatnonzero(found & (ids != "")).tolist() if text else []
        if rows:
            self.message = f"{_many(len(set(ids[found])), 'patient')}, {_many(len(rows), 'image')}"
            self.selection = rows
        else:
            known = sorted(set(ids) - {""})
            about = f": there are {len(known)}, such as {known[0]}" if known else ""
            self.message = f"no patient is called, or contains, {text!r}{about}" if text else ""
        return rows

    def gallery(self, rows, distances=None) -> dict:
        """What the page shows of images: cards of text, and pictures, masks and maps as bytes.

        An image that cannot be read has its error on the card.
        """
        with_maps = self.show_maps and self._heat is not None
        ahead = self._heats_at_once(rows) if with_maps else {}
        cards, pictures, masks, heats = [], [], [], []
        for i, row in enumerate(rows):
            thumb = self._thumbnail(row)
            heat, wrong = self._heat_of(row, thumb.shape, ahead) if with_maps else (b"", "")
            wrong = wrong or ("a map without any evidence" if heat and not any(heat) else "")
            pictures.append(thumb.image)
            masks.append(thumb.masks)
            heats.append(heat or bytes(SIDE * SIDE if with_maps else 0))
            card = self._card(row) | {"problem": thumb.problem or wrong, "heat": bool(heat)}
            cards.append(card if distances is None else card | {"distance": float(distances[i])})
        return {
            "cards": cards,
            "side": SIDE,
            "images": b"".join(pictures),
            "masks": b"".join(masks),
            "maps": b"".join(heats),
        }

    @traitlets.validate("selection")
    def _rows_there(self, proposal):
        rows = list(dict.fromkeys(proposal.value))
        bad = [row for row in rows if not 0 <= row < len(self._frame)]
        if bad:
            raise traitlets.TraitError(
                f"selection: row {bad[0]} is not among the rows 0..{len(self._frame) - 1}"
            )
        return rows

    @traitlets.validate("page")
    def _page_there(self, proposal):
        return int(np.clip(proposal.value, 0, max(0, len(self.selection) - 1) // self.page_size))

    @traitlets.validate("focus")
    def _focus_there(self, proposal):
        return proposal.value if 0 <= proposal.value < len(self._frame) else -1

    @traitlets.observe("selection")
    def _on_selection(self, _):
        with self.hold_sync():
            self.page = 0
            self._show_gallery(None)
            self.focus = self.selection[0] if self.selection else -1

    @traitlets.observe("page", "page_size", "show_maps")
    def _show_gallery(self, change):
        start = self.page * self.page_size
        self.gallery_shown = self.gallery(self.selection[start : start + self.page_size])
        if change and change.name == "show_maps":
            self._show_near(None)

    @traitlets.observe("focus")
    def _show_near(self, _):
        if self.focus < 0:
            self.near = {}
            return
        k = min(NEAR, len(self._frame) - 1)
        rows, far = neighbours(self._features, self.focus, k)
        on_map, _ = neighbours(self._map.points, self.focus, k)
        labels = self._table["label"]
        self.near = self.gallery([self.focus, *rows.tolist()], [0.0, *far.tolist()]) | {
            "k": k,
            "same_label": int((labels[rows] == labels[self.focus]).sum()),
            "on_map": len(set(rows) & set(on_map)),
        }

    def _hear(self, _, content, buffers):
        """A button of the page was pressed."""
        do = content.get("do")
        if do == "recompute":
            self.recompute()
        elif do == "stop":
            self.stop()
        elif do == "search":
            self.search(str(content.get("text", "")))

    # pictures and words

    def _describe(self, parts):
        n = len(self._frame)
        self.names = [str(name) for name in self._frame["image"]]
        known = list(dict.fromkeys(parts))
        self.part_names = known if len(known) > 1 else []
        self.shapes = np.array([known.index(p) % len(MARKERS) for p in parts], np.uint8).tobytes()
        if "patient" in self._table:
            self.patients = sorted(set(self._table["patient"]) - {""})[:500]
        about = ("label", "prediction", "probability", "patient", "part", "site", "severity")
        facts, codes = [], []
        for name in (a for a in about if a in self._table):
            code, values = pd.factorize(self._words[name])
            facts.append({"name": name, "values": values.tolist()})
            codes.append(code.astype(np.uint32))
        self.facts = facts
        self.fact_codes = np.concatenate(codes).tobytes() if n else b""

    def _card(self, row) -> dict:
        about = ("label", "prediction", "probability", "correctness", "patient", "part")
        words = {name: self._words[name].iat[row] for name in about if name in self._words}
        return {"row": int(row), "name": self.names[row], **words}

    def _thumbnail(self, row) -> _Thumbnail:
        if row not in self._thumbs:
            while len(self._thumbs) >= _KEPT:
                self._thumbs.pop(next(iter(self._thumbs)))
            self._thumbs[row] = self._drawn(row)
        return self._thumbs[row]

    def _drawn(self, row) -> _Thumbnail:
        if self._image is None:
            return _Thumbnail(b"", b"", (SIDE, SIDE))
        try:
            image = _unit(self._image(row))
            return _Thumbnail(grey_bytes(_fitted(image)), self._bits(row, image.shape), image.shape)
        except Exception as error:  # one bad file must not hide the others
            blank = bytes(SIDE * SIDE)
            return _Thumbnail(blank, blank, (SIDE, SIDE), str(error) or type(error).__name__)

    def _bits(self, row, shape) -> bytes:
        """Masks of an image, a bit for each in the order of `mask_legend`."""
        out = np.zeros((SIDE, SIDE), np.uint8)
        for name, mask in (self._mask(row) if self._mask else {}).items():
            if name not in self._mask_names:
                self._mask_names.append(name)
                self.mask_legend = [list(c) for c in _mask_colours(self._mask_names).items()]
            bit = self._mask_names.index(name)
            if bit > 7:
                raise ValueError(f"masks: {bit + 1} kinds are too many to show, 8 at most")
            shown = _fitted(resize_mask(np.asarray(mask).astype(bool), shape)) >= 0.5
            out |= shown.astype(np.uint8) << bit
        return out.tobytes()

    def _heats_at_once(self, rows) -> dict:
        """Maps that are not there yet: a network makes many in little more time than one."""
        missing = [row for row in rows if row not in self._heats]
        if not hasattr(self._heat, "many") or len(missing) < 2:
            return {}
        try:
            return dict(zip(missing, self._heat.many(missing), strict=True))
        except Exception:  # one by one it shows which of them cannot be made
            return {}

    def _heat_of(self, row, shape, ahead) -> tuple[bytes, str]:
        if row not in self._heats:
            try:
                heat = _unit(ahead[row] if row in ahead else self._heat(row))
                while len(self._heats) >= _KEPT:
                    self._heats.pop(next(iter(self._heats)))
                self._heats[row] = grey_bytes(_fitted(resize(heat, shape)))
            except Exception as error:
                return b"", f"no map: {error}"
        return self._heats[row], ""

    def static(self):
        """A matplotlib Figure of the map as coloured, with thumbnails of the selection.

        Where nothing is selected, images from all over the map are shown.
        """
        figure, ax = subplots(figsize=(7, 5.2))
        found, made = self._colours(), self._map
        parts = np.frombuffer(self.shapes, np.uint8)
        shown = ~np.isin(found.codes, self.muted)
        rgb = np.array(found.colours + [_GREY])[np.minimum(found.codes, len(found.colours))]
        for i, name in enumerate(self.part_names or [""]):
            of = shown & (parts == i % len(MARKERS))
            ax.scatter(*made.points[of].T, s=18, c=rgb[of], marker=MARKERS[i % 5], lw=0, label=name)
        trust = f"trustworthiness {made.facts['trustworthiness']:.2f} (k = {made.facts['k']})"
        ax.set_title(f"{made.facts['title']}: n = {len(made.points):,}, {trust}", fontsize=10)
        ax.set(xlabel=made.axes[0], ylabel=made.axes[1], xticks=[], yticks=[], aspect="equal")
        _draw_legend(ax, found.legend, self.part_names)
        if self._image is not None:
            rows = self.selection[:NEAR] or _spread(made.points, np.flatnonzero(shown))
            self._draw_thumbnails(figure, ax, rows)
        return figure

    def _draw_thumbnails(self, figure, ax, rows):
        strip = figure.add_gridspec(2, len(rows) or 1, height_ratios=(5, 1.3))
        ax.set_subplotspec(strip[0, :])
        for i, row in enumerate(rows):
            inner = figure.add_subplot(strip[1, i])
            picture = np.frombuffer(self._thumbnail(row).image, np.uint8).reshape(SIDE, SIDE)
            inner.imshow(picture, cmap="gray", vmin=0, vmax=255)
            inner.set_title(f"{i + 1} {self._table['label'].iat[row]}", fontsize=7)
            inner.set_axis_off()
            at = self._map.points[row]
            ax.scatter(*at, s=60, facecolors="none", edgecolors="black", linewidths=1.2)
            ax.annotate(
                str(i + 1), at, (4, 4), textcoords="offset points", fontsize=9, weight="bold"
            )


class _Seen:
    """Pictures, masks and saliency maps of datasets as a learner's network sees them, row by row."""

    def __init__(self, learn, datasets):
        from covidlab.training import loader_for

        self.learn, self.datasets = learn, datasets
        self.items = [loader_for(learn.dls, data).dataset for data in datasets]
        self.ends = np.cumsum([len(data) for data in datasets])

    def _where(self, row):
        part = int(np.searchsorted(self.ends, row, side="right"))
        return part, row - (int(self.ends[part - 1]) if part else 0)

    def image(self, row):
        part, i = self._where(row)
        items = self.items[part]
        return items.prepared.grey[items.rows[i]]

    def mask(self, row):
        part, i = self._where(row)
        recipe = self.learn.dls.recipe
        return {
            name: resize_mask(mask, recipe.size, recipe.fit)
            for name, mask in _masks_of(self.datasets[part], i).items()
        }

    def saliency(self, method):
        """A function row → (H, W); its `many` makes the maps of several rows."""
        from covidlab.explain.maps import saliency

        def many(rows):
            places, found = [self._where(row) for row in rows], {}
            for part in sorted({part for part, _ in places}):
                at = [i for p, i in places if p == part]
                maps = saliency(self.learn, self.datasets[part], method, rows=at)
                found |= {(part, i): each for i, each in zip(at, maps, strict=True)}
            return [found[place] for place in places]

        def one(row):
            return many([row])[0]

        one.many = many
        return one


_SAID = {"perplexity": "perplexity", "n_neighbours": "neighbours", "min_dist": "least distance"}


def _check(features, frame, predictions, methods):
    missing = [c for c in ("image", "label") if c not in frame]
    if missing:
        raise ValueError(f"frame has no column {missing[0]!r}, only {list(frame.columns)}")
    if len(features) != len(frame):
        raise ValueError(f"features of {len(features)} images but a frame of {len(frame)} rows")
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise ValueError(f"methods={methods!r}: name one or more of {', '.join(METHODS)}")
    if predictions is None:
        return
    if len(predictions) != len(frame):
        raise ValueError(f"predictions of {len(predictions)} images but {len(frame)} rows")
    names = predictions.frame.get("image")
    if names is not None and (names.to_numpy() != frame["image"].to_numpy()).any():
        at = int(np.argmax(names.to_numpy() != frame["image"].to_numpy()))
        raise ValueError(
            f"predictions and frame name different images in row {at}, {names[at]!r} and "
            f"{frame['image'][at]!r}: bring them into one order"
        )


def _table(frame, predictions, parts) -> pd.DataFrame:
    """What can be coloured by and said of each image, known columns first, numbers as numbers."""
    found = {"label": frame["label"]}
    if predictions is not None:
        classes = np.array(predictions.classes)
        found["prediction"] = classes[predictions.predicted]
        found["correctness"] = np.where(predictions.predicted == predictions.truth, *_RIGHT)
        found["probability"] = predictions.probabilities.max(1)
        if predictions.positive is not None:
            found[f"probability of {predictions.positive}"] = predictions.score
    if len(set(parts)) > 1:
        found["part"] = parts
    if "patient_id" in frame:
        found["patient"] = frame["patient_id"]
    for name in frame.columns:
        if name not in found and name not in _PATHS and not name.endswith("_mask"):
            found[name] = frame[name]
    return pd.DataFrame({name: _typed(pd.Series(v), name) for name, v in found.items()})


def _typed(values: pd.Series, name) -> pd.Series:
    """Numbers where a column holds fractions or more than 8 of them, else text, "" where unknown."""
    values = values.reset_index(drop=True)
    text = values.astype(object).where(values.notna(), "").astype(str)
    if name in _CLASSES or pd.api.types.is_bool_dtype(values):
        return text
    there = ~text.str.lower().isin(("", "nan"))
    numbers = pd.to_numeric(text.where(there), errors="coerce").astype(float)
    numbers = numbers.where(np.isfinite(numbers))
    many = numbers.nunique() > 8 or (numbers.dropna() % 1 != 0).any()
    return numbers if many and numbers.notna().sum() == there.sum() else text


def _choices(table) -> list[str]:
    names = []
    for name, values in table.items():
        number = values.dtype.kind == "f"
        different = values.dropna().nunique() if number else len(set(values) - {""})
        few = number or different <= _MOST_CLASSES or name in _CLASSES
        if name in _ALWAYS or (different > 1 and few):
            names.append(name)
    return names


def _coloured(values: pd.Series, name: str) -> _Colours:
    if values.dtype.kind == "f":
        return _scaled(values.to_numpy(), name)
    known = sorted(set(values) - {""})
    unknown = int((values == "").sum())
    if len(known) > len(_CYCLE):
        codes = values.map(lambda v: _UNKNOWN if v == "" else zlib.crc32(v.encode()) % len(_CYCLE))
        note = (
            f"{len(known):,} different values in {len(_CYCLE)} colours, each by a hash of its name: "
            "equal colours need not be equal values"
        )
        legend = {"kind": "many", "colours": _CYCLE, "note": note}
        return _Colours(codes.to_numpy(np.uint8), _CYCLE, legend)
    colours = _RIGHT if name == "correctness" else palette(known)
    order = {value: i for i, value in enumerate(known)}
    codes = values.map(order).fillna(_UNKNOWN).to_numpy(np.uint8)
    counts = values.value_counts()
    entries = [
        {"code": i, "name": v, "colour": colours[v], "n": int(counts[v])} for v, i in order.items()
    ]
    if unknown:
        entries.append({"code": _UNKNOWN, "name": "unknown", "colour": _GREY, "n": unknown})
    legend = {"kind": "classes", "entries": entries, "colours": [colours[v] for v in known]}
    return _Colours(codes, legend["colours"], legend)


def _scaled(values: np.ndarray, name: str) -> _Colours:
    there = np.isfinite(values)
    low, high = (float(f(values[there])) for f in (np.min, np.max))
    codes = np.full(len(values), _UNKNOWN, np.uint8)
    codes[there] = np.rint(254 * (values[there] - low) / ((high - low) or 1))
    colours = ["#{:02x}{:02x}{:02x}".format(*c) for c in colour_table("viridis")[:255]]
    unit = UNITS.get(name, "0 to 1" if name.startswith("probability") else "")
    missing = int((~there).sum())
    legend = {
        "kind": "scale",
        "colours": colours,
        "low": low,
        "high": high,
        "unit": unit,
        "note": f"{_many(missing, 'image')} without a value in grey" if missing else "",
    }
    return _Colours(codes, colours, legend)


def _reader(source, n, name) -> Callable | None:
    """A function of a row, from an array, a function or a Dataset."""
    if source is None or callable(source):
        return source
    if len(source) != n:
        raise ValueError(f"{name} of {len(source)} images but {n} rows")
    return source.image if isinstance(source, Dataset) else lambda row: source[row]


def _mask_reader(source, n) -> Callable | None:
    if source is None:
        return None
    if isinstance(source, Dataset):
        if len(source) != n:
            raise ValueError(f"masks of {len(source)} images but {n} rows")
        return lambda row: _masks_of(source, row)
    read = _reader(source, n, "masks")

    def named(row):
        found = read(row)
        if found is None:
            return {}
        return dict(found) if isinstance(found, Mapping) else {"infection_mask": found}

    return named


def _masks_of(dataset: Dataset, row: int) -> dict[str, np.ndarray]:
    found = {column: dataset.mask(row, column) for column in MASKS}
    return {column: mask for column, mask in found.items() if mask is not None}


def _mask_colours(names) -> dict[str, str]:
    rest = palette(n for n in names if n not in MASK_COLOURS)
    return {n.removesuffix("_mask"): MASK_COLOURS.get(n) or rest[n] for n in names}


def _unit(image) -> np.ndarray:
    """(H, W) float32; bytes become 0..1."""
    image = np.asarray(image)
    return image / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


def _fitted(image) -> np.ndarray:
    """(H, W) as a thumbnail, black around it where it is no square."""
    return resize(image, SIDE, "pad")


def _said(table) -> pd.DataFrame:
    """The values of a table in words."""

    def words(values):
        if values.dtype.kind != "f":
            return values.replace("", "unknown")
        digits = ".2f" if values.name.startswith("probability") else ".3g"
        return values.map(lambda v: "unknown" if np.isnan(v) else format(v, digits))

    return table.apply(words)


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _contains(values: pd.Series, text: str) -> pd.Series:
    return values.str.contains(text, case=False, regex=False)


def _spread(points, rows, n: int = NEAR) -> list[int]:
    """Rows from all over a map: each the farthest from those before it, the first in the middle."""
    if not len(rows):
        return []
    at = points[rows]
    far = np.linalg.norm(at - at.mean(0), axis=1)
    chosen = [int(far.argmin())]
    far = np.full(len(rows), np.inf)
    while len(chosen) < min(n, len(rows)):
        far = np.minimum(far, np.linalg.norm(at - at[chosen[-1]], axis=1))
        chosen.append(int(far.argmax()))
    return [int(rows[i]) for i in chosen]


def _draw_legend(ax, legend, part_names):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    def mark(name, colour="0.3", marker="o"):
        return Line2D([], [], ls="", marker=marker, color=colour, label=name)

    marks = [mark(f"{e['name']} ({e['n']:,})", e["colour"]) for e in legend.get("entries", [])]
    marks += [mark(name, marker=MARKERS[i % 5]) for i, name in enumerate(part_names)]
    if marks:
        ax.legend(handles=marks, fontsize=8, loc="best")
    if legend["kind"] == "scale":
        scale = ScalarMappable(Normalize(legend["low"], legend["high"]), "viridis")
        ax.figure.colorbar(scale, ax=ax, label=legend["unit"], shrink=0.8)
    elif legend["kind"] == "many":
        ax.text(0, -0.04, legend["note"], transform=ax.transAxes, fontsize=7, va="top")
