"""A dataset or a published table → can this be believed?"""

from .realism import (
    Profile,
    band_difference,
    body_region,
    distance_interval,
    distances,
    jensen_shannon,
    lung_air,
    plot_profiles,
    profile,
    radial_spectrum,
    spectral_distance,
    spectral_slope,
    wasserstein,
)

__all__ = [
    "Profile",
    "band_difference",
    "body_region",
    "distance_interval",
    "distances",
    "jensen_shannon",
    "lung_air",
    "plot_profiles",
    "profile",
    "radial_spectrum",
    "spectral_distance",
    "spectral_slope",
    "wasserstein",
]
