"""Classifiers: layers and parameters as counted, smallest sizes, weights or an error."""

import socket

import pytest
import torch
from torch import nn

from covidlab import models
from covidlab.models.pretrained import fetching


def conv(c_in, c_out, k):
    return c_in * c_out * k * k + 2 * c_out  # weights, and scale and shift of the normalisation


def parameters_by_hand(widths, hidden=(256, 64), channels=1, classes=2):
    total, c = conv(channels, widths[0], 3), widths[0]
    for w in widths:
        total += conv(c, w, 3) + 4 * conv(w, w, 3) + (conv(c, w, 1) if c != w else 0)
        c = w
    for size in (*hidden, classes):
        total += c * size + size
        c = size
    return total


@pytest.mark.parametrize(
    "widths,published",
    [
        ((32, 64, 128, 256), 3_661_154),
        ((64, 128, 256, 512), 14_450_946),
        ((16, 32, 64, 128), 945_810),
    ],
)
def test_cov_ctnet_parameters(widths, published):
    count = models.count_parameters(models.CoVCTNet(widths=widths))
    assert count == parameters_by_hand(widths) == published


def test_cov_ctnet_has_24_layers_without_its_shortcuts():
    net = models.CoVCTNet()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if getattr(m, "kernel_size", None) == (1, 1)]
    assert (len(layers) - len(shortcuts), len(shortcuts)) == (24, 3)


@pytest.mark.parametrize("size", [82, 64, 48, 17])
def test_cov_ctnet_halves_the_map_four_times(size):
    net, sizes = models.CoVCTNet(widths=(4, 4, 4, 4)).eval(), []
    for stage in net.stages:
        stage.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    assert net(torch.zeros(2, 1, size, size)).shape == (2, 2)
    expected, s = [], size
    for _ in range(4):
        s = -(-s // 2)
        expected.append(s)
    assert sizes == expected


def test_residual_block_is_the_identity_when_its_body_says_nothing():
    """Equation 4: the output is the body plus the shortcut; with a silent body, ReLU(x)."""
    block = models.CoVCTNet(widths=(4, 4, 4, 4)).stages[0][1].eval()
    nn.init.zeros_(block.body[1][1].weight)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x), x.clamp(min=0))


def test_cov_ctnet_pools_the_maximum():
    net = models.CoVCTNet()
    maps = torch.randn(2, 256, 6, 6)
    torch.testing.assert_close(net.pool(maps), maps.amax((2, 3)))


COUNTS = {  # at 1 channel and 2 classes
    "CoV-CTNet": 3_661_154,
    "VGG16": 134_267_586,
    "VGG19": 139_577_282,
    "GoogLeNet": 5_595_682,
    "Inception-V3": 21_789_090,
    "ResNet-18": 11_171_266,
    "ResNet-50": 23_505_858,
    "DenseNet-201": 18_090_498,
    "ShuffleNet": 1_255_222,
    "Xception": 20_810_474,
    "IRRCNN": 33_739_986,
    "Multi-scale ResNet-50": 27_174_850,
    "HRNet": 20_363_862,
    "ResNet-152": 58_141_634,
    "DenseNet-121": 6_949_634,
    "EfficientNet-B4": 17_551_338,
    "SqueezeNet": 727_042,
    "DenseNet-161": 26_467_010,
    "Inception-V4": 41_145_314,
}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_zoo_parameters_and_smallest_size(name):
    with torch.device("meta"):  # shapes without numbers
        net = models.create(name).eval()
        assert models.count_parameters(net) == COUNTS[name]
        side = models.smallest(name)
        for size in {side, max(side, 64), 82}:
            assert net(torch.zeros(1, 1, size, size)).shape == (1, 2)
        with pytest.raises(RuntimeError):
            net(torch.zeros(1, 1, side - 1, side - 1))


def test_only_inceptions_refuse_64_pixels():
    large = [n for n in models.NETWORKS if models.smallest(n) > 64]
    assert large == ["Inception-V3", "Inception-V4"]


@pytest.mark.parametrize("name", ["CoV-CTNet", "GoogLeNet", "ResNet-18", "ShuffleNet"])
def test_networks_take_their_channels_and_classes(name):
    net = models.create(name, in_channels=3, n_classes=5).eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("name", ["GoogLeNet", "ShuffleNet", "SqueezeNet"])
def test_torchvision_networks_learn_with_every_parameter(name):
    net = models.create(name)
    logits = net(torch.rand(2, 1, 64, 64))
    assert logits.shape == (2, 2)  # in training too: no auxiliary outputs
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    "name,library,options",
    [
        ("GoogLeNet", "googlenet", {"aux_logits": True, "init_weights": False}),
        ("ShuffleNet", "shufflenet_v2_x1_0", {}),
        ("SqueezeNet", "squeezenet1_0", {}),
    ],
)
def test_pretrained_torchvision_weights_on_one_channel(name, library, options, monkeypatch):
    """On a grey image, what torchvision's network gives on that image as RGB."""
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.get_model(library, weights=None, **options).eval()
    weights = torchvision.models.get_model_weights(library)
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: theirs.state_dict())
    ours = models.create(name, n_classes=5, pretrained=True).eval()
    x = torch.rand(1, 1, 64, 64)
    for net in (ours, theirs):  # without the last layer, which is new
        if name == "SqueezeNet":
            net.classifier[1] = nn.Identity()
        else:
            net.fc = nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        models.create(name, in_channels=2, pretrained=True)


def test_errors_name_the_remedy():
    with pytest.raises(KeyError, match="CoV-CTNet"):
        models.create("CovNet-9000")
    with pytest.raises(KeyError, match="CoV-CTNet"):
        models.smallest("CovNet-9000")
    with pytest.raises(ValueError, match="no published weights"):
        models.create("CoV-CTNet", pretrained=True)
    with pytest.raises(ValueError, match="four stages"):
        models.CoVCTNet(widths=(8, 8))


def test_without_a_network_the_hub_is_not_asked_again_and_again(monkeypatch):
    from huggingface_hub import constants

    def unknown(*args, **kwargs):
        raise socket.gaierror("name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RuntimeError, match="weights x cannot"), fetching("x"):
        assert constants.HF_HUB_OFFLINE
        raise OSError
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [])
    with fetching("x"):
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "name,weights",
    [
        ("ResNet-18", "timm resnet18.a1_in1k"),
        ("Xception", "timm legacy_xception.tf_in1k"),
        ("GoogLeNet", "torchvision GoogLeNet_Weights.IMAGENET1K_V1"),
        ("ShuffleNet", "torchvision ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1"),
        ("SqueezeNet", "torchvision SqueezeNet1_0_Weights.IMAGENET1K_V1"),
        ("Inception-V4", "timm inception_v4.tf_in1k"),
    ],
)
def test_missing_pretrained_weights_never_become_random_ones(name, weights, offline):
    with torch.device("meta"), pytest.raises(RuntimeError, match=f"weights {weights} cannot"):
        models.create(name, pretrained=True)
