"""Features are what the last layer sees; components are those of a known cloud."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from covidlab import explain, training
from covidlab.datasets import from_folder, split


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("dots"), np.random.default_rng(0)
    for i in range(24):
        folder = root / ("a", "b")[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20)).astype(np.uint8)).save(folder / f"{i}.png")
    with pytest.warns(UserWarning, match="patient"):
        parts = split(from_folder(root), seed=0)
    recipe = training.Recipe(
        name="t", network="CoV-CTNet", options={"widths": (4, 4, 4, 4)}, size=16, batch_size=4
    )
    return training.learner(training.dataloaders(parts, recipe, progress=False)), parts


def test_the_last_layer_on_the_features_gives_the_predictions(trained):
    learn, parts = trained
    found = explain.features(learn, parts.test)
    last = [m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.inference_mode():
        again = last(torch.from_numpy(found)).softmax(1).numpy()
    np.testing.assert_allclose(again, training.predict(learn, parts.test).probabilities, atol=1e-5)


def test_another_layer_is_averaged_over_its_map(trained):
    learn, parts = trained
    maps = []
    handle = learn.model.stages.register_forward_hook(lambda m, i, o: maps.append(o.mean((2, 3))))
    found = explain.features(learn, parts.test, layer=learn.model.stages)
    handle.remove()
    np.testing.assert_allclose(found, torch.cat(maps).numpy(), atol=1e-6)


def test_no_hook_stays_behind_even_when_it_fails(trained):
    learn, parts = trained
    explain.features(learn, parts.test)
    with pytest.raises(ValueError, match="relabel"):
        explain.features(learn, parts.test.relabel({"a": "x", "b": "y"}))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in learn.model.modules())


def test_a_network_without_linear_layer_asks_for_one(trained):
    learn, parts = trained
    convolutions = training.learner(
        learn.dls, model=nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    )
    with pytest.raises(ValueError, match="which `layer`"):
        explain.features(convolutions, parts.test)


def test_pca_finds_the_axes_of_a_known_cloud():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(4000, 2)) * [3.0, 1.0]
    axes = np.linalg.qr(rng.normal(size=(10, 10)))[0][:2]
    points, share = explain.pca(flat @ axes)
    np.testing.assert_allclose(share, [0.9, 0.1], atol=0.02)
    assert abs(np.corrcoef(points[:, 0], flat[:, 0])[0, 1]) > 0.999
    with pytest.raises(ValueError, match="too few"):
        explain.pca(np.zeros((1, 5)))


def test_the_plot_shows_every_image_in_its_group():
    frame = pd.DataFrame({"site": list("yxxyx"), "severity": [0.1, 0.2, 0.9, 0.5, 0.0]})
    points = np.arange(10.0).reshape(5, 2)
    figure = explain.plot_features(points, frame, by="site", share=[0.6, 0.3])
    ax = figure.axes[0]
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_offsets()), points)
    assert "60% of variance" in ax.get_xlabel() and "30%" in ax.get_ylabel()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["x", "y"]
    colours = ax.collections[0].get_facecolors()
    assert (colours[0] == colours[3]).all() and (colours[0] != colours[1]).any()
    scale = explain.plot_features(points, frame, by="severity").axes[0].collections[0]
    assert len(np.unique(scale.get_facecolors(), axis=0)) == 5
    with pytest.raises(KeyError, match="hospital"):
        explain.plot_features(points, frame, by="hospital")
    with pytest.raises(ValueError, match="5 rows"):
        explain.plot_features(points[:3], frame, by="site")
