"""Segmenters: published counts, any size in and out, un-pooling by hand, weights or an error."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from covidlab import models
from covidlab.models.fcn import up
from covidlab.models.pretrained import load_in_order

COUNTS = {  # at 3 channels and 2 classes
    "CoV-RASeg": 261_314,
    "SegNet": 29_480_194,
    "U-SegNet": 14_105_730,
    "U-Net": 14_328_354,
    "VGG16": 29_480_194,
    "VGG19": 40_104_706,
    "FCN-8": 134_271_430,
    "deeplabv3_1": 15_899_202,
    "deeplabv3_2": 39_633_986,
    "NABLA-3": 19_191_458,
    "U-Net (Ahmed)": 7_760_130,
}
SMALL = {
    "CoV-RASeg": {"width": 8},
    "SegNet": {"width": 4},
    "U-SegNet": {"width": 4},
    "VGG16": {"width": 4},
    "VGG19": {"width": 4},
    "FCN-8": {"width": 4, "fc": 16},
}
SHORTEST = {"CoV-RASeg": 4, "SegNet": 32, "U-SegNet": 16, "VGG16": 32, "VGG19": 32, "FCN-8": 32}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_the_papers_size(name):
    with torch.device("meta"):  # shapes without numbers
        net = models.create_segmenter(name, in_channels=3).eval()
        side = 320 if name == "NABLA-3" else 304
        assert net(torch.zeros(1, 3, side, side)).shape == (1, 2, side, side)
    assert models.count_parameters(net) == COUNTS[name]


def test_fcn8_with_small_dense_layers():
    with torch.device("meta"):
        net = models.create_segmenter("FCN-8", in_channels=3, fc=512)
    assert models.count_parameters(net) == 27_826_630


@pytest.mark.parametrize("name", SMALL)
def test_own_segmenters_take_any_size_down_to_their_shortest(name):
    net = models.create_segmenter(name, n_classes=3, **SMALL[name]).eval()
    least = SHORTEST[name]
    with torch.inference_mode():
        for height, width in ((96, 96), (least, 47), (101, 304)):
            assert net(torch.rand(1, 1, height, width)).shape == (1, 3, height, width)
        with pytest.raises(ValueError, match=rf"at least {least} a side"):
            net(torch.rand(1, 1, 64, least - 1))


def test_deeplab_takes_multiples_of_eight_and_unet_any():
    with torch.device("meta"):
        x = torch.zeros(1, 1, 104, 101)
        assert models.create_segmenter("U-Net").eval()(x).shape == (1, 2, 104, 101)
        net = models.create_segmenter("deeplabv3_1").eval()
        assert net(x[..., :96]).shape == (1, 2, 104, 96)
        with pytest.raises(RuntimeError, match="divisible by 8"):
            net(x)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_and_the_seed_decides(name):
    def gradients():
        torch.manual_seed(3)
        net = models.create_segmenter(name, **SMALL[name])
        x, y = torch.rand(2, 1, 64, 64), torch.randint(2, (2, 64, 64))
        cross_entropy(net(x), y).backward()
        return {n: p.grad for n, p in net.named_parameters()}

    first, second = gradients(), gradients()
    assert all(g is not None and g.isfinite().all() for g in first.values())
    # a bias before batch normalisation cancels; every kernel must move
    assert all(g.abs().max() > 0 for n, g in first.items() if n.endswith("weight"))
    assert all(torch.equal(first[n], second[n]) for n in first)


def identity(block):
    """Makes convolutions and normalisation pass non-negative maps on, as many as go in."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    return block.eval()


X = torch.tensor([[1.0, 2, 0, 3], [4, 0, 1, 1], [5, 1, 0, 0], [2, 2, 7, 6]])[None, None]
MEANS = torch.tensor([[1.75, 1.25], [2.5, 3.25]])


def test_unpooling_puts_the_maxima_back_where_they_were():
    net = identity(models.EncoderDecoder(1, 1, stages=((64, 64),), width=1))
    expected = torch.zeros(4, 4)
    expected[1, 0], expected[0, 3], expected[2, 0], expected[3, 2] = 4, 3, 5, 7
    assert torch.equal(net(X)[0, 0], expected)


def test_bilinear_up_sampling_instead():
    net = identity(models.EncoderDecoder(1, 1, ((64, 64),), width=1, unpool="bilinear"))
    row = torch.tensor([4.0, 3.75, 3.25, 3.0])  # 4 and 3 at a quarter and three quarters
    torch.testing.assert_close(net(X)[0, 0, 0], row)


def test_usegnet_gives_its_first_maps_to_the_last_stage():
    net = identity(models.USegNet(1, 1, width=1))
    joint = {}
    net.decoder[-1].register_forward_hook(lambda m, i, o: joint.update(x=i[0]))
    x = torch.rand(1, 1, 16, 16)
    net(x)
    torch.testing.assert_close(joint["x"][:, 1:], x)
    assert joint["x"][:, :1].count_nonzero() == 1  # the one maximum that four poolings leave
    assert joint["x"][:, :1].argmax() == x.argmax()


@pytest.mark.parametrize(
    "options,expected",
    [
        ({}, (torch.tensor([[4.0, 3], [5, 7]]) + MEANS) / 2),
        ({"avg": False}, torch.tensor([[4.0, 3], [5, 7]])),
        # the largest 3×3 average of each quarter, at (1, 0), (0, 3), (3, 1) and (3, 3)
        ({"merge": "sequential"}, torch.tensor([[13 / 6, 5 / 4], [17 / 6, 13 / 4]])),
    ],
)
def test_cov_raseg_pools_max_with_average(options, expected):
    encoder = identity(models.CoVRASeg(1, 2, width=1, **options).encoders[0])
    pooled, indices, size = encoder(X)
    torch.testing.assert_close(pooled[0, 0], expected)
    assert size == (4, 4)
    assert indices.flatten().tolist() == ([4, 3, 13, 15] if "merge" in options else [4, 3, 8, 14])


def test_cov_raseg_merges_at_full_width_as_computed_apart():
    net = models.CoVRASeg(width=8).eval()
    encoder = net.encoders[0]
    x = torch.randn(2, 3, 10, 12)
    with torch.inference_mode():
        windows = encoder.convolutions(x).reshape(2, 8, 5, 2, 6, 2)
        torch.testing.assert_close(encoder(x)[0], (windows.amax((3, 5)) + windows.mean((3, 5))) / 2)


def test_cov_raseg_concat_shows_both_poolings_to_a_1x1_convolution():
    encoder = models.CoVRASeg(1, 2, width=1, merge="concat").encoders[0]
    seen = {}
    encoder.reduce.register_forward_hook(lambda m, i, o: seen.update(x=i[0]))
    identity(encoder)(X)
    expected = torch.stack([torch.tensor([[4.0, 3], [5, 7]]), MEANS])
    torch.testing.assert_close(seen["x"][0], expected)


def test_cov_raseg_decoder_averages_what_it_unpooled():
    decoder = identity(models.CoVRASeg(1, 2, width=1).decoders[0])
    x, where = torch.tensor([[9.0]])[None, None], torch.tensor([[3]])[None, None]
    torch.testing.assert_close(decoder(x, where, (2, 2)), torch.full((1, 1, 2, 2), 9 / 4))
    plain = identity(models.CoVRASeg(1, 2, width=1, avg=False).decoders[0])
    assert plain(x, where, (2, 2)).flatten().tolist() == [0, 0, 0, 9]


def test_cov_raseg_learns_one_image():
    torch.manual_seed(0)
    net = models.CoVRASeg(1, 2, width=8)
    y = torch.zeros(1, 32, 32, dtype=torch.long)
    y[:, 8:20, 10:26] = 1
    x = 0.4 * y[:, None] + 0.3 * torch.rand(1, 1, 32, 32)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimiser.zero_grad()
        cross_entropy(net(x), y).backward()
        optimiser.step()
    found = net(x).argmax(1)
    assert 2 * (found & y).sum() / (found.sum() + y.sum()) > 0.95


@pytest.mark.parametrize("factor", [2, 8])
def test_fcn8_up_samplings_start_bilinear(factor):
    maps = torch.rand(1, 3, 9, 9)
    ours = up(3, factor)(maps)
    library = interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = slice(factor, -factor)  # at the border the library repeats the edge
    torch.testing.assert_close(ours[..., inner, inner], library[..., inner, inner])


def test_fcn8_adds_the_scores_of_three_strides():
    net = models.FCN8(1, 2, width=4, fc=16).eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        full = net(x)
        for scores, stage in zip(net.scores[:2], (2, 3), strict=True):
            nn.init.zeros_(scores.weight)
            without = net(x)
            assert not torch.allclose(full, without), f"stage {stage} has no say"
            full = without


def test_dense_layer_becomes_the_convolution_that_covers_its_input():
    dense, conv = nn.Linear(3 * 7 * 7, 5), nn.Sequential(nn.Conv2d(3, 5, 7))
    load_in_order(conv, dense.state_dict())
    x = torch.rand(2, 3, 7, 7)
    torch.testing.assert_close(conv(x).flatten(1), dense(x.flatten(1)))


@pytest.fixture
def published(monkeypatch):
    """Stands in for the download of torchvision's VGG-16 with batch normalisation."""
    from torchvision.models import VGG16_BN_Weights, vgg

    torch.manual_seed(1)
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True).eval()
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    monkeypatch.setattr(VGG16_BN_Weights, "get_state_dict", lambda self, **_: dict(state))
    return features


def test_pretrained_encoder_is_torchvisions_vgg16(published):
    """On a grey image, what torchvision's network gives on that image as RGB."""
    net = models.create_segmenter("SegNet", pretrained=True).eval()
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        ours = x
        for stage in net.encoder:
            ours = nn.functional.max_pool2d(stage(ours), 2)
        torch.testing.assert_close(ours, published(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name,weights",
    [
        ("SegNet", "VGG16_BN_Weights"),
        ("VGG19", "VGG19_BN_Weights"),
        ("FCN-8", "VGG16_Weights"),
        ("U-Net", "smp-hub/resnet18.imagenet"),
        ("deeplabv3_2", "smp-hub/resnet50.imagenet"),
    ],
)
def test_missing_weights_are_named_and_never_become_random_ones(name, weights, offline):
    with torch.device("meta"), pytest.raises(RuntimeError, match=f"weights.*{weights}.*cannot be"):
        models.create_segmenter(name, pretrained=True)


def test_errors_name_the_remedy():
    with pytest.raises(KeyError, match="CoV-RASeg"):
        models.create_segmenter("SegNet-9000")
    for name in ("CoV-RASeg", "U-SegNet"):
        with pytest.raises(ValueError, match="no published weights"):
            models.create_segmenter(name, width=8, pretrained=True)
    with pytest.raises(ValueError, match="fit width=64"):
        models.create_segmenter("SegNet", width=8, pretrained=True)
    with pytest.raises(ValueError, match="mean, concat, sequential"):
        models.create_segmenter("CoV-RASeg", merge="product")
    with pytest.raises(ValueError, match="indices.*bilinear"):
        models.EncoderDecoder(unpool="nearest")
