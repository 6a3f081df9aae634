"""The viewer without a browser: its maps, shares and curves are explain's; the page stays answerable."""

import asyncio
import io
import tempfile
import threading

import numpy as np
import pandas as pd
import pytest
import torch
import traitlets
from PIL import Image

from covidlab import explain, imaging, training
from covidlab.datasets import Card, Dataset, ImageError, Split, phantom
from covidlab.predictions import Predictions
from covidlab.widgets import MapViewer
from covidlab.widgets import maps as module

HOSTILE = "<img src=x onerror=alert(1)>$a_$.png"
TINY = {"lr": 1e-2, "epochs": 1, "batch_size": 4, "size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "ct"
    frame = phantom.generate(
        folder, n_patients=4, seed=0, size=64, slices_per_patient=2, truth=True, workers=1
    )
    return Dataset(frame, folder, Card("phantom", classes=("COVID", "NonCOVID"), positive="COVID"))


def learner(data, recipe):
    parts = Split(*(data.where(rows) for rows in ([0, 1, 2, 3], [4, 5], [6, 7])), how="by hand")
    return training.learner(training.dataloaders(parts, recipe, progress=False))


@pytest.fixture(scope="module")
def learn(data):
    options = {"widths": (4, 4, 8, 8)}
    return learner(data, training.Recipe("tiny", network="CoV-CTNet", options=options, **TINY))


@pytest.fixture(scope="module")
def segmenter(data):
    recipe = training.Recipe(
        "tiny", network="CoV-RASeg", options={"width": 4}, masks=("infection_mask",), **TINY
    )
    return learner(data, recipe)


@pytest.fixture
def viewer(learn, data):
    """Of Grad-CAM and Score-CAM of class 0, whose maps are not empty."""
    viewer = MapViewer(learn, data, layer="stages.1", target=0, channels=2)
    viewer.refresh(wait=True)
    return viewer


def lung(data, row, size=32):
    return imaging.resize_mask(data.mask(row, "lung_mask"), size)


def png(image) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def square(side=40):
    image = np.full((side, side), 30, np.uint8)
    image[5:20, 10:25] = 200
    return image


# ---- maps and numbers


def test_maps_are_those_of_explain(viewer, learn, data):
    for row in (0, 5):
        found = viewer.maps_of(row)
        asked = {"layer": "stages.1", "target": 0, "rows": [row]}
        expected = {
            "gradcam": explain.saliency(learn, data, "gradcam", **asked)[0],
            "scorecam": explain.saliency(learn, data, "scorecam", channels=2, **asked)[0],
        }
        assert list(found) == list(expected)
        for method in expected:
            assert expected[method].any()
            np.testing.assert_allclose(found[method], expected[method], atol=1e-5)


def test_without_wishes_layer_and_class_are_those_of_explain(learn, data):
    viewer = MapViewer(learn, data, methods=["eigencam", "layercam"], row=3)
    found = viewer.maps_of()
    for method in ("eigencam", "layercam"):
        expected = explain.saliency(learn, data, method, rows=[3])[0]
        np.testing.assert_allclose(found[method], expected, atol=1e-5)
    predicted = training.predict(learn, data)
    assert viewer.shown["target"] in ("", data.classes[predicted.predicted[3]])


def test_shares_are_those_of_explain(viewer, data):
    for row in (0, 5):
        maps, mask = viewer.maps_of(row), lung(data, row)
        for method, shares in viewer.shares(row).items():
            found, heat = shares["lung"], maps[method]
            assert found["heat"] == explain.heat_share([heat], [mask])[0]
            assert found["peak"] == explain.pointing_game([heat], [mask])[0]
            even = explain.heat_share([np.ones_like(heat)], [mask])[0]
            assert found["area"] == pytest.approx(even)
            assert 0 < found["area"] < 0.6


def test_the_page_gets_what_python_says(viewer, data, learn):
    card = next(card for card in viewer.shown["maps"] if card["key"] == "scorecam")
    heat = viewer.maps_of()["scorecam"]
    sent = np.frombuffer(card["heat"], np.uint8).reshape(32, 32)
    assert np.abs(sent / 255 - heat).max() <= 0.5 / 255 + 1e-6
    assert card["shares"]["lung"] == viewer.shares()["scorecam"]["lung"]
    assert card["note"] == f"2 of {explain.layers(learn)['stages.1'][0]} channels"
    image = np.frombuffer(viewer.shown["image"], np.uint8).reshape(32, 32)
    assert np.abs(image / 255 - imaging.resize(data.image(0), 32)).max() <= 0.5 / 255 + 1e-6
    assert viewer.shown["label"] == data.frame["label"][0]
    assert viewer.shown["name"] == data.frame["image"][0]


def test_an_outline_runs_along_the_edges_of_pixels():
    mask = np.zeros((8, 10), bool)
    mask[2:5, 3:10] = True  # to the right edge of the image
    (line,) = module._outline(mask)
    across, down = np.array(line).reshape(-1, 2).T
    assert (across.min(), across.max()) == (0.3, 1.0)
    assert (down.min(), down.max()) == (0.25, 0.625)


def test_what_is_known_is_not_made_again(viewer, monkeypatch):
    made = []

    def counted(*args, **options):
        made.append(options["method"])
        return explain.saliency(*args, **options)

    monkeypatch.setattr(module, "saliency", counted)
    viewer.maps_of()
    viewer.refresh(wait=True)
    assert made == []
    viewer.channels = 3
    viewer.refresh(wait=True)
    assert made == ["scorecam"]  # Grad-CAM knows no budget
    viewer.channels = 0
    viewer.maps_of()
    viewer.channels = 10_000  # all of them, too
    viewer.maps_of()
    assert made.count("scorecam") == 2
    viewer.target = 1
    viewer.maps_of(methods=["gradcam"])
    viewer.target = 0
    viewer.maps_of(methods=["gradcam"])
    assert made.count("gradcam") == 1


def test_the_learner_is_left_alone_and_may_go_on_learning(viewer, learn):
    before = viewer.maps_of()["gradcam"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in learn.model.modules())
    assert all(p.requires_grad for p in learn.model.parameters())
    old = {name: value.clone() for name, value in learn.model.state_dict().items()}
    try:
        with torch.no_grad():
            for p in learn.model.parameters():
                p.add_(1.0)
        viewer._known.clear()
        np.testing.assert_array_equal(viewer.maps_of()["gradcam"], before)
    finally:
        learn.model.load_state_dict(old)


def test_a_map_that_cannot_be_made_says_why_and_spares_the_others(viewer, monkeypatch):
    def broken(*args, **options):
        if options["method"] == "layercam":
            raise ValueError("layer: no map here")
        return explain.saliency(*args, **options)

    monkeypatch.setattr(module, "saliency", broken)
    viewer.methods_on = ["gradcam", "layercam"]
    viewer.refresh(wait=True)
    good, bad = viewer.shown["maps"]
    assert good["heat"] and not good["problem"]
    assert not bad["heat"] and bad["problem"] == "layer: no map here"
    assert viewer.running == {}


# ---- which images


def test_only_wrong_and_only_right(learn, data):
    truth = np.array([data.classes.index(label) for label in data.frame["label"]])
    said = truth.copy()
    said[[1, 4, 5]] = 1 - truth[[1, 4, 5]]
    probabilities = np.where(np.arange(2) == said[:, None], 0.75, 0.25)
    predictions = Predictions(data.frame, probabilities, data.classes)
    viewer = MapViewer(learn, data, methods=["gradcam"], predictions=predictions)
    assert viewer.listed == list(range(8))
    viewer.only = "wrong"
    assert viewer.listed == [1, 4, 5] and viewer.row == 1
    assert viewer.shown["right"] is False and "probability 0.750" in viewer.shown["prediction"]
    viewer.only = "right"
    assert viewer.listed == [0, 2, 3, 6, 7] and viewer.row == 0
    viewer.row = 4
    assert viewer.only == "all" and viewer.listed == list(range(8))
    viewer.upload(png(square()), "new.png")
    viewer.only = "wrong"
    assert viewer.listed == [1, 4, 5]  # of an upload no one knows
    with pytest.raises(ValueError, match="not of these images"):
        MapViewer(learn, data, rows=[1, 0], predictions=predictions)


def test_rows_choose_from_the_dataset(learn, data):
    viewer = MapViewer(learn, data, rows=[6, 2], methods=["gradcam"])
    assert [item["name"] for item in viewer.items] == list(data.frame["image"].iloc[[6, 2]])
    expected = explain.saliency(learn, data, "gradcam", rows=[2])[0]
    np.testing.assert_allclose(viewer.maps_of(1)["gradcam"], expected, atol=1e-5)


def test_unknown_names_are_refused(learn, data, viewer):
    for wrong in ({"methods": ["gradcam", "magic"]}, {"layer": "nowhere"}, {"target": "flu"}):
        with pytest.raises((ValueError, traitlets.TraitError), match="magic|nowhere|flu"):
            MapViewer(learn, data, **wrong)
    for name, value in {"row": 99, "target": 2, "methods_on": list(explain.METHODS)[:5]}.items():
        with pytest.raises(traitlets.TraitError):
            setattr(viewer, name, value)
    with pytest.raises(IndexError, match="99"):
        viewer.maps_of(99)


# ---- can it be believed?


def test_curves_and_check_are_those_of_explain(viewer, learn, data):
    viewer.row = 5
    believed = viewer.believe(wait=True)
    maps = viewer.maps_of()
    blank = {module.RANDOM: np.zeros((32, 32), np.float32)}
    for name, heat in (maps | blank).items():
        expected = explain.insertion_deletion(learn, data, [heat], target=0, rows=[5])
        np.testing.assert_allclose(believed.curves[name].deletion, expected.deletion, atol=1e-5)
        np.testing.assert_allclose(believed.curves[name].insertion, expected.insertion, atol=1e-5)
    for method, options in (("gradcam", {}), ("scorecam", {"channels": 2})):
        expected = explain.randomisation_check(
            learn, data, method, "stages.1", 0, rows=[5], steps=module.STAGES, **options
        )
        found = believed.check[believed.check["method"] == method].reset_index(drop=True)
        assert list(found["layer"]) == list(expected["layer"])
        for column in ("renewed", "spearman", "ssim"):
            np.testing.assert_allclose(found[column], expected[column], atol=1e-4)
        np.testing.assert_array_equal(believed.maps[method][0], maps[method])
    assert believed.layers == believed.check["renewed"].max()


def test_other_images_maps_say_how_alike_maps_are_anyway(viewer):
    from scipy.stats import spearmanr

    believed = viewer.believe(wait=True)
    own, rows = viewer.maps_of()["gradcam"], viewer._others(viewer._asked())
    assert len(rows) == module.OTHERS and viewer.row not in rows
    each = [spearmanr(own, viewer.maps_of(r)["gradcam"], axis=None).statistic for r in rows]
    assert believed.between["gradcam"]["spearman"] == pytest.approx(np.mean(each))


def test_the_page_gets_areas_and_stages(viewer):
    assert viewer.belief == {}
    believed = viewer.believe(wait=True)
    told = viewer.belief
    assert [line["key"] for line in told["lines"]] == ["gradcam", "scorecam", module.RANDOM]
    for line in told["lines"]:
        assert line["deletion_area"] == believed.curves[line["key"]].deletion_area[0]
        assert line["insertion_area"] == believed.curves[line["key"]].insertion_area[0]
    assert [stage["renewed"] for stage in told["stages"]][0] == 0
    for row in told["rows"]:
        assert len(row["cells"]) == len(told["stages"]) == module.STAGES + 1
        heats = np.frombuffer(row["heat"], np.uint8).reshape(-1, 32, 32)
        assert np.abs(heats / 255 - believed.maps[row["key"]]).max() <= 0.5 / 255 + 1e-6
    viewer.row = 1
    assert viewer.belief == {}  # it was of another image
    viewer.row = 0
    assert viewer.belief["lines"] == told["lines"]


def test_a_question_that_is_no_longer_asked_is_dropped(viewer, monkeypatch):
    began, go_on, ended = threading.Event(), threading.Event(), []

    def slow(*args, **options):
        began.set()
        assert go_on.wait(30)
        try:
            return explain.insertion_deletion(*args, **options)
        except module._Superseded:
            ended.append("given up")
            raise

    monkeypatch.setattr(module, "insertion_deletion", slow)
    viewer.believe()
    assert began.wait(30)
    viewer.row = 3
    assert viewer.shown["row"] == 3 and viewer.running["text"] == "waiting"
    go_on.set()
    viewer.refresh(wait=True)
    assert ended == ["given up"]  # by its next forward pass
    assert viewer.belief == {} and not viewer._beliefs
    assert all(card["heat"] for card in viewer.shown["maps"]) and viewer.running == {}


def test_what_goes_wrong_is_shown(viewer, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "insertion_deletion", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        viewer.believe(wait=True)
    assert viewer.problem == "out of memory" and viewer.running == {}


def test_in_a_kernel_its_own_thread_sets_the_traits(learn, data):
    async def page():
        viewer = MapViewer(learn, data, methods=["gradcam", "scorecam"])
        heard, beats = set(), 0
        viewer.observe(lambda _: heard.add(threading.get_ident()), ["shown", "running", "belief"])
        viewer._hear(None, {"do": "believe"}, [])
        while viewer.running:
            beats += 1
            await asyncio.sleep(0.001)
        return viewer, heard, beats

    viewer, heard, beats = asyncio.run(page())
    assert heard == {threading.get_ident()} and beats > 1
    assert viewer.belief["lines"]


# ---- uploads


def test_an_upload_is_shown_as_the_network_sees_it(viewer, learn):
    row = viewer.upload(png(square()), HOSTILE)
    viewer.refresh(wait=True)
    image = (square() / np.float32(255)).astype(np.float32)
    assert viewer.row == row == 8 and viewer.shown["name"] == HOSTILE
    assert viewer.items[row]["name"] == HOSTILE and viewer.items[row]["right"] is None
    seen = np.frombuffer(viewer.shown["image"], np.uint8).reshape(32, 32)
    assert np.abs(seen / 255 - imaging.resize(image, 32)).max() <= 0.5 / 255 + 1e-6
    expected = explain.saliency(learn, [image], "gradcam", "stages.1", 0)[0]
    np.testing.assert_allclose(viewer.maps_of()["gradcam"], expected, atol=1e-5)
    assert viewer.shown["outlines"] == {} and viewer.shares()["gradcam"] == {}
    assert viewer.shown["label"] == "" and viewer.shown["right"] is None
    answer = viewer._entries[row].answer
    assert viewer.items[row]["said"] == learn.dls.vocab[int(answer.argmax())]
    assert f"{answer.max():.3f}" in viewer.shown["prediction"]


def test_a_dicom_file_is_known_by_its_content(viewer, tmp_path):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3.4"
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    hu = np.linspace(-1350, 150, 30 * 20).reshape(30, 20)  # the lung window
    file.Rows, file.Columns, file.BitsAllocated, file.BitsStored, file.HighBit = 30, 20, 16, 16, 15
    file.PixelRepresentation, file.SamplesPerPixel = 1, 1
    file.PhotometricInterpretation, file.Modality = "MONOCHROME2", "CT"
    file.RescaleSlope, file.RescaleIntercept = 1, 0
    file.PixelData = hu.round().astype("<i2").tobytes()
    file.save_as(tmp_path / "x", enforce_file_format=True)
    row = viewer.upload((tmp_path / "x").read_bytes(), "IM000001")
    expected = imaging.resize(((hu.round() + 1350) / 1500).astype(np.float32), 32)
    np.testing.assert_allclose(viewer._entries[row].picture(), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"no picture at all", "not an image"),
        (png(square())[:60], "corrupt"),
        (b"II*\0 no tiff", "TIFF|not an image"),
        (bytes(module.LIMIT + 1), "at most 25 MiB"),
        (png(np.zeros((8000, 7000), bool)), "too many"),
    ],
    ids=["empty", "text", "cut", "tiff", "large", "bomb"],
)
@pytest.mark.parametrize("name", ["<b>../../x</b>.png", "y.tif"], ids=["png", "tif"])
def test_a_broken_upload_is_refused_by_its_name(viewer, content, why, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ImageError, match=why if name.endswith("png") else None) as refused:
        viewer.upload(content, name)
    assert str(refused.value).startswith(name) and str(tmp_path) not in str(refused.value)
    assert len(viewer) == 8 and viewer.row == 0
    assert not list(tmp_path.iterdir())


def test_an_upload_comes_in_parts(viewer):
    data, half = png(square()), 50
    parts = [(0, data[:half]), (half, data[half:])]
    for at, part in parts:
        content = {"do": "upload", "name": "own.png", "at": at, "size": len(data)}
        viewer._hear(None, content, [memoryview(part)])
    assert viewer.shown["name"] == "own.png" and viewer.problem == ""
    viewer._hear(None, content, [memoryview(parts[1][1])])
    assert viewer.problem.startswith("own.png: a part") and len(viewer) == 9
    viewer._hear(None, {"do": "upload", "name": "huge.png", "at": 0, "size": 1 << 30}, [])
    assert viewer.problem == "huge.png: 1024.0 MiB; at most 25 MiB are taken"
    viewer._hear(None, {"do": "upload", "name": 7, "at": "x"}, [])
    assert "without name" in viewer.problem


# ---- segmenters, arrays, figures


def test_a_segmenters_maps_are_of_the_pixels_it_predicts(segmenter, data):
    viewer = MapViewer(segmenter, data, methods=["gradcam"], row=2)
    found = viewer.maps_of()["gradcam"]
    probabilities = training.predict(segmenter, data).probabilities[2]
    region = probabilities.argmax(0) == 1
    assert region.any()
    expected = explain.saliency(segmenter, data, "gradcam", rows=[2])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shares = viewer.shares()["gradcam"]
    assert shares["predicted"]["area"] == pytest.approx(region.mean())
    believed = viewer.believe(wait=True)
    expected = explain.insertion_deletion(segmenter, data, [found], rows=[2])
    np.testing.assert_allclose(believed.curves["gradcam"].deletion, expected.deletion, atol=1e-4)
    truth = imaging.resize_mask(data.mask(2), 32).mean()
    assert viewer.shown["prediction"] == (
        f"infection in {region.mean():.1%} of the image (truth {truth:.1%})"
    )


def arrays():
    rng = np.random.default_rng(0)
    images, maps = (
        rng.random((3, 20, 24)),
        {"own": rng.random((3, 5, 6)), "x": rng.random((3, 20, 24))},
    )
    masks = {"lung": [rng.random((20, 24)) > 0.5, None, np.zeros((20, 24), bool)]}
    return images, maps, masks


def test_arrays_need_no_network():
    images, maps, masks = arrays()
    viewer = MapViewer.from_arrays(images, maps, masks, titles=[HOSTILE, "b", "c"])
    assert viewer.shown["name"] == HOSTILE and viewer.running == {}
    for row in range(3):
        for name in maps:
            found = viewer.shares(row)[name]
            if masks["lung"][row] is None:
                assert found == {}
                continue
            heat = maps[name][row].astype(np.float32)
            assert found["lung"]["heat"] == explain.heat_share([heat], [masks["lung"][row]])[0]
            assert found["lung"]["area"] == masks["lung"][row].mean()
    viewer.row = 2
    sent = np.frombuffer(viewer.shown["maps"][0]["heat"], np.uint8).reshape(20, 24)
    expected = imaging.resize(maps["own"][2], (20, 24))
    assert np.abs(sent / 255 - expected).max() <= 0.5 / 255 + 1e-6
    for refused in (viewer.believe, lambda: viewer.upload(b"", "x.png")):
        with pytest.raises(ValueError, match="network"):
            refused()


def test_arrays_that_do_not_fit_are_refused():
    images, maps, masks = arrays()
    for wrong, why in (
        ({"images": images[:2]}, "own: 3 for 2 images"),
        ({"images": images * 300}, r"images\[0\] must be"),
        ({"maps": {"own": maps["own"] - 1}}, "own.* must be"),
        ({"maps": {}}, "at least one"),
        ({"masks": {"lung": [images[0]] * 3}}, "lung.*bool"),
        ({"titles": ["a"]}, "titles: 1 for 3"),
    ):
        with pytest.raises(ValueError, match=why):
            MapViewer.from_arrays(**{"images": images, "maps": maps, "masks": masks, **wrong})


def test_the_figure_shows_what_the_widget_shows(viewer, data):
    viewer.upload(png(square()), HOSTILE)
    viewer.static().canvas.draw()  # dollars are no mathematics
    viewer.row = 0
    viewer.believe(wait=True)
    figure = viewer.static()
    shares = viewer.shares()["scorecam"]["lung"]
    titles = [ax.get_title() for ax in figure.axes]
    assert any("Score-CAM 2 of" in title for title in titles)
    assert any(f"lung: heat {shares['heat']:.0%}, area {shares['area']:.0%}" in t for t in titles)
    assert isinstance(viewer.believe(wait=True).check, pd.DataFrame)
    labels = [line.get_label() for line in figure.axes[-1].get_lines()]
    area = viewer.belief["lines"][0]["insertion_area"]
    assert labels[0] == f"Grad-CAM, area {area:.3f}" and len(labels) == 3
