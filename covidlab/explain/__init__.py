"""Model and images → what the network looks at: feature spaces."""

from .features import features, pca, plot_features

__all__ = ["features", "pca", "plot_features"]
