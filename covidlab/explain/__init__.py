"""Model and images → what the network looks at: maps, whether to believe them, feature spaces."""

from .faithfulness import (
    Faithfulness,
    forgetting,
    insertion_deletion,
    randomisation_check,
    similarity,
)
from .feature_space import (
    continuity,
    embed,
    features,
    neighbours,
    pca,
    plot_features,
    trustworthiness,
)
from .maps import METHODS, heat_share, layers, overlay, pointing_game, saliency, show_maps

__all__ = [
    "METHODS",
    "Faithfulness",
    "continuity",
    "embed",
    "features",
    "forgetting",
    "heat_share",
    "insertion_deletion",
    "layers",
    "neighbours",
    "overlay",
    "pca",
    "plot_features",
    "pointing_game",
    "randomisation_check",
    "saliency",
    "show_maps",
    "similarity",
    "trustworthiness",
]
