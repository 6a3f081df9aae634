"""From the features of a patient's slices to the patient (Garg et al., Sections III.C.2 and 3)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class MaxPoolHead(nn.Module):
    """Garg's Maxpool: the maximum of each feature over a patient's slices, then two dense layers.

    Takes bags (N, T, n_features), patients padded to one length, and `lengths` (N,), how many
    slices of each are real (1..T); gives logits (N, n_classes). The order of the slices does not
    matter, what stands in the padding neither. 526,339 parameters for 1024 features,
    1,574,915 for 3072 (Maxpool-Weighted).
    """

    def __init__(self, n_features: int = 1024, n_classes: int = 3, hidden: int = 512):
        super().__init__()
        self.head = _dense(n_features, hidden, n_classes)

    def forward(self, bags, lengths):
        real = _real(bags, lengths)
        return self.head(bags.masked_fill(~real, -torch.inf).amax(1))


class BiLSTMHead(nn.Module):
    """Garg's BiLSTM: an LSTM along the slices in both directions, the mean of its outputs, two dense.

    Takes bags (N, T, n_features) whose slices are in order, padded at the end, and `lengths` (N,)
    as `MaxPoolHead`; gives logits (N, n_classes). The padding is never read: each patient's last
    step is its last slice, and the mean is over its own slices. 7,352,323 parameters for 1024
    features and 15,740,931 for 3072 (BiLSTM-Weighted); PyTorch's LSTM has two biases where Keras
    has one, 4,096 more.
    """

    def __init__(
        self, n_features: int = 1024, n_classes: int = 3, lstm: int = 512, hidden: int = 1024
    ):
        super().__init__()
        self.lstm = nn.LSTM(n_features, lstm, batch_first=True, bidirectional=True)
        self.head = _dense(2 * lstm, hidden, n_classes)

    def forward(self, bags, lengths):
        _real(bags, lengths)
        packed = pack_padded_sequence(bags, lengths.cpu(), batch_first=True, enforce_sorted=False)
        steps, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # 0 in the padding
        return self.head(steps.sum(1) / lengths[:, None])


def ensemble(n_classes: int = 3, n_heads: int = 4, hidden: int = 10) -> nn.Module:
    """Garg's ensemble: (N, n_heads · n_classes) probabilities, 12 → 10 → 3, to logits; 163 parameters."""
    return _dense(n_heads * n_classes, hidden, n_classes)


def weighted(features: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """(…, C · D): features (…, D) times the probability of each class (…, C), side by side.

    Garg et al., Section III.C.2: 3072 numbers of 1024 and three classes, "to make it easier for
    the model to distinguish between the infected and normal slices".
    """
    return (probabilities[..., :, None] * features[..., None, :]).flatten(-2)


def _dense(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, n_out))


def _real(bags, lengths):
    """(N, T, 1) bool: True for slices, False for padding. ValueError for a patient without slices."""
    if lengths.shape != bags.shape[:1]:
        raise ValueError(f"lengths {tuple(lengths.shape)} for bags {tuple(bags.shape)}: one each")
    if lengths.min() < 1 or lengths.max() > bags.shape[1]:
        raise ValueError(
            f"lengths from {int(lengths.min())} to {int(lengths.max())} must lie in 1.."
            f"{bags.shape[1]}: a patient without slices cannot be judged"
        )
    return (torch.arange(bags.shape[1], device=bags.device) < lengths[:, None])[..., None]
