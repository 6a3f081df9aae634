"""A predicted mask beside the true one, slice by slice: where to cut it, what to clean, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import traitlets

from covidlab._figures import subplots
from covidlab.evaluation.figures import _EXTRA, _MISSED, _RIGHT
from covidlab.evaluation.segmentation import region_index
from covidlab.imaging.refine import TAHIR_REFINEMENT, needs_lung, refine
from covidlab.predictions import MaskPredictions

from .base import _HERE, Widget, grey_bytes, script

LEVELS = 200  # thresholds lie 1/200 apart
MODES = ("image", "masks", "errors")
WINDOWS = {"lung": (-600.0, 1500.0), "mediastinum": (40.0, 400.0)}  # HU: centre, width
COLOURS = {
    "truth": "#d55e00",
    "predicted": "#0072b2",
    "lung": "#f0e442",
    "found": _RIGHT,
    "extra": _EXTRA,
    "missed": _MISSED,
}
_UNKNOWN = float("nan")


class MaskInspector(Widget):
    """Images with their true and predicted masks: threshold, window and clean them, and see what changes.

    Parameters
    ----------
    images : one image (H, W), a list of images that need not be of one size, or a volume
        (D, H, W). In [0, 1] (or uint8), with `hounsfield` in HU, shown rounded to whole units.
    truth, lung : bool masks of the same shapes, or None.
    probability : of the region in each pixel, in [0, 1]; bool for a mask that is already cut.
    names : one for each image or slice.
    spacing : mm between (slices, rows, columns), or (rows, columns); gives areas and volumes.
    hounsfield : the images are CT in HU, to be windowed.
    steps : post-processing that can be switched on, name → function, as in
        `covidlab.imaging.refine`; steps that need a lung mask are left out where there is none.
        None for none.
    volume : whether the images are slices of one body, head first or feet first, and not pictures
        of their own. By default a 3-D array is, a list is not.
    traits : how it starts. `slice`, `threshold` (multiples of 1/200), `min_pixels` (from how many
        predicted pixels on an image counts as positive; Tahir 2021, Section 3.2.2.3: one),
        `steps_on` (names), `mode` ("image", "masks", "errors"), `opacity`, `window_centre`,
        `window_width`, `show_truth`, `show_lung`, `large`.

    `numbers` holds what is shown: of the slice at hand under "here" (as `measure`), of all together
    under "whole" (as `measure_all`), None where a number is not defined.

    Raises
    ------
    ValueError : shapes that do not agree, values out of range, masks that are not bool.

    Notes
    -----
    A pixel is predicted from the threshold on (≥), as `segmentation_metrics` with a threshold does;
    Tahir takes > 0.5. The browser gets, for each pixel, how many of the 200 thresholds it reaches:
    what it draws and counts is exact. Post-processing runs in Python.
    """

    _esm = script("masks")
    _css = Widget._css + (_HERE / "masks.css").read_text("utf-8")

    slice = traitlets.Int(0, help="which image or slice").tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    min_pixels = traitlets.Int(1, min=1).tag(sync=True)
    steps_on = traitlets.List(traitlets.Unicode()).tag(sync=True)
    mode = traitlets.Enum(MODES, "masks").tag(sync=True)
    opacity = traitlets.Float(0.45, min=0, max=1).tag(sync=True)
    window_centre = traitlets.Float(-600.0).tag(sync=True)
    window_width = traitlets.Float(1500.0, min=1).tag(sync=True)
    show_truth = traitlets.Bool(True).tag(sync=True)
    show_lung = traitlets.Bool(False).tag(sync=True)
    moving = traitlets.Bool(False, help="a slider is being dragged").tag(sync=True)
    numbers = traitlets.Dict().tag(sync=True)

    about = traitlets.Dict(help="what stays as it is").tag(sync=True)
    table = traitlets.Bytes(help="uint32 (D, 2, 2, 201), see _reaching").tag(sync=True)
    shown = traitlets.Dict(help="slice, height and width of `picture`").tag(sync=True)
    picture = traitlets.Bytes(help="see _picture").tag(sync=True)
    mask_bits = traitlets.Bytes(help="post-processed; empty without steps").tag(sync=True)

    def __init__(
        self,
        images,
        truth=None,
        probability=None,
        lung=None,
        names: Iterable[str] | None = None,
        spacing: tuple[float, ...] | None = None,
        hounsfield: bool = False,
        steps: Mapping[str, Callable] | None = TAHIR_REFINEMENT,
        volume: bool | None = None,
        **traits,
    ):
        self._images, self._volume = _listed(images, "images"), volume
        if volume is None:
            self._volume = not isinstance(images, list | tuple) and np.ndim(images) == 3
        self._hounsfield = hounsfield
        self._pixels = [_pixels(image, hounsfield) for image in self._images]
        shapes = [image.shape for image in self._images]
        self._truth = _masks(truth, "truth", shapes)
        self._lung = _masks(lung, "lung", shapes)
        self._probability = _probabilities(probability, shapes)
        self._spacing = _spacing(spacing)
        self._names = _names(names, len(shapes), self._volume)
        self._steps = {
            name: step
            for name, step in (steps or {}).items()
            if lung is not None or not needs_lung(step)
        }
        self._cells = [self._cells_of(row) for row in range(len(shapes))]
        self._levels = [self._levels_of(row) for row in range(len(shapes))]
        self._table = np.stack(
            [_reaching(*both) for both in zip(self._levels, self._cells, strict=True)]
        )
        self._kept: dict[tuple, np.ndarray] = {}
        super().__init__(**traits, about=self._about())
        self.table = self._table.astype("<u4").tobytes()
        self._show()
        self._count()
        self.on_msg(self._answer)

    @classmethod
    def from_predictions(
        cls, predictions: MaskPredictions, images, region: str | None = None, lung=None, **options
    ) -> MaskInspector:
        """The images (N, H, W) of `MaskPredictions`, as pictures of their own.

        `region` is the class to look at, not needed with two; of more, a pixel is predicted by this
        class's own probability and not by the most probable class. `volume=True` for slices of one
        body; other options as in `MaskInspector`.
        """
        index = region_index(predictions, region)
        frame = predictions.frame
        options = {"names": list(frame["image"]) if "image" in frame else None, **options}
        return cls(
            list(images),
            truth=list(predictions.truth == index),
            probability=list(predictions.probabilities[:, index]),
            lung=None if lung is None else list(lung),
            **options,
        )

    @classmethod
    def from_learner(cls, learn, dataset, region: str | None = None, **options) -> MaskInspector:
        """What a segmenting learner says of a dataset, on its images as the network sees them.

        The share of the lung is shown where every row has a `lung_mask`. Options as in
        `from_predictions`. Raises ValueError for a learner without masks.
        """
        from covidlab import imaging, training

        recipe = learn.recipe
        if not recipe.masks:
            raise ValueError("learn was not trained on masks: its recipe names none")
        predictions = training.predict(learn, dataset)
        items = training.loader_for(learn.dls, dataset).dataset
        if (dataset.frame["lung_mask"] != "").all() and "lung" not in options:
            masks = (dataset.mask(i, "lung_mask") for i in range(len(dataset)))
            options["lung"] = [imaging.resize_mask(m, recipe.size, recipe.fit) for m in masks]
        images = items.prepared.grey[items.rows]
        return cls.from_predictions(predictions, images, region, **options)

    def __len__(self) -> int:
        return len(self._images)

    # ---- the core ------------------------------------------------------------------------------

    def mask(
        self, row: int | None = None, threshold: float | None = None, steps=None
    ) -> np.ndarray:
        """(H, W) bool: what is predicted, by default as shown now.

        `threshold` may be any in [0, 1], `steps` are names of the post-processing.
        """
        row = self.slice if row is None else row
        threshold = self.threshold if threshold is None else float(threshold)
        names = self._ordered(self.steps_on if steps is None else steps)
        p = self._probability[row]
        mask = p >= threshold if p is not None else np.zeros(self._images[row].shape, bool)
        lung = None if self._lung is None else self._lung[row]
        return refine(mask, {name: self._steps[name] for name in names}, lung)

    def measure(self, row: int | None = None, threshold: float | None = None, steps=None) -> dict:
        """The numbers of one image, by default as shown now; NaN where one is not defined.

        `dice`, `iou` and `sensitivity` of the region as in `covidlab.evaluation.per_image` (all NaN
        where neither mask has a pixel); `predicted_share` and `true_share` of the lung, or of the
        image where there is no lung mask; `true_positives`, `false_positives`, `false_negatives`,
        `predicted_pixels` and `true_pixels`; `detected`: at least `min_pixels` are predicted;
        `infected`: the truth has any; with `spacing`, `predicted_size` and `true_size` in cm² of
        what the shares count.
        """
        row = self.slice if row is None else row
        return self._measured(row, self.mask(row, threshold, steps))

    def measure_all(self, threshold: float | None = None, steps=None) -> dict:
        """The numbers of all pixels of all images together, as `measure`.

        `detected` and `infected` are how many images are; `images`, how many there are. Of a volume
        with the distance between slices, sizes are in ml; of pictures there are none.
        """
        each = self._counted_all(threshold, steps)
        found = self._scored(each.sum(0), self._table[..., 0].sum(0))
        return found | {
            "detected": sum(map(self._is_positive, each)) if self._has_mask else None,
            "infected": int(self._table[:, 1, :, 0].any(1).sum()) if self._has_truth else None,
            "images": len(self),
            **(self._sizes(found, 3) if self._volume else {}),
        }

    def curve(self, threshold: float | None = None, steps=None) -> dict[str, list[int]]:
        """Predicted and true pixels of each slice, within the lung where there is a lung mask."""
        predicted = self._counted_all(threshold, steps)[:, :, 1].sum(1)
        return {
            "predicted": predicted.tolist() if self._has_mask else [],
            "true": self._table[:, 1, 1, 0].tolist() if self._has_truth else [],
        }

    def _measured(self, row, mask) -> dict:
        counted = self._counted(row, mask)
        found = self._scored(counted, self._table[row, ..., 0])
        return found | {
            "detected": self._is_positive(counted),
            "infected": bool(found["true_pixels"] > 0) if self._has_truth else None,
            **self._sizes(found, 2),
        }

    def _counted(self, row, mask) -> np.ndarray:
        """(2, 2) predicted pixels: truth down, lung across."""
        return np.bincount(self._cells[row][mask], minlength=4).reshape(2, 2)

    def _counted_all(self, threshold, steps) -> np.ndarray:
        """(D, 2, 2), kept for the last few settings: post-processing a volume takes its time."""
        threshold = self.threshold if threshold is None else float(threshold)
        names = self._ordered(self.steps_on if steps is None else steps)
        if not names and self._on_grid(threshold):
            return self._table[..., round(threshold * LEVELS)]
        key = (threshold, *names)
        if key not in self._kept:
            masks = (self.mask(row, threshold, names) for row in range(len(self)))
            counted = np.stack([self._counted(row, mask) for row, mask in enumerate(masks)])
            while len(self._kept) >= 32:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = counted
        return self._kept[key]

    def _scored(self, predicted, total) -> dict[str, float]:
        """The numbers of (2, 2) pixels, truth down and lung across: predicted, and all there are."""
        extra, hits = (int(n) for n in predicted.sum(1))
        true, area = int(total[1].sum()), int(total[:, 1].sum())
        found = {
            "dice": _ratio(2 * hits, true + hits + extra),
            "iou": _ratio(hits, true + extra),
            "sensitivity": _ratio(hits, true),
            "predicted_share": _ratio(int(predicted[:, 1].sum()), area),
            "true_share": _ratio(int(total[1, 1]), area),
            "true_positives": hits,
            "false_positives": extra,
            "false_negatives": true - hits,
            "predicted_pixels": hits + extra,
            "true_pixels": true,
            "area_pixels": area,
        }
        known = {"predicted": self._has_mask, "true": self._has_truth, "area": True}
        both = self._has_mask and self._has_truth
        alone = {f"{k}_{what}": v for k, v in known.items() for what in ("share", "pixels")}
        return {name: v if alone.get(name, both) else _UNKNOWN for name, v in found.items()}

    @property
    def _has_truth(self) -> bool:
        return self._truth is not None

    @property
    def _has_mask(self) -> bool:
        return self._probability[0] is not None

    def _is_positive(self, counted) -> bool | None:
        return bool(counted.sum() >= self.min_pixels) if self._has_mask else None

    def _sizes(self, found, dimensions: int) -> dict[str, float]:
        """cm² (2) or ml (3) of what is infected; nothing where the spacing is not known."""
        if self._spacing is None or len(self._spacing) < dimensions:
            return {}
        one = float(np.prod(self._spacing[-dimensions:])) / {2: 100, 3: 1000}[dimensions]
        return {
            f"{which}_size": found[f"{which}_share"] * found["area_pixels"] * one
            for which in ("predicted", "true")
        }

    # ---- what the browser gets -----------------------------------------------------------------

    @traitlets.validate("threshold")
    def _checked_threshold(self, proposal) -> float:
        if not 0 <= proposal.value <= 1:
            raise traitlets.TraitError(f"threshold={proposal.value} must lie in 0..1")
        return round(proposal.value * LEVELS) / LEVELS

    @traitlets.validate("slice")
    def _checked_slice(self, proposal) -> int:
        if not 0 <= proposal.value < len(self):
            raise traitlets.TraitError(f"slice={proposal.value}; there are 0 to {len(self) - 1}")
        return proposal.value

    @traitlets.validate("steps_on")
    def _checked_steps(self, proposal) -> list[str]:
        try:
            return self._ordered(proposal.value)
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from None

    @traitlets.observe("slice", "threshold", "steps_on", "min_pixels", "moving")
    def _follow(self, change):
        if not self.shown:  # the constructor is not through
            return
        with self.hold_sync():
            if not self.moving:
                self._show()
            self._count()

    def _show(self):
        self.shown, self.picture = self._place(self.slice), self._picture(self.slice)

    def _answer(self, _, content, buffers):
        """The browser asks for slices it is near, so that going through them needs no waiting."""
        row = content.get("slice")
        if isinstance(row, int) and 0 <= row < len(self):
            self.send(self._place(row), [self._picture(row)])

    def _place(self, row) -> dict:
        height, width = self._images[row].shape
        return {"slice": row, "height": height, "width": width}

    def _picture(self, row) -> bytes:
        """Pixels, levels, and the bits of truth and lung (zeros where there is none)."""
        cells = self._cells[row]
        lung = cells & 1 if self._lung is not None else np.zeros_like(cells)
        parts = (self._pixels[row].tobytes(), self._levels[row].tobytes())
        return b"".join((*parts, _packed(cells & 2), _packed(lung)))

    def _count(self):
        """While a slider is moving, post-processing is done for the slice at hand alone."""
        names, mask = list(self.steps_on), self.mask()
        self.mask_bits = _packed(mask) if names else b""
        numbers = {"slice": self.slice, "threshold": self.threshold, "steps": names}
        numbers |= {"here": self._measured(self.slice, mask), "whole": None, "curve": None}
        if not self.moving or not names or (self.threshold, *names) in self._kept:
            numbers |= {"whole": self.measure_all(), "curve": self.curve()}
        self.numbers = _plain(numbers)

    def _about(self) -> dict:
        low = min(float(image.min()) for image in self._images) if self._hounsfield else 0.0
        high = max(float(image.max()) for image in self._images) if self._hounsfield else 1.0
        full = ((low + high) / 2, max(high - low, 1.0))
        p = self._probability[0]
        return {
            "names": self._names,
            "volume": bool(self._volume),
            "truth": self._has_truth,
            "lung": self._lung is not None,
            "prediction": "" if p is None else "mask" if p.dtype == bool else "probability",
            "hounsfield": bool(self._hounsfield),
            "windows": {**WINDOWS, "full": full},
            "range": [low, high],
            "spacing": self._spacing,
            "steps": list(self._steps),
            "colours": COLOURS,
            "levels": LEVELS,
        }

    def _ordered(self, names) -> list[str]:
        names = set(names)
        unknown = sorted(names - set(self._steps))
        if unknown:
            raise ValueError(f"steps {unknown} are none of {list(self._steps)}")
        return [name for name in self._steps if name in names]

    def _on_grid(self, threshold) -> bool:
        return round(threshold * LEVELS) / LEVELS == threshold

    def _cells_of(self, row) -> np.ndarray:
        """(H, W) uint8: 2 where the truth is, 1 where the lung is (everywhere, without a mask)."""
        cells = np.zeros(self._images[row].shape, np.uint8)
        if self._truth is not None:
            cells += 2 * self._truth[row].astype(np.uint8)
        return cells + (1 if self._lung is None else self._lung[row])

    def _levels_of(self, row) -> np.ndarray:
        p = self._probability[row]
        return np.zeros(self._images[row].shape, np.uint8) if p is None else levels_of(p)

    # ---- without a browser ---------------------------------------------------------------------

    def static(self):
        """The slice at hand as a Figure: image, masks, errors, and the infected area by slice.

        The numbers stand below. Panels without data (no truth, a single image) are left out.
        """
        from matplotlib.colors import to_rgb

        row, here = self.slice, self.measure()
        grey, truth, mask = self._grey(row), self._true(row), self.mask()
        panels = ["image", "masks"]
        panels += ["errors"] * (self._has_truth and self._has_mask)
        panels += ["curve"] * (len(self) > 1)
        figure, axes = subplots(1, len(panels), figsize=(3.1 * len(panels), 3.9))
        aspect = 1.0 if self._spacing is None else self._spacing[-2] / self._spacing[-1]
        for ax, panel in zip(axes, panels, strict=True):
            if panel == "curve":
                self._draw_curve(ax)
                continue
            picture = np.repeat(grey[..., None], 3, -1)
            if panel == "masks":
                tint = np.array(to_rgb(COLOURS["predicted"]))
                picture[mask] += self.opacity * (tint - picture[mask])
                if truth.any() and not truth.all():
                    ax.contour(truth, levels=[0.5], colors=COLOURS["truth"], linewidths=1)
            elif panel == "errors":
                picture *= 1 - self.opacity
                for name, where in _errors(mask, truth).items():
                    picture[where] = to_rgb(COLOURS[name])
            ax.imshow(picture, aspect=aspect, interpolation="nearest")
            ax.set_axis_off()
            ax.set_title(self._names[row] if panel == "image" else panel, fontsize=9, wrap=True)
        self._legend(figure)
        figure.supxlabel(self._caption(here), fontsize=8)
        return figure

    def _legend(self, figure):
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles = []
        if self._has_truth:
            handles.append(Line2D([], [], color=COLOURS["truth"], label="truth"))
        if self._has_mask:
            handles.append(Patch(color=COLOURS["predicted"], label="predicted"))
        if len(handles) == 2:
            handles += [
                Patch(facecolor=COLOURS["found"], edgecolor="0.45", label="found"),
                Patch(color=COLOURS["extra"], label="not there (false positive)"),
                Patch(color=COLOURS["missed"], label="missed (false negative)"),
            ]
        if handles:
            place = {"loc": "outside upper center", "ncols": len(handles), "frameon": False}
            figure.legend(handles=handles, fontsize=8, **place)

    def _draw_curve(self, ax):
        from matplotlib.ticker import MaxNLocator

        curve, unit = self.curve(), self._unit()
        for which, style in (("true", "truth"), ("predicted", "predicted")):
            if not curve[which]:
                continue
            values = np.array(curve[which], float) * self._per_pixel()
            marker = {"marker": "o", "markersize": 3, "linestyle": "-" if self._volume else ""}
            ax.plot(range(1, len(self) + 1), values, color=COLOURS[style], linewidth=1.3, **marker)
        ax.axvline(self.slice + 1, color="0.45", linewidth=0.8, linestyle=":")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="slice" if self._volume else "image", ylim=(0, None))
        ax.set_title(f"infected, {unit}", fontsize=9)

    def _per_pixel(self):
        """What a pixel of the curve counts for, one factor or one for each picture."""
        if not self._volume:
            area = self._table[:, :, 1, 0].sum(1)
            return np.divide(100.0, area, out=np.full(len(area), np.nan), where=area > 0)
        return 1.0 if self._spacing is None else np.prod(self._spacing[-2:]) / 100

    def _unit(self) -> str:
        if not self._volume:
            return f"% of the {self._of()}"
        return "pixels" if self._spacing is None else "cm²"

    def _of(self) -> str:
        return "image" if self._lung is None else "lung"

    def _caption(self, here) -> str:
        lines = [self._sentence("this " + ("slice" if self._volume else "image"), here)]
        if len(self) > 1:
            name = f"the whole volume, {len(self)} slices" if self._volume else f"all {len(self)}"
            lines.append(self._sentence(name, self.measure_all()))
        if self._has_mask:
            cut = f"threshold {self.threshold:g}" if self.about["prediction"] != "mask" else "mask"
            lines.append("; ".join([cut, *(self.steps_on or ["no post-processing"])]))
        return "\n".join(lines)

    def _sentence(self, name, n) -> str:
        known = {"predicted": self._has_mask, "true": self._has_truth}
        sides = [side for side in known if known[side]]
        parts = []
        if len(sides) == 2:
            parts += [f"{k} {_shown(n[k.lower()])}" for k in ("Dice", "IoU")]
            parts.append(f"sensitivity {_shown(n['sensitivity'])}")
        if sides:
            called = {"predicted": n["detected"], "true": n["infected"]}
            shares = [f"{side} {_shown(n[f'{side}_share'], '.1%')}" for side in sides]
            positive = [f"{side} {_shown(called[side], '')}" for side in sides]
            parts += [f"{self._of()} infected: {', '.join(shares)}"]
            parts += [f"positive: {', '.join(positive)}"]
        return "; ".join([name, *parts])

    def _grey(self, row) -> np.ndarray:
        """(H, W) float in [0, 1], windowed as shown."""
        if not self._hounsfield:
            return self._pixels[row] / 255.0
        low = self.window_centre - self.window_width / 2
        return np.clip((self._pixels[row] - low) / self.window_width, 0, 1)

    def _true(self, row) -> np.ndarray:
        shape = self._images[row].shape
        return np.zeros(shape, bool) if self._truth is None else self._truth[row]


def levels_of(probability: np.ndarray) -> np.ndarray:
    """uint8: how many of the thresholds 1/200, 2/200, … 1 each probability reaches.

    `levels_of(p) >= k` is `p >= k / 200` for every k from 1 on, in the precision of `p`, to which
    NumPy brings a number that an array is compared with.
    """
    p = np.asarray(probability)
    if p.dtype == bool:
        return LEVELS * p.astype(np.uint8)
    grid = (np.arange(1, LEVELS + 1) / LEVELS).astype(p.dtype)
    if p.dtype == np.float16:  # the same numbers, which NumPy searches faster
        p, grid = p.astype(np.float32), grid.astype(np.float32)
    return np.searchsorted(grid, p, side="right").astype(np.uint8)


def _reaching(levels, cells) -> np.ndarray:
    """(2, 2, 201) pixels that reach each level: truth down, lung across, threshold k / 200 last."""
    n = LEVELS + 1
    counts = np.bincount((cells.astype(np.intp) * n + levels).ravel(), minlength=4 * n)
    return counts.reshape(2, 2, n)[..., ::-1].cumsum(-1)[..., ::-1]


def _errors(mask, truth) -> dict[str, np.ndarray]:
    return {"found": mask & truth, "extra": mask & ~truth, "missed": truth & ~mask}


def _packed(mask) -> bytes:
    return np.packbits(mask).tobytes()


def _ratio(a, b) -> float:
    return a / b if b > 0 else _UNKNOWN


def _plain(numbers):
    """NaN as None, which JSON knows."""
    if isinstance(numbers, dict):
        return {name: _plain(value) for name, value in numbers.items()}
    return None if isinstance(numbers, float) and np.isnan(numbers) else numbers


def _shown(value, form=".3f") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not defined" if np.isnan(value) else format(value, form).replace("%", " %")


# ---- what may come in ---------------------------------------------------------------------------


def _listed(arrays, name) -> list[np.ndarray]:
    """(H, W) arrays of one, of a list, or of a stack."""
    if not isinstance(arrays, list | tuple):
        arrays = np.asarray(arrays)
        arrays = [arrays] if arrays.ndim == 2 else list(arrays) if arrays.ndim == 3 else arrays
    listed = [np.asarray(a) for a in arrays]
    if not listed or any(a.ndim != 2 or a.size == 0 for a in listed):
        shapes = sorted({a.shape for a in listed})
        raise ValueError(f"{name} must be (H, W), (D, H, W) or a list of (H, W); got {shapes}")
    return listed


def _matched(arrays, name, shapes) -> list[np.ndarray]:
    listed = _listed(arrays, name)
    if [a.shape for a in listed] != shapes:
        raise ValueError(
            f"{name}: {len(listed)} of {sorted({a.shape for a in listed})}, but images: "
            f"{len(shapes)} of {sorted(set(shapes))}; bring all to the same sizes"
        )
    return listed


def _masks(masks, name, shapes) -> list[np.ndarray] | None:
    if masks is None:
        return None
    listed = _matched(masks, name, shapes)
    if any(m.dtype != bool for m in listed):
        raise ValueError(
            f"{name} is {listed[0].dtype}; bool is needed: `> 0` makes it of 0 and 255"
        )
    return listed


def _probabilities(probability, shapes) -> list:
    if probability is None:
        return [None] * len(shapes)
    listed = _matched(probability, "probability", shapes)
    for i, p in enumerate(listed):
        if p.dtype != bool and not np.issubdtype(p.dtype, np.floating):
            raise ValueError(f"probability is {p.dtype}; float in [0, 1] or bool is needed")
        if not (p.min() >= -1e-3 and p.max() <= 1 + 1e-3):  # NaN is neither; softmax rounds
            raise ValueError(f"probability of image {i} goes from {p.min()} to {p.max()}, not 0..1")
    return listed


def _pixels(image, hounsfield) -> np.ndarray:
    """What is sent of an image: uint8, or int16 in HU."""
    if not np.isfinite(image).all():
        raise ValueError("images hold NaN or infinity")
    if hounsfield:
        return np.rint(np.clip(image, -32768, 32767)).astype("<i2")
    image = image.astype(np.float32) if image.dtype == bool else image
    if image.dtype != np.uint8 and not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"images hold values {image.min():g} to {image.max():g}, expected 0 to 1: pass "
            "hounsfield=True for CT in HU, or use covidlab.imaging.stretch"
        )
    return np.frombuffer(grey_bytes(image), np.uint8).reshape(image.shape)


def _spacing(spacing) -> list[float] | None:
    if spacing is None:
        return None
    spacing = [float(s) for s in spacing]
    if len(spacing) not in (2, 3) or not all(0 < s < np.inf for s in spacing):
        raise ValueError(f"spacing={spacing} must be two or three lengths in mm, all above 0")
    return spacing


def _names(names, n, volume) -> list[str]:
    if names is None:
        return [f"{'slice' if volume else 'image'} {i}" for i in range(1, n + 1)]
    names = [str(name) for name in names]
    if len(names) != n:
        raise ValueError(f"{len(names)} names for {n} images")
    return names
