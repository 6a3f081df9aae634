"""The feature explorer without a browser: every point, colour, picture and neighbour by hand."""

import asyncio
import json
import re
import shutil
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from traitlets import TraitError

import covidlab.widgets
from covidlab import explain, training
from covidlab.datasets import from_folder, split
from covidlab.explain.feature_space import continuity, embed, trustworthiness
from covidlab.predictions import Predictions
from covidlab.widgets import FeatureExplorer
from covidlab.widgets import features as module

HERE = Path(covidlab.widgets.__file__).parent
HOSTILE = "<script>alert('x')</script>.png"


def cloud(n=12, seed=0):
    """Features of three groups far apart, and their manifest; row 1 has a hostile name."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 3
    features = (np.eye(3)[group] * 50 + rng.normal(size=(n, 3))).astype(np.float32)
    frame = pd.DataFrame(
        {
            "image": [f"images/{i}.png" for i in range(n)],
            "label": np.array(["COVID", "NonCOVID", "Normal"])[group],
            "patient_id": [f"P{i // 2:02d}" for i in range(n)],
            "severity": [str(i / 10) for i in range(n)],
        }
    )
    frame.loc[1, "image"] = HOSTILE
    return features, frame


def codes(explorer):
    return np.frombuffer(explorer.colours, np.uint8)


def pictures(shown, kind="images"):
    return np.frombuffer(shown[kind], np.uint8).reshape(-1, shown["side"], shown["side"])


def test_the_points_of_the_page_are_those_of_embed_with_its_trustworthiness():
    features, frame = cloud(40)
    explorer = FeatureExplorer(features, frame)
    points = np.frombuffer(explorer.points, np.float32).reshape(-1, 2)
    np.testing.assert_array_equal(points, embed(features, "pca"))
    assert explorer.shown["trustworthiness"] == trustworthiness(features, points, k=10)
    assert explorer.shown["continuity"] == continuity(features, points, k=10)
    share = explain.pca(features)[1]
    assert [re.search(r"\d+%", a)[0] for a in explorer.axes] == [f"{s:.0%}" for s in share]
    assert explorer.names == list(frame["image"])  # the hostile one too, as it is


def test_classes_have_the_colours_of_the_workbook_and_their_counts():
    features, frame = cloud()
    frame.loc[0, "label"] = ""
    explorer = FeatureExplorer(features, frame)
    entries = explorer.legend["entries"]
    told = [(e["name"], e["colour"], e["n"]) for e in entries]
    assert told == [
        ("COVID", "#d55e00", 3),
        ("NonCOVID", "#0072b2", 4),
        ("Normal", "#009e73", 4),
        ("unknown", "#9a9a9a", 1),
    ]
    named = {e["code"]: e["name"] for e in entries}
    assert [named[c] for c in codes(explorer)] == [v or "unknown" for v in frame["label"]]


def test_numbers_given_as_text_lie_on_a_scale_with_a_unit():
    features, frame = cloud()
    frame.loc[[2, 5], "severity"] = ["", "nan"]
    explorer = FeatureExplorer(features, frame, by="severity")
    assert explorer.legend["kind"] == "scale" and "lungs" in explorer.legend["unit"]
    assert (explorer.legend["low"], explorer.legend["high"]) == (0.0, 1.1)
    expected = np.rint(254 * np.arange(12) / 11)
    expected[[2, 5]] = 255
    np.testing.assert_array_equal(codes(explorer), expected)
    assert explorer.legend["colours"][0] == "#440154"  # viridis
    assert "2 images without a value" in explorer.legend["note"]


def test_many_patients_share_colours_by_hash_and_the_legend_says_so():
    features, frame = cloud(40)
    explorer = FeatureExplorer(features, frame)
    explorer.colour_by("patient_id")
    assert explorer.by == "patient" and explorer.legend["kind"] == "many"
    assert codes(explorer).tolist() == [zlib.crc32(p.encode()) % 8 for p in frame["patient_id"]]
    assert "20 different values in 8 colours" in explorer.legend["note"]


def test_only_columns_that_tell_something_can_be_coloured_by():
    features, frame = cloud(30)
    frame = frame.assign(site="one", note=[f"free text {i}" for i in range(30)], lung_mask="m.png")
    frame["split"] = ["train", "test"] * 15
    explorer = FeatureExplorer(features, frame)
    assert explorer.choices == ["label", "patient", "severity", "split"]
    with pytest.raises(KeyError, match="site.*there are label, patient, severity, split"):
        explorer.colour_by("site")
    with pytest.raises(TraitError, match="none of"):
        explorer.by = "site"


def test_predictions_tell_right_from_wrong():
    features, frame = cloud(6)
    said = np.array([0, 1, 2, 0, 0, 2])
    probabilities = 0.1 + 0.7 * np.eye(3)[said]
    classes = ("COVID", "NonCOVID", "Normal")
    predictions = Predictions(frame, probabilities, classes, "COVID")
    explorer = FeatureExplorer(features, frame, predictions, by="correctness")
    colours = {e["name"]: (e["colour"], e["n"]) for e in explorer.legend["entries"]}
    assert colours == {"right": ("#0072b2", 5), "wrong": ("#d55e00", 1)}
    explorer.select_rows([4])
    card = explorer.gallery_shown["cards"][0]
    assert card["label"] == "NonCOVID" and card["prediction"] == "COVID"
    assert (card["probability"], card["correctness"]) == ("0.80", "wrong")
    assert explorer.selected["prediction"].tolist() == ["COVID"]
    facts = {f["name"]: f["values"] for f in explorer.facts}
    at = np.frombuffer(explorer.fact_codes, np.uint32).reshape(len(facts), 6)[:, 4]
    told = {name: values[code] for (name, values), code in zip(facts.items(), at, strict=True)}
    assert told["prediction"] == "COVID" and told["patient"] == "P02" and told["severity"] == "0.4"
    shuffled = Predictions(frame.iloc[::-1], probabilities[::-1], classes)
    with pytest.raises(ValueError, match="different images in row 0"):
        FeatureExplorer(features, frame, shuffled)


def test_the_selection_goes_on_to_the_notebook_in_its_order():
    features, frame = cloud()
    explorer = FeatureExplorer(features, frame)
    explorer.select_rows([7, 2, 7])
    assert explorer.selection == [7, 2] and explorer.focus == 7
    pd.testing.assert_frame_equal(explorer.selected, frame.iloc[[7, 2]])
    explorer.select_rows(frame["label"] == "Normal")
    assert explorer.selection == [2, 5, 8, 11]
    explorer.select_rows([])
    assert explorer.selected.empty and explorer.gallery_shown["cards"] == [] and not explorer.near
    with pytest.raises(TraitError, match="row 12 is not among the rows 0..11"):
        explorer.select_rows([12])
    with pytest.raises(ValueError, match="booleans of shape"):
        explorer.select_rows([True, False])


def test_pictures_are_read_when_they_are_shown_and_once():
    features, frame = cloud(40)
    read = []

    def image(row):
        read.append(row)
        return np.full((20, 20), row / 40)

    explorer = FeatureExplorer(features, frame, images=image)
    assert not read
    explorer.select_rows(range(30))
    shown = explorer.gallery_shown
    assert [c["row"] for c in shown["cards"]] == list(range(24))
    expected = np.rint(255 * np.arange(24) / 40)
    np.testing.assert_array_equal(
        pictures(shown), np.ones((24, 128, 128)) * expected[:, None, None]
    )
    near = [c["row"] for c in explorer.near["cards"]]
    assert set(read) == {*range(24), *near} and len(read) == len(set(read))
    explorer.page = 1
    assert [c["row"] for c in explorer.gallery_shown["cards"]] == list(range(24, 30))
    explorer.page = 9
    assert explorer.page == 1
    explorer.select_rows([3])
    assert explorer.page == 0 and len(read) == len(set(read))


def test_one_bad_file_does_not_hide_the_others():
    features, frame = cloud()

    def image(row):
        if row == 1:
            raise OSError("1.png is empty")
        return np.ones((8, 8))

    explorer = FeatureExplorer(features, frame, images=image)
    explorer.select_rows([0, 1, 2])
    assert [c["problem"] for c in explorer.gallery_shown["cards"]] == ["", "1.png is empty", ""]
    assert pictures(explorer.gallery_shown).mean((1, 2)).tolist() == [255, 0, 255]


def test_masks_and_maps_lie_on_a_picture_that_is_no_square():
    features, frame = cloud()
    lung = np.zeros((64, 128), bool)
    lung[:, :64] = True
    heat, asked = np.zeros((8, 8)), []
    heat[:, 4:] = 1.0  # of another size: stretched over the picture

    def maps(row):
        asked.append(row)
        return heat

    def masks(row):
        return {"lung_mask": lung, "infection_mask": ~lung} if row else None

    explorer = FeatureExplorer(
        features, frame, images=np.ones((12, 64, 128)), masks=masks, maps=maps
    )
    explorer.select_rows([0, 5])
    shown = explorer.gallery_shown
    bits = np.frombuffer(shown["masks"], np.uint8).reshape(2, 128, 128)
    assert explorer.mask_legend == [["lung", "#56b4e9"], ["infection", "#d55e00"]]
    assert not bits[0].any()
    assert (bits[1][32:96, :64] == 1).all() and (bits[1][32:96, 64:] == 2).all()
    assert not bits[1][:32].any() and (pictures(shown)[1][:32] == 0).all()
    assert not asked and shown["maps"] == b""
    explorer.show_maps = True
    shown = explorer.gallery_shown
    drawn = np.frombuffer(shown["maps"], np.uint8).reshape(2, 128, 128)[0]
    assert (drawn[40:90, :55] == 0).all() and (drawn[40:90, 73:] == 255).all()
    assert not drawn[:32].any()
    assert set(asked) == {c["row"] for c in [*shown["cards"], *explorer.near["cards"]]}


def test_neighbours_are_those_among_all_features_where_the_map_lies():
    """The third axis has the least variance, so the map of two components does not show it."""
    features = np.array(
        [[0, 0, 0], [0, 0, 6], [1, 0, 0], [9, 0, 0], [-9, 0, 0], [0, 8, 0], [0, -8, 6], [7, 7, 0]]
    ).astype(np.float32)
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(8)], "label": list("aabbaabb")})
    explorer = FeatureExplorer(features, frame)
    explorer.focus = 0
    cards = explorer.near["cards"]
    assert [c["row"] for c in cards[:4]] == [0, 2, 1, 5]
    np.testing.assert_allclose([c["distance"] for c in cards[:4]], [0, 1, 6, 8])
    assert explorer.near["k"] == 7 and explorer.near["same_label"] == 3
    assert explorer.near["on_map"] == 7  # of seven others all seven


def test_search_selects_all_images_of_a_patient():
    features, frame = cloud(24)
    frame["patient_id"] = [f"P{i // 4}" for i in range(20)] + ["P11"] * 2 + [""] * 2
    explorer = FeatureExplorer(features, frame)
    assert explorer.search("P1") == [4, 5, 6, 7]  # the one that is called so, not P11
    assert explorer.selection == [4, 5, 6, 7] and explorer.message == "1 patient, 4 images"
    assert explorer.search(" p ") == list(range(22)) and "6 patients, 22" in explorer.message
    assert explorer.search("(") == [] and "'('" in explorer.message and "6" in explorer.message
    assert len(explorer.selection) == 22  # what was selected stays
    assert explorer.search("") == [] and explorer.message == ""
    explorer._hear(None, {"do": "search", "text": "P2"}, [])
    assert explorer.selection == [8, 9, 10, 11]
    unknown = FeatureExplorer(features, frame.drop(columns="patient_id"))
    assert unknown.search("P1") == [] and "no patient_id" in unknown.message


def counted(monkeypatch, **held):
    """Instead of `embed`: numbers by method and settings; those of `held` wait for their event."""
    calls = []

    def stand_in(features, method="pca", seed=0, callback=None, **settings):
        calls.append((method, *settings.values()))
        if method in held:
            assert held[method].wait(20)
        callback("half way")
        value = settings.get("perplexity", settings.get("n_neighbours", 0))
        return np.arange(2 * len(features), dtype=np.float32).reshape(-1, 2) + value

    monkeypatch.setattr(module, "embed", stand_in)
    return calls


def first_point(explorer):
    return np.frombuffer(explorer.points, np.float32)[0]


def join_runs():
    for thread in threading.enumerate():
        if thread.name.startswith("map of"):
            thread.join(20)


def test_a_map_is_made_once_for_its_settings(monkeypatch):
    features, frame = cloud(30)
    calls = counted(monkeypatch)
    explorer = FeatureExplorer(features, frame)
    explorer.method = "tsne"
    join_runs()
    explorer.perplexity = 5.0
    assert (
        calls == [("pca",), ("tsne", 9.0)] and first_point(explorer) == 9
    )  # until it is asked for
    explorer.recompute(wait=True)
    assert first_point(explorer) == 5 and explorer.shown["title"] == "t-SNE, perplexity 5"
    explorer.perplexity = 9.0
    explorer._hear(None, {"do": "recompute"}, [])
    assert first_point(explorer) == 9 and explorer.running == ""
    explorer.method = "pca"
    assert first_point(explorer) == 0 and len(calls) == 3


def test_the_result_of_a_superseded_run_is_dropped(monkeypatch):
    features, frame = cloud(30)
    gate = threading.Event()
    counted(monkeypatch, tsne=gate)
    explorer = FeatureExplorer(features, frame)
    explorer.method = "tsne"
    assert explorer.running.startswith("t-SNE")
    explorer.method = "umap"  # the other still runs
    explorer.recompute(wait=True)
    assert first_point(explorer) == 15 and explorer.running == ""
    gate.set()
    join_runs()
    assert first_point(explorer) == 15 and explorer.shown["title"].startswith("UMAP")
    assert explorer.problem == "" and explorer.running == ""


def test_many_requests_at_once_end_with_the_last(monkeypatch):
    features, frame = cloud(30)
    counted(monkeypatch)
    explorer = FeatureExplorer(features, frame, methods=("tsne", "umap"))
    for perplexity in range(1, 25):
        explorer.perplexity = float(perplexity)
        explorer.recompute()
    join_runs()
    assert first_point(explorer) == 24 and explorer.running == explorer.problem == ""


def test_stop_goes_back_to_the_map_that_is_shown(monkeypatch):
    features, frame = cloud(30)
    gate = threading.Event()
    counted(monkeypatch, umap=gate)
    explorer = FeatureExplorer(features, frame)
    explorer.method = "umap"
    explorer._hear(None, {"do": "stop"}, [])
    assert (explorer.method, explorer.running) == ("pca", "")
    gate.set()
    join_runs()
    assert explorer.shown["title"] == "PCA"


def test_what_goes_wrong_is_on_the_panel_and_the_map_stays():
    features, frame = cloud(30)
    explorer = FeatureExplorer(features, frame)
    before = explorer.points
    explorer.perplexity = 30.0
    explorer.method = "tsne"
    join_runs()
    assert "perplexity=30 must be" in explorer.problem and explorer.points == before
    with pytest.raises(ValueError, match="below the number of images, 30"):
        explorer.recompute(wait=True)
    explorer.perplexity = 5.0
    explorer.recompute(wait=True)
    assert explorer.problem == "" and explorer.points != before
    again = embed(features, "tsne", seed=0, perplexity=5.0)
    np.testing.assert_array_equal(np.frombuffer(explorer.points, np.float32), again.ravel())


def test_in_a_kernel_only_its_own_thread_touches_the_widget(monkeypatch):
    features, frame = cloud(30)
    counted(monkeypatch)
    seen = []

    async def kernel():
        explorer = FeatureExplorer(features, frame)
        explorer.observe(
            lambda change: seen.append(threading.current_thread()), ["points", "running"]
        )
        explorer.method = "umap"
        while explorer.running:
            await asyncio.sleep(0.01)
        return explorer

    explorer = asyncio.run(kernel())
    assert first_point(explorer) == 15
    assert len(seen) > 2 and set(seen) == {threading.main_thread()}


def test_parts_have_shapes_and_their_own_colours():
    features, frame = cloud()
    parts = ["validation"] * 5 + ["test"] * 7
    explorer = FeatureExplorer(features, frame, parts=parts, by="part")
    assert explorer.part_names == ["validation", "test"]
    assert list(explorer.shapes) == [0] * 5 + [1] * 7
    assert {e["name"]: e["n"] for e in explorer.legend["entries"]} == {"validation": 5, "test": 7}


def test_what_does_not_agree_is_said_before_work():
    features, frame = cloud()
    with pytest.raises(ValueError, match="features of 11 images but a frame of 12 rows"):
        FeatureExplorer(features[:11], frame)
    with pytest.raises(ValueError, match="no column 'label'"):
        FeatureExplorer(features, frame.drop(columns="label"))
    with pytest.raises(ValueError, match="images of 3 images but 12 rows"):
        FeatureExplorer(features, frame, images=np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="methods=.*pca, tsne, umap"):
        FeatureExplorer(features, frame, methods=("mds",))
    with pytest.raises(ValueError, match="the same for all 12 images"):
        FeatureExplorer(np.ones((12, 3)), frame)


def test_the_static_figure_shows_what_the_page_shows():
    features, frame = cloud()
    explorer = FeatureExplorer(features, frame, images=np.ones((12, 8, 8)))
    explorer.select_rows([3, 4])
    figure = explorer.static()
    ax, *thumbnails = figure.axes
    offsets = ax.collections[0].get_offsets()
    np.testing.assert_allclose(offsets, np.frombuffer(explorer.points, np.float32).reshape(-1, 2))
    assert "n = 12" in ax.get_title() and "trustworthiness" in ax.get_title()
    assert [a.get_title() for a in thumbnails] == ["1 COVID", "2 NonCOVID"]
    assert [t.get_text() for t in ax.get_legend().get_texts()][0] == "COVID (4)"
    explorer.select_rows([])
    explorer.muted = [0]
    figure = explorer.static()
    assert len(figure.axes[0].collections[0].get_offsets()) == 8
    titles = [a.get_title() for a in figure.axes[1:]]
    assert len(titles) == 8 and not any("COVID" == t.split()[1] for t in titles)
    assert FeatureExplorer(features, frame, by="severity").static().axes[-1].get_ylabel()


def test_a_trained_network_is_shown_as_it_sees(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / ("a", "b")[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24)).astype(np.uint8)).save(folder / f"{i}.png")
    with pytest.warns(UserWarning, match="patient"):
        parts = split(from_folder(tmp_path), seed=0)
    recipe = training.Recipe(
        name="t", network="CoV-CTNet", options={"widths": (4, 4, 4, 4)}, size=16, batch_size=4
    )
    learn = training.learner(training.dataloaders(parts, recipe, progress=False))
    both = {"validation": parts.valid, "test": parts.test}
    explorer = FeatureExplorer.from_learner(learn, both)
    frame = pd.concat([parts.valid.frame, parts.test.frame], ignore_index=True)
    assert explorer.names == list(frame["image"])
    assert list(explorer.shapes) == [0] * len(parts.valid) + [1] * len(parts.test)
    features = np.concatenate([explain.features(learn, d) for d in both.values()])
    points = np.frombuffer(explorer.points, np.float32).reshape(-1, 2)
    np.testing.assert_array_equal(points, embed(features))
    row = len(parts.valid)  # the first of the test part
    said = training.predict(learn, parts.test)
    explorer.select_rows([row])
    assert explorer.selected["prediction"].tolist() == [said.classes[said.predicted[0]]]
    seen, _ = training.loader_for(learn.dls, parts.test).dataset[0]
    expected = Image.fromarray(seen[0].numpy()).resize((128, 128), Image.Resampling.BILINEAR)
    shown = pictures(explorer.gallery_shown)[0]
    np.testing.assert_allclose(shown, np.asarray(expected) * 255, atol=1)
    rows = [row, 0, row + 1]  # of both parts, made at once; the page shows them in this order
    explorer.show_maps = True
    explorer.select_rows(rows)
    one_by_one = FeatureExplorer.from_learner(learn, both, show_maps=True)
    for r, shown in zip(rows, pictures(explorer.gallery_shown, "maps"), strict=True):
        one_by_one.select_rows([r])
        np.testing.assert_allclose(shown, pictures(one_by_one.gallery_shown, "maps")[0], atol=1)
    alone = FeatureExplorer.from_learner(learn, parts.test, maps=None)
    assert alone.part_names == [] and "part" not in alone.choices and not alone.has_maps


def test_the_page_sets_text_never_markup():
    source = module.FeatureExplorer._esm
    source = getattr(source, "_contents", None) or str(source)
    assert "textContent" in source or "createTextNode" in source
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http"):
        assert way not in source, way


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_points_are_found_and_lassoed_as_by_trying_all(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 2)).astype(np.float32)
    asked = rng.normal(size=(200, 2))
    corners = [[-1.0, -1.0], [1.5, -0.5], [0.2, 0.1], [0.5, 1.5], [-0.8, 0.9]]
    source = (HERE / "features.js").read_text("utf-8").split("class FeatureMap")[0]
    script = f"""{source}
    const grid = new Grid(Float32Array.from({json.dumps(points.ravel().tolist())}));
    const seen = (i) => i % 3 !== 0;
    const found = {json.dumps(asked.tolist())}.map(([x, y]) => grid.nearest(x, y, 0.15, seen));
    const within = {json.dumps(points.tolist())}.map(([x, y]) => inside({json.dumps(corners)}, x, y));
    console.log(JSON.stringify([found, within]));
    """
    (tmp_path / "grid.mjs").write_text(script)
    out = subprocess.run(
        ["node", tmp_path / "grid.mjs"], capture_output=True, text=True, check=True
    )
    found, within = json.loads(out.stdout)
    far = np.linalg.norm(asked[:, None] - points, axis=2)
    far[:, ::3] = np.inf
    far[far > 0.15] = np.inf
    nearest = np.where(np.isfinite(far.min(1)), far.argmin(1), -1)
    assert 20 < (nearest >= 0).sum() < 200
    assert found == nearest.tolist()
    from matplotlib.path import Path as Polygon

    assert within == Polygon(corners).contains_points(points).tolist()
