"""Corruptions: nothing at 0, more with more, and each does to a picture what its name says."""

import numpy as np
import pytest
from scipy.ndimage import label

from covidlab.imaging import CORRUPTIONS, corrupt, resize
from covidlab.imaging.corruption import MARKS, burn_arrow, burn_text, drawn

KINDS = [kind for kind in CORRUPTIONS if kind != "none"]
AMOUNTS = (0.1, 0.3, 0.5, 0.7, 1.0)


@pytest.fixture(scope="module")
def picture():
    """Coarse and fine structure over the whole range of grey, with black and white in it."""
    rng = np.random.default_rng(0)
    coarse = resize(rng.random((6, 5)).astype(np.float32), (120, 100))
    fine = 0.2 * (rng.random((120, 100)) - 0.5)
    return np.clip(1.5 * (coarse - 0.5) + 0.5 + fine, 0, 1).astype(np.float32)


def change(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


# ---- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_amount_0_is_the_same_image_and_another_array(kind, picture):
    before = picture.copy()
    out = corrupt(picture, kind, 0.0, seed=3)
    np.testing.assert_array_equal(out, picture)
    out[:] = 0
    corrupt(picture, kind, 1.0)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("kind", KINDS)
def test_more_is_more(kind, picture):
    made = [corrupt(picture, kind, a, seed=5) for a in AMOUNTS]
    changes = [change(m, picture) for m in made]
    assert changes[0] > 0
    assert np.all(np.diff(changes) > 0), changes
    for m in made:
        assert m.shape == picture.shape and m.dtype == np.float32
        assert m.min() >= 0 and m.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_seed_makes_chance(kind, picture):
    first, again, other = (corrupt(picture, kind, 0.6, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    chance = kind in ("noisy", "salt_and_pepper", "text_marks")
    assert np.array_equal(first, other) != chance


def test_none_changes_nothing_at_any_amount(picture):
    np.testing.assert_array_equal(corrupt(picture, "none", 1.0), picture)


def test_errors(picture):
    with pytest.raises(ValueError, match="'fog' must be one of none, washed_out"):
        corrupt(picture, "fog")
    for amount in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="amount must lie in 0..1"):
            corrupt(picture, "blurred", amount)
    with pytest.raises(ValueError, match=r"\(4, 4, 3\), expected \(H, W\)"):
        corrupt(np.zeros((4, 4, 3)), "noisy")
    with pytest.raises(ValueError, match="values -800 to 40.*stretch"):
        corrupt(np.array([[-800.0, 40.0]]), "none")
    with pytest.raises(ValueError, match="expected 0 to 1"):
        corrupt(np.array([[np.nan, 0.5]]), "washed_out")


# ---- each --------------------------------------------------------------------------------------


def test_washing_out_by_hand():
    out = corrupt(np.array([[0.0, 0.65, 1.0]]), "washed_out", 0.5)
    np.testing.assert_allclose(out, [[0.26, 0.65, 0.86]], atol=1e-6)  # 60 % of each way is left


def test_exposure_blackens():
    grey = np.array([[0.0, 0.2, 0.4, 0.8, 1.0]])
    np.testing.assert_allclose(
        corrupt(grey, "over_exposed", 0.6), [[0, 0, 0.1, 0.5, 0.7]], atol=1e-6
    )
    np.testing.assert_allclose(
        corrupt(grey, "under_exposed", 0.6), [[0.3, 0.5, 0.7, 1, 1]], atol=1e-6
    )


@pytest.mark.parametrize("grey", [0.3, 0.5, 0.7])
def test_noise_has_the_sd_it_says_and_keeps_the_mean(grey):
    flat = np.full((300, 300), grey, np.float32)
    out = corrupt(flat, "noisy", 0.3, seed=1)
    assert out.std() == pytest.approx(0.075 * (0.2 + 0.8 * grey) ** 0.5, rel=0.015)
    assert out.mean() == pytest.approx(grey, abs=1e-3)


def test_dead_pixels_are_as_many_as_said():
    out = corrupt(np.full((400, 400), 0.5), "salt_and_pepper", 0.4, seed=2)
    assert (out != 0.5).mean() == pytest.approx(0.04, rel=0.05)  # SD 0.0005
    assert set(np.unique(out)) == {0.0, 0.5, 1.0}
    assert (out == 1).sum() == pytest.approx((out == 0).sum(), rel=0.1)


@pytest.mark.parametrize("side", [128, 256])
def test_blur_spreads_a_point_by_a_part_of_the_side(side):
    point = np.zeros((side, side + 40), np.float32)
    point[side // 2, side // 2] = 1
    out = corrupt(point, "blurred", 0.5).astype(float)
    rows = np.arange(side) - side // 2
    variance = (out.sum(1) * rows**2).sum() / out.sum()
    assert out.sum() == pytest.approx(1, abs=1e-3)
    assert variance**0.5 == pytest.approx(0.01 * side, rel=0.01)


def test_jpeg_loses_the_fine_and_keeps_the_mean_of_blocks():
    yy, xx = np.mgrid[:64, :64]
    blocks = np.random.default_rng(0).choice([0.25, 0.75], (8, 8)).repeat(8, 0).repeat(8, 1)
    board = (blocks + 0.06 * (-1.0) ** (yy + xx)).astype(np.float32)
    out = corrupt(board, "compressed", 1.0)
    mean = lambda x: x.reshape(8, 8, 8, 8).mean((1, 3))  # noqa: E731
    inside = out.reshape(8, 8, 8, 8).std(axis=(1, 3))
    assert inside.max() < 0.01, "the chessboard is gone"
    assert np.abs(mean(out) - mean(board)).max() < 0.15
    assert change(corrupt(board, "compressed", 0.01), board) < 0.02


# ---- marks -------------------------------------------------------------------------------------


def test_marks_at_a_small_amount_are_among_those_at_a_larger():
    black = np.zeros((256, 256), np.float32)
    few, many = (corrupt(black, "text_marks", a, seed=4) > 0 for a in (0.3, 1.0))
    assert not (few & ~many).any()
    assert 0 < few.sum() < many.sum() < 0.1 * many.size


def test_one_mark_at_least_and_words_near_the_edges():
    black = np.zeros((256, 256), np.float32)
    for seed in range(12):
        assert corrupt(black, "text_marks", 0.01, seed=seed).any()
    assert len(MARKS) > 8 and MARKS.index("L") % 4 == 0 and MARKS.index("R") % 4 == 2  # edges


def ink(image):
    """Sum, centre (x, y) in parts of the sides."""
    total = image.sum()
    x = (image.sum(0) * (np.arange(image.shape[1]) + 0.5)).sum() / total / image.shape[1]
    y = (image.sum(1) * (np.arange(image.shape[0]) + 0.5)).sum() / total / image.shape[0]
    return float(total), x, y


def test_text_stands_where_it_is_put_and_is_as_large_at_any_size():
    for side in (128, 512):
        total, x, y = ink(
            burn_text(np.zeros((side, 2 * side)), "HOH", 0.3, 0.6, height=0.2, grey=1)
        )
        assert (x, y) == (pytest.approx(0.3, abs=0.01), pytest.approx(0.6, abs=0.015))
        if side == 128:
            share = total / side**2
    assert total / side**2 == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("align,middle", [("left", 1), ("centre", 0), ("right", -1)])
def test_text_is_aligned(align, middle):
    out = burn_text(np.zeros((128, 256)), "HOH", 0.5, 0.5, 0.2, grey=1, align=align)
    columns = np.flatnonzero(out.max(0) > 0.5)
    edge = {"left": columns[0], "centre": columns.mean(), "right": columns[-1]}[align]
    assert edge == pytest.approx(128, abs=4.5)  # of 53 pixels' width
    assert np.sign(round((columns.mean() - 128) / 10)) == middle


def test_text_that_would_stick_out_is_pushed_in_or_made_smaller():
    black = np.zeros((100, 100))
    whole = ink(burn_text(black, "AP", 0.5, 0.5, grey=1))[0]
    for x, y in ((-1, 0.5), (2, 2), (0.5, -3)):
        assert ink(burn_text(black, "AP", x, y, grey=1))[0] == pytest.approx(whole, rel=1e-5)
    long = burn_text(black, "PORTABLE " * 5, 0.5, 0.5, height=0.2, grey=1)
    assert long.max() > 0.3 and not long[:, [0, -1]].any()


def test_marks_can_be_seen_on_black_and_on_white():
    for grey in (0.0, 1.0):
        flat = np.full((64, 64), grey, np.float32)
        for out in (burn_text(flat, "L", 0.5, 0.5, 0.2), burn_arrow(flat, 0.5, 0.5, 0.4)):
            assert np.abs(out - grey).max() > 0.8


@pytest.mark.parametrize("turn,axis,sign", [(0, 1, 1), (90, 0, -1), (180, 1, -1), (270, 0, 1)])
def test_arrow_points_where_it_is_turned(turn, axis, sign):
    """The head, which is the heavy half, lies to the right; turned by 90 degrees it lies on top."""
    out = burn_arrow(np.zeros((200, 200)), 0.5, 0.5, length=0.6, turn=turn, grey=1)
    _, x, y = ink(out)
    off = {1: x, 0: y}
    assert sign * (off[axis] - 0.5) > 0.015
    assert off[1 - axis] == pytest.approx(0.5, abs=0.01)
    assert label(out > 0.5)[1] == 1


def test_drawing_is_antialiased():
    """A box from x = 10.25 to 12.5 and y = 5 to 7 covers three quarters, all and half of a pixel."""

    def paint(draw, k):
        assert k == 4
        draw.rectangle((41, 20, 49, 27), fill=255)  # Pillow counts the last pixel in

    out = drawn((40, 60), paint)
    assert out.shape == (40, 60)
    np.testing.assert_allclose(out[5:7, 9:14], [[0, 0.75, 1, 0.5, 0]] * 2, atol=0.005)
    assert out.sum() == pytest.approx(4.5, abs=0.02)
