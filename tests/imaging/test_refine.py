"""Mask refinement: masks worked by hand, floods and distances computed another way, and properties."""

from functools import partial

import numpy as np
import pytest

from covidlab import imaging
from covidlab.imaging import (
    AHMED_REFINEMENT,
    TAHIR_INFECTION,
    TAHIR_LUNG,
    TAHIR_REFINEMENT,
    close,
    dilate,
    fill_holes,
    largest,
    open_,
    remove_small,
    require_area,
    within,
)

STEPS = {
    "fill_holes": fill_holes,
    "remove_small": remove_small,
    "largest": largest,
    "require_area": partial(require_area, pixels=100),
    "dilate": dilate,
    "close": partial(close, radius=2),
    "open_": partial(open_, radius=2),
    "within": partial(within, lung=np.eye(40, dtype=bool)),
}


def drawn(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


def random_masks(n=12, size=40):
    rng = np.random.default_rng(0)
    return [rng.random((size, size)) < density for density in np.linspace(0.05, 0.7, n)]


def flood(mask: np.ndarray, start, neighbours) -> set:
    """Pixels of the mask that can be walked to from `start`."""
    seen, todo = set(), [tuple(s) for s in start if mask[tuple(s)]]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        for step in neighbours:
            y, x = at[0] + step[0], at[1] + step[1]
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
                todo.append((y, x))
    return seen


FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]
EIGHT = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def regions(mask: np.ndarray) -> list[set]:
    """By walking, in the order in which a reader meets them."""
    found, left = [], mask.copy()
    for at in np.argwhere(mask):
        if left[tuple(at)]:
            found.append(flood(mask, [at], EIGHT))
            left[tuple(np.array(list(found[-1])).T)] = False
    return found


def as_mask(pixels, shape) -> np.ndarray:
    out = np.zeros(shape, bool)
    for at in pixels:
        out[at] = True
    return out


# ---- by hand ------------------------------------------------------------------------------------

RING = drawn("""
    ######..
    #....#..
    #....#..
    #....#..
    #....#..
    ######..
    ........
    ......##
""")


def test_the_thesis_steps_on_a_mask_worked_by_hand():
    filled = fill_holes(RING)
    assert RING.sum() == 22 and filled.sum() == 38
    assert filled[1:5, 1:5].all() and not filled[6].any()
    # 2 of 38 pixels are 5.3 %: enough to stay at 5 %, too few at 6 %
    np.testing.assert_array_equal(remove_small(filled, 0.05), filled)
    assert remove_small(filled, 0.06).sum() == 36
    lung = np.zeros((8, 8), bool)
    lung[:, 3:] = True
    out = imaging.refine(RING, TAHIR_REFINEMENT, lung)
    np.testing.assert_array_equal(out, filled & lung)
    assert out.sum() == 3 * 6 + 2


def test_order_matters():
    """8 %: the two pixels are 2 of 22 before the hole is filled, and 2 of 38 after."""
    small = partial(remove_small, share=0.08)
    first_fill = imaging.refine(RING, {"fill": fill_holes, "small": small})
    first_small = imaging.refine(RING, {"small": small, "fill": fill_holes})
    assert (first_fill.sum(), first_small.sum()) == (36, 38)


def test_a_bay_and_a_corner_gap_are_not_alike():
    bay = drawn("""
        #####...
        #...#...
        #.......
        #...#...
        #####...
        ........
        ........
        ........
    """)
    np.testing.assert_array_equal(fill_holes(bay), bay)
    corner = drawn("""
        .###....
        #...#...
        #...#...
        #...#...
        .###....
        ........
        ........
        ........
    """)
    assert fill_holes(corner).sum() == corner.sum() + 9, "edges alone do not lead out of it"
    assert remove_small(corner, 1).sum() == corner.sum(), "corners hold the mask together"


def test_a_region_with_just_the_share_stays():
    """7 % of 100 pixels is a little over 7 in floating point."""
    mask = np.zeros((20, 20), bool)
    mask[:3], mask[3:5, :16], mask[5, 0] = True, True, True
    mask[19, :7] = True
    assert mask.sum() == 100 and 0.07 * 100 > 7
    np.testing.assert_array_equal(remove_small(mask, 0.07), mask)
    mask[19, 6] = False
    assert remove_small(mask, 0.07).sum() == 93


def test_largest_by_hand():
    mask = drawn("""
        ##....##
        ##......
        ........
        ###.....
        ##...##.
        .....##.
        ........
        #.......
    """)
    one = largest(mask, 1)
    assert one[3:5, :3].sum() == 5 == one.sum()
    two = largest(mask)
    assert two[:2, :2].all() and two[3:5, :3].sum() == 5 and two.sum() == 9, "of equals, the first"
    assert largest(mask, 3).sum() == 13
    np.testing.assert_array_equal(largest(mask, 99), mask)


def test_closing_does_not_eat_at_the_edge_nor_opening():
    lung = np.zeros((16, 16), bool)
    lung[4:, :6] = True  # cut off by the left and lower edge
    np.testing.assert_array_equal(close(lung, 2), lung)
    np.testing.assert_array_equal(open_(lung, 2, element="square"), lung)
    whole = np.ones((9, 9), bool)
    for step in (partial(close, radius=2), partial(open_, radius=2), fill_holes):
        np.testing.assert_array_equal(step(whole), whole)


def test_ahmeds_steps_scale_with_the_image():
    """Section 3.2: 8 dilations, 2 iterations of closing, 50,000 pixels of (we read) 512 × 512."""
    steps = {
        "dilate 8 times": partial(dilate, iterations=8),
        "close": partial(close, iterations=2),
        "50,000 pixels": partial(require_area, pixels=50_000, size=512),
    }
    at_128 = 50_000 / 16
    for side, kept in ((40, False), (44, True)):
        mask = np.zeros((128, 128), bool)
        mask[40 : 40 + side, 40 : 40 + side] = True
        # A diamond of radius 8 around a square: four sides of 8 rows, four triangles of 28 pixels.
        area = side**2 + 4 * 8 * side + 4 * 28
        assert dilate(mask, iterations=8).sum() == area
        assert (area >= at_128) == kept
        assert imaging.refine(mask, steps).any() == kept
    exact = np.zeros((64, 64), bool)
    exact.flat[:100] = True
    assert require_area(exact, 100).sum() == 100 and not require_area(exact, 101).any()


# ---- computed another way -----------------------------------------------------------------------


@pytest.mark.parametrize("mask", random_masks(6))
def test_regions_and_holes_as_by_walking(mask):
    edge = [(y, x) for y, x in np.ndindex(mask.shape) if y in (0, 39) or x in (0, 39)]
    outside = as_mask(flood(~mask, edge, FOUR), mask.shape)
    np.testing.assert_array_equal(fill_holes(mask), ~outside)

    found = regions(mask)
    enough = [r for r in found if len(r) / mask.sum() >= 0.02]
    np.testing.assert_array_equal(
        remove_small(mask, 0.02), as_mask(set().union(*enough), mask.shape)
    )
    most = sorted(found, key=len, reverse=True)[:3]
    np.testing.assert_array_equal(largest(mask, 3), as_mask(set().union(*most), mask.shape))


DISTANCES = {
    (1, 1, "disk"): lambda dy, dx: abs(dy) + abs(dx) <= 1,
    (3, 1, "disk"): lambda dy, dx: dy * dy + dx * dx <= 9,
    (1, 4, "disk"): lambda dy, dx: abs(dy) + abs(dx) <= 4,
    (2, 2, "square"): lambda dy, dx: max(abs(dy), abs(dx)) <= 4,
}


@pytest.mark.parametrize("settings", DISTANCES, ids=str)
@pytest.mark.parametrize("mask", random_masks()[::4])
def test_dilation_closing_and_opening_as_by_distance(settings, mask):
    offsets = [
        (dy, dx) for dy in range(-4, 5) for dx in range(-4, 5) if DISTANCES[settings](dy, dx)
    ]

    def near(mask):
        """Pixels with one of the mask within reach."""
        padded, out = np.pad(mask, 4), np.zeros_like(mask)
        for dy, dx in offsets:
            out |= padded[4 + dy : 44 + dy, 4 + dx : 44 + dx]
        return out

    def inner(mask):
        return ~near(~mask)

    np.testing.assert_array_equal(dilate(mask, *settings), near(mask))
    np.testing.assert_array_equal(close(mask, *settings), inner(near(mask)))
    np.testing.assert_array_equal(open_(mask, *settings), near(inner(mask)))


# ---- what must hold -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_nothing_stays_nothing_and_the_input_stays_itself(name):
    empty = np.zeros((40, 40), bool)
    out = STEPS[name](empty)
    assert out.dtype == bool and out.shape == empty.shape and not out.any()
    for mask in random_masks():
        before = mask.copy()
        out = STEPS[name](mask)
        assert out.dtype == bool and out.shape == mask.shape and not np.shares_memory(out, mask)
        np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("name", ["fill_holes", "largest", "close", "open_", "within"])
def test_a_second_time_changes_nothing(name):
    for mask in random_masks():
        once = STEPS[name](mask)
        np.testing.assert_array_equal(STEPS[name](once), once)


def test_what_grows_and_what_shrinks():
    for mask in random_masks():
        for grown in (fill_holes(mask), dilate(mask), close(mask, 2), close(mask, iterations=3)):
            assert (grown >= mask).all()
        lung = np.roll(mask, 3) | mask.T
        for shrunk in (remove_small(mask), largest(mask), open_(mask), within(mask, lung)):
            assert (shrunk <= mask).all()
        assert (within(mask, lung) <= lung).all()
        assert (imaging.refine(mask, TAHIR_REFINEMENT, lung) <= lung).all()


def test_refine_is_its_steps_in_order():
    lung = ~np.eye(40, dtype=bool)
    for mask in random_masks():
        expected = within(remove_small(fill_holes(mask)), lung)
        np.testing.assert_array_equal(imaging.refine(mask, lung=lung), expected)
        same = imaging.refine(mask, {})
        np.testing.assert_array_equal(same, mask)
        assert not np.shares_memory(same, mask)
    assert list(TAHIR_REFINEMENT) == [*TAHIR_LUNG, *TAHIR_INFECTION]
    assert not imaging.refine(np.zeros((40, 40), bool), lung=lung).any()


def test_errors_name_what_is_wrong():
    mask = random_masks(1)[0]
    with pytest.raises(ValueError, match=r"uint8 \(40, 40\).*> 0"):
        fill_holes(mask.astype(np.uint8) * 255)
    with pytest.raises(ValueError, match=r"\(2, 40, 40\)"):
        dilate(np.stack([mask, mask]))
    with pytest.raises(ValueError, match=r"lung has shape \(20, 20\), mask \(40, 40\)"):
        within(mask, mask[:20, :20])
    with pytest.raises(ValueError, match="'within the lung' needs a lung mask"):
        imaging.refine(mask)
    for wrong, named in (
        (partial(remove_small, share=5), "share=5"),
        (partial(largest, n=0), "n=0"),
        (partial(dilate, radius=0), "radius=0"),
        (partial(close, iterations=0), "iterations=0"),
        (partial(open_, element="ball"), "'ball' must be disk or square"),
    ):
        with pytest.raises(ValueError, match=named):
            wrong(mask)


# ---- Ahmed --------------------------------------------------------------------------------------


def square(size, side, at=None):
    mask = np.zeros((size, size), bool)
    start = (size - side) // 2 if at is None else at
    mask[start : start + side, start : start + side] = True
    return mask


def test_ahmed_at_the_papers_size_is_a_block_of_8_all_around():
    """8 dilations by 3×3 add 8 pixels to each side; a square has no gaps to close."""
    lung = imaging.refine(square(512, 208), AHMED_REFINEMENT)  # 224² = 50,176 pixels
    assert np.array_equal(lung, square(512, 224))
    assert not imaging.refine(square(512, 207), AHMED_REFINEMENT).any()  # 223² = 49,729


def test_ahmed_closes_what_is_up_to_four_apart():
    """After 8 dilations a gap is 16 narrower; 2 more close what is left up to 4."""
    mask = np.zeros((512, 512), bool)
    mask[100:400, 100:200] = mask[100:400, 220:320] = True
    assert imaging.refine(mask, AHMED_REFINEMENT)[250, 100:320].all()
    wider = np.roll(mask[:, 210:], 1, axis=1)
    apart = np.concatenate([mask[:, :210], wider], 1)
    assert not imaging.refine(apart, AHMED_REFINEMENT)[250, 100:321].all()


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_ahmed_means_the_same_at_other_sizes(size):
    """Blocks of 512 pixels enlarged or shrunk: as many pixels around, as large a part to pass."""
    scale = size / 512
    for side, passes in ((208, True), (192, False)):
        lung = imaging.refine(square(size, int(side * scale)), AHMED_REFINEMENT)
        assert lung.any() == passes
        assert not passes or np.array_equal(lung, square(size, int((side + 16) * scale)))


def test_iterations_scale_with_the_longer_side_to_one_at_least():
    dot = np.zeros((60, 120), bool)
    dot[30, 60] = True
    for meant_for, times in ((120, 4), (60, 8), (240, 2), (4800, 1)):
        scaled = dilate(dot, iterations=4, element="square", size=meant_for)
        assert scaled.sum() == (2 * times + 1) ** 2
        gap = np.ones((60, 120), bool)
        gap[:, 60 : 60 + 2 * times] = False
        assert close(gap, iterations=4, element="square", size=meant_for).all()
        gap[:, 60 + 2 * times] = False
        assert not close(gap, iterations=4, element="square", size=meant_for).all()
    with pytest.raises(ValueError, match="size=0"):
        dilate(dot, size=0)
