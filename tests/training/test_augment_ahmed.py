"""Table 3 of Ahmed: matrices by hand, dots that move, masks that move with them, grey values in bounds."""

import math

import pytest
import torch
from fastai.torch_core import TensorImage, TensorMask

from covidlab.training import AHMED_HRNET, AHMED_LUNGS, augmentations
from covidlab.training.augment_ahmed import (
    ImageSteps,
    _blur,
    _gamma,
    _matrices,
    _noise,
    _salt_pepper,
    ahmed_augmentations,
)

TABLE = AHMED_LUNGS.augment["ahmed"]
STILL = {"scale": (1.0, 1.0), "max_rotate": 0.0, "max_shear": 0.0}
CLEAR = {"gamma": (1.0, 1.0), "p_salt_pepper": 0.0, "p_blur": 0.0, "p_noise": 0.0}

pytestmark = pytest.mark.filterwarnings("ignore:Default grid_sample")  # fastai's own


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def change(options, *batches):
    """Batches as fastai's training loader would hand them on: all with the same draws."""
    for transform in augmentations(ahmed=options):
        batches = transform(tuple(batches), split_idx=0)
    return batches


def dots(n=300, size=61, at=(30, 30), radius=1.5):
    """Images with one round dot."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    dot = ((y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2).float()
    return TensorImage(dot.repeat(n, 1, 1, 1))


def where(images):
    """(N, 2) x and y of the dots, from the middle, in pixels."""
    plain = images.as_subclass(torch.Tensor)[:, 0]
    grid, mass = torch.arange(plain.shape[-1], dtype=torch.float), plain.sum((1, 2))
    x, y = (plain.sum(1) * grid).sum(1) / mass, (plain.sum(2) * grid).sum(1) / mass
    return torch.stack([x, y], 1) - plain.shape[-1] // 2


# ---- where pixels go ---------------------------------------------------------------------------


def test_a_matrix_by_hand():
    """Twice as wide: what is now at x was at x / 2. Then scale, turn and lean, read back from many."""
    m = _matrices((2.0, 2.0), 0.0, 0.0, 0.0, torch.zeros(1, 1, 8, 8))[0]
    torch.testing.assert_close(m, torch.diag(torch.tensor([0.5, 1.0, 1.0])))
    drawn = _matrices((0.8, 1.1), 45.0, 0.2, 1.0, torch.zeros(1000, 1, 8, 8))
    forward = torch.linalg.inv(drawn)
    # area: the turn and the shear keep it, so that the determinant is the scale of the width
    wide = torch.linalg.det(forward)
    assert 0.8 <= wide.min() < 0.81 and 1.09 < wide.max() <= 1.1 + 1e-5
    # what was upright leans by the turn and the shear, and keeps its height but for them
    x, y = forward[:, 0, 1], forward[:, 1, 1]  # (lean·cos − sin, cos)
    angle = torch.acos(y)
    assert math.radians(44) < angle.max() <= math.radians(45) + 1e-5
    lean = torch.minimum((x - angle.sin()).abs(), (x + angle.sin()).abs()) / y
    assert 0.19 < lean.max() <= 0.2 + 1e-4


def test_only_the_width_is_scaled():
    right, below = dots(at=(30, 50)), dots(at=(50, 30))
    options = STILL | CLEAR | {"scale": (0.8, 1.1)}
    (moved,) = change(options, right)
    x = where(moved)[:, 0]
    assert 15.9 <= x.min() < 16.3 and 21.7 < x.max() <= 22.1
    assert where(change(options, below)[0])[:, 1].sub(20).abs().max() < 0.05


def test_turned_by_up_to_45_degrees_either_way():
    (moved,) = change(STILL | CLEAR | {"max_rotate": 45.0}, dots(at=(30, 50)))
    x, y = where(moved).T
    assert (torch.hypot(x, y) - 20).abs().max() < 0.1  # degrees of a circle, not of an ellipse
    turn = torch.rad2deg(torch.atan2(y, x))
    assert -45.3 <= turn.min() < -43 and 43 < turn.max() <= 45.3


def test_seven_in_ten_are_sheared_and_only_sideways():
    options = STILL | CLEAR | {"max_shear": 0.2, "p_shear": 0.7}
    x, y = where(change(options, dots(n=600, at=(50, 30)))[0]).T
    assert y.sub(20).abs().max() < 0.05 and 3.8 < x.abs().max() <= 4.05
    assert 0.62 < (x.abs() > 0.02).float().mean() < 0.78


def test_what_comes_in_is_black():
    white = TensorImage(torch.ones(60, 1, 32, 32))
    (moved,) = change(STILL | CLEAR | {"max_rotate": 45.0}, white)
    assert moved[:, 0, 16, 16].min() > 0.99
    assert moved[:, 0, 0, 0].min() == 0


def test_masks_move_with_their_images_and_stay_whole_numbers():
    images = dots(40, at=(22, 35), radius=8)
    masks = TensorMask(3 * images[:, 0].long())
    moved, regions = change(TABLE | CLEAR, images, masks)
    assert regions.dtype == torch.int64 and set(regions.unique().tolist()) == {0, 3}
    assert (regions != masks).any((1, 2)).all()
    inside = (moved[:, 0] > 0.5).as_subclass(torch.Tensor)
    found = regions.as_subclass(torch.Tensor) == 3
    overlap = 2 * (inside & found).sum((1, 2)) / (inside.sum((1, 2)) + found.sum((1, 2)))
    assert overlap.min() > 0.9


def test_grey_values_change_and_masks_do_not():
    images, masks = dots(50, radius=9), TensorMask(dots(50, radius=9)[:, 0].long())
    changed, same = change(TABLE | STILL, images, masks)
    assert torch.equal(same, masks) and not torch.allclose(changed, images)
    assert changed.min() >= 0 and changed.max() <= 1


# ---- grey values -------------------------------------------------------------------------------


def test_gamma_by_hand():
    x = torch.full((400, 1, 2, 2), 0.25)
    assert torch.allclose(_gamma(x, 2.0, 2.0), torch.tensor(0.5))  # 0.25 ** (1 / 2)
    found = _gamma(x, 0.5, 3.0)[:, 0, 0, 0]
    low, high = 0.25**2, 0.25 ** (1 / 3)
    assert low <= found.min() < low + 0.01 and high - 0.01 < found.max() <= high


def test_salt_and_pepper_change_up_to_one_pixel_in_a_hundred():
    grey = torch.full((80, 3, 60, 60), 0.5)
    noisy = _salt_pepper(grey, 0.01)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(noisy[:, 0], noisy[:, 2])  # grey stays grey in three channels
    share = (noisy[:, 0] != 0.5).float().mean((1, 2))
    assert share.max() < 0.016 and 0.004 < share.mean() < 0.006  # uniform from 0 to 0.01
    white, black = (noisy == 1).sum(), (noisy == 0).sum()
    assert 0.85 < white / black < 1.15


def test_the_blur_is_a_gaussian_of_half_a_pixel():
    point = torch.zeros(1, 1, 31, 31)
    point[..., 15, 15] = 1
    grid = torch.arange(-5, 6, dtype=torch.float)
    line = torch.exp(-(grid**2) / (2 * 0.5**2))
    torch.testing.assert_close(
        _blur(point, 0.5, 11)[0, 0, 15, 10:21], line * line[5] / line.sum() ** 2
    )


def test_noise_is_mixed_in_by_up_to_half():
    black = torch.zeros(200, 3, 24, 24)
    noisy = _noise(black, 0.5)
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    top = noisy.amax((1, 2, 3))  # g · 1, the noise being stretched to [0, 1]
    assert top.min() < 0.03 and 0.47 < top.max() <= 0.5 and abs(top.mean() - 0.25) < 0.03
    assert (noisy.amin((1, 2, 3)) == 0).all()


def test_each_step_takes_its_own_share_of_the_images():
    steps = ImageSteps([(lambda x: x + 0.25, 0.3), (lambda x: x + 0.5, 0.5)])
    out = steps(TensorImage(torch.zeros(4000, 1, 1, 1)), split_idx=0).flatten()
    values, counts = out.as_subclass(torch.Tensor).unique(return_counts=True)
    assert values.tolist() == [0, 0.25, 0.5, 0.75]
    expected = torch.tensor([0.35, 0.15, 0.35, 0.15])  # the two shares are independent
    assert (counts / 4000 - expected).abs().max() < 0.03


# ---- all together ------------------------------------------------------------------------------


def test_both_recipes_have_the_published_table():
    assert TABLE == AHMED_HRNET.augment["ahmed"]
    assert (TABLE["scale"], TABLE["max_rotate"], TABLE["max_shear"]) == ((0.8, 1.1), 45.0, 0.2)
    assert (TABLE["gamma"], TABLE["salt_pepper"], TABLE["blur_kernel"]) == ((0.5, 3.0), 0.01, 11)
    chances = [TABLE[p] for p in ("p_shear", "p_salt_pepper", "p_blur", "p_noise")]
    assert chances == [0.7, 0.3, 0.5, 0.3]


def test_validation_is_left_alone_and_the_seed_repeats():
    for transform in ahmed_augmentations(**TABLE):
        assert torch.allclose(transform(dots(3), split_idx=1), dots(3), atol=1e-4)
    first = change(TABLE, dots(4))[0]
    torch.manual_seed(0)
    assert torch.equal(change(TABLE, dots(4))[0], first)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (1.1, 0.8)},
        {"gamma": (0.0, 2.0)},
        {"salt_pepper": 1.5},
        {"p_blur": -0.1},
        {"blur_kernel": 10},
    ],
)
def test_errors_name_the_argument(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ahmed_augmentations(**wrong)


def test_nothing_beside_a_papers_whole_augmentation():
    with pytest.raises(ValueError, match="ahmed"):
        augmentations(ahmed={}, max_rotate=10.0)
