"""The stages in which a network proposes and a person decides, with a person or a simulated one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from covidlab.datasets.manifest import Dataset
from covidlab.datasets.splits import Split

from .agreement import dice
from .log import DecisionLog, standing

ORDERS = ("given", "random", "least certain")
BY_HAND = "by hand"


@dataclass(frozen=True)
class Proposals:
    """What one or several networks outline in each image of a dataset.

    `masks`: name of the network → one (H, W) bool mask for each image, at its own size. `doubt`:
    (N,) mean entropy of the pixels in bits, 0 where every pixel is certain, over all networks.
    `models`: name → key of the run record.
    """

    dataset: Dataset
    masks: Mapping[str, Sequence[np.ndarray]] = field(repr=False)
    doubt: np.ndarray = field(repr=False)
    models: Mapping[str, str] = field(default_factory=dict)

    def of(self, i: int) -> dict[str, np.ndarray]:
        """The candidates for row `i`: name → mask."""
        return {name: masks[i] for name, masks in self.masks.items()}


def train(masked: Dataset, recipe, seed: int = 0, steps: int | None = None, valid: float = 0.2):
    """A segmenter trained on the masks there are, with its run record: stage I, and each retraining.

    Parameters
    ----------
    masked : such as `DecisionLog.masked` gives; a fifth of its patients chooses the epoch.
    steps : of the optimiser, at least; None leaves the recipe's epochs. A set that grows from
        round to round would otherwise be trained longer and longer.

    Raises ValueError for fewer than three patients.
    """
    from sklearn.model_selection import GroupShuffleSplit

    from covidlab import training

    if len(set(masked.patients)) < 3:
        raise ValueError(f"{len(set(masked.patients))} patients with masks: three are the least")
    halves = GroupShuffleSplit(1, test_size=valid, random_state=seed)
    rows, aside = next(halves.split(masked.frame, groups=masked.patients))
    none = Dataset(masked.frame.iloc[:0], masked.root, masked.card)
    how = f"random by patient, valid {valid:g}, seed {seed}; no test part"
    split = Split(masked.where(rows), masked.where(aside), none, how)
    if steps is not None:
        batches = max(1, len(rows) // min(recipe.batch_size, len(rows)))
        recipe = recipe.but(epochs=math.ceil(steps / batches))
    learn = training.learner(training.dataloaders(split, recipe, seed, progress=False))
    training.fit(learn, reuse=True, show_progress=False)
    return learn


def propose(learners, images: Dataset, region: int = 1) -> Proposals:
    """The masks that one learner, or several by name, outline in images that need none of their own.

    `region` is the class of the recipe that is asked for. Raises ValueError as `cascade.segment`.
    """
    from covidlab.cascade import _batches, _probabilities, segment
    from covidlab.imaging import resize_mask

    if not isinstance(learners, Mapping):
        learners = {learners.recipe.network: learners}
    masks, doubt = {}, np.zeros((len(learners), len(images)))
    for k, (name, learn) in enumerate(learners.items()):
        segment(learn, [], region)  # its checks
        masks[name] = []
        for some in _batches(map(images.image, range(len(images))), 2 * learn.recipe.batch_size):
            for image, chances in zip(some, _probabilities(learn, some), strict=True):
                found = chances.argmax(0) == region
                doubt[k, len(masks[name])] = _entropy(chances)
                masks[name].append(resize_mask(found, image.shape))
    models = {
        n: learn.record.folder.name for n, learn in learners.items() if hasattr(learn, "record")
    }
    return Proposals(images, masks, doubt.mean(0), models)


def queue(dataset: Dataset, order: str = "given", doubt=None, seed: int = 0, done: Collection = ()):
    """Names of the images that are next, without those that are `done`.

    `order`: as "given" in the manifest, at "random", or the "least certain" first, which needs
    `doubt`, one number an image (see `Proposals`).
    """
    if order not in ORDERS:
        raise ValueError(f"order={order!r} must be one of {', '.join(ORDERS)}")
    names = dataset.frame["image"].to_numpy(str)
    if order == "random":
        names = np.random.default_rng(seed).permutation(names)
    elif order == "least certain":
        if np.shape(doubt) != names.shape:
            raise ValueError(f"least certain: doubt must be one number for each of {len(names)}")
        names = names[np.argsort(-np.asarray(doubt), kind="stable")]
    return [str(name) for name in names if name not in done]


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Someone who knows the true masks, and decides and draws like a person.

    Parameters
    ----------
    truth : a Dataset whose `column` has the true masks.
    accept_from : accepts from this Dice with the truth on, else corrects.
    unsure_from : unsure from here to `accept_from`; None is never unsure.
    error_rate : share of images on which the decision is the wrong one: a bad mask is accepted, a
        good one drawn again.
    hand : how far the drawn outline strays from the true one, in pixels (standard deviation).
    excludes : names of images that are too poor to keep.
    seed : the same person decides and draws the same of an image, whenever it is asked.
    """

    name: str
    truth: Dataset = field(repr=False)
    column: str = "lung_mask"
    accept_from: float = 0.95
    unsure_from: float | None = None
    error_rate: float = 0.0
    hand: float = 0.0
    excludes: frozenset = frozenset()
    seed: int = 0

    def __post_init__(self):
        low = self.accept_from if self.unsure_from is None else self.unsure_from
        if not 0 <= low <= self.accept_from <= 1 or not 0 <= self.error_rate <= 1 or self.hand < 0:
            raise ValueError(
                f"0 ≤ unsure_from ({self.unsure_from}) ≤ accept_from ({self.accept_from}) ≤ 1, "
                f"0 ≤ error_rate ({self.error_rate}) ≤ 1 and hand ({self.hand}) ≥ 0 are needed"
            )

    def draw(self, image: str) -> np.ndarray:
        """(H, W) bool: the true mask, as this hand draws it."""
        row = np.flatnonzero(self.truth.frame["image"] == image)
        mask = self.truth.mask(int(row[0]), self.column) if len(row) else None
        if mask is None:
            raise KeyError(f"{self.name} knows no {self.column} of {image!r}")
        return _shaky(mask, self.hand, self._random(image, 1)) if self.hand else mask

    def decide(
        self, image: str, candidates: Mapping[str, np.ndarray], edit: bool = True
    ) -> tuple[str, str, np.ndarray | None]:
        """Decision, the candidate it is about (the best), and the mask that goes with it.

        Without `edit` a rejected image gets no mask (stage III).
        """
        if image in self.excludes:
            return "exclude", "", None
        true = self.draw(image)
        scores = {name: dice(mask, true) for name, mask in candidates.items()}
        best = max(scores, key=scores.get)
        good = scores[best] >= self.accept_from
        if self._random(image, 2).random() < self.error_rate:
            good = not good
        elif not good and self.unsure_from is not None and scores[best] >= self.unsure_from:
            return "unsure", best, candidates[best]
        if good:
            return "accept", best, candidates[best]
        return "reject", best if edit else "", true if edit else None

    def _random(self, image: str, use: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, use, zlib.crc32(f"{self.name}/{image}".encode())])


def draw(log: DecisionLog, annotator: SimulatedAnnotator, images: Iterable[str], stage: str = "I"):
    """Masks made from nothing, each written to the log as accepted, with every pixel changed."""
    for name in images:
        mask = annotator.draw(name)
        log.decide(name, "accept", mask, BY_HAND, stage, proposed=np.zeros_like(mask))


def review(
    log: DecisionLog,
    annotator: SimulatedAnnotator,
    proposals: Proposals,
    stage: str = "II",
    images: Collection[str] | None = None,
    edit: bool = True,
):
    """What the annotator says of each proposal (of `images`, by default all), written to the log."""
    for i, name in enumerate(proposals.dataset.frame["image"]):
        if images is not None and name not in images:
            continue
        candidates = proposals.of(i)
        decision, chosen, mask = annotator.decide(name, candidates, edit)
        shown = None if mask is None else candidates[chosen]
        log.decide(
            name, decision, mask, chosen, stage, proposals.models.get(chosen, ""), proposed=shown
        )


def effort(log: DecisionLog, stage: str | None = None) -> pd.Series:
    """What the decisions that stand have cost: how many there are, of which kind, and what was drawn.

    `drawn`: masks with a changed pixel, made from nothing or corrected; `pixels`: those changed.
    """
    made = [d for d in standing(log.lines()) if stage is None or d.stage == stage]
    count = {
        k: sum(d.decision == k for d in made) for k in ("accept", "reject", "unsure", "exclude")
    }
    drawn = [d.changed for d in made if d.changed]
    return pd.Series({"decisions": len(made), **count, "drawn": len(drawn), "pixels": sum(drawn)})


def favourite(log: DecisionLog, stage: str = "III") -> pd.Series:
    """How often each candidate was accepted, most often first: the first is the main network."""
    accepted = [d for d in standing(log.lines()) if d.stage == stage and d.decision == "accept"]
    return pd.Series([d.candidate for d in accepted], dtype=object).value_counts()


def collaborate(
    log: DecisionLog,
    annotator: SimulatedAnnotator,
    recipe,
    batches: Sequence[int],
    test: Dataset,
    proposing: bool = True,
    order: str = "random",
    expert: SimulatedAnnotator | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> pd.DataFrame:
    """Stages I and II without a person: draw some, train, and let the network propose the rest.

    Parameters
    ----------
    batches : images in each round; those of the first are drawn by hand.
    test : images with true masks that no round touches.
    proposing : False has every mask drawn by hand, which is what the loop is compared with.
    order : of the images, see `queue`; the first batch is random.
    expert : decides what the annotator was unsure about, where given.

    Returns one row a round, after its training: images decided so far, how many were accepted as
    proposed, `drawn` and changed `pixels` so far (see `effort`), and the mean Dice on `test`.
    Raises ValueError for more images than there are.
    """
    from covidlab import evaluation, training

    data, rows, learn = log.dataset, [], None
    if sum(batches) > len(data):
        raise ValueError(f"batches of {sum(batches)} images in all, but there are {len(data)}")
    for k, size in enumerate(batches):
        done = log.state()
        left = data.where(~data.frame["image"].isin(done).to_numpy())
        if k and proposing:
            ranked = order == "least certain"
            proposals = propose(learn, left) if ranked else None
            names = queue(left, order, proposals.doubt if ranked else None, seed)[:size]
            chosen = left.where(left.frame["image"].isin(names).to_numpy())
            proposals = propose(learn, chosen)
            review(log, annotator, proposals)
            unsure = [n for n, d in log.state().items() if d.decision == "unsure" and n in names]
            if expert is not None and unsure:
                review(DecisionLog(log.folder, data, expert.name), expert, proposals, images=unsure)
        else:
            draw(log, annotator, queue(left, "random", seed=seed)[:size])
        learn = train(log.masked(annotator.column), recipe, seed, steps)
        found = training.predict(learn, test)
        region = learn.recipe.regions[1]
        dices = evaluation.segmentation_metrics(found)
        cost, accepted = (
            effort(log),
            sum(d.changed == 0 and d.decision == "accept" for d in log.state().values()),
        )
        rows.append(
            {"round": k + 1, "images": len(log.state()), "accepted": accepted}
            | cost[["drawn", "pixels"]].to_dict()
            | {"dice": dices[f"image_dice / {region}"]}
        )
    return pd.DataFrame(rows).set_index("round")


def needed(curve: pd.DataFrame, target: float, column: str = "drawn") -> tuple[float, bool]:
    """How many masks a curve of `collaborate` had drawn when its Dice first reached `target`.

    Between two rounds by a straight line. The second answer is False where it never did: the number
    is then that of the last round, and more would have been needed.
    """
    drawn, dices = curve[column].to_numpy(float), curve["dice"].to_numpy(float)
    if dices[0] >= target:
        return float(drawn[0]), True
    for k in range(1, len(dices)):
        if dices[k] >= target:
            part = (target - dices[k - 1]) / (dices[k] - dices[k - 1])
            return float(drawn[k - 1] + part * (drawn[k] - drawn[k - 1])), True
    return float(drawn[-1]), False


def saved(loop: pd.DataFrame, hand: pd.DataFrame, pixels: float = 1.0) -> dict[str, float]:
    """What the loop saves over drawing every mask by hand, asked in three ways that need not agree.

    `loop` and `hand` are curves of `collaborate` over the same images with and without proposals,
    `pixels` those of a whole mask: masks until every X-ray has one; masks until the network by hand
    is as good as the loop's last; and the same in pixels drawn, in whole masks. `reached` is False
    where the hand never was as good: the last two are then too small. Negative: the loop cost more.
    """
    end = loop.iloc[-1]
    masks, reached = needed(hand, end["dice"])
    drawn, _ = needed(hand, end["dice"], "pixels")
    return {
        "masks, until every X-ray has one": float(hand["drawn"].iloc[-1] - end["drawn"]),
        "masks, until the network is as good": masks - float(end["drawn"]),
        "whole masks of pixels, until it is as good": (drawn - float(end["pixels"])) / pixels,
        "reached": reached,
    }


def _entropy(chances: np.ndarray) -> float:
    """Mean over the pixels of (C, H, W) probabilities, in bits."""
    p = np.clip(chances, 1e-12, 1)
    return float(-(p * np.log2(p)).sum(0).mean())


def _shaky(mask: np.ndarray, hand: float, rng: np.random.Generator) -> np.ndarray:
    """The outline moved in and out, smoothly along itself, by `hand` pixels (standard deviation)."""
    from scipy.ndimage import distance_transform_edt as distance
    from scipy.ndimage import gaussian_filter

    if not mask.any() or mask.all():
        return mask
    wobble = gaussian_filter(rng.normal(size=mask.shape), max(mask.shape) / 24, mode="wrap")
    outwards = distance(~mask) - distance(mask) + np.where(mask, 0.5, -0.5)
    return outwards < hand * wobble / wobble.std()
