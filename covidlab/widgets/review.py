"""Proposed masks, one image after the other: accept, correct, doubt or exclude, each written down at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import traitlets

from covidlab._figures import subplots
from covidlab.annotation import DECISIONS, DecisionLog, Proposals, propose, standing

from .base import _HERE, Widget, grey_bytes, script
from .masks import COLOURS

SAID = {"accept": "accepted", "reject": "rejected", "unsure": "unsure", "exclude": "excluded"}
_RECENT = 5


class MaskReview(Widget):
    """Images with one proposed mask each, or several to choose from, and a person who decides.

    Tahir 2021, Section 3.1.2: stage II with one network's proposals, stage III with those of six,
    stage IV with the masks there are. Accept; reject, by drawing the mask right; unsure; exclude.
    Every decision is in `log` before the next image is shown, and the last one can be taken back. A
    review that is opened again, in another session too, goes on with what this person has not decided
    in this stage.

    Parameters
    ----------
    proposals : see `annotation.propose`; their dataset is the log's, or a part of it.
    log : who reviews is in it.
    stage : goes into every line, as the run records of the networks do.
    images : names in the order in which they are shown (see `annotation.queue`); by default all, as
        they stand in the manifest.
    edit : False has rejected images go without a mask (stage III); they can be drawn in a later one.
    shared : pass over images of this stage that somebody else has decided about, too: for people who
        share the work rather than repeat it.
    traits : how it starts: `opacity`, `show_mask`, `compare`, `large`.

    Raises
    ------
    ValueError : no images or candidates, a mask that is not bool or of another size than its image.
    KeyError : `images` that are not in the proposals.
    """

    _esm = script("review")
    _css = Widget._css + (_HERE / "review.css").read_text("utf-8")

    chosen = traitlets.Int(0, help="which candidate").tag(sync=True)
    opacity = traitlets.Float(0.35, min=0, max=1).tag(sync=True)
    show_mask = traitlets.Bool(True).tag(sync=True)
    compare = traitlets.Bool(False, help="colour where a candidate leaves the majority").tag(
        sync=True
    )

    about = traitlets.Dict(help="what stays as it is").tag(sync=True)
    shown = traitlets.Dict(help="the image at hand; empty when all are decided").tag(sync=True)
    picture = traitlets.Bytes(help="uint8 (H, W)").tag(sync=True)
    candidates = traitlets.Bytes(help="packed bits (n, H, W), each candidate whole bytes").tag(
        sync=True
    )
    progress = traitlets.Dict().tag(sync=True)
    recent = traitlets.List(help="the last decisions, the latest first").tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        proposals: Proposals,
        log: DecisionLog,
        stage: str = "II",
        images: Iterable[str] | None = None,
        edit: bool = True,
        shared: bool = False,
        **traits,
    ):
        self._proposals, self._log, self.stage, self._shared = proposals, log, stage, shared
        self._row = {name: i for i, name in enumerate(proposals.dataset.frame["image"])}
        self._names = list(self._row) if images is None else list(dict.fromkeys(images))
        if unknown := [name for name in self._names if name not in self._row]:
            raise KeyError(f"no proposal for {unknown[0]!r} ({len(unknown)} of the images)")
        if not self._names or not proposals.masks:
            raise ValueError("nothing to review: give images and at least one candidate for each")
        about = {
            "candidates": list(proposals.masks),
            "who": log.who,
            "stage": stage,
            "edit": edit,
            "colours": {k: COLOURS[k] for k in ("predicted", "extra", "missed")},
            "said": SAID,
        }
        super().__init__(**traits, about=about)
        self._at = -1
        self._advance()
        self.on_msg(self._hear)

    @classmethod
    def from_learner(cls, learners, dataset, log: DecisionLog, region: int = 1, **options):
        """What one trained segmenter, or several by name, outline in a dataset; options as above."""
        return cls(propose(learners, dataset, region), log, **options)

    # ---- the core ------------------------------------------------------------------------------

    @property
    def image(self) -> str | None:
        """Name of the image at hand; None when all are decided."""
        return self._names[self._at] if self._at is not None else None

    def pending(self) -> list[str]:
        """Names of the images that wait, in the order of the review."""
        done = self._decided()
        return [name for name in self._names if name not in done]

    def decide(self, decision: str, mask: np.ndarray | None = None):
        """Writes down what the person says of the image at hand, and shows the next.

        `mask` is the corrected one, (H, W) bool, and goes with "reject" only; what is accepted, and
        what is doubted, is the candidate `chosen`. Raises ValueError where no image is at hand, or for
        a mask that does not go with the decision.
        """
        if self.image is None:
            raise ValueError("no image is left to decide about: take the last decision back first")
        if mask is not None and decision != "reject":
            raise ValueError(f"{decision} takes the mask as it is: a drawn mask goes with reject")
        if mask is not None and not self.about["edit"]:
            raise ValueError("this stage picks masks and corrects none: reject without a mask")
        names = self.about["candidates"]
        name = names[self.chosen] if 0 <= self.chosen < len(names) else names[0]
        proposed = self._proposals.masks[name][self._row[self.image]]
        if decision in ("accept", "unsure"):
            mask = proposed
        about_one = mask is not None  # and not about the image, or all its candidates
        self._log.decide(
            self.image,
            decision,
            mask,
            candidate=name if about_one else "",
            stage=self.stage,
            model=self._proposals.models.get(name, "") if about_one else "",
            proposed=proposed if about_one else None,
        )
        self._advance()

    def undo(self):
        """Takes this person's last decision of this stage back, and shows its image again.

        Raises ValueError where there is none.
        """
        last = self._log.undo(self.stage)
        names = self.about["candidates"]
        self._show(self._names.index(last.image) if last.image in self._names else self._at)
        self.chosen = names.index(last.candidate) if last.candidate in names else 0

    def go(self, steps: int):
        """Shows the next waiting image (+1) or the one before (−1), without deciding."""
        waiting = [i for i, name in enumerate(self._names) if name in set(self.pending())]
        if waiting:
            at = -1 if self._at is None else self._at
            ahead = [i for i in waiting if i > at] if steps > 0 else [i for i in waiting if i < at]
            turn = 0 if steps > 0 else -1
            self._show((ahead or waiting)[turn])

    def _decided(self) -> set[str]:
        lines = standing(self._log.lines())
        anyone = self._shared
        return {
            d.image for d in lines if d.stage == self.stage and (anyone or d.who == self._log.who)
        }

    def _advance(self):
        waiting = set(self.pending())
        n = len(self._names)
        rest = ((self._at + 1 + k) % n for k in range(n)) if self._at is not None else range(n)
        self._show(next((i for i in rest if self._names[i] in waiting), None))

    def _show(self, at: int | None):
        mine = [
            d
            for d in standing(self._log.lines())
            if d.who == self._log.who and d.stage == self.stage and d.image in self._row
        ]
        with self.hold_sync():
            self._at, self.message, self.chosen = at, "", 0
            last = {d.image: d.decision for d in mine}
            counts = {k: sum(v == k for v in last.values()) for k in DECISIONS}
            total = len(self._names)
            self.progress = {"done": total - len(self.pending()), "total": total, **counts}
            self.recent = [
                {"image": d.image, "decision": d.decision, "candidate": d.candidate, "time": d.time}
                for d in mine[: -_RECENT - 1 : -1]
            ]
            if at is None:
                self.shown, self.picture, self.candidates = {}, b"", b""
                return
            image, masks = self._pictured(at)
            self.picture = grey_bytes(image)
            self.candidates = b"".join(np.packbits(mask).tobytes() for mask in masks.values())
            height, width = image.shape
            self.shown = {
                "image": self._names[at],
                "at": at,
                "height": height,
                "width": width,
                "before": last.get(self._names[at], ""),
            }

    def _pictured(self, at):
        """The image, and its candidates by name, checked."""
        row = self._row[self._names[at]]
        image, masks = self._proposals.dataset.image(row), self._proposals.of(row)
        for name, mask in masks.items():
            if np.shape(mask) != image.shape or np.asarray(mask).dtype != bool:
                raise ValueError(
                    f"{self._names[at]}: the candidate {name!r} is {np.shape(mask)} "
                    f"{np.asarray(mask).dtype}; a bool mask of the image's size {image.shape} is needed"
                )
        return image, masks

    def _hear(self, _, content, buffers):
        """What the page asks for; what is wrong with it is said there."""
        try:
            if content["do"] == "undo":
                self.undo()
            elif content["do"] == "go":
                self.go(int(content["steps"]))
            elif (
                content["do"] == "decide" and content["image"] == self.image
            ):  # and not a late click
                self.chosen = int(content["candidate"])
                self.decide(content["decision"], self._drawn(buffers))
        except (ValueError, OSError) as error:
            self.message = str(error)

    def _drawn(self, buffers) -> np.ndarray | None:
        if not buffers:
            return None
        height, width = self.shown["height"], self.shown["width"]
        bits = np.unpackbits(np.frombuffer(buffers[0], np.uint8), count=height * width)
        return bits.reshape(height, width).astype(bool)

    # ---- without a browser ---------------------------------------------------------------------

    def static(self):
        """The image at hand and its candidates as a Figure, and below how far the review is."""
        if self.image is None:
            figure, ax = subplots(figsize=(6, 1.2))
            ax.set_axis_off()
            ax.text(0.5, 0.5, "every image is decided", ha="center", va="center")
            figure.supxlabel(self._counted(), fontsize=8)
            return figure
        image, masks = self._pictured(self._at)
        columns = min(4, 1 + len(masks))
        rows = -(-(1 + len(masks)) // columns)
        figure, axes = subplots(
            rows, columns, figsize=(2.5 * columns, 2.6 * rows + 0.3), squeeze=False
        )
        for ax in axes.flat:
            ax.set_axis_off()
        for k, (ax, name) in enumerate(zip(axes.flat, ["", *masks], strict=False)):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1)
            if name:
                _tinted(ax, masks[name], self.opacity)
            ax.set_title(f"{k} · {name}" if name else self.image, fontsize=9, wrap=True)
        figure.supxlabel(self._counted(), fontsize=8)
        return figure

    def _counted(self) -> str:
        p = self.progress
        each = ", ".join(f"{p[k]} {SAID[k]}" for k in DECISIONS if p[k])
        told = f"{self._log.who}, stage {self.stage}: {p['done']} of {p['total']} decided"
        return told + (f" ({each})" if each else "")


def _tinted(ax, mask, opacity):
    from matplotlib.colors import to_rgba

    layer = np.zeros((*mask.shape, 4))
    layer[mask] = to_rgba(COLOURS["predicted"], opacity)
    ax.imshow(layer)
    if mask.any() and not mask.all():
        ax.contour(mask, levels=[0.5], colors=COLOURS["predicted"], linewidths=1.2)
