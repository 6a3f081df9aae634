"""κ and Dice against hand calculation."""

import numpy as np
import pytest
from small import SQUARE, WIDER

from covidlab.annotation import DecisionLog, agreement, crosstab, dice, kappa


def test_dice_by_hand():
    assert dice(SQUARE, WIDER) == 2 * 16 / (16 + 20)
    assert dice(SQUARE, SQUARE) == 1 and dice(SQUARE, ~SQUARE) == 0
    assert dice(SQUARE & False, SQUARE & False) == 1, "both say there is nothing"
    with pytest.raises(ValueError, match="one shape"):
        dice(SQUARE, SQUARE[:4])
    with pytest.raises(ValueError, match="bool"):
        dice(SQUARE.astype(float), WIDER)


def test_kappa_by_hand():
    # 20 images: both yes 10, both no 5, Ada alone yes 3, Ben alone yes 2.
    # p = 15/20; Ada says yes 13 times, Ben 12: e = (13·12 + 7·8)/400 = 212/400
    ada = ["yes"] * 10 + ["no"] * 5 + ["yes"] * 3 + ["no"] * 2
    ben = ["yes"] * 10 + ["no"] * 5 + ["no"] * 3 + ["yes"] * 2
    found = kappa(ada, ben, n_boot=500)
    assert found.value == pytest.approx((0.75 - 0.53) / (1 - 0.53))
    assert -1 <= found.low < found.value < found.high <= 1
    assert kappa(ben, ada, n_boot=1).value == pytest.approx(found.value)


def test_kappa_at_its_ends():
    halves = ["a", "b"] * 4
    assert kappa(halves, halves, n_boot=50).value == 1
    assert kappa(halves, halves[::-1], n_boot=50).value == pytest.approx(-1)
    same = kappa(["a"] * 5, ["a"] * 5, n_boot=50)
    assert np.isnan(same.value) and np.isnan(same.low), "nothing beyond chance can be seen"
    with pytest.raises(ValueError, match="as many answers"):
        kappa(["a"], ["a", "b"])


def test_patients_bring_all_their_images():
    ada, ben = ["a", "b"] * 20, ["a", "b", "a", "a"] * 10
    alone = kappa(ada, ben, n_boot=400)
    four = kappa(ada, ben, patients=np.repeat(np.arange(10), 4), n_boot=400)
    assert four.n == 10 and alone.n == 40
    assert np.isnan(four.low), "ten patients, all alike: nothing varies between resamples"
    assert alone.low < alone.value < alone.high


def test_agreement_of_two_people_in_one_log(log):
    ben = DecisionLog(log.folder, log.dataset, "Ben")
    log.decide("images/0.png", "accept", SQUARE)
    log.decide("images/1.png", "reject", WIDER)
    log.decide("images/2.png", "exclude")
    log.decide("images/3.png", "accept", SQUARE)
    ben.decide("images/0.png", "accept", SQUARE)
    ben.decide("images/1.png", "accept", SQUARE)
    ben.decide("images/2.png", "exclude")
    table, each = agreement(log, "Ada", "Ben", n_boot=200)
    # of 3: equal 2; Ada says accept, reject, exclude, Ben accept, accept, exclude: e = (2 + 0 + 1)/9
    assert table.loc["kappa", "value"] == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert table.loc["same decision", "value"] == pytest.approx(2 / 3)
    assert table.loc["dice", "value"] == pytest.approx((1 + 32 / 36) / 2)
    assert table["n"].to_dict() == {"kappa": 3, "same decision": 3, "dice": 2}
    assert list(each.index) == ["images/0.png", "images/1.png", "images/2.png"]
    counts = crosstab(each)
    assert counts.loc["reject", "accept"] == 1 and counts.to_numpy().sum() == 3
    with pytest.raises(ValueError, match="Ada and Cem have not decided"):
        agreement(log, "Ada", "Cem")
