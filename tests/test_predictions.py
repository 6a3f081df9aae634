"""The types that everything measured takes: what they derive, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

from covidlab.predictions import MaskPredictions, Predictions, joined

FRAME = pd.DataFrame({"label": ["b", "a", "c"], "patient_id": ["p", "q", "q"]}, index=[7, 8, 9])
PROBABILITIES = np.array([[0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]])


def test_truth_prediction_and_score():
    p = Predictions(FRAME, PROBABILITIES, ("a", "b", "c"), positive="b")
    assert p.truth.tolist() == [1, 0, 2]
    assert p.predicted.tolist() == [1, 1, 2]
    assert p.is_positive.tolist() == [True, False, False]
    np.testing.assert_allclose(p.score, [0.7, 0.5, 0.3])
    assert p.probabilities.dtype == np.float32 and list(p.frame.index) == [0, 1, 2]


@pytest.mark.parametrize(
    "change,said",
    [
        ({"probabilities": PROBABILITIES[:2]}, r"\(2, 3\).*3 rows"),
        ({"probabilities": PROBABILITIES * 2}, "softmax"),
        ({"probabilities": np.full((3, 3), np.nan)}, "diverge"),
        ({"classes": ("a", "b", "d")}, r"\['c'\]"),
        ({"positive": "z"}, "'z'"),
    ],
)
def test_what_cannot_be_is_refused(change, said):
    given = {"frame": FRAME, "probabilities": PROBABILITIES, "classes": ("a", "b", "c")}
    with pytest.raises(ValueError, match=said):
        Predictions(**(given | change))


def test_a_score_needs_a_positive_class():
    with pytest.raises(ValueError, match="choose one of"):
        _ = Predictions(FRAME, PROBABILITIES, ("a", "b", "c")).score


# --- masks ---------------------------------------------------------------------------------------

INFECTED = np.array([[[0.2, 0.5], [0.9, 0.51]], [[0.0, 1.0], [0.4, 0.6]]])
TRUTH = np.array([[[0, 1], [1, 0]], [[0, 1], [0, 0]]])
MASKS = {
    "frame": pd.DataFrame({"patient_id": ["p", ""]}, index=[5, 6]),
    "probabilities": np.stack([1 - INFECTED, INFECTED], 1),
    "truth": TRUTH,
}


def test_masks_are_the_most_probable_class_and_the_cut():
    m = MaskPredictions(**MASKS)
    assert m.classes == ("background", "infection") and len(m) == 2
    # On a tie the first class, as argmax has it.
    assert m.predicted.tolist() == [[[0, 0], [1, 1]], [[0, 1], [0, 1]]]
    assert m.at(0.5).tolist() == [[[0, 1], [1, 1]], [[0, 1], [0, 1]]]
    assert m.at(0.9).tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 0]]]
    assert m.at(0).all()
    assert m.probabilities.dtype == np.float32
    assert m.truth.dtype == m.predicted.dtype == m.at(0.5).dtype == np.uint8
    assert m.patients.tolist() == ["p", "image:1"]


def test_masks_of_many_classes_take_the_largest():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], size=(3, 4, 5)).transpose(0, 3, 1, 2)
    frame = pd.DataFrame({"patient_id": list("abc")})
    m = MaskPredictions(frame, p, np.full((3, 4, 5), 2), ("background", "ground glass", "fluid"))
    for i, y, x in np.ndindex(3, 4, 5):
        assert p[i, m.predicted[i, y, x], y, x] == p[i, :, y, x].max()
    with pytest.raises(ValueError, match="two classes"):
        m.at(0.5)


def test_half_precision_is_kept_and_bool_truth_is_taken():
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 30, 30)).transpose(0, 3, 1, 2)
    truth = np.zeros((2, 30, 30), bool)
    m = MaskPredictions(MASKS["frame"], p.astype(np.float16), truth, tuple("abcd"))
    assert m.probabilities.dtype == np.float16 and m.truth.dtype == np.uint8


@pytest.mark.parametrize(
    "change,said",
    [
        ({"probabilities": MASKS["probabilities"][:1]}, r"\(1, 2, 2, 2\).*2 rows"),
        ({"probabilities": INFECTED}, r"\(2, 2, 2\)"),
        ({"classes": ("a", "b", "c")}, "3 classes ask for"),
        ({"classes": ("a", "a")}, "different names"),
        ({"truth": TRUTH[:, :1]}, r"\(2, 1, 2\).*\(2, 2, 2\)"),
        ({"truth": TRUTH * 255}, "255"),
        ({"truth": TRUTH - 1}, "from -1"),
        ({"truth": TRUTH / 2}, "integers"),
        ({"probabilities": MASKS["probabilities"] * 2}, "row 0.*softmax"),
        ({"probabilities": np.where(INFECTED[:, None] == 1, np.nan, 0.5).repeat(2, 1)}, "row 1"),
        ({"probabilities": np.stack([1.5 - INFECTED, INFECTED - 0.5], 1)}, "softmax"),
    ],
)
def test_masks_that_cannot_be_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        MaskPredictions(**(MASKS | change))


def test_a_cut_is_a_probability_and_patients_need_a_column():
    m = MaskPredictions(**(MASKS | {"frame": pd.DataFrame(index=[0, 1])}))
    with pytest.raises(ValueError, match="no probability"):
        m.at(50)
    with pytest.raises(ValueError, match="patient_id"):
        _ = m.patients


# --- test parts of folds --------------------------------------------------------------------------


def part_of(rows, **options):
    frame = pd.DataFrame({"label": list("bac"), "image": ["z.png", "x.png", "y.png"]}).iloc[rows]
    return Predictions(frame, PROBABILITIES[rows], ("a", "b", "c"), **options)


def test_parts_become_one_in_their_order_or_by_the_images():
    parts = [part_of([2, 0], positive="b", name="fold 1"), part_of([1], positive="b")]
    whole = joined(parts)
    assert whole.frame["image"].tolist() == ["y.png", "z.png", "x.png"]
    assert np.array_equal(whole.probabilities, PROBABILITIES[[2, 0, 1]].astype(np.float32))
    assert (whole.name, whole.positive) == ("fold 1", "b")
    sorted_ = joined(parts, "all", by="image")
    assert sorted_.frame["image"].tolist() == ["x.png", "y.png", "z.png"]
    assert np.array_equal(sorted_.probabilities, PROBABILITIES[[1, 2, 0]].astype(np.float32))
    assert sorted_.name == "all"


def test_masks_are_joined_with_their_truth():
    halves = [
        MaskPredictions(MASKS["frame"].iloc[[i]], MASKS["probabilities"][[i]], TRUTH[[i]])
        for i in (1, 0)
    ]
    whole = joined(halves)
    assert np.array_equal(whole.truth, TRUTH[[1, 0]])
    assert np.allclose(whole.probabilities[:, 1], INFECTED[[1, 0]])
    assert whole.patients.tolist() == ["image:0", "p"]


def test_what_is_no_cross_validation_is_not_joined():
    with pytest.raises(ValueError, match="no predictions"):
        joined([])
    with pytest.raises(ValueError, match="x.png is in two parts"):
        joined([part_of([0, 1]), part_of([1])])
    other = Predictions(FRAME.replace({"label": {"c": "d"}}), PROBABILITIES, ("a", "b", "d"))
    with pytest.raises(ValueError, match="'d'"):
        joined([part_of([0]), other])
    with pytest.raises(ValueError, match="MaskPredictions"):
        joined([part_of([0]), MaskPredictions(**MASKS)])
