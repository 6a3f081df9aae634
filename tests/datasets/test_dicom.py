import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom import dcmread

from covidlab.datasets import DatasetError, ImageError, dicom, from_folder, load, read_manifest
from covidlab.datasets.dicom import read_volume
from covidlab.datasets.phantom.patient import Volume, patient

KINDS = ("lung", "infection", "ground_glass", "consolidation", "effusion")


@pytest.fixture(scope="module")
def thorax():
    return patient(0, 0).volume(64, 20.0)


@pytest.fixture(scope="module")
def written(thorax, tmp_path_factory):
    """A phantom on disk; tests that change files work on a copy (`series`)."""
    folder = tmp_path_factory.mktemp("dicom") / "patient"
    dicom.write_dicom(thorax, folder, "phantom_0000")
    return folder


@pytest.fixture
def series(written, tmp_path):
    return shutil.copytree(written / "ct", tmp_path / "ct")


def small(depth=4, **changed):
    """4 slices of 3 rows and 5 columns, no two lengths and no two values alike."""
    shape = (depth, 3, 5)
    hu = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) * 7 - 1000
    masks = {kind: hu % (2 + i) == 0 for i, kind in enumerate(KINDS) if kind != "infection"}
    z = 31.5 - 2.5 * np.arange(depth)
    return Volume(**({"hu": hu, **masks, "z": z, "spacing": (2.5, 0.75, 0.5)} | changed))


def edit(path, **tags):
    data = dcmread(path)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path)
    return path


def test_the_volume_comes_back_to_the_rounding_of_one_hounsfield_unit(thorax, written):
    hu, z, spacing = read_volume(written)
    assert hu.dtype == np.float32
    assert np.array_equal(hu, np.rint(thorax.hu))
    assert np.allclose(z, thorax.z, rtol=0, atol=1e-6) and (np.diff(z) < 0).all()
    assert np.allclose(spacing, thorax.spacing, rtol=0, atol=1e-6)


def test_images_and_masks_come_back_as_a_dataset(thorax, written):
    dataset = from_folder(written)
    assert load(str(written)).check() == []
    assert len(dataset) == len(thorax) and set(dataset.patients) == {"phantom_0000"}
    low, high = -600 - 750, -600 + 750
    for i in range(len(thorax)):
        expected = np.clip((np.rint(thorax.hu[i]) - low) / (high - low), 0, 1)
        assert np.allclose(dataset.image(i), expected, rtol=0, atol=1e-6)
        for kind in KINDS:
            assert np.array_equal(dataset.mask(i, f"{kind}_mask"), getattr(thorax, kind)[i])
    assert np.allclose(dataset.frame["z_mm"].astype(float), thorax.z)


def test_a_slice_is_infected_where_its_mask_is(thorax, written):
    dataset = from_folder(written)
    some = (thorax.ground_glass | thorax.consolidation).any((1, 2))
    assert 0 < some.sum() < len(some)
    assert (dataset.frame["label"] == np.where(some, "infected", "free of infection")).all()
    assert dataset.card.positive == "infected"


def test_label_and_masks_can_be_chosen(tmp_path):
    frame = dicom.write_dicom(small(), tmp_path / "a", "7", label="COVID", masks=False)
    dataset = from_folder(tmp_path / "a")
    assert dataset.classes == ("COVID",) and dataset.mask(0) is None
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["ct", "manifest.csv"]
    on_disk = read_manifest(tmp_path / "a" / "manifest.csv")
    pd.testing.assert_frame_equal(frame.astype(str), on_disk, check_dtype=False)


# What other programs read: tags by hand, and the standard's own equation.


def test_pixel_to_patient_equation(tmp_path):
    """DICOM PS3.3 C.7.6.2.1.1: the column index goes along the first cosine and column spacing."""
    volume = small()
    dicom.write_dicom(volume, tmp_path / "a", "7")
    for i, path in enumerate(sorted((tmp_path / "a" / "ct").iterdir())):
        data = dcmread(path)
        row, column = np.reshape(data.ImageOrientationPatient, (2, 3)).astype(float)
        dy, dx = map(float, data.PixelSpacing)
        at = [float(v) for v in data.ImagePositionPatient] + row * dx * 4 + column * dy * 1
        # the last of 5 columns 0.5 mm wide lies 1 mm to the left (+x) of the middle; the middle
        # of 3 rows in the middle; patient axes are left, posterior, head
        assert np.allclose(at, [1.0, 0.0, 31.5 - 2.5 * i])
        stored = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
        assert np.array_equal(stored * data.RescaleSlope + data.RescaleIntercept, volume.hu[i])
        assert (data.BitsAllocated, data.BitsStored, data.HighBit) == (16, 12, 11)
        assert float(data.SliceLocation) == volume.z[i] and data.InstanceNumber == i + 1
        assert data.SliceThickness == data.SpacingBetweenSlices == 2.5


def test_the_heart_is_on_the_left_and_the_spine_at_the_back(written):
    """Anatomy in the axes of the standard: +x to the patient's left, +y to the back."""
    data = [dcmread(path) for path in sorted((written / "ct").iterdir())]
    cut = min(data, key=lambda d: abs(float(d.ImagePositionPatient[2]) + 70))
    left, back = np.meshgrid(
        float(cut.ImagePositionPatient[0]) + np.arange(64) * float(cut.PixelSpacing[1]),
        float(cut.ImagePositionPatient[1]) + np.arange(64) * float(cut.PixelSpacing[0]),
    )
    hu = cut.pixel_array - 1024.0
    middle = (abs(left) < 60) & (abs(back) < 40)
    heart = middle & (hu > 0) & (hu < 100)
    assert left[heart].mean() > 5
    bone = (abs(left) < 20) & (hu > 120)
    assert back[bone].mean() > 30


def test_one_series_of_one_study_and_no_patient(written):
    data = [dcmread(path) for path in sorted((written / "ct").iterdir())]
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({d[name].value for d in data}) == 1
    uids = {d.SOPInstanceUID for d in data}
    assert len(uids) == len(data)
    assert len(uids | {data[0].StudyInstanceUID, data[0].SeriesInstanceUID}) == len(data) + 2
    assert all(uid.is_valid for uid in uids)
    for d in data:
        assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID
        assert d.SOPClassUID.name == "CT Image Storage" and d.Modality == "CT"
        assert "not a patient" in d.ImageComments and "SYNTHETIC" in d.StudyDescription
        assert d.QualityControlImage == "YES"  # "a quality control or phantom image"
        assert str(d.PatientName).startswith("Phantom^")
        assert (d.WindowCenter, d.WindowWidth) == (-600, 1500)
        assert not any(e.value for e in d.iterall() if e.VR in ("DA", "TM", "DT"))


def test_every_value_is_one_the_standard_allows(written, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    names = {element.keyword for element in dcmread(written / "ct" / "0001.dcm")}
    # types 1 and 2 of the modules of the CT Image IOD, PS3.3 A.3
    required = """PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate
        StudyTime ReferringPhysicianName StudyID AccessionNumber Modality SeriesInstanceUID
        SeriesNumber PatientPosition FrameOfReferenceUID PositionReferenceIndicator Manufacturer
        InstanceNumber PixelSpacing ImageOrientationPatient ImagePositionPatient SliceThickness
        ImageType SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored
        HighBit PixelRepresentation PixelData RescaleIntercept RescaleSlope KVP AcquisitionNumber
        SOPClassUID SOPInstanceUID"""
    assert set(required.split()) <= names


def test_the_same_volume_gives_the_same_bytes(thorax, written, tmp_path):
    dicom.write_dicom(thorax, tmp_path / "again", "phantom_0000")
    files = [p.relative_to(written) for p in sorted(written.rglob("*")) if p.is_file()]
    assert len(files) == len(thorax) * 6 + 1
    assert files == [
        p.relative_to(tmp_path / "again")
        for p in sorted((tmp_path / "again").rglob("*"))
        if p.is_file()
    ]
    for name in files:
        assert (written / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_volume_or_patient_has_other_uids(tmp_path):
    one, other = small(), small()
    other.hu[2, 1, 1] += 1
    found = set()
    for i, (volume, who) in enumerate([(one, "7"), (other, "7"), (one, "8")]):
        dicom.write_dicom(volume, tmp_path / str(i), who)
        for path in (tmp_path / str(i) / "ct").iterdir():
            data = dcmread(path)
            found |= {data.SOPInstanceUID, data.SeriesInstanceUID, data.StudyInstanceUID}
    assert len(found) == 3 * (4 + 2)


# Reading what others wrote.


def test_file_names_and_their_order_do_not_matter(thorax, series, tmp_path):
    order = np.random.default_rng(0).permutation(len(thorax))
    shuffled = tmp_path / "shuffled"
    (shuffled / "deeper").mkdir(parents=True)
    for k, path in zip(order, sorted(series.iterdir()), strict=True):
        shutil.copy(path, shuffled / ("deeper" if k % 2 else "") / f"IM{k}")  # without a suffix
    (shuffled / "notes.txt").write_text("not DICOM")
    expected = np.rint(thorax.hu)
    assert np.array_equal(read_volume(shuffled)[0], expected)
    files = [str(p) for p in series.iterdir()]
    assert np.array_equal(read_volume(files[::-1])[0], expected)
    assert np.array_equal(read_volume(iter(files))[0], expected)


@pytest.mark.parametrize("sx", [1, -1])
@pytest.mark.parametrize("sy", [1, -1])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_any_axial_orientation_is_turned_and_ordered(tmp_path, write_dicom, sx, sy, slope):
    """Prone, feet first, tilted: stored values say where in the patient each pixel lies."""
    row = np.array([sx, 0, 0.0])
    column = sy * np.array([0, np.cos(slope), np.sin(slope)])
    normal = np.array([0, -np.sin(slope), np.cos(slope)])  # towards the head
    left, back = np.meshgrid(np.arange(5)[::sx], np.arange(3)[::sy])
    for k in np.random.default_rng(1).permutation(4):
        write_dicom(
            tmp_path / f"{k}.dcm",
            (100 * k + 10 * back + left).astype(np.int16),
            SeriesInstanceUID="1.2.3",
            ImageOrientationPatient=[*row, *column.round(12)],
            ImagePositionPatient=[*(-row * 3 - column * 5 + normal * (2.0 * k - 11)).round(9)],
            PixelSpacing=[0.5, 0.6],
        )
    hu, z, spacing = read_volume(tmp_path)
    expected = 100 * np.arange(4)[::-1, None, None] + 10 * np.arange(3)[:, None] + np.arange(5)
    assert np.array_equal(hu, expected)
    assert np.allclose(z, [-5, -7, -9, -11]) and np.allclose(spacing, [2.0, 0.5, 0.6])


def test_a_series_from_a_scanner():
    """Five slices that pydicom carries for its own tests, each with the scanner's own SliceLocation."""
    files = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent
    folder = files / "dicomdirtests" / "98892001" / "CT5N"
    data = sorted(map(dcmread, folder.iterdir()), key=lambda d: -d.SliceLocation)
    hu, z, spacing = read_volume(folder)
    expected = [d.pixel_array * d.RescaleSlope + d.RescaleIntercept for d in data]
    assert np.array_equal(hu, np.array(expected, np.float32))
    assert np.allclose(z, [8.7625, 6.2625, 3.7625, 1.2625, -1.2375])
    assert np.allclose(spacing, [2.5, 0.488281, 0.488281])


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even(tmp_path):
    dicom.write_dicom(small(depth=9), tmp_path / "a", "7")
    z = 40 - 0.625 * np.arange(9)
    for path, height in zip(sorted((tmp_path / "a" / "ct").iterdir()), z, strict=True):
        edit(path, ImagePositionPatient=[0, 0, round(height, 1)])
    assert abs(read_volume(tmp_path / "a")[2][0] - 0.625) < 0.1 / 8


def test_a_single_slice_takes_its_thickness(tmp_path):
    dicom.write_dicom(small(depth=1), tmp_path / "a", "7", thickness=1.25)
    path = tmp_path / "a" / "ct" / "0001.dcm"
    assert read_volume(path)[2] == (2.5, 0.75, 0.5)
    edit(path, SpacingBetweenSlices=None)
    assert read_volume(path)[2] == (1.25, 0.75, 0.5)
    edit(path, SliceThickness=None)
    with pytest.raises(ImageError, match="0001.dcm.*whole series"):
        read_volume(path)


def test_a_missing_slice_is_named_by_its_neighbours(thorax, series):
    (series / "0005.dcm").unlink()
    with pytest.raises(DatasetError, match=r"0004.dcm.*0006.dcm: 40.00 mm.*20.00 mm.*uneven=True"):
        read_volume(series)
    hu, z, spacing = read_volume(series, uneven=True)
    assert np.array_equal(hu, np.rint(np.delete(thorax.hu, 4, 0)))
    assert np.allclose(z, np.delete(thorax.z, 4)) and np.isclose(spacing[0], 20.0)


def test_of_three_slices_the_wide_gap_is_the_missing_one(tmp_path):
    dicom.write_dicom(small(), tmp_path / "a", "7")
    (tmp_path / "a" / "ct" / "0003.dcm").unlink()
    with pytest.raises(DatasetError, match=r"1 problem[^!]*0002.dcm and .*0004.dcm: 5.00 mm"):
        read_volume(tmp_path / "a")


def test_a_slice_twice(series):
    shutil.copy(series / "0003.dcm", series / "copy.dcm")
    for uneven in (False, True):
        with pytest.raises(DatasetError, match=r"(?s)1 problem.*copy.dcm.*same place.*0003.dcm"):
            read_volume(series, uneven=uneven)


def test_slices_shifted_in_their_plane(tmp_path):
    volume = small()
    dicom.write_dicom(volume, tmp_path / "a", "7")
    for i, path in enumerate(sorted((tmp_path / "a" / "ct").iterdir())):
        edit(path, ImagePositionPatient=[0, 0.4 * i, volume.z[i]])
    with pytest.raises(DatasetError, match=r"0004.dcm.*1.2 mm.*0001.dcm.*tilt"):
        read_volume(tmp_path / "a")
    assert np.array_equal(read_volume(tmp_path / "a", uneven=True)[0], volume.hu)


def test_two_series_are_named_and_one_can_be_chosen(tmp_path):
    mixed, uids = tmp_path / "mixed", []
    for name, volume in {"a": small(), "b": small(depth=3)}.items():
        dicom.write_dicom(volume, mixed / name, name)
        uids.append(dcmread(mixed / name / "ct" / "0001.dcm").SeriesInstanceUID)
    with pytest.raises(DatasetError, match="series=") as error:
        read_volume(mixed)
    assert all(uid in str(error.value) for uid in uids)
    assert "4 file(s)" in str(error.value) and "3 file(s)" in str(error.value)
    assert len(read_volume(mixed, uids[1])[0]) == 3
    with pytest.raises(DatasetError, match="no series '1.2'") as error:
        read_volume(mixed / "a", "1.2")
    assert uids[0] in str(error.value) and uids[1] not in str(error.value)


def test_another_modality_is_refused(series):
    edit(series / "0002.dcm", Modality="MR")
    with pytest.raises(DatasetError, match=r"(?s)1 problem.*0002.dcm: modality MR.*CT"):
        read_volume(series)


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"PixelSpacing": [1, 1]}, "PixelSpacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.96, 0.28]}, "ImageOrientationPatient"),
        ({"Rows": 32, "PixelData": bytes(32 * 64 * 2)}, "Rows"),
    ],
)
def test_the_one_slice_of_another_kind_is_named(series, tags, what):
    edit(series / "0001.dcm", **tags)
    with pytest.raises(DatasetError, match=rf"(?s)1 problem.*0001.dcm: {what} .*of most"):
        read_volume(series)


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"ImagePositionPatient": None}, "lacks ImagePositionPatient"),
        ({"PixelSpacing": [1, 1, 1]}, "geometry"),
    ],
)
def test_a_slice_without_a_sound_place_is_named(series, tags, what):
    edit(series / "0004.dcm", **tags)
    with pytest.raises(ImageError, match=f"0004.dcm.*{what}"):
        read_volume(series)


CORONAL, SAGITTAL = [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def test_slices_in_other_planes_are_all_named(series):
    for name, orientation in (("0002.dcm", CORONAL), ("0005.dcm", SAGITTAL)):
        edit(series / name, ImageOrientationPatient=orientation)
    count = len(list(series.iterdir()))
    with pytest.raises(DatasetError, match="2 problem") as error:
        read_volume(series)
    for problem, name in zip(error.value.problems, ("0002.dcm", "0005.dcm"), strict=True):
        assert problem.kind == "not an axial slice" and problem.where.endswith(name)
        assert f"{count - 2} of {count} slices are axial" in problem.what
        assert "localizer" in problem.remedy


def test_a_series_without_axial_slices(series):
    for path in series.iterdir():
        edit(path, ImageOrientationPatient=CORONAL)
    with pytest.raises(ImageError, match="not an axial slice.*give axial images"):
        read_volume(series)


@pytest.mark.parametrize("keep", [0, 100, 400, 700, 5000])
def test_a_truncated_file_is_named(series, keep):
    path = series / "0007.dcm"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises((ImageError, DatasetError), match="0007.dcm"):
        read_volume(series)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_volume(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"")
    for source in (tmp_path, []):
        with pytest.raises(DatasetError, match="no DICOM files"):
            read_volume(source)
    with pytest.raises(ImageError, match="a.png"):
        read_volume([tmp_path / "a.png"])


@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it then refuses
def test_flipped_bytes_never_raise_anything_else(tmp_path):
    dicom.write_dicom(small(), tmp_path / "a", "7")
    damaged = tmp_path / "a" / "ct" / "0002.dcm"
    content, refused = damaged.read_bytes(), 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        changed = np.frombuffer(content, np.uint8).copy()
        changed[rng.integers(128, len(changed), 4)] = rng.integers(0, 256, 4)
        damaged.write_bytes(changed.tobytes())
        try:
            read_volume(tmp_path / "a")
        except (ImageError, DatasetError):
            refused += 1
    assert 0 < refused < 80


# Writing: all or nothing, and nothing of what is wrong.


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    dicom.write_dicom(small(), tmp_path / "a", "7")  # empty: taken
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="a exists: delete"):
        dicom.write_dicom(small(), tmp_path / "a", "7")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PermissionError, match="cannot write to .*file"):
        dicom.write_dicom(small(), tmp_path / "file" / "a", "7")


def test_the_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def stop(*_):
        assert [p.name[:3] for p in tmp_path.iterdir()] == [".a-"]
        raise KeyboardInterrupt

    monkeypatch.setattr(dicom, "_write_masks", stop)
    with pytest.raises(KeyboardInterrupt):
        dicom.write_dicom(small(), tmp_path / "a", "7")
    assert list(tmp_path.iterdir()) == []


HU = small().hu


@pytest.mark.parametrize(
    ("changed", "given", "what"),
    [
        ({"hu": HU + 5000}, {}, "hu must lie in -1024..3071"),
        ({"hu": np.where(HU > -900, np.nan, HU)}, {}, "hu must lie"),
        ({"hu": HU[:, :2]}, {}, "hu .4, 2, 5."),
        ({"lung": HU[0] > 0}, {}, "lung .3, 5."),
        ({"z": np.arange(4) * 2.5}, {}, "z must fall"),
        ({"z": np.array([9, 6.5, 4, 0])}, {}, "z must fall"),
        ({"spacing": (2.5, 0.0, 1.0)}, {}, "spacing"),
        ({}, {"patient_id": ""}, "patient_id"),
        ({}, {"patient_id": "a^b"}, "patient_id"),
        ({}, {"patient_id": "a" * 56}, "patient_id"),
        ({}, {"label": ""}, "label"),
        ({}, {"thickness": 0}, "thickness"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, changed, given, what):
    with pytest.raises(ValueError, match=what):
        dicom.write_dicom(small(**changed), tmp_path / "a", **{"patient_id": "7", **given})
    assert list(tmp_path.iterdir()) == []


def test_the_whole_of_12_bits_is_kept(tmp_path):
    hu = HU.copy()
    hu[0, 0, :2] = -1024.4, 3071.4
    dicom.write_dicom(small(hu=hu), tmp_path / "a", "7")
    back = read_volume(tmp_path / "a")[0]
    assert back[0, 0, :2].tolist() == [-1024, 3071]
