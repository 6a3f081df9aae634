"""Sets of phantom patients that mirror the data of the five papers, and one of our own.

What a paper does not say was chosen by us: patients behind images (only Garg counts them), the
mix of PA and AP views (48 % AP in the copy of Cohen's collection that we could read), how often a
mark occurs, how many slices a patient has. Where class and source coincide in the paper's data
they do here: `strength=0` unties them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..sites import SITES, Site

_GOLDEN = 0.6180339887498949

# Sources as far as their pictures differ, beside the profiles of `SITES`.
SOURCES = SITES | {
    site.name: site
    for site in (
        # COVID-CT-MD is half as bright as COVIDx-CT once both are 0..255 (Garg, Section III.A.2).
        Site("COVIDx-CT"),
        Site("COVID-CT-MD", contrast=0.5, brightness=-0.25, noise=1.3),
        # Cohen's collection: web pages and PDF files, markers, some washed out (Ahmed, Figure 3).
        SITES["web"].but(name="Cohen", border=0.0, arrows=0.15, electrodes=0.3, tubes=0.2, ap=0.48),
        SITES["outpatient"].but(name="NIH and CheXpert", letters_share=0.8, ap=0.15),
        # Articles of 2003 and of 2012 to 2015 (Tahir, Section 3.1.1); the MERS images are worse.
        SITES["film"].but(name="articles on SARS", letters=("{panel}",), ap=0.5),
        SITES["film"].but(
            name="articles on MERS", letters=("{panel}",), ap=0.5, sharpness=-0.8, compression=0.5
        ),
        SITES["bedside"].but(name="BIMCV", tubes=0.3, electrodes=0.5, letters_share=0.6, ap=0.6),
        SITES["university"].but(name="RSNA and PadChest", ap=0.3),
    )
}


@dataclass(frozen=True)
class Preset:
    """What a set of phantom patients is made of.

    `classes`: label → (share of patients, {disease: share}). `modality`: "CT" or "X-ray".
    `slices`: of each patient (CT). `by_slice`: where above 0, the label is that of
    the slice, the first class where there is infection, the second where there is none, and this
    share is cut where there is. `mild`: median severity, where above 0 (its logarithm spread
    by 0.8), else as usual for the disease. `volume`: slices evenly through both
    lungs, with the column `infected`; else spread over the heights that show the infection.
    `sites`: label → source, tied with `strength` 0..1. `lungs`, `infections`: share of patients
    whose lung and infection masks come with the set (of infections, among the infected; the masks
    of the others are there, and empty). `patients`: how many in the `paper` and `fast` profile.
    """

    name: str
    classes: Mapping[str, tuple[float, Mapping[str, float]]]
    modality: str = "CT"
    size: int = 192
    slices: int = 1
    by_slice: float = 0.0
    volume: bool = False
    mild: float = 0.0
    sites: Mapping[str, str] = field(default_factory=dict)
    strength: float = 0.0
    lungs: float = 1.0
    infections: float = 1.0
    patients: tuple[int, int] = (300, 120)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.classes)

    def shares(self, prevalence: float | None = None) -> np.ndarray:
        """Share of patients of each class; `prevalence` sets that of the first of two."""
        if prevalence is not None:
            return np.array([prevalence, 1.0 - prevalence])
        shares = np.array([share for share, _ in self.classes.values()])
        return shares / shares.sum()

    def label_of(self, k: int, prevalence: float | None = None) -> str:
        """Class of patient `k`.

        Steps of the golden ratio: every leading run of patients holds the classes in proportion,
        and the label of patient k does not depend on how many patients there are.
        """
        ends = np.cumsum(self.shares(prevalence))
        at = (0.5 * ends[0] + k * _GOLDEN) % 1.0
        return self.labels[int(min(np.searchsorted(ends, at, side="right"), len(ends) - 1))]

    def disease_of(self, label: str, rng: np.random.Generator) -> str:
        """A disease of this class, drawn by its share."""
        names, shares = zip(*self.classes[label][1].items(), strict=True)
        return str(rng.choice(names, p=np.array(shares) / sum(shares)))


def _one(disease, share):
    return share, {disease: 1.0}


PRESETS = {
    p.name: p
    for p in (
        Preset(
            "phantom-ct",
            {"COVID": _one("COVID-19", 0.5), "NonCOVID": _one("normal", 0.5)},
            slices=6, patients=(300, 200),
        ),
        # Khan 4.1: 370 slices with infection, 459 without; all of infected patients (nine volumes
        # of the Italian society's set, as we read it); every slice has its mask.
        Preset(
            "phantom-sirm",
            {"Infected": _one("COVID-19", 1.0), "Healthy": (0.0, {"COVID-19": 1.0})},
            size=304, slices=12, by_slice=0.446, mild=0.05, patients=(69, 50),
        ),
        # Alom 4.2: 3,875 pneumonia and 1,341 normal of one source; COVID-19 of many, its number
        # not said (we take that of normal); lung masks of other X-rays; no infection masks.
        Preset(
            "phantom-alom-cxr",
            {
                "COVID-19": _one("COVID-19", 0.205),
                "Pneumonia": (0.59, {"CAP": 2.0, "viral": 1.0}),
                "Normal": _one("normal", 0.205),
            },
            modality="X-ray", size=192, infections=0.0, patients=(1000, 160),
            sites={"COVID-19": "web", "Pneumonia": "university", "Normal": "university"},
            strength=1.0,
        ),
        # Alom 4.2: 178 COVID-19, 247 normal "from different sources"; lung masks of others.
        Preset(
            "phantom-alom-ct",
            {"COVID-19": _one("COVID-19", 0.42), "Normal": _one("normal", 0.58)},
            slices=1, infections=0.0, patients=(425, 200),
            sites={"COVID-19": "reference", "Normal": "university"}, strength=0.5,
        ),
        # Garg II: 171 COVID-19, 60 community-acquired pneumonia, 76 normal; a second source.
        Preset(
            "phantom-spgc",
            {
                "COVID-19": _one("COVID-19", 171),
                "CAP": _one("CAP", 60),
                "Normal": _one("normal", 76),
            },
            size=224, slices=50, volume=True, lungs=0.0, infections=0.0, patients=(307, 60),
            sites={"COVID-19": "COVID-CT-MD", "CAP": "COVIDx-CT", "Normal": "COVIDx-CT"},
        ),
        # Ahmed 3.1, Table 2: the class is the source. Lung masks come from other X-rays.
        Preset(
            "phantom-cohen-nih",
            {"COVID-19": _one("COVID-19", 410), "Non-COVID": _one("normal", 500)},
            modality="X-ray", size=512, infections=0.0, patients=(910, 120),
            sites={"COVID-19": "Cohen", "Non-COVID": "NIH and CheXpert"}, strength=1.0,
        ),
        # Tahir 3.1.1, Table 1: each virus from its own kind of source; lung masks of all.
        Preset(
            "phantom-covid-family",
            {
                "COVID-19": _one("COVID-19", 423),
                "MERS": _one("MERS", 144),
                "SARS": _one("SARS", 134),
            },
            modality="X-ray", size=256, infections=0.0, patients=(701, 150), strength=1.0,
            sites={
                "COVID-19": "university", "MERS": "articles on MERS", "SARS": "articles on SARS",
            },
        ),
        # Tahir 3.1.1, Table 2: 11,956, 11,263 and 10,701; infection masks for 2,913 COVID-19.
        Preset(
            "phantom-covid-qu",
            {
                "COVID-19": _one("COVID-19", 11956),
                "Non-COVID": (11263, {"CAP": 0.6, "viral": 0.4}),
                "Normal": _one("normal", 10701),
            },
            modality="X-ray", size=256, infections=0.244, patients=(1000, 150), strength=1.0,
            sites={
                "COVID-19": "BIMCV", "Non-COVID": "RSNA and PadChest", "Normal": "RSNA and PadChest",
            },
        ),
    )
}  # fmt: skip
