"""IRRCNN and NABLA-N: published counts, the recurrent layer against its equation, sizes, learning."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from covidlab.models import count_parameters
from covidlab.models.irrcnn import (
    IRRCNN,
    InceptionRecurrentResidual,
    RecurrentConv,
    shared_out,
)
from covidlab.models.nabla_n import WIDTHS, NablaN

QUARTER = tuple(w // 4 for w in WIDTHS)
SMALL = {
    "IRRCNN": lambda **options: IRRCNN(1, 2, width=8, **options),
    "NABLA-3": lambda **options: NablaN(1, 2, widths=(4, 6, 8, 10), **options),
}


def empty(network, *args, **options):
    with torch.device("meta"):  # shapes without numbers
        return network(*args, **options).eval()


@pytest.mark.parametrize(
    "options,expected",
    [
        ({}, 33_740_562),
        ({"t": 3}, 33_747_506),
        ({"width": 32}, 2_780_802),
        ({"width": 16}, 712_818),
    ],
)
def test_irrcnn_parameters(options, expected):
    assert count_parameters(empty(IRRCNN, 3, 2, **options)) == expected


@pytest.mark.parametrize(
    "n_classes,options,expected",
    [
        (1, {}, 19_191_409),
        (2, {}, 19_191_409 + 49),
        (1, {"t": 3}, 19_198_833),
        (1, {"widths": QUARTER}, 1_204_861),
    ],
)
def test_nabla_parameters(n_classes, options, expected):
    assert count_parameters(empty(NablaN, 3, n_classes, **options)) == expected


def test_counts_are_the_papers():
    assert count_parameters(empty(IRRCNN)) == pytest.approx(34e6, rel=0.01)
    assert count_parameters(empty(NablaN, n_classes=1)) == pytest.approx(18.98e6, rel=0.012)


@pytest.mark.parametrize("n", range(1, 6))
def test_a_decoder_from_each_of_the_deepest_levels(n):
    """Counted apart: encoder, decoders and head by the formula of their layers."""

    def unit(c_in, c, t=2):
        recurrent = 9 * c * c + c + 9 * c * c + (t + 1) * 2 * c
        return c_in * c + c + 2 * recurrent

    encoder = sum(unit(a, b) for a, b in zip((3, *WIDTHS), WIDTHS, strict=False))
    decoders = sum(
        9 * WIDTHS[i + 1] * WIDTHS[i] + WIDTHS[i] + unit(2 * WIDTHS[i], WIDTHS[i])
        for start in range(5, 5 - n, -1)
        for i in range(start)
    )
    net = empty(NablaN, 3, 2, n=n)
    assert count_parameters(net) == encoder + decoders + n * 16 * 2 + 2
    assert net(torch.zeros(1, 3, 64, 96, device="meta")).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("size", [128, 192, 256])
def test_the_papers_sizes(size):
    x = torch.zeros(1, 3, size, size, device="meta")
    assert empty(IRRCNN)(x).shape == (1, 2)
    assert empty(NablaN)(x).shape == (1, 2, size, size)


def test_irrcnn_takes_any_size_and_nabla_multiples():
    net = SMALL["IRRCNN"]().eval()
    for height, width in ((82, 82), (33, 47), (2, 1)):
        assert net(torch.rand(1, 1, height, width)).shape == (1, 2)
    for n_levels, multiple in ((6, 32), (4, 8)):
        net = empty(NablaN, 1, 2, widths=WIDTHS[:n_levels])
        with pytest.raises(ValueError, match=rf"82×{multiple} pixels.* multiples of {multiple};"):
            net(torch.zeros(1, 1, 82, multiple, device="meta"))


def normalised(x, norm):
    """Batch normalisation in training, by its definition."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scale, shift = (p[None, :, None, None] for p in (norm.weight, norm.bias))
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("t", [0, 1, 2, 3])
def test_recurrent_layer_is_its_equation(kernel, t):
    torch.manual_seed(0)
    layer = RecurrentConv(3, 4, kernel, t)
    assert len(layer.norms) == t + 1
    for norm in layer.norms:  # unlike each other, so that mixing them up would show
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias)
    x = torch.randn(5, 3, 6, 7)
    before = x.clone()
    w_f, b = layer.feed_forward.weight, layer.feed_forward.bias
    h = normalised(F.conv2d(x, w_f, b, padding=kernel // 2), layer.norms[0]).clamp(min=0)
    for step in range(1, t + 1):
        w_r = layer.recurrent.weight
        total = F.conv2d(x, w_f, b, padding=kernel // 2) + F.conv2d(h, w_r, padding=kernel // 2)
        h = normalised(total, layer.norms[step]).clamp(min=0)
    torch.testing.assert_close(layer(x), h)
    assert torch.equal(x, before)  # in-place steps must not reach the input
    grads = [
        torch.autograd.grad(out.square().sum(), list(layer.parameters())) for out in (layer(x), h)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_each_step_keeps_its_own_statistics():
    torch.manual_seed(0)
    layer = RecurrentConv(2, 3)
    layer(torch.rand(4, 2, 8, 8))
    means = [norm.running_mean for norm in layer.norms]
    assert all(not torch.allclose(a, b) for a, b in zip(means, means[1:], strict=False))


def test_unit_is_three_branches_and_its_input():
    torch.manual_seed(0)
    unit = InceptionRecurrentResidual([2, 5, 3]).eval()
    x = torch.randn(2, 10, 6, 6)
    before = x.clone()
    padded = F.pad(x, (1, 1, 1, 1))
    means = sum(padded[..., i : i + 6, j : j + 6] for i in range(3) for j in range(3)) / 9
    branches = unit.point(x), unit.area(x), unit.pooled(means)
    assert [b.shape[1] for b in branches] == [2, 5, 3]
    assert [b.feed_forward.kernel_size[0] for b in (unit.point, unit.area, unit.pooled)] == [
        1,
        3,
        1,
    ]
    torch.testing.assert_close(unit(x), (x + torch.cat(branches, 1)).clamp(min=0))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_and_the_seed_decides(name):
    def gradients():
        torch.manual_seed(3)
        net = SMALL[name]()
        x = torch.rand(4, 1, 64, 64)
        out = net(x)
        F.cross_entropy(out, torch.randint(2, (4, *out.shape[2:]))).backward()
        return {n: p.grad for n, p in net.named_parameters()}

    first, second = gradients(), gradients()
    assert all(g is not None and g.isfinite().all() for g in first.values())
    # a bias before batch normalisation cancels; all else must move
    moved = {n for n, g in first.items() if g.abs().max() > 0}
    assert {n for n in first if "feed_forward.bias" not in n} <= moved
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", SMALL)
def test_he_initialisation(name):
    torch.manual_seed(0)
    net = {"IRRCNN": lambda: IRRCNN(3, 2, width=64), "NABLA-3": NablaN}[name]()
    checked = 0
    for layer in net.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or layer.weight.numel() < 5000:
            continue
        inputs = layer.in_channels * 9 if layer.kernel_size == (3, 3) else layer.in_channels
        if isinstance(layer, nn.ConvTranspose2d):  # a pixel has 9/4 kernel places on average
            inputs = layer.in_channels * 9 / 4
        assert layer.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
        checked += 1
    assert checked > 10


def test_every_decoder_has_a_say():
    torch.manual_seed(0)
    net = NablaN(1, 2, n=3, widths=(4, 6, 8, 10)).eval()
    assert [len(d.ups) for d in net.decoders] == [3, 2, 1]
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        full = net(x)
        for i in range(3):
            net.head.weight[:, 4 * i : 4 * (i + 1)] = 0.0
            without = net(x)
            assert not torch.allclose(full, without), f"decoder {i} has no say"
            full = without
    torch.testing.assert_close(full, net.head.bias[None, :, None, None].expand_as(full))


def test_decoder_starts_from_its_level_alone():
    """Below the level a decoder starts from, nothing reaches it."""
    torch.manual_seed(0)
    net = NablaN(1, 2, n=3, widths=(4, 6, 8, 10)).eval()
    x = torch.rand(1, 1, 32, 32)
    tops = []
    for decoder in net.decoders:
        decoder.register_forward_hook(lambda m, i, out: tops.append(out))
    with torch.inference_mode():
        net(x)
        for layer in (net.encoder[3], net.encoder[2]):
            layer.project.weight.mul_(-1.5)
            net(x)
    first, deepest_changed, two_changed = tops[:3], tops[3:6], tops[6:]
    same = [torch.equal(a, b) for a, b in zip(first, deepest_changed, strict=True)]
    assert same == [False, True, True]
    same = [torch.equal(a, b) for a, b in zip(first, two_changed, strict=True)]
    assert same == [False, False, True]


def test_two_classes_are_the_papers_sigmoid():
    torch.manual_seed(0)
    two, one = NablaN(1, 2, widths=(4, 8), n=1), NablaN(1, 1, widths=(4, 8), n=1)
    state = two.state_dict()
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][1:] - state[name][:1]
    one.load_state_dict(state)
    x = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        found, expected = one.eval()(x).sigmoid()[:, 0], two.eval()(x).softmax(1)[:, 1]
    torch.testing.assert_close(found, expected)


def test_nabla_learns_one_image():
    torch.manual_seed(0)
    net = NablaN(1, 2, widths=(4, 8), n=1)
    y = torch.zeros(2, 16, 16, dtype=torch.long)
    y[0, 4:10, 5:13] = y[1, 2:15, 1:5] = 1
    x = 0.4 * y[:, None] + 0.3 * torch.rand(2, 1, 16, 16)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    found = net.eval()(x).argmax(1)
    assert 2 * (found & y).sum() / (found.sum() + y.sum()) > 0.95


def test_irrcnn_tells_two_textures_apart():
    torch.manual_seed(0)
    net = IRRCNN(1, 2, width=4, stem=(4, 8), units=3, bn_momentum=0.3)
    y = torch.arange(16) % 2
    coarse = F.interpolate(torch.rand(16, 1, 4, 4), scale_factor=4)
    x = torch.where(y[:, None, None, None] == 1, coarse, torch.rand(16, 1, 16, 16))
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    assert (net.eval()(x).argmax(1) == y).float().mean() == 1.0


@pytest.mark.parametrize("name", SMALL)
def test_statistics_follow_as_fast_as_told(name):
    net = SMALL[name](bn_momentum=0.3)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.momentum for m in norms} == {0.3}


def test_dropout_only_when_asked_and_never_before_the_first_unit():
    def order(**options):
        net = IRRCNN(1, 2, width=8, units=3, **options)
        kinds = (InceptionRecurrentResidual, nn.Dropout)
        return "".join(type(m).__name__[0] for m in net.features if isinstance(m, kinds))

    assert order() == "III" and order(dropout=0.5) == "IDIDI"


def test_shares_of_the_branches():
    assert shared_out(112, (0.25, 0.5, 0.25)) == [28, 56, 28]
    assert shared_out(10, (1 / 3, 1 / 3, 1 / 3)) == [3, 4, 3]
    assert sum(shared_out(7, (0.3, 0.3, 0.4))) == 7


@pytest.mark.parametrize(
    "network,options,message",
    [
        (IRRCNN, {"branch_shares": (0.5, 1.0, 0.5)}, "sum 1"),
        (IRRCNN, {"branch_shares": (0.5, 0.5)}, "three parts"),
        (IRRCNN, {"width": 2}, "width=2"),
        (IRRCNN, {"t": -1}, "t=-1"),
        (IRRCNN, {"units": 0}, "units=0"),
        (NablaN, {"n": 0}, "n=0 .*1 to 5"),
        (NablaN, {"n": 6}, "n=6 .*1 to 5"),
        (NablaN, {"t": -1}, "t=-1"),
    ],
)
def test_impossible_options(network, options, message):
    with pytest.raises(ValueError, match=message):
        empty(network, **options)
