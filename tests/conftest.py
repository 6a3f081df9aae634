"""Where tests read and write: environment variables, so that subprocesses inherit them."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A folder of real datasets beside the checkout, where there is one.
REAL = ROOT.parent / "shared" / "data"
if REAL.is_dir():
    os.environ.setdefault("COVIDLAB_DATA", str(REAL))

# pytest-xdist's workers inherit the folders of the session that started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _session = tempfile.mkdtemp(prefix="covidlab-tests-")
    atexit.register(shutil.rmtree, _session, ignore_errors=True)
    os.environ["COVIDLAB_CACHE"] = os.path.join(_session, "cache")
    os.environ["COVIDLAB_RUNS"] = os.path.join(_session, "runs")

# libgomp's spinning makes two threads many times slower once a third process wants a core.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
