"""Class activation maps: where in an image the evidence for a class lies, as a network has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from covidlab._figures import subplots
from covidlab.datasets.manifest import Dataset

METHODS = {  # how they are called; the papers are in the docstring of `saliency`
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "xgradcam": "XGrad-CAM",
    "hirescam": "HiRes-CAM",
    "layercam": "Layer-CAM",
    "eigencam": "Eigen-CAM",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
}
NORMALISATIONS = ("minmax", "max", "none")
WEIGHTINGS = ("softmax", "difference", "increase")

_BY_GRADIENT = {  # classes of pytorch_grad_cam
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
}


def saliency(
    model,
    images,
    method: str = "gradcam",
    layer=None,
    target=None,
    *,
    rows=None,
    region=None,
    weighting: str = "softmax",
    channels: int | None = None,
    relu: bool = True,
    normalise: str = "minmax",
    batch_size: int = 16,
    progress: bool = False,
) -> np.ndarray:
    """Class activation maps (N, H, W) float32 in [0, 1], at the size of the network's input.

    The network is evaluated in its own precision without mixed precision, in evaluation mode, and
    left as it was found.

    Parameters
    ----------
    model : a Learner from `training.learner`, or a network: a classifier (N, C, H, W) → (N,
        classes) or a segmenter → (N, classes, H, W) of logits.
    images : a Dataset or images in [0, 1], (N, H, W) or a list, which the Learner prepares and
        normalises by its recipe; or a tensor (N, C, H, W), fed to the network as it is.
    method : a key of `METHODS`. Grad-CAM (Selvaraju et al. 2017), Grad-CAM++ (Chattopadhyay et al.
        2018), XGrad-CAM (Fu et al. 2020), HiRes-CAM (Draelos and Carin 2020), Layer-CAM (Jiang et
        al. 2021) as in the package grad-cam; Eigen-CAM (Muhammad and Yeasin 2020), which knows no
        class, with the sign that makes the largest magnitude positive: principal components have
        none; Score-CAM (Wang et al. 2020); Ablation-CAM (Desai and Ramaswamy 2020), weighting by
        the drop of the score, not the drop over the score, which turns the map around where a
        logit is negative.
    layer : a module, its name ("layer4.1"), or None. None is for a classifier the last layer whose
        maps are larger than 1×1; for a segmenter the bottleneck, as Vinogradova et al. (2020) use:
        the smallest maps, of those the ones with most channels, of those the last. `layers` lists
        the choices. Near a network's smallest input the last layers shrink to 1×1, and an earlier
        one is taken.
    target : the class to explain, a number or (with a Learner) a name, one for all or one for each
        image; by default the predicted class, for a segmenter class 1, the first region. The score
        explained is the class's logit, for a segmenter its sum over `region`.
    rows : which images, as in `Dataset.where`; `target` and `region` belong to the chosen ones.
    region : for a segmenter, a bool mask (H, W) for each image; by default the pixels predicted as
        the class. Where there are none, the map is zero.
    weighting : what Score-CAM makes of f(X ∘ H_k), the score of the input under the k-th map,
        up-sampled and scaled to [0, 1]. "softmax" over the maps, as in the package. "difference"
        is equation (6) of Tahir's thesis, f(X ∘ H_k) − f(X): its baseline is the whole input, its
        f "the network output before SoftMax". Masking mostly takes evidence away: where all these
        weights are negative, the map is zero. "increase" is f(X ∘ H_k) − f(0) instead: the
        definition in Wang et al., whose baseline input we choose as zero. Masks multiply the input
        as the network is fed it: what is masked becomes the training mean, not black.
    channels : for Score-CAM and Ablation-CAM, which need a forward pass for each channel: only the
        so many channels with the largest sum of squares, others weigh nothing. None takes all.
    relu : keep positive evidence only, as all these methods do, before the map is up-sampled.
    normalise : "minmax" maps each map's lowest and highest value to 0 and 1, as the package does (a
        constant map becomes zero); "max" divides by the largest magnitude, so that zero stays no
        evidence; "none" leaves values in units of the score.
    batch_size : images, or masked copies of one, at a time.

    Raises
    ------
    ValueError : an unknown option, a class or layer the network has not, a layer without maps, or
        maps that are not finite; TypeError for images that are none of the above.
    """
    import torch

    _check_options(method, weighting, channels, normalise, batch_size)
    net, n, read = _opened(model, images, rows)
    classes, region = _classes(model, target, n), _regions(region, n)
    maps = []
    with _undisturbed(net), torch.inference_mode(False), _bar(n, progress, METHODS[method]) as bar:
        for start in range(0, n, batch_size):
            at = slice(start, min(start + batch_size, n))
            x = read(at)
            if start == 0:
                module = _module(net, layer, x)

            def ask(logits, at=at):
                return _question(logits, classes and classes[at], region and region[at])

            if method in _BY_GRADIENT:
                raw = _by_gradient(net, module, x, ask, method)
            else:
                passes = {"batch_size": batch_size, "progress": progress, "channels": channels}
                raw = _without_gradient(net, module, x, ask, method, weighting, **passes)
            maps.append(_finished(raw, x.shape[-2:], relu, normalise))
            bar.update(len(x))
    return np.concatenate(maps)


def layers(model, images=None) -> dict[str, tuple[int, int, int]]:
    """Layers that a map can be made at: {name: (channels, height, width)} in order of computation.

    Of modules that give the same tensor (a block and its last activation) the outermost is named;
    the others can be handed to `saliency` all the same. A Learner needs no `images`; a network
    takes a tensor (N, C, H, W), of which the first is used.
    """
    import torch

    if images is None:
        if isinstance(model, torch.nn.Module):
            raise TypeError("images: a network without a Learner needs a tensor (N, C, H, W)")
        recipe = model.dls.recipe
        images = torch.zeros(1, recipe.channels, recipe.size, recipe.size)
    net, _, read = _opened(model, images, None)
    return _layers(net, read(slice(0, 1)))[0]


def heat_share(maps, masks) -> np.ndarray:
    """(N,) share of each map's heat that lies inside its mask, in [0, 1]; NaN where there is none.

    The energy-based pointing game of Wang et al. 2020. Heat spread evenly gives the mask's share of
    the area: compare with that. Maps (N, h, w) are resized bilinearly to their masks (H, W) bool,
    which must show the same field of view; negative values count as zero. NaN where a mask is None
    or a map has no heat; an empty mask is a mask, and holds none.
    """
    shares = []
    for heat, mask in _pairs(maps, masks):
        heat = None if mask is None else np.maximum(heat, 0).astype(np.float64)
        whole = 0.0 if mask is None else heat.sum()
        shares.append(heat[mask].sum() / whole if whole > 0 else np.nan)
    return np.array(shares)


def pointing_game(maps, masks) -> np.ndarray:
    """(N,) 1 where a map's highest pixel lies inside its mask, 0 where not (Zhang et al. 2018).

    Where several pixels share the maximum, it is the share of them inside. No tolerance at the
    mask's border. Sizes as in `heat_share`; NaN where a mask is None or a map is constant.
    """
    hits = []
    for heat, mask in _pairs(maps, masks):
        if mask is None or heat.min() == heat.max():
            hits.append(np.nan)
        else:
            hits.append(mask[heat == heat.max()].mean())
    return np.array(hits)


def overlay(image, heat, cmap: str = "magma", opacity: float = 0.6) -> np.ndarray:
    """(H, W, 3) float32 RGB in [0, 1]: a grey image, and over it a map in colour.

    `image` (H, W) in [0, 1] keeps its greys; the map, in [0, 1] and resized to the image, is as
    opaque as it is hot, up to `opacity`, so that nothing is tinted where there is no heat.
    """
    from matplotlib import colormaps

    image = np.asarray(image, np.float32)
    if image.ndim != 2 or not (0 <= image.min() and image.max() <= 1):
        raise ValueError(f"image must be (H, W) in [0, 1], got shape {image.shape}")
    heat = np.clip(_resized(heat, image.shape), 0, 1)
    cover = (opacity * heat)[..., None]
    colour = colormaps[cmap](heat)[..., :3]
    return ((1 - cover) * image[..., None] + cover * colour).astype(np.float32)


def show_maps(
    images,
    maps: Mapping[str, Sequence],
    masks=None,
    titles: Sequence[str] | None = None,
    mask_name: str = "lung",
    cmap: str = "magma",
):
    """A row for each image: the image, then it under each map; the Figure.

    Parameters
    ----------
    images : (H, W) in [0, 1] each.
    maps : {name: (N, h, w) in [0, 1]}, such as one for each method.
    masks : (H, W) bool or None for each image: outlined, and over each map stands the share of its
        heat inside.
    titles : what to write over each image; `mask_name` is what the masks are of.
    """
    from matplotlib.cm import ScalarMappable

    n = len(images)
    for name, some in {**maps, "masks": masks, "titles": titles}.items():
        if some is not None and len(some) != n:
            raise ValueError(f"{name}: {len(some)} for {n} images")
    masks = [None] * n if masks is None else list(masks)
    columns = 1 + len(maps)
    figure, axes = subplots(n, columns, figsize=(2.1 * columns + 0.7, 2.4 * n), squeeze=False)
    shares = {name: heat_share(some, masks) for name, some in maps.items()}
    for i, line in enumerate(axes):
        image, mask = np.asarray(images[i], np.float32), masks[i]
        line[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        line[0].set_title(titles[i] if titles is not None else "image", fontsize=8)
        for ax, (name, some) in zip(line[1:], maps.items(), strict=True):
            ax.imshow(overlay(image, some[i], cmap))
            share = shares[name][i]
            told = "" if mask is None else f"\n{share:.0%} in {mask_name}"
            told = told if np.max(some[i]) > 0 else "\nno heat"
            ax.set_title(name + told, fontsize=8)
        for ax in line:
            ax.set_axis_off()
            _outline(ax, image, mask, mask_name)
    bar = figure.colorbar(ScalarMappable(cmap=cmap), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("evidence for the class: 1 is the most in each map", fontsize=8)
    return figure


def _outline(ax, image, mask, name):
    from covidlab.datasets.figures import MASK_COLOURS
    from covidlab.imaging import resize_mask

    if mask is None:
        return
    mask = resize_mask(mask, image.shape)
    if mask.any() and not mask.all():
        colour = MASK_COLOURS.get(f"{name}_mask", "#56b4e9")
        ax.contour(mask, levels=[0.5], colors=colour, linewidths=0.9)


def _pairs(maps, masks):
    """Each map at the size of its mask, and the mask as bool."""
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks: None stands for a missing mask")
    for heat, mask in zip(maps, masks, strict=True):
        mask = None if mask is None else np.asarray(mask, bool)
        yield (heat if mask is None else _resized(heat, mask.shape)), mask


def _resized(heat, shape) -> np.ndarray:
    from covidlab.imaging import resize

    return resize(heat, shape)


def _check_options(method, weighting, channels, normalise, batch_size):
    choices = {
        "method": (method, METHODS),
        "weighting": (weighting, WEIGHTINGS),
        "normalise": (normalise, NORMALISATIONS),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}")
    _at_least_one(channels=channels, batch_size=batch_size)


def _at_least_one(**numbers):
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1")


def _opened(model, images, rows):
    """The network, how many images there are, and a function that reads some as it is fed them."""
    import torch

    net = model if isinstance(model, torch.nn.Module) else model.model
    weights = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images: expected a tensor (N, C, H, W), got {tuple(images.shape)}")
        chosen = images if rows is None else images[torch.as_tensor(np.asarray(rows))]
        n, read = len(chosen), chosen.__getitem__
    elif net is model:
        raise TypeError(
            f"images: {type(images).__name__} needs a Learner to prepare it; a network takes a "
            "tensor (N, C, H, W)"
        )
    else:
        n, read = _prepared(model, images, rows)

    def fed(at):
        x = read(at).as_subclass(torch.Tensor).detach()
        return x.to(weights.device, weights.dtype)

    return net, n, fed


def _prepared(learn, images, rows):
    """How many images, and a function that reads some as the learner's validation part is read."""
    import torch
    from fastai.torch_core import to_device

    from covidlab.imaging import prepared
    from covidlab.training.loaders import GreyImage, loader_for

    valid, recipe = learn.dls.valid, learn.dls.recipe
    if isinstance(images, Dataset):
        loader = loader_for(learn.dls, images if rows is None else images.where(rows))

        def read(at):
            positions = np.arange(len(loader.dataset))[at]
            return loader.after_batch(to_device(loader.dataset.batch(positions), loader.device))[0]

        return len(loader.dataset), read

    chosen = range(len(images)) if rows is None else np.arange(len(images))[np.asarray(rows)]
    ready = []
    for i in chosen:
        image = np.asarray(images[i], np.float32)
        if image.ndim != 2 or not (0 <= image.min() and image.max() <= 1):
            raise ValueError(f"images[{i}] must be (H, W) in [0, 1], got shape {image.shape}")
        ready.append(prepared(image, recipe.enhance, recipe.size, recipe.fit))
    stack = torch.from_numpy(np.stack(ready))
    stack = stack if stack.ndim == 4 else stack[:, None].expand(-1, recipe.channels, -1, -1)
    return len(stack), lambda at: valid.after_batch((GreyImage(stack[at].to(valid.device)),))[0]


def _classes(model, target, n) -> list[int] | None:
    """The class asked about in each image, as a number; None for the network's own choice."""
    if target is None:
        return None
    alike = isinstance(target, str) or np.ndim(target) == 0
    targets = [target] * n if alike else list(target)
    if len(targets) != n:
        raise ValueError(f"target: {len(targets)} for {n} images")
    names = list(model.dls.vocab) if hasattr(model, "dls") else []
    for one in targets:
        if isinstance(one, str) and one not in names:
            raise ValueError(f"target={one!r} is none of the network's classes {names}")
    return [names.index(one) if isinstance(one, str) else int(one) for one in targets]


def _regions(region, n) -> list | None:
    if region is None:
        return None
    if len(region) != n or any(np.ndim(one) != 2 for one in region):
        raise ValueError(f"region: a mask (H, W) is needed for each of the {n} images")
    return list(region)


def _question(logits, classes=None, region=None):
    """The class asked about (N,), and for a segmenter the pixels (N, H, W), of these outputs."""
    import torch

    from covidlab.imaging import resize_mask

    if logits.ndim not in (2, 4):
        raise ValueError(f"the network gives {tuple(logits.shape)}: neither classes nor their maps")
    n_classes, segmenter = logits.shape[1], logits.ndim == 4
    if classes is not None:
        if wrong := [c for c in classes if not 0 <= c < n_classes]:
            raise ValueError(f"target={wrong[0]}: the network has the classes 0 … {n_classes - 1}")
        asked = torch.tensor(classes, device=logits.device)
    elif segmenter:
        asked = torch.full((len(logits),), min(1, n_classes - 1), device=logits.device)
    else:
        asked = logits.argmax(1)
    if not segmenter:
        if region is not None:
            raise ValueError("region: only a segmenter's classes have pixels")
        return asked, None
    if region is None:
        found = logits.argmax(1) if n_classes > 1 else (logits[:, 0] <= 0).long()
        return asked, found == asked[:, None, None]
    masks = np.stack([resize_mask(one, tuple(logits.shape[-2:])) for one in region])
    return asked, torch.from_numpy(masks).to(logits.device)


def _score(logits, classes, regions=None):
    """(N,) float32: the logit of a class, for a segmenter its sum over the region."""
    import torch

    picked = logits.float()[torch.arange(len(logits), device=logits.device), classes]
    return picked if regions is None else (picked * regions).sum((1, 2))


@contextmanager
def _undisturbed(net):
    """Inside, evaluation mode and frozen weights; afterwards all is as it was, come what may."""
    training = [(m, m.training) for m in net.modules()]
    learning = [(p, p.requires_grad) for p in net.parameters()]
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, was in training:
            module.training = was
        for parameter, was in learning:
            parameter.requires_grad_(was)


@contextmanager
def _watching(net, module, kind):
    """A CAM of the package with its hooks on `module`, which are off again afterwards.

    Not by its own `with`, which swallows an IndexError.
    """

    def copied(maps):  # a later layer may work in place; NumPy has no bfloat16
        if getattr(maps, "ndim", 0) != 4 or min(maps.shape[-2:]) < 2:
            found = tuple(getattr(maps, "shape", ())) or type(maps).__name__
            raise ValueError(f"layer: it gives {found}, no maps; `layers` lists those that do")
        return maps.float().clone()

    cam = kind(net, [module], reshape_transform=copied)
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()


def _last(seen: list):
    """A layer that is used twice counts as it was used last."""
    if not seen:
        raise ValueError("layer: the class's score does not depend on it; `layers` lists others")
    return seen[-1]


def _by_gradient(net, module, x, ask, method) -> np.ndarray:
    """(N, h, w): what the package's formula gives, before ReLU and scaling."""
    import pytorch_grad_cam
    import torch

    kind = getattr(pytorch_grad_cam, _BY_GRADIENT[method])
    with _watching(net, module, kind) as cam, torch.enable_grad():
        watch, leaf = cam.activations_and_grads, x.clone().requires_grad_()
        logits = watch(leaf.clone())
        score = _score(logits, *ask(logits.detach()))
        torch.autograd.grad(score.sum(), leaf)
        seen = [_last(some).numpy() for some in (watch.activations, watch.gradients)]
        return cam.get_cam_image(x, module, None, *seen, False)


def _without_gradient(net, module, x, ask, method, weighting, **passes) -> np.ndarray:
    """(N, h, w): the weighted sum of the maps, before ReLU and scaling."""
    import torch
    from pytorch_grad_cam.base_cam import BaseCAM

    with torch.inference_mode():
        with _watching(net, module, BaseCAM) as cam:
            logits = cam.activations_and_grads(x)
            maps = _last(cam.activations_and_grads.activations).to(x.device)
        if method == "eigencam":
            return torch.stack([_first_component(one) for one in maps]).cpu().numpy()
        classes, regions = ask(logits)
        out = []
        for i, own in enumerate(maps):
            at = slice(i, i + 1)
            asked = classes[at], None if regions is None else regions[at]

            def score(inputs, asked=asked):
                return _score(net(inputs), *asked)

            if method == "scorecam":
                weights, kept = _masked(x[at], own, score, weighting, **passes)
            else:
                weights, kept = _ablated(module, x[at], own, score, **passes)
            out.append((weights[:, None, None] * own[kept]).sum(0).float().cpu())
        return torch.stack(out).numpy()


def _masked(x, maps, score, weighting, channels, batch_size, progress):
    """Score-CAM: the weight of each map as a mask of the input, and which maps these are."""
    import torch
    from torch.nn.functional import interpolate

    kept, size, scores = _strongest(maps, channels), x.shape[-2:], []
    flat = maps[kept].flatten(1)
    varies = flat.amax(1) > flat.amin(1)
    for some in _chunks(kept[varies], batch_size, progress):
        masks = interpolate(maps[some][:, None], size, mode="bilinear", align_corners=True)
        low, high = masks.amin((2, 3), True), masks.amax((2, 3), True)
        masks = (masks - low) / (high - low).clamp_min(torch.finfo(masks.dtype).tiny)
        scores.append(score((x * masks).to(x.dtype)))
    if not varies.all():  # a map of one value, as of a dead channel, masks everything: asked once
        scores.append(score(torch.zeros_like(x)).expand(int((~varies).sum())))
    scores = torch.cat(scores)[torch.cat([varies.nonzero(), (~varies).nonzero()])[:, 0].argsort()]
    if weighting == "softmax":
        return scores.softmax(0), kept
    return scores - score(x if weighting == "difference" else torch.zeros_like(x)), kept


def _ablated(module, x, maps, score, channels, batch_size, progress):
    """Ablation-CAM: by how much the score drops without each map, and which maps these are."""
    import torch

    kept, drops, whole = _strongest(maps, channels), [], score(x)
    for some in _chunks(kept, batch_size, progress):

        def without(module, inputs, output, some=some):
            output = output.clone()
            output[torch.arange(len(some), device=some.device), some] = 0
            return output

        handle = module.register_forward_hook(without)
        try:
            drops.append(whole - score(x.expand(len(some), -1, -1, -1)))
        finally:
            handle.remove()
    return torch.cat(drops), kept


def _strongest(maps, channels):
    """Which channels to look at, in their order: those with the largest sum of squares."""
    energy = maps.square().sum((1, 2))
    return energy.topk(min(channels or len(maps), len(maps))).indices.sort().values


def _chunks(kept, batch_size, progress):
    from tqdm.auto import tqdm

    return tqdm(kept.split(batch_size), "channels", leave=False, disable=not progress)


def _bar(n, progress, what, unit="image"):
    from tqdm.auto import tqdm

    return tqdm(total=n, desc=what, unit=unit, disable=not progress)


def _first_component(maps):
    """(h, w): the pixels along their first principal component; no pixels × pixels matrix."""
    import torch

    points = maps.flatten(1).T
    points = points - points.mean(0)
    _, _, axes = torch.linalg.svd(points, full_matrices=False)
    along = (points @ axes[0]).reshape(maps.shape[1:])
    return -along if along.min().abs() > along.max().abs() else along


def _finished(raw, size, relu, normalise) -> np.ndarray:
    """(N, H, W) float32: positive, up-sampled bilinearly, scaled."""
    import torch
    from torch.nn.functional import interpolate

    maps = torch.as_tensor(np.asarray(raw, np.float32))
    if not maps.isfinite().all():
        raise ValueError("the maps are not finite: does the network give finite logits?")
    if relu:
        maps = maps.relu()
    maps = interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
    if normalise == "none":
        return maps.numpy()
    if normalise == "minmax":
        maps = maps - maps.amin((1, 2), keepdim=True)
    top = maps.abs().amax((1, 2), keepdim=True)
    return torch.where(top > 0, maps / top, torch.zeros_like(maps)).numpy()


def _module(net, layer, x):
    """The layer asked for, or the default for this network and input."""
    if layer is None:
        layer = _default_layer(net, x)
    if isinstance(layer, str):
        named = dict(net.named_modules())
        if layer not in named:
            some = ", ".join(list(_layers(net, x[:1])[0])[-8:])
            raise ValueError(f"layer={layer!r} is no layer of the network; its last ones: {some}")
        return named[layer]
    if all(layer is not m for m in net.modules()):
        raise ValueError("layer: the module handed in is not part of this network")
    return layer


def _default_layer(net, x) -> str:
    found, output, blocks = _layers(net, x[:1])
    # Not a branch of a block whose own maps are 1×1, nor timm's VGG's dense convolutions.
    aside = (*(f"{name}." for name in blocks), "pre_logits")
    found = {k: v for k, v in found.items() if not k.startswith(aside)}
    if not found:
        raise ValueError("layer: no layer of this network has maps larger than 1×1")
    if output.ndim == 2:
        return list(found)[-1]
    smallest = min(h * w for _, h, w in found.values())
    deepest = {k: c for k, (c, h, w) in found.items() if h * w == smallest}
    return [k for k, c in deepest.items() if c == max(deepest.values())][-1]


def _layers(net, x):
    """{name: (channels, height, width)} as `layers` says; what the network gives; blocks of 1×1."""
    import torch

    seen, handles = {}, []

    def look(name):
        def hook(module, inputs, output):
            seen.pop(name, None)
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                seen[name] = output

        return hook

    silent = (torch.nn.Identity, torch.nn.Dropout)
    try:
        for name, module in net.named_modules():
            if name and not isinstance(module, silent):
                handles.append(module.register_forward_hook(look(name)))
        with _undisturbed(net), torch.inference_mode():
            output = net(x)
    finally:
        for handle in handles:
            handle.remove()
    found, blocks, told = {}, [], set()
    for name, maps in reversed(seen.items()):
        same = (maps.data_ptr(), maps.shape)
        if min(maps.shape[-2:]) < 2:
            if not isinstance(net.get_submodule(name), torch.nn.Sequential):
                blocks.append(name)
        elif same not in told:
            found[name] = tuple(maps.shape[1:])
        told.add(same)
    return dict(reversed(found.items())), output, blocks
