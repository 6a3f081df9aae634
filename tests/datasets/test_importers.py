"""Each layout against a small look-alike of what its makers publish."""

import hashlib
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab import paths
from covidlab.datasets import (
    LAYOUTS,
    DatasetError,
    catalogue,
    import_dataset,
    load,
    read_hu,
    read_manifest,
    read_mask,
)
from covidlab.datasets.manifest import COLUMNS


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    """Where imports go unless told otherwise."""
    catalogue()  # read before its folder is moved away
    monkeypatch.setattr(paths, "data", lambda: tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def picture(path, seed=None, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if array is None:
        seed = sum(map(ord, path.name)) if seed is None else seed
        array = np.random.default_rng(seed).integers(0, 256, (8, 6), dtype=np.uint8)
    Image.fromarray(array).save(path, **options)
    return path


def rows(root, *columns):
    return read_manifest(root / "manifest.csv")[list(columns)].to_numpy().tolist()


def imported(layout, source, **options):
    """The import, after checking what holds for every one of them."""
    root = import_dataset(layout, source, progress=False, **options)
    frame = read_manifest(root / "manifest.csv")
    assert list(frame)[: len(COLUMNS)] == list(COLUMNS)
    for row in frame.to_dict("records"):
        copied, original = root / row["image"], source / row["source_path"]
        assert row["sha256"] == hashlib.sha256(copied.read_bytes()).hexdigest()
        if original.is_file():  # not inside a zip
            assert copied.read_bytes() == original.read_bytes()
    assert load(str(root), check=False).check() == []
    assert not [p for p in root.parent.iterdir() if p.name.startswith(".")]  # nothing left behind
    return root


# UCSD


@pytest.fixture
def ucsd(source):
    """Folders for COVID; NonCOVID, whose list says .jpg and whose files are .png, for zipping."""
    images = {
        "COVID": {"2020.01.24.919183-p27-132": "train", "p1%0": "val", "p1%1": "val", "q": "test"},
        "NonCOVID": {"0": "train", "12": "val", "3%0": "test", "7": ""},
    }
    for label, names in images.items():
        (source / "Data-split" / label).mkdir(parents=True)
        for part in ("train", "val", "test"):
            listed = [
                n + (".png" if label == "COVID" else ".jpg") for n, p in names.items() if p == part
            ]
            path = source / "Data-split" / label / f"{part}CT_{label}.txt"
            path.write_text("\r\n".join(listed) + "\n")
        for name in names:
            picture(source / "Images-processed" / f"CT_{label}" / f"{name}.png")
    (source / "COVID-CT-MetaInfo.csv").write_text(
        "File name,Patient ID,DOI\n2020.01.24.919183-p27-132,Patient 1,10/x\n"  # no suffix: as published
        "p1%0.png,Patient 2,\np1%1.png,Patient 2,\n"
    )
    (source / "NonCOVID-CT-MetaInfo.csv").write_text(
        "image name,patient id\n0.jpg,crawled_patient_0\n12.jpg,crawled_patient_0\n"
        "3%0.jpg,medpix_patient_4\n7.jpg,medpix_patient_5\n"
    )
    return source


UCSD_ROWS = [
    ["images/COVID/2020.01.24.919183-p27-132.png", "COVID", "covid_patient_1", "train", "papers"],
    ["images/COVID/p1%0.png", "COVID", "covid_patient_2", "val", "papers"],
    ["images/COVID/p1%1.png", "COVID", "covid_patient_2", "val", "papers"],
    ["images/COVID/q.png", "COVID", "", "test", "papers"],
    ["images/NonCOVID/0.png", "NonCOVID", "noncovid_crawled_patient_0", "train", "crawled"],
    ["images/NonCOVID/12.png", "NonCOVID", "noncovid_crawled_patient_0", "val", "crawled"],
    ["images/NonCOVID/3%0.png", "NonCOVID", "noncovid_medpix_patient_4", "test", "medpix"],
    ["images/NonCOVID/7.png", "NonCOVID", "noncovid_medpix_patient_5", "", "medpix"],
]


def zip_images(source):
    for folder in (source / "Images-processed").iterdir():
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"{folder.name}/{file.name}")
                archive.writestr(f"__MACOSX/{folder.name}/._{file.name}", b"not a picture")
                file.unlink()
        folder.rmdir()


@pytest.mark.parametrize("zipped", [False, True], ids=["folders", "zips"])
def test_ucsd(ucsd, out, zipped):
    before = {p.name: p.read_bytes() for p in ucsd.rglob("*.png")}
    if zipped:
        zip_images(ucsd)
    # Patient 0 of NonCOVID is in two parts: that is for the check to say, not for the import.
    root = import_dataset("ucsd", ucsd, progress=False)
    assert root == out / "ct-covidct-ucsd"
    assert rows(root, "image", "label", "patient_id", "split", "source") == UCSD_ROWS
    assert {p.name: p.read_bytes() for p in root.rglob("*.png")} == before
    assert [p.kind for p in load(str(root), check=False).check()] == ["patient in two splits"]


def test_ucsd_names_every_image_that_is_listed_and_absent(ucsd):
    (ucsd / "Images-processed" / "CT_COVID" / "q.png").unlink()
    (ucsd / "Images-processed" / "CT_NonCOVID" / "12.png").unlink()
    (ucsd / "Data-split" / "NonCOVID" / "testCT_NonCOVID.txt").unlink()
    with pytest.raises(DatasetError) as error:
        import_dataset("ucsd", ucsd)
    where = [p.where for p in error.value.problems]
    assert where[:2] == ["q.png", "12.jpg"] and where[2].endswith("testCT_NonCOVID.txt")


def test_ucsd_an_image_in_two_lists(ucsd):
    path = ucsd / "Data-split" / "COVID" / "trainCT_COVID.txt"
    path.write_text(path.read_text() + "q.png\n")
    with pytest.raises(DatasetError, match="q.png: is in the lists train, test"):
        import_dataset("ucsd", ucsd)


def test_ucsd_metadata_as_excel_sheet(ucsd, monkeypatch):
    (ucsd / "COVID-CT-MetaInfo.csv").rename(ucsd / "COVID-CT-MetaInfo.xlsx")

    def without_openpyxl(*args, **options):
        raise ImportError("No module named 'openpyxl'")

    monkeypatch.setattr(pd, "read_excel", without_openpyxl)
    with pytest.raises(DatasetError, match="save it as COVID-CT-MetaInfo.csv beside it"):
        import_dataset("ucsd", ucsd)
    sheet = pd.DataFrame({"File name": ["q.png", None], "Patient ID": ["Patient 9", None]})
    monkeypatch.setattr(pd, "read_excel", lambda *args, **options: sheet)
    root = import_dataset("ucsd", ucsd, progress=False)
    assert ["images/COVID/q.png", "covid_patient_9"] in rows(root, "image", "patient_id")


def test_ucsd_metadata_gone_or_with_other_columns(ucsd):
    (ucsd / "NonCOVID-CT-MetaInfo.csv").write_text("image,who\n")
    with pytest.raises(DatasetError, match="no column image name or patient id, only image, who"):
        import_dataset("ucsd", ucsd)
    (ucsd / "NonCOVID-CT-MetaInfo.csv").unlink()
    with pytest.raises(DatasetError, match="NonCOVID-CT-MetaInfo.csv: is not there"):
        import_dataset("ucsd", ucsd)


def test_ucsd_broken_zip(ucsd, out):
    zip_images(ucsd)
    archive = ucsd / "Images-processed" / "CT_COVID.zip"
    content = archive.read_bytes()
    archive.write_bytes(b"<html>rate limit</html>")
    with pytest.raises(DatasetError, match="CT_COVID.zip: not a zip file"):
        import_dataset("ucsd", ucsd)
    damaged = bytearray(content)
    damaged[60:80] = bytes(20)  # inside the first image: its CRC no longer fits
    archive.write_bytes(damaged)
    with pytest.raises(OSError, match="importing .* failed"):
        import_dataset("ucsd", ucsd, progress=False)
    assert list(out.iterdir()) == []


# ieee8023


@pytest.fixture
def ieee8023(source):
    for name in ("a.jpg", "b.png", "c.jpeg"):
        picture(source / "images" / name)
    (source / "metadata.csv").write_text(
        "patientid,offset,sex,age,finding,view,modality,folder,filename,license,url\n"
        "2,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,images,a.jpg,CC BY-NC-SA,https://www.nejm.org/doi/1\n"
        '2,3,M,65,"COVID-19, ARDS",L,X-ray,images,b.png,,\n'
        "07b,,,,No Finding,Axial,CT,images,c.jpeg,,http://radiopaedia.org/cases/1\n"
        "9,,,,Pneumonia,Axial,CT,volumes,9.nii.gz,,\n"
    )
    return source


def test_ieee8023_keeps_every_finding_and_view(ieee8023, out):
    with pytest.warns(UserWarning, match="1 CT volumes .* left out"):
        root = imported("ieee8023", ieee8023)
    assert root == out / "cxr-ieee8023"
    assert rows(root, "image", "label", "patient_id", "modality", "view", "source", "license") == [
        [
            "images/a.jpg",
            "Pneumonia/Viral/COVID-19",
            "ieee8023_2",
            "X-ray",
            "PA",
            "nejm.org",
            "CC BY-NC-SA",
        ],
        ["images/b.png", "COVID-19, ARDS", "ieee8023_2", "X-ray", "L", "", ""],
        ["images/c.jpeg", "No Finding", "ieee8023_07b", "CT", "Axial", "radiopaedia.org", ""],
    ]


def test_ieee8023_early_versions_have_other_column_names_and_no_modality(ieee8023):
    (ieee8023 / "metadata.csv").write_text(
        "Patientid,finding,view,filename, url\n1,COVID-19,PA,a.jpg,x\n1,COVID-19,CT,b.png,\n"
    )
    assert rows(imported("ieee8023", ieee8023), "patient_id", "modality") == [
        ["ieee8023_1", "X-ray"],
        ["ieee8023_1", "CT"],
    ]


def test_ieee8023_names_every_picture_that_is_absent(ieee8023):
    (ieee8023 / "images" / "a.jpg").unlink()
    (ieee8023 / "images" / "c.jpeg").unlink()
    with pytest.raises(DatasetError) as error:
        import_dataset("ieee8023", ieee8023)
    assert [p.where[-6:] for p in error.value.problems] == ["/a.jpg", "c.jpeg"]


# Ozturk


@pytest.fixture
def ozturk(source):
    top = source / "X-Ray Image DataSet"
    for name in (
        "Covid-19/one.jpeg",
        "Covid-19/two.jpg",
        "No_findings/00001280_004.png",
        "No_findings/00001280_005.png",
        "Pneumonia/00000032_012.png",
    ):
        picture(top / name)
    (top / "No_findings" / "Thumbs.db").write_bytes(b"x")
    return source


def test_ozturk_without_the_covid_patients(ozturk, out):
    with pytest.warns(UserWarning, match="2 images have no patient id: put the metadata.csv"):
        root = imported("ozturk", ozturk)
    assert root == out / "cxr-ozturk-full"
    assert rows(root, "image", "label", "patient_id", "source") == [
        ["images/Covid-19/one.jpeg", "COVID-19", "", "ieee8023"],
        ["images/Covid-19/two.jpg", "COVID-19", "", "ieee8023"],
        ["images/No_findings/00001280_004.png", "No_findings", "nih_00001280", "NIH ChestX-ray8"],
        ["images/No_findings/00001280_005.png", "No_findings", "nih_00001280", "NIH ChestX-ray8"],
        ["images/Pneumonia/00000032_012.png", "Pneumonia", "nih_00000032", "NIH ChestX-ray8"],
    ]
    assert set(catalogue()["cxr-ozturk-full"].card.classes) == {r[0] for r in rows(root, "label")}


def test_ozturk_class_folders_in_a_folder_that_is_called_like_one_of_them(ozturk):
    clone = (ozturk / "X-Ray Image DataSet").rename(ozturk / "COVID-19")
    with pytest.warns(UserWarning, match="2 images have no patient id"):
        root = imported("ozturk", clone)
    assert [r[0] for r in rows(root, "label")].count("COVID-19") == 2


def test_ozturk_with_an_empty_class(ozturk):
    for file in (ozturk / "X-Ray Image DataSet" / "Pneumonia").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="expected Covid-19, No_findings, Pneumonia"):
        import_dataset("ozturk", ozturk)


@pytest.mark.filterwarnings("error")
def test_ozturk_with_the_covid_patients(ozturk):
    (ozturk / "metadata.csv").write_text("patientid,filename\n3,one.jpg\n3,two.jpg\n8,other.png\n")
    assert rows(imported("ozturk", ozturk), "patient_id")[:2] == [["ieee8023_3"], ["ieee8023_3"]]


# Montgomery and Shenzhen


@pytest.fixture
def nlm(source):
    left, right = np.zeros((8, 6), np.uint8), np.zeros((8, 6), np.uint8)
    left[2:6, 4:6], right[1:5, 0:2] = 255, 255
    county, china = source / "MontgomerySet", source / "ChinaSet_AllFiles"
    for stem in ("MCUCXR_0001_0", "MCUCXR_0104_1"):
        picture(county / "CXR_png" / f"{stem}.png")
        picture(county / "ManualMask" / "leftMask" / f"{stem}.png", array=left)
        picture(county / "ManualMask" / "rightMask" / f"{stem}.png", array=right)
    (county / "ClinicalReadings").mkdir()
    (county / "ClinicalReadings" / "MCUCXR_0104_1.txt").write_text(
        "Patient's Sex: F\nAge: 040Y\ncavity\n"
    )
    for stem in ("CHNCXR_0001_0", "CHNCXR_0330_1"):
        picture(china / "CXR_png" / f"{stem}.png")
    picture(source / "mask" / "CHNCXR_0001_0_mask.png", array=left)
    return source


def test_montgomery_lungs_are_united_and_shenzhen_masks_found(nlm, out):
    root = imported("montgomery-shenzhen", nlm)
    assert root == out / "cxr-montgomery-shenzhen"
    assert sorted(rows(root, "image", "label", "patient_id", "lung_mask", "source")) == [
        [
            "images/CHNCXR_0001_0.png",
            "normal",
            "CHNCXR_0001",
            "masks/lung/CHNCXR_0001_0.png",
            "Shenzhen",
        ],
        ["images/CHNCXR_0330_1.png", "tuberculosis", "CHNCXR_0330", "", "Shenzhen"],
        [
            "images/MCUCXR_0001_0.png",
            "normal",
            "MCUCXR_0001",
            "masks/lung/MCUCXR_0001_0.png",
            "Montgomery",
        ],
        [
            "images/MCUCXR_0104_1.png",
            "tuberculosis",
            "MCUCXR_0104",
            "masks/lung/MCUCXR_0104_1.png",
            "Montgomery",
        ],
    ]
    both = np.zeros((8, 6), bool)
    both[2:6, 4:6] = both[1:5, 0:2] = True
    assert np.array_equal(read_mask(root / "masks/lung/MCUCXR_0001_0.png"), both)
    assert read_mask(root / "masks/lung/CHNCXR_0001_0.png").sum() == 8
    readings = dict(rows(root, "patient_id", "reading"))
    assert readings["MCUCXR_0104"] == "Patient's Sex: F Age: 040Y cavity"


@pytest.mark.parametrize("which", ["MontgomerySet", "ChinaSet_AllFiles"])
def test_one_of_the_two_is_enough(nlm, which):
    assert len(rows(imported("montgomery-shenzhen", nlm / which), "image")) == 2


def test_montgomery_with_one_lung_only(nlm):
    (nlm / "MontgomerySet" / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png").unlink()
    with pytest.raises(DatasetError, match="MCUCXR_0001_0.png: has the mask of one lung only"):
        import_dataset("montgomery-shenzhen", nlm)


def test_montgomery_lungs_of_two_sizes(nlm, out):
    left = nlm / "MontgomerySet" / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png"
    picture(left, array=np.zeros((6, 8), np.uint8))
    with pytest.raises(ValueError, match=r"MCUCXR_0001_0.png is \(6, 8\)"):
        import_dataset("montgomery-shenzhen", nlm, progress=False)
    assert list(out.iterdir()) == []


# Inf-Net


@pytest.fixture
def infnet(source):
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5, 1:4] = 255
    colours = np.zeros((8, 6, 3), np.uint8)
    colours[2:4, 1:4, 0], colours[4, 1:4, 1] = 128, 128
    for top, sub, colour, names in (
        ("TrainingSet", "LungInfection-Train/Doctor-label", "MultiClassInfection-Train", "01"),
        ("TestingSet", "LungInfection-Test", "MultiClassInfection-Test", "17"),
    ):
        for name in names:
            picture(source / "Dataset" / top / sub / "Imgs" / f"{name}.jpg")
            picture(source / "Dataset" / top / sub / "GT" / f"{name}.png", array=mask)
            picture(source / "Dataset" / top / colour / "GT" / f"{name}.png", array=colours)
    pseudo = source / "Dataset" / "TrainingSet" / "LungInfection-Train" / "Pseudo-label"
    picture(pseudo / "Imgs" / "9.jpg")
    return source


def test_infnet_masks_and_colours(infnet, out):
    root = imported("infnet", infnet)
    assert root == out / "ct-medseg-infnet"
    assert rows(root, "image", "label", "split", "infection_mask", "ggo_mask") == [
        [
            f"images/{p}/{n}.jpg",
            "COVID",
            p,
            f"masks/infection/{p}/{n}.png",
            f"masks/ggo/{p}/{n}.png",
        ]
        for p, n in (("train", 0), ("train", 1), ("test", 1), ("test", 7))
    ]
    infection, ggo, consolidation = (
        read_mask(root / f"masks/{kind}/test/7.png")
        for kind in ("infection", "ggo", "consolidation")
    )
    assert ggo.sum() == 6 and consolidation.sum() == 3 and not (ggo & consolidation).any()
    assert np.array_equal(ggo | consolidation, infection)


def test_infnet_image_and_mask_must_pair(infnet):
    test = infnet / "Dataset" / "TestingSet" / "LungInfection-Test"
    (test / "GT" / "1.png").unlink()
    (test / "Imgs" / "7.jpg").unlink()
    with pytest.raises(DatasetError) as error:
        import_dataset("infnet", infnet)
    assert [p.what.split(" in ")[0] for p in error.value.problems] == [
        "has no mask",
        "has no image",
    ]


# COVID-CT-MD


@pytest.fixture
def covid_ct_md(source, write_dicom):
    """Two labelled patients and a normal one; file names are in no order, tables run downwards."""
    for folder, patient, heights in (
        ("COVID-19 subjects", "P001", [-30.0, -10.0, -20.0, -40.0]),
        ("Cap subjects", "cap001", [12.5, 10.0]),
        ("Normal subjects", "normal001", [5.0, 7.0, 6.0]),
    ):
        for k, height in enumerate(heights):
            stored = np.full((4, 4), int(height * 10), np.int16)
            stored[0] += 1  # not blank
            path = source / "Sample data" / folder / patient / f"98C14734-ASSH_{k + 1}.dcm"
            write_dicom(path, stored, SliceLocation=height, PatientID="removed")
    # As published: label 0 is P001's, 1 is nobody's, 2 is cap001's; longer than the volumes.
    (source / "Index.csv").write_text(
        "Label Index,Diagnosis,Relative Path,Folder/ID\n0,COVID-19,./COVID-19/,P001\n2,CAP,./CAP/,cap001\n"
    )
    labels = np.zeros((3, 6))
    labels[0, :4], labels[2, :2] = [1, 1, 0, 0], [0, 1]
    np.save(source / "Slice-level-labels.npy", 1 - labels)
    np.save(source / "Slice-level-labels-updated-1.npy", labels)
    return source


def test_covid_ct_md_slices_count_from_the_head(covid_ct_md, out):
    root = imported("covid-ct-md", covid_ct_md)
    assert root == out / "ct-covid-ct-md"
    found = rows(root, "patient_id", "label", "slice_index", "slice_location_mm", "infected")
    assert found == [
        ["P001", "COVID-19", "0", "-10.0", "1"],
        ["P001", "COVID-19", "1", "-20.0", "1"],
        ["P001", "COVID-19", "2", "-30.0", "0"],
        ["P001", "COVID-19", "3", "-40.0", "0"],
        ["cap001", "CAP", "0", "12.5", "0"],
        ["cap001", "CAP", "1", "10.0", "1"],
        ["normal001", "Normal", "0", "7.0", ""],
        ["normal001", "Normal", "1", "6.0", ""],
        ["normal001", "Normal", "2", "5.0", ""],
    ]
    # the picture in each row is the one of that height
    for image, location in rows(root, "image", "slice_location_mm"):
        assert read_hu(root / image)[1, 1] == float(location) * 10
    assert {r[1] for r in found} == set(catalogue()["ct-covid-ct-md"].card.classes)


def test_covid_ct_md_as_on_figshare_without_labels(covid_ct_md):
    data = covid_ct_md / "Sample data"
    for folder in list(data.iterdir()):
        folder.rename(data / folder.name.replace("subjects", "Cases"))
    assert {r[0] for r in rows(imported("covid-ct-md", data), "infected")} == {""}


def test_covid_ct_md_says_what_does_not_fit(covid_ct_md, write_dicom):
    np.save(covid_ct_md / "Slice-level-labels-updated-1.npy", np.zeros((2, 3)))
    patient = covid_ct_md / "Sample data" / "Normal subjects" / "normal001"
    write_dicom(patient / "unplaced.dcm", np.zeros((4, 4), np.int16))
    (patient / "damaged.dcm").write_bytes(b"nothing")
    with pytest.raises(DatasetError) as error:
        import_dataset("covid-ct-md", covid_ct_md)
    told = [(p.kind, p.where.split("/")[-1]) for p in error.value.problems]
    assert told == [
        ("slice labels", "Index.csv"),  # label 2 of 2
        ("slice labels", "P001"),  # 4 slices, 3 labels
        ("slice order", "damaged.dcm"),
        ("slice order", "unplaced.dcm"),
    ]


# COVID-QU-Ex


@pytest.fixture
def covid_qu_ex(source):
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5, 1:4] = 255
    for task, kinds in (("Lung", ["lung"]), ("Infection", ["lung", "infection"])):
        for part in ("Train", "Val", "Test"):
            for label in ("COVID-19", "Non-COVID", "Normal"):
                top = (
                    source
                    / f"{task} Segmentation Data"
                    / f"{task} Segmentation Data"
                    / part
                    / label
                )
                picture(top / "images" / "x (1).png", seed=len(part + label))
                for kind in kinds:
                    picture(top / f"{kind} masks" / "x (1).png", array=mask * (kind == "lung"))
    return source


@pytest.mark.parametrize(
    ("task", "name"), [("Lung", "cxr-covid-qu-ex"), ("Infection", "cxr-covid-qu-ex-infection")]
)
def test_covid_qu_ex(covid_qu_ex, out, task, name):
    root = imported("covid-qu-ex", covid_qu_ex / f"{task} Segmentation Data")
    assert root == out / name
    frame = read_manifest(root / "manifest.csv")
    assert frame.groupby(["split", "label"], sort=False).size().tolist() == [1] * 9
    assert list(dict.fromkeys(frame["split"])) == ["train", "val", "test"]
    assert tuple(dict.fromkeys(frame["label"])) == catalogue()[name].card.classes
    assert frame["image"][4] == "images/val/Non-COVID/x (1).png"
    assert frame["lung_mask"][4] == "masks/lung/val/Non-COVID/x (1).png"
    assert (frame["infection_mask"] != "").all() == (task == "Infection")


def test_covid_qu_ex_is_two_datasets(covid_qu_ex):
    with pytest.raises(DatasetError, match="import each by itself: .*Infection.*Lung"):
        import_dataset("covid-qu-ex", covid_qu_ex)


def test_covid_qu_ex_names_every_missing_mask(covid_qu_ex):
    top = covid_qu_ex / "Infection Segmentation Data" / "Infection Segmentation Data"
    (top / "Val" / "Normal" / "lung masks" / "x (1).png").unlink()
    (top / "Test" / "COVID-19" / "infection masks" / "x (1).png").unlink()
    with pytest.raises(DatasetError) as error:
        import_dataset("covid-qu-ex", top)
    assert len(error.value.problems) == 2


# What holds for all


def test_the_wrong_layout_says_what_is_there_and_what_it_looks_like(ucsd, tmp_path):
    for layout in sorted(set(LAYOUTS) - {"ucsd"}):
        with pytest.raises(DatasetError) as error:
            import_dataset(layout, ucsd)
        assert f"[not {layout}]" in str(error.value) and "Images-processed/" in str(error.value)
        assert "looks like the layout ucsd" in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_source(source, layout):
    with pytest.raises(DatasetError, match="expected .*; there is nothing"):
        import_dataset(layout, source)


@pytest.mark.filterwarnings("ignore:.*(patient id|left out)")
@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"covid-qu-ex"}))
def test_every_layout_knows_its_own(request, layout):
    fixture = {"montgomery-shenzhen": "nlm"}.get(layout, layout.replace("-", "_"))
    source = request.getfixturevalue(fixture)
    other = "infnet" if layout != "infnet" else "ucsd"
    with pytest.raises(DatasetError, match=f"looks like the layout {layout}"):
        import_dataset(other, source)


def test_arguments_that_cannot_be(ucsd, tmp_path):
    with pytest.raises(ValueError, match="no layout 'kaggle': choose one of ucsd"):
        import_dataset("kaggle", ucsd)
    with pytest.raises(FileNotFoundError, match="no folder at .*gone"):
        import_dataset("ucsd", tmp_path / "gone")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="unpack it first"):
        import_dataset("ucsd", tmp_path / "a.zip")
    for name in ("../mine", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="plain folder name"):
            import_dataset("ucsd", ucsd, name)


def test_another_name_and_place(ozturk, tmp_path):
    (ozturk / "metadata.csv").write_text("patientid,filename\n3,one.jpg\n3,two.jpg\n")
    root = imported("ozturk", ozturk, name="mine", folder=tmp_path / "elsewhere")
    assert root == tmp_path / "elsewhere" / "mine"


def test_a_dataset_that_is_there_is_replaced_only_when_asked(infnet):
    root = imported("infnet", infnet)
    (root / "old.txt").write_text("x")
    with pytest.raises(FileExistsError, match="--force"):
        import_dataset("infnet", infnet)
    assert (root / "old.txt").is_file()
    assert imported("infnet", infnet, force=True) == root
    assert not (root / "old.txt").exists()


def test_a_failed_import_leaves_the_old_one_alone(infnet, monkeypatch):
    root = imported("infnet", infnet)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="importing .* failed: .*No space left"):
        import_dataset("infnet", infnet, force=True, progress=False)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    assert [p.name for p in root.parent.iterdir()] == [root.name]


def test_a_folder_that_is_no_dataset_is_never_replaced(infnet, out):
    (out / "thesis").mkdir(parents=True)
    (out / "thesis" / "chapter1.txt").write_text("x")
    with pytest.raises(FileExistsError, match="no dataset, so it is left alone"):
        import_dataset("infnet", infnet, "thesis", force=True)
    assert (out / "thesis" / "chapter1.txt").is_file()


def test_a_source_is_not_imported_over_itself(infnet):
    (infnet / "manifest.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match="into itself"):
        import_dataset("infnet", infnet / "Dataset", infnet.name, infnet.parent, force=True)
    assert (infnet / "Dataset").is_dir()


def test_two_files_of_one_name_are_not_written_over_each_other(nlm):
    picture(nlm / "copy" / "CXR_png" / "MCUCXR_0001_0.png", seed=1)
    with pytest.raises(DatasetError, match="images/MCUCXR_0001_0.png: more than one file"):
        import_dataset("montgomery-shenzhen", nlm)


def test_a_place_that_cannot_be_written_to(infnet, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PermissionError, match="cannot write to .*--to"):
        import_dataset("infnet", infnet, folder=tmp_path / "file")
