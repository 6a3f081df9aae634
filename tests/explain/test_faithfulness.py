"""The best order beats every other; new weights change the maps that depend on them, and only those."""

from copy import deepcopy
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import nn

from covidlab import explain
from covidlab.explain import faithfulness


class Linear(nn.Module):
    """logits (0, Σ w·x): the probability of class 1 is σ(Σ w·x)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        total = (self.weights * x).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(total), total], 1)


class Pixels(nn.Module):
    """A segmenter of one pixel's own evidence: logits (0, x)."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), self.one * x], 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
    )


def images(n=3, side=16):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


# ---- insertion and deletion

WEIGHTS, X = [[1.0, -2.0], [0.5, 3.0]], torch.tensor([[[[1.0, 1.0], [2.0, 0.5]]]])
EFFECT = np.array([[1.0, -2.0], [1.0001, 1.5]])  # w·x, its tie broken


def test_curves_worked_by_hand():
    found = explain.insertion_deletion(
        Linear(WEIGHTS), X, [EFFECT], target=1, steps=4, baseline="zero"
    )
    np.testing.assert_allclose(found.fractions, [0, 0.25, 0.5, 0.75, 1])
    # 1.5, then 1, then 1, then −2 go from the sum of 1.5, or come to nothing
    deletion, insertion = sigmoid([1.5, 0, -1, -2, 0]), sigmoid([0, 1.5, 2.5, 3.5, 1.5])
    np.testing.assert_allclose(found.deletion, [deletion], atol=1e-6)
    np.testing.assert_allclose(found.insertion, [insertion], atol=1e-6)
    area = (deletion[0] / 2 + deletion[1:4].sum() + deletion[4] / 2) / 4
    np.testing.assert_allclose(found.deletion_area, [area], atol=1e-6)
    # of the other class, the network's choice of −X
    other = explain.insertion_deletion(Linear(WEIGHTS), -X, [EFFECT], steps=4, baseline="zero")
    np.testing.assert_allclose(other.deletion, 1 - sigmoid([[-1.5, 0, 1, 2, 0]]), atol=1e-6)


def test_the_exact_map_has_the_best_areas_of_all_and_reversed_the_worst():
    orders = [np.reshape(p, (2, 2)) for p in permutations(range(4))]
    maps = [EFFECT, -EFFECT, *orders]
    x = X.expand(len(maps), -1, -1, -1)
    found = explain.insertion_deletion(
        Linear(WEIGHTS), x, maps, target=1, steps=4, baseline="zero", batch_size=2
    )
    assert (found.deletion[0] <= found.deletion + 1e-6).all()
    assert (found.deletion[1] >= found.deletion - 1e-6).all()
    assert (found.insertion[0] >= found.insertion - 1e-6).all()
    assert (found.insertion[1] <= found.insertion + 1e-6).all()
    assert found.deletion_area[1] - found.deletion_area[0] > 0.2
    assert len(np.unique(found.deletion_area.round(4))) > 10


def test_coarse_steps_and_maps_at_another_size():
    torch.manual_seed(0)
    weights, x = np.random.default_rng(0).random((8, 8)).astype(np.float32), torch.ones(1, 1, 8, 8)
    blocks = np.array([[4.0, 1.0], [3.0, 2.0]])
    found = explain.insertion_deletion(
        Linear(weights / 8),
        x,
        [np.kron(blocks, np.ones((4, 4)))],
        target=1,
        steps=4,
        baseline="zero",
    )
    a, b, c, d = weights[:4, :4], weights[4:, :4], weights[4:, 4:], weights[:4, 4:]
    sums = np.cumsum([0, a.sum(), b.sum(), c.sum(), d.sum()]) / 8
    np.testing.assert_allclose(found.insertion, [sigmoid(sums)], atol=1e-5)
    np.testing.assert_allclose(found.deletion, [sigmoid(sums[-1] - sums)], atol=1e-5)
    small = explain.insertion_deletion(
        Linear(weights / 8), x, [blocks], target=1, steps=4, baseline="zero"
    )
    np.testing.assert_allclose(small.insertion[0, [0, 4]], found.insertion[0, [0, 4]])
    assert abs(small.insertion_area - found.insertion_area) < 0.02


def test_ties_are_ordered_at_random_by_the_seed():
    weights = np.zeros((16, 16), np.float32)
    weights[:8] = 0.1  # in reading order the upper half would go first
    x, flat = torch.ones(1, 1, 16, 16), [np.zeros((16, 16))]

    def middle(seed):
        curves = explain.insertion_deletion(
            Linear(weights), x, flat, target=1, steps=2, baseline="zero", seed=seed
        )
        return float(np.log(curves.insertion[0, 1] / (1 - curves.insertion[0, 1])))

    assert middle(0) == middle(0) != middle(1)
    drawn = [middle(seed) for seed in range(8)]
    assert 5.5 < np.mean(drawn) < 7.3  # half of 12.8


def test_baselines():
    model, x = Linear(np.full((32, 32), 1e-3, np.float32)), images(1, 32) + 0.5
    heat = np.random.default_rng(0).random((1, 32, 32))

    def ends(baseline):
        found = explain.insertion_deletion(model, x, heat, target=1, steps=3, baseline=baseline)
        np.testing.assert_allclose(found.deletion[0, 0], found.insertion[0, -1], atol=1e-6)
        return np.array([found.deletion[0, -1], found.insertion[0, 0]])

    whole = sigmoid(1e-3 * x.sum())
    np.testing.assert_allclose(ends("zero"), 0.5, atol=1e-6)
    np.testing.assert_allclose(ends("mean"), whole, atol=1e-5)
    np.testing.assert_allclose(ends(x / 2), sigmoid(5e-4 * x.sum()), atol=1e-5)
    np.testing.assert_allclose(ends(("zero", x / 2)), [0.5, sigmoid(5e-4 * x.sum())], atol=1e-5)
    np.testing.assert_allclose(ends(["zero", x / 2]), ends(("zero", x / 2)))
    blurred = sigmoid(1e-3 * faithfulness._blurred(x).sum())
    assert abs(blurred - whole) > 1e-5
    np.testing.assert_allclose(ends("blur"), blurred, atol=1e-6)
    usual = explain.insertion_deletion(model, x, heat, target=1, steps=3)
    named = explain.insertion_deletion(model, x, heat, target=1, steps=3, baseline="zero")
    np.testing.assert_array_equal(usual.insertion, named.insertion)


def test_the_blur_is_the_authors_at_their_size():
    dot = torch.zeros(1, 1, 224, 224)
    dot[..., 100, 90] = 1
    found = faithfulness._blurred(dot)[0, 0].numpy()
    kernel = np.zeros((223, 223))
    kernel[111, 111] = 1
    kernel = gaussian_filter(kernel, 5, truncate=6)[106:117, 106:117]
    np.testing.assert_allclose(found[95:106, 85:96], kernel / kernel.sum(), atol=1e-6)
    assert np.count_nonzero(found) == 121


def test_a_segmenters_probability_is_the_mean_over_the_region():
    x = torch.tensor([[[[2.0, 1.0], [-1.0, -3.0]]]])
    heat, first = [np.array([[4, 3], [2, 1]])], np.array([[[True, False], [True, False]]])
    found = explain.insertion_deletion(Pixels(), x, heat, steps=4, baseline="zero")
    two, one = sigmoid(2), sigmoid(1)
    expected = [(two + one) / 2, (0.5 + one) / 2, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(found.deletion, [expected], atol=1e-6)
    found = explain.insertion_deletion(
        Pixels(), x, heat, target=0, region=first, steps=4, baseline="zero"
    )
    p, q = 1 - sigmoid(2), 1 - sigmoid(-1)
    expected = [(p + q) / 2, (0.5 + q) / 2, (0.5 + q) / 2, 0.5, 0.5]
    np.testing.assert_allclose(found.deletion, [expected], atol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"maps": [EFFECT, EFFECT]}, "maps: 2 for 1 images"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"baseline": "black"}, "baseline='black' must be a tensor or one of zero, mean, blur"),
        ({"baseline": torch.zeros(1, 1, 3, 3)}, "the network's input is"),
        ({"target": 2}, "target=2"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        explain.insertion_deletion(Linear(WEIGHTS), **{"images": X, "maps": [EFFECT]} | change)


# ---- randomised weights


def test_only_what_lies_below_the_layer_changes_a_map_without_gradients():
    """Eigen-CAM of the first convolution does not see the layers after it."""
    table = explain.randomisation_check(net(), images(), "eigencam", layer="2")
    assert list(table["layer"]) == ["", "9", "7", "3", "0"]
    assert list(table["renewed"]) == [0, 1, 2, 3, 4]
    assert list(table["n"]) == [3] * 5
    np.testing.assert_allclose(table["spearman"][:4], 1, atol=1e-6)
    np.testing.assert_allclose(table["ssim"][:4], 1, atol=1e-6)
    assert table["spearman"][4] < 0.9 and table["ssim"][4] < 0.9
    through = explain.randomisation_check(net(), images(), "gradcam", layer="2", target=0)
    assert through["spearman"][1] < 0.99


def test_the_cascade_renews_from_the_last_layer_to_the_first(monkeypatch):
    """At each stage the layers below are the trained ones; the new ones are He's."""
    states, original = [], net()
    with torch.no_grad():
        for value in original[1].state_dict().values():
            value += 3

    def spy(model, x, *args, **options):
        states.append((deepcopy(model.state_dict()), options))
        return np.random.default_rng(len(states)).random((len(x), 16, 16))

    monkeypatch.setattr(faithfulness, "saliency", spy)
    before = deepcopy(original.state_dict())
    explain.randomisation_check(original, images(), "gradcam", target=1, batch_size=2)
    assert len(states) == 5
    stages = [["9"], ["7"], ["3"], ["0", "1"]]
    for stage, (state, options) in enumerate(states):
        assert options == {"target": [1, 1, 1], "layer": "4", "batch_size": 2}
        new = {name for group in stages[:stage] for name in group}
        for key, value in state.items():
            kept = torch.equal(value, before[key])
            assert kept == (key.split(".")[0] not in new), key
    last = states[-1][0]
    for key, inputs in (("3.weight", 4 * 9), ("7.weight", 64)):
        assert abs(last[key].std() / np.sqrt(2 / inputs) - 1) < 0.1
        assert abs(last[key].mean()) < 0.1 * last[key].std()
    assert (
        not last["7.bias"].any() and not last["1.bias"].any() and not last["1.running_mean"].any()
    )
    assert (last["1.weight"] == 1).all() and (last["1.running_var"] == 1).all()
    # what an earlier stage drew stays
    assert torch.equal(states[1][0]["9.weight"], last["9.weight"])


def test_the_network_stays_as_it_is_and_the_seed_decides():
    model, x = net(), images()
    before, mode = deepcopy(model.state_dict()), [m.training for m in model.modules()]
    first = explain.randomisation_check(model, x, steps=2, seed=0)
    assert list(first["renewed"]) == [0, 2, 4]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == mode
    assert not any(m._forward_hooks for m in model.modules())
    global_state = torch.random.get_rng_state()
    assert first.equals(explain.randomisation_check(model, x, steps=2, seed=0))
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert not first.equals(explain.randomisation_check(model, x, steps=2, seed=1))


def test_similarity_is_the_rank_correlation_and_leaves_out_constant_maps():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 2, 16, 16))
    a[1], b[1] = 0, rng.random((16, 16))
    found = faithfulness.similarity(a, b)
    ranks = [rankdata(m.ravel()) for m in (a[0], b[0])]
    assert found["n"] == 1 and found["spearman"] == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert faithfulness.similarity(a[:1], a[:1] ** 3)["spearman"] == pytest.approx(1)
    assert faithfulness.similarity(a[:1], a[:1])["ssim"] == pytest.approx(1)
    assert np.isnan(faithfulness.similarity(a[1:], b[1:])["ssim"])


def test_between_images_compares_each_map_with_the_next_image_s():
    table = explain.randomisation_check(net(), images(), "eigencam", layer="2", steps=1)
    maps = explain.saliency(net(), images(), "eigencam", layer="2")
    ranks = [rankdata(m.ravel()) for m in maps]
    pairs = [np.corrcoef(ranks[i], ranks[j])[0, 1] for i, j in ((0, 1), (1, 2), (2, 0))]
    between = table.attrs["between_images"]
    assert between["spearman"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert between["spearman"] < 0.5 < table["spearman"][0]


def test_a_segmenters_region_stays_the_trained_networks():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.head(self.first(x).relu())

    table = explain.randomisation_check(Segmenter(), images(), "gradcam", layer="first")
    assert list(table["layer"]) == ["", "head", "first"] and table["n"][0] == 3
    with pytest.raises(ValueError, match="steps=0"):
        explain.randomisation_check(Segmenter(), images(), steps=0)
    with pytest.raises(ValueError, match="layer='second' is no layer"):
        explain.randomisation_check(Segmenter(), images(), layer="second")
