"""What a network has made of each image: the features it decides by, and a plane to see them in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidlab._figures import palette, subplots
from covidlab.datasets.manifest import Dataset


def features(learn, dataset: Dataset, layer=None) -> np.ndarray:
    """(N, D) float32: what goes into the last fully connected layer, for each image in its order.

    `layer` takes another module's output instead (averaged over the image where it is a map).
    `learn` is a fastai Learner from `training.learner`.

    Raises ValueError when the network has no fully connected layer and `layer` is not given.
    """
    import torch

    from covidlab.training.loaders import loader_for

    seen = []
    if layer is None:
        linear = [m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)]
        if not linear:
            name = type(learn.model).__name__
            raise ValueError(f"{name} has no fully connected layer: say which `layer` to look at")
        handle = linear[-1].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    else:
        handle = layer.register_forward_hook(lambda m, inputs, output: seen.append(output))
    learn.model.eval()
    try:
        with torch.inference_mode():
            for x, _ in loader_for(learn.dls, dataset):
                learn.model(x)
                seen[-1] = _flat(seen[-1]).float().cpu()
    finally:
        handle.remove()
    return torch.cat(seen).numpy()


def pca(features: np.ndarray, n: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Principal components: (N, n) coordinates and the (n,) share of the variance each explains."""
    from sklearn.decomposition import PCA

    if len(features) < n:
        raise ValueError(f"{len(features)} images are too few for {n} components")
    model = PCA(n, random_state=0)
    return model.fit_transform(features), model.explained_variance_ratio_


def plot_features(points: np.ndarray, frame: pd.DataFrame, by: str = "label", share=None, ax=None):
    """A feature space in the plane, one dot per image coloured by a manifest column; the Figure.

    A column of numbers (a severity) is coloured along a scale, any other by its values in
    alphabetical order. `share` (of the variance, from `pca`) goes into the axis names.
    """
    import seaborn as sns

    if by not in frame:
        raise KeyError(f"no column {by!r} to colour by: there are {', '.join(frame.columns)}")
    if len(points) != len(frame):
        raise ValueError(f"{len(points)} points but {len(frame)} rows")
    figure, ax = subplots(ax=ax, figsize=(4.8, 4))
    data = frame.assign(_x=points[:, 0], _y=points[:, 1])
    if pd.api.types.is_numeric_dtype(data[by]):
        shown = {"palette": "viridis"}
    else:
        order = sorted(data[by].unique())
        shown = {"palette": palette(order), "style": by, "hue_order": order, "style_order": order}
    sns.scatterplot(data, x="_x", y="_y", hue=by, s=22, alpha=0.8, ax=ax, **shown)
    names = ["first", "second"]
    if share is not None:
        names = [f"{n} component ({s:.0%} of variance)" for n, s in zip(names, share, strict=False)]
    else:
        names = [f"{n} coordinate" for n in names]
    ax.set(xlabel=names[0], ylabel=names[1], xticks=[], yticks=[])
    ax.legend(title=by, loc="best", fontsize=8)
    return figure


def _flat(x):
    return x.flatten(2).mean(2) if x.ndim > 2 else x
