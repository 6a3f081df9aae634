"""Features are what the last layer sees; components are those of a known cloud."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from covidlab import explain, training
from covidlab.datasets import from_folder, split
from covidlab.explain.feature_space import continuity, embed, neighbours, trustworthiness


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


def groups(n=90, d=60, apart=8.0, seed=0):
    """Three groups of Gaussian features, and which each row is of."""
    rng = np.random.default_rng(seed)
    of = np.arange(n) % 3
    return (rng.normal(size=(3, d)) * apart)[of] + rng.normal(size=(n, d)), of


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_groups_far_apart_stay_apart_and_the_seed_decides(method):
    found, of = groups()
    points = embed(found, method, seed=1)
    assert points.shape == (90, 2) and points.dtype == np.float32
    for row in range(90):
        near = neighbours(points, row, 5)[0]
        assert (of[near] == of[row]).all()
    np.testing.assert_array_equal(points, embed(found, method, seed=1))


def test_many_groups_without_a_link_are_laid_out_the_same_each_time():
    """umap-learn's spectral start is not: five groups or more are placed by an unstable eigenproblem."""
    rng = np.random.default_rng(0)
    found = np.concatenate(
        [rng.normal(size=60) * 200 + rng.normal(size=(12, 60)) for _ in range(6)]
    )
    first = embed(found, "umap", n_neighbours=6)
    np.testing.assert_array_equal(first, embed(found, "umap", n_neighbours=6))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_four_images_are_enough_and_nothing_is_warned_of(method):
    points = embed(groups(4)[0], method, perplexity=2, n_neighbours=2)
    assert np.isfinite(points).all()


def test_tsne_sees_fifty_principal_components_of_more_features():
    found, _ = groups(55, 80)
    fifty = explain.pca(found, 50)[0]
    points = embed(found, "tsne", perplexity=5)
    np.testing.assert_array_equal(points, embed(fifty, "tsne", perplexity=5))


def test_steps_are_told_and_a_run_can_be_stopped():
    told = []

    def stop_at_the_second(text):
        told.append(text)
        if len(told) == 2:
            raise InterruptedError(text)

    with pytest.raises(InterruptedError):
        embed(groups(20)[0], "tsne", perplexity=5, callback=stop_at_the_second)
    assert told == ["principal components", "t-SNE of 20 images"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "mds"}, "none of pca, tsne, umap"),
        ({"method": "tsne", "perplexity": 20}, "perplexity=20 .* images, 20: try 5"),
        ({"method": "tsne", "perplexity": 0.5}, "1 or more"),
        ({"method": "umap", "n_neighbours": 20}, "n_neighbours=20 .* images, 20: try 5"),
        ({"method": "umap", "n_neighbours": 1}, "2 or more"),
        ({"method": "umap", "n_neighbours": 5, "min_dist": 1.5}, "min_dist=1.5"),
    ],
)
def test_settings_that_do_not_suit_are_refused_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=message):
        embed(groups(20)[0], **change)


def test_features_that_cannot_be_laid_out_are_refused():
    found, _ = groups(20)
    embed(found, "pca", perplexity=100)  # what a method does not use is not looked at
    with pytest.raises(ValueError, match="the same for all 20 images"):
        embed(np.ones((20, 5)))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        embed(found[0])
    with pytest.raises(ValueError, match="3 images are too few"):
        embed(found[:3])
    found[7, 2] = np.nan
    with pytest.raises(ValueError, match="in 1 rows, the first is 7.*diverge"):
        embed(found)


def by_definition(features, points, k):
    """Venna and Kaski's measure with loops, from ranks."""
    n = len(features)

    def ranks(x):
        far = np.linalg.norm(x[:, None] - x, axis=2)
        np.fill_diagonal(far, -1)
        return far.argsort(1).argsort(1)  # the image itself has rank 0

    high, low = ranks(features), ranks(points)
    extra = sum(
        high[i, j] - k for i in range(n) for j in range(n) if 0 < low[i, j] <= k < high[i, j]
    )
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * extra


def test_trustworthiness_is_that_of_its_definition():
    found, _ = groups(40, 6, apart=1.0)
    points = embed(found)
    assert trustworthiness(found, points, k=5) == pytest.approx(by_definition(found, points, 5))
    assert continuity(found, points, k=5) == pytest.approx(by_definition(points, found, 5))
    assert trustworthiness(points, points * 3) == continuity(points, points * 3) == 1


def test_a_fold_is_trusted_less_and_a_tear_breaks_continuity():
    """A line folded onto itself has false neighbours; a line cut in two has lost true ones."""
    line = np.linspace(0, 1, 200)
    straight = np.stack([line, np.zeros(200)], 1)
    folded = np.stack([np.minimum(line, 1.001 - line), np.zeros(200)], 1)
    torn = straight + np.array([[0, 5.0]]) * (np.arange(200) % 2)[:, None]
    assert trustworthiness(straight, folded) < 0.9 < continuity(straight, folded)
    assert continuity(straight, torn) < trustworthiness(straight, torn)


def test_a_map_by_chance_has_a_half_and_a_sample_is_enough():
    rng = np.random.default_rng(0)
    found, chance = groups(1500)[0], rng.normal(size=(1500, 2))
    assert trustworthiness(found, chance) == pytest.approx(0.5, abs=0.02)
    points = embed(found)
    whole, part = (
        trustworthiness(found, points, limit=1500),
        trustworthiness(found, points, limit=500),
    )
    assert part == pytest.approx(whole, abs=0.03) and part != whole
    assert part == trustworthiness(found, points, limit=500)
    with pytest.raises(ValueError, match="k=250 .* half of the 500"):
        trustworthiness(found, points, k=250, limit=500)
    with pytest.raises(ValueError, match="3 points"):
        trustworthiness(found, points[:3])


def test_neighbours_by_hand():
    found = np.array([[0.0, 0], [3, 4], [0, 0], [1, 0], [0, -1]])
    rows, far = neighbours(found, 0, 4)
    assert rows.tolist() == [2, 3, 4, 1] and far.tolist() == [0, 1, 1, 5]  # never itself
    assert neighbours(found, 2, 1)[0].tolist() == [0]
    with pytest.raises(ValueError, match="row=5"):
        neighbours(found, 5)
    with pytest.raises(ValueError, match="k=5 must lie in 1..4"):
        neighbours(found, 0, 5)
