"""What recurrence costs: training IRRCNN and NABLA-3 over the same arithmetic in plain convolutions.

The plain side has every convolution that the network computes for an image, recurrent ones once for
each step, with the same kernel, stride, channels and map size, and batch normalisation and ReLU
where the network has them; what the network pays on top are its sums, concatenations and pooling.
Both sides go forward and backward over batches of the same size, in turns in one run, on one thread
and in processor time; printed are medians, and of the ratios of each round the range too. The
promise is at most 1.3. The last column is over the convolutions alone, without normalisation.

    python benchmarks/models.py [--rounds 9] [--batch 8] [--full]
"""

import argparse
import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from covidlab.models.irrcnn import IRRCNN
from covidlab.models.nabla_n import WIDTHS, NablaN

QUARTER = tuple(w // 4 for w in WIDTHS)
LAPTOP = {
    "IRRCNN, width 32": (lambda: IRRCNN(3, 2, width=32), 64),
    "NABLA-3, width / 4": (lambda: NablaN(3, 2, widths=QUARTER), 96),
}
FULL = {
    "IRRCNN, width 112": (lambda: IRRCNN(3, 2), 64),
    "NABLA-3": (lambda: NablaN(3, 2), 96),
}


class Plain:
    """The convolutions a network computes of a batch, one by one, each with an input of its own."""

    def __init__(self, network, x):
        self.blocks, self.inputs, self.multiplications = [], [], 0
        kinds = {
            nn.Conv2d: self._convolution,
            nn.ConvTranspose2d: self._convolution,
            nn.BatchNorm2d: self._normalisation,
        }
        layers = [m for m in network.modules() if type(m) in kinds]
        hooks = [layer.register_forward_hook(kinds[type(layer)]) for layer in layers]
        with torch.no_grad():
            network(x)
        for hook in hooks:
            hook.remove()
        self.inputs[0].requires_grad_(False)  # nothing trains the images

    def _convolution(self, conv, inputs, output):
        x = torch.randn_like(inputs[0]).requires_grad_()
        self.blocks.append(nn.Sequential(conv))
        self.inputs.append(x)
        pixels = (output if isinstance(conv, nn.Conv2d) else x)[0, 0].numel()
        self.multiplications += conv.weight.numel() * pixels

    def _normalisation(self, norm, inputs, output):
        self.blocks[-1].extend([nn.BatchNorm2d(norm.num_features), nn.ReLU(inplace=True)])

    def step(self, alone=False):
        pairs = zip(self.blocks, self.inputs, strict=True)
        outputs = [block[0](x) if alone else block(x) for block, x in pairs]
        for block, x in zip(reversed(self.blocks), reversed(self.inputs), strict=True):
            y = outputs.pop()
            y.backward(y.detach())
            block.zero_grad()
            x.grad = None


def step(network, x, y):
    F.cross_entropy(network(x), y).backward()
    network.zero_grad()


def measure(name, make, size, batch, rounds):
    torch.manual_seed(0)
    network = make().to(memory_format=torch.channels_last)
    x = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        y = torch.zeros_like(network(x)[:, 0], dtype=torch.long)
    plain = Plain(network, x)
    sides = [lambda: step(network, x, y), plain.step, lambda: plain.step(alone=True)]
    seconds = np.empty((rounds + 1, len(sides)))
    for row in seconds:
        for i, side in enumerate(sides):
            begun = time.process_time()
            side()
            row[i] = time.process_time() - begun
    seconds = seconds[1:]  # the first round warms up
    ours, theirs, _ = 1000 * np.median(seconds, 0) / batch
    ratio, alone = (seconds[:, 0] / seconds[:, i] for i in (1, 2))
    print(
        f"| {name} | {size} | {plain.multiplications / 1e9:.2f} | {len(plain.blocks)} | {ours:.1f} "
        f"| {theirs:.1f} | {np.median(ratio):.2f} ({ratio.min():.2f}–{ratio.max():.2f}) "
        f"| {np.median(alone):.2f} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--full", action="store_true", help="also at the papers' widths")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | px | GMAC | convolutions | ms an image | plain | ratio | alone |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (make, size) in (LAPTOP | (FULL if args.full else {})).items():
        measure(name, make, size, args.batch, args.rounds)


if __name__ == "__main__":
    main()
