"""Ahmed's networks: the published U-Net table row by row, skips by value, HRNet's sizes and head."""

import pytest
import torch
from torch import nn

from covidlab import models
from covidlab.evaluation import published

TABLE = published("ahmed", 4, numeric=False)


def shape(text):
    """ "64 × 64 × 512" of the table, as (channels, height, width)."""
    height, width, channels = (int(n) for n in text.split("×"))
    return channels, height, width


@pytest.fixture(scope="module")
def walked():
    """The network at the paper's size, and each layer's input and output in the order they ran."""
    seen = []
    with torch.device("meta"):  # shapes without numbers
        net = models.AhmedUNet(1, 1)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.ReLU):
                layer.register_forward_hook(
                    lambda m, i, o: seen.append(
                        (type(m), tuple(i[0].shape[1:]), tuple(o.shape[1:]))
                    )
                )
        net(torch.zeros(1, 1, 512, 512))
    return net, seen


def test_every_row_of_table_4(walked):
    _, seen = walked
    layers = [s for s in seen if s[0] is not nn.ReLU]
    rows = TABLE[~TABLE["Layer"].str.startswith(("Input", "Max", "Conc"))]
    assert len(rows) == len(layers) == 19 + 4
    for (_, row), (kind, before, after) in zip(rows.iterrows(), layers, strict=True):
        transposed = row["Layer"].startswith("Conv2D trans")
        assert kind is (nn.ConvTranspose2d if transposed else nn.Conv2d), row["Layer"]
        assert (before, after) == (shape(row["Parameters"]), shape(row["Output Shape"])), row[
            "Layer"
        ]


def test_pooling_rows_lie_between_the_levels(walked):
    """What the last convolution of a level gives, the pooling halves, and the next level takes."""
    convs = [s for s in walked[1] if s[0] is nn.Conv2d]
    pools = TABLE[TABLE["Layer"].str.startswith("Max")]
    assert len(pools) == 4
    for level, (_, row) in enumerate(pools.iterrows()):
        assert convs[2 * level + 1][2] == shape(row["Parameters"])
        assert convs[2 * level + 2][1] == shape(row["Output Shape"])


def test_relu_follows_every_3x3_convolution_and_nothing_else(walked):
    """The table has one on the output too: left out, see the class."""
    kinds = [s[0] for s in walked[1]]
    followed = [k for k, after in zip(kinds, kinds[1:], strict=False) if after is nn.ReLU]
    assert followed == [nn.Conv2d] * 18 and kinds[-1] is nn.Conv2d
    assert not any(isinstance(m, nn.BatchNorm2d) for m in walked[0].modules())


def by_hand(width=32, channels=1, maps=1):
    """3×3 convolutions in pairs, 2×2 transposed ones, a 1×1 at the end; biases everywhere."""
    widths = [width, 2 * width, 4 * width, 8 * width, 16 * width]
    total, c = 0, channels
    for w in widths:
        total += 9 * c * w + w + 9 * w * w + w
        c = w
    for w in widths[-2::-1]:
        total += 4 * c * w + w + 9 * (2 * w) * w + w + 9 * w * w + w
        c = w
    return total + c * maps + maps


@pytest.mark.parametrize(
    "options, count", [({"maps": 1}, 7_759_521), ({"maps": 2}, 7_759_554), ({"width": 8}, None)]
)
def test_parameters(options, count):
    given = {"n_classes": options.get("maps", 1), "width": options.get("width", 32)}
    with torch.device("meta"):
        found = models.count_parameters(models.AhmedUNet(1, **given))
    assert found == by_hand(**options) == (count or found)


def test_the_encoder_of_the_same_level_is_laid_beside():
    """Concatenate rows: transposed 1 with 4b, 2 with 3b, 3 with 2b, 4 with 1b."""
    torch.manual_seed(0)
    net, out, joint = models.AhmedUNet(1, 2, width=2).eval(), {}, {}
    for i, level in enumerate(net.encoder):
        level.register_forward_hook(lambda m, x, y, i=i: out.update({i: y}))
    for i, (up, level) in enumerate(zip(net.ups, net.decoder, strict=True)):
        up.register_forward_hook(lambda m, x, y, i=i: out.update({f"up{i}": y}))
        level.register_forward_hook(lambda m, x, y, i=i: joint.update({i: x[0]}))
    net(torch.rand(1, 1, 32, 48))
    for i in range(4):
        torch.testing.assert_close(joint[i], torch.cat([out[f"up{i}"], out[3 - i]], 1))


def test_initial_maps_neither_vanish_nor_explode():
    """He: the second moment of the maps grows by the maxima of the pooling alone (PyTorch's own
    initialisation loses a factor of a thousand on the way)."""
    torch.manual_seed(0)
    net, x = models.AhmedUNet(width=16).eval(), torch.randn(2, 1, 64, 64)
    sizes = []
    for level in (*net.encoder, *net.decoder):
        level.register_forward_hook(lambda m, i, o: sizes.append(o.square().mean().item()))
    with torch.inference_mode():
        net(x)
    assert len(sizes) == 9 and 0.5 < min(sizes) and max(sizes) < 50


def test_unet_sides():
    with torch.device("meta"):
        net = models.AhmedUNet(width=2)
        assert net(torch.zeros(1, 1, 16, 208)).shape == (1, 2, 16, 208)
        with pytest.raises(ValueError, match="104.*multiples of 16"):
            net(torch.zeros(1, 1, 96, 104))


# ---- HRNet -------------------------------------------------------------------------------------


def dense(lengths):
    return sum(a * b + b for a, b in zip(lengths, lengths[1:], strict=False))


@pytest.mark.parametrize(
    "backbone, trunk", [("hrnet_w18.ms_in1k", 19_248_852), ("hrnet_w18_small.ms_in1k", 11_137_312)]
)
def test_hrnet_is_timms_with_three_layers_behind(backbone, trunk):
    with torch.device("meta"):
        net = models.HRNet(backbone=backbone)
    assert models.count_parameters(net.backbone) == trunk
    assert models.count_parameters(net) == trunk + dense((2048, 512, 128, 2))
    kinds = [type(m) for m in net.head]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]


def test_how_fast_batch_normalisation_follows():
    def momenta(**options):
        with torch.device("meta"):
            net = models.HRNet(backbone="hrnet_w18_small.ms_in1k", **options)
        return {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)}

    assert momenta() == {0.1} and momenta(bn_momentum=0.3) == {0.3}


def test_hrnet_enlarges_what_its_resolutions_cannot_share():
    torch.manual_seed(0)
    net, seen = models.HRNet(backbone="hrnet_w18_small.ms_in1k").eval(), []
    net.backbone.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    x = torch.rand(1, 1, 64, 50)
    with torch.inference_mode():
        for image in (x[..., :32], x, x[..., :1]):
            assert net(image).shape == (1, 2)
    assert [tuple(s.shape[-2:]) for s in seen] == [(64, 32), (64, 64), (64, 32)]
    assert torch.equal(seen[0], x[..., :32])
    assert (seen[2] == x[..., :1]).all()  # one column, drawn wider


def test_the_papers_names_are_those_of_table_7():
    from covidlab.training import AHMED_NETWORKS

    plain = [name.replace("-", "").lower() for name in AHMED_NETWORKS]
    assert plain == [*(n.lower() for n in published("ahmed", 7)["Model"][:3]), "hrnet"]
    assert set(AHMED_NETWORKS) <= set(models.NETWORKS)
