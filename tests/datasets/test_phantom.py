"""The phantom draws what it says: the same bytes, true masks, the right side up, the disease."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_fill_holes, label

from covidlab.datasets import phantom

SIZE = 96


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "set"
    frame = phantom.generate(folder, 8, 3, size=SIZE, slices_per_patient=3, progress=False)
    return folder, frame


@pytest.fixture(scope="module")
def patients():
    """Thirty COVID patients, each with slices as a dataset would hold them."""
    drawn = []
    for k in range(30):
        who = phantom.patient(k, 11, prevalence=1.0)
        drawn.append((who, [who.cut(z, SIZE)[1] for z in who.heights(3)]))
    return drawn


def files(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def sides(slice_):
    """Columns of the image left and right of the middle between the lungs' outer edges."""
    columns = np.flatnonzero(slice_.lung.any(0))
    middle = (columns[0] + columns[-1] + 1) // 2
    return np.s_[:, :middle], np.s_[:, middle:]


# ---- the files ---------------------------------------------------------------------------------


def test_same_seed_same_bytes(made, tmp_path):
    phantom.generate(tmp_path / "again", 8, 3, size=SIZE, slices_per_patient=3, progress=False)
    assert files(tmp_path / "again") == files(made[0])


def test_patient_does_not_depend_on_how_many_there_are(made, tmp_path):
    phantom.generate(tmp_path / "few", 3, 3, size=SIZE, slices_per_patient=3, progress=False)
    few, many = files(tmp_path / "few"), files(made[0])
    del few["manifest.csv"]
    assert len(few) == 3 * 3 * 3
    assert all(many[name] == digest for name, digest in few.items())


def test_seeds_patients_and_heights_differ(made, tmp_path):
    other = phantom.generate(
        tmp_path / "other", 8, 4, size=SIZE, slices_per_patient=3, progress=False
    )
    digests = [*made[1]["sha256"], *other["sha256"]]
    assert len(set(digests)) == len(digests)


def test_order_of_rendering_does_not_matter():
    who = phantom.patient(2, 5)
    first = who.render(-40.0, 64).hu
    who.render(-10.0, 64)
    np.testing.assert_array_equal(who.render(-40.0, 64).hu, first)


def test_manifest_tells_what_is_in_the_files(made):
    folder, frame = made
    read = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(read, frame)
    assert frame["label"].isin(phantom.CLASSES).all()
    assert set(frame["label"]) == {"COVID", "NonCOVID"}
    assert (frame.groupby("patient_id")["label"].nunique() == 1).all()
    assert (frame["split"] == "").all() and (frame["modality"] == "CT").all()
    for row in frame.itertuples():
        data = (folder / row.image).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.sha256
        image, lung, infection = (
            pixels(folder / p) for p in (row.image, row.lung_mask, row.infection_mask)
        )
        assert image.shape == lung.shape == infection.shape == (SIZE, SIZE)
        assert set(np.unique(lung)) == {0, 255} and set(np.unique(infection)) <= {0, 255}
        assert row.infected_fraction == pytest.approx(
            (infection > 0).sum() / (lung > 0).sum(), abs=1e-6
        )


def test_image_is_the_lung_window_of_the_rendered_slice(made):
    folder, frame = made
    for row in frame.iloc[[0, 10, -1]].itertuples():
        cut = phantom.patient(int(row.patient_id[-4:]), 3).render(row.z_mm, SIZE)
        image = pixels(folder / row.image).astype(float)
        hu = -1350.0 + image * 1500.0 / 255.0
        within = (cut.hu > -1350) & (cut.hu < 150)
        assert np.abs(hu - cut.hu)[within].max() <= 1500.0 / 255.0 / 2 + 1e-3
        np.testing.assert_array_equal(pixels(folder / row.lung_mask) > 0, cut.lung)
        np.testing.assert_array_equal(pixels(folder / row.infection_mask) > 0, cut.infection)


# ---- the masks ---------------------------------------------------------------------------------


def test_label_follows_the_infection_mask(made):
    folder, frame = made
    for row in frame.itertuples():
        lung, infection = (
            pixels(folder / row.lung_mask) > 0,
            pixels(folder / row.infection_mask) > 0,
        )
        assert not (infection & ~lung).any()
        if row.label == "COVID":
            assert infection.sum() >= phantom.MIN_INFECTED * lung.sum()
            assert row.severity > 0
        else:
            assert not infection.any()
            assert row.severity == 0


def test_least_infection_holds_where_it_is_hardest():
    for k in range(14):
        who = phantom.patient(k, 21, prevalence=1.0, difficulty=1.0)
        for z in who.heights(5):
            cut = who.cut(z, 64)[1]
            assert cut.infection.sum() >= phantom.MIN_INFECTED * cut.lung.sum()


def test_lungs_are_dark_and_of_a_plausible_size(patients):
    healthy = [phantom.patient(k, 12, prevalence=0.0, difficulty=0.0) for k in range(6)]
    for who in healthy:
        for z in who.heights(3):
            cut = who.render(z, SIZE)
            body = binary_fill_holes(cut.hu > -500)
            assert -900 < cut.hu[cut.lung].mean() < -600
            assert cut.hu[body & ~cut.lung].mean() > -150
            assert 0.08 < cut.lung.sum() / body.sum() < 0.6
    # Two lungs of 1 to 4.5 litres each, summed over cuts 12 mm apart.
    for who in healthy[:3]:
        area = sum(who.render(z, 64).lung.sum() for z in np.arange(-240.0, 120.0, 12.0))
        litres = area * 12.0 * (who.fov / 64) ** 2 / 1e6
        assert 2.0 < litres < 9.0


def test_severity_is_the_infected_volume():
    """Against a count of its own: masks summed over the whole chest on another grid."""
    for k in (0, 1):
        who = phantom.patient(k, 11, prevalence=1.0)
        cuts = [who.render(z, 96) for z in np.arange(-260.0, 120.0, 5.0)]
        infected = sum(c.infection.sum() for c in cuts)
        assert infected / sum(c.lung.sum() for c in cuts) == pytest.approx(who.severity, rel=0.12)


def test_lesions_go_on_from_slice_to_slice():
    """Two cuts 1 mm apart hold nearly the same lesion: it is a volume, not drawn per slice."""
    who = phantom.patient(3, 11, prevalence=1.0)
    z = who.heights(3)[1]
    a, b, far = (who.render(z + d, SIZE).infection for d in (0.0, 1.0, 60.0))
    dice = lambda p, q: 2 * (p & q).sum() / (p.sum() + q.sum())  # noqa: E731
    assert dice(a, b) > 0.85 > dice(a, far)


def test_grid_does_not_change_the_anatomy():
    who = phantom.patient(6, 11, prevalence=1.0)
    z = who.heights(3)[1]
    coarse, fine = who.render(z, 96), who.render(z, 192)
    halved = fine.lung.reshape(96, 2, 96, 2).mean((1, 3)) > 0.5
    assert 2 * (halved & coarse.lung).sum() / (halved.sum() + coarse.lung.sum()) > 0.97


# ---- the disease -------------------------------------------------------------------------------


def test_infection_is_brighter_than_spared_lung(patients):
    gain = []
    for _, cuts in patients:
        sick = np.concatenate([c.hu[c.infection] for c in cuts])
        spared = np.concatenate([c.hu[c.lung & ~c.infection] for c in cuts])
        gain.append(np.median(sick) - np.median(spared))
    assert min(gain) > 50
    assert 120 < np.median(gain) < 450  # ground glass for the most part, not consolidation


@pytest.mark.parametrize("difficulty", [0.0, 0.1, 0.5])
def test_no_infection_is_denser_than_soft_tissue(difficulty):
    """Consolidation is fluid and cells: at bone's density it would be a shortcut, not a disease."""
    for k in range(12):
        who = phantom.patient(k, 5, prevalence=1.0, difficulty=difficulty)
        for z in who.heights(2):
            slice_ = who.cut(z, SIZE)[1]
            assert np.percentile(slice_.hu[slice_.infection], 99) < 150


def test_infection_is_mostly_bilateral(patients):
    lesser = []  # part of the infection that lies in the less infected lung
    for _, cuts in patients:
        left, right = (sum(c.infection[sides(c)[i]].sum() for c in cuts) for i in (0, 1))
        lesser.append(min(left, right) / (left + right))
    assert 0.6 <= np.mean(np.array(lesser) > 0.05) < 1.0


def test_infection_is_peripheral_posterior_and_low(patients):
    """Over all patients, against where infection would lie if it fell anywhere in the lung."""
    near = {True: [], False: []}
    back = {True: [], False: []}
    share = []
    for who, cuts in patients:
        for c in cuts:
            columns = np.flatnonzero(c.lung.any(0))
            y, x = np.nonzero(c.lung)
            sick = c.infection[y, x]
            middle = (columns[0] + columns[-1]) / 2
            rows = y - y.min()
            out = np.abs(x - middle) / (np.ptp(columns) / 2)
            for flag in (True, False):
                near[flag].append(out[sick == flag].mean())
                back[flag].append(rows[sick == flag].mean() / rows.max())
        low, high = (who.render(z, 64) for z in (-75.0, 50.0))
        share.append([c.infection.sum() / c.lung.sum() for c in (low, high)])
    assert np.mean(near[True]) > np.mean(near[False]) + 0.08
    assert np.mean(back[True]) > np.mean(back[False]) + 0.08
    low, high = np.mean(share, axis=0)
    assert low > 1.3 * high


def test_mild_disease_is_common(patients):
    severity = np.array([who.severity for who, _ in patients])
    assert np.median(severity) < np.mean(severity)
    assert np.mean(severity < 0.15) > 0.5 and severity.max() > 0.2


def test_height_does_not_give_the_label_away():
    """A patient is cut at the same heights whether sick or not."""
    for k in range(4):
        sick, well = (phantom.patient(k, 8, prevalence=p) for p in (1.0, 0.0))
        np.testing.assert_array_equal(sick.heights(6), well.heights(6))


def test_some_who_have_no_covid_have_bright_lungs():
    findings = [phantom.patient(k, 9, prevalence=0.0, difficulty=1.0).findings for k in range(20)]
    names = {name for some in findings for name in some}
    assert {"lobar consolidation", "perihilar oedema", "dependent atelectasis"} <= names
    for k, some in enumerate(findings):
        if "lobar consolidation" in some:
            ill = phantom.patient(k, 9, prevalence=0.0, difficulty=1.0)
            cuts = [ill.render(z, SIZE) for z in np.arange(-60.0, 0.0, 10.0)]
            dense = max((c.hu[c.lung] > -300).mean() for c in cuts)
            assert dense > 0.04 and not any(c.infection.any() for c in cuts)
            break


def test_difficulty_hides_the_infection():
    def gain(difficulty):
        values = []
        for k in range(5):
            who = phantom.patient(k, 15, prevalence=1.0, difficulty=difficulty)
            c = who.cut(who.heights(1)[0], SIZE)[1]
            values.append(c.hu[c.infection].mean() - c.hu[c.lung & ~c.infection].mean())
        return np.mean(values)

    assert gain(0.0) > 1.4 * gain(0.5) > 1.4 * 1.4 * gain(1.0)


# ---- which way up ------------------------------------------------------------------------------


def test_heart_on_image_right_spine_at_the_bottom_liver_on_image_left():
    for k in range(8):
        who = phantom.patient(k, 13, prevalence=0.0, difficulty=0.0)
        heart = who.render(-55.0 * who.tall, SIZE)
        left, right = sides(heart)
        assert heart.lung[left].sum() > 1.1 * heart.lung[right].sum()
        bone = heart.hu > 120
        rows, columns = np.nonzero(heart.lung)
        between = np.s_[int(columns.mean()) - 10 : int(columns.mean()) + 10]
        centre = int(rows.mean())
        assert bone[centre:, between].sum() > 2 * bone[:centre, between].sum()
        # The right dome: liver inside it, lung where it ends, both on the image's left.
        px = who.fov / SIZE
        row = int((-0.3 * who.depth - who.shift[1]) / px + SIZE / 2)
        column = int((-0.54 * who.width - who.shift[0]) / px + SIZE / 2)
        patch = np.s_[row - 1 : row + 2, column - 1 : column + 2]
        assert who.render(who.domes[0] - 12.0, SIZE).hu[patch].min() > -200
        assert who.render(who.domes[0] + 12.0, SIZE).lung[patch].all()


def test_trachea_high_up_is_a_hole_outside_the_lungs():
    who = phantom.patient(0, 13)
    c = who.render(45.0, 192)
    air = (c.hu < -700) & ~c.lung & binary_fill_holes(c.hu > -500)
    parts, n = label(air)
    area = np.bincount(parts.ravel())[1:] * (who.fov / 192) ** 2
    assert n and 100 < area.max() < 450  # mm²; a trachea is 13 to 22 mm wide


# ---- when things go wrong ----------------------------------------------------------------------


def test_a_crash_leaves_nothing(tmp_path, monkeypatch):
    draw, calls = phantom.Patient.render, []

    def fail(self, *args):
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return draw(self, *args)

    monkeypatch.setattr(phantom.Patient, "render", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        phantom.generate(tmp_path / "set", 4, 0, size=64, slices_per_patient=2, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_appears_only_when_whole(tmp_path, monkeypatch):
    seen = []
    write = phantom._write

    def spy(*args):
        seen.append((tmp_path / "set").exists())
        return write(*args)

    monkeypatch.setattr(phantom, "_write", spy)
    phantom.generate(tmp_path / "set", 2, 0, size=64, slices_per_patient=1, progress=False)
    assert seen == [False, False]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="set"):
        phantom.generate(tmp_path / "set", 2, 0, size=64, slices_per_patient=1, progress=False)
    assert (tmp_path / "set" / "mine.txt").read_text() == "keep"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PermissionError, match="file"):
        phantom.generate(tmp_path / "file" / "set", 2, 0, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_patients": 1},
        {"size": 48},
        {"size": 528},
        {"size": 100},
        {"slices_per_patient": 0},
        {"prevalence": -0.1},
        {"prevalence": 1.1},
        {"difficulty": -0.1},
        {"difficulty": float("nan")},
        {"seed": -1},
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, wrong):
    given = {"n_patients": 2, "seed": 0, "progress": False} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        phantom.generate(tmp_path / "set", **given)
    assert list(tmp_path.iterdir()) == []


def test_too_few_patients_for_the_prevalence(tmp_path):
    with pytest.raises(ValueError, match="one class"):
        phantom.generate(tmp_path / "set", 2, 0, prevalence=0.9, progress=False)


@pytest.mark.parametrize("prevalence", [0.2, 0.5, 0.8])
def test_every_leading_run_holds_the_prevalence(prevalence):
    sick = np.cumsum([phantom.is_covid(k, prevalence) for k in range(300)])
    assert np.abs(sick - prevalence * np.arange(1, 301)).max() < 2.0
