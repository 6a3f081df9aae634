import pytest
from small import written

from covidlab.annotation import DecisionLog


@pytest.fixture
def data(tmp_path):
    return written(tmp_path / "set")


@pytest.fixture
def log(tmp_path, data):
    return DecisionLog(tmp_path / "log", data, "Ada")
