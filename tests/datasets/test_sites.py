"""Sites draw what they say, masks go along, and shortcuts are as strong as theory has it."""

import numpy as np
import pytest
from scipy.ndimage import label

from covidlab.datasets.sites import SITES, Site, assign, association, named, site_of

TIED = {"COVID": "bedside", "NonCOVID": "outpatient"}
THREE = {"a": "film", "b": "web", "c": "bedside"}


def rng(seed=0):
    return np.random.default_rng(seed)


def chest(shape=(128, 128), middle=0.5):
    """Grey body, two dark lungs, a bright mediastinum at `middle`; and the lungs."""
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = xx / shape[1] - middle, yy / shape[0] - 0.48
    lungs = ((np.abs(x) - 0.22) / 0.15) ** 2 + (y / 0.36) ** 2 < 1
    image = np.where(lungs, 0.2, 0.55) + 0.25 * np.exp(-((x / 0.05) ** 2))
    return np.clip(image, 0, 1).astype(np.float32), lungs


# ---- the profile -------------------------------------------------------------------------------


def test_the_plain_site_changes_nothing():
    image, lungs = chest((90, 70))
    out, (mask,) = Site().apply(image, rng(), masks=[lungs])
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(mask, lungs)
    assert out is not image and mask is not lungs


@pytest.mark.parametrize(
    "field,bad",
    [
        ("noise", -1),
        ("sharpness", 1.5),
        ("gamma", 0),
        ("contrast", float("nan")),
        ("brightness", -2),
        ("crop", 0.6),
        ("letter_size", 0),
        ("letters_share", 1.01),
        ("arrows", -0.1),
        ("tubes", 2),
        ("electrodes", -1),
        ("border", 0.4),
        ("border_grey", 255),
        ("compression", 30),
        ("ap", 1.2),
        ("letters", "L"),
        ("letters", ("L", "")),
        ("letters", (1,)),
        ("corner", "middle"),
    ],
)
def test_fields_out_of_range(field, bad):
    with pytest.raises(ValueError, match=f"^{field}"):
        Site(**{field: bad})
    with pytest.raises(ValueError, match=f"^{field}"):
        SITES["web"].but(**{field: bad})


def test_but_changes_that_and_no_more():
    bedside = SITES["bedside"]
    assert bedside.but() == bedside
    changed = bedside.but(tubes=0.0, name="ward")
    assert (changed.tubes, changed.name, changed.letters) == (0.0, "ward", bedside.letters)
    assert changed.but(tubes=bedside.tubes, name="bedside") == bedside


def test_named_lists_the_known():
    assert named("web") is SITES["web"]
    assert all(site.name == name for name, site in SITES.items())
    with pytest.raises(ValueError, match="'hospital'.*reference, university, bedside"):
        named("hospital")


# ---- what it draws -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("shape", [(64, 64), (150, 110)])
@pytest.mark.parametrize("modality", ["X-ray", "CT"])
def test_all_profiles_on_all_shapes(name, shape, modality):
    image, lungs = chest(shape)
    before = image.copy()
    out, masks = SITES[name].apply(image, rng(3), masks=(lungs, ~lungs), modality=modality)
    assert out.shape == shape and out.dtype == np.float32
    assert 0 <= out.min() and out.max() <= 1
    assert [m.shape for m in masks] == [shape] * 2 and masks[0].dtype == bool
    assert np.array_equal(out, image) == (name == "reference")
    np.testing.assert_array_equal(image, before)
    same = SITES[name].apply(image, rng(3), modality=modality)
    np.testing.assert_array_equal(same, out)


def test_one_generator_gives_one_picture_after_another():
    image, _ = chest()
    one = rng(1)
    first, second = (SITES["bedside"].apply(image, one) for _ in range(2))
    assert not np.array_equal(first, second)


def test_noise_is_left_to_the_phantom():
    image, _ = chest()
    np.testing.assert_array_equal(Site(noise=5.0).apply(image, rng()), image)


def test_grey_curve_by_hand():
    grey = np.array([[0.0, 0.5, 1.0]] * 3, np.float32)
    out = Site(gamma=2.0, contrast=0.5, brightness=0.1).apply(grey, rng())
    np.testing.assert_allclose(out[0], [0.35, 0.475, 0.85], atol=1e-6)
    dark = Site(contrast=3.0, brightness=-0.5).apply(grey, rng())
    np.testing.assert_allclose(dark[0], [0, 0, 1], atol=1e-6)


def test_sharpness_blurs_below_zero_and_lifts_edges_above():
    edge = np.full((100, 100), 0.3, np.float32)
    edge[:, 50:] = 0.7
    step = lambda s: float(np.diff(Site(sharpness=s).apply(edge, rng())[50]).max())  # noqa: E731
    assert step(-1.0) < step(-0.3) < step(0.0) < step(0.5) < step(1.0)
    # A blurred step of 0.4 has the slope of its Gaussian at the middle: SD 1 % of 100 pixels.
    wide = np.repeat(np.repeat(edge, 4, 0), 4, 1)
    slope = np.diff(Site(sharpness=-1.0).apply(wide, rng())[200]).max()
    assert slope == pytest.approx(0.4 / (4.0 * np.sqrt(2 * np.pi)), rel=0.02)


@pytest.mark.parametrize("crop,border", [(0.2, 0.0), (0.0, 0.1), (0.12, 0.05)])
@pytest.mark.parametrize("shape", [(200, 200), (160, 240)])
def test_masks_go_along_with_crop_and_border(crop, border, shape):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    disc = (yy - 0.5 * shape[0]) ** 2 + (xx - 0.52 * shape[1]) ** 2 < 40**2
    site = Site(crop=crop, border=border)
    out, (mask,) = site.apply(disc.astype(np.float32), rng(2), masks=[disc])
    np.testing.assert_array_equal(out >= 0.5, mask)
    wide = round(border * min(shape))
    inner = np.prod([side - 2 * wide for side in shape]) / np.prod(shape)
    assert mask.sum() / disc.sum() == pytest.approx(inner / (1 - crop) ** 2, rel=0.02)


def test_crop_is_not_always_in_the_middle_and_never_one_sided():
    ramp = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (200, 1))
    lost = [
        (o[0, 0], 1 - o[0, -1]) for o in (Site(crop=0.2).apply(ramp, rng(s)) for s in range(30))
    ]
    assert np.allclose(np.sum(lost, axis=1), 0.2, atol=0.015)
    assert np.std(lost, axis=0).min() > 0.01
    assert np.min(lost) > 0.03


def test_border_is_as_wide_and_as_grey_as_said():
    image = np.full((100, 80), 0.5, np.float32)
    out = Site(border=0.1, border_grey=0.8).apply(image, rng())
    frame = out == np.float32(0.8)
    assert frame.sum() == 100 * 80 - 84 * 64
    assert not frame[8:-8, 8:-8].any()


def boxes(out, shape):
    """Top, bottom, left, right of what was drawn on black, in parts of the sides."""
    rows, columns = np.nonzero(out > 0.1)
    return (
        rows.min() / shape[0],
        rows.max() / shape[0],
        columns.min() / shape[1],
        columns.max() / shape[1],
    )


@pytest.mark.parametrize("shape", [(96, 96), (300, 200)])
def test_left_is_marked_at_the_images_right(shape):
    black = np.zeros(shape, np.float32)
    for seed in range(8):
        top, bottom, left, _ = boxes(Site(letters=("L",)).apply(black, rng(seed)), shape)
        assert bottom < 0.25 and left > 0.75
        top, bottom, _, right = boxes(Site(letters=("R",)).apply(black, rng(seed)), shape)
        assert bottom < 0.25 and right < 0.25


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_other_letters_stand_in_their_corner_one_below_the_other(corner):
    black = np.zeros((200, 200), np.float32)
    site = Site(letters=("AP", "SUPINE"), corner=corner)
    for seed in range(4):
        out = site.apply(black, rng(seed))
        top, bottom, left, right = boxes(out, out.shape)
        assert bottom < 0.3 if "top" in corner else top > 0.7
        assert right < 0.45 if "left" in corner else left > 0.55
        lines = label((out > 0.1).any(1))[1]
        assert lines == 2


def test_view_is_written_and_drawn_with_its_probability():
    site = Site(letters=("{view}",), ap=0.3)
    black = np.zeros((64, 64), np.float32)
    ap, pa = (site.apply(black, rng(5), view=v) for v in ("AP", "PA"))
    assert not np.array_equal(ap, pa)
    drawn = site.apply(black, rng(5))
    assert np.array_equal(drawn, ap) or np.array_equal(drawn, pa)
    views = rng()
    share = np.mean([site.view(views) == "AP" for _ in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)  # four SD


@pytest.mark.parametrize("field", ["letters_share", "tubes", "electrodes", "arrows"])
def test_each_occurs_as_often_as_said(field):
    letters = ("AP",) if field == "letters_share" else ()
    site = Site(letters=letters, **{field: 0.4})
    black, one = np.zeros((64, 64), np.float32), rng(7)
    share = np.mean([site.apply(black, one).any() for _ in range(300)])
    assert share == pytest.approx(0.4, abs=4 * (0.24 / 300) ** 0.5)


def test_letters_are_the_same_with_devices_and_without():
    black = np.zeros((128, 128), np.float32)
    letters = Site(letters=("R", "{date}", "{time}"))
    alone = letters.apply(black, rng(9))
    devices = Site(tubes=1.0, electrodes=1.0).apply(black, rng(9))
    both = letters.but(tubes=1.0, electrodes=1.0).apply(black, rng(9))
    assert devices.any() and alone.any()
    clear = devices == 0
    np.testing.assert_array_equal(both[clear], alone[clear])


@pytest.mark.parametrize("field", ["tubes", "electrodes"])
def test_devices_only_brighten_a_little_and_look_the_same_at_any_size(field):
    site = Site(**{field: 1.0})
    for seed in range(4):
        gain = {}
        for side in (64, 128, 512):
            image = chest((side, side))[0]
            out = site.apply(image, rng(seed))
            assert (out - image).min() > -1e-6
            gain[side] = float((out - image).mean())
        assert 0.0005 < gain[128] < 0.03
        assert gain[64] == pytest.approx(gain[512], rel=0.3)
        assert gain[128] == pytest.approx(gain[512], rel=0.15)


@pytest.mark.parametrize("middle", [0.45, 0.5, 0.56])
def test_tubes_follow_the_mediastinum(middle):
    """Below the neck a tube runs within a tenth of the width beside it, none ends in a lung."""
    image, _ = chest((256, 256), middle)
    for seed in range(12):
        gain = Site(tubes=1.0).apply(image, rng(seed)) - image
        columns = np.nonzero((gain[64:150] > 0.02).any(0))[0] / 256
        assert columns.size
        assert np.abs(columns - middle).max() < 0.12


def test_three_to_five_electrodes_each_with_a_metal_snap():
    black = np.zeros((512, 512), np.float32)
    found = []
    for seed in range(12):
        out = Site(electrodes=1.0).apply(black, rng(seed))
        found.append(label(out > 0.8)[1])
        assert label(out > 0.05)[1] <= found[-1], "every disc hangs on a wire"
        assert max(out[:, 0].max(), out[:, -1].max()) > 0.2, "the wires leave the picture"
    assert set(found) == {3, 4, 5}


def test_ct_shows_a_tube_as_a_dot_and_electrodes_on_the_skin():
    yy, xx = np.mgrid[:256, :256] / 256 - 0.5
    body = (xx / 0.45) ** 2 + (yy / 0.32) ** 2 < 1
    image = np.where(body, 0.6, 0.0).astype(np.float32)
    dot = Site(tubes=1.0).apply(image, rng(1), modality="CT") - image > 0.05
    rows, columns = np.nonzero(dot)
    assert label(dot)[1] == 1 and np.ptp(rows) < 8 and np.ptp(columns) < 8
    assert abs(columns.mean() / 256 - 0.5) < 0.05
    skin = Site(electrodes=1.0).apply(image, rng(1), modality="CT") - image > 0.05
    parts, n = label(skin)
    assert n == 2
    for k in (1, 2):
        row, column = (i.mean() for i in np.nonzero(parts == k))
        assert abs(row - np.argmax(body[:, round(column)])) < 3
    inside = np.full((64, 64), 0.7, np.float32)
    np.testing.assert_allclose(Site(electrodes=1.0).apply(inside, rng(), modality="CT"), inside)


def test_apply_says_what_is_wrong():
    image, lungs = chest((64, 64))
    with pytest.raises(ValueError, match="-1000 to 200"):
        Site().apply(np.array([[-1000.0, 200.0]]), rng())
    with pytest.raises(ValueError, match=r"mask has shape \(32, 64\), the image \(64, 64\)"):
        Site().apply(image, rng(), masks=[lungs[:32]])
    with pytest.raises(ValueError, match="modality='MR' must be X-ray or CT"):
        Site().apply(image, rng(), modality="MR")


# ---- planting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("sites", [TIED, THREE], ids=["two", "three"])
def test_own_site_has_the_probability_that_theory_gives(sites, strength):
    n, patients = len(sites), 6000
    labels = list(sites) * (patients // n)
    made = assign(labels, sites, strength, rng(1))
    own = np.mean([made[i] == sites[labels[i]] for i in range(patients)])
    p = strength + (1 - strength) / n
    assert own == pytest.approx(p, abs=4 * (p * (1 - p) / patients) ** 0.5 + 1e-9)
    for label_ in sites:
        for site in set(sites.values()) - {sites[label_]}:
            share = np.mean(
                [m == site for m, lab in zip(made, labels, strict=True) if lab == label_]
            )
            assert share == pytest.approx((1 - strength) / n, abs=0.04)
    # Cramér's V is expected at the strength; where nothing is tied, chance alone lifts it.
    assert association(labels, made) == pytest.approx(strength, abs=0.045)


def test_a_tuple_ties_nothing():
    labels = ["a", "b"] * 3000
    made = assign(labels, ("film", "web", "film"), 1.0, rng(2))
    assert association(labels, made) < 0.05
    assert np.mean(np.array(made) == "web") == pytest.approx(0.5, abs=0.026)


def test_labels_may_share_a_site():
    both = {"COVID": "bedside", "Pneumonia": "bedside", "Normal": "outpatient"}
    made = [site_of("COVID", both, 0.0, rng(s)) for s in range(2000)]
    assert made.count("bedside") == pytest.approx(1000, abs=4 * 500**0.5)
    assert association(list(both) * 9, assign(list(both) * 9, both, 1.0, rng())) == pytest.approx(1)


def test_a_patients_site_depends_on_no_other_patient():
    labels = ["COVID", "NonCOVID", "COVID", "NonCOVID", "NonCOVID"] * 20
    many = assign(labels, TIED, 0.5, rng(4))
    assert assign(labels[:7], TIED, 0.5, rng(4)) == many[:7]
    others = ["NonCOVID"] * 40 + labels[40:]
    assert assign(others, TIED, 0.5, rng(4))[40:] == many[40:]


def test_more_strength_moves_patients_to_their_own_site_or_nowhere():
    for seed in range(300):
        weak, strong = (site_of("b", THREE, s, rng(seed)) for s in (0.2, 0.7))
        assert strong in (weak, "web")
    labels = list("abc") * 50
    weak, strong = (assign(labels, THREE, s, rng(3)) for s in (0.2, 0.7))
    for of, before, after in zip(labels, weak, strong, strict=True):
        assert after in (before, THREE[of])
    assert weak != strong


def test_own_profiles_can_be_planted():
    known = {"ward": SITES["bedside"].but(name="ward"), **SITES}
    assert site_of("x", {"x": "ward"}, 1.0, rng(), known) == "ward"
    assert assign(["x"], {"x": "ward"}, 1.0, rng(), known) == ["ward"]


def test_planting_says_what_is_wrong():
    with pytest.raises(ValueError, match="unknown site 'ward': known are reference"):
        site_of("a", {"a": "film", "b": "ward"}, 0.5, rng())
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="strength must lie in 0..1"):
            assign([], TIED, strength, rng())
    with pytest.raises(ValueError, match="label 'Flu' has no site.*COVID, NonCOVID"):
        site_of("Flu", TIED, 0.0, rng())
    with pytest.raises(ValueError, match="no site at all"):
        site_of("a", (), 0.0, rng())
    with pytest.raises(ValueError, match="mapping or a tuple"):
        assign(["a"], "web", 0.0, rng())


def test_association_by_hand():
    """Phi of the table [[3, 1], [1, 3]] is (9 - 1) / 16."""
    assert association("aaaabbbb", "xxxyxyyy") == pytest.approx(0.5)
    assert association("ab", "xy") == pytest.approx(1.0)
    assert association("aabb", "xyxy") == pytest.approx(0.0)
    assert association("aabb", "xxxx") == 0.0
    assert association("aaaa", "xyxy") == 0.0
    with pytest.raises(ValueError, match="2 labels and 3 sites"):
        association("ab", "xyz")
    with pytest.raises(ValueError, match="0 labels"):
        association([], [])
