"""Shares counted by hand; agreement against worked numbers, statsmodels and a bootstrap by rows."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from covidlab import severity
from covidlab.severity import (
    agreement,
    infected_share,
    plot_agreement,
    share_by_lung,
    volume_share,
)


def drawn(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


LUNG = drawn("##..## ##..## ##..##")
SICK = drawn("#..... #.##.. ....#.")  # three pixels in the lung, two beside it


def test_share_counts_what_lies_in_the_lung():
    assert infected_share(SICK, LUNG) == 3 / 12
    assert infected_share(LUNG, LUNG) == 1.0
    assert infected_share(~LUNG, LUNG) == 0.0


def test_share_of_each_image_and_nan_without_lung():
    nothing = np.zeros_like(LUNG)
    shares = infected_share(np.stack([SICK, SICK, LUNG]), np.stack([LUNG, nothing, LUNG]))
    np.testing.assert_array_equal(shares, [3 / 12, np.nan, 1.0])
    assert np.isnan(infected_share(SICK, nothing))


def test_share_by_lung():
    right, left = LUNG.copy(), LUNG.copy()
    right[:, 3:] = left[:, :3] = False
    assert share_by_lung(SICK, right, left) == {"right": 2 / 6, "left": 1 / 6, "both": 3 / 12}
    one = share_by_lung(SICK, right, np.zeros_like(left))
    assert one["right"] == one["both"] == 2 / 6 and np.isnan(one["left"])
    with pytest.raises(ValueError, match="overlap in 12 pixels"):
        share_by_lung(SICK, LUNG, LUNG)


def two_lungs():
    lung = np.zeros((40, 60), bool)
    lung[10:30, 8:22] = lung[8:32, 34:50] = True
    return lung


def test_split_lungs_by_side():
    lung = two_lungs()
    right, left = severity.split_lungs(lung)
    assert (right == (lung & (np.arange(60) < 28))).all()  # the patient's right: the image's left
    assert (left == lung & ~right).all()
    # a lung that reaches over the middle stays whole
    reaching = lung.copy()
    reaching[12:16, 22:32] = True
    right, _ = severity.split_lungs(reaching)
    assert right[12:16, 22:32].all() and right.sum() == 20 * 14 + 40


def test_split_lungs_that_run_into_each_other_are_cut():
    lung = two_lungs()
    lung[20:24, 22:34] = True
    right, left = severity.split_lungs(lung)
    assert (right | left == lung).all() and not (right & left).any()
    assert right[:, :30].sum() == right.sum() and left[:, 30:].sum() == left.sum()


def test_split_lungs_where_one_is_missing():
    lung = two_lungs()
    lung[:, 30:] = False
    right, left = severity.split_lungs(lung)
    assert (right == lung).all() and not left.any()
    assert not np.any(severity.split_lungs(np.zeros((4, 4), bool)))
    with pytest.raises(ValueError, match="lung is float64"):
        severity.split_lungs(np.zeros((4, 4)))


def test_split_lungs_of_the_phantom():
    from covidlab.datasets import phantom

    film = phantom.patient(3, 0).xray(128)
    right, left = severity.split_lungs(film.lung)
    assert (right == film.right).mean() > 0.999 and (left == film.left).mean() > 0.999


def test_progress_shows_the_shares():
    lung, image = two_lungs(), np.full((40, 60), 0.5)
    sick = [np.zeros_like(lung) for _ in range(3)]
    sick[1][10:20, 8:22] = True  # half of the right lung
    sick[2][8:32, 34:50] = True  # all of the left
    figure = severity.plot_progress([image] * 3, [lung] * 3, sick, ["1", "2", "5"])
    *pictures, chart = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in chart.get_lines()}
    np.testing.assert_allclose(lines["right"], [0, 0.5, 0])
    np.testing.assert_allclose(lines["left"], [0, 0, 1])
    np.testing.assert_allclose(lines["both"], [0, 140 / 664, 384 / 664])
    assert [ax.get_title() for ax in pictures] == ["day 1: 0%", "day 2: 21%", "day 5: 58%"]
    with pytest.raises(ValueError, match="3 images, 2 lungs"):
        severity.plot_progress([image] * 3, [lung] * 2, sick)


def test_share_of_a_volume_weighs_slices_by_their_lung():
    lung = np.stack([LUNG, drawn("#..... ...... ......")])
    sick = np.stack([np.zeros_like(LUNG), drawn("###### ###### ######")])
    found = volume_share(sick, lung, spacing=(5.0, 2.0, 1.0))
    assert found == pytest.approx((1 / 13, 0.010, 0.130))  # 10 mm³ a voxel
    assert np.mean(infected_share(sick, lung)) == 0.5  # what it is not
    assert volume_share(sick, lung, (0.7, 2.0, 1.0)).share == pytest.approx(1 / 13)
    assert np.isnan(volume_share(sick, np.zeros_like(lung), (5, 2, 1)).share)


@pytest.mark.parametrize("heights", [[0, 1, 3], [7.0, 6.0, 4.0]])
def test_slices_stand_for_the_way_to_their_neighbours(heights):
    """Gaps of 1 and 2 mm: the slices stand for 1, 1.5 and 2 mm."""
    lung = np.stack([LUNG] * 3)
    sick = np.zeros_like(lung)
    sick[2] = LUNG
    found = volume_share(sick, lung, (1.0, 10.0, 10.0), z=heights)
    assert found == pytest.approx((2 / 4.5, 12 * 2 * 0.1, 12 * 4.5 * 0.1))


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: infected_share(SICK.astype(int), LUNG), "infection is int64"),
        (lambda: infected_share(SICK, LUNG * 255), "lung is int64"),
        (lambda: infected_share(SICK[:2], LUNG), r"infection \(2, 6\) and lung \(3, 6\)"),
        (lambda: infected_share(SICK[0], LUNG[0]), "must be one"),
        (lambda: volume_share(SICK, LUNG, (1, 1, 1)), r"must be one \(N, H, W\)"),
        (lambda: volume_share(SICK[None], LUNG[None], (1, 0, 1)), "spacing"),
        (lambda: volume_share(SICK[None], LUNG[None], (1, 1, 1), z=[1]), "two or more heights"),
        (lambda: volume_share(*[np.stack([LUNG] * 3)] * 2, (1, 1, 1), z=[1, 3, 2]), "sort slices"),
        (lambda: agreement([0.1, 0.2], [0.1]), r"truth \(2,\)"),
        (lambda: agreement([], []), "N above 0"),
        (lambda: agreement([0.1, np.nan], [0.1, 0.2]), "1 of 2 pairs"),
        (lambda: agreement([0.1, 0.2], [0.1, 0.2], ["a"]), "one id each"),
        (lambda: agreement([0.1, 0.2], [0.1, 0.2], level=95), "level=95"),
        (lambda: plot_agreement([0.1, 0.2], [0.1, 0.3], against="found"), "against='found'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_agreement_by_hand():
    """Differences 1, 2, 3: bias 2, s 1; variances 2/3 and 8/3, covariance 4/3 (Lin's, over n)."""
    table = agreement([1, 2, 3], [2, 4, 6])
    assert table["value"].to_dict() == pytest.approx(
        {
            "bias": 2.0,
            "lower limit": 2 - 1.959964,
            "upper limit": 2 + 1.959964,
            "mae": 2.0,
            "ccc": (2 * 4 / 3) / (2 / 3 + 8 / 3 + 2**2),
        },
        abs=1e-6,
    )
    # t with 2 degrees of freedom is 4.302653; √(1/3 + 1.959964²/4) = 1.137408
    bounds = table.loc["bias", ["low", "high"]].tolist()
    assert bounds == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5], abs=1e-5)
    low, high = table.loc["upper limit", ["low", "high"]]
    assert (high - low) / 2 == pytest.approx(4.302653 * 1.137408, abs=1e-4)
    assert table["method"].to_dict() == {
        **dict.fromkeys(("bias", "lower limit", "upper limit"), "Bland–Altman, t"),
        **dict.fromkeys(("mae", "ccc"), "bootstrap, patients"),
    }
    assert (table["n"] == 3).all() and (table["patients"] == 3).all()


def shares(n=40, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.beta(1, 4, n)
    return truth, np.clip(truth * 0.8 + 0.05 + rng.normal(0, 0.05, n), 0, 1)


def test_bias_and_limits_are_those_of_statsmodels():
    from statsmodels.graphics.agreement import mean_diff_plot
    from statsmodels.stats.weightstats import DescrStatsW

    truth, found = shares()
    ax = plt.figure().add_subplot()
    over_n = (39 / 40) ** 0.5  # it divides by n, Bland and Altman by n − 1
    mean_diff_plot(found, truth, sd_limit=1.959963984540054 / over_n, ax=ax)
    lines = sorted(line.get_ydata()[0] for line in ax.lines)
    table = agreement(truth, found)
    order = ["lower limit", "bias", "upper limit"]
    np.testing.assert_allclose(table.loc[order, "value"], lines)
    interval = DescrStatsW(found - truth).tconfint_mean()
    np.testing.assert_allclose(table.loc["bias", ["low", "high"]].tolist(), interval)
    plt.close("all")


def test_concordance_is_correlation_times_bias_correction():
    """Lin 1989: ρ_c = ρ · C_b, C_b = 2 / (v + 1/v + u²), v the scale and u the location shift."""
    truth, found = shares()
    v, u = truth.std() / found.std(), (found.mean() - truth.mean())
    u /= np.sqrt(truth.std() * found.std())
    expected = np.corrcoef(truth, found)[0, 1] * 2 / (v + 1 / v + u**2)
    assert agreement(truth, found).loc["ccc", "value"] == pytest.approx(expected)


def test_concordance_at_its_ends():
    truth, _ = shares()

    def ccc(found):
        return agreement(truth, found).loc["ccc", "value"]

    assert ccc(truth) == pytest.approx(1.0)
    assert ccc(2 * truth.mean() - truth) == pytest.approx(-1.0)
    assert ccc(np.full_like(truth, 0.3)) == pytest.approx(0.0)
    assert ccc(truth + 1) < 0.1  # perfectly correlated, and wrong
    assert np.isnan(agreement([0.2, 0.2], [0.2, 0.2]).loc["ccc", "value"])


def test_bootstrap_draws_patients_with_all_their_values():
    """The same draws, made row by row with pandas-free arithmetic."""
    truth, found = shares(30)
    patients = np.repeat(list("abcdefghij"), 3)
    table = agreement(truth, found, patients, n_boot=200, seed=5)
    rng, draws = np.random.default_rng(5), []
    for _ in range(200):
        rows = np.concatenate([np.arange(3 * p, 3 * p + 3) for p in rng.integers(10, size=10)])
        x, y = truth[rows], found[rows]
        d = y - x
        ccc = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + d.mean() ** 2)
        half = 1.959963984540054 * d.std(ddof=1)
        draws.append([d.mean(), d.mean() - half, d.mean() + half, np.abs(d).mean(), ccc])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(table["low"], low)
    np.testing.assert_allclose(table["high"], high)
    assert set(table["method"]) == {"bootstrap, patients"}
    assert (table["n"] == 30).all() and (table["patients"] == 10).all()


def test_images_of_one_patient_are_less_evidence_than_as_many_patients():
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.random(15), 10)
    found = truth + np.repeat(rng.normal(0, 0.1, 15), 10)
    widths = []
    for patients in (None, np.repeat(np.arange(15), 10)):
        bias = agreement(truth, found, patients).loc["bias"]
        widths.append(bias["high"] - bias["low"])
    assert widths[1] > 2 * widths[0]


def test_intervals_by_formula_and_by_bootstrap_agree():
    truth, found = shares(400)
    formula = agreement(truth, found)
    # the first patient has two values, which takes the formulas away
    twice = agreement(truth, found, np.r_[0, np.arange(399)])
    for name in ("bias", "lower limit", "upper limit"):
        a, b = ((t.loc[name, "high"] - t.loc[name, "low"]) for t in (formula, twice))
        assert b == pytest.approx(a, rel=0.2)


def test_one_value_has_a_bias_and_nothing_else():
    table = agreement([0.2], [0.5])
    assert table.loc["bias", "value"] == pytest.approx(0.3)
    assert table.loc["mae", "value"] == pytest.approx(0.3)
    assert table.loc[["lower limit", "upper limit"], "value"].isna().all()
    assert table[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("against", ["mean", "truth"])
def test_the_plot_shows_what_agreement_says(against):
    truth, found = shares()
    figure = plot_agreement(truth, found, against=against)
    (ax,) = figure.axes
    at = truth if against == "truth" else (truth + found) / 2
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points, np.c_[at, found - truth])
    heights = {round(line.get_ydata()[0], 9) for line in ax.lines}
    table = agreement(truth, found)
    assert set(table["value"].iloc[:3].round(9)) <= heights
    assert severity.plot_agreement(truth, found, ax=ax) is figure
