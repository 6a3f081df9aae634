"""What a network has made of each image: the features it decides by, and a plane to see them in."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pandas as pd

from covidlab._figures import palette, subplots
from covidlab.datasets.manifest import Dataset

METHODS = ("pca", "tsne", "umap")
# Numba's own thread pool, which UMAP falls back on, ends the process when two threads enter it.
_one_umap_at_a_time = threading.Lock()


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


def embed(
    features: np.ndarray,
    method: str = "pca",
    seed: int = 0,
    perplexity: float = 30.0,
    n_neighbours: int = 15,
    min_dist: float = 0.1,
    callback=None,
) -> np.ndarray:
    """(N, 2) float32: features laid out in a plane, the same for the same seed.

    "pca": the first two principal components. "tsne": scikit-learn's t-SNE (van der Maaten and
    Hinton, JMLR 2008) in its Barnes-Hut form; more than 50 features are first brought to 50
    principal components, as in that paper (it took 30). "umap": umap-learn (McInnes, Healy and
    Melville, arXiv:1802.03426) with the exact nearest neighbours instead of its approximate ones,
    which saves most of its compilation. Distances are Euclidean, between features as they are.

    Parameters
    ----------
    features : (N, D), N of 4 or more, D of 2 or more.
    perplexity : t-SNE's number of neighbours that count, more or less; 1..N - 1.
    n_neighbours : UMAP's, the image itself among them; 2..N - 1.
    min_dist : UMAP's least distance between points of the map; 0..1.
    callback : called with a text at each step; what it raises stops the run at the next step.

    Raises ValueError for features that hold NaN, or are the same for every image, and for
    arguments that do not suit their number.
    """
    features = _usable(features)
    _check_map(len(features), method, perplexity, n_neighbours, min_dist)
    tell = callback or (lambda text: None)
    if method == "pca":
        tell("principal components")
        points = pca(features)[0]
    elif method == "tsne":
        points = _tsne(features, seed, perplexity, tell)
    else:
        points = _umap(features, seed, n_neighbours, min_dist, tell)
    return np.ascontiguousarray(points, np.float32)


def trustworthiness(features, points, k: int = 10, limit: int = 1000, seed: int = 0) -> float:
    """How far neighbours on the map are neighbours among the features: 1 all, 0.5 as by chance.

    Points that are among the k nearest on the map but not among the features count the more, the
    further they are there (Venna and Kaski, ICANN 2001), in scikit-learn's implementation. Of more
    than `limit` images as many are drawn by `seed`, and compared among themselves: time and memory
    grow with the square of their number. Raises ValueError for k of half the images or more.
    """
    from sklearn import manifold

    features, points = _usable(features), np.asarray(points)
    if len(points) != len(features):
        raise ValueError(f"{len(points)} points but features of {len(features)} images")
    if len(features) > limit:
        some = np.random.default_rng(seed).choice(len(features), limit, replace=False)
        features, points = features[some], points[some]
    if not 1 <= k < len(features) / 2:
        raise ValueError(f"k={k} must be 1 or more and below half of the {len(features)} images")
    return float(manifold.trustworthiness(features, points, n_neighbors=k))


def continuity(features, points, k: int = 10, limit: int = 1000, seed: int = 0) -> float:
    """How far neighbours among the features have stayed neighbours on the map: 1 all of them.

    `trustworthiness` with the two spaces exchanged (Venna and Kaski, ICANN 2001).
    """
    return trustworthiness(points, features, k, limit, seed)


def neighbours(features: np.ndarray, row: int, k: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the k images nearest to `row` among all features, nearest first, and how far they are.

    Euclidean distance between the features as they are, not scaled: what `embed` goes by. The
    image itself is not among them; equally near ones come in their order. Raises ValueError for a
    row or a k that there is not.
    """
    features = np.asarray(features)
    n = len(features)
    if not 0 <= row < n:
        raise ValueError(f"row={row} must lie in 0..{n - 1}")
    if not 1 <= k < n:
        raise ValueError(f"k={k} must lie in 1..{n - 1}: {n} images have no more neighbours")
    far = np.linalg.norm(features - features[row], axis=1)
    near = np.argsort(far, kind="stable")
    near = near[near != row][:k]
    return near, far[near]


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


def _usable(features) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] < 2:
        raise ValueError(
            f"features have shape {features.shape}: (N, D) with D of 2 or more is needed, "
            "one row per image"
        )
    if len(features) < 4:
        raise ValueError(f"features of {len(features)} images are too few for a map: 4 are needed")
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        raise ValueError(
            f"features hold NaN or infinity in {len(bad)} rows, the first is {bad[0]}: did the "
            "training diverge? Look at its losses, or leave these rows out"
        )
    if (features == features[0]).all():
        raise ValueError(
            f"features are the same for all {len(features)} images, there is nothing to lay out: "
            "take another layer, or see whether the network was trained"
        )
    return features


def _check_map(n, method, perplexity, n_neighbours, min_dist):
    if method not in METHODS:
        raise ValueError(f"method={method!r} is none of {', '.join(METHODS)}")
    if method == "tsne" and not 1 <= perplexity < n:
        raise ValueError(
            f"perplexity={perplexity:g} must be 1 or more and below the number of images, {n}: "
            f"try {max(1, min(30, n // 4))}"
        )
    if method == "umap" and not 2 <= n_neighbours < n:
        raise ValueError(
            f"n_neighbours={n_neighbours} must be 2 or more and below the number of images, {n}: "
            f"try {max(2, min(15, n // 4))}"
        )
    if method == "umap" and not 0 <= min_dist <= 1:
        raise ValueError(f"min_dist={min_dist} must lie in 0..1: try 0.1")


def _tsne(features, seed, perplexity, tell):
    from sklearn.manifold import TSNE

    if features.shape[1] > 50:
        tell("principal components")
        features = pca(features, min(50, len(features)))[0]
    tell(f"t-SNE of {len(features):,} images")
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def _umap(features, seed, n_neighbours, min_dist, tell):
    from sklearn.neighbors import NearestNeighbors

    tell("nearest neighbours")
    found = NearestNeighbors(n_neighbors=n_neighbours).fit(features).kneighbors(features)
    tell(f"UMAP of {len(features):,} images (the first run also compiles it)")
    with _one_umap_at_a_time, warnings.catch_warnings():
        # umap has a variant that needs TensorFlow, and says so when it is not there
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        # neighbours without a search index cannot place new images; no one asks it to
        warnings.filterwarnings("ignore", r"precomputed_knn\[2\]")
        # groups without a link between them are laid out one by one, as they should be
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        from umap import UMAP

        model = UMAP(
            n_neighbors=n_neighbours,
            min_dist=min_dist,
            init="pca",
            random_state=seed,
            n_jobs=1,  # what a seed asks for; umap warns of any other
            precomputed_knn=found[::-1],
        )
        return model.fit_transform(features)


def _flat(x):
    return x.flatten(2).mean(2) if x.ndim > 2 else x
