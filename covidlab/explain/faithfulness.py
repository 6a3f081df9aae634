"""Can a map be believed? Does the score follow the map, and does the map follow the weights?"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .maps import (
    _at_least_one,
    _bar,
    _classes,
    _default_layer,
    _opened,
    _question,
    _regions,
    _resized,
    _undisturbed,
    saliency,
)

BASELINES = ("zero", "mean", "blur")


@dataclass(frozen=True)
class Faithfulness:
    """Curves of `insertion_deletion`: the class's probability as pixels go or come.

    `fractions` (S + 1,) of the pixels, 0 to 1, in the map's order; `deletion` and `insertion`
    (N, S + 1). A good map has a small area under deletion and a large one under insertion.
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> np.ndarray:
        """(N,) area under each deletion curve, in [0, 1]."""
        return np.trapezoid(self.deletion, self.fractions, axis=1)

    @property
    def insertion_area(self) -> np.ndarray:
        """(N,) area under each insertion curve, in [0, 1]."""
        return np.trapezoid(self.insertion, self.fractions, axis=1)


def insertion_deletion(
    model,
    images,
    maps,
    target=None,
    *,
    rows=None,
    region=None,
    steps: int = 50,
    baseline="zero",
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Faithfulness:
    """How fast the class's probability falls, and rises, with the pixels a map calls important.

    Deletion and insertion of Petsiuk et al. 2018 (RISE): pixels are replaced by a baseline, or put
    back on it, from the hottest to the coldest, and the probability of the class is read each time.

    Parameters
    ----------
    model, images, target, rows, region : as in `saliency`; for a segmenter it is the mean
        probability of the class over the region, which stays the one of the whole image.
    maps : (N, h, w), resized bilinearly to the network's input. Equal pixels (a map that is zero
        over half the image) are ordered at random by `seed`.
    steps : how many equal parts of the pixels go one after the other.
    baseline : what deleted pixels become, and what insertion starts from: one for both, or a pair.
        "zero" is zero at the network's input, for a Learner the mean of the training images; "mean"
        is each image's own; "blur" is the image under a Gaussian 11 pixels wide, σ 5, at 224 pixels,
        scaled with the image; a tensor like the network's input serves as well. The authors' code
        takes ("zero", "blur"). Their blur leaves in sight whatever is larger than its kernel, as
        lesions are; insertion then starts from nearly full probability and tells nothing, which is
        why we start from zero too. Look at `insertion` at fraction 0.

    Raises ValueError for maps or baselines that do not fit.
    """
    import torch

    _at_least_one(steps=steps, batch_size=batch_size)
    net, n, read = _opened(model, images, rows)
    deleted, start = baseline if isinstance(baseline, tuple | list) else (baseline, baseline)
    if len(maps) != n:
        raise ValueError(f"maps: {len(maps)} for {n} images")
    classes, region = _classes(model, target, n), _regions(region, n)
    rng, fractions = np.random.default_rng(seed), np.linspace(0, 1, steps + 1)
    curves = [], []
    with _undisturbed(net), torch.inference_mode(), _bar(n, progress, "pixels") as bar:
        for i in range(n):
            at = slice(i, i + 1)
            x = read(at)
            asked = _question(net(x), classes and classes[at], region and region[at])
            rank = torch.from_numpy(_order(maps[i], x.shape[-2:], rng)).to(x.device)
            counts = torch.from_numpy(np.rint(fractions * rank.numel()).astype(int)).to(x.device)
            grounds = _ground(deleted, x, i, n), _ground(start, x, i, n)
            pairs = (grounds[0], x), (x, grounds[1])
            for curve, (hot, cold) in zip(curves, pairs, strict=True):
                values = []
                for some in counts.split(batch_size):
                    mixed = torch.where(rank < some[:, None, None, None], hot, cold)
                    values.append(_probability(net(mixed), *asked))
                curve.append(torch.cat(values).cpu().numpy())
            bar.update(1)
    return Faithfulness(fractions, *(np.stack(curve) for curve in curves))


def randomisation_check(
    model,
    images,
    method: str = "gradcam",
    layer=None,
    target=None,
    *,
    rows=None,
    region=None,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = False,
    **options,
) -> pd.DataFrame:
    """Does the map change when the network forgets, layer by layer, what it has learnt?

    The cascading randomisation of Adebayo et al. 2018: from the last layer to the first, weights
    are drawn anew, one layer on top of the other, and the map of the same class is compared with
    the trained network's. A map that stays alike does not explain what was learnt. A copy of the
    network is randomised; the network stays as it is.

    Returns
    -------
    A row for each stage: `layer`, the one drawn last ("" for the trained network); `renewed`, how
    many are new; `spearman`, the rank correlation of the two maps' pixels, and `ssim`, their
    structural similarity, both means over `n`, the images whose two maps are not constant.
    `.attrs["between_images"]` holds the same two for each image's map against the next image's:
    maps of one network are alike without saying anything about the image, and a map is as good as
    lost where it falls to that (Arun et al. 2021 compare with it).

    Parameters
    ----------
    model, images, method, layer, target, rows, region, options : as in `saliency`; class and region
        are those of the trained network throughout.
    steps : compare at so many stages, spread evenly over the layers; None compares at every one.
    seed : of the weights. A layer is a convolution or dense layer and the normalisations after it.
        They are drawn as He et al. 2015 do, whatever the network started from: our choice, which
        keeps activations in range at any depth. Biases become 0, normalisations neutral.
    """
    import torch

    _at_least_one(steps=steps)
    net, n, read = _opened(model, images, rows)
    x = torch.cat([read(slice(i, i + 1)) for i in range(n)])
    with _undisturbed(net), torch.inference_mode():
        answers = [
            _question(net(x[i : i + 1]), classes, masks)
            for i, classes, masks in _each(_classes(model, target, n), _regions(region, n), n)
        ]
    asked = {"target": [int(c) for c, _ in answers]}
    if answers[0][1] is not None:
        asked["region"] = [r[0].cpu().numpy() for _, r in answers]
    asked["layer"] = _name(net, _default_layer(net, x) if layer is None else layer)
    trained = saliency(net, x, method, **asked, **options)

    table, stages = [], forgetting(net, x[:1], steps, seed)
    with _bar(None, progress, "new weights", "layer") as bar:
        for renewed, name, forgetful in stages:
            again = saliency(forgetful, x, method, **asked, **options) if renewed else trained
            table.append({"layer": name, "renewed": renewed, **similarity(trained, again)})
            bar.update(1)
    table = pd.DataFrame(table)
    table.attrs["between_images"] = similarity(trained, np.roll(trained, 1, 0)) if n > 1 else None
    return table


def forgetting(net, x, steps: int | None = None, seed: int = 0):
    """The network, then copies of it in which more and more layers, from the last, are new.

    Yields (how many layers are new, the name of the one drawn last, network), first (0, "", a
    copy as it was trained): what `randomisation_check` walks through, to look at each stage
    oneself. It is one copy that changes on the way. `steps` and `seed` are as there, `x` a batch
    (1, C, H, W) that shows which layers are used, and in what order.
    """
    import torch

    groups = _weighted(net, x)[::-1]
    stages = min(steps or len(groups), len(groups))
    look = set(np.rint(np.linspace(0, len(groups), stages + 1)[1:]).astype(int))
    changed, generator = deepcopy(net), torch.Generator().manual_seed(seed)
    yield 0, "", changed
    for renewed, group in enumerate(groups, 1):
        for name in group:
            _renew(changed.get_submodule(name), generator)
        if renewed in look:
            yield renewed, group[0], changed


def _order(heat, size, rng) -> np.ndarray:
    """(H, W): 0 for the hottest pixel, 1 for the next; equals in random order."""
    heat = _resized(heat, tuple(size)).ravel()
    rank = np.empty(heat.size, np.int64)
    rank[np.lexsort((rng.random(heat.size), -heat))] = np.arange(heat.size)
    return rank.reshape(tuple(size))


def _ground(baseline, x, i, n):
    """(1, C, H, W): what stands for a pixel that is not there."""
    import torch

    if isinstance(baseline, torch.Tensor):
        if baseline.shape != (n, *x.shape[1:]):
            found, wanted = tuple(baseline.shape), (n, *x.shape[1:])
            raise ValueError(f"baseline: has shape {found}, the network's input is {wanted}")
        return baseline[i : i + 1].to(x.device, x.dtype)
    if baseline == "zero":
        return torch.zeros_like(x)
    if baseline == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if baseline == "blur":
        return _blurred(x)
    raise ValueError(f"baseline={baseline!r} must be a tensor or one of {', '.join(BASELINES)}")


def _blurred(x):
    from torchvision.transforms.functional import gaussian_blur

    half = max(1, round(5 / 224 * min(x.shape[-2:])))
    return gaussian_blur(x, 2 * half + 1, float(half))


def _probability(logits, classes, regions=None):
    """(N,) float32: the probability of a class, for a segmenter its mean over the region."""
    logits = logits.float()
    shares = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
    picked = shares[:, int(classes)]
    return picked if regions is None else picked[:, regions[0]].mean(1)


def _each(classes, region, n):
    for i in range(n):
        at = slice(i, i + 1)
        yield i, classes and classes[at], region and region[at]


def _name(net, layer) -> str:
    names = [name for name, m in net.named_modules() if m is layer or name == layer]
    if not names:
        raise ValueError(f"layer={layer!r} is no layer of the network; `layers` lists them")
    return names[0]


def _weighted(net, x) -> list[list[str]]:
    """Names of the layers with weights as they are computed, each with what normalises it."""
    import torch

    seen, handles = [], []
    try:
        for name, module in net.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                handles.append(
                    module.register_forward_hook(lambda *_, name=name: seen.append(name))
                )
        with _undisturbed(net), torch.inference_mode():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    groups = []
    for name in dict.fromkeys(seen):
        own = net.get_submodule(name).parameters(recurse=False)
        if not groups or any(p.ndim > 1 for p in own):
            groups.append([])
        groups[-1].append(name)
    return groups


def _renew(module, generator):
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                fresh = torch.empty(parameter.shape)
                torch.nn.init.kaiming_normal_(fresh, nonlinearity="relu", generator=generator)
                parameter.copy_(fresh)
            else:
                parameter.fill_(float(name != "bias"))
    if hasattr(module, "reset_running_stats"):
        module.reset_running_stats()


def similarity(ours, others) -> dict[str, float]:
    """How alike maps (N, H, W) are to others, pair by pair: `spearman`, `ssim` and `n`.

    Rank correlation of the pixels and structural similarity, means over the `n` pairs of which
    neither map is constant; NaN where there are none.
    """
    from scipy.stats import spearmanr
    from skimage.metrics import structural_similarity

    found = []
    for a, b in zip(ours, others, strict=True):
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            window = min(7, (min(a.shape) - 1) // 2 * 2 + 1)
            ssim = structural_similarity(a, b, data_range=np.ptp(a), win_size=window)
            found.append((spearmanr(a, b, axis=None).statistic, ssim))
    means = np.mean(found, 0) if found else (np.nan, np.nan)
    return {"spearman": float(means[0]), "ssim": float(means[1]), "n": len(found)}
