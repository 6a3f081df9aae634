"""The drawn body is a thorax: sizes, the right side up, bones where they belong, one anatomy."""

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, gaussian_filter1d, label
from scipy.signal import find_peaks
from scipy.stats import mannwhitneyu, spearmanr

from covidlab.datasets.phantom import DISEASES, patient
from covidlab.datasets.phantom.body import LOBES

SIZE = 96


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def grid(who, size=SIZE):
    """Scanner coordinates in mm of the columns (W,) and rows (H,) of an axial slice."""
    at = (np.arange(size) + 0.5) * who.fov / size - who.fov / 2
    return at + who.body.shift[0], at + who.body.shift[1]


def pixel(who, x, y, z, size=SIZE):
    """Row and column of the pixel nearest to a point of the body at height z."""
    gx, gy = grid(who, size)
    bx, by = who.body.from_scanner(gx[None], gy[:, None], z)
    return np.unravel_index(np.argmin((bx - x) ** 2 + (by - y) ** 2), bx.shape)


def sides(lung):
    """Columns of the image left and right of the middle between the lungs' outer edges."""
    columns = np.flatnonzero(lung.any(0))
    middle = (columns[0] + columns[-1] + 1) // 2
    return np.s_[:, :middle], np.s_[:, middle:]


# ---- sizes -------------------------------------------------------------------------------------


def test_lungs_hold_litres(healthy, scan):
    litres = np.array([len(who.body.spots) * 6.5 * 6.5 * 5.5 / 1e6 for who in healthy])
    assert 1.8 < litres.min() < litres.max() < 7.5
    assert 3.2 < np.median(litres) < 5.0
    men = litres[[not who.female for who in healthy]]
    women = litres[[who.female for who in healthy]]
    assert mannwhitneyu(men, women, alternative="greater").pvalue < 0.01
    # Against the mask of one whole volume.
    who, volume, *_ = scan
    counted = volume.lung.sum() * np.prod(volume.spacing) / 1e6
    assert counted == pytest.approx(len(who.body.spots) * 6.5 * 6.5 * 5.5 / 1e6, rel=0.02)


def test_lungs_are_dark_and_the_rest_is_not(healthy):
    for who in healthy[:6]:
        for z in who.heights(3):
            cut = who.render(z, SIZE)
            body = binary_fill_holes(cut.hu > -500)
            assert -900 < cut.hu[cut.lung].mean() < -700
            assert cut.hu[body & ~cut.lung].mean() > -150
            assert 0.08 < cut.lung.sum() / body.sum() < 0.6


def test_lower_lobes_lie_behind_and_below(healthy):
    """Each point belongs to one lobe; the lower lobes reach the base, not the apex."""
    for who in healthy[:12]:
        points = who.body.spots
        inside = {name: who.body.lobe(*points.T, name) < 0 for name in LOBES}
        assert np.mean(sum(inside.values()) == 1) > 0.999
        y, z = points[:, 1], points[:, 2]
        for side in ("right", "left"):
            upper, lower = inside[f"{side} upper"], inside[f"{side} lower"]
            assert y[lower].mean() > y[upper].mean() + 20
            assert z[lower].mean() < z[upper].mean() - 50
            assert z[upper].max() > z[lower].max() + 25 and z[lower].min() < z[upper].min() - 25
        assert (points[inside["right middle"], 0] < 0).all()
        share = {name: some.mean() for name, some in inside.items()}
        assert min(share, key=share.get) == "right middle"
        assert 0.40 < share["right lower"] + share["left lower"] < 0.62


# ---- which way up ------------------------------------------------------------------------------


def test_heart_on_image_right_spine_at_the_bottom(healthy):
    for who in healthy[:10]:
        cut = who.render(-55.0 * who.body.tall, SIZE, noise=0)
        left, right = sides(cut.lung)
        assert cut.lung[left].sum() > 1.05 * cut.lung[right].sum()
        rows, columns = np.nonzero(cut.lung)
        row, column = int(rows.mean()), int(columns.mean())
        low = who.render(-100.0 * who.body.tall, SIZE, noise=0)  # below the sternum
        between = low.hu[:, column - 10 : column + 10] > 120
        assert between[row:].sum() > max(25, 3 * between[:row].sum())


def test_liver_on_image_left_and_its_dome_the_higher_one(healthy):
    for who in healthy[:10]:
        body = who.body
        top = body.domes[0]
        at = -0.54 * body.width, -0.3 * body.depth
        row, column = pixel(who, *at, top - 12)
        assert who.render(top - 12, SIZE).hu[row, column] > -150
        assert column < SIZE / 2
        row, column = pixel(who, *at, top + 12)
        assert who.render(top + 12, SIZE).lung[row, column]
        # At the height of the right dome there is still lung at the same place on the left.
        if body.domes[1] < top - 9:
            x, y = 0.72 * body.width, 0.1 * body.depth
            row, column = pixel(who, x, y, top - 16)
            assert who.render(top - 16, SIZE).lung[row, column] and column > SIZE / 2


def test_apex_is_up_and_base_is_down(scan):
    _, volume, *_ = scan
    assert (np.diff(volume.z) < 0).all()
    lung = volume.lung.sum((1, 2))
    assert lung[:4].max() < 0.25 * lung.max()  # the tips
    back = [np.nonzero(plane)[0].mean() for plane in volume.lung if plane.any()]
    assert np.mean(back[-8:]) > np.mean(back[len(back) // 2]) + 5  # the recess behind the liver


def test_trachea_high_up_is_a_hole_between_the_lungs(healthy):
    for who in healthy[:5]:
        cut = who.render(45.0, 192)
        air = (cut.hu < -700) & ~cut.lung & binary_fill_holes(cut.hu > -500)
        parts, n = label(air)
        area = np.bincount(parts.ravel())[1:] * (who.fov / 192) ** 2
        assert n and 100 < area.max() < 450  # mm²; a trachea is 13 to 22 mm wide
        columns = np.nonzero(parts == 1 + np.argmax(area))[1]
        lung = np.flatnonzero(cut.lung.any(0))
        assert lung[0] < columns.mean() < lung[-1]


# ---- bones -------------------------------------------------------------------------------------


def test_ribs_of_ct_and_xray_are_the_same(healthy):
    """Tissue for CT at the axes of the tubes that the X-ray projects: bone there, none between."""
    for who in healthy[:4]:
        body = who.body
        tubes, _ = body.bones()
        at = tubes[:, :3] + 0.5 * tubes[:, 3:6]

        def hu(points, body=body):
            z = points[:, 2, None, None]
            x, y = body.from_scanner(points[:, 0, None, None], points[:, 1, None, None], z)
            return body.tissue(x, y, z, 1.5)[0].ravel()

        at = at[at[:, 2] < body.top]
        assert np.mean(hu(at) > 90) > 0.97
        between = at + np.array([0, 0, 0.5 * body.rib[1]])
        assert np.mean(hu(between) > 90) < 0.25  # some fall on a shoulder blade or a collar bone


def test_seven_or_more_ribs_cross_the_side_of_the_chest(scan):
    who, volume, x, y = scan
    bone = []
    for plane, z in zip(volume.hu, volume.z, strict=True):
        bx, by = who.body.from_scanner(x[None], y[:, None], z)
        wall = who.body.regions(bx[None], by[None], np.full((1, 1, 1), z))[0][0]
        ring = (wall > 4) & (wall < 10) & (np.abs(by - 6) < 4) & (bx > 0)
        bone.append(plane[ring].max(initial=0))
    peaks, _ = find_peaks(gaussian_filter1d(bone, 2.0), distance=6, prominence=20)
    assert 7 <= len(peaks) <= 12
    assert np.median(np.diff(peaks)) * 2.5 == pytest.approx(who.body.rib[1], rel=0.15)


@pytest.mark.parametrize("bone", ["sternum", "shoulder blades", "collar bones", "spine"])
def test_bones_are_where_they_belong(healthy, bone):
    for who in healthy[:6]:
        body = who.body
        z = body.tall * {"collar bones": 66.0, "shoulder blades": 25.0}.get(bone, 0.0)
        gx, gy = grid(who, 192)
        x, y = body.from_scanner(gx[None], gy[:, None], z)
        hu = who.render(z, 192, noise=0).hu
        wall = body.regions(x[None], y[None], np.full((1, 1, 1), z))[0][0]
        outside = (wall > 14) & (np.abs(x) > 30)  # beyond the ribs
        where = {
            "sternum": (np.abs(x) < 10) & (y < -0.75 * body.depth),
            "shoulder blades": outside & (y > 0),
            "collar bones": (y < -0.3 * body.depth) & (np.abs(x) > 18),
            "spine": (np.abs(x) < 30) & (y > 0.2 * body.depth),
        }[bone]
        halves = [where & (x < 0), where & (x > 0)] if bone.endswith("s") else [where]
        for half in halves:
            assert 40 < (hu[half] > 200).sum() * (who.fov / 192) ** 2 < 4000, who  # mm²
        if bone == "shoulder blades":  # they end before the lungs do
            low = who.render(-100.0 * body.tall, 192, noise=0).hu
            x, y = body.from_scanner(gx[None], gy[:, None], -100.0 * body.tall)
            wall = body.regions(x[None], y[None], np.full((1, 1, 1), -100.0 * body.tall))[0][0]
            assert not (low[(wall > 15) & (np.abs(x) > 45)] > 200).any()


# ---- people differ -----------------------------------------------------------------------------


def test_women_have_more_soft_tissue_in_front(healthy):
    front = {True: [], False: []}
    for who in healthy:
        cut = who.render(-35.0, 64, noise=0)
        columns = np.flatnonzero(cut.lung.sum(0) > 8)
        skin = np.array([np.argmax(cut.hu[:, c] > -300) for c in columns])
        lung = np.array([np.argmax(cut.lung[:, c]) for c in columns])
        front[who.female].append(np.mean(lung - skin) * who.fov / 64)
    assert min(len(v) for v in front.values()) >= 10
    assert mannwhitneyu(front[True], front[False], alternative="greater").pvalue < 1e-4


def test_people_lie_turned_and_tilted(healthy):
    """Turn and tilt, read off the lungs, vary as the body says."""
    turn, tilt = [], []
    for who in healthy[:16]:
        high, low = (who.render(z, SIZE, noise=0).lung for z in (40.0, -40.0))
        centres = [np.argwhere(high & side).mean(0) for side in _halves(high)]
        (r0, c0), (r1, c1) = centres
        turn.append(np.rad2deg(np.arctan2(r1 - r0, c1 - c0)))
        middle = [np.flatnonzero(lung.any(0))[[0, -1]].mean() for lung in (high, low)]
        tilt.append((middle[0] - middle[1]) * who.fov / SIZE / 80.0)
    angles = [np.rad2deg(who.body.angle) for who in healthy[:16]]
    assert np.std(turn) > 1.5 and np.std(tilt) > 0.02
    assert spearmanr(turn, angles).statistic > 0.9
    assert spearmanr(tilt, [who.body.lean[0] for who in healthy[:16]]).statistic > 0.8


def _halves(lung):
    out = np.zeros((2, *lung.shape), bool)
    for half, side in zip(out, sides(lung), strict=True):
        half[side] = True
    return out


def test_no_two_people_are_alike(healthy):
    assert len({(who.body.width, who.body.depth, who.fov) for who in healthy}) == len(healthy)
    lungs = [who.render(0.0, 64).lung for who in healthy[:10]]
    assert max(dice(a, b) for i, a in enumerate(lungs) for b in lungs[:i]) < 0.97


# ---- one anatomy -------------------------------------------------------------------------------


def test_anatomy_is_the_same_whatever_is_asked():
    """Disease, severity and difficulty change the lungs only; and no height tells of a disease."""
    well = patient(5, 13, disease="normal", difficulty=0.2)
    z = float(well.heights(1)[0])
    base = well.render(z, SIZE, noise=0, blur=0)
    asked = [{"disease": d} for d in DISEASES] + [
        {"severity": 0.0},
        {"severity": 0.7},
        {"difficulty": 1.0},
    ]
    for given in asked:
        who = patient(5, 13, **{"difficulty": 0.2} | given)
        cut = who.render(z, SIZE, noise=0, blur=0)
        np.testing.assert_array_equal(cut.lung | cut.effusion, base.lung)
        # Half a pixel of lung may be mixed into the edge.
        edge = base.lung.copy()
        edge[1:] |= base.lung[:-1]
        edge[:-1] |= base.lung[1:]
        edge[:, 1:] |= edge[:, :-1]
        edge[:, :-1] |= edge[:, 1:]
        np.testing.assert_array_equal(cut.hu[~edge], base.hu[~edge])


def test_height_does_not_give_the_label_away():
    """A patient is cut at the same heights whether sick or not."""
    for k in range(4):
        sick, well = (patient(k, 8, disease=d) for d in ("COVID-19", "normal"))
        if not sick.effusion:
            np.testing.assert_array_equal(sick.heights(6), well.heights(6))
        np.testing.assert_array_equal(
            well.heights(6), patient(k, 8, disease="COVID-19", severity=0).heights(6)
        )


def test_grid_does_not_change_the_anatomy(healthy):
    who = patient(6, 11)
    z = who.heights(3)[1]
    coarse, fine = who.render(z, 96), who.render(z, 192)
    for name, least in (("lung", 0.97), ("infection", 0.9)):
        small, large = getattr(coarse, name), getattr(fine, name)
        halved = large.reshape(96, 2, 96, 2).mean((1, 3)) > 0.5
        assert dice(halved, small) > least
    coarse, fine = (who.render(z, size, noise=0, blur=0).hu for size in (96, 192))
    averaged = fine.reshape(96, 2, 96, 2).mean((1, 3))
    assert np.median(np.abs(averaged - coarse)) < 15


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"k": -1}, "k must"),
        ({"seed": -1}, "seed"),
        ({"disease": "influenza"}, "disease='influenza'.*COVID-19"),
        ({"severity": 1.01}, "severity"),
        ({"severity": -0.01}, "severity"),
        ({"severity": float("nan")}, "severity"),
        ({"disease": "normal", "severity": 0.2}, "severity must be 0 or None"),
        ({"difficulty": 1.1}, "difficulty"),
        ({"difficulty": float("nan")}, "difficulty"),
    ],
)
def test_wrong_arguments_are_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        patient(**{"k": 0, "seed": 0} | wrong)
