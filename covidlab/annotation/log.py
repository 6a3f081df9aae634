"""Who decided what about which mask, as lines that are only ever added to."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

import numpy as np
import pandas as pd

from covidlab import paths
from covidlab.datasets.manifest import Dataset, file_hash
from covidlab.datasets.readers import image_size, read_mask

DECISIONS = ("accept", "reject", "unsure", "exclude")
UNDO = "undo"


@dataclass(frozen=True)
class Decision:
    """One line of the log: what one person said of one image.

    `decision` is one of `DECISIONS`, or "undo", which takes the line whose id is `undoes` back.
    `stage` is free text ("II"); `model`, whose mask was looked at, as the key of its run record or a
    name; `candidate`, which of several was chosen. `mask` is the file (below the log's folder) with
    the mask that was accepted or corrected, `sha256` of its bytes; `changed`, how many pixels the
    person changed.
    """

    image: str
    decision: str
    who: str
    id: str = ""
    time: str = ""
    stage: str = ""
    model: str = ""
    candidate: str = ""
    mask: str = ""
    sha256: str = ""
    changed: int = 0
    undoes: str = ""


def standing(lines: Iterable[Decision]) -> list[Decision]:
    """The decisions that nobody took back, in the order in which they were made."""
    lines = list(lines)
    gone = {line.undoes for line in lines if line.decision == UNDO}
    return [line for line in lines if line.decision != UNDO and line.id not in gone]


def state(lines: Iterable[Decision], who: str | None = None) -> dict[str, Decision]:
    """What holds of each image: its last decision that stands, of anyone or of one person.

    A pure fold over the lines: the same lines give the same state, on any machine.
    """
    return {d.image: d for d in standing(lines) if who is None or d.who == who}


class DecisionLog:
    """The decisions about the images of one dataset, in a folder that several people may share.

    `decisions.jsonl` has one line of JSON for each decision; lines are added under a lock, in one
    write that reaches the disk before the call returns, and never changed. `masks/` holds the masks
    as PNG, named by what is in them, written whole and never over another. A process that dies in
    the middle of a line leaves half a line: it is passed over (`torn` counts them), and the next
    line begins on its own.

    Parameters
    ----------
    folder : made where there is none.
    dataset : whose images are decided about; a decision names an image as its manifest does.
    who : the person at this end; every line carries it. Not a secret and not a signature.

    Raises ValueError for a `who` that is empty.
    """

    def __init__(self, folder, dataset: Dataset, who: str):
        if not who.strip():
            raise ValueError("who is empty: every decision carries a person's name")
        self.folder, self.dataset, self.who = Path(folder), dataset, who.strip()
        (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "decisions.jsonl"
        self._row = {name: i for i, name in enumerate(dataset.frame["image"])}
        self._forget()

    def __repr__(self):
        return f"DecisionLog({str(self.folder)!r}, {self.who!r}: {len(self.lines())} lines)"

    def lines(self) -> list[Decision]:
        """Every line as it stands in the file now, whoever wrote it, undone ones too."""
        return self._read()[0]

    @property
    def torn(self) -> int:
        """How many lines are in the file that no process finished."""
        return self._read()[1]

    def state(self, who: str | None = None) -> dict[str, Decision]:
        """What holds of each image now; see `state`."""
        return state(self.lines(), who)

    def decide(
        self,
        image: str,
        decision: str,
        mask: np.ndarray | None = None,
        candidate: str = "",
        stage: str = "",
        model: str = "",
        proposed: np.ndarray | None = None,
    ) -> Decision:
        """Writes one decision down; when this returns, it is on the disk.

        Parameters
        ----------
        mask : (H, W) bool at the image's own size: the one accepted, or as it was corrected. Needed
            to accept; to reject without one is to say that no mask was any good; none is kept of
            an image that is excluded.
        proposed : the mask that was shown, to count the pixels the person changed.

        Raises
        ------
        KeyError : no such image in the dataset. ValueError : an unknown decision, a mask that is
        not bool or of another size than the image, none where one is needed, one where none is kept.
        """
        self._check(image, decision, mask, proposed)
        mask, proposed = (None if m is None else np.asarray(m) for m in (mask, proposed))
        name, sha256, changed = "", "", 0
        if mask is not None:
            name, sha256 = self._keep(image, mask)
            changed = 0 if proposed is None else int((mask ^ proposed).sum())
        return self._append(
            Decision(
                image,
                decision,
                self.who,
                stage=stage,
                model=model,
                candidate=candidate,
                mask=name,
                sha256=sha256,
                changed=changed,
            )  # fmt: skip
        )

    def undo(self, stage: str | None = None) -> Decision:
        """Takes back this person's last decision that stands, by a further line; returns that decision.

        With `stage`, the last of that stage. Raises ValueError where there is none.
        """
        with self._lock():
            mine = [
                d for d in standing(self.lines()) if d.who == self.who and stage in (None, d.stage)
            ]
            if not mine:
                raise ValueError(f"{self.who} has made no decision that could be taken back")
            last = mine[-1]
            self._append(Decision(last.image, UNDO, self.who, undoes=last.id), locked=True)
        return last

    def mask(self, decision: Decision) -> np.ndarray | None:
        """(H, W) bool: the mask of a decision, None where it has none.

        Raises ValueError for a file that is gone or is no longer what was written.
        """
        if not decision.mask:
            return None
        path = self.folder / decision.mask
        if not path.is_file() or file_hash(path) != decision.sha256:
            raise ValueError(
                f"{path}: not the mask that {decision.who} saved on {decision.time}; "
                "bring the file back from a copy, or decide about the image again"
            )
        return read_mask(path)

    def table(self, who: str | None = None) -> pd.DataFrame:
        """One row for each image with a decision: what holds, who said so, when, of which model."""
        rows = [asdict(d) for d in self.state(who).values()]
        columns = [f.name for f in fields(Decision) if f.name != "undoes"]
        return pd.DataFrame(rows, columns=columns).set_index("image")

    def masked(self, column: str = "lung_mask") -> Dataset:
        """The images whose mask is settled (accepted, or rejected and corrected), with that mask.

        A Dataset whose `column` holds the log's files, ready to be trained on. Raises ValueError where
        there is none yet.
        """
        kept = {
            name: d
            for name, d in self.state().items()
            if d.mask and d.decision in ("accept", "reject") and self.mask(d) is not None
        }
        if not kept:
            raise ValueError(f"{self.path} settles no mask yet: accept or correct some first")
        data = self.dataset.where(self.dataset.frame["image"].isin(kept).to_numpy())
        files = [str((self.folder / kept[name].mask).resolve()) for name in data.frame["image"]]
        return Dataset(data.frame.assign(**{column: files}), data.root, data.card)

    def _check(self, image, decision, mask, proposed):
        if decision not in DECISIONS:
            raise ValueError(f"decision={decision!r} must be one of {', '.join(DECISIONS)}")
        if image not in self._row:
            raise KeyError(f"no image {image!r} in {self.dataset.card.id!r}, whose log this is")
        if decision == "accept" and mask is None:
            raise ValueError(f"{image}: accept needs the mask that is accepted")
        if decision == "exclude" and mask is not None:
            raise ValueError(f"{image}: no mask is kept of an image that is excluded")
        size = image_size(self.dataset.path(self._row[image]))
        for name, given in (("mask", mask), ("proposed", proposed)):
            if given is None:
                continue
            if np.shape(given) != size or np.asarray(given).dtype != bool:
                raise ValueError(
                    f"{image}: {name} is {np.shape(given)} {np.asarray(given).dtype}, but a bool "
                    f"mask of the image's size, {size}, is needed"
                )

    def _keep(self, image: str, mask: np.ndarray) -> tuple[str, str]:
        """Writes a mask unless it is there; its name, which holds the hash of the file, and the hash."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.asarray(mask, np.uint8) * 255).save(buffer, "PNG")
        content = buffer.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        stem = image.replace("/", "_").rsplit(".", 1)[0][-80:]
        name = f"masks/{stem}-{sha256[:16]}.png"
        path = self.folder / name
        if not path.is_file():
            with paths.replacing(path) as temporary, open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        elif file_hash(path) != sha256:
            raise ValueError(f"{path} was changed: move it away, it is no longer what was decided")
        return name, sha256

    def _lock(self):
        from filelock import FileLock

        return FileLock(self.path.with_suffix(".lock"))

    def _append(self, line: Decision, locked: bool = False) -> Decision:
        if not locked:
            with self._lock():
                return self._append(line, locked=True)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = Decision(**asdict(line) | {"id": token_hex(8), "time": now})
        filled = {k: v for k, v in asdict(line).items() if v not in ("", 0) or k == "image"}
        content = (json.dumps(filled, ensure_ascii=False) + "\n").encode()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # somebody died in their last line
                content = b"\n" + content
            if os.write(handle, content) != len(content):
                raise OSError(f"{self.path}: the disk is full; the decision was not written")
            os.fsync(handle)
        finally:
            os.close(handle)
        return line

    def _read(self) -> tuple[list[Decision], int]:
        """Lines, and how many are torn. What was read before is not read again: it never changes."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self._seen:  # another file was put in its place
            self._forget()
        if size == self._seen:
            return list(self._lines), self._torn
        with open(self.path, "rb") as file:
            file.seek(self._seen)
            content = file.read()
        whole, end, rest = content.rpartition(b"\n")
        lines, torn = _parsed(whole)
        self._seen += len(whole) + len(end)
        self._lines, self._torn = self._lines + lines, self._torn + torn
        lines, torn = _parsed(rest)  # of a line that is being written, or that nobody finished
        return self._lines + lines, self._torn + torn

    def _forget(self):
        self._lines, self._seen, self._torn = [], 0, 0


def _parsed(content: bytes) -> tuple[list[Decision], int]:
    lines, torn, known = [], 0, {f.name for f in fields(Decision)}
    for text in content.split(b"\n"):
        if not text.strip():
            continue
        try:
            lines.append(Decision(**{k: v for k, v in json.loads(text).items() if k in known}))
        except (ValueError, TypeError, AttributeError):
            torn += 1
    return lines, torn
