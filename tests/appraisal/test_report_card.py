import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from covidlab import appraisal, evaluation
from covidlab.appraisal.checklist import ANSWERED, ASKED, FOUND, ITEMS, MISSING, STATUSES, UNCLEAR
from covidlab.datasets import Card, Dataset, Split
from covidlab.predictions import MaskPredictions, Predictions
from covidlab.training import RunRecord

CARD = Card("set", "A set", "CT", classes=("normal", "COVID"), positive="COVID", licence="CC0")


def frame(start, n, **columns):
    """Rows of patients `start` onwards, one image each, of alternating class."""
    ids = range(start, start + n)
    table = pd.DataFrame({"image": [f"{i}.png" for i in ids]})
    table["label"] = ["COVID" if i % 2 else "normal" for i in ids]
    table["patient_id"] = [f"P{i}" for i in ids]
    table["sha256"] = [f"{i:064x}" for i in ids]
    return table.assign(**columns)


def split(train=None, valid=None, test=None, how="random by patient", card=CARD):
    frames = (frame(0, 40), frame(40, 20), frame(60, 30))
    given = (train, valid, test)
    parts = [d if g is None else g for d, g in zip(frames, given, strict=True)]
    return Split(*(Dataset(f, Path("nowhere"), card) for f in parts), how)


def record(of=None, folder="run", **changes):
    of = of or split()
    recipe = {
        "network": "ResNet-18",
        "options": {},
        "pretrained": True,
        "size": 64,
        "channels": 1,
        "fit": "squash",
        "enhance": "clahe",
        "batch_size": 8,
        "optimiser": "adam",
        "lr": 0.001,
        "epochs": 3,
        "loss": "cross_entropy",
        "class_weights": True,
        "oversample": False,
        "masks": [],
        "monitor": "valid_loss",
        "hash": "ab12",
    }
    data = {
        "dataset": "set",
        "synthetic": False,
        "fingerprint": "f" * 64,
        "split": "cafe",
        "how": of.how,
        "images": {k: len(d) for k, d in of.parts.items()},
        "patients": {k: len(set(d.patients)) for k, d in of.parts.items()},
    }
    environment = {"python": "3.11", "packages": {"torch": "2.4", "timm": None}, "git": "0" * 40}
    for name, values in changes.items():
        {"recipe": recipe, "data": data, "environment": environment}[name].update(values)
    history = [{"valid_loss": v} for v in (0.5, 0.4, 0.6)]
    return RunRecord(Path(folder), recipe, data, 7, environment, history, 2, "2020-02-02")


def predictions(of, seed=0, right=0.8):
    """Scores that tend to be right by `right`."""
    rng = np.random.default_rng(seed)
    truth = (of["label"] == "COVID").to_numpy()
    score = np.clip(np.where(truth, right, 1 - right) + rng.normal(0, 0.2, len(of)), 0.01, 0.99)
    return Predictions(of, np.stack([1 - score, score], 1), CARD.classes, "COVID", "net")


def row(card, key):
    return card.table.loc[key, "status"], card.table.loc[key, "value"]


def test_what_the_record_says_is_found_with_its_value():
    card = appraisal.report_card(record())
    assert row(card, "parts") == (
        FOUND,
        "train 40 images of 40 patients; valid 20 images of 20 patients; "
        "test 30 images of 30 patients; random by patient",
    )
    assert row(card, "preprocessing") == (FOUND, "size 64, channels 1, fit squash, enhance clahe")
    assert row(card, "selection") == (FOUND, "epoch 2 of 3, by valid_loss on the validation part")
    assert row(card, "initial_weights") == (FOUND, "ImageNet weights")
    assert row(card, "imbalance") == (FOUND, "loss weighed by inverse frequency")
    assert row(card, "seed")[1].startswith("7;")
    assert row(card, "environment") == (FOUND, "python 3.11; torch 2.4")
    assert row(card, "hashes") == (FOUND, "data ffffffffffffffff, split cafe, recipe ab12")
    assert "lr 0.001" in row(card, "hyperparameters")[1]
    assert card.title == "ResNet-18 on set" and "run run" in card.about


def test_what_the_record_does_not_say_is_not_found_or_unclear():
    bare = SimpleNamespace(recipe={}, data={}, environment={}, seed=0)
    card = appraisal.report_card(bare)
    for key in ("data_source", "parts", "network", "hyperparameters", "selection", "code"):
        assert row(card, key)[0] == MISSING, key
    for key in ("real_patients", "patients_disjoint", "equal_files", "parameters", "calibration"):
        assert row(card, key)[0] == UNCLEAR, key
    assert row(card, "seed")[0] == FOUND
    changed = record(environment={"git": "0" * 40 + "+"})
    assert row(appraisal.report_card(changed), "code") == (
        MISSING,
        "files differed from commit 000000000000",
    )
    generated = appraisal.report_card(record(data={"synthetic": True}))
    assert row(generated, "real_patients")[0] == MISSING


def test_parameters_are_those_of_the_network(tmp_path):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    card = appraisal.report_card(record(folder=tmp_path))
    assert row(card, "parameters")[1].startswith("48,")  # 4·9 weights, 4 biases, 2·4 of batch norm
    assert sum(p.numel() for p in network.parameters()) == 48
    assert row(card, "weights") == (FOUND, "weights.pth")
    assert row(appraisal.report_card(record(folder=tmp_path / "gone")), "weights")[0] == MISSING


# --- patients and files --------------------------------------------------------------------------


def test_patients_in_two_parts_are_found_out():
    clean = split()
    card = appraisal.report_card(record(clean), split=clean)
    assert row(card, "patients_disjoint")[0] == row(card, "equal_files")[0] == FOUND
    leaking = split(test=frame(38, 4), how="as published")
    card = appraisal.report_card(record(leaking), split=leaking)
    assert row(card, "patients_disjoint") == (
        MISSING,
        "4 patient ids in more than one part: P38, P39, P40 and 1 more",
    )
    assert row(card, "equal_files") == (MISSING, "4 files are in two parts")
    # Tested on patients of the validation part, though the parts themselves are disjoint.
    card = appraisal.report_card(record(clean), predictions(frame(55, 10)), clean)
    assert row(card, "patients_disjoint")[1].startswith("5 patient ids")


@pytest.mark.parametrize(
    "how,images,status",
    [
        ("random by patient, seed 0", 80, FOUND),
        ("random by patient, seed 0", 40, UNCLEAR),  # as many patients: their ids may be unknown
        ("random by image, seed 0", 80, MISSING),
        ("as published", 80, UNCLEAR),
    ],
)
def test_without_the_split_the_record_is_read(how, images, status):
    data = {"how": how, "images": {"train": images}, "patients": {"train": 40}}
    assert row(appraisal.report_card(record(data=data)), "patients_disjoint")[0] == status


def test_unknown_patients_and_missing_checksums_are_not_taken_for_clean():
    of = split(train=frame(0, 40, patient_id="", sha256=""))
    card = appraisal.report_card(record(of), split=of)
    assert row(card, "patient_ids") == (MISSING, "50 of 90 images have a patient id")
    assert row(card, "patients_disjoint")[0] == row(card, "equal_files")[0] == UNCLEAR


# --- sources -------------------------------------------------------------------------------------


def sourced(of_label):
    """A split whose images come from what `of_label` says of (label, number)."""
    parts = [frame(*p) for p in ((0, 40), (40, 20), (60, 30))]
    for part in parts:
        part["source"] = [of_label(c, i) for i, c in enumerate(part["label"])]
    return split(*parts)


def test_one_source_per_class_gives_the_class_away():
    of = sourced(lambda label, i: {"COVID": "Wuhan", "normal": "Bern"}[label])
    status, value = row(appraisal.report_card(record(of), split=of), "sources_of_classes")
    assert status == MISSING and "right for 100% of a class on average, by chance 50%" in value
    assert "COVID only from sources of its own: Wuhan" in value
    even = sourced(lambda label, i: "AB"[i // 2 % 2])
    status, value = row(appraisal.report_card(record(even), split=even), "sources_of_classes")
    assert status == FOUND and "own" not in value
    one = sourced(lambda label, i: "Bern")
    assert row(appraisal.report_card(record(one), split=one), "sources_of_classes") == (
        FOUND,
        "all images come from one source, Bern",
    )
    none = appraisal.report_card(record(), split=split())
    assert row(none, "sources_of_classes")[0] == UNCLEAR


def test_guessing_from_the_source_by_hand():
    # A: three COVID, one normal; B: the reverse. The three are guessed right from the other three,
    # the single ones wrong: 3 of 4 in either class.
    table = frame(0, 8).sort_values("label", ignore_index=True)
    table["ward"] = list("AAABABBB")
    card = appraisal.report_card(record(), predictions(table), source="ward")
    status, value = row(card, "sources_of_classes")
    assert status == MISSING and "right for 75% of a class" in value and "column 'ward'" in value
    # One of each class in every ward: the other one always misleads.
    paired = appraisal.report_card(
        record(), predictions(frame(0, 8, ward=list("AABBCCDD"))), source="ward"
    )
    assert row(paired, "sources_of_classes")[0] == FOUND
    assert "right for 0% of a class" in row(paired, "sources_of_classes")[1]


def test_a_source_for_every_patient_says_nothing():
    of = sourced(lambda label, i: "")
    parts = [d.frame.assign(source=d.frame["patient_id"]) for d in of]
    of = split(*parts)
    assert row(appraisal.report_card(record(of), split=of), "sources_of_classes")[0] == UNCLEAR


def test_an_external_test_is_told_from_an_internal_one():
    inside = sourced(lambda label, i: "AB"[i // 2 % 2])
    card = appraisal.report_card(record(inside), predictions(inside.test.frame), inside)
    assert row(card, "external_test") == (
        MISSING,
        "tested on sources that it learned from, too: A, B",
    )
    elsewhere = frame(200, 30, source="C")
    card = appraisal.report_card(record(inside), predictions(elsewhere), inside)
    assert row(card, "external_test") == (FOUND, "tested on C, learned from A, B")
    plain = split()
    card = appraisal.report_card(record(plain), predictions(plain.test.frame), plain)
    assert row(card, "external_test")[0] == MISSING
    card = appraisal.report_card(record(plain), predictions(frame(200, 30)), plain)
    assert row(card, "external_test")[0] == UNCLEAR


# --- numbers -------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_evaluation():
    p = predictions(frame(60, 30, site=["north"] * 18 + ["south"] * 12), right=0.6)
    card = appraisal.report_card(record(), p)
    recall = evaluation.report(p).loc["recall"]
    said = f"recall {recall['value']:.2f} [{recall['low']:.2f}, {recall['high']:.2f}]"
    assert said in row(card, "intervals")[1] and row(card, "intervals")[0] == FOUND
    assert f"ECE {evaluation.calibration_error(p)}" in row(card, "calibration")[1]
    north = (p.predicted == p.truth)[:18].mean()
    assert f"north {north:.2f} (n 18)" in row(card, "subgroups")[1]
    assert row(card, "class_sizes")[1] == "tested: normal 15, COVID 15"


def test_net_benefit_is_found_where_there_is_some():
    good = appraisal.report_card(record(), predictions(frame(0, 60), right=0.9))
    assert row(good, "net_benefit")[0] == FOUND and "0.5" <= row(good, "net_benefit")[1]
    useless = appraisal.report_card(record(), predictions(frame(0, 60), right=0.5))
    assert row(useless, "net_benefit")[0] == MISSING


def test_numbers_without_interval_are_not_enough():
    trained = record()
    trained.metrics = {"valid": {"accuracy": 1.0}, "test": {"accuracy": 0.99}}
    status, value = row(appraisal.report_card(trained), "intervals")
    assert status == MISSING and "numbers without: test" in value


def test_masks_have_intervals_and_no_calibration():
    rng = np.random.default_rng(0)
    p = rng.random((6, 1, 16, 16)).astype(np.float32)
    truth = (p[:, 0] + rng.normal(0, 0.3, (6, 16, 16))) > 0.5
    masks = MaskPredictions(frame(0, 6), np.concatenate([1 - p, p], 1), truth)
    card = appraisal.report_card(record(recipe={"masks": ["infection_mask"]}), masks)
    dice = evaluation.segmentation_report(masks).loc["dice / infection", "value"]
    assert f"dice / infection {dice:.2f} [" in row(card, "intervals")[1]
    assert row(card, "calibration") == (UNCLEAR, "not measured for pixels")


# --- answers, table and page ---------------------------------------------------------------------


def test_answers_fill_what_is_asked_and_remark_on_the_rest():
    before = appraisal.report_card(record())
    assert {"purpose", "equal_files"} <= set(before.questions) and "seed" not in before.questions
    answers = {"purpose": "teaching", "equal_files": "none, we looked", "seed": "one of five"}
    after = appraisal.report_card(record(), answers=answers)
    assert row(after, "purpose") == (ANSWERED, "teaching")
    assert row(after, "equal_files")[0] == ANSWERED
    assert row(after, "equal_files")[1].startswith("none, we looked; (pass split=")
    assert row(after, "seed")[0] == FOUND and row(after, "seed")[1].endswith("remark: one of five")
    assert set(before.questions) - set(after.questions) == {"purpose", "equal_files"}
    # An empty answer is none, and what was not found cannot be talked away.
    empty = appraisal.report_card(record(), answers={"purpose": " ", "external_test": "yes"})
    assert row(empty, "purpose")[0] == ASKED
    code = appraisal.report_card(record(environment={"git": None}), answers={"code": "it was"})
    assert row(code, "code")[0] == MISSING


def test_items_have_one_key_and_numbers_that_exist():
    keys = [item.key for item in ITEMS]
    assert len(set(keys)) == len(keys)
    for item in ITEMS:
        for numbers in re.findall(r"CLAIM ([\d, ]+)", item.checklists):
            assert all(1 <= int(n) <= 44 for n in numbers.split(","))
        assert item.item.endswith("?") == (item.check is None), item.key
    table = appraisal.report_card(record()).table
    assert list(table.index) == keys and set(table["status"]) <= set(STATUSES)
    assert (table.loc[table["status"] == ASKED, "value"] == "").all()


class Page(HTMLParser):
    """Tags in order, attributes, and text, of well-nested HTML."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.said = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.said += text


def test_the_page_is_whole_escaped_and_needs_no_network(tmp_path):
    hostile = "<script>alert(1)</script> & <img src=x onerror=alert(2)>"
    trained = record(recipe={"network": hostile}, data={"dataset": hostile})
    card = appraisal.report_card(trained, answers={"purpose": hostile})
    file = card.save(tmp_path / "card.html")
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not {"src", "href", "onerror", "onload"} & set(page.attributes)
    assert page.said.count(hostile) >= 4 and "http" not in text and "url(" not in text
    assert page.tags.count("tbody") == card.table["topic"].nunique()
    for item in ITEMS:
        assert item.item in page.said and item.key in page.said
    assert card._repr_html_() in text and len(text) < 40_000
    assert "complied with" in page.said and "compliant" not in page.said


def test_rows_without_image_names_or_patients_are_taken():
    p = predictions(frame(60, 30)[["label"]])
    card = appraisal.report_card(record(), p, split())
    assert row(card, "external_test")[0] == UNCLEAR and "by image" in row(card, "intervals")[1]
    card = appraisal.report_card(record(), p)
    assert row(card, "patient_ids") == (MISSING, "0 of 30 images have a patient id")


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="not the record's: images"):
        appraisal.report_card(record(), split=split(test=frame(60, 29)))
    with pytest.raises(ValueError, match="not the record's: how"):
        appraisal.report_card(record(), split=split(how="random by image"))
    with pytest.raises(ValueError, match="no `recipe`"):
        appraisal.report_card(Path("run"))
    with pytest.raises(ValueError, match="source='clinic'"):
        appraisal.report_card(record(), split=split(), source="clinic")
    with pytest.raises(ValueError, match="seeed"):
        appraisal.report_card(record(), answers={"seeed": "7"})
