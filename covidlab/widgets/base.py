"""What every widget shares: one script of helpers, one style sheet, pictures as bytes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from queue import Empty, SimpleQueue

import anywidget
import numpy as np
import traitlets

_HERE = Path(__file__).parent


def script(name: str) -> str:
    """The JavaScript module of a widget: `common.js`, then its own file, which ends in the export."""
    return "\n".join((_HERE / f"{file}.js").read_text("utf-8") for file in ("common", name))


class Widget(anywidget.AnyWidget):
    """Base of the workbook's widgets.

    State is in traits, drawing in the browser, decisions in plain Python that tests call without
    one. Text from data reaches the page through `textContent` alone (`el` in common.js), so that an
    image named like a script tag shows as text. A subclass sets `_esm = script("its_file")` and has
    `.static()`: a matplotlib Figure of what the widget shows, for pages without a kernel.
    """

    _css = (_HERE / "style.css").read_text("utf-8")

    large = traitlets.Bool(False, help="larger type, for a projector").tag(sync=True)

    def static(self):
        """A matplotlib Figure of the widget as it stands."""
        raise NotImplementedError


class Background:
    """Reports of work in threads, heard in the kernel's own thread, the only one to touch traits.

    A run has a ticket, the value of `_ticket` when it began; a later run or a stop raises it, and
    what an earlier one still reports is heard by `_heard` with `current=False`.
    """

    def _listen(self):
        self._ticket, self._events, self._lock = 0, SimpleQueue(), threading.RLock()
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel
            self._loop = None

    def _report(self, ticket: int, kind: str, value):
        """From the thread of a run."""
        self._events.put((ticket, kind, value))
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hear_events)
        else:
            self._hear_events()

    def _hear_events(self):
        with self._lock, self.hold_sync():
            while True:
                try:
                    ticket, kind, value = self._events.get_nowait()
                except Empty:
                    return
                self._heard(kind, value, ticket == self._ticket)

    def _heard(self, kind: str, value, current: bool):
        raise NotImplementedError


def colour_table(name: str) -> np.ndarray:
    """(256, 3) uint8: a colour map of matplotlib's."""
    from matplotlib import colormaps

    return np.rint(colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)


def grey_bytes(image: np.ndarray) -> bytes:
    """(H, W) in [0, 1] as H·W bytes, row by row; ValueError where it is no such image."""
    image = np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"an image of shape {image.shape} cannot be shown: (H, W) is needed")
    if image.dtype == bool or image.dtype == np.uint8:
        return np.ascontiguousarray(image, np.uint8).tobytes()
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinity")
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).tobytes()
