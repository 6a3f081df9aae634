"""Where images come from: a manifest, a folder and a card; readers, checks, splits, the phantom."""

from . import phantom
from .checks import check, require
from .dicom import read_volume, write_dicom
from .figures import pick, show_beside, show_images, show_planes, show_radiographs, show_slice
from .importers import LAYOUTS, import_dataset
from .manifest import Card, Dataset, DatasetError, Problem, read_manifest
from .readers import ImageError, read_hu, read_image, read_mask
from .sites import SITES, Site, assign, association
from .sources import catalogue, fetch, find, from_csv, from_folder, load
from .splits import LeakageWarning, Split, has_official, kfold, official, split

__all__ = [
    "Card",
    "Dataset",
    "DatasetError",
    "ImageError",
    "LAYOUTS",
    "LeakageWarning",
    "Problem",
    "SITES",
    "Site",
    "Split",
    "assign",
    "association",
    "catalogue",
    "check",
    "fetch",
    "find",
    "from_csv",
    "from_folder",
    "has_official",
    "import_dataset",
    "kfold",
    "load",
    "official",
    "phantom",
    "pick",
    "read_hu",
    "read_image",
    "read_manifest",
    "read_mask",
    "read_volume",
    "require",
    "show_beside",
    "show_images",
    "show_planes",
    "show_radiographs",
    "show_slice",
    "split",
    "write_dicom",
]
