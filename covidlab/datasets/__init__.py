"""Where images come from: a manifest, a folder and a card; readers, checks, splits, the phantom."""

from . import phantom
from .checks import check, require
from .dicom import read_volume, write_dicom
from .figures import pick, show_beside, show_images, show_planes, show_radiographs, show_slice
from .importers import LAYOUTS, import_dataset
from .manifest import Card, Dataset, DatasetError, Problem, read_manifest
from .masked import PARTS, keep_lungs
from .readers import ImageError, read_hu, read_image, read_mask
from .selection import combine, select
from .sites import SITES, Site, assign, association
from .sources import catalogue, fetch, find, from_csv, from_folder, load
from .splits import LeakageWarning, Split, has_official, kfold, official, split
from .written import from_arrays

__all__ = [
    "Card",
    "Dataset",
    "DatasetError",
    "ImageError",
    "LAYOUTS",
    "LeakageWarning",
    "PARTS",
    "Problem",
    "SITES",
    "Site",
    "Split",
    "assign",
    "association",
    "catalogue",
    "check",
    "combine",
    "fetch",
    "find",
    "from_arrays",
    "from_csv",
    "from_folder",
    "has_official",
    "import_dataset",
    "keep_lungs",
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
    "select",
    "show_beside",
    "show_images",
    "show_planes",
    "show_radiographs",
    "show_slice",
    "split",
    "write_dicom",
]
