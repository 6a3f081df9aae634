"""The items of the reporting checklists, and how a training's own files answer them.

Three lists: CLAIM, the checklist for AI in medical imaging, with the item numbers of its 2024 update
(Tejani et al., Radiology: Artificial Intelligence 2024; those of 2020 are others); TRIPOD+AI (Collins
et al., BMJ 2024), by the name of its section; and the pitfalls of Roberts et al. (Nature Machine
Intelligence 2021), by name. The wording is ours and shorter. Sections and pitfalls are named from
knowledge of the papers, without their numbers.

A check takes the `Evidence` and returns a status and what was seen.
"""
# ruff: noqa: E501 (the long lines are the items)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidlab import evaluation
from covidlab.datasets import Split
from covidlab.predictions import MaskPredictions, Predictions

FOUND, MISSING, UNCLEAR, ASKED, ANSWERED = STATUSES = (
    "found",
    "not found",
    "unclear",
    "for you to answer",
    "answered",
)
_SHOWN = ("accuracy", "recall", "specificity", "roc_auc")
_GROUPS = ("site", "source", "severity", "sex", "age_group")


@dataclass(frozen=True)
class Evidence:
    """A training's record, and what else was handed in to look at."""

    record: object
    predictions: Predictions | MaskPredictions | None
    split: Split | None
    source: str | None
    level: float

    @property
    def recipe(self) -> dict:
        return self.record.recipe

    @property
    def data(self) -> dict:
        return self.record.data

    @property
    def by(self) -> str:
        return "patient" if "patient_id" in self.predictions.frame else "image"

    @cached_property
    def frame(self) -> pd.DataFrame | None:
        """All the images that are known, from the split and the predictions."""
        frames = [d.frame for d in self.split] if self.split else []
        if self.predictions is not None:
            frames.append(self.predictions.frame)
        if not frames:
            return None
        frame = pd.concat(frames, ignore_index=True)
        return frame.drop_duplicates(["image", "label"]) if "image" in frame else frame

    @cached_property
    def origin(self) -> str | None:
        """The column that tells sources apart, if one does."""
        if self.frame is None:
            return None
        patients = _patients(self.frame).nunique()
        for column in (self.source,) if self.source else ("site", "source"):
            if column in self.frame and _known(self.frame[column]).any():
                if self.source or self.frame[column].nunique() < patients:
                    return column
        return None


def _known(column: pd.Series) -> pd.Series:
    return column.notna() & (column.astype(str) != "")


def _patients(frame: pd.DataFrame) -> pd.Series:
    images = frame["image"] if "image" in frame else frame.index.to_series()
    images = "image:" + images.astype(str)
    if "patient_id" not in frame:
        return images
    return frame["patient_id"].where(_known(frame["patient_id"]), images)


def _some(names, most: int = 3) -> str:
    names = sorted(map(str, names))
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _of(values: Mapping, *names) -> str:
    return ", ".join(f"{n.replace('_', ' ')} {values[n]}" for n in names if n in values)


# --- checks: status and what was seen ------------------------------------------------------------


def _data_source(run):
    name = run.data.get("dataset")
    if not name:
        return MISSING, "the record names no dataset"
    card = run.split.train.card if run.split else None
    about = [name]
    if card:
        about += [card.title, card.citation, f"licence {card.licence}"]
    return FOUND, "; ".join(filter(None, about))


def _real(run):
    if "synthetic" not in run.data:
        return UNCLEAR, "the record does not say"
    if run.data["synthetic"]:
        return MISSING, "the images are generated: nothing here speaks of patients"
    return FOUND, "the dataset is not marked as generated"


def _problems(run):
    if run.split is None:
        return UNCLEAR, "pass split= to read the dataset's card"
    problems = run.split.train.card.problems
    return (FOUND, " ".join(problems)) if problems else (MISSING, "its card lists none")


def _preprocessing(run):
    value = _of(run.recipe, "size", "channels", "fit", "enhance")
    return (FOUND, value) if "size" in run.recipe else (MISSING, value)


def _parts(run):
    images, patients = run.data.get("images"), run.data.get("patients")
    if not images or not patients:
        return MISSING, "the record does not count them"
    counts = [f"{part} {n} images of {patients[part]} patients" for part, n in images.items()]
    return FOUND, f"{'; '.join(counts)}; {run.data.get('how', 'how is not recorded')}"


def _patient_ids(run):
    if run.frame is None:
        return UNCLEAR, "pass split= or predictions="
    ids = run.frame.get("patient_id")
    known = 0 if ids is None else int(_known(ids).sum())
    value = f"{known} of {len(run.frame)} images have a patient id"
    return (FOUND if known == len(run.frame) else MISSING), value


def _disjoint(run):
    how = run.data.get("how", "")
    if run.split is not None:
        shared = set(run.split.shared_patients())
        if run.predictions is not None:
            learned = set(run.split.train.patients) | set(run.split.valid.patients)
            shared |= learned & set(_patients(run.predictions.frame))
        if shared:
            return MISSING, f"{len(shared)} patient ids in more than one part: {_some(shared)}"
        if _patient_ids(run)[0] != FOUND:
            return UNCLEAR, "no patient id is in two parts, but not every image has one"
        return FOUND, "by their ids; whether the pictures agree: appraisal.copies"
    if "by image" in how:
        return MISSING, f"split by image: {how}"
    if "by patient" in how:
        alone = run.data.get("images") == run.data.get("patients")
        if alone and _patient_ids(run)[0] != FOUND:
            return UNCLEAR, f"as many patients as images: are the ids known? {how}"
        return FOUND, f"split by patient: {how}"
    return UNCLEAR, f"{how or 'how it was split is not recorded'}: pass split= to look"


def _equal_files(run):
    if run.split is None:
        return UNCLEAR, "pass split= to compare the files"
    parts = [d.frame["sha256"][_known(d.frame["sha256"])] for d in run.split]
    if sum(map(len, parts)) < sum(map(len, run.split)):
        return UNCLEAR, "not every image has a checksum"
    seen = pd.Series([h for part in parts for h in set(part)], dtype=object)
    same = int(seen.duplicated().sum())
    return (MISSING, f"{same} files are in two parts") if same else (FOUND, "by checksum")


def _classes(run):
    if run.split is None and run.predictions is None:
        return UNCLEAR, "pass split= or predictions="
    frames = {k: d.frame for k, d in run.split.parts.items()} if run.split else {}
    if run.predictions is not None:
        frames["tested"] = run.predictions.frame
    counts = {k: f["label"].value_counts() for k, f in frames.items()}
    said = [f"{k}: " + ", ".join(f"{c} {n}" for c, n in v.items()) for k, v in counts.items()]
    return FOUND, "; ".join(said)


def _imbalance(run):
    if run.recipe.get("masks"):
        if "static_attention" not in run.recipe:
            return UNCLEAR, "not in this record"
        weighed = run.recipe["static_attention"]
        return (
            FOUND,
            "pixels weighed by the rarity of their class" if weighed else "nothing was done",
        )
    done = {"class_weights": "loss weighed by inverse frequency", "oversample": "rarer repeated"}
    if not set(done) & set(run.recipe):
        return UNCLEAR, "not in this record"
    return FOUND, "; ".join(v for k, v in done.items() if run.recipe.get(k)) or "nothing was done"


def _confounded(run):
    """Can the class be guessed from the other patients of the same source? 0.05 over chance is ours."""
    column = run.origin
    if column is None:
        return UNCLEAR, "no column tells sources apart; name one with source="
    frame = run.frame[_known(run.frame[column])]
    table = pd.DataFrame(
        {"patient": _patients(frame), "label": frame["label"], "at": frame[column]}
    )
    table = table.drop_duplicates()
    counts = pd.crosstab(table["at"], table["label"])
    if len(counts) == 1:
        return FOUND, f"all images come from one source, {counts.index[0]}"
    where = counts.index.get_indexer(table["at"]), counts.columns.get_indexer(table["label"])
    others = counts.to_numpy()[where[0]]
    others[np.arange(len(others)), where[1]] -= 1
    guess = np.where(others.any(1), others.argmax(1), counts.sum().to_numpy().argmax())
    right = pd.Series(guess == where[1]).groupby(where[1]).mean().mean()
    chance = 1 / max(counts.shape[1], 1)
    shared = counts[counts.sum(axis=1) > 1]
    value = (
        f"{len(counts)} sources (column {column!r}); guessing the class of a patient from the other "
        f"patients of its source is right for {right:.0%} of a class on average, by chance {chance:.0%}"
    )
    for c in counts:
        at = shared.index[shared[c] > 0]
        if len(at) and not (shared.loc[at].drop(columns=c) > 0).any(axis=None):
            value += f"; {c} only from sources of its own: {_some(at)}"
    return (MISSING if right > chance + 0.05 else FOUND), value


def _external(run):
    if run.predictions is None or run.split is None:
        return UNCLEAR, "pass split= and predictions= to compare their sources"
    tested, column = run.predictions.frame, run.origin
    if column is not None and column in tested:
        there = set(tested[column][_known(tested[column])])
        learned = [d.frame.get(column, pd.Series(dtype=str)) for d in run.split][:2]
        learned = {v for c in learned for v in c[_known(c)]}
        if there and learned:
            common = there & learned
            if not common:
                return FOUND, f"tested on {_some(there)}, learned from {_some(learned)}"
            return MISSING, f"tested on sources that it learned from, too: {_some(common)}"
    inside = "image" in tested and set(tested["image"]) <= {
        n for d in run.split for n in d.frame["image"]
    }
    if inside:
        return MISSING, f"tested on images of {run.data['dataset']}, which it learned from"
    return UNCLEAR, "tested on images outside the split; whether from elsewhere is not recorded"


def _network(run):
    options = run.recipe.get("options") or {}
    said = ", ".join(f"{k}={v}" for k, v in options.items())
    value = "; ".join(filter(None, [run.recipe.get("network"), said, run.recipe.get("source")]))
    return (FOUND, value) if run.recipe.get("network") else (MISSING, "the record names none")


def _parameters(run):
    file = getattr(run.record, "weights", None)
    if file is None or not Path(file).is_file():
        return UNCLEAR, "the weights are not beside the record"
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(v.numel() for k, v in state.items() if not k.endswith(buffers))
    return FOUND, f"{count:,}, without the running statistics of batch norm"


def _start(run):
    begun = getattr(run.record, "weights_from", "")
    if begun:
        return FOUND, f"the weights of {begun}"
    if "pretrained" not in run.recipe:
        return UNCLEAR, "not in this record"
    return FOUND, "ImageNet weights" if run.recipe["pretrained"] else "random, from the seed"


def _training(run):
    names = ("optimiser", "lr", "momentum", "weight_decay", "batch_size", "epochs", "schedule")
    value = _of(run.recipe, *names, "loss", "augment", "trainable")
    return (FOUND if {"optimiser", "lr"} <= set(run.recipe) else MISSING), value


def _selection(run):
    best, history = getattr(run.record, "best_epoch", 0), getattr(run.record, "history", [])
    if not best:
        return MISSING, "no best epoch is recorded"
    monitor = run.recipe.get("monitor", "an unrecorded criterion")
    return FOUND, f"epoch {best} of {len(history)}, by {monitor} on the validation part"


def _seed(run):
    return FOUND, f"{run.record.seed}; one training says nothing of how much the seed matters"


def _environment(run):
    found = run.record.environment
    packages = ", ".join(f"{k} {v}" for k, v in (found.get("packages") or {}).items() if v)
    value = f"{_of(found, 'python', 'device', 'precision')}; {packages}"
    return (FOUND if packages else MISSING), value


def _code(run):
    commit = run.record.environment.get("git")
    if not commit:
        return MISSING, "no commit recorded: not trained in a checkout"
    if commit.endswith("+"):
        return MISSING, f"files differed from commit {commit[:12]}"
    return FOUND, f"commit {commit[:12]}"


def _hashes(run):
    named = [("data", run.data.get("fingerprint")), ("split", run.data.get("split"))]
    named.append(("recipe", run.recipe.get("hash")))
    value = ", ".join(f"{k} {v[:16]}" for k, v in named if v)
    return (FOUND if all(v for _, v in named) else MISSING), value


def _weights(run):
    file = getattr(run.record, "weights", None)
    there = file is not None and Path(file).is_file()
    return (FOUND, Path(file).name) if there else (MISSING, "no weights beside the record")


def _intervals(run):
    if run.predictions is None:
        parts = {k: v for k, v in getattr(run.record, "metrics", {}).items() if k != "valid"}
        return (
            MISSING,
            f"{'numbers without: ' + _some(parts) if parts else 'no test'}; pass predictions=",
        )
    if isinstance(run.predictions, MaskPredictions):
        table = evaluation.segmentation_report(run.predictions, run.level, run.by)
        shown = [m for m in table.index if m.startswith(("dice", "iou")) and "background" not in m]
    else:
        table = evaluation.report(run.predictions, run.level, run.by)
        shown = _SHOWN
    table = table.loc[list(shown)]
    said = [f"{m} {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for m, r in table.iterrows()]
    status = FOUND if table["low"].notna().any() else UNCLEAR
    return status, f"{run.level:.0%}, by {run.by}: {'; '.join(said)}"


def _calibration(run):
    if not isinstance(run.predictions, Predictions):
        return (
            UNCLEAR,
            "pass predictions=" if run.predictions is None else "not measured for pixels",
        )
    error = evaluation.calibration_error(run.predictions, level=run.level, by=run.by)
    chance = evaluation.chance_calibration_error(run.predictions, level=run.level)
    score = evaluation.brier(run.predictions, run.level, run.by)
    return FOUND, f"ECE {error}, of a calibrated model {chance}; Brier score {score}"


def _benefit(run):
    if not isinstance(run.predictions, Predictions) or run.predictions.positive is None:
        return UNCLEAR, "needs predictions= with a positive class"
    table = evaluation.decision_curve(run.predictions, level=run.level, by=run.by, n_boot=500)
    good = table.index[table["gain low"] > 0]
    if not len(good):
        return MISSING, "at no threshold is the gain over treating all or none above 0"
    return (
        FOUND,
        f"the gain is above 0 at {len(good)} of 99 thresholds, {good[0]:g} to {good[-1]:g}",
    )


def _subgroups(run):
    if not isinstance(run.predictions, Predictions):
        return UNCLEAR, "needs predictions= of classes"
    frame, said = run.predictions.frame, []
    for column in _GROUPS:
        groups = frame[column][_known(frame[column])].nunique() if column in frame else 0
        if 2 <= groups <= 12 and groups < _patients(frame).nunique():
            right = run.predictions.predicted == run.predictions.truth
            groups = pd.Series(right).groupby(frame[column].to_numpy()).agg(["mean", "size"])
            each = ", ".join(
                f"{k} {g['mean']:.2f} (n {g['size']:.0f})" for k, g in groups.iterrows()
            )
            said.append(f"accuracy by {column}: {each}")
    if said:
        return FOUND, "; ".join(said) + "; intervals: evaluation.by_group"
    return MISSING, f"no column of {', '.join(_GROUPS)} has from 2 to 12 groups"


class Item(NamedTuple):
    key: str
    topic: str
    item: str
    checklists: str
    check: Callable | None = None


def _item(key, topic, text, claim="", tripod="", roberts=False, check=None) -> Item:
    lists = [claim and f"CLAIM {claim}", tripod and f"TRIPOD+AI: {tripod}"]
    return Item(
        key, topic, text, "; ".join(filter(None, [*lists, roberts and "Roberts 2021"])), check
    )


# fmt: off
ITEMS = (
    _item("purpose", "Study", "What is it for: which decision, whose, for which patients?", "3, 41", "background"),
    _item("design", "Study", "Were the data collected for this study, or before it?", "5", "data"),
    _item("sample_size", "Study", "How was the number of patients arrived at?", "21", "sample size"),
    _item("ethics", "Study", "Who approved the use of the images, and were they de-identified?", "11", "ethical approval"),
    _item("registration", "Study", "Is there a protocol or a registration?", "34, 42", "open science"),
    _item("data_source", "Data", "The images' source is named", "7", "data", True, _data_source),
    _item("real_patients", "Data", "The images are of patients", "", "participants", False, _real),
    _item("known_problems", "Data", "What is known to be wrong with the data is written down", "40", "limitations", True, _problems),
    _item("eligibility", "Data", "Who was included and who was left out, and why?", "8, 35", "participants"),
    _item("acquisition", "Data", "Scanners, protocols, window: how were the images taken?", "13", "data preparation"),
    _item("missing", "Data", "What was missing, and what was done about it?", "12", "missing data"),
    _item("demographics", "Data", "Age, sex and severity of the patients in each part?", "36", "participants", True),
    _item("reference_standard", "Data", "How is the truth known (PCR, radiologist, follow-up), and why so?", "14, 15", "outcome"),
    _item("annotators", "Data", "Who labelled, how well did they agree?", "16, 17, 18", "outcome"),
    _item("class_sizes", "Data", "Images of each class are counted", "36", "participants", False, _classes),
    _item("sources_of_classes", "Data", "The source does not give the class away", "", "", True, _confounded),
    _item("preprocessing", "Data", "How an image was prepared is recorded", "9", "data preparation", True, _preprocessing),
    _item("parts", "Parts", "Images and patients of each part are counted, and how they were drawn", "19", "analytical methods", False, _parts),
    _item("patient_ids", "Parts", "It is known which images are of one patient", "20", "", False, _patient_ids),
    _item("patients_disjoint", "Parts", "No patient is in two parts", "20", "analytical methods", True, _disjoint),
    _item("equal_files", "Parts", "No file is in two parts", "", "", True, _equal_files),
    _item("near_copies", "Parts", "Were cropped and rescaled copies looked for across the parts (appraisal.copies)?", "", "", True),
    _item("network", "Model", "The network is described", "22", "analytical methods", False, _network),
    _item("parameters", "Model", "Its parameters are counted", "22", "model specification", False, _parameters),
    _item("initial_weights", "Model", "What it started from is recorded", "24", "analytical methods", False, _start),
    _item("hyperparameters", "Training", "Optimiser, rates, batch, length, loss and augmentation are recorded", "25", "analytical methods", True, _training),
    _item("hyperparameter_search", "Training", "How were these values chosen, and on which images?", "25", "analytical methods"),
    _item("imbalance", "Training", "What was done about unequal classes is recorded", "25", "class imbalance", False, _imbalance),
    _item("selection", "Training", "How the final weights were chosen is recorded", "26", "analytical methods", True, _selection),
    _item("seed", "Training", "The seed is recorded", "24", "", False, _seed),
    _item("environment", "Reproducibility", "Libraries, versions and device are recorded", "23", "", False, _environment),
    _item("code", "Reproducibility", "The code is that of one commit", "43", "open science", False, _code),
    _item("hashes", "Reproducibility", "Data, split and recipe have hashes", "", "open science", False, _hashes),
    _item("weights", "Reproducibility", "The weights are kept", "43", "model specification", False, _weights),
    _item("availability", "Reproducibility", "Where can others get data, code and weights?", "43", "open science"),
    _item("intervals", "Evaluation", "Performance on the test part has intervals", "29, 37, 38", "model performance", True, _intervals),
    _item("external_test", "Evaluation", "It was tested on another source than it learned from", "33", "training versus evaluation", True, _external),
    _item("calibration", "Evaluation", "Calibration is measured", "28", "model performance", False, _calibration),
    _item("net_benefit", "Evaluation", "Acting on it beats treating all and none, within these data", "", "model performance", False, _benefit),
    _item("subgroups", "Evaluation", "Performance in groups of patients is looked at", "37", "fairness", False, _subgroups),
    _item("robustness", "Evaluation", "Was it tried on changed images, other seeds, other thresholds?", "30"),
    _item("shortcuts", "Evaluation", "Can the class be told with the lungs blacked out?", "30"),
    _item("explanation", "Evaluation", "What does it look at, and how was that checked?", "31"),
    _item("failures", "Evaluation", "Which cases does it get wrong, and why?", "39"),
    _item("limitations", "Discussion", "What must it not be used for?", "40", "limitations"),
    _item("public_involvement", "Discussion", "Were patients or the public involved?", "", "patient and public involvement"),
    _item("funding", "Discussion", "Who paid, and who has an interest?", "44", "open science"),
)
# fmt: on
