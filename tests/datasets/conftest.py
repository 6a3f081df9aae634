"""Small files and datasets that the tests of this room share."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidlab.datasets import Card, Dataset


@pytest.fixture
def write_dicom():
    """A function that writes stored values as a DICOM file, tags as keywords."""

    def write(path, stored, **tags):
        from pydicom.dataset import Dataset as Tags
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

        stored = np.asarray(stored)
        bits = stored.dtype.itemsize * 8
        data = Tags()
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
        data.Modality = "CT"
        data.Rows, data.Columns = stored.shape[-2:]
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = bits
        data.HighBit = bits - 1
        data.PixelRepresentation = int(stored.dtype.kind == "i")
        data.PixelData = stored.tobytes()
        for name, value in tags.items():
            setattr(data, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def make_dataset(tmp_path):
    """A function that writes a sound dataset: 2 classes, 3 patients each, 2 images a patient."""

    def make(root=tmp_path / "sound", masks=True, **card):
        rng = np.random.default_rng(0)
        rows = []
        for label in ("NonCOVID", "COVID"):
            for patient in range(3):
                for k in range(2):
                    name = f"{label}_{patient}_{k}.png"
                    row = {
                        "image": f"images/{name}",
                        "label": label,
                        "patient_id": f"{label}{patient}",
                        "split": ("train", "val", "test")[patient],
                        "modality": "CT",
                    }
                    (root / "images").mkdir(parents=True, exist_ok=True)
                    pixels = rng.integers(0, 256, (12, 10), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / row["image"])
                    if masks:
                        for kind in ("lung", "infection"):
                            row[f"{kind}_mask"] = f"masks/{kind}/{name}"
                            (root / "masks" / kind).mkdir(parents=True, exist_ok=True)
                            mask = Image.fromarray(((pixels > 99) * 255).astype(np.uint8))
                            mask.save(root / row[f"{kind}_mask"])
                    content = (root / row["image"]).read_bytes()
                    row["sha256"] = hashlib.sha256(content).hexdigest()
                    rows.append(row)
        frame = pd.DataFrame(rows)
        frame.to_csv(root / "manifest.csv", index=False)
        given = {"classes": ("NonCOVID", "COVID"), "positive": "COVID", **card}
        return Dataset(frame, root, Card("sound", **given))

    return make
