"""What a network looks at, image by image; how much of it lies where it should; and is it to be believed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import traitlets

from covidlab._figures import palette, subplots
from covidlab.datasets.figures import MASK_COLOURS
from covidlab.datasets.manifest import MASKS, Dataset
from covidlab.datasets.readers import SUFFIXES, ImageError, image_size, read_image
from covidlab.explain.faithfulness import (
    Faithfulness,
    forgetting,
    insertion_deletion,
    similarity,
)
from covidlab.explain.maps import (
    METHODS,
    WEIGHTINGS,
    _default_layer,
    heat_share,
    layers,
    overlay,
    pointing_game,
    saliency,
)
from covidlab.imaging import prepared, resize, resize_mask

from .base import _HERE, Background, Widget, colour_table, grey_bytes, script

AT_ONCE = 4  # maps beside the image
BUDGETED = ("scorecam", "ablationcam")  # a forward pass for each channel
STEPS = 50  # of the curves of insertion and deletion
STAGES = 4  # at which new weights are looked at
OTHERS = 4  # other images whose maps show how alike maps are anyway
RANDOM = "random order"
LIMIT = 25 << 20  # bytes of an upload
MOST_PIXELS = 50_000_000
FILTERS = ("all", "wrong", "right")

_COLOURS = {"lung": MASK_COLOURS["lung_mask"], "infection": MASK_COLOURS["infection_mask"]}
_COLOURS |= {"lesion": _COLOURS["infection"], "predicted": "#009e73"}
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of the methods, by their place
_KEPT_BYTES = 64 << 20
_one_at_a_time = threading.Lock()  # a map needs hooks on its network, and all cores


class _Superseded(Exception):
    """A newer question, or the stop button, has made this run useless."""


@dataclass
class _Entry:
    """An image to choose: what is known of it, and where the rest comes from."""

    name: str
    picture: Callable[[], np.ndarray]
    masks: Callable[[], dict[str, np.ndarray]] = dict
    label: str = ""
    answer: np.ndarray | None = None  # probabilities (C,) or (C, H, W)
    maps: Mapping[str, np.ndarray] | None = None  # where there is no network
    kinds: tuple[str, ...] = ()  # of masks that there are in its dataset


@dataclass(frozen=True)
class _Asked:
    """A question: maps of which image, how made, of which class (−1 is the predicted one)."""

    row: int
    methods: tuple[str, ...]
    layer: str
    target: int
    channels: int
    weighting: str


@dataclass(frozen=True)
class Belief:
    """Whether the maps of an image can be believed.

    `curves` by method, and for pixels in random order: what any map must beat. `check` has a row
    for each method and stage of new weights, with the columns of `explain.randomisation_check`;
    `maps` the maps (stages, H, W) themselves, the trained network's first. `between` is how alike
    the map is to those of other images; None where there are none.
    """

    target: str
    curves: dict[str, Faithfulness]
    check: pd.DataFrame
    maps: dict[str, np.ndarray]
    between: dict[str, dict | None]
    layers: int


class MapViewer(Background, Widget):
    """Images with class activation maps over them: of which class, from which layer, by which method.

    Beside each share of a map's heat inside a mask stands the mask's share of the area, which is
    what heat spread evenly would give. On request the maps are questioned: insertion and deletion
    curves, and maps of networks with new weights. Images are shown as the network sees them. Maps
    are made in the background; one of a question that is no longer asked is dropped.

    Parameters
    ----------
    learn : a Learner from `training.learner`, a classifier or a segmenter. The network is copied:
        training it further changes nothing here.
    dataset : its rows, of which `rows` (as in `Dataset.where`) may choose some.
    methods : up to four keys of `explain.METHODS`, shown at first; all are offered.
    layer : a name in `explain.layers`; None for the default of `explain.saliency`.
    target : the class explained, by name or number; None for the predicted class, of a segmenter
        for the first region.
    predictions : `Predictions` of the rows; made where not given.
    channels : the budget of Score-CAM and Ablation-CAM, which take a forward pass for each channel:
        only the so many strongest. 0 takes all.
    weighting : of Score-CAM, as in `explain.saliency`.
    traits : how it starts: `row`, `only` ("all", "wrong", "right"), `opacity`, `outlines` (names of
        masks), `large`.

    A picture can be uploaded from the page, or by `upload`. It goes to the kernel of the page alone;
    its file is deleted when it is read.

    Raises ValueError for unknown names, more than four methods, or a dataset of other classes.
    """

    _esm = script("maps")
    _css = Widget._css + (_HERE / "maps.css").read_text("utf-8")

    row = traitlets.Int(0, help="which image").tag(sync=True)
    only = traitlets.Enum(FILTERS, "all").tag(sync=True)
    listed = traitlets.List(traitlets.Int(), help="rows that `only` lets through").tag(sync=True)
    items = traitlets.List(help="name, label, said and right of each image").tag(sync=True)
    methods_on = traitlets.List(traitlets.Unicode()).tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    target = traitlets.Int(-1, help="the class explained; −1 is the predicted one").tag(sync=True)
    channels = traitlets.Int(32, min=0, help="0 is all").tag(sync=True)
    weighting = traitlets.Enum(WEIGHTINGS, "softmax").tag(sync=True)
    opacity = traitlets.Float(0.6, min=0, max=1).tag(sync=True)
    outlines = traitlets.List(traitlets.Unicode(), help="masks that are outlined").tag(sync=True)

    about = traitlets.Dict(help="what stays as it is").tag(sync=True)
    shown = traitlets.Dict(help="image, maps and numbers").tag(sync=True)
    belief = traitlets.Dict(help="curves and check of what is shown, once asked for").tag(sync=True)
    running = traitlets.Dict(help="text, done and total of what is computed").tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        learn,
        dataset: Dataset,
        rows=None,
        methods=("gradcam", "scorecam"),
        layer: str | None = None,
        target: str | int | None = None,
        *,
        predictions=None,
        **traits,
    ):
        self._entries = dataset if learn is None else _seen(learn, dataset, rows, predictions)
        self._n_given = len(self._entries)
        self._network = None if learn is None else _Network(learn)
        self._offered = dict(METHODS)
        if self._network is None:
            self._offered = {name: name for name in self._entries[0].maps}
        else:
            layer = self._network.layer if layer is None else layer
            target = self._network.class_number(target)
        self._known: dict[tuple, np.ndarray] = {}
        self._failed: dict[tuple, str] = {}
        self._beliefs: dict[_Asked, Belief] = {}
        self._masks: tuple[int, dict] = -1, {}
        self._error, self._doing = None, (0, None, False, None)
        self._listen()
        self._arriving = bytearray()
        self._ready = False
        about = self._about()
        state = {"outlines": list(about["masks"]), "target": -1 if target is None else target}
        super().__init__(
            **{**state, **traits},
            methods_on=list(methods),
            layer=layer or "",
            about=about,
            items=[self._item(entry) for entry in self._entries],
        )
        self._ready = True
        self._list()
        self.refresh()
        self.on_msg(self._hear)

    @classmethod
    def from_arrays(cls, images, maps, masks=None, titles=None, **traits) -> MapViewer:
        """Images (H, W) in [0, 1] with maps that are there already: no network, nothing to compute.

        `maps` is {name: (N, h, w) in [0, 1]}, of which the first four are shown at first; `masks`
        {name: N bool masks (H, W), or None for an image without}, such as "lung" and "infection";
        `titles` a name for each image. Raises ValueError for what does not fit.
        """
        entries = _given(images, maps, masks or {}, titles)
        return cls(None, entries, methods=list(maps)[:AT_ONCE], **traits)

    def __len__(self) -> int:
        return len(self._entries)

    # ---- the core ------------------------------------------------------------------------------

    def maps_of(self, row: int | None = None, methods=None) -> dict[str, np.ndarray]:
        """{method: (H, W) float32 in [0, 1]} of an image, by default what is shown; made if need be."""
        asked = self._asked(row, methods)
        with self._alone():
            return {method: self._map(asked, method) for method in asked.methods}

    def shares(self, row: int | None = None, methods=None) -> dict[str, dict[str, dict]]:
        """{method: {mask: {"heat", "area", "peak"}}}, in [0, 1], NaN where not defined.

        `heat` is `explain.heat_share`, `area` the mask's share of the image, `peak` the
        `explain.pointing_game`: 1 where the highest pixel lies inside.
        """
        row = self.row if row is None else row
        maps = self.maps_of(row, methods)
        masks = self._masks_of(row)
        return {method: _shares(heat, masks) for method, heat in maps.items()}

    def believe(self, wait: bool = False) -> Belief | None:
        """Whether the maps shown can be believed, found out in the background.

        Insertion and deletion of Petsiuk et al. 2018 (`explain.insertion_deletion`), and the
        network's weights drawn anew from the last layer on, Adebayo et al. 2018
        (`explain.randomisation_check`), at four stages. With `wait` the answer is returned, and
        what goes wrong is raised.
        """
        if self._network is None:
            raise ValueError("maps without a network cannot be questioned: use MapViewer(learn, …)")
        return self._start(True, wait)

    def refresh(self, wait: bool = False):
        """Makes what is missing of the maps shown, in the background; with `wait` they are there."""
        self._start(False, wait)

    def stop(self):
        """Gives up what is being computed."""
        with self._lock, self.hold_sync():
            self._ticket += 1
            self.running = {}
            self._show()

    def upload(self, data: bytes, name: str) -> int:
        """A picture from a file's bytes, shown like the others but without truth; its row.

        PNG, JPEG, BMP, TIFF or DICOM, read by `datasets.readers.read_image`, at most 25 MiB.
        Raises ImageError, naming the file.
        """
        if self._network is None:
            raise ValueError("without a network there is nothing to say of an upload")
        name = str(name)[-120:] or "upload"
        picture = self._network.seen(_decoded(data, name))
        self._entries.append(_Entry(name, lambda: picture))
        with self.hold_sync():
            self.problem = ""
            self.items = [*self.items, self._item(self._entries[-1])]
            self.only = "all"
            self._list()
            self.row = len(self) - 1
        return self.row

    # ---- what is asked -------------------------------------------------------------------------

    @traitlets.validate("row")
    def _checked_row(self, proposal) -> int:
        if not 0 <= proposal.value < len(self):
            raise traitlets.TraitError(f"row={proposal.value}; there are 0 to {len(self) - 1}")
        return proposal.value

    @traitlets.validate("methods_on")
    def _checked_methods(self, proposal) -> list[str]:
        try:
            return list(self._ordered(proposal.value))
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from None

    @traitlets.validate("layer")
    def _checked_layer(self, proposal) -> str:
        if self._network is not None and proposal.value not in self._network.layers:
            some = ", ".join(list(self._network.layers)[-8:])
            raise traitlets.TraitError(f"layer={proposal.value!r} gives no maps; the last: {some}")
        return proposal.value

    @traitlets.validate("target")
    def _checked_target(self, proposal) -> int:
        network = self._network
        if network is not None:
            least = 0 if network.segmenter else -1
            if not least <= proposal.value < len(network.classes):
                raise traitlets.TraitError(
                    f"target={proposal.value}: the classes are 0 … {len(network.classes) - 1}"
                )
        return proposal.value

    @traitlets.validate("outlines")
    def _checked_outlines(self, proposal) -> list[str]:
        known = list(self._mask_colours())
        if unknown := [name for name in proposal.value if name not in known]:
            raise traitlets.TraitError(f"outlines: {unknown[0]!r} is none of {known}")
        return proposal.value

    def _ordered(self, methods) -> tuple[str, ...]:
        methods = set(methods)
        if unknown := sorted(methods - set(self._offered)):
            raise ValueError(f"method {unknown[0]!r} is none of {', '.join(self._offered)}")
        if len(methods) > AT_ONCE:
            raise ValueError(f"{len(methods)} methods: {AT_ONCE} at most are shown at once")
        return tuple(name for name in self._offered if name in methods)

    def _asked(self, row=None, methods=None) -> _Asked:
        row = self.row if row is None else row
        if not 0 <= row < len(self):
            raise IndexError(f"row={row}; there are 0 to {len(self) - 1}")
        methods = self._ordered(self.methods_on if methods is None else methods)
        return _Asked(row, methods, self.layer, self.target, self.channels, self.weighting)

    def _key(self, asked, method) -> tuple | None:
        """What a map depends on; None while it is not known which class is predicted."""
        entry, network = self._entries[asked.row], self._network
        if network is None:
            return asked.row, method
        if entry.answer is None:
            return None
        number = None if method == "eigencam" else self._class_of(asked)
        budget = self._budget(asked) if method in BUDGETED else None
        weighting = asked.weighting if method == "scorecam" else None
        return asked.row, method, asked.layer, number, budget, weighting

    def _class_of(self, asked) -> int:
        answer = self._entries[asked.row].answer
        return int(answer.argmax()) if asked.target < 0 else asked.target

    def _budget(self, asked) -> int:
        """How many channels are looked at."""
        total = self._network.layers[asked.layer][0]
        return min(asked.channels or total, total)

    # ---- computing -----------------------------------------------------------------------------

    @contextmanager
    def _alone(self, stale: Callable[[], bool] = lambda: False):
        """Inside, the network is ours alone, and gives up where what it does has become stale."""
        with _one_at_a_time:
            if self._network is not None:
                self._network.watch.stale = stale
            yield

    def _map(self, asked, method) -> np.ndarray:
        if self._network is None:
            return self._entries[asked.row].maps[method]
        self._answer(asked.row)
        key = self._key(asked, method)
        if key not in self._known:
            made = self._network.saliency(self._x(asked), self._options(asked, method))
            while len(self._known) * made.nbytes > _KEPT_BYTES:
                self._known.pop(next(iter(self._known)))
            self._known[key] = made
        return self._known[key]

    def _answer(self, row) -> np.ndarray:
        entry = self._entries[row]
        if entry.answer is None:
            entry.answer = self._network.answer(self._network.tensor(entry.picture()))
        return entry.answer

    def _x(self, asked):
        return self._network.tensor(self._entries[asked.row].picture())

    def _about_class(self, asked) -> dict:
        """The class explained, and for a segmenter where."""
        if self._network.segmenter:
            return {"target": [self._class_of(asked)], "region": [self._region(asked)]}
        return {"target": [self._class_of(asked)]}

    def _options(self, asked, method) -> dict:
        options = {"method": method, "layer": asked.layer, **self._about_class(asked)}
        if method in BUDGETED:
            options["channels"] = self._budget(asked)
        if method == "scorecam":
            options["weighting"] = asked.weighting
        return options

    def _region(self, asked) -> np.ndarray:
        """(H, W) bool: where a segmenter sees the class."""
        return self._entries[asked.row].answer.argmax(0) == self._class_of(asked)

    def _start(self, believe: bool, wait: bool) -> Belief | None:
        with self._lock:
            asked = self._asked()
            ticket, doing, more, run = self._doing
            going = run is not None and run.is_alive() and ticket == self._ticket
            if not (going and doing == asked and more >= believe):
                run = self._started(asked, believe)
        if wait and run is not None:
            run.join()
            self._hear_events()
            if self._error:
                raise self._error
        return self._beliefs.get(asked)

    def _started(self, asked, believe) -> threading.Thread | None:
        """A new run, which makes the one before useless; None where all is known."""
        self._ticket, self._error = self._ticket + 1, None
        known = self._network is None or self._is_known(asked, believe)
        with self.hold_sync():
            self.problem = ""
            self.running = {} if known else {"text": "waiting", "done": 0, "total": 1}
            self._show()
        run = None
        if not known:
            run = threading.Thread(
                target=self._run, args=(self._ticket, asked, believe), daemon=True
            )
            run.start()
        self._doing = self._ticket, asked, believe, run
        return run

    def _is_known(self, asked, believe) -> bool:
        if self._entries[asked.row].answer is None or (believe and asked not in self._beliefs):
            return False
        return all(self._key(asked, method) in self._known for method in asked.methods)

    def _run(self, ticket, asked, believe):
        def stale():
            return ticket != self._ticket

        total, done = self._tasks(asked, believe), iter(range(10**6))

        def tell(text):
            if stale():
                raise _Superseded
            self._report(ticket, "progress", {"text": text, "done": next(done), "total": total})

        try:
            with self._alone(stale):
                tell("prediction")
                self._answer(asked.row)
                made = tuple(m for m in asked.methods if self._made(ticket, asked, m, tell))
                if believe:
                    believed = self._believed(replace(asked, methods=made), tell)
                    self._report(ticket, "belief", (asked, believed))
        except _Superseded:
            pass
        except Exception as error:
            self._report(ticket, "error", error)
        else:
            self._report(ticket, "done", None)

    def _tasks(self, asked, believe) -> int:
        each = 1 + (1 + STAGES + len(self._others(asked)) if believe else 0)
        return 1 + believe + each * len(asked.methods)

    def _made(self, ticket, asked, method, tell) -> bool:
        """Whether there is a map now; one that cannot be made has its reason where it would stand."""
        tell(METHODS[method])
        key = self._key(asked, method)
        try:
            self._map(asked, method)
        except _Superseded:
            raise
        except Exception as error:
            self._failed[key] = str(error) or type(error).__name__
        else:
            self._failed.pop(key, None)
        self._report(ticket, "map", None)
        return key not in self._failed

    def _believed(self, asked, tell) -> Belief:
        x, about = self._x(asked), self._about_class(asked)
        if "region" in about and not about["region"][0].any():
            name = self._class_name(asked)
            raise ValueError(f"no pixel is predicted as {name}: there is no map to test")
        maps = {method: self._map(asked, method) for method in asked.methods}
        curves = {}
        for name, heat in (maps | {RANDOM: np.zeros(x.shape[-2:], np.float32)}).items():
            tell(f"insertion and deletion, {METHODS.get(name, name)}")
            curves[name] = insertion_deletion(
                self._network.as_learner, x, heat[None], steps=STEPS, **about
            )
        check, stages, n_layers = self._randomised(asked, x, maps, tell)
        between = {}
        for method, own in maps.items():
            others = []
            for row in self._others(asked):
                tell(f"maps of other images, {METHODS[method]}")
                others.append(self._map(replace(asked, row=row), method))
            between[method] = similarity([own] * len(others), others) if others else None
        return Belief(self._class_name(asked), curves, check, stages, between, n_layers)

    def _randomised(self, asked, x, maps, tell) -> tuple[pd.DataFrame, dict[str, np.ndarray], int]:
        """As `explain.randomisation_check` for each method, and the maps that it compares."""
        table, stages = [], {method: [heat] for method, heat in maps.items()}
        for renewed, layer, random in forgetting(self._network.net, x, STAGES):
            for method, trained in maps.items():
                if renewed:
                    tell(f"{METHODS[method]} with new weights from the last layer to {layer}")
                    again = self._network.saliency(x, self._options(asked, method), random)
                    stages[method].append(again)
                alike = similarity([trained], [stages[method][-1]])
                table.append({"method": method, "layer": layer, "renewed": renewed, **alike})
        return pd.DataFrame(table), {m: np.stack(s) for m, s in stages.items()}, renewed

    def _others(self, asked) -> list[int]:
        """Rows spread over the images, without the one at hand and uploads."""
        rows = [row for row in range(self._n_given) if row != asked.row]
        picked = np.linspace(0, len(rows) - 1, min(OTHERS, len(rows))).round().astype(int)
        return [rows[i] for i in picked]

    def _heard(self, kind, value, current):
        if kind == "belief":  # even where no one waits for it any more
            while len(self._beliefs) >= 8:
                self._beliefs.pop(next(iter(self._beliefs)))
            self._beliefs[value[0]] = value[1]
        if not current:
            return
        if kind == "progress":
            self.running = value
            return
        if kind in ("done", "error"):
            self.running, self._error = {}, value
        self._show()
        if kind == "error":
            self.problem = str(value) or type(value).__name__

    # ---- what the browser gets -----------------------------------------------------------------

    @traitlets.observe("row", "methods_on", "layer", "target", "channels", "weighting")
    def _follow(self, change):
        if not self._ready:
            return
        with self.hold_sync():
            if change.name == "row" and self.listed and self.row not in self.listed:
                self.only = "all"
            self.refresh()

    @traitlets.observe("only")
    def _list(self, _=None):
        if not self._ready:
            return
        right = {"wrong": False, "right": True}.get(self.only)
        with self.hold_sync():
            self.listed = [
                row
                for row, item in enumerate(self.items)
                if self.only == "all" or item["right"] is right
            ]
            if self.listed and self.row not in self.listed:
                self.row = self.listed[0]

    def _hear(self, _, content, buffers):
        """A button of the page was pressed, or a part of an upload has come."""
        do = content.get("do")
        if do == "believe":
            self.believe()
        elif do == "stop":
            self.stop()
        elif do == "upload":
            try:
                self._receive(content, buffers)
            except ValueError as error:
                self._arriving = bytearray()
                self.problem = str(error)

    def _receive(self, content, buffers):
        """Uploads come in parts: a message of more than 10 MiB ends the connection of the page."""
        name, at, size = (content.get(key) for key in ("name", "at", "size"))
        if not (isinstance(name, str) and isinstance(at, int) and isinstance(size, int)):
            raise ImageError("an upload without name, place and size")
        _check_size(size, name)
        if at == 0:
            self._arriving = bytearray()
        if at != len(self._arriving):
            raise ImageError(f"{name}: a part of the upload is missing; choose the file again")
        self._arriving += b"".join(bytes(part) for part in buffers)
        if len(self._arriving) < size:
            return
        data, self._arriving = bytes(self._arriving), bytearray()
        self.upload(data, name)

    def _about(self) -> dict:
        network = self._network
        return {
            "methods": [[key, name] for key, name in self._offered.items()],
            "most": AT_ONCE,
            "masks": self._mask_colours(),
            "colours": colour_table("magma").ravel().tolist(),
            "network": network is not None,
            "segmenter": bool(network and network.segmenter),
            "classes": network.classes if network else [],
            "layers": [[name, *size] for name, size in network.layers.items()] if network else [],
            "budgeted": BUDGETED,
            "weightings": WEIGHTINGS,
            "judged": bool(network) and not network.segmenter,
            "limit": LIMIT,
        }

    def _mask_colours(self) -> dict[str, str]:
        if self._network is None:
            names = dict.fromkeys(name for entry in self._entries for name in entry.masks())
        else:
            names = dict.fromkeys(self._entries[0].kinds)
            names |= dict.fromkeys(["predicted"] * self._network.segmenter)
        rest = palette(name for name in names if name not in _COLOURS)
        return {name: _COLOURS.get(name) or rest[name] for name in names}

    def _item(self, entry) -> dict:
        item = {"name": entry.name, "label": entry.label, "said": "", "right": None}
        if self._network is None or self._network.segmenter or entry.answer is None:
            return item
        said = self._network.classes[int(entry.answer.argmax())]
        return item | {"said": said, "right": said == entry.label if entry.label else None}

    def _masks_of(self, row) -> dict[str, np.ndarray]:
        """Masks of an image, with what a segmenter predicts once that is known."""
        of, masks = self._masks
        if of != row:
            masks = self._entries[row].masks()
            self._masks = row, masks
        masks = dict(masks)
        if self._network is not None and self._network.segmenter:
            if self._entries[row].answer is not None:
                masks["predicted"] = self._region(self._asked(row))
        return masks

    def _show(self):
        asked = self._asked()
        entry = self._entries[asked.row]
        picture = _grey(entry.picture())
        try:
            masks = self._masks_of(asked.row)
        except (OSError, ValueError) as error:
            masks, self.problem = {}, f"{entry.name}: {error}"
        self.items = self._items_now(asked.row)
        self.shown = {
            "row": asked.row,
            "name": entry.name,
            "height": picture.shape[0],
            "width": picture.shape[1],
            "image": grey_bytes(picture),
            **self._said(asked, masks),
            "outlines": {name: _outline(mask) for name, mask in masks.items()},
            "maps": [self._card(asked, method, picture, masks) for method in asked.methods],
        }
        self.belief = self._told(asked, picture) if asked in self._beliefs else {}

    def _items_now(self, row) -> list[dict]:
        item = self._item(self._entries[row])
        if item == self.items[row]:
            return self.items
        return [*self.items[:row], item, *self.items[row + 1 :]]

    def _said(self, asked, masks) -> dict:
        """Label, prediction and its probability, and the class that the maps are of."""
        entry, network = self._entries[asked.row], self._network
        said = {"label": entry.label, "prediction": "", "right": None, "target": ""}
        if network is None or entry.answer is None:
            return said
        said |= {"target": self._class_name(asked), "right": self._item(entry)["right"]}
        if network.segmenter:
            found = f"{said['target']} in {self._region(asked).mean():.1%} of the image"
            true = masks.get(said["target"])
            truth = "" if true is None else f" (truth {true.mean():.1%})"
            return said | {"prediction": found + truth}
        top = int(entry.answer.argmax())
        said["prediction"] = f"{network.classes[top]}, probability {entry.answer[top]:.3f}"
        if top != self._class_of(asked):
            of = entry.answer[self._class_of(asked)]
            said["prediction"] += f"; {said['target']} {of:.3f}"
        return said

    def _card(self, asked, method, picture, masks) -> dict:
        key = self._key(asked, method)
        card = {"key": method, "name": self._offered[method], "note": self._note(asked, method)}
        card |= {"heat": b"", "shares": {}, "problem": self._failed.get(key, "")}
        heat = self._known.get(key) if self._network else self._entries[asked.row].maps[method]
        if heat is None:
            return card
        if self._network and self._network.segmenter and not self._region(asked).any():
            card["problem"] = f"no pixel is predicted as {self._class_name(asked)}"
        elif not heat.any():
            card["problem"] = "no evidence for the class: the map is zero"
        fitted = np.clip(resize(heat, picture.shape), 0, 1)
        return card | {"heat": grey_bytes(fitted), "shares": _plain(_shares(heat, masks))}

    def _note(self, asked, method) -> str:
        """What has to be known of how a map was made."""
        if self._network is None:
            return ""
        if method == "eigencam":
            return "knows no class"
        if method not in BUDGETED:
            return ""
        total, used = self._network.layers[asked.layer][0], self._budget(asked)
        return f"{used} of {total} channels" if used < total else f"all {total} channels"

    def _class_name(self, asked) -> str:
        return self._network.classes[self._class_of(asked)]

    def _told(self, asked, picture) -> dict:
        """A belief for the page: lines to draw, stages in columns, a line of the table each method."""
        belief = self._beliefs[asked]
        names = [*belief.maps, RANDOM]
        lines = [
            {
                "key": name,
                "name": METHODS.get(name, name),
                "colour": "#777777" if name == RANDOM else _LINES[i],
                **{
                    k: getattr(belief.curves[name], k)[0].tolist()
                    for k in ("deletion", "insertion")
                },
                "deletion_area": float(belief.curves[name].deletion_area[0]),
                "insertion_area": float(belief.curves[name].insertion_area[0]),
            }
            for i, name in enumerate(names)
        ]
        check = belief.check
        stages = check.drop_duplicates("renewed")[["layer", "renewed"]].to_dict("records")
        rows = []
        for method, heats in belief.maps.items():
            own = check[check["method"] == method]
            heats = [np.clip(resize(heat, picture.shape), 0, 1) for heat in heats]
            rows.append(
                {
                    "key": method,
                    "name": METHODS[method],
                    "cells": own[["spearman", "ssim"]].to_dict("records"),
                    "between": belief.between[method],
                    "heat": b"".join(grey_bytes(heat) for heat in heats),
                }
            )
        said = {"target": belief.target, "layers": belief.layers, "stages": stages, "rows": rows}
        return _plain({**said, "fractions": np.linspace(0, 1, STEPS + 1).tolist(), "lines": lines})

    # ---- without a browser ---------------------------------------------------------------------

    def static(self):
        """A Figure of the image at hand under its maps, with the shares; and curves once computed."""
        asked = self._asked()
        maps, shares = self.maps_of(), self.shares()
        picture = _grey(self._entries[asked.row].picture())
        masks = self._masks_of(asked.row)
        belief = self._beliefs.get(asked)
        n, rows = 1 + len(maps), 1 if belief is None else 2
        figure, _ = subplots(figsize=(max(2.5 * n, 5), 3.3 * rows))
        figure.clear()
        grid = figure.add_gridspec(rows, 1)
        cells = grid[0].subgridspec(1, n)
        axes = [figure.add_subplot(cells[i]) for i in range(n)]
        axes[0].imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes[0].set_title(self._entries[asked.row].name, fontsize=8, wrap=True, parse_math=False)
        for ax, (method, heat) in zip(axes[1:], maps.items(), strict=True):
            ax.imshow(overlay(picture, np.clip(heat, 0, 1), opacity=self.opacity))
            words = [" ".join((self._offered[method], self._note(asked, method)))]
            for name, share in shares[method].items():
                words.append(f"{name}: heat {_percent(share['heat'])}, area {share['area']:.0%}")
            ax.set_title("\n".join(words), fontsize=8, parse_math=False)
        for ax in axes:
            ax.set_axis_off()
            for name in (name for name in self.outlines if name in masks):
                for line in _outline(masks[name]):
                    across, down = np.array(line).reshape(-1, 2).T
                    at = across * picture.shape[1] - 0.5, down * picture.shape[0] - 0.5
                    ax.plot(*at, color=self.about["masks"][name], linewidth=0.9)
        said = self._said(asked, masks)
        words = [f"label {said['label']}"] if said["label"] else []
        words += [f"predicted {said['prediction']}"] if said["prediction"] else []
        words += [f"maps of {said['target']}"] if said["target"] else []
        figure.suptitle("; ".join(words), fontsize=9, parse_math=False)
        if belief is not None:
            _draw_curves(figure, grid[1].subgridspec(1, 2), belief)
        return figure


class _Network:
    """A copy of a learner's network, and how images come to it."""

    def __init__(self, learn):
        self.recipe, self.dls = learn.dls.recipe, learn.dls
        self.segmenter = bool(self.recipe.masks)
        self.classes = [str(name) for name in learn.dls.vocab]
        self.net = deepcopy(learn.model).eval().requires_grad_(False)
        self.as_learner = SimpleNamespace(model=self.net, dls=learn.dls)
        self.watch = watch = SimpleNamespace(stale=lambda: False)

        def give_up(*_):  # a copy of the network shares it, and gives up too
            if watch.stale():
                raise _Superseded

        self.net.register_forward_pre_hook(give_up)
        self.layers = layers(self.as_learner)
        blank = np.zeros((self.recipe.size, self.recipe.size), np.float32)
        self.layer = _default_layer(self.net, self.tensor(blank))

    def class_number(self, target) -> int | None:
        if target is None:
            return 1 if self.segmenter else None
        if isinstance(target, str):
            if target not in self.classes:
                raise ValueError(f"target={target!r} is none of the classes {self.classes}")
            return self.classes.index(target)
        return int(target)

    def seen(self, image) -> np.ndarray:
        """(S, S) or (3, S, S) float32: an image (H, W) in [0, 1] as the network sees it."""
        recipe = self.recipe
        return prepared(image, recipe.enhance, recipe.size, recipe.fit)

    def tensor(self, picture):
        """(1, C, S, S): what is fed to the network."""
        import torch

        from covidlab.training.loaders import GreyImage

        weights = next(self.net.parameters())
        x = torch.from_numpy(np.array(picture, np.float32))
        x = x[None] if x.ndim == 3 else x[None, None]
        x = GreyImage(x.expand(-1, self.recipe.channels, -1, -1).to(self.dls.valid.device))
        x = self.dls.valid.after_batch((x,))[0].as_subclass(torch.Tensor)
        return x.to(weights.device, weights.dtype)

    def answer(self, x) -> np.ndarray:
        """Probabilities, (C,) of a classifier, (C, S, S) of a segmenter."""
        import torch

        with torch.inference_mode():
            return self.net(x)[0].float().softmax(0).cpu().numpy()

    def saliency(self, x, options, net=None) -> np.ndarray:
        return saliency(self.as_learner if net is None else net, x, **options)[0]


def _grey(picture) -> np.ndarray:
    """(S, S): the picture to look at; of three channels the first."""
    return picture if picture.ndim == 2 else picture[0]


# ---- where images come from ----------------------------------------------------------------------


def _seen(learn, dataset, rows, predictions) -> list[_Entry]:
    """Rows of a dataset as the network sees them."""
    from covidlab import training

    dataset = dataset if rows is None else dataset.where(rows)
    recipe, items = learn.dls.recipe, training.loader_for(learn.dls, dataset).dataset
    if predictions is None and not recipe.masks:
        predictions = training.predict(learn, dataset)
    frame, pictures = dataset.frame, items.prepared.array
    if predictions is not None and list(predictions.frame["image"]) != list(frame["image"]):
        raise ValueError("predictions are not of these images, or not in their order")
    columns = {
        column: column.removesuffix("_mask").replace("_", " ")
        for column in (*MASKS, *recipe.masks)
        if column in frame and frame[column].astype(bool).any()
    }

    def entry(i):
        def masks():
            found = {name: dataset.mask(i, column) for column, name in columns.items()}
            return {
                name: resize_mask(mask, recipe.size, recipe.fit)
                for name, mask in found.items()
                if mask is not None
            }

        return _Entry(
            name=frame["image"].iat[i],
            picture=lambda: pictures[items.rows[i]],
            masks=masks,
            label=frame["label"].iat[i],
            answer=None if recipe.masks else predictions.probabilities[i],
            kinds=tuple(columns.values()),
        )

    return [entry(i) for i in range(len(dataset))]


def _given(images, maps, masks, titles) -> list[_Entry]:
    n = len(images)
    if not n or not maps:
        raise ValueError("images and maps: at least one of each is needed")
    for name, some in {**maps, **masks, "titles": titles}.items():
        if some is not None and len(some) != n:
            raise ValueError(f"{name}: {len(some)} for {n} images")
    pictures = [_unit(image, f"images[{i}]") for i, image in enumerate(images)]
    maps = {
        str(name): [_unit(heat, f"maps[{name!r}][{i}]") for i, heat in enumerate(some)]
        for name, some in maps.items()
    }
    for name, some in masks.items():
        for i, mask in enumerate(some):
            if mask is not None and (np.ndim(mask) != 2 or np.asarray(mask).dtype != bool):
                raise ValueError(f"masks[{name!r}][{i}] must be bool (H, W): `> 0` makes it so")
    titles = [f"image {i + 1}" for i in range(n)] if titles is None else titles

    def entry(i):
        own = {name: np.asarray(some[i]) for name, some in masks.items() if some[i] is not None}
        heats = {name: some[i] for name, some in maps.items()}
        return _Entry(str(titles[i]), lambda: pictures[i], lambda: own, maps=heats)

    return [entry(i) for i in range(n)]


def _unit(image, name) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim != 2 or not (0 <= image.min() and image.max() <= 1):
        raise ValueError(f"{name} must be (H, W) in [0, 1], got shape {image.shape}")
    return image


def _check_size(size, name):
    if not 0 <= size <= LIMIT:
        raise ImageError(f"{name}: {size / 2**20:.1f} MiB; at most {LIMIT >> 20} MiB are taken")


def _decoded(data, name) -> np.ndarray:
    """(H, W) in [0, 1] from a file's bytes, by its content and the ending of its name alone."""
    _check_size(len(data), name)
    ending = Path(name).suffix.lower()
    ending = ".dcm" if data[128:132] == b"DICM" else ending if ending in SUFFIXES else ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"upload{ending}"
        file.write_bytes(data)
        try:
            height, width = image_size(file)
            if height * width > MOST_PIXELS:
                raise ImageError(f"{file}: {width} × {height} pixels are too many to show")
            return read_image(file)
        except ImageError as error:
            raise ImageError(str(error).replace(str(file), name)) from None


# ---- numbers and lines ---------------------------------------------------------------------------


def _shares(heat, masks) -> dict[str, dict[str, float]]:
    return {
        name: {
            "heat": float(heat_share([heat], [mask])[0]),
            "area": float(mask.mean()),
            "peak": float(pointing_game([heat], [mask])[0]),
        }
        for name, mask in masks.items()
    }


def _outline(mask) -> list[list[float]]:
    """Closed lines x, y, x, y … around a mask, as parts of the image's width and height."""
    from skimage.measure import find_contours

    found = find_contours(np.pad(mask, 1).astype(float), 0.5)
    size = np.array(mask.shape)
    return [np.round((line - 0.5) / size, 4)[:, ::-1].ravel().tolist() for line in found]


def _draw_curves(figure, grid, belief):
    for i, which in enumerate(("deletion", "insertion")):
        ax = figure.add_subplot(grid[i])
        for j, (name, curve) in enumerate(belief.curves.items()):
            area = getattr(curve, f"{which}_area")[0]
            style = {"color": "0.45", "linestyle": "--"} if name == RANDOM else {"color": _LINES[j]}
            label = f"{METHODS.get(name, name)}, area {area:.3f}"
            ax.plot(curve.fractions, getattr(curve, which)[0], label=label, **style)
        better = "small" if which == "deletion" else "large"
        ax.set(ylim=(0, 1.02), xlabel="share of the pixels, hottest first")
        ax.set_title(f"{which}: a {better} area is good", fontsize=9)
        ax.legend(fontsize=7)
        if i == 0:
            ax.set_ylabel(f"probability of {belief.target}", parse_math=False)


def _plain(value):
    """NaN as None, which JSON knows."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _percent(value) -> str:
    return "–" if np.isnan(value) else f"{value:.0%}"
