"""What a picture's making says of its label: planted facts are found, and chance is not taken for one."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab import datasets
from covidlab.appraisal import label_from, picture_facts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Forty noisy pictures, two a patient: B has a black border at the left, and came as JPEG."""
    folder, rng, rows = tmp_path_factory.mktemp("made"), np.random.default_rng(0), []
    for i in range(40):
        label = "AB"[i // 2 % 2]
        picture = rng.integers(30, 220, (40, 60)).astype(np.uint8)
        if label == "B":
            picture[:, :6] = 0
        Image.fromarray(picture).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "label": label, "patient_id": f"p{i // 2}"})
        rows[-1] |= {"source_path": f"{i}.{'jpg' if label == 'B' else 'png'}"}
        rows[-1] |= {"original_width": "600", "original_height": "400"}
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return datasets.load(str(folder))


@pytest.fixture(scope="module")
def facts(made):
    return picture_facts(made, progress=False)


def test_facts_are_what_was_drawn(facts, made):
    b = made.frame["label"].eq("B").to_numpy()
    assert facts["border", "left"][b].eq(0.1).all() and facts["border", "left"][~b].eq(0).all()
    assert facts["border"].drop(columns="left").eq(0).all(axis=None)
    assert facts["file", "jpg"].eq(b).all() and facts["file", "png"].eq(~b).all()
    assert facts["size", "aspect"].eq(1.5).all() and facts["size", "width"].eq(600).all()


def test_marks_are_counted_in_the_outer_ring_only():
    from covidlab.appraisal.shortcuts import _marks

    image = np.full((100, 100), 0.5, np.float32)
    image[40:60, 40:60] = 1.0  # inside
    image[:10, :10] = 1.0  # a letter in the corner
    ring = 100 * 100 - 70 * 70
    assert _marks(image)["marks", "nearly white"] == pytest.approx(100 / ring)


def test_histogram_adds_up(facts):
    bins = [c for c in facts["greys"] if c.startswith("bin")]
    assert np.allclose(facts["greys"][bins].sum(axis=1), 1)


def test_a_planted_fact_gives_the_label_away_and_a_constant_one_does_not(facts, made):
    told = label_from(facts, made, ["border"])
    assert (told.predicted == told.truth).all()
    blind = label_from(facts, made, ["size"])
    assert np.allclose(blind.probabilities, 0.5, atol=0.1)


def test_rows_stay_in_order_and_no_patient_teaches_itself(facts, made):
    rng = np.random.default_rng(1)
    by_patient = rng.random(20)  # a fact that names the patient and says nothing of the label
    own = facts.copy()
    own["size", "width"] = np.repeat(by_patient, 2)
    told = label_from(own, made, ["size"])
    assert list(told.frame["image"]) == list(made.frame["image"])
    assert (told.predicted == told.truth).mean() < 0.85  # with its own patient in training: 1.0


def test_bad_input(facts, made):
    with pytest.raises(ValueError, match="no \\['colour'\\]"):
        label_from(facts, made, ["colour"])
    with pytest.raises(ValueError, match="rows"):
        label_from(facts.iloc[:3], made)
    with pytest.raises(ValueError, match="11 folds"):
        label_from(facts, made, folds=11)
