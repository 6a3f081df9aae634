"""ImageNet weights: fetched or refused, never silently replaced by random ones."""

from __future__ import annotations

from contextlib import contextmanager

from torch import nn


@contextmanager
def fetching(weights: str):
    """Turns a failed download of `weights` into a RuntimeError that names them."""
    try:
        with _no_retries_offline():
            yield
    except OSError as error:  # huggingface_hub's LocalEntryNotFoundError and urllib's URLError
        raise RuntimeError(
            f"the ImageNet weights {weights} cannot be loaded ({type(error).__name__}): go online "
            "once so that they are cached, or set pretrained=False and call it from scratch"
        ) from error


@contextmanager
def _no_retries_offline():
    """Where the hub's name is unknown, its library reads the cache alone, not the net for a minute."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not (before or getproxies()):  # a proxy knows names that this machine does not
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def torchvision_state(weights, in_channels: int) -> dict:
    """The state of torchvision's `weights`, its first kernels summed over RGB for one channel.

    With the sum, a grey image gives what the same image thrice, as RGB, gives with the original.
    """
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels={in_channels}: ImageNet weights fit 1 or 3 channels")
    with fetching(f"torchvision {weights}"):
        state = weights.get_state_dict(progress=False, check_hash=True)
    first = next(iter(state))
    return state if in_channels == 3 else state | {first: state[first].sum(1, keepdim=True)}


def load_in_order(layers: nn.Module, state: dict) -> None:
    """Loads tensors by their order, for layers that are the same but named or shaped differently.

    A dense layer becomes the convolution that covers its whole input.
    """
    own = {k: v for k, v in layers.state_dict().items() if not k.endswith("num_batches_tracked")}
    values = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    pairs = zip(own.items(), values, strict=True)
    layers.load_state_dict({name: value.reshape(old.shape) for (name, old), value in pairs})
