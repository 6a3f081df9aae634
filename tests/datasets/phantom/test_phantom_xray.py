"""The X-ray is a projection of the same body: paths, magnification, fluid, masks, grain."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, map_coordinates
from scipy.stats import spearmanr

from covidlab.datasets.phantom import patient
from covidlab.datasets.phantom.shapes import cut_tubes, project_tubes
from covidlab.datasets.phantom.xray import VIEWS, _expose, _Geometry, _paths

SIZE = 64
FOCUS = {"PA": 1800.0, "AP": 1100.0}  # mm to the detector


# ---- tubes -------------------------------------------------------------------------------------

AXIS = (np.arange(121) - 60) * 0.5  # mm


def tube(start, way, r0, r1=None):
    return np.array([[*start, *way, r0, r0 if r1 is None else r1]], float)


def chord(distance, radius):
    return 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))


def test_a_cylinder_across_the_rays_gives_its_chords():
    path = project_tubes(tube((-20, 3, 1), (40, 0, 0), 6.0), AXIS, AXIS[::-1])
    inside = np.abs(AXIS) < 18
    expected = chord(AXIS[::-1] - 1, 6.0)
    np.testing.assert_allclose(path[:, inside], np.tile(expected[:, None], inside.sum()), atol=1e-9)
    assert not path[:, np.abs(AXIS) > 20.5].any()


@pytest.mark.parametrize("angle", [20, 45, 65])
def test_an_oblique_cylinder_is_longer_by_the_cosine(angle):
    t = np.deg2rad(angle)
    way = np.array([60 * np.cos(t), 60 * np.sin(t), 0])
    path = project_tubes(tube(-way / 2, way, 5.0), AXIS, AXIS[::-1])
    middle = len(AXIS) // 2
    np.testing.assert_allclose(path[:, middle], chord(AXIS, 5.0) / np.cos(t), rtol=1e-9)


def test_a_cylinder_along_the_rays_counts_its_length():
    path = project_tubes(tube((2, -15, 4), (0, 30, 0), 5.0), AXIS, AXIS[::-1])
    away = np.hypot(AXIS[None] - 2, AXIS[::-1, None] - 4)
    np.testing.assert_allclose(path[away < 4.9], 30.0)
    assert not path[away > 5.1].any()


@pytest.mark.parametrize("radius", [0.05, 0.2, 1.0, 4.0])
def test_no_volume_is_lost_however_thin(radius):
    slanted = tube((-20, 0, -9), (40, 5, 16.7), radius)
    volume = project_tubes(slanted, AXIS, AXIS[::-1]).sum() * 0.5**2
    length = np.linalg.norm(slanted[0, 3:6])
    assert volume == pytest.approx(np.pi * radius**2 * length, rel=0.1 if radius < 0.5 else 0.03)


def test_tubes_add_and_weigh():
    one, two = tube((-20, 0, 0), (40, 0, 0), 3.0), tube((0, 9, -20), (0, 0, 40), 2.0)
    both = project_tubes(np.vstack([one, two]), AXIS, AXIS[::-1], np.array([2.0, -1.0]))
    parts = [project_tubes(t, AXIS, AXIS[::-1]) for t in (one, two)]
    np.testing.assert_allclose(both, 2 * parts[0] - parts[1], atol=1e-9)


@pytest.mark.parametrize("angle", [0, 40, 60])
@pytest.mark.parametrize("radius", [1.5, 5.0])
def test_a_cut_tube_covers_an_ellipse(angle, radius):
    t = np.deg2rad(angle)
    way = 80 * np.array([np.sin(t), 0, np.cos(t)])
    cover = cut_tubes(tube(-way / 2 + (1, 2, 0), way, radius), 0.0, AXIS, AXIS)
    assert cover.sum() * 0.25 == pytest.approx(np.pi * radius**2 / np.cos(t), rel=0.05)
    y, x = (np.sum(cover * v) / cover.sum() for v in (AXIS[:, None], AXIS[None]))
    assert (x, y) == pytest.approx((1, 2), abs=0.02)
    wide = np.sqrt(np.sum(cover * (AXIS[None] - x) ** 2) / cover.sum())
    assert wide == pytest.approx(
        radius / np.cos(t) / 2, rel=0.05
    )  # SD of a disc is half its radius


def test_a_tapering_tube_is_cut_at_its_radius():
    cover = cut_tubes(tube((0, 0, -20), (0, 0, 40), 2.0, 6.0), 10.0, AXIS, AXIS)
    assert cover.sum() * 0.25 == pytest.approx(np.pi * 5.0**2, rel=0.03)
    assert not cut_tubes(tube((0, 0, -20), (0, 0, 40), 2.0, 6.0), 30.0, AXIS, AXIS).any()


# ---- projection --------------------------------------------------------------------------------


def integrate(scan, values, geometry):
    """Integral along each ray (size, size) of values (D, H, W), sampled from the CT volume."""
    _, volume, x, y = scan
    focus, g = FOCUS[geometry.view], geometry
    along = np.arange(g.y[0], g.y[-1], 2.0)
    detector = (
        -(focus - focus / g.zoom_at(0.0)) if g.view == "PA" else focus - focus / g.zoom_at(0.0)
    )
    total = np.zeros((g.size, g.size))
    for at in along:  # rays run from the focus at x = z = 0
        part = (focus - abs(at - detector)) / focus
        rows = (volume.z[0] - g.v * part) / volume.spacing[0]
        columns = (g.u * part - x[0]) / volume.spacing[2]
        deep = (at - y[0]) / volume.spacing[1]
        where = np.meshgrid(rows, [deep], columns, indexing="ij")
        total += map_coordinates(values, where, order=1, mode="constant")[:, 0]
    slant = np.sqrt(1 + (g.u[None] ** 2 + g.v[:, None] ** 2) / focus**2)
    return total * 2.0 * slant


@pytest.fixture(scope="module", params=VIEWS)
def rays(request, scan):
    who = scan[0]
    geometry = _Geometry(who.body, SIZE, request.param, np.random.default_rng(1))
    return geometry, _paths(who, geometry, standing=request.param == "PA")


def test_lung_path_is_that_of_the_ct_volume(scan, rays):
    geometry, paths = rays
    expected = integrate(scan, scan[1].lung.astype(np.float32), geometry)
    some = np.maximum(expected, paths["lung"]) > 3
    assert some.sum() > 500
    assert np.corrcoef(expected[some], paths["lung"][some])[0, 1] > 0.99
    assert paths["lung"][some].mean() == pytest.approx(expected[some].mean(), rel=0.04)
    deep = expected > 60
    assert np.median(np.abs(paths["lung"] - expected)[deep]) < 6  # mm


def test_attenuation_is_the_integral_of_the_ct_volume(scan, rays):
    """Beer-Lambert by hand: density from Hounsfield units, summed along each ray."""
    geometry, paths = rays
    hu = scan[1].hu
    density = np.maximum(1 + hu / 1000, 0) + 0.4 * np.maximum(hu - 75, 0) / 1000
    expected = integrate(scan, density.astype(np.float32), geometry)
    # Where the volume reaches: within the lungs' outline. (The arms hang down here, not in CT.)
    field = binary_erosion(paths["lung"] > 25, iterations=2)
    assert np.corrcoef(expected[field], paths["water"][field])[0, 1] > 0.95
    assert np.median(paths["water"][field] / expected[field]) == pytest.approx(1, abs=0.06)


def test_the_image_shows_attenuation(rays, scan):
    geometry, paths = rays
    film = scan[0].xray(SIZE, view=geometry.view, gamma=1.0, contrast=1.0, dose=1e6, scatter=0.0)
    own = _Geometry(scan[0].body, SIZE, geometry.view, scan[0].random(VIEWS.index(geometry.view)))
    water = _paths(scan[0], own, standing=geometry.view == "PA")["water"]
    inside = water > 30
    assert spearmanr(film.image[inside], water[inside]).statistic > 0.97


def test_the_heart_is_larger_in_ap(healthy):
    """Cardiothoracic ratio: the heart is far from the detector in AP, and the tube is near."""
    gain = []
    for k in range(6):
        ratio = {}
        for view in VIEWS:
            film = healthy[k].xray(96, view=view)
            rows = np.flatnonzero(film.lung.any(1))
            rows = rows[int(0.6 * len(rows)) : int(0.75 * len(rows))]
            widths = []
            for row in rows:
                right, left = np.flatnonzero(film.right[row]), np.flatnonzero(film.left[row])
                if right.size and left.size:
                    widths.append((left[0] - right[-1] - 1) / (left[-1] - right[0] + 1))
            ratio[view] = np.mean(widths)
        assert 0.25 < ratio["PA"] < 0.62
        gain.append(ratio["AP"] / ratio["PA"])
    assert np.sum(np.array(gain) > 1) >= 5 and np.mean(gain) > 1.025


def test_magnification_is_that_of_the_geometry():
    body = patient(0, 13).body
    for view, side in (("PA", -1), ("AP", 1)):
        g = _Geometry(body, SIZE, view, np.random.default_rng(0))
        distance = [FOCUS[view] - FOCUS[view] / g.zoom_at(y) for y in (-60.0, 60.0)]
        assert np.diff(distance)[0] == pytest.approx(-side * 120)  # the back is far in PA
        assert 20 < min(distance) and max(distance) < 350


# ---- the picture -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(healthy):
    return [who.xray(128) for who in healthy[:5]]


def test_bone_and_mediastinum_bright_lungs_dark(films):
    for film in films:
        lung = film.image[film.lung].mean()
        columns = np.flatnonzero(film.lung.any(0))
        rows = np.flatnonzero(film.lung.any(1))
        middle = (np.nonzero(film.right)[1].max() + np.nonzero(film.left)[1].min()) // 2
        low = np.s_[rows[-1] - 20 : rows[-1], middle - 4 : middle + 4]
        assert film.image[low].mean() > lung + 0.25
        assert columns[0] < middle < columns[-1]


def test_ribs_are_bright_lines_over_the_lungs(healthy):
    for who in healthy[:4]:
        film = who.xray(192, dose=100.0)
        g = _Geometry(who.body, 192, "PA", who.random(0))
        tubes, _ = who.body.bones()
        at = tubes[:, :3] + 0.5 * tubes[:, 3:6]
        front = at[:, 1] > 10  # the back of the ribs lies near level

        def grey(points, g=g, film=film):
            zoom = g.zoom_at(points[:, 1])
            columns = np.rint((points[:, 0] * zoom - g.u[0]) / g.px).astype(int)
            rows = np.rint((g.v[0] - points[:, 2] * zoom) / g.px).astype(int)
            inside = (rows >= 0) & (rows < 192) & (columns >= 0) & (columns < 192)
            rows, columns = rows.clip(0, 191), columns.clip(0, 191)
            return np.where(inside & film.lung[rows, columns], film.image[rows, columns], np.nan)

        on = grey(at[front])
        off = [grey(at[front] + (0, 0, d * who.body.rib[1] / 2)) for d in (-1, 1)]
        assert np.isfinite(on).sum() > 60
        assert np.nanmean(on - np.mean(off, axis=0)) > 0.01


def test_left_is_on_the_right_and_the_lungs_do_not_meet(films):
    for film in films:
        assert not (film.right & film.left).any()
        right, left = (np.nonzero(m)[1] for m in (film.right, film.left))
        assert np.percentile(right, 98) < np.percentile(left, 2)
        assert 0.6 < len(left) / len(right) < 1.1  # the heart takes from the left
        # The fields are part of the shadow of the lungs, which goes on behind heart and liver.
        assert (film.lung & ~film.lungs).sum() == 0 and film.lungs.sum() > 1.1 * film.lung.sum()
        assert 0.15 < film.lung.mean() < 0.65


# ---- disease -----------------------------------------------------------------------------------


def test_infection_is_where_it_adds_attenuation():
    for view in VIEWS:
        film = patient(3, 11, severity=0.2).xray(96, view=view)
        np.testing.assert_array_equal(film.infection, (film.added >= 6.0) & film.lungs)
        assert 0 < film.involvement == (film.infection & film.lung).sum() / film.lung.sum() < 1
        assert film.severity == pytest.approx(0.2, abs=1e-4)
    well = patient(3, 11, severity=0).xray(64)
    assert not well.infection.any() and not well.added.any() and well.involvement == 0


def test_infection_is_brighter_than_the_same_place_without_it():
    for k in range(2):
        sick, well = (patient(k, 11, severity=s).xray(96, dose=100.0) for s in (0.25, 0))
        np.testing.assert_array_equal(sick.lung, well.lung)
        here = sick.infection & sick.lung & (sick.added > 15)
        spared = sick.lung & ~binary_dilation(sick.added > 0.5, iterations=3)
        gain = sick.image - well.image
        assert np.median(gain[here]) > np.median(gain[spared]) + 0.02


def test_involvement_grows_with_severity_and_is_not_it():
    for k in range(2):
        severities = (0.0, 0.02, 0.15, 0.5)
        seen = [patient(k, 11, severity=s).xray(64).involvement for s in severities]
        assert (np.diff(seen) > 0).all()
        assert seen[2] > 1.1 * severities[2]  # what overlaps in the shadow covers more of it


def test_added_water_is_that_of_the_infection(scan):
    """Total over the detector, demagnified, against the volume of infection times its density."""
    sick, well = (patient(2, 11, severity=s, difficulty=0.0) for s in (0.2, 0))
    plain = {"noise": 0.0, "blur": 0.0, "thickness": 1.0}
    a, b = (who.volume(64, 6.0, **plain) for who in (sick, well))
    litres = ((a.hu - b.hu) * a.infection).sum() / 1000 * np.prod(a.spacing)
    film = sick.xray(96)
    zoom = _Geometry(sick.body, 96, "PA", sick.random(0)).zoom.mean()
    # In the slices the vessels in it gain nothing; the X-ray counts the parenchyma they lie in.
    assert film.added.sum() * (film.spacing / zoom) ** 2 == pytest.approx(1.08 * litres, rel=0.1)


def test_fluid_sinks_to_the_base_standing_and_to_the_back_lying():
    gaps = []
    for k in range(3):
        who = patient(k, 5, disease="effusion", severity=0.12)
        spread, centre = [], []
        for view in VIEWS:
            film = who.xray(96, view=view)
            assert film.involvement == 0  # fluid is no infection
            rows = np.nonzero(film.effusion)[0]
            lungs = np.nonzero(film.lungs)[0]
            centre.append((rows.mean() - lungs.min()) / np.ptp(lungs))
            spread.append(film.effusion.sum() / film.lungs.sum())
        assert centre[0] > 0.68 and spread[1] > 1.15 * spread[0]
        gaps.append(centre[0] - centre[1])
    assert np.min(gaps) > 0.08


def test_fluid_takes_the_lower_field_of_a_standing_patient():
    for k in range(3):
        lung = [patient(k, 5, disease="effusion", severity=s).xray(96).lung for s in (0.0, 0.25)]
        assert lung[1].sum() < 0.95 * lung[0].sum()
        lost = lung[0] & ~lung[1]
        assert np.nonzero(lost)[0].mean() > np.nonzero(lung[0])[0].mean() + 10


# ---- the detector ------------------------------------------------------------------------------


def test_grain_falls_with_the_root_of_the_dose(healthy):
    who, grey = healthy[2], {"gamma": 1.0, "contrast": 1.0}
    clean = who.xray(128, dose=1e9, **grey)
    sd = [
        np.std((who.xray(128, dose=dose, **grey).image - clean.image)[clean.lung])
        for dose in (1.0, 4.0, 16.0)
    ]
    assert sd[0] / sd[1] == pytest.approx(2, rel=0.06)
    assert sd[1] / sd[2] == pytest.approx(2, rel=0.06)


def test_scatter_lowers_contrast(healthy):
    who = healthy[2]
    g = _Geometry(who.body, SIZE, "PA", np.random.default_rng(0))
    paths = _paths(who, g, standing=True)
    field, dense = paths["lung"] > 120, (paths["lung"] < 5) & (paths["water"] > 150)

    def contrast(scatter):
        density = _expose(paths["water"], g, np.random.default_rng(0), 1e9, scatter)
        return np.median(density[dense]) - np.median(density[field])

    seen = [contrast(s) for s in (0.0, 0.25, 0.9)]
    assert seen[0] > 1.1 * seen[1] > 1.1 * 1.1 * seen[2] > 0
    # Without scatter it is Beer and Lambert's: the difference of the paths times mu.
    water = np.median(paths["water"][dense]) - np.median(paths["water"][field])
    assert seen[0] == pytest.approx(0.0206 * water, rel=0.03)


def test_grey_curve(healthy):
    base, dark, steep = (
        healthy[3].xray(SIZE, **({"gamma": 1.0, "contrast": 1.0} | given)).image
        for given in ({}, {"gamma": 2.0}, {"contrast": 1.5})
    )
    np.testing.assert_allclose(dark, base**2, atol=1e-5)
    assert steep.std() > 1.1 * base.std()
    assert base.dtype == np.float32 and 0 <= base.min() and base.max() <= 1


def test_same_patient_same_film(healthy):
    first = healthy[4].xray(SIZE)
    healthy[4].render(0.0, 64)
    healthy[4].xray(SIZE, view="AP")
    again = patient(4, 13, disease="normal", difficulty=0.0).xray(SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    other = patient(5, 13, disease="normal", difficulty=0.0).xray(SIZE)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize(
    "wrong",
    [
        {"view": "lateral"},
        {"size": 16},
        {"size": 2048},
        {"dose": 0.0},
        {"dose": float("nan")},
        {"scatter": -0.1},
        {"gamma": 0.0},
        {"contrast": -1.0},
    ],
)
def test_wrong_exposures_are_named(healthy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        healthy[0].xray(**wrong)
