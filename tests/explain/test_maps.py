"""Maps by hand, against the package and against plain loops; and the network is left as it was."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, SemanticSegmentationTarget
from torch import nn
from torch.nn.functional import interpolate

from covidlab import explain, imaging, models, training
from covidlab.datasets import from_folder, split
from covidlab.training.loaders import loader_for

PACKAGE = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "eigencam": EigenCAM,
    "scorecam": ScoreCAM,
    "ablationcam": AblationCAM,
}
NARROW = {
    "CoV-CTNet": {"widths": (4, 4, 4, 4)},
    "VGG16": {"mlp_ratio": 1 / 64},
    "VGG19": {"mlp_ratio": 1 / 64},
    "IRRCNN": {"width": 8},
    "HRNet": {"backbone": "hrnet_w18_small.ms_in1k"},
}
NARROW_SEGMENTERS = {
    "CoV-RASeg": {"width": 4},
    "SegNet": {"width": 4},
    "U-SegNet": {"width": 4},
    "VGG16": {"width": 4},
    "VGG19": {"width": 4},
    "FCN-8": {"width": 4, "fc": 64},
    "U-Net": {"decoder_channels": (32, 16, 8, 8, 8)},
    "NABLA-3": {"widths": (2, 4, 4, 8, 8, 8)},
    "U-Net (Ahmed)": {"width": 4},
}
RAW = {"relu": False, "normalise": "none"}


def small(inplace=False, seed=0):
    """Two convolutions, of which the second halves the map; global average; three classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


class Segmenter(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        torch.manual_seed(1)
        self.down = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU())
        self.up = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Conv2d(5, classes, 1)

    def forward(self, x):
        return self.head(interpolate(self.up(self.down(x)), x.shape[-2:]))


def images(n=3, side=16, seed=0):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def hooks(net):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in net.modules() for kind in kinds)


def package(method, net, x, target, layer):
    with PACKAGE[method](net.eval(), [layer]) as cam:
        return cam(x.clone(), [ClassifierOutputTarget(target)] * len(x))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("dots"), np.random.default_rng(0)
    for i in range(24):
        folder = root / ("a", "b")[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24)).astype(np.uint8)).save(folder / f"{i}.png")
    with pytest.warns(UserWarning, match="patient"):
        parts = split(from_folder(root), seed=0)
    recipe = training.Recipe(
        name="t",
        network="CoV-CTNet",
        options=NARROW["CoV-CTNet"],
        size=32,
        enhance="idwt",
        fit="pad",
        batch_size=4,
    )
    return training.learner(training.dataloaders(parts, recipe, progress=False)), parts.test


# ---- the formulas


def test_gradcam_worked_by_hand():
    """A1 = X and A2 = 5 − X; class 0 is 2·mean(A1) − mean(A2), class 1 3·mean(A2) − mean(A1)."""
    convolution, linear = nn.Conv2d(1, 2, 1), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        convolution.bias.copy_(torch.tensor([0.0, 5.0]))
        linear.weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 3.0]]))
    net = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # weights of the maps: the mean gradients 2/4 and −1/4
    raw = explain.saliency(net, x, target=0, **RAW)
    np.testing.assert_allclose(raw, [[[-0.5, 0.25], [1.0, 1.75]]], atol=1e-6)
    positive = explain.saliency(net, x, target=0, normalise="none")
    np.testing.assert_allclose(positive, [[[0, 0.25], [1.0, 1.75]]], atol=1e-6)
    found = explain.saliency(net, x, target=0)
    np.testing.assert_allclose(found, [[[0, 1 / 7], [4 / 7, 1]]], atol=1e-6)
    # −1/4 and 3/4 for class 1; the network's choice is class 0: 2·2.5 − 2.5 < 3·2.5 − 2.5
    other = explain.saliency(net, x, **RAW)
    np.testing.assert_allclose(other, [[[2.75, 1.75], [0.75, -0.25]]], atol=1e-6)
    # minmax sets the lowest to zero, max keeps zero where there is no evidence
    above = explain.saliency(net, x + 1, target=0)  # raw 0.25 … 2.5
    np.testing.assert_allclose(above, [[[0, 1 / 3], [2 / 3, 1]]], atol=1e-6)
    above = explain.saliency(net, x + 1, target=0, normalise="max")
    np.testing.assert_allclose(above, [[[0.1, 0.4], [0.7, 1]]], atol=1e-6)


def test_gradcam_of_an_averaging_network_is_cam():
    """Zhou et al. 2016: after global averaging the map is the class's weighted sum of the maps."""
    net, x = small(), images()
    with torch.inference_mode():
        features = net[:4](x)
    for target in range(3):
        cam = torch.einsum("k,nkhw->nhw", net[-1].weight[target].detach(), features) / 64
        up = interpolate(cam.relu()[:, None], (16, 16), mode="bilinear")[:, 0]
        found = explain.saliency(net, x, target=target, normalise="none")
        np.testing.assert_allclose(found, up.numpy(), atol=1e-6)
        # on such a network HiRes-CAM is the same map
        hires = explain.saliency(net, x, "hirescam", target=target, normalise="none")
        np.testing.assert_allclose(hires, found, atol=1e-6)


@pytest.mark.parametrize("method", [m for m in PACKAGE if m not in ("scorecam", "eigencam")])
def test_methods_equal_the_package(method):
    net, x = small(), images() * 5
    with torch.no_grad():
        net[6].bias += 10  # its Ablation-CAM divides by the score: positive, so that nothing flips
    for target in (0, 2):
        theirs = package(method, net, x, target, net[3])
        assert theirs.max() > 0.9
        found = explain.saliency(net, x, method, "3", target)
        np.testing.assert_allclose(found, theirs, atol=2e-4)


def test_eigencam_equals_the_package_but_for_the_sign():
    net, x = small(), images(6)
    found = explain.saliency(net, x, "eigencam", "3", **RAW)
    with EigenCAM(net, [net[3]]) as cam:
        cam(x, [ClassifierOutputTarget(0)] * 6)
        features = cam.activations_and_grads.activations[0].numpy()
        raw = cam.get_cam_image(x, net[3], None, features, None, False)
    signs = np.where(-raw.min((1, 2)) > raw.max((1, 2)), -1, 1)
    assert len(set(signs)) == 2  # the package shows some maps upside down
    raw = torch.tensor(raw * signs[:, None, None])[:, None]
    raw = interpolate(raw, (16, 16), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(found, raw, atol=1e-4)


@pytest.mark.parametrize("layer", ["1", "3"])
def test_scorecam_equals_the_package(layer):
    net, x = small(), images() * 3
    for target in (0, 2):
        theirs = package("scorecam", net, x, target, net[int(layer)])
        found = explain.saliency(net, x, "scorecam", layer, target, batch_size=4)
        np.testing.assert_allclose(found, theirs, atol=1e-4)


def test_dead_channels_are_asked_about_once():
    net, x = small(), images() * 3
    with torch.no_grad():
        net[2].bias[[0, 3, 4]] = -100.0  # nothing passes the ReLU after it
    asked = []
    net[0].register_forward_hook(lambda m, i, o: asked.append(len(o)))
    theirs = package("scorecam", net, x, 2, net[3])
    before = sum(asked)
    found = explain.saliency(net, x, "scorecam", "3", 2)
    np.testing.assert_allclose(found, theirs, atol=1e-4)
    # each image: once to look, three live channels, all dead ones together
    assert sum(asked) - before == len(x) * (1 + 3 + 1)
    found = explain.saliency(net, x, "scorecam", "3", 2, weighting="increase", **RAW)
    np.testing.assert_allclose(found, by_loop(net, x, 2, "zero", 6), atol=1e-5)


def by_loop(net, x, target, baseline, keep):
    """Score-CAM with raw differences, one map after the other (Tahir 2021, equations 5 to 7)."""
    out = []
    with torch.no_grad():
        for one in x:
            features = net[:4](one[None])[0]
            reference = net(one[None] if baseline == "image" else torch.zeros_like(one)[None])
            total = torch.zeros(features.shape[1:])
            energies = [(float((f**2).sum()), k) for k, f in enumerate(features)]
            for _, k in sorted(energies, reverse=True)[:keep]:
                mask = nn.UpsamplingBilinear2d(one.shape[-2:])(features[k][None, None])[0, 0]
                if mask.max() > mask.min():
                    mask = (mask - mask.min()) / (mask.max() - mask.min())
                score = net((one * mask)[None])
                total += (score - reference)[0, target] * features[k]
            out.append(interpolate(total[None, None], one.shape[-2:], mode="bilinear")[0, 0])
    return torch.stack(out).numpy()


@pytest.mark.parametrize("keep", [6, 2])
@pytest.mark.parametrize("weighting, baseline", [("difference", "image"), ("increase", "zero")])
def test_scorecam_by_difference_equals_a_plain_loop(weighting, baseline, keep):
    net, x = small(), images() * 3
    budget = {"channels": None if keep == 6 else keep, "weighting": weighting, "batch_size": 4}
    found = explain.saliency(net, x, "scorecam", "3", 1, **budget, **RAW)
    expected = by_loop(net, x, 1, baseline, keep)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equation_6_leaves_nothing_where_every_mask_costs_evidence():
    """Positive weights on a positive image: a masked input never scores more than the whole."""
    net, x = small(), images()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    by = {w: explain.saliency(net, x, "scorecam", weighting=w) for w in ("difference", "increase")}
    assert not by["difference"].any()
    assert (by["increase"].max((1, 2)) == 1).all()


def test_ablationcam_weighs_by_the_drop_without_a_map():
    net, x = small(), images()
    with torch.no_grad():
        features, whole = net[:4](x), net(x)[:, 2]
        expected = torch.zeros(3, 8, 8)
        for k in range(6):
            without = features.clone()
            without[:, k] = 0
            expected += (whole - net[4:](without)[:, 2])[:, None, None] * features[:, k]
    expected = interpolate(expected[:, None], (16, 16), mode="bilinear")[:, 0].numpy()
    found = explain.saliency(net, x, "ablationcam", "3", 2, batch_size=4, **RAW)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", explain.METHODS)
def test_a_layer_before_an_inplace_one_and_batches_change_nothing(method):
    x = images(5)
    usual = explain.saliency(small(), x, method, "2", batch_size=5, **RAW)
    inplace = explain.saliency(small(inplace=True), x, method, "2", batch_size=2, **RAW)
    np.testing.assert_allclose(inplace, usual, atol=1e-6)
    assert np.abs(usual).max() > 0


@pytest.mark.parametrize("method", explain.METHODS)
def test_bfloat16_networks(method):
    net, x = small(), images(2) * 3
    exact = explain.saliency(net, x, method, "3", 0)
    half = explain.saliency(net.to(torch.bfloat16), x, method, "3", 0)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, exact, atol=0.1)


# ---- segmenters


def test_a_segmenters_target_is_the_packages():
    net, x = Segmenter(), images(3)
    masks = np.zeros((3, 16, 16), bool)
    masks[:, 4:9, 2:11] = True
    for category, given in ((0, masks), (1, masks), (1, None)):
        with torch.no_grad():
            chosen = (net(x).argmax(1) == category).numpy() if given is None else given
        targets = [SemanticSegmentationTarget(category, m.astype(np.float32)) for m in chosen]
        with GradCAM(net, [net.down]) as cam:
            theirs = cam(x.clone(), targets)
        target = None if given is None else category
        found = explain.saliency(net, x, layer="down", target=target, region=given)
        np.testing.assert_allclose(found, theirs, atol=2e-4)
        with ScoreCAM(net, [net.down]) as cam:
            theirs = cam(x.clone(), targets)
        found = explain.saliency(net, x, "scorecam", "down", target, region=given)
        np.testing.assert_allclose(found, theirs, atol=2e-4)


def test_a_region_at_another_size_and_an_empty_one():
    net, x = Segmenter(), images(1)
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:12] = True
    large = [np.kron(mask, np.ones((3, 3), bool))]
    given = explain.saliency(net, x, target=0, region=[mask])
    np.testing.assert_array_equal(explain.saliency(net, x, target=0, region=large), given)
    empty = explain.saliency(net, x, target=0, region=[mask & False])
    assert not empty.any() and given.any()


# ---- which layer


def test_layers_of_the_papers_network():
    net = models.create("CoV-CTNet", widths=(4, 6, 8, 10))
    found = explain.layers(net, images(2, 64))
    assert list(found)[-1] == "stages" and found["stages"] == (10, 4, 4)
    assert found["stem"] == (4, 64, 64) and found["stages.0"] == (4, 32, 32)
    assert "stages.3.2" not in found  # the same tensor as "stages"
    sides = [h for _, h, _ in found.values()]
    assert sides == sorted(sides, reverse=True)
    assert hooks(net) == 0 and net.training


def test_the_default_layer_and_its_other_names():
    torch.manual_seed(0)
    net, x = models.create("ResNet-18"), images(2, 64)
    default = explain.saliency(net, x, target=0, **RAW)
    assert default.any()
    for layer in ("layer4", "layer4.1", net.layer4[-1].act2):
        again = explain.saliency(net, x, layer=layer, target=0, **RAW)
        np.testing.assert_array_equal(again, default)
    # at 32 pixels the last stage is 1×1: the one before it, not a branch inside
    early = explain.saliency(net, images(2, 32), target=0)
    same = explain.saliency(net, images(2, 32), layer="layer3", target=0)
    np.testing.assert_array_equal(early, same)


EXPECTED = {
    "CoV-CTNet": "stages",
    "VGG16": "features",
    "VGG19": "features",
    "GoogLeNet": "inception5b",
    "Inception-V3": "Mixed_6e",
    "ResNet-18": "layer4",
    "ResNet-50": "layer4",
    "DenseNet-201": "features",
    "ShuffleNet": "conv5",
    "Xception": "act4",
    "IRRCNN": "features.16",
    "HRNet": "backbone.final_layer",
    "ResNet-152": "layer4",
    "DenseNet-121": "features",
    "EfficientNet-B4": "bn2",
    "SqueezeNet": "classifier.2",
    "DenseNet-161": "features",
    "Inception-V4": "features.17",
}
EXPECTED_SEGMENTERS = {
    "U-Net (Ahmed)": "encoder.4",
    "NABLA-3": "encoder.5",
    "CoV-RASeg": "decoders.0",
    "SegNet": "decoder.0",
    "U-SegNet": "below",
    "VGG16": "decoder.0",
    "VGG19": "decoder.0",
    "FCN-8": "dense",
    "U-Net": "encoder.layer4",
    "deeplabv3_1": "encoder.layer4",
    "deeplabv3_2": "encoder.layer4",
    "U-Net++ (ResNet-18)": "encoder.layer4",
    "FPN (DenseNet-121)": "encoder.features.norm5",
}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_every_network_has_a_map(name):
    torch.manual_seed(0)
    net, side = models.create(name, **NARROW.get(name, {})), max(64, models.smallest(name))
    assert_sound_map(net, images(2, side), EXPECTED.get(name))


@pytest.mark.parametrize("name", EXPECTED_SEGMENTERS)
def test_every_segmenter_has_a_map(name):
    net = models.create_segmenter(name, **NARROW_SEGMENTERS.get(name, {}))
    assert_sound_map(
        net, images(2, 64), EXPECTED_SEGMENTERS.get(name), region=np.ones((2, 64, 64), bool)
    )


def assert_sound_map(net, x, layer, **options):
    before = [(m.training, hooks(m)) for m in net.modules()]
    raw = explain.saliency(net, x, **options, **RAW)
    assert raw.shape == (2, *x.shape[-2:]) and raw.dtype == np.float32
    assert raw[0].std() > 0 and not np.array_equal(raw[0], raw[1])
    found = explain.saliency(net, x, layer=layer, **options, relu=False)
    assert found.min() == 0 and found.max() == 1
    low, high = raw.min((1, 2), keepdims=True), raw.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found, (raw - low) / (high - low), atol=1e-4)
    assert [(m.training, hooks(m)) for m in net.modules()] == before and hooks(net) == 0
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


# ---- the network is left as it was


class Failing(nn.Module):
    """Fails the `after`-th time it is called, with what the package's `with` would swallow."""

    def __init__(self, after):
        super().__init__()
        self.after, self.calls = after, 0

    def forward(self, x):
        self.calls += 1
        if self.calls > self.after:
            raise IndexError("the network broke")
        return x


SLOW = ("scorecam", "ablationcam")


@pytest.mark.parametrize(
    "method, after",
    [(m, after) for m in explain.METHODS for after in (0, np.inf)] + [(m, 2) for m in SLOW],
)
def test_all_is_as_it_was_also_after_an_error(method, after):
    net = small()
    net[5] = nn.Sequential(nn.Flatten(), Failing(after))
    net[0].eval()
    net[2].weight.requires_grad_(False)
    net[6].weight.grad = kept = torch.ones(3, 6)
    modules, mode = list(net.modules()), [m.training for m in net.modules()]
    learning = [p.requires_grad for p in net.parameters()]
    weights = [p.detach().clone() for p in net.parameters()]
    if after == np.inf:
        explain.saliency(net, images(2), method, "2", 0)
    else:
        # the error is kept: its traceback holds the package's object, which lets go when collected
        with pytest.raises(IndexError, match="the network broke") as kept_error:
            explain.saliency(net, images(2), method, "2", 0, batch_size=2)
        assert net[5][1].calls == after + 1 and kept_error.tb is not None
    assert hooks(net) == 0
    assert list(net.modules()) == modules
    assert [m.training for m in net.modules()] == mode
    assert [p.requires_grad for p in net.parameters()] == learning
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), weights, strict=True))
    assert net[6].weight.grad is kept and bool((kept == 1).all())
    assert all(p.grad is None for p in net[:6].parameters())


# ---- a learner


def test_a_learner_feeds_its_network_as_in_prediction(trained):
    learn, test = trained
    fed = torch.cat([x for x, _ in loader_for(learn.dls, test)]).as_subclass(torch.Tensor)
    expected = explain.saliency(learn.model, fed, target=1)
    assert expected.any()
    learn.model.train()
    found = explain.saliency(learn, test, target="b", batch_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape == (len(test), 32, 32) and learn.model.training
    rows = [2, 0]
    some = explain.saliency(learn, test, target=["b", 1], rows=rows)
    np.testing.assert_allclose(some, expected[rows], atol=1e-5)
    arrays = [test.image(i) for i in range(len(test))]
    again = explain.saliency(learn, arrays, target=1)
    np.testing.assert_allclose(again, expected, atol=1e-4)
    said = training.predict(learn, test).probabilities.argmax(1)
    chosen = explain.saliency(learn, test)
    np.testing.assert_allclose(chosen, explain.saliency(learn, test, target=said), atol=1e-5)
    assert explain.layers(learn) == explain.layers(learn.model, fed)


def test_progress_is_shown_when_asked_for(capsys):
    explain.saliency(small(), images(3), "scorecam", batch_size=1)
    assert capsys.readouterr().err == ""
    explain.saliency(small(), images(3), "scorecam", batch_size=1, progress=True)
    told = capsys.readouterr().err
    assert "Score-CAM" in told and "3/3" in told and "channels" in told


# ---- what is wrong is said


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "gradcam+"}, "method='gradcam\\+' must be one of gradcam, "),
        ({"weighting": "raw"}, "weighting='raw' must be"),
        ({"normalise": None}, "normalise=None must be"),
        ({"channels": 0}, "channels=0 must be at least 1"),
        ({"layer": "9"}, "layer='9' is no layer .* last ones: 0, 1, 2, 3"),
        ({"layer": nn.ReLU()}, "not part of this network"),
        ({"layer": "6"}, "layer: it gives \\(3, 3\\), no maps"),
        ({"layer": "4"}, "layer: it gives \\(3, 6, 1, 1\\)"),
        ({"target": 3}, "target=3: the network has the classes 0 … 2"),
        ({"target": "covid"}, "'covid' is none of"),
        ({"target": [0, 1]}, "target: 2 for 3 images"),
        ({"region": np.ones((3, 16, 16))}, "only a segmenter"),
        ({"images": torch.zeros(3, 16, 16)}, r"\(N, C, H, W\), got \(3, 16, 16\)"),
        ({"images": torch.full((1, 1, 16, 16), torch.nan)}, "not finite"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        explain.saliency(small(), **{"images": images(), "method": "gradcam"} | change)


def test_images_without_a_learner(trained):
    with pytest.raises(TypeError, match="needs a Learner"):
        explain.saliency(small(), trained[1])
    with pytest.raises(TypeError, match="tensor"):
        explain.layers(small())
    with pytest.raises(ValueError, match=r"images\[1\] must be \(H, W\) in \[0, 1\]"):
        explain.saliency(trained[0], [np.zeros((8, 8)), np.full((8, 8), 2.0)])


def test_a_layer_beside_the_score_is_named():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.beside, self.idle = (nn.Conv2d(1, 2, 1) for _ in range(3))

        def forward(self, x):
            self.beside(x)
            return self.used(x).mean((2, 3))

    for layer in ("beside", "idle"):
        with pytest.raises(ValueError, match="does not depend on it"):
            explain.saliency(Beside(), images(), layer=layer)


# ---- numbers on maps


def test_heat_share_by_hand():
    heat = np.array([[1.0, 2.0], [3.0, 4.0]])
    left, none = np.array([[True, False], [True, False]]), np.zeros((2, 2), bool)
    found = explain.heat_share(
        [heat, heat, heat, heat * 0, heat - 3, heat], [left, none, None, left, left, ~none]
    )
    np.testing.assert_allclose(found, [0.4, 0, np.nan, np.nan, 0, 1])


def test_heat_share_across_sizes():
    heat, mask = np.zeros((4, 4)), np.zeros((64, 64), bool)
    heat[0, 0], mask[:32, :32] = 1, True
    # a corner cell up-sampled bilinearly stays within its quarter of the image
    np.testing.assert_allclose(explain.heat_share([heat], [mask]), [1])
    even = np.ones((7, 5))
    mask = np.zeros((50, 70), bool)
    mask[:10] = True
    np.testing.assert_allclose(explain.heat_share([even], [mask]), [0.2], atol=1e-6)
    smooth = np.add.outer(np.arange(64.0), np.arange(64.0))
    coarse = imaging.resize(smooth, 16)
    mask = np.zeros((64, 64), bool)
    mask[20:50, 8:40] = True
    exact = explain.heat_share([smooth], [mask])
    np.testing.assert_allclose(explain.heat_share([coarse], [mask]), exact, rtol=0.01)


def test_pointing_game_by_hand():
    heat = np.array([[1.0, 4.0], [4.0, 0.0]])
    row, column = np.array([[True, True], [False, False]]), np.array([[False, True]] * 2)
    one = np.array([[0.0, 0.0], [0.0, 1.0]])
    found = explain.pointing_game(
        [heat, one, one, one, np.ones((2, 2)), one], [row, row, column, None, row, row & False]
    )
    np.testing.assert_allclose(found, [0.5, 0, 1, np.nan, np.nan, 0])
    with pytest.raises(ValueError, match="2 maps but 1 masks"):
        explain.pointing_game([heat, heat], [row])


# ---- pictures


def test_overlay_keeps_the_grey_where_there_is_no_heat():
    image, heat = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), np.zeros((3, 4))
    np.testing.assert_allclose(explain.overlay(image, heat), np.repeat(image[..., None], 3, 2))
    heat[1, 2] = 1
    found = explain.overlay(image, heat, opacity=0.6)
    hottest = np.array([0.987053, 0.991438, 0.749504])  # the end of magma
    np.testing.assert_allclose(found[1, 2], 0.4 * image[1, 2] + 0.6 * hottest, atol=1e-4)
    assert found.dtype == np.float32 and found.shape == (3, 4, 3) and found.max() <= 1
    assert explain.overlay(np.zeros((9, 12)), heat).shape == (9, 12, 3)
    with pytest.raises(ValueError, match=r"\(H, W\) in \[0, 1\]"):
        explain.overlay(image * 255, heat)


def test_show_maps_says_what_is_seen():
    pictures, lung = np.full((2, 8, 8), 0.5), np.zeros((8, 8), bool)
    lung[2:6, 1:4] = True
    inside, even = np.where(lung, 1.0, 0), np.ones((8, 8))
    shown = {"Grad-CAM": [inside, inside * 0], "even": np.stack([even, even])}
    figure = explain.show_maps(pictures, shown, masks=[lung, None], titles=["covid", "normal"])
    titles = [ax.get_title() for ax in figure.axes[:6]]
    assert titles == ["covid", "Grad-CAM\n100% in lung", "even\n19% in lung"] + [
        "normal",
        "Grad-CAM\nno heat",
        "even",
    ]
    drawn = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(drawn, explain.overlay(pictures[0], inside))
    outlines = [len(ax.collections) for ax in figure.axes[:6]]
    assert outlines == [1, 1, 1, 0, 0, 0]
    assert "1 is the most in each map" in figure.axes[-1].get_ylabel()
    with pytest.raises(ValueError, match="masks: 1 for 2 images"):
        explain.show_maps(pictures, shown, masks=[lung])


def test_heavy_libraries_are_imported_inside_functions():
    heavy = {"torch", "torchvision", "fastai", "cv2", "pytorch_grad_cam", "skimage", "matplotlib"}
    files = list(Path(explain.__file__).parent.glob("*.py"))
    assert len(files) >= 4
    for file in files:
        for node in ast.parse(file.read_text()).body:
            names = [a.name for a in getattr(node, "names", [])]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            assert not heavy & {name.split(".")[0] for name in names}, file
            assert not any(n.startswith(("covidlab.training", "covidlab.models")) for n in names)
