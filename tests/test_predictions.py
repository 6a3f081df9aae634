"""The one type that everything measured takes: what it derives, and what it refuses."""

import numpy as np
import pandas as pd
import pytest

from covidlab.predictions import Predictions

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
