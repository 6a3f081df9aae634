"""A world without network for the libraries that download weights."""

from urllib.error import URLError

import pytest


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import huggingface_hub.constants
    import torch.hub

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
