"""Every real dataset that is on this machine: whole, sound, and as many as its makers say."""

import shutil
import zipfile

import pandas as pd
import pytest

from covidlab import paths
from covidlab.datasets import catalogue, has_official, import_dataset, load, official

# Images, patients (None: unknown to its makers), lung masks, infection masks, images of each
# class: as the notes of each set and, for COVID-CT, its paper (arXiv:2003.13865) state them.
KNOWN = {
    "ct-covidct-ucsd": (746, 384, 0, 0, {"NonCOVID": 397, "COVID": 349}),
    "ct-medseg-infnet": (98, None, 0, 98, {"COVID": 98}),
    "ct-covid19seg-ma": (385, 14, 385, 385, {"COVID": 385}),
    "ct-lungmask-imlab": (128, 4, 128, 0, {"lung CT (unspecified)": 128}),
    "ct-md-volumes": (300, 6, 0, 0, {"CAP": 100, "COVID-19": 100, "Normal": 100}),
    "cxr-lungmask-mc-shenzhen": (400, 400, 400, 0, {"normal": 211, "tuberculosis": 189}),
    "cxr-ozturk": (615, 428, 0, 0, {"No_findings": 251, "Pneumonia": 250, "COVID-19": 114}),
    "cxr-hannover": (243, 71, 0, 0, {"COVID-19": 243}),
    "cxr-ieee8023-gb": (
        406,
        253,
        100,
        94,
        {
            "ARDS": 4,
            "Bacterial": 2,
            "COVID-19": 304,
            "COVID-19, ARDS": 12,
            "Chlamydophila": 1,
            "E.Coli": 4,
            "Influenza": 1,
            "Klebsiella": 7,
            "Legionella": 3,
            "Lipoid": 3,
            "Mycoplasma Bacterial Pneumonia": 4,
            "No Finding": 6,
            "Pneumocystis": 13,
            "Pneumonia": 10,
            "SARS": 16,
            "Streptococcus": 12,
            "Varicella": 4,
        },
    ),
}


def here():
    folders = paths.dataset_folders()
    return sorted({m.parent.name for f in folders for m in f.glob("*/manifest.csv")})


def needs(name):
    if name not in here():
        pytest.skip(f"{name} is not on this machine (COVIDLAB_DATA, data/)")
    return load(name, check=False)


@pytest.mark.parametrize("name", [*KNOWN, *(n for n in here() if n not in KNOWN)])
def test_it_is_sound(name):
    data = needs(name)
    assert [str(p) for p in data.check(deep=True)] == []


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_as_many_as_its_makers_say(name):
    data = needs(name)
    images, patients, lungs, infections, classes = KNOWN[name]
    assert len(data) == images
    assert (data.frame["lung_mask"] != "").sum() == lungs
    assert (data.frame["infection_mask"] != "").sum() == infections
    assert data.frame["label"].value_counts().to_dict() == classes
    if patients is None:
        assert (data.frame["patient_id"] == "").all()
    else:
        assert data.frame["patient_id"].nunique() == patients
        assert (data.frame["patient_id"] != "").all()


@pytest.mark.parametrize("name", KNOWN)
def test_its_card_has_its_classes_and_its_size(name):
    data, entry = needs(name), catalogue()[name]
    images, patients, *_, classes = KNOWN[name]
    assert data.card is entry.card and set(entry.card.classes) == set(classes)
    assert set(data.frame["modality"]) == {entry.card.modality}
    assert entry.size.startswith(f"{images} ")
    assert patients is None or f" {patients} patients" in entry.size
    assert data.frame["sha256"].str.fullmatch("[0-9a-f]{64}").all()


def test_the_published_split_of_covid_ct():
    data = needs("ct-covidct-ucsd")
    made = official(data)
    counts = {
        (label, part): ((rows := kept.frame[kept.frame["label"] == label]).shape[0], rows)
        for part, kept in made.parts.items()
        for label in data.classes
    }
    assert {k: n for k, (n, _) in counts.items()} == {  # the paper's table of its split
        ("COVID", "train"): 191,
        ("COVID", "valid"): 60,
        ("COVID", "test"): 98,
        ("NonCOVID", "train"): 234,
        ("NonCOVID", "valid"): 58,
        ("NonCOVID", "test"): 105,
    }
    patients = {k: rows["patient_id"].nunique() for k, (_, rows) in counts.items()}
    assert patients == {
        ("COVID", "train"): 128,
        ("COVID", "valid"): 32,
        ("COVID", "test"): 53,
        ("NonCOVID", "train"): 105,
        ("NonCOVID", "valid"): 24,
        ("NonCOVID", "test"): 42,
    }
    assert made.shared_patients() == []  # by its MetaInfo


def test_the_published_split_of_infnet():
    data = needs("ct-medseg-infnet")
    assert has_official(data)
    assert data.frame["split"].value_counts().to_dict() == {"train": 50, "test": 48}


def test_slices_of_the_volumes_count_from_the_head():
    data = needs("ct-md-volumes")
    slices = pd.read_csv(data.root / "slices.csv")
    assert sorted(slices["image"]) == sorted(data.frame["image"])
    for patient, rows in slices.groupby("patient_id"):
        assert len(rows) == 50, patient
        assert rows["slice_index"].is_monotonic_increasing, patient
        assert rows["slice_location_mm"].is_monotonic_decreasing, patient  # + is to the head
    assert data.counts()["patients"].tolist() == [2, 2, 2]
    labelled = slices.dropna(subset="infected").groupby("label")["patient_id"].nunique()
    assert labelled.to_dict() == {"CAP": 2, "COVID-19": 2}


def test_importing_covid_ct_as_published_gives_the_same_manifest(tmp_path):
    """The set rebuilt into its makers' layout, with its own lists and tables, and imported."""
    data = needs("ct-covidct-ucsd")
    source = tmp_path / "COVID-CT"
    for label in data.classes:
        (source / "Data-split" / label).mkdir(parents=True)
        (source / "Images-processed").mkdir(exist_ok=True)
        with zipfile.ZipFile(source / "Images-processed" / f"CT_{label}.zip", "w") as archive:
            for file in (data.root / "images" / label).iterdir():
                archive.write(file, f"CT_{label}/{file.name}")
        for file in (data.root / "official_split").glob(f"*CT_{label}.txt"):
            shutil.copy(file, source / "Data-split" / label)
        table = data.root / f"metadata_{label.lower()}.csv"
        shutil.copy(table, source / f"{label}-CT-MetaInfo.csv")
    root = import_dataset("ucsd", source, folder=tmp_path / "sets", progress=False)
    columns = ["image", "label", "patient_id", "split", "modality", "sha256"]
    made, known = (
        d.frame[columns].sort_values("image", ignore_index=True)
        for d in (load(str(root), check=False), data)
    )
    assert made.equals(known)
