import hashlib
import http.server
import re
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from covidlab import paths
from covidlab.datasets import (
    LAYOUTS,
    Card,
    DatasetError,
    catalogue,
    fetch,
    find,
    from_csv,
    from_folder,
    import_dataset,
    load,
    sources,
)
from covidlab.datasets.sources import Entry

ENTRIES = list(catalogue().items())
PAPERS = {"khan", "alom", "garg", "ahmed", "tahir"}


@pytest.fixture
def no_real_data(monkeypatch, tmp_path):
    monkeypatch.setenv("COVIDLAB_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "data", lambda: tmp_path / "data")
    return tmp_path / "sets"


# The file itself


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[k for k, _ in ENTRIES])
def test_every_entry_is_a_whole_card(name, entry):
    card = entry.card
    assert isinstance(card, Card) and card.id == name
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)+", name)
    for text in (card.title, card.modality, card.task, card.licence, card.citation, card.get):
        assert text and text == text.strip()
    assert entry.size and card.problems and all(card.problems)
    assert len(set(card.classes)) == len(card.classes)
    assert set(entry.papers) <= PAPERS
    assert not entry.layout or entry.layout in LAYOUTS
    prefix = {"CT": "ct-", "X-ray": "cxr-", "X-ray and CT": "cxr-"}
    assert card.synthetic or name.startswith(prefix[card.modality])


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[k for k, _ in ENTRIES])
def test_an_address_comes_with_its_checksum(name, entry):
    assert bool(entry.url) == bool(entry.sha256)
    assert not entry.sha256 or re.fullmatch("[0-9a-f]{64}", entry.sha256)


def test_binary_classes_begin_with_the_negative():
    for name, entry in ENTRIES:
        if len(entry.card.classes) == 2:
            assert entry.card.positive == entry.card.classes[1], name


def test_entries_point_to_entries_and_importers_that_exist():
    for name, entry in ENTRIES:
        for text in (entry.card.get, *entry.card.problems):
            assert set(re.findall(r"(?<!-)\bc(?:t|xr)-[a-z0-9-]+[a-z0-9]", text)) <= set(
                catalogue()
            ), name
            assert set(re.findall("covidlab data import ([a-z0-9-]+)", text)) <= set(LAYOUTS), name


def test_every_paper_has_its_datasets():
    assert PAPERS == {paper for _, entry in ENTRIES for paper in entry.papers}
    assert {e.layout for _, e in ENTRIES} - {""} == set(LAYOUTS)


# Finding and loading


def test_the_first_folder_that_has_it_counts(make_dataset, no_real_data, monkeypatch, tmp_path):
    assert find("sound") is None
    for place in ("cache/datasets", "data", "second", "sets"):
        monkeypatch.setenv("COVIDLAB_DATA", f"{no_real_data}:{tmp_path / 'second'}")
        make_dataset(tmp_path / place / "sound")
        assert find("sound") == tmp_path / place / "sound"


def test_load_by_id_gives_the_card_of_the_catalogue(make_dataset, no_real_data):
    make_dataset(no_real_data / "ct-covidct-ucsd")
    data = load("ct-covidct-ucsd")
    assert data.card is catalogue()["ct-covidct-ucsd"].card
    assert data.classes == ("NonCOVID", "COVID") and len(data) == 12
    assert load("ct-covidct-ucsd", seed=3).fingerprint() == data.fingerprint()
    with pytest.raises(TypeError, match="takes no n_patients"):
        load("ct-covidct-ucsd", n_patients=3)


def test_load_a_set_of_your_own_by_name_folder_or_csv(make_dataset, no_real_data):
    root = make_dataset(no_real_data / "mine").root
    by_name, by_folder, by_csv = load("mine"), load(str(root)), load(str(root / "manifest.csv"))
    assert by_name.card.id == by_folder.card.id == by_csv.card.id == "mine"
    assert by_name.fingerprint() == by_folder.fingerprint() == by_csv.fingerprint()
    assert by_name.card.licence == "your own data"


def test_load_checks_before_anything_is_trained(make_dataset, no_real_data):
    data = make_dataset(no_real_data / "mine")
    data.path(0).unlink()
    with pytest.raises(DatasetError, match="NonCOVID_0_0.png: no such file"):
        load("mine")
    assert len(load("mine", check=False)) == 12


def test_load_says_how_to_get_what_is_not_here(no_real_data):
    with pytest.raises(FileNotFoundError) as error:
        load("ct-covid-ct-md")
    for word in ("figshare", "covidlab data import", str(no_real_data), "COVIDLAB_DATA"):
        assert word in str(error.value)
    with pytest.raises(KeyError, match="no dataset 'ct-nonsense'.*ct-covidct-ucsd"):
        load("ct-nonsense")
    with pytest.raises(ValueError, match="profile='slow'"):
        load("phantom-ct", profile="slow")


# Your own folders


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_from_folder_takes_subfolders_as_classes(tmp_path, write_dicom):
    for name in ("well/1.png", "well/deep/2.jpg", "ill/3.tif", ".hidden/4.png"):
        picture(tmp_path / name)
    write_dicom(tmp_path / "ill" / "IM0001", np.array([[0, 9]], np.int16))
    (tmp_path / "well" / "notes.txt").write_text("not a picture")
    data = from_folder(tmp_path, positive="ill", licence="CC0")
    assert data.frame[["image", "label"]].to_numpy().tolist() == [
        ["ill/3.tif", "ill"],
        ["ill/IM0001", "ill"],
        ["well/1.png", "well"],
        ["well/deep/2.jpg", "well"],
    ]
    assert data.classes == ("ill", "well") and data.card.positive == "ill"
    assert data.card.licence == "CC0" and data.card.id == tmp_path.name
    assert data.check() == []


def test_from_folder_prefers_a_manifest(make_dataset):
    data = make_dataset()
    assert from_folder(data.root).fingerprint() == data.fingerprint()


def test_from_folder_without_classes(tmp_path):
    with pytest.raises(DatasetError, match="is empty"):
        from_folder(tmp_path)
    picture(tmp_path / "1.png")
    with pytest.raises(DatasetError, match="FOLDER/CLASS/IMAGE"):
        from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        from_folder(tmp_path / "gone")


def test_from_csv_with_images_elsewhere(make_dataset, tmp_path):
    data = make_dataset()
    (tmp_path / "tables").mkdir()
    csv = tmp_path / "tables" / "some.csv"
    data.frame[["image", "label"]].iloc[[0, 7]].to_csv(csv, index=False)
    mine = from_csv(csv, root=data.root, positive="COVID")
    assert mine.card.id == "some" and mine.frame["label"].tolist() == ["NonCOVID", "COVID"]
    with pytest.raises(DatasetError, match="no such file"):
        from_csv(csv)


# Downloads


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A function: contents → their address on a server of this test's own."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def serve(name, content):
        (folder / name).write_bytes(content)
        return f"http://127.0.0.1:{server.server_port}/{name}"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


def entry(monkeypatch, url="", sha256="", layout=""):
    made = Entry(Card("toy", get="Ask its makers."), url=url, sha256=sha256, layout=layout)
    monkeypatch.setattr(sources, "catalogue", lambda: {"toy": made})


@pytest.fixture
def archive(tmp_path):
    """A zip of something in Ozturk's layout."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in (
            "Covid-19/c.png",
            "No_findings/00000001_000.png",
            "Pneumonia/00000002_000.png",
        ):
            picture(tmp_path / "src" / name)
            file.write(tmp_path / "src" / name, f"set/{name}")
    return (tmp_path / "a.zip").read_bytes()


def test_a_download_is_verified_unpacked_and_can_be_imported(
    served, archive, monkeypatch, tmp_path
):
    known = hashlib.sha256(archive).hexdigest()
    entry(monkeypatch, served("toy.zip", archive), known, "ozturk")
    path = fetch("toy", tmp_path / "here")
    assert path.is_dir() and (path / "set" / "Covid-19" / "c.png").is_file()
    assert fetch("toy", tmp_path / "here") == path  # from the cache
    with pytest.warns(UserWarning, match="1 images have no patient id"):
        made = import_dataset("ozturk", path, "toy", tmp_path / "sets", progress=False)
    assert len(load(str(made))) == 3


def test_a_download_with_another_checksum_is_refused_and_not_kept(
    served, archive, monkeypatch, tmp_path
):
    entry(monkeypatch, served("toy.zip", archive), "0" * 64)
    with pytest.raises(ValueError, match="hash of downloaded file.*does not match"):
        fetch("toy", tmp_path / "here")
    assert not list((tmp_path / "here").rglob("*.png")) and not list(
        (tmp_path / "here").glob("*.zip")
    )


def test_a_download_that_is_no_archive(served, monkeypatch, tmp_path):
    content = b"image,label\n"
    entry(monkeypatch, served("toy.csv", content), hashlib.sha256(content).hexdigest())
    assert fetch("toy", tmp_path).read_bytes() == content


def test_downloads_go_to_the_user_cache(served, monkeypatch, tmp_path):
    monkeypatch.setenv("COVIDLAB_CACHE", str(tmp_path / "cache"))
    entry(monkeypatch, served("toy.csv", b"x"), hashlib.sha256(b"x").hexdigest())
    assert fetch("toy").parent == tmp_path / "cache" / "downloads" / "toy"


def test_no_address_says_how_to_get_it_by_hand(monkeypatch):
    entry(monkeypatch)
    with pytest.raises(LookupError, match="no direct download. Ask its makers."):
        fetch("toy")
    with pytest.raises(KeyError, match="no dataset 'other' in the catalogue"):
        fetch("other")


@pytest.mark.parametrize(
    "names,positive",
    [
        (("COVID", "Normal"), "COVID"),
        (("COVID", "NonCOVID"), "COVID"),
        (("Covid-19", "no covid"), "Covid-19"),
        (("healthy", "ill"), "ill"),
    ],
)
def test_of_two_classes_of_your_own_the_covid_one_is_positive(tmp_path, names, positive):
    for name in names:
        (tmp_path / name).mkdir()
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / name / "a.png")
    assert from_folder(tmp_path).card.positive == positive
    assert from_folder(tmp_path, positive=names[1]).card.positive == names[1]


def test_a_profile_decides_how_much_is_generated_until_told(monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "_generated", lambda name, options: asked.append(options))
    load("phantom-ct", profile="smoke", seed=3)
    load("phantom-ct", n_patients=5, difficulty=0.9)
    assert asked == [
        {"seed": 3, "n_patients": 16, "slices_per_patient": 2},
        {"seed": 0, "n_patients": 5, "difficulty": 0.9},
    ]


def test_masks_that_the_manifest_does_not_name_are_found(tmp_path, monkeypatch):
    """As in the MedSeg slices, whose ground glass and consolidation lie beside the infection."""
    folder = tmp_path / "ct-medseg-infnet"
    for sub in ("images", "masks/infection", "masks/ggo", "masks/other"):
        (folder / sub).mkdir(parents=True)
    for name in ("0.png", "1.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "images" / name)
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "masks/infection" / name)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "masks/ggo/1.png")
    (folder / "manifest.csv").write_text(
        "image,label,infection_mask\n"
        "images/0.png,COVID,masks/infection/0.png\nimages/1.png,COVID,masks/infection/1.png\n"
    )
    monkeypatch.setenv("COVIDLAB_DATA", str(tmp_path))
    frame = load("ct-medseg-infnet", check=False).frame
    assert list(frame["ground_glass_mask"]) == ["", "masks/ggo/1.png"]
    assert list(frame["infection_mask"]) == ["masks/infection/0.png", "masks/infection/1.png"]
    assert list(frame["other_mask"]) == ["", ""]
