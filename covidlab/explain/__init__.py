"""Model and images → what the network looks at: feature spaces."""

from .feature_space import features, pca, plot_features

__all__ = ["features", "pca", "plot_features"]
