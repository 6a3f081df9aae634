"""CoV-CTNet and the zoo: layers and parameters as counted by hand, and errors that say what to do."""

import pytest
import torch
from torch import nn

from covidlab import models


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


def test_resnet18_is_timms():
    assert models.count_parameters(models.create("ResNet-18")) == 11_171_266


def test_every_network_takes_its_channels_and_classes():
    for name in models.NETWORKS:
        net = models.create(name, in_channels=3, n_classes=5).eval()
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_errors_name_the_remedy():
    with pytest.raises(KeyError, match="CoV-CTNet"):
        models.create("CovNet-9000")
    with pytest.raises(ValueError, match="no published weights"):
        models.create("CoV-CTNet", pretrained=True)
    with pytest.raises(ValueError, match="four stages"):
        models.CoVCTNet(widths=(8, 8))


def test_missing_pretrained_weights_never_become_random_ones(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match="ImageNet weights of ResNet-18"):
        models.create("ResNet-18", pretrained=True)
