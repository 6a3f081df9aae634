"""What the tests of the phantom share: healthy people, and a way to point into a picture."""

import hashlib

import numpy as np
import pytest

from covidlab.datasets.phantom import patient


@pytest.fixture(scope="session")
def healthy():
    """Thirty people without disease and with few everyday findings."""
    return [patient(k, 13, disease="normal", difficulty=0.0) for k in range(30)]


@pytest.fixture(scope="session")
def scan():
    """One of them as a volume without noise: (patient, volume, x and y of its columns and rows)."""
    who = patient(1, 13, disease="normal", difficulty=0.0)
    who.body.table = np.inf  # the table is no part of the body
    volume = who.volume(96, 2.5, noise=0.0, blur=0.0)
    grid = (np.arange(96) + 0.5) * who.fov / 96 - who.fov / 2
    return who, volume, grid + who.body.shift[0], grid + who.body.shift[1]


@pytest.fixture(scope="session")
def bytes_of():
    """A function that gives the digest of each file under a folder."""

    def digests(folder):
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    return digests
