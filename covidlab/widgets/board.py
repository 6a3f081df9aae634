"""Runs on a board: sorted, their curves beside each other, and from a run to what it gets wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import traitlets

from covidlab import paths
from covidlab._figures import subplots
from covidlab.predictions import MaskPredictions, Predictions

from . import records
from .base import _HERE, Background, Widget, grey_bytes, script
from .records import STATES, Entry, Found, Records

CUTS = 200  # thresholds lie 1/200 apart
LISTED = 50  # errors, or images of a segmentation, on the page
PICTURES = 12  # of them with a picture
SIDE = 224  # of a picture, in pixels, at most
KEPT = 4  # runs whose predictions stay in memory
FIRST = (  # what is shown of the metrics at first, as far as there is
    *("roc_auc", "accuracy", "recall", "specificity", "mcc"),
    *("dice / infection", "iou / infection", "dice", "iou", "mean_iou", "mean_bf_score"),
)
LOSS = "loss"
OPENED = "#222222"  # the curve of a run that is opened and not ticked

_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # as `palette`'s
_QUIET = ("train images", "valid images", "test images")


class RunBoard(Background, Widget):
    """Trainings as a table to sort and filter; their curves; and of one run all there is to know.

    A click on the head of a column sorts, ticked runs have their curves drawn, a click on a row (or
    Enter) opens a run: its recipe, the confusion of its test part at any threshold and its worst
    errors, or for masks the Dice of each image. `learner`, `explorer`, `maps` and `inspector` open
    the trained network again.

    Parameters
    ----------
    studies : `ablation.Study`, one or several. `from_table` and `from_folder` are other beginnings.
    traits : how it starts: `sort_by` (a column), `descending`, `search` (words), `only`
        ({column: level}), `selected` (run keys), `opened` (a key), `curve`, `log_scale`, `threshold`,
        `visible` (columns), `pictures`, `large`.

    Metrics are those of the test part, as the records have them. Runs that failed or that cannot be
    read are rows too, with what is wrong. `refresh` looks again, and so does the button.

    Raises ValueError for unknown names, and where there is no run.
    """

    _esm = script("board")
    _css = Widget._css + (_HERE / "board.css").read_text("utf-8")

    columns = traitlets.List(help="name, kind and levels of each").tag(sync=True)
    rows = traitlets.List(help="key, name, state, cells and text of each").tag(sync=True)
    ranks = traitlets.Dict(help="{column: place of each row, −1 for none}").tag(sync=True)
    summary = traitlets.Dict(help="title, counts and note").tag(sync=True)
    problems = traitlets.List(help="what cannot be read").tag(sync=True)
    problem = traitlets.Unicode(help="what went wrong last").tag(sync=True)

    visible = traitlets.List(traitlets.Unicode()).tag(sync=True)
    sort_by = traitlets.Unicode("", help="a column; as they come where empty").tag(sync=True)
    descending = traitlets.Bool(False).tag(sync=True)
    search = traitlets.Unicode("", help="words that a row must have").tag(sync=True)
    only = traitlets.Dict(help="{column: level}").tag(sync=True)
    selected = traitlets.List(traitlets.Unicode(), help="keys of the ticked runs").tag(sync=True)
    opened = traitlets.Unicode("", help="the run that is looked at").tag(sync=True)

    curve = traitlets.Unicode(LOSS, help="what the curves show").tag(sync=True)
    curve_names = traitlets.List([LOSS]).tag(sync=True)
    log_scale = traitlets.Bool(False).tag(sync=True)
    curves = traitlets.List(help="of the ticked and the opened").tag(sync=True)

    about = traitlets.Dict(help="of the opened run").tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    wrong = traitlets.Dict(help="the worst of its test images").tag(sync=True)
    pictures = traitlets.Bool(False, help="of the worst images").tag(sync=True)
    shown = traitlets.Dict(help="those pictures").tag(sync=True)
    running = traitlets.Unicode(help="what is being read").tag(sync=True)

    def __init__(self, *studies, find: Callable[[Records], Found] | None = None, **traits):
        from covidlab.ablation import Study

        if find is None:
            if not studies or not all(isinstance(s, Study) for s in studies):
                raise ValueError(
                    "RunBoard(study) takes an ablation.Study; a table goes into "
                    "RunBoard.from_table, a folder of records into RunBoard.from_folder"
                )
            find, title = lambda read: _of_studies(studies, read), _called(studies)
        else:
            title = traits.pop("title", "Runs")
        self._find, self._title = find, title
        self._read, self._known, self._learners = Records(), {}, {}
        self._colour_of, self._sources = {}, {}
        self._room = threading.BoundedSemaphore(1)
        self._listen()
        self._ready, self._before = False, None
        super().__init__()
        self._take(find(self._read))
        with self.hold_sync():
            self.visible = _shown_first(self._table, self._levels)
            for name, value in traits.items():
                if not self.has_trait(name):
                    raise ValueError(f"RunBoard has no trait {name!r}")
                setattr(self, name, value)
            self._draw()
            self._look()
        self.on_msg(self._hear)

    @classmethod
    def from_table(cls, table: pd.DataFrame, **traits) -> RunBoard:
        """The runs of a table of `Study.table()`, whose column `folder` leads to the records."""
        study = table.attrs.get("study")
        title = f"Study {study}" if study else "Table of runs"
        return cls(find=lambda read: records.of_table(table, read), title=title, **traits)

    @classmethod
    def from_folder(cls, folder=None, **traits) -> RunBoard:
        """Every run record below a folder, by default `paths.runs()`, and every run of its studies.

        Of a study, runs that were tried are there: its folder does not say which were planned.
        Raises FileNotFoundError where there is no record.
        """
        root = paths.runs() if folder is None else Path(folder).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(
                f"no folder at {root}: train something, or set COVIDLAB_RUNS to the folder of "
                "your runs"
            )
        title = f"Runs in {root.name}"
        return cls(find=lambda read: records.of_folder(root, read), title=title, **traits)

    def __len__(self) -> int:
        return len(self._entries)

    # ---- the table -----------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """A row a run, by its key: levels, seed, fold, state, metrics, error, folder."""
        return self._table.copy()

    def listed(self) -> list[str]:
        """Keys of the runs that `search` and `only` let through, sorted; without a value at the end."""
        words = self.search.lower().split()
        at = {column["name"]: i for i, column in enumerate(self.columns)}
        there = [
            i
            for i, row in enumerate(self.rows)
            if all(word in row["text"] for word in words)
            and all(row["cells"][at[name]] == level for name, level in self.only.items())
        ]
        if self.sort_by:
            ranks, sign = self.ranks[self.sort_by], -1 if self.descending else 1
            there.sort(key=lambda i: (ranks[i] < 0, sign * ranks[i]))
        return [self.rows[i]["key"] for i in there]

    def refresh(self):
        """Looks for new runs; what is sorted, ticked and opened stays so."""
        found = self._find(self._read)
        with self.hold_sync():
            self.problem = ""
            self._take(found)
            self._draw()
            self._look()

    def _take(self, found: Found):
        if not found.entries and not found.problems:
            raise ValueError(f"{self._title}: there are no runs")
        self._ready = False  # until all of it is there
        self._entries = {entry.key: entry for entry in found.entries}
        self._levels, self._table = dict(found.levels), _tabulated(found)
        columns = [_column(self._table, name, self._levels) for name in self._table]
        self.columns, self.rows = columns, _rows(found, self._table, columns)
        self.ranks = {c["name"]: _ranks(self._table[c["name"]], c) for c in columns}
        self.curve_names = _curve_names(self._entries.values())
        self.problems, self.summary = found.problems, self._summary(found)
        if self._before is not None:
            self._keep_chosen()
        self._before = set(self._table)
        self._ready = True

    def _keep_chosen(self):
        """What was chosen stays, but for what there is no longer; new columns are shown."""
        self.selected = [key for key in self.selected if key in self._entries]
        self.opened = self.opened if self.opened in self._entries else ""
        self.only = {k: v for k, v in self.only.items() if k in self._table}
        self.sort_by = self.sort_by if self.sort_by in self._table else ""
        self.curve = self.curve if self.curve in self.curve_names else LOSS
        fresh = set(_shown_first(self._table, self._levels)) - self._before
        self.visible = [name for name in self._table if name in {*self.visible, *fresh}]

    def _summary(self, found: Found) -> dict:
        states = [entry.state for entry in found.entries]
        counts = {state: states.count(state) for state in STATES if state in states}
        tried = len(states) - counts.get("missing", 0)
        note = ""
        if counts.get("done", 0) > 1:
            note = f"{tried} runs were tried. The best of many looks better than it is: "
            note += "ablation.compare sets runs beside each other in pairs."
        return {"title": self._title, "n": len(states), "counts": counts, "note": note}

    @traitlets.validate("sort_by")
    def _checked_sort(self, proposal) -> str:
        return self._one_of(proposal, ["", *self._table])

    @traitlets.validate("curve")
    def _checked_curve(self, proposal) -> str:
        return self._one_of(proposal, self.curve_names)

    @traitlets.validate("opened")
    def _checked_opened(self, proposal) -> str:
        return self._one_of(proposal, ["", *self._entries])

    @traitlets.validate("selected", "visible", "only")
    def _checked_names(self, proposal):
        name = proposal.trait.name
        known = self._entries if name == "selected" else self._table
        if unknown := [value for value in proposal.value if value not in known]:
            raise traitlets.TraitError(f"{name}: {unknown[0]!r} is none of {_some(known)}")
        return proposal.value

    @traitlets.validate("threshold")
    def _checked_threshold(self, proposal) -> float:
        if not 0 <= proposal.value <= 1:
            raise traitlets.TraitError(f"threshold={proposal.value} is no probability")
        return round(proposal.value * CUTS) / CUTS

    def _one_of(self, proposal, known) -> str:
        if proposal.value not in known:
            name = proposal.trait.name
            raise traitlets.TraitError(f"{name}: {proposal.value!r} is none of {_some(known)}")
        return proposal.value

    # ---- curves --------------------------------------------------------------------------------

    def history(self, run: str | None = None) -> pd.DataFrame:
        """A row an epoch, counted from 1; by default of the opened run."""
        history = self._recorded(run).history
        return pd.DataFrame(history, index=pd.RangeIndex(1, len(history) + 1, name="epoch"))

    @traitlets.observe("selected", "opened", "curve")
    def _on_curves(self, _):
        if self._ready:
            self._draw()

    def _draw(self):
        self._colour()
        keys = dict.fromkeys([*self.selected, *([self.opened] if self.opened else [])])
        self.curves = [self._curve_of(key) for key in keys]

    def _colour(self):
        """Each ticked run keeps its colour for as long as it is ticked."""
        kept = {key: c for key, c in self._colour_of.items() if key in self.selected}
        for key in self.selected:
            if key not in kept:
                taken = list(kept.values())
                kept[key] = min(_CYCLE, key=lambda c: (taken.count(c), _CYCLE.index(c)))
        self._colour_of = kept

    def _curve_of(self, key: str) -> dict:
        entry = self._entries[key]
        lines, best = {}, 0
        if entry.record is not None:
            names = {"training": "train_loss", "validation": "valid_loss"}
            names = names if self.curve == LOSS else {"validation": self.curve}
            history, best = entry.record.history, entry.record.best_epoch
            values = {line: [e.get(name) for e in history] for line, name in names.items()}
            lines = {k: list(map(_number, v)) for k, v in values.items() if set(v) - {None}}
        name = next(row["name"] for row in self.rows if row["key"] == key)
        colour = self._colour_of.get(key, OPENED)
        return {"key": key, "name": name, "colour": colour, "best": best, "lines": lines}

    # ---- one run -------------------------------------------------------------------------------

    def record(self, run: str | None = None):
        """The `RunRecord` of a finished run, by default of the opened one."""
        return self._recorded(run)

    def predictions(self, run: str | None = None) -> Predictions | MaskPredictions:
        """What a run said of its test part: as its study kept it, or as `predict` has made it.

        Raises FileNotFoundError where neither has.
        """
        from covidlab import ablation

        self._recorded(run)
        key = self.opened if run is None else run
        if key not in self._known:
            entry = self._entries[key]
            if not (entry.folder / "predictions.npz").is_file():
                raise FileNotFoundError(
                    f"run {key}: no predictions were kept, as studies do: board.predict() makes them"
                )
            self._keep(key, ablation.predictions(entry.folder))
        return self._known[key]

    def predict(self, run: str | None = None, data=None) -> Predictions | MaskPredictions:
        """Asks the trained network for its test part, and shows it; `data` as in `learner`."""
        from covidlab import training

        key = self._key(run)
        learn = self.learner(key, data)
        self._keep(key, training.predict(learn, learn.dls.split.test))
        if key == self.opened:
            self._look()
        return self._known[key]

    def confusion(self, run: str | None = None, threshold: float | None = None) -> pd.DataFrame:
        """Counts as in `evaluation.confusion`, by default at the threshold of the board."""
        from covidlab import evaluation

        found = self._classified(run)
        if found.positive is None:
            return evaluation.confusion(found)
        return evaluation.confusion(found, self.threshold if threshold is None else threshold)

    def errors(self, run: str | None = None, threshold: float | None = None) -> pd.DataFrame:
        """Test images taken for another class, the worst first: least probability for their label.

        Columns: image, patient_id, label, predicted, probability (of the label).
        """
        from covidlab.evaluation.metrics import decisions

        found = self._classified(run)
        cut = (self.threshold if threshold is None else threshold) if found.positive else None
        truth, said, _ = decisions(found, cut)
        if found.positive is None:
            names, of_label = found.classes, found.probabilities[np.arange(len(found)), truth]
        else:
            others = [c for c in found.classes if c != found.positive]
            rest = others[0] if len(others) == 1 else f"not {found.positive}"
            names = (rest, found.positive)
            of_label = np.where(truth == 1, found.score, 1 - found.score)
        frame = found.frame
        table = pd.DataFrame(
            {
                "image": frame["image"],
                "patient_id": frame["patient_id"] if "patient_id" in frame else "",
                "label": frame["label"],
                "predicted": [names[i] for i in said],
                "probability": of_label,
            }
        )
        return table[truth != said].sort_values("probability", kind="stable", ignore_index=True)

    def dice(self, run: str | None = None) -> pd.DataFrame:
        """The Dice of each test image and region, the worst first; NaN where neither mask has it.

        Columns: image, patient_id, and for each region X "dice / X", "pixels / X", "predicted
        pixels / X"; a pixel is of its most probable class. Sorted by the mean over the regions.
        """
        found = self.predictions(run)
        if not isinstance(found, MaskPredictions):
            raise ValueError(f"run {self._key(run)} classifies images: it has errors(), no dice()")
        frame = found.frame
        out = {"image": frame["image"], "patient_id": frame.get("patient_id", "")}
        for i, region in enumerate(found.classes[1:], 1):
            truth, said = found.truth == i, found.predicted == i
            both, a, b = ((m).sum((1, 2)) for m in (truth & said, truth, said))
            value = np.divide(2 * both, a + b, out=np.full(len(a), np.nan), where=a + b > 0)
            out |= {f"dice / {region}": value, f"pixels / {region}": a}
            out[f"predicted pixels / {region}"] = b
        table = pd.DataFrame(out)
        mean = table[[f"dice / {region}" for region in found.classes[1:]]].mean(axis=1)
        return table.iloc[np.argsort(mean.fillna(2), kind="stable")].reset_index(drop=True)

    def _classified(self, run) -> Predictions:
        found = self.predictions(run)
        if isinstance(found, MaskPredictions):
            raise ValueError(f"run {self._key(run)} finds masks: see dice() and inspector()")
        return found

    def _keep(self, key, found):
        self._known.pop(key, None)
        self._known[key] = found
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def _key(self, run: str | None) -> str:
        key = self.opened if run is None else run
        if not key:
            raise ValueError("no run is opened: click one, or name its key (see table().index)")
        if key not in self._entries:
            raise KeyError(f"no run {key!r}: the keys are in table().index")
        return key

    def _recorded(self, run: str | None):
        entry = self._entries[self._key(run)]
        if entry.record is None:
            why = f": {entry.error}" if entry.error else ""
            raise ValueError(f"run {entry.key} is {entry.state}{why}")
        return entry.record

    # ---- and on from there ---------------------------------------------------------------------

    def learner(self, run: str | None = None, data=None):
        """The trained Learner of a run, with its dataloaders; `learn.dls.split` is its split.

        `data` is the dataset, or split, it was trained on, for records that do not say enough of
        it: those of generated data that no study planned. Raises ValueError where the images or the
        split are not the recorded ones, FileNotFoundError where they or the weights are gone.
        """
        self._recorded(run)
        key = self._key(run)
        if data is not None or key not in self._learners:
            self._learners = {key: records.reopen(self._entries[key], data)}
        return self._learners[key]

    def explorer(self, run: str | None = None, data=None, **options):
        """A `FeatureExplorer` of the test part of a run; options as there.

        For a run that finds masks `layer` must be named, as in `explain.features`.
        """
        from .features import FeatureExplorer

        learn = self.learner(run, data)
        return FeatureExplorer.from_learner(learn, learn.dls.split.test, **options)

    def maps(self, run: str | None = None, data=None, **options):
        """A `MapViewer` of the test part of a run; options as there."""
        from .maps import MapViewer

        learn = self.learner(run, data)
        return MapViewer(learn, learn.dls.split.test, **options)

    def inspector(self, run: str | None = None, data=None, **options):
        """A `MaskInspector` of the test part of a run that finds masks; options as there.

        Of several regions the first is shown, unless `region` names another.
        """
        from .masks import MaskInspector

        learn = self.learner(run, data)
        if len(learn.recipe.regions) > 2:
            options = {"region": learn.recipe.regions[1], **options}
        return MaskInspector.from_learner(learn, learn.dls.split.test, **options)

    # ---- what the page shows of a run ----------------------------------------------------------

    @traitlets.observe("opened")
    def _on_opened(self, _):
        if self._ready:
            with self.hold_sync():
                self.problem = ""
                self._look()

    @traitlets.observe("threshold", "pictures")
    def _on_threshold(self, change):
        if self._ready:
            with self.hold_sync():
                if change.name == "threshold":
                    self.wrong = self._wrong()
                self._picture()

    def _look(self):
        self.about = self._about() if self.opened else {}
        self.wrong = self._wrong()
        self._picture()

    def _about(self) -> dict:
        entry, record = self._entries[self.opened], self._entries[self.opened].record
        row = next(row for row in self.rows if row["key"] == entry.key)
        out = {"key": entry.key, "name": row["name"], "state": entry.state, "error": entry.error}
        out |= {"traceback": entry.traceback, "folder": str(entry.folder or ""), "kind": ""}
        if record is None:
            recipe = entry.planned.recipe.asdict() if entry.planned is not None else {}
            data = entry.planned.data if entry.planned is not None else {}
            return out | {"parts": {"Recipe": _facts(recipe), "Data": _facts(data)}}
        run = {"seed": record.seed, "started": record.started, "seconds": record.seconds}
        run |= {"epochs": len(record.history), "best epoch": record.best_epoch}
        run |= {"weights from": record.weights_from} if record.weights_from else {}
        out["parts"] = {
            "Run": _facts(run),
            "Recipe": _facts(record.recipe),
            "Data": _facts(record.data),
            "Environment": _facts(record.environment),
            **{
                f"Metrics, {'test' if part == 'ablation' else part} part": _facts(m)
                for part, m in record.metrics.items()
            },
        }
        out["calls"] = self._calls(entry)
        try:
            found = self.predictions()
        except (OSError, ValueError, KeyError) as error:
            return out | {"note": str(error)}
        return out | (_masked(self.dice()) if isinstance(found, MaskPredictions) else _cut(found))

    def _calls(self, entry: Entry) -> list[list[str]]:
        """What to write in the notebook to go on with a run."""
        from covidlab import datasets

        planned = entry.planned or records.planned_for(entry.folder)
        unknown = planned is None and entry.record.data["dataset"] in datasets.phantom.PRESETS
        given = "data=split" if unknown else ""
        masks = entry.record.recipe.get("masks")
        further = ["its masks", "inspector"] if masks else ["its feature space", "explorer"]
        calls = [
            [what, f"board.{name}({given})"]
            for what, name in (
                ("the trained network", "learner"),
                further,
                ("where it looks", "maps"),
            )
        ]
        if not (entry.folder / "predictions.npz").is_file() and entry.key not in self._known:
            calls.insert(0, ["its test predictions", f"board.predict({given})"])
        return calls

    def _wrong(self) -> dict:
        """The worst test images, as rows for the page."""
        kind = self.about.get("kind")
        if kind == "classes":
            table = self.errors()
            rows = [
                {
                    "image": row.image,
                    "patient": row.patient_id,
                    "words": [row.label, row.predicted],
                    "value": float(row.probability),
                }
                for row in table.head(LISTED).itertuples()
            ]
        elif kind == "masks":
            table = self.dice()
            dices = [c for c in table if c.startswith("dice / ")]
            rows = [
                {
                    "image": row["image"],
                    "patient": row["patient_id"],
                    "words": [
                        f"{row[f'{word} / {region}']:,}"
                        for region in self.about["regions"]
                        for word in ("pixels", "predicted pixels")
                    ],
                    "values": [_number(row[c]) for c in dices],
                }
                for _, row in table.head(LISTED).iterrows()
            ]
        else:
            return {}
        return {"key": self.opened, "threshold": self.threshold, "n": len(table), "rows": rows}

    # ---- pictures ------------------------------------------------------------------------------

    def _picture(self):
        """Pictures of the worst, read in the background; what is no longer asked for is dropped."""
        self._ticket += 1
        rows = self.wrong.get("rows", [])[:PICTURES]
        if not self.pictures or not rows:
            self.shown, self.running = {}, ""
            return
        self.running = "reading pictures"
        entry, names = self._entries[self.opened], [row["image"] for row in rows]
        asked = self._ticket, entry, names, self.predictions()
        threading.Thread(target=self._run, args=asked, name="pictures", daemon=True).start()

    def _run(self, ticket, entry, names, found):
        try:
            with self._room:
                if ticket == self._ticket:
                    self._report(ticket, "pictures", self._pictures_of(entry, names, found))
        except Exception as error:
            self._report(ticket, "error", error)

    def _pictures_of(self, entry: Entry, names, found) -> dict:
        from covidlab.imaging import resize

        recipe = records.recipe_of(entry)
        if entry.key not in self._sources:
            learn = self._learners.get(entry.key)
            whole = learn.dls.split.test if learn is not None else records.dataset_of(entry)
            self._sources = {entry.key: whole}
        data = self._sources[entry.key]
        at = {name: i for i, name in enumerate(data.frame["image"])}
        row_of = {name: i for i, name in enumerate(found.frame["image"])}
        masks = isinstance(found, MaskPredictions)
        side = found.truth.shape[1:] if masks else min(recipe.size, SIDE)
        out = {}
        for name in names:
            if name not in at:
                raise ValueError(f"{name} is no longer in {data.card.id}")
            image = resize(data.image(at[name]), side, recipe.fit)
            picture = {"height": image.shape[0], "width": image.shape[1], "grey": grey_bytes(image)}
            if masks:
                truth, said = (m[row_of[name]] > 0 for m in (found.truth, found.predicted))
                picture["masks"] = (truth + 2 * said.astype(np.uint8)).astype(np.uint8).tobytes()
            out[name] = picture
        return {"key": entry.key, "pictures": out}

    def _heard(self, kind, value, current):
        if not current:
            return
        self.running = ""
        if kind == "pictures":
            self.shown = value
        else:
            self.problem, self.shown = f"no pictures: {value}", {}

    def _hear(self, _, content, __):
        if content.get("kind") != "refresh":
            return
        try:
            self.refresh()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"

    # ---- without a browser ---------------------------------------------------------------------

    def static(self, n: int = 12):
        """The best runs as a table, and the curves of those ticked and opened, as a Figure.

        The first `n` as they are sorted and filtered; unsorted, those with a value of the first
        metric, the largest first (of a loss, the least).
        """
        keys, by, falling = self.listed(), self.sort_by, self.descending
        if not by:
            numbers = [c["name"] for c in self.columns if c["kind"] == "number"]
            by = next(iter(_metrics(c for c in numbers if c in self.visible)), "")
            falling = "loss" not in by
            sign, at = -1 if falling else 1, {row["key"]: i for i, row in enumerate(self.rows)}
            ranks = self.ranks.get(by, [0] * len(self.rows))
            keys = [key for key in keys if ranks[at[key]] >= 0] or keys
            keys.sort(key=lambda key: sign * ranks[at[key]])
        drawn, shown = [c for c in self.curves if c["lines"]], keys[:n]
        names, cells = self._printed(shown)
        wide = sum(max(map(len, column)) + 2 for column in zip(names, *cells, strict=True))
        heights = [0.5 + 0.25 * (len(shown) + 1)] + [3 + 0.1 * len(drawn)] * bool(drawn)
        figure, axes = subplots(
            len(heights),
            1,
            figsize=(max(8.5, 0.078 * wide), sum(heights) + 0.4),
            height_ratios=heights,
            squeeze=False,
        )
        order = f", sorted by {by}, {'largest' if falling else 'smallest'} first" if by else ""
        title = f"{len(shown)} of {len(keys)} runs{order}"
        self._draw_table(axes[0, 0], shown, names, cells, title)
        if drawn:
            self._draw_curves(axes[1, 0], drawn)
        counts = ", ".join(f"{n} {state}" for state, n in self.summary["counts"].items())
        figure.suptitle(f"{self._title}: {counts}", fontsize=11, parse_math=False)
        return figure

    def _printed(self, keys) -> tuple[list[str], list[list[str]]]:
        """Names of the columns that hold anything, and their cells; the first marks ticked runs."""
        rows = {row["key"]: row["cells"] for row in self.rows}
        at = [i for i, c in enumerate(self.columns) if c["name"] in self.visible]
        at = [i for i in at if {rows[key][i] for key in keys} - {"", "–"}]
        at = [i for i in at if self.columns[i]["kind"] != "text"]
        marked = [key in self._colour_of or key == self.opened for key in keys]
        names = ["", *(_short(self.columns[i]["name"]) for i in at)]
        marks = ["●" if mark else "" for mark in marked]
        return names, [
            [mark, *(_short(rows[key][i]) for i in at)]
            for mark, key in zip(marks, keys, strict=True)
        ]

    def _draw_table(self, ax, keys, names, cells, title):
        ax.set_axis_off()
        ax.set_title(title, fontsize=9, loc="left", parse_math=False)
        if not cells:
            ax.text(0.5, 0.5, "no run is listed", ha="center")
            return
        widths = [max(map(len, column)) + 2 for column in zip(names, *cells, strict=True)]
        kinds = {_short(c["name"]): c["kind"] for c in self.columns}
        table = ax.table(
            cells,
            colLabels=names,
            colWidths=[w / sum(widths) for w in widths],
            bbox=(0, 0, 1, 1),
            edges="horizontal",
        )
        table.auto_set_font_size(False)
        for (row, column), cell in table.get_celld().items():
            cell.set(edgecolor="0.8", linewidth=0.5)
            cell.set_text_props(
                ha="right" if kinds.get(names[column]) == "number" else "left",
                fontsize=8,
                parse_math=False,
                fontweight="bold" if row == 0 else "normal",
            )
            if row and column == 0:
                cell.set_text_props(color=self._colour_of.get(keys[row - 1], OPENED))

    def _draw_curves(self, ax, drawn):
        from matplotlib.ticker import MaxNLocator

        for curve in drawn:
            for line, values in curve["lines"].items():
                values = np.array([np.nan if v is None else v for v in values], float)
                style = "--" if line == "training" else "-"
                label = curve["name"] if line == "validation" else None
                epochs = np.arange(1, len(values) + 1)
                width = 2.5 if curve["key"] == self.opened else 1.4
                ax.plot(epochs, values, style, color=curve["colour"], label=label, lw=width)
                if line == "validation" and curve["best"]:
                    best = curve["best"] - 1
                    ax.plot(best + 1, values[best], "o", color=curve["colour"], ms=5)
        lines = "validation solid, training dashed" if self.curve == LOSS else "validation"
        ax.set(xlabel="epoch", ylabel=self.curve)
        values = [v for curve in drawn for line in curve["lines"].values() for v in line]
        if self.log_scale and min(v for v in values if v is not None) > 0:
            ax.set_yscale("log")
        ax.set_title(f"{self.curve}: {lines}; ● the epoch that was kept", fontsize=9, loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 2}
        legend = ax.legend(fontsize=8, frameon=False, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)


# --- rows for the page ---------------------------------------------------------------------------


def _of_studies(studies, read: Records) -> Found:
    found = [records.of_study(study, read) for study in studies]
    if len(found) == 1:
        return found[0]
    entries, levels = [], {"study": [study.name for study in studies]}
    for study, one in zip(studies, found, strict=True):
        for e in one.entries:
            own = {"key": f"{study.name}/{e.key}", "levels": {"study": study.name, **e.levels}}
            entries.append(Entry(**{**vars(e), **own}))
        for factor, its in one.levels.items():
            levels[factor] = list(dict.fromkeys([*levels.get(factor, []), *its]))
    return Found(entries, levels)


def _called(studies) -> str:
    names = ", ".join(study.name for study in studies)
    return f"Study {names}" if len(studies) == 1 else f"Studies {names}"


def _tabulated(found: Found) -> pd.DataFrame:
    rows = [
        {
            **{factor: e.levels.get(factor, "") for factor in found.levels},
            "seed": e.seed,
            "fold": e.fold,
            "state": e.state,
            **e.numbers,
            "error": e.error,
            "folder": str(e.folder or ""),
        }
        for e in found.entries
    ]
    table = pd.DataFrame(rows, index=pd.Index([e.key for e in found.entries], name="run"))
    last = [c for c in ("best_epoch", "seconds", *_QUIET, "error", "folder") if c in table]
    return table[[c for c in table if c not in last] + last]


def _rows(found: Found, table: pd.DataFrame, columns) -> list[dict]:
    names, rows = _names(found), []
    texts = zip(*([_cell(v, c) for v in table[c["name"]]] for c in columns), strict=True)
    for entry, cells in zip(found.entries, texts, strict=True):
        row = {"key": entry.key, "name": names[entry.key], "state": entry.state}
        text = " ".join([*cells, entry.key]).lower()
        rows.append(row | {"cells": list(cells), "text": text})
    return rows


def _column(table: pd.DataFrame, name: str, levels: Mapping) -> dict:
    """Its kind (level, number, text), and the levels it can be filtered by."""
    if name in levels or name in ("seed", "fold", "state"):
        there = list(dict.fromkeys(_text(v) for v in table[name]))
        if name in levels:
            there = [v for v in levels[name] if v in there] + [v for v in there if v == ""]
        elif name == "state":
            there = [state for state in STATES if state in there]
        else:
            there.sort(key=lambda v: (v == "", float(v or 0)))
        return {"name": name, "kind": "level", "levels": there}
    return {"name": name, "kind": "text" if name in ("error", "folder") else "number", "levels": []}


def _text(value) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(value, column: Mapping) -> str:
    if column["kind"] != "number":
        return _text(value)
    if value is None or np.isnan(value):
        return "–"
    if column["name"] == "seconds":
        return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
    whole = column["name"] == "best_epoch" or column["name"] in _QUIET
    return f"{value:,.0f}" if whole else f"{value:.3f}"


def _ranks(values: pd.Series, column: Mapping) -> list[int]:
    """The place of each row in ascending order, equals sharing one; −1 for those without a value."""
    if column["kind"] == "number":
        return [-1 if np.isnan(r) else int(r) for r in values.rank(method="dense")]
    texts = [_text(v) for v in values]
    known = {text for text in texts if text}
    order = sorted(known, key=str.lower)
    if column["kind"] == "level":
        order = [level for level in column["levels"] if level]
        if all(_is_number(level) for level in order):
            order.sort(key=float)
    place = {text: i for i, text in enumerate(order)}
    return [place.get(text, -1) for text in texts]


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _names(found: Found) -> dict[str, str]:
    """How each run is called in legends: by what tells it from the others."""
    varied = [f for f in found.levels if len({e.levels.get(f, "") for e in found.entries}) > 1]
    several = [f for f in ("seed", "fold") if len({getattr(e, f) for e in found.entries}) > 1]
    own, out = ("dataset", "recipe", "network"), {}
    for e in found.entries:
        names = [f for f in varied if e.levels.get(f) and not (e.study and f in own)]
        words = [e.levels[f] if f in ("study", *own) else f"{f} {e.levels[f]}" for f in names]
        words += [f"{f} {value}" for f in several if (value := getattr(e, f)) is not None]
        out[e.key] = ", ".join(words) or e.key
    return out


def _shown_first(table: pd.DataFrame, levels: Mapping) -> list[str]:
    names = [f for f in levels if table[f].nunique() > 1 or f not in ("dataset", "recipe")]
    names += ["seed", "state", "best_epoch", "seconds"]
    names += ["fold"] * bool((table["fold"] != 0).any())
    names += ["error"] * bool((table["error"] != "").any())
    metrics = _metrics(c for c in table if c not in levels)
    usual = [c for c in metrics if _place(c) < len(FIRST)]
    names += usual[:8] or metrics[:5]
    return [name for name in table if name in names]


def _metrics(names) -> list[str]:
    """Those of the columns that are metrics, the usual ones first."""
    own = {"seed", "fold", "state", "best_epoch", "seconds", *_QUIET, "error", "folder"}
    names = [c for c in names if c not in own and not c.endswith((" low", " high"))]
    return sorted(names, key=_place)


def _place(name: str) -> int:
    bare = name.removeprefix("test ")
    return FIRST.index(bare) if bare in FIRST else len(FIRST)


def _curve_names(entries) -> list[str]:
    names = [
        n for e in entries if e.record is not None for epoch in e.record.history for n in epoch
    ]
    own = ("train_loss", "valid_loss")
    return [LOSS, *(name for name in dict.fromkeys(names) if name not in own)]


def _facts(content: Mapping, before: str = "") -> list[list[str]]:
    """[name, value] as text, mappings within flattened."""
    out = []
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            out += _facts(value, f"{before}{name}: ")
        else:
            out.append([f"{before}{name}", _said(value)])
    return out


def _said(value) -> str:
    if value is None or value == {} or value == [] or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_said, value)) if isinstance(value, list | tuple) else str(value)


def _cut(found: Predictions) -> dict:
    """Counts of the test part: at every threshold, or of the most probable classes."""
    out = {"kind": "classes", "n": len(found), "classes": list(found.classes)}
    if found.positive is None:
        from covidlab import evaluation

        return out | {"positive": "", "matrix": evaluation.confusion(found).to_numpy().tolist()}
    others = [c for c in found.classes if c != found.positive]
    rest = others[0] if len(others) == 1 else f"not {found.positive}"
    cuts = (np.arange(CUTS + 1) / CUTS).astype(np.float32)
    scores = [np.sort(found.score[found.is_positive == side]) for side in (True, False)]
    # how many of each side reach a cut, and how many do not
    below = [np.searchsorted(side, cuts, side="left") for side in scores]
    (fn, tn), (n_positive, n_negative) = below, map(len, scores)
    counts = np.stack([n_positive - fn, fn, n_negative - tn, tn], 1)
    return out | {"positive": found.positive, "rest": rest, "cuts": counts.tolist()}


def _masked(table: pd.DataFrame) -> dict:
    names = [c for c in table if c.startswith("dice / ")]
    sorted_ = {c: np.sort(table[c].dropna())[::-1].tolist() for c in names}
    return {
        "kind": "masks",
        "n": len(table),
        "regions": [c.removeprefix("dice / ") for c in names],
        "dices": list(sorted_.values()),
    }


def _number(value) -> float | None:
    """What JSON knows."""
    return None if value is None or not np.isfinite(value) else float(value)


def _short(text: str, most: int = 26) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _some(known) -> str:
    known = [name for name in known if name]
    return ", ".join(map(repr, known[:8])) + (", …" if len(known) > 8 else "")
