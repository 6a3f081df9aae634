"""What training batches go through at random: matrices by hand, dots that move, factors in bounds."""

import math

import pytest
import torch
from fastai.torch_core import TensorImage, TensorMask

from covidlab.training import GARG_FIRST_SOURCE, augmentations
from covidlab.training.augment import Brighten, _shift_and_shear

STILL = {"max_rotate": 0.0, "max_zoom": 1.0, "max_lighting": 0.0, "max_warp": 0.0, "do_flip": False}
GARG = GARG_FIRST_SOURCE.augment


pytestmark = pytest.mark.filterwarnings("ignore:Default grid_sample")  # fastai's own


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def change(options, *batches):
    """Batches as fastai's training loader would hand them on: all with the same draws."""
    for transform in augmentations(**options):
        batches = transform(tuple(batches), split_idx=0)
    return batches


def dots(n=200, size=61, at=(30, 30), radius=1.5):
    """Images with one round dot."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    dot = ((y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2).float()
    return TensorImage(dot.repeat(n, 1, 1, 1))


def centres(images):
    """(N, 2) row and column of the centre of mass, in pixels."""
    plain = images.as_subclass(torch.Tensor)[:, 0]
    grid = torch.arange(plain.shape[-1], dtype=torch.float)
    mass = plain.sum((1, 2))
    return torch.stack(
        [(plain.sum(2) * grid).sum(1) / mass, (plain.sum(1) * grid).sum(1) / mass], 1
    )


# ---- shift and shear ---------------------------------------------------------------------------


def test_matrices_by_hand():
    """x' = x + lean·y + right, y' = y + down: the image is 2 wide in these coordinates."""
    m = _shift_and_shear(0.1, 0.25, TensorImage(torch.zeros(500, 1, 8, 8)))
    assert m.shape == (500, 3, 3)
    assert torch.equal(m[:, 2], torch.tensor([0.0, 0.0, 1.0]).expand(500, 3))
    assert (m[:, 0, 0] == 1).all() and (m[:, 1, 1] == 1).all() and (m[:, 1, 0] == 0).all()
    for entries, most in ((m[:, 0, 1], 0.25), (m[:, 0, 2], 0.2), (m[:, 1, 2], 0.2)):
        assert (
            entries.abs().max() <= most and entries.min() < -0.9 * most < 0.9 * most < entries.max()
        )
        assert entries.mean().abs() < 4 * most / math.sqrt(3 * 500)
    assert torch.equal(
        _shift_and_shear(0.0, 0.0, torch.zeros(2, 1, 4, 4)), torch.eye(3).repeat(2, 1, 1)
    )


def test_a_dot_is_shifted_by_no_more_than_it_may():
    """20 of 224 pixels, on 61: 5.45; whoever took the share of the half side would stay within 2.7."""
    (moved,) = change({**STILL, "max_shift": 20 / 224, "pad_mode": "zeros"}, dots())
    far = (centres(moved) - 30).abs()
    most = 61 * 20 / 224
    assert far.max() <= most + 0.05 and (far.max(0).values > 0.9 * most).all()
    assert torch.corrcoef((centres(moved) - 30).T)[0, 1].abs() < 0.25  # one does not bind the other


def test_shear_moves_a_row_by_its_height():
    above, middle = dots(at=(10, 30)), dots(at=(30, 30))
    for batch, height in ((above, 20), (middle, 0)):
        (moved,) = change({**STILL, "max_shear": 0.2, "pad_mode": "zeros"}, batch)
        sideways = (centres(moved) - torch.tensor([30.0 - height, 30.0])).abs().max(0).values
        assert sideways[0] < 0.05  # no row leaves its height
        assert 0.9 * 0.2 * height - 0.05 <= sideways[1] <= 0.2 * height + 0.05


# ---- brightness --------------------------------------------------------------------------------


def test_each_image_has_a_factor_of_its_own_within_bounds():
    images = TensorImage(torch.rand(300, 1, 4, 4) * 0.8 + 0.01)
    bright = Brighten(0.8, 1.2)(images, split_idx=0)
    factors = (bright / images).as_subclass(torch.Tensor).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-5)
    assert factors.min() >= 0.8 - 1e-5 and factors.max() <= 1.2 + 1e-5
    assert factors[:, 0].min() < 0.82 and factors[:, 0].max() > 1.18
    assert abs(factors[:, 0].mean().item() - 1) < 0.03


def test_white_is_the_end_and_validation_is_left_alone():
    white = TensorImage(torch.ones(50, 1, 2, 2))
    assert Brighten(1.1, 1.5)(white, split_idx=0).max() == 1
    assert torch.equal(Brighten(0.5, 0.6)(white, split_idx=1), white)
    for transform in augmentations(**GARG):
        assert torch.allclose(transform(dots(3), split_idx=1), dots(3), atol=1e-4)


# ---- all together ------------------------------------------------------------------------------


def test_masks_move_with_images_and_keep_their_values():
    images = dots(40, at=(22, 35), radius=6)
    masks = TensorMask(images[:, 0].long())
    moved, regions = change({**GARG, "brightness": None}, images, masks)
    assert set(regions.unique().tolist()) <= {0, 1}
    assert (regions != masks).any((1, 2)).all()
    inside = (moved[:, 0] > 0.5).as_subclass(torch.Tensor)
    found = regions.as_subclass(torch.Tensor).bool()
    overlap = 2 * (inside & found).sum((1, 2)) / (inside.sum((1, 2)) + found.sum((1, 2)))
    assert overlap.min() > 0.85


def test_brightness_leaves_masks_alone():
    images, masks = dots(8, radius=5), TensorMask(dots(8, radius=5)[:, 0].long())
    darker, same = change({**STILL, "brightness": (0.3, 0.4)}, images, masks)
    assert torch.equal(same, masks) and darker.max() <= 0.4 + 1e-6


def test_garg_as_published():
    """Section III.B: ±25°, ±20 of 224 pixels, zoom and brightness 0.8 to 1.2, shear ±0.2, flips."""
    assert (GARG["max_rotate"], GARG["max_shear"], GARG["brightness"]) == (25.0, 0.2, (0.8, 1.2))
    assert (GARG["min_zoom"], GARG["max_zoom"]) == (0.8, 1.2)
    assert GARG["max_shift"] * 224 == pytest.approx(20)


def test_garg_zooms_and_turns_within_bounds():
    """Two dots 20 px to either side of the middle: how far apart they come to lie, and how turned."""
    options = {**GARG, "max_shift": 0.0, "max_shear": 0.0, "brightness": None, "do_flip": False}
    both = torch.cat([dots(1, at=(30, 10)), dots(1, at=(30, 50))], 1).repeat(300, 1, 1, 1)
    (moved,) = change(options, TensorImage(both))
    left, right = (centres(moved[:, [k]]) for k in (0, 1))
    apart = right - left
    zoom, turn = apart.norm(dim=1) / 40, torch.rad2deg(torch.atan2(apart[:, 0], apart[:, 1]))
    assert 0.79 <= zoom.min() < 0.85 and 1.15 < zoom.max() <= 1.21
    assert 22 < turn.max() <= 25.5 and -25.5 <= turn.min() < -22


def test_nothing_asked_nothing_done():
    (same,) = change(STILL, dots(3))
    assert torch.allclose(same, dots(3), atol=1e-6)


def test_the_seed_repeats():
    first = change(GARG, dots(4))[0]
    torch.manual_seed(0)
    assert torch.equal(change(GARG, dots(4))[0], first)
