"""Garg's networks: parameters as counted by hand, scales, padding and company that must not matter."""

import numpy as np
import pytest
import torch
from torch import nn

from covidlab.models import count_parameters
from covidlab.models.multiscale_resnet import (
    MultiScaleResNet50,
    batch_norm_parameters,
    parameter_groups,
)
from covidlab.models.patient_heads import BiLSTMHead, MaxPoolHead, ensemble, weighted


def dense(*sizes):
    return sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))


# ---- the slice network -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({}, 27_182_147),
        ({"in_channels": 1, "n_classes": 2}, 27_182_147 - 2 * 64 * 7 * 7 - 1025),
        ({"stages": (5,)}, 27_182_147 - (512 + 1024) * 1024),
        # torchvision's ResNet-18 is 11,689,512 with a classifier of 512 × 1000 + 1000
        ({"backbone": "resnet18"}, 11_689_512 - 513_000 + dense(128 + 256 + 512, 1024, 3)),
        ({"hidden": 256}, 23_508_032 + dense(3584, 256, 3)),
    ],
)
def test_parameters(options, published):
    with torch.device("meta"):
        net = MultiScaleResNet50(**options)
    assert count_parameters(net) == published
    assert sum(map(torch.numel, sum(parameter_groups(net), []))) == published


def test_backbone_and_head_of_the_paper():
    with torch.device("meta"):
        net = MultiScaleResNet50()
        assert net(torch.zeros(2, 3, 224, 224)).shape == (2, 3)
        maps = net.backbone(torch.zeros(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    backbone, head = parameter_groups(net)
    assert sum(p.numel() for p in backbone) == 23_508_032
    assert sum(p.numel() for p in head) == dense(3584, 1024, 3) == 3_674_115


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return MultiScaleResNet50(1, 3, backbone="resnet18", hidden=16).eval()


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_logits_come_from_the_pooled_maps_of_three_stages(pool):
    """Stages taken out one by one with hooks, pooled with NumPy, and multiplied by hand."""
    torch.manual_seed(1)
    net = MultiScaleResNet50(1, 3, backbone="resnet18", hidden=16, pool=pool).eval()
    seen = {}
    for name in ("layer2", "layer3", "layer4"):
        net.backbone[name].register_forward_hook(
            lambda m, i, o, n=name: seen.update({n: o.numpy()})
        )
    with torch.inference_mode():
        logits = net(torch.randn(2, 1, 64, 48)).numpy()
    reduce = np.mean if pool == "avg" else np.max
    x = np.concatenate([reduce(seen[f"layer{k}"], (2, 3)) for k in (2, 3, 4)], 1)
    one, two = net.head[1], net.head[3]
    hidden = np.maximum(x @ one.weight.detach().numpy().T + one.bias.detach().numpy(), 0)
    expected = hidden @ two.weight.detach().numpy().T + two.bias.detach().numpy()
    assert np.allclose(logits, expected, atol=1e-4)


def test_dropout_acts_before_the_dense_layers_and_in_training_only(small):
    torch.manual_seed(0)
    net = MultiScaleResNet50(1, 3, backbone="resnet18", hidden=16, dropout=1.0)
    x = torch.randn(2, 1, 32, 32)
    assert torch.allclose(*net(x))  # nothing of the images passes
    one, two = small(x)
    assert not torch.allclose(one, two)


def test_groups_without_batch_norm(small):
    """A ResNet-18 has 20 of them, scale and shift, 4,800 maps together: counted from its plan."""
    backbone, head = parameter_groups(small, batch_norm=False)
    rest = set(parameter_groups(small)[0]) - set(backbone)
    assert rest == set(batch_norm_parameters(small)) and len(rest) == 40
    assert sum(p.numel() for p in rest) == 2 * (64 * 5 + (128 + 256 + 512) * 5)
    assert all(p.dim() == 4 for p in backbone) and len(head) == 4


def test_what_cannot_be_is_refused(offline):
    with pytest.raises(ValueError, match="pool='mean'"):
        MultiScaleResNet50(pool="mean")
    for stages in ((), (1, 2), (6,)):
        with pytest.raises(ValueError, match="stages"):
            MultiScaleResNet50(stages=stages)
    with pytest.raises(ValueError, match="Linear has no backbone"):
        parameter_groups(nn.Linear(2, 2))
    with torch.device("meta"), pytest.raises(RuntimeError, match="timm resnet18.a1_in1k cannot"):
        MultiScaleResNet50(pretrained=True, backbone="resnet18.a1_in1k")


def test_a_narrow_backbone_has_the_widths_asked_for():
    wide = MultiScaleResNet50(1, backbone="resnet10t", hidden=8)
    narrow = MultiScaleResNet50(1, backbone="resnet10t", hidden=8, widths=(24, 48, 96, 192))
    assert narrow.backbone.feature_info.channels() == [48, 96, 192]
    assert narrow.head[1].in_features == 48 + 96 + 192
    assert narrow.backbone.feature_info.reduction() == wide.backbone.feature_info.reduction()
    assert count_parameters(narrow) < count_parameters(wide) / 4
    assert narrow(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    for wrong in ({"widths": (8, 16)}, {"widths": (8, 16, 32, 64), "pretrained": True}):
        with pytest.raises(ValueError, match="widths=.*four numbers"):
            MultiScaleResNet50(1, backbone="resnet10t", **wrong)


# ---- the patient heads -------------------------------------------------------------------------


def lstm(n, h):
    return 2 * 4 * h * (n + h + 2)  # two directions, four gates, two biases


@pytest.mark.parametrize(
    ("head", "options", "by_hand", "published"),
    [
        (MaxPoolHead, {}, dense(1024, 512, 3), 526_339),
        (MaxPoolHead, {"n_features": 3072}, dense(3072, 512, 3), 1_574_915),
        (BiLSTMHead, {}, lstm(1024, 512) + dense(1024, 1024, 3), 7_352_323),
        (BiLSTMHead, {"n_features": 3072}, lstm(3072, 512) + dense(1024, 1024, 3), 15_740_931),
        (ensemble, {}, dense(12, 10, 3), 163),
    ],
)
def test_head_parameters(head, options, by_hand, published):
    with torch.device("meta"):
        assert count_parameters(head(**options)) == by_hand == published


HEADS = {
    "max": lambda: MaxPoolHead(6, 3, 5),
    "lstm": lambda: BiLSTMHead(6, 3, lstm=4, hidden=5),
}


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    return HEADS[request.param]()


def padded(bags, length=None, fill=0.0):
    """Bags of one patient each → (N, T, D) and lengths."""
    lengths = torch.tensor([len(b) for b in bags])
    out = torch.full((len(bags), length or int(lengths.max()), bags[0].shape[1]), fill)
    for row, bag in zip(out, bags, strict=True):
        row[: len(bag)] = bag
    return out, lengths


@pytest.fixture
def bags():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, 6, generator=generator) - 1 for n in (4, 1, 7, 2)]


@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan"), float("inf")])
def test_neither_padding_nor_company_matters(head, bags, fill):
    alone = torch.cat([head(*padded([bag])) for bag in bags])
    together = head(*padded(bags, fill=fill))
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(head(*padded(bags, 12, fill)), alone, atol=1e-6, rtol=1e-5)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        head(*padded([bags[i] for i in order], fill=fill)), alone[order], atol=1e-6, rtol=1e-5
    )


def test_gradients_do_not_depend_on_padding_either(head, bags):
    def gradient(length):
        head.zero_grad()
        nn.functional.cross_entropy(
            head(*padded(bags, length, 1e3)), torch.arange(4) % 3
        ).backward()
        return torch.cat([p.grad.ravel() for p in head.parameters()])

    short, long = gradient(None), gradient(15)
    assert short.isfinite().all() and short.abs().max() > 0
    torch.testing.assert_close(short, long, atol=1e-6, rtol=1e-5)


def test_the_order_of_slices_matters_to_the_lstm_alone(bags):
    torch.manual_seed(0)
    bag, turned = bags[2], bags[2].flip(0)
    maximum, along = HEADS["max"](), HEADS["lstm"]()
    assert torch.equal(maximum(*padded([bag])), maximum(*padded([turned])))
    assert (along(*padded([bag])) - along(*padded([turned]))).abs().max() > 1e-4


def test_max_head_by_hand(bags):
    torch.manual_seed(0)
    net = HEADS["max"]()
    expected = net.head(torch.stack([bag.max(0).values for bag in bags]))
    torch.testing.assert_close(net(*padded(bags)), expected)


def test_lstm_head_is_the_mean_of_a_plain_lstm_over_each_patient(bags):
    torch.manual_seed(0)
    net = HEADS["lstm"]()
    expected = net.head(torch.stack([net.lstm(bag[None])[0][0].mean(0) for bag in bags]))
    torch.testing.assert_close(net(*padded(bags)), expected, atol=1e-6, rtol=1e-5)


def test_patients_without_slices_are_refused(head):
    for lengths in ([0, 2], [3, 1], [1, 1, 1]):
        with pytest.raises(ValueError, match="slices|one each"):
            head(torch.zeros(2, 2, 6), torch.tensor(lengths))


def test_weighted_features_by_hand():
    features, chances = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.2, 0.3]])
    expected = torch.tensor([[0.5, 1.0, 0.2, 0.4, 0.3, 0.6]])
    torch.testing.assert_close(weighted(features, chances), expected)
    bags = torch.randn(4, 7, 1024), torch.randn(4, 7, 3).softmax(2)
    assert weighted(*bags).shape == (4, 7, 3072)
    torch.testing.assert_close(weighted(*bags).reshape(4, 7, 3, 1024).sum(2), bags[0])
