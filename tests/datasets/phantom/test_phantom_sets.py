"""Sets of phantom patients: the same bytes, whole or not there, and what the papers counted."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest, chi2_contingency

from covidlab.datasets import phantom
from covidlab.datasets.phantom import PRESETS, SOURCES, Preset, generate

SMALL = {"size": 64, "slices_per_patient": 2, "workers": 1, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "set"
    return folder, generate(folder, 9, 3, truth=True, **SMALL)


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def beside(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- the files ---------------------------------------------------------------------------------


def test_same_seed_same_bytes_with_any_number_of_workers(made, tmp_path, bytes_of):
    generate(tmp_path / "set", 9, 3, truth=True, **SMALL | {"workers": 2})
    assert bytes_of(tmp_path / "set") == bytes_of(made[0])
    assert beside(tmp_path) == ["set"]


def test_patient_does_not_depend_on_how_many_there_are(tmp_path, bytes_of):
    """Nor does all that the set adds by chance: disease, severity, site, which masks there are."""
    mixed = Preset(
        "mixed",
        {"ill": (0.6, {"COVID-19": 1.0, "SARS": 1.0, "viral": 1.0}), "other": (0.4, {"CAP": 1.0})},
        size=64,
        mild=0.1,
        infections=0.5,
        sites={"ill": "web", "other": "film"},
        strength=0.3,
    )
    given = {"preset": mixed, "workers": 1, "progress": False}
    frames = [generate(tmp_path / f"{n}", n, 3, **given) for n in (4, 8)]
    few, many = (bytes_of(tmp_path / f"{n}") for n in (4, 8))
    del few["manifest.csv"]
    assert few.items() <= many.items() and len(few) > 4
    pd.testing.assert_frame_equal(frames[0], frames[1].iloc[:4])
    assert frames[1]["site"].nunique() == 2 and frames[1]["disease"].nunique() > 2


def test_seeds_patients_and_heights_differ(made, tmp_path):
    other = generate(tmp_path / "other", 4, 4, **SMALL)
    digests = [*made[1]["sha256"], *other["sha256"]]
    assert len(set(digests)) == len(digests)


def test_truth_adds_masks_and_changes_no_image(made, tmp_path, bytes_of):
    generate(tmp_path / "plain", 9, 3, **SMALL)
    plain, full = bytes_of(tmp_path / "plain"), bytes_of(made[0])
    del plain["manifest.csv"]
    assert plain.items() <= full.items()
    extra = {name.split("/")[1] for name in full.keys() - plain.keys() if "/" in name}
    assert extra == {"ground_glass", "consolidation", "effusion"}


def test_manifest_tells_what_is_in_the_files(made, bytes_of):
    folder, frame = made
    read = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(read, frame)
    assert beside(folder) == ["images", "manifest.csv", "masks"]
    assert set(frame["label"]) == set(PRESETS["phantom-ct"].labels)
    assert (frame.groupby("patient_id")["label"].nunique() == 1).all()
    assert (frame["split"] == "").all() and (frame["modality"] == "CT").all()
    digests = bytes_of(folder)
    for row in frame.itertuples():
        assert digests[row.image] == row.sha256
        image, lung, infection, glass, solid, fluid = (
            pixels(folder / p)
            for p in (
                row.image,
                row.lung_mask,
                row.infection_mask,
                row.ground_glass_mask,
                row.consolidation_mask,
                row.effusion_mask,
            )
        )
        assert image.shape == lung.shape == infection.shape == (64, 64)
        assert set(np.unique(lung)) == {0, 255} and set(np.unique(infection)) <= {0, 255}
        np.testing.assert_array_equal(infection, glass | solid)
        assert not (glass & solid).any() and not (infection & ~lung).any()
        assert not (fluid & lung).any()
        share = (infection > 0).sum() / (lung > 0).sum()
        assert row.infected_fraction == pytest.approx(share, abs=1e-6)
        if row.label == "COVID":
            assert share >= phantom.MIN_INFECTED and row.severity > 0
        else:
            assert share == row.severity == 0


def test_image_is_the_lung_window_of_the_rendered_slice(made):
    folder, frame = made
    for row in frame.iloc[[0, 7, -1]].itertuples():
        who = phantom.patient(int(row.patient_id[-4:]), 3, disease=row.disease)
        cut = who.render(row.z_mm, 64)
        hu = -1350.0 + pixels(folder / row.image).astype(float) * 1500.0 / 255.0
        within = (cut.hu > -1350) & (cut.hu < 150)
        assert np.abs(hu - cut.hu)[within].max() <= 1500.0 / 255.0 / 2 + 1e-3
        np.testing.assert_array_equal(pixels(folder / row.lung_mask) > 0, cut.lung)
        np.testing.assert_array_equal(pixels(folder / row.infection_mask) > 0, cut.infection)
        assert row.severity == pytest.approx(who.severity, abs=1e-6)


def test_xray_set_holds_its_films(tmp_path):
    given = {"preset": "phantom-alom-cxr", "size": 64, "workers": 1, "progress": False}
    plain = Preset("plain", PRESETS["phantom-alom-cxr"].classes, modality="X-ray", size=64)
    frame = generate(tmp_path / "set", 4, 5, **given | {"preset": plain}, truth=True)
    for row in frame.itertuples():
        who = phantom.patient(int(row.patient_id[-4:]), 5, disease=row.disease)
        film = who.xray(64, view=row.view)
        image = pixels(tmp_path / "set" / row.image)
        assert np.abs(image / 255.0 - film.image).max() <= 0.5 / 255 + 1e-6
        for name, mask in (
            ("lung", film.lung),
            ("infection", film.infection),
            ("right_lung", film.right),
            ("left_lung", film.left),
            ("effusion", film.effusion),
        ):
            path = tmp_path / "set" / getattr(row, f"{name}_mask")
            np.testing.assert_array_equal(pixels(path) > 0, mask)


# ---- interrupted, and at the same time ---------------------------------------------------------

KILLED = """
import os, signal, sys
from covidlab.datasets.phantom import writer
save = writer._save
def until(folder, name, pixels):
    if name == "masks/lung/phantom_0005_0.png":  # in the middle of the sixth patient
        os.kill(os.getpid(), signal.SIGKILL)
    return save(folder, name, pixels)
writer._save = until
writer.generate(sys.argv[1], 9, 3, truth=True, size=64, slices_per_patient=2, workers=1,
                progress=False)
"""


def run(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def leftovers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    child = run(KILLED, folder / "set")
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    return folder


@pytest.fixture
def killed(leftovers, tmp_path):
    """Where a set would have been had its generation not been killed."""
    shutil.copytree(leftovers, tmp_path / "place")  # with the times of its files
    return tmp_path / "place" / "set"


def test_a_killed_generation_leaves_no_folder_and_is_taken_up_again(killed, made, bytes_of):
    assert not killed.exists()
    part = killed.parent / ".set.part"
    drawn = {p.name: p.stat().st_mtime_ns for p in (part / "images").iterdir()}
    assert {f"phantom_{k:04d}_{i}.png" for k in range(5) for i in (0, 1)} <= drawn.keys()
    assert len(list((part / "rows").glob("*.json"))) == 5
    frame = generate(killed, 9, 3, truth=True, **SMALL)
    for name, when in drawn.items():
        same = (killed / "images" / name).stat().st_mtime_ns == when
        assert same == (not name.startswith("phantom_0005"))
    assert bytes_of(killed) == bytes_of(made[0])
    pd.testing.assert_frame_equal(frame, made[1])
    assert beside(killed.parent) == ["set"]


@pytest.mark.parametrize("changed", [{"seed": 4}, {"n_patients": 4}])
def test_other_arguments_do_not_take_up_leftovers(killed, tmp_path, bytes_of, changed):
    given = {"n_patients": 9, "seed": 3, "truth": True} | SMALL | changed
    generate(killed, **given)
    generate(tmp_path / "fresh", **given)
    assert bytes_of(killed) == bytes_of(tmp_path / "fresh")


@pytest.mark.parametrize("torn", ["", None])
def test_leftovers_of_unknown_arguments_are_thrown_away(killed, tmp_path, bytes_of, torn):
    """As when the power went while the settings were written, or just before the last step."""
    told = killed.parent / ".set.part" / "settings.json"
    told.unlink() if torn is None else told.write_text(torn)
    generate(killed, 3, 3, **SMALL)
    generate(tmp_path / "fresh", 3, 3, **SMALL)
    assert bytes_of(killed) == bytes_of(tmp_path / "fresh")


def test_an_exception_leaves_no_folder(tmp_path, monkeypatch):
    draw, calls = phantom.Patient.render, []

    def fail(self, *args, **given):
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return draw(self, *args, **given)

    monkeypatch.setattr(phantom.Patient, "render", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        generate(tmp_path / "set", 4, 0, **SMALL)
    assert not (tmp_path / "set").exists()


def test_two_processes_at_once_both_end_with_the_whole_set(made, tmp_path, bytes_of):
    code = """
    import sys
    from covidlab.datasets.phantom import generate
    print("ready", file=sys.stderr, flush=True)
    try:
        generate(sys.argv[1], 9, 3, truth=True, size=64, slices_per_patient=2, workers=1,
                 progress=False)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        sys.exit(7)
    """
    children = [run(code, tmp_path / "set") for _ in range(2)]
    told = [child.communicate(timeout=180)[1] for child in children]
    codes = sorted(child.returncode for child in children)
    assert codes == [0, 7], told
    assert bytes_of(tmp_path / "set") == bytes_of(made[0])
    assert beside(tmp_path) == ["set"]


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="set"):
        generate(tmp_path / "set", 2, 0, **SMALL)
    assert (tmp_path / "set" / "mine.txt").read_text() == "keep"
    assert beside(tmp_path) == ["set"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert len(generate(tmp_path / "set", 2, 0, **SMALL)) == 4
    assert "manifest.csv" in beside(tmp_path / "set")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PermissionError, match="file"):
        generate(tmp_path / "file" / "set", 2, 0, **SMALL)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="closed"):
        generate(tmp_path / "closed" / "set", 2, 0, **SMALL)


# ---- wrong arguments ---------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"n_patients": 0}, "n_patients"),
        ({"n_patients": 1}, "n_patients"),
        ({"seed": -1}, "seed"),
        ({"size": 48}, "size"),
        ({"size": 528}, "size"),
        ({"size": 100}, "size"),
        ({"slices_per_patient": 0}, "slices_per_patient"),
        ({"prevalence": -0.1}, "prevalence"),
        ({"prevalence": 1.1}, "prevalence"),
        ({"prevalence": NAN}, "prevalence"),
        ({"prevalence": 0.9}, "all of one class"),
        ({"preset": "phantom-spgc", "prevalence": 0.5}, "prevalence.*phantom-spgc"),
        ({"preset": "phantom-sirm", "prevalence": 0.5}, "prevalence.*phantom-sirm"),
        ({"difficulty": -0.1}, "difficulty"),
        ({"difficulty": NAN}, "difficulty"),
        ({"strength": 1.5}, "strength"),
        ({"strength": NAN}, "strength"),
        ({"preset": "phantom-xray"}, "preset='phantom-xray'.*phantom-spgc"),
        ({"preset": "phantom-covid-qu", "slices_per_patient": 3}, "slices_per_patient"),
        ({"sites": {"COVID": "web", "NonCOVID": "moon"}}, "'moon'.*NIH"),
        ({"sites": {"COVID": "web"}}, "NonCOVID"),
        ({"sites": {"COVID": "web", "NonCOVID": "film"}, "strength": -0.1}, "strength"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, wrong, named):
    given = {"n_patients": 2, "seed": 0, "progress": False} | wrong
    with pytest.raises(ValueError, match=named):
        generate(tmp_path / "set", **given)
    assert beside(tmp_path) == []


# ---- the papers' sets --------------------------------------------------------------------------

# Images or patients of each class as the papers count them; Alom's X-rays of COVID-19 are uncounted.
COUNTED = {
    "phantom-alom-ct": {"COVID-19": 178, "Normal": 247},
    "phantom-spgc": {"COVID-19": 171, "CAP": 60, "Normal": 76},
    "phantom-cohen-nih": {"COVID-19": 410, "Non-COVID": 500},
    "phantom-covid-family": {"COVID-19": 423, "MERS": 144, "SARS": 134},
    "phantom-covid-qu": {"COVID-19": 11956, "Non-COVID": 11263, "Normal": 10701},
}


@pytest.mark.parametrize("name", COUNTED)
def test_classes_come_in_the_papers_proportion(name):
    counted, n = COUNTED[name], 500
    drawn = Counter(PRESETS[name].label_of(k) for k in range(n))
    assert set(drawn) == set(counted)
    for label, count in counted.items():
        assert abs(drawn[label] / n - count / sum(counted.values())) < 0.006


def test_alom_xrays_hold_three_pneumonias_for_each_normal():
    drawn = Counter(PRESETS["phantom-alom-cxr"].label_of(k) for k in range(500))
    assert drawn["Pneumonia"] / drawn["Normal"] == pytest.approx(3875 / 1341, rel=0.03)


def test_paper_profiles_hold_the_papers_patients():
    asked = {"phantom-alom-ct": 425, "phantom-spgc": 307, "phantom-cohen-nih": 910}
    asked |= {"phantom-covid-family": 701}
    for name, n in asked.items():
        preset = PRESETS[name]
        assert preset.patients[0] == n >= preset.patients[1]
        drawn = Counter(preset.label_of(k) for k in range(n))
        for label, count in COUNTED[name].items():
            assert abs(drawn[label] - count) <= 2
    sirm = PRESETS["phantom-sirm"]
    assert sirm.patients[0] * sirm.slices == pytest.approx(829, abs=sirm.slices / 2)


@pytest.mark.parametrize("prevalence", [0.2, 0.5, 0.8])
def test_every_leading_run_holds_the_prevalence(prevalence):
    first = PRESETS["phantom-ct"].labels[0]
    labels = [PRESETS["phantom-ct"].label_of(k, prevalence) for k in range(300)]
    sick = np.cumsum([label == first for label in labels])
    assert np.abs(sick - prevalence * np.arange(1, 301)).max() < 2.0


def test_presets_are_what_the_papers_fed_their_networks():
    sizes = {name: preset.size for name, preset in PRESETS.items()}
    assert sizes["phantom-sirm"] == 304  # Khan 4.1
    assert sizes["phantom-alom-cxr"] == sizes["phantom-alom-ct"] == 192  # Alom 4.2
    assert sizes["phantom-spgc"] == 224  # Garg III.A
    assert sizes["phantom-cohen-nih"] == 512  # Ahmed 3.2
    assert sizes["phantom-covid-family"] == sizes["phantom-covid-qu"] == 256  # Tahir 4.1
    for name, preset in PRESETS.items():
        assert preset.size % 16 == 0 and preset.name == name
        xray = {"phantom-alom-cxr", "phantom-cohen-nih", "phantom-covid-family", "phantom-covid-qu"}
        assert preset.modality == ("X-ray" if name in xray else "CT")
        for disease in {d for _, share in preset.classes.values() for d in share}:
            assert disease in phantom.DISEASES
        assert set(preset.sites) in (set(), set(preset.labels))
        assert set(preset.sites.values()) <= set(SOURCES)


def test_masks_are_those_the_papers_had():
    for name in ("phantom-alom-cxr", "phantom-alom-ct", "phantom-spgc", "phantom-cohen-nih"):
        assert PRESETS[name].infections == 0
    assert PRESETS["phantom-spgc"].lungs == 0
    family, qu = PRESETS["phantom-covid-family"], PRESETS["phantom-covid-qu"]
    assert (family.lungs, family.infections, qu.lungs) == (1, 0, 1)
    assert qu.infections == pytest.approx(2913 / 11956, abs=0.001)
    assert PRESETS["phantom-sirm"].lungs == PRESETS["phantom-sirm"].infections == 1


def test_class_is_source_where_it_was_in_the_papers():
    for name in ("phantom-cohen-nih", "phantom-covid-family"):
        preset = PRESETS[name]
        assert preset.strength == 1 and len(set(preset.sites.values())) == len(preset.labels)
    qu = PRESETS["phantom-covid-qu"]  # COVID-19 shares no source; the other two share theirs
    assert qu.strength == 1 and qu.sites["Non-COVID"] == qu.sites["Normal"] != qu.sites["COVID-19"]


def test_sirm_slices_are_labelled_by_their_masks(tmp_path):
    frame = generate(
        tmp_path / "set", 8, 2, preset="phantom-sirm", size=64, workers=1, progress=False
    )
    assert len(frame) > 8 * 10
    for row in frame.itertuples():
        sick = (pixels(tmp_path / "set" / row.infection_mask) > 0).any()
        assert row.label == ("Infected" if sick else "Healthy")
    assert (frame["severity"] > 0).all() and set(frame["disease"]) == {"COVID-19"}
    both = frame.groupby("patient_id")["label"].nunique().eq(2)
    assert both.mean() > 0.6  # where the disease is everywhere, no level is free of it
    assert (frame["label"] == "Infected").mean() == pytest.approx(370 / 829, abs=0.06)
    assert all((np.diff(z) < 0).all() for _, z in frame.groupby("patient_id")["z_mm"])


def test_spgc_volumes_run_head_first_through_both_lungs(tmp_path):
    frame = generate(
        tmp_path / "set",
        4,
        2,
        preset="phantom-spgc",
        size=64,
        slices_per_patient=12,
        truth=True,
        workers=1,
        progress=False,
    )
    for name, rows in frame.groupby("patient_id"):
        who = phantom.patient(int(name[-4:]), 2, disease=rows["disease"].iloc[0])
        z, (low, high) = rows["z_mm"].to_numpy(), who.extent()
        gaps = np.diff(z)
        assert len(rows) == 12 and (gaps < 0).all() and np.ptp(gaps) < 0.03
        assert low < z[-1] < low - 1.5 * gaps[0] and high + 1.5 * gaps[0] < z[0] < high
        for row in rows.itertuples():
            sick = (pixels(tmp_path / "set" / row.infection_mask) > 0).any()
            assert row.infected == int(sick)
    well = frame[frame["label"] == "Normal"]
    assert len(well) and not well["infected"].any()
    assert frame.loc[frame["label"] != "Normal", "infected"].mean() > 0.3


def test_spgc_has_no_masks_without_truth(tmp_path):
    frame = generate(
        tmp_path / "set", 2, 2, preset="phantom-spgc", size=64, slices_per_patient=2,
        workers=1, progress=False,
    )  # fmt: skip
    assert not (frame["lung_mask"] != "").any() and not (frame["infection_mask"] != "").any()
    assert beside(tmp_path / "set") == ["images", "manifest.csv"]


def test_infection_masks_for_a_share_of_the_infected(tmp_path):
    """As in covid-qu, on CT to be quick: a quarter of the infected, and all of the others, empty."""
    classes = {"COVID-19": (0.8, {"COVID-19": 1.0}), "Normal": (0.2, {"normal": 1.0})}
    share = PRESETS["phantom-covid-qu"].infections
    few = Preset("few", classes, size=64, infections=share)
    frame = generate(tmp_path / "set", 40, 1, preset=few, workers=1, progress=False)
    has, sick = frame["infection_mask"] != "", frame["label"] == "COVID-19"
    assert binomtest(int(has[sick].sum()), int(sick.sum()), share).pvalue > 0.01
    assert 0 < has[sick].sum() < sick.sum() and has[~sick].all()
    for path in frame.loc[has & ~sick, "infection_mask"]:
        assert not pixels(tmp_path / "set" / path).any()
    assert (frame["lung_mask"] != "").all()
    with_mask = frame.loc[sick & has, "severity"]
    assert with_mask.min() < frame.loc[sick, "severity"].median() < with_mask.max()


def test_strength_ties_site_and_class(tmp_path):
    tied = {"COVID": "web", "NonCOVID": "university"}
    given = SMALL | {"sites": tied, "slices_per_patient": 1}
    full = generate(tmp_path / "full", 24, 6, strength=1.0, **given)
    assert (full["site"] == full["label"].map(tied)).all()
    none = generate(tmp_path / "none", 24, 6, strength=0.0, **given)
    table = pd.crosstab(none["label"], none["site"])
    assert table.shape == (2, 2) and table.to_numpy().min() >= 3
    assert chi2_contingency(table).pvalue > 0.05
    # The patients are the same: only what the site leaves in the picture differs.
    same = (full["site"] == none["site"]) & (full["z_mm"] == none["z_mm"])
    assert 5 < same.sum() < 24 and (full["severity"] == none["severity"]).all()
    np.testing.assert_array_equal(full["sha256"][same], none["sha256"][same])
    assert (full["sha256"] != none["sha256"])[full["site"] != none["site"]].all()


def test_ap_views_come_at_the_site_s_share():
    for name in ("Cohen", "NIH and CheXpert", "BIMCV"):
        site = SOURCES[name]
        views = [site.view(np.random.default_rng([k, 1])) for k in range(300)]
        assert binomtest(views.count("AP"), 300, site.ap).pvalue > 1e-3
    assert SOURCES["Cohen"].ap == pytest.approx(146 / 304, abs=0.01)  # measured in one copy


def test_asking_for_the_truth_changes_no_picture(tmp_path):
    options = {"preset": "phantom-covid-qu", "size": 64, "workers": 1, "progress": False}
    plain = generate(tmp_path / "plain", 6, 5, **options)
    told = generate(tmp_path / "told", 6, 5, truth=True, **options)
    assert list(plain["sha256"]) == list(told["sha256"])
    assert (told["infection_mask"] != "").all() and not (plain["infection_mask"] != "").all()
    for name in ("right_lung_mask", "left_lung_mask", "effusion_mask"):
        assert name in told and name not in plain
